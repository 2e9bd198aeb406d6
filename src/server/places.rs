//! `Places`: how many connections there may be, in all and per address, and how much they buffer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use super::Settings;
use crate::sync::{Arc, AtomicUsize, Condvar, Mutex, Ordering, RandomState, wait_until};

pub(super) struct Places {
    max: usize,
    max_per_origin: usize,
    max_buffered: usize,
    buffered: AtomicUsize,
    taken: Mutex<Taken>,
    empty: Condvar,
}

struct Taken {
    total: usize,
    /// Outsiders choose these keys, so they are hashed with a seed.
    by_origin: HashMap<IpAddr, usize, RandomState>,
}

/// Why there is no place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    Everywhere,
    /// This address has too many connections already.
    ForOrigin,
}

impl Places {
    pub(super) fn new(settings: &Settings) -> Arc<Places> {
        Arc::new(Places {
            max: settings.max_connections,
            max_per_origin: settings.max_connections_per_address,
            max_buffered: settings.max_buffered,
            buffered: AtomicUsize::new(0),
            taken: Mutex::new(Taken {
                total: 0,
                by_origin: HashMap::with_hasher(RandomState::default()),
            }),
            empty: Condvar::new(),
        })
    }

    pub(super) fn take(self: &Arc<Places>, address: IpAddr) -> Result<Place, Full> {
        let origin = origin_of(address);
        let mut taken = self.taken.lock();
        let of_origin = taken.by_origin.get(&origin).copied().unwrap_or(0);
        if of_origin >= self.max_per_origin {
            return Err(Full::ForOrigin);
        }
        if taken.total >= self.max {
            return Err(Full::Everywhere);
        }
        taken.total += 1;
        taken.by_origin.insert(origin, of_origin + 1);
        Ok(Place {
            places: Arc::clone(self),
            origin,
            buffered: 0,
        })
    }

    /// Whether no connection was left before `until` came.
    pub(super) fn wait_until_empty(&self, until: Option<Instant>) -> bool {
        let mut taken = self.taken.lock();
        while taken.total > 0 {
            if until.is_some_and(|until| until <= Instant::now()) {
                return false;
            }
            wait_until(&self.empty, &mut taken, until);
        }
        true
    }

    fn leave(&self, origin: IpAddr) {
        let mut taken = self.taken.lock();
        taken.total -= 1;
        if let Some(count) = taken.by_origin.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                taken.by_origin.remove(&origin);
            }
        }
        if taken.total == 0 {
            self.empty.notify_all();
        }
    }
}

/// Whoever has one address of IPv6 has a network of 2^64.
fn origin_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}

/// The place of one connection. Dropping it makes room.
pub(super) struct Place {
    places: Arc<Places>,
    origin: IpAddr,
    buffered: usize,
}

impl Place {
    /// Accounts for a buffer of `bytes` in place of the one before. Tells whether there is room.
    pub(super) fn buffer(&mut self, bytes: usize) -> bool {
        let total = &self.places.buffered;
        if bytes == self.buffered {
            return true; // as on nearly every read: it is not to touch what all share
        }
        if bytes < self.buffered {
            total.fetch_sub(self.buffered - bytes, Ordering::Relaxed);
            self.buffered = bytes;
            return true;
        }
        let more = bytes - self.buffered;
        if total
            .fetch_add(more, Ordering::Relaxed)
            .saturating_add(more)
            > self.places.max_buffered
        {
            total.fetch_sub(more, Ordering::Relaxed);
            return false;
        }
        self.buffered = bytes;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places
            .buffered
            .fetch_sub(self.buffered, Ordering::Relaxed);
        self.places.leave(self.origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Arc<Places> {
        Places::new(&Settings {
            max_connections: 3,
            max_connections_per_address: 2,
            max_buffered: 100,
            ..Settings::default()
        })
    }

    fn take(places: &Arc<Places>, address: &str) -> Result<Place, Full> {
        places.take(address.parse().unwrap())
    }

    #[test]
    fn an_address_does_not_take_all_places() {
        let places = places();
        let first = take(&places, "10.0.0.1").ok();
        let _second = take(&places, "::ffff:10.0.0.1").ok();
        assert_eq!(take(&places, "10.0.0.1").err(), Some(Full::ForOrigin));
        let _third = take(&places, "2001:db8::1").ok();
        assert_eq!(take(&places, "10.0.0.2").err(), Some(Full::Everywhere));
        drop(first);
        assert!(take(&places, "10.0.0.1").is_ok());
    }

    #[test]
    fn one_network_of_ipv6_is_one_address() {
        let places = places();
        let _first = take(&places, "2001:db8::1").ok();
        let _second = take(&places, "2001:db8::2:0:0:2").ok();
        assert_eq!(take(&places, "2001:db8::3").err(), Some(Full::ForOrigin));
        assert!(take(&places, "2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn buffers_of_all_connections_share_one_bound() {
        let places = places();
        let mut first = take(&places, "10.0.0.1").ok().unwrap();
        let mut second = take(&places, "10.0.0.2").ok().unwrap();
        assert!(first.buffer(60));
        assert!(!second.buffer(60));
        assert!(first.buffer(40));
        assert!(second.buffer(60));
        drop(second);
        assert!(first.buffer(100));
    }
}
