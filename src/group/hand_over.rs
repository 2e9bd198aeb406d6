//! The hand-over of keys that change their owner. The new owner takes a value over from the former
//! owner, if that still has it in memory, instead of loading it anew.
//!
//! * For some time after the ring has changed, a load first asks the former owner (`take_over`).
//! * A node that leaves offers its keys to their new owners, those with the most requests first
//!   (`offer`), and the new owners take them over in the same way (`take_over_offered`).
//!
//! P2: a value is taken over inside a flight only, which a removal marks stale as any other, and from
//! the main cache only. A key that was removed lately (`journal`) is only taken over from a node that
//! has carried out the same removal, so that its value was loaded after that.

use std::time::Duration;

use super::batch::Batch;
use super::load::Role;
use super::outcome::Outcome;
use super::pending::Pending;
use super::registry::Begun;
use super::shared::Shared;
use crate::cache::entry::Tier;
use crate::cache::key::{KeyRef, MAX_KEY_BYTES};
use crate::cluster::calls::CallLimit;
use crate::cluster::journal::Removed;
use crate::cluster::members::{Members, Owner};
use crate::cluster::propagation::key_batches;
use crate::cluster::remote::{Failure, Remote, TombstoneSync};
use crate::flight::flights::{Join, Joined};
use crate::flight::leader::Guard;
use crate::protocol::account::Requester;
use crate::protocol::hash::hash_of_key;
use crate::protocol::{
    self, Answer, GroupCommand, Item, MAX_COMMAND, MAX_KEYS, ProtocolError, Response, Stamp,
    Status, Terms, decode_batch,
};
use crate::runtime::clock::Deadline;
use crate::runtime::pool::{Job, Work};
use crate::runtime::slot::Slot;
use crate::runtime::sync::Arc;
use crate::transport::peer::{Call, Reply};
use crate::value::Cacheable;

/// How many keys a node offers at most when it leaves.
const MAX_OFFERED: usize = 100_000;

/// The bytes of a key in a command besides its text, with its stamp, at most.
const PEEK_OVERHEAD: usize = 32;

const _: () = assert!(MAX_KEY_BYTES + PEEK_OVERHEAD <= MAX_COMMAND); // any one key fits

/// The outcome of a flight that has ended with a value that was taken over; the guard of one that has
/// not.
type TakenOver<V> = Result<Outcome<V>, Guard<Outcome<V>>>;

/// The former owner of a key, and the removal that it must have carried out, if there was one.
struct FormerOwner {
    remote: Arc<Remote>,
    removed: Option<Stamp>,
}

/// The keys of a list that one node owned before: either those that were removed lately, or the others.
struct FormerShare {
    former: Arc<Remote>,
    /// The indexes of the keys.
    at: Vec<usize>,
    /// The removal of each key; empty if the keys were not removed lately.
    removed: Vec<Stamp>,
}

impl<V: Cacheable> Shared<V> {
    /// Takes the value of a flight over from the former owner of its key, if there is one.
    pub(super) fn take_over(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
    ) -> TakenOver<V> {
        let members = self.cluster.members();
        let Some(former) = self.former_owner(&members, guard.key().as_ref()) else {
            return Err(guard);
        };
        let leading = guard.lead();
        let removed: Vec<Stamp> = former.removed.into_iter().collect();
        let key = guard.key().as_ref();
        let answer = self.ask_former(&former.remote, &[key], &removed, deadline);
        let taken_over = self.finish_with(guard, answer.into_iter().next().flatten());
        drop(leading); // not before: decoding is user code
        taken_over
    }

