//! `WaiterSet`: waiters of several flights, for a caller that wants the outcomes of all of them.

use std::time::Instant;

use super::outcome::{Outcome, lost_leader};
use super::shared::Shared;
use crate::error::Error;
use crate::flight::leader::{Guard, WaitOutcome};
use crate::flight::waiter::Waiter;
use crate::protocol::account::Charge;
use crate::runtime::clock::Deadline;
use crate::runtime::slot::Slot;
use crate::runtime::sync::{Arc, AtomicUsize, Mutex, Ordering};
use crate::value::Cacheable;

/// What one flight of a set brought.
#[derive(Clone)]
pub(super) enum Answered<V: Cacheable> {
    Outcome(Outcome<V>),
    /// The flight ended without a result: join anew.
    Again,
    /// There is a value, but the other values of the set have used the budget up.
    OverBudget,
}

/// Waiters of several flights, by their index, and the outcomes that have come so far.
pub(super) struct WaiterSet<V: Cacheable> {
    pub(super) group: Arc<Shared<V>>,
    entries: Vec<Mutex<Entry<V>>>,
    /// How many entries have no answer.
    unanswered: AtomicUsize,
    /// For the values that the set holds until all have come.
    budget: Mutex<ValueBudget>,
    /// Filled when all entries have an answer.
    pub(super) all: Arc<Slot<()>>,
}

struct Entry<V: Cacheable> {
    answer: Option<Answered<V>>,
    /// Kept until there is an answer.
    waiter: Option<Waiter<Outcome<V>>>,
}

/// How many bytes of values a set may hold: a requester from outside chooses how many values there are
/// and how long it waits.
pub(super) struct ValueBudget {
    max: usize,
    held: usize,
    /// What pays for the values; `None` if the application asks, or for a value that is not held at
    /// all.
    charge: Option<Charge>,
}

/// Whether a value may be held.
enum Reserved {
    Yes,
    /// Not together with the other values of its set.
    OverBudget,
    /// The account of all requests has no bytes left.
    NotPaid,
}

impl ValueBudget {
    /// Up to `max` bytes, or a single value of any size.
    pub(super) fn new(max: usize, charge: Charge) -> ValueBudget {
        ValueBudget {
            max,
            held: 0,
            charge: Some(charge),
        }
    }

    pub(super) fn unlimited() -> ValueBudget {
        ValueBudget {
            max: usize::MAX,
            held: 0,
            charge: None,
        }
    }

    fn reserve(&mut self, bytes: usize) -> Reserved {
        let held = self.held.saturating_add(bytes);
        if bytes > 0 && self.held > 0 && held > self.max {
            return Reserved::OverBudget;
        }
        let is_paid = |charge: &mut Charge| charge.grow(bytes);
        if !self.charge.as_mut().is_none_or(is_paid) {
            return Reserved::NotPaid;
        }
        debug_assert!(held <= self.max || held == bytes || bytes == 0);
        self.held = held;
        Reserved::Yes
    }
}

impl<V: Cacheable> WaiterSet<V> {
    /// A set of `waiters`, which holds values within `budget`. To be ended by
    /// [`leave`](WaiterSet::leave).
    pub(super) fn new(
        group: &Arc<Shared<V>>,
        budget: ValueBudget,
        waiters: Vec<Waiter<Outcome<V>>>,
    ) -> Arc<WaiterSet<V>> {
        let entry = |_| {
            Mutex::new(Entry {
                answer: None,
                waiter: None,
            })
        };
        let set = Arc::new(WaiterSet {
            group: Arc::clone(group),
            unanswered: AtomicUsize::new(waiters.len()),
            budget: Mutex::new(budget),
            entries: waiters.iter().map(entry).collect(),
            all: Slot::new(),
        });
        if waiters.is_empty() {
            set.fill_all();
        }
        for (at, waiter) in waiters.into_iter().enumerate() {
            let of_waiter = Arc::clone(&set);
            waiter.then(move |outcome| of_waiter.take(at, outcome));
            set.keep(at, waiter);
        }
        set
    }

