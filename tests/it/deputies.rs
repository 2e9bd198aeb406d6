//! Deputies: while the owner of a key is unreachable, its deputy loads the key once for all processes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use groupcache_sync::{
    Begin, Bytes, CircuitState, Clock, Codec, CodecError, Error, Fault, Group, Node, PeerStats,
    Request, Value,
};

use crate::cluster::{Cluster, GROUP, address, eventually, together, value_of};

const SECOND: Duration = Duration::from_secs(1);

/// Keys that node `owner` owns.
fn keys_of(cluster: &Cluster, owner: usize) -> Vec<String> {
    let keys = (0..500).map(|number| format!("key {number}"));
    let is_owned = |key: &String| cluster.nodes[0].owner(key).address() == address(owner);
    let keys: Vec<_> = keys.filter(is_owned).collect();
    assert!(keys.len() > 50, "{} keys", keys.len());
    keys
}

#[test]
fn a_lost_owner_costs_one_load_for_each_key_in_the_whole_cluster() {
    for many in [false, true] {
        let cluster = Cluster::new(5);
        let keys = keys_of(&cluster, 4);
        cluster.network.set_fault(&address(4), Some(Fault::Refuses));
        let get_all = |node: usize| {
            let group = &cluster.groups[node];
            if many {
                for (key, value) in keys.iter().zip(group.get_many(&keys)) {
                    assert_eq!(value.unwrap(), value_of(key));
                }
            } else {
                for key in &keys {
                    assert_eq!(group.get(key).unwrap(), value_of(key));
                }
            }
        };
        for life in 1..=3 {
            for second in 0..15 {
                together(4, |node| get_all((node + second) % 4));
                cluster.advance(2 * SECOND);
            }
            for key in &keys {
                assert_eq!(cluster.loads.of(key), life, "{key}, many: {many}");
            }
        }
        let asked = cluster.groups[0].stats();
        assert!(asked.deputy_fetches > 0 && asked.fetch_errors >= asked.deputy_fetches);
    }
}

#[test]
fn all_threads_of_all_processes_share_the_load_of_a_deputy() {
    let cluster = Cluster::with(
        4,
        Clock::system(),
        |node| node,
        |group| group,
        |key| {
            std::thread::yield_now();
            Ok(value_of(key))
        },
    );
    cluster.network.set_fault(&address(3), Some(Fault::Refuses));
    let keys = keys_of(&cluster, 3);
    together(12, |thread| {
        for key in &keys {
            let group = &cluster.groups[thread % 3];
            let value = match thread % 2 {
                0 => group.get(key),
                _ => group.get_timeout(key, 60 * SECOND),
            };
            assert_eq!(value.unwrap(), value_of(key));
        }
    });
    for key in &keys {
        assert_eq!(cluster.loads.of(key), 1, "{key}");
    }
}

#[test]
fn an_owner_that_is_silent_is_waited_for_once_and_not_its_deputy_too() {
    let cluster = Cluster::new(3);
    let key = cluster.key_owned_by(2);
    let deputy = cluster.deputy_of(&key);
    for node in [2, deputy] {
        cluster
            .network
            .set_fault(&address(node), Some(Fault::Hangs));
    }
    let asker = &cluster.groups[1 - deputy];
    let began = cluster.clock.now();
    std::thread::scope(|scope| {
        let get = scope.spawn(|| asker.get(&key).unwrap());
        cluster.advance_until(SECOND / 10, || get.is_finished());
        assert_eq!(get.join().unwrap(), value_of(&key));
    });
    let took = cluster.clock.now() - began;
    assert!(took <= 2 * SECOND, "one fetch timeout: {took:?}");
    assert_eq!(asker.stats().deputy_fetches, 0);
}

