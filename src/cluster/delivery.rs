//! Delivery: the maintenance sends pending removals to the peers that have not received them.

use std::time::Duration;

use crate::cluster::change::{Change, Reach};
use crate::cluster::journal::{RemovalBatch, Removals};
use crate::cluster::maintenance::PAUSE;
use crate::cluster::remote::{Failure, Remote};
use crate::cluster::state::Cluster;
use crate::protocol::NodeCommand;
use crate::protocol::dialect::Dialect;
use crate::runtime::clock::Deadline;
use crate::runtime::sync::Arc;

/// How long a round of the maintenance delivers to one peer: other peers wait for their probes.
const ROUND: Duration = Duration::from_secs(1);

/// The pause before the next attempt to deliver to a peer that speaks the dialect of Go, and for which
/// removals are pending from before it did.
const GOLANG_PAUSE: Duration = Duration::from_secs(5);

impl Cluster {
    /// Whether removals are pending for a peer: it may have old values until it has received them.
    pub(crate) fn has_pending_removals(&self, remote: &Remote) -> bool {
        // A Go peer is asked for values all the same, and never receives removals.
        remote.speaks() != Some(Dialect::Golang)
            && self.journal.has_pending(&remote.pending_removals)
    }

    /// Whether there is something to deliver to a peer.
    pub(super) fn has_deliverable(&self, remote: &Remote) -> bool {
        self.journal.has_deliverable(&remote.pending_removals)
            || self.journal.has_deliverable(&remote.pending_copy_removals)
    }

    /// Makes the next delivery due after a pause.
    pub(super) fn postpone_delivery(self: &Arc<Self>, remote: &Remote, pause: Duration) {
        *remote.next_delivery.lock() = self.clock.now().checked_add(pause);
        self.wake_maintenance_for(remote);
    }

    /// Delivers pending removals to a peer, for no longer than a round lasts and the last answer takes.
    pub(super) fn deliver(self: &Arc<Self>, remote: &Arc<Remote>) {
        let until = Deadline::after(self.clock.now(), ROUND);
        for (pending, reach) in [
            (&remote.pending_removals, Reach::All),
            (&remote.pending_copy_removals, Reach::Copies),
        ] {
            while let Some(batch) = self.journal.next_batch(pending) {
                match self.deliver_batch(remote, &batch, reach) {
                    Ok(()) => {}
                    Err(Failure::Refused) => self.report_refusal(remote, &batch),
                    Err(Failure::Unsupported) => {
                        return self.postpone_delivery(remote, GOLANG_PAUSE);
                    }
                    Err(Failure::Deadline | Failure::Unreachable(_) | Failure::Silent(_)) => {
                        return self.postpone_delivery(remote, PAUSE);
                    }
                }
                if reach == Reach::All {
                    // Also if refused: perhaps only one group of several was.
                    self.repeat_for_copies(remote, &batch);
                }
                pending.remove(&batch.range);
                if until.is_past(self.clock.now()) {
                    return *remote.next_delivery.lock() = None;
                }
            }
        }
        *remote.next_delivery.lock() = None;
    }

    /// Makes removals that a peer has received late pending once more for the others, as far as their
    /// copies are concerned: they may have fetched an old value from that peer meanwhile, after they had
    /// received the removals themselves. This node has kept no such value
    /// ([`has_pending_removals`](Cluster::has_pending_removals)).
    fn repeat_for_copies(self: &Arc<Self>, late: &Arc<Remote>, batch: &RemovalBatch) {
        let all = self.removal_recipients();
        for other in all.iter().filter(|other| !Arc::ptr_eq(other, late)) {
            other.pending_copy_removals.add(batch.range.clone());
            self.wake_maintenance_for(other);
        }
    }

    /// Logs that a peer refuses removals: it would refuse them the next time too.
    fn report_refusal(&self, remote: &Remote, batch: &RemovalBatch) {
        if let Some(unreported) = self.refusal_reports.admit(self.clock.now()) {
            let groups: Vec<&str> = match &batch.removals {
                Removals::All => Vec::new(),
                Removals::Groups(groups) => groups.iter().map(|group| &**group).collect(),
                Removals::Keys(group, _) => vec![group],
            };
            log::warn!(
                target: "groupcache", peer:% = remote.peer, groups:? = groups, unreported;
                "the peer refuses removals: it may serve old values until they expire"
            );
        }
    }

    fn deliver_batch(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        batch: &RemovalBatch,
        reach: Reach,
    ) -> Result<(), Failure> {
        let until = Deadline::NEVER; // the fetch timeout limits each call
        // An answer without a header may have come from another server at the address of the peer.
        if remote.speaks() != Some(Dialect::Native)
            && self.ask_dialect_again(remote, until)? == Dialect::Golang
        {
            return Err(Failure::Unsupported);
        }
        // Later than the stamps of the changes themselves: one of these that arrives late is older.
        let stamp = self.journal.stamp();
        match &batch.removals {
            Removals::All => {
                self.send_command(remote, NodeCommand::Clear, Some((stamp, reach)), until)
            }
            Removals::Groups(groups) => {
                let mut outcome = Ok(());
                for group in groups {
                    match self.send_removal(remote, group, &Change::Clear, stamp, reach, until) {
                        Ok(()) => {}
                        // The other groups are sent all the same.
                        Err(Failure::Refused) => outcome = Err(Failure::Refused),
                        Err(failure) => return Err(failure),
                    }
                }
                outcome
            }
            Removals::Keys(group, keys) => {
                let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
                self.send_removal(remote, group, &Change::Remove(&keys), stamp, reach, until)
            }
        }
    }
}
