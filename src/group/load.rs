//! Step 4, where this process loads: by this thread, by the pool, or by whoever does already.

use std::collections::HashMap;
use std::time::Duration;

use super::{BatchLoader, Count, Landed, Outcome, Shared, Source, Waited, charge, lost_leader};
use crate::deadline::Deadline;
use crate::entry::Place;
use crate::error::Error;
use crate::flight::{Delivery, Guard, Missed, Part, Queued, Waiter};
use crate::key::KeyRef;
use crate::loader::{self, Load, LoadError, Loaded, Panicked};
use crate::pool::{Job, Refused};
use crate::sync::{Arc, AtomicUsize, Ordering};
use crate::value::Cacheable;

/// On whose account a value is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// This process owns the key, or a peer says so.
    Owner,
    /// The owner is away.
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

    /// Loads the value of a flight that this thread leads.
    pub(super) fn lead_load(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
        role: Role,
    ) -> Outcome<V> {
        let guard = match self.land_if_cached(guard) {
            Ok(outcome) => return outcome,
            Err(guard) => guard,
        };
        if leads_at_once(deadline) {
            return self.run_loader(guard, deadline, role);
        }
        let queueing = self.queue_load(guard, deadline, role)?;
        self.wait_for_load(queueing, deadline, role)
    }

    /// Waits for a load that was left to the pool.
    pub(super) fn wait_for_load(
        self: &Arc<Self>,
        (waiter, queued): Queueing<V>,
        deadline: Deadline,
        role: Role,
    ) -> Outcome<V> {
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
    pub(super) fn queue_load(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
        role: Role,
    ) -> Result<Queueing<V>, Error> {
        let (waiter, queued) = queue(guard, deadline);
        let queued_here = [Arc::clone(&queued)];
        let Err(refused) = self.have_loaded(queued_here.into(), 1, deadline, role) else {
            return Ok((waiter, queued));
        };
        let Some(guard) = queued.take() else {
            return Ok((waiter, queued)); // somebody leads it already
        };
        drop(waiter);
        guard.hand_over(self.cluster.clock.now());
        Err(refused)
    }

    /// Has loads that wait in their flights run by the pool: by one thread if all are loaded at
    /// once, else by as many as there are, but no more than `most`.
    pub(super) fn have_loaded(
        self: &Arc<Self>,
        queued: Arc<[Arc<Queued<Outcome<V>>>]>,
        most: usize,
        deadline: Deadline,
        role: Role,
    ) -> Result<(), Error> {
        let pool = &self.cluster.pool;
        let jobs = match self.batch_loader {
            Some(_) => queued.len().min(1),
            None => queued.len().min(pool.max_threads()).min(most),
        };
        let next = Arc::new(AtomicUsize::new(0));
        for job in 0..jobs {
            let submitted = pool.submit(Box::new(PooledLoads {
                group: Arc::clone(self),
                queued: Arc::clone(&queued),
                next: Arc::clone(&next),
                deadline,
                role,
            }));
            match submitted {
                Ok(()) => {}
                Err(_) if job > 0 => break, // those that were taken do it all
                Err(Refused::Full) => {
                    self.report_full_pool();
                    return Err(Error::Overloaded);
                }
                Err(Refused::Closed) => return Err(Error::Overloaded),
                Err(Refused::NoThread(source)) => {
                    return Err(Error::Thread {
                        source: Arc::new(source),
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn run_loader(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
        role: Role,
    ) -> Outcome<V> {
        let guard = match role {
            Role::Owner => match self.inherit(guard, deadline) {
                Ok(outcome) => return outcome,
                Err(guard) => guard,
            },
            Role::Fallback => guard,
        };
        let Some(permit) = self.bulkhead.enter(&self.name) else {
            return refuse(guard);
        };
        let leading = guard.lead();
        self.counters.loads.add();
        // Weighing is foreign code too, as a codec may be.
        let key = guard.key().text();
        let load = || {
            let loaded = self.loader.load(&Load::new(key, deadline));
            loaded.map(|loaded| self.weighed(loaded))
        };
        let loaded = self.timed_load(&[key], || loader::run(load));
        drop((leading, permit));
        self.land_load(guard, outcome_of(loaded), role)
    }

    /// Loads the values of several flights at once.
    pub(super) fn run_batch_loader(
        self: &Arc<Self>,
        load_many: &BatchLoader<V>,
        guards: Vec<Guard<Outcome<V>>>,
        role: Role,
    ) -> Vec<Outcome<V>> {
        if role == Role::Fallback {
            return self.load_together(load_many, guards, role);
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
        let mut loaded = self.load_together(load_many, rest, role).into_iter();
        let or_loaded = |outcome: Option<_>| outcome.or_else(|| loaded.next());
        outcomes.into_iter().filter_map(or_loaded).collect()
    }

    fn load_together(
        self: &Arc<Self>,
        load_many: &BatchLoader<V>,
        guards: Vec<Guard<Outcome<V>>>,
        role: Role,
    ) -> Vec<Outcome<V>> {
        if guards.is_empty() {
            return Vec::new();
        }
        let Some(permit) = self.bulkhead.enter(&self.name) else {
            return guards.into_iter().map(refuse).collect();
        };
        let leading: Vec<_> = guards.iter().map(Guard::lead).collect();
        self.counters.loads.add_many(guards.len());
        let keys: Vec<&str> = guards.iter().map(|guard| guard.key().text()).collect();
        let load = || {
            let found = load_many(&keys)?;
            let weighed = |(key, loaded)| (key, self.weighed(loaded));
            Ok(found.into_iter().map(weighed).collect::<HashMap<_, _>>())
        };
        let loaded = self.timed_load(&keys, || loader::run(load));
        drop((leading, permit));
        let mut loaded = outcome_of(loaded);
        let land = |guard: Guard<Outcome<V>>| {
            let of_key = match &mut loaded {
                Ok(found) => found.remove(guard.key().text()).ok_or(Error::NotFound),
                Err(error) => Err(error.clone()),
            };
            self.land_load(guard, of_key, role)
        };
        guards.into_iter().map(land).collect()
    }

    fn weighed(&self, loaded: Loaded<V>) -> (Loaded<V>, usize) {
        let weight = self.weigh(&loaded.value);
        (loaded, weight)
    }

    /// Ends the flight of a load.
    fn land_load(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        loaded: Result<(Loaded<V>, usize), Error>,
        role: Role,
    ) -> Outcome<V> {
        let outcome = loaded.map(|(loaded, weight)| self.keep_loaded(&guard, loaded, weight, role));
        if let Err(error) = &outcome {
            self.counters.load_errors.add();
            if matches!(error, Error::NotFound) {
                self.keep_absence(&guard, role);
            }
        }
        guard.finish(outcome.clone());
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
    /// there it lives no longer than a value whose owner is away.
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
    ) -> Landed<V> {
        let now = self.cluster.clock.now();
        let key = guard.key().as_ref();
        let mut life = self.life_in_list(self.lives.of(loaded.ttl, key));
        let mut place = Place::Main;
        if role == Role::Fallback {
            let fallback = self.cluster.settings.fallback_life;
            life = Some(life.map_or(fallback, |life| life.min(fallback)));
            if self.cache.fits(Place::Hot, charge(key, weight)) {
                place = Place::Hot;
            }
        }
        let landed = Landed {
            value: loaded.value,
            source: Source::Load,
            expires: life.and_then(|life| now.checked_add(life)),
            weight,
        };
        self.keep(guard, place, &landed, now);
        landed
    }
}

/// The seat of one whose load is queued, and the hold on that.
pub(super) type Queueing<V> = (Waiter<Outcome<V>>, Arc<Queued<Outcome<V>>>);

/// Leaves a guard in its flight, for whoever can lead first.
pub(super) fn queue<V: Cacheable>(guard: Guard<Outcome<V>>, deadline: Deadline) -> Queueing<V> {
    let (waiter, queued) = guard.queue(deadline);
    (waiter, Arc::new(queued))
}

/// Loads that the pool runs; several jobs may share them.
struct PooledLoads<V: Cacheable> {
    group: Arc<Shared<V>>,
    queued: Arc<[Arc<Queued<Outcome<V>>>]>,
    /// The first that no job has looked at.
    next: Arc<AtomicUsize>,
    deadline: Deadline,
    role: Role,
}

impl<V: Cacheable> Job for PooledLoads<V> {
    fn run(self: Box<Self>) {
        // What comes of a load reaches those who wait, by its guard.
        if let Some(load_many) = self
            .group
            .batch_loader
            .as_ref()
            .filter(|_| self.queued.len() > 1)
        {
            let guards = self.queued.iter().filter_map(|queued| queued.take());
            let guards: Vec<_> = guards.collect();
            if !guards.is_empty() {
                let _ = self.group.run_batch_loader(load_many, guards, self.role);
            }
            return;
        }
        while let Some(queued) = self.queued.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(guard) = queued.take() {
                let _ = self.group.run_loader(guard, self.deadline, self.role);
            }
        }
    }

    fn is_wanted(&self) -> bool {
        self.queued.iter().any(|queued| queued.is_waiting())
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

/// Whether a get with this deadline runs a load itself: if it may take as long as it likes, and
/// always inside a loader, which must not wait for another thread of the pool.
pub(super) fn leads_at_once(deadline: Deadline) -> bool {
    deadline.is_never() || loader::inside_a_loader()
}
