//! The owner of a key offers it to its deputy, beside changes; then the owner is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use groupcache_sync::Fault;
use groupcache_sync_model::history::Scope;
use groupcache_sync_model::world::{World, address};
use shuttle::thread;

use crate::{explore, part, run};

const NODES: usize = 3;

/// The node that offers, and is lost.
const OWNER: usize = 2;

/// The time between two offers.
const OFFERS: Duration = Duration::from_secs(10);

/// Runs `change` while a value is handed to the deputy of its key, in both groups. What the deputy has then must
/// not be older than the change.
fn offers_against(change: fn(&World, &str)) {
    let all_taken = Arc::new(AtomicU64::new(0));
    let taken = Arc::clone(&all_taken);
    explore(move || {
        let world = World::new(NODES);
        let is_owned = |key: &String| world.nodes[0].owner(key).address() == address(OWNER);
        let mut keys = (0..).map(|number: u32| number.to_string());
        let key: Arc<str> = keys.find(is_owned).unwrap().into();
        for node in [0, 1, 0] {
            for group in [0, 1] {
                world.get_in(group, node, &key);
            }
        }
        let of_key = |work: fn(&World, &str)| {
            let key = Arc::clone(&key);
            part(move |world| work(world, &key))
        };
        let parts = vec![
            part(|world| world.clock.advance(OFFERS)),
            of_key(change),
            of_key(|world, key| {
                world.get(0, key);
                world.get(1, key);
            }),
            of_key(|world, key| world.get_in(1, OWNER, key)),
        ];
        let world = run(world, parts);
        world
            .network
            .set_fault(&address(OWNER), Some(Fault::Refuses));
        for node in 0..OWNER {
            world.get(node, &key);
            world.get_in(1, node, &key);
        }
        let stats = world.groups.iter().map(|group| group.stats());
        let copies: u64 = stats.map(|stats| stats.deputy_copies).sum();
        taken.fetch_add(copies, Ordering::SeqCst);
        world.end();
    });
    assert!(
        all_taken.load(Ordering::SeqCst) > 0,
        "nothing was handed over in any schedule"
    );
}

#[test]
fn offers_against_a_remove() {
    offers_against(|world, key| world.remove(0, key));
}

#[test]
fn offers_against_a_remove_by_the_owner() {
    offers_against(|world, key| world.remove(OWNER, key));
}

#[test]
fn offers_against_a_set() {
    offers_against(|world, key| world.set(1, key));
}

#[test]
fn offers_against_a_clear() {
    offers_against(|world, _| world.clear(0));
}

/// How long a deputy may keep what it was handed.
const LIFE: Duration = Duration::from_secs(600);

/// How often is looked whether a value has been handed over.
const PATIENCE: usize = 100;

/// A value that was handed over does not outlive what is remembered of removals.
#[test]
fn what_a_deputy_was_handed_has_an_end() {
    explore(|| {
        let world = World::new(NODES);
        let is_owned = |key: &String| world.nodes[0].owner(key).address() == address(OWNER);
        let mut keys = (0..).map(|number: u32| number.to_string());
        let key = keys.find(is_owned).unwrap();
        for group in [0, 1] {
            world.get_in(group, OWNER, &key);
        }
        world.clock.advance(OFFERS);
        let is_handed_over = || {
            let groups = world.groups.iter().chain(&world.twins);
            let copies: u64 = groups.map(|group| group.stats().deputy_copies).sum();
            copies == 2
        };
        for _ in 0..PATIENCE {
            if is_handed_over() {
                break;
            }
            (0..10).for_each(|_| thread::yield_now());
        }
        assert!(is_handed_over());
        world
            .network
            .set_fault(&address(OWNER), Some(Fault::Refuses));
        let ended = world.history.tick();
        world.clock.advance(LIFE);
        for group in [0, 1] {
            world.history.removed(Scope::Group(group), ended);
        }
        for node in 0..OWNER {
            world.get(node, &key);
            world.get_in(1, node, &key);
        }
        world.end();
    });
}

/// A flight of what is offered looks into the cache first. If it finds there what is being removed, a later get
/// must not join it.
#[test]
fn a_remove_against_an_offer_of_what_the_owner_has() {
    explore(|| {
        let world = World::new(2);
        let is_owned = |key: &String| world.nodes[0].owner(key).address() == address(0);
        let mut keys = (0..).map(|number: u32| number.to_string());
        let key = keys.find(is_owned).unwrap();
        for group in [0, 1] {
            world.get_in(group, 0, &key);
            world.get_in(group, 1, &key); // keeps a copy, which it offers
        }
        let leave = part(|world| world.nodes[1].leave(OFFERS).unwrap());
        let change = part(move |world| {
            world.remove(0, &key);
            world.get(0, &key);
            world.get_in(1, 0, &key);
        });
        run(world, vec![leave, change]).end();
    });
}
