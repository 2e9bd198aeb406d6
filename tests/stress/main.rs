//! Many threads against one node, and against three in memory: no stale read, one load a
//! generation, no flight left behind by a panic, no standstill when loaders use the cache.
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
mod panics;
mod progress;
mod stale;

use std::sync::{Arc, Barrier, Mutex, MutexGuard, OnceLock, PoisonError};

use groupcache_sync::{Clock, Group};

use cluster::{Cluster, eventually, together, value_of};

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

/// A group that its own loader can use, once it is built.
#[derive(Clone, Default)]
struct Itself(Arc<OnceLock<Group>>);

impl Itself {
    fn is(&self, group: &Group) {
        self.0.set(group.clone()).unwrap();
    }

    fn group(&self) -> &Group {
        self.0.get().unwrap()
    }
}

#[test]
fn a_thousand_threads_on_one_key_load_it_once_in_every_round() {
    const THREADS: usize = 1_000;
    let _turn = alone();
    let rounds = size("GROUPCACHE_STRESS_ROUNDS", 10);
    let itself = Itself::default();
    let in_loader = itself.clone();
    let cluster = Cluster::with(
        1,
        Clock::system(),
        |node| node,
        |group| group,
        move |key| {
            // The round is over when all others wait for this very load.
            let round: u64 = key.parse()?;
            let waiting = (round + 1) * (THREADS as u64 - 1);
            let group = in_loader.group();
            eventually("all others wait", || group.stats().joined == waiting);
            Ok(value_of(key))
        },
    );
    let group = &cluster.groups[0];
    itself.is(group);
    let start = Barrier::new(THREADS);
    together(THREADS, |_| {
        for round in 0..rounds {
            let key = round.to_string();
            start.wait();
            assert_eq!(group.get(&key).unwrap(), value_of(&key));
        }
    });
    for round in 0..rounds {
        assert_eq!(cluster.loads.of(&round.to_string()), 1, "round {round}");
    }
    let stats = group.stats();
    assert_eq!(
        (stats.leads, stats.loads, stats.flights),
        (rounds as u64, rounds as u64, 0)
    );
}
