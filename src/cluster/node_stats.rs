//! The statistics of a node and of its peers.

use crate::auth::guard::Guard;
use crate::cluster::members::Listed;
use crate::cluster::state::Cluster;
use crate::protocol::dialect::Dialect;
use crate::stats::latency::Latency;
use crate::stats::{CircuitState, NodeStats, PeerStats};
use crate::transport::peer::Peer;

impl Cluster {
    pub(crate) fn stats(&self) -> NodeStats {
        let members = self.members();
        let (threads, busy) = self.pool.threads();
        let peer = |listed: &Listed| {
            let share = members.share(listed.remote.as_ref());
            match &listed.remote {
                Some(remote) => remote.stats(share, &self.journal),
                None => self.own_stats(&listed.peer, share),
            }
        };
        NodeStats {
            peers: members.listed().iter().map(peer).collect(),
            ring: members.fingerprint(),
            ring_mismatches: self.ring_mismatches.get(),
            is_absent: !members.has_this(),
            discovery_polls: self.discovery_polls.get(),
            discovery_errors: self.discovery_errors.get(),
            refused_requests: self.guard.as_ref().map_or(0, Guard::refused),
            misdirected_requests: self.gate.misdirected(),
            loader_threads: threads as u64,
            loader_threads_busy: busy as u64,
        }
    }

    #[allow(deprecated, reason = "the field has two names for now")]
    fn own_stats(&self, this: &Peer, ring_share: f64) -> PeerStats {
        PeerStats {
            id: this.name().to_owned(),
            address: this.address(),
            is_this_node: true,
            has_left: self.is_leaving(),
            ring_share,
            circuit: CircuitState::Closed,
            dialect: Some(Dialect::Native),
            calls: 0,
            call_errors: 0,
            abandoned_calls: 0,
            retries: 0,
            circuit_openings: 0,
            pending_removals: 0,
            owed: 0,
            latency: Latency::default(),
        }
    }
}
