//! `docs/PROTOCOL.md` is true: its exchanges are played against a node, from both sides, and its
//! vectors are computed by one. They are read out of the page itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use groupcache_sync::{
    CircuitState, Clock, Dialect, Error, Group, Loaded, Node, NodeBuilder, Peer, Request, Response,
    Server, Value,
};
use siphasher::sip::SipHasher13;

use crate::cluster::value_of;

const PAGE: &str = include_str!("../../docs/PROTOCOL.md");

/// The node of the exchanges.
const OWNER: &str = "http://10.0.0.5:7000";

/// Only a hang lets it pass.
const GUARD: Duration = Duration::from_secs(60);

/// A request, if the page shows it, and its answer, as bytes.
struct Exchange {
    name: &'static str,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// The exchanges of one kind, in their order.
fn exchanges(kind: &str) -> Vec<Exchange> {
    let mut exchanges = Vec::new();
    let mut lines = PAGE.lines();
    while let Some(line) = lines.next() {
        let Some(("```", name)) = line.split_once(kind) else {
            continue;
        };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        exchanges.push(Exchange {
            name: name.trim(),
            request: message(&block, '>'),
            answer: message(&block, '<'),
        });
    }
    assert!(!exchanges.is_empty());
    exchanges
}

/// The bytes of the lines with this mark: a head, an empty line, and the body in hexadecimal.
fn message(block: &[&str], mark: char) -> Vec<u8> {
    let marked = block.iter().filter_map(|line| line.strip_prefix(mark));
    let mut lines = marked.map(str::trim);
    let mut bytes = Vec::new();
    for line in lines.by_ref() {
        bytes.extend_from_slice(line.as_bytes());
        bytes.extend_from_slice(b"\r\n");
        if line.is_empty() {
            break;
        }
    }
    for line in lines {
        let (hexadecimal, _what_it_means) = line.split_once('#').unwrap_or((line, ""));
        bytes.extend(hexadecimal.split_whitespace().flat_map(unhex));
    }
    bytes
}

fn unhex(digits: &str) -> Vec<u8> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.as_bytes().chunks(2).map(byte).collect()
}

fn exchange(kind: &str, name: &str) -> Exchange {
    let mut all = exchanges(kind).into_iter();
    all.find(|exchange| exchange.name == name).unwrap()
}

/// The cells of a table of vectors.
fn vectors(name: &str) -> Vec<Vec<&'static str>> {
    let (_, table) = PAGE
        .split_once(&format!("<!-- vectors: {name} -->\n\n"))
        .unwrap();
    let rows = table.lines().take_while(|line| !line.is_empty()).skip(2);
    let cells = |row: &'static str| {
        let cells = row.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().trim_matches('`')).collect()
    };
    let vectors: Vec<_> = rows.map(cells).collect();
    assert!(!vectors.is_empty());
    vectors
}

/// What is quoted in a cell, or in each part of it.
fn texts(cell: &str) -> Vec<String> {
    let parts = cell.split("`, `");
    parts
        .map(|part| serde_json::from_str(part).unwrap())
        .collect()
}

fn text(cell: &str) -> String {
    texts(cell).remove(0)
}

fn hash(bytes: &[u8]) -> u64 {
    SipHasher13::new_with_keys(0x6772_6f75_7063_6163, 0x6865_2d72_696e_672e).hash(bytes)
}

/// One message: a head, and as much of a body as it declares.
fn read_message(stream: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut length = 0;
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut line = String::new();
        assert_ne!(stream.read_line(&mut line).unwrap(), 0, "it is cut off");
        if let Some(declared) = line.strip_prefix("Content-Length: ") {
            length = declared.trim().parse().unwrap();
        }
        bytes.extend_from_slice(line.as_bytes());
    }
    let head = bytes.len();
    bytes.resize(head + length, 0);
    stream.read_exact(&mut bytes[head..]).unwrap();
    bytes
}

#[track_caller]
fn assert_same(found: &[u8], expected: &[u8], name: &str) {
    let (found, expected) = (found.escape_ascii(), expected.escape_ascii());
    assert_eq!(found.to_string(), expected.to_string(), "{name}");
}

