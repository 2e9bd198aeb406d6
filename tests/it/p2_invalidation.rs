//! P2: a get that starts after a `remove` or a `set` returned never sees an older value.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use groupcache_sync::{Clock, Error, Fault, Loaded, Source, Value};

use crate::cluster::{Cluster, address, eventually, together};

/// A cluster whose loader returns the version it saw when the load began.
fn versioned(size: usize) -> (Cluster, Arc<AtomicU64>) {
    let version = Arc::new(AtomicU64::new(1));
    let source = Arc::clone(&version);
    let cluster = Cluster::with(
        size,
        Clock::manual(),
        |node| node,
        |group| group.hot_threshold(0.0),
        move |_| Ok(Value::from(source.load(Ordering::SeqCst).to_string())),
    );
    (cluster, version)
}

fn seen(cluster: &Cluster, node: usize, key: &str) -> u64 {
    let value = cluster.groups[node].get(key).unwrap();
    value.as_str().unwrap().parse().unwrap()
}

#[test]
fn after_remove_no_node_serves_the_old_value() {
    let (cluster, version) = versioned(3);
    for key in 0..50 {
        let key = format!("key {key}");
        (0..3).for_each(|node| assert!(seen(&cluster, node, &key) >= 1));
        let remover = key.len() % 3;
        let new = version.fetch_add(1, Ordering::SeqCst) + 1;
        cluster.groups[remover].remove(&key).unwrap();
        for node in 0..3 {
            assert_eq!(seen(&cluster, node, &key), new, "{key} on node {node}");
        }
    }
}

#[test]
fn after_set_every_node_serves_the_new_value() {
    let (cluster, _) = versioned(3);
    for number in 0..50 {
        let key = format!("key {number}");
        (0..3).for_each(|node| assert_eq!(seen(&cluster, node, &key), 1));
        let new = 1_000 + number;
        let setter = number as usize % 3;
        cluster.groups[setter]
            .set(&key, Value::from(new.to_string()))
            .unwrap();
        for node in 0..3 {
            assert_eq!(seen(&cluster, node, &key), new, "{key} on node {node}");
        }
        assert_eq!(cluster.loads.of(&key), 1, "a set value is not loaded");
    }
}

#[test]
fn after_clear_no_node_serves_any_old_value() {
    let (cluster, version) = versioned(3);
    let keys: Vec<String> = (0..50).map(|key| format!("key {key}")).collect();
    for key in &keys {
        (0..3).for_each(|node| assert_eq!(seen(&cluster, node, key), 1));
    }
    version.store(2, Ordering::SeqCst);
    cluster.groups[1].clear().unwrap();
    assert!(
        cluster
            .groups
            .iter()
            .all(|group| group.stats().main_items == 0)
    );
    for key in &keys {
        (0..3).for_each(|node| assert_eq!(seen(&cluster, node, key), 2));
    }
}

#[test]
fn a_load_under_way_when_its_key_is_removed_is_not_kept_and_not_joined() {
    let (started, has_started) = mpsc::channel();
    let (release, gate) = mpsc::channel::<Value>();
    let gate = Arc::new(Mutex::new(gate));
    let cluster = Cluster::with(
        1,
        Clock::system(),
        |node| node,
        |group| group,
        move |_| {
            started.send(())?;
            Ok(gate.lock().unwrap().recv()?)
        },
    );
    let group = &cluster.groups[0];
    std::thread::scope(|scope| {
        let old = scope.spawn(|| group.get("k").unwrap());
        has_started.recv().unwrap();
        group.remove("k").unwrap();
        // A get that starts now must not join the old load: it begins one of its own.
        let new = scope.spawn(|| {
            eventually("the old load has ended", || old.is_finished());
            old.join().unwrap()
        });
        let fresh = scope.spawn(|| group.get("k").unwrap());
        release.send(Value::from("old")).unwrap();
        assert_eq!(
            new.join().unwrap(),
            Value::from("old"),
            "those who waited still get it"
        );
        has_started.recv().unwrap();
        release.send(Value::from("new")).unwrap();
        assert_eq!(fresh.join().unwrap(), Value::from("new"));
    });
    assert_eq!(
        group.get("k").unwrap(),
        Value::from("new"),
        "only the new one is kept"
    );
    assert_eq!(cluster.loads.of("k"), 2);
}

