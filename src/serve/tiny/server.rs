//! `TinyServer`: the public type of the second engine, and its settings.

use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use super::instances::Instances;
use super::{socket, watchdog};
use crate::error::Error;
use crate::node::Node;
use crate::runtime::sync::Arc;

/// How many threads answer unless set.
const WORKERS: usize = 8;

/// Serves a node with `tiny_http`: choose it only if the program runs `tiny_http` or rouille already,
/// on a trusted network, and [`Server`](crate::Server) otherwise. Nothing starts it by default. Two
/// published faults of `tiny_http` have no fix: their consequences are described
/// [below](#only-for-trusted-networks). Dropping the server stops it: it accepts nothing more, requests that
/// wait for a load are answered "overloaded", and the drop blocks up to a second for the threads to end.
/// [`shutdown`](TinyServer::shutdown) ends it after all requests are answered.
///
/// It answers the peer protocol and nothing else: other paths get a 404. It does not speak TLS: a
/// node whose address begins with `https://` needs a proxy in front of it that does.
///
/// # Only for trusted networks
///
/// `tiny_http` 0.12 is no longer maintained, and two of its faults are published without a fix: it
/// misreads `Transfer-Encoding`, so that the body of one request can be taken for the next request, and
/// behind a proxy that shares a connection between clients for a request of another client (CVE-2026-66752);
/// and it lets line breaks into response headers, so that a client that chooses a part of one can write the
/// rest of the answer (CVE-2026-66753). This server answers any transfer encoding with a 400 and puts no
/// text of clients into headers; handlers of your own must do the same. But any client that can connect can
/// still
///
/// - use any number of threads (one for a connection), sockets (two descriptors for a connection) and
///   bytes (headers and waiting requests): nothing is bounded and nothing times out;
/// - use up a thread and two descriptors for good with one request for HTTP/2.0, or with one that
///   announces a body of more than 64 MiB and more than the node accepts;
/// - hold a worker by sending a body over 1 KiB slowly or not at all (once all are held, a new
///   server takes over within seconds, up to four times);
/// - have keys loaded that nobody waits for: the server does not see that the sender of a batch has left;
/// - end the process with an announced body of many terabytes on a connection kept open after the
///   server stopped.
///
/// If the process runs out of descriptors or threads for a moment, `tiny_http` stops to accept
/// connections for good. A watchdog that sends the server a request once a second detects that and replaces
/// it (except on Linux, once the old one has been idle for a minute); existing connections
/// stay with the old one, which asks to close them. Still, give it twice as
/// many descriptors as there may be connections. A proxy in front of it must not share a connection between
/// clients.
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
    instances: Arc<Instances>,
    address: SocketAddr,
}

impl TinyServer {
    /// Serves `node` at `address`, such as `10.0.0.5:7000`; port 0 picks a free one. Of several
    /// addresses, it uses the first that can be listened on. Blocks only to resolve a name.
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
    /// The socket is set to block, to send without delay (`TCP_NODELAY`), to give up a peer that reads
    /// nothing for 10 s and to probe idle peers. Connections made before that lack these settings,
    /// and only Linux is known to apply them to later ones: on other systems, or if peers may connect
    /// that early, set `TCP_NODELAY` before `listen`, or answers over 1 KiB take 44 ms each. Should
    /// `tiny_http` fail, a new socket is opened at its address: no other process should keep the given one
    /// open.
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

    /// The address that it listens on, with the port that was picked.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops: accepts no more connections, answers the requests in progress and those that come on open
    /// connections meanwhile, asks to close these, and ends. Blocks until no request has been in
    /// progress for 50 ms, no longer than `timeout`, and then up to a second for the threads to end.
    /// Returns whether all requests were answered and all threads have ended; a thread that has not ends
    /// with its request.
    ///
    /// An open connection that was idle all this time stays open, as `tiny_http` offers no way to
    /// close it: a peer that uses it later waits for its own timeout. So a process should end soon
    /// after, and its peers should remove it from their lists before. Except on Linux, connections
    /// are accepted, though not served, until the last thread has ended.
    pub fn shutdown(self, timeout: Duration) -> bool {
        self.instances.close(timeout)
    }

    fn start(node: &Node, listener: TcpListener, workers: usize) -> Result<TinyServer, Error> {
        let address = socket::address_of(&listener)?;
        if !address.ip().is_loopback() {
            log::warn!(
                target: "groupcache", address:% = address;
                "tiny_http listens beyond this machine: whoever can connect can exhaust this process"
            );
        }
        let (instances, events) = Instances::start(node, listener, workers)?;
        let watched = Arc::clone(&instances);
        // If the watchdog cannot be started, the drop of the server stops the other threads.
        let server = TinyServer { instances, address };
        let watch = move || watchdog::run(&watched, &events);
        server.instances.start_watchdog(watch)?;
        Ok(server)
    }
}

impl Drop for TinyServer {
    fn drop(&mut self) {
        let _ = self.instances.close(Duration::ZERO);
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
    /// Sets how many threads answer. A request holds one of them while it is read, looked up and answered,
    /// and none while its value is loaded. Defaults to 8.
    pub fn workers(mut self, workers: usize) -> TinyServerBuilder {
        self.workers = workers;
        self
    }

    /// Starts the server at `address`: see [`TinyServer::bind`].
    ///
    /// # Errors
    ///
    /// Those of [`TinyServer::bind`], and [`Error::InvalidSetting`] for no worker.
    pub fn bind(self, address: impl ToSocketAddrs) -> Result<TinyServer, Error> {
        self.check()?;
        TinyServer::start(&self.node, socket::bind(address)?, self.workers)
    }

    /// Starts the server at a socket that listens: see [`TinyServer::from_listener`].
    ///
    /// # Errors
    ///
    /// Those of [`TinyServer::from_listener`], and [`Error::InvalidSetting`] for no worker.
    #[allow(clippy::wrong_self_convention)] // named like `TinyServer::from_listener`
    pub fn from_listener(self, listener: TcpListener) -> Result<TinyServer, Error> {
        self.check()?;
        socket::adopt(&listener)?;
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
