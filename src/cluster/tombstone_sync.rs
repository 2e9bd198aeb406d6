//! The exchange of tombstones: a node that takes values over from former owners first asks its peers
//! which keys were removed recently.

use crate::cluster::calls::node_command_call;
use crate::cluster::members::Members;
use crate::cluster::remote::{Remote, TombstoneSync};
use crate::cluster::state::Cluster;
use crate::protocol::dialect::Dialect;
use crate::protocol::{self, MAX_MARKS, NodeCommand, Status};
use crate::runtime::sync::Arc;
use crate::transport::peer::Reply;

impl Cluster {
    /// Asks the peers that were not asked yet for their tombstones: before anything is taken over from
    /// a former owner. Waits for them as briefly as for a value that is taken over.
    pub(crate) fn fetch_tombstones(self: &Arc<Self>, members: &Members, former: &Arc<Remote>) {
        let is_to_ask = |remote: &Arc<Remote>| {
            let is_reachable = remote.takes_batches() && !remote.circuit.is_open();
            is_reachable && remote.tombstone_sync() == TombstoneSync::NotDone
        };
        let mut remotes = members.remotes();
        if !remotes.iter().any(|remote| Arc::ptr_eq(remote, former)) {
            remotes.push(Arc::clone(former)); // it has left the list
        }
        remotes.retain(is_to_ask);
        self.fanout.each(&remotes, |remote| {
            let limit = self.settings.limits.connect_timeout;
            match self.send(remote, node_command_call(NodeCommand::Marks, None), limit) {
                Ok(reply) => remote.set_tombstone_sync(self.merge_tombstones(&reply)),
                Err(error) => self.record_failure(remote, &error),
            }
        });
    }

    fn merge_tombstones(&self, reply: &Reply) -> TombstoneSync {
        let status = Status::of(reply.status, reply.header.as_deref());
        if status != Some(Status::Ok) || self.spoken(reply) == Dialect::Golang {
            return TombstoneSync::Unsupported;
        }
        let Ok(tombstones) = protocol::decode_marks(&reply.body) else {
            return TombstoneSync::Unsupported;
        };
        self.journal.merge_tombstones(tombstones, self.clock.now());
        TombstoneSync::Done
    }

    /// The tombstones of this node, for a peer that asks.
    pub(crate) fn encode_tombstones(&self) -> Vec<u8> {
        protocol::encode_marks(self.journal.tombstones(MAX_MARKS, self.clock.now()))
    }
}
