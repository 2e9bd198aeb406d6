//! `remove`, `set` and `clear`: changes that hold on every reachable node when they return (P2).
//!
//! A change is recorded first (`journal`), then sent: to the owner, and then to all other nodes at the
//! same time, so that no node can fetch an old value from the owner any more when the copies are
//! dropped. If the list of peers changes meanwhile, the change is sent to all once more. What each node
//! does is in `invalidate.rs` and `set.rs`.

use std::time::Duration;

use super::get::check_key;
use super::handle::Group;
use super::set::PreparedValue;
use super::shared::Shared;
use crate::cluster::change::Change;
use crate::cluster::members::{Members, Owner};
use crate::cluster::propagation::{RecordedChange, key_batches};
use crate::cluster::remote::{Failure, Remote};
use crate::error::{Error, Unreached};
use crate::loader::Loaded;
use crate::protocol::MAX_KEYS;
use crate::runtime::clock::Deadline;
use crate::runtime::sync::Arc;
use crate::runtime::user_code;
use crate::value::Cacheable;

/// How often a change is sent to all while the list of peers keeps changing.
const MAX_PASSES: usize = 4;

const _: () = assert!(MAX_PASSES > 1); // a change of the list costs one more

/// How long a change may take if its caller does not say, in fetch timeouts: some requests to a peer
/// that does not answer.
const USUAL_TIME: u32 = 4;

/// The parts of the time of a change in which peers receive it. In the rest, what some of them have missed is
/// given to another node.
const ROUNDS: u32 = 7;
const PARTS: u32 = 8;

impl<V: Cacheable> Group<V> {
    /// Removes the value of `key` from this node and from all peers. Blocks until all peers have answered
    /// or their time is up: no longer than about four times the
    /// [`fetch_timeout`](crate::NodeBuilder::fetch_timeout).
    ///
    /// A get that starts on any of these nodes after this call has returned does not see a value whose
    /// load began before the call. A get that waits for a load already under way still gets its value,
    /// which is then not cached.
    ///
    /// The peers are those in the list of this node, from the beginning of this call to its end. A peer
    /// that this node does not know yet receives all removals of the last ten minutes as soon as it
    /// stands in the list. So where lists differ, as in a rolling deploy, a new process may serve an old
    /// value for as long as it takes the list to reach this node (the interval of the
    /// [`Discoverer`](crate::Discoverer), 10 s unless set otherwise) and a request to reach the new
    /// process. A peer that leaves the list receives removals for ten minutes more, and clears its
    /// caches when it finds itself in the list again.
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that were not reached; the value is removed everywhere else.
    /// The removal is sent to them again as soon as they answer, for as long as this node lives, and
    /// after its [`leave`](crate::Node::leave) by another node; a copy there may be served until then,
    /// or until it expires. One of the peers that were reached is given the removal too, in the last eighth
    /// of the time, and delivers it also if this process crashes. If no peer takes it, or both processes end
    /// without `leave` before one of them has delivered it, it is lost. Peers that can never be reached, as
    /// they speak the dialect of Go, are named as [`unsupported`](crate::Unreached::unsupported).
    /// [`Error::KeyTooLong`] changes nothing.
    #[doc(alias = "delete")]
    #[doc(alias = "invalidate")]
    #[doc(alias = "evict")]
    pub fn remove(&self, key: &str) -> Result<(), Error> {
        self.0.remove_all(&[key], self.0.usual_deadline(1))
    }

    /// As [`remove`](Group::remove), but waits no longer than `timeout`: peers that have not
    /// answered by then are [unreached](Error::Unreached).
    ///
    /// # Errors
    ///
    /// As [`remove`](Group::remove).
    pub fn remove_timeout(&self, key: &str, timeout: Duration) -> Result<(), Error> {
        self.0.remove_all(&[key], self.0.deadline_after(timeout))
    }

