//! `Suspicion`: whether a peer seems to be silent, and whether a probe of it is in flight.

use std::time::{Duration, Instant};

use crate::runtime::sync::{AtomicUsize, Mutex, Ordering};

#[derive(Default)]
pub(crate) struct Suspicion {
    /// Calls in a row that were not answered in the time of their callers.
    unanswered: AtomicUsize,
    probe: Mutex<ProbeState>,
}

#[derive(Default)]
struct ProbeState {
    is_in_flight: bool,
    /// No other probe begins before that.
    next: Option<Instant>,
}

impl Suspicion {
    /// Records that a call was not answered in the time of its caller. Returns whether a probe is to
    /// begin now: not for a single call, one probe at a time, and not more than one in `pause`.
    pub(crate) fn record_timeout(&self, now: Instant, pause: Duration) -> bool {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) == 0 {
            return false;
        }
        let mut probe = self.probe.lock();
        if probe.is_in_flight || probe.next.is_some_and(|next| now < next) {
            return false;
        }
        probe.is_in_flight = true;
        probe.next = now.checked_add(pause);
        true
    }

    /// Records that a call was answered.
    pub(crate) fn record_answer(&self) {
        // Written seldom, so that it stays in the caches of all processors that read it.
        if self.is_silent() {
            self.unanswered.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the last call was not answered.
    pub(crate) fn is_silent(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn end_probe(&self) {
        let mut probe = self.probe.lock();
        debug_assert!(probe.is_in_flight, "no probe has begun");
        probe.is_in_flight = false;
    }
}
