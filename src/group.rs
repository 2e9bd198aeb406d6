//! The loading process: `Group`, from a get to its value.
//!
//! 1. Is the value in local memory, in the main or the hot cache? Use it.
//! 2. Otherwise one thread per key goes on, the leader of the flight; the others wait for it.
//! 3. The leader looks in the caches once more, then asks the ring who owns the key.
//! 4. This process: the loader runs. Another: fetch from there. If that one is away: load here.
//! 5. The value goes into the main or the hot cache. Only then does the flight end (I7).
//!
//! A group has two flight tables (I5). A request of a peer joins or leads only in `loads`, and is
//! never forwarded. A fetch that failed leads or joins in `loads` while it holds its place in
//! `fetches`. Waits go from fetch to load and never back, so nodes whose rings disagree can neither
//! loop nor deadlock.

mod builder;
mod change;
mod serve;

use std::fmt;
use std::time::{Duration, Instant};

pub use builder::GroupBuilder;
pub use serve::Pending;
pub(crate) use serve::{Begun, Registry, Serve};

use crate::cache::{Cache, ENTRY_OVERHEAD, Found, Lookup};
use crate::codec::Codec;
use crate::deadline::Deadline;
use crate::error::Error;
use crate::flight::{Delivery, Flights, Guard, Missed, Part, Queued, Waiter};
use crate::hot::Mirroring;
use crate::key::{KeyRef, MAX_KEY_BYTES};
use crate::loader::{self, Load, LoadError, Loaded, Loader};
use crate::lru::{Entry, Place};
use crate::peer::{Call, Cluster, Failure, Owner, Remote};
use crate::pool::{Job, Refused};
use crate::ring::hash_of_key;
use crate::stats::{Counter, GroupStats};
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::value::{Cacheable, Value};
use crate::wire::{self, Answer, Nonsense, Status, Terms};

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
    /// Memory, as this process owns the key (or keeps it for an owner that is away).
    Main,
    /// Memory, as a mirrored copy.
    Hot,
    /// The peer that owns the key.
    Peer,
    /// This process's loader.
    Load,
    /// Another thread that was asking for the same key.
    Joined,
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
    name: String,
    loader: Box<dyn Loader<V>>,
    codec: Box<dyn Codec<V>>,
    weigher: Option<Box<dyn Fn(&V) -> usize + Send + Sync>>,
    lives: Lives,
    mirroring: Mirroring,
    hand_on_load_errors: bool,
    cache: Cache<V>,
    loads: Flights<Outcome<V>>,
    fetches: Flights<Outcome<V>>,
    cluster: Arc<Cluster>,
    counters: Counters,
    /// Numbers the fetches, to mirror one in ten of those whose owner measures no rate.
    dice: AtomicU64,
}

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
    served: Counter,
    served_hits: Counter,
    removes: Counter,
}

/// What a flight brings.
type Outcome<V> = Result<Landed<V>, Error>;

#[derive(Clone, Debug)]
struct Landed<V> {
    value: V,
    source: Source,
    expires: Option<Instant>,
}

impl<V> From<Found<V>> for Landed<V> {
    fn from(found: Found<V>) -> Landed<V> {
        Landed {
            value: found.value,
            source: match found.place {
                Place::Main => Source::Main,
                Place::Hot => Source::Hot,
            },
            expires: found.expires,
        }
    }
}

/// On whose account a value is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// This process owns the key, or a peer says so.
    Owner,
    /// The owner is away.
    Fallback,
}

