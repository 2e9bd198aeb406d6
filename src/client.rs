//! The HTTP transport: `ureq`, one agent per peer.
//!
//! One agent per peer, because an agent's connection pool is one lock with a sweep over all its
//! hosts. Proxies from the environment, redirects and statuses as errors are off; names are
//! resolved here, because `ureq` would start a thread for every call that has a timeout.

use std::cell::Cell;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport as Connection,
};
use ureq::{Agent, http};

use crate::deadline::{Clock, Deadline};
use crate::peer::{Call, CallError, Limits, Link, Peer, Reply, Transport};
use crate::slot::Slot;
use crate::sync::{Arc, Mutex, thread, thread_local};
use crate::wire::HEADER;

/// Connections to one peer that are kept while idle.
const IDLE_CONNECTIONS: usize = 64;

/// Less than the idle timeout of the listener, so that the side that asks closes first.
const MAX_IDLE_AGE: Duration = Duration::from_secs(30);

/// Must hold the longest request line and its headers.
const OUTPUT_BUFFER: usize = 24 << 10;

const INPUT_BUFFER: usize = 64 << 10;

/// What is reserved for a body before its first byte is here.
const MAX_RESERVED: usize = 1 << 20;

/// HTTP/1.1 without TLS.
pub(crate) struct Http;

impl Transport for Http {
    fn link(&self, peer: &Peer, limits: &Limits) -> Arc<dyn Link> {
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(limits.connect_timeout))
            .max_idle_connections(IDLE_CONNECTIONS)
            .max_idle_connections_per_host(IDLE_CONNECTIONS)
            .max_idle_age(MAX_IDLE_AGE)
            .input_buffer_size(INPUT_BUFFER)
            .output_buffer_size(OUTPUT_BUFFER)
            .user_agent("")
            .accept("")
            .accept_encoding("")
            .build();
        let names = Arc::new(Names::new(peer, limits.connect_timeout));
        let resolver = CachedNames(Arc::clone(&names));
        Arc::new(HttpLink {
            agent: Agent::with_parts(config, DefaultConnector::new().chain(NoteNew), resolver),
            names,
            base: peer.address(),
            max_body: limits.max_body,
        })
    }
}

struct HttpLink {
    agent: Agent,
    names: Arc<Names>,
    base: String,
    max_body: usize,
}

impl Link for HttpLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let start = Instant::now();
        CONNECTED.with(|connected| connected.set(false));
        let outcome = match self.send(call, timeout) {
            // The peer had closed a pooled connection when it was used: it knows nothing of this
            // request. Asking twice is safe for a GET, and for nothing else.
            Err(error)
                if call.method == "GET" && broke_off(&error) && !CONNECTED.with(Cell::get) =>
            {
                let left = timeout.saturating_sub(start.elapsed());
                self.send(call, left.max(Duration::from_millis(1)))
            }
            outcome => outcome,
        };
        outcome.map_err(|error| self.explain(error))
    }
}

impl HttpLink {
    fn send(&self, call: &Call, timeout: Duration) -> Result<Reply, ureq::Error> {
        let url = format!("{}{}", self.base, call.target);
        let mut request = http::Request::builder().method(call.method).uri(url);
        if !call.header.is_empty() {
            request = request.header(HEADER, &call.header);
        }
        let response = if call.body.is_empty() {
            self.run(request.body(())?, timeout)?
        } else {
            self.run(request.body(&call.body[..])?, timeout)?
        };
        self.read(response)
    }

    fn run(
        &self,
        request: http::Request<impl ureq::AsSendBody>,
        timeout: Duration,
    ) -> Result<http::Response<ureq::Body>, ureq::Error> {
        let request = self.agent.configure_request(request);
        self.agent
            .run(request.timeout_global(Some(timeout)).build())
    }

    fn read(&self, response: http::Response<ureq::Body>) -> Result<Reply, ureq::Error> {
        let status = response.status().as_u16();
        let header = response
            .headers()
            .get(HEADER)
            .and_then(|value| value.to_str().ok());
        let header = header.map(str::to_owned);
        let announced = response.body().content_length().unwrap_or(0);
        if announced > self.max_body as u64 {
            return Err(ureq::Error::BodyExceedsLimit(self.max_body as u64));
        }
        // What a peer announces is no reason to allocate it.
        let mut body = Vec::with_capacity((announced as usize).min(MAX_RESERVED));
        // To its very end, or the connection cannot be used again.
        let reader = response
            .into_body()
            .into_with_config()
            .limit(self.max_body as u64);
        reader.reader().read_to_end(&mut body)?;
        Ok(Reply {
            status,
            header,
            body,
        })
    }

