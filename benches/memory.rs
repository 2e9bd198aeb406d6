//! What a cache costs in memory, and what it costs others to give memory back.
//!
//! - `idle`: a group that holds nothing, of any capacity.
//! - `flow`: millions of keys that nobody asks for twice, through a thousand entries; the heap does
//!   not grow.
//! - `churn`: values of 1 B to 1 MiB come and go; heap and resident memory stay near the capacity.
//! - `expiry`: a million entries expire at once; gets of another thread go on meanwhile.
//! - `entries`: bytes for each entry besides its key and its value, of ours and of others. A node also
//!   remembers the removals and sets of the last minutes, in tables of a bounded size whatever it
//!   keeps: they are full before entries are counted, and have a row of their own.
//!
//! Bytes are those that were requested of the allocator: what it rounds up is its own affair.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use groupcache_sync::{Clock, ENTRY_OVERHEAD, Group, LoadError, Loaded, Node, Value};
use groupcache_sync_benches::{
    Bars, Counting, Failure, Options, Rng, Table, live, median, percentile,
};

#[global_allocator]
static COUNTING: Counting = Counting;

const KEY: usize = 16;
const VALUE: [u8; 64] = [7; 64];

/// What ours charges for an entry.
const CHARGE: usize = KEY + VALUE.len() + ENTRY_OVERHEAD;

const KIB: f64 = 1024.0;
const MIB: f64 = KIB * KIB;

fn live_since(start: usize) -> f64 {
    live() as f64 - start as f64
}

/// The resident memory of this process, in bytes; none where the system does not tell.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * KIB)
}

/// Writes the key of this number, without an allocation.
fn write_key(text: &mut String, number: usize) {
    use std::fmt::Write;
    text.clear();
    write!(text, "{number:0KEY$}").expect("a string takes everything");
}

fn group(node: &Node, capacity: usize) -> Result<Group, Failure> {
    let group = node.group_builder("memory", capacity);
    Ok(group.build(|_| Ok(Value::from(&VALUE)))?)
}

fn node() -> Result<Node, Failure> {
    Ok(Node::new("http://127.0.0.1:1")?)
}

fn idle(bars: &mut Bars) -> Result<(), Failure> {
    let mut table = Table::new(["idle group of", "KiB"]);
    let mut most: f64 = 0.0;
    for power in [20, 25, 30, 35, 40] {
        let node = node()?;
        let start = live();
        let group = group(&node, 1 << power)?;
        let cost = live_since(start) / KIB;
        drop(group);
        most = most.max(cost);
        table.row([format!("2^{power} bytes"), format!("{cost:.1}")]);
    }
    println!();
    table.print();
    println!();
    bars.hold("idle: KiB", most, 64.0);
    Ok(())
}

/// Keys that are asked for once, one in ten of them without a value: each is a flight, and leaves.
fn flow(options: &Options, bars: &mut Bars) -> Result<(), Failure> {
    let keys = if options.quick { 1_000_000 } else { 10_000_000 };
    let node = node()?;
    let start = live();
    let group = node.group_builder("flow", 1_000 * CHARGE);
    let group = group
        .negative_ttl(LIFE)
        .build(|key| match key.ends_with('0') {
            true => Err(LoadError::NotFound),
            false => Ok(Value::from(&VALUE)),
        })?;
    let mut key = String::with_capacity(KEY);
    let mut at_a_tenth = 0.0;
    for number in 0..keys {
        if number == keys / 10 {
            at_a_tenth = live_since(start);
        }
        write_key(&mut key, number);
        let _ = black_box(group.get(&key));
    }
    let in_the_end = live_since(start);
    println!(
        "\nflow: live heap after a tenth of {keys} keys {:.1} KiB, in the end {:.1} KiB\n",
        at_a_tenth / KIB,
        in_the_end / KIB
    );
    bars.hold("flow: KiB more", (in_the_end - at_a_tenth) / KIB, 8.0);
    Ok(())
}

