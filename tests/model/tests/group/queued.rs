//! Loads that wait for a thread of the pool, which has only one: those who wait for them give up, join
//! them inside loaders, remove their keys, and ask for them in batches.

use std::sync::Arc;
use std::time::Duration;

use groupcache_sync::{Error, Group, LoadError, Value};
use groupcache_sync_model::world::{Asked, World, address, check_accounts};
use shuttle::sync::Mutex;
use shuttle::thread;

use crate::{Part, SECOND, explore, part, run};

/// Nodes whose pools have one thread.
fn world(
    size: usize,
    load: impl Fn(Asked<'_>) -> Result<Value, LoadError> + Clone + Send + Sync + 'static,
) -> World {
    World::built(
        size,
        |node, _| node.loader_threads(1).fetch_timeout(4 * SECOND),
        |group| group.hot_threshold(0.0),
        load,
    )
}

fn stamp(asked: Asked<'_>) -> Result<Value, LoadError> {
    Ok(Value::from(asked.stamp))
}

/// As a loader does that gives up in time.
fn stamp_in_time(asked: Asked<'_>) -> Result<Value, LoadError> {
    match asked.load.deadline().is_past(asked.clock.now()) {
        true => Err("no time left".into()),
        false => stamp(asked),
    }
}

/// Checks what a get until `deadline` came to: without a value it had no time left, whatever became of
/// others. Above all nobody is told of a panic where none was.
fn check_timely(world: &World, deadline: std::time::Instant, result: &Result<(), Error>) {
    let is_late = world.clock.now() >= deadline;
    match result {
        Ok(()) => {}
        Err(Error::Deadline | Error::Overloaded | Error::Load { .. }) if is_late => {}
        Err(error) => panic!("time left: {}, and yet: {error:?}", !is_late),
    }
}

fn timed(group: usize, key: &'static str, seconds: u32) -> Part {
    part(move |world| {
        let deadline = world.clock.now() + seconds * SECOND;
        let result = world.get_until(group, 0, key, deadline);
        check_timely(world, deadline, &result);
    })
}

fn timed_batch(group: usize, keys: &'static [&'static str], seconds: u32) -> Part {
    part(move |world| {
        let deadline = world.clock.now() + seconds * SECOND;
        let began = world.history.tick();
        let results = world.group(group, 0).get_many_deadline(keys, deadline);
        for (key, result) in keys.iter().zip(results) {
            let result = result.map(|value| world.note(group, key, began, &value));
            check_timely(world, deadline, &result);
        }
    })
}

fn ticks(times: usize, by: Duration) -> Part {
    part(move |world| {
        for _ in 0..times {
            thread::yield_now();
            world.clock.advance(by);
        }
    })
}

#[test]
fn waiters_of_a_queued_load_give_up_one_after_the_other() {
    explore(|| {
        let world = run(
            world(1, stamp),
            vec![
                timed(0, "busy", 3),
                timed(0, "k", 1),
                timed(0, "k", 2),
                timed(1, "k", 1),
                ticks(3, SECOND),
            ],
        );
        for group in [0, 1] {
            world.get_in(group, 0, "k");
            assert_eq!(world.history.loads_in(group, "k"), 1, "P1");
        }
        world.end();
    });
}

#[test]
fn a_queued_load_has_time_as_long_as_one_of_its_waiters() {
    explore(|| {
        let world = run(
            world(1, stamp_in_time),
            vec![
                timed(0, "busy", 4),
                timed(0, "k", 1),
                timed(0, "k", 4),
                ticks(2, SECOND),
            ],
        );
        world.get(0, "k");
        world.end();
    });
}

#[test]
fn one_without_a_deadline_joins_a_queued_load_whose_first_waiter_gives_up() {
    explore(|| {
        let world = run(
            world(1, stamp),
            vec![
                timed(1, "k", 3),
                timed(0, "k", 1),
                part(|world| world.get(0, "k")),
                timed_batch(0, &["k", "a", "k"], 1),
                ticks(2, SECOND),
            ],
        );
        world.get(0, "k");
        assert_eq!(world.history.loads_of("k"), 1, "P1");
        world.end();
    });
}