/// The node of the page, whose load of `slow` is held until something is sent or the sender drops.
struct Owner {
    things: Group,
    release: mpsc::Sender<()>,
    stream: BufReader<TcpStream>,
    server: Server,
    node: Node,
}

impl Owner {
    fn start(dialect: Dialect) -> Owner {
        // Far ahead of the clock of the listener: no patience ends before its load.
        let clock = Clock::manual();
        clock.advance(60 * GUARD);
        let node = Node::builder(OWNER).unwrap().clock(clock).dialect(dialect);
        let node = node.warm_up(Duration::ZERO);
        let node = node.build().unwrap();
        let (release, released) = mpsc::channel();
        let released = Mutex::new(released);
        let things = node
            .group_builder("things", 64 << 20)
            .ttl(Duration::from_secs(300))
            .build(move |key| match key {
                "missing" => Err(groupcache_sync::LoadError::NotFound),
                "broken" => Err("no database".into()),
                "huge" => Ok(Value::from(vec![0; (16 << 20) + 1])),
                "slow" => {
                    let _ = released.lock().unwrap().recv();
                    Ok(value_of(key))
                }
                key => Ok(value_of(key)),
            });
        let server = Server::bind(&node, "127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(server.local_addr()).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        Owner {
            things: things.unwrap(),
            release,
            stream: BufReader::new(stream),
            server,
            node,
        }
    }

    fn play(&mut self, exchange: &Exchange) {
        self.stream.get_mut().write_all(&exchange.request).unwrap();
        let answer = read_message(&mut self.stream);
        assert_same(&answer, &exchange.answer, exchange.name);
    }

    fn has(&self, key: &str) -> bool {
        self.things.try_get(key).is_some()
    }
}

#[test]
fn a_node_answers_as_the_page_says() {
    let mut owner = Owner::start(Dialect::Native);
    for exchange in exchanges("exchange ") {
        for key in ["k1", "k2", "k3"] {
            owner.things.set(key, value_of(key)).unwrap();
        }
        owner.play(&exchange);
        let left = ["k", "k1", "k2", "k3"].map(|key| owner.has(key));
        let expected = match exchange.name {
            "set" => [true, true, true, true],
            "remove-many" => [false, false, false, true],
            "clear" => [false, false, false, false],
            _ => [false, true, true, true],
        };
        assert_eq!(left, expected, "{}", exchange.name);
        if exchange.name == "loading" {
            assert_eq!(owner.things.stats().flights, 0, "it has begun a load");
            owner.release.send(()).unwrap();
        }
    }
}

/// A manual clock begins at the moment of the vectors.
#[test]
fn signatures_are_those_of_the_page() {
    for vector in vectors("signatures") {
        let [
            secret,
            method,
            peer,
            path,
            header,
            time,
            nonce,
            boot,
            body,
            hash,
            code,
        ] = vector[..]
        else {
            panic!("a vector has other columns");
        };
        let auth = |code: &str| format!("v=2;t={time};n={nonce};b={boot};h={hash};m={code}");
        let (right, wrong) = (auth(code), auth(&code.replace('6', "7")));
        let status = |auth: &str, body: &[u8]| {
            let node = signing_node(secret, peer, |node| node);
            let request = Request::new(method, path).header("X-Groupcache", header);
            let request = request.header("X-Groupcache-Auth", auth).body(body);
            status_of(&node.answer(&request))
        };
        let body = unhex(body);
        // A change is for the process that its signature names, which this is not.
        let known = if method == "GET" { "ok" } else { "stale-boot" };
        assert_eq!(status(&right, &body), known, "{vector:?}");
        for (auth, body) in [(&*wrong, &*body), ("", &*body), (&*right, &b"another"[..])] {
            assert_eq!(status(auth, body), "unauthorized", "{vector:?}");
        }
    }
}

