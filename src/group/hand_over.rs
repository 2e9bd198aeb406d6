//! The hand-over of values from the memory of one node to that of another, which need not load them then.
//!
//! * For some time after the ring has changed, a load first asks the former owner (`take_over`).
//! * What a node offers (`offer`) is taken over in the same way: by the new owners of its keys when it
//!   leaves, and otherwise by their deputies.
//!
//! P2: a value is taken over inside a flight only, which a removal marks stale as any other, and from
//! the main cache only. A key that was removed lately (`journal`) is only taken over from a node that
//! has carried out the same removal, so that its value was loaded after that.

use std::time::Duration;

use super::batch::Batch;
use super::load::Role;
use super::outcome::Outcome;
use super::shared::Shared;
use crate::cache::entry::Tier;
use crate::cache::key::{KeyRef, MAX_KEY_BYTES};
use crate::cluster::calls::CallLimit;
use crate::cluster::journal::{MEMORY, Removed};
use crate::cluster::members::{Members, Owner};
use crate::cluster::remote::{Failure, Remote, TombstoneSync};
use crate::flight::leader::Guard;
use crate::protocol::hash::hash_of_key;
use crate::protocol::{
    self, Answer, GroupCommand, Item, MAX_COMMAND, MAX_KEYS, ProtocolError, Stamp, Status, Terms,
    decode_batch,
};
use crate::runtime::clock::Deadline;
use crate::runtime::sync::Arc;
use crate::transport::peer::{Call, Reply};
use crate::value::Cacheable;

/// The bytes of a key in a command besides its text, with its stamp, at most.
const PEEK_OVERHEAD: usize = 32;

const _: () = assert!(MAX_KEY_BYTES + PEEK_OVERHEAD <= MAX_COMMAND); // any one key fits

/// The outcome of a flight that has ended with a value that was taken over; the guard of one that has
/// not.
type TakenOver<V> = Result<Outcome<V>, Guard<Outcome<V>>>;

/// A node that may have the value of a key in memory, and the removal that it must have carried out, if
/// there was one.
struct Holder {
    remote: Arc<Remote>,
    removed: Option<Stamp>,
}

