//! `Peer`, and the cluster as a group sees it: ring, peers, transport, clock, loader pool.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::deadline::{Clock, Deadline, Sleeper};
use crate::error::{Error, Unreached};
use crate::flight::Waits;
use crate::pool::Pool;
use crate::ring::{Member, Ring};
use crate::stats::{CircuitState, Counter, NodeStats, PeerStats};
use crate::sync::{
    Arc, AtomicBool, AtomicUsize, Condvar, Mutex, OnceCell, Ordering, RwLock, Weak, thread,
};
use crate::wire::{self, Nonsense, Status};

/// Failures in a row that open a circuit.
const FAILURES_TO_OPEN: usize = 3;

/// How long the keeper waits between two probes of a peer that is away.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How many peers are told of a change at the same time.
const PARALLEL_CALLS: usize = 16;

/// A member of the cluster: a place on the ring, and an address.
///
/// Made of an address, `"http://10.0.0.5:7000"`, which is then its id too. All nodes must name a
/// peer by the same id: a peer under two names is two peers to the ring.
///
/// ```
/// use groupcache_sync::Peer;
///
/// let peer = Peer::new("http://10.0.0.5:7000")?.id("cache-0").weight(2.0)?;
/// assert_eq!(peer.address(), "http://10.0.0.5:7000");
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    id: String,
    host: String,
    port: u16,
    weight: f64,
}

impl Peer {
    /// The peer at `address`: `http://`, a host name or an IP address (IPv6 in brackets), and a
    /// port, which defaults to 80.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if the address is anything else.
    pub fn new(address: &str) -> Result<Peer, Error> {
        let invalid = |reason: &str| Error::peer(address, reason);
        let rest = address
            .strip_prefix("http://")
            .ok_or_else(|| invalid("it must begin with http://"))?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@', '\\']) {
            return Err(invalid("after http:// only host:port may follow"));
        }
        let (host, port) = split_port(rest).ok_or_else(|| invalid("the port is no number"))?;
        let host = normal_host(host).ok_or_else(|| invalid("the host is no name or address"))?;
        if port == 0 {
            return Err(invalid("port 0 is not one that can be reached"));
        }
        Ok(Peer {
            id: format!("http://{host}:{port}"),
            host,
            port,
            weight: 1.0,
        })
    }

    /// Sets the id, its place on the ring: with one that outlives addresses, a peer that comes back
    /// elsewhere keeps its keys. Defaults to the address.
    #[must_use]
    pub fn id(mut self, id: impl Into<String>) -> Peer {
        self.id = id.into();
        self
    }

    /// Sets its share of the keys relative to other peers, over 0 and up to 100. Defaults to 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if the weight is anything else.
    pub fn weight(mut self, weight: f64) -> Result<Peer, Error> {
        if !(weight > 0.0 && weight <= 100.0) {
            return Err(Error::peer(
                &self.id,
                "its weight must be over 0 and up to 100",
            ));
        }
        self.weight = weight;
        Ok(self)
    }

    /// Its name on the ring.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.id
    }

    /// Where it listens, in the one spelling that this crate uses.
    #[must_use]
    pub fn address(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// Its host name or IP address, IPv6 in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl TryFrom<&str> for Peer {
    type Error = Error;

    fn try_from(address: &str) -> Result<Peer, Error> {
        Peer::new(address)
    }
}

impl TryFrom<&String> for Peer {
    type Error = Error;

    fn try_from(address: &String) -> Result<Peer, Error> {
        Peer::new(address)
    }
}

impl TryFrom<String> for Peer {
    type Error = Error;

    fn try_from(address: String) -> Result<Peer, Error> {
        Peer::new(&address)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

fn split_port(text: &str) -> Option<(&str, u16)> {
    // The colons of an IPv6 address are inside brackets.
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            Some((host, digits.then(|| port.parse().ok()).flatten()?))
        }
        _ => Some((text, 80)),
    }
}

/// One spelling for every host: lower case, addresses as the standard library writes them.
fn normal_host(host: &str) -> Option<String> {
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return inner
            .parse::<Ipv6Addr>()
            .ok()
            .map(|address| format!("[{address}]"));
    }
    if let Ok(IpAddr::V4(address)) = host.parse() {
        return Some(address.to_string());
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_name = !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed);
    is_name.then(|| host.to_ascii_lowercase())
}

