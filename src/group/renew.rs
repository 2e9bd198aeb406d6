//! Values past their expiry that are still of use (RFC 5861): *stale while revalidate* gives one out
//! while it is renewed, *stale if error* when its load fails.
//!
//! Only main values, and only at their owner: a copy that outlives its time could not be removed.

use super::absences::Absences;
use super::load::Role;
use super::{Count, Landed, Outcome, Shared};
use crate::cache::Found;
use crate::cluster::Sweep;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::flight::Part;
use crate::key::KeyRef;
use crate::members::Owner;
use crate::sync::{Arc, Ordering, Weak};
use crate::value::Cacheable;

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
                self.renew(key);
                Ok(found.into())
            }
            Owner::Peer(owner) => self.timed(|| self.fetch(key, &owner, deadline, 0, Count::No)),
        }
    }

    /// Has a value loaded by the pool, unless it is being loaded already. If the pool is full,
    /// whoever asks next tries again.
    pub(super) fn renew(self: &Arc<Self>, key: KeyRef<'_>) {
        if self.loads.is_under_way(key) {
            return;
        }
        let Part::Lead(guard) = self.loads.join(key, Deadline::NEVER, false) else {
            return;
        };
        let Err(guard) = self.land_if_cached(guard) else {
            return;
        };
        let limit = self.cluster.settings.load_timeout;
        let deadline = Deadline::after(self.cluster.clock.now(), limit);
        if let Err(error) = self.queue_load(guard, deadline, Role::Owner) {
            log::debug!(
                target: "groupcache", group = self.name.as_str(), error:% = error;
                "a stale value is not renewed yet"
            );
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
            ) => self
                .cache
                .stand_in(key)
                .map(Landed::from)
                .map_or(outcome, Ok),
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
        self.cache.expires() || self.absences.as_ref().is_some_and(Absences::expire)
    }

    pub(super) fn as_sweep(self: &Arc<Self>) -> Weak<dyn Sweep> {
        Arc::downgrade(&(Arc::clone(self) as Arc<dyn Sweep>))
    }
}

impl<V: Cacheable> Sweep for Shared<V> {
    fn clear(&self) {
        self.drop_all();
    }

    fn sweep(&self) -> bool {
        self.cache.sweep();
        if let Some(absences) = &self.absences {
            absences.sweep();
        }
        if self.has_expiring() {
            return true;
        }
        self.is_swept.store(false, Ordering::Release);
        // One who kept a value meanwhile saw the mark still set, and rang nobody.
        self.has_expiring() && !self.is_swept.swap(true, Ordering::AcqRel)
    }
}
