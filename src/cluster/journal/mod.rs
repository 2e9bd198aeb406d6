//! `Journal`: the removals of the last minutes, one log for all groups of a node.
//!
//! It answers three questions, all of them without a value, so that an answer that comes late or
//! twice only costs a load:
//!
//! * *What has this peer not been told?* The log has the removals that this node has made itself, in
//!   order; a peer has [`Lacks`]: the parts of the log that it has not been told. A peer that is unreachable
//!   for long costs a few numbers, not its keys. Where the log no longer reaches, the groups
//!   concerned are cleared there.
//! * *Was this key removed of late?* Each removal that this node has made or was told of leaves a
//!   [`Mark`], under a hash of group and key. The value of such a key is only taken over from a
//!   former owner that has carried out the same removal.
//! * *Is this change older than one that was carried out already?* Changes carry a [`Stamp`]. A `PUT`
//!   that was held up on its way is refused once a later change of the same sender has arrived.
//!
//! All parts are bounded: the log by [`MEMORY`] and [`MAX_BYTES`], the marks by two generations of
//! [`MAX_MARKS`] each. What is forgotten before its time is taken for removed.

mod log;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hasher};
use std::ops::Range;
use std::time::{Duration, Instant};

use self::log::{Log, Logged};
use crate::cache::key::HandThrough;
use crate::protocol::Stamp;
use crate::protocol::hash::hash_of_key;
use crate::runtime::sync::{Arc, AtomicBool, Mutex, Ordering, RandomState, RelaxedU64};

/// How long a removal is remembered.
pub(crate) const MEMORY: Duration = Duration::from_secs(600);

/// How many bytes the log has, keys and overhead.
const MAX_BYTES: usize = 1 << 20;

/// How many marks a generation has: as many as a table of 65,536 places holds. A model has few keys.
const MAX_MARKS: usize = 57_344;

/// Of how many groups it is known that they are to be cleared: of more, all are. Each is a request.
const MAX_CUT: usize = 16;

/// Of how many senders it is known what was forgotten.
const MAX_SENDERS: usize = 1_024;

/// How many parts of the log a peer may lack before they are taken for one.
const MAX_PARTS: usize = 32;

/// How many entries are delivered at once.
const PARCEL: usize = 64;

/// What the sender of a change says of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChangeInfo {
    /// `None` from one who does not number its changes.
    pub(crate) stamp: Option<Stamp>,
    /// The ring of the sender, whose members it has told.
    pub(crate) ring: Option<u64>,
}

/// What is known of the removal of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Removed {
    /// It was not removed of late.
    Never,
    /// Who has carried out this removal has no older value. The members of this ring were told.
    By(Stamp, Ring),
    /// It may have been removed; nobody can say whether he knows of it.
    Perhaps,
}

/// Why a set was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// This node has changed the key since: that holds.
    Rightly,
    /// It has not: this is a newer number for the set.
    Wrongly(Stamp),
    /// Nobody can say any more.
    Perhaps,
}

/// By which ring a removal was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ring(u32);

impl Ring {
    /// Another node knows.
    const ANY: Ring = Ring(0);

    fn of(fingerprint: u64) -> Ring {
        Ring((fingerprint as u32).max(1))
    }

    /// Whether it may have been the ring with this fingerprint.
    pub(crate) fn may_be(self, fingerprint: u64) -> bool {
        self == Ring::ANY || self == Ring::of(fingerprint)
    }
}

/// What a peer lacks, as far as one request tells it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parcel {
    /// The part of the log that is told by it.
    pub(crate) part: Range<u64>,
    pub(crate) change: Lacked,
}

/// A change that a peer lacks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lacked {
    Keys(Arc<str>, Vec<Arc<str>>),
    /// Everything of these groups is removed.
    Groups(Vec<Arc<str>>),
    /// So many groups that they are not known by name any more: all are cleared.
    All,
}

/// A removal of the log, for another node to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `None`: all groups.
    pub(crate) group: Option<Arc<str>>,
    /// `None`: all keys.
    pub(crate) key: Option<Arc<str>>,
    pub(crate) at: Instant,
}

/// The last removal of a key.
#[derive(Clone, Copy, Debug)]
struct Mark {
    /// 0 if it is not known.
    origin: u64,
    sequence: u64,
    /// Seconds since the journal began, rounded up.
    at: u32,
    /// Whether it has been carried out here: there is no value in memory that is older.
    is_applied: bool,
    ring: Ring,
    /// Whether nobody can say that he has carried it out.
    is_unsure: bool,
}

/// What was forgotten.
#[derive(Clone, Copy, Debug)]
struct Forgotten {
    sequence: u64,
    at: Instant,
}

type Marks = HashMap<u64, Mark, HandThrough>;

pub(crate) struct Journal {
    origin: u64,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the last change of this node.
    last: u64,
    /// Where the changes begin that are still being told, by those who make them.
    under_way: Vec<u64>,
    log: Log,
    /// The groups of which entries have left the log, with the last of them.
    cut: BTreeMap<Arc<str>, Forgotten>,
    /// The same of groups that are not known by name any more.
    cut_unnamed: Option<Forgotten>,
    /// The marks in two generations: what is in neither has not been removed since `forgotten`.
    young: Marks,
    young_since: Option<Instant>,
    old: Marks,
    old_until: Option<Instant>,
    forgotten: Option<Instant>,
    /// Changes of these origins up to this number may be older than a mark that is forgotten.
    floors: HashMap<u64, Forgotten, HandThrough>,
    /// Values that are being set by peers.
    sets: Vec<Setting>,
}

struct Setting {
    /// Of the key, and of its group.
    places: [u64; 2],
    stamp: Stamp,
    is_superseded: Arc<AtomicBool>,
}

/// A value that is being set: not to be kept once it [is superseded](Set::superseded).
pub(crate) struct Set<'a> {
    journal: &'a Journal,
    noted: Noted,
    is_superseded: Arc<AtomicBool>,
}

