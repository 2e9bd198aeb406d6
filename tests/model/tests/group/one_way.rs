//! One node does not reach the owner of a key, which all others reach: it asks the deputy, beside changes.
//!
//! The change is held up twice: before the owner has it, and before the deputy has it the second time. What the
//! deputy has got meanwhile must not reach the node that asks it and has carried the change out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, Error, Fault, Limits, Link, Network, Peer, Reply, Transport,
};
use groupcache_sync_model::world::{World, address};
use shuttle::thread;

use crate::lists::Gate;
use crate::{explore, part, run};

const NODES: usize = 4;

/// The node that changes, the one that does not reach the owner, the deputy and the owner.
const CHANGER: usize = 0;
const CUT_OFF: usize = 1;
const DEPUTY: usize = 2;
const OWNER: usize = 3;

/// The time between two offers of an owner to its deputies.
const OFFERS: Duration = Duration::from_secs(10);

/// For how many turns the others go on.
const TURNS: usize = 60;

/// What one node reaches of the network, and when.
struct Ways {
    network: Network,
    node: usize,
    gates: [Arc<Gate>; 2],
}

impl Transport for Ways {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(Way {
            link: self.network.link(peer, limits)?,
            from: self.node,
            to: peer.address(),
            gates: self.gates.clone(),
        }))
    }
}

struct Way {
    link: Arc<dyn Link>,
    from: usize,
    to: String,
    gates: [Arc<Gate>; 2],
}

impl Link for Way {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        if self.from == CUT_OFF && self.to == address(OWNER) {
            return Err(CallError::Unreachable("there is no way".to_owned()));
        }
        if self.from == CHANGER {
            for gate in &self.gates {
                if gate.holds(call, &self.to).is_some() {
                    gate.wait_until_open();
                }
            }
        }
        self.link.call(call, timeout)
    }
}

/// Nodes of which one does not reach the owner, two keys of that, and what holds up the changes for the owner and
/// for the deputy.
fn world() -> (World, [Arc<str>; 2], [Arc<Gate>; 2]) {
    let (built, gates) = (AtomicUsize::new(0), [(); 2].map(|()| Arc::default()));
    let world = World::built(
        NODES,
        |node, network| {
            node.loader_threads(2).transport(Arc::new(Ways {
                network: network.clone(),
                node: built.fetch_add(1, Ordering::SeqCst),
                gates: gates.clone(),
            }))
        },
        |group| group.hot_threshold(0.0),
        |asked| Ok(asked.stamp.into()),
    );
    let is_meant = |key: &String| {
        let deputy = world.nodes[0].deputy(key).unwrap();
        let owner = world.nodes[0].owner(key);
        (owner.address(), deputy.address()) == (address(OWNER), address(DEPUTY))
    };
    let mut keys = (0..).map(|number: u32| number.to_string()).filter(is_meant);
    let keys = [(); 2].map(|()| keys.next().unwrap().into());
    (world, keys, gates)
}

fn turns() {
    (0..TURNS).for_each(|_| thread::yield_now());
}

/// When the owner offers its keys to the deputy.
#[derive(Clone, Copy, PartialEq)]
enum Offers {
    Never,
    BeforeTheOwnerIsTold,
    WhenTheOwnerIsTold,
}

type Work = fn(&World, &[Arc<str>; 2]);

/// Runs `change` of the first group, and what the node does that does not reach the owner.
fn against(change: Work, cut_off: Work, offers: Offers) {
    explore(move || {
        let (world, keys, [for_owner, for_deputy]) = world();
        for node in [OWNER, DEPUTY, DEPUTY] {
            for group in [0, 1] {
                world.get_in(group, node, &keys[0]);
            }
        }
        let is_change = |method: &str| method != "GET";
        for_owner.close_for(is_change, address(OWNER), false);
        let changed = keys.clone();
        let change = part(move |world| change(world, &changed));
        let asked = keys.clone();
        let others = part(move |world| {
            for_owner.wait(|state| state.is_held);
            match offers {
                Offers::BeforeTheOwnerIsTold => world.clock.advance(OFFERS),
                Offers::Never | Offers::WhenTheOwnerIsTold => {}
            }
            turns(); // the deputy is told
            if offers == Offers::Never {
                world.get(DEPUTY, &asked[0]);
            }
            for_deputy.close_for(is_change, address(DEPUTY), false);
            for_owner.open();
            if offers == Offers::WhenTheOwnerIsTold {
                world.clock.advance(OFFERS);
            }
            turns(); // all but the deputy are told once more
            cut_off(world, &asked);
            world.get_in(1, CUT_OFF, &asked[0]);
            for_deputy.open();
        });
        let world = run(world, vec![change, others]);
        let get_all = |world: &World| {
            // First the deputy: what it loads for another one would take the place of a copy.
            for node in (0..OWNER).rev() {
                world.get(node, &keys[0]);
                world.get_in(1, node, &keys[0]);
            }
        };
        get_all(&world);
        world
            .network
            .set_fault(&address(OWNER), Some(Fault::Refuses));
        get_all(&world);
        world.end();
    });
}

fn removes(world: &World, [key, _]: &[Arc<str>; 2]) {
    world.remove(CHANGER, key);
}

fn clears(world: &World, _: &[Arc<str>; 2]) {
    world.clear(CHANGER);
}

fn gets(world: &World, [key, _]: &[Arc<str>; 2]) {
    world.get(CUT_OFF, key);
}

fn gets_both(world: &World, [key, other]: &[Arc<str>; 2]) {
    world.get_many(CUT_OFF, &[key, other]);
}

fn gets_nothing(_: &World, _: &[Arc<str>; 2]) {}

#[test]
fn a_remove_against_a_copy_of_the_deputy() {
    against(removes, gets_nothing, Offers::Never);
}

#[test]
fn a_clear_against_a_copy_of_the_deputy() {
    against(clears, gets_nothing, Offers::Never);
}

#[test]
fn a_remove_against_one_who_asks_the_deputy() {
    against(removes, gets, Offers::Never);
}

#[test]
fn a_remove_against_a_batch_from_the_deputy() {
    against(removes, gets_both, Offers::Never);
}

#[test]
fn a_remove_against_an_offer_before_it() {
    against(removes, gets, Offers::BeforeTheOwnerIsTold);
}

#[test]
fn a_remove_against_an_offer_beside_it() {
    against(removes, gets, Offers::WhenTheOwnerIsTold);
}

#[test]
fn a_clear_against_an_offer_beside_it() {
    against(clears, gets, Offers::WhenTheOwnerIsTold);
}
