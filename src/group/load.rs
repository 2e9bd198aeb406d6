//! Step 4, where this process loads: by this thread, by the pool, or by whoever does already.
//!
//! A get without a deadline runs the loader on its own thread. For one with a deadline, and for
//! peers, the flight is queued: it has no leader, and those who ask for it only wait. The pool
//! runs it, or a get without a deadline that comes first.

use std::time::Duration;

use super::{BatchLoader, Count, Obtained, Outcome, Shared, Source, charge, lost_leader};
use crate::cache::entry::{Stored, Tier};
use crate::cache::key::KeyRef;
use crate::error::Error;
use crate::flight::table::{Guard, Join, Joined, Queued, WaitOutcome, Waiter};
use crate::loader::{Load, LoadError, Loaded, Panicked};
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::pool::{self, Job, Refused, Work};
use crate::runtime::sync::{Arc, OnceLock, Ordering};
use crate::runtime::user_code;
use crate::value::Cacheable;

/// On whose account a value is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// This process owns the key, or a peer says so.
    Owner,
    /// The owner is unreachable.
    Fallback,
}

impl<V: Cacheable> Shared<V> {
    /// Has the value loaded here: by this thread, by one of the pool, or by one that does already.
    pub(super) fn load(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        deadline: Deadline,
        role: Role,
        mut count: Count,
    ) -> Outcome<V> {
        loop {
            if deadline.is_past(self.cluster.clock.now()) {
                return Err(Error::Deadline);
            }
            let (waiter, is_own) = if deadline.is_never() {
                match self.loads.join(key, deadline, Join::Lead) {
                    Joined::Lead(guard) => {
                        self.count_lead(&mut count);
                        return self.lead_load(guard, role);
                    }
                    Joined::Wait(waiter) => (waiter, false),
                }
            } else {
                let (waiter, queued) = self.loads.queue(key, deadline);
                let is_own = queued.is_some();
                let flow = Flow::Application;
                self.queue_loads(queued.into_iter().collect(), usize::MAX, role, flow);
                if !is_own {
                    self.queue_too([&waiter], usize::MAX, role, flow);
                }
                (waiter, is_own)
            };
            if is_own {
                self.count_lead(&mut count);
            } else {
                self.count_joined(&mut count);
            }
            return match self.wait_for(&waiter, deadline) {
                WaitOutcome::Finished(outcome) if is_own => outcome,
                // To others: this one is part of a load that has its place.
                WaitOutcome::Finished(Err(Error::Overloaded)) if user_code::inside_a_loader() => {
                    continue;
                }
                WaitOutcome::Finished(outcome) => outcome.map(Obtained::joined),
                WaitOutcome::Lead(guard) => self.lead_load(guard, role),
                WaitOutcome::Again => match self.failed_lately(key) {
                    Some(outcome) => outcome,
                    None => continue,
                },
                WaitOutcome::Lost => Err(lost_leader()),
                WaitOutcome::Late if waiter.is_queued() => Err(Error::Overloaded),
                WaitOutcome::Late => Err(Error::Deadline),
                WaitOutcome::Cycle => Err(Error::Cycle),
            };
        }
    }

    /// Loads the value of a flight on this thread, however long that takes.
    pub(super) fn lead_load(self: &Arc<Self>, guard: Guard<Outcome<V>>, role: Role) -> Outcome<V> {
        if guard.is_led_twice() {
            guard.release();
            return Err(Error::Cycle);
        }
        match self.land_if_cached(guard) {
            Ok(outcome) => outcome,
            Err(guard) => self.run_load(guard, Deadline::NEVER, role, user_code::inside_a_loader()),
        }
    }

