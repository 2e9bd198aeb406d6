//! One node after the other is replaced, as in a deployment, while clients go on.

use std::time::Duration;

use crate::clients::{KEYS, Watch, Window};
use crate::fleet::Fleet;
use crate::process::eventually;
use crate::{alone_if_measured, size};

/// How many more loads than in a quiet time of the same length there may be.
const MORE: f64 = 1.25;

/// How long clients ask before anything is counted, and after the last change.
const WARM_UP: Duration = Duration::from_secs(2);

/// What a deployment costs.
struct Rolling {
    quiet: Window,
    restart: Window,
    inherited: u64,
    time: Duration,
}

impl Rolling {
    fn ratio(&self) -> f64 {
        // As many gets as in the quiet time: clients of a node that is unreachable do not ask.
        self.restart.share() / self.quiet.share()
    }

    fn print(&self, name: &str) {
        eprintln!(
            "{name:18} {:>6.1} s, gets {:>7} quiet {:>7}, loads {:>6} quiet {:>6}: {:.2} times; \
             taken over {:>6}, p99 {:.1?} quiet {:.1?}",
            self.time.as_secs_f64(),
            self.restart.gets,
            self.quiet.gets,
            self.restart.loads,
            self.quiet.loads,
            self.ratio(),
            self.inherited,
            self.restart.p99,
            self.quiet.p99,
        );
    }
}

/// Replaces all of so many nodes, each when the one before is back.
fn roll(nodes: usize, args: &[&str], least: Duration) -> Rolling {
    let fleet = Fleet::start(nodes, args);
    let mut times = Vec::new();
    let mut inherited = 0;
    let watch = Watch::run(&fleet, |watch| {
        eventually("all keys are in memory", || {
            fleet.sum("main_items") >= KEYS as u64
        });
        std::thread::sleep(WARM_UP);
        let begun = watch.now();
        for node in 0..nodes {
            let before = fleet.sum("inherited") - fleet.node(node).count("inherited");
            fleet.replace(node);
            eventually("it is back", || fleet.agree());
            inherited += fleet.sum("inherited") - before;
            std::thread::sleep(least / nodes as u32);
        }
        times.extend([begun, watch.now()]);
        let time = watch.now() - begun;
        std::thread::sleep(WARM_UP);
        let quiet = watch.now();
        std::thread::sleep(time);
        times.extend([quiet, watch.now()]);
    });
    assert_eq!(watch.complaints(), Vec::<String>::new());
    let [begun, ended, quiet, quiet_ended] = times[..] else {
        unreachable!("there are two windows");
    };
    Rolling {
        quiet: watch.window(quiet..quiet_ended),
        restart: watch.window(begun..ended),
        inherited,
        time: ended - begun,
    }
}

#[test]
fn replacing_all_nodes_costs_few_loads() {
    let _turn = alone_if_measured();
    let measured: Option<f64> = size("GROUPCACHE_FAULT_SECONDS");
    let least = Duration::from_secs_f64(measured.unwrap_or(1.0));
    let nodes = if measured.is_some() { 5 } else { 3 };
    let with = roll(nodes, &[], least);
    with.print("with hand-over");
    if measured.is_some() {
        let without = roll(nodes, &["--leave-ms", "0", "--warm-up-ms", "0"], least);
        without.print("without hand-over");
        assert!(without.ratio() > MORE, "then this shows nothing");
    }
    assert!(with.inherited > 0);
    // All but those of the keys that everybody asks for.
    assert!(with.restart.loads < with.quiet.loads + KEYS / 2);
    if measured.is_some() {
        assert!(with.ratio() <= MORE, "{:.2} times the loads", with.ratio());
    }
}
