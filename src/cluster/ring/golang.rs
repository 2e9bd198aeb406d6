//! The ring of golang/groupcache: consistent hashing (Karger et al., STOC 1997) with CRC-32 (IEEE). A peer
//! has 50 points on a circle of hashes, each the CRC of the number of the point followed by the id of the
//! peer. A key belongs to the peer of the first point at or after its own hash.

use super::Member;
use crate::protocol::hash::hash;

/// Points of a peer, Go's `defaultReplicas`.
const POINTS: usize = 50;

#[derive(Debug)]
pub(crate) struct Circle {
    /// Hash and position of the member, sorted by hash; no two hashes are equal.
    points: Vec<(u32, u32)>,
    /// The index of the first point of each of the equal slices of the circle: a look-up reads one of
    /// these and then a point or two, instead of searching the whole circle.
    starts: Vec<u32>,
    /// By how many bits a hash is shifted right to give its slice.
    shift: u32,
    /// Share of the circle by position.
    shares: Vec<f64>,
    fingerprint: u64,
}

impl Circle {
    pub(super) fn new(members: &[Member]) -> Circle {
        let mut points = Vec::with_capacity(POINTS * members.len());
        for (position, member) in members.iter().enumerate() {
            for point in 0..POINTS {
                let name = format!("{point}{}", member.id);
                points.push((crc32fast::hash(name.as_bytes()), position as u32));
            }
        }
        // Of equal points the last one counts: it comes first here, and stays.
        points.sort_unstable_by(|a, b| b.cmp(a));
        points.dedup_by_key(|point| point.0);
        points.reverse();
        debug_assert!(points.is_sorted_by_key(|point| point.0));
        let slices = points.len().next_power_of_two().max(2);
        let shift = u32::BITS - slices.trailing_zeros();
        Circle {
            starts: starts_of_slices(&points, slices, shift),
            shift,
            shares: shares_of(&points, members.len()),
            fingerprint: fingerprint_of(members, &points),
            points,
        }
    }

    pub(super) fn owner(&self, key: &[u8]) -> Option<usize> {
        let point = self.points.get(self.index_of(key))?;
        Some(point.1 as usize)
    }

    /// The deputy is the next other member on the circle: Go's owner, were the owner not in the list.
    pub(super) fn owner_and_deputy(&self, key: &[u8]) -> Option<(usize, Option<usize>)> {
        let (before, from) = self.points.split_at_checked(self.index_of(key))?;
        let owner = from.first()?.1;
        let mut others = from.iter().chain(before);
        let deputy = others.find(|point| point.1 != owner);
        Some((owner as usize, deputy.map(|point| point.1 as usize)))
    }

    /// The owner that `key` would have if only the members at these positions were there.
    pub(super) fn owner_among(
        &self,
        key: &[u8],
        is_there: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let (before, from) = self.points.split_at_checked(self.index_of(key))?;
        let mut all = from.iter().chain(before).map(|point| point.1 as usize);
        all.find(|&position| is_there(position))
    }

    /// The index of the point that a key belongs to; 0 if there is no point.
    fn index_of(&self, key: &[u8]) -> usize {
        let hash = crc32fast::hash(key);
        let slice = (hash >> self.shift) as usize;
        let mut index = self.starts[slice] as usize;
        while let Some(&(point, _)) = self.points.get(index) {
            if point >= hash {
                return index;
            }
            index += 1;
        }
        0
    }

