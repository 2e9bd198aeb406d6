//! What is counted where the loader runs, and the phases of the replay.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// The parts of the replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Before,
    Down,
    Back,
}

impl Phase {
    pub(crate) const ALL: [Phase; 3] = [Phase::Before, Phase::Down, Phase::Back];
}

/// The loads of all nodes together.
///
/// A node that is gone takes its own counters with it, so this demonstration keeps its own. A
/// service would read `Group::stats`.
pub(crate) struct Ledger {
    phase: AtomicUsize,
    loads: [AtomicU64; Phase::ALL.len()],
    again: [AtomicU64; Phase::ALL.len()],
    seen: Vec<AtomicBool>,
}

impl Ledger {
    pub(crate) fn new(products: u32) -> Ledger {
        Ledger {
            phase: AtomicUsize::new(0),
            loads: Default::default(),
            again: Default::default(),
            seen: (0..products).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[self.phase.load(Ordering::Relaxed)]
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as usize, Ordering::Relaxed);
    }

    pub(crate) fn count_load(&self, product: u32) {
        let phase = self.phase() as usize;
        self.loads[phase].fetch_add(1, Ordering::Relaxed);
        let seen = self.seen.get(product as usize);
        if seen.is_some_and(|seen| seen.swap(true, Ordering::Relaxed)) {
            self.again[phase].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs of the loader.
    pub(crate) fn loads(&self, phase: Phase) -> u64 {
        self.loads[phase as usize].load(Ordering::Relaxed)
    }

    /// Runs of the loader for a key that had been loaded before.
    pub(crate) fn again(&self, phase: Phase) -> u64 {
        self.again[phase as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn all_loads(&self) -> u64 {
        Phase::ALL.iter().map(|phase| self.loads(*phase)).sum()
    }
}