fn signing_node(
    secret: &str,
    peer: &str,
    settings: impl FnOnce(NodeBuilder) -> NodeBuilder,
) -> Node {
    let keyring = groupcache_sync::Keyring::new(secret).unwrap();
    let node = Node::builder(peer).unwrap().clock(Clock::manual());
    let node = settings(node.keyring(keyring)).build().unwrap();
    let things = node.group_builder("things", 1 << 20);
    let _things: Group = things.build(|key| Ok(value_of(key))).unwrap();
    node
}

/// The `s` of an answer.
fn status_of(answer: &Response) -> String {
    let (_, header) = answer.headers().nth(1).unwrap();
    let status = header.split(';').find_map(|pair| pair.strip_prefix("s="));
    status.unwrap().to_owned()
}

#[test]
fn signatures_of_the_scheme_before_are_taken_where_that_is_allowed() {
    for vector in vectors("older signatures") {
        let [secret, method, peer, path, header, time, nonce, body, code] = vector[..] else {
            panic!("a vector has other columns");
        };
        let auth = format!("v=1;t={time};n={nonce};m={code}");
        let body = unhex(body);
        for (legacy, status) in [(true, "ok"), (false, "unauthorized")] {
            let node = signing_node(secret, peer, |node| node.legacy_signatures(legacy));
            let request = Request::new(method, path).header("X-Groupcache", header);
            let request = request.header("X-Groupcache-Auth", &auth).body(&body);
            assert_eq!(status_of(&node.answer(&request)), status, "{vector:?}");
        }
    }
}

#[test]
fn a_go_client_is_answered_as_the_page_says() {
    let mut owner = Owner::start(Dialect::Golang);
    owner.play(&exchange("golang ", "go-client"));
}

/// A node that owns nothing, and asks one that gives these answers, one after the other.
struct Asker {
    node: Node,
    things: Group,
    requests: Receiver<Vec<u8>>,
}

/// What the asker loads itself.
fn loaded_here() -> Value {
    Value::from("loaded here")
}

impl Asker {
    fn of(answers: Vec<Vec<u8>>) -> Asker {
        Asker::with(|node| node, answers)
    }

    fn with(settings: impl FnOnce(NodeBuilder) -> NodeBuilder, answers: Vec<Vec<u8>>) -> Asker {
        let clock = Clock::manual();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::channel();
        let passes = clock.clone();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(GUARD)).unwrap();
            let mut stream = BufReader::new(stream);
            for answer in answers {
                sender.send(read_message(&mut stream)).unwrap();
                passes.advance(GUARD); // all patience is over
                stream.get_mut().write_all(&answer).unwrap();
            }
        });
        let node = Node::builder("http://10.0.0.9:7000").unwrap();
        let node = settings(node.clock(clock).allow_absent(true))
            .connect_timeout(GUARD)
            .fetch_timeout(GUARD)
            .build()
            .unwrap();
        let things = node
            .group_builder("things", 64 << 20)
            .hot_bytes(0)
            .build(|_| Ok(loaded_here()));
        let owner = Peer::new(&address).unwrap().with_name(OWNER);
        node.set_peers([owner]).unwrap();
        Asker {
            node,
            things: things.unwrap(),
            requests,
        }
    }

    /// The one that gets the answers of these exchanges.
    fn told(names: &[&str]) -> Asker {
        let answer = |name: &&str| exchange("exchange ", name).answer;
        Asker::of(names.iter().map(answer).collect())
    }

    /// The one that gets these answers of another version.
    fn of_another(names: &[&str]) -> Asker {
        let answer = |name: &&str| exchange("recorded ", name).answer;
        Asker::of(names.iter().map(answer).collect())
    }

    /// The next request, as the page would have it: there, the owner has its address, and the asker
    /// the default patience.
    fn request(&self) -> Vec<u8> {
        let request = self.requests.recv_timeout(GUARD).unwrap();
        let (head, body) = request.split_at(request.windows(4).position(is_end).unwrap());
        let lines = std::str::from_utf8(head).unwrap().split("\r\n");
        let line = |line: &str| match line.split_once(": ") {
            Some(("Host", _)) => OWNER.replace("http://", "Host: "),
            _ => line.replace("w=30000", "w=500").replace("w=7500", "w=125"),
        };
        let head = lines.map(line).collect::<Vec<_>>().join("\r\n");
        [head.as_bytes(), body].concat()
    }

    #[track_caller]
    fn has_sent(&self, name: &str) {
        let expected = exchange("exchange ", name).request;
        let [found, expected] = [self.request(), expected].map(|request| without_stamp(&request));
        assert_same(&found, &expected, name);
    }

    /// Whether the peer counts as one that works.
    fn trusts(&self) -> bool {
        self.node.stats().peers.iter().all(|p| p.call_errors == 0)
    }
}