#[test]
fn what_deputies_have_is_removed_and_set_like_the_value_of_an_owner() {
    let version = Arc::new(AtomicU64::new(1));
    let origin = Arc::clone(&version);
    let cluster = Cluster::with(
        4,
        Clock::manual(),
        |node| node,
        |group| group.negative_ttl(60 * SECOND),
        move |_| Ok(Value::from(origin.load(Ordering::SeqCst).to_string())),
    );
    cluster.network.set_fault(&address(3), Some(Fault::Refuses));
    let keys = keys_of(&cluster, 3);
    let is_current = |at: &str| {
        let current = version.load(Ordering::SeqCst).to_string();
        for key in &keys {
            for group in &cluster.groups[..3] {
                let value = group.get(key).unwrap();
                assert_eq!(value.as_bytes(), current.as_bytes(), "{at}: {key}");
            }
        }
    };
    is_current("at first");
    for (remover, key) in keys.iter().enumerate() {
        assert_eq!(cluster.groups[0].get(key).unwrap().as_bytes(), b"1");
        let unreached = match cluster.groups[remover % 3].remove(key).unwrap_err() {
            Error::Unreached { peers, .. } => peers,
            error => panic!("{error}"),
        };
        let unreached: Vec<_> = unreached.iter().map(|unreached| &unreached.peer).collect();
        assert_eq!(unreached, [&address(3)], "the deputy is reached");
    }
    version.store(2, Ordering::SeqCst);
    for group in &cluster.groups[..1] {
        drop(group.remove_many(&keys).unwrap_err());
    }
    is_current("after removals");
    version.store(3, Ordering::SeqCst);
    drop(cluster.groups[2].clear().unwrap_err());
    is_current("after a clear");
}

#[test]
fn a_deputy_answers_for_itself_and_keeps_its_value_for_its_life() {
    let cluster = Cluster::new(3);
    let key = cluster.key_owned_by(2);
    let deputy = cluster.deputy_of(&key);
    let target = format!("/_groupcache/{GROUP}/{}", key.replace(' ', "%20"));
    let ask = || {
        let request = Request::new("GET", &target).header("X-Groupcache", "v=1;e=1");
        match cluster.nodes[deputy].begin(&request) {
            Begin::Ready(response) => response,
            Begin::Pending(pending) => pending.wait(),
        }
    };
    assert_eq!(ask().status(), 200);
    assert_eq!(cluster.groups[deputy].stats().loads, 1);
    assert_eq!(
        cluster.groups[deputy].stats().fetches,
        0,
        "no request of its own"
    );
    cluster.advance(29 * SECOND);
    assert_eq!(ask().status(), 200);
    assert_eq!(cluster.loads.of(&key), 1);
    cluster.advance(SECOND);
    assert_eq!(ask().status(), 200);
    assert_eq!(cluster.loads.of(&key), 2, "it has expired");
}

/// Ends the process of the last node.
fn kill_last(cluster: &mut Cluster) {
    cluster.groups.pop();
    cluster.nodes.pop();
}

/// Starts the last node again, which was lost, with an empty memory.
fn start_again(cluster: &Cluster) -> (Node, Group) {
    let last = address(cluster.nodes.len());
    let builder = cluster.network.builder(last.as_str()).unwrap();
    let node = builder.clock(cluster.clock.clone()).build().unwrap();
    let loads = Arc::clone(&cluster.loads);
    let group = node.group_builder(GROUP, 64 << 20).build(move |key| {
        loads.count(key);
        Ok(value_of(key))
    });
    cluster.network.attach(&node);
    cluster.network.set_fault(&last, None);
    node.set_peers((0..=cluster.nodes.len()).map(address))
        .unwrap();
    (node, group.unwrap())
}

#[test]
fn an_owner_that_returns_with_empty_memory_takes_over_what_its_deputies_have() {
    let mut cluster = Cluster::new(4);
    let keys = keys_of(&cluster, 3);
    cluster.network.set_fault(&address(3), Some(Fault::Refuses));
    for key in &keys {
        assert_eq!(cluster.groups[0].get(key).unwrap(), value_of(key));
    }
    kill_last(&mut cluster);
    let (_node, group) = start_again(&cluster);
    for key in &keys {
        assert_eq!(group.get(key).unwrap(), value_of(key));
        assert_eq!(cluster.loads.of(key), 1, "{key}");
    }
    assert_eq!(group.stats().inherited, keys.len() as u64);
}

