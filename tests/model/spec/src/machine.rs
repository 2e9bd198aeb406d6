//! What can happen in a state, what comes of it, and what must hold.

use stateright::{Model, Property};

use crate::fault::Fault;
use crate::msg::Msg;
use crate::setup::{Key, Mask, NODES, NodeId, Setup, bit, members};
use crate::stand_ins::Instead;
use crate::state::{At, Change, FlightId, Stage, State};

/// P1: the loads of a key are no more than its generations, and what a crash costs.
pub const P1: &str = "P1, one load";

/// P2: a get that begins after a change has returned sees no value whose load began before the change.
pub const P2: &str = "P2, changes hold";

/// I5: a request of a peer is answered here.
pub const I5: &str = "I5, nobody forwards";

/// A node that a change has missed is told later: someone who lives knows of it.
pub const DELIVERED: &str = "what was missed is delivered";

/// What a deputy was handed does not outlive the memory of removals.
pub const LIFE: &str = "what is handed over ends";

/// While there is a flight, something goes on without anything more from outside. As no state comes
/// again, every get ends (`tests/explored.rs` checks that there is no circle).
pub const ENDS: &str = "every get ends";

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The application of a node gets a key; where it is set, it had looked in memory too early.
    Get(NodeId, Key, bool),
    /// A flight looks in memory, and goes on.
    Start(FlightId),
    /// A flight gets the tombstones of the node that it is to take its value over from; and, if so, of
    /// all others.
    Sync(FlightId, NodeId, bool),
    /// A flight takes nothing over, as too much time has passed.
    Skip(FlightId),
    /// The node that a flight has asked does not answer, and this is what it does.
    Fail(FlightId, Instead),
    /// The loader of a flight returns.
    Loaded(FlightId),
    /// A flight ends with what it found.
    Finish(FlightId),
    /// A message arrives.
    Arrive(Msg),
    /// A request arrives, and will arrive once more.
    Repeat(Msg),
    /// The application of a node makes a change.
    Change(u8),
    /// A peer does not answer a change.
    Miss(u8, NodeId),
    /// A removal takes its next step.
    Work(u8),
    /// A node delivers to a peer what it has still to be told; of copies, if so.
    Deliver(NodeId, NodeId, bool),
    /// The memory of removals ends.
    Forget,
    /// A process crashes.
    Crash(NodeId),
    /// A process starts again.
    Return(NodeId),
    /// A node sees the second list.
    SeeList(NodeId),
    /// A node leaves.
    Leave(NodeId),
    /// A node that leaves ends.
    Stop(NodeId),
    /// A value of a node expires: of the owner, a copy, or of the deputy.
    Expire(NodeId, Key, Tier),
    /// An owner offers a value to this node, its deputy.
    Offer(NodeId, Key),
}

/// Where a value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// As the owner.
    Main,
    /// As a copy.
    Hot,
    /// As the deputy.
    Spare,
}

impl Setup {
    /// What goes on by itself, without anything more from outside.
    fn progress(&self, state: &State, actions: &mut Vec<Action>) {
        for (id, flight) in state.flights.iter().enumerate() {
            self.progress_of_flight(state, id as FlightId, &flight.at, actions);
        }
        let mut last = None;
        for msg in &state.msgs {
            if last != Some(*msg) {
                actions.push(Action::Arrive(*msg));
            }
            last = Some(*msg);
        }
        for (at, change) in state.changes.iter().enumerate() {
            for peer in members(change.waiting) {
                if self.may_miss(state, at as u8, peer) {
                    actions.push(Action::Miss(at as u8, peer));
                }
            }
        }
        (0..state.works.len()).for_each(|at| actions.push(Action::Work(at as u8)));
        for from in 0..NODES as NodeId {
            for to in 0..NODES as NodeId {
                let are_up = state.nodes[from as usize].up && state.nodes[to as usize].up;
                for copies in [false, true] {
                    if are_up && self.deliverable(state, from, to, copies) != 0 {
                        actions.push(Action::Deliver(from, to, copies));
                    }
                }
            }
        }
    }

