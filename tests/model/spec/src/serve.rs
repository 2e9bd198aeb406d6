//! What a node does with a request for a value: it answers here, and never asks another node (I5).

use crate::setup::{Fault, Key, NodeId, Setup};
use crate::state::{Ask, At, FlightId, Msg, Role, State, Table, Val, Waiter};
use crate::witness::Seen;

impl Setup {
    /// A request arrives.
    pub(crate) fn serve(
        &self,
        state: &mut State,
        node: NodeId,
        key: Key,
        ask: Ask,
        by: Option<FlightId>,
    ) {
        if let Ask::Peek(removed) = ask {
            let val = self.peek(state, node, key, removed);
            return self.answer(state, node, key, by, val);
        }
        if let Some(val) = self.in_memory(state, node, key) {
            if ask == Ask::Deputy {
                self.seen.note(Seen::DeputyHit);
            }
            return self.answer(state, node, key, by, Some(val));
        }
        let owner = self.ranked(key, self.ring(state, node), 0);
        let role = match ask {
            Ask::Deputy if owner != Some(node) => Role::Deputy,
            _ => Role::Owner,
        };
        // Without one who waits, the load goes on all the same.
        let waiter = by.map(Waiter::Flight);
        match waiter {
            Some(waiter) => self.join(state, node, key, Table::Loads, role, waiter),
            None if state.joinable(node, key, Table::Loads).is_some() => {}
            None => state.flights.push(crate::state::Flight {
                node,
                key,
                table: Table::Loads,
                role,
                stale: false,
                behind: false,
                at: At::Begun,
                waiters: Vec::new(),
            }),
        }
    }

    /// What a node gives to the one that owns a key now: what it has as the owner, or as the deputy.
    fn peek(&self, state: &State, node: NodeId, key: Key, removed: Option<u8>) -> Option<Val> {
        let slot = &state.nodes[node as usize].slots[key as usize];
        let is_applied = |change| self.has_applied(&slot.tombs, change);
        if !removed.is_none_or(is_applied) && !self.has(Fault::PeekNotApplied) {
            self.seen.note(Seen::PeekRefused);
            return None;
        }
        slot.main.or(slot.spare)
    }

    fn answer(
        &self,
        state: &mut State,
        node: NodeId,
        key: Key,
        by: Option<FlightId>,
        val: Option<Val>,
    ) {
        let Some(by) = by else {
            return;
        };
        let val = val.map(|val| self.answered(state, node, key, val));
        state.msgs.push(Msg::Answer { by, val });
    }

    /// An answer arrives at the flight that asked.
    pub(crate) fn take_answer(&self, state: &mut State, id: FlightId, val: Option<Val>) {
        match (val, state.flights[id as usize].table) {
            (Some(val), _) => self.end(state, id, val),
            (None, Table::Loads) => self.not_taken_over(state, id),
            (None, Table::Fetches) => self.fail(state, id),
        }
    }

    /// An owner offers what it has to its deputy.
    pub(crate) fn offer(&self, state: &mut State, from: NodeId, to: NodeId, key: Key) {
        state.offers -= 1;
        state.msgs.push(Msg::Offer { from, to, key });
    }

    /// An offer arrives: the deputy asks for the value, inside a flight.
    pub(crate) fn take_offer(&self, state: &mut State, from: NodeId, to: NodeId, key: Key) {
        let ring = self.ring(state, to);
        let is_owner = self.ranked(key, ring, 0) == Some(from);
        let is_busy = state.joinable(to, key, Table::Loads).is_some();
        if !is_owner || is_busy || self.in_memory(state, to, key).is_some() {
            return;
        }
        state.flights.push(crate::state::Flight {
            node: to,
            key,
            table: Table::Loads,
            role: Role::Offered,
            stale: false,
            behind: false,
            at: At::Begun,
            waiters: Vec::new(),
        });
    }
}
