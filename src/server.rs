//! The built-in listener: it serves a node, and an application if it likes, on one port.
//!
//! Few threads serve any number of connections:
//!
//! 1. The *listener* thread accepts connections, and watches all that wait: for a request, for the
//!    rest of one, for a slow reader, or for a load. They wait in the *lobby*, which costs a socket
//!    and no thread. Every wait has a deadline.
//! 2. A connection that has something to do goes to a *lane*: a bounded pool of worker threads,
//!    started when needed. Peers and the application have a lane each, because the application may
//!    wait for peers that wait for us: with one pool, two such processes could block each other.
//! 3. A busy connection keeps its worker: having answered, the worker waits a moment for the next
//!    request. Where other connections wait for a worker in vain, it goes behind them instead, and
//!    a few workers for each processor serve all in turn.
//! 4. An answer that takes a load holds no worker: its connection waits in the lobby until the load
//!    calls back, or until its time is up, whichever takes it out first.
//! 5. What a request takes is paid from one account ([`crate::protocol::account`]), and a connection has a place
//!    among few: where either is short, those who have proved that they are peers come first. The
//!    listener itself does only what is quick: what is given up, or taken back, is done by a worker.
//!
//! Idle connections are watched with `mio`, which needs no `unsafe` of its callers. Where there is
//! TLS, handshakes are the workers' business too, one step whenever something has come.

pub use crate::serve::message::{HttpRequest, HttpResponse};

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::error::Error;
use crate::node::Node;
use crate::protocol::account::Account;
use crate::runtime::sync::{Arc, AtomicBool, Ordering, thread};
use crate::transport::tls::Tls;

use crate::serve::lane::{Lane, Which};
use crate::serve::listener::Listener;
use crate::serve::lobby::Lobby;
use crate::serve::places::Places;
use crate::serve::settings::{Fallback, Settings};
use crate::serve::shared::Shared;

/// How many connections the system may hold that are not accepted yet.
const BACKLOG: i32 = 4_096;

/// How long a stop waits for threads that are about to end.
const GRACE: Duration = Duration::from_millis(250);

/// Serves a node to its peers over HTTP, on a port of its own.
///
/// Unless the node has a keyring (feature `auth`) or TLS requires client certificates (feature `tls`),
/// whoever reaches the port can read, change and remove what is cached. Hostile clients cannot take
/// more than the [limits](ServerBuilder) give them.
///
/// Dropping it stops it at once: connections are closed, whatever they are doing. See
/// [`shutdown`](Server::shutdown) for a gentle end.
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

    /// Ends gently: stops accepting, so that the port is free, closes connections without a
    /// request, and gives all others up to `timeout` to be answered. Tells whether they were. Then
    /// everything stops, as if dropped.
    ///
    /// A thread inside a fallback that does not return cannot be stopped: it is left alone and ends
    /// with its fallback.
    pub fn shutdown(mut self, timeout: Duration) -> bool {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.lobby.wake();
        let finished = self
            .shared
            .places
            .wait_until_empty(Instant::now().checked_add(timeout));
        self.stop();
        finished
    }

    fn start(&mut self, listener: Listener) -> io::Result<()> {
        let shared = &self.shared;
        shared.peers.start(shared.work(Which::Peers))?;
        if shared.fallback.is_some() {
            shared.application.start(shared.work(Which::Application))?;
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
        drop(shared.lobby.close());
        if let Some(listener) = self.listener.take() {
            join_unless_own(listener);
        }
        let lanes = [&shared.peers, &shared.application];
        for lane in lanes {
            drop(lane.close());
        }
        let until = Instant::now() + GRACE;
        let left: usize = lanes.iter().map(|lane| lane.join(until)).sum();
        if left > 0 {
            log::warn!(target: "groupcache", threads = left; "server threads left inside their fallback");
        }
    }
}