/// A request without the values of its stamp: the number of a process is a random one, and that of
/// a change depends on those before.
fn without_stamp(request: &[u8]) -> Vec<u8> {
    let Some(at) = request.windows(3).position(|three| three == b";i=") else {
        return request.to_vec();
    };
    let end = request[at..].windows(3).position(|three| three == b";t=");
    let end = at + end.expect("what follows is who is meant");
    let stamp = std::str::from_utf8(&request[at..end]).unwrap();
    let (origin, sequence) = stamp[";i=".len()..].split_once(";q=").unwrap();
    assert!(u64::from_str_radix(origin, 16).unwrap() > 0);
    assert!(sequence.parse::<u64>().unwrap() > 0);
    [&request[..at], b";i=;q=", &request[end..]].concat()
}

fn is_end(four: &[u8]) -> bool {
    four == b"\r\n\r\n"
}

#[test]
fn a_node_asks_for_values_as_the_page_says() {
    let names = [
        "get",
        "not-found",
        "load-failed",
        "too-large",
        "loading",
        "loaded",
    ];
    let asker = Asker::told(&names);
    assert_eq!(asker.things.get("a b").unwrap(), value_of("a b"));
    assert!(matches!(asker.things.get("missing"), Err(Error::NotFound)));
    assert_eq!(asker.things.get("broken").unwrap(), loaded_here());
    let huge = asker.things.get("huge");
    assert!(matches!(
        huge,
        Err(Error::ValueTooLarge {
            bytes: 16_777_217,
            ..
        })
    ));
    assert_eq!(asker.things.get("slow").unwrap(), value_of("slow"));
    for name in &names[..4] {
        asker.has_sent(name);
    }
    for _ in ["at first", "again"] {
        asker.has_sent("loaded");
    }
    assert!(asker.trusts());
    let asker = Asker::told(&["no-such-group"]);
    assert_eq!(asker.things.get("key").unwrap(), loaded_here());
    assert!(asker.trusts());
}

#[test]
fn a_node_asks_for_many_and_changes_as_the_page_says() {
    let names = ["get-many", "set", "remove", "remove-many", "clear", "clear"];
    let asker = Asker::told(&names);
    let values = asker.things.get_many(&["a", "missing", "b"]);
    assert_eq!(values[0].as_ref().unwrap(), &value_of("a"));
    assert!(matches!(values[1], Err(Error::NotFound)));
    assert_eq!(values[2].as_ref().unwrap(), &value_of("b"));
    let new = Loaded::new(Value::from("new")).ttl(GUARD);
    asker.things.set("k", new).unwrap();
    asker.things.remove("k").unwrap();
    asker.things.remove_many(&["k1", "k2"]).unwrap();
    asker.things.clear().unwrap();
    for name in names {
        asker.has_sent(name);
    }
    assert!(asker.trusts());
}

#[test]
fn one_that_sends_a_node_away_is_none_of_its_peers() {
    let asker = Asker::told(&["misdirected", "forbidden", "misdirected"]);
    for key in ["a", "b", "c", "d"] {
        assert_eq!(asker.things.get(key).unwrap(), loaded_here());
    }
    let stats = asker.node.stats();
    let [peer] = &stats.peers[..] else {
        panic!("there is one peer");
    };
    assert_eq!((peer.calls, peer.call_errors), (3, 3));
    assert_eq!(peer.circuit, CircuitState::Open);
}

