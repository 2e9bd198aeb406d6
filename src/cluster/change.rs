//! `Change`: what is sent to peers when values are removed or set.

use crate::protocol::{self, GroupCommand, Stamp, Terms};
use crate::transport::peer::Call;

/// Which values a removal concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All values.
    All,
    /// The copies that a node has of values that other nodes own. The values that it owns itself were
    /// loaded or set after it had received the removal.
    Copies,
}

/// A change of a group.
pub(crate) enum Change<'a> {
    Remove(&'a [&'a str]),
    /// Sets a value. Sent to the owner of the key.
    Put {
        key: &'a str,
        body: Vec<u8>,
    },
    Clear,
}

impl Change<'_> {
    /// The request that carries the change.
    pub(crate) fn call(&self, group: &str, ring: u64, stamp: Stamp, reach: Reach) -> Call {
        let terms = Terms {
            native: true,
            ring: Some(ring),
            stamp: Some(stamp),
            copies: reach == Reach::Copies,
            ..Terms::default()
        };
        let (method, key, body) = match self {
            Change::Remove([key]) => ("DELETE", Some(*key), Vec::new()),
            Change::Remove(keys) => ("POST", None, GroupCommand::Remove(keys.to_vec()).encode()),
            Change::Put { key, body } => ("PUT", Some(*key), body.clone()),
            Change::Clear => ("POST", None, GroupCommand::Clear.encode()),
        };
        Call::new(method, protocol::target(group, key), terms.to_header()).with_body(body)
    }
}
