//! `flight`: one run per key, shared by all callers that ask for the key meanwhile (singleflight).
//!
//! Imports `runtime` and the keys of `cache`. Read in this order:
//!
//! 1. `outcome`: how a flight ends;
//! 2. `state`: what a flight keeps under its lock, its phase and its waiters;
//! 3. `in_flight`: the flight itself;
//! 4. `wait_graph`: which thread waits for which flight, so that no thread waits for itself (I8);
//! 5. `table`: the flights that can be joined, by key;
//! 6. `leader`: the guard of the thread that runs a flight, and what it hands to the waiters;
//! 7. `queued`: a flight without a leader, as a queue holds it;
//! 8. `waiter`: a caller that waits for a flight;
//! 9. `flights`: the table as a group uses it, joining and invalidating.

pub(crate) mod flights;
mod in_flight;
pub(crate) mod leader;
mod outcome;
pub(crate) mod queued;
pub(crate) mod state;
mod table;
pub(crate) mod wait_graph;
pub(crate) mod waiter;

#[cfg(test)]
mod tests;
