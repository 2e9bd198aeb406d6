//! `remove`, `set` and `clear`: changes that hold on every reachable node when they return (P2).
//!
//! A change is written down first (`journal.rs`), then told: to the owner, and then to all others at
//! the same time, so that nobody can fetch an old value from the owner any more when the copies are
//! deleted. If the list of peers changes meanwhile, all are told once more. On each node the flights
//! under way are marked stale before the value is deleted, so that what they bring is not kept.

use std::time::Duration;

use super::{Group, Shared, charge, check_key, lost_leader};
use crate::cache::entry::{Stored, Tier};
use crate::cache::key::KeyRef;
use crate::cluster::change::Change;
use crate::cluster::journal::{ChangeInfo, RefusedSet};
use crate::cluster::members::{Members, Owner};
use crate::cluster::propagation::{MAX_SET_ATTEMPTS, RecordedChange, key_batches};
use crate::cluster::remote::{Failure, Remote};
use crate::error::{Error, Unreached};
use crate::loader::Loaded;
use crate::protocol::{self, MAX_KEYS};
use crate::runtime::clock::Deadline;
use crate::runtime::sync::{Arc, Ordering};
use crate::runtime::user_code;
use crate::value::{Cacheable, Value};

/// How often all are told while the list of peers keeps changing.
const MAX_PASSES: usize = 4;

/// How long a change may take if its caller does not say, in fetch timeouts: some rounds of a peer
/// that is silent.
const USUAL_TIME: u32 = 4;

/// A value that is set, and what its owner needs of it, which user code makes.
struct Forms<V: 'static> {
    value: Stored<V>,
    /// Where this node owns the key.
    weight: Option<usize>,
    /// Where a peer owns it.
    body: Option<Vec<u8>>,
}

impl<V: Cacheable> Forms<V> {
    fn of(value: V) -> Forms<V> {
        Forms {
            value: Stored::new(value),
            weight: None,
            body: None,
        }
    }
}

impl<V: Cacheable> Group<V> {
    /// Removes the value of `key` from this node and from all peers. Blocks until all have answered
    /// or their time is up: no longer than about four times the
    /// [`fetch_timeout`](crate::NodeBuilder::fetch_timeout).
    ///
    /// A get that starts on any of them after this has returned does not see a value whose load
    /// began before this was called. One that waits for a load already under way still gets its
    /// value, which is then not cached.
    ///
    /// All of them are those in the list of this node, from the beginning of this call to its end.
    /// One that it does not know yet is told as soon as it stands in the list, of all removals of
    /// the last ten minutes. So where lists differ, as in a rolling deploy, an old value may be
    /// served by a new process for as long as it takes the list to reach this node (the interval of
    /// the [`Discoverer`](crate::Discoverer), 5 s unless set otherwise) and a request to reach the
    /// new one. A peer that leaves the list is told of removals for ten minutes more, and clears
    /// its caches when it finds itself in the list again.
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that could not be told; it is removed everywhere else.
    /// They are told again as soon as they answer, for as long as this node lives, and after its
    /// [`leave`](crate::Node::leave) by another one; a copy there may be served until then, or until
    /// it expires. If this process ends without `leave`, what it still had to tell is lost. Peers
    /// that can never be told, as they speak the dialect of Go, are named as
    /// [`unsupported`](crate::Unreached::unsupported). [`Error::KeyTooLong`] changes nothing.
    pub fn remove(&self, key: &str) -> Result<(), Error> {
        self.remove_many(&[key])
    }

    /// As [`remove`](Group::remove), but waits no longer than `timeout`: peers that have not
    /// answered by then are [unreached](Error::Unreached).
    ///
    /// # Errors
    ///
    /// As [`remove`](Group::remove).
    pub fn remove_timeout(&self, key: &str, timeout: Duration) -> Result<(), Error> {
        self.remove_many_timeout(&[key], timeout)
    }

    /// As [`remove`](Group::remove), for many keys at once: one request for each peer and some
    /// dozens of keys. May take a [`fetch_timeout`](crate::NodeBuilder::fetch_timeout) longer for
    /// each thousand of keys.
    ///
    /// # Errors
    ///
    /// As [`remove`](Group::remove).
    pub fn remove_many(&self, keys: &[&str]) -> Result<(), Error> {
        self.0.remove_all(keys, self.0.usual_deadline(keys.len()))
    }

    /// As [`remove_many`](Group::remove_many), but waits no longer than `timeout` in all.
    ///
    /// # Errors
    ///
    /// As [`remove`](Group::remove).
    pub fn remove_many_timeout(&self, keys: &[&str], timeout: Duration) -> Result<(), Error> {
        self.0.remove_all(keys, self.0.deadline_after(timeout))
    }

