//! The dialect of Go, against a peer of which only the answers are real: `tests/go` has the real one.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_sync::{
    Begin, Call, CallError, CircuitState, Clock, Dialect, Error, Group, Limits, Link, LoadError,
    Node, Peer, PeerStats, Reply, Request, Response, Transport, Value,
};

use crate::cluster::{Cluster, GROUP, Loads, eventually, value_of};

const SECOND: Duration = Duration::from_secs(1);
const THIS: &str = "http://rust:1";
const OTHER: &str = "http://go:1";

/// The way to one peer, which always gives the same answer and notes what it is asked.
#[derive(Clone)]
struct Puppet(Arc<Mutex<Script>>);

struct Script {
    answer: Result<Reply, CallError>,
    asked: Vec<(&'static str, String, Duration)>,
}

impl Puppet {
    fn new() -> Puppet {
        Puppet(Arc::new(Mutex::new(Script {
            answer: Err(CallError::Timeout),
            asked: Vec::new(),
        })))
    }

    fn answers(&self, status: u16, header: Option<&str>, body: &[u8]) {
        self.0.lock().unwrap().answer = Ok(Reply {
            status,
            header: header.map(str::to_owned),
            body: body.to_vec(),
        });
    }

    fn fails(&self) {
        self.0.lock().unwrap().answer = Err(CallError::Unreachable("gone".to_owned()));
    }

    /// What it was asked since the last time.
    fn asked(&self) -> Vec<(&'static str, String, Duration)> {
        std::mem::take(&mut self.0.lock().unwrap().asked)
    }
}

impl Transport for Puppet {
    fn link(&self, _: &Peer, _: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(self.clone()))
    }
}

impl Link for Puppet {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let mut script = self.0.lock().unwrap();
        script
            .asked
            .push((call.method, call.target.clone(), timeout));
        script.answer.clone()
    }
}

/// A node of a Go cluster that owns nothing, beside a peer that owns all.
struct Asker {
    node: Node,
    group: Group,
    clock: Clock,
    owner: Puppet,
    loads: Arc<Loads>,
}

impl Asker {
    fn new() -> Asker {
        let (owner, loads) = (Puppet::new(), Arc::new(Loads::default()));
        let clock = Clock::manual();
        let node = Node::builder(THIS)
            .unwrap()
            .dialect(Dialect::Golang)
            .allow_absent(true)
            .clock(clock.clone())
            .transport(Arc::new(owner.clone()))
            .build()
            .unwrap();
        let counter = Arc::clone(&loads);
        let group = node.group_builder(GROUP, 1 << 20).hot_bytes(0);
        let group = group.build(move |key| {
            counter.count(key);
            Ok(value_of(key))
        });
        node.set_peers([OTHER]).unwrap();
        Asker {
            node,
            group: group.unwrap(),
            clock,
            owner,
            loads,
        }
    }

    fn peer(&self) -> PeerStats {
        self.node.stats().peers.remove(0)
    }
}

/// The body of an answer of Go: field 1, shorter than 128 bytes.
fn go_body(value: &str) -> Vec<u8> {
    let mut body = vec![0x0a, u8::try_from(value.len()).unwrap()];
    body.extend_from_slice(value.as_bytes());
    body
}

#[test]
fn a_go_owner_is_asked_in_a_path_that_it_understands_and_its_value_is_used() {
    let asker = Asker::new();
    asker.owner.answers(200, None, &go_body("from Go"));
    let value = asker.group.get("a b+/%?.").unwrap();
    assert_eq!(value.as_bytes(), b"from Go");
    assert_eq!(asker.loads.all(), 0);
    let asked = asker.owner.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].0, "GET");
    assert_eq!(asked[0].1, "/_groupcache/things/a%20b%2B%2F%25%3F%2E");
    assert_eq!(asker.peer().dialect, Some(Dialect::Golang));
}

