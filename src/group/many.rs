//! The loading process for many keys at once: one request for each owner, all owners at once.
//!
//! A thread that leads several flights must not stand in the way of the loads it waits for, nor of
//! those it runs itself, which may get other keys of the same batch. So it runs loaders, and waits
//! for others, only while it holds no flight but the one that is being loaded: the guards of its
//! other loads lie in their flights, for whoever can lead first, and those of its fetches are
//! handed over before their keys are loaded here.

use std::collections::HashMap;

use super::load::{Queueing, Role, leads_at_once, queue};
use super::{Count, Outcome, Shared, Waited, check_key, lost_leader};
use crate::cluster::{Owner, Remote};
use crate::deadline::Deadline;
use crate::flight::{Guard, Part, Queued};
use crate::key::KeyRef;
use crate::loader::{self, BatchLoader};
use crate::pool::each_at_once;
use crate::sync::{Arc, RandomState};
use crate::value::Cacheable;
use crate::wire::MAX_KEYS;

/// A key that is not in memory, and where its answer belongs.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) at: usize,
    pub(super) key: KeyRef<'a>,
    /// Hits of a mirrored copy that its owner does not know of.
    pub(super) unreported: u32,
}

impl<'a> Wanted<'a> {
    /// The same, now that the owner knows of all hits.
    pub(super) fn reported(self) -> Wanted<'a> {
        Wanted {
            unreported: 0,
            ..self
        }
    }
}

/// Answers, and where they belong.
type Settled<V> = Vec<(usize, Outcome<V>)>;

/// The keys of one owner.
struct Share<'a> {
    owner: Owner,
    wanted: Vec<Wanted<'a>>,
}

impl<V: Cacheable> Shared<V> {
    pub(super) fn get_many<K: AsRef<str>>(
        self: &Arc<Self>,
        keys: &[K],
        deadline: Deadline,
    ) -> Vec<Outcome<V>> {
        let mut outcomes = Vec::with_capacity(keys.len());
        let mut wanted = Vec::new();
        let mut firsts: HashMap<&str, usize, RandomState> = HashMap::default();
        let mut repeats = Vec::new();
        for (at, key) in keys.iter().enumerate() {
            let key = self.cache.hash(key.as_ref());
            let local = self.get_local(key, deadline);
            outcomes.push(local.clone().unwrap_or_else(|_| Err(lost_leader())));
            if let Err(unreported) = local {
                match firsts.get(key.text()) {
                    Some(&first) => repeats.push((at, first)),
                    None => {
                        firsts.insert(key.text(), at);
                        wanted.push(Wanted {
                            at,
                            key,
                            unreported,
                        });
                    }
                }
            }
        }
        for (at, outcome) in self.bring_many(wanted, deadline) {
            outcomes[at] = outcome;
        }
        for (at, first) in repeats {
            outcomes[at] = outcomes[first].clone();
        }
        outcomes
    }

    /// What is in memory, or the hits of a mirrored copy that are not reported.
    fn get_local(self: &Arc<Self>, key: KeyRef<'_>, deadline: Deadline) -> Result<Outcome<V>, u32> {
        let found = self.cache.get(key)?;
        Ok(if found.is_stale {
            self.use_stale(key, found, deadline)
        } else {
            Ok(found.into())
        })
    }

