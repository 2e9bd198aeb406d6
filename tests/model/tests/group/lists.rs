//! Changes while the lists of peers change, and requests that arrive late.

use std::sync::Arc;
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, CircuitState, Error, Fault, Limits, Link, Network, Peer, Reply, Transport,
    Value,
};
use groupcache_sync_model::history::Name;
use groupcache_sync_model::world::{World, address};
use shuttle::sync::{Condvar, Mutex};
use shuttle::thread;

use crate::{SECOND, explore, part, run};

/// How often a scenario looks whether something has come true.
const PATIENCE: usize = 100;

/// A network in which one request at a time can be held up.
struct Gated {
    network: Network,
    gate: Arc<Gate>,
}

/// Holds up the first request that it is closed for.
#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
pub(crate) struct State {
    /// Which methods it is closed for, and which address.
    closed_for: Option<(fn(&str) -> bool, String)>,
    /// Whether its sender hears at once that there is no answer.
    is_late: bool,
    pub(crate) is_held: bool,
    is_open: bool,
}

impl Gate {
    pub(crate) fn close_for(&self, methods: fn(&str) -> bool, address: String, is_late: bool) {
        let mut state = self.state.lock().unwrap();
        state.closed_for = Some((methods, address));
        state.is_late = is_late;
    }

    /// Whether `call` is the one to be held up, and, if so, whether its sender does not wait.
    pub(crate) fn holds(&self, call: &Call, to: &str) -> Option<bool> {
        let mut state = self.state.lock().unwrap();
        let closed_for = state.closed_for.as_ref();
        if closed_for.is_none_or(|(methods, address)| !methods(call.method) || to != address) {
            return None;
        }
        state.closed_for = None;
        state.is_held = true;
        self.moved.notify_all();
        Some(state.is_late)
    }

    pub(crate) fn wait(&self, until: impl Fn(&State) -> bool) {
        let mut state = self.state.lock().unwrap();
        while !until(&state) {
            state = self.moved.wait(state).unwrap();
        }
    }

    pub(crate) fn wait_until_open(&self) {
        self.wait(|state| state.is_open);
    }

    pub(crate) fn open(&self) {
        self.state.lock().unwrap().is_open = true;
        self.moved.notify_all();
    }
}

impl Transport for Gated {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(GatedLink {
            link: self.network.link(peer, limits)?,
            to: peer.address(),
            gate: Arc::clone(&self.gate),
        }))
    }
}

struct GatedLink {
    link: Arc<dyn Link>,
    to: String,
    gate: Arc<Gate>,
}

impl Link for GatedLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        match self.gate.holds(call, &self.to) {
            None => {}
            Some(false) => self.gate.wait_until_open(),
            Some(true) => {
                let (link, gate) = (Arc::clone(&self.link), Arc::clone(&self.gate));
                let call = call.clone();
                thread::spawn(move || {
                    gate.wait_until_open();
                    let _ = link.call(&call, timeout); // nobody hears the answer
                });
                return Err(CallError::Timeout);
            }
        }
        self.link.call(call, timeout)
    }
}

/// Nodes behind one gate.
fn gated(size: usize) -> (World, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let through = Arc::clone(&gate);
    let world = World::built(
        size,
        |node, network| {
            let (network, gate) = (network.clone(), Arc::clone(&through));
            let transport = Gated { network, gate };
            node.loader_threads(2).transport(Arc::new(transport))
        },
        |group| group.hot_threshold(0.0),
        |asked| Ok(Value::from(asked.stamp)),
    );
    (world, gate)
}