/// How requests reach peers.
///
/// The default is HTTP ([`Node::new`](crate::Node::new)); with the feature `test-util` there is one
/// in memory. This seam may still change: it does not follow semantic versioning yet.
pub trait Transport: Send + Sync + 'static {
    /// The way to `peer`. Must not block, and a peer that is away is no error: calls are.
    fn link(&self, peer: &Peer, limits: &Limits) -> Arc<dyn Link>;
}

/// The way to one peer. Dropped when the peer leaves: it then closes its connections.
pub trait Link: Send + Sync {
    /// Sends `call` and waits for the answer, no longer than `timeout` in all.
    ///
    /// # Errors
    ///
    /// [`CallError`], and never later than `timeout`.
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError>;
}

/// What is known of calls to a peer before they are made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The longest time a connection may take to be made.
    pub connect_timeout: Duration,
    /// The longest body of an answer, in bytes.
    pub max_body: usize,
}

/// A request to a peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// `GET`, `PUT`, `DELETE` or `POST`.
    pub method: &'static str,
    /// The path, percent-encoded.
    pub target: String,
    /// The value of the protocol's one header.
    pub header: String,
    /// The body; empty for `GET` and `DELETE`.
    pub body: Vec<u8>,
}

/// The answer of a peer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status code.
    pub status: u16,
    /// The value of the protocol's one header, if there was one.
    pub header: Option<String>,
    /// The body, whole.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// None came in time.
    Timeout,
    /// The peer cannot be reached, or broke off.
    Unreachable(String),
    /// What came is no answer.
    Nonsense(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Timeout => f.write_str("no answer in time"),
            CallError::Unreachable(reason) | CallError::Nonsense(reason) => f.write_str(reason),
        }
    }
}

/// Why a call failed, as its caller must know.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The caller's own time is up. Says nothing about the peer (I6).
    Deadline,
    /// The peer is away: refused, silent, nonsense, or known to be so.
    Away(String),
}

/// A peer other than this node.
pub(crate) struct Remote {
    pub(crate) peer: Peer,
    link: Arc<dyn Link>,
    circuit: Circuit,
    calls: Counter,
    errors: Counter,
}

/// Opens after some failures in a row, so that a peer that is away costs its callers nothing.
#[derive(Default)]
struct Circuit {
    failures: AtomicUsize,
    open: AtomicBool,
}

impl Circuit {
    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Tells whether this closed it.
    fn succeed(&self) -> bool {
        self.failures.store(0, Ordering::Relaxed);
        self.is_open() && self.open.swap(false, Ordering::AcqRel)
    }

    /// Tells whether this opened it.
    fn fail(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        failures >= FAILURES_TO_OPEN && !self.open.swap(true, Ordering::AcqRel)
    }
}

/// The members at one moment, swapped whole.
pub(crate) struct Members {
    ring: Ring,
    /// In the order of the list the ring was made of. `None` is this node.
    remotes: Vec<Option<Arc<Remote>>>,
    peers: Vec<Peer>,
}

impl Members {
    /// All peers but this node.
    pub(crate) fn remotes(&self) -> Vec<Arc<Remote>> {
        self.remotes.iter().flatten().cloned().collect()
    }

    pub(crate) fn owner(&self, key: &str) -> Owner {
        let remote = self
            .ring
            .owner(key.as_bytes())
            .and_then(|at| self.remotes[at].clone());
        remote.map_or(Owner::This, Owner::Peer)
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.ring.fingerprint()
    }
}

/// Who owns a key.
pub(crate) enum Owner {
    This,
    Peer(Arc<Remote>),
}

/// The settings of a node that its groups need.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) fetch_timeout: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) fallback_life: Duration,
    pub(crate) max_value: usize,
    pub(crate) allow_absent: bool,
}

/// What the groups of a node share. Holds no group, so there is no cycle.
pub(crate) struct Cluster {
    this: Peer,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) pool: Pool,
    pub(crate) waits: Arc<Waits>,
    transport: Arc<dyn Transport>,
    members: RwLock<Arc<Members>>,
    keeper: Keeper,
    ring_mismatches: Counter,
}

impl Cluster {
    /// A cluster of this node alone.
    pub(crate) fn new(
        this: Peer,
        settings: Settings,
        clock: Clock,
        pool: Pool,
        transport: Arc<dyn Transport>,
    ) -> Arc<Cluster> {
        let alone = Members {
            ring: ring_of(std::slice::from_ref(&this)),
            remotes: vec![None],
            peers: vec![this.clone()],
        };
        Arc::new(Cluster {
            this,
            settings,
            clock,
            pool,
            waits: Waits::new(),
            transport,
            members: RwLock::new(Arc::new(alone)),
            keeper: Keeper::default(),
            ring_mismatches: Counter::default(),
        })
    }

