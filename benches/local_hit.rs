//! A get whose value is in this process's memory: ours, and what could stand in its place.
//!
//! All contenders hold 10,000 keys of 15 bytes with values of 128 bytes, none of which ever leaves.
//! The anchor is a bare LRU in as many shards as ours has, with nothing around it.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

use std::hash::BuildHasher;
use std::hint::black_box;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_utils::CachePadded;
use groupcache_async::{Groupcache, GroupcachePeer, ValueLoader};
use groupcache_sync::{Group, Node, Value};
use groupcache_sync_benches::{Bars, Draw, Failure, Options, Table, median, nanos, ratio, rotated};
use lru::LruCache;
use parking_lot::Mutex;

const KEYS: usize = 10_000;
const VALUE: [u8; 128] = [7; 128];

/// Room enough that nothing is evicted, however unevenly the shards are filled.
const ROOM: usize = 4 * KEYS;

/// How ours may compare with the anchor.
const BAR: f64 = 1.3;

const OURS: usize = 0;
const ANCHOR: usize = 1;

/// What one thread gets, again and again.
struct Work<'a> {
    keys: &'a [String],
    picks: &'a [u32],
    start: &'a Barrier,
}

impl Work<'_> {
    /// Gets every pick and takes the time. `get` returns the length of the value.
    fn time(&self, mut get: impl FnMut(&str) -> usize) -> Duration {
        self.start.wait();
        let begin = Instant::now();
        for &pick in self.picks {
            black_box(get(&self.keys[pick as usize]));
        }
        begin.elapsed()
    }
}

/// A cache that takes part. Each brings the loop along, so that none pays for a dynamic call.
trait Contender: Sync {
    fn name(&self) -> &'static str;

    /// Gets all picks on this thread.
    fn run(&self, work: &Work<'_>) -> Duration;
}

struct Ours {
    group: Group,
    _node: Node,
}

impl Ours {
    fn new(keys: &[String]) -> Result<Ours, Failure> {
        let node = Node::new("http://127.0.0.1:1")?;
        let group = node
            .group_builder("local", ROOM * (VALUE.len() + 256))
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
        work.time(|key| match self.group.get(key) {
            Ok(value) => value.len(),
            Err(error) => panic!("{error}"),
        })
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
    fn new(name: &'static str, hasher: S, keys: &[String]) -> ShardedLru<S> {
        // As many as ours has by default.
        let shards = 4 * thread::available_parallelism().map_or(4, std::num::NonZero::get);
        let shard =
            |_| CachePadded::new(Mutex::new(LruCache::unbounded_with_hasher(hasher.clone())));
        let cache = ShardedLru {
            name,
            shards: (0..shards.next_power_of_two()).map(shard).collect(),
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
        work.time(|key| {
            let value = self.shard(key).lock().get(key).cloned();
            value.expect("nothing is evicted").len()
        })
    }
}

struct QuickCache(quick_cache::sync::Cache<Box<str>, Bytes>);

impl QuickCache {
    fn new(keys: &[String]) -> QuickCache {
        let cache = quick_cache::sync::Cache::new(ROOM);
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
        work.time(|key| self.0.get(key).expect("nothing is evicted").len())
    }
}

struct Moka(moka::sync::Cache<Arc<str>, Bytes>);

impl Moka {
    fn new(keys: &[String]) -> Moka {
        let cache = moka::sync::Cache::new(ROOM as u64);
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
        work.time(|key| self.0.get(key).expect("nothing is evicted").len())
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
    };
    let rows = [1, 2].map(|threads| draws.map(|draw| cell(threads, draw)));
    rows.into_iter().flatten().collect()
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
            times[at] = run(&*contenders[at]);
        }
        times
    };
    round(0); // Warms up.
    (0..options.rounds(21)).map(round).collect()
}

fn main() -> Result<ExitCode, Failure> {
    let options = Options::from_args();
    let keys: Vec<String> = (0..KEYS).map(|key| format!("key-{key:011}")).collect();
    let mut contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(Ours::new(&keys)?),
        Box::new(ShardedLru::new(
            "sharded mutex LRU",
            lru::DefaultHasher::default(),
            &keys,
        )),
        // The same with the hash of std, which resists chosen keys as ours does.
        Box::new(ShardedLru::new(
            "the same, SipHash",
            std::hash::RandomState::new(),
            &keys,
        )),
        Box::new(QuickCache::new(&keys)),
        Box::new(Moka::new(&keys)),
        Box::new(AsyncGroupcache::new(&keys)?),
    ];
    let mut at = 0;
    contenders.retain(|contender| {
        at += 1;
        at <= ANCHOR + 1 || options.compares_with(contender.name())
    });
    let names = || {
        contenders
            .iter()
            .map(|contender| contender.name().to_owned())
    };
    let columns = || ["per get and thread".to_owned()].into_iter().chain(names());
    let mut times = Table::new(columns());
    let mut ratios = Table::new(
        ["ours divided by".to_owned()]
            .into_iter()
            .chain(names().skip(1)),
    );
    let mut against_anchor = Vec::new();
    for cell in cells().iter().filter(|cell| options.wants(&cell.name)) {
        let rounds = measure(cell, &contenders, &keys, &options);
        let time = |at: usize| median(rounds.iter().map(|round| round[at]));
        let against = |at: usize| median(rounds.iter().map(|round| round[OURS] / round[at]));
        let all = 0..contenders.len();
        times.row(
            [cell.name.clone()]
                .into_iter()
                .chain(all.clone().map(|at| nanos(time(at)))),
        );
        ratios.row(
            [cell.name.clone()]
                .into_iter()
                .chain(all.skip(1).map(|at| ratio(against(at)))),
        );
        against_anchor.push((cell.name.clone(), against(ANCHOR)));
    }
    println!("\nMedians of {} rounds\n", options.rounds(21));
    times.print();
    println!("\nMedian ratios within a round: below 1 is in our favour\n");
    ratios.print();
    println!();
    let mut bars = Bars::default();
    for (cell, against) in against_anchor {
        bars.hold(
            &format!("{cell}: ours / {}", contenders[ANCHOR].name()),
            against,
            BAR,
        );
    }
    Ok(bars.exit_code(options.check))
}
