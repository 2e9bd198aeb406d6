//! What the user gives and the library calls: it may panic, block and call the library again, and
//! harms nobody but the call that it is part of. No lock is held meanwhile (I1): each test here would
//! deadlock otherwise.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use groupcache_sync::{
    Begin, Clock, Codec, CodecError, Error, EvictionCause, Group, LoadError, Network, Node,
    Pending, Request, Value,
};

use crate::cluster::{GROUP, address, ends, eventually, together};

const SECOND: Duration = Duration::from_secs(1);

fn node(clock: &Clock) -> Node {
    let builder = Network::new().builder(address(0)).unwrap();
    builder.clock(clock.clone()).build().unwrap()
}

/// A node with one loader thread.
fn narrow() -> Node {
    let builder = Network::new().builder(address(0)).unwrap();
    let builder = builder.clock(Clock::manual()).loader_threads(1);
    builder.build().unwrap()
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
fn a_drop_inside_a_drop_runs_while_its_thread_leads_nothing() {
    thread_local!(static DEPTH: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });
    let node = node(&Clock::manual());
    let (group, acts) = wild(&node, 8);
    let (of_drop, flights) = (group.clone(), Arc::new(AtomicU64::new(0)));
    let (most, nested) = (Arc::clone(&flights), Arc::new(AtomicUsize::new(0)));
    let deep = Arc::clone(&nested);
    let act = move |name: &str| {
        most.fetch_max(of_drop.stats().flights, Ordering::SeqCst);
        if DEPTH.get() > 1 {
            deep.fetch_add(1, Ordering::SeqCst);
            return;
        }
        DEPTH.set(DEPTH.get() + 1);
        drop(of_drop.get(&format!("{name}a")));
        drop(of_drop.get(&format!("{name}b")));
        DEPTH.set(DEPTH.get() - 1);
    };
    assert!(acts.on_drop.set(Box::new(act)).is_ok());
    for number in 0..20 {
        group.get(&number.to_string()).unwrap();
    }
    assert!(nested.load(Ordering::SeqCst) > 0);
    assert_eq!(flights.load(Ordering::SeqCst), 0);
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

/// Asks for a key of the group as a peer does.
fn begin(node: &Node, key: &str) -> Pending {
    let target = format!("/_groupcache/{GROUP}/{key}");
    let request = Request::new("GET", &target).header("X-Groupcache", "v=1;w=100000");
    match node.begin(&request) {
        Begin::Pending(pending) => pending,
        Begin::Ready(response) => panic!("it is answered {}", response.status()),
    }
}

/// A string whose encoding gets another key first, where there is one to get.
struct Curious(Handle<String>, Option<&'static str>);

impl Codec<String> for Curious {
    fn encode(&self, value: &String) -> Result<Value, CodecError> {
        if let Some(key) = self.1.filter(|key| key != value) {
            self.0.get().unwrap().get(key)?;
        }
        Ok(Value::from(value.as_str()))
    }
    fn decode(&self, bytes: Value) -> Result<String, CodecError> {
        Ok(bytes.as_str()?.to_owned())
    }
    fn weight(&self, value: &String) -> usize {
        value.len()
    }
}

/// A batch of `k1` and `k2` is being loaded while a peer waits for `k1`. Once the batch lands, the
/// callback of the peer's answer sends its status and what it gets for `k2`.
fn callback_of_a_batch(of_encode: Option<&'static str>) -> (u16, Result<String, Error>) {
    let node = node(&Clock::manual());
    let handle: Handle<String> = Handle::default();
    let ((go, gate), (began, has_begun)) = (mpsc::channel::<()>(), mpsc::channel());
    let gate = Mutex::new(gate);
    let group = node
        .group_builder(GROUP, 1 << 20)
        .codec(Curious(Arc::clone(&handle), of_encode))
        .batch_loader(move |keys: &[&str]| {
            began.send(())?;
            let _ = gate.lock().unwrap().recv();
            Ok(named(keys, |key| key.to_owned()))
        })
        .build(|key| Ok(key.to_owned()))
        .unwrap();
    open(&handle, &group);
    let asks = group.clone();
    let many = std::thread::spawn(move || asks.get_many_timeout(&["k1", "k2"], 60 * SECOND));
    has_begun.recv().unwrap();
    let (pending, (sender, told)) = (begin(&node, "k1"), mpsc::channel());
    pending.notify(move |response| drop(sender.send((response.status(), group.get("k2")))));
    drop(go);
    let told = told.recv().unwrap();
    assert!(many.join().unwrap().iter().all(Result::is_ok));
    told
}

/// What a loader of batches returns: each of the keys with its value.
fn named<V>(keys: &[&str], value: impl Fn(&str) -> V) -> HashMap<String, V> {
    let of_key = |key: &&str| ((*key).to_owned(), value(key));
    keys.iter().map(of_key).collect()
}

#[test]
fn a_callback_may_get_another_key_of_the_batch_that_lands() {
    let (status, got) = ends("the callback", || callback_of_a_batch(None));
    assert_eq!((status, got.unwrap().as_str()), (200, "k2"));
}

#[test]
fn an_encode_may_get_another_key_of_the_batch_that_lands() {
    let (status, got) = ends("the encode", || callback_of_a_batch(Some("k2")));
    assert_eq!((status, got.unwrap().as_str()), (200, "k2"));
}

#[test]
fn a_callback_may_get_another_key_of_a_batch_that_is_refused() {
    let work = || {
        let node = narrow();
        let gated = |name: &str, max_loads: usize| {
            let (go, gate) = mpsc::channel::<()>();
            let gate = Mutex::new(gate);
            let group: Group = node
                .group_builder(name, 1 << 20)
                .max_loads(max_loads)
                .batch_loader(|keys: &[&str]| Ok(named(keys, |key| Value::from(key))))
                .build(move |key| {
                    if key == "slow" {
                        let _ = gate.lock().unwrap().recv();
                    }
                    Ok(Value::from(key))
                })
                .unwrap();
            (group, go)
        };
        let ((busy, thread), (group, permit)) = (gated("busy", 8), gated(GROUP, 1));
        let takes_the_thread = {
            let busy = busy.clone();
            std::thread::spawn(move || busy.get_timeout("slow", 60 * SECOND))
        };
        let asks = group.clone();
        let takes_the_seat = std::thread::spawn(move || asks.get("slow"));
        eventually("both load", || {
            busy.stats().loads_running == 1 && group.stats().loads_running == 1
        });
        let asks = group.clone();
        let many = std::thread::spawn(move || asks.get_many_timeout(&["k1", "k2"], 60 * SECOND));
        eventually("the batch is queued", || group.stats().flights == 3);
        let (pending, (sender, told)) = (begin(&node, "k1"), mpsc::channel());
        let asks = group.clone();
        pending.notify(move |_| drop(sender.send(asks.get("k2"))));
        drop(thread);
        let got = told.recv().unwrap();
        assert!(matches!(got, Err(Error::Overloaded)), "{got:?}");
        for outcome in many.join().unwrap() {
            assert!(matches!(outcome, Err(Error::Overloaded)), "{outcome:?}");
        }
        drop(permit);
        takes_the_seat.join().unwrap().unwrap();
        takes_the_thread.join().unwrap().unwrap();
        eventually("no flight is left", || group.stats().flights == 0);
    };
    ends("the callback of a batch that is refused", work);
}

/// What a callback on the only loader thread of a node, told of a value, gets of the group.
fn of_callback_on_the_only_thread<R: Send + 'static>(
    get: impl FnOnce(&Group) -> R + Send + 'static,
) -> R {
    let work = || {
        let node = narrow();
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let group = node
            .group_builder(GROUP, 1 << 20)
            .build(move |key| {
                if key == "k" {
                    let _ = gate.lock().unwrap().recv();
                }
                Ok(Value::from(key))
            })
            .unwrap();
        let (pending, (sender, told)) = (begin(&node, "k"), mpsc::channel());
        pending.notify(move |_| drop(sender.send(get(&group))));
        drop(go);
        told.recv().unwrap()
    };
    ends("the callback", work)
}

#[test]
fn a_callback_on_the_only_loader_thread_may_get_with_a_deadline() {
    let got = of_callback_on_the_only_thread(|group| group.get_timeout("x", SECOND));
    assert_eq!(got.unwrap(), Value::from("x"));
}

#[test]
fn a_listener_on_the_only_loader_thread_may_get_with_a_deadline() {
    let work = || {
        let node = narrow();
        let other: Group = node
            .group_builder("other", 1 << 20)
            .build(|key| Ok(Value::from(key)))
            .unwrap();
        let (sender, told) = mpsc::channel();
        let small: Group = node
            .group_builder("small", 400)
            .shards(1)
            .eviction_listener(move |_, _, _| {
                drop(sender.send(other.get_timeout("x", SECOND)));
            })
            .build(|key| Ok(Value::from(key)))
            .unwrap();
        for number in 0..5 {
            small.get_timeout(&number.to_string(), SECOND).unwrap();
        }
        told.recv().unwrap()
    };
    let got = ends("the listener", work);
    assert_eq!(got.unwrap(), Value::from("x"));
}

#[test]
fn a_listener_told_of_one_key_of_a_batch_may_get_another() {
    let work = || {
        let node = node(&Clock::manual());
        let other: Group = node
            .group_builder("other", 1 << 20)
            .build(|key| Ok(Value::from(key)))
            .unwrap();
        let handle: Handle<Value> = Handle::default();
        let (of_listener, (sender, told)) = (Arc::clone(&handle), mpsc::channel());
        let small = node
            .group_builder("small", 400)
            .shards(1)
            .max_loads(1)
            .eviction_listener(move |_, _, _| {
                drop(sender.send(of_listener.get().unwrap().get("b")));
            })
            .build(move |key| {
                if key == "b" {
                    other.get("z")?; // values that left before it are told of here
                }
                Ok(Value::from(key))
            })
            .unwrap();
        open(&handle, &small);
        for key in ["p", "q", "p", "q"] {
            small.get(key).unwrap();
        }
        small.remove("b").unwrap();
        assert!(small.get_many(&["a", "b"]).iter().all(Result::is_ok));
        told.try_iter().collect::<Vec<_>>()
    };
    let told = ends("the listener", work);
    assert!(
        !told.is_empty() && told.iter().all(Result::is_ok),
        "{told:?}"
    );
}

#[test]
fn a_listener_is_never_told_inside_itself_however_many_values_leave_at_once() {
    thread_local!(static DEPTH: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });
    let node = node(&Clock::manual());
    let handle: Handle<Value> = Handle::default();
    let (deepest, calls) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let listener = || {
        let (handle, deepest, calls) = (
            Arc::clone(&handle),
            Arc::clone(&deepest),
            Arc::clone(&calls),
        );
        move |_: &str, _: &Value, _: EvictionCause| {
            DEPTH.set(DEPTH.get() + 1);
            deepest.fetch_max(DEPTH.get(), Ordering::SeqCst);
            let number = calls.fetch_add(1, Ordering::SeqCst);
            if number < 200 {
                // It makes another value leave.
                let key = format!("n{number}");
                drop(handle.get().unwrap().set(&key, Value::from("x")));
            }
            DEPTH.set(DEPTH.get() - 1);
        }
    };
    let build = |name: &str, bytes: usize| -> Group {
        let builder = node.group_builder(name, bytes).shards(1).hot_bytes(0);
        let builder = builder.eviction_listener(listener());
        builder.build(|key| Ok(Value::from(key))).unwrap()
    };
    let (many, small) = (build("many", 64 << 20), build("small", 1_000));
    open(&handle, &small);
    for number in 0..70_000 {
        many.get(&number.to_string()).unwrap();
    }
    ends("a clear", move || many.clear()).unwrap();
    assert_eq!(deepest.load(Ordering::SeqCst), 1);
    assert!(calls.load(Ordering::SeqCst) > 200);
}

