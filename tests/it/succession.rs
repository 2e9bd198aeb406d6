//! Keys that change their owners: values are taken over, not loaded anew, and never against P2.

use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use groupcache_sync::{
    Clock, Codec, CodecError, Error, Fault, Group, GroupStats, LoadError, Network, Node, Value,
};

use crate::cluster::{Cluster, GROUP, address, eventually, value_of};

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(30);

/// Nodes that take values over.
fn cluster(size: usize) -> Cluster {
    Cluster::with(
        size,
        Clock::manual(),
        |node| node.warm_up(WINDOW),
        |group| group.hot_bytes(0),
        |key| Ok(value_of(key)),
    )
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key {number}")).collect()
}

fn warm(cluster: &Cluster, keys: &[String]) {
    for key in keys {
        assert_eq!(cluster.groups[0].get(key).unwrap(), value_of(key));
    }
    assert_eq!(cluster.loads.all(), keys.len());
}

fn sum(cluster: &Cluster, of: impl Fn(&GroupStats) -> u64) -> u64 {
    cluster.groups.iter().map(|group| of(&group.stats())).sum()
}

fn set_peers(cluster: &Cluster, list: &[usize]) {
    for &node in list {
        let peers = list.iter().map(|&index| address(index));
        cluster.nodes[node].set_peers(peers).unwrap();
    }
}

#[test]
fn a_new_owner_takes_values_over_from_the_one_before() {
    let cluster = cluster(3);
    set_peers(&cluster, &[0, 1]);
    let keys = keys(300);
    warm(&cluster, &keys);
    set_peers(&cluster, &[0, 1, 2]);
    let moved = |key: &&String| cluster.nodes[0].owner(key).address() == address(2);
    let moved: Vec<&String> = keys.iter().filter(moved).collect();
    assert!(moved.len() > 50);
    let served = sum(&cluster, |stats| stats.served);
    for key in &moved {
        assert_eq!(cluster.groups[2].get(key).unwrap(), value_of(key));
    }
    assert_eq!(cluster.loads.all(), keys.len(), "nothing is loaded again");
    let stats = cluster.groups[2].stats();
    assert_eq!(stats.inherited, moved.len() as u64);
    assert_eq!(stats.loads, 0);
    assert_eq!(
        sum(&cluster, |stats| stats.served),
        served,
        "peeks are no gets"
    );
}

#[test]
fn a_batch_is_taken_over_in_one_request_and_the_rest_is_loaded() {
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node.warm_up(WINDOW),
        |group| {
            group.batch_loader(|keys: &[&str]| {
                let found = keys.iter().map(|&key| (key.to_owned(), value_of(key)));
                Ok::<_, LoadError>(found.collect::<std::collections::HashMap<_, _>>())
            })
        },
        |key| Ok(value_of(key)),
    );
    set_peers(&cluster, &[0]);
    let keys = keys(100);
    for key in keys.iter().step_by(2) {
        cluster.groups[0].get(key).unwrap();
    }
    set_peers(&cluster, &[0, 1]);
    let own = |key: &&String| cluster.nodes[0].owner(key).address() == address(1);
    let own: Vec<&String> = keys.iter().filter(own).collect();
    let found = cluster.groups[1].get_many(&own);
    for (key, found) in own.iter().zip(found) {
        assert_eq!(found.unwrap(), value_of(key), "in the order of the keys");
    }
    let stats = cluster.groups[1].stats();
    assert!(stats.inherited > 10 && stats.loads > 10, "{stats:?}");
    assert_eq!(stats.inherited + stats.loads, own.len() as u64);
    let calls = cluster.nodes[1]
        .stats()
        .peers
        .into_iter()
        .map(|peer| peer.calls);
    assert_eq!(calls.sum::<u64>(), 1, "they are asked for together");
}

#[test]
fn a_value_that_is_taken_over_has_only_the_life_that_is_left() {
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node.warm_up(100 * SECOND),
        |group| group.ttl(100 * SECOND),
        |key| Ok(value_of(key)),
    );
    let key = cluster.key_owned_by(1);
    set_peers(&cluster, &[0]);
    cluster.groups[0].get(&key).unwrap();
    cluster.advance(60 * SECOND);
    set_peers(&cluster, &[0, 1]);
    let key = &key;
    let got = cluster.groups[1].get_entry(key, groupcache_sync::Deadline::NEVER);
    let remaining = got.unwrap().remaining.unwrap();
    assert!(remaining <= 41 * SECOND, "{remaining:?}");
    assert_eq!(cluster.loads.of(key), 1);
}

