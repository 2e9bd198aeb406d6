//! Departures: peers that leave the ring, and come back to it; and the departure of this node.

use crate::cluster::remote::{Failure, Remote};
use crate::cluster::state::Cluster;
use crate::error::Unreached;
use crate::protocol::NodeCommand;
use crate::protocol::dialect::Dialect;
use crate::runtime::clock::Deadline;
use crate::runtime::sync::{Arc, Ordering};

impl Cluster {
    /// Takes this node off the ring, here and at all peers; returns the peers that were not reached.
    pub(crate) fn leave(self: &Arc<Self>, deadline: Deadline) -> Vec<Unreached> {
        self.is_leaving.store(true, Ordering::Release);
        self.rebuild_ring();
        log::info!(target: "groupcache", "this node leaves the ring");
        let announce = |remote: &Arc<Remote>| self.announce_departure(remote, deadline);
        self.send_to_all(&self.members().remotes(), announce)
    }

    fn announce_departure(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        if self.ask_dialect(remote, deadline)? == Dialect::Golang {
            return Err(Failure::Unsupported);
        }
        let command = NodeCommand::Departure(self.this().name().to_owned());
        self.send_command(remote, command, None, deadline)
    }

    /// Handles the announcement of a peer that it leaves.
    pub(crate) fn departed(self: &Arc<Self>, id: &str) {
        let remotes = self.members().remotes();
        if let Some(remote) = remotes.iter().find(|remote| remote.peer.name() == id) {
            self.set_left(remote, true);
        }
    }

    /// Takes a peer that leaves off the ring, and puts one that does not back on it.
    pub(super) fn set_left(self: &Arc<Self>, remote: &Remote, has_left: bool) {
        if remote.set_left(has_left) {
            self.rebuild_ring_limited();
            self.wake_maintenance_for(remote); // whose probes find out when the peer is back
        }
    }

    /// Rebuilds the ring for all peers that have left it or come back, or has the maintenance do so
    /// shortly if that was done often recently: building a ring takes a while, and everyone who reaches
    /// the port can say that a peer leaves.
    pub(super) fn rebuild_ring_limited(self: &Arc<Self>) {
        match self.ring_rebuilds.admit(self.clock.now()) {
            Ok(()) => self.rebuild_ring(),
            Err(due) => self.wake_maintenance(due),
        }
    }

    fn rebuild_ring(self: &Arc<Self>) {
        // The same list: nothing in it can be wrong.
        let _ = self.change_peers(true, |peers| Ok(peers.to_vec()));
    }
}
