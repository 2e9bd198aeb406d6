//! A get whose value is in this process's memory: ours, and what could stand in its place.
//!
//! All contenders hold 10,000 keys of 15 bytes with values of 128 bytes, none of which ever leaves.
//! The anchors are a bare LRU in shards, with nothing around it, and `quick_cache`.
//!
//! Two more cells write: one set in ten gets (`mixed`), and nothing but sets of 100,000 keys into
//! room for 10,000 (`inserts`). A set of ours is `Group::set`, which also finds the owner and ends
//! what loads under way would bring.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

use std::hash::BuildHasher;
use std::hint::black_box;
use std::net::SocketAddr;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_utils::CachePadded;
use groupcache_async::{Groupcache, GroupcachePeer, ValueLoader};
use groupcache_sync::{ENTRY_OVERHEAD, Group, Node, Value};
use groupcache_sync_benches::{Bars, Draw, Failure, Options, Table, median, nanos, ratio, rotated};
use lru::LruCache;
use parking_lot::Mutex;

const KEYS: usize = 10_000;
const VALUE: [u8; 128] = [7; 128];

/// Room enough that nothing is evicted, however unevenly the shards are filled.
const ROOM: usize = 4 * KEYS;

/// Keys of the cell that inserts.
const MANY_KEYS: usize = 100_000;

/// How a hit of ours may compare with a bare LRU, and with quick_cache; and how a write may with the
/// faster of quick_cache and moka.
const LRU_BAR: f64 = 1.3;
const QUICK_BAR: f64 = 1.0;
const WRITE_BAR: f64 = 1.2;

const OURS: usize = 0;
const LRU: usize = 1;
const QUICK: usize = 2;
const MOKA: usize = 3;

/// What one thread gets, again and again, and how many of a hundred are sets instead.
struct Work<'a> {
    keys: &'a [String],
    picks: &'a [u32],
    writes: usize,
    start: &'a Barrier,
}

impl Work<'_> {
    /// Gets or sets every pick and takes the time. `get` returns the length of the value.
    fn time(&self, mut get: impl FnMut(&str) -> usize, mut set: impl FnMut(&str)) -> Duration {
        self.start.wait();
        let begin = Instant::now();
        if self.writes == 0 {
            for &pick in self.picks {
                black_box(get(&self.keys[pick as usize]));
            }
            return begin.elapsed();
        }
        for (number, &pick) in self.picks.iter().enumerate() {
            let key = &self.keys[pick as usize];
            if number % 100 < self.writes {
                set(key);
            } else {
                black_box(get(key));
            }
        }
        begin.elapsed()
    }
}

/// A cache that takes part. Each brings the loop along, so that none pays for a dynamic call.
trait Contender: Sync {
    fn name(&self) -> &'static str;

    /// Whether it can be set from outside.
    fn writes(&self) -> bool {
        true
    }

    /// Gets or sets all picks on this thread.
    fn run(&self, work: &Work<'_>) -> Duration;
}

struct Ours {
    group: Group,
    _node: Node,
}

impl Ours {
    fn new(keys: &[String], room: usize) -> Result<Ours, Failure> {
        let node = Node::new("http://127.0.0.1:1")?;
        let weight = 15 + VALUE.len() + ENTRY_OVERHEAD;
        let group = node
            .group_builder("local", room * weight)
            .build(|_| Ok(Value::from(&VALUE)))?;
        for key in keys {
            group.get(key)?;
        }
        let ours = Ours { group, _node: node };
        let missing = keys.iter().filter(|key| ours.group.try_get(key).is_none());
        assert_eq!(missing.count(), 0, "something was evicted");
        Ok(ours)
    }
}

impl Contender for Ours {
    fn name(&self) -> &'static str {
        "groupcache-sync"
    }

    fn run(&self, work: &Work<'_>) -> Duration {
        let get = |key: &str| match self.group.get(key) {
            Ok(value) => value.len(),
            Err(error) => panic!("{error}"),
        };
        let set = |key: &str| match self.group.set(key, Value::from(&VALUE)) {
            Ok(()) => {}
            Err(error) => panic!("{error}"),
        };
        work.time(get, set)
    }
}

type Shard<S> = Mutex<LruCache<Arc<str>, Bytes, S>>;

/// A well-made bare cache: padded shards of a lock and an LRU, cheap hashes, no policy, no counts.
struct ShardedLru<S> {
    name: &'static str,
    shards: Vec<CachePadded<Shard<S>>>,
    hasher: S,
}

impl<S: BuildHasher + Clone> ShardedLru<S> {
    fn new(name: &'static str, hasher: S, keys: &[String], room: usize) -> ShardedLru<S> {
        // As many as ours has at most by default.
        let shards = 16 * thread::available_parallelism().map_or(4, std::num::NonZero::get);
        let shards = shards.next_power_of_two();
        let room = NonZero::new(room / shards).expect("room in every shard");
        let lru = || LruCache::with_hasher(room, hasher.clone());
        let shard = |_| CachePadded::new(Mutex::new(lru()));
        let cache = ShardedLru {
            name,
            shards: (0..shards).map(shard).collect(),
            hasher,
        };
        for key in keys {
            let value = Bytes::copy_from_slice(&VALUE);
            cache.shard(key).lock().put(Arc::from(key.as_str()), value);
        }
        cache
    }

