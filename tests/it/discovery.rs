//! Where the list of peers comes from.

use std::collections::VecDeque;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use groupcache_sync::{
    Clock, Discoverer, DiscovererBuilder, Discovery, Error, Network, Node, NodeStats, Peer,
    PeerFile, Value,
};

use crate::cluster::{GROUP, address, eventually};

const INTERVAL: Duration = Duration::from_secs(10);

type Answer = Result<Vec<Peer>, &'static str>;

fn peers(numbers: &[usize]) -> Vec<Peer> {
    let peers = numbers.iter().map(|&number| Peer::new(&address(number)));
    peers.collect::<Result<_, _>>().unwrap()
}

/// A source that says what it is told to, the last thing again and again.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Answer>>>,
    asked: Arc<AtomicUsize>,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Answer>) -> Script {
        let script = Script::default();
        script.answers.lock().unwrap().extend(answers);
        script
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Discovery for Script {
    fn peers(&mut self) -> Result<Vec<Peer>, Box<dyn std::error::Error + Send + Sync>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 {
            answers.pop_front().unwrap()
        } else {
            answers[0].clone()
        };
        Ok(answer?)
    }
}

struct World {
    network: Network,
    clock: Clock,
    node: Node,
}

impl World {
    fn new() -> World {
        let (network, clock) = (Network::new(), Clock::manual());
        let node = World::node(&network, &clock, 0);
        World {
            network,
            clock,
            node,
        }
    }

    fn node(network: &Network, clock: &Clock, number: usize) -> Node {
        let builder = network.builder(address(number)).unwrap();
        let node = builder.clock(clock.clone()).build().unwrap();
        network.attach(&node);
        node
    }

    fn discoverer(&self) -> DiscovererBuilder {
        Discoverer::builder(&self.node)
            .interval(INTERVAL)
            .jitter(0.0)
    }

    /// Waits until the source has been asked for the first time.
    fn first(&self) -> NodeStats {
        eventually("it is asked", || self.node.stats().discovery_polls == 1);
        self.node.stats()
    }

    /// Lets the time come for the next question, and what follows from it.
    fn round(&self) -> NodeStats {
        let polls = self.node.stats().discovery_polls;
        eventually("it waits", || self.clock.sleepers() == 1);
        self.clock.advance(INTERVAL);
        eventually("it is asked", || self.node.stats().discovery_polls > polls);
        self.node.stats()
    }

    fn listed(&self) -> Vec<String> {
        let peers = self.node.stats().peers.into_iter();
        peers.map(|peer| peer.address).collect()
    }
}

#[test]
fn the_source_is_asked_at_once_and_then_at_each_interval() {
    let world = World::new();
    let script = Script::new([Ok(peers(&[0, 1])), Ok(peers(&[0, 1])), Ok(peers(&[0, 2]))]);
    let discoverer = world.discoverer().start(script.clone()).unwrap();
    let first = world.first();
    assert_eq!(world.listed(), [address(0), address(1)]);
    assert_eq!(world.round().ring, first.ring);
    assert_eq!(world.round().discovery_polls, 3);
    assert_eq!(script.asked(), 3);
    assert_eq!(world.listed(), [address(0), address(2)]);
    drop(discoverer);
    assert_eq!(world.clock.sleepers(), 0, "its thread has ended");
}

#[test]
fn an_error_keeps_the_last_list_and_is_counted() {
    let world = World::new();
    let twice = vec![
        Peer::new("http://a:1").unwrap().with_name("x"),
        Peer::new("http://b:1").unwrap().with_name("x"),
    ];
    let bad: [Answer; 3] = [Err("no resolver"), Ok(Vec::new()), Ok(twice)];
    let answers = [Ok(peers(&[0, 1]))].into_iter().chain(bad);
    let script = Script::new(answers.chain([Ok(peers(&[0, 1, 2]))]));
    let _discoverer = world.discoverer().start(script).unwrap();
    world.first();
    for errors in 1..=3 {
        assert_eq!(world.round().discovery_errors, errors);
        assert_eq!(world.listed(), [address(0), address(1)]);
    }
    assert_eq!(world.round().peers.len(), 3);
    assert_eq!(world.node.stats().discovery_errors, 3);
}

#[test]
fn an_empty_list_is_taken_where_it_is_allowed() {
    let world = World::new();
    let script = Script::new([Ok(peers(&[0, 1])), Ok(Vec::new())]);
    let _discoverer = world.discoverer().allow_empty(true).start(script).unwrap();
    world.first();
    assert!(world.round().peers.is_empty());
    let group = world.node.group_builder(GROUP, 1 << 20);
    let group = group.build(|key| Ok(Value::from(key))).unwrap();
    assert_eq!(group.get("a").unwrap(), Value::from("a"));
}