fn join_unless_own(thread: thread::JoinHandle<()>) {
    if thread.thread().id() != thread::current().id() {
        // A panic there was reported when it happened.
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
    /// application needs no second port. It may block: its threads are its own. If it panics, the
    /// answer is 500, and its connection is closed. Defaults to none: such requests get 404.
    pub fn fallback(
        mut self,
        fallback: impl Fn(&HttpRequest<'_>) -> HttpResponse + Send + Sync + 'static,
    ) -> ServerBuilder {
        self.fallback = Some(Arc::new(fallback));
        self
    }

    /// Sets whether peers are served. If not, the [fallback](ServerBuilder::fallback) answers all
    /// paths: the port is one for the application alone, and what guards the port of the peers has
    /// no second door. Defaults to `true`.
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
    /// At the limit one makes room for a new one: the one that is idle for longest, or whose request is
    /// not here yet and is due first. If all are being answered, the new one is refused. Where requests
    /// are signed (feature `auth`) or clients have certificates (feature `tls`), those who have not
    /// proved who they are make room first, and those who have are idle then, and lose a sixteenth of
    /// all places at most.
    ///
    /// With a [fallback](ServerBuilder::fallback), a quarter of the places is left to peers by the
    /// application, and to the application by peers: a request beyond that is answered 503, unless an
    /// idle connection of its kind makes room.
    pub fn max_connections(mut self, connections: usize) -> ServerBuilder {
        self.settings.max_connections = connections;
        self
    }

    /// Sets how many connections one address (of IPv6, one network of 64 bits) may have open. At
    /// the limit the longest idle one of the same address makes room. A peer needs as many as its
    /// threads that fetch at once. Defaults to 1,024.
    pub fn max_connections_per_address(mut self, connections: usize) -> ServerBuilder {
        self.settings.max_connections_per_address = connections;
        self
    }

    /// Sets how long the head of a request may take from its first byte to its last, and how long
    /// the handshake of TLS in all. Defaults to 10 s.
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

    /// Sets how large the body of a request to the fallback may be, in bytes. That of a request to
    /// the node is bounded by its [`max_value`](crate::NodeBuilder::max_value). Defaults to 1 MiB.
    pub fn max_fallback_body(mut self, bytes: usize) -> ServerBuilder {
        self.settings.max_fallback_body = bytes;
        self
    }

    /// Sets how much memory all connections together may take, in bytes, for requests that come in,
    /// for keys that peers wait for, for values that wait for the rest of their batch, and for answers
    /// that wait for their readers: there a value counts once, also if the cache has it too. A request
    /// beyond it is answered 503, or some of its keys are overloaded, or left to be asked for again; for
    /// an answer the slowest readers are cut off. One answer at a time may go beyond it. Defaults to
    /// 256 MiB.
    ///
    /// An eighth of it is for connections that take up to 64 KiB. Where requests are signed (feature
    /// `auth`) or clients have certificates (feature `tls`), those who have not proved who they are
    /// take half of it at most, together: so do the clients of an application.
    pub fn max_buffered(mut self, bytes: usize) -> ServerBuilder {
        self.settings.max_buffered = bytes;
        self
    }

    /// Has it speak TLS with other certificates than the node's, or where the node's address does
    /// not say so. Defaults to the node's, if its address begins with `https://`.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(mut self, tls: Tls) -> ServerBuilder {
        self.security = Security::Tls(tls);
        self
    }

    /// Has it not speak TLS, though the node's address begins with `https://`: for a port that is
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
        let tls = self.tls_spoken()?;
        let admits_strangers = tls.as_ref().is_none_or(Tls::admits_strangers);
        let is_open = self.settings.serves_peers && admits_strangers && !self.node.is_guarded();
        if is_open && !address.ip().is_loopback() {
            log::warn!(
                target: "groupcache", address:% = address;
                "listening beyond this host: requests are not authenticated"
            );
        }
        let is_shared = self.settings.serves_peers && self.fallback.is_some();
        // Where peers are not served, nobody has anything to prove.
        let tells_apart = self.settings.serves_peers && self.node.has_guard() || !admits_strangers;
        let (poll, lobby) = Lobby::new().map_err(failed)?;
        let shared = Arc::new(Shared {
            peers: Lane::new(Which::Peers, self.settings.workers),
            application: Lane::new(Which::Application, self.settings.fallback_workers),
            places: Places::new(&self.settings, is_shared),
            account: Account::new(self.settings.max_buffered, tells_apart),
            lobby,
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

    fn tls_spoken(&self) -> Result<Option<Tls>, Error> {
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

/// How much of an answer the system keeps of each connection for a client that does not read, about:
/// left alone it takes megabytes, and the time that copying them takes from others.
const SEND_BUFFER: usize = 256 << 10;

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of a server that has just ended would keep its port busy for a minute. On
    // Windows the option means that others may take the port away.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
