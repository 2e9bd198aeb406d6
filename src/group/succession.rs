//! A key that changes its owner. The new one takes its value over from the one before, if that still
//! has it in memory, instead of loading it anew.
//!
//! * For some time after the ring has changed, a load first asks the former owner (`inherit`).
//! * A node that leaves offers what it has to those who own it from now on, the keys most asked for
//!   first (`offer`), and they ask for it in the same way (`take_over`).
//!
//! P2: a value is taken over inside a flight only, which a removal marks stale as any other, and from
//! main memory only. A key that was removed of late (`journal.rs`) is only taken over from one who
//! has carried out the same removal, so that its value was loaded after that.

use std::time::Duration;

use super::batch::Batch;
use super::serve::Begun;
use super::{Outcome, Pending, Shared};
use crate::cache::entry::Tier;
use crate::cache::key::KeyRef;
use crate::cluster::calls::CallLimit;
use crate::cluster::journal::Removed;
use crate::cluster::members::{Members, Owner};
use crate::cluster::propagation::key_batches;
use crate::cluster::remote::{Failure, Remote, TombstoneSync};
use crate::flight::table::{Guard, Join, Joined};
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

/// How many keys a node that leaves offers to others, at most.
const MAX_OFFERED: usize = 100_000;

/// What a key takes in a command besides its bytes, with its stamp.
const PEEK_OVERHEAD: usize = 32;

/// A flight that ended, or one that is still to be led.
type Inherited<V> = Result<Outcome<V>, Guard<Outcome<V>>>;

/// One who owned a key before, and the removal that it must have carried out, if there was one.
struct Former {
    remote: Arc<Remote>,
    removed: Option<Stamp>,
}

/// The keys that one other node owned before, either removed of late or not, and where they stand in
/// a list.
struct Estate {
    former: Arc<Remote>,
    at: Vec<usize>,
    /// Of each key, if they were removed of late.
    removed: Vec<Stamp>,
}

impl<V: Cacheable> Shared<V> {
    /// Takes the value of a flight over from the one who owned its key before, if there is such.
    pub(super) fn inherit(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        deadline: Deadline,
    ) -> Inherited<V> {
        let members = self.cluster.members();
        let Some(former) = self.former_owner(&members, guard.key().as_ref()) else {
            return Err(guard);
        };
        let leading = guard.lead();
        let removed: Vec<Stamp> = former.removed.into_iter().collect();
        let key = guard.key().as_ref();
        let answer = self.ask_former(&former.remote, &[key], &removed, deadline);
        let inherited = self.take_in(guard, answer.into_iter().next().flatten());
        drop(leading); // not before: decoding is user code
        inherited
    }

    /// As [`inherit`](Shared::inherit), of several flights, in their order.
    pub(super) fn inherit_many(
        self: &Arc<Self>,
        guards: Vec<Guard<Outcome<V>>>,
        deadline: Deadline,
    ) -> Vec<Inherited<V>> {
        let members = self.cluster.members();
        if !members.has_former_rings() {
            return guards.into_iter().map(Err).collect();
        }
        let leading: Vec<_> = guards.iter().map(Guard::lead).collect();
        let keys: Vec<KeyRef<'_>> = guards.iter().map(|guard| guard.key().as_ref()).collect();
        let ask = |estate: &Estate| {
            let asked: Vec<_> = estate.at.iter().map(|&at| keys[at]).collect();
            let answers = self.ask_former(&estate.former, &asked, &estate.removed, deadline);
            estate.at.iter().copied().zip(answers).collect::<Vec<_>>()
        };
        let told = self
            .cluster
            .fanout
            .each(&self.estates(&members, &keys), ask);
        let mut answers: Vec<Option<Answer>> = vec![None; keys.len()];
        for (at, answer) in told.into_iter().flatten() {
            answers[at] = answer;
        }
        let flights = guards.into_iter().zip(answers);
        let inherited = flights.map(|(guard, answer)| self.take_in(guard, answer));
        let inherited = inherited.collect();
        drop(leading); // not before: decoding is user code
        inherited
    }

