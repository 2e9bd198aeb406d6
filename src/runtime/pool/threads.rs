//! `Pool`: the threads that run jobs, and the tickets that keep jobs in the queue.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;

use super::job::{Job, Refused, Work};
use super::queue::{Queue, QueuedKey};
use crate::runtime::clock::{Clock, Deadline, Sleeper};
use crate::runtime::flow::Flow;
use crate::runtime::sync::{Arc, Condvar, Mutex, Weak, thread, thread_local};
use crate::runtime::user_code;

/// How many threads more there may be while others wait inside their loaders.
const MAX_BLOCKED: usize = 64;

pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    max_threads: usize,
    state: Mutex<State>,
    /// Notified when a thread has something to do, or has to end.
    work: Condvar,
    /// Notified when no job waits or runs.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    queue: Queue,
    threads: Vec<thread::JoinHandle<()>>,
    /// The threads that run a job.
    busy: HashSet<thread::ThreadId>,
    /// How many threads wait for a job.
    idle: usize,
    /// How many threads wait for a load inside a loader.
    blocked: usize,
    closed: bool,
}

/// Keeps a key of a job in the queue. When it is dropped, the key no longer counts; when the tickets of
/// all keys of a job are dropped, the job is dropped. Does nothing once the job runs.
pub(crate) struct Ticket {
    pool: Weak<Shared>,
    key: QueuedKey,
}

impl Pool {
    /// A pool of up to `max_threads` threads, none of which is started yet.
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

    /// Queues jobs on behalf of `flow`, no more than `at_once` of which run at a time. Gives the keys
    /// of those that were queued, from the first on; an error if none was. Does not block.
    pub(crate) fn submit(
        &self,
        works: Vec<Work>,
        at_once: usize,
        flow: Flow,
    ) -> Result<Vec<QueuedKey>, Refused> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        let (keys, refused) = state.queue.add_batch(works, at_once, effective_flow(flow));
        let started = self.shared.start_threads(&mut state);
        let threads = state.threads.len();
        self.shared.work.notify_all();
        drop(state);
        drop(refused); // jobs hold flights, which have locks of their own (I2)
        report_no_thread(threads, &started);
        let result = match started {
            Err(error) if threads == 0 => Err(Refused::NoThread(error)),
            _ if keys.is_empty() => Err(Refused::Full),
            _ => Ok(()),
        };
        match result {
            Ok(()) => Ok(keys),
            Err(refused) => {
                keys.into_iter().for_each(|key| drop(self.ticket(key)));
                Err(refused)
            }
        }
    }

    /// The ticket that keeps `key` in the queue.
    pub(crate) fn ticket(&self, key: QueuedKey) -> Ticket {
        Ticket {
            pool: Arc::downgrade(&self.shared),
            key,
        }
    }

    /// Notes, for as long as the token lives, that this thread waits for a value. If it is a thread of
    /// the pool, inside a loader or other user code, another one may be started in its stead:
    /// otherwise loads that wait for loads could hold all threads.
    pub(crate) fn wait_inside(&self) -> Blocked<'_> {
        if !is_loader_thread() {
            return Blocked { pool: None };
        }
        let mut state = self.shared.state.lock();
        let counts = state.busy.contains(&thread::current().id()) && state.blocked < MAX_BLOCKED;
        if counts {
            state.blocked += 1;
            // If none can be started, the load waits for one of those there are.
            let started = self.shared.start_threads(&mut state);
            let threads = state.threads.len();
            drop(state);
            report_no_thread(threads, &started);
        }
        Blocked {
            pool: counts.then_some(&*self.shared),
        }
    }

    /// Waits until no job runs or waits, no longer than `deadline`. Returns at once inside a job, which
    /// would wait for itself.
    pub(crate) fn wait_until_idle(&self, clock: &Clock, deadline: Deadline) {
        if is_loader_thread() {
            return;
        }
        let mut state = self.shared.state.lock();
        while !state.is_idle() && !deadline.is_past(clock.now()) {
            clock.wait(&self.shared.idle, &mut state, deadline, || {
                Arc::downgrade(&(Arc::clone(&self.shared) as Arc<dyn Sleeper>))
            });
        }
    }

    /// How many threads there are, and how many of them run a job.
    pub(crate) fn threads(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        (state.threads.len(), state.busy.len())
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.queue.is_idle() && self.busy.is_empty()
    }
}

