//! `Capacity`: how many bytes a group may take, and which part of them is for what.

use super::absences::share_of;
use crate::cache::shards::ENTRY_OVERHEAD;
use crate::error::Error;
use crate::runtime::sync::Mutex;

pub(super) struct Capacity {
    bytes: Mutex<usize>,
    /// What the group was built with: the mirrored values may take this part of any capacity.
    hot_part: (usize, usize),
    /// The same for the values that are handed to deputies.
    deputy_part: (usize, usize),
    keeps_absences: bool,
}

/// The bytes of each part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Main and hot values together.
    pub(super) values: usize,
    pub(super) hot: usize,
    pub(super) absences: usize,
    /// The values that this node hands to the deputies of their keys. They are part of its own values.
    pub(super) for_deputies: usize,
}

impl Capacity {
    /// `bytes`, of which mirrored values may take `hot_bytes`, and of which as many as `deputy_bytes` are
    /// handed to deputies.
    pub(super) fn new(
        bytes: usize,
        hot_bytes: usize,
        deputy_bytes: usize,
        keeps_absences: bool,
    ) -> Capacity {
        debug_assert!(hot_bytes <= bytes && deputy_bytes <= bytes);
        Capacity {
            bytes: Mutex::new(bytes),
            hot_part: (hot_bytes, bytes),
            deputy_part: (deputy_bytes, bytes),
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
        Parts {
            values,
            hot: part_of(bytes, self.hot_part).min(values),
            absences,
            for_deputies: part_of(bytes, self.deputy_part).min(values),
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

/// The same part of `bytes` as that of the other capacity: at most `bytes`.
fn part_of(bytes: usize, (part, of): (usize, usize)) -> usize {
    (bytes as u128 * part as u128 / of as u128) as usize
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
