//! One ring of nodes of this crate and real Go processes (`main.go`), both directions.
//!
//! It needs Debian's Go and its package of golang/groupcache. Without them nothing is tested, and
//! said so; with `GROUPCACHE_REQUIRE_GO=1` that is a failure.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "this is all test code"
)]
#![cfg(target_os = "linux")]

mod peers;

use std::thread;
use std::time::{Duration, Instant};

use groupcache_sync::{Dialect, Error, Unreached};

use peers::{GoPeer, RustPeer, eventually, join, path, program, raw, value_of};

/// Short, for tests of what happens when it is over.
const BRIEF: Duration = Duration::from_millis(200);

/// Ten thousand keys of many kinds, all of which both sides can pass on. None has a space: two Go
/// peers cannot pass that to each other.
fn ten_thousand_keys() -> Vec<String> {
    let key = |n: usize| match n % 8 {
        0 => format!("user:{n}"),
        1 => format!("/v1/item/{n}").replacen('/', "", 1),
        2 => format!("q?{n}=1&b=2#c"),
        3 => format!("a+b+{n}"),
        4 => format!("{n}%2F%"),
        5 => format!("käse-\u{1f600}-{n}"),
        6 => format!("{n}/"),
        _ => n.to_string(),
    };
    (0..10_000).map(key).collect()
}

/// Keys that one side or the other could get wrong.
const HARD_KEYS: &[&str] = &[
    "",
    " ",
    "a b",
    "+",
    "a+b",
    "+ +",
    "%",
    "%20",
    "%2B",
    "%zz",
    "100%",
    "?",
    "?a=b",
    "a?b#c",
    "#",
    "a/b",
    "a/",
    "a/b/c//",
    ";,:@&=$!*'()",
    "\u{1f600}",
    "e\u{301}",
    "\u{e9}",
    "\u{202e}abc",
    "\0",
    "\r\n",
    "\t",
    "\"\\<>",
    "\u{7f}",
    "things/key",
    "_groupcache/things/x",
    "...",
    "a.b",
    ".",
    "..",
    "./a",
    "../a",
    "a/.",
    "a/../b",
    "/",
    "//",
    "/x",
    "a//b",
];

/// Whether Go's `ServeMux` leaves the path of this key alone, instead of redirecting to another.
fn is_clean(key: &str) -> bool {
    let mut segments = key.rsplit('/');
    let last = segments.next().unwrap_or_default();
    let is_dots = |segment: &str| matches!(segment, "." | "..");
    !is_dots(last) && segments.all(|segment| !segment.is_empty() && !is_dots(segment))
}

#[test]
fn ten_thousand_keys_have_one_owner_and_one_load_in_a_ring_of_both() {
    let Some(program) = program() else { return };
    let rust = [RustPeer::start(), RustPeer::start()];
    let go = [GoPeer::start(program), GoPeer::start(program)];
    join(&[&rust[0], &rust[1]], &[&go[0], &go[1]]);
    let keys = ten_thousand_keys();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();

    let owners = go[0].owners(&keys);
    assert_eq!(go[1].owners(&keys), owners);
    for peer in &rust {
        for (key, owner) in keys.iter().zip(&owners) {
            assert_eq!(peer.node.owner(key).name(), owner, "{key:?}");
        }
    }

    // All four ask for all keys at the same time.
    let expected: Vec<_> = keys.iter().map(|key| value_of(key)).collect();
    thread::scope(|scope| {
        for peer in &rust {
            scope.spawn(|| {
                for (key, value) in keys.iter().zip(&expected) {
                    assert_eq!(peer.group.get(key).unwrap(), *value, "{key:?}");
                }
            });
        }
        for peer in &go {
            scope.spawn(|| assert!(peer.get_many(&keys) == expected));
        }
    });
    let loads = [
        rust[0].loads(),
        rust[1].loads(),
        go[0].loads(),
        go[1].loads(),
    ];
    assert_eq!(loads.iter().sum::<usize>(), keys.len(), "{loads:?}");

    for (at, peer) in go.iter().enumerate() {
        let owned = owners.iter().filter(|owner| **owner == peer.url).count();
        assert_eq!(loads[2 + at], owned);
        assert_eq!(peer.count("PeerErrors"), 0);
        assert!(peer.count("PeerLoads") > 0 && peer.count("ServerRequests") > 0);
    }
    for peer in &rust {
        let stats = peer.group.stats();
        assert_eq!(stats.fetch_errors, 0);
        assert!(stats.fetches > 0 && stats.served > 0);
        let dialects = go.iter().map(|go| peer.peer(&go.url).dialect);
        assert!(
            dialects
                .into_iter()
                .all(|dialect| dialect == Some(Dialect::Golang))
        );
    }
    assert_eq!(rust[0].peer(&rust[1].url).dialect, Some(Dialect::Native));
    assert_eq!(rust[0].node.stats().ring_mismatches, 0);
}

