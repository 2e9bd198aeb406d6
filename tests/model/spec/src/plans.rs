//! The plans: each explores one combination of changes and faults completely.

use crate::setup::{ALL, Kind, Mask, NODES, NodeId, Protocol, Setup, bit};

/// A list without the third node, which joins or has left.
const TWO: Mask = 0b011;

/// Every node in turn.
const EACH: std::ops::Range<NodeId> = 0..NODES as NodeId;

/// The plans of a protocol that are explored with every change of the code.
#[must_use]
pub fn plans(protocol: Protocol) -> Vec<Setup> {
    let quiet = |name| Setup::quiet(name, protocol);
    let mut plans = Vec::new();
    for (name, caller) in [("calm, owner", 0), ("calm, deputy", 1), ("calm, third", 2)] {
        plans.push(Setup {
            changes: vec![(caller, Kind::Remove(0))],
            gets: 4,
            counts: true,
            ..quiet(name)
        });
    }
    plans.push(Setup { gets: 5, crash: Some(0), returns: true, counts: true, ..quiet("lost owner") });
    for caller in EACH {
        let remove = vec![(caller, Kind::Remove(0))];
        let set = vec![(caller, Kind::Set(0))];
        let changes = remove.clone();
        plans.push(Setup { changes, warm: true, failures: 1, offers: 1, ..quiet("remove") });
        plans.push(Setup { changes: set, warm: true, failures: 1, offers: 1, ..quiet("set") });
        let changes = vec![(caller, Kind::Set(0)), (caller, Kind::Remove(0))];
        plans.push(Setup { changes, failures: 1, gets: 1, ..quiet("set, then remove") });
        let changes = vec![(caller, Kind::Clear)];
        plans.push(Setup { changes, warm: true, failures: 1, ..quiet("clear") });
        let changes = vec![(caller, Kind::Remove(0)), ((caller + 1) % 3, Kind::Remove(0))];
        plans.push(Setup { changes, warm: true, gets: 1, ..quiet("two removals") });
        for gone in EACH {
            let changes = remove.clone();
            plans.push(Setup {
                changes,
                warm: true,
                crash: Some(gone),
                returns: true,
                failures: 1,
                ..quiet("remove and crash")
            });
        }
        for (name, lists, newcomers) in [("join", [TWO, ALL], bit(2)), ("dropped", [ALL, TWO], 0)] {
            let ranks = [[2, 0, 1], [1, 2, 0]];
            let changes = remove.clone();
            plans.push(Setup { changes, ranks, lists, newcomers, warm: true, failures: 1, ..quiet(name) });
        }
        let changes = remove.clone();
        plans.push(Setup { changes, warm: true, leave: Some(0), failures: 1, ..quiet("leave") });
        plans.push(Setup {
            changes: remove,
            lists: [TWO, TWO],
            warm: true,
            fine: true,
            askers: TWO,
            ..quiet("step by step")
        });
    }
    plans.push(Setup {
        keys: 2,
        changes: vec![(1, Kind::Clear)],
        lists: [ALL, 0b110],
        crash: Some(0),
        warm: true,
        ..quiet("two keys, crash, change of the list")
    });
    if std::env::var("SPEC_STAMPED").is_ok() {
        plans.iter_mut().for_each(|plan| plan.stamped = true);
    }
    plans.retain(|plan| plan.changes.iter().all(|&(caller, _)| plan.lists[0] & bit(caller) != 0));
    plans
}
