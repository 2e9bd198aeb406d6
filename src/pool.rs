//! `Pool`: a bounded number of threads for loads that must not hold their caller.
//!
//! Threads are started when there is work for them. A thread inside a hung loader cannot be
//! stopped: when the pool ends it is left alone, and it ends with its loader.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::deadline::{Clock, Deadline, Sleeper};
use crate::sync::{Arc, Condvar, Mutex, thread};

/// How many jobs may wait for a thread.
const MAX_QUEUED: usize = 1_024;

/// Work for a pool. Dropped unrun if the pool ends first.
pub(crate) trait Job: Send {
    fn run(self: Box<Self>);
    /// Whether anybody still wants it: one that nobody wants makes room for others.
    fn is_wanted(&self) -> bool;
}

pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    max_threads: usize,
    state: Mutex<State>,
    work: Condvar,
    /// Notified when there is nothing to do any more.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Box<dyn Job>>,
    threads: Vec<thread::JoinHandle<()>>,
    busy: HashSet<thread::ThreadId>,
    idle: usize,
    closed: bool,
}

/// Why a job was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    Full,
    Closed,
    /// There is no thread, and none can be started.
    NoThread(io::Error),
}

impl Pool {
    pub(crate) fn new(max_threads: usize) -> Pool {
        Pool {
            shared: Arc::new(Shared {
                max_threads,
                state: Mutex::new(State::default()),
                work: Condvar::new(),
                idle: Condvar::new(),
            }),
        }
    }

    /// Has `job` run by one of the threads. Does not block.
    pub(crate) fn submit(&self, job: Box<dyn Job>) -> Result<(), Refused> {
        self.make_room();
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.queue.len() >= MAX_QUEUED {
            return Err(Refused::Full);
        }
        if state.idle <= state.queue.len() && state.threads.len() < self.shared.max_threads {
            match self.start_thread() {
                Ok(thread) => state.threads.push(thread),
                Err(error) if state.threads.is_empty() => return Err(Refused::NoThread(error)),
                Err(error) => log::warn!(
                    target: "groupcache",
                    threads = state.threads.len(), error:% = error;
                    "cannot start another loader thread"
                ),
            }
        }
        state.queue.push_back(job);
        self.shared.work.notify_one();
        Ok(())
    }

    /// Lets those jobs of a full queue go that nobody wants any more.
    fn make_room(&self) {
        let all = {
            let mut state = self.shared.state.lock();
            if state.queue.len() < MAX_QUEUED {
                return;
            }
            std::mem::take(&mut state.queue)
        };
        // Jobs hold flights, which have locks of their own (I2).
        let (wanted, unwanted): (VecDeque<_>, VecDeque<_>) =
            all.into_iter().partition(|job| job.is_wanted());
        drop(unwanted);
        let mut state = self.shared.state.lock();
        let newer = std::mem::replace(&mut state.queue, wanted);
        state.queue.extend(newer);
        self.shared.work.notify_all();
    }

    /// Waits until no job runs or waits, no longer than `deadline`.
    pub(crate) fn wait_until_idle(&self, clock: &Clock, deadline: Deadline) {
        let mut state = self.shared.state.lock();
        while !state.is_idle() && !deadline.is_past(clock.now()) {
            clock.wait(&self.shared.idle, &mut state, deadline, || {
                Arc::downgrade(&(Arc::clone(&self.shared) as Arc<dyn Sleeper>))
            });
        }
    }

    /// How many threads there may be.
    pub(crate) fn max_threads(&self) -> usize {
        self.shared.max_threads
    }

    /// How many threads there are, and how many of them are inside a job.
    pub(crate) fn threads(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        (state.threads.len(), state.busy.len())
    }

    fn start_thread(&self) -> io::Result<thread::JoinHandle<()>> {
        let shared = Arc::clone(&self.shared);
        thread::Builder::new()
            .name("groupcache-loader".to_owned())
            .spawn(move || shared.work_until_closed())
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.busy.is_empty()
    }
}

