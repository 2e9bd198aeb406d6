//! Bad input to the API: a clear error that names the value and says what to do, never a panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use groupcache_sync::{
    ENTRY_OVERHEAD, Error, EvictionCause, Group, LoadError, Network, Node, Peer, Request, Value,
};

use crate::cluster::value_of;

fn node() -> Node {
    Node::new("http://127.0.0.1:7000").unwrap()
}

fn message(outcome: Result<impl Sized, Error>) -> String {
    match outcome {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    }
}

fn build(builder: groupcache_sync::GroupBuilder) -> Result<Group, Error> {
    builder.build(|key| Ok(value_of(key)))
}

#[test]
fn bad_groups_are_refused_by_name() {
    let node = node();
    let _first = build(node.group_builder("taken", 1 << 20)).unwrap();
    let twice = message(build(node.group_builder("taken", 1 << 20)));
    assert!(
        twice.contains("\"taken\"") && twice.contains("choose another name"),
        "{twice}"
    );
    assert!(message(build(node.group_builder("", 1 << 20))).contains("setting name"));
    assert!(message(build(node.group_builder(&"n".repeat(256), 1 << 20))).contains("256 bytes"));
    assert!(message(build(node.group_builder("g", 0))).contains("capacity_bytes"));
    let builder = || node.group_builder("g", 1 << 20);
    assert!(message(build(builder().hot_bytes(2 << 20))).contains("hot_bytes"));
    assert!(message(build(builder().ttl_jitter(1.5))).contains("ttl_jitter"));
    assert!(message(build(builder().ttl_jitter(f64::NAN))).contains("ttl_jitter"));
    assert!(message(build(builder().hot_threshold(f64::NAN))).contains("hot_threshold"));
    assert!(message(build(builder().shards(0))).contains("shards"));
    assert_eq!(node.group_stats().len(), 1, "nothing of it was kept");
    assert!(node.remove_group("taken") && !node.remove_group("taken"));
    build(node.group_builder("taken", 1 << 20)).unwrap();
}

#[test]
fn bad_nodes_are_refused() {
    assert!(message(Node::new("127.0.0.1:7000")).contains("must begin with http://"));
    let builder = || Node::builder("http://a:1").unwrap();
    assert!(message(builder().loader_threads(0).build()).contains("loader_threads"));
    for timeout in [
        builder().connect_timeout(Duration::ZERO).build(),
        builder().fetch_timeout(Duration::ZERO).build(),
        builder().load_timeout(Duration::ZERO).build(),
    ] {
        assert!(message(timeout).contains("zero"));
    }
}

#[test]
fn bad_peer_lists_are_refused_and_change_nothing() {
    let node = node();
    let ring = node.stats().ring;
    let missing = message(node.set_peers(["http://10.0.0.1:7000"]));
    assert!(missing.contains("http://127.0.0.1:7000"), "{missing}");
    let malformed = message(node.set_peers(["http://127.0.0.1:7000", "10.0.0.1"]));
    assert!(malformed.contains("10.0.0.1"), "{malformed}");
    let peer = |address: &str| Peer::new(address).unwrap().with_name("x");
    let twice = [node.this().clone(), peer("http://a:1"), peer("http://b:1")];
    assert!(message(node.set_peers(twice)).contains("twice"));
    assert!(message(node.remove_peer("http://127.0.0.1:7000")).contains("allow_absent"));
    assert_eq!(node.set_peers(Vec::<Peer>::new()).map_err(|_| ()), Err(()));
    assert_eq!(node.stats().ring, ring);
    assert!(!node.remove_peer("http://10.0.0.9:1").unwrap());
}

#[test]
fn a_peer_that_stays_keeps_its_connection_state_and_the_order_does_not_matter() {
    let network = Network::new();
    let node = network.node("http://a:1").unwrap();
    let group = build(node.group_builder("g", 1 << 20)).unwrap();
    node.set_peers(["http://a:1", "http://b:1"]).unwrap();
    let owned = (0..)
        .map(|n| n.to_string())
        .find(|k| node.owner(k).address() == "http://b:1");
    group.get(&owned.unwrap()).unwrap();
    let calls = || -> u64 { node.stats().peers.iter().map(|peer| peer.calls).sum() };
    let (before, ring) = (calls(), node.stats().ring);
    assert!(before > 0);
    node.set_peers(["http://b:1", "http://a:1"]).unwrap();
    assert_eq!(node.stats().ring, ring);
    assert_eq!(calls(), before);
}

#[test]
fn an_absent_node_owns_nothing_and_asks_the_owners() {
    let network = Network::new();
    let owner = network.node("http://owner:1").unwrap();
    let _on_owner = build(owner.group_builder("g", 1 << 20)).unwrap();
    let absent = network
        .builder("http://absent:1")
        .unwrap()
        .allow_absent(true)
        .build()
        .unwrap();
    let group = build(absent.group_builder("g", 1 << 20)).unwrap();
    absent.set_peers(["http://owner:1"]).unwrap();
    for key in 0..50 {
        group.get(&key.to_string()).unwrap();
    }
    assert_eq!((group.stats().loads, group.stats().fetches), (0, 50));
}

