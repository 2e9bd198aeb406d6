//! What the user gives and the library calls: it may panic, block and call the library again, and
//! harms nobody but the call that it is part of.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use groupcache_sync::{
    Clock, Codec, CodecError, Error, EvictionCause, Group, LoadError, Network, Node, Value,
};

use crate::cluster::{GROUP, address, eventually, together};

const SECOND: Duration = Duration::from_secs(1);

/// Runs `work` on a thread of its own; one that hangs fails the test.
fn ends<R: Send + 'static>(what: &str, work: impl FnOnce() -> R + Send + 'static) -> R {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || drop(sender.send(work())));
    let result = receiver.recv_timeout(30 * SECOND);
    result.unwrap_or_else(|_| panic!("{what}: it hangs, or panicked"))
}

fn node(clock: &Clock) -> Node {
    let builder = Network::new().builder(address(0)).unwrap();
    builder.clock(clock.clone()).build().unwrap()
}

/// A group that its own callbacks use.
type Handle<V> = Arc<OnceLock<Group<V>>>;

fn open<V: groupcache_sync::Cacheable>(handle: &Handle<V>, group: &Group<V>) {
    assert!(handle.set(group.clone()).is_ok());
}

/// What the `clone` and the `drop` of a [`Wild`] value do.
#[derive(Default)]
struct Acts {
    on_clone: OnceLock<Act>,
    on_drop: OnceLock<Act>,
}

/// Is told the name of the value.
type Act = Box<dyn Fn(&str) + Send + Sync>;

/// A value whose `clone` and `drop` are as wild as a test wants.
struct Wild {
    name: String,
    acts: Arc<Acts>,
}

impl Clone for Wild {
    fn clone(&self) -> Wild {
        if let Some(act) = self.acts.on_clone.get() {
            act(&self.name);
        }
        Wild {
            name: self.name.clone(),
            acts: Arc::clone(&self.acts),
        }
    }
}

impl Drop for Wild {
    fn drop(&mut self) {
        if let Some(act) = self.acts.on_drop.get() {
            act(&self.name);
        }
    }
}

struct ByName(Arc<Acts>);

impl Codec<Wild> for ByName {
    fn encode(&self, value: &Wild) -> Result<Value, CodecError> {
        Ok(Value::from(value.name.as_str()))
    }
    fn decode(&self, bytes: Value) -> Result<Wild, CodecError> {
        let (name, acts) = (bytes.as_str()?.to_owned(), Arc::clone(&self.0));
        Ok(Wild { name, acts })
    }
    fn weight(&self, _: &Wild) -> usize {
        100
    }
}

/// A group of wild values in room for `entries` of them, which live for a second.
fn wild(node: &Node, entries: usize) -> (Group<Wild>, Arc<Acts>) {
    let acts = Arc::new(Acts::default());
    let of_loader = Arc::clone(&acts);
    let group = node
        .group_builder(GROUP, entries * 280)
        .codec(ByName(Arc::clone(&acts)))
        .hot_bytes(0)
        .shards(1)
        .ttl(SECOND)
        .build(move |key| {
            Ok(Wild {
                name: key.to_owned(),
                acts: Arc::clone(&of_loader),
            })
        })
        .unwrap();
    (group, acts)
}

#[test]
fn a_clone_may_call_the_cache_it_lies_in() {
    let node = node(&Clock::manual());
    let (group, acts) = wild(&node, 100);
    let calls = Arc::new(AtomicUsize::new(0));
    let (of_clone, counted) = (group.clone(), Arc::clone(&calls));
    group.get("a").unwrap();
    let act = move |name: &str| {
        if name == "a" && counted.fetch_add(1, Ordering::SeqCst) == 0 {
            drop(of_clone.try_get("a"));
            of_clone.get("b").unwrap();
            of_clone.remove("a").unwrap();
            let _ = of_clone.stats();
            drop(of_clone.hottest(3));
            of_clone.clear().unwrap();
        }
    };
    assert!(acts.on_clone.set(Box::new(act)).is_ok());
    let asks = group.clone();
    ends("a get", move || asks.get("a").map(drop)).unwrap();
    assert!(calls.load(Ordering::SeqCst) >= 1);
    assert_eq!(group.stats().main_items, 0, "it was cleared");
    assert_eq!(group.stats().main_bytes, 0);
}