/// A group of wild values whose loader of batches returns also what `more` says. Its weigher panics
/// of those whose name begins with `heavy`.
fn with_unasked(more: &'static [&'static str]) -> (Group<Wild>, Arc<Acts>) {
    let node = node(&Clock::manual());
    let acts = Arc::new(Acts::default());
    let wild = |acts: &Arc<Acts>| {
        let acts = Arc::clone(acts);
        move |key: &str| Wild {
            name: key.to_owned(),
            acts: Arc::clone(&acts),
        }
    };
    let (of_batch, of_loader) = (wild(&acts), wild(&acts));
    let group = node
        .group_builder(GROUP, 1 << 20)
        .codec(ByName(Arc::clone(&acts)))
        .weigher(|value: &Wild| {
            assert!(!value.name.starts_with("heavy"), "cannot be weighed");
            1
        })
        .batch_loader(move |keys: &[&str]| Ok(named(&[keys, more].concat(), &of_batch)))
        .build(move |key| Ok(of_loader(key)))
        .unwrap();
    (group, acts)
}

#[test]
fn a_weigher_that_panics_fails_that_value_of_a_batch_alone() {
    let (group, _) = with_unasked(&["heavy that nobody asked for"]);
    assert!(group.get_many(&["a", "b"]).iter().all(Result::is_ok));
    let many = group.get_many(&["c", "heavy", "d"]);
    assert!(many[0].is_ok() && many[2].is_ok());
    assert!(matches!(many[1], Err(Error::Panicked { .. })));
    assert_eq!(group.stats().flights, 0);
}

