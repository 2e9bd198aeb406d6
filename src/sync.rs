//! The only door to locks, condition variables, atomics, channels, threads and random seeds.
//!
//! Everything else in the crate takes its concurrency from here, so that a model checker can take
//! the place of the real thing in one file (`--cfg groupcache_model="loom"` or `"shuttle"`).
//!
//! Locks are `parking_lot`'s: small, fair about every half millisecond, and not poisoned, because
//! a panic of foreign code never happens under one (I1).

pub(crate) use real::*;

mod real {
    #[cfg(feature = "tiny_http")]
    pub(crate) use crossbeam::channel;
    pub(crate) use crossbeam::utils::CachePadded;
    pub(crate) use once_cell::sync::OnceCell;
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
    pub(crate) use std::sync::{Arc, Weak};
    pub(crate) use std::thread;

    use std::time::Instant;

    /// Waits on `condvar` until notified or until `instant`.
    pub(crate) fn wait_until<T>(
        condvar: &Condvar,
        guard: &mut MutexGuard<'_, T>,
        instant: Option<Instant>,
    ) {
        match instant {
            Some(instant) => {
                condvar.wait_until(guard, instant);
            }
            None => condvar.wait(guard),
        }
    }

    /// A hasher state seeded at random once per call: for tables whose keys outsiders choose.
    pub(crate) fn random_state() -> std::hash::RandomState {
        std::hash::RandomState::new()
    }
}
