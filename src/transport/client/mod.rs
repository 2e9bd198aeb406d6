//! The HTTP transport: HTTP/1.1 on blocking sockets, through TLS where the address says so.
//!
//! A call takes an idle connection to the peer, or makes one; writes its request at once; and reads
//! the answer into the connection's own buffer. In the usual case that is one write and one read,
//! and nothing else: no thread, no poll, no timer.
//!
//! A client of our own, because this is the hot path: a general one, `ureq`, took some ten of the
//! twenty-six microseconds of a fetch between two processes.

mod connection;
mod idle;
mod names;
mod socket;

use std::io;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::runtime::clock::Clock;
use crate::runtime::sync::Arc;
use crate::stats::Counter;
use crate::transport::peer::{Call, CallError, Limits, Link, Peer, Reply, Transport};
use crate::transport::stream::Stream;
use crate::transport::tls::Tls;

use connection::{Connection, Failed};
use idle::{Idle, Janitor};
use names::Names;
use socket::{Patience, Socket};

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
    janitor: Arc<Janitor>,
}

impl Http {
    /// `clock` says how long connections have been idle; calls have the time of the system.
    pub(crate) fn new(tls: Option<Tls>, clock: Clock) -> Http {
        Http {
            tls,
            janitor: Janitor::new(clock),
        }
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
            idle: self.janitor.room(),
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
    idle: Arc<Idle>,
    retries: Counter,
}

impl Link for HttpLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let patience = Patience {
            begin: Instant::now(),
            silence: timeout.min(MAX_TIMEOUT),
            whole: call.whole.max(timeout).min(MAX_TIMEOUT),
        };
        if let Some(connection) = self.take() {
            match self.exchange(connection, call, patience) {
                // The peer had closed an idle connection when it was used: it knows nothing of
                // this request. Asking twice is safe for a GET, and for nothing else.
                Err(Failed::Unseen(_)) if call.method == "GET" => self.retries.add(),
                outcome => return outcome.map_err(|failed| self.explain(failed)),
            }
        }
        let connection = self.connect(patience.begin + patience.silence)?;
        let outcome = self.exchange(connection, call, patience);
        outcome.map_err(|failed| self.explain(failed))
    }

    fn retries(&self) -> u64 {
        self.retries.get()
    }
}

impl HttpLink {
    /// An idle connection, if there is one that is still good.
    fn take(&self) -> Option<Connection> {
        loop {
            let connection = self.idle.take()?;
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
        patience: Patience,
    ) -> Result<Reply, Failed> {
        let reply = connection.exchange(call, &self.host, self.limits.max_body, patience)?;
        if connection.is_reusable() {
            self.idle.put(connection);
        }
        Ok(reply)
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
        // No part of connecting: what takes long here is a busy peer, not one that is unreachable.
        socket.set_patience(Patience::until(until));
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