/// A change that is marked, and not carried out yet.
#[derive(Clone, Copy, Debug)]
#[must_use = "nobody can rely on the change before it is noted as applied"]
pub(crate) struct Noted {
    /// Where its mark is.
    place: u64,
    stamp: Option<Stamp>,
}

impl Set<'_> {
    /// Marks that the value is set.
    pub(crate) fn note_applied(&self) {
        self.journal.note_applied(self.noted);
    }

    /// Set as soon as a later change of the same sender arrives.
    pub(crate) fn superseded(&self) -> &AtomicBool {
        &self.is_superseded
    }
}

impl Drop for Set<'_> {
    fn drop(&mut self) {
        let mut state = self.journal.state.lock();
        let other = |set: &Setting| !Arc::ptr_eq(&set.is_superseded, &self.is_superseded);
        state.sets.retain(other);
    }
}

impl Journal {
    /// The journal of the node with this name.
    pub(crate) fn new(name: &str, now: Instant) -> Journal {
        // Tells processes apart where a model makes all random numbers the same.
        static MADE: RelaxedU64 = RelaxedU64::new(0);
        let mut hasher = RandomState::default().build_hasher();
        hasher.write(name.as_bytes());
        hasher.write_u64(MADE.fetch_add(1, Ordering::Relaxed));
        Journal {
            origin: hasher.finish().max(1),
            began: now,
            state: Mutex::default(),
        }
    }

    /// A number for a change that is told now: higher than those of all changes before.
    pub(crate) fn stamp(&self) -> Stamp {
        self.next_stamp(&mut self.state.lock())
    }

    fn next_stamp(&self, state: &mut State) -> Stamp {
        Stamp {
            origin: self.origin,
            sequence: state.next(),
        }
    }

    /// Writes down that this node removes `keys`, or all keys of the group, before anybody is told.
    /// Returns the part of the log that tells it, and the number of the change. Nobody else tells it
    /// until it is [finished](Journal::finish).
    pub(crate) fn record(
        &self,
        group: &Arc<str>,
        keys: Option<&[&str]>,
        now: Instant,
    ) -> (Range<u64>, Stamp) {
        let shared = |&key: &&str| Some(Arc::from(key));
        let keys: Vec<Option<Arc<str>>> = match keys {
            None => vec![None],
            Some(keys) => keys.iter().map(shared).collect(),
        };
        let mut state = self.state.lock();
        let first = state.last + 1;
        state.under_way.push(first);
        keys.into_iter()
            .for_each(|key| state.append(group, key, now));
        state.cut_down(now);
        let part = first..state.last + 1;
        (part, self.next_stamp(&mut state))
    }

    /// Notes that all have been told of a part of the log, or lack it.
    pub(crate) fn finish(&self, part: &Range<u64>) {
        let mut state = self.state.lock();
        if let Some(at) = state
            .under_way
            .iter()
            .position(|&first| first == part.start)
        {
            state.under_way.swap_remove(at);
        }
    }

    /// Takes over the removals that another node has made, and returns the part of the log that
    /// tells them.
    pub(crate) fn take_over(&self, entries: Vec<Entry>, now: Instant) -> Range<u64> {
        let mut state = self.state.lock();
        let first = state.last + 1;
        for entry in entries {
            match entry.group {
                Some(group) => state.append(&group, entry.key, entry.at),
                None => {
                    let sequence = state.next();
                    let at = entry.at;
                    let cut = Forgotten { sequence, at };
                    state.cut_unnamed = Some(cut.or_later(state.cut_unnamed));
                }
            }
        }
        state.cut_down(now);
        first..state.last + 1
    }

    /// Whether this node has indeed changed a key since it wrote a set down at `part`, which was
    /// refused as an older change than one that its receiver knows of.
    pub(crate) fn refused_set(&self, group: &str, key: &str, part: &Range<u64>) -> Refused {
        let mut state = self.state.lock();
        let is_of_key = |entry: &Logged| {
            *entry.group == *group && entry.key.as_deref().is_none_or(|other| other == key)
        };
        let mut later = state.log.part(part.end..u64::MAX);
        if later.any(|(_, entry)| is_of_key(entry)) {
            return Refused::Rightly;
        }
        drop(later);
        let mut cuts = state.cuts(part.end);
        if cuts.any(|(name, _)| name.is_none_or(|name| **name == *group)) {
            return Refused::Perhaps;
        }
        drop(cuts);
        Refused::Wrongly(self.next_stamp(&mut state))
    }

    /// Where the log goes on.
    pub(crate) fn end(&self) -> u64 {
        self.state.lock().last + 1
    }

    /// Where the changes begin that are still being told, or the log goes on.
    pub(crate) fn end_of_finished(&self) -> u64 {
        self.state.lock().end_of_finished()
    }

    /// The part of the log that a peer lacks of which nothing is known.
    pub(crate) fn all(&self, now: Instant) -> Range<u64> {
        let mut state = self.state.lock();
        state.cut_down(now);
        let end = state.last + 1;
        let is_recent = |cut: &&Forgotten| now.saturating_duration_since(cut.at) <= MEMORY;
        let cuts = state.cut.values().chain(state.cut_unnamed.iter());
        let cut = cuts.filter(is_recent).map(|cut| cut.sequence).min();
        let first = state.log.first().map(|&(place, _)| place);
        cut.or(first).unwrap_or(end)..end
    }

    /// The next of what a peer lacks, for the only one who tells it; `None` if there is nothing.
    pub(crate) fn next_parcel(&self, lacks: &Lacks) -> Option<Parcel> {
        self.first_parcel(lacks.begin_telling())
    }

    fn first_parcel(&self, parts: Vec<Range<u64>>) -> Option<Parcel> {
        let state = self.state.lock();
        let end = state.end_of_finished();
        parts
            .into_iter()
            .map(|part| part.start..part.end.min(end))
            .filter(|part| !part.is_empty())
            .find_map(|part| state.parcel(part, end))
    }

