//! `Circuit`: opens when a peer has failed some times in a row, so that it costs its callers nothing.

use crate::stats::Counter;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};

pub(crate) struct Circuit {
    /// Failures in a row that open it.
    tolerance: usize,
    failures: AtomicUsize,
    open: AtomicBool,
    openings: Counter,
}

impl Circuit {
    /// One that opens after so many failures in a row.
    pub(crate) fn new(tolerance: usize) -> Circuit {
        Circuit {
            tolerance,
            failures: AtomicUsize::new(0),
            open: AtomicBool::new(false),
            openings: Counter::default(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Tells whether this closed it.
    pub(crate) fn succeed(&self) -> bool {
        self.failures.store(0, Ordering::Relaxed);
        self.is_open() && self.open.swap(false, Ordering::AcqRel)
    }

    /// Tells whether this opened it.
    pub(crate) fn fail(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let opens = failures >= self.tolerance && !self.open.swap(true, Ordering::AcqRel);
        self.openings.add_many(usize::from(opens));
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
}
