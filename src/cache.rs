//! `Cache<V>`: the main and hot values of a group, in shards, under one budget in bytes.
//!
//! A shard is a lock around an [`Lru`]; the policy is there, the locking here. The budget is one
//! for all shards, so a value of half of it fits however many shards there are. Room is made before
//! a value is kept, so the bytes never exceed the budget, not even for a moment (I4).
//!
//! Values are dropped after unlocking (I1). A hit touches its shard and nothing else.

use std::time::Instant;

use crate::deadline::Clock;
use crate::key::{KeyHasher, KeyRef};
use crate::lru::{Entry, Lru, Place, Seen};
use crate::sync::{
    AtomicBool, AtomicU64, AtomicUsize, CachePadded, Mutex, OnceLock, Ordering, thread,
};

/// What an entry is charged on top of its key and its value, in bytes: the list node, its place in
/// the table, the reference counts and the allocator's rounding.
pub const ENTRY_OVERHEAD: usize = 192;

pub(crate) struct Cache<V> {
    /// Made when first used: an empty group costs next to nothing.
    shards: Vec<OnceLock<CachePadded<Shard<V>>>>,
    hasher: KeyHasher,
    clock: Clock,
    /// Main and hot together.
    total: Budget,
    /// Hot alone.
    hot: Budget,
    /// No entry expires before this, in nanoseconds since `start`.
    soonest_expiry: AtomicU64,
    start: Instant,
}

struct Shard<V> {
    state: Mutex<State<V>>,
    /// The bytes of main and hot, readable without the lock.
    bytes: [AtomicUsize; 2],
}

struct State<V> {
    lru: Lru<V>,
    counts: Counts,
}

/// What happened in a cache, and what is in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) main_hits: u64,
    pub(crate) hot_hits: u64,
    pub(crate) evictions: u64,
    pub(crate) main_items: usize,
    pub(crate) hot_items: usize,
    pub(crate) main_bytes: usize,
    pub(crate) hot_bytes: usize,
}

/// A value found in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Found<V> {
    pub(crate) value: V,
    pub(crate) place: Place,
    pub(crate) expires: Option<Instant>,
}

/// What a local look-up found.
pub(crate) enum Lookup<V> {
    Hit(Found<V>),
    /// Nothing. A copy that expired just now had this many hits that its owner does not know of.
    Miss {
        unreported: u32,
    },
}

impl<V> Cache<V> {
    pub(crate) fn new(
        capacity: usize,
        hot_capacity: usize,
        shards: usize,
        clock: Clock,
    ) -> Cache<V> {
        let start = clock.now();
        Cache {
            shards: (0..shards.next_power_of_two())
                .map(|_| OnceLock::new())
                .collect(),
            hasher: KeyHasher::new(),
            clock,
            total: Budget::new(capacity),
            hot: Budget::new(hot_capacity),
            soonest_expiry: AtomicU64::new(u64::MAX),
            start,
        }
    }