#[test]
fn hard_keys_reach_a_go_owner_or_are_loaded_by_who_asks() {
    let Some(program) = program() else { return };
    let (rust, go) = (RustPeer::start(), GoPeer::start(program));
    join(&[], &[&go]);
    rust.node.set_peers([&go.url]).unwrap(); // which so owns all keys
    let long = "k".repeat(16_000);
    let mut redirected = 0;
    for key in HARD_KEYS.iter().copied().chain([&*long]) {
        assert_eq!(rust.group.get(key).unwrap(), value_of(key), "{key:?}");
        let loads = (rust.loads_of(key), go.loads_of(key));
        if is_clean(key) {
            assert_eq!(loads, (0, 1), "{key:?}");
        } else {
            assert_eq!(loads, (1, 0), "{key:?}");
            redirected += 1;
        }
    }
    assert_eq!(rust.group.stats().fetch_errors, redirected);
    let peer = rust.peer(&go.url);
    assert_eq!(peer.call_errors, 0, "a redirect is no failure of the peer");
    let Err(Error::KeyTooLong { bytes: 16_001 }) = rust.group.get(&"k".repeat(16_001)) else {
        panic!("a key too long for a path");
    };
}

#[test]
fn hard_keys_of_a_go_asker_reach_a_node() {
    let Some(program) = program() else { return };
    let (rust, go) = (RustPeer::start(), GoPeer::start(program));
    go.set_peers(&[&rust.url]);
    for key in HARD_KEYS {
        assert_eq!(go.get(key).unwrap(), value_of(key), "{key:?}");
        let loads = (rust.loads_of(key), go.loads_of(key));
        assert_eq!(loads, (1, 0), "{key:?}");
    }
    assert_eq!(go.count("PeerErrors"), 0);

    // Go's keys are any bytes, those of this crate are text.
    let bytes = b"\xff\xfe";
    assert_eq!(go.get(bytes).unwrap().as_bytes(), b"value of \xff\xfe");
    assert_eq!(go.loads_of(bytes), 1);
    assert_eq!(go.count("PeerErrors"), 1);
    let answer = raw(rust.address, "GET /_groupcache/things/%FF%FE");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(answer.contains("UTF-8"), "{answer}");

    // The limit of a native peer is that of a Go peer.
    let (longest, longer) = ("k".repeat(16_000), "k".repeat(16_001));
    assert_eq!(go.get(&longest).unwrap(), value_of(&longest));
    assert_eq!((rust.loads_of(&longest), go.loads_of(&longest)), (1, 0));
    assert_eq!(go.get(&longer).unwrap(), value_of(&longer));
    assert_eq!((rust.loads_of(&longer), go.loads_of(&longer)), (0, 1));
    let answer = raw(rust.address, &format!("GET {}", path(&longer)));
    assert!(answer.starts_with("HTTP/1.1 414 "), "{answer}");
}

/// Not ours to mend: the documentation warns of it.
#[test]
fn go_peers_do_not_pass_a_space_to_each_other() {
    let Some(program) = program() else { return };
    let (asker, owner) = (GoPeer::start(program), GoPeer::start(program));
    asker.set_peers(&[&owner.url]);
    assert_eq!(asker.get("a b").unwrap(), value_of("a+b"));
}