    /// Gives `key` a value: at its owner, while all other nodes delete theirs. Blocks until all
    /// have answered or their time is up, as [`remove`](Group::remove).
    ///
    /// A value or a [`Loaded`], which says how long it lives. Of two sets of one key at the same
    /// time, the one that reaches the owner last wins; neither is lost in the other. One that was
    /// held up on its way has no effect any more once a later change of this process has arrived: it
    /// is done then, as the later one holds.
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that could not be told; they are told to remove theirs as
    /// soon as they answer. If the owner is among them, the value is not set. Go peers are
    /// [`unsupported`](crate::Unreached::unsupported). [`Error::KeyTooLong`], [`Error::ValueTooLarge`] and
    /// [`Error::Encode`] change nothing.
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

    /// Removes all values of this group, from this node and from all peers. Blocks until all have
    /// answered or their time is up, as [`remove`](Group::remove).
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that could not be told.
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

impl<V: Cacheable> Shared<V> {
    fn deadline_after(&self, timeout: Duration) -> Deadline {
        Deadline::after(self.cluster.clock.now(), timeout)
    }

    /// When a change of so many keys ends whose caller does not say.
    fn usual_deadline(&self, keys: usize) -> Deadline {
        let thousands = u32::try_from(keys / MAX_KEYS).unwrap_or(u32::MAX);
        let times = USUAL_TIME.saturating_add(thousands);
        self.deadline_after(self.cluster.settings.fetch_timeout.saturating_mul(times))
    }

    /// The deadline of those who are told first: the others must have time left if one is silent.
    fn half_of(&self, deadline: Deadline) -> Deadline {
        let now = self.cluster.clock.now();
        let left = deadline.remaining(now);
        left.map_or(deadline, |left| Deadline::after(now, left / 2))
    }

    fn remove_all(&self, keys: &[&str], deadline: Deadline) -> Result<(), Error> {
        keys.iter().try_for_each(|key| check_key(key))?;
        if keys.is_empty() {
            return Ok(());
        }
        let _hold = user_code::hold(); // what listens is told once the peers know
        let recorded = self.cluster.record(&self.name, Some(keys));
        let told = self.cluster.own_change_info(&recorded);
        self.tell_until_all_know(&recorded, deadline, |members| {
            let tell = |remote: &Arc<Remote>, owned: bool, deadline| {
                let is_meant = |key: &&&str| is_owner(&members.owner(key), remote) == owned;
                let keys: Vec<&str> = keys.iter().filter(is_meant).copied().collect();
                self.tell_removed(remote, &keys, &recorded, deadline)
            };
            let remotes = members.remotes();
            let first = self.half_of(deadline);
            let mut unreached = self
                .cluster
                .send_to_all(&remotes, |remote| tell(remote, true, first));
            keys.iter().for_each(|key| self.invalidate(key, told));
            unreached.extend(
                self.cluster
                    .send_to_all(&remotes, |remote| tell(remote, false, deadline)),
            );
            Ok(unreached)
        })
    }

    fn set(&self, key: &str, loaded: Loaded<V>, deadline: Deadline) -> Result<(), Error> {
        let _hold = user_code::hold(); // what listens is told once the peers know
        let Loaded { value, ttl } = loaded;
        let mut forms = Forms::of(value);
        check_key(key)?;
        let life = self.lives.of(ttl, self.cache.hash(key));
        // Before anything is written down: what fails here changes nothing, and what blocks here
        // holds nothing up.
        self.prepare(&mut forms, key, life, &self.cluster.members().owner(key))?;
        let recorded = self.cluster.record(&self.name, Some(&[key]));
        let told = self.cluster.own_change_info(&recorded);
        self.tell_until_all_know(&recorded, deadline, |members| {
            let owner = members.owner(key);
            let mut unreached = Vec::new();
            self.prepare(&mut forms, key, life, &owner)?; // another owner than before
            match (&owner, &forms.body) {
                (Owner::Peer(owner), Some(body)) => {
                    let body = Vec::clone(body);
                    let put = Change::Put { key, body };
                    let first = self.half_of(deadline);
                    let told_owner = self
                        .cluster
                        .send_change(owner, &self.name, &put, &recorded, first);
                    unreached.extend(told_owner.err().map(|failure| owner.unreached(&failure)));
                    self.invalidate(key, told);
                }
                _ => self.put_here(key, &mut forms, life, told, &recorded),
            }
            let mut others = members.remotes();
            others.retain(|remote| !is_owner(&owner, remote));
            unreached.extend(self.cluster.send_to_all(&others, |remote| {
                self.tell_removed(remote, &[key], &recorded, deadline)
            }));
            Ok(unreached)
        })
    }

