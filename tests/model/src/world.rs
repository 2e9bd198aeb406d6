//! A cluster under shuttle: nodes in memory, a clock that stands still, a history of what happened.
//! Every node has two groups with the same keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use groupcache_sync::{
    Cacheable, Clock, Error, Group, GroupBuilder, Load, LoadError, Loaded, Loader, Network, Node,
    NodeBuilder, Value,
};
use shuttle::thread;

use crate::history::{GROUPS, History, Name, Scope};

/// The deadline of changes: other parts of a scenario may move the clock.
const HOUR: Duration = Duration::from_secs(3_600);

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
    /// The first group on each of them.
    pub groups: Vec<Group>,
    /// The second one.
    pub twins: Vec<Group>,
}

/// The address of the node at `index`.
pub fn address(index: usize) -> String {
    format!("http://n{index}:1")
}

/// What a loader is asked for.
pub struct Asked<'a> {
    /// As the library asks.
    pub load: &'a Load<'a>,
    /// The number of the group.
    pub group: usize,
    /// The clock of all nodes.
    pub clock: &'a Clock,
    /// The bytes of the value.
    pub stamp: String,
}

/// A loader that takes some turns, and then has `load` make a value.
struct Stamping<F> {
    history: Arc<History>,
    clock: Clock,
    group: usize,
    load: F,
}

