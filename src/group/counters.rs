//! `Counters`: what happened in a group. `stats.rs` publishes them.

use crate::stats::Counter;

#[derive(Default)]
pub(super) struct Counters {
    pub(super) joined: Counter,
    pub(super) leads: Counter,
    pub(super) loads: Counter,
    pub(super) loader_runs: Counter,
    pub(super) load_errors: Counter,
    pub(super) fetches: Counter,
    pub(super) fetch_errors: Counter,
    pub(super) deputy_fetches: Counter,
    pub(super) deputy_copies: Counter,
    pub(super) peeks: Counter,
    pub(super) inherited: Counter,
    pub(super) served: Counter,
    pub(super) served_hits: Counter,
    pub(super) removes: Counter,
}

/// Whether a get is still to be counted: it is counted once, by what it did first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    Yes,
    No,
}

impl Count {
    fn take(&mut self) -> bool {
        std::mem::replace(self, Count::No) == Count::Yes
    }
}

impl Counters {
    /// Counts a get that leads, unless it is counted already.
    pub(super) fn count_lead(&self, count: &mut Count) {
        if count.take() {
            self.leads.add();
        }
    }

    /// Counts a get that joins a flight, unless it is counted already.
    pub(super) fn count_joined(&self, count: &mut Count) {
        if count.take() {
            self.joined.add();
        }
    }
}
