//! A get, from its call to its value: memory, flight, owner, deputy, own load.

use crate::setup::{ALL, Fault, Key, Mask, NodeId, Removed, Setup, bit, members};
use crate::state::{Ask, At, Flight, FlightId, Msg, Role, Stage, State, Table, Val, Waiter};
use crate::witness::Seen;

impl Setup {
    /// The changes of a key that have begun.
    pub(crate) fn begun(&self, state: &State, key: Key) -> Mask {
        let has_begun = |change: &u8| state.changes[*change as usize].stage != Stage::Planned;
        let of_key = members(self.changes_of(key)).filter(has_begun);
        of_key.fold(0, |mask, change| mask | bit(change))
    }

    /// Whether a value is as new as a change. One that was set while the change was under way may have
    /// been set after it.
    pub(crate) fn is_fresh(&self, state: &State, val: Val, change: u8) -> bool {
        let after = state.changes[change as usize].after;
        val.begun & bit(change) != 0
            || val
                .set_by
                .is_some_and(|set| set != change && after & bit(set) == 0)
    }

    /// Whether a change holds everywhere by now: nobody has still to be told of anything, and nobody has
    /// crashed that had still to tell others.
    fn is_everywhere(&self, state: &State, change: u8) -> bool {
        let it = &state.changes[change as usize];
        let holds = |pending: &[Mask]| pending.iter().all(|mask| mask & bit(change) == 0);
        let is_late = |msg: &Msg| match msg {
            Msg::Late { changes, .. } | Msg::LateDone { changes, .. } => changes & bit(change) != 0,
            _ => false,
        };
        it.stage == Stage::Done
            && !it.forgotten
            && it.reached | it.late == ALL
            && state
                .nodes
                .iter()
                .all(|node| holds(&node.pending) && holds(&node.copies))
            && !state.msgs.iter().any(is_late)
    }

    /// What a get that begins now must see.
    fn get_that_begins(&self, state: &State, node: NodeId, key: Key) -> Waiter {
        let (mut after, mut strict) = (0, 0);
        for change in members(self.changes_of(key) & state.done()) {
            let is_everywhere = self.is_everywhere(state, change);
            if is_everywhere || state.changes[change as usize].reached & bit(node) != 0 {
                after |= bit(change);
            }
            if is_everywhere {
                strict |= bit(change);
            }
        }
        Waiter::Get { after, strict }
    }

    /// Ends a get with a value: is it new enough?
    fn check(&self, state: &mut State, get: Waiter, val: Val) {
        let Waiter::Get { after, strict } = get else {
            return;
        };
        for change in members(after) {
            if self.is_fresh(state, val, change) {
                continue;
            }
            let unreached = ALL & !state.changes[change as usize].reached;
            let is_excused = strict & bit(change) == 0 && val.via & unreached != 0;
            match is_excused {
                true => self.seen.note(Seen::OldValueOfANamedPeer),
                false => state.broken.p2 = true,
            }
        }
    }

    /// What a node has in memory of a key.
    pub(crate) fn in_memory(&self, state: &State, node: NodeId, key: Key) -> Option<Val> {
        let slot = &state.nodes[node as usize].slots[key as usize];
        slot.main.or(slot.hot).or(slot.spare)
    }

    /// The application of a node gets a key. It may have looked in memory just before a value came.
    pub(crate) fn begin_get(&self, state: &mut State, node: NodeId, key: Key, has_missed: bool) {
        state.gets -= 1;
        let get = self.get_that_begins(state, node, key);
        let found = self.in_memory(state, node, key);
        if let Some(val) = found.filter(|_| !has_missed) {
            return self.check(state, get, val);
        }
        let ring = self.ring(state, node);
        match self.ranked(key, ring, 0) {
            Some(owner) if owner != node => {
                self.join(state, node, key, Table::Fetches, Role::Owner, get)
            }
            _ => self.join(state, node, key, Table::Loads, Role::Owner, get),
        }
    }