    fn clear(&self, deadline: Deadline) -> Result<(), Error> {
        let _hold = user_code::hold(); // what listens is told once the peers know
        let recorded = self.cluster.record(&self.name, None);
        let told = self.cluster.own_change_info(&recorded);
        let tell = |remote: &Arc<Remote>, deadline| {
            let cluster = &self.cluster;
            cluster.send_change(remote, &self.name, &Change::Clear, &recorded, deadline)
        };
        self.tell_until_all_know(&recorded, deadline, |members| {
            // Any of them may own keys and any may fetch from it, so once for the values that are
            // owned and once for the copies made meanwhile.
            let remotes = members.remotes();
            let tell_all = |deadline| {
                self.cluster
                    .send_to_all(&remotes, |remote| tell(remote, deadline))
            };
            self.invalidate_all(told);
            let mut unreached = tell_all(self.half_of(deadline));
            self.invalidate_all(told);
            unreached.extend(tell_all(deadline));
            Ok(unreached)
        })
    }

    /// Tells all members of a change by `tell_those`, which returns who was not reached, and does so
    /// again if the members have changed meanwhile: one who joined may have taken an old value over
    /// before the former owner was told, and others may have fetched it from there.
    ///
    /// If one of them goes by another ring, all are told once more as well, as by `clear`: one that is
    /// an owner by that ring may have been told after another one had fetched from it.
    fn tell_until_all_know(
        &self,
        recorded: &RecordedChange,
        deadline: Deadline,
        mut tell_those: impl FnMut(&Members) -> Result<Vec<Unreached>, Error>,
    ) -> Result<(), Error> {
        let mut unreached: Vec<Unreached> = Vec::new();
        let mut members = self.cluster.members();
        let mut is_told_again = false;
        for _ in 0..MAX_PASSES {
            for missed in tell_those(&members)? {
                if unreached.iter().all(|other| other.peer != missed.peer) {
                    unreached.push(missed);
                }
            }
            let told = std::mem::replace(&mut members, self.cluster.members());
            if !members.is_same_as(&told) {
                continue;
            }
            let is_known = is_told_again || !recorded.has_met_other_ring();
            if is_known || deadline.is_past(self.cluster.clock.now()) {
                break;
            }
            is_told_again = true;
        }
        Error::unless_all_reached(unreached)
    }

    /// Forgets `key` on this node, and what is being loaded or fetched of it.
    pub(super) fn invalidate(&self, key: &str, told: ChangeInfo) {
        let key = self.cache.hash(key);
        self.counters.removes.add();
        let (journal, now) = (&self.cluster.journal, self.cluster.clock.now());
        let noted = journal.add_tombstone(&self.name, Some(key.text()), told, now);
        self.drop_key(key);
        journal.mark_applied(noted);
    }

    /// Lets the copy of a value go that another node owns, and what is being fetched of it.
    pub(super) fn drop_copy(&self, key: &str) {
        let key = self.cache.hash(key);
        self.fetches.mark_stale(key);
        self.cache.remove_copy(key);
        self.fetches.mark_stale(key);
    }

    /// Lets all copies go of values that others own, and what is being fetched.
    pub(super) fn drop_copies(&self) {
        self.fetches.mark_all_stale();
        self.cache.clear_copies();
        self.fetches.mark_all_stale();
    }

    /// Lets go what is kept of a key, and what is being loaded or fetched.
    fn drop_key(&self, key: KeyRef<'_>) {
        self.mark_stale(key);
        self.cache.remove(key);
        self.forget_absence(key);
        self.mark_stale(key);
    }

    /// Once before the cached value goes, so that what is being loaded is not kept any more; and
    /// once after that: a flight that began in between may have found the old value there, and is
    /// not to be joined any more.
    fn mark_stale(&self, key: KeyRef<'_>) {
        self.loads.mark_stale(key);
        self.fetches.mark_stale(key);
    }

    fn mark_all_stale(&self) {
        self.loads.mark_all_stale();
        self.fetches.mark_all_stale();
    }

    pub(super) fn invalidate_all(&self, told: ChangeInfo) {
        let journal = &self.cluster.journal;
        let noted = journal.add_tombstone(&self.name, None, told, self.cluster.clock.now());
        self.drop_all();
        journal.mark_applied(noted);
    }

    /// Lets go all that is kept, and what is being loaded or fetched.
    pub(super) fn drop_all(&self) {
        self.mark_all_stale();
        self.cache.clear();
        if let Some(absences) = &self.absences {
            absences.clear();
        }
        self.failures.clear();
        self.mark_all_stale();
    }

    /// Lets go that `key` has no value, and that its loads fail.
    fn forget_absence(&self, key: KeyRef<'_>) {
        self.failures.remove(key);
        if let Some(absences) = &self.absences {
            absences.remove(key);
        }
    }

