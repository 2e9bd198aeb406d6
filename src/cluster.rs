//! `Cluster`: what the groups of a node share. Ring, peers, transport, clock, loader pool.

use std::time::Duration;

use crate::change::Change;
use crate::circuit::Circuit;
use crate::combiner::{Combiner, Question};
use crate::deadline::{Clock, Deadline};
use crate::dialect::{Dialect, Spoken};
use crate::error::{Error, Unreached};
use crate::guard::Guard;
use crate::keeper::Keeper;
use crate::owed::{Missed, Owed};
use crate::peer::{Call, CallError, Limits, Link, Peer, Reply, Transport};
use crate::pool::{Pool, each_at_once};
use crate::ring::{Member, Ring};
use crate::stats::{CircuitState, Counter, NodeStats, PeerStats};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering, RwLock, Weak, callers_at_once};
use crate::waits::Waits;
use crate::wire::{self, Item, Nonsense, Status};

/// How many keys one request removes: about 1 MiB if all are as long as can be.
const KEYS_OF_A_REQUEST: usize = 64;

/// How much is shown of a text that a peer sends, in bytes.
const MAX_TEXT: usize = 400;

/// Why a call failed, as its caller must know.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The caller's own time is up. Says nothing about the peer (I6).
    Deadline,
    /// The peer is away: refused, silent, nonsense, or known to be so.
    Away(String),
    /// The peer speaks a dialect that has no such request.
    Unsupported,
}

/// A peer other than this node.
pub(crate) struct Remote {
    pub(crate) peer: Peer,
    link: Arc<dyn Link>,
    /// Those who ask it for values.
    line: Arc<Combiner<Asked, Said>>,
    knows_batches: AtomicBool,
    circuit: Circuit,
    spoken: Spoken,
    /// The removals it has missed.
    owed: Owed,
    calls: Counter,
    errors: Counter,
    /// Calls whose caller had no more time.
    abandoned: Counter,
}

/// What a peer says of one of many keys.
pub(crate) type Said = Result<Item, Failure>;

/// A key that is asked for, perhaps together with others.
pub(crate) struct Asked {
    pub(crate) group: String,
    pub(crate) key: String,
    /// Hits of a mirrored copy that the owner does not know of.
    pub(crate) hits: u32,
}

