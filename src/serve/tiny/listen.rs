//! The listening socket, and the rescue of connections that `tiny_http` leaves unserved.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::error::Error;
use crate::runtime::sync::channel::{Receiver, RecvTimeoutError};
use crate::runtime::sync::thread;

const BACKLOG: i32 = 4_096;

/// How long a peer may take nothing of its answer before the worker that writes gives up.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);

const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Visits for a new connection that was seen, and the time between two of them.
const VISITS: usize = 4;

const BETWEEN_VISITS: Duration = Duration::from_micros(500);

/// New connections that one round of visits is for. More are seen in the next.
pub(super) const MAX_KICKS: usize = 4;

/// How often somebody looks in without being asked.
const TICK: Duration = Duration::from_millis(250);

/// The threads that `tiny_http` keeps in wait for connections, at least.
const KEPT_THREADS: usize = 4;

/// By then the first threads of `tiny_http` wait for connections.
const START: Duration = Duration::from_millis(5);

/// Longer only if nobody accepts.
const VISIT_TIMEOUT: Duration = Duration::from_millis(250);

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
    // Elsewhere it means that two may listen at once.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    dress(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Makes a listener of others fit for use.
pub(super) fn adopt(listener: &TcpListener) -> Result<(), Error> {
    let fit = || {
        // Either would end the thread that accepts, at the first time nobody connects.
        listener.set_nonblocking(false)?;
        let socket = SockRef::from(listener);
        socket.set_read_timeout(None)?;
        dress(&socket)
    };
    fit().map_err(|error| failed(&name_of(listener), error))
}

/// Sets what accepted connections inherit, as `tiny_http` sets nothing: it writes head and body of
/// an answer apart, which costs 44 ms with a delay, and it waits for ever for a peer that reads no
/// more. Must be done before connections are made.
fn dress(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER);
    #[cfg(any(target_os = "linux", target_os = "macos", windows))]
    let keepalive = keepalive.with_interval(KEEPALIVE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive)
}

/// Where it listens.
pub(super) fn address_of(listener: &TcpListener) -> Result<SocketAddr, Error> {
    let address = listener.local_addr();
    address.map_err(|error| failed("the given socket", error))
}

/// Refuses connections from now on. Those made are still served, and the port is free.
pub(super) fn close(listener: TcpListener) {
    // Elsewhere the thread that accepts is only woken when `tiny_http`'s server goes.
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

/// Saves connections that `tiny_http` accepted and then forgot, until `kicks` is disconnected.
///
/// When more connections come at once than it has idle threads, it queues some of them for a thread
/// that is already taken; they are served when another connection ends, and with kept connections
/// that may be never. So each time a new connection is seen (a kick), some of our own are opened
/// and closed at once: each of them ends, and its thread takes a forgotten one from the queue. The
/// first request of a connection saved is a kick again. The tick finds those that were alone.
///
/// Threads that never idle do not go wrong: those that it keeps in any case are given a connection
/// of ours to hold, so that after some quiet there is none.
pub(super) fn rescue(address: SocketAddr, kicks: &Receiver<()>, is_accepting: impl Fn() -> bool) {
    let target = reachable(address);
    let mut held = Vec::with_capacity(KEPT_THREADS);
    let mut wait = START;
    loop {
        let visits = match kicks.recv_timeout(std::mem::replace(&mut wait, TICK)) {
            Ok(()) => VISITS * (1 + kicks.try_iter().take(MAX_KICKS - 1).count()),
            Err(RecvTimeoutError::Timeout) => VISITS,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        for _ in 0..visits {
            if !is_accepting() {
                held.clear();
                break;
            }
            match visit(target) {
                Ok(visit) if held.len() < KEPT_THREADS => held.push(visit),
                Ok(visit) => drop(visit),
                Err(error) => {
                    log::debug!(
                        target: "groupcache", error:% = error; "cannot reach the own server"
                    );
                    break;
                }
            }
            thread::sleep(BETWEEN_VISITS);
        }
    }
}

fn visit(target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Or there would be thousands of closed connections that still wait (TIME_WAIT). Elsewhere
    // a connection that is reset this early can end the thread that accepts.
    #[cfg(target_os = "linux")]
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&target.into(), VISIT_TIMEOUT)?;
    Ok(socket)
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
    fn a_wildcard_is_reached_by_way_of_loopback() {
        let reached = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:7000"), "127.0.0.1:7000");
        assert_eq!(reached("[::]:7000"), "[::1]:7000");
        assert_eq!(reached("10.0.0.5:7000"), "10.0.0.5:7000");
    }

    #[test]
    fn accepted_connections_inherit_what_the_listener_has() {
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