    /// Whether there is something to tell a peer that lacks so much.
    pub(crate) fn has_for(&self, lacks: &Lacks) -> bool {
        // Mostly it lacks nothing.
        lacks.is_any() && self.first_parcel(lacks.parts()).is_some()
    }

    /// Whether a peer lacks a removal, also one that is still being told by who makes it.
    pub(crate) fn is_lacked(&self, lacks: &Lacks) -> bool {
        // Mostly it lacks nothing.
        if !lacks.is_any() {
            return false;
        }
        let parts = lacks.parts();
        let Some(first) = parts.first().map(|part| part.start) else {
            return false;
        };
        let state = self.state.lock();
        let has_entry = |part: Range<u64>| state.log.part(part).next().is_some();
        state.cuts(first).next().is_some() || parts.into_iter().any(has_entry)
    }

    /// How many removals a peer lacks.
    pub(crate) fn count(&self, lacks: &Lacks) -> usize {
        let parts = lacks.parts();
        let state = self.state.lock();
        let Some(first) = parts.first() else {
            return 0;
        };
        let entries = |part: Range<u64>| state.log.part(part).count();
        state.cuts(first.start).count() + parts.into_iter().map(entries).sum::<usize>()
    }

    /// What a peer lacks, for another node to deliver.
    pub(crate) fn entries(&self, lacks: &Lacks) -> Vec<Entry> {
        let parts = lacks.parts();
        let state = self.state.lock();
        let Some(first) = parts.first() else {
            return Vec::new();
        };
        let cuts = state.cuts(first.start).map(|(group, cut)| Entry {
            group: group.cloned(),
            key: None,
            at: cut.at,
        });
        let logged = parts.iter().flat_map(|part| state.log.part(part.clone()));
        let logged = logged.map(|(_, logged)| Entry {
            group: Some(Arc::clone(&logged.group)),
            key: logged.key.clone(),
            at: logged.at,
        });
        cuts.chain(logged).collect()
    }

    /// Lets go what is too old, and what no peer lacks any more from `lacked` on.
    pub(crate) fn age(&self, now: Instant, lacked: u64) {
        let mut state = self.state.lock();
        state.cut_down(now);
        // Who is being told still may come to lack it.
        let lacked = lacked.min(state.end_of_finished());
        let is_of_use = |cut: &Forgotten| {
            cut.sequence >= lacked || now.saturating_duration_since(cut.at) <= MEMORY
        };
        state.cut.retain(|_, cut| is_of_use(cut));
        state.cut_unnamed = state.cut_unnamed.filter(is_of_use);
    }

    /// Marks a key as removed, or all keys of a group, before anything is removed.
    pub(crate) fn note(
        &self,
        group: &str,
        key: Option<&str>,
        told: ChangeInfo,
        now: Instant,
    ) -> Noted {
        let place = place_of(group, key);
        let mut state = self.state.lock();
        state.mark(place, self.mark(told, now), now);
        if let Some(stamp) = told.stamp {
            state.supersede(Some(place), stamp);
        }
        Noted {
            place,
            stamp: told.stamp,
        }
    }

    /// Notes that everything of all groups is removed, before it is: nobody can say which keys that
    /// were.
    pub(crate) fn note_all(&self, stamp: Option<Stamp>, now: Instant) {
        let mut state = self.state.lock();
        state.forgotten = Some(now);
        if let Some(stamp) = stamp {
            state.raise_floor(stamp, now);
            state.supersede(None, stamp);
        }
    }

    /// Marks that a change has been carried out here.
    pub(crate) fn note_applied(&self, noted: Noted) {
        let mut state = self.state.lock();
        if let (Some(mark), Some(stamp)) = (state.young.get_mut(&noted.place), noted.stamp) {
            // A later one of the same sender is under way: it says so itself.
            mark.is_applied |= mark.origin == stamp.origin && mark.sequence == stamp.sequence;
        }
    }

