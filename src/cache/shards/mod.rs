//! `Cache<V>`: the main and hot values of a group, in shards, under one budget in bytes.
//!
//! A shard is a lock around a [`Store`]; the policy is there, the locking here. The budget is one
//! for all shards, so a value of half of it fits however many shards there are. Room is made before
//! a value is kept, so the bytes never exceed the budget, not even for a moment (I4).
//!
//! Values of the user's types are cloned and dropped, and whoever listens is told of them, after
//! unlocking and after their bytes are given back (I1), so all that may call the cache again. A hit
//! touches its shard and nothing else.

use std::time::{Duration, Instant};

use crate::cache::budget::Budget;
use crate::cache::entry::{
    Entry, Expiry, Life, MAX_WEIGHT, Stored, Tick, Tier, tick, ticks, whole_ticks,
};
use crate::cache::key::{KeyHasher, KeyRef};
use crate::cache::policy::Item;
use crate::cache::store::{EvictionCause, Gone, Seen, Store, Use};
use crate::runtime::clock::Clock;
use crate::runtime::sync::{
    Arc, AtomicBool, AtomicU64, AtomicUsize, CachePadded, Mutex, OnceLock, Ordering, processors,
    thread,
};
use crate::runtime::user_code;
use crate::value::Cacheable;

/// What an entry is charged on top of its key and its value, in bytes: its cell and its part of the
/// index, of what the policy remembers, and of what allocators round up.
pub const ENTRY_OVERHEAD: usize = 160;

/// The capacity for which there is one shard more: the policy of a shard wants some hundred entries.
const SHARD_BYTES: usize = 512 << 10;

/// Shards for each processor, at most, and in all.
const SHARDS_PER_PROCESSOR: usize = 16;
const MOST_SHARDS: usize = 256;

/// How much of its part a shard may lack and still make room itself.
const SLACK: usize = 16;

/// Expired entries that leave while a shard is locked once.
const SWEEP: usize = 32;

/// How deep the listener is told of values that left because of what it did itself when it was told
/// of others. One that makes another value leave each time would be told without end.
const MOST_DEPTH: usize = 3;

pub(crate) struct Cache<V: Cacheable> {
    /// Made when first used: an empty group costs next to nothing.
    shards: Vec<OnceLock<Box<CachePadded<Shard<V>>>>>,
    hasher: KeyHasher,
    clock: Clock,
    /// Main and hot together.
    total: Budget,
    /// Hot alone.
    hot: Budget,
    /// No entry leaves for its age before this tick.
    soonest_expiry: AtomicU64,
    start: Instant,
    grace: Grace,
    listener: Option<Listener<V>>,
}

/// What is told of values that leave.
pub(crate) type Listener<V> = Arc<dyn Fn(&str, &V, EvictionCause) + Send + Sync>;

/// How long past its expiry a value that this process owns still serves.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grace {
    /// While it is renewed.
    pub(crate) revalidate: Duration,
    /// If its load fails.
    pub(crate) if_error: Duration,
}

struct Shard<V: 'static> {
    state: Mutex<State<V>>,
    /// The bytes of main and hot, readable without the lock.
    bytes: [AtomicUsize; 2],
}

#[repr(C)] // as `Policy`
struct State<V: 'static> {
    main_hits: u64,
    store: Store<V>,
    counts: Counts,
}

/// What happened in a cache, and what is in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Of one shard: in its [`State`].
    pub(crate) main_hits: u64,
    pub(crate) hot_hits: u64,
    pub(crate) stale_hits: u64,
    pub(crate) stand_ins: u64,
    pub(crate) evictions: u64,
    pub(crate) rejections: u64,
    pub(crate) expirations: u64,
    pub(crate) main_items: usize,
    pub(crate) hot_items: usize,
    pub(crate) main_bytes: usize,
    pub(crate) hot_bytes: usize,
}

/// The hits in main of a shard, and what else happened there.
type Tally<'a> = (&'a mut u64, &'a mut Counts);

