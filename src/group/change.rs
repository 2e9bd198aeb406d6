//! `remove`, `set` and `clear`: changes that hold on every reachable node when they return (P2).
//!
//! The owner is told first, then all others at the same time: nobody can fetch an old value from
//! the owner any more when the copies are deleted. On each node the flights under way are marked
//! stale before the value is deleted, so that what they bring is not kept.

use std::time::Duration;

use super::{Group, Shared, charge, check_key};
use crate::change::Change;
use crate::cluster::batches;
use crate::entry::Place;
use crate::error::Error;
use crate::foreign;
use crate::key::KeyRef;
use crate::loader::{self, Loaded};
use crate::members::Owner;
use crate::remote::{Failure, Remote};
use crate::sync::{Arc, AtomicBool};
use crate::value::{Cacheable, Value};
use crate::wire;

impl<V: Cacheable> Group<V> {
    /// Removes the value of `key` from this node and from all peers. Blocks until all have answered
    /// or their time is up.
    ///
    /// A get that starts on any of them after this has returned does not see a value whose load
    /// began before this was called. One that waits for a load already under way still gets its
    /// value, which is then not cached.
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that could not be told; it is removed everywhere else.
    /// They are told again as soon as they answer, for as long as this node lives; a copy there may
    /// be served until then, or until it expires. Peers that can never be told, as they speak the
    /// dialect of Go, are named as [`unsupported`](crate::Unreached::unsupported). [`Error::KeyTooLong`]
    /// changes nothing.
    pub fn remove(&self, key: &str) -> Result<(), Error> {
        self.remove_many(&[key])
    }

    /// As [`remove`](Group::remove), for many keys at once: one request for each peer and some
    /// dozens of keys.
    ///
    /// # Errors
    ///
    /// As [`remove`](Group::remove).
    pub fn remove_many(&self, keys: &[&str]) -> Result<(), Error> {
        keys.iter().try_for_each(|key| check_key(key))?;
        let _hold = foreign::hold();
        let group = &*self.0;
        let members = group.cluster.members();
        let remotes = members.remotes();
        let told = |remote: &Arc<Remote>, owned: bool| {
            let is_meant = |key: &&&str| is_owner(&members.owner(key), remote) == owned;
            let keys: Vec<&str> = keys.iter().filter(is_meant).copied().collect();
            group.tell_removed(remote, &keys)
        };
        let cluster = &group.cluster;
        let mut unreached = cluster.tell_all(&remotes, |remote| told(remote, true));
        keys.iter().for_each(|key| group.invalidate(key));
        unreached.extend(cluster.tell_all(&remotes, |remote| told(remote, false)));
        Error::unless_all_reached(unreached)
    }

    /// Gives `key` a value: at its owner, while all other nodes delete theirs. Blocks until all
    /// have answered or their time is up.
    ///
    /// A value or a [`Loaded`], which says how long it lives. Of two sets of one key at the same
    /// time, the one that reaches the owner last wins; neither is lost in the other.
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that could not be told; they are told to remove theirs as
    /// soon as they answer. If the owner is among them, the value is not set. Go peers are
    /// [`unsupported`](crate::Unreached::unsupported). [`Error::KeyTooLong`], [`Error::ValueTooLarge`] and
    /// [`Error::Encode`] change nothing.
    pub fn set(&self, key: &str, value: impl Into<Loaded<V>>) -> Result<(), Error> {
        check_key(key)?;
        let _hold = foreign::hold();
        let group = &*self.0;
        let loaded = value.into();
        let life = group.lives.of(loaded.ttl, group.cache.hash(key));
        let members = group.cluster.members();
        let owner = members.owner(key);
        let mut unreached = Vec::new();
        match &owner {
            Owner::This => group.put(key, loaded.value, life)?,
            Owner::Peer(owner) => {
                let bytes = group.encode_for_peers(&loaded.value)?;
                let body = wire::encode_set(&group.name, key, &bytes, life);
                let told = group
                    .cluster
                    .tell(owner, &group.name, &Change::Put { key, body });
                unreached.extend(told.err().map(|failure| owner.unreached(&failure)));
                group.invalidate(key);
            }
        }
        let mut others = members.remotes();
        others.retain(|remote| !is_owner(&owner, remote));
        unreached.extend(
            group
                .cluster
                .tell_all(&others, |remote| group.tell_removed(remote, &[key])),
        );
        Error::unless_all_reached(unreached)
    }

    /// Removes all values of this group, from this node and from all peers. Blocks until all have
    /// answered or their time is up.
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that could not be told.
    pub fn clear(&self) -> Result<(), Error> {
        let group = &*self.0;
        let tell = |remote: &Arc<Remote>| group.cluster.tell(remote, &group.name, &Change::Clear);
        // Any of them may own keys and any may fetch from it, so once for the values that are
        // owned and once for the copies made meanwhile.
        let remotes = group.cluster.members().remotes();
        group.invalidate_all();
        let mut unreached = group.cluster.tell_all(&remotes, tell);
        group.invalidate_all();
        unreached.extend(group.cluster.tell_all(&remotes, tell));
        Error::unless_all_reached(unreached)
    }
}

impl<V: Cacheable> Shared<V> {
    /// Forgets `key` on this node, and what is being loaded or fetched of it.
    pub(super) fn invalidate(&self, key: &str) {
        let key = self.cache.hash(key);
        self.counters.removes.add();
        self.removals.note(key, self.cluster.clock.now());
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

    pub(super) fn invalidate_all(&self) {
        self.removals.note_all(self.cluster.clock.now());
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

    /// Gives `key` a value on this node, which owns it.
    pub(super) fn put(&self, key: &str, value: V, life: Option<Duration>) -> Result<(), Error> {
        let weight = loader::run(|| self.weigh(&value))?;
        let max = self.cluster.settings.max_value;
        if weight > max {
            return Err(Error::ValueTooLarge { bytes: weight, max });
        }
        let key = self.cache.hash(key);
        self.counters.removes.add();
        self.removals.note(key, self.cluster.clock.now());
        self.mark_stale(key);
        let expires = life.and_then(|life| self.cluster.clock.now().checked_add(life));
        let never_stale = AtomicBool::new(false);
        let weight = charge(key, weight);
        let is_kept = life != Some(Duration::ZERO)
            && self
                .cache
                .insert(Place::Main, key, value, weight, expires, &never_stale);
        if !is_kept {
            self.cache.remove(key);
        } else if expires.is_some() {
            self.have_swept();
        }
        self.forget_absence(key);
        self.mark_stale(key);
        Ok(())
    }

    /// The bytes of a value, if they may travel.
    pub(super) fn encode_for_peers(&self, value: &V) -> Result<Value, Error> {
        let encoded = loader::run(|| self.codec.encode(value));
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

    fn tell_removed(&self, remote: &Arc<Remote>, keys: &[&str]) -> Result<(), Failure> {
        let tell = |keys| self.cluster.tell(remote, &self.name, &Change::Remove(keys));
        // Even where one part fails, the others are told: or owed, one by one.
        batches(keys).map(tell).fold(Ok(()), Result::and)
    }
}

fn is_owner(owner: &Owner, remote: &Arc<Remote>) -> bool {
    matches!(owner, Owner::Peer(owner) if Arc::ptr_eq(owner, remote))
}
