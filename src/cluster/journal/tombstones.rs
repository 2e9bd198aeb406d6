//! `Tombstones`: which keys were removed recently, and by which change.

use std::collections::HashMap;
use std::time::Instant;

use super::MEMORY;
use crate::cache::key::HandThrough;
use crate::protocol::Stamp;
use crate::protocol::hash::hash_of_key;

/// The most tombstones of a generation: as many as a hash table of 65,536 slots holds. A model has few
/// keys.
pub(super) const MAX_TOMBSTONES: usize = 57_344;

// A hash table is at most seven eighths full.
const _: () = assert!(MAX_TOMBSTONES == 65_536 / 8 * 7);

/// The most senders whose floor is kept.
const MAX_SENDERS: usize = 1_024;

/// What the sender of a change says of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChangeInfo {
    /// `None`: the sender does not number its changes.
    pub(crate) stamp: Option<Stamp>,
    /// The fingerprint of the sender's ring. The sender has sent the change to all members of it.
    pub(crate) ring: Option<u64>,
}

/// What is known of the removal of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// The key was not removed recently.
    Never,
    /// A node that has carried out this removal has no older value. The removal was sent to the
    /// members of this ring.
    By(Stamp, RingTag),
    /// The key may have been removed, and no node can tell whether it has carried that removal out.
    Perhaps,
}

/// The ring whose members have received a removal: part of its fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingTag(u32);

impl RingTag {
    /// Only another node knows the ring.
    const ANY: RingTag = RingTag(0);

    fn of(fingerprint: u64) -> RingTag {
        RingTag((fingerprint as u32).max(1))
    }

    /// Whether it may have been the ring with this fingerprint.
    pub(crate) fn may_be(self, fingerprint: u64) -> bool {
        self == RingTag::ANY || self == RingTag::of(fingerprint)
    }
}

/// The last removal of a key.
#[derive(Clone, Copy, Debug)]
struct Tombstone {
    /// 0: not known.
    origin: u64,
    sequence: u64,
    /// Seconds since the journal was created, rounded up.
    at: u32,
    /// Whether the removal has been carried out here: no value in memory is older.
    is_applied: bool,
    ring: RingTag,
    /// Whether no node can tell that it has carried the removal out.
    is_unsure: bool,
}

impl Tombstone {
    fn stamp(&self) -> Stamp {
        Stamp {
            origin: self.origin,
            sequence: self.sequence,
        }
    }

    fn is_recent(&self, second: u32) -> bool {
        u64::from(second.saturating_sub(self.at)) <= MEMORY.as_secs()
    }

    /// Whether this is a change of the same sender, the same or a later one.
    fn covers(&self, stamp: Stamp) -> bool {
        self.origin == stamp.origin && self.sequence >= stamp.sequence
    }
}

/// The highest sequence number of a sender whose tombstone is dropped, and when it was.
#[derive(Clone, Copy, Debug)]
struct Floor {
    sequence: u64,
    at: Instant,
}

type Generation = HashMap<u64, Tombstone, HandThrough>;

/// Tombstones in two generations, by the [hashes](hash_of) of what was removed: what is in neither has
/// not been removed since `forgotten`.
pub(super) struct Tombstones {
    created: Instant,
    young: Generation,
    young_since: Option<Instant>,
    old: Generation,
    old_until: Option<Instant>,
    /// Until when a removal may have been forgotten.
    forgotten: Option<Instant>,
    /// By sender: its changes up to this sequence number may be older than a dropped tombstone.
    floors: HashMap<u64, Floor, HandThrough>,
}

impl Tombstones {
    pub(super) fn new(created: Instant) -> Tombstones {
        Tombstones {
            created,
            young: Generation::default(),
            young_since: None,
            old: Generation::default(),
            old_until: None,
            forgotten: None,
            floors: HashMap::default(),
        }
    }

    /// Adds the tombstone of a change.
    pub(super) fn add(&mut self, hash: u64, info: ChangeInfo, now: Instant) {
        let tombstone = self.tombstone(info, now);
        self.insert(hash, tombstone, now);
    }

