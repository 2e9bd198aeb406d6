//! The watchdog: asks the own server, and has a new one built where nobody answers.
//!
//! The thread of `tiny_http` that accepts connections ends for ever at the first error, such as a
//! moment without descriptors, and not always with a word. A port that is open proves nothing then,
//! so the watchdog sends a real request.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::hall::Halls;
use super::listen::reachable;
use crate::runtime::sync::channel::{Receiver, RecvTimeoutError};

/// What the watchdog is told.
pub(super) enum Alarm {
    /// The server has said that it accepts no more.
    Broken,
    /// There is nothing to watch any more.
    End,
}

/// How often it asks.
const BETWEEN: Duration = Duration::from_secs(1);

/// How long it waits for a connection, and for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// One answer may be late.
const FAILURES: usize = 2;

const REQUEST: &[u8] =
    b"GET /_groupcache/ HTTP/1.1\r\nHost: groupcache\r\nConnection: close\r\n\r\n";

/// Watches until told to end.
pub(super) fn watch(halls: &Halls, alarms: &Receiver<Alarm>) {
    let target = reachable(halls.address());
    let mut failures = 0;
    loop {
        match alarms.recv_timeout(BETWEEN) {
            Ok(Alarm::Broken) => failures = FAILURES,
            Ok(Alarm::End) | Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => match ask(target) {
                Ok(()) => failures = 0,
                Err(error) => {
                    log::debug!(target: "groupcache", error:% = error; "tiny_http does not answer");
                    failures += 1;
                }
            },
        }
        if failures >= FAILURES {
            if failures == FAILURES {
                log::error!(
                    target: "groupcache", address:% = target;
                    "tiny_http accepts or answers no more: a new server takes its place"
                );
            }
            // If it cannot be done yet, it is said once, and tried until it can or need not be.
            failures = if halls.renew() { 0 } else { FAILURES + 1 };
        }
    }
}

/// Any answer will do.
fn ask(target: SocketAddr) -> io::Result<()> {
    let domain = Domain::for_address(target);
    let Ok(socket) = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)) else {
        return Ok(()); // it is this end that has no descriptor
    };
    socket.connect_timeout(&target.into(), TIMEOUT)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(REQUEST)?;
    stream.read_exact(&mut [0; "HTTP/1.1 ".len()])
}
