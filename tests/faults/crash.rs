//! A node is killed, stays in the list of peers, and comes back with an empty memory, while clients go on.

use std::time::Duration;

use crate::clients::{KEYS, Watch, Window};
use crate::fleet::Fleet;
use crate::process::eventually;
use crate::{alone, size};

const NODES: usize = 5;

/// How long clients ask before anything is counted.
const WARM_UP: Duration = Duration::from_secs(2);

fn print(name: &str, window: &Window, quiet: &Window) {
    eprintln!(
        "{name:18} gets {:>7}, loads {:>6}: {:.2} times those of a quiet time; p99 {:.1?}",
        window.gets,
        window.loads,
        window.share() / quiet.share(),
        window.p99
    );
}

#[test]
fn a_node_that_is_killed_costs_a_load_for_each_of_its_keys() {
    let _turn = alone();
    let seconds: f64 = size("GROUPCACHE_FAULT_SECONDS").unwrap_or(3.0);
    // Shorter than the life of what deputies load.
    let time = Duration::from_secs_f64(seconds.min(25.0));
    let fleet = Fleet::start(NODES, &[]);
    let mut owned = 0;
    let mut times = Vec::new();
    let watch = Watch::run(&fleet, |watch| {
        eventually("all keys are in memory", || {
            fleet.sum("main_items") >= KEYS as u64
        });
        std::thread::sleep(WARM_UP);
        let mut sleep = || {
            let begun = watch.now();
            std::thread::sleep(time);
            times.push(begun..watch.now());
        };
        sleep();
        owned = fleet.node(0).count("main_items") as usize;
        fleet.kill(0);
        sleep();
        fleet.restart(0);
        sleep();
    });
    assert_eq!(watch.complaints(), Vec::<String>::new());
    let windows: Vec<Window> = times.into_iter().map(|time| watch.window(time)).collect();
    let [quiet, gone, back] = &windows[..] else {
        unreachable!("there are three windows");
    };
    print("quiet", quiet, quiet);
    print("a node is killed", gone, quiet);
    print("it is back", back, quiet);
    eprintln!("it owned {owned} keys that were in memory");
    // Once by its deputy, and a few more in the moment in which it is lost. When it is back, it takes them
    // over, and loads them once when the life is over that they had with their deputies.
    for window in [gone, back] {
        let more = window.loads as f64 - quiet.share() * window.gets as f64;
        assert!(more <= 1.2 * owned as f64, "{more} loads of {owned} keys");
    }
}