/// The most that was seen while values come and go.
static PEAK: AtomicUsize = AtomicUsize::new(0);

const BUDGET: usize = 64 << 20;

/// A value of a size from 1 B to 1 MiB, each power of two as likely as any other.
fn some_value(key: &str) -> Result<Value, std::num::ParseIntError> {
    static BYTES: [u8; 1 << 20] = [0; 1 << 20];
    let size = (20.0 * Rng::new(key.parse()?).fraction()).exp2() as usize;
    let value = Value::copy_from(&BYTES[..size]);
    // Now the value is there, and there is no room for it yet.
    PEAK.fetch_max(live(), Ordering::Relaxed);
    Ok(value)
}

fn churn(options: &Options, bars: &mut Bars) -> Result<(), Failure> {
    let inserts = if options.quick { 50_000 } else { 1_000_000 };
    let node = node()?;
    let start = live();
    PEAK.store(start, Ordering::Relaxed);
    let group = node.group_builder("churn", BUDGET);
    let group = group.build(|key| Ok(some_value(key)?))?;
    let mut key = String::with_capacity(KEY);
    let mut most_resident: f64 = 0.0;
    for number in 0..inserts {
        write_key(&mut key, number);
        black_box(group.get(&key)?);
        if number % 1_000 == 0 {
            most_resident = most_resident.max(resident().unwrap_or(0.0));
        }
    }
    let peak = PEAK.load(Ordering::Relaxed) as f64 - start as f64;
    let charged = group.stats().main_bytes as f64;
    let kept = live_since(start);
    group.clear()?;
    let cleared = live_since(start);
    println!(
        "\nchurn: charged {:.1} MiB, live heap then {:.1} MiB\n",
        charged / MIB,
        kept / MIB
    );
    let budget = BUDGET as f64 / MIB;
    bars.hold("churn: live MiB", peak / MIB, 1.05 * budget + 4.0);
    let limit = 1.25 * budget + 32.0;
    bars.hold("churn: resident MiB", most_resident / MIB, limit);
    bars.hold("churn: live MiB after clear", cleared / MIB, 1.0);
    Ok(())
}

const STAYING: usize = 10_000;
const LIFE: Duration = Duration::from_secs(60);

/// How long gets took, in microseconds, without the time in which no processor was free.
struct Gets {
    number: usize,
    longest: f64,
    p9999: f64,
}

/// A get that takes longer than this is looked into.
const SLOW: Duration = Duration::from_micros(200);

/// How long this thread was ready to run and no processor was free; zero where the system does not
/// tell. On a busy machine this is most of what a slow get takes, and none of it is ours.
fn kept_waiting() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().nth(1).map(str::parse);
    Duration::from_nanos(nanos.and_then(Result::ok).unwrap_or(0))
}

/// Gets keys that stay, until told to stop.
fn get_until(group: &Group, keys: &[String], stop: &AtomicBool) -> Gets {
    let mut times: Vec<u64> = Vec::with_capacity(1 << 24);
    let mut keys = keys.iter().cycle();
    let mut waited = kept_waiting();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) && times.len() < times.capacity() {
        let key = keys.next().expect("a cycle has no end");
        black_box(group.get(key).expect("the loader never fails"));
        let mut took = last.elapsed();
        if took > SLOW {
            let before = std::mem::replace(&mut waited, kept_waiting());
            took = took.saturating_sub(waited - before);
        }
        times.push(took.as_nanos() as u64);
        last = Instant::now();
    }
    Gets {
        number: times.len(),
        longest: percentile(&mut times, 1.0) as f64 / 1e3,
        p9999: percentile(&mut times, 0.9999) as f64 / 1e3,
    }
}

/// The gets of another thread while `work` goes on.
fn gets_during(group: &Group, keys: &[String], work: impl FnOnce()) -> Gets {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let gets = scope.spawn(|| get_until(group, keys, &stop));
        // It allocates and warms up.
        thread::sleep(Duration::from_millis(20));
        work();
        stop.store(true, Ordering::Relaxed);
        gets.join().expect("a get panicked")
    })
}

