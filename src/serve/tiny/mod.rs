//! The second engine: a node served by `tiny_http`, for trusted networks, and for programs that run
//! `tiny_http` or `rouille` already.
//!
//! One thread takes the requests in and gives each to one of a few workers. It is alone in that,
//! so that what a connection sends is answered in its order without a worker that waits for
//! another, and so that a request whose value is being loaded is parked here and holds no worker.
//!
//! What `tiny_http` 0.12 gets wrong and can be mended from outside is mended here, and each place
//! says what: connections that are never served, 44 ms for every answer over 1 KiB, the end of the
//! process at the word of a client, a server that accepts no more. What cannot is in the documentation of [`TinyServer`].

mod dispatch;
mod engine;
mod exchange;
mod hall;
mod listen;
mod watch;

use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

pub use self::exchange::answer_tiny_http;
use self::hall::Halls;
use crate::error::Error;
use crate::node::Node;
use crate::runtime::sync::Arc;

const WORKERS: usize = 8;

/// Serves a node with `tiny_http`: choose it only if the program runs `tiny_http` or rouille already,
/// on a trusted network, and [`Server`](crate::Server) otherwise. Nothing starts it unasked. Two
/// published faults of `tiny_http` have no fix, and what they mean stands
/// [below](#only-for-trusted-networks). Dropping it stops it: nothing more is taken in, what still
/// loads is answered "overloaded", and the drop waits up to a second for the threads to end.
/// [`shutdown`](TinyServer::shutdown) ends it without cutting anything off.
///
/// It answers the peer protocol and nothing else: other paths get a 404. It does not speak TLS: a
/// node whose address begins with `https://` needs a proxy before it that does.
///
/// # Only for trusted networks
///
/// `tiny_http` 0.12 is no longer maintained, and two of its faults are published without a fix: it
/// misreads `Transfer-Encoding`, so that the body of one request can pass for the next, and behind a
/// proxy that shares a connection between clients for that of another client (CVE-2026-66752); and it
/// lets line breaks into response headers, so that who chooses a part of one can write the rest of
/// the answer (CVE-2026-66753). This server answers any transfer encoding with a 400 and puts no text
/// of others into headers; handlers of your own must do the same. But whoever can connect can still
///
/// - take as many threads (one for a connection), sockets (two descriptors for a connection) and
///   bytes (headers and waiting requests) as they like: nothing is bounded and nothing times out;
/// - take a thread and two descriptors for good with one request for HTTP/2.0, or with one that
///   announces a body of more than 64 MiB and more than the node takes;
/// - hold a worker by sending a body over 1 KiB slowly or not at all (once all are held, a new
///   server takes over within seconds, up to four times);
/// - have keys loaded for nobody: it does not see that the sender of a batch has left;
/// - end the process with an announced body of many terabytes on a connection kept open after the
///   server stopped.
///
/// If the process runs out of descriptors or threads for a moment, `tiny_http` stops to accept
/// connections for good. A watchdog that asks the server once a second notices that and puts a new
/// one in its place (except on Linux, once the old one has been idle for a minute); connections
/// that were made before stay with the old one, which asks to close them. Still, give it twice as
/// many descriptors as there may be connections. Whatever is
/// put before it must not share a connection between clients.
///
/// ```no_run
/// use groupcache_sync::{Node, TinyServer};
/// use std::time::Duration;
///
/// let node = Node::new("http://10.0.0.5:7000")?;
/// let server = TinyServer::bind(&node, "10.0.0.5:7000")?;
/// // ...
/// server.shutdown(Duration::from_secs(10));
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
pub struct TinyServer {
    halls: Arc<Halls>,
    address: SocketAddr,
}

impl TinyServer {
    /// Serves `node` at `address`, such as `10.0.0.5:7000`; port 0 picks a free one. Of several
    /// addresses, the first that can be used is. Blocks only to resolve a name.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] if the address cannot be listened on, [`Error::Thread`] if a thread cannot
    /// be started.
    pub fn bind(node: &Node, address: impl ToSocketAddrs) -> Result<TinyServer, Error> {
        TinyServer::builder(node).bind(address)
    }

