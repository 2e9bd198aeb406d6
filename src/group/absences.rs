//! `Absences`: the keys that have no value, kept for a while (negative caching, as RFC 2308 has it for
//! names).
//!
//! An absence is kept where the loader has said that there is no value, and nowhere else: a peer that
//! fetches from the owner gets that answer, but does not keep it.

use std::time::{Duration, Instant};

use super::weight::charge;
use crate::cache::entry::Tier;
use crate::cache::key::KeyRef;
use crate::cache::shards::{Cache, Counts};
use crate::runtime::clock::Clock;
use crate::runtime::sync::AtomicBool;
use crate::value::Cacheable;

/// Absences take one part in so many of a group's capacity, if they are kept at all.
const SHARE: usize = 16;

const _: () = assert!(SHARE > 1); // a part is left for the values

/// The bytes that absences take of a group's capacity.
pub(super) fn share_of(capacity: usize) -> usize {
    capacity / SHARE
}

pub(super) struct Absences {
    keys: Cache<()>,
    life: Duration,
}

impl Absences {
    /// The absences of the group that keeps its values in `values`.
    pub(super) fn beside<V: Cacheable>(
        values: &Cache<V>,
        bytes: usize,
        life: Duration,
        clock: Clock,
    ) -> Absences {
        Absences {
            keys: Cache::new(bytes, 0, None, clock).with_hasher_of(values),
            life,
        }
    }

    /// Whether `key` is known to have no value. Counts as a hit.
    pub(super) fn hit(&self, key: KeyRef<'_>) -> bool {
        self.keys.get_main(key).is_some()
    }

    /// As [`hit`](Absences::hit), for a get that has looked before: it does not count again.
    pub(super) fn recheck(&self, key: KeyRef<'_>) -> bool {
        self.keys.recheck(key).is_some()
    }

    /// Keeps that `key` has no value, for its life but no longer than `limit`, unless `stale` is set.
    pub(super) fn keep(
        &self,
        key: KeyRef<'_>,
        now: Instant,
        limit: Option<Duration>,
        stale: &AtomicBool,
    ) {
        let life = limit.map_or(self.life, |limit| limit.min(self.life));
        let expires = now.checked_add(life);
        let weight = charge(key, 0);
        self.keys
            .insert(Tier::Main, key, (), weight, expires, stale);
    }

    pub(super) fn remove(&self, key: KeyRef<'_>) {
        self.keys.remove(key);
    }

    /// Sets how many bytes the absences may take from now on.
    pub(super) fn set_capacity(&self, bytes: usize) {
        self.keys.set_capacity(bytes, 0);
    }

    /// Drops absences until the others take no more than they may.
    pub(super) fn evict_excess(&self) {
        self.keys.evict_excess();
    }

    pub(super) fn clear(&self) {
        self.keys.clear();
    }

    pub(super) fn sweep(&self) {
        self.keys.sweep();
    }

    /// Whether there are absences that expire.
    pub(super) fn expires(&self) -> bool {
        self.keys.expires()
    }

    /// The memory of the absences beside their keys, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes()
    }

    pub(super) fn counts(&self) -> Counts {
        self.keys.counts()
    }
}
