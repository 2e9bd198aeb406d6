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
    /// How many connections hold the value that is at this address in memory.
    holders: HashMap<usize, usize>,
}

/// Why there is no place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Full {
    Everywhere,
    /// This address, or network, has too many connections already.
    ForOrigin(IpAddr),
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
                holders: HashMap::new(),
            }),
            empty: Condvar::new(),
        })
    }

    pub(super) fn take(self: &Arc<Places>, address: IpAddr) -> Result<Place, Full> {
        let origin = origin_of(address);
        let mut taken = self.taken.lock();
        let of_origin = taken.by_origin.get(&origin).copied().unwrap_or(0);
        if of_origin >= self.max_per_origin {
            return Err(Full::ForOrigin(origin));
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
            value: None,
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

    /// Tells whether there is room for so many bytes more.
    fn add_buffered(&self, bytes: usize) -> bool {
        let before = self.buffered.fetch_add(bytes, Ordering::Relaxed);
        let has_room = before.saturating_add(bytes) <= self.max_buffered;
        if !has_room {
            self.buffered.fetch_sub(bytes, Ordering::Relaxed);
        }
        has_room
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
    /// The address and the length of a value that the client has yet to read.
    value: Option<(usize, usize)>,
}

impl Place {
    pub(super) fn origin(&self) -> IpAddr {
        self.origin
    }

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
        let has_room = self.places.add_buffered(bytes - self.buffered);
        if has_room {
            self.buffered = bytes;
        }
        has_room
    }

    /// Accounts for a value that the client has yet to read. It takes its memory once, however many
    /// are to read it. Tells whether there is room.
    pub(super) fn hold(&mut self, value: &[u8]) -> bool {
        let held = (value.as_ptr() as usize, value.len());
        if value.is_empty() || self.value == Some(held) {
            return true;
        }
        self.let_go();
        let mut taken = self.places.taken.lock();
        let holders = taken.holders.entry(held.0).or_insert(0);
        let has_room = *holders > 0 || self.places.add_buffered(held.1);
        if has_room {
            *holders += 1;
            self.value = Some(held);
        } else {
            taken.holders.remove(&held.0);
        }
        has_room
    }

    /// No longer holds a value.
    pub(super) fn let_go(&mut self) {
        let Some((address, length)) = self.value.take() else {
            return;
        };
        let mut taken = self.places.taken.lock();
        if let Some(holders) = taken.holders.get_mut(&address) {
            *holders -= 1;
            if *holders == 0 {
                taken.holders.remove(&address);
                self.places.buffered.fetch_sub(length, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.let_go();
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
        let full = Full::ForOrigin("10.0.0.1".parse().unwrap());
        assert_eq!(take(&places, "10.0.0.1").err(), Some(full));
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
        let full = Full::ForOrigin("2001:db8::".parse().unwrap());
        assert_eq!(take(&places, "2001:db8::3").err(), Some(full));
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

    #[test]
    fn a_value_counts_once_for_all_who_are_to_read_it() {
        let places = places();
        let mut first = take(&places, "10.0.0.1").ok().unwrap();
        let mut second = take(&places, "10.0.0.2").ok().unwrap();
        let (value, other) = ([0; 60], [0; 60]);
        assert!(first.hold(&value) && first.hold(&value) && second.hold(&value));
        assert!(!second.hold(&other));
        assert!(second.hold(&value));
        first.let_go();
        assert!(!first.hold(&other));
        drop(second);
        assert!(first.hold(&other));
        assert!(first.buffer(40) && !first.buffer(41));
        first.let_go();
        assert!(first.buffer(100));
    }
}
