//! How many requests of real programs a full cache answers: ours, and what could stand in its place.
//!
//! A trace is replayed by one thread into an empty cache. What is not there is loaded and kept. All
//! contenders have room for as many entries, or for as many bytes of keys, values and overhead.
//!
//! Ours hashes keys with a random seed, so it runs several times; its median counts.
//!
//! The repository carries one trace. More are read from the folder after `--traces`.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use groupcache_sync::{ENTRY_OVERHEAD, Group, Node, Value};
use groupcache_sync_benches::{Bars, Failure, Options, Plot, Table, Trace, median};
use lru::LruCache;

/// How far ours may be below the best of the others, in points (hundredths of all requests).
const CELL_BAR: f64 = -0.5;

/// A cell with a bar of its own.
const HARD_CELL: (&str, f64) = ("multi3 600", -1.0);

/// How far the mean over all cells must be above the best mean of the others.
const MEAN_BAR: f64 = 4.0;

/// How far ours may be below LRU in bytes, where it is above it in objects.
const BYTES_BAR: f64 = -1.0;

/// What the default number of shards may cost.
const SHARDS_BAR: f64 = -0.3;

/// Traces longer than this are left out by `--quick`.
const LONG: usize = 1_000_000;

/// The length of a value where all are alike.
const VALUE: [u8; 8] = [7; 8];

const RIVALS: [Kind; 3] = [Kind::Lru, Kind::Quick, Kind::Moka];

/// A trace and how many entries there is room for.
struct Case {
    trace: &'static str,
    entries: &'static [usize],
    origin: Origin,
}

#[derive(Clone, Copy, PartialEq)]
enum Origin {
    /// What some service was asked for.
    Real,
    /// What some program did to stress a policy.
    Stress,
    /// Made here to show one thing; no part of the mean.
    Made,
}

const fn case(trace: &'static str, entries: &'static [usize], origin: Origin) -> Case {
    Case {
        trace,
        entries,
        origin,
    }
}

const CASES: [Case; 13] = [
    case("oltp", &[250, 1_000, 2_000, 5_000], Origin::Real),
    case("p3", &[32_768, 100_000, 200_000], Origin::Real),
    case("w106", &[2_500, 10_000, 50_000], Origin::Real),
    case("scarab-recs", &[1_000, 10_000, 50_000], Origin::Real),
    case("orm-busy", &[1_000, 5_000, 20_000], Origin::Real),
    case("web12", &[300, 1_000, 3_000], Origin::Real),
    case("glimpse", &[500, 1_000], Origin::Stress),
    case("multi3", &[600, 1_900], Origin::Stress),
    case("loop", &[500, 900], Origin::Stress),
    case("corda", &[512, 2_048], Origin::Stress),
    case("mixed", &[500, 1_000], Origin::Stress),
    case("scan", &[500, 2_000], Origin::Made),
    case("zipf", &[1_000, 10_000], Origin::Made),
];

const SIZED: &str = "web98-sized";
const MEBIBYTES: [usize; 4] = [1, 4, 16, 64];

/// The trace of this name, if it is at hand.
fn trace(name: &str, folder: Option<&Path>) -> Result<Option<Trace>, Failure> {
    let cycle = || Trace::cycle("loop", 1_011, 500);
    let carried = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data");
    Ok(Some(match (name, folder) {
        ("loop", _) => cycle(),
        ("scan", _) => Trace::zipf(name, 5_000, 0.9, 300_000).with_scan(1),
        ("zipf", _) => Trace::zipf(name, 100_000, 0.99, 600_000),
        ("web12", _) => Trace::read(&carried(), name)?,
        (_, None) => return Ok(None),
        ("mixed", Some(folder)) => Trace::read(folder, "corda")?.around(name, &cycle()),
        (_, Some(folder)) => Trace::read(folder, name)?,
    }))
}

/// A trace with what its replays share.
struct Work {
    trace: Trace,
    keys: Vec<String>,
    sizes: Arc<[u32]>,
}

impl Work {
    fn new(trace: Trace) -> Work {
        Work {
            keys: trace.keys(),
            sizes: trace.sizes.as_slice().into(),
            trace,
        }
    }

    fn is_sized(&self) -> bool {
        !self.sizes.is_empty()
    }

    fn size(&self, key: u32) -> usize {
        let size = self.sizes.get(key as usize);
        size.map_or(VALUE.len(), |&size| size as usize)
    }

