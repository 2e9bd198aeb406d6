//! `Local`: what belongs to the process that made it, and is out of reach in one forked from that.
//!
//! A child has the memory of its parent, but of its threads only the one that forked: locks that
//! others held are held for ever, and whoever waits for a thread waits in vain. So a child may
//! neither use nor drop what has threads and locks. Nor may it make a node of its own while its parent
//! had one: the table of parked threads, which all locks of the process share, still names threads
//! that are no more, and new ones that come to lie where they lay are confused with them.

use std::mem::ManuallyDrop;

use super::status::Failure;
use crate::error::Error;
use crate::runtime::sync::{Arc, AtomicBool, AtomicUsize, OnceLock, Ordering};

/// How many forks lie between this process and the one that first counted. To read it costs a hit
/// much less than to ask the system who we are.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// How many of them there are.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Whether there were some when this process, or one before it, was forked.
static HAS_LEFTOVERS: AtomicBool = AtomicBool::new(false);

pub(super) struct Local<T> {
    thing: ManuallyDrop<T>,
    forks: usize,
}

/// To be asked before anything is made that has threads: whether this process may have such.
pub(super) fn begin() -> Result<(), Failure> {
    watch().map_err(|source| Error::Thread {
        source: Arc::new(source),
    })?;
    match HAS_LEFTOVERS.load(Ordering::Relaxed) {
        false => Ok(()),
        true => Err(Failure::Forked),
    }
}

impl<T> Local<T> {
    pub(super) fn new(thing: T) -> Local<T> {
        LIVE.fetch_add(1, Ordering::Relaxed);
        Local {
            thing: ManuallyDrop::new(thing),
            forks: FORKS.load(Ordering::Relaxed),
        }
    }

    pub(super) fn get(&self) -> Result<&T, Failure> {
        match self.is_foreign() {
            false => Ok(&self.thing),
            true => Err(Failure::Forked),
        }
    }

    pub(super) fn into_inner(mut self) -> Result<T, Failure> {
        self.get()?;
        // SAFETY: it is not used again, as `self` is forgotten.
        let thing = unsafe { ManuallyDrop::take(&mut self.thing) };
        std::mem::forget(self);
        LIVE.fetch_sub(1, Ordering::Relaxed);
        Ok(thing)
    }

    fn is_foreign(&self) -> bool {
        self.forks != FORKS.load(Ordering::Relaxed)
    }
}

impl<T> Drop for Local<T> {
    fn drop(&mut self) {
        if !self.is_foreign() {
            // SAFETY: this is its one drop.
            unsafe { ManuallyDrop::drop(&mut self.thing) };
            LIVE.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Has forks counted from now on.
#[cfg(unix)]
fn watch() -> std::io::Result<()> {
    extern "C" fn count() {
        FORKS.fetch_add(1, Ordering::Relaxed);
        if LIVE.load(Ordering::Relaxed) > 0 {
            HAS_LEFTOVERS.store(true, Ordering::Relaxed);
        }
    }
    static WATCHED: OnceLock<i32> = OnceLock::new();
    // SAFETY: the function does what a child of a process with threads may: it takes no lock and
    // no memory. It stays for as long as this library is there, with which glibc takes it back.
    let error = WATCHED.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(count)) });
    match *error {
        0 => Ok(()),
        error => Err(std::io::Error::from_raw_os_error(error)),
    }
}

/// There is no `fork`.
#[cfg(not(unix))]
fn watch() -> std::io::Result<()> {
    Ok(())
}