impl Question for Asked {
    fn goes_with(&self, other: &Asked) -> bool {
        self.group == other.group
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
        if let [None] = self.remotes[..] {
            return Owner::This; // it is alone: the ring says nothing else
        }
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

impl PartialEq for Owner {
    fn eq(&self, other: &Owner) -> bool {
        match (self, other) {
            (Owner::This, Owner::This) => true,
            (Owner::Peer(one), Owner::Peer(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// The settings of a node that its groups need.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) fetch_timeout: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) fallback_life: Duration,
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
    pub(crate) waits: Arc<Waits>,
    /// Signs and checks requests, if the peers share a secret.
    pub(crate) guard: Option<Guard>,
    transport: Arc<dyn Transport>,
    members: RwLock<Arc<Members>>,
    keeper: Keeper,
    /// What lets its expired values go: the groups.
    sweeps: Mutex<Vec<Weak<dyn Sweep>>>,
    ring_mismatches: Counter,
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
        let alone = Members {
            ring: ring_of(settings.dialect, std::slice::from_ref(&this)),
            remotes: vec![None],
            peers: vec![this.clone()],
        };
        Arc::new(Cluster {
            this,
            settings,
            clock,
            pool,
            waits: Waits::new(),
            guard,
            transport,
            members: RwLock::new(Arc::new(alone)),
            keeper: Keeper::default(),
            sweeps: Mutex::new(Vec::new()),
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
            let dialect = self.settings.dialect;
            peers
                .iter()
                .try_for_each(|peer| check_weight(dialect, peer))?;
            let remote = |peer: &Peer| {
                let other = (!self.is_this(peer)).then(|| self.remote(&old, peer));
                other.transpose()
            };
            let new = Arc::new(Members {
                ring: ring_of(dialect, &peers),
                remotes: peers.iter().map(remote).collect::<Result<_, Error>>()?,
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

    fn remote(&self, old: &Members, peer: &Peer) -> Result<Arc<Remote>, Error> {
        let same = |remote: &&Arc<Remote>| {
            remote.peer.name() == peer.name() && remote.peer.address() == peer.address()
        };
        if let Some(remote) = old.remotes.iter().flatten().find(same) {
            return Ok(Arc::clone(remote));
        }
        Ok(Arc::new(Remote {
            peer: peer.clone(),
            link: self.transport.link(peer, &self.settings.limits)?,
            line: Combiner::new(callers_at_once()),
            knows_batches: AtomicBool::new(true),
            circuit: Circuit::new(self.settings.circuit_failures),
            // A native cluster has no others.
            spoken: Spoken::new(match self.settings.dialect {
                Dialect::Native => Some(Dialect::Native),
                Dialect::Golang => None,
            }),
            owed: Owed::default(),
            calls: Counter::default(),
            errors: Counter::default(),
            abandoned: Counter::default(),
        }))
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
        let outcome = remote
            .link
            .call(&self.signed(remote, call), timeout)
            .and_then(|reply| self.read(remote, reply, read));
        match outcome {
            Ok(result) => {
                self.succeeded(remote);
                Ok(result)
            }
            Err(CallError::Timeout) if timeout < limit => {
                remote.abandoned.add();
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
        reply: Reply,
        read: impl FnOnce(Status, Reply) -> Result<R, Nonsense>,
    ) -> Result<R, CallError> {
        let ring = reply.header.as_deref().and_then(wire::ring_of);
        if ring.is_some_and(|ring| ring != self.members().fingerprint()) {
            self.ring_mismatches.add();
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
        read(status, reply).map_err(|nonsense| CallError::Nonsense(nonsense.0.to_owned()))
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

    fn succeeded(&self, remote: &Remote) {
        if remote.circuit.succeed() {
            is_back(remote);
        }
    }

    fn failed(self: &Arc<Self>, remote: &Remote, error: &CallError) {
        remote.errors.add();
        if remote.circuit.fail() {
            log::warn!(
                target: "groupcache", peer:% = remote.peer, error:% = error;
                "the peer is away; its keys are loaded here until it answers"
            );
            self.ring_keeper();
        }
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
        let told = each_at_once(remotes, |remote| {
            tell(remote).err().map(|failure| remote.unreached(&failure))
        });
        told.into_iter().flatten().collect()
    }

    /// The keeper's round: lets expired values go, probes the peers that are away, so that no caller
    /// has to, and delivers what the others are owed. Tells whether there is more to do soon.
    fn keep(self: &Arc<Self>) -> bool {
        let now = self.clock.now();
        let sweeps = self.sweeps.lock().clone();
        let mut more = false;
        for sweep in sweeps.iter().filter_map(Weak::upgrade) {
            more |= sweep.sweep();
        }
        let remotes = self.members().remotes();
        let is_due = |remote: &&Arc<Remote>| remote.circuit.is_to_be_probed();
        let away: Vec<_> = remotes.iter().filter(is_due).cloned().collect();
        // All at once: one that is silent must not keep the others from being found.
        each_at_once(&away, |remote| self.probe(remote));
        for remote in remotes {
            remote.owed.age(now);
            let is_back = !remote.circuit.is_open();
            if is_back {
                self.deliver(&remote);
            }
            more |= !is_back || !remote.owed.is_empty();
        }
        more
    }

    fn probe(&self, remote: &Remote) {
        // Any answer shows that it is there, but one that sends us away.
        let call = self.signed(remote, hello());
        let answer = remote.link.call(&call, self.settings.fetch_timeout);
        if let Ok(reply) = &answer {
            self.note_spoken(remote, reply);
            if reply.status != Status::Unauthorized.code() && remote.circuit.half_open() {
                is_back(remote);
            }
        }
    }

    fn signed(&self, remote: &Remote, call: Call) -> Call {
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
        let peer = |(at, peer): (usize, &Peer)| {
            let remote = members.remotes[at].as_deref();
            PeerStats {
                id: peer.name().to_owned(),
                address: peer.address(),
                is_this_node: remote.is_none(),
                ring_share: members.ring.share(at),
                circuit: remote.map_or(CircuitState::Closed, Remote::circuit_state),
                dialect: remote.map_or(Some(Dialect::Native), Remote::speaks),
                calls: remote.map_or(0, |remote| remote.calls.get()),
                call_errors: remote.map_or(0, |remote| remote.errors.get()),
                abandoned_calls: remote.map_or(0, |remote| remote.abandoned.get()),
                retries: remote.map_or(0, |remote| remote.link.retries()),
                circuit_openings: remote.map_or(0, |remote| remote.circuit.openings()),
                owed: remote.map_or(0, |remote| remote.owed.len() as u64),
            }
        };
        NodeStats {
            peers: members.peers.iter().enumerate().map(peer).collect(),
            ring: members.fingerprint(),
            ring_mismatches: self.ring_mismatches.get(),
            refused_requests: self.guard.as_ref().map_or(0, Guard::refused),
            loader_threads: threads as u64,
            loader_threads_busy: busy as u64,
        }
    }
}

impl Remote {
    pub(crate) fn line(&self) -> &Arc<Combiner<Asked, Said>> {
        &self.line
    }

    /// Whether it can be asked for many keys at once, as far as is known.
    pub(crate) fn takes_batches(&self) -> bool {
        self.speaks() == Some(Dialect::Native) && self.knows_batches.load(Ordering::Relaxed)
    }

    pub(crate) fn note_no_batches(&self) {
        self.knows_batches.store(false, Ordering::Relaxed);
    }

    /// What it speaks, as its last answer showed; `None` if there was none yet.
    pub(crate) fn speaks(&self) -> Option<Dialect> {
        self.spoken.get()
    }

    pub(crate) fn unreached(&self, failure: &Failure) -> Unreached {
        Unreached {
            peer: self.peer.name().to_owned(),
            reason: match failure {
                Failure::Deadline => "no time left".to_owned(),
                Failure::Away(reason) => reason.clone(),
                Failure::Unsupported => {
                    "unsupported: golang/groupcache can neither remove nor set".to_owned()
                }
            },
            unsupported: matches!(failure, Failure::Unsupported),
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

/// `keys` in parts that fit into a request.
pub(crate) fn batches<'a>(keys: &'a [&'a str]) -> impl Iterator<Item = &'a [&'a str]> {
    keys.chunks(KEYS_OF_A_REQUEST)
}

fn is_back(remote: &Remote) {
    remote.knows_batches.store(true, Ordering::Relaxed); // it may be a newer one
    log::info!(target: "groupcache", peer:% = remote.peer; "the peer is back");
}

/// The text that a peer sends along, for people: no more than a line of it.
fn text_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..MAX_TEXT).unwrap_or(body));
    let printable = |char: &char| !char.is_control();
    text.chars().filter(printable).collect()
}

/// The smallest request that every peer answers.
fn hello() -> Call {
    Call::new("GET", wire::BASE.to_owned(), String::new())
}

fn ring_of(dialect: Dialect, peers: &[Peer]) -> Ring {
    let member = |peer: &Peer| Member {
        id: match dialect {
            Dialect::Native => peer.id.clone(),
            Dialect::Golang => peer.spelled.clone(),
        },
        weight: peer.weight,
    };
    let members: Vec<Member> = peers.iter().map(member).collect();
    match dialect {
        Dialect::Native => Ring::new(&members),
        Dialect::Golang => Ring::golang(&members),
    }
}

pub(crate) fn check_weight(dialect: Dialect, peer: &Peer) -> Result<(), Error> {
    if dialect == Dialect::Golang && peer.weight != 1.0 {
        let reason = "the ring of golang/groupcache knows no weights: leave it at 1";
        return Err(Error::peer(peer.name(), reason));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_one_peer_and_contradictions_an_error() {
        let peer = |address: &str| Peer::new(address).unwrap();
        let list = vec![peer("http://a:1"), peer("http://a:1/")];
        assert_eq!(without_doubles(list).unwrap().len(), 1);
        let list = vec![peer("http://a:1").id("x"), peer("http://b:1").id("x")];
        assert!(without_doubles(list).is_err());
    }
}
