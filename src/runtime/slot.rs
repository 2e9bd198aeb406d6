//! `Slot`: a one-shot result, handed from one thread to another. The receiver waits for it or leaves a
//! callback.
//!
//! All threads that wait for a result wait here: the waiters of a flight, the caller of a pooled load
//! and the answer to a peer.

use crate::runtime::clock::{Clock, Deadline, Sleeper};
use crate::runtime::sync::{Arc, Condvar, Mutex};

pub(crate) struct Slot<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

enum State<T> {
    Empty,
    /// No thread waits: the thread that fills the slot calls this, without any lock held (I1).
    Callback(Box<dyn FnOnce(T) + Send>),
    Full(T),
    /// The result was taken or is no longer wanted: a thread that fills the slot gets it back.
    Closed,
}

/// What a slot held when it was closed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Closed<T> {
    /// The result, which nobody had taken.
    Full(T),
    /// No result.
    Unfilled,
    /// It was closed before: the result was taken, or a waiter gave up.
    Before,
}

impl<T: Send + 'static> Slot<T> {
    pub(crate) fn new() -> Arc<Slot<T>> {
        Arc::new(Slot {
            state: Mutex::new(State::Empty),
            filled: Condvar::new(),
        })
    }

    /// Hands `result` over; gives it back if nobody wants it any more.
    pub(crate) fn fill(&self, result: T) -> Result<(), T> {
        let mut state = self.state.lock();
        match std::mem::replace(&mut *state, State::Closed) {
            State::Empty => {
                *state = State::Full(result);
                self.filled.notify_one();
                Ok(())
            }
            State::Callback(call) => {
                drop(state); // the callback is user code (I1)
                call(result);
                Ok(())
            }
            full @ State::Full(_) => {
                *state = full;
                Err(result)
            }
            State::Closed => Err(result),
        }
    }

    /// Blocks until the result is here. `None` once `deadline` has come: the slot is then closed.
    pub(crate) fn wait(self: &Arc<Self>, clock: &Clock, deadline: Deadline) -> Option<T> {
        let mut state = self.state.lock();
        loop {
            if let Some(result) = take(&mut state) {
                return Some(result);
            }
            if !deadline.is_never() && deadline.is_past(clock.now()) {
                *state = State::Closed;
                return None;
            }
            clock.wait(&self.filled, &mut state, deadline, || {
                Arc::downgrade(&(Arc::clone(self) as Arc<dyn Sleeper>))
            });
        }
    }

    /// Has `callback` called with the result: by this thread and at once if it is here already.
    pub(crate) fn then(&self, callback: impl FnOnce(T) + Send + 'static) {
        if let Some((callback, result)) = self.then_later(callback, |callback| callback) {
            callback(result);
        }
    }

    /// Has `later(callback)` called with the result, by the thread that fills the slot. If the result
    /// is here already, returns it with the callback and calls neither.
    pub(crate) fn then_later<C, F>(&self, callback: C, later: impl FnOnce(C) -> F) -> Option<(C, T)>
    where
        F: FnOnce(T) + Send + 'static,
    {
        let mut state = self.state.lock();
        if let Some(result) = take(&mut state) {
            return Some((callback, result));
        }
        if matches!(*state, State::Empty) {
            *state = State::Callback(Box::new(later(callback)));
        }
        None
    }

    /// Whether a callback is to be called.
    pub(crate) fn calls_back(&self) -> bool {
        matches!(*self.state.lock(), State::Callback(_))
    }

    /// Closes the slot and tells what it held.
    pub(crate) fn close(&self) -> Closed<T> {
        let previous = std::mem::replace(&mut *self.state.lock(), State::Closed);
        match previous {
            State::Full(result) => Closed::Full(result),
            State::Closed => Closed::Before,
            State::Empty | State::Callback(_) => Closed::Unfilled,
        }
    }
}

/// Takes the result if it is there, and closes the slot.
fn take<T>(state: &mut State<T>) -> Option<T> {
    match std::mem::replace(state, State::Closed) {
        State::Full(result) => Some(result),
        other => {
            *state = other;
            None
        }
    }
}

impl<T: Send + 'static> Sleeper for Slot<T> {
    fn wake(&self) {
        let _state = self.state.lock();
        self.filled.notify_all();
    }
}

/// Only names the type: the result may be a value of the user.
impl<T> std::fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn a_result_reaches_the_thread_that_waits() {
        let slot = Slot::new();
        let filler = Arc::clone(&slot);
        let thread = std::thread::spawn(move || filler.fill(7));
        assert_eq!(slot.wait(&Clock::system(), Deadline::NEVER), Some(7));
        assert_eq!(thread.join().unwrap(), Ok(()));
    }

    #[test]
    fn a_result_reaches_the_callback_before_and_after() {
        let (sender, receiver) = mpsc::channel();
        let early = Slot::new();
        let to = sender.clone();
        early.then(move |result| to.send(result).unwrap());
        early.fill(1).unwrap();
        let late = Slot::new();
        late.fill(2).unwrap();
        late.then(move |result| sender.send(result).unwrap());
        assert_eq!(receiver.iter().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn after_the_deadline_the_filler_gets_the_result_back() {
        let clock = Clock::manual();
        let slot = Slot::new();
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        let waiter = Arc::clone(&slot);
        let time = clock.clone();
        let thread = std::thread::spawn(move || waiter.wait(&time, deadline));
        clock.advance(Duration::from_secs(2));
        assert_eq!(thread.join().unwrap(), None);
        assert_eq!(slot.fill(9), Err(9));
    }

    #[test]
    fn a_full_slot_keeps_the_first_result() {
        let slot = Slot::new();
        assert_eq!(slot.fill(1), Ok(()));
        assert_eq!(slot.fill(2), Err(2));
        assert_eq!(slot.close(), Closed::Full(1));
    }
}
