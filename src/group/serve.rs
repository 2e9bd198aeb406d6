//! The group as peers see it: requests are answered here and never forwarded (I5).

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::load::Role;
use super::{Outcome, Shared};
use crate::deadline::{Clock, Deadline};
use crate::dialect::Dialect;
use crate::error::Error;
use crate::flight::{Delivery, Part, Queued, Waiter};
use crate::loader;
use crate::ring::hash_of_key;
use crate::slot::{Closed, Slot};
use crate::stats::GroupStats;
use crate::sync::{Arc, Mutex, RwLock};
use crate::value::{Cacheable, Value};
use crate::wire::{Answer, Command, Response, Status, Terms, decode_set};

/// What becomes of a request at once.
pub(crate) enum Begun {
    Ready(Response),
    Pending(Pending),
}

/// A group of any type, as a node serves it.
pub(crate) trait Serve: Send + Sync {
    fn begin_get(self: Arc<Self>, key: &str, terms: &Terms) -> Begun;
    fn answer_put(&self, key: &str, body: &[u8]) -> Response;
    fn answer_delete(&self, key: &str) -> Response;
    fn answer_command(&self, body: &[u8]) -> Response;
    fn stats(&self) -> GroupStats;
}

/// The groups of a node by name.
#[derive(Default)]
pub(crate) struct Registry {
    groups: RwLock<HashMap<String, Arc<dyn Serve>>>,
}

impl Registry {
    pub(super) fn add<V: Cacheable>(&self, group: &Arc<Shared<V>>) -> Result<(), Error> {
        let mut groups = self.groups.write();
        if groups.contains_key(&group.name) {
            return Err(Error::GroupExists {
                name: group.name.as_str().into(),
            });
        }
        groups.insert(group.name.clone(), Arc::clone(group) as Arc<dyn Serve>);
        Ok(())
    }

