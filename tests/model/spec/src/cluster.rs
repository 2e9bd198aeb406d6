//! Nodes that crash, return, leave, and see another list.

use crate::fault::Fault;
use crate::msg::Msg;
use crate::setup::{Key, Mask, NodeId, Protocol, Setup, bit, members};
use crate::state::{Ask, At, Flight, Node, Slot, Stage, State};
use crate::witness::Seen;

impl Setup {
    /// A process ends, and everything that it had in memory with it. Nobody reaches the process that
    /// follows by an old connection.
    pub(crate) fn crash(&self, state: &mut State, gone: NodeId) {
        if self.counts {
            self.allow_for_crash(state, gone);
        }
        let node = &mut state.nodes[gone as usize];
        let owed: Mask = node
            .pending
            .iter()
            .chain(&node.copies)
            .fold(0, |all, mask| all | mask);
        *node = Node {
            up: false,
            view: node.view,
            ..Node::default()
        };
        while let Some(at) = state.flights.iter().position(|flight| flight.node == gone) {
            state.take_flight(at as u8);
        }
        state.works.retain(|work| work.node != gone);
        for (at, change) in state.changes.iter_mut().enumerate() {
            let is_running = !matches!(change.stage, Stage::Planned | Stage::Done);
            if is_running && self.caller(at as u8) == gone {
                change.stage = Stage::Lost;
                change.waiting = 0;
            }
            change.forgotten |= owed & bit(at as u8) != 0 || change.stage == Stage::Lost;
        }
        let caller = |change: u8| self.caller(change);
        state.msgs.retain_mut(|msg| match msg {
            Msg::Tell {
                to,
                change,
                awaited,
                ..
            } => {
                *awaited &= caller(*change) != gone;
                *to != gone
            }
            Msg::Told { change, .. } => caller(*change) != gone,
            Msg::Ask { to, .. }
            | Msg::Late { to, .. }
            | Msg::LateDone { to, .. }
            | Msg::Departure { to, .. }
            | Msg::Offer { to, .. } => *to != gone,
            Msg::Answer { .. } => true,
        });
        for work in &mut state.works {
            work.awaited &= !(work.remote && caller(work.change) == gone);
        }
    }

    /// The loads that a crash costs at most: that of each process that had the value from nowhere else,
    /// or that of the deputy alone; none if the deputy has been handed the value. In a crash of the deputy
    /// it is that of the next one, and of each process that has just asked the deputy.
    fn allow_for_crash(&self, state: &mut State, gone: NodeId) {
        for key in 0..self.keys {
            let is_owner = self.ranked(key, self.lists[0], 0) == Some(gone);
            let is_loading = state.flights.iter().any(|flight| {
                (flight.node, flight.key) == (gone, key) && matches!(flight.at, At::Loading(_))
            });
            let asks = |flight: &&Flight| {
                let is_it = matches!(flight.at, At::Asking(to, Ask::Deputy) if to == gone);
                flight.key == key && is_it
            };
            let cost = match (is_owner, self.protocol) {
                (true, Protocol::Alone) => self.nodes.count_ones() as u8 - 1,
                (true, Protocol::Coded) => u8::from(!self.has_it(state, key)),
                (true, Protocol::Deputies) => 1,
                (false, Protocol::Coded) if state.crashes | bit(gone) != self.crashes => {
                    1 + state.flights.iter().filter(asks).count() as u8
                }
                (false, _) => u8::from(is_loading),
            };
            state.allowed[key as usize] += cost;
        }
    }

    /// Whether the deputy of a key has it in main memory.
    fn has_it(&self, state: &State, key: Key) -> bool {
        let deputy = self.ranked(key, self.lists[0], 1);
        let slot = |node: NodeId| &state.nodes[node as usize].slots[key as usize];
        let has_it = deputy.is_some_and(|deputy| slot(deputy).main.is_some());
        if has_it {
            self.seen.note(Seen::HadIt);
        }
        has_it
    }

    /// A process starts where one has crashed, with empty memory.
    pub(crate) fn return_empty(&self, state: &mut State, back: NodeId) {
        self.seen.note(Seen::Returned);
        let list = self.lists[state.nodes[back as usize].view as usize];
        let node = &mut state.nodes[back as usize];
        // A node that was alone takes for the former owner of a key who would own it without this node.
        *node = Node {
            up: true,
            view: node.view,
            former: list & !bit(back),
            ..Node::default()
        };
        for key in 0..self.keys {
            let is_owner = self.ranked(key, list, 0) == Some(back);
            let is_wanted = state.flights.iter().any(|flight| flight.key == key);
            // What is being loaded elsewhere, or will be, is not in memory there yet.
            let is_new_load = is_owner && (!self.has_deputies() || is_wanted);
            state.allowed[key as usize] += u8::from(self.counts && is_new_load);
        }
    }

