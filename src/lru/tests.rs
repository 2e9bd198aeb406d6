//! The policy by example, and against a model that is too simple to be wrong.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm};

use super::*;
use crate::key::KeyHasher;

struct Fixture {
    lru: Lru<u32>,
    hasher: KeyHasher,
    clock: Clock,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture {
            lru: Lru::new(),
            hasher: KeyHasher::new(),
            clock: Clock::manual(),
        }
    }

    fn insert(&mut self, place: Place, key: &str, value: u32, life: Option<u64>) {
        let expires = life.map(|seconds| self.clock.now() + Duration::from_secs(seconds));
        let entry = Entry::new(value, 10, expires);
        self.lru.insert(place, self.hasher.hash(key), entry);
        self.lru.validate();
    }

    fn get(&mut self, key: &str) -> Option<(Place, u32)> {
        let key = self.hasher.hash(key);
        let seen = self
            .lru
            .get(key, &self.clock, |place, entry| (place, entry.value));
        self.lru.validate();
        match seen {
            Seen::Kept(found) => Some(found),
            _ => None,
        }
    }
}

#[test]
fn the_least_recently_used_goes_first() {
    let mut fixture = Fixture::new();
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        fixture.insert(Place::Main, key, value, None);
    }
    assert_eq!(fixture.get("a"), Some((Place::Main, 1)));
    let gone = fixture
        .lru
        .pop_least_used(Place::Main)
        .map(|entry| entry.value);
    assert_eq!(gone, Some(2));
    fixture.lru.validate();
}

#[test]
fn a_key_is_kept_in_one_place() {
    let mut fixture = Fixture::new();
    fixture.insert(Place::Hot, "k", 1, None);
    fixture.insert(Place::Main, "k", 2, None);
    assert_eq!(fixture.get("k"), Some((Place::Main, 2)));
    assert_eq!(fixture.lru.len(Place::Hot), 0);
    assert_eq!(fixture.lru.bytes(Place::Hot), 0);
}

#[test]
fn an_expired_entry_is_not_seen_and_leaves() {
    let mut fixture = Fixture::new();
    fixture.insert(Place::Main, "k", 1, Some(5));
    fixture.clock.advance(Duration::from_secs(4));
    assert_eq!(fixture.get("k"), Some((Place::Main, 1)));
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(fixture.get("k"), None);
    assert_eq!(fixture.lru.bytes(Place::Main), 0);
}

#[test]
fn the_longest_expired_goes_first_and_the_living_stay() {
    let mut fixture = Fixture::new();
    fixture.insert(Place::Main, "a", 1, Some(5));
    fixture.insert(Place::Hot, "b", 2, Some(3));
    fixture.insert(Place::Main, "c", 3, Some(60));
    fixture.clock.advance(Duration::from_secs(10));
    let now = fixture.clock.now();
    let mut gone = || {
        fixture
            .lru
            .pop_expired(now)
            .map(|(place, entry)| (place, entry.value))
    };
    assert_eq!(gone(), Some((Place::Hot, 2)));
    assert_eq!(gone(), Some((Place::Main, 1)));
    assert_eq!(gone(), None);
    fixture.lru.validate();
}

/// Operations of a case of the model tests.
pub(crate) const OPERATIONS: usize = 500;

/// How the model tests run: as many cases as make up this part, in per cent, of
/// `GROUPCACHE_OPERATIONS`, a million unless told otherwise.
pub(crate) fn config(per_cent: usize) -> Config {
    let told = std::env::var("GROUPCACHE_OPERATIONS").ok();
    let operations = told.and_then(|told| told.parse().ok()).unwrap_or(1_000_000);
    let cases = (operations / 100 * per_cent / OPERATIONS).max(1);
    Config {
        cases: u32::try_from(cases).unwrap_or(u32::MAX),
        failure_persistence: None,
        // Its usual generator takes three quarters of the time in a debug build.
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    }
}

const KEYS: usize = 12;

#[derive(Clone, Debug)]
enum Operation {
    Get(usize),
    Insert {
        place: Place,
        key: usize,
        weight: usize,
        life: Option<u64>,
    },
    Remove(usize),
    PopExpired,
    PopLeastUsed(Place),
    Advance(u64),
}

pub(crate) fn place() -> impl Strategy<Value = Place> {
    prop_oneof![Just(Place::Main), Just(Place::Hot)]
}

/// Milliseconds, some of which pass while a case runs.
pub(crate) fn life() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), (0..100_u64).prop_map(Some)]
}

fn operation() -> impl Strategy<Value = Operation> {
    // The cache around it sees to it that the sum of the weights can be told.
    let weight = prop_oneof![8 => 0..1_000_usize, 1 => Just(usize::MAX / KEYS)];
    prop_oneof![
        8 => (0..KEYS).prop_map(Operation::Get),
        8 => (place(), 0..KEYS, weight, life()).prop_map(|(place, key, weight, life)| {
            Operation::Insert { place, key, weight, life }
        }),
        2 => (0..KEYS).prop_map(Operation::Remove),
        2 => Just(Operation::PopExpired),
        2 => place().prop_map(Operation::PopLeastUsed),
        2 => (0..30_u64).prop_map(Operation::Advance),
    ]
}

