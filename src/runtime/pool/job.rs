//! `Job`: a load that a thread of a pool can run, and why a pool refuses it.

use std::io;

/// Work for a thread. It is dropped without being run if all its tickets are dropped, or if the pool
/// ends first.
pub(crate) trait Job: Send {
    fn run(self: Box<Self>);
}

/// A job that is to be queued, and the length of each of its keys in bytes.
pub(crate) struct Work {
    pub(crate) job: Box<dyn Job>,
    pub(crate) key_bytes: Vec<usize>,
}

/// Why a pool did not queue a job.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The queue has no room for it.
    Full,
    /// The pool has ended.
    Closed,
    /// There is no thread, and none can be started.
    NoThread(io::Error),
}