/// What the owner of a key answers.
enum Fetched {
    Value(Answer),
    NotFound,
    TooLarge(usize),
    LoadFailed(String),
    /// Loading takes longer than a get inside a loader may wait.
    StillLoading,
    Overloaded,
    NoSuchGroup,
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
        self.0.get(key, Deadline::NEVER).map(|landed| landed.value)
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
        self.0.get(key, deadline).map(|landed| landed.value)
    }

    /// As [`get_timeout`](Group::get_timeout), but waits until `instant`.
    ///
    /// # Errors
    ///
    /// As [`get_timeout`](Group::get_timeout).
    pub fn get_deadline(&self, key: &str, instant: Instant) -> Result<V, Error> {
        self.0
            .get(key, Deadline::at(instant))
            .map(|landed| landed.value)
    }

    /// As [`get_deadline`](Group::get_deadline), and also tells where the value came from and how
    /// long it lives. [`Deadline::NEVER`] waits as [`get`](Group::get) does.
    ///
    /// # Errors
    ///
    /// As [`get_timeout`](Group::get_timeout).
    pub fn get_with(&self, key: &str, deadline: Deadline) -> Result<Got<V>, Error> {
        let landed = self.0.get(key, deadline)?;
        let remaining = Deadline::remaining(landed.deadline(), self.0.cluster.clock.now());
        Ok(Got {
            value: landed.value,
            source: landed.source,
            remaining,
        })
    }

    /// The value of `key` if it is in this process's memory. Never blocks, loads or fetches.
    #[must_use]
    pub fn try_get(&self, key: &str) -> Option<V> {
        let shared = &*self.0;
        match shared.cache.get(shared.cache.hash(key)) {
            Lookup::Hit(found) => Some(found.value),
            Lookup::Miss { .. } => None,
        }
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
}

impl<V> Landed<V> {
    /// The end of its life.
    fn deadline(&self) -> Deadline {
        self.expires.map_or(Deadline::NEVER, Deadline::at)
    }

    fn joined(self) -> Landed<V> {
        Landed {
            source: Source::Joined,
            ..self
        }
    }
}

impl<V: Cacheable> Shared<V> {
    fn get(self: &Arc<Self>, key: &str, deadline: Deadline) -> Outcome<V> {
        let key = self.cache.hash(key);
        let unreported = match self.cache.get(key) {
            Lookup::Hit(found) => return Ok(found.into()),
            Lookup::Miss { unreported } => unreported,
        };
        check_key(key.text())?;
        match self.cluster.members().owner(key.text()) {
            Owner::This => self.load(key, deadline, Role::Owner, Count::Yes),
            Owner::Peer(owner) => self.fetch(key, &owner, deadline, unreported),
        }
    }

    /// Has the value loaded here: by this thread, by one of the pool, or by one that does already.
    fn load(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        deadline: Deadline,
        role: Role,
        mut count: Count,
    ) -> Outcome<V> {
        loop {
            match self.loads.join(key, deadline, leads_at_once(deadline)) {
                Part::Lead(guard) => {
                    self.count_lead(&mut count);
                    return self.lead_load(guard, deadline, role);
                }
                Part::Wait(waiter) => {
                    self.count_joined(&mut count);
                    match self.outcome_of(waiter) {
                        Waited::Outcome(outcome) => return outcome,
                        Waited::Lead(guard) => return self.lead_load(guard, deadline, role),
                        Waited::Again => {}
                    }
                }
            }
        }
    }

    fn lead_load(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
        role: Role,
    ) -> Outcome<V> {
        let guard = match self.land_if_cached(guard) {
            Ok(landed) => return Ok(landed),
            Err(guard) => guard,
        };
        if leads_at_once(deadline) {
            return self.run_loader(guard, deadline, role);
        }
        let (waiter, queued) = self.queue_load(guard, deadline, role)?;
        match waiter.wait(&self.cluster.clock) {
            Ok(Delivery::Finished(outcome)) => outcome,
            Err(Missed::Deadline) => match queued.take() {
                // A load that never began goes to one who can wait longer (I6).
                Some(guard) => {
                    guard.hand_over(self.cluster.clock.now());
                    Err(Error::Overloaded)
                }
                None => Err(Error::Deadline),
            },
            Err(Missed::Cycle) => Err(Error::Cycle),
            Ok(Delivery::Lead(guard)) => self.lead_load(guard, deadline, role),
            Ok(Delivery::Released | Delivery::Abandoned) => Err(lost_leader()),
        }
    }