    /// Serves `node` at a socket that listens already, such as one that a service manager opened.
    ///
    /// It is set to block, to send without delay (`TCP_NODELAY`), to give up a peer that takes
    /// nothing for 10 s and to probe idle ones. Connections made before that lack these settings,
    /// and only Linux is known to hand them on to the others: elsewhere, or if peers may connect
    /// that early, set `TCP_NODELAY` before `listen`, or answers over 1 KiB take 44 ms each. Should
    /// `tiny_http` fail, a new socket is opened at its address: nobody else should keep it open.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] if the socket cannot be used, [`Error::Thread`] if a thread cannot be
    /// started.
    pub fn from_listener(node: &Node, listener: TcpListener) -> Result<TinyServer, Error> {
        TinyServer::builder(node).from_listener(listener)
    }

    /// The settings of a server for `node`.
    pub fn builder(node: &Node) -> TinyServerBuilder {
        TinyServerBuilder {
            node: node.clone(),
            workers: WORKERS,
        }
    }

    /// Where it listens, with the port that was picked.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops: takes no more connections, answers what is under way and what comes on kept
    /// connections meanwhile, asking to close them, and ends. Blocks until nothing has been under
    /// way for 50 ms, no longer than `timeout`, and then up to a second for the threads to end.
    /// Returns whether all was answered and every thread has ended; a thread that has not ends
    /// with its request.
    ///
    /// A kept connection that was idle all this time stays open, as `tiny_http` offers no way to
    /// close it: a peer that uses it later waits for its own timeout. So a process should end soon
    /// after, and its peers should drop it from their lists before. Except on Linux, connections
    /// are accepted, though not served, until the last thread has ended.
    pub fn shutdown(self, timeout: Duration) -> bool {
        self.halls.close(timeout)
    }

    fn start(node: &Node, listener: TcpListener, workers: usize) -> Result<TinyServer, Error> {
        let address = listen::address_of(&listener)?;
        if !address.ip().is_loopback() {
            log::warn!(
                target: "groupcache", address:% = address;
                "tiny_http listens beyond this machine: whoever can connect can exhaust this process"
            );
        }
        let (halls, alarms) = Halls::open(node, listener, workers)?;
        let watched = Arc::clone(&halls);
        // Should it fail, the drop of the server stops what has started.
        let server = TinyServer { halls, address };
        let watch = move || watch::watch(&watched, &alarms);
        server.halls.have_watched(watch)?;
        Ok(server)
    }
}

impl Drop for TinyServer {
    fn drop(&mut self) {
        let _ = self.halls.close(Duration::ZERO);
    }
}

impl fmt::Debug for TinyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TinyServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The settings of a [`TinyServer`], all with a default. Made by [`TinyServer::builder`].
#[derive(Clone, Debug)]
#[must_use = "a server is started by `bind` or `from_listener`"]
pub struct TinyServerBuilder {
    node: Node,
    workers: usize,
}

impl TinyServerBuilder {
    /// Sets how many threads answer. None of them is held while a value is loaded, only while a
    /// request is read, looked up and answered. Defaults to 8.
    pub fn workers(mut self, workers: usize) -> TinyServerBuilder {
        self.workers = workers;
        self
    }

    /// Starts the server at `address`: see [`TinyServer::bind`].
    ///
    /// # Errors
    ///
    /// Those of [`TinyServer::bind`], and [`Error::InvalidSetting`] without any worker.
    pub fn bind(self, address: impl ToSocketAddrs) -> Result<TinyServer, Error> {
        self.check()?;
        TinyServer::start(&self.node, listen::bind(address)?, self.workers)
    }

    /// Starts the server at a socket that listens: see [`TinyServer::from_listener`].
    ///
    /// # Errors
    ///
    /// Those of [`TinyServer::from_listener`], and [`Error::InvalidSetting`] without any worker.
    #[allow(clippy::wrong_self_convention)] // It is named like what it is short for.
    pub fn from_listener(self, listener: TcpListener) -> Result<TinyServer, Error> {
        self.check()?;
        listen::adopt(&listener)?;
        TinyServer::start(&self.node, listener, self.workers)
    }

    fn check(&self) -> Result<(), Error> {
        if self.workers == 0 {
            let reason = "without a worker nothing is answered; give it 1 or more";
            return Err(Error::setting("workers", reason));
        }
        Ok(())
    }
}
