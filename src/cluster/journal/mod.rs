//! `Journal`: the removals of the last minutes, one log of pending removals for all groups of a node.
//!
//! It answers three questions, all of them without a value, so that an answer that comes late or
//! twice only costs a load:
//!
//! * *Which removals has this peer not received?* The log has the removals that this node has made
//!   itself, in order; a peer has [`PendingRemovals`]: the ranges of the log that it has not received. A
//!   peer that is unreachable for long costs a few numbers, not its keys. Where the log no longer
//!   reaches, the groups concerned are cleared there.
//! * *Was this key removed recently?* Each removal that this node has made or received leaves a
//!   tombstone, under a hash of group and key. The value of such a key is only taken over from a
//!   former owner that has carried out the same removal.
//! * *Is this change older than one that was carried out already?* Changes carry a [`Stamp`]. A `PUT`
//!   that was held up on its way is refused once a later change of the same sender has arrived.
//!
//! All parts are bounded: the log by [`MEMORY`] and `MAX_BYTES`, the tombstones by two generations of
//! `MAX_TOMBSTONES` each. What is forgotten before its time is taken for removed.
//!
//! In this order: `log` (the entries), `pending` (the ranges that a peer has not received), `removal_log`
//! (the log with its bounds, and the batches that are delivered), `tombstones`, `sets` (values that are
//! being set), and here the journal, which locks them.

mod log;
mod pending;
mod removal_log;
mod sets;
mod tombstones;

use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::time::{Duration, Instant};

pub(crate) use self::pending::PendingRemovals;
pub(crate) use self::removal_log::{LoggedRemoval, MAX_BATCH_KEYS, RemovalBatch, Removals};
pub(crate) use self::sets::SetGuard;
pub(crate) use self::tombstones::{ChangeInfo, Removed, RingTag};

use self::removal_log::RemovalLog;
use self::sets::Sets;
use self::tombstones::{Tombstones, hash_of, hashes_of};
use crate::protocol::Stamp;
use crate::runtime::sync::{Arc, AtomicBool, Mutex, Ordering, RandomState, RelaxedU64};

/// How long a removal is remembered.
pub(crate) const MEMORY: Duration = Duration::from_secs(600);

/// Why a peer has refused a set as an older change than one that it knows of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusedSet {
    /// This node has changed the key since, and that change holds.
    Superseded,
    /// This node has not changed the key since: the set may be sent again with this newer stamp.
    Retry(Stamp),
    /// The log no longer reaches so far back.
    Unknown,
}

/// A change that has its tombstone, and has not been carried out yet.
#[derive(Clone, Copy, Debug)]
#[must_use = "no node can rely on the change before it is marked as applied"]
pub(crate) struct UnappliedChange {
    /// What its tombstone is found by.
    hash: u64,
    stamp: Option<Stamp>,
}

pub(crate) struct Journal {
    origin: u64,
    state: Mutex<State>,
}

struct State {
    log: RemovalLog,
    tombstones: Tombstones,
    sets: Sets,
}

impl State {
    fn new(now: Instant) -> State {
        State {
            log: RemovalLog::default(),
            tombstones: Tombstones::new(now),
            sets: Sets::default(),
        }
    }
}

impl Journal {
    /// The journal of the node with this name.
    pub(crate) fn new(name: &str, now: Instant) -> Journal {
        // Tells processes apart where a model makes all random numbers the same.
        static CREATED: RelaxedU64 = RelaxedU64::new(0);
        let mut hasher = RandomState::default().build_hasher();
        hasher.write(name.as_bytes());
        hasher.write_u64(CREATED.fetch_add(1, Ordering::Relaxed));
        Journal {
            origin: hasher.finish().max(1),
            state: Mutex::new(State::new(now)),
        }
    }

    /// A stamp for a change that is sent now: higher than those of all changes before.
    pub(crate) fn stamp(&self) -> Stamp {
        self.next_stamp(&mut self.state.lock().log)
    }

    fn next_stamp(&self, log: &mut RemovalLog) -> Stamp {
        Stamp {
            origin: self.origin,
            sequence: log.next_sequence(),
        }
    }