#[test]
fn a_weigher_that_panics_of_a_value_whose_drop_panics_fails_its_get_alone() {
    let (group, acts) = with_unasked(&[]);
    let act = |name: &str| assert!(!name.starts_with("heavy"), "cannot be dropped");
    assert!(acts.on_drop.set(Box::new(act)).is_ok());
    let got = group.get("heavy").map(drop);
    assert!(matches!(got, Err(Error::Panicked { .. })), "{got:?}");
    group.get("a").unwrap();
    assert_eq!(group.stats().flights, 0);
}

#[test]
fn values_that_nobody_asked_for_are_all_dropped_though_drops_panic() {
    let (group, acts) = with_unasked(&["bad 1", "good 1", "bad 2", "good 2", "bad 3", "bad 4"]);
    let dropped = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&dropped);
    let act = move |name: &str| {
        if name.contains(' ') {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        assert!(!name.starts_with("bad"), "cannot be dropped");
    };
    assert!(acts.on_drop.set(Box::new(act)).is_ok());
    assert!(group.get_many(&["a", "b"]).iter().all(Result::is_ok));
    assert_eq!(dropped.load(Ordering::SeqCst), 6);
    assert_eq!((group.stats().main_items, group.stats().flights), (2, 0));
}

#[test]
fn a_thread_that_ends_may_still_use_the_cache() {
    struct Last(Group, mpsc::Sender<Vec<Result<Value, Error>>>);
    impl Drop for Last {
        fn drop(&mut self) {
            let group = &self.0;
            let mut told = vec![group.get("c"), group.get_timeout("d", 60 * SECOND)];
            told.extend(group.get_many(&["e", "f"]));
            told.push(group.get("self"));
            let _ = self.1.send(told);
        }
    }
    thread_local!(static LAST: std::cell::RefCell<Option<Last>> = const { std::cell::RefCell::new(None) });
    let node = node(&Clock::manual());
    let handle: Handle<Value> = Handle::default();
    let of_loader = Arc::clone(&handle);
    let group: Group = node
        .group_builder(GROUP, 1 << 20)
        .build(move |key| match key {
            "c" | "e" => Ok(of_loader.get().unwrap().get(&format!("{key} inner"))?),
            "self" => Ok(of_loader.get().unwrap().get("self")?),
            key => Ok(Value::from(key)),
        })
        .unwrap();
    open(&handle, &group);
    let (sender, told) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        // Made first, it goes last: after what the library keeps for this thread.
        LAST.with(|last| *last.borrow_mut() = Some(Last(group.clone(), sender)));
        group.get("a").unwrap();
    });
    thread.join().unwrap();
    let told = told.recv().unwrap();
    assert_eq!(told.len(), 5);
    assert!(told[..4].iter().all(Result::is_ok), "{told:?}");
    assert!(told[4].is_err(), "it waits for itself");
}