    /// By bits that the table inside does not use: it takes the lowest and the top seven.
    fn shard(&self, key: &str) -> &Shard<S> {
        let hash = self.hasher.hash_one(key);
        &self.shards[(hash >> 32) as usize & (self.shards.len() - 1)]
    }
}

impl<S: BuildHasher + Clone + Send + Sync> Contender for ShardedLru<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, work: &Work<'_>) -> Duration {
        let get = |key: &str| {
            let value = self.shard(key).lock().get(key).cloned();
            value.expect("nothing is evicted").len()
        };
        let set = |key: &str| {
            let value = Bytes::copy_from_slice(&VALUE);
            let gone = self.shard(key).lock().push(Arc::from(key), value);
            drop(gone);
        };
        work.time(get, set)
    }
}

struct QuickCache(quick_cache::sync::Cache<Box<str>, Bytes>);

impl QuickCache {
    fn new(keys: &[String], room: usize) -> QuickCache {
        let cache = quick_cache::sync::Cache::new(room);
        for key in keys {
            cache.insert(key.as_str().into(), Bytes::copy_from_slice(&VALUE));
        }
        QuickCache(cache)
    }
}

impl Contender for QuickCache {
    fn name(&self) -> &'static str {
        "quick_cache"
    }

    fn run(&self, work: &Work<'_>) -> Duration {
        let get = |key: &str| self.0.get(key).expect("nothing is evicted").len();
        let set = |key: &str| self.0.insert(key.into(), Bytes::copy_from_slice(&VALUE));
        work.time(get, set)
    }
}

struct Moka(moka::sync::Cache<Arc<str>, Bytes>);

impl Moka {
    fn new(keys: &[String], room: usize) -> Moka {
        let cache = moka::sync::Cache::new(room as u64);
        for key in keys {
            cache.insert(key.as_str().into(), Bytes::copy_from_slice(&VALUE));
        }
        cache.run_pending_tasks();
        Moka(cache)
    }
}

impl Contender for Moka {
    fn name(&self) -> &'static str {
        "moka"
    }

    fn run(&self, work: &Work<'_>) -> Duration {
        let get = |key: &str| self.0.get(key).expect("nothing is evicted").len();
        let set = |key: &str| self.0.insert(key.into(), Bytes::copy_from_slice(&VALUE));
        work.time(get, set)
    }
}

/// The async `groupcache`: one runtime and one `block_on` for each thread, outside of the loop.
struct AsyncGroupcache(Groupcache<Bytes>);

struct Constant;

impl ValueLoader for Constant {
    type Value = Bytes;

    fn load<'a, 'b, 'c>(
        &'a self,
        _: &'b str,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(async { Ok(Bytes::from_static(&VALUE)) })
    }
}

impl AsyncGroupcache {
    fn new(keys: &[String]) -> Result<AsyncGroupcache, Failure> {
        let this = GroupcachePeer::from_socket(SocketAddr::from(([127, 0, 0, 1], 1)));
        let cache = Groupcache::builder(this, Constant).build();
        let fill = async {
            for key in keys {
                cache.get(key).await?;
            }
            Ok::<(), Failure>(())
        };
        runtime()?.block_on(fill)?;
        Ok(AsyncGroupcache(cache))
    }
}

impl Contender for AsyncGroupcache {
    fn name(&self) -> &'static str {
        "groupcache (async)"
    }

    fn writes(&self) -> bool {
        false
    }

    fn run(&self, work: &Work<'_>) -> Duration {
        let runtime = runtime().expect("a runtime for this thread");
        // As `Work::time`, but inside of the future: to enter the runtime for each get costs more.
        runtime.block_on(async {
            work.start.wait();
            let begin = Instant::now();
            for &pick in work.picks {
                match self.0.get(&work.keys[pick as usize]).await {
                    Ok(value) => black_box(value.len()),
                    Err(error) => panic!("{error}"),
                };
            }
            begin.elapsed()
        })
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().build()
}

/// One square of the result: how keys are picked, by how many threads.
struct Cell {
    name: String,
    threads: usize,
    draw: Draw,
    /// Of a hundred picks.
    writes: usize,
    /// Whether there are more keys than there is room for.
    crowded: bool,
}

fn cells() -> Vec<Cell> {
    let draws = [
        ("uniform", Draw::Uniform),
        ("zipf 0.99", Draw::Zipf(0.99)),
        ("one key", Draw::OneKey),
    ];
    let cell = |threads: usize, (name, draw): (&str, Draw)| Cell {
        name: format!(
            "{name}, {threads} thread{}",
            if threads == 1 { "" } else { "s" }
        ),
        threads,
        draw,
        writes: 0,
        crowded: false,
    };
    let rows = [1, 2].map(|threads| draws.map(|draw| cell(threads, draw)));
    let mixed = Cell {
        writes: 10,
        ..cell(1, ("mixed 90/10", Draw::Uniform))
    };
    let inserts = Cell {
        writes: 100,
        crowded: true,
        ..cell(1, ("inserts", Draw::Uniform))
    };
    rows.into_iter().flatten().chain([mixed, inserts]).collect()
}

