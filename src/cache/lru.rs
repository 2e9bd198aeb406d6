//! `Lru`: copies of the values that other processes own, in the order of their last use.

use lru::LruCache;

use crate::cache::entry::Entry;
use crate::cache::key::{HandThrough, KeyRef};
use crate::cache::policy::Item;

#[derive(Debug)]
pub(crate) struct Lru<V: 'static> {
    /// By the hash of the key, which is cheap to compare. A look-up compares the key itself too (P3).
    /// Of two keys with the same 64 bits one at a time is kept, which is correct and rare. Made when
    /// first used: most groups of a node without peers never use it.
    entries: Option<LruCache<u64, Entry<V>, HandThrough>>,
    bytes: usize,
}

impl<V> Lru<V> {
    pub(crate) fn new() -> Lru<V> {
        Lru {
            entries: None,
            bytes: 0,
        }
    }

    /// The entry of `key`, which becomes the most recently used.
    pub(crate) fn get(&mut self, key: KeyRef<'_>) -> Option<&mut Entry<V>> {
        self.entries
            .as_mut()?
            .get_mut(&key.hash())
            .filter(|entry| entry.is(key))
    }

    /// Inserts an entry; gives back the one it replaces.
    pub(crate) fn insert(&mut self, hash: u64, entry: Entry<V>) -> Option<Entry<V>> {
        self.bytes += entry.weight();
        // Not bounded by entries: the cache bounds the bytes and makes room.
        let entries = self
            .entries
            .get_or_insert_with(|| LruCache::unbounded_with_hasher(HandThrough::default()));
        let replaced = entries.put(hash, entry)?;
        self.bytes -= replaced.weight();
        Some(replaced)
    }

    pub(crate) fn remove(&mut self, hash: u64) -> Option<Entry<V>> {
        let entry = self.entries.as_mut()?.pop(&hash)?;
        self.bytes -= entry.weight();
        Some(entry)
    }

    /// Takes out the least recently used entry.
    pub(crate) fn evict(&mut self) -> Option<(u64, Entry<V>)> {
        let (hash, entry) = self.entries.as_mut()?.pop_lru()?;
        self.bytes -= entry.weight();
        debug_assert!(self.len() > 0 || self.bytes == 0, "I4");
        Some((hash, entry))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (u64, &Entry<V>)> {
        let entries = self.entries.iter().flat_map(LruCache::iter);
        entries.map(|(&hash, entry)| (hash, entry))
    }

    pub(crate) fn into_entries(mut self) -> impl Iterator<Item = Entry<V>> {
        std::iter::from_fn(move || Some(self.evict()?.1))
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.as_ref().map_or(0, LruCache::len)
    }
}
