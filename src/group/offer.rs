//! Offers: a node tells others which keys it has in memory, and they take the values over (`hand_over`).
//!
//! * A node that leaves offers its keys to their new owners.
//! * Every ten seconds a node offers the keys that it owns and that are requested most to their deputies
//!   (`offer_to_deputies`), which answer from them when this node is lost. A deputy takes what it lacks; it
//!   is asked for the keys again and again, so nobody keeps account of what it has.
//!
//! A deputy is told of each change as an owner is. What it takes lives as long as at the owner, but no longer
//! than removals are remembered.

use std::time::Duration;

use super::load::Role;
use super::pending::Pending;
use super::registry::Begun;
use super::shared::Shared;
use crate::cache::shards::HotKey;
use crate::cluster::members::{Members, Owner};
use crate::cluster::propagation::key_batches;
use crate::cluster::remote::{Failure, Remote};
use crate::flight::flights::{Join, Joined};
use crate::protocol::account::Requester;
use crate::protocol::{self, GroupCommand, Response, Status, Terms};
use crate::runtime::clock::Deadline;
use crate::runtime::pool::{Job, Work};
use crate::runtime::slot::Slot;
use crate::runtime::sync::{Arc, Ordering};
use crate::transport::peer::Call;
use crate::value::Cacheable;

/// How many keys a node offers at most.
const MAX_OFFERED: usize = 100_000;

/// The most bytes of values that are offered to deputies at a time, and the time that this may take. Where
/// more are to be handed over, the next part follows the next time.
const BYTES_OF_A_ROUND: usize = 8 << 20;
const TIME_OF_A_ROUND: Duration = Duration::from_secs(5);

/// How many values a job takes over at once: so many are in memory before they are kept, and no get waits for
/// others than these.
const KEYS_AT_ONCE: usize = 8;

/// After how many refusals in a row no more is offered.
const MAX_REFUSALS: usize = 16;

/// Whether a node has taken over what it was offered.
enum Taken {
    Yes,
    /// It has no time.
    NotNow,
}

/// The keys that are offered to one node.
struct Share<'a> {
    to: Arc<Remote>,
    keys: Vec<&'a str>,
}

impl<V: Cacheable> Shared<V> {
    /// Offers the keys in memory to their owners, until all are offered or `deadline`.
    pub(super) fn offer(&self, deadline: Deadline) {
        let members = self.cluster.members();
        let hottest = self.cache.about_hottest(MAX_OFFERED);
        let with_owner = hottest.iter().filter_map(|hot| {
            let Owner::Peer(owner) = members.owner(&hot.key) else {
                return None;
            };
            Some((owner, &*hot.key))
        });
        let shares = shares(with_owner);
        self.cluster.fanout.each(&shares, |share| {
            self.offer_in_turns(std::slice::from_ref(share), deadline);
        });
    }

    /// Offers the keys of the values that this node owns and that are requested most to their deputies, one
    /// deputy after the other: callers need the network and the processors more.
    pub(super) fn offer_to_deputies(&self) {
        let bytes = self.capacity.parts().for_deputies;
        let members = self.cluster.members();
        if bytes == 0 || members.remotes().is_empty() {
            return;
        }
        let most = (bytes / crate::ENTRY_OVERHEAD).min(MAX_OFFERED);
        let hottest = self.cache.about_hottest(most);
        let with_deputy = hottest
            .iter()
            .filter_map(|hot| Some((members.deputy_of_owned(&hot.key)?, hot)));
        let round = self.offer_round.fetch_add(1, Ordering::Relaxed);
        let part = part_of_round(with_deputy, bytes, round);
        let shares = shares(part.into_iter().map(|(deputy, hot)| (deputy, &*hot.key)));
        let deadline = Deadline::after(self.cluster.clock.now(), TIME_OF_A_ROUND);
        self.offer_in_turns(&shares, deadline);
    }

