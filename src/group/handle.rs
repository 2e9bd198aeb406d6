//! `Group`: the handle of a group, and its gets.

use std::fmt;
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::outcome::Outcome;
use super::shared::Shared;
use crate::error::Error;
use crate::runtime::clock::Deadline;
use crate::runtime::sync::Arc;
use crate::runtime::user_code;
use crate::stats::GroupStats;
use crate::stats::latency::Latencies;
use crate::value::{Cacheable, Value};

/// A named cache with a loader, shared by all nodes that have a group of this name.
///
/// Built by [`Node::group_builder`](crate::Node::group_builder). A clone is another handle to the
/// same group, `Send` and `Sync`; all methods take `&self` and may be called from any thread, also
/// from inside a loader.
///
/// ```
/// use groupcache_sync::{Group, Node, Value};
///
/// let node = Node::new("http://127.0.0.1:7000")?;
/// let squares: Group = node.group_builder("squares", 1 << 20).build(|key| {
///     let number: u64 = key.parse()?;
///     Ok(Value::from((number * number).to_string()))
/// })?;
/// assert_eq!(squares.get("12")?.as_bytes(), b"144");
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
pub struct Group<V: Cacheable = Value>(pub(super) Arc<Shared<V>>);

impl<V: Cacheable> Clone for Group<V> {
    fn clone(&self) -> Group<V> {
        Group(Arc::clone(&self.0))
    }
}

impl<V: Cacheable> fmt::Debug for Group<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.0.name)
            .finish_non_exhaustive()
    }
}

impl<V: Cacheable> Group<V> {
    /// The value of `key`, from memory, from its owner or from the loader. Blocks until there is one.
    ///
    /// The load, if there is one, runs on this thread. It can only hang if the loader hangs: use
    /// [`get_timeout`](Group::get_timeout) if it may.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no value, [`Error::Load`] or [`Error::Panicked`] if the
    /// loader failed, [`Error::Cycle`] inside a loader that waits for itself,
    /// [`Error::KeyTooLong`], [`Error::ValueTooLarge`].
    pub fn get(&self, key: &str) -> Result<V, Error> {
        self.0.get_value(key, Deadline::NEVER)
    }

    /// As [`get`](Group::get), but waits no longer than `timeout`.
    ///
    /// A load runs on the node's loader threads. If it takes longer than this caller waits, it
    /// still completes, and its value is cached.
    ///
    /// # Errors
    ///
    /// Also [`Error::Deadline`], and [`Error::Overloaded`] if no loader thread became free in time.
    pub fn get_timeout(&self, key: &str, timeout: Duration) -> Result<V, Error> {
        let deadline = Deadline::after(self.0.cluster.clock.now(), timeout);
        self.0.get_value(key, deadline)
    }

    /// As [`get_timeout`](Group::get_timeout), but waits until `instant`.
    ///
    /// # Errors
    ///
    /// As [`get_timeout`](Group::get_timeout).
    pub fn get_deadline(&self, key: &str, instant: Instant) -> Result<V, Error> {
        self.0.get_value(key, Deadline::at(instant))
    }

    /// As [`get_deadline`](Group::get_deadline), but also returns where the value came from and how
    /// long it lives. [`Deadline::NEVER`] waits as [`get`](Group::get) does.
    ///
    /// # Errors
    ///
    /// As [`get_timeout`](Group::get_timeout).
    pub fn get_entry(&self, key: &str, deadline: Deadline) -> Result<Entry<V>, Error> {
        let obtained = self.0.get(self.0.cache.hash(key), deadline)?;
        obtained.into_entry(self.0.cluster.clock.now())
    }

