//! The cache as a program: a small caching HTTP service in front of a slow HTTP origin.
//!
//! Any number of these processes form one cache. Each has two addresses: `--listen` is for its
//! peers, `--front` for those who want values.
//!
//! ```text
//! node --listen 127.0.0.1:7001 --front 127.0.0.1:8001 --origin http://127.0.0.1:9000
//! curl http://127.0.0.1:8001/k/some%2Fkey
//! ```
//!
//! - `descriptors.rs`: how many connections there may be;
//! - `flags.rs`: what the command line says;
//! - `origin.rs`: where values come from, a [`Loader`](groupcache_sync::Loader);
//! - `room.rs`: how much of its answers may be on the way at once;
//! - `front.rs`: what clients may ask, all of it done by a [`Group`];
//! - `many.rs`: many values in one answer;
//! - `logger.rs`: the log on stderr;
//! - `security.rs`: the secret and the certificates, read again on SIGHUP;
//! - this file: how these become a process that serves, and that stops in good order.

mod descriptors;
mod flags;
mod front;
mod logger;
mod many;
mod origin;
mod room;
mod security;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[cfg(feature = "tiny_http")]
use groupcache_sync::TinyServer;
use groupcache_sync::{
    Discoverer, Dns, Error, Group, Node, Peer, PeerFile, PeerStats, Server, ServerBuilder,
};

use socket2::{Domain, Socket, Type};

use flags::{Asked, Engine, Flags, Source};
use front::Front;
use origin::Origin;
use security::Security;

/// What is freed goes back to the system at once, by `.cargo/config.toml`: glibc keeps the most
/// that a process ever had, in small pieces, until somebody needs it.
/// Only in the package `node-jemalloc`, which builds this program: jemalloc takes minutes to compile.
#[cfg(all(feature = "jemalloc", target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long requests under way may take once the process is to stop.
const DRAIN: Duration = Duration::from_secs(10);

/// What peers get of that at least, when clients took it all.
const DRAIN_PEERS: Duration = Duration::from_secs(1);

/// Threads for what waits for nothing, beside those for requests that may wait.
const FREE_THREADS: usize = 24;

/// The part of the time for leaving that may be spent on waiting for peers that are not back: a half.
const WAIT_FOR_NEIGHBOURS: u32 = 2;

/// How often it is looked whether they are back.
const LOOK_FOR_NEIGHBOURS: Duration = Duration::from_millis(20);

/// The largest body of a request, in bytes: a little more than the largest value, which the group
/// refuses in its own words.
const MAX_PUT: usize = (16 << 20) + (64 << 10);

/// Why the process ends without having served.
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// The command line is wrong.
    pub(crate) fn usage(message: impl Display) -> Failure {
        Failure {
            code: 2,
            message: format!("{message}\nTry --help."),
        }
    }

    /// The system says no.
    fn system(message: impl Display) -> Failure {
        Failure {
            code: 1,
            message: message.to_string(),
        }
    }
}

