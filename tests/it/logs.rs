//! What the library says in the log: of what, how often, and never a key.

use std::fmt::Write as _;
use std::sync::{Mutex, Once};
use std::time::Duration;

use groupcache_sync::{Clock, Codec, CodecError, Error, Fault, Group, Network, Node, Value};
use log::kv::{self, VisitSource};
use log::{Level, Log, Metadata, Record};

use crate::cluster::eventually;

/// Keeps the lines that tests of this file look for: those with a name that begins with `logged-`,
/// and changes of the ring, which name none.
struct Lines(Mutex<Vec<(Level, String)>>);

static LINES: Lines = Lines(Mutex::new(Vec::new()));

/// A message and what stands beside it, as ` name=value`.
struct Text(String);

impl<'kvs> VisitSource<'kvs> for Text {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let _ = write!(self.0, " {key}={value}");
        Ok(())
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "groupcache"
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut text = Text(record.args().to_string());
        record.key_values().visit(&mut text).unwrap();
        if text.0.contains("logged-") || text.0.starts_with("the ring") {
            self.0.lock().unwrap().push((record.level(), text.0));
        }
    }

    fn flush(&self) {}
}

fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LINES).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// The lines of this level with all of `parts`.
fn logged(level: Level, parts: &[&str]) -> Vec<String> {
    let lines = LINES.0.lock().unwrap();
    let fits = |(of, text): &&(Level, String)| {
        *of == level && parts.iter().all(|part| text.contains(part))
    };
    lines
        .iter()
        .filter(fits)
        .map(|(_, text)| text.clone())
        .collect()
}

fn ok(key: &str) -> Result<Value, groupcache_sync::LoadError> {
    Ok(Value::from(key))
}

#[test]
fn slow_loads_are_reported_once_in_ten_seconds_and_their_keys_at_level_trace() {
    listen();
    let clock = Clock::manual();
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let node = builder.clock(clock.clone()).build().unwrap();
    let in_loader = clock.clone();
    let group = node
        .group_builder("logged-slow", 1 << 20)
        .slow_load(Duration::from_millis(200))
        .build(move |key| {
            in_loader.advance(Duration::from_millis(key.parse()?));
            ok(key)
        })
        .unwrap();
    for key in ["199", "200", "201", "202"] {
        group.get(key).unwrap();
    }
    let parts = ["a load was slow", "group=logged-slow"];
    let said = "a load was slow group=logged-slow millis=200 unreported=0";
    assert_eq!(logged(Level::Warn, &parts), [said]);
    clock.advance(Duration::from_secs(10));
    group.get("333").unwrap();
    let again = "a load was slow group=logged-slow millis=333 unreported=2";
    assert_eq!(logged(Level::Warn, &parts), [said, again]);
    let traced = logged(Level::Trace, &parts);
    assert_eq!(traced.len(), 4);
    assert!(traced[3].contains("\"333\""), "{traced:?}");
}

#[test]
fn a_peer_that_is_away_and_one_that_is_back_are_reported() {
    listen();
    let (network, clock) = (Network::new(), Clock::manual());
    let (a, b) = ("http://logged-up-a:1", "http://logged-up-b:1");
    let build = |address: &str| {
        let builder = network.builder(address).unwrap().clock(clock.clone());
        let node = builder.build().unwrap();
        network.attach(&node);
        node.set_peers([a, b]).unwrap();
        let group: Group = node.group_builder("g", 1 << 20).build(ok).unwrap();
        (node, group)
    };
    let ((node, group), _other) = (build(a), build(b));
    let ring = format!("ring={:x}", node.stats().ring);
    let changes = logged(Level::Info, &["the ring has changed", "peers=2", &ring]);
    assert_eq!(changes.len(), 2, "on each node");
    network.set_fault(b, Some(Fault::Refuses));
    let theirs = (0..).map(|at: u32| at.to_string());
    let theirs = theirs.filter(|key| node.owner(key).address() == b);
    for key in theirs.take(9) {
        group.get(&key).unwrap();
    }
    let peer = format!("peer={b}");
    let unreachable = logged(
        Level::Warn,
        &["the peer is unreachable", &peer, "connection refused"],
    );
    assert_eq!(unreachable.len(), 1, "{unreachable:?}");
    network.set_fault(b, None);
    eventually("it is back", || {
        clock.advance(Duration::from_secs(1));
        !logged(Level::Info, &["the peer is back", &peer]).is_empty()
    });
}

