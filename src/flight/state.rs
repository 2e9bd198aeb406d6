//! `State`: what a flight keeps under its lock: its phase, its waiters and the claims on it.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::flight::outcome::{Outcome, SharedOutcome};
use crate::runtime::clock::Deadline;
use crate::runtime::flow::Flow;
use crate::runtime::slot::Slot;
use crate::runtime::sync::Arc;

/// Keeps the entry that a flight has in a queue for as long as the flight is queued. Dropped, it takes
/// the entry out of the queue.
pub(crate) type Hold = Box<dyn Send + Sync>;

/// The holds of a flight, one for each flow on whose behalf the flight is queued.
pub(super) type Holds = Vec<(Flow, Hold)>;

/// The state of a flight with results `T`, whose waiters receive a `W`.
pub(super) struct State<T, W> {
    phase: Phase<T>,
    /// By number, which is the order in which they came.
    waiters: BTreeMap<u64, Waiting<W>>,
    last_number: u64,
    /// Set while callers that were answered "still queued" are expected to ask again.
    claim: Option<Claim>,
}

enum Phase<T> {
    /// Without a leader: the first thread that takes it out of a queue runs it.
    Queued(Holds),
    Led,
    Ended(SharedOutcome<T>),
}

/// A waiter, as its flight sees it.
pub(super) struct Waiting<W> {
    pub(super) deadline: Deadline,
    /// Whether it takes the lead if the leader hands over.
    pub(super) can_lead: bool,
    pub(super) slot: Arc<Slot<W>>,
}

/// The promise of a caller that has left, to come back for the result.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    /// When the claim ends.
    pub(super) until: Instant,
    /// For how long the result is of use.
    pub(super) deadline: Deadline,
}

/// What a caller is to a flight that it enters.
pub(super) enum Entered<T> {
    /// The caller waits, under this number.
    Waits(u64),
    /// The flight was queued, and the caller leads it now. These are the holds of the queues.
    Leads(Holds),
    Ended(Outcome<T>),
}

/// The number of the waiter that a queued flight begins with.
pub(super) const FIRST: u64 = 1;

/// A search for a successor begins after this number.
pub(super) const BEFORE_FIRST: u64 = 0;

const _: () = assert!(BEFORE_FIRST < FIRST);

impl<T: Clone, W> State<T, W> {
    /// Of a flight that has a leader from the start.
    pub(super) fn led() -> State<T, W> {
        State::new(Phase::Led, BTreeMap::new())
    }

    /// Of a flight without a leader, with its first waiter.
    pub(super) fn queued(first: Waiting<W>) -> State<T, W> {
        State::new(
            Phase::Queued(Holds::new()),
            BTreeMap::from([(FIRST, first)]),
        )
    }

    fn new(phase: Phase<T>, waiters: BTreeMap<u64, Waiting<W>>) -> State<T, W> {
        State {
            phase,
            waiters,
            last_number: FIRST,
            claim: None,
        }
    }

