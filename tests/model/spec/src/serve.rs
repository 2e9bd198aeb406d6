//! What a node does with a request for a value: it answers here, and never asks another node (I5).

use crate::msg::Msg;
use crate::setup::{Key, NodeId, Setup};
use crate::state::{Ask, Flight, FlightId, Role, State, Table, Val, Waiter};
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
        let owner = self.ranked(key, self.ring(state, node), 0);
        let role = match ask {
            // A node that owns the key itself knows better, in the protocol that is not coded.
            Ask::Deputy if self.is_coded() || owner != Some(node) => Role::Deputy,
            _ => Role::Owner,
        };
        if let Some(val) = self.in_role(state, node, key, role) {
            if ask == Ask::Deputy {
                self.seen.note(Seen::DeputyHit);
            }
            return self.answer(state, node, key, by, Some(val));
        }
        // Without one who waits, the load goes on all the same.
        match by.map(Waiter::Flight) {
            Some(waiter) => self.join(state, node, key, Table::Loads, role, waiter),
            None if state.joinable(node, key, Table::Loads).is_some() => {}
            None => state
                .flights
                .push(Flight::begun(node, key, Table::Loads, role)),
        }
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
            // It has no time: the process loads itself.
            (None, Table::Fetches) => self.fall_back(state, id),
        }
    }
}
