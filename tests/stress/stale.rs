//! P2 under load: a get that starts after a change returned never sees an older value.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use groupcache_sync::{Clock, Value};

use crate::cluster::{Cluster, together};
use crate::{Random, alone, size};

const THREADS: usize = 64;
const KEYS: usize = 32;

/// A key at its source: its version only grows, and is part of its value.
#[derive(Default)]
struct Source {
    version: AtomicU64,
    /// The version of the last change that returned: whoever asks now must see this or a later one.
    floor: AtomicU64,
    /// Held by who changes it: of two changes at the same time either may come last, and then
    /// nothing could be said of the value.
    changing: Mutex<()>,
}

fn value(key: &str, version: u64) -> Value {
    Value::from(format!("{key} {version}"))
}

/// Half of the operations with values that live until they are changed, half with a short life, so
/// that generations also end by themselves.
fn no_stale_read(nodes: usize, operations: usize) {
    let seed = Random::seed();
    for ttl in [None, Some(Duration::from_millis(1))] {
        let sources: Arc<Vec<Source>> = Arc::new((0..KEYS).map(|_| Source::default()).collect());
        let loading = Arc::clone(&sources);
        let cluster = Cluster::with(
            nodes,
            Clock::system(),
            |node| node.fetch_timeout(Duration::from_secs(60)),
            |group| match ttl {
                Some(ttl) => group.hot_threshold(0.0).ttl(ttl),
                None => group.hot_threshold(0.0),
            },
            move |key| {
                let version = loading[key.parse::<usize>()?]
                    .version
                    .load(Ordering::SeqCst);
                // The longer it holds an old version, the better the chance to store it wrongly.
                if version % 3 == 0 {
                    std::thread::yield_now();
                }
                Ok(value(key, version))
            },
        );
        let changes = AtomicUsize::new(0);
        let (begun, limit) = (AtomicUsize::new(0), operations / 2);
        together(THREADS, |thread| {
            let group = &cluster.groups[thread % nodes];
            let mut random = Random::new(seed, thread);
            while begun.fetch_add(1, Ordering::Relaxed) < limit {
                let number = random.below(KEYS);
                let (source, key) = (&sources[number], number.to_string());
                let what = random.below(60);
                let changing = (what < 2)
                    .then(|| source.changing.try_lock().ok())
                    .flatten();
                if changing.is_some() {
                    let version = source.version.fetch_add(1, Ordering::SeqCst) + 1;
                    match what {
                        0 => group.remove(&key).unwrap(),
                        _ => group.set(&key, value(&key, version)).unwrap(),
                    }
                    source.floor.fetch_max(version, Ordering::SeqCst);
                    changes.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let floor = source.floor.load(Ordering::SeqCst);
                let got = group.get(&key).unwrap();
                let (of, version) = got.as_str().unwrap().split_once(' ').unwrap();
                assert_eq!(of, key, "P3");
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
            cluster.loads.all()
        );
        assert!(changes > 0 && cluster.loads.all() > 0);
        for group in &cluster.groups {
            assert_eq!(group.stats().flights, 0);
        }
    }
}

#[test]
fn no_stale_read_on_one_node() {
    let _turn = alone();
    no_stale_read(1, size("GROUPCACHE_STRESS_OPERATIONS", 300_000));
}

#[test]
fn no_stale_read_on_three_nodes() {
    let _turn = alone();
    no_stale_read(3, size("GROUPCACHE_STRESS_OPERATIONS", 300_000) / 3);
}
