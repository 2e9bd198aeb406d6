//! Step 4, where another process owns the key: fetch the value from it, and load here if it is
//! unreachable.

use std::time::{Duration, Instant};

use super::counters::Count;
use super::entry::Source;
use super::load::Role;
use super::outcome::{Obtained, Outcome, lost_leader};
use super::shared::Shared;
use crate::cache::entry::{Stored, Tier};
use crate::cache::key::KeyRef;
use crate::cluster::batching::BatchRole;
use crate::cluster::members::{Owner, StandIn};
use crate::cluster::remote::{Failure, OwnedQuery, Remote};
use crate::codec::CodecError;
use crate::error::Error;
use crate::flight::flights::{Join, Joined};
use crate::flight::leader::{Guard, WaitOutcome};
use crate::protocol::dialect::Dialect;
use crate::protocol::hash::hash_of_key;
use crate::protocol::{self, Answer, Item, ProtocolError, Status, Terms};
use crate::runtime::clock::Deadline;
use crate::runtime::sync::{Arc, Ordering};
use crate::runtime::user_code;
use crate::transport::peer::{Call, Reply};
use crate::value::Cacheable;

/// Where values have more bytes than this on average, the requests of several callers are not combined:
/// that saves work for each request, but takes another copy of the values.
pub(super) const MAX_COMBINED_VALUE: usize = 4 << 10;

/// What the owner of a key answers.
#[derive(Clone)]
pub(super) enum Fetched {
    Value(Answer),
    NotFound,
    TooLarge(usize),
    LoadFailed(String),
    /// The load takes longer than a get inside a loader may wait.
    StillLoading,
    Overloaded,
    NoSuchGroup,
    /// A Go peer has no value, for whatever reason.
    Foreign,
}

impl Fetched {
    /// The meaning of an item of a batch; `None` if the owner is still loading.
    pub(super) fn of(item: Item) -> Option<Fetched> {
        Some(match item {
            Item::Value(answer) => Fetched::Value(answer),
            Item::TooLarge(bytes) => Fetched::TooLarge(bytes),
            Item::Status(Status::Loading, _) => return None,
            Item::Status(Status::NotFound, _) => Fetched::NotFound,
            Item::Status(Status::Overloaded, _) => Fetched::Overloaded,
            Item::Status(_, text) => Fetched::LoadFailed(text),
        })
    }
}

/// Whether the owner is known to be unreachable, and so its deputy is asked. Not where its answer was
/// waited for: the caller has lost enough time, and where the network loses all, the deputy would be silent too.
pub(super) fn is_gone(fetched: &Result<Fetched, Failure>) -> bool {
    matches!(fetched, Err(Failure::Unreachable(_)))
}

/// Whether a peer may be asked for what another one owns. A Go peer would ask the owner.
pub(super) fn can_be_deputy(peer: &Remote) -> bool {
    peer.speaks() == Some(Dialect::Native) && !peer.circuit.is_open()
}

impl<V: Cacheable> Shared<V> {
    /// Has the value fetched from `owner`: by this thread, or by one that does already. `unreported` is
    /// the number of hits of a mirrored copy that the owner does not know of.
    pub(super) fn fetch(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        owner: &Arc<Remote>,
        deadline: Deadline,
        unreported: u32,
        mut count: Count,
    ) -> Outcome<V> {
        loop {
            match self.fetches.join(key, deadline, Join::Lead) {
                Joined::Lead(guard) => {
                    self.counters.count_lead(&mut count);
                    return self.lead_fetch(guard, owner, deadline, unreported);
                }
                Joined::Wait(waiter) => {
                    self.counters.count_joined(&mut count);
                    let patience = self.end_of_patience();
                    return match self.wait_for(&waiter, deadline.earlier(patience)) {
                        WaitOutcome::Finished(outcome) => outcome.map(Obtained::joined),
                        WaitOutcome::Lead(guard) => {
                            self.lead_fetch(guard, owner, deadline, unreported)
                        }
                        WaitOutcome::Again => continue,
                        WaitOutcome::Lost => Err(lost_leader()),
                        // The leader may have more patience than a loader.
                        WaitOutcome::Late if !deadline.is_past(self.cluster.clock.now()) => {
                            drop(waiter);
                            self.load(key, deadline, Role::Fallback, Count::No)
                        }
                        WaitOutcome::Late => Err(Error::Deadline),
                        WaitOutcome::Cycle => Err(Error::Cycle),
                    };
                }
            }
        }
    }