    /// Has a waiter join the flight of a key, or begins one.
    pub(crate) fn join(
        &self,
        state: &mut State,
        node: NodeId,
        key: Key,
        table: Table,
        role: Role,
        mut waiter: Waiter,
    ) {
        let is_alone =
            self.has(Fault::NoSharedFlight) || self.has(Fault::DeputyAlone) && role == Role::Deputy;
        let found = state.joinable(node, key, table).filter(|_| !is_alone);
        match found {
            Some(id) => {
                self.seen.note(Seen::Joined);
                let flight = &mut state.flights[id as usize];
                // A fetch that began before its peer was told may bring an old value until it ends.
                if let (Waiter::Get { strict, .. }, true) = (&mut waiter, flight.behind) {
                    *strict = 0;
                }
                flight.waiters.push(waiter);
            }
            None => state.flights.push(Flight {
                node,
                key,
                table,
                role,
                stale: false,
                behind: false,
                at: At::Begun,
                waiters: vec![waiter],
            }),
        }
    }

    /// A flight that has begun looks in memory once more, and asks or loads.
    pub(crate) fn start(&self, state: &mut State, id: FlightId) {
        let flight = &state.flights[id as usize];
        let (node, key, table) = (flight.node, flight.key, flight.table);
        if let Some(val) = self.in_memory(state, node, key) {
            match self.fine {
                true => state.flights[id as usize].at = At::Found(val),
                false => self.end(state, id, val),
            }
            return;
        }
        match table {
            Table::Fetches => {
                let ring = self.ring(state, node);
                match self.ranked(key, ring, 0) {
                    Some(owner) if owner != node => self.ask(state, id, owner, Ask::Owner),
                    // The ring has changed since the flight began.
                    _ => self.fall_back(state, id),
                }
            }
            Table::Loads => self.start_load(state, id),
        }
    }

    /// Asks a node; what comes from one that has still to be told a removal is not kept.
    pub(crate) fn ask(&self, state: &mut State, id: FlightId, to: NodeId, ask: Ask) {
        let node = state.flights[id as usize].node;
        let is_behind = state.nodes[node as usize].pending[to as usize] != 0;
        let is_ignored = match ask {
            Ask::Owner => self.has(Fault::IgnorePending),
            Ask::Deputy => self.has(Fault::IgnorePending) || self.has(Fault::IgnoreDeputyPending),
            Ask::Peek(_) => false,
        };
        let flight = &mut state.flights[id as usize];
        flight.at = At::Asking(to, ask);
        if is_behind && !is_ignored {
            flight.behind = true;
            self.seen.note(Seen::StaleForPending);
        }
        let (key, by) = (flight.key, Some(id));
        let removed = match self.stamped {
            true => state.nodes[node as usize].slots[key as usize].tombs.told,
            false => 0,
        };
        state.msgs.push(Msg::Ask {
            to,
            key,
            ask,
            by,
            removed,
        });
    }

    /// The node that was asked has not answered.
    pub(crate) fn fail(&self, state: &mut State, id: FlightId) {
        state.give_up(id);
        let flight = &state.flights[id as usize];
        let (node, key) = (flight.node, flight.key);
        match (flight.table, flight.at) {
            (Table::Fetches, At::Asking(owner, Ask::Owner)) if self.has_deputies() => {
                let ring = self.ring(state, node) & !bit(owner);
                match self.ranked(key, ring, 0) {
                    Some(deputy) if deputy != node => {
                        self.seen.note(Seen::DeputyAsked);
                        self.ask(state, id, deputy, Ask::Deputy);
                    }
                    _ => self.load_instead(state, id, Role::Deputy),
                }
            }
            (Table::Fetches, _) => self.fall_back(state, id),
            (Table::Loads, _) => self.not_taken_over(state, id),
        }
    }

    /// Loads here for a fetch that found nobody.
    pub(crate) fn fall_back(&self, state: &mut State, id: FlightId) {
        self.seen.note(Seen::FellBack);
        self.load_instead(state, id, Role::Fallback);
    }

    fn load_instead(&self, state: &mut State, id: FlightId, role: Role) {
        let flight = &mut state.flights[id as usize];
        flight.at = At::Waiting;
        let (node, key) = (flight.node, flight.key);
        self.join(state, node, key, Table::Loads, role, Waiter::Flight(id));
    }

