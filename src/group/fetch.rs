//! Step 4, where another process owns the key: ask it, and load here if it is away.

use super::load::Role;
use super::{Count, Landed, Outcome, Shared, Source, Waited};
use crate::cluster::{Failure, Remote};
use crate::codec::CodecError;
use crate::deadline::Deadline;
use crate::dialect::Dialect;
use crate::entry::Place;
use crate::error::Error;
use crate::flight::{Guard, Part};
use crate::key::KeyRef;
use crate::loader;
use crate::peer::{Call, Reply};
use crate::ring::hash_of_key;
use crate::sync::{Arc, Ordering};
use crate::value::Cacheable;
use crate::wire::{self, Answer, Nonsense, Status, Terms};

/// What the owner of a key answers.
enum Fetched {
    Value(Answer),
    NotFound,
    TooLarge(usize),
    LoadFailed(String),
    /// Loading takes longer than a get inside a loader may wait.
    StillLoading,
    Overloaded,
    NoSuchGroup,
    /// A Go peer has no value, for whatever reason.
    Foreign,
}

impl<V: Cacheable> Shared<V> {
    /// Has the value fetched from `owner`: by this thread, or by one that does already.
    pub(super) fn fetch(
        self: &Arc<Self>,
        key: KeyRef<'_>,
        owner: &Arc<Remote>,
        deadline: Deadline,
        unreported: u32,
        mut count: Count,
    ) -> Outcome<V> {
        loop {
            match self.fetches.join(key, deadline, true) {
                Part::Lead(guard) => {
                    self.count_lead(&mut count);
                    return self.lead_fetch(guard, owner, deadline, unreported);
                }
                Part::Wait(waiter) => {
                    self.count_joined(&mut count);
                    match self.outcome_of(waiter) {
                        Waited::Outcome(outcome) => return outcome,
                        Waited::Lead(guard) => {
                            return self.lead_fetch(guard, owner, deadline, unreported);
                        }
                        Waited::Again => {}
                    }
                }
            }
        }
    }

    fn lead_fetch(
        self: &Arc<Self>,
        guard: Guard<Outcome<V>>,
        owner: &Arc<Remote>,
        deadline: Deadline,
        unreported: u32,
    ) -> Outcome<V> {
        let guard = match self.land_if_cached(guard) {
            Ok(landed) => return Ok(landed),
            Err(guard) => guard,
        };
        let leading = guard.lead();
        let key = guard.key().clone();
        let fetched = self.ask(owner, key.as_ref(), deadline, unreported);
        let outcome = match self.use_fetched(&guard, owner, fetched) {
            Some(outcome) => outcome,
            None => {
                self.counters.fetch_errors.add();
                self.load(key.as_ref(), deadline, Role::Fallback, Count::No)
            }
        };
        drop(leading);
        match outcome {
            // This caller's time or place is up, not the flight's (I6).
            Err(Error::Deadline | Error::Overloaded) => {
                guard.hand_over(self.cluster.clock.now());
            }
            _ => guard.finish(outcome.clone()),
        }
        outcome
    }