    /// Begins to set a value; `None` if a later change of its sender has been carried out.
    pub(crate) fn begin_set(
        &self,
        group: &str,
        key: &str,
        told: ChangeInfo,
        now: Instant,
    ) -> Option<Set<'_>> {
        let places = [place_of(group, Some(key)), place_of(group, None)];
        let is_superseded = Arc::new(AtomicBool::new(false));
        let mut state = self.state.lock();
        if let Some(stamp) = told.stamp {
            if state.has_later(places, stamp) {
                return None;
            }
            state.supersede(Some(places[0]), stamp);
            state.sets.push(Setting {
                places,
                stamp,
                is_superseded: Arc::clone(&is_superseded),
            });
        }
        state.mark(places[0], self.mark(told, now), now);
        drop(state);
        let noted = Noted {
            place: places[0],
            stamp: told.stamp,
        };
        Some(Set {
            journal: self,
            noted,
            is_superseded,
        })
    }

    /// Whether a key was removed of late.
    pub(crate) fn removed(&self, group: &str, key: &str, now: Instant) -> Removed {
        let second = self.second(now);
        let state = self.state.lock();
        if state.forgotten.is_some_and(|at| is_recent(at, now)) {
            return Removed::Perhaps;
        }
        let places = [place_of(group, Some(key)), place_of(group, None)];
        let marks = places.iter().filter_map(|place| state.find(*place));
        let recent =
            marks.filter(|mark| u64::from(second.saturating_sub(mark.at)) <= MEMORY.as_secs());
        recent.fold(Removed::Never, |removed, mark| match removed {
            _ if mark.is_unsure => Removed::Perhaps,
            Removed::Never => Removed::By(mark.stamp(), mark.ring),
            Removed::By(stamp, ring) if stamp.origin == mark.origin => {
                if stamp.sequence > mark.sequence {
                    Removed::By(stamp, ring)
                } else {
                    Removed::By(mark.stamp(), mark.ring)
                }
            }
            Removed::By(..) | Removed::Perhaps => Removed::Perhaps,
        })
    }

    /// Whether this removal of a key has been carried out here, so that what is in memory is newer.
    pub(crate) fn has_applied(&self, group: &str, key: &str, stamp: Stamp) -> bool {
        let state = self.state.lock();
        let has = |mark: &Mark| {
            mark.is_applied && mark.origin == stamp.origin && mark.sequence >= stamp.sequence
        };
        let places = [place_of(group, Some(key)), place_of(group, None)];
        places
            .iter()
            .filter_map(|place| state.find(*place))
            .any(has)
    }

    /// All marks, for a node that has just come: where a key is removed, and by whom. `None` if they
    /// are more than `most`, or some were forgotten.
    pub(crate) fn marks(&self, most: usize, now: Instant) -> Option<Vec<(u64, Stamp)>> {
        let state = self.state.lock();
        if state.forgotten.is_some_and(|at| is_recent(at, now)) {
            return None;
        }
        let second = self.second(now);
        let is_recent = |mark: &Mark| u64::from(second.saturating_sub(mark.at)) <= MEMORY.as_secs();
        let old = state
            .old
            .iter()
            .filter(|(place, _)| !state.young.contains_key(place));
        let marks = state
            .young
            .iter()
            .chain(old)
            .filter(|(_, mark)| is_recent(mark));
        let marks: Vec<_> = marks
            .map(|(&place, mark)| (place, mark.stamp()))
            .take(most + 1)
            .collect();
        (marks.len() <= most).then_some(marks)
    }

    /// Takes the marks of another node over; `None` are those that it could not name.
    pub(crate) fn adopt(&self, marks: Option<Vec<(u64, Stamp)>>, now: Instant) {
        let mut state = self.state.lock();
        match marks {
            None => state.forgotten = Some(now),
            Some(marks) => {
                for (place, stamp) in marks {
                    let is_known = state.find(place).is_some_and(|mark| {
                        mark.origin == stamp.origin && mark.sequence >= stamp.sequence
                    });
                    if !is_known {
                        let told = ChangeInfo {
                            stamp: (stamp.origin != 0).then_some(stamp),
                            ring: None,
                        };
                        let mark = Mark {
                            ring: Ring::ANY,
                            is_unsure: told.stamp.is_none(),
                            ..self.mark(told, now)
                        };
                        state.mark(place, mark, now);
                    }
                }
            }
        }
    }

    fn mark(&self, told: ChangeInfo, now: Instant) -> Mark {
        let stamp = told.stamp.unwrap_or(Stamp {
            origin: 0,
            sequence: 0,
        });
        Mark {
            origin: stamp.origin,
            sequence: stamp.sequence,
            at: self.second(now),
            is_applied: false,
            ring: told.ring.map_or(Ring::ANY, Ring::of),
            is_unsure: told.stamp.is_none() || told.ring.is_none(),
        }
    }

    /// Seconds since the journal began, rounded up, so that nothing is forgotten too early.
    fn second(&self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.began).as_secs() + 1;
        u32::try_from(since).unwrap_or(u32::MAX)
    }
}