    /// A flight of loads takes the value over, or runs the loader.
    fn start_load(&self, state: &mut State, id: FlightId) {
        let (node, key) = (
            state.flights[id as usize].node,
            state.flights[id as usize].key,
        );
        match state.flights[id as usize].role {
            Role::Owner => match self.former_owner(state, node, key) {
                Some((former, removed)) => self.ask(state, id, former, Ask::Peek(removed)),
                None => self.load(state, id),
            },
            Role::Offered => {
                let owner = self.ranked(key, self.ring(state, node), 0);
                let owner = owner.filter(|&owner| owner != node);
                let asked =
                    owner.and_then(|owner| Some((owner, self.may_take(state, node, owner, key)?)));
                match asked {
                    Some((owner, removed)) => self.ask(state, id, owner, Ask::Peek(removed)),
                    None => self.not_taken_over(state, id),
                }
            }
            Role::Deputy if self.has(Fault::DeputyForwards) => {
                state.broken.i5 = true;
            }
            Role::Deputy | Role::Fallback => self.load(state, id),
        }
    }

    /// The node that may have the value, as it owned the key before or was its deputy, and the removal
    /// that it must have carried out.
    fn former_owner(&self, state: &State, node: NodeId, key: Key) -> Option<(NodeId, Option<u8>)> {
        if self.has(Fault::OwnerDoesNotAsk) {
            return None;
        }
        let former = self.ranked(key, state.nodes[node as usize].former, 0)?;
        let is_owner = self
            .ranked(key, self.ring(state, node), 0)
            .is_none_or(|owner| owner == node);
        if former == node || !is_owner {
            return None;
        }
        let removed = self.may_take(state, node, former, key)?;
        Some((former, removed))
    }

    /// Whether a value may be taken over from a node, and which removal that must have carried out.
    fn may_take(&self, state: &State, node: NodeId, from: NodeId, key: Key) -> Option<Option<u8>> {
        let this = &state.nodes[node as usize];
        if self.has(Fault::TakeOverRemoved) || self.has(Fault::CopiesWithoutSpare) {
            return Some(None);
        }
        // Without its tombstones nothing is taken over: `sync` gets them first.
        if this.pending[from as usize] != 0 || this.synced & bit(from) == 0 {
            return None;
        }
        let tombs = &this.slots[key as usize].tombs;
        match self.removed(tombs) {
            Removed::Never => Some(None),
            Removed::By(change) => {
                let ring = state.changes[change as usize].ring;
                let is_known = ring == self.ring(state, node) || ring == this.former;
                let was_told =
                    tombs.by_marks & bit(change) != 0 || is_known && ring & bit(from) != 0;
                was_told.then_some(Some(change))
            }
            Removed::Perhaps => None,
        }
    }

    /// Whether a flight would take its value over if the node had the tombstones of its peers.
    pub(crate) fn wants_tombstones(&self, state: &State, id: FlightId) -> Option<NodeId> {
        let flight = &state.flights[id as usize];
        if flight.table != Table::Loads || flight.at != At::Begun {
            return None;
        }
        let this = &state.nodes[flight.node as usize];
        let ring = self.ring(state, flight.node);
        let from = match flight.role {
            Role::Owner if self.ranked(flight.key, ring, 0) == Some(flight.node) => {
                self.ranked(flight.key, this.former, 0)?
            }
            Role::Offered => self.ranked(flight.key, ring, 0)?,
            _ => return None,
        };
        let is_open = from != flight.node && this.synced & bit(from) == 0;
        (is_open && state.nodes[from as usize].up).then_some(from)
    }

    /// Whether a flight that has begun would ask another node for its value before it loads.
    pub(crate) fn would_take_over(&self, state: &State, id: FlightId) -> bool {
        let flight = &state.flights[id as usize];
        let is_load = (flight.table, flight.role) == (Table::Loads, Role::Owner);
        is_load
            && self.in_memory(state, flight.node, flight.key).is_none()
            && self.former_owner(state, flight.node, flight.key).is_some()
    }

    /// Gets the tombstones of a node, and of all others of the list that answer, if `of_all` do.
    pub(crate) fn sync(&self, state: &mut State, id: FlightId, from: NodeId, of_all: bool) {
        let node = state.flights[id as usize].node;
        let list = self.list(&state.nodes[node as usize]);
        let asked = if of_all { list | bit(from) } else { bit(from) };
        let open = asked & !bit(node) & !state.nodes[node as usize].synced;
        for peer in members(open)
            .filter(|&peer| state.nodes[peer as usize].up)
            .collect::<Vec<_>>()
        {
            for key in 0..self.keys as usize {
                let theirs = state.nodes[peer as usize].slots[key].tombs;
                let ours = &mut state.nodes[node as usize].slots[key].tombs;
                ours.by_marks |= theirs.told & !ours.told;
                ours.told |= theirs.told;
            }
            state.nodes[node as usize].synced |= bit(peer);
        }
    }

