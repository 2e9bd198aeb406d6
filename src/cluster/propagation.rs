//! Propagation: how a change that is made on this node is sent to its peers. Where that fails, the change
//! stays pending, and `delivery.rs` delivers it later.

use std::ops::Range;

use crate::cache::key::MAX_KEY_BYTES;
use crate::cluster::calls::is_of_a_node;
use crate::cluster::change::{Change, Reach};
use crate::cluster::journal::{ChangeInfo, MAX_BATCH_KEYS, RefusedSet};
use crate::cluster::maintenance::PAUSE;
use crate::cluster::remote::{Failure, Remote};
use crate::cluster::state::Cluster;
use crate::error::Unreached;
use crate::protocol::dialect::Dialect;
use crate::protocol::{self, MAX_COMMAND, MAX_KEYS, ProtocolError, Stamp, Status, Terms};
use crate::runtime::clock::Deadline;
use crate::runtime::sync::{Arc, AtomicBool, Ordering};

/// The most keys that one request removes: about 1 MiB if all have the maximum length.
const KEYS_PER_REQUEST: usize = 64;

const _: () = assert!(KEYS_PER_REQUEST * MAX_KEY_BYTES <= MAX_COMMAND);
const _: () = assert!(KEYS_PER_REQUEST <= MAX_KEYS);
// A batch of pending removals goes into one request.
const _: () = assert!(MAX_BATCH_KEYS <= KEYS_PER_REQUEST);

/// How often a set is sent to an owner that takes it for an older change.
pub(crate) const MAX_SET_ATTEMPTS: usize = 3;

/// A change that is recorded in the journal, and in progress until it is dropped.
pub(crate) struct RecordedChange {
    cluster: Arc<Cluster>,
    /// The range of the journal that is pending for peers that are not reached.
    range: Range<u64>,
    stamp: Stamp,
    has_met_other_ring: AtomicBool,
}

impl RecordedChange {
    /// Whether a peer that has received the change has another ring: owners by that ring may have
    /// received it later than peers that fetch from them.
    pub(crate) fn has_met_other_ring(&self) -> bool {
        self.has_met_other_ring.load(Ordering::Acquire)
    }

    /// Gives the change to another node too, for the peers that have missed it.
    pub(crate) fn share_missed(&self, missed: &[Unreached], deadline: Deadline) {
        self.cluster.share_missed(&self.range, missed, deadline);
    }

    /// Whether a set of `key` was rightly refused as an older change.
    pub(crate) fn refused_set(&self, group: &str, key: &str) -> RefusedSet {
        self.cluster.journal.refused_set(group, key, &self.range)
    }
}

impl Drop for RecordedChange {
    fn drop(&mut self) {
        self.cluster.finish_change(&self.range);
    }
}

/// The answer of a peer to a change.
struct ChangeAnswer {
    /// Whether the peer has carried the change out; if not, it knows of a later one.
    is_accepted: bool,
    /// The fingerprint of its ring.
    ring: Option<u64>,
}

impl Cluster {
    /// Records that this node removes `keys` of a group, or all, before the change is sent to any peer: also
    /// among the removals that a peer asks for when it starts. A peer that has carried the change out, and
    /// then starts again, takes nothing over from one that has still to be told.
    pub(crate) fn record(
        self: &Arc<Self>,
        group: &Arc<str>,
        keys: Option<&[&str]>,
    ) -> RecordedChange {
        let now = self.clock.now();
        let (range, stamp) = self.journal.record(group, keys, now);
        let announced = ChangeInfo {
            stamp: Some(stamp),
            ring: Some(self.members().fingerprint()),
        };
        self.journal.announce(group, keys, announced, now);
        RecordedChange {
            cluster: Arc::clone(self),
            range,
            stamp: self.journal.stamp(), // later than what is announced, which it would be refused by
            has_met_other_ring: AtomicBool::new(false),
        }
    }

    /// Ends a change, and wakes the maintenance to deliver it to peers that have joined or left
    /// meanwhile.
    fn finish_change(self: &Arc<Self>, range: &Range<u64>) {
        self.journal.finish(range);
        for remote in self.members().remotes() {
            self.wake_maintenance_for(&remote);
        }
        let has_left_peers = !self.left_peers.is_empty();
        let due = self.clock.now().checked_add(PAUSE);
        if let Some(due) = due.filter(|_| has_left_peers) {
            self.wake_maintenance(due);
        }
    }

    /// What this node says of a change of its own.
    pub(crate) fn own_change_info(&self, recorded: &RecordedChange) -> ChangeInfo {
        ChangeInfo {
            stamp: Some(recorded.stamp),
            ring: Some(self.members().fingerprint()),
        }
    }

