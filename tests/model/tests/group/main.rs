//! Whole groups under shuttle: random schedules and PCT, the history checked after each.
//!
//! shuttle reports a deadlock, so two locks that are taken in two orders are found here (I2).
//! A key that is loaded twice in a generation is found (P1), and with it a value that is kept only after its
//! flight is gone (I7).
//!
//! `GROUPCACHE_SCHEDULES` says how many schedules of each kind a scenario gets. A failure prints
//! the schedule; `GROUPCACHE_REPLAY` with it runs that one again.
#![cfg(groupcache_model = "shuttle")]

mod deputies;
mod foreign;
mod late;
mod lists;
mod offers;
mod one_way;
mod queued;
mod two_groups;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use groupcache_sync::{Error, Fault, Group, LoadError, Value};
use groupcache_sync_model::world::{World, address, check_accounts, together};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::Mutex;
use shuttle::{Config, Runner, thread};

const SECOND: Duration = Duration::from_secs(1);

/// Explores `scenario`: half of the schedules at random, half by PCT with up to three preemptions
/// (Burckhardt et al., ASPLOS 2010).
fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    if let Ok(schedule) = std::env::var("GROUPCACHE_REPLAY") {
        return shuttle::replay(scenario, &schedule);
    }
    let schedules = std::env::var("GROUPCACHE_SCHEDULES").ok();
    let schedules: usize = schedules
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000);
    let seed = std::env::var("GROUPCACHE_SEED").ok();
    let seed: u64 = seed.and_then(|text| text.parse().ok()).unwrap_or(0x5eed);
    println!("seed {seed}, {schedules} schedules");
    let mut config = Config::new();
    config.stack_size = 0x4_0000;
    let (scenario, begun) = (Arc::new(scenario), Arc::new(AtomicUsize::new(0)));
    let counted = || {
        let (scenario, begun) = (Arc::clone(&scenario), Arc::clone(&begun));
        move || {
            begun.fetch_add(1, Ordering::Relaxed);
            scenario();
        }
    };
    let all = || {
        let random = RandomScheduler::new_from_seed(seed, schedules.div_ceil(2));
        Runner::new(random, config.clone()).run(counted());
        let pct = PctScheduler::new_from_seed(seed, 3, schedules / 2);
        Runner::new(pct, config.clone()).run(counted());
    };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(all)) {
        eprintln!("failed in schedule {}", begun.load(Ordering::Relaxed));
        resume_unwind(panic);
    }
}

type Part = Box<dyn FnOnce(&World) + Send>;

fn part(run: impl FnOnce(&World) + Send + 'static) -> Part {
    Box::new(run)
}

/// Gets `key` so many times, and once what the other group has of it.
fn gets(node: usize, key: &'static str, times: usize) -> Part {
    part(move |world| {
        (0..times).for_each(|_| world.get(node, key));
        world.get_in(1, node, key);
    })
}

fn run(world: World, parts: Vec<Part>) -> World {
    let world = Arc::new(world);
    together(&world, parts);
    Arc::into_inner(world).expect("all parts have ended")
}

#[test]
fn one_load_for_all_who_ask_at_once() {
    explore(|| {
        let world = run(
            World::new(1),
            vec![gets(0, "k", 2), gets(0, "k", 1), gets(0, "k", 1)],
        );
        assert_eq!(world.history.loads_of("k"), 1, "P1");
        world.end();
    });
}

#[test]
fn one_load_in_a_cluster() {
    explore(|| {
        let world = run(
            World::new(2),
            vec![gets(0, "k", 2), gets(1, "k", 2), gets(1, "k", 1)],
        );
        assert_eq!(world.history.loads_of("k"), 1, "P1");
        world.end();
    });
}

#[test]
fn remove_against_gets() {
    explore(|| {
        let remove = part(|world| {
            world.remove(0, "k");
            world.get(0, "k");
        });
        run(
            World::new(1),
            vec![gets(0, "k", 3), gets(0, "k", 2), remove],
        )
        .end();
    });
}

#[test]
fn two_removes_against_gets() {
    explore(|| {
        let remove = || {
            part(|world| {
                world.remove(0, "k");
                world.get(0, "k");
            })
        };
        run(World::new(1), vec![gets(0, "k", 3), remove(), remove()]).end();
    });
}

/// Small, so that many of its schedules are explored: a flight that finds the old value in the cache
/// while that is being removed must not be joined later.
#[test]
fn remove_against_a_second_flight() {
    explore(|| {
        let remove = part(|world| {
            world.remove(0, "k");
            world.get(0, "k");
        });
        run(
            World::new(1),
            vec![gets(0, "k", 1), gets(0, "k", 1), remove],
        )
        .end();
    });
}

