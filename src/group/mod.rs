//! The loading process: `Group`, from a get to its value.
//!
//! 1. Is the value in local memory, in the main or the hot cache? Use it. If it has expired a short
//!    while ago, use it too and have it renewed (`renew.rs`).
//! 2. Otherwise one thread per key goes on, the leader of the flight; the others wait for it.
//! 3. The leader looks in the caches once more, then asks the ring who owns the key.
//! 4. This process: the loader runs, unless the key belonged to another one not long ago, which has
//!    its value still (`succession.rs`). Another: fetch from there. If that one is unreachable: load here.
//! 5. The value goes into the main or the hot cache. Only then does the flight end (I7).
//!
//! A group has two flight tables (I5). A request of a peer joins or leads only in `loads`, and is
//! never forwarded. A fetch that failed leads or joins in `loads` while it holds its place in
//! `fetches`. Waits go from fetch to load and never back, so nodes whose rings disagree can neither
//! loop nor deadlock.

mod absences;
mod batch;
mod builder;
mod bulkhead;
mod change;
mod failures;
mod fetch;
mod load;
mod many;
mod pending;
mod renew;
mod reports;
mod seats;
mod serve;
mod succession;
mod timing;

use std::fmt;
use std::time::{Duration, Instant};

pub use builder::GroupBuilder;
pub use pending::Pending;
pub(crate) use serve::{Begun, Registry, Serve};

use absences::Absences;
use bulkhead::Bulkhead;
use failures::Failures;
use load::Role;
use reports::Reports;
use timing::Timings;

use crate::cache::entry::{Stored, Tier};
use crate::cache::hot::Mirroring;
use crate::cache::key::{KeyRef, MAX_KEY_BYTES};
use crate::cache::shards::{Cache, ENTRY_OVERHEAD, Found};
use crate::cluster::members::Owner;
use crate::cluster::state::Cluster;
use crate::codec::Codec;
use crate::error::Error;
use crate::flight::table::{Flights, Guard, WaitOutcome, Waiter};
use crate::loader::{BatchLoader, Loader};
use crate::protocol;
use crate::runtime::clock::Deadline;
use crate::runtime::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, OnceLock};
use crate::runtime::user_code;
use crate::stats::latency::Latencies;
use crate::stats::{Counter, GroupStats};
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
pub struct Group<V: Cacheable = Value>(Arc<Shared<V>>);

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

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Memory, as this process owns the key (or keeps it for an owner that is unreachable).
    Main,
    /// Memory, as a mirrored copy.
    Hot,
    /// The peer that owns the key.
    Peer,
    /// This process's loader.
    Load,
    /// Another thread that was asking for the same key.
    Joined,
    /// Memory, past its expiry: while it is being renewed, or because its load failed
    /// ([`stale_while_revalidate`](GroupBuilder::stale_while_revalidate),
    /// [`stale_if_error`](GroupBuilder::stale_if_error)).
    Stale,
}

impl fmt::Display for Source {
    /// In lower case: `main`, `hot`, `peer`, `load`, `joined`, `stale`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Source::Main => "main",
            Source::Hot => "hot",
            Source::Peer => "peer",
            Source::Load => "load",
            Source::Joined => "joined",
            Source::Stale => "stale",
        })
    }
}

/// A value, where it came from, and how long it lives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Got<V> {
    /// The value.
    pub value: V,
    /// Where it came from.
    pub source: Source,
    /// The life it has left; `None` if it lives until evicted.
    pub remaining: Option<Duration>,
}

/// The state behind the handles of a group.
struct Shared<V: Cacheable> {
    name: Arc<str>,
    loader: Box<dyn Loader<V>>,
    batch_loader: Option<BatchLoader<V>>,
    codec: Box<dyn Codec<V>>,
    weigher: Option<Weigher<V>>,
    lives: Lives,
    mirroring: Mirroring,
    hand_on_load_errors: bool,
    cache: Cache<V>,
    absences: Option<Absences>,
    failures: Failures,
    bulkhead: Bulkhead,
    loads: Flights<Outcome<V>>,
    fetches: Flights<Outcome<V>>,
    cluster: Arc<Cluster>,
    counters: Counters,
    timings: Timings,
    capacity_bytes: usize,
    /// A load that takes as long as this is reported.
    slow_load: Duration,
    reports: Reports,
    /// Whether the maintenance comes to let expired values go.
    is_swept: AtomicBool,
    /// The bytes that fetched values had of late, about.
    fetched_bytes: AtomicUsize,
    /// Numbers the fetches, to mirror one in ten of those whose owner measures no rate.
    dice: AtomicU64,
}

