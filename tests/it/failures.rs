//! Loads that fail: a source that is down is not asked without a pause.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use groupcache_sync::{
    Clock, Error, Group, GroupBuilder, LoadError, Network, Node, Request, Source, Value,
};

use crate::cluster::{GROUP, address, eventually};

const MILLIS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Nodes whose loader counts its runs, and fails or finds nothing when told to.
struct Fixture {
    clock: Clock,
    nodes: Vec<Node>,
    groups: Vec<Group>,
    loads: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
    finds: Arc<AtomicBool>,
}

impl Fixture {
    fn new(size: usize, settings: impl Fn(GroupBuilder) -> GroupBuilder) -> Fixture {
        let (clock, network) = (Clock::manual(), Network::new());
        let loads = Arc::new(AtomicUsize::new(0));
        let (fails, finds) = (
            Arc::new(AtomicBool::new(true)),
            Arc::new(AtomicBool::new(true)),
        );
        let nodes: Vec<Node> = (0..size)
            .map(|at| {
                let node = network.builder(address(at)).unwrap().clock(clock.clone());
                let node = node.build().unwrap();
                network.attach(&node);
                node
            })
            .collect();
        let groups = nodes.iter().map(|node| {
            let (loads, fails, finds) =
                (Arc::clone(&loads), Arc::clone(&fails), Arc::clone(&finds));
            let group = settings(node.group_builder(GROUP, 64 << 20));
            let group = group.build(move |key| {
                loads.fetch_add(1, Ordering::SeqCst);
                if fails.load(Ordering::SeqCst) {
                    return Err("the database is down".into());
                }
                match finds.load(Ordering::SeqCst) {
                    true => Ok(Value::from(key)),
                    false => Err(LoadError::NotFound),
                }
            });
            group.unwrap()
        });
        let groups = groups.collect();
        for node in &nodes {
            node.set_peers((0..size).map(address)).unwrap();
        }
        Fixture {
            clock,
            nodes,
            groups,
            loads,
            fails,
            finds,
        }
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    /// Many gets that fail.
    fn ask(&self, group: &Group, key: &str) {
        for _ in 0..50 {
            assert!(matches!(group.get(key), Err(Error::Load { .. })));
            let many = group.get_many(&[key]);
            assert!(matches!(many[0], Err(Error::Load { .. })));
        }
    }
}

#[test]
fn a_load_that_fails_again_and_again_is_run_once_in_the_life_of_its_error() {
    let fixture = Fixture::new(1, |group| group);
    let group = &fixture.groups[0];
    fixture.ask(group, "k");
    assert_eq!(fixture.loads(), 2, "one failure alone is forgiven");
    for round in 1..4 {
        fixture.clock.advance(251 * MILLIS);
        fixture.ask(group, "k");
        assert_eq!(fixture.loads(), 2 + round);
    }
    assert!(group.get("another").is_err());
    assert_eq!(fixture.loads(), 6, "each key for itself");
    fixture.fails.store(false, Ordering::SeqCst);
    fixture.clock.advance(251 * MILLIS);
    assert!(group.get("k").is_ok());
}

#[test]
fn one_failure_alone_is_forgiven_also_after_a_success() {
    let fixture = Fixture::new(1, |group| group.ttl(Duration::ZERO));
    let group = &fixture.groups[0];
    for _ in 0..3 {
        fixture.fails.store(true, Ordering::SeqCst);
        assert!(group.get("k").is_err());
        fixture.fails.store(false, Ordering::SeqCst);
        assert!(group.get("k").is_ok());
    }
    assert_eq!(fixture.loads(), 6);
}

#[test]
fn a_change_ends_the_life_of_an_error_at_once() {
    type Change = fn(&Group);
    let changes: [Change; 3] = [
        |group| group.remove("k").unwrap(),
        |group| group.clear().unwrap(),
        |group| {
            group.set("k", Value::from("set")).unwrap();
            group.get("k").unwrap();
            group.remove("k").unwrap();
        },
    ];
    for change in changes {
        let fixture = Fixture::new(1, |group| group);
        let group = &fixture.groups[0];
        fixture.ask(group, "k");
        fixture.fails.store(false, Ordering::SeqCst);
        change(group);
        assert!(group.get("k").is_ok());
    }
}

#[test]
fn without_a_life_of_errors_each_get_loads_and_no_value_is_no_failure() {
    let fixture = Fixture::new(1, |group| group.error_ttl(Duration::ZERO));
    fixture.ask(&fixture.groups[0], "k");
    assert_eq!(fixture.loads(), 100);
    let fixture = Fixture::new(1, |group| group);
    fixture.fails.store(false, Ordering::SeqCst);
    fixture.finds.store(false, Ordering::SeqCst);
    for _ in 0..10 {
        assert!(matches!(fixture.groups[0].get("k"), Err(Error::NotFound)));
    }
    assert_eq!(fixture.loads(), 10);
}

#[test]
fn the_failing_loads_of_a_key_are_few_in_the_whole_cluster() {
    let fixture = Fixture::new(3, |group| group);
    for _ in 0..4 {
        for group in &fixture.groups {
            fixture.ask(group, "k");
        }
        fixture.clock.advance(251 * MILLIS);
    }
    // The owner's, and those of each node that loads as its owner failed: 4 a second of each.
    assert!(
        fixture.loads() <= 3 * 6,
        "{} loads in a second",
        fixture.loads()
    );
    drop(fixture.nodes);
}

#[test]
fn a_renewal_that_fails_is_tried_again_after_pauses_that_double() {
    let fixture = Fixture::new(1, |group| {
        group.ttl(SECOND).stale_while_revalidate(3_600 * SECOND)
    });
    let group = &fixture.groups[0];
    fixture.fails.store(false, Ordering::SeqCst);
    group.get("k").unwrap();
    fixture.fails.store(true, Ordering::SeqCst);
    fixture.clock.advance(2 * SECOND);
    group.get("k").unwrap();
    eventually("the first renewal has failed", || {
        group.stats().load_errors == 1
    });
    let mut failed = 1;
    for step in 0..3_000 {
        let got = group
            .get_entry("k", groupcache_sync::Deadline::NEVER)
            .unwrap();
        assert_eq!(got.source, Source::Stale);
        // A renewal that has begun ends before the clock moves on.
        eventually("renewals end", || {
            let stats = group.stats();
            stats.flights == 0 && stats.loads == 1 + stats.load_errors
        });
        fixture.clock.advance(10 * MILLIS);
        let now = group.stats().load_errors;
        if step == 100 {
            assert!((3..=5).contains(&now), "{now} renewals in the first second");
        }
        failed = failed.max(now);
    }
    assert!(
        (7..=12).contains(&failed),
        "{failed} renewals in 30 seconds"
    );
    fixture.fails.store(false, Ordering::SeqCst);
    fixture.clock.advance(11 * SECOND);
    group.get("k").unwrap();
    eventually("it is renewed", || {
        group
            .get_entry("k", groupcache_sync::Deadline::NEVER)
            .unwrap()
            .source
            == Source::Main
    });
}

#[test]
fn a_value_that_stands_in_is_given_without_a_load_during_the_pause() {
    let fixture = Fixture::new(1, |group| group.ttl(SECOND).stale_if_error(3_600 * SECOND));
    let group = &fixture.groups[0];
    fixture.fails.store(false, Ordering::SeqCst);
    group.get("k").unwrap();
    fixture.fails.store(true, Ordering::SeqCst);
    fixture.clock.advance(2 * SECOND);
    for _ in 0..100 {
        group.get("k").unwrap();
    }
    assert_eq!(fixture.loads(), 3, "one failure alone is forgiven");
    let mut loads = 3;
    for _ in 0..100 {
        fixture.clock.advance(100 * MILLIS);
        group.get("k").unwrap();
        loads = fixture.loads();
    }
    assert!((5..=12).contains(&loads), "{loads} loads in 10 seconds");
    group.remove("k").unwrap();
    assert!(
        group.get("k").is_err(),
        "what was removed stands in for nothing"
    );
}

#[test]
fn an_error_may_live_for_ever() {
    let fixture = Fixture::new(1, |group| group.error_ttl(Duration::MAX));
    for _ in 0..3 {
        fixture.ask(&fixture.groups[0], "k");
        assert_eq!(fixture.loads(), 2);
        fixture.clock.advance(1_000_000 * SECOND);
    }
}

#[test]
fn many_keys_that_fail_have_their_pauses_each() {
    let fixture = Fixture::new(1, |group| group);
    let keys: Vec<String> = (0..1_000).map(|number| number.to_string()).collect();
    for _ in 0..5 {
        for key in &keys {
            assert!(fixture.groups[0].get(key).is_err());
        }
    }
    assert_eq!(fixture.loads(), 2 * keys.len());
}

#[test]
fn requests_of_peers_for_a_key_that_fails_are_no_gets() {
    let fixture = Fixture::new(1, |group| group);
    let target = format!("/_groupcache/{GROUP}/k");
    let request = Request::new("GET", &target).header("X-Groupcache", "v=1;w=1000");
    for _ in 0..10 {
        assert!(fixture.nodes[0].answer(&request).status() >= 400);
    }
    assert_eq!(fixture.groups[0].stats().gets, 0);
    assert_eq!(fixture.loads(), 2);
}
