//! `Flow`: on whose behalf a load runs. Different flows take turns in the queue of the pool.

use std::net::{IpAddr, Ipv6Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flow {
    /// A load that is under way: it waits for the loads that it has begun.
    Load,
    /// The application of this process.
    Application,
    /// The requesters of this network; `None` where the network is not known.
    Network(Option<IpAddr>),
    /// All requesters that have not authenticated, at a node where requesters can.
    Strangers,
}

/// The network that an address stands for: a host with one IPv6 address usually has 2^64 of them.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}