    fn explain(&self, error: ureq::Error) -> CallError {
        match error {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                self.names.forget();
                CallError::Unreachable(format!("no connection in time: {}", self.base))
            }
            ureq::Error::Timeout(_) => CallError::Timeout,
            ureq::Error::Io(error) => {
                self.names.forget();
                CallError::Unreachable(error.to_string())
            }
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                self.names.forget();
                CallError::Unreachable(error.to_string())
            }
            other => CallError::Nonsense(other.to_string()),
        }
    }
}

thread_local! {
    /// Whether the last call of this thread made a connection, instead of using a pooled one.
    static CONNECTED: Cell<bool> = const { Cell::new(false) };
}

/// The last link of the chain that makes a connection: notes that there was one to make.
#[derive(Debug)]
struct NoteNew;

impl<C: Connection> Connector<C> for NoteNew {
    type Out = C;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        made: Option<C>,
    ) -> Result<Option<C>, ureq::Error> {
        CONNECTED.with(|connected| connected.set(true));
        Ok(made)
    }
}

fn broke_off(error: &ureq::Error) -> bool {
    let kinds = [
        ErrorKind::UnexpectedEof,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        ErrorKind::BrokenPipe,
    ];
    matches!(error, ureq::Error::Io(error) if kinds.contains(&error.kind()))
}

/// The addresses of one peer: known at once for an IP address, else asked for when first needed
/// and again after a connection failed.
struct Names {
    host: String,
    port: u16,
    timeout: Duration,
    state: Mutex<NamesState>,
}

type Resolved = Result<Vec<SocketAddr>, String>;

#[derive(Default)]
struct NamesState {
    known: Option<Vec<SocketAddr>>,
    /// Those who wait for the one resolution under way.
    waiting: Vec<Arc<Slot<Resolved>>>,
}

impl Names {
    fn new(peer: &Peer, timeout: Duration) -> Names {
        Names {
            host: peer.host().to_owned(),
            port: peer.port(),
            timeout,
            state: Mutex::new(NamesState::default()),
        }
    }

    fn literal(&self) -> Option<SocketAddr> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = host.parse().ok()?;
        Some(SocketAddr::new(address, self.port))
    }

    fn forget(&self) {
        self.state.lock().known = None;
    }

    /// The addresses, no later than `timeout`: the system's resolver cannot be stopped, so it runs
    /// on a thread of its own, one at a time for a peer.
    fn resolve(self: &Arc<Self>, timeout: Duration) -> Resolved {
        if let Some(address) = self.literal() {
            return Ok(vec![address]);
        }
        let slot = Slot::new();
        let is_first = {
            let mut state = self.state.lock();
            if let Some(known) = &state.known {
                return Ok(known.clone());
            }
            state.waiting.push(Arc::clone(&slot));
            state.waiting.len() == 1
        };
        if is_first {
            let names = Arc::clone(self);
            let thread = thread::Builder::new().name("groupcache-resolver".to_owned());
            if let Err(error) = thread.spawn(move || names.ask_system()) {
                self.tell(&Err(error.to_string()));
            }
        }
        let clock = Clock::system();
        let deadline = Deadline::after(clock.now(), timeout);
        slot.wait(&clock, deadline)
            .unwrap_or_else(|| Err("the name has no address in time".into()))
    }

    fn ask_system(&self) {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let found = (host, self.port).to_socket_addrs();
        let found = found
            .map(Iterator::collect)
            .map_err(|error| error.to_string());
        self.tell(&found);
    }

    fn tell(&self, found: &Resolved) {
        let waiting = {
            let mut state = self.state.lock();
            state.known = found
                .as_ref()
                .ok()
                .filter(|known| !known.is_empty())
                .cloned();
            std::mem::take(&mut state.waiting)
        };
        for slot in waiting {
            // One who gave up meanwhile does not want it.
            let _ = slot.fill(found.clone());
        }
    }
}

/// The names of one peer as `ureq` asks for them.
struct CachedNames(Arc<Names>);

impl fmt::Debug for CachedNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachedNames")
    }
}

impl Resolver for CachedNames {
    fn resolve(
        &self,
        _: &http::Uri,
        _: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let timeout = self.0.timeout.min(*timeout.after);
        let found = self.0.resolve(timeout);
        let found = found.map_err(|reason| io::Error::new(ErrorKind::NotFound, reason))?;
        let mut addresses = self.empty();
        for address in found.into_iter().take(16) {
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(ureq::Error::HostNotFound);
        }
        Ok(addresses)
    }
}
