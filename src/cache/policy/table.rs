//! `Table<T>`: items that are found by their hash and linked in segments, in the cells of one array.
//!
//! The links are indexes into the array, so moving an item from list to list writes a few numbers and
//! allocates nothing, and all of it is safe code.

use hashbrown::HashTable;

/// The index of a cell in the array.
pub(crate) type At = u32;

/// A part of the policy's items, in the order of use (W-TinyLFU over a segmented LRU).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// New items.
    Window,
    /// Items that left the window and were not used since.
    Probation,
    /// Items that were used on probation.
    Protected,
}

#[cfg(test)]
const SEGMENTS: [Segment; 3] = [Segment::Window, Segment::Probation, Segment::Protected];

/// What a policy can keep.
pub(crate) trait Item {
    /// What it is charged for, in bytes.
    fn weight(&self) -> usize;
    /// What the policy notes about it.
    fn marks(&self) -> &Marks;
    fn marks_mut(&mut self) -> &mut Marks;
}

/// What the policy notes about an item, in so few bytes that an item with a short key and its links
/// takes 72.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks {
    /// The low four bits are the count of uses, as of `epoch`; above them is the segment; the top bit
    /// tells whether the item was used since it was last moved.
    packed: u8,
    epoch: u8,
}

/// The highest count of uses.
pub(super) const MAX_COUNT: u8 = 15;

const USED: u8 = 1 << 7;
const ALL: u8 = USED | MAX_COUNT;

/// The index of no cell.
const NONE: At = At::MAX;

/// A full array grows by one in so many: memory matters more than a rare copy of the array.
const GROWTH: usize = 16;

/// The number of cells of the first array: many groups never have more keys.
const FEWEST: usize = 4;

#[repr(C)] // for the same reason as `Policy`
pub(super) struct Table<T> {
    index: HashTable<At>,
    cells: Vec<Cell<T>>,
    /// The first empty cell; `after` links it to the others.
    empty: At,
    lists: [List; 3],
}

pub(super) struct Cell<T> {
    pub(super) hash: u32,
    before: At,
    after: At,
    /// The turn of the last use that was noted.
    pub(super) stamp: u32,
    item: Option<T>,
}

#[derive(Clone, Copy, Debug)]
struct List {
    first: At,
    last: At,
    len: usize,
    bytes: usize,
}

impl<T: Item> Table<T> {
    pub(super) fn new() -> Table<T> {
        Table {
            index: HashTable::new(),
            cells: Vec::new(),
            empty: NONE,
            lists: [List {
                first: NONE,
                last: NONE,
                len: 0,
                bytes: 0,
            }; 3],
        }
    }

    #[inline]
    pub(super) fn find(&self, hash: u32, is: impl Fn(&T) -> bool) -> Option<At> {
        let same = |&at: &At| {
            let item = self.cells[at as usize].item.as_ref();
            item.is_some_and(&is)
        };
        self.index.find(spread(hash), same).copied()
    }

    pub(super) fn find_hash(&self, hash: u32) -> Option<At> {
        let same = |&at: &At| self.cells[at as usize].hash == hash;
        self.index.find(spread(hash), same).copied()
    }

    #[inline]
    pub(super) fn cell(&self, at: At) -> &Cell<T> {
        &self.cells[at as usize]
    }

    #[inline]
    pub(super) fn cell_mut(&mut self, at: At) -> &mut Cell<T> {
        &mut self.cells[at as usize]
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.lists.iter().map(|list| list.bytes).sum()
    }

    pub(super) fn bytes_of(&self, segment: Segment) -> usize {
        self.lists[segment as usize].bytes
    }

    pub(super) fn len_of(&self, segment: Segment) -> usize {
        self.lists[segment as usize].len
    }

    /// The least recently used item of a segment.
    pub(super) fn last(&self, segment: Segment) -> Option<At> {
        let last = self.lists[segment as usize].last;
        (last != NONE).then_some(last)
    }

