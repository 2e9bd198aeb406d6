//! What is explored: the cluster, what may happen to it and how often, and the fault that is put in.

use crate::state::{Change, Node, Slot, Stage, State, Tombs, Val};
use crate::witness::Witness;

/// The number of a process.
pub type NodeId = u8;

/// The number of a key.
pub type Key = u8;

/// A set of nodes or of changes.
pub type Mask = u8;

/// The processes of a cluster.
pub const NODES: usize = 3;

/// The keys of a group.
pub const KEYS: usize = 2;

/// All processes.
pub const ALL: Mask = (1 << NODES) - 1;

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
    Today,
    /// It asks the deputy first.
    Deputies,
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

/// A fault that is put into the protocol by hand, to see that the model finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A removal does not mark the flights before it drops the value.
    NoMarkBefore,
    /// A removal does not mark the flights after it has dropped the value.
    NoMarkAfter,
    /// What a stale flight brings is kept all the same.
    KeepStale,
    /// A stale flight stays in the table, and later gets join it.
    JoinStale,
    /// A removal drops what the node owns, and no copies.
    KeepCopies,
    /// All nodes are told at the same time, the owner too.
    OwnerWithOthers,
    /// The answer of a node that has still to be told a removal is kept.
    IgnorePending,
    /// Once a peer is told late, the others are not told of their copies.
    NoCopyRemovals,
    /// Late removals are delivered to owners of the key only.
    LateToOwnersOnly,
    /// A peer that was not reached is not named.
    NotNamed,
    /// A peer that was not reached is named, and not told later: the journal forgets the change.
    NotPending,
    /// A node that is new in the list is told nothing of what was removed before.
    NewcomerNotTold,
    /// A change that met another ring is not sent again.
    NoSecondPass,
    /// A change of the list in the middle of a change is not noticed.
    ListNotChecked,
    /// A value is taken over from a former owner whatever was removed.
    TakeOverRemoved,
    /// A former owner answers a peek whether it has carried the removal out or not.
    PeekNotApplied,
    /// What is taken over is kept although a removal came in between.
    KeepTakenOver,
    /// A set that comes after a later change of its caller is carried out.
    LateSet,
    /// All nodes are told of a clear once less.
    OneRoundLess,
    /// A node that leaves does not hand over what it has still to tell.
    NoHandOver,
    /// A second get of a key does not join the flight of the first one.
    NoSharedFlight,
    /// A value is not in memory when its flight ends.
    KeepNothing,
    /// A get waits for a node that has crashed.
    NoTimeout,
    /// Deputies: the deputy is told with the others, not before them.
    DeputyWithOthers,
    /// Deputies: the caller drops its own copy before the deputy is told.
    CallerBeforeDeputy,
    /// Deputies: the deputy is told before the owner.
    DeputyBeforeOwner,
    /// Deputies: a removal does not reach what a node has as the deputy.
    DeputyNotTold,
    /// Deputies: a removal of copies leaves what a node has as the deputy, and offers are taken whatever
    /// was removed. (Each alone is harmless.)
    CopiesWithoutSpare,
    /// Deputies: the answer of a deputy that has still to be told a removal is kept.
    IgnoreDeputyPending,
    /// Deputies: a deputy asks the owner, or the next deputy.
    DeputyForwards,
    /// Deputies: what a deputy loads is not kept.
    DeputyForgets,
    /// Deputies: each request to a deputy is a load of its own.
    DeputyAlone,
    /// Deputies: an owner that returns does not ask its deputy.
    OwnerDoesNotAsk,
    /// Deputies: a deputy keeps an offered value in spite of a mark.
    OfferStale,
    /// Requests that say what the asker knows of: the node that is asked does not look at that.
    IgnoreStamps,
}

/// A cluster and what may happen to it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What it is called in reports.
    pub name: &'static str,
    /// Whether a request for a value says which removals of the key its asker knows of.
    pub stamped: bool,
    /// Which protocol is spoken.
    pub protocol: Protocol,
    /// The fault that is put in.
    pub fault: Option<Fault>,
    /// How many keys there are.
    pub keys: u8,
    /// The nodes in the order in which they may own each key: owner, deputy, third.
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
    /// The node that may crash.
    pub crash: Option<NodeId>,
    /// Whether it may return.
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
            protocol,
            fault: None,
            keys: 1,
            ranks: [[0, 1, 2], [1, 2, 0]],
            lists: [ALL, ALL],
            newcomers: 0,
            still: false,
            between: false,
            askers: ALL,
            gets: 2,
            changes: Vec::new(),
            warm: false,
            failures: 0,
            repeats: 0,
            expiries: 0,
            offers: 0,
            crash: None,
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
        self.protocol == Protocol::Deputies
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

    /// The states to begin with: all that quiet gets may have left in memory.
    #[must_use]
    pub fn begin(&self) -> Vec<State> {
        let mut node = Node {
            up: true,
            ..Node::default()
        };
        node.slots = [Slot::default(); KEYS];
        let mut empty = State {
            nodes: [node; NODES],
            flights: Vec::new(),
            msgs: Vec::new(),
            changes: vec![PLANNED; self.changes.len()],
            works: Vec::new(),
            gets: self.gets,
            failures: self.failures,
            repeats: self.repeats,
            expiries: self.expiries,
            offers: self.offers,
            crash: self.crash.is_some(),
            loads: [0; KEYS],
            allowed: [1; KEYS],
            broken: Default::default(),
        };
        for newcomer in members(self.newcomers) {
            let node = &mut empty.nodes[newcomer as usize];
            node.view = 1;
            node.former = self.lists[1] & !bit(newcomer);
        }
        if !self.warm {
            return vec![empty];
        }
        let mut states = vec![empty];
        for key in 0..self.keys {
            let old = Val {
                begun: 0,
                set_by: None,
                via: 0,
            };
            let ring = self.lists[0];
            let owner = self.ranked(key, ring, 0);
            let mut more = Vec::new();
            for held in members(ring).map(bit).fold(vec![0], |sets, one| {
                sets.iter()
                    .flat_map(|&set| [set, set | one])
                    .collect::<Vec<Mask>>()
            }) {
                for state in &states {
                    let mut state = state.clone();
                    for at in members(held) {
                        let slot = &mut state.nodes[at as usize].slots[key as usize];
                        match Some(at) == owner {
                            true => slot.main = Some(old),
                            false => slot.hot = Some(old),
                        }
                    }
                    more.push(state);
                }
            }
            states = more;
        }
        states
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