    /// As [`remove`](Group::remove), for many keys at once: one request for each peer and some
    /// dozens of keys. May take one [`fetch_timeout`](crate::NodeBuilder::fetch_timeout) longer for
    /// each thousand keys.
    ///
    /// # Errors
    ///
    /// As [`remove`](Group::remove).
    pub fn remove_many<K: AsRef<str>>(&self, keys: &[K]) -> Result<(), Error> {
        let keys = texts(keys);
        self.0.remove_all(&keys, self.0.usual_deadline(keys.len()))
    }

    /// As [`remove_many`](Group::remove_many), but waits no longer than `timeout` in all.
    ///
    /// # Errors
    ///
    /// As [`remove`](Group::remove).
    pub fn remove_many_timeout<K: AsRef<str>>(
        &self,
        keys: &[K],
        timeout: Duration,
    ) -> Result<(), Error> {
        self.0
            .remove_all(&texts(keys), self.0.deadline_after(timeout))
    }

    /// Gives `key` a value: at its owner, while all other nodes drop theirs. Blocks until all peers have
    /// answered or their time is up, as [`remove`](Group::remove).
    ///
    /// `value` is a value, or a [`Loaded`], which says how long it lives. Of two sets of one key at the
    /// same time, the one that reaches the owner last wins; each is carried out by itself. A set that
    /// was held up on its way has no effect any more once a later change of this process has arrived:
    /// it counts as done then, as the later change holds.
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that were not reached; they remove their values as soon as
    /// they answer. If the owner is among them, the value is not set. Go peers are
    /// [`unsupported`](crate::Unreached::unsupported). [`Error::KeyTooLong`], [`Error::ValueTooLarge`] and
    /// [`Error::Encode`] change nothing.
    #[doc(alias = "insert")]
    #[doc(alias = "put")]
    pub fn set(&self, key: &str, value: impl Into<Loaded<V>>) -> Result<(), Error> {
        self.0.set(key, value.into(), self.0.usual_deadline(1))
    }

    /// As [`set`](Group::set), but waits no longer than `timeout`: peers that have not answered by
    /// then are [unreached](Error::Unreached).
    ///
    /// # Errors
    ///
    /// As [`set`](Group::set).
    pub fn set_timeout(
        &self,
        key: &str,
        value: impl Into<Loaded<V>>,
        timeout: Duration,
    ) -> Result<(), Error> {
        self.0
            .set(key, value.into(), self.0.deadline_after(timeout))
    }

    /// Removes all values of this group, from this node and from all peers. Blocks until all peers have
    /// answered or their time is up, as [`remove`](Group::remove).
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that were not reached.
    #[doc(alias = "invalidate_all")]
    pub fn clear(&self) -> Result<(), Error> {
        self.0.clear(self.0.usual_deadline(1))
    }

    /// As [`clear`](Group::clear), but waits no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`clear`](Group::clear).
    pub fn clear_timeout(&self, timeout: Duration) -> Result<(), Error> {
        self.0.clear(self.0.deadline_after(timeout))
    }
}

fn texts<K: AsRef<str>>(keys: &[K]) -> Vec<&str> {
    keys.iter().map(AsRef::as_ref).collect()
}

impl<V: Cacheable> Shared<V> {
    fn deadline_after(&self, timeout: Duration) -> Deadline {
        Deadline::after(self.cluster.clock.now(), timeout)
    }

    /// The deadline of a change of so many keys whose caller sets none.
    fn usual_deadline(&self, keys: usize) -> Deadline {
        let thousands = u32::try_from(keys / MAX_KEYS).unwrap_or(u32::MAX);
        let times = USUAL_TIME.saturating_add(thousands);
        self.deadline_after(self.cluster.settings.fetch_timeout.saturating_mul(times))
    }

    /// The deadline of the peers that receive a change first: the others must have time left if one of
    /// these does not answer.
    fn half_of(&self, deadline: Deadline) -> Deadline {
        self.part_of(deadline, 1, 2)
    }

