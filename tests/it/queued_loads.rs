//! Loads that wait for a thread of the pool: who waits for them only waits. Nobody leads them, so
//! nobody's deadline, death or departure harms the others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use groupcache_sync::{
    Begin, Clock, Codec, CodecError, Deadline, Error, Group, Load, LoadError, Loaded, Loader, Node,
    Pending, Request, Source, Value,
};

use crate::cluster::{Cluster, GROUP, address, ends, eventually, value_of};

const SECOND: Duration = Duration::from_secs(1);

/// A node with one loader thread on a clock that stands still. Its loader waits for keys that begin
/// with `b` until it is let go.
struct Narrow {
    node: Node,
    group: Group,
    clock: Clock,
    go: mpsc::Sender<()>,
    loads: Arc<AtomicUsize>,
}

fn narrow() -> Narrow {
    let clock = Clock::manual();
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let node = builder
        .loader_threads(1)
        .clock(clock.clone())
        .build()
        .unwrap();
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let loads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&loads);
    let group = node
        .group_builder("g", 1 << 20)
        .build(move |key| {
            count.fetch_add(1, Ordering::SeqCst);
            if key.starts_with('b') {
                let _ = gate.lock().unwrap().recv();
            }
            Ok(value_of(key))
        })
        .unwrap();
    Narrow {
        node,
        group,
        clock,
        go,
        loads,
    }
}

impl Narrow {
    /// Takes the only thread of the pool, until the sender is used or dropped.
    fn block(&self) -> Pending {
        let pending = begin(&self.node, "blocks", 100_000);
        eventually("the thread is taken", || {
            self.loads.load(Ordering::SeqCst) == 1
        });
        pending
    }
}

fn begin(node: &Node, key: &str, patience: u64) -> Pending {
    let target = format!("/_groupcache/g/{key}");
    let header = format!("v=1;w={patience}");
    let request = Request::new("GET", &target).header("X-Groupcache", &header);
    pending(node.begin(&request))
}

fn pending(begun: Begin) -> Pending {
    match begun {
        Begin::Pending(pending) => pending,
        Begin::Ready(response) => panic!("it is answered {}", response.status()),
    }
}

/// The command that asks for these keys, as `docs/PROTOCOL.md` has it.
fn batch_of<K: AsRef<str>>(keys: &[K]) -> Vec<u8> {
    let mut body = Vec::new();
    for key in keys {
        let key = key.as_ref();
        body.extend([0x1a, key.len() as u8]);
        body.extend(key.as_bytes());
    }
    body
}

fn begin_batch<K: AsRef<str>>(node: &Node, keys: &[K], patience: u64) -> Begin {
    let (header, body) = (format!("v=1;w={patience}"), batch_of(keys));
    let request = Request::new("POST", "/_groupcache/g").header("X-Groupcache", &header);
    node.begin(&request.body(&body))
}

/// Fails if it has less time than it wants.
struct Careful {
    gate: Mutex<mpsc::Receiver<()>>,
    clock: Clock,
    seen: mpsc::Sender<Option<Duration>>,
}

impl Loader<Value> for Careful {
    fn load(&self, load: &Load<'_>) -> Result<Loaded<Value>, LoadError> {
        if load.key() == "blocks" {
            let _ = self.gate.lock().unwrap().recv();
        } else {
            let left = load.deadline().remaining(self.clock.now());
            self.seen.send(left)?;
            if load.key() == "slow" {
                let _ = self.gate.lock().unwrap().recv();
            }
            if load.deadline().is_past(self.clock.now()) {
                return Err("no time left".into());
            }
        }
        Ok(value_of(load.key()).into())
    }
}

struct CarefulNode {
    group: Group,
    clock: Clock,
    go: mpsc::Sender<()>,
    seen: mpsc::Receiver<Option<Duration>>,
    _node: Node,
}