    /// Adds a waiter; the caller leads instead where it can and the flight has no leader.
    pub(super) fn enter(
        &mut self,
        slot: &Arc<Slot<W>>,
        deadline: Deadline,
        can_lead: bool,
    ) -> Entered<T> {
        if let Phase::Ended(outcome) = &self.phase {
            return Entered::Ended(outcome.for_deadline(deadline));
        }
        if can_lead {
            if let Some(holds) = self.start() {
                return Entered::Leads(holds);
            }
        }
        self.last_number += 1;
        let number = self.last_number;
        let waiting = Waiting {
            deadline,
            can_lead,
            slot: Arc::clone(slot),
        };
        let before = self.waiters.insert(number, waiting);
        debug_assert!(before.is_none(), "two waiters have one number");
        Entered::Waits(number)
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Waiting<W>> {
        self.waiters.remove(&number)
    }

    pub(super) fn is_queued(&self) -> bool {
        matches!(self.phase, Phase::Queued(_))
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.is_queued() && self.claim.is_some()
    }

    /// Whether one waiter alone wants the result.
    pub(super) fn has_one_waiter(&self) -> bool {
        self.waiters.len() == 1 && self.claim.is_none()
    }

    /// Gives a queued flight a leader; returns its holds.
    pub(super) fn start(&mut self) -> Option<Holds> {
        if !self.is_queued() {
            return None;
        }
        self.leave_queue(Phase::Led)
    }

    /// Ends a queued flight without waiters, if the claim on it (if any) `may_go`; returns its holds.
    pub(super) fn withdraw_if(
        &mut self,
        may_go: impl FnOnce(Option<Claim>) -> bool,
    ) -> Option<Holds> {
        if !self.is_queued() || !self.waiters.is_empty() || !may_go(self.claim) {
            return None;
        }
        self.leave_queue(Phase::Ended(SharedOutcome::for_all(Outcome::Again)))
    }

    fn leave_queue(&mut self, next: Phase<T>) -> Option<Holds> {
        debug_assert!(self.is_queued());
        match std::mem::replace(&mut self.phase, next) {
            Phase::Queued(holds) => Some(holds),
            Phase::Led | Phase::Ended(_) => None,
        }
    }

    /// Ends a flight that is led; returns its waiters in the order in which they came.
    pub(super) fn end(&mut self, outcome: SharedOutcome<T>) -> BTreeMap<u64, Waiting<W>> {
        debug_assert!(
            matches!(self.phase, Phase::Led),
            "only a leader ends a flight"
        );
        self.phase = Phase::Ended(outcome);
        std::mem::take(&mut self.waiters)
    }

    /// Keeps `hold` on behalf of `flow` while the flight is queued. Returns the hold that is of no use
    /// now: the one before of this flow, or `hold` if the flight is not queued any more.
    pub(super) fn hold(&mut self, flow: Flow, hold: Hold) -> Option<Hold> {
        let Phase::Queued(holds) = &mut self.phase else {
            return Some(hold);
        };
        match holds.iter_mut().find(|(other, _)| *other == flow) {
            Some((_, held)) => Some(std::mem::replace(held, hold)),
            None => {
                holds.push((flow, hold));
                None
            }
        }
    }

    /// Whether the flight is queued, but not on behalf of `flow`.
    pub(super) fn is_queued_besides(&self, flow: Flow) -> bool {
        match &self.phase {
            Phase::Queued(holds) => holds.iter().all(|(other, _)| *other != flow),
            Phase::Led | Phase::Ended(_) => false,
        }
    }

    /// Adds a claim while the flight is queued; of several, the latest ends count.
    pub(super) fn add_claim(&mut self, claim: Claim) {
        if !self.is_queued() {
            return;
        }
        self.claim = Some(match self.claim {
            None => claim,
            Some(before) => Claim {
                until: before.until.max(claim.until),
                deadline: before.deadline.later(claim.deadline),
            },
        });
    }

    /// Takes the oldest waiter out that can lead, and that has time left if `now` is given. Looks at
    /// the waiters after number `last`, which becomes the number of the one that is found.
    pub(super) fn successor(&mut self, last: &mut u64, now: Option<Instant>) -> Option<Waiting<W>> {
        let has_time = |waiting: &Waiting<W>| now.is_none_or(|now| !waiting.deadline.is_past(now));
        let mut waiters = self.waiters.range(*last + 1..);
        let (&number, _) = waiters.find(|(_, waiting)| waiting.can_lead && has_time(waiting))?;
        *last = number;
        self.waiters.remove(&number)
    }

    /// The latest deadline of the waiters and of the claim; `None` if there are neither.
    pub(super) fn latest_deadline(&self) -> Option<Deadline> {
        let waiters = self.waiters.values().map(|waiting| waiting.deadline);
        let claim = self.claim.map(|claim| claim.deadline);
        waiters.chain(claim).reduce(Deadline::later)
    }
}
