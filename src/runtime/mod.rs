//! `runtime`: what the rest stands on. Locks, threads, time, and calls of the user's code.
//!
//! Imports nothing else of the crate. In this order: `sync` (every lock and atomic of the crate, so
//! that model checkers can take their place), `clock` (instants, deadlines and clocks that tests move),
//! `slot` (one result handed from one thread to another), `user_code` (the only way to the user's code),
//! `pool` (threads that run loaders, and the queue in which those who ask take turns), `fanout` (calls
//! to several peers at the same time), `maintenance` (a thread for what is due later), and `rate_limit` and
//! `log_throttle` (how often something may be done, or logged).

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
