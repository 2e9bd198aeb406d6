//! `Cluster`: what the groups of a node share. Ring, peers, transport, clock, loader pool.

use std::collections::HashSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::auth::gate::Gate;
use crate::auth::guard::Guard;
use crate::cache::key::MAX_ID_BYTES;
use crate::cluster::change::{Change, Reach};
use crate::cluster::journal::{ChangeInfo, Entry, Journal, Lacked, Lacks, MEMORY, Parcel, Refused};
use crate::cluster::members::{Listed, Members, Succession, without_doubles};
use crate::cluster::remote::{Failure, Marks, Remote};
use crate::error::{Error, Unreached};
use crate::flight::wait_graph::WaitGraph;
use crate::protocol::dialect::Dialect;
use crate::protocol::{
    self, MAX_MARKS, MAX_TOLD, NodeCommand, ProtocolError, Removal, Stamp, Status, Terms, Whom,
};
use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::fanout::Fanout;
use crate::runtime::log_throttle::LogThrottle;
use crate::runtime::maintenance::{Maintenance, guarded};
use crate::runtime::pool::Pool;
use crate::runtime::rate_limit::RateLimit;
use crate::runtime::sync::{Arc, AtomicBool, Mutex, Ordering, RwLock, Weak};
use crate::stats::latency::Latency;
use crate::stats::{CircuitState, Counter, NodeStats, PeerStats};
use crate::transport::peer::{Call, CallError, Limits, Peer, Reply, Transport};

/// How many keys one request removes: about 1 MiB if all are as long as can be.
const KEYS_OF_A_REQUEST: usize = 64;

/// How many removals one request hands over, and how many bytes their keys have.
const REMOVALS_OF_A_REQUEST: usize = 1_000;
const BYTES_OF_A_REQUEST: usize = 1 << 19;

/// How many bytes the ids of those have whom the receiver need not tell.
const BYTES_OF_IDS: usize = 1 << 16;

/// How long a peer is left alone that could not be told of a removal, and how often values leave
/// whose time is over.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a round of the maintenance tells a peer what it lacks: others wait for their probes.
const ROUND: Duration = Duration::from_secs(1);

/// How long a peer is left alone that speaks the dialect of Go, and lacks what was removed before it
/// did.
const GOLANG_PAUSE: Duration = Duration::from_secs(5);

/// How many peers that have left the list are told of removals still.
const MAX_ASIDE: usize = 64;

/// How often a value is told to its owner that takes it for an older one.
pub(crate) const MAX_TELLINGS: usize = 3;

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

/// How long a peer may take for an answer, whatever time its caller has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    /// Until the answer begins, and then as [`Link::call`](crate::transport::peer::Link::call) says.
    silence: Duration,
    /// For all of it.
    whole: Duration,
}

impl Limit {
    /// However steadily it comes.
    pub(crate) fn of_all(whole: Duration) -> Limit {
        Limit {
            silence: whole,
            whole,
        }
    }
}

/// What the groups of a node share. Holds no group, so there is no cycle.
pub(crate) struct Cluster {
    this: Peer,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) pool: Pool,
    pub(crate) fanout: Fanout,
    pub(crate) wait_graph: Arc<WaitGraph>,
    /// Says whom requests are meant for, and whether this node is.
    pub(crate) gate: Gate,
    /// Signs and checks requests, if the peers share a secret.
    pub(crate) guard: Option<Guard>,
    transport: Arc<dyn Transport>,
    members: RwLock<Arc<Members>>,
    /// Held while the list is swapped and those who come and go are noted, so that this is done in
    /// one order. The only lock under which others are taken; no user code runs under it.
    change: Mutex<()>,
    /// Whether this node has said that it leaves.
    is_leaving: AtomicBool,
    /// The removals of the last minutes.
    pub(crate) journal: Journal,
    /// Peers that have left the list, and when. They are told of removals for some time, as they
    /// may come back.
    aside: Mutex<Vec<(Arc<Remote>, Instant)>>,
    /// Probes peers, and tells them of what they lack.
    maintenance: Maintenance,
    /// Lets expired values go. A thread of its own, as listeners hear of each, which is foreign
    /// code: a slow one must not keep a peer away.
    sweeper: Maintenance,
    /// What lets its expired values go: the groups.
    sweeps: Mutex<Vec<Weak<dyn Sweep>>>,
    /// How often the ring is made anew because peers leave and come back, as others say.
    renewals: RateLimit,
    ring_mismatches: Counter,
    pub(crate) discovery_polls: Counter,
    pub(crate) discovery_errors: Counter,
    mismatch_reports: LogThrottle,
    refusal_reports: LogThrottle,
}

/// A change that is written down, until all have been told of it.
pub(crate) struct Recorded {
    cluster: Arc<Cluster>,
    /// The part of the journal that those lack who cannot be told.
    part: Range<u64>,
    stamp: Stamp,
    /// Whether one that was told goes by another ring.
    has_met_other_ring: AtomicBool,
}

impl Recorded {
    /// Whether one that was told goes by another ring: its owners may have been told later than
    /// those who fetch from them.
    pub(crate) fn has_met_other_ring(&self) -> bool {
        self.has_met_other_ring.load(Ordering::Acquire)
    }

    /// Whether a set of `key` was rightly refused as an older change.
    pub(crate) fn refused_set(&self, group: &str, key: &str) -> Refused {
        self.cluster.journal.refused_set(group, key, &self.part)
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.cluster.finish(&self.part);
    }
}

