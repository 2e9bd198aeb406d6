//! P4: no get waits past its deadline, whatever peer, loader or network do. Running out of time belongs
//! to one caller, not to the flight and not to the circuit (I6).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, CircuitState, Clock, Error, Fault, Limits, Link, Network, Peer, Reply,
    Transport, Value,
};

use crate::cluster::{Cluster, address, eventually, value_of};

const SECOND: Duration = Duration::from_secs(1);

/// A cluster whose loader hangs until it is handed a value.
fn hanging(size: usize, clock: Clock, threads: usize) -> (Cluster, mpsc::Sender<Value>) {
    let (release, gate) = mpsc::channel();
    let gate = Arc::new(Mutex::new(gate));
    let cluster = Cluster::with(
        size,
        clock,
        |node| node.loader_threads(threads),
        |group| group,
        move |_| Ok(gate.lock().unwrap().recv()?),
    );
    (cluster, release)
}

#[test]
fn a_get_returns_by_its_deadline_and_the_value_is_cached_when_the_load_ends() {
    let (cluster, release) = hanging(1, Clock::manual(), 1);
    let group = &cluster.groups[0];
    std::thread::scope(|scope| {
        let late = scope.spawn(|| group.get_timeout("k", SECOND));
        eventually("it loads", || cluster.loads.all() == 1);
        cluster.advance_when(1, SECOND);
        assert!(matches!(late.join().unwrap(), Err(Error::Deadline)));
    });
    release.send(Value::from("late")).unwrap();
    eventually("it is cached", || group.try_get("k").is_some());
    assert_eq!(group.get("k").unwrap(), Value::from("late"));
    assert_eq!(cluster.loads.all(), 1);
}

#[test]
fn a_leader_whose_time_is_up_does_not_fail_its_waiters() {
    // The owner hangs. The leader has one second, its waiter ten.
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node.fetch_timeout(5 * SECOND),
        |group| group,
        |key| Ok(value_of(key)),
    );
    let key = cluster.key_owned_by(1);
    cluster.network.set_fault(&address(1), Some(Fault::Hangs));
    let group = &cluster.groups[0];
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| group.get_timeout(&key, SECOND));
        eventually("it fetches", || group.stats().fetches == 1);
        let waiter = scope.spawn(|| group.get_timeout(&key, 60 * SECOND));
        cluster.advance_when(2, SECOND);
        assert!(matches!(leader.join().unwrap(), Err(Error::Deadline)));
        eventually("the waiter leads", || group.stats().fetches == 2);
        cluster.advance_when(1, 5 * SECOND);
        assert_eq!(waiter.join().unwrap().unwrap(), value_of(&key));
    });
    let peers = cluster.nodes[0].stats().peers;
    let owner = peers.iter().find(|peer| !peer.is_this_node).unwrap();
    assert_eq!(
        owner.call_errors, 1,
        "the caller's own deadline says nothing about the peer"
    );
}

#[test]
fn a_full_pool_answers_overloaded_by_the_deadline_and_other_keys_still_load() {
    let (cluster, release) = hanging(1, Clock::manual(), 1);
    let group = &cluster.groups[0];
    std::thread::scope(|scope| {
        let first = scope.spawn(|| group.get_timeout("a", SECOND));
        eventually("it holds the only thread", || cluster.loads.all() == 1);
        let second = scope.spawn(|| group.get_timeout("b", SECOND));
        eventually("another is queued", || group.stats().leads == 2);
        // One who has no deadline needs no thread of the pool: it takes over the queued load.
        let third = scope.spawn(|| group.get("b"));
        eventually("it loads at once", || cluster.loads.all() == 2);
        cluster.advance_when(2, SECOND);
        assert!(matches!(first.join().unwrap(), Err(Error::Deadline)));
        assert!(
            matches!(second.join().unwrap(), Err(Error::Deadline)),
            "its load had begun"
        );
        let fourth = scope.spawn(|| group.get_timeout("c", SECOND));
        cluster.advance_when(1, SECOND);
        assert!(matches!(fourth.join().unwrap(), Err(Error::Overloaded)));
        release.send(Value::from("x")).unwrap();
        release.send(Value::from("x")).unwrap();
        assert_eq!(third.join().unwrap().unwrap(), Value::from("x"));
    });
    eventually("nothing is left in flight", || group.stats().flights == 0);
}