    /// The values of many keys, in the order of `keys`. Blocks until there is an answer for each.
    ///
    /// Values in memory are taken from there. All other keys that one peer owns are fetched in one
    /// request, from all peers at the same time (from a peer that does not know such requests, one key
    /// after the other). The keys that this process owns are loaded at once if the group has a
    /// [`batch_loader`](crate::GroupBuilder::batch_loader), else by this thread with the help of the
    /// node's loader threads; the owners of the other keys do the same with theirs. A key that stands
    /// in `keys` more than once costs as much as one.
    ///
    /// Inside a loader everything happens on its thread, one peer after the other.
    ///
    /// ```
    /// use groupcache_sync::{Error, Group, LoadError, Node, Value};
    ///
    /// let node = Node::new("http://127.0.0.1:7000")?;
    /// let squares: Group = node.group_builder("squares", 1 << 20).build(|key| {
    ///     let number: u32 = key.parse().map_err(|_| LoadError::NotFound)?;
    ///     Ok(Value::from((number * number).to_string()))
    /// })?;
    /// let found = squares.get_many(&["3", "x", "4"]);
    /// assert_eq!(found[0].as_ref().unwrap().as_bytes(), b"9");
    /// assert!(matches!(found[1], Err(Error::NotFound)));
    /// assert_eq!(found[2].as_ref().unwrap().as_bytes(), b"16");
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// For each key by itself, as [`get`](Group::get).
    pub fn get_many<K: AsRef<str>>(&self, keys: &[K]) -> Vec<Result<V, Error>> {
        self.values_of(keys, Deadline::NEVER)
    }

    /// As [`get_many`](Group::get_many), but waits no longer than `timeout` in all. Loads run on
    /// the node's loader threads, and complete even if they take longer.
    ///
    /// # Errors
    ///
    /// For each key by itself, as [`get_timeout`](Group::get_timeout).
    pub fn get_many_timeout<K: AsRef<str>>(
        &self,
        keys: &[K],
        timeout: Duration,
    ) -> Vec<Result<V, Error>> {
        self.values_of(keys, Deadline::after(self.0.cluster.clock.now(), timeout))
    }

    /// As [`get_many_timeout`](Group::get_many_timeout), but waits until `instant`.
    ///
    /// # Errors
    ///
    /// As [`get_many_timeout`](Group::get_many_timeout).
    pub fn get_many_deadline<K: AsRef<str>>(
        &self,
        keys: &[K],
        instant: Instant,
    ) -> Vec<Result<V, Error>> {
        self.values_of(keys, Deadline::at(instant))
    }

    /// As [`get_many_deadline`](Group::get_many_deadline), but also returns where each value came from
    /// and how long it lives.
    ///
    /// # Errors
    ///
    /// As [`get_many_timeout`](Group::get_many_timeout).
    pub fn get_many_entries<K: AsRef<str>>(
        &self,
        keys: &[K],
        deadline: Deadline,
    ) -> Vec<Result<Entry<V>, Error>> {
        let _hold = user_code::hold();
        let outcomes = self.0.get_many(keys, deadline);
        let now = self.0.cluster.clock.now();
        let got = |outcome: Outcome<V>| outcome?.into_entry(now);
        outcomes.into_iter().map(got).collect()
    }

    /// The old name of [`get_entry`](Group::get_entry).
    ///
    /// # Errors
    ///
    /// As [`get_entry`](Group::get_entry).
    #[deprecated(note = "renamed to `get_entry`")]
    pub fn get_with(&self, key: &str, deadline: Deadline) -> Result<Entry<V>, Error> {
        self.get_entry(key, deadline)
    }

    /// The old name of [`get_many_entries`](Group::get_many_entries).
    ///
    /// # Errors
    ///
    /// For each key by itself, as [`get_many_entries`](Group::get_many_entries).
    #[deprecated(note = "renamed to `get_many_entries`")]
    pub fn get_many_with<K: AsRef<str>>(
        &self,
        keys: &[K],
        deadline: Deadline,
    ) -> Vec<Result<Entry<V>, Error>> {
        self.get_many_entries(keys, deadline)
    }