#[test]
fn remove_in_a_cluster() {
    explore(|| {
        let remove = |node| {
            part(move |world| {
                world.remove(node, "k");
                world.get(node, "k");
            })
        };
        run(
            World::new(2),
            vec![gets(0, "k", 2), gets(1, "k", 2), remove(0), remove(1)],
        )
        .end();
    });
}

/// The owner removes its own key: it drops the value before the other node hears of that.
#[test]
fn remove_by_the_owner_against_gets() {
    explore(|| {
        let world = World::new(2);
        let is_owner = |node: &usize| world.nodes[0].owner("k").address() == address(*node);
        let owner = [0, 1].into_iter().find(is_owner).unwrap();
        let remove = part(move |world| {
            world.remove(owner, "k");
            world.get(1 - owner, "k");
        });
        world.get(owner, "k");
        run(world, vec![gets(1 - owner, "k", 2), remove]).end();
    });
}

#[test]
fn set_against_gets() {
    explore(|| {
        let set = part(|world| {
            world.set(0, "k");
            world.get(0, "k");
        });
        run(World::new(1), vec![gets(0, "k", 3), gets(0, "k", 2), set]).end();
    });
}

#[test]
fn two_sets_in_a_cluster_are_not_swallowed() {
    explore(|| {
        let set = |node| {
            part(move |world| {
                world.set(node, "k");
                world.get(1 - node, "k");
            })
        };
        let world = run(World::new(2), vec![set(0), set(1), gets(0, "k", 2)]);
        // Both have returned: one of the two values is there, and no load is needed.
        let loads = world.history.loads_of("k");
        world.get(0, "k");
        world.get(1, "k");
        assert_eq!(world.history.loads_of("k"), loads);
        world.end();
    });
}

#[test]
fn clear_against_gets_of_two_keys() {
    explore(|| {
        let clear = part(|world| {
            world.clear(0);
            world.get(0, "a");
            world.get(0, "b");
        });
        run(World::new(2), vec![gets(0, "a", 2), gets(1, "b", 2), clear]).end();
    });
}

#[test]
fn expiry_against_gets() {
    explore(|| {
        let world = World::with(
            1,
            |group| group.ttl(SECOND),
            |_, stamp| Ok(Value::from(stamp)),
        );
        let tick = part(|world| {
            for _ in 0..3 {
                world.clock.advance(SECOND);
                thread::yield_now();
            }
        });
        let remove = part(|world| world.remove(0, "k"));
        run(world, vec![gets(0, "k", 3), gets(0, "k", 3), tick, remove]).end();
    });
}

#[test]
fn renewals_against_removes() {
    explore(|| {
        let world = World::with(
            1,
            |group| {
                group
                    .ttl(SECOND)
                    .stale_while_revalidate(2 * SECOND)
                    .stale_if_error(2 * SECOND)
            },
            |_, stamp| Ok(Value::from(stamp)),
        );
        world.get(0, "k");
        world.clock.advance(SECOND + SECOND / 2);
        let remove = part(|world| {
            world.remove(0, "k");
            world.get(0, "k");
        });
        let set = part(|world| {
            world.set(0, "k");
            world.get(0, "k");
        });
        run(world, vec![gets(0, "k", 3), gets(0, "k", 2), remove, set]).end();
    });
}

/// The first load finds nothing. What is kept of that may not outlast a change that came after it.
fn absences_against(change: fn(&World)) {
    explore(move || {
        let is_first = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let world = World::with(
            2,
            |group| group.negative_ttl(60 * SECOND),
            move |_, stamp| match is_first.swap(false, std::sync::atomic::Ordering::SeqCst) {
                true => Err(LoadError::NotFound),
                false => Ok(Value::from(stamp)),
            },
        );
        let missing = |node: usize| {
            part(move |world| match world.groups[node].get("k") {
                Ok(_) | Err(Error::NotFound) => {}
                Err(error) => panic!("{error}"),
            })
        };
        let changed = part(move |world| {
            // The first load has begun, so the change comes after it.
            let _ = world.groups[1].get("k");
            change(world);
            world.get(0, "k");
            world.get(1, "k");
        });
        run(world, vec![missing(0), missing(1), changed]).end();
    });
}

#[test]
fn absences_against_a_remove() {
    absences_against(|world| world.remove(0, "k"));
}

#[test]
fn absences_against_a_set() {
    absences_against(|world| world.set(0, "k"));
}

#[test]
fn absences_against_a_clear() {
    absences_against(|world| world.clear(1));
}

