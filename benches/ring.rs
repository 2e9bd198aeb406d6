//! Who owns a key: how long it takes to tell, how evenly keys are spread, how few move when a peer is
//! added, and what the table of owners costs.
//!
//! The rivals: crate `hashring` with 1,024 points for each peer, and the ring of the Go groupcache
//! (CRC-32, 50 points for each peer, a binary search).
//!
//! Keys are random. A look-up is cold if something else has used the processor's caches before it: 256 KiB
//! empty the first cache of a core where the figures were made, 4 MiB all that a core has for itself, and
//! 64 MiB also the one that all share.
//!
//! Times are those that this thread has used a processor, but for cold look-ups, which are too short for
//! that. To make a table takes the least of several runs: whatever else runs on the machine only adds.
//!
//! Our ring is private to the library, but pure: it is compiled in here as it is.

#![allow(
    clippy::print_stdout,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

#[path = "../src/protocol/hash.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the library and its tests use all of it"
)]
mod hash;
#[path = "../src/cluster/ring/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the library and its tests use all of it"
)]
mod ring;

/// As the ring knows it.
mod protocol {
    pub(crate) use crate::hash;
}

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use groupcache_sync_benches::{
    Bars, Counting, Failure, Options, Rng, Table, live, median, nanos, percentile, ratio, rotated,
    thread_time,
};
use hashring::HashRing;

use ring::{Member, Ring};

#[global_allocator]
static COUNTING: Counting = Counting;

const PEERS: [usize; 5] = [1, 3, 16, 100, 1_000];

/// Those for whom look-ups have a bar, and the table its memory.
const FEW: usize = 16;
const MANY: usize = 100;

/// Those for whom making a table has a bar.
const MOST: usize = 1_000;

/// Points of each peer of `hashring`, and of Go's ring.
const POINTS: usize = 1_024;
const GO_POINTS: usize = 50;

/// Enough to reach every line of the table, and few enough to leave room for it in the cache.
const KEYS: usize = 1 << 12;

/// What else uses the processor's caches before each look-up: nothing, so that they are warm, or this
/// many bytes; and how many look-ups a round has.
const USES: [(&str, usize, usize); 4] = [
    ("warm", 0, KEYS),
    ("first one cold", 256 << 10, 256),
    ("cold", 4 << 20, 64),
    ("cold to the last", 64 << 20, 4),
];

const OURS: usize = 0;
const GO: usize = 2;

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

fn random_keys(count: usize) -> Vec<String> {
    let mut rng = Rng::new(1);
    let key = |_| format!("user:{:011}", rng.below(100_000_000_000));
    (0..count).map(key).collect()
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

/// Looks nothing up: what it takes to measure.
struct Nothing;

impl Contender for Nothing {
    fn name(&self) -> &'static str {
        "nothing"
    }

    fn owner(&self, _: &str) -> Option<usize> {
        None
    }
}

/// Nanoseconds for a look-up, with warm caches.
fn time_warm(contender: &dyn Contender, keys: &[String]) -> f64 {
    let begin = thread_time();
    for key in keys {
        black_box(contender.owner(black_box(key)));
    }
    (thread_time() - begin).as_nanos() as f64 / keys.len() as f64
}

/// Nanoseconds for a look-up, the middle of them, if all of `memory` is read before each.
fn time_cold(contender: &dyn Contender, keys: &[String], memory: &[u64]) -> f64 {
    let time = |key: &String| {
        const LINE: usize = 64 / size_of::<u64>();
        black_box(memory.iter().step_by(LINE).fold(0, |sum, word| sum ^ word));
        let key = black_box(key.clone()); // which whoever asks has just read
        let begin = Instant::now();
        black_box(contender.owner(&key));
        begin.elapsed().as_nanos() as f64
    };
    median(keys.iter().map(time))
}

/// Prints the times of look-ups, and gives ours among few and among many divided by Go's.
fn lookups(keys: &[String], options: &Options) -> Vec<(String, f64)> {
    let mut table = Table::new(["a look-up", "caches", "time", "ours divided by it"]);
    let mut ratios = Vec::new();
    for peers in PEERS {
        let names = names(0, peers);
        let contenders: [Box<dyn Contender>; 4] = [
            Box::new(Ours(ring_of(&names))),
            Box::new(Hashring::new(peers)),
            Box::new(Go::new(&names)),
            Box::new(Nothing),
        ];
        let has_bar = [FEW, MANY].contains(&peers);
        let uses = if has_bar { &USES[..] } else { &USES[..1] };
        for &(caches, bytes, lookups) in uses {
            let memory = vec![1_u64; bytes / size_of::<u64>()];
            let round = |round: usize| {
                let mut times = [0.0; 4];
                let from = round * lookups % (keys.len() - lookups + 1);
                for at in rotated(contenders.len(), round) {
                    // The other contenders have used the caches: this one shall have them for itself.
                    time_warm(&*contenders[at], keys);
                    let keys = &keys[from..from + lookups];
                    times[at] = match bytes {
                        0 => time_warm(&*contenders[at], keys),
                        _ => time_cold(&*contenders[at], keys, &memory),
                    };
                }
                let nothing = times[3];
                times.map(|time| time - nothing)
            };
            round(0); // Warms up.
            let rounds: Vec<[f64; 4]> = (0..options.rounds(21)).map(round).collect();
            let mid = |of: &dyn Fn(&[f64; 4]) -> f64| median(rounds.iter().map(of));
            for (at, contender) in contenders[..3].iter().enumerate() {
                table.row([
                    format!("among {peers}, {}", contender.name()),
                    caches.to_owned(),
                    nanos(mid(&|times| times[at])),
                    ratio(mid(&|times| times[OURS] / times[at])),
                ]);
            }
            if has_bar {
                let what = format!("a look-up among {peers}, {caches}: ours / Go's");
                ratios.push((what, mid(&|times| times[OURS] / times[GO])));
            }
        }
    }
    table.print();
    println!();
    ratios
}

