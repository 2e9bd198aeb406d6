//! Values past their expiry that are still of use (RFC 5861): *stale while revalidate* gives one out
//! while it is renewed, *stale if error* when its load fails.
//!
//! Only main values, and only at their owner: a copy that outlives its time could not be removed.

use std::time::Duration;

use super::absences::Absences;
use super::load::Role;
use super::serve::MAX_CLAIM;
use super::{Count, Outcome, Shared};
use crate::cache::key::KeyRef;
use crate::cache::shards::Found;
use crate::cluster::change::Reach;
use crate::cluster::members::Owner;
use crate::cluster::sweep::Sweep;
use crate::error::Error;
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::sync::{Arc, Ordering, Weak};
use crate::runtime::user_code;
use crate::value::Cacheable;

/// How long a renewal may wait for a thread, however short the time that a load may take.
const LEAST_CLAIM: Duration = Duration::from_secs(1);

impl<V: Cacheable> Shared<V> {
    /// Uses a value past its expiry and has it renewed, or fetches it if another process owns the
    /// key by now.
    #[cold]
    pub(super) fn use_stale(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        found: Found<V>,
        deadline: Deadline,
    ) -> Outcome<V> {
        match self.cluster.members().owner(key.text()) {
            Owner::This => {
                self.renew(key, Flow::Application);
                Ok(found.into())
            }
            Owner::Peer(owner) => self.timed(|| self.fetch(key, &owner, deadline, 0, Count::No)),
        }
    }

    /// Has a value loaded by the pool in the turn of the one who asked, unless it is being loaded
    /// already. If there is no room in its queue, whoever asks next tries again.
    pub(super) fn renew(self: &Arc<Self>, key: KeyRef<'_>, flow: Flow) {
        if self.is_renewal_paused(key) || self.loads.is_under_way(key) {
            return;
        }
        let now = self.cluster.clock.now();
        let limit = self.cluster.settings.load_timeout;
        let deadline = Deadline::after(now, limit);
        if let (waiter, Some(queued)) = self.loads.queue(key, deadline) {
            // Nobody waits for it: it is wanted all the same, for as long as a load may take.
            let claimed = limit.clamp(LEAST_CLAIM, MAX_CLAIM);
            waiter.leave_a_claim(now + claimed, deadline);
            self.have_swept(); // should nobody run it in time
            self.queue_loads(vec![queued], usize::MAX, Role::Owner, flow);
        }
    }

    /// An outcome, or the value that stands in for a load that failed or takes too long.
    pub(super) fn or_stand_in(&self, key: KeyRef<'_>, outcome: Outcome<V>) -> Outcome<V> {
        match outcome {
            Err(
                Error::Load { .. }
                | Error::Panicked { .. }
                | Error::Deadline
                | Error::Overloaded
                | Error::Thread { .. },
            ) => match self.cache.stand_in(key) {
                Some(found) => {
                    user_code::defer_drop(outcome); // the error is of the loader
                    Ok(found.into())
                }
                None => outcome,
            },
            outcome => outcome,
        }
    }

    /// Sees to it that values leave when their time is over, whether or not anybody asks for them.
    pub(super) fn have_swept(&self) {
        if !self.is_swept.swap(true, Ordering::AcqRel) {
            self.cluster.wake_sweeper();
        }
    }

    fn has_expiring(&self) -> bool {
        let absences = self.absences.as_ref();
        self.cache.expires() || self.failures.expire() || absences.is_some_and(Absences::expire)
    }

    pub(super) fn as_sweep(self: &Arc<Self>) -> Weak<dyn Sweep> {
        Arc::downgrade(&(Arc::clone(self) as Arc<dyn Sweep>))
    }
}

impl<V: Cacheable> Sweep for Shared<V> {
    fn clear(&self, reach: Reach) {
        match reach {
            Reach::All => self.drop_all(),
            Reach::Copies => self.drop_copies(),
        }
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
        self.is_swept.store(false, Ordering::Release);
        // One who kept a value meanwhile saw the mark still set, and rang nobody.
        let has_more = self.has_expiring() || self.loads.withdraw_unclaimed(now);
        has_more && !self.is_swept.swap(true, Ordering::AcqRel)
    }
}