#[test]
fn whatever_else_a_go_owner_answers_is_loaded_here_and_opens_no_circuit() {
    let asker = Asker::new();
    let codes = [202, 204, 301, 400, 404, 405, 500, 503];
    for (count, code) in codes.into_iter().enumerate() {
        asker.owner.answers(code, None, b"not found\n");
        let key = format!("key of {code}");
        assert_eq!(asker.group.get(&key).unwrap(), value_of(&key), "{code}");
        assert_eq!(asker.group.stats().fetch_errors, count as u64 + 1);
    }
    let peer = asker.peer();
    assert_eq!(peer.circuit, CircuitState::Closed);
    assert_eq!((peer.calls, peer.call_errors), (codes.len() as u64, 0));
}

#[test]
fn a_go_owner_that_is_silent_or_talks_nonsense_opens_its_circuit() {
    for malformed in [false, true] {
        let asker = Asker::new();
        match malformed {
            true => asker.owner.answers(200, None, b"\xff"),
            false => asker.owner.fails(),
        }
        for key in ["a", "b", "c"] {
            assert_eq!(asker.group.get(key).unwrap(), value_of(key));
        }
        let peer = asker.peer();
        assert_eq!((peer.call_errors, peer.circuit_openings), (3, 1));
        // One that is not silent may have answered the probe meanwhile, and be asked again.
        if !malformed {
            assert_eq!(asker.group.get("d").unwrap(), value_of("d"));
            assert_eq!(asker.peer().call_errors, 3);
        }
    }
}

#[test]
fn who_may_be_a_go_peer_gets_the_time_of_a_load() {
    let asker = Asker::new();
    let timeout = || asker.owner.asked().last().unwrap().2;
    asker.owner.answers(200, None, &go_body("x"));
    asker.group.get("unknown").unwrap();
    assert_eq!(timeout(), 10 * SECOND);
    asker.group.get("known to be Go").unwrap();
    assert_eq!(timeout(), 10 * SECOND);
    asker.owner.answers(404, Some("v=1;s=not-found"), b"");
    assert!(matches!(asker.group.get("no value"), Err(Error::NotFound)));
    assert_eq!(timeout(), 10 * SECOND, "the answer is not known before");
    assert!(matches!(asker.group.get("native"), Err(Error::NotFound)));
    assert_eq!(timeout(), SECOND);
    assert_eq!(asker.peer().dialect, Some(Dialect::Native));
}

#[test]
fn a_go_peer_is_told_of_no_change_and_named_as_unsupported() {
    type Changes<'a> = [(&'a str, &'a dyn Fn() -> Result<(), Error>); 3];
    let asker = Asker::new();
    let group = &asker.group;
    asker.owner.answers(400, None, b"bad request\n");
    let changes: Changes<'_> = [
        ("remove", &|| group.remove("key")),
        ("set", &|| group.set("key", value_of("key"))),
        ("clear", &|| group.clear()),
    ];
    for (name, change) in changes {
        let Err(Error::Unreached { peers }) = change() else {
            panic!("{name} claims to have reached a Go peer");
        };
        assert_eq!(peers.len(), 1, "{name}");
        assert_eq!(peers[0].peer, OTHER);
        assert!(peers[0].unsupported, "{name}");
        assert!(peers[0].reason.contains("unsupported"), "{name}");
    }
    // Only the first one had to find out.
    let asked = asker.owner.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((asked[0].0, &*asked[0].1), ("GET", "/_groupcache/"));
    assert_eq!(asker.peer().pending_removals, 0);
}

#[test]
fn what_a_peer_speaks_follows_its_answers() {
    let asker = Asker::new();
    let (native, ok) = (Some("v=1;s=ok"), 200);
    asker.owner.answers(ok, native, b"");
    asker.group.remove("key").unwrap();
    let methods: Vec<_> = asker.owner.asked().iter().map(|asked| asked.0).collect();
    assert_eq!(methods, ["GET", "DELETE"]);

    // A Go process in its place: it runs the DELETE as a GET.
    asker.owner.answers(ok, None, &go_body("x"));
    let Err(Error::Unreached { peers }) = asker.group.remove("key") else {
        panic!("a value is no sign of a removal");
    };
    assert!(peers[0].unsupported);
    assert_eq!(asker.peer().pending_removals, 0);
    assert_eq!(asker.peer().dialect, Some(Dialect::Golang));

    // And back: the next answer shows it.
    asker.owner.answers(404, Some("v=1;s=not-found"), b"");
    assert!(asker.group.get("key").is_err());
    asker.owner.answers(ok, native, b"");
    asker.group.remove("key").unwrap();
}

