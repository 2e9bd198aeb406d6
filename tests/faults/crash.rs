//! Nodes are killed, stay in the list of peers, and come back with an empty memory, while clients go on.

use std::ops::Range;
use std::time::Duration;

use crate::client::Client;
use crate::clients::{Watch, Window, Workload, ZIPF_KEYS};
use crate::fleet::Fleet;
use crate::{alone_if_measured, size};

const NODES: usize = 5;

/// How long clients ask before anything is counted: nodes offer what is hot every ten seconds.
pub(crate) const WARM_UP: Duration = Duration::from_secs(22);

/// By how much more the origin may be asked than in a quiet time.
const MOST: f64 = 1.25;

/// How long the gets of each part of a window are looked at by themselves.
const PART: Duration = Duration::from_secs(5);

/// The time that clients are watched for each state of the cluster.
fn time() -> Duration {
    Duration::from_secs_f64(size("GROUPCACHE_FAULT_SECONDS").unwrap_or(3.0))
}

/// How many clients have all keys loaded at the beginning.
const LOADERS: usize = 16;

/// Whether nodes are watched for so short a time that two losses in a row would take much more of it.
fn is_short(time: Duration) -> bool {
    time < Duration::from_secs(25)
}

/// Has every key loaded once.
pub(crate) fn load_all(fleet: &Fleet) {
    let load = |first: usize| {
        let mut client = Client::connect(fleet.front(first % NODES)).unwrap();
        for key in (first..ZIPF_KEYS).step_by(LOADERS) {
            let answer = client.ask("GET", &format!("/k/key-{key}"), &[]);
            assert_eq!(answer.unwrap().0, 200);
        }
    };
    std::thread::scope(|scope| {
        for first in 0..LOADERS {
            scope.spawn(move || load(first));
        }
    });
}

/// How many keys belong to one node and have a certain other node for their deputy.
const KEYS_OF_TWO: usize = ZIPF_KEYS / NODES / (NODES - 1);

/// Prints what a window cost, and returns it.
fn print(name: &str, watch: &Watch<'_>, time: &Range<Duration>, quiet: &Window) -> Window {
    let window = watch.window(time.clone());
    let later = watch.window((time.start + PART).min(time.end)..time.end);
    eprintln!(
        "{name:24} gets {:>6}, loads {:>5}: {:.2} times those of a quiet time; p99 {:.1?}, {:.1?} after 5 s; \
         naps end {:.1?} late",
        window.gets,
        window.loads,
        window.share() / quiet.share(),
        window.p99,
        later.p99,
        window.late,
    );
    window
}

/// Checks a window against a quiet time of the same length. So many keys may be loaded once besides, as their
/// owners and their deputies were lost.
fn check(name: &str, watch: &Watch<'_>, time: &Range<Duration>, quiet: &Window, lost_twice: usize) {
    let window = print(name, watch, time, quiet);
    // In a short time chance decides how many new keys there are: three standard deviations of both windows.
    let chance = match is_short(time.end - time.start) {
        true => 3.0 * (2.0 * quiet.loads as f64).sqrt(),
        false => 0.0,
    };
    let most = MOST * quiet.share() * window.gets as f64 + chance + lost_twice as f64;
    assert!(
        window.loads as f64 <= most,
        "{name}: {} loads, {most:.0} may be",
        window.loads
    );
}

#[test]
#[ignore = "it takes a minute: `.ci/run` runs it, with optimised processes"]
fn a_crash_costs_the_origin_next_to_nothing() {
    let _turn = alone_if_measured();
    let time = time();
    let fleet = Fleet::start(NODES, &[]);
    load_all(&fleet);
    let mut times = Vec::new();
    let watch = Watch::run_with(&fleet, Workload::open(), |watch| {
        let mut pass = |time: Duration| {
            let begun = watch.now();
            std::thread::sleep(time);
            times.push(begun..watch.now());
        };
        pass(WARM_UP);
        pass(time);
        eprintln!("{} values are in memory", fleet.sum("main_items"));
        fleet.kill(0);
        pass(time);
        fleet.restart(0);
        pass(time);
        if is_short(time) {
            return;
        }
        pass(WARM_UP);
        fleet.kill(1);
        pass(Duration::from_secs(10));
        fleet.kill(2);
        pass(time);
    });
    assert_eq!(watch.complaints(), Vec::<String>::new());
    let quiet = watch.window(times[1].clone());
    print("quiet", &watch, &times[1], &quiet);
    for (name, at, lost_twice) in [
        ("a node is killed", 2, 0),
        ("it is back", 3, 0),
        ("another is killed", 5, KEYS_OF_TWO),
        ("and one more", 6, 2 * KEYS_OF_TWO),
    ] {
        if let Some(time) = times.get(at) {
            check(name, &watch, time, &quiet, lost_twice);
        }
    }
}
