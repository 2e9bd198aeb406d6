//! `Reports`: what a group has to say in the log, and could have to say of every key.

use std::time::{Duration, Instant};

use super::Shared;
use crate::cluster::remote::Remote;
use crate::runtime::log_throttle::LogThrottle;
use crate::value::Cacheable;

#[derive(Default)]
pub(super) struct Reports {
    slow_load: LogThrottle,
    full_pool: LogThrottle,
    missing_group: LogThrottle,
    undecodable: LogThrottle,
}

impl<V: Cacheable> Shared<V> {
    /// A load of `keys` took longer than it should.
    pub(super) fn report_slow_load(&self, keys: &[&str], took: Duration, now: Instant) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if let Some(unreported) = self.reports.slow_load.admit(now) {
            log::warn!(
                target: "groupcache",
                group = &*self.name, millis = millis, unreported = unreported;
                "a load was slow"
            );
        }
        log::trace!(
            target: "groupcache", group = &*self.name, millis = millis, keys:? = keys;
            "a load was slow"
        );
    }

    pub(super) fn report_full_pool(&self) {
        if let Some(unreported) = self.reports.full_pool.admit(self.cluster.clock.now()) {
            log::warn!(
                target: "groupcache", group = &*self.name, unreported = unreported;
                "too many loads wait for the loader threads: further ones are refused"
            );
        }
    }

    pub(super) fn report_missing_group(&self, owner: &Remote) {
        if let Some(unreported) = self.reports.missing_group.admit(self.cluster.clock.now()) {
            log::warn!(
                target: "groupcache",
                peer:% = owner.peer, group = &*self.name, unreported = unreported;
                "the peer has no such group; its keys are loaded here"
            );
        }
    }

    pub(super) fn report_undecodable(&self, reason: &str) {
        if let Some(unreported) = self.reports.undecodable.admit(self.cluster.clock.now()) {
            log::warn!(
                target: "groupcache",
                group = &*self.name, error = reason, unreported = unreported;
                "cannot decode a value of a peer; it is loaded here"
            );
        }
    }
}
