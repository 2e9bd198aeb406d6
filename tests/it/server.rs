//! The built-in listener, over real sockets.
#![allow(clippy::unwrap_used, clippy::panic)] // so does a test fail, also in what it calls

use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::{Duration, Instant};

use groupcache_sync::{
    Error, Group, HttpRequest, HttpResponse, Node, Server, ServerBuilder, Value,
};

use crate::cluster::{eventually, together};

/// Only a hang lets it pass.
pub(crate) const GUARD: Duration = Duration::from_secs(60);

pub(crate) struct Service {
    pub(crate) node: Node,
    pub(crate) things: Group,
    pub(crate) loads: Arc<AtomicUsize>,
    server: Option<Server>,
    pub(crate) address: SocketAddr,
}

/// A node with a group `things`, whose loader answers at once.
pub(crate) fn serve(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Service {
    serve_loads(settings, |key| Value::from(format!("value of {key}")))
}

pub(crate) fn serve_loads(
    settings: impl FnOnce(ServerBuilder) -> ServerBuilder,
    load: impl Fn(&str) -> Value + Send + Sync + 'static,
) -> Service {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let loads = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&loads);
    let things = node.group_builder("things", 64 << 20).build(move |key| {
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(load(key))
    });
    let server = settings(Server::builder(&node))
        .bind("127.0.0.1:0")
        .unwrap();
    let address = server.local_addr();
    Service {
        node,
        things: things.unwrap(),
        loads,
        server: Some(server),
        address,
    }
}

impl Service {
    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    pub(crate) fn shutdown(&mut self, timeout: Duration) -> bool {
        self.server.take().unwrap().shutdown(timeout)
    }
}

pub(crate) struct Client(pub(crate) BufReader<TcpStream>);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn has(&self, text: &str) -> bool {
        self.body
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    }
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        stream.set_write_timeout(Some(GUARD)).unwrap();
        Client(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn get(&mut self, key: &str) -> Answer {
        self.send(request("GET", &format!("/_groupcache/things/{key}"), ""));
        self.answer()
    }

    /// The head of the next response; headers by their names in small letters.
    pub(crate) fn head(&mut self) -> Answer {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let count = self.0.read_line(&mut line).unwrap();
            assert!(count > 0, "closed after {lines:?}");
            match line.strip_suffix("\r\n").expect("a line ends in CR LF") {
                "" => break,
                text => lines.push(text.to_owned()),
            }
        }
        let status = lines[0].strip_prefix("HTTP/1.1 ").expect("a status line");
        let status = status[..3].parse().unwrap();
        let headers = lines[1..].iter().map(|line| line.split_once(": ").unwrap());
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        Answer {
            status,
            headers: headers.collect(),
            body: Vec::new(),
        }
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let length = answer
            .header("content-length")
            .map_or(0, |length| length.parse().unwrap());
        answer.body = vec![0; length];
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    /// Whether it is answered rather than refused.
    pub(crate) fn is_served(&mut self) -> bool {
        let ping = request("GET", "/_groupcache/", "");
        let sent = self.0.get_mut().write_all(ping.as_bytes()).is_ok();
        sent && self.0.fill_buf().is_ok_and(|bytes| !bytes.is_empty())
            && self.answer().status == 200
    }

    pub(crate) fn assert_closed(&mut self) {
        match self.0.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("the connection is not closed: {other:?}"),
        }
    }

    pub(crate) fn assert_open(&mut self) {
        let answer = self.get("open");
        let text = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 200, "{text}");
    }
}

/// A request, with what a change of a peer has to have.
pub(crate) fn request(method: &str, target: &str, headers: &str) -> String {
    let is_ours = method != "GET" && target.starts_with("/_groupcache/");
    let mark = if is_ours { "X-Groupcache: v=1\r\n" } else { "" };
    format!("{method} {target} HTTP/1.1\r\nHost: h\r\n{mark}{headers}\r\n")
}