    /// Inserts an item as the most recently used of its segment.
    pub(super) fn insert(&mut self, segment: Segment, hash: u32, item: T) -> At {
        let cell = Cell {
            hash,
            before: NONE,
            after: NONE,
            stamp: 0,
            item: Some(item),
        };
        let at = self.fill(cell);
        let cells = &self.cells;
        let hash_of = |&at: &At| spread(cells[at as usize].hash);
        self.index.insert_unique(spread(hash), at, hash_of);
        self.link_first(at, segment);
        at
    }

    fn fill(&mut self, cell: Cell<T>) -> At {
        if self.empty != NONE {
            let at = self.empty;
            self.empty = self.cells[at as usize].after;
            self.cells[at as usize] = cell;
            return at;
        }
        if self.cells.len() == self.cells.capacity() {
            let kept = self.cells.len();
            let more = (kept / GROWTH).max(kept.clamp(FEWEST, 16));
            self.cells.reserve_exact(more);
        }
        self.cells.push(cell);
        (self.cells.len() - 1) as At
    }

    /// Takes an item out.
    pub(super) fn remove(&mut self, at: At) -> Option<T> {
        let hash = self.cells[at as usize].hash;
        self.unlink(at);
        if let Ok(found) = self.index.find_entry(spread(hash), |&other| other == at) {
            found.remove();
        }
        let cell = &mut self.cells[at as usize];
        cell.after = self.empty;
        self.empty = at;
        cell.item.take()
    }

    /// Replaces an item; gives back the old one, whose marks the new one takes over.
    pub(super) fn replace(&mut self, at: At, mut item: T) -> Option<T> {
        let cell = &mut self.cells[at as usize];
        let old = cell.item.take()?;
        *item.marks_mut() = *old.marks();
        let list = &mut self.lists[old.marks().segment() as usize];
        list.bytes = list.bytes - old.weight() + item.weight();
        cell.item = Some(item);
        Some(old)
    }

    /// Whether an item was used since the last call for it, or since it was inserted.
    pub(super) fn take_used(&mut self, at: At, turn: u32) -> bool {
        let cell = &mut self.cells[at as usize];
        let Some(item) = &mut cell.item else {
            return false;
        };
        let marks = item.marks_mut();
        let used = marks.packed & USED != 0;
        if marks.packed & ALL == ALL {
            cell.stamp = turn;
        }
        marks.packed &= !USED;
        used
    }

    /// Makes an item the most recently used of a segment.
    pub(super) fn move_to(&mut self, at: At, segment: Segment) {
        if self.lists[segment as usize].first != at {
            self.unlink(at);
            self.link_first(at, segment);
        }
    }

    fn link_first(&mut self, at: At, segment: Segment) {
        let list = &mut self.lists[segment as usize];
        let cell = &mut self.cells[at as usize];
        let weight = cell.weight();
        if let Some(item) = &mut cell.item {
            item.marks_mut().set_segment(segment);
        }
        cell.before = NONE;
        cell.after = list.first;
        list.len += 1;
        list.bytes += weight;
        match list.first {
            NONE => list.last = at,
            first => self.cells[first as usize].before = at,
        }
        list.first = at;
    }

    fn unlink(&mut self, at: At) {
        let cell = &self.cells[at as usize];
        let (before, after, weight) = (cell.before, cell.after, cell.weight());
        let list = &mut self.lists[cell.segment() as usize];
        list.len -= 1;
        list.bytes -= weight;
        match before {
            NONE => list.first = after,
            before => self.cells[before as usize].after = after,
        }
        match after {
            NONE => list.last = before,
            after => self.cells[after as usize].before = before,
        }
    }

    /// All cells with an item, in no order.
    pub(super) fn cells(&self) -> impl Iterator<Item = &Cell<T>> {
        self.cells.iter().filter(|cell| cell.item.is_some())
    }

    pub(super) fn items(&self) -> impl Iterator<Item = (At, &T)> {
        let cells = (0..).zip(&self.cells);
        cells.filter_map(|(at, cell)| Some((at, cell.item.as_ref()?)))
    }