    pub(crate) fn this(&self) -> &Peer {
        &self.this
    }

    pub(crate) fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members.read())
    }

    /// Replaces the list by what `change` makes of it. Peers that stay keep their connections.
    pub(crate) fn change_peers(
        &self,
        change: impl Fn(&[Peer]) -> Result<Vec<Peer>, Error>,
    ) -> Result<(), Error> {
        loop {
            let old = self.members();
            let peers = without_doubles(change(&old.peers)?)?;
            if !self.settings.allow_absent && !peers.iter().any(|peer| self.is_this(peer)) {
                return Err(Error::SelfMissing {
                    id: self.this.name().into(),
                });
            }
            let remote = |peer: &Peer| (!self.is_this(peer)).then(|| self.remote(&old, peer));
            let new = Arc::new(Members {
                ring: ring_of(&peers),
                remotes: peers.iter().map(remote).collect(),
                peers,
            });
            if self.swap(&old, &new) {
                log::info!(
                    target: "groupcache",
                    peers = new.peers.len(), ring:% = format!("{:x}", new.fingerprint());
                    "the ring has changed"
                );
                return Ok(());
            }
            // Somebody else has changed the list meanwhile: neither change may undo the other.
        }
    }

    fn swap(&self, old: &Arc<Members>, new: &Arc<Members>) -> bool {
        let mut members = self.members.write();
        let unchanged = Arc::ptr_eq(&members, old);
        if unchanged {
            *members = Arc::clone(new); // the caller still holds the old: nothing is dropped here
        }
        unchanged
    }

    fn is_this(&self, peer: &Peer) -> bool {
        peer.name() == self.this.name()
    }

    fn remote(&self, old: &Members, peer: &Peer) -> Arc<Remote> {
        let same = |remote: &&Arc<Remote>| {
            remote.peer.name() == peer.name() && remote.peer.address() == peer.address()
        };
        old.remotes
            .iter()
            .flatten()
            .find(same)
            .cloned()
            .unwrap_or_else(|| {
                Arc::new(Remote {
                    peer: peer.clone(),
                    link: self.transport.link(peer, &self.settings.limits),
                    circuit: Circuit::default(),
                    calls: Counter::default(),
                    errors: Counter::default(),
                })
            })
    }

    /// Calls a peer, no longer than `limit` and than the caller's `deadline`, and reads its answer.
    pub(crate) fn call<R>(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        call: &Call,
        limit: Duration,
        deadline: Deadline,
        read: impl FnOnce(Status, Reply) -> Result<R, Nonsense>,
    ) -> Result<R, Failure> {
        if remote.circuit.is_open() {
            return Err(Failure::Away(
                "it failed before and is being probed".to_owned(),
            ));
        }
        let remaining = deadline.remaining(self.clock.now());
        if remaining.is_some_and(|remaining| remaining.is_zero()) {
            return Err(Failure::Deadline);
        }
        let timeout = remaining.map_or(limit, |remaining| remaining.min(limit));
        remote.calls.add();
        let outcome = remote
            .link
            .call(call, timeout)
            .and_then(|reply| self.read(reply, read));
        match outcome {
            Ok(result) => {
                self.succeeded(remote);
                Ok(result)
            }
            Err(CallError::Timeout) if timeout < limit => Err(Failure::Deadline),
            Err(error) => {
                self.failed(remote, &error);
                Err(Failure::Away(error.to_string()))
            }
        }
    }

    fn read<R>(
        &self,
        reply: Reply,
        read: impl FnOnce(Status, Reply) -> Result<R, Nonsense>,
    ) -> Result<R, CallError> {
        let ring = reply.header.as_deref().and_then(wire::ring_of);
        if ring.is_some_and(|ring| ring != self.members().fingerprint()) {
            self.ring_mismatches.add();
        }
        let status = Status::of(reply.status, reply.header.as_deref());
        let status = status.ok_or_else(|| {
            CallError::Nonsense(format!("an answer with status {}", reply.status))
        })?;
        read(status, reply).map_err(|nonsense| CallError::Nonsense(nonsense.0.to_owned()))
    }

    fn succeeded(&self, remote: &Remote) {
        if remote.circuit.succeed() {
            log::info!(target: "groupcache", peer:% = remote.peer; "the peer is back");
        }
    }

    fn failed(self: &Arc<Self>, remote: &Remote, error: &CallError) {
        remote.errors.add();
        if remote.circuit.fail() {
            log::warn!(
                target: "groupcache", peer:% = remote.peer, error:% = error;
                "the peer is away; its keys are loaded here until it answers"
            );
            self.keeper.ring(self);
        }
    }

    /// Runs `tell` for all `remotes` at the same time, and returns who was not reached.
    pub(crate) fn tell_all(
        &self,
        remotes: &[Arc<Remote>],
        tell: impl Fn(&Arc<Remote>) -> Result<(), Failure> + Sync,
    ) -> Vec<Unreached> {
        let next = AtomicUsize::new(0);
        let unreached = Mutex::new(Vec::new());
        let work = || {
            while let Some(remote) = remotes.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(failure) = tell(remote) {
                    unreached.lock().push(remote.unreached(&failure));
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..remotes.len().min(PARALLEL_CALLS) {
                // Without more threads this one does it all, one after the other.
                if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        unreached.into_inner()
    }

    /// Probes the peers whose circuit is open; tells whether one still is.
    fn probe(&self) -> bool {
        let members = self.members();
        let away = members
            .remotes()
            .into_iter()
            .filter(|remote| remote.circuit.is_open());
        away.fold(false, |still_away, remote| {
            let probe = Call {
                method: "GET",
                target: wire::BASE.to_owned(),
                header: String::new(),
                body: Vec::new(),
            };
            // Any answer shows that it is there.
            match remote.link.call(&probe, self.settings.fetch_timeout) {
                Ok(_) => {
                    self.succeeded(&remote);
                    still_away
                }
                Err(_) => true,
            }
        })
    }

    pub(crate) fn stats(&self) -> NodeStats {
        let members = self.members();
        let (threads, busy) = self.pool.threads();
        let peer = |(at, peer): (usize, &Peer)| {
            let remote = members.remotes[at].as_deref();
            PeerStats {
                id: peer.name().to_owned(),
                address: peer.address(),
                is_this_node: remote.is_none(),
                ring_share: members.ring.share(at),
                circuit: remote.map_or(CircuitState::Closed, Remote::circuit_state),
                calls: remote.map_or(0, |remote| remote.calls.get()),
                call_errors: remote.map_or(0, |remote| remote.errors.get()),
            }
        };
        NodeStats {
            peers: members.peers.iter().enumerate().map(peer).collect(),
            ring: members.fingerprint(),
            ring_mismatches: self.ring_mismatches.get(),
            loader_threads: threads as u64,
            loader_threads_busy: busy as u64,
        }
    }
}

impl Remote {
    pub(crate) fn unreached(&self, failure: &Failure) -> Unreached {
        Unreached {
            peer: self.peer.name().to_owned(),
            reason: match failure {
                Failure::Deadline => "no time left".to_owned(),
                Failure::Away(reason) => reason.clone(),
            },
        }
    }

    fn circuit_state(&self) -> CircuitState {
        if self.circuit.is_open() {
            CircuitState::Open
        } else {
            CircuitState::Closed
        }
    }
}

fn ring_of(peers: &[Peer]) -> Ring {
    let member = |peer: &Peer| Member {
        id: peer.id.clone(),
        weight: peer.weight,
    };
    Ring::new(&peers.iter().map(member).collect::<Vec<_>>())
}

/// The list without repetitions; the same id at two addresses is an error.
fn without_doubles(peers: Vec<Peer>) -> Result<Vec<Peer>, Error> {
    let mut unique: Vec<Peer> = Vec::with_capacity(peers.len());
    for peer in peers {
        match unique.iter().find(|other| other.id == peer.id) {
            None => unique.push(peer),
            Some(other) if *other == peer => {}
            Some(other) => {
                let reason = format!("it stands in the list twice, also as {}", other.address());
                return Err(Error::peer(&peer.id, reason));
            }
        }
    }
    Ok(unique)
}

/// The background thread of a node, started when there is first something to do: it probes peers
/// that are away, so that no caller has to.
#[derive(Default)]
struct Keeper {
    bell: Arc<Bell>,
    thread: OnceCell<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Bell {
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Default)]
struct BellState {
    rung: bool,
    stopped: bool,
}

impl Keeper {
    /// Says that there is something to do.
    fn ring(&self, cluster: &Arc<Cluster>) {
        let started = self.thread.get_or_try_init(|| {
            let (bell, clock) = (Arc::clone(&self.bell), cluster.clock.clone());
            let cluster = Arc::downgrade(cluster);
            thread::Builder::new()
                .name("groupcache-keeper".to_owned())
                .spawn(move || keep(&bell, &clock, &cluster))
        });
        if let Err(error) = started {
            // The next failure of a peer tries again.
            log::warn!(target: "groupcache", error:% = error; "cannot start the keeper thread");
        }
        self.bell.state.lock().rung = true;
        self.bell.rung.notify_all();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.bell.state.lock().stopped = true;
        self.bell.rung.notify_all();
        if let Some(thread) = self.thread.take() {
            // The last handle may fall on the keeper itself, which then ends by itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn keep(bell: &Arc<Bell>, clock: &Clock, cluster: &Weak<Cluster>) {
    let mut pending = false;
    loop {
        let pause = if pending {
            Deadline::after(clock.now(), PROBE_INTERVAL)
        } else {
            Deadline::NEVER
        };
        if !bell.wait(clock, pause) {
            return;
        }
        let Some(cluster) = cluster.upgrade() else {
            return;
        };
        pending = cluster.probe();
    }
}

impl Bell {
    /// Waits until rung or `deadline`; false once stopped.
    fn wait(self: &Arc<Self>, clock: &Clock, deadline: Deadline) -> bool {
        let mut state = self.state.lock();
        while !state.stopped && !std::mem::take(&mut state.rung) && !deadline.is_past(clock.now()) {
            clock.wait(&self.rung, &mut state, deadline, || {
                Arc::downgrade(&(Arc::clone(self) as Arc<dyn Sleeper>))
            });
        }
        !state.stopped
    }
}

impl Sleeper for Bell {
    fn wake(&self) {
        let _state = self.state.lock();
        self.rung.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_one_spelling() {
        let spelled = |address: &str| Peer::new(address).map(|peer| peer.address()).ok();
        assert_eq!(
            spelled("http://Cache-0.Local:80/").as_deref(),
            Some("http://cache-0.local:80")
        );
        assert_eq!(spelled("http://cache").as_deref(), Some("http://cache:80"));
        assert_eq!(
            spelled("http://[::0:1]:7000").as_deref(),
            Some("http://[::1]:7000")
        );
        assert_eq!(spelled("http://[::1]").as_deref(), Some("http://[::1]:80"));
    }

    #[test]
    fn addresses_that_could_lead_elsewhere_are_refused() {
        for address in [
            "",
            "10.0.0.1:80",
            "ftp://a:1",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:x",
            "http://a:99999",
            "http://a:1/path",
            "http://user@a:1",
            "http://a:1?x",
            "http://a b:1",
            "http://[::1",
            "http://::1:80",
            "http://a:+1",
            "http://a\r\nb:1",
            "unix:/tmp/x",
        ] {
            let refused = Peer::new(address);
            assert!(
                matches!(refused, Err(Error::InvalidPeer { .. })),
                "{address:?} {refused:?}"
            );
        }
    }

    #[test]
    fn a_weight_that_is_no_share_is_refused() {
        for weight in [0.0, -1.0, 101.0, f64::NAN, f64::INFINITY] {
            assert!(
                Peer::new("http://a:1").unwrap().weight(weight).is_err(),
                "{weight}"
            );
        }
    }

    #[test]
    fn doubles_are_one_peer_and_contradictions_an_error() {
        let peer = |address: &str| Peer::new(address).unwrap();
        let list = vec![peer("http://a:1"), peer("http://a:1/")];
        assert_eq!(without_doubles(list).unwrap().len(), 1);
        let list = vec![peer("http://a:1").id("x"), peer("http://b:1").id("x")];
        assert!(without_doubles(list).is_err());
    }

    #[test]
    fn a_circuit_opens_after_failures_in_a_row_only() {
        let circuit = Circuit::default();
        assert!(!circuit.fail() && !circuit.fail());
        assert!(!circuit.succeed());
        assert!(!circuit.fail() && !circuit.fail());
        assert!(circuit.fail(), "the third in a row opens it");
        assert!(circuit.is_open() && !circuit.fail());
        assert!(circuit.succeed());
    }
}
