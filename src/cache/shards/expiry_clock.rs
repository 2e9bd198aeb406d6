//! `ExpiryClock`: the time of a cache in ticks, and the tick before which nothing in it expires.

use std::time::Instant;

use crate::cache::entry::{Expiry, Tick, tick, ticks};
use crate::runtime::clock::Clock;
use crate::runtime::sync::{AtomicU64, Ordering};

pub(super) struct ExpiryClock {
    clock: Clock,
    start: Instant,
    /// No entry leaves for its age before this tick.
    soonest: AtomicU64,
}

impl ExpiryClock {
    pub(super) fn new(clock: Clock) -> ExpiryClock {
        ExpiryClock {
            start: clock.now(),
            clock,
            soonest: AtomicU64::new(Tick::MAX),
        }
    }

    pub(super) fn now(&self) -> Tick {
        self.tick(self.clock.now())
    }

    pub(super) fn now_instant(&self) -> Instant {
        self.clock.now()
    }

    pub(super) fn tick(&self, instant: Instant) -> Tick {
        tick(self.start, instant)
    }

    pub(super) fn instant(&self, expires: Expiry) -> Option<Instant> {
        Some(self.start + ticks(expires.tick()?))
    }

    /// Whether anything in the cache leaves for its age, now or later.
    pub(super) fn has_expiries(&self) -> bool {
        self.soonest.load(Ordering::Relaxed) != Tick::MAX
    }

    pub(super) fn may_have_expired(&self) -> bool {
        let soonest = self.soonest.load(Ordering::Relaxed);
        soonest != Tick::MAX && soonest <= self.now()
    }

    /// Notes that an entry leaves at `tick`.
    pub(super) fn note(&self, tick: Tick) {
        self.soonest.fetch_min(tick, Ordering::Relaxed);
    }

    /// Begins a search for expired entries; gives the tick that was noted until now. A thread that
    /// keeps an expiring value during the search [notes](ExpiryClock::note) its tick again, and so
    /// does the search at its end.
    pub(super) fn begin_search(&self) -> Tick {
        self.soonest.swap(Tick::MAX, Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn soonest(&self) -> Tick {
        self.soonest.load(Ordering::Relaxed)
    }
}
