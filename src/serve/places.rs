//! `Places`: how many connections there may be, in all, from each network, and of each kind.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::settings::Settings;
use crate::runtime::flow::network_of;
use crate::runtime::sync::{Arc, Condvar, Mutex, RandomState, wait_until};
use crate::serve::lane::Which;

/// The part of all places that newcomers can have though others have proved who they are, and wait.
const FOR_NEWCOMERS: usize = 16;

/// The part of all places that peers leave to the application, and the application to peers.
const FOR_OTHERS: usize = 4;

pub(crate) struct Places {
    max: usize,
    max_per_network: usize,
    /// How many peers may have, and how many the application.
    max_per_kind: usize,
    taken: Mutex<Taken>,
    empty: Condvar,
}

struct Taken {
    all: Count,
    /// Outsiders choose these keys, so they are hashed with a seed.
    by_network: HashMap<IpAddr, Count, RandomState>,
    /// Of those that are known to be for peers, and for the application.
    by_kind: [usize; 2],
}

#[derive(Clone, Copy, Default)]
struct Count {
    all: usize,
    /// Those of whom it is not known that they are peers, nor that they are the application's.
    newcomers: usize,
}

impl Count {
    /// Whether one more may have the place of one who has proved who it is. It is among the first to give
    /// way itself, so few places go from hand to hand.
    fn has_room_for_newcomers(self, max: usize) -> bool {
        self.newcomers <= max / FOR_NEWCOMERS
    }
}

/// Why there is no place, and whether one who has proved who it is may lose its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Everywhere(bool),
    /// This network has too many connections already.
    ForNetwork(IpAddr, bool),
}

impl Places {
    /// `is_shared` tells whether peers and an application are served.
    pub(crate) fn new(settings: &Settings, is_shared: bool) -> Arc<Places> {
        let max = settings.max_connections;
        let for_others = if is_shared { max / FOR_OTHERS } else { 0 };
        Arc::new(Places {
            max,
            max_per_network: settings.max_connections_per_address,
            max_per_kind: max - for_others,
            taken: Mutex::new(Taken {
                all: Count::default(),
                by_network: HashMap::with_hasher(RandomState::default()),
                by_kind: [0; 2],
            }),
            empty: Condvar::new(),
        })
    }

    pub(crate) fn take(self: &Arc<Places>, address: IpAddr) -> Result<Place, Full> {
        let network = network_of(address);
        let mut taken = self.taken.lock();
        let of_network = taken.by_network.get(&network).copied().unwrap_or_default();
        if of_network.all >= self.max_per_network {
            let may_displace = of_network.has_room_for_newcomers(self.max_per_network);
            return Err(Full::ForNetwork(network, may_displace));
        }
        if taken.all.all >= self.max {
            return Err(Full::Everywhere(taken.all.has_room_for_newcomers(self.max)));
        }
        taken.change(network, |count| {
            count.all += 1;
            count.newcomers += 1;
        });
        Ok(Place {
            places: Arc::clone(self),
            network,
            kind: None,
            is_known: false,
        })
    }

    /// Whether no connection was left before `until` came.
    pub(crate) fn wait_until_empty(&self, until: Option<Instant>) -> bool {
        let mut taken = self.taken.lock();
        while taken.all.all > 0 {
            if until.is_some_and(|until| until <= Instant::now()) {
                return false;
            }
            wait_until(&self.empty, &mut taken, until);
        }
        true
    }
}

impl Taken {
    /// Changes what is counted in all, and for a network.
    fn change(&mut self, network: IpAddr, change: impl Fn(&mut Count)) {
        change(&mut self.all);
        let of_network = self.by_network.entry(network).or_default();
        change(of_network);
        if of_network.all == 0 {
            self.by_network.remove(&network);
        }
    }

    fn leave(&mut self, place: &Place) {
        self.change(place.network, |count| {
            count.all -= 1;
            count.newcomers -= usize::from(place.is_newcomer());
        });
        if let Some(kind) = place.kind {
            self.by_kind[kind as usize] -= 1;
        }
        debug_assert!(
            self.all.all > 0 || self.all.newcomers == 0 && self.by_kind == [0; 2],
            "there is no connection, and something is counted"
        );
    }
}

/// The place of one connection. Dropping it makes room.
pub(crate) struct Place {
    places: Arc<Places>,
    network: IpAddr,
    /// What it is for, once that has been seen.
    kind: Option<Which>,
    /// Whether it is known to be a peer's.
    is_known: bool,
}

impl Place {
    pub(crate) fn network(&self) -> IpAddr {
        self.network
    }

    pub(crate) fn kind(&self) -> Option<Which> {
        self.kind
    }

    pub(crate) fn is_known(&self) -> bool {
        self.is_known
    }

    fn is_newcomer(&self) -> bool {
        !self.is_known && self.kind != Some(Which::Application)
    }

