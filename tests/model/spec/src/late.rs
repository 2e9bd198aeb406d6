//! What reaches a node late: pending removals, and removals that a request tells of.

use crate::fault::Fault;
use crate::msg::Msg;
use crate::setup::{Key, Mask, NodeId, Setup, bit, members};
use crate::state::{Stage, State, Table, Tombs, Val};
use crate::witness::Seen;

impl Setup {
    /// Whether a node can deliver to a peer what it has still to be told: changes that their callers are
    /// still sending are not delivered.
    pub(crate) fn deliverable(
        &self,
        state: &State,
        from: NodeId,
        to: NodeId,
        copies: bool,
    ) -> Mask {
        let node = &state.nodes[from as usize];
        let open = if copies { node.copies } else { node.pending }[to as usize];
        let is_sent = |change: &u8| {
            let stage = state.changes[*change as usize].stage;
            self.caller(*change) == from && stage != Stage::Done && stage != Stage::Lost
        };
        let is_on_its_way = |msg: &Msg| match *msg {
            Msg::Late {
                from: one,
                to: other,
                copies: kind,
                ..
            } => (one, other, kind) == (from, to, copies),
            Msg::LateDone {
                from: other,
                to: one,
                copies: kind,
                ..
            } => (one, other, kind) == (from, to, copies),
            _ => false,
        };
        if state.msgs.iter().any(is_on_its_way) {
            return 0;
        }
        members(open)
            .filter(|change| !is_sent(change))
            .fold(0, |mask, change| mask | bit(change))
    }

    /// Pending removals arrive.
    pub(crate) fn take_late(
        &self,
        state: &mut State,
        from: NodeId,
        to: NodeId,
        changes: Mask,
        copies: bool,
    ) {
        for change in members(changes) {
            for key in self.keys_of(change) {
                if copies {
                    self.drop_copies(state, to, key);
                    self.seen.note(Seen::CopiesRemoved);
                } else {
                    self.mark(state, to, key, Table::Loads);
                    self.mark(state, to, key, Table::Fetches);
                    self.drop_key(state, to, key);
                    let slot = &mut state.nodes[to as usize].slots[key as usize];
                    slot.tombs.told |= bit(change);
                    slot.tombs.by_marks &= !bit(change);
                    slot.tombs.applied |= bit(change);
                }
            }
        }
        state.msgs.push(Msg::LateDone {
            from: to,
            to: from,
            changes,
            copies,
        });
    }

    /// Whether the memory of removals may end: long after everything else.
    pub(crate) fn may_forget(&self, state: &State) -> bool {
        state.remembers && state.flights.is_empty() && state.msgs.is_empty()
    }

    /// No node knows any more what was removed. Copies, and what deputies were handed, do not live that long.
    pub(crate) fn forget(&self, state: &mut State) {
        state.remembers = false;
        let slots = state.nodes.iter_mut().flat_map(|node| &mut node.slots);
        for slot in slots {
            slot.tombs = Tombs::default();
            slot.hot = None;
            slot.main = slot
                .main
                .filter(|val| !val.handed || self.has(Fault::LiveOn));
        }
    }

    /// Whether nothing is in memory that a deputy was handed before the memory of removals ended.
    pub(crate) fn has_let_go(&self, state: &State) -> bool {
        let mut slots = state.nodes.iter().flat_map(|node| &node.slots);
        let is_handed = |val: &Val| val.handed;
        state.remembers || !slots.any(|slot| slot.main.as_ref().is_some_and(is_handed))
    }

    /// A request says which removals of its key the asker knows of: those that this node has not carried
    /// out, it carries out first.
    pub(crate) fn learn(&self, state: &mut State, node: NodeId, key: Key, removed: Mask) {
        let open = removed & !state.nodes[node as usize].slots[key as usize].tombs.applied;
        if open == 0 || self.has(Fault::IgnoreStamps) {
            return;
        }
        self.seen.note(Seen::Learned);
        self.mark(state, node, key, Table::Loads);
        self.mark(state, node, key, Table::Fetches);
        self.drop_key(state, node, key);
    }

    /// A peer has answered pending removals: the others may have fetched old values from it.
    pub(crate) fn late_done(
        &self,
        state: &mut State,
        peer: NodeId,
        to: NodeId,
        changes: Mask,
        copies: bool,
    ) {
        self.seen.note(Seen::Delivered);
        let list = self.lists[0] | self.lists[1];
        let node = &mut state.nodes[to as usize];
        match copies {
            true => node.copies[peer as usize] &= !changes,
            false => {
                node.pending[peer as usize] &= !changes;
                for other in members(list & !bit(peer) & !bit(to)) {
                    if !self.has(Fault::NoCopyRemovals) {
                        node.copies[other as usize] |= changes;
                    }
                }
                members(changes)
                    .for_each(|change| state.changes[change as usize].late |= bit(peer));
            }
        }
    }
}
