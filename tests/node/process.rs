//! Real processes of the `node` example, and what a client does with them.

use std::io::{BufRead, BufReader, Read};
use std::ops::Index;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel::{self, Receiver, RecvTimeoutError};
use parking_lot::{Condvar, Mutex};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http;

use crate::origin::Origin;

/// After how long a test gives up on what must happen at once: it is never waited for in vain
/// unless something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Nothing is mirrored, and a busy machine makes no peer look dead.
pub(crate) const STEADY: &[&str] = &[
    "--hot-bytes",
    "0",
    "--connect-timeout-ms",
    "20000",
    "--fetch-timeout-ms",
    "20000",
];

/// An example. `cargo test` builds it; where only this test is built, it may be absent or old.
pub(crate) fn example(name: &str) -> PathBuf {
    built(&format!("examples/{name}"), &format!("--example {name}"))
}

/// A program beside this test in the target folder.
fn built(path: &str, by: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    // target/<profile>/deps/<this test>
    let profile = test.ancestors().nth(2).unwrap();
    let program = profile.join(path);
    let program = program.with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        program.exists(),
        "{} is missing: run `cargo build {by}` first, with the same profile",
        program.display()
    );
    program
}

/// The program under test: the `node` example, or the same with jemalloc.
pub(crate) fn program() -> PathBuf {
    match gives_memory_back() {
        true => built("node-jemalloc", "-p node-jemalloc"),
        false => example("node"),
    }
}

/// Whether the program under test gives memory back that it has freed: `GROUPCACHE_JEMALLOC` is set.
pub(crate) fn gives_memory_back() -> bool {
    std::env::var_os("GROUPCACHE_JEMALLOC").is_some()
}

/// Runs the program until it ends by itself.
pub(crate) fn run(args: &[&str]) -> Output {
    Command::new(program())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Asks until `condition` holds. Each question is a request, so this does not spin.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
    }
}

/// An answer of the front.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// `X-Cache`.
    pub(crate) source: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A running node. Killed and reaped when dropped.
pub(crate) struct Process {
    child: Child,
    /// `http://` and the front address.
    pub(crate) front: String,
    /// `http://` or `https://` and the listen address: its name as a peer.
    pub(crate) url: String,
    agent: ureq::Agent,
    log: Arc<Log>,
    /// Brings nothing after the ready line, and is closed when the process is gone.
    lines: Receiver<String>,
    readers: Vec<JoinHandle<()>>,
}

/// What the process says on stderr.
#[derive(Default)]
struct Log {
    text: Mutex<String>,
    grown: Condvar,
}

impl Process {
    /// Starts a node that is alone, on free ports, and waits until it serves.
    pub(crate) fn start(origin: &Origin, args: &[&str]) -> Process {
        Process::start_with_log("info", origin, args)
    }

    /// As [`start`](Process::start), and it logs all records of this level and worse.
    pub(crate) fn start_with_log(level: &str, origin: &Origin, args: &[&str]) -> Process {
        Process::start_by(Command::new(program()), level, origin, args)
    }

    /// As [`start`](Process::start), under a command that becomes the one behind it, as `env` does.
    pub(crate) fn start_under(wrapper: &[&str], origin: &Origin, args: &[&str]) -> Process {
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(program());
        Process::start_by(command, "info", origin, args)
    }

    fn start_by(command: Command, level: &str, origin: &Origin, args: &[&str]) -> Process {
        Process::start_at("127.0.0.1:0", command, level, origin, args)
    }

