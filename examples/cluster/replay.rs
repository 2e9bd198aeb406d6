//! The replay: threads that ask as the visitors of a web shop did, and an operator who stops a node
//! and starts it again meanwhile.

use std::io::Read;
use std::panic::resume_unwind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use groupcache_sync::{Deadline, Value};
use indicatif::{ProgressBar, ProgressStyle};
use ruzstd::decoding::StreamingDecoder;

use crate::AnyError;
use crate::args::Args;
use crate::database::Database;
use crate::fleet::Fleet;
use crate::ledger::{Ledger, Phase};
use crate::tally::{Histogram, Tally};

/// The node that stops, counted from 0: not the first, as nothing is special about that one.
pub(crate) const LEAVING: usize = 1;

/// How often the operator looks.
const ROUND: Duration = Duration::from_millis(20);

/// The products that visitors asked for, one after the other.
pub(crate) fn read_trace() -> Result<Vec<u32>, AnyError> {
    let packed = &include_bytes!("../data/web12.txt.zst")[..];
    let mut text = String::new();
    StreamingDecoder::new(packed)?.read_to_string(&mut text)?;
    let lines = text.lines();
    Ok(lines.map(str::parse).collect::<Result<_, _>>()?)
}

/// A replay under way.
pub(crate) struct Replay<'a> {
    args: Args,
    trace: &'a [u32],
    fleet: &'a Fleet,
    ledger: &'a Ledger,
    stop: &'a AtomicBool,
    next: AtomicUsize,
    start: Instant,
    /// The first answer for each product: all others must be equal, as the database never changes.
    answers: Vec<OnceLock<Value>>,
}

/// What came of it.
pub(crate) struct Played {
    pub(crate) tally: Tally,
    /// The beginning of each phase that was reached, and the end.
    pub(crate) milestones: Vec<Milestone>,
    pub(crate) distinct: u64,
}

#[derive(Clone, Copy)]
pub(crate) struct Milestone {
    pub(crate) time: Instant,
    /// Calls between peers that failed until then.
    pub(crate) peer_errors: u64,
}

