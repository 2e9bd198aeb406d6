//! `Pending`: what a request of a peer waits for, a seat in the flight of each of its keys.

use std::fmt;
use std::time::Instant;

use super::load::{Queueing, Role};
use super::serve::item_of_error;
use super::{Outcome, Shared, lost_leader};
use crate::deadline::{Clock, Deadline};
use crate::dialect::Dialect;
use crate::error::Error;
use crate::flight::{Delivery, Queued, Waiter};
use crate::slot::{Closed, Slot};
use crate::sync::{Arc, AtomicUsize, Mutex, Ordering};
use crate::value::Cacheable;
use crate::wire::{Item, Response, Status};

/// A request whose answer takes a load. See [`Node::begin`](crate::Node::begin).
///
/// Either [`wait`](Pending::wait) for the answer, or have [`notify`](Pending::notify) call back,
/// and call [`give_up`](Pending::give_up) when the [`deadline`](Pending::deadline) comes first. No
/// thread is held meanwhile.
pub struct Pending {
    answer: Arc<Slot<Response>>,
    seats: Arc<dyn AnySeats>,
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

/// Seats without their type.
trait AnySeats: Send + Sync {
    /// What to answer to one who waits no longer.
    fn give_up(&self) -> Response;
    fn leave(&self);
}

/// How the answers to the keys of a request become one.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// There is one key, and this is what the asker speaks.
    Single(Dialect),
    /// A batch of up to so many bytes.
    Batch(usize),
}

/// A key of a request, and what there is to say of it, if that is known yet.
pub(super) struct Order {
    pub(super) key: String,
    pub(super) item: Option<Item>,
}

/// The seats of one request.
pub(super) struct Seats<V: Cacheable> {
    group: Arc<Shared<V>>,
    load_deadline: Deadline,
    form: Form,
    keys: Vec<String>,
    seats: Vec<Mutex<Seat<V>>>,
    /// How many keys nobody has anything to say of yet.
    missing: AtomicUsize,
    answer: Arc<Slot<Response>>,
}

struct Seat<V: Cacheable> {
    item: Option<Item>,
    /// Where a load was queued on behalf of this request.
    queued: Option<Arc<Queued<Outcome<V>>>>,
    waiter: Option<Waiter<Outcome<V>>>,
}

impl<V: Cacheable> Seats<V> {
    pub(super) fn new(
        group: Arc<Shared<V>>,
        orders: Vec<Order>,
        form: Form,
        load_deadline: Deadline,
    ) -> Arc<Seats<V>> {
        let missing = orders.iter().filter(|order| order.item.is_none()).count();
        let (keys, items): (Vec<_>, Vec<_>) = orders
            .into_iter()
            .map(|order| (order.key, order.item))
            .unzip();
        let seat = |item| {
            Mutex::new(Seat {
                item,
                queued: None,
                waiter: None,
            })
        };
        Arc::new(Seats {
            group,
            load_deadline,
            form,
            keys,
            seats: items.into_iter().map(seat).collect(),
            missing: AtomicUsize::new(missing),
            answer: Slot::new(),
        })
    }

    pub(super) fn pending(self: &Arc<Self>, until: Instant) -> Pending {
        Pending {
            answer: Arc::clone(&self.answer),
            seats: Arc::clone(self) as Arc<dyn AnySeats>,
            until,
            clock: self.group.cluster.clock.clone(),
        }
    }

    /// Waits for a load that was queued on behalf of this request.
    pub(super) fn follow_queued(self: &Arc<Self>, at: usize, (waiter, queued): Queueing<V>) {
        self.seats[at].lock().queued = Some(queued);
        self.follow(at, waiter);
    }

    /// Has the answer made when the flight lands, and takes its lead if that falls to this seat.
    pub(super) fn follow(self: &Arc<Self>, at: usize, waiter: Waiter<Outcome<V>>) {
        let seats = Arc::clone(self);
        waiter.then(move |delivery| seats.land(at, delivery));
        let before = self.seats[at].lock().waiter.replace(waiter);
        drop(before); // it takes a lock of its flight (I2)
    }

    fn land(self: &Arc<Self>, at: usize, delivery: Delivery<Outcome<V>>) {
        let outcome = match delivery {
            Delivery::Finished(outcome) => outcome,
            Delivery::Abandoned => Err(lost_leader()),
            Delivery::Released => Err(Error::Overloaded),
            Delivery::Lead(guard) => {
                match self
                    .group
                    .queue_load(guard, self.load_deadline, Role::Owner)
                {
                    Ok(queueing) => return self.follow_queued(at, queueing),
                    Err(error) => Err(error),
                }
            }
        };
        let item = self.group.item(&self.keys[at], outcome);
        self.settle(at, item);
    }

    /// Notes what there is to say of a key, and sends the answer with the last of them.
    pub(super) fn settle(&self, at: usize, item: Item) {
        self.seats[at].lock().item = Some(item);
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            // One who gave up meanwhile does not want it.
            let _ = self.answer.fill(self.response());
        }
    }

    /// What there is to say by now. Called once.
    fn response(&self) -> Response {
        let items = (0..self.seats.len()).map(|at| {
            let item = self.seats[at].lock().item.take();
            (
                &*self.keys[at],
                item.unwrap_or_else(|| self.item_of_late(at)),
            )
        });
        self.group.respond(self.form, items)
    }

    /// What to say of a key whose load takes too long.
    fn item_of_late(&self, at: usize) -> Item {
        let (queued, waiter) = {
            let mut seat = self.seats[at].lock();
            (seat.queued.take(), seat.waiter.take())
        };
        if let Some(guard) = queued.and_then(|queued| queued.take()) {
            // It never began: it goes to one who can wait longer, and the asker loads it itself.
            guard.hand_over(self.group.cluster.clock.now());
            return item_of_error(&Error::Overloaded);
        }
        let is_queued = waiter.as_ref().is_some_and(Waiter::is_queued);
        let status = if is_queued {
            Status::Overloaded
        } else {
            Status::Loading
        };
        let text = "the value is not loaded yet; ask again";
        Item::Status(status, text.to_owned())
    }
}

impl<V: Cacheable> AnySeats for Seats<V> {
    fn give_up(&self) -> Response {
        self.response()
    }

    fn leave(&self) {
        for seat in &self.seats {
            let waiter = seat.lock().waiter.take();
            drop(waiter); // it takes a lock of its flight (I2)
        }
    }
}
