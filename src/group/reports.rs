//! `Reports`: what a group logs, each at a limited rate, as there could be one report for every key.

use std::time::{Duration, Instant};

use crate::runtime::log_throttle::LogThrottle;
use crate::transport::peer::Peer;

#[derive(Default)]
pub(super) struct Reports {
    slow_load: LogThrottle,
    full_pool: LogThrottle,
    missing_group: LogThrottle,
    undecodable: LogThrottle,
}

impl Reports {
    /// A load of `keys` took longer than it should.
    pub(super) fn slow_load(&self, group: &str, keys: &[&str], took: Duration, now: Instant) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if let Some(unreported) = self.slow_load.admit(now) {
            log::warn!(
                target: "groupcache",
                group = group, millis = millis, unreported = unreported;
                "a load was slow"
            );
        }
        log::trace!(
            target: "groupcache", group = group, millis = millis, keys:? = keys;
            "a load was slow"
        );
    }

    pub(super) fn full_pool(&self, group: &str, now: Instant) {
        if let Some(unreported) = self.full_pool.admit(now) {
            log::warn!(
                target: "groupcache", group = group, unreported = unreported;
                "too many loads wait for the loader threads: further ones are refused"
            );
        }
    }

    pub(super) fn missing_group(&self, group: &str, owner: &Peer, now: Instant) {
        if let Some(unreported) = self.missing_group.admit(now) {
            log::warn!(
                target: "groupcache",
                peer:% = owner, group = group, unreported = unreported;
                "the peer has no such group; its keys are loaded here"
            );
        }
    }

    pub(super) fn undecodable(&self, group: &str, reason: &str, now: Instant) {
        if let Some(unreported) = self.undecodable.admit(now) {
            log::warn!(
                target: "groupcache",
                group = group, error = reason, unreported = unreported;
                "cannot decode a value of a peer; it is loaded here"
            );
        }
    }
}
