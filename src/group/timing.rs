//! `Timings`: how long the gets and loads of a group take.

use std::time::Duration;

use super::entry::Source;
use super::outcome::Outcome;
use crate::error::Error;
use crate::stats::latency::{Histogram, Latencies};
use crate::value::Cacheable;

/// The histograms behind [`Latencies`].
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

    /// Records a get that was not answered from memory.
    pub(super) fn record_get<V: Cacheable>(&self, took: Duration, outcome: &Outcome<V>) {
        self.of(outcome).record(took);
    }

    /// Records a run of the loader.
    pub(super) fn record_load(&self, took: Duration) {
        self.loader.record(took);
    }

    /// The memory of the histograms beside this struct, in bytes.
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

    pub(super) fn snapshot(&self) -> Latencies {
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