#[test]
fn a_callback_on_the_only_loader_thread_may_get_many_with_a_deadline() {
    let many = |group: &Group| group.get_many_timeout(&["x", "y"], SECOND);
    let got = of_callback_on_the_only_thread(many);
    assert!(got.iter().all(Result::is_ok), "{got:?}");
}

#[test]
fn an_answer_that_is_on_its_way_to_its_callback_is_not_given_up() {
    let node = narrow();
    let ((go, gate), (step, steps)) = (mpsc::channel::<()>(), mpsc::channel());
    let gate = Arc::new(Mutex::new(gate));
    let (of_loader, of_weigher) = (Arc::clone(&gate), Arc::clone(&gate));
    let weighs = step.clone();
    let group: Group = node
        .group_builder(GROUP, 1 << 20)
        .weigher(move |value: &Value| {
            if value.as_bytes() == b"b" {
                let _ = weighs.send("b is weighed");
                let _ = of_weigher.lock().unwrap().recv();
            }
            1
        })
        .batch_loader(move |keys: &[&str]| {
            step.send("both load")?;
            of_loader.lock().unwrap().recv()?;
            Ok(named(keys, |key| Value::from(key)))
        })
        .build(|key| Ok(Value::from(key)))
        .unwrap();
    let asks = group.clone();
    let many = std::thread::spawn(move || asks.get_many_timeout(&["a", "b"], 60 * SECOND));
    assert_eq!(steps.recv().unwrap(), "both load");
    let (pending, (sender, told)) = (begin(&node, "a"), mpsc::channel());
    pending.notify(move |response| _ = sender.send(response.status()));
    go.send(()).unwrap();
    assert_eq!(steps.recv().unwrap(), "b is weighed");
    // `a` has landed, and its callback is called once `b` has too: whoever gives up has its value.
    let given_up = pending.give_up().map(|response| response.status());
    assert_eq!(given_up, Some(200));
    let (second, (sender, others)) = (begin(&node, "b"), mpsc::channel());
    second.notify(move |response| _ = sender.send(response.status()));
    drop(go);
    assert_eq!(others.recv().unwrap(), 200);
    assert!(many.join().unwrap().iter().all(Result::is_ok));
    assert!(told.recv().is_err(), "the callback was taken back");
}

