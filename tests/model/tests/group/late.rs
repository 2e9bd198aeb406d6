//! The owner of a key misses a change, and others fetch what it still has: once the change has been delivered
//! to it, nothing of that is left anywhere.

use std::sync::Arc;

use groupcache_sync::{Error, Fault};
use groupcache_sync_model::history::{Name, Scope};
use groupcache_sync_model::world::{World, address};
use shuttle::thread;

use crate::{Part, SECOND, explore, part, run};

const NODES: usize = 3;

/// The node that misses the change.
const OWNER: usize = 2;

/// How often is looked whether all is delivered.
const PATIENCE: usize = 100;

/// A key that the node at `index` owns.
fn key_of(world: &World, index: usize) -> Arc<str> {
    let is_owned = |key: &String| world.nodes[0].owner(key).address() == address(index);
    let mut keys = (0..).map(|number: u32| number.to_string());
    keys.find(is_owned).unwrap().into()
}

/// How many removals are still to be delivered.
fn pending(world: &World) -> u64 {
    let peers = world.nodes.iter().flat_map(|node| node.stats().peers);
    peers.map(|peer| peer.pending_removals).sum()
}

/// Runs `change` of the first group, which the owner of the key misses, and gets in both groups while it is
/// delivered.
fn late_against(change: fn(&World, &str) -> Result<(), Error>, of: fn(&str) -> Scope) {
    explore(move || {
        let world = World::new(NODES);
        let (key, other) = (key_of(&world, OWNER), key_of(&world, 1));
        for group in [0, 1] {
            world.get_in(group, OWNER, &key);
        }
        world
            .network
            .set_fault(&address(OWNER), Some(Fault::Refuses));
        let began = world.history.tick();
        let Err(Error::Unreached { peers }) = change(&world, &key) else {
            panic!("the owner is not there");
        };
        assert_eq!(peers.len(), 1);
        world.get(1, &other);
        world.network.set_fault(&address(OWNER), None);
        let gets = |node: usize| -> Part {
            let (key, other) = (Arc::clone(&key), Arc::clone(&other));
            part(move |world| {
                for _ in 0..2 {
                    world.get(node, &key);
                    world.get_in(1, node, &key);
                }
                world.get(node, &other);
            })
        };
        let time = part(|world| {
            for _ in 0..3 {
                thread::yield_now();
                world.clock.advance(SECOND / 2);
            }
        });
        let world = run(world, vec![gets(0), gets(1), time]);
        for _ in 0..PATIENCE {
            if pending(&world) == 0 {
                break;
            }
            world.clock.advance(SECOND);
            (0..10).for_each(|_| thread::yield_now());
        }
        assert_eq!(pending(&world), 0, "it is not delivered");
        world.history.removed(of(&key), began);
        for node in 0..NODES {
            world.get(node, &key);
            world.get(node, &other);
            world.get_in(1, node, &key);
        }
        let loads = [(0, &other), (1, &key)].map(|(group, key)| world.history.loads_in(group, key));
        assert_eq!(loads, [1, 1], "P1: what others own is not removed late");
        world.end();
    });
}

#[test]
fn a_late_remove_against_gets() {
    late_against(
        |world, key| world.groups[0].remove(key),
        |key| Scope::Key(Name::new(0, key)),
    );
}

#[test]
fn a_late_remove_by_the_deputy_against_gets() {
    late_against(
        |world, key| {
            let deputy = world.nodes[0].deputy(key).unwrap().address();
            let of_deputy = |node: &usize| address(*node) == deputy;
            let deputy = (0..NODES).find(of_deputy).unwrap();
            world.groups[deputy].remove(key)
        },
        |key| Scope::Key(Name::new(0, key)),
    );
}

#[test]
fn a_late_clear_against_gets() {
    late_against(|world, _| world.groups[0].clear(), |_| Scope::Group(0));
}
