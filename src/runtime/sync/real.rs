//! Concurrency as it runs.

use std::sync::{Arc, Weak};
use std::time::Instant;

#[cfg(feature = "tiny_http")]
pub(crate) use crossbeam::channel;
/// Seeds key hashes at random for each process. Short keys take a few nanoseconds; the seed keeps
/// outsiders from choosing keys that collide, as long as they cannot measure single look-ups.
pub(crate) use foldhash::quality::RandomState as KeySeed;
pub(crate) use once_cell::sync::OnceCell;
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
pub(crate) use std::hash::RandomState;
pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::thread;
pub(crate) use std::thread_local;

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

/// What all nodes of this process share, for as long as any of them exists.
pub(crate) struct OneForAll<T>(Mutex<Weak<T>>);

impl<T> OneForAll<T> {
    pub(crate) const fn new() -> OneForAll<T> {
        OneForAll(Mutex::new(Weak::new()))
    }

    pub(crate) fn get(&self, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        let mut shared = self.0.lock();
        if let Some(shared) = shared.upgrade() {
            return shared;
        }
        let made = make();
        *shared = Arc::downgrade(&made);
        made
    }

    /// Frees the memory of the shared value if nothing refers to it any more.
    pub(crate) fn let_go(&self) {
        let mut shared = self.0.lock();
        if shared.strong_count() == 0 {
            *shared = Weak::new();
        }
    }
}

/// The number of processors this process may use.
pub(crate) fn processors() -> usize {
    thread::available_parallelism().map_or(4, std::num::NonZero::get)
}

/// How many callers send a peer their own requests, and how many batched requests are under way:
/// nothing is queued before there are several callers for each processor, and then there is one request
/// more than processors, so that none of them idles.
pub(crate) fn callers_at_once() -> (usize, usize) {
    (4 * processors(), processors() + 1)
}

/// Runs `work` on this thread and, at the same time, on one more for each of `permits`, which each
/// drops when it ends. On fewer threads, if the system has no more.
pub(crate) fn run_at_once<P: Send>(permits: Vec<P>, work: impl Fn() + Sync) {
    let work = &work;
    thread::scope(|scope| {
        for permit in permits {
            let help = move || {
                let _permit = permit;
                work();
            };
            if thread::Builder::new().spawn_scoped(scope, help).is_err() {
                break;
            }
        }
        work();
    });
}
