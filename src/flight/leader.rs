//! `Guard`: the leader's hold on a flight. It ends the flight on every way out of the leader (I3).

use std::time::Instant;

use crate::cache::key::Key;
use crate::flight::in_flight::InFlight;
use crate::flight::outcome::{Outcome, Payload, SharedOutcome};
use crate::flight::state::BEFORE_FIRST;
use crate::flight::table::Table;
use crate::flight::wait_graph::{FlightId, Leading, NOBODY, leads, this_thread};
use crate::runtime::clock::Deadline;
use crate::runtime::sync::{Arc, AtomicBool};

/// What a waiter receives.
pub(crate) enum WaitOutcome<T: Payload> {
    /// The result.
    Finished(T),
    /// The leader handed over, and this waiter leads from now on.
    Lead(Guard<T>),
    /// There is no result: join anew.
    Again,
    /// A panic took the leader.
    Lost,
    /// The deadline of the waiter came.
    Late,
    /// The waiter would have waited for itself (I8).
    Cycle,
}

impl<T: Payload> From<Outcome<T>> for WaitOutcome<T> {
    fn from(outcome: Outcome<T>) -> WaitOutcome<T> {
        match outcome {
            Outcome::Finished(result) => WaitOutcome::Finished(result),
            Outcome::Again => WaitOutcome::Again,
            Outcome::Lost => WaitOutcome::Lost,
        }
    }
}

pub(super) type FlightOf<T> = InFlight<T, WaitOutcome<T>>;
pub(super) type TableOf<T> = Table<T, WaitOutcome<T>>;

/// The leader's hold on a flight. The flight ends by [`finish`](Guard::finish),
/// [`release`](Guard::release) or [`hand_over`](Guard::hand_over), or as lost when a panic drops the
/// guard.
pub(crate) struct Guard<T: Payload> {
    table: Arc<TableOf<T>>,
    flight: Arc<FlightOf<T>>,
    has_ended: bool,
}

impl<T: Payload> Guard<T> {
    /// Of a flight that has just got this leader.
    pub(super) fn new(table: &Arc<TableOf<T>>, flight: Arc<FlightOf<T>>) -> Guard<T> {
        Guard {
            table: Arc::clone(table),
            flight,
            has_ended: false,
        }
    }

    pub(crate) fn key(&self) -> &Key {
        self.flight.key()
    }

    /// Set once the value of this flight is not to be stored.
    pub(crate) fn stale(&self) -> &AtomicBool {
        self.flight.stale()
    }

    /// Notes that this thread leads for as long as the token lives: its waits meanwhile are checked
    /// for cycles (I8).
    pub(crate) fn lead(&self) -> Leading {
        self.flight.set_leader(this_thread());
        Leading::start(self.id())
    }

    /// Whether this thread leads another flight of the same key, which was removed meanwhile: what
    /// it does for that flight asks for its own key (I8).
    pub(crate) fn is_led_twice(&self) -> bool {
        leads(self.id())
    }

    fn id(&self) -> FlightId {
        let table = Arc::as_ptr(&self.table).addr();
        (table, self.flight.key().as_ref().hash())
    }

    /// The latest deadline of those who want the result; `None` if nobody does.
    pub(crate) fn latest_deadline(&self) -> Option<Deadline> {
        self.flight.latest_deadline()
    }

    /// Ends the flight with `result`, for all waiters. A value that is to be stored must be stored
    /// before (I7).
    pub(crate) fn finish(mut self, result: T) {
        self.end(SharedOutcome::for_all(Outcome::Finished(result)));
    }

    /// Ends the flight with `result` for the waiters whose deadlines are not after `until`: the others
    /// join anew.
    pub(crate) fn finish_until(mut self, until: Deadline, result: T) {
        self.end(SharedOutcome::until(until, Outcome::Finished(result)));
    }

    /// Ends the flight without a result: the waiters join anew.
    pub(crate) fn release(mut self) {
        self.end(SharedOutcome::for_all(Outcome::Again));
    }

    /// Hands the lead to the oldest waiter that can lead and has time left (I6); where there is none,
    /// ends the flight without a result, and the waiters join anew.
    pub(crate) fn hand_over(self, now: Instant) {
        self.pass_on(Some(now));
    }

    /// As [`hand_over`](Guard::hand_over); without `now`, whatever time the successor has left.
    pub(super) fn pass_on(mut self, now: Option<Instant>) {
        self.flight.set_leader(NOBODY);
        let mut last = BEFORE_FIRST;
        while let Some(waiting) = self.flight.successor(&mut last, now) {
            match waiting.slot.fill(WaitOutcome::Lead(self)) {
                // This waiter gave up meanwhile: try the next one.
                Err(WaitOutcome::Lead(guard)) => self = guard,
                _ => return,
            }
        }
        self.end(SharedOutcome::for_all(Outcome::Again));
    }

    fn end(&mut self, outcome: SharedOutcome<T>) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        self.table.take_out(&self.flight);
        let waiters = self.flight.end(outcome.clone());
        // A callback may take its time: the threads come first.
        let (callbacks, threads): (Vec<_>, Vec<_>) = waiters
            .into_values()
            .partition(|waiting| waiting.slot.calls_back());
        for waiting in threads.into_iter().chain(callbacks) {
            // A waiter that gave up meanwhile does not want it.
            let _ = waiting
                .slot
                .fill(outcome.for_deadline(waiting.deadline).into());
        }
    }
}

impl<T: Payload> Drop for Guard<T> {
    fn drop(&mut self) {
        self.end(SharedOutcome::for_all(Outcome::Lost));
    }
}
