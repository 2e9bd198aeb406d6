//! The plans: each explores one combination of changes and of what else may happen, completely.

use crate::code_plans::{code_plans, long_code_plans};
use crate::fault::Fault;
use crate::setup::{Kind, Mask, NODES, NodeId, Protocol, Setup, THREE, bit};

/// A list without the third node, which joins or has left.
const TWO: Mask = 0b011;

/// The nodes that make changes.
pub(crate) const CALLERS: [NodeId; 3] = [0, 1, 2];

/// The ranks of the keys where the third node owns the first one.
const THIRD_FIRST: [[NodeId; NODES]; 2] = [[2, 0, 1, 3], [1, 2, 0, 3]];

fn remove(caller: NodeId) -> Vec<(NodeId, Kind)> {
    vec![(caller, Kind::Remove(0))]
}

/// One node makes one change, and one call may fail.
pub(crate) fn change(protocol: Protocol, name: &'static str, caller: NodeId, kind: Kind) -> Setup {
    Setup {
        changes: vec![(caller, kind)],
        warm: true,
        failures: 1,
        ..Setup::quiet(name, protocol)
    }
}

/// Loads are counted while nothing fails.
pub(crate) fn calm(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        changes: remove(caller),
        gets: 4,
        counts: true,
        ..Setup::quiet("calm", protocol)
    }
}

/// Loads are counted while the owner crashes and returns.
pub(crate) fn lost_owner(protocol: Protocol) -> Setup {
    Setup {
        gets: 5,
        crashes: bit(0),
        returns: true,
        counts: true,
        ..Setup::quiet("lost owner", protocol)
    }
}

/// A removal while a node crashes and returns. Where that is the owner, nothing else fails.
pub(crate) fn crash(protocol: Protocol, caller: NodeId, gone: NodeId) -> Setup {
    Setup {
        crashes: bit(gone),
        returns: true,
        failures: u8::from(gone != 0),
        ..change(protocol, "crash", caller, Kind::Remove(0))
    }
}

/// The third node joins, and owns the key.
pub(crate) fn join(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        lists: [TWO, THREE],
        newcomers: bit(2),
        ranks: THIRD_FIRST,
        failures: 0,
        ..change(protocol, "join", caller, Kind::Remove(0))
    }
}

/// The third node, which owns the key, is dropped from the list.
pub(crate) fn dropped(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        lists: [THREE, TWO],
        ranks: THIRD_FIRST,
        failures: 0,
        ..change(protocol, "dropped", caller, Kind::Remove(0))
    }
}

/// The third node, which owns the key by the list of the others, is not in its own.
pub(crate) fn differ(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        newcomers: bit(2),
        still: true,
        ..Setup {
            name: "lists differ",
            ..dropped(protocol, caller)
        }
    }
}

/// The owner leaves.
pub(crate) fn leave(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        leave: Some(0),
        ..change(protocol, "leave", caller, Kind::Remove(0))
    }
}

/// A set, and then a removal by the same node.
pub(crate) fn late_set(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        changes: vec![(caller, Kind::Set(0)), (caller, Kind::Remove(0))],
        gets: 1,
        failures: 1,
        ..Setup::quiet("set, then remove", protocol)
    }
}

/// Two nodes, one of them the owner; a removal and the end of a flight are carried out step by step.
pub(crate) fn fine(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        lists: [TWO, TWO],
        fine: true,
        askers: TWO,
        ..change(protocol, "step by step", caller, Kind::Remove(0))
    }
}

/// A removal, a crash of the owner, and its end in the list. Its return has no room in every check.
pub(crate) fn crash_and_list(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        lists: [THREE, 0b110],
        between: true,
        returns: false,
        name: "crash and change of the list",
        ..crash(protocol, caller, 0)
    }
}

/// Two keys, a clear, a crash of the owner of one, and its end in the list.
fn together(protocol: Protocol, caller: NodeId, returns: bool) -> Setup {
    Setup {
        keys: 2,
        lists: [THREE, 0b110],
        crashes: bit(0),
        returns,
        gets: 1,
        failures: 0,
        ..change(
            protocol,
            "two keys, crash, change of the list",
            caller,
            Kind::Clear,
        )
    }
}

/// The plans of a protocol that are explored with every change of the code.
#[must_use]
pub fn plans(protocol: Protocol) -> Vec<Setup> {
    let remove = Kind::Remove(0);
    let mut plans = vec![calm(protocol, 0), calm(protocol, 2), lost_owner(protocol)];
    for caller in CALLERS {
        let offered = Setup {
            offers: 1,
            failures: 0,
            ..change(protocol, "offers", caller, remove)
        };
        plans.extend([
            change(protocol, "remove", caller, remove),
            change(protocol, "set", caller, Kind::Set(0)),
            change(protocol, "clear", caller, Kind::Clear),
            late_set(protocol, caller),
            fine(protocol, caller),
            join(protocol, caller),
            differ(protocol, caller),
            offered,
        ]);
        plans.extend(CALLERS.map(|gone| crash(protocol, caller, gone)));
    }
    plans.push(Setup {
        gets: 1,
        ..leave(protocol, 0)
    });
    plans.push(Setup {
        changes: vec![(0, remove), (1, remove)],
        warm: true,
        gets: 1,
        ..Setup::quiet("two callers", protocol)
    });
    plans.push(Setup {
        failures: 0,
        repeats: 1,
        ..change(protocol, "repeats", 1, remove)
    });
    plans.push(Setup {
        failures: 0,
        expiries: 1,
        ..change(protocol, "expiries", 1, remove)
    });
    if protocol == Protocol::Coded {
        plans.extend(list_plans(protocol));
        plans.extend(code_plans());
    }
    plans.retain(is_possible);
    plans
}