    fn progress_of_flight(&self, state: &State, id: FlightId, at: &At, actions: &mut Vec<Action>) {
        match at {
            At::Begun => match self.wants_tombstones(state, id) {
                Some(from) => {
                    actions.push(Action::Sync(id, from, true));
                    if state.failures > 0 {
                        actions.push(Action::Sync(id, from, false));
                    }
                    if !self.counts {
                        actions.push(Action::Start(id));
                    }
                }
                None => {
                    actions.push(Action::Start(id));
                    if !self.counts && self.would_take_over(state, id) {
                        actions.push(Action::Skip(id));
                    }
                }
            },
            At::Found(_) => actions.push(Action::Finish(id)),
            At::Asking(to, _) => {
                if self.has(Fault::NoTimeout) && state.failures == 0 {
                    return;
                }
                let price = self.price_of_failure(state, id, *to);
                for (instead, more) in self.choices(state, id) {
                    if price + more <= state.failures {
                        actions.push(Action::Fail(id, instead));
                    }
                }
            }
            At::Loading(_) => actions.push(Action::Loaded(id)),
            At::Waiting => {}
        }
    }

    /// Whether a call that fails is one of the failures of the plan.
    fn price_of_failure(&self, state: &State, id: FlightId, to: NodeId) -> u8 {
        u8::from(state.nodes[to as usize].up && state.is_expected(id))
    }

    /// Whether a peer may fail to answer a change: it is down, it has lost the request, or the network
    /// is bad.
    fn may_miss(&self, state: &State, change: u8, peer: NodeId) -> bool {
        let is_msg = |msg: &Msg| match *msg {
            Msg::Tell {
                to,
                change: other,
                awaited,
                ..
            } => awaited && (to, other) == (peer, change),
            Msg::Told {
                by, change: other, ..
            } => (by, other) == (peer, change),
            _ => false,
        };
        let is_work = state
            .works
            .iter()
            .any(|work| work.awaited && (work.node, work.change) == (peer, change));
        let is_expected = is_work || state.msgs.iter().any(is_msg);
        state.failures > 0 || !is_expected || !state.nodes[peer as usize].up
    }

    /// What comes from outside, as long as the setup has some of it left.
    fn environment(&self, state: &State, actions: &mut Vec<Action>) {
        let up = |at: NodeId| state.nodes[at as usize].up;
        if state.gets > 0 {
            for node in members(self.askers).filter(|&node| up(node)) {
                for key in 0..self.keys {
                    actions.push(Action::Get(node, key, false));
                    if self.fine && self.in_memory(state, node, key).is_some() {
                        actions.push(Action::Get(node, key, true));
                    }
                }
            }
        }
        for (at, change) in state.changes.iter().enumerate() {
            if change.stage == Stage::Planned && up(self.caller(at as u8)) {
                actions.push(Action::Change(at as u8));
            }
        }
        if state.repeats > 0 {
            let is_repeated =
                |msg: &&Msg| matches!(msg, Msg::Ask { by: Some(_), .. } | Msg::Late { .. });
            actions.extend(
                state
                    .msgs
                    .iter()
                    .filter(is_repeated)
                    .map(|msg| Action::Repeat(*msg)),
            );
        }
        if self.may_forget(state) {
            actions.push(Action::Forget);
        }
        for node in members(self.crashes) {
            if state.crashes & bit(node) != 0 && up(node) {
                actions.push(Action::Crash(node));
            } else if self.returns && !up(node) {
                actions.push(Action::Return(node));
            }
        }
        if let Some(node) = self.leave.filter(|&node| up(node)) {
            match state.nodes[node as usize].leaving {
                false => actions.push(Action::Leave(node)),
                true if !self.is_busy(state, node) => actions.push(Action::Stop(node)),
                true => {}
            }
        }
        let is_under_way = (0..NODES as NodeId).any(|node| self.is_busy(state, node));
        let may_change = !(self.still || self.between && is_under_way);
        if self.lists[0] != self.lists[1] && may_change {
            let is_behind = |node: &NodeId| up(*node) && state.nodes[*node as usize].view == 0;
            actions.extend((0..NODES as NodeId).filter(is_behind).map(Action::SeeList));
        }
        self.values(state, actions);
    }