fn careful() -> CarefulNode {
    let clock = Clock::manual();
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let node = builder
        .loader_threads(1)
        .clock(clock.clone())
        .build()
        .unwrap();
    let ((go, gate), (seen, is_seen)) = (mpsc::channel(), mpsc::channel());
    let loader = Careful {
        gate: Mutex::new(gate),
        clock: clock.clone(),
        seen,
    };
    let group = node.group_builder("g", 1 << 20).build_with(loader).unwrap();
    CarefulNode {
        group,
        clock,
        go,
        seen: is_seen,
        _node: node,
    }
}

#[test]
fn a_load_that_begins_late_has_the_latest_deadline_of_those_who_still_wait() {
    let careful = careful();
    let (group, clock) = (&careful.group, &careful.clock);
    std::thread::scope(|scope| {
        let blocks = scope.spawn(|| group.get_timeout("blocks", 100 * SECOND));
        eventually("the thread is taken", || group.stats().loads_running == 1);
        let short = scope.spawn(|| group.get_timeout("k", SECOND));
        eventually("it is queued", || group.stats().flights == 2);
        let long = scope.spawn(|| group.get_timeout("k", 10 * SECOND));
        eventually("all wait", || clock.sleepers() == 3);
        clock.advance(2 * SECOND);
        assert!(matches!(short.join().unwrap(), Err(Error::Overloaded)));
        careful.go.send(()).unwrap();
        assert_eq!(careful.seen.recv().unwrap(), Some(8 * SECOND));
        assert_eq!(long.join().unwrap().unwrap(), value_of("k"));
        blocks.join().unwrap().unwrap();
    });
    assert_eq!(group.stats().flights, 0);
}

#[test]
fn a_load_that_fails_after_its_own_deadline_runs_again_for_those_with_time_left() {
    let careful = careful();
    let (group, clock) = (&careful.group, &careful.clock);
    std::thread::scope(|scope| {
        let short = scope.spawn(|| group.get_timeout("slow", SECOND));
        assert_eq!(careful.seen.recv().unwrap(), Some(SECOND));
        let long = scope.spawn(|| group.get_timeout("slow", 10 * SECOND));
        eventually("both wait", || clock.sleepers() == 2);
        clock.advance(2 * SECOND);
        assert!(matches!(short.join().unwrap(), Err(Error::Deadline)));
        careful.go.send(()).unwrap(); // the first run ends, and finds that its time is up
        assert_eq!(careful.seen.recv().unwrap(), Some(8 * SECOND));
        careful.go.send(()).unwrap();
        assert_eq!(long.join().unwrap().unwrap(), value_of("slow"));
    });
    let stats = group.stats();
    assert_eq!((stats.loads, stats.load_errors, stats.flights), (2, 1, 0));
}

#[test]
fn a_timeout_of_zero_on_a_miss_is_the_deadline_and_begins_nothing() {
    let narrow = narrow();
    let group = &narrow.group;
    let error = group.get_timeout("k", Duration::ZERO).unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error:?}");
    for outcome in group.get_many_timeout(&["k", "l"], Duration::ZERO) {
        assert!(matches!(outcome, Err(Error::Deadline)), "{outcome:?}");
    }
    assert_eq!((group.stats().loads, group.stats().flights), (0, 0));
    group.get("k").unwrap();
    assert!(group.get_timeout("k", Duration::ZERO).is_ok());
}

#[test]
fn loads_that_nobody_waits_for_any_more_leave_the_queue_and_do_not_run() {
    let narrow = narrow();
    let blocks = narrow.block();
    let keys: Vec<String> = (0..1_024).map(|number| format!("k{number}")).collect();
    let batches: Vec<_> = (0..8)
        .map(|_| begin_batch(&narrow.node, &keys, 100_000))
        .collect();
    let single = begin(&narrow.node, "k7", 100_000);
    assert_eq!(
        narrow.group.stats().flights,
        1_025,
        "each key is queued once"
    );
    drop(batches);
    assert_eq!(narrow.group.stats().flights, 2, "one is still waited for");
    drop(single);
    assert_eq!(narrow.group.stats().flights, 1);
    narrow.go.send(()).unwrap();
    assert_eq!(blocks.wait().status(), 200);
    assert_eq!(narrow.loads.load(Ordering::SeqCst), 1);
}

