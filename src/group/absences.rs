//! `Absences`: the keys that have no value, kept for a while ("negative caching", as RFC 2308 has it
//! for names).
//!
//! They are kept where the loader has said so, and nowhere else: a peer that asks the owner is told,
//! but does not keep it.

use std::time::{Duration, Instant};

use super::charge;
use crate::cache::entry::Tier;
use crate::cache::key::KeyRef;
use crate::cache::shards::{Cache, Counts};
use crate::runtime::clock::Clock;
use crate::runtime::sync::AtomicBool;
use crate::value::Cacheable;

/// The part of a group's capacity that they take, if they are kept at all.
const SHARE: usize = 16;

/// The bytes that absences take of a group's capacity.
pub(super) fn share_of(capacity: usize) -> usize {
    capacity / SHARE
}

pub(super) struct Absences {
    keys: Cache<()>,
    life: Duration,
}

impl Absences {
    /// Those of the group that keeps its values in `values`.
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

    /// As [`hit`](Absences::hit), for one who has asked before.
    pub(super) fn recheck(&self, key: KeyRef<'_>) -> bool {
        self.keys.recheck(key).is_some()
    }

    /// Keeps that `key` has no value, no longer than `limit`, unless `stale` is set.
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

    /// What they take beside their keys, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.keys.heap_bytes()
    }

    pub(super) fn counts(&self) -> Counts {
        self.keys.counts()
    }
}