impl Sleeper for Shared {
    fn wake(&self) {
        let _state = self.state.lock();
        self.idle.notify_all();
    }
}

impl Shared {
    fn work_until_closed(&self) {
        let me = thread::current().id();
        while let Some(job) = self.next_job(me) {
            // A panic ends the flight it held, by the flight's guard, and not this thread.
            if catch_unwind(AssertUnwindSafe(|| job.run())).is_err() {
                log::error!(target: "groupcache", "a load panicked outside its loader");
            }
        }
    }

    fn next_job(&self, me: thread::ThreadId) -> Option<Box<dyn Job>> {
        let mut state = self.state.lock();
        state.busy.remove(&me);
        if state.is_idle() {
            self.idle.notify_all();
        }
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.queue.pop_front() {
                state.busy.insert(me);
                return Some(job);
            }
            state.idle += 1;
            self.work.wait(&mut state);
            state.idle -= 1;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let (queue, idle, busy) = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            self.shared.work.notify_all();
            let threads = std::mem::take(&mut state.threads);
            let is_busy =
                |thread: &thread::JoinHandle<()>| state.busy.contains(&thread.thread().id());
            let (busy, idle): (Vec<_>, Vec<_>) = threads.into_iter().partition(is_busy);
            (std::mem::take(&mut state.queue), idle, busy)
        };
        drop(queue); // jobs hold flights, which have locks of their own (I2)
        for thread in idle {
            // It has nothing left to do and ends at once. A panic of a job ended it before.
            let _ = thread.join();
        }
        // This may be one of our own threads, dropping the last handle: it counts as busy, so it
        // is not joined. The others are inside a loader and end with it.
        let me = thread::current().id();
        let left = busy
            .iter()
            .filter(|thread| thread.thread().id() != me)
            .count();
        if left > 0 {
            log::warn!(target: "groupcache", threads = left; "loader threads left inside their loaders");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Call<F>(F);

    impl<F: FnOnce() + Send> Job for Call<F> {
        fn run(self: Box<Self>) {
            (self.0)();
        }

        fn is_wanted(&self) -> bool {
            true
        }
    }

    #[test]
    fn jobs_run_and_the_threads_end_with_the_pool() {
        let pool = Pool::new(2);
        let (sender, receiver) = mpsc::channel();
        for number in 0..10 {
            let sender = sender.clone();
            pool.submit(Box::new(Call(move || sender.send(number).unwrap())))
                .unwrap();
        }
        drop(sender);
        let mut numbers: Vec<i32> = receiver.iter().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
        assert!(pool.threads().0 <= 2);
        drop(pool);
    }

    #[test]
    fn the_last_handle_may_fall_on_a_thread_of_the_pool() {
        let pool = Arc::new(Pool::new(1));
        let (sender, receiver) = mpsc::channel();
        let (go, wait_for_go) = mpsc::channel::<()>();
        let last = Arc::clone(&pool);
        let job = Call(move || {
            wait_for_go.recv().unwrap();
            drop(last);
            sender.send(()).unwrap();
        });
        pool.submit(Box::new(job)).unwrap();
        drop(pool);
        go.send(()).unwrap();
        receiver.recv().unwrap();
    }

    #[test]
    fn a_full_queue_refuses_and_the_unwanted_make_room() {
        struct Unwanted;
        impl Job for Unwanted {
            fn run(self: Box<Self>) {}
            fn is_wanted(&self) -> bool {
                false
            }
        }
        let pool = Pool::new(1);
        let (sender, receiver) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        let blocking = Call(move || {
            started.send(()).unwrap();
            let _ = receiver.recv();
        });
        pool.submit(Box::new(blocking)).unwrap();
        has_started.recv().unwrap();
        for _ in 0..MAX_QUEUED {
            pool.submit(Box::new(Unwanted)).unwrap();
        }
        for _ in 0..MAX_QUEUED {
            pool.submit(Box::new(Call(|| ()))).unwrap();
        }
        assert!(matches!(
            pool.submit(Box::new(Call(|| ()))),
            Err(Refused::Full)
        ));
        drop(sender);
    }
}
