//! P3: a get never returns bytes of another key, a short value or a mixed one.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use groupcache_sync::{
    Call, CallError, Clock, Error, Group, Limits, Link, LoadError, Loaded, Network, Node, Peer,
    Reply, Server, Transport, Value,
};

use crate::cluster::{Cluster, GROUP, address, value_of};

fn hard_keys() -> Vec<String> {
    let mut keys: Vec<String> = [
        "",
        "/",
        "//",
        "..",
        "../..",
        ".",
        "%2F",
        "%",
        "%zz",
        "?",
        "?a=b",
        "#",
        "+",
        "a+b",
        " ",
        "a b",
        "\0",
        "\r\n",
        "\t",
        "\u{1f600}",
        "e\u{301}",
        "\u{e9}",
        "\u{202e}abc",
        "things/key",
        "/_groupcache/things/x",
        "; drop",
        "&amp;",
        "\"'",
        "\\",
        "\u{7f}",
        "\u{feff}",
    ]
    .map(str::to_owned)
    .to_vec();
    keys.push((1..=0x7f_u8).map(char::from).collect());
    keys.push("k".repeat(12_000));
    keys
}

#[test]
fn every_key_reaches_the_other_node_unchanged() {
    let cluster = Cluster::new(2);
    for key in hard_keys() {
        for group in &cluster.groups {
            assert_eq!(group.get(&key).unwrap(), value_of(&key), "{key:?}");
        }
        assert_eq!(cluster.loads.of(&key), 1, "{key:?}");
    }
}

#[test]
fn a_key_that_cannot_travel_is_refused_at_the_caller() {
    let cluster = Cluster::new(2);
    let group = &cluster.groups[0];
    let just_short_enough = "k".repeat(groupcache_sync::MAX_KEY_BYTES);
    assert!(group.get(&just_short_enough).is_ok());
    for key in [
        "k".repeat(groupcache_sync::MAX_KEY_BYTES + 1),
        "\u{1f600}".repeat(1_334),
    ] {
        let refused = [
            group.get(&key).map(drop),
            group.remove(&key),
            group.set(&key, Value::from("v")),
        ];
        for outcome in refused {
            assert!(
                matches!(outcome, Err(Error::KeyTooLong { .. })),
                "{outcome:?}"
            );
        }
    }
    assert_eq!(cluster.loads.all(), 1);
}

/// Answers every request with the same reply, as a peer that lies or is confused.
struct Liar(Reply);

impl Transport for Liar {
    fn link(&self, _: &Peer, _: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(Liar(self.0.clone())))
    }
}

impl Link for Liar {
    fn call(&self, _: &Call, _: Duration) -> Result<Reply, CallError> {
        Ok(self.0.clone())
    }
}

fn ask_a_liar(reply: Reply) -> (Result<Value, Error>, u64) {
    let node = Node::builder("http://me:1")
        .unwrap()
        .clock(Clock::manual())
        .allow_absent(true)
        .transport(Arc::new(Liar(reply)))
        .build()
        .unwrap();
    let group = node
        .group_builder("g", 1 << 20)
        .build(|key| Ok(value_of(key)))
        .unwrap();
    node.set_peers(["http://liar:1"]).unwrap();
    (group.get("k"), group.stats().fetch_errors)
}

#[test]
fn an_answer_that_is_not_one_is_replaced_by_a_load() {
    let recorded = {
        // A right answer, for another key.
        let node = Node::new("http://other:1").unwrap();
        let _group = node
            .group_builder("g", 1 << 20)
            .build(|_| Ok(Value::from("WRONG")))
            .unwrap();
        let request = groupcache_sync::Request::new("GET", "/_groupcache/g/another");
        node.answer(&request).body().concat()
    };
    let lies = [
        (200, None, recorded),
        (200, None, vec![]),
        (200, None, vec![0xff; 100]),
        (200, None, vec![0x0a, 2, b'h', b'i']),
        (200, Some("v=1;s=not-found"), vec![]),
        (302, None, vec![]),
        (206, None, vec![]),
        (500, None, b"oops".to_vec()),
        (202, Some("v=1;s=loading"), vec![]),
        (404, Some("v=1;s=no-such-group"), vec![]),
        (503, None, vec![]),
        (400, None, vec![]),
        // What anybody may say who listens at the address of a peer that is gone.
        (404, None, vec![]),
        (413, None, vec![]),
        (500, None, vec![]),
        // An answer to another request.
        (404, Some("v=1;s=not-found;k=1"), vec![]),
        (413, Some("v=1;s=too-large;n=7;k=1"), vec![]),
    ];
    for (status, header, body) in lies {
        let header = header.map(str::to_owned);
        let told = format!("{status} {header:?} {} bytes", body.len());
        let (value, errors) = ask_a_liar(Reply {
            status,
            header,
            body,
        });
        assert_eq!(value.unwrap(), value_of("k"), "{told}");
        assert_eq!(errors, 1, "{told}");
    }
}