#[test]
fn a_peer_with_another_ring_is_reported_once_in_ten_seconds() {
    listen();
    let (network, clock) = (Network::new(), Clock::manual());
    let (a, b) = ("http://logged-ring-a:1", "http://logged-ring-b:1");
    let build = |address: &str, peers: &[&str]| {
        let builder = network.builder(address).unwrap().clock(clock.clone());
        // A ring that has just changed is none to report.
        let builder = builder.warm_up(Duration::ZERO);
        let node = builder.build().unwrap();
        network.attach(&node);
        node.set_peers(peers.iter().copied()).unwrap();
        let group: Group = node.group_builder("g", 1 << 20).build(ok).unwrap();
        (node, group)
    };
    let (node, group) = build(a, &[a, b]);
    let (other, _other_group) = build(b, &[b]);
    let theirs = (0..).map(|at: u32| at.to_string());
    let mut theirs = theirs.filter(|key| node.owner(key).address() == b);
    for key in theirs.by_ref().take(3) {
        group.get(&key).unwrap();
    }
    let peer = format!("peer={b}");
    let rings = format!(
        "theirs={:x} ours={:x}",
        other.stats().ring,
        node.stats().ring
    );
    let said = |unreported: &str| {
        let parts = ["another list of peers", &peer, &rings, unreported];
        logged(Level::Warn, &parts).len()
    };
    assert_eq!(said("unreported="), 1);
    clock.advance(Duration::from_secs(10));
    group.get(&theirs.next().unwrap()).unwrap();
    assert_eq!((said("unreported="), said("unreported=2")), (2, 1));
    assert_eq!(node.stats().ring_mismatches, 4);
}

/// Encodes, and never decodes.
struct OneWay;

impl Codec<String> for OneWay {
    fn encode(&self, value: &String) -> Result<Value, CodecError> {
        Ok(Value::from(value.as_str()))
    }

    fn decode(&self, _: Value) -> Result<String, CodecError> {
        Err("no".into())
    }
}

#[test]
fn a_key_never_stands_above_level_trace() {
    listen();
    let (network, clock) = (Network::new(), Clock::manual());
    let (a, b) = ("http://logged-keys-a:1", "http://logged-keys-b:1");
    let nodes = [a, b].map(|address| {
        let builder = network.builder(address).unwrap().clock(clock.clone());
        let node = builder.build().unwrap();
        network.attach(&node);
        node.set_peers([a, b]).unwrap();
        node
    });
    let slow = |key: &str| match key.len() % 3 {
        0 => Err("no".into()),
        _ => Ok(key.to_owned()),
    };
    let builder = |node: &Node, name: &str| {
        let builder = node.group_builder(name, 1 << 20).codec(OneWay);
        builder.slow_load(Duration::ZERO)
    };
    let group = builder(&nodes[0], "logged-keys").build(slow).unwrap();
    let _other = builder(&nodes[1], "logged-keys").build(slow).unwrap();
    let missing = builder(&nodes[0], "logged-missing").build(slow).unwrap();
    let panics = nodes[0].group_builder("logged-panics", 1 << 20);
    let panics: Group = panics.build(|_| panic!("as it is told")).unwrap();
    let keys: Vec<String> = (0..200).map(|at| format!("logged-key-{at}")).collect();
    for key in &keys {
        let _ = (group.get(key), missing.get(key));
        assert!(matches!(panics.get(key), Err(Error::Panicked { .. })));
    }
    let _ = group.get_many(&keys);
    network.set_fault(b, Some(Fault::Refuses));
    for key in &keys {
        let _ = (group.get(key), group.remove(key));
    }
    for level in [Level::Error, Level::Warn, Level::Info, Level::Debug] {
        assert_eq!(logged(level, &["logged-key-"]), [""; 0]);
    }
    // It was not silence that kept them out.
    assert!(!logged(Level::Trace, &["logged-key-"]).is_empty());
    for said in ["cannot decode", "no such group", "is unreachable"] {
        assert!(
            !logged(Level::Warn, &[said, "logged-"]).is_empty(),
            "{said}"
        );
    }
}
