//! Tests of the table of slots.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::rank::{Contender, Field, LOGS, Leaders, log, score, value_of};
use super::table::{Change, OwnerTable, SLOTS, slot_of};
use super::{Member, Ring};
use crate::protocol::hash::hash;

fn member(id: &str, weight: f64) -> Member {
    Member {
        id: id.to_owned(),
        weight,
    }
}

fn members(ids: &[&str]) -> Vec<Member> {
    ids.iter().map(|id| member(id, 1.0)).collect()
}

fn numbered(count: usize) -> Vec<Member> {
    let member = |number| member(&format!("http://10.0.0.{number}:80"), 1.0);
    (0..count).map(member).collect()
}

fn owner<'a>(ids: &[&'a str], key: &str) -> &'a str {
    ids[Ring::new(&members(ids)).owner(key.as_bytes()).unwrap()]
}

/// Random numbers, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 += 1;
        (hash(&self.0.to_le_bytes()) % limit as u64) as usize
    }
}

/// Keys of different slots, and how many: owners of all keys can be told from them.
fn keys_of_slots(count: usize) -> Vec<String> {
    let mut seen = HashSet::new();
    let keys = (0..).map(|number| format!("key{number}"));
    let keys = keys.filter(|key| seen.insert(slot_of(key.as_bytes())));
    keys.take(count).collect()
}

fn by_id(members: &[Member], leaders: Leaders) -> (&str, &str) {
    let id = |at: u32| members[at as usize].id.as_str();
    (id(leaders.owner), id(leaders.deputy))
}

fn contenders(members: &[Member]) -> Vec<Contender> {
    members.iter().map(Contender::of).collect()
}

const GOLDEN_KEYS: [&str; 8] = ["", "foo", "bar", "a b", "/x", "user:1", "key1", "\u{1f600}"];

#[test]
fn golden_owners_never_change() {
    let mut list = members(&[
        "http://10.0.0.1:8080",
        "http://10.0.0.2:8080",
        "http://10.0.0.3:8080",
    ]);
    let owners = |list: &[Member]| {
        let ring = Ring::new(list);
        let of_key = |key: &str| {
            let (owner, deputy) = ring.owner_and_deputy(key.as_bytes()).unwrap();
            assert_eq!(ring.owner(key.as_bytes()), Some(owner));
            assert_eq!(ring.deputy(key.as_bytes()), deputy);
            format!("{}{} ", owner + 1, deputy.unwrap() + 1)
        };
        let all: String = GOLDEN_KEYS.map(of_key).concat();
        (all.trim_end().to_owned(), ring.fingerprint())
    };
    assert_eq!(hash(b"abc"), GOLDEN_HASH);
    let equal = owners(&list);
    (list[1].weight, list[2].weight) = (0.5, 2.0);
    let weighted = owners(&list);
    assert_eq!((equal.0.as_str(), equal.1), GOLDEN);
    assert_eq!((weighted.0.as_str(), weighted.1), GOLDEN_WEIGHTED);
}

// Computed by an independent program, from the definitions in PROTOCOL.md.
const GOLDEN_HASH: u64 = 17_033_832_736_259_837_875;
const GOLDEN: (&str, u64) = ("31 21 23 31 23 13 32 32", 3_315_934_685_546_706_207);
const GOLDEN_WEIGHTED: (&str, u64) = ("31 23 23 31 32 31 31 31", 7_139_218_092_636_968_362);

#[test]
fn the_order_of_the_list_never_matters() {
    let mut forward = members(&["a", "b", "c", "d"]);
    forward[2].weight = 3.0;
    let mut backward = forward.clone();
    backward.reverse();
    let (one, other) = (Ring::new(&forward), Ring::new(&backward));
    assert_eq!(one.fingerprint(), other.fingerprint());
    for key in keys_of_slots(1_000) {
        let (owner, deputy) = one.owner_and_deputy(key.as_bytes()).unwrap();
        let reversed = (3 - owner, deputy.map(|deputy| 3 - deputy));
        assert_eq!(other.owner_and_deputy(key.as_bytes()), Some(reversed));
    }
}