#[test]
fn a_load_that_never_began_goes_to_one_who_can_wait_longer() {
    let (cluster, release) = hanging(1, Clock::manual(), 1);
    let group = &cluster.groups[0];
    std::thread::scope(|scope| {
        let first = scope.spawn(|| group.get_timeout("a", SECOND));
        eventually("it holds the only thread", || cluster.loads.all() == 1);
        let short = scope.spawn(|| group.get_timeout("b", SECOND));
        eventually("it is queued", || group.stats().leads == 2);
        let long = scope.spawn(|| group.get_timeout("b", 60 * SECOND));
        eventually("another joins", || group.stats().joined == 1);
        cluster.advance_when(3, SECOND);
        assert!(matches!(first.join().unwrap(), Err(Error::Deadline)));
        assert!(matches!(short.join().unwrap(), Err(Error::Overloaded)));
        release.send(Value::from("of a")).unwrap();
        release.send(Value::from("of b")).unwrap();
        assert_eq!(long.join().unwrap().unwrap(), Value::from("of b"));
    });
}

#[test]
fn a_hanging_owner_costs_the_fetch_timeout_and_no_more() {
    let cluster = Cluster::new(2);
    let keys: Vec<String> = (0..200).map(|number| format!("key {number}")).collect();
    let mine = |key: &&String| cluster.nodes[0].owner(key).address() == address(1);
    let keys: Vec<&String> = keys.iter().filter(mine).collect();
    cluster.network.set_fault(&address(1), Some(Fault::Hangs));
    let group = &cluster.groups[0];
    for key in &keys[..3] {
        std::thread::scope(|scope| {
            let get = scope.spawn(|| group.get(key).unwrap());
            cluster.advance_until(SECOND, || get.is_finished());
            assert_eq!(get.join().unwrap(), value_of(key));
        });
    }
    let peers = cluster.nodes[0].stats().peers;
    let owner = peers.iter().find(|peer| !peer.is_this_node).unwrap();
    assert_eq!(owner.circuit, CircuitState::Open, "three failures in a row");
    for key in &keys[3..] {
        // No clock moves any more: nobody waits for the peer.
        assert_eq!(group.get(key).unwrap(), value_of(key));
    }
    cluster.network.set_fault(&address(1), None);
    cluster.advance_until(SECOND, || {
        let peers = cluster.nodes[0].stats().peers;
        peers
            .iter()
            .all(|peer| peer.circuit == CircuitState::Closed)
    });
}

/// The circuit of node 0 for node 1.
fn circuit(cluster: &Cluster) -> CircuitState {
    let peers = cluster.nodes[0].stats().peers;
    let owner = peers.iter().find(|peer| !peer.is_this_node).unwrap();
    owner.circuit
}

/// A get that has a fifth of a second and comes too late.
fn get_in_vain(cluster: &Cluster, key: &str) {
    std::thread::scope(|scope| {
        let get = scope.spawn(|| cluster.groups[0].get_timeout(key, SECOND / 5));
        cluster.advance_until(SECOND / 5, || get.is_finished());
        assert!(matches!(get.join().unwrap(), Err(Error::Deadline)));
    });
}

#[test]
fn a_hanging_owner_is_noticed_by_callers_who_have_less_time_than_it_takes() {
    let cluster = Cluster::new(2);
    let key = cluster.key_owned_by(1);
    cluster.network.set_fault(&address(1), Some(Fault::Hangs));
    for _ in 0..2 {
        get_in_vain(&cluster, &key);
    }
    cluster.advance_until(SECOND / 5, || circuit(&cluster) == CircuitState::Open);
    let group = &cluster.groups[0];
    assert_eq!(group.get_timeout(&key, SECOND / 5).unwrap(), value_of(&key));
    let peers = cluster.nodes[0].stats().peers;
    assert!(
        peers.iter().all(|peer| peer.call_errors == 0),
        "the time of callers blames nobody"
    );
}

