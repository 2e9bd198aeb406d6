//! `Shadows`: how large the window should be, found by simulation.
//!
//! Two small policies without values run beside the real one, with a small and a large window, over
//! a sample of the keys and the same part of the capacity (miniature simulation: Waldspurger, Saemundsson,
//! Ahmad, ATC 2017; spatial sampling: Waldspurger et al., FAST 2015). After each period the real policy
//! takes over the window of the better one (set dueling: Qureshi et al., ISCA 2007).
//!
//! A sample can be wrong: a working set that does not fit may by chance fit into its shadow. So the hit
//! ratio of a shadow is also compared with the real one while its window is in force, and the excess is
//! deducted from then on.

use super::{Item, Marks, Policy};

/// The part of the bytes that the window of each shadow gets.
const WINDOWS: [f64; 2] = [0.005, 0.3];

/// The window in force until the first decision.
const FIRST: usize = 0;

/// The fewest items that a shadow should keep, and the smallest sample: one key in so many.
const KEPT: usize = 128;
const SPARSEST: usize = 32;

/// The factor by which past counts are multiplied after each period.
const MEMORY: f64 = 0.9;

/// The other window is taken only if it is better by more than chance explains: by this over the root of
/// the number of requests, as a part of them.
const NOISE: f64 = 0.3;

/// A shadow whose hits exceed the real ones by more than `LIE`, as a part of all requests, is corrected by
/// the excess, until the excess is less than `TRUTH`. The correction is multiplied by `DISTRUST` after
/// each period.
const LIE: f64 = 0.05;
const TRUTH: f64 = 0.025;
const DISTRUST: f64 = 0.98;

/// Periods until the real hit ratio shows the effect of a new window.
const SETTLING: u32 = 6;

pub(crate) struct Shadows {
    shadows: [Shadow; 2],
    /// The shadow whose window is in force, and for how many periods it has been.
    current: usize,
    settled: u32,
    /// Selects the sampled keys: their hashes have none of these bits.
    mask: u32,
    /// Sampled requests between two decisions: now, later on, and those left until the next decision.
    period: u32,
    last_period: u32,
    left: u32,
    /// Sampled requests, and those of them that hit in the real cache.
    requests: f64,
    real: f64,
    /// How many items were kept when the shadows were made.
    kept: usize,
}

struct Shadow {
    policy: Policy<Weight>,
    capacity: usize,
    hits: f64,
    /// By how much its hits exceeded the real ones, as a part of all requests.
    lie: f64,
}

impl Shadows {
    /// The window of a new policy.
    pub(crate) fn first_window() -> f64 {
        WINDOWS[FIRST]
    }

    /// Shadows of a policy that is full.
    pub(crate) fn new<T: Item>(policy: &Policy<T>) -> Shadows {
        let kept = policy.len();
        let ratio = (kept / KEPT).clamp(1, SPARSEST);
        let one_in = if ratio.is_power_of_two() {
            ratio
        } else {
            ratio.next_power_of_two() / 2
        };
        let mask = one_in as u32 - 1;
        let capacity = policy.bytes() / one_in;
        let mut sample: Vec<_> = policy
            .table
            .cells()
            .filter(|cell| is_sampled(cell.hash, mask))
            .map(|cell| {
                (
                    policy.turn.wrapping_sub(cell.stamp),
                    cell.hash,
                    cell.weight(),
                )
            })
            .collect();
        sample.sort_unstable_by(|a, b| b.cmp(a));
        let shadow = |window: f64| {
            let mut shadow = Shadow {
                policy: Policy::new(window),
                capacity,
                hits: 0.0,
                lie: 0.0,
            };
            for &(_, hash, weight) in &sample {
                shadow.request(hash, weight);
            }
            shadow
        };
        let last_period = (2 * kept / one_in).max(KEPT) as u32;
        // The first decisions come early: a wrong window costs most while a cache is new.
        let period = last_period / 4;
        Shadows {
            shadows: WINDOWS.map(shadow),
            current: WINDOWS
                .iter()
                .position(|&window| window == policy.window)
                .unwrap_or(FIRST),
            settled: 0,
            mask,
            period,
            last_period,
            left: period,
            requests: 0.0,
            real: 0.0,
            kept,
        }
    }

    /// Whether the shadows suit a policy with so many items.
    pub(crate) fn fit(&self, kept: usize) -> bool {
        (self.kept / 4..=self.kept * 2).contains(&kept)
    }

    /// Whether the shadows follow this key.
    #[inline]
    pub(crate) fn follow(&self, hash: u32) -> bool {
        is_sampled(hash, self.mask)
    }

    /// Simulates a request for a key that the shadows follow; `hit` tells whether it hit in the real
    /// cache. Gives the window to use from now on, at the end of a period.
    pub(crate) fn request(&mut self, hash: u32, weight: usize, hit: bool) -> Option<f64> {
        for shadow in &mut self.shadows {
            if shadow.request(hash, weight) {
                shadow.hits += 1.0;
            }
        }
        self.requests += 1.0;
        self.real += f64::from(u8::from(hit));
        self.left -= 1;
        if self.left > 0 {
            return None;
        }
        self.period = (self.period * 2).min(self.last_period);
        self.left = self.period;
        Some(self.decide())
    }

    /// Removes a key from the shadows.
    pub(crate) fn forget(&mut self, hash: u32) {
        for shadow in &mut self.shadows {
            if let Some(at) = shadow.policy.find_hash(hash) {
                shadow.policy.remove(at);
            }
        }
    }

    fn decide(&mut self) -> f64 {
        self.settled += 1;
        let current = &mut self.shadows[self.current];
        let lie = (current.hits - self.real) / self.requests;
        if self.settled >= SETTLING {
            if lie > LIE {
                current.lie = lie;
            } else if lie < TRUTH {
                current.lie = 0.0;
            }
        }
        let score = |shadow: &Shadow| shadow.hits / self.requests - shadow.lie;
        let other = 1 - self.current;
        let ahead = score(&self.shadows[other]) - score(&self.shadows[self.current]);
        if ahead > NOISE / self.requests.sqrt() {
            self.current = other;
            self.settled = 0;
        }
        for shadow in &mut self.shadows {
            shadow.hits *= MEMORY;
            shadow.lie *= DISTRUST;
        }
        self.requests *= MEMORY;
        self.real *= MEMORY;
        WINDOWS[self.current]
    }
}

/// What a shadow keeps of an item.
struct Weight {
    bytes: u32,
    marks: Marks,
}

impl Item for Weight {
    fn weight(&self) -> usize {
        self.bytes as usize
    }

    fn marks(&self) -> &Marks {
        &self.marks
    }

    fn marks_mut(&mut self) -> &mut Marks {
        &mut self.marks
    }
}

impl Shadow {
    /// Gets a key, or loads and keeps it. Tells whether it was a hit.
    fn request(&mut self, hash: u32, weight: usize) -> bool {
        if let Some(at) = self.policy.find_hash(hash) {
            self.policy.hit(at);
            return true;
        }
        let weight = weight.min(self.capacity);
        let door = self.policy.door(hash);
        while self.policy.bytes() + weight > self.capacity {
            if self.policy.evict(door, weight).is_none() {
                break;
            }
        }
        let weight = Weight {
            bytes: weight as u32,
            marks: Marks::new(),
        };
        self.policy.insert(door, hash, weight);
        false
    }
}

/// By the low bits: the table's index is in the order of the high bits.
#[inline]
fn is_sampled(hash: u32, mask: u32) -> bool {
    hash & mask == 0
}

impl std::fmt::Debug for Shadows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shadows").finish_non_exhaustive()
    }
}