#[test]
fn a_small_cache_with_evictions() {
    explore(|| {
        let capacity = 2 * (groupcache_sync::ENTRY_OVERHEAD + 10);
        let node = groupcache_sync::Network::new().node("http://n:1").unwrap();
        let group = node
            .group_builder("g", capacity)
            .shards(2)
            .build(|key| {
                thread::yield_now();
                Ok(Value::from(key))
            })
            .unwrap();
        let threads: Vec<_> = (0..3)
            .map(|number| {
                let group = group.clone();
                thread::spawn(move || {
                    for step in 0..4 {
                        let key = ["a", "b", "c", "d"][(number + step) % 4];
                        assert_eq!(group.get(key).unwrap().as_bytes(), key.as_bytes());
                        let stats = group.stats();
                        let bytes = (stats.main_bytes + stats.hot_bytes) as usize;
                        assert!(bytes <= capacity, "P5: {bytes} of {capacity}");
                        if step == 2 {
                            group.remove(key).unwrap();
                        }
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        group.clear().unwrap();
        let stats = group.stats();
        assert_eq!(
            (stats.main_bytes, stats.main_items, stats.flights),
            (0, 0, 0)
        );
    });
}

#[test]
fn a_capacity_that_shrinks_and_grows() {
    explore(|| {
        let entries = |entries: usize| entries * (groupcache_sync::ENTRY_OVERHEAD + 10);
        let node = groupcache_sync::Network::new().node("http://n:1").unwrap();
        let group = node
            .group_builder("g", entries(3))
            .negative_ttl(Duration::from_secs(1))
            .shards(2)
            .build(|key| {
                thread::yield_now();
                Ok(Value::from(key))
            })
            .unwrap();
        let gets = |keys: [&'static str; 3]| {
            let group = group.clone();
            thread::spawn(move || {
                for key in keys {
                    assert_eq!(group.get(key).unwrap().as_bytes(), key.as_bytes());
                }
            })
        };
        let threads = [gets(["a", "b", "c"]), gets(["c", "a", "d"])];
        for capacity in [entries(1), entries(2)] {
            group.set_capacity(capacity).unwrap();
        }
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        let stats = group.stats();
        let bytes = stats.main_bytes + stats.hot_bytes;
        assert!(bytes <= stats.capacity_bytes, "P5: {bytes}");
        assert_eq!(stats.flights, 0);
    });
}

/// What the loader of a group holds of that group.
type Held = Arc<Mutex<Option<Group>>>;

/// A world whose loader gets other keys of its own group.
fn nested(
    next: impl Fn(&str) -> Option<&'static str> + Clone + Send + Sync + 'static,
) -> (World, Held) {
    let this: Held = Arc::new(Mutex::new(None));
    let in_loader = Arc::clone(&this);
    let world = World::with(
        1,
        |group| group,
        move |key, stamp| {
            if let Some(next) = next(key) {
                let group = in_loader.lock().unwrap().clone();
                group.expect("it is set before the first get").get(next)?;
            }
            Ok(Value::from(stamp))
        },
    );
    *this.lock().unwrap() = Some(world.groups[0].clone());
    (world, this)
}

fn tries(key: &'static str) -> Part {
    part(move |world| match world.groups[0].get(key) {
        Ok(_) | Err(Error::Load { .. } | Error::Cycle) => {}
        Err(other) => panic!("{other}"),
    })
}

/// Breaks the circle of a group whose loader holds the group.
fn end_nested(world: World, held: Held) {
    check_accounts(&world.groups[0]);
    check_accounts(&world.twins[0]);
    let group = held.lock().unwrap().take();
    drop(group);
    drop(world);
}

#[test]
fn nested_loads_share_and_end() {
    explore(|| {
        let (world, held) = nested(|key| match key {
            "a" => Some("b"),
            "b" => Some("c"),
            _ => None,
        });
        let world = run(
            world,
            vec![gets(0, "a", 1), gets(0, "b", 1), gets(0, "c", 1)],
        );
        for key in ["a", "b", "c"] {
            assert_eq!(world.history.loads_of(key), 1, "P1 for {key}");
        }
        end_nested(world, held);
    });
}

#[test]
fn loads_in_a_circle_get_an_error_and_never_hang() {
    explore(|| {
        let (world, held) = nested(|key| match key {
            "a" => Some("b"),
            "b" => Some("c"),
            _ => Some("a"),
        });
        end_nested(run(world, vec![tries("a"), tries("b"), tries("c")]), held);
    });
}

#[test]
fn a_panicking_loader_and_its_waiters() {
    explore(|| {
        let failed = Arc::new(Mutex::new(false));
        let world = World::with(
            1,
            |group| group,
            move |_, stamp| {
                let first = !std::mem::replace(&mut *failed.lock().unwrap(), true);
                // The error of a loader that panics, without the noise of a thousand panics.
                if first {
                    Err("no luck".into())
                } else {
                    Ok(Value::from(stamp))
                }
            },
        );
        let world = run(world, vec![tries("k"), tries("k"), tries("k")]);
        world.get(0, "k");
        assert!(world.history.loads_of("k") >= 2);
        world.end();
    });
}

#[test]
fn deadlines_against_loads_and_a_moving_clock() {
    explore(|| {
        let timed = |timeout| {
            part(
                move |world: &World| match world.get_timeout(0, "k", timeout) {
                    Ok(()) | Err(Error::Deadline | Error::Overloaded) => {}
                    Err(other) => panic!("{other}"),
                },
            )
        };
        let tick = part(|world| {
            for _ in 0..3 {
                thread::yield_now();
                world.clock.advance(SECOND);
            }
        });
        let world = run(
            World::new(1),
            vec![timed(SECOND), timed(2 * SECOND), tick, gets(0, "k", 1)],
        );
        assert_eq!(
            world.history.loads_of("k"),
            1,
            "P1: a load outlives its callers"
        );
        world.end();
    });
}

#[test]
fn peers_that_come_and_go_against_gets_and_removes() {
    explore(|| {
        let change = part(|world| {
            for _ in 0..2 {
                world.nodes[0].remove_peer(&address(1)).unwrap();
                world.nodes[0].add_peer(&address(1)).unwrap();
            }
        });
        // The list of the node that removes is whole, so it tells all who may own the key.
        let remove = part(|world| {
            world.remove(1, "k");
            world.get(1, "k");
        });
        run(
            World::new(2),
            vec![gets(0, "k", 3), gets(1, "k", 2), change, remove],
        )
        .end();
    });
}

#[test]
fn the_last_handles_go_while_a_load_is_under_way() {
    explore(|| {
        let world = Arc::new(World::new(2));
        let late = Arc::clone(&world);
        let thread = thread::spawn(move || {
            let _ = late.get_timeout(0, "k", SECOND);
            drop(late);
        });
        world.clock.advance(SECOND);
        drop(world);
        thread.join().unwrap();
    });
}

/// Keys whose owners differ among two nodes, found once: the ring is the same in every world.
const KEYS: [&str; 3] = ["k0", "k5", "k6"];

fn batch(node: usize, keys: &'static [&'static str]) -> Part {
    part(move |world| world.get_many(node, keys))
}

#[test]
fn batches_against_single_gets() {
    explore(|| {
        let world = World::new(2);
        let owners = KEYS.map(|key| world.nodes[0].owner(key).address());
        assert!(owners.iter().any(|owner| *owner != owners[0]), "{owners:?}");
        let world = run(
            world,
            vec![
                batch(0, &KEYS),
                batch(1, &["k6", "k0", "k6"]),
                gets(1, "k5", 2),
            ],
        );
        for key in KEYS {
            assert_eq!(world.history.loads_of(key), 1, "P1: {key}");
        }
        world.end();
    });
}

#[test]
fn batches_against_removes() {
    explore(|| {
        let remove = |node| {
            part(move |world| {
                world.remove(node, "k0");
                world.get_many(node, &["k0", "k5"]);
            })
        };
        run(
            World::new(2),
            vec![batch(0, &KEYS), batch(1, &KEYS), remove(0), remove(1)],
        )
        .end();
    });
}

#[test]
fn a_batch_whose_owner_is_away() {
    explore(|| {
        let world = World::new(2);
        world.network.set_fault(&address(1), Some(Fault::Refuses));
        let world = run(
            world,
            vec![batch(0, &KEYS), batch(0, &["k5", "k0"]), gets(0, "k6", 2)],
        );
        for key in KEYS {
            assert_eq!(world.history.loads_of(key), 1, "P6: {key}");
        }
        world.end();
    });
}

#[test]
fn a_batch_whose_loads_need_its_other_keys() {
    explore(|| {
        let (world, held) = nested(|key| match key {
            "a" => Some("b"),
            "b" => Some("c"),
            _ => None,
        });
        let batch = |keys: &'static [&'static str]| {
            part(move |world: &World| {
                for value in world.groups[0].get_many(keys) {
                    value.unwrap();
                }
            })
        };
        let parts = vec![batch(&["a", "b", "c"]), batch(&["c", "a"]), tries("b")];
        end_nested(run(world, parts), held);
    });
}
