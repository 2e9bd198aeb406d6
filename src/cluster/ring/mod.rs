//! `Ring`: which peer owns a key. Consistent hashing (Karger et al., STOC 1997), immutable and pure.
//!
//! Every peer has many points on a circle of 64-bit hashes; a key belongs to the first point at or
//! after its own hash. A peer that joins or leaves moves only the keys next to its points.
//! `ring/golang.rs` builds the same from the points and the hash of golang/groupcache.

mod golang;

use crate::protocol::hash::hash;

/// Points of a peer of weight 1. With a good hash the peer with the largest share of 100 peers then
/// has about 10 % more than the mean.
const POINTS: usize = 1_024;

/// A member of the ring.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) id: String,
    /// Its share of the keys relative to other members.
    pub(crate) weight: f64,
}

#[derive(Debug)]
pub(crate) struct Ring {
    /// Hash and position of the member. Sorted by hash; equal hashes by member id, so that the order of
    /// the list never matters. (Go's rule is another one, and leaves no equal hashes.)
    points: Vec<(u64, u32)>,
    /// The index of the first point of each of the equal slices of the circle: a lookup reads one of
    /// these and then a point or two, instead of searching the whole circle.
    starts: Vec<u32>,
    /// By how many bits a hash is shifted right to give its slice.
    shift: u32,
    /// The hash function of keys.
    hash: fn(&[u8]) -> u64,
    /// Share of the circle by position in the list the ring was made of.
    shares: Vec<f64>,
    fingerprint: u64,
}

impl Ring {
    /// The ring of `members`, whose ids differ.
    pub(crate) fn new(members: &[Member]) -> Ring {
        let mut by_id: Vec<usize> = (0..members.len()).collect();
        by_id.sort_by(|&a, &b| members[a].id.cmp(&members[b].id));
        let mut points = Vec::new();
        for (rank, &index) in by_id.iter().enumerate() {
            let member = &members[index];
            for point in 0..points_of(member.weight) {
                points.push((hash_point(&member.id, point as u64), rank as u32));
            }
        }
        points.sort_unstable();
        for point in &mut points {
            point.1 = by_id[point.1 as usize] as u32;
        }
        let fingerprint = fingerprint_of(members, &by_id);
        Ring::of(points, members.len(), hash, fingerprint)
    }

    /// The ring with these points, sorted by hash, of this number of members.
    fn of(
        points: Vec<(u64, u32)>,
        members: usize,
        hash: fn(&[u8]) -> u64,
        fingerprint: u64,
    ) -> Ring {
        debug_assert!(points.is_sorted_by_key(|point| point.0));
        let slices = points.len().next_power_of_two().max(2);
        let shift = u64::BITS - slices.trailing_zeros();
        Ring {
            starts: starts_of_slices(&points, slices, shift),
            shift,
            hash,
            shares: shares_of(&points, members),
            fingerprint,
            points,
        }
    }

    /// The position, in the list the ring was made of, of the member that owns `key`; `None` if
    /// the ring is empty.
    pub(crate) fn owner(&self, key: &[u8]) -> Option<usize> {
        let hash = (self.hash)(key);
        let slice = (hash >> self.shift) as usize;
        let mut index = self.starts[slice] as usize;
        while let Some(&(point, member)) = self.points.get(index) {
            if point >= hash {
                return Some(member as usize);
            }
            index += 1;
        }
        self.points.first().map(|&(_, member)| member as usize)
    }

    /// The share of the circle, and so about the share of the keys, of the member at `position`.
    pub(crate) fn share(&self, position: usize) -> f64 {
        self.shares[position]
    }

