//! How long gets and loads took, by what came of them.

use std::time::Duration;

use groupcache_sync::{Clock, Fault, LoadError, Node, Value};

use crate::cluster::{Cluster, GROUP, address, eventually, value_of};

const SLOW: Duration = Duration::from_millis(300);

#[test]
fn a_get_counts_by_what_came_of_it() {
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node,
        |group| group,
        |key| match key.rsplit(' ').next() {
            Some("none") => Err(LoadError::NotFound),
            Some("bad") => Err("no".into()),
            _ => Ok(value_of(key)),
        },
    );
    let (own, other) = (cluster.key_owned_by(0), cluster.key_owned_by(1));
    let group = &cluster.groups[0];
    group.get(&own).unwrap();
    group.get(&own).unwrap(); // a hit, which is not timed
    group.get(&other).unwrap();
    group.get("none").unwrap_err();
    group.get("bad").unwrap_err();
    let found = group.latencies();
    assert_eq!(found.load.count(), 1);
    assert_eq!(found.peer.count(), 1);
    assert_eq!(found.not_found.count(), 1);
    assert_eq!(found.failed.count(), 1);
    assert_eq!(found.joined.count(), 0);
    // Every get that missed is in one of them.
    let stats = group.stats();
    let timed = [
        &found.peer,
        &found.load,
        &found.joined,
        &found.not_found,
        &found.failed,
    ];
    let timed: u64 = timed.iter().map(|latency| latency.count()).sum();
    assert_eq!(timed, stats.gets - stats.main_hits - stats.hot_hits);
    assert_eq!(
        cluster.nodes[0].group_latencies(),
        [(GROUP.to_owned(), found)]
    );
}

#[test]
fn times_are_those_of_the_clock() {
    let clock = Clock::manual();
    let network = groupcache_sync::Network::new();
    let builder = network.builder("http://a:1").unwrap().clock(clock.clone());
    let node = builder.build().unwrap();
    let group = node
        .group_builder("g", 1 << 20)
        .build(move |key| {
            clock.advance(SLOW);
            Ok(Value::from(key))
        })
        .unwrap();
    for key in ["a", "b"] {
        group.get(key).unwrap();
    }
    let found = group.latencies();
    for latency in [&found.load, &found.loader] {
        assert_eq!(latency.count(), 2);
        assert_eq!(latency.sum(), 2 * SLOW);
        let median = latency.quantile(0.5).unwrap();
        assert!(median >= SLOW && median < SLOW * 9 / 8, "{median:?}");
    }
}

#[test]
fn keys_of_a_batch_count_each_and_its_load_once() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let group = node
        .group_builder("g", 1 << 20)
        .batch_loader(|keys| {
            Ok(keys
                .iter()
                .map(|key| (key.to_string(), Value::from(*key)))
                .collect::<std::collections::HashMap<_, _>>())
        })
        .build(|key| Ok(Value::from(key)))
        .unwrap();
    group.get("a").unwrap();
    for outcome in group.get_many(&["a", "b", "c"]) {
        outcome.unwrap();
    }
    let found = group.latencies();
    assert_eq!((found.load.count(), found.loader.count()), (3, 2));
}

#[test]
fn one_who_joins_counts_as_such() {
    let (entered, inside) = std::sync::mpsc::channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let group = node
        .group_builder("g", 1 << 20)
        .build(move |key| {
            entered.send(()).unwrap();
            gate.lock().unwrap().recv().unwrap();
            Ok(Value::from(key))
        })
        .unwrap();
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| group.get("a"));
        inside.recv().unwrap();
        assert_eq!(group.stats().loads_running, 1);
        let joiner = scope.spawn(|| group.get("a"));
        eventually("it joins", || group.stats().joined == 1);
        go.send(()).unwrap();
        leader.join().unwrap().unwrap();
        joiner.join().unwrap().unwrap();
    });
    let found = group.latencies();
    assert_eq!((found.load.count(), found.joined.count()), (1, 1));
    assert_eq!(group.stats().loads_running, 0);
    assert_eq!(group.stats().capacity_bytes, 1 << 20);
}

#[test]
fn a_peer_has_the_times_of_the_calls_that_it_answered() {
    let cluster = Cluster::new(2);
    let key = cluster.key_owned_by(1);
    cluster.groups[0].get(&key).unwrap();
    let peer = |index: usize| {
        let stats = cluster.nodes[0].stats();
        let mut peers = stats.peers.into_iter();
        peers.find(|peer| peer.address == address(index)).unwrap()
    };
    assert_eq!(peer(1).latency.count(), 1);
    assert_eq!(peer(0).latency.count(), 0);
    cluster.network.set_fault(&address(1), Some(Fault::Refuses));
    cluster.groups[0].remove(&key).unwrap_err();
    assert!(peer(1).call_errors > 0);
    assert_eq!(peer(1).latency.count(), 1);
}
