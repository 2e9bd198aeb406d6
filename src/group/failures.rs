//! `Failures`: the keys whose loads failed of late, so that a loader that fails is not asked without
//! a pause.
//!
//! One failure alone is forgiven: the next get loads again. From the second in a row on, the error is
//! given to those who ask within its life. A value past its expiry is not renewed before a pause
//! that doubles with each failure. A load that succeeds, `set`, `remove` and `clear` end it at once.

use std::time::{Duration, Instant};

use super::absences::share_of;
use super::load::Role;
use super::{Obtained, Outcome, Shared, charge};
use crate::cache::entry::Tier;
use crate::cache::key::KeyRef;
use crate::cache::shards::Cache;
use crate::cluster::members::Owner;
use crate::error::Error;
use crate::flight::table::Guard;
use crate::runtime::clock::Clock;
use crate::runtime::sync::RandomState;
use crate::value::Cacheable;

/// The pause after a renewal that failed: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How long after the pause a failure is remembered, so that the next one doubles it.
const MEMORY: Duration = Duration::from_secs(10);

/// The longest life that an error is given.
const LONGEST_LIFE: Duration = Duration::from_secs(365 * 86_400);

/// What they take at most, in bytes, and what an error is taken to have.
const MOST_BYTES: usize = 1 << 20;
const ERROR_BYTES: usize = 200;

pub(super) struct Failures {
    keys: Cache<Failed>,
    /// How long an error is given to those who ask.
    life: Duration,
    dice: RandomState,
}

/// The failures of one key in a row.
#[derive(Clone)]
struct Failed {
    error: Error,
    count: u32,
    /// Until when those who ask are given the error.
    until: Option<Instant>,
    /// When a renewal is tried again.
    renews: Option<Instant>,
}

impl Failures {
    /// Those of the group that keeps its values in `values`.
    pub(super) fn beside<V: Cacheable>(
        values: &Cache<V>,
        capacity: usize,
        life: Duration,
        clock: Clock,
    ) -> Failures {
        let bytes = share_of(capacity).min(MOST_BYTES);
        Failures {
            keys: Cache::new(bytes, 0, Some(1), clock).with_hasher_of(values),
            life,
            dice: RandomState::default(),
        }
    }

    fn get(&self, key: KeyRef<'_>) -> Option<Failed> {
        if self.keys.is_empty() {
            return None; // as nearly always
        }
        self.keys.recheck(key)?.value.value().ok()
    }

    pub(super) fn remove(&self, key: KeyRef<'_>) {
        if !self.keys.is_empty() {
            self.keys.remove(key);
        }
    }

    pub(super) fn clear(&self) {
        self.keys.clear();
    }

    pub(super) fn sweep(&self) {
        self.keys.sweep();
    }

    /// Whether there are any that leave for their age.
    pub(super) fn expire(&self) -> bool {
        self.keys.expires()
    }

    /// What they take, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes() + self.keys.counts().main_bytes
    }

    /// The next failure of a key, after the last one that is remembered.
    fn next(&self, last: Option<&Failed>, error: Error, now: Instant) -> Failed {
        let count = last.map_or(1, |last| last.count.saturating_add(1));
        let doubled = FIRST_PAUSE.saturating_mul(1 << (count - 1).min(16));
        // Up to a quarter less, so that nodes that fail together do not ask together.
        let dice = std::hash::BuildHasher::hash_one(&self.dice, (count, now));
        let part = 1.0 - (dice >> 11) as f64 / (1_u64 << 53) as f64 / 4.0;
        let pause = doubled.min(LONGEST_PAUSE).mul_f64(part);
        Failed {
            error,
            count,
            until: (count > 1).then(|| now + self.life.min(LONGEST_LIFE)),
            renews: now.checked_add(pause),
        }
    }
}

impl<V: Cacheable> Shared<V> {
    /// Notes what a load came to: that it failed, or that failures are over.
    pub(super) fn note_load(&self, guard: &Guard<Outcome<V>>, outcome: &Outcome<V>, role: Role) {
        let key = guard.key().as_ref();
        let error = match outcome {
            Err(error @ (Error::Load { .. } | Error::Panicked { .. })) => error,
            Ok(_) | Err(Error::NotFound) => return self.failures.remove(key),
            Err(_) => return,
        };
        let now = self.cluster.clock.now();
        let last = self.failures.get(key);
        let mut failed = self.failures.next(last.as_ref(), error.clone(), now);
        if role == Role::Fallback {
            failed.renews = None; // its owner renews it
        }
        let end = failed.until.max(failed.renews).unwrap_or(now);
        let (weight, stale) = (charge(key, ERROR_BYTES), guard.stale());
        let expires = end.checked_add(MEMORY);
        self.failures
            .keys
            .insert(Tier::Main, key, failed, weight, expires, stale);
        self.have_swept();
    }

    /// What a get comes to without a load, as loads of its key fail: the error of the last one, or a
    /// value past its expiry.
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

    /// Whether a renewal of `key` has failed so lately that it is not tried yet.
    pub(super) fn is_renewal_paused(&self, key: KeyRef<'_>) -> bool {
        let failed = self.failures.get(key);
        let renews = failed.and_then(|failed| failed.renews);
        renews.is_some_and(|renews| self.cluster.clock.now() < renews)
    }
}
