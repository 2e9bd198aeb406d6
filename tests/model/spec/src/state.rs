//! The state of a cluster: nodes, flights, messages, changes. All small, and in one order, so that
//! states that differ in nothing but an order are one state.

use crate::msg::Msg;
use crate::setup::{KEYS, Key, Mask, NODES, NodeId, bit};

/// A value, as far as the promises can tell it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Val {
    /// The changes of its key that had begun when its load began.
    pub begun: Mask,
    /// The change that set it; no load did then.
    pub set_by: Option<u8>,
    /// The nodes that have answered with it although a change that makes it old had begun.
    pub via: Mask,
    /// Whether a deputy was handed it, where that ends with the memory of removals.
    pub handed: bool,
}

/// What a node knows of the changes of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tombs {
    /// The changes that it was told of, by whomever.
    pub told: Mask,
    /// Those of them that it knows from the marks of a peer only.
    pub by_marks: Mask,
    /// The changes that it has carried out.
    pub applied: Mask,
}

/// What a node keeps of one key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot {
    /// As the owner.
    pub main: Option<Val>,
    /// As a copy, or for a fallback life.
    pub hot: Option<Val>,
    /// As the deputy, for a deputy life.
    pub spare: Option<Val>,
    /// The removals of the key that are remembered.
    pub tombs: Tombs,
}

/// A process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node {
    /// Whether it runs.
    pub up: bool,
    /// Which list it has: 0 or 1.
    pub view: u8,
    /// The peers that have told it that they leave.
    pub left: Mask,
    /// Whether it leaves itself.
    pub leaving: bool,
    /// The ring before this one; 0 if there was none.
    pub former: Mask,
    /// What it keeps, by key.
    pub slots: [Slot; KEYS],
    /// The changes that each peer has still to be told.
    pub pending: [Mask; NODES],
    /// The same, of copies only.
    pub copies: [Mask; NODES],
    /// The peers whose tombstones it has.
    pub synced: Mask,
}

/// Which table a flight stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// This process loads, or takes over.
    Loads,
    /// This process asks another one.
    Fetches,
}

/// Why a process loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// It owns the key, or a peer says so.
    Owner,
    /// The owner is away, and it is the deputy.
    Deputy,
    /// Nobody else can be reached.
    Fallback,
    /// The owner offers the value to its deputy: nothing is loaded.
    Offered,
}

/// Where a flight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// It has just begun.
    Begun,
    /// It found this value in memory, and has not ended yet.
    Found(Val),
    /// It has asked this node.
    Asking(NodeId, Ask),
    /// The loader runs; these changes had begun when it started.
    Loading(Mask),
    /// It waits for a load of its own process.
    Waiting,
}

/// What a node is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ask {
    /// The value, as the owner.
    Owner,
    /// The value, for an owner that is away: of the deputy, or of another one that stands in.
    Deputy,
    /// What is in memory, and with a change: only if that has been carried out.
    Peek(Option<u8>),
}

/// The place of a flight in [`State::flights`].
pub type FlightId = u8;

/// Who waits for a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Waiter {
    /// A get that must see these changes: `after` had returned when it began, `strict` even without
    /// the exceptions for nodes that were not reached.
    Get {
        /// The changes that had returned.
        after: Mask,
        /// Those of them that hold everywhere.
        strict: Mask,
    },
    /// A flight: of this process (a fetch that fell back), or of another one.
    Flight(FlightId),
}

/// One run for a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flight {
    /// Where it runs.
    pub node: NodeId,
    /// For which key.
    pub key: Key,
    /// In which table.
    pub table: Table,
    /// Why, if it loads.
    pub role: Role,
    /// Whether it was marked: it is out of the table, and what it brings is not kept.
    pub stale: bool,
    /// Whether it asks a node that has still to be told a removal: what it brings is not kept either,
    /// but it can be joined.
    pub behind: bool,
    /// Whether it asks one who comes after the deputy.
    pub of_other: bool,
    /// How far it is.
    pub at: At,
    /// Who waits for it.
    pub waiters: Vec<Waiter>,
}