    /// Leaves the load to the pool, and to whoever can lead before it gets to it.
    fn queue_load(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
        role: Role,
    ) -> Result<(Waiter<Outcome<V>>, Arc<Queued<Outcome<V>>>), Error> {
        let waiter = guard.waiter(deadline);
        let queued = Arc::new(guard.queue());
        let job = PooledLoad {
            group: Arc::clone(self),
            queued: Arc::clone(&queued),
            deadline,
            role,
        };
        let Err(refused) = self.cluster.pool.submit(Box::new(job)) else {
            return Ok((waiter, queued));
        };
        let Some(guard) = queued.take() else {
            return Ok((waiter, queued)); // somebody leads it already
        };
        drop(waiter);
        guard.hand_over(self.cluster.clock.now());
        Err(match refused {
            Refused::Full | Refused::Closed => Error::Overloaded,
            Refused::NoThread(source) => Error::Thread {
                source: Arc::new(source),
            },
        })
    }

    fn run_loader(&self, guard: Guard<Outcome<V>>, deadline: Deadline, role: Role) -> Outcome<V> {
        let leading = guard.lead();
        let key = guard.key().clone();
        self.counters.loads.add();
        // Weighing is foreign code too, as a codec may be.
        let loaded = loader::run(|| {
            let loaded = self.loader.load(&Load::new(key.text(), deadline))?;
            let weight = self.weigh(key.text(), &loaded.value);
            Ok((loaded, weight))
        });
        let outcome = match loaded {
            Ok(Ok((loaded, weight))) => Ok(self.keep_loaded(&guard, loaded, weight, role)),
            Ok(Err(LoadError::NotFound)) => Err(Error::NotFound),
            Ok(Err(LoadError::Failed(source))) => Err(Error::Load { source }),
            Err(panicked) => Err(Error::Panicked {
                message: panicked.0.into(),
            }),
        };
        if outcome.is_err() {
            self.counters.load_errors.add();
        }
        drop(leading);
        guard.finish(outcome.clone());
        outcome
    }

    /// Puts what was loaded where it belongs.
    fn keep_loaded(
        &self,
        guard: &Guard<Outcome<V>>,
        loaded: Loaded<V>,
        weight: usize,
        role: Role,
    ) -> Landed<V> {
        let now = self.cluster.clock.now();
        let mut life = self.lives.of(loaded.ttl, guard.key().as_ref());
        let mut place = Place::Main;
        if role == Role::Fallback {
            let fallback = self.cluster.settings.fallback_life;
            life = Some(life.map_or(fallback, |life| life.min(fallback)));
            if self.cache.fits(Place::Hot, weight) {
                place = Place::Hot;
            }
        }
        let landed = Landed {
            value: loaded.value,
            source: Source::Load,
            expires: life.and_then(|life| now.checked_add(life)),
        };
        self.keep(guard, place, &landed, weight, now);
        landed
    }

    /// Step 5. Values without life and those too large to travel are not kept.
    fn keep(
        &self,
        guard: &Guard<Outcome<V>>,
        place: Place,
        landed: &Landed<V>,
        weight: usize,
        now: Instant,
    ) {
        let too_large = weight
            > self
                .cluster
                .settings
                .max_value
                .saturating_add(MAX_KEY_BYTES);
        if landed.deadline().is_past(now) || too_large {
            return;
        }
        let entry = Entry::new(landed.value.clone(), weight, landed.expires);
        self.cache
            .insert(place, guard.key().as_ref(), entry, guard.stale());
    }