#[test]
fn a_slow_listener_keeps_no_answer_from_a_peer() {
    let node = narrow();
    let ((go, gate), (tells, is_told)) = (mpsc::channel::<()>(), mpsc::channel());
    let gate = Mutex::new(gate);
    let small: Group = node
        .group_builder(GROUP, 400)
        .shards(1)
        .hot_bytes(0)
        .eviction_listener(move |_, _, _| {
            let _ = tells.send(());
            let _ = gate.lock().unwrap().recv();
        })
        .build(|key| Ok(Value::from(key)))
        .unwrap();
    for key in ["k1", "k2"] {
        small.get(key).unwrap();
    }
    let (pending, (sender, told)) = (begin(&node, "k3"), mpsc::channel());
    pending.notify(move |response| _ = sender.send(response.status()));
    is_told.recv().unwrap();
    assert_eq!(told.try_recv(), Ok(200), "the listener came first");
    drop(go);
}

#[test]
fn a_slow_drop_keeps_no_answer_from_a_peer() {
    let node = narrow();
    let (group, acts) = wild(&node, 2);
    for key in ["k1", "k2"] {
        group.get(key).unwrap();
    }
    let ((go, gate), (tells, is_told)) = (mpsc::channel::<()>(), mpsc::channel());
    let gate = Mutex::new(gate);
    let act = move |_: &str| {
        let _ = tells.send(());
        let _ = gate.lock().unwrap().recv();
    };
    assert!(acts.on_drop.set(Box::new(act)).is_ok());
    let (pending, (sender, told)) = (begin(&node, "k3"), mpsc::channel());
    pending.notify(move |response| _ = sender.send(response.status()));
    is_told.recv().unwrap();
    assert_eq!(told.try_recv(), Ok(200), "the drop came first");
    drop(go);
}

