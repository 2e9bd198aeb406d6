//! `Flights`: one run per key, shared by all callers that ask for the key meanwhile (singleflight).
//!
//! * I3: the guard of a leader ends the flight on every way out, by `finish`, by `release`, by
//!   `hand_over` or by being dropped in a panic. It only ever takes its own flight out of the table,
//!   never a successor.
//! * I6: running out of time belongs to one caller. A waiter whose time is up leaves; the last to
//!   leave a queued flight withdraws it. A leader whose time is up hands its flight to the oldest
//!   waiter that can lead and has time left.
//! * I8: a thread that leads may wait for another flight only if that one does not, through
//!   whatever it waits for itself, wait for this thread (`wait_graph`).
//! * An invalidation is a stale mark: the flight leaves the table, so that nobody joins it any
//!   more; its waiters still get its value; the value is not to be stored.

use std::time::Instant;

use crate::cache::key::{Hashed, Key, KeyRef};
use crate::flight::in_flight::InFlight;
use crate::flight::leader::{FlightOf, Guard, TableOf};
use crate::flight::outcome::{Outcome, Payload};
use crate::flight::queued::Queued;
use crate::flight::state::{Entered, FIRST};
use crate::flight::table::{Entry, Table};
use crate::flight::wait_graph::WaitGraph;
use crate::flight::waiter::Waiter;
use crate::runtime::clock::Deadline;
use crate::runtime::slot::Slot;
use crate::runtime::sync::Arc;

/// The flights of one kind in one group.
pub(crate) struct Flights<T: Payload> {
    table: Arc<TableOf<T>>,
}

/// When a caller that joins becomes the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// It leads a flight that is new or queued, and takes over one that is handed to it.
    Lead,
    /// It leads a new flight only, and waits for any other.
    Start,
}

/// What a caller that has joined does.
pub(crate) enum Joined<T: Payload> {
    Lead(Guard<T>),
    Wait(Waiter<T>),
}

/// The number of a waiter that its flight does not know.
const NO_NUMBER: u64 = 0;

const _: () = assert!(NO_NUMBER < FIRST);

impl<T: Payload> Flights<T> {
    pub(crate) fn new(wait_graph: Arc<WaitGraph>) -> Flights<T> {
        Flights {
            table: Arc::new(Table::new(wait_graph)),
        }
    }

    /// Joins the flight of `key`, or starts it. The result is of use to the caller until `deadline`.
    pub(crate) fn join(&self, key: KeyRef<'_>, deadline: Deadline, how: Join) -> Joined<T> {
        let can_lead = how == Join::Lead;
        loop {
            match self.table.find_or_start(key, || InFlight::led(key)) {
                Entry::Started(flight) => return Joined::Lead(Guard::new(&self.table, flight)),
                Entry::Found(flight) => match self.enter(flight, deadline, can_lead) {
                    Some(joined) => return joined,
                    None => continue,
                },
            }
        }
    }

    /// Waits for the flight of `key`. A flight that is new is returned too: it has no leader, and is
    /// to be put into a queue.
    pub(crate) fn queue(
        &self,
        key: KeyRef<'_>,
        deadline: Deadline,
    ) -> (Waiter<T>, Option<Queued<T>>) {
        let slot = Slot::new();
        loop {
            let start = || InFlight::queued(key, &slot, deadline);
            match self.table.find_or_start(key, start) {
                Entry::Started(flight) => {
                    let queued = Queued::new(&self.table, &flight);
                    return (Waiter::new(&self.table, flight, slot, FIRST), Some(queued));
                }
                Entry::Found(flight) => match self.enter(flight, deadline, false) {
                    Some(Joined::Wait(waiter)) => return (waiter, None),
                    Some(Joined::Lead(_)) | None => continue,
                },
            }
        }
    }

    /// Takes part in a flight that was found; `None` if it can no longer be joined.
    fn enter(
        &self,
        flight: Arc<FlightOf<T>>,
        deadline: Deadline,
        can_lead: bool,
    ) -> Option<Joined<T>> {
        let slot = Slot::new();
        let number = match flight.enter(&slot, deadline, can_lead) {
            Entered::Waits(number) => number,
            Entered::Leads(holds) => {
                drop(holds);
                return Some(Joined::Lead(Guard::new(&self.table, flight)));
            }
            Entered::Ended(Outcome::Again) => {
                // It ended since it was found, and may still stand in the table.
                self.table.take_out(&flight);
                return None;
            }
            Entered::Ended(outcome) => {
                // It ended since it was found: its outcome is as good as if the caller had waited.
                let _ = slot.fill(outcome.into());
                NO_NUMBER
            }
        };
        Some(Joined::Wait(Waiter::new(&self.table, flight, slot, number)))
    }

    /// Marks the flight of `key` stale, if there is one.
    ///
    /// Under the lock of the shard: a thread that does not find the flight there, because another one is
    /// taking it out, finds it marked.
    pub(crate) fn mark_stale(&self, key: KeyRef<'_>) {
        let flight = {
            let mut shard = self.table.shard_of(key).lock();
            let flight = shard.remove(&key as &dyn Hashed);
            flight.inspect(|flight| flight.mark_stale())
        };
        drop(flight); // perhaps the last reference to it: not under a lock (I2)
    }

    /// Marks all flights stale.
    pub(crate) fn mark_all_stale(&self) {
        for shard in self.table.shards() {
            let flights = {
                let mut shard = shard.lock();
                shard.values().for_each(|flight| flight.mark_stale());
                std::mem::take(&mut *shard)
            };
            drop(flights); // perhaps the last references to them: not under a lock (I2)
        }
    }

    /// Whether there is a flight of `key` that can be joined.
    pub(crate) fn is_under_way(&self, key: KeyRef<'_>) -> bool {
        let shard = self.table.shard_of(key).lock();
        shard.contains_key(&key as &dyn Hashed)
    }

    /// The memory of the table, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let shards = self.table.shards().iter();
        shards
            .map(|shard| size_of_val(shard) + shard.lock().capacity() * size_of::<(Key, usize)>())
            .sum()
    }

    /// How many flights can be joined now.
    pub(crate) fn len(&self) -> usize {
        let shards = self.table.shards().iter();
        shards.map(|shard| shard.lock().len()).sum()
    }

    /// Withdraws the queued flights that have no waiters and whose claims have ended. Tells whether
    /// there are claims still.
    pub(crate) fn withdraw_unclaimed(&self, now: Instant) -> bool {
        let mut are_claimed = false;
        for shard in self.table.shards() {
            let flights: Vec<_> = shard.lock().values().cloned().collect();
            for flight in flights {
                if let Some(holds) = flight.withdraw_at(now) {
                    self.table.take_out(&flight);
                    drop(holds);
                }
                are_claimed |= flight.is_claimed();
            }
        }
        are_claimed
    }
}
