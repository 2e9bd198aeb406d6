//! Many threads against one node, and against some in memory, each with two groups that have the same
//! keys: no stale read, no value of the other group, one load a generation, no flight left behind by a
//! panic, no standstill when loaders use the cache or foreign code panics.
//!
//! Each test prints its sizes and its seed. The sizes come from the environment; the defaults are
//! for every run, `.ci/long` has the full ones. Which thread runs when is the machine's affair: a
//! seed repeats what the threads do, not how they interleave.
//!
//! Nothing here sleeps but the sampler of [`progress`], whose very measure is time.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that goes wrong had better stop, and each tells what it did"
)]

#[allow(
    dead_code,
    reason = "the harness of the integration tests: not all of it is used here"
)]
#[path = "../it/cluster.rs"]
mod cluster;
mod foreign;
mod panics;
mod progress;
mod queued;
mod stale;

use std::sync::{Arc, Barrier, Mutex, MutexGuard, OnceLock, PoisonError};

use groupcache_sync::{Cacheable, Clock, Group, GroupBuilder, LoadError, Node, NodeBuilder, Value};

use cluster::{Cluster, Loads, eventually, together};

/// A size from the environment.
fn size(name: &str, default: usize) -> usize {
    let told = std::env::var(name).ok();
    let size = told.map_or(default, |told| {
        let size = told.parse();
        size.unwrap_or_else(|_| panic!("{name} is not a number: {told}"))
    });
    eprintln!("{name}={size}");
    size
}

/// The tests run one after the other: each is to have the machine for itself.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one thread does next: xorshift, seeded by `GROUPCACHE_SEED` and the thread's number.
struct Random(u64);

impl Random {
    fn seed() -> u64 {
        size("GROUPCACHE_SEED", 20_250_101) as u64
    }

    fn new(seed: u64, thread: usize) -> Random {
        let mixed = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random =
            Random(mixed ^ (thread as u64 + 1).wrapping_mul(0xD1B5_4A32_D192_ED03) | 1);
        for _ in 0..8 {
            random.below(2); // the first ones of near seeds are near
        }
        random
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end
    }
}

/// What a loader of both groups gets: the number of its group and the key.
trait LoadIn: Fn(usize, &str) -> Result<Value, LoadError> + Clone + Send + Sync + 'static {}

impl<F: Fn(usize, &str) -> Result<Value, LoadError> + Clone + Send + Sync + 'static> LoadIn for F {}

/// A cluster whose nodes have two groups with the same keys.
struct Twins {
    cluster: Cluster,
    /// By node.
    groups: Vec<[Group; 2]>,
    loads: [Arc<Loads>; 2],
}

impl Twins {
    fn new(
        size: usize,
        node_settings: impl Fn(NodeBuilder) -> NodeBuilder,
        group_settings: impl Fn(GroupBuilder) -> GroupBuilder,
        load: impl LoadIn,
    ) -> Twins {
        let first = load.clone();
        let cluster = Cluster::with(
            size,
            Clock::system(),
            node_settings,
            &group_settings,
            move |key| first(0, key),
        );
        let second_loads = Arc::new(Loads::default());
        let twin = |node: &Node| {
            let (loads, load) = (Arc::clone(&second_loads), load.clone());
            let builder = group_settings(node.group_builder("twins", 64 << 20));
            let group = builder.build(move |key| {
                loads.count(key);
                load(1, key)
            });
            group.unwrap()
        };
        let twins = cluster.nodes.iter().map(twin);
        let groups = cluster.groups.iter().cloned().zip(twins);
        Twins {
            groups: groups.map(|(first, second)| [first, second]).collect(),
            loads: [Arc::clone(&cluster.loads), second_loads],
            cluster,
        }
    }

    /// Checks that nothing is under way: what nobody waits for any more has time to end.
    fn check_idle(&self) {
        for group in self.groups.iter().flatten() {
            eventually("nothing is under way", || is_idle(group));
        }
    }
}

fn is_idle<V: Cacheable>(group: &Group<V>) -> bool {
    let stats = group.stats();
    (stats.flights, stats.loads_running) == (0, 0)
}

/// The value of a key, which is another one in each group.
fn value_in(group: usize, key: &str) -> Value {
    Value::from(format!("value of {key} in group {group}"))
}

/// Groups that their own loaders can use, once they are built.
#[derive(Clone, Default)]
struct Themselves(Arc<OnceLock<[Group; 2]>>);

impl Themselves {
    fn are(&self, groups: &[Group; 2]) {
        self.0.set(groups.clone()).unwrap();
    }

    fn group(&self, number: usize) -> &Group {
        &self.0.get().unwrap()[number]
    }
}

#[test]
fn a_thousand_threads_on_one_key_load_it_once_in_every_round() {
    const THREADS: usize = 1_000;
    let _turn = alone();
    let rounds = size("GROUPCACHE_STRESS_ROUNDS", 10);
    let themselves = Themselves::default();
    let in_loader = themselves.clone();
    let twins = Twins::new(
        1,
        |node| node,
        |group| group,
        move |number, key| {
            // The round is over when all others wait for this very load.
            let round: u64 = key.parse()?;
            let waiting = (round + 1) * (THREADS as u64 - 1);
            let group = in_loader.group(number);
            eventually("all others wait", || group.stats().joined == waiting);
            Ok(value_in(number, key))
        },
    );
    let groups = &twins.groups[0];
    themselves.are(groups);
    let start = Barrier::new(THREADS);
    together(THREADS, |_| {
        for round in 0..rounds {
            let key = round.to_string();
            for (number, group) in groups.iter().enumerate() {
                start.wait();
                assert_eq!(group.get(&key).unwrap(), value_in(number, &key));
            }
        }
    });
    for (group, loads) in groups.iter().zip(&twins.loads) {
        for round in 0..rounds {
            assert_eq!(loads.of(&round.to_string()), 1, "round {round}");
        }
        let stats = group.stats();
        assert_eq!(
            (stats.leads, stats.loads, stats.flights),
            (rounds as u64, rounds as u64, 0)
        );
    }
}
