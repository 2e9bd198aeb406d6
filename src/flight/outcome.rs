//! `Outcome`: how a flight ends, and for which of its waiters.

use crate::runtime::clock::Deadline;

/// The result that a flight carries to its waiters.
///
/// A flight clones and drops its result anywhere, also under a lock: neither may run code of the user.
pub(crate) trait Payload: Clone + Send + 'static {}

impl<T: Clone + Send + 'static> Payload for T {}

/// How a flight ended.
#[derive(Clone)]
pub(super) enum Outcome<T> {
    Finished(T),
    /// Without a result: a caller that still wants one joins anew.
    Again,
    /// A panic took the leader.
    Lost,
}

/// An outcome, and the latest deadline it is meant for: callers whose deadlines are later join anew.
#[derive(Clone)]
pub(super) struct SharedOutcome<T> {
    outcome: Outcome<T>,
    until: Deadline,
}

impl<T: Clone> SharedOutcome<T> {
    pub(super) fn for_all(outcome: Outcome<T>) -> SharedOutcome<T> {
        SharedOutcome::until(Deadline::NEVER, outcome)
    }

    pub(super) fn until(until: Deadline, outcome: Outcome<T>) -> SharedOutcome<T> {
        SharedOutcome { outcome, until }
    }

    /// The outcome for a caller with this deadline.
    pub(super) fn for_deadline(&self, deadline: Deadline) -> Outcome<T> {
        match deadline.is_after(self.until) {
            true => Outcome::Again,
            false => self.outcome.clone(),
        }
    }
}
