//! `Resolver`: finds the IP addresses of one peer.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::slot::Slot;
use crate::runtime::sync::{Arc, Mutex, thread};
use crate::transport::peer::Peer;

/// The addresses of one peer: an IP address as it is; a host name is resolved when first needed, and again
/// after a connection failed.
pub(super) struct Resolver {
    host: String,
    port: u16,
    state: Mutex<State>,
}

pub(super) type Resolved = Result<Vec<SocketAddr>, String>;

#[derive(Default)]
struct State {
    known: Option<Vec<SocketAddr>>,
    /// The callers that wait for the resolution under way.
    waiting: Vec<Arc<Slot<Resolved>>>,
}

impl Resolver {
    pub(super) fn new(peer: &Peer) -> Arc<Resolver> {
        Arc::new(Resolver {
            host: peer.bare_host().to_owned(),
            port: peer.port(),
            state: Mutex::new(State::default()),
        })
    }

    /// Forgets the known addresses: a connection to them has failed.
    pub(super) fn forget(&self) {
        self.state.lock().known = None;
    }

    /// The addresses. Blocks no longer than `timeout`: the system's resolver cannot be stopped, so it
    /// runs on a thread of its own, one at a time for each peer.
    pub(super) fn resolve(self: &Arc<Self>, timeout: Duration) -> Resolved {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let slot = Slot::new();
        let is_first = {
            let mut state = self.state.lock();
            if let Some(known) = &state.known {
                return Ok(known.clone());
            }
            state.waiting.push(Arc::clone(&slot));
            state.waiting.len() == 1
        };
        if is_first {
            let resolver = Arc::clone(self);
            let thread = thread::Builder::new().name("groupcache-dns".to_owned());
            if let Err(error) = thread.spawn(move || resolver.call_system()) {
                self.finish(&Err(error.to_string()));
            }
        }
        let clock = Clock::system();
        let deadline = Deadline::after(clock.now(), timeout);
        slot.wait(&clock, deadline)
            .unwrap_or_else(|| Err("the name was not resolved in time".into()))
    }

    fn call_system(&self) {
        let found = (&*self.host, self.port).to_socket_addrs();
        let found = found
            .map(Iterator::collect)
            .map_err(|error| error.to_string());
        self.finish(&found);
    }

    /// Notes the outcome and gives it to all callers that wait.
    fn finish(&self, found: &Resolved) {
        let waiting = {
            let mut state = self.state.lock();
            state.known = found
                .as_ref()
                .ok()
                .filter(|known| !known.is_empty())
                .cloned();
            std::mem::take(&mut state.waiting)
        };
        for slot in waiting {
            // A caller that gave up meanwhile does not need it.
            let _ = slot.fill(found.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_resolved_to_addresses() {
        let resolve = |address: &str| {
            let peer = Peer::new(address).unwrap();
            Resolver::new(&peer).resolve(Duration::from_secs(60))
        };
        let found = resolve("http://[::1]:7000").unwrap();
        assert_eq!(found, ["[::1]:7000".parse().unwrap()]);
        let found = resolve("http://localhost:7000").unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
        assert!(!found.is_empty());
    }
}
