//! `Circuit`: opens when several calls to a peer in a row have failed, so that the peer costs callers
//! nothing until it answers a probe (P6).

use std::time::{Duration, Instant};

use crate::runtime::sync::{AtomicBool, AtomicUsize, Mutex, Ordering};
use crate::stats::Counter;

pub(crate) struct Circuit {
    /// The number of failures in a row that opens it.
    threshold: usize,
    failures: AtomicUsize,
    open: AtomicBool,
    /// How often the circuit has opened since a call was last answered.
    relapses: AtomicUsize,
    /// When the next probe is due, however often one is asked for. `None`: now.
    next_probe: Mutex<Option<Instant>>,
    openings: Counter,
}

/// The pause between two probes.
const PAUSE: Duration = Duration::from_secs(1);

/// A peer that answers probes and nothing else costs its callers a timeout after each. So the pause
/// before the first probe doubles with each relapse, up to this number of pauses: no more, or the
/// recovery of a peer would be found late.
const MAX_PAUSES: u32 = 4;

/// The most relapses that double the pause.
const MAX_DOUBLINGS: usize = 8;

const _: () = assert!(MAX_PAUSES <= 1 << MAX_DOUBLINGS);

impl Circuit {
    /// A circuit that opens after this number of failures in a row, at least one.
    pub(crate) fn new(threshold: usize) -> Circuit {
        debug_assert!(threshold > 0);
        Circuit {
            threshold,
            failures: AtomicUsize::new(0),
            open: AtomicBool::new(false),
            relapses: AtomicUsize::new(0),
            next_probe: Mutex::new(None),
            openings: Counter::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Records that a call was answered. Returns whether this closed the circuit.
    pub(crate) fn record_success(&self) -> bool {
        // Written seldom, so that it stays in the caches of all processors that read it.
        if self.relapses.load(Ordering::Relaxed) > 0 {
            self.relapses.store(0, Ordering::Relaxed);
        }
        self.close(0)
    }

    /// Closes the circuit after a probe was answered, so that calls are sent; the first of them that
    /// fails opens it again. Returns whether this closed the circuit.
    pub(crate) fn half_open(&self) -> bool {
        self.close(self.threshold - 1)
    }

    fn close(&self, failures: usize) -> bool {
        self.failures.store(failures, Ordering::Relaxed);
        self.is_open() && self.open.swap(false, Ordering::AcqRel)
    }

    /// When the next probe is due; `None`: now.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        *self.next_probe.lock()
    }

    /// Takes the probe that is due; the next one is due a pause later. Returns whether one was due.
    pub(crate) fn take_probe(&self, now: Instant) -> bool {
        let mut next = self.next_probe.lock();
        let is_due = next.is_none_or(|next| next <= now);
        if is_due {
            *next = now.checked_add(PAUSE);
        }
        is_due
    }

    /// Records that a call has failed. Returns whether this opened the circuit.
    pub(crate) fn record_failure(&self, now: Instant) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        failures >= self.threshold && self.trip(now)
    }

    /// Opens the circuit of a peer that is known to be unreachable. Returns whether this opened it.
    pub(crate) fn trip(&self, now: Instant) -> bool {
        let opens = !self.open.swap(true, Ordering::AcqRel);
        if opens {
            self.openings.add();
            let relapses = self.relapses.fetch_add(1, Ordering::Relaxed);
            let pauses = MAX_PAUSES.min(1 << relapses.min(MAX_DOUBLINGS));
            *self.next_probe.lock() = now.checked_add(pauses * PAUSE);
        }
        opens
    }

    /// How often the circuit has opened.
    pub(crate) fn openings(&self) -> u64 {
        self.openings.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_opens_after_failures_in_a_row_only() {
        let (circuit, now) = (Circuit::new(3), Instant::now());
        assert!(!circuit.record_failure(now) && !circuit.record_failure(now));
        assert!(!circuit.record_success());
        assert!(!circuit.record_failure(now) && !circuit.record_failure(now));
        assert!(circuit.record_failure(now), "the third in a row opens it");
        assert!(circuit.is_open() && !circuit.record_failure(now));
        assert!(circuit.record_success());
        assert_eq!(circuit.openings(), 1);
    }

    /// The pauses until the next probe.
    fn pauses(circuit: &Circuit, now: Instant) -> u32 {
        let is_early = |&pauses: &u32| !circuit.take_probe(now + pauses * PAUSE);
        (0..100).take_while(is_early).count() as u32
    }

    #[test]
    fn a_peer_that_answers_only_probes_is_probed_less_and_less_until_it_answers_a_call() {
        let (circuit, mut now) = (Circuit::new(3), Instant::now());
        let fails = |times, now| (0..times).fold(false, |_, _| circuit.record_failure(now));
        assert!(fails(3, now));
        for expected in [1, 2, 4, 4] {
            assert_eq!(pauses(&circuit, now), expected);
            now += expected * PAUSE;
            assert!(circuit.half_open());
            assert!(fails(1, now), "one failure is enough");
        }
        assert!(circuit.half_open() && !circuit.record_success());
        assert!(!fails(2, now));
        assert!(fails(1, now));
        assert_eq!(pauses(&circuit, now), 1);
    }

    #[test]
    fn a_probe_is_due_once_a_pause_however_often_it_is_asked_for() {
        let (circuit, now) = (Circuit::new(1), Instant::now());
        assert!(circuit.record_failure(now));
        let at = |hundredths| now + hundredths * PAUSE / 100;
        let probes = (0..350).filter(|&hundredths| circuit.take_probe(at(hundredths)));
        assert_eq!(probes.collect::<Vec<_>>(), [100, 200, 300]);
    }
}
