//! `Http`: the transport over HTTP/1.1 on blocking sockets, with TLS for addresses that begin with
//! `https://`.
//!
//! A call takes an idle connection to the peer, or makes one; writes its request at once; and reads
//! the answer into the connection's own buffer. Usually that is one write and one read, and nothing else:
//! no thread, no poll, no timer.
//!
//! The crate has its own client because this is the hot path: a general one, `ureq`, took some ten of the
//! twenty-six microseconds of a fetch between two processes.
//!
//! In this order: `socket` (a TCP stream with timeouts), `connection` (a request and its answer), `idle`
//! (connections that are kept) and `resolver` (the addresses of a peer).

mod connection;
mod idle;
mod resolver;
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
use idle::{Idle, Reaper};
use resolver::Resolver;
use socket::{Patience, Socket};

/// The longest time of a call, whatever its timeout is.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

/// Why an `https://` peer cannot be reached, and what to do.
const NO_TLS: &str = if cfg!(feature = "tls") {
    "https:// needs a certificate: give one to the node with NodeBuilder::tls"
} else {
    "https:// needs the feature `tls` of groupcache-sync: turn it on"
};

/// The HTTP/1.1 transport.
pub(crate) struct Http {
    tls: Option<Tls>,
    reaper: Arc<Reaper>,
}

impl Http {
    /// `clock` measures how long connections are idle; the timeouts of calls use the system's clock.
    pub(crate) fn new(tls: Option<Tls>, clock: Clock) -> Http {
        Http {
            tls,
            reaper: Reaper::new(clock),
        }
    }

    /// The TLS settings for connections to `peer`; `None` for plain ones.
    pub(crate) fn tls_for(&self, peer: &Peer) -> Result<Option<Tls>, Error> {
        if !peer.is_secure() {
            return Ok(None);
        }
        let invalid = |reason| Error::peer(&peer.address(), reason);
        let tls = self.tls.clone().ok_or_else(|| invalid(NO_TLS))?;
        if !Tls::can_prove(peer.bare_host()) {
            return Err(invalid(
                "no certificate can be for its host; use a DNS name or an IP address",
            ));
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
            resolver: Resolver::new(peer),
            limits: *limits,
            idle: self.reaper.add_peer(),
            retries: Counter::default(),
        }))
    }
}

struct HttpLink {
    /// The value of the `Host` header.
    host: String,
    /// The name in the certificate of the peer.
    name: String,
    tls: Option<Tls>,
    resolver: Arc<Resolver>,
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
                // The peer had closed the idle connection when it was used, and has probably not seen
                // the request. To send it twice is safe for a GET only.
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
    /// An idle connection that can still be used, if there is one.
    fn take(&self) -> Option<Connection> {
        loop {
            let connection = self.idle.take()?;
            // Otherwise the peer has closed it, or has sent bytes without a request: they would be taken
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

    /// A new connection, to the first of the peer's addresses that accepts one.
    fn connect(&self, until: Instant) -> Result<Connection, CallError> {
        let begin = Instant::now();
        let connect_until = until.min(begin + self.limits.connect_timeout.min(MAX_TIMEOUT));
        let left = || connect_until.saturating_duration_since(Instant::now());
        let addresses = self.resolver.resolve(left()).map_err(io::Error::other);
        let addresses = addresses.map_err(|error| self.unreachable(&error, until))?;
        let mut failure = io::Error::other("the name has no address");
        for (at, address) in addresses.iter().enumerate() {
            // An address that does not answer leaves time for the others.
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

    /// Authenticates the peer with TLS, if its address requires that.
    fn secure(&self, mut socket: Socket, until: Instant) -> io::Result<Stream<Socket>> {
        let Some(tls) = &self.tls else {
            return Ok(Stream::Plain(socket));
        };
        // Not limited by the connect timeout: a slow handshake means a busy peer, not an unreachable one.
        socket.set_patience(Patience::until(until));
        tls.connect(&self.name, socket)
    }

    /// The error of a failed connection: a timeout if only this caller's time was too short.
    fn unreachable(&self, error: &io::Error, until: Instant) -> CallError {
        if Instant::now() >= until {
            return CallError::Timeout;
        }
        self.resolver.forget();
        CallError::Unreachable(format!("no connection to {}: {error}", self.host))
    }

    fn explain(&self, failed: Failed) -> CallError {
        match failed {
            Failed::Unseen(error) => CallError::Unreachable(format!(
                "{} closed the connection without an answer: {error}",
                self.host
            )),
            Failed::Seen(error) => error,
        }
    }
}
