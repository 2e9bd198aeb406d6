//! The watchdog: requests an answer of the own server, and has it replaced if there is none.
//!
//! The thread of `tiny_http` that accepts connections ends for ever at the first error, such as a moment
//! without descriptors, and does not always report that. An open port then proves nothing, so the watchdog
//! sends a real request.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::engine::WatchdogEvent;
use super::instances::Instances;
use super::socket::reachable;
use crate::runtime::sync::channel::{Receiver, RecvTimeoutError};

/// How often it sends a request.
const BETWEEN_REQUESTS: Duration = Duration::from_secs(1);

/// How long it waits for a connection, and for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// After so many failures in a row the server is replaced. One answer may be late.
const MAX_FAILURES: usize = 2;

const _: () = assert!(MAX_FAILURES > 1, "one answer may be late");

const REQUEST: &[u8] =
    b"GET /_groupcache/ HTTP/1.1\r\nHost: groupcache\r\nConnection: close\r\n\r\n";

/// Watches until [`WatchdogEvent::Stop`].
pub(super) fn run(instances: &Instances, events: &Receiver<WatchdogEvent>) {
    let target = reachable(instances.address());
    let mut failures = 0;
    loop {
        match events.recv_timeout(BETWEEN_REQUESTS) {
            Ok(WatchdogEvent::NotAccepting) => failures = MAX_FAILURES,
            Ok(WatchdogEvent::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => match request(target) {
                Ok(()) => failures = 0,
                Err(error) => {
                    log::debug!(target: "groupcache", error:% = error; "tiny_http does not answer");
                    failures += 1;
                }
            },
        }
        if failures >= MAX_FAILURES {
            if failures == MAX_FAILURES {
                log::error!(
                    target: "groupcache", address:% = target;
                    "tiny_http accepts or answers no more: it is replaced"
                );
            }
            // A replacement that fails is logged once, and tried again until it succeeds, or the server
            // answers.
            failures = if instances.replace() {
                0
            } else {
                MAX_FAILURES + 1
            };
        }
    }
}

/// Succeeds with any answer.
fn request(target: SocketAddr) -> io::Result<()> {
    let domain = Domain::for_address(target);
    let Ok(socket) = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)) else {
        return Ok(()); // this thread has no descriptor, which says nothing of the server
    };
    socket.connect_timeout(&target.into(), TIMEOUT)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(REQUEST)?;
    stream.read_exact(&mut [0; "HTTP/1.1 ".len()])
}
