//! `Ring`: which peer owns a key, and which is its deputy. Immutable and pure.
//!
//! In this order:
//!
//! * `rank`: which peers come first in a slot (weighted rendezvous hashing);
//! * `positions` and `table`: all slots with their owners and deputies, for nodes of this crate;
//! * `golang`: the ring of golang/groupcache, for clusters with Go peers.

mod golang;
mod positions;
mod rank;
mod table;
#[cfg(test)]
mod tests;

use golang::Circle;
use table::OwnerTable;

/// A member of the ring.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) id: String,
    /// Its share of the keys relative to other members.
    pub(crate) weight: f64,
}

/// Positions are those in the list that the ring was made of.
#[derive(Debug)]
pub(crate) enum Ring {
    Native(OwnerTable),
    Golang(Circle),
}

impl Ring {
    /// The ring of `members`, whose ids differ.
    pub(crate) fn new(members: &[Member]) -> Ring {
        Ring::Native(OwnerTable::new(members))
    }

    /// The ring that Go builds from `members` in this order, whatever their weights.
    pub(crate) fn golang(members: &[Member]) -> Ring {
        Ring::Golang(Circle::new(members))
    }

    /// The ring of other members, in the same dialect: the same as a new one, and made faster where few
    /// members have changed.
    pub(crate) fn changed(&self, members: &[Member]) -> Ring {
        match self {
            Ring::Native(table) => Ring::Native(table.changed(members)),
            Ring::Golang(_) => Ring::golang(members),
        }
    }

    /// The position of the member that owns `key`; `None` if the ring is empty.
    pub(crate) fn owner(&self, key: &[u8]) -> Option<usize> {
        match self {
            Ring::Native(table) => table.owner(key),
            Ring::Golang(circle) => circle.owner(key),
        }
    }

    /// The position of the member that would own `key` if its owner were not there; `None` if there is
    /// no second member.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn deputy(&self, key: &[u8]) -> Option<usize> {
        self.owner_and_deputy(key)?.1
    }

    /// Both, for one hash of the key; `None` if the ring is empty.
    pub(crate) fn owner_and_deputy(&self, key: &[u8]) -> Option<(usize, Option<usize>)> {
        match self {
            Ring::Native(table) => table.owner_and_deputy(key),
            Ring::Golang(circle) => circle.owner_and_deputy(key),
        }
    }

    /// The position of the member that would own `key` if only those were there that `is_there` returns true
    /// for; `None` if there is none of them.
    pub(crate) fn owner_among(
        &self,
        key: &[u8],
        is_there: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        match self {
            Ring::Native(table) => table.owner_among(key, is_there),
            Ring::Golang(circle) => circle.owner_among(key, is_there),
        }
    }

    /// The part of all keys that the member at `position` owns.
    pub(crate) fn share(&self, position: usize) -> f64 {
        match self {
            Ring::Native(table) => table.share(position),
            Ring::Golang(circle) => circle.share(position),
        }
    }

    /// Equal on two nodes exactly if they have the same members with the same weights, and so the same
    /// owner of every key.
    pub(crate) fn fingerprint(&self) -> u64 {
        match self {
            Ring::Native(table) => table.fingerprint(),
            Ring::Golang(circle) => circle.fingerprint(),
        }
    }
}