/// A loader that waits for `release`, for keys that begin with `slow`.
pub(crate) fn slow_loader() -> (
    mpsc::Sender<()>,
    impl Fn(&str) -> Value + Send + Sync + 'static,
) {
    let (release, released) = mpsc::channel();
    let released = Mutex::new(released);
    let load = move |key: &str| {
        if key.starts_with("slow") {
            let _ = released.lock().unwrap().recv();
        }
        Value::from(format!("value of {key}"))
    };
    (release, load)
}

/// Runs the body of a test in a process of its own, where nobody else has threads.
fn alone(test: &str, body: impl FnOnce()) {
    alone_with(test, "$(ulimit -H -n)", body);
}

/// The same with so many descriptors.
fn alone_with(test: &str, descriptors: &str, body: impl FnOnce()) {
    const MARK: &str = "GROUPCACHE_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    let shell = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
    let child = Command::new("sh")
        .args(["-c", &shell])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("server::{test}"), "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout).into_owned();
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(
        child.status.success() && output.contains("1 passed"),
        "{output}{errors}"
    );
}

/// Threads of this process by name, those of the library.
#[cfg(target_os = "linux")]
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("groupcache-"))
        .collect()
}

#[test]
fn connections_opened_at_once_are_all_answered() {
    let service = serve(|settings| settings);
    for count in [64, 500] {
        let ready = Barrier::new(count);
        let statuses = together(count, |number| {
            let mut client = service.connect();
            ready.wait();
            let answer = client.get(&format!("key-{number}"));
            assert!(answer.has(&format!("value of key-{number}")));
            // All are still connected when the last one is answered.
            ready.wait();
            answer.status
        });
        assert!(statuses.iter().all(|status| *status == 200));
    }
    assert_eq!(service.loads.load(Ordering::SeqCst), 500);
}

#[test]
fn nobody_is_left_behind_in_a_crowd_or_when_it_ends() {
    // One worker more or less than there are busy connections, and many more.
    for (workers, count) in [(15, 16), (16, 16), (64, 66), (3, 40)] {
        let service = serve(|settings| settings.workers(workers));
        let answered = together(count, |number| {
            let mut client = service.connect();
            // They leave one after the other, so that the crowd ends while some still ask.
            let requests = 20 * (number + 1);
            let all = (0..requests).all(|_| client.get("key").status == 200);
            client.assert_open();
            all
        });
        assert!(answered.into_iter().all(|all| all));
    }
}