#[test]
fn a_fetch_under_way_when_its_key_is_removed_is_not_kept() {
    let (started, has_started) = mpsc::channel();
    let (release, gate) = mpsc::channel::<Value>();
    let gate = Arc::new(Mutex::new(gate));
    let cluster = Cluster::with(
        2,
        Clock::system(),
        |node| node.fetch_timeout(Duration::from_secs(60)),
        |group| group.hot_threshold(0.0),
        move |_| {
            started.send(())?;
            Ok(gate.lock().unwrap().recv()?)
        },
    );
    let key = cluster.key_owned_by(0);
    std::thread::scope(|scope| {
        let old = scope.spawn(|| cluster.groups[1].get(&key).unwrap());
        has_started.recv().unwrap();
        cluster.groups[1].remove(&key).unwrap();
        release.send(Value::from("old")).unwrap();
        assert_eq!(old.join().unwrap(), Value::from("old"));
    });
    assert!(
        cluster
            .groups
            .iter()
            .all(|group| group.try_get(&key).is_none())
    );
    release.send(Value::from("new")).unwrap();
    assert_eq!(cluster.groups[1].get(&key).unwrap(), Value::from("new"));
}

#[test]
fn an_unreachable_peer_is_named_and_the_others_are_changed() {
    let (cluster, version) = versioned(3);
    let key = cluster.key_owned_by(0);
    (0..3).for_each(|node| assert_eq!(seen(&cluster, node, &key), 1));
    cluster.network.set_fault(&address(2), Some(Fault::Refuses));
    version.store(2, Ordering::SeqCst);
    let Err(Error::Unreached { peers }) = cluster.groups[1].remove(&key) else {
        panic!("the peer that is unreachable must be named");
    };
    let named: Vec<&str> = peers
        .iter()
        .map(|unreached| unreached.peer.as_str())
        .collect();
    assert_eq!(named, [address(2)]);
    assert_eq!(seen(&cluster, 0, &key), 2);
    assert_eq!(seen(&cluster, 1, &key), 2);
}

#[test]
fn a_set_value_lives_as_long_as_it_was_given() {
    let (cluster, _) = versioned(2);
    let second = Duration::from_secs(1);
    let key = cluster.key_owned_by(0);
    for setter in 0..2 {
        let value = Loaded::new(Value::from("77")).ttl(10 * second);
        cluster.groups[setter].set(&key, value).unwrap();
        assert_eq!(seen(&cluster, 0, &key), 77);
        assert_eq!(seen(&cluster, 1, &key), 77);
        cluster.advance(10 * second);
        assert_eq!(seen(&cluster, 0, &key), 1);
        assert_eq!(seen(&cluster, 1, &key), 1);
    }
}

#[test]
fn a_set_of_a_value_of_zero_life_keeps_nothing_and_removes_the_old_one() {
    let (cluster, version) = versioned(2);
    let key = cluster.key_owned_by(0);
    assert_eq!(seen(&cluster, 1, &key), 1);
    version.store(2, Ordering::SeqCst);
    let nothing = Loaded::new(Value::from("99")).ttl(Duration::ZERO);
    cluster.groups[1].set(&key, nothing).unwrap();
    assert_eq!(seen(&cluster, 0, &key), 2);
}

#[test]
fn no_stale_read_while_threads_get_remove_and_set() {
    // Every key has a version that only grows. Whoever removes or sets first raises it; a get that
    // starts afterwards must see at least the version that was there when the last change ended.
    let versions: Arc<Mutex<HashMap<String, u64>>> = Arc::default();
    let source = Arc::clone(&versions);
    let cluster = Cluster::with(
        3,
        Clock::system(),
        |node| node.fetch_timeout(Duration::from_secs(60)),
        |group| group.hot_threshold(0.0),
        move |key| {
            let version = source.lock().unwrap().get(key).copied().unwrap_or(0);
            Ok(Value::from(version.to_string()))
        },
    );
    let floors: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    together(12, |thread| {
        let group = &cluster.groups[thread % 3];
        for step in 0..400_u64 {
            let number = (step as usize + thread) % 4;
            let key = format!("key {number}");
            if thread < 3 && step % 5 == 0 {
                let version = {
                    let mut versions = versions.lock().unwrap();
                    let version = versions.entry(key.clone()).or_default();
                    *version += 1;
                    *version
                };
                group.remove(&key).unwrap();
                floors[number].fetch_max(version, Ordering::SeqCst);
            } else {
                let floor = floors[number].load(Ordering::SeqCst);
                let seen: u64 = group.get(&key).unwrap().as_str().unwrap().parse().unwrap();
                assert!(seen >= floor, "{key}: saw {seen} after {floor} was removed");
            }
        }
    });
}

#[test]
fn a_removed_value_is_loaded_again_by_its_owner_only() {
    let (cluster, _) = versioned(3);
    let key = cluster.key_owned_by(2);
    let before = cluster.loads.of(&key);
    cluster.groups[0].remove(&key).unwrap();
    let got = cluster.groups[0]
        .get_entry(&key, groupcache_sync::Deadline::NEVER)
        .unwrap();
    assert_eq!(got.source, Source::Peer);
    assert_eq!(cluster.loads.of(&key), before + 1);
}

