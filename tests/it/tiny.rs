//! The tiny_http engine, over real sockets.

// What only tests call may fail like a test.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use groupcache_sync::{Error, Group, LoadError, Node, TinyServer, Value, answer_tiny_http};

use crate::cluster::{Loads, eventually};

/// Only a hang takes so long.
const HANG: Duration = Duration::from_secs(20);

/// A client that does what it is told, and sees what came.
struct Client(BufReader<TcpStream>);

#[derive(Debug)]
struct Answer {
    version: String,
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Client {
    fn new(address: SocketAddr) -> Client {
        let stream = TcpStream::connect_timeout(&address, HANG).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        stream.set_write_timeout(Some(HANG)).unwrap();
        Client(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.send_bytes(text.as_bytes());
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    fn ask(&mut self, key: &str) {
        self.send(&format!(
            "GET /_groupcache/g/{key} HTTP/1.1\r\nHost: x\r\n\r\n"
        ));
    }

    /// The head of the next answer, without its body.
    fn head(&mut self) -> Answer {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let mut words = line.split(' ');
        let version = words.next().unwrap().to_owned();
        let status = words
            .next()
            .unwrap_or_else(|| panic!("no status: {line:?}"));
        let status = status.parse().unwrap();
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
                None => break,
            };
        }
        Answer {
            version,
            status,
            headers,
            body: Vec::new(),
        }
    }

    fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer.headers["content-length"].parse().unwrap();
        answer.body = vec![0; length];
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    fn get(&mut self, key: &str) -> Answer {
        self.ask(key);
        self.answer()
    }

    /// Whether the server closed the connection.
    fn is_at_end(&mut self) -> bool {
        self.0.fill_buf().unwrap().is_empty()
    }
}

impl Answer {
    fn says(&self, status: u16, bytes: &[u8]) -> bool {
        let held = self.body.windows(bytes.len().max(1));
        self.status == status && held.into_iter().any(|part| part == bytes)
    }
}

fn node() -> (Node, Group) {
    node_with(|key| Ok(Value::from(format!("value of {key}"))))
}

fn node_with(
    load: impl Fn(&str) -> Result<Value, LoadError> + Send + Sync + 'static,
) -> (Node, Group) {
    let node = Node::new("http://127.0.0.1:9").unwrap();
    let group = node.group_builder("g", 64 << 20).build(load).unwrap();
    (node, group)
}

/// A loader that says when it begins to load a key `slow...`, and waits until it may go on.
fn slow_node() -> (Node, Group, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (begin, has_begun) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let (node, group) = node_with(move |key| {
        if key.starts_with("slow") {
            begin.send(()).unwrap();
            // A test that failed does not go on.
            let _ = may_go.lock().unwrap().recv_timeout(HANG);
        }
        Ok(Value::from(format!("value of {key}")))
    });
    (node, group, has_begun, go)
}

fn serve(node: &Node) -> TinyServer {
    TinyServer::bind(node, "127.0.0.1:0").unwrap()
}

fn with_workers(node: &Node, workers: usize) -> TinyServer {
    let server = TinyServer::builder(node).workers(workers);
    server.bind("127.0.0.1:0").unwrap()
}

#[test]
fn a_burst_of_kept_connections_is_served() {
    let (node, _group) = node();
    let server = serve(&node);
    for round in 0..10 {
        let start = Instant::now();
        let mut clients: Vec<_> = (0..64).map(|_| Client::new(server.local_addr())).collect();
        for request in 0..2 {
            for client in &mut clients {
                client.ask("k");
            }
            for client in &mut clients {
                assert!(client.answer().says(200, b"value of k"));
            }
            println!("round {round}, request {request}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn a_connection_opened_early_is_served_late() {
    let (node, _group) = node();
    let server = serve(&node);
    // Silent ones hold the threads that the others are queued for.
    let mut clients: Vec<_> = (0..40).map(|_| Client::new(server.local_addr())).collect();
    for client in clients.iter_mut().rev() {
        assert!(client.get("k").says(200, b"value of k"));
    }
}

#[test]
fn answers_of_40_kib_are_not_delayed() {
    let value = vec![b'v'; 40 << 10];
    let loaded = value.clone();
    let (node, _group) = node_with(move |_| Ok(Value::from(loaded.clone())));
    let given = TcpListener::bind("127.0.0.1:0").unwrap();
    let given = TinyServer::from_listener(&node, given).unwrap();
    for server in [serve(&node), given] {
        let mut client = Client::new(server.local_addr());
        let mut times: Vec<Duration> = (0..30)
            .map(|_| {
                let start = Instant::now();
                assert!(client.get("k").says(200, &value));
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("median {:?}, longest {:?}", times[15], times[29]);
        assert!(times[15] < Duration::from_millis(30), "{times:?}");
    }
}

#[test]
fn a_huge_body_does_not_end_the_process() {
    let (node, _group) = node();
    let server = serve(&node);
    let lengths = [
        ("100000000000000", 413),
        ("18446744073709551615", 413),
        ("1000000000000000000000000000000", 400),
        ("+100000000000000", 413),
    ];
    for (length, status) in lengths {
        for method in ["GET", "PUT"] {
            let mut client = Client::new(server.local_addr());
            client.send(&format!(
                "{method} /_groupcache/g/k HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
            ));
            assert_eq!(client.head().status, status, "{method} {length}");
            drop(client);
            let answer = Client::new(server.local_addr()).get("k");
            assert!(answer.says(200, b"value of k"));
        }
    }
}

#[test]
fn a_body_over_the_limit_costs_nothing() {
    let node = Node::builder("http://127.0.0.1:9").unwrap();
    let node = node.max_value(10 << 10).build().unwrap();
    let server = serve(&node);
    let mut client = Client::new(server.local_addr());
    client.send("PUT /_groupcache/g/k HTTP/1.1\r\nHost: x\r\nX-Groupcache: v=1\r\nContent-Length: 2000000\r\n\r\n");
    client.send_bytes(&[b'x'; 2_000_000]);
    assert_eq!(client.answer().status, 413);
    assert_eq!(client.get("k").status, 404, "the connection can be used");
}

/// The body of a `PUT`, as the family writes it.
fn set_body(group: &str, key: &str, value: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let fields = [(1, group.as_bytes()), (2, key.as_bytes()), (3, value)];
    for (number, bytes) in fields {
        body.push(number << 3 | 2);
        let mut length = bytes.len();
        while length > 127 {
            body.push((length & 127) as u8 | 128);
            length >>= 7;
        }
        body.push(length as u8);
        body.extend_from_slice(bytes);
    }
    body
}

#[test]
fn a_put_of_100_kib_is_stored() {
    let (node, group) = node();
    let server = serve(&node);
    let value = vec![b'p'; 100 << 10];
    let body = set_body("g", "k", &value);
    let mut client = Client::new(server.local_addr());
    for expect in ["", "Expect: 100-continue\r\n"] {
        client.send(&format!(
            "PUT /_groupcache/g/k HTTP/1.1\r\nHost: x\r\nX-Groupcache: v=1\r\n{expect}Content-Length: {}\r\n\r\n",
            body.len()
        ));
        if !expect.is_empty() {
            assert_eq!(client.head().status, 100);
        }
        client.send_bytes(&body);
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(group.get("k").unwrap().as_bytes(), value);
    assert!(client.get("k").says(200, &value));
}

#[test]
fn a_put_that_breaks_off_stores_nothing() {
    let (node, group) = node();
    let server = serve(&node);
    let body = set_body("g", "k", &[b'p'; 100 << 10]);
    let mut client = Client::new(server.local_addr());
    client.send(&format!(
        "PUT /_groupcache/g/k HTTP/1.1\r\nHost: x\r\nX-Groupcache: v=1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send_bytes(&body[..50_000]);
    drop(client);
    assert!(server.shutdown(HANG), "it holds no worker");
    assert_eq!(group.get("k").unwrap().as_bytes(), b"value of k");
}

#[test]
fn what_is_wrong_is_said_and_the_connection_stays() {
    let (node, _group) = node();
    let server = serve(&node);
    let mut client = Client::new(server.local_addr());
    let wrong = [
        ("GET /_groupcache/other/k", 404),
        ("GET /elsewhere", 404),
        ("PATCH /_groupcache/g/k", 405),
        ("POST /_groupcache/g/k", 405),
        ("GET /_groupcache/g/%zz", 400),
        ("GET /_groupcache//k", 400),
        ("POST /_groupcache/g", 400),
        ("GET /_groupcache/", 200),
    ];
    for (line, status) in wrong {
        client.send(&format!(
            "{line} HTTP/1.1\r\nHost: x\r\nX-Groupcache: v=1\r\n\r\n"
        ));
        let answer = client.answer();
        assert_eq!(answer.status, status, "{line}");
        assert!(answer.headers.contains_key("x-groupcache"));
        assert!(!answer.headers.contains_key("connection"));
    }
    client.send("HEAD /_groupcache/ HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.head().status, 405);
    assert!(client.get("k").says(200, b"value of k"));
}

#[test]
fn bodies_that_could_be_misread_are_refused() {
    let (node, _group) = node();
    let server = serve(&node);
    let bad = [
        "PUT /_groupcache/g/k HTTP/1.1\r\nX-Groupcache: v=1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "GET /_groupcache/g/k HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi",
        "PUT /_groupcache/g/k HTTP/1.1\r\nX-Groupcache: v=1\r\nContent-Length: +2\r\n\r\nhi",
        "PUT /_groupcache/g/k HTTP/1.1\r\nX-Groupcache: v=1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        "PUT /_groupcache/g/k HTTP/1.1\r\nX-Groupcache: v=1\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nhi",
        "PUT /_groupcache/g/k HTTP/1.1\r\nX-Groupcache: v=1\r\nTransfer-Encoding: identity\r\n\r\n",
        "PUT /_groupcache/g/k HTTP/1.1\r\nX-Groupcache: v=1\r\nContent-Length: 2, 2\r\n\r\n",
    ];
    for request in bad {
        let mut client = Client::new(server.local_addr());
        client.send(request);
        if request.contains("identity") {
            // Nothing says where it ends.
            let write = std::net::Shutdown::Write;
            client.0.get_ref().shutdown(write).unwrap();
        }
        let answer = client.answer();
        assert_eq!(answer.status, 400, "{request}");
        assert_eq!(answer.headers["connection"], "close");
    }
    assert!(
        Client::new(server.local_addr())
            .get("k")
            .says(200, b"value of k")
    );
}

#[test]
fn old_and_closing_clients_are_told_what_happens() {
    let (node, _group) = node();
    let server = serve(&node);
    let cases = [
        ("1.0", "", Some("close")),
        ("1.0", "Connection: keep-alive\r\n", Some("keep-alive")),
        ("1.1", "", None),
        ("1.1", "Connection: close\r\n", Some("close")),
    ];
    for (version, header, told) in cases {
        let mut client = Client::new(server.local_addr());
        client.send(&format!(
            "GET /_groupcache/g/k HTTP/{version}\r\n{header}\r\n"
        ));
        let answer = client.answer();
        assert!(answer.says(200, b"value of k"));
        assert_eq!(answer.version, format!("HTTP/{version}"));
        assert_eq!(answer.headers.get("connection").map(String::as_str), told);
        match told {
            Some("close") => assert!(client.is_at_end()),
            _ => assert!(client.get("k").says(200, b"value of k")),
        }
    }
}

#[test]
fn a_slow_load_does_not_hold_the_only_worker() {
    let (node, _group, has_begun, go) = slow_node();
    let server = with_workers(&node, 1);
    let mut slow = Client::new(server.local_addr());
    slow.ask("slow");
    has_begun.recv_timeout(HANG).unwrap();
    let mut fast = Client::new(server.local_addr());
    for _ in 0..10 {
        assert!(fast.get("fast").says(200, b"value of fast"));
    }
    // The same load, asked for by one with less patience.
    fast.send("GET /_groupcache/g/slow HTTP/1.1\r\nX-Groupcache: v=1;w=30\r\n\r\n");
    let answer = fast.answer();
    assert_eq!(answer.status, 202);
    assert!(answer.headers["x-groupcache"].contains("s=loading"));
    go.send(()).unwrap();
    assert!(slow.answer().says(200, b"value of slow"));
    assert!(fast.get("slow").says(200, b"value of slow"));
}

#[test]
fn pipelined_requests_hold_no_worker_and_come_in_order() {
    let (node, _group, has_begun, go) = slow_node();
    let server = with_workers(&node, 2);
    let mut pipelining = Client::new(server.local_addr());
    let mut all = String::from("GET /_groupcache/g/slow HTTP/1.1\r\n\r\n");
    for number in 0..20 {
        all.push_str(&format!("GET /_groupcache/g/k{number} HTTP/1.1\r\n\r\n"));
    }
    pipelining.send(&all);
    has_begun.recv_timeout(HANG).unwrap();
    let mut other = Client::new(server.local_addr());
    for _ in 0..10 {
        assert!(other.get("fast").says(200, b"value of fast"));
    }
    go.send(()).unwrap();
    assert!(pipelining.answer().says(200, b"value of slow"));
    for number in 0..20 {
        let value = format!("value of k{number}");
        assert!(pipelining.answer().says(200, value.as_bytes()));
    }
}

#[test]
fn a_panicking_loader_is_an_answer() {
    let (node, _group) = node_with(|key| match key {
        "bad" => panic!("a loader of a test panics"),
        _ => Ok(Value::from("good")),
    });
    let server = with_workers(&node, 1);
    let mut client = Client::new(server.local_addr());
    assert_eq!(client.get("bad").status, 500);
    assert!(client.get("k").says(200, b"good"));
}

/// Names of our threads in this process; the system cuts them to 15 bytes.
#[cfg(target_os = "linux")]
fn our_threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .filter(|name| name.starts_with("groupcache-"))
        .collect()
}

/// Runs the test of this name alone in a process of its own.
fn alone(name: &str) -> bool {
    alone_with(name, "$(ulimit -H -n)")
}

/// The same with so many descriptors.
fn alone_with(name: &str, descriptors: &str) -> bool {
    const ALONE: &str = "GROUPCACHE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let shell = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
    let output = std::process::Command::new("sh")
        .args(["-c", &shell])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
    false
}

/// Whether a new connection is answered soon.
fn answers_soon(address: SocketAddr) -> bool {
    let soon = Duration::from_millis(500);
    let Ok(mut stream) = TcpStream::connect_timeout(&address, soon) else {
        return false;
    };
    stream.set_read_timeout(Some(soon)).unwrap();
    let request = b"GET /_groupcache/g/k HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut head = [0; 12];
    stream.write_all(request).is_ok()
        && stream.read_exact(&mut head).is_ok()
        && head == *b"HTTP/1.1 200"
}

#[cfg(target_os = "linux")]
#[test]
fn a_failure_to_accept_heals() {
    if !alone_with("tiny::a_failure_to_accept_heals", "96") {
        return;
    }
    let (node, _group) = node();
    let server = serve(&node);
    let address = server.local_addr();
    // Both ends are in this process: it is chance whether `tiny_http` cannot accept one, or the
    // client cannot connect.
    eventually("one that can accept no more is replaced", || {
        let mut early = Client::new(address);
        assert!(early.get("k").says(200, b"value of k"));
        let connect = || TcpStream::connect(address).ok();
        let clients: Vec<TcpStream> = std::iter::from_fn(connect).collect();
        assert!(clients.len() > 10);
        drop(clients);
        eventually("it answers", || answers_soon(address));
        // Who was there before is still served, and asked to leave if that one was replaced.
        let answer = early.get("k");
        assert!(answer.says(200, b"value of k"));
        answer
            .headers
            .get("connection")
            .is_some_and(|told| told == "close")
    });
    assert!(server.shutdown(HANG));
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_whose_workers_are_all_held_is_replaced() {
    if !alone("tiny::a_server_whose_workers_are_all_held_is_replaced") {
        return;
    }
    let (node, group) = node();
    let server = with_workers(&node, 1);
    let address = server.local_addr();
    let mut holder = Client::new(address);
    let (body, missing) = (set_body("g", "held", &[b'x'; 2_000]), 1_000);
    let target = "/_groupcache/g/held";
    holder.send(&format!(
        "PUT {target} HTTP/1.1\r\nHost: x\r\nX-Groupcache: v=1\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    holder.send_bytes(&body[..body.len() - missing]);
    eventually("the worker is held", || !answers_soon(address));
    eventually("another one answers", || answers_soon(address));
    assert!(our_threads().len() > 5, "{:?}", our_threads());
    // The old one finishes what it has begun.
    holder.send_bytes(&body[body.len() - missing..]);
    let answer = holder.answer();
    assert_eq!(
        (answer.status, &*answer.headers["connection"]),
        (200, "close")
    );
    assert_eq!(group.get("held").unwrap().len(), 2_000);
    assert!(server.shutdown(HANG));
    drop((group, node));
    eventually("our threads end", || our_threads().is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn shutdown_answers_what_is_under_way_and_leaves_nothing() {
    if !alone("tiny::shutdown_answers_what_is_under_way_and_leaves_nothing") {
        return;
    }
    let (node, group, has_begun, go) = slow_node();
    let server = serve(&node);
    let address = server.local_addr();
    let (mut slow, mut kept) = (Client::new(address), Client::new(address));
    assert!(kept.get("k").says(200, b"value of k"));
    slow.ask("slow");
    has_begun.recv_timeout(HANG).unwrap();
    assert!(our_threads().len() >= 10);
    std::thread::scope(|scope| {
        let stopping = scope.spawn(|| server.shutdown(HANG));
        eventually("connections are refused", || {
            TcpStream::connect(address).is_err()
        });
        let answer = kept.get("k");
        assert!(
            answer.says(200, b"value of k"),
            "kept connections are served"
        );
        assert_eq!(answer.headers["connection"], "close");
        assert!(!stopping.is_finished());
        go.send(()).unwrap();
        let answer = slow.answer();
        assert!(answer.says(200, b"value of slow"));
        assert_eq!(answer.headers["connection"], "close");
        assert!(stopping.join().unwrap());
    });
    // The port is free, also while old connections are open.
    let again = TinyServer::bind(&node, address).unwrap();
    assert!(Client::new(address).get("k").says(200, b"value of k"));
    drop(again);
    drop(group);
    drop(node);
    eventually("our threads end", || our_threads().is_empty());
}

#[test]
fn shutdown_gives_up_in_time_and_a_drop_cuts_off() {
    let (node, group, has_begun, go) = slow_node();
    let shut_down = |server: TinyServer| assert!(!server.shutdown(Duration::from_millis(50)));
    for stop in [shut_down as fn(TinyServer), drop] {
        let server = serve(&node);
        let mut slow = Client::new(server.local_addr());
        slow.ask("slow");
        has_begun.recv_timeout(HANG).unwrap();
        let start = Instant::now();
        stop(server);
        assert!(start.elapsed() < HANG);
        let answer = slow.answer();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.headers["connection"], "close");
        go.send(()).unwrap();
        eventually("the load ends", || group.stats().flights == 0);
        group.remove("slow").unwrap();
    }
}

#[test]
fn a_program_with_its_own_tiny_http_can_answer_peers() {
    let (node, _group) = node();
    let server = Arc::new(tiny_http::Server::http("127.0.0.1:0").unwrap());
    let address = server.server_addr().to_ip().unwrap();
    let serving = Arc::clone(&server);
    let thread = std::thread::spawn(move || {
        for request in serving.incoming_requests() {
            if let Some(request) = answer_tiny_http(&node, request) {
                let own = tiny_http::Response::from_string("the program's own");
                request.respond(own).unwrap();
            }
        }
    });
    let mut client = Client::new(address);
    assert!(client.get("k").says(200, b"value of k"), "loads");
    assert!(client.get("k").says(200, b"value of k"), "has it");
    client.send("GET /own HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(client.answer().says(200, b"the program's own"));
    let body = set_body("g", "set", b"a set value");
    let length = body.len();
    client.send(&format!(
        "PUT /_groupcache/g/set HTTP/1.1\r\nHost: x\r\nX-Groupcache: v=1\r\nContent-Length: {length}\r\n\r\n"
    ));
    client.send_bytes(&body);
    assert_eq!(client.answer().status, 200);
    assert!(client.get("set").says(200, b"a set value"));
    client.send("PUT /_groupcache/g/k HTTP/1.1\r\nX-Groupcache: v=1\r\nContent-Length: 100000000000000\r\n\r\n");
    assert_eq!(client.head().status, 413);
    assert!(Client::new(address).get("k").says(200, b"value of k"));
    server.unblock();
    thread.join().unwrap();
}

#[test]
fn settings_and_addresses_are_checked() {
    let (node, _group) = node();
    let none = TinyServer::builder(&node).workers(0).bind("127.0.0.1:0");
    assert!(matches!(none, Err(Error::InvalidSetting { .. })));
    let server = serve(&node);
    let taken = TinyServer::bind(&node, server.local_addr());
    assert!(matches!(taken, Err(Error::Bind { .. })));
    let nowhere = TinyServer::bind(&node, "not an address");
    assert!(matches!(nowhere, Err(Error::Bind { .. })));
}

/// Two nodes that serve each other, with a loader that is told which of them it runs on.
struct Pair {
    groups: Vec<Group>,
    nodes: Vec<Node>,
    _servers: Vec<TinyServer>,
}

fn pair(
    workers: usize,
    load: impl Fn(&Group, &str) -> Result<Value, LoadError> + Clone + Send + Sync + 'static,
) -> Pair {
    let listeners: Vec<_> = (0..2)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let addresses: Vec<_> = listeners
        .iter()
        .map(|listener| format!("http://{}", listener.local_addr().unwrap()))
        .collect();
    let (mut groups, mut nodes, mut servers) = (Vec::new(), Vec::new(), Vec::new());
    for (listener, address) in listeners.into_iter().zip(&addresses) {
        // A machine that is busy with other tests is no peer that is unreachable.
        let node = Node::builder(address.as_str()).unwrap();
        let node = node.connect_timeout(HANG).fetch_timeout(HANG).build();
        let node = node.unwrap();
        let this: Arc<std::sync::OnceLock<Group>> = Arc::default();
        let (of_loader, load) = (Arc::clone(&this), load.clone());
        let builder = node.group_builder("g", 64 << 20);
        let group = builder.build(move |key| load(of_loader.get().unwrap(), key));
        let group = group.unwrap();
        this.set(group.clone()).unwrap();
        let server = TinyServer::builder(&node).workers(workers);
        servers.push(server.from_listener(listener).unwrap());
        node.set_peers(&addresses).unwrap();
        groups.push(group);
        nodes.push(node);
    }
    Pair {
        groups,
        nodes,
        _servers: servers,
    }
}

#[test]
fn two_nodes_load_each_key_once() {
    let loads = Arc::new(Loads::default());
    let counted = Arc::clone(&loads);
    let pair = pair(2, move |_, key| {
        counted.count(key);
        Ok(Value::from(format!("value of {key}")))
    });
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let group = &pair.groups[thread % 2];
            scope.spawn(move || {
                for number in 0..100 {
                    let key = format!("key {number}");
                    let value = group.get(&key).unwrap();
                    assert_eq!(value.as_str().unwrap(), format!("value of {key}"));
                }
            });
        }
    });
    for number in 0..100 {
        assert_eq!(loads.of(&format!("key {number}")), 1);
    }
    let large = Value::from(vec![b's'; 100 << 10]);
    for number in 0..10 {
        let key = format!("set {number}");
        pair.groups[number % 2].set(&key, large.clone()).unwrap();
        assert_eq!(pair.groups[1 - number % 2].get(&key).unwrap(), large);
        pair.groups[1 - number % 2].remove(&key).unwrap();
        assert_ne!(pair.groups[number % 2].get(&key).unwrap(), large);
    }
    let fetched: u64 = pair.groups.iter().map(|group| group.stats().fetches).sum();
    assert!(fetched > 0, "both own keys");
}

/// Each of these loads needs the only worker of the other node, which would be held by the load
/// that waits for it.
#[test]
fn loads_that_need_each_others_nodes_do_not_wait_for_workers() {
    let loads = Arc::new(Loads::default());
    let counted = Arc::clone(&loads);
    let pair = pair(1, move |group, key| {
        counted.count(key);
        let (depth, rest) = key.split_once(' ').unwrap();
        let depth: usize = depth.parse()?;
        if depth == 0 {
            return Ok(Value::from("the bottom"));
        }
        Ok(group.get(&format!("{} {rest}", depth - 1))?)
    });
    // A chain whose owners alternate.
    let owner = |key: &str| pair.nodes[0].owner(key);
    let alternates = |rest: &String| {
        let owners: Vec<_> = (0..6)
            .map(|depth| owner(&format!("{depth} {rest}")))
            .collect();
        owners.windows(2).all(|two| two[0] != two[1])
    };
    let rest = (0..)
        .map(|number| number.to_string())
        .find(alternates)
        .unwrap();
    let start = Instant::now();
    let value = pair.groups[0].get(&format!("5 {rest}")).unwrap();
    assert_eq!(value.as_bytes(), b"the bottom");
    assert!(start.elapsed() < HANG / 2, "nobody ran out of patience");
    assert_eq!(loads.all(), 6, "and nobody loaded what another owns");
}