    /// Has the value fetched from `owner`: by this thread, or by one that does already.
    fn fetch(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        owner: &Arc<Remote>,
        deadline: Deadline,
        unreported: u32,
    ) -> Outcome<V> {
        let mut count = Count::Yes;
        loop {
            match self.fetches.join(key, deadline, true) {
                Part::Lead(guard) => {
                    self.count_lead(&mut count);
                    return self.lead_fetch(guard, owner, deadline, unreported);
                }
                Part::Wait(waiter) => {
                    self.count_joined(&mut count);
                    match self.outcome_of(waiter) {
                        Waited::Outcome(outcome) => return outcome,
                        Waited::Lead(guard) => {
                            return self.lead_fetch(guard, owner, deadline, unreported);
                        }
                        Waited::Again => {}
                    }
                }
            }
        }
    }

    fn lead_fetch(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        owner: &Arc<Remote>,
        deadline: Deadline,
        unreported: u32,
    ) -> Outcome<V> {
        let guard = match self.land_if_cached(guard) {
            Ok(landed) => return Ok(landed),
            Err(guard) => guard,
        };
        let leading = guard.lead();
        let key = guard.key().clone();
        let fetched = self.ask(owner, key.as_ref(), deadline, unreported);
        let outcome = match self.use_fetched(&guard, owner, fetched) {
            Some(outcome) => outcome,
            None => {
                self.counters.fetch_errors.add();
                self.load(key.as_ref(), deadline, Role::Fallback, Count::No)
            }
        };
        drop(leading);
        match outcome {
            // This caller's time or place is up, not the flight's (I6).
            Err(Error::Deadline | Error::Overloaded) => {
                guard.hand_over(self.cluster.clock.now());
            }
            _ => guard.finish(outcome.clone()),
        }
        outcome
    }

    /// What a fetch comes to; `None` if the value is to be loaded here.
    fn use_fetched(
        &self,
        guard: &Guard<Outcome<V>>,
        owner: &Remote,
        fetched: Result<Fetched, Failure>,
    ) -> Option<Outcome<V>> {
        match fetched {
            Ok(Fetched::Value(answer)) => self.mirror(guard, answer).map(Ok),
            Ok(Fetched::NotFound) => Some(Err(Error::NotFound)),
            Ok(Fetched::TooLarge(bytes)) => Some(Err(Error::ValueTooLarge {
                bytes,
                max: self.cluster.settings.max_value,
            })),
            Ok(Fetched::LoadFailed(message)) if self.hand_on_load_errors => {
                Some(Err(Error::OwnerLoad {
                    peer: owner.peer.name().into(),
                    message: message.into(),
                }))
            }
            Ok(Fetched::NoSuchGroup) => {
                log::warn!(
                    target: "groupcache", peer:% = owner.peer, group = self.name.as_str();
                    "the peer has no such group; its keys are loaded here"
                );
                None
            }
            Ok(Fetched::LoadFailed(_) | Fetched::StillLoading | Fetched::Overloaded) => None,
            Err(Failure::Deadline) => Some(Err(Error::Deadline)),
            Err(Failure::Away(_)) => None,
        }
    }

    /// Asks the owner, again and again as long as it is loading: a slow load is no failure.
    fn ask(
        &self,
        owner: &Arc<Remote>,
        key: KeyRef<'_>,
        deadline: Deadline,
        unreported: u32,
    ) -> Result<Fetched, Failure> {
        let settings = &self.cluster.settings;
        let clock = &self.cluster.clock;
        let patience = settings.fetch_timeout / 2;
        // Loads of several processes that wait for each other in a circle would wait for ever.
        let until = if loader::inside_a_loader() {
            Deadline::after(clock.now(), settings.load_timeout)
        } else {
            Deadline::NEVER
        };
        let mut terms = Terms {
            native: true,
            hits: unreported,
            patience: Some(patience),
            remaining: None,
            ring: Some(self.cluster.members().fingerprint()),
        };
        self.counters.fetches.add();
        loop {
            let asked = clock.now();
            terms.remaining = deadline.remaining(asked);
            let call = Call {
                method: "GET",
                target: wire::target(&self.name, Some(key.text())),
                header: terms.to_header(),
                body: Vec::new(),
            };
            let read = |status, reply| self.read_answer(key, status, reply);
            let answer = self
                .cluster
                .call(owner, &call, settings.fetch_timeout, deadline, read)?;
            if let Some(fetched) = answer {
                return Ok(fetched);
            }
            let now = clock.now();
            if until.is_past(now) {
                return Ok(Fetched::StillLoading);
            }
            if now.saturating_duration_since(asked) < patience / 2 {
                return Err(Failure::Away(
                    "it answers `loading` without waiting".to_owned(),
                ));
            }
            terms.hits = 0;
        }
    }

