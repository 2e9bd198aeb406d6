//! The loading process, from a get to its value.
//!
//! 1. Is the value in local memory, in the main or the hot cache? Use it. If it has expired a short
//!    while ago, use it too and have it renewed (`renew.rs`).
//! 2. Otherwise one thread per key goes on, the leader of the flight; the others wait for it.
//! 3. The leader looks in the caches once more, then asks the ring who owns the key.
//! 4. This process: the loader runs (`load.rs`), unless the key belonged to another node not long ago,
//!    which still has its value (`hand_over.rs`). Another process: fetch from there (`fetch.rs`). If
//!    that owner is unreachable: load here.
//! 5. The value goes into the main or the hot cache. Only then does the flight end (I7).

use std::time::{Duration, Instant};

use super::counters::Count;
use super::load::Role;
use super::outcome::{Obtained, Outcome};
use super::shared::Shared;
use super::weight::charge;
use crate::cache::entry::Tier;
use crate::cache::key::{KeyRef, MAX_KEY_BYTES};
use crate::cache::shards::Found;
use crate::cluster::members::Owner;
use crate::error::Error;
use crate::flight::leader::{Guard, WaitOutcome};
use crate::flight::waiter::Waiter;
use crate::protocol;
use crate::runtime::clock::Deadline;
use crate::runtime::sync::Arc;
use crate::runtime::user_code;
use crate::value::Cacheable;

impl<V: Cacheable> Shared<V> {
    #[inline]
    pub(super) fn get_value(self: &Arc<Self>, key: &str, deadline: Deadline) -> Result<V, Error> {
        let key = self.cache.hash(key);
        match self.cache.get_main(key) {
            Some(stored) => Ok(stored.value()?),
            None => Ok(self.get(key, deadline)?.value.value()?),
        }
    }

    #[cold]
    pub(super) fn get(self: &Arc<Self>, key: KeyRef<'_>, deadline: Deadline) -> Outcome<V> {
        // The listener is called once nobody waits for this thread any more.
        let _hold = user_code::hold();
        match self.cache.get(key) {
            Ok(found) if found.is_stale => self.use_stale(key, found, deadline),
            Ok(found) => Ok(found.into()),
            Err(_) if self.is_absent(key) => Err(Error::NotFound),
            Err(unreported) => match self.failed_lately(key) {
                Some(outcome) => {
                    self.counters.joined.add();
                    outcome
                }
                None => self.timed(|| self.obtain(key, deadline, unreported, Count::Yes)),
            },
        }
    }

    /// Whether `key` is known to have no value. Counts as a hit.
    pub(super) fn is_absent(&self, key: KeyRef<'_>) -> bool {
        let absences = self.absences.as_ref();
        absences.is_some_and(|absences| absences.hit(key))
    }

    /// Obtains a value that is not in memory, and records how long that takes.
    pub(super) fn timed(&self, obtain: impl FnOnce() -> Outcome<V>) -> Outcome<V> {
        let began = self.cluster.clock.now();
        let outcome = obtain();
        self.timings.record_get(self.time_since(began), &outcome);
        outcome
    }

    pub(super) fn time_since(&self, began: Instant) -> Duration {
        self.cluster.clock.now().saturating_duration_since(began)
    }

    /// Steps 2 to 5: the value of a key that is not in memory.
    pub(super) fn obtain(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        deadline: Deadline,
        unreported: u32,
        count: Count,
    ) -> Outcome<V> {
        check_key(key.text())?;
        match self.cluster.members().owner(key.text()) {
            Owner::This => {
                let outcome = self.load(key, deadline, Role::Owner, count);
                self.or_stand_in(key, outcome)
            }
            Owner::Peer(owner) => self.fetch(key, &owner, deadline, unreported, count),
        }
    }

    /// Step 5. Keeps no value that has expired already, and none that is too large to travel.
    pub(super) fn keep(
        self: &Arc<Self>,
        guard: &Guard<Outcome<V>>,
        tier: Tier,
        obtained: &Obtained<V>,
        now: Instant,
    ) {
        let too_large = obtained.weight > self.cluster.settings.max_value;
        if obtained.deadline().is_past(now) || too_large {
            return;
        }
        let key = guard.key().as_ref();
        let (value, weight) = (obtained.value.clone(), charge(key, obtained.weight));
        self.cache
            .insert(tier, key, value, weight, obtained.expires, guard.stale());
        if obtained.expires.is_some() {
            self.schedule_sweep();
        }
    }

    /// Step 3: the flight that ended just before this one began may have left the value, or the
    /// absence of one. Ends the flight with it; gives the guard back if there is neither.
    pub(super) fn finish_if_cached(
        &self,
        guard: Guard<Outcome<V>>,
        role: Role,
    ) -> Result<Outcome<V>, Guard<Outcome<V>>> {
        let Some(outcome) = self.recheck(guard.key().as_ref(), role) else {
            return Err(guard);
        };
        guard.finish(outcome.clone());
        Ok(outcome)
    }

    /// What is in memory, for a get that has looked there before: it does not count as a hit again. A deputy
    /// uses no copies: it may have one that is removed only once all deputies have the removal.
    pub(super) fn recheck(&self, key: KeyRef<'_>, role: Role) -> Option<Outcome<V>> {
        let is_of_use = |found: &Found<V>| role != Role::Deputy || found.tier == Tier::Main;
        if let Some(found) = self.cache.recheck(key).filter(is_of_use) {
            return Some(Ok(found.into()));
        }
        let absences = self.absences.as_ref();
        absences
            .is_some_and(|absences| absences.recheck(key))
            .then_some(Err(Error::NotFound))
    }

    /// Waits for a flight. If this is a thread of the pool, another thread may run loads in its stead
    /// meanwhile.
    pub(super) fn wait_for(
        &self,
        waiter: &Waiter<Outcome<V>>,
        deadline: Deadline,
    ) -> WaitOutcome<Outcome<V>> {
        let _blocked = self.cluster.pool.wait_inside();
        waiter.wait(&self.cluster.clock, deadline)
    }
}

/// Fails if `key` is too long to travel.
pub(super) fn check_key(key: &str) -> Result<(), Error> {
    // No encoding is more than three times as long as its key: most keys need not be encoded.
    if key.len() > MAX_KEY_BYTES / 3 {
        let bytes = protocol::encoded_len(key);
        if bytes > MAX_KEY_BYTES {
            return Err(Error::KeyTooLong { bytes });
        }
    }
    Ok(())
}
