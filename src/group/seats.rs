//! `Seats`: places in several flights at once, for one who waits for all of them.
//!
//! Nobody attends to a single one of them, so a lead that falls to a seat goes on at once: a load to
//! the pool, a fetch to others who wait. Were it kept until its owner has the time, that one could
//! be waiting for a load that waits for the very value it is to lead.

use std::fmt;
use std::time::Instant;

use super::load::Role;
use super::serve::{Form, MAX_PATIENCE, Order, item_of_error};
use super::{Outcome, Shared, lost_leader};
use crate::cluster::Cluster;
use crate::deadline::{Clock, Deadline};
use crate::error::Error;
use crate::flight::{Delivery, Guard, Queued, Waiter};
use crate::slot::{Closed, Slot};
use crate::sync::{Arc, AtomicUsize, Mutex, Ordering};
use crate::value::Cacheable;
use crate::wire::{Item, Response, Status, Terms};

/// To whom a lead goes that falls to a seat.
#[derive(Clone, Copy)]
pub(super) enum Heir {
    Pool { deadline: Deadline, role: Role },
    Others,
}

/// What a seat was told.
pub(super) enum Told<V: Cacheable> {
    Outcome(Outcome<V>),
    /// The flight went on without it: it is to ask anew.
    Again,
    /// There is a value, but others have taken the room for it.
    NoRoom,
}

/// A seat that was taken in a flight, and what holds its guard if that was queued by the same one.
pub(super) type Taken<V> = (Waiter<Outcome<V>>, Option<Arc<Queued<Outcome<V>>>>);

pub(super) struct Seats<V: Cacheable> {
    group: Arc<Shared<V>>,
    heir: Heir,
    seats: Vec<Mutex<Seat<V>>>,
    /// How many have not been told anything.
    missing: AtomicUsize,
    /// How many bytes of values may be held until all are told, and how many are: those who ask from
    /// outside choose how many values there are and how long they wait.
    room: usize,
    held: AtomicUsize,
    /// Filled when none is missing.
    all: Arc<Slot<()>>,
}

struct Seat<V: Cacheable> {
    told: Option<Told<V>>,
    /// Where a load was queued on behalf of this seat.
    queued: Option<Arc<Queued<Outcome<V>>>>,
    waiter: Option<Waiter<Outcome<V>>>,
}

impl<V: Cacheable> Seats<V> {
    /// Attends to these seats, and holds values of up to `room` bytes for them, or a single one. To
    /// be ended by [`leave`](Seats::leave).
    pub(super) fn attend(
        group: &Arc<Shared<V>>,
        heir: Heir,
        room: usize,
        taken: Vec<Taken<V>>,
    ) -> Arc<Seats<V>> {
        let (waiters, queued): (Vec<_>, Vec<_>) = taken.into_iter().unzip();
        let seat = |queued| {
            Mutex::new(Seat {
                told: None,
                queued,
                waiter: None,
            })
        };
        let seats = Arc::new(Seats {
            group: Arc::clone(group),
            heir,
            missing: AtomicUsize::new(waiters.len()),
            room,
            held: AtomicUsize::new(0),
            seats: queued.into_iter().map(seat).collect(),
            all: Slot::new(),
        });
        if waiters.is_empty() {
            seats.tell_all();
        }
        for (at, waiter) in waiters.into_iter().enumerate() {
            seats.follow(at, waiter);
        }
        seats
    }

    fn follow(self: &Arc<Self>, at: usize, waiter: Waiter<Outcome<V>>) {
        let seats = Arc::clone(self);
        waiter.then(move |delivery| seats.land(at, delivery));
        let left = {
            let mut seat = self.seats[at].lock();
            match seat.told {
                None => seat.waiter.replace(waiter),
                Some(_) => Some(waiter),
            }
        };
        drop(left); // it takes a lock of its flight (I2)
    }

