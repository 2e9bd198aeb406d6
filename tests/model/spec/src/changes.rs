//! `remove`, `set` and `clear`: from the call to its return, and what every node does with them.

use crate::fault::Fault;
use crate::msg::Msg;
use crate::setup::{Key, Kind, NodeId, Setup, bit, members};
use crate::state::{Flight, Role, Slot, State, Table, Val, Work};
use crate::witness::Seen;

impl Setup {
    /// The application makes a change: it is recorded before any peer is told.
    pub(crate) fn begin_change(&self, state: &mut State, change: u8) {
        let caller = self.caller(change);
        state.changes[change as usize].after = state.done();
        // Peers that have left the list receive removals for a time.
        let node = &mut state.nodes[caller as usize];
        let left = (self.lists[0] | self.lists[1]) & !self.list(node) & !bit(caller);
        if node.view == 1 {
            members(left).for_each(|peer| node.pending[peer as usize] |= bit(change));
        }
        self.start_pass(state, change);
    }

    /// A peer has answered a change.
    pub(crate) fn told(&self, state: &mut State, change: u8, by: NodeId, other_ring: bool) {
        let it = &mut state.changes[change as usize];
        it.waiting &= !bit(by);
        it.met_other_ring |= other_ring;
        self.go_on(state, change, false);
    }

    /// A peer has not answered a change in time: the error names it, and it is told later.
    pub(crate) fn miss(&self, state: &mut State, change: u8, peer: NodeId) {
        for msg in &mut state.msgs {
            match msg {
                Msg::Tell {
                    to,
                    change: other,
                    awaited,
                    ..
                } if (*to, *other) == (peer, change) => *awaited = false,
                _ => {}
            }
        }
        for work in &mut state.works {
            if (work.node, work.change, work.remote) == (peer, change, true) {
                work.awaited = false;
            }
        }
        let is_answer = |msg: &Msg| matches!(msg, Msg::Told { by, change: other, .. } if (*by, *other) == (peer, change));
        state.msgs.retain(|msg| !is_answer(msg));
        let it = &mut state.changes[change as usize];
        it.waiting &= !bit(peer);
        it.unreached |= bit(peer);
        let key = match self.kind(change) {
            Kind::Remove(key) | Kind::Set(key) => Some(key),
            Kind::Clear => None,
        };
        let is_owner = |key| self.ranked(key, it.ring, 0) == Some(peer);
        let is_kept = !self.has(Fault::NotPending)
            && (!self.has(Fault::LateToOwnersOnly) || key.is_none_or(is_owner));
        if is_kept {
            let caller = self.caller(change);
            state.nodes[caller as usize].pending[peer as usize] |= bit(change);
        }
        self.go_on(state, change, false);
    }

    /// A change arrives.
    pub(crate) fn take_change(
        &self,
        state: &mut State,
        node: NodeId,
        change: u8,
        put: bool,
        awaited: bool,
    ) {
        if let (Kind::Set(key), true) = (self.kind(change), put) {
            let tombs = &state.nodes[node as usize].slots[key as usize].tombs;
            if self.is_superseded(tombs, change) && !self.has(Fault::LateSet) {
                self.seen.note(Seen::Superseded);
            } else {
                self.put(state, node, key, change);
            }
            return self.acknowledge(state, node, change, awaited);
        }
        self.invalidate(state, node, change, Some(awaited));
    }

    fn acknowledge(&self, state: &mut State, node: NodeId, change: u8, awaited: bool) {
        if awaited {
            let other_ring = self.ring(state, node) != self.ring(state, self.caller(change));
            state.msgs.push(Msg::Told {
                by: node,
                change,
                other_ring,
            });
        }
    }

    /// Sets a value: what is under way is not kept, and nothing older stays.
    fn put(&self, state: &mut State, node: NodeId, key: Key, change: u8) {
        let begun = self.begun(state, key);
        // The changes that began after the set are not in it.
        let begun = begun & state.changes[change as usize].after | bit(change);
        self.mark(state, node, key, Table::Loads);
        self.mark(state, node, key, Table::Fetches);
        let slot = &mut state.nodes[node as usize].slots[key as usize];
        slot.tombs.told |= bit(change);
        slot.tombs.by_marks &= !bit(change);
        slot.tombs.applied |= bit(change);
        let val = Val {
            begun,
            set_by: Some(change),
            via: 0,
            handed: false,
        };
        *slot = Slot {
            main: Some(val),
            hot: None,
            spare: None,
            ..*slot
        };
    }