#[test]
fn what_an_unknown_peer_has_missed_is_forgotten_once_it_is_a_go_peer() {
    let asker = Asker::new();
    asker.owner.fails();
    for number in 0..3 {
        let Err(Error::Unreached { peers }) = asker.group.remove(&format!("key {number}")) else {
            panic!("nobody is there");
        };
        assert!(!peers[0].unsupported, "nobody knows yet");
    }
    assert_eq!(asker.peer().pending_removals, 3);
    asker.owner.answers(400, None, b"bad request\n");
    eventually("no removal is pending", || {
        if asker.clock.sleepers() > 0 {
            asker.clock.advance(SECOND);
        }
        asker.peer().pending_removals == 0
    });
    let methods = asker.owner.asked().into_iter().map(|asked| asked.0);
    assert!(methods.into_iter().all(|method| method == "GET"));
}

/// Nodes of a Go cluster that are all of this crate.
fn natives(size: usize) -> Cluster {
    let load = |key: &str| match key {
        "missing" => Err(LoadError::NotFound),
        "broken" => Err("the disk is on fire".into()),
        _ => Ok(value_of(key)),
    };
    let golang = |node: groupcache_sync::NodeBuilder| node.dialect(Dialect::Golang);
    Cluster::with(size, Clock::manual(), golang, |group| group, load)
}

#[test]
fn nodes_of_a_go_cluster_keep_their_promises_to_each_other() {
    let cluster = natives(3);
    for number in 0..200 {
        let key = format!("key {number}");
        for group in &cluster.groups {
            assert_eq!(group.get(&key).unwrap(), value_of(&key));
        }
        assert_eq!(cluster.loads.of(&key), 1);
    }
    let key = cluster.key_owned_by(2);
    cluster.groups[0].set(&key, Value::from("set")).unwrap();
    assert_eq!(cluster.groups[1].get(&key).unwrap(), Value::from("set"));
    cluster.groups[1].remove(&key).unwrap();
    assert_eq!(cluster.groups[0].get(&key).unwrap(), value_of(&key));
    cluster.groups[2].clear().unwrap();
    let missing = cluster.groups.iter().map(|group| group.get("missing"));
    assert!(
        missing
            .into_iter()
            .all(|got| matches!(got, Err(Error::NotFound)))
    );
    assert_eq!(
        cluster.loads.of("missing"),
        3,
        "each get asks its owner once"
    );
    for node in &cluster.nodes {
        let stats = node.stats();
        assert_eq!(stats.ring_mismatches, 0);
        assert!(
            stats
                .peers
                .iter()
                .all(|peer| peer.dialect == Some(Dialect::Native))
        );
    }
}

/// What a Go peer gets that sends this.
fn answer_to_go(cluster: &Cluster, method: &str, path: &str) -> (u16, Vec<u8>) {
    let response = cluster.nodes[0].answer(&Request::new(method, path));
    (response.status(), response.body().concat())
}

#[test]
fn a_go_asker_is_understood_and_answered_as_by_go() {
    let cluster = natives(1);
    let answer = |path: &str| answer_to_go(&cluster, "GET", path);
    for (escaped, key) in [("a+b", "a b"), ("a%2Bb", "a+b"), ("%2F", "/"), ("..", "..")] {
        let (status, body) = answer(&format!("/_groupcache/things/{escaped}"));
        assert_eq!(status, 200, "{key}");
        // Once loaded and once from memory, the body has no other fields than those of Go: value
        // (1) and rate (2, eight bytes).
        let again = answer(&format!("/_groupcache/things/{escaped}")).1;
        for body in [body, again] {
            assert_eq!(body[0], 0x11, "the rate");
            assert_eq!(body[9..], go_body(&format!("value of {key}")), "{key}");
        }
    }
    let text = |path: &str| {
        let (status, body) = answer(path);
        (status, String::from_utf8(body).unwrap())
    };
    let bad = (400, "bad request\n".to_owned());
    assert_eq!(text("/_groupcache/things"), bad);
    let unknown = (404, "no such group: nothing\n".to_owned());
    assert_eq!(text("/_groupcache/nothing/key"), unknown);
    let (status, reason) = text("/_groupcache/things/broken");
    assert_eq!(status, 500);
    assert!(reason.contains("the disk is on fire"), "{reason}");
    assert_eq!(text("/_groupcache/things/missing").0, 500);
    assert_eq!(text("/_groupcache/things/%ff").0, 400);
    assert_eq!(text("/_groupcache/").0, 200, "it is alive");
}

