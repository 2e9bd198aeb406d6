//! `get_many`: the loading process for many keys at once, with one request for each owner, to all
//! owners at the same time.
//!
//! A thread that leads several flights must not block the loads it waits for, nor those it runs itself,
//! which may get other keys of the same batch. So it runs loaders, and waits, only while it leads no
//! flight but the one that is being loaded: its other loads are queued, for any thread that runs them first,
//! and its fetches are handed over before their keys are loaded here.

use std::collections::HashMap;

use super::batch::Wanted;
use super::counters::Count;
use super::fetch::{can_be_deputy, is_gone};
use super::get::check_key;
use super::load::Role;
use super::outcome::{Obtained, Outcome, lost_leader};
use super::shared::Shared;
use super::waiter_set::{Answered, ValueBudget, WaiterSet};
use crate::cache::key::KeyRef;
use crate::cluster::members::{Owner, StandIn};
use crate::cluster::remote::Remote;
use crate::error::Error;
use crate::flight::flights::{Join, Joined};
use crate::flight::queued::Queued;
use crate::protocol::MAX_KEYS;
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::sync::{Arc, RandomState};
use crate::runtime::user_code;
use crate::value::Cacheable;

/// Answers, each with its index.
type Settled<V> = Vec<(usize, Outcome<V>)>;

/// The keys of a call that one owner or deputy has.
struct Share<'a> {
    owner: Owner,
    wanted: Vec<Wanted<'a>>,
}