    /// When so many of `all` parts of the time until a deadline are over.
    fn part_of(&self, deadline: Deadline, parts: u32, all: u32) -> Deadline {
        let now = self.cluster.clock.now();
        let left = deadline.remaining(now);
        left.map_or(deadline, |left| Deadline::after(now, left / all * parts))
    }

    fn remove_all(&self, keys: &[&str], deadline: Deadline) -> Result<(), Error> {
        keys.iter().try_for_each(|key| check_key(key))?;
        if keys.is_empty() {
            return Ok(());
        }
        let _hold = user_code::hold(); // the listener is called once the peers have the change
        let recorded = self.cluster.record(&self.name, Some(keys));
        let info = self.cluster.own_change_info(&recorded);
        self.send_until_list_is_stable(&recorded, deadline, |members, deadline| {
            let send = |remote: &Arc<Remote>, round: Round, deadline| {
                let is_meant = |key: &&&str| round.is_for(remote, &members.owner_and_deputy(key));
                let keys: Vec<&str> = keys.iter().filter(is_meant).copied().collect();
                self.send_removal(remote, &keys, &recorded, deadline)
            };
            let invalidate = |is_own: bool| {
                let is_meant = |key: &&&str| (members.owner(key) == Owner::This) == is_own;
                let meant = keys.iter().filter(is_meant);
                meant.for_each(|key| self.invalidate(key, info));
            };
            let remotes = members.remotes();
            let first = self.half_of(deadline);
            invalidate(true); // as the owner, before the others
            let cluster = &self.cluster;
            let mut unreached =
                cluster.send_to_all(&remotes, |remote| send(remote, Round::First, first));
            invalidate(false);
            let others =
                cluster.send_to_all(&remotes, |remote| send(remote, Round::Second, deadline));
            unreached.extend(others);
            Ok(unreached)
        })
    }

    fn set(&self, key: &str, loaded: Loaded<V>, deadline: Deadline) -> Result<(), Error> {
        let _hold = user_code::hold(); // the listener is called once the peers have the change
        let Loaded { value, ttl } = loaded;
        let mut prepared = PreparedValue::new(value);
        check_key(key)?;
        let life = self.lifetimes.of(ttl, self.cache.hash(key));
        // Before the change is recorded: an error here changes nothing, and what blocks here holds
        // nothing up.
        self.prepare(&mut prepared, key, life, &self.cluster.members().owner(key))?;
        let recorded = self.cluster.record(&self.name, Some(&[key]));
        let info = self.cluster.own_change_info(&recorded);
        self.send_until_list_is_stable(&recorded, deadline, |members, deadline| {
            let holders = members.owner_and_deputy(key);
            let owner = &holders.0;
            self.prepare(&mut prepared, key, life, owner)?; // in case it is another owner than before
            let put = match (owner, prepared.body()) {
                (Owner::Peer(_), Some(body)) => Some(Change::Put {
                    key,
                    body: body.to_vec(),
                }),
                _ => {
                    self.put_here(key, &mut prepared, life, info, &recorded);
                    None
                }
            };
            let send = |round: Round, deadline| {
                let mut remotes = members.remotes();
                remotes.retain(|remote| round.is_for(remote, &holders));
                self.cluster.send_to_all(&remotes, |remote| match &put {
                    Some(put) if owner.is(remote) => {
                        let (cluster, group) = (&self.cluster, &self.name);
                        cluster.send_change(remote, group, put, &recorded, deadline)
                    }
                    _ => self.send_removal(remote, &[key], &recorded, deadline),
                })
            };
            let mut unreached = send(Round::First, self.half_of(deadline));
            if put.is_some() {
                self.invalidate(key, info);
            }
            unreached.extend(send(Round::Second, deadline));
            Ok(unreached)
        })
    }