#[test]
fn a_connection_is_kept_for_many_requests() {
    let service = serve(|settings| settings);
    let mut client = service.connect();
    for number in 0..1_000 {
        let answer = client.get(&format!("key-{}", number % 7));
        assert!(answer.has(&format!("value of key-{}", number % 7)));
        assert_eq!(answer.header("connection"), None);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (release, load) = slow_loader();
    let service = serve_loads(|settings| settings.workers(2), load);
    let mut client = service.connect();
    let count = 1_000;
    let keys: Vec<String> = (0..count)
        .map(|n| {
            if n == 300 {
                "slow".to_owned()
            } else {
                format!("key-{}", n % 50)
            }
        })
        .collect();
    let all: String = keys
        .iter()
        .map(|key| request("GET", &format!("/_groupcache/things/{key}"), ""))
        .collect();
    let mut writer = client.0.get_ref().try_clone().unwrap();
    let writer = std::thread::spawn(move || writer.write_all(all.as_bytes()).unwrap());
    for (number, key) in keys.iter().enumerate() {
        if number == 300 {
            release.send(()).unwrap();
        }
        let answer = client.answer();
        assert!(answer.has(&format!("value of {key}")), "answer {number}");
    }
    writer.join().unwrap();
}

#[test]
fn a_slow_load_holds_no_worker() {
    let (release, load) = slow_loader();
    let service = serve_loads(|settings| settings.workers(1), load);
    let mut slow = service.connect();
    slow.send(request("GET", "/_groupcache/things/slow", ""));
    eventually("the load begins", || {
        service.loads.load(Ordering::SeqCst) == 1
    });
    let mut other = service.connect();
    for _ in 0..10 {
        assert!(other.get("quick").has("value of quick"));
    }
    release.send(()).unwrap();
    assert!(slow.answer().has("value of slow"));
    slow.assert_open();
}

#[test]
fn a_load_beyond_the_askers_patience_is_answered_in_time() {
    let (release, load) = slow_loader();
    let service = serve_loads(|settings| settings, load);
    let mut client = service.connect();
    let asked = Instant::now();
    client.send(request(
        "GET",
        "/_groupcache/things/slow",
        "X-Groupcache: v=1;w=100\r\n",
    ));
    let answer = client.answer();
    assert_eq!(answer.status, 202);
    assert!(answer.header("x-groupcache").unwrap().contains("s=loading"));
    assert!(asked.elapsed() >= Duration::from_millis(100));
    release.send(()).unwrap();
    assert!(client.get("slow").has("value of slow"));
    assert_eq!(
        service.loads.load(Ordering::SeqCst),
        1,
        "a slow load does not multiply"
    );
}

#[test]
fn one_who_leaves_during_a_load_leaves_nothing_behind() {
    let (release, load) = slow_loader();
    let mut service = serve_loads(|settings| settings.max_connections(2), load);
    for _ in 0..10 {
        let mut client = service.connect();
        client.send(request("GET", "/_groupcache/things/slow", ""));
        eventually("the load begins", || {
            service.loads.load(Ordering::SeqCst) == 1
        });
    }
    // All places are free again, though the load goes on.
    eventually("their places are free", || {
        let mut clients = [service.connect(), service.connect()];
        clients.iter_mut().all(Client::is_served) && clients.iter_mut().all(Client::is_served)
    });
    release.send(()).unwrap();
    eventually("the value is there", || {
        service.things.try_get("slow").is_some()
    });
    assert!(service.shutdown(GUARD));
}

#[test]
fn what_is_not_there_is_told_apart() {
    let service = serve(|settings| settings);
    let mut client = service.connect();
    for (method, target, status, said) in [
        ("GET", "/_groupcache/nothing/key", 404, "s=no-such-group"),
        ("POST", "/_groupcache/things/key", 405, "s=wrong-method"),
        ("BREW", "/_groupcache/things/key", 405, "s=wrong-method"),
        ("GET", "/elsewhere", 404, "s=no-such-path"),
        ("GET", "/_groupcache/things/%zz", 400, "s=bad-request"),
        ("GET", "/_groupcache/", 200, "s=ok"),
    ] {
        client.send(request(method, target, ""));
        let answer = client.answer();
        assert_eq!(answer.status, status, "{method} {target}");
        assert!(
            answer.header("x-groupcache").unwrap().contains(said),
            "{method} {target}"
        );
    }
    client.send(request("HEAD", "/_groupcache/things/key", ""));
    assert_eq!(client.head().status, 405);
    client.assert_open();
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let service = serve(|settings| settings);
    let mut client = service.connect();
    for byte in request("GET", "/_groupcache/things/key", "X: y\r\n").bytes() {
        client.send([byte]);
    }
    assert!(client.answer().has("value of key"));
    client.assert_open();
}

#[test]
fn a_body_may_come_in_many_packets() {
    let service =
        serve(|settings| settings.fallback(|request| HttpResponse::new(200).body(request.body())));
    let mut client = service.connect();
    let body: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    for size in [1_000, 100_000] {
        let head = format!("Content-Length: {}\r\n", body.len());
        client.send(request("POST", "/echo", &head));
        for part in body.chunks(size) {
            client.send(part);
            std::thread::yield_now();
        }
        let answer = client.answer();
        assert_eq!(answer.status, 200);
        assert!(answer.body == body);
    }
    client.assert_open();
}

#[test]
fn a_large_value_reaches_a_slow_reader_and_holds_no_worker() {
    let large: Vec<u8> = (0..5_u32 << 20).map(|n| (n % 253) as u8).collect();
    let expected = large.clone();
    let load = move |key: &str| match key {
        "large" => Value::from(&large[..]),
        key => Value::from(format!("value of {key}")),
    };
    let service = serve_loads(|settings| settings.workers(1), load);
    let mut slow: Vec<Client> = (0..4).map(|_| service.connect()).collect();
    for client in &mut slow {
        client.send(request("GET", "/_groupcache/things/large", ""));
    }
    // The answers are under way.
    let heads: Vec<Answer> = slow.iter_mut().map(Client::head).collect();
    let mut other = service.connect();
    for _ in 0..10 {
        assert!(other.get("quick").has("value of quick"));
    }
    for (client, head) in slow.iter_mut().zip(heads) {
        let length: usize = head.header("content-length").unwrap().parse().unwrap();
        let (mut body, mut part) = (Vec::new(), vec![0; 64 << 10]);
        while body.len() < length {
            let count = client.0.read(&mut part).unwrap();
            assert!(count > 0, "cut off after {} bytes", body.len());
            body.extend_from_slice(&part[..count]);
            std::thread::yield_now();
        }
        assert!(body.ends_with(&expected), "the bytes differ");
        client.assert_open();
    }
}

#[test]
fn http_1_0_is_understood() {
    let service = serve(|settings| settings);
    let mut client = service.connect();
    client.send("GET /_groupcache/things/key HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.answer();
    assert!(answer.has("value of key"));
    assert_eq!(answer.header("connection"), Some("keep-alive"));
    client.send("GET /_groupcache/things/key HTTP/1.0\r\n\r\n");
    let answer = client.answer();
    assert!(answer.has("value of key"));
    assert_eq!(answer.header("connection"), Some("close"));
    client.assert_closed();
}

#[test]
fn a_client_may_close_and_may_send_no_more() {
    let service = serve(|settings| settings);
    let mut client = service.connect();
    client.send(request(
        "GET",
        "/_groupcache/things/key",
        "Connection: close\r\n",
    ));
    let answer = client.answer();
    assert_eq!(answer.header("connection"), Some("close"));
    client.assert_closed();
    service.connect().get("key");
    let mut client = service.connect();
    client.send(request("GET", "/_groupcache/things/key", ""));
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert!(client.answer().has("value of key"));
    client.assert_closed();
}

#[test]
fn an_expectation_is_met_before_the_body() {
    let service =
        serve(|settings| settings.fallback(|request| HttpResponse::new(200).body(request.body())));
    let mut client = service.connect();
    client.send(request(
        "POST",
        "/",
        "Expect: 100-continue\r\nContent-Length: 5\r\n",
    ));
    assert_eq!(client.head().status, 100);
    client.send("hello");
    assert_eq!(client.answer().body, b"hello");
    client.send(request(
        "POST",
        "/",
        "Expect: 200-ok\r\nContent-Length: 5\r\n",
    ));
    assert_eq!(client.answer().status, 417);
    client.assert_closed();
}

#[test]
fn an_application_shares_the_port() {
    let service = serve(|settings| {
        settings.fallback(|request| {
            assert_ne!(request.path(), "/panic", "as it was asked to");
            let seen = format!(
                "{} {} {:?} {:?} {}",
                request.method(),
                request.path(),
                request.query(),
                request.header("x-NAME"),
                request.peer_addr().ip(),
            );
            HttpResponse::text(201, &seen).header("X-Served", "yes")
        })
    });
    let mut client = service.connect();
    client.send(request("GET", "/a%20b?c=d", "X-Name: e\r\n"));
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.header("x-served")),
        (201, Some("yes"))
    );
    assert!(answer.has("GET /a%20b Some(\"c=d\") Some(\"e\") 127.0.0.1"));
    client.assert_open();

    client.send(request("HEAD", "/a", ""));
    let head = client.head();
    assert_eq!(head.status, 201);
    assert_ne!(head.header("content-length"), Some("0"));
    client.assert_open();

    client.send(request("GET", "/panic", ""));
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.header("connection")),
        (500, Some("close"))
    );
    client.assert_closed();
    service.connect().assert_open();
}

