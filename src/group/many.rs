//! The loading process for many keys at once: one request for each owner, all owners at once.
//!
//! A thread that leads several flights must not stand in the way of the loads it waits for, nor of
//! those it runs itself, which may get other keys of the same batch. So it runs loaders, and waits,
//! only while it leads no flight but the one that is being loaded: its other loads are queued, for
//! whoever runs them first, and its fetches are handed over before their keys are loaded here.

use std::collections::HashMap;

use super::load::Role;
use super::seats::{Answered, Room, Seats};
use super::{Count, Obtained, Outcome, Shared, check_key, lost_leader};
use crate::cache::key::KeyRef;
use crate::cluster::members::Owner;
use crate::cluster::remote::Remote;
use crate::error::Error;
use crate::flight::table::{Join, Joined, Queued};
use crate::protocol::MAX_KEYS;
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::sync::{Arc, RandomState};
use crate::runtime::user_code;
use crate::value::Cacheable;

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
            Err(unreported) => {
                let outcome = self.failed_lately(key).ok_or(unreported)?;
                self.counters.joined.add();
                Ok(outcome)
            }
        }
    }

    /// Steps 2 to 5 for many keys.
    fn bring_many(self: &Arc<Self>, wanted: Vec<Wanted<'_>>, deadline: Deadline) -> Settled<V> {
        let mut settled = Vec::with_capacity(wanted.len());
        if user_code::inside_a_loader() {
            // Its thread is the one that waits for itself, should it come to that (I8): a wait for
            // several flights would not be seen.
            let bring = |one: Wanted<'_>| {
                let outcome = self.bring(one.key, deadline, one.unreported, Count::Yes);
                user_code::run_deferred(); // peers may wait for it, and this thread for them next
                (one.at, outcome)
            };
            return wanted.into_iter().map(bring).collect();
        }
        // Its loads may need this thread, if it is one of the pool.
        let _blocked = self.cluster.pool.wait_inside();
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
        let at_once = self.cluster.fanout.each(&shares, settle);
        settled.extend(at_once.into_iter().flatten());
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
            if deadline.is_past(self.cluster.clock.now()) {
                settled.extend(wanted.iter().map(|&one| (one, Err(Error::Deadline))));
                continue;
            }
            let (mut waiters, mut new) = (Vec::new(), Vec::new());
            let mut are_own = Vec::with_capacity(wanted.len());
            for one in wanted {
                let mut count = count;
                let (waiter, queued) = self.loads.queue(one.key, deadline);
                match queued {
                    Some(_) => self.count_lead(&mut count),
                    None => self.count_joined(&mut count),
                }
                waiters.push(waiter);
                are_own.push(queued.is_some());
                new.extend(queued);
            }
            if !deadline.is_never() {
                let joined = waiters.iter().zip(&are_own).filter(|(_, is_own)| !**is_own);
                let joined = joined.map(|(waiter, _)| waiter);
                self.queue_too(joined, self.bulkhead.max(), role, Flow::Application);
            }
            let seats = Seats::new(self, Room::endless(), waiters);
            self.run_queued(new, deadline, role);
            if deadline.is_never() {
                self.run_seats(&seats, role);
            }
            let answers = self.answers(&seats, deadline);
            for ((&one, is_own), answer) in wanted.iter().zip(are_own).zip(answers) {
                let outcome = match answer {
                    Answered::Outcome(outcome) if is_own => outcome,
                    Answered::Outcome(outcome) => outcome.map(Obtained::joined),
                    Answered::Again | Answered::NoRoom => {
                        self.load(one.key, deadline, role, Count::No)
                    }
                };
                settled.push((one, outcome));
            }
        }
        settled
    }

    /// Has the loads run that this thread has queued: by the pool, or with its help by this thread.
    fn run_queued(
        self: &Arc<Self>,
        queued: Vec<Queued<Outcome<V>>>,
        deadline: Deadline,
        role: Role,
    ) {
        let most = self.bulkhead.max();
        if !deadline.is_never() {
            return self.queue_loads(queued, most, role, Flow::Application);
        }
        let mut open: Vec<_> = queued;
        open.retain(|queued| !self.finish_if_cached(queued));
        if let (Some(load_many), 2..) = (&self.batch_loader, open.len()) {
            let now = self.cluster.clock.now();
            let guards = open.iter().filter_map(|queued| queued.start(now));
            let _ = self.run_batch_loader(load_many, guards.collect(), role, false);
            user_code::run_deferred(); // this thread leads nothing now
            return;
        }
        if most > 1 && open.len() > 1 {
            // Help is welcome. Where there is none, this thread does it all.
            self.offer_loads(&open, most - 1, role, Flow::Application);
        }
        for queued in open {
            if let Some(guard) = queued.start(self.cluster.clock.now()) {
                let _ = self.run_load(guard, deadline, role, false);
                user_code::run_deferred(); // this thread leads nothing now
            }
        }
    }

    /// Runs the loads that others have queued, and that would keep this thread waiting.
    fn run_seats(self: &Arc<Self>, seats: &Seats<V>, role: Role) {
        for at in 0..seats.len() {
            if let Some(guard) = seats.start(at) {
                let _ = self.lead_load(guard, role);
                user_code::run_deferred(); // this thread leads nothing now
            }
        }
    }

    /// Waits for all of `seats`, leaves them, and gives the answer of each.
    fn answers(&self, seats: &Seats<V>, deadline: Deadline) -> Vec<Answered<V>> {
        seats.wait(deadline);
        let late = |at| {
            let error = match seats.is_queued(at) {
                true => Error::Overloaded,
                false => Error::Deadline,
            };
            Answered::Outcome(Err(error))
        };
        let answer = |at| seats.answer(at).unwrap_or_else(|| late(at));
        let answers = (0..seats.len()).map(answer).collect();
        seats.leave();
        answers
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
        let (mut joined, mut waiters) = (Vec::new(), Vec::new());
        for &one in wanted {
            match self.fetches.join(one.key, deadline, Join::Start) {
                Joined::Lead(guard) => {
                    self.counters.leads.add();
                    match self.land_if_cached(guard) {
                        Ok(outcome) => settled.push((one.at, outcome)),
                        Err(guard) => {
                            self.keep_none_if_owed(&guard, owner);
                            asked.push(one);
                            guards.push(Some(guard));
                        }
                    }
                }
                Joined::Wait(waiter) => {
                    self.counters.joined.add();
                    joined.push(one);
                    waiters.push(waiter);
                }
            }
        }
        let seats = Seats::new(self, Room::endless(), waiters);
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
        for (one, answer) in joined.into_iter().zip(self.answers(&seats, deadline)) {
            let outcome = match answer {
                Answered::Outcome(outcome) => outcome.map(Obtained::joined),
                Answered::Again | Answered::NoRoom => {
                    self.fetch(one.key, owner, deadline, one.unreported, Count::No)
                }
            };
            settled.push((one.at, outcome));
        }
        settled
    }
}
