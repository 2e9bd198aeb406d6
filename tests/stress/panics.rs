//! I3 under load: a loader that panics leaves nothing behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use groupcache_sync::{Clock, Error};

use crate::cluster::{Cluster, eventually, together, value_of};
use crate::{Itself, alone, size};

const MESSAGE: &str = "as it is meant to";

/// Keeps the panics that are meant to be from the terminal.
fn silence() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let message = info.payload().downcast_ref::<String>();
        if message.is_none_or(|message| message != MESSAGE) {
            usual(info);
        }
    }));
}

#[test]
fn loaders_that_panic_leave_no_flight_and_no_waiter_behind() {
    const WAITERS: usize = 16;
    let _turn = alone();
    silence();
    let rounds = size("GROUPCACHE_STRESS_PANICS", 1_000);
    let (itself, calm) = (Itself::default(), Arc::new(AtomicBool::new(false)));
    let (in_loader, is_calm) = (itself.clone(), Arc::clone(&calm));
    let cluster = Cluster::with(
        1,
        Clock::system(),
        |node| node,
        |group| group,
        move |key| {
            if is_calm.load(Ordering::SeqCst) {
                return Ok(value_of(key));
            }
            let round: u64 = key.parse()?;
            let waiting = (round + 1) * WAITERS as u64;
            let group = in_loader.group();
            eventually("all others wait", || group.stats().joined == waiting);
            panic!("{}", MESSAGE);
        },
    );
    let group = &cluster.groups[0];
    itself.is(group);
    let turn = Barrier::new(WAITERS + 1);
    together(WAITERS + 1, |thread| {
        for round in 0..rounds {
            let key = round.to_string();
            turn.wait();
            // On the thread that asks, and on the pool.
            let error = match round % 2 {
                0 => group.get(&key).unwrap_err(),
                _ => group
                    .get_timeout(&key, Duration::from_secs(60))
                    .unwrap_err(),
            };
            let Error::Panicked { message } = error else {
                panic!("round {round}: {error:?}");
            };
            assert_eq!(&*message, MESSAGE);
            turn.wait();
            if thread == 0 {
                assert_eq!(group.stats().flights, 0, "round {round}");
            }
        }
    });
    let stats = group.stats();
    assert_eq!(
        (stats.loads, stats.load_errors),
        (rounds as u64, rounds as u64)
    );
    calm.store(true, Ordering::SeqCst);
    for round in 0..rounds {
        let key = round.to_string();
        assert_eq!(
            group.get(&key).unwrap(),
            value_of(&key),
            "the next get loads"
        );
    }
    assert_eq!(group.stats().flights, 0);
}
