//! `Cluster`: what the groups of a node share. Ring, peers, transport, clock, loader pool.

use std::time::{Duration, Instant};

use crate::change::Change;
use crate::deadline::{Clock, Deadline};
use crate::dialect::Dialect;
use crate::error::{Error, Unreached};
use crate::fanout::Fanout;
use crate::guard::Guard;
use crate::keeper::Keeper;
use crate::latency::Latency;
use crate::members::{Listed, Members, Succession, without_doubles};
use crate::owed::Missed;
use crate::peer::{Call, CallError, Limits, Peer, Reply, Transport};
use crate::pool::Pool;
use crate::remote::{Failure, Remote};
use crate::stats::{CircuitState, Counter, NodeStats, PeerStats};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, RwLock, Weak};
use crate::throttle::Throttle;
use crate::waits::Waits;
use crate::wire::{self, Nonsense, Status, Terms};

/// How many keys one request removes: about 1 MiB if all are as long as can be.
const KEYS_OF_A_REQUEST: usize = 64;

/// How much is shown of a text that a peer sends, in bytes.
const MAX_TEXT: usize = 400;

/// The settings of a node that its groups need.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) fetch_timeout: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) fallback_life: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) circuit_failures: usize,
    pub(crate) max_value: usize,
    pub(crate) allow_absent: bool,
    pub(crate) dialect: Dialect,
}

/// What the groups of a node share. Holds no group, so there is no cycle.
pub(crate) struct Cluster {
    this: Peer,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) pool: Pool,
    pub(crate) fanout: Fanout,
    pub(crate) waits: Arc<Waits>,
    /// Signs and checks requests, if the peers share a secret.
    pub(crate) guard: Option<Guard>,
    transport: Arc<dyn Transport>,
    members: RwLock<Arc<Members>>,
    /// Whether this node has said that it leaves.
    is_leaving: AtomicBool,
    keeper: Keeper,
    /// What lets its expired values go: the groups.
    sweeps: Mutex<Vec<Weak<dyn Sweep>>>,
    ring_mismatches: Counter,
    pub(crate) discovery_polls: Counter,
    pub(crate) discovery_errors: Counter,
    mismatch_reports: Throttle,
}

/// Something that keeps values which expire.
pub(crate) trait Sweep: Send + Sync {
    /// Lets those go whose time is over; tells whether there are others that will expire.
    fn sweep(&self) -> bool;
}

