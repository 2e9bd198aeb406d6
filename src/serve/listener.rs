//! The listener thread: accepts connections, and watches those in the lobby.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll};

use crate::protocol::account::Requester;
use crate::runtime::sync::{Arc, thread};
use crate::serve::connection::Connection;
use crate::serve::lane::{Task, Which};
use crate::serve::lobby::{Among, LISTENER, Left, Phase, Rank};
use crate::serve::places::{Full, Place};
use crate::serve::shared::Shared;
use crate::transport::stream::Stream;

/// How many connections are accepted before others are looked after.
const ACCEPTED_AT_ONCE: usize = 256;

/// How long accepting rests when the system has no room for another connection.
const REST: Duration = Duration::from_millis(50);

/// How long one poll waits at most: systems count it in milliseconds, some in 31 bits.
const LONGEST_POLL: Duration = Duration::from_secs(3_600);

pub(crate) struct Listener {
    poll: Poll,
    events: Events,
    /// `None` once it accepts no more: the port is free.
    socket: Option<mio::net::TcpListener>,
    /// There may be more to accept, but not before this.
    accepts_at: Option<Instant>,
    is_short: bool,
    shared: Arc<Shared>,
}

impl Listener {
    pub(crate) fn new(
        poll: Poll,
        socket: TcpListener,
        shared: Arc<Shared>,
    ) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        let mut socket = mio::net::TcpListener::from_std(socket);
        poll.registry()
            .register(&mut socket, LISTENER, Interest::READABLE)?;
        Ok(Listener {
            poll,
            events: Events::with_capacity(1_024),
            socket: Some(socket),
            accepts_at: None,
            is_short: false,
            shared,
        })
    }

    pub(crate) fn run(mut self) {
        // Asked before each wait, as a poll in between may have taken what was to end it.
        while self.shared.lobby.phase() != Phase::Closed {
            self.wait();
            if self.shared.is_draining() && self.socket.is_some() {
                self.drain();
            } else {
                self.accept_if_due();
            }
            self.dispatch();
            self.expire();
        }
    }

    /// Waits for something to happen.
    fn wait(&mut self) {
        let due = [self.shared.lobby.next_due(), self.accepts_at];
        let now = Instant::now();
        let due = due.into_iter().flatten().min();
        let rest = due.map(|due| due.saturating_duration_since(now));
        self.poll_for(rest.map(|rest| rest.min(LONGEST_POLL)));
        if self.events.iter().any(|event| event.token() == LISTENER) {
            self.accepts_at = self.accepts_at.or(Some(now));
        }
    }

    fn poll_for(&mut self, timeout: Option<Duration>) {
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => self.events.clear(),
            Err(error) => {
                log::error!(target: "groupcache", error:% = error; "cannot watch connections");
                self.events.clear();
                thread::sleep(REST);
            }
        }
    }

    fn accept_if_due(&mut self) {
        let now = Instant::now();
        if self.accepts_at.is_some_and(|at| at <= now) {
            self.accepts_at = self.accept().map(|rest| now + rest);
        }
    }

    /// Accepts what is there. Tells how long to rest if there may be more.
    fn accept(&mut self) -> Option<Duration> {
        let mut has_failed = false;
        for _ in 0..ACCEPTED_AT_ONCE {
            match self.socket.as_ref()?.accept() {
                Ok((stream, peer)) => {
                    (self.is_short, has_failed) = (false, false);
                    self.welcome(stream, peer);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if is_shortage(&error) => {
                    self.report(&error);
                    // Where descriptors are short, one that does nothing can be spared.
                    drop(self.shared.lobby.evict(Among::Unanswered, Rank::BusyKnown));
                    return Some(REST);
                }
                // It concerns the connection that was to be accepted, and nobody else: systems tell of
                // its network, of a firewall, or that it is gone.
                Err(error) => {
                    log::debug!(target: "groupcache", error:% = error; "a connection has failed");
                    has_failed = true;
                }
            }
        }
        // Should it concern accepting after all, it does not take a processor.
        Some(if has_failed { REST } else { Duration::ZERO })
    }

    fn welcome(&self, stream: mio::net::TcpStream, peer: SocketAddr) {
        let Some(place) = self.find_place(peer) else {
            log::debug!(target: "groupcache", peer:% = peer; "too many connections: one refused");
            return;
        };
        // Without it small answers would wait for acknowledgements of those before.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let stream = match &self.shared.tls {
            None => Ok(Stream::Plain(stream)),
            Some(tls) => tls.accept(stream),
        };
        match stream {
            Ok(stream) => {
                let requester = Requester::new(&self.shared.account, Some(peer.ip()));
                let connection = Box::new(Connection::new(stream, peer, place, requester));
                let wait = connection.awaited();
                self.shared.wait(connection, wait);
            }
            Err(error) => log::error!(target: "groupcache", error:% = error; "no TLS for a client"),
        }
    }

    fn find_place(&self, peer: SocketAddr) -> Option<Place> {
        let Shared { places, lobby, .. } = &*self.shared;
        let full = match places.take(peer.ip()) {
            Ok(place) => return Some(place),
            Err(full) => full,
        };
        let most = |may_be_known| match may_be_known {
            true => Rank::BusyKnown,
            false => Rank::Announced,
        };
        let left = match full {
            Full::Everywhere(may_be_known) => lobby
                .evict(Among::Unanswered, Rank::Announced)
                .or_else(|| self.evict_reader(Rank::Announced))
                .or_else(|| lobby.evict(Among::Unanswered, most(may_be_known)))
                .or_else(|| self.evict_reader(most(may_be_known))),
            // Nobody loses a connection by what another address does.
            Full::ForNetwork(network, may_be_known) => {
                lobby.evict(Among::UnansweredFrom(network), most(may_be_known))
            }
        };
        drop(left);
        places.take(peer.ip()).ok()
    }

    /// One who does not read what it is told makes room too, where peers can prove who they are.
    fn evict_reader(&self, most: Rank) -> Option<Left> {
        let tells_apart = self.shared.account.tells_apart();
        tells_apart
            .then(|| self.shared.lobby.evict(Among::Readers, most))
            .flatten()
    }

    /// Once per shortage, which may last.
    fn report(&mut self, error: &io::Error) {
        if !self.is_short {
            log::warn!(target: "groupcache", error:% = error; "cannot accept a connection");
        }
        self.is_short = true;
    }

    /// Accepts for the last time, and sends those away who have not asked anything.
    fn drain(&mut self) {
        let _ = self.accept();
        self.socket = None;
        self.accepts_at = None;
        self.dispatch();
        // What was asked until now is answered.
        self.poll_for(Some(Duration::ZERO));
        self.dispatch();
        drop(self.shared.lobby.drain());
    }

    fn dispatch(&mut self) {
        let (ready, gone) = self.shared.lobby.take_ready(&self.events);
        self.events.clear();
        let ready = ready.into_iter().map(Task::Serve);
        // Their sockets are closed here, which is quick. What they have asked for is taken back by a
        // worker: as many flights are to be left as there were keys.
        let forgotten = gone.into_iter().filter_map(|(_, pending)| pending);
        let tasks: Vec<Task> = ready.chain(forgotten.map(Task::Forget)).collect();
        if !tasks.is_empty() {
            self.shared.push(Which::Peers, tasks);
        }
    }

    fn expire(&mut self) {
        let expired = self.shared.lobby.take_expired(Instant::now());
        drop(expired.gone);
        let pending = expired.pending.into_iter();
        let tasks: Vec<Task> = pending
            .map(|(key, pending)| Task::GiveUp(key, pending))
            .collect();
        if !tasks.is_empty() {
            self.shared.push(Which::Peers, tasks);
        }
    }
}

