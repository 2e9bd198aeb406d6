//! `Bulkhead`: limits how many loads of a group run at once, so that the source of its values is not
//! overrun (the name of the pattern is from Nygard's "Release It!").

use crate::runtime::sync::{AtomicBool, AtomicUsize, Ordering};
use crate::stats::Counter;

pub(super) struct Bulkhead {
    max: usize,
    running: AtomicUsize,
    refused: Counter,
    /// Whether a refusal was reported, and the overload has not ended since.
    is_reported: AtomicBool,
}

/// The permission to run one load, until it is dropped.
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

    /// A permit, unless `max` loads run already. A load that is part of another one gets a permit in
    /// any case: the outer load has begun, and refusing would make its work be done again.
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
        let before = self.0.running.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a load ends that never began");
        let left = before - 1;
        // Not at each permit that is dropped: one overload is one report.
        if left <= self.0.max / 2 && self.0.is_reported.load(Ordering::Relaxed) {
            self.0.is_reported.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_bulkhead_refuses_until_a_load_ends() {
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