#[test]
fn after_the_window_and_without_one_values_are_loaded() {
    for (window, wait) in [(WINDOW, WINDOW), (Duration::ZERO, Duration::ZERO)] {
        let cluster = Cluster::with(
            2,
            Clock::manual(),
            |node| node.warm_up(window),
            |group| group,
            |key| Ok(value_of(key)),
        );
        let key = cluster.key_owned_by(1);
        set_peers(&cluster, &[0]);
        cluster.groups[0].get(&key).unwrap();
        set_peers(&cluster, &[0, 1]);
        cluster.advance(wait);
        cluster.groups[1].get(&key).unwrap();
        assert_eq!(cluster.loads.of(&key), 2);
        assert_eq!(cluster.groups[1].stats().peeks, 0);
    }
}

#[test]
fn p2_what_was_removed_is_not_taken_over_from_one_who_was_not_told() {
    // Node 1 owned the key and is no longer in the list of node 0, which removes it.
    let changes: [fn(&Group, &str); 3] = [
        |group, key| group.remove(key).unwrap(),
        |group, key| {
            group.set(key, Value::from("new")).unwrap();
            group.remove(key).unwrap();
        },
        |group, _| group.clear().unwrap(),
    ];
    for change in changes {
        let cluster = cluster(3);
        let key = cluster.key_owned_by(1);
        cluster.groups[1].get(&key).unwrap();
        let peeks = sum(&cluster, |stats| stats.peeks);
        let without = [address(0), address(2)];
        cluster.nodes[0].set_peers(&without).unwrap();
        change(&cluster.groups[0], &key);
        // Only now does node 2 hear of the new list, by which it may own the key.
        cluster.nodes[2].set_peers(&without).unwrap();
        for group in [&cluster.groups[0], &cluster.groups[2]] {
            group.get(&key).unwrap();
        }
        assert_eq!(cluster.loads.of(&key), 2, "it is loaded anew");
        assert_eq!(sum(&cluster, |stats| stats.peeks), peeks);
        assert!(
            cluster.groups[1].try_get(&key).is_some(),
            "the trap was set"
        );
    }
}

#[test]
fn a_former_owner_that_is_silent_or_away_costs_little_and_no_get() {
    for fault in [Fault::Hangs, Fault::Refuses] {
        let cluster = Cluster::with(
            2,
            Clock::system(),
            |node| {
                node.warm_up(WINDOW)
                    .connect_timeout(Duration::from_millis(20))
            },
            |group| group,
            |key| Ok(value_of(key)),
        );
        set_peers(&cluster, &[0]);
        let keys = keys(40);
        warm(&cluster, &keys);
        set_peers(&cluster, &[0, 1]);
        cluster.network.set_fault(&address(0), Some(fault));
        let own = |key: &&String| cluster.nodes[1].owner(key).address() == address(1);
        let own: Vec<&String> = keys.iter().filter(own).collect();
        for key in &own {
            assert_eq!(cluster.groups[1].get(key).unwrap(), value_of(key));
        }
        let stats = cluster.groups[1].stats();
        assert_eq!(stats.loads, own.len() as u64);
        assert_eq!(stats.peeks, 3, "after three failures its circuit is open");
    }
}

#[test]
fn a_node_that_leaves_hands_over_what_it_has() {
    let cluster = cluster(3);
    let keys = keys(600);
    warm(&cluster, &keys);
    let owned = |node: usize| {
        let is_owned = |key: &&String| cluster.nodes[0].owner(key).address() == address(node);
        keys.iter().filter(is_owned).collect::<Vec<_>>()
    };
    let left = owned(2);
    assert!(left.len() > 130, "more than one offer for each successor");
    cluster.nodes[2].leave(60 * SECOND).unwrap();

    assert_eq!(sum(&cluster, |stats| stats.inherited), left.len() as u64);
    assert_eq!(owned(2).len(), 0);
    for node in &cluster.nodes {
        let peers = node.stats().peers;
        let leaver = peers
            .iter()
            .find(|peer| peer.address == address(2))
            .unwrap();
        assert!(leaver.has_left && leaver.ring_share == 0.0, "{leaver:?}");
        assert_eq!(node.stats().ring, cluster.nodes[0].stats().ring);
    }
    // It may end now.
    cluster.network.set_fault(&address(2), Some(Fault::Refuses));
    for key in &keys {
        assert_eq!(cluster.groups[1].get(key).unwrap(), value_of(key));
    }
    assert_eq!(cluster.loads.all(), keys.len(), "nothing is loaded again");
}