    /// What a peer says of its change.
    pub(crate) fn change_info(&self, terms: &Terms) -> ChangeInfo {
        ChangeInfo {
            stamp: terms.stamp,
            ring: terms.ring,
        }
    }

    /// Sends a change to a peer. If that fails, the change becomes pending for the peer, unless its
    /// dialect has no changes.
    pub(crate) fn send_change(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        group: &str,
        change: &Change<'_>,
        recorded: &RecordedChange,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let sent = match self.ask_dialect(remote, deadline) {
            Ok(Dialect::Native) => {
                self.send_until_accepted(remote, group, change, recorded, deadline)
            }
            Ok(Dialect::Golang) => Err(Failure::Unsupported),
            Err(failure) => Err(failure),
        };
        if matches!(sent, Err(ref failure) if !matches!(failure, Failure::Unsupported)) {
            remote.pending_removals.add(recorded.range.clone());
            self.postpone_delivery(remote, PAUSE);
        }
        sent
    }

    /// Sends a change to a peer. A set that the peer takes for an older change is sent once more, unless
    /// this node has indeed changed the key since: then that change holds, and it would be wrong to undo
    /// it.
    fn send_until_accepted(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        group: &str,
        change: &Change<'_>,
        recorded: &RecordedChange,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let mut stamp = recorded.stamp;
        for _ in 0..MAX_SET_ATTEMPTS {
            let all = Reach::All;
            let answer = self.send_stamped(remote, group, change, stamp, all, deadline)?;
            let ours = self.members().fingerprint();
            if answer.ring.is_some_and(|ring| ring != ours) {
                recorded.has_met_other_ring.store(true, Ordering::Release);
            }
            let Change::Put { key, .. } = change else {
                return Ok(());
            };
            if answer.is_accepted {
                return Ok(());
            }
            match recorded.refused_set(group, key) {
                RefusedSet::Retry(newer) => stamp = newer,
                RefusedSet::Superseded => return Ok(()),
                RefusedSet::Unknown => break, // the peer may still have an older value
            }
        }
        Err(Failure::Unreachable("it has received later changes".into()))
    }

    /// Sends a removal of pending keys, or of all keys of a group, to a peer that speaks the native
    /// dialect.
    pub(super) fn send_removal(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        group: &str,
        removal: &Change<'_>,
        stamp: Stamp,
        reach: Reach,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        self.send_stamped(remote, group, removal, stamp, reach, deadline)?;
        Ok(())
    }

    /// Sends a change with this stamp to a peer that speaks the native dialect.
    fn send_stamped(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        group: &str,
        change: &Change<'_>,
        stamp: Stamp,
        reach: Reach,
        deadline: Deadline,
    ) -> Result<ChangeAnswer, Failure> {
        let limit = self.limit();
        let call = change.call(group, self.members().fingerprint(), stamp, reach);
        self.call(remote, call, limit, deadline, |status, reply| {
            let answer = |is_accepted| ChangeAnswer {
                is_accepted,
                ring: reply.header.as_deref().and_then(protocol::ring_of),
            };
            match status {
                // Another process than before.
                _ if self.spoken(&reply) == Dialect::Golang => Ok(Err(Failure::Unsupported)),
                // A peer without the group has no values of it.
                Status::Ok | Status::NoSuchGroup => Ok(Ok(answer(true))),
                Status::Superseded => Ok(Ok(answer(false))),
                Status::TooLarge => Ok(Err(Failure::Unreachable(
                    "the value is too large for it".into(),
                ))),
                Status::BadRequest | Status::KeyTooLong if is_of_a_node(&reply) => {
                    Ok(Err(Failure::Refused))
                }
                _ => Err(ProtocolError("it refuses the change")),
            }
        })?
    }

    /// Runs `send` for all `remotes` at the same time, and returns the peers that were not reached.
    pub(crate) fn send_to_all(
        &self,
        remotes: &[Arc<Remote>],
        send: impl Fn(&Arc<Remote>) -> Result<(), Failure> + Sync,
    ) -> Vec<Unreached> {
        let unreached = self.fanout.each(remotes, |remote| {
            send(remote).err().map(|failure| remote.unreached(&failure))
        });
        unreached.into_iter().flatten().collect()
    }
}

/// `keys` in batches that fit into one request each.
pub(crate) fn key_batches<'a>(keys: &'a [&'a str]) -> impl Iterator<Item = &'a [&'a str]> {
    keys.chunks(KEYS_PER_REQUEST)
}