    /// Takes all keys of all groups for removed.
    pub(super) fn forget_all(&mut self, stamp: Option<Stamp>, now: Instant) {
        self.forgotten = Some(now);
        if let Some(stamp) = stamp {
            self.raise_floor(stamp, now);
        }
    }

    /// Notes that a change has been carried out here.
    pub(super) fn mark_applied(&mut self, hash: u64, stamp: Stamp) {
        if let Some(tombstone) = self.young.get_mut(&hash) {
            // A later change of the same sender marks its tombstone itself.
            tombstone.is_applied |=
                tombstone.origin == stamp.origin && tombstone.sequence == stamp.sequence;
        }
    }

    /// Whether a key was removed recently.
    pub(super) fn removed(&self, hashes: [u64; 2], now: Instant) -> Removed {
        if self.has_forgotten(now) {
            return Removed::Perhaps;
        }
        let second = self.second(now);
        let tombstones = hashes.iter().filter_map(|hash| self.find(*hash));
        let recent = tombstones.filter(|tombstone| tombstone.is_recent(second));
        recent.fold(Removed::Never, |removed, tombstone| match removed {
            _ if tombstone.is_unsure => Removed::Perhaps,
            Removed::Never => Removed::By(tombstone.stamp(), tombstone.ring),
            Removed::By(stamp, ring) if stamp.origin == tombstone.origin => {
                if stamp.sequence > tombstone.sequence {
                    Removed::By(stamp, ring)
                } else {
                    Removed::By(tombstone.stamp(), tombstone.ring)
                }
            }
            Removed::By(..) | Removed::Perhaps => Removed::Perhaps,
        })
    }

    /// Whether this removal of a key has been carried out here.
    pub(super) fn has_applied(&self, hashes: [u64; 2], stamp: Stamp) -> bool {
        hashes
            .into_iter()
            .filter_map(|hash| self.find(hash))
            .any(|tombstone| tombstone.is_applied && tombstone.covers(stamp))
    }

    /// Whether a later change of this sender has arrived, or may have.
    pub(super) fn has_later(&self, hashes: [u64; 2], stamp: Stamp) -> bool {
        let floor = self.floors.get(&stamp.origin);
        floor.is_some_and(|floor| floor.sequence >= stamp.sequence)
            || hashes
                .into_iter()
                .filter_map(|hash| self.find(hash))
                .any(|tombstone| tombstone.covers(stamp))
    }

    /// All recent tombstones; `None` if there are more than `max`, or some were forgotten.
    pub(super) fn all(&self, max: usize, now: Instant) -> Option<Vec<(u64, Stamp)>> {
        if self.has_forgotten(now) {
            return None;
        }
        let second = self.second(now);
        let old = self.old.iter();
        let old = old.filter(|(hash, _)| !self.young.contains_key(hash));
        let all = self.young.iter().chain(old);
        let recent = all.filter(|(_, tombstone)| tombstone.is_recent(second));
        let stamps: Vec<_> = recent
            .map(|(&hash, tombstone)| (hash, tombstone.stamp()))
            .take(max + 1)
            .collect();
        (stamps.len() <= max).then_some(stamps)
    }

    /// Adds the tombstones of another node; `None` if it could not name them.
    pub(super) fn merge(&mut self, stamps: Option<Vec<(u64, Stamp)>>, now: Instant) {
        let Some(stamps) = stamps else {
            self.forgotten = Some(now);
            return;
        };
        for (hash, stamp) in stamps {
            if self.find(hash).is_some_and(|known| known.covers(stamp)) {
                continue;
            }
            let info = ChangeInfo {
                stamp: (stamp.origin != 0).then_some(stamp),
                ring: None,
            };
            let tombstone = Tombstone {
                ring: RingTag::ANY,
                is_unsure: info.stamp.is_none(),
                ..self.tombstone(info, now)
            };
            self.insert(hash, tombstone, now);
        }
    }

