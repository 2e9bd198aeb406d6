//! A get, from its call to its value: memory, flight, owner, deputy, own load.

use crate::fault::Fault;
use crate::msg::Msg;
use crate::setup::{Key, Mask, NodeId, Setup, bit, members};
use crate::state::{Ask, At, Flight, FlightId, Role, Stage, State, Table, Val, Waiter};
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
            && it.reached | it.late == self.nodes
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
            let unreached = self.nodes & !state.changes[change as usize].reached;
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

    /// As `in_memory`, in a role: a deputy uses no copies, which it may have fetched after it was told of a
    /// removal, and before the owner was.
    pub(crate) fn in_role(&self, state: &State, node: NodeId, key: Key, role: Role) -> Option<Val> {
        let is_deputy = matches!(role, Role::Deputy | Role::Offered);
        match self.is_coded() && is_deputy && !self.has(Fault::DeputyCopies) {
            true => state.nodes[node as usize].slots[key as usize].main,
            false => self.in_memory(state, node, key),
        }
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
        let found = state.joinable(node, key, table);
        let found = found.filter(|&id| !is_alone && self.can_join(state, id));
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
                waiters: vec![waiter],
                ..Flight::begun(node, key, table, role)
            }),
        }
    }

    /// A flight that has begun looks in memory once more, and asks or loads.
    pub(crate) fn start(&self, state: &mut State, id: FlightId) {
        let flight = &state.flights[id as usize];
        let (node, key, table) = (flight.node, flight.key, flight.table);
        let found = match table {
            Table::Loads => self.in_role(state, node, key, flight.role),
            Table::Fetches => self.in_memory(state, node, key),
        };
        if let Some(val) = found {
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
        // What peers wait for asks nobody for more than what is in memory.
        state.broken.i5 |= flight.table == Table::Loads && !matches!(ask, Ask::Peek(_));
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
                handed: false,
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

    fn keep(&self, state: &mut State, flight: &Flight, mut val: Val) {
        val.handed |= flight.role == Role::Offered && state.remembers;
        let slot = &mut state.nodes[flight.node as usize].slots[flight.key as usize];
        let is_load = matches!(flight.at, At::Loading(_));
        let forgets = self.has(Fault::DeputyForgets) && flight.role == Role::Deputy;
        if self.has(Fault::KeepNothing) || forgets && flight.table == Table::Loads {
            return;
        }
        if self.is_coded() {
            let is_copy = flight.table == Table::Fetches || flight.role == Role::Fallback;
            // The price of a copy that arrives late, and takes the place of what a deputy has.
            let is_lost = self.counts && is_copy && slot.main.is_some();
            state.allowed[flight.key as usize] += u8::from(is_lost);
            (slot.main, slot.hot) = match is_copy {
                true => (None, Some(val)),
                false => (Some(val), None),
            };
        }
        match (flight.table, flight.role) {
            _ if self.is_coded() => {}
            (Table::Fetches, _) | (_, Role::Fallback) => slot.hot = Some(val),
            (Table::Loads, Role::Owner) => {
                *slot = crate::state::Slot {
                    main: Some(val),
                    hot: None,
                    spare: None,
                    ..*slot
                }
            }
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