#[test]
fn a_node_that_is_not_in_the_list_owns_nothing_and_asks_the_owners() {
    let world = World::new();
    let other = World::node(&world.network, &world.clock, 1);
    let build = |node: &Node, value: &'static str| {
        let group = node.group_builder(GROUP, 1 << 20);
        group.build(move |_| Ok(Value::from(value))).unwrap()
    };
    let (group, _other_group) = (build(&world.node, "here"), build(&other, "there"));
    let script = Script::new([Ok(peers(&[1])), Ok(peers(&[0, 1]))]);
    let _discoverer = world.discoverer().start(script).unwrap();
    assert!(world.first().is_absent);
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        assert_eq!(world.node.owner(key).address(), address(1));
        assert_eq!(group.get(key).unwrap(), Value::from("there"));
    }
    assert!(matches!(
        world.node.set_peers(peers(&[1])),
        Err(Error::SelfMissing { .. })
    ));
    assert!(!world.round().is_absent);
}

#[test]
fn it_ends_with_its_handle_or_with_its_node() {
    let world = World::new();
    let _discoverer = world.discoverer().start(peers(&[0])).unwrap();
    world.first();
    let World { clock, node, .. } = world;
    drop(node);
    clock.advance(INTERVAL);
    eventually("its thread ends", || clock.sleepers() == 0);
}

#[test]
fn a_source_that_hangs_or_panics_harms_nobody() {
    let world = World::new();
    let (release, gate) = mpsc::channel::<()>();
    let asked = Arc::new(AtomicBool::new(false));
    let asking = Arc::clone(&asked);
    let hanging = move || {
        asking.store(true, Ordering::SeqCst);
        let _ = gate.recv();
        Ok(Vec::new())
    };
    let discoverer = world.discoverer().start(hanging).unwrap();
    eventually("it hangs", || asked.load(Ordering::SeqCst));
    drop(discoverer); // does not wait for it
    drop(release);
    let panicking = || -> Result<Vec<Peer>, _> { panic!("no list") };
    let _discoverer = world.discoverer().start(panicking).unwrap();
    assert_eq!(world.first().discovery_errors, 1);
}

#[test]
fn an_answer_that_comes_after_the_end_changes_nothing() {
    let world = World::new();
    let (release, gate) = mpsc::channel::<()>();
    let (asking, asked) = mpsc::channel();
    let late = move || {
        asking.send(()).unwrap();
        let _ = gate.recv();
        Ok(peers(&[0, 2]))
    };
    let discoverer = world.discoverer().start(late).unwrap();
    asked.recv().unwrap();
    drop(discoverer);
    world.node.set_peers(peers(&[0, 1])).unwrap();
    drop(release);
    // The thread drops its source when it ends.
    assert!(asked.recv().is_err());
    assert_eq!(world.listed(), [address(0), address(1)]);
    assert_eq!(world.node.stats().discovery_polls, 0);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let world = World::new();
    let refused = [
        world.discoverer().interval(Duration::ZERO),
        world.discoverer().jitter(1.1),
        world.discoverer().jitter(f64::NAN),
    ];
    for builder in refused {
        let started = builder.start(peers(&[0]));
        assert!(matches!(started, Err(Error::InvalidSetting { .. })));
    }
}

#[test]
fn a_file_is_read_again_and_replaced_as_a_whole() {
    let world = World::new();
    let folder = std::env::temp_dir().join(format!("groupcache-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("peers");
    let write = |text: &str| {
        let new = folder.join("peers.new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
    };
    let this = address(0);
    write(&format!("{this}\ncache-1={}\n", address(1)));
    let file = PeerFile::new(&path);
    let _discoverer = world.discoverer().start(file).unwrap();
    assert_eq!(world.first().peers[1].id, "cache-1");
    for (text, errors, expected) in [
        (format!("{this}\ncache-1={}\n", address(7)), 0, address(7)),
        ("cache-1=malformed\n".to_owned(), 1, address(7)),
        (format!("{this}\ncache-1={} 2\n", address(8)), 1, address(8)),
    ] {
        write(&text);
        let stats = world.round();
        assert_eq!(stats.peers[1].address, expected);
        assert_eq!(stats.peers[1].id, "cache-1", "it keeps its keys");
        assert_eq!(stats.discovery_errors, errors);
    }
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(world.round().discovery_errors, 2);
    assert_eq!(world.listed().len(), 2);
}