#[test]
fn no_more_keys_wait_for_the_pool_than_it_has_room_for() {
    let narrow = narrow();
    let blocks = narrow.block();
    let batch = |number: usize| {
        let keys: Vec<String> = (0..1_024).map(|key| format!("k{number}-{key}")).collect();
        begin_batch(&narrow.node, &keys, 100_000)
    };
    let batches: Vec<_> = (0..40).map(batch).collect();
    let queued = narrow.group.stats().flights;
    assert!((1_024..=16_385).contains(&queued), "{queued}");
    let refused = begin(&narrow.node, "more", 100_000).wait();
    assert_eq!(refused.status(), 503);
    // The application itself finds room all the same.
    std::thread::scope(|scope| {
        let own = scope.spawn(|| narrow.group.get_timeout("own", SECOND));
        eventually("it is queued", || {
            narrow.group.stats().flights == queued + 1
        });
        narrow.clock.advance(SECOND);
        assert!(matches!(own.join().unwrap(), Err(Error::Overloaded)));
    });
    assert_eq!(
        narrow.group.get("one that needs no thread").unwrap(),
        value_of("one that needs no thread")
    );
    drop(batches);
    assert_eq!(narrow.group.stats().flights, 1);
    let next = begin(&narrow.node, "k", 100_000);
    narrow.go.send(()).unwrap();
    assert_eq!((blocks.wait().status(), next.wait().status()), (200, 200));
}

#[test]
fn a_load_that_waits_for_a_thread_is_loading_and_keeps_its_place_until_it_is_asked_for_again() {
    let narrow = narrow();
    let blocks = narrow.block();
    let early = begin(&narrow.node, "early", 500);
    narrow.clock.advance(SECOND);
    assert_eq!(early.wait().status(), 202, "loading");
    let late = begin(&narrow.node, "late", 100_000);
    assert_eq!(narrow.group.stats().flights, 3);
    let again = begin(&narrow.node, "early", 100_000);
    let (sender, order) = mpsc::channel();
    for (name, pending) in [("early", &again), ("late", &late)] {
        let sender = sender.clone();
        pending.notify(move |response| sender.send((name, response.status())).unwrap());
    }
    narrow.go.send(()).unwrap();
    assert_eq!(order.recv().unwrap(), ("early", 200), "it had come first");
    assert_eq!(order.recv().unwrap(), ("late", 200));
    drop((blocks, again, late));
}

#[test]
fn a_load_whose_asker_does_not_come_back_leaves_the_queue_after_a_while() {
    let narrow = narrow();
    let blocks = narrow.block();
    let asked = begin(&narrow.node, "k", 500);
    narrow.clock.advance(SECOND);
    assert_eq!(asked.wait().status(), 202, "loading");
    eventually("it is given up", || {
        if narrow.clock.sleepers() > 0 {
            narrow.clock.advance(SECOND);
        }
        narrow.group.stats().flights == 1
    });
    narrow.go.send(()).unwrap();
    drop(blocks);
    let group = &narrow.group;
    assert_eq!(group.get("k").unwrap(), value_of("k"));
    assert_eq!(narrow.loads.load(Ordering::SeqCst), 2);
}

/// Nodes of which the first has one loader thread, which is inside a load until the sender goes.
fn with_a_busy_owner(size: usize) -> (Cluster, mpsc::Sender<()>, Pending) {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let cluster = Cluster::with(
        size,
        Clock::manual(),
        |node| node.loader_threads(1),
        |group| group,
        move |key| {
            if key == "blocks" {
                let _ = gate.lock().unwrap().recv();
            }
            Ok(value_of(key))
        },
    );
    let target = format!("/_groupcache/{GROUP}/blocks");
    let request = Request::new("GET", &target).header("X-Groupcache", "v=1;w=3600000");
    let blocks = pending(cluster.nodes[0].begin(&request));
    eventually("the thread is taken", || cluster.loads.all() == 1);
    (cluster, go, blocks)
}

