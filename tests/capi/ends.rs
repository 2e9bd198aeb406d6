//! Scripts in Python that come to their end: none is aborted, whatever the threads of a node are doing
//! at that moment.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::{PATIENCE, built, outcome, repository};

/// How often each script is run: one that meets its end at a bad moment does so in most runs.
const RUNS: usize = 10;

const IMPORTS: &str = "
import sys, time
from groupcache import Node

def group(node, load=str.encode):
    return node.group('g', 1 << 20, load)

def slow(key):
    time.sleep(0.1)
    return key.encode()
";

/// Runs a script to its end, again and again; `code` is how it ends.
fn ends_with(code: i32, script: &str) {
    let Some(built) = built() else { return };
    for run in 0..RUNS {
        let mut python = Command::new("timeout");
        python
            .args([PATIENCE, "python3", "-c", &format!("{IMPORTS}{script}")])
            .env("PYTHONPATH", repository().join("examples/python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env(
                "GROUPCACHE_LIBRARY",
                built.folder.join("libgroupcache_sync.so"),
            );
        let output = outcome(&mut python);
        let said = String::from_utf8_lossy(&output.stderr);
        let signal = output.status.signal();
        assert_eq!(
            (output.status.code(), signal),
            (Some(code), None),
            "run {run} of {script}\n{said}"
        );
    }
}

#[test]
fn a_script_ends_with_its_node() {
    ends_with(
        0,
        "
with Node('http://127.0.0.1:1') as n, group(n) as g:
    assert g.get('a', timeout=1) == b'a'
",
    );
}

#[test]
fn a_script_that_exits_inside_ends_with_its_own_status() {
    ends_with(
        3,
        "
with Node('http://127.0.0.1:1') as n, group(n) as g:
    g.get('a', timeout=1)
    sys.exit(3)
",
    );
}

#[test]
fn a_script_that_fails_inside_ends_with_its_failure() {
    ends_with(
        1,
        "
with Node('http://127.0.0.1:1') as n, group(n) as g:
    g.get('a', timeout=1)
    raise KeyError('no idea')
",
    );
}

#[test]
fn what_a_script_leaves_open_is_closed() {
    ends_with(
        0,
        "
def work():
    node = Node('http://127.0.0.1:1')
    server = node.serve('127.0.0.1:0')
    group(node).get_many([str(number) for number in range(100)], timeout=1)

work()
",
    );
}

#[test]
fn a_node_may_be_closed_before_its_groups() {
    ends_with(
        0,
        "
node = Node('http://127.0.0.1:1')
g = group(node)
g.get('a', timeout=1)
assert node.close()
g.get('b', timeout=1)
g.close()
",
    );
}

#[test]
fn a_script_waits_for_a_loader_that_its_caller_did_not_wait_for() {
    ends_with(
        0,
        "
node = Node('http://127.0.0.1:1')
g = group(node, slow)
try:
    g.get('a', timeout=0.01)
except Exception:
    pass
g.close()
assert node.close(timeout=60)
",
    );
}
