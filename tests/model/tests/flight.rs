//! The flight under loom: every schedule of each scenario with up to three preemptions, or with
//! as many as `GROUPCACHE_PREEMPTIONS` says.
#![cfg(groupcache_model = "loom")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use groupcache_sync_model::flights;
use loom::model::Builder;

/// Far more than any scenario needs: one that takes longer fails, as it would not be complete.
const LONGEST: Duration = Duration::from_secs(300);

#[allow(clippy::print_stdout)] // what was explored is part of the result
fn explore(name: &str, scenario: fn()) {
    let preemptions = std::env::var("GROUPCACHE_PREEMPTIONS").ok();
    let preemptions: usize = preemptions.and_then(|text| text.parse().ok()).unwrap_or(3);
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_threads = 5; // the most that loom can have
    builder.max_branches = 10_000; // reaching it is a failure
    builder.max_permutations = None;
    builder.max_duration = Some(LONGEST);
    let schedules = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&schedules);
    let start = Instant::now();
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    let took = start.elapsed();
    let schedules = schedules.load(Ordering::Relaxed);
    println!(
        "{name}: {schedules} schedules in {:.1} s",
        took.as_secs_f64()
    );
    assert!(took < LONGEST, "{name} was not explored completely");
}

macro_rules! explored {
    ($($scenario:ident)+) => {
        $(#[test]
        fn $scenario() {
            explore(stringify!($scenario), flights::$scenario);
        })+
    };
}

explored! {
    success
    error
    panic
    time_up
    hand_over
    hand_over_or_join
    hand_over_or_drop
    callback
    callback_is_told_to_ask_anew
    stale
    stale_twice
    stale_twice_and_a_get
    queued
    queued_and_given_up
    queued_again
    queued_and_claimed
    cycle_of_two
    cycle_of_three
    cycle_by_hand_over
}