    /// What an answer says; `None` if the owner is still loading.
    fn read_answer(
        &self,
        key: KeyRef<'_>,
        status: Status,
        reply: crate::peer::Reply,
    ) -> Result<Option<Fetched>, Nonsense> {
        Ok(Some(match status {
            Status::Ok => {
                let answer = Answer::decode(reply.body)?;
                if answer.key_hash != Some(hash_of_key(&self.name, key.text())) {
                    return Err(Nonsense("the answer belongs to another key"));
                }
                Fetched::Value(answer)
            }
            Status::Loading => return Ok(None),
            Status::NotFound => Fetched::NotFound,
            Status::NoSuchGroup => Fetched::NoSuchGroup,
            Status::Overloaded => Fetched::Overloaded,
            Status::TooLarge => Fetched::TooLarge(
                reply
                    .header
                    .as_deref()
                    .and_then(wire::length_of)
                    .unwrap_or(0),
            ),
            Status::LoadFailed => {
                Fetched::LoadFailed(String::from_utf8_lossy(&reply.body).trim_end().to_owned())
            }
            Status::KeyTooLong | Status::BadRequest | Status::WrongMethod | Status::Elsewhere => {
                return Err(Nonsense("it refuses the request"));
            }
        }))
    }

    /// Keeps a copy of what was fetched if it is popular. `None` if it cannot be decoded here.
    fn mirror(&self, guard: &Guard<Outcome<V>>, answer: Answer) -> Option<Landed<V>> {
        let now = self.cluster.clock.now();
        let key = guard.key().clone();
        let decoded = loader::run(|| {
            let value = self.codec.decode(answer.value)?;
            let weight = self.weigh(key.text(), &value);
            Ok::<_, crate::codec::CodecError>((value, weight))
        });
        let (value, weight) = match decoded {
            Ok(Ok(decoded)) => decoded,
            Ok(Err(error)) => return self.cannot_decode(&error.to_string()),
            Err(panicked) => return self.cannot_decode(&panicked.0),
        };
        let mut landed = Landed {
            value,
            source: Source::Peer,
            expires: answer.remaining.and_then(|life| now.checked_add(life)),
        };
        let dice = self.dice.fetch_add(1, Ordering::Relaxed);
        if let Some(until) = self.mirroring.life(answer.rate, landed.expires, now, dice) {
            let owners_expiry = landed.expires.replace(until);
            self.keep(guard, Place::Hot, &landed, weight, now);
            landed.expires = owners_expiry;
        }
        Some(landed)
    }

    fn cannot_decode(&self, reason: &str) -> Option<Landed<V>> {
        log::warn!(
            target: "groupcache", group = self.name.as_str(), error = reason;
            "cannot decode a value of a peer; it is loaded here"
        );
        None
    }

    /// Step 3: the flight that ended just before this one began may have left the value.
    fn land_if_cached(&self, guard: Guard<Outcome<V>>) -> Result<Landed<V>, Guard<Outcome<V>>> {
        match self.cache.recheck(guard.key().as_ref()) {
            Some(found) => {
                let landed = Landed::from(found);
                guard.finish(Ok(landed.clone()));
                Ok(landed)
            }
            None => Err(guard),
        }
    }