    /// As [`take_over`](Shared::take_over), for several flights, in their order.
    pub(super) fn take_over_many(
        self: &Arc<Self>,
        guards: Vec<Guard<Outcome<V>>>,
        deadline: Deadline,
    ) -> Vec<TakenOver<V>> {
        let members = self.cluster.members();
        if !members.has_former_rings() {
            return guards.into_iter().map(Err).collect();
        }
        let leading: Vec<_> = guards.iter().map(Guard::lead).collect();
        let keys: Vec<KeyRef<'_>> = guards.iter().map(|guard| guard.key().as_ref()).collect();
        let ask = |share: &FormerShare| {
            let asked: Vec<_> = share.at.iter().map(|&at| keys[at]).collect();
            let answers = self.ask_former(&share.former, &asked, &share.removed, deadline);
            share.at.iter().copied().zip(answers).collect::<Vec<_>>()
        };
        let shares = self.former_shares(&members, &keys);
        let answered = self.cluster.fanout.each(&shares, ask);
        let mut answers: Vec<Option<Answer>> = vec![None; keys.len()];
        for (at, answer) in answered.into_iter().flatten() {
            answers[at] = answer;
        }
        let flights = guards.into_iter().zip(answers);
        let taken_over = flights.map(|(guard, answer)| self.finish_with(guard, answer));
        let taken_over = taken_over.collect();
        drop(leading); // not before: decoding is user code
        taken_over
    }