/// The keys of a list that one node may have: either those that were removed lately, or the others.
struct HeldShare {
    holder: Arc<Remote>,
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
        let Some(former) = self.holder(&members, guard.key().as_ref(), Role::Owner) else {
            return Err(guard);
        };
        let leading = guard.lead();
        self.counters.peeks.add();
        let removed: Vec<Stamp> = former.removed.into_iter().collect();
        let key = guard.key().as_ref();
        let answer = self.ask_holder(&former.remote, &[key], &removed, Role::Owner, deadline);
        let answer = answer.into_iter().next().flatten();
        let taken_over = self.finish_with(guard, answer, Role::Owner);
        drop(leading); // not before: decoding is user code
        taken_over
    }

    /// As [`take_over`](Shared::take_over), for several flights, in their order. As their deputy, this node
    /// takes the values over from their owners.
    pub(super) fn take_over_many(
        self: &Arc<Self>,
        guards: Vec<Guard<Outcome<V>>>,
        deadline: Deadline,
        role: Role,
    ) -> Vec<TakenOver<V>> {
        let members = self.cluster.members();
        if guards.is_empty() || role == Role::Owner && !members.has_former_rings() {
            return guards.into_iter().map(Err).collect();
        }
        let leading: Vec<_> = guards.iter().map(Guard::lead).collect();
        let keys: Vec<KeyRef<'_>> = guards.iter().map(|guard| guard.key().as_ref()).collect();
        let ask = |share: &HeldShare| {
            let asked: Vec<_> = share.at.iter().map(|&at| keys[at]).collect();
            let answers = self.ask_holder(&share.holder, &asked, &share.removed, role, deadline);
            share.at.iter().copied().zip(answers).collect::<Vec<_>>()
        };
        let shares = self.held_shares(&members, &keys, role);
        if role == Role::Owner {
            let asked = shares.iter().map(|share| share.at.len());
            self.counters.peeks.add_many(asked.sum());
        }
        let answered = self.cluster.fanout.each(&shares, ask);
        let mut answers: Vec<Option<Answer>> = vec![None; keys.len()];
        for (at, answer) in answered.into_iter().flatten() {
            answers[at] = answer;
        }
        let flights = guards.into_iter().zip(answers);
        let taken_over = flights.map(|(guard, answer)| self.finish_with(guard, answer, role));
        let taken_over = taken_over.collect();
        drop(leading); // not before: decoding is user code
        taken_over
    }

    /// The keys that another node may have, by that node.
    fn held_shares(&self, members: &Members, keys: &[KeyRef<'_>], role: Role) -> Vec<HeldShare> {
        let mut shares: Vec<HeldShare> = Vec::new();
        for (at, &key) in keys.iter().enumerate() {
            let Some(holder) = self.holder(members, key, role) else {
                continue;
            };
            let is_same = |share: &&mut HeldShare| {
                let is_same_kind = share.removed.is_empty() == holder.removed.is_none();
                is_same_kind && Arc::ptr_eq(&share.holder, &holder.remote)
            };
            match shares.iter_mut().find(is_same) {
                Some(share) => {
                    share.at.push(at);
                    share.removed.extend(holder.removed);
                }
                None => shares.push(HeldShare {
                    holder: holder.remote,
                    at: vec![at],
                    removed: holder.removed.into_iter().collect(),
                }),
            }
        }
        shares
    }

    /// The node from which this one may take the value of `key` over: the owner, if this node is its deputy,
    /// and the node that owned the key not long ago, if this node owns it now.
    fn holder(&self, members: &Members, key: KeyRef<'_>, role: Role) -> Option<Holder> {
        let remote = match role {
            Role::Owner => self.former_owner(members, key)?,
            Role::Deputy => members.owner_for_deputy(key.text())?,
            Role::Fallback => return None,
        };
        // Its value may be older than a removal that this node has forgotten since.
        if self.cluster.has_pending_removals(&remote) {
            return None;
        }
        self.cluster.fetch_tombstones(members, &remote);
        match remote.tombstone_sync() {
            TombstoneSync::Done => {}
            TombstoneSync::NotDone => {
                if role == Role::Owner {
                    self.counters.peeks.add(); // it has not answered, and would not for this key either
                }
                return None;
            }
            TombstoneSync::Unsupported => return None,
        }
        let now = self.cluster.clock.now();
        match self.cluster.journal.removed(&self.name, key.text(), now) {
            Removed::Never => Some(Holder {
                remote,
                removed: None,
            }),
            Removed::By(stamp, ring) if members.was_on_ring(&remote, ring) => Some(Holder {
                remote,
                removed: Some(stamp),
            }),
            Removed::By(..) | Removed::Perhaps => None,
        }
    }

    /// The node that owned `key` not long ago, before this one. A node that a peer only takes for the owner
    /// asks nobody: a request goes one hop (I5).
    fn former_owner(&self, members: &Members, key: KeyRef<'_>) -> Option<Arc<Remote>> {
        if !members.has_former_rings() || members.owner(key.text()) != Owner::This {
            return None;
        }
        let now = self.cluster.clock.now();
        let former = members.former_owner(key.text(), now);
        if former.is_none() {
            self.cluster.forget_expired_rings(now);
        }
        former
    }

    /// The values of `keys` in the main cache of another node; where they were `removed`, only those
    /// whose removals it has carried out. A former owner has the connect timeout to answer, as a load waits for
    /// it; for a deputy, an owner has as long as for any request.
    fn ask_holder(
        &self,
        holder: &Arc<Remote>,
        keys: &[KeyRef<'_>],
        removed: &[Stamp],
        role: Role,
        deadline: Deadline,
    ) -> Vec<Option<Answer>> {
        debug_assert!(removed.is_empty() || removed.len() == keys.len());
        let limit = match role {
            Role::Owner => CallLimit::of_all(self.cluster.settings.limits.connect_timeout),
            Role::Deputy | Role::Fallback => self.cluster.limit(),
        };
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
                match self.ask_batch(holder, open, &terms, limit, deadline) {
                    Ok(Batch::Items(items)) => items,
                    _ => break,
                }
            } else {
                let stamps = removed[answers.len()..].iter();
                let open = open.iter().map(|key| key.text()).zip(stamps.copied());
                match self.ask_if_newer(holder, open.collect(), &terms, limit, deadline) {
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
    /// the other node must have carried out.
    fn ask_if_newer(
        &self,
        holder: &Arc<Remote>,
        mut keys: Vec<(&str, Stamp)>,
        terms: &Terms,
        limit: CallLimit,
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
        let read = |status, reply: Reply| match status {
            Status::Ok => decode_batch(reply.body, hashes.into_iter()),
            Status::NoSuchGroup | Status::BadRequest => Ok(Vec::new()),
            _ => Err(ProtocolError("it refuses the request")),
        };
        self.cluster.call(holder, call, limit, deadline, read)
    }

    /// Ends a flight with the value of another node, if there is one that can be used.
    fn finish_with(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        answer: Option<Answer>,
        role: Role,
    ) -> TakenOver<V> {
        let Some(mut obtained) = answer.and_then(|answer| self.decode(answer)) else {
            return Err(guard);
        };
        let now = self.cluster.clock.now();
        if role == Role::Deputy {
            // What this node has missed in spite of all does not outlive the memory of removals.
            let limit = now.checked_add(MEMORY);
            obtained.expires = [obtained.expires, limit].into_iter().flatten().min();
        }
        if obtained.deadline().is_past(now) {
            return Err(guard);
        }
        match role {
            Role::Owner => self.counters.inherited.add(),
            Role::Deputy | Role::Fallback => self.counters.deputy_copies.add(),
        }
        self.keep(&guard, Tier::Main, &obtained, now);
        guard.finish(Ok(obtained.clone()));
        Ok(Ok(obtained))
    }

    /// The value of `key` in the main cache of this node, for the new owner of the key or its deputy. Counts
    /// as no hit.
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
}

fn value_of(item: Item) -> Option<Answer> {
    match item {
        Item::Value(answer) => Some(answer),
        Item::Status(..) | Item::TooLarge(_) => None,
    }
}
