//! A get whose value is in the memory of another process: ours, its rivals, and the least that it
//! could cost.
//!
//! All run in one go, by turns. Memcached and the Go groupcache come from Debian's packages
//! (`memcached`, `golang-go`, `golang-github-golang-groupcache-dev`) and are left out, with a
//! notice, where they are not installed. The others are asked in a second process of this program.
//! Nothing is mirrored, so that every get goes to the other process. The anchor is a bare blocking
//! ping-pong over TCP with messages of the same size.
//!
//! To add a contender: a [`Contender`] in a file of its own, and a line in [`contenders`].

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

mod bare_client;
mod batches;
mod contender;
mod go;
mod goals;
mod memcached;
mod ours;
mod ping_pong;
mod record;
mod server;
mod tonic;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::ExitCode;

use groupcache_sync_benches::{Failure, Options, Table, nanos, ratio};

use bare_client::BareClient;
use contender::{Cell, Contender};
use go::Go;
use goals::Goals;
use memcached::Memcached;
use ours::Ours;
use ping_pong::PingPong;
use record::measure;
use server::ServerProcess;
use tonic::Tonic;

const SMALL: usize = 64;
const MIDDLE: usize = 1 << 10;
const LARGE: usize = 64 << 10;
const SIZES: [usize; 3] = [SMALL, MIDDLE, LARGE];

/// Sizes of values, and numbers of threads.
const CELLS: [(usize, usize); 7] = [
    (MIDDLE, 1),
    (MIDDLE, 8),
    (MIDDLE, 32),
    (SMALL, 1),
    (SMALL, 32),
    (LARGE, 1),
    (LARGE, 32),
];

const OURS: usize = 0;

/// The keys of our server, by the size of their values.
type Keys = HashMap<usize, Vec<String>>;

fn plain(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Ours and the anchor come first.
fn contenders(
    server: &ServerProcess,
    options: &Options,
) -> Result<(Vec<Box<dyn Contender>>, Keys), Failure> {
    let id = server.id();
    let ours = Ours::new("groupcache-sync", &plain(server.ours), id)?;
    let keys = ours.fill()?;
    let mut contenders: Vec<Box<dyn Contender>> = vec![
        Box::new(ours),
        Box::new(PingPong {
            address: server.ping_pong,
            server: id,
        }),
    ];
    let mut rivals: Vec<Box<dyn Contender>> = vec![
        Box::new(Tonic::new(server.tonic, id)?),
        Box::new(Ours::new("over tiny_http", &plain(server.tiny), id)?),
        Box::new(Ours::with_tls(
            server.certificates.clone(),
            "over TLS",
            &format!("https://{}", server.tls),
            id,
        )?),
        Box::new(BareClient {
            address: server.ours,
            server: id,
        }),
    ];
    if let Some(memcached) = Memcached::start(keys.values().flatten())? {
        rivals.insert(0, Box::new(memcached));
    }
    if let Some(go) = Go::start()? {
        rivals.insert(1, Box::new(go));
    }
    rivals.retain(|rival| options.compares_with(rival.name()));
    contenders.extend(rivals);
    Ok((contenders, keys))
}

fn name_of(bytes: usize, threads: usize) -> String {
    let size = match bytes {
        1024.. => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    };
    let threads = match threads {
        1 => "1 thread".to_owned(),
        many => format!("{many} threads"),
    };
    format!("{size}, {threads}")
}

/// Gets of each thread: enough that a round is not over at once, and not for long.
fn gets(bytes: usize, threads: usize, options: &Options) -> usize {
    let all = match (options.quick, bytes) {
        (true, _) => 400,
        (false, LARGE) => 2_000,
        (false, _) => 8_000,
    };
    all / threads
}

fn main() -> Result<ExitCode, Failure> {
    if server::is_asked_for() {
        server::run()?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::from_args();
    let server = ServerProcess::start()?;
    let (contenders, keys) = contenders(&server, &options)?;
    let mut figures = Table::new(["", "gets/s", "p50", "p99", "CPU s / 1M"]);
    let mut ratios = Table::new(["ours divided by", "gets/s", "p50", "p99", "CPU"]);
    let mut goals = Goals::default();
    for (bytes, threads) in CELLS {
        let name = name_of(bytes, threads);
        if !options.wants(&name) {
            continue;
        }
        let cell = Cell {
            bytes,
            threads,
            gets: gets(bytes, threads, &options),
            keys: &keys[&bytes],
        };
        let records = measure(&contenders, &cell, options.rounds(15))?;
        for (at, (contender, record)) in contenders.iter().zip(&records).enumerate() {
            let label = format!("{name}, {}", contender.name());
            figures.row([
                label.clone(),
                format!("{:.0}", record.median(|run| run.per_second)),
                nanos(record.median(|run| run.p50)),
                nanos(record.median(|run| run.p99)),
                format!("{:.1}", record.cpu()),
            ]);
            if at == OURS {
                continue;
            }
            let ours = &records[OURS];
            ratios.row([
                label,
                ratio(ours.against(record, |run| run.per_second)),
                ratio(ours.against(record, |run| run.p50)),
                ratio(ours.against(record, |run| run.p99)),
                ratio(ours.cpu() / record.cpu()),
            ]);
            goals.add(&cell, contender.name(), ours, record);
        }
    }
    if options.wants(batches::NAME) {
        let ours = Ours::new("groupcache-sync", &plain(server.ours), server.id())?;
        goals.reach(
            batches::NAME,
            batches::measure(&ours, &options)?,
            batches::BAR,
        );
    }
    println!("\nMedians of {} rounds\n", options.rounds(15));
    figures.print();
    println!(
        "\nMedian ratios within a round: gets/s above 1 and all others below 1 are in our favour\n"
    );
    ratios.print();
    println!();
    Ok(goals.verdict(options.check))
}