#[test]
fn a_fallback_whose_panics_panic_when_they_are_dropped_ends_no_thread() {
    struct Grumpy(usize);
    impl Drop for Grumpy {
        fn drop(&mut self) {
            if let Some(left) = self.0.checked_sub(1) {
                std::panic::panic_any(Grumpy(left));
            }
        }
    }
    let service = serve(|settings| {
        settings.fallback_workers(1).fallback(|request| {
            if request.path() == "/panic" {
                std::panic::panic_any(Grumpy(2));
            }
            HttpResponse::new(200)
        })
    });
    for (path, status) in [("/panic", 500), ("/panic", 500), ("/", 200)] {
        let mut client = service.connect();
        client.send(request("GET", path, ""));
        assert_eq!(client.answer().status, status);
    }
}

#[test]
fn a_port_may_be_for_the_application_alone() {
    let service = serve(|settings| {
        let fallback = |request: &HttpRequest<'_>| {
            let text = format!("{} {}", request.method(), request.path());
            HttpResponse::text(200, &text)
        };
        settings.serves_peers(false).fallback(fallback)
    });
    let mut client = service.connect();
    for path in ["/_groupcache/things/key", "/_groupcache/", "/other"] {
        client.send(request("DELETE", path, ""));
        let answer = client.answer();
        assert_eq!(
            (answer.status, answer.has(&format!("DELETE {path}"))),
            (200, true)
        );
    }
    let node = groupcache_sync::Node::new("http://127.0.0.1:1").unwrap();
    let refused = Server::builder(&node)
        .serves_peers(false)
        .bind("127.0.0.1:0");
    assert!(matches!(
        refused,
        Err(Error::InvalidSetting {
            setting: "serves_peers",
            ..
        })
    ));
}

