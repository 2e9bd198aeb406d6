//! Nodes that share a secret, read from a file and replaced while they run, or a name.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::origin::Origin;
use crate::process::{Cluster, Process, STEADY, eventually};

const OLD: &str = "0123456789abcdef0123456789abcdef";
const NEW: &str = "fedcba9876543210fedcba9876543210";

/// A file with secrets, gone when dropped.
struct File(PathBuf);

impl File {
    fn new(name: &str) -> File {
        let file = format!("groupcache-{name}-{}", std::process::id());
        let file = File(std::env::temp_dir().join(file));
        file.write(OLD);
        file
    }

    fn write(&self, lines: &str) {
        fs::write(&self.0, lines).unwrap();
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn strangers_are_refused_and_the_secret_is_not_logged() {
    let file = File::new("strangers");
    let origin = Origin::start();
    let member = Process::start_with_log("trace", &origin, &["--secret-file", file.path()]);
    let stranger = Process::start(&origin, STEADY);
    let both = [&*member.url, &stranger.url];
    for node in [&member, &stranger] {
        assert_eq!(node.set_peers(&both).status, 200);
    }
    for number in 0..20 {
        let key = format!("k{number}");
        assert_eq!(stranger.get(&key).text(), format!("value of {key}"));
    }
    assert_eq!(stranger.put("k", "x").status, 207);
    assert_eq!(member.count("served"), 0);
    assert_eq!(member.count("removes"), 0);
    eventually("the member has refused it", || {
        member.count("refused_requests") >= 3
    });
    stranger.wait_for_log("it refuses this node: the request is not signed");
    member.get("k0");
    member.wait_for_log("requests are refused");
    assert!(!member.log().contains(OLD));
}

#[test]
fn a_node_of_another_cluster_in_the_list_is_asked_for_nothing() {
    let origin = Origin::start();
    let start = |name: &str| Process::start(&origin, &[STEADY, &["--cluster", name]].concat());
    let [production, staging] = ["production", "staging"].map(start);
    nothing_goes(&production, &staging);
}

#[test]
fn nodes_of_different_origins_are_no_cluster_unless_that_is_said() {
    let origins = [Origin::start(), Origin::start()];
    let [production, staging] = [0, 1].map(|at| Process::start(&origins[at], STEADY));
    nothing_goes(&production, &staging);
}

/// Though one has the other in its list.
fn nothing_goes(production: &Process, staging: &Process) {
    let both = [&*production.url, &staging.url];
    assert_eq!(production.set_peers(&both).status, 200);
    for number in 0..20 {
        let key = format!("k{number}");
        assert_eq!(production.get(&key).text(), format!("value of {key}"));
        assert_eq!(production.put(&key, "x").status, 207, "it was not told");
    }
    assert_eq!((staging.count("served"), staging.count("removes")), (0, 0));
    assert!(staging.count("misdirected_requests") >= 3);
    staging.wait_for_log("give the nodes of this cluster one name");
    production.wait_for_log("the node at this address is not the one that is meant");
}

#[cfg(unix)]
#[test]
fn a_secret_is_replaced_on_running_nodes_without_a_failed_get() {
    let origin = Origin::start();
    let file = File::new("rotation");
    let cluster = Cluster::start(
        3,
        &origin,
        &[STEADY, &["--secret-file", file.path()]].concat(),
    );
    let (done, gets) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for (number, node) in cluster.nodes().iter().enumerate() {
            let (done, gets) = (&done, &gets);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let key = format!("{number} {}", gets.fetch_add(1, Ordering::SeqCst));
                    let reply = node.get(&key);
                    assert_eq!(
                        (reply.status, reply.text()),
                        (200, &*format!("value of {key}"))
                    );
                    assert_eq!(node.delete(&key).status, 200);
                }
            });
        }
        for lines in [
            format!("{OLD}\n{NEW}\n"),
            format!("{NEW}\n{OLD}\n"),
            format!("{NEW}\n"),
        ] {
            file.write(&lines);
            for node in cluster.nodes() {
                let times =
                    |node: &Process| node.log().matches("the secret was read again").count();
                let before = times(node);
                node.signal("HUP");
                eventually("it is read again", || {
                    node.count("gets");
                    times(node) > before
                });
            }
            let before = gets.load(Ordering::SeqCst);
            eventually("there are gets meanwhile", || {
                cluster[0].count("gets");
                gets.load(Ordering::SeqCst) > before + 30
            });
        }
        done.store(true, Ordering::SeqCst);
    });
    assert_eq!(cluster.count("fetch_errors"), 0);
    assert_eq!(cluster.count("refused_requests"), 0);
    assert!(cluster.count("fetches") > 0);
    file.write("short");
    cluster[0].signal("HUP");
    cluster[0].wait_for_log("the old secret stays");
}
