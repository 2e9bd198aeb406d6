//! Model checks of groupcache-sync: the flight under loom, whole groups under shuttle.
//!
//! `tests/model/check` runs them; without `--cfg groupcache_model` this package is empty.

#[cfg(groupcache_model = "shuttle")]
pub mod history;
#[cfg(groupcache_model = "shuttle")]
pub mod network;
#[cfg(groupcache_model = "shuttle")]
pub mod record;
#[cfg(groupcache_model = "shuttle")]
pub mod world;

#[cfg(groupcache_model = "loom")]
pub mod flights;

// The flights and what they stand on, taken from the crate file by file: the rest of it starts
// threads and opens sockets, which loom does not know.
#[cfg(groupcache_model = "loom")]
#[allow(dead_code, unreachable_pub)]
mod cache;
#[cfg(groupcache_model = "loom")]
#[allow(dead_code, unreachable_pub)]
#[path = "../../../src/flight/mod.rs"]
mod flight;
#[cfg(groupcache_model = "loom")]
#[allow(dead_code, unreachable_pub, unused_imports)]
mod runtime;
