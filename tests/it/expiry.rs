//! Values past their expiry: that they leave, serve while they are renewed, or stand in.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use groupcache_sync::{
    Clock, Deadline, Error, EvictionCause, Group, LoadError, Network, Node, Source, Value,
};

use crate::cluster::{Cluster, GROUP, address, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// A node whose loader numbers its loads, and can be made to fail, find nothing or wait.
struct Fixture {
    clock: Clock,
    group: Group,
    loads: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    finds: Arc<AtomicBool>,
    gate: mpsc::Sender<()>,
    is_gated: Arc<AtomicBool>,
    _node: Node,
}

impl Fixture {
    fn new(revalidate: Duration, if_error: Duration) -> Fixture {
        let clock = Clock::manual();
        let network = Network::new();
        let node = network.builder(address(0)).unwrap();
        let node = node.clock(clock.clone()).build().unwrap();
        let loads = Arc::new(AtomicUsize::new(0));
        let flag = || Arc::new(AtomicBool::new(false));
        let (fails, finds, is_gated) = (flag(), Arc::new(AtomicBool::new(true)), flag());
        let (gate, opened) = mpsc::channel();
        let opened = std::sync::Mutex::new(opened);
        let (count, failing, finding, gated) = (
            Arc::clone(&loads),
            Arc::clone(&fails),
            Arc::clone(&finds),
            Arc::clone(&is_gated),
        );
        let group = node
            .group_builder(GROUP, 1 << 20)
            .ttl(10 * SECOND)
            .stale_while_revalidate(revalidate)
            .stale_if_error(if_error)
            .build(move |_| {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                if gated.load(Ordering::SeqCst) {
                    opened.lock().unwrap().recv().unwrap();
                }
                if failing.load(Ordering::SeqCst) {
                    return Err("the database is unreachable".into());
                }
                if !finding.load(Ordering::SeqCst) {
                    return Err(LoadError::NotFound);
                }
                Ok(Value::from(number.to_string()))
            });
        Fixture {
            clock,
            group: group.unwrap(),
            loads,
            fails,
            finds,
            gate,
            is_gated,
            _node: node,
        }
    }

    fn get(&self) -> (String, Source) {
        let got = self.group.get_entry("k", Deadline::NEVER).unwrap();
        (got.value.as_str().unwrap().to_owned(), got.source)
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

fn seen(value: &str, source: Source) -> (String, Source) {
    (value.to_owned(), source)
}

#[test]
fn a_stale_value_serves_while_one_load_renews_it() {
    let fixture = Fixture::new(5 * SECOND, Duration::ZERO);
    assert_eq!(fixture.get(), seen("1", Source::Load));
    fixture.is_gated.store(true, Ordering::SeqCst);
    fixture.clock.advance(12 * SECOND);
    for _ in 0..100 {
        assert_eq!(fixture.get(), seen("1", Source::Stale));
    }
    assert_eq!(
        fixture
            .group
            .get_entry("k", Deadline::NEVER)
            .unwrap()
            .remaining,
        Some(Duration::ZERO)
    );
    fixture.gate.send(()).unwrap();
    eventually("it is renewed", || fixture.get() == seen("2", Source::Main));
    assert_eq!(fixture.loads(), 2, "one load for all of them");
    let stats = fixture.group.stats();
    assert!(stats.stale_hits >= 101 && stats.stale_hits <= stats.main_hits);
    assert_eq!(
        stats.gets,
        stats.main_hits + stats.hot_hits + stats.joined + stats.leads
    );
}

#[test]
fn a_value_that_is_too_old_is_loaded_anew() {
    let fixture = Fixture::new(5 * SECOND, Duration::ZERO);
    assert_eq!(fixture.get(), seen("1", Source::Load));
    fixture.clock.advance(15 * SECOND);
    assert_eq!(fixture.get(), seen("2", Source::Load));
}

#[test]
fn a_renewal_that_fails_leaves_the_old_value() {
    let fixture = Fixture::new(5 * SECOND, Duration::ZERO);
    fixture.get();
    fixture.fails.store(true, Ordering::SeqCst);
    fixture.clock.advance(12 * SECOND);
    assert_eq!(fixture.get(), seen("1", Source::Stale));
    eventually("it failed", || fixture.group.stats().load_errors == 1);
    assert_eq!(fixture.get(), seen("1", Source::Stale));
    fixture.clock.advance(4 * SECOND);
    let late = fixture.group.get("k");
    assert!(matches!(late, Err(Error::Load { .. })), "{late:?}");
}

#[test]
fn a_stale_value_stands_in_for_a_load_that_fails() {
    let fixture = Fixture::new(Duration::ZERO, 60 * SECOND);
    fixture.get();
    fixture.fails.store(true, Ordering::SeqCst);
    fixture.clock.advance(30 * SECOND);
    assert_eq!(fixture.get(), seen("1", Source::Stale));
    assert_eq!(fixture.loads(), 2, "it was tried");
    assert_eq!(fixture.group.stats().stand_ins, 1);
    fixture.fails.store(false, Ordering::SeqCst);
    assert_eq!(fixture.get(), seen("3", Source::Load));
    fixture.fails.store(true, Ordering::SeqCst);
    fixture.clock.advance(70 * SECOND);
    assert!(matches!(fixture.group.get("k"), Err(Error::Load { .. })));
}

#[test]
fn a_stale_value_stands_in_for_a_load_that_takes_too_long() {
    let fixture = Fixture::new(Duration::ZERO, 60 * SECOND);
    fixture.get();
    fixture.is_gated.store(true, Ordering::SeqCst);
    fixture.clock.advance(30 * SECOND);
    std::thread::scope(|scope| {
        let get = scope.spawn(|| fixture.group.get_timeout("k", SECOND));
        eventually("it loads", || fixture.loads() == 2);
        // Once: much later nothing may stand in any more.
        fixture.clock.advance(SECOND);
        assert_eq!(get.join().unwrap().unwrap(), Value::from("1"));
    });
    fixture.gate.send(()).unwrap();
    eventually("the load completes", || {
        fixture.group.try_get("k") == Some(Value::from("2"))
    });
}

#[test]
fn what_is_no_longer_there_does_not_stand_in() {
    let fixture = Fixture::new(5 * SECOND, 60 * SECOND);
    fixture.get();
    fixture.finds.store(false, Ordering::SeqCst);
    fixture.clock.advance(12 * SECOND);
    assert_eq!(fixture.get(), seen("1", Source::Stale));
    eventually("it is forgotten", || fixture.group.stats().main_items == 0);
    assert!(matches!(fixture.group.get("k"), Err(Error::NotFound)));
}

#[test]
fn a_removal_holds_for_stale_values_and_their_renewals() {
    let fixture = Fixture::new(5 * SECOND, 60 * SECOND);
    fixture.get();
    fixture.is_gated.store(true, Ordering::SeqCst);
    fixture.clock.advance(12 * SECOND);
    assert_eq!(fixture.get(), seen("1", Source::Stale));
    eventually("it is being renewed", || fixture.loads() == 2);
    fixture.group.remove("k").unwrap();
    fixture.is_gated.store(false, Ordering::SeqCst);
    assert_eq!(
        fixture.get(),
        seen("3", Source::Load),
        "neither the old nor the renewed"
    );
    fixture.gate.send(()).unwrap();
    eventually("the renewal ends", || fixture.group.stats().flights == 0);
    assert_eq!(fixture.get(), seen("3", Source::Main));
}

#[test]
fn a_peer_gets_a_stale_value_and_does_not_keep_it() {
    let loads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&loads);
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node,
        |group| {
            group
                .ttl(10 * SECOND)
                .stale_while_revalidate(5 * SECOND)
                .hot_threshold(0.0)
        },
        move |_| {
            Ok(Value::from(
                (count.fetch_add(1, Ordering::SeqCst) + 1).to_string(),
            ))
        },
    );
    let key = cluster.key_owned_by(1);
    assert_eq!(cluster.groups[1].get(&key).unwrap(), Value::from("1"));
    cluster.advance(12 * SECOND);
    assert_eq!(cluster.groups[0].get(&key).unwrap(), Value::from("1"));
    eventually("it is renewed", || {
        cluster.groups[1].try_get(&key) == Some(Value::from("2"))
    });
    cluster.advance(Duration::from_millis(2));
    assert_eq!(cluster.groups[0].get(&key).unwrap(), Value::from("2"));
}

#[test]
fn expired_values_leave_without_anybody_asking() {
    let clock = Clock::manual();
    let network = Network::new();
    let node = network.builder(address(0)).unwrap();
    let node = node.clock(clock.clone()).build().unwrap();
    let (sender, gone) = mpsc::channel();
    let group = node
        .group_builder(GROUP, 1 << 20)
        .ttl(10 * SECOND)
        .eviction_listener(move |key, value, cause| {
            sender.send((key.to_owned(), value.clone(), cause)).unwrap();
        })
        .build(|key| Ok(Value::from(key)))
        .unwrap();
    for key in ["a", "b"] {
        group.get(key).unwrap();
    }
    let left = RefCell::new(Vec::new());
    eventually("the listener has heard of both", || {
        clock.advance(SECOND);
        left.borrow_mut().extend(gone.try_iter());
        left.borrow().len() >= 2
    });
    let mut left = left.into_inner();
    assert_eq!(group.stats().main_items, 0);
    left.sort_by(|a, b| a.0.cmp(&b.0));
    let expired = |key: &str| (key.to_owned(), Value::from(key), EvictionCause::Expired);
    assert_eq!(left, [expired("a"), expired("b")]);
    assert_eq!(group.stats().expirations, 2);
    assert_eq!(group.stats().main_bytes, 0);
}

#[test]
fn a_listener_hears_of_every_value_that_leaves_and_why() {
    let node = Network::new().builder(address(0)).unwrap().build().unwrap();
    let (sender, gone) = mpsc::channel();
    let group = node
        .group_builder(GROUP, 20_000)
        .eviction_listener(move |key, _, cause| {
            sender.send((key.to_owned(), cause)).unwrap();
            assert!(key != "panics", "a listener that panics harms nobody");
        })
        .build(|key| Ok(Value::from(key)))
        .unwrap();
    let cause_of = |key: &str| {
        let causes: Vec<_> = gone.try_iter().filter(|(gone, _)| gone == key).collect();
        assert_eq!(causes.len(), 1, "{key}: {causes:?}");
        causes[0].1
    };
    group.get("a").unwrap();
    group.set("a", Value::from("another")).unwrap();
    assert_eq!(cause_of("a"), EvictionCause::Replaced);
    group.remove("a").unwrap();
    assert_eq!(cause_of("a"), EvictionCause::Removed);
    group.get("panics").unwrap();
    group.clear().unwrap();
    assert_eq!(cause_of("panics"), EvictionCause::Removed);
    for number in 0..1_000 {
        group.get(&format!("number {number}")).unwrap();
    }
    let stats = group.stats();
    let causes: Vec<EvictionCause> = gone.try_iter().map(|(_, cause)| cause).collect();
    let of = |cause| causes.iter().filter(|&&other| other == cause).count() as u64;
    assert_eq!(causes.len() as u64, stats.evictions);
    assert_eq!(of(EvictionCause::Rejected), stats.rejections);
    assert_eq!(
        of(EvictionCause::Size) + of(EvictionCause::Rejected),
        1_000 - stats.main_items
    );
    assert!(
        of(EvictionCause::Rejected) > 0,
        "keys asked for once are not worth it"
    );
}

#[test]
fn the_hottest_keys_are_those_asked_for_most() {
    let node = Network::new().builder(address(0)).unwrap().build().unwrap();
    let group = node.group_builder(GROUP, 1 << 20).shards(4);
    let group = group.build(|key| Ok(Value::from(key))).unwrap();
    for number in 0..50 {
        for _ in 0..=number {
            group.get(&format!("key {number}")).unwrap();
        }
    }
    let hottest = group.hottest(3);
    let expected = [(49, 49), (48, 48), (47, 47)];
    let expected = expected.map(|(key, hits)| (format!("key {key}"), hits));
    assert_eq!(hottest, expected, "the first get of each is a load");
    assert_eq!(group.hottest(1_000).len(), 50);
    assert!(group.hottest(0).is_empty());
}