impl<'a> Replay<'a> {
    pub(crate) fn new(
        args: Args,
        trace: &'a [u32],
        fleet: &'a Fleet,
        ledger: &'a Ledger,
        stop: &'a AtomicBool,
    ) -> Replay<'a> {
        let products = trace.iter().max().map_or(0, |product| product + 1);
        Replay {
            args,
            trace,
            fleet,
            ledger,
            stop,
            next: AtomicUsize::new(0),
            start: Instant::now(),
            answers: (0..products).map(|_| OnceLock::new()).collect(),
        }
    }

    pub(crate) fn play(&self) -> Result<Played, AnyError> {
        let bar = progress_bar()?;
        let mut milestones = vec![self.milestone()];
        let mut trouble = Ok(());
        let tallies = with_clients(
            self.args.threads,
            |client| self.ask(client),
            || {
                if trouble.is_ok() {
                    trouble = self.operate(&mut milestones);
                    self.stop.fetch_or(trouble.is_err(), Ordering::Relaxed);
                }
                self.show(&bar);
            },
        );
        milestones.push(self.milestone());
        bar.finish_and_clear();
        trouble?;
        let nothing = Tally::new(self.args.nodes);
        Ok(Played {
            tally: tallies.iter().fold(nothing, Tally::merge),
            milestones,
            distinct: self.answers.iter().filter_map(OnceLock::get).count() as u64,
        })
    }

    /// One client: asks, looks at the answer and at the clock, and asks again.
    fn ask(&self, client: usize) -> Tally {
        let mut tally = Tally::new(self.args.nodes);
        while let Some(product) = self.next_request() {
            let Some((node, process)) = self.fleet.process_for(client) else {
                break; // there is always one
            };
            let (key, phase, start) = (product.to_string(), self.ledger.phase(), Instant::now());
            match process.reports.get_entry(&key, Deadline::NEVER) {
                Ok(got) => {
                    tally.answered(phase, node, got.source, start.elapsed());
                    if !self.is_right(product, &got.value) {
                        tally.wrong(phase);
                    }
                }
                Err(error) => tally.failed(phase, &error),
            }
        }
        tally
    }

    fn next_request(&self) -> Option<u32> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match self.args.seconds {
            None => self.trace.get(number).copied(),
            Some(_) if self.share() < 1.0 => Some(self.trace[number % self.trace.len()]),
            Some(_) => None,
        }
    }

    /// Whether this is the report on this product, whole, and the same as ever.
    fn is_right(&self, product: u32, report: &Value) -> bool {
        let beginning = format!("{{\"product\":{product},");
        let first = self.answers[product as usize].get_or_init(|| report.clone());
        report.starts_with(beginning.as_bytes()) && report == first
    }

    /// How much of the replay is done, of 1.
    fn share(&self) -> f64 {
        match self.args.seconds {
            None => self.next.load(Ordering::Relaxed) as f64 / self.trace.len() as f64,
            Some(seconds) => self.start.elapsed().as_secs_f64() / f64::from(seconds),
        }
    }

    /// Stops a node after a third of the replay, and starts it again after two thirds.
    fn operate(&self, milestones: &mut Vec<Milestone>) -> Result<(), groupcache_sync::Error> {
        let share = self.share();
        match self.ledger.phase() {
            Phase::Before if self.args.nodes > LEAVING && share >= 1.0 / 3.0 => {
                milestones.push(self.milestone());
                self.ledger.enter(Phase::Down);
                self.fleet.stop(LEAVING);
            }
            Phase::Down if share >= 2.0 / 3.0 => {
                self.fleet.restart(LEAVING)?;
                milestones.push(self.milestone());
                self.ledger.enter(Phase::Back);
            }
            _ => {}
        }
        Ok(())
    }

    fn milestone(&self) -> Milestone {
        Milestone {
            time: Instant::now(),
            peer_errors: self.fleet.peer_errors(),
        }
    }

    fn show(&self, bar: &ProgressBar) {
        let all_up = match self.ledger.phase() {
            Phase::Down => format!("node {} is down", LEAVING + 1),
            Phase::Before | Phase::Back => "all nodes are up".to_owned(),
        };
        let loads = self.ledger.all_loads();
        bar.set_position((self.share() * 1000.0) as u64);
        bar.set_message(format!("with the cache, {all_up}, {loads} loads"));
    }
}

/// The same without a cache: every request of `trace` runs the query. Returns also how long all of
/// it took.
pub(crate) fn play_uncached(
    args: Args,
    trace: &[u32],
    database: &Database,
    stop: &AtomicBool,
) -> Result<(Histogram, Duration), AnyError> {
    let bar = progress_bar()?;
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let ask = |_| {
        let mut latencies = Histogram::default();
        while let Some(product) = trace.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let start = Instant::now();
            database.report(*product)?;
            latencies.record(start.elapsed());
        }
        Ok::<_, AnyError>(latencies)
    };
    let show = || {
        bar.set_position((next.load(Ordering::Relaxed) * 1000 / trace.len()) as u64);
        bar.set_message("without the cache, for comparison");
    };
    let mut all = Histogram::default();
    for latencies in with_clients(args.threads, ask, show) {
        all.merge(&latencies?);
    }
    bar.finish_and_clear();
    Ok((all, start.elapsed()))
}

/// Runs `client` on so many threads, and `meanwhile` on this one until all have ended.
fn with_clients<T: Send>(
    threads: usize,
    client: impl Fn(usize) -> T + Sync,
    mut meanwhile: impl FnMut(),
) -> Vec<T> {
    thread::scope(|scope| {
        let client = &client;
        let start = |index| scope.spawn(move || client(index));
        let clients: Vec<_> = (0..threads).map(start).collect();
        while !clients.iter().all(thread::ScopedJoinHandle::is_finished) {
            meanwhile();
            thread::sleep(ROUND);
        }
        let end = |client: thread::ScopedJoinHandle<'_, T>| client.join();
        let results = clients.into_iter().map(end);
        results
            .map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

fn progress_bar() -> Result<ProgressBar, AnyError> {
    let style = ProgressStyle::with_template("{bar:32} {percent:>3} %  {msg}")?;
    Ok(ProgressBar::new(1000).with_style(style))
}