    /// Fetches the value of a flight on this thread, and ends the flight.
    fn lead_fetch(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        owner: &Arc<Remote>,
        deadline: Deadline,
        unreported: u32,
    ) -> Outcome<V> {
        let guard = match self.finish_if_cached(guard, Role::Owner) {
            Ok(outcome) => return outcome,
            Err(guard) => guard,
        };
        self.mark_stale_if_owner_is_behind(&guard, owner);
        let leading = guard.lead();
        let key = guard.key().clone();
        let fetched = self.ask(owner, key.as_ref(), deadline, unreported);
        let is_gone = is_gone(&fetched);
        let outcome = match self.use_fetched(&guard, owner, fetched) {
            Some(outcome) => outcome,
            None => {
                self.counters.fetch_errors.add();
                let without_owner = || self.ask_deputy(&guard, owner, deadline);
                let outcome = is_gone.then(without_owner).flatten();
                outcome
                    .unwrap_or_else(|| self.load(key.as_ref(), deadline, Role::Fallback, Count::No))
            }
        };
        drop(leading);
        self.end_fetch(guard, outcome.clone());
        outcome
    }

    /// Has the deputy of an owner that is gone answer for it, or who comes after the deputy if that is gone
    /// too; or loads in its place, if that is this node. `None` if it does not answer either.
    fn ask_deputy(
        self: &Arc<Self>,
        guard: &Guard<Outcome<V>>,
        owner: &Arc<Remote>,
        deadline: Deadline,
    ) -> Option<Outcome<V>> {
        let key = guard.key().as_ref();
        let members = self.cluster.members();
        let stand_in = match members.instead_of(owner, key.text(), can_be_deputy)? {
            StandIn::Deputy(deputy) => deputy,
            StandIn::Other(other) => {
                self.fetches.mark_stale(key);
                other
            }
        };
        match stand_in {
            Owner::This => Some(self.load(key, deadline, Role::Deputy, Count::No)),
            Owner::Peer(deputy) => {
                self.counters.deputy_fetches.add();
                self.mark_stale_if_owner_is_behind(guard, &deputy);
                // The peer may need the pool of this node for the very value.
                let _blocked = self.cluster.pool.wait_inside();
                let fetched = self.ask_singly(&deputy, Role::Deputy, key, deadline, 0);
                self.use_fetched(guard, &deputy, fetched)
            }
        }
    }

    /// Marks the flight stale if this node still has removals to deliver to `owner`: its answer may be an
    /// old value, and nobody would remove the copy here.
    pub(super) fn mark_stale_if_owner_is_behind(&self, guard: &Guard<Outcome<V>>, owner: &Remote) {
        if self.cluster.has_pending_removals(owner) {
            guard.stale().store(true, Ordering::Release);
        }
    }

    /// Ends the flight of a fetch with the outcome that its leader has; where that is none for the others,
    /// hands it over.
    pub(super) fn end_fetch(&self, guard: Guard<Outcome<V>>, outcome: Outcome<V>) {
        match outcome {
            // The time of this caller is up, or its load was refused: not those of the flight (I6).
            Err(Error::Deadline | Error::Overloaded) => {
                guard.hand_over(self.cluster.clock.now());
            }
            outcome => guard.finish(outcome),
        }
    }

    /// The outcome of a fetch; `None` if the value is to be loaded here.
    pub(super) fn use_fetched(
        self: &Arc<Self>,
        guard: &Guard<Outcome<V>>,
        owner: &Remote,
        fetched: Result<Fetched, Failure>,
    ) -> Option<Outcome<V>> {
        match fetched {
            Ok(Fetched::Value(answer)) => self.mirror(guard, answer).map(Ok),
            Ok(Fetched::NotFound) => Some(Err(Error::NotFound)),
            Ok(Fetched::TooLarge(bytes)) => Some(Err(Error::ValueTooLarge {
                bytes,
                max: self.cluster.settings.max_value,
            })),
            Ok(Fetched::LoadFailed(message)) if self.hand_on_load_errors => {
                Some(Err(Error::OwnerLoad {
                    peer: owner.peer.name().into(),
                    message: message.into(),
                }))
            }
            Ok(
                Fetched::LoadFailed(_)
                | Fetched::StillLoading
                | Fetched::Overloaded
                | Fetched::NoSuchGroup
                | Fetched::Foreign,
            ) => None,
            Err(Failure::Deadline) => Some(Err(Error::Deadline)),
            Err(
                Failure::Unreachable(_)
                | Failure::Silent(_)
                | Failure::Unsupported
                | Failure::Refused,
            ) => None,
        }
    }

