//! The plans: each explores one combination of changes and of what else may happen, completely.

use crate::machine::{DELIVERED, ENDS, I5, P1, P2};
use crate::setup::{ALL, Fault, Kind, Mask, NODES, NodeId, Protocol, Setup, bit};

/// A list without the third node, which joins or has left.
const TWO: Mask = 0b011;

/// The ranks of the keys where the third node owns the first one.
const THIRD_FIRST: [[NodeId; NODES]; 2] = [[2, 0, 1], [1, 2, 0]];

fn remove(caller: NodeId) -> Vec<(NodeId, Kind)> {
    vec![(caller, Kind::Remove(0))]
}

/// One node makes one change, and one call may fail.
fn change(protocol: Protocol, name: &'static str, caller: NodeId, kind: Kind) -> Setup {
    Setup {
        changes: vec![(caller, kind)],
        warm: true,
        failures: 1,
        ..Setup::quiet(name, protocol)
    }
}

/// Loads are counted while nothing fails.
fn calm(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        changes: remove(caller),
        gets: 4,
        counts: true,
        ..Setup::quiet("calm", protocol)
    }
}

/// Loads are counted while the owner crashes and returns.
fn lost_owner(protocol: Protocol) -> Setup {
    Setup {
        gets: 5,
        crash: Some(0),
        returns: true,
        counts: true,
        ..Setup::quiet("lost owner", protocol)
    }
}

/// A removal while a node crashes and returns. Where that is the owner, nothing else fails.
fn crash(protocol: Protocol, caller: NodeId, gone: NodeId) -> Setup {
    Setup {
        crash: Some(gone),
        returns: true,
        failures: u8::from(gone != 0),
        ..change(protocol, "crash", caller, Kind::Remove(0))
    }
}

/// The third node joins, and owns the key.
fn join(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        lists: [TWO, ALL],
        newcomers: bit(2),
        ranks: THIRD_FIRST,
        failures: 0,
        ..change(protocol, "join", caller, Kind::Remove(0))
    }
}

/// The third node, which owns the key, is dropped from the list.
fn dropped(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        lists: [ALL, TWO],
        ranks: THIRD_FIRST,
        failures: 0,
        ..change(protocol, "dropped", caller, Kind::Remove(0))
    }
}

/// The third node, which owns the key by the list of the others, is not in its own.
fn differ(protocol: Protocol, caller: NodeId) -> Setup {
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
fn leave(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        leave: Some(0),
        ..change(protocol, "leave", caller, Kind::Remove(0))
    }
}

/// A set, and then a removal by the same node.
fn late_set(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        changes: vec![(caller, Kind::Set(0)), (caller, Kind::Remove(0))],
        gets: 1,
        failures: 1,
        ..Setup::quiet("set, then remove", protocol)
    }
}

/// Two nodes, one of them the owner; a removal and the end of a flight are carried out step by step.
fn fine(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        lists: [TWO, TWO],
        fine: true,
        askers: TWO,
        ..change(protocol, "step by step", caller, Kind::Remove(0))
    }
}

