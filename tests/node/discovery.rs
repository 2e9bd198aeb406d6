//! Nodes that find each other: by a real name server, and in a file.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::origin::Origin;
use crate::process::{Process, eventually, program};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let name = format!("groupcache-{name}-{}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Puts a file in the place of another one at once.
    fn replace(&self, name: &str, text: &str) {
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The addresses of those that a node has on its ring.
fn seen(node: &Process) -> Vec<String> {
    let stats = node.stats();
    let peers = stats["peers"].as_array().unwrap().iter();
    let mut seen: Vec<String> = peers
        .map(|peer| peer["address"].as_str().unwrap().to_owned())
        .collect();
    seen.sort();
    seen
}

fn shares(node: &Process) -> bool {
    node.stats()["is_absent"] == false
}

#[test]
fn nodes_follow_a_file() {
    let folder = Folder::new("file");
    let origin = Origin::start();
    folder.replace("peers", "# nobody knows yet\n");
    let source = format!("file:{}", folder.path("peers"));
    let args = ["--discover", &source, "--discover-interval-ms", "20"];
    let nodes: Vec<Process> = (0..3).map(|_| Process::start(&origin, &args)).collect();
    nodes[0].wait_for_log("the list is empty");
    let urls = |count: usize| {
        let mut urls: Vec<String> = nodes[..count].iter().map(|node| node.url.clone()).collect();
        urls.sort();
        urls
    };
    for count in [3, 2, 3] {
        folder.replace("peers", &urls(count).join("\n"));
        eventually("all have the list", || {
            nodes.iter().all(|node| seen(node) == urls(count))
        });
        assert_eq!(shares(&nodes[2]), count == 3);
        for number in 0..20 {
            let key = format!("of {count}, number {number}");
            for node in &nodes {
                assert_eq!(node.get(&key).text(), format!("value of {key}"));
            }
        }
    }
    folder.replace("peers", "http://a:1 malformed\n");
    nodes[0].wait_for_log("line 1");
    assert_eq!(seen(&nodes[0]), urls(3), "the last list stays");
    assert!(nodes[0].count("discovery_errors") > 0);
}

/// A name server that knows what its file of hosts says.
struct NameServer(Child);

impl NameServer {
    fn start(address: &str, folder: &Folder) -> NameServer {
        let child = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--no-resolv",
                "--no-hosts",
                "--conf-file=/dev/null",
            ])
            .args(["--bind-interfaces", "--user=root", "--pid-file="])
            .arg(format!("--listen-address={address}"))
            .arg(format!("--addn-hosts={}", folder.path("hosts")))
            .stderr(Stdio::null())
            .spawn();
        NameServer(child.unwrap())
    }

    fn read_again(&self) {
        let mut kill = Command::new("kill");
        kill.args(["-s", "HUP", &self.0.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that runs what follows with another name server.
const WITH_RESOLVER: &str = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;

fn with_resolver(resolv_conf: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", WITH_RESOLVER, resolv_conf]);
    command
}

fn can_run(mut command: Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn nodes_follow_a_name_server() {
    const SERVER: &str = "127.0.53.1";
    let folder = Folder::new("dns");
    folder.replace(
        "resolv.conf",
        &format!("nameserver {SERVER}\noptions timeout:1\n"),
    );
    let mut version = Command::new("dnsmasq");
    version.arg("--version");
    let mut nothing = with_resolver(&folder.path("resolv.conf"));
    nothing.arg("true");
    if !(can_run(version) && can_run(nothing)) {
        let is_required = std::env::var_os("GROUPCACHE_REQUIRE_DNS").is_some();
        assert!(!is_required, "dnsmasq and root are required");
        eprintln!("no dnsmasq, or no right to set another name server: not tried");
        return;
    }
    // The same port at three addresses.
    let port = TcpListener::bind("0.0.0.0:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let origin = Origin::start();
    let hosts = |ips: &[u8]| {
        let lines = ips.iter().map(|ip| format!("127.0.53.{ip} cache.test\n"));
        folder.replace("hosts", &lines.collect::<String>());
    };
    hosts(&[]);
    let server = NameServer::start(SERVER, &folder);
    let source = format!("dns:cache.test:{port}");
    let args = ["--discover", &source, "--discover-interval-ms", "50"];
    let start = |ip: u8| {
        let mut command = with_resolver(&folder.path("resolv.conf"));
        command.arg(program());
        let listen = format!("127.0.53.{ip}:{port}");
        Process::start_at(&listen, command, "info", &origin, &args)
    };
    let nodes = [start(10), start(11), start(12)];
    nodes[0].wait_for_log("cannot resolve cache.test");
    for ips in [&[10, 11, 12][..], &[10, 12], &[10, 11, 12]] {
        hosts(ips);
        server.read_again();
        let urls: Vec<String> = ips
            .iter()
            .map(|ip| format!("http://127.0.53.{ip}:{port}"))
            .collect();
        eventually("all have the list", || {
            nodes.iter().all(|node| seen(node) == urls)
        });
        assert_eq!(shares(&nodes[1]), ips.contains(&11));
        let key = format!("of {}", ips.len());
        for node in &nodes {
            assert_eq!(node.get(&key).text(), format!("value of {key}"));
        }
    }
    assert!(
        nodes[1]
            .log()
            .contains("it owns nothing and asks the others")
    );
}
