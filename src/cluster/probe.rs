//! Probes of peers that are unreachable, that have left, or that seem to be silent.
//!
//! A caller whose own time is up before a peer has answered learns nothing about the peer (I6): perhaps
//! the caller had little time. But if all callers have less time than the fetch timeout, none of them
//! ever finds out that the peer hangs, and all of them fail for ever. So where two calls in a row are not
//! answered, the peer is probed: by the smallest request there is, with the whole fetch timeout. A peer
//! that is only slow answers that.

use std::time::Duration;

use crate::cluster::calls::hello;
use crate::cluster::remote::Remote;
use crate::cluster::state::Cluster;
use crate::protocol::Status;
use crate::runtime::sync::{Arc, Weak, thread};
use crate::transport::peer::{Call, CallError};

/// The probe of a peer that seems to be silent. Ends when it is dropped.
struct Probe {
    cluster: Weak<Cluster>,
    remote: Arc<Remote>,
    call: Call,
    limit: Duration,
}

impl Cluster {
    /// Probes a peer that is unreachable or has left, on the thread of the maintenance.
    pub(super) fn probe(self: &Arc<Self>, remote: &Remote) {
        // Any answer shows that the peer is reachable, but one that sends this node away.
        let answer = self.send(remote, hello(), self.settings.fetch_timeout);
        if let Ok(reply) = &answer {
            self.update_spoken(remote, reply);
            let status = Status::of(reply.status, reply.header.as_deref());
            if status.is_some_and(Status::is_refusal) {
                return;
            }
            if remote.circuit.half_open() {
                remote.reset_after_recovery();
            }
            self.set_left(remote, status == Some(Status::Leaving));
        }
    }

    /// Starts a probe of a peer that did not answer in the time of a caller: on a thread of its own, one
    /// at a time for each peer, and not more than one in a fetch timeout.
    pub(super) fn suspect(self: &Arc<Self>, remote: &Arc<Remote>) {
        let limit = self.settings.fetch_timeout;
        if !remote.suspicion.record_timeout(self.clock.now(), limit) {
            return;
        }
        let probe = Probe {
            cluster: Arc::downgrade(self),
            remote: Arc::clone(remote),
            call: self.signed(remote, hello(), remote.boot()),
            limit,
        };
        let thread = thread::Builder::new().name("groupcache-probe".to_owned());
        if let Err(error) = thread.spawn(move || probe.run()) {
            // The next call that is not answered tries again.
            log::warn!(target: "groupcache", error:% = error; "cannot start a thread for a probe");
        }
    }

    /// Opens the circuit of a peer that has not answered a probe.
    fn trip_circuit(self: &Arc<Self>, remote: &Remote, error: &CallError) {
        if remote.circuit.trip(self.clock.now()) {
            self.follow_opening(remote, error);
        }
    }
}

impl Probe {
    fn run(self) {
        let suspicion = &self.remote.suspicion;
        match (
            self.remote.link.call(&self.call, self.limit),
            self.cluster.upgrade(),
        ) {
            (Ok(_), _) => suspicion.record_answer(),
            // Unless another call was answered meanwhile.
            (Err(error), Some(cluster)) if suspicion.is_silent() => {
                cluster.trip_circuit(&self.remote, &error);
            }
            _ => {}
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.remote.suspicion.end_probe();
    }
}