    #[inline]
    pub(crate) fn hash<'a>(&self, key: &'a str) -> KeyRef<'a> {
        self.hasher.hash(key)
    }

    /// Whether a value of this weight can be kept in `place` at all.
    pub(crate) fn fits(&self, place: Place, weight: usize) -> bool {
        let budget = match place {
            Place::Main => &self.total,
            Place::Hot => &self.hot,
        };
        weight <= budget.capacity.min(self.total.capacity)
    }

    fn shard(&self, key: KeyRef<'_>) -> &Shard<V> {
        self.shards[key.shard(self.shards.len())].get_or_init(|| CachePadded::new(Shard::new()))
    }

    fn made_shards(&self) -> impl Iterator<Item = &Shard<V>> {
        self.shards
            .iter()
            .filter_map(OnceLock::get)
            .map(|shard| &**shard)
    }

    /// Keeps `entry`, unless it is too large or `stale` is set; tells whether it is kept.
    ///
    /// The mark is looked at under the lock of the shard. One who invalidates sets it before taking
    /// that lock: either the value is kept before and removed by it, or it is not kept (P2).
    pub(crate) fn insert(
        &self,
        place: Place,
        key: KeyRef<'_>,
        entry: Entry<V>,
        stale: &AtomicBool,
    ) -> bool {
        let weight = entry.weight;
        if !self.fits(place, weight) {
            return false;
        }
        let mut leaving = Vec::new();
        self.reserve(place, key, weight, &mut leaving);
        let refused = {
            let shard = self.shard(key);
            let mut state = shard.state.lock();
            if stale.load(Ordering::Acquire) {
                Some(entry)
            } else {
                if let Some(expires) = entry.expires {
                    self.note_expiry(expires);
                }
                if let Some((place, replaced)) = state.lru.insert(place, key, entry) {
                    self.release(place, replaced.weight);
                    leaving.push(replaced);
                }
                shard.publish(&state.lru);
                None
            }
        };
        if refused.is_some() {
            self.release(place, weight);
        }
        refused.is_none()
    }

    /// Removes the value of `key`.
    pub(crate) fn remove(&self, key: KeyRef<'_>) {
        let shard = self.shard(key);
        let removed = {
            let mut state = shard.state.lock();
            let removed = state.lru.remove(key);
            shard.publish(&state.lru);
            removed
        };
        if let Some((place, entry)) = removed {
            self.release(place, entry.weight);
        }
    }

    /// Removes everything.
    pub(crate) fn clear(&self) {
        for shard in self.made_shards() {
            let removed = {
                let mut state = shard.state.lock();
                let removed = std::mem::replace(&mut state.lru, Lru::new());
                shard.publish(&state.lru);
                removed
            };
            self.release(Place::Main, removed.bytes(Place::Main));
            self.release(Place::Hot, removed.bytes(Place::Hot));
        }
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
            sum.main_hits += state.counts.main_hits;
            sum.hot_hits += state.counts.hot_hits;
            sum.evictions += state.counts.evictions;
            sum.main_items += state.lru.len(Place::Main);
            sum.hot_items += state.lru.len(Place::Hot);
            sum
        })
    }

    /// Takes `weight` off the budgets, making room as long as there is none.
    ///
    /// If nothing is left to evict, the room is held by threads between this and `insert`, which
    /// wait for nobody: so this ends.
    fn reserve(&self, place: Place, key: KeyRef<'_>, weight: usize, leaving: &mut Vec<Entry<V>>) {
        if place == Place::Hot {
            while !self.hot.try_take(weight) {
                self.evict_or_yield(&[Place::Hot], key, leaving);
            }
        }
        while !self.total.try_take(weight) {
            self.evict_or_yield(&[Place::Main, Place::Hot], key, leaving);
        }
    }

    fn release(&self, place: Place, weight: usize) {
        if place == Place::Hot {
            self.hot.give_back(weight);
        }
        self.total.give_back(weight);
    }

    fn evict_or_yield(&self, places: &[Place], key: KeyRef<'_>, leaving: &mut Vec<Entry<V>>) {
        let evicted = self.evict_expired().or_else(|| {
            places
                .iter()
                .find_map(|&place| self.evict_least_used(place, key))
        });
        match evicted {
            Some((place, entry)) => {
                self.release(place, entry.weight);
                leaving.push(entry);
            }
            None => thread::yield_now(),
        }
    }

    fn evict_least_used(&self, place: Place, key: KeyRef<'_>) -> Option<(Place, Entry<V>)> {
        let home = key.shard(self.shards.len());
        let shards = || (0..self.shards.len()).map(|step| (home + step) % self.shards.len());
        let bytes = |index: &usize| {
            self.shards[*index]
                .get()
                .map_or(0, |shard| shard.bytes(place))
        };
        // The shard of the new value gives way if it holds its part. Else one that holds more.
        let held = shards()
            .map(|index| bytes(&index))
            .fold(0, usize::saturating_add);
        let mean = held / self.shards.len();
        let index = shards().find(|index| bytes(index) >= mean.max(1))?;
        let shard = self.shards[index].get()?;
        let entry = shard
            .state
            .lock()
            .evict(shard, |lru| lru.pop_least_used(place))?;
        Some((place, entry))
    }

    /// Takes out an entry that has expired, if there may be one.
    fn evict_expired(&self) -> Option<(Place, Entry<V>)> {
        let soonest = self.soonest_expiry.load(Ordering::Relaxed);
        if soonest == u64::MAX {
            return None;
        }
        let now = self.clock.now();
        if soonest > self.nanos(now) {
            return None;
        }
        // Whoever keeps an expiring value from now on lowers it again, as this does in the end.
        let noted = self.soonest_expiry.swap(u64::MAX, Ordering::Relaxed);
        let mut left = u64::MAX;
        let evicted = self.made_shards().find_map(|shard| {
            let mut state = shard.state.lock();
            let evicted = state.evict(shard, |lru| lru.pop_expired(now));
            let soonest = state.lru.soonest_expiry();
            left = left.min(soonest.map_or(u64::MAX, |expires| self.nanos(expires)));
            evicted
        });
        let next = if evicted.is_some() { noted } else { left };
        self.soonest_expiry.fetch_min(next, Ordering::Relaxed);
        evicted
    }

    fn note_expiry(&self, expires: Instant) {
        self.soonest_expiry
            .fetch_min(self.nanos(expires), Ordering::Relaxed);
    }

    fn nanos(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.start);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
