//! `Budget`: how many bytes a cache may still take (I4).

use crate::runtime::sync::{AtomicUsize, Ordering};

/// Bytes that can be taken until none are left.
pub(super) struct Budget {
    pub(super) capacity: usize,
    taken: AtomicUsize,
}

impl Budget {
    pub(super) fn new(capacity: usize) -> Budget {
        Budget {
            capacity,
            taken: AtomicUsize::new(0),
        }
    }

    pub(super) fn try_take(&self, bytes: usize) -> bool {
        let take = |taken: usize| taken.checked_add(bytes).filter(|&sum| sum <= self.capacity);
        let relaxed = Ordering::Relaxed;
        self.taken.fetch_update(relaxed, relaxed, take).is_ok()
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}
