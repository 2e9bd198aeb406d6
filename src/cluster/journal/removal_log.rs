//! `RemovalLog`: the removals that a node has made, and what is left of those that the log has
//! truncated.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use super::MEMORY;
use super::log::{Log, LogEntry};
use crate::runtime::sync::Arc;

/// The maximum charge of the log in bytes: keys and overhead.
pub(super) const MAX_BYTES: usize = 1 << 20;

/// The most groups that are known by name to be truncated. Beyond, all groups are to be cleared. Each
/// named group costs a request.
pub(super) const MAX_TRUNCATED_GROUPS: usize = 16;

/// The most keys of a batch.
pub(crate) const MAX_BATCH_KEYS: usize = 64;

/// The pending removals of a peer, as far as one delivery covers them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RemovalBatch {
    /// The range of the log that is delivered with it. Never empty.
    pub(crate) range: Range<u64>,
    pub(crate) removals: Removals,
}

/// What a peer is to remove.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removals {
    /// These keys of this group.
    Keys(Arc<str>, Vec<Arc<str>>),
    /// All keys of these groups.
    Groups(Vec<Arc<str>>),
    /// All keys of all groups: too many are truncated to be known by name.
    All,
}

/// A removal of the log, for another node to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoggedRemoval {
    /// `None`: all groups.
    pub(crate) group: Option<Arc<str>>,
    /// `None`: all keys.
    pub(crate) key: Option<Arc<str>>,
    pub(crate) at: Instant,
}

/// The last entry of a group that has left the log.
#[derive(Clone, Copy, Debug)]
struct Truncation {
    sequence: u64,
    at: Instant,
}

impl Truncation {
    /// Both truncations as one: the higher sequence number and the later time, as entries that were
    /// taken over from another node have higher numbers than entries that are newer.
    fn merged(self, before: Option<Truncation>) -> Truncation {
        let Some(before) = before else {
            return self;
        };
        Truncation {
            sequence: self.sequence.max(before.sequence),
            at: self.at.max(before.at),
        }
    }
}

#[derive(Default)]
pub(super) struct RemovalLog {
    /// The sequence number of the last change of this node.
    last: u64,
    /// The first sequence numbers of the changes that their callers are still sending.
    in_progress: Vec<u64>,
    log: Log,
    /// The groups of which entries have left the log, with the last of these entries.
    truncated: BTreeMap<Arc<str>, Truncation>,
    /// The same of groups that are not known by name any more.
    truncated_unnamed: Option<Truncation>,
}

