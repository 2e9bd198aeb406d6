//! `remove`, `set` and `clear`: changes that hold on every reachable node when they return (P2).
//!
//! The owner is told first, then all others at the same time: nobody can fetch an old value from
//! the owner any more when the copies are deleted. On each node the flights under way are marked
//! stale before the value is deleted, so that what they bring is not kept.

use std::time::Duration;

use super::{Group, Shared, charge, check_key};
use crate::cluster::{Failure, Owner, Remote};
use crate::deadline::Deadline;
use crate::error::{Error, Unreached};
use crate::loader::{self, Loaded};
use crate::lru::{Entry, Place};
use crate::peer::Call;
use crate::sync::{Arc, AtomicBool};
use crate::value::{Cacheable, Value};
use crate::wire::{self, Command, Nonsense, Status, Terms};

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
    /// [`Error::Unreached`] names the peers that could not be told: a copy there lives on until it
    /// expires. It is removed everywhere else. [`Error::KeyTooLong`] changes nothing.
    pub fn remove(&self, key: &str) -> Result<(), Error> {
        check_key(key)?;
        let group = &*self.0;
        let members = group.cluster.members();
        let tell = |remote: &Arc<Remote>| {
            let target = wire::target(&group.name, Some(key));
            group.tell(remote, "DELETE", target, Vec::new())
        };
        let owner = members.owner(key);
        let mut unreached = match &owner {
            Owner::This => Vec::new(),
            Owner::Peer(owner) => failure_of(owner, tell(owner)),
        };
        group.invalidate(key);
        unreached.extend(
            group
                .cluster
                .tell_all(&others(members.remotes(), &owner), tell),
        );
        reached_all(unreached)
    }

    /// Gives `key` a value: at its owner, while all other nodes delete theirs. Blocks until all
    /// have answered or their time is up.
    ///
    /// A value or a [`Loaded`], which says how long it lives. Of two sets of one key at the same
    /// time, the one that reaches the owner last wins; neither is lost in the other.
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that could not be told; if the owner is among them, the
    /// value is nowhere. [`Error::KeyTooLong`], [`Error::ValueTooLarge`] and [`Error::Encode`]
    /// change nothing.
    pub fn set(&self, key: &str, value: impl Into<Loaded<V>>) -> Result<(), Error> {
        check_key(key)?;
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
                let target = wire::target(&group.name, Some(key));
                unreached = failure_of(owner, group.tell(owner, "PUT", target, body));
                group.invalidate(key);
            }
        }
        let tell = |remote: &Arc<Remote>| {
            let target = wire::target(&group.name, Some(key));
            group.tell(remote, "DELETE", target, Vec::new())
        };
        unreached.extend(
            group
                .cluster
                .tell_all(&others(members.remotes(), &owner), tell),
        );
        reached_all(unreached)
    }

    /// Removes all values of this group, from this node and from all peers. Blocks until all have
    /// answered or their time is up.
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that could not be told.
    pub fn clear(&self) -> Result<(), Error> {
        let group = &*self.0;
        let tell = |remote: &Arc<Remote>| {
            let target = wire::target(&group.name, None);
            group.tell(remote, "POST", target, Command::Clear.encode())
        };
        // Any of them may own keys and any may fetch from it, so once for the values that are
        // owned and once for the copies made meanwhile.
        let remotes = group.cluster.members().remotes();
        group.invalidate_all();
        group.cluster.tell_all(&remotes, tell);
        group.invalidate_all();
        reached_all(group.cluster.tell_all(&remotes, tell))
    }
}

impl<V: Cacheable> Shared<V> {
    /// Forgets `key` on this node, and what is being loaded or fetched of it.
    pub(super) fn invalidate(&self, key: &str) {
        let key = self.cache.hash(key);
        self.counters.removes.add();
        self.loads.mark_stale(key);
        self.fetches.mark_stale(key);
        self.cache.remove(key);
    }

    pub(super) fn invalidate_all(&self) {
        self.loads.mark_all_stale();
        self.fetches.mark_all_stale();
        self.cache.clear();
    }

    /// Gives `key` a value on this node, which owns it.
    pub(super) fn put(&self, key: &str, value: V, life: Option<Duration>) -> Result<(), Error> {
        let weight = loader::run(|| self.weigh(&value)).map_err(|panicked| Error::Panicked {
            message: panicked.0.into(),
        })?;
        let max = self.cluster.settings.max_value;
        if weight > max {
            return Err(Error::ValueTooLarge { bytes: weight, max });
        }
        self.invalidate(key);
        let expires = life.and_then(|life| self.cluster.clock.now().checked_add(life));
        if life != Some(Duration::ZERO) {
            let key = self.cache.hash(key);
            let entry = Entry::new(value, charge(key, weight), expires);
            let never_stale = AtomicBool::new(false);
            self.cache.insert(Place::Main, key, entry, &never_stale);
        }
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

    fn tell(
        &self,
        remote: &Arc<Remote>,
        method: &'static str,
        target: String,
        body: Vec<u8>,
    ) -> Result<(), Failure> {
        let terms = Terms {
            native: true,
            ring: Some(self.cluster.members().fingerprint()),
            ..Terms::default()
        };
        let call = Call {
            method,
            target,
            header: terms.to_header(),
            body,
        };
        let limit = self.cluster.settings.fetch_timeout;
        let told = self
            .cluster
            .call(remote, &call, limit, Deadline::NEVER, |status, _| {
                match status {
                    // A peer without the group has nothing of it.
                    Status::Ok | Status::NoSuchGroup => Ok(Ok(())),
                    Status::TooLarge => {
                        Ok(Err(Failure::Away("the value is too large for it".into())))
                    }
                    _ => Err(Nonsense("it refuses the change")),
                }
            });
        told?
    }
}

fn failure_of(remote: &Remote, told: Result<(), Failure>) -> Vec<Unreached> {
    told.err()
        .map(|failure| remote.unreached(&failure))
        .into_iter()
        .collect()
}

/// All but the owner.
fn others(mut remotes: Vec<Arc<Remote>>, owner: &Owner) -> Vec<Arc<Remote>> {
    if let Owner::Peer(owner) = owner {
        remotes.retain(|remote| !Arc::ptr_eq(remote, owner));
    }
    remotes
}

fn reached_all(unreached: Vec<Unreached>) -> Result<(), Error> {
    if unreached.is_empty() {
        return Ok(());
    }
    Err(Error::Unreached {
        peers: unreached.into(),
    })
}
