//! The plans of what the code alone does: values that are handed to deputies, and nodes that stand in for an
//! owner and its deputy.

use crate::plans::{
    CALLERS, calm, change, crash, crash_and_list, dropped, join, leave, lost_owner,
};
use crate::setup::{Kind, Mask, NodeId, Protocol, Setup, bit};

const CODED: Protocol = Protocol::Coded;

/// A list with a fourth node.
const FOUR: Mask = 0b1111;

/// All of them but the first, which owns the key.
const LEFT: Mask = 0b1110;

/// An owner offers a value to its deputy, and one node makes one change.
pub(crate) fn offers(caller: NodeId, kind: Kind) -> Setup {
    Setup {
        offers: 1,
        failures: 0,
        ..change(CODED, "offers", caller, kind)
    }
}

/// The same, and the memory of removals ends.
pub(crate) fn forgetting(caller: NodeId) -> Setup {
    Setup {
        name: "end of the memory of removals",
        forgets: true,
        failures: 1,
        gets: 1,
        ..offers(caller, Kind::Remove(0))
    }
}

/// The same in a plan that has more going on.
pub(crate) fn offered(plan: Setup) -> Setup {
    Setup { offers: 1, ..plan }
}

/// An owner that has come back offers values, and takes values over from its deputy.
pub(crate) fn returned(caller: NodeId, gets: u8) -> Setup {
    Setup {
        newcomers: bit(0),
        name: "offers of an owner that has returned",
        gets,
        ..offers(caller, Kind::Remove(0))
    }
}

/// The owner of the key is lost for good, and one more call fails: to the deputy, say.
pub(crate) fn lost(caller: NodeId, kind: Kind) -> Setup {
    Setup {
        nodes: LEFT,
        lists: [FOUR, FOUR],
        askers: 0b1100,
        ..change(CODED, "lost for good", caller, kind)
    }
}

/// Four nodes of which none is lost; both calls of a get may fail.
fn four(caller: NodeId) -> Setup {
    Setup {
        nodes: FOUR,
        lists: [FOUR, FOUR],
        askers: 0b1000,
        failures: 2,
        ..change(CODED, "four nodes", caller, Kind::Remove(0))
    }
}

/// A removal by the third node while the owner crashes and returns, and does not reach that node for its
/// marks. One that has carried the removal out, is started again, and takes the value over from a deputy
/// that has still to be told, has an old value: nobody tells it again.
#[must_use]
pub fn restarts(owner_again: bool) -> Setup {
    Setup {
        name: "restart of the owner without marks",
        owner_again,
        askers: bit(0),
        failures: 1,
        ..crash(CODED, 2, 0)
    }
}

/// A set while the owner crashes and returns.
fn set_and_crash(caller: NodeId) -> Setup {
    Setup {
        changes: vec![(caller, Kind::Set(0))],
        ..crash(CODED, caller, 0)
    }
}

/// Loads are counted while the owner and then its deputy crash.
pub(crate) fn both_lost() -> Setup {
    Setup {
        nodes: FOUR,
        lists: [FOUR, FOUR],
        askers: 0b1100,
        gets: 4,
        crashes: 0b0011,
        counts: true,
        ..Setup::quiet("lost owner and deputy", CODED)
    }
}

/// The plans that are explored with every change of the code.
#[must_use]
pub fn code_plans() -> Vec<Setup> {
    let remove = Kind::Remove(0);
    let with_gets = |gets, plan: Setup| Setup { gets, ..plan };
    let mut plans = vec![
        with_gets(3, offered(calm(CODED, 2))),
        with_gets(4, offered(lost_owner(CODED))),
        both_lost(),
    ];
    for caller in CALLERS {
        plans.extend([
            offers(caller, Kind::Set(0)),
            offers(caller, Kind::Clear),
            Setup {
                returns: false,
                ..offered(crash(CODED, caller, 0))
            },
        ]);
    }
    for caller in [0, 1] {
        plans.push(with_gets(1, offered(join(CODED, caller))));
    }
    plans.push(Setup {
        askers: bit(0),
        ..dropped_and_missed(1)
    });
    plans.extend([set_and_crash(1), forgetting(2)]);
    for caller in [1, 2] {
        plans.push(returned(caller, 2));
        plans.push(with_gets(1, offered(crash_and_list(CODED, caller))));
    }
    plans.extend([1, 2, 3].map(|caller| lost(caller, remove)));
    plans.push(lost(1, Kind::Clear));
    plans.push(four(0));
    plans
}

/// The owner misses a change, and is dropped from the list.
pub(crate) fn dropped_and_missed(caller: NodeId) -> Setup {
    Setup {
        between: true,
        failures: 1,
        gets: 1,
        ..offered(dropped(CODED, caller))
    }
}

/// What has no room in every check.
#[must_use]
pub fn long_code_plans() -> Vec<Setup> {
    let remove = Kind::Remove(0);
    let mut plans = Vec::new();
    for caller in CALLERS {
        plans.push(Setup {
            failures: 1,
            ..offers(caller, remove)
        });
        plans.push(Setup {
            gets: 3,
            ..offers(caller, Kind::Clear)
        });
    }
    plans.extend(CALLERS.map(|caller| offered(crash(CODED, caller, 0))));
    plans.extend([0, 1].map(|caller| offered(join(CODED, caller))));
    plans.extend([0, 1].map(dropped_and_missed));
    plans.push(offered(leave(CODED, 0)));
    plans.extend([1, 2].map(|caller| offered(crash_and_list(CODED, caller))));
    for caller in [1, 2, 3] {
        let lost = |kind| Setup {
            failures: 2,
            ..lost(caller, kind)
        };
        plans.extend([lost(remove), lost(Kind::Clear), four(caller)]);
    }
    plans.extend([1, 2].map(|caller| returned(caller, 3)));
    plans.push(Setup {
        keys: 2,
        gets: 1,
        ..offered(crash(CODED, 1, 0))
    });
    plans
}