#[test]
fn an_application_that_blocks_does_not_stop_peers() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let entered = Arc::new(AtomicUsize::new(0));
    let inside = Arc::clone(&entered);
    let service = serve(|settings| {
        settings.fallback_workers(2).workers(1).fallback(move |_| {
            inside.fetch_add(1, Ordering::SeqCst);
            let _ = released.lock().unwrap().recv();
            HttpResponse::new(200)
        })
    });
    let mut applications: Vec<Client> = (0..5).map(|_| service.connect()).collect();
    for client in &mut applications {
        client.send(request("GET", "/", ""));
    }
    eventually("the fallback is full", || {
        entered.load(Ordering::SeqCst) == 2
    });
    let mut peer = service.connect();
    for _ in 0..10 {
        peer.assert_open();
    }
    drop(release);
    for client in &mut applications {
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn an_idle_connection_is_closed_in_time() {
    let service = serve(|settings| settings.idle_timeout(Duration::from_millis(100)));
    let mut fresh = service.connect();
    let mut used = service.connect();
    used.assert_open();
    fresh.assert_closed();
    used.assert_closed();
}

#[test]
fn a_gentle_end_answers_what_is_under_way() {
    let (release, load) = slow_loader();
    let mut service = serve_loads(|settings| settings, load);
    let mut busy = service.connect();
    busy.send(request("GET", "/_groupcache/things/slow", ""));
    let mut idle = service.connect();
    idle.assert_open();
    eventually("the load begins", || {
        service.loads.load(Ordering::SeqCst) == 2
    });
    let server = service.server.take().unwrap();
    let ending = std::thread::spawn(move || server.shutdown(GUARD));
    idle.assert_closed();
    assert!(!ending.is_finished());
    // The port is free while the last answer is still to come.
    let other = TcpListener::bind(service.address);
    release.send(()).unwrap();
    let answer = busy.answer();
    assert!(answer.has("value of slow"));
    assert_eq!(answer.header("connection"), Some("close"));
    busy.assert_closed();
    assert!(ending.join().unwrap());
    drop(other.unwrap());
    let again = Server::bind(&service.node, service.address).unwrap();
    Client::connect(again.local_addr()).assert_open();
}

/// Three nodes, each with a server of its own.
struct Trio {
    ids: Vec<String>,
    nodes: Vec<Node>,
    servers: Vec<Server>,
    groups: Vec<Group>,
    loads: Arc<AtomicUsize>,
}

/// Nobody listens for the last peer if `is_one_missing`.
fn peers_with_servers(is_one_missing: bool) -> Trio {
    let listeners: Vec<_> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let ids: Vec<_> = listeners
        .iter()
        .map(|listener| format!("http://{}", listener.local_addr().unwrap()))
        .collect();
    let loads = Arc::new(AtomicUsize::new(0));
    let nodes: Vec<_> = ids
        .iter()
        .map(|id| Node::new(id.as_str()).unwrap())
        .collect();
    let mut groups = Vec::new();
    for node in &nodes {
        node.set_peers(ids.iter().map(String::as_str)).unwrap();
        let counted = Arc::clone(&loads);
        let things = node.group_builder("things", 1 << 20).build(move |key| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(Value::from(format!("value of {key}")))
        });
        groups.push(things.unwrap());
    }
    let there = if is_one_missing { 2 } else { 3 };
    let mut servers = Vec::new();
    for (node, listener) in nodes.iter().zip(listeners).take(there) {
        servers.push(Server::from_listener(node, listener).unwrap());
    }
    Trio {
        ids,
        nodes,
        servers,
        groups,
        loads,
    }
}