impl<V: Cacheable> Shared<V> {
    /// The outcomes of `keys`, in their order.
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
        let obtained = self.obtain_many(wanted, deadline);
        let took = self.time_since(began);
        for (at, outcome) in obtained {
            self.timings.record_get(took, &outcome);
            outcomes[at] = outcome;
        }
        for (at, first) in repeats {
            outcomes[at] = outcomes[first].clone();
        }
        outcomes
    }

    /// The outcome of a get from memory; if there is none, the hits of a mirrored copy that its owner does
    /// not know of.
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

    /// Steps 2 to 5, for many keys.
    fn obtain_many(self: &Arc<Self>, wanted: Vec<Wanted<'_>>, deadline: Deadline) -> Settled<V> {
        let mut settled = Vec::with_capacity(wanted.len());
        if user_code::inside_a_loader() {
            // One key after the other, so that each wait is checked for cycles (I8): a wait for several
            // flights would not be seen.
            let obtain = |one: Wanted<'_>| {
                let outcome = self.obtain(one.key, deadline, one.unreported, Count::Yes);
                user_code::run_deferred(); // peers may wait for it, and this thread may wait for them next
                (one.at, outcome)
            };
            return wanted.into_iter().map(obtain).collect();
        }
        // The loads may need this thread, if it is one of the pool.
        let _blocked = self.cluster.pool.wait_inside();
        let mut shares: Vec<Share<'_>> = Vec::new();
        let members = self.cluster.members();
        for wanted in wanted {
            if let Err(error) = check_key(wanted.key.text()) {
                settled.push((wanted.at, Err(error)));
                continue;
            }
            let owner = members.owner(wanted.key.text());
            share_with(&mut shares, owner, wanted);
        }
        let settle = |share: &Share<'_>| match &share.owner {
            Owner::This => self.load_own(&share.wanted, deadline),
            Owner::Peer(owner) => self.fetch_many(&share.wanted, owner, deadline),
        };
        let at_once = self.cluster.fanout.each(&shares, settle);
        settled.extend(at_once.into_iter().flatten());
        settled
    }

    /// Has the values of keys loaded that this process owns.
    fn load_own(self: &Arc<Self>, wanted: &[Wanted<'_>], deadline: Deadline) -> Settled<V> {
        let loaded = self.load_many(wanted, deadline, Role::Owner, Count::Yes);
        let stand_in =
            |(one, outcome): (Wanted<'_>, _)| (one.at, self.or_stand_in(one.key, outcome));
        loaded.into_iter().map(stand_in).collect()
    }

    /// Has values loaded in this process: by this thread if there is no deadline, by the pool, or by threads
    /// that do already.
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
                    Some(_) => self.counters.count_lead(&mut count),
                    None => self.counters.count_joined(&mut count),
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
            let set = WaiterSet::new(self, ValueBudget::unlimited(), waiters);
            self.run_queued(new, deadline, role);
            if deadline.is_never() {
                self.run_joined(&set, role);
            }
            let answers = self.answers(&set, deadline);
            for ((&one, is_own), answer) in wanted.iter().zip(are_own).zip(answers) {
                let outcome = match answer {
                    Answered::Outcome(outcome) if is_own => outcome,
                    Answered::Outcome(outcome) => outcome.map(Obtained::joined),
                    Answered::Again | Answered::OverBudget => {
                        self.load(one.key, deadline, role, Count::No)
                    }
                };
                settled.push((one, outcome));
            }
        }
        settled
    }

    /// Has the loads run that this thread has queued: by the pool, or by this thread with its help.
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
        open.retain(|queued| !self.finish_queued_if_cached(queued, role));
        if let (Some(load_many), 2..) = (&self.batch_loader, open.len()) {
            let now = self.cluster.clock.now();
            let guards = open.iter().filter_map(|queued| queued.start(now));
            let _ = self.run_batch_loader(load_many, guards.collect(), role, false);
            user_code::run_deferred(); // this thread leads nothing now
            return;
        }
        if most > 1 && open.len() > 1 {
            // The pool helps where it can. Where it cannot, this thread runs all of them.
            self.offer_loads(&open, most - 1, role, Flow::Application);
        }
        for queued in open {
            if let Some(guard) = queued.start(self.cluster.clock.now()) {
                let _ = self.run_load(guard, deadline, role, false);
                user_code::run_deferred(); // this thread leads nothing now
            }
        }
    }

    /// Runs the loads that others have queued, and that this thread would wait for.
    fn run_joined(self: &Arc<Self>, set: &WaiterSet<V>, role: Role) {
        for at in 0..set.len() {
            if let Some(guard) = set.start(at) {
                let _ = self.lead_load(guard, role);
                user_code::run_deferred(); // this thread leads nothing now
            }
        }
    }

    /// Waits for all flights of `set`, leaves them, and returns the answer of each.
    fn answers(&self, set: &WaiterSet<V>, deadline: Deadline) -> Vec<Answered<V>> {
        set.wait(deadline);
        let late = |at| {
            let error = match set.is_queued(at) {
                true => Error::Overloaded,
                false => Error::Deadline,
            };
            Answered::Outcome(Err(error))
        };
        let answer = |at| set.answer(at).unwrap_or_else(|| late(at));
        let answers = (0..set.len()).map(answer).collect();
        set.leave();
        answers
    }

    /// Has values fetched from `owner`, in as few requests as possible. Where it is gone, from the deputies
    /// of the keys.
    fn fetch_many(
        self: &Arc<Self>,
        wanted: &[Wanted<'_>],
        owner: &Arc<Remote>,
        deadline: Deadline,
    ) -> Settled<V> {
        let asked = Asked {
            peer: owner,
            role: Role::Owner,
            count: Count::Yes,
            is_joined: true,
        };
        let (mut settled, unanswered) = self.ask_peer(wanted, asked, deadline);
        if unanswered.is_empty() {
            return settled;
        }
        let members = self.cluster.members();
        let mut fallbacks = Vec::new();
        let (mut of_deputies, mut of_others) = (Vec::new(), Vec::new());
        for (one, is_gone) in unanswered {
            self.counters.fetch_errors.add();
            let stand_in = || members.instead_of(owner, one.key.text(), can_be_deputy);
            match is_gone.then(stand_in).flatten() {
                Some(StandIn::Deputy(deputy)) => share_with(&mut of_deputies, deputy, one),
                Some(StandIn::Other(other)) => share_with(&mut of_others, other, one),
                None => fallbacks.push(one),
            }
        }
        let of_deputies = of_deputies.iter().map(|share| (share, true));
        let of_others = of_others.iter().map(|share| (share, false));
        let shares: Vec<(&Share<'_>, bool)> = of_deputies.chain(of_others).collect();
        let settle = |&(share, is_joined): &(&Share<'_>, bool)| match &share.owner {
            Owner::This => self.load_here(&share.wanted, deadline, Role::Deputy),
            Owner::Peer(peer) => {
                let asked = Asked {
                    peer,
                    role: Role::Deputy,
                    count: Count::No,
                    is_joined,
                };
                self.fetch_from_stand_in(&share.wanted, asked, deadline)
            }
        };
        let by_stand_ins = self.cluster.fanout.each(&shares, settle);
        settled.extend(by_stand_ins.into_iter().flatten());
        settled.extend(self.load_here(&fallbacks, deadline, Role::Fallback));
        settled
    }

    fn fetch_from_stand_in(
        self: &Arc<Self>,
        wanted: &[Wanted<'_>],
        asked: Asked<'_>,
        deadline: Deadline,
    ) -> Settled<V> {
        self.counters.deputy_fetches.add_many(wanted.len());
        let (mut settled, unanswered) = self.ask_peer(wanted, asked, deadline);
        let fallbacks: Vec<_> = unanswered.into_iter().map(|(one, _)| one).collect();
        settled.extend(self.load_here(&fallbacks, deadline, Role::Fallback));
        settled
    }

    /// Has values loaded that a get has been counted for.
    fn load_here(
        self: &Arc<Self>,
        wanted: &[Wanted<'_>],
        deadline: Deadline,
        role: Role,
    ) -> Settled<V> {
        let loaded = self.load_many(wanted, deadline, role, Count::No);
        let at = |(one, outcome): (Wanted<'_>, _)| (one.at, outcome);
        loaded.into_iter().map(at).collect()
    }

    /// Asks a peer for values, and waits for those that others have asked for. Also returns the keys for
    /// which there is no answer, each with whether the peer is known to be gone.
    fn ask_peer<'a>(
        self: &Arc<Self>,
        wanted: &[Wanted<'a>],
        asked_of: Asked<'_>,
        deadline: Deadline,
    ) -> (Settled<V>, Vec<(Wanted<'a>, bool)>) {
        let Asked { peer, role, .. } = asked_of;
        let mut settled = Vec::with_capacity(wanted.len());
        let (mut asked, mut guards) = (Vec::new(), Vec::new());
        let (mut joined, mut waiters) = (Vec::new(), Vec::new());
        for &one in wanted {
            let mut count = asked_of.count;
            match self.fetches.join(one.key, deadline, Join::Start) {
                Joined::Lead(guard) => {
                    self.counters.count_lead(&mut count);
                    match self.finish_if_cached(guard, Role::Owner) {
                        Ok(outcome) => settled.push((one.at, outcome)),
                        Err(guard) => {
                            if !asked_of.is_joined {
                                self.fetches.mark_stale(one.key);
                            }
                            self.mark_stale_if_owner_is_behind(&guard, peer);
                            asked.push(one);
                            guards.push(Some(guard));
                        }
                    }
                }
                Joined::Wait(waiter) => {
                    self.counters.count_joined(&mut count);
                    joined.push(one);
                    waiters.push(waiter);
                }
            }
        }
        let set = WaiterSet::new(self, ValueBudget::unlimited(), waiters);
        let mut unanswered = Vec::new();
        self.ask_many(peer, role, &asked, deadline, |at, fetched| {
            let Some(guard) = guards[at].take() else {
                return;
            };
            let is_gone = is_gone(&fetched);
            // The codec may get a key of this batch meanwhile (I8).
            let leading = guard.lead();
            let outcome = self.use_fetched(&guard, peer, fetched);
            drop(leading);
            match outcome {
                Some(outcome) => {
                    settled.push((asked[at].at, outcome.clone()));
                    self.end_fetch(guard, outcome);
                }
                None => {
                    guard.hand_over(self.cluster.clock.now());
                    unanswered.push((asked[at], is_gone));
                }
            }
        });
        for (one, answer) in joined.into_iter().zip(self.answers(&set, deadline)) {
            let outcome = match answer {
                Answered::Outcome(outcome) => outcome.map(Obtained::joined),
                Answered::Again | Answered::OverBudget => {
                    self.obtain(one.key, deadline, one.unreported, Count::No)
                }
            };
            settled.push((one.at, outcome));
        }
        (settled, unanswered)
    }
}

/// A peer that is asked for values, in which role, whether the gets are still to be counted, and whether other
/// gets may join (see `StandIn`).
#[derive(Clone, Copy)]
struct Asked<'a> {
    peer: &'a Arc<Remote>,
    role: Role,
    count: Count,
    is_joined: bool,
}

fn share_with<'a>(shares: &mut Vec<Share<'a>>, owner: Owner, one: Wanted<'a>) {
    match shares.iter_mut().find(|share| share.owner == owner) {
        Some(share) => share.wanted.push(one),
        None => shares.push(Share {
            owner,
            wanted: vec![one],
        }),
    }
}