    /// Records that this node removes `keys`, or all keys of the group, before the change is sent to
    /// any peer. Returns its range of the log and its stamp. Only the caller sends the change until it
    /// is [finished](Journal::finish).
    pub(crate) fn record(
        &self,
        group: &Arc<str>,
        keys: Option<&[&str]>,
        now: Instant,
    ) -> (Range<u64>, Stamp) {
        let shared = |&key: &&str| Some(Arc::from(key));
        let keys: Vec<Option<Arc<str>>> = match keys {
            None => vec![None],
            Some(keys) => keys.iter().map(shared).collect(),
        };
        let mut state = self.state.lock();
        let log = &mut state.log;
        let range = log.begin(group, keys, now);
        (range, self.next_stamp(log))
    }

    /// Ends a recorded change: each peer has received it, or has it pending.
    pub(crate) fn finish(&self, range: &Range<u64>) {
        self.state.lock().log.finish(range);
    }

    /// Takes over removals that another node has made, and returns their range of the log.
    pub(crate) fn take_over(&self, removals: Vec<LoggedRemoval>, now: Instant) -> Range<u64> {
        self.state.lock().log.take_over(removals, now)
    }

    /// Whether this node has changed a key since it recorded a set at `range`, which a peer has refused
    /// as an older change than one that it knows of.
    pub(crate) fn refused_set(&self, group: &str, key: &str, range: &Range<u64>) -> RefusedSet {
        let mut state = self.state.lock();
        let log = &mut state.log;
        if log.has_removal(group, key, range.end) {
            return RefusedSet::Superseded;
        }
        if log.may_be_truncated(group, range.end) {
            return RefusedSet::Unknown;
        }
        RefusedSet::Retry(self.next_stamp(log))
    }

    /// The end of the log: the sequence number of the next change.
    pub(crate) fn end(&self) -> u64 {
        self.state.lock().log.end()
    }

    /// The first sequence number of the changes in progress, or the end of the log.
    pub(crate) fn finished_end(&self) -> u64 {
        self.state.lock().log.finished_end()
    }

    /// The range of the log that is pending for a peer of which nothing is known.
    pub(crate) fn whole_range(&self, now: Instant) -> Range<u64> {
        self.state.lock().log.whole_range(now)
    }

    /// Begins the delivery of the next pending removals; `None` if there are none. One thread at a
    /// time delivers to a peer.
    pub(crate) fn next_batch(&self, pending: &PendingRemovals) -> Option<RemovalBatch> {
        let ranges = pending.begin_delivery();
        self.state.lock().log.first_batch(ranges)
    }

    /// Whether there is a pending removal to deliver: changes in progress are not, their callers send
    /// them.
    pub(crate) fn has_deliverable(&self, pending: &PendingRemovals) -> bool {
        // Mostly nothing is pending.
        if !pending.is_any() {
            return false;
        }
        let ranges = pending.ranges();
        self.state.lock().log.first_batch(ranges).is_some()
    }

    /// Whether there is a pending removal, also one in progress.
    pub(crate) fn has_pending(&self, pending: &PendingRemovals) -> bool {
        // Mostly nothing is pending.
        if !pending.is_any() {
            return false;
        }
        let ranges = pending.ranges();
        self.state.lock().log.has_any(ranges)
    }

    /// How many removals are pending.
    pub(crate) fn count(&self, pending: &PendingRemovals) -> usize {
        let ranges = pending.ranges();
        self.state.lock().log.count(ranges)
    }

    /// The pending removals, for another node to deliver.
    pub(crate) fn removals(&self, pending: &PendingRemovals) -> Vec<LoggedRemoval> {
        let ranges = pending.ranges();
        self.state.lock().log.removals(&ranges)
    }

    /// The removals of this range of the log.
    pub(crate) fn removals_in(&self, range: &Range<u64>) -> Vec<LoggedRemoval> {
        let ranges = std::slice::from_ref(range);
        self.state.lock().log.removals(ranges)
    }

    /// Drops what is too old and not pending for any peer; `first_pending` is the first sequence number
    /// that is.
    pub(crate) fn expire(&self, now: Instant, first_pending: u64) {
        self.state.lock().log.expire(now, first_pending);
    }