/// A value found in the cache.
#[derive(Debug)]
pub(crate) struct Found<V: 'static> {
    pub(crate) value: Stored<V>,
    pub(crate) tier: Tier,
    pub(crate) expires: Option<Instant>,
    /// Whether it is past its expiry, and is to be renewed.
    pub(crate) is_stale: bool,
    /// What it is charged for, in bytes.
    pub(crate) weight: usize,
}

/// What has left and is to be dropped. Mostly there is one.
struct Leaving<V: 'static> {
    first: Option<Gone<V>>,
    more: Vec<Gone<V>>,
}

impl<V: Cacheable> Cache<V> {
    /// `shards` of them, or as many as suit the capacity and the machine.
    pub(crate) fn new(
        capacity: usize,
        hot_capacity: usize,
        shards: Option<usize>,
        clock: Clock,
    ) -> Cache<V> {
        let shards = shards.map_or_else(|| shards_for(capacity), usize::next_power_of_two);
        let start = clock.now();
        Cache {
            shards: (0..shards).map(|_| OnceLock::new()).collect(),
            hasher: KeyHasher::new(),
            clock,
            total: Budget::new(capacity),
            hot: Budget::new(hot_capacity),
            soonest_expiry: AtomicU64::new(Tick::MAX),
            start,
            grace: Grace::default(),
            listener: None,
        }
    }

    pub(crate) fn with_grace(mut self, grace: Grace) -> Cache<V> {
        self.grace = grace;
        self
    }

    pub(crate) fn with_listener(mut self, listener: Option<Listener<V>>) -> Cache<V> {
        self.listener = listener;
        self
    }

    /// A key hashed by the other one is found in this one.
    pub(crate) fn with_hasher_of<T: Cacheable>(mut self, other: &Cache<T>) -> Cache<V> {
        self.hasher = other.hasher.clone();
        self
    }

