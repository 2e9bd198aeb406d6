//! Sequences of keys, the same at every run.

/// A small generator of random numbers (splitmix64), for sequences that repeat.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next number, from 0 up to but not including 1.
    pub fn fraction(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// The next number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.number()) * end as u128) >> 64) as usize
    }
}

/// How keys are picked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// Each key as often as any other.
    Uniform,
    /// The key of rank n as often as 1/n to this power.
    Zipf(f64),
    /// One key alone.
    OneKey,
}

impl Draw {
    /// `length` picks out of `keys` keys.
    #[must_use]
    pub fn picks(self, keys: usize, length: usize, seed: u64) -> Vec<u32> {
        let mut rng = Rng::new(seed);
        match self {
            Draw::Uniform => (0..length).map(|_| rng.below(keys) as u32).collect(),
            Draw::OneKey => vec![rng.below(keys) as u32; length],
            Draw::Zipf(exponent) => {
                let ranks = zipf_table(keys, exponent);
                // The popular keys are anywhere, not side by side in memory.
                let order = shuffled(keys, &mut Rng::new(0x5eed));
                let pick = |_| {
                    let at = rng.fraction();
                    let rank = ranks.partition_point(|&sum| sum <= at);
                    order[rank.min(keys - 1)]
                };
                (0..length).map(pick).collect()
            }
        }
    }
}

/// The part of all picks that the first n ranks get, for each n.
fn zipf_table(keys: usize, exponent: f64) -> Vec<f64> {
    let mut sum = 0.0;
    let weigh = |rank: usize| {
        sum += (rank as f64).powf(-exponent);
        sum
    };
    let sums: Vec<f64> = (1..=keys).map(weigh).collect();
    sums.iter().map(|part| part / sum).collect()
}

fn shuffled(keys: usize, rng: &mut Rng) -> Vec<u32> {
    let mut order: Vec<u32> = (0..keys as u32).collect();
    for end in (1..keys).rev() {
        order.swap(end, rng.below(end + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(draw: Draw) -> Vec<usize> {
        let mut counts = vec![0; 1_000];
        for pick in draw.picks(1_000, 200_000, 1) {
            counts[pick as usize] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        counts
    }

    #[test]
    fn zipf_follows_its_law() {
        let counts = counts(Draw::Zipf(0.99));
        let near = |measured: usize, wanted: f64| (measured as f64 / wanted - 1.0).abs() < 0.1;
        let top = counts[0] as f64;
        assert!(near(counts[1], top / 2_f64.powf(0.99)), "{counts:?}");
        assert!(near(counts[9], top / 10_f64.powf(0.99)), "{counts:?}");
    }

    #[test]
    fn uniform_is_even() {
        let counts = counts(Draw::Uniform);
        assert!(counts[0] < 300 && counts[999] > 120, "{counts:?}");
    }

    #[test]
    fn sequences_repeat() {
        let draw = || Draw::Zipf(0.99).picks(100, 50, 7);
        assert_eq!(draw(), draw());
    }
}
