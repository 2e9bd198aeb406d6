//! P1: one load per key and generation in a process, one in a stable cluster.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_sync::{CircuitState, Clock, Error, LoadError, Network, Source, Value};

use crate::cluster::{Cluster, GROUP, address, eventually, together, value_of};

#[test]
fn a_thousand_threads_on_one_cold_key_load_it_once() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let cluster = Cluster::with(
        1,
        Clock::system(),
        |node| node,
        |group| group,
        move |key| {
            gate.lock().unwrap().recv()?;
            Ok(value_of(key))
        },
    );
    let group = &cluster.groups[0];
    let values = std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("all others wait", || group.stats().joined == 999);
            release.send(()).unwrap();
        });
        together(1_000, |_| group.get("cold").unwrap())
    });
    assert!(values.iter().all(|value| *value == value_of("cold")));
    assert_eq!(cluster.loads.of("cold"), 1);
    let stats = group.stats();
    assert_eq!((stats.leads, stats.joined, stats.flights), (1, 999, 0));
    assert_eq!(stats.gets, 1_000);
}

#[test]
fn three_nodes_with_many_threads_load_each_key_once_at_its_owner() {
    let cluster = Cluster::with(
        3,
        Clock::system(),
        |node| node.fetch_timeout(Duration::from_secs(30)),
        |group| group,
        |key| Ok(value_of(key)),
    );
    let keys: Vec<String> = (0..1_000).map(|number| format!("key {number}")).collect();
    together(24, |thread| {
        let group = &cluster.groups[thread % 3];
        // Every thread starts elsewhere, so that all nodes ask for all keys at about the same time.
        for step in 0..keys.len() {
            let key = &keys[(step + thread * 40) % keys.len()];
            assert_eq!(group.get(key).unwrap(), value_of(key));
        }
    });
    for key in &keys {
        assert_eq!(cluster.loads.of(key), 1, "{key}");
    }
    assert_eq!(cluster.loads.all(), 1_000);
    for group in &cluster.groups {
        let stats = group.stats();
        // What a node loaded it owns: all of it is in its main cache, and it fetched the rest.
        assert_eq!(stats.loads, stats.main_items);
        assert_eq!(stats.fetch_errors, 0);
        assert!(
            stats.main_items > 200,
            "a lopsided ring: {}",
            stats.main_items
        );
        assert_eq!(
            stats.gets,
            stats.main_hits + stats.hot_hits + stats.joined + stats.leads
        );
    }
}

#[test]
fn a_slow_loader_is_not_a_dead_peer() {
    // The loader takes three times the fetch timeout, on a clock that moves when told.
    let (release, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let cluster = Cluster::with(
        3,
        Clock::manual(),
        |node| node,
        |group| group,
        move |key| {
            gate.lock().unwrap().recv()?;
            Ok(value_of(key))
        },
    );
    std::thread::scope(|scope| {
        let askers: Vec<_> = cluster
            .groups
            .iter()
            .map(|group| scope.spawn(move || group.get("slow").unwrap()))
            .collect();
        eventually("it loads", || cluster.loads.all() == 1);
        for _ in 0..30 {
            let calls = || -> u64 {
                let peers = cluster.nodes.iter().flat_map(|node| node.stats().peers);
                peers.map(|peer| peer.calls).sum()
            };
            let before = calls();
            cluster.advance_when(2, Duration::from_millis(500));
            eventually("both ask again", || calls() >= before + 2);
        }
        release.send(()).unwrap();
        for asker in askers {
            assert_eq!(asker.join().unwrap(), value_of("slow"));
        }
    });
    assert_eq!(cluster.loads.of("slow"), 1);
    for node in &cluster.nodes {
        for peer in node.stats().peers {
            assert_eq!(peer.circuit, CircuitState::Closed);
            assert_eq!(peer.call_errors, 0);
        }
    }
}

#[test]
fn a_failed_load_reaches_all_waiters_with_its_source_and_is_not_cached() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let cluster = Cluster::with(
        1,
        Clock::system(),
        |node| node,
        |group| group,
        move |_| {
            gate.lock().unwrap().recv()?;
            Err("the disk is on fire".into())
        },
    );
    let group = &cluster.groups[0];
    let errors = std::thread::scope(|scope| {
        scope.spawn(|| {
            eventually("all others wait", || group.stats().joined == 63);
            release.send(()).unwrap();
        });
        together(64, |_| group.get("k").unwrap_err())
    });
    for error in errors {
        let Error::Load { source } = error else {
            panic!("{error:?}");
        };
        assert_eq!(source.to_string(), "the disk is on fire");
    }
    assert_eq!(cluster.loads.all(), 1);
    release.send(()).unwrap();
    assert!(group.get("k").is_err());
    assert_eq!(cluster.loads.all(), 2, "the next get loads again");
    assert_eq!(group.stats().load_errors, 2);
}