/// Two nodes ask the busy one for the same. Each waits `patience` before it asks again.
fn asks_again(patience: Duration, ask: impl Fn(&Group, &[String]) + Sync) {
    let (cluster, go, blocks) = with_a_busy_owner(3);
    let owned = |key: &String| cluster.nodes[0].owner(key).address() == address(0);
    let keys = (0..).map(|number| format!("key {number}"));
    let keys: Vec<String> = keys.filter(owned).take(8).collect();
    std::thread::scope(|scope| {
        for group in &cluster.groups[1..] {
            let (ask, keys) = (&ask, &keys);
            scope.spawn(move || ask(group, keys));
        }
        cluster.advance_when(2, patience);
        for _ in 0..20 {
            // They and the keeper of the owner, which looks whether they come back.
            cluster.advance_when(3, patience);
        }
        assert_eq!(cluster.loads.all(), 1);
        drop(go);
    });
    for key in &keys {
        assert!(
            cluster.loads.of(key) <= 1,
            "{key} was loaded more than once"
        );
    }
    drop(blocks);
}

#[test]
fn a_slow_load_is_not_multiplied_where_the_pool_of_its_owner_is_busy() {
    asks_again(SECOND / 2, |group, keys| {
        assert_eq!(group.get(&keys[0]).unwrap(), value_of(&keys[0]));
    });
    asks_again(SECOND / 8, |group, keys| {
        for (key, value) in keys.iter().zip(group.get_many(keys)) {
            assert_eq!(value.unwrap(), value_of(key));
        }
    });
}

#[test]
fn one_who_alone_wants_a_load_that_does_not_begin_in_time_loads_itself() {
    let (cluster, go, blocks) = with_a_busy_owner(2);
    let key = cluster.key_owned_by(0);
    let (owner, asker) = (&cluster.groups[0], &cluster.groups[1]);
    std::thread::scope(|scope| {
        let get = scope.spawn(|| asker.get_entry(&key, Deadline::NEVER).unwrap());
        cluster.advance_when(1, SECOND / 2);
        let got = get.join().unwrap();
        assert_eq!((got.value, got.source), (value_of(&key), Source::Load));
    });
    assert_eq!(owner.stats().flights, 1, "only what blocks");
    drop(go);
    assert_eq!(blocks.wait().status(), 200);
    assert_eq!(cluster.loads.of(&key), 1);
}

#[test]
fn many_may_wait_for_one_queued_load_and_the_first_may_go() {
    let narrow = narrow();
    let blocks = narrow.block();
    let first = begin(&narrow.node, "k", 1);
    let answered = Arc::new(AtomicUsize::new(0));
    let others: Vec<_> = (0..20_000)
        .map(|_| {
            let pending = begin(&narrow.node, "k", 100_000);
            let answered = Arc::clone(&answered);
            pending.notify(move |response| {
                answered.fetch_add(usize::from(response.status() == 200), Ordering::SeqCst);
            });
            pending
        })
        .collect();
    narrow.clock.advance(SECOND);
    assert_eq!(first.wait().status(), 202);
    narrow.go.send(()).unwrap();
    assert_eq!(blocks.wait().status(), 200);
    eventually("all have their answer", || {
        answered.load(Ordering::SeqCst) == others.len()
    });
    assert_eq!(narrow.loads.load(Ordering::SeqCst), 2);
}

#[test]
fn a_key_that_stands_in_a_batch_a_thousand_times_is_waited_for_once_and_answered_each_time() {
    let narrow = narrow();
    let blocks = narrow.block();
    let keys = vec!["k"; 1_024];
    let batch = pending(begin_batch(&narrow.node, &keys, 100_000));
    assert_eq!(narrow.group.stats().flights, 2);
    narrow.go.send(()).unwrap();
    assert_eq!(blocks.wait().status(), 200);
    let body = batch.wait().body().concat();
    let value = value_of("k");
    let found = body
        .windows(value.len())
        .filter(|window| *window == value.as_bytes());
    assert_eq!(found.count(), keys.len());
    assert_eq!(narrow.loads.load(Ordering::SeqCst), 2);
}