/// What a value weighs, in bytes.
type Weigher<V> = Box<dyn Fn(&V) -> usize + Send + Sync>;

/// How long values live.
#[derive(Clone, Copy, Debug)]
struct Lives {
    default: Option<Duration>,
    max: Option<Duration>,
    /// The part of a life that is taken off at most, so that values do not expire together.
    jitter: f64,
}

#[derive(Default)]
struct Counters {
    joined: Counter,
    leads: Counter,
    loads: Counter,
    load_errors: Counter,
    fetches: Counter,
    fetch_errors: Counter,
    peeks: Counter,
    inherited: Counter,
    served: Counter,
    served_hits: Counter,
    removes: Counter,
}

/// What a flight brings.
type Outcome<V> = Result<Obtained<V>, Error>;

#[derive(Clone, Debug)]
struct Obtained<V: Cacheable> {
    value: Stored<V>,
    source: Source,
    expires: Option<Instant>,
    /// What is held with the value, in bytes.
    weight: usize,
    /// The value as peers get it, made once for all who wait for one flight.
    encoded: Option<Arc<OnceLock<Result<Value, Error>>>>,
}

impl<V: Cacheable> From<Found<V>> for Obtained<V> {
    fn from(found: Found<V>) -> Obtained<V> {
        Obtained {
            value: found.value,
            source: match found.tier {
                _ if found.is_stale => Source::Stale,
                Tier::Main => Source::Main,
                Tier::Hot => Source::Hot,
            },
            expires: found.expires,
            weight: found.weight,
            encoded: None,
        }
    }
}

impl<V: Cacheable> Group<V> {
    /// The value of `key`, from memory, from its owner or from the loader. Blocks until it is here.
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

    /// As [`get_deadline`](Group::get_deadline), and also tells where the value came from and how
    /// long it lives. [`Deadline::NEVER`] waits as [`get`](Group::get) does.
    ///
    /// # Errors
    ///
    /// As [`get_timeout`](Group::get_timeout).
    pub fn get_with(&self, key: &str, deadline: Deadline) -> Result<Got<V>, Error> {
        let obtained = self.0.get(self.0.cache.hash(key), deadline)?;
        obtained.got(self.0.cluster.clock.now())
    }

    /// The values of many keys, in the order of `keys`. Blocks until all are here.
    ///
    /// What is in memory is taken from there. All other keys that one peer owns are asked for in
    /// one request (a peer that does not know such requests is asked for one after the other), all
    /// peers at the same time. The keys that this process owns are loaded at once if the group has
    /// a [`batch_loader`](GroupBuilder::batch_loader), else by this thread with the help of the
    /// node's loader threads; their owners do the same with theirs. A key that stands in `keys`
    /// more than once costs as much as one.
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

    /// As [`get_many_deadline`](Group::get_many_deadline), and also tells of each value where it
    /// came from and how long it lives.
    ///
    /// # Errors
    ///
    /// As [`get_many_timeout`](Group::get_many_timeout).
    pub fn get_many_with<K: AsRef<str>>(
        &self,
        keys: &[K],
        deadline: Deadline,
    ) -> Vec<Result<Got<V>, Error>> {
        let _hold = user_code::hold();
        let outcomes = self.0.get_many(keys, deadline);
        let now = self.0.cluster.clock.now();
        let got = |outcome: Outcome<V>| outcome?.got(now);
        outcomes.into_iter().map(got).collect()
    }

    fn values_of<K: AsRef<str>>(&self, keys: &[K], deadline: Deadline) -> Vec<Result<V, Error>> {
        let _hold = user_code::hold();
        let outcomes = self.0.get_many(keys, deadline).into_iter();
        outcomes
            .map(|outcome| Ok(outcome?.value.value()?))
            .collect()
    }

    /// The value of `key` if it is in this process's memory. Never blocks, loads or fetches, not
    /// even to renew a value that is stale but still of use.
    #[must_use]
    pub fn try_get(&self, key: &str) -> Option<V> {
        let shared = &*self.0;
        let key = shared.cache.hash(key);
        let elsewhere = || Some(shared.cache.get(key).ok()?.value);
        let stored = shared.cache.get_main(key).or_else(elsewhere)?;
        stored.value().ok()
    }