#[test]
fn a_node_that_leaves_still_gets_and_is_told_of_removals() {
    let cluster = cluster(3);
    let key = cluster.key_owned_by(2);
    cluster.groups[2].get(&key).unwrap();
    cluster.nodes[2].leave(SECOND).unwrap();
    assert_eq!(cluster.groups[2].get(&key).unwrap(), value_of(&key));
    cluster.groups[0].remove(&key).unwrap();
    assert_eq!(cluster.groups[2].try_get(&key), None, "it was told");
    assert_eq!(cluster.groups[2].get(&key).unwrap(), value_of(&key));
    assert_eq!(
        cluster.groups[2].stats().loads,
        1,
        "its owner loads it by now"
    );
    cluster.nodes[2].leave(SECOND).unwrap(); // once more is not wrong
}

/// Another process at the address of a node, with nothing in memory.
fn restart(cluster: &mut Cluster, index: usize) {
    let node = cluster.network.builder(address(index)).unwrap();
    // However far the clock moves until it is found.
    let window = Duration::from_secs(1 << 30);
    let node = node.clock(cluster.clock.clone()).warm_up(window);
    cluster.nodes[index] = node.build().unwrap();
    let node = &cluster.nodes[index];
    cluster.network.attach(node);
    let loads = Arc::clone(&cluster.loads);
    let group = node.group_builder(GROUP, 64 << 20).hot_bytes(0);
    let group = group.build(move |key| {
        loads.count(key);
        Ok(value_of(key))
    });
    cluster.groups[index] = group.unwrap();
    let all = (0..cluster.nodes.len()).map(address);
    cluster.nodes[index].set_peers(all).unwrap();
}

#[test]
fn another_process_at_the_address_of_one_that_left_is_put_back_and_warms_up() {
    let mut cluster = cluster(3);
    let keys = keys(300);
    warm(&cluster, &keys);
    cluster.nodes[2].leave(60 * SECOND).unwrap();
    let has_left = |node: &Node| {
        let peers = node.stats().peers;
        peers.iter().any(|peer| peer.has_left)
    };
    for _ in 0..3 {
        // The keepers of the two others find that it is still about to end.
        cluster.advance_when(2, SECOND);
    }
    assert!(has_left(&cluster.nodes[0]) && has_left(&cluster.nodes[1]));

    restart(&mut cluster, 2);
    cluster.advance_until(SECOND, || !cluster.nodes[..2].iter().any(has_left));
    let before = cluster.loads.all();
    for key in &keys {
        assert_eq!(cluster.groups[2].get(key).unwrap(), value_of(key));
    }
    assert_eq!(
        cluster.loads.all(),
        before,
        "what it owns is taken over back"
    );
    assert!(cluster.groups[2].stats().inherited > 50);
}

#[test]
fn a_departure_that_was_made_up_has_an_end() {
    let cluster = cluster(2);
    let id = address(1);
    cluster.network.set_fault(&id, Some(Fault::Refuses));
    say_departure(&cluster.nodes[0], &id);
    let has_left = || {
        cluster.nodes[0]
            .stats()
            .peers
            .iter()
            .any(|peer| peer.has_left)
    };
    assert!(has_left());
    cluster.network.set_fault(&id, None);
    cluster.advance_until(SECOND, || !has_left());
    let malformed =
        groupcache_sync::Request::new("POST", "/_groupcache/").header("X-Groupcache", "v=1");
    let malformed = malformed.body(b"\xff");
    assert_eq!(cluster.nodes[0].answer(&malformed).status(), 400);
}

/// Has `node` told that the peer with this id leaves.
fn say_departure(node: &Node, id: &str) {
    let mut body = vec![0x0a, id.len() as u8];
    body.extend_from_slice(id.as_bytes());
    let request = groupcache_sync::Request::new("POST", "/_groupcache/")
        .header("X-Groupcache", "v=1")
        .body(&body);
    assert_eq!(node.answer(&request).status(), 200);
}

#[test]
fn however_many_departures_are_made_up_the_ring_is_made_anew_a_few_times_only() {
    let (network, clock) = (Network::new(), Clock::manual());
    let builder = network.builder(address(0)).unwrap().clock(clock.clone());
    let node = builder.warm_up(Duration::ZERO).build().unwrap();
    let peers = 1..41;
    // None of them is there, so that none comes back.
    node.set_peers((0..41).map(address)).unwrap();
    let mut rings = vec![node.stats().ring];
    for peer in peers {
        say_departure(&node, &address(peer));
        rings.push(node.stats().ring);
    }
    assert_ne!(
        rings[0], rings[1],
        "the first is obeyed before it is answered"
    );
    rings.dedup();
    assert_eq!(rings.len(), 1 + 4, "of forty departures in one instant");

    let last = rings.pop();
    eventually("the keeper waits", || clock.sleepers() == 1);
    clock.advance(SECOND / 2);
    eventually("the others are obeyed", || Some(node.stats().ring) != last);
    let others = node.stats().peers;
    assert_eq!(others[0].ring_share, 1.0, "all at once");
}

