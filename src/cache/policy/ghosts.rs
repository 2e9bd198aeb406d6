//! `Ghosts`: which keys left a short while ago, and when they were last used.
//!
//! As the ghost lists of ARC (Megiddo, Modha, FAST 2003) and 2Q, in eight bytes a key: a part of
//! its hash and the turn of its last use. In a full bucket, the oldest is replaced.

const WAYS: usize = 4;

/// The tag of an empty entry. A key with this tag gets another one.
const NOBODY: u32 = 0;

pub(super) struct Ghosts {
    buckets: Vec<[Ghost; WAYS]>,
}

#[derive(Clone, Copy, Default)]
struct Ghost {
    tag: u32,
    stamp: u32,
}

impl Ghosts {
    /// For about half as many keys as are kept.
    pub(super) fn new(kept: usize) -> Ghosts {
        let buckets = (kept / 2).div_ceil(WAYS).max(1);
        Ghosts {
            buckets: vec![[Ghost::default(); WAYS]; buckets],
        }
    }

    /// Remembers a key that leaves at `turn` and was last used at `stamp`.
    pub(super) fn put(&mut self, hash: u32, stamp: u32, turn: u32) {
        let tag = tag(hash);
        let bucket = self.bucket(hash);
        let age = |ghost: &Ghost| match ghost.tag {
            NOBODY => u32::MAX,
            _ => turn.wrapping_sub(ghost.stamp),
        };
        let way = match bucket.iter().position(|ghost| ghost.tag == tag) {
            Some(same) => same,
            None => (1..WAYS).fold(0, |oldest, way| {
                if age(&bucket[way]) > age(&bucket[oldest]) {
                    way
                } else {
                    oldest
                }
            }),
        };
        bucket[way] = Ghost { tag, stamp };
    }

    /// The turn at which a key that left was last used.
    pub(super) fn get(&mut self, hash: u32) -> Option<u32> {
        let tag = tag(hash);
        let bucket = self.bucket(hash);
        let ghost = bucket.iter().find(|ghost| ghost.tag == tag)?;
        Some(ghost.stamp)
    }

    /// Forgets a key that came back.
    pub(super) fn remove(&mut self, hash: u32) {
        let tag = tag(hash);
        let bucket = self.bucket(hash);
        if let Some(ghost) = bucket.iter_mut().find(|ghost| ghost.tag == tag) {
            *ghost = Ghost::default();
        }
    }

    fn bucket(&mut self, hash: u32) -> &mut [Ghost; WAYS] {
        // Mixed once more, so that bucket and tag are of different bits.
        let spread = u64::from(hash.wrapping_mul(0x9E37_79B1));
        let at = (spread * self.buckets.len() as u64) >> 32;
        &mut self.buckets[at as usize]
    }
}

fn tag(hash: u32) -> u32 {
    hash.max(NOBODY + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_replaced() {
        let mut ghosts = Ghosts::new(0);
        let key = |number: u32| number + 1;
        for number in 0..5 {
            ghosts.put(key(number), number, 10);
        }
        assert_eq!(ghosts.get(key(0)), None);
        assert_eq!(ghosts.get(key(4)), Some(4));
        ghosts.remove(key(4));
        assert_eq!(ghosts.get(key(4)), None);
    }

    #[test]
    fn a_key_is_remembered_once() {
        let mut ghosts = Ghosts::new(0);
        ghosts.put(7, 1, 5);
        ghosts.put(7, 4, 5);
        assert_eq!(ghosts.get(7), Some(4));
        ghosts.remove(7);
        assert_eq!(ghosts.get(7), None);
    }

    #[test]
    fn ages_survive_the_turn_running_over() {
        let mut ghosts = Ghosts::new(0);
        let key = |number: u32| number + 1;
        let turn = 5_u32;
        for number in 0..5 {
            ghosts.put(key(number), turn.wrapping_sub(10 - number), turn);
        }
        assert_eq!(ghosts.get(key(0)), None);
        assert!((1..5).all(|number| ghosts.get(key(number)).is_some()));
    }
}
