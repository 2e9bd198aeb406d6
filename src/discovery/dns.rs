//! `Dns`: the addresses behind a name, as of a Kubernetes headless service.

use std::net::{IpAddr, ToSocketAddrs};

use super::Discovery;
use crate::transport::peer::Peer;

/// The peers at all addresses of a name, A and AAAA, at one port.
///
/// Asks the resolver of the system, so `/etc/hosts`, search domains and everything else count that
/// the host has set up, and its timeouts. The id of a peer is its address, which changes with the
/// pod: where pods have names that last (a stateful set), list the names instead, as
/// `http://cache-0.cache:7000`, or write a [`PeerFile`](crate::PeerFile) with ids.
#[derive(Clone, Debug)]
pub struct Dns {
    name: String,
    port: u16,
    scheme: &'static str,
}

impl Dns {
    /// The peers at the addresses of `name`, all at `port`, without TLS.
    #[must_use]
    pub fn new(name: &str, port: u16) -> Dns {
        Dns {
            name: name.to_owned(),
            port,
            scheme: "http",
        }
    }

    /// Reaches them through TLS: `https://`. Their certificates must name their IP addresses.
    #[must_use]
    pub fn secure(mut self) -> Dns {
        self.scheme = "https";
        self
    }

    fn peer(&self, ip: IpAddr) -> Result<Peer, crate::Error> {
        let host = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Peer::new(&format!("{}://{host}:{}", self.scheme, self.port))
    }
}

impl Discovery for Dns {
    fn peers(&mut self) -> Result<Vec<Peer>, Box<dyn std::error::Error + Send + Sync>> {
        let found = (self.name.as_str(), self.port).to_socket_addrs();
        let found = found.map_err(|error| format!("cannot resolve {}: {error}", self.name))?;
        let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        let peers = addresses.into_iter().map(|ip| self.peer(ip));
        Ok(peers.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_become_peers() {
        let plain = Dns::new("cache", 7000);
        let peer = |dns: &Dns, ip: &str| dns.peer(ip.parse().unwrap()).unwrap().address();
        assert_eq!(peer(&plain, "10.0.0.5"), "http://10.0.0.5:7000");
        assert_eq!(peer(&plain.secure(), "fd00::5"), "https://[fd00::5]:7000");
    }

    #[test]
    fn a_literal_address_resolves_to_itself_once() {
        let peers = Dns::new("127.0.0.1", 7000).peers().unwrap();
        let addresses: Vec<_> = peers.iter().map(Peer::address).collect();
        assert_eq!(addresses, ["http://127.0.0.1:7000"]);
        let error = Dns::new("no such name", 1).peers().unwrap_err().to_string();
        assert!(
            error.starts_with("cannot resolve no such name: "),
            "{error}"
        );
    }
}