    /// Whether a node still makes a change: it does not end before.
    fn is_busy(&self, state: &State, node: NodeId) -> bool {
        let is_open =
            |change: &Change| !matches!(change.stage, Stage::Planned | Stage::Done | Stage::Lost);
        let mut own = members(self.changes_by(node));
        own.any(|change| is_open(&state.changes[change as usize]))
    }

    /// Values that expire, or are offered to a deputy.
    fn values(&self, state: &State, actions: &mut Vec<Action>) {
        for (at, node) in state.nodes.iter().enumerate() {
            for key in 0..self.keys {
                let (at, slot) = (at as NodeId, &node.slots[key as usize]);
                let tiers = [
                    (Tier::Main, slot.main),
                    (Tier::Hot, slot.hot),
                    (Tier::Spare, slot.spare),
                ];
                if state.expiries > 0 {
                    let held = tiers.into_iter().filter(|(_, val)| val.is_some());
                    actions.extend(held.map(|(tier, _)| Action::Expire(at, key, tier)));
                }
                let ring = self.ring(state, at);
                let is_owner = self.ranked(key, ring, 0) == Some(at) && slot.main.is_some();
                if let (Some(deputy), true) =
                    (self.ranked(key, ring, 1), is_owner && state.offers > 0)
                {
                    actions.push(Action::Offer(deputy, key));
                }
            }
        }
    }

    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Get(node, key, missed) => self.begin_get(state, node, key, missed),
            Action::Start(id) => self.start(state, id),
            Action::Sync(id, from, of_all) => {
                state.failures -= u8::from(!of_all);
                self.sync(state, id, from, of_all);
            }
            Action::Skip(id) => self.not_taken_over(state, id),
            Action::Fail(id, instead) => {
                if let At::Asking(to, _) = state.flights[id as usize].at {
                    let choices = self.choices(state, id).into_iter();
                    let more = choices.filter(|(other, _)| *other == instead);
                    let more = more.map(|(_, more)| more).min().unwrap_or(0);
                    state.failures -= self.price_of_failure(state, id, to) + more;
                }
                self.fail(state, id, instead);
            }
            Action::Loaded(id) => self.loaded(state, id),
            Action::Finish(id) => self.finish(state, id),
            Action::Arrive(msg) => {
                if let Some(at) = state.msgs.iter().position(|other| *other == msg) {
                    state.msgs.remove(at);
                }
                self.arrive(state, msg);
            }
            Action::Repeat(msg) => {
                state.repeats -= 1;
                state.msgs.push(match msg {
                    Msg::Ask {
                        to,
                        key,
                        ask,
                        removed,
                        ..
                    } => Msg::Ask {
                        to,
                        key,
                        ask,
                        by: None,
                        removed,
                    },
                    other => other,
                });
            }
            other => self.act_from_outside(state, other),
        }
    }

    /// As `act`, for what is not about a flight or a message.
    fn act_from_outside(&self, state: &mut State, action: Action) {
        match action {
            Action::Change(change) => self.begin_change(state, change),
            Action::Miss(change, peer) => {
                let spent = state.failures;
                state.failures = 0;
                let is_free = self.may_miss(state, change, peer);
                state.failures = spent - u8::from(!is_free);
                self.miss(state, change, peer);
            }
            Action::Work(at) => self.work(state, at as usize),
            Action::Deliver(from, to, copies) => {
                let changes: Mask = self.deliverable(state, from, to, copies);
                state.msgs.push(Msg::Late {
                    from,
                    to,
                    changes,
                    copies,
                });
            }
            Action::Forget => self.forget(state),
            Action::Crash(node) => {
                state.crashes &= !bit(node);
                self.crash(state, node);
            }
            Action::Return(node) => self.return_empty(state, node),
            Action::SeeList(node) => self.see_list(state, node),
            Action::Leave(node) => self.leave(state, node),
            Action::Stop(node) => self.stop(state, node),
            Action::Expire(node, key, tier) => {
                state.expiries -= 1;
                let slot = &mut state.nodes[node as usize].slots[key as usize];
                match tier {
                    Tier::Main => slot.main = None,
                    Tier::Hot => slot.hot = None,
                    Tier::Spare => slot.spare = None,
                }
            }
            Action::Offer(to, key) => self.offer(state, to, key),
            _ => {}
        }
    }

    fn arrive(&self, state: &mut State, msg: Msg) {
        match msg {
            Msg::Ask {
                to,
                key,
                ask,
                by,
                removed,
            } => {
                self.learn(state, to, key, removed);
                self.serve(state, to, key, ask, by);
            }
            Msg::Answer { by, val } => self.take_answer(state, by, val),
            Msg::Tell {
                to,
                change,
                put,
                awaited,
            } => self.take_change(state, to, change, put, awaited),
            Msg::Told {
                by,
                change,
                other_ring,
            } => self.told(state, change, by, other_ring),
            Msg::Late {
                from,
                to,
                changes,
                copies,
            } => self.take_late(state, from, to, changes, copies),
            Msg::LateDone {
                from,
                to,
                changes,
                copies,
            } => self.late_done(state, from, to, changes, copies),
            Msg::Departure { who, to } => self.take_departure(state, to, who),
            Msg::Offer { to, key } => self.take_offer(state, to, key),
        }
    }

    fn finish(&self, state: &mut State, id: FlightId) {
        if let At::Found(val) = state.flights[id as usize].at {
            self.end(state, id, val);
        }
    }

    /// Without fine steps, a flight that has begun goes on at once, and one that has a value ends.
    fn settle(&self, state: &mut State) {
        while let Some(id) =
            (0..state.flights.len() as FlightId).find(|&id| self.is_settled(state, id))
        {
            match state.flights[id as usize].at {
                At::Begun => self.start(state, id),
                _ => self.finish(state, id),
            }
            if state.broken.i5 {
                return;
            }
        }
    }

    fn is_settled(&self, state: &State, id: FlightId) -> bool {
        match state.flights[id as usize].at {
            At::Begun => {
                self.wants_tombstones(state, id).is_none()
                    && (self.counts || !self.would_take_over(state, id))
            }
            At::Found(_) => true,
            _ => false,
        }
    }
}

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.begin()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.progress(state, actions);
        self.environment(state, actions);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        let mut state = before.clone();
        self.act(&mut state, action);
        if !self.fine {
            self.settle(&mut state);
        }
        state.refuse();
        state.order();
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Setup>> {
        vec![
            Property::always(P1, |setup: &Setup, state: &State| {
                let is_bounded = |(loads, allowed): (&u8, &u8)| loads <= allowed;
                !setup.counts || state.loads.iter().zip(&state.allowed).all(is_bounded)
            }),
            Property::always(P2, |_: &Setup, state: &State| !state.broken.p2),
            Property::always(I5, |_: &Setup, state: &State| !state.broken.i5),
            Property::always(DELIVERED, |setup: &Setup, state: &State| {
                setup.is_owed(state)
            }),
            Property::always(LIFE, |setup: &Setup, state: &State| setup.has_let_go(state)),
            Property::always(ENDS, |setup: &Setup, state: &State| {
                if state.flights.is_empty() {
                    return true;
                }
                let mut actions = Vec::new();
                setup.progress(state, &mut actions);
                !actions.is_empty()
            }),
        ]
    }
}