/// Prints how full the fullest of so many peers is in 95 of 100 sets of peers at most, and gives
/// ours.
fn balance(peers: usize, sets: usize, table: &mut Table) -> f64 {
    let worst = |fullest_of: &dyn Fn(&[String]) -> f64| {
        let of_set = |set| (fullest_of(&names(set, peers)) * 1e6) as u64;
        let mut all: Vec<u64> = (0..sets).map(of_set).collect();
        percentile(&mut all, 0.95) as f64 / 1e6
    };
    let ours = worst(&|names| fullest(&shares(&ring_of(names), peers)));
    let go = worst(&|names| fullest(&shares(&Ring::golang(&members(names)), peers)));
    table.row([
        format!("{peers} peers, {sets} sets"),
        format!("{ours:.3}"),
        format!("{go:.3}"),
    ]);
    ours
}

/// The least time of the processor in milliseconds of several runs.
fn millis<T>(runs: usize, make: impl Fn() -> T) -> f64 {
    let run = |_| {
        let begin = thread_time();
        black_box(make());
        (thread_time() - begin).as_secs_f64() * 1e3
    };
    (0..runs).map(run).fold(f64::INFINITY, f64::min)
}

/// Prints what it takes to make tables and to follow changes of one peer, and gives for most peers how
/// long a new table takes, and the longest change relative to it.
fn making(options: &Options) -> (f64, f64) {
    let head = [
        "making, ms",
        "anew",
        "one joins",
        "one leaves",
        "other weight",
    ];
    let mut table = Table::new(head);
    let mut last = (0.0, 0.0);
    for peers in [FEW, MANY, MOST] {
        let more = members(&names(0, peers + 1));
        let list = &more[..peers];
        let mut heavier = list.to_vec();
        heavier[peers / 2].weight = 2.0;
        let ring = Ring::new(list);
        let runs = options.rounds(11);
        let anew = millis(runs, || Ring::new(list));
        let changes = [&more[..], &list[1..], &heavier].map(|to| millis(runs, || ring.changed(to)));
        let mut row = vec![format!("{peers} peers, ours"), format!("{anew:.2}")];
        row.extend(changes.map(|change| format!("{change:.2}")));
        table.row(row);
        let go = millis(runs, || Ring::golang(list));
        let row = [format!("{peers} peers, Go's ring"), format!("{go:.2}")];
        table.row(row.into_iter().chain(["", "", ""].map(str::to_owned)));
        last = (anew, changes.into_iter().fold(0.0, f64::max) / anew);
    }
    table.print();
    println!();
    last
}

/// KiB that it keeps.
fn kib<T>(make: impl FnOnce() -> T) -> f64 {
    let before = live();
    let made = make();
    let after = live();
    drop(made);
    (after - before) as f64 / 1024.0
}

/// Prints what is kept in memory, and gives ours for many peers.
fn memory() -> f64 {
    let mut table = Table::new(["memory, KiB", "ours", "Go's ring", "hashring"]);
    let mut of_many = 0.0;
    for peers in PEERS {
        let names = names(0, peers);
        let ours = kib(|| ring_of(&names));
        let (go, hashring) = (kib(|| Go::new(&names)), kib(|| Hashring::new(peers)));
        let cells = [ours, go, hashring].map(|kib| format!("{kib:.1}"));
        table.row([format!("{peers} peers")].into_iter().chain(cells));
        if peers == MANY {
            of_many = ours;
        }
    }
    table.print();
    println!();
    of_many
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
    let keys = random_keys(KEYS);
    println!();
    let ratios = lookups(&keys, &options);
    let mut table = Table::new(["fullest peer / mean, 95 % of sets", "ours", "Go's ring"]);
    let sets = if options.quick { 10 } else { 100 };
    let balances = [(FEW, 100), (MANY, 100), (MOST, sets)]
        .map(|(peers, sets)| (peers, balance(peers, sets, &mut table)));
    table.print();
    println!();
    let (anew, change) = making(&options);
    let memory = memory();

    let mut bars = Bars::default();
    for (what, ratio) in ratios {
        bars.hold(&what, ratio, 1.0);
    }
    for ((peers, worst), bar) in balances.into_iter().zip([1.05, 1.10, 1.35]) {
        bars.hold(&format!("{peers} peers: fullest / mean"), worst, bar);
    }
    let keys = random_keys(16 * KEYS);
    for peers in PEERS {
        let bar = 1.0 / peers as f64 + 0.005;
        let what = format!("one more than {peers}: percent of the keys that moved");
        bars.hold(&what, moved(peers, &keys)? * 100.0, bar * 100.0);
    }
    for weight in [0.5, 2.0, 4.0] {
        let error = (weighted(weight, 15) - 1.0).abs();
        let what = format!("weight {weight} among 15 of 1: error of its share");
        bars.hold(&what, error, 0.05);
    }
    bars.hold(&format!("{MANY} peers: KiB"), memory, 640.0);
    bars.hold(&format!("a table for {MOST} peers: ms"), anew, 300.0);
    bars.hold("a change by one of them, relative to it", change, 0.1);
    Ok(bars.exit_code(options.check))
}