#[test]
fn a_server_that_leaves_hands_its_values_over_and_stops() {
    let Trio {
        ids,
        nodes,
        mut servers,
        groups,
        loads,
    } = peers_with_servers(false);
    let keys: Vec<_> = (0..60).map(|number| format!("key {number}")).collect();
    for key in &keys {
        groups[0].get(key).unwrap();
    }
    let address = servers[0].local_addr();
    assert!(keys.iter().any(|key| nodes[1].owner(key).name() == ids[0]));
    assert!(servers.remove(0).leave_and_shutdown(GUARD).unwrap());
    assert!(nodes[0].is_leaving());
    drop(TcpListener::bind(address).unwrap()); // the port is free
    for key in &keys {
        groups[1].get(key).unwrap();
        groups[2].get(key).unwrap();
    }
    assert_eq!(loads.load(Ordering::SeqCst), keys.len());
}

#[test]
fn a_server_that_leaves_stops_also_where_a_peer_cannot_be_told() {
    let Trio {
        ids, mut servers, ..
    } = peers_with_servers(true);
    let address = servers[0].local_addr();
    let error = servers.remove(0).leave_and_shutdown(GUARD).unwrap_err();
    let Error::Unreached { peers } = error else {
        panic!("{error}");
    };
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].peer, ids[2]);
    drop(TcpListener::bind(address).unwrap());
}

#[test]
fn an_end_does_not_wait_longer_than_told() {
    let (release, load) = slow_loader();
    let mut service = serve_loads(|settings| settings, load);
    let mut busy = service.connect();
    busy.send(request("GET", "/_groupcache/things/slow", ""));
    eventually("the load begins", || {
        service.loads.load(Ordering::SeqCst) == 1
    });
    assert!(!service.shutdown(Duration::from_millis(50)));
    busy.assert_closed();
    drop(release);
}

#[test]
#[cfg(target_os = "linux")]
fn an_end_leaves_no_thread() {
    alone("an_end_leaves_no_thread", || {
        let mut service = serve(|settings| settings.fallback(|_| HttpResponse::new(200)));
        together(20, |_| {
            let mut client = service.connect();
            client.assert_open();
            client.send(request("GET", "/", ""));
            client.answer();
        });
        assert!(threads().len() > 2);
        assert!(service.shutdown(GUARD));
        // The system shows a thread for a moment after it has been joined.
        let are_gone = || {
            threads()
                .iter()
                .all(|name| name.starts_with("groupcache-load"))
        };
        eventually("the threads are gone", are_gone);

        // Dropped, it ends too, whatever its connections do.
        let server = Server::bind(&service.node, "127.0.0.1:0").unwrap();
        let mut client = Client::connect(server.local_addr());
        client.assert_open();
        let address = server.local_addr();
        drop(server);
        client.assert_closed();
        eventually("the threads are gone", are_gone);
        assert!(TcpStream::connect(address).is_err());
    });
}