    /// Makes what the owner of a key needs of a value that is set.
    fn prepare(
        &self,
        forms: &mut Forms<V>,
        key: &str,
        life: Option<Duration>,
        owner: &Owner,
    ) -> Result<(), Error> {
        match owner {
            Owner::This if forms.weight.is_none() => {
                forms.weight = Some(self.weight_of(&forms.value)?);
            }
            Owner::Peer(_) if forms.body.is_none() => {
                let bytes = self.encode_stored(&forms.value)?;
                forms.body = Some(protocol::encode_set(&self.name, key, &bytes, life));
            }
            _ => {}
        }
        Ok(())
    }

    /// Gives `key` a value on this node, which owns it and sets it.
    fn put_here(
        &self,
        key: &str,
        forms: &mut Forms<V>,
        life: Option<Duration>,
        mut told: ChangeInfo,
        recorded: &RecordedChange,
    ) {
        for _ in 0..MAX_SET_ATTEMPTS {
            if self.prepare(forms, key, life, &Owner::This).is_err() {
                break;
            }
            let Some(weight) = forms.weight else {
                break;
            };
            if self.keep_set(key, forms.value.clone(), weight, life, told) {
                return;
            }
            match recorded.refused_set(&self.name, key) {
                RefusedSet::Retry(newer) => told.stamp = Some(newer),
                // Another change of this process has overtaken it, perhaps.
                RefusedSet::Superseded | RefusedSet::Unknown => break,
            }
        }
        let has_applied = |stamp| self.cluster.journal.has_applied(&self.name, key, stamp);
        if !told.stamp.is_some_and(has_applied) {
            // An older value may be there still, until the later change removes it.
            self.invalidate(key, told);
        }
    }

    /// What a value weighs, if it is not too large.
    fn weight_of(&self, value: &Stored<V>) -> Result<usize, Error> {
        let value = value.get().ok_or_else(lost_leader)?;
        let weight = user_code::load(|| self.weigh(value))?;
        let max = self.cluster.settings.max_value;
        match weight > max {
            true => Err(Error::ValueTooLarge { bytes: weight, max }),
            false => Ok(weight),
        }
    }

    /// Gives `key` a value on this node, which owns it. Tells whether it was done, or a later change
    /// of the same sender came before.
    pub(super) fn put(
        &self,
        key: &str,
        value: V,
        life: Option<Duration>,
        told: ChangeInfo,
    ) -> Result<bool, Error> {
        let value = Stored::new(value);
        let weight = self.weight_of(&value)?;
        Ok(self.keep_set(key, value, weight, life, told))
    }

    fn keep_set(
        &self,
        key: &str,
        value: Stored<V>,
        weight: usize,
        life: Option<Duration>,
        told: ChangeInfo,
    ) -> bool {
        let key = self.cache.hash(key);
        let (journal, now) = (&self.cluster.journal, self.cluster.clock.now());
        let Some(set) = journal.begin_set(&self.name, key.text(), told, now) else {
            return false;
        };
        self.counters.removes.add();
        self.mark_stale(key);
        let life = self.life_in_list(life);
        let expires = life.and_then(|life| now.checked_add(life));
        let weight = charge(key, weight);
        let superseded = set.superseded();
        let is_kept = life != Some(Duration::ZERO)
            && self
                .cache
                .insert(Tier::Main, key, value, weight, expires, superseded);
        if is_kept && expires.is_some() {
            self.have_swept();
        } else if !is_kept && superseded.load(Ordering::Acquire) {
            return false;
        } else if !is_kept {
            self.cache.remove(key);
        }
        self.forget_absence(key);
        self.mark_stale(key);
        set.mark_applied();
        true
    }

    /// The bytes of a value, if they may travel.
    pub(super) fn encode_for_peers(&self, value: &V) -> Result<Value, Error> {
        let encoded = user_code::load(|| self.codec.encode(value));
        let failed = |source| Error::Encode {
            source: Arc::from(source),
        };
        let bytes = encoded
            .map_err(|panicked| failed(panicked.0.into()))?
            .map_err(failed)?;
        let max = self.cluster.settings.max_value;
        if bytes.len() > max {
            return Err(Error::ValueTooLarge {
                bytes: bytes.len(),
                max,
            });
        }
        Ok(bytes)
    }

    fn tell_removed(
        &self,
        remote: &Arc<Remote>,
        keys: &[&str],
        recorded: &RecordedChange,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let tell = |keys| {
            let change = Change::Remove(keys);
            self.cluster
                .send_change(remote, &self.name, &change, recorded, deadline)
        };
        // One that misses a part lacks it all: it is told of the rest with that.
        key_batches(keys).try_for_each(tell)
    }
}

fn is_owner(owner: &Owner, remote: &Arc<Remote>) -> bool {
    matches!(owner, Owner::Peer(owner) if Arc::ptr_eq(owner, remote))
}
