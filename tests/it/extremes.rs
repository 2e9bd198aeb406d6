//! Durations that are as long as can be, as short as can be, or nothing, in every setting and call:
//! they have their obvious meaning or are refused, and nothing panics, hangs or spins.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use groupcache_sync::{
    Discoverer, Error, Group, GroupBuilder, Load, LoadError, Loaded, Loader, Network, Node,
    NodeBuilder, Peer, Request, Server, ServerBuilder, Value,
};

use crate::cluster::{GROUP, address, ends, eventually};

const EXTREMES: [Duration; 4] = [
    Duration::MAX,
    Duration::from_millis(u64::MAX),
    Duration::ZERO,
    Duration::from_nanos(1),
];

/// A setting, by its name.
type Setting<B> = (&'static str, fn(B, Duration) -> B);

const OF_NODES: [Setting<NodeBuilder>; 5] = [
    ("connect_timeout", NodeBuilder::connect_timeout),
    ("fetch_timeout", NodeBuilder::fetch_timeout),
    ("load_timeout", NodeBuilder::load_timeout),
    ("fallback_life", NodeBuilder::fallback_life),
    ("warm_up", NodeBuilder::warm_up),
];

const OF_GROUPS: [Setting<GroupBuilder>; 10] = [
    ("ttl", GroupBuilder::ttl),
    ("max_ttl", GroupBuilder::max_ttl),
    ("ttl with jitter", |group, ttl| {
        group.ttl(ttl).ttl_jitter(0.000_000_1)
    }),
    ("hot_ttl", GroupBuilder::hot_ttl),
    ("negative_ttl", GroupBuilder::negative_ttl),
    ("error_ttl", GroupBuilder::error_ttl),
    ("slow_load", GroupBuilder::slow_load),
    ("stale_while_revalidate", |group, time| {
        group
            .ttl(Duration::from_nanos(1))
            .stale_while_revalidate(time)
    }),
    ("stale_if_error", |group, time| {
        group.ttl(Duration::from_nanos(1)).stale_if_error(time)
    }),
    ("both graces", |group, time| {
        group.stale_while_revalidate(time).stale_if_error(time)
    }),
];

const OF_SERVERS: [Setting<ServerBuilder>; 4] = [
    ("head_timeout", ServerBuilder::head_timeout),
    ("body_timeout", ServerBuilder::body_timeout),
    ("write_timeout", ServerBuilder::write_timeout),
    ("idle_timeout", ServerBuilder::idle_timeout),
];

/// Gives a value the life that its key says.
struct Says(Option<Duration>);

impl Loader<Value> for Says {
    fn load(&self, load: &Load<'_>) -> Result<Loaded<Value>, LoadError> {
        if load.key().starts_with("no ") {
            return Err(LoadError::NotFound);
        }
        let loaded = Loaded::new(Value::from(load.key()));
        Ok(match self.0 {
            Some(life) => loaded.ttl(life),
            None => loaded,
        })
    }
}

/// Two nodes with a setting that is extreme; `None` if it is refused.
fn pair(
    set_node: impl Fn(NodeBuilder) -> NodeBuilder,
    set_group: impl Fn(GroupBuilder) -> GroupBuilder,
    ttl: Option<Duration>,
) -> Option<([Node; 2], [Group; 2])> {
    let network = Network::new();
    let nodes = [0, 1].map(|at| {
        let node = set_node(network.builder(address(at)).unwrap()).build();
        match node {
            Ok(node) => {
                network.attach(&node);
                Some(node)
            }
            Err(Error::InvalidSetting { .. }) => None,
            Err(other) => panic!("{other}"),
        }
    });
    let [Some(first), Some(second)] = nodes else {
        return None;
    };
    let nodes = [first, second];
    let groups = nodes.each_ref().map(|node| {
        let group = node.group_builder(GROUP, 1 << 20).hot_threshold(0.0);
        set_group(group).build_with(Says(ttl)).unwrap()
    });
    for node in &nodes {
        node.set_peers([address(0), address(1)]).unwrap();
    }
    Some((nodes, groups))
}

/// Makes every call that there is; what it gives is a value, or an error that is no panic.
fn call_all(nodes: &[Node; 2], groups: &[Group; 2], timeout: Duration) {
    let group = &groups[0];
    let fine = |outcome: Result<Value, Error>, key: &str| match outcome {
        Ok(value) => assert_eq!(value.as_bytes(), key.as_bytes()),
        Err(Error::Panicked { message }) => panic!("{key}: {message}"),
        Err(_) => {}
    };
    for number in 0..8 {
        let (key, absent) = (format!("key {number}"), format!("no {number}"));
        for _ in 0..2 {
            fine(group.get(&key), &key);
            fine(group.get(&absent), &absent);
            fine(group.get_timeout(&key, timeout), &key);
            for outcome in group.get_many_timeout(&[&key, &absent], timeout) {
                fine(outcome, &key);
            }
            drop(group.try_get(&key));
        }
        let value = Loaded::new(Value::from(key.as_str()));
        drop(group.set(&key, value.clone().ttl(timeout)));
        fine(group.get(&key), &key);
        drop(group.remove(&key));
        drop(group.set(&key, value));
    }
    drop(group.clear());
    let _ = (group.stats(), group.hottest(3), nodes[0].stats());
}

#[test]
fn every_setting_of_a_node_bears_any_duration() {
    for (name, set) in OF_NODES {
        for extreme in EXTREMES {
            ends(&format!("{name} {extreme:?}"), move || {
                let built = pair(|node| set(node, extreme), |group| group, None);
                match built {
                    Some((nodes, groups)) => call_all(&nodes, &groups, Duration::from_secs(10)),
                    None => assert!(extreme.is_zero(), "only nothing is refused"),
                }
            });
        }
    }
}

#[test]
fn every_setting_of_a_group_bears_any_duration() {
    for (name, set) in OF_GROUPS {
        for extreme in EXTREMES {
            ends(&format!("{name} {extreme:?}"), move || {
                let (nodes, groups) = pair(|node| node, |group| set(group, extreme), None).unwrap();
                call_all(&nodes, &groups, Duration::from_secs(10));
            });
        }
    }
}

#[test]
fn every_call_bears_any_duration() {
    for extreme in EXTREMES {
        ends(&format!("{extreme:?}"), move || {
            let (nodes, groups) = pair(|node| node, |group| group, Some(extreme)).unwrap();
            call_all(&nodes, &groups, extreme);
            let _ = nodes[1].leave(extreme);
        });
    }
}

#[test]
fn a_life_without_end_is_kept_and_none_is_not() {
    for (life, is_kept) in [(Duration::MAX, true), (Duration::ZERO, false)] {
        let (_nodes, groups) = pair(|node| node, |group| group, Some(life)).unwrap();
        let key = (0..).map(|n| n.to_string());
        let own = key
            .clone()
            .find(|key| _nodes[0].owner(key) == *_nodes[0].this())
            .unwrap();
        let peers = key
            .clone()
            .find(|key| _nodes[0].owner(key) == *_nodes[1].this())
            .unwrap();
        for key in [own, peers] {
            groups[0].get(&key).unwrap();
            assert_eq!(
                groups[0].try_get(&key).is_some(),
                is_kept,
                "{key} for {life:?}"
            );
        }
    }
}

#[test]
fn every_setting_of_a_server_bears_any_duration() {
    for (name, set) in OF_SERVERS {
        for extreme in EXTREMES {
            ends(&format!("{name} {extreme:?}"), move || {
                let node = Node::new("http://127.0.0.1:1").unwrap();
                let group = node.group_builder(GROUP, 1 << 20);
                let _group = group.build(|key| Ok(Value::from(key))).unwrap();
                let server = set(Server::builder(&node), extreme).bind("127.0.0.1:0");
                let server = match server {
                    Ok(server) => server,
                    Err(error) => {
                        assert!(extreme.is_zero(), "{error}");
                        return;
                    }
                };
                let mut stream = TcpStream::connect(server.local_addr()).unwrap();
                let request = format!("GET /_groupcache/{GROUP}/k HTTP/1.1\r\nHost: x\r\n\r\n");
                let sent = stream.write_all(request.as_bytes());
                let mut answer = [0; 16];
                let read = sent.and_then(|()| stream.read(&mut answer));
                if extreme > Duration::from_secs(1) {
                    assert!(read.unwrap() > 0 && answer.starts_with(b"HTTP/1.1 200"));
                }
                drop(stream);
                let _ = server.shutdown(extreme.min(Duration::from_secs(5)));
            });
        }
    }
}

/// Clients that are no nodes do not say how long they wait: as long as a load may take.
#[test]
fn a_client_that_does_not_say_how_long_it_waits_is_answered_whatever_the_load_timeout() {
    for extreme in EXTREMES {
        ends(&format!("load_timeout {extreme:?}"), move || {
            let node = Node::builder("http://127.0.0.1:1").unwrap();
            let Ok(node) = node.load_timeout(extreme).build() else {
                return;
            };
            let group = node.group_builder(GROUP, 1 << 20);
            let _group = group.build(|key| Ok(Value::from(key))).unwrap();
            let target = format!("/_groupcache/{GROUP}/k");
            let answer = node.answer(&Request::new("GET", &target));
            assert!(extreme < Duration::from_secs(1) || answer.status() == 200);
        });
    }
}

#[test]
fn an_idle_connection_makes_room_however_long_it_may_be_idle() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let server = Server::builder(&node)
        .max_connections(1)
        .idle_timeout(Duration::MAX);
    let server = server.bind("127.0.0.1:0").unwrap();
    let asks = |stream: &mut TcpStream| {
        let sent = stream.write_all(b"GET /_groupcache/ HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut answer = [0; 16];
        sent.and_then(|()| stream.read(&mut answer))
            .is_ok_and(|read| read > 0)
    };
    let mut first = TcpStream::connect(server.local_addr()).unwrap();
    assert!(asks(&mut first));
    eventually("the idle one makes room", || {
        TcpStream::connect(server.local_addr()).is_ok_and(|mut second| asks(&mut second))
    });
}

#[test]
fn a_discoverer_bears_any_interval() {
    for extreme in EXTREMES {
        let node = Network::new().builder(address(0)).unwrap().build().unwrap();
        let source = || Ok::<_, Box<dyn std::error::Error + Send + Sync>>(vec![peer()]);
        let started = Discoverer::builder(&node).interval(extreme).start(source);
        match started {
            Ok(discoverer) => {
                eventually("it asks", || node.stats().discovery_polls > 0);
                ends("its end", move || drop(discoverer));
            }
            Err(error) => assert!(extreme.is_zero(), "{error}"),
        }
    }
    fn peer() -> Peer {
        Peer::new(&address(0)).unwrap()
    }
}

#[test]
fn a_stale_value_is_renewed_whatever_the_load_timeout() {
    for timeout in [
        Duration::MAX,
        Duration::from_secs(1),
        Duration::from_nanos(1),
    ] {
        ends(&format!("load_timeout {timeout:?}"), move || {
            let node = Node::builder(address(0)).unwrap().load_timeout(timeout);
            let node = node.build().unwrap();
            let group: Group = node
                .group_builder(GROUP, 1 << 20)
                .ttl(Duration::from_millis(1))
                .stale_while_revalidate(Duration::MAX)
                .build(|key| Ok(Value::from(key)))
                .unwrap();
            eventually("it is renewed", || {
                group.get("k").unwrap();
                group.stats().loads > 3
            });
        });
    }
}
