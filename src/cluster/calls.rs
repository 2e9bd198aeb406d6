//! Calls to peers: their time limits, their signatures, and what their outcome says of the peer.

use std::time::Duration;

use crate::cluster::change::Reach;
use crate::cluster::remote::{Failure, Remote};
use crate::cluster::sent_request::SentRequest;
use crate::cluster::state::Cluster;
use crate::protocol::dialect::Dialect;
use crate::protocol::{self, NodeCommand, ProtocolError, Stamp, Status, Terms};
use crate::runtime::clock::Deadline;
use crate::runtime::sync::Arc;
use crate::transport::peer::{Call, CallError, Reply};

/// How much of a text from a peer is shown, in bytes.
const MAX_TEXT: usize = 400;

/// The time limits of a call, besides the deadline of its caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallLimit {
    /// Until the answer begins, and then as [`Link::call`](crate::transport::peer::Link::call) says.
    silence: Duration,
    /// For the whole call. Never less than `silence`.
    whole: Duration,
}

impl CallLimit {
    /// A limit for the whole call, however steadily the answer comes.
    pub(crate) fn of_all(whole: Duration) -> CallLimit {
        CallLimit {
            silence: whole,
            whole,
        }
    }
}

impl Cluster {
    /// Calls a peer, no longer than `limit` and than the caller's `deadline`, and reads its answer.
    pub(crate) fn call<R>(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        mut call: Call,
        limit: CallLimit,
        deadline: Deadline,
        read: impl FnOnce(Status, Reply) -> Result<R, ProtocolError>,
    ) -> Result<R, Failure> {
        debug_assert!(limit.silence <= limit.whole);
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
        let sent = SentRequest::of(&call);
        let outcome = self.send(remote, call, timeout);
        if outcome.is_ok() {
            let now = self.clock.now();
            remote.latency.record(now.saturating_duration_since(began));
        }
        let outcome = outcome.and_then(|reply| self.read_reply(remote, &sent, reply, read));
        match outcome {
            Ok(result) => {
                self.record_success(remote);
                Ok(result)
            }
            Err(CallError::Timeout) if timeout < limit.silence => Err(self.abandon(remote)),
            Err(CallError::Unfinished) if whole < limit.whole => Err(self.abandon(remote)),
            // The peer is slow, and may be reachable: only that is found out.
            Err(error @ CallError::Unfinished) => {
                remote.errors.add();
                self.suspect(remote);
                Err(Failure::Silent(error.to_string()))
            }
            Err(error) => {
                self.record_failure(remote, &error);
                Err(match error {
                    CallError::Timeout => Failure::Silent(error.to_string()),
                    _ => Failure::Unreachable(error.to_string()),
                })
            }
        }
    }

    /// Records that a call was not answered in the time of its caller.
    fn abandon(self: &Arc<Self>, remote: &Arc<Remote>) -> Failure {
        remote.abandoned.add();
        self.suspect(remote);
        Failure::Deadline
    }

