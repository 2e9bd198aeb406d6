//! P2 where lists of peers differ for a while, where peers come, go and flap, and where changes
//! arrive late: what was removed is told to all who may have it, and nothing older comes back.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use groupcache_sync::{
    Call, CallError, CircuitState, Clock, Dialect, Error, Fault, Group, Limits, Link, Network,
    Node, NodeBuilder, Peer, Reply, Request, Transport, Value,
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
        let (node, groups) = self.start_at(self.nodes.len(), settings);
        self.nodes.push(node);
        self.groups.push(groups);
    }

    /// Ends a node, and starts another one in its place.
    fn restart(&mut self, index: usize) {
        let (node, groups) = self.start_at(index, |node| node);
        self.nodes[index] = node;
        self.groups[index] = groups;
    }

    fn start_at(
        &self,
        index: usize,
        settings: impl Fn(NodeBuilder) -> NodeBuilder,
    ) -> (Node, [Group; 2]) {
        let builder = self.network.builder(address(index)).unwrap();
        let builder = builder.allow_absent(true).clock(self.clock.clone());
        let builder = builder.transport(Arc::new(self.line.clone()));
        let node = settings(builder).build().unwrap();
        self.network.attach(&node);
        let group = |name: &str| {
            let version = Arc::clone(&self.version);
            let load = move |_: &str| Ok(Value::from(version.load(Ordering::SeqCst).to_string()));
            node.group_builder(name, 64 << 20).build(load).unwrap()
        };
        let groups = ["one", "other"].map(group);
        (node, groups)
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

    /// Groups of all nodes that mirror whatever they fetch.
    fn mirrored(&self) -> Vec<Group> {
        let build = |node: &Node| {
            let version = Arc::clone(&self.version);
            let load = move |_: &str| Ok(Value::from(version.load(Ordering::SeqCst).to_string()));
            let group = node.group_builder("mirrored", 1 << 20).hot_threshold(0.0);
            group.build(load).unwrap()
        };
        self.nodes.iter().map(build).collect()
    }

    /// Lets removals to these nodes get lost.
    fn lose_removals(&self, to: &[usize]) {
        let to: Vec<String> = to.iter().map(|&node| address(node)).collect();
        self.line.stand_in(move |address, call| {
            let is_lost = removes(call) && to.iter().any(|to| to == address);
            is_lost.then(|| Err(CallError::Unreachable("it is lost".into())))
        });
    }

    fn pending_for(&self, node: usize, to: usize) -> u64 {
        let peers = self.nodes[node].stats().peers;
        let peer = peers.iter().find(|peer| peer.address == address(to));
        peer.unwrap().pending_removals
    }

    fn pending(&self, node: usize) -> u64 {
        let peers = self.nodes[node].stats().peers;
        peers.iter().map(|peer| peer.pending_removals).sum()
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
    /// Where a `DELETE` waits, who is told that it does, and what lets it go.
    gate: Mutex<Option<Gate>>,
    /// The same for any removal.
    removal_gate: Mutex<Option<Gate>>,
    /// Where the next `PUT` waits, who is told that it does, and what lets it go.
    put_gate: Mutex<Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>>,
    /// Whether nobody gives another node what it has to deliver.
    loses_hand_overs: AtomicBool,
    /// Whether the next `PUT` is kept back.
    keeps_put: AtomicBool,
    late: Mutex<Option<Call>>,
    /// Where the answer to a removal waits, who is told that it does, and what lets it go.
    reply_gate: Mutex<Option<Gate>>,
    probes: AtomicUsize,
    /// Answers for a node, by its address, if it has something to say.
    stand_in: Mutex<Option<StandIn>>,
}

type StandIn = Box<dyn FnMut(&str, &Call) -> Option<Result<Reply, CallError>> + Send>;

impl Line {
    fn over(network: &Network) -> Line {
        Line {
            network: network.clone(),
            state: Arc::default(),
        }
    }

    /// Has `stand_in` answer for the nodes where it has something to say.
    fn stand_in(
        &self,
        stand_in: impl FnMut(&str, &Call) -> Option<Result<Reply, CallError>> + Send + 'static,
    ) {
        *self.state.stand_in.lock().unwrap() = Some(Box::new(stand_in));
    }
}

/// Whether a call gives another node removals to deliver.
fn hands_over(call: &Call) -> bool {
    call.target == "/_groupcache/" && matches!(call.body.first(), Some(0x22 | 0x2a))
}

/// Whether a call removes something.
fn removes(call: &Call) -> bool {
    // A command that asks for values, or offers them, begins with the field of its keys.
    let is_get = || matches!(call.body.first(), Some(0x1a | 0x2a));
    let is_command = call.method == "POST" && call.target != "/_groupcache/";
    call.method == "DELETE" || (is_command && !is_get())
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

impl LineTo {
    /// Waits at a gate, if there is one for this address.
    fn wait_at(&self, gate: &Mutex<Option<Gate>>) {
        let is_meant = |gate: &mut Gate| gate.0 == self.address;
        let gate = gate.lock().unwrap().take_if(is_meant);
        if let Some((_, held, go)) = gate {
            held.send(()).unwrap();
            go.recv().unwrap();
        }
    }
}

impl Link for LineTo {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        if call.method == "GET" && call.target == "/_groupcache/" {
            self.state.probes.fetch_add(1, Ordering::SeqCst);
        }
        if hands_over(call) && self.state.loses_hand_overs.load(Ordering::SeqCst) {
            return Err(CallError::Unreachable("it is lost".into()));
        }
        if call.method == "DELETE" {
            self.wait_at(&self.state.gate);
        }
        if removes(call) {
            self.wait_at(&self.state.removal_gate);
        }
        if call.method == "PUT" {
            let gate = self.state.put_gate.lock().unwrap().take();
            if let Some((held, go)) = gate {
                held.send(()).unwrap();
                go.recv().unwrap();
            }
        }
        if call.method == "PUT" && self.state.keeps_put.swap(false, Ordering::SeqCst) {
            *self.state.late.lock().unwrap() = Some(call.clone());
            return Err(CallError::Timeout);
        }
        let mut stand_in = self.state.stand_in.lock().unwrap();
        if let Some(answer) = stand_in.as_mut().and_then(|of| of(&self.address, call)) {
            return answer;
        }
        drop(stand_in);
        let reply = self.inner.call(call, timeout);
        if removes(call) {
            self.wait_at(&self.state.reply_gate);
        }
        reply
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
    assert_eq!(world.pending(0), 1);
    world.set_peers(&[0], &[0]);
    world.set_fault(1, None);
    world.set_peers(&[0], &[0, 1]);
    world.pass_until("it is told", || world.pending(0) == 0);
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
    assert_eq!(world.seen(1, &key), [2, 2], "while it is unreachable");
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
    eventually("it is told", || world.pending(0) == 0);
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
        world.pass_until("what was missed is told", || world.pending(0) == 0);
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
    world.pass_until("it is found, and told", || world.pending(0) == 0);
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
            .all(|peer| peer.circuit == CircuitState::Closed && peer.pending_removals == 0)
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
fn an_owner_that_starts_again_during_a_change_takes_nothing_older_over() {
    type Change = fn(&Group, &str) -> Result<(), Error>;
    let changes: [Change; 3] = [
        |group, key| group.remove(key),
        |group, key| group.set(key, Value::from("2")),
        |group, key| group.remove_many(&[key, "another"]),
    ];
    for change in changes {
        let mut world = World::new(3);
        let is_deputy = |key: &str| {
            let deputy = world.nodes[0].deputy(key);
            deputy.is_some_and(|deputy| deputy.address() == address(1))
        };
        let key = world.key(0, is_deputy, 0);
        world.set_fault(0, Some(Fault::Refuses));
        assert_eq!(world.seen(2, &key), [1, 1], "its deputy loads it");
        world.set_fault(0, None);
        world.raise();
        let (held, is_held) = mpsc::channel();
        let (release, go) = mpsc::channel();
        let gate = (address(1), held, go);
        world.line.state.removal_gate.lock().unwrap().replace(gate);
        let caller = world.groups[2][0].clone();
        let changed = key.clone();
        let changing = std::thread::spawn(move || change(&caller, &changed));
        is_held.recv().unwrap();
        let is_told = || world.groups[0][0].stats().removes > 0;
        eventually("the owner is told, and its deputy is not", is_told);
        world.restart(0);
        world.set_peers(&[0], &[0, 1, 2]);
        assert_eq!(
            world.seen(0, &key),
            [2, 1],
            "of the other group it is taken over"
        );
        release.send(()).unwrap();
        changing.join().unwrap().unwrap();
        assert_eq!(world.seen(0, &key), [2, 1]);
        assert_eq!(world.seen(2, &key), [2, 1]);
    }
}

#[test]
fn what_a_node_still_had_to_tell_when_it_crashed_is_told_by_another_one() {
    // As (1, key), what removes the key at node 0 while node 1 is unreachable.
    type Change = fn(&Group, &str) -> Result<(), Error>;
    let changes: [(&str, Change); 3] = [
        ("remove", |group, key| group.remove(key)),
        ("set", |group, key| group.set(key, Value::from("set"))),
        ("clear", |group, _| group.clear()),
    ];
    for (name, change) in changes {
        for also_unreachable in [false, true] {
            let mut world = World::new(4);
            let key = world.key_of(1);
            assert_eq!(world.seen(1, &key), [1, 1]);
            world.set_fault(1, Some(Fault::Refuses));
            if also_unreachable {
                world.set_fault(3, Some(Fault::Refuses));
            }
            world.raise();
            let Err(Error::Unreached { peers }) = change(&world.groups[0][0], &key) else {
                panic!("{name}: a peer is unreachable");
            };
            assert_eq!(peers.len(), 1 + usize::from(also_unreachable));
            drop((world.groups.swap_remove(0), world.nodes.swap_remove(0)));
            world.set_fault(0, Some(Fault::Refuses));
            world.set_fault(1, None);
            world.pass_until("it is told", || world.groups[1][0].try_get(&key).is_none());
            assert!(world.groups[1][1].try_get(&key).is_some(), "{name}");
        }
    }
}

#[test]
fn a_change_that_others_have_missed_does_not_come_back_to_its_sender() {
    let world = World::new(4);
    let key = world.key_of(0);
    for missing in [1, 2] {
        world.set_fault(missing, Some(Fault::Refuses));
    }
    assert!(world.groups[0][0].set(&key, Value::from("set")).is_err());
    assert_eq!(
        world.pending(3),
        2,
        "for each of those that are unreachable"
    );
    for missing in [1, 2] {
        world.set_fault(missing, None);
    }
    let is_told = |node: usize| world.pending(node) == 0;
    world.pass_until("all are told", || is_told(0) && is_told(3));
    assert_eq!(
        world.groups[0][0].try_get(&key).as_deref(),
        Some(&b"set"[..])
    );
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
    let pending = world.pending(0);
    assert!(pending > 100 && pending < 1_500, "it is bounded: {pending}");
    world.set_fault(1, None);
    world.pass_until("it is told", || world.pending(0) == 0);
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
    eventually("the new one is told", || world.pending(0) == 0);
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

#[test]
fn a_set_that_fails_changes_nothing_of_what_a_peer_lacks() {
    let world = World::with(2, Clock::manual(), |node| node.max_value(1_000));
    let key = world.key_of(1);
    assert_eq!(world.seen(1, &key), [1, 1]);
    world.set_fault(1, Some(Fault::Refuses));
    world.raise();
    assert!(world.groups[0][0].remove(&key).is_err());
    let large = Value::from("x".repeat(2_000));
    let outcome = world.groups[0][0].set(&key, large);
    assert!(matches!(outcome, Err(Error::ValueTooLarge { .. })));
    assert_eq!(world.pending(0), 1);
    world.set_fault(1, None);
    world.pass_until("it is told", || world.pending(0) == 0);
    assert_eq!(world.seen(1, &key), [2, 1]);
}

#[test]
fn a_set_that_is_on_its_way_does_not_undo_a_later_change_of_its_process() {
    let changes: [fn(&Group, &str); 3] = [
        |group, key| group.remove(key).unwrap(),
        |group, key| group.set(key, Value::from("2")).unwrap(),
        |group, _| group.clear().unwrap(),
    ];
    for change in changes {
        let world = World::new(2);
        let (key, group) = (world.key_of(1), &world.groups[0][0]);
        let (held, is_held) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        *world.line.state.put_gate.lock().unwrap() = Some((held, gate));
        std::thread::scope(|scope| {
            let setter = scope.spawn(|| group.set(&key, Value::from("1")));
            is_held.recv().unwrap();
            world.raise();
            change(group, &key);
            go.send(()).unwrap();
            setter.join().unwrap().unwrap();
        });
        assert_eq!([world.seen(0, &key)[0], world.seen(1, &key)[0]], [2, 2]);
    }
}

#[test]
fn a_node_that_only_the_heir_knows_is_told_of_what_the_leaver_removed() {
    let mut world = World::new(2);
    world.start(|node| node);
    world.set_peers(&[1, 2], &[0, 1, 2]);
    let key = world.key(1, |_| true, 2);
    assert_eq!(world.seen(2, &key), [1, 1]);
    world.raise();
    world.groups[0][0].remove(&key).unwrap();
    world.nodes[0].leave(MINUTE).unwrap();
    world.set_fault(0, Some(Fault::Refuses)); // its process has ended
    world.pass_until("it is told", || world.groups[2][0].try_get(&key).is_none());
    assert!(world.groups[2][1].try_get(&key).is_some());
}

#[test]
fn who_leaves_names_a_peer_that_lacks_what_no_other_tells_it() {
    let world = World::new(2);
    let key = world.key_of(1);
    world.set_fault(1, Some(Fault::Refuses));
    assert!(world.groups[0][0].remove(&key).is_err());
    world.set_fault(1, None);
    let Err(Error::Unreached { peers }) = world.nodes[0].leave(MINUTE) else {
        panic!("there is nobody else");
    };
    assert_eq!(peers[0].peer, address(1));
}

#[test]
fn who_leaves_takes_no_removals_over_and_nobody_takes_those_that_cannot_be() {
    let world = World::new(2);
    let deliver = |node: usize, group: &[u8]| {
        let size = u8::try_from(group.len()).unwrap();
        let body = [&[0x2a, size + 2, 0x0a, size], group].concat();
        let request = Request::new("POST", "/_groupcache/").header("X-Groupcache", "1");
        world.nodes[node].answer(&request.body(&body)).status()
    };
    assert_eq!([deliver(0, b"g"), deliver(0, b"")], [200, 400]);
    eventually("it is told", || world.pending(0) == 0);
    world.nodes[0].leave(MINUTE).unwrap();
    assert_eq!([deliver(0, b"g"), deliver(1, b"g")], [503, 200]);
}

/// How many calls a node has made to another one.
fn calls(world: &World, to: usize) -> u64 {
    let peers = world.nodes[0].stats().peers;
    let peer = peers.iter().find(|peer| peer.address == address(to));
    peer.unwrap().calls
}

#[test]
fn all_are_told_once_more_where_one_goes_by_another_ring() {
    let world = World::new(3);
    let told = |times| {
        let before = [1, 2].map(|to| calls(&world, to));
        world.groups[0][0].remove(&world.key_of(0)).unwrap();
        assert_eq!(
            [1, 2].map(|to| calls(&world, to)),
            before.map(|n| n + times)
        );
    };
    told(1);
    world.set_peers(&[1], &[0, 1]);
    told(2);
}

#[test]
fn what_a_peer_is_told_late_the_others_are_told_once_more() {
    let world = World::new(3);
    let key = world.key_of(1);
    world.set_fault(1, Some(Fault::Refuses));
    assert!(world.groups[0][0].remove(&key).is_err());
    world.set_fault(1, None);
    let before = calls(&world, 2);
    world.pass_until("it is told", || world.pending(0) == 0);
    assert_eq!(calls(&world, 2), before + 1);
}

#[test]
fn an_owner_keeps_what_it_has_when_another_peer_is_told_late() {
    let world = World::new(3);
    let set = world.key_of(2);
    let loaded = world.key(0, |key| key != set, 2);
    world.set_fault(1, Some(Fault::Refuses));
    let group = &world.groups[0][0];
    assert!(group.clear().is_err());
    assert!(group.set(&set, Value::from("7")).is_err());
    world.raise();
    assert_eq!(world.seen(2, &loaded), [2, 2]);
    world.set_fault(1, None);
    let before = calls(&world, 2);
    world.pass_until("it is told", || world.pending(0) == 0);
    assert!(calls(&world, 2) > before, "so are the others, once more");
    assert_eq!(world.groups[2][0].try_get(&set), Some(Value::from("7")));
    assert!(world.groups[2][0].try_get(&loaded).is_some());
}

#[test]
fn what_is_fetched_from_a_peer_that_lacks_a_removal_is_not_kept() {
    let world = World::new(2);
    let popular = |node: usize| {
        let version = Arc::clone(&world.version);
        let load = move |_: &str| Ok(Value::from(version.load(Ordering::SeqCst).to_string()));
        let group = world.nodes[node].group_builder("popular", 1 << 20);
        group.hot_threshold(0.0).build(load).unwrap()
    };
    let groups = [popular(0), popular(1)];
    let key = world.key_of(1);
    let other = world.key(0, |other| other != key, 1);
    let has = |key: &str| groups[0].try_get(key).is_some();
    groups[0].get(&other).unwrap();
    assert!(has(&other), "it is mirrored");
    groups[1].get(&key).unwrap();
    world.raise();
    world.line.stand_in(|_, call| {
        removes(call).then(|| Err(CallError::Unreachable("it is lost".into())))
    });
    assert!(groups[0].remove(&key).is_err());
    assert_eq!(
        groups[0].get(&key).unwrap(),
        Value::from("1"),
        "what the owner has"
    );
    let many = groups[0].get_many(&[&key]);
    assert_eq!(many[0].as_ref().unwrap(), &Value::from("1"));
    assert!(!has(&key));
    world.line.stand_in(|_, _| None);
    world.pass_until("it is told", || world.pending(0) == 0);
    assert_eq!(groups[0].get(&key).unwrap(), Value::from("2"));
    assert!(has(&key));
}

#[test]
fn a_slow_peer_does_not_keep_another_from_being_told() {
    let world = World::new(3);
    let keys: Vec<String> = (0..2_000).map(|number| format!("key {number}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    for node in [1, 2] {
        world.set_fault(node, Some(Fault::Refuses));
    }
    for _ in 0..5 {
        assert!(world.groups[0][0].remove_many(&keys).is_err());
    }
    // Each answer of the one takes almost the time that it may take. The other one is gone again as
    // soon as it is back, and back in the middle of that.
    let (clock, calls) = (world.clock.clone(), Arc::new(AtomicUsize::new(0)));
    let (network, count) = (world.network.clone(), Arc::clone(&calls));
    world.line.stand_in(move |address_of, call| {
        if removes(call) && address_of == address(1) {
            if count.fetch_add(1, Ordering::SeqCst) == 0 {
                network.set_fault(&address(2), None);
            }
            clock.advance(SECOND / 2);
        }
        None
    });
    world.set_fault(1, None);
    let pending_for = |node: usize| {
        let peers = world.nodes[0].stats().peers;
        let peer = peers.iter().find(|peer| peer.address == address(node));
        peer.unwrap().pending_removals
    };
    world.pass_until("the other one is told", || pending_for(2) == 0);
    assert!(pending_for(1) > 0, "after {calls:?} calls");
    world.line.stand_in(|_, _| None);
    world.pass_until("it is told as well", || pending_for(1) == 0);
}

#[test]
fn a_removal_that_a_peer_refuses_does_not_keep_it_from_the_others() {
    let world = World::new(2);
    let key = world.key_of(1);
    assert_eq!(world.seen(1, &key), [1, 1]);
    world.set_fault(1, Some(Fault::Refuses));
    world.raise();
    for group in &world.groups[0] {
        assert!(group.remove(&key).is_err());
    }
    // It refuses what is removed from the first group.
    world.line.stand_in(|_, call| {
        let refuses = removes(call) && call.target.starts_with("/_groupcache/one");
        refuses.then(|| {
            Ok(Reply {
                status: 400,
                header: Some("1; s=bad-request".into()),
                body: Vec::new(),
            })
        })
    });
    world.set_fault(1, None);
    world.pass_until("it is told", || world.pending(0) == 0);
    assert_eq!(world.seen(1, &key), [1, 2]);
    let peers = world.nodes[0].stats().peers;
    assert!(
        peers
            .iter()
            .all(|peer| peer.circuit == CircuitState::Closed)
    );
}

#[test]
fn an_answer_of_something_else_at_the_address_of_a_peer_tells_nobody() {
    let world = World::with(2, Clock::manual(), |node| node.dialect(Dialect::Golang));
    let key = world.key_of(1);
    assert_eq!(world.seen(1, &key), [1, 1]);
    assert_eq!(world.seen(0, &key), [1, 1], "it is known to be one of ours");
    world.set_fault(1, Some(Fault::Refuses));
    world.raise();
    assert!(world.groups[0][0].remove(&key).is_err());
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    world.line.stand_in(move |_, _| {
        asked.fetch_add(1, Ordering::SeqCst);
        Some(Ok(Reply {
            status: 200,
            header: None,
            body: Vec::new(),
        }))
    });
    world.set_fault(1, None);
    world.pass_until("it has answered", || count.load(Ordering::SeqCst) > 3);
    world.line.stand_in(|_, _| None);
    world.pass_until("the peer is told", || world.seen(1, &key) == [2, 1]);
}

#[test]
fn a_removal_is_known_to_a_node_that_has_not_the_group_yet() {
    let mut world = World::new(2);
    world.start(|node| node);
    let version = Arc::clone(&world.version);
    let build = |node: &Node| {
        let version = Arc::clone(&version);
        let load = move |_: &str| Ok(Value::from(version.load(Ordering::SeqCst).to_string()));
        node.group_builder("late", 1 << 20).build(load).unwrap()
    };
    let [first, second] = [0, 1].map(|node| build(&world.nodes[node]));
    world.set_peers(&[2], &[0, 1, 2]);
    let was_first = |key: &str| world.nodes[0].owner(key).address() == address(0);
    let key = world.key(2, was_first, 2);
    let other = world.key(2, |other| was_first(other) && other != key, 2);
    for key in [&key, &other] {
        assert_eq!(first.get(key).unwrap(), Value::from("1"));
    }
    world.set_peers(&[0, 1], &[0, 1, 2]);
    world.raise();
    // The old owner does not hear of it: the new one must not take its value over, and has nothing to deliver.
    world
        .line
        .state
        .loses_hand_overs
        .store(true, Ordering::SeqCst);
    world.line.stand_in(|to, call| {
        let is_lost = removes(call) && to == address(0);
        is_lost.then(|| Err(CallError::Unreachable("it is lost".into())))
    });
    assert!(second.remove(&key).is_err());
    let third = build(&world.nodes[2]);
    assert_eq!(
        third.get(&other).unwrap(),
        Value::from("1"),
        "it takes values over"
    );
    assert_eq!(third.get(&key).unwrap(), Value::from("2"));
}

fn version_of(group: &Group, key: &str) -> u64 {
    group.get(key).unwrap().as_str().unwrap().parse().unwrap()
}

/// A gate for one address, what tells that somebody waits there, and what lets him go.
fn gate(node: usize) -> (Gate, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (held, is_held) = mpsc::channel();
    let (go, gate) = mpsc::channel();
    ((address(node), held, gate), is_held, go)
}

#[test]
fn what_is_fetched_from_a_peer_that_missed_a_removal_still_under_way_is_not_kept() {
    let world = World::new(3);
    let groups = world.mirrored();
    let key = world.key_of(1);
    assert_eq!(version_of(&groups[1], &key), 1);
    world.raise();
    world.lose_removals(&[1]);
    let (at_other, is_held, go) = gate(2);
    *world.line.state.gate.lock().unwrap() = Some(at_other);
    std::thread::scope(|scope| {
        let remover = scope.spawn(|| groups[0].remove(&key));
        is_held.recv().unwrap();
        let seen = version_of(&groups[0], &key);
        let is_kept = groups[0].try_get(&key).is_some();
        go.send(()).unwrap();
        assert!(remover.join().unwrap().is_err());
        assert_eq!((seen, is_kept), (1, false), "what the owner has");
    });
    world.lose_removals(&[]);
    world.pass_until("it is told", || world.pending(0) == 0);
    assert_eq!(version_of(&groups[0], &key), 2);
}

#[test]
fn nothing_is_taken_over_from_a_former_owner_that_lacks_a_removal_however_old() {
    let world = World::with(2, Clock::manual(), |node| node.circuit_failures(1_000));
    let key = world.key_of(1);
    assert_eq!(world.seen(1, &key), [1, 1]);
    world.raise();
    world.lose_removals(&[1]);
    assert!(world.groups[0][0].remove(&key).is_err());
    for _ in 0..12 {
        eventually("the keeper sleeps", || world.clock.sleepers() > 0);
        world.clock.advance(MINUTE);
    }
    world.set_peers(&[0], &[0]);
    assert_eq!(world.seen(0, &key), [2, 2]);
}

#[test]
fn what_a_peer_is_told_late_is_told_once_more_to_those_who_left_the_list() {
    let world = World::with(3, Clock::manual(), |node| node.circuit_failures(1_000));
    let groups = world.mirrored();
    let key = world.key_of(1);
    for group in &groups[1..] {
        assert_eq!(version_of(group, &key), 1);
    }
    world.set_peers(&[0], &[0, 1]); // node 2 has not heard of it
    world.raise();
    world.lose_removals(&[1]);
    assert!(groups[0].remove(&key).is_err());
    world.pass_until("it is told", || groups[2].try_get(&key).is_none());
    assert_eq!(version_of(&groups[2], &key), 1, "what the owner has");
    world.lose_removals(&[]);
    world.pass_until("the owner is told", || world.pending(0) == 0);
    world.pass_until("and the other one", || groups[2].try_get(&key).is_none());
}

#[test]
fn what_two_peers_are_told_late_the_others_are_told_after_the_second() {
    let world = World::with(4, Clock::manual(), |node| node.circuit_failures(1_000));
    world
        .line
        .state
        .loses_hand_overs
        .store(true, Ordering::SeqCst);
    let groups = world.mirrored();
    let key = world.key_of(3);
    assert_eq!(version_of(&groups[3], &key), 1);
    world.raise();
    world.lose_removals(&[1, 3]);
    assert!(groups[0].remove(&key).is_err());
    eventually("the keeper sleeps", || world.clock.sleepers() > 0);
    world.lose_removals(&[2, 3]);
    world.clock.advance(SECOND);
    eventually("the first is told", || world.pending_for(0, 1) == 0);
    eventually("the keeper sleeps", || world.clock.sleepers() > 0);
    // In one round, node 2 is told that node 1 was late, and node 3 is told at last.
    world.lose_removals(&[]);
    let (second, second_is_told, second_goes_on) = gate(2);
    *world.line.state.reply_gate.lock().unwrap() = Some(second);
    let (third, third_is_held, third_goes_on) = gate(3);
    *world.line.state.gate.lock().unwrap() = Some(third);
    world.clock.advance(SECOND);
    second_is_told.recv().unwrap();
    third_is_held.recv().unwrap();
    assert_eq!(version_of(&groups[2], &key), 1, "what the owner has");
    third_goes_on.send(()).unwrap();
    eventually("the owner is told", || world.pending_for(0, 3) == 0);
    second_goes_on.send(()).unwrap();
    world.pass_until("all are told", || world.pending(0) == 0);
    assert_eq!(version_of(&groups[2], &key), 2);
}

#[test]
fn who_takes_removals_over_keeps_nothing_that_it_fetched_from_who_lacks_them() {
    let world = World::with(3, Clock::manual(), |node| node.circuit_failures(1_000));
    let groups = world.mirrored();
    let key = world.key_of(1);
    assert_eq!(version_of(&groups[1], &key), 1);
    world.raise();
    world.lose_removals(&[1]);
    assert!(groups[0].remove(&key).is_err());
    assert_eq!(version_of(&groups[2], &key), 1, "what the owner has");
    let _ = world.nodes[0].leave(MINUTE);
    world.set_fault(0, Some(Fault::Refuses)); // its process has ended
    world.lose_removals(&[]);
    world.pass_until("it is told", || groups[1].try_get(&key).is_none());
    assert_eq!(version_of(&groups[2], &key), 2);
}

#[test]
fn nobody_takes_over_to_tell_a_peer_that_it_does_not_know() {
    let world = World::with(4, Clock::manual(), |node| node.circuit_failures(1_000));
    let key = world.key_of(3);
    assert_eq!(world.seen(3, &key), [1, 1]);
    let wait = |minutes| {
        for _ in 0..minutes {
            eventually("the keeper sleeps", || world.clock.sleepers() > 0);
            world.clock.advance(MINUTE);
        }
    };
    world.raise();
    world.lose_removals(&[3]);
    assert!(world.groups[0][0].remove(&key).is_err());
    world.set_peers(&[1], &[0, 1, 2]);
    wait(12);
    let _ = world.nodes[0].leave(MINUTE);
    world.set_fault(0, Some(Fault::Refuses)); // its process has ended
    world.set_peers(&[1], &[0, 1, 2, 3]);
    world.lose_removals(&[]);
    world.pass_until("it is told", || world.groups[3][0].try_get(&key).is_none());
}

#[test]
fn a_refusal_of_something_else_at_the_address_of_a_peer_refuses_nothing() {
    for many_groups in [false, true] {
        let mut world = World::new(2);
        world.start(|node| node);
        let key = world.key_of(1);
        assert_eq!(world.seen(1, &key), [1, 1]);
        world.set_fault(1, Some(Fault::Refuses));
        world.raise();
        assert!(world.groups[0][0].remove(&key).is_err());
        if many_groups {
            let long = "k".repeat(10_000);
            for number in 0..20 {
                let group = world.nodes[0].group_builder(&format!("g{number}"), 1 << 20);
                let group = group.build(|_| Ok(Value::from("x"))).unwrap();
                for number in 0..10 {
                    let _ = group.remove(&format!("{long}{number}"));
                }
            }
        }
        let count = Arc::new(AtomicUsize::new(0));
        let asked = Arc::clone(&count);
        world.line.stand_in(move |_, call| {
            let is_probe = call.method == "GET";
            asked.fetch_add(usize::from(!is_probe), Ordering::SeqCst);
            let number = asked.load(Ordering::SeqCst);
            Some(Ok(Reply {
                status: [400, 503, 414][number % 3],
                header: None,
                body: Vec::new(),
            }))
        });
        world.set_fault(1, None);
        world.pass_until("it has answered", || count.load(Ordering::SeqCst) > 3);
        world.line.stand_in(|_, _| None);
        world.pass_until("it is told", || world.pending(0) == 0);
        assert_eq!(world.seen(1, &key)[0], 2, "many groups: {many_groups}");
    }
}

#[test]
fn who_leaves_the_list_while_another_change_of_it_is_finished_is_told_of_removals() {
    let mut world = World::new(3);
    world.start(|node| node);
    let (enter, entered) = mpsc::channel();
    let (release, gate) = mpsc::channel::<()>();
    let (enter, gate) = (Mutex::new(enter), Mutex::new(gate));
    let blocks = world.nodes[0]
        .group_builder("blocks", 1 << 20)
        .eviction_listener(move |_, _, _| {
            let _ = enter.lock().unwrap().send(());
            let _ = gate.lock().unwrap().recv();
        })
        .build(|_| Ok(Value::from("x")))
        .unwrap();
    let key = world.key_of(1);
    assert_eq!(world.seen(1, &key), [1, 1]);
    world.set_peers(&[0], &[]);
    blocks.get("a").unwrap();
    std::thread::scope(|scope| {
        let world = &world;
        scope.spawn(|| world.set_peers(&[0], &[0, 1, 2]));
        entered.recv().unwrap();
        world.set_peers(&[0], &[0, 2]);
        release.send(()).unwrap();
    });
    world.raise();
    world.groups[0][0].remove(&key).unwrap();
    world.pass_until("it is told", || world.groups[1][0].try_get(&key).is_none());
}

#[test]
fn a_set_that_arrives_late_does_not_undo_that_all_groups_were_cleared() {
    let world = World::with(2, Clock::manual(), |node| node.circuit_failures(1_000));
    let key = world.key_of(1);
    world.line.state.keeps_put.store(true, Ordering::SeqCst);
    assert!(world.groups[0][0].set(&key, Value::from("100")).is_err());
    // So many groups that they are not known by name any more.
    world.lose_removals(&[1]);
    for number in 0..20 {
        let group = world.nodes[0].group_builder(&format!("g{number}"), 1 << 20);
        let group = group.build(|_| Ok(Value::from("x"))).unwrap();
        assert!(group.remove("key").is_err());
    }
    for _ in 0..12 {
        eventually("the keeper sleeps", || world.clock.sleepers() > 0);
        world.clock.advance(MINUTE);
    }
    world.lose_removals(&[]);
    world.pass_until("it is told", || world.pending(0) == 0);
    assert_eq!(deliver_late(&world, 1), 400);
    assert_eq!(world.seen(1, &key), [1, 1]);
}

#[test]
fn a_set_that_is_refused_is_done_or_said_not_to_be_however_much_else_was_removed() {
    let long = "k".repeat(1_000);
    let many: Vec<String> = (0..2_000).map(|number| format!("{long}{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for (other, expected) in [(1, 7), (0, 2)] {
        let world = World::new(2);
        let key = world.key_of(1);
        assert_eq!(world.seen(1, &key), [1, 1]);
        world.raise();
        let (held, is_held) = mpsc::channel();
        let (go, gate) = mpsc::channel();
        *world.line.state.put_gate.lock().unwrap() = Some((held, gate));
        std::thread::scope(|scope| {
            let setter = scope.spawn(|| world.groups[0][0].set(&key, Value::from("7")));
            is_held.recv().unwrap();
            // The owner forgets which change of node 0 was the last one of another key.
            for groups in &world.groups {
                groups[1].remove("another").unwrap();
            }
            world.groups[0][other].remove_many(&many).unwrap();
            go.send(()).unwrap();
            assert_eq!(setter.join().unwrap().is_ok(), expected == 7);
        });
        world.pass_until("all are told", || world.pending(0) == 0);
        assert_eq!(world.seen(1, &key)[0], expected);
    }
}