/// Whether the system has no descriptor, buffer or memory for another connection. All else that
/// accepting may fail of is of one connection: `accept(2)` lists them.
fn is_shortage(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    error.kind() == ErrorKind::OutOfMemory || code.is_some_and(|code| SHORTAGES.contains(&code))
}

/// `ENFILE`, `EMFILE` and `ENOBUFS`.
#[cfg(any(target_os = "linux", target_os = "android"))]
const SHORTAGES: [i32; 3] = [23, 24, 105];
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
const SHORTAGES: [i32; 3] = [23, 24, 55];
/// `WSAEMFILE`, `WSAENOBUFS`, and where descriptors are those of files.
#[cfg(not(unix))]
const SHORTAGES: [i32; 3] = [10_024, 10_055, 4];

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_one_connection_is_no_shortage() {
        // EPERM, ECONNABORTED, EPROTO, EOPNOTSUPP, ENETDOWN, ENETUNREACH, ETIMEDOUT, EHOSTDOWN,
        // EHOSTUNREACH, ENOPROTOOPT, ENONET, ECONNRESET, EINTR
        for code in [1, 103, 71, 95, 100, 101, 110, 112, 113, 92, 64, 104, 4] {
            let error = io::Error::from_raw_os_error(code);
            assert!(!is_shortage(&error), "{error}");
        }
        // ENOMEM, ENFILE, EMFILE, ENOBUFS
        for code in [12, 23, 24, 105] {
            let error = io::Error::from_raw_os_error(code);
            assert!(is_shortage(&error), "{error}");
        }
    }
}