    /// The `n` keys that were asked for most in this process and have their values in its memory,
    /// with about how many requests there were for each: since the value was stored, or, of keys
    /// that peers ask for, over about the last minute. The most wanted first.
    ///
    /// Looks at every entry, one shard of the cache after the other: for people and reports, not
    /// for every request.
    #[must_use]
    pub fn hottest(&self, n: usize) -> Vec<(String, u64)> {
        self.0.cache.hottest(n)
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What happened in this group on this node, and what it holds.
    #[must_use]
    pub fn stats(&self) -> GroupStats {
        self.0.stats()
    }

    /// How long gets took that were not answered from memory, and loads.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        self.0.latencies()
    }
}

impl<V: Cacheable> Obtained<V> {
    /// The end of its life.
    fn deadline(&self) -> Deadline {
        self.expires.map_or(Deadline::NEVER, Deadline::at)
    }

    /// Fails if the value cannot be cloned.
    fn got(self, now: Instant) -> Result<Got<V>, Error> {
        Ok(Got {
            remaining: self.deadline().remaining(now),
            value: self.value.value()?,
            source: self.source,
        })
    }

    fn joined(self) -> Obtained<V> {
        Obtained {
            source: Source::Joined,
            ..self
        }
    }
}

impl<V: Cacheable> Shared<V> {
    #[inline]
    fn get_value(self: &Arc<Self>, key: &str, deadline: Deadline) -> Result<V, Error> {
        let key = self.cache.hash(key);
        match self.cache.get_main(key) {
            Some(stored) => Ok(stored.value()?),
            None => Ok(self.get(key, deadline)?.value.value()?),
        }
    }

    #[cold]
    fn get(self: &Arc<Self>, key: KeyRef<'_>, deadline: Deadline) -> Outcome<V> {
        // What listens is told once nobody waits for this thread any more.
        let _hold = user_code::hold();
        match self.cache.get(key) {
            Ok(found) if found.is_stale => self.use_stale(key, found, deadline),
            Ok(found) => Ok(found.into()),
            Err(_) if self.is_absent(key) => Err(Error::NotFound),
            Err(unreported) => match self.failed_lately(key) {
                Some(outcome) => {
                    self.counters.joined.add();
                    outcome
                }
                None => self.timed(|| self.bring(key, deadline, unreported, Count::Yes)),
            },
        }
    }

    /// Whether it is known that there is no value.
    fn is_absent(&self, key: KeyRef<'_>) -> bool {
        let absences = self.absences.as_ref();
        absences.is_some_and(|absences| absences.hit(key))
    }

    /// Steps 2 to 5.
    fn bring(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        deadline: Deadline,
        unreported: u32,
        count: Count,
    ) -> Outcome<V> {
        check_key(key.text())?;
        match self.cluster.members().owner(key.text()) {
            Owner::This => {
                let outcome = self.load(key, deadline, Role::Owner, count);
                self.or_stand_in(key, outcome)
            }
            Owner::Peer(owner) => self.fetch(key, &owner, deadline, unreported, count),
        }
    }

    /// Step 5. Values without life and those too large to travel are not kept.
    fn keep(
        self: &Arc<Self>,
        guard: &Guard<Outcome<V>>,
        tier: Tier,
        obtained: &Obtained<V>,
        now: Instant,
    ) {
        let too_large = obtained.weight > self.cluster.settings.max_value;
        if obtained.deadline().is_past(now) || too_large {
            return;
        }
        let key = guard.key().as_ref();
        let (value, weight) = (obtained.value.clone(), charge(key, obtained.weight));
        self.cache
            .insert(tier, key, value, weight, obtained.expires, guard.stale());
        if obtained.expires.is_some() {
            self.have_swept();
        }
    }

    /// Step 3: the flight that ended just before this one began may have left the value, or that
    /// there is none.
    fn land_if_cached(&self, guard: Guard<Outcome<V>>) -> Result<Outcome<V>, Guard<Outcome<V>>> {
        let Some(outcome) = self.recheck(guard.key().as_ref()) else {
            return Err(guard);
        };
        guard.finish(outcome.clone());
        Ok(outcome)
    }

    /// What is known in memory, for one who has asked before.
    fn recheck(&self, key: KeyRef<'_>) -> Option<Outcome<V>> {
        if let Some(found) = self.cache.recheck(key) {
            return Some(Ok(found.into()));
        }
        let absences = self.absences.as_ref();
        absences
            .is_some_and(|absences| absences.recheck(key))
            .then_some(Err(Error::NotFound))
    }