/// All lists are the same again before the removal has told the owner of before, and so before it
/// returns: it holds on the node that has joined meanwhile.
#[test]
fn a_removal_holds_on_a_node_that_joins_while_it_is_under_way() {
    explore(|| {
        let (world, gate) = gated(3);
        let all = [0, 1, 2];
        let keys = || (0..).map(|number| format!("k{number}"));
        let owner = |key: &String| world.nodes[0].owner(key).address();
        let of_new: Vec<String> = keys()
            .filter(|key| owner(key) == address(2))
            .take(20)
            .collect();
        for (node, list) in [(0, &[0, 1][..]), (1, &[0, 1]), (2, &[2])] {
            world.show(node, list);
        }
        let of_old = |key: &String| world.nodes[0].owner(key).address() == address(1);
        let key = of_new.into_iter().find(of_old).expect("a key that moves");
        for group in [0, 1] {
            world.get_in(group, 1, &key);
        }
        gate.close_for(|method| method != "GET", address(1), false);
        let (removed, got) = (key.clone(), key.clone());
        let remove = part(move |world| {
            world.remove(0, &removed);
            world.get(0, &removed);
        });
        let join = part(move |world: &World| {
            gate.wait(|state| state.is_held);
            (0..3).for_each(|node| world.show(node, &all));
            world.get(2, &got);
            gate.open();
            world.get_in(1, 2, &got);
        });
        let world = run(world, vec![remove, join]);
        (0..3).for_each(|node| world.get(node, &key));
        world.end();
    });
}

/// The first value lies in the buffer of a stopped process: its set has failed, and the owner gets it
/// when a later set of the same node has returned.
#[test]
fn a_value_that_arrives_late_does_not_undo_a_later_change_of_its_sender() {
    explore(|| {
        let (world, gate) = gated(2);
        let keys = (0..).map(|number| format!("k{number}"));
        let mut owned = keys.filter(|key| world.nodes[0].owner(key).address() == address(1));
        let key = owned.next().expect("it owns some");
        gate.close_for(|method| method == "PUT", address(1), true);
        let late = Name::new(0, &key).stamp(world.history.tick());
        let told = world.groups[0].set(&key, Value::from(late.as_str()));
        assert!(matches!(told, Err(Error::Unreached { .. })), "{told:?}");
        let (changed, got) = (key.clone(), key.clone());
        let change = part(move |world| {
            world.set(0, &changed);
            gate.open();
            world.get(0, &changed);
            world.get(1, &changed);
        });
        let gets = part(move |world: &World| {
            world.get_in(1, 0, &got);
            let value = world.groups[1].get(&got).unwrap();
            drop(value); // until the change has returned it may be the late one
        });
        let world = run(world, vec![change, gets]);
        world.get(0, &key);
        world.end();
    });
}

/// A peer that is unreachable leaves the list for a moment while the keeper looks for something to do: it is
/// probed all the same, and found when it answers.
#[test]
fn a_peer_that_flaps_while_it_is_away_is_found_again() {
    explore(|| {
        let world = World::new(2);
        let keys = (0..).map(|number| format!("k{number}"));
        let of_other = |key: &String| world.nodes[0].owner(key).address() == address(1);
        let owned: Vec<String> = keys.filter(of_other).take(3).collect();
        world.network.set_fault(&address(1), Some(Fault::Refuses));
        owned.iter().for_each(|key| world.get(0, key));
        let is_away = |world: &World| {
            let peers = world.nodes[0].stats().peers;
            peers.iter().any(|peer| peer.circuit == CircuitState::Open)
        };
        assert!(is_away(&world));
        let flap = part(|world| {
            [&[0][..], &[0, 1]]
                .into_iter()
                .for_each(|list| world.show(0, list))
        });
        let time = part(|world: &World| {
            for _ in 0..3 {
                thread::yield_now();
                world.clock.advance(SECOND / 2);
            }
        });
        let world = run(world, vec![flap, time]);
        world.network.set_fault(&address(1), None);
        for _ in 0..PATIENCE {
            if !is_away(&world) {
                return world.end();
            }
            world.clock.advance(SECOND);
            (0..10).for_each(|_| thread::yield_now());
        }
        panic!("nobody has found it");
    });
}
