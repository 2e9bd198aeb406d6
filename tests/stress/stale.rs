//! P2 under load: a get that starts after a change returned never sees an older value.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_sync::{Node, Server, Value};

use crate::cluster::together;
use crate::{Random, Twins, alone, size};

const THREADS: usize = 64;
const KEYS: usize = 32;

/// A key of a group at its source: its version only grows, and is part of its value.
#[derive(Default)]
struct Source {
    version: AtomicU64,
    /// The version of the last change that returned: whoever asks now must see this or a later one.
    floor: AtomicU64,
    /// Held by who changes it: of two changes at the same time either may come last, and then
    /// nothing could be said of the value.
    changing: Mutex<()>,
}

fn value(group: usize, key: &str, version: u64) -> Value {
    Value::from(format!("{group}/{key} {version}"))
}

/// Half of the operations with values that live until they are changed, half with a short life, so
/// that generations also end by themselves.
fn no_stale_read(nodes: usize, operations: usize) {
    let seed = Random::seed();
    for ttl in [None, Some(Duration::from_millis(1))] {
        let source = |_| [(); KEYS].map(|()| Source::default());
        let sources: Arc<[[Source; KEYS]; 2]> = Arc::new([0, 1].map(source));
        let loading = Arc::clone(&sources);
        let twins = Twins::new(
            nodes,
            |node| node.fetch_timeout(Duration::from_secs(60)),
            |group| match ttl {
                Some(ttl) => group.hot_threshold(0.0).ttl(ttl),
                None => group.hot_threshold(0.0),
            },
            move |group, key| {
                let version = loading[group][key.parse::<usize>()?]
                    .version
                    .load(Ordering::SeqCst);
                // The longer it holds an old version, the better the chance to store it wrongly.
                if version % 3 == 0 {
                    std::thread::yield_now();
                }
                Ok(value(group, key, version))
            },
        );
        let changes = AtomicUsize::new(0);
        let (begun, limit) = (AtomicUsize::new(0), operations / 2);
        together(THREADS, |thread| {
            let groups = &twins.groups[thread % nodes];
            let mut random = Random::new(seed, thread);
            while begun.fetch_add(1, Ordering::Relaxed) < limit {
                let (of, number) = (random.below(2), random.below(KEYS));
                let (group, source, key) = (&groups[of], &sources[of][number], number.to_string());
                let what = random.below(60);
                let changing = (what < 2)
                    .then(|| source.changing.try_lock().ok())
                    .flatten();
                if changing.is_some() {
                    let version = source.version.fetch_add(1, Ordering::SeqCst) + 1;
                    match what {
                        0 => group.remove(&key).unwrap(),
                        _ => group.set(&key, value(of, &key, version)).unwrap(),
                    }
                    source.floor.fetch_max(version, Ordering::SeqCst);
                    changes.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let floor = source.floor.load(Ordering::SeqCst);
                let got = group.get(&key).unwrap();
                let (name, version) = got.as_str().unwrap().split_once(' ').unwrap();
                assert_eq!(name, format!("{of}/{key}"), "P3");
                let version: u64 = version.parse().unwrap();
                assert!(
                    version >= floor,
                    "{key}: {version} after {floor} had returned"
                );
            }
        });
        let changes = changes.load(Ordering::Relaxed);
        eprintln!(
            "{nodes} node(s), life {ttl:?}: {limit} operations, {changes} changes, {} loads",
            twins.loads[0].all() + twins.loads[1].all()
        );
        assert!(changes > 0 && twins.loads.iter().all(|loads| loads.all() > 0));
        twins.check_idle();
    }
}

#[test]
fn no_stale_read_on_one_node() {
    let _turn = alone();
    no_stale_read(1, size("GROUPCACHE_STRESS_OPERATIONS", 150_000));
}

#[test]
fn no_stale_read_on_three_nodes() {
    let _turn = alone();
    no_stale_read(3, size("GROUPCACHE_STRESS_OPERATIONS", 150_000) / 3);
}

/// On sockets, where a fetch takes so long that many are asked for together.
#[test]
fn gets_in_two_groups_on_sockets_never_see_the_other_one() {
    let _turn = alone();
    let operations = size("GROUPCACHE_STRESS_OPERATIONS", 150_000) / 3;
    let listeners = [0, 1].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
    let nodes = listeners.each_ref().map(|listener| {
        let address = format!("http://{}", listener.local_addr().unwrap());
        Node::new(&address).unwrap()
    });
    let servers = nodes.iter().zip(listeners);
    let servers: Vec<_> = servers
        .map(|(node, listener)| Server::from_listener(node, listener).unwrap())
        .collect();
    let groups = nodes.each_ref().map(|node| {
        ["things", "twins"].map(|name| {
            let builder = node.group_builder(name, 64 << 20).hot_bytes(0); // each get is a fetch
            let load = move |key: &str| Ok(Value::from(format!("{name}/{key}")));
            builder.build(load).unwrap()
        })
    });
    for node in &nodes {
        let all = nodes.iter().map(|node| node.this().clone());
        node.set_peers(all).unwrap();
    }
    let keys = (0..).map(|number| format!("key {number}"));
    let keys: Vec<String> = keys
        .filter(|key| nodes[0].owner(key) == *nodes[1].this())
        .take(500)
        .collect();
    let begun = AtomicUsize::new(0);
    together(THREADS, |thread| {
        let (of, mut random) = (thread % 2, Random::new(Random::seed(), thread));
        while begun.fetch_add(1, Ordering::Relaxed) < operations {
            let key = &keys[random.below(keys.len())];
            let value = groups[0][of].get(key).unwrap();
            let expected = format!("{}/{key}", groups[0][of].name());
            assert_eq!(value.as_str().unwrap(), expected, "P3");
        }
    });
    drop(servers);
}
