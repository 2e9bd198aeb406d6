//! `Circuit`: opens when a peer has failed some times in a row, so that it costs its callers nothing.

use crate::stats::Counter;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};

pub(crate) struct Circuit {
    /// Failures in a row that open it.
    tolerance: usize,
    failures: AtomicUsize,
    open: AtomicBool,
    /// How often it has opened since a call was last answered.
    relapses: AtomicUsize,
    /// How many rounds of the keeper go by before the next probe.
    rest: AtomicUsize,
    openings: Counter,
}

/// A peer that answers probes and nothing else costs its callers a timeout after each. So the pause
/// between probes doubles, up to this many rounds: no longer, or it would take long to be found.
const LONGEST_PAUSE: usize = 4;

impl Circuit {
    /// One that opens after so many failures in a row.
    pub(crate) fn new(tolerance: usize) -> Circuit {
        Circuit {
            tolerance,
            failures: AtomicUsize::new(0),
            open: AtomicBool::new(false),
            relapses: AtomicUsize::new(0),
            rest: AtomicUsize::new(0),
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

    /// Whether it is time for a probe, in a round of the keeper.
    pub(crate) fn is_to_be_probed(&self) -> bool {
        let rests = |rest: usize| rest.checked_sub(1);
        let relaxed = Ordering::Relaxed;
        self.is_open() && self.rest.fetch_update(relaxed, relaxed, rests).is_err()
    }

    /// A call has failed. Tells whether this opened it.
    pub(crate) fn fail(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        failures >= self.tolerance && self.trip()
    }

    /// It is known to be away. Tells whether this opened it.
    pub(crate) fn trip(&self) -> bool {
        let opens = !self.open.swap(true, Ordering::AcqRel);
        if opens {
            self.openings.add();
            let relapses = self.relapses.fetch_add(1, Ordering::Relaxed);
            let pause = LONGEST_PAUSE.min(1 << relapses.min(8));
            self.rest.store(pause - 1, Ordering::Relaxed);
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
        let circuit = Circuit::new(3);
        assert!(!circuit.fail() && !circuit.fail());
        assert!(!circuit.succeed());
        assert!(!circuit.fail() && !circuit.fail());
        assert!(circuit.fail(), "the third in a row opens it");
        assert!(circuit.is_open() && !circuit.fail());
        assert!(circuit.succeed());
        assert_eq!(circuit.openings(), 1);
    }

    /// The rounds of the keeper until the next probe.
    fn rounds(circuit: &Circuit) -> usize {
        1 + (0..100).take_while(|_| !circuit.is_to_be_probed()).count()
    }

    #[test]
    fn who_answers_only_probes_is_asked_less_and_less_until_a_call_is_answered() {
        let circuit = Circuit::new(3);
        let fails = |times: usize| (0..times).fold(false, |_, _| circuit.fail());
        assert!(fails(3));
        for expected in [1, 2, 4, 4] {
            assert_eq!(rounds(&circuit), expected);
            assert!(circuit.half_open() && !circuit.is_to_be_probed());
            assert!(fails(1), "one is enough");
        }
        assert!(circuit.half_open() && !circuit.succeed());
        assert!(!fails(2));
        assert!(fails(1));
        assert_eq!(rounds(&circuit), 1);
    }
}
