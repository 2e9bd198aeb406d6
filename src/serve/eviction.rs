//! `Candidates` and `Rank`: which parked connection is closed first where there is no room.

use std::net::IpAddr;

use super::traffic::Traffic;

/// The connections among which one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Candidates {
    /// Connections whose request no worker has begun to answer: all of them, those from one network, and
    /// those for one kind of traffic.
    Unanswered,
    UnansweredFrom(IpAddr),
    UnansweredFor(Traffic),
    /// Connections with a part of a request.
    Sending,
    /// Connections whose client has an answer to read.
    Reading,
}

/// Connections of a lower rank are closed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// The client has authenticated nothing.
    Stranger,
    /// The head of a request is authenticated, and its body is still to come.
    HeadAuthenticated,
    /// A peer has authenticated a whole request, and loses nothing.
    IdlePeer,
    /// A peer has authenticated a whole request, and has begun another. A client that repeats a recorded
    /// request looks the same.
    BusyPeer,
}
