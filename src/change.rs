//! `Change`: what peers are told when values are removed or set.

use std::time::Instant;

use crate::owed::Missed;
use crate::peer::Call;
use crate::wire::{self, Command, Terms};

/// A change of a group.
pub(crate) enum Change<'a> {
    Remove(&'a [&'a str]),
    /// For the owner of the key: gives it a value.
    Put {
        key: &'a str,
        body: Vec<u8>,
    },
    Clear,
}

impl Change<'_> {
    /// The request that tells it.
    pub(crate) fn call(&self, group: &str, ring: u64) -> Call {
        let terms = Terms {
            native: true,
            ring: Some(ring),
            ..Terms::default()
        };
        let (method, key, body) = match self {
            Change::Remove([key]) => ("DELETE", Some(*key), Vec::new()),
            Change::Remove(keys) => ("POST", None, Command::Remove(keys.to_vec()).encode()),
            Change::Put { key, body } => ("PUT", Some(*key), body.clone()),
            Change::Clear => ("POST", None, Command::Clear.encode()),
        };
        Call::new(method, wire::target(group, key), terms.to_header()).with_body(body)
    }

    /// What a peer that was not reached has missed. A value that was to be set may have arrived all
    /// the same, so that key is to be removed.
    pub(crate) fn missed(&self, now: Instant) -> Missed {
        match self {
            Change::Remove(keys) => Missed::keys(keys.iter().copied(), now),
            Change::Put { key, .. } => Missed::keys([*key], now),
            Change::Clear => Missed::All,
        }
    }
}
