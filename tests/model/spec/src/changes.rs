//! `remove`, `set` and `clear`: from the call to its return, and what every node does with them.

use crate::setup::{Fault, Key, Kind, Mask, NodeId, Setup, bit, members};
use crate::state::{Msg, Slot, Stage, State, Table, Val, Work};
use crate::witness::Seen;

/// The rounds in which all nodes are told of a clear.
const ROUNDS_TODAY: u8 = 2;
const ROUNDS_WITH_DEPUTIES: u8 = 3;

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

    fn start_pass(&self, state: &mut State, change: u8) {
        let caller = self.caller(change);
        let ring = self.ring(state, caller);
        let list = self.list(&state.nodes[caller as usize]);
        self.end_generation(state, change);
        let it = &mut state.changes[change as usize];
        (it.list, it.ring, it.waiting, it.stage) = (list, ring, 0, Stage::First(0));
        let (Kind::Remove(key) | Kind::Set(key)) = self.kind(change) else {
            return self.clear_round(state, change, 0);
        };
        if self.has(Fault::OwnerWithOthers) {
            return self.invalidate(state, caller, change, None);
        }
        let first = match self.has(Fault::DeputyBeforeOwner) {
            true => self.ranked(key, ring, 1),
            false => self.ranked(key, ring, 0),
        };
        match first {
            Some(owner) if owner != caller && list & bit(owner) != 0 => {
                let put = matches!(self.kind(change), Kind::Set(_));
                self.tell(state, change, bit(owner), put);
            }
            _ => self.invalidate(state, caller, change, None),
        }
    }

    /// A round of a clear: here, and then at all others.
    fn clear_round(&self, state: &mut State, change: u8, round: u8) {
        if round > 0 {
            self.end_generation(state, change);
        }
        state.changes[change as usize].stage = Stage::First(round);
        self.invalidate(state, self.caller(change), change, None);
    }

    /// The owner is about to drop what it has: one more load is due (P1).
    fn end_generation(&self, state: &mut State, change: u8) {
        for key in self.keys_of(change) {
            state.allowed[key as usize] += u8::from(self.counts);
        }
    }

    fn tell(&self, state: &mut State, change: u8, to: Mask, put: bool) {
        state.changes[change as usize].waiting = to;
        for to in members(to) {
            state.msgs.push(Msg::Tell {
                to,
                change,
                put,
                awaited: true,
            });
        }
    }

    /// Goes on with a change once all have answered whom this stage tells, or once it has been carried
    /// out on the node of its caller.
    fn go_on(&self, state: &mut State, change: u8, is_local: bool) {
        let it = state.changes[change as usize];
        if it.waiting != 0 {
            return;
        }
        let caller = self.caller(change);
        let others = it.list & !bit(caller);
        match (self.kind(change), it.stage) {
            (Kind::Clear, Stage::First(_)) if is_local => {
                self.tell(state, change, others, false);
                if others == 0 {
                    self.end_pass(state, change);
                }
            }
            (Kind::Clear, Stage::First(round)) => {
                let rounds = match self.has_deputies() {
                    true => ROUNDS_WITH_DEPUTIES,
                    false => ROUNDS_TODAY,
                };
                match round + 1 < rounds - u8::from(self.has(Fault::OneRoundLess)) {
                    true => self.clear_round(state, change, round + 1),
                    false => self.end_pass(state, change),
                }
            }
            (Kind::Remove(key) | Kind::Set(key), Stage::First(_)) => {
                let deputy = self.deputy_to_tell(key, it.ring, others);
                let is_owner = self
                    .ranked(key, it.ring, 0)
                    .is_none_or(|owner| owner == caller);
                let is_early = self.has(Fault::CallerBeforeDeputy);
                match (is_local, deputy) {
                    // The caller drops its copy after the deputy, or it may fetch the old value there.
                    (false, 0) => self.invalidate(state, caller, change, None),
                    (false, _) if is_early => self.invalidate(state, caller, change, None),
                    (true, 0) => self.tell_others(state, change),
                    (true, _) if !is_owner && !is_early => self.tell_others(state, change),
                    (_, deputy) => {
                        state.changes[change as usize].stage = Stage::Deputy;
                        self.tell(state, change, deputy, false);
                    }
                }
            }
            (Kind::Remove(key) | Kind::Set(key), Stage::Deputy) => {
                let is_owner = self
                    .ranked(key, it.ring, 0)
                    .is_none_or(|owner| owner == caller);
                match is_local || is_owner || self.has(Fault::CallerBeforeDeputy) {
                    true => self.tell_others(state, change),
                    false => self.invalidate(state, caller, change, None),
                }
            }
            _ => self.end_pass(state, change),
        }
    }

    /// The deputy, where it is told before the others and is not the caller itself.
    fn deputy_to_tell(&self, key: Key, ring: Mask, others: Mask) -> Mask {
        let is_first = self.has_deputies()
            && !self.has(Fault::DeputyWithOthers)
            && !self.has(Fault::DeputyBeforeOwner)
            && !self.has(Fault::OwnerWithOthers);
        let deputy = self.ranked(key, ring, 1).map_or(0, bit) & others;
        if is_first { deputy } else { 0 }
    }

    /// Tells all who were not told before.
    fn tell_others(&self, state: &mut State, change: u8) {
        let it = state.changes[change as usize];
        let caller = self.caller(change);
        let mut told = bit(caller);
        if let Kind::Remove(key) | Kind::Set(key) = self.kind(change) {
            let first = match self.has(Fault::DeputyBeforeOwner) {
                true => self.ranked(key, it.ring, 1),
                false => self.ranked(key, it.ring, 0),
            };
            if !self.has(Fault::OwnerWithOthers) {
                told |= first.map_or(0, bit);
            }
            if it.stage == Stage::Deputy {
                told |= self.ranked(key, it.ring, 1).map_or(0, bit);
            }
        }
        state.changes[change as usize].stage = Stage::Others;
        self.tell(state, change, it.list & !told, false);
        self.go_on(state, change, false);
    }

    /// All were told: once more, if the list or a ring was another one, or the call returns.
    fn end_pass(&self, state: &mut State, change: u8) {
        let caller = self.caller(change);
        let it = state.changes[change as usize];
        let list = self.list(&state.nodes[caller as usize]);
        let is_same = list == it.list && self.ring(state, caller) == it.ring;
        if !is_same && !self.has(Fault::ListNotChecked) {
            self.seen.note(Seen::SecondPass);
            return self.start_pass(state, change);
        }
        if it.met_other_ring && !it.again && !self.has(Fault::NoSecondPass) {
            self.seen.note(Seen::SecondPass);
            state.changes[change as usize].again = true;
            return self.start_pass(state, change);
        }
        let it = &mut state.changes[change as usize];
        it.stage = Stage::Done;
        let unreached = if self.has(Fault::NotNamed) {
            0
        } else {
            it.unreached
        };
        it.reached = (list | bit(caller)) & !unreached;
        if it.unreached != 0 {
            self.seen.note(Seen::Named);
        }
        // Nobody asks any more how it was sent.
        (it.waiting, it.list, it.met_other_ring, it.again) = (0, 0, false, false);
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
        };
        *slot = Slot {
            main: Some(val),
            hot: None,
            spare: None,
            ..*slot
        };
    }

    /// Carries a removal out on a node: `remote` is for a caller elsewhere, with whether it still waits.
    fn invalidate(&self, state: &mut State, node: NodeId, change: u8, remote: Option<bool>) {
        if let (Kind::Set(key), None) = (self.kind(change), remote) {
            let owner = self.ranked(key, state.changes[change as usize].ring, 0);
            if owner.is_none_or(|owner| owner == node) {
                self.put(state, node, key, change);
                return self.go_on(state, change, true);
            }
        }
        for key in self.keys_of(change) {
            let tombs = &mut state.nodes[node as usize].slots[key as usize].tombs;
            tombs.told |= bit(change);
            tombs.by_marks &= !bit(change);
        }
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
            let slot = &mut state.nodes[work.node as usize].slots[key as usize];
            self.drop_slot(slot, true);
        }
    }

    pub(crate) fn drop_slot(&self, slot: &mut Slot, of_owner: bool) {
        if of_owner {
            slot.main = None;
        }
        if slot.hot.is_some() && !self.has(Fault::KeepCopies) {
            self.seen.note(Seen::CopyDropped);
            slot.hot = None;
        }
        let is_spared =
            self.has(Fault::DeputyNotTold) || !of_owner && self.has(Fault::CopiesWithoutSpare);
        if slot.spare.is_some() && !is_spared {
            self.seen.note(Seen::SpareDropped);
            slot.spare = None;
        }
    }

    /// Marks the flights of a key: nobody joins them any more, and what they bring is not kept.
    pub(crate) fn mark(&self, state: &mut State, node: NodeId, key: Key, table: Table) {
        if self.has(Fault::JoinStale) {
            for flight in &mut state.flights {
                if (flight.node, flight.key, flight.table) == (node, key, table) {
                    flight.behind = true;
                }
            }
            return;
        }
        while let Some(id) = state.joinable(node, key, table) {
            self.seen.note(Seen::Marked);
            state.flights[id as usize].stale = true;
        }
    }
}
