//! The listener thread: accepts connections, and watches those in the lobby.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll};

use super::connection::Connection;
use super::lane::Which;
use super::lobby::{LISTENER, Phase};
use super::places::{Full, Place};
use super::shared::Shared;
use crate::stream::Stream;
use crate::sync::{Arc, thread};

/// How many connections are accepted before others are looked after.
const ACCEPTED_AT_ONCE: usize = 256;

/// How long accepting rests when the system has no room for another connection.
const REST: Duration = Duration::from_millis(50);

/// How long one poll waits at most: systems count it in milliseconds, some in 31 bits.
const LONGEST_POLL: Duration = Duration::from_secs(3_600);

pub(super) struct Listener {
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
    pub(super) fn new(
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

    pub(super) fn run(mut self) {
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
        for _ in 0..ACCEPTED_AT_ONCE {
            match self.socket.as_ref()?.accept() {
                Ok((stream, peer)) => {
                    self.is_short = false;
                    self.welcome(stream, peer);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    self.report(&error);
                    // Where descriptors are short, one that does nothing can be spared.
                    drop(self.shared.lobby.evict());
                    return Some(REST);
                }
            }
        }
        Some(Duration::ZERO)
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
                let connection = Box::new(Connection::new(stream, peer, place));
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
        drop(match full {
            Full::Everywhere => lobby.evict(),
            // Nobody loses a connection by what another address does.
            Full::ForOrigin(origin) => lobby.evict_of(origin),
        });
        places.take(peer.ip()).ok()
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
        drop(gone);
        if !ready.is_empty() {
            self.shared.push(Which::Peers, ready);
        }
    }

    fn expire(&mut self) {
        let expired = self.shared.lobby.take_expired(Instant::now());
        drop(expired.gone);
        for (key, pending) in expired.pending {
            if let Some(response) = pending.give_up() {
                self.shared.resume(key, response);
            }
        }
    }
}

/// Whether only the connection to be accepted has failed, and not accepting.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted | ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
    )
}
