//! Two groups with the same keys: neither ever sees a value of the other (P3), whoever asks a peer for
//! both.

use groupcache_sync_model::world::{World, address};

use crate::{Part, explore, part, run};

fn get(group: usize, node: usize, key: String) -> Part {
    part(move |world| world.get_in(group, node, &key))
}

fn batch(group: usize, node: usize, keys: Vec<String>) -> Part {
    part(move |world| {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        world.get_many_in(group, node, &keys);
    })
}

/// Two keys that the node at `index` owns.
fn keys_of(world: &World, index: usize) -> [String; 2] {
    let keys = (0..).map(|number| format!("k{number}"));
    let mut keys = keys.filter(|key| world.nodes[0].owner(key).address() == address(index));
    [(); 2].map(|()| keys.next().expect("every node owns some of so many"))
}

fn check_loads(world: &World, keys: &[String]) {
    world.history.check(); // first: a value of the wrong group is no load saved
    for key in keys {
        let loads = [0, 1].map(|group| world.history.loads_in(group, key));
        assert_eq!(loads, [1, 1], "P1: {key}");
    }
}

#[test]
fn gets_in_both_groups_ask_one_peer_at_once() {
    explore(|| {
        let world = World::new(2);
        let keys = keys_of(&world, 1);
        let [a, b] = keys.clone();
        let world = run(
            world,
            vec![
                get(0, 0, a.clone()),
                get(1, 0, b.clone()),
                get(1, 0, a),
                get(0, 0, b),
            ],
        );
        check_loads(&world, &keys);
        world.end();
    });
}

#[test]
fn batches_and_gets_in_both_groups_ask_one_peer_at_once() {
    explore(|| {
        let world = World::new(2);
        let keys = keys_of(&world, 1);
        let [a, b] = keys.clone();
        let twice = vec![a.clone(), b.clone(), a.clone()];
        let world = run(
            world,
            vec![
                batch(0, 0, twice.clone()),
                batch(1, 0, twice),
                get(0, 0, b),
                get(1, 0, a),
            ],
        );
        check_loads(&world, &keys);
        world.end();
    });
}

#[test]
fn a_removal_in_one_group_against_gets_in_both() {
    explore(|| {
        let world = World::new(2);
        let [a, b] = keys_of(&world, 1);
        let removed = a.clone();
        let remove = part(move |world| {
            world.remove(0, &removed);
            world.get(0, &removed);
        });
        let parts = vec![
            get(0, 0, a.clone()),
            get(1, 0, a.clone()),
            get(1, 0, b),
            remove,
        ];
        let world = run(world, parts);
        let loads = world.history.loads_in(1, &a);
        assert_eq!(loads, 1, "P1: nothing is removed in the second group");
        world.end();
    });
}
