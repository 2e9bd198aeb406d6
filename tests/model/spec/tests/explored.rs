//! Every plan of all protocols, explored completely. `GROUPCACHE_SPEC=long` explores the large ones,
//! and a word in `GROUPCACHE_SPEC_PLAN` only the plans that have it in their names.

use std::collections::HashMap;
use std::time::Instant;

use groupcache_sync_spec::code_plans::restarts;
use groupcache_sync_spec::machine::P2;
use groupcache_sync_spec::plans::{holes, long_plans, long_stamped, plans, stamped};
use groupcache_sync_spec::setup::{Kind, Mask, Protocol, Setup, members};
use groupcache_sync_spec::state::State;
use groupcache_sync_spec::witness::{Seen, Witness};
use stateright::{Checker, HasDiscoveries, Model};

/// Explores a plan; returns the promises that do not hold.
#[allow(clippy::print_stdout)] // what was explored is part of the result
fn explore(setup: Setup) -> Vec<&'static str> {
    let start = Instant::now();
    let any = HasDiscoveries::AnyFailures;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = setup.checker().threads(threads).finish_when(any);
    let checker = checker.spawn_bfs().join();
    let setup = checker.model();
    println!(
        "{:?}, {}, {:?}{}: {} states, {} different, depth {}, {:.1} s",
        setup.protocol,
        setup.name,
        setup.changes,
        crashes(setup.crashes),
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        start.elapsed().as_secs_f64(),
    );
    let broken = checker.discoveries();
    for (promise, path) in &broken {
        println!("  {promise} does not hold:");
        for action in path.clone().into_actions() {
            println!("    {action:?}");
        }
    }
    broken.into_keys().collect()
}

fn crashes(nodes: Mask) -> String {
    members(nodes)
        .map(|node| format!(", {node} crashes"))
        .collect()
}

fn is_wanted(setup: &Setup) -> bool {
    let word = std::env::var("GROUPCACHE_SPEC_PLAN").unwrap_or_default();
    setup.name.contains(&word)
}

fn is_long() -> bool {
    std::env::var("GROUPCACHE_SPEC").is_ok_and(|value| value == "long")
}

/// Explores all plans of a protocol, and checks that the interesting things do happen in them.
fn check(protocol: Protocol, seen: &[&[Seen]]) {
    let (witness, mut broken) = (Witness::default(), Vec::new());
    let mut all = plans(protocol);
    if is_long() {
        all.extend(long_plans(protocol));
    }
    let is_whole = all.iter().all(is_wanted);
    for mut plan in all.into_iter().filter(is_wanted) {
        plan.seen = witness.clone();
        let name = plan.name;
        broken.extend(explore(plan).into_iter().map(|promise| (name, promise)));
    }
    assert!(broken.is_empty(), "{protocol:?} does not hold: {broken:?}");
    let missing = seen
        .iter()
        .copied()
        .flatten()
        .filter(|&&seen| !witness.has(seen));
    let missing: Vec<_> = missing.collect();
    assert!(
        !is_whole || missing.is_empty(),
        "this never happens: {missing:?}"
    );
}

#[test]
fn alone() {
    check(Protocol::Alone, &[Seen::ALWAYS]);
}

#[test]
fn deputies() {
    check(Protocol::Deputies, &[Seen::ALWAYS, Seen::WITH_DEPUTIES]);
}

#[test]
fn coded() {
    let seen = [Seen::ALWAYS, Seen::WITH_DEPUTIES, Seen::CODED];
    check(Protocol::Coded, &seen);
}

#[test]
fn a_list_that_changes_on_a_node_that_has_answered_is_a_hole() {
    for protocol in [Protocol::Alone, Protocol::Deputies, Protocol::Coded] {
        for plan in holes(protocol).into_iter().filter(is_wanted) {
            assert_eq!(
                explore(plan),
                [P2],
                "mended: tell so in the header of the package"
            );
        }
    }
}

#[test]
fn an_owner_that_is_started_again_without_marks_is_a_hole() {
    for (owner_again, broken) in [(false, &[P2][..]), (true, &[])] {
        let plan = restarts(owner_again);
        if is_wanted(&plan) {
            assert_eq!(explore(plan), broken);
        }
    }
}

#[test]
fn with_stamps_in_requests_the_order_does_not_matter() {
    let mut plans = stamped();
    if is_long() {
        plans.extend(long_stamped());
    }
    for plan in plans.into_iter().filter(is_wanted) {
        assert_eq!(explore(plan), [""; 0]);
    }
}

/// No state comes again: so whatever goes on ends.
#[test]
fn there_is_no_circle() {
    let protocols = [Protocol::Alone, Protocol::Deputies, Protocol::Coded];
    let plans = protocols.map(plans).concat();
    let names = [
        "step by step",
        "two callers",
        "lost owner",
        "offers",
        "repeats",
    ];
    let is_meant = |plan: &Setup| {
        let clears = plan.changes.iter().any(|(_, kind)| *kind == Kind::Clear);
        names.contains(&plan.name) && !clears
    };
    for plan in plans.into_iter().filter(is_meant) {
        assert!(!has_circle(&plan), "a circle in {}", plan.name);
    }
}

fn successors(setup: &Setup, state: &State) -> Vec<State> {
    let mut actions = Vec::new();
    setup.actions(state, &mut actions);
    let next = actions.into_iter();
    next.filter_map(|action| setup.next_state(state, action))
        .collect()
}

fn has_circle(setup: &Setup) -> bool {
    // Of a state: whether all that follows from it has been looked at.
    let mut known: HashMap<State, bool> = HashMap::new();
    for first in setup.init_states() {
        let mut path = vec![(first.clone(), vec![first])];
        while let Some((state, open)) = path.last_mut() {
            let Some(next) = open.pop() else {
                known.insert(state.clone(), true);
                path.pop();
                continue;
            };
            match known.get(&next) {
                Some(true) => {}
                Some(false) => return true,
                None => {
                    known.insert(next.clone(), false);
                    let open = successors(setup, &next);
                    path.push((next, open));
                }
            }
        }
    }
    false
}
