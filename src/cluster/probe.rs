//! Probes of peers that are suspected to be silent.
//!
//! A caller whose own time is up before a peer has answered says nothing of the peer (I6): perhaps it
//! had little time. But if all callers have less time than the fetch timeout, none of them ever finds
//! out that the peer hangs, and all of them fail for ever. So where two calls in a row are not answered,
//! the peer is probed: by the smallest request there is, with the whole fetch timeout. A peer that is
//! only slow answers that.

use std::time::Duration;

use crate::cluster::hub::{Cluster, hello};
use crate::cluster::remote::Remote;
use crate::runtime::sync::{Arc, Weak, thread};
use crate::transport::peer::{Call, CallError};

/// One probe, which ends when this is dropped.
struct Probe {
    cluster: Weak<Cluster>,
    remote: Arc<Remote>,
    call: Call,
    limit: Duration,
}

impl Cluster {
    /// Has a peer probed that did not answer in the time of a caller: on a thread of its own, one at
    /// a time for each peer, and not more than one in a fetch timeout.
    pub(crate) fn suspect(self: &Arc<Self>, remote: &Arc<Remote>) {
        let limit = self.settings.fetch_timeout;
        if !remote.suspicion.note_silence(self.clock.now(), limit) {
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
            // The next one who gets no answer tries again.
            log::warn!(target: "groupcache", error:% = error; "cannot start a thread for a probe");
        }
    }

    /// Takes a peer for unreachable that has not answered a probe.
    fn note_silent(self: &Arc<Self>, remote: &Remote, error: &CallError) {
        if remote.circuit.trip(self.clock.now()) {
            self.note_unreachable(remote, error);
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
            (Ok(_), _) => suspicion.note_answer(),
            // Unless another call was answered meanwhile.
            (Err(error), Some(cluster)) if suspicion.is_silent() => {
                cluster.note_silent(&self.remote, &error);
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