    #[inline]
    pub(crate) fn hash<'a>(&self, key: &'a str) -> KeyRef<'a> {
        self.hasher.hash(key)
    }

    /// Whether a value of this weight can be kept in `place` at all.
    pub(crate) fn fits(&self, tier: Tier, weight: usize) -> bool {
        let budget = match tier {
            Tier::Main => &self.total,
            Tier::Hot => &self.hot,
        };
        weight <= budget.capacity.min(self.total.capacity).min(MAX_WEIGHT)
    }

    #[inline]
    fn shard(&self, key: KeyRef<'_>) -> &Shard<V> {
        self.shards[key.shard(self.shards.len())].get_or_init(|| {
            let grace = self.grace.revalidate.max(self.grace.if_error);
            Box::new(CachePadded::new(Shard::new(Store::new(whole_ticks(grace)))))
        })
    }

    fn made_shards(&self) -> impl Iterator<Item = &Shard<V>> {
        self.shards
            .iter()
            .filter_map(OnceLock::get)
            .map(|shard| &***shard)
    }

    /// Keeps a value, unless it is too large or `stale` is set; tells whether it is kept.
    ///
    /// The mark is looked at under the lock of the shard. One who invalidates sets it before taking
    /// that lock: either the value is kept before and removed by it, or it is not kept (P2).
    pub(crate) fn insert(
        &self,
        tier: Tier,
        key: KeyRef<'_>,
        value: impl Into<Stored<V>>,
        weight: usize,
        expires: Option<Instant>,
        stale: &AtomicBool,
    ) -> bool {
        let value = value.into(); // which drops as user code has to
        if !self.fits(tier, weight) {
            return false;
        }
        let expires = expires.map_or(Expiry::NEVER, |at| Expiry::at(tick(self.start, at)));
        let entry = Entry::new(key, value, weight, expires);
        let mut leaving = Leaving::new();
        let (kept, refused) = self.insert_entry(tier, key, entry, stale, &mut leaving);
        drop(refused);
        match (leaving.first, leaving.more) {
            (Some(gone), more) if more.is_empty() => self.dismiss(gone),
            (first, more) => self.dismiss_each(first.into_iter().chain(more).collect()),
        }
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
            let Err(lack) = self.take(tier, weight) else {
                break;
            };
            let is_time = self.may_have_expired();
            if !is_time && self.gives_way(shard, lack) {
                if let Some(gone) = state.evict(shard, lack, key, weight) {
                    self.release(gone.tier, gone.entry.weight());
                    leaving.push(gone);
                    continue;
                }
            }
            drop(state);
            self.make_room(lack, key, weight, leaving);
            state = shard.state.lock();
        }
        let drop_tick = state.store.drop_tick(tier, entry.expires);
        if let Some(tick) = drop_tick {
            self.soonest_expiry.fetch_min(tick, Ordering::Relaxed);
        }
        if let Some(replaced) = state.store.insert(tier, key, entry) {
            self.release(replaced.tier, replaced.entry.weight());
            leaving.push(replaced);
        }
        shard.publish(&state.store);
        (true, None)
    }

    /// Removes the value of `key`.
    pub(crate) fn remove(&self, key: KeyRef<'_>) {
        self.take_out(key, Store::remove);
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
            self.release(gone.tier, gone.entry.weight());
            self.dismiss(gone);
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
            self.release(Tier::Hot, weight);
            self.dismiss_each(removed);
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
            self.release(Tier::Main, removed.bytes(Tier::Main));
            self.release(Tier::Hot, removed.bytes(Tier::Hot));
            self.dismiss_all(removed, EvictionCause::Removed);
        }
    }

    /// Lets those go whose time is over. Never holds a lock for more than some dozens of them.
    pub(crate) fn sweep(&self) {
        if !self.may_have_expired() {
            return;
        }
        let now = self.now();
        // Whoever keeps an expiring value from now on lowers it again, as this does in the end.
        self.soonest_expiry.store(Tick::MAX, Ordering::Relaxed);
        let mut soonest = Tick::MAX;
        let mut shards: Vec<_> = self.made_shards().collect();
        // In turns, so that nobody who waits for one of them has to wait for all that goes there.
        while !shards.is_empty() {
            shards.retain(|shard| {
                let (expired, left) = shard.pop_expired(now);
                let is_done = expired.len() < SWEEP;
                // All of them first: user code that waits for room waits for nobody's bytes.
                let release = |gone: &Gone<V>| self.release(gone.tier, gone.entry.weight());
                expired.iter().for_each(release);
                self.dismiss_each(expired);
                if is_done {
                    soonest = soonest.min(left);
                }
                !is_done
            });
            thread::yield_now();
        }
        self.soonest_expiry.fetch_min(soonest, Ordering::Relaxed);
    }

    /// Whether nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.total.taken() == 0
    }

    /// Whether anything in here leaves for its age, now or later.
    pub(crate) fn expires(&self) -> bool {
        self.soonest_expiry.load(Ordering::Relaxed) != Tick::MAX
    }

    /// The `n` keys most asked for of late, with the number of requests, the most wanted first.
    pub(crate) fn hottest(&self, n: usize) -> Vec<(String, u64)> {
        let mut all: Vec<(u64, String)> = Vec::new();
        for shard in self.made_shards() {
            let state = shard.state.lock();
            let mut wanted: Vec<_> = state.store.requests().collect();
            wanted.sort_unstable_by(|a, b| b.1.total_cmp(&a.1));
            let wanted = wanted.into_iter().take(n);
            all.extend(wanted.map(|(entry, requests)| (requests as u64, entry.key().to_owned())));
        }
        all.sort_unstable_by(|a, b| b.cmp(a));
        all.truncate(n);
        all.into_iter()
            .map(|(requests, key)| (key, requests))
            .collect()
    }

    /// The bytes are those of the budget, which counts a value from before it is kept, so that they
    /// never seem more than they are while values move.
    pub(crate) fn counts(&self) -> Counts {
        let hot_bytes = self.hot.taken();
        let total_bytes = self.total.taken();
        let counts = Counts {
            main_bytes: total_bytes.saturating_sub(hot_bytes),
            hot_bytes: hot_bytes.min(total_bytes),
            ..Counts::default()
        };
        self.made_shards().fold(counts, |mut sum, shard| {
            let state = shard.state.lock();
            sum.main_hits += state.main_hits;
            sum.hot_hits += state.counts.hot_hits;
            sum.stale_hits += state.counts.stale_hits;
            sum.stand_ins += state.counts.stand_ins;
            sum.evictions += state.counts.evictions;
            sum.rejections += state.counts.rejections;
            sum.expirations += state.counts.expirations;
            sum.main_items += state.store.len(Tier::Main);
            sum.hot_items += state.store.len(Tier::Hot);
            sum
        })
    }

    /// What it takes beside its entries, in bytes. An entry is charged for its part of the tables.
    pub(crate) fn heap_bytes(&self) -> usize {
        let made = self.made_shards().count();
        self.shards.capacity() * size_of::<OnceLock<Box<Shard<V>>>>()
            + made * size_of::<CachePadded<Shard<V>>>()
    }

    /// Takes `weight` off the budgets, or says which of them lacks it.
    fn take(&self, tier: Tier, weight: usize) -> Result<(), Tier> {
        if tier == Tier::Hot && !self.hot.try_take(weight) {
            return Err(Tier::Hot);
        }
        if self.total.try_take(weight) {
            return Ok(());
        }
        if tier == Tier::Hot {
            self.hot.give_back(weight);
        }
        Err(Tier::Main)
    }

    fn release(&self, tier: Tier, weight: usize) {
        if tier == Tier::Hot {
            self.hot.give_back(weight);
        }
        self.total.give_back(weight);
    }

    /// Whether this shard holds about its part of `place`, and so makes room for its own values.
    fn gives_way(&self, shard: &Shard<V>, tier: Tier) -> bool {
        let held = shard.bytes(tier);
        let mean = self.held(tier) / self.shards.len();
        held > 0 && held >= mean - mean / SLACK
    }

    fn held(&self, tier: Tier) -> usize {
        let hot = self.hot.taken();
        match tier {
            Tier::Main => self.total.taken().saturating_sub(hot),
            Tier::Hot => hot,
        }
    }

    /// Lets something go, of what has expired if there is any, else where there is most of it.
    ///
    /// If nothing is left to evict, the room is held by threads that took it and have not kept
    /// their value yet. They wait for nobody, so this ends.
    fn make_room(&self, lack: Tier, key: KeyRef<'_>, weight: usize, leaving: &mut Leaving<V>) {
        let gone = self.evict_expired().or_else(|| {
            let places: &[Tier] = match lack {
                Tier::Main => &[Tier::Main, Tier::Hot],
                Tier::Hot => &[Tier::Hot],
            };
            places
                .iter()
                .find_map(|&tier| self.evict_anywhere(tier, key, weight))
        });
        match gone {
            Some(gone) => {
                self.release(gone.tier, gone.entry.weight());
                leaving.push(gone);
            }
            None => thread::yield_now(),
        }
    }

    /// Evicts from a shard that holds more than its part.
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
        if !self.may_have_expired() {
            return None;
        }
        let now = self.now();
        // Whoever keeps an expiring value from now on lowers it again, as this does in the end.
        let noted = self.soonest_expiry.swap(Tick::MAX, Ordering::Relaxed);
        let mut left = Tick::MAX;
        let expired = self.made_shards().find_map(|shard| {
            let mut state = shard.state.lock();
            let expired = state.pop_expired(shard, now);
            left = left.min(state.store.soonest_expiry().unwrap_or(Tick::MAX));
            expired
        });
        let next = if expired.is_some() { noted } else { left };
        self.soonest_expiry.fetch_min(next, Ordering::Relaxed);
        expired
    }

    fn may_have_expired(&self) -> bool {
        let soonest = self.soonest_expiry.load(Ordering::Relaxed);
        soonest != Tick::MAX && soonest <= self.now()
    }

    fn now(&self) -> Tick {
        tick(self.start, self.clock.now())
    }

    fn instant(&self, expires: Expiry) -> Option<Instant> {
        Some(self.start + ticks(expires.tick()?))
    }

    /// Lets all that was in a store go.
    fn dismiss_all(&self, store: Store<V>, cause: EvictionCause) {
        if self.listener.is_none() {
            drop(store);
            return;
        }
        let gone = store
            .into_entries()
            .map(move |(entry, tier)| Gone { entry, tier, cause });
        self.dismiss_each(gone.collect());
    }

    /// As [`dismiss`](Cache::dismiss), of many at once: that is one thing to do later, however many
    /// there are.
    fn dismiss_each(&self, gone: Vec<Gone<V>>) {
        match &self.listener {
            Some(listener) if user_code::depth() < MOST_DEPTH => {
                let listener = Arc::clone(listener);
                user_code::defer(move || gone.into_iter().for_each(|gone| tell(&*listener, &gone)));
            }
            _ => gone.into_iter().for_each(|gone| self.dismiss(gone)),
        }
    }

    /// Lets a value go that has left, and whose bytes are given back: the listener is told of it, and
    /// it is dropped, once this thread is done with what it does.
    fn dismiss(&self, gone: Gone<V>) {
        match &self.listener {
            Some(listener) if user_code::depth() < MOST_DEPTH => {
                let listener = Arc::clone(listener);
                user_code::defer(move || tell(&*listener, &gone));
            }
            None if gone.entry.value.is_ours() => drop(gone),
            _ => user_code::defer_drop(gone),
        }
    }
}