    pub(super) fn into_items(self) -> impl Iterator<Item = T> {
        self.cells.into_iter().filter_map(|cell| cell.item)
    }

    /// Recomputes every counter and compares.
    #[cfg(test)]
    pub(super) fn validate(&self) {
        let mut linked = 0;
        for segment in SEGMENTS {
            let list = &self.lists[segment as usize];
            let (mut at, mut before) = (list.first, NONE);
            let (mut len, mut bytes) = (0, 0);
            while at != NONE {
                let cell = self.cell(at);
                assert_eq!((cell.before, cell.segment()), (before, segment));
                let same = |&other: &At| other == at;
                assert!(self.index.find(spread(cell.hash), same).is_some());
                len += 1;
                bytes += cell.weight();
                (before, at) = (at, cell.after);
            }
            assert_eq!((list.last, list.len), (before, len), "{segment:?}");
            assert_eq!(list.bytes, bytes, "I4 in {segment:?}");
            linked += len;
        }
        assert_eq!(linked, self.index.len());
        assert_eq!(linked, self.cells().count());
    }
}

/// The index uses the low bits and the top bits of a hash: it gets the 32 bits as both.
#[inline]
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl<T: Item> Cell<T> {
    /// Whether another use would change nothing: an item that is used all the time is not written, not
    /// even the turn of its last use. [`take_used`](Table::take_used) sets that turn.
    #[inline]
    pub(super) fn has_all_marks(&self, epoch: u8) -> bool {
        self.item.as_ref().is_none_or(|item| {
            let marks = item.marks();
            marks.packed & ALL == ALL && marks.epoch == epoch
        })
    }

    /// Marks an item as used at `turn`; tells whether its count of uses has increased.
    pub(super) fn mark(&mut self, epoch: u8, turn: u32) -> bool {
        self.stamp = turn;
        let Some(item) = &mut self.item else {
            return false;
        };
        let marks = item.marks_mut();
        let before = marks.uses(epoch);
        marks.set_uses(before + 1, epoch);
        marks.packed |= USED;
        before < MAX_COUNT
    }

    #[inline]
    pub(super) fn item(&self) -> Option<&T> {
        self.item.as_ref()
    }

    #[inline]
    pub(super) fn item_mut(&mut self) -> Option<&mut T> {
        self.item.as_mut()
    }

    pub(super) fn weight(&self) -> usize {
        self.item.as_ref().map_or(0, Item::weight)
    }

    /// The segment of its item. An empty cell has none, and no caller reads it.
    #[inline]
    pub(super) fn segment(&self) -> Segment {
        self.item
            .as_ref()
            .map_or(Segment::Window, |item| item.marks().segment())
    }

    /// The count of uses, as of `epoch`.
    #[inline]
    pub(super) fn uses(&self, epoch: u8) -> u8 {
        self.item
            .as_ref()
            .map_or(0, |item| item.marks().uses(epoch))
    }
}

impl Marks {
    pub(crate) fn new() -> Marks {
        Marks {
            packed: 0,
            epoch: 0,
        }
    }

    #[inline]
    fn segment(&self) -> Segment {
        match self.packed >> 4 & 3 {
            0 => Segment::Window,
            1 => Segment::Probation,
            _ => Segment::Protected,
        }
    }

    #[inline]
    fn set_segment(&mut self, segment: Segment) {
        self.packed = self.packed & !(3 << 4) | (segment as u8) << 4;
    }

    /// The count of uses, halved for each epoch since they were counted.
    #[inline]
    pub(super) fn uses(&self, epoch: u8) -> u8 {
        let halvings = u32::from(epoch.wrapping_sub(self.epoch));
        (self.packed & MAX_COUNT).checked_shr(halvings).unwrap_or(0)
    }

    pub(super) fn set_uses(&mut self, uses: u8, epoch: u8) {
        self.packed = self.packed & !MAX_COUNT | uses.min(MAX_COUNT);
        self.epoch = epoch;
    }
}