    fn land(self: &Arc<Self>, at: usize, delivery: Delivery<Outcome<V>>) {
        let told = match (delivery, self.heir) {
            (Delivery::Finished(outcome), _) if self.has_room(&outcome) => Told::Outcome(outcome),
            (Delivery::Finished(_), _) => Told::NoRoom,
            (Delivery::Abandoned, _) => Told::Outcome(Err(lost_leader())),
            (Delivery::Released, _) => Told::Again,
            (Delivery::Lead(guard), Heir::Pool { deadline, role }) => {
                match self.group.queue_load(guard, deadline, role) {
                    Ok((waiter, queued)) => {
                        let before = self.seats[at].lock().queued.replace(queued);
                        drop(before); // it takes a lock of its flight (I2)
                        return self.follow(at, waiter);
                    }
                    Err(error) => Told::Outcome(Err(error)),
                }
            }
            (Delivery::Lead(guard), Heir::Others) => {
                guard.hand_over(self.group.cluster.clock.now());
                Told::Again
            }
        };
        self.tell(at, told);
    }

    fn has_room(&self, outcome: &Outcome<V>) -> bool {
        let weight = outcome.as_ref().map_or(0, |landed| landed.weight);
        let before = self.held.fetch_add(weight, Ordering::Relaxed);
        let has_room = before == 0 || before.saturating_add(weight) <= self.room;
        if !has_room {
            self.held.fetch_sub(weight, Ordering::Relaxed);
        }
        has_room
    }

    /// Tells a seat what became of its flight.
    pub(super) fn tell(&self, at: usize, told: Told<V>) {
        // A seat that is kept would keep the flight's value.
        let left = {
            let mut seat = self.seats[at].lock();
            seat.told = Some(told);
            (seat.waiter.take(), seat.queued.take())
        };
        drop(left); // they take locks of their flight (I2)
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.tell_all();
        }
    }

    fn tell_all(&self) {
        // One who gave up meanwhile does not want it.
        let _ = self.all.fill(());
    }

    /// Leaves a seat whose load nobody has begun, with the guard of its flight.
    pub(super) fn take_guard(&self, at: usize) -> Option<Guard<Outcome<V>>> {
        let queued = self.seats[at].lock().queued.clone();
        let guard = queued?.take()?;
        let waiter = self.seats[at].lock().waiter.take();
        drop(waiter); // or the guard could be handed to it
        Some(guard)
    }

    pub(super) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Waits until all are told, no longer than `deadline`.
    pub(super) fn wait(&self, deadline: Deadline) {
        // Who is not told by then is too late.
        let _ = self.all.wait(&self.group.cluster.clock, deadline);
    }

    pub(super) fn take_told(&self, at: usize) -> Option<Told<V>> {
        self.seats[at].lock().told.take()
    }

    /// Whether a load waits for a thread of the pool.
    fn is_queued(&self, at: usize) -> bool {
        let waiter = self.seats[at].lock().waiter.take();
        waiter.as_ref().is_some_and(Waiter::is_queued)
    }

    pub(super) fn leave(&self) {
        for seat in &self.seats {
            let left = {
                let mut seat = seat.lock();
                (seat.waiter.take(), seat.queued.take())
            };
            drop(left); // they take locks of their flights (I2)
        }
    }
}

/// A request whose answer takes a load. See [`Node::begin`](crate::Node::begin).
///
/// Either [`wait`](Pending::wait) for the answer, or have [`notify`](Pending::notify) call back,
/// and call [`give_up`](Pending::give_up) when the [`deadline`](Pending::deadline) comes first. No
/// thread is held meanwhile.
pub struct Pending {
    served: Arc<dyn Served>,
    all: Arc<Slot<()>>,
    until: Instant,
    clock: Clock,
}

impl Pending {
    pub(super) fn new<V: Cacheable>(
        seats: Arc<Seats<V>>,
        orders: Vec<Order>,
        form: Form,
        until: Instant,
    ) -> Pending {
        Pending {
            all: Arc::clone(&seats.all),
            until,
            clock: seats.group.cluster.clock.clone(),
            served: Arc::new(Party {
                seats,
                orders: Mutex::new(orders),
                form,
            }),
        }
    }