    /// What a fetch comes to; `None` if the value is to be loaded here.
    fn use_fetched(
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
            Ok(Fetched::NoSuchGroup) => {
                log::warn!(
                    target: "groupcache", peer:% = owner.peer, group = self.name.as_str();
                    "the peer has no such group; its keys are loaded here"
                );
                None
            }
            Ok(
                Fetched::LoadFailed(_)
                | Fetched::StillLoading
                | Fetched::Overloaded
                | Fetched::Foreign,
            ) => None,
            Err(Failure::Deadline) => Some(Err(Error::Deadline)),
            Err(Failure::Away(_) | Failure::Unsupported) => None,
        }
    }

    /// Asks the owner, again and again as long as it is loading: a slow load is no failure.
    fn ask(
        &self,
        owner: &Arc<Remote>,
        key: KeyRef<'_>,
        deadline: Deadline,
        unreported: u32,
    ) -> Result<Fetched, Failure> {
        let settings = &self.cluster.settings;
        let clock = &self.cluster.clock;
        let patience = settings.fetch_timeout / 2;
        // Loads of several processes that wait for each other in a circle would wait for ever.
        let until = if loader::inside_a_loader() {
            Deadline::after(clock.now(), settings.load_timeout)
        } else {
            Deadline::NEVER
        };
        let mut terms = Terms {
            native: true,
            hits: unreported,
            patience: Some(patience),
            remaining: None,
            ring: Some(self.cluster.members().fingerprint()),
        };
        self.counters.fetches.add();
        loop {
            let asked = clock.now();
            terms.remaining = deadline.remaining(asked);
            let call = Call {
                method: "GET",
                target: wire::target(&self.name, Some(key.text())),
                header: terms.to_header(),
                body: Vec::new(),
            };
            let read = |status, reply| self.read_answer(key, status, reply);
            let limit = self.cluster.patience_with(owner);
            let answer = self.cluster.call(owner, &call, limit, deadline, read)?;
            if let Some(fetched) = answer {
                return Ok(fetched);
            }
            let now = clock.now();
            if until.is_past(now) {
                return Ok(Fetched::StillLoading);
            }
            if now.saturating_duration_since(asked) < patience / 2 {
                return Err(Failure::Away(
                    "it answers `loading` without waiting".to_owned(),
                ));
            }
            terms.hits = 0;
        }
    }

    /// What an answer says; `None` if the owner is still loading.
    fn read_answer(
        &self,
        key: KeyRef<'_>,
        status: Status,
        reply: Reply,
    ) -> Result<Option<Fetched>, Nonsense> {
        let is_native = self.cluster.spoken(&reply) == Dialect::Native;
        Ok(Some(match status {
            Status::Ok => {
                let answer = Answer::decode(reply.body)?;
                // A Go peer does not say which key its answer belongs to.
                if is_native && answer.key_hash != Some(hash_of_key(&self.name, key.text())) {
                    return Err(Nonsense("the answer belongs to another key"));
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
                    .and_then(wire::length_of)
                    .unwrap_or(0),
            ),
            Status::LoadFailed => {
                Fetched::LoadFailed(String::from_utf8_lossy(&reply.body).trim_end().to_owned())
            }
            Status::KeyTooLong | Status::BadRequest | Status::WrongMethod | Status::Elsewhere => {
                return Err(Nonsense("it refuses the request"));
            }
        }))
    }

    /// Keeps a copy of what was fetched if it is popular. `None` if it cannot be decoded here.
    fn mirror(self: &Arc<Self>, guard: &Guard<Outcome<V>>, answer: Answer) -> Option<Landed<V>> {
        let now = self.cluster.clock.now();
        let decoded = loader::run(|| {
            let value = self.codec.decode(answer.value)?;
            let weight = self.weigh(&value);
            Ok::<_, CodecError>((value, weight))
        });
        let (value, weight) = match decoded {
            Ok(Ok(decoded)) => decoded,
            Ok(Err(error)) => return self.cannot_decode(&error.to_string()),
            Err(panicked) => return self.cannot_decode(&panicked.0),
        };
        let mut landed = Landed {
            value,
            source: Source::Peer,
            expires: answer.remaining.and_then(|life| now.checked_add(life)),
        };
        let dice = self.dice.fetch_add(1, Ordering::Relaxed);
        if let Some(until) = self.mirroring.life(answer.rate, landed.expires, now, dice) {
            let owners_expiry = landed.expires.replace(until);
            self.keep(guard, Place::Hot, &landed, weight, now);
            landed.expires = owners_expiry;
        }
        Some(landed)
    }

    fn cannot_decode(&self, reason: &str) -> Option<Landed<V>> {
        log::warn!(
            target: "groupcache", group = self.name.as_str(), error = reason;
            "cannot decode a value of a peer; it is loaded here"
        );
        None
    }
}
