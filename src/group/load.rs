//! Step 4, where this process loads: by this thread, by the pool, or by whoever does already.

use super::{Count, Landed, Outcome, Shared, Source, Waited, charge, lost_leader};
use crate::deadline::Deadline;
use crate::entry::Place;
use crate::error::Error;
use crate::flight::{Delivery, Guard, Missed, Part, Queued, Waiter};
use crate::key::KeyRef;
use crate::loader::{self, Load, LoadError, Loaded};
use crate::pool::{Job, Refused};
use crate::sync::{Arc, Ordering};
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
    pub(super) fn queue_load(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
        role: Role,
    ) -> Result<Queueing<V>, Error> {
        let (waiter, queued) = guard.queue(deadline);
        let queued = Arc::new(queued);
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

    fn run_loader(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
        role: Role,
    ) -> Outcome<V> {
        let leading = guard.lead();
        let key = guard.key().clone();
        self.counters.loads.add();
        // Weighing is foreign code too, as a codec may be.
        let loaded = loader::run(|| {
            let loaded = self.loader.load(&Load::new(key.text(), deadline))?;
            let weight = self.weigh(&loaded.value);
            Ok((loaded, weight))
        });
        let outcome = match loaded {
            Ok(Ok((loaded, weight))) => Ok(self.keep_loaded(&guard, loaded, weight, role)),
            Ok(Err(LoadError::NotFound)) => {
                self.forget_stale(&guard);
                Err(Error::NotFound)
            }
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

    /// Lets a value go that is past its expiry: there is none any more.
    fn forget_stale(&self, guard: &Guard<Outcome<V>>) {
        if !guard.stale().load(Ordering::Acquire) {
            self.cache.remove(guard.key().as_ref());
        }
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
        let mut life = self.lives.of(loaded.ttl, key);
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
        };
        self.keep(guard, place, &landed, weight, now);
        landed
    }
}

/// The seat of one whose load is queued, and the hold on that.
type Queueing<V> = (Waiter<Outcome<V>>, Arc<Queued<Outcome<V>>>);

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

/// Whether a get with this deadline runs a load itself: if it may take as long as it likes, and
/// always inside a loader, which must not wait for another thread of the pool.
fn leads_at_once(deadline: Deadline) -> bool {
    deadline.is_never() || loader::inside_a_loader()
}