    /// As [`start_under`](Process::start_under), with this address for its peers. The arguments may
    /// name another one for clients.
    pub(crate) fn start_at(
        listen: &str,
        mut command: Command,
        level: &str,
        origin: &Origin,
        args: &[&str],
    ) -> Process {
        if !args.contains(&"--front") {
            command.args(["--front", "127.0.0.1:0"]);
        }
        let mut child = command
            .args(["--listen", listen])
            .args(["--origin", &origin.url()])
            .args(args)
            .env("RUST_LOG", level)
            // As OPERATIONS advises for glibc; jemalloc reads no such setting.
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let (sender, lines) = channel::unbounded();
        let log = Arc::new(Log::default());
        let writing = Arc::clone(&log);
        let readers = vec![
            thread::spawn(move || {
                // Reads on when nobody listens any more: a full pipe would stop the process.
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            }),
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    *writing.text.lock() += &(line + "\n");
                    writing.grown.notify_all();
                }
            }),
        ];
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(2 * PATIENCE))
            .output_buffer_size(64 << 10)
            .build();
        let mut process = Process {
            child,
            front: String::new(),
            url: String::new(),
            agent: config.new_agent(),
            log,
            lines,
            readers,
        };
        let ready = process.lines.recv_timeout(PATIENCE);
        let ready = ready.unwrap_or_else(|_| panic!("the node does not get ready"));
        let words: Vec<&str> = ready.split(' ').collect();
        let [word, front, listen] = words[..] else {
            panic!("not the ready line: {ready:?}");
        };
        assert_eq!(word, "ready");
        process.front = format!("http://{}", front.strip_prefix("front=").unwrap());
        let scheme = if args.contains(&"--tls-cert") {
            "https"
        } else {
            "http"
        };
        process.url = format!("{scheme}://{}", listen.strip_prefix("listen=").unwrap());
        process
    }

    /// Sends a request to the front. `path` goes out as it is.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let url = format!("{}{path}", self.front);
        let mut request = http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = if body.is_empty() && method != "PUT" && method != "POST" {
            self.agent.run(request.body(()).unwrap())
        } else {
            self.agent.run(request.body(body).unwrap())
        };
        let response = response.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let status = response.status().as_u16();
        let source = response.headers().get("x-cache");
        let source = source.map_or("", |source| source.to_str().unwrap());
        let source = source.to_owned();
        let mut body = Vec::new();
        let mut reader = response.into_body().into_reader();
        reader.read_to_end(&mut body).unwrap();
        Reply {
            status,
            source,
            body,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Reply {
        self.ask("GET", &path(key), &[], &[])
    }

    pub(crate) fn get_within(&self, key: &str, millis: u32) -> Reply {
        let headers = [("X-Timeout-Ms", &*millis.to_string())];
        self.ask("GET", &path(key), &headers, &[])
    }

    pub(crate) fn put(&self, key: &str, value: &str) -> Reply {
        self.ask("PUT", &path(key), &[], value.as_bytes())
    }

    pub(crate) fn delete(&self, key: &str) -> Reply {
        self.ask("DELETE", &path(key), &[], &[])
    }

    pub(crate) fn set_peers(&self, urls: &[&str]) -> Reply {
        self.ask("PUT", "/peers", &[], urls.join("\n").as_bytes())
    }

    pub(crate) fn stats(&self) -> serde_json::Value {
        let reply = self.ask("GET", "/stats", &[], &[]);
        assert_eq!(reply.status, 200);
        reply.json()
    }

    /// One of the counters.
    pub(crate) fn count(&self, counter: &str) -> u64 {
        let stats = self.stats();
        let count = stats[counter].as_u64();
        count.unwrap_or_else(|| panic!("no counter {counter}: {stats}"))
    }

    pub(crate) fn log(&self) -> String {
        self.log.text.lock().clone()
    }

    /// Waits until the log has `text`.
    pub(crate) fn wait_for_log(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        let mut log = self.log.text.lock();
        while !log.contains(text) {
            let timed_out = self.log.grown.wait_until(&mut log, end).timed_out();
            assert!(!timed_out, "the node never logs {text:?}");
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `TERM`.
    #[cfg(unix)]
    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args(["-s", name, &self.child.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    /// Waits until the process has ended by itself.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let end = self.lines.recv_timeout(PATIENCE);
        assert_eq!(end, Err(RecvTimeoutError::Disconnected));
        self.child.wait().unwrap()
    }

    /// Ends it without a warning, as a failing machine would.
    pub(crate) fn kill(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        if thread::panicking() {
            eprintln!("the log of {}:\n{}", self.url, self.log.text.lock());
        }
    }
}

/// The path of a key on the front.
pub(crate) fn path(key: &str) -> String {
    format!("/k/{}", utf8_percent_encode(key, NON_ALPHANUMERIC))
}

/// Nodes that know each other.
pub(crate) struct Cluster(Vec<Process>);

impl Cluster {
    pub(crate) fn start(nodes: usize, origin: &Origin, args: &[&str]) -> Cluster {
        let start = |_| Process::start(origin, args);
        let cluster = Cluster((0..nodes).map(start).collect());
        let urls: Vec<&str> = cluster.nodes().iter().map(|node| &*node.url).collect();
        for node in cluster.nodes() {
            let reply = node.set_peers(&urls);
            assert_eq!(reply.status, 200, "{reply:?}");
        }
        cluster
    }

    pub(crate) fn nodes(&self) -> &[Process] {
        &self.0
    }

    pub(crate) fn into_nodes(self) -> Vec<Process> {
        self.0
    }

    /// Kills a node.
    pub(crate) fn kill(&mut self, node: usize) {
        self.0[node].kill();
    }

    /// Who owns `key`, which no node has afterwards. All nodes must be alive, and nothing be
    /// mirrored.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let owns = |node: &Process| {
            let reply = node.get(key);
            assert_eq!(reply.status, 200, "{reply:?}");
            matches!(&*reply.source, "load" | "main")
        };
        let owner = self.nodes().iter().position(owns);
        assert_eq!(self[0].delete(key).status, 200);
        owner.unwrap_or_else(|| panic!("nobody owns {key}"))
    }

    /// The first of the keys `<prefix>0`, `<prefix>1`, … that `node` owns, and that no node has.
    pub(crate) fn key_of(&self, node: usize, prefix: &str) -> String {
        let mut keys = (0..1_000).map(|n| format!("{prefix}{n}"));
        let key = keys.find(|key| self.owner(key) == node);
        key.unwrap_or_else(|| panic!("node {node} owns nothing"))
    }

    /// The sum of a counter over all nodes.
    pub(crate) fn count(&self, counter: &str) -> u64 {
        self.nodes().iter().map(|node| node.count(counter)).sum()
    }
}

impl Index<usize> for Cluster {
    type Output = Process;

    fn index(&self, node: usize) -> &Process {
        &self.0[node]
    }
}