impl Flight {
    /// One that nobody waits for yet.
    #[must_use]
    pub fn begun(node: NodeId, key: Key, table: Table, role: Role) -> Flight {
        Flight {
            node,
            key,
            table,
            role,
            stale: false,
            behind: false,
            of_other: false,
            at: At::Begun,
            waiters: Vec::new(),
        }
    }
}

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// It has not begun.
    Planned,
    /// The owner is told; or all are, of a clear, in that round.
    First(u8),
    /// The deputy is told.
    Deputy,
    /// The caller carries it out itself.
    Own,
    /// All others are told.
    Others,
    /// It has returned.
    Done,
    /// Its caller has crashed.
    Lost,
}

/// A change that the application makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Change {
    /// How far it is.
    pub stage: Stage,
    /// The changes that had returned when it began.
    pub after: Mask,
    /// The list and the ring that the current pass tells.
    pub list: Mask,
    /// The ring of its caller.
    pub ring: Mask,
    /// The nodes that have not answered yet.
    pub waiting: Mask,
    /// The nodes that were not reached: the error names them.
    pub unreached: Mask,
    /// The nodes on which it holds: those of the list that were reached.
    pub reached: Mask,
    /// The nodes that were told later.
    pub late: Mask,
    /// Whether a node with another ring was met.
    pub met_other_ring: bool,
    /// Whether it was sent once more for that.
    pub again: bool,
    /// Whether the node that had still to tell others of it has crashed: they are told no more.
    pub forgotten: bool,
}

/// A removal that a node carries out in steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Work {
    /// Where.
    pub node: NodeId,
    /// Which change.
    pub change: u8,
    /// 0: the first mark is made; 1: the values are dropped.
    pub step: u8,
    /// Who is answered: the caller over the network, or the caller on this node.
    pub remote: bool,
    /// Whether the caller still waits.
    pub awaited: bool,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Broken {
    /// A get saw an old value.
    pub p2: bool,
    /// A request was forwarded.
    pub i5: bool,
}

/// The whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// The processes.
    pub nodes: [Node; NODES],
    /// The runs.
    pub flights: Vec<Flight>,
    /// What is on its way.
    pub msgs: Vec<Msg>,
    /// The changes, in the order of the plan.
    pub changes: Vec<Change>,
    /// Removals that are carried out step by step.
    pub works: Vec<Work>,
    /// How many gets may still begin.
    pub gets: u8,
    /// How many calls may still fail although the peer lives.
    pub failures: u8,
    /// How many requests may still be repeated.
    pub repeats: u8,
    /// How many values may still expire.
    pub expiries: u8,
    /// How many values may still be offered to a deputy.
    pub offers: u8,
    /// Whether the memory of removals has still to end.
    pub remembers: bool,
    /// The nodes whose crash is still to come.
    pub crashes: Mask,
    /// The loads of each key so far, where they are counted.
    pub loads: [u8; KEYS],
    /// The most loads that P1 allows by now, where they are counted.
    pub allowed: [u8; KEYS],
    /// What went wrong.
    pub broken: Broken,
}

impl State {
    /// Drops what is on its way to nodes that do not run: they refuse it.
    pub fn refuse(&mut self) {
        let nodes = self.nodes;
        self.msgs.retain(|msg| match *msg {
            Msg::Ask { to, .. }
            | Msg::Tell { to, .. }
            | Msg::Late { to, .. }
            | Msg::LateDone { to, .. }
            | Msg::Departure { to, .. }
            | Msg::Offer { to, .. } => nodes[to as usize].up,
            Msg::Told { .. } | Msg::Answer { .. } => true,
        });
    }

