//! The messages between nodes.

use crate::setup::{Key, Mask, NodeId};
use crate::state::{Ask, FlightId, Val};

/// A message on its way. The network keeps no order, and may keep a message for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Msg {
    /// A request for a value. Without a flight nobody waits for the answer any more.
    Ask {
        /// The node that is asked.
        to: NodeId,
        /// The key.
        key: Key,
        /// What exactly.
        ask: Ask,
        /// The flight that waits for the answer.
        by: Option<FlightId>,
        /// The removals that the asker knows of, where requests say so.
        removed: Mask,
    },
    /// The answer.
    Answer {
        /// The flight that waits for it.
        by: FlightId,
        /// What the node has.
        val: Option<Val>,
    },
    /// A change, as its caller sends it.
    Tell {
        /// The node that is told.
        to: NodeId,
        /// The change.
        change: u8,
        /// Whether it carries the value of a set.
        put: bool,
        /// Whether its caller still waits for an answer.
        awaited: bool,
    },
    /// The answer to that.
    Told {
        /// Who was told.
        by: NodeId,
        /// The change.
        change: u8,
        /// Whether that node has another ring than the caller.
        other_ring: bool,
    },
    /// Pending removals.
    Late {
        /// The sender.
        from: NodeId,
        /// The node that is told.
        to: NodeId,
        /// The changes.
        changes: Mask,
        /// Whether copies alone are removed.
        copies: bool,
    },
    /// The answer to that.
    LateDone {
        /// Who was told.
        from: NodeId,
        /// Who told it.
        to: NodeId,
        /// The changes.
        changes: Mask,
        /// Whether copies alone were removed.
        copies: bool,
    },
    /// A node says that it leaves.
    Departure {
        /// Which.
        who: NodeId,
        /// To whom.
        to: NodeId,
    },
    /// An owner offers a value to its deputy.
    Offer {
        /// The deputy.
        to: NodeId,
        /// The key.
        key: Key,
    },
}