    /// Offers one batch after the other to each node in turn: one that has no time is asked again after the
    /// others. Ends when all is offered, after some refusals in a row, or at `deadline`.
    fn offer_in_turns(&self, shares: &[Share<'_>], deadline: Deadline) {
        let open = shares
            .iter()
            .map(|share| (&share.to, key_batches(&share.keys).peekable()));
        let mut open: Vec<_> = open.collect();
        let mut refusals = 0;
        while refusals < MAX_REFUSALS && !deadline.is_past(self.cluster.clock.now()) {
            open.retain_mut(|(to, batches)| {
                let Some(keys) = batches.peek() else {
                    return false;
                };
                match self.offer_to(to, keys, deadline) {
                    Ok(Taken::Yes) => {
                        refusals = 0;
                        batches.next();
                        true
                    }
                    Ok(Taken::NotNow) => {
                        refusals += 1;
                        true
                    }
                    Err(_) => false,
                }
            });
            if open.is_empty() {
                return;
            }
        }
    }

    /// Offers `keys` to a node. Blocks until it has taken over what it wants of them.
    fn offer_to(
        &self,
        remote: &Arc<Remote>,
        keys: &[&str],
        deadline: Deadline,
    ) -> Result<Taken, Failure> {
        let target = protocol::target(&self.name, None);
        let call = Call::new("POST", target, self.terms(deadline, 0).to_header())
            .with_body(GroupCommand::Offer(keys.to_vec()).encode());
        let limit = self.cluster.limit();
        self.cluster
            .call(remote, call, limit, deadline, |status, _| match status {
                Status::Ok | Status::Loading => Ok(Ok(Taken::Yes)),
                Status::Overloaded => Ok(Ok(Taken::NotNow)),
                // It has no such group, or is too old to know of offers.
                _ => Ok(Err(Failure::Unsupported)),
            })?
    }

    /// Has keys taken over that another node offers. The request is answered when that is done.
    pub(super) fn begin_take_over(
        self: &Arc<Self>,
        keys: &[&str],
        terms: &Terms,
        requester: &Requester,
    ) -> Begun {
        let Some(turn) = self.turn_to_take(keys) else {
            return self.refuse_offer("it takes over what another node has offered");
        };
        let done = Slot::new();
        let work = Work {
            key_bytes: keys.iter().map(|key| key.len()).collect(),
            job: Box::new(TakeOverJob {
                keys: keys.iter().map(|&key| key.to_owned()).collect(),
                done: Arc::clone(&done),
                turn,
            }),
        };
        match self.cluster.pool.submit(vec![work], 1, requester.flow()) {
            Ok(_) => Begun::Pending(Pending::of_job(done, self.ring(), terms, &self.cluster)),
            Err(_) => self.refuse_offer("there is no thread for it"),
        }
    }

    fn refuse_offer(&self, reason: &str) -> Begun {
        Begun::Ready(Response::text(Status::Overloaded, self.ring(), reason))
    }

    /// The turn of a job that takes these keys over. What this node takes as a deputy, it takes by one thread
    /// of the pool at a time: loads are more urgent.
    fn turn_to_take(self: &Arc<Self>, keys: &[&str]) -> Option<Turn<V>> {
        let members = self.cluster.members();
        let is_deputy = |key: &&str| role_for(&members, key) == Some(Role::Deputy);
        let as_deputy = keys.iter().any(is_deputy);
        if as_deputy && self.is_taking_as_deputy.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(Turn {
            group: Arc::clone(self),
            as_deputy,
        })
    }

    /// Takes those of `keys` over that this node owns, or whose deputy it is, that it does not have, and that
    /// it is not loading already.
    fn take_over_offered(self: &Arc<Self>, keys: &[String]) {
        let members = self.cluster.members();
        for role in [Role::Owner, Role::Deputy] {
            let is_meant = |key: &&String| role_for(&members, key) == Some(role);
            let meant: Vec<&String> = keys.iter().filter(is_meant).collect();
            for some in meant.chunks(KEYS_AT_ONCE) {
                self.take_some_over(some, role);
            }
        }
    }

    fn take_some_over(self: &Arc<Self>, keys: &[&String], role: Role) {
        let mut guards = Vec::with_capacity(keys.len());
        for key in keys {
            let key = self.cache.hash(key);
            if let Joined::Lead(guard) = self.loads.join(key, Deadline::NEVER, Join::Start) {
                guards.extend(self.finish_if_cached(guard, role).err());
            }
        }
        for taken_over in self.take_over_many(guards, Deadline::NEVER, role) {
            if let Err(guard) = taken_over {
                guard.release(); // a get that waits for it loads it
            }
        }
    }
}

/// In which role this node takes a key over that it is offered.
fn role_for(members: &Members, key: &str) -> Option<Role> {
    match members.owner_and_deputy(key) {
        (Owner::This, _) => Some(Role::Owner),
        (_, Some(Owner::This)) => Some(Role::Deputy),
        _ => None,
    }
}

/// The keys by the node that each of them is for.
fn shares<'a>(keys: impl Iterator<Item = (Arc<Remote>, &'a str)>) -> Vec<Share<'a>> {
    let mut shares: Vec<Share<'a>> = Vec::new();
    for (to, key) in keys {
        match shares.iter_mut().find(|share| Arc::ptr_eq(&share.to, &to)) {
            Some(share) => share.keys.push(key),
            None => shares.push(Share {
                to,
                keys: vec![key],
            }),
        }
    }
    shares
}

/// Of the first `bytes` of values, those that have their turn in this round.
fn part_of_round<'a>(
    hottest: impl Iterator<Item = (Arc<Remote>, &'a HotKey)>,
    bytes: usize,
    round: usize,
) -> Vec<(Arc<Remote>, &'a HotKey)> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    let (mut all_bytes, mut part_bytes) = (0, 0);
    for (deputy, hot) in hottest {
        if all_bytes + hot.weight > bytes {
            continue; // a smaller one may still have room
        }
        all_bytes += hot.weight;
        part_bytes += hot.weight;
        if part_bytes > BYTES_OF_A_ROUND && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            part_bytes = hot.weight;
        }
        part.push((deputy, hot));
    }
    parts.push(part);
    parts.swap_remove(round % parts.len())
}

/// The right to take values over, given back when it is dropped.
struct Turn<V: Cacheable> {
    group: Arc<Shared<V>>,
    as_deputy: bool,
}

impl<V: Cacheable> Drop for Turn<V> {
    fn drop(&mut self) {
        if self.as_deputy {
            self.group
                .is_taking_as_deputy
                .store(false, Ordering::Release);
        }
    }
}

/// The job of the pool that takes over offered keys.
struct TakeOverJob<V: Cacheable> {
    keys: Vec<String>,
    done: Arc<Slot<()>>,
    turn: Turn<V>,
}

impl<V: Cacheable> Job for TakeOverJob<V> {
    fn run(self: Box<Self>) {
        self.turn.group.take_over_offered(&self.keys);
        let TakeOverJob { done, turn, .. } = *self;
        drop(turn); // before the node that offers hears of it, and offers more
        // A requester that gave up meanwhile does not want it.
        let _ = done.fill(());
    }
}
