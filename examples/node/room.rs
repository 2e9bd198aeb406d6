//! `Room`: how many bytes of one kind there may be at once.
//!
//! The library charges values that wait for clients once their loads have brought them. Until then
//! they are in the hands of the loader, and every loader thread may have one; answers that this program
//! makes of several values are its own.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) struct Room {
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    free: u64,
    /// Who comes first has room first, however much that is.
    queue: VecDeque<u64>,
    last: u64,
}

impl Room {
    pub(crate) fn new(size: u64) -> Room {
        Room {
            size,
            state: Mutex::new(State {
                free: size,
                queue: VecDeque::new(),
                last: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits until there is room for so many bytes, or for all that fit if they are more, at most until
    /// `end`. Whoever has room does not take any again before it has given it back: so nobody waits for
    /// himself.
    pub(crate) fn take(&self, bytes: u64, end: Option<Instant>) -> Option<Part<'_>> {
        let bytes = bytes.min(self.size);
        let mut state = self.lock();
        state.last += 1;
        let own = state.last;
        state.queue.push_back(own);
        while state.queue.front() != Some(&own) || state.free < bytes {
            let Some(end) = end else {
                let woken = self.changed.wait(state);
                state = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.queue.retain(|&other| other != own);
                self.changed.notify_all();
                return None;
            }
            let woken = self.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.queue.pop_front();
        state.free -= bytes;
        self.changed.notify_all();
        Some(Part { room: self, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of the room. Dropped, it is given back.
pub(crate) struct Part<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.room.lock().free += self.bytes;
        self.room.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn no_more_is_given_than_there_is_and_none_waits_past_its_time() {
        let room = Room::new(10);
        let soon = || Some(Instant::now() + Duration::from_millis(20));
        let first = room.take(6, None);
        assert!(room.take(5, soon()).is_none());
        // One who gave up keeps nobody waiting.
        let second = room.take(4, soon());
        assert!(second.is_some());
        drop((first, second));
        assert!(room.take(u64::MAX, soon()).is_some());
    }

    #[test]
    fn who_needs_much_has_it_though_others_who_need_little_keep_coming() {
        let room = Room::new(10);
        let held = room.take(1, None);
        std::thread::scope(|scope| {
            let much = scope.spawn(|| room.take(10, None).is_some());
            while room.lock().queue.is_empty() {
                std::thread::yield_now();
            }
            assert!(room.take(1, Some(Instant::now())).is_none());
            drop(held);
            assert!(much.join().unwrap());
        });
        assert_eq!(room.lock().free, 10);
    }
}