    /// Asks the owner for one key, together with other callers where that saves requests.
    fn ask(
        &self,
        owner: &Arc<Remote>,
        key: KeyRef<'_>,
        deadline: Deadline,
        unreported: u32,
    ) -> Result<Fetched, Failure> {
        self.counters.fetches.add();
        // The peer may need the pool of this node for the very value.
        let _blocked = self.cluster.pool.wait_inside();
        let are_small = self.fetched_bytes.load(Ordering::Relaxed) <= MAX_COMBINED_VALUE;
        if !are_small || !owner.takes_batches() {
            return self.ask_singly(owner, Role::Owner, key, deadline, unreported);
        }
        let asked = || OwnedQuery {
            group: Arc::clone(&self.name),
            key: key.text().to_owned(),
            hits: unreported,
        };
        let caller = owner.batcher.enter();
        let turn = caller.join(asked, &self.cluster.clock, deadline);
        let (fetched, unreported) = match turn {
            BatchRole::Single | BatchRole::Unanswered => (None, unreported),
            BatchRole::Leader(permit, others) => {
                let own = self.query(key.text(), unreported);
                let fetched = self.ask_together(owner, own, others, deadline);
                drop(permit); // the next caller in line leads
                (fetched, 0)
            }
            BatchRole::Answered(Ok(item)) => (Fetched::of(item).map(Ok), 0),
            BatchRole::Answered(Err(failure)) => (Some(Err(failure)), 0),
            BatchRole::TimedOut => (Some(Err(Failure::Deadline)), 0),
        };
        fetched.unwrap_or_else(|| self.ask_singly(owner, Role::Owner, key, deadline, unreported))
    }

    /// Asks the owner for one key, or the deputy, again and again as long as it is loading: a slow load is no
    /// failure.
    pub(super) fn ask_singly(
        &self,
        owner: &Arc<Remote>,
        role: Role,
        key: KeyRef<'_>,
        deadline: Deadline,
        mut unreported: u32,
    ) -> Result<Fetched, Failure> {
        let until = self.end_of_patience();
        loop {
            let asked_at = self.cluster.clock.now();
            let target = protocol::target(&self.name, Some(key.text()));
            let terms = Terms {
                falls_back: true,
                as_deputy: role == Role::Deputy,
                ..self.terms(deadline, unreported)
            };
            let call = Call::new("GET", target, terms.to_header());
            let read = |status, reply| self.read_answer(key, status, reply);
            let limit = self.cluster.patience_with(owner);
            let answer = self.cluster.call(owner, call, limit, deadline, read)?;
            if let Some(fetched) = answer {
                if matches!(fetched, Fetched::NoSuchGroup) {
                    self.report_missing_group(owner);
                }
                return Ok(fetched);
            }
            if let Some(end) = self.still_loading(asked_at, self.patience(), until) {
                return end;
            }
            unreported = 0;
        }
    }

    /// The terms of a request of this node.
    pub(super) fn terms(&self, deadline: Deadline, hits: u32) -> Terms {
        Terms {
            native: true,
            hits,
            patience: Some(self.patience()),
            remaining: deadline.remaining(self.cluster.clock.now()),
            ring: Some(self.cluster.members().fingerprint()),
            max_body: None,
            peeks: false,
            falls_back: false,
            as_deputy: false,
            copies: false,
            stamp: None,
        }
    }

    /// How long an owner may wait for its loads before it answers `loading`. Never zero: then it would
    /// answer so at once, and be asked without end.
    pub(super) fn patience(&self) -> Duration {
        (self.cluster.settings.fetch_timeout / 2).max(Duration::from_millis(1))
    }

    /// When a caller stops asking an owner that is still loading, or waiting for another thread that asks
    /// it. A get inside a loader stops after the load timeout: loads of several processes that wait for
    /// each other in a circle would wait for ever.
    pub(super) fn end_of_patience(&self) -> Deadline {
        if user_code::inside_a_loader() {
            let limit = self.cluster.settings.load_timeout;
            return Deadline::after(self.cluster.clock.now(), limit);
        }
        Deadline::NEVER
    }