    /// Gives flights that others have queued a place among what `origin` has queued too: they run when
    /// the first of their places has its turn. Those that a load waits for do not wait for their turn
    /// among all.
    pub(super) fn queue_too<'a>(
        self: &Arc<Self>,
        waiters: impl IntoIterator<Item = &'a Waiter<Outcome<V>>>,
        at_once: usize,
        role: Role,
        flow: Flow,
    ) {
        let flow = pool::effective_flow(flow);
        let waiters = waiters.into_iter();
        let queued: Vec<_> = waiters
            .filter_map(|waiter| waiter.queued_besides(flow))
            .collect();
        // Where there is no room, they keep the places they have.
        self.offer_loads(&queued, at_once, role, flow);
    }

    /// Leaves new flights to the pool for `origin`, `at_once` of them at a time, and to whoever runs them before
    /// it gets to them. Those that cannot be queued end with the reason.
    pub(super) fn queue_loads(
        self: &Arc<Self>,
        mut queued: Vec<Queued<Outcome<V>>>,
        at_once: usize,
        role: Role,
        flow: Flow,
    ) {
        queued.retain(|queued| !self.finish_if_cached(queued));
        let Some((taken, refused)) = self.offer_loads(&queued, at_once, role, flow) else {
            return;
        };
        for queued in &queued[taken..] {
            if let Some(guard) = queued.start(self.cluster.clock.now()) {
                guard.finish(Err(refused.clone()));
            }
        }
    }

    /// Has the pool run flights that are queued, `at_once` of them at a time, unless somebody else
    /// does first. Where it does not take all of them, tells how many it has taken, and why.
    pub(super) fn offer_loads(
        self: &Arc<Self>,
        queued: &[Queued<Outcome<V>>],
        at_once: usize,
        role: Role,
        flow: Flow,
    ) -> Option<(usize, Error)> {
        if queued.is_empty() {
            return None;
        }
        let pool = &self.cluster.pool;
        let (places, refused) = match pool.submit(self.works(queued, role), at_once, flow) {
            Ok(places) => (places, Error::Overloaded),
            Err(Refused::Full | Refused::Closed) => (Vec::new(), Error::Overloaded),
            Err(Refused::NoThread(source)) => {
                let source = Arc::new(source);
                (Vec::new(), Error::Thread { source })
            }
        };
        for (queued, &tier) in queued.iter().zip(&places) {
            queued.hold(pool::effective_flow(flow), Box::new(pool.ticket(tier)));
        }
        if places.len() == queued.len() {
            return None;
        }
        self.report_full_pool();
        Some((places.len(), refused))
    }

    /// The jobs that run these flights: one for all where they are loaded together.
    fn works(self: &Arc<Self>, queued: &[Queued<Outcome<V>>], role: Role) -> Vec<Work> {
        let is_part = user_code::inside_a_loader();
        let work = |queued: &[Queued<Outcome<V>>]| Work {
            key_bytes: queued.iter().map(Queued::key_bytes).collect(),
            job: Box::new(PooledLoads {
                group: Arc::clone(self),
                queued: queued.to_vec(),
                role,
                is_part,
            }),
        };
        match self.batch_loader {
            Some(_) => vec![work(queued)],
            None => queued.chunks(1).map(work).collect(),
        }
    }

    /// Step 3 for a flight that is queued; tells whether it has ended.
    pub(super) fn finish_if_cached(&self, queued: &Queued<Outcome<V>>) -> bool {
        let Some(key) = queued.key() else {
            return true; // nobody wants it any more
        };
        let Some(outcome) = self.recheck(key.as_ref()) else {
            return false;
        };
        if let Some(guard) = queued.start(self.cluster.clock.now()) {
            guard.finish(outcome);
        }
        true
    }

    /// Runs the loader for a flight. If it failed only after `deadline`, it was too late for those it
    /// was run for, and may have failed for that: those with time left ask anew, for another run.
    pub(super) fn run_load(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
        role: Role,
        is_part: bool,
    ) -> Outcome<V> {
        let guard = match role {
            Role::Owner => match self.inherit(guard, deadline) {
                Ok(outcome) => return outcome,
                Err(guard) => guard,
            },
            Role::Fallback => guard,
        };
        let Some(permit) = self.bulkhead.enter(&self.name, is_part) else {
            return refuse(guard);
        };
        let loaded = self.run_loader(&guard, deadline);
        drop(permit);
        self.land_load(guard, deadline, loaded, role)
    }

    fn run_loader(
        &self,
        guard: &Guard<Outcome<V>>,
        deadline: Deadline,
    ) -> Result<(Loaded<V>, usize), Error> {
        let leading = guard.lead();
        self.counters.loads.add();
        let key = guard.key().text();
        let load = || self.loader.load(&Load::new(key, deadline));
        let loaded = self.timed_load(&[key], || user_code::load(load));
        let loaded = outcome_of(loaded).and_then(|loaded| self.weigh_loaded(loaded));
        drop(leading);
        loaded
    }

    /// Loads the values of several flights at once.
    pub(super) fn run_batch_loader(
        self: &Arc<Self>,
        load_many: &BatchLoader<V>,
        guards: Vec<Guard<Outcome<V>>>,
        role: Role,
        is_part: bool,
    ) -> Vec<Outcome<V>> {
        if role == Role::Fallback {
            return self.load_together(load_many, guards, role, is_part);
        }
        let mut outcomes = Vec::with_capacity(guards.len());
        let mut rest = Vec::new();
        for inherited in self.inherit_many(guards, Deadline::NEVER) {
            match inherited {
                Ok(outcome) => outcomes.push(Some(outcome)),
                Err(guard) => {
                    outcomes.push(None);
                    rest.push(guard);
                }
            }
        }
        let loaded = self.load_together(load_many, rest, role, is_part);
        let mut loaded = loaded.into_iter();
        let or_loaded = |outcome: Option<_>| outcome.or_else(|| loaded.next());
        outcomes.into_iter().filter_map(or_loaded).collect()
    }

    fn load_together(
        self: &Arc<Self>,
        load_many: &BatchLoader<V>,
        guards: Vec<Guard<Outcome<V>>>,
        role: Role,
        is_part: bool,
    ) -> Vec<Outcome<V>> {
        if guards.is_empty() {
            return Vec::new();
        }
        let Some(permit) = self.bulkhead.enter(&self.name, is_part) else {
            return guards.into_iter().map(refuse).collect();
        };
        let leading: Vec<_> = guards.iter().map(Guard::lead).collect();
        self.counters.loads.add_many(guards.len());
        let keys: Vec<&str> = guards.iter().map(|guard| guard.key().text()).collect();
        let loaded = self.timed_load(&keys, || user_code::load(|| load_many(&keys)));
        drop(permit);
        let mut loaded = outcome_of(loaded);
        let land = |guard: Guard<Outcome<V>>| {
            let of_key = match &mut loaded {
                Ok(found) => found.remove(guard.key().text()).ok_or(Error::NotFound),
                Err(error) => Err(error.clone()),
            };
            let of_key = of_key.and_then(|loaded| self.weigh_loaded(loaded));
            self.land_load(guard, Deadline::NEVER, of_key, role)
        };
        let outcomes = guards.into_iter().map(land).collect();
        drop(leading);
        // Values of keys that nobody asked for: each by itself, should one of them panic.
        let unasked = loaded.into_iter().flatten();
        unasked.for_each(|(_, loaded)| user_code::dispose(loaded));
        outcomes
    }

    fn weigh_loaded(&self, loaded: Loaded<V>) -> Result<(Loaded<V>, usize), Error> {
        let Loaded { value, ttl } = loaded;
        let (value, weight) = self.weighed(value)?;
        Ok((Loaded { value, ttl }, weight))
    }

    /// A value with its weight. Weighing is user code too, as a codec may be: if it panics, the
    /// value is not dropped by the panic, as its drop may panic again, nor while flights are led, as it
    /// may ask for what they bring.
    pub(super) fn weighed(&self, value: V) -> Result<(V, usize), Panicked> {
        match user_code::load(|| self.weigh(&value)) {
            Ok(weight) => Ok((value, weight)),
            Err(panicked) => {
                user_code::defer_drop(value);
                Err(panicked)
            }
        }
    }

    /// Ends the flight of a load that was to be over by `deadline`.
    fn land_load(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
        loaded: Result<(Loaded<V>, usize), Error>,
        role: Role,
    ) -> Outcome<V> {
        let outcome = loaded.map(|(loaded, weight)| self.keep_loaded(&guard, loaded, weight, role));
        self.note_load(&guard, &outcome, role);
        if let Err(error) = &outcome {
            self.counters.load_errors.add();
            if matches!(error, Error::NotFound) {
                self.keep_absence(&guard, role);
            }
        }
        match &outcome {
            Err(Error::Load { .. } | Error::Panicked { .. })
                if deadline.is_past(self.cluster.clock.now()) =>
            {
                guard.finish_until(deadline, outcome.clone());
            }
            _ => guard.finish(outcome.clone()),
        }
        outcome
    }

    /// Lets a value go that is past its expiry: there is none any more. Keeps that, if it is to be
    /// kept.
    fn keep_absence(self: &Arc<Self>, guard: &Guard<Outcome<V>>, role: Role) {
        if guard.stale().load(Ordering::Acquire) {
            return;
        }
        let key = guard.key().as_ref();
        self.cache.remove(key);
        if let Some(absences) = &self.absences {
            let fallback_life = self.cluster.settings.fallback_life;
            let limit = (role == Role::Fallback).then_some(fallback_life);
            absences.keep(key, self.cluster.clock.now(), limit, guard.stale());
            self.have_swept();
        }
    }

    /// The life of a value that this node owns. Nobody tells a node of removals that is in no list:
    /// there it lives no longer than a value whose owner is unreachable.
    pub(super) fn life_in_list(&self, life: Option<Duration>) -> Option<Duration> {
        if self.cluster.members().has_this() {
            return life;
        }
        let fallback = self.cluster.settings.fallback_life;
        Some(life.map_or(fallback, |life| life.min(fallback)))
    }

    /// Puts what was loaded where it belongs.
    fn keep_loaded(
        self: &Arc<Self>,
        guard: &Guard<Outcome<V>>,
        loaded: Loaded<V>,
        weight: usize,
        role: Role,
    ) -> Obtained<V> {
        let now = self.cluster.clock.now();
        let key = guard.key().as_ref();
        let mut life = self.life_in_list(self.lives.of(loaded.ttl, key));
        let mut tier = Tier::Main;
        if role == Role::Fallback {
            let fallback = self.cluster.settings.fallback_life;
            life = Some(life.map_or(fallback, |life| life.min(fallback)));
            if self.cache.fits(Tier::Hot, charge(key, weight)) {
                tier = Tier::Hot;
            }
        }
        let obtained = Obtained {
            value: Stored::new(loaded.value),
            source: Source::Load,
            expires: life.and_then(|life| now.checked_add(life)),
            weight,
            encoded: Some(Arc::new(OnceLock::new())),
        };
        self.keep(guard, tier, &obtained, now);
        obtained
    }
}

