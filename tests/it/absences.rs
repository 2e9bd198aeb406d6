//! Negative caching: that a key has no value is kept for its own time, and ends with any change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use groupcache_sync::{Clock, Error, Fault, Group, LoadError, Source, Value};

use crate::cluster::{Cluster, address, value_of};

const SECOND: Duration = Duration::from_secs(1);

/// A cluster whose loader finds nothing until told otherwise.
struct Fixture {
    cluster: Cluster,
    finds: Arc<AtomicBool>,
}

impl Fixture {
    fn new(size: usize, negative_ttl: Duration) -> Fixture {
        let finds = Arc::new(AtomicBool::new(false));
        let found = Arc::clone(&finds);
        let cluster = Cluster::with(
            size,
            Clock::manual(),
            |node| node.fallback_life(2 * SECOND),
            |group| group.negative_ttl(negative_ttl),
            move |key| {
                if found.load(Ordering::SeqCst) {
                    Ok(value_of(key))
                } else {
                    Err(LoadError::NotFound)
                }
            },
        );
        Fixture { cluster, finds }
    }

    fn group(&self, node: usize) -> &Group {
        &self.cluster.groups[node]
    }

    fn loads(&self) -> usize {
        self.cluster.loads.all()
    }

    fn appears(&self) {
        self.finds.store(true, Ordering::SeqCst);
    }
}

fn is_missing(group: &Group, key: &str) -> bool {
    matches!(group.get(key), Err(Error::NotFound))
}

#[test]
fn by_default_each_get_asks_the_loader() {
    let fixture = Fixture::new(1, Duration::ZERO);
    assert!(is_missing(fixture.group(0), "k") && is_missing(fixture.group(0), "k"));
    assert_eq!(fixture.loads(), 2);
    fixture.appears();
    assert_eq!(fixture.group(0).get("k").unwrap(), value_of("k"));
}

#[test]
fn an_absence_is_kept_for_its_time_and_counted() {
    let fixture = Fixture::new(1, 10 * SECOND);
    let group = fixture.group(0);
    for _ in 0..5 {
        assert!(is_missing(group, "k"));
        assert!(group.get_many(&["k", "k"]).iter().all(Result::is_err));
        assert!(group.try_get("k").is_none());
    }
    assert_eq!(fixture.loads(), 1);
    let stats = group.stats();
    assert_eq!((stats.absent_items, stats.main_items), (1, 1));
    assert_eq!(
        (stats.absent_hits, stats.main_hits, stats.leads),
        (14, 14, 1)
    );
    assert_eq!(stats.gets, 15);
    assert!(stats.main_bytes > 0);
    fixture.appears();
    fixture.cluster.clock.advance(9 * SECOND);
    assert!(is_missing(group, "k"));
    fixture.cluster.clock.advance(SECOND);
    assert_eq!(group.get("k").unwrap(), value_of("k"));
    assert_eq!(fixture.loads(), 2);
}

#[test]
fn an_owner_tells_its_peers_without_a_load() {
    let fixture = Fixture::new(2, 10 * SECOND);
    let key = fixture.cluster.key_owned_by(1);
    for _ in 0..3 {
        assert!(is_missing(fixture.group(0), &key));
    }
    assert_eq!(fixture.loads(), 1);
    assert_eq!(fixture.group(1).stats().served_hits, 2);
    assert_eq!(
        fixture.group(0).stats().absent_items,
        0,
        "only the owner keeps it"
    );
}

#[test]
fn any_change_ends_it_at_once() {
    type Change = fn(&Group, &str);
    let changes: [Change; 3] = [
        |group, key| group.remove(key).unwrap(),
        |group, _| group.clear().unwrap(),
        |group, key| group.set(key, value_of(key)).unwrap(),
    ];
    for change in changes {
        for by in 0..2 {
            let fixture = Fixture::new(2, 1_000 * SECOND);
            let key = fixture.cluster.key_owned_by(1);
            assert!(is_missing(fixture.group(0), &key) && is_missing(fixture.group(1), &key));
            fixture.appears();
            change(fixture.group(by), &key);
            for node in 0..2 {
                assert_eq!(fixture.group(node).get(&key).unwrap(), value_of(&key));
            }
            assert_eq!(fixture.group(1).stats().absent_items, 0);
        }
    }
}

#[test]
fn without_the_owner_it_is_kept_for_the_life_of_a_deputy_or_of_a_fallback_only() {
    for (has_deputy, life) in [(true, 30 * SECOND), (false, 2 * SECOND)] {
        let fixture = Fixture::new(3, 1_000 * SECOND);
        let key = fixture.cluster.key_owned_by(2);
        let deputy = fixture.cluster.deputy_of(&key);
        let network = &fixture.cluster.network;
        network.set_fault(&address(2), Some(Fault::Refuses));
        if !has_deputy {
            network.set_fault(&address(deputy), Some(Fault::Refuses));
        }
        let asker = fixture.group(1 - deputy);
        assert!(is_missing(asker, &key) && is_missing(asker, &key));
        assert_eq!(fixture.loads(), 1, "P6");
        fixture.appears();
        fixture.cluster.clock.advance(life - SECOND);
        assert!(is_missing(asker, &key));
        fixture.cluster.clock.advance(SECOND);
        assert_eq!(asker.get(&key).unwrap(), value_of(&key));
        assert_eq!(fixture.loads(), 2, "P6");
    }
}

#[test]
fn they_take_a_part_of_the_capacity_and_no_more() {
    let capacity = 1 << 20;
    let node = groupcache_sync::Node::new("http://127.0.0.1:1").unwrap();
    let group: Group = node
        .group_builder("g", capacity)
        .negative_ttl(1_000 * SECOND)
        .build(|key| match key.strip_prefix("value ") {
            Some(text) => Ok(Value::from(text)),
            None => Err(LoadError::NotFound),
        })
        .unwrap();
    group.get("value 1").unwrap();
    for number in 0..20_000 {
        assert!(group.get(&format!("no {number}")).is_err());
    }
    let stats = group.stats();
    assert!(
        stats.main_bytes as usize <= capacity / 16 + 200,
        "{stats:?}"
    );
    assert!(stats.evictions > 10_000, "{stats:?}");
    let found = group.get_entry("value 1", groupcache_sync::Deadline::NEVER);
    assert_eq!(
        found.unwrap().source,
        Source::Main,
        "values are not displaced"
    );
}