#[test]
fn peers_that_cannot_be_told_are_named_and_the_deadline_holds() {
    let cluster = cluster(3);
    cluster.network.set_fault(&address(1), Some(Fault::Refuses));
    let Err(Error::Unreached { peers }) = cluster.nodes[0].leave(SECOND) else {
        panic!("it was told");
    };
    assert_eq!(peers.len(), 1);
    assert_eq!(peers[0].peer, address(1));
}

#[test]
fn one_that_is_alone_leaves_at_once_and_still_loads() {
    let cluster = cluster(1);
    cluster.nodes[0].leave(SECOND).unwrap();
    assert_eq!(cluster.groups[0].get("a").unwrap(), value_of("a"));
    assert_eq!(cluster.nodes[0].stats().peers[0].ring_share, 0.0);
}

#[test]
fn leaving_waits_for_the_loads_of_peers() {
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let cluster = Cluster::with(
        2,
        Clock::system(),
        |node| node.warm_up(Duration::ZERO),
        |group| group,
        move |key| {
            gate.lock().unwrap().recv()?;
            Ok(value_of(key))
        },
    );
    let key = cluster.key_owned_by(1);
    std::thread::scope(|scope| {
        let asker = scope.spawn(|| cluster.groups[0].get(&key));
        eventually("it loads", || cluster.loads.all() == 1);
        let leaver = scope.spawn(|| cluster.nodes[1].leave(600 * SECOND));
        eventually("it is off the ring", || {
            cluster.nodes[0].owner(&key).address() == address(0)
        });
        assert!(!leaver.is_finished());
        release.send(()).unwrap();
        leaver.join().unwrap().unwrap();
        asker.join().unwrap().unwrap();
    });
}

/// Gets the key of what it decodes, which is the value itself.
struct GetsItself {
    handle: Arc<OnceLock<Group<String>>>,
    told: Mutex<mpsc::Sender<Result<String, Error>>>,
}

impl Codec<String> for GetsItself {
    fn encode(&self, value: &String) -> Result<Value, CodecError> {
        Ok(Value::from(value.as_str()))
    }

    fn decode(&self, bytes: Value) -> Result<String, CodecError> {
        let key = bytes.as_str()?.to_owned();
        let got = self.handle.get().unwrap().get(&key);
        self.told.lock().unwrap().send(got)?;
        Ok(key)
    }

    fn weight(&self, value: &String) -> usize {
        value.len()
    }
}

#[test]
fn a_decode_of_a_value_taken_over_that_gets_its_own_key_gets_a_cycle() {
    let (network, clock) = (Network::new(), Clock::manual());
    let (told, is_told) = mpsc::channel();
    let members = [0, 1].map(|index| {
        let builder = network.builder(address(index)).unwrap().warm_up(WINDOW);
        let node = builder.clock(clock.clone()).build().unwrap();
        network.attach(&node);
        let (handle, told) = (Arc::default(), Mutex::new(told.clone()));
        let codec = GetsItself {
            handle: Arc::clone(&handle),
            told,
        };
        let group = node.group_builder(GROUP, 1 << 20).codec(codec);
        let group = group.build(|key| Ok(key.to_owned())).unwrap();
        handle.set(group.clone()).unwrap();
        (node, group)
    });
    let [(before, of_before), (after, of_after)] = members;
    before.set_peers([address(0)]).unwrap();
    let keys = keys(20);
    for key in &keys {
        of_before.get(key).unwrap();
    }
    for node in [&before, &after] {
        node.set_peers([address(0), address(1)]).unwrap();
    }
    let own = |key: &&String| after.owner(key).address() == address(1);
    let key = keys.iter().find(own).unwrap().clone();
    let (asks, (sender, got)) = (of_after.clone(), mpsc::channel());
    std::thread::spawn(move || sender.send(asks.get(&key)));
    let inner = is_told.recv_timeout(WINDOW).unwrap();
    assert!(matches!(inner, Err(Error::Cycle)), "{inner:?}");
    got.recv_timeout(WINDOW).unwrap().unwrap();
    assert_eq!(of_after.stats().flights, 0);
}
