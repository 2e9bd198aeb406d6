//! The built-in server: it serves a node, and an application beside it, on one port.
//!
//! Few threads serve any number of connections:
//!
//! 1. The *listener* thread accepts connections, and watches all that wait: for a request, for the
//!    rest of one, for a client that reads slowly, or for a load. They are *parked*, which costs a socket
//!    and no thread. Every wait has a deadline.
//! 2. A connection that has something to read or to write is queued for a *worker pool*: a bounded number
//!    of threads, started when needed. Peers and the application have a pool each, because the application
//!    may wait for peers that wait for this process: with one pool, two such processes could block each
//!    other.
//! 3. A busy connection keeps its worker: after an answer, the worker waits a moment for the next
//!    request. While the pool is *saturated* (tasks wait that no thread is free for), the connection is
//!    queued behind them instead, and a few workers for each processor serve all connections in turn.
//! 4. An answer that takes a load holds no worker: its connection is parked until the load ends, or its
//!    deadline passes, whichever takes it out first.
//! 5. What a request needs is charged to one account ([`crate::protocol::account`]), and a connection needs
//!    a permit, of which there is a limited number: where either is short, authenticated peers come first.
//!    The listener does only what is quick: a worker answers loads that take too long, and cancels requests.
//!
//! Parked connections are watched with `mio`, which needs no `unsafe` of its callers. With TLS, handshakes
//! are done by the workers too, one step whenever bytes have come.

pub use crate::serve::message::{HttpRequest, HttpResponse};

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::node::Node;
use crate::protocol::account::Account;
use crate::runtime::sync::{Arc, AtomicBool, Ordering, thread};
use crate::serve::connection_limit::ConnectionLimit;
use crate::serve::listener::Listener;
use crate::serve::parked::ParkedConnections;
use crate::serve::settings::{Fallback, Settings};
use crate::serve::shared::Shared;
use crate::serve::socket::listen;
use crate::serve::traffic::Traffic;
use crate::serve::worker_pool::WorkerPool;
use crate::transport::tls::Tls;

/// How long a stop waits for threads that are about to end.
const GRACE_PERIOD: Duration = Duration::from_millis(250);

/// Serves a node to its peers over HTTP, on a port of its own.
///
/// Unless the node has a keyring (feature `auth`) or TLS requires client certificates (feature `tls`),
/// whoever reaches the port can read, change and remove what is cached. Hostile clients cannot use
/// more than the [limits](ServerBuilder) allow.
///
/// Dropping it stops it at once: connections are closed, whatever they are doing. See
/// [`shutdown`](Server::shutdown) for a graceful end.
///
/// ```
/// use groupcache_sync::{Node, Server};
///
/// let node = Node::new("http://127.0.0.1:7000")?;
/// let server = Server::bind(&node, "127.0.0.1:0")?;
/// assert_ne!(server.local_addr().port(), 0);
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
#[must_use = "a server that is dropped stops"]
pub struct Server {
    shared: Arc<Shared>,
    listener: Option<thread::JoinHandle<()>>,
    address: SocketAddr,
    has_stopped: bool,
}

impl Server {
    /// Serves `node` on `address`, with all settings at their default. Port 0 picks a free one.
    ///
    /// # Errors
    ///
    /// [`Error::Bind`] if the address cannot be listened on, [`Error::Thread`] if a thread cannot
    /// be started.
    pub fn bind(node: &Node, address: impl ToSocketAddrs) -> Result<Server, Error> {
        Server::builder(node).bind(address)
    }

    /// Serves `node` on a socket that listens already.
    ///
    /// # Errors
    ///
    /// As [`bind`](Server::bind).
    pub fn from_listener(node: &Node, listener: TcpListener) -> Result<Server, Error> {
        Server::builder(node).from_listener(listener)
    }

    /// The settings of a server for `node`.
    pub fn builder(node: &Node) -> ServerBuilder {
        ServerBuilder {
            node: node.clone(),
            fallback: None,
            settings: Settings::default(),
            security: Security::OfNode,
        }
    }

