//! `Circuit`: opens when a peer has failed some times in a row, so that it costs its callers nothing.

use std::time::{Duration, Instant};

use crate::runtime::sync::{AtomicBool, AtomicUsize, Mutex, Ordering};
use crate::stats::Counter;

pub(crate) struct Circuit {
    /// Failures in a row that open it.
    tolerance: usize,
    failures: AtomicUsize,
    open: AtomicBool,
    /// How often it has opened since a call was last answered.
    relapses: AtomicUsize,
    /// When the next probe is due, however often anybody asks for one. `None` is at once.
    next_probe: Mutex<Option<Instant>>,
    openings: Counter,
}

/// The pause between two probes.
const PAUSE: Duration = Duration::from_secs(1);

/// A peer that answers probes and nothing else costs its callers a timeout after each. So the pause
/// before the first probe doubles, up to so many pauses: no more, or it would take long to be found.
const LONGEST_PAUSE: u32 = 4;

impl Circuit {
    /// One that opens after so many failures in a row.
    pub(crate) fn new(tolerance: usize) -> Circuit {
        Circuit {
            tolerance,
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

    /// A call was answered. Tells whether this closed it.
    pub(crate) fn succeed(&self) -> bool {
        // Seldom changed, so that it stays in the caches of all who look.
        if self.relapses.load(Ordering::Relaxed) > 0 {
            self.relapses.store(0, Ordering::Relaxed);
        }
        self.close(0)
    }

    /// A probe was answered: calls go out, and the first of them that fails is one too many. Tells
    /// whether this closed it.
    pub(crate) fn half_open(&self) -> bool {
        self.close(self.tolerance - 1)
    }

    fn close(&self, failures: usize) -> bool {
        self.failures.store(failures, Ordering::Relaxed);
        self.is_open() && self.open.swap(false, Ordering::AcqRel)
    }

    /// When the next probe is due; `None` is at once.
    pub(crate) fn next_probe(&self) -> Option<Instant> {
        *self.next_probe.lock()
    }

    /// Takes the probe that is due; the next one is due a pause later. Tells whether one was.
    pub(crate) fn take_probe(&self, now: Instant) -> bool {
        let mut next = self.next_probe.lock();
        let is_due = next.is_none_or(|next| next <= now);
        if is_due {
            *next = now.checked_add(PAUSE);
        }
        is_due
    }

    /// A call has failed. Tells whether this opened it.
    pub(crate) fn fail(&self, now: Instant) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        failures >= self.tolerance && self.trip(now)
    }

    /// It is known to be unreachable. Tells whether this opened it.
    pub(crate) fn trip(&self, now: Instant) -> bool {
        let opens = !self.open.swap(true, Ordering::AcqRel);
        if opens {
            self.openings.add();
            let relapses = self.relapses.fetch_add(1, Ordering::Relaxed);
            let pauses = LONGEST_PAUSE.min(1 << relapses.min(8));
            *self.next_probe.lock() = now.checked_add(pauses * PAUSE);
        }
        opens
    }

    /// How often it has opened.
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
        assert!(!circuit.fail(now) && !circuit.fail(now));
        assert!(!circuit.succeed());
        assert!(!circuit.fail(now) && !circuit.fail(now));
        assert!(circuit.fail(now), "the third in a row opens it");
        assert!(circuit.is_open() && !circuit.fail(now));
        assert!(circuit.succeed());
        assert_eq!(circuit.openings(), 1);
    }

    /// The pauses until the next probe.
    fn pauses(circuit: &Circuit, now: Instant) -> u32 {
        let is_early = |&pauses: &u32| !circuit.take_probe(now + pauses * PAUSE);
        (0..100).take_while(is_early).count() as u32
    }

    #[test]
    fn who_answers_only_probes_is_asked_less_and_less_until_a_call_is_answered() {
        let (circuit, mut now) = (Circuit::new(3), Instant::now());
        let fails = |times, now| (0..times).fold(false, |_, _| circuit.fail(now));
        assert!(fails(3, now));
        for expected in [1, 2, 4, 4] {
            assert_eq!(pauses(&circuit, now), expected);
            now += expected * PAUSE;
            assert!(circuit.half_open());
            assert!(fails(1, now), "one is enough");
        }
        assert!(circuit.half_open() && !circuit.succeed());
        assert!(!fails(2, now));
        assert!(fails(1, now));
        assert_eq!(pauses(&circuit, now), 1);
    }

    #[test]
    fn a_probe_is_due_once_a_pause_however_often_it_is_asked_for() {
        let (circuit, now) = (Circuit::new(1), Instant::now());
        assert!(circuit.fail(now));
        let at = |hundredths| now + hundredths * PAUSE / 100;
        let probes = (0..350).filter(|&hundredths| circuit.take_probe(at(hundredths)));
        assert_eq!(probes.collect::<Vec<_>>(), [100, 200, 300]);
    }
}
