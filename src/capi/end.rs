//! `End`: what of a node may still call into C, and the wait until nothing does.
//!
//! A thread of a node may be the last to hold a group, on its way out of a loader, and then it calls
//! the destructor. A host whose functions must not be called after some moment, such as an interpreter
//! that ends, has to know when that is over. So whoever frees the last handle waits for it, bounded: a
//! loader that hangs cannot be stopped.

use std::time::Duration;

use crate::node::{Node, WeakNode};
use crate::runtime::clock::{Clock, Deadline, Sleeper};
use crate::runtime::sync::{Arc, Condvar, Mutex};

/// How long a function waits that frees a handle and is not told how long.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct End {
    node: WeakNode,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Loaders whose destructors have not returned.
    loaders: usize,
    /// Groups whose handles are not freed: their loaders stay.
    groups: usize,
}

impl End {
    pub(super) fn of(node: &Node) -> Arc<End> {
        Arc::new(End {
            node: node.downgrade(),
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(super) fn begin_loader(self: &Arc<Self>) -> LiveLoader {
        self.state.lock().loaders += 1;
        LiveLoader(Arc::clone(self))
    }

    pub(super) fn begin_group(&self) {
        self.state.lock().groups += 1;
    }

    pub(super) fn end_group(&self) {
        self.state.lock().groups -= 1;
    }

    /// Waits until no thread is inside the loader or the destructor of a group without a handle, no
    /// longer than `timeout`; tells whether that is so. Does not wait while the node is there still,
    /// and with it all its groups: then the last handle to it will.
    pub(super) fn wait(self: &Arc<Self>, timeout: Duration) -> bool {
        if self.node.upgrade().is_some() {
            return true;
        }
        let clock = Clock::system();
        let deadline = Deadline::after(clock.now(), timeout);
        let mut state = self.state.lock();
        while state.loaders > state.groups && !deadline.is_past(clock.now()) {
            clock.wait(&self.changed, &mut state, deadline, || {
                let sleeper: Arc<dyn Sleeper> = Arc::clone(self) as _;
                Arc::downgrade(&sleeper)
            });
        }
        state.loaders <= state.groups
    }
}

impl Sleeper for End {
    fn wake(&self) {
        let _state = self.state.lock();
        self.changed.notify_all();
    }
}

/// A loader that can be called, until this is dropped, after its destructor has returned.
pub(super) struct LiveLoader(Arc<End>);

impl Drop for LiveLoader {
    fn drop(&mut self) {
        self.0.state.lock().loaders -= 1;
        self.0.changed.notify_all();
    }
}
