//! `ConnectionLimit`: how many connections there may be, in all, from each network, and for each kind of
//! traffic.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::settings::Settings;
use super::traffic::Traffic;
use crate::runtime::flow::network_of;
use crate::runtime::sync::{Arc, Condvar, Mutex, RandomState, wait_until};

/// Unidentified connections may evict those of peers up to one part in this many of all connections.
const UNIDENTIFIED_PART: usize = 16;

/// One part in this many of all connections is left by peers to the application, and by the application to
/// peers.
const OTHER_TRAFFIC_PART: usize = 4;

const _: () = assert!(UNIDENTIFIED_PART > 0 && OTHER_TRAFFIC_PART > 1);

pub(crate) struct ConnectionLimit {
    max: usize,
    max_per_network: usize,
    max_per_traffic: usize,
    counts: Mutex<Counts>,
    /// Notified when the last connection is gone.
    empty: Condvar,
}

struct Counts {
    total: Count,
    /// Clients choose these keys, so they are hashed with a seed.
    by_network: HashMap<IpAddr, Count, RandomState>,
    /// By the number of the traffic. Connections whose traffic is not known yet are not among them.
    by_traffic: [usize; 2],
}

#[derive(Clone, Copy, Default)]
struct Count {
    all: usize,
    /// Connections that are neither known to be a peer's nor known to be for the application.
    unidentified: usize,
}

impl Count {
    /// Whether another unidentified connection may evict one of an authenticated peer. An unidentified one
    /// is among the first to be evicted itself, so few connections are exchanged in this way.
    fn may_evict_peer(self, max: usize) -> bool {
        self.unidentified <= max / UNIDENTIFIED_PART
    }
}

/// Why there is no permit, and whether an authenticated peer's connection may be evicted for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Total {
        may_evict_peer: bool,
    },
    /// This network has too many connections already.
    Network {
        network: IpAddr,
        may_evict_peer: bool,
    },
}

impl ConnectionLimit {
    /// `is_shared`: both peers and an application are served.
    pub(crate) fn new(settings: &Settings, is_shared: bool) -> Arc<ConnectionLimit> {
        let max = settings.max_connections;
        let for_other = match is_shared {
            true => max / OTHER_TRAFFIC_PART,
            false => 0,
        };
        Arc::new(ConnectionLimit {
            max,
            max_per_network: settings.max_connections_per_address,
            max_per_traffic: max - for_other,
            counts: Mutex::new(Counts {
                total: Count::default(),
                by_network: HashMap::with_hasher(RandomState::default()),
                by_traffic: [0; 2],
            }),
            empty: Condvar::new(),
        })
    }

    pub(crate) fn acquire(self: &Arc<ConnectionLimit>, address: IpAddr) -> Result<Permit, Full> {
        let network = network_of(address);
        let mut counts = self.counts.lock();
        let of_network = counts.by_network.get(&network).copied().unwrap_or_default();
        if of_network.all >= self.max_per_network {
            let may_evict_peer = of_network.may_evict_peer(self.max_per_network);
            return Err(Full::Network {
                network,
                may_evict_peer,
            });
        }
        if counts.total.all >= self.max {
            let may_evict_peer = counts.total.may_evict_peer(self.max);
            return Err(Full::Total { may_evict_peer });
        }
        counts.change(network, |count| {
            count.all += 1;
            count.unidentified += 1;
        });
        Ok(Permit {
            limit: Arc::clone(self),
            network,
            traffic: None,
            is_authenticated: false,
        })
    }

    /// Blocks until no connection is left, but not past `until`. Returns whether none is left.
    pub(crate) fn wait_until_empty(&self, until: Option<Instant>) -> bool {
        let mut counts = self.counts.lock();
        while counts.total.all > 0 {
            if until.is_some_and(|until| until <= Instant::now()) {
                return false;
            }
            wait_until(&self.empty, &mut counts, until);
        }
        true
    }
}

impl Counts {
    /// Changes the count of all connections, and that of a network.
    fn change(&mut self, network: IpAddr, change: impl Fn(&mut Count)) {
        change(&mut self.total);
        let of_network = self.by_network.entry(network).or_default();
        change(of_network);
        debug_assert!(
            of_network.all <= self.total.all
                && of_network.unidentified <= of_network.all
                && self.total.unidentified <= self.total.all,
            "a part is larger than the whole"
        );
        if of_network.all == 0 {
            self.by_network.remove(&network);
        }
    }

    fn release(&mut self, permit: &Permit) {
        self.change(permit.network, |count| {
            count.all -= 1;
            count.unidentified -= usize::from(permit.is_unidentified());
        });
        if let Some(traffic) = permit.traffic {
            self.by_traffic[traffic as usize] -= 1;
        }
        debug_assert!(
            self.by_traffic.iter().sum::<usize>() <= self.total.all,
            "a connection is counted for two kinds of traffic"
        );
        debug_assert!(
            self.total.all > 0 || self.by_network.is_empty(),
            "there is no connection, and a network has one"
        );
    }
}

/// The permit of one connection. Dropping it releases it.
pub(crate) struct Permit {
    limit: Arc<ConnectionLimit>,
    network: IpAddr,
    /// What the connection is for, once that is known.
    traffic: Option<Traffic>,
    /// Whether the connection is known to be a peer's.
    is_authenticated: bool,
}

impl Permit {
    pub(crate) fn network(&self) -> IpAddr {
        self.network
    }

    pub(crate) fn traffic(&self) -> Option<Traffic> {
        self.traffic
    }