    /// Takes a group out; dropped by the caller, as it may be the last handle (I1).
    pub(crate) fn remove(&self, name: &str) -> Option<Arc<dyn Serve>> {
        self.groups.write().remove(name)
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<dyn Serve>> {
        self.groups.read().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Vec<(String, Arc<dyn Serve>)> {
        let groups = self.groups.read();
        let mut all: Vec<_> = groups
            .iter()
            .map(|(name, group)| (name.clone(), Arc::clone(group)))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

/// A request whose answer takes a load. See [`Node::begin`](crate::Node::begin).
///
/// Either [`wait`](Pending::wait) for the answer, or have [`notify`](Pending::notify) call back,
/// and call [`give_up`](Pending::give_up) when the [`deadline`](Pending::deadline) comes first. No
/// thread is held meanwhile.
pub struct Pending {
    answer: Arc<Slot<Response>>,
    seats: Arc<dyn Seats>,
    until: Instant,
    clock: Clock,
}

impl Pending {
    /// When the one who asked is to get an answer that the value is still loading.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.until
    }

    /// Blocks until the answer is here, at most until the deadline.
    #[must_use]
    pub fn wait(self) -> Response {
        match self.answer.wait(&self.clock, Deadline::at(self.until)) {
            Some(response) => response,
            None => self.seats.give_up(),
        }
    }

    /// Has `callback` called with the answer, at once if it is here already, on the thread that
    /// brings it and without any lock held. It should be quick: hand the answer to a thread of
    /// your own. Dropping this `Pending` before takes the callback back.
    pub fn notify(&self, callback: impl FnOnce(Response) + Send + 'static) {
        self.answer.then(callback);
    }

    /// The answer to give now that the deadline has come, or `None` if the real one came first and
    /// has been handed to the callback.
    #[must_use]
    pub fn give_up(self) -> Option<Response> {
        match self.answer.close() {
            Closed::Full(response) => Some(response),
            Closed::Unfilled => Some(self.seats.give_up()),
            Closed::Before => None,
        }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let _ = self.answer.close();
        self.seats.leave();
    }
}

/// The places that a pending request has in flights, without their type.
trait Seats: Send + Sync {
    /// What to answer to one who waits no longer.
    fn give_up(&self) -> Response;
    fn leave(&self);
}

struct SeatsOf<V: Cacheable> {
    group: Arc<Shared<V>>,
    /// What the asker speaks.
    asker: Dialect,
    /// Where a load was queued on behalf of this request.
    queued: Mutex<Option<Arc<Queued<Outcome<V>>>>>,
    waiters: Mutex<Vec<Waiter<Outcome<V>>>>,
}

impl<V: Cacheable> Seats for SeatsOf<V> {
    fn give_up(&self) -> Response {
        let queued = self.queued.lock().take();
        let guard = queued.and_then(|queued| queued.take());
        if let Some(guard) = guard {
            // It never began: it goes to one who can wait longer, and the asker loads it itself.
            guard.hand_over(self.group.cluster.clock.now());
            return self.group.respond_to_error(&Error::Overloaded, self.asker);
        }
        let is_queued = self.waiters.lock().last().is_some_and(Waiter::is_queued);
        // A Go peer cannot be told to ask again.
        let status = if is_queued || self.asker == Dialect::Golang {
            Status::Overloaded
        } else {
            Status::Loading
        };
        Response::text(
            status,
            self.group.ring(),
            "the value is not loaded yet; ask again",
        )
    }

    fn leave(&self) {
        let waiters = std::mem::take(&mut *self.waiters.lock());
        drop(waiters); // they take locks of their flights (I2)
    }
}

impl<V: Cacheable> Serve for Shared<V> {
    fn begin_get(self: Arc<Self>, key: &str, terms: &Terms) -> Begun {
        self.counters.served.add();
        let asker = self.cluster.settings.dialect.spoken(terms.native);
        let hashed = self.cache.hash(key);
        if let Some((found, rate)) = self.cache.answer(hashed, terms.hits) {
            self.counters.served_hits.add();
            if found.is_stale {
                self.renew(hashed);
            }
            let (value, expires) = (&found.value, found.expires);
            return Begun::Ready(self.respond_with(key, value, expires, Some(rate), asker));
        }
        let now = self.cluster.clock.now();
        let patience = terms.patience.unwrap_or(self.cluster.settings.load_timeout);
        let until = now + patience.min(MAX_PATIENCE);
        let load_deadline = terms
            .remaining
            .map_or(Deadline::NEVER, |remaining| Deadline::after(now, remaining));
        let seats = Arc::new(SeatsOf {
            group: Arc::clone(&self),
            asker,
            queued: Mutex::new(None),
            waiters: Mutex::new(Vec::new()),
        });
        let waiter = match self.loads.join(hashed, Deadline::at(until), false) {
            Part::Wait(waiter) => waiter,
            Part::Lead(guard) => {
                let guard = match self.land_if_cached(guard) {
                    Ok(landed) => return Begun::Ready(self.respond(key, Ok(landed), asker)),
                    Err(guard) => guard,
                };
                match self.queue_load(guard, load_deadline, Role::Owner) {
                    Ok((waiter, queued)) => {
                        *seats.queued.lock() = Some(queued);
                        waiter
                    }
                    Err(error) => return Begun::Ready(self.respond_to_error(&error, asker)),
                }
            }
        };
        let answer = Slot::new();
        seats.follow(key.to_owned(), waiter, load_deadline, Arc::clone(&answer));
        Begun::Pending(Pending {
            answer,
            seats,
            until,
            clock: self.cluster.clock.clone(),
        })
    }

    fn answer_put(&self, key: &str, body: &[u8]) -> Response {
        let (bytes, life) = match decode_set(&self.name, key, body) {
            Ok(set) => set,
            Err(nonsense) => return Response::text(Status::BadRequest, self.ring(), nonsense.0),
        };
        if bytes.len() > self.cluster.settings.max_value {
            return Response::too_large(self.ring(), bytes.len());
        }
        let decoded = loader::run(|| self.codec.decode(bytes));
        let Ok(Ok(value)) = decoded else {
            return Response::text(
                Status::BadRequest,
                self.ring(),
                "the value cannot be decoded",
            );
        };
        match self.put(key, value, life) {
            Ok(()) => Response::new(Status::Ok, self.ring()),
            Err(error) => self.respond_to_error(&error, Dialect::Native),
        }
    }

    fn answer_delete(&self, key: &str) -> Response {
        self.invalidate(key);
        Response::new(Status::Ok, self.ring())
    }

    fn answer_command(&self, body: &[u8]) -> Response {
        match Command::decode(body) {
            Ok(Command::Remove(keys)) => {
                keys.iter().for_each(|key| self.invalidate(key));
                Response::new(Status::Ok, self.ring())
            }
            Ok(Command::Clear) => {
                self.invalidate_all();
                Response::new(Status::Ok, self.ring())
            }
            Err(nonsense) => Response::text(Status::BadRequest, self.ring(), nonsense.0),
        }
    }

    fn stats(&self) -> GroupStats {
        Shared::stats(self)
    }
}

/// The longest time a peer may wait for one answer.
const MAX_PATIENCE: Duration = Duration::from_secs(3_600);

impl<V: Cacheable> SeatsOf<V> {
    /// Has the answer made when the flight lands, and takes its lead if that falls to this seat.
    fn follow(
        self: &Arc<Self>,
        key: String,
        waiter: Waiter<Outcome<V>>,
        load_deadline: Deadline,
        answer: Arc<Slot<Response>>,
    ) {
        let seats = Arc::clone(self);
        let landed = move |delivery| {
            let (group, asker) = (&seats.group, seats.asker);
            let response = match delivery {
                Delivery::Finished(outcome) => group.respond(&key, outcome, asker),
                Delivery::Abandoned => group.respond(&key, Err(super::lost_leader()), asker),
                Delivery::Released => group.respond_to_error(&Error::Overloaded, asker),
                Delivery::Lead(guard) => {
                    match group.queue_load(guard, load_deadline, Role::Owner) {
                        Ok((waiter, queued)) => {
                            *seats.queued.lock() = Some(queued);
                            return seats.follow(key, waiter, load_deadline, answer);
                        }
                        Err(error) => group.respond_to_error(&error, asker),
                    }
                }
            };
            // One who gave up meanwhile does not want it.
            let _ = answer.fill(response);
        };
        waiter.then(landed);
        self.waiters.lock().push(waiter);
    }
}

impl<V: Cacheable> Shared<V> {
    fn ring(&self) -> u64 {
        self.cluster.members().fingerprint()
    }

    fn respond(&self, key: &str, outcome: Outcome<V>, asker: Dialect) -> Response {
        match self.or_stand_in(self.cache.hash(key), outcome) {
            // Just loaded: there is no rate yet.
            Ok(landed) => self.respond_with(key, &landed.value, landed.expires, Some(0.0), asker),
            Err(error) => self.respond_to_error(&error, asker),
        }
    }

    fn respond_with(
        &self,
        key: &str,
        value: &V,
        expires: Option<Instant>,
        rate: Option<f64>,
        asker: Dialect,
    ) -> Response {
        let bytes: Value = match self.encode_for_peers(value) {
            Ok(bytes) => bytes,
            Err(error) => return self.respond_to_error(&error, asker),
        };
        let mut answer = Answer {
            value: bytes,
            rate,
            remaining: None,
            key_hash: None,
        };
        // Go has no such fields.
        if asker == Dialect::Native {
            let now = self.cluster.clock.now();
            answer.remaining = expires.map(|expires| expires.saturating_duration_since(now));
            answer.key_hash = Some(hash_of_key(&self.name, key));
        }
        Response::value(self.ring(), answer)
    }

    fn respond_to_error(&self, error: &Error, asker: Dialect) -> Response {
        let status = match error {
            // In Go that is an error of the getter as any other, and 404 means another thing.
            Error::NotFound if asker == Dialect::Golang => Status::LoadFailed,
            Error::NotFound => Status::NotFound,
            Error::Overloaded | Error::Thread { .. } => Status::Overloaded,
            Error::ValueTooLarge { bytes, .. } => return Response::too_large(self.ring(), *bytes),
            _ => Status::LoadFailed,
        };
        Response::text(status, self.ring(), &error.to_string())
    }
}
