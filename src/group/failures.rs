//! `Failures`: the keys whose loads failed lately, so that a loader that fails is not run again without
//! a pause.
//!
//! After one failure alone the next get loads again. From the second failure in a row on, gets within
//! the life of its error have that error. A value past its expiry is not renewed before a pause that
//! doubles with each failure. A load that succeeds, `set`, `remove` and `clear` end this at once.

use std::time::{Duration, Instant};

use super::absences::share_of;
use super::weight::charge;
use crate::cache::entry::Tier;
use crate::cache::key::KeyRef;
use crate::cache::shards::Cache;
use crate::error::Error;
use crate::runtime::clock::Clock;
use crate::runtime::sync::{AtomicBool, RandomState};
use crate::value::Cacheable;

/// The pause after a renewal that failed: the first one, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

const _: () = assert!(FIRST_PAUSE.as_nanos() < LONGEST_PAUSE.as_nanos());

/// How long after the pause a failure is remembered, so that the next one doubles it.
const MEMORY: Duration = Duration::from_secs(10);

/// The longest life that an error is given.
const LONGEST_LIFE: Duration = Duration::from_secs(365 * 86_400);

/// The most memory of the failures of a group, in bytes, and the estimated size of an error.
const MOST_BYTES: usize = 1 << 20;
const ERROR_BYTES: usize = 200;

const _: () = assert!(ERROR_BYTES < MOST_BYTES);

pub(super) struct Failures {
    keys: Cache<Failed>,
    /// For how long gets have an error, from the second failure in a row on.
    life: Duration,
    /// Spreads the pauses.
    jitter: RandomState,
}

/// The failures of one key in a row.
#[derive(Clone)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) count: u32,
    /// Until when gets have the error.
    pub(super) until: Option<Instant>,
    /// When a renewal is tried again.
    pub(super) renews: Option<Instant>,
}

impl Failures {
    /// The failures of the group that keeps its values in `values`.
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
            jitter: RandomState::default(),
        }
    }

    /// The failures of `key`, if its loads failed lately.
    pub(super) fn get(&self, key: KeyRef<'_>) -> Option<Failed> {
        if self.keys.is_empty() {
            return None; // the usual case
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

    /// Whether there are failures that expire.
    pub(super) fn expires(&self) -> bool {
        self.keys.expires()
    }

    /// The memory of the failures, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes() + self.keys.counts().main_bytes
    }

    /// Remembers that a load of `key` failed, unless `stale` is set. A key that its owner renews is not
    /// renewed here: then there is no pause.
    pub(super) fn note(
        &self,
        key: KeyRef<'_>,
        error: &Error,
        renewed_here: bool,
        now: Instant,
        stale: &AtomicBool,
    ) {
        let last = self.get(key);
        let mut failed = self.next(last.as_ref(), error.clone(), now);
        if !renewed_here {
            failed.renews = None;
        }
        let end = failed.until.max(failed.renews).unwrap_or(now);
        let expires = end.checked_add(MEMORY);
        let weight = charge(key, ERROR_BYTES);
        self.keys
            .insert(Tier::Main, key, failed, weight, expires, stale);
    }

    /// The next failure of a key, after the last one that is remembered.
    fn next(&self, last: Option<&Failed>, error: Error, now: Instant) -> Failed {
        let count = last.map_or(1, |last| last.count.saturating_add(1));
        debug_assert!(count > 0);
        let doubled = FIRST_PAUSE.saturating_mul(1 << (count - 1).min(16));
        // Up to a quarter less, so that nodes that fail together do not load together again.
        let random = std::hash::BuildHasher::hash_one(&self.jitter, (count, now));
        let part = 1.0 - (random >> 11) as f64 / (1_u64 << 53) as f64 / 4.0;
        let pause = doubled.min(LONGEST_PAUSE).mul_f64(part);
        Failed {
            error,
            count,
            until: (count > 1).then(|| now + self.life.min(LONGEST_LIFE)),
            renews: now.checked_add(pause),
        }
    }
}
