//! Model checks of groupcache-sync: the flight under loom, whole groups under shuttle.
//!
//! `tests/model/check` runs them; without `--cfg groupcache_model` this package is empty.

#[cfg(groupcache_model = "shuttle")]
pub mod history;
#[cfg(groupcache_model = "shuttle")]
pub mod world;
