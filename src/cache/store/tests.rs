//! The policy by example, and against a model that is too simple to be wrong.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm};

use super::*;
use crate::cache::entry::{MAX_WEIGHT, Stored};
use crate::cache::key::KeyHasher;

fn number_of(entry: &Entry<u32>) -> u32 {
    *entry.value.get().unwrap()
}

struct Fixture {
    store: Store<u32>,
    hasher: KeyHasher,
    now: Tick,
}

impl Fixture {
    fn new() -> Fixture {
        Fixture {
            store: Store::new(0),
            hasher: KeyHasher::new(),
            now: 0,
        }
    }

    fn insert(&mut self, tier: Tier, key: &str, value: u32, life: Option<Tick>) {
        let expires = life.map_or(Expiry::NEVER, |life| Expiry::at(self.now + life));
        let key = self.hasher.hash(key);
        let entry = Entry::new(key, Stored::new(value), 10, expires);
        self.store.insert(tier, key, entry);
        self.store.validate();
    }

    fn get(&mut self, key: &str) -> Option<(Tier, u32)> {
        let (key, now) = (self.hasher.hash(key), self.now);
        let read = |tier, entry: &mut Entry<u32>, _| (tier, number_of(entry));
        let seen = self.store.get(key, Use::Counts, || now, read);
        self.store.validate();
        match seen {
            Seen::Kept(found) => Some(found),
            _ => None,
        }
    }

    fn evict(&mut self, tier: Tier) -> Option<(u32, EvictionCause)> {
        let key = self.hasher.hash("a newcomer");
        let gone = self.store.evict(tier, key, 10);
        self.store.validate();
        gone.map(|gone| (number_of(&gone.entry), gone.cause))
    }
}

#[test]
fn the_least_recently_used_copy_goes_first() {
    let mut fixture = Fixture::new();
    for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
        fixture.insert(Tier::Hot, key, value, None);
    }
    assert_eq!(fixture.get("a"), Some((Tier::Hot, 1)));
    assert_eq!(fixture.evict(Tier::Hot), Some((2, EvictionCause::Size)));
    assert_eq!(fixture.evict(Tier::Hot), Some((3, EvictionCause::Size)));
}

#[test]
fn what_is_used_stays_when_others_pass_through() {
    let mut fixture = Fixture::new();
    for number in 0..50 {
        fixture.insert(Tier::Main, &format!("kept {number}"), number, None);
    }
    for _ in 0..3 {
        for number in 0..50 {
            let _ = fixture.get(&format!("kept {number}"));
        }
    }
    // A scan of twenty times as many: each makes room for the next.
    let mut causes = Vec::new();
    for number in 100..1_100 {
        causes.extend(fixture.evict(Tier::Main));
        fixture.insert(Tier::Main, &format!("scanned {number}"), number, None);
    }
    let kept = (0..50).filter(|number| fixture.get(&format!("kept {number}")).is_some());
    assert!(kept.count() >= 45, "the scan took them along");
    let rejected = causes
        .iter()
        .filter(|gone| gone.1 == EvictionCause::Rejected);
    assert!(rejected.count() > 900);
}

#[test]
fn a_value_that_is_replaced_takes_the_expiry_of_the_new_one() {
    let mut fixture = Fixture::new();
    fixture.insert(Tier::Main, "k", 1, Some(5));
    fixture.insert(Tier::Main, "k", 2, Some(50));
    fixture.now = 10;
    assert_eq!(fixture.get("k"), Some((Tier::Main, 2)));
    assert_eq!(fixture.store.len(Tier::Main), 1);
}

#[test]
fn a_key_is_kept_in_one_tier() {
    let mut fixture = Fixture::new();
    fixture.insert(Tier::Hot, "k", 1, None);
    fixture.insert(Tier::Main, "k", 2, None);
    assert_eq!(fixture.get("k"), Some((Tier::Main, 2)));
    assert_eq!(fixture.store.len(Tier::Hot), 0);
    assert_eq!(fixture.store.bytes(Tier::Hot), 0);
    fixture.insert(Tier::Hot, "k", 3, None);
    assert_eq!(fixture.get("k"), Some((Tier::Hot, 3)));
    assert_eq!(fixture.store.bytes(Tier::Main), 0);
}

