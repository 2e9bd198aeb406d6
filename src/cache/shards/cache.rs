//! `Cache<V>`: the values of a group, in shards, under one budget in bytes.

use std::time::{Duration, Instant};

use super::departures::{Departures, Leaving, Listener};
use super::expiry_clock::ExpiryClock;
use super::shard::{Counts, SWEEP, Shard};
use crate::cache::budget::Budgets;
use crate::cache::entry::{Entry, Expiry, Stored, Tick, Tier, whole_ticks};
use crate::cache::key::{KeyHasher, KeyRef};
use crate::cache::policy::Item;
use crate::cache::store::{EvictionCause, Gone, Store};
use crate::runtime::clock::Clock;
use crate::runtime::sync::{AtomicBool, CachePadded, OnceLock, Ordering, processors, thread};
use crate::value::{Cacheable, Value};

/// What an entry is charged on top of its key and its value, in bytes: its cell and its share of the
/// index, of what the policy remembers, and of what allocators round up.
pub const ENTRY_OVERHEAD: usize = 160;

const _: () = assert!(
    size_of::<Entry<Value>>() < ENTRY_OVERHEAD,
    "the charge covers the entry itself"
);

/// The capacity for which there is one shard more: the policy of a shard needs some hundred entries.
const SHARD_BYTES: usize = 512 << 10;

/// The most shards for each processor, and in all.
const SHARDS_PER_PROCESSOR: usize = 16;
const MAX_SHARDS: usize = 256;

const _: () = assert!(MAX_SHARDS.is_power_of_two());

pub(crate) struct Cache<V: Cacheable> {
    /// Each made when first used: an empty group costs next to nothing.
    pub(super) shards: Vec<OnceLock<Box<CachePadded<Shard<V>>>>>,
    hasher: KeyHasher,
    pub(super) budgets: Budgets,
    pub(super) time: ExpiryClock,
    pub(super) grace: Grace,
    pub(super) departures: Departures<V>,
}

/// A key in memory.
pub(crate) struct HotKey {
    pub(crate) key: String,
    /// Its requests over about the last minute.
    pub(crate) requests: u64,
    /// What its entry is charged, in bytes.
    pub(crate) weight: usize,
}

/// How long past its expiry a value that this process owns still serves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grace {
    /// While a load renews it.
    pub(crate) revalidate: Duration,
    /// If its load fails.
    pub(crate) if_error: Duration,
}

impl<V: Cacheable> Cache<V> {
    /// A cache of `capacity` bytes, of which hot values take at most `hot_capacity`. It has `shards`
    /// shards, rounded up to a power of two, or as many as suit the capacity and the machine.
    pub(crate) fn new(
        capacity: usize,
        hot_capacity: usize,
        shards: Option<usize>,
        clock: Clock,
    ) -> Cache<V> {
        let shards = shards.map_or_else(|| shards_for(capacity), usize::next_power_of_two);
        debug_assert!(shards.is_power_of_two());
        Cache {
            shards: (0..shards).map(|_| OnceLock::new()).collect(),
            hasher: KeyHasher::new(),
            budgets: Budgets::new(capacity, hot_capacity),
            time: ExpiryClock::new(clock),
            grace: Grace::default(),
            departures: Departures::new(None),
        }
    }

    pub(crate) fn with_grace(mut self, grace: Grace) -> Cache<V> {
        self.grace = grace;
        self
    }

    pub(crate) fn with_listener(mut self, listener: Option<Listener<V>>) -> Cache<V> {
        self.departures = Departures::new(listener);
        self
    }

    /// Gives this cache the hasher of `other`: a key that `other` has hashed is found here too.
    pub(crate) fn with_hasher_of<T: Cacheable>(mut self, other: &Cache<T>) -> Cache<V> {
        self.hasher = other.hasher.clone();
        self
    }