    pub(crate) fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    fn is_unidentified(&self) -> bool {
        !self.is_authenticated && self.traffic != Some(Traffic::Application)
    }

    /// Notes that the connection is known to be a peer's.
    pub(crate) fn authenticate(&mut self) {
        let was_unidentified = self.is_unidentified();
        self.is_authenticated = true;
        let mut counts = self.limit.counts.lock();
        counts.change(self.network, |count| {
            count.unidentified -= usize::from(was_unidentified);
        });
    }

    /// Notes what the connection is for from now on. Returns whether there is room for it among the
    /// connections for that.
    pub(crate) fn assign(&mut self, traffic: Traffic) -> bool {
        if self.traffic == Some(traffic) {
            return true;
        }
        let limit = Arc::clone(&self.limit);
        let mut counts = limit.counts.lock();
        if counts.by_traffic[traffic as usize] >= limit.max_per_traffic {
            return false;
        }
        let was_unidentified = self.is_unidentified();
        counts.by_traffic[traffic as usize] += 1;
        if let Some(before) = self.traffic.replace(traffic) {
            counts.by_traffic[before as usize] -= 1;
        }
        let is_unidentified = self.is_unidentified();
        counts.change(self.network, |count| {
            count.unidentified += usize::from(is_unidentified);
            count.unidentified -= usize::from(was_unidentified);
        });
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.limit.counts.lock();
        counts.release(self);
        if counts.total.all == 0 {
            self.limit.empty.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(max: usize, max_per_address: usize, is_shared: bool) -> Arc<ConnectionLimit> {
        let settings = Settings {
            max_connections: max,
            max_connections_per_address: max_per_address,
            ..Settings::default()
        };
        ConnectionLimit::new(&settings, is_shared)
    }

    fn acquire(limit: &Arc<ConnectionLimit>, address: &str) -> Result<Permit, Full> {
        limit.acquire(address.parse().unwrap())
    }

    fn full_network(network: &str, may_evict_peer: bool) -> Full {
        Full::Network {
            network: network.parse().unwrap(),
            may_evict_peer,
        }
    }

    #[test]
    fn an_address_does_not_take_all_connections() {
        let limit = limit(3, 2, false);
        let first = acquire(&limit, "10.0.0.1").ok();
        let _second = acquire(&limit, "::ffff:10.0.0.1").ok();
        let full = full_network("10.0.0.1", false);
        assert_eq!(acquire(&limit, "10.0.0.1").err(), Some(full));
        let _third = acquire(&limit, "2001:db8::1").ok();
        let full = Full::Total {
            may_evict_peer: false,
        };
        assert_eq!(acquire(&limit, "10.0.0.2").err(), Some(full));
        drop(first);
        assert!(acquire(&limit, "10.0.0.1").is_ok());
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let limit = limit(3, 2, false);
        let _first = acquire(&limit, "2001:db8::1").ok();
        let _second = acquire(&limit, "2001:db8::2:0:0:2").ok();
        let full = full_network("2001:db8::", false);
        assert_eq!(acquire(&limit, "2001:db8::3").err(), Some(full));
        assert!(acquire(&limit, "2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn few_unidentified_connections_evict_those_of_peers() {
        let limit = limit(32, 32, false);
        let mut all: Vec<Permit> = (0..32)
            .map(|_| acquire(&limit, "10.0.0.1").ok().unwrap())
            .collect();
        let full = |may_evict_peer| full_network("10.0.0.1", may_evict_peer);
        all.iter_mut().skip(3).for_each(Permit::authenticate);
        assert_eq!(acquire(&limit, "10.0.0.1").err(), Some(full(false)));
        all[0].authenticate();
        assert_eq!(acquire(&limit, "10.0.0.1").err(), Some(full(true)));
        let full = Full::Total {
            may_evict_peer: true,
        };
        assert_eq!(acquire(&limit, "10.0.0.2").err(), Some(full));
    }

    #[test]
    fn a_connection_for_the_application_is_identified() {
        let limit = limit(8, 8, true);
        let mut all: Vec<Permit> = (0..8)
            .map(|_| acquire(&limit, "10.0.0.1").ok().unwrap())
            .collect();
        all[..2].iter_mut().for_each(Permit::authenticate);
        let full = |may_evict_peer| full_network("10.0.0.1", may_evict_peer);
        assert_eq!(acquire(&limit, "10.0.0.1").err(), Some(full(false)));
        for permit in &mut all[2..] {
            assert!(permit.assign(Traffic::Application));
        }
        assert_eq!(acquire(&limit, "10.0.0.1").err(), Some(full(true)));
        assert!(all[7].assign(Traffic::Peers));
        assert_eq!(acquire(&limit, "10.0.0.1").err(), Some(full(false)));
        all[7].authenticate();
        assert_eq!(acquire(&limit, "10.0.0.1").err(), Some(full(true)));
    }

    #[test]
    fn peers_and_the_application_leave_connections_to_each_other() {
        let limit = limit(4, 4, true);
        let mut all: Vec<Permit> = (0..4)
            .map(|_| acquire(&limit, "10.0.0.1").ok().unwrap())
            .collect();
        let assigned = all
            .iter_mut()
            .map(|permit| permit.assign(Traffic::Application));
        assert_eq!(assigned.collect::<Vec<_>>(), [true, true, true, false]);
        assert!(all[3].assign(Traffic::Peers));
        // It changes to the other kind as soon as there is room.
        assert!(!all[3].assign(Traffic::Application));
        assert!(all[0].assign(Traffic::Peers));
        assert!(all[3].assign(Traffic::Application));
    }
}