impl<F> Loader<Value> for Stamping<F>
where
    F: Fn(Asked<'_>) -> Result<Value, LoadError> + Send + Sync + 'static,
{
    fn load(&self, load: &Load<'_>) -> Result<Loaded<Value>, LoadError> {
        let name = Name::new(self.group, load.key());
        let stamp = self.history.load_begins(&name);
        thread::yield_now();
        let asked = Asked {
            load,
            group: self.group,
            clock: &self.clock,
            stamp,
        };
        (self.load)(asked).map(Loaded::from)
    }
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

    /// Nodes with these settings of the groups and this loader, which gets the key and a stamp.
    pub fn with(
        size: usize,
        settings: impl Fn(GroupBuilder) -> GroupBuilder,
        load: impl Fn(&str, String) -> Result<Value, LoadError> + Clone + Send + Sync + 'static,
    ) -> World {
        World::built(
            size,
            |node, _| node.loader_threads(2),
            settings,
            move |asked| load(asked.load.key(), asked.stamp),
        )
    }

    /// Nodes with these settings of their own and of the groups, and this loader.
    pub fn built(
        size: usize,
        node_settings: impl Fn(NodeBuilder, &Network) -> NodeBuilder,
        settings: impl Fn(GroupBuilder) -> GroupBuilder,
        load: impl Fn(Asked<'_>) -> Result<Value, LoadError> + Clone + Send + Sync + 'static,
    ) -> World {
        let mut world = World {
            history: Arc::default(),
            clock: Clock::manual(),
            network: Network::new(),
            nodes: Vec::new(),
            groups: Vec::new(),
            twins: Vec::new(),
        };
        for index in 0..size {
            let builder = world.network.builder(&address(index)).unwrap();
            let builder = node_settings(builder.clock(world.clock.clone()), &world.network);
            world.add(builder.build().unwrap(), &settings, &load);
        }
        let all: Vec<usize> = (0..size).collect();
        (0..size).for_each(|node| world.show(node, &all));
        world
    }

    /// Gives a node a list of peers.
    pub fn show(&self, node: usize, list: &[usize]) {
        let list = list.iter().copied().map(address);
        self.nodes[node].set_peers(list).unwrap();
    }

    /// Adds a node and its groups.
    fn add(
        &mut self,
        node: Node,
        settings: impl Fn(GroupBuilder) -> GroupBuilder,
        load: &(impl Fn(Asked<'_>) -> Result<Value, LoadError> + Clone + Send + Sync + 'static),
    ) {
        self.network.attach(&node);
        for (group, groups) in [&mut self.groups, &mut self.twins].into_iter().enumerate() {
            let loader = Stamping {
                history: Arc::clone(&self.history),
                clock: self.clock.clone(),
                group,
                load: load.clone(),
            };
            let builder = node.group_builder(GROUPS[group], 1 << 20).shards(2);
            groups.push(settings(builder).build_with(loader).unwrap());
        }
        self.nodes.push(node);
    }

    /// A group of a node.
    pub fn group(&self, group: usize, node: usize) -> &Group {
        &[&self.groups, &self.twins][group][node]
    }

    /// Gets `key` of the first group on a node and notes it.
    pub fn get(&self, node: usize, key: &str) {
        self.get_in(0, node, key);
    }

    /// Gets `key` of a group on a node and notes it.
    pub fn get_in(&self, group: usize, node: usize, key: &str) {
        let began = self.history.tick();
        let value = self.group(group, node).get(key).unwrap();
        self.note(group, key, began, &value);
    }

    /// Gets `key` of a group on a node until a deadline and notes it, if it came in time.
    pub fn get_until(
        &self,
        group: usize,
        node: usize,
        key: &str,
        deadline: Instant,
    ) -> Result<(), Error> {
        let began = self.history.tick();
        let value = self.group(group, node).get_deadline(key, deadline)?;
        self.note(group, key, began, &value);
        Ok(())
    }

    /// Notes a get that began at this moment.
    pub fn note(&self, group: usize, key: &str, began: u64, value: &Value) {
        let name = Name::new(group, key);
        self.history.got(name, began, value.as_str().unwrap());
    }

    /// Gets many keys of the first group on a node and notes each.
    pub fn get_many(&self, node: usize, keys: &[&str]) {
        self.get_many_in(0, node, keys);
    }

    /// Gets many keys of a group on a node and notes each.
    pub fn get_many_in(&self, group: usize, node: usize, keys: &[&str]) {
        let began = self.history.tick();
        let values = self.group(group, node).get_many(keys);
        for (key, value) in keys.iter().zip(values) {
            self.note(group, key, began, &value.unwrap());
        }
    }

    /// Gets `key` of the first group on a node with a timeout; notes it if it came in time.
    pub fn get_timeout(&self, node: usize, key: &str, timeout: Duration) -> Result<(), Error> {
        self.get_until(0, node, key, self.clock.now() + timeout)
    }

    /// Removes `key` of the first group by a node and notes it.
    pub fn remove(&self, node: usize, key: &str) {
        self.remove_in(0, node, key);
    }

    /// Removes `key` of a group by a node and notes it.
    pub fn remove_in(&self, group: usize, node: usize, key: &str) {
        let began = self.history.tick();
        self.group(group, node).remove_timeout(key, HOUR).unwrap();
        let scope = Scope::Key(Name::new(group, key));
        self.history.removed(scope, began);
    }

    /// Sets `key` of the first group by a node and notes it.
    pub fn set(&self, node: usize, key: &str) {
        let (began, name) = (self.history.tick(), Name::new(0, key));
        let value = Value::from(name.stamp(began));
        self.groups[node].set_timeout(key, value, HOUR).unwrap();
        self.history.set(name, began);
    }

    /// Clears the first group by a node and notes it.
    pub fn clear(&self, node: usize) {
        let began = self.history.tick();
        self.groups[node].clear_timeout(HOUR).unwrap();
        self.history.removed(Scope::Group(0), began);
    }

    /// Ends the run: checks the history, and that nothing is left in flight or counted wrong.
    pub fn end(self) {
        self.history.check();
        for group in self.groups.iter().chain(&self.twins) {
            check_accounts(group);
        }
    }
}

/// Checks that nothing is under way in a group that nobody uses, and that its gets add up.
#[allow(clippy::missing_panics_doc)] // it is a check
pub fn check_accounts<V: Cacheable>(group: &Group<V>) {
    check_idle(group);
    let stats = group.stats();
    assert_eq!(
        stats.gets,
        stats.main_hits + stats.hot_hits + stats.joined + stats.leads
    );
}

/// Checks that nothing is under way in a group that nobody uses. A load that nobody waits for any
/// more has some turns to end.
#[allow(clippy::missing_panics_doc)] // it is a check
pub fn check_idle<V: Cacheable>(group: &Group<V>) {
    const TURNS: usize = 1_000;
    let is_idle = || {
        let stats = group.stats();
        (stats.flights, stats.loads_running) == (0, 0)
    };
    let ends = (0..TURNS).any(|_| {
        let is_idle = is_idle();
        if !is_idle {
            thread::yield_now();
        }
        is_idle
    });
    assert!(ends, "a flight or a load is left: {:?}", group.stats());
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