    /// What ours charges for an entry, in bytes.
    fn charge(&self, key: u32) -> usize {
        self.size(key) + self.keys[key as usize].len() + ENTRY_OVERHEAD
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Ours { shards: Option<usize> },
    Lru,
    Quick,
    Moka,
}

const OURS: Kind = Kind::Ours { shards: None };
const ONE_SHARD: Kind = Kind::Ours { shards: Some(1) };

/// One replay: who, with room for how many entries (or bytes, if the trace has sizes).
struct Run {
    kind: Kind,
    room: usize,
}

/// What came of it, in hundredths.
#[derive(Clone, Copy)]
struct Outcome {
    kind: Kind,
    room: usize,
    hits: f64,
    byte_hits: f64,
    /// By how many entries it was over its capacity at worst.
    over: usize,
}

/// A cache that takes part.
trait Contender {
    /// Gets a key, or loads and keeps it. Tells whether it was there.
    fn request(&mut self, key: u32) -> bool;

    /// Ends the replay, of which so many requests were hits.
    fn finish(&self, _requests: usize, _hits: usize) -> usize {
        0
    }
}

struct Ours<'a> {
    keys: &'a [String],
    group: Group,
    loads: Arc<AtomicU64>,
    _node: Node,
}

impl<'a> Ours<'a> {
    fn new(work: &'a Work, room: usize, shards: Option<usize>) -> Result<Ours<'a>, Failure> {
        let node = Node::new("http://127.0.0.1:1")?;
        let bytes = if work.is_sized() {
            room
        } else {
            room * work.charge(0)
        };
        let mut builder = node.group_builder("replay", bytes);
        if let Some(shards) = shards {
            builder = builder.shards(shards);
        }
        if work.is_sized() {
            builder = builder.weigher(|value| told_size(value));
        }
        let loads = Arc::new(AtomicU64::new(0));
        let (loaded, sizes) = (Arc::clone(&loads), Arc::clone(&work.sizes));
        let group = builder.build(move |key| {
            loaded.fetch_add(1, Ordering::Relaxed);
            let at: usize = key.parse()?;
            // Large values need not be there to be weighed.
            Ok(match sizes.get(at) {
                Some(size) => Value::from(&size.to_le_bytes()),
                None => Value::from(&VALUE),
            })
        })?;
        Ok(Ours {
            keys: &work.keys,
            group,
            loads,
            _node: node,
        })
    }
}

/// The size that a value stands for.
fn told_size(value: &[u8]) -> usize {
    let size = value.try_into().map(u32::from_le_bytes);
    size.expect("a size") as usize
}

impl Contender for Ours<'_> {
    fn request(&mut self, key: u32) -> bool {
        let before = self.loads.load(Ordering::Relaxed);
        if let Err(error) = self.group.get(&self.keys[key as usize]) {
            panic!("{error}");
        }
        self.loads.load(Ordering::Relaxed) == before
    }

    fn finish(&self, requests: usize, hits: usize) -> usize {
        let stats = self.group.stats();
        assert_eq!(stats.gets, requests as u64);
        assert_eq!(stats.main_hits, hits as u64);
        0
    }
}

/// What an entry takes of the room of a rival.
struct Weight<'a>(&'a Work);

impl Weight<'_> {
    fn of(&self, key: u32) -> u32 {
        if self.0.is_sized() {
            self.0.charge(key) as u32
        } else {
            1
        }
    }
}

struct Lru<'a> {
    weight: Weight<'a>,
    room: usize,
    held: usize,
    kept: LruCache<u32, u32>,
}

impl Contender for Lru<'_> {
    fn request(&mut self, key: u32) -> bool {
        if self.kept.get(&key).is_some() {
            return true;
        }
        let weight = self.weight.of(key);
        if weight as usize > self.room {
            return false;
        }
        self.held += weight as usize;
        while self.held > self.room {
            let (_, gone) = self.kept.pop_lru().expect("what is held is kept");
            self.held -= gone as usize;
        }
        self.kept.put(key, weight);
        false
    }
}

#[derive(Clone)]
struct ByValue;

impl quick_cache::Weighter<u32, u32> for ByValue {
    fn weight(&self, _: &u32, value: &u32) -> u64 {
        u64::from(*value)
    }
}

struct Quick<'a> {
    weight: Weight<'a>,
    cache: quick_cache::sync::Cache<u32, u32, ByValue>,
}

