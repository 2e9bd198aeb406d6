//! Step 4, where this process loads: by this thread, by the pool, or by a thread that does already.
//!
//! A get without a deadline runs the loader on its own thread. For a get with a deadline, and for
//! peers, the flight is queued (`queue.rs`): it has no leader, and its callers only wait.

use std::time::Duration;

use super::counters::Count;
use super::entry::Source;
use super::outcome::{Obtained, Outcome, lost_leader};
use super::shared::Shared;
use super::weight::charge;
use crate::cache::entry::{Stored, Tier};
use crate::cache::key::KeyRef;
use crate::error::Error;
use crate::flight::flights::{Join, Joined};
use crate::flight::leader::{Guard, WaitOutcome};
use crate::loader::{Load, LoadError, Loaded, Panicked};
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::sync::{Arc, OnceLock};
use crate::runtime::user_code;
use crate::value::Cacheable;

/// Why this process loads a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It owns the key, or a peer says so.
    Owner,
    /// It is the deputy of an owner that is unreachable for it, or for the peer that asks.
    Deputy,
    /// Neither the owner nor the deputy is reachable.
    Fallback,
}

impl<V: Cacheable> Shared<V> {
    /// Has the value loaded in this process: by this thread, by one of the pool, or by one that does
    /// already.
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
                        self.counters.count_lead(&mut count);
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
                self.counters.count_lead(&mut count);
            } else {
                self.counters.count_joined(&mut count);
            }
            return match self.wait_for(&waiter, deadline) {
                WaitOutcome::Finished(outcome) if is_own => outcome,
                // The refusal is for the other waiters: this get is part of a load that has its permit.
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
        match self.finish_if_cached(guard, role) {
            Ok(outcome) => outcome,
            Err(guard) => self.run_load(guard, Deadline::NEVER, role, user_code::inside_a_loader()),
        }
    }

    /// Runs the loader for a flight, and ends the flight. A load that fails after `deadline` was too
    /// late for those it was run for, and may have failed for that: waiters with time left join anew,
    /// for another run.
    pub(super) fn run_load(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
        role: Role,
        is_part: bool,
    ) -> Outcome<V> {
        let guard = match role {
            Role::Owner => match self.take_over(guard, deadline) {
                Ok(outcome) => return outcome,
                Err(guard) => guard,
            },
            Role::Deputy | Role::Fallback => guard,
        };
        let Some(permit) = self.bulkhead.enter(&self.name, is_part) else {
            return refuse(guard);
        };
        let loaded = self.run_loader(&guard, deadline);
        drop(permit);
        self.finish_load(guard, deadline, loaded, role)
    }

    fn run_loader(
        &self,
        guard: &Guard<Outcome<V>>,
        deadline: Deadline,
    ) -> Result<(Loaded<V>, usize), Error> {
        let leading = guard.lead();
        self.counters.loads.add();
        self.counters.loader_runs.add();
        let key = guard.key().text();
        let load = || self.loader.load(&Load::new(key, deadline));
        let loaded = self.timed_load(&[key], || user_code::load(load));
        let loaded = result_of(loaded).and_then(|loaded| self.weigh_loaded(loaded));
        drop(leading);
        loaded
    }

    /// Runs the loader for `keys`, records how long that takes, and reports it if it takes too long.
    pub(super) fn timed_load<R>(&self, keys: &[&str], load: impl FnOnce() -> R) -> R {
        let began = self.cluster.clock.now();
        let loaded = load();
        let now = self.cluster.clock.now();
        let took = now.saturating_duration_since(began);
        self.timings.record_load(took);
        if took >= self.slow_load {
            self.reports.slow_load(&self.name, keys, took, now);
        }
        loaded
    }

    pub(super) fn weigh_loaded(&self, loaded: Loaded<V>) -> Result<(Loaded<V>, usize), Error> {
        let Loaded { value, ttl } = loaded;
        let (value, weight) = self.weighed(value)?;
        Ok((Loaded { value, ttl }, weight))
    }

    /// A value with its weight. Weighing is user code, as a codec may be: if it panics, the value is
    /// not dropped by the panic, as its drop may panic again, nor while this thread leads flights, as
    /// its drop may get their keys.
    pub(super) fn weighed(&self, value: V) -> Result<(V, usize), Panicked> {
        match user_code::load(|| self.weigh(&value)) {
            Ok(weight) => Ok((value, weight)),
            Err(panicked) => {
                user_code::defer_drop(value);
                Err(panicked)
            }
        }
    }

    /// Runs the weigher, or asks the codec.
    pub(super) fn weigh(&self, value: &V) -> usize {
        match &self.weigher {
            Some(weigher) => weigher(value),
            None => self.codec.weight(value),
        }
    }

    /// Keeps what was loaded, and ends its flight. The load was to be over by `deadline`.
    pub(super) fn finish_load(
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

    /// Notes the outcome of a load: that it failed, or that the failures of its key are over.
    fn note_load(&self, guard: &Guard<Outcome<V>>, outcome: &Outcome<V>, role: Role) {
        let key = guard.key().as_ref();
        let error = match outcome {
            Err(error @ (Error::Load { .. } | Error::Panicked { .. })) => error,
            Ok(_) | Err(Error::NotFound) => return self.failures.remove(key),
            Err(_) => return,
        };
        let now = self.cluster.clock.now();
        let renewed_here = role == Role::Owner;
        self.failures
            .note(key, error, renewed_here, now, guard.stale());
        self.schedule_sweep();
    }

    /// Drops a value past its expiry, as there is no value any more. Remembers that, if the group keeps
    /// absences.
    fn keep_absence(self: &Arc<Self>, guard: &Guard<Outcome<V>>, role: Role) {
        let key = guard.key().as_ref();
        self.cache.remove_unless(key, guard.stale());
        if let Some(absences) = &self.absences {
            let limit = self.longest_life(role);
            absences.keep(key, self.cluster.clock.now(), limit, guard.stale());
            self.schedule_sweep();
        }
    }

    /// The longest life of what this process loads in this role; `None` if there is no limit.
    fn longest_life(&self, role: Role) -> Option<Duration> {
        match role {
            Role::Owner => None,
            Role::Deputy => Some(self.cluster.settings.deputy_life),
            Role::Fallback => Some(self.cluster.settings.fallback_life),
        }
    }

    /// The life of a value that this node owns. A node that is in no list of peers receives no removals:
    /// there a value lives no longer than one whose owner is unreachable.
    pub(super) fn life_in_list(&self, life: Option<Duration>) -> Option<Duration> {
        if self.cluster.members().has_this() {
            return life;
        }
        let fallback = self.cluster.settings.fallback_life;
        Some(life.map_or(fallback, |life| life.min(fallback)))
    }

    /// Puts a loaded value into the main cache, or into the hot cache if the load is a fallback.
    fn keep_loaded(
        self: &Arc<Self>,
        guard: &Guard<Outcome<V>>,
        loaded: Loaded<V>,
        weight: usize,
        role: Role,
    ) -> Obtained<V> {
        let now = self.cluster.clock.now();
        let key = guard.key().as_ref();
        let life = self.life_in_list(self.lifetimes.of(loaded.ttl, key));
        let life = [life, self.longest_life(role)].into_iter().flatten().min();
        let fits_hot = || self.cache.fits(Tier::Hot, charge(key, weight));
        let tier = match role {
            Role::Fallback if fits_hot() => Tier::Hot,
            _ => Tier::Main,
        };
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

/// Ends a flight whose load the bulkhead has refused.
pub(super) fn refuse<V: Cacheable>(guard: Guard<Outcome<V>>) -> Outcome<V> {
    guard.finish(Err(Error::Overloaded));
    Err(Error::Overloaded)
}

/// The result of running a loader.
pub(super) fn result_of<T>(loaded: Result<Result<T, LoadError>, Panicked>) -> Result<T, Error> {
    match loaded {
        Ok(Ok(loaded)) => Ok(loaded),
        Ok(Err(LoadError::NotFound)) => Err(Error::NotFound),
        Ok(Err(LoadError::Failed(source))) => Err(Error::Load { source }),
        Err(panicked) => Err(Error::Panicked {
            message: panicked.0.into(),
        }),
    }
}
