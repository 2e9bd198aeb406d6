//! `Lru`: what a shard keeps and what goes. Policy only: one thread, no lock, no foreign code.
//!
//! A shard holds the values this process owns (main) and the copies of popular values of others
//! (hot), each in the order of their last use. A key is in one of the two. Whatever leaves is
//! returned, so that the caller drops it after unlocking.

use std::collections::BTreeSet;
use std::time::Instant;

use lru::LruCache;

use crate::deadline::Clock;
use crate::hot::Rate;
use crate::key::{HandThrough, KeyRef};
use crate::sync::Arc;

/// Why a value is kept: this process owns it, or it is popular (or its owner is away).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Main,
    Hot,
}

/// A kept value.
#[derive(Debug)]
pub(crate) struct Entry<V> {
    pub(crate) value: V,
    /// What it is charged for, in bytes (I4).
    pub(crate) weight: usize,
    pub(crate) expires: Option<Instant>,
    pub(crate) rate: Rate,
}

impl<V> Entry<V> {
    pub(crate) fn new(value: V, weight: usize, expires: Option<Instant>) -> Entry<V> {
        Entry {
            value,
            weight,
            expires,
            rate: Rate::default(),
        }
    }

    #[inline]
    fn is_expired(&self, clock: &Clock) -> bool {
        self.expires.is_some_and(|expires| expires <= clock.now())
    }
}

#[derive(Debug)]
pub(crate) struct Lru<V> {
    main: List<V>,
    hot: List<V>,
    /// The hashes of all entries that expire, the soonest first.
    expiries: BTreeSet<(Instant, u64)>,
}

#[derive(Debug)]
struct List<V> {
    /// By the hash of the key, which is cheap to compare. A look-up compares the key itself too
    /// (P3); of two keys with the same 64 bits one at a time is kept, which is right and rare.
    entries: LruCache<u64, Named<V>, HandThrough>,
    bytes: usize,
}

/// An entry and the key it belongs to.
#[derive(Debug)]
struct Named<V> {
    key: Arc<str>,
    entry: Entry<V>,
}

/// What a look-up saw. If it was an expired entry, that has left.
pub(crate) enum Seen<V, R> {
    Kept(R),
    Expired(Place, Entry<V>),
    Nothing,
}

impl<V> Lru<V> {
    pub(crate) fn new() -> Lru<V> {
        Lru {
            main: List::new(),
            hot: List::new(),
            expiries: BTreeSet::new(),
        }
    }

    /// Reads the value of `key` and makes it the last used.
    #[inline]
    pub(crate) fn get<R>(
        &mut self,
        key: KeyRef<'_>,
        clock: &Clock,
        read: impl FnOnce(Place, &mut Entry<V>) -> R,
    ) -> Seen<V, R> {
        let (place, entry) = match self.main.find(key) {
            Some(entry) => (Place::Main, entry),
            None => match self.hot.find(key) {
                Some(entry) => (Place::Hot, entry),
                None => return Seen::Nothing,
            },
        };
        if !entry.is_expired(clock) {
            return Seen::Kept(read(place, entry));
        }
        match self.take(place, key.hash()) {
            Some(entry) => Seen::Expired(place, entry),
            None => Seen::Nothing,
        }
    }

    /// Keeps `entry`; returns the one it replaces.
    pub(crate) fn insert(
        &mut self,
        place: Place,
        key: KeyRef<'_>,
        entry: Entry<V>,
    ) -> Option<(Place, Entry<V>)> {
        let replaced = self.remove(key);
        if let Some(expires) = entry.expires {
            self.expiries.insert((expires, key.hash()));
        }
        let list = self.list_mut(place);
        list.bytes += entry.weight;
        let named = Named {
            key: Arc::from(key.text()),
            entry,
        };
        list.entries.put(key.hash(), named);
        replaced
    }