/// Flights that a job of the pool runs: one, or several that are loaded together.
struct PooledLoads<V: Cacheable> {
    group: Arc<Shared<V>>,
    queued: Vec<Queued<Outcome<V>>>,
    role: Role,
    /// Whether they were queued inside a loader, whose place they share.
    is_part: bool,
}

impl<V: Cacheable> Job for PooledLoads<V> {
    fn run(self: Box<Self>) {
        let now = self.group.cluster.clock.now();
        let started = self.queued.iter().filter_map(|queued| queued.start(now));
        let mut guards: Vec<_> = started.collect();
        // What comes of a load reaches those who wait, by its guard.
        match (&self.group.batch_loader, guards.len()) {
            (Some(load_many), 2..) => {
                let group = &self.group;
                let _ = group.run_batch_loader(load_many, guards, self.role, self.is_part);
            }
            _ => {
                if let Some(guard) = guards.pop() {
                    let deadline = guard.latest_deadline().unwrap_or(Deadline::NEVER);
                    let group = &self.group;
                    let _ = group.run_load(guard, deadline, self.role, self.is_part);
                }
            }
        }
    }
}

/// Ends a flight whose load has no place.
fn refuse<V: Cacheable>(guard: Guard<Outcome<V>>) -> Outcome<V> {
    guard.finish(Err(Error::Overloaded));
    Err(Error::Overloaded)
}

/// What running a loader came to.
fn outcome_of<T>(loaded: Result<Result<T, LoadError>, Panicked>) -> Result<T, Error> {
    match loaded {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(LoadError::NotFound)) => Err(Error::NotFound),
        Ok(Err(LoadError::Failed(source))) => Err(Error::Load { source }),
        Err(panicked) => Err(Error::Panicked {
            message: panicked.0.into(),
        }),
    }
}