    /// A node sees the second list.
    pub(crate) fn see_list(&self, state: &mut State, at: NodeId) {
        let before = self.ring(state, at);
        state.nodes[at as usize].view = 1;
        let after = self.ring(state, at);
        let [old, new] = self.lists;
        let (mut begun, mut open): (Mask, Mask) = (0, 0);
        for (change, it) in state.changes.iter().enumerate() {
            let own = if self.caller(change as u8) == at {
                bit(change as u8)
            } else {
                0
            };
            begun |= if it.stage == Stage::Planned { 0 } else { own };
            open |= if matches!(it.stage, Stage::Planned | Stage::Done | Stage::Lost) {
                0
            } else {
                own
            };
        }
        let node = &mut state.nodes[at as usize];
        if before != after {
            node.former = before;
        }
        for peer in members((new & !old) & !bit(at)) {
            if !self.has(Fault::NewcomerNotTold) {
                node.pending[peer as usize] |= begun;
            }
        }
        members((old & !new) & !bit(at)).for_each(|peer| node.pending[peer as usize] |= open);
        // A node that is in no list receives no removals: it keeps nothing from before, or from then.
        if (old ^ new) & bit(at) != 0 {
            node.synced = 0;
            for slot in &mut node.slots {
                *slot = Slot {
                    tombs: slot.tombs,
                    ..Slot::default()
                };
            }
            for flight in state.flights.iter_mut().filter(|flight| flight.node == at) {
                flight.stale = true;
            }
        }
    }

    /// A node takes itself off the ring, and says so to all.
    pub(crate) fn leave(&self, state: &mut State, who: NodeId) {
        let before = self.ring(state, who);
        let node = &mut state.nodes[who as usize];
        node.leaving = true;
        node.former = before;
        let list = self.list(node);
        for to in members(list & !bit(who)) {
            state.msgs.push(Msg::Departure { who, to });
        }
    }

    /// A node hears that another one leaves.
    pub(crate) fn take_departure(&self, state: &mut State, at: NodeId, who: NodeId) {
        let before = self.ring(state, at);
        let node = &mut state.nodes[at as usize];
        node.left |= bit(who);
        node.former = before;
    }

    /// A node that leaves gives what it has still to tell to others, and ends.
    pub(crate) fn stop(&self, state: &mut State, who: NodeId) {
        let node = state.nodes[who as usize];
        for peer in members(self.nodes & !bit(who)) {
            let owed = node.pending[peer as usize] | node.copies[peer as usize];
            let mut successors = members(self.nodes & !bit(who) & !bit(peer));
            let successor = successors.find(|&other| state.nodes[other as usize].up);
            let Some(successor) = successor.filter(|_| owed != 0 && !self.has(Fault::NoHandOver))
            else {
                continue;
            };
            self.seen.note(Seen::HandedOver);
            state.nodes[successor as usize].pending[peer as usize] |= owed;
            // Its own copies may come from that peer.
            for key in members(owed).flat_map(|change| self.keys_of(change)) {
                self.drop_copies(state, successor, key);
            }
        }
        let forgotten: Vec<bool> = state
            .changes
            .iter()
            .map(|change| change.forgotten)
            .collect();
        self.crash(state, who);
        for (change, before) in state.changes.iter_mut().zip(forgotten) {
            change.forgotten = before || change.stage == Stage::Lost;
        }
    }

    /// Whether all who have still to be told of what has returned will be: someone who lives knows it.
    pub(crate) fn is_owed(&self, state: &State) -> bool {
        let is_known = |change: u8, it: &crate::state::Change| {
            let caller = self.caller(change);
            let node = &state.nodes[caller as usize];
            let known = if node.view == 1 {
                self.lists[0] | self.lists[1]
            } else {
                self.lists[0]
            };
            let missed = known & !it.reached & !it.late & !bit(caller);
            members(missed).all(|peer| {
                let knows = |node: &Node| node.up && node.pending[peer as usize] & bit(change) != 0;
                state.nodes.iter().any(knows)
            })
        };
        state
            .changes
            .iter()
            .enumerate()
            .all(|(at, it)| it.stage != Stage::Done || it.forgotten || is_known(at as u8, it))
    }
}