#[test]
fn values_of_any_size_arrive_whole() {
    let Some(program) = program() else { return };
    let (rust, go) = (RustPeer::start(), GoPeer::start(program));
    // From about 2 KiB on, Go sends its answers in chunks.
    let sizes = [0, 1, 127, 128, 2_000, 2_047, 2_048, 4_096, 70_000, 1 << 20];
    let keys = sizes.map(|size| format!("large-{size}"));
    rust.node.set_peers([&go.url]).unwrap();
    for key in &keys {
        assert!(rust.group.get(key).unwrap() == value_of(key), "{key}");
    }
    assert_eq!((rust.loads(), go.loads()), (0, keys.len()));

    let (rust, go) = (RustPeer::start(), GoPeer::start(program));
    go.set_peers(&[&rust.url]);
    for key in &keys {
        assert!(go.get(key).unwrap() == value_of(key), "{key}");
    }
    assert_eq!((rust.loads(), go.loads()), (keys.len(), 0));
}

#[test]
fn a_go_owner_that_has_no_value_leaves_the_load_to_who_asks() {
    let Some(program) = program() else { return };
    let (rust, go) = (RustPeer::start(), GoPeer::start(program));
    rust.node.set_peers([&go.url]).unwrap();
    for number in 0..5 {
        let key = format!("missing-{number}");
        assert!(matches!(rust.group.get(&key), Err(Error::NotFound)));
        assert_eq!((rust.loads_of(&key), go.loads_of(&key)), (1, 1));
    }
    let other = rust.node.group_builder("unknown to Go", 1 << 20);
    let other = other.build(|key| Ok(value_of(key))).unwrap();
    assert_eq!(other.get("key").unwrap(), value_of("key"));
    let peer = rust.peer(&go.url);
    assert_eq!((peer.calls, peer.call_errors), (6, 0));
}

#[test]
fn a_go_asker_gets_the_answers_of_a_go_owner() {
    let Some(program) = program() else { return };
    let (rust, go) = (RustPeer::start(), GoPeer::start(program));
    let address = |url: &str| url.trim_start_matches("http://").parse().unwrap();
    for request in [
        "GET /_groupcache/things/key",
        "GET /_groupcache/things/missing",
        "GET /_groupcache/things",
        "GET /_groupcache/nothing/key",
    ] {
        let [ours, theirs] = [rust.address, address(&go.url)].map(|peer| raw(peer, request));
        let status = |answer: &str| answer.split(' ').nth(1).unwrap().to_owned();
        assert_eq!(status(&ours), status(&theirs), "{request}");
        let kind = |answer: &str| {
            let lines = answer.lines();
            let mut kinds = lines.filter(|line| line.starts_with("Content-Type: "));
            kinds.next().unwrap().to_owned()
        };
        assert_eq!(kind(&ours), kind(&theirs), "{request}");
        let text = |answer: &str| answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        if status(&theirs) != "200" {
            assert_eq!(text(&ours), text(&theirs), "{request}");
        }
    }

    // Both have tried it by now. A failed load is tried again by who asked, as between Go peers.
    go.set_peers(&[&rust.url]);
    let error = go.get("missing").unwrap_err();
    assert!(error.contains("there is no value for this key"), "{error}");
    assert_eq!((rust.loads_of("missing"), go.loads_of("missing")), (2, 2));
    assert_eq!(go.count("PeerErrors"), 1);

    // Go runs every method as a GET; what looks like a change is refused here.
    go.get("kept").unwrap();
    for method in ["PUT", "DELETE", "POST"] {
        let answer = raw(rust.address, &format!("{method} {}", path("kept")));
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }
    assert!(rust.group.try_get("kept").is_some());
}

fn unreached(outcome: Result<(), Error>) -> Vec<Unreached> {
    match outcome {
        Err(Error::Unreached { peers }) => peers.to_vec(),
        other => panic!("it should name the Go peer: {other:?}"),
    }
}

