//! What is explored: the cluster, what may happen to it and how often, and the fault that is put in.

use crate::fault::Fault;
use crate::state::{Change, Node, Stage, State, Tombs, Val};
use crate::witness::Witness;

/// The number of a process.
pub type NodeId = u8;

/// The number of a key.
pub type Key = u8;

/// A set of nodes or of changes.
pub type Mask = u8;

/// The most processes of a cluster.
pub const NODES: usize = 4;

/// The keys of a group.
pub const KEYS: usize = 2;

/// The processes of most plans.
pub const THREE: Mask = 0b111;

/// The set of one.
#[must_use]
pub const fn bit(of: u8) -> Mask {
    1 << of
}

/// The members of a set.
pub fn members(mask: Mask) -> impl Iterator<Item = u8> {
    (0..8).filter(move |&at| mask & bit(at) != 0)
}

/// Which protocol the nodes speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A process that does not reach an owner loads for itself.
    Alone,
    /// It asks the deputy first, which answers from every tier and is told of changes before the others.
    Deputies,
    /// What the code does: the deputy answers from main memory and is told together with the owner; it is
    /// handed values before the owner is lost, and where it is lost too, the next in rank stands in.
    Coded,
}

/// What a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The removal of a key.
    Remove(Key),
    /// A new value for a key.
    Set(Key),
    /// The removal of all keys.
    Clear,
}

impl Kind {
    /// Whether it changes this key.
    #[must_use]
    pub fn concerns(self, key: Key) -> bool {
        match self {
            Kind::Remove(changed) | Kind::Set(changed) => changed == key,
            Kind::Clear => true,
        }
    }
}

/// A cluster and what may happen to it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What it is called in reports.
    pub name: &'static str,
    /// Whether a request for a value says which removals of the key its asker knows of.
    pub stamped: bool,
    /// Whether the owner is told of a change once more with the others: then the hole of [`restarts`] is
    /// closed.
    ///
    /// [`restarts`]: crate::code_plans::restarts
    pub owner_again: bool,
    /// Which protocol is spoken.
    pub protocol: Protocol,
    /// The fault that is put in.
    pub fault: Option<Fault>,
    /// The processes that there may be.
    pub nodes: Mask,
    /// How many keys there are.
    pub keys: u8,
    /// The nodes in the order in which they may own each key: owner, deputy, third, fourth.
    pub ranks: [[NodeId; NODES]; KEYS],
    /// The list before and after the change of the list.
    pub lists: [Mask; 2],
    /// The nodes that begin with the second list, as new processes.
    pub newcomers: Mask,
    /// Whether each node keeps the list that it begins with.
    pub still: bool,
    /// Whether nodes see another list only while no change is under way: then the hole is not met.
    pub between: bool,
    /// The nodes whose applications get values.
    pub askers: Mask,
    /// How many gets there are.
    pub gets: u8,
    /// The changes, each with the node whose application makes it.
    pub changes: Vec<(NodeId, Kind)>,
    /// Whether values may be in memory from the beginning.
    pub warm: bool,
    /// How many calls may fail although the peer lives.
    pub failures: u8,
    /// How many requests may be repeated by the network.
    pub repeats: u8,
    /// How many values may expire.
    pub expiries: u8,
    /// How many values an owner may offer to a deputy.
    pub offers: u8,
    /// Whether the memory of removals ends once.
    pub forgets: bool,
    /// The nodes that may crash, each once.
    pub crashes: Mask,
    /// Whether they may return.
    pub returns: bool,
    /// The node that may leave.
    pub leave: Option<NodeId>,
    /// Whether a removal and the end of a flight are carried out step by step.
    pub fine: bool,
    /// Whether loads are counted (P1). Then nodes do what they can at once: a former owner that can be
    /// asked is asked.
    pub counts: bool,
    /// What has happened.
    pub seen: Witness,
}

impl Setup {
    /// Three nodes that live, with one key and nothing to do.
    #[must_use]
    pub fn quiet(name: &'static str, protocol: Protocol) -> Setup {
        Setup {
            name,
            stamped: false,
            owner_again: false,
            protocol,
            fault: None,
            nodes: THREE,
            keys: 1,
            ranks: [[0, 1, 2, 3], [1, 2, 0, 3]],
            lists: [THREE, THREE],
            newcomers: 0,
            still: false,
            between: false,
            askers: THREE,
            gets: 2,
            changes: Vec::new(),
            warm: false,
            failures: 0,
            repeats: 0,
            expiries: 0,
            offers: 0,
            forgets: false,
            crashes: 0,
            returns: false,
            leave: None,
            fine: false,
            counts: false,
            seen: Witness::default(),
        }
    }

    /// The same with a fault.
    #[must_use]
    pub fn with(mut self, fault: Fault) -> Setup {
        self.fault = Some(fault);
        self
    }

    /// Whether this fault is put in.
    #[must_use]
    pub fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// Whether nodes know of deputies.
    #[must_use]
    pub fn has_deputies(&self) -> bool {
        self.protocol != Protocol::Alone
    }

    /// Whether they do what the code does.
    #[must_use]
    pub fn is_coded(&self) -> bool {
        self.protocol == Protocol::Coded
    }

    /// What the change with this number is.
    #[must_use]
    pub fn kind(&self, change: u8) -> Kind {
        self.changes[change as usize].1
    }

    /// Who makes it.
    #[must_use]
    pub fn caller(&self, change: u8) -> NodeId {
        self.changes[change as usize].0
    }