    /// Keeps the waiter until there is an answer: kept longer, it would keep the value.
    fn keep(&self, at: usize, waiter: Waiter<Outcome<V>>) {
        let left = {
            let mut entry = self.entries[at].lock();
            match entry.answer {
                None => entry.waiter.replace(waiter),
                Some(_) => Some(waiter),
            }
        };
        drop(left); // it takes a lock of its flight (I2)
    }

    fn take(&self, at: usize, outcome: WaitOutcome<Outcome<V>>) {
        let answer = match outcome {
            WaitOutcome::Finished(outcome) => self.hold(outcome),
            WaitOutcome::Lost => Answered::Outcome(Err(lost_leader())),
            // A lead is only handed to waiters that can take it, and a callback has no deadline.
            WaitOutcome::Again | WaitOutcome::Lead(_) | WaitOutcome::Late | WaitOutcome::Cycle => {
                Answered::Again
            }
        };
        let left = {
            let mut entry = self.entries[at].lock();
            debug_assert!(entry.answer.is_none(), "a flight has two outcomes");
            entry.answer = Some(answer);
            entry.waiter.take()
        };
        drop(left); // it takes a lock of its flight (I2)
        let unanswered = self.unanswered.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(unanswered > 0);
        if unanswered == 1 {
            self.fill_all();
        }
    }

    fn hold(&self, outcome: Outcome<V>) -> Answered<V> {
        let weight = outcome.as_ref().map_or(0, |obtained| obtained.weight);
        let reserved = self.budget.lock().reserve(weight);
        match reserved {
            Reserved::Yes => Answered::Outcome(outcome),
            Reserved::OverBudget => Answered::OverBudget,
            Reserved::NotPaid => Answered::Outcome(Err(Error::Overloaded)),
        }
    }

    fn fill_all(&self) {
        // A caller that gave up meanwhile does not want it.
        let _ = self.all.fill(());
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Waits until all flights have ended, no longer than `deadline`.
    pub(super) fn wait(&self, deadline: Deadline) {
        // A flight without an outcome by then is too late.
        let _ = self.all.wait(&self.group.cluster.clock, deadline);
    }

    /// What the flight at this index brought, if it has ended.
    pub(super) fn answer(&self, at: usize) -> Option<Answered<V>> {
        self.entries[at].lock().answer.clone()
    }

    /// Whether the flight at this index has no leader yet.
    pub(super) fn is_queued(&self, at: usize) -> bool {
        let waiter = self.entries[at].lock().waiter.take();
        let is_queued = waiter.as_ref().is_some_and(Waiter::is_queued);
        if let Some(waiter) = waiter {
            self.keep(at, waiter);
        }
        is_queued
    }

    /// Leads the flight at this index if it has no leader yet.
    pub(super) fn start(&self, at: usize) -> Option<Guard<Outcome<V>>> {
        let waiter = self.entries[at].lock().waiter.take()?;
        let guard = waiter.start();
        self.keep(at, waiter);
        guard
    }

    /// Leaves the flight at this index if it is queued and nobody else wants it. Tells whether it did.
    pub(super) fn leave_if_alone(&self, at: usize) -> bool {
        let waiter = self.entries[at].lock().waiter.take();
        match waiter.map(Waiter::leave_if_alone) {
            None => false,
            Some(Ok(())) => true,
            Some(Err(waiter)) => {
                self.keep(at, waiter);
                false
            }
        }
    }

    /// Leaves the flight at this index if it has not ended, and keeps it queued until `until`. Its
    /// result is of use until `deadline`.
    pub(super) fn leave_a_claim(&self, at: usize, until: Instant, deadline: Deadline) {
        let waiter = self.entries[at].lock().waiter.take();
        if let Some(waiter) = waiter {
            waiter.leave_a_claim(until, deadline);
        }
    }

    /// Leaves all flights that have not ended. Answers stay: a callback may be about to use them.
    pub(super) fn leave(&self) {
        for entry in &self.entries {
            let left = entry.lock().waiter.take();
            drop(left); // it takes a lock of its flight (I2)
        }
    }
}
