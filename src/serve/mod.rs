//! `serve`: the engines that answer peers, and an application on the same port.
//!
//! Imports `runtime`, `protocol`, `transport`, `group`, `node` and `error`. `server.rs` above starts the
//! engine of this folder; `tiny` is the other engine, over `tiny_http`, and shares nothing with it.
//!
//! In this order, the words: `traffic` (peers or application), `wait` (what a connection waits for),
//! `eviction` (which connection is closed first), `message` (requests and responses of an application),
//! `settings`.
//! One connection: `buffer` (bytes read, and bytes to send), `socket` (the listening socket and that of a
//! connection), `connection_limit` (how many connections there may be), `connection_charge` (the
//! memory that a connection is charged for), `connection`.
//! All connections: `parked` (connections that wait), `task_queue` and `worker_pool` (connections that
//! have work), `shared` (what all threads share).
//! The threads: `requests` (a worker serves the requests of one connection), `worker` (a worker takes
//! tasks, and parks connections), `listener` (one thread accepts connections and watches parked ones).

mod buffer;
mod connection;
mod connection_charge;
pub(crate) mod connection_limit;
mod eviction;
pub(crate) mod listener;
pub(crate) mod message;
pub(crate) mod parked;
mod requests;
pub(crate) mod settings;
pub(crate) mod shared;
pub(crate) mod socket;
mod task_queue;
#[cfg(feature = "tiny_http")]
pub(crate) mod tiny;
pub(crate) mod traffic;
mod wait;
mod worker;
pub(crate) mod worker_pool;