    /// Equal on two nodes exactly if they agree on the owner of every key.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

fn points_of(weight: f64) -> usize {
    ((POINTS as f64 * weight).round() as usize).max(1)
}

fn hash_point(id: &str, point: u64) -> u64 {
    let mut bytes = Vec::with_capacity(id.len() + 8);
    bytes.extend_from_slice(id.as_bytes());
    bytes.extend_from_slice(&point.to_le_bytes());
    hash(&bytes)
}

fn starts_of_slices(points: &[(u64, u32)], slices: usize, shift: u32) -> Vec<u32> {
    let mut starts = Vec::with_capacity(slices);
    let mut index = 0;
    for slice in 0..slices as u64 {
        while index < points.len() && points[index].0 >> shift < slice {
            index += 1;
        }
        starts.push(index as u32);
    }
    starts
}

fn shares_of(points: &[(u64, u32)], members: usize) -> Vec<f64> {
    let mut shares = vec![0.0; members];
    let Some(&(last, _)) = points.last() else {
        return shares;
    };
    let mut previous = last;
    for &(point, member) in points {
        // The arc before the first point wraps around the end of the circle.
        shares[member as usize] += point.wrapping_sub(previous) as f64 / 2f64.powi(64);
        previous = point;
    }
    if members == 1 {
        shares[0] = 1.0; // the sum of its arcs, without the rounding
    }
    shares
}

fn fingerprint_of(members: &[Member], by_id: &[usize]) -> u64 {
    let mut bytes = Vec::new();
    for &index in by_id {
        let member = &members[index];
        bytes.extend_from_slice(&(member.id.len() as u64).to_le_bytes());
        bytes.extend_from_slice(member.id.as_bytes());
        bytes.extend_from_slice(&(points_of(member.weight) as u64).to_le_bytes());
    }
    hash(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(ids: &[&str]) -> Vec<Member> {
        let member = |id: &&str| Member {
            id: (*id).to_owned(),
            weight: 1.0,
        };
        ids.iter().map(member).collect()
    }

    fn owner<'a>(ids: &[&'a str], key: &str) -> &'a str {
        ids[Ring::new(&members(ids)).owner(key.as_bytes()).unwrap()]
    }

    #[test]
    fn golden_owners_never_change() {
        let ids = [
            "http://10.0.0.1:8080",
            "http://10.0.0.2:8080",
            "http://10.0.0.3:8080",
        ];
        let last = |key| owner(&ids, key).as_bytes()[14] as char;
        let owners: String = ["", "foo", "bar", "a b", "/x", "user:1", "key1", "\u{1f600}"]
            .map(last)
            .iter()
            .collect();
        assert_eq!(hash(b"abc"), GOLDEN_HASH);
        assert_eq!(owners, GOLDEN_OWNERS);
        assert_eq!(Ring::new(&members(&ids)).fingerprint(), GOLDEN_FINGERPRINT);
    }

    // Computed by an independent program, from the definitions in this file's comments.
    const GOLDEN_HASH: u64 = 17_033_832_736_259_837_875;
    const GOLDEN_OWNERS: &str = "32222122";
    const GOLDEN_FINGERPRINT: u64 = 5_630_735_420_155_168_807;

    #[test]
    fn the_order_of_the_list_never_matters() {
        let forward = ["a", "b", "c", "d"];
        let backward = ["d", "c", "b", "a"];
        for key in 0..1_000 {
            let key = format!("key{key}");
            assert_eq!(owner(&forward, &key), owner(&backward, &key));
        }
        assert_eq!(
            Ring::new(&members(&forward)).fingerprint(),
            Ring::new(&members(&backward)).fingerprint()
        );
    }

    #[test]
    fn the_slices_agree_with_a_search_of_the_whole_circle() {
        let ring = Ring::new(&members(&["a", "b", "c", "d", "e"]));
        for key in 0..10_000 {
            let key = format!("key{key}");
            let hash = hash(key.as_bytes());
            let index = ring.points.partition_point(|&(point, _)| point < hash);
            let expected = ring.points[index % ring.points.len()].1 as usize;
            assert_eq!(ring.owner(key.as_bytes()), Some(expected));
        }
    }

    #[test]
    fn a_new_peer_takes_its_share_and_moves_nothing_else() {
        let before = members(&["a", "b", "c", "d", "e"]);
        let mut after = before.clone();
        after.push(members(&["f"]).remove(0));
        let (old, new) = (Ring::new(&before), Ring::new(&after));
        let mut moved = 0;
        for key in 0..100_000 {
            let key = format!("key{key}");
            let (was, is) = (old.owner(key.as_bytes()), new.owner(key.as_bytes()));
            if was != is {
                assert_eq!(is, Some(5), "a key moved between two old peers");
                moved += 1;
            }
        }
        let share = f64::from(moved) / 100_000.0;
        assert!((share - 1.0 / 6.0).abs() < 0.02, "moved {share}");
    }

    #[test]
    fn shares_add_up_and_follow_the_weights() {
        let mut list = members(&["a", "b", "c"]);
        list[2].weight = 2.0;
        let ring = Ring::new(&list);
        let total: f64 = (0..3).map(|position| ring.share(position)).sum();
        assert!((total - 1.0).abs() < 1e-9);
        assert!((ring.share(2) - 0.5).abs() < 0.05, "{}", ring.share(2));
    }

    #[test]
    fn an_empty_ring_owns_nothing_and_a_ring_of_one_owns_all() {
        assert_eq!(Ring::new(&[]).owner(b"key"), None);
        assert_eq!(owner(&["only"], "key"), "only");
    }

    #[test]
    fn no_peer_of_sixteen_has_much_more_than_its_share() {
        let ids: Vec<String> = (0..16).map(|n| format!("http://10.0.0.{n}:80")).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let ring = Ring::new(&members(&ids));
        let fullest = (0..16)
            .map(|position| ring.share(position))
            .fold(0.0, f64::max);
        assert!(fullest * 16.0 < 1.12, "max/mean {}", fullest * 16.0);
    }

    #[test]
    fn a_lookup_begins_at_the_first_point_of_its_slice() {
        // Four slices: two points in the first, none in the second, one in each of the others.
        let points = [(0, 0), (1 << 61, 1), (2 << 62, 0), (3 << 62, 1)];
        assert_eq!(starts_of_slices(&points, 4, 62), [0, 2, 2, 3]);
        // None in the first, and none after the second.
        assert_eq!(starts_of_slices(&[(1 << 62, 0)], 4, 62), [0, 0, 1, 1]);
    }
}
