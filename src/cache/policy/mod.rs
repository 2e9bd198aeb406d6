//! `Policy<T>`: which of the items that a process owns are kept, and which leave. For one thread: no lock,
//! no clock.
//!
//! W-TinyLFU (Einziger, Friedman, Manes, ACM ToS 2017) with a rule of LIRS. New items enter a small
//! *window*. An item that falls out of the window goes on *probation* in the main part, and an item that
//! is used there becomes *protected* (a segmented LRU). When room is needed, the last item of the window
//! and the last one on probation are compared: the one with fewer requests leaves. So a scan passes
//! through the window without evicting items of the main part, and of a loop that does not fit, the part
//! that fits stays.
//!
//! A new item that left only a short while ago, and was used more recently than the item it would
//! displace, becomes protected at once: recency beats frequency there (as in LIRS: Jiang, Zhang,
//! SIGMETRICS 2002). Without this rule, workloads with recency alone lose up to five points of hit ratio.
//!
//! Kept items count their own uses; a sketch counts the requests for all others. The sketch and the ghosts
//! are made when room first runs out: a cache that holds everything does not pay for them.
//!
//! In this order: `table` (the items in their segments), `sketch` (how often other keys were requested),
//! `ghosts` (which keys left lately), and `shadows` (how large the window should be).

mod ghosts;
mod shadows;
mod sketch;
mod table;

pub(crate) use shadows::Shadows;
pub(crate) use table::{At, Item, Marks, Segment};

use ghosts::Ghosts;
use sketch::Sketch;
use table::{Cell, MAX_COUNT, Table};

/// The largest protected part of main.
const PROTECTED: f64 = 0.65;

/// Counts are halved after this many uses for each kept item.
const AGE: usize = 40;

/// The most items that move between segments for one insert or one eviction.
const MOVES: usize = 16;

// In this order, so that what a hit reads is in two cache lines, together with the lock around it.
#[repr(C)]
pub(crate) struct Policy<T> {
    /// The number of uses so far: the time of a use.
    turn: u32,
    /// How often counts have been halved.
    epoch: u8,
    table: Table<T>,
    /// The part of the bytes that the window gets.
    window: f64,
    /// Counted uses since counts were halved.
    uses: usize,
    /// What is known of keys that are not kept. Made when the first item leaves.
    past: Option<Box<Past>>,
}

struct Past {
    sketch: Sketch,
    ghosts: Ghosts,
    /// How many items were kept when these were made.
    kept: usize,
}

/// Why an item leaves that is neither removed nor expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loser {
    /// It made room.
    Evicted,
    /// It was new and not requested often enough to stay.
    Rejected,
}

impl<T: Item> Policy<T> {
    pub(crate) fn new(window: f64) -> Policy<T> {
        Policy {
            turn: 0,
            epoch: 0,
            table: Table::new(),
            window,
            uses: 0,
            past: None,
        }
    }

    #[inline]
    pub(crate) fn find(&self, hash: u32, is: impl Fn(&T) -> bool) -> Option<At> {
        self.table.find(hash, is)
    }

    /// As [`find`](Policy::find), for items that are identified by their hash alone.
    fn find_hash(&self, hash: u32) -> Option<At> {
        self.table.find_hash(hash)
    }

    #[inline]
    pub(crate) fn item(&self, at: At) -> Option<&T> {
        self.table.cell(at).item()
    }

    #[inline]
    pub(crate) fn item_mut(&mut self, at: At) -> Option<&mut T> {
        self.table.cell_mut(at).item_mut()
    }

    /// All items, in no order.
    pub(crate) fn items(&self) -> impl Iterator<Item = (At, &T)> {
        self.table.items()
    }

    pub(crate) fn into_items(self) -> impl Iterator<Item = T> {
        self.table.into_items()
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.table.bytes()
    }

    pub(crate) fn set_window(&mut self, part: f64) {
        self.window = part;
    }

    /// Counts a use. It marks the item and moves nothing: the mark is evaluated when room is needed
    /// (lazy promotion: Yang et al., HotOS 2023). An item that is used all the time has all marks already
    /// and is not written.
    #[inline]
    pub(crate) fn hit(&mut self, at: At) -> Option<&mut T> {
        self.turn = self.turn.wrapping_add(1);
        let cell = self.table.cell_mut(at);
        if !cell.has_all_marks(self.epoch) && cell.mark(self.epoch, self.turn) {
            self.uses += 1;
        }
        cell.item_mut()
    }

    /// The segment that a new item enters.
    pub(crate) fn door(&mut self, hash: u32) -> Segment {
        let Some(past) = &mut self.past else {
            return Segment::Window;
        };
        let Some(stamp) = past.ghosts.get(hash) else {
            return Segment::Window;
        };
        let age = |stamp: u32| self.turn.wrapping_sub(stamp);
        match last_of_main(&self.table) {
            Some(victim) if age(stamp) < age(self.table.cell(victim).stamp) => Segment::Protected,
            _ => Segment::Window,
        }
    }

    /// Inserts an item that is not kept yet into the segment that [`door`](Policy::door) tells.
    pub(crate) fn insert(&mut self, door: Segment, hash: u32, mut item: T) -> At {
        self.turn = self.turn.wrapping_add(1);
        let uses = self.recall(hash);
        item.marks_mut().set_uses(uses, self.epoch);
        let at = self.table.insert(door, hash, item);
        self.table.cell_mut(at).stamp = self.turn;
        self.hold_protected();
        self.hold_window();
        at
    }

