//! P3: a get never returns bytes of another key, a short value or a mixed one.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, Clock, Error, Group, Limits, Link, Loaded, Network, Node, Peer, Reply, Server,
    Transport, Value,
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