/// What a peer answers that was told of a change.
struct Answer {
    /// Whether it has carried the change out; if not, it knows of a later one.
    is_taken: bool,
    /// The ring that it goes by.
    ring: Option<u64>,
}

/// Something that keeps values.
pub(crate) trait Sweep: Send + Sync {
    /// Lets those go whose time is over; tells whether there are others that will expire.
    fn sweep(&self) -> bool;

    /// Lets all of them go, or all copies.
    fn clear(&self, reach: Reach);
}

impl Cluster {
    /// A cluster of this node alone.
    pub(crate) fn new(
        this: Peer,
        settings: Settings,
        clock: Clock,
        pool: Pool,
        gate: Gate,
        guard: Option<Guard>,
        transport: Arc<dyn Transport>,
    ) -> Arc<Cluster> {
        let alone = Members::alone(this.clone(), settings.dialect);
        let journal = Journal::new(this.name(), clock.now());
        Arc::new(Cluster {
            this,
            settings,
            clock,
            pool,
            fanout: Fanout::default(),
            wait_graph: WaitGraph::of_process(),
            gate,
            guard,
            transport,
            members: RwLock::new(Arc::new(alone)),
            change: Mutex::new(()),
            is_leaving: AtomicBool::new(false),
            journal,
            aside: Mutex::new(Vec::new()),
            maintenance: Maintenance::new("groupcache-prober"),
            sweeper: Maintenance::new("groupcache-maintenance"),
            sweeps: Mutex::new(Vec::new()),
            renewals: RateLimit::default(),
            ring_mismatches: Counter::default(),
            discovery_polls: Counter::default(),
            discovery_errors: Counter::default(),
            mismatch_reports: LogThrottle::default(),
            refusal_reports: LogThrottle::default(),
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
        self: &Arc<Self>,
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
                .try_for_each(|peer| check_peer(dialect, peer))?;
            let listed = peers.into_iter().map(|peer| self.listed(&old, peer));
            let how = Succession {
                dialect,
                is_leaving: self.is_leaving(),
                now: self.clock.now(),
                warm_up: self.settings.warm_up,
            };
            let new = Arc::new(old.followed_by(listed.collect::<Result<_, Error>>()?, how));
            if self.put_in_force(&old, &new) {
                self.note_change(&old, &new);
                self.introduce(&old, &new);
                return Ok(());
            }
            // Somebody else has changed the list meanwhile: neither change may undo the other.
        }
    }

    /// Swaps the list, and sees to it that those who come to it, and those who leave it, miss no
    /// removal.
    fn put_in_force(&self, old: &Arc<Members>, new: &Arc<Members>) -> bool {
        let change = self.change.lock();
        // What is written from here on, or is being told, may be told to the new list only.
        let end = self.journal.end_of_finished();
        if !self.swap(old, new) {
            return false;
        }
        let (before, after) = (old.remotes(), new.remotes());
        for remote in after.iter().filter(|remote| !is_among(&before, remote)) {
            // It lacks what was written before it was there.
            remote.lacks.end_at(self.journal.end());
        }
        let gone = before
            .into_iter()
            .filter(|remote| !is_among(&after, remote));
        let gone: Vec<_> = gone.collect();
        for remote in &gone {
            remote.lacks.add(end..u64::MAX);
        }
        let dropped = self.set_aside(gone, &after);
        drop(change);
        drop(dropped); // links are user code (I1)
        true
    }

    /// Has those told of removals who are gone from the list, and no more those who are in it;
    /// returns who is not told any more.
    fn set_aside(
        &self,
        gone: Vec<Arc<Remote>>,
        listed: &[Arc<Remote>],
    ) -> Vec<(Arc<Remote>, Instant)> {
        let now = self.clock.now();
        let mut aside = self.aside.lock();
        let (mut kept, mut dropped): (Vec<_>, Vec<_>) = std::mem::take(&mut *aside)
            .into_iter()
            .partition(|(remote, since)| {
                !is_among(listed, remote) && now.saturating_duration_since(*since) <= MEMORY
            });
        kept.extend(gone.into_iter().map(|remote| (remote, now)));
        dropped.extend(kept.drain(..kept.len().saturating_sub(MAX_ASIDE)));
        *aside = kept;
        dropped
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

    /// Has those told of removals who come to the list, and those who leave it.
    fn introduce(self: &Arc<Self>, old: &Members, new: &Members) {
        if old.has_this() != new.has_this() {
            // Nobody tells a node of removals that is in no list. So it keeps nothing of what it
            // owned before, and, back in the list, nothing of what it was asked for meanwhile.
            self.clear_all(Reach::All);
            new.remotes()
                .iter()
                .for_each(|remote| remote.note_marks(Marks::Unasked));
        }
        // Once each of them is in one of the two lists: the maintenance may have looked in between.
        self.all_told()
            .iter()
            .for_each(|remote| self.wake_maintenance_for(remote));
    }

    /// Those who are told of removals: who is in the list, or has left it not long ago.
    fn all_told(&self) -> Vec<Arc<Remote>> {
        let mut all = self.members().remotes();
        let mut aside = self.aside(self.clock.now());
        aside.retain(|remote| !is_among(&all, remote)); // it may have come back in between
        all.extend(aside);
        all
    }

    /// Those who are told of removals still, though they are not in the list.
    fn aside(&self, now: Instant) -> Vec<Arc<Remote>> {
        let (kept, dropped): (Vec<_>, Vec<_>) = {
            let mut aside = self.aside.lock();
            let all = std::mem::take(&mut *aside).into_iter();
            let is_recent = |since: Instant| now.saturating_duration_since(since) <= MEMORY;
            let (kept, dropped) = all.partition(|&(_, since)| is_recent(since));
            *aside = kept;
            (aside.clone(), dropped)
        };
        drop(dropped); // links are user code (I1)
        kept.into_iter().map(|(remote, _)| remote).collect()
    }

    /// Has all groups let all go that they keep.
    pub(crate) fn clear_all(&self, reach: Reach) {
        let groups = self.sweeps.lock().clone();
        groups
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|group| group.clear(reach));
    }

    /// A peer of the new list: the same as before, if its id and its address are.
    fn listed(&self, old: &Members, peer: Peer) -> Result<Listed, Error> {
        if self.is_this(&peer) {
            return Ok(Listed { peer, remote: None });
        }
        let same = |remote: &Arc<Remote>| {
            remote.peer.name() == peer.name() && remote.peer.address() == peer.address()
        };
        let aside = self.aside(self.clock.now());
        let remote = match old.remotes().into_iter().chain(aside).find(same) {
            Some(remote) => remote,
            None => {
                let remote = Remote::new(
                    &peer,
                    self.transport.link(&peer, &self.settings.limits)?,
                    self.gate.addressed(&peer),
                    self.settings.circuit_failures,
                    self.settings.dialect,
                );
                // Before anything is fetched from it, and until it is in the list.
                let all = self.journal.all(self.clock.now());
                remote.lacks.add(all.start..u64::MAX);
                Arc::new(remote)
            }
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
        mut call: Call,
        limit: Limit,
        deadline: Deadline,
        read: impl FnOnce(Status, Reply) -> Result<R, ProtocolError>,
    ) -> Result<R, Failure> {
        if remote.circuit.is_open() {
            return Err(Failure::Unreachable(
                "it failed before and is being probed".to_owned(),
            ));
        }
        let remaining = deadline.remaining(self.clock.now());
        if remaining.is_some_and(|remaining| remaining.is_zero()) {
            return Err(Failure::Deadline);
        }
        let within = |limit: Duration| remaining.map_or(limit, |remaining| remaining.min(limit));
        let timeout = within(limit.silence);
        call.whole = within(limit.whole);
        let whole = call.whole;
        remote.calls.add();
        let began = self.clock.now();
        let sent = Sent::of(&call);
        let outcome = self.send(remote, call, timeout);
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
            Err(CallError::Timeout) if timeout < limit.silence => Err(self.given_up(remote)),
            Err(CallError::Unfinished) if whole < limit.whole => Err(self.given_up(remote)),
            // It is slow, and not away: only whether it is there is found out.
            Err(error @ CallError::Unfinished) => {
                remote.errors.add();
                self.suspect(remote);
                Err(Failure::Unreachable(error.to_string()))
            }
            Err(error) => {
                self.failed(remote, &error);
                Err(Failure::Unreachable(error.to_string()))
            }
        }
    }

    /// Notes that a call was not answered in the time of its caller.
    fn given_up(self: &Arc<Self>, remote: &Arc<Remote>) -> Failure {
        remote.abandoned.add();
        self.suspect(remote);
        Failure::Deadline
    }

    fn read<R>(
        &self,
        remote: &Remote,
        sent: &Sent,
        reply: Reply,
        read: impl FnOnce(Status, Reply) -> Result<R, ProtocolError>,
    ) -> Result<R, CallError> {
        if let Some(ring) = reply.header.as_deref().and_then(protocol::ring_of) {
            self.compare_rings(remote, ring);
        }
        let status = match self.note_spoken(remote, &reply) {
            Dialect::Native => Status::of(reply.status, reply.header.as_deref()),
            Dialect::Golang => Some(Status::of_golang(reply.status)),
        };
        let status = status.ok_or_else(|| {
            CallError::ProtocolError(format!("an answer with status {}", reply.status))
        })?;
        if status == Status::Unauthorized && self.guard.is_none() {
            remote.note_no_batches(); // it may answer a `GET` all the same
        }
        if status.is_refusal() {
            return Err(CallError::ProtocolError(format!(
                "it refuses this node: {}",
                text_of(&reply.body)
            )));
        }
        let belongs = match self.spoken(&reply) {
            Dialect::Native => sent.check(remote, &reply, status),
            Dialect::Golang => Ok(()),
        };
        let outcome = belongs.and_then(|()| read(status, reply));
        outcome.map_err(|error| CallError::ProtocolError(error.0.to_owned()))
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
    fn ask_dialect(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        deadline: Deadline,
    ) -> Result<Dialect, Failure> {
        if let Some(dialect) = remote.speaks() {
            return Ok(dialect);
        }
        let limit = self.limit();
        self.call(remote, hello(), limit, deadline, |_, reply| {
            Ok(self.spoken(&reply))
        })
    }

    /// How long a peer may take for the answer to a GET. One that is not known to be native may be
    /// unable to say that it is still loading.
    pub(crate) fn patience_with(&self, remote: &Remote) -> Limit {
        let limit = self.limit();
        match remote.speaks() {
            Some(Dialect::Native) => limit,
            _ => Limit::of_all(limit.whole),
        }
    }

    /// How long a peer may take for an answer that it need not wait for.
    pub(crate) fn limit(&self) -> Limit {
        let silence = self.settings.fetch_timeout;
        Limit {
            silence,
            whole: silence.max(self.settings.load_timeout),
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
        if remote.circuit.fail(self.clock.now()) {
            self.note_unreachable(remote, error);
        }
    }

    /// Notes that the circuit has opened.
    pub(crate) fn note_unreachable(self: &Arc<Self>, remote: &Remote, error: &CallError) {
        log::warn!(
            target: "groupcache", peer:% = remote.peer, error:% = error;
            "the peer is unreachable; its keys are loaded here until it answers"
        );
        self.wake_maintenance_for(remote);
    }

    /// Has `sweep` called about once a second from when [`wake_sweeper`](Cluster::wake_sweeper) is
    /// called until it says that there is nothing more.
    pub(crate) fn add_sweep(&self, sweep: Weak<dyn Sweep>) {
        let mut sweeps = self.sweeps.lock();
        sweeps.retain(|sweep| sweep.strong_count() > 0);
        sweeps.push(sweep);
    }

    pub(crate) fn wake_sweeper(self: &Arc<Self>) {
        let cluster = Arc::downgrade(self);
        let now = Deadline::at(self.clock.now());
        self.sweeper.wake(&self.clock, now, || {
            move || cluster.upgrade().map(|cluster| cluster.sweep())
        });
    }

    fn sweep(&self) -> Deadline {
        let sweeps = self.sweeps.lock().clone();
        let mut more = false;
        for sweep in sweeps.iter().filter_map(Weak::upgrade) {
            // Of one that panicked it is not known what it has left.
            more |= guarded(|| sweep.sweep()).unwrap_or(true);
        }
        match more {
            true => Deadline::after(self.clock.now(), PAUSE),
            false => Deadline::NEVER,
        }
    }

    fn wake_maintenance(self: &Arc<Self>, due: Instant) {
        let cluster = Arc::downgrade(self);
        self.maintenance.wake(&self.clock, Deadline::at(due), || {
            move || cluster.upgrade().map(|cluster| cluster.keep())
        });
    }

    fn wake_maintenance_for(self: &Arc<Self>, remote: &Remote) {
        if let Some(due) = self.due(remote, self.clock.now()) {
            self.wake_maintenance(due);
        }
    }

    /// Writes down that this node removes `keys` of a group, or all, before anybody is told.
    pub(crate) fn record(self: &Arc<Self>, group: &Arc<str>, keys: Option<&[&str]>) -> Recorded {
        let (part, stamp) = self.journal.record(group, keys, self.clock.now());
        Recorded {
            cluster: Arc::clone(self),
            part,
            stamp,
            has_met_other_ring: AtomicBool::new(false),
        }
    }

    /// Has those told of a change who joined or left while it was under way.
    fn finish(self: &Arc<Self>, part: &Range<u64>) {
        self.journal.finish(part);
        for remote in self.members().remotes() {
            self.wake_maintenance_for(&remote);
        }
        let has_aside = !self.aside.lock().is_empty();
        if let Some(due) = self.clock.now().checked_add(PAUSE).filter(|_| has_aside) {
            self.wake_maintenance(due);
        }
    }

    /// What this node says of a change that it makes itself.
    pub(crate) fn own(&self, recorded: &Recorded) -> ChangeInfo {
        ChangeInfo {
            stamp: Some(recorded.stamp),
            ring: Some(self.members().fingerprint()),
        }
    }

    /// What a peer says of its change.
    pub(crate) fn told(&self, terms: &Terms) -> ChangeInfo {
        ChangeInfo {
            stamp: terms.stamp,
            ring: terms.ring,
        }
    }

    /// Tells a peer of a change. What it misses it lacks, unless it cannot be told at all.
    pub(crate) fn tell(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        group: &str,
        change: &Change<'_>,
        recorded: &Recorded,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let told = match self.ask_dialect(remote, deadline) {
            Ok(Dialect::Native) => self.tell_until_taken(remote, group, change, recorded, deadline),
            Ok(Dialect::Golang) => Err(Failure::Unsupported),
            Err(failure) => Err(failure),
        };
        if matches!(told, Err(ref failure) if !matches!(failure, Failure::Unsupported)) {
            remote.lacks.add(recorded.part.clone());
            self.put_off_delivery(remote, PAUSE);
        }
        told
    }

    fn put_off_delivery(self: &Arc<Self>, remote: &Remote, pause: Duration) {
        *remote.next_delivery.lock() = self.clock.now().checked_add(pause);
        self.wake_maintenance_for(remote);
    }

    /// Tells a peer of a change; of a value that it takes for an older one, once more, unless this
    /// node has indeed changed the key since: then that holds, and it would be wrong to undo it.
    fn tell_until_taken(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        group: &str,
        change: &Change<'_>,
        recorded: &Recorded,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let mut stamp = recorded.stamp;
        for _ in 0..MAX_TELLINGS {
            let all = Reach::All;
            let answer = self.tell_native(remote, group, change, stamp, all, deadline)?;
            let ours = self.members().fingerprint();
            if answer.ring.is_some_and(|ring| ring != ours) {
                recorded.has_met_other_ring.store(true, Ordering::Release);
            }
            let Change::Put { key, .. } = change else {
                return Ok(());
            };
            if answer.is_taken {
                return Ok(());
            }
            match recorded.refused_set(group, key) {
                Refused::Wrongly(newer) => stamp = newer,
                Refused::Rightly => return Ok(()),
                Refused::Perhaps => break, // it may have an older value still
            }
        }
        Err(Failure::Unreachable("it was told of later changes".into()))
    }

    fn tell_native(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        group: &str,
        change: &Change<'_>,
        stamp: Stamp,
        reach: Reach,
        deadline: Deadline,
    ) -> Result<Answer, Failure> {
        let limit = self.limit();
        let call = change.call(group, self.members().fingerprint(), stamp, reach);
        self.call(remote, call, limit, deadline, |status, reply| {
            let answer = |is_taken| Answer {
                is_taken,
                ring: reply.header.as_deref().and_then(protocol::ring_of),
            };
            match status {
                // Another process than the last time.
                _ if self.spoken(&reply) == Dialect::Golang => Ok(Err(Failure::Unsupported)),
                // A peer without the group has nothing of it.
                Status::Ok | Status::NoSuchGroup => Ok(Ok(answer(true))),
                Status::Superseded => Ok(Ok(answer(false))),
                Status::TooLarge => Ok(Err(Failure::Unreachable(
                    "the value is too large for it".into(),
                ))),
                Status::BadRequest | Status::KeyTooLong if is_of_a_node(&reply) => {
                    Ok(Err(Failure::Refused))
                }
                _ => Err(ProtocolError("it refuses the change")),
            }
        })?
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

    /// The maintenance's round: probes the peers that are unreachable, so that no caller has to, and tells the
    /// others what they lack. Returns when the next one is due.
    fn keep(self: &Arc<Self>) -> Deadline {
        let now = self.clock.now();
        self.forget_past(now);
        let remotes = self.all_told();
        let is_due = |remote: &&Arc<Remote>| self.due(remote, now).is_some_and(|due| due <= now);
        let due: Vec<_> = remotes.iter().filter(is_due).cloned().collect();
        // All at once: one that is silent must not keep the others from being found.
        self.fanout.each(&due, |remote| self.attend(remote, now));
        if self.renewals.due().is_some() {
            self.renew_ring();
        }
        let lacked = remotes
            .iter()
            .filter_map(|remote| remote.lacks_from())
            .min();
        self.journal.age(now, lacked.unwrap_or(u64::MAX));
        let due = remotes
            .iter()
            .filter_map(|remote| self.due(remote, now))
            .chain(self.renewals.due())
            .min();
        due.map_or(Deadline::NEVER, Deadline::at)
    }

    /// When the maintenance has to do with a peer, if it has: not before `now`.
    fn due(&self, remote: &Remote, now: Instant) -> Option<Instant> {
        let is_unreachable = remote.circuit.is_open();
        let probe = (is_unreachable || remote.has_left())
            .then(|| remote.circuit.next_probe().unwrap_or(now));
        let lacks = !is_unreachable && self.has_to_tell(remote);
        let delivery = lacks.then(|| remote.next_delivery.lock().unwrap_or(now));
        probe.into_iter().chain(delivery).min()
    }

    fn attend(self: &Arc<Self>, remote: &Arc<Remote>, now: Instant) {
        let is_watched = remote.circuit.is_open() || remote.has_left();
        if is_watched && remote.circuit.take_probe(now) {
            self.probe(remote);
        }
        if !remote.circuit.is_open() {
            self.deliver(remote);
        }
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
        let answer = self.send(remote, hello(), self.settings.fetch_timeout);
        if let Ok(reply) = &answer {
            self.note_spoken(remote, reply);
            let status = Status::of(reply.status, reply.header.as_deref());
            if status.is_some_and(Status::is_refusal) {
                return;
            }
            if remote.circuit.half_open() {
                remote.note_back();
            }
            self.note_left(remote, status == Some(Status::Leaving));
        }
    }

    /// Takes a peer off the ring that leaves, and puts one back that does not.
    fn note_left(self: &Arc<Self>, remote: &Remote, has_left: bool) {
        if remote.note_left(has_left) {
            self.renew_ring();
            self.wake_maintenance_for(remote); // which finds out when it is back
        }
    }

    /// Makes the ring anew for all peers that have left it or come back, or has the maintenance do so in
    /// a short while if that was done often of late: a ring takes a while to make, and whoever
    /// reaches the port can say that a peer leaves.
    fn renew_ring(self: &Arc<Self>) {
        match self.renewals.admit(self.clock.now()) {
            Ok(()) => self.remake_ring(),
            Err(due) => self.wake_maintenance(due),
        }
    }

    fn remake_ring(self: &Arc<Self>) {
        // The same list: nothing in it can be wrong.
        let _ = self.change_peers(true, |peers| Ok(peers.to_vec()));
    }

    /// Whether this node has said that it leaves.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    /// Takes this node off the ring, here and at all peers; returns who was not reached.
    pub(crate) fn leave(self: &Arc<Self>, deadline: Deadline) -> Vec<Unreached> {
        self.is_leaving.store(true, Ordering::Release);
        self.remake_ring();
        log::info!(target: "groupcache", "this node leaves the ring");
        let announce = |remote: &Arc<Remote>| self.announce(remote, deadline);
        self.tell_all(&self.members().remotes(), announce)
    }

    fn announce(self: &Arc<Self>, remote: &Arc<Remote>, deadline: Deadline) -> Result<(), Failure> {
        if self.ask_dialect(remote, deadline)? == Dialect::Golang {
            return Err(Failure::Unsupported);
        }
        self.have_run(
            remote,
            NodeCommand::Departure(self.this.name().to_owned()),
            None,
            deadline,
        )
    }

    /// A peer says that it leaves.
    pub(crate) fn departed(self: &Arc<Self>, id: &str) {
        let remotes = self.members().remotes();
        if let Some(remote) = remotes.iter().find(|remote| remote.peer.name() == id) {
            self.note_left(remote, true);
        }
    }

    /// Says in a call for whom it is, and proves who makes it, to the process of this boot id.
    pub(crate) fn signed(&self, remote: &Remote, mut call: Call, boot: u64) -> Call {
        call.header.push_str(&remote.addressed);
        self.sign(remote, &mut call, boot);
        call
    }

    fn sign(&self, remote: &Remote, call: &mut Call, boot: u64) {
        if let Some(guard) = &self.guard {
            guard.sign(call, &remote.peer, boot);
        }
    }

    /// Sends a call, and waits for the answer. One that was signed for another process than the one
    /// that is there now has not been carried out: it is signed for that one and sent once more.
    fn send(&self, remote: &Remote, call: Call, timeout: Duration) -> Result<Reply, CallError> {
        let began = self.clock.now();
        let signed_for = remote.boot();
        let mut call = self.signed(remote, call, signed_for);
        let reply = remote.link.call(&call, timeout)?;
        let header = reply.header.as_deref();
        let Some(boot) = header
            .filter(|_| self.guard.is_some())
            .and_then(protocol::boot_of)
        else {
            return Ok(reply);
        };
        remote.note_boot(boot);
        if boot == signed_for || Status::of(reply.status, header) != Some(Status::StaleBoot) {
            return Ok(reply);
        }
        let passed = self.clock.now().saturating_duration_since(began);
        call.whole = call.whole.saturating_sub(passed);
        match timeout.saturating_sub(passed) {
            left if left.is_zero() => Err(CallError::Timeout),
            left => {
                self.sign(remote, &mut call, boot);
                remote.link.call(&call, left)
            }
        }
    }

    /// Tells a peer what it lacks, for no longer than a round lasts and the last answer takes.
    fn deliver(self: &Arc<Self>, remote: &Arc<Remote>) {
        let until = Deadline::after(self.clock.now(), ROUND);
        for (lacks, reach) in [(&remote.lacks, Reach::All), (&remote.echoes, Reach::Copies)] {
            while let Some(parcel) = self.journal.next_parcel(lacks) {
                match self.tell_parcel(remote, &parcel, reach) {
                    Ok(()) => {}
                    Err(Failure::Refused) => self.note_refused(remote, &parcel),
                    Err(Failure::Unsupported) => {
                        return self.put_off_delivery(remote, GOLANG_PAUSE);
                    }
                    Err(Failure::Deadline | Failure::Unreachable(_)) => {
                        return self.put_off_delivery(remote, PAUSE);
                    }
                }
                if reach == Reach::All {
                    self.echo(remote, &parcel); // also if refused: of several groups, perhaps one
                }
                lacks.remove(&parcel.part);
                if until.is_past(self.clock.now()) {
                    return *remote.next_delivery.lock() = None;
                }
            }
        }
        *remote.next_delivery.lock() = None;
    }

    /// Whether a peer has still to be told of removals: it may have old values until then.
    pub(crate) fn owes(&self, remote: &Remote) -> bool {
        // One of Go is asked all the same, and never told.
        remote.speaks() != Some(Dialect::Golang) && self.journal.is_lacked(&remote.lacks)
    }

    /// Whether there is something to tell a peer.
    fn has_to_tell(&self, remote: &Remote) -> bool {
        self.journal.has_for(&remote.lacks) || self.journal.has_for(&remote.echoes)
    }

    /// A peer was told late. The others may have fetched an old value from it meanwhile, after they
    /// were told themselves: they are told once more, of their copies. This node has kept none
    /// ([`owes`](Cluster::owes)).
    fn echo(self: &Arc<Self>, late: &Arc<Remote>, parcel: &Parcel) {
        let all = self.all_told();
        for other in all.iter().filter(|other| !Arc::ptr_eq(other, late)) {
            other.echoes.add(parcel.part.clone());
            self.wake_maintenance_for(other);
        }
    }

    /// A peer does not do what it is told: it would not the next time either.
    fn note_refused(&self, remote: &Remote, parcel: &Parcel) {
        if let Some(unreported) = self.refusal_reports.admit(self.clock.now()) {
            let removes: Vec<&str> = match &parcel.change {
                Lacked::All => Vec::new(),
                Lacked::Groups(groups) => groups.iter().map(|group| &**group).collect(),
                Lacked::Keys(group, _) => vec![group],
            };
            log::warn!(
                target: "groupcache", peer:% = remote.peer, groups:? = removes, unreported;
                "the peer refuses to be told of removals: it may serve old values until they expire"
            );
        }
    }

    fn tell_parcel(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        parcel: &Parcel,
        reach: Reach,
    ) -> Result<(), Failure> {
        let until = Deadline::NEVER; // the fetch timeout holds
        // An answer that says nothing may have come from something else at the address of the peer.
        if remote.speaks() != Some(Dialect::Native) {
            let limit = self.limit();
            let spoken = self.call(remote, hello(), limit, until, |_, reply| {
                Ok(self.spoken(&reply))
            })?;
            if spoken == Dialect::Golang {
                return Err(Failure::Unsupported);
            }
        }
        // A later one than those of the changes themselves: what arrives late of them is older.
        let stamp = self.journal.stamp();
        match &parcel.change {
            Lacked::All => self.have_run(remote, NodeCommand::Clear, Some((stamp, reach)), until),
            Lacked::Groups(groups) => {
                let mut told = Ok(());
                for group in groups {
                    match self.tell_native(remote, group, &Change::Clear, stamp, reach, until) {
                        Ok(_) => {}
                        // The others are another matter.
                        Err(Failure::Refused) => told = Err(Failure::Refused),
                        Err(failure) => return Err(failure),
                    }
                }
                told
            }
            Lacked::Keys(group, keys) => {
                let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
                self.tell_native(remote, group, &Change::Remove(&keys), stamp, reach, until)?;
                Ok(())
            }
        }
    }

    /// Has a peer do something that concerns no single group.
    fn have_run(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        command: NodeCommand,
        change: Option<(Stamp, Reach)>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let limit = self.limit();
        self.call(
            remote,
            node_command_call(command, change),
            limit,
            deadline,
            |status, reply| {
                match status {
                    Status::Ok => Ok(Ok(())),
                    // An older one may not know of it; one that leaves takes nothing over.
                    Status::BadRequest | Status::KeyTooLong | Status::Leaving
                        if is_of_a_node(&reply) =>
                    {
                        Ok(Err(Failure::Refused))
                    }
                    _ => Err(ProtocolError("it refuses the command")),
                }
            },
        )?
    }

    /// Gives the journal to another node, which tells those who lack some of it, or who are yet to
    /// come. Returns who lacks something that no other node tells.
    pub(crate) fn hand_journal_over(self: &Arc<Self>, deadline: Deadline) -> Vec<Unreached> {
        let now = self.clock.now();
        let takes = |remote: &Arc<Remote>| {
            remote.takes_batches() && !remote.circuit.is_open() && !remote.has_left()
        };
        let mut successors = self.members().remotes();
        successors.retain(takes);
        let mut remotes = self.all_told();
        remotes.retain(|remote| remote.speaks() != Some(Dialect::Golang)); // they cannot be told
        let mut unreached = Vec::new();
        for remote in &remotes {
            let is_other = |successor: &&Arc<Remote>| !Arc::ptr_eq(remote, successor);
            let successors = successors.iter().filter(is_other);
            let mut entries = self.journal.entries(&remote.lacks);
            entries.extend(self.journal.entries(&remote.echoes));
            let to = Whom::One(remote.peer.name().to_owned());
            if !self.hand_to_first(successors, &to, &entries, deadline) {
                let failure =
                    Failure::Unreachable("nobody takes over to tell it of removals".into());
                unreached.push(remote.unreached(&failure));
            }
        }
        let all = Lacks::default();
        all.add(self.journal.all(now));
        // To be told of it once more would only cost loads. Of very many, all are.
        let ids = remotes.iter().map(|remote| remote.peer.name().to_owned());
        let mut told: Vec<String> = ids.collect();
        if told.len() > MAX_TOLD || told.iter().map(String::len).sum::<usize>() > BYTES_OF_IDS {
            told.clear();
        }
        let to = Whom::AllBut(told);
        self.hand_to_first(
            successors.iter(),
            &to,
            &self.journal.entries(&all),
            deadline,
        );
        unreached
    }

    /// Gives entries to the first that takes them; tells whether one did, or none was needed.
    fn hand_to_first<'a>(
        self: &Arc<Self>,
        mut successors: impl Iterator<Item = &'a Arc<Remote>>,
        to: &Whom,
        entries: &[Entry],
        deadline: Deadline,
    ) -> bool {
        let takes = |successor| self.hand_entries(successor, to, entries, deadline).is_ok();
        entries.is_empty() || successors.any(takes)
    }

    fn hand_entries(
        self: &Arc<Self>,
        successor: &Arc<Remote>,
        to: &Whom,
        entries: &[Entry],
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let now = self.clock.now();
        let mut rest = entries;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |entry: &&Entry| {
                bytes += entry.group.as_deref().map_or(0, str::len)
                    + entry.key.as_deref().map_or(0, str::len);
                bytes <= BYTES_OF_A_REQUEST
            };
            let count = rest
                .iter()
                .take(REMOVALS_OF_A_REQUEST)
                .take_while(fits)
                .count()
                .max(1);
            let (taken, later) = rest.split_at(count);
            let removals = taken.iter().map(|entry| Removal {
                group: entry.group.as_deref().map(str::to_owned),
                key: entry.key.as_deref().map(str::to_owned),
                age: now.saturating_duration_since(entry.at),
            });
            let command = NodeCommand::Deliver {
                to: to.clone(),
                removals: removals.collect(),
            };
            self.have_run(successor, command, None, deadline)?;
            rest = later;
        }
        Ok(())
    }

    /// Takes removals over from a node that leaves, to tell others: tells whether it can, knowing the
    /// peer that is meant.
    pub(crate) fn take_journal_over(self: &Arc<Self>, to: &Whom, removals: &[Removal]) -> bool {
        let is_meant = |remote: &Arc<Remote>| match to {
            Whom::One(id) => remote.peer.name() == id,
            Whom::AllBut(told) => !told.iter().any(|id| remote.peer.name() == id),
        };
        if matches!(to, Whom::One(_)) && !self.all_told().iter().any(is_meant) {
            return false;
        }
        let now = self.clock.now();
        let mut names: HashSet<Arc<str>> = HashSet::new();
        let mut shared = |name: &str| match names.get(name) {
            Some(name) => Arc::clone(name),
            None => {
                let name: Arc<str> = Arc::from(name);
                names.insert(Arc::clone(&name));
                name
            }
        };
        let entry = |removal: &Removal| {
            let at = now.checked_sub(removal.age.min(MEMORY));
            Entry {
                group: removal.group.as_deref().map(&mut shared),
                key: removal.key.as_deref().map(Arc::from),
                at: at.unwrap_or(now),
            }
        };
        let part = self
            .journal
            .take_over(removals.iter().map(entry).collect(), now);
        for remote in self.all_told().into_iter().filter(is_meant) {
            remote.lacks.add(part.clone());
            self.wake_maintenance_for(&remote);
        }
        true
    }

    /// Has the peers say what was removed of late, those that were not asked yet: before anything is
    /// taken over from a former owner. As little is waited for it as for a value that is taken over.
    pub(crate) fn learn_marks(self: &Arc<Self>, members: &Members, former: &Arc<Remote>) {
        let is_unasked = |remote: &Arc<Remote>| {
            let is_there = remote.takes_batches() && !remote.circuit.is_open();
            is_there && remote.marks() == Marks::Unasked
        };
        let mut unasked = members.remotes();
        if !unasked.iter().any(|remote| Arc::ptr_eq(remote, former)) {
            unasked.push(Arc::clone(former)); // it is in the list no more
        }
        unasked.retain(is_unasked);
        self.fanout.each(&unasked, |remote| {
            let limit = self.settings.limits.connect_timeout;
            match self.send(remote, node_command_call(NodeCommand::Marks, None), limit) {
                Ok(reply) => remote.note_marks(self.adopt_marks(&reply)),
                Err(error) => self.failed(remote, &error),
            }
        });
    }

    fn adopt_marks(&self, reply: &Reply) -> Marks {
        let status = Status::of(reply.status, reply.header.as_deref());
        if status != Some(Status::Ok) || self.spoken(reply) == Dialect::Golang {
            return Marks::Unknown;
        }
        let Ok(marks) = protocol::decode_marks(&reply.body) else {
            return Marks::Unknown;
        };
        self.journal.adopt(marks, self.clock.now());
        Marks::Known
    }

    /// What was removed of late, as this node knows.
    pub(crate) fn marks(&self) -> Vec<u8> {
        protocol::encode_marks(self.journal.marks(MAX_MARKS, self.clock.now()))
    }

    pub(crate) fn stats(&self) -> NodeStats {
        let members = self.members();
        let (threads, busy) = self.pool.threads();
        let peer = |listed: &Listed| {
            let share = members.share(listed.remote.as_ref());
            match &listed.remote {
                Some(remote) => remote.stats(share, &self.journal),
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
            misdirected_requests: self.gate.misdirected(),
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
            hash: protocol::hash_of_request(call.method, &call.target, &call.body),
        }
    }

    /// Whether an answer belongs to this request, or does no harm if it does not. That of an older
    /// node does not say; but neither does that of whatever else listens at the address of a peer, so
    /// one without our header is not believed.
    fn check(&self, remote: &Remote, reply: &Reply, status: Status) -> Result<(), ProtocolError> {
        let named = reply.header.as_deref().map(protocol::request_of);
        if named == Some(Some(self.hash)) {
            remote.note_names_requests();
            return Ok(());
        }
        if named == Some(None) && !remote.names_requests() || self.is_harmless(status) {
            return Ok(());
        }
        Err(ProtocolError("the answer does not belong to the request"))
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

/// Whether it is no answer of something else at the address of a peer: what a peer refuses to be
/// told, it is not told again.
fn is_of_a_node(reply: &Reply) -> bool {
    reply.header.is_some()
}

fn is_among(list: &[Arc<Remote>], remote: &Arc<Remote>) -> bool {
    list.iter().any(|other| Arc::ptr_eq(other, remote))
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

/// The request for a node command, with what belongs to it if it changes something.
fn node_command_call(command: NodeCommand, change: Option<(Stamp, Reach)>) -> Call {
    let terms = Terms {
        native: true,
        stamp: change.map(|(stamp, _)| stamp),
        copies: change.is_some_and(|(_, reach)| reach == Reach::Copies),
        ..Terms::default()
    };
    Call::new("POST", protocol::BASE.to_owned(), terms.to_header()).with_body(command.encode())
}

/// The smallest request that every peer answers.
pub(crate) fn hello() -> Call {
    Call::new(
        "GET",
        protocol::BASE.to_owned(),
        Terms::default().to_header(),
    )
}

/// Whether this can be a peer in a cluster of this dialect.
pub(crate) fn check_peer(dialect: Dialect, peer: &Peer) -> Result<(), Error> {
    if peer.name().len() > MAX_ID_BYTES {
        let reason = format!("its id is longer than {MAX_ID_BYTES} bytes: give it a shorter one");
        return Err(Error::peer(peer.name(), reason));
    }
    if dialect == Dialect::Golang && peer.weight != 1.0 {
        let reason = "the ring of golang/groupcache knows no weights: leave it at 1";
        return Err(Error::peer(peer.name(), reason));
    }
    Ok(())
}
