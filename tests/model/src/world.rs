//! A cluster under shuttle: nodes in memory, a clock that stands still, a history of what happened.

use std::sync::Arc;
use std::time::Duration;

use groupcache_sync::{Clock, Error, Group, GroupBuilder, LoadError, Network, Node, Value};
use shuttle::thread;

use crate::history::{History, stamp};

/// The nodes of one run.
pub struct World {
    /// What happened.
    pub history: Arc<History>,
    /// The clock of all nodes.
    pub clock: Clock,
    /// The network between them.
    pub network: Network,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// The group on each of them.
    pub groups: Vec<Group>,
}

/// The address of the node at `index`.
pub fn address(index: usize) -> String {
    format!("http://n{index}:1")
}

#[allow(clippy::unwrap_used)] // settings that are known to be good
impl World {
    /// `size` nodes whose loader takes some turns and returns a stamp.
    pub fn new(size: usize) -> World {
        World::with(
            size,
            |group| group.hot_threshold(0.0),
            |_, stamp| Ok(Value::from(stamp)),
        )
    }

    /// Nodes with these settings of the group and this loader, which gets the key and a stamp.
    pub fn with(
        size: usize,
        settings: impl Fn(GroupBuilder) -> GroupBuilder,
        load: impl Fn(&str, String) -> Result<Value, LoadError> + Clone + Send + Sync + 'static,
    ) -> World {
        let (history, clock, network) = (
            Arc::new(History::default()),
            Clock::manual(),
            Network::new(),
        );
        let (mut nodes, mut groups) = (Vec::new(), Vec::new());
        for index in 0..size {
            let builder = network
                .builder(&address(index))
                .unwrap()
                .clock(clock.clone());
            let node = builder.loader_threads(2).build().unwrap();
            network.attach(&node);
            let (history, load) = (Arc::clone(&history), load.clone());
            let builder = settings(node.group_builder("g", 1 << 20).shards(2));
            let group = builder.build(move |key| {
                let stamp = history.load_begins(key);
                thread::yield_now();
                load(key, stamp)
            });
            groups.push(group.unwrap());
            nodes.push(node);
        }
        for node in &nodes {
            node.set_peers((0..size).map(address)).unwrap();
        }
        World {
            history,
            clock,
            network,
            nodes,
            groups,
        }
    }

    /// A key that the node at `index` owns.
    pub fn key_of(&self, index: usize) -> String {
        let owned = |key: &String| self.nodes[0].owner(key).address() == address(index);
        (0..)
            .map(|number| format!("k{number}"))
            .find(owned)
            .unwrap()
    }

    /// Gets `key` on a node and notes it.
    pub fn get(&self, node: usize, key: &str) {
        let began = self.history.tick();
        let value = self.groups[node].get(key).unwrap();
        self.history.got(key, began, value.as_str().unwrap());
    }

    /// Gets many keys on a node and notes each.
    pub fn get_many(&self, node: usize, keys: &[&str]) {
        let began = self.history.tick();
        let values = self.groups[node].get_many(keys);
        for (key, value) in keys.iter().zip(values) {
            let value = value.unwrap();
            self.history.got(key, began, value.as_str().unwrap());
        }
    }

    /// Gets `key` on a node with a deadline; notes it if it came in time.
    pub fn get_timeout(&self, node: usize, key: &str, timeout: Duration) -> Result<(), Error> {
        let began = self.history.tick();
        let value = self.groups[node].get_timeout(key, timeout)?;
        self.history.got(key, began, value.as_str().unwrap());
        Ok(())
    }

    /// Removes `key` by a node and notes it.
    pub fn remove(&self, node: usize, key: &str) {
        let began = self.history.tick();
        self.groups[node].remove(key).unwrap();
        self.history.removed(Some(key), began);
    }

    /// Sets `key` by a node and notes it.
    pub fn set(&self, node: usize, key: &str) {
        let began = self.history.tick();
        self.groups[node]
            .set(key, Value::from(stamp(key, began)))
            .unwrap();
        self.history.set(key, began);
    }

    /// Clears the group by a node and notes it.
    pub fn clear(&self, node: usize) {
        let began = self.history.tick();
        self.groups[node].clear().unwrap();
        self.history.removed(None, began);
    }

    /// Ends the run: checks the history, and that nothing is left in flight or counted wrong.
    pub fn end(self) {
        self.history.check();
        for group in &self.groups {
            let stats = group.stats();
            assert_eq!(stats.flights, 0, "a flight is left: {stats:?}");
            assert_eq!(
                stats.gets,
                stats.main_hits + stats.hot_hits + stats.joined + stats.leads
            );
        }
    }
}

/// Runs all `parts` at the same time, and waits for them.
#[allow(clippy::unwrap_used)] // a panic of a part is the failure that is looked for
pub fn together(world: &Arc<World>, parts: Vec<Box<dyn FnOnce(&World) + Send>>) {
    let threads: Vec<_> = parts
        .into_iter()
        .map(|part| {
            let world = Arc::clone(world);
            thread::spawn(move || part(&world))
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}
