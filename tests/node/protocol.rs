//! A client in another language, written from `docs/PROTOCOL.md` alone, asks a node.
//!
//! Without Python nothing is tested, and said so; with `GROUPCACHE_REQUIRE_PYTHON=1` that is a
//! failure.

use std::env;
use std::process::Command;

use crate::origin::Origin;
use crate::process::{Process, STEADY};

#[test]
fn a_client_in_python_gets_sets_and_removes() {
    ask_in_python(&["--cluster", "plain"], &["", "plain"]);
}

#[test]
fn a_client_in_python_signs_and_says_whom_it_means() {
    let secret = "0123456789abcdef0123456789abcdef";
    let file = format!("groupcache-python-{}", std::process::id());
    let file = env::temp_dir().join(file);
    std::fs::write(&file, secret).unwrap();
    let path = file.to_str().unwrap();
    let flags = ["--secret-file", path, "--cluster", "a=b;c"];
    ask_in_python(&flags, &[secret, "a=b;c"]);
    std::fs::remove_file(&file).unwrap();
}

/// Has the client try a node with these flags, given these arguments beside its address.
fn ask_in_python(flags: &[&str], arguments: &[&str]) {
    let origin = Origin::start();
    origin.answer("missing", 404, "", "");
    let node = Process::start(&origin, &[STEADY, flags].concat());
    let address = node.url.strip_prefix("http://").unwrap();
    run_in_python("client.py", &[&[address, "objects"], arguments].concat());
}

#[test]
fn owners_that_are_computed_in_python_are_those_of_the_page() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PROTOCOL.md");
    run_in_python("owners.py", &[page]);
}

/// Runs one of the programs that are written from PROTOCOL.md.
fn run_in_python(program: &str, arguments: &[&str]) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol");
    let run = Command::new("python3")
        .args(["-B", &format!("{folder}/{program}")])
        .args(arguments)
        .output();
    match run {
        Ok(run) => {
            let errors = String::from_utf8_lossy(&run.stderr);
            assert!(run.status.success(), "{errors}");
        }
        Err(reason) => {
            let is_required = env::var_os("GROUPCACHE_REQUIRE_PYTHON");
            let is_required = is_required.is_some_and(|set| !set.is_empty());
            assert!(!is_required, "there is no python3: {reason}");
            eprintln!("NOTICE: nothing in Python is tested here: {reason}");
        }
    }
}