#[test]
fn whoever_owns_the_keys_of_a_lost_owner_next_has_them_already() {
    let cluster = Cluster::with(
        4,
        Clock::manual(),
        |node| node.warm_up(30 * SECOND),
        |group| group,
        |key| Ok(value_of(key)),
    );
    let keys = keys_of(&cluster, 3);
    cluster.network.set_fault(&address(3), Some(Fault::Refuses));
    for key in &keys {
        assert_eq!(cluster.groups[0].get(key).unwrap(), value_of(key));
    }
    for node in &cluster.nodes[..3] {
        assert!(node.remove_peer(address(3).as_str()).unwrap());
    }
    for group in &cluster.groups[..3] {
        for key in &keys {
            assert_eq!(group.get(key).unwrap(), value_of(key));
            assert_eq!(cluster.loads.of(key), 1, "{key}");
        }
    }
}

/// The time between two offers to deputies.
const OFFERS: Duration = Duration::from_secs(10);

/// Has every node but the owner get `keys` some times, so that they are hot, and waits until deputies have been
/// offered what is hot.
fn warm_and_offer(cluster: &Cluster, keys: &[String]) {
    for group in &cluster.groups[..cluster.groups.len() - 1] {
        for key in keys {
            assert_eq!(group.get(key).unwrap(), value_of(key));
        }
    }
    offer(cluster, keys.len());
}

/// Lets time pass until deputies have taken so many values in all.
fn offer(cluster: &Cluster, values: usize) {
    advance_gently(cluster, OFFERS, || taken(cluster) >= values as u64);
}

/// Moves the clock step by step until `done`. Between two steps there is time for what has begun: a clock that runs
/// unreachable lets the calls of the nodes time out.
fn advance_gently(cluster: &Cluster, by: Duration, done: impl Fn() -> bool) {
    const STEP: Duration = Duration::from_millis(200);
    eventually("time brings it", || {
        cluster.advance(by);
        let began = Instant::now();
        while !done() && began.elapsed() < STEP {
            std::thread::yield_now();
        }
        done()
    });
}

fn taken(cluster: &Cluster) -> u64 {
    let stats = cluster.groups.iter().map(|group| group.stats());
    stats.map(|stats| stats.deputy_copies).sum()
}

#[test]
fn a_lost_owner_costs_no_load_for_what_its_deputies_have() {
    let cluster = Cluster::new(5);
    let keys = keys_of(&cluster, 4);
    warm_and_offer(&cluster, &keys);
    cluster.network.set_fault(&address(4), Some(Fault::Refuses));
    // Longer than copies and what a deputy loads may live.
    for _ in 0..10 {
        together(4, |node| {
            for key in &keys {
                assert_eq!(cluster.groups[node].get(key).unwrap(), value_of(key));
            }
        });
        cluster.advance(10 * SECOND);
    }
    assert_eq!(cluster.loads.all(), keys.len(), "once each, by their owner");
}

/// A codec that holds the first value up that it decodes.
#[derive(Clone)]
struct HoldsFirst(Arc<Mutex<Option<mpsc::Receiver<()>>>>);

impl Codec<Value> for HoldsFirst {
    fn encode(&self, value: &Value) -> Result<Value, CodecError> {
        Bytes.encode(value)
    }

    fn decode(&self, bytes: Value) -> Result<Value, CodecError> {
        let first = self.0.lock().unwrap().take();
        first.map_or(Ok(()), |gate| gate.recv())?;
        Bytes.decode(bytes)
    }
}