/// The flow that jobs of this thread belong to: what a load begins is part of it.
pub(crate) fn effective_flow(flow: Flow) -> Flow {
    match is_loader_thread() || user_code::inside_a_loader() {
        true => Flow::Load,
        false => flow,
    }
}

thread_local! {
    static IS_OF_A_POOL: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is one of a pool: while it waits, loads have one thread less.
fn is_loader_thread() -> bool {
    IS_OF_A_POOL.with(Cell::get)
}

impl Sleeper for Shared {
    fn wake(&self) {
        let _state = self.state.lock();
        self.idle.notify_all();
    }
}

impl Shared {
    /// Starts threads for the jobs that wait, as many as there may be.
    fn start_threads(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let most = self.max_threads + state.blocked;
        let mut wanted = state.queue.len().saturating_sub(state.idle);
        while wanted > 0 && state.threads.len() < most {
            state.threads.push(self.start_thread()?);
            wanted -= 1;
        }
        Ok(())
    }

    fn start_thread(self: &Arc<Self>) -> io::Result<thread::JoinHandle<()>> {
        let shared = Arc::clone(self);
        thread::Builder::new()
            .name("groupcache-loader".to_owned())
            .spawn(move || shared.work_until_closed())
    }

    fn work_until_closed(&self) {
        let me = thread::current().id();
        IS_OF_A_POOL.with(|is| is.set(true));
        let mut batch = None;
        while let Some((number, job)) = self.next_job(me, batch) {
            batch = Some(number);
            let _hold = user_code::hold(); // listeners run once the job is done
            // A panic ends the flight that the job leads, by the flight's guard, and not this thread.
            if let Err(panicked) = user_code::call(|| job.run()) {
                log::error!(
                    target: "groupcache", error:% = panicked.0;
                    "a load panicked outside its loader"
                );
            }
        }
    }

    /// Waits for the next job; `ended` is the batch of the one that this thread has run before. `None`
    /// if the thread has to end.
    fn next_job(&self, me: thread::ThreadId, ended: Option<u64>) -> Option<(u64, Box<dyn Job>)> {
        let mut state = self.state.lock();
        state.busy.remove(&me);
        if let Some(batch) = ended {
            state.queue.end(batch);
            // The others may have slept while this batch had no turn.
            self.work.notify_all();
        }
        if state.is_idle() {
            self.idle.notify_all();
        }
        loop {
            // This thread is neither busy nor idle here.
            debug_assert!(state.closed || state.busy.len() + state.idle < state.threads.len());
            if state.closed {
                return None;
            }
            if state.threads.len() > self.max_threads + state.blocked {
                // This thread was started for one that waited inside its loader and goes on now.
                state.threads.retain(|thread| thread.thread().id() != me);
                return None;
            }
            if let Some((batch, job)) = state.queue.pop() {
                state.busy.insert(me);
                return Some((batch, job));
            }
            state.idle += 1;
            self.work.wait(&mut state);
            state.idle -= 1;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            let forgotten = {
                let mut state = pool.state.lock();
                let forgotten = state.queue.forget(self.key);
                if state.is_idle() {
                    pool.idle.notify_all();
                }
                forgotten
            };
            drop(forgotten); // jobs hold flights, which have locks of their own (I2)
        }
    }
}

/// Logs that no thread could be started. Not under a lock: a logger is user code (I1).
fn report_no_thread(threads: usize, started: &io::Result<()>) {
    if let Err(error) = started {
        log::warn!(
            target: "groupcache", threads = threads, error:% = error;
            "cannot start another loader thread"
        );
    }
}

/// A thread of a pool that waits for a value.
pub(crate) struct Blocked<'a> {
    pool: Option<&'a Shared>,
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool {
            pool.state.lock().blocked -= 1;
            pool.work.notify_all(); // there may be one thread too many now
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
        // This thread may be one of the pool that drops the last handle: it counts as busy, so it is
        // not joined. The others are inside a loader and end with it.
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
    use super::super::queue::{MAX_QUEUED_BYTES, MAX_QUEUED_KEYS};
    use super::*;
    use crate::runtime::sync::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    struct Call<F>(F);

    impl<F: FnOnce() + Send> Job for Call<F> {
        fn run(self: Box<Self>) {
            (self.0)();
        }
    }

    fn work(keys: usize, call: impl FnOnce() + Send + 'static) -> Work {
        Work {
            job: Box::new(Call(call)),
            key_bytes: vec![10; keys],
        }
    }

    fn submit(pool: &Pool, call: impl FnOnce() + Send + 'static) -> Vec<QueuedKey> {
        pool.submit(vec![work(1, call)], 1, Flow::Application)
            .unwrap()
    }

    /// Keeps the only thread of a pool busy until the sender goes.
    fn block(pool: &Pool) -> mpsc::Sender<()> {
        let (sender, receiver) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        submit(pool, move || {
            started.send(()).unwrap();
            let _ = receiver.recv();
        });
        has_started.recv().unwrap();
        sender
    }

    fn queued(pool: &Pool) -> (usize, usize) {
        pool.shared.state.lock().queue.counts()
    }

    #[test]
    fn jobs_run_and_the_threads_end_with_the_pool() {
        let pool = Pool::new(2);
        let (sender, receiver) = mpsc::channel();
        for number in 0..10 {
            let sender = sender.clone();
            submit(&pool, move || sender.send(number).unwrap());
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
        submit(&pool, move || {
            wait_for_go.recv().unwrap();
            drop(last);
            sender.send(()).unwrap();
        });
        drop(pool);
        go.send(()).unwrap();
        receiver.recv().unwrap();
    }

    #[test]
    fn the_queue_is_bounded_in_keys_and_in_bytes() {
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let quarter = MAX_QUEUED_KEYS / 4;
        let batch = vec![work(quarter, || ()), work(quarter, || ()), work(1, || ())];
        let keys = pool.submit(batch, 1, Flow::Application).unwrap();
        assert_eq!(keys.len(), MAX_QUEUED_KEYS / 2, "the third has no room");
        let refused = pool.submit(vec![work(1, || ())], 1, Flow::Application);
        assert!(matches!(refused, Err(Refused::Full)));
        drop(pool.ticket(keys[0]));
        let large = Work {
            job: Box::new(Call(|| ())),
            key_bytes: vec![MAX_QUEUED_BYTES],
        };
        let refused = pool.submit(vec![large], 1, Flow::Application);
        assert!(matches!(refused, Err(Refused::Full)));
        let keys = pool.submit(vec![work(1, || ())], 1, Flow::Application);
        assert_eq!(keys.unwrap().len(), 1);
        drop(blocked);
    }

    #[test]
    fn a_job_whose_tickets_are_gone_leaves_the_queue() {
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let dropped = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let counted = Counted(Arc::clone(&dropped));
        let keys = pool
            .submit(vec![work(2, move || drop(counted))], 1, Flow::Application)
            .unwrap();
        assert_eq!(queued(&pool), (2, 20));
        drop(pool.ticket(keys[0]));
        assert_eq!(
            (queued(&pool), dropped.load(Ordering::SeqCst)),
            ((1, 10), 0)
        );
        drop(pool.ticket(keys[1]));
        assert_eq!((queued(&pool), dropped.load(Ordering::SeqCst)), ((0, 0), 1));
        assert_eq!(
            pool.shared.state.lock().queue.batches(),
            1,
            "only what runs"
        );
        drop(blocked);
        pool.wait_until_idle(&Clock::system(), Deadline::NEVER);
        assert!(pool.shared.state.lock().is_idle());
    }

    #[test]
    fn batches_take_turns() {
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let (sender, receiver) = mpsc::channel();
        let batch = |name: &'static str| {
            let work = |_| {
                let sender = sender.clone();
                work(1, move || sender.send(name).unwrap())
            };
            (0..3).map(work).collect::<Vec<_>>()
        };
        pool.submit(batch("large"), 1, Flow::Application).unwrap();
        pool.submit(batch("other"), 1, Flow::Application).unwrap();
        drop((blocked, sender));
        let order: Vec<_> = receiver.iter().collect();
        assert_eq!(
            order,
            ["large", "other", "large", "other", "large", "other"]
        );
    }

    fn peer(number: u8) -> Flow {
        Flow::Network(Some([10, 0, 0, number].into()))
    }

    #[test]
    fn flows_take_turns_however_much_each_has_queued() {
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let (sender, receiver) = mpsc::channel();
        let job = |name: &'static str| {
            let sender = sender.clone();
            work(1, move || sender.send(name).unwrap())
        };
        for _ in 0..10 {
            let batch = (0..3).map(|_| job("greedy")).collect();
            pool.submit(batch, 1, peer(1)).unwrap();
        }
        let batch = (0..3).map(|_| job("peer")).collect();
        pool.submit(batch, 1, peer(2)).unwrap();
        pool.submit(vec![job("own")], 1, Flow::Application).unwrap();
        drop((blocked, sender));
        let order: Vec<_> = receiver.iter().collect();
        assert_eq!(order.len(), 34);
        let last = |name| order.iter().rposition(|&other| other == name).unwrap();
        assert!(last("own") <= 3, "{order:?}");
        assert!(last("peer") <= 9, "{order:?}");
    }

    #[test]
    fn turns_are_weighed_by_keys() {
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let (sender, receiver) = mpsc::channel();
        let job = |keys, name: &'static str| {
            let sender = sender.clone();
            work(keys, move || sender.send(name).unwrap())
        };
        for _ in 0..3 {
            pool.submit(vec![job(4, "four")], 1, peer(1)).unwrap();
        }
        let batch = (0..9).map(|_| job(1, "one")).collect();
        pool.submit(batch, 1, peer(2)).unwrap();
        drop((blocked, sender));
        let order: Vec<_> = receiver.iter().collect();
        let of_four: Vec<usize> = (0..order.len()).filter(|&at| order[at] == "four").collect();
        assert!(of_four[2] - of_four[0] >= 8, "{order:?}");
    }

    #[test]
    fn a_batch_keeps_to_its_limit() {
        let pool = Pool::new(4);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = |_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            work(1, move || {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        pool.submit((0..100).map(work).collect(), 2, Flow::Application)
            .unwrap();
        pool.wait_until_idle(&Clock::system(), Deadline::NEVER);
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_thread_that_waits_inside_its_job_has_another_take_its_part() {
        let pool = Arc::new(Pool::new(1));
        let (sender, receiver) = mpsc::channel();
        let inner = Arc::clone(&pool);
        submit(&pool, move || {
            let (ended, has_ended) = mpsc::channel();
            let waiting = inner.wait_inside();
            submit(&inner, move || ended.send(()).unwrap());
            has_ended.recv().unwrap();
            drop(waiting);
            sender.send(inner.threads().0).unwrap();
        });
        assert!(receiver.recv().unwrap() <= 2);
        pool.wait_until_idle(&Clock::system(), Deadline::NEVER);
        submit(&pool, || ());
        pool.wait_until_idle(&Clock::system(), Deadline::NEVER);
        assert_eq!(pool.shared.state.lock().blocked, 0);
    }
}