#[test]
fn an_older_node_is_understood() {
    let asker = Asker::of_another(&["older-value"]);
    assert_eq!(asker.things.get("a b").unwrap(), value_of("a b"));
    assert!(asker.trusts());
    // It knows no batches: it is asked for one key after the other.
    let asker = Asker::of(vec![
        exchange("recorded ", "older-batch").answer,
        exchange("recorded ", "older-value").answer,
        exchange("exchange ", "not-found").answer,
        exchange("recorded ", "older-value").answer,
    ]);
    let values = asker.things.get_many(&["a b", "missing"]);
    assert_eq!(values[0].as_ref().unwrap(), &value_of("a b"));
    assert!(matches!(values[1], Err(Error::NotFound)));
    assert_eq!(asker.things.get("a b").unwrap(), value_of("a b"));
    assert!(asker.request().starts_with(b"POST "));
    for name in ["get", "not-found", "get"] {
        asker.has_sent(name);
    }
    assert!(asker.trusts());
}

#[test]
fn a_newer_node_is_understood() {
    let asker = Asker::of_another(&["newer-value", "newer-batch", "newer-status"]);
    assert_eq!(asker.things.get("a b").unwrap(), value_of("a b"));
    let values = asker.things.get_many(&["a", "missing", "b"]);
    let values: Vec<_> = values.into_iter().map(Result::unwrap).collect();
    assert_eq!(values, [value_of("a"), loaded_here(), value_of("b")]);
    assert_eq!(asker.things.get("c").unwrap(), loaded_here());
    assert!(asker.trusts());
}

#[test]
fn a_go_server_is_asked_as_the_page_says() {
    let exchange = exchange("golang ", "go-server");
    let golang = |node: NodeBuilder| node.dialect(Dialect::Golang);
    let asker = Asker::with(golang, vec![exchange.answer]);
    assert_eq!(asker.things.get("a b").unwrap(), value_of("a b"));
    assert_same(&asker.request(), &exchange.request, exchange.name);
}

