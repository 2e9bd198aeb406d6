//! Foreign code that panics or calls back: the clone and the drop of a value, callbacks, listeners and
//! loaders. Nobody else hangs or fails, and nothing is left behind.
//!
//! The panics are raised without the panic hook, which would print the schedule of each.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex as Plain};

use groupcache_sync::{
    Begin, Clock, Codec, CodecError, Error, Group, GroupBuilder, LoadError, Network, Node, Request,
    Value,
};
use groupcache_sync_model::history::GROUPS;
use groupcache_sync_model::world::{World, address, check_accounts, check_idle};
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread;

use crate::{SECOND, explore, part, run};

/// The payload of a panic of foreign code.
struct Foreign;

fn panics() -> ! {
    resume_unwind(Box::new(Foreign))
}

/// Runs `work`; `None` if foreign code has panicked in it. Any other panic goes on.
fn caught<R>(work: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => Some(result),
        Err(payload) if payload.is::<Foreign>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// Runs `work`, which no panic of foreign code may reach.
fn innocently<R>(work: impl FnOnce() -> R) -> R {
    caught(work).expect("the panic of foreign code reaches one who has nothing to do with it")
}

/// Panics once, when it is asked for the nth time, or uses both groups of a node. Not modelled: no order
/// of threads depends on it.
#[derive(Clone)]
struct Fuse {
    left: Arc<AtomicIsize>,
    used: Arc<Plain<Option<[Group<Touchy>; 2]>>>,
}

impl Fuse {
    fn new(nth: isize) -> Fuse {
        Fuse {
            left: Arc::new(AtomicIsize::new(nth)),
            used: Arc::default(),
        }
    }

    fn never() -> Fuse {
        Fuse::new(0)
    }

    /// One that burns down at some time from the first to the `most`th, as the schedule says.
    fn within(most: isize) -> Fuse {
        Fuse::new(any_of(most))
    }

    fn burn(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        let Some(groups) = self.used.lock().unwrap().clone() else {
            panics();
        };
        for group in groups {
            group.remove("k0").unwrap();
            group.get("k0").unwrap();
            group.get("other").unwrap();
        }
    }

    /// Has it use groups instead of panicking.
    fn uses(&self, groups: &[Group<Touchy>; 2]) {
        *self.used.lock().unwrap() = Some(groups.clone());
    }

    fn is_burnt(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }

    fn put_out(&self) {
        self.left.store(0, Ordering::SeqCst);
        let groups = self.used.lock().unwrap().take();
        drop(groups);
    }
}

/// A number from one to `most`, as the schedule says.
fn any_of(most: isize) -> isize {
    thread_rng().gen_range(1..=most)
}

/// A value whose clone or drop panics, once.
struct Touchy {
    text: String,
    fuses: Fuses,
}

#[derive(Clone)]
struct Fuses {
    clone: Fuse,
    drop: Fuse,
}

impl Clone for Touchy {
    fn clone(&self) -> Touchy {
        self.fuses.clone.burn();
        Touchy {
            text: self.text.clone(),
            fuses: self.fuses.clone(),
        }
    }
}

impl Drop for Touchy {
    fn drop(&mut self) {
        self.fuses.drop.burn();
    }
}

impl Codec<Touchy> for Fuses {
    fn encode(&self, value: &Touchy) -> Result<Value, CodecError> {
        Ok(Value::from(value.text.as_str()))
    }

    fn decode(&self, bytes: Value) -> Result<Touchy, CodecError> {
        Ok(Touchy {
            text: bytes.as_str()?.to_owned(),
            fuses: self.clone(),
        })
    }

    fn weight(&self, value: &Touchy) -> usize {
        value.text.len()
    }
}

/// Nodes with two groups of touchy values.
struct Touchies {
    clock: Clock,
    _nodes: Vec<Node>,
    groups: Vec<[Group<Touchy>; 2]>,
    /// How many gets a panic has reached.
    panicked: AtomicIsize,
}

impl Touchies {
    fn new(
        size: usize,
        fuses: &Fuses,
        settings: impl Fn(GroupBuilder<Touchy>) -> GroupBuilder<Touchy>,
    ) -> Arc<Touchies> {
        let (clock, network) = (Clock::manual(), Network::new());
        let node = |index| {
            let builder = network.builder(&address(index)).unwrap();
            let builder = builder.clock(clock.clone()).loader_threads(1);
            let node = builder.build().unwrap();
            network.attach(&node);
            node
        };
        let nodes: Vec<Node> = (0..size).map(node).collect();
        let group = |node: &Node, name: &'static str| {
            let builder = node.group_builder(name, 1 << 20).shards(2);
            let builder = settings(builder.hot_threshold(0.0).codec(fuses.clone()));
            let fuses = fuses.clone();
            let load = move |key: &str| {
                thread::yield_now();
                Ok(Touchy {
                    text: format!("{name}/{key}"),
                    fuses: fuses.clone(),
                })
            };
            builder.build(load).unwrap()
        };
        let groups = nodes
            .iter()
            .map(|node| GROUPS.map(|name| group(node, name)))
            .collect();
        for node in &nodes {
            node.set_peers((0..size).map(address)).unwrap();
        }
        Arc::new(Touchies {
            clock,
            _nodes: nodes,
            groups,
            panicked: AtomicIsize::new(0),
        })
    }

    /// Gets a key and lets its value go. Without a value, foreign code has panicked.
    fn get(&self, node: usize, group: usize, key: &str) -> Result<(), Error> {
        let got = || -> Result<(), Error> {
            let value = self.groups[node][group].get(key)?;
            assert_eq!(value.text, format!("{}/{key}", GROUPS[group]), "P3");
            Ok(())
        };
        caught(got).unwrap_or_else(|| {
            self.panicked.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    }

    /// Every get brings a value once the panic is over, and nothing is left.
    fn end(self: Arc<Self>, fuses: &Fuses) {
        let panicked = self.panicked.load(Ordering::SeqCst);
        assert!(panicked <= 1, "one panic has reached {panicked} gets");
        fuses.clone.put_out();
        fuses.drop.put_out();
        for groups in &self.groups {
            for (group, name) in groups.iter().zip(GROUPS) {
                assert_eq!(group.get("k0").unwrap().text, format!("{name}/k0"));
                check_idle(group); // gets that have ended in a panic need not add up
            }
        }
    }
}

type Act = Box<dyn FnOnce(&Touchies) + Send>;

fn act(run: impl FnOnce(&Touchies) + Send + 'static) -> Act {
    Box::new(run)
}

/// Runs all `acts` at the same time.
fn at_once(all: &Arc<Touchies>, acts: Vec<Act>) {
    let start = |act: Act| {
        let all = Arc::clone(all);
        thread::spawn(move || innocently(|| act(&all)))
    };
    let threads: Vec<_> = acts.into_iter().map(start).collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

/// Whom a panic reaches that was in a clone for all: told so, and never of anything else.
fn check_told(fuse: &Fuse, result: Result<(), Error>) {
    match result {
        Ok(()) => {}
        Err(Error::Panicked { .. } | Error::Load { .. } | Error::OwnerLoad { .. })
            if fuse.is_burnt() => {}
        Err(error) => panic!("{error:?}, and a panic: {}", fuse.is_burnt()),
    }
}

#[test]
fn a_clone_that_panics_leaves_nobody_waiting() {
    explore(|| {
        let fuses = Fuses {
            clone: Fuse::within(6),
            drop: Fuse::never(),
        };
        let all = Touchies::new(1, &fuses, |group| group);
        let get = |group: usize| {
            let fuse = fuses.clone.clone();
            act(move |all| check_told(&fuse, all.get(0, group, "k0")))
        };
        at_once(&all, vec![get(0), get(0), get(0), get(1)]);
        all.end(&fuses);
    });
}

#[test]
fn a_clone_that_panics_leaves_no_peer_waiting() {
    explore(|| {
        let fuses = Fuses {
            clone: Fuse::within(6),
            drop: Fuse::never(),
        };
        let all = Touchies::new(2, &fuses, |group| group);
        let get = |node: usize, group: usize| {
            let fuse = fuses.clone.clone();
            act(move |all| check_told(&fuse, all.get(node, group, "k0")))
        };
        at_once(&all, vec![get(0, 0), get(1, 0), get(1, 0), get(1, 1)]);
        all.end(&fuses);
    });
}

#[test]
fn a_clone_that_panics_leaves_no_batch_and_no_queued_load_waiting() {
    explore(|| {
        let fuses = Fuses {
            clone: Fuse::within(8),
            drop: Fuse::never(),
        };
        let all = Touchies::new(1, &fuses, |group| group);
        let batch = |group: usize| {
            let fuse = fuses.clone.clone();
            act(move |all| {
                let keys = ["k0", "k1", "k0"];
                let results = caught(|| {
                    let values = all.groups[0][group].get_many_timeout(&keys, 60 * SECOND);
                    values
                        .into_iter()
                        .map(|value| value.map(drop))
                        .collect::<Vec<_>>()
                });
                let results = results.into_iter().flatten();
                results.for_each(|result| check_told(&fuse, result));
            })
        };
        let fuse = fuses.clone.clone();
        let get = act(move |all| check_told(&fuse, all.get(0, 0, "k0")));
        at_once(&all, vec![batch(0), batch(1), get]);
        all.end(&fuses);
    });
}

#[test]
fn a_drop_that_panics_harms_nobody_else() {
    explore(|| {
        let fuses = Fuses {
            clone: Fuse::never(),
            drop: Fuse::within(6),
        };
        let all = Touchies::new(1, &fuses, |group| group.ttl(SECOND));
        let get = |group: usize| {
            let fuse = fuses.drop.clone();
            act(move |all| {
                check_told(&fuse, all.get(0, group, "k0"));
                check_told(&fuse, all.get(0, group, "k0"));
            })
        };
        let remove = act(|all| {
            caught(|| all.groups[0][0].remove("k0").unwrap());
        });
        let tick = act(|all| {
            for _ in 0..3 {
                thread::yield_now();
                all.clock.advance(SECOND);
            }
        });
        at_once(&all, vec![get(0), get(0), get(1), remove, tick]);
        all.end(&fuses);
    });
}

/// A clone or a drop that uses both groups, while others get and remove the same keys.
fn uses(of: fn(&Fuses) -> &Fuse) {
    explore(move || {
        let fuses = Fuses {
            clone: Fuse::never(),
            drop: Fuse::never(),
        };
        let all = Touchies::new(1, &fuses, |group| group);
        let fuse = of(&fuses);
        fuse.uses(&all.groups[0]);
        fuse.left.store(any_of(6), Ordering::SeqCst);
        let get = |group: usize| act(move |all| all.get(0, group, "k0").unwrap());
        let remove = act(|all| all.groups[0][0].remove("k0").unwrap());
        at_once(&all, vec![get(0), get(0), get(1), remove]);
        all.end(&fuses);
    });
}

#[test]
fn a_clone_may_use_both_groups() {
    uses(|fuses| &fuses.clone);
}

#[test]
fn a_drop_may_use_both_groups() {
    uses(|fuses| &fuses.drop);
}

/// Values that expire are dropped by the keeper: a panic there must not end it.
#[test]
fn a_drop_that_panics_does_not_end_the_keeper() {
    explore(|| {
        let fuses = Fuses {
            clone: Fuse::never(),
            drop: Fuse::never(),
        };
        let all = Touchies::new(1, &fuses, |group| group.ttl(SECOND));
        for group in [0, 1] {
            all.get(0, group, "k0").unwrap();
        }
        fuses.drop.left.store(1, Ordering::SeqCst);
        for _ in 0..8 {
            all.clock.advance(SECOND);
            (0..8).for_each(|_| thread::yield_now());
        }
        all.end(&fuses);
    });
}

/// A request of a peer in each group whose answer `callback` takes, while threads get the same key.
fn callbacks(callback: impl Fn(&[Group; 2], usize) + Copy + Send + Sync + 'static) {
    explore(move || {
        let request = |group: usize| {
            part(move |world: &World| {
                let groups = [world.groups[0].clone(), world.twins[0].clone()];
                let target = format!("/_groupcache/{}/k", GROUPS[group]);
                let request = Request::new("GET", &target).header("X-Groupcache", "v=1");
                if let Begin::Pending(pending) = world.nodes[0].begin(&request) {
                    caught(|| pending.notify(move |_| callback(&groups, group)));
                    // As long as this takes, the callback is wanted.
                    innocently(|| world.get_in(group, 0, "k"));
                }
            })
        };
        let get =
            |group: usize| part(move |world: &World| innocently(|| world.get_in(group, 0, "k")));
        let parts = vec![request(0), request(1), get(0), get(0), get(1)];
        run(World::new(1), parts).end();
    });
}

#[test]
fn a_callback_that_panics_harms_nobody_else() {
    callbacks(|_, _| panics());
}

#[test]
fn a_callback_may_use_both_groups() {
    callbacks(|groups, group| {
        groups[group].get("k").unwrap();
        groups[group].remove("k").unwrap();
        groups[1 - group].get("k").unwrap();
        groups[1 - group].get("other").unwrap();
    });
}

/// What a listener does: it may use the groups, and it may panic.
#[derive(Clone, Copy)]
enum Listening {
    Gets,
    Sets,
    Removes,
    Clears,
    Panics,
}

/// Caches with room for two values each, whose listener does this at each of the first evictions.
fn listeners(listening: Listening) {
    explore(move || {
        let capacity = 2 * (groupcache_sync::ENTRY_OVERHEAD + 10);
        let node = Network::new().node("http://n:1").unwrap();
        let groups: Arc<Plain<Vec<Group>>> = Arc::default();
        let left = Arc::new(AtomicIsize::new(3));
        let group = |name: &'static str| {
            let (groups, left) = (Arc::clone(&groups), Arc::clone(&left));
            let listener = move |key: &str, _: &Value, _| {
                let groups = groups.lock().unwrap().clone();
                if left.fetch_sub(1, Ordering::SeqCst) <= 0 || groups.is_empty() {
                    return;
                }
                for (group, name) in groups.iter().zip(GROUPS) {
                    match listening {
                        Listening::Gets => drop(group.get(key).unwrap()),
                        Listening::Sets => {
                            let value = Value::from(format!("{name}/{key}"));
                            group.set(key, value).unwrap();
                        }
                        Listening::Removes => group.remove(key).unwrap(),
                        Listening::Clears => group.clear().unwrap(),
                        Listening::Panics => panics(),
                    }
                }
            };
            let load = move |key: &str| {
                thread::yield_now();
                Ok::<_, LoadError>(Value::from(format!("{name}/{key}")))
            };
            let builder = node.group_builder(name, capacity).shards(1);
            builder.eviction_listener(listener).build(load).unwrap()
        };
        let both = GROUPS.map(group);
        groups.lock().unwrap().extend(both.clone());
        let threads: Vec<_> = (0..3)
            .map(|number| {
                let both = both.clone();
                thread::spawn(move || {
                    for step in 0..3 {
                        let key = ["a", "b", "c"][(number + step) % 3];
                        let group = number % 2;
                        let value = both[group].get(key).unwrap();
                        let expected = format!("{}/{key}", GROUPS[group]);
                        assert_eq!(value.as_str().unwrap(), expected, "P3");
                    }
                })
            })
            .collect();
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        for group in &both {
            check_accounts(group);
        }
        let held = std::mem::take(&mut *groups.lock().unwrap());
        drop(held);
        for group in both {
            group.clear().unwrap();
            assert_eq!((group.stats().main_bytes, group.stats().main_items), (0, 0));
        }
    });
}

#[test]
fn a_listener_may_get_in_both_groups() {
    listeners(Listening::Gets);
}

#[test]
fn a_listener_may_set_in_both_groups() {
    listeners(Listening::Sets);
}

#[test]
fn a_listener_may_remove_in_both_groups() {
    listeners(Listening::Removes);
}

#[test]
fn a_listener_may_clear_both_groups() {
    listeners(Listening::Clears);
}

#[test]
fn a_listener_that_panics_harms_nobody() {
    listeners(Listening::Panics);
}

/// The first load of each group panics, on the thread that asks or on the pool.
#[test]
fn a_loader_that_panics_fails_those_who_wait_for_it_and_no_other() {
    explore(|| {
        let fuses = GROUPS.map(|_| Fuse::new(1));
        let world = World::built(
            1,
            |node, _| node.loader_threads(1),
            |group| group,
            move |asked| {
                fuses[asked.group].burn();
                Ok(Value::from(asked.stamp))
            },
        );
        let get = |group: usize, is_timed: bool| {
            part(move |world: &World| {
                let deadline = world.clock.now() + 60 * SECOND;
                let group = world.group(group, 0);
                let result = match is_timed {
                    true => group.get_deadline("k", deadline),
                    false => group.get("k"),
                };
                assert!(
                    matches!(result, Ok(_) | Err(Error::Panicked { .. })),
                    "{result:?}"
                );
            })
        };
        let parts = vec![
            get(0, true),
            get(0, false),
            get(0, true),
            get(1, true),
            get(1, false),
        ];
        let world = run(world, parts);
        for group in [0, 1] {
            world.get_in(group, 0, "k");
            assert_eq!(world.history.loads_in(group, "k"), 2);
        }
        world.end();
    });
}