/// Counts the probes on their way, and lets them pass one by one.
struct Probes {
    network: Network,
    begun: Arc<AtomicUsize>,
    gate: Arc<Mutex<mpsc::Receiver<()>>>,
    passed: Arc<AtomicUsize>,
}

struct ProbesLink(Arc<dyn Link>, Probes);

impl Transport for Probes {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        let link = self.network.link(peer, limits)?;
        let probes = Probes {
            network: self.network.clone(),
            begun: Arc::clone(&self.begun),
            gate: Arc::clone(&self.gate),
            passed: Arc::clone(&self.passed),
        };
        Ok(Arc::new(ProbesLink(link, probes)))
    }
}

impl Link for ProbesLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let is_probe = call.target == "/_groupcache/";
        if is_probe {
            self.1.begun.fetch_add(1, Ordering::SeqCst);
            let _ = self.1.gate.lock().unwrap().recv();
        }
        let answer = self.0.call(call, timeout);
        if is_probe {
            self.1.passed.fetch_add(1, Ordering::SeqCst);
        }
        answer
    }
}

#[test]
fn an_owner_that_is_only_slow_is_probed_once_at_a_time_and_not_put_away() {
    let network = Network::new();
    let clock = Clock::manual();
    let (pass, gate) = mpsc::channel();
    let (begun, passed) = (Arc::default(), Arc::default());
    let probes = Probes {
        network: network.clone(),
        begun: Arc::clone(&begun),
        gate: Arc::new(Mutex::new(gate)),
        passed: Arc::clone(&passed),
    };
    let asker = network.builder("http://asker:1").unwrap();
    let asker = asker.allow_absent(true).transport(Arc::new(probes));
    let asker = asker.clock(clock.clone()).build().unwrap();
    let owner = network.builder("http://owner:1").unwrap();
    let owner = owner.clock(clock.clone()).build().unwrap();
    network.attach(&owner);
    let (release, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    let owners = owner.group_builder("g", 1 << 20).build(move |key| {
        let _ = held.lock().unwrap().recv();
        Ok(value_of(key))
    });
    let group = asker.group_builder("g", 1 << 20);
    let group = group.build(|key| Ok(value_of(key))).unwrap();
    asker.set_peers(["http://owner:1"]).unwrap();
    let get_in_vain = || {
        std::thread::scope(|scope| {
            let get = scope.spawn(|| group.get_timeout("slow", SECOND / 100));
            eventually("it waits", || clock.sleepers() == 1);
            clock.advance(SECOND / 100);
            assert!(matches!(get.join().unwrap(), Err(Error::Deadline)));
        });
    };
    for _ in 0..20 {
        get_in_vain();
    }
    eventually("it is probed", || begun.load(Ordering::SeqCst) == 1);
    pass.send(()).unwrap();
    eventually("it answers", || passed.load(Ordering::SeqCst) == 1);
    for _ in 0..20 {
        get_in_vain();
    }
    assert_eq!(begun.load(Ordering::SeqCst), 1, "it was probed just now");
    let peer = &asker.stats().peers[0];
    assert_eq!(peer.circuit, CircuitState::Closed);
    assert_eq!(peer.call_errors, 0);
    drop((release, pass, owners));
}

#[test]
fn the_remaining_time_travels_to_the_owner() {
    use groupcache_sync::{Load, LoadError, Loaded, Loader, Network};
    struct Deadlines(Clock, Arc<Mutex<Vec<Option<Duration>>>>);
    impl Loader<Value> for Deadlines {
        fn load(&self, load: &Load<'_>) -> Result<Loaded<Value>, LoadError> {
            self.1
                .lock()
                .unwrap()
                .push(load.deadline().remaining(self.0.now()));
            Ok(value_of(load.key()).into())
        }
    }
    let (network, clock) = (Network::new(), Clock::manual());
    let seen: Arc<Mutex<Vec<Option<Duration>>>> = Arc::default();
    let node = |index: usize| {
        let builder = network
            .builder(address(index))
            .unwrap()
            .clock(clock.clone());
        let node = builder.build().unwrap();
        network.attach(&node);
        node
    };
    let nodes = [node(0), node(1)];
    let group = |node: &groupcache_sync::Node| {
        let loader = Deadlines(clock.clone(), Arc::clone(&seen));
        node.group_builder("g", 1 << 20).build_with(loader).unwrap()
    };
    let groups = [group(&nodes[0]), group(&nodes[1])];
    for node in &nodes {
        node.set_peers([address(0), address(1)]).unwrap();
    }
    let owned_by_other = |key: &String| nodes[0].owner(key).address() == address(1);
    let keys: Vec<String> = (0..)
        .map(|n| n.to_string())
        .filter(owned_by_other)
        .take(2)
        .collect();
    groups[0].get(&keys[0]).unwrap();
    groups[0]
        .get_timeout(&keys[1], Duration::from_millis(700))
        .unwrap();
    assert_eq!(
        *seen.lock().unwrap(),
        [None, Some(Duration::from_millis(700))]
    );
}

#[test]
fn a_deadline_in_the_past_still_gets_what_is_in_memory() {
    let cluster = Cluster::new(1);
    let group = &cluster.groups[0];
    assert!(group.get_timeout("k", Duration::ZERO).is_err());
    group.get("k").unwrap();
    assert_eq!(
        group.get_timeout("k", Duration::ZERO).unwrap(),
        value_of("k")
    );
    assert_eq!(
        group.get_timeout("other", Duration::MAX).unwrap(),
        value_of("other")
    );
}

#[test]
fn a_hung_load_costs_one_thread_and_after_a_remove_its_key_loads_again() {
    const WAITERS: usize = 16;
    let (release, gate) = mpsc::channel();
    let first = Arc::new((AtomicBool::new(true), Mutex::new(gate)));
    let cluster = Cluster::with(
        1,
        Clock::manual(),
        |node| node.loader_threads(4),
        |group| group,
        move |key| {
            let hangs = key == "hung" && first.0.swap(false, Ordering::SeqCst);
            let old = hangs.then(|| first.1.lock().unwrap().recv());
            Ok(old.transpose()?.unwrap_or_else(|| value_of(key)))
        },
    );
    let (group, node) = (&cluster.groups[0], &cluster.nodes[0]);
    std::thread::scope(|scope| {
        let late: Vec<_> = (0..WAITERS)
            .map(|_| scope.spawn(|| group.get_timeout("hung", SECOND)))
            .collect();
        eventually("all wait for one load", || {
            let stats = group.stats();
            let all = (stats.leads, stats.joined) == (1, WAITERS as u64 - 1);
            all && cluster.loads.all() == 1
        });
        cluster.advance_when(WAITERS, SECOND);
        for waiter in late {
            assert!(matches!(waiter.join().unwrap(), Err(Error::Deadline)));
        }
    });
    assert_eq!(node.stats().loader_threads_busy, 1);
    for key in 0..20 {
        let key = key.to_string();
        assert_eq!(group.get_timeout(&key, SECOND).unwrap(), value_of(&key));
    }
    group.remove("hung").unwrap();
    let again = group.get_timeout("hung", SECOND);
    assert_eq!(again.unwrap(), value_of("hung"));
    eventually("the one thread is left", || {
        node.stats().loader_threads_busy == 1
    });
    release.send(Value::from("of before the remove")).unwrap();
    eventually("it is free again", || node.stats().loader_threads_busy == 0);
    assert_eq!(group.get("hung").unwrap(), value_of("hung"));
}