    fn tombstone(&self, info: ChangeInfo, now: Instant) -> Tombstone {
        let stamp = info.stamp.unwrap_or(Stamp {
            origin: 0,
            sequence: 0,
        });
        Tombstone {
            origin: stamp.origin,
            sequence: stamp.sequence,
            at: self.second(now),
            is_applied: false,
            ring: info.ring.map_or(RingTag::ANY, RingTag::of),
            is_unsure: info.stamp.is_none() || info.ring.is_none(),
        }
    }

    /// Seconds since the journal was created, rounded up, so that nothing is forgotten too early.
    fn second(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.created).as_secs() + 1;
        u32::try_from(since).unwrap_or(u32::MAX)
    }

    /// Whether a recent removal may have been forgotten.
    fn has_forgotten(&self, now: Instant) -> bool {
        self.forgotten.is_some_and(|at| is_recent(at, now))
    }

    fn find(&self, hash: u64) -> Option<&Tombstone> {
        self.young.get(&hash).or_else(|| self.old.get(&hash))
    }

    /// Inserts a tombstone. One of the same origin with a higher sequence number stays.
    fn insert(&mut self, hash: u64, mut tombstone: Tombstone, now: Instant) {
        self.turn_generations(now);
        if let Some(before) = self.find(hash).copied() {
            if before.origin != tombstone.origin {
                self.raise_floor(before.stamp(), now);
                // No node can tell that it has carried out both.
                tombstone.is_unsure |= before.is_recent(tombstone.at);
            } else if before.sequence > tombstone.sequence {
                tombstone = Tombstone {
                    at: tombstone.at,
                    ..before
                };
            } else {
                // A node that has carried this one out need not have carried the other sender's out.
                tombstone.is_unsure |= before.is_unsure && before.is_recent(tombstone.at);
            }
        }
        self.young.insert(hash, tombstone);
        debug_assert!(self.young.len() <= MAX_TOMBSTONES && self.old.len() <= MAX_TOMBSTONES);
    }

    /// Begins a new generation when the young one is full, or has lasted long enough.
    fn turn_generations(&mut self, now: Instant) {
        let since = *self.young_since.get_or_insert(now);
        let is_full = self.young.len() >= MAX_TOMBSTONES;
        if !is_full && now.saturating_duration_since(since) <= MEMORY {
            return;
        }
        let dropped = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        if self.old_until.is_some_and(|at| is_recent(at, now)) && !dropped.is_empty() {
            self.forgotten = self.old_until;
        }
        self.old_until = Some(now);
        self.young_since = Some(now);
        for tombstone in dropped.values() {
            self.raise_floor(tombstone.stamp(), now);
        }
    }

    /// Notes that the tombstone with this stamp is dropped.
    fn raise_floor(&mut self, stamp: Stamp, now: Instant) {
        if stamp.origin == 0 {
            return;
        }
        if self.floors.len() >= MAX_SENDERS && !self.floors.contains_key(&stamp.origin) {
            let oldest = self.floors.iter().min_by_key(|(_, floor)| floor.at);
            let oldest = oldest.map(|(&origin, _)| origin);
            oldest.and_then(|origin| self.floors.remove(&origin));
        }
        let floor = self.floors.entry(stamp.origin).or_insert(Floor {
            sequence: 0,
            at: now,
        });
        floor.sequence = floor.sequence.max(stamp.sequence);
        floor.at = now;
        debug_assert!(self.floors.len() <= MAX_SENDERS);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

/// What a tombstone of a key, or of a whole group, is found by: no group has an empty name.
pub(super) fn hash_of(group: &str, key: Option<&str>) -> u64 {
    match key {
        Some(key) => hash_of_key(group, key),
        None => hash_of_key("", group),
    }
}

/// What the removals of a key are found by: those of the key itself, and those of its whole group.
pub(super) fn hashes_of(group: &str, key: &str) -> [u64; 2] {
    [hash_of(group, Some(key)), hash_of(group, None)]
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) <= MEMORY
}