#[test]
fn not_found_is_an_answer_and_is_not_loaded_twice() {
    let cluster = Cluster::with(
        3,
        Clock::manual(),
        |node| node,
        |group| group,
        |_| Err(LoadError::NotFound),
    );
    for (asked, group) in cluster.groups.iter().enumerate() {
        for key in 0..20 {
            let key = format!("{asked} {key}");
            assert!(matches!(group.get(&key), Err(Error::NotFound)));
            assert_eq!(
                cluster.loads.of(&key),
                1,
                "not here after the owner said so"
            );
        }
    }
    assert!(
        cluster
            .groups
            .iter()
            .all(|group| group.stats().fetch_errors == 0)
    );
}

#[test]
fn a_value_says_where_it_came_from() {
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node,
        |group| group.hot_threshold(0.0),
        |key| Ok(value_of(key)),
    );
    let key = cluster.key_owned_by(0);
    let source = |node: usize| {
        let got = cluster.groups[node].get_entry(&key, groupcache_sync::Deadline::NEVER);
        got.unwrap().source
    };
    assert_eq!(source(0), Source::Load);
    assert_eq!(source(0), Source::Main);
    assert_eq!(source(1), Source::Peer);
    assert_eq!(source(1), Source::Hot);
}

#[test]
fn only_popular_values_are_mirrored() {
    let clock = Clock::manual();
    let cluster = Cluster::with(
        2,
        clock,
        |node| node,
        |group| group,
        |key| Ok(value_of(key)),
    );
    let key = cluster.key_owned_by(0);
    cluster.groups[1].get(&key).unwrap();
    assert_eq!(
        cluster.groups[1].stats().hot_items,
        0,
        "one request is not popular"
    );
    for _ in 0..100 {
        cluster.advance(Duration::from_millis(50));
        cluster.groups[1].get(&key).unwrap();
    }
    let stats = cluster.groups[1].stats();
    assert_eq!(stats.hot_items, 1, "twenty requests a second are");
    assert!(stats.hot_hits > 50, "{}", stats.hot_hits);
    assert_eq!(cluster.loads.of(&key), 1);
}

/// A request of a peer is answered here and never forwarded (I5): each of these would go round for ever.
#[test]
fn rings_that_disagree_and_a_node_under_two_names_still_answer() {
    let network = Network::new();
    let load = |key: &str| Ok(value_of(key));
    let nodes: Vec<_> = (0..2)
        .map(|index| network.node(&address(index)).unwrap())
        .collect();
    let groups: Vec<_> = nodes
        .iter()
        .map(|node| node.group_builder(GROUP, 1 << 20).build(load).unwrap())
        .collect();
    // Each believes that a third one, which is the other under a second name, owns much.
    let alias = |index: usize| format!("http://alias-{index}:1");
    for index in 0..2 {
        let same = network.node(&alias(index)).unwrap();
        drop(same); // it refuses
    }
    nodes[0]
        .set_peers([address(0), address(1), alias(1)])
        .unwrap();
    nodes[1]
        .set_peers([address(1), address(0), alias(0)])
        .unwrap();
    for key in 0..200 {
        let key = format!("key {key}");
        let before: u64 = groups.iter().map(|group| group.stats().loads).sum();
        for group in &groups {
            assert_eq!(group.get(&key).unwrap(), value_of(&key));
        }
        let after: u64 = groups.iter().map(|group| group.stats().loads).sum();
        assert!(
            after - before <= 2,
            "{key} was loaded {} times",
            after - before
        );
    }
    let mismatches: u64 = nodes.iter().map(|node| node.stats().ring_mismatches).sum();
    assert!(mismatches > 0, "disagreement is visible");
}

#[test]
fn two_nodes_that_each_think_the_other_owns_a_key_answer_with_two_loads_at_most() {
    // Each list lacks its own node, so each sends every key to the other.
    let network = Network::new();
    let load = |key: &str| Ok(Value::from(key));
    let builder = |index| network.builder(address(index)).unwrap().allow_absent(true);
    let nodes: Vec<_> = (0..2)
        .map(|index| builder(index).build().unwrap())
        .collect();
    let groups: Vec<_> = nodes
        .iter()
        .map(|node| {
            network.attach(node);
            node.group_builder(GROUP, 1 << 20).build(load).unwrap()
        })
        .collect();
    nodes[0].set_peers([address(1)]).unwrap();
    nodes[1].set_peers([address(0)]).unwrap();
    together(16, |thread| {
        for key in 0..100 {
            let key = key.to_string();
            assert_eq!(
                groups[thread % 2].get(&key).unwrap(),
                Value::from(key.as_str())
            );
        }
    });
    for group in &groups {
        assert!(group.stats().loads <= 100, "{}", group.stats().loads);
    }
}
