//! `runtime`: what all other folders build on. Locks, threads, time, and calls of the user's code.
//!
//! Imports nothing else of the crate. In this order: `sync` (every lock and atomic of the crate, so
//! that model checkers can take their place), `clock` (instants, deadlines and clocks that tests move),
//! `slot` (one result handed from one thread to another), `log_throttle` (how often something is logged),
//! `user_code` (the only way to call the user's code), `flow` (on whose behalf a load runs), `pool` (threads
//! that run loads, and the queue in which flows take turns), `fanout` (calls to several peers at the same
//! time), `maintenance` (a thread for what is due later) and `rate_limit` (how often something may be done).

pub(crate) mod clock;
pub(crate) mod fanout;
pub(crate) mod flow;
pub(crate) mod log_throttle;
pub(crate) mod maintenance;
pub(crate) mod pool;
pub(crate) mod rate_limit;
pub(crate) mod slot;
pub(crate) mod sync;
pub(crate) mod user_code;