#[test]
fn changes_reach_the_nodes_and_name_the_go_peers() {
    let Some(program) = program() else { return };
    let rust = [RustPeer::start(), RustPeer::start()];
    let go = GoPeer::start(program);
    join(&[&rust[0], &rust[1]], &[&go]);
    let key = rust[0].key_of(&rust[1].url, "key-");
    let of_go = rust[0].key_of(&go.url, "key-");
    rust[0].group.get(&key).unwrap();
    rust[0].group.get(&of_go).unwrap();
    let asked = go.count("ServerRequests");
    let changes = [
        rust[0].group.remove(&key),
        rust[0].group.set(&key, value_of("another")),
        rust[0].group.remove(&of_go),
        rust[0].group.set(&of_go, value_of("another")),
        rust[0].group.remove_many(&[&key, &of_go]),
        rust[0].group.clear(),
    ];
    for change in changes {
        let peers = unreached(change);
        assert_eq!(peers.len(), 1, "{peers:?}");
        assert_eq!(peers[0].peer, go.url);
        assert!(peers[0].unsupported && peers[0].reason.contains("unsupported"));
    }
    assert_eq!(go.count("ServerRequests"), asked, "nothing was sent");
    assert_eq!(rust[0].peer(&go.url).pending_removals, 0);
    assert_eq!(rust[1].loads_of(&key), 1);
    assert_eq!(rust[0].group.get(&key).unwrap(), value_of(&key));
    assert_eq!(rust[1].loads_of(&key), 2, "it was removed there");

    // A peer that nobody has asked yet is asked what it is, and no more.
    let unknown = GoPeer::start(program);
    join(&[&rust[0]], &[&unknown]);
    assert!(unreached(rust[0].group.remove(&key))[0].unsupported);
    assert_eq!(unknown.count("ServerRequests"), 0);
    assert_eq!(rust[0].peer(&unknown.url).dialect, Some(Dialect::Golang));
}

#[test]
fn a_slow_load_happens_once_whoever_asks() {
    let Some(program) = program() else { return };
    let patient = |node: groupcache_sync::NodeBuilder| {
        node.fetch_timeout(BRIEF).load_timeout(peers::PATIENCE)
    };
    let rust = RustPeer::start_at("127.0.0.1:0", patient);
    let go = GoPeer::start(program);
    join(&[&rust], &[&go]);
    let longer_than_a_fetch = |what: &dyn Fn() -> bool| {
        let end = Instant::now() + 3 * BRIEF;
        while Instant::now() < end {
            assert!(what(), "somebody loads a second time");
            thread::yield_now();
        }
    };

    let key = rust.key_of(&go.url, "slow-");
    go.hold(&key);
    thread::scope(|scope| {
        let getter = scope.spawn(|| rust.group.get(&key));
        eventually("Go loads", || go.loads_of(&key) == 1);
        longer_than_a_fetch(&|| rust.loads_of(&key) == 0 && go.loads_of(&key) == 1);
        go.release(&key);
        assert_eq!(getter.join().unwrap().unwrap(), value_of(&key));
    });
    assert_eq!((rust.loads(), go.loads()), (0, 1));

    let key = rust.key_of(&rust.url, "slow-");
    rust.hold(&key);
    thread::scope(|scope| {
        let getter = scope.spawn(|| go.get(&key));
        eventually("the node loads", || rust.loads_of(&key) == 1);
        longer_than_a_fetch(&|| rust.loads_of(&key) == 1 && go.loads_of(&key) == 0);
        rust.release(&key);
        assert_eq!(getter.join().unwrap().unwrap(), value_of(&key));
    });
    assert_eq!((rust.loads(), go.loads()), (1, 1));
}

#[test]
fn a_go_asker_is_let_go_after_the_load_timeout() {
    let Some(program) = program() else { return };
    let rust = RustPeer::start_at("127.0.0.1:0", |node| node.load_timeout(BRIEF));
    let go = GoPeer::start(program);
    join(&[&rust], &[&go]);
    let key = rust.key_of(&rust.url, "stuck-");
    rust.hold(&key);
    let answer = raw(rust.address, &format!("GET {}", path(&key)));
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(go.get(&key).unwrap(), value_of(&key));
    assert_eq!((rust.loads_of(&key), go.loads_of(&key)), (1, 1));
    rust.release(&key);
    eventually("the load completes", || rust.group.try_get(&key).is_some());
}