type Twins = Arc<Mutex<Vec<Group>>>;

/// The load of `outer` in either group gets `k` of the other one, which may be queued: the only thread
/// of the pool is in the load that waits for it.
#[test]
fn a_get_inside_a_loader_joins_a_queued_load_of_the_other_group() {
    explore(|| {
        let twins: Twins = Arc::default();
        let in_loader = Arc::clone(&twins);
        let world = world(1, move |asked| {
            if asked.load.key() == "outer" {
                let group = in_loader.lock().unwrap()[1 - asked.group].clone();
                group.get("k")?;
            }
            stamp(asked)
        });
        twins
            .lock()
            .unwrap()
            .extend([world.groups[0].clone(), world.twins[0].clone()]);
        let world = run(
            world,
            vec![
                timed(0, "outer", 3),
                timed(1, "outer", 3),
                timed(1, "k", 1),
                timed(0, "k", 2),
                ticks(2, SECOND),
            ],
        );
        for group in [0, 1] {
            world.get_in(group, 0, "k");
            assert_eq!(world.history.loads_in(group, "k"), 1, "P1");
            check_accounts(world.group(group, 0));
        }
        world.history.check();
        let handles = std::mem::take(&mut *twins.lock().unwrap());
        drop(handles);
    });
}

#[test]
fn removes_against_queued_loads() {
    explore(|| {
        let remove = part(|world| {
            world.remove(0, "k");
            world.get(0, "k");
        });
        run(
            world(1, stamp),
            vec![
                timed(1, "k", 2),
                timed(0, "k", 1),
                timed(0, "k", 2),
                remove,
                ticks(1, SECOND),
            ],
        )
        .end();
    });
}

#[test]
fn removes_against_batches_with_repeated_keys_whose_loads_are_queued() {
    explore(|| {
        let remove = part(|world| {
            world.remove(0, "k");
            world.get_many(0, &["k", "k"]);
        });
        run(
            world(1, stamp),
            vec![
                timed_batch(0, &["k", "a", "k", "k"], 1),
                timed_batch(1, &["k", "k"], 2),
                timed(0, "k", 2),
                remove,
                ticks(1, SECOND),
            ],
        )
        .end();
    });
}

#[test]
fn batches_with_repeated_keys_load_each_once() {
    explore(|| {
        let batch = |group, keys: &'static [&'static str]| {
            part(move |world: &World| world.get_many_in(group, 0, keys))
        };
        let world = run(
            world(2, stamp),
            vec![
                batch(0, &["k0", "k5", "k0", "k0"]),
                batch(1, &["k5", "k5", "k0"]),
                timed_batch(0, &["k5", "k0", "k5"], 1),
                ticks(1, SECOND),
            ],
        );
        for key in ["k0", "k5"] {
            let loads = [0, 1].map(|group| world.history.loads_in(group, key));
            assert_eq!(loads, [1, 1], "P1: {key}");
        }
        world.end();
    });
}

/// The pool of the owner has one thread, and its loads take longer than an asker waits for one answer:
/// half of the fetch timeout.
#[test]
fn a_load_that_is_queued_at_the_owner_is_not_loaded_elsewhere() {
    explore(|| {
        let world = world(2, stamp);
        let keys = (0..).map(|number| format!("k{number}"));
        let owned = keys.filter(|key| world.nodes[0].owner(key).address() == address(1));
        let keys: Vec<String> = owned.take(2).collect();
        let get = |group, key: &str| {
            let key = key.to_owned();
            part(move |world: &World| world.get_in(group, 0, &key))
        };
        let parts = vec![
            get(0, &keys[0]),
            get(0, &keys[1]),
            get(1, &keys[0]),
            // Less than the fetch timeout in all: an owner that is silent for that counts as unreachable.
            ticks(2, SECOND * 9 / 20),
        ];
        let world = run(world, parts);
        for (group, key) in [(0, &keys[0]), (0, &keys[1]), (1, &keys[0])] {
            assert_eq!(world.history.loads_in(group, key), 1, "P1: {key}");
        }
        world.end();
    });
}