impl<'a> Quick<'a> {
    fn new(work: &'a Work, room: usize) -> Quick<'a> {
        // As many entries as there would be of the mean weight.
        let entries = if work.is_sized() {
            let keys = work.keys.len();
            let all: usize = (0..keys as u32).map(|key| work.charge(key)).sum();
            room / (all / keys)
        } else {
            room
        };
        let cache = quick_cache::sync::Cache::with_weighter(entries, room as u64, ByValue);
        Quick {
            weight: Weight(work),
            cache,
        }
    }
}

impl Contender for Quick<'_> {
    fn request(&mut self, key: u32) -> bool {
        let hit = self.cache.get(&key).is_some();
        if !hit {
            self.cache.insert(key, self.weight.of(key));
        }
        hit
    }
}

struct Moka<'a> {
    weight: Weight<'a>,
    room: usize,
    requests: usize,
    over: usize,
    cache: moka::sync::Cache<u32, u32>,
}

impl<'a> Moka<'a> {
    fn new(work: &'a Work, room: usize) -> Moka<'a> {
        let mut builder = moka::sync::Cache::builder().max_capacity(room as u64);
        if work.is_sized() {
            builder = builder.weigher(|_, weight| *weight);
        }
        Moka {
            weight: Weight(work),
            room,
            requests: 0,
            over: 0,
            cache: builder.build(),
        }
    }
}

impl Contender for Moka<'_> {
    fn request(&mut self, key: u32) -> bool {
        let hit = self.cache.get(&key).is_some();
        if !hit {
            self.cache.insert(key, self.weight.of(key));
        }
        self.requests += 1;
        if self.requests.is_multiple_of(64) {
            self.cache.run_pending_tasks();
            let entries = self.cache.entry_count() as usize;
            self.over = self.over.max(entries.saturating_sub(self.room));
        }
        hit
    }

    fn finish(&self, _: usize, _: usize) -> usize {
        self.over
    }
}

fn contender<'a>(work: &'a Work, run: &Run) -> Result<Box<dyn Contender + 'a>, Failure> {
    let room = run.room;
    Ok(match run.kind {
        Kind::Ours { shards } => Box::new(Ours::new(work, room, shards)?),
        Kind::Lru => Box::new(Lru {
            weight: Weight(work),
            room,
            held: 0,
            kept: LruCache::unbounded(),
        }),
        Kind::Quick => Box::new(Quick::new(work, room)),
        Kind::Moka => Box::new(Moka::new(work, room)),
    })
}

fn replay(work: &Work, run: &Run) -> Result<Outcome, Failure> {
    let mut contender = contender(work, run)?;
    let (mut hits, mut bytes, mut byte_hits) = (0, 0, 0);
    for &key in &work.trace.picks {
        let size = work.size(key);
        bytes += size;
        if contender.request(key) {
            hits += 1;
            byte_hits += size;
        }
    }
    let requests = work.trace.picks.len();
    Ok(Outcome {
        kind: run.kind,
        room: run.room,
        hits: 100.0 * hits as f64 / requests as f64,
        byte_hits: 100.0 * byte_hits as f64 / bytes as f64,
        over: contender.finish(requests, hits),
    })
}

/// All replays, two at a time.
fn replay_all(work: &Work, runs: &[Run]) -> Result<Vec<Outcome>, Failure> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let replay_some = || {
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = replay(work, run);
            outcomes.lock().expect("no replay panicked").push(outcome);
        }
    };
    thread::scope(|scope| {
        scope.spawn(replay_some);
        replay_some();
    });
    let outcomes = outcomes.into_inner().expect("no replay panicked");
    outcomes.into_iter().collect()
}

/// The outcomes of one cell.
struct Cell {
    name: String,
    origin: Origin,
    outcomes: Vec<Outcome>,
}

impl Cell {
    fn of(&self, kind: Kind) -> impl Iterator<Item = &Outcome> {
        self.outcomes
            .iter()
            .filter(move |outcome| outcome.kind == kind)
    }

    fn hits(&self, kind: Kind) -> f64 {
        median(self.of(kind).map(|outcome| outcome.hits))
    }

    fn byte_hits(&self, kind: Kind) -> f64 {
        median(self.of(kind).map(|outcome| outcome.byte_hits))
    }

    fn best_rival(&self) -> f64 {
        RIVALS
            .map(|kind| self.hits(kind))
            .into_iter()
            .fold(0.0, f64::max)
    }

