//! A cluster in memory for tests: nodes that share a network, a clock and a counting loader.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::time::Duration;

use groupcache_sync::{Clock, Group, GroupBuilder, LoadError, Network, Node, NodeBuilder, Value};

pub(crate) const GROUP: &str = "things";

/// Loads per key, over all nodes.
#[derive(Default)]
pub(crate) struct Loads {
    by_key: Mutex<HashMap<String, usize>>,
    all: AtomicUsize,
}

impl Loads {
    pub(crate) fn count(&self, key: &str) {
        *self
            .by_key
            .lock()
            .unwrap()
            .entry(key.to_owned())
            .or_default() += 1;
        self.all.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn of(&self, key: &str) -> usize {
        self.by_key.lock().unwrap().get(key).copied().unwrap_or(0)
    }

    pub(crate) fn all(&self) -> usize {
        self.all.load(Ordering::SeqCst)
    }
}

pub(crate) struct Cluster {
    pub(crate) network: Network,
    pub(crate) clock: Clock,
    pub(crate) nodes: Vec<Node>,
    pub(crate) groups: Vec<Group>,
    pub(crate) loads: Arc<Loads>,
}

pub(crate) fn address(index: usize) -> String {
    format!("http://node-{index}:1")
}

/// What the counting loader returns.
pub(crate) fn value_of(key: &str) -> Value {
    Value::from(format!("value of {key}"))
}

impl Cluster {
    /// Nodes with default settings on a clock that stands still.
    pub(crate) fn new(size: usize) -> Cluster {
        Cluster::with(
            size,
            Clock::manual(),
            |node| node,
            |group| group,
            |key| Ok(value_of(key)),
        )
    }

    pub(crate) fn with(
        size: usize,
        clock: Clock,
        node_settings: impl Fn(NodeBuilder) -> NodeBuilder,
        group_settings: impl Fn(GroupBuilder) -> GroupBuilder,
        load: impl Fn(&str) -> Result<Value, LoadError> + Clone + Send + Sync + 'static,
    ) -> Cluster {
        let network = Network::new();
        let loads = Arc::new(Loads::default());
        let (mut nodes, mut groups) = (Vec::new(), Vec::new());
        for index in 0..size {
            let builder = network
                .builder(address(index))
                .unwrap()
                .clock(clock.clone())
                .warm_up(Duration::ZERO); // as if it had been running for long
            let node = node_settings(builder).build().unwrap();
            network.attach(&node);
            let (loads, load) = (Arc::clone(&loads), load.clone());
            let builder = group_settings(node.group_builder(GROUP, 64 << 20));
            let group = builder.build(move |key| {
                loads.count(key);
                load(key)
            });
            groups.push(group.unwrap());
            nodes.push(node);
        }
        for node in &nodes {
            node.set_peers((0..size).map(address)).unwrap();
        }
        Cluster {
            network,
            clock,
            nodes,
            groups,
            loads,
        }
    }

    /// A key that node `index` owns.
    pub(crate) fn key_owned_by(&self, index: usize) -> String {
        let owned = |key: &String| self.nodes[0].owner(key).address() == address(index);
        (0..)
            .map(|number| format!("key {number}"))
            .find(owned)
            .unwrap()
    }

    /// The index of the deputy of `key`.
    pub(crate) fn deputy_of(&self, key: &str) -> usize {
        let deputy = self.nodes[0].deputy(key).unwrap().address();
        (0..self.nodes.len())
            .find(|&index| address(index) == deputy)
            .unwrap()
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Moves the clock once this many threads wait for it.
    pub(crate) fn advance_when(&self, sleepers: usize, by: Duration) {
        eventually("they wait", || self.clock.sleepers() == sleepers);
        self.clock.advance(by);
    }

    /// Moves the clock, while somebody waits for it, until `done`.
    pub(crate) fn advance_until(&self, by: Duration, done: impl Fn() -> bool) {
        eventually("time brings it", || {
            if self.clock.sleepers() > 0 {
                self.clock.advance(by);
            }
            done()
        });
    }
}

/// Runs `work` on `threads` threads that start together; gives each its number.
pub(crate) fn together<R: Send>(threads: usize, work: impl Fn(usize) -> R + Sync) -> Vec<R> {
    let barrier = Barrier::new(threads);
    std::thread::scope(|scope| {
        let run = |number| {
            barrier.wait();
            work(number)
        };
        let handles: Vec<_> = (0..threads)
            .map(|number| {
                let builder = std::thread::Builder::new().stack_size(256 << 10);
                builder.spawn_scoped(scope, move || run(number)).unwrap()
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap())
            .collect()
    })
}

/// Waits until `holds`; only a hang lets it fail.
pub(crate) fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "never came true: {what}"
        );
        std::thread::yield_now();
    }
}

/// Runs `work` on a thread of its own; one that hangs or panics fails the test.
pub(crate) fn ends<R: Send + 'static>(what: &str, work: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || drop(sender.send(work())));
    let result = receiver.recv_timeout(Duration::from_secs(60));
    result.unwrap_or_else(|_| panic!("{what}: it hangs, or panicked"))
}
