//! `Bulkhead`: how many loads of a group run at once, so that what it loads from is not overrun (the
//! pattern's name is from Nygard's "Release It!").

use crate::runtime::sync::{AtomicBool, AtomicUsize, Ordering};
use crate::stats::Counter;

pub(super) struct Bulkhead {
    max: usize,
    running: AtomicUsize,
    refused: Counter,
    /// Whether a refusal was reported, and there has been no room since.
    is_reported: AtomicBool,
}

/// A place for one load.
pub(super) struct Permit<'a>(&'a Bulkhead);

impl Bulkhead {
    pub(super) fn new(max: usize) -> Bulkhead {
        Bulkhead {
            max,
            running: AtomicUsize::new(0),
            refused: Counter::default(),
            is_reported: AtomicBool::new(false),
        }
    }

    /// How many loads may run at once.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// How many loads are running.
    pub(super) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    /// How many loads were refused.
    pub(super) fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// A place, if there is one. A load that is part of another one gets it in any case: the outer
    /// one has begun, and refusing would make that work be done again.
    pub(super) fn enter(&self, group: &str, is_part: bool) -> Option<Permit<'_>> {
        let enter = |running: usize| (running < self.max || is_part).then_some(running + 1);
        let relaxed = Ordering::Relaxed;
        if self.running.fetch_update(relaxed, relaxed, enter).is_ok() {
            return Some(Permit(self));
        }
        self.refused.add();
        if !self.is_reported.swap(true, Ordering::Relaxed) {
            log::warn!(
                target: "groupcache", group = group, max_loads = self.max;
                "too many loads at once: further ones are refused"
            );
        }
        None
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let left = self.0.running.fetch_sub(1, Ordering::Relaxed) - 1;
        // Not at each place that is free: one overload is one report.
        if left <= self.0.max / 2 && self.0.is_reported.load(Ordering::Relaxed) {
            self.0.is_reported.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_one_refuses_until_there_is_room() {
        let bulkhead = Bulkhead::new(2);
        let first = bulkhead.enter("g", false).unwrap();
        let _second = bulkhead.enter("g", false).unwrap();
        assert!(bulkhead.enter("g", false).is_none() && bulkhead.enter("g", false).is_none());
        assert_eq!(bulkhead.refused(), 2);
        drop(first);
        assert!(bulkhead.enter("g", false).is_some());
    }

    #[test]
    fn each_overload_is_reported_once() {
        let bulkhead = Bulkhead::new(1);
        for _ in 0..2 {
            let permit = bulkhead.enter("g", false).unwrap();
            assert!(!bulkhead.is_reported.load(Ordering::Relaxed));
            assert!(bulkhead.enter("g", false).is_none());
            assert!(bulkhead.is_reported.load(Ordering::Relaxed));
            drop(permit);
        }
    }

    #[test]
    fn a_load_inside_another_is_part_of_it() {
        let bulkhead = Bulkhead::new(1);
        let _outer = bulkhead.enter("g", false).unwrap();
        assert!(bulkhead.enter("g", true).is_some());
        assert!(bulkhead.enter("g", false).is_none());
    }
}
