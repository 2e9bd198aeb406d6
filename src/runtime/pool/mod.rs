//! `Pool`: a bounded number of threads for loads that must not hold their caller.
//!
//! A job leaves the queue as soon as nobody wants its result any more ([`Ticket`]). Threads are started
//! when there is work for them. A thread inside a hung loader cannot be stopped: when the pool ends it is
//! left alone, and it ends with its loader.
//!
//! In this order: `job` (what a thread runs), `queue` (the jobs that wait, in the order of their turns)
//! and `threads` (the pool itself).

mod job;
mod queue;
mod threads;

pub(crate) use job::{Job, Refused, Work};
pub(crate) use threads::{Blocked, Pool, effective_flow};