    fn estates(&self, members: &Members, keys: &[KeyRef<'_>]) -> Vec<Estate> {
        let mut estates: Vec<Estate> = Vec::new();
        for (at, &key) in keys.iter().enumerate() {
            let Some(former) = self.former_owner(members, key) else {
                continue;
            };
            let is_same = |estate: &&mut Estate| {
                let is_same_kind = estate.removed.is_empty() == former.removed.is_none();
                is_same_kind && Arc::ptr_eq(&estate.former, &former.remote)
            };
            match estates.iter_mut().find(is_same) {
                Some(estate) => {
                    estate.at.push(at);
                    estate.removed.extend(former.removed);
                }
                None => estates.push(Estate {
                    former: former.remote,
                    at: vec![at],
                    removed: former.removed.into_iter().collect(),
                }),
            }
        }
        estates
    }

    /// Who may have the value of `key` in memory, as it owned it not long ago.
    fn former_owner(&self, members: &Members, key: KeyRef<'_>) -> Option<Former> {
        if !members.has_former_rings() {
            return None;
        }
        let now = self.cluster.clock.now();
        let Some(remote) = members.former_owner(key.text(), now) else {
            self.cluster.forget_expired_rings(now);
            return None;
        };
        // What it has may be older than a removal that is forgotten here.
        if self.cluster.has_pending_removals(&remote) {
            return None;
        }
        // One who is only taken for the owner inherits nothing: a request goes one hop (I5).
        if members.owner(key.text()) != Owner::This {
            return None;
        }
        self.cluster.fetch_tombstones(members, &remote);
        match remote.tombstone_sync() {
            TombstoneSync::Done => {}
            TombstoneSync::NotDone => {
                self.counters.peeks.add(); // it has not answered, and would not for the key
                return None;
            }
            TombstoneSync::Unsupported => return None,
        }
        let now = self.cluster.clock.now();
        match self.cluster.journal.removed(&self.name, key.text(), now) {
            Removed::Never => Some(Former {
                remote,
                removed: None,
            }),
            Removed::By(stamp, ring) if members.was_on_ring(&remote, ring) => Some(Former {
                remote,
                removed: Some(stamp),
            }),
            Removed::By(..) | Removed::Perhaps => None,
        }
    }

    /// What a former owner has in main memory of each key, of those that were `removed` only if it
    /// has carried that out. It has little time for this: what it does not say is loaded.
    fn ask_former(
        &self,
        former: &Arc<Remote>,
        keys: &[KeyRef<'_>],
        removed: &[Stamp],
        deadline: Deadline,
    ) -> Vec<Option<Answer>> {
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

    /// Asks for as many of the keys, from the first, as go into one request, of each if a removal
    /// has been carried out.
    fn ask_if_newer(
        &self,
        former: &Arc<Remote>,
        mut keys: Vec<(&str, Stamp)>,
        terms: &Terms,
        deadline: Deadline,
    ) -> Result<Vec<Item>, Failure> {
        let mut room = MAX_COMMAND;
        let fits = |(key, _): &&(&str, Stamp)| {
            let left = room.checked_sub(key.len() + PEEK_OVERHEAD);
            room = left.unwrap_or(0);
            left.is_some()
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

    /// Ends a flight with the value that was taken over, if there is one that can be used.
    fn take_in(self: &Arc<Self>, guard: Guard<Outcome<V>>, answer: Option<Answer>) -> Inherited<V> {
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

    /// What this node owned in main memory, to one who owns it now. Counts for nothing.
    pub(super) fn bequeath(&self, key: KeyRef<'_>) -> Item {
        let found = self.cache.recheck(key);
        match found.filter(|found| found.tier == Tier::Main) {
            Some(found) => self.item_of_value(key.text(), &found.value, found.expires, 0.0),
            None => Item::Status(Status::Loading, String::new()),
        }
    }

    /// As [`bequeath`](Shared::bequeath), if a removal of the key has been carried out here. Looks
    /// for that first: what is in memory afterwards is newer.
    pub(super) fn bequeath_if_newer(&self, key: &str, removed: Stamp) -> Item {
        if self.cluster.journal.has_applied(&self.name, key, removed) {
            return self.bequeath(self.cache.hash(key));
        }
        Item::Status(Status::Loading, String::new())
    }

    /// Offers what is in memory to those who own it, until all is offered or `deadline`.
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
            // One that cannot be told of some is not told of the others.
            key_batches(keys).try_for_each(|keys| self.offer_to(successor, keys, deadline))
        });
    }

    /// Blocks until the successor has taken over what it wants of `keys`.
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
                // It has no such group, no time, or is too old to know of offers.
                _ => Ok(Err(Failure::Unsupported)),
            })?
    }

    /// Has keys taken over that their former owner offers. Answered when that is done.
    pub(super) fn begin_take_over(
        self: &Arc<Self>,
        keys: &[&str],
        terms: &Terms,
        requester: &Requester,
    ) -> Begun {
        let done = Slot::new();
        let work = Work {
            key_bytes: keys.iter().map(|key| key.len()).collect(),
            job: Box::new(TakeOver {
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

    /// Takes those of `keys` over that this node owns, lacks, and is not loading already.
    fn take_over(self: &Arc<Self>, keys: &[String]) {
        let members = self.cluster.members();
        let mut guards = Vec::with_capacity(keys.len());
        for key in keys.iter().filter(|key| members.owner(key) == Owner::This) {
            let key = self.cache.hash(key);
            if let Joined::Lead(guard) = self.loads.join(key, Deadline::NEVER, Join::Start) {
                guards.extend(self.land_if_cached(guard).err());
            }
        }
        for inherited in self.inherit_many(guards, Deadline::NEVER) {
            if let Err(guard) = inherited {
                guard.release(); // whoever wants it meanwhile loads it
            }
        }
    }
}

/// Keys that are to be taken over.
struct TakeOver<V: Cacheable> {
    group: Arc<Shared<V>>,
    keys: Vec<String>,
    done: Arc<Slot<()>>,
}

impl<V: Cacheable> Job for TakeOver<V> {
    fn run(self: Box<Self>) {
        self.group.take_over(&self.keys);
        // One who gave up meanwhile does not want to know.
        let _ = self.done.fill(());
    }
}

fn value_of(item: Item) -> Option<Answer> {
    match item {
        Item::Value(answer) => Some(answer),
        Item::Status(..) | Item::TooLarge(_) => None,
    }
}
