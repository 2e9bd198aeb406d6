//! Loads that wait for a thread of a small pool: those who wait for them give up, ask in batches, and ask
//! for a key many times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use groupcache_sync::{Begin, Error, Pending, Request, Value};

use crate::cluster::{eventually, together};
use crate::{Random, Twins, alone, size, value_in};

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// Keeps its thread busy for about that long.
fn work_for(time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::thread::yield_now();
    }
}

#[test]
fn short_deadlines_on_a_small_pool_bring_values_or_are_past() {
    const THREADS: usize = 24;
    let _turn = alone();
    let (seed, operations) = (
        Random::seed(),
        size("GROUPCACHE_STRESS_OPERATIONS", 150_000) / 10,
    );
    let twins = Twins::new(
        1,
        |node| node.loader_threads(1),
        |group| group.ttl(Duration::ZERO),
        |group, key| {
            work_for(Duration::from_micros(200));
            Ok(value_in(group, key))
        },
    );
    let (begun, late) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let check = |of: usize, key: &str, deadline: Instant, result: Result<Value, Error>| match result
    {
        Ok(value) => assert_eq!(value, value_in(of, key), "P3"),
        Err(error) => {
            assert!(
                matches!(error, Error::Deadline | Error::Overloaded),
                "{key}: {error:?}"
            );
            assert!(
                Instant::now() >= deadline,
                "{key}: {error:?}, with time left"
            );
            late.fetch_add(1, Ordering::Relaxed);
        }
    };
    together(THREADS, |thread| {
        let mut random = Random::new(seed, thread);
        while begun.fetch_add(1, Ordering::Relaxed) < operations {
            let of = random.below(2);
            let group = &twins.groups[0][of];
            let deadline = Instant::now() + Duration::from_micros(random.below(4_096) as u64);
            let key = KEYS[random.below(KEYS.len())];
            match random.below(4) {
                0 => {
                    let other = KEYS[random.below(KEYS.len())];
                    let keys = [key, other, key, key];
                    let results = group.get_many_deadline(&keys, deadline);
                    for (key, result) in keys.iter().zip(results) {
                        check(of, key, deadline, result);
                    }
                }
                _ => check(of, key, deadline, group.get_deadline(key, deadline)),
            }
        }
    });
    eprintln!("{operations} operations, {late:?} keys were late");
    twins.check_idle();
}

/// Peers ask for one key, singly and a thousand times in one batch, while its load is queued and the
/// queue of the pool is full; then the first of them gives up, and all others get the value.
#[test]
fn many_requests_wait_for_one_queued_load_whose_first_one_gives_up() {
    const BATCH: usize = 1_024;
    const FULL: usize = 1_100;
    let _turn = alone();
    let waiters = size("GROUPCACHE_STRESS_WAITERS", 20_000);
    let gate = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&gate);
    let twins = Twins::new(
        1,
        |node| node.loader_threads(1),
        |group| group,
        move |group, key| {
            eventually("the gate is open", || is_open.load(Ordering::SeqCst));
            Ok(value_in(group, key))
        },
    );
    let node = &twins.cluster.nodes[0];
    let begin = |request: Request<'_>, patience: u64| -> Result<Pending, u16> {
        let header = format!("v=1;w={patience}");
        match node.begin(&request.header("X-Groupcache", &header)) {
            Begin::Pending(pending) => Ok(pending),
            Begin::Ready(response) => Err(response.status()),
        }
    };
    let get = |group: &str, key: &str, patience: u64| {
        let target = format!("/_groupcache/{group}/{key}");
        begin(Request::new("GET", &target), patience)
    };
    let groups = ["things", "twins"];
    let busy = get(groups[0], "busy", 600_000).unwrap();
    eventually("the only thread is busy", || {
        twins.groups[0][0].stats().loads_running == 1
    });
    let firsts = groups.map(|group| get(group, "k", 1).unwrap());
    // Those for which there is no room are told so.
    let others =
        (0..FULL).map(|number| get(groups[number % 2], &format!("other {number}"), 600_000));
    let others: Vec<Pending> = others.flatten().collect();
    eprintln!("{} other loads are queued", others.len());
    let answered = Arc::new(AtomicUsize::new(0));
    let mut all = Vec::new();
    let mut follow = |pending: Pending| {
        let answered = Arc::clone(&answered);
        pending.notify(move |response| {
            assert_eq!(response.status(), 200);
            answered.fetch_add(1, Ordering::SeqCst);
        });
        all.push(pending);
    };
    let batch: Vec<u8> = [0x1a, 1, b'k'].repeat(BATCH);
    for _ in 0..4 {
        for group in groups {
            let target = format!("/_groupcache/{group}");
            follow(begin(Request::new("POST", &target).body(&batch), 600_000).unwrap());
        }
    }
    for waiter in 0..waiters {
        follow(get(groups[waiter % 2], "k", 600_000).unwrap());
    }
    for first in firsts {
        assert!(first.wait().status() != 200, "there is no value yet");
    }
    gate.store(true, Ordering::SeqCst);
    eventually("all others are told", || {
        answered.load(Ordering::SeqCst) == waiters + 8
    });
    for loads in &twins.loads {
        assert_eq!(loads.of("k"), 1, "P1");
    }
    drop((busy, others, all));
    twins.check_idle();
}
