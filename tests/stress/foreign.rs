//! Foreign code that panics or uses the groups, now and then, wherever the library calls it: in the end
//! every get brings its value, and nothing is left behind.
//!
//! The panics are raised without the panic hook, so that they do not fill the terminal.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use groupcache_sync::{
    Begin, Codec, CodecError, ENTRY_OVERHEAD, Error, Group, Network, Node, Request, Value,
};

use crate::cluster::{address, eventually};
use crate::{Random, alone, is_idle, size};

const THREADS: usize = 16;
const NODES: usize = 2;
const KEYS: usize = 24;
const NAMES: [&str; 2] = ["things", "twins"];

/// The payload of a panic of foreign code.
struct Foreign;

/// Whether foreign code panics this time. Over, it does no more.
#[derive(Clone, Default)]
struct Mood(Arc<MoodState>);

#[derive(Default)]
struct MoodState {
    dice: AtomicU64,
    is_over: AtomicBool,
    panics: AtomicUsize,
}

impl Mood {
    /// One of `sides` numbers, the same for each run of as many calls; never 0 once it is over.
    fn roll(&self, sides: usize) -> usize {
        if self.0.is_over.load(Ordering::SeqCst) {
            return 1;
        }
        let roll = self.0.dice.fetch_add(1, Ordering::Relaxed);
        Random::new(roll, 0).below(sides)
    }

    fn maybe_panic(&self) {
        // A second panic while one unwinds ends the process, whoever is to blame.
        if !thread::panicking() && self.roll(64) == 0 {
            self.panic();
        }
    }

    fn panic(&self) {
        if !self.0.is_over.load(Ordering::SeqCst) {
            self.0.panics.fetch_add(1, Ordering::Relaxed);
            resume_unwind(Box::new(Foreign));
        }
    }
}

/// A value whose clone and drop panic now and then.
struct Touchy {
    text: String,
    mood: Mood,
}

impl Touchy {
    fn new(text: String, mood: &Mood) -> Touchy {
        let mood = mood.clone();
        Touchy { text, mood }
    }
}

impl Clone for Touchy {
    fn clone(&self) -> Touchy {
        self.mood.maybe_panic();
        Touchy::new(self.text.clone(), &self.mood)
    }
}

impl Drop for Touchy {
    fn drop(&mut self) {
        self.mood.maybe_panic();
    }
}

impl Codec<Touchy> for Mood {
    fn encode(&self, value: &Touchy) -> Result<Value, CodecError> {
        self.maybe_panic();
        Ok(Value::from(value.text.as_str()))
    }

    fn decode(&self, bytes: Value) -> Result<Touchy, CodecError> {
        self.maybe_panic();
        Ok(Touchy::new(bytes.as_str()?.to_owned(), self))
    }

    fn weight(&self, value: &Touchy) -> usize {
        self.maybe_panic();
        value.text.len()
    }
}

type Groups = Vec<[Group<Touchy>; 2]>;

/// Two nodes with two groups each, so small that values have to go all the time.
fn cluster(mood: &Mood) -> (Vec<Node>, Arc<OnceLock<Groups>>) {
    let network = Network::new();
    let nodes: Vec<Node> = (0..NODES)
        .map(|index| {
            let builder = network.builder(address(index)).unwrap();
            let node = builder.loader_threads(2).build().unwrap();
            network.attach(&node);
            node
        })
        .collect();
    let all: Arc<OnceLock<Groups>> = Arc::default();
    let build = |(at, node): (usize, &Node)| {
        [0, 1].map(|number| {
            let (listening, used) = (mood.clone(), Arc::clone(&all));
            let loading = mood.clone();
            let capacity = KEYS / 3 * (ENTRY_OVERHEAD + 20);
            let builder = node.group_builder(NAMES[number], capacity).shards(2);
            let builder = builder.codec(mood.clone()).ttl(Duration::from_millis(5));
            let builder = builder.eviction_listener(move |key, _: &Touchy, _| {
                let roll = listening.roll(64);
                match (roll, used.get()) {
                    (0, _) => listening.panic(),
                    (1 | 2, Some(groups)) if !listening.0.is_over.load(Ordering::SeqCst) => {
                        let group = &groups[at][roll - 1];
                        let _ = group.get(key).map(|value| value.text.len());
                    }
                    (3 | 4, Some(groups)) => drop(groups[at][roll - 3].remove(key)),
                    _ => {}
                }
            });
            let load = move |key: &str| {
                loading.maybe_panic();
                Ok(Touchy::new(format!("{}/{key}", NAMES[number]), &loading))
            };
            builder.build(load).unwrap()
        })
    };
    let groups: Groups = nodes.iter().enumerate().map(build).collect();
    for node in &nodes {
        node.set_peers((0..NODES).map(address)).unwrap();
    }
    assert!(all.set(groups).is_ok());
    (nodes, all)
}

