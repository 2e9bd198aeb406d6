//! The sweep: what expires leaves the memory of this process, whether or not anybody asks for it.

use super::absences::Absences;
use super::shared::Shared;
use crate::cluster::change::Reach;
use crate::cluster::group_values::GroupValues;
use crate::runtime::sync::{Arc, Ordering, Weak};
use crate::value::Cacheable;

impl<V: Cacheable> Shared<V> {
    /// Has the sweeper of the node come for this group, as something in it expires.
    pub(super) fn schedule_sweep(&self) {
        if !self.is_sweep_scheduled.swap(true, Ordering::AcqRel) {
            self.cluster.wake_sweeper();
        }
    }

    /// Whether there is anything in memory that expires.
    fn has_expiring(&self) -> bool {
        let absences = self.absences.as_ref();
        self.cache.expires() || self.failures.expires() || absences.is_some_and(Absences::expires)
    }

    /// This group as the background threads know it. It does not keep the group alive.
    pub(super) fn as_values(self: &Arc<Self>) -> Weak<dyn GroupValues> {
        Arc::downgrade(&(Arc::clone(self) as Arc<dyn GroupValues>))
    }
}

impl<V: Cacheable> GroupValues for Shared<V> {
    fn clear(&self, reach: Reach) {
        match reach {
            Reach::All => self.drop_all(),
            Reach::Copies => self.drop_copies(),
        }
    }

    fn are_for_deputies(&self) -> bool {
        self.capacity.parts().for_deputies > 0
    }

    fn offer_to_deputies(&self) {
        Shared::offer_to_deputies(self);
    }

    fn sweep(&self) -> bool {
        let now = self.cluster.clock.now();
        let are_claimed = self.loads.withdraw_unclaimed(now);
        self.cache.sweep();
        if let Some(absences) = &self.absences {
            absences.sweep();
        }
        self.failures.sweep();
        if are_claimed || self.has_expiring() {
            return true;
        }
        self.is_sweep_scheduled.store(false, Ordering::Release);
        // A thread that kept a value meanwhile saw the mark still set, and woke nobody.
        let has_more = self.has_expiring() || self.loads.withdraw_unclaimed(now);
        has_more && !self.is_sweep_scheduled.swap(true, Ordering::AcqRel)
    }
}
