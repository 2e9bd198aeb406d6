//! `Lane`: a bounded pool of worker threads for one kind of request.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use crate::group::Pending;
use crate::runtime::sync::{AtomicBool, Condvar, Mutex, Ordering, processors, thread, wait_until};
use crate::serve::connection::BoxedConnection;

/// How many threads a processor gets where more connections are busy than there are threads.
const IN_CROWD_PER_PROCESSOR: usize = 4;

/// How long a thread without work stays.
const IDLE_LIFE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Which {
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

/// Something to do for a thread of a lane.
pub(crate) enum Task {
    /// To serve a connection that has something to say, or to be told.
    Serve(BoxedConnection),
    /// To answer the guest of the lobby with this key that its load takes too long.
    GiveUp(usize, Pending),
    /// To take a request back, whose client has gone.
    Forget(Pending),
}

impl Task {
    fn class(&self) -> Class {
        match self {
            Task::Serve(connection) if connection.is_known() => Class::Known,
            Task::Serve(_) | Task::GiveUp(..) => Class::Other,
            Task::Forget(_) => Class::Chore,
        }
    }
}

/// Whom something is done for.
#[derive(Clone, Copy)]
enum Class {
    /// One who has proved who it is.
    Known,
    Other,
    /// One who is not served any more.
    Chore,
}

/// What waits for a thread.
struct Queue<T> {
    /// By its class.
    waiting: [VecDeque<T>; 3],
    turn: usize,
}

/// Half of the turns belong to those who are known, and a quarter each to the others and to chores:
/// however much there is to do for some, it does not keep the others waiting for long.
const TURNS: [[Class; 3]; 4] = [
    [Class::Known, Class::Other, Class::Chore],
    [Class::Other, Class::Known, Class::Chore],
    [Class::Known, Class::Other, Class::Chore],
    [Class::Chore, Class::Known, Class::Other],
];

impl<T> Queue<T> {
    fn new() -> Queue<T> {
        Queue {
            waiting: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            turn: 0,
        }
    }

    fn len(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    fn push(&mut self, class: Class, task: T) {
        self.waiting[class as usize].push_back(task);
    }

    fn pop(&mut self) -> Option<T> {
        let order = TURNS[self.turn];
        self.turn = (self.turn + 1) % TURNS.len();
        let mut firsts = order.into_iter();
        firsts.find_map(|class| self.waiting[class as usize].pop_front())
    }
}

pub(crate) struct Lane {
    which: Which,
    max_threads: usize,
    /// How many threads serve where connections wait in vain for one of their own. More would only
    /// stand in each other's way, and hold locks while they wait for a processor.
    max_in_crowd: usize,
    /// Whether there is a crowd, to be seen without the lock once per request.
    is_crowded: AtomicBool,
    state: Mutex<State>,
    work: Condvar,
    ended: Condvar,
}

struct State {
    queue: Queue<Task>,
    threads: HashMap<thread::ThreadId, thread::JoinHandle<()>>,
    /// They are at their last instructions, or have ended.
    leaving: Vec<thread::JoinHandle<()>>,
    /// How many threads have a task.
    serving: usize,
    closed: bool,
}

impl State {
    /// Threads that have no task. Those that have yet to start or to wake up are among them:
    /// who waits for them is provided for.
    fn free(&self) -> usize {
        self.threads.len() - self.serving
    }
}

impl Lane {
    pub(crate) fn new(which: Which, max_threads: usize) -> Lane {
        // The application may block; peers are answered without waiting for anything.
        let max_in_crowd = match which {
            Which::Peers => IN_CROWD_PER_PROCESSOR * processors(),
            Which::Application => max_threads,
        };
        Lane {
            which,
            max_threads,
            max_in_crowd,
            is_crowded: AtomicBool::new(false),
            state: Mutex::new(State {
                queue: Queue::new(),
                threads: HashMap::new(),
                leaving: Vec::new(),
                serving: 0,
                closed: false,
            }),
            work: Condvar::new(),
            ended: Condvar::new(),
        }
    }

    /// Has tasks done in the order of their kind, by threads that run `work`, which is to take them by
    /// [`next`](Lane::next). Gives them back once the lane is closed.
    ///
    /// One thread always stays, and [`start`](Lane::start) has made sure that there is one: where
    /// the system refuses more, things are slow, but not stuck.
    pub(crate) fn push<W: FnOnce() + Send + 'static>(
        &self,
        tasks: impl IntoIterator<Item = Task>,
        work: impl Fn() -> W,
    ) -> Vec<Task> {
        let mut state = self.state.lock();
        if state.closed {
            drop(state); // tasks are dropped without it (I2)
            return tasks.into_iter().collect();
        }
        for task in tasks {
            state.queue.push(task.class(), task);
            if !self.has_use_for_another(&state) {
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
        self.note_crowd(&state);
        Vec::new()
    }

    fn note_crowd(&self, state: &State) {
        let is_crowded = self.has_crowd(state);
        // Seldom changed, so that it stays in the caches of all who look.
        if self.is_crowded.load(Ordering::Relaxed) != is_crowded {
            self.is_crowded.store(is_crowded, Ordering::Relaxed);
        }
    }

    /// Whether more connections have something to do than there may be threads.
    fn has_crowd(&self, state: &State) -> bool {
        state.queue.len() + state.serving > self.max_threads
    }

    fn has_use_for_another(&self, state: &State) -> bool {
        state.serving < self.max_in_crowd || !self.has_crowd(state)
    }

    pub(crate) fn start(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
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
    pub(crate) fn is_crowded(&self) -> bool {
        self.is_crowded.load(Ordering::Relaxed)
    }

    /// The next task for the thread that calls, or `None` if that thread is to end. It tells whether it
    /// has done one.
    pub(crate) fn next(&self, has_served: bool) -> Option<Task> {
        let mut state = self.state.lock();
        state.serving -= usize::from(has_served);
        loop {
            if state.closed {
                break;
            }
            if let Some(task) = self.take(&mut state) {
                return Some(task);
            }
            let until = Instant::now() + IDLE_LIFE;
            wait_until(&self.work, &mut state, Some(until));
            let is_idle = state.queue.len() == 0 && Instant::now() >= until;
            if is_idle && state.threads.len() > 1 {
                break;
            }
        }
        let thread = state.threads.remove(&thread::current().id());
        state.leaving.extend(thread);
        self.ended.notify_all();
        None
    }

    /// The next task, if there is one and the thread that calls is of use.
    fn take(&self, state: &mut State) -> Option<Task> {
        if !self.has_use_for_another(state) {
            return None;
        }
        let had_crowd = self.is_crowded();
        let task = state.queue.pop()?;
        state.serving += 1;
        self.note_crowd(state);
        if had_crowd && !self.is_crowded() {
            // They were not called while it lasted.
            for _ in 0..state.queue.len() {
                self.work.notify_one();
            }
        }
        Some(task)
    }

    /// Has all threads end once they are done with what they do. Gives what is left to be dropped.
    pub(crate) fn close(&self) -> impl Sized + use<> {
        let mut state = self.state.lock();
        state.closed = true;
        self.work.notify_all();
        std::mem::replace(&mut state.queue, Queue::new())
    }

    /// Waits for all threads to end, until `until`. Tells how many are left, besides the one that
    /// calls, which cannot wait for itself: they are left alone.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_known_have_half_of_the_turns_and_nobody_waits_for_ever() {
        let mut queue = Queue::new();
        for number in 0..100 {
            queue.push(Class::Other, ("other", number));
            queue.push(Class::Chore, ("chore", number));
            queue.push(Class::Known, ("known", number));
        }
        let first: Vec<_> = (0..40).filter_map(|_| queue.pop()).collect();
        for (class, count) in [("known", 20), ("other", 10), ("chore", 10)] {
            let of_class = first.iter().filter(|(other, _)| *other == class);
            let numbers: Vec<_> = of_class.map(|(_, number)| *number).collect();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "{class}");
        }
        assert_eq!(queue.len(), 260);
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 260);
    }
}