#[test]
fn paths_and_hashes_are_those_of_the_page() {
    let owner = Owner::start(Dialect::Native);
    let paths = vectors("paths");
    let not_found = exchange("recorded ", "older-not-found").answer;
    let asker = Asker::of(vec![not_found; paths.len()]);
    for row in &paths {
        let (key, target) = (text(row[0]), row[1]);
        let answer = owner.node.answer(&Request::new("GET", target));
        assert_eq!(answer.body()[1], value_of(&key).as_bytes(), "{key:?}");
        assert!(asker.things.get(&key).is_err());
        let request = asker.request();
        let expected = format!("GET {target} HTTP/1.1\r\n");
        assert!(request.starts_with(expected.as_bytes()), "{key:?}");
    }
    for row in vectors("hashes") {
        assert_eq!(format!("{:016x}", hash(&unhex(row[0]))), row[1]);
    }
    for row in vectors("request hashes") {
        let (method, path, body) = (row[0], row[1], unhex(row[2]));
        let parts = [method.as_bytes(), path.as_bytes(), &body];
        let parts = parts.map(|part| [&(part.len() as u64).to_le_bytes(), part].concat());
        assert_eq!(format!("{:x}", hash(&parts.concat())), row[3]);
        // And this is what a node answers.
        let request = Request::new(method, path).header("X-Groupcache", "v=1");
        let answer = owner.node.answer(&request.body(&body));
        let names = answer
            .headers()
            .any(|(_, value)| value.ends_with(&format!(";k={}", row[3])));
        assert!(names, "{row:?}");
    }
    for row in vectors("key hashes") {
        let (group, key) = (text(row[0]), text(row[1]));
        let length = (group.len() as u64).to_le_bytes();
        let bytes = [&length, group.as_bytes(), key.as_bytes()].concat();
        assert_eq!(format!("{:016x}", hash(&bytes)), row[2]);
        // And this is what a node answers: a `fixed64` of number 101.
        let node = Node::new(OWNER).unwrap();
        let group = node.group_builder(&group, 1 << 20);
        let group = group.build(|_| Ok(Value::from(""))).unwrap();
        group.set(&key, Value::from("")).unwrap();
        let target = [group.name(), &key].map(escaped).join("/");
        let target = format!("/_groupcache/{target}");
        let answer = node.answer(&Request::new("GET", &target)).body().concat();
        let field = [&[0xa9, 0x06][..], &hash(&bytes).to_le_bytes()].concat();
        assert!(answer.windows(10).any(|ten| ten == field), "{key:?}");
    }
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn rings_are_those_of_the_page() {
    for row in vectors("rings") {
        let peers = row[0].split("`, `").map(|peer| {
            let (address, weight) = peer.split_once(' ').unwrap();
            let peer = Peer::new(address).unwrap();
            peer.weight(weight.parse().unwrap()).unwrap()
        });
        let peers: Vec<Peer> = peers.collect();
        let node = Node::builder(peers[0].clone()).unwrap().build().unwrap();
        node.set_peers(peers.clone()).unwrap();
        let hello = node.answer(&Request::new("GET", "/_groupcache/"));
        let (_, header) = hello.headers().nth(1).unwrap();
        assert_eq!(header, format!("v=1;s=ok;r={}", row[1]));
        assert_eq!(owners(&node, &peers, &texts(row[2])), row[3]);
    }
}

#[test]
fn owners_in_a_go_cluster_are_those_of_the_page() {
    let peers = [1, 2, 3].map(|n| Peer::new(&format!("http://10.0.0.{n}:8080")).unwrap());
    let node = Node::builder(peers[0].clone()).unwrap();
    let node = node.dialect(Dialect::Golang).build().unwrap();
    node.set_peers(peers.clone()).unwrap();
    for row in vectors("golang") {
        assert_eq!(owners(&node, &peers, &[text(row[0])]), row[1], "{}", row[0]);
    }
}

/// The owners of keys, by place in the list.
fn owners(node: &Node, peers: &[Peer], keys: &[String]) -> String {
    let place = |key: &String| {
        let owner = node.owner(key);
        let place = peers.iter().position(|peer| *peer == owner).unwrap();
        (place + 1).to_string()
    };
    keys.iter().map(place).collect()
}

/// A command with one field of bytes.
fn with_field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut body = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        body.push(length as u8 & 0x7f | 0x80);
        length >>= 7;
    }
    body.push(length as u8);
    [&body, bytes].concat()
}

impl Owner {
    /// The status of what the node answers.
    fn says(&self, method: &str, target: &str, body: &[u8]) -> String {
        let request = Request::new(method, target).header("X-Groupcache", "v=1;w=0");
        status_of(&self.node.answer(&request.body(body)))
    }
}

#[test]
fn a_key_has_one_limit_wherever_it_stands() {
    let owner = Owner::start(Dialect::Native);
    // 16,000 bytes once encoded, or just less; one more character is too much.
    for (longest, raw) in [("k".repeat(16_000), "k"), ("!".repeat(5_333), "!")] {
        let longer = format!("{longest}{raw}");
        for (key, is_too_long) in [(&longest, false), (&longer, true)] {
            let or_too_long = |status: &str| {
                let status = if is_too_long { "key-too-long" } else { status };
                status.to_owned()
            };
            for spelled in [key.clone(), escaped(key)] {
                let target = format!("/_groupcache/things/{spelled}");
                let body = [with_field(1, b"things"), with_field(2, key.as_bytes())].concat();
                let body = [body, with_field(3, b"value")].concat();
                assert_eq!(owner.says("PUT", &target, &body), or_too_long("ok"));
                assert_eq!(owner.says("GET", &target, b""), or_too_long("ok"));
                assert_eq!(owner.says("DELETE", &target, b""), or_too_long("ok"));
            }
            for command in [2, 3, 5] {
                let body = with_field(command, key.as_bytes());
                let status = owner.says("POST", "/_groupcache/things", &body);
                // What is offered is taken over by another thread.
                let expected = if command == 5 { "loading" } else { "ok" };
                let is_either = !is_too_long && status == "ok";
                assert!(is_either || status == or_too_long(expected), "{status}");
            }
            let peek = [with_field(8, key.as_bytes()), with_field(9, &[1; 16])].concat();
            let status = owner.says("POST", "/_groupcache/things", &peek);
            assert_eq!(status, or_too_long("ok"));
            let removal = [with_field(1, b"things"), with_field(2, key.as_bytes())].concat();
            let status = owner.says("POST", "/_groupcache/", &with_field(5, &removal));
            assert_eq!(status, or_too_long("ok"));
        }
    }
    let long_name = "g".repeat(256);
    for target in ["", "/k"].map(|rest| format!("/_groupcache/{long_name}{rest}")) {
        assert_eq!(owner.says("GET", &target, b""), "bad-request");
    }
}