/// A removal, a crash of the owner, and its end in the list. Its return has no room in every check.
fn crash_and_list(protocol: Protocol, caller: NodeId) -> Setup {
    Setup {
        lists: [ALL, 0b110],
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
        lists: [ALL, 0b110],
        crash: Some(0),
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
    for caller in 0..NODES as NodeId {
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
        plans.extend((0..NODES as NodeId).map(|gone| crash(protocol, caller, gone)));
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
    plans.extend([1, 2].map(|caller| crash_and_list(protocol, caller)));
    plans.extend([0, 1].map(|caller| Setup {
        between: true,
        ..dropped(protocol, caller)
    }));
    plans.push(together(protocol, 1, false));
    plans.push(together(protocol, 1, true));
    plans.retain(is_possible);
    plans
}

/// What has no room in every check: the same with failures while the list changes, and more gets.
#[must_use]
pub fn long_plans(protocol: Protocol) -> Vec<Setup> {
    let mut plans = Vec::new();
    for caller in 0..NODES as NodeId {
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
    plans.push(Setup {
        failures: 1,
        ..together(protocol, 1, true)
    });
    plans.retain(is_possible);
    plans
}

/// Where today's rules, and those of the deputies without stamps, do not hold P2: the list changes on a
/// node that has answered a change already.
#[must_use]
pub fn holes(protocol: Protocol) -> Vec<Setup> {
    let callers = 0..NODES as NodeId;
    let mut plans: Vec<_> = callers.map(|caller| dropped(protocol, caller)).collect();
    // There the next owner is the deputy, who is told before the others.
    plans.retain(|plan| protocol == Protocol::Today || plan.changes != remove(2));
    // One that leaves asks the next owner.
    plans.extend([1, 2].map(|caller| Setup {
        failures: 0,
        ..leave(protocol, caller)
    }));
    plans
}

/// With stamps in requests the order in which nodes are told does not matter.
#[must_use]
pub fn stamped() -> Vec<Setup> {
    let protocol = Protocol::Deputies;
    let remove = |caller| change(protocol, "remove", caller, Kind::Remove(0));
    let mut plans = vec![
        remove(1).with(Fault::OwnerWithOthers),
        remove(2).with(Fault::DeputyWithOthers),
        less_clear(protocol).with(Fault::OneRoundLess),
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

/// Every fault, with the promise that it breaks and the plans that show it.
#[must_use]
pub fn faulty() -> Vec<(Fault, &'static str, Vec<Setup>)> {
    let mut all = Vec::new();
    for protocol in [Protocol::Today, Protocol::Deputies] {
        all.extend(faults_of_both(protocol));
    }
    all.extend(faults_of_deputies());
    all
}

type Shown = (Fault, &'static str, Vec<Setup>);

fn shown(fault: Fault, promise: &'static str, plans: impl IntoIterator<Item = Setup>) -> Shown {
    (
        fault,
        promise,
        plans.into_iter().map(|plan| plan.with(fault)).collect(),
    )
}

fn faults_of_both(protocol: Protocol) -> Vec<Shown> {
    let one = |caller| change(protocol, "remove", caller, Kind::Remove(0));
    let quick = |caller| Setup {
        failures: 0,
        ..one(caller)
    };
    vec![
        shown(Fault::NoMarkBefore, P2, [fine(protocol, 0)]),
        shown(Fault::NoMarkAfter, P2, [fine(protocol, 0)]),
        shown(Fault::KeepStale, P2, [quick(0)]),
        shown(Fault::JoinStale, P2, [quick(0)]),
        shown(Fault::KeepCopies, P2, [quick(0)]),
        shown(Fault::OwnerWithOthers, P2, [quick(2), quick(1)]),
        shown(Fault::IgnorePending, P2, [one(1)]),
        shown(Fault::NoCopyRemovals, P2, [one(1), one(2)]),
        shown(Fault::LateToOwnersOnly, DELIVERED, [one(0)]),
        shown(Fault::NotPending, DELIVERED, [one(0)]),
        shown(Fault::NotNamed, P2, [one(0)]),
        shown(Fault::NewcomerNotTold, DELIVERED, [join(protocol, 0)]),
        shown(Fault::NoSecondPass, P2, [differ(protocol, 1)]),
        shown(
            Fault::ListNotChecked,
            P2,
            [join(protocol, 0), join(protocol, 1)],
        ),
        shown(
            Fault::TakeOverRemoved,
            P2,
            [join(protocol, 0), join(protocol, 1)],
        ),
        shown(
            Fault::PeekNotApplied,
            P2,
            [join(protocol, 0), join(protocol, 1)],
        ),
        shown(
            Fault::KeepTakenOver,
            P2,
            [join(protocol, 0), join(protocol, 1)],
        ),
        shown(Fault::LateSet, P2, [late_set(protocol, 1)]),
        shown(Fault::OneRoundLess, P2, [less_clear(protocol)]),
        shown(Fault::NoHandOver, DELIVERED, [leave(protocol, 0)]),
        shown(Fault::NoSharedFlight, P1, [calm(protocol, 0)]),
        shown(Fault::KeepNothing, P1, [calm(protocol, 0)]),
        shown(Fault::NoTimeout, ENDS, [lost_owner(protocol)]),
    ]
}

/// A clear that is told once less: by deputies an old copy can be copied once more.
fn less_clear(protocol: Protocol) -> Setup {
    let has_deputies = protocol == Protocol::Deputies;
    Setup {
        gets: 2 + u8::from(has_deputies),
        failures: u8::from(has_deputies),
        askers: 0b110,
        ..change(protocol, "clear", 2, Kind::Clear)
    }
}

fn stamp(plan: Setup) -> Setup {
    Setup {
        stamped: true,
        ..plan
    }
}

fn faults_of_deputies() -> Vec<Shown> {
    let protocol = Protocol::Deputies;
    let twice = |caller| Setup {
        failures: 2,
        ..change(protocol, "remove", caller, Kind::Remove(0))
    };
    let one = |caller| change(protocol, "remove", caller, Kind::Remove(0));
    let offered = |caller, failures| Setup {
        offers: 1,
        failures,
        ..one(caller)
    };
    vec![
        shown(Fault::DeputyWithOthers, P2, [one(0), one(2)]),
        shown(Fault::DeputyBeforeOwner, P2, [one(2), one(0)]),
        shown(Fault::CallerBeforeDeputy, P2, [one(2)]),
        shown(Fault::DeputyNotTold, P2, [one(0)]),
        shown(Fault::CopiesWithoutSpare, P2, [offered(2, 1)]),
        shown(Fault::IgnoreDeputyPending, P2, [twice(2)]),
        shown(Fault::DeputyForwards, I5, [one(0)]),
        shown(Fault::DeputyForgets, P1, [lost_owner(protocol)]),
        shown(Fault::DeputyAlone, P1, [lost_owner(protocol)]),
        shown(Fault::OwnerDoesNotAsk, P1, [lost_owner(protocol)]),
        shown(Fault::OfferStale, P2, [offered(0, 0), offered(2, 0)]),
        shown(
            Fault::IgnoreStamps,
            P2,
            holes(protocol).into_iter().map(stamp),
        ),
    ]
}