#[test]
fn of_two_keys_with_the_same_hash_none_is_lost_without_a_word() {
    let mut store = Store::new(0);
    let [one, other] = ["one", "other"].map(|text| KeyRef::with_hash(text, 7));
    let mut insert = |tier, key, value| {
        let entry = Entry::new(key, Stored::new(value), 10, Expiry::at(5));
        let replaced = store.insert(tier, key, entry).into_iter().flatten();
        let replaced: Vec<_> = replaced
            .map(|gone| (gone.tier, number_of(&gone.entry)))
            .collect();
        store.validate();
        replaced
    };
    assert_eq!(insert(Tier::Main, one, 1), []);
    assert_eq!(insert(Tier::Hot, other, 2), []);
    assert_eq!(insert(Tier::Hot, one, 3), [(Tier::Main, 1), (Tier::Hot, 2)]);
    assert_eq!(insert(Tier::Hot, other, 4), [(Tier::Hot, 3)]);
    assert_eq!(insert(Tier::Main, one, 5), [(Tier::Hot, 4)]);
}

#[test]
fn an_expired_entry_is_not_seen_and_leaves() {
    let mut fixture = Fixture::new();
    fixture.insert(Tier::Main, "k", 1, Some(5));
    fixture.now = 4;
    assert_eq!(fixture.get("k"), Some((Tier::Main, 1)));
    fixture.now = 5;
    assert_eq!(fixture.get("k"), None);
    assert_eq!(fixture.store.bytes(Tier::Main), 0);
}

#[test]
fn the_longest_expired_goes_first_and_the_living_stay() {
    let mut fixture = Fixture::new();
    fixture.insert(Tier::Main, "a", 1, Some(5));
    fixture.insert(Tier::Hot, "b", 2, Some(3));
    fixture.insert(Tier::Main, "c", 3, Some(60));
    let mut gone = || {
        let gone = fixture.store.pop_expired(10)?;
        Some((gone.tier, number_of(&gone.entry), gone.cause))
    };
    assert_eq!(gone(), Some((Tier::Hot, 2, EvictionCause::Expired)));
    assert_eq!(gone(), Some((Tier::Main, 1, EvictionCause::Expired)));
    assert_eq!(gone(), None);
    fixture.store.validate();
}

#[test]
fn a_rate_leaves_with_its_entry() {
    let mut fixture = Fixture::new();
    fixture.insert(Tier::Main, "k", 1, None);
    let key = fixture.hasher.hash("k");
    let now = Instant::now();
    assert!(fixture.store.rate(key, Tier::Main, 100, now) > 5.0);
    fixture.store.remove(key);
    fixture.insert(Tier::Main, "k", 1, None);
    assert!(fixture.store.rate(key, Tier::Main, 1, now) < 1.0);
    fixture.store.validate();
}

/// Operations of a case of the model tests.
pub(crate) const OPERATIONS: usize = 500;

/// How the model tests run: as many cases as make up this part, in per cent, of
/// `GROUPCACHE_OPERATIONS`, half a million unless told otherwise.
pub(crate) fn config(per_cent: usize) -> Config {
    let told = std::env::var("GROUPCACHE_OPERATIONS").ok();
    let operations = told.and_then(|told| told.parse().ok()).unwrap_or(500_000);
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
        tier: Tier,
        key: usize,
        weight: usize,
        life: Option<u64>,
    },
    Remove(usize),
    PopExpired,
    Evict(Tier),
    Advance(Tick),
}

pub(crate) fn tier() -> impl Strategy<Value = Tier> {
    prop_oneof![Just(Tier::Main), Just(Tier::Hot)]
}

/// Ticks or milliseconds, some of which pass while a case runs.
pub(crate) fn life() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![Just(None), (0..100_u64).prop_map(Some)]
}

fn operation() -> impl Strategy<Value = Operation> {
    // The budget of the cache prevents that the sum of the weights overflows.
    let weight = prop_oneof![8 => 0..1_000_usize, 1 => Just(MAX_WEIGHT)];
    prop_oneof![
        8 => (0..KEYS).prop_map(Operation::Get),
        8 => (tier(), 0..KEYS, weight, life()).prop_map(|(tier, key, weight, life)| {
            Operation::Insert { tier, key, weight, life }
        }),
        2 => (0..KEYS).prop_map(Operation::Remove),
        2 => Just(Operation::PopExpired),
        2 => tier().prop_map(Operation::Evict),
        2 => (0..30_u64).prop_map(Operation::Advance),
    ]
}

/// What a model keeps, and what of an entry can be seen.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    key: usize,
    tier: Tier,
    value: u32,
    weight: usize,
    expires: Option<Tick>,
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
    fn get(&mut self, key: usize, now: Tick) -> Option<(Kept, bool)> {
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

    fn pop_expired(&mut self, now: Tick) -> Option<Kept> {
        let first = self.soonest_expiry().filter(|&first| first <= now)?;
        self.take(|kept| kept.expires == Some(first))
    }

    fn soonest_expiry(&self) -> Option<Tick> {
        self.0.iter().filter_map(|kept| kept.expires).min()
    }

    fn bytes(&self, tier: Tier) -> usize {
        self.of(tier).map(|kept| kept.weight).sum()
    }

    fn of(&self, tier: Tier) -> impl Iterator<Item = &Kept> {
        self.0.iter().filter(move |kept| kept.tier == tier)
    }
}

