//! The cache against a model, and its counters after many threads.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::cache::entry::{MAX_WEIGHT, Tier};
use crate::cache::store::Store;
use crate::cache::store::tests::{OPERATIONS, config, life, tier};
use crate::runtime::clock::Clock;
use crate::runtime::sync::{AtomicBool, thread};

const KEYS: usize = 16;
const CAPACITY: usize = 2_000;

#[derive(Clone, Debug)]
enum Operation {
    Get(usize),
    Recheck(usize),
    Answer(usize, u32),
    Insert {
        tier: Tier,
        key: usize,
        weight: usize,
        life: Option<u64>,
        stale: bool,
    },
    Remove(usize),
    Clear,
    Advance(u64),
    SetCapacity(usize, usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let huge = [
        CAPACITY,
        CAPACITY + 1,
        usize::MAX / 2 + 1,
        usize::MAX - 1,
        usize::MAX,
    ];
    let weight = prop_oneof![
        16 => 1..400_usize,
        2 => CAPACITY / 2 - 10..=CAPACITY / 2,
        1 => prop::sample::select(huge.to_vec()),
    ];
    let insert = (tier(), 0..KEYS, weight, life(), prop::bool::weighted(0.1));
    prop_oneof![
        12 => (0..KEYS).prop_map(Operation::Get),
        2 => (0..KEYS).prop_map(Operation::Recheck),
        2 => (0..KEYS, any::<u32>()).prop_map(|(key, hits)| Operation::Answer(key, hits)),
        16 => insert.prop_map(|(tier, key, weight, life, stale)| {
            Operation::Insert { tier, key, weight, life, stale }
        }),
        3 => (0..KEYS).prop_map(Operation::Remove),
        1 => Just(Operation::Clear),
        3 => (0..30_u64).prop_map(Operation::Advance),
        1 => (0..=CAPACITY, 0..=CAPACITY)
            .prop_map(|(capacity, hot)| Operation::SetCapacity(capacity, hot)),
    ]
}

/// What was last stored under a key.
#[derive(Clone, Copy, Debug)]
struct Stored {
    value: u32,
    tier: Tier,
    expires: Option<Instant>,
}

impl Cache<u32> {
    fn sum(&self, of: impl Fn(&Store<u32>) -> usize) -> usize {
        self.made_shards()
            .map(|shard| of(&shard.state.lock().store))
            .sum()
    }
}

proptest! {
    #![proptest_config(config(50))]

    #[test]
    fn a_hit_is_the_last_stored_value_and_the_budget_is_kept(
        shards in prop::sample::select(vec![1, 2, 4, 8]),
        mut hot_capacity in 0..=CAPACITY,
        operations in prop::collection::vec(operation(), OPERATIONS),
    ) {
        let clock = Clock::manual();
        let cache = Cache::new(CAPACITY, hot_capacity, Some(shards), clock.clone());
        let names: Vec<String> = (0..KEYS).map(|key| format!("key {key}")).collect();
        let mut stored: HashMap<usize, Stored> = HashMap::new();
        let mut hits = [0, 0];
        let mut capacity = CAPACITY;
        for (number, operation) in operations.into_iter().enumerate() {
            let (number, now) = (number as u32, clock.now());
            let check = |key: usize, found: Option<Found<u32>>| {
                if let Some(found) = found {
                    let last = stored.get(&key).copied();
                    let last = last.map(|last| (last.value, last.tier, last.expires));
                    let value = found.value.value().unwrap();
                    prop_assert_eq!(Some((value, found.tier, found.expires)), last);
                    prop_assert!(found.expires.is_none_or(|expires| expires > now), "expired");
                }
                Ok(())
            };
            match operation {
                Operation::Get(key) => {
                    let hashed = cache.hash(&names[key]);
                    let found = match cache.get_main(hashed) {
                        Some(value) => {
                            let value = value.value().unwrap();
                            prop_assert_eq!(Some(value), stored.get(&key).map(|last| last.value));
                            hits[Tier::Main as usize] += 1;
                            cache.recheck(hashed)
                        }
                        None => cache.get(hashed).ok().inspect(|found| {
                            hits[found.tier as usize] += 1;
                        }),
                    };
                    check(key, found)?;
                }
                Operation::Recheck(key) => check(key, cache.recheck(cache.hash(&names[key])))?,
                Operation::Answer(key, hits) => {
                    let answer = cache.answer(cache.hash(&names[key]), hits);
                    check(key, answer.map(|(found, _)| found))?;
                }
                Operation::Insert { tier, key, weight, life, stale } => {
                    let hashed = cache.hash(&names[key]);
                    let expires = life.map(|life| now + Duration::from_millis(life));
                    let room = weight <= capacity - cache.budgets.total_taken()
                        && (tier == Tier::Main || weight <= hot_capacity - cache.budgets.taken(Tier::Hot));
                    let left = |counts: Counts| counts.evictions + counts.expirations;
                    let before = left(cache.counts());
                    let evictions_before = cache.counts().evictions;
                    let is_kept = cache.sum(|store| {
                        store.keys().filter(|kept| *kept == names[key]).count()
                    }) > 0;

                    let mark = AtomicBool::new(stale);
                    let kept = cache.insert(tier, hashed, number, weight, expires, &mark);

                    let limit = match tier {
                        Tier::Main => capacity,
                        Tier::Hot => hot_capacity.min(capacity),
                    };
                    let is_copy_of_main = tier == Tier::Hot && is_kept && {
                        let last = &stored[&key];
                        let lives = last.expires.is_none_or(|expires| expires > now);
                        last.tier == Tier::Main && lives
                    };
                    prop_assert_eq!(kept, weight <= limit && !stale && !is_copy_of_main);
                    let evicted = left(cache.counts()) - before;
                    if room || !kept {
                        prop_assert_eq!(evicted, 0, "nothing is evicted without need");
                    }
                    if cache.counts().evictions > evictions_before {
                        let left = cache.sum(|store| store.expired(cache.time.tick(now)));
                        let own = usize::from(kept && expires == Some(now));
                        prop_assert_eq!(left, own, "the expired leave first");
                    }
                    if kept {
                        stored.insert(key, Stored { value: number, tier, expires });
                        let lives = expires.is_none_or(|expires| expires > now);
                        prop_assert_eq!(cache.recheck(hashed).is_some(), lives);
                    }
                }
                Operation::Remove(key) => {
                    cache.remove(cache.hash(&names[key]));
                    stored.remove(&key);
                }
                Operation::Clear => {
                    cache.clear();
                    stored.clear();
                    prop_assert_eq!(cache.budgets.total_taken(), 0);
                }
                Operation::Advance(millis) => clock.advance(Duration::from_millis(millis)),
                Operation::SetCapacity(total, hot) => {
                    let evictions_before = cache.counts().evictions;
                    let room = cache.budgets.total_taken() <= total
                        && cache.budgets.taken(Tier::Hot) <= hot;

                    cache.set_capacity(total, hot);
                    cache.evict_excess();

                    (capacity, hot_capacity) = (total, hot);
                    let evicted = cache.counts().evictions - evictions_before;
                    prop_assert!(!room || evicted == 0, "nothing is evicted without need");
                }
            }
            cache.validate();
            let counts = cache.counts();
            prop_assert_eq!([counts.main_hits, counts.hot_hits], hits);
            prop_assert!(counts.main_items + counts.hot_items <= stored.len());
        }
    }
}

#[test]
fn a_weight_that_cannot_be_is_refused_whatever_the_capacity() {
    for capacity in [0, 1, CAPACITY, usize::MAX - 1, usize::MAX] {
        let cache = Cache::new(capacity, capacity, Some(4), Clock::manual());
        let fresh = AtomicBool::new(false);
        for (key, tier) in [("a", Tier::Main), ("b", Tier::Hot), ("c", Tier::Main)] {
            for weight in [1, usize::MAX / 2, usize::MAX - 1, usize::MAX] {
                let kept = cache.insert(tier, cache.hash(key), 0_u32, weight, None, &fresh);
                let fits = weight <= capacity.min(MAX_WEIGHT);
                assert_eq!(kept, fits, "{weight} in {capacity}");
                cache.validate();
            }
        }
    }
}

#[test]
fn values_that_do_not_fit_a_smaller_capacity_leave_and_a_larger_one_takes_more() {
    let cache = Cache::new(CAPACITY, 500, Some(4), Clock::manual());
    let fresh = AtomicBool::new(false);
    let fill = || {
        for key in 0..100 {
            let (tier, name) = ([Tier::Main, Tier::Hot][key % 2], key.to_string());
            cache.insert(tier, cache.hash(&name), 0_u32, 100, None, &fresh);
        }
        (cache.budgets.total_taken(), cache.budgets.taken(Tier::Hot))
    };
    assert_eq!(fill(), (CAPACITY, 500));
    cache.set_capacity(1_000, 200);
    cache.evict_excess();
    let taken = (cache.budgets.total_taken(), cache.budgets.taken(Tier::Hot));
    assert_eq!(taken, (1_000, 200));
    cache.validate();
    assert!(!cache.insert(Tier::Main, cache.hash("large"), 0, 1_001, None, &fresh));
    cache.set_capacity(8_000, 3_000);
    assert_eq!(fill(), (8_000, 3_000));
    cache.validate();
}

#[test]
fn half_the_budget_fits_whatever_the_number_of_shards() {
    for shards in [1, 4, 64] {
        let cache = Cache::new(CAPACITY, 0, Some(shards), Clock::manual());
        let fresh = AtomicBool::new(false);
        for key in ["a", "b"] {
            let half = CAPACITY / 2;
            assert!(cache.insert(Tier::Main, cache.hash(key), 0_u32, half, None, &fresh));
        }
        assert_eq!(cache.counts().main_items, 2, "both are there");
    }
}

#[test]
fn the_counters_are_right_after_many_threads() {
    const THREADS: u32 = 8;
    const ROUNDS: u32 = 100;
    const STEPS: u32 = 200;
    let clock = Clock::manual();
    let cache = Cache::new(20_000, 5_000, Some(4), clock.clone());
    for round in 0..ROUNDS {
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (cache, clock) = (&cache, &clock);
                scope.spawn(move || {
                    // A fixed stream for each thread (xorshift); the interleaving is the machine's.
                    let mut random = 0x9E37_79B9_u32.wrapping_mul(round * THREADS + number + 1);
                    let mut next = move |below: u32| {
                        random ^= random << 13;
                        random ^= random >> 17;
                        random ^= random << 5;
                        random % below
                    };
                    for _ in 0..STEPS {
                        let name = next(64).to_string();
                        let key = cache.hash(&name);
                        match next(20) {
                            0 => cache.remove(key),
                            1 if next(50) == 0 => cache.clear(),
                            1 => clock.advance(Duration::from_millis(1)),
                            2..=9 => {
                                let tier = [Tier::Main, Tier::Hot][next(2) as usize];
                                let life = [None, Some(Duration::from_millis(next(20).into()))];
                                let life = life[next(2) as usize];
                                let expires = life.map(|life| clock.now() + life);
                                let weight = 200 + next(1_000) as usize;
                                let stale = AtomicBool::new(next(10) == 0);
                                cache.insert(tier, key, next(100), weight, expires, &stale);
                            }
                            10 => drop(cache.answer(key, 1)),
                            11 => cache.sweep(),
                            12 if number == 0 => {
                                let capacity = 500 + next(19_500) as usize;
                                cache.set_capacity(capacity, capacity / 4);
                                cache.evict_excess();
                            }
                            _ => drop(cache.get(key)),
                        }
                        let taken = (cache.budgets.total_taken(), cache.budgets.taken(Tier::Hot));
                        assert!(taken.0 <= 20_000 && taken.1 <= 5_000, "{taken:?}");
                    }
                });
            }
        });
        cache.set_capacity(20_000, 5_000);
        cache.validate();
    }
    let counts = cache.counts();
    assert!(counts.evictions > 0 && counts.main_hits > 0 && counts.hot_hits > 0);
}