    pub(super) fn share(&self, position: usize) -> f64 {
        self.shares[position]
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

fn starts_of_slices(points: &[(u32, u32)], slices: usize, shift: u32) -> Vec<u32> {
    let mut starts = Vec::with_capacity(slices);
    let mut index = 0;
    for slice in 0..slices as u32 {
        while index < points.len() && points[index].0 >> shift < slice {
            index += 1;
        }
        starts.push(index as u32);
    }
    starts
}

fn shares_of(points: &[(u32, u32)], members: usize) -> Vec<f64> {
    let mut shares = vec![0.0; members];
    let Some(&(last, _)) = points.last() else {
        return shares;
    };
    let mut previous = last;
    for &(point, member) in points {
        // The arc before the first point wraps around the end of the circle.
        shares[member as usize] += f64::from(point.wrapping_sub(previous)) / 2f64.powi(32);
        previous = point;
    }
    if members == 1 {
        shares[0] = 1.0; // the sum of its arcs, without the rounding
    }
    shares
}

/// The fingerprint of the points, not of the list: its order matters only where points are equal.
fn fingerprint_of(members: &[Member], points: &[(u32, u32)]) -> u64 {
    let mut bytes = Vec::new();
    for &(point, position) in points {
        let id = &members[position as usize].id;
        // The CRC is the upper half of the number, as on the page of the protocol.
        bytes.extend_from_slice(&(u64::from(point) << 32).to_le_bytes());
        bytes.extend_from_slice(&(id.len() as u64).to_le_bytes());
        bytes.extend_from_slice(id.as_bytes());
    }
    hash(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    use super::super::Ring;

    fn members(ids: &[&str]) -> Vec<Member> {
        let member = |id: &&str| Member {
            id: (*id).to_owned(),
            weight: 1.0,
        };
        ids.iter().map(member).collect()
    }

    fn ring(ids: &[&str]) -> Circle {
        Circle::new(&members(ids))
    }

    const PEERS: [&str; 3] = [
        "http://10.0.0.1:8080",
        "http://10.0.0.2:8080",
        "http://10.0.0.3:8080",
    ];

    // The expected values of the tests below are the output of Go 1.19 with the package
    // `consistenthash` of golang/groupcache: `ring := consistenthash.New(50, nil)`, then
    // `ring.Add(PEERS...)` and `ring.Get(key)`.

    #[test]
    fn owners_are_those_of_go() {
        let ring = ring(&PEERS);
        for (key, owner) in [
            ("", 1),
            ("foo", 1),
            ("bar", 2),
            ("a b", 2),
            ("/x", 2),
            ("user:1", 2),
            ("key1", 2),
            ("\u{1f600}", 1),
            (".", 2),
            ("..", 1),
            ("a+b", 1),
            ("100%", 3),
        ] {
            assert_eq!(ring.owner(key.as_bytes()), Some(owner - 1), "{key:?}");
        }
    }

    #[test]
    fn ten_thousand_owners_are_those_of_go() {
        // There: a `crc32.NewIEEE()`, to which the owner of each key is written, and a count.
        let ring = ring(&PEERS);
        let mut all = crc32fast::Hasher::new();
        let mut owned = [0; 3];
        for number in 0..10_000 {
            let owner = ring.owner(format!("key{number}").as_bytes()).unwrap();
            all.update(PEERS[owner].as_bytes());
            owned[owner] += 1;
        }
        assert_eq!(owned, [3_429, 3_067, 3_504]);
        assert_eq!(all.finalize(), 3_072_093_638);
    }

    #[test]
    fn of_equal_points_the_last_one_counts() {
        // One of the points of each of these two is 1346186474; both orders, as Go has it.
        let (a, b) = ("http://cache-9928:80", "http://cache-124400:80");
        let (forward, backward) = (ring(&[a, b]), ring(&[b, a]));
        for key in ["key67", "key80", "key94", "key104", "key159"] {
            assert_eq!(forward.owner(key.as_bytes()), Some(1), "{key}");
            assert_eq!(backward.owner(key.as_bytes()), Some(1), "{key}");
        }
        assert_ne!(forward.fingerprint(), backward.fingerprint());
    }

    #[test]
    fn the_order_of_the_list_matters_nowhere_else() {
        let backward = [PEERS[2], PEERS[1], PEERS[0]];
        assert_eq!(ring(&PEERS).fingerprint(), ring(&backward).fingerprint());
        assert_ne!(ring(&PEERS).fingerprint(), ring(&PEERS[..2]).fingerprint());
        let native = Ring::new(&members(&PEERS)).fingerprint();
        assert_ne!(ring(&PEERS).fingerprint(), native);
    }

    #[test]
    fn the_shares_add_up() {
        let ring = ring(&PEERS);
        let total: f64 = (0..3).map(|position| ring.share(position)).sum();
        assert!((total - 1.0).abs() < 1e-9);
        assert_eq!(Circle::new(&[]).owner(b"key"), None);
        assert_eq!(Circle::new(&[]).owner_and_deputy(b"key"), None);
    }

    #[test]
    fn the_deputy_is_the_owner_where_the_owner_is_not_in_the_list() {
        let whole = ring(&PEERS);
        for number in 0..3_000 {
            let key = format!("key{number}");
            let (owner, deputy) = whole.owner_and_deputy(key.as_bytes()).unwrap();
            assert_eq!(whole.owner(key.as_bytes()), Some(owner));
            let mut others = PEERS.to_vec();
            others.remove(owner);
            let at = ring(&others).owner(key.as_bytes()).unwrap();
            assert_eq!(others[at], PEERS[deputy.unwrap()], "{key}");
        }
        let alone = ring(&PEERS[..1]).owner_and_deputy(b"key");
        assert_eq!(alone, Some((0, None)));
    }

    #[test]
    fn the_slices_agree_with_a_search_of_the_whole_circle() {
        let ring = ring(&PEERS);
        for number in 0..10_000 {
            let key = format!("key{number}");
            let hash = crc32fast::hash(key.as_bytes());
            let index = ring.points.partition_point(|&(point, _)| point < hash);
            let expected = ring.points[index % ring.points.len()].1 as usize;
            assert_eq!(ring.owner(key.as_bytes()), Some(expected));
        }
    }

    #[test]
    fn a_lookup_begins_at_the_first_point_of_its_slice() {
        // Four slices: two points in the first, none in the second, one in each of the others.
        let points = [(0, 0), (1 << 29, 1), (2 << 30, 0), (3 << 30, 1)];
        assert_eq!(starts_of_slices(&points, 4, 30), [0, 2, 2, 3]);
        // None in the first, and none after the second.
        assert_eq!(starts_of_slices(&[(1 << 30, 0)], 4, 30), [0, 0, 1, 1]);
    }
}