impl RemovalLog {
    pub(super) fn next_sequence(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The sequence number that the next change gets.
    pub(super) fn end(&self) -> u64 {
        self.last + 1
    }

    /// The end of what is delivered by the maintenance: from there on there are changes that their
    /// callers are still sending.
    pub(super) fn finished_end(&self) -> u64 {
        let first = self.in_progress.iter().copied().min();
        first.unwrap_or(self.end())
    }

    /// Appends a change of this node, which is in progress until it is
    /// [finished](RemovalLog::finish), and returns its range. The key `None` is all keys.
    pub(super) fn begin(
        &mut self,
        group: &Arc<str>,
        keys: Vec<Option<Arc<str>>>,
        now: Instant,
    ) -> Range<u64> {
        let first = self.end();
        self.in_progress.push(first);
        keys.into_iter()
            .for_each(|key| self.append(group, key, now));
        self.truncate(now);
        first..self.end()
    }

    /// Ends the change with this range: each peer has received it, or has it pending.
    pub(super) fn finish(&mut self, range: &Range<u64>) {
        if let Some(at) = self
            .in_progress
            .iter()
            .position(|&first| first == range.start)
        {
            self.in_progress.swap_remove(at);
        }
    }

    /// Appends removals of another node, and returns their range.
    pub(super) fn take_over(&mut self, removals: Vec<LoggedRemoval>, now: Instant) -> Range<u64> {
        let first = self.end();
        for removal in removals {
            match removal.group {
                Some(group) => self.append(&group, removal.key, removal.at),
                None => {
                    let sequence = self.next_sequence();
                    let at = removal.at;
                    let truncation = Truncation { sequence, at };
                    self.truncated_unnamed = Some(truncation.merged(self.truncated_unnamed));
                }
            }
        }
        self.truncate(now);
        first..self.end()
    }

    fn append(&mut self, group: &Arc<str>, key: Option<Arc<str>>, at: Instant) {
        let group = Arc::clone(group);
        let sequence = self.next_sequence();
        self.log.push(sequence, LogEntry { group, key, at });
    }

    /// Whether the log has an entry that removes this key, from this sequence number on.
    pub(super) fn has_removal(&self, group: &str, key: &str, from: u64) -> bool {
        let removes = |entry: &LogEntry| {
            *entry.group == *group && entry.key.as_deref().is_none_or(|other| other == key)
        };
        let mut later = self.log.range(from..u64::MAX);
        later.any(|(_, entry)| removes(entry))
    }

    /// Whether an entry of this group may have left the log, from this sequence number on.
    pub(super) fn may_be_truncated(&self, group: &str, from: u64) -> bool {
        self.truncations(from)
            .any(|(name, _)| name.is_none_or(|name| **name == *group))
    }

    /// The range that is pending for a peer of which nothing is known.
    pub(super) fn whole_range(&mut self, now: Instant) -> Range<u64> {
        self.truncate(now);
        let is_recent =
            |truncation: &&Truncation| now.saturating_duration_since(truncation.at) <= MEMORY;
        let truncations = self.truncated.values().chain(&self.truncated_unnamed);
        let recent = truncations.filter(is_recent);
        let truncated = recent.map(|truncation| truncation.sequence).min();
        let first = self.log.first().map(|&(sequence, _)| sequence);
        truncated.or(first).unwrap_or(self.end())..self.end()
    }

    /// The first batch of these ranges; `None` if there is nothing to deliver.
    pub(super) fn first_batch(&self, ranges: Vec<Range<u64>>) -> Option<RemovalBatch> {
        let end = self.finished_end();
        ranges
            .into_iter()
            .map(|range| range.start..range.end.min(end))
            .filter(|range| !range.is_empty())
            .find_map(|range| self.batch(range, end))
    }

    /// Whether there is a removal in these ranges, also one that its caller is still sending.
    pub(super) fn has_any(&self, ranges: Vec<Range<u64>>) -> bool {
        let Some(first) = ranges.first().map(|range| range.start) else {
            return false;
        };
        let has_entry = |range: Range<u64>| self.log.range(range).next().is_some();
        self.truncations(first).next().is_some() || ranges.into_iter().any(has_entry)
    }

    /// How many removals there are in these ranges.
    pub(super) fn count(&self, ranges: Vec<Range<u64>>) -> usize {
        let Some(first) = ranges.first() else {
            return 0;
        };
        let entries = |range: Range<u64>| self.log.range(range).count();
        self.truncations(first.start).count() + ranges.into_iter().map(entries).sum::<usize>()
    }

    /// The removals in these ranges.
    pub(super) fn removals(&self, ranges: &[Range<u64>]) -> Vec<LoggedRemoval> {
        let Some(first) = ranges.first() else {
            return Vec::new();
        };
        let truncated = self
            .truncations(first.start)
            .map(|(group, truncation)| LoggedRemoval {
                group: group.cloned(),
                key: None,
                at: truncation.at,
            });
        let entries = ranges
            .iter()
            .flat_map(|range| self.log.range(range.clone()));
        let logged = entries.map(|(_, entry)| LoggedRemoval {
            group: Some(Arc::clone(&entry.group)),
            key: entry.key.clone(),
            at: entry.at,
        });
        truncated.chain(logged).collect()
    }

    /// Drops what is too old, unless it is pending for a peer: `first_pending` is the first sequence
    /// number that is.
    pub(super) fn expire(&mut self, now: Instant, first_pending: u64) {
        self.truncate(now);
        // A change in progress may yet become pending.
        let first_pending = first_pending.min(self.finished_end());
        let is_kept = |truncation: &Truncation| {
            truncation.sequence >= first_pending
                || now.saturating_duration_since(truncation.at) <= MEMORY
        };
        self.truncated.retain(|_, truncation| is_kept(truncation));
        self.truncated_unnamed = self.truncated_unnamed.filter(is_kept);
    }

    /// The groups of which entries have left the log, from this sequence number on. Where the ranges
    /// of a peer reach so far back, these groups are cleared there.
    fn truncations(&self, from: u64) -> impl Iterator<Item = (Option<&Arc<str>>, Truncation)> {
        let named = self.truncated.iter();
        let named = named.map(|(group, truncation)| (Some(group), *truncation));
        let unnamed = self.truncated_unnamed.map(|truncation| (None, truncation));
        named
            .chain(unnamed)
            .filter(move |(_, truncation)| truncation.sequence >= from)
    }

    /// Drops the oldest entries until the log is within its bounds.
    fn truncate(&mut self, now: Instant) {
        let is_over = |log: &Log| {
            let is_old = |at| now.saturating_duration_since(at) > MEMORY;
            log.bytes() > MAX_BYTES || log.first().is_some_and(|(_, first)| is_old(first.at))
        };
        while is_over(&self.log) {
            let Some((sequence, entry)) = self.log.pop_first() else {
                break;
            };
            let truncation = Truncation {
                sequence,
                at: entry.at,
            };
            let is_named = self.truncated.contains_key(&entry.group);
            if is_named || self.truncated.len() < MAX_TRUNCATED_GROUPS {
                let before = self.truncated.get(&entry.group).copied();
                self.truncated
                    .insert(entry.group, truncation.merged(before));
            } else {
                self.truncated_unnamed = Some(truncation.merged(self.truncated_unnamed));
            }
        }
        debug_assert!(self.log.bytes() <= MAX_BYTES);
        debug_assert!(self.truncated.len() <= MAX_TRUNCATED_GROUPS);
    }

    /// The first batch of a range, which covers nothing from `end` on: what has left the log comes
    /// first.
    fn batch(&self, range: Range<u64>, end: u64) -> Option<RemovalBatch> {
        let is_in_range = |truncation: Truncation| truncation.sequence >= range.start;
        let truncated = || {
            self.truncated
                .iter()
                .filter(|(_, truncation)| is_in_range(**truncation))
        };
        // All truncated groups at once: which of their entries are pending for the peer is not known
        // any more.
        let last = truncated().map(|(_, truncation)| truncation.sequence).max();
        let unnamed = self.truncated_unnamed;
        let unnamed = unnamed.filter(|truncation| is_in_range(*truncation));
        let (last, removals) = match (unnamed, last) {
            // Where all groups are cleared, those that are known by name are among them.
            (Some(unnamed), last) => (last.unwrap_or(0).max(unnamed.sequence), Removals::All),
            (None, Some(last)) => {
                let groups = truncated().map(|(group, _)| Arc::clone(group));
                (last, Removals::Groups(groups.collect()))
            }
            (None, None) => self.first_keys(&range)?,
        };
        let covered = end.min(last + 1);
        let mut rest = self.log.range(covered..range.end);
        // Sequence numbers without an entry need no delivery.
        let covered = match rest.next() {
            Some(&(sequence, _)) => sequence,
            None => range.end.max(covered),
        };
        debug_assert!(range.start < covered && covered <= end);
        Some(RemovalBatch {
            range: range.start..covered,
            removals,
        })
    }

    /// The first entries of one group, and the sequence number of the last of them.
    fn first_keys(&self, range: &Range<u64>) -> Option<(u64, Removals)> {
        let mut entries = self.log.range(range.clone()).take(MAX_BATCH_KEYS);
        let &(mut last, ref first) = entries.next()?;
        let Some(key) = &first.key else {
            return Some((last, Removals::Groups(vec![Arc::clone(&first.group)])));
        };
        let mut keys = vec![Arc::clone(key)];
        for (sequence, entry) in entries {
            match &entry.key {
                Some(key) if entry.group == first.group => keys.push(Arc::clone(key)),
                _ => break,
            }
            last = *sequence;
        }
        Some((last, Removals::Keys(Arc::clone(&first.group), keys)))
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.log.bytes()
    }

    #[cfg(test)]
    pub(super) fn truncated_groups(&self) -> usize {
        self.truncated.len()
    }
}