#[test]
fn fingerprints_tell_ids_and_weights_and_other_rings() {
    let fingerprint = |list: &[Member]| Ring::new(list).fingerprint();
    let mut list = members(&["a", "b", "c"]);
    let mut seen = HashSet::from([
        fingerprint(&[]),
        fingerprint(&list),
        fingerprint(&list[..2]),
        fingerprint(&members(&["ab", "c"])),
        fingerprint(&members(&["a", "bc"])),
        Ring::golang(&list).fingerprint(),
        Ring::golang(&[]).fingerprint(),
        5_630_735_420_155_168_807, // of three peers of equal weight, while they had points
    ]);
    assert_eq!(seen.len(), 8);
    list[1].weight = 2.0;
    assert!(seen.insert(fingerprint(&list)));
    list[1].weight += 1.0 / 65_536.0;
    assert!(seen.insert(fingerprint(&list)));
    let before = fingerprint(&list);
    list[1].weight += 0.2 / 65_536.0;
    assert_eq!(fingerprint(&list), before, "the owners are the same");
}

#[test]
fn an_empty_ring_owns_nothing_and_a_ring_of_one_owns_all() {
    assert_eq!(Ring::new(&[]).owner(b"key"), None);
    assert_eq!(Ring::new(&[]).owner_and_deputy(b"key"), None);
    assert_eq!(owner(&["only"], "key"), "only");
    let alone = Ring::new(&members(&["only"]));
    assert_eq!(alone.owner_and_deputy(b"key"), Some((0, None)));
    assert_eq!(alone.share(0), 1.0);
}

#[test]
fn logarithms_are_exact_in_their_table_and_never_grow_with_the_score() {
    let exact = |at: usize| ((1.0 + at as f64 / 256.0).log2() * 2f64.powi(32)) as u64;
    assert!((0..=256).all(|at| LOGS[at].abs_diff(exact(at)) <= 1));
    let golden = LOGS.iter().flat_map(|log| log.to_le_bytes());
    assert_eq!(hash(&golden.collect::<Vec<u8>>()), GOLDEN_LOGS);
    for (score, expected) in GOLDEN_LOGARITHMS {
        assert_eq!(log(score), expected, "{score:x}");
    }
    let mut dice = Dice(1);
    for bits in 1..=64 {
        for _ in 0..500 {
            let score = hash(&dice.below(usize::MAX).to_le_bytes()) >> (64 - bits);
            let exact = 64.0 - (score.max(1) as f64).log2();
            let found = log(score) as f64 / 2f64.powi(32);
            assert!((found - exact).abs() < 3e-6, "{score:x}: {found} {exact}");
            assert!(log(score) >= log(score.saturating_add(1)), "{score:x}");
        }
        let power = 1_u64 << (bits - 1);
        assert!(log(power - 1) >= log(power), "{power:x}");
    }
}

// Computed by the same independent program.
const GOLDEN_LOGS: u64 = 5_940_109_348_662_312_698;
const GOLDEN_LOGARITHMS: [(u64, u64); 10] = [
    (0, 64 << 32),
    (1, 64 << 32),
    (2, 63 << 32),
    (3, 268_070_544_839),
    (0x0123_4567_89ab_cdef, 33_559_941_884),
    (1 << 63, 1 << 32),
    (0xc000_0000_0000_0000, 1_782_572_487),
    (0xfedc_ba98_7654_3210, 27_602_999),
    (0xffff_ffff_0000_0000, 2),
    (u64::MAX, 1),
];

/// The order of all contenders in a slot by the definition alone.
fn ranked(members: &[Member], slot: usize) -> Vec<&str> {
    let rank = |member: &Member| {
        let contender = Contender::of(member);
        let score = score(contender.seed, value_of(slot));
        (log(score), contender.weight, score)
    };
    let mut all: Vec<_> = members.iter().map(|one| (rank(one), &one.id)).collect();
    all.sort_by(|(one, id), (other, other_id)| {
        let logs = (u128::from(one.0) * u128::from(other.1))
            .cmp(&(u128::from(other.0) * u128::from(one.1)));
        logs.then(other.2.cmp(&one.2)).then(id.cmp(other_id))
    });
    all.iter().map(|(_, id)| id.as_str()).collect()
}