impl<V> Cache<V> {
    /// Recomputes every counter and compares; nothing may be under way.
    fn validate(&self) {
        let mut sums = [0; 2];
        for shard in self.made_shards() {
            let state = shard.state.lock();
            state.lru.validate();
            for place in [Place::Main, Place::Hot] {
                assert_eq!(shard.bytes(place), state.lru.bytes(place), "{place:?}");
                sums[place as usize] += state.lru.bytes(place);
            }
            let soonest = self.soonest_expiry.load(Ordering::Relaxed);
            let expiry = state.lru.soonest_expiry();
            assert!(expiry.is_none_or(|expires| soonest <= self.nanos(expires)));
        }
        let [main, hot] = sums;
        assert_eq!(self.hot.taken(), hot, "I4");
        assert_eq!(self.total.taken(), main + hot, "I4");
        assert!(hot <= self.hot.capacity && main + hot <= self.total.capacity);
        let counts = self.counts();
        assert_eq!((counts.main_bytes, counts.hot_bytes), (main, hot));
    }
}

impl<V: Clone> Cache<V> {
    /// Looks `key` up for a local caller.
    #[inline]
    pub(crate) fn get(&self, key: KeyRef<'_>) -> Lookup<V> {
        let found = self.look(key, |counts, place, entry| {
            entry.rate.count(1);
            match place {
                Place::Main => counts.main_hits += 1,
                Place::Hot => counts.hot_hits += 1,
            }
            Found::of(place, entry)
        });
        match found {
            Ok(found) => Lookup::Hit(found),
            Err(unreported) => Lookup::Miss { unreported },
        }
    }

    /// Looks `key` up once more for one who has just begun to lead. Counts for nothing.
    pub(crate) fn recheck(&self, key: KeyRef<'_>) -> Option<Found<V>> {
        self.look(key, |_, place, entry| Found::of(place, entry))
            .ok()
    }

    /// Looks `key` up for a peer that had `hits` of its own since it last asked; also gives the
    /// rate of requests from the whole cluster.
    pub(crate) fn answer(&self, key: KeyRef<'_>, hits: u32) -> Option<(Found<V>, f64)> {
        let now = self.clock.now();
        let found = self.look(key, |_, place, entry| {
            entry.rate.count(hits.saturating_add(1));
            (Found::of(place, entry), entry.rate.per_second(now))
        });
        found.ok()
    }

    /// Reads what is kept of `key`. If that is nothing: how many hits a copy had that expired just
    /// now, which its owner does not know of.
    #[inline]
    fn look<R>(
        &self,
        key: KeyRef<'_>,
        read: impl FnOnce(&mut Counts, Place, &mut Entry<V>) -> R,
    ) -> Result<R, u32> {
        let shard = self.shards[key.shard(self.shards.len())]
            .get()
            .ok_or(0_u32)?;
        let mut state = shard.state.lock();
        let State { lru, counts } = &mut *state;
        match lru.get(key, &self.clock, |place, entry| read(counts, place, entry)) {
            Seen::Kept(found) => Ok(found),
            Seen::Nothing => Err(0),
            Seen::Expired(place, entry) => {
                shard.publish(&state.lru);
                drop(state);
                Err(self.expire(place, &entry))
            }
        }
    }

    /// Accounts for an entry that has expired and left; gives the hits nobody knows of.
    #[cold]
    fn expire(&self, place: Place, entry: &Entry<V>) -> u32 {
        self.release(place, entry.weight);
        match place {
            Place::Main => 0,
            Place::Hot => entry.rate.fresh(),
        }
    }
}

impl<V: Clone> Found<V> {
    #[inline]
    fn of(place: Place, entry: &Entry<V>) -> Found<V> {
        Found {
            value: entry.value.clone(),
            place,
            expires: entry.expires,
        }
    }
}

impl<V> Shard<V> {
    fn new() -> Shard<V> {
        Shard {
            state: Mutex::new(State {
                lru: Lru::new(),
                counts: Counts::default(),
            }),
            bytes: [AtomicUsize::new(0), AtomicUsize::new(0)],
        }
    }

    fn bytes(&self, place: Place) -> usize {
        self.bytes[place as usize].load(Ordering::Relaxed)
    }

    fn publish(&self, lru: &Lru<V>) {
        for place in [Place::Main, Place::Hot] {
            self.bytes[place as usize].store(lru.bytes(place), Ordering::Relaxed);
        }
    }
}

impl<V> State<V> {
    /// Takes an entry out of `shard`, whose state this is.
    fn evict<E>(
        &mut self,
        shard: &Shard<V>,
        pop: impl FnOnce(&mut Lru<V>) -> Option<E>,
    ) -> Option<E> {
        let evicted = pop(&mut self.lru)?;
        self.counts.evictions += 1;
        shard.publish(&self.lru);
        Some(evicted)
    }
}

/// Bytes that can be taken until none are left.
struct Budget {
    capacity: usize,
    taken: AtomicUsize,
}

impl Budget {
    fn new(capacity: usize) -> Budget {
        Budget {
            capacity,
            taken: AtomicUsize::new(0),
        }
    }

    fn try_take(&self, bytes: usize) -> bool {
        let take = |taken: usize| taken.checked_add(bytes).filter(|&sum| sum <= self.capacity);
        let relaxed = Ordering::Relaxed;
        self.taken.fetch_update(relaxed, relaxed, take).is_ok()
    }

    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
