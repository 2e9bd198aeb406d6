//! Who owns a key: how long it takes to tell, how evenly keys are spread, and how few move when a
//! peer is added.
//!
//! The rivals: crate `hashring` with as many points as ours, and the ring of the Go groupcache
//! (CRC-32, 50 points for each peer, a binary search).
//!
//! Our ring is private to the library, but pure: it is compiled in here as it is.

#![allow(
    clippy::print_stdout,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

#[path = "../src/protocol/hash.rs"]
#[allow(dead_code, reason = "the library uses all of it")]
mod hash;
#[path = "../src/cluster/ring/mod.rs"]
#[allow(dead_code, reason = "the library uses all of it")]
mod ring;

/// As the ring knows it.
mod protocol {
    pub(crate) use crate::hash;
}

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use groupcache_sync_benches::{
    Bars, Failure, Options, Table, median, nanos, percentile, ratio, rotated,
};
use hashring::HashRing;

use ring::{Member, Ring};

const PEERS: [usize; 4] = [1, 3, 16, 100];

/// Points of each peer: ours, which `hashring` gets too, and Go's.
const POINTS: usize = 1_024;
const GO_POINTS: usize = 50;

const KEYS: usize = 1 << 14;

const OURS: usize = 0;

/// A ring.
trait Contender {
    fn name(&self) -> &'static str;

    /// The position of the peer that owns this key.
    fn owner(&self, key: &str) -> Option<usize>;
}

struct Ours(Ring);

impl Contender for Ours {
    fn name(&self) -> &'static str {
        "groupcache-sync"
    }

    fn owner(&self, key: &str) -> Option<usize> {
        self.0.owner(key.as_bytes())
    }
}

/// A point of `hashring`, which hashes it with the number.
#[derive(Clone, Hash)]
struct Point {
    peer: usize,
    number: usize,
}

struct Hashring(HashRing<Point>);

impl Hashring {
    fn new(peers: usize) -> Hashring {
        let mut ring = HashRing::new();
        let points = (0..peers * POINTS).map(|at| Point {
            peer: at / POINTS,
            number: at % POINTS,
        });
        ring.batch_add(points.collect());
        Hashring(ring)
    }
}

impl Contender for Hashring {
    fn name(&self) -> &'static str {
        "hashring"
    }

    fn owner(&self, key: &str) -> Option<usize> {
        self.0.get(&key).map(|point| point.peer)
    }
}

/// `consistenthash.Map` of the Go groupcache. It looks the peer up in a map afterwards; here the
/// point has it.
struct Go(Vec<(u32, u32)>);

impl Go {
    fn new(names: &[String]) -> Go {
        let mut points = Vec::new();
        for (peer, name) in names.iter().enumerate() {
            for point in 0..GO_POINTS {
                let hash = crc32fast::hash(format!("{point}{name}").as_bytes());
                points.push((hash, peer as u32));
            }
        }
        points.sort_unstable();
        Go(points)
    }
}

impl Contender for Go {
    fn name(&self) -> &'static str {
        "Go's ring"
    }

    fn owner(&self, key: &str) -> Option<usize> {
        let hash = crc32fast::hash(key.as_bytes());
        let at = self.0.partition_point(|&(point, _)| point < hash);
        let owner = self.0.get(at).or(self.0.first());
        owner.map(|&(_, peer)| peer as usize)
    }
}

/// The names of one of many sets of peers.
fn names(set: usize, peers: usize) -> Vec<String> {
    let name = |peer| format!("http://10.{set}.0.{peer}:7000");
    (0..peers).map(name).collect()
}

fn members(names: &[String]) -> Vec<Member> {
    let member = |name: &String| Member {
        id: name.clone(),
        weight: 1.0,
    };
    names.iter().map(member).collect()
}

fn ring_of(names: &[String]) -> Ring {
    Ring::new(&members(names))
}

fn shares(ring: &Ring, peers: usize) -> Vec<f64> {
    (0..peers).map(|at| ring.share(at)).collect()
}

/// The fullest peer's share, relative to the mean.
fn fullest(shares: &[f64]) -> f64 {
    shares.iter().copied().fold(0.0, f64::max) * shares.len() as f64
}

/// Nanoseconds for a lookup.
fn time(contender: &dyn Contender, keys: &[String]) -> f64 {
    let begin = Instant::now();
    for key in keys {
        black_box(contender.owner(black_box(key)));
    }
    begin.elapsed().as_nanos() as f64 / keys.len() as f64
}