/// A group whose loader gets other keys of the group, with or without a deadline.
fn nested(
    threads: usize,
    inner: impl Fn(&Group) -> Result<Value, Error> + Send + Sync + 'static,
) -> (Node, Group) {
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let node = builder.loader_threads(threads).build().unwrap();
    let handle: Arc<OnceLock<Group>> = Arc::default();
    let of_loader = Arc::clone(&handle);
    let group = node
        .group_builder("g", 1 << 20)
        .build(move |key| match key {
            "outer" => Ok(inner(of_loader.get().unwrap())?),
            "middle" => Ok(of_loader.get().unwrap().get_timeout("inner", 60 * SECOND)?),
            _ => Ok(value_of(key)),
        })
        .unwrap();
    handle.set(group.clone()).unwrap();
    (node, group)
}

#[test]
fn a_get_inside_a_loader_keeps_its_deadline() {
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let clock = Clock::manual();
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let node = builder.clock(clock.clone()).build().unwrap();
    let handle: Arc<OnceLock<Group>> = Arc::default();
    let of_loader = Arc::clone(&handle);
    let (told, is_told) = mpsc::channel();
    let group = node
        .group_builder("g", 1 << 20)
        .build(move |key| {
            if key == "inner" {
                let _ = gate.lock().unwrap().recv();
            } else {
                let inner = of_loader.get().unwrap().get_timeout("inner", SECOND);
                told.send(inner)?;
            }
            Ok(value_of(key))
        })
        .unwrap();
    handle.set(group.clone()).unwrap();
    std::thread::scope(|scope| {
        let outer = scope.spawn(|| group.get("outer"));
        eventually("the inner load has begun", || group.stats().loads == 2);
        eventually("the outer one waits", || clock.sleepers() == 1);
        clock.advance(2 * SECOND);
        let inner = is_told.recv().unwrap();
        assert!(matches!(inner, Err(Error::Deadline)), "{inner:?}");
        assert_eq!(outer.join().unwrap().unwrap(), value_of("outer"));
    });
    go.send(()).unwrap();
    eventually("the inner load ends and its value is kept", || {
        group.try_get("inner").is_some()
    });
}

#[test]
fn gets_with_deadlines_inside_loaders_do_not_need_a_thread_of_the_pool_each() {
    let inner = |group: &Group| group.get_timeout("middle", 60 * SECOND);
    let (node, group) = nested(1, inner);
    assert_eq!(
        group.get_timeout("outer", 60 * SECOND).unwrap(),
        value_of("inner")
    );
    eventually("one thread is left", || {
        let stats = node.stats();
        stats.loader_threads == 1 && stats.loader_threads_busy == 0
    });
}

/// Counts how often it encodes.
#[derive(Clone)]
struct Counting(Arc<AtomicUsize>);

impl Codec<u32> for Counting {
    fn encode(&self, value: &u32) -> Result<Value, CodecError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Value::from(value.to_string()))
    }

    fn decode(&self, bytes: Value) -> Result<u32, CodecError> {
        Ok(bytes.as_str()?.parse()?)
    }

    fn weight(&self, _: &u32) -> usize {
        4
    }
}

#[test]
fn one_load_is_encoded_once_for_all_peers_that_wait() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let encoded = Arc::new(AtomicUsize::new(0));
    let _group = node
        .group_builder("g", 1 << 20)
        .codec(Counting(Arc::clone(&encoded)))
        .build(move |_| {
            let _ = gate.lock().unwrap().recv();
            Ok(7)
        })
        .unwrap();
    let waiting: Vec<_> = (0..20).map(|_| begin(&node, "k", 100_000)).collect();
    go.send(()).unwrap();
    for pending in waiting {
        assert_eq!(pending.wait().status(), 200);
    }
    assert_eq!(encoded.load(Ordering::SeqCst), 1);
}