    /// Brings everything into one order. Flights are renumbered: what refers to them follows.
    pub fn order(&mut self) {
        let mut places: Vec<usize> = (0..self.flights.len()).collect();
        for flight in &mut self.flights {
            flight.waiters.sort_unstable();
        }
        places.sort_by(|&one, &other| {
            let (one, other) = (&self.flights[one], &self.flights[other]);
            let shape = |flight: &Flight| {
                let Flight {
                    node,
                    key,
                    table,
                    role,
                    stale,
                    behind,
                    of_other,
                    at,
                    ..
                } = *flight;
                (
                    node,
                    key,
                    table,
                    role,
                    stale,
                    behind,
                    of_other,
                    at,
                    flight.waiters.len(),
                )
            };
            shape(one)
                .cmp(&shape(other))
                .then_with(|| one.waiters.cmp(&other.waiters))
        });
        if places.iter().enumerate().any(|(to, &from)| to != from) {
            let mut moved = vec![0; places.len()];
            for (to, &from) in places.iter().enumerate() {
                moved[from] = to as FlightId;
            }
            self.flights = places.iter().map(|&at| self.flights[at].clone()).collect();
            self.renumber(|id| Some(moved[id as usize]));
        }
        for flight in &mut self.flights {
            flight.waiters.sort_unstable();
        }
        self.msgs.sort_unstable();
        self.works.sort_unstable();
    }

    /// Gives every reference to a flight its new number, or drops it.
    fn renumber(&mut self, new: impl Fn(FlightId) -> Option<FlightId>) {
        for flight in &mut self.flights {
            flight.waiters.retain_mut(|waiter| match waiter {
                Waiter::Get { .. } => true,
                Waiter::Flight(id) => new(*id).map(|new| *id = new).is_some(),
            });
        }
        self.msgs.retain_mut(|msg| match msg {
            // A request stays on its way, also if nobody waits for its answer.
            Msg::Ask { by, .. } => {
                *by = by.and_then(&new);
                true
            }
            Msg::Answer { by, .. } => new(*by).map(|new| *by = new).is_some(),
            _ => true,
        });
    }

    /// Takes a flight out, and everything that would reach it.
    pub fn take_flight(&mut self, id: FlightId) -> Flight {
        let flight = self.flights.remove(id as usize);
        self.renumber(|other| match other.cmp(&id) {
            std::cmp::Ordering::Less => Some(other),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(other - 1),
        });
        flight
    }

    /// Has a flight wait no longer for the node that it has asked.
    pub fn give_up(&mut self, id: FlightId) {
        let at = std::mem::replace(&mut self.flights[id as usize].at, At::Begun);
        self.renumber_without(id);
        self.flights[id as usize].at = at;
    }

    fn renumber_without(&mut self, id: FlightId) {
        for flight in &mut self.flights {
            flight
                .waiters
                .retain(|waiter| *waiter != Waiter::Flight(id));
        }
        self.msgs.retain_mut(|msg| match msg {
            Msg::Ask { by, .. } if *by == Some(id) => {
                *by = None;
                true
            }
            Msg::Answer { by, .. } => *by != id,
            _ => true,
        });
    }

    /// The flight of a key that can be joined.
    pub fn joinable(&self, node: NodeId, key: Key, table: Table) -> Option<FlightId> {
        let is_it = |flight: &Flight| {
            (flight.node, flight.key, flight.table, flight.stale) == (node, key, table, false)
        };
        self.flights.iter().position(is_it).map(|at| at as FlightId)
    }

    /// Whether something may still reach a flight that has asked another node.
    pub fn is_expected(&self, id: FlightId) -> bool {
        let is_waiter = |flight: &Flight| flight.waiters.contains(&Waiter::Flight(id));
        let is_msg = |msg: &Msg| match msg {
            Msg::Ask { by, .. } => *by == Some(id),
            Msg::Answer { by, .. } => *by == id,
            _ => false,
        };
        self.flights.iter().any(is_waiter) || self.msgs.iter().any(is_msg)
    }

    /// Whether a get has not ended.
    pub fn has_open_get(&self) -> bool {
        let is_get = |waiter: &Waiter| matches!(waiter, Waiter::Get { .. });
        self.flights
            .iter()
            .any(|flight| flight.waiters.iter().any(is_get))
    }

    /// The changes that a change knows to have returned before it, as a mask of those that are done.
    pub fn done(&self) -> Mask {
        let done = self.changes.iter().enumerate();
        let done = done.filter(|(_, change)| change.stage == Stage::Done);
        done.fold(0, |mask, (at, _)| mask | bit(at as u8))
    }
}