fn main() -> ExitCode {
    let outcome = match flags::parse(std::env::args_os().skip(1)) {
        Ok(Asked::Help) => print(&flags::help()).map_err(Failure::system),
        Ok(Asked::Run(flags)) => run(&flags),
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to be told if stderr is gone.
            let _ = writeln!(io::stderr(), "node: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Serves until a signal says to stop.
fn run(flags: &Flags) -> Result<(), Failure> {
    logger::start();
    // The port must be known first: it is a part of this node's address.
    let listener = listen("--listen", &flags.listen)?;
    let address = listener.local_addr().map_err(Failure::system)?;
    let security = Security::read(flags)?;
    let node = node(flags, address, &security)?;
    let group = group(flags, &node)?;
    if let Some(peers) = &flags.peers {
        node.set_peers(peers.clone()).map_err(|error| match error {
            Error::SelfMissing { id } => {
                Failure::usage(format!("--peers: this node, {id}, must be in the list"))
            }
            error => Failure::usage(format!("--peers: {error}")),
        })?;
    }
    let signals = Signals::new()?;
    let connections = descriptors::connections();
    let listen = Listen::start(flags, &node, connections, listener)?;
    let discoverer = discover(flags, &node)?;
    let answers = Front::new(node.clone(), group, discoverer.is_some(), flags.max_waiting);
    let front = server(flags, &node, connections)
        .fallback(move |request| answers.answer(request))
        // Clients are on this host, or behind what proves to them who it is. Peers are not served
        // here, where nothing proves who asks.
        .plain()
        .serves_peers(false)
        // A get holds a thread until its value is here, which may take long and must not keep
        // `/health` waiting.
        .fallback_workers(flags.max_waiting.saturating_add(FREE_THREADS))
        // All clients may come through one proxy.
        .max_connections_per_address(usize::MAX)
        .max_fallback_body(MAX_PUT)
        .from_listener(self::listen("--front", &flags.front)?)
        .map_err(Failure::system)?;
    let ready = format!("ready front={} listen={address}\n", front.local_addr());
    print(&ready).map_err(Failure::system)?;

    signals.wait_for_the_end(|| security.reload());
    drop(discoverer);
    leave(&node, flags.leave);
    log::info!(target: "node", seconds = DRAIN.as_secs(); "draining");
    let end = Instant::now() + DRAIN;
    // Clients first: what they wait for may need the peers, and peers need the other address.
    let all_answered = front.shutdown(DRAIN);
    let rest = end.saturating_duration_since(Instant::now());
    if !(listen.shutdown(rest.max(DRAIN_PEERS)) && all_answered) {
        log::warn!(target: "node", seconds = DRAIN.as_secs(); "requests were cut off");
    }
    log::info!(target: "node", "stopped");
    Ok(())
}

/// Follows the list of peers, if there is a source of it.
fn discover(flags: &Flags, node: &Node) -> Result<Option<Discoverer>, Failure> {
    let Some(source) = &flags.discover else {
        return Ok(None);
    };
    let mut builder = Discoverer::builder(node);
    if let Some(interval) = flags.discover_interval {
        builder = builder.interval(interval);
    }
    let discoverer = match source {
        Source::File(path) => builder.start(PeerFile::new(path)),
        Source::Dns(name, port) => {
            let dns = Dns::new(name, *port);
            builder.start(if node.this().is_secure() {
                dns.secure()
            } else {
                dns
            })
        }
    };
    discoverer.map(Some).map_err(Failure::system)
}

/// Hands over what the node has, while it serves as before.
fn leave(node: &Node, timeout: Duration) {
    if timeout.is_zero() {
        return;
    }
    log::info!(target: "node", seconds = timeout.as_secs_f64(); "leaving");
    let end = Instant::now() + timeout;
    wait_for_neighbours(node, timeout / WAIT_FOR_NEIGHBOURS);
    let rest = end.saturating_duration_since(Instant::now());
    if let Err(error) = node.leave(rest) {
        log::warn!(target: "node", error:% = error; "not all peers know that this node leaves");
    }
}

/// Waits for peers that have left and are not back yet, as when all nodes are restarted one right
/// after the other: what they are to take over would go to the few that are there, or to nobody.
fn wait_for_neighbours(node: &Node, timeout: Duration) {
    let end = Instant::now() + timeout;
    let is_missing = |peer: &PeerStats| !peer.is_this_node && peer.has_left;
    while node.stats().peers.iter().any(is_missing) {
        if Instant::now() >= end {
            log::warn!(
                target: "node", seconds = timeout.as_secs_f64();
                "a peer has left and is not back: part of what this node has may be loaded again; wait \
                 some seconds between the restarts of two nodes, or take the peer off the list"
            );
            return;
        }
        std::thread::sleep(LOOK_FOR_NEIGHBOURS);
    }
}

/// What both addresses have in common.
fn server(flags: &Flags, node: &Node, connections: usize) -> ServerBuilder {
    let builder = Server::builder(node).max_connections(connections);
    match flags.max_buffered {
        Some(bytes) => builder.max_buffered(bytes),
        None => builder,
    }
}

/// Who serves the peers.
enum Listen {
    Threads(Server),
    #[cfg(feature = "tiny_http")]
    TinyHttp(TinyServer),
}

impl Listen {
    fn start(
        flags: &Flags,
        node: &Node,
        connections: usize,
        listener: TcpListener,
    ) -> Result<Listen, Failure> {
        let server = match flags.engine {
            Engine::Threads => server(flags, node, connections)
                .from_listener(listener)
                .map(Listen::Threads),
            #[cfg(feature = "tiny_http")]
            Engine::TinyHttp => TinyServer::from_listener(node, listener).map(Listen::TinyHttp),
        };
        server.map_err(Failure::system)
    }

    fn shutdown(self, timeout: Duration) -> bool {
        match self {
            Listen::Threads(server) => server.shutdown(timeout),
            #[cfg(feature = "tiny_http")]
            Listen::TinyHttp(server) => server.shutdown(timeout),
        }
    }
}

/// The signals that say to stop, and the one that says to read files again.
#[cfg(unix)]
struct Signals(signal_hook::iterator::Signals);

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Signals, Failure> {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]);
        signals.map(Signals).map_err(Failure::system)
    }

    /// Waits for the first one that says to stop. The second one ends the process, however far it
    /// is.
    fn wait_for_the_end(mut self, reload: impl Fn()) {
        let is_end = |signal: &i32| *signal != signal_hook::consts::SIGHUP;
        for signal in self.0.forever() {
            if is_end(&signal) {
                break;
            }
            reload();
        }
        std::thread::spawn(move || {
            if self.0.forever().any(|signal| is_end(&signal)) {
                std::process::exit(1);
            }
        });
    }
}

