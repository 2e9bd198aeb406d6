//! The same attacks on a node that `TinyServer` serves, which is for networks where everybody is
//! trusted. Some it withstands like the other; those that it does not, it outlives, and serves.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use crate::attacks::{ATTACKS, Target, Told};
use crate::gauge::Gauge;
use crate::hostile::other::newcomer;
use crate::hostile::trial::{NOT_SERVED, Row, measured};
use crate::hostile::{peers, strangers};
use crate::origin::Origin;
use crate::process::{Process, eventually};
use crate::{Over, alone_if_measured};

/// How many connections an attacker has here: tiny_http takes a thread for each.
const CONNECTIONS: usize = 500;

/// How soon nothing is left of what it withstands: idle connections to peers are closed after 30 s.
const SOON: Duration = Duration::from_secs(40);

/// SECURITY.md and the documentation of `TinyServer` say the same.
const WITHSTOOD: [&Row; 6] = [
    &strangers::SLOW_BODIES,
    &strangers::SLOW_HEADS,
    &strangers::HALF_CLOSED,
    &strangers::PATHS,
    &strangers::PAGES,
    &peers::WEDGE,
];

/// It withstands this too, and has closed its connections to the peers half a minute later.
const WITHSTOOD_LATER: [&Row; 1] = [&peers::DEPARTURES];

/// Bodies that do not come hold its workers until the watchdog puts a new server beside it, and what
/// clients that have gone have asked for is loaded all the same.
const NOT_WITHSTOOD: [&Row; 4] = [
    &strangers::UPLOADS,
    &peers::LARGE,
    &peers::GONE,
    &peers::CRASH,
];

#[test]
fn the_second_engine_withstands_few_connections() {
    let _turn = alone_if_measured();
    let mut failures = Vec::new();
    let later = WITHSTOOD_LATER.iter().filter(|_| measured().is_some());
    for row in WITHSTOOD.iter().chain(later) {
        let shown = row.run(&["--engine", "tiny_http"], CONNECTIONS, SOON);
        let all = shown.failures.into_iter();
        failures.extend(all.map(|failure| format!("{}: {failure}", row.name)));
    }
    assert_eq!(failures, Vec::<String>::new());
}

/// That takes too long for every run.
#[test]
fn the_second_engine_outlives_what_it_does_not_withstand() {
    if measured().is_none() {
        return;
    }
    let _turn = alone_if_measured();
    let mut failures = Vec::new();
    for row in NOT_WITHSTOOD {
        let soon = Duration::from_secs(2);
        let shown = row.run(&["--engine", "tiny_http"], CONNECTIONS, soon);
        if shown.after.is_none() {
            failures.push(format!("{}: the process has ended", row.name));
        }
        let all = shown.failures.into_iter();
        failures.extend(all.filter(|failure| failure.starts_with(NOT_SERVED)));
    }
    assert_eq!(failures, Vec::<String>::new());
}

/// Attacks of so many connections that this machine would run out of threads.
const BEYOND: [&str; 5] = [
    "1,000 heads at 1 byte/s",
    "1,000 bodies at 1 byte/s",
    "answers of 4 MiB, 100/s, unread",
    "1,000 connections/s, kept",
    "10,000 idle connections",
];

#[test]
fn the_second_engine_outlives_hostile_clients_of_few_connections() {
    let _turn = alone_if_measured();
    let origin = Origin::start();
    let node = Process::start_with_log("warn", &origin, &["--engine", "tiny_http"]);
    let address = node.url.strip_prefix("http://").unwrap().parse().unwrap();
    for attack in ATTACKS
        .iter()
        .filter(|attack| !BEYOND.contains(&attack.name))
    {
        let (target, mut told) = (
            Target {
                address,
                over: AtomicBool::new(false),
            },
            Told::new(),
        );
        thread::scope(|scope| {
            scope.spawn(|| (attack.run)(&target, &mut told));
            let _over = Over(&target.over);
            thread::sleep(Duration::from_millis(300));
        });
        assert!(
            Gauge::read(node.pid()).is_some(),
            "{}: it has ended",
            attack.name
        );
        eventually("it serves", || newcomer(address).is_ok());
        eprintln!("{:31} {:?} {told:?}", attack.name, Gauge::of(node.pid()));
    }
}