    fn outcome_of(&self, waiter: Waiter<Outcome<V>>) -> Waited<V> {
        match waiter.wait(&self.cluster.clock) {
            Ok(Delivery::Finished(outcome)) => Waited::Outcome(outcome.map(Landed::joined)),
            Ok(Delivery::Lead(guard)) => Waited::Lead(guard),
            Ok(Delivery::Released) => Waited::Again,
            Ok(Delivery::Abandoned) => Waited::Outcome(Err(lost_leader())),
            Err(Missed::Deadline) => Waited::Outcome(Err(Error::Deadline)),
            Err(Missed::Cycle) => Waited::Outcome(Err(Error::Cycle)),
        }
    }

    /// What a value is charged for (I4).
    fn weigh(&self, key: &str, value: &V) -> usize {
        let weight = match &self.weigher {
            Some(weigher) => weigher(value),
            None => self.codec.weight(value),
        };
        weight
            .saturating_add(key.len())
            .saturating_add(ENTRY_OVERHEAD)
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

    fn stats(&self) -> GroupStats {
        let counts = self.cache.counts();
        let counters = &self.counters;
        let (joined, leads) = (counters.joined.get(), counters.leads.get());
        GroupStats {
            gets: counts.main_hits + counts.hot_hits + joined + leads,
            main_hits: counts.main_hits,
            hot_hits: counts.hot_hits,
            joined,
            leads,
            loads: counters.loads.get(),
            load_errors: counters.load_errors.get(),
            fetches: counters.fetches.get(),
            fetch_errors: counters.fetch_errors.get(),
            served: counters.served.get(),
            served_hits: counters.served_hits.get(),
            removes: counters.removes.get(),
            evictions: counts.evictions,
            main_items: counts.main_items as u64,
            hot_items: counts.hot_items as u64,
            main_bytes: counts.main_bytes as u64,
            hot_bytes: counts.hot_bytes as u64,
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

/// What waiting came to.
enum Waited<V: Cacheable> {
    Outcome(Outcome<V>),
    Lead(Guard<Outcome<V>>),
    Again,
}

/// A load that the pool runs.
struct PooledLoad<V: Cacheable> {
    group: Arc<Shared<V>>,
    queued: Arc<Queued<Outcome<V>>>,
    deadline: Deadline,
    role: Role,
}

impl<V: Cacheable> Job for PooledLoad<V> {
    fn run(self: Box<Self>) {
        if let Some(guard) = self.queued.take() {
            // Its outcome reaches those who wait, by the guard.
            let _ = self.group.run_loader(guard, self.deadline, self.role);
        }
    }

    fn is_wanted(&self) -> bool {
        self.queued.is_waiting()
    }
}

impl Lives {
    /// The life of a value whose loader says `ttl`; `None` lives until evicted.
    fn of(&self, ttl: Option<Duration>, key: KeyRef<'_>) -> Option<Duration> {
        let life = match (ttl.or(self.default), self.max) {
            (Some(life), Some(max)) => life.min(max),
            (life, max) => life.or(max)?,
        };
        Some(life.mul_f64(1.0 - self.jitter * key.fraction()))
    }
}

/// Whether a get with this deadline runs a load itself: if it may take as long as it likes, and
/// always inside a loader, which must not wait for another thread of the pool.
fn leads_at_once(deadline: Deadline) -> bool {
    deadline.is_never() || loader::inside_a_loader()
}

fn check_key(key: &str) -> Result<(), Error> {
    // No encoding is more than three times as long: most keys need not be looked at.
    if key.len() > MAX_KEY_BYTES / 3 {
        let bytes = wire::encoded_len(key);
        if bytes > MAX_KEY_BYTES {
            return Err(Error::KeyTooLong { bytes });
        }
    }
    Ok(())
}

fn lost_leader() -> Error {
    Error::Panicked {
        message: "the thread that led the load was lost to a panic".into(),
    }
}