/// A key of `length` bytes that `owner` owns, as `node` sees it.
fn key_of_length(node: &Node, owner: &Node, number: usize, length: usize) -> String {
    let chars = (b'0'..=b'z').map(|letter| char::from(letter).to_string());
    let keys = chars.map(|first| format!("{first:x<length$}"));
    let mut owned = keys.filter(|key| node.owner(key) == *owner.this());
    owned.nth(number).unwrap()
}

/// Sets and gets values at and beside the limit, by both nodes, of keys that either owns.
fn limits_are_the_same_everywhere(nodes: [Node; 2], max: usize) {
    let groups = nodes.each_ref().map(|node| {
        let group = node.group_builder(GROUP, 64 << 20).shards(1);
        group
            .build(move |_| Ok(Value::from(vec![b'l'; max])))
            .unwrap()
    });
    let list = nodes.each_ref().map(|node| node.this().clone());
    for node in &nodes {
        node.set_peers(list.clone()).unwrap();
    }
    let mut number = 0;
    for length in [1, 15_900] {
        for owner in &nodes {
            for (at, group) in groups.iter().enumerate() {
                for size in [max - 1, max, max + 1] {
                    number += 1;
                    let key = key_of_length(&nodes[0], owner, number % 9, length);
                    let what = format!("{size} of {max} bytes, a key of {length}, set by {at}");
                    let set = group.set(&key, Value::from(vec![b's'; size]));
                    let expected = match set {
                        Ok(()) => (b's', size),
                        Err(Error::ValueTooLarge { bytes, .. }) if bytes == size => (b'l', max),
                        Err(error) => panic!("{what}: {error}"),
                    };
                    assert_eq!(expected.0 == b's', size <= max, "{what}");
                    if size > max {
                        group.remove(&key).unwrap();
                    }
                    for group in &groups {
                        for value in [group.get(&key), group.get_many(&[&key]).remove(0)] {
                            let value = value.unwrap();
                            assert_eq!((value[0], value.len()), expected, "{what}");
                        }
                    }
                }
            }
        }
    }
    let stats = groups.each_ref().map(Group::stats);
    assert!(
        stats.iter().all(|stats| stats.fetch_errors == 0),
        "{stats:?}"
    );
}

#[test]
fn values_beside_the_limit_are_treated_alike_wherever_their_key_is_owned_and_however_long_it_is() {
    for max in [2 << 20, 100_000] {
        let network = Network::new();
        let nodes = [0, 1].map(|at| {
            let node = network
                .builder(address(at))
                .unwrap()
                .max_value(max)
                .build()
                .unwrap();
            network.attach(&node);
            node
        });
        limits_are_the_same_everywhere(nodes, max);
        let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let nodes = listeners.each_ref().map(|listener| {
            let address = format!("http://{}", listener.local_addr().unwrap());
            Node::builder(&address)
                .unwrap()
                .max_value(max)
                .build()
                .unwrap()
        });
        let mut each = nodes.iter();
        let _servers = listeners
            .map(|listener| Server::from_listener(each.next().unwrap(), listener).unwrap());
        limits_are_the_same_everywhere(nodes.clone(), max);
    }
}

#[test]
fn what_is_too_large_to_travel_is_not_kept_by_its_owner_either() {
    let node = Network::new().builder(address(0)).unwrap();
    let node = node.max_value(1_000).build().unwrap();
    let group = node.group_builder(GROUP, 1 << 20);
    let group = group
        .build(|key| Ok(Value::from(vec![0; key.parse()?])))
        .unwrap();
    for (size, kept) in [("999", 1), ("1000", 2), ("1001", 2), ("16000", 2)] {
        group.get(size).unwrap();
        assert_eq!(group.stats().main_items, kept, "{size}");
    }
}

