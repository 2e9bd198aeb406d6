//! Values past their expiry that are still of use (RFC 5861): *stale while revalidate* returns such a
//! value while it is renewed, *stale if error* when its load fails. Only main values, and only at their
//! owner: a copy that outlives its time could not be removed.
//!
//! Also the errors of loads that failed lately (`failures.rs`), which gets have without another load.

use std::time::{Duration, Instant};

use super::counters::Count;
use super::load::Role;
use super::outcome::{Obtained, Outcome};
use super::request::MAX_CLAIM;
use super::shared::Shared;
use crate::cache::key::KeyRef;
use crate::cache::shards::Found;
use crate::cluster::members::Owner;
use crate::error::Error;
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::sync::Arc;
use crate::runtime::user_code;
use crate::value::Cacheable;

/// How long a renewal may wait for a thread at least, however short the load timeout is.
const LEAST_CLAIM: Duration = Duration::from_secs(1);

const _: () = assert!(LEAST_CLAIM.as_nanos() <= MAX_CLAIM.as_nanos());

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
                self.renew(key, Role::Owner, Flow::Application);
                Ok(found.into())
            }
            Owner::Peer(owner) => self.timed(|| self.fetch(key, &owner, deadline, 0, Count::No)),
        }
    }

    /// Has the pool load a value, on behalf of the `flow` whose get has found it stale, unless it is
    /// being loaded already. If the queue is full, the next get tries again.
    pub(super) fn renew(self: &Arc<Self>, key: KeyRef<'_>, role: Role, flow: Flow) {
        if self.is_renewal_paused(key) || self.loads.is_under_way(key) {
            return;
        }
        let now = self.cluster.clock.now();
        let limit = self.cluster.settings.load_timeout;
        let deadline = Deadline::after(now, limit);
        if let (waiter, Some(queued)) = self.loads.queue(key, deadline) {
            // No get waits for it: it is wanted all the same, for as long as a load may take.
            let claimed = limit.clamp(LEAST_CLAIM, MAX_CLAIM);
            waiter.leave_a_claim(now + claimed, deadline);
            self.schedule_sweep(); // to withdraw the flight if no thread runs it in time
            self.queue_loads(vec![queued], usize::MAX, role, flow);
        }
    }

    /// The outcome of a load, or the value past its expiry that stands in for a load that failed or
    /// takes too long.
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
                    user_code::defer_drop(outcome); // the error is user code
                    Ok(found.into())
                }
                None => outcome,
            },
            outcome => outcome,
        }
    }

    /// The outcome of a get whose key's loads failed lately, without another load: the error of the last
    /// load, or a value past its expiry. `None` if the get is to load.
    pub(super) fn failed_lately(&self, key: KeyRef<'_>) -> Option<Outcome<V>> {
        let failed = self.failures.get(key)?;
        let now = self.cluster.clock.now();
        let is_before = |end: Option<Instant>| end.is_some_and(|end| now < end);
        let is_owner = || self.cluster.members().owner(key.text()) == Owner::This;
        let outcome = if is_before(failed.until) {
            self.or_stand_in(key, Err(failed.error))
        } else if failed.count > 1 && is_before(failed.renews) && is_owner() {
            Ok(Obtained::from(self.cache.stand_in(key)?))
        } else {
            return None;
        };
        Some(outcome)
    }

    /// Whether a renewal of `key` has failed so lately that it is not tried again yet.
    fn is_renewal_paused(&self, key: KeyRef<'_>) -> bool {
        let failed = self.failures.get(key);
        let renews = failed.and_then(|failed| failed.renews);
        renews.is_some_and(|renews| self.cluster.clock.now() < renews)
    }
}
