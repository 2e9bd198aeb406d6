//! In which order the nodes are told of a change.

use crate::fault::Fault;
use crate::msg::Msg;
use crate::setup::{Key, Kind, Mask, NodeId, Protocol, Setup, bit, members};
use crate::state::{Stage, State};
use crate::witness::Seen;

/// The rounds in which all nodes are told of a clear.
const ROUNDS: u8 = 2;

/// The same, where a deputy answers from copies.
const ROUNDS_WITH_COPIES_OF_DEPUTIES: u8 = 3;

impl Setup {
    /// Begins to tell all nodes of the list.
    pub(crate) fn start_pass(&self, state: &mut State, change: u8) {
        let caller = self.caller(change);
        let ring = self.ring(state, caller);
        let list = self.list(&state.nodes[caller as usize]);
        self.end_generation(state, change);
        // For peers that ask what was removed, as they start.
        if self.is_coded() && !self.has(Fault::NotedLate) {
            self.note(state, caller, change);
        }
        let it = &mut state.changes[change as usize];
        (it.list, it.ring, it.waiting, it.stage) = (list, ring, 0, Stage::First(0));
        let (Kind::Remove(key) | Kind::Set(key)) = self.kind(change) else {
            return self.clear_round(state, change, 0);
        };
        if self.has(Fault::OwnerWithOthers) {
            return self.invalidate(state, caller, change, None);
        }
        if self.is_coded() && self.has(Fault::CallerBeforeDeputy) {
            return self.drop_own(state, change);
        }
        self.tell_first(state, change, key);
    }

    /// Tells the owner, and its deputy at the same time where the protocol has it so; or carries the change
    /// out here, where this node is the owner.
    fn tell_first(&self, state: &mut State, change: u8, key: Key) {
        let it = &state.changes[change as usize];
        let (caller, ring, list) = (self.caller(change), it.ring, it.list);
        let first = match self.has(Fault::DeputyBeforeOwner) {
            true => self.ranked(key, ring, 1),
            false => self.ranked(key, ring, 0),
        };
        let Some(first) = first.filter(|&first| first != caller && list & bit(first) != 0) else {
            return self.invalidate(state, caller, change, None);
        };
        let deputy = self.deputy_to_tell(key, ring, list & !bit(caller));
        let with_deputy = if self.is_coded() { deputy } else { 0 };
        self.tell(state, change, bit(first) | with_deputy);
    }

    /// Has the caller drop its own copy.
    fn drop_own(&self, state: &mut State, change: u8) {
        state.changes[change as usize].stage = Stage::Own;
        self.invalidate(state, self.caller(change), change, None);
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

    /// Sends a change to these nodes; a set brings its value to the owner.
    fn tell(&self, state: &mut State, change: u8, to: Mask) {
        let it = &mut state.changes[change as usize];
        it.waiting = to;
        let (ring, is_first) = (it.ring, it.stage == Stage::First(0));
        for to in members(to) {
            let is_owner = |key| self.ranked(key, ring, 0) == Some(to);
            let put = match self.kind(change) {
                Kind::Set(key) => is_first && is_owner(key),
                Kind::Remove(_) | Kind::Clear => false,
            };
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
    pub(crate) fn go_on(&self, state: &mut State, change: u8, is_local: bool) {
        let it = state.changes[change as usize];
        if it.waiting != 0 {
            return;
        }
        let caller = self.caller(change);
        let others = it.list & !bit(caller);
        match (self.kind(change), it.stage) {
            (Kind::Clear, Stage::First(_)) if is_local => {
                self.tell(state, change, others);
                if others == 0 {
                    self.end_pass(state, change);
                }
            }
            (Kind::Clear, Stage::First(round)) => {
                let rounds = match self.protocol {
                    Protocol::Deputies => ROUNDS_WITH_COPIES_OF_DEPUTIES,
                    Protocol::Alone | Protocol::Coded => ROUNDS,
                };
                match round + 1 < rounds - u8::from(self.has(Fault::OneRoundLess)) {
                    true => self.clear_round(state, change, round + 1),
                    false => self.end_pass(state, change),
                }
            }
            (Kind::Remove(key) | Kind::Set(key), stage) if self.is_coded() => {
                self.go_on_coded(state, change, key, stage);
            }
            (Kind::Remove(key) | Kind::Set(key), Stage::First(_)) => {
                let deputy = self.deputy_to_tell(key, it.ring, others);
                let is_owner = self.is_owner_of(key, it.ring, caller);
                let is_early = self.has(Fault::CallerBeforeDeputy);
                match (is_local, deputy) {
                    // The caller drops its copy after the deputy, or it may fetch the old value there.
                    (false, 0) => self.invalidate(state, caller, change, None),
                    (false, _) if is_early => self.invalidate(state, caller, change, None),
                    (true, 0) => self.tell_others(state, change),
                    (true, _) if !is_owner && !is_early => self.tell_others(state, change),
                    (_, deputy) => {
                        state.changes[change as usize].stage = Stage::Deputy;
                        self.tell(state, change, deputy);
                    }
                }
            }
            (Kind::Remove(key) | Kind::Set(key), Stage::Deputy) => {
                let is_owner = self.is_owner_of(key, it.ring, caller);
                match is_local || is_owner || self.has(Fault::CallerBeforeDeputy) {
                    true => self.tell_others(state, change),
                    false => self.invalidate(state, caller, change, None),
                }
            }
            _ => self.end_pass(state, change),
        }
    }

    /// As `go_on`, in two rounds: the owner and the deputy, then the others and, unless this node owns the
    /// key, the deputy again: it may have fetched a copy before the owner was told.
    fn go_on_coded(&self, state: &mut State, change: u8, key: Key, stage: Stage) {
        let it = state.changes[change as usize];
        let caller = self.caller(change);
        let deputy = self.deputy_to_tell(key, it.ring, it.list & !bit(caller));
        match (stage, self.is_owner_of(key, it.ring, caller)) {
            (Stage::First(_), true) if deputy != 0 => {
                state.changes[change as usize].stage = Stage::Deputy;
                self.tell(state, change, deputy);
            }
            (Stage::First(_), true) => self.tell_others(state, change),
            (Stage::First(_), false) if self.has(Fault::OwnerWithOthers) => {
                self.tell_others(state, change);
            }
            (Stage::First(_), false) if !self.has(Fault::CallerBeforeDeputy) => {
                self.drop_own(state, change);
            }
            (Stage::Own, _) if self.has(Fault::CallerBeforeDeputy) => {
                state.changes[change as usize].stage = Stage::First(0);
                self.tell_first(state, change, key);
            }
            (Stage::Others, _) => self.end_pass(state, change),
            _ => self.tell_others(state, change),
        }
    }

    /// Whether a node carries a change out as the owner: by this ring, or as there is nobody else.
    fn is_owner_of(&self, key: Key, ring: Mask, node: NodeId) -> bool {
        self.ranked(key, ring, 0).is_none_or(|owner| owner == node)
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
            if !self.has(Fault::OwnerWithOthers) && !self.owner_again {
                told |= first.map_or(0, bit);
            }
            if it.stage == Stage::Deputy || self.is_coded() && self.has(Fault::DeputyToldOnce) {
                told |= self.ranked(key, it.ring, 1).map_or(0, bit);
            }
        }
        state.changes[change as usize].stage = Stage::Others;
        self.tell(state, change, it.list & !told);
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
}
