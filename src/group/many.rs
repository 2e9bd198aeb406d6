//! The loading process for many keys at once: one request for each owner, all owners at once.
//!
//! A thread that leads several flights must not stand in the way of the loads it waits for, nor of
//! those it runs itself, which may get other keys of the same batch. So it runs loaders, and waits,
//! only while it holds no flight but the one that is being loaded: the guards of its other loads lie
//! in their flights, for whoever can lead first; those of its fetches are handed over before their
//! keys are loaded here; and a lead that falls to one of its seats goes on at once (`seats.rs`).

use std::collections::HashMap;

use super::load::{Role, leads_at_once, queue};
use super::seats::{Heir, Seats, Told};
use super::{Count, Landed, Outcome, Shared, check_key, lost_leader};
use crate::deadline::Deadline;
use crate::error::Error;
use crate::flight::{Part, Queued};
use crate::key::KeyRef;
use crate::loader;
use crate::members::Owner;
use crate::pool::each_at_once;
use crate::remote::Remote;
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
        let began = self.cluster.clock.now();
        let brought = self.bring_many(wanted, deadline);
        let took = self.cluster.clock.now().saturating_duration_since(began);
        for (at, outcome) in brought {
            self.note_get(took, &outcome);
            outcomes[at] = outcome;
        }
        for (at, first) in repeats {
            outcomes[at] = outcomes[first].clone();
        }
        outcomes
    }

    /// What is known in memory, or the hits of a mirrored copy that are not reported.
    fn get_local(self: &Arc<Self>, key: KeyRef<'_>, deadline: Deadline) -> Result<Outcome<V>, u32> {
        match self.cache.get(key) {
            Ok(found) if found.is_stale => Ok(self.use_stale(key, found, deadline)),
            Ok(found) => Ok(Ok(found.into())),
            Err(_) if self.is_absent(key) => Ok(Err(Error::NotFound)),
            Err(unreported) => self.failed_lately(key).ok_or(unreported),
        }
    }

    /// Steps 2 to 5 for many keys.
    fn bring_many(self: &Arc<Self>, wanted: Vec<Wanted<'_>>, deadline: Deadline) -> Settled<V> {
        let mut settled = Vec::with_capacity(wanted.len());
        if loader::inside_a_loader() {
            // Its thread is the one that waits for itself, should it come to that (I8): a wait for
            // several flights would not be seen.
            let bring = |one: Wanted<'_>| {
                let outcome = self.bring(one.key, deadline, one.unreported, Count::Yes);
                (one.at, outcome)
            };
            return wanted.into_iter().map(bring).collect();
        }
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
        settled.extend(each_at_once(&shares, settle).into_iter().flatten());
        settled
    }

    fn load_own(self: &Arc<Self>, wanted: &[Wanted<'_>], deadline: Deadline) -> Settled<V> {
        let loaded = self.load_many(wanted, deadline, Role::Owner, Count::Yes);
        let stand_in =
            |(one, outcome): (Wanted<'_>, _)| (one.at, self.or_stand_in(one.key, outcome));
        loaded.into_iter().map(stand_in).collect()
    }

    /// Has values loaded here, by this thread if it may, by the pool, or by those who do already.
    fn load_many<'a>(
        self: &Arc<Self>,
        wanted: &[Wanted<'a>],
        deadline: Deadline,
        role: Role,
        count: Count,
    ) -> Vec<(Wanted<'a>, Outcome<V>)> {
        let mut settled = Vec::with_capacity(wanted.len());
        for wanted in wanted.chunks(MAX_KEYS) {
            let (mut seated, mut taken) = (Vec::new(), Vec::new());
            for &one in wanted {
                let mut count = count;
                match self.loads.join(one.key, deadline, false) {
                    Part::Lead(guard) => {
                        self.count_lead(&mut count);
                        match self.land_if_cached(guard) {
                            Ok(outcome) => settled.push((one, outcome)),
                            Err(guard) => {
                                let (waiter, queued) = queue(guard, deadline);
                                seated.push(one);
                                taken.push((waiter, Some(queued)));
                            }
                        }
                    }
                    Part::Wait(waiter) => {
                        self.count_joined(&mut count);
                        seated.push(one);
                        taken.push((waiter, None));
                    }
                }
            }
            let own: Vec<_> = taken.iter().map(|(_, queued)| queued.clone()).collect();
            let seats = Seats::attend(self, Heir::Pool { deadline, role }, usize::MAX, taken);
            self.lead_seats(&seats, &own, deadline, role);
            let is_own = |at: usize| own[at].is_some();
            for (at, told) in self.told(&seats, deadline).into_iter().enumerate() {
                let one = seated[at];
                let outcome = match told {
                    Told::Outcome(outcome) if is_own(at) => outcome,
                    Told::Outcome(outcome) => outcome.map(Landed::joined),
                    Told::Again | Told::NoRoom => self.load(one.key, deadline, role, Count::No),
                };
                settled.push((one, outcome));
            }
        }
        settled
    }

    /// Has the loads run that this thread has begun.
    fn lead_seats(
        self: &Arc<Self>,
        seats: &Arc<Seats<V>>,
        own: &[Option<Hold<V>>],
        deadline: Deadline,
        role: Role,
    ) {
        let holds: Arc<[_]> = own.iter().flatten().cloned().collect();
        let all = || (0..own.len()).filter_map(|at| Some((at, seats.take_guard(at)?)));
        match &self.batch_loader {
            _ if !leads_at_once(deadline) => {
                let most = self.bulkhead.max();
                if let Err(refused) = self.have_loaded(holds, most, deadline, role) {
                    for (at, guard) in all() {
                        guard.hand_over(self.cluster.clock.now());
                        seats.tell(at, Told::Outcome(Err(refused.clone())));
                    }
                }
            }
            Some(load_many) if holds.len() > 1 => {
                let (places, guards): (Vec<_>, Vec<_>) = all().unzip();
                if guards.is_empty() {
                    return; // others took them all
                }
                let outcomes = self.run_batch_loader(load_many, guards, role);
                for (at, outcome) in places.into_iter().zip(outcomes) {
                    seats.tell(at, Told::Outcome(outcome));
                }
            }
            _ => {
                if holds.len() > 1 {
                    // Help is welcome. Where there is none, this thread does it all.
                    let helpers = self.bulkhead.max() - 1;
                    let _ = self.have_loaded(holds, helpers, deadline, role);
                }
                for (at, guard) in all() {
                    let outcome = self.run_loader(guard, deadline, role);
                    seats.tell(at, Told::Outcome(outcome));
                }
            }
        }
    }

    /// Waits for all of `seats`, leaves them, and gives what each was told.
    fn told(&self, seats: &Seats<V>, deadline: Deadline) -> Vec<Told<V>> {
        seats.wait(deadline);
        let late = |at| match seats.take_guard(at) {
            // A load that never began goes to one who can wait longer (I6).
            Some(guard) => {
                guard.hand_over(self.cluster.clock.now());
                Told::Outcome(Err(Error::Overloaded))
            }
            None => Told::Outcome(Err(Error::Deadline)),
        };
        let told = |at| seats.take_told(at).unwrap_or_else(|| late(at));
        let told = (0..seats.len()).map(told).collect();
        seats.leave();
        told
    }

    /// Has values fetched from `owner`, in one request.
    fn fetch_many(
        self: &Arc<Self>,
        wanted: &[Wanted<'_>],
        owner: &Arc<Remote>,
        deadline: Deadline,
    ) -> Settled<V> {
        let mut settled = Vec::with_capacity(wanted.len());
        let (mut asked, mut guards) = (Vec::new(), Vec::new());
        let (mut seated, mut taken) = (Vec::new(), Vec::new());
        for &one in wanted {
            match self.fetches.join(one.key, deadline, true) {
                Part::Lead(guard) => {
                    self.counters.leads.add();
                    match self.land_if_cached(guard) {
                        Ok(outcome) => settled.push((one.at, outcome)),
                        Err(guard) => {
                            asked.push(one);
                            guards.push(Some(guard));
                        }
                    }
                }
                Part::Wait(waiter) => {
                    self.counters.joined.add();
                    seated.push(one);
                    taken.push((waiter, None));
                }
            }
        }
        let seats = Seats::attend(self, Heir::Others, usize::MAX, taken);
        let mut fallen = Vec::new();
        self.ask_many(owner, &asked, deadline, |at, fetched| {
            let Some(guard) = guards[at].take() else {
                return;
            };
            // What a codec gets meanwhile may be a key of this batch (I8).
            let leading = guard.lead();
            let outcome = self.use_fetched(&guard, owner, fetched);
            drop(leading);
            match outcome {
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
        settled.extend(loaded.into_iter().map(|(one, outcome)| (one.at, outcome)));
        for (one, told) in seated.into_iter().zip(self.told(&seats, deadline)) {
            let outcome = match told {
                Told::Outcome(outcome) => outcome.map(Landed::joined),
                Told::Again | Told::NoRoom => {
                    self.fetch(one.key, owner, deadline, one.unreported, Count::No)
                }
            };
            settled.push((one.at, outcome));
        }
        settled
    }
}

/// What holds the guard of a load that waits for whoever can lead first.
type Hold<V> = Arc<Queued<Outcome<V>>>;
