//! `Lane`: a bounded pool of worker threads for one kind of request.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use super::connection::BoxedConnection;
use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, thread, wait_until};

/// How long a thread without work stays.
const IDLE_LIFE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Peers,
    Application,
}

impl Which {
    /// At most 15 bytes, or Linux cuts them.
    fn thread_name(self) -> &'static str {
        match self {
            Which::Peers => "groupcache-peer",
            Which::Application => "groupcache-app",
        }
    }
}

pub(super) struct Lane {
    which: Which,
    max_threads: usize,
    /// Whether connections wait for which there is no thread and will be none, to be seen without
    /// the lock once per request.
    is_crowded: AtomicBool,
    state: Mutex<State>,
    work: Condvar,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<BoxedConnection>,
    threads: HashMap<thread::ThreadId, thread::JoinHandle<()>>,
    /// They are at their last instructions, or have ended.
    leaving: Vec<thread::JoinHandle<()>>,
    idle: usize,
    closed: bool,
}

impl Lane {
    pub(super) fn new(which: Which, max_threads: usize) -> Lane {
        Lane {
            which,
            max_threads,
            is_crowded: AtomicBool::new(false),
            state: Mutex::new(State::default()),
            work: Condvar::new(),
            ended: Condvar::new(),
        }
    }

    /// Has connections served in their order, by threads that run `work`, which is to take them by
    /// [`next`](Lane::next). Gives them back once the lane is closed.
    ///
    /// One thread always stays, and [`start`](Lane::start) has made sure that there is one: where
    /// the system refuses more, things are slow, but not stuck.
    pub(super) fn push<W: FnOnce() + Send + 'static>(
        &self,
        connections: impl IntoIterator<Item = BoxedConnection>,
        work: impl Fn() -> W,
    ) -> Vec<BoxedConnection> {
        let mut state = self.state.lock();
        if state.closed {
            drop(state); // connections are dropped without it (I2)
            return connections.into_iter().collect();
        }
        for connection in connections {
            if state.idle <= state.queue.len() && state.threads.len() < self.max_threads {
                if let Err(error) = self.start_thread(&mut state, work()) {
                    log::warn!(
                        target: "groupcache",
                        threads = state.threads.len(), error:% = error;
                        "cannot start another server thread"
                    );
                }
            }
            state.queue.push_back(connection);
            self.work.notify_one();
        }
        self.note_crowd(&state);
        Vec::new()
    }

    /// A thread counts as idle until it has woken up: those who wait for it are provided for.
    fn note_crowd(&self, state: &State) {
        let is_crowded = state.queue.len() > state.idle && state.threads.len() >= self.max_threads;
        // Seldom changed, so that it stays in the caches of all who look.
        if self.is_crowded.load(Ordering::Relaxed) != is_crowded {
            self.is_crowded.store(is_crowded, Ordering::Relaxed);
        }
    }

    pub(super) fn start(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.start_thread(&mut self.state.lock(), work)
    }

    fn start_thread(
        &self,
        state: &mut State,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        // Those that left have nothing more to do than to end.
        for thread in state.leaving.drain(..) {
            let _ = thread.join();
        }
        let thread = thread::Builder::new()
            .name(self.which.thread_name().to_owned())
            .spawn(work)?;
        state.threads.insert(thread.thread().id(), thread);
        Ok(())
    }

    /// Whether connections wait for a thread in vain: then none may linger.
    pub(super) fn is_crowded(&self) -> bool {
        self.is_crowded.load(Ordering::Relaxed)
    }

    /// The next connection for the thread that calls, or `None` if that thread is to end.
    pub(super) fn next(&self) -> Option<BoxedConnection> {
        let mut state = self.state.lock();
        loop {
            if state.closed {
                break;
            }
            if let Some(connection) = state.queue.pop_front() {
                self.note_crowd(&state);
                return Some(connection);
            }
            let until = Instant::now() + IDLE_LIFE;
            state.idle += 1;
            wait_until(&self.work, &mut state, Some(until));
            state.idle -= 1;
            let is_idle = state.queue.is_empty() && Instant::now() >= until;
            if is_idle && state.threads.len() > 1 {
                break;
            }
        }
        let thread = state.threads.remove(&thread::current().id());
        state.leaving.extend(thread);
        self.ended.notify_all();
        None
    }

    /// Has all threads end once they are done with what they do. Gives what is left to be dropped.
    pub(super) fn close(&self) -> VecDeque<BoxedConnection> {
        let mut state = self.state.lock();
        state.closed = true;
        self.work.notify_all();
        std::mem::take(&mut state.queue)
    }

    /// Waits for all threads to end, until `until`. Tells how many are left, besides the one that
    /// calls, which cannot wait for itself: they are left alone.
    pub(super) fn join(&self, until: Instant) -> usize {
        let mut state = self.state.lock();
        let own = usize::from(state.threads.contains_key(&thread::current().id()));
        while state.threads.len() > own && Instant::now() < until {
            wait_until(&self.ended, &mut state, Some(until));
        }
        let left = state.threads.len() - own;
        let leaving = std::mem::take(&mut state.leaving);
        drop(state);
        for thread in leaving {
            let _ = thread.join();
        }
        left
    }
}
