//! The prober: opens connections of its own, so that `tiny_http` serves those that it has stalled.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::socket::reachable;
use crate::runtime::sync::channel::{Receiver, RecvTimeoutError};
use crate::runtime::sync::thread;

/// How many probes follow a new connection.
const PROBES: usize = 4;

const BETWEEN_PROBES: Duration = Duration::from_micros(500);

/// How many new connections one round of probes is for. The next round is for the others.
pub(super) const MAX_NEW_CONNECTIONS: usize = 4;

/// How often probes are made without a new connection.
const TICK: Duration = Duration::from_millis(250);

/// The number of threads that `tiny_http` keeps waiting for connections, at least.
const KEPT_THREADS: usize = 4;

/// By then the first threads of `tiny_http` wait for connections.
const START: Duration = Duration::from_millis(5);

/// A probe takes as long only if no thread accepts.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);

const _: () = assert!(MAX_NEW_CONNECTIONS > 0);

/// Has stalled connections served until `new_connections` is disconnected.
///
/// When more connections come at once than `tiny_http` has idle threads, it queues some of them for a thread
/// that is already taken. They are served when another connection ends, and with connections that are kept
/// open that may be never. So for each new connection that the dispatcher sees, this thread opens some
/// connections and closes them at once: each of them ends, and its thread takes a stalled one from the
/// queue. The first request of a connection that stalled makes that a new connection again. The tick finds
/// stalled connections without others beside them.
///
/// Threads that are never idle do not stall connections: those that `tiny_http` keeps in any case are given
/// a connection of this process that stays open, so that after some time without connections none is idle.
pub(super) fn run(
    address: SocketAddr,
    new_connections: &Receiver<()>,
    is_accepting: impl Fn() -> bool,
) {
    let target = reachable(address);
    let mut held = Vec::with_capacity(KEPT_THREADS);
    let mut wait = START;
    loop {
        let probes = match new_connections.recv_timeout(std::mem::replace(&mut wait, TICK)) {
            Ok(()) => {
                let further = new_connections.try_iter().take(MAX_NEW_CONNECTIONS - 1);
                PROBES * (1 + further.count())
            }
            Err(RecvTimeoutError::Timeout) => PROBES,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        for _ in 0..probes {
            if !is_accepting() {
                held.clear();
                break;
            }
            match probe(target) {
                Ok(socket) if held.len() < KEPT_THREADS => held.push(socket),
                Ok(socket) => drop(socket),
                Err(error) => {
                    log::debug!(
                        target: "groupcache", error:% = error; "cannot reach the own server"
                    );
                    break;
                }
            }
            thread::sleep(BETWEEN_PROBES);
        }
    }
}

fn probe(target: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // Otherwise there would be thousands of closed connections that still wait (TIME_WAIT). On other
    // systems a connection that is reset this early can end the thread that accepts.
    #[cfg(target_os = "linux")]
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&target.into(), PROBE_TIMEOUT)?;
    Ok(socket)
}
