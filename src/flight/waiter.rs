//! `Waiter`: a caller that waits for a flight, with a deadline of its own (P4).
//!
//! I6: running out of time belongs to one caller. A waiter whose time is up leaves; the last waiter of
//! a queued flight withdraws it, so that nothing runs that nobody waits for.

use std::time::Instant;

use crate::flight::leader::{FlightOf, Guard, TableOf, WaitOutcome};
use crate::flight::outcome::Payload;
use crate::flight::queued::Queued;
use crate::flight::state::Claim;
use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::flow::Flow;
use crate::runtime::slot::{Closed, Slot};
use crate::runtime::sync::Arc;

/// A caller that waits for a flight. Dropped, it leaves the flight.
pub(crate) struct Waiter<T: Payload> {
    table: Arc<TableOf<T>>,
    flight: Arc<FlightOf<T>>,
    pub(super) slot: Arc<Slot<WaitOutcome<T>>>,
    number: u64,
}

impl<T: Payload> Waiter<T> {
    /// The waiter of this number; any number that the flight does not know, if `slot` is filled.
    pub(super) fn new(
        table: &Arc<TableOf<T>>,
        flight: Arc<FlightOf<T>>,
        slot: Arc<Slot<WaitOutcome<T>>>,
        number: u64,
    ) -> Waiter<T> {
        Waiter {
            table: Arc::clone(table),
            flight,
            slot,
            number,
        }
    }

    /// Blocks until there is an outcome, no longer than `deadline`.
    pub(crate) fn wait(&self, clock: &Clock, deadline: Deadline) -> WaitOutcome<T> {
        let flight = Arc::clone(&self.flight);
        let Some(_edge) = self.table.wait_graph().enter(flight) else {
            return WaitOutcome::Cycle;
        };
        self.slot.wait(clock, deadline).unwrap_or(WaitOutcome::Late)
    }

    /// Has `callback` called with the outcome, without any lock held, unless the waiter is dropped
    /// before.
    pub(crate) fn then(&self, callback: impl FnOnce(WaitOutcome<T>) + Send + 'static) {
        self.slot.then(callback);
    }

    /// Leads the flight if it has no leader yet.
    pub(crate) fn start(&self) -> Option<Guard<T>> {
        let flight = &self.flight;
        flight
            .start()
            .then(|| Guard::new(&self.table, Arc::clone(flight)))
    }

    /// Whether the flight has no leader yet.
    pub(crate) fn is_queued(&self) -> bool {
        self.flight.is_queued()
    }

    /// The flight, if it has no leader yet and is not queued on behalf of `flow`.
    pub(crate) fn queued_besides(&self, flow: Flow) -> Option<Queued<T>> {
        let flight = &self.flight;
        flight
            .is_queued_besides(flow)
            .then(|| Queued::new(&self.table, flight))
    }

    /// Leaves the flight if it is queued and nobody else wants it, which withdraws it. Gives the waiter
    /// back otherwise.
    pub(crate) fn leave_if_alone(self) -> Result<(), Waiter<T>> {
        match self.flight.leave_if_alone(self.number) {
            Some(holds) => {
                self.table.take_out(&self.flight);
                drop(holds);
                Ok(())
            }
            None => Err(self),
        }
    }

    /// Leaves the flight, but keeps it queued until `until`: somebody comes back for its result, which
    /// is of use until `deadline`.
    pub(crate) fn leave_a_claim(self, until: Instant, deadline: Deadline) {
        self.leave(Some(Claim { until, deadline }));
    }

    fn leave(&self, claim: Option<Claim>) {
        if let Some(holds) = self.flight.leave(self.number, claim) {
            self.table.take_out(&self.flight);
            drop(holds);
        }
    }
}

impl<T: Payload> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.leave(None);
        // A lead that came too late goes on to the next waiter: dropped here, it would fail the others.
        if let Closed::Full(WaitOutcome::Lead(guard)) = self.slot.close() {
            guard.pass_on(None);
        }
    }
}