#[test]
fn a_late_copy_does_not_take_the_place_of_what_a_deputy_was_handed() {
    let (open, gate) = mpsc::channel();
    let codec = HoldsFirst(Arc::new(Mutex::new(Some(gate))));
    let cluster = Cluster::with(
        3,
        Clock::manual(),
        |node| node,
        |group| group.hot_threshold(0.0).codec(codec.clone()),
        |key| Ok(value_of(key)),
    );
    let key = cluster.key_owned_by(2);
    let deputy = &cluster.groups[cluster.deputy_of(&key)];
    std::thread::scope(|scope| {
        let late = scope.spawn(|| deputy.get(&key).unwrap());
        eventually("it decodes", || codec.0.lock().unwrap().is_none());
        offer(&cluster, 1);
        open.send(()).unwrap();
        assert_eq!(late.join().unwrap(), value_of(&key));
    });
    cluster.network.set_fault(&address(2), Some(Fault::Refuses));
    // Longer than copies live.
    cluster.advance(60 * SECOND);
    for group in &cluster.groups[..2] {
        assert_eq!(group.get(&key).unwrap(), value_of(&key));
    }
    assert_eq!(cluster.loads.all(), 1, "by the owner");
}

#[test]
fn deputies_take_nothing_twice_and_nothing_where_that_is_off() {
    let cluster = Cluster::new(3);
    let keys = keys_of(&cluster, 2);
    warm_and_offer(&cluster, &keys);
    let rounds = |cluster: &Cluster| {
        for _ in 0..50 {
            cluster.advance(SECOND);
            std::thread::yield_now();
        }
    };
    rounds(&cluster);
    assert_eq!(taken(&cluster), keys.len() as u64);

    let without = Cluster::with(
        3,
        Clock::manual(),
        |node| node,
        |group| group.deputy_bytes(0),
        |key| Ok(value_of(key)),
    );
    for key in &keys {
        assert_eq!(without.groups[0].get(key).unwrap(), value_of(key));
    }
    rounds(&without);
    assert_eq!(taken(&without), 0);
}

#[test]
fn no_more_is_handed_to_deputies_than_they_are_to_keep() {
    let bytes = 8_000;
    let cluster = Cluster::with(
        3,
        Clock::manual(),
        |node| node,
        |group| group.deputy_bytes(bytes),
        |key| Ok(value_of(key)),
    );
    let keys = keys_of(&cluster, 2);
    let most = &keys[..20]; // they are requested more than the others
    for key in keys.iter().chain(most).chain(most) {
        assert_eq!(cluster.groups[0].get(key).unwrap(), value_of(key));
    }
    cluster.advance(OFFERS);
    // Such an entry takes some 180 bytes.
    eventually("deputies have taken them", || taken(&cluster) >= 40);
    cluster.network.set_fault(&address(2), Some(Fault::Refuses));
    let taken = taken(&cluster) as usize;
    assert!(
        taken * groupcache_sync::ENTRY_OVERHEAD <= bytes,
        "{taken} values"
    );
    for key in most {
        assert_eq!(cluster.groups[1].get(key).unwrap(), value_of(key));
        assert_eq!(cluster.loads.of(key), 1, "the most requested first: {key}");
    }
}

