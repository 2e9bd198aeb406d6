//! `Maintenance`: a background thread of a node, started when there is first something to do.
//!
//! It sleeps until the next round is due: many requests for the same instant wake it once.

use std::time::Duration;

use crate::runtime::clock::{Clock, Deadline, Sleeper};
use crate::runtime::sync::{Arc, Condvar, Mutex, OnceCell, thread};
use crate::runtime::user_code;

/// How long the maintenance waits after a round that panicked.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Maintenance {
    name: &'static str,
    timer: Arc<Timer>,
    thread: OnceCell<thread::JoinHandle<()>>,
}

/// When the next round of a maintenance is due.
struct Timer {
    /// Whether a round is due at any time, and not because of something that has happened.
    is_regular: bool,
    state: Mutex<TimerState>,
    changed: Condvar,
}

struct TimerState {
    due: Deadline,
    stopped: bool,
}

impl Maintenance {
    /// A maintenance whose thread has this name, with rounds where something has happened.
    pub(crate) fn new(name: &'static str) -> Maintenance {
        Maintenance::of(name, false)
    }

    /// The same, with rounds at all times.
    pub(crate) fn regular(name: &'static str) -> Maintenance {
        Maintenance::of(name, true)
    }

    fn of(name: &'static str, is_regular: bool) -> Maintenance {
        Maintenance {
            name,
            timer: Arc::new(Timer {
                is_regular,
                state: Mutex::new(TimerState {
                    due: Deadline::NEVER,
                    stopped: false,
                }),
                changed: Condvar::default(),
            }),
            thread: OnceCell::default(),
        }
    }

    /// Requests a round at `due`. The first call starts the thread with the work that `work` makes. A
    /// round returns when the next one is due, or `None` to end the thread.
    pub(crate) fn wake<W>(&self, clock: &Clock, due: Deadline, work: impl FnOnce() -> W)
    where
        W: FnMut() -> Option<Deadline> + Send + 'static,
    {
        let started = self.thread.get_or_try_init(|| {
            let (timer, clock, work) = (Arc::clone(&self.timer), clock.clone(), work());
            thread::Builder::new()
                .name(self.name.to_owned())
                .spawn(move || run_rounds(&timer, &clock, work))
        });
        if let Err(error) = started {
            // The next call tries again.
            log::warn!(target: "groupcache", error:% = error; "cannot start the maintenance thread");
        }
        self.timer.set(due);
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.timer.state.lock().stopped = true;
        self.timer.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // The maintenance may drop the last handle itself: it then ends without being joined.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn run_rounds(timer: &Arc<Timer>, clock: &Clock, mut work: impl FnMut() -> Option<Deadline>) {
    while timer.wait(clock) {
        match guarded(&mut work) {
            Some(Some(due)) => timer.set(due),
            Some(None) => return,
            None => timer.set(Deadline::after(clock.now(), PAUSE)),
        }
    }
}

/// Runs user code on a thread that must not end: `None` if it panicked.
pub(crate) fn guarded<R>(work: impl FnOnce() -> R) -> Option<R> {
    let report = |panicked: &user_code::Panicked| {
        log::error!(
            target: "groupcache", message:% = panicked.0;
            "user code panicked on a thread of the node"
        );
    };
    user_code::call(work).inspect_err(report).ok()
}

impl Timer {
    /// Has a round begin at `due` or earlier.
    fn set(&self, due: Deadline) {
        let mut state = self.state.lock();
        let earlier = state.due.earlier(due);
        if earlier != state.due {
            state.due = earlier;
            self.changed.notify_all();
        }
    }

    /// Waits until a round is due; false once stopped.
    fn wait(self: &Arc<Self>, clock: &Clock) -> bool {
        let mut state = self.state.lock();
        while !state.stopped && !state.due.is_past(clock.now()) {
            let due = state.due;
            clock.wait(&self.changed, &mut state, due, || {
                Arc::downgrade(&(Arc::clone(self) as Arc<dyn Sleeper>))
            });
        }
        state.due = Deadline::NEVER;
        !state.stopped
    }
}

impl Sleeper for Timer {
    fn wake(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }

    fn counts(&self) -> bool {
        !self.is_regular
    }
}