    /// The changes that concern a key.
    #[must_use]
    pub fn changes_of(&self, key: Key) -> Mask {
        let changes = self.changes.iter().enumerate();
        let of_key = changes.filter(|(_, (_, kind))| kind.concerns(key));
        of_key.fold(0, |mask, (at, _)| mask | bit(at as u8))
    }

    /// The changes that a node makes.
    #[must_use]
    pub fn changes_by(&self, node: NodeId) -> Mask {
        let changes = self.changes.iter().enumerate();
        let by_node = changes.filter(|(_, (caller, _))| *caller == node);
        by_node.fold(0, |mask, (at, _)| mask | bit(at as u8))
    }

    /// The keys that a change concerns.
    pub fn keys_of(&self, change: u8) -> impl Iterator<Item = Key> + use<> {
        let kind = self.kind(change);
        (0..self.keys).filter(move |&key| kind.concerns(key))
    }

    /// The list of a node.
    #[must_use]
    pub fn list(&self, node: &Node) -> Mask {
        self.lists[node.view as usize]
    }

    /// The ring of the node with this number.
    #[must_use]
    pub fn ring(&self, state: &State, at: NodeId) -> Mask {
        let node = &state.nodes[at as usize];
        let itself = if node.leaving { bit(at) } else { 0 };
        self.list(node) & !node.left & !itself
    }

    /// The member of a ring in this rank of a key: 0 is the owner, 1 the deputy.
    #[must_use]
    pub fn ranked(&self, key: Key, ring: Mask, rank: usize) -> Option<NodeId> {
        let ranks = self.ranks[key as usize].into_iter();
        ranks.filter(|&node| ring & bit(node) != 0).nth(rank)
    }

    /// The states to begin with: all that quiet gets, and offers, may have left in memory.
    #[must_use]
    pub fn begin(&self) -> Vec<State> {
        let mut states = vec![self.empty()];
        if self.warm {
            for key in 0..self.keys {
                for (rank, at) in self.ranks[key as usize].into_iter().enumerate() {
                    if self.lists[0] & bit(at) != 0 {
                        self.warm_up(&mut states, key, at, rank);
                    }
                }
            }
        }
        states
    }

    fn empty(&self) -> State {
        let mut empty = State {
            nodes: [Node::default(); NODES],
            flights: Vec::new(),
            msgs: Vec::new(),
            changes: vec![PLANNED; self.changes.len()],
            works: Vec::new(),
            gets: self.gets,
            failures: self.failures,
            repeats: self.repeats,
            expiries: self.expiries,
            offers: self.offers,
            remembers: self.forgets,
            crashes: self.crashes,
            loads: [0; KEYS],
            allowed: [1; KEYS],
            broken: Default::default(),
        };
        for node in members(self.nodes) {
            empty.nodes[node as usize].up = true;
        }
        for newcomer in members(self.newcomers) {
            let node = &mut empty.nodes[newcomer as usize];
            node.view = 1;
            node.former = self.lists[1] & !bit(newcomer);
        }
        empty
    }

    /// Adds the states in which a node of this rank has a value.
    fn warm_up(&self, states: &mut Vec<State>, key: Key, at: NodeId, rank: usize) {
        let old = Val {
            begun: 0,
            set_by: None,
            via: 0,
            handed: false,
        };
        let is_owner = self.ranked(key, self.lists[0], 0) == Some(at);
        let is_deputy = self.ranked(key, self.lists[0], 1) == Some(at);
        // A deputy was handed the value, or one that comes after it has stood in.
        let has_main = is_owner || self.is_coded() && (is_deputy || self.stood_in(rank));
        let has_copy = !is_owner && !self.stood_in(rank);
        let without = std::mem::take(states);
        for state in without {
            let mut keep = |main: bool| {
                let mut state = state.clone();
                let slot = &mut state.nodes[at as usize].slots[key as usize];
                *if main { &mut slot.main } else { &mut slot.hot } = Some(old);
                states.push(state);
            };
            if has_main {
                keep(true);
            }
            if has_copy {
                keep(false);
            }
            states.push(state);
        }
    }

    /// Whether a node of this rank may have loaded for another one before: the third of four.
    fn stood_in(&self, rank: usize) -> bool {
        self.nodes != THREE && rank == 2
    }
}

const PLANNED: Change = Change {
    stage: Stage::Planned,
    after: 0,
    list: 0,
    ring: 0,
    waiting: 0,
    unreached: 0,
    reached: 0,
    late: 0,
    met_other_ring: false,
    again: false,
    forgotten: false,
};

/// The last removal of a key, as a node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// None is known.
    Never,
    /// This one.
    By(u8),
    /// No node can tell that it has carried all of them out.
    Perhaps,
}

impl Setup {
    /// What a node with these tombstones knows of the last removal.
    #[must_use]
    pub fn removed(&self, tombs: &Tombs) -> Removed {
        let mut told = members(tombs.told);
        let Some(first) = told.next() else {
            return Removed::Never;
        };
        told.fold(Removed::By(first), |removed, change| match removed {
            Removed::By(before) if self.caller(before) == self.caller(change) => {
                Removed::By(change)
            }
            _ => Removed::Perhaps,
        })
    }

    /// Whether a node with these tombstones has carried out a change, or a later one of its caller.
    #[must_use]
    pub fn has_applied(&self, tombs: &Tombs, change: u8) -> bool {
        let is_it = |other| other >= change && self.caller(other) == self.caller(change);
        members(tombs.applied).any(is_it)
    }

    /// Whether a set is an older change than one of its caller that the node was told of.
    #[must_use]
    pub fn is_superseded(&self, tombs: &Tombs, change: u8) -> bool {
        let is_it = |other| other >= change && self.caller(other) == self.caller(change);
        members(tombs.told).any(is_it)
    }
}
