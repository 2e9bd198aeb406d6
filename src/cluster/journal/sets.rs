//! `Sets`: the values that peers, or this node, are setting here right now.

use super::{Journal, UnappliedChange};
use crate::protocol::Stamp;
use crate::runtime::sync::{Arc, AtomicBool, Ordering};

/// The sets in progress.
#[derive(Default)]
pub(super) struct Sets(Vec<SetInProgress>);

struct SetInProgress {
    /// Of the key, and of its group.
    hashes: [u64; 2],
    stamp: Stamp,
    is_superseded: Arc<AtomicBool>,
}

impl Sets {
    /// Adds a set; the flag tells it when it is superseded.
    pub(super) fn begin(
        &mut self,
        hashes: [u64; 2],
        stamp: Stamp,
        is_superseded: &Arc<AtomicBool>,
    ) {
        self.0.push(SetInProgress {
            hashes,
            stamp,
            is_superseded: Arc::clone(is_superseded),
        });
    }

    /// Removes the set with this flag.
    pub(super) fn end(&mut self, is_superseded: &Arc<AtomicBool>) {
        self.0
            .retain(|set| !Arc::ptr_eq(&set.is_superseded, is_superseded));
    }

    /// Stops earlier sets of the same sender from keeping their values: those of one key or group, or
    /// all.
    pub(super) fn supersede(&self, hash: Option<u64>, stamp: Stamp) {
        for set in &self.0 {
            let is_earlier =
                set.stamp.origin == stamp.origin && set.stamp.sequence < stamp.sequence;
            if hash.is_none_or(|hash| set.hashes.contains(&hash)) && is_earlier {
                set.is_superseded.store(true, Ordering::Release);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A set in progress, until it is dropped. Its value is not to be kept once the set
/// [is superseded](SetGuard::superseded).
pub(crate) struct SetGuard<'a> {
    pub(super) journal: &'a Journal,
    pub(super) change: UnappliedChange,
    pub(super) is_superseded: Arc<AtomicBool>,
}

impl SetGuard<'_> {
    /// Notes that the value is set.
    pub(crate) fn mark_applied(&self) {
        self.journal.mark_applied(self.change);
    }

    /// True as soon as a later change of the same sender arrives.
    pub(crate) fn superseded(&self) -> &AtomicBool {
        &self.is_superseded
    }
}

impl Drop for SetGuard<'_> {
    fn drop(&mut self) {
        self.journal.end_set(&self.is_superseded);
    }
}
