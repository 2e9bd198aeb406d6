//! P2 where lists of peers differ for a while, where peers come, go and flap, and where changes
//! arrive late: what was removed is told to all who may have it, and nothing older comes back.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use groupcache_sync::{
    Call, CallError, CircuitState, Clock, Error, Fault, Group, Limits, Link, Network, Node,
    NodeBuilder, Peer, Reply, Request, Transport, Value,
};

use crate::cluster::{address, eventually};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Nodes on one network and one manual clock, whose values are the version that the source had when
/// the load began. Two groups have the same keys.
struct World {
    network: Network,
    clock: Clock,
    line: Line,
    nodes: Vec<Node>,
    groups: Vec<[Group; 2]>,
    version: Arc<AtomicU64>,
}

impl World {
    fn new(size: usize) -> World {
        World::with(size, Clock::manual(), |node| node)
    }

    fn with(size: usize, clock: Clock, settings: impl Fn(NodeBuilder) -> NodeBuilder) -> World {
        let network = Network::new();
        let mut world = World {
            line: Line::over(&network),
            network,
            clock,
            nodes: Vec::new(),
            groups: Vec::new(),
            version: Arc::new(AtomicU64::new(1)),
        };
        for _ in 0..size {
            world.start(&settings);
        }
        let all: Vec<usize> = (0..size).collect();
        world.set_peers(&all, &all);
        world
    }

    /// Starts one more node, which is alone.
    fn start(&mut self, settings: impl Fn(NodeBuilder) -> NodeBuilder) {
        let builder = self.network.builder(address(self.nodes.len())).unwrap();
        let builder = builder.allow_absent(true).clock(self.clock.clone());
        let builder = builder.transport(Arc::new(self.line.clone()));
        let node = settings(builder).build().unwrap();
        self.network.attach(&node);
        let group = |name: &str| {
            let version = Arc::clone(&self.version);
            let load = move |_: &str| Ok(Value::from(version.load(Ordering::SeqCst).to_string()));
            node.group_builder(name, 64 << 20).build(load).unwrap()
        };
        self.groups.push(["one", "other"].map(group));
        self.nodes.push(node);
    }

    fn set_peers(&self, at: &[usize], list: &[usize]) {
        for &node in at {
            let list = list.iter().map(|&index| address(index));
            self.nodes[node].set_peers(list).unwrap();
        }
    }

    /// A key that `after` owns at node `at`.
    fn key(&self, at: usize, is_meant: impl Fn(&str) -> bool, owner: usize) -> String {
        let is_owned = |key: &String| self.nodes[at].owner(key).address() == address(owner);
        let keys = (0..).map(|number| format!("key {number}"));
        keys.filter(is_owned).find(|key| is_meant(key)).unwrap()
    }

    fn key_of(&self, owner: usize) -> String {
        self.key(0, |_| true, owner)
    }

    fn seen(&self, node: usize, key: &str) -> [u64; 2] {
        let seen = |group: &Group| group.get(key).unwrap().as_str().unwrap().parse().unwrap();
        self.groups[node].each_ref().map(seen)
    }

    fn raise(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    fn owed(&self, node: usize) -> u64 {
        let peers = self.nodes[node].stats().peers;
        peers.iter().map(|peer| peer.owed).sum()
    }

    /// Lets time pass until `done`, half a second at a time.
    fn pass_until(&self, what: &str, done: impl Fn() -> bool) {
        eventually(what, || {
            if self.clock.sleepers() > 0 {
                self.clock.advance(SECOND / 2);
            }
            done()
        });
    }

    fn set_fault(&self, node: usize, fault: Option<Fault>) {
        self.network.set_fault(&address(node), fault);
    }
}

/// The network, with a gate for removals to one node, and a pocket for a `PUT` that is late.
#[derive(Clone)]
struct Line {
    network: Network,
    state: Arc<LineState>,
}

type Gate = (String, mpsc::Sender<()>, mpsc::Receiver<()>);

#[derive(Default)]
struct LineState {
    /// Where removals wait, who is told that they do, and what lets them go.
    gate: Mutex<Option<Gate>>,
    /// Whether the next `PUT` is kept back.
    keeps_put: AtomicBool,
    late: Mutex<Option<Call>>,
    probes: AtomicUsize,
}

impl Line {
    fn over(network: &Network) -> Line {
        Line {
            network: network.clone(),
            state: Arc::default(),
        }
    }
}

impl Transport for Line {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(LineTo {
            inner: self.network.link(peer, limits)?,
            address: peer.address(),
            state: Arc::clone(&self.state),
        }))
    }
}

