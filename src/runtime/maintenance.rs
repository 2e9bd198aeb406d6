//! `Maintenance`: a background thread of a node, started when there is first something to do.
//!
//! It sleeps until the next thing is due, and no sooner: to be woken for the same instant many times
//! is to be woken once.

use std::time::Duration;

use crate::runtime::clock::{Clock, Deadline, Sleeper};
use crate::runtime::sync::{Arc, Condvar, Mutex, OnceCell, thread};
use crate::runtime::user_code;

/// How long the maintenance waits after a round that panicked.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) struct Maintenance {
    name: &'static str,
    bell: Arc<Bell>,
    thread: OnceCell<thread::JoinHandle<()>>,
}

struct Bell {
    state: Mutex<BellState>,
    changed: Condvar,
}

struct BellState {
    /// When the next round is due.
    due: Deadline,
    stopped: bool,
}

impl Maintenance {
    /// A maintenance whose thread has this name.
    pub(crate) fn new(name: &'static str) -> Maintenance {
        Maintenance {
            name,
            bell: Arc::new(Bell {
                state: Mutex::new(BellState {
                    due: Deadline::NEVER,
                    stopped: false,
                }),
                changed: Condvar::default(),
            }),
            thread: OnceCell::default(),
        }
    }

    /// Says that there is something to do at `due`. `work` does it on the thread of the maintenance: it
    /// says when there is more, or `None` to end.
    pub(crate) fn wake<W>(&self, clock: &Clock, due: Deadline, work: impl FnOnce() -> W)
    where
        W: FnMut() -> Option<Deadline> + Send + 'static,
    {
        let started = self.thread.get_or_try_init(|| {
            let (bell, clock, work) = (Arc::clone(&self.bell), clock.clone(), work());
            thread::Builder::new()
                .name(self.name.to_owned())
                .spawn(move || keep(&bell, &clock, work))
        });
        if let Err(error) = started {
            // The next one to wake it tries again.
            log::warn!(target: "groupcache", error:% = error; "cannot start the maintenance thread");
        }
        self.bell.set(due);
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.bell.state.lock().stopped = true;
        self.bell.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // The last handle may fall on the maintenance itself, which then ends by itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn keep(bell: &Arc<Bell>, clock: &Clock, mut work: impl FnMut() -> Option<Deadline>) {
    while bell.wait(clock) {
        match guarded(&mut work) {
            Some(Some(due)) => bell.set(due),
            Some(None) => return,
            None => bell.set(Deadline::after(clock.now(), PAUSE)),
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

impl Bell {
    /// Has a round begin at `due`, or earlier.
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

impl Sleeper for Bell {
    fn wake(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }
}