    #[inline]
    pub(crate) fn hash<'a>(&self, key: &'a str) -> KeyRef<'a> {
        self.hasher.hash(key)
    }

    /// Whether a value of this weight can be kept in `tier` at all.
    pub(crate) fn fits(&self, tier: Tier, weight: usize) -> bool {
        self.budgets.fits(tier, weight)
    }

    #[inline]
    fn shard(&self, key: KeyRef<'_>) -> &Shard<V> {
        self.shards[key.shard(self.shards.len())].get_or_init(|| {
            let grace = self.grace.revalidate.max(self.grace.if_error);
            Box::new(CachePadded::new(Shard::new(Store::new(whole_ticks(grace)))))
        })
    }

    pub(super) fn made_shards(&self) -> impl Iterator<Item = &Shard<V>> {
        self.shards
            .iter()
            .filter_map(OnceLock::get)
            .map(|shard| &***shard)
    }

    /// Keeps a value, unless it is too large or `stale` is set; tells whether it is kept. A copy of a value
    /// that main has already is not kept either: a deputy that was handed the value while it fetched it would
    /// lack it when the owner is lost.
    ///
    /// The mark is read under the lock of the shard. An invalidation sets it before it takes that
    /// lock: either the value is kept before and the invalidation removes it, or it is not kept (P2).
    pub(crate) fn insert(
        &self,
        tier: Tier,
        key: KeyRef<'_>,
        value: impl Into<Stored<V>>,
        weight: usize,
        expires: Option<Instant>,
        stale: &AtomicBool,
    ) -> bool {
        let value = value.into(); // from here on its drop is deferred
        if !self.budgets.fits(tier, weight) {
            return false;
        }
        let expires = expires.map_or(Expiry::NEVER, |at| Expiry::at(self.time.tick(at)));
        let entry = Entry::new(key, value, weight, expires);
        let mut leaving = Leaving::new();
        let (kept, refused) = self.insert_entry(tier, key, entry, stale, &mut leaving);
        drop(refused);
        self.departures.dismiss_leaving(leaving);
        kept
    }

    /// Makes room and keeps `entry`, or gives it back.
    fn insert_entry(
        &self,
        tier: Tier,
        key: KeyRef<'_>,
        entry: Entry<V>,
        stale: &AtomicBool,
        leaving: &mut Leaving<V>,
    ) -> (bool, Option<Entry<V>>) {
        let weight = entry.weight();
        let shard = self.shard(key);
        let mut state = shard.state.lock();
        loop {
            if stale.load(Ordering::Acquire) {
                return (false, Some(entry));
            }
            if tier == Tier::Hot && state.store.is_fresh_in_main(key, || self.time.now()) {
                return (false, Some(entry));
            }
            let Err(full) = self.budgets.take(tier, weight) else {
                break;
            };
            if !self.budgets.fits(tier, weight) {
                return (false, Some(entry)); // the capacity has become too small
            }
            // Expired entries leave first.
            if !self.time.may_have_expired() && self.evicts_its_own(shard, full) {
                if let Some(gone) = state.evict(shard, full, key, weight) {
                    self.budgets.give_back(gone.tier, gone.entry.weight());
                    leaving.push(gone);
                    continue;
                }
            }
            drop(state);
            self.make_room(full, key, weight, leaving);
            state = shard.state.lock();
        }
        if let Some(tick) = state.store.drop_tick(tier, entry.expires) {
            self.time.note(tick);
        }
        for replaced in state.store.insert(tier, key, entry).into_iter().flatten() {
            self.budgets
                .give_back(replaced.tier, replaced.entry.weight());
            leaving.push(replaced);
        }
        shard.publish(&state.store);
        (true, None)
    }

    /// Sets how many bytes the values may take from now on. The number of shards stays. Where they take
    /// more already, [`evict_excess`](Cache::evict_excess) has to follow.
    pub(crate) fn set_capacity(&self, capacity: usize, hot_capacity: usize) {
        self.budgets.set_capacity(capacity, hot_capacity);
    }

    /// Evicts values until the others take no more than they may.
    pub(crate) fn evict_excess(&self) {
        let no_key = self.hash("");
        while let Some(exceeded) = self.budgets.exceeded() {
            let mut leaving = Leaving::new();
            self.make_room(exceeded, no_key, 0, &mut leaving);
            self.departures.dismiss_leaving(leaving);
        }
    }

    /// Removes the value of `key`.
    pub(crate) fn remove(&self, key: KeyRef<'_>) {
        self.take_out(key, Store::remove);
    }

    /// Removes the value of `key`, unless `stale` is set. The mark is read under the lock of the shard, as
    /// by [`insert`](Cache::insert): what was stored after it was set stays.
    pub(crate) fn remove_unless(&self, key: KeyRef<'_>, stale: &AtomicBool) {
        self.take_out(key, |store, key| match stale.load(Ordering::Acquire) {
            true => None,
            false => store.remove(key),
        });
    }

    /// Removes the copy of a value that another node owns.
    pub(crate) fn remove_copy(&self, key: KeyRef<'_>) {
        self.take_out(key, Store::remove_copy);
    }

    fn take_out(
        &self,
        key: KeyRef<'_>,
        take: impl FnOnce(&mut Store<V>, KeyRef<'_>) -> Option<Gone<V>>,
    ) {
        let shard = self.shard(key);
        let removed = {
            let mut state = shard.state.lock();
            let removed = take(&mut state.store, key);
            shard.publish(&state.store);
            removed
        };
        if let Some(gone) = removed {
            self.budgets.give_back(gone.tier, gone.entry.weight());
            self.departures.dismiss(gone);
        }
    }

    /// Removes all copies of values that other nodes own.
    pub(crate) fn clear_copies(&self) {
        for shard in self.made_shards() {
            let removed = {
                let mut state = shard.state.lock();
                let removed = state.store.take_copies();
                shard.publish(&state.store);
                removed
            };
            let weight = removed.iter().map(|gone| gone.entry.weight()).sum();
            self.budgets.give_back(Tier::Hot, weight);
            self.departures.dismiss_each(removed);
        }
    }

    /// Removes the values of those keys that `is_meant` returns true for.
    pub(crate) fn remove_where(&self, is_meant: impl Fn(&str) -> bool) {
        for shard in self.made_shards() {
            let keys: Vec<String> = shard.state.lock().store.keys().map(str::to_owned).collect();
            for key in keys.iter().filter(|key| is_meant(key)) {
                self.remove(self.hash(key));
            }
        }
    }

    /// Removes everything.
    pub(crate) fn clear(&self) {
        for shard in self.made_shards() {
            let removed = {
                let mut state = shard.state.lock();
                let removed = state.store.take_all();
                shard.publish(&state.store);
                removed
            };
            self.budgets
                .give_back(Tier::Main, removed.bytes(Tier::Main));
            self.budgets.give_back(Tier::Hot, removed.bytes(Tier::Hot));
            self.departures.dismiss_all(removed, EvictionCause::Removed);
        }
    }

    /// Drops the values whose time is over. Holds a lock for no more than some dozens of them.
    pub(crate) fn sweep(&self) {
        if !self.time.may_have_expired() {
            return;
        }
        let now = self.time.now();
        self.time.begin_search();
        let mut soonest = Tick::MAX;
        let mut shards: Vec<_> = self.made_shards().collect();
        // In turns: a thread that waits for a shard does not wait for all that expires there.
        while !shards.is_empty() {
            shards.retain(|shard| {
                let (expired, left) = shard.pop_some_expired(now);
                let is_done = expired.len() < SWEEP;
                // All bytes first: user code that makes room here finds what has already left.
                let release =
                    |gone: &Gone<V>| self.budgets.give_back(gone.tier, gone.entry.weight());
                expired.iter().for_each(release);
                self.departures.dismiss_each(expired);
                if is_done {
                    soonest = soonest.min(left);
                }
                !is_done
            });
            thread::yield_now();
        }
        self.time.note(soonest);
    }

    /// Whether nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.budgets.total_taken() == 0
    }

    /// Whether any value leaves for its age, now or later.
    pub(crate) fn expires(&self) -> bool {
        self.time.has_expiries()
    }

    /// The `n` keys with the most requests over about the last minute, the most requested first.
    pub(crate) fn hottest(&self, n: usize) -> Vec<HotKey> {
        self.hottest_of(n, n)
    }

    /// About the same, from few more than `n` keys: of each shard only twice its share of them is copied.
    pub(crate) fn about_hottest(&self, n: usize) -> Vec<HotKey> {
        self.hottest_of(n, 2 * n / self.shards.len() + 64)
    }

    fn hottest_of(&self, n: usize, of_shard: usize) -> Vec<HotKey> {
        let mut all: Vec<HotKey> = Vec::new();
        for shard in self.made_shards() {
            let state = shard.state.lock();
            let mut wanted: Vec<_> = state.store.requests().collect();
            if of_shard < wanted.len() {
                wanted.select_nth_unstable_by(of_shard, |a, b| b.1.total_cmp(&a.1));
                wanted.truncate(of_shard);
            }
            let wanted = wanted.into_iter();
            all.extend(wanted.map(|(entry, requests)| HotKey {
                key: entry.key().to_owned(),
                requests: requests as u64,
                weight: entry.weight(),
            }));
        }
        all.sort_unstable_by(|a, b| (b.requests, &b.key).cmp(&(a.requests, &a.key)));
        all.truncate(n);
        all
    }

    /// The sums over all shards. The bytes are those of the budgets, which count a value from before
    /// it is kept: while values move, the sum of both never exceeds the capacity.
    pub(crate) fn counts(&self) -> Counts {
        let hot_bytes = self.budgets.taken(Tier::Hot);
        let total_bytes = self.budgets.total_taken();
        let counts = Counts {
            main_bytes: total_bytes.saturating_sub(hot_bytes),
            hot_bytes: hot_bytes.min(total_bytes),
            ..Counts::default()
        };
        self.made_shards().fold(counts, |mut sum, shard| {
            sum.add(&shard.state.lock());
            sum
        })
    }

    /// The memory of the cache beside its entries, in bytes. An entry is charged for its share of the
    /// tables.
    pub(crate) fn heap_bytes(&self) -> usize {
        let made = self.made_shards().count();
        self.shards.capacity() * size_of::<OnceLock<Box<Shard<V>>>>()
            + made * size_of::<CachePadded<Shard<V>>>()
    }
}

