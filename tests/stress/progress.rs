//! I8 under load: loaders that use the cache themselves never bring it to a standstill.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use groupcache_sync::{Error, LoadError, Value};

use crate::{Random, Themselves, Twins, alone, size, value_in};

const THREADS: usize = 64;
const KEYS: usize = 32;

#[test]
fn loaders_that_use_the_cache_make_progress_every_second() {
    let _turn = alone();
    let seconds = size("GROUPCACHE_STRESS_SECONDS", 3);
    let seed = Random::seed();
    let themselves = Themselves::default();
    let (in_loader, dice) = (themselves.clone(), Arc::new(AtomicU64::new(0)));
    let twins = Twins::new(
        1,
        |node| node.loader_threads(8),
        |group| group,
        move |number, key| {
            let dice = dice.fetch_add(1, Ordering::Relaxed) as usize;
            let mut random = Random::new(seed, THREADS + dice);
            let group = in_loader.group(random.below(2));
            let own: usize = key.parse()?;
            let asked = match random.below(16) {
                // Itself, at once.
                0 => own,
                // A larger one: such loads alone never wait in a circle.
                1..=9 => own + 1 + random.below(4),
                // Any: now and then these do, and one of them is told so.
                10 | 11 => random.below(KEYS),
                _ => KEYS,
            };
            if asked >= KEYS {
                return Ok(value_in(number, key));
            }
            let below = match random.below(2) {
                0 => group.get(&asked.to_string()),
                _ => group.get_timeout(&asked.to_string(), Duration::from_secs(60)),
            };
            match below {
                // Even its own key may bring a value: a remove ended the generation meanwhile.
                Ok(_) => Ok(value_in(number, key)),
                Err(error @ (Error::Cycle | Error::Load { .. })) => Err(error.into()),
                Err(error) => panic!("{key} asks for {asked}: {error:?}"),
            }
        },
    );
    let groups = &twins.groups[0];
    themselves.are(groups);
    let (steps, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (steps, failed, over) = (&steps, &failed, &over);
            scope.spawn(move || {
                let mut random = Random::new(seed, thread);
                while !over.load(Ordering::Relaxed) {
                    let key = random.below(KEYS).to_string();
                    let number = random.below(2);
                    let group = &groups[number];
                    let ended = match random.below(3) {
                        0 => group.remove(&key).map(|()| value_in(number, &key)),
                        1 => group.get(&key),
                        _ => group.get_timeout(&key, Duration::from_secs(60)),
                    };
                    match ended {
                        Ok(value) => assert_eq!(value, value_in(number, &key)),
                        // By a cycle. One by time would be a standstill that only time has ended.
                        Err(Error::Load { .. }) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => panic!("{key}: {error:?}"),
                    }
                    steps.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Progress is a matter of time, so this one thread sleeps.
        let mut before = 0;
        let mut stalls = 0;
        for _ in 0..seconds {
            std::thread::sleep(Duration::from_secs(1));
            let now = steps.load(Ordering::Relaxed);
            stalls += usize::from(now == before);
            before = now;
        }
        over.store(true, Ordering::Relaxed);
        assert_eq!(stalls, 0, "seconds without a single step");
    });
    eprintln!(
        "{} steps, {} of them failed by a cycle, {} loads",
        steps.load(Ordering::Relaxed),
        failed.load(Ordering::Relaxed),
        twins.loads[0].all() + twins.loads[1].all()
    );
    assert!(failed.load(Ordering::Relaxed) > 0);
    twins.check_idle();
}

#[test]
fn a_loader_that_asks_for_its_own_key_is_told_at_once() {
    const ROUNDS: usize = 1_000;
    let _turn = alone();
    let themselves = Themselves::default();
    let in_loader = themselves.clone();
    let twins = Twins::new(
        1,
        |node| node,
        |group| group,
        move |number, key| -> Result<Value, LoadError> {
            let begun = Instant::now();
            let error = in_loader.group(number).get(key).unwrap_err();
            assert!(matches!(error, Error::Cycle), "{error:?}");
            Err(format!("{}", begun.elapsed().as_nanos()).into())
        },
    );
    let groups = &twins.groups[0];
    themselves.are(groups);
    let mut times: Vec<u64> = (0..ROUNDS)
        .map(|round| match groups[round % 2].get(&round.to_string()) {
            Err(Error::Load { source }) => source.to_string().parse().unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    times.sort_unstable();
    let median = Duration::from_nanos(times[ROUNDS / 2]);
    eprintln!("told within {median:?} (median)");
    assert!(median < Duration::from_millis(1), "{median:?}");
}
