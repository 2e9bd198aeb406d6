//! The only door to locks, condition variables, atomics, channels, threads, thread-locals and random
//! seeds.
//!
//! Everything else in the crate takes its concurrency from here, so that a model checker can take
//! the place of the real thing (`--cfg groupcache_model="loom"` or `"shuttle"`): `sync/real.rs` is
//! what runs, `sync/model.rs` what is checked, with the same names.
//!
//! Locks are `parking_lot`'s: small, fair about every half millisecond, and not poisoned, because
//! a panic of user code never happens under one (I1).

// The path serves `tests/model`, which takes this file in by its path for loom.
#[cfg(any(groupcache_model = "loom", groupcache_model = "shuttle"))]
#[path = "model.rs"]
mod model;
#[cfg(not(any(groupcache_model = "loom", groupcache_model = "shuttle")))]
#[path = "real.rs"]
mod real;

#[cfg(any(groupcache_model = "loom", groupcache_model = "shuttle"))]
pub(crate) use model::*;
#[cfg(not(any(groupcache_model = "loom", groupcache_model = "shuttle")))]
pub(crate) use real::*;

// Shared ownership, the channels of the engines and `RelaxedU64` are not modelled: nothing
// waits in the first, no model has a socket, and nothing is ever decided by the last.
pub(crate) use crossbeam::utils::CachePadded;
pub(crate) use std::sync::atomic::AtomicU64 as RelaxedU64;
pub(crate) use std::sync::{Arc, Weak};