#[test]
fn leaders_are_the_first_two_of_all_in_order_with_equal_weights_too() {
    // With equal weights no logarithm is taken: the order is the same.
    for weights in [&[1.0][..], &[0.3], &[1.0, 2.0], &[0.00001, 100.0, 1.0, 7.3]] {
        for count in [2, 3, 17, 60] {
            let mut list = numbered(count);
            for (at, member) in list.iter_mut().enumerate() {
                member.weight = weights[at % weights.len()];
            }
            let contenders = contenders(&list);
            let field = Field::new(&contenders);
            for slot in (0..SLOTS).step_by(SLOTS / 200) {
                let leaders = by_id(&list, field.leaders(value_of(slot)));
                let all = ranked(&list, slot);
                assert_eq!(leaders, (all[0], all[1]), "{weights:?} {count} {slot}");
            }
        }
    }
}

#[test]
fn of_equal_peers_the_smaller_id_comes_first() {
    // The same seed stands in for scores that are equal.
    let mut same = contenders(&members(&["b", "c", "a"]));
    for contender in &mut same {
        contender.seed = 7;
    }
    let leaders = Field::new(&same).leaders(value_of(5));
    assert_eq!((leaders.owner, leaders.deputy), (2, 0));
}

#[test]
fn a_change_of_one_peer_moves_keys_to_it_or_from_it_alone() {
    let mut before = numbered(6);
    before[1].weight = 2.5;
    before[4].weight = 0.25;
    let old = Ring::new(&before);
    let keys = keys_of_slots(20_000);
    let mut joined = before.clone();
    joined.push(member("http://new:80", 1.0));
    let mut grown = before.clone();
    grown[3].weight = 3.0;
    let mut shrunk = before.clone();
    shrunk[1].weight = 1.0;
    for (after, concerned) in [(joined, 6), (grown, 3), (shrunk, 1)] {
        let new = Ring::new(&after);
        let mut moved = 0;
        for key in &keys {
            let (was, is) = (old.owner(key.as_bytes()), new.owner(key.as_bytes()));
            let is_concerned = was == Some(concerned) || is == Some(concerned);
            assert!(was == is || is_concerned, "{key}: {was:?} {is:?}");
            moved += usize::from(was != is);
        }
        assert!(moved > 0);
        let larger = new.share(concerned).max(if concerned < 6 {
            old.share(concerned)
        } else {
            0.0
        });
        assert!((moved as f64) < larger * 20_000.0 * 1.2, "{moved} {larger}");
    }
    let without = Ring::new(&before[1..]);
    for key in &keys {
        let (owner, deputy) = old.owner_and_deputy(key.as_bytes()).unwrap();
        let expected = if owner == 0 { deputy.unwrap() } else { owner };
        assert_eq!(without.owner(key.as_bytes()), Some(expected - 1), "{key}");
    }
}

#[test]
fn tables_after_changes_are_those_made_anew() {
    let seed = std::env::var("GROUPCACHE_SEED").map_or(2026, |seed| seed.parse().unwrap());
    let mut dice = Dice(seed * 1_000);
    let mut list = numbered(5);
    let mut table = OwnerTable::new(&list);
    for step in 0..20 {
        for _ in 0..=dice.below(3) {
            let at = dice.below(list.len());
            let weight = [1.0, 1.0, 0.5, 2.0, 0.01, 73.1][dice.below(6)];
            match dice.below(4) {
                0 if list.len() < 9 => {
                    let id = format!("{}-{step}", dice.below(1 << 20));
                    list.insert(at, member(&id, weight));
                }
                1 if list.len() > 2 => drop(list.swap_remove(at)),
                2 => list[at].weight = weight,
                _ => list.reverse(),
            }
        }
        let anew = OwnerTable::new(&list);
        // Whether the change is small or large.
        let change = Change::between(&table.peers, &contenders(&list));
        let after = table.after(&change, contenders(&list));
        assert!(after == anew, "GROUPCACHE_SEED={seed}, step {step}");
        assert!(table.changed(&list) == anew, "GROUPCACHE_SEED={seed}");
        table = after;
    }
}