#[test]
fn a_request_of_who_is_not_native_changes_nothing() {
    let cluster = natives(1);
    cluster.groups[0].get("key").unwrap();
    for method in ["PUT", "DELETE", "POST"] {
        let (status, _) = answer_to_go(&cluster, method, "/_groupcache/things/key");
        assert_eq!(status, 403, "{method}");
    }
    for method in ["HEAD", "PATCH"] {
        let request = Request::new(method, "/_groupcache/things/key");
        let response = cluster.nodes[0].answer(&request);
        assert_eq!(response.status(), 405, "{method}");
        assert!(response.headers().any(|header| header == ("Allow", "GET")));
    }
    // A command for the whole group, and one for the whole node.
    for path in ["/_groupcache/things", "/_groupcache/"] {
        let clear = Request::new("POST", path).body(b"\x08\x01\x18\x01");
        assert_eq!(cluster.nodes[0].answer(&clear).status(), 403, "{path}");
    }
    assert!(cluster.groups[0].try_get("key").is_some());
}

#[test]
fn a_go_asker_waits_for_the_load_and_is_never_told_to_ask_again() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let golang = |node: groupcache_sync::NodeBuilder| node.dialect(Dialect::Golang);
    let load = move |key: &str| {
        // Ends when the test ends.
        let _ = held.lock().unwrap().recv();
        Ok(value_of(key))
    };
    let cluster = Cluster::with(1, Clock::manual(), golang, |group| group, load);
    let request = Request::new("GET", "/_groupcache/things/key");
    let Begin::Pending(pending) = cluster.nodes[0].begin(&request) else {
        panic!("it is not loaded yet");
    };
    let waits = pending.deadline() - cluster.clock.now();
    assert_eq!(waits, 10 * SECOND, "the load timeout");
    eventually("the load begins", || cluster.loads.all() == 1);
    let response = pending.give_up();
    assert_eq!(response.as_ref().map(Response::status), Some(503));
    drop(release);
}

#[test]
fn the_ring_of_go_has_no_weights() {
    let heavy = || Peer::new(OTHER).unwrap().weight(2.0).unwrap();
    let refused = Node::builder(heavy()).unwrap().dialect(Dialect::Golang);
    assert!(matches!(refused.build(), Err(Error::InvalidPeer { .. })));
    let asker = Asker::new();
    let Err(error) = asker.node.set_peers([heavy()]) else {
        panic!("a weight that the ring cannot have");
    };
    assert!(error.to_string().contains("weight"), "{error}");
    assert_eq!(asker.peer().id, OTHER, "nothing has changed");
}

#[test]
fn a_place_on_the_ring_of_go_is_the_address_as_it_is_spelled() {
    let asker = Asker::new();
    let ring = |peers: Vec<Peer>| {
        asker.node.set_peers(peers).unwrap();
        asker.node.stats().ring
    };
    let peer = |address| Peer::new(address).unwrap();
    let spellings = ["http://go", "http://go:80", "http://Go"];
    let rings = spellings.map(|spelling| ring(vec![peer(spelling)]));
    assert!(rings[0] != rings[1] && rings[1] != rings[2]);
    for (spelling, expected) in spellings.into_iter().zip(rings) {
        assert_eq!(
            ring(vec![peer("http://go:80").with_name(spelling)]),
            expected
        );
        assert_eq!(
            ring(vec![peer(spelling), peer("http://GO:80")]),
            expected,
            "it is one peer, and the first spelling counts"
        );
    }
}