/// Tells the listener of a value that has left.
fn tell<V: Cacheable>(listener: &(dyn Fn(&str, &V, EvictionCause) + Send + Sync), gone: &Gone<V>) {
    if let Some(value) = gone.entry.value.get() {
        let told = user_code::call(|| listener(gone.entry.key(), value, gone.cause));
        if let Err(panicked) = told {
            user_code::report(
                "an eviction listener panicked; the cache goes on",
                &panicked,
            );
        }
    }
}

impl<V: Cacheable> Drop for Cache<V> {
    fn drop(&mut self) {
        if self.listener.is_none() {
            return; // each value drops by itself
        }
        let shards = std::mem::take(&mut self.shards);
        for shard in shards.into_iter().filter_map(OnceLock::into_inner) {
            let removed = shard.state.lock().store.take_all();
            self.dismiss_all(removed, EvictionCause::GroupEnded);
        }
    }
}

/// How many shards suit a capacity on this machine.
fn shards_for(capacity: usize) -> usize {
    let most = (SHARDS_PER_PROCESSOR * processors()).clamp(1, MOST_SHARDS);
    let shards = (capacity / SHARD_BYTES).clamp(1, most);
    // The power of two that is not more.
    1 << shards.ilog2()
}

#[cfg(test)]
impl<V: Cacheable> Cache<V> {
    /// Recomputes every counter and compares; nothing may be under way.
    fn validate(&self) {
        let mut sums = [0; 2];
        for shard in self.made_shards() {
            let state = shard.state.lock();
            state.store.validate();
            for tier in [Tier::Main, Tier::Hot] {
                assert_eq!(shard.bytes(tier), state.store.bytes(tier), "{tier:?}");
                sums[tier as usize] += state.store.bytes(tier);
            }
            let soonest = self.soonest_expiry.load(Ordering::Relaxed);
            let expiry = state.store.soonest_expiry();
            assert!(expiry.is_none_or(|expires| soonest <= expires));
        }
        let [main, hot] = sums;
        assert_eq!(self.hot.taken(), hot, "I4");
        assert_eq!(self.total.taken(), main + hot, "I4");
        assert!(hot <= self.hot.capacity && main + hot <= self.total.capacity);
        let counts = self.counts();
        assert_eq!((counts.main_bytes, counts.hot_bytes), (main, hot));
    }
}