#[test]
fn a_set_of_a_value_whose_drop_panics_does_what_it_says() {
    let node = node(&Clock::manual());
    let acts = Arc::new(Acts::default());
    let act = |name: &str| assert!(!name.starts_with("doomed"), "cannot be dropped");
    assert!(acts.on_drop.set(Box::new(act)).is_ok());
    let doomed = |name: &str| Wild {
        name: format!("doomed {name}"),
        acts: Arc::clone(&acts),
    };
    let of_weigher = node.clone();
    let group = node
        .group_builder(GROUP, 2_000)
        .codec(ByName(Arc::clone(&acts)))
        .weigher(move |value: &Wild| match value.name.as_str() {
            "doomed by its weight" => panic!("cannot be weighed"),
            "doomed by its size" => 5_000,
            "doomed to be another's" => {
                of_weigher.set_peers((0..20).map(address)).unwrap();
                1
            }
            _ => 1,
        })
        .build(|key| Err(key.into()))
        .unwrap();
    group.set("k", doomed("value")).unwrap();
    assert!(group.try_get("k").map(std::mem::forget).is_some());
    let got = group.set(&"k".repeat(20_000), doomed("value"));
    assert!(matches!(got, Err(Error::KeyTooLong { .. })), "{got:?}");
    let got = group.set("k", doomed("by its weight"));
    assert!(matches!(got, Err(Error::Panicked { .. })), "{got:?}");
    assert!(group.try_get("k").map(std::mem::forget).is_some());
    group.set("k", doomed("by its size")).unwrap();
    assert!(group.try_get("k").is_none(), "an older value is left");
    // It has another owner once it has been weighed, who cannot be reached.
    let owns_none = |key: &String| {
        node.set_peers((0..20).map(address)).unwrap();
        let owner = node.owner(key);
        node.set_peers([address(0)]).unwrap();
        owner.address() != address(0)
    };
    let key = (0..).map(|n| format!("key {n}")).find(owns_none).unwrap();
    let got = group.set(&key, doomed("to be another's"));
    assert!(matches!(got, Err(Error::Unreached { .. })), "{got:?}");
}

#[test]
fn a_value_that_a_peer_sets_leaves_no_old_one_though_it_does_not_fit_and_its_drop_panics() {
    let node = node(&Clock::manual());
    let acts = Arc::new(Acts::default());
    let of_loader = Arc::clone(&acts);
    let group = node
        .group_builder(GROUP, 2_000)
        .codec(ByName(Arc::clone(&acts)))
        .weigher(|value: &Wild| match value.name.as_str() {
            "doomed large" => 5_000,
            "doomed heavy" => panic!("cannot be weighed"),
            _ => 1,
        })
        .build(move |key| {
            Ok(Wild {
                name: key.to_owned(),
                acts: Arc::clone(&of_loader),
            })
        })
        .unwrap();
    let act = |name: &str| assert!(!name.starts_with("doomed"), "cannot be dropped");
    assert!(acts.on_drop.set(Box::new(act)).is_ok());
    let put = |value: &str| {
        let target = format!("/_groupcache/{GROUP}/k");
        let mut body = vec![0x0a, GROUP.len() as u8];
        body.extend(GROUP.as_bytes());
        body.extend([0x12, 1, b'k', 0x1a, value.len() as u8]);
        body.extend(value.as_bytes());
        let request = Request::new("PUT", &target).header("X-Groupcache", "v=1");
        node.answer(&request.body(&body)).status()
    };
    group.get("k").unwrap();
    assert_eq!(put("new"), 200);
    assert_eq!(group.get("k").unwrap().name, "new");
    assert_eq!(put("doomed heavy"), 500);
    assert_eq!(group.get("k").unwrap().name, "new");
    assert_eq!(put("doomed large"), 200);
    assert!(group.try_get("k").is_none());
}

