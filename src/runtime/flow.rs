//! `Flow`: on whose behalf something is done. Those who are told apart take turns.

use std::net::{IpAddr, Ipv6Addr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Flow {
    /// A load that is under way, and waits for what it has begun.
    Load,
    /// The application of this process.
    Application,
    /// Whoever asks from this network; `None` where that is not known.
    Network(Option<IpAddr>),
    /// All who have not proved who they are, where others have.
    Strangers,
}

/// The network that an address stands for: whoever has one address of IPv6 has 2^64 of them.
pub(crate) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
    }
}
