//! `GroupValues`: the values of a group as the background threads of the node see them.

use crate::cluster::change::Reach;
use crate::runtime::maintenance::guarded;
use crate::runtime::sync::{Arc, Mutex, Weak};

/// Something that keeps values.
pub(crate) trait GroupValues: Send + Sync {
    /// Drops expired values; returns whether there are others that will expire.
    fn sweep(&self) -> bool;

    /// Drops all values, or all copies.
    fn clear(&self, reach: Reach);

    /// Whether some of them are offered to the deputies of their keys.
    fn are_for_deputies(&self) -> bool;

    /// Offers those that are requested most to the deputies of their keys.
    fn offer_to_deputies(&self);
}

/// The values of all groups. It holds none of the groups, so there is no cycle.
#[derive(Default)]
pub(super) struct AllValues(Mutex<Vec<Weak<dyn GroupValues>>>);

impl AllValues {
    pub(super) fn add(&self, values: Weak<dyn GroupValues>) {
        let mut all = self.0.lock();
        all.retain(|values| values.strong_count() > 0);
        all.push(values);
    }

    /// Sweeps all; returns whether there are values that will expire.
    pub(super) fn sweep(&self) -> bool {
        let mut more = false;
        for values in self.groups() {
            // What a sweep that has panicked leaves is not known.
            more |= guarded(|| values.sweep()).unwrap_or(true);
        }
        more
    }

    /// Whether values of any group are offered to deputies.
    pub(super) fn are_for_deputies(&self) -> bool {
        self.groups().iter().any(|values| values.are_for_deputies())
    }

    /// Offers values of all groups to deputies.
    pub(super) fn offer_to_deputies(&self) {
        for values in self.groups() {
            guarded(|| values.offer_to_deputies());
        }
    }

    /// Clears all.
    pub(super) fn clear(&self, reach: Reach) {
        self.groups().iter().for_each(|values| values.clear(reach));
    }

    fn groups(&self) -> Vec<Arc<dyn GroupValues>> {
        self.0.lock().iter().filter_map(Weak::upgrade).collect()
    }
}
