//! `WorkerPool`: a bounded pool of threads that serve one kind of traffic.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use super::task_queue::{Task, TaskQueue};
use super::traffic::Traffic;
use crate::runtime::sync::{AtomicBool, Condvar, Mutex, Ordering, processors, thread, wait_until};

/// How many threads serve for each processor while the pool is saturated.
const SATURATED_THREADS_PER_PROCESSOR: usize = 4;

/// How long a thread without a task stays.
const IDLE_LIFETIME: Duration = Duration::from_secs(10);

/// Linux cuts longer names of threads.
const MAX_THREAD_NAME: usize = 15;

const fn thread_name(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::Peers => "groupcache-peer",
        Traffic::Application => "groupcache-app",
    }
}

const _: () = assert!(
    thread_name(Traffic::Peers).len() <= MAX_THREAD_NAME
        && thread_name(Traffic::Application).len() <= MAX_THREAD_NAME
);

pub(crate) struct WorkerPool {
    traffic: Traffic,
    max_threads: usize,
    /// How many threads serve while the pool is saturated. More threads would only compete for the
    /// processors, and hold locks while they wait for one.
    max_threads_saturated: usize,
    /// Whether the pool is saturated, to be read without the lock once per request.
    is_saturated: AtomicBool,
    state: Mutex<State>,
    /// Notified when there is a task, and when the pool is closed.
    work: Condvar,
    /// Notified when a thread ends.
    ended: Condvar,
}

struct State {
    queue: TaskQueue<Task>,
    threads: HashMap<thread::ThreadId, thread::JoinHandle<()>>,
    /// Threads that are at their last instructions, or have ended.
    leaving: Vec<thread::JoinHandle<()>>,
    /// How many threads have a task.
    serving: usize,
    closed: bool,
}

impl State {
    /// How many threads have no task. Threads that have yet to start or to wake up are among them: a
    /// task that waits for one of these needs no other thread.
    fn free(&self) -> usize {
        debug_assert!(
            self.serving <= self.threads.len(),
            "only threads of the pool have tasks"
        );
        self.threads.len() - self.serving
    }
}

impl WorkerPool {
    pub(crate) fn new(traffic: Traffic, max_threads: usize) -> WorkerPool {
        // The application may block; a peer is answered without waiting for anything.
        let max_threads_saturated = match traffic {
            Traffic::Peers => SATURATED_THREADS_PER_PROCESSOR * processors(),
            Traffic::Application => max_threads,
        };
        WorkerPool {
            traffic,
            max_threads,
            max_threads_saturated,
            is_saturated: AtomicBool::new(false),
            state: Mutex::new(State {
                queue: TaskQueue::new(),
                threads: HashMap::new(),
                leaving: Vec::new(),
                serving: 0,
                closed: false,
            }),
            work: Condvar::new(),
            ended: Condvar::new(),
        }
    }

    /// Queues tasks by their class. New threads run `work`, which has to take tasks by
    /// [`next`](WorkerPool::next). Returns the tasks if the pool is closed.
    ///
    /// One thread always stays, and [`start`](WorkerPool::start) has made sure that there is one: where
    /// the system refuses more threads, the pool is slow, but not stuck.
    pub(crate) fn push<W: FnOnce() + Send + 'static>(
        &self,
        tasks: impl IntoIterator<Item = Task>,
        work: impl Fn() -> W,
    ) -> Vec<Task> {
        let mut state = self.state.lock();
        if state.closed {
            drop(state); // tasks are dropped without the lock (I2)
            return tasks.into_iter().collect();
        }
        for task in tasks {
            state.queue.push(task.class(), task);
            if !self.can_use_another(&state) {
                continue;
            }
            if state.free() < state.queue.len() && state.threads.len() < self.max_threads {
                if let Err(error) = self.start_thread(&mut state, work()) {
                    log::warn!(
                        target: "groupcache",
                        threads = state.threads.len(), error:% = error;
                        "cannot start another server thread"
                    );
                }
            }
            self.work.notify_one();
        }
        self.update_saturation(&state);
        Vec::new()
    }

    fn update_saturation(&self, state: &State) {
        let is_saturated = self.exceeds_threads(state);
        // Written seldom, so that it stays in the caches of all threads that read it.
        if self.is_saturated.load(Ordering::Relaxed) != is_saturated {
            self.is_saturated.store(is_saturated, Ordering::Relaxed);
        }
    }

    /// Whether there are more tasks, queued and being done, than there may be threads.
    fn exceeds_threads(&self, state: &State) -> bool {
        state.queue.len() + state.serving > self.max_threads
    }

    fn can_use_another(&self, state: &State) -> bool {
        state.serving < self.max_threads_saturated || !self.exceeds_threads(state)
    }

    /// Starts the first thread.
    pub(crate) fn start(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.start_thread(&mut self.state.lock(), work)
    }

    fn start_thread(
        &self,
        state: &mut State,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        debug_assert!(
            state.threads.len() < self.max_threads,
            "the pool is bounded"
        );
        // Threads that leave have nothing more to do than to end.
        for thread in state.leaving.drain(..) {
            let _ = thread.join();
        }
        let thread = thread::Builder::new()
            .name(thread_name(self.traffic).to_owned())
            .spawn(work)?;
        state.threads.insert(thread.thread().id(), thread);
        Ok(())
    }

    /// Whether tasks wait that no thread is free for: then no thread may wait for its connection.
    pub(crate) fn is_saturated(&self) -> bool {
        self.is_saturated.load(Ordering::Relaxed)
    }

    /// The next task for the calling thread, or `None` if that thread has to end. Blocks until one of
    /// both. `has_served`: the thread has done the task that it took before.
    pub(crate) fn next(&self, has_served: bool) -> Option<Task> {
        let mut state = self.state.lock();
        debug_assert!(
            state.serving >= usize::from(has_served),
            "the calling thread was counted as serving"
        );
        state.serving -= usize::from(has_served);
        loop {
            if state.closed {
                break;
            }
            if let Some(task) = self.take(&mut state) {
                return Some(task);
            }
            let until = Instant::now() + IDLE_LIFETIME;
            wait_until(&self.work, &mut state, Some(until));
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

    /// The next task, if there is one and another thread is of use.
    fn take(&self, state: &mut State) -> Option<Task> {
        if !self.can_use_another(state) {
            return None;
        }
        let was_saturated = self.is_saturated();
        let task = state.queue.pop()?;
        state.serving += 1;
        self.update_saturation(state);
        if was_saturated && !self.is_saturated() {
            // No thread was woken for these tasks while the pool was saturated.
            for _ in 0..state.queue.len() {
                self.work.notify_one();
            }
        }
        Some(task)
    }

    /// Has each thread end after its current task. Returns the queued tasks, to be dropped.
    pub(crate) fn close(&self) -> impl Sized + use<> {
        let mut state = self.state.lock();
        state.closed = true;
        self.work.notify_all();
        std::mem::replace(&mut state.queue, TaskQueue::new())
    }

    /// Blocks until all threads have ended, but not past `until`. Returns how many have not. The calling
    /// thread is not counted, as it cannot wait for itself.
    pub(crate) fn join(&self, until: Instant) -> usize {
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