    fn row(&self) -> Vec<String> {
        let ours = || self.of(OURS).map(|outcome| outcome.hits);
        let least = ours().fold(100.0, f64::min);
        let most = ours().fold(0.0, f64::max);
        let over = self.of(Kind::Moka).map(|outcome| outcome.over).max();
        let mut row = vec![self.name.clone(), points(self.hits(OURS))];
        row.push(format!("{least:.2}-{most:.2}"));
        row.extend(RIVALS.map(|kind| points(self.hits(kind))));
        row.push(difference(self.hits(OURS) - self.best_rival()));
        row.push(over.unwrap_or(0).to_string());
        row
    }
}

fn points(value: f64) -> String {
    format!("{value:.2}")
}

fn difference(value: f64) -> String {
    format!("{value:+.2}")
}

/// Replays a case in all its sizes that are asked for.
fn measure(case: &Case, options: &Options) -> Result<Vec<Cell>, Failure> {
    let name = |room: usize| format!("{} {room}", case.trace);
    let rooms: Vec<usize> = case.entries.to_vec();
    let rooms = rooms.into_iter().filter(|&room| options.wants(&name(room)));
    let rooms: Vec<usize> = rooms.collect();
    if rooms.is_empty() {
        return Ok(Vec::new());
    }
    let Some(trace) = trace(case.trace, options.traces.as_deref())? else {
        return Ok(Vec::new());
    };
    if options.quick && trace.picks.len() > LONG {
        return Ok(Vec::new());
    }
    let kinds = kinds(case, options);
    let outcomes = measure_rooms(&Work::new(trace), &rooms, &kinds)?;
    let cell = |(room, outcomes)| Cell {
        name: name(room),
        origin: case.origin,
        outcomes,
    };
    Ok(rooms.into_iter().zip(outcomes).map(cell).collect())
}

/// Who takes part in a case, each as often as it runs.
fn kinds(case: &Case, options: &Options) -> Vec<Kind> {
    let seeds = options.seeds(5);
    let mut kinds = vec![OURS; seeds];
    kinds.extend(RIVALS);
    if options.shards && case.origin == Origin::Real {
        kinds.extend(vec![ONE_SHARD; seeds]);
    }
    kinds
}

fn measure_rooms(
    work: &Work,
    rooms: &[usize],
    kinds: &[Kind],
) -> Result<Vec<Vec<Outcome>>, Failure> {
    let runs_of = |&room: &usize| kinds.iter().map(move |&kind| Run { kind, room });
    let runs: Vec<Run> = rooms.iter().flat_map(runs_of).collect();
    let outcomes = replay_all(work, &runs)?;
    let of = |&room: &usize| {
        let outcomes = outcomes.iter().filter(|outcome| outcome.room == room);
        outcomes.copied().collect()
    };
    Ok(rooms.iter().map(of).collect())
}

/// The mean of what a contender hits, over all cells that count.
fn mean(cells: &[Cell], kind: Kind) -> f64 {
    let counting = || cells.iter().filter(|cell| cell.origin != Origin::Made);
    counting().map(|cell| cell.hits(kind)).sum::<f64>() / counting().count() as f64
}

/// The table of all cells, and their bars.
fn compare(cells: &[Cell], options: &Options, bars: &mut Bars) {
    let names = [
        "entries",
        "ours",
        "least-most",
        "LRU",
        "quick_cache",
        "moka",
    ];
    let more = ["ours - best", "moka over by"];
    let mut table = Table::new(names.into_iter().chain(more));
    for cell in cells {
        table.row(cell.row());
    }
    let means = RIVALS.map(|kind| mean(cells, kind));
    let best = means.into_iter().fold(0.0, f64::max);
    let ahead = mean(cells, OURS) - best;
    let mut row = vec!["mean".to_owned(), points(mean(cells, OURS)), String::new()];
    row.extend(means.map(points));
    row.extend([difference(ahead), String::new()]);
    table.row(row);
    println!(
        "\nHits of 100 requests; ours: median of {} seeds\n",
        options.seeds(5)
    );
    table.print();
    println!("\nThe mean is without what is made here (scan, zipf).\n");
    for cell in cells {
        let (hard, hard_bar) = HARD_CELL;
        let bar = if cell.name == hard {
            hard_bar
        } else {
            CELL_BAR
        };
        let ahead = cell.hits(OURS) - cell.best_rival();
        bars.reach(&format!("{}: ours - best", cell.name), ahead, bar);
    }
    // The bar is for the mean of all cells, not of any.
    if options.traces.is_some() && options.only.is_empty() && !options.quick {
        bars.reach("mean: ours - best", ahead, MEAN_BAR);
    }
}

