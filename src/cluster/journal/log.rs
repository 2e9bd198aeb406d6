//! `Log`: the removals that a node has made, in their order.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use crate::runtime::sync::Arc;

/// What an entry takes besides its key and the name of its group, in bytes.
const ENTRY_BYTES: usize = 96;

/// A removal in the log. It never moves: a key that is removed twice stands there twice, so that
/// who lacks a part of the log lacks what stands there, and nothing else.
pub(super) struct Logged {
    pub(super) group: Arc<str>,
    /// `None`: all keys.
    pub(super) key: Option<Arc<str>>,
    pub(super) at: Instant,
}

impl Logged {
    /// The name of the group is shared mostly, but need not be.
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.group.len() + self.key.as_deref().map_or(0, str::len)
    }
}

/// Entries with their places: higher for each, and not without gaps.
#[derive(Default)]
pub(super) struct Log {
    entries: VecDeque<(u64, Logged)>,
    bytes: usize,
}

impl Log {
    /// Appends an entry at a place after all others.
    pub(super) fn push(&mut self, place: u64, entry: Logged) {
        debug_assert!(self.entries.back().is_none_or(|(last, _)| *last < place));
        self.bytes += entry.bytes();
        self.entries.push_back((place, entry));
    }

    pub(super) fn first(&self) -> Option<&(u64, Logged)> {
        self.entries.front()
    }

    pub(super) fn pop_first(&mut self) -> Option<(u64, Logged)> {
        let (place, entry) = self.entries.pop_front()?;
        self.bytes -= entry.bytes();
        Some((place, entry))
    }

    /// The entries of a part, in their order.
    pub(super) fn part(&self, part: Range<u64>) -> impl Iterator<Item = &(u64, Logged)> {
        let begin = self.entries.partition_point(|(at, _)| *at < part.start);
        let entries = self.entries.range(begin..);
        entries.take_while(move |(at, _)| *at < part.end)
    }

    /// What the entries take, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