#[test]
fn values_of_all_sizes_travel_whole() {
    let max = 1 << 20;
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node.max_value(max),
        |group| group,
        |key| Ok(Value::from(vec![b'x'; key.parse()?])),
    );
    for size in [0, 1, 127, 128, 16_383, 16_384, max - 1, max] {
        for group in &cluster.groups {
            let value = group.get(&size.to_string()).unwrap();
            assert_eq!(value.len(), size);
            assert!(value.iter().all(|&byte| byte == b'x'));
        }
    }
    // One byte too many: returned where it is loaded, named where it is not, and loaded once each.
    let key = (max + 1).to_string();
    let outcomes: Vec<_> = cluster.groups.iter().map(|group| group.get(&key)).collect();
    let whole = outcomes
        .iter()
        .flatten()
        .filter(|value| value.len() == max + 1)
        .count();
    let named = |outcome: &&Result<Value, Error>| matches!(outcome, Err(Error::ValueTooLarge { bytes, .. }) if *bytes == max + 1);
    assert_eq!(
        (whole, outcomes.iter().filter(named).count()),
        (1, 1),
        "{outcomes:?}"
    );
    assert_eq!(
        cluster
            .groups
            .iter()
            .map(|group| group.stats().hot_items)
            .sum::<u64>(),
        0
    );
    let too_large = Loaded::new(Value::from(vec![0; max + 1]));
    let refused = cluster
        .groups
        .iter()
        .filter(|group| group.set("s", too_large.clone()).is_err());
    assert!(refused.count() >= 1);
}

/// Two nodes, the second of which owns all keys, and what is between them.
fn two_nodes(transport: impl Fn(&Network) -> Arc<dyn Transport>) -> (Network, [Node; 2]) {
    let network = Network::new();
    let builder = |at: &str| network.builder(at).unwrap().warm_up(Duration::ZERO);
    let asker = builder("http://asker:1").allow_absent(true);
    let asker = asker.transport(transport(&network)).build().unwrap();
    let owner = builder("http://owner:1").build().unwrap();
    for node in [&asker, &owner] {
        network.attach(node);
        node.set_peers(["http://owner:1"]).unwrap();
    }
    (network, [asker, owner])
}

/// Holds all calls, until it lets some of them pass.
#[derive(Default)]
struct Gate {
    state: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    waiting: usize,
    batches_to_pass: usize,
    is_open: bool,
}

impl Gate {
    fn pass(&self, is_batch: bool) {
        let mut held = self.state.lock().unwrap();
        held.waiting += 1;
        self.changed.notify_all();
        while !(held.is_open || is_batch && held.batches_to_pass > 0) {
            held = self.changed.wait(held).unwrap();
        }
        held.batches_to_pass = held.batches_to_pass.saturating_sub(1);
        held.waiting -= 1;
    }

    fn wait_for(&self, waiting: usize) {
        let held = self.state.lock().unwrap();
        let is_fewer = |held: &mut Held| held.waiting < waiting;
        drop(self.changed.wait_while(held, is_fewer).unwrap());
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }
}

struct Gated(Network, Arc<Gate>);

struct GatedLink(Arc<dyn Link>, Arc<Gate>);

impl Transport for Gated {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        let link = self.0.link(peer, limits)?;
        Ok(Arc::new(GatedLink(link, Arc::clone(&self.1))))
    }
}

impl Link for GatedLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        self.1.pass(call.method == "POST");
        self.0.call(call, timeout)
    }
}

/// How many callers ask by themselves, and how many requests for several are under way at most.
fn at_once() -> (usize, usize) {
    let processors = thread::available_parallelism().unwrap().get();
    (4 * processors, processors + 1)
}

fn group_of(node: &Node, name: &'static str) -> Group {
    let group = node.group_builder(name, 1 << 20).hot_bytes(0);
    let load = move |key: &str| Ok(Value::from(format!("{key} of {name}")));
    group.build(load).unwrap()
}

/// Waits until so many fetches of these groups have begun; those that have wait at the gate, or in
/// line.
fn wait_for_leads(groups: &[Group], leads: usize) {
    while groups.iter().map(|group| group.stats().leads).sum::<u64>() < leads as u64 {
        thread::yield_now();
    }
    for _ in 0..1_000 {
        thread::yield_now();
    }
}

#[test]
fn many_callers_of_groups_with_equal_keys_get_the_values_of_their_own_group() {
    let gate = Arc::new(Gate::default());
    let (_network, nodes) =
        two_nodes(|network| Arc::new(Gated(network.clone(), Arc::clone(&gate))));
    let names = ["one", "two", "three"];
    let _owners = names.map(|name| group_of(&nodes[1], name));
    let groups = names.map(|name| group_of(&nodes[0], name));
    let (alone, together) = at_once();
    let callers = alone + together + 60;
    thread::scope(|scope| {
        for caller in 0..callers {
            let (group, name) = (&groups[caller % 3], names[caller % 3]);
            let key = format!("key {}", caller / 3);
            scope.spawn(move || {
                let value = group.get(&key).unwrap();
                assert_eq!(value, Value::from(format!("{key} of {name}")));
            });
        }
        gate.wait_for(alone + together);
        wait_for_leads(&groups, callers);
        gate.change(|held| held.is_open = true);
    });
    let errors = groups.iter().map(|group| group.stats().fetch_errors);
    assert_eq!(errors.sum::<u64>(), 0);
}

