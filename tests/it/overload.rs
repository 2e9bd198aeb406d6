//! The failure policy: how many loads run at once, when a peer counts as unreachable, and what of it shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use groupcache_sync::{CircuitState, Clock, Error, Fault, Group, Node, Value};

use crate::cluster::{Cluster, address, eventually, together, value_of};

const LONG: Duration = Duration::from_secs(60);

/// A group with room for `max_loads`, and a loader that waits until it is let go. `b…` keys wait.
struct Gated {
    group: Group,
    go: mpsc::Sender<()>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    _node: Node,
}

fn gated(max_loads: usize) -> Gated {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let (go, gate) = mpsc::channel();
    let gate = std::sync::Mutex::new(gate);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (Arc::clone(&running), Arc::clone(&most));
    let group = node
        .group_builder("g", 1 << 20)
        .max_loads(max_loads)
        .build(move |key| {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            if key.starts_with('b') {
                let _ = gate.lock().unwrap().recv();
            }
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(value_of(key))
        })
        .unwrap();
    Gated {
        group,
        go,
        running,
        most,
        _node: node,
    }
}

#[test]
fn a_load_beyond_the_limit_is_refused_at_once_and_by_name() {
    let gated = gated(2);
    let (group, running) = (&gated.group, &gated.running);
    std::thread::scope(|scope| {
        let waiting = ["b1", "b2"].map(|key| scope.spawn(move || group.get(key)));
        eventually("both run", || running.load(Ordering::SeqCst) == 2);
        // With and without a deadline, alone and in a batch: they need not wait for the others.
        assert!(matches!(group.get("x"), Err(Error::Overloaded)));
        let error = group.get_timeout("x", LONG).unwrap_err();
        assert!(matches!(error, Error::Overloaded), "{error:?}");
        assert!(error.to_string().contains("max_loads"), "{error}");
        for outcome in group.get_many(&["x", "y"]) {
            assert!(matches!(outcome, Err(Error::Overloaded)));
        }
        assert_eq!(group.stats().overloads, 4);
        assert_eq!(group.stats().load_errors, 0);
        for _ in 0..2 {
            gated.go.send(()).unwrap();
        }
        for waiting in waiting {
            assert!(waiting.join().unwrap().is_ok());
        }
    });
    assert_eq!(
        group.get("x").unwrap(),
        value_of("x"),
        "nothing of it is kept"
    );
    assert_eq!(gated.most.load(Ordering::SeqCst), 2);
    assert_eq!(group.stats().flights, 0);
}

#[test]
fn a_batch_alone_keeps_to_the_limit_and_is_not_refused() {
    for max_loads in [1, 2, 5] {
        let gated = gated(max_loads);
        let keys: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        let outcomes = gated.group.get_many(&keys);
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        let outcomes = gated.group.get_many_timeout(&keys[..1], LONG);
        assert!(outcomes.iter().all(Result::is_ok));
        assert!(gated.most.load(Ordering::SeqCst) <= max_loads);
    }
}

#[test]
fn a_load_inside_a_loader_is_part_of_it() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let inner: Group = node
        .group_builder("inner", 1 << 20)
        .max_loads(1)
        .build(|key| match key.parse::<u32>()? {
            0 => Ok(Value::from("ground")),
            _ => Ok(value_of(key)),
        })
        .unwrap();
    let within = inner.clone();
    let outer: Group = node
        .group_builder("outer", 1 << 20)
        .max_loads(1)
        .build(move |key| {
            let parts = within.get_many(&["0", key]);
            parts.into_iter().next_back().unwrap().map_err(Into::into)
        })
        .unwrap();
    for outcome in together(1, |_| outer.get("7")) {
        assert_eq!(outcome.unwrap(), value_of("7"));
    }
}

#[test]
fn a_refused_load_of_the_owner_is_done_by_the_asker_within_its_own_limit() {
    let (release, gate) = mpsc::channel::<()>();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node,
        |group| group.max_loads(1),
        move |key| {
            if key == "blocks" {
                let _ = gate.lock().unwrap().recv();
            }
            Ok(value_of(key))
        },
    );
    let owner = (cluster.nodes[0].owner("blocks").address() != address(0)) as usize;
    let key = cluster.key_owned_by(owner);
    let (at_owner, elsewhere) = (&cluster.groups[owner], &cluster.groups[1 - owner]);
    std::thread::scope(|scope| {
        scope.spawn(|| at_owner.get("blocks"));
        eventually("it loads", || cluster.loads.of("blocks") == 1);
        assert!(matches!(at_owner.get(&key), Err(Error::Overloaded)));
        assert_eq!(elsewhere.get(&key).unwrap(), value_of(&key));
        release.send(()).unwrap();
    });
    assert_eq!(cluster.nodes[1 - owner].stats().peers.len(), 2);
    let unreachable = |peer: &&groupcache_sync::PeerStats| peer.circuit == CircuitState::Open;
    let stats = cluster.nodes[1 - owner].stats();
    assert_eq!(
        stats.peers.iter().filter(unreachable).count(),
        0,
        "busy is not unreachable"
    );
}

#[test]
fn a_peer_is_away_after_as_many_failures_as_are_set() {
    for failures in [1, 4] {
        let cluster = Cluster::with(
            2,
            Clock::manual(),
            |node| node.circuit_failures(failures),
            |group| group,
            |key| Ok(value_of(key)),
        );
        let peer = |cluster: &Cluster| {
            let peers = cluster.nodes[0].stats().peers.into_iter();
            peers.into_iter().find(|peer| !peer.is_this_node).unwrap()
        };
        cluster.network.set_fault(&address(1), Some(Fault::Refuses));
        let owned = |key: &String| cluster.nodes[0].owner(key).address() == address(1);
        let keys = (0..).map(|number| format!("key {number}")).filter(owned);
        for (made, key) in keys.take(6).enumerate() {
            let state = peer(&cluster).circuit;
            assert_eq!(state == CircuitState::Open, made >= failures);
            assert_eq!(cluster.groups[0].get(&key).unwrap(), value_of(&key));
        }
        let stats = peer(&cluster);
        assert_eq!(stats.call_errors, failures as u64);
        assert_eq!(stats.circuit_openings, 1);
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let group = node.group_builder("g", 1 << 20).max_loads(0);
    let refused = group.build(|key| Ok(Value::from(key)));
    assert!(matches!(
        refused,
        Err(Error::InvalidSetting {
            setting: "max_loads",
            ..
        })
    ));
    let refused = Node::builder("http://127.0.0.1:1")
        .unwrap()
        .circuit_failures(0)
        .build();
    assert!(matches!(
        refused,
        Err(Error::InvalidSetting {
            setting: "circuit_failures",
            ..
        })
    ));
}
