//! What handing hot values to deputies costs while nothing fails.

use std::time::Duration;

use crate::clients::{Watch, Workload};
use crate::crash::{WARM_UP, load_all};
use crate::fleet::Fleet;
use crate::gauge::processor_time;
use crate::{alone_if_measured, size};

const NODES: usize = 5;

/// A cache that has no room for half of the keys that its node owns.
const SMALL: &str = "262144";

/// What five nodes did in one second of a quiet time, on average.
struct Quiet {
    gets: f64,
    loads: f64,
    /// Between nodes, requests and answers without the headers of TCP.
    bytes: f64,
    /// Milliseconds that processors worked.
    work: f64,
    copies: u64,
}

fn watch(name: &str, time: Duration, args: &[&str]) -> Quiet {
    let fleet = Fleet::start(NODES, args);
    load_all(&fleet);
    let pids: Vec<u32> = (0..NODES).map(|node| fleet.node(node).pid()).collect();
    let spent = || -> Duration { pids.iter().copied().map(processor_time).sum() };
    let (mut quiet, mut bytes, mut work) = (Duration::ZERO..Duration::ZERO, 0, Duration::ZERO);
    let watch = Watch::run_with(&fleet, Workload::open(), |watch| {
        std::thread::sleep(WARM_UP);
        let (sent, worked, begun) = (fleet.bytes(), spent(), watch.now());
        std::thread::sleep(time);
        (quiet, bytes, work) = (begun..watch.now(), fleet.bytes() - sent, spent() - worked);
    });
    assert_eq!(watch.complaints(), Vec::<String>::new());
    let seconds = (quiet.end - quiet.start).as_secs_f64();
    let window = watch.window(quiet);
    let quiet = Quiet {
        gets: window.gets as f64 / seconds,
        loads: window.loads as f64 / seconds,
        bytes: bytes as f64 / seconds,
        work: work.as_secs_f64() * 1e3 / seconds,
        copies: fleet.sum("deputy_copies"),
    };
    eprintln!(
        "{name:28} {:.0} gets/s, {:.1} loads/s, {:.0} bytes/s between nodes, {:.0} ms/s of processors, \
         {} copies of deputies",
        quiet.gets, quiet.loads, quiet.bytes, quiet.work, quiet.copies
    );
    quiet
}

#[test]
#[ignore = "it takes minutes: `.ci/long faults` runs it, with optimised processes"]
fn values_of_deputies_cost_little_while_nothing_fails() {
    let _turn = alone_if_measured();
    let time = Duration::from_secs_f64(size("GROUPCACHE_FAULT_SECONDS").unwrap_or(3.0));
    for (name, room) in [("room for all", "67108864"), ("room for a part", SMALL)] {
        let room = ["--cache-bytes", room];
        let off = [room[0], room[1], "--deputy-bytes", "0"];
        let without = watch(&format!("{name}, without"), time, &off);
        let with = watch(&format!("{name}, with"), time, &room);
        assert_eq!(without.copies, 0);
        assert!(with.copies > 0);
        let ratio = |of: fn(&Quiet) -> f64| of(&with) / with.gets / (of(&without) / without.gets);
        eprintln!(
            "{name}: with deputies' values {:.2} times the loads, {:.2} times the bytes, {:.2} times the \
             work of processors",
            ratio(|quiet| quiet.loads),
            ratio(|quiet| quiet.bytes),
            ratio(|quiet| quiet.work)
        );
    }
}