#[test]
fn a_go_peer_that_is_killed_is_replaced_and_found_again() {
    let Some(program) = program() else { return };
    let rust = [RustPeer::start(), RustPeer::start()];
    let go = GoPeer::start(program);
    join(&[&rust[0], &rust[1]], &[&go]);
    let url = go.url.clone();
    let keys: Vec<String> = (0..5)
        .map(|n| rust[0].key_of(&url, &format!("key-{n}-")))
        .collect();
    assert_eq!(rust[0].group.get(&keys[0]).unwrap(), value_of(&keys[0]));
    assert_eq!(go.loads_of(&keys[0]), 1);

    let address = go.kill();
    for key in &keys {
        for peer in &rust {
            assert_eq!(peer.group.get(key).unwrap(), value_of(key));
        }
    }
    assert!(rust.iter().all(|peer| peer.is_open(&url)));
    // What it spoke last still holds: nothing is pending for it.
    assert!(unreached(rust[0].group.remove(&keys[0]))[0].unsupported);
    assert_eq!(rust[0].peer(&url).pending_removals, 0);

    let go = GoPeer::start_at(program, &address);
    join(&[&rust[0], &rust[1]], &[&go]);
    for peer in &rust {
        eventually("its circuit closes", || !peer.is_open(&url));
    }
    let fresh = rust[0].key_of(&url, "fresh-");
    for peer in &rust {
        assert_eq!(peer.group.get(&fresh).unwrap(), value_of(&fresh));
        assert_eq!(peer.loads_of(&fresh), 0);
    }
    assert_eq!(go.loads_of(&fresh), 1);
}

#[test]
fn a_node_that_is_away_is_replaced_and_found_again_by_go() {
    let Some(program) = program() else { return };
    let mut rust = RustPeer::start();
    let go = GoPeer::start(program);
    join(&[&rust], &[&go]);
    let key = |prefix: &str| rust.key_of(&rust.url, prefix);
    let (before, unreachable, after) = (key("before-"), key("unreachable-"), key("after-"));
    assert_eq!(go.get(&before).unwrap(), value_of(&before));
    rust.stop_serving();
    assert_eq!(go.get(&unreachable).unwrap(), value_of(&unreachable));
    rust.serve_again();
    assert_eq!(go.get(&after).unwrap(), value_of(&after));
    let loads = |key| (rust.loads_of(key), go.loads_of(key));
    assert_eq!(loads(&before), (1, 0));
    assert_eq!(loads(&unreachable), (0, 1));
    assert_eq!(loads(&after), (1, 0));
}

#[test]
fn a_go_peer_that_is_stopped_costs_no_more_than_the_load_timeout() {
    let Some(program) = program() else { return };
    let brief =
        |node: groupcache_sync::NodeBuilder| node.fetch_timeout(BRIEF).load_timeout(2 * BRIEF);
    let rust = RustPeer::start_at("127.0.0.1:0", brief);
    let go = GoPeer::start(program);
    join(&[&rust], &[&go]);
    go.stop();
    for number in 0..3 {
        let key = rust.key_of(&go.url, &format!("stopped-{number}-"));
        assert_eq!(rust.group.get(&key).unwrap(), value_of(&key));
        assert_eq!(rust.loads_of(&key), 1);
    }
    assert!(rust.is_open(&go.url));
    go.signal("CONT");
    eventually("its circuit closes", || !rust.is_open(&go.url));
}

#[test]
fn a_node_in_the_place_of_a_go_process_is_known_by_its_first_answer() {
    let Some(program) = program() else { return };
    let rust = RustPeer::start();
    let go = GoPeer::start(program);
    join(&[&rust], &[&go]);
    let url = go.url.clone();
    let key = rust.key_of(&url, "moved-");
    assert_eq!(rust.group.get(&key).unwrap(), value_of(&key));
    assert!(unreached(rust.group.remove(&key))[0].unsupported);

    let successor = RustPeer::start_at(&go.kill(), |node| node);
    join(&[&rust, &successor], &[]);
    assert_eq!(rust.group.get(&key).unwrap(), value_of(&key));
    assert_eq!(rust.peer(&url).dialect, Some(Dialect::Native));
    rust.group.remove(&key).unwrap();
    assert_eq!(successor.loads_of(&key), 1);
    rust.group.get(&key).unwrap();
    assert_eq!(successor.loads_of(&key), 2);
}

#[test]
fn the_go_process_ends_when_it_is_told_to() {
    let Some(program) = program() else { return };
    let mut go = GoPeer::start(program);
    go.signal("TERM");
    assert_eq!(go.wait(), Some(0));
}