/// The list changes while a node is lost, or lacks the owner: in every check for the protocol of the code.
fn list_plans(protocol: Protocol) -> Vec<Setup> {
    let mut plans = vec![together(protocol, 1, false)];
    plans.extend([1, 2].map(|caller| crash_and_list(protocol, caller)));
    plans.extend([0, 1].map(|caller| Setup {
        between: true,
        ..dropped(protocol, caller)
    }));
    plans
}

/// What has no room in every check: the same with failures while the list changes, and more gets.
#[must_use]
pub fn long_plans(protocol: Protocol) -> Vec<Setup> {
    let mut plans = Vec::new();
    for caller in CALLERS {
        let more = |plan: Setup| Setup {
            failures: plan.failures + 1,
            ..plan
        };
        plans.extend([
            more(join(protocol, caller)),
            more(differ(protocol, caller)),
            more(change(protocol, "remove", caller, Kind::Remove(0))),
            more(change(protocol, "clear", caller, Kind::Clear)),
            stamp(more(dropped(protocol, caller))),
            stamp(leave(protocol, caller)),
            Setup {
                gets: 3,
                ..change(protocol, "clear", caller, Kind::Clear)
            },
            Setup {
                returns: true,
                ..crash_and_list(protocol, caller)
            },
            stamp(more(crash_and_list(protocol, caller))),
            more(crash(protocol, caller, 0)),
            Setup {
                gets: 3,
                ..crash(protocol, caller, 0)
            },
        ]);
    }
    let two_gets = |plan: Setup| Setup { gets: 2, ..plan };
    plans.push(stamp(two_gets(together(protocol, 1, true))));
    plans.push(Setup {
        between: true,
        ..two_gets(together(protocol, 1, false))
    });
    plans.push(together(protocol, 1, true));
    plans.push(Setup {
        failures: 1,
        ..together(protocol, 1, true)
    });
    match protocol {
        Protocol::Coded => plans.extend(long_code_plans()),
        Protocol::Alone | Protocol::Deputies => plans.extend(list_plans(protocol)),
    }
    plans.retain(is_possible);
    plans
}

/// Where no protocol without stamps holds P2: the list changes on a node that has answered a change already.
#[must_use]
pub fn holes(protocol: Protocol) -> Vec<Setup> {
    let mut plans = CALLERS.map(|caller| dropped(protocol, caller)).to_vec();
    // There the next owner is the deputy, who is told before the others.
    plans.retain(|plan| protocol == Protocol::Alone || plan.changes != remove(2));
    // One that leaves asks the next owner.
    plans.extend([1, 2].map(|caller| Setup {
        failures: 0,
        ..leave(protocol, caller)
    }));
    plans
}

/// As `stamped`, in which one round of a clear less will do: too large for every check.
#[must_use]
pub fn long_stamped() -> Vec<Setup> {
    vec![stamp(
        less_clear(Protocol::Deputies).with(Fault::OneRoundLess),
    )]
}

/// With stamps in requests the order in which nodes are told does not matter.
#[must_use]
pub fn stamped() -> Vec<Setup> {
    let protocol = Protocol::Deputies;
    let remove = |caller| change(protocol, "remove", caller, Kind::Remove(0));
    let mut plans = vec![
        remove(1).with(Fault::OwnerWithOthers),
        remove(2).with(Fault::DeputyWithOthers),
        differ(protocol, 1).with(Fault::NoSecondPass),
    ];
    plans.extend(holes(protocol));
    plans.iter_mut().for_each(|plan| plan.stamped = true);
    plans
}

/// Whether the caller of each change is in its list, and offers are made to deputies only.
fn is_possible(plan: &Setup) -> bool {
    let is_listed = |&(caller, _): &(NodeId, Kind)| plan.lists[0] & bit(caller) != 0;
    let is_of_deputies = plan.offers == 0 || plan.has_deputies();
    is_of_deputies && plan.changes.iter().all(is_listed)
}

/// A clear that is told once less: by deputies an old copy can be copied once more.
pub(crate) fn less_clear(protocol: Protocol) -> Setup {
    let has_deputies = protocol == Protocol::Deputies;
    Setup {
        gets: 2 + u8::from(has_deputies),
        failures: u8::from(has_deputies),
        askers: 0b110,
        ..change(protocol, "clear", 2, Kind::Clear)
    }
}

/// The same with stamps in requests.
pub(crate) fn stamp(plan: Setup) -> Setup {
    Setup {
        stamped: true,
        ..plan
    }
}
