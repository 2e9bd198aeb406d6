//! `sync`: the only source of locks, condition variables, atomics, channels, threads, thread-locals and
//! random seeds.
//!
//! All other files import their concurrency from here, so that a model checker can replace it
//! (`--cfg groupcache_model="loom"` or `"shuttle"`): `real` is what runs, `model` is what is checked, with
//! the same names.
//!
//! Locks are `parking_lot`'s: small, fair about every half millisecond, and not poisoned, because
//! a panic of user code never happens under one (I1).

// The paths are for `tests/model`, which includes this file by its path for loom.
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

// Shared ownership, the channels of the engines and `RelaxedU64` are not modelled: nothing waits for
// the first, no model has a socket, and no decision depends on the last.
pub(crate) use crossbeam::utils::CachePadded;
pub(crate) use std::sync::atomic::AtomicU64 as RelaxedU64;
pub(crate) use std::sync::{Arc, Weak};
