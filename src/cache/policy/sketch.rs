//! `Sketch`: about how often keys were requested that are not kept.
//!
//! A count-min sketch of counters of four bits, as TinyLFU uses it (Einziger, Friedman, Manes, ACM
//! ToS 2017): a key has four counters, and the least of them is closest to its count. Only counters that
//! are too low are raised (conservative update: Estan, Varghese, SIGCOMM 2002). All four are in one block
//! of 64 bytes, so that a key costs one cache line.

use super::table::MAX_COUNT as MAX;

const BLOCK: usize = 8;

/// Clears the top bit of every counter, so that a shift moves no bit into its neighbour.
const HALVES: u64 = 0x7777_7777_7777_7777;

pub(super) struct Sketch {
    words: Vec<u64>,
}

impl Sketch {
    /// For about `keys` kept keys: sixteen counters for each.
    pub(super) fn new(keys: usize) -> Sketch {
        Sketch {
            words: vec![0; keys.max(256).next_power_of_two()],
        }
    }

    /// Makes the count of a key at least `count`.
    pub(super) fn raise(&mut self, hash: u32, count: u8) {
        for (word, shift) in self.counters(hash) {
            let counter = (self.words[word] >> shift) as u8 & MAX;
            if counter < count {
                self.words[word] += u64::from(count - counter) << shift;
            }
        }
    }

    pub(super) fn estimate(&self, hash: u32) -> u8 {
        let counters = self.counters(hash);
        let counts = counters.map(|(word, shift)| (self.words[word] >> shift) as u8 & MAX);
        counts.into_iter().fold(MAX, u8::min)
    }

    /// Halves all counts: requests of long ago count less.
    pub(super) fn halve(&mut self) {
        for word in &mut self.words {
            *word = (*word >> 1) & HALVES;
        }
    }

    /// The word and the shift of each of the counters of a key.
    fn counters(&self, hash: u32) -> [(usize, u32); 4] {
        // Mixed once more: the index of the table uses the same bits.
        let mixed = u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = mixed ^ mixed >> 32;
        let block = (mixed >> 32) as usize & (self.words.len() / BLOCK - 1);
        std::array::from_fn(|row| {
            let bits = mixed >> (5 * row);
            let word = block * BLOCK + 2 * row + (bits & 1) as usize;
            (word, (bits >> 1 & 15) as u32 * 4)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: u32) -> u32 {
        key.wrapping_mul(0x9E37_79B1).rotate_left(15) ^ key
    }

    fn count(sketch: &mut Sketch, key: u32) {
        let count = sketch.estimate(hash(key)) + 1;
        sketch.raise(hash(key), count.min(MAX));
    }

    #[test]
    fn a_count_is_never_too_low() {
        let mut sketch = Sketch::new(256);
        for key in 0..64 {
            (0..key % 20).for_each(|_| count(&mut sketch, key));
        }
        for key in 0..64 {
            let count = sketch.estimate(hash(key));
            assert!(u32::from(count) >= (key % 20).min(15), "{key}");
        }
    }

    #[test]
    fn counts_of_as_many_keys_as_it_is_for_are_nearly_exact() {
        let mut sketch = Sketch::new(1_024);
        (0..1_024).for_each(|key| count(&mut sketch, key));
        let wrong = (0..1_024).filter(|&key| sketch.estimate(hash(key)) != 1);
        assert!(wrong.count() < 20);
        let unseen = (5_000..6_000).filter(|&key| sketch.estimate(hash(key)) > 0);
        assert!(unseen.count() < 50);
    }

    #[test]
    fn halving_halves_every_counter() {
        let mut sketch = Sketch::new(256);
        for key in 0..40 {
            sketch.raise(hash(key), (key % 16) as u8);
        }
        let before: Vec<u8> = (0..40).map(|key| sketch.estimate(hash(key))).collect();
        sketch.halve();
        for (key, before) in (0..).zip(before) {
            assert_eq!(sketch.estimate(hash(key)), before / 2);
        }
    }

    #[test]
    fn raising_never_lowers() {
        let mut sketch = Sketch::new(256);
        sketch.raise(7, 9);
        sketch.raise(7, 3);
        assert_eq!(sketch.estimate(7), 9);
    }
}