struct LineTo {
    inner: Arc<dyn Link>,
    address: String,
    state: Arc<LineState>,
}

impl Link for LineTo {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        if call.method == "GET" && call.target == "/_groupcache/" {
            self.state.probes.fetch_add(1, Ordering::SeqCst);
        }
        if call.method == "DELETE" {
            let gate = self.state.gate.lock().unwrap().take();
            match gate {
                Some((address, held, go)) if address == self.address => {
                    held.send(()).unwrap();
                    go.recv().unwrap();
                }
                other => *self.state.gate.lock().unwrap() = other,
            }
        }
        if call.method == "PUT" && self.state.keeps_put.swap(false, Ordering::SeqCst) {
            *self.state.late.lock().unwrap() = Some(call.clone());
            return Err(CallError::Timeout);
        }
        self.inner.call(call, timeout)
    }
}

#[test]
fn what_a_peer_missed_is_delivered_though_it_left_the_list_meanwhile() {
    let world = World::new(2);
    let key = world.key_of(1);
    assert_eq!(world.seen(0, &key), [1, 1]);
    world.set_fault(1, Some(Fault::Refuses));
    world.raise();
    assert!(world.groups[0][0].remove(&key).is_err());
    assert_eq!(world.owed(0), 1);
    world.set_peers(&[0], &[0]);
    world.set_fault(1, None);
    world.set_peers(&[0], &[0, 1]);
    world.pass_until("it is told", || world.owed(0) == 0);
    assert_eq!(world.seen(1, &key), [2, 1], "of this group only");
    assert_eq!(world.seen(0, &key), [2, 1]);
}

#[test]
fn a_peer_that_left_the_list_is_told_of_removals_made_since() {
    let world = World::new(3);
    let key = world.key_of(1);
    assert_eq!(world.seen(1, &key), [1, 1]);
    world.set_peers(&[0, 2], &[0, 2]); // node 1 has not heard of it
    world.raise();
    world.groups[0][0].remove(&key).unwrap();
    world.pass_until("it is told", || world.groups[1][0].try_get(&key).is_none());
    assert!(world.groups[1][1].try_get(&key).is_some());
}

#[test]
fn a_node_that_was_in_no_list_serves_nothing_old_then_or_when_it_is_back() {
    let world = World::new(3);
    let key = world.key_of(1);
    assert_eq!(world.seen(0, &key), [1, 1]);
    world.set_peers(&[0, 1, 2], &[0, 2]);
    world.raise();
    for group in &world.groups[0] {
        group.remove(&key).unwrap();
    }
    assert_eq!(world.seen(1, &key), [2, 2], "while it is away");
    world.set_peers(&[0, 1, 2], &[0, 1, 2]);
    for node in 0..3 {
        assert_eq!(world.seen(node, &key), [2, 2], "once it is back");
    }
}

#[test]
fn what_an_absent_node_is_asked_for_as_an_owner_is_gone_when_it_is_back() {
    let world = World::new(2);
    let key = world.key_of(1);
    world.set_peers(&[1], &[0]);
    // Node 0 has not heard of it.
    assert_eq!(world.seen(0, &key), [1, 1]);
    world.groups[0][0].set(&key, Value::from("7")).unwrap();
    world.set_peers(&[0], &[0]);
    world.raise();
    world.groups[0][0].remove(&key).unwrap();
    world.groups[0][1].remove(&key).unwrap();
    world.set_peers(&[0, 1], &[0, 1]);
    assert_eq!(world.seen(1, &key), [2, 2]);
    assert_eq!(world.seen(0, &key), [2, 2]);
}

