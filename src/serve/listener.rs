//! `Listener`: the thread that accepts connections and watches those that are parked.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll};

use super::connection::Connection;
use super::connection_limit::{Full, Permit};
use super::eviction::{Candidates, Rank};
use super::parked::{LISTENER, Phase, Removed};
use super::shared::Shared;
use super::task_queue::Task;
use super::traffic::Traffic;
use crate::protocol::account::Requester;
use crate::runtime::sync::{Arc, thread};
use crate::transport::stream::Stream;

/// How many connections are accepted before parked ones are looked after.
const MAX_ACCEPTED_AT_ONCE: usize = 256;

/// How long the listener accepts nothing when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long one poll waits at most: systems count it in milliseconds, some in 31 bits.
const MAX_POLL: Duration = Duration::from_secs(3_600);

const _: () = assert!(MAX_POLL.as_millis() < 1 << 31);

/// How many events one poll returns at most.
const MAX_EVENTS: usize = 1_024;

pub(crate) struct Listener {
    poll: Poll,
    events: Events,
    /// `None` once it accepts no more: then the port is free.
    socket: Option<mio::net::TcpListener>,
    /// When to accept next. `None`: not before the socket has an event.
    accepts_at: Option<Instant>,
    /// Whether the system had no room for the last connection, which is logged once.
    has_shortage: bool,
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
            events: Events::with_capacity(MAX_EVENTS),
            socket: Some(socket),
            accepts_at: None,
            has_shortage: false,
            shared,
        })
    }

    pub(crate) fn run(mut self) {
        // Checked before each wait, as a poll in between may have taken the event that was to end it.
        while self.shared.parked.phase() != Phase::Closed {
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

    /// Waits for an event, or for the next deadline.
    fn wait(&mut self) {
        let due = [self.shared.parked.next_due(), self.accepts_at];
        let now = Instant::now();
        let due = due.into_iter().flatten().min();
        let timeout = due.map(|due| due.saturating_duration_since(now));
        self.poll_for(timeout.map(|timeout| timeout.min(MAX_POLL)));
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
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }

    fn accept_if_due(&mut self) {
        let now = Instant::now();
        if self.accepts_at.is_some_and(|at| at <= now) {
            self.accepts_at = self.accept().map(|pause| now + pause);
        }
    }

    /// Accepts the connections that have come. Returns how long to pause if there may be more.
    fn accept(&mut self) -> Option<Duration> {
        let mut has_failed = false;
        for _ in 0..MAX_ACCEPTED_AT_ONCE {
            match self.socket.as_ref()?.accept() {
                Ok((stream, client)) => {
                    (self.has_shortage, has_failed) = (false, false);
                    self.add(stream, client);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if is_shortage(&error) => {
                    self.report_shortage(&error);
                    // An idle connection is closed, which frees its descriptor.
                    let parked = &self.shared.parked;
                    drop(parked.evict(Candidates::Unanswered, Rank::BusyPeer));
                    return Some(ACCEPT_PAUSE);
                }
                // The error concerns this connection alone: systems report errors of its network, of a
                // firewall, or that it is closed.
                Err(error) => {
                    log::debug!(target: "groupcache", error:% = error; "a connection has failed");
                    has_failed = true;
                }
            }
        }
        // The pause saves the processor, should the last error concern all connections after all.
        Some(if has_failed {
            ACCEPT_PAUSE
        } else {
            Duration::ZERO
        })
    }

    fn add(&self, stream: mio::net::TcpStream, client: SocketAddr) {
        let Some(permit) = self.acquire_permit(client) else {
            log::debug!(target: "groupcache", peer:% = client; "too many connections: one is refused");
            return;
        };
        // Otherwise a small answer would wait until the client has acknowledged the one before.
        if stream.set_nodelay(true).is_err() {
            return;
        }
        let stream = match &self.shared.tls {
            None => Ok(Stream::Plain(stream)),
            Some(tls) => tls.accept(stream),
        };
        match stream {
            Ok(stream) => {
                let requester = Requester::new(&self.shared.account, Some(client.ip()));
                let connection = Box::new(Connection::new(stream, client, permit, requester));
                let wait = connection.awaited();
                self.shared.park(connection, wait);
            }
            Err(error) => log::error!(target: "groupcache", error:% = error; "no TLS for a client"),
        }
    }

    /// Acquires a permit, for which a parked connection is closed where there are too many.
    fn acquire_permit(&self, client: SocketAddr) -> Option<Permit> {
        let Shared {
            connection_limit,
            parked,
            ..
        } = &*self.shared;
        let full = match connection_limit.acquire(client.ip()) {
            Ok(permit) => return Some(permit),
            Err(full) => full,
        };
        let max = |may_evict_peer| match may_evict_peer {
            true => Rank::BusyPeer,
            false => Rank::HeadAuthenticated,
        };
        let evicted = match full {
            Full::Total { may_evict_peer } => parked
                .evict(Candidates::Unanswered, Rank::HeadAuthenticated)
                .or_else(|| self.evict_reader(Rank::HeadAuthenticated))
                .or_else(|| parked.evict(Candidates::Unanswered, max(may_evict_peer)))
                .or_else(|| self.evict_reader(max(may_evict_peer))),
            // Only a connection of the same network: no address costs another one its connections.
            Full::Network {
                network,
                may_evict_peer,
            } => parked.evict(Candidates::UnansweredFrom(network), max(may_evict_peer)),
        };
        drop(evicted);
        connection_limit.acquire(client.ip()).ok()
    }

    /// Evicts a connection whose client does not read its answer, where peers can authenticate themselves.
    fn evict_reader(&self, max: Rank) -> Option<Removed> {
        let tells_apart = self.shared.account.tells_apart();
        tells_apart
            .then(|| self.shared.parked.evict(Candidates::Reading, max))
            .flatten()
    }

    /// Logs once per shortage, which may last.
    fn report_shortage(&mut self, error: &io::Error) {
        if !self.has_shortage {
            log::warn!(target: "groupcache", error:% = error; "cannot accept a connection");
        }
        self.has_shortage = true;
    }

    /// Accepts for the last time, and closes the connections that have no request.
    fn drain(&mut self) {
        let _ = self.accept();
        self.socket = None;
        self.accepts_at = None;
        self.dispatch();
        // Requests that have come until now are answered.
        self.poll_for(Some(Duration::ZERO));
        self.dispatch();
        drop(self.shared.parked.drain());
    }

    /// Queues the connections that have an event for a worker.
    fn dispatch(&mut self) {
        let (ready, left) = self.shared.parked.take_ready(&self.events);
        self.events.clear();
        let ready = ready.into_iter().map(Task::Serve);
        // The sockets of clients that have left are closed here, which is quick. A worker cancels their
        // requests: that takes as long as they had keys, each of which has a flight to leave.
        let canceled = left.into_iter().filter_map(|(_, pending)| pending);
        self.push(ready.chain(canceled.map(Task::Cancel)).collect());
    }

    /// Closes the connections that are past their deadline, or has a worker answer them.
    fn expire(&mut self) {
        let expired = self.shared.parked.take_expired(Instant::now());
        drop(expired.connections);
        let loads = expired.loads.into_iter();
        let timed_out = loads.map(|(key, pending)| Task::TimeOut(key, pending));
        self.push(timed_out.collect());
    }

    fn push(&self, tasks: Vec<Task>) {
        if !tasks.is_empty() {
            self.shared.push(Traffic::Peers, tasks);
        }
    }
}

/// Whether the system has no descriptor, buffer or memory for another connection. All other errors of
/// accepting are of one connection: `accept(2)` lists them.
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
    fn an_error_of_one_connection_is_no_shortage() {
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
