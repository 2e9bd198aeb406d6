//! The listening socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::error::Error;

/// How many connections the system may hold that are not accepted yet.
const BACKLOG: i32 = 4_096;

/// How long a client may read nothing of its answer before the worker gives up writing.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection is idle before the system probes it.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Listens on the first of the addresses that can be used.
pub(super) fn bind(addresses: impl ToSocketAddrs) -> Result<TcpListener, Error> {
    let mut failure = failed(
        "the given address",
        io::Error::new(io::ErrorKind::InvalidInput, "it resolves to nothing"),
    );
    let addresses = addresses
        .to_socket_addrs()
        .map_err(|error| failed("the given address", error))?;
    for address in addresses {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = failed(&address.to_string(), error),
        }
    }
    Err(failure)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // On other systems the option means that two sockets may listen at once.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    configure(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Configures a socket that the program has made.
pub(super) fn adopt(listener: &TcpListener) -> Result<(), Error> {
    let prepare = || {
        // Without these two the thread that accepts would end as soon as no client connects.
        listener.set_nonblocking(false)?;
        let socket = SockRef::from(listener);
        socket.set_read_timeout(None)?;
        configure(&socket)
    };
    prepare().map_err(|error| failed(&name_of(listener), error))
}

/// Sets the options that accepted connections inherit, as `tiny_http` sets none: it writes the head and the
/// body of an answer separately, which takes 44 ms unless `TCP_NODELAY` is set, and it waits for ever for a
/// peer that stops reading. Must be done before connections are made.
fn configure(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
    #[cfg(any(target_os = "linux", target_os = "macos", windows))]
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)
}

/// The address that it listens on.
pub(super) fn address_of(listener: &TcpListener) -> Result<SocketAddr, Error> {
    let address = listener.local_addr();
    address.map_err(|error| failed("the given socket", error))
}

/// Refuses connections from now on. Existing ones are still served, and the port is free.
pub(super) fn close(listener: TcpListener) {
    // On other systems the thread that accepts wakes only when `tiny_http`'s server is dropped.
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(&listener).shutdown(std::net::Shutdown::Read);
    drop(listener);
}

pub(super) fn failed(address: &str, error: io::Error) -> Error {
    Error::Bind {
        address: address.into(),
        source: error.into(),
    }
}

fn name_of(listener: &TcpListener) -> String {
    let address = listener.local_addr();
    address.map_or_else(|_| "the given socket".to_owned(), |found| found.to_string())
}

/// The address under which this process reaches what listens on `address`.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        _ => return address,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_address_is_reached_through_loopback() {
        let reached = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:7000"), "127.0.0.1:7000");
        assert_eq!(reached("[::]:7000"), "[::1]:7000");
        assert_eq!(reached("10.0.0.5:7000"), "10.0.0.5:7000");
    }

    #[test]
    fn accepted_connections_inherit_the_options_of_the_listener() {
        let bound = bind("127.0.0.1:0").unwrap();
        let adopted = TcpListener::bind("127.0.0.1:0").unwrap();
        adopt(&adopted).unwrap();
        for listener in [bound, adopted] {
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            assert!(accepted.nodelay().unwrap());
            assert_eq!(accepted.write_timeout().unwrap(), Some(SEND_TIMEOUT));
            drop(client);
        }
    }

    #[test]
    fn an_address_in_use_is_named() {
        let taken = bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listener = bind(taken).unwrap();
        let error = bind(taken).unwrap_err().to_string();
        assert!(error.contains(&taken.to_string()), "{error}");
        drop(listener);
    }
}