    /// Notes that it is known to be a peer's.
    pub(crate) fn prove(&mut self) {
        let was_newcomer = self.is_newcomer();
        self.is_known = true;
        let mut taken = self.places.taken.lock();
        taken.change(self.network, |count| {
            count.newcomers -= usize::from(was_newcomer);
        });
    }

    /// Notes what it is for now. Tells whether that has a place left.
    pub(crate) fn settle(&mut self, kind: Which) -> bool {
        if self.kind == Some(kind) {
            return true;
        }
        let places = Arc::clone(&self.places);
        let mut taken = places.taken.lock();
        if taken.by_kind[kind as usize] >= places.max_per_kind {
            return false;
        }
        let was_newcomer = self.is_newcomer();
        taken.by_kind[kind as usize] += 1;
        if let Some(before) = self.kind.replace(kind) {
            taken.by_kind[before as usize] -= 1;
        }
        let is_newcomer = self.is_newcomer();
        taken.change(self.network, |count| {
            count.newcomers += usize::from(is_newcomer);
            count.newcomers -= usize::from(was_newcomer);
        });
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.leave(self);
        if taken.all.all == 0 {
            self.places.empty.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(max: usize, max_per_address: usize, is_shared: bool) -> Arc<Places> {
        let settings = Settings {
            max_connections: max,
            max_connections_per_address: max_per_address,
            ..Settings::default()
        };
        Places::new(&settings, is_shared)
    }

    fn take(places: &Arc<Places>, address: &str) -> Result<Place, Full> {
        places.take(address.parse().unwrap())
    }

    #[test]
    fn an_address_does_not_take_all_places() {
        let places = places(3, 2, false);
        let first = take(&places, "10.0.0.1").ok();
        let _second = take(&places, "::ffff:10.0.0.1").ok();
        let full = Full::ForNetwork("10.0.0.1".parse().unwrap(), false);
        assert_eq!(take(&places, "10.0.0.1").err(), Some(full));
        let _third = take(&places, "2001:db8::1").ok();
        let full = Full::Everywhere(false);
        assert_eq!(take(&places, "10.0.0.2").err(), Some(full));
        drop(first);
        assert!(take(&places, "10.0.0.1").is_ok());
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let places = places(3, 2, false);
        let _first = take(&places, "2001:db8::1").ok();
        let _second = take(&places, "2001:db8::2:0:0:2").ok();
        let full = Full::ForNetwork("2001:db8::".parse().unwrap(), false);
        assert_eq!(take(&places, "2001:db8::3").err(), Some(full));
        assert!(take(&places, "2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn few_newcomers_at_a_time_have_the_places_of_peers() {
        let places = places(32, 32, false);
        let mut all: Vec<Place> = (0..32)
            .map(|_| take(&places, "10.0.0.1").ok().unwrap())
            .collect();
        let full = |may_displace| Full::ForNetwork("10.0.0.1".parse().unwrap(), may_displace);
        all.iter_mut().skip(3).for_each(Place::prove);
        assert_eq!(take(&places, "10.0.0.1").err(), Some(full(false)));
        all[0].prove();
        assert_eq!(take(&places, "10.0.0.1").err(), Some(full(true)));
        let full = Full::Everywhere(true);
        assert_eq!(take(&places, "10.0.0.2").err(), Some(full));
    }

    #[test]
    fn who_asks_the_application_is_no_newcomer() {
        let places = places(8, 8, true);
        let mut all: Vec<Place> = (0..8)
            .map(|_| take(&places, "10.0.0.1").ok().unwrap())
            .collect();
        all[..2].iter_mut().for_each(Place::prove);
        let full = |may_displace| Full::ForNetwork("10.0.0.1".parse().unwrap(), may_displace);
        assert_eq!(take(&places, "10.0.0.1").err(), Some(full(false)));
        for place in &mut all[2..] {
            assert!(place.settle(Which::Application));
        }
        assert_eq!(take(&places, "10.0.0.1").err(), Some(full(true)));
        assert!(all[7].settle(Which::Peers));
        assert_eq!(take(&places, "10.0.0.1").err(), Some(full(false)));
        all[7].prove();
        assert_eq!(take(&places, "10.0.0.1").err(), Some(full(true)));
    }

    #[test]
    fn peers_and_the_application_leave_places_to_each_other() {
        let places = places(4, 4, true);
        let mut all: Vec<Place> = (0..4)
            .map(|_| take(&places, "10.0.0.1").ok().unwrap())
            .collect();
        let settled = all.iter_mut().map(|place| place.settle(Which::Application));
        assert_eq!(settled.collect::<Vec<_>>(), [true, true, true, false]);
        assert!(all[3].settle(Which::Peers));
        // It goes over to the other kind as soon as there is room.
        assert!(!all[3].settle(Which::Application));
        assert!(all[0].settle(Which::Peers));
        assert!(all[3].settle(Which::Application));
    }
}