/// What the shards cost.
fn compare_shards(cells: &[Cell], bars: &mut Bars) {
    let mut table = Table::new(["entries", "one shard", "default", "difference"]);
    let mut all = Vec::new();
    for cell in cells.iter().filter(|cell| cell.of(ONE_SHARD).count() > 0) {
        let (one, many) = (cell.hits(ONE_SHARD), cell.hits(OURS));
        let row = [points(one), points(many), difference(many - one)];
        table.row([cell.name.clone()].into_iter().chain(row));
        all.push((&cell.name, many - one));
    }
    println!();
    table.print();
    println!();
    for (name, cost) in all {
        bars.reach(&format!("{name}: default - one shard"), cost, SHARDS_BAR);
    }
}

/// Room in bytes instead of entries.
fn compare_sized(options: &Options, bars: &mut Bars) -> Result<(), Failure> {
    let name = |mebibytes: usize| format!("{SIZED} {mebibytes} MiB");
    let sizes = MEBIBYTES
        .into_iter()
        .filter(|&size| options.wants(&name(size)));
    let sizes: Vec<usize> = sizes.collect();
    let Some(folder) = options.traces.as_deref().filter(|_| !sizes.is_empty()) else {
        return Ok(());
    };
    let work = Work::new(Trace::read(folder, SIZED)?);
    let rooms: Vec<usize> = sizes.iter().map(|size| size << 20).collect();
    let mut kinds = vec![OURS; options.seeds(5)];
    kinds.extend(RIVALS);
    let outcomes = measure_rooms(&work, &rooms, &kinds)?;
    let cell = |(size, outcomes)| Cell {
        name: name(size),
        origin: Origin::Real,
        outcomes,
    };
    let cells: Vec<Cell> = sizes.into_iter().zip(outcomes).map(cell).collect();
    print_sized(&cells);
    for cell in &cells {
        // Above, not just as good.
        let objects = cell.hits(OURS) - cell.hits(Kind::Lru);
        bars.reach(
            &format!("{}: objects, ours - LRU", cell.name),
            objects,
            0.01,
        );
        let bytes = cell.byte_hits(OURS) - cell.byte_hits(Kind::Lru);
        bars.reach(
            &format!("{}: bytes, ours - LRU", cell.name),
            bytes,
            BYTES_BAR,
        );
    }
    Ok(())
}

fn print_sized(cells: &[Cell]) {
    let names = ["ours", "LRU", "quick_cache", "moka"];
    let columns = ["objects", "bytes"].map(|what| names.map(|name| format!("{what}: {name}")));
    let head = ["room".to_owned()].into_iter();
    let mut table = Table::new(head.chain(columns.into_iter().flatten()));
    let all = [OURS, Kind::Lru, Kind::Quick, Kind::Moka];
    for cell in cells {
        let objects = all.map(|kind| points(cell.hits(kind)));
        let bytes = all.map(|kind| points(cell.byte_hits(kind)));
        let name = [cell.name.clone()].into_iter();
        table.row(name.chain(objects).chain(bytes));
    }
    println!("\nHits of 100 requests, and of 100 bytes\n");
    table.print();
    println!();
}

fn draw(cells: &[Cell], file: &Path) -> Result<(), Failure> {
    let names = ["groupcache-sync", "LRU", "quick_cache", "moka"];
    let title = "Hits of 100 requests, by trace and entries that there is room for";
    let mut plot = Plot::new(title, names);
    for cell in cells {
        let all = [OURS, Kind::Lru, Kind::Quick, Kind::Moka];
        plot.cell(&cell.name, all.map(|kind| cell.hits(kind)).to_vec());
    }
    Ok(std::fs::write(file, plot.svg())?)
}

fn main() -> Result<ExitCode, Failure> {
    let options = Options::from_args();
    let mut cells = Vec::new();
    for case in &CASES {
        cells.extend(measure(case, &options)?);
    }
    let mut bars = Bars::default();
    if !cells.is_empty() {
        compare(&cells, &options, &mut bars);
    }
    if options.shards {
        compare_shards(&cells, &mut bars);
    }
    compare_sized(&options, &mut bars)?;
    if let Some(file) = &options.plot {
        draw(&cells, file)?;
    }
    Ok(bars.exit_code(options.check))
}
