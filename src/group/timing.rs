//! How long gets and loads of a group take.

use std::time::Duration;

use super::{Outcome, Shared, Source};
use crate::error::Error;
use crate::stats::latency::{Histogram, Latencies};
use crate::value::Cacheable;

/// What [`Latencies`] shows.
#[derive(Default)]
pub(super) struct Timings {
    peer: Histogram,
    load: Histogram,
    joined: Histogram,
    not_found: Histogram,
    failed: Histogram,
    loader: Histogram,
}

impl Timings {
    fn of<V: Cacheable>(&self, outcome: &Outcome<V>) -> &Histogram {
        match outcome {
            Ok(obtained) => match obtained.source {
                Source::Peer => &self.peer,
                Source::Load => &self.load,
                Source::Joined | Source::Main | Source::Hot => &self.joined,
                Source::Stale => &self.failed,
            },
            Err(Error::NotFound) => &self.not_found,
            Err(_) => &self.failed,
        }
    }

    /// The bytes that they hold elsewhere.
    pub(super) fn heap_bytes(&self) -> usize {
        let Timings {
            peer,
            load,
            joined,
            not_found,
            failed,
            loader,
        } = self;
        let all = [peer, load, joined, not_found, failed, loader];
        all.map(Histogram::heap_bytes).iter().sum()
    }

    fn snapshot(&self) -> Latencies {
        Latencies {
            peer: self.peer.snapshot(),
            load: self.load.snapshot(),
            joined: self.joined.snapshot(),
            not_found: self.not_found.snapshot(),
            failed: self.failed.snapshot(),
            loader: self.loader.snapshot(),
        }
    }
}

impl<V: Cacheable> Shared<V> {
    /// Brings a value that is not in memory, and notes how long that takes.
    pub(super) fn timed(&self, bring: impl FnOnce() -> Outcome<V>) -> Outcome<V> {
        let began = self.cluster.clock.now();
        let outcome = bring();
        let took = self.cluster.clock.now().saturating_duration_since(began);
        self.note_get(took, &outcome);
        outcome
    }

    pub(super) fn note_get(&self, took: Duration, outcome: &Outcome<V>) {
        self.timings.of(outcome).record(took);
    }

    /// Runs the loader, notes how long that takes, and reports it if it takes too long. `keys` are
    /// what it loads.
    pub(super) fn timed_load<R>(&self, keys: &[&str], load: impl FnOnce() -> R) -> R {
        let began = self.cluster.clock.now();
        let loaded = load();
        let now = self.cluster.clock.now();
        let took = now.saturating_duration_since(began);
        self.timings.loader.record(took);
        if took >= self.slow_load {
            self.report_slow_load(keys, took, now);
        }
        loaded
    }

    pub(super) fn latencies(&self) -> Latencies {
        self.timings.snapshot()
    }
}