    /// Adds the tombstones of keys, or of all keys of a group, of a change that this node carries out later.
    pub(crate) fn announce(
        &self,
        group: &str,
        keys: Option<&[&str]>,
        info: ChangeInfo,
        now: Instant,
    ) {
        let hashes: Vec<u64> = match keys {
            None => vec![hash_of(group, None)],
            Some(keys) => keys.iter().map(|key| hash_of(group, Some(key))).collect(),
        };
        let tombstones = &mut self.state.lock().tombstones;
        for hash in hashes {
            tombstones.add(hash, info, now);
        }
    }

    /// Adds the tombstone of a key, or of all keys of a group, before anything is removed.
    pub(crate) fn add_tombstone(
        &self,
        group: &str,
        key: Option<&str>,
        info: ChangeInfo,
        now: Instant,
    ) -> UnappliedChange {
        let hash = hash_of(group, key);
        let mut state = self.state.lock();
        state.tombstones.add(hash, info, now);
        if let Some(stamp) = info.stamp {
            state.sets.supersede(Some(hash), stamp);
        }
        UnappliedChange {
            hash,
            stamp: info.stamp,
        }
    }

    /// Notes that all keys of all groups are removed, before they are: no node can tell which keys that
    /// were.
    pub(crate) fn forget_all(&self, stamp: Option<Stamp>, now: Instant) {
        let mut state = self.state.lock();
        state.tombstones.forget_all(stamp, now);
        if let Some(stamp) = stamp {
            state.sets.supersede(None, stamp);
        }
    }

    /// Notes that a change has been carried out here.
    pub(crate) fn mark_applied(&self, change: UnappliedChange) {
        if let Some(stamp) = change.stamp {
            let mut state = self.state.lock();
            state.tombstones.mark_applied(change.hash, stamp);
        }
    }

    /// Begins to set a value; `None` if a later change of its sender has been carried out.
    pub(crate) fn begin_set(
        &self,
        group: &str,
        key: &str,
        info: ChangeInfo,
        now: Instant,
    ) -> Option<SetGuard<'_>> {
        let hashes = hashes_of(group, key);
        let hash = hashes[0];
        let is_superseded = Arc::new(AtomicBool::new(false));
        let mut state = self.state.lock();
        if let Some(stamp) = info.stamp {
            if state.tombstones.has_later(hashes, stamp) {
                return None;
            }
            state.sets.supersede(Some(hash), stamp);
            state.sets.begin(hashes, stamp, &is_superseded);
        }
        state.tombstones.add(hash, info, now);
        drop(state);
        let change = UnappliedChange {
            hash,
            stamp: info.stamp,
        };
        Some(SetGuard {
            journal: self,
            change,
            is_superseded,
        })
    }

    fn end_set(&self, is_superseded: &Arc<AtomicBool>) {
        self.state.lock().sets.end(is_superseded);
    }

    /// Whether a key was removed recently.
    pub(crate) fn removed(&self, group: &str, key: &str, now: Instant) -> Removed {
        let hashes = hashes_of(group, key);
        self.state.lock().tombstones.removed(hashes, now)
    }

    /// Whether this removal of a key has been carried out here, so that a value in memory is newer.
    pub(crate) fn has_applied(&self, group: &str, key: &str, stamp: Stamp) -> bool {
        let hashes = hashes_of(group, key);
        self.state.lock().tombstones.has_applied(hashes, stamp)
    }

    /// All tombstones, for a node that has just joined: the hash of what is removed, and the stamp of
    /// the removal. `None` if there are more than `max`, or some were forgotten.
    pub(crate) fn tombstones(&self, max: usize, now: Instant) -> Option<Vec<(u64, Stamp)>> {
        self.state.lock().tombstones.all(max, now)
    }

    /// Adds the tombstones of another node; `None` if it could not name them.
    pub(crate) fn merge_tombstones(&self, stamps: Option<Vec<(u64, Stamp)>>, now: Instant) {
        self.state.lock().tombstones.merge(stamps, now);
    }
}

#[cfg(test)]
mod tests;
