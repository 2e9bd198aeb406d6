//! I3 under load: a loader that panics leaves nothing behind.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use groupcache_sync::Error;

use crate::cluster::{eventually, together};
use crate::{Themselves, Twins, alone, size, value_in};

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
    let (themselves, calm) = (Themselves::default(), Arc::new(AtomicBool::new(false)));
    let (in_loader, is_calm) = (themselves.clone(), Arc::clone(&calm));
    let twins = Twins::new(
        1,
        |node| node,
        |group| group,
        move |number, key| {
            if is_calm.load(Ordering::SeqCst) {
                return Ok(value_in(number, key));
            }
            let round: u64 = key.parse()?;
            let waiting = (round + 1) * WAITERS as u64;
            let group = in_loader.group(number);
            eventually("all others wait", || group.stats().joined == waiting);
            panic!("{}", MESSAGE);
        },
    );
    let groups = &twins.groups[0];
    themselves.are(groups);
    let turn = Barrier::new(WAITERS + 1);
    together(WAITERS + 1, |thread| {
        for round in 0..rounds {
            for group in groups {
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
        }
    });
    for group in groups {
        let stats = group.stats();
        assert_eq!(
            (stats.loads, stats.load_errors),
            (rounds as u64, rounds as u64)
        );
    }
    calm.store(true, Ordering::SeqCst);
    for (number, group) in groups.iter().enumerate() {
        for round in 0..rounds {
            let key = round.to_string();
            assert_eq!(
                group.get(&key).unwrap(),
                value_in(number, &key),
                "the next get loads"
            );
        }
        assert_eq!(group.stats().flights, 0);
    }
}
