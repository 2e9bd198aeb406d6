//! What takes part, and what it did.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use groupcache_sync_benches::{Failure, percentile};

/// Keys of each size of value; each thread has its own part, so that none joins the fetch of
/// another.
pub(crate) const KEYS: usize = 256;

/// Gets of each thread before the clock runs: its connection is there then, and warm.
pub(crate) const WARM: usize = 8;

/// What is measured at once.
#[derive(Clone, Copy)]
pub(crate) struct Cell<'a> {
    /// Bytes of a value.
    pub(crate) bytes: usize,
    pub(crate) threads: usize,
    /// Gets of each thread.
    pub(crate) gets: usize,
    /// Those of our server.
    pub(crate) keys: &'a [String],
}

/// What one contender did in one round.
#[derive(Clone, Copy, Default)]
pub(crate) struct Run {
    pub(crate) per_second: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// A way to the values of another process.
pub(crate) trait Contender {
    fn name(&self) -> &'static str;

    fn run(&self, cell: &Cell<'_>) -> Result<Run, Failure>;

    /// The processes that work for it, at both ends.
    fn processes(&self) -> Vec<u32>;
}

/// The keys of values of this size. Every loader knows the size by the key.
pub(crate) fn all_keys(bytes: usize) -> impl Iterator<Item = String> {
    (0..).map(move |key: u64| format!("{bytes}-{key:011}"))
}

/// The value of a key.
pub(crate) fn value_of(key: &str) -> Result<Vec<u8>, Failure> {
    let bytes = key.split('-').next().unwrap_or_default().parse()?;
    Ok(vec![7; bytes])
}

/// The part of all keys that belongs to one of the threads.
pub(crate) fn part(all: &[String], thread: usize, threads: usize) -> &[String] {
    let size = all.len() / threads;
    &all[thread * size..(thread + 1) * size]
}

/// Runs a contender whose gets block, on as many threads as the cell asks for. Each connects, and
/// then has what gets the value of a key and gives its length.
pub(crate) fn run_threads<G>(
    cell: &Cell<'_>,
    connect: impl Fn() -> Result<G, Failure> + Sync,
) -> Result<Run, Failure>
where
    G: FnMut(&str) -> Result<usize, Failure>,
{
    let start = Barrier::new(cell.threads + 1);
    let work = |part: &[String]| -> Result<Vec<u64>, Failure> {
        let mut keys = part.iter().cycle();
        let client = connect().and_then(|mut get| {
            let mut warm = keys.by_ref().take(WARM);
            warm.try_for_each(|key| checked(get(key)?, cell.bytes))?;
            Ok(get)
        });
        start.wait(); // Also if it failed, or the others would wait for ever.
        let mut get = client?;
        let mut times = Vec::with_capacity(cell.gets);
        for key in keys.take(cell.gets) {
            let begin = Instant::now();
            let length = get(key)?;
            times.push(begin.elapsed().as_nanos() as u64);
            checked(length, cell.bytes)?;
        }
        Ok(times)
    };
    let (elapsed, outcomes) = thread::scope(|scope| {
        let work = &work;
        let run = |at| scope.spawn(move || work(part(cell.keys, at, cell.threads)));
        let running: Vec<_> = (0..cell.threads).map(run).collect();
        start.wait();
        let begin = Instant::now();
        let outcomes: Vec<_> = running.into_iter().map(|thread| thread.join()).collect();
        (begin.elapsed(), outcomes)
    });
    let mut times = Vec::with_capacity(cell.threads * cell.gets);
    for outcome in outcomes {
        times.extend(outcome.map_err(|_| "a thread of a contender panicked")??);
    }
    Ok(Run::of(elapsed, &mut times))
}

/// What came must be what was asked for.
pub(crate) fn checked(length: usize, bytes: usize) -> Result<(), Failure> {
    if length != bytes {
        return Err(format!("a value of {length} bytes").into());
    }
    Ok(())
}

impl Run {
    /// What the times of all gets, in nanoseconds, say together.
    pub(crate) fn of(elapsed: Duration, times: &mut [u64]) -> Run {
        Run {
            per_second: times.len() as f64 / elapsed.as_secs_f64(),
            p50: percentile(times, 0.5) as f64,
            p99: percentile(times, 0.99) as f64,
        }
    }
}