    /// What follows from the answer `loading` to a request that was sent at `asked_at` with this
    /// `patience`; `None` is to ask again, until `until`.
    pub(super) fn still_loading(
        &self,
        asked_at: Instant,
        patience: Duration,
        until: Deadline,
    ) -> Option<Result<Fetched, Failure>> {
        let now = self.cluster.clock.now();
        if until.is_past(now) {
            return Some(Ok(Fetched::StillLoading));
        }
        let reason = "it answers `loading` without waiting";
        let is_hasty = now.saturating_duration_since(asked_at) < patience / 2;
        is_hasty.then(|| Err(Failure::Silent(reason.to_owned())))
    }

    /// The meaning of an answer; `None` if the owner is still loading.
    fn read_answer(
        &self,
        key: KeyRef<'_>,
        status: Status,
        reply: Reply,
    ) -> Result<Option<Fetched>, ProtocolError> {
        let is_native = self.cluster.spoken(&reply) == Dialect::Native;
        Ok(Some(match status {
            Status::Ok => {
                let answer = Answer::decode(reply.body)?;
                // A Go peer does not say which key its answer belongs to.
                if is_native && answer.key_hash != Some(hash_of_key(&self.name, key.text())) {
                    return Err(ProtocolError("the answer belongs to another key"));
                }
                Fetched::Value(answer)
            }
            Status::Loading => return Ok(None),
            Status::NotFound => Fetched::NotFound,
            Status::NoSuchGroup => Fetched::NoSuchGroup,
            Status::Foreign => Fetched::Foreign,
            Status::Overloaded => Fetched::Overloaded,
            Status::TooLarge => Fetched::TooLarge(
                reply
                    .header
                    .as_deref()
                    .and_then(protocol::length_of)
                    .unwrap_or(0),
            ),
            Status::LoadFailed => {
                Fetched::LoadFailed(String::from_utf8_lossy(&reply.body).trim_end().to_owned())
            }
            Status::KeyTooLong
            | Status::BadRequest
            | Status::Superseded
            | Status::Unauthorized
            | Status::StaleBoot
            | Status::Forbidden
            | Status::Misdirected
            | Status::WrongMethod
            | Status::Leaving
            | Status::Elsewhere => {
                return Err(ProtocolError("it refuses the request"));
            }
        }))
    }

    /// Decodes a fetched value, and keeps a copy if it is popular. `None` if it cannot be decoded.
    fn mirror(self: &Arc<Self>, guard: &Guard<Outcome<V>>, answer: Answer) -> Option<Obtained<V>> {
        let rate = answer.rate;
        let mut obtained = self.decode(answer)?;
        let now = self.cluster.clock.now();
        let number = self.fetch_number.fetch_add(1, Ordering::Relaxed);
        if let Some(until) = self.mirroring.life(rate, obtained.expires, now, number) {
            let owners_expiry = std::mem::replace(&mut obtained.expires, until.instant());
            self.keep(guard, Tier::Hot, &obtained, now);
            obtained.expires = owners_expiry;
        }
        Some(obtained)
    }

    /// The value of a peer's answer. `None` if it cannot be decoded.
    pub(super) fn decode(&self, answer: Answer) -> Option<Obtained<V>> {
        let now = self.cluster.clock.now();
        let length = answer.value.len();
        let decoded = user_code::load(|| self.codec.decode(answer.value));
        let usual = self.fetched_bytes.load(Ordering::Relaxed);
        let average = (7 * usual + length) / 8;
        self.fetched_bytes.store(average, Ordering::Relaxed);
        let value = match decoded {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => return self.undecodable_for(error),
            Err(panicked) => return self.undecodable(&panicked.0),
        };
        let (value, weight) = match self.weighed(value) {
            Ok(weighed) => weighed,
            Err(panicked) => return self.undecodable(&panicked.0),
        };
        Some(Obtained {
            value: Stored::new(value),
            source: Source::Peer,
            expires: answer.remaining.and_then(|life| now.checked_add(life)),
            weight,
            encoded: None,
        })
    }

    fn undecodable_for(&self, error: CodecError) -> Option<Obtained<V>> {
        let text = user_code::load(|| error.to_string());
        user_code::defer_drop(error);
        self.undecodable(&text.unwrap_or_else(|panicked| panicked.0))
    }

    fn undecodable(&self, reason: &str) -> Option<Obtained<V>> {
        let now = self.cluster.clock.now();
        self.reports.undecodable(&self.name, reason, now);
        None
    }

    pub(super) fn report_missing_group(&self, owner: &Remote) {
        let now = self.cluster.clock.now();
        self.reports.missing_group(&self.name, &owner.peer, now);
    }
}
