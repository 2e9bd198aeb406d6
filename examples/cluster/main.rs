//! A shop with three processes before one slow database, with and without groupcache-sync.
//!
//! `cargo run --release -p cluster` starts three nodes on real sockets, replays a real web
//! trace (`examples/data`) against all of them from many threads, stops one node midway and starts
//! it again, checks every answer, and prints what the cache saved. `-- --help` lists the flags.
//!
//! Read `fleet.rs` first: there is all that a program does to take part in a cluster.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that shows something to a person"
)]

mod args;
mod database;
mod fleet;
mod ledger;
mod replay;
mod report;
mod tally;

use std::io::{Write, stdout};
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::{Args, Command, HELP};
use crate::database::{Database, TemporaryFolder};
use crate::fleet::{Fleet, Setting};
use crate::ledger::Ledger;
use crate::replay::{Replay, play_uncached, read_trace};
use crate::report::{Report, Uncached, grouped, mebibytes};

/// Whatever keeps the program from going on.
type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// How many requests are played without the cache.
const UNCACHED: usize = 10_000;

fn main() -> ExitCode {
    match Args::parse(std::env::args().skip(1)) {
        Ok(Command::Run(args)) => run(args).unwrap_or_else(|error| {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }),
        Ok(Command::Help) => {
            print!("{HELP}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("cluster: {reason}; --help lists what there is");
            ExitCode::from(2)
        }
    }
}

fn run(args: Args) -> Result<ExitCode, AnyError> {
    // Ctrl-C ends the replay, not the process, so that the database is removed all the same.
    let stop = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGINT, Arc::clone(&stop))?;
    signal_hook::flag::register(SIGTERM, Arc::clone(&stop))?;

    let trace = read_trace()?;
    let products = trace.iter().max().map_or(0, |product| product + 1);
    let folder = TemporaryFolder::create()?;
    let database = Arc::new(create_database(&folder, products)?);

    let beginning = &trace[..UNCACHED.min(trace.len())];
    let (latencies, took) = play_uncached(args, beginning, &database, &stop)?;
    let uncached = Uncached {
        requests: beginning.len() as u64,
        latencies,
        took,
    };

    let ledger = Arc::new(Ledger::new(products));
    let setting = Setting {
        args,
        database,
        ledger: Arc::clone(&ledger),
    };
    let fleet = Fleet::start(setting)?;
    describe(args, &fleet)?;
    let played = Replay::new(args, &trace, &fleet, &ledger, &stop).play()?;
    if stop.load(Ordering::Relaxed) {
        eprintln!("cluster: interrupted");
        return Ok(ExitCode::from(130));
    }
    let report = Report {
        uncached: &uncached,
        played: &played,
        ledger: &ledger,
        nodes: &fleet.stats(),
    };
    writeln!(stdout(), "{report}")?;
    Ok(if report.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn create_database(folder: &TemporaryFolder, products: u32) -> Result<Database, AnyError> {
    let start = Instant::now();
    let database = Database::create(folder.path(), products)?;
    writeln!(
        stdout(),
        "database: {} products, {} order lines, written in {:.1} s",
        grouped(products.into()),
        grouped(Database::lines().into()),
        start.elapsed().as_secs_f64()
    )?;
    writeln!(
        stdout(),
        "a load: the report on a product, {:.2} ms of queries",
        time_of_a_report(&database)?.as_secs_f64() * 1e3
    )?;
    Ok(database)
}

/// The mean over some products, with nobody else asking.
fn time_of_a_report(database: &Database) -> Result<Duration, AnyError> {
    const TRIED: u32 = 200;
    let start = Instant::now();
    for product in 0..TRIED {
        database.report(product)?;
    }
    Ok(start.elapsed() / TRIED)
}

fn describe(args: Args, fleet: &Fleet) -> Result<(), AnyError> {
    let addresses: Vec<String> = fleet.addresses().iter().map(ToString::to_string).collect();
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    writeln!(
        stdout(),
        "cluster: {} (engine {}, {} of cache each)",
        addresses.join(", "),
        args.engine,
        mebibytes(args.cache_bytes as u64),
    )?;
    writeln!(
        stdout(),
        "clients: {} threads on {processors} processors, for which all wait at times\n",
        args.threads
    )?;
    Ok(())
}