    fn clear(&self, deadline: Deadline) -> Result<(), Error> {
        let _hold = user_code::hold(); // the listener is called once the peers have the change
        let recorded = self.cluster.record(&self.name, None);
        let info = self.cluster.own_change_info(&recorded);
        let send = |remote: &Arc<Remote>, deadline| {
            let cluster = &self.cluster;
            cluster.send_change(remote, &self.name, &Change::Clear, &recorded, deadline)
        };
        self.send_until_list_is_stable(&recorded, deadline, |members, deadline| {
            // Any node may own keys and any may fetch from it, so once for the values that are owned and
            // once for the copies made meanwhile.
            let remotes = members.remotes();
            let send_all = |deadline| {
                self.cluster
                    .send_to_all(&remotes, |remote| send(remote, deadline))
            };
            self.invalidate_all(info);
            let mut unreached = send_all(self.half_of(deadline));
            self.invalidate_all(info);
            unreached.extend(send_all(deadline));
            Ok(unreached)
        })
    }

    /// Sends a change to all members by `send_to`, which returns the members that were not reached, and
    /// does so again if the members have changed meanwhile: a node that joined may have taken an old
    /// value over before the former owner had the change, and others may have fetched it from there.
    ///
    /// If a member has another ring, the change is sent to all once more as well, as by `clear`: a node
    /// that is an owner by that ring may have received it after another node had fetched from it.
    ///
    /// What members have missed is then given to one that has received it: if this process ends, that one
    /// delivers it.
    fn send_until_list_is_stable(
        &self,
        recorded: &RecordedChange,
        deadline: Deadline,
        mut send_to: impl FnMut(&Members, Deadline) -> Result<Vec<Unreached>, Error>,
    ) -> Result<(), Error> {
        let mut unreached: Vec<Unreached> = Vec::new();
        let mut members = self.cluster.members();
        let mut is_sent_again = false;
        let rounds = self.part_of(deadline, ROUNDS, PARTS);
        for _ in 0..MAX_PASSES {
            for missed in send_to(&members, rounds)? {
                if unreached.iter().all(|other| other.peer != missed.peer) {
                    unreached.push(missed);
                }
            }
            let reached = std::mem::replace(&mut members, self.cluster.members());
            if !members.is_same_as(&reached) {
                continue;
            }
            let is_enough = is_sent_again || !recorded.has_met_other_ring();
            if is_enough || rounds.is_past(self.cluster.clock.now()) {
                break;
            }
            is_sent_again = true;
        }
        recorded.share_missed(&unreached, deadline);
        Error::unless_all_reached(unreached)
    }

    /// Has a peer remove `keys`, in as many requests as that takes.
    fn send_removal(
        &self,
        remote: &Arc<Remote>,
        keys: &[&str],
        recorded: &RecordedChange,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let send = |keys| {
            let change = Change::Remove(keys);
            self.cluster
                .send_change(remote, &self.name, &change, recorded, deadline)
        };
        // A peer that misses one part does not get the rest now: all of it is delivered later.
        key_batches(keys).try_for_each(send)
    }
}

/// The two rounds in which peers receive a change of a key.
#[derive(Clone, Copy)]
enum Round {
    /// The owner, from which others fetch, and the deputy, which they ask where they do not reach the owner.
    First,
    /// All but the owner. The deputy again, unless this node owns the key: it may have fetched a copy before
    /// the owner had the change.
    Second,
}

impl Round {
    /// Whether `remote` receives the change of a key in this round, which has these `holders`.
    fn is_for(self, remote: &Arc<Remote>, (owner, deputy): &(Owner, Option<Owner>)) -> bool {
        let is_deputy = || deputy.as_ref().is_some_and(|deputy| deputy.is(remote));
        match self {
            Round::First => owner.is(remote) || is_deputy(),
            Round::Second => match owner {
                Owner::This => !is_deputy(),
                Owner::Peer(_) => !owner.is(remote),
            },
        }
    }
}
