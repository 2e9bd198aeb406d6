//! `Seats`: waiters of several flights at once, for one who wants to hear of all of them.

use std::time::Instant;

use super::{Outcome, Shared, lost_leader};
use crate::error::Error;
use crate::flight::table::{Guard, WaitOutcome, Waiter};
use crate::protocol::account::Charge;
use crate::runtime::clock::Deadline;
use crate::runtime::slot::Slot;
use crate::runtime::sync::{Arc, AtomicUsize, Mutex, Ordering};
use crate::value::Cacheable;

/// What became of a flight, as one of many.
#[derive(Clone)]
pub(super) enum Answered<V: Cacheable> {
    Outcome(Outcome<V>),
    /// The flight ended without a result: ask anew.
    Again,
    /// There is a value, but others have taken the room for it.
    NoRoom,
}

pub(super) struct Seats<V: Cacheable> {
    pub(super) group: Arc<Shared<V>>,
    seats: Vec<Mutex<Seat<V>>>,
    /// How many have no answer.
    missing: AtomicUsize,
    /// For values that are held until all are there.
    room: Mutex<Room>,
    /// Filled when none is missing.
    pub(super) all: Arc<Slot<()>>,
}

/// How many bytes of values may be held: those who ask from outside choose how many values there are
/// and how long they wait.
pub(super) struct Room {
    max: usize,
    held: usize,
    /// What pays for them, unless the application asks itself, or for one that is not held at all.
    charge: Option<Charge>,
}

impl Room {
    /// For up to `max` bytes, or a single value.
    pub(super) fn new(max: usize, charge: Charge) -> Room {
        Room {
            max,
            held: 0,
            charge: Some(charge),
        }
    }

    pub(super) fn endless() -> Room {
        Room {
            max: usize::MAX,
            held: 0,
            charge: None,
        }
    }

    fn take(&mut self, bytes: usize) -> Taken {
        let held = self.held.saturating_add(bytes);
        if bytes > 0 && self.held > 0 && held > self.max {
            return Taken::NoRoom;
        }
        let is_paid = |charge: &mut Charge| charge.grow(bytes);
        if !self.charge.as_mut().is_none_or(is_paid) {
            return Taken::NotPaid;
        }
        self.held = held;
        Taken::Yes
    }
}

/// Whether a value has room.
enum Taken {
    Yes,
    /// Not among the others of its batch.
    NoRoom,
    /// Others have taken all that may be held.
    NotPaid,
}

struct Seat<V: Cacheable> {
    answer: Option<Answered<V>>,
    waiter: Option<Waiter<Outcome<V>>>,
}

impl<V: Cacheable> Seats<V> {
    /// Waits with all of `waiters`, and holds values for them for which there is `room`. To be ended by
    /// [`leave`](Seats::leave).
    pub(super) fn new(
        group: &Arc<Shared<V>>,
        room: Room,
        waiters: Vec<Waiter<Outcome<V>>>,
    ) -> Arc<Seats<V>> {
        let seat = |_| {
            Mutex::new(Seat {
                answer: None,
                waiter: None,
            })
        };
        let seats = Arc::new(Seats {
            group: Arc::clone(group),
            missing: AtomicUsize::new(waiters.len()),
            room: Mutex::new(room),
            seats: waiters.iter().map(seat).collect(),
            all: Slot::new(),
        });
        if waiters.is_empty() {
            seats.have_all();
        }
        for (at, waiter) in waiters.into_iter().enumerate() {
            let of_waiter = Arc::clone(&seats);
            waiter.then(move |told| of_waiter.take(at, told));
            seats.keep(at, waiter);
        }
        seats
    }

    /// Keeps the waiter until there is an answer: one that is kept longer would keep the value.
    fn keep(&self, at: usize, waiter: Waiter<Outcome<V>>) {
        let left = {
            let mut seat = self.seats[at].lock();
            match seat.answer {
                None => seat.waiter.replace(waiter),
                Some(_) => Some(waiter),
            }
        };
        drop(left); // it takes a lock of its flight (I2)
    }

    fn take(&self, at: usize, told: WaitOutcome<Outcome<V>>) {
        let answer = match told {
            WaitOutcome::Finished(outcome) => self.hold(outcome),
            WaitOutcome::Lost => Answered::Outcome(Err(lost_leader())),
            // A lead is only handed to those who can take it, and a callback has no deadline.
            WaitOutcome::Again | WaitOutcome::Lead(_) | WaitOutcome::Late | WaitOutcome::Cycle => {
                Answered::Again
            }
        };
        let left = {
            let mut seat = self.seats[at].lock();
            seat.answer = Some(answer);
            seat.waiter.take()
        };
        drop(left); // it takes a lock of its flight (I2)
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.have_all();
        }
    }

    fn hold(&self, outcome: Outcome<V>) -> Answered<V> {
        let weight = outcome.as_ref().map_or(0, |obtained| obtained.weight);
        let taken = self.room.lock().take(weight);
        match taken {
            Taken::Yes => Answered::Outcome(outcome),
            Taken::NoRoom => Answered::NoRoom,
            Taken::NotPaid => Answered::Outcome(Err(Error::Overloaded)),
        }
    }

    fn have_all(&self) {
        // One who gave up meanwhile does not want it.
        let _ = self.all.fill(());
    }

    pub(super) fn len(&self) -> usize {
        self.seats.len()
    }

    /// Waits until all have an answer, no longer than `deadline`.
    pub(super) fn wait(&self, deadline: Deadline) {
        // Which has none by then is too late.
        let _ = self.all.wait(&self.group.cluster.clock, deadline);
    }

    /// What became of a flight, if that is known.
    pub(super) fn answer(&self, at: usize) -> Option<Answered<V>> {
        self.seats[at].lock().answer.clone()
    }

    /// Whether the flight of a seat has no leader yet.
    pub(super) fn is_queued(&self, at: usize) -> bool {
        let waiter = self.seats[at].lock().waiter.take();
        let is_queued = waiter.as_ref().is_some_and(Waiter::is_queued);
        if let Some(waiter) = waiter {
            self.keep(at, waiter);
        }
        is_queued
    }

    /// Leads the flight of a seat if it has no leader yet.
    pub(super) fn start(&self, at: usize) -> Option<Guard<Outcome<V>>> {
        let waiter = self.seats[at].lock().waiter.take()?;
        let guard = waiter.start();
        self.keep(at, waiter);
        guard
    }

    /// Leaves a flight that is queued and that nobody else wants; tells whether it was such a one.
    pub(super) fn leave_if_alone(&self, at: usize) -> bool {
        let waiter = self.seats[at].lock().waiter.take();
        match waiter.map(Waiter::leave_if_alone) {
            None => false,
            Some(Ok(())) => true,
            Some(Err(waiter)) => {
                self.keep(at, waiter);
                false
            }
        }
    }

    /// Leaves a flight that has no answer yet, and has it kept in its queue until `until`.
    pub(super) fn leave_a_claim(&self, at: usize, until: Instant, deadline: Deadline) {
        let waiter = self.seats[at].lock().waiter.take();
        if let Some(waiter) = waiter {
            waiter.leave_a_claim(until, deadline);
        }
    }

    /// Leaves all flights that have no answer yet. Answers stay: a callback may be on its way to them.
    pub(super) fn leave(&self) {
        for seat in &self.seats {
            let left = seat.lock().waiter.take();
            drop(left); // it takes a lock of its flight (I2)
        }
    }
}
