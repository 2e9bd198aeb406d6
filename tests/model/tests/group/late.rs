//! The owner of a key misses a change, and others fetch what it still has: once the change has been delivered
//! to it, nothing of that is left anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, Error, Fault, Limits, Link, Network, Peer, Reply, Transport,
};
use groupcache_sync_model::history::{Name, Scope};
use groupcache_sync_model::world::{World, address};
use shuttle::thread;

use crate::lists::Gate;
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

/// Lets time pass until all is delivered.
fn deliver(world: &World) {
    for _ in 0..PATIENCE {
        if pending(world) == 0 {
            return;
        }
        world.clock.advance(SECOND);
        (0..10).for_each(|_| thread::yield_now());
    }
    panic!("not all is delivered");
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
        deliver(&world);
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

/// A network that holds up the answer of the owner to one node.
struct SlowAnswers {
    network: Network,
    gate: Arc<Gate>,
}

impl Transport for SlowAnswers {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(SlowLink {
            link: self.network.link(peer, limits)?,
            to: peer.address(),
            gate: Arc::clone(&self.gate),
        }))
    }
}

struct SlowLink {
    link: Arc<dyn Link>,
    to: String,
    gate: Arc<Gate>,
}

impl Link for SlowLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let reply = self.link.call(call, timeout);
        if self.gate.holds(call, &self.to).is_some() {
            self.gate.wait_until_open();
        }
        reply
    }
}

/// An old value is on its way from the owner to another node while the owner, and then that node, are told.
fn late_against_an_answer(change: fn(&World, &str) -> Result<(), Error>, of: fn(&str) -> Scope) {
    const ASKER: usize = 1;
    explore(move || {
        let (built, gate) = (AtomicUsize::new(0), Arc::<Gate>::default());
        let world = World::built(
            NODES,
            |node, network| {
                let node = node.loader_threads(2);
                match built.fetch_add(1, Ordering::SeqCst) {
                    ASKER => node.transport(Arc::new(SlowAnswers {
                        network: network.clone(),
                        gate: Arc::clone(&gate),
                    })),
                    _ => node,
                }
            },
            |group| group.hot_threshold(0.0),
            |asked| Ok(asked.stamp.into()),
        );
        let key = key_of(&world, OWNER);
        for group in [0, 1] {
            world.get_in(group, OWNER, &key);
        }
        let is_another = |other: &String| {
            **other != *key && world.nodes[0].owner(other).address() == address(OWNER)
        };
        let mut others = (0..).map(|number: u32| number.to_string());
        // The asker knows the dialect of the owner, so that what is held up is its get.
        world.get(ASKER, &others.find(is_another).unwrap());
        let owner = address(OWNER);
        world.network.set_fault(&owner, Some(Fault::Refuses));
        let began = world.history.tick();
        change(&world, &key).unwrap_err();
        world.network.set_fault(&owner, None);
        gate.close_for(|method| method == "GET", owner, false);
        let asked = Arc::clone(&key);
        let get = part(move |world| world.get(ASKER, &asked));
        let delivery = part(move |world| {
            gate.wait(|state| state.is_held);
            deliver(world);
            gate.open();
        });
        let world = run(world, vec![get, delivery]);
        world.history.removed(of(&key), began);
        for node in 0..NODES {
            world.get(node, &key);
            world.get_in(1, node, &key);
        }
        world.end();
    });
}

#[test]
fn a_late_remove_against_an_answer_on_its_way() {
    late_against_an_answer(
        |world, key| world.groups[0].remove(key),
        |key| Scope::Key(Name::new(0, key)),
    );
}

#[test]
fn a_late_clear_against_an_answer_on_its_way() {
    late_against_an_answer(|world, _| world.groups[0].clear(), |_| Scope::Group(0));
}