/// Lets all expire at once and waits until they are gone; and as long again with nothing to do.
fn expire(entries: usize) -> Result<(Gets, Gets, Duration), Failure> {
    let clock = Clock::manual();
    let node = Node::builder("http://127.0.0.1:1")?.clock(clock.clone());
    let node = node.build()?;
    let group = group(&node, 2 * (entries + STAYING) * CHARGE)?;
    let staying: Vec<String> = (0..STAYING).map(|key| format!("stay-{key}")).collect();
    for key in &staying {
        group.get(key)?;
    }
    let mut key = String::with_capacity(KEY);
    for number in 0..entries {
        write_key(&mut key, number);
        group.set(&key, Loaded::new(Value::from(&VALUE)).ttl(LIFE))?;
    }
    wait_until(|| clock.sleepers() > 0);
    let mut took = Duration::ZERO;
    let busy = gets_during(&group, &staying, || {
        let begin = Instant::now();
        clock.advance(LIFE * 2);
        wait_until(|| group.stats().main_items <= STAYING as u64);
        took = begin.elapsed();
    });
    assert_eq!(group.stats().expirations, entries as u64);
    let quiet = gets_during(&group, &staying, || thread::sleep(took));
    Ok((busy, quiet, took))
}

fn wait_until(is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "nothing happens");
        thread::sleep(Duration::from_millis(2));
    }
}

fn expiry(options: &Options, bars: &mut Bars) -> Result<(), Failure> {
    let entries = if options.quick { 100_000 } else { 1_000_000 };
    let columns = ["gets", "longest us", "p99.99 us"];
    let quiet_columns = columns.map(|column| format!("quiet: {column}"));
    let head = ["all gone after ms".to_owned()].into_iter();
    let head = head.chain(columns.map(str::to_owned)).chain(quiet_columns);
    let mut table = Table::new(head);
    let mut runs = Vec::new();
    for _ in 0..3 {
        let (busy, quiet, took) = expire(entries)?;
        let figures = |gets: &Gets| {
            let times = [gets.longest, gets.p9999].map(|time| format!("{time:.1}"));
            [gets.number.to_string()].into_iter().chain(times)
        };
        let row = [took.as_millis().to_string()].into_iter();
        table.row(row.chain(figures(&busy)).chain(figures(&quiet)));
        runs.push(busy);
    }
    println!("\n{entries} entries expire at once while another thread gets\n");
    table.print();
    println!();
    let p9999 = median(runs.iter().map(|gets| gets.p9999));
    bars.hold("expiry: p99.99 of a get, us", p9999, 1_000.0);
    Ok(())
}

/// A cache of keys and values of one size.
trait Contender {
    fn set(&self, key: &str);
    fn get(&self, key: &str);
    /// Entries, once all that was put off is done.
    fn settle(&self) -> usize;
}

struct Ours {
    group: Group,
}

impl Contender for Ours {
    fn set(&self, key: &str) {
        let set = self.group.set(key, Value::from(&VALUE));
        set.expect("a set without peers");
    }

    fn get(&self, key: &str) {
        black_box(self.group.try_get(key));
    }

    fn settle(&self) -> usize {
        self.group.stats().main_items as usize
    }
}

impl Contender for quick_cache::sync::Cache<String, Bytes> {
    fn set(&self, key: &str) {
        self.insert(key.to_owned(), Bytes::copy_from_slice(&VALUE));
    }

    fn get(&self, key: &str) {
        black_box(quick_cache::sync::Cache::get(self, key));
    }

    fn settle(&self) -> usize {
        self.len()
    }
}

impl Contender for moka::sync::Cache<String, Bytes> {
    fn set(&self, key: &str) {
        self.insert(key.to_owned(), Bytes::copy_from_slice(&VALUE));
    }

    fn get(&self, key: &str) {
        black_box(moka::sync::Cache::get(self, key));
    }