#[test]
fn a_clone_that_panics_is_an_error_of_its_own_get_and_of_no_other() {
    let node = node(&Clock::manual());
    let (group, acts) = wild(&node, 100);
    group.get("a").unwrap();
    let panics = Arc::new(AtomicBool::new(false));
    let of_clone = Arc::clone(&panics);
    let act = move |_: &str| assert!(!of_clone.swap(false, Ordering::SeqCst), "cannot be cloned");
    assert!(acts.on_clone.set(Box::new(act)).is_ok());

    panics.store(true, Ordering::SeqCst);
    let Err(Error::Panicked { message }) = group.get("a").map(drop) else {
        panic!("the get must fail")
    };
    assert_eq!(&*message, "cannot be cloned");
    group.get("a").unwrap();
    panics.store(true, Ordering::SeqCst);
    assert!(group.try_get("a").is_none());
    assert!(group.try_get("a").is_some());
    panics.store(true, Ordering::SeqCst);
    let many = group.get_many(&["a", "a"]);
    assert!(many.iter().any(Result::is_ok), "one of the two was cloned");
    group.remove("a").unwrap();
    let stats = group.stats();
    assert_eq!((stats.main_bytes, stats.flights), (0, 0));
}

#[test]
fn a_drop_that_panics_reaches_neither_a_get_nor_the_keeper() {
    let clock = Clock::manual();
    let node = node(&clock);
    let (group, acts) = wild(&node, 8);
    // A doomed value panics when it leaves the cache, not as the clone that its get was given.
    let (armed, panicked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (is_armed, counted) = (Arc::clone(&armed), Arc::clone(&panicked));
    let act = move |name: &str| {
        if is_armed.load(Ordering::SeqCst) && name.starts_with("doomed") {
            counted.fetch_add(1, Ordering::SeqCst);
            panic!("cannot be dropped");
        }
    };
    assert!(acts.on_drop.set(Box::new(act)).is_ok());
    let keep = |key: &str| {
        armed.store(false, Ordering::SeqCst);
        group.get(key).unwrap();
        armed.store(true, Ordering::SeqCst);
    };
    let counted = || panicked.load(Ordering::SeqCst);
    let panics = |count: usize, what: &str| {
        assert_eq!(panicked.swap(0, Ordering::SeqCst), count, "{what}");
    };
    for number in 0..8 {
        keep(&format!("doomed {number}"));
    }
    for number in 0..200 {
        group.get(&format!("fine {}", number / 20)).unwrap();
    }
    assert!(counted() > 0, "some were evicted");
    panicked.store(0, Ordering::SeqCst);
    armed.store(false, Ordering::SeqCst);
    group.clear().unwrap();

    keep("doomed");
    let (name, acts) = ("fine".to_owned(), Arc::clone(&acts));
    group.set("doomed", Wild { name, acts }).unwrap();
    panics(1, "replaced");
    keep("doomed 1");
    group.remove("doomed 1").unwrap();
    panics(1, "removed");
    keep("doomed 2");
    group.clear().unwrap();
    panics(1, "cleared");
    keep("doomed 3");
    clock.advance(2 * SECOND);
    assert!(group.try_get("doomed 3").is_none());
    panics(1, "expired, found by a get");
    armed.store(false, Ordering::SeqCst);
    group.clear().unwrap();
    for round in 0..2 {
        keep(&format!("doomed in round {round}"));
        eventually("the keeper drops it, also the second one", || {
            clock.advance(SECOND);
            counted() > round
        });
    }
    keep("doomed with its group");
    let before = counted();
    drop((group, node));
    eventually("it is dropped with its group", || counted() == before + 1);
}

#[test]
fn a_drop_may_call_the_cache_its_value_lay_in() {
    thread_local!(static DROPS: std::cell::Cell<bool> = const { std::cell::Cell::new(false) });
    let node = node(&Clock::manual());
    let (group, acts) = wild(&node, 8);
    let (of_drop, calls) = (group.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&calls);
    let act = move |name: &str| {
        // What it is given is dropped too.
        if !DROPS.replace(true) {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(of_drop.get(&format!("{name}'")));
            drop(of_drop.try_get(name));
            drop(of_drop.get_many(&[name, "x"]));
            of_drop.remove(name).unwrap();
            let _ = of_drop.stats();
            DROPS.set(false);
        }
    };
    assert!(acts.on_drop.set(Box::new(act)).is_ok());
    let asks = group.clone();
    ends("gets whose evicted values get others", move || {
        for number in 0..20 {
            asks.get(&number.to_string()).unwrap();
        }
        asks.clear().unwrap();
    });
    assert!(calls.load(Ordering::SeqCst) > 20);
}

#[test]
fn a_listener_may_get_the_key_that_left() {
    let clock = Clock::manual();
    let node = node(&clock);
    let handle: Handle<Value> = Handle::default();
    let exists = Arc::new(AtomicBool::new(true));
    let (of_listener, of_loader) = (Arc::clone(&handle), Arc::clone(&exists));
    let group = node
        .group_builder(GROUP, 1 << 20)
        .ttl(SECOND)
        .stale_if_error(60 * SECOND)
        .eviction_listener(move |key, _, _| {
            let _ = of_listener.get().unwrap().get(key);
        })
        .build(move |key| match of_loader.load(Ordering::SeqCst) {
            true => Ok(Value::from(key)),
            false => Err(LoadError::NotFound),
        })
        .unwrap();
    open(&handle, &group);
    group.get("k").unwrap();
    exists.store(false, Ordering::SeqCst);
    clock.advance(2 * SECOND);
    let found = ends("a get of a key that is gone", move || group.get("k"));
    assert!(matches!(found, Err(Error::NotFound)), "{found:?}");
}

#[test]
fn a_listener_may_set_while_expired_values_leave() {
    let clock = Clock::manual();
    let node = node(&clock);
    let handle: Handle<Value> = Handle::default();
    let (sender, done) = mpsc::channel();
    let (of_listener, once) = (Arc::clone(&handle), AtomicBool::new(true));
    let group = node
        .group_builder(GROUP, 10_000)
        .hot_bytes(0)
        .shards(1)
        .ttl(SECOND)
        .eviction_listener(move |_, _, cause| {
            if cause == EvictionCause::Expired && once.swap(false, Ordering::SeqCst) {
                let large = Value::from(vec![1; 8_000]);
                sender
                    .send(of_listener.get().unwrap().set("large", large))
                    .unwrap();
            }
        })
        .build(|key| Ok(Value::from(key)))
        .unwrap();
    open(&handle, &group);
    for number in 0..40 {
        group.get(&number.to_string()).unwrap();
    }
    eventually("the set in the listener ends", || {
        clock.advance(SECOND);
        done.try_recv().is_ok_and(|set| set.is_ok())
    });
}

#[test]
fn a_listener_that_makes_a_value_leave_each_time_is_not_called_without_end() {
    let node = node(&Clock::manual());
    let handle: Handle<Value> = Handle::default();
    let calls = Arc::new(AtomicUsize::new(0));
    let (of_listener, counted) = (Arc::clone(&handle), Arc::clone(&calls));
    let nested = AtomicUsize::new(0);
    let group = node
        .group_builder(GROUP, 5 * 200)
        .hot_bytes(0)
        .eviction_listener(move |key, _, _| {
            assert_eq!(
                nested.fetch_add(1, Ordering::SeqCst),
                0,
                "one call inside another"
            );
            counted.fetch_add(1, Ordering::SeqCst);
            let group = of_listener.get().unwrap();
            drop(group.get(&format!("{key}'")));
            drop(group.set(&format!("{key}\""), Value::from("x")));
            nested.fetch_sub(1, Ordering::SeqCst);
        })
        .build(|key| Ok(Value::from(key)))
        .unwrap();
    open(&handle, &group);
    let asks = group.clone();
    ends("gets", move || {
        for number in 0..10 {
            asks.get(&number.to_string()).unwrap();
        }
    });
    assert!(calls.load(Ordering::SeqCst) > 10);
}

#[test]
fn a_listener_hears_of_what_goes_with_its_group_or_its_node() {
    let node = node(&Clock::manual());
    let heard: Arc<Mutex<Vec<(String, EvictionCause)>>> = Arc::default();
    let build = |name: &str| {
        let heard = Arc::clone(&heard);
        let group = node
            .group_builder(name, 1 << 20)
            .eviction_listener(move |key, _, cause| {
                heard.lock().unwrap().push((key.to_owned(), cause));
            })
            .build(|key| Ok(Value::from(key)))
            .unwrap();
        group.get("a").unwrap();
        group.get("b").unwrap();
        group
    };
    let take = || {
        let mut heard = std::mem::take(&mut *heard.lock().unwrap());
        heard.sort_by(|a, b| a.0.cmp(&b.0));
        heard
    };
    let all = ["a", "b"].map(|key| (key.to_owned(), EvictionCause::GroupEnded));
    let group = build("removed");
    assert!(node.remove_group("removed"));
    assert_eq!(take(), [], "it has a handle still");
    group.get("c").unwrap();
    group.remove("c").unwrap();
    assert_eq!(take(), [("c".to_owned(), EvictionCause::Removed)]);
    drop(group);
    assert_eq!(take(), all);
    drop((build("ends with its node"), node));
    assert_eq!(take(), all);
}

#[test]
fn listeners_clones_and_drops_of_many_threads_use_the_cache_as_they_like() {
    thread_local!(static DEPTH: std::cell::Cell<u32> = const { std::cell::Cell::new(0) });
    fn use_it(group: &Group<Wild>, number: usize) {
        if DEPTH.get() > 1 {
            return;
        }
        DEPTH.set(DEPTH.get() + 1);
        let key = format!("k{}", number % 97);
        match number % 9 {
            0 => drop(group.get(&key)),
            1 => drop(group.remove(&key)),
            2 => drop(group.stats()),
            3 => drop(group.try_get(&key)),
            4 => drop(group.hottest(3)),
            5 => drop(group.get_many(&[&key, "k1", "k2"])),
            6 => drop(group.get_timeout(&key, SECOND)),
            7 if number % 63 == 7 => drop(group.clear()),
            _ => {}
        }
        DEPTH.set(DEPTH.get() - 1);
    }
    let node = Network::new().builder(address(0)).unwrap().build().unwrap();
    let (group, acts) = wild(&node, 20);
    let numbers = Arc::new(AtomicUsize::new(0));
    let act = |weak: Group<Wild>, numbers: &Arc<AtomicUsize>| {
        let numbers = Arc::clone(numbers);
        Box::new(move |_: &str| use_it(&weak, numbers.fetch_add(1, Ordering::SeqCst)))
    };
    assert!(acts.on_clone.set(act(group.clone(), &numbers)).is_ok());
    assert!(acts.on_drop.set(act(group.clone(), &numbers)).is_ok());
    let asks = group.clone();
    ends("four threads", move || {
        together(4, |thread| {
            for number in 0..300 {
                let key = format!("k{}", (number * 31 + thread) % 97);
                match number % 10 {
                    0 => drop(asks.remove(&key)),
                    1 if number % 100 == 1 => drop(asks.clear()),
                    _ => drop(asks.get(&key)),
                }
            }
        });
    });
    // What the loader threads have begun ends too.
    eventually("no flight is left", || group.stats().flights == 0);
    assert!(numbers.load(Ordering::SeqCst) > 1_000);
}
