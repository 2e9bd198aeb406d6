//! Who comes after a deputy that is lost too: told of changes after others, it must not pass old values on.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, CircuitState, Clock, Error, Fault, Group, Limits, Link, Network, Node, Peer,
    PeerStats, Reply, Transport, Value,
};

use crate::cluster::{address, eventually};

/// A network on which some calls are held.
#[derive(Clone)]
struct Holding {
    network: Network,
    gates: Arc<Gates>,
}

/// Each holds one call to one node, and says so.
#[derive(Default)]
struct Gates {
    /// Before it arrives.
    removal: Mutex<Option<Gate>>,
    /// Once it is answered.
    get: Mutex<Option<Gate>>,
}

struct Gate {
    address: String,
    held: Sender<()>,
    go: Receiver<()>,
}

impl Gate {
    /// A gate for calls to a node, what says that it holds one, and what lets that pass.
    fn to(address: String) -> (Gate, Receiver<()>, Sender<()>) {
        let ((held, is_held), (let_go, go)) = (channel(), channel());
        let gate = Gate { address, held, go };
        (gate, is_held, let_go)
    }
}

fn pass(gate: &Mutex<Option<Gate>>, address: &str) {
    let taken = {
        let mut gate = gate.lock().unwrap();
        gate.take_if(|gate| gate.address == address)
    };
    if let Some(gate) = taken {
        gate.held.send(()).unwrap();
        gate.go.recv().unwrap();
    }
}

impl Transport for Holding {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(HoldingLink {
            inner: self.network.link(peer, limits)?,
            address: peer.address(),
            gates: Arc::clone(&self.gates),
        }))
    }
}

struct HoldingLink {
    inner: Arc<dyn Link>,
    address: String,
    gates: Arc<Gates>,
}

impl Link for HoldingLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        // A command that asks for values begins with the field of its keys.
        let is_many = call.method == "POST" && call.body.first() == Some(&0x1a);
        if call.method == "DELETE" {
            pass(&self.gates.removal, &self.address);
        }
        let reply = self.inner.call(call, timeout);
        if is_many || call.method == "GET" && call.target != "/_groupcache/" {
            pass(&self.gates.get, &self.address);
        }
        reply
    }
}

/// The first nodes of the cluster, which are not lost.
const LEFT: usize = 3;

struct World {
    gates: Arc<Gates>,
    version: Arc<AtomicU64>,
    nodes: Vec<Node>,
    groups: Vec<Group>,
    /// Owned by one lost node, with the other one for its deputy.
    key: String,
}

impl World {
    fn new() -> World {
        let (network, gates) = (Network::new(), Arc::<Gates>::default());
        let (clock, version) = (Clock::manual(), Arc::new(AtomicU64::new(1)));
        let (mut nodes, mut groups) = (Vec::new(), Vec::new());
        for number in 0..LEFT + 2 {
            let transport = Holding {
                network: network.clone(),
                gates: Arc::clone(&gates),
            };
            let builder = network.builder(address(number)).unwrap();
            let builder = builder.clock(clock.clone()).transport(Arc::new(transport));
            let node = builder.warm_up(Duration::ZERO).build().unwrap();
            network.attach(&node);
            let version = Arc::clone(&version);
            let load = move |_: &str| Ok(Value::from(version.load(Ordering::SeqCst).to_string()));
            groups.push(node.group_builder("g", 1 << 20).build(load).unwrap());
            nodes.push(node);
        }
        for node in &nodes {
            node.set_peers((0..LEFT + 2).map(address)).unwrap();
        }
        let keys = || (0..).map(|number: u32| format!("key {number}"));
        let owner = |key: &String| nodes[0].owner(key).address();
        let deputy = |key: &String| nodes[0].deputy(key).unwrap().address();
        let lost = [address(LEFT), address(LEFT + 1)];
        // Nodes ask those that have answered them before.
        for group in &groups[..LEFT] {
            for other in 0..LEFT {
                let key = keys().find(|key| owner(key) == address(other)).unwrap();
                group.get(&key).unwrap();
            }
        }
        for address in &lost {
            network.set_fault(address, Some(Fault::Refuses));
        }
        let is_open = |peer: &&PeerStats| peer.circuit == CircuitState::Open;
        for (node, group) in nodes.iter().zip(&groups).take(LEFT) {
            let finds_out = |key: String| {
                group.get(&key).unwrap();
                node.stats().peers.iter().filter(is_open).count() == lost.len()
            };
            assert!(keys().any(finds_out));
        }
        let is_of_lost = |key: &String| lost.contains(&owner(key)) && lost.contains(&deputy(key));
        let key = (0..)
            .map(|number: u32| format!("lost {number}"))
            .find(is_of_lost)
            .unwrap();
        World {
            gates,
            version,
            nodes,
            groups,
            key,
        }
    }

    /// The node that loads the key for the others.
    fn stand_in(&self) -> usize {
        let loads = |node: usize| self.groups[node].stats().loads;
        let before = [0, 1, 2].map(loads);
        assert_eq!(self.get(0, false), "1");
        (0..LEFT).find(|&node| loads(node) > before[node]).unwrap()
    }

    fn get(&self, node: usize, many: bool) -> String {
        let value = match many {
            true => self.groups[node].get_many(&[&self.key]).remove(0),
            false => self.groups[node].get(&self.key),
        };
        String::from_utf8(value.unwrap().as_bytes().to_vec()).unwrap()
    }
}

#[test]
fn a_get_after_a_removal_does_not_join_one_that_has_asked_a_stand_in_before() {
    for (many, many_later) in [(false, false), (true, false), (false, true), (true, true)] {
        let world = World::new();
        let stand_in = world.stand_in();
        let mut others = (0..LEFT).filter(|&node| node != stand_in);
        let [asker, remover] = [(); 2].map(|()| others.next().unwrap());
        assert_eq!(world.get(asker, false), "1");
        world.version.store(2, Ordering::SeqCst);

        let (removal, _is_held, let_removal_go) = Gate::to(address(stand_in));
        *world.gates.removal.lock().unwrap() = Some(removal);
        let (get, get_is_held, let_get_go) = Gate::to(address(stand_in));
        let removes = world.groups[asker].stats().removes;
        std::thread::scope(|scope| {
            let removing = scope.spawn(|| world.groups[remover].remove(&world.key));
            eventually("the asker is told", || {
                world.groups[asker].stats().removes > removes
            });
            *world.gates.get.lock().unwrap() = Some(get);
            let first = scope.spawn(|| world.get(asker, many));
            get_is_held.recv().unwrap();
            let_removal_go.send(()).unwrap();
            let Err(Error::Unreached { peers }) = removing.join().unwrap() else {
                panic!("two nodes are lost");
            };
            assert_eq!(peers.len(), 2, "the stand-in is reached");
            let joined = world.groups[asker].stats().joined;
            let later = scope.spawn(|| world.get(asker, many_later));
            eventually("it has a value, or has joined", || {
                later.is_finished() || world.groups[asker].stats().joined > joined
            });
            let_get_go.send(()).unwrap();
            assert_eq!(
                first.join().unwrap(),
                "1",
                "it began before the removal ended"
            );
            let at = format!("many: {many}, later: {many_later}");
            assert_eq!(later.join().unwrap(), "2", "{at}");
        });
        assert_eq!(world.get(asker, false), "2", "the old value is not kept");
        drop(world.nodes);
    }
}