/// What a model keeps, and what of an entry can be seen.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    key: usize,
    place: Place,
    value: u32,
    weight: usize,
    expires: Option<Instant>,
}

/// All that is kept, in the order of the last use.
#[derive(Default)]
struct Model(Vec<Kept>);

impl Model {
    fn take(&mut self, is: impl Fn(&Kept) -> bool) -> Option<Kept> {
        let position = self.0.iter().position(is)?;
        Some(self.0.remove(position))
    }

    /// What is seen, and whether it lives.
    fn get(&mut self, key: usize, now: Instant) -> Option<(Kept, bool)> {
        let kept = self.take(|kept| kept.key == key)?;
        let lives = kept.expires.is_none_or(|expires| expires > now);
        if lives {
            self.0.push(kept.clone());
        }
        Some((kept, lives))
    }

    fn insert(&mut self, kept: Kept) -> Option<Kept> {
        let replaced = self.take(|old| old.key == kept.key);
        self.0.push(kept);
        replaced
    }

    fn pop_expired(&mut self, now: Instant) -> Option<Kept> {
        let first = self.soonest_expiry().filter(|&first| first <= now)?;
        self.take(|kept| kept.expires == Some(first))
    }

    fn soonest_expiry(&self) -> Option<Instant> {
        self.0.iter().filter_map(|kept| kept.expires).min()
    }

    fn bytes(&self, place: Place) -> usize {
        self.of(place).map(|kept| kept.weight).sum()
    }

    fn of(&self, place: Place) -> impl Iterator<Item = &Kept> {
        self.0.iter().filter(move |kept| kept.place == place)
    }
}

proptest! {
    #![proptest_config(config(50))]

    #[test]
    fn it_does_what_a_simple_model_does(
        operations in prop::collection::vec(operation(), OPERATIONS),
    ) {
        let Fixture { mut lru, hasher, clock } = Fixture::new();
        let mut model = Model::default();
        let names: Vec<String> = (0..KEYS).map(|key| format!("key {key}")).collect();
        let hash = |key: usize| hasher.hash(&names[key]);
        let start = clock.now();
        let mut last_expiry = start;
        for (number, operation) in operations.into_iter().enumerate() {
            let number = number as u32;
            // The value of an entry is the number of its insert, so it says what it is of.
            let same = |found: Option<(Place, Entry<u32>)>, kept: Option<Kept>| {
                let found = found.map(|(place, entry)| {
                    (place, entry.value, entry.weight, entry.expires)
                });
                let kept = kept.map(|kept| (kept.place, kept.value, kept.weight, kept.expires));
                prop_assert_eq!(found, kept);
                Ok(())
            };
            match operation {
                Operation::Get(key) => {
                    let read = |place, entry: &mut Entry<u32>| (place, entry.value);
                    match (lru.get(hash(key), &clock, read), model.get(key, clock.now())) {
                        (Seen::Kept(found), Some((kept, true))) => {
                            prop_assert_eq!(found, (kept.place, kept.value));
                        }
                        (Seen::Expired(place, entry), Some((kept, false))) => {
                            same(Some((place, entry)), Some(kept))?;
                        }
                        (Seen::Nothing, None) => {}
                        (_, kept) => prop_assert!(false, "it does not see {:?}", kept),
                    }
                }
                Operation::Insert { place, key, weight, life } => {
                    // No two at the same instant: which of them goes first is left open.
                    let expires = life.map(|life| {
                        last_expiry += Duration::from_nanos(1);
                        clock.now() + Duration::from_millis(life) + (last_expiry - start)
                    });
                    let replaced = lru.insert(place, hash(key), Entry::new(number, weight, expires));
                    same(replaced, model.insert(Kept { key, place, value: number, weight, expires }))?;
                }
                Operation::Remove(key) => {
                    same(lru.remove(hash(key)), model.take(|kept| kept.key == key))?;
                }
                Operation::PopExpired => {
                    let now = clock.now();
                    same(lru.pop_expired(now), model.pop_expired(now))?;
                }
                Operation::PopLeastUsed(place) => {
                    let popped = lru.pop_least_used(place).map(|entry| (place, entry));
                    same(popped, model.take(|kept| kept.place == place))?;
                }
                Operation::Advance(millis) => clock.advance(Duration::from_millis(millis)),
            }
            for place in [Place::Main, Place::Hot] {
                prop_assert_eq!(lru.bytes(place), model.bytes(place));
                prop_assert_eq!(lru.len(place), model.of(place).count());
            }
            prop_assert_eq!(lru.soonest_expiry(), model.soonest_expiry());
            lru.validate();
        }
    }
}