impl State {
    /// The end of what is told by others than those who make the changes.
    fn end_of_finished(&self) -> u64 {
        self.under_way
            .iter()
            .copied()
            .min()
            .unwrap_or(self.last + 1)
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn append(&mut self, group: &Arc<str>, key: Option<Arc<str>>, at: Instant) {
        let group = Arc::clone(group);
        let place = self.next();
        self.log.push(place, Logged { group, key, at });
    }

    /// The groups of which entries have left the log from this place on; who lacks any of that is
    /// told to clear them.
    fn cuts(&self, from: u64) -> impl Iterator<Item = (Option<&Arc<str>>, Forgotten)> {
        let named = self.cut.iter().map(|(group, cut)| (Some(group), *cut));
        let unnamed = self.cut_unnamed.map(|cut| (None, cut));
        named
            .chain(unnamed)
            .filter(move |(_, cut)| cut.sequence >= from)
    }

    /// Lets the oldest entries go, until the log is no longer than it may be.
    fn cut_down(&mut self, now: Instant) {
        let is_over = |log: &Log| {
            let is_old = |at| now.saturating_duration_since(at) > MEMORY;
            log.bytes() > MAX_BYTES || log.first().is_some_and(|(_, first)| is_old(first.at))
        };
        while is_over(&self.log) {
            let Some((sequence, entry)) = self.log.pop_first() else {
                return;
            };
            let cut = Forgotten {
                sequence,
                at: entry.at,
            };
            if self.cut.len() < MAX_CUT || self.cut.contains_key(&entry.group) {
                let before = self.cut.get(&entry.group).copied();
                self.cut.insert(entry.group, cut.or_later(before));
            } else {
                self.cut_unnamed = Some(cut.or_later(self.cut_unnamed));
            }
        }
    }

    /// The first of what is told of a part of the log, of which nothing is told from `end` on: what
    /// has left it first.
    fn parcel(&self, part: Range<u64>, end: u64) -> Option<Parcel> {
        let is_cut = |cut: Forgotten| cut.sequence >= part.start;
        let cuts = || self.cut.iter().filter(|(_, cut)| is_cut(**cut));
        // All groups of which something has left it at once: which entries a peer lacks of them is
        // not known any more.
        let last = cuts().map(|(_, cut)| cut.sequence).max();
        let (last, change) = match (self.cut_unnamed.filter(|cut| is_cut(*cut)), last) {
            // All groups are cleared with those that are not known by name.
            (Some(unnamed), last) => (last.unwrap_or(0).max(unnamed.sequence), Lacked::All),
            (None, Some(last)) => {
                let groups = cuts().map(|(group, _)| Arc::clone(group));
                (last, Lacked::Groups(groups.collect()))
            }
            (None, None) => self.first_keys(&part)?,
        };
        let told = end.min(last + 1);
        let mut rest = self.log.part(told..part.end);
        // Numbers that stand for nothing need not be told.
        let told = match rest.next() {
            Some(&(place, _)) => place,
            None => part.end.max(told),
        };
        Some(Parcel {
            part: part.start..told,
            change,
        })
    }

    /// The first entries of one group, and the place of the last of them.
    fn first_keys(&self, part: &Range<u64>) -> Option<(u64, Lacked)> {
        let mut entries = self.log.part(part.clone()).take(PARCEL);
        let &(mut last, ref first) = entries.next()?;
        let Some(key) = &first.key else {
            return Some((last, Lacked::Groups(vec![Arc::clone(&first.group)])));
        };
        let mut keys = vec![Arc::clone(key)];
        for (place, entry) in entries {
            match &entry.key {
                Some(key) if entry.group == first.group => keys.push(Arc::clone(key)),
                _ => break,
            }
            last = *place;
        }
        Some((last, Lacked::Keys(Arc::clone(&first.group), keys)))
    }

    fn find(&self, place: u64) -> Option<&Mark> {
        self.young.get(&place).or_else(|| self.old.get(&place))
    }

    /// Marks a place as removed. A removal of the same origin with a higher number stays.
    fn mark(&mut self, place: u64, mut mark: Mark, now: Instant) {
        self.turn_generations(now);
        if let Some(before) = self.find(place).copied() {
            if before.origin != mark.origin {
                self.raise_floor(before.stamp(), now);
                // Nobody can say of both at once that he knows them.
                mark.is_unsure |= !before.is_old(mark.at);
            } else if before.sequence > mark.sequence {
                mark = Mark {
                    at: mark.at,
                    ..before
                };
            }
        }
        self.young.insert(place, mark);
    }

    /// Begins a new generation when the young one is full, or has lasted long enough.
    fn turn_generations(&mut self, now: Instant) {
        let since = *self.young_since.get_or_insert(now);
        let is_full = self.young.len() >= MAX_MARKS;
        if !is_full && now.saturating_duration_since(since) <= MEMORY {
            return;
        }
        let old = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        if self.old_until.is_some_and(|at| is_recent(at, now)) && !old.is_empty() {
            self.forgotten = self.old_until;
        }
        self.old_until = Some(now);
        self.young_since = Some(now);
        for mark in old.values() {
            self.raise_floor(mark.stamp(), now);
        }
    }

    /// Notes that a mark with this stamp is not there any more.
    fn raise_floor(&mut self, stamp: Stamp, now: Instant) {
        if stamp.origin == 0 {
            return;
        }
        if self.floors.len() >= MAX_SENDERS && !self.floors.contains_key(&stamp.origin) {
            let oldest = self.floors.iter().min_by_key(|(_, floor)| floor.at);
            let oldest = oldest.map(|(&origin, _)| origin);
            oldest.and_then(|origin| self.floors.remove(&origin));
        }
        let floor = self.floors.entry(stamp.origin).or_insert(Forgotten {
            sequence: 0,
            at: now,
        });
        floor.sequence = floor.sequence.max(stamp.sequence);
        floor.at = now;
    }

    /// Whether a later change of this sender has arrived, or may have.
    fn has_later(&self, places: [u64; 2], stamp: Stamp) -> bool {
        let is_later = |mark: &Mark| mark.origin == stamp.origin && mark.sequence >= stamp.sequence;
        let floor = self.floors.get(&stamp.origin);
        floor.is_some_and(|floor| floor.sequence >= stamp.sequence)
            || places
                .into_iter()
                .filter_map(|place| self.find(place))
                .any(is_later)
    }

    /// Stops earlier sets of the same sender at this place, or all, from keeping their values.
    fn supersede(&mut self, place: Option<u64>, stamp: Stamp) {
        for set in &self.sets {
            let is_earlier =
                set.stamp.origin == stamp.origin && set.stamp.sequence < stamp.sequence;
            if place.is_none_or(|place| set.places.contains(&place)) && is_earlier {
                set.is_superseded.store(true, Ordering::Release);
            }
        }
    }
}

impl Forgotten {
    /// What is forgotten together with what was before: the later place, and the later time, as what
    /// was taken over stands further on than what is newer.
    fn or_later(self, before: Option<Forgotten>) -> Forgotten {
        let Some(before) = before else {
            return self;
        };
        Forgotten {
            sequence: self.sequence.max(before.sequence),
            at: self.at.max(before.at),
        }
    }
}

impl Mark {
    fn stamp(&self) -> Stamp {
        Stamp {
            origin: self.origin,
            sequence: self.sequence,
        }
    }

    fn is_old(&self, second: u32) -> bool {
        u64::from(second.saturating_sub(self.at)) > MEMORY.as_secs()
    }
}

/// The parts of the log that a peer has not been told.
#[derive(Default)]
pub(crate) struct Lacks {
    state: Mutex<LacksState>,
    /// Whether there is any: each fetch looks, so without a lock.
    is_any: AtomicBool,
}

#[derive(Default)]
struct LacksState {
    parts: Parts,
    /// What was added since somebody began to tell: it may have to be told once more.
    added: Parts,
}

/// Parts of the log in order, apart from each other.
#[derive(Default)]
struct Parts(Vec<Range<u64>>);

impl Lacks {
    pub(crate) fn add(&self, part: Range<u64>) {
        let mut state = self.state.lock();
        state.added.add(part.clone());
        state.parts.add(part);
        self.note_change(&state);
    }

    /// Notes that the next of it is being told now.
    fn begin_telling(&self) -> Vec<Range<u64>> {
        let mut state = self.state.lock();
        state.added = Parts::default();
        state.parts.0.clone()
    }

    /// Notes that a part has been told, since that was begun.
    pub(crate) fn remove(&self, told: &Range<u64>) {
        let mut state = self.state.lock();
        state.parts.remove(told);
        for part in std::mem::take(&mut state.added).0 {
            state.parts.add(part);
        }
        self.note_change(&state);
    }

