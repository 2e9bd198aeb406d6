//! `InFlight`: a flight, that is a load or fetch of one key that is queued, led or ended.
//!
//! A queued flight has no leader: the first thread that can runs it, one of the pool or a
//! caller that joins and runs loads itself. A led flight is run by the holder of its guard. All other
//! callers wait, each with its own deadline: a waiter is a [`Slot`], so it may be a parked thread or a
//! callback.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::cache::key::{Key, KeyRef};
use crate::flight::outcome::{Payload, SharedOutcome};
use crate::flight::state::{Claim, Entered, Hold, Holds, State, Waiting};
use crate::flight::wait_graph::{HasLeader, NOBODY, this_thread};
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::slot::Slot;
use crate::runtime::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};

/// A flight with results `T`, whose waiters receive a `W`.
pub(super) struct InFlight<T: Payload, W> {
    key: Key,
    stale: AtomicBool,
    /// The number of the thread that leads; [`NOBODY`] while there is none.
    leader: AtomicU64,
    state: Mutex<State<T, W>>,
}

impl<T: Payload, W> InFlight<T, W> {
    /// A flight that this thread leads.
    pub(super) fn led(key: KeyRef<'_>) -> InFlight<T, W> {
        InFlight::new(key, this_thread(), State::led())
    }

    /// A queued flight, whose first waiter receives its outcome in `slot`.
    pub(super) fn queued(
        key: KeyRef<'_>,
        slot: &Arc<Slot<W>>,
        deadline: Deadline,
    ) -> InFlight<T, W> {
        let first = Waiting {
            deadline,
            can_lead: false,
            slot: Arc::clone(slot),
        };
        InFlight::new(key, NOBODY, State::queued(first))
    }

    fn new(key: KeyRef<'_>, leader: u64, state: State<T, W>) -> InFlight<T, W> {
        InFlight {
            key: key.to_key(),
            stale: AtomicBool::new(false),
            leader: AtomicU64::new(leader),
            state: Mutex::new(state),
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Set once the value of this flight is not to be stored.
    pub(super) fn stale(&self) -> &AtomicBool {
        &self.stale
    }

    /// Whoever removes a value takes the lock of its cache shard after this, and whoever stores it
    /// looks at the mark under that lock: no old value slips in between.
    pub(super) fn mark_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }

    pub(super) fn set_leader(&self, thread: u64) {
        self.leader.store(thread, Ordering::SeqCst);
    }

    pub(super) fn enter(
        &self,
        slot: &Arc<Slot<W>>,
        deadline: Deadline,
        can_lead: bool,
    ) -> Entered<T> {
        self.state.lock().enter(slot, deadline, can_lead)
    }

    /// Takes a waiter out, which may leave a claim. The last one withdraws a queued flight without
    /// claims: then this returns the holds of the flight.
    pub(super) fn leave(&self, number: u64, claim: Option<Claim>) -> Option<Holds> {
        let (left, withdrawn) = {
            let mut state = self.state.lock();
            let left = state.remove(number);
            if let Some(claim) = claim {
                state.add_claim(claim);
            }
            (left, state.withdraw_if(|claim| claim.is_none()))
        };
        drop(left); // it has a lock of its own (I2)
        withdrawn
    }

    /// As [`leave`](InFlight::leave), for a waiter that only leaves if that withdraws the flight.
    pub(super) fn leave_if_alone(&self, number: u64) -> Option<Holds> {
        let (left, withdrawn) = {
            let mut state = self.state.lock();
            if !state.has_one_waiter() || !state.is_queued() {
                return None;
            }
            let left = state.remove(number)?;
            (left, state.withdraw_if(|_| true))
        };
        drop(left); // it has a lock of its own (I2)
        withdrawn
    }

    /// Withdraws a queued flight without waiters whose claim has ended; returns its holds.
    pub(super) fn withdraw_at(&self, now: Instant) -> Option<Holds> {
        let has_ended = |claim: Option<Claim>| claim.is_none_or(|claim| claim.until <= now);
        self.state.lock().withdraw_if(has_ended)
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.state.lock().is_claimed()
    }

    pub(super) fn is_queued(&self) -> bool {
        self.state.lock().is_queued()
    }

    pub(super) fn is_queued_besides(&self, flow: Flow) -> bool {
        self.state.lock().is_queued_besides(flow)
    }

    /// Gives a queued flight a leader. Tells whether it had none.
    pub(super) fn start(&self) -> bool {
        let holds = self.state.lock().start();
        holds.is_some() // dropped without the lock: they have locks of their own (I2)
    }

    /// Keeps `hold` on behalf of `flow` while the flight is queued; one it held before is dropped.
    pub(super) fn hold(&self, flow: Flow, hold: Hold) {
        let unused = self.state.lock().hold(flow, hold);
        drop(unused); // it has a lock of its own (I2)
    }

    /// As [`State::successor`].
    pub(super) fn successor(&self, last: &mut u64, now: Option<Instant>) -> Option<Waiting<W>> {
        self.state.lock().successor(last, now)
    }

    /// As [`State::end`].
    pub(super) fn end(&self, outcome: SharedOutcome<T>) -> BTreeMap<u64, Waiting<W>> {
        self.set_leader(NOBODY);
        self.state.lock().end(outcome)
    }

    /// As [`State::latest_deadline`].
    pub(super) fn latest_deadline(&self) -> Option<Deadline> {
        self.state.lock().latest_deadline()
    }
}

impl<T: Payload, W: Send + 'static> HasLeader for InFlight<T, W> {
    fn leader(&self) -> u64 {
        self.leader.load(Ordering::SeqCst)
    }
}
