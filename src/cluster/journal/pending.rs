//! `PendingRemovals`: the ranges of the log that one peer has not received.

use std::ops::Range;

use crate::runtime::sync::{AtomicBool, Mutex, Ordering};

/// The most ranges of the log of one peer. Beyond, the last ones are merged.
pub(super) const MAX_RANGES: usize = 32;

/// The ranges of the log that a peer has not received.
#[derive(Default)]
pub(crate) struct PendingRemovals {
    state: Mutex<PendingState>,
    /// Whether there is any: each fetch reads it, so without a lock.
    is_any: AtomicBool,
}

#[derive(Default)]
struct PendingState {
    ranges: Ranges,
    /// What was added since the current delivery began: it may have to be delivered once more.
    added: Ranges,
}

/// Ranges of the log in order, without overlaps, none of them empty.
#[derive(Default)]
struct Ranges(Vec<Range<u64>>);

impl PendingRemovals {
    pub(crate) fn add(&self, range: Range<u64>) {
        let mut state = self.state.lock();
        state.added.add(range.clone());
        state.ranges.add(range);
        self.update_is_any(&state);
    }

    /// Begins a delivery: returns what is pending now.
    pub(super) fn begin_delivery(&self) -> Vec<Range<u64>> {
        let mut state = self.state.lock();
        state.added = Ranges::default();
        state.ranges.0.clone()
    }

    /// Removes a range that was delivered, but for what was added since that delivery began.
    pub(crate) fn remove(&self, delivered: &Range<u64>) {
        let mut state = self.state.lock();
        state.ranges.remove(delivered);
        for range in std::mem::take(&mut state.added).0 {
            state.ranges.add(range);
        }
        self.update_is_any(&state);
    }

    /// Ends all ranges at `end`: later changes are sent to the peer as they are made.
    pub(crate) fn end_at(&self, end: u64) {
        let mut state = self.state.lock();
        state.ranges.remove(&(end..u64::MAX));
        state.added.remove(&(end..u64::MAX));
        self.update_is_any(&state);
    }

    fn update_is_any(&self, state: &PendingState) {
        self.is_any
            .store(!state.ranges.0.is_empty(), Ordering::Release);
    }

    pub(super) fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Acquire)
    }

    pub(super) fn ranges(&self) -> Vec<Range<u64>> {
        self.state.lock().ranges.0.clone()
    }

    /// The first sequence number that is pending.
    pub(crate) fn first(&self) -> Option<u64> {
        self.state.lock().ranges.0.first().map(|range| range.start)
    }
}

impl Ranges {
    fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.0.push(range);
        self.0.sort_unstable_by_key(|range| range.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(self.0.len());
        for range in self.0.drain(..) {
            match merged.last_mut().filter(|last| last.end >= range.start) {
                Some(last) => last.end = last.end.max(range.end),
                None => merged.push(range),
            }
        }
        // To deliver something once more is never wrong, so too many ranges become fewer.
        if merged.len() > MAX_RANGES {
            let end = merged[MAX_RANGES..].iter().map(|range| range.end).max();
            merged.truncate(MAX_RANGES);
            if let (Some(last), Some(end)) = (merged.last_mut(), end) {
                last.end = end;
            }
        }
        self.0 = merged;
        debug_assert!(self.0.len() <= MAX_RANGES);
        debug_assert!(self.is_in_order());
    }

    fn remove(&mut self, range: &Range<u64>) {
        let rest = |other: &Range<u64>| {
            let before = other.start..other.end.min(range.start);
            let after = other.start.max(range.end)..other.end;
            [before, after]
        };
        let rest: Vec<_> = self.0.iter().flat_map(rest).collect();
        self.0 = rest.into_iter().filter(|range| !range.is_empty()).collect();
        debug_assert!(self.is_in_order());
    }

    /// Whether the ranges are in order and do not overlap.
    fn is_in_order(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0].end <= pair[1].start)
    }
}
