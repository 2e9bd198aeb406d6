//! `Queued`: a flight without a leader, as a queue holds it.

use std::time::Instant;

use crate::cache::key::Key;
use crate::flight::leader::{FlightOf, Guard, TableOf};
use crate::flight::outcome::Payload;
use crate::flight::state::Hold;
use crate::runtime::flow::Flow;
use crate::runtime::sync::{Arc, Weak};

/// A flight in a queue. Clones stand for the same flight.
pub(crate) struct Queued<T: Payload> {
    table: Arc<TableOf<T>>,
    /// Weak: the queue does not keep a flight that was withdrawn or has ended.
    flight: Weak<FlightOf<T>>,
    key_bytes: usize,
}

impl<T: Payload> Clone for Queued<T> {
    fn clone(&self) -> Queued<T> {
        Queued {
            table: Arc::clone(&self.table),
            flight: Weak::clone(&self.flight),
            key_bytes: self.key_bytes,
        }
    }
}

impl<T: Payload> Queued<T> {
    pub(super) fn new(table: &Arc<TableOf<T>>, flight: &Arc<FlightOf<T>>) -> Queued<T> {
        Queued {
            table: Arc::clone(table),
            flight: Arc::downgrade(flight),
            key_bytes: flight.key().as_ref().text().len(),
        }
    }

    /// The key, unless nobody wants the flight any more.
    pub(crate) fn key(&self) -> Option<Key> {
        Some(self.flight.upgrade()?.key().clone())
    }

    /// The length of the key, in bytes.
    pub(crate) fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// Has the flight keep `hold`, its entry in the queue of `flow`, until the flight is no longer
    /// queued. A hold of this flow that it kept before is dropped.
    pub(crate) fn hold(&self, flow: Flow, hold: Hold) {
        if let Some(flight) = self.flight.upgrade() {
            flight.hold(flow, hold);
        }
    }

    /// Leads the flight. `None` if it has or had a leader, or if nobody wants its result any more.
    pub(crate) fn start(&self, now: Instant) -> Option<Guard<T>> {
        let flight = self.flight.upgrade()?;
        if let Some(holds) = flight.withdraw_at(now) {
            self.table.take_out(&flight);
            drop(holds);
            return None;
        }
        flight.start().then(|| Guard::new(&self.table, flight))
    }
}
