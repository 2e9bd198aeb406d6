//! `Log`: the removals that a node has made, in their order.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use crate::runtime::sync::Arc;

/// The charge of an entry besides its key and the name of its group, in bytes.
const ENTRY_BYTES: usize = 96;

/// A removal in the log. It never moves: a key that is removed twice has two entries, so that a peer
/// with a pending range of the log has these entries pending, and nothing else.
pub(super) struct LogEntry {
    pub(super) group: Arc<str>,
    /// `None`: all keys.
    pub(super) key: Option<Arc<str>>,
    pub(super) at: Instant,
}

impl LogEntry {
    /// The name of the group is shared mostly, but need not be.
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.group.len() + self.key.as_deref().map_or(0, str::len)
    }
}

/// Entries with their sequence numbers, which increase, with gaps.
#[derive(Default)]
pub(super) struct Log {
    entries: VecDeque<(u64, LogEntry)>,
    bytes: usize,
}

impl Log {
    /// Appends an entry with a sequence number higher than all others.
    pub(super) fn push(&mut self, sequence: u64, entry: LogEntry) {
        debug_assert!(self.entries.back().is_none_or(|(last, _)| *last < sequence));
        self.bytes += entry.bytes();
        self.entries.push_back((sequence, entry));
    }

    pub(super) fn first(&self) -> Option<&(u64, LogEntry)> {
        self.entries.front()
    }

    pub(super) fn pop_first(&mut self) -> Option<(u64, LogEntry)> {
        let (sequence, entry) = self.entries.pop_front()?;
        self.bytes -= entry.bytes();
        debug_assert!(self.bytes >= self.entries.len() * ENTRY_BYTES);
        Some((sequence, entry))
    }

    /// The entries of a range, in their order.
    pub(super) fn range(&self, range: Range<u64>) -> impl Iterator<Item = &(u64, LogEntry)> {
        let begin = self.entries.partition_point(|(at, _)| *at < range.start);
        let entries = self.entries.range(begin..);
        entries.take_while(move |(at, _)| *at < range.end)
    }

    /// The charge of all entries, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}
