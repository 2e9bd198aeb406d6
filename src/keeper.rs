//! `Keeper`: the one background thread of a node, started when there is first something to do.

use std::time::Duration;

use crate::deadline::{Clock, Deadline, Sleeper};
use crate::sync::{Arc, Condvar, Mutex, OnceCell, thread};

/// How long the keeper waits before it comes back.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Keeper {
    bell: Arc<Bell>,
    thread: OnceCell<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Bell {
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Default)]
struct BellState {
    rung: bool,
    stopped: bool,
}

impl Keeper {
    /// Says that there is something to do. `work` does it on the thread of the keeper: it says
    /// whether to come back soon, or `None` to end.
    pub(crate) fn ring<W>(&self, clock: &Clock, work: impl FnOnce() -> W)
    where
        W: FnMut() -> Option<bool> + Send + 'static,
    {
        let started = self.thread.get_or_try_init(|| {
            let (bell, clock, work) = (Arc::clone(&self.bell), clock.clone(), work());
            thread::Builder::new()
                .name("groupcache-keeper".to_owned())
                .spawn(move || keep(&bell, &clock, work))
        });
        if let Err(error) = started {
            // The next one to ring tries again.
            log::warn!(target: "groupcache", error:% = error; "cannot start the keeper thread");
        }
        self.bell.state.lock().rung = true;
        self.bell.rung.notify_all();
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.bell.state.lock().stopped = true;
        self.bell.rung.notify_all();
        if let Some(thread) = self.thread.take() {
            // The last handle may fall on the keeper itself, which then ends by itself.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

fn keep(bell: &Arc<Bell>, clock: &Clock, mut work: impl FnMut() -> Option<bool>) {
    let mut come_back = false;
    loop {
        let pause = if come_back {
            Deadline::after(clock.now(), PAUSE)
        } else {
            Deadline::NEVER
        };
        if !bell.wait(clock, pause) {
            return;
        }
        match work() {
            Some(soon) => come_back = soon,
            None => return,
        }
    }
}

impl Bell {
    /// Waits until rung or `deadline`; false once stopped.
    fn wait(self: &Arc<Self>, clock: &Clock, deadline: Deadline) -> bool {
        let mut state = self.state.lock();
        while !state.stopped && !std::mem::take(&mut state.rung) && !deadline.is_past(clock.now()) {
            clock.wait(&self.rung, &mut state, deadline, || {
                Arc::downgrade(&(Arc::clone(self) as Arc<dyn Sleeper>))
            });
        }
        !state.stopped
    }
}

impl Sleeper for Bell {
    fn wake(&self) {
        let _state = self.state.lock();
        self.rung.notify_all();
    }
}