impl Cluster {
    /// A cluster of this node alone.
    pub(crate) fn new(
        this: Peer,
        settings: Settings,
        clock: Clock,
        pool: Pool,
        guard: Option<Guard>,
        transport: Arc<dyn Transport>,
    ) -> Arc<Cluster> {
        let alone = Members::alone(this.clone(), settings.dialect);
        Arc::new(Cluster {
            this,
            settings,
            clock,
            pool,
            fanout: Fanout::default(),
            waits: Waits::new(),
            guard,
            transport,
            members: RwLock::new(Arc::new(alone)),
            is_leaving: AtomicBool::new(false),
            keeper: Keeper::default(),
            sweeps: Mutex::new(Vec::new()),
            ring_mismatches: Counter::default(),
            discovery_polls: Counter::default(),
            discovery_errors: Counter::default(),
            mismatch_reports: Throttle::default(),
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
        allow_absent: bool,
        change: impl Fn(&[Peer]) -> Result<Vec<Peer>, Error>,
    ) -> Result<(), Error> {
        loop {
            let old = self.members();
            let peers = without_doubles(change(&old.peers())?)?;
            if !allow_absent && !peers.iter().any(|peer| self.is_this(peer)) {
                return Err(Error::SelfMissing {
                    id: self.this.name().into(),
                });
            }
            let dialect = self.settings.dialect;
            peers
                .iter()
                .try_for_each(|peer| check_weight(dialect, peer))?;
            let listed = peers.into_iter().map(|peer| self.listed(&old, peer));
            let how = Succession {
                dialect,
                is_leaving: self.is_leaving(),
                now: self.clock.now(),
                warm_up: self.settings.warm_up,
            };
            let new = Arc::new(old.followed_by(listed.collect::<Result<_, Error>>()?, how));
            if self.swap(&old, &new) {
                self.note_change(&old, &new);
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

    fn note_change(&self, old: &Members, new: &Members) {
        match (old.has_this(), new.has_this()) {
            (true, false) => log::warn!(
                target: "groupcache", this:% = self.this;
                "this node is not in the list of peers: it owns nothing and asks the others; \
                 if it should be, the list must name it like this"
            ),
            (false, true) => log::info!(
                target: "groupcache", this:% = self.this; "this node is in the list of peers again"
            ),
            _ => {}
        }
        if old.fingerprint() != new.fingerprint() {
            log::info!(
                target: "groupcache",
                peers = new.listed().len(), ring:% = format!("{:x}", new.fingerprint());
                "the ring has changed"
            );
        }
    }

    /// A peer of the new list: the same as before, if its id and its address are.
    fn listed(&self, old: &Members, peer: Peer) -> Result<Listed, Error> {
        if self.is_this(&peer) {
            return Ok(Listed { peer, remote: None });
        }
        let same = |remote: &Arc<Remote>| {
            remote.peer.name() == peer.name() && remote.peer.address() == peer.address()
        };
        let remote = match old.remotes().into_iter().find(same) {
            Some(remote) => remote,
            None => Arc::new(Remote::new(
                &peer,
                self.transport.link(&peer, &self.settings.limits)?,
                self.settings.circuit_failures,
                self.settings.dialect,
            )),
        };
        Ok(Listed {
            peer,
            remote: Some(remote),
        })
    }

    /// Calls a peer, no longer than `limit` and than the caller's `deadline`, and reads its answer.
    pub(crate) fn call<R>(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        call: Call,
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
        let began = self.clock.now();
        let sent = Sent::of(&call);
        let outcome = remote.link.call(&self.signed(remote, call), timeout);
        if outcome.is_ok() {
            let now = self.clock.now();
            remote.latency.record(now.saturating_duration_since(began));
        }
        let outcome = outcome.and_then(|reply| self.read(remote, &sent, reply, read));
        match outcome {
            Ok(result) => {
                self.succeeded(remote);
                Ok(result)
            }
            Err(CallError::Timeout) if timeout < limit => {
                remote.abandoned.add();
                self.suspect(remote);
                Err(Failure::Deadline)
            }
            Err(error) => {
                self.failed(remote, &error);
                Err(Failure::Away(error.to_string()))
            }
        }
    }

    fn read<R>(
        &self,
        remote: &Remote,
        sent: &Sent,
        reply: Reply,
        read: impl FnOnce(Status, Reply) -> Result<R, Nonsense>,
    ) -> Result<R, CallError> {
        if let Some(ring) = reply.header.as_deref().and_then(wire::ring_of) {
            self.compare_rings(remote, ring);
        }
        let status = match self.note_spoken(remote, &reply) {
            Dialect::Native => Status::of(reply.status, reply.header.as_deref()),
            Dialect::Golang => Some(Status::of_golang(reply.status)),
        };
        let status = status.ok_or_else(|| {
            CallError::Nonsense(format!("an answer with status {}", reply.status))
        })?;
        if status == Status::Unauthorized {
            return Err(CallError::Nonsense(format!(
                "it refuses this node: {}",
                text_of(&reply.body)
            )));
        }
        let belongs = match self.spoken(&reply) {
            Dialect::Native => sent.check(remote, &reply, status),
            Dialect::Golang => Ok(()),
        };
        let outcome = belongs.and_then(|()| read(status, reply));
        outcome.map_err(|nonsense| CallError::Nonsense(nonsense.0.to_owned()))
    }

    /// What an answer is spoken in.
    pub(crate) fn spoken(&self, reply: &Reply) -> Dialect {
        self.settings.dialect.spoken(reply.header.is_some())
    }

    /// A peer may speak another dialect after a restart, so every answer tells.
    fn note_spoken(&self, remote: &Remote, reply: &Reply) -> Dialect {
        let dialect = self.spoken(reply);
        if remote.spoken.set(dialect) {
            log::info!(
                target: "groupcache", peer:% = remote.peer, dialect:% = dialect;
                "what the peer speaks is known"
            );
        }
        dialect
    }

    /// What a peer speaks: as its last answer showed, or as it answers now.
    fn ask_dialect(self: &Arc<Self>, remote: &Arc<Remote>) -> Result<Dialect, Failure> {
        if let Some(dialect) = remote.speaks() {
            return Ok(dialect);
        }
        let limit = self.settings.fetch_timeout;
        self.call(remote, hello(), limit, Deadline::NEVER, |_, reply| {
            Ok(self.spoken(&reply))
        })
    }

    /// How long a peer may take for the answer to a GET. One that is not known to be native may be
    /// unable to say that it is still loading.
    pub(crate) fn patience_with(&self, remote: &Remote) -> Duration {
        match remote.speaks() {
            Some(Dialect::Native) => self.settings.fetch_timeout,
            _ => self.settings.fetch_timeout.max(self.settings.load_timeout),
        }
    }

    /// Notes it if a peer goes by another ring.
    fn compare_rings(&self, remote: &Remote, theirs: u64) {
        let members = self.members();
        let ours = members.fingerprint();
        if theirs == ours {
            return;
        }
        self.ring_mismatches.add();
        if members.have_just_changed(self.clock.now()) {
            return; // the others may not have heard of it yet, or this node not of what is next
        }
        if let Some(unreported) = self.mismatch_reports.admit(self.clock.now()) {
            log::warn!(
                target: "groupcache",
                peer:% = remote.peer, theirs:% = format!("{theirs:x}"), ours:% = format!("{ours:x}"),
                unreported = unreported;
                "the peer has another list of peers: keys may be loaded more than once"
            );
        }
    }

    fn succeeded(&self, remote: &Remote) {
        remote.suspicion.note_answer();
        if remote.circuit.succeed() {
            remote.note_back();
        }
    }

    fn failed(self: &Arc<Self>, remote: &Remote, error: &CallError) {
        remote.errors.add();
        if remote.circuit.fail() {
            self.note_away(remote, error);
        }
    }

    /// Notes that the circuit has opened.
    pub(crate) fn note_away(self: &Arc<Self>, remote: &Remote, error: &CallError) {
        log::warn!(
            target: "groupcache", peer:% = remote.peer, error:% = error;
            "the peer is away; its keys are loaded here until it answers"
        );
        self.ring_keeper();
    }

    /// Has `sweep` called about once a second from when [`ring_keeper`](Cluster::ring_keeper) is
    /// called until it says that there is nothing more.
    pub(crate) fn add_sweep(&self, sweep: Weak<dyn Sweep>) {
        let mut sweeps = self.sweeps.lock();
        sweeps.retain(|sweep| sweep.strong_count() > 0);
        sweeps.push(sweep);
    }

    pub(crate) fn ring_keeper(self: &Arc<Self>) {
        let cluster = Arc::downgrade(self);
        self.keeper.ring(&self.clock, || {
            move || cluster.upgrade().map(|cluster| cluster.keep())
        });
    }

    /// Tells a peer of a change. What it misses it is owed, unless it cannot be told at all.
    pub(crate) fn tell(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        group: &str,
        change: &Change<'_>,
    ) -> Result<(), Failure> {
        let told = match self.ask_dialect(remote) {
            Ok(Dialect::Native) => self.tell_native(remote, group, change),
            Ok(Dialect::Golang) => Err(Failure::Unsupported),
            Err(failure) => Err(failure),
        };
        if matches!(told, Err(Failure::Deadline | Failure::Away(_))) {
            remote.owed.add(group, change.missed(self.clock.now()));
            self.ring_keeper();
        }
        told
    }

    fn tell_native(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        group: &str,
        change: &Change<'_>,
    ) -> Result<(), Failure> {
        let call = change.call(group, self.members().fingerprint());
        let limit = self.settings.fetch_timeout;
        let told = self.call(remote, call, limit, Deadline::NEVER, |status, reply| {
            match status {
                // Another process than the last time.
                _ if self.spoken(&reply) == Dialect::Golang => Ok(Err(Failure::Unsupported)),
                // A peer without the group has nothing of it.
                Status::Ok | Status::NoSuchGroup => Ok(Ok(())),
                Status::TooLarge => Ok(Err(Failure::Away("the value is too large for it".into()))),
                _ => Err(Nonsense("it refuses the change")),
            }
        });
        told.and_then(|told| told)
    }

    /// Runs `tell` for all `remotes` at the same time, and returns who was not reached.
    pub(crate) fn tell_all(
        &self,
        remotes: &[Arc<Remote>],
        tell: impl Fn(&Arc<Remote>) -> Result<(), Failure> + Sync,
    ) -> Vec<Unreached> {
        let told = self.fanout.each(remotes, |remote| {
            tell(remote).err().map(|failure| remote.unreached(&failure))
        });
        told.into_iter().flatten().collect()
    }

    /// The keeper's round: lets expired values go, probes the peers that are away, so that no caller
    /// has to, and delivers what the others are owed. Tells whether there is more to do soon.
    fn keep(self: &Arc<Self>) -> bool {
        let now = self.clock.now();
        let sweeps = self.sweeps.lock().clone();
        self.forget_past(now);
        let mut more = false;
        for sweep in sweeps.iter().filter_map(Weak::upgrade) {
            more |= sweep.sweep();
        }
        let remotes = self.members().remotes();
        let is_due = |remote: &&Arc<Remote>| remote.has_left() || remote.circuit.is_to_be_probed();
        let away: Vec<_> = remotes.iter().filter(is_due).cloned().collect();
        // All at once: one that is silent must not keep the others from being found.
        self.fanout.each(&away, |remote| self.probe(remote));
        for remote in remotes {
            remote.owed.age(now);
            let is_back = !remote.circuit.is_open();
            if is_back {
                self.deliver(&remote);
            }
            more |= !is_back || remote.has_left() || !remote.owed.is_empty();
        }
        more
    }

    /// Lets the earlier rings go that are of no use any more, and the ways to peers that are gone.
    pub(crate) fn forget_past(&self, now: Instant) {
        let members = self.members();
        if let Some(newer) = members.without_past(now) {
            // Where the list has just changed, its turn comes another time.
            self.swap(&members, &Arc::new(newer));
        }
    }

    fn probe(self: &Arc<Self>, remote: &Remote) {
        // Any answer shows that it is there, but one that sends us away.
        let call = self.signed(remote, hello());
        let answer = remote.link.call(&call, self.settings.fetch_timeout);
        if let Ok(reply) = &answer {
            self.note_spoken(remote, reply);
            if reply.status == Status::Unauthorized.code() {
                return;
            }
            if remote.circuit.half_open() {
                remote.note_back();
            }
            let status = Status::of(reply.status, reply.header.as_deref());
            self.note_left(remote, status == Some(Status::Leaving));
        }
    }

    /// Takes a peer off the ring that leaves, and puts one back that does not.
    fn note_left(self: &Arc<Self>, remote: &Remote, has_left: bool) {
        if remote.note_left(has_left) {
            // The same list: nothing in it can be wrong.
            let _ = self.change_peers(true, |peers| Ok(peers.to_vec()));
            self.ring_keeper(); // which finds out when it is back
        }
    }

    /// Whether this node has said that it leaves.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Takes this node off the ring, here and at all peers; returns who was not reached.
    pub(crate) fn leave(self: &Arc<Self>, deadline: Deadline) -> Vec<Unreached> {
        self.is_leaving.store(true, Ordering::Release);
        let _ = self.change_peers(true, |peers| Ok(peers.to_vec()));
        log::info!(target: "groupcache", "this node leaves the ring");
        let announce = |remote: &Arc<Remote>| self.announce(remote, deadline);
        self.tell_all(&self.members().remotes(), announce)
    }

    fn announce(self: &Arc<Self>, remote: &Arc<Remote>, deadline: Deadline) -> Result<(), Failure> {
        if self.ask_dialect(remote)? == Dialect::Golang {
            return Err(Failure::Unsupported);
        }
        let limit = self.settings.fetch_timeout;
        self.call(
            remote,
            departure(&self.this),
            limit,
            deadline,
            |status, _| {
                let is_ok = status == Status::Ok;
                is_ok
                    .then_some(())
                    .ok_or(Nonsense("it refuses the departure"))
            },
        )
    }

    /// A peer says that it leaves.
    pub(crate) fn departed(self: &Arc<Self>, id: &str) {
        let remotes = self.members().remotes();
        if let Some(remote) = remotes.iter().find(|remote| remote.peer.name() == id) {
            self.note_left(remote, true);
        }
    }

    pub(crate) fn signed(&self, remote: &Remote, call: Call) -> Call {
        match &self.guard {
            Some(guard) => guard.sign(call, &remote.peer),
            None => call,
        }
    }

    fn deliver(self: &Arc<Self>, remote: &Arc<Remote>) {
        for (group, missed) in remote.owed.take() {
            // What does not arrive is owed again.
            let _ = match &missed {
                Missed::All => self.tell(remote, &group, &Change::Clear),
                Missed::Keys { keys, .. } => {
                    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
                    let tell = |keys| self.tell(remote, &group, &Change::Remove(keys));
                    // Also after one that failed: what is not told is not owed either.
                    batches(&keys).map(tell).fold(Ok(()), Result::and)
                }
            };
        }
        remote.owed.end_delivery();
    }

    pub(crate) fn stats(&self) -> NodeStats {
        let members = self.members();
        let (threads, busy) = self.pool.threads();
        let peer = |listed: &Listed| {
            let share = members.share(listed.remote.as_ref());
            match &listed.remote {
                Some(remote) => remote.stats(share),
                None => self.own_stats(&listed.peer, share),
            }
        };
        NodeStats {
            peers: members.listed().iter().map(peer).collect(),
            ring: members.fingerprint(),
            ring_mismatches: self.ring_mismatches.get(),
            is_absent: !members.has_this(),
            discovery_polls: self.discovery_polls.get(),
            discovery_errors: self.discovery_errors.get(),
            refused_requests: self.guard.as_ref().map_or(0, Guard::refused),
            loader_threads: threads as u64,
            loader_threads_busy: busy as u64,
        }
    }

    fn own_stats(&self, this: &Peer, ring_share: f64) -> PeerStats {
        PeerStats {
            id: this.name().to_owned(),
            address: this.address(),
            is_this_node: true,
            has_left: self.is_leaving(),
            ring_share,
            circuit: CircuitState::Closed,
            dialect: Some(Dialect::Native),
            calls: 0,
            call_errors: 0,
            abandoned_calls: 0,
            retries: 0,
            circuit_openings: 0,
            owed: 0,
            latency: Latency::default(),
        }
    }
}

/// A request that was sent, by which its answer is checked (P3).
struct Sent {
    is_get: bool,
    hash: u64,
}

impl Sent {
    fn of(call: &Call) -> Sent {
        Sent {
            is_get: call.method == "GET",
            hash: wire::hash_of_request(call.method, &call.target, &call.body),
        }
    }

    /// Whether an answer belongs to this request, or does no harm if it does not. That of an older
    /// node does not say; but neither does that of whatever else listens at the address of a peer, so
    /// one without our header is not believed.
    fn check(&self, remote: &Remote, reply: &Reply, status: Status) -> Result<(), Nonsense> {
        let named = reply.header.as_deref().map(wire::request_of);
        if named == Some(Some(self.hash)) {
            remote.note_names_requests();
            return Ok(());
        }
        if named == Some(None) && !remote.names_requests() || self.is_harmless(status) {
            return Ok(());
        }
        Err(Nonsense("the answer does not belong to the request"))
    }

    /// Whether nothing wrong comes of an answer to another request.
    fn is_harmless(&self, status: Status) -> bool {
        match status {
            // A value says which key it belongs to, and without the group it is loaded here.
            Status::Ok | Status::NoSuchGroup => self.is_get,
            Status::NotFound | Status::LoadFailed => false,
            // A listener says so of a body, before it knows more.
            Status::TooLarge => !self.is_get,
            _ => true,
        }
    }
}

/// `keys` in parts that fit into a request.
pub(crate) fn batches<'a>(keys: &'a [&'a str]) -> impl Iterator<Item = &'a [&'a str]> {
    keys.chunks(KEYS_OF_A_REQUEST)
}

/// The text that a peer sends along, for people: no more than a line of it.
fn text_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..MAX_TEXT).unwrap_or(body));
    let printable = |char: &char| !char.is_control();
    text.chars().filter(printable).collect()
}

/// What tells a peer that this node leaves.
fn departure(this: &Peer) -> Call {
    let terms = Terms {
        native: true,
        ..Terms::default()
    };
    Call::new("POST", wire::BASE.to_owned(), terms.to_header())
        .with_body(wire::encode_departure(this.name()))
}

/// The smallest request that every peer answers.
pub(crate) fn hello() -> Call {
    Call::new("GET", wire::BASE.to_owned(), String::new())
}

pub(crate) fn check_weight(dialect: Dialect, peer: &Peer) -> Result<(), Error> {
    if dialect == Dialect::Golang && peer.weight != 1.0 {
        let reason = "the ring of golang/groupcache knows no weights: leave it at 1";
        return Err(Error::peer(peer.name(), reason));
    }
    Ok(())
}