    /// Notes that the peer is told of what is written from `end` on.
    pub(crate) fn end_at(&self, end: u64) {
        let mut state = self.state.lock();
        state.parts.remove(&(end..u64::MAX));
        state.added.remove(&(end..u64::MAX));
        self.note_change(&state);
    }

    fn note_change(&self, state: &LacksState) {
        self.is_any
            .store(!state.parts.0.is_empty(), Ordering::Release);
    }

    fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Acquire)
    }

    fn parts(&self) -> Vec<Range<u64>> {
        self.state.lock().parts.0.clone()
    }

    /// The first that is lacked.
    pub(crate) fn first(&self) -> Option<u64> {
        self.state.lock().parts.0.first().map(|part| part.start)
    }
}

impl Parts {
    fn add(&mut self, part: Range<u64>) {
        if part.is_empty() {
            return;
        }
        self.0.push(part);
        self.0.sort_unstable_by_key(|part| part.start);
        let mut sum: Vec<Range<u64>> = Vec::with_capacity(self.0.len());
        for part in self.0.drain(..) {
            match sum.last_mut().filter(|last| last.end >= part.start) {
                Some(last) => last.end = last.end.max(part.end),
                None => sum.push(part),
            }
        }
        // Too many become fewer: to be told of something once more is never wrong.
        if sum.len() > MAX_PARTS {
            let end = sum[MAX_PARTS..].iter().map(|part| part.end).max();
            sum.truncate(MAX_PARTS);
            if let (Some(last), Some(end)) = (sum.last_mut(), end) {
                last.end = end;
            }
        }
        self.0 = sum;
    }

    fn remove(&mut self, part: &Range<u64>) {
        let rest = |other: &Range<u64>| {
            let before = other.start..other.end.min(part.start);
            let after = other.start.max(part.end)..other.end;
            [before, after]
        };
        let rest: Vec<_> = self.0.iter().flat_map(rest).collect();
        self.0 = rest.into_iter().filter(|part| !part.is_empty()).collect();
    }
}

/// Where the marks have a key, or a whole group: no group has an empty name.
fn place_of(group: &str, key: Option<&str>) -> u64 {
    match key {
        Some(key) => hash_of_key(group, key),
        None => hash_of_key("", group),
    }
}

