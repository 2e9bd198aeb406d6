//! `Capacity`: how many bytes a group may take, and which part of them is for what.

use super::absences::share_of;
use crate::cache::shards::ENTRY_OVERHEAD;
use crate::error::Error;
use crate::runtime::sync::Mutex;

pub(super) struct Capacity {
    bytes: Mutex<usize>,
    /// What the group was built with: the mirrored values may take this part of any capacity.
    hot_part: (usize, usize),
    keeps_absences: bool,
}

/// The bytes of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Main and hot values together.
    pub(super) values: usize,
    pub(super) hot: usize,
    pub(super) absences: usize,
}

impl Capacity {
    /// `bytes`, of which mirrored values may take `hot_bytes`.
    pub(super) fn new(bytes: usize, hot_bytes: usize, keeps_absences: bool) -> Capacity {
        debug_assert!(hot_bytes <= bytes);
        Capacity {
            bytes: Mutex::new(bytes),
            hot_part: (hot_bytes, bytes),
            keeps_absences,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        *self.bytes.lock()
    }

    pub(super) fn parts(&self) -> Parts {
        self.parts_of(self.bytes())
    }

    fn parts_of(&self, bytes: usize) -> Parts {
        let absences = if self.keeps_absences {
            share_of(bytes)
        } else {
            0
        };
        let values = bytes - absences;
        let (hot, of) = self.hot_part;
        let hot = bytes as u128 * hot as u128 / of as u128; // at most `bytes`
        Parts {
            values,
            hot: (hot as usize).min(values),
            absences,
        }
    }

    /// Changes the capacity, and has `apply` set the limits of the parts before another change can.
    pub(super) fn set(&self, bytes: usize, apply: impl FnOnce(Parts)) -> Result<(), Error> {
        check(bytes)?;
        let mut current = self.bytes.lock();
        *current = bytes;
        apply(self.parts_of(bytes));
        Ok(())
    }
}

/// Fails if a group of this capacity could keep nothing.
pub(super) fn check(bytes: usize) -> Result<(), Error> {
    if bytes > ENTRY_OVERHEAD {
        return Ok(());
    }
    let reason = format!(
        "{bytes} bytes hold no entry, whose overhead alone is {ENTRY_OVERHEAD}; give it more"
    );
    Err(Error::setting("capacity_bytes", reason))
}
