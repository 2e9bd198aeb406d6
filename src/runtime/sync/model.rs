//! Concurrency as a model checker runs it: loom or shuttle, behind the names of `parking_lot`.
//!
//! Neither has a notion of time: a wait with a deadline is a plain wait here, and the manual clock, which
//! the models use, wakes the threads whose time has come.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Instant;

#[cfg(groupcache_model = "loom")]
use loom as checker;
#[cfg(groupcache_model = "shuttle")]
use shuttle as checker;

pub(crate) use checker::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(crate) use checker::thread;
#[cfg(groupcache_model = "shuttle")]
pub(crate) use checker::thread_local;
#[cfg(feature = "tiny_http")]
pub(crate) use crossbeam::channel;
pub(crate) use std::sync::OnceLock;

/// Seeds key hashes in the same way for every run: a schedule must be repeatable.
pub(crate) use foldhash::quality::FixedState as KeySeed;

/// As [`KeySeed`], the same for every run.
pub(crate) type RandomState = std::hash::BuildHasherDefault<std::hash::DefaultHasher>;

/// Loom's own takes no `const { … }`.
#[cfg(groupcache_model = "loom")]
macro_rules! each_thread {
    ($($(#[$attribute:meta])* static $name:ident: $type:ty = $init:expr;)+) => {
        $(loom::thread_local! { $(#[$attribute])* static $name: $type = { $init }; })+
    };
}
#[cfg(groupcache_model = "loom")]
pub(crate) use each_thread as thread_local;

#[derive(Default)]
pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(checker::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(unpoisoned(self.0.lock())))
    }

    pub(crate) fn into_inner(self) -> T {
        unpoisoned(self.0.into_inner())
    }
}

/// Empty only inside [`Condvar::wait`].
pub(crate) struct MutexGuard<'a, T>(Option<checker::sync::MutexGuard<'a, T>>);

#[allow(clippy::expect_used)] // empty only inside `Condvar::wait`
impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("the lock is held")
    }
}

#[allow(clippy::expect_used)] // empty only inside `Condvar::wait`
impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().expect("the lock is held")
    }
}

pub(crate) struct Condvar(checker::sync::Condvar);

impl Default for Condvar {
    fn default() -> Condvar {
        Condvar::new()
    }
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar(checker::sync::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        if let Some(held) = guard.0.take() {
            guard.0 = Some(unpoisoned(self.0.wait(held)));
        }
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

#[derive(Default)]
pub(crate) struct RwLock<T>(checker::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> RwLock<T> {
        RwLock(checker::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> checker::sync::RwLockReadGuard<'_, T> {
        unpoisoned(self.0.read())
    }

    pub(crate) fn write(&self) -> checker::sync::RwLockWriteGuard<'_, T> {
        unpoisoned(self.0.write())
    }
}

/// A cell whose initialization may switch threads. The lock of the real one would deadlock here.
pub(crate) struct OnceCell<T> {
    making: Mutex<()>,
    cell: once_cell::sync::OnceCell<T>,
}

impl<T> Default for OnceCell<T> {
    fn default() -> OnceCell<T> {
        OnceCell {
            making: Mutex::new(()),
            cell: once_cell::sync::OnceCell::new(),
        }
    }
}

impl<T> OnceCell<T> {
    pub(crate) fn get_or_try_init<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        let _making = self.making.lock();
        if self.cell.get().is_none() {
            let made = make()?;
            let _ = self.cell.set(made); // no other thread sets it while this is locked
        }
        self.cell.get_or_try_init(|| unreachable!("it is set"))
    }

    pub(crate) fn take(&mut self) -> Option<T> {
        self.cell.take()
    }
}

pub(crate) fn wait_until<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>, _: Option<Instant>) {
    condvar.wait(guard);
}

/// What all nodes of this process share. Here a new one for each node: no run may see what an earlier
/// one has left.
pub(crate) struct OneForAll<T>(PhantomData<fn() -> T>);

impl<T> OneForAll<T> {
    pub(crate) const fn new() -> OneForAll<T> {
        OneForAll(PhantomData)
    }

    pub(crate) fn get(&self, make: impl FnOnce() -> Arc<T>) -> Arc<T> {
        make()
    }

    pub(crate) fn let_go(&self) {}
}

/// How many callers send a peer their own requests, and how many batched requests are under way: so few
/// that some callers have to queue.
pub(crate) fn callers_at_once() -> (usize, usize) {
    (1, 1)
}

/// The number of processors: the same for every run.
pub(crate) fn processors() -> usize {
    2
}

/// Runs `work` on one thread for each of `permits` and on one more. This thread is not among them:
/// shuttle wakes it when one of the others ends, whatever it waits for.
#[cfg(groupcache_model = "shuttle")]
pub(crate) fn run_at_once<P: Send>(permits: Vec<P>, work: impl Fn() + Sync) {
    let work = &work;
    thread::scope(|scope| {
        scope.spawn(work);
        for permit in permits {
            scope.spawn(move || {
                let _permit = permit;
                work();
            });
        }
    });
}

/// A panic in a model ends it, so a poisoned lock does not matter.
fn unpoisoned<G>(locked: Result<G, std::sync::PoisonError<G>>) -> G {
    locked.unwrap_or_else(std::sync::PoisonError::into_inner)
}