#[test]
fn requests_that_make_no_sense_get_4xx_and_change_nothing() {
    let node = node();
    let group = build(node.group_builder("g", 1 << 20)).unwrap();
    group.get("k").unwrap();
    let before = group.stats();
    let ask = |method: &str, target: &str, body: &[u8]| {
        let request = Request::new(method, target).header("X-Groupcache", "v=1");
        node.answer(&request.body(body)).status()
    };
    let long = format!("/_groupcache/g/{}", "k".repeat(16_001));
    for (method, target, status) in [
        ("GET", "/_groupcache/other/k", 404),
        ("GET", "/elsewhere", 404),
        ("GET", "", 404),
        ("POST", "/_groupcache/g/k", 405),
        ("PATCH", "/_groupcache/g/k", 405),
        ("get", "/_groupcache/g/k", 405),
        ("GET", "/_groupcache/g", 405),
        ("DELETE", "/_groupcache/g", 405),
        ("GET", "/_groupcache//k", 400),
        ("GET", "/_groupcache/g/%zz", 400),
        ("GET", "/_groupcache/g/%ff", 400),
        ("GET", "/_groupcache/g/a?b", 400),
        ("PUT", "/_groupcache/g/k", 400),
        ("POST", "/_groupcache/g", 400),
        ("GET", long.as_str(), 414),
    ] {
        assert_eq!(ask(method, target, b""), status, "{method} {target:.40}");
    }
    assert_eq!(ask("PUT", "/_groupcache/g/k", b"\xff\xff\xff"), 400);
    assert_eq!(ask("POST", "/_groupcache/g", b"\x00"), 400);
    assert_eq!(group.stats(), before);
    assert_eq!(
        ask("GET", "/_groupcache/", b""),
        200,
        "the node itself is alive"
    );
}

#[test]
fn a_group_without_its_node_still_serves() {
    let node = node();
    let group = build(node.group_builder("g", 1 << 20)).unwrap();
    drop(node);
    assert_eq!(group.get("k").unwrap(), value_of("k"));
    assert_eq!(
        group.get_timeout("l", Duration::from_secs(60)).unwrap(),
        value_of("l")
    );
    group.set("k", Value::from("new")).unwrap();
    assert_eq!(group.try_get("k"), Some(Value::from("new")));
    group.remove("k").unwrap();
    assert_eq!(group.try_get("k"), None);
}

#[test]
fn handles_may_be_used_from_any_thread() {
    fn shared<T: Clone + Send + Sync + 'static>() {}
    shared::<Node>();
    shared::<Group>();
    shared::<Group<String>>();
    shared::<Error>();
}

#[test]
fn a_capacity_that_changes_evicts_what_is_over_and_refuses_what_holds_nothing() {
    const ENTRY: usize = ENTRY_OVERHEAD + 100;
    let left = Arc::new(AtomicUsize::new(0));
    let heard = Arc::clone(&left);
    let builder = node().group_builder("g", 320 * ENTRY);
    let builder = builder
        .negative_ttl(Duration::from_secs(60))
        .eviction_listener(move |_, _, cause| {
            assert!(matches!(
                cause,
                EvictionCause::Size | EvictionCause::Rejected
            ));
            heard.fetch_add(1, Ordering::Relaxed);
        });
    let group = builder
        .build(|key| match key.parse::<u32>()? % 2 {
            0 => Ok(Value::copy_from(&[0; 97])),
            _ => Err(LoadError::NotFound),
        })
        .unwrap();
    let fill = || {
        for key in 100..600 {
            let _ = group.get(&key.to_string());
        }
        let stats = group.stats();
        (stats.main_bytes + stats.hot_bytes) as usize
    };
    let all = fill();
    assert_eq!(left.load(Ordering::Relaxed), 0);
    assert!(all > 160 * ENTRY && all <= 320 * ENTRY, "{all}");

    group.set_capacity(32 * ENTRY).unwrap();
    let stats = group.stats();
    let bytes = (stats.main_bytes + stats.hot_bytes) as usize;
    assert!(bytes <= 32 * ENTRY && bytes > 28 * ENTRY, "{bytes}");
    assert_eq!(stats.capacity_bytes as usize, 32 * ENTRY);
    assert!(stats.absent_items < 32, "{}", stats.absent_items);
    assert_eq!(
        left.load(Ordering::Relaxed) as u64 + stats.main_items - stats.absent_items,
        250
    );
    assert!(fill() <= 32 * ENTRY);

    let refused = message(group.set_capacity(ENTRY_OVERHEAD));
    assert!(refused.contains("capacity_bytes"), "{refused}");
    assert_eq!(group.stats().capacity_bytes as usize, 32 * ENTRY);

    group.set_capacity(320 * ENTRY).unwrap();
    assert_eq!(fill(), all, "the old capacity takes as much as before");
}