    /// Takes out the value of `key`, wherever it is.
    pub(crate) fn remove(&mut self, key: KeyRef<'_>) -> Option<(Place, Entry<V>)> {
        self.remove_hash(key.hash())
    }

    fn remove_hash(&mut self, hash: u64) -> Option<(Place, Entry<V>)> {
        [Place::Main, Place::Hot]
            .into_iter()
            .find_map(|place| self.take(place, hash).map(|entry| (place, entry)))
    }

    /// Takes out an entry that has expired by `now`, the longest expired first.
    pub(crate) fn pop_expired(&mut self, now: Instant) -> Option<(Place, Entry<V>)> {
        let &(expires, hash) = self.expiries.first()?;
        if expires > now {
            return None;
        }
        self.remove_hash(hash)
    }

    /// Takes out the least recently used entry of `place`.
    pub(crate) fn pop_least_used(&mut self, place: Place) -> Option<Entry<V>> {
        let list = self.list_mut(place);
        let (hash, Named { entry, .. }) = list.entries.pop_lru()?;
        list.bytes -= entry.weight;
        self.forget_expiry(hash, &entry);
        Some(entry)
    }

    /// When the first of the entries expires.
    pub(crate) fn soonest_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|&(expires, _)| expires)
    }

    pub(crate) fn bytes(&self, place: Place) -> usize {
        self.list(place).bytes
    }

    pub(crate) fn len(&self, place: Place) -> usize {
        self.list(place).entries.len()
    }

    #[cold]
    fn take(&mut self, place: Place, hash: u64) -> Option<Entry<V>> {
        let list = self.list_mut(place);
        let Named { entry, .. } = list.entries.pop(&hash)?;
        list.bytes -= entry.weight;
        self.forget_expiry(hash, &entry);
        Some(entry)
    }

    fn forget_expiry(&mut self, hash: u64, entry: &Entry<V>) {
        if let Some(expires) = entry.expires {
            self.expiries.remove(&(expires, hash));
        }
    }

    fn list(&self, place: Place) -> &List<V> {
        match place {
            Place::Main => &self.main,
            Place::Hot => &self.hot,
        }
    }

    fn list_mut(&mut self, place: Place) -> &mut List<V> {
        match place {
            Place::Main => &mut self.main,
            Place::Hot => &mut self.hot,
        }
    }

    /// How many entries have expired by `now`.
    #[cfg(test)]
    pub(crate) fn expired(&self, now: Instant) -> usize {
        let has_expired = |&&(expires, _): &&(Instant, u64)| expires <= now;
        self.expiries.iter().take_while(has_expired).count()
    }

    /// Recomputes every counter and compares.
    #[cfg(test)]
    pub(crate) fn validate(&self) {
        let mut expiring = 0;
        for place in [Place::Main, Place::Hot] {
            let list = self.list(place);
            let entries = || list.entries.iter();
            let weights: usize = entries().map(|(_, named)| named.entry.weight).sum();
            assert_eq!(list.bytes, weights, "I4 in {place:?}");
            for (&hash, named) in entries() {
                if let Some(expires) = named.entry.expires {
                    expiring += 1;
                    assert!(self.expiries.contains(&(expires, hash)));
                }
            }
        }
        assert_eq!(self.expiries.len(), expiring);
        for (hash, named) in &self.main.entries {
            let key = &named.key;
            assert!(!self.hot.entries.contains(hash), "{key:?} is kept twice");
        }
    }
}

impl<V> List<V> {
    #[inline]
    fn find(&mut self, key: KeyRef<'_>) -> Option<&mut Entry<V>> {
        let named = self.entries.get_mut(&key.hash())?;
        (*named.key == *key.text()).then_some(&mut named.entry)
    }

    fn new() -> List<V> {
        List {
            // Bounded by bytes, not by entries: the cache around it makes room.
            entries: LruCache::unbounded_with_hasher(HandThrough::default()),
            bytes: 0,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