proptest! {
    #![proptest_config(config(50))]

    #[test]
    fn it_does_what_a_simple_model_does(
        operations in prop::collection::vec(operation(), OPERATIONS),
    ) {
        let Fixture { mut store, hasher, mut now } = Fixture::new();
        let mut model = Model::default();
        let names: Vec<String> = (0..KEYS).map(|key| format!("key {key}")).collect();
        let hash = |key: usize| hasher.hash(&names[key]);
        let mut last_expiry = 0;
        for (number, operation) in operations.into_iter().enumerate() {
            let number = number as u32;
            // The value of an entry is the number of its insert, so it says what it is of.
            let same = |gone: Option<Gone<u32>>, kept: Option<Kept>, why: &[EvictionCause]| {
                if let Some(gone) = &gone {
                    prop_assert!(why.contains(&gone.cause), "{:?}", gone.cause);
                }
                let gone = gone.map(|gone| {
                    let entry = &gone.entry;
                    (gone.tier, number_of(entry), entry.weight(), entry.expires.tick())
                });
                let kept = kept.map(|kept| (kept.tier, kept.value, kept.weight, kept.expires));
                prop_assert_eq!(gone, kept);
                Ok(())
            };
            match operation {
                Operation::Get(key) => {
                    let read = |tier, entry: &mut Entry<u32>, _| (tier, number_of(entry));
                    let seen = store.get(hash(key), Use::Counts, || now, read);
                    match (seen, model.get(key, now)) {
                        (Seen::Kept(found), Some((kept, true))) => {
                            prop_assert_eq!(found, (kept.tier, kept.value));
                        }
                        (Seen::Expired(gone), Some((kept, false))) => {
                            same(Some(gone), Some(kept), &[EvictionCause::Expired])?;
                        }
                        (Seen::Nothing, None) => {}
                        (_, kept) => prop_assert!(false, "it does not see {:?}", kept),
                    }
                }
                Operation::Insert { tier, key, weight, life } => {
                    // No two at the same time: which of them goes first is left open.
                    let expires = life.map(|life| {
                        last_expiry += 1;
                        now + 1_000 * life + last_expiry
                    });
                    let expiry = expires.map_or(Expiry::NEVER, Expiry::at);
                    let entry = Entry::new(hash(key), Stored::new(number), weight, expiry);
                    let [replaced, other] = store.insert(tier, hash(key), entry);
                    prop_assert!(replaced.is_none() || other.is_none(), "one key, one entry");
                    let replaced = replaced.or(other);
                    let kept = Kept { key, tier, value: number, weight, expires };
                    same(replaced, model.insert(kept), &[EvictionCause::Replaced])?;
                }
                Operation::Remove(key) => {
                    let removed = store.remove(hash(key));
                    same(removed, model.take(|kept| kept.key == key), &[EvictionCause::Removed])?;
                }
                Operation::PopExpired => {
                    let expired = store.pop_expired(now);
                    same(expired, model.pop_expired(now), &[EvictionCause::Expired])?;
                }
                Operation::Evict(Tier::Hot) => {
                    let evicted = store.evict(Tier::Hot, hash(0), 10);
                    let last = model.take(|kept| kept.tier == Tier::Hot);
                    same(evicted, last, &[EvictionCause::Size])?;
                }
                Operation::Evict(Tier::Main) => {
                    // Which one is the policy's affair; that there is one is not.
                    let evicted = store.evict(Tier::Main, hash(0), 10);
                    let value = evicted.as_ref().map(|gone| number_of(&gone.entry));
                    let is_it = |kept: &Kept| kept.tier == Tier::Main
                        && value.is_none_or(|value| value == kept.value);
                    let why = [EvictionCause::Size, EvictionCause::Rejected];
                    same(evicted, model.take(is_it), &why)?;
                }
                Operation::Advance(ticks) => now += 1_000 * ticks,
            }
            for tier in [Tier::Main, Tier::Hot] {
                prop_assert_eq!(store.bytes(tier), model.bytes(tier));
                prop_assert_eq!(store.len(tier), model.of(tier).count());
            }
            prop_assert_eq!(store.soonest_expiry(), model.soonest_expiry());
            store.validate();
        }
    }
}