    /// There is nothing to take over: the loader runs, unless nobody needs the value.
    pub(crate) fn not_taken_over(&self, state: &mut State, id: FlightId) {
        let flight = &mut state.flights[id as usize];
        if flight.role != Role::Offered {
            return self.load(state, id);
        }
        if flight.waiters.is_empty() {
            state.take_flight(id);
            return;
        }
        // Released: those who wait for it join anew, for a load.
        flight.role = Role::Deputy;
        flight.at = At::Begun;
    }

    /// The loader runs.
    pub(crate) fn load(&self, state: &mut State, id: FlightId) {
        let key = state.flights[id as usize].key;
        state.flights[id as usize].at = At::Loading(self.begun(state, key));
        if self.counts {
            state.loads[key as usize] += 1;
        }
    }

    /// The loader has returned a value.
    pub(crate) fn loaded(&self, state: &mut State, id: FlightId) {
        let At::Loading(begun) = state.flights[id as usize].at else {
            return;
        };
        self.end(
            state,
            id,
            Val {
                begun,
                set_by: None,
                via: 0,
            },
        );
    }

    /// Keeps a value, unless the flight is stale, and ends the flight with it.
    pub(crate) fn end(&self, state: &mut State, id: FlightId, val: Val) {
        let flight = state.flights[id as usize].clone();
        let is_found = matches!(flight.at, At::Found(_) | At::Begun);
        let is_kept_anyway = self.has(Fault::KeepStale)
            || self.has(Fault::KeepTakenOver) && matches!(flight.at, At::Asking(_, Ask::Peek(_)))
            || self.has(Fault::OfferStale) && flight.role == Role::Offered;
        let is_kept = !flight.stale && !flight.behind;
        if !is_kept && !is_found {
            self.seen.note(Seen::NotKept);
        }
        if !is_found && (is_kept || is_kept_anyway) {
            self.keep(state, &flight, val);
        }
        let flight = state.take_flight(id);
        // Flights that wait for this one end with it: one step, as nothing else can come in between that
        // matters. The places of flights change with each one that ends.
        for waiter in &flight.waiters {
            self.check(state, *waiter, val);
        }
        let mut waiting: Vec<FlightId> = Vec::new();
        for waiter in &flight.waiters {
            if let Waiter::Flight(other) = *waiter {
                waiting.push(if other > id { other - 1 } else { other });
            }
        }
        for other in waiting {
            let other_node = state.flights[other as usize].node;
            if other_node != flight.node {
                let val = self.answered(state, flight.node, flight.key, val);
                state.msgs.push(Msg::Answer {
                    by: other,
                    val: Some(val),
                });
            } else {
                state.flights[other as usize].at = At::Found(val);
            }
        }
    }

    /// A value as another node gets it from this one.
    pub(crate) fn answered(&self, state: &State, node: NodeId, key: Key, mut val: Val) -> Val {
        if members(self.begun(state, key)).any(|change| !self.is_fresh(state, val, change)) {
            val.via |= bit(node);
        }
        val
    }

    fn keep(&self, state: &mut State, flight: &Flight, val: Val) {
        let slot = &mut state.nodes[flight.node as usize].slots[flight.key as usize];
        let is_load = matches!(flight.at, At::Loading(_));
        if self.has(Fault::KeepNothing) {
            return;
        }
        match (flight.table, flight.role) {
            (Table::Fetches, _) | (_, Role::Fallback) => slot.hot = Some(val),
            (Table::Loads, Role::Owner) => {
                *slot = crate::state::Slot {
                    main: Some(val),
                    hot: None,
                    spare: None,
                    ..*slot
                }
            }
            (Table::Loads, Role::Deputy) if self.has(Fault::DeputyForgets) => {}
            (Table::Loads, Role::Deputy | Role::Offered) => slot.spare = Some(val),
        }
        if !is_load && flight.table == Table::Loads {
            self.seen.note(match flight.role {
                Role::Offered => Seen::OfferTaken,
                _ => Seen::TakenOver,
            });
        }
    }
}