#[test]
fn a_callback_that_panics_or_takes_its_time_keeps_no_thread_waiting_and_fails_nobody() {
    let narrow = narrow();
    let (node, group) = (&narrow.node, &narrow.group);
    std::thread::scope(|scope| {
        let leader = scope.spawn(|| group.get("b"));
        eventually("it loads", || narrow.loads.load(Ordering::SeqCst) == 1);
        let panics = begin(node, "b", 100_000);
        panics.notify(|_| panic!("the receiver is gone"));
        let waiter = scope.spawn(|| group.get("b"));
        eventually("it waits", || group.stats().joined == 1);
        // This one is called by the thread that led, and ends only when the others have their value.
        let (done, is_done) = mpsc::channel::<()>();
        let is_done = Mutex::new(is_done);
        let takes_time = begin(node, "b", 100_000);
        takes_time.notify(move |_| {
            let _ = is_done.lock().unwrap().recv();
        });
        narrow.go.send(()).unwrap();
        assert_eq!(waiter.join().unwrap().unwrap(), value_of("b"));
        done.send(()).unwrap();
        assert_eq!(leader.join().unwrap().unwrap(), value_of("b"));
    });
    assert_eq!(group.stats().flights, 0);
}

#[test]
fn many_keys_without_a_deadline_run_what_others_have_queued() {
    let narrow = narrow();
    let blocks = narrow.block();
    let queued = begin(&narrow.node, "k", 100_000);
    assert_eq!(narrow.group.stats().flights, 2);
    let group = narrow.group.clone();
    let many = ends("a get_many behind a load that takes long", move || {
        group.get_many(&["k", "l"])
    });
    for (key, value) in ["k", "l"].iter().zip(many) {
        assert_eq!(value.unwrap(), value_of(key));
    }
    assert_eq!(queued.wait().status(), 200);
    narrow.go.send(()).unwrap();
    assert_eq!(blocks.wait().status(), 200);
    assert_eq!(narrow.loads.load(Ordering::SeqCst), 3);
}

#[test]
fn many_keys_with_a_deadline_begin_nothing_after_it() {
    let clock = Clock::manual();
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let node = builder.loader_threads(8).clock(clock.clone());
    let node = node.build().unwrap();
    let ((go, gate), (began, has_begun)) = (mpsc::channel::<()>(), mpsc::channel());
    let gate = Mutex::new(gate);
    let group: Group = node
        .group_builder("g", 64 << 20)
        .batch_loader(move |keys: &[&str]| {
            began.send(())?;
            let _ = gate.lock().unwrap().recv();
            let found = keys.iter().map(|&key| (key.to_owned(), value_of(key)));
            Ok(found.collect::<HashMap<_, _>>())
        })
        .build(|key| Ok(value_of(key)))
        .unwrap();
    let keys: Vec<String> = (0..8_000).map(|number| number.to_string()).collect();
    let asks = group.clone();
    let many = std::thread::spawn(move || asks.get_many_timeout(&keys, SECOND));
    has_begun.recv_timeout(30 * SECOND).unwrap();
    eventually("the caller waits", || clock.sleepers() == 1);
    clock.advance(2 * SECOND);
    for outcome in ends("many keys", move || many.join().unwrap()) {
        assert!(
            matches!(outcome, Err(Error::Deadline | Error::Overloaded)),
            "{outcome:?}"
        );
    }
    drop(go);
    eventually("no flight is left", || group.stats().flights == 0);
    assert_eq!(has_begun.try_iter().count(), 0, "a batch began late");
}