#[test]
fn tables_change_from_nobody_to_many_and_back() {
    let list = numbered(300);
    let mut ring = Ring::new(&[]);
    for count in [0, 1, 2, 3, 1, 0, 255, 256, 257, 258, 256, 2, 0, 2] {
        ring = ring.changed(&list[..count]);
        let anew = Ring::new(&list[..count]);
        assert_eq!(ring.fingerprint(), anew.fingerprint());
        for key in GOLDEN_KEYS {
            let (one, other) = [&ring, &anew]
                .map(|ring| ring.owner_and_deputy(key.as_bytes()))
                .into();
            assert_eq!(one, other, "{count}");
        }
        let total: f64 = (0..count).map(|at| ring.share(at)).sum();
        assert!(count == 0 || (total - 1.0).abs() < 1e-9);
    }
}

#[test]
fn shares_add_up_and_follow_the_weights() {
    let mut list = members(&["a", "b", "c"]);
    list[2].weight = 2.0;
    let ring = Ring::new(&list);
    let total: f64 = (0..3).map(|position| ring.share(position)).sum();
    assert!((total - 1.0).abs() < 1e-9);
    assert!((ring.share(2) - 0.5).abs() < 0.01, "{}", ring.share(2));
    // A weight that rounds to nothing owns next to nothing, and 100 nearly all.
    let list = [member("a", 1e-9), member("b", 100.0), member("c", 1.0)];
    let ring = Ring::new(&list);
    assert!(ring.share(0) < 1e-4, "{}", ring.share(0));
    assert!(
        (ring.share(1) - 100.0 / 101.0).abs() < 0.001,
        "{}",
        ring.share(1)
    );
}

#[test]
fn deputies_of_one_owner_are_spread_evenly() {
    let list = numbered(16);
    let contenders = contenders(&list);
    let field = Field::new(&contenders);
    let mut counts: BTreeMap<(u32, u32), f64> = BTreeMap::new();
    for slot in 0..SLOTS {
        let leaders = field.leaders(value_of(slot));
        *counts.entry((leaders.owner, leaders.deputy)).or_default() += 1.0;
    }
    // All 240 pairs are equally frequent: chi-squared has 239 degrees of freedom.
    assert_eq!(counts.len(), 240);
    let expected = SLOTS as f64 / 240.0;
    let chi_squared: f64 = counts
        .values()
        .map(|count| (count - expected).powi(2) / expected)
        .sum();
    assert!((150.0..340.0).contains(&chi_squared), "{chi_squared}");
}

#[test]
fn no_peer_of_sixteen_has_much_more_than_its_share() {
    let ring = Ring::new(&numbered(16));
    let fullest = (0..16)
        .map(|position| ring.share(position))
        .fold(0.0, f64::max);
    assert!(fullest * 16.0 < 1.05, "max/mean {}", fullest * 16.0);
}

#[test]
fn the_owner_among_some_members_is_that_of_a_ring_of_those_alone() {
    let mut dice = Dice(11);
    for weights in [[1.0, 1.0], [1.0, 2.5]] {
        let weigh = |(at, id): (usize, &&str)| member(id, weights[at % 2]);
        let all: Vec<Member> = ["a", "b", "c", "d", "e"]
            .iter()
            .enumerate()
            .map(weigh)
            .collect();
        for make in [Ring::new, Ring::golang] {
            let ring = make(&all);
            let mut rings: HashMap<Vec<usize>, Ring> = HashMap::new(); // making one takes a while
            for key in keys_of_slots(200) {
                let key = key.as_bytes();
                let there: Vec<usize> = (0..all.len()).filter(|_| dice.below(2) > 0).collect();
                let some = there.iter().map(|&at| all[at].clone());
                let of_some = || make(&some.collect::<Vec<_>>());
                let of_some = rings.entry(there.clone()).or_insert_with(of_some);
                let expected = of_some.owner(key).map(|at| there[at]);
                assert_eq!(ring.owner_among(key, |at| there.contains(&at)), expected);
                let (owner, deputy) = ring.owner_and_deputy(key).unwrap();
                assert_eq!(ring.owner_among(key, |at| at != owner), deputy);
            }
        }
    }
}