#[test]
fn what_deputies_have_been_handed_is_removed_and_set_with_the_value_of_the_owner() {
    let version = Arc::new(AtomicU64::new(1));
    let origin = Arc::clone(&version);
    let cluster = Cluster::with(
        4,
        Clock::manual(),
        |node| node,
        |group| group.deputy_bytes(1 << 20),
        move |_| Ok(Value::from(origin.load(Ordering::SeqCst).to_string())),
    );
    let keys = keys_of(&cluster, 3);
    let all_are = |version: &str, at: &str| {
        for key in &keys {
            for group in &cluster.groups[..3] {
                let value = group.get(key).unwrap();
                assert_eq!(value.as_bytes(), version.as_bytes(), "{at}: {key}");
            }
        }
    };
    let change: [(&str, &dyn Fn()); 4] = [
        ("remove", &|| {
            for key in &keys {
                cluster.groups[0].remove(key).unwrap();
            }
        }),
        ("remove by the owner", &|| {
            cluster.groups[3].remove_many(&keys).unwrap()
        }),
        ("set", &|| {
            for key in &keys {
                let value = Value::from(version.load(Ordering::SeqCst).to_string());
                cluster.groups[1].set(key, value).unwrap();
            }
        }),
        ("clear", &|| cluster.groups[2].clear().unwrap()),
    ];
    for (number, (name, change)) in change.into_iter().enumerate() {
        let old = version.load(Ordering::SeqCst).to_string();
        all_are(&old, "before");
        offer(&cluster, (number + 1) * keys.len());
        version.fetch_add(1, Ordering::SeqCst);
        change();
        cluster.network.set_fault(&address(3), Some(Fault::Refuses));
        all_are(&version.load(Ordering::SeqCst).to_string(), name);
        cluster.network.set_fault(&address(3), None);
        // It is found again by a probe.
        let is_reached = |peer: &PeerStats| peer.circuit == CircuitState::Closed;
        let reach_all = |node: &Node| node.stats().peers.iter().all(is_reached);
        advance_gently(&cluster, SECOND, || cluster.nodes.iter().all(reach_all));
        // What deputies have loaded themselves is not taken over.
        cluster.advance(31 * SECOND);
    }
}

#[test]
fn an_owner_and_a_deputy_that_are_lost_cost_one_load_for_each_key_and_loss() {
    for many in [false, true] {
        let cluster = Cluster::new(6);
        let keys: Vec<String> = (0..200).map(|number| format!("key {number}")).collect();
        let get_all = |loads: usize| {
            together(4, |node| {
                let group = &cluster.groups[node];
                if many {
                    for (key, value) in keys.iter().zip(group.get_many(&keys)) {
                        assert_eq!(value.unwrap(), value_of(key));
                    }
                } else {
                    for key in &keys {
                        assert_eq!(group.get(key).unwrap(), value_of(key));
                    }
                }
            });
            for key in &keys {
                let most = cluster.loads.of(key);
                assert!(most <= loads, "{key}: {most} loads, many: {many}");
            }
        };
        get_all(1);
        let lost_by = |node: &Node| {
            let is_open = |peer: &&PeerStats| peer.circuit == CircuitState::Open;
            node.stats().peers.iter().filter(is_open).count()
        };
        for (lost, node) in [5, 4].into_iter().enumerate() {
            cluster
                .network
                .set_fault(&address(node), Some(Fault::Refuses));
            // The others find out, by other keys than those that count.
            for number in 0.. {
                if cluster.nodes[..4]
                    .iter()
                    .all(|node| lost_by(node) == lost + 1)
                {
                    break;
                }
                for group in &cluster.groups[..4] {
                    group.get(&format!("{node} {number}")).unwrap();
                }
            }
            for _ in 0..5 {
                get_all(lost + 2);
                cluster.advance(2 * SECOND);
            }
        }
    }
}

#[test]
fn a_deputy_that_returns_is_handed_again_what_it_had() {
    let mut cluster = Cluster::new(4);
    let keys: Vec<String> = (0..500).map(|number| format!("key {number}")).collect();
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(cluster.groups[at % 4].get(key).unwrap(), value_of(key));
    }
    offer(&cluster, keys.len());
    cluster.network.set_fault(&address(3), Some(Fault::Refuses));
    kill_last(&mut cluster);
    for key in &keys {
        assert_eq!(cluster.groups[0].get(key).unwrap(), value_of(key));
    }
    let (_node, group) = start_again(&cluster);
    let is_its = |key: &&String| cluster.nodes[0].deputy(key).unwrap().address() == address(3);
    let its = keys.iter().filter(is_its).count() as u64;
    advance_gently(&cluster, OFFERS, || group.stats().deputy_copies >= its);
    assert_eq!(cluster.loads.all(), keys.len());
}