    /// The address it listens on.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Ends gracefully: stops accepting, so that the port is free, closes connections without a
    /// request, and blocks for up to `timeout` until all others are answered. Then the server stops, as if
    /// dropped. Returns whether all requests were answered.
    ///
    /// A thread inside a fallback that does not return cannot be stopped: it is left alone and ends
    /// with its fallback.
    pub fn shutdown(mut self, timeout: Duration) -> bool {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.parked.wake();
        let until = Instant::now().checked_add(timeout);
        let are_answered = self.shared.connection_limit.wait_until_empty(until);
        self.stop();
        are_answered
    }

    /// Ends the process's part in the cluster in good order: the node [leaves](Node::leave) the ring while
    /// the server still answers, and then the server [shuts down](Server::shutdown). Blocks for up to about
    /// `timeout` for both together; half of it is kept for the requests that are under way. Returns whether
    /// all requests were answered.
    ///
    /// For a signal handler's thread, or the end of `main`. Afterwards the process may end.
    ///
    /// ```
    /// use groupcache_sync::{Node, Server};
    /// use std::time::Duration;
    ///
    /// let node = Node::new("http://127.0.0.1:7000")?;
    /// let server = Server::bind(&node, "127.0.0.1:0")?;
    /// // … until a signal comes …
    /// assert!(server.leave_and_shutdown(Duration::from_secs(10))?);
    /// assert!(node.is_leaving());
    /// # Ok::<(), groupcache_sync::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`Node::leave`]: [`Error::Unreached`] names the peers that could not be told. The server has
    /// stopped all the same.
    pub fn leave_and_shutdown(self, timeout: Duration) -> Result<bool, Error> {
        let begun = Instant::now();
        let left = self.shared.node.leave(timeout / 2);
        let are_answered = self.shutdown(timeout.saturating_sub(begun.elapsed()));
        left.map(|()| are_answered)
    }

    fn start(&mut self, listener: Listener) -> io::Result<()> {
        let shared = &self.shared;
        let peers = shared.work(Traffic::Peers);
        shared.peer_workers.start(peers)?;
        if shared.fallback.is_some() {
            let application = shared.work(Traffic::Application);
            shared.application_workers.start(application)?;
        }
        let thread = thread::Builder::new().name("groupcache-list".to_owned());
        self.listener = Some(thread.spawn(|| listener.run())?);
        Ok(())
    }

    fn stop(&mut self) {
        if std::mem::replace(&mut self.has_stopped, true) {
            return;
        }
        let shared = &self.shared;
        shared.draining.store(true, Ordering::SeqCst);
        drop(shared.parked.close());
        if let Some(listener) = self.listener.take() {
            join_unless_own(listener);
        }
        let pools = [&shared.peer_workers, &shared.application_workers];
        for pool in pools {
            drop(pool.close());
        }
        let until = Instant::now() + GRACE_PERIOD;
        let left: usize = pools.iter().map(|pool| pool.join(until)).sum();
        if left > 0 {
            log::warn!(target: "groupcache", threads = left; "server threads left inside their fallback");
        }
    }
}

