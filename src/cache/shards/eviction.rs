//! Eviction: which entry of which shard makes room for a new one.

use super::cache::Cache;
use super::departures::Leaving;
use super::shard::Shard;
use crate::cache::entry::{Tick, Tier};
use crate::cache::key::KeyRef;
use crate::cache::policy::Item;
use crate::cache::store::Gone;
use crate::runtime::sync::thread;
use crate::value::Cacheable;

/// A shard that holds less than its share by no more than this part of it still evicts its own
/// entries.
const SLACK: usize = 16;

impl<V: Cacheable> Cache<V> {
    /// Whether this shard holds about its share of `tier`, and so evicts its own entries.
    pub(super) fn evicts_its_own(&self, shard: &Shard<V>, tier: Tier) -> bool {
        let held = shard.bytes(tier);
        let mean = self.budgets.taken(tier) / self.shards.len();
        held > 0 && held >= mean - mean / SLACK
    }

    /// Takes out an entry: an expired one if there is any, otherwise one of a shard that holds more
    /// than its share. `full` is the tier whose budget is used up.
    ///
    /// If nothing is left to evict, other threads have taken the bytes and have not stored their
    /// values yet. They wait for nobody, so the caller's repeated attempts come to an end.
    pub(super) fn make_room(
        &self,
        full: Tier,
        key: KeyRef<'_>,
        weight: usize,
        leaving: &mut Leaving<V>,
    ) {
        let gone = self.evict_expired().or_else(|| {
            let tiers: &[Tier] = match full {
                Tier::Main => &[Tier::Main, Tier::Hot],
                Tier::Hot => &[Tier::Hot],
            };
            tiers
                .iter()
                .find_map(|&tier| self.evict_anywhere(tier, key, weight))
        });
        match gone {
            Some(gone) => {
                self.budgets.give_back(gone.tier, gone.entry.weight());
                leaving.push(gone);
            }
            None => thread::yield_now(),
        }
    }

    /// Evicts from a shard that holds at least its share.
    fn evict_anywhere(&self, tier: Tier, key: KeyRef<'_>, weight: usize) -> Option<Gone<V>> {
        let home = key.shard(self.shards.len());
        let shards = || {
            (0..self.shards.len())
                .filter_map(|step| self.shards[(home + step) % self.shards.len()].get())
        };
        let held: usize = shards().map(|shard| shard.bytes(tier)).sum();
        let mean = held / self.shards.len();
        let shard = shards().find(|shard| shard.bytes(tier) >= mean.max(1))?;
        let mut state = shard.state.lock();
        state.evict(shard, tier, key, weight)
    }

    /// Takes out an entry that has expired, if there may be one.
    fn evict_expired(&self) -> Option<Gone<V>> {
        if !self.time.may_have_expired() {
            return None;
        }
        let now = self.time.now();
        let noted = self.time.begin_search();
        let mut left = Tick::MAX;
        let expired = self.made_shards().find_map(|shard| {
            let mut state = shard.state.lock();
            let expired = state.pop_expired(shard, now);
            left = left.min(state.store.soonest_expiry().unwrap_or(Tick::MAX));
            expired
        });
        self.time.note(if expired.is_some() { noted } else { left });
        expired
    }
}