#[test]
fn many_keys_are_removed_on_all_nodes() {
    let (cluster, version) = versioned(3);
    let keys: Vec<String> = (0..300).map(|key| format!("key {key}")).collect();
    for key in &keys {
        (0..3).for_each(|node| assert_eq!(seen(&cluster, node, key), 1));
    }
    version.store(2, Ordering::SeqCst);
    let calls = || -> u64 {
        let peers = cluster.nodes[1].stats().peers;
        peers.iter().map(|peer| peer.calls).sum()
    };
    let before = calls();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    cluster.groups[1].remove_many(&keys).unwrap();
    // Each peer: 200 keys that it owns or is the deputy of, then 150 others, in requests of 64.
    assert!(calls() - before <= 16, "{} requests", calls() - before);
    for key in keys {
        (0..3).for_each(|node| assert_eq!(seen(&cluster, node, key), 2, "{key}"));
    }
    cluster.groups[0].remove_many::<&str>(&[]).unwrap();
}

/// Advances the clock until nothing is pending to anyone.
fn settle(cluster: &Cluster, node: usize) {
    cluster.advance_until(Duration::from_secs(1), || {
        let peers = cluster.nodes[node].stats().peers;
        peers.iter().all(|peer| peer.pending_removals == 0)
    });
}

#[test]
fn a_removal_that_a_peer_missed_is_delivered_when_it_is_back() {
    for change in ["remove", "set", "clear"] {
        let (cluster, version) = versioned(3);
        let key = cluster.key_owned_by(1);
        (0..3).for_each(|node| assert_eq!(seen(&cluster, node, &key), 1));
        for unreachable in [1, 2] {
            cluster
                .network
                .set_fault(&address(unreachable), Some(Fault::Refuses));
            version.fetch_add(1, Ordering::SeqCst);
            let group = &cluster.groups[0];
            let outcome = match change {
                "remove" => group.remove(&key),
                "set" => group.set(&key, Value::from("1000")),
                _ => group.clear(),
            };
            assert!(matches!(outcome, Err(Error::Unreached { .. })), "{change}");
            let pending: u64 = cluster.nodes[0]
                .stats()
                .peers
                .iter()
                .map(|peer| peer.pending_removals)
                .sum();
            assert!(pending > 0);
            cluster.network.set_fault(&address(unreachable), None);
            settle(&cluster, 0);
            assert!(
                cluster.groups[unreachable].try_get(&key).is_none(),
                "{change} on {unreachable}"
            );
        }
    }
}

#[test]
fn a_set_that_its_owner_missed_leaves_no_value_anywhere() {
    let (cluster, version) = versioned(2);
    let key = cluster.key_owned_by(1);
    (0..2).for_each(|node| assert_eq!(seen(&cluster, node, &key), 1));
    cluster.network.set_fault(&address(1), Some(Fault::Refuses));
    assert!(cluster.groups[0].set(&key, Value::from("1000")).is_err());
    version.store(2, Ordering::SeqCst);
    cluster.network.set_fault(&address(1), None);
    settle(&cluster, 0);
    (0..2).for_each(|node| assert_eq!(seen(&cluster, node, &key), 2));
}

/// Refuses the first call and takes all others.
struct RefusesOnce(Arc<AtomicU64>);

impl groupcache_sync::Transport for RefusesOnce {
    fn link(
        &self,
        _: &groupcache_sync::Peer,
        _: &groupcache_sync::Limits,
    ) -> Result<Arc<dyn groupcache_sync::Link>, Error> {
        Ok(Arc::new(RefusesOnce(Arc::clone(&self.0))))
    }
}

impl groupcache_sync::Link for RefusesOnce {
    fn call(
        &self,
        _: &groupcache_sync::Call,
        _: Duration,
    ) -> Result<groupcache_sync::Reply, groupcache_sync::CallError> {
        if self.0.fetch_add(1, Ordering::SeqCst) == 0 {
            let reason = "refused".to_owned();
            return Err(groupcache_sync::CallError::Unreachable(reason));
        }
        Ok(groupcache_sync::Reply {
            status: 200,
            header: Some("v=1;s=ok".to_owned()),
            body: Vec::new(),
        })
    }
}

#[test]
fn a_clear_names_who_was_missed_in_any_of_its_rounds() {
    // Between the rounds a value may have been fetched from the one that was missed in the first.
    let node = groupcache_sync::Node::builder("http://me:1")
        .unwrap()
        .clock(Clock::manual())
        .transport(Arc::new(RefusesOnce(Arc::default())))
        .build()
        .unwrap();
    let group = node
        .group_builder("g", 1 << 20)
        .build(|key| Ok(Value::from(key)))
        .unwrap();
    node.set_peers(["http://me:1", "http://other:1"]).unwrap();
    let Err(Error::Unreached { peers }) = group.clear() else {
        panic!("the peer that was missed in the first round must be named");
    };
    assert_eq!(peers.len(), 1);
}
