//! `tiny`: the second engine, a node served by `tiny_http`, for trusted networks, and for programs that run
//! `tiny_http` or `rouille` already.
//!
//! In this order: `exchange` (one request, from its body to its answer), `socket` (the listening socket),
//! `prober` (opens connections of its own, so that `tiny_http` serves all others), `engine` (what the
//! threads of one `tiny_http` server share, and what a worker does), `dispatcher` (the thread that takes
//! requests), `instances` (the current `tiny_http` server and the replaced ones), `watchdog` (replaces one
//! that does not answer), `server` (the public types).
//!
//! One thread, the dispatcher, takes the requests and gives each to one of a few workers. Only one does, so
//! that the requests of a connection are answered in their order without a worker that waits for
//! another, and so that a request whose value is being loaded is parked and holds no worker.
//!
//! The faults of `tiny_http` 0.12 that can be corrected from outside are corrected here, and a comment at
//! each place says which: connections that are never served, 44 ms for every answer over 1 KiB, the end of
//! the process by one request, a server that accepts no more. The others are in the documentation
//! of [`TinyServer`].

mod dispatcher;
mod engine;
mod exchange;
mod instances;
mod prober;
mod server;
mod socket;
mod watchdog;

pub use exchange::answer_tiny_http;
pub use server::{TinyServer, TinyServerBuilder};
