//! The HTTP transport: HTTP/1.1 on blocking sockets, through TLS where the address says so.
//!
//! A call takes an idle connection to the peer, or makes one; writes its request at once; and reads
//! the answer into the connection's own buffer. In the usual case that is one write and one read,
//! and nothing else: no thread, no poll, no timer.
//!
//! A client of our own, because this is the hot path: a general one, `ureq`, took some ten of the
//! twenty-six microseconds of a fetch between two processes.

mod connection;
mod names;
mod socket;

use std::io;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::peer::{Call, CallError, Limits, Link, Peer, Reply, Transport};
use crate::stats::Counter;
use crate::stream::Stream;
use crate::sync::{Arc, Mutex};
use crate::tls::Tls;

use connection::{Connection, Failed};
use names::Names;
use socket::Socket;

/// Connections to one peer that are kept while idle: as many as threads that fetch at once.
const IDLE_CONNECTIONS: usize = 256;

/// Less than the idle timeout of the listener, so that the side that asks closes first.
const MAX_IDLE_AGE: Duration = Duration::from_secs(30);

/// No call takes longer, whatever is set.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

/// What is to be done about a peer that is reached through TLS where there is none.
const NO_TLS: &str = if cfg!(feature = "tls") {
    "https:// takes a certificate: give one to the node with NodeBuilder::tls"
} else {
    "https:// takes the feature `tls` of groupcache-sync, which is off"
};

/// HTTP/1.1, with TLS for peers whose address says so.
pub(crate) struct Http {
    tls: Option<Tls>,
}

impl Http {
    pub(crate) fn new(tls: Option<Tls>) -> Http {
        Http { tls }
    }

    /// What a connection to `peer` takes.
    pub(crate) fn tls_for(&self, peer: &Peer) -> Result<Option<Tls>, Error> {
        if !peer.is_secure() {
            return Ok(None);
        }
        let invalid = |reason| Error::peer(&peer.address(), reason);
        let tls = self.tls.clone().ok_or_else(|| invalid(NO_TLS))?;
        if !Tls::can_prove(peer.bare_host()) {
            return Err(invalid("its host cannot stand in a certificate"));
        }
        Ok(Some(tls))
    }
}

impl Transport for Http {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(HttpLink {
            host: format!("{}:{}", peer.host(), peer.port()),
            name: peer.bare_host().to_owned(),
            tls: self.tls_for(peer)?,
            names: Names::new(peer),
            limits: *limits,
            idle: Mutex::new(Vec::new()),
            retries: Counter::default(),
        }))
    }
}

struct HttpLink {
    /// As the `Host` header has it.
    host: String,
    /// As its certificate has it.
    name: String,
    tls: Option<Tls>,
    names: Arc<Names>,
    limits: Limits,
    /// The longest idle first. The last one is used next, so that those not needed grow old.
    idle: Mutex<Vec<Connection>>,
    retries: Counter,
}

impl Link for HttpLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let begin = Instant::now();
        let until = begin + timeout.min(MAX_TIMEOUT);
        if let Some(connection) = self.take(begin) {
            match self.exchange(connection, call, until) {
                // The peer had closed an idle connection when it was used: it knows nothing of
                // this request. Asking twice is safe for a GET, and for nothing else.
                Err(Failed::Unseen(_)) if call.method == "GET" => self.retries.add(),
                outcome => return outcome.map_err(|failed| self.explain(failed)),
            }
        }
        let connection = self.connect(until)?;
        let outcome = self.exchange(connection, call, until);
        outcome.map_err(|failed| self.explain(failed))
    }

    fn retries(&self) -> u64 {
        self.retries.get()
    }
}

impl HttpLink {
    /// An idle connection, if there is one that is still good.
    fn take(&self, now: Instant) -> Option<Connection> {
        loop {
            let connection = self.idle.lock().pop()?;
            if now.saturating_duration_since(connection.idle_since()) > MAX_IDLE_AGE {
                let older = std::mem::take(&mut *self.idle.lock());
                drop(older); // closes sockets: not under the lock
                return None;
            }
            // One that was closed, and one with an answer that nobody asked for: it would be taken
            // for the answer to this call.
            if connection.is_quiet() {
                return Some(connection);
            }
        }
    }

    fn exchange(
        &self,
        mut connection: Connection,
        call: &Call,
        until: Instant,
    ) -> Result<Reply, Failed> {
        let reply = connection.exchange(call, &self.host, self.limits.max_body, until)?;
        if connection.is_reusable() {
            self.give_back(connection);
        }
        Ok(reply)
    }

    fn give_back(&self, connection: Connection) {
        let now = connection.idle_since();
        let is_old =
            |idle: &Connection| now.saturating_duration_since(idle.idle_since()) > MAX_IDLE_AGE;
        let _spared = {
            let mut idle = self.idle.lock();
            idle.push(connection);
            let is_over = idle.len() > IDLE_CONNECTIONS || idle.first().is_some_and(is_old);
            is_over.then(|| idle.remove(0)) // closed without the lock
        };
    }

    /// A new connection, by the first of the peer's addresses that accepts one.
    fn connect(&self, until: Instant) -> Result<Connection, CallError> {
        let begin = Instant::now();
        let connect_until = until.min(begin + self.limits.connect_timeout.min(MAX_TIMEOUT));
        let left = || connect_until.saturating_duration_since(Instant::now());
        let addresses = self.names.resolve(left()).map_err(io::Error::other);
        let addresses = addresses.map_err(|error| self.unreachable(&error, until))?;
        let mut failure = io::Error::other("the name has no address");
        for (at, address) in addresses.iter().enumerate() {
            // One that does not answer leaves time for the others.
            let share = left() / (addresses.len() - at) as u32;
            if share.is_zero() {
                failure = io::ErrorKind::TimedOut.into();
                break;
            }
            match Socket::connect(*address, share) {
                Ok(socket) => {
                    let stream = self.secure(socket, until);
                    let stream = stream.map_err(|error| self.unreachable(&error, until))?;
                    return Ok(Connection::new(stream));
                }
                Err(error) => failure = error,
            }
        }
        Err(self.unreachable(&failure, until))
    }

    /// Makes sure who is at the other end, if that is to be known.
    fn secure(&self, mut socket: Socket, until: Instant) -> io::Result<Stream<Socket>> {
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(socket));
        };
        // No part of connecting: what takes long here is a busy peer, not one that is away.
        socket.set_deadline(until);
        tls.connect(&self.name, socket)
    }

    /// Says why there is no connection, unless only this caller's time was too short for one.
    fn unreachable(&self, error: &io::Error, until: Instant) -> CallError {
        if Instant::now() >= until {
            return CallError::Timeout;
        }
        self.names.forget();
        CallError::Unreachable(format!("no connection to {}: {error}", self.host))
    }

    fn explain(&self, failed: Failed) -> CallError {
        match failed {
            Failed::Unseen(error) => CallError::Unreachable(format!(
                "{} closed the connection without an answer: {error}",
                self.host
            )),
            Failed::Answered(error) => error,
        }
    }
}
