//! The three programs as one cluster, over real sockets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is all test code")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAMS: [&str; 3] = [
    env!("CARGO_BIN_EXE_built_in"),
    env!("CARGO_BIN_EXE_tiny_http"),
    env!("CARGO_BIN_EXE_rouille"),
];

/// A program that ends with its input.
struct Program(Child);

impl Program {
    fn start(program: &str, addresses: &[String]) -> Program {
        let mut child = Command::new(program)
            .args(addresses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = child.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(
            line,
            format!("http://{}/page/hello\n", addresses[0]),
            "{program}"
        );
        Program(child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let ended = self.0.wait().unwrap();
        assert!(ended.success() || std::thread::panicking(), "{ended}");
    }
}

/// The status and the body of an answer.
fn ask(address: &str, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         X-Groupcache: v=1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

fn get(address: &str, path: &str) -> (u16, String) {
    ask(address, "GET", path, b"")
}

/// Sets a page as a peer does: at its owner, and then away with what the others have.
fn set(addresses: &[String], owner: &str, name: &str, page: &str) {
    let path = format!("/_groupcache/pages/{}", name.replace('%', "%25"));
    let mut message = Vec::new();
    for (tag, field) in [(0x0a, "pages"), (0x12, name), (0x1a, page)] {
        message.extend([tag, u8::try_from(field.len()).unwrap()]);
        message.extend(field.as_bytes());
    }
    assert_eq!(ask(owner, "PUT", &path, &message).0, 200, "{owner}");
    for other in addresses.iter().filter(|other| *other != owner) {
        assert_eq!(ask(other, "DELETE", &path, b"").0, 200, "{other}");
    }
}

/// Free ports, one for each program.
fn addresses() -> Vec<String> {
    let free: Vec<_> = PROGRAMS
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .into();
    free.iter()
        .map(|free| free.local_addr().unwrap().to_string())
        .collect()
}

#[test]
fn they_are_one_cache_and_each_is_an_application_of_its_own() {
    let addresses = addresses();
    let programs: Vec<Program> = (0..PROGRAMS.len())
        .map(|at| {
            let mut list = addresses.clone();
            list.rotate_left(at); // its own first
            Program::start(PROGRAMS[at], &list)
        })
        .collect();
    let mut loads_by = BTreeMap::new();
    for number in 0..60 {
        // Some with what a path must not be decoded or normalised for.
        let name = format!("{number}%2F..%20x");
        let path = format!("/page/{name}");
        let pages: Vec<_> = addresses
            .iter()
            .map(|address| get(address, &path))
            .collect();
        let (status, page) = &pages[0];
        assert_eq!(*status, 200);
        // One load for each key: a second one would have another number.
        assert!(pages.iter().all(|other| other == &pages[0]), "{pages:?}");
        let load = page.trim_end().strip_prefix(&format!("{name}, load "));
        let (load, maker) = load.unwrap().split_once(" at ").unwrap();
        let loads = loads_by.entry(maker.to_owned()).or_insert(0);
        assert_eq!(load, loads.to_string(), "{page}");
        *loads += 1;
        set(&addresses, maker, &name, "new");
        for address in &addresses {
            assert_eq!(get(address, &path), (200, "new".to_owned()), "{address}");
        }
    }
    assert!(loads_by.keys().eq(&BTreeSet::from_iter(addresses.clone())));
    for address in &addresses {
        assert_eq!(get(address, "/elsewhere").0, 404, "{address}");
        assert_eq!(get(address, "/_groupcache/none/key").0, 404, "{address}");
        assert_eq!(get(address, "/_groupcache/").0, 200, "{address}");
    }
    drop(programs);
}
