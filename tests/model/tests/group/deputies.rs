//! The owner of a key is lost: its deputy answers for it, beside changes.

use std::sync::Arc;
use std::time::Duration;

use groupcache_sync::{CircuitState, Error, Fault, PeerStats};
use groupcache_sync_model::history::{Name, Scope};
use groupcache_sync_model::world::{World, address};

use crate::{Part, explore, part, run};

const NODES: usize = 4;

/// The node that is lost.
const LOST: usize = 3;

/// Two keys of the lost node, with the same deputy.
fn lost_keys(world: &World) -> [Arc<str>; 2] {
    let is_lost = |key: &String| world.nodes[0].owner(key).address() == address(LOST);
    let deputy = |key: &String| world.nodes[0].deputy(key).unwrap().address();
    let mut keys = (0..).map(|number: u32| number.to_string()).filter(is_lost);
    let first = keys.next().unwrap();
    let second = keys.find(|key| deputy(key) == deputy(&first)).unwrap();
    [first.into(), second.into()]
}

/// The lost node alone may be named as unreached: the deputy is not lost.
fn check(changed: Result<(), Error>) {
    let Err(Error::Unreached { peers }) = changed else {
        panic!("a node is lost: {changed:?}");
    };
    let unreached: Vec<&str> = peers.iter().map(|unreached| &*unreached.peer).collect();
    assert_eq!(unreached, [address(LOST)]);
}

fn deputies_against(change: fn(&World, &str)) {
    explore(move || {
        let world = World::new(NODES);
        let [key, other] = lost_keys(&world);
        world
            .network
            .set_fault(&address(LOST), Some(Fault::Refuses));
        let gets = |node: usize, many: bool| {
            let (key, other) = (Arc::clone(&key), Arc::clone(&other));
            part(move |world| {
                for _ in 0..2 {
                    match many {
                        true => world.get_many(node, &[&key, &other]),
                        false => world.get(node, &key),
                    }
                }
            })
        };
        let changed = {
            let key = Arc::clone(&key);
            part(move |world| {
                change(world, &key);
                for node in 0..LOST {
                    world.get(node, &key);
                }
            })
        };
        let world = run(
            world,
            vec![gets(0, false), gets(1, true), gets(2, false), changed],
        );
        let fetched: u64 = (0..LOST)
            .map(|node| world.groups[node].stats().deputy_fetches)
            .sum();
        assert!(fetched > 0, "nobody has asked a deputy");
        world.end();
    });
}

#[test]
fn deputies_against_a_remove() {
    deputies_against(|world, key| {
        let began = world.history.tick();
        check(world.groups[0].remove(key));
        world.history.removed(Scope::Key(Name::new(0, key)), began);
    });
}

#[test]
fn deputies_against_a_clear() {
    deputies_against(|world, _| {
        let began = world.history.tick();
        check(world.groups[1].clear());
        world.history.removed(Scope::Group(0), began);
    });
}

/// Nodes that know each other, of which two are lost, and a key of which one of those is the owner and the other
/// one the deputy.
fn world_without_two() -> (World, Arc<str>) {
    let world = World::new(NODES + 1);
    let keys = || (0..).map(|number: u32| number.to_string());
    let owner = |key: &String| world.nodes[0].owner(key).address();
    for node in 0..LOST {
        for other in 0..LOST {
            let of_other = keys().find(|key| owner(key) == address(other));
            world.get(node, &of_other.unwrap());
        }
    }
    let lost = [address(LOST), address(LOST + 1)];
    let deputy = |key: &String| world.nodes[0].deputy(key).unwrap().address();
    let is_lost = |key: &String| lost.contains(&owner(key)) && lost.contains(&deputy(key));
    let key = keys().find(is_lost).unwrap();
    for address in &lost {
        world.network.set_fault(address, Some(Fault::Refuses));
    }
    let is_open = |peer: &&PeerStats| peer.circuit == CircuitState::Open;
    for node in 0..LOST {
        let finds_out = |other: String| {
            world.get(node, &other);
            world.nodes[node]
                .stats()
                .peers
                .iter()
                .filter(is_open)
                .count()
                == lost.len()
        };
        assert!(keys().filter(|other| *other != key).any(finds_out));
    }
    (world, key.into())
}

/// As above, but the owner and the deputy are lost: whoever comes after them answers.
fn stand_ins_against(change: fn(&World, &str) -> Result<(), Error>, of: fn(&str) -> Scope) {
    explore(move || {
        let (world, key) = world_without_two();
        let gets = |node: usize| {
            let key = Arc::clone(&key);
            part(move |world| {
                for time in 0..5 {
                    match (node + time) % 2 {
                        0 => world.get_many(node, &[&key]),
                        _ => world.get(node, &key),
                    }
                }
            })
        };
        let changed = {
            let key = Arc::clone(&key);
            part(move |world| {
                let began = world.history.tick();
                let Err(Error::Unreached { peers }) = change(world, &key) else {
                    panic!("two nodes are lost");
                };
                assert_eq!(peers.len(), 2);
                world.history.removed(of(&key), began);
                for node in 0..LOST {
                    world.get(node, &key);
                }
            })
        };
        let world = run(world, vec![gets(0), gets(1), gets(2), changed]);
        world.end();
    });
}

#[test]
fn stand_ins_against_a_remove() {
    stand_ins_against(
        |world, key| world.groups[0].remove(key),
        |key| Scope::Key(Name::new(0, key)),
    );
}

#[test]
fn stand_ins_against_a_clear() {
    stand_ins_against(|world, _| world.groups[1].clear(), |_| Scope::Group(0));
}

/// How long a node may keep what it has loaded of a key that it does not own, in the scenarios below.
const LIFE: Duration = Duration::from_secs(5);

/// The owner of a key is lost, and perhaps its deputy too. What the others load instead is over after its life: a
/// get sees what is loaded then.
fn lives(is_deputy_lost: bool) {
    explore(move || {
        let world = World::built(
            NODES,
            |node, _| {
                let node = node.deputy_life(LIFE).fallback_life(LIFE);
                // Each get finds out anew that nobody is there.
                node.circuit_failures(1_000).loader_threads(2)
            },
            |group| group.hot_threshold(0.0).hot_ttl(LIFE),
            |asked| Ok(asked.stamp.into()),
        );
        let [key, _] = lost_keys(&world);
        let deputy = world.nodes[0].deputy(&key).unwrap().address();
        let mut lost = vec![address(LOST)];
        lost.extend(is_deputy_lost.then_some(deputy));
        for address in &lost {
            world.network.set_fault(address, Some(Fault::Refuses));
        }
        let left: Vec<usize> = (0..NODES)
            .filter(|&node| !lost.contains(&address(node)))
            .collect();
        let gets = || -> Vec<Part> {
            let get = |(node, group)| {
                let key = Arc::clone(&key);
                part(move |world: &World| world.get_in(group, node, &key))
            };
            let all = left.iter().flat_map(|&node| [(node, 0), (node, 1)]);
            all.map(get).collect()
        };
        let (first, second) = (gets(), gets());
        let world = run(world, first);
        let ended = world.history.tick();
        world.clock.advance(LIFE);
        for group in [0, 1] {
            world.history.removed(Scope::Group(group), ended);
        }
        run(world, second).end();
    });
}

#[test]
fn what_a_deputy_has_loaded_has_an_end() {
    lives(false);
}

#[test]
fn what_is_loaded_without_owner_and_deputy_has_an_end() {
    lives(true);
}
