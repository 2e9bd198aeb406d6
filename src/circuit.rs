//! `Circuit`: opens when a peer has failed some times in a row, so that it costs its callers nothing.

use crate::sync::{AtomicBool, AtomicUsize, Ordering};

/// Failures in a row that open a circuit.
const FAILURES_TO_OPEN: usize = 3;

#[derive(Default)]
pub(crate) struct Circuit {
    failures: AtomicUsize,
    open: AtomicBool,
}

impl Circuit {
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
        failures >= FAILURES_TO_OPEN && !self.open.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_opens_after_failures_in_a_row_only() {
        let circuit = Circuit::default();
        assert!(!circuit.fail() && !circuit.fail());
        assert!(!circuit.succeed());
        assert!(!circuit.fail() && !circuit.fail());
        assert!(circuit.fail(), "the third in a row opens it");
        assert!(circuit.is_open() && !circuit.fail());
        assert!(circuit.succeed());
    }
}
