//! `Room`: how many bytes are on their way from the origin at once.
//!
//! The library charges values that wait for clients once their loads have brought them. Until then
//! they are in the hands of the loader, and every loader thread may have one.

use std::sync::{Condvar, Mutex, PoisonError};

pub(crate) struct Room {
    size: u64,
    free: Mutex<u64>,
    given_back: Condvar,
}

impl Room {
    pub(crate) fn new(size: u64) -> Room {
        Room {
            size,
            free: Mutex::new(size),
            given_back: Condvar::new(),
        }
    }

    /// Waits until there is room for so many bytes, or for all that fit if they are more. Whoever
    /// has room does not take any again before it has given it back: so nobody waits for himself.
    pub(crate) fn take(&self, bytes: u64) -> Part<'_> {
        let bytes = bytes.min(self.size);
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .given_back
            .wait_while(free, |free| *free < bytes)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= bytes;
        Part { room: self, bytes }
    }
}

/// A part of the room. Dropped, it is given back.
pub(crate) struct Part<'a> {
    room: &'a Room,
    bytes: u64,
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        let free = self.room.free.lock();
        *free.unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.room.given_back.notify_all();
    }
}