    /// Steps 2 to 5 for many keys.
    fn bring_many(self: &Arc<Self>, wanted: Vec<Wanted<'_>>, deadline: Deadline) -> Settled<V> {
        let mut settled = Vec::with_capacity(wanted.len());
        let mut shares: Vec<Share<'_>> = Vec::new();
        let members = self.cluster.members();
        for wanted in wanted {
            if let Err(error) = check_key(wanted.key.text()) {
                settled.push((wanted.at, Err(error)));
                continue;
            }
            let owner = members.owner(wanted.key.text());
            match shares.iter_mut().find(|share| share.owner == owner) {
                Some(share) => share.wanted.push(wanted),
                None => shares.push(Share {
                    owner,
                    wanted: vec![wanted],
                }),
            }
        }
        let settle = |share: &Share<'_>| match &share.owner {
            Owner::This => self.load_own(&share.wanted, deadline),
            Owner::Peer(owner) => self.fetch_many(&share.wanted, owner, deadline),
        };
        if loader::inside_a_loader() {
            // Its thread is the one that waits for itself, should it come to that (I8).
            settled.extend(shares.iter().flat_map(settle));
        } else {
            settled.extend(each_at_once(&shares, settle).into_iter().flatten());
        }
        settled
    }

    fn load_own(self: &Arc<Self>, wanted: &[Wanted<'_>], deadline: Deadline) -> Settled<V> {
        let mut settled = Vec::with_capacity(wanted.len());
        for wanted in wanted.chunks(MAX_KEYS) {
            let loaded = self.load_many(wanted, deadline, Role::Owner, Count::Yes);
            settled.extend(
                loaded
                    .into_iter()
                    .map(|(wanted, outcome)| (wanted.at, self.or_stand_in(wanted.key, outcome))),
            );
        }
        settled
    }

    /// Has values loaded here.
    fn load_many<'a>(
        self: &Arc<Self>,
        wanted: &[Wanted<'a>],
        deadline: Deadline,
        role: Role,
        count: Count,
    ) -> Vec<(Wanted<'a>, Outcome<V>)> {
        let mut settled = Vec::with_capacity(wanted.len());
        let (mut led, mut joined) = (Vec::new(), Vec::new());
        for &wanted in wanted {
            let mut count = count;
            match self
                .loads
                .join(wanted.key, deadline, leads_at_once(deadline))
            {
                Part::Lead(guard) => {
                    self.count_lead(&mut count);
                    match self.land_if_cached(guard) {
                        Ok(landed) => settled.push((wanted, Ok(landed))),
                        Err(guard) => led.push((wanted, queue(guard, deadline))),
                    }
                }
                Part::Wait(waiter) => {
                    self.count_joined(&mut count);
                    joined.push((wanted, waiter));
                }
            }
        }
        settled.extend(self.lead_loads(led, deadline, role));
        for (wanted, waiter) in joined {
            let outcome = match self.outcome_of(waiter) {
                Waited::Outcome(outcome) => outcome,
                Waited::Lead(guard) => self.lead_load(guard, deadline, role),
                Waited::Again => self.load(wanted.key, deadline, role, Count::No),
            };
            settled.push((wanted, outcome));
        }
        settled
    }

    /// Has loads run whose guards lie in their flights: by this thread if it may, by the pool, or
    /// by whoever took one of them meanwhile.
    fn lead_loads<'a>(
        self: &Arc<Self>,
        led: Vec<(Wanted<'a>, Queueing<V>)>,
        deadline: Deadline,
        role: Role,
    ) -> Vec<(Wanted<'a>, Outcome<V>)> {
        match (&self.batch_loader, leads_at_once(deadline)) {
            (Some(load_many), true) if led.len() > 1 => {
                self.lead_at_once(load_many, led, deadline, role)
            }
            (_, true) => {
                if led.len() > 1 && !loader::inside_a_loader() {
                    // Help is welcome. Where there is none, this thread does it all.
                    let _ = self.have_loaded(holds(&led), deadline, role);
                }
                let run = |guard| self.run_loader(guard, deadline, role);
                self.lead_each(led, deadline, role, run)
            }
            (_, false) => match self.have_loaded(holds(&led), deadline, role) {
                Ok(()) => self.wait_for_loads(led, deadline, role),
                Err(refused) => self.lead_each(led, deadline, role, |guard| {
                    guard.hand_over(self.cluster.clock.now());
                    Err(refused.clone())
                }),
            },
        }
    }

    /// Runs the batch loader for all whose guards nobody took.
    fn lead_at_once<'a>(
        self: &Arc<Self>,
        load_many: &BatchLoader<V>,
        led: Vec<(Wanted<'a>, Queueing<V>)>,
        deadline: Deadline,
        role: Role,
    ) -> Vec<(Wanted<'a>, Outcome<V>)> {
        let (mut mine, mut guards, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (wanted, (waiter, queued)) in led {
            match queued.take() {
                Some(guard) => {
                    mine.push(wanted);
                    guards.push(guard);
                }
                None => others.push((wanted, (waiter, queued))),
            }
        }
        let outcomes = self.run_batch_loader(load_many, guards, role);
        let mut settled: Vec<_> = mine.into_iter().zip(outcomes).collect();
        settled.extend(self.wait_for_loads(others, deadline, role));
        settled
    }

    /// Does `lead` with each guard that nobody took, one after the other, and waits for the others.
    fn lead_each<'a>(
        self: &Arc<Self>,
        led: Vec<(Wanted<'a>, Queueing<V>)>,
        deadline: Deadline,
        role: Role,
        lead: impl Fn(Guard<Outcome<V>>) -> Outcome<V>,
    ) -> Vec<(Wanted<'a>, Outcome<V>)> {
        let (mut settled, mut others) = (Vec::with_capacity(led.len()), Vec::new());
        for (wanted, (waiter, queued)) in led {
            match queued.take() {
                Some(guard) => {
                    drop(waiter); // or the guard would be handed to it
                    settled.push((wanted, lead(guard)));
                }
                None => others.push((wanted, (waiter, queued))),
            }
        }
        settled.extend(self.wait_for_loads(others, deadline, role));
        settled
    }

    fn wait_for_loads<'a>(
        self: &Arc<Self>,
        others: Vec<(Wanted<'a>, Queueing<V>)>,
        deadline: Deadline,
        role: Role,
    ) -> Vec<(Wanted<'a>, Outcome<V>)> {
        let wait = |(wanted, queueing)| (wanted, self.wait_for_load(queueing, deadline, role));
        others.into_iter().map(wait).collect()
    }

    /// Has values fetched from `owner`, in one request.
    fn fetch_many(
        self: &Arc<Self>,
        wanted: &[Wanted<'_>],
        owner: &Arc<Remote>,
        deadline: Deadline,
    ) -> Settled<V> {
        let mut settled = Vec::with_capacity(wanted.len());
        let (mut led, mut joined) = (Vec::new(), Vec::new());
        for &wanted in wanted {
            match self.fetches.join(wanted.key, deadline, true) {
                Part::Lead(guard) => {
                    self.counters.leads.add();
                    match self.land_if_cached(guard) {
                        Ok(landed) => settled.push((wanted.at, Ok(landed))),
                        Err(guard) => led.push((wanted, guard)),
                    }
                }
                Part::Wait(waiter) => {
                    self.counters.joined.add();
                    joined.push((wanted, waiter));
                }
            }
        }
        let asked: Vec<_> = led.iter().map(|&(wanted, _)| wanted).collect();
        let mut guards: Vec<_> = led.into_iter().map(|(_, guard)| Some(guard)).collect();
        let mut fallen = Vec::new();
        self.ask_many(owner, &asked, deadline, |at, fetched| {
            let Some(guard) = guards[at].take() else {
                return;
            };
            match self.use_fetched(&guard, owner, fetched) {
                Some(outcome) => {
                    settled.push((asked[at].at, outcome.clone()));
                    self.end_fetch(guard, outcome);
                }
                None => {
                    self.counters.fetch_errors.add();
                    guard.hand_over(self.cluster.clock.now());
                    fallen.push(asked[at]);
                }
            }
        });
        let loaded = self.load_many(&fallen, deadline, Role::Fallback, Count::No);
        settled.extend(
            loaded
                .into_iter()
                .map(|(wanted, outcome)| (wanted.at, outcome)),
        );
        for (wanted, waiter) in joined {
            let outcome = match self.outcome_of(waiter) {
                Waited::Outcome(outcome) => outcome,
                Waited::Lead(guard) => self.lead_fetch(guard, owner, deadline, wanted.unreported),
                Waited::Again => self.fetch(wanted.key, owner, deadline, 0, Count::No),
            };
            settled.push((wanted.at, outcome));
        }
        settled
    }
}

/// What holds the guards of queued loads.
fn holds<V: Cacheable>(led: &[(Wanted<'_>, Queueing<V>)]) -> Arc<[Arc<Queued<Outcome<V>>>]> {
    led.iter()
        .map(|(_, (_, queued))| Arc::clone(queued))
        .collect()
}