fn is_recent(at: Instant, now: Instant) -> bool {
    now.saturating_duration_since(at) <= MEMORY
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn told(origin: u64, sequence: u64) -> ChangeInfo {
        ChangeInfo {
            stamp: Some(Stamp { origin, sequence }),
            ring: Some(7),
        }
    }

    /// The group and the keys of what a peer lacks.
    fn removes(journal: &Journal, lacks: &Lacks) -> Vec<(String, Vec<String>)> {
        let mut all = Vec::new();
        while let Some(parcel) = journal.next_parcel(lacks) {
            lacks.remove(&parcel.part);
            let Lacked::Keys(group, keys) = parcel.change else {
                panic!("{parcel:?}");
            };
            let keys = keys.iter().map(|key| key.to_string()).collect();
            all.push((group.to_string(), keys));
        }
        all
    }

    fn groups(names: &[&str]) -> Lacked {
        Lacked::Groups(names.iter().map(|&name| Arc::from(name)).collect())
    }

    fn record(journal: &Journal, group: &str, keys: &[&str], now: Instant) -> Range<u64> {
        let part = begin(journal, group, Some(keys), now);
        journal.finish(&part);
        part
    }

    /// As [`record`], of what is told still.
    fn begin(journal: &Journal, group: &str, keys: Option<&[&str]>, now: Instant) -> Range<u64> {
        journal.record(&Arc::from(group), keys, now).0
    }

    #[test]
    fn a_peer_is_told_what_it_lacks_once_and_nothing_else() {
        let now = Instant::now();
        let (journal, lacks) = (Journal::new("me", now), Lacks::default());
        lacks.add(record(&journal, "g", &["a", "b"], now));
        record(&journal, "g", &["told"], now);
        lacks.add(record(&journal, "h", &["a"], now));
        assert_eq!(journal.count(&lacks), 3);
        let expected = [("g", vec!["a", "b"]), ("h", vec!["a"])];
        let expected = expected.map(|(group, keys)| {
            (
                group.to_owned(),
                keys.into_iter().map(str::to_owned).collect::<Vec<_>>(),
            )
        });
        assert_eq!(removes(&journal, &lacks), expected);
        assert_eq!(journal.count(&lacks), 0);
        assert_eq!(lacks.first(), None);
    }

    #[test]
    fn what_is_under_way_is_told_by_nobody_else() {
        let now = Instant::now();
        let (journal, lacks) = (Journal::new("me", now), Lacks::default());
        let part = begin(&journal, "g", Some(&["a"]), now);
        lacks.add(journal.all(now));
        assert!(!journal.has_for(&lacks));
        journal.finish(&part);
        assert!(journal.has_for(&lacks));
    }

    #[test]
    fn what_is_under_way_is_kept_for_those_who_may_come_to_lack_it() {
        let now = Instant::now();
        let (journal, lacks) = (Journal::new("me", now), Lacks::default());
        let part = begin(&journal, "g", Some(&["a"]), now);
        let later = now + MEMORY + SECOND;
        journal.age(later, u64::MAX);
        lacks.add(part.clone());
        assert!(journal.is_lacked(&lacks));
        journal.finish(&part);
        let parcel = journal.next_parcel(&lacks).unwrap();
        assert_eq!(parcel.change, groups(&["g"]));
        lacks.remove(&parcel.part);
        assert!(!journal.is_lacked(&lacks));
    }

    #[test]
    fn nobody_counts_as_told_of_what_is_under_way_though_it_has_left_the_log() {
        let now = Instant::now();
        let (journal, lacks) = (Journal::new("me", now), Lacks::default());
        lacks.add(record(&journal, "g", &["a"], now));
        let part = begin(&journal, "g", Some(&["b"]), now);
        lacks.add(part.clone());
        journal.age(now + MEMORY + SECOND, 0);
        let parcel = journal.next_parcel(&lacks).unwrap();
        lacks.remove(&parcel.part);
        assert_eq!(lacks.first(), Some(part.start));
        assert!(!journal.has_for(&lacks));
        journal.finish(&part);
        assert!(journal.has_for(&lacks));
    }

    #[test]
    fn what_is_added_while_it_is_told_is_told_once_more() {
        let now = Instant::now();
        let (journal, lacks) = (Journal::new("me", now), Lacks::default());
        let part = record(&journal, "g", &["a"], now);
        lacks.add(part.clone());
        let parcel = journal.next_parcel(&lacks).unwrap();
        lacks.add(part);
        assert!(journal.has_for(&lacks));
        lacks.remove(&parcel.part);
        assert_eq!(removes(&journal, &lacks).len(), 1);
        assert_eq!(lacks.first(), None);
    }

    #[test]
    fn a_new_peer_is_told_of_what_was_cut_though_something_older_was_cut_later() {
        let now = Instant::now();
        let journal = Journal::new("me", now);
        record(&journal, "g", &["new"], now);
        let old = Entry {
            group: Some(Arc::from("g")),
            key: Some(Arc::from("old")),
            at: now.checked_sub(MEMORY).unwrap(),
        };
        journal.take_over(vec![old], now);
        let long = "k".repeat(10_000);
        for number in 0..200 {
            record(&journal, "h", &[&format!("{long}{number}")], now);
        }
        let later = now + MEMORY / 2;
        journal.age(later, u64::MAX);
        let lacks = Lacks::default();
        lacks.add(journal.all(later));
        let parcel = journal.next_parcel(&lacks).unwrap();
        assert_eq!(parcel.change, groups(&["g", "h"]));
    }

    #[test]
    fn the_log_is_bounded_however_often_a_key_is_removed() {
        let now = Instant::now();
        let (journal, lacks) = (Journal::new("me", now), Lacks::default());
        for _ in 0..100_000 {
            lacks.add(record(&journal, "g", &["a"], now));
        }
        assert!(journal.state.lock().log.bytes() <= MAX_BYTES);
        assert!(lacks.parts().len() <= MAX_PARTS);
        let parcel = journal.next_parcel(&lacks).unwrap();
        assert_eq!(parcel.change, groups(&["g"]));
    }

    #[test]
    fn where_the_log_no_longer_reaches_the_groups_concerned_are_cleared() {
        let now = Instant::now();
        let (journal, lacks) = (Journal::new("me", now), Lacks::default());
        lacks.add(record(&journal, "old", &["a"], now));
        let long = "k".repeat(10_000);
        for number in 0..200 {
            let key = format!("{long}{number}");
            lacks.add(record(&journal, "g", &[&key], now));
            assert!(journal.state.lock().log.bytes() <= MAX_BYTES);
        }
        let are_cut = |lacks: &Lacks| {
            let parcel = journal.next_parcel(lacks).unwrap();
            assert_eq!(parcel.change, groups(&["g", "old"]));
            lacks.remove(&parcel.part);
        };
        are_cut(&lacks);
        let left = removes(&journal, &lacks);
        let keys: usize = left.iter().map(|(_, keys)| keys.len()).sum();
        assert!(keys > 90 && left.iter().all(|(_, keys)| keys.len() <= PARCEL));
        // One of whom nothing is known is told the same.
        lacks.add(journal.all(now));
        are_cut(&lacks);
        // Later all is forgotten.
        journal.age(now + MEMORY + SECOND, u64::MAX);
        assert!(journal.all(now + MEMORY + SECOND).is_empty());
        let state = journal.state.lock();
        assert_eq!((state.log.bytes(), state.cut.len()), (0, 0));
    }

    #[test]
    fn so_many_groups_are_not_known_by_name_any_more() {
        let now = Instant::now();
        let (journal, lacks) = (Journal::new("me", now), Lacks::default());
        for number in 0..=MAX_CUT {
            lacks.add(record(&journal, &number.to_string(), &["a"], now));
        }
        journal.age(now + MEMORY + SECOND, 0);
        let parcel = journal.next_parcel(&lacks).unwrap();
        assert_eq!(parcel.change, Lacked::All);
        // It is handed over as well.
        let entries = journal.entries(&lacks);
        assert!(entries.iter().any(|entry| entry.group.is_none()));
    }

    #[test]
    fn who_lacks_an_entry_is_told_though_it_is_removed_again_or_has_left_the_log() {
        let now = Instant::now();
        let (journal, lacks) = (Journal::new("me", now), Lacks::default());
        let many: Vec<String> = (0..3 * PARCEL).map(|key| key.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        // Removed again while it lacks them, and it is told of that.
        lacks.add(record(&journal, "g", &many, now));
        record(&journal, "other", &["a"], now);
        record(&journal, "g", &many, now);
        assert_eq!(journal.count(&lacks), many.len());
        let told = removes(&journal, &lacks).into_iter();
        let told: Vec<String> = told.flat_map(|(_, keys)| keys).collect();
        assert_eq!(told, many);
        assert_eq!(journal.count(&lacks), 0);
        // And now all of them leave the log: which of them it lacks is not known any more.
        lacks.add(record(&journal, "g", &["a"], now));
        record(&journal, "h", &["a"], now);
        record(&journal, "g", &["a"], now);
        journal.age(now + MEMORY + SECOND, 0);
        let parcel = journal.next_parcel(&lacks).unwrap();
        assert_eq!(parcel.change, groups(&["g", "h"]));
        lacks.remove(&parcel.part);
        assert_eq!(journal.next_parcel(&lacks), None);
    }

    #[test]
    fn a_set_is_numbered_again_unless_its_key_was_changed_since() {
        let now = Instant::now();
        let journal = Journal::new("me", now);
        let again = |part: &Range<u64>| {
            let refused = journal.refused_set("g", "a", part);
            assert_ne!(refused, Refused::Perhaps);
            matches!(refused, Refused::Wrongly(_))
        };
        for keys in [Some(&["a"] as &[&str]), None] {
            let part = record(&journal, "g", &["a"], now);
            record(&journal, "g", &["b"], now);
            begin(&journal, "h", keys, now);
            assert!(again(&part));
            begin(&journal, "g", keys, now);
            assert!(!again(&part));
        }
    }

    #[test]
    fn too_many_parts_become_fewer_and_none_is_lost() {
        let lacks = Lacks::default();
        for part in 0..1_000 {
            lacks.add(3 * part..3 * part + 1);
        }
        let parts = lacks.parts();
        assert_eq!(parts.len(), MAX_PARTS);
        let has = |at: u64| parts.iter().any(|part| part.contains(&at));
        assert!((0..1_000).all(|part| has(3 * part)));
        lacks.begin_telling();
        lacks.remove(&(10..20));
        let parts = lacks.parts();
        assert!(
            !parts
                .iter()
                .any(|part| (10..20).any(|at| part.contains(&at)))
        );
    }

    #[test]
    fn a_removal_is_known_by_its_stamp_until_it_is_old() {
        let now = Instant::now();
        let journal = Journal::new("me", now);
        let removed = |at| journal.removed("g", "a", at);
        assert_eq!(removed(now), Removed::Never);
        let noted = journal.note("g", Some("a"), told(1, 5), now);
        let stamp = |sequence| Stamp {
            origin: 1,
            sequence,
        };
        assert!(matches!(removed(now), Removed::By(by, _) if by == stamp(5)));
        assert!(!journal.has_applied("g", "a", stamp(5)), "not yet");
        journal.note_applied(noted);
        assert!(journal.has_applied("g", "a", stamp(4)));
        assert!(journal.has_applied("g", "a", stamp(5)));
        assert!(!journal.has_applied("g", "a", stamp(6)));
        assert!(!journal.has_applied("h", "a", stamp(5)), "another group");
        let _ = journal.note("g", None, told(1, 9), now);
        assert!(matches!(removed(now), Removed::By(by, _) if by == stamp(9)));
        let _ = journal.note("g", Some("a"), told(2, 1), now);
        assert_eq!(
            removed(now),
            Removed::Perhaps,
            "by two at about the same time"
        );
        assert_eq!(removed(now + MEMORY + 2 * SECOND), Removed::Never);
    }

    #[test]
    fn what_is_forgotten_too_early_is_taken_for_removed() {
        let now = Instant::now();
        let journal = Journal::new("me", now);
        let note = |number: usize, at| {
            let key = number.to_string();
            let _ = journal.note("g", Some(&key), told(1, number as u64 + 1), at);
        };
        (0..40_000).for_each(|number| note(number, now));
        assert_eq!(journal.removed("g", "other", now), Removed::Never);
        (40_000..3 * MAX_MARKS).for_each(|number| note(number, now));
        assert_eq!(journal.removed("g", "other", now), Removed::Perhaps);
        let later = now + MEMORY + 2 * SECOND;
        assert_eq!(journal.removed("g", "other", later), Removed::Never);
        let state = journal.state.lock();
        assert!(state.young.len() + state.old.len() <= 2 * MAX_MARKS);
        drop(state);
        // A set from before that may be older than something that is forgotten.
        assert!(journal.begin_set("g", "new", told(1, 3), later).is_none());
        assert!(journal.begin_set("g", "new", told(2, 3), later).is_some());
    }

    #[test]
    fn a_set_is_superseded_by_a_later_change_of_its_sender_while_it_is_under_way() {
        let now = Instant::now();
        let journal = Journal::new("me", now);
        let is_superseded = |set: &Set<'_>| set.superseded().load(Ordering::Acquire);
        for key in [Some("a"), None] {
            let set = journal.begin_set("g", "a", told(1, 5), now).unwrap();
            let _ = journal.note("g", Some("a"), told(2, 6), now);
            let _ = journal.note("g", Some("b"), told(1, 6), now);
            let _ = journal.note("h", Some("a"), told(1, 6), now);
            assert!(!is_superseded(&set), "another sender, key and group");
            let _ = journal.note("g", key, told(1, 7), now);
            assert!(is_superseded(&set));
            drop(set);
            assert!(journal.begin_set("g", "a", told(1, 6), now).is_none());
            assert!(journal.state.lock().sets.is_empty());
            let another = Journal::new("me", now);
            let _ = another.note("g", key, told(1, 7), now);
            assert!(another.begin_set("g", "a", told(1, 6), now).is_none());
            assert!(another.begin_set("g", "a", told(1, 8), now).is_some());
            *journal.state.lock() = State::default();
        }
    }

    #[test]
    fn marks_of_another_node_are_taken_over() {
        let now = Instant::now();
        let [one, other] = [1, 2].map(|_| Journal::new("me", now));
        assert_ne!(one.stamp().origin, other.stamp().origin, "two processes");
        let _ = one.note("g", Some("a"), told(1, 5), now);
        let _ = one.note("g", Some("b"), ChangeInfo::default(), now);
        other.adopt(one.marks(10, now), now);
        let stamp = Stamp {
            origin: 1,
            sequence: 5,
        };
        let removed = other.removed("g", "a", now);
        assert!(matches!(removed, Removed::By(by, ring) if by == stamp && ring.may_be(99)));
        assert_eq!(other.removed("g", "b", now), Removed::Perhaps);
        assert_eq!(other.removed("g", "c", now), Removed::Never);
        assert_eq!(one.marks(1, now), None, "they are too many");
        other.adopt(None, now);
        assert_eq!(other.removed("g", "c", now), Removed::Perhaps);
    }
}