#[test]
fn a_load_that_fails_later_than_its_callers_wait_runs_twice_in_a_row_at_most() {
    let clock = Clock::manual();
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let node = builder.loader_threads(1).clock(clock.clone());
    let node = node.build().unwrap();
    let ((go, gate), (began, has_begun)) = (mpsc::channel::<()>(), mpsc::channel());
    let gate = Mutex::new(gate);
    let group: Group = node
        .group_builder("g", 1 << 20)
        .build(move |_| {
            began.send(())?;
            let _ = gate.lock().unwrap().recv();
            Err("the database is down".into())
        })
        .unwrap();
    let ask = |timeout| {
        let (asks, (sender, outcome)) = (group.clone(), mpsc::channel());
        std::thread::spawn(move || sender.send(asks.get_timeout("k", timeout)));
        outcome
    };
    let (begins, patience) = (|| has_begun.recv_timeout(30 * SECOND), 30 * SECOND);
    let first = ask(SECOND);
    begins().unwrap();
    let (second, third) = (ask(3 * SECOND), ask(4 * SECOND));
    eventually("they wait", || clock.sleepers() == 3);
    clock.advance(2 * SECOND);
    let late = first.recv_timeout(patience).unwrap();
    assert!(matches!(late, Err(Error::Deadline)), "{late:?}");
    go.send(()).unwrap(); // the first run fails after its deadline
    begins().unwrap();
    let fourth = ask(1_000 * SECOND); // later than the deadline that the second run has
    eventually("they and the keeper wait", || clock.sleepers() == 4);
    clock.advance(3 * SECOND);
    for late in [second, third] {
        let late = late.recv_timeout(patience).unwrap();
        assert!(matches!(late, Err(Error::Deadline)), "{late:?}");
    }
    go.send(()).unwrap(); // and so does the second
    let told = fourth.recv_timeout(patience).unwrap();
    assert!(matches!(told, Err(Error::Load { .. })), "{told:?}");
    assert_eq!((group.stats().loads, group.stats().flights), (2, 0));
}

#[test]
fn a_place_that_is_left_while_the_keeper_is_at_a_slow_listener_is_given_up_too() {
    let clock = Clock::manual();
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let node = builder.loader_threads(1).clock(clock.clone());
    let node = node.build().unwrap();
    let ((go, gate), (listened, listens)) = (mpsc::channel::<()>(), mpsc::channel::<()>());
    let (gate, listens) = (Mutex::new(gate), Mutex::new(listens));
    let (told, is_told) = mpsc::channel();
    let group: Group = node
        .group_builder("g", 1 << 20)
        .eviction_listener(move |_, _, _| {
            let _ = told.send(());
            let _ = listens.lock().unwrap().recv();
        })
        .build(move |key| {
            if key == "blocks" {
                let _ = gate.lock().unwrap().recv();
            }
            Ok(value_of(key))
        })
        .unwrap();
    let blocks = begin(&node, "blocks", 1_000_000);
    eventually("the thread is taken", || group.stats().loads_running == 1);
    let short = Loaded::new(value_of("short")).ttl(SECOND);
    group.set("short", short).unwrap();
    eventually("the keeper is at the listener", || {
        if clock.sleepers() > 0 {
            clock.advance(SECOND);
        }
        is_told.try_recv().is_ok()
    });
    assert!(begin(&node, "k", 1_000).give_up().is_some());
    assert_eq!(group.stats().flights, 2);
    drop(listened);
    eventually("it is given up", || {
        if clock.sleepers() > 0 {
            clock.advance(SECOND);
        }
        group.stats().flights == 1
    });
    drop((go, blocks));
}

#[test]
fn a_loader_on_the_only_thread_may_ask_its_node_as_a_handler_does() {
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let node = builder.loader_threads(1).clock(Clock::manual());
    let node = node.build().unwrap();
    let handle: Arc<OnceLock<Node>> = Arc::default();
    let of_loader = Arc::clone(&handle);
    let group: Group = node
        .group_builder("g", 1 << 20)
        .build(move |key| {
            if key == "inner" {
                return Ok(value_of(key));
            }
            let request = Request::new("GET", "/_groupcache/g/inner");
            let request = request.header("X-Groupcache", "v=1;w=1000");
            let response = of_loader.get().unwrap().answer(&request);
            Ok(Value::from(response.status().to_string()))
        })
        .unwrap();
    assert!(handle.set(node).is_ok());
    let got = ends("a load that asks its node", move || {
        group.get_timeout("outer", SECOND)
    });
    assert_eq!(got.unwrap(), Value::from("200"));
}