#[test]
fn a_new_node_is_told_of_removals_by_those_who_did_not_know_it_yet() {
    let mut world = World::new(2);
    world.start(|node| node);
    world.set_peers(&[2], &[0, 1, 2]);
    let key = world.key(2, |_| true, 2);
    assert_eq!(world.seen(2, &key), [1, 1], "loaded before the change");
    world.raise();
    world.groups[0][0].remove(&key).unwrap();
    world.set_peers(&[0, 1], &[0, 1, 2]);
    eventually("it is told", || world.owed(0) == 0);
    for node in 0..3 {
        assert_eq!(world.seen(node, &key), [2, 1]);
    }
}

#[test]
fn a_node_that_joins_while_a_change_is_under_way_is_told_before_it_returns() {
    let changes: [fn(&Group, &str); 3] = [
        |group, key| group.remove(key).unwrap(),
        |group, key| group.set(key, Value::from("2")).unwrap(),
        |group, _| group.clear().unwrap(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut world = World::new(3);
        world.start(|node| node);
        world.set_peers(&[3], &[0, 1, 2, 3]);
        let becomes_new = |key: &str| world.nodes[3].owner(key).address() == address(3);
        let key = world.key(0, becomes_new, 1);
        world.set_peers(&[3], &[3]);
        assert_eq!(world.seen(1, &key), [1, 1]);
        let (held, is_held) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        // Of `set` and `clear`, one who is no owner is held up: a `DELETE` or nothing goes there.
        let late = if number == 0 { 1 } else { 2 };
        *world.line.state.gate.lock().unwrap() = Some((address(late), held, gate));
        world.raise();
        std::thread::scope(|scope| {
            let changer = scope.spawn(|| change(&world.groups[0][0], &key));
            if number < 2 {
                is_held.recv().unwrap();
            }
            world.set_peers(&[0, 1, 2, 3], &[0, 1, 2, 3]);
            // Taken over from the former owner, perhaps before that one was told.
            let _ = world.seen(3, &key);
            let _ = world.seen(2, &key);
            let _ = go.send(());
            changer.join().unwrap();
        });
        for node in 0..4 {
            assert_eq!(world.seen(node, &key)[0], 2, "change {number}, node {node}");
        }
    }
}

/// Delivers a `PUT` that was held up on its way.
fn deliver_late(world: &World, to: usize) -> u16 {
    let call = world.line.state.late.lock().unwrap().take().unwrap();
    let request = Request::new(call.method, &call.target)
        .header("X-Groupcache", &call.header)
        .body(&call.body);
    world.nodes[to].answer(&request).status()
}

#[test]
fn a_set_that_arrives_late_does_not_undo_a_later_change_of_its_sender() {
    let changes: [fn(&World, &str); 4] = [
        |world, key| world.groups[0][0].set(key, Value::from("200")).unwrap(),
        |world, key| world.groups[0][0].remove(key).unwrap(),
        |world, _| world.groups[0][0].clear().unwrap(),
        |_, _| {},
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let world = World::new(2);
        let key = world.key_of(1);
        world.line.state.keeps_put.store(true, Ordering::SeqCst);
        assert!(world.groups[0][0].set(&key, Value::from("100")).is_err());
        world.pass_until("what was missed is told", || world.owed(0) == 0);
        change(&world, &key);
        let before = world.seen(0, &key);
        assert_eq!(deliver_late(&world, 1), 400);
        assert_eq!(world.seen(0, &key), before, "change {number}");
        assert_eq!(world.seen(1, &key), before, "change {number}");
        // Later ones are taken.
        world.groups[0][0].set(&key, Value::from("300")).unwrap();
        assert_eq!(world.seen(1, &key)[0], 300);
    }
}

#[test]
fn a_peer_that_is_away_is_probed_once_a_second_however_many_calls_fail() {
    let world = World::new(2);
    world.set_fault(1, Some(Fault::Refuses));
    let probes = || world.line.state.probes.load(Ordering::SeqCst);
    for second in 0..5 {
        for number in 0..100 {
            let _ = world.groups[0][0].remove(&format!("key {number}"));
        }
        assert_eq!(probes(), second);
        eventually("the keeper sleeps", || world.clock.sleepers() == 1);
        world.clock.advance(SECOND);
        eventually("it probes", || probes() == second + 1);
        eventually("the keeper sleeps", || world.clock.sleepers() == 1);
    }
    world.set_fault(1, None);
    world.pass_until("it is found, and told", || world.owed(0) == 0);
}

#[test]
fn listeners_that_block_or_panic_keep_no_peer_away_and_no_value_alive() {
    let network = Network::new();
    let clock = Clock::manual();
    let [node, other] = [0, 1].map(|index| {
        let node = network.builder(address(index)).unwrap();
        let node = node.clock(clock.clone()).build().unwrap();
        network.attach(&node);
        node
    });
    let (enter, entered) = mpsc::channel();
    let (release, gate) = mpsc::channel::<()>();
    let (enter, gate) = (Mutex::new(enter), Mutex::new(gate));
    let group = node
        .group_builder("g", 1 << 20)
        .ttl(SECOND)
        .eviction_listener(move |key, _, _| {
            let _ = enter.lock().unwrap().send(key.to_owned());
            if key == "blocks" {
                let _ = gate.lock().unwrap().recv();
            }
            assert_ne!(key, "panics", "as it should");
        })
        .build(|key| Ok(Value::from(key)))
        .unwrap();
    node.set_peers([address(0)]).unwrap();
    for key in ["panics", "blocks"] {
        group.get(key).unwrap();
        eventually("the sweeper sleeps", || clock.sleepers() > 0);
        clock.advance(2 * SECOND);
        assert_eq!(entered.recv().unwrap(), key);
    }
    // It is in the listener.
    node.set_peers([0, 1].map(address)).unwrap();
    network.set_fault(&address(1), Some(Fault::Refuses));
    for _ in 0..3 {
        assert!(group.remove("key").is_err());
    }
    network.set_fault(&address(1), None);
    eventually("the peer is back", || {
        if clock.sleepers() > 0 {
            clock.advance(SECOND);
        }
        let peers = node.stats().peers;
        peers
            .iter()
            .all(|peer| peer.circuit == CircuitState::Closed && peer.owed == 0)
    });
    release.send(()).unwrap();
    drop(other);
}

/// The keys of a node that leaves, as far as others took them over.
fn inherited(world: &World) -> u64 {
    let groups = world.groups.iter().flatten();
    groups.map(|group| group.stats().inherited).sum()
}

#[test]
fn a_node_that_leaves_hands_over_whatever_else_was_removed() {
    let world = World::new(3);
    let keys = (0..).map(|number| format!("key {number}"));
    let is_owned = |key: &String| world.nodes[0].owner(key).address() == address(2);
    let keys: Vec<String> = keys.filter(is_owned).take(300).collect();
    let others: Vec<String> = (0..40_000)
        .map(|number| format!("other {number}"))
        .collect();
    let [old, reloaded, gone] = [0..100, 100..200, 200..300].map(|part| &keys[part]);
    for key in old {
        world.seen(2, key);
    }
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    world.groups[0][0].remove_many(&others).unwrap();
    for key in reloaded.iter().chain(gone) {
        world.seen(2, key);
        world.groups[1][0].remove(key).unwrap();
    }
    // Loaded anew after its removal.
    for key in reloaded {
        world.seen(2, key);
    }
    world.nodes[2].leave(MINUTE).unwrap();
    // The other group has all of them.
    assert_eq!(inherited(&world), 200 + 300);
}

#[test]
fn a_new_owner_asks_what_was_removed_before_it_takes_anything_over() {
    let mut world = World::new(3);
    world.start(|node| node);
    world.set_peers(&[3], &[0, 1, 2, 3]);
    let becomes_new = |key: &str| world.nodes[3].owner(key).address() == address(3);
    let key = world.key(0, becomes_new, 1);
    world.set_peers(&[3], &[3]);
    assert_eq!(world.seen(1, &key), [1, 1]);
    // Node 1 cannot be told; the new node asks it for the key, and nobody has told the new one.
    world.set_fault(1, Some(Fault::Refuses));
    world.raise();
    assert!(world.groups[0][0].remove(&key).is_err());
    world.set_fault(1, None);
    world.set_peers(&[3], &[0, 1, 2, 3]);
    assert_eq!(
        world.seen(3, &key),
        [2, 1],
        "of the other group it is taken over"
    );
}

#[test]
fn what_a_node_still_had_to_tell_when_it_left_is_told_by_another_one() {
    let mut world = World::new(3);
    let key = world.key_of(1);
    assert_eq!(world.seen(1, &key), [1, 1]);
    world.set_fault(1, Some(Fault::Refuses));
    world.raise();
    assert!(world.groups[0][0].remove(&key).is_err());
    let _ = world.nodes[0].leave(MINUTE);
    world.set_fault(0, Some(Fault::Refuses)); // its process has ended
    world.set_fault(1, None);
    world.pass_until("it is told", || world.groups[1][0].try_get(&key).is_none());
    assert!(world.groups[1][1].try_get(&key).is_some());
    // One that comes later is told as well.
    world.start(|node| node);
    world.set_peers(&[3], &[1, 2, 3]);
    let key = world.key(3, |_| true, 3);
    assert_eq!(world.seen(3, &key), [2, 2]);
}

#[test]
fn a_peer_that_lacks_more_than_the_journal_holds_is_told_to_clear_the_groups_concerned() {
    let world = World::new(2);
    let key = world.key_of(1);
    assert_eq!(world.seen(1, &key), [1, 1]);
    world.set_fault(1, Some(Fault::Refuses));
    let long = "k".repeat(1_000);
    let many: Vec<String> = (0..2_000)
        .map(|number| format!("{long} {number}"))
        .collect();
    let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
    many.insert(0, &key);
    world.raise();
    assert!(world.groups[0][0].remove_many(&many).is_err());
    let owed = world.owed(0);
    assert!(owed > 100 && owed < 1_500, "it is bounded: {owed}");
    world.set_fault(1, None);
    world.pass_until("it is told", || world.owed(0) == 0);
    assert_eq!(world.seen(1, &key), [2, 1]);
}

#[test]
fn a_peer_that_is_silent_does_not_hold_up_a_change_for_long() {
    let keys: Vec<String> = (0..1_000).map(|number| format!("key {number}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let millis = Duration::from_millis;
    for (fetch_timeout, limit) in [(millis(50), None), (600 * SECOND, Some(millis(200)))] {
        let world = World::with(3, Clock::system(), |node| {
            node.fetch_timeout(fetch_timeout).circuit_failures(1_000)
        });
        world.set_fault(1, Some(Fault::Hangs));
        let group = &world.groups[0][0];
        let removes = || match limit {
            None => group.remove_many(&keys),
            Some(limit) => group.remove_many_timeout(&keys, limit),
        };
        let remove = || match limit {
            None => group.remove("key"),
            Some(limit) => group.remove_timeout("key", limit),
        };
        let set = || match limit {
            None => group.set("key", Value::from("1")),
            Some(limit) => group.set_timeout("key", Value::from("1"), limit),
        };
        let clear = || match limit {
            None => group.clear(),
            Some(limit) => group.clear_timeout(limit),
        };
        let changes: [&dyn Fn() -> Result<(), Error>; 4] = [&removes, &remove, &set, &clear];
        for change in changes {
            let began = Instant::now();
            let outcome = change();
            let Err(Error::Unreached { peers }) = outcome else {
                panic!("a peer is silent");
            };
            assert!(peers.iter().any(|peer| peer.peer == address(1)));
            assert!(began.elapsed() < 60 * SECOND, "{:?}", began.elapsed());
        }
    }
}

#[test]
fn the_keeper_delivers_by_the_clock_of_the_system_too_and_rests_then() {
    let mut world = World::with(2, Clock::system(), |node| node);
    let key = world.key_of(1);
    world.groups[0][0].remove(&key).unwrap();
    world.start(|node| node);
    world.set_peers(&[0, 1, 2], &[0, 1, 2]);
    eventually("the new one is told", || world.owed(0) == 0);
    let calls = || -> u64 {
        let peers = world.nodes[0].stats().peers;
        peers.iter().map(|peer| peer.calls).sum()
    };
    let told = calls();
    for _ in 0..1_000 {
        std::thread::yield_now();
        assert_eq!(calls(), told, "and told once");
    }
}