    fn settle(&self) -> usize {
        // What it has replaced goes some calls later.
        for _ in 0..64 {
            self.run_pending_tasks();
        }
        self.entry_count() as usize
    }
}

const NAMES: [&str; 3] = ["ours", "quick_cache", "moka"];

/// Many more removals than a node remembers.
const REMOVALS: usize = 200_000;

/// A node that remembers as many removals as it ever does, and the bytes they take.
fn node_with_removals() -> Result<(Node, usize), Failure> {
    let node = node()?;
    let removed = node.group_builder("removed", 1 << 16);
    let removed: Group = removed.build(|_| Err(LoadError::NotFound))?;
    let start = live();
    for number in 0..REMOVALS {
        removed.remove(&format!("a key of the usual length {number}"))?;
    }
    Ok((node, live() - start))
}

fn contender(which: usize, room: usize, node: &Node) -> Result<Box<dyn Contender>, Failure> {
    Ok(match which {
        0 => Box::new(Ours {
            group: group(node, room * CHARGE)?,
        }),
        1 => Box::new(quick_cache::sync::Cache::<String, Bytes>::new(room)),
        _ => Box::new(moka::sync::Cache::<String, Bytes>::new(room as u64)),
    })
}

/// Entries, and bytes for each besides its key and value: inserted, and after each was read.
fn overhead(which: usize, room: usize, entries: usize) -> Result<(usize, [f64; 2]), Failure> {
    let mut key = String::with_capacity(KEY);
    let (node, _) = node_with_removals()?;
    let start = live();
    let cache = contender(which, room, &node)?;
    let mut walk = |call: &dyn Fn(&str)| {
        for number in 0..entries {
            write_key(&mut key, number);
            call(&key);
        }
        let kept = cache.settle();
        (
            kept,
            live_since(start) / kept as f64 - (KEY + VALUE.len()) as f64,
        )
    };
    let (kept, inserted) = walk(&|key| cache.set(key));
    let (_, read) = walk(&|key| cache.get(key));
    Ok((kept, [inserted, read]))
}

fn entries(options: &Options, bars: &mut Bars) -> Result<(), Failure> {
    let entries = if options.quick { 100_000 } else { 1_000_000 };
    let columns = ["kept", "inserted, bytes", "read once, bytes"];
    let mut table = Table::new(["bytes for each entry"].into_iter().chain(columns));
    let mut held = Vec::new();
    for (room, what) in [(2 * entries, "ample room"), (entries, "just the room")] {
        let mut bytes = Vec::new();
        for (which, name) in NAMES.into_iter().enumerate() {
            let (kept, figures) = overhead(which, room, entries)?;
            let row = [format!("{name}, {what}"), kept.to_string()].into_iter();
            table.row(row.chain(figures.map(|bytes| format!("{bytes:.1}"))));
            bytes.push(figures);
        }
        for (at, when) in ["inserted", "read once"].into_iter().enumerate() {
            let least = bytes[1][at].min(bytes[2][at]);
            held.push((format!("entries: {what}, {when}"), bytes[0][at], least));
        }
    }
    let (_, removals) = node_with_removals()?;
    println!("\n{entries} entries, without their keys and values\n");
    table.print();
    println!("\nthe removals that a node remembers, at most: {removals} bytes");
    println!();
    for (what, ours, least) in held {
        bars.hold(&what, ours, least);
    }
    Ok(())
}

fn main() -> Result<ExitCode, Failure> {
    let options = Options::from_args();
    let mut bars = Bars::default();
    // Resident memory shows what came before, so what fills much comes last.
    if options.wants("idle") {
        idle(&mut bars)?;
    }
    if options.wants("flow") {
        flow(&options, &mut bars)?;
    }
    if options.wants("churn") {
        churn(&options, &mut bars)?;
    }
    if options.wants("expiry") {
        expiry(&options, &mut bars)?;
    }
    if options.wants("entries") {
        entries(&options, &mut bars)?;
    }
    Ok(bars.exit_code(options.check))
}