/// Panics when it is dropped, with something that does so too.
struct Grumpy(usize);

impl Drop for Grumpy {
    fn drop(&mut self) {
        if let Some(left) = self.0.checked_sub(1) {
            std::panic::panic_any(Grumpy(left));
        }
    }
}

impl std::fmt::Debug for Grumpy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Grumpy")
    }
}

impl std::fmt::Display for Grumpy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no database")
    }
}

impl std::error::Error for Grumpy {}

#[test]
fn an_error_whose_drop_panics_ends_no_loader_thread() {
    let clock = Clock::manual();
    let builder = Network::new().builder(address(0)).unwrap();
    let builder = builder.clock(clock.clone()).loader_threads(1);
    let node = builder.build().unwrap();
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let group: Group = node
        .group_builder(GROUP, 1_000) // too little room to remember the error
        .build(move |key| match key {
            "bad" => {
                let _ = gate.lock().unwrap().recv();
                Err(Grumpy(2))?
            }
            key => Ok(Value::from(key)),
        })
        .unwrap();
    let asks = group.clone();
    let late = std::thread::spawn(move || asks.get_timeout("bad", SECOND));
    eventually("it loads", || group.stats().loads_running == 1);
    eventually("it waits", || clock.sleepers() == 1);
    clock.advance(2 * SECOND);
    let got = late.join().unwrap();
    assert!(matches!(got, Err(Error::Deadline)), "{got:?}");
    drop(go); // nobody waits for the error: the loader thread drops it
    let asks = group.clone();
    let got = ends("a load after it", move || asks.get_timeout("good", SECOND));
    assert_eq!(got.unwrap(), Value::from("good"));
    assert_eq!((group.stats().flights, group.stats().loads_running), (0, 0));
}

#[test]
fn a_loader_may_have_its_node_leave_however_long_that_may_take() {
    let node = narrow();
    let of_loader = node.clone();
    let group: Group = node
        .group_builder(GROUP, 1 << 20)
        .build(move |key| {
            of_loader.leave(Duration::MAX)?;
            Ok(Value::from(key))
        })
        .unwrap();
    let got = ends("a load that leaves", move || group.get_timeout("k", SECOND));
    assert_eq!(got.unwrap(), Value::from("k"));
}

#[test]
fn a_drop_of_what_cannot_be_weighed_may_get_others_of_its_batch() {
    let (group, acts) = with_unasked(&[]);
    let (of_drop, once) = (group.clone(), AtomicBool::new(false));
    let (sender, told) = mpsc::channel();
    let act = move |name: &str| {
        if name == "heavy" && !once.swap(true, Ordering::SeqCst) {
            let got = of_drop.get_many(&["b", "x"]);
            let _ = sender.send(got.iter().all(Result::is_ok));
        }
    };
    assert!(acts.on_drop.set(Box::new(act)).is_ok());
    let asks = group.clone();
    let got = ends("a batch", move || asks.get_many(&["heavy", "b"]));
    assert!(matches!(got[0], Err(Error::Panicked { .. })) && got[1].is_ok());
    assert!(told.recv().unwrap(), "it got all");
    assert_eq!(group.stats().flights, 0);
}
