//! Values that are taken over from the memory of another node: from a former owner, its deputy, or, by the
//! deputy, from the owner that offers them.

use crate::fault::Fault;
use crate::msg::Msg;
use crate::setup::{Key, NodeId, Removed, Setup, bit, members};
use crate::state::{Ask, At, Flight, FlightId, Role, State, Table, Val, Waiter};
use crate::witness::Seen;

impl Setup {
    /// A flight of loads takes the value over, or runs the loader.
    pub(crate) fn start_load(&self, state: &mut State, id: FlightId) {
        let flight = &state.flights[id as usize];
        let (node, key) = (flight.node, flight.key);
        match (flight.role, self.holder(state, id)) {
            (Role::Deputy, _) if self.has(Fault::DeputyForwards) => {
                match self.ranked(key, self.ring(state, node), 0) {
                    Some(owner) if owner != node => self.ask(state, id, owner, Ask::Owner),
                    _ => self.load(state, id),
                }
            }
            (_, Some(holder)) => match self.may_take(state, node, holder, key) {
                Some(removed) => self.ask(state, id, holder, Ask::Peek(removed)),
                None => self.not_taken_over(state, id),
            },
            (_, None) => self.not_taken_over(state, id),
        }
    }

    /// The node that may have the value of a flight in memory.
    fn holder(&self, state: &State, id: FlightId) -> Option<NodeId> {
        let flight = &state.flights[id as usize];
        let (node, key) = (flight.node, flight.key);
        match flight.role {
            Role::Owner => self.former_owner(state, node, key),
            Role::Offered => self.offering_owner(state, node, key),
            Role::Deputy | Role::Fallback => None,
        }
    }

    /// The node that owned the key before, or was its deputy.
    fn former_owner(&self, state: &State, node: NodeId, key: Key) -> Option<NodeId> {
        let owner = self.ranked(key, self.ring(state, node), 0);
        if owner.is_some_and(|owner| owner != node) || self.has(Fault::OwnerDoesNotAsk) {
            return None;
        }
        let former = state.nodes[node as usize].former;
        let owner = self.ranked(key, former, 0).filter(|&owner| owner != node);
        if !self.is_coded() {
            return owner;
        }
        // The first that is not known to be away.
        let deputy = self.ranked(key, former, 1).filter(|&deputy| deputy != node);
        let is_up = |node: &NodeId| state.nodes[*node as usize].up;
        owner.filter(is_up).or(deputy.filter(is_up)).or(owner)
    }

    /// The owner of a key whose deputy this node is.
    fn offering_owner(&self, state: &State, node: NodeId, key: Key) -> Option<NodeId> {
        let ring = self.ring(state, node);
        let is_deputy = !self.is_coded() || self.ranked(key, ring, 1) == Some(node);
        let owner = self.ranked(key, ring, 0);
        owner.filter(|&owner| owner != node && is_deputy)
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
        let is_owner = self.ranked(key, self.ring(state, node), 0) == Some(node);
        match self.removed(tombs) {
            Removed::Never => Some(None),
            _ if self.has(Fault::OfferUnchecked) && !is_owner => Some(None),
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

    /// The node whose tombstones a flight that has begun needs before it takes a value over from there.
    pub(crate) fn wants_tombstones(&self, state: &State, id: FlightId) -> Option<NodeId> {
        let flight = &state.flights[id as usize];
        if flight.table != Table::Loads || flight.at != At::Begun {
            return None;
        }
        let this = &state.nodes[flight.node as usize];
        let from = self.holder(state, id)?;
        (this.synced & bit(from) == 0 && state.nodes[from as usize].up).then_some(from)
    }

    /// Whether a flight that has begun would ask another node for its value before it loads.
    pub(crate) fn would_take_over(&self, state: &State, id: FlightId) -> bool {
        let flight = &state.flights[id as usize];
        let (node, key) = (flight.node, flight.key);
        let holder = match (flight.table, flight.role) {
            (Table::Loads, Role::Owner) => self.former_owner(state, node, key),
            _ => None,
        };
        let may_take = |holder| self.may_take(state, node, holder, key).is_some();
        self.in_memory(state, node, key).is_none() && holder.is_some_and(may_take)
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
        if self.has(Fault::NoRelease) {
            flight.at = At::Waiting;
            return;
        }
        self.release(state, id);
    }

    /// Ends a flight without a value: gets of this node join anew, for a load, and peers load themselves.
    fn release(&self, state: &mut State, id: FlightId) {
        let Flight {
            node, key, waiters, ..
        } = state.take_flight(id);
        for waiter in waiters {
            let Waiter::Flight(other) = waiter else {
                self.join(state, node, key, Table::Loads, Role::Owner, waiter);
                continue;
            };
            self.seen.note(Seen::Released);
            let other = if other > id { other - 1 } else { other };
            let (asker, role) = {
                let flight = &state.flights[other as usize];
                (flight.node, flight.role)
            };
            if asker == node {
                self.join(state, node, key, Table::Loads, role, Waiter::Flight(other));
                continue;
            }
            state.msgs.push(Msg::Answer {
                by: other,
                val: None,
            });
            // The price of an owner that is lost while its deputy takes a value over.
            state.allowed[key as usize] += u8::from(self.counts);
        }
    }

    /// What a node gives to the one that owns a key now, or is its deputy: what it has in main memory.
    pub(crate) fn peek(
        &self,
        state: &State,
        node: NodeId,
        key: Key,
        removed: Option<u8>,
    ) -> Option<Val> {
        let slot = &state.nodes[node as usize].slots[key as usize];
        let is_applied = |change| self.has_applied(&slot.tombs, change);
        if !removed.is_none_or(is_applied) && !self.has(Fault::PeekNotApplied) {
            self.seen.note(Seen::PeekRefused);
            return None;
        }
        let copy = slot.hot.filter(|_| self.has(Fault::PeekCopies));
        slot.main.or(slot.spare).or(copy)
    }

    /// An owner offers what it has to its deputy.
    pub(crate) fn offer(&self, state: &mut State, to: NodeId, key: Key) {
        state.offers -= 1;
        state.msgs.push(Msg::Offer { to, key });
    }

    /// An offer arrives: the deputy asks the owner for the value, inside a flight.
    pub(crate) fn take_offer(&self, state: &mut State, to: NodeId, key: Key) {
        let is_busy = state.joinable(to, key, Table::Loads).is_some();
        let has_it = self.in_role(state, to, key, Role::Offered).is_some();
        if self.offering_owner(state, to, key).is_none() || is_busy || has_it {
            return;
        }
        state
            .flights
            .push(Flight::begun(to, key, Table::Loads, Role::Offered));
    }
}