/// Nanoseconds per get and thread, by round and contender.
fn measure(
    cell: &Cell,
    contenders: &[Box<dyn Contender>],
    keys: &[String],
    options: &Options,
) -> Vec<Vec<f64>> {
    let gets = if options.quick { 50_000 } else { 400_000 };
    // All threads of a cell get the same one key, but walk through many keys each in its own way.
    let seed = |thread: u64| {
        if cell.draw == Draw::OneKey {
            1
        } else {
            1 + thread
        }
    };
    let picks: Vec<Vec<u32>> = (0..cell.threads)
        .map(|thread| cell.draw.picks(keys.len(), gets, seed(thread as u64)))
        .collect();
    let run = |contender: &dyn Contender| {
        let start = Barrier::new(cell.threads);
        let times: Vec<Duration> = thread::scope(|scope| {
            let run = |picks| {
                let work = Work {
                    keys,
                    picks,
                    writes: cell.writes,
                    start: &start,
                };
                scope.spawn(move || contender.run(&work))
            };
            let threads: Vec<_> = picks.iter().map(|picks| run(picks)).collect();
            let times = threads.into_iter().map(|thread| thread.join());
            times
                .map(|time| time.expect("a thread of a contender panicked"))
                .collect()
        });
        let mean = times.iter().sum::<Duration>().as_nanos() as f64 / times.len() as f64;
        mean / gets as f64
    };
    let round = |round: usize| {
        let mut times = vec![0.0; contenders.len()];
        for at in rotated(contenders.len(), round) {
            let takes_part = cell.writes == 0 || contenders[at].writes();
            times[at] = if takes_part {
                run(&*contenders[at])
            } else {
                f64::NAN
            };
        }
        times
    };
    round(0); // Warms up.
    (0..options.rounds(21)).map(round).collect()
}

/// All that take part, filled with these keys.
fn contenders(
    keys: &[String],
    room: usize,
    options: &Options,
) -> Result<Vec<Box<dyn Contender>>, Failure> {
    let std_hasher = std::hash::RandomState::new();
    let hasher = lru::DefaultHasher::default();
    let mut all: Vec<Box<dyn Contender>> = vec![
        Box::new(Ours::new(keys, room)?),
        Box::new(ShardedLru::new("sharded mutex LRU", hasher, keys, room)),
        Box::new(QuickCache::new(keys, room)),
        Box::new(Moka::new(keys, room)),
        // The first LRU with the hash of std.
        Box::new(ShardedLru::new("the same, SipHash", std_hasher, keys, room)),
        Box::new(AsyncGroupcache::new(keys)?),
    ];
    let mut at = 0;
    all.retain(|contender| {
        at += 1;
        at <= MOKA + 1 || options.compares_with(contender.name())
    });
    Ok(all)
}

fn main() -> Result<ExitCode, Failure> {
    let options = Options::from_args();
    let keys: Vec<String> = (0..MANY_KEYS).map(|key| format!("key-{key:011}")).collect();
    let roomy = contenders(&keys[..KEYS], ROOM, &options)?;
    let crowded = contenders(&[], KEYS, &options)?;
    let names = || roomy.iter().map(|contender| contender.name().to_owned());
    let head = |title: &str| [title.to_owned()].into_iter();
    let mut times = Table::new(head("per call and thread").chain(names()));
    let mut ratios = Table::new(head("ours divided by").chain(names().skip(1)));
    let mut bars = Vec::new();
    for cell in cells().iter().filter(|cell| options.wants(&cell.name)) {
        let (contenders, keys) = if cell.crowded {
            (&crowded, &keys[..])
        } else {
            (&roomy, &keys[..KEYS])
        };
        let rounds = measure(cell, contenders, keys, &options);
        let time = |at: usize| median(rounds.iter().map(|round| round[at]));
        let against = |at: usize| median(rounds.iter().map(|round| round[OURS] / round[at]));
        let all = 0..contenders.len();
        let row = head(&cell.name);
        times.row(row.chain(all.clone().map(|at| nanos(time(at)))));
        let row = head(&cell.name);
        ratios.row(row.chain(all.skip(1).map(|at| ratio(against(at)))));
        let mut bar = |rival: &str, against: f64, bar: f64| {
            bars.push((format!("{}: ours / {rival}", cell.name), against, bar));
        };
        if cell.writes == 0 {
            bar("sharded mutex LRU", against(LRU), LRU_BAR);
            bar("quick_cache", against(QUICK), QUICK_BAR);
        } else {
            let faster = against(QUICK).max(against(MOKA));
            bar("the faster of quick_cache and moka", faster, WRITE_BAR);
        }
    }
    println!("\nMedians of {} rounds\n", options.rounds(21));
    times.print();
    println!("\nMedian ratios within a round: below 1 is in our favour\n");
    ratios.print();
    println!();
    let mut held = Bars::default();
    for (name, against, bar) in bars {
        held.hold(&name, against, bar);
    }
    Ok(held.exit_code(options.check))
}
