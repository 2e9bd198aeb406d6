//! `Shadows`: how large the window should be, found by trying.
//!
//! Two small policies without values run beside the real one, with a small and a large window, over
//! a sample of the keys and as much of the capacity (miniature simulation: Waldspurger, Saemundsson,
//! Ahmad, ATC 2017; spatial sampling: Waldspurger et al., FAST 2015). Every so often the real one
//! takes over the window of the better (set dueling: Qureshi et al., ISCA 2007).
//!
//! A sample can be wrong: what does not fit may by chance fit into its shadow. So a shadow is also
//! compared with what really happened while its window was in force, and loses what it promised too
//! much.

use super::{Item, Marks, Policy};

/// The part of the bytes that each of the shadows gives to newcomers.
const WINDOWS: [f64; 2] = [0.005, 0.3];

/// The window in force until there is an answer.
const FIRST: usize = 0;

/// Items a shadow should keep at least, and the smallest sample there is: one key in so many.
const KEPT: usize = 128;
const SPARSEST: usize = 32;

/// How much of the past counts after each period.
const MEMORY: f64 = 0.9;

/// By how much another window must be better, as a part of the requests seen: more than chance
/// would have it, which is this over the root of their number.
const NOISE: f64 = 0.3;

/// The part of all requests by which a shadow must be wrong to be called a liar, and right to be
/// believed again; how much of the distrust stays after each period.
const LIE: f64 = 0.05;
const TRUTH: f64 = 0.025;
const DISTRUST: f64 = 0.98;

/// Periods until the real one shows what a new window does.
const SETTLING: u32 = 6;

pub(crate) struct Shadows {
    shadows: [Shadow; 2],
    /// The one whose window is in force, and for how many periods.
    current: usize,
    settled: u32,
    /// Selects the sampled keys.
    mask: u32,
    /// Sampled requests between two decisions: now, in the end, and left until the next.
    period: u32,
    last_period: u32,
    left: u32,
    /// Sampled requests, and those of them that really hit.
    requests: f64,
    real: f64,
    /// How many were kept when these were made.
    kept: usize,
}

struct Shadow {
    policy: Policy<Weight>,
    capacity: usize,
    hits: f64,
    /// What it promised too much, as a part of all requests.
    lie: f64,
}

impl Shadows {
    /// The window to begin with.
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
        // The first decisions come soon: a wrong window costs most when a cache is new.
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

    /// Whether so many items need other shadows.
    pub(crate) fn fit(&self, kept: usize) -> bool {
        (self.kept / 4..=self.kept * 2).contains(&kept)
    }

    /// Whether the shadows follow this key.
    #[inline]
    pub(crate) fn follow(&self, hash: u32) -> bool {
        is_sampled(hash, self.mask)
    }

    /// Lets the shadows see a request for a key that they follow, and whether it really hit. Gives
    /// the window to use from now on, if it is time to decide.
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

    /// Lets the shadows see that a key is gone.
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

/// All that a shadow keeps of an item.
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
    /// Gets a key, or loads and keeps it. Tells whether it was there.
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

/// By the low bits: the index is in the order of the high ones.
#[inline]
fn is_sampled(hash: u32, mask: u32) -> bool {
    hash & mask == 0
}

impl std::fmt::Debug for Shadows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shadows").finish_non_exhaustive()
    }
}
