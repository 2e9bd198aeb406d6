//! `Change`: what peers are told when values are removed or set.

use crate::peer::Call;
use crate::wire::{self, Command, Stamp, Terms};

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
    pub(crate) fn call(&self, group: &str, ring: u64, stamp: Stamp) -> Call {
        let terms = Terms {
            native: true,
            ring: Some(ring),
            stamp: Some(stamp),
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
}