fn join_unless_own(thread: thread::JoinHandle<()>) {
    if thread.thread().id() != thread::current().id() {
        // A panic of the thread was reported when it happened.
        let _ = thread.join();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The settings of a server, all with a default. Made by [`Server::builder`].
#[must_use = "a server is started by `bind` or `from_listener`"]
pub struct ServerBuilder {
    node: Node,
    fallback: Option<Arc<Fallback>>,
    settings: Settings,
    security: Security,
}

/// Whether a server speaks TLS.
enum Security {
    /// As the address of its node says.
    OfNode,
    Plain,
    #[cfg(feature = "tls")]
    Tls(Tls),
}

impl ServerBuilder {
    /// Sets what answers requests that the node does not [serve](Node::serves), so that an
    /// application needs no second port. The fallback may block: it has threads of its own. If it panics,
    /// the answer is 500, and the connection is closed. Defaults to none: such requests get 404.
    pub fn fallback(
        mut self,
        fallback: impl Fn(&HttpRequest<'_>) -> HttpResponse + Send + Sync + 'static,
    ) -> ServerBuilder {
        self.fallback = Some(Arc::new(fallback));
        self
    }

    /// Sets whether peers are served. If not, the [fallback](ServerBuilder::fallback) answers all
    /// paths: the port is for the application alone, and peers cannot be reached past the authentication
    /// of their own port. Defaults to `true`.
    pub fn serves_peers(mut self, serves: bool) -> ServerBuilder {
        self.settings.serves_peers = serves;
        self
    }

    /// Sets how many threads may serve peers at once. They are started when needed and end when
    /// idle. Loads hold none of them. Defaults to 64.
    pub fn workers(mut self, threads: usize) -> ServerBuilder {
        self.settings.workers = threads;
        self
    }

    /// Sets how many threads may be inside the fallback at once. Further requests wait for one.
    /// Defaults to 64.
    pub fn fallback_workers(mut self, threads: usize) -> ServerBuilder {
        self.settings.fallback_workers = threads;
        self
    }

    /// Sets how many connections may be open. Defaults to 16,384.
    ///
    /// At the limit, one connection is closed for a new one: of those that are idle or whose request is
    /// incomplete, the one with the earliest deadline. If all are being answered, the new one is refused.
    /// Where requests are signed (feature `auth`) or clients have certificates (feature `tls`), the
    /// connections of clients that have not authenticated themselves are closed first, and after them those
    /// of peers that are idle, up to a sixteenth of all connections.
    ///
    /// With a [fallback](ServerBuilder::fallback), the application leaves a quarter of the connections to
    /// peers, and peers leave a quarter to the application: a request beyond that is answered 503, unless
    /// an idle connection of its kind can be closed.
    pub fn max_connections(mut self, connections: usize) -> ServerBuilder {
        self.settings.max_connections = connections;
        self
    }

    /// Sets how many connections one address (of IPv6, one network of 64 bits) may have open. At
    /// the limit, the longest idle one of the same address is closed for a new one. A peer needs as many
    /// as it has threads that fetch at once. Defaults to 1,024.
    pub fn max_connections_per_address(mut self, connections: usize) -> ServerBuilder {
        self.settings.max_connections_per_address = connections;
        self
    }

    /// Sets how long the head of a request may take from its first byte to its last, and how long
    /// the whole TLS handshake. Defaults to 10 s.
    pub fn head_timeout(mut self, timeout: Duration) -> ServerBuilder {
        self.settings.head_timeout = timeout;
        self
    }

    /// Sets how long the body of a request may take in all. Defaults to 30 s.
    pub fn body_timeout(mut self, timeout: Duration) -> ServerBuilder {
        self.settings.body_timeout = timeout;
        self
    }

    /// Sets how long a client may take to read an answer to its end. Defaults to 10 s.
    pub fn write_timeout(mut self, timeout: Duration) -> ServerBuilder {
        self.settings.write_timeout = timeout;
        self
    }

    /// Sets how long a connection may stay open without a request. It should be longer than
    /// clients keep theirs, which is 30 s for nodes. Defaults to 60 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> ServerBuilder {
        self.settings.idle_timeout = timeout;
        self
    }

    /// Sets how large the body of a request to the fallback may be, in bytes. The body of a request to
    /// the node is bounded by [`max_value`](crate::NodeBuilder::max_value). Defaults to 1 MiB.
    pub fn max_fallback_body(mut self, bytes: usize) -> ServerBuilder {
        self.settings.max_fallback_body = bytes;
        self
    }

    /// Sets how much memory all connections together may take, in bytes, for requests that come in,
    /// for keys that peers wait for, for values that wait for the rest of their batch, and for answers
    /// that wait for their readers: there a value counts once, also if the cache has it too. A request
    /// beyond it is answered 503, or some of its keys are answered "overloaded", or left to be requested
    /// again; for an answer, the connections of the slowest readers are closed. One answer at a time may
    /// exceed it. Defaults to 256 MiB.
    ///
    /// An eighth of it is for connections that take up to 64 KiB. Where requests are signed (feature
    /// `auth`) or clients have certificates (feature `tls`), the clients that have not authenticated
    /// themselves take half of it at most, together: so do the clients of an application.
    pub fn max_buffered(mut self, bytes: usize) -> ServerBuilder {
        self.settings.max_buffered = bytes;
        self
    }

    /// Has the server speak TLS with other certificates than the node's, or though the node's address
    /// does not begin with `https://`. Defaults to the node's certificates, if its address does.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(mut self, tls: Tls) -> ServerBuilder {
        self.security = Security::Tls(tls);
        self
    }

    /// Has the server speak no TLS, though the node's address begins with `https://`: for a port that is
    /// reached through a proxy which does, or from this host only.
    pub fn plain(mut self) -> ServerBuilder {
        self.security = Security::Plain;
        self
    }

    /// Starts the server on `address`. Port 0 picks a free one.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if a setting cannot be used, or the node's address says TLS and it
    /// has no certificate; and as [`Server::bind`].
    pub fn bind(self, address: impl ToSocketAddrs) -> Result<Server, Error> {
        self.settings.check()?;
        let unresolved = |error| bind_error("the given address", error);
        let addresses: Vec<SocketAddr> = address.to_socket_addrs().map_err(unresolved)?.collect();
        let mut failure = unresolved(io::Error::other("it names no address"));
        for address in addresses {
            match listen(address) {
                Ok(listener) => return self.from_listener(listener),
                Err(error) => failure = bind_error(&address.to_string(), error),
            }
        }
        Err(failure)
    }

    /// Starts the server on a socket that listens already.
    ///
    /// # Errors
    ///
    /// As [`bind`](ServerBuilder::bind).
    pub fn from_listener(self, listener: TcpListener) -> Result<Server, Error> {
        self.settings.check()?;
        if !self.settings.serves_peers && self.fallback.is_none() {
            let reason =
                "without peers and without a fallback nobody is served; give it a fallback";
            return Err(Error::setting("serves_peers", reason));
        }
        let failed = |error| bind_error("the given listener", error);
        let address = listener.local_addr().map_err(failed)?;
        let tls = self.tls_in_use()?;
        let admits_strangers = tls.as_ref().is_none_or(Tls::admits_strangers);
        let is_open = self.settings.serves_peers && admits_strangers && !self.node.is_guarded();
        if is_open && !address.ip().is_loopback() {
            log::warn!(
                target: "groupcache", address:% = address;
                "listening beyond this host: requests are not authenticated"
            );
        }
        let is_shared = self.settings.serves_peers && self.fallback.is_some();
        // Where peers are not served, no client authenticates itself.
        let tells_apart = self.settings.serves_peers && self.node.has_guard() || !admits_strangers;
        let (poll, parked) = ParkedConnections::new().map_err(failed)?;
        let Settings {
            workers,
            fallback_workers,
            max_buffered,
            ..
        } = self.settings;
        let shared = Arc::new(Shared {
            peer_workers: WorkerPool::new(Traffic::Peers, workers),
            application_workers: WorkerPool::new(Traffic::Application, fallback_workers),
            connection_limit: ConnectionLimit::new(&self.settings, is_shared),
            account: Account::new(max_buffered, tells_apart),
            parked,
            draining: AtomicBool::new(false),
            node: self.node,
            fallback: self.fallback,
            settings: self.settings,
            tls,
        });
        let listener = Listener::new(poll, listener, Arc::clone(&shared)).map_err(failed)?;
        let mut server = Server {
            shared,
            listener: None,
            address,
            has_stopped: false,
        };
        match server.start(listener) {
            Ok(()) => Ok(server),
            Err(error) => Err(Error::Thread {
                source: Arc::new(error),
            }),
        }
    }

    fn tls_in_use(&self) -> Result<Option<Tls>, Error> {
        match &self.security {
            Security::Plain => Ok(None),
            #[cfg(feature = "tls")]
            Security::Tls(tls) => Ok(Some(tls.clone())),
            Security::OfNode if !self.node.this().is_secure() => Ok(None),
            Security::OfNode => {
                let reason = "the node's address is https:// and it has no certificate: give it \
                              one, or have the server `plain` behind a proxy";
                let tls = self.node.tls().cloned();
                tls.map(Some).ok_or_else(|| Error::setting("tls", reason))
            }
        }
    }
}

fn bind_error(address: &str, source: io::Error) -> Error {
    Error::Bind {
        address: address.into(),
        source: Arc::new(source),
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
