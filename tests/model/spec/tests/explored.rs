//! Every plan of both protocols, explored completely.

use std::time::{Duration, Instant};

use groupcache_sync_spec::plans::plans;
use groupcache_sync_spec::setup::{Protocol, Setup};
use stateright::{Checker, HasDiscoveries, Model};

#[allow(clippy::print_stdout)]
fn explore(setup: Setup) -> bool {
    let start = Instant::now();
    let (name, caller, crash) = (setup.name, setup.changes.first().map(|c| c.0), setup.crash);
    let limit: u64 = std::env::var("SPEC_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    let checker = setup.checker().finish_when(HasDiscoveries::AnyFailures).timeout(Duration::from_secs(limit)).spawn_bfs().join();
    let took = start.elapsed().as_secs_f64();
    println!(
        "{:?} {name} caller {caller:?} crash {crash:?}: {} states, {} unique, depth {}, {took:.1} s",
        checker.model().protocol, checker.state_count(), checker.unique_state_count(), checker.max_depth()
    );
    let mut ok = true;
    for (name, path) in checker.discoveries() {
        ok = false;
        println!("FAILED {name}");
        let actions = path.clone().into_actions();
        for action in &actions { println!("    {action:?}"); }
        println!("  {:?}", path.last_state());
    }
    ok
}

#[test]
fn all() {
    let filter = std::env::var("SPEC_NAME").unwrap_or_default();
    let only = std::env::var("SPEC_PROTOCOL").unwrap_or_default();
    for protocol in [Protocol::Today, Protocol::Deputies] {
        if !format!("{protocol:?}").contains(&only) { continue; }
        for plan in plans(protocol) {
            if plan.name.contains(&filter) && !explore(plan) { return; }
        }
    }
}
