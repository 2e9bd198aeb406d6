//! Maintenance: the rounds of the background threads, which probe peers, deliver pending removals, sweep
//! expired values, and offer values to deputies.

use std::time::{Duration, Instant};

use crate::cluster::change::Reach;
use crate::cluster::group_values::GroupValues;
use crate::cluster::remote::Remote;
use crate::cluster::state::Cluster;
use crate::runtime::clock::Deadline;
use crate::runtime::sync::{Arc, Weak};

/// The pause before the next delivery to a peer that was not reached, and between two sweeps.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// The pause before values are offered to deputies, again and again.
const OFFER_PAUSE: Duration = Duration::from_secs(10);

impl Cluster {
    pub(super) fn wake_maintenance(self: &Arc<Self>, due: Instant) {
        let cluster = Arc::downgrade(self);
        self.maintenance.wake(&self.clock, Deadline::at(due), || {
            move || cluster.upgrade().map(|cluster| cluster.run_round())
        });
    }

    /// Wakes the maintenance when something is due for a peer.
    pub(super) fn wake_maintenance_for(self: &Arc<Self>, remote: &Remote) {
        if let Some(due) = self.due(remote, self.clock.now()) {
            self.wake_maintenance(due);
        }
    }

    /// A round: probes the peers that are unreachable, so that no caller has to, and delivers pending
    /// removals to the others. Returns when the next round is due.
    fn run_round(self: &Arc<Self>) -> Deadline {
        let now = self.clock.now();
        self.forget_expired_rings(now);
        let remotes = self.removal_recipients();
        let is_due = |remote: &&Arc<Remote>| self.due(remote, now).is_some_and(|due| due <= now);
        let due: Vec<_> = remotes.iter().filter(is_due).cloned().collect();
        // All at once: a peer that is silent must not delay the probes of the others.
        self.fanout
            .each(&due, |remote| self.maintain_peer(remote, now));
        if self.ring_rebuilds.due().is_some() {
            self.rebuild_ring_limited();
        }
        let pending = remotes.iter().filter_map(|remote| remote.first_pending());
        self.journal.expire(now, pending.min().unwrap_or(u64::MAX));
        let due = remotes
            .iter()
            .filter_map(|remote| self.due(remote, now))
            .chain(self.ring_rebuilds.due())
            .min();
        due.map_or(Deadline::NEVER, Deadline::at)
    }

    /// When a probe of a peer or a delivery to it is due, if one is: not before `now`.
    fn due(&self, remote: &Remote, now: Instant) -> Option<Instant> {
        let is_unreachable = remote.circuit.is_open();
        let probe = (is_unreachable || remote.has_left())
            .then(|| remote.circuit.next_probe().unwrap_or(now));
        let is_pending = !is_unreachable && self.has_deliverable(remote);
        let delivery = is_pending.then(|| remote.next_delivery.lock().unwrap_or(now));
        probe.into_iter().chain(delivery).min()
    }

    fn maintain_peer(self: &Arc<Self>, remote: &Arc<Remote>, now: Instant) {
        let is_probed = remote.circuit.is_open() || remote.has_left();
        if is_probed && remote.circuit.take_probe(now) {
            self.probe(remote);
        }
        if !remote.circuit.is_open() {
            self.deliver(remote);
        }
    }

    /// Has `values` swept about once a second, from when [`wake_sweeper`](Cluster::wake_sweeper) is called
    /// until no value is left that will expire, and offered to deputies while there are any.
    pub(crate) fn add_values(self: &Arc<Self>, values: Weak<dyn GroupValues>) {
        self.values.add(values);
        self.wake_offers();
    }

    pub(crate) fn wake_sweeper(self: &Arc<Self>) {
        let cluster = Arc::downgrade(self);
        let now = Deadline::at(self.clock.now());
        self.sweeper.wake(&self.clock, now, || {
            move || cluster.upgrade().map(|cluster| cluster.sweep())
        });
    }

    fn sweep(&self) -> Deadline {
        match self.values.sweep() {
            true => Deadline::after(self.clock.now(), PAUSE),
            false => Deadline::NEVER,
        }
    }

    /// Has values offered to deputies from now on, if there are any.
    pub(super) fn wake_offers(self: &Arc<Self>) {
        let due = self.next_offers();
        if due == Deadline::NEVER {
            return;
        }
        let cluster = Arc::downgrade(self);
        self.offers.wake(&self.clock, due, || {
            move || cluster.upgrade().map(|cluster| cluster.offer_to_deputies())
        });
    }

    fn offer_to_deputies(&self) -> Deadline {
        self.values.offer_to_deputies();
        self.next_offers()
    }

    fn next_offers(&self) -> Deadline {
        match !self.members().remotes().is_empty() && self.values.are_for_deputies() {
            true => Deadline::after(self.clock.now(), OFFER_PAUSE),
            false => Deadline::NEVER,
        }
    }

    /// Clears all groups.
    pub(crate) fn clear_all(&self, reach: Reach) {
        self.values.clear(reach);
    }
}