#[test]
fn servers_come_and_go() {
    let service = serve(|settings| settings);
    for round in 0..500 {
        let server = Server::bind(&service.node, "127.0.0.1:0").unwrap();
        let mut client = Client::connect(server.local_addr());
        if round % 2 == 0 {
            assert!(client.is_served());
        }
        match round % 3 {
            0 => drop(server),
            _ => assert!(server.shutdown(GUARD)),
        }
        client.assert_closed();
    }
}

#[test]
#[cfg(target_os = "linux")]
fn idle_connections_cost_no_threads() {
    alone("idle_connections_cost_no_threads", || {
        let service = serve(|settings| settings.max_connections_per_address(4_000).workers(8));
        let mut clients: Vec<Client> = (0..2_000).map(|_| service.connect()).collect();
        for client in &mut clients {
            client.assert_open();
        }
        assert!(threads().len() <= 1 + 8 + 16, "{:?}", threads());
        for client in clients.iter_mut().rev().step_by(100) {
            client.assert_open();
        }
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_shortage_of_descriptors_ends() {
    alone_with("a_shortage_of_descriptors_ends", "64", || {
        let service = serve(|settings| settings);
        service.connect().assert_open();
        // Both ends are in this process: at some point the server cannot accept its own.
        let connect = || TcpStream::connect(service.address);
        let clients: Vec<TcpStream> = std::iter::from_fn(|| connect().ok()).collect();
        assert!(clients.len() > 20);
        drop(clients);
        eventually("it serves again", || {
            connect().is_ok() && service.connect().is_served()
        });
    });
}

#[test]
#[cfg(target_os = "linux")]
fn an_end_does_not_wait_for_a_fallback_that_hangs() {
    alone("an_end_does_not_wait_for_a_fallback_that_hangs", || {
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let (entered, enters) = mpsc::channel();
        let mut service = serve(|settings| {
            settings.fallback(move |_| {
                entered.send(()).unwrap();
                let _ = released.lock().unwrap().recv();
                HttpResponse::new(200)
            })
        });
        let mut client = service.connect();
        client.send(request("GET", "/", ""));
        enters.recv_timeout(GUARD).unwrap();
        let start = Instant::now();
        assert!(!service.shutdown(Duration::from_millis(50)));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert_eq!(threads(), ["groupcache-app\n"]);
        drop(release);
        eventually("it ends with its fallback", || threads().is_empty());
    });
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let refused = |settings: fn(ServerBuilder) -> ServerBuilder| {
        let outcome = settings(Server::builder(&node)).bind("127.0.0.1:0");
        assert!(
            matches!(outcome, Err(Error::InvalidSetting { .. })),
            "{outcome:?}"
        );
    };
    refused(|settings| settings.workers(0));
    refused(|settings| settings.workers(usize::MAX));
    refused(|settings| settings.fallback_workers(0));
    refused(|settings| settings.max_connections(0));
    refused(|settings| settings.max_connections_per_address(0));
    refused(|settings| settings.head_timeout(Duration::ZERO));
    refused(|settings| settings.idle_timeout(Duration::ZERO));
    let endless = Server::builder(&node)
        .idle_timeout(Duration::MAX)
        .head_timeout(Duration::MAX);
    let server = endless.bind("127.0.0.1:0").unwrap();
    assert_eq!(Client::connect(server.local_addr()).get("key").status, 404);
}

#[test]
fn an_address_in_use_is_named() {
    let service = serve(|settings| settings);
    let error = Server::bind(&service.node, service.address).unwrap_err();
    assert!(matches!(error, Error::Bind { .. }));
    assert!(
        error.to_string().contains(&service.address.to_string()),
        "{error}"
    );
}
