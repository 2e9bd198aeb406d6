//! Who answers where an owner does not: its deputy, the next in rank, or the process that asks.

use crate::fault::Fault;
use crate::setup::{Key, NodeId, Protocol, Setup, bit};
use crate::state::{Ask, At, FlightId, Role, State, Table, Waiter};
use crate::witness::Seen;

/// What a flight does whose call has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// It goes on alone.
    Nobody,
    /// It asks this node, or loads for the owner if it is this node.
    Node(NodeId),
}

impl Setup {
    /// What a flight may do whose call has failed, each with how many nodes that run it must take for
    /// unreachable besides.
    pub(crate) fn choices(&self, state: &State, id: FlightId) -> Vec<(Instead, u8)> {
        let flight = &state.flights[id as usize];
        let (Table::Fetches, At::Asking(owner, Ask::Owner)) = (flight.table, flight.at) else {
            return vec![(Instead::Nobody, 0)];
        };
        let ranked = self.ranked_without(state, flight.node, flight.key, owner);
        match (self.protocol, ranked.first()) {
            (Protocol::Deputies, Some(&deputy)) => vec![(Instead::Node(deputy), 0)],
            (Protocol::Coded, Some(_)) => self.choices_of(state, flight.node, &ranked),
            _ => vec![(Instead::Nobody, 0)],
        }
    }

    /// Where a call was refused, the first that is taken for reachable; after silence, nobody.
    fn choices_of(&self, state: &State, node: NodeId, ranked: &[NodeId]) -> Vec<(Instead, u8)> {
        let mut choices = Vec::new();
        let mut skipped = 0;
        for &next in ranked {
            let is_up = state.nodes[next as usize].up;
            if is_up || !self.counts {
                choices.push((Instead::Node(next), skipped));
            }
            if next == node || is_up && self.counts {
                break;
            }
            skipped += u8::from(is_up);
        }
        if !self.counts || choices.is_empty() {
            choices.push((Instead::Nobody, 0));
        }
        choices
    }

    /// The nodes of the ring in the order in which they answer for an owner.
    fn ranked_without(&self, state: &State, node: NodeId, key: Key, owner: NodeId) -> Vec<NodeId> {
        let ring = self.ring(state, node) & !bit(owner);
        let all = self.ranks[key as usize].into_iter();
        all.filter(|&other| ring & bit(other) != 0).collect()
    }

    /// The node that was asked has not answered.
    pub(crate) fn fail(&self, state: &mut State, id: FlightId, instead: Instead) {
        let flight = &state.flights[id as usize];
        let (node, table, at) = (flight.node, flight.table, flight.at);
        state.give_up(id);
        match (table, at, instead) {
            (Table::Fetches, At::Asking(owner, _), Instead::Node(other)) => {
                let key = state.flights[id as usize].key;
                let first = self
                    .ranked_without(state, node, key, owner)
                    .first()
                    .copied();
                if first != Some(other) {
                    self.leave_table(state, id);
                }
                self.ask_instead(state, id, other);
            }
            (Table::Fetches, ..) => self.fall_back(state, id),
            (Table::Loads, ..) => self.not_taken_over(state, id),
        }
    }

    fn ask_instead(&self, state: &mut State, id: FlightId, other: NodeId) {
        if other == state.flights[id as usize].node {
            return self.load_instead(state, id, Role::Deputy);
        }
        self.seen.note(Seen::DeputyAsked);
        self.ask(state, id, other, Ask::Deputy);
    }

    /// Who comes after the deputy may be told of a change later than this node: nobody joins a flight that
    /// asks it, and what it answers is not kept.
    fn leave_table(&self, state: &mut State, id: FlightId) {
        self.seen.note(Seen::OtherStandsIn);
        let flight = &mut state.flights[id as usize];
        flight.of_other = true;
        match (self.has(Fault::JoinOther), self.has(Fault::KeepOther)) {
            (true, _) => flight.behind = true,
            (_, true) => {} // `can_join` keeps others from it
            _ => flight.stale = true,
        }
    }

    /// Whether a waiter can join this flight, which stands in the table.
    pub(crate) fn can_join(&self, state: &State, id: FlightId) -> bool {
        !(self.has(Fault::KeepOther) && state.flights[id as usize].of_other)
    }

    /// Loads here for a fetch that found nobody.
    pub(crate) fn fall_back(&self, state: &mut State, id: FlightId) {
        self.seen.note(Seen::FellBack);
        self.load_instead(state, id, Role::Fallback);
    }

    fn load_instead(&self, state: &mut State, id: FlightId, role: Role) {
        let flight = &mut state.flights[id as usize];
        (flight.at, flight.role) = (At::Waiting, role);
        let (node, key) = (flight.node, flight.key);
        self.join(state, node, key, Table::Loads, role, Waiter::Flight(id));
    }
}