#[test]
fn one_who_asks_for_others_has_its_own_answer_as_soon_as_it_is_there() {
    let gate = Arc::new(Gate::default());
    let (_network, nodes) =
        two_nodes(|network| Arc::new(Gated(network.clone(), Arc::clone(&gate))));
    let owner = group_of(&nodes[1], "one");
    let group = group_of(&nodes[0], "one");
    let (alone, together) = at_once();
    let callers = alone + together + 20;
    for caller in 0..callers {
        owner.get(&format!("key {caller}")).unwrap();
    }
    thread::scope(|scope| {
        let gets: Vec<_> = (0..callers)
            .map(|caller| {
                let (group, key) = (&group, format!("key {caller}"));
                scope.spawn(move || group.get(&key).map(drop))
            })
            .collect();
        gate.wait_for(alone + together);
        wait_for_leads(std::slice::from_ref(&group), callers);
        gate.change(|held| held.batches_to_pass = 1);
        // The next in line asks for the rest, and is held in its turn: the one who asked is not.
        let guard = Instant::now() + Duration::from_secs(60);
        let is_answered = || gets.iter().any(thread::ScopedJoinHandle::is_finished);
        while !is_answered() && Instant::now() < guard {
            thread::yield_now();
        }
        let is_answered = is_answered();
        gate.change(|held| held.is_open = true);
        assert!(
            is_answered,
            "it asks for others with its answer in its hands"
        );
        for get in gets {
            get.join().unwrap().unwrap();
        }
    });
}

/// A connection that went out of step: each call gets the answer to the one before.
struct Lagging(Network);

struct LaggingLink(Arc<dyn Link>, Mutex<Option<Reply>>);

impl Transport for Lagging {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        let link = self.0.link(peer, limits)?;
        Ok(Arc::new(LaggingLink(link, Mutex::new(None))))
    }
}

impl Link for LaggingLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let reply = self.0.call(call, timeout)?;
        let before = self.1.lock().unwrap().replace(reply.clone());
        Ok(before.unwrap_or(reply))
    }
}

#[test]
fn the_answer_to_the_request_before_is_taken_for_none() {
    for first in ["missing", "broken", "huge", "fine"] {
        let (_network, nodes) = two_nodes(|network| Arc::new(Lagging(network.clone())));
        let group = |node: &Node| {
            let group = node.group_builder("g", 64 << 20).hot_bytes(0);
            let group = group.build(|key| match key {
                "missing" => Err(LoadError::NotFound),
                "broken" => Err("no database".into()),
                "huge" => Ok(Value::from(vec![0; (16 << 20) + 1])),
                key => Ok(value_of(key)),
            });
            group.unwrap()
        };
        let (asker, _owner) = (group(&nodes[0]), group(&nodes[1]));
        let _ = asker.get(first);
        let errors = asker.stats().fetch_errors;
        assert_eq!(asker.get("next").unwrap(), value_of("next"), "{first}");
        assert_eq!(asker.stats().fetch_errors, errors + 1, "{first}");
        // Nor is a removal done because a get was answered.
        let removed = asker.remove("another");
        assert!(matches!(removed, Err(Error::Unreached { .. })), "{first}");
    }
}

fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
}

#[test]
fn an_answer_that_nobody_asked_for_is_not_that_to_the_next_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let node = Node::builder("http://me:1").unwrap().allow_absent(true);
    let patience = Duration::from_secs(60);
    let node = node.connect_timeout(patience).fetch_timeout(patience);
    let node = node.build().unwrap();
    let group = node.group_builder("g", 1 << 20);
    let group = group.build(|key| Ok(value_of(key))).unwrap();
    node.set_peers([&address]).unwrap();
    let steps = Arc::new(Barrier::new(2));
    let step = Arc::clone(&steps);
    thread::spawn(move || {
        // An older node: its answers do not say which request they belong to.
        let answer =
            |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes();
        let (mut first, _) = listener.accept().unwrap();
        let not_found = answer("404 Not Found\r\nX-Groupcache: v=1;s=not-found");
        read_head(&mut first);
        first.write_all(&not_found).unwrap();
        step.wait(); // it has been asked once
        first.write_all(&not_found).unwrap();
        step.wait(); // it has said it twice
        let (mut second, _) = listener.accept().unwrap();
        read_head(&mut second);
        let failed = answer("500 Failed\r\nX-Groupcache: v=1;s=load-failed");
        second.write_all(&failed).unwrap();
    });
    assert!(matches!(group.get("missing"), Err(Error::NotFound)));
    steps.wait();
    steps.wait();
    assert_eq!(group.get("next").unwrap(), value_of("next"));
}