#[test]
fn a_loader_that_removes_and_gets_its_own_key_gets_a_cycle() {
    let node = Node::new("http://127.0.0.1:1").unwrap();
    let handle: Arc<OnceLock<Group>> = Arc::default();
    let (of_loader, (sender, told)) = (Arc::clone(&handle), mpsc::channel());
    let once = AtomicUsize::new(0);
    let group: Group = node
        .group_builder("g", 1 << 20)
        .build(move |key| {
            if once.fetch_add(1, Ordering::SeqCst) < 50 {
                let group = of_loader.get().unwrap();
                group.remove(key)?;
                drop(sender.send(group.get(key)));
            }
            Ok(value_of(key))
        })
        .unwrap();
    handle.set(group.clone()).unwrap();
    let asks = group.clone();
    let got = ends("a get of itself", move || asks.get("k"));
    assert_eq!(got.unwrap(), value_of("k"));
    let told: Vec<_> = told.try_iter().collect();
    assert!(matches!(told[..], [Err(Error::Cycle)]), "{told:?}");
    assert_eq!(group.stats().flights, 0);
}

/// A node with one loader thread, and a group with room for `max_loads` whose loads of `outer` get
/// `inner` with a deadline, once they are let go. Loads of keys that begin with `b` never end before
/// the sender is dropped.
fn nesting(max_loads: usize) -> (Node, Group, [mpsc::Sender<()>; 2]) {
    let builder = Node::builder("http://127.0.0.1:1").unwrap();
    let node = builder.loader_threads(1).clock(Clock::manual());
    let node = node.build().unwrap();
    let handle: Arc<OnceLock<Group>> = Arc::default();
    let of_loader = Arc::clone(&handle);
    let ((go, gate), (end, ends)) = (mpsc::channel::<()>(), mpsc::channel::<()>());
    let (gate, ends) = (Mutex::new(gate), Mutex::new(ends));
    let group = node
        .group_builder("g", 1 << 20)
        .max_loads(max_loads)
        .build(move |key| {
            if key == "outer" {
                let _ = gate.lock().unwrap().recv();
                return Ok(of_loader.get().unwrap().get_timeout("inner", SECOND)?);
            }
            if key.starts_with('b') {
                let _ = ends.lock().unwrap().recv();
            }
            Ok(value_of(key))
        })
        .unwrap();
    handle.set(group.clone()).unwrap();
    (node, group, [go, end])
}

#[test]
fn a_load_that_another_one_waits_for_goes_before_all_that_were_queued_with_it() {
    let (node, group, [go, end]) = nesting(8);
    let asks = group.clone();
    let outer = std::thread::spawn(move || asks.get_timeout("outer", SECOND));
    eventually("it loads", || group.stats().loads_running == 1);
    let slow = begin(&node, "b1", 100_000);
    let inner = begin(&node, "inner", 100_000);
    drop(go);
    let got = ends("the outer load", move || outer.join().unwrap());
    assert_eq!(got.unwrap(), value_of("inner"));
    assert_eq!(ends("an answer", move || inner.wait().status()), 200);
    drop(end);
    assert_eq!(ends("an answer", move || slow.wait().status()), 200);
    eventually("no load is left", || {
        (group.stats().flights, group.stats().loads_running) == (0, 0)
    });
}

#[test]
fn a_load_that_another_one_of_its_batch_waits_for_does_not_wait_for_that_one() {
    let (_node, group, [go, _end]) = nesting(1);
    drop(go);
    let asks = group.clone();
    let got = ends("a batch", move || {
        asks.get_many_timeout(&["outer", "inner"], SECOND)
    });
    assert!(got.iter().all(Result::is_ok), "{got:?}");
    let stats = group.stats();
    assert_eq!((stats.overloads, stats.flights, stats.loads), (0, 0, 2));
}