#[test]
fn printable_bytes_may_be_sent_as_they_are_and_others_may_not() {
    let owner = Owner::start(Dialect::Native);
    let key = " !\"$&'()*+,./:;<=>@[]^`{|}~";
    owner.things.set(key, Value::from("printable")).unwrap();
    for spelled in [key.to_owned(), escaped(key), escaped(key).to_lowercase()] {
        let target = format!("/_groupcache/things/{spelled}");
        let answer = owner.node.answer(&Request::new("GET", &target));
        assert_eq!(answer.body()[1], b"printable", "{spelled}");
    }
    for other in [
        "a\u{e9}", "a\tb", "a\0", "a#b", "a?b", "%", "%4", "%zz", "%e9",
    ] {
        let target = format!("/_groupcache/things/{other}");
        assert_eq!(owner.says("GET", &target, b""), "bad-request", "{other:?}");
    }
}

#[test]
fn a_path_takes_its_own_methods_only() {
    let owner = Owner::start(Dialect::Native);
    for (target, allowed) in [
        ("/_groupcache/", "GET, POST"),
        ("/_groupcache/things", "POST"),
        ("/_groupcache/things/k", "GET, PUT, DELETE"),
    ] {
        for method in ["GET", "PUT", "DELETE", "POST", "HEAD", "OPTIONS", "get"] {
            let request = Request::new(method, target).header("X-Groupcache", "v=1");
            let answer = owner.node.answer(&request);
            let is_allowed = allowed.split(", ").any(|allowed| allowed == method);
            assert_eq!(answer.status() == 405, !is_allowed, "{method} {target}");
            let names = answer.headers().any(|header| header == ("Allow", allowed));
            assert_eq!(names, !is_allowed, "{method} {target}");
        }
    }
}

#[test]
fn a_client_of_http_1_0_is_served_and_its_connection_closed() {
    let mut owner = Owner::start(Dialect::Native);
    let request = b"GET /_groupcache/things/a HTTP/1.0\r\nX-Groupcache: v=1\r\n\r\n";
    owner.stream.get_mut().write_all(request).unwrap();
    let mut answer = Vec::new();
    owner.stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
    assert!(answer.ends_with(b"value of a"));
}

#[test]
fn who_sends_no_more_gets_what_is_in_memory_and_sets_nothing() {
    let mut owner = Owner::start(Dialect::Native);
    let body = &exchange("exchange ", "set").request;
    owner.stream.get_mut().write_all(body).unwrap();
    owner.stream.get_ref().shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    owner.stream.read_to_end(&mut answer).unwrap();
    // It may have been carried out before that was seen: then it was answered.
    let is_done = answer.starts_with(b"HTTP/1.1 200 OK\r\n");
    assert!(is_done || answer.is_empty());
    assert_eq!(owner.has("k"), is_done);
    owner.things.set("k", Value::from("here")).unwrap();
    let mut stream = TcpStream::connect(owner.server.local_addr()).unwrap();
    stream.set_read_timeout(Some(GUARD)).unwrap();
    let get = b"GET /_groupcache/things/k HTTP/1.1\r\nHost: h\r\n\r\n";
    stream.write_all(get).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.ends_with(b"here"));
}