impl<V: Cacheable> Cache<V> {
    /// The value of `key` in main, if it is not past its expiry.
    ///
    /// This is the path of most hits: one lock, and nothing is moved but the value. Whoever finds
    /// nothing here asks [`get`](Cache::get).
    #[inline]
    pub(crate) fn get_main(&self, key: KeyRef<'_>) -> Option<Stored<V>> {
        let shard = self.shards[key.shard(self.shards.len())].get()?;
        let mut state = shard.state.lock();
        let State {
            main_hits, store, ..
        } = &mut *state;
        let entry = store.get_fresh(key, || self.now())?;
        *main_hits += 1;
        entry.count_hit(*main_hits);
        Some(entry.value.clone())
    }

    /// Looks `key` up for a local caller. If there is nothing: how many hits a copy had that expired
    /// just now, which its owner does not know of.
    pub(crate) fn get(&self, key: KeyRef<'_>) -> Result<Found<V>, u32> {
        let found = self.look(
            key,
            Use::Counts,
            |(main_hits, counts), tier, entry, life| {
                if !self.serves(life) {
                    return Err(0);
                }
                let hits = match tier {
                    Tier::Main => main_hits,
                    Tier::Hot => &mut counts.hot_hits,
                };
                *hits += 1;
                entry.count_hit(*hits);
                if life != Life::Fresh {
                    counts.stale_hits += 1;
                }
                Ok(self.found(tier, entry, life))
            },
        );
        found.and_then(|found| found)
    }