    /// The keys that have a former owner, by that owner.
    fn former_shares(&self, members: &Members, keys: &[KeyRef<'_>]) -> Vec<FormerShare> {
        let mut shares: Vec<FormerShare> = Vec::new();
        for (at, &key) in keys.iter().enumerate() {
            let Some(former) = self.former_owner(members, key) else {
                continue;
            };
            let is_same = |share: &&mut FormerShare| {
                let is_same_kind = share.removed.is_empty() == former.removed.is_none();
                is_same_kind && Arc::ptr_eq(&share.former, &former.remote)
            };
            match shares.iter_mut().find(is_same) {
                Some(share) => {
                    share.at.push(at);
                    share.removed.extend(former.removed);
                }
                None => shares.push(FormerShare {
                    former: former.remote,
                    at: vec![at],
                    removed: former.removed.into_iter().collect(),
                }),
            }
        }
        shares
    }

    /// The node that may have the value of `key` in memory, as it owned the key not long ago.
    fn former_owner(&self, members: &Members, key: KeyRef<'_>) -> Option<FormerOwner> {
        if !members.has_former_rings() {
            return None;
        }
        let now = self.cluster.clock.now();
        let Some(remote) = members.former_owner(key.text(), now) else {
            self.cluster.forget_expired_rings(now);
            return None;
        };
        // Its value may be older than a removal that this node has forgotten since.
        if self.cluster.has_pending_removals(&remote) {
            return None;
        }
        // A node that a peer only takes for the owner asks nobody: a request goes one hop (I5).
        if members.owner(key.text()) != Owner::This {
            return None;
        }
        self.cluster.fetch_tombstones(members, &remote);
        match remote.tombstone_sync() {
            TombstoneSync::Done => {}
            TombstoneSync::NotDone => {
                self.counters.peeks.add(); // it has not answered, and would not for this key either
                return None;
            }
            TombstoneSync::Unsupported => return None,
        }
        let now = self.cluster.clock.now();
        match self.cluster.journal.removed(&self.name, key.text(), now) {
            Removed::Never => Some(FormerOwner {
                remote,
                removed: None,
            }),
            Removed::By(stamp, ring) if members.was_on_ring(&remote, ring) => Some(FormerOwner {
                remote,
                removed: Some(stamp),
            }),
            Removed::By(..) | Removed::Perhaps => None,
        }
    }

    /// The values of `keys` in the main cache of a former owner; where they were `removed`, only those
    /// whose removals it has carried out. It has the connect timeout to answer: a value that it does not
    /// send by then is loaded.
    fn ask_former(
        &self,
        former: &Arc<Remote>,
        keys: &[KeyRef<'_>],
        removed: &[Stamp],
        deadline: Deadline,
    ) -> Vec<Option<Answer>> {
        debug_assert!(removed.is_empty() || removed.len() == keys.len());
        self.counters.peeks.add_many(keys.len());
        let limit = CallLimit::of_all(self.cluster.settings.limits.connect_timeout);
        let mut answers = Vec::with_capacity(keys.len());
        while answers.len() < keys.len() {
            let terms = Terms {
                patience: Some(Duration::ZERO),
                max_body: Some(self.cluster.settings.limits.max_body),
                peeks: true,
                ..self.terms(deadline, 0)
            };
            let open = &keys[answers.len()..];
            let items = if removed.is_empty() {
                let open = open.iter().map(|key| self.query(key.text(), 0));
                match self.ask_batch(former, open, &terms, limit, deadline) {
                    Ok(Batch::Items(items)) => items,
                    _ => break,
                }
            } else {
                let stamps = removed[answers.len()..].iter();
                let open = open.iter().map(|key| key.text()).zip(stamps.copied());
                match self.ask_if_newer(former, open.collect(), &terms, deadline) {
                    Ok(items) if !items.is_empty() => items,
                    _ => break,
                }
            };
            answers.extend(items.into_iter().map(value_of));
        }
        answers.resize(keys.len(), None);
        answers
    }

    /// Asks for as many of the keys, from the first, as fit into one request, each with the removal that
    /// the former owner must have carried out.
    fn ask_if_newer(
        &self,
        former: &Arc<Remote>,
        mut keys: Vec<(&str, Stamp)>,
        terms: &Terms,
        deadline: Deadline,
    ) -> Result<Vec<Item>, Failure> {
        let mut left = MAX_COMMAND;
        let fits = |(key, _): &&(&str, Stamp)| {
            let rest = left.checked_sub(key.len() + PEEK_OVERHEAD);
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        let count = keys.iter().take(MAX_KEYS).take_while(fits).count();
        keys.truncate(count);
        let hashes: Vec<u64> = keys
            .iter()
            .map(|(key, _)| hash_of_key(&self.name, key))
            .collect();
        let target = protocol::target(&self.name, None);
        let call = Call::new("POST", target, terms.to_header())
            .with_body(GroupCommand::Peek(keys).encode());
        let limit = CallLimit::of_all(self.cluster.settings.limits.connect_timeout);
        let read = |status, reply: Reply| match status {
            Status::Ok => decode_batch(reply.body, hashes.into_iter()),
            Status::NoSuchGroup | Status::BadRequest => Ok(Vec::new()),
            _ => Err(ProtocolError("it refuses the request")),
        };
        self.cluster.call(former, call, limit, deadline, read)
    }

    /// Ends a flight with the value of a former owner, if there is one that can be used.
    fn finish_with(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        answer: Option<Answer>,
    ) -> TakenOver<V> {
        let Some(obtained) = answer.and_then(|answer| self.decode(answer)) else {
            return Err(guard);
        };
        let now = self.cluster.clock.now();
        if obtained.deadline().is_past(now) {
            return Err(guard);
        }
        self.counters.inherited.add();
        self.keep(&guard, Tier::Main, &obtained, now);
        guard.finish(Ok(obtained.clone()));
        Ok(Ok(obtained))
    }

    /// The value of `key` in the main cache of this node, for the new owner of the key. Counts as no
    /// hit.
    pub(super) fn peek(&self, key: KeyRef<'_>) -> Item {
        let found = self.cache.recheck(key);
        match found.filter(|found| found.tier == Tier::Main) {
            Some(found) => self.item_of_value(key.text(), &found.value, found.expires, 0.0),
            None => Item::Status(Status::Loading, String::new()),
        }
    }

    /// As [`peek`](Shared::peek), if this node has carried out the removal `removed` of the key. Looks for
    /// that first: a value that is in memory afterwards is newer.
    pub(super) fn peek_if_applied(&self, key: &str, removed: Stamp) -> Item {
        if self.cluster.journal.has_applied(&self.name, key, removed) {
            return self.peek(self.cache.hash(key));
        }
        Item::Status(Status::Loading, String::new())
    }

    /// Offers the keys in memory to their owners, until all are offered or `deadline`.
    pub(super) fn offer(self: &Arc<Self>, deadline: Deadline) {
        let members = self.cluster.members();
        let hottest = self.cache.hottest(MAX_OFFERED);
        let mut shares: Vec<(Arc<Remote>, Vec<&str>)> = Vec::new();
        for (key, _) in &hottest {
            let Owner::Peer(owner) = members.owner(key) else {
                continue;
            };
            match shares
                .iter_mut()
                .find(|(successor, _)| Arc::ptr_eq(successor, &owner))
            {
                Some((_, keys)) => keys.push(key),
                None => shares.push((owner, vec![key])),
            }
        }
        self.cluster.fanout.each(&shares, |(successor, keys)| {
            // Where one offer fails, the rest of this share is not offered.
            key_batches(keys).try_for_each(|keys| self.offer_to(successor, keys, deadline))
        });
    }

    /// Offers `keys` to their new owner. Blocks until it has taken over what it wants of them.
    fn offer_to(
        &self,
        successor: &Arc<Remote>,
        keys: &[&str],
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let target = protocol::target(&self.name, None);
        let call = Call::new("POST", target, self.terms(deadline, 0).to_header())
            .with_body(GroupCommand::Offer(keys.to_vec()).encode());
        let limit = self.cluster.limit();
        self.cluster
            .call(successor, call, limit, deadline, |status, _| match status {
                Status::Ok | Status::Loading => Ok(Ok(())),
                // It has no such group or no time, or is too old to know of offers.
                _ => Ok(Err(Failure::Unsupported)),
            })?
    }

    /// Has keys taken over that their former owner offers. The request is answered when that is done.
    pub(super) fn begin_take_over(
        self: &Arc<Self>,
        keys: &[&str],
        terms: &Terms,
        requester: &Requester,
    ) -> Begun {
        let done = Slot::new();
        let work = Work {
            key_bytes: keys.iter().map(|key| key.len()).collect(),
            job: Box::new(TakeOverJob {
                group: Arc::clone(self),
                keys: keys.iter().map(|&key| key.to_owned()).collect(),
                done: Arc::clone(&done),
            }),
        };
        match self.cluster.pool.submit(vec![work], 1, requester.flow()) {
            Ok(_) => Begun::Pending(Pending::of_job(done, self.ring(), terms, &self.cluster)),
            Err(_) => {
                let text = "there is no thread for it";
                Begun::Ready(Response::text(Status::Overloaded, self.ring(), text))
            }
        }
    }

    /// Takes those of `keys` over that this node owns, does not have, and is not loading already.
    fn take_over_offered(self: &Arc<Self>, keys: &[String]) {
        let members = self.cluster.members();
        let mut guards = Vec::with_capacity(keys.len());
        for key in keys.iter().filter(|key| members.owner(key) == Owner::This) {
            let key = self.cache.hash(key);
            if let Joined::Lead(guard) = self.loads.join(key, Deadline::NEVER, Join::Start) {
                guards.extend(self.finish_if_cached(guard, Role::Owner).err());
            }
        }
        for taken_over in self.take_over_many(guards, Deadline::NEVER) {
            if let Err(guard) = taken_over {
                guard.release(); // a get that waits for it loads it
            }
        }
    }
}

/// The job of the pool that takes over offered keys.
struct TakeOverJob<V: Cacheable> {
    group: Arc<Shared<V>>,
    keys: Vec<String>,
    done: Arc<Slot<()>>,
}

impl<V: Cacheable> Job for TakeOverJob<V> {
    fn run(self: Box<Self>) {
        self.group.take_over_offered(&self.keys);
        // A requester that gave up meanwhile does not want it.
        let _ = self.done.fill(());
    }
}

fn value_of(item: Item) -> Option<Answer> {
    match item {
        Item::Value(answer) => Some(answer),
        Item::Status(..) | Item::TooLarge(_) => None,
    }
}
