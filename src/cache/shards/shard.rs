//! `Shard`: a lock around a [`Store`] and its counters.

use crate::cache::entry::{Tick, Tier};
use crate::cache::key::KeyRef;
use crate::cache::store::{EvictionCause, Gone, Store};
use crate::runtime::sync::{AtomicUsize, Mutex, Ordering};

/// Expired entries that leave while a shard is locked once.
pub(super) const SWEEP: usize = 32;

pub(super) struct Shard<V: 'static> {
    pub(super) state: Mutex<State<V>>,
    /// The bytes of main and hot, readable without the lock.
    bytes: [AtomicUsize; 2],
}

#[repr(C)] // for the same reason as `Policy`
pub(super) struct State<V: 'static> {
    pub(super) main_hits: u64,
    pub(super) store: Store<V>,
    pub(super) counts: Counts,
}

/// The events of a cache, and how much is in it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Zero in the counts of one shard, whose [`State`] has them.
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

impl<V> Shard<V> {
    pub(super) fn new(store: Store<V>) -> Shard<V> {
        Shard {
            state: Mutex::new(State {
                store,
                main_hits: 0,
                counts: Counts::default(),
            }),
            bytes: [AtomicUsize::new(0), AtomicUsize::new(0)],
        }
    }

    pub(super) fn bytes(&self, tier: Tier) -> usize {
        self.bytes[tier as usize].load(Ordering::Relaxed)
    }

    /// Makes the bytes of `store`, which is locked, readable without the lock.
    pub(super) fn publish(&self, store: &Store<V>) {
        for tier in [Tier::Main, Tier::Hot] {
            self.bytes[tier as usize].store(store.bytes(tier), Ordering::Relaxed);
        }
    }

    /// Takes out up to [`SWEEP`] entries that expired at `now` or before. Also gives the tick at which
    /// the next entry expires.
    pub(super) fn pop_some_expired(&self, now: Tick) -> (Vec<Gone<V>>, Tick) {
        let mut state = self.state.lock();
        let expired = std::iter::from_fn(|| state.pop_expired(self, now))
            .take(SWEEP)
            .collect();
        (expired, state.store.soonest_expiry().unwrap_or(Tick::MAX))
    }
}

impl<V> State<V> {
    /// Evicts an entry from `shard`, whose state this is.
    pub(super) fn evict(
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

    pub(super) fn pop_expired(&mut self, shard: &Shard<V>, now: Tick) -> Option<Gone<V>> {
        let gone = self.store.pop_expired(now)?;
        self.counts.expirations += 1;
        shard.publish(&self.store);
        Some(gone)
    }
}

impl Counts {
    /// Adds the events and the entries of a shard, whose bytes the budgets tell.
    pub(super) fn add<V>(&mut self, state: &State<V>) {
        self.main_hits += state.main_hits;
        self.hot_hits += state.counts.hot_hits;
        self.stale_hits += state.counts.stale_hits;
        self.stand_ins += state.counts.stand_ins;
        self.evictions += state.counts.evictions;
        self.rejections += state.counts.rejections;
        self.expirations += state.counts.expirations;
        self.main_items += state.store.len(Tier::Main);
        self.hot_items += state.store.len(Tier::Hot);
    }
}