impl<V: Cacheable> Drop for Cache<V> {
    fn drop(&mut self) {
        if !self.departures.has_listener() {
            return; // each value drops by itself
        }
        let shards = std::mem::take(&mut self.shards);
        for shard in shards.into_iter().filter_map(OnceLock::into_inner) {
            let removed = shard.state.lock().store.take_all();
            self.departures
                .dismiss_all(removed, EvictionCause::GroupEnded);
        }
    }
}

/// How many shards suit a capacity on this machine.
fn shards_for(capacity: usize) -> usize {
    let most = (SHARDS_PER_PROCESSOR * processors()).clamp(1, MAX_SHARDS);
    let shards = (capacity / SHARD_BYTES).clamp(1, most);
    // The power of two that is not more.
    1 << shards.ilog2()
}

#[cfg(test)]
impl<V: Cacheable> Cache<V> {
    /// Recomputes every counter and compares; nothing may be under way.
    pub(super) fn validate(&self) {
        let mut sums = [0; 2];
        for shard in self.made_shards() {
            let state = shard.state.lock();
            state.store.validate();
            for tier in [Tier::Main, Tier::Hot] {
                assert_eq!(shard.bytes(tier), state.store.bytes(tier), "{tier:?}");
                sums[tier as usize] += state.store.bytes(tier);
            }
            let expiry = state.store.soonest_expiry();
            assert!(expiry.is_none_or(|expires| self.time.soonest() <= expires));
        }
        let [main, hot] = sums;
        assert_eq!(self.budgets.taken(Tier::Hot), hot, "I4");
        assert_eq!(self.budgets.total_taken(), main + hot, "I4");
        assert!(self.budgets.are_kept());
        let counts = self.counts();
        assert_eq!((counts.main_bytes, counts.hot_bytes), (main, hot));
    }
}