    /// How often the key of a new item was requested, including this time.
    fn recall(&mut self, hash: u32) -> u8 {
        let Some(past) = &mut self.past else {
            return 1;
        };
        past.ghosts.remove(hash);
        let before = past.sketch.estimate(hash);
        if before == MAX_COUNT {
            return before;
        }
        past.sketch.raise(hash, before + 1);
        self.uses += 1;
        self.age();
        before + 1
    }

    /// Replaces an item, which keeps its segment and its count of uses; gives back the old one.
    pub(crate) fn replace(&mut self, at: At, item: T) -> Option<T> {
        self.table.replace(at, item)
    }

    pub(crate) fn remove(&mut self, at: At) -> Option<T> {
        self.table.remove(at)
    }

    /// Takes out the item that makes room for a new one of `weight` that enters `door`.
    pub(crate) fn evict(&mut self, door: Segment, weight: usize) -> Option<(At, T, Loser)> {
        self.remember();
        let arriving = if door == Segment::Window { weight } else { 0 };
        let window = self
            .table
            .bytes_of(Segment::Window)
            .saturating_add(arriving);
        let candidate = self.candidate();
        let victim = self.victim();
        match (candidate, victim) {
            (Some(candidate), Some(victim)) if window > self.window_bytes(arriving) => {
                if self.uses_of(candidate) > self.uses_of(victim) {
                    self.table.move_to(candidate, Segment::Probation);
                    self.leave(victim, Loser::Evicted)
                } else {
                    self.leave(candidate, Loser::Rejected)
                }
            }
            (candidate, victim) => self.leave(victim.or(candidate)?, Loser::Evicted),
        }
    }

    fn leave(&mut self, at: At, why: Loser) -> Option<(At, T, Loser)> {
        let uses = self.uses_of(at);
        let &Cell { hash, stamp, .. } = self.table.cell(at);
        if let Some(past) = &mut self.past {
            past.sketch.raise(hash, uses);
            past.ghosts.put(hash, stamp, self.turn);
        }
        Some((at, self.table.remove(at)?, why))
    }

    /// The next item to leave the window. Items that were used since they were last moved go back to the
    /// front: a hit only marks them, and the mark is evaluated here.
    fn candidate(&mut self) -> Option<At> {
        for _ in 0..MOVES {
            let last = self.table.last(Segment::Window)?;
            if !self.table.take_used(last, self.turn) {
                return Some(last);
            }
            self.table.move_to(last, Segment::Window);
        }
        self.table.last(Segment::Window)
    }

    /// The next item to leave main. Items that were used on probation become protected.
    fn victim(&mut self) -> Option<At> {
        for _ in 0..MOVES {
            let Some(last) = self.table.last(Segment::Probation) else {
                break;
            };
            if !self.table.take_used(last, self.turn) {
                return Some(last);
            }
            self.table.move_to(last, Segment::Protected);
            self.hold_protected();
        }
        last_of_main(&self.table)
    }

    fn uses_of(&self, at: At) -> u8 {
        self.table.cell(at).uses(self.epoch)
    }

    fn window_bytes(&self, arriving: usize) -> usize {
        let bytes = self.table.bytes().saturating_add(arriving);
        (bytes as f64 * self.window) as usize
    }

    /// Keeps the protected part within its bound: the last of its items go back on probation.
    fn hold_protected(&mut self) {
        let main = self.table.bytes() - self.table.bytes_of(Segment::Window);
        let bound = (main as f64 * PROTECTED) as usize;
        let mut again = MOVES;
        while self.table.bytes_of(Segment::Protected) > bound {
            let Some(last) = self.table.last(Segment::Protected) else {
                return;
            };
            let stays = again > 0 && self.table.take_used(last, self.turn);
            if stays {
                again -= 1;
                self.table.move_to(last, Segment::Protected);
            } else {
                self.table.move_to(last, Segment::Probation);
            }
        }
    }

    /// Keeps the window within its bound: its last items go on probation.
    fn hold_window(&mut self) {
        let bound = self.window_bytes(0);
        for _ in 0..MOVES {
            let is_over = self.table.bytes_of(Segment::Window) > bound
                && self.table.len_of(Segment::Window) > 1;
            match self.table.last(Segment::Window) {
                Some(last) if is_over => self.table.move_to(last, Segment::Probation),
                _ => return,
            }
        }
    }

    /// Recomputes every counter and compares.
    #[cfg(test)]
    pub(crate) fn validate(&self) {
        self.table.validate();
    }

    fn age(&mut self) {
        if self.uses >= AGE * self.table.len().max(64) {
            self.uses /= 2;
            self.epoch = self.epoch.wrapping_add(1);
            if let Some(past) = &mut self.past {
                past.sketch.halve();
            }
        }
    }

    /// Makes the sketch and the ghosts, or larger ones if many more items are kept now.
    fn remember(&mut self) {
        let kept = self.table.len();
        if self.past.as_ref().is_none_or(|past| kept > 2 * past.kept) {
            self.past = Some(Box::new(Past {
                sketch: Sketch::new(kept),
                ghosts: Ghosts::new(kept),
                kept,
            }));
        }
    }
}

/// The last item of main.
fn last_of_main<T: Item>(table: &Table<T>) -> Option<At> {
    table
        .last(Segment::Probation)
        .or_else(|| table.last(Segment::Protected))
}

impl<T> std::fmt::Debug for Policy<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Policy").finish_non_exhaustive()
    }
}

/// The bytes that an item of this type takes, with its links.
#[cfg(test)]
pub(crate) const fn cell_bytes<T>() -> usize {
    size_of::<Cell<T>>()
}

#[cfg(test)]
mod tests;