    fn values_of<K: AsRef<str>>(&self, keys: &[K], deadline: Deadline) -> Vec<Result<V, Error>> {
        let _hold = user_code::hold();
        let outcomes = self.0.get_many(keys, deadline).into_iter();
        outcomes
            .map(|outcome| Ok(outcome?.value.value()?))
            .collect()
    }

    /// The value of `key` if it is in the memory of this process. Never blocks, loads or fetches, not
    /// even to renew a value that is stale but still of use.
    #[must_use]
    pub fn try_get(&self, key: &str) -> Option<V> {
        let shared = &*self.0;
        let key = shared.cache.hash(key);
        let elsewhere = || Some(shared.cache.get(key).ok()?.value);
        let stored = shared.cache.get_main(key).or_else(elsewhere)?;
        stored.value().ok()
    }

    /// Whether a get of `key` would be answered from this process's memory now. Neither counts as a get nor
    /// clones the value, and asks nobody else. Blocks no longer than for a lock of the cache.
    ///
    /// The value may be gone by the time it is asked for: to use it, call [`try_get`](Group::try_get).
    ///
    /// ```
    /// use groupcache_sync::{Group, Node, Value};
    ///
    /// let node = Node::new("http://127.0.0.1:7000")?;
    /// let pages: Group = node.group_builder("pages", 1 << 20).build(|key| Ok(Value::from(key)))?;
    /// assert!(!pages.contains("a"));
    /// pages.get("a")?;
    /// assert!(pages.contains("a"));
    /// assert_eq!(pages.stats().gets, 1);
    /// # Ok::<(), groupcache_sync::Error>(())
    /// ```
    #[must_use]
    #[doc(alias = "contains_key")]
    pub fn contains(&self, key: &str) -> bool {
        self.0.cache.contains(self.0.cache.hash(key))
    }

    /// The `n` keys with the most requests in this process whose values are in its memory, each with
    /// about how many requests there were: since the value was stored, or, of keys that peers ask for,
    /// over about the last minute. The key with the most requests comes first.
    ///
    /// Looks at every entry, one shard of the cache after the other: for people and reports, not
    /// for every request.
    #[must_use]
    pub fn hottest(&self, n: usize) -> Vec<(String, u64)> {
        self.0.hottest(n)
    }

    /// Changes how many bytes the group may take. What no longer fits is evicted by this thread, before the
    /// call returns; an eviction listener hears of it. Waits for no load and no peer.
    ///
    /// Mirrored values, and keys without a value, may take the same part of the new capacity as of the
    /// one that the group was built with. The number of shards stays: a group that is going to grow by far
    /// is best built with as many [`shards`](crate::GroupBuilder::shards) as its largest capacity needs.
    ///
    /// ```
    /// use groupcache_sync::{Group, Node, Value};
    ///
    /// let node = Node::new("http://127.0.0.1:7000")?;
    /// let pages: Group = node.group_builder("pages", 1 << 20).build(|key| Ok(Value::from(key)))?;
    /// pages.set_capacity(16 << 20)?;
    /// assert_eq!(pages.stats().capacity_bytes, 16 << 20);
    /// # Ok::<(), groupcache_sync::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if that holds no entry at all; the capacity stays as it was.
    #[doc(alias = "resize")]
    pub fn set_capacity(&self, bytes: usize) -> Result<(), Error> {
        let shared = &*self.0;
        // The listener is called once nothing is over the limits any more.
        let _hold = user_code::hold();
        shared.capacity.set(bytes, |parts| {
            shared.cache.set_capacity(parts.values, parts.hot);
            if let Some(absences) = &shared.absences {
                absences.set_capacity(parts.absences);
            }
        })?;
        shared.cache.evict_excess();
        if let Some(absences) = &shared.absences {
            absences.evict_excess();
        }
        Ok(())
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What happened in this group on this node, and what the group holds.
    #[must_use]
    pub fn stats(&self) -> GroupStats {
        self.0.stats()
    }

    /// How long loads took, and gets that were not answered from memory.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.0.latencies()
    }
}