/// Elsewhere the system ends the process.
#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> Result<Signals, Failure> {
        Ok(Signals)
    }

    fn wait_for_the_end(self, _: impl Fn()) {
        loop {
            std::thread::park();
        }
    }
}

fn node(flags: &Flags, address: SocketAddr, security: &Security) -> Result<Node, Failure> {
    let scheme = security.scheme();
    let this = match &flags.this {
        Some(this) => this.clone(),
        None => Peer::new(&format!("{scheme}{address}")).map_err(Failure::usage)?,
    };
    if !this.address().starts_with(scheme) {
        let reason = "https:// goes with --tls-cert, and http:// without it";
        return Err(Failure::usage(format!("--self {this}: {reason}")));
    }
    if flags.this.is_none() && address.ip().is_unspecified() {
        log::warn!(
            target: "node", address = this.name();
            "peers cannot reach a wildcard address: give --self one that they can"
        );
    }
    let mut builder = Node::builder(this)
        .map_err(Failure::usage)?
        .dialect(flags.dialect)
        .cluster(&flags.cluster);
    if let Some(timeout) = flags.connect_timeout {
        builder = builder.connect_timeout(timeout);
    }
    if let Some(timeout) = flags.fetch_timeout {
        builder = builder.fetch_timeout(timeout);
    }
    if let Some(threads) = flags.loader_threads {
        builder = builder.loader_threads(threads);
    }
    if let Some(window) = flags.warm_up {
        builder = builder.warm_up(window);
    }
    if let Some(page) = &flags.status_page {
        builder = builder.status_page(page.clone());
    }
    let builder = security.guard(builder);
    builder.build().map_err(Failure::usage)
}

fn group(flags: &Flags, node: &Node) -> Result<Group, Failure> {
    let mut builder = node.group_builder(&flags.group, flags.cache_bytes);
    if let Some(bytes) = flags.hot_bytes {
        builder = builder.hot_bytes(bytes);
    }
    if let Some(bytes) = flags.deputy_bytes {
        builder = builder.deputy_bytes(bytes);
    }
    if let Some(ttl) = flags.hot_ttl {
        builder = builder.hot_ttl(ttl);
    }
    if let Some(ttl) = flags.ttl {
        builder = builder.ttl(ttl);
    }
    if let Some(stale) = flags.stale {
        builder = builder.stale_while_revalidate(stale).stale_if_error(stale);
    }
    if let Some(ttl) = flags.negative_ttl {
        builder = builder.negative_ttl(ttl);
    }
    if let Some(max_loads) = flags.max_loads {
        builder = builder.max_loads(max_loads);
    }
    let group = builder.build_with(Origin::new(&flags.origin));
    group.map_err(|error| match error {
        Error::InvalidSetting { setting, reason } => {
            let flag = match setting {
                "name" => "--group",
                "capacity_bytes" => "--cache-bytes",
                "hot_bytes" => "--hot-bytes",
                "deputy_bytes" => "--deputy-bytes",
                other => other,
            };
            Failure::usage(format!("{flag}: {reason}"))
        }
        error => Failure::usage(error),
    })
}

fn listen(flag: &str, address: &str) -> Result<TcpListener, Failure> {
    let addresses = address.to_socket_addrs().map_err(|error| {
        Failure::usage(format!(
            "{flag} {address}: {error}; it must be HOST:PORT, such as 127.0.0.1:7001"
        ))
    })?;
    let mut failure = io::Error::other("the name has no address");
    for address in addresses {
        match socket(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failure = error,
        }
    }
    Err(Failure::system(format!(
        "{flag} {address}: cannot listen: {failure}; choose a free port (0 picks one)"
    )))
}

/// A socket for either engine: tiny_http needs one that does not wait to fill its packets.
fn socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(4_096)?;
    Ok(socket.into())
}

fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}