/// Whom a panic of foreign code may reach: the one who called, and those who waited for the same.
fn check(name: &str, key: &str, result: Result<Touchy, Error>) {
    match result {
        Ok(value) => assert_eq!(value.text, format!("{name}/{key}"), "P3"),
        Err(error) => assert!(
            matches!(
                error,
                Error::Panicked { .. }
                    | Error::Load { .. }
                    | Error::OwnerLoad { .. }
                    | Error::Encode { .. }
            ),
            "{error:?}"
        ),
    }
}

fn act(random: &mut Random, node: &Node, groups: &[Group<Touchy>; 2]) {
    let (number, key) = (random.below(2), random.below(KEYS).to_string());
    let (name, group) = (NAMES[number], &groups[number]);
    match random.below(16) {
        0 => drop(group.remove(&key)),
        1 => {
            let other = random.below(KEYS).to_string();
            let keys = [&*key, &*other, &*key];
            let results = group.get_many_timeout(&keys, Duration::from_secs(60));
            let checked = keys.iter().zip(results);
            checked.for_each(|(key, result)| check(name, key, result));
        }
        2 => {
            let target = format!("/_groupcache/{name}/{key}");
            let request = Request::new("GET", &target).header("X-Groupcache", "v=1");
            if let Begin::Pending(pending) = node.begin(&request) {
                pending.notify(|_| resume_unwind(Box::new(Foreign)));
                check(name, &key, group.get(&key));
            }
        }
        3 if random.below(16) == 0 => {
            let entries = 1 + random.below(KEYS / 3);
            group.set_capacity(entries * (ENTRY_OVERHEAD + 20)).unwrap();
        }
        3..6 => check(name, &key, group.get_timeout(&key, Duration::from_secs(60))),
        _ => check(name, &key, group.get(&key)),
    }
}

#[test]
fn foreign_code_that_panics_anywhere_brings_nothing_to_a_standstill() {
    let _turn = alone();
    let operations = size("GROUPCACHE_STRESS_OPERATIONS", 150_000) / 10;
    let (seed, mood) = (Random::seed(), Mood::default());
    let (nodes, groups) = cluster(&mood);
    let nodes = Arc::new(nodes);
    let begun = Arc::new(AtomicUsize::new(0));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let (nodes, groups) = (Arc::clone(&nodes), Arc::clone(&groups));
            let begun = Arc::clone(&begun);
            let run = move || {
                let mut random = Random::new(seed, thread);
                let at = thread % NODES;
                while begun.fetch_add(1, Ordering::Relaxed) < operations {
                    let groups = &groups.get().unwrap()[at];
                    let acted = catch_unwind(AssertUnwindSafe(|| {
                        act(&mut random, &nodes[at], groups);
                    }));
                    if let Err(payload) = acted {
                        if !payload.is::<Foreign>() {
                            resume_unwind(payload);
                        }
                    }
                }
            };
            thread::Builder::new().spawn(run).unwrap()
        })
        .collect();
    // Not joined before they have ended: in a standstill that would be never.
    let (mut before, mut since) = (0, Instant::now());
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        let now = begun.load(Ordering::Relaxed);
        if now != before {
            (before, since) = (now, Instant::now());
        }
        let waiting = threads
            .iter()
            .filter(|thread| !thread.is_finished())
            .count();
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "a standstill after {now} operations: {waiting} threads wait"
        );
        thread::yield_now();
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    mood.0.is_over.store(true, Ordering::SeqCst);
    eprintln!("{operations} operations, {:?} panics", mood.0.panics);
    for (group, name) in groups
        .get()
        .unwrap()
        .iter()
        .flat_map(|groups| groups.iter().zip(NAMES))
    {
        for key in (0..KEYS).map(|key| key.to_string()) {
            let value = group.get(&key).unwrap();
            assert_eq!(value.text, format!("{name}/{key}"));
        }
        eventually("nothing is under way", || is_idle(group));
    }
}
