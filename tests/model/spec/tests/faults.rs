//! Faults that are put into the protocol by hand: each must break the promise that it is named with. A
//! model that does not see them would not see those of the code either.

use std::time::Instant;

use groupcache_sync_spec::faulty::faulty;
use groupcache_sync_spec::setup::Setup;
use stateright::{Checker, HasDiscoveries, Model};

/// Whether the plans of a fault break a promise, and after how many states.
#[allow(clippy::print_stdout)] // what was found is part of the result
fn is_seen(promise: &'static str, setups: Vec<Setup>) -> bool {
    setups.into_iter().any(|setup| {
        let start = Instant::now();
        let fault = setup.fault;
        let checker = setup
            .checker()
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let broken = checker.discoveries();
        println!(
            "{:?}, {fault:?}, {}: {:?} after {} states, {:.1} s",
            checker.model().protocol,
            checker.model().name,
            broken.keys(),
            checker.unique_state_count(),
            start.elapsed().as_secs_f64(),
        );
        broken.contains_key(promise)
    })
}

#[test]
fn every_fault_breaks_its_promise() {
    let missed: Vec<_> = faulty()
        .into_iter()
        .filter(|(_, promise, setups)| !is_seen(promise, setups.clone()))
        .map(|(fault, promise, _)| (fault, promise))
        .collect();
    assert!(missed.is_empty(), "not seen: {missed:?}");
}