    fn read_reply<R>(
        &self,
        remote: &Remote,
        sent: &SentRequest,
        reply: Reply,
        read: impl FnOnce(Status, Reply) -> Result<R, ProtocolError>,
    ) -> Result<R, CallError> {
        if let Some(ring) = reply.header.as_deref().and_then(protocol::ring_of) {
            self.compare_rings(remote, ring);
        }
        let status = match self.update_spoken(remote, &reply) {
            Dialect::Native => Status::of(reply.status, reply.header.as_deref()),
            Dialect::Golang => Some(Status::of_golang(reply.status)),
        };
        let status = status.ok_or_else(|| {
            CallError::ProtocolError(format!("an answer with status {}", reply.status))
        })?;
        if status == Status::Unauthorized && self.guard.is_none() {
            remote.set_no_batches(); // the peer may answer a `GET` all the same
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

    /// The dialect of an answer.
    pub(crate) fn spoken(&self, reply: &Reply) -> Dialect {
        self.settings.dialect.spoken(reply.header.is_some())
    }

    /// Updates the dialect of a peer from an answer: it may speak another one after a restart.
    pub(super) fn update_spoken(&self, remote: &Remote, reply: &Reply) -> Dialect {
        let dialect = self.spoken(reply);
        if remote.spoken.set(dialect) {
            log::info!(
                target: "groupcache", peer:% = remote.peer, dialect:% = dialect;
                "the dialect of the peer is known"
            );
        }
        dialect
    }

    /// The dialect of a peer: as its last answer showed, or as it answers now.
    pub(super) fn ask_dialect(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        deadline: Deadline,
    ) -> Result<Dialect, Failure> {
        match remote.speaks() {
            Some(dialect) => Ok(dialect),
            None => self.ask_dialect_again(remote, deadline),
        }
    }

    /// The dialect of a peer as it answers now.
    pub(super) fn ask_dialect_again(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        deadline: Deadline,
    ) -> Result<Dialect, Failure> {
        let limit = self.limit();
        self.call(remote, hello(), limit, deadline, |_, reply| {
            Ok(self.spoken(&reply))
        })
    }

    /// The limits of a GET. A peer that is not known to be native may be unable to say that it is still
    /// loading.
    pub(crate) fn patience_with(&self, remote: &Remote) -> CallLimit {
        let limit = self.limit();
        match remote.speaks() {
            Some(Dialect::Native) => limit,
            _ => CallLimit::of_all(limit.whole),
        }
    }

    /// The limits of a call that the peer answers without waiting for a load.
    pub(crate) fn limit(&self) -> CallLimit {
        let silence = self.settings.fetch_timeout;
        CallLimit {
            silence,
            whole: silence.max(self.settings.load_timeout),
        }
    }

    /// Counts and logs a ring of a peer that is not the ring of this node.
    fn compare_rings(&self, remote: &Remote, theirs: u64) {
        let members = self.members();
        let ours = members.fingerprint();
        if theirs == ours {
            return;
        }
        self.ring_mismatches.add();
        if members.have_just_changed(self.clock.now()) {
            return; // the peer may not have the new list yet, or this node not the next one
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

    fn record_success(&self, remote: &Remote) {
        remote.suspicion.record_answer();
        if remote.circuit.record_success() {
            remote.reset_after_recovery();
        }
    }

    pub(super) fn record_failure(self: &Arc<Self>, remote: &Remote, error: &CallError) {
        remote.errors.add();
        if remote.circuit.record_failure(self.clock.now()) {
            self.follow_opening(remote, error);
        }
    }

    /// Logs that a circuit has opened, and wakes the maintenance for its probes.
    pub(super) fn follow_opening(self: &Arc<Self>, remote: &Remote, error: &CallError) {
        log::warn!(
            target: "groupcache", peer:% = remote.peer, error:% = error;
            "the peer is unreachable; its keys are loaded here until it answers"
        );
        self.wake_maintenance_for(remote);
    }

    /// Sends a node command: a request that concerns no single group.
    pub(super) fn send_command(
        self: &Arc<Self>,
        remote: &Arc<Remote>,
        command: NodeCommand,
        change: Option<(Stamp, Reach)>,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let limit = self.limit();
        let call = node_command_call(command, change);
        self.call(remote, call, limit, deadline, |status, reply| {
            match status {
                Status::Ok => Ok(Ok(())),
                // An older node may not know the command; one that leaves takes nothing over.
                Status::BadRequest | Status::KeyTooLong | Status::Leaving
                    if is_of_a_node(&reply) =>
                {
                    Ok(Err(Failure::Refused))
                }
                _ => Err(ProtocolError("it refuses the command")),
            }
        })?
    }

    /// Names the addressee in a call, and signs it for the process with this boot id.
    pub(super) fn signed(&self, remote: &Remote, mut call: Call, boot: u64) -> Call {
        call.header.push_str(&remote.addressee);
        self.sign(remote, &mut call, boot);
        call
    }

    fn sign(&self, remote: &Remote, call: &mut Call, boot: u64) {
        if let Some(guard) = &self.guard {
            guard.sign(call, &remote.peer, boot);
        }
    }

    /// Sends a call, and waits for the answer. A call that was signed for another process than the
    /// current one has not been carried out: it is signed for that one and sent once more.
    pub(super) fn send(
        &self,
        remote: &Remote,
        call: Call,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
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
        remote.set_boot(boot);
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
}

/// Whether an answer is one of a node, and not of another server at the address of a peer: what a node
/// refuses is not sent to it again.
pub(super) fn is_of_a_node(reply: &Reply) -> bool {
    reply.header.is_some()
}

/// The text of an answer, for people: no more than a line of it.
fn text_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body.get(..MAX_TEXT).unwrap_or(body));
    let printable = |char: &char| !char.is_control();
    text.chars().filter(printable).collect()
}

/// The request for a node command, with its stamp and reach if it changes something.
pub(super) fn node_command_call(command: NodeCommand, change: Option<(Stamp, Reach)>) -> Call {
    let terms = Terms {
        native: true,
        stamp: change.map(|(stamp, _)| stamp),
        copies: change.is_some_and(|(_, reach)| reach == Reach::Copies),
        ..Terms::default()
    };
    Call::new("POST", protocol::BASE.to_owned(), terms.to_header()).with_body(command.encode())
}

/// The smallest request that every peer answers.
pub(super) fn hello() -> Call {
    Call::new(
        "GET",
        protocol::BASE.to_owned(),
        Terms::default().to_header(),
    )
}