    /// What is answered when a job of the pool has filled `done`.
    pub(super) fn of_job(
        done: Arc<Slot<()>>,
        ring: u64,
        terms: &Terms,
        cluster: &Cluster,
    ) -> Pending {
        let patience = terms.patience.unwrap_or(cluster.settings.load_timeout);
        Pending {
            all: done,
            until: cluster.clock.now() + patience.min(MAX_PATIENCE),
            clock: cluster.clock.clone(),
            served: Arc::new(Done { ring }),
        }
    }

    /// When the one who asked is to get an answer that the value is still loading.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.until
    }

    /// Blocks until the answer is here, at most until the deadline.
    #[must_use]
    pub fn wait(self) -> Response {
        let _ = self.all.wait(&self.clock, Deadline::at(self.until));
        self.served.response()
    }

    /// Has `callback` called with the answer, at once if it is here already, on the thread that
    /// brings it and without any lock held. It should be quick: hand the answer to a thread of
    /// your own. It may use the node and its groups; what others wait for comes after it, so it should
    /// not block. Dropping this `Pending` before takes the callback back.
    pub fn notify(&self, callback: impl FnOnce(Response) + Send + 'static) {
        let served = Arc::clone(&self.served);
        self.all.then(move |()| callback(served.response()));
    }

    /// The answer to give now that the deadline has come, or `None` if the real one came first and
    /// has been handed to the callback.
    #[must_use]
    pub fn give_up(self) -> Option<Response> {
        match self.all.close() {
            Closed::Full(()) | Closed::Unfilled => Some(self.served.response()),
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
        let _ = self.all.close();
        self.served.leave();
    }
}

/// A request that waits, without the type of its values.
trait Served: Send + Sync {
    /// What there is to say by now. Called once.
    fn response(&self) -> Response;
    fn leave(&self);
}

/// That something has been done, or will be.
struct Done {
    ring: u64,
}

impl Served for Done {
    fn response(&self) -> Response {
        Response::new(Status::Ok, self.ring)
    }

    fn leave(&self) {}
}

/// The keys of a request of a peer, and the seats of those that are not in memory.
struct Party<V: Cacheable> {
    seats: Arc<Seats<V>>,
    orders: Mutex<Vec<Order>>,
    form: Form,
}

impl<V: Cacheable> Party<V> {
    /// What to say of the key of this seat.
    fn item(&self, key: &str, at: usize) -> Item {
        let group = &self.seats.group;
        match self.seats.take_told(at) {
            Some(Told::Outcome(outcome)) => group.item(key, outcome),
            Some(Told::Again) => item_of_error(&Error::Overloaded),
            Some(Told::NoRoom) => item_of_waiting(Status::Loading),
            None => self.item_of_late(at),
        }
    }

    /// What to say of a key whose load takes too long.
    fn item_of_late(&self, at: usize) -> Item {
        if let Some(guard) = self.seats.take_guard(at) {
            // It never began: it goes to one who can wait longer, and the asker loads it itself.
            guard.hand_over(self.seats.group.cluster.clock.now());
            return item_of_error(&Error::Overloaded);
        }
        let status = if self.seats.is_queued(at) {
            Status::Overloaded
        } else {
            Status::Loading
        };
        item_of_waiting(status)
    }
}

fn item_of_waiting(status: Status) -> Item {
    Item::Status(status, "the value is not here yet; ask again".to_owned())
}

impl<V: Cacheable> Served for Party<V> {
    fn response(&self) -> Response {
        let orders = std::mem::take(&mut *self.orders.lock());
        let mut seats = 0..;
        let items = orders.into_iter().map(|order| {
            let item = order.item.or_else(|| {
                let at = seats.next()?;
                Some(self.item(&order.key, at))
            });
            (order.key, item)
        });
        let items = items.filter_map(|(key, item)| Some((key, item?)));
        self.seats.group.respond(self.form, items)
    }

    fn leave(&self) {
        self.seats.leave();
    }
}
