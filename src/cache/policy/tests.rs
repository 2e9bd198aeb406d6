//! The policy on small sequences whose best possible hit ratio is known.

use super::*;

const WEIGHT: usize = 100;

struct Unit(Marks);

impl Item for Unit {
    fn weight(&self) -> usize {
        WEIGHT
    }

    fn marks(&self) -> &Marks {
        &self.0
    }

    fn marks_mut(&mut self) -> &mut Marks {
        &mut self.0
    }
}

/// A cache of a policy with its shadows, as a shard has it.
struct Simulation {
    policy: Policy<Unit>,
    shadows: Option<Shadows>,
    capacity: usize,
    seed: u32,
    windows: Vec<f64>,
}

impl Simulation {
    fn new(entries: usize, seed: u32) -> Simulation {
        Simulation {
            policy: Policy::new(Shadows::first_window()),
            shadows: None,
            capacity: entries * WEIGHT,
            seed,
            windows: Vec::new(),
        }
    }

    /// Requests a key, and keeps it if it is not there. Tells whether it was a hit.
    fn request(&mut self, key: u32) -> bool {
        let hash = (key ^ self.seed)
            .wrapping_mul(0x9E37_79B1)
            .rotate_left(16)
            .wrapping_mul(0x85EB_CA6B);
        let hit = match self.policy.find_hash(hash) {
            Some(at) => self.policy.hit(at).is_some(),
            None => {
                self.keep(hash);
                false
            }
        };
        if let Some(shadows) = &mut self.shadows {
            if shadows.follow(hash) {
                if let Some(window) = shadows.request(hash, WEIGHT, hit) {
                    self.policy.set_window(window);
                    self.windows.push(window);
                }
            }
        }
        hit
    }

    fn keep(&mut self, hash: u32) {
        while self.policy.bytes() + WEIGHT > self.capacity {
            let kept = self.policy.len();
            if self
                .shadows
                .as_ref()
                .is_none_or(|shadows| !shadows.fit(kept))
            {
                self.shadows = Some(Shadows::new(&self.policy));
            }
            let door = self.policy.door(hash);
            assert!(self.policy.evict(door, WEIGHT).is_some());
        }
        let door = self.policy.door(hash);
        self.policy.insert(door, hash, Unit(Marks::new()));
    }

    /// Requests keys; gives the hit ratio.
    fn replay(&mut self, keys: impl Iterator<Item = u32>) -> f64 {
        let (mut hits, mut requests) = (0, 0);
        for key in keys {
            hits += u32::from(self.request(key));
            requests += 1;
        }
        self.policy.validate();
        f64::from(hits) / f64::from(requests)
    }
}

fn random(seed: u32) -> impl FnMut(u32) -> u32 {
    let mut state = seed;
    move |below| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state % below
    }
}

/// Numbers of which small ones come often.
fn skewed(next: &mut impl FnMut(u32) -> u32, below: u32) -> u32 {
    let bound = next(below) + 1;
    let bound = next(bound) + 1;
    next(bound)
}

#[test]
fn a_loop_that_does_not_fit_keeps_the_part_that_does() {
    for seed in 1..4 {
        let mut simulation = Simulation::new(500, seed);
        simulation.replay((0..20).flat_map(|_| 0..1_000));
        let hits = simulation.replay((0..20).flat_map(|_| 0..1_000));
        assert!(hits > 0.45, "an LRU has none, the best is a half: {hits}");
    }
}

#[test]
fn keys_that_are_used_again_soon_or_never_are_served_as_by_an_lru() {
    for seed in 1..4 {
        let mut simulation = Simulation::new(500, seed);
        // Each key thrice, with 30 others between.
        let keys = (0..60_000).map(|step| {
            let (round, at) = (step / 90, step % 30);
            round * 30 + at
        });
        let hits = simulation.replay(keys);
        assert!(hits > 0.62, "an LRU has two thirds: {hits}");
    }
}

#[test]
fn a_scan_evicts_nothing_popular() {
    for seed in 1..4 {
        let mut next = random(seed);
        let mut simulation = Simulation::new(400, seed);
        simulation.replay((0..40_000).map(|_| skewed(&mut next, 2_000)));
        let before = simulation.replay((0..10_000).map(|_| skewed(&mut next, 2_000)));
        simulation.replay(10_000..12_000);
        let after = simulation.replay((0..2_000).map(|_| skewed(&mut next, 2_000)));
        assert!(after > before - 0.05, "{before} became {after}");
    }
}

#[test]
fn items_that_are_no_longer_popular_leave() {
    let mut next = random(9);
    let mut simulation = Simulation::new(300, 1);
    let before = simulation.replay((0..60_000).map(|_| skewed(&mut next, 3_000)));
    simulation.replay((0..60_000).map(|_| 50_000 + skewed(&mut next, 3_000)));
    let after = simulation.replay((0..20_000).map(|_| 50_000 + skewed(&mut next, 3_000)));
    assert!(after > before - 0.02, "{before} became {after}");
    let (old, new) = (0..100, 50_000..50_100);
    let old = simulation.replay(old);
    let new = simulation.replay(new);
    assert!(old < 0.2 && new > 0.8, "{old} of the old, {new} of the new");
}

#[test]
fn the_window_follows_the_workload() {
    let mut simulation = Simulation::new(500, 2);
    simulation.replay((0..60_000).map(|step| step / 90 * 30 + step % 30));
    let large = simulation.windows.last().copied();
    simulation.replay((0..100).flat_map(|_| 1_000_000..1_001_000));
    let small = simulation.windows.last().copied();
    assert!(large > small, "{large:?} for recency, {small:?} for a loop");
}

#[test]
fn half_the_items_may_leave_by_themselves() {
    let mut simulation = Simulation::new(200, 3);
    let mut next = random(5);
    for round in 0..200 {
        simulation.replay((0..100).map(|_| next(400)));
        let gone: Vec<At> = simulation.policy.items().map(|(at, _)| at).collect();
        for at in gone.into_iter().filter(|at| (at + round) % 2 == 0) {
            assert!(simulation.policy.remove(at).is_some());
        }
        simulation.policy.validate();
    }
}

#[test]
fn a_replaced_item_stays_where_it_is() {
    let mut policy = Policy::new(0.1);
    let at = policy.insert(Segment::Window, 7, Unit(Marks::new()));
    (0..5).for_each(|_| assert!(policy.hit(at).is_some()));
    let uses = policy.uses_of(at);
    assert!(policy.replace(at, Unit(Marks::new())).is_some());
    assert_eq!(policy.uses_of(at), uses);
    assert_eq!(policy.find_hash(7), Some(at));
    policy.validate();
}