/// Prints the times, and gives ours with most peers.
fn lookups(keys: &[String], options: &Options) -> f64 {
    let mut table = Table::new(["a lookup", "time", "ours divided by it"]);
    let mut longest = 0.0;
    for peers in PEERS {
        let names = names(0, peers);
        let contenders: [Box<dyn Contender>; 3] = [
            Box::new(Ours(ring_of(&names))),
            Box::new(Hashring::new(peers)),
            Box::new(Go::new(&names)),
        ];
        let round = |round| {
            let mut times = [0.0; 3];
            for at in rotated(contenders.len(), round) {
                times[at] = time(&*contenders[at], keys);
            }
            times
        };
        round(0); // Warms up.
        let rounds: Vec<[f64; 3]> = (0..options.rounds(51)).map(round).collect();
        let mid = |of: &dyn Fn(&[f64; 3]) -> f64| median(rounds.iter().map(of));
        for (at, contender) in contenders.iter().enumerate() {
            table.row([
                format!("among {peers}, {}", contender.name()),
                nanos(mid(&|times| times[at])),
                ratio(mid(&|times| times[OURS] / times[at])),
            ]);
        }
        longest = mid(&|times| times[OURS]);
    }
    table.print();
    println!();
    longest
}

/// Prints how full the fullest of so many peers is in 95 of 100 sets of peers at most, and gives
/// ours.
fn balance(peers: usize, table: &mut Table) -> f64 {
    let worst = |fullest_of: &dyn Fn(&[String]) -> f64| {
        let of_set = |set| (fullest_of(&names(set, peers)) * 1e6) as u64;
        let mut all: Vec<u64> = (0..100).map(of_set).collect();
        percentile(&mut all, 0.95) as f64 / 1e6
    };
    let ours = worst(&|names| fullest(&shares(&ring_of(names), peers)));
    let go = worst(&|names| fullest(&shares(&Ring::golang(&members(names)), peers)));
    table.row([
        format!("{peers} peers"),
        format!("{ours:.3}"),
        format!("{go:.3}"),
    ]);
    ours
}

/// The part of the keys that another peer owns once one more has come. None may move between those
/// who were there.
fn moved(peers: usize, keys: &[String]) -> Result<f64, Failure> {
    let names = names(0, peers + 1);
    let (before, after) = (ring_of(&names[..peers]), ring_of(&names));
    let mut moved = 0;
    for key in keys {
        let (was, is) = (before.owner(key.as_bytes()), after.owner(key.as_bytes()));
        if was == is {
            continue;
        }
        if is != Some(peers) {
            return Err(format!("{key} moved between peers that were there").into());
        }
        moved += 1;
    }
    Ok(f64::from(moved) / keys.len() as f64)
}

/// What a peer of this weight among so many of weight 1 owns, relative to what it should.
fn weighted(weight: f64, others: usize) -> f64 {
    let mut members = members(&names(0, others + 1));
    members[0].weight = weight;
    Ring::new(&members).share(0) / (weight / (weight + others as f64))
}

fn main() -> Result<ExitCode, Failure> {
    let options = Options::from_args();
    let keys: Vec<String> = (0..KEYS).map(|key| format!("user:{key:011}")).collect();
    println!();
    let lookup = lookups(&keys, &options);

    let mut fullest = Table::new(["fullest peer / mean, 95 % of sets", "ours", "Go's ring"]);
    let balances = [16, 100].map(|peers| (peers, balance(peers, &mut fullest)));
    fullest.print();

    let mut bars = Bars::default();
    println!();
    bars.hold("nanoseconds for a lookup among 100 peers", lookup, 40.0);
    for ((peers, worst), bar) in balances.into_iter().zip([1.10, 1.12]) {
        bars.hold(&format!("{peers} peers: fullest / mean"), worst, bar);
    }
    for peers in PEERS {
        let bar = 1.0 / peers as f64 + 0.02;
        let what = format!("one more than {peers}: part of the keys that moved");
        bars.hold(&what, moved(peers, &keys)?, bar);
    }
    for weight in [0.5, 2.0, 4.0] {
        let error = (weighted(weight, 15) - 1.0).abs();
        let what = format!("weight {weight} among 15 of 1: error of its share");
        bars.hold(&what, error, 0.10);
    }
    Ok(bars.exit_code(options.check))
}
