//! The ring of golang/groupcache: CRC-32 (IEEE), and 50 points for a peer, each the CRC of the number
//! of the point followed by the id of the peer.

use super::{Member, Ring, hash};

/// Points of a peer, Go's `defaultReplicas`.
const POINTS: usize = 50;

impl Ring {
    /// The ring that Go builds from `members` in this order, whatever their weights.
    pub(crate) fn golang(members: &[Member]) -> Ring {
        let mut points = Vec::with_capacity(POINTS * members.len());
        for (position, member) in members.iter().enumerate() {
            for point in 0..POINTS {
                let name = format!("{point}{}", member.id);
                points.push((crc(name.as_bytes()), position as u32));
            }
        }
        // Of equal points the last one counts: it comes first here, and stays.
        points.sort_unstable_by(|a, b| b.cmp(a));
        points.dedup_by_key(|point| point.0);
        points.reverse();
        let fingerprint = fingerprint_of(members, &points);
        Ring::of(points, members.len(), crc, fingerprint)
    }
}

/// The CRC in the upper half of the hash, so that the circle has the same width as a native one: Go
/// compares CRCs as unsigned numbers, and the shift keeps their order.
fn crc(bytes: &[u8]) -> u64 {
    u64::from(crc32fast::hash(bytes)) << 32
}

/// The fingerprint of the points, not of the list: its order matters only where points are equal.
fn fingerprint_of(members: &[Member], points: &[(u64, u32)]) -> u64 {
    let mut bytes = Vec::new();
    for &(point, position) in points {
        let id = &members[position as usize].id;
        bytes.extend_from_slice(&point.to_le_bytes());
        bytes.extend_from_slice(&(id.len() as u64).to_le_bytes());
        bytes.extend_from_slice(id.as_bytes());
    }
    hash(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(ids: &[&str]) -> Ring {
        let member = |id: &&str| Member {
            id: (*id).to_owned(),
            weight: 1.0,
        };
        Ring::golang(&ids.iter().map(member).collect::<Vec<_>>())
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
        let members = PEERS.map(|id| Member {
            id: id.to_owned(),
            weight: 1.0,
        });
        assert_ne!(
            ring(&PEERS).fingerprint(),
            Ring::new(&members).fingerprint()
        );
    }

    #[test]
    fn the_shares_add_up() {
        let ring = ring(&PEERS);
        let total: f64 = (0..3).map(|position| ring.share(position)).sum();
        assert!((total - 1.0).abs() < 1e-9);
        assert_eq!(Ring::golang(&[]).owner(b"key"), None);
    }
}