    /// Waits for a flight. If this is a thread of the pool, another one may take its part meanwhile.
    fn wait_for(&self, waiter: &Waiter<Outcome<V>>, deadline: Deadline) -> WaitOutcome<Outcome<V>> {
        let _blocked = self.cluster.pool.wait_inside();
        waiter.wait(&self.cluster.clock, deadline)
    }

    /// What a value weighs by itself.
    fn weigh(&self, value: &V) -> usize {
        match &self.weigher {
            Some(weigher) => weigher(value),
            None => self.codec.weight(value),
        }
    }

    fn count_lead(&self, count: &mut Count) {
        if std::mem::replace(count, Count::No) == Count::Yes {
            self.counters.leads.add();
        }
    }

    fn count_joined(&self, count: &mut Count) {
        if std::mem::replace(count, Count::No) == Count::Yes {
            self.counters.joined.add();
        }
    }

    /// What this takes beside its entries.
    fn overhead_bytes(&self) -> usize {
        let absences = self.absences.as_ref().map_or(0, Absences::heap_bytes);
        // The node keeps its name too, and a hold on it in two lists.
        let listed = self.name.len() + size_of::<(String, [usize; 4])>();
        size_of::<Self>()
            + self.name.len()
            + listed
            + self.cache.heap_bytes()
            + absences
            + self.failures.heap_bytes()
            + self.loads.heap_bytes()
            + self.fetches.heap_bytes()
            + self.timings.heap_bytes()
    }

    fn stats(&self) -> GroupStats {
        let counts = self.cache.counts();
        let absent = self.absences.as_ref().map(Absences::counts);
        let absent = absent.unwrap_or_default();
        let main_hits = counts.main_hits + absent.main_hits;
        let counters = &self.counters;
        let (joined, leads) = (counters.joined.get(), counters.leads.get());
        GroupStats {
            gets: main_hits + counts.hot_hits + joined + leads,
            main_hits,
            hot_hits: counts.hot_hits,
            joined,
            leads,
            loads: counters.loads.get(),
            load_errors: counters.load_errors.get(),
            overloads: self.bulkhead.refused(),
            fetches: counters.fetches.get(),
            fetch_errors: counters.fetch_errors.get(),
            peeks: counters.peeks.get(),
            inherited: counters.inherited.get(),
            served: counters.served.get(),
            served_hits: counters.served_hits.get(),
            removes: counters.removes.get(),
            evictions: counts.evictions + absent.evictions,
            rejections: counts.rejections + absent.rejections,
            expirations: counts.expirations + absent.expirations,
            stale_hits: counts.stale_hits,
            stand_ins: counts.stand_ins,
            absent_hits: absent.main_hits,
            absent_items: absent.main_items as u64,
            capacity_bytes: self.capacity_bytes as u64,
            overhead_bytes: self.overhead_bytes() as u64,
            main_items: (counts.main_items + absent.main_items) as u64,
            hot_items: counts.hot_items as u64,
            main_bytes: (counts.main_bytes + absent.main_bytes) as u64,
            hot_bytes: counts.hot_bytes as u64,
            loads_running: self.bulkhead.running() as u64,
            flights: (self.loads.len() + self.fetches.len()) as u64,
        }
    }
}

/// Whether a get is still to be counted: it is counted once, by what it did first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    Yes,
    No,
}

impl Lives {
    /// The life of a value whose loader says `ttl`; `None` lives until evicted.
    fn of(&self, ttl: Option<Duration>, key: KeyRef<'_>) -> Option<Duration> {
        let life = match (ttl.or(self.default), self.max) {
            (Some(life), Some(max)) => life.min(max),
            (life, max) => life.or(max)?,
        };
        if self.jitter == 0.0 {
            return Some(life);
        }
        let seconds = life.as_secs_f64() * (1.0 - self.jitter * key.fraction());
        // The longest of all may become too long by rounding.
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(life))
    }
}

fn check_key(key: &str) -> Result<(), Error> {
    // No encoding is more than three times as long: most keys need not be looked at.
    if key.len() > MAX_KEY_BYTES / 3 {
        let bytes = protocol::encoded_len(key);
        if bytes > MAX_KEY_BYTES {
            return Err(Error::KeyTooLong { bytes });
        }
    }
    Ok(())
}

/// What a value of this weight is charged for in the cache, in bytes (I4).
fn charge(key: KeyRef<'_>, weight: usize) -> usize {
    weight
        .saturating_add(key.text().len())
        .saturating_add(ENTRY_OVERHEAD)
}

fn lost_leader() -> Error {
    Error::Panicked {
        message: "the thread that led the load was lost to a panic".into(),
    }
}
