//! `Budgets`: how many bytes the main and the hot values of a cache may still take (I4).

use crate::cache::entry::{MAX_WEIGHT, Tier};
use crate::runtime::sync::{AtomicUsize, Ordering};

/// The two limits of a cache: one for main and hot together, one for hot alone.
pub(super) struct Budgets {
    total: Budget,
    hot: Budget,
}

/// A number of bytes that can be taken until none is left. The capacity may fall below what is taken.
struct Budget {
    capacity: AtomicUsize,
    taken: AtomicUsize,
}

impl Budgets {
    pub(super) fn new(capacity: usize, hot_capacity: usize) -> Budgets {
        Budgets {
            total: Budget::new(capacity),
            hot: Budget::new(hot_capacity),
        }
    }

    /// Whether a value of this weight fits into `tier` at all.
    pub(super) fn fits(&self, tier: Tier, weight: usize) -> bool {
        let budget = match tier {
            Tier::Main => &self.total,
            Tier::Hot => &self.hot,
        };
        let capacity = budget.capacity().min(self.total.capacity());
        weight <= capacity.min(MAX_WEIGHT)
    }

    pub(super) fn set_capacity(&self, capacity: usize, hot_capacity: usize) {
        self.total.capacity.store(capacity, Ordering::Relaxed);
        self.hot.capacity.store(hot_capacity, Ordering::Relaxed);
    }

    /// The tier that has to give bytes back, since a capacity has fallen below what is taken.
    pub(super) fn exceeded(&self) -> Option<Tier> {
        if self.hot.is_exceeded() {
            return Some(Tier::Hot);
        }
        self.total.is_exceeded().then_some(Tier::Main)
    }

    /// Takes `weight` off the budgets. An error names the tier that has to make room.
    pub(super) fn take(&self, tier: Tier, weight: usize) -> Result<(), Tier> {
        if tier == Tier::Hot && !self.hot.try_take(weight) {
            return Err(Tier::Hot);
        }
        if self.total.try_take(weight) {
            return Ok(());
        }
        if tier == Tier::Hot {
            self.hot.give_back(weight);
        }
        Err(Tier::Main)
    }

    pub(super) fn give_back(&self, tier: Tier, weight: usize) {
        if tier == Tier::Hot {
            self.hot.give_back(weight);
        }
        self.total.give_back(weight);
    }

    /// The bytes that are taken for `tier`. Approximate while other threads take and give back.
    pub(super) fn taken(&self, tier: Tier) -> usize {
        let hot = self.hot.taken();
        match tier {
            Tier::Main => self.total.taken().saturating_sub(hot),
            Tier::Hot => hot,
        }
    }

    /// The bytes of main and hot together.
    pub(super) fn total_taken(&self) -> usize {
        self.total.taken()
    }

    #[cfg(test)]
    pub(super) fn are_kept(&self) -> bool {
        self.exceeded().is_none()
    }
}

impl Budget {
    fn new(capacity: usize) -> Budget {
        Budget {
            capacity: AtomicUsize::new(capacity),
            taken: AtomicUsize::new(0),
        }
    }

    fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Relaxed)
    }

    fn is_exceeded(&self) -> bool {
        self.taken() > self.capacity()
    }

    fn try_take(&self, bytes: usize) -> bool {
        let capacity = self.capacity();
        let take = |taken: usize| taken.checked_add(bytes).filter(|&sum| sum <= capacity);
        let relaxed = Ordering::Relaxed;
        self.taken.fetch_update(relaxed, relaxed, take).is_ok()
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn give_back(&self, bytes: usize) {
        let before = self.taken.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "{bytes} given back of {before}");
    }
}