    /// Whether a value is given out without waiting for another.
    fn serves(&self, life: Life) -> bool {
        match life {
            Life::Fresh => true,
            Life::Stale(since) => ticks(since) < self.grace.revalidate,
            Life::Over => false,
        }
    }

    /// Looks `key` up once more for one who has just begun to lead. Counts for nothing.
    pub(crate) fn recheck(&self, key: KeyRef<'_>) -> Option<Found<V>> {
        let found = self.look(key, Use::Peeks, |_, tier, entry, life| {
            (life == Life::Fresh).then(|| self.found(tier, entry, life))
        });
        found.ok().flatten()
    }

    /// A value past its expiry that may stand in for a load that failed.
    pub(crate) fn stand_in(&self, key: KeyRef<'_>) -> Option<Found<V>> {
        let if_error = self.grace.if_error;
        if if_error.is_zero() {
            return None;
        }
        let found = self.look(
            key,
            Use::Peeks,
            |(_, counts), tier, entry, life| match life {
                Life::Stale(since) if ticks(since) < if_error => {
                    counts.stand_ins += 1;
                    Some(self.found(tier, entry, life))
                }
                _ => None,
            },
        );
        found.ok().flatten()
    }

    /// Looks `key` up for a peer that had `hits` of its own since it last asked; also gives the
    /// rate of requests from the whole cluster.
    pub(crate) fn answer(&self, key: KeyRef<'_>, hits: u32) -> Option<(Found<V>, f64)> {
        let now = self.clock.now();
        let read = |_: Tally<'_>, tier, entry: &mut Entry<V>, life| {
            if !self.serves(life) {
                return None;
            }
            let fresh = std::mem::take(&mut entry.hits)
                .saturating_add(hits)
                .saturating_add(1);
            Some((self.found(tier, entry, life), fresh))
        };
        let measure = |store: &mut Store<V>, found: Option<(Found<V>, u32)>| {
            let (found, fresh) = found?;
            let rate = store.rate(key, found.tier, fresh, now);
            Some((found, rate))
        };
        self.look_and(key, Use::Counts, read, measure).ok()?
    }

    /// Reads what is kept of `key`. If that is nothing: how many hits a copy had that expired just
    /// now, which its owner does not know of.
    fn look<R>(
        &self,
        key: KeyRef<'_>,
        counts: Use,
        read: impl FnOnce(Tally<'_>, Tier, &mut Entry<V>, Life) -> R,
    ) -> Result<R, u32> {
        self.look_and(key, counts, read, |_, found| found)
    }

    /// As [`look`](Cache::look); `then` goes on while the shard is still locked.
    fn look_and<R, T>(
        &self,
        key: KeyRef<'_>,
        counts: Use,
        read: impl FnOnce(Tally<'_>, Tier, &mut Entry<V>, Life) -> R,
        then: impl FnOnce(&mut Store<V>, R) -> T,
    ) -> Result<T, u32> {
        let shard = self.shards[key.shard(self.shards.len())]
            .get()
            .ok_or(0_u32)?;
        let mut state = shard.state.lock();
        let State {
            main_hits,
            store,
            counts: all,
        } = &mut *state;
        let seen = store.get(
            key,
            counts,
            || self.now(),
            |tier, entry, life| read((main_hits, all), tier, entry, life),
        );
        match seen {
            Seen::Kept(found) => Ok(then(store, found)),
            Seen::Nothing => Err(0),
            Seen::Expired(gone) => {
                all.expirations += 1;
                shard.publish(&state.store);
                drop(state);
                Err(self.account_for(gone))
            }
        }
    }

    /// Accounts for an entry that has expired and left; gives the hits nobody knows of.
    #[cold]
    fn account_for(&self, gone: Gone<V>) -> u32 {
        self.release(gone.tier, gone.entry.weight());
        let unreported = match gone.tier {
            Tier::Main => 0,
            Tier::Hot => gone.entry.hits,
        };
        self.dismiss(gone);
        unreported
    }

    fn found(&self, tier: Tier, entry: &Entry<V>, life: Life) -> Found<V> {
        Found {
            value: entry.value.clone(),
            tier,
            expires: self.instant(entry.expires),
            is_stale: life != Life::Fresh,
            weight: entry.weight(),
        }
    }
}

impl<V> Shard<V> {
    fn new(store: Store<V>) -> Shard<V> {
        Shard {
            state: Mutex::new(State {
                store,
                main_hits: 0,
                counts: Counts::default(),
            }),
            bytes: [AtomicUsize::new(0), AtomicUsize::new(0)],
        }
    }

    fn bytes(&self, tier: Tier) -> usize {
        self.bytes[tier as usize].load(Ordering::Relaxed)
    }

    fn publish(&self, store: &Store<V>) {
        for tier in [Tier::Main, Tier::Hot] {
            self.bytes[tier as usize].store(store.bytes(tier), Ordering::Relaxed);
        }
    }

    /// Takes out some of those that expired at `now` or before; also says when the next one does.
    fn pop_expired(&self, now: Tick) -> (Vec<Gone<V>>, Tick) {
        let mut state = self.state.lock();
        let expired = std::iter::from_fn(|| state.pop_expired(self, now))
            .take(SWEEP)
            .collect();
        (expired, state.store.soonest_expiry().unwrap_or(Tick::MAX))
    }
}

impl<V> State<V> {
    /// Takes an entry out of `shard`, whose state this is.
    fn evict(
        &mut self,
        shard: &Shard<V>,
        tier: Tier,
        key: KeyRef<'_>,
        weight: usize,
    ) -> Option<Gone<V>> {
        let gone = self.store.evict(tier, key, weight)?;
        self.counts.evictions += 1;
        if gone.cause == EvictionCause::Rejected {
            self.counts.rejections += 1;
        }
        shard.publish(&self.store);
        Some(gone)
    }

    fn pop_expired(&mut self, shard: &Shard<V>, now: Tick) -> Option<Gone<V>> {
        let gone = self.store.pop_expired(now)?;
        self.counts.expirations += 1;
        shard.publish(&self.store);
        Some(gone)
    }
}

impl<V> Leaving<V> {
    fn new() -> Leaving<V> {
        Leaving {
            first: None,
            more: Vec::new(),
        }
    }

    fn push(&mut self, gone: Gone<V>) {
        match self.first {
            None => self.first = Some(gone),
            Some(_) => self.more.push(gone),
        }
    }
}

#[cfg(test)]
mod tests;