    /// Carries a removal out on a node: `remote` is for a caller elsewhere, with whether it still waits.
    pub(crate) fn invalidate(
        &self,
        state: &mut State,
        node: NodeId,
        change: u8,
        remote: Option<bool>,
    ) {
        if let (Kind::Set(key), None) = (self.kind(change), remote) {
            let owner = self.ranked(key, state.changes[change as usize].ring, 0);
            if owner.is_none_or(|owner| owner == node) {
                self.put(state, node, key, change);
                return self.go_on(state, change, true);
            }
        }
        self.note(state, node, change);
        let (remote, awaited) = (remote.is_some(), remote.unwrap_or(false));
        let mut work = Work {
            node,
            change,
            step: 0,
            remote,
            awaited,
        };
        self.mark_keys(state, &work, Fault::NoMarkBefore);
        if self.fine {
            state.works.push(work);
            return;
        }
        self.drop_values(state, &work);
        work.step = 1;
        self.end_work(state, work);
    }

    /// Notes a removal in the tombstones of a node.
    pub(crate) fn note(&self, state: &mut State, node: NodeId, change: u8) {
        for key in self.keys_of(change) {
            let tombs = &mut state.nodes[node as usize].slots[key as usize].tombs;
            tombs.told |= bit(change);
            tombs.by_marks &= !bit(change);
        }
    }

    /// The next step of a removal.
    pub(crate) fn work(&self, state: &mut State, at: usize) {
        let mut work = state.works.remove(at);
        match work.step {
            0 => {
                self.drop_values(state, &work);
                work.step = 1;
                state.works.push(work);
            }
            _ => self.end_work(state, work),
        }
    }

    fn end_work(&self, state: &mut State, work: Work) {
        self.mark_keys(state, &work, Fault::NoMarkAfter);
        for key in self.keys_of(work.change) {
            state.nodes[work.node as usize].slots[key as usize]
                .tombs
                .applied |= bit(work.change);
        }
        match work.remote {
            true => self.acknowledge(state, work.node, work.change, work.awaited),
            false => self.go_on(state, work.change, true),
        }
    }

    fn mark_keys(&self, state: &mut State, work: &Work, missing: Fault) {
        if self.has(missing) {
            return;
        }
        for key in self.keys_of(work.change) {
            self.mark(state, work.node, key, Table::Loads);
            self.mark(state, work.node, key, Table::Fetches);
        }
    }

    fn drop_values(&self, state: &mut State, work: &Work) {
        for key in self.keys_of(work.change) {
            let is_spared = self.kind(work.change) == Kind::Clear
                && self.has(Fault::ClearKeepsDeputy)
                && self.ranked(key, self.ring(state, work.node), 0) != Some(work.node);
            if !is_spared {
                self.drop_key(state, work.node, key);
            }
        }
    }

    /// Drops what a node has of a key.
    pub(crate) fn drop_key(&self, state: &mut State, node: NodeId, key: Key) {
        let is_deputy =
            self.is_coded() && self.ranked(key, self.ring(state, node), 0) != Some(node);
        let slot = &mut state.nodes[node as usize].slots[key as usize];
        if slot.main.is_some() && is_deputy {
            self.seen.note(Seen::SpareDropped);
        }
        if !(is_deputy && self.has(Fault::DeputyNotTold)) {
            slot.main = None;
        }
        self.drop_slot(slot, true);
    }

    /// Drops what a node has of a key that another one owns. In the protocol of the code these are all
    /// values but those in the main memory of the owner.
    pub(crate) fn drop_copies(&self, state: &mut State, node: NodeId, key: Key) {
        self.mark(state, node, key, Table::Fetches);
        let is_owner = self.ranked(key, self.ring(state, node), 0) == Some(node);
        if self.is_coded() {
            self.mark(state, node, key, Table::Loads);
        }
        let slot = &mut state.nodes[node as usize].slots[key as usize];
        if self.is_coded() && !is_owner && !self.has(Fault::CopiesWithoutSpare) {
            slot.main = None;
        }
        self.drop_slot(slot, false);
    }

    /// Drops a copy, and what a deputy has of its own.
    fn drop_slot(&self, slot: &mut Slot, is_all: bool) {
        if slot.hot.is_some() && !self.has(Fault::KeepCopies) {
            self.seen.note(Seen::CopyDropped);
            slot.hot = None;
        }
        let is_spared =
            self.has(Fault::DeputyNotTold) || !is_all && self.has(Fault::CopiesWithoutSpare);
        if slot.spare.is_some() && !is_spared {
            self.seen.note(Seen::SpareDropped);
            slot.spare = None;
        }
    }

    /// Marks the flights of a key: nobody joins them any more, and what they bring is not kept.
    pub(crate) fn mark(&self, state: &mut State, node: NodeId, key: Key, table: Table) {
        let is_it = |flight: &&mut Flight| {
            let spares = self.has(Fault::OfferNotMarked) && flight.role == Role::Offered;
            let of_key = (flight.node, flight.key, flight.table) == (node, key, table);
            of_key && !flight.stale && !spares
        };
        for flight in state.flights.iter_mut().filter(is_it) {
            match self.has(Fault::JoinStale) {
                true => flight.behind = true,
                false => {
                    self.seen.note(Seen::Marked);
                    flight.stale = true;
                }
            }
        }
    }
}
