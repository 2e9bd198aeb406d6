//! The built-in listener under many connections: what idle ones cost, how soon a burst is answered,
//! whether loads or busy neighbours stand in the way of hits, and whether it ends gently.
//!
//! This program starts itself once more as the server of each cell, and asks as the barest client
//! there is.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::panic,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

use std::fs;
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Command, ExitCode};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use groupcache_sync::{Node, Server, Value};
use groupcache_sync_benches::{Bars, Failure, Http, Options, Process, percentile};

/// The argument that makes this program the server.
const SERVE: &str = "--serve";

const GROUP: &str = "peer";
const VALUE_BYTES: usize = 1 << 10;

/// The server's default.
const WORKERS: usize = 64;

const MAX_CONNECTIONS: usize = 12_000;

/// What a process of ours opens besides connections.
const OTHER_DESCRIPTORS: usize = 200;

/// How long threads that have nothing to do stay at most, and a bit.
const THREADS_LEAVE: Duration = Duration::from_secs(15);

/// How long a load of a key that begins like this takes.
const SLOW: (&str, Duration) = ("slow", Duration::from_secs(1));

/// Is the server until it is told to end, which it does gently, and says how.
fn serve() -> Result<(), Failure> {
    let node = Node::new("http://127.0.0.1:1")?;
    let _group = node.group_builder(GROUP, 64 << 20).build(|key| {
        if key.starts_with(SLOW.0) {
            thread::sleep(SLOW.1);
        }
        Ok(Value::from(&[7; VALUE_BYTES]))
    })?;
    let server = Server::builder(&node)
        .max_connections(MAX_CONNECTIONS)
        .max_connections_per_address(MAX_CONNECTIONS)
        .bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", server.local_addr());
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    println!("{}", server.shutdown(Duration::from_secs(10)));
    Ok(())
}

/// The server as its starter sees it.
struct Service {
    process: Process,
    address: SocketAddr,
}

impl Service {
    fn start() -> Result<Service, Failure> {
        let mut process = Process::start_self(&[SERVE])?;
        let address = process.line()?.parse()?;
        Ok(Service { process, address })
    }

    fn connect(&self) -> Result<Http, Failure> {
        Ok(Http::connect(self.address, VALUE_BYTES)?)
    }

    /// A number of `/proc/<process>/status`.
    fn status(&self, field: &str) -> Result<usize, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let mut lines = status.lines().filter_map(|line| line.split_once(':'));
        let found = lines.find(|(name, _)| *name == field);
        let number = found.and_then(|(_, value)| value.split_whitespace().next());
        Ok(number.ok_or("no such number")?.parse()?)
    }

    /// The number of its threads once those that have nothing to do have left.
    fn threads_at_rest(&self, wanted: usize) -> Result<usize, Failure> {
        let until = Instant::now() + THREADS_LEAVE;
        loop {
            let threads = self.status("Threads")?;
            if threads <= wanted || Instant::now() > until {
                return Ok(threads);
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Keep-alive connections that have been served and wait.
fn idle(connections: usize, bars: &mut Bars) -> Result<(), Failure> {
    let service = Service::start()?;
    service.connect()?.get(GROUP, "key")?;
    let (memory, threads) = (service.status("VmRSS")?, service.status("Threads")?);
    let mut open = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut client = service.connect()?;
        client.get(GROUP, "key")?;
        open.push(client);
    }
    let memory = service.status("VmRSS")?.saturating_sub(memory) as f64 / 1024.0;
    let more = service.threads_at_rest(threads)?.saturating_sub(threads);
    // Also the first one still is.
    for client in [0, connections - 1] {
        open[client].get(GROUP, "key")?;
    }
    let what = format!("{connections} idle connections");
    bars.hold(&format!("{what}: MiB"), memory, 64.0);
    bars.hold(
        &format!("{what}: threads more than with none"),
        more as f64,
        0.0,
    );
    Ok(())
}

/// Connections opened at once, each with a request.
fn burst(connections: usize, bars: &mut Bars) -> Result<(), Failure> {
    const THREADS: usize = 8;
    let service = Service::start()?;
    service.connect()?.get(GROUP, "key")?;
    let start = Barrier::new(THREADS + 1);
    let work = || -> Result<(), Failure> {
        start.wait();
        let mut open = Vec::new();
        for _ in 0..connections / THREADS {
            let mut client = service.connect()?;
            client.ask(GROUP, "key")?;
            open.push(client);
        }
        for client in &mut open {
            client.answer()?;
        }
        Ok(())
    };
    let took = thread::scope(|scope| {
        let running: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        start.wait();
        let begin = Instant::now();
        for thread in running {
            thread.join().map_err(|_| "a client panicked")??;
        }
        Ok::<_, Failure>(begin.elapsed())
    })?;
    let what = format!("a burst of {connections} connections: seconds until all were answered");
    bars.hold(&what, took.as_secs_f64(), 1.0);
    Ok(())
}

/// The times of hits over so many connections, one after the other on each, for a while.
fn hits(service: &Service, connections: usize, time: Duration) -> Result<Vec<u64>, Failure> {
    let start = Barrier::new(connections);
    let work = || -> Result<Vec<u64>, Failure> {
        let client = service.connect().and_then(|mut client| {
            client.get(GROUP, "key")?;
            Ok(client)
        });
        start.wait(); // Also if it failed, or the others would wait for ever.
        let (mut client, mut times, begin) = (client?, Vec::new(), Instant::now());
        while begin.elapsed() < time {
            let asked = Instant::now();
            client.get(GROUP, "key")?;
            times.push(asked.elapsed().as_nanos() as u64);
        }
        Ok(times)
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        let mut times = Vec::new();
        for thread in running {
            times.extend(thread.join().map_err(|_| "a client panicked")??);
        }
        Ok(times)
    })
}

fn millis(times: &mut [u64], part: f64) -> f64 {
    percentile(times, part) as f64 / 1e6
}

/// Hits while as many slow loads as there are workers run all the time.
fn loads(time: Duration, bars: &mut Bars) -> Result<(), Failure> {
    let service = Service::start()?;
    let (ended, all_run) = (AtomicBool::new(false), Barrier::new(WORKERS + 1));
    let slow = |asker: usize| -> Result<(), Failure> {
        let mut client = service.connect()?;
        for key in 0.. {
            client.ask(GROUP, &format!("{}-{asker}-{key}", SLOW.0))?;
            if key == 0 {
                all_run.wait();
            }
            client.answer()?;
            if ended.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    };
    let mut times = thread::scope(|scope| {
        let slow = &slow;
        let running: Vec<_> = (0..WORKERS)
            .map(|asker| scope.spawn(move || slow(asker)))
            .collect();
        all_run.wait();
        let times = hits(&service, 8, time);
        ended.store(true, Ordering::Relaxed);
        for thread in running {
            thread.join().map_err(|_| "a client panicked")??;
        }
        times
    })?;
    let what = format!("hits beside {WORKERS} slow loads");
    println!("      {what}: p50 {:.3} ms", millis(&mut times, 0.5));
    bars.hold(&format!("{what}: p99 ms"), millis(&mut times, 0.99), 5.0);
    Ok(())
}

/// More busy connections than workers: how late the last of all are.
fn crowd(connections: usize, time: Duration, bars: &mut Bars) -> Result<(), Failure> {
    let service = Service::start()?;
    let mut times = hits(&service, connections, time)?;
    let what = format!("{connections} busy connections, {WORKERS} workers");
    let (p50, p99) = (millis(&mut times, 0.5), millis(&mut times, 0.99));
    let per_second = times.len() as f64 / time.as_secs_f64();
    println!("      {what}: {per_second:.0} gets/s, p50 {p50:.3} ms, p99 {p99:.3} ms");
    // With as many in turn, the mean is what everybody would wait.
    let mean = connections as f64 / per_second * 1e3;
    bars.hold(&format!("{what}: p99 / mean"), p99 / mean, 5.0);
    Ok(())
}

/// A gentle end while loads run and connections are idle.
fn drain(bars: &mut Bars) -> Result<(), Failure> {
    let mut service = Service::start()?;
    let mut idle: Vec<Http> = (0..100)
        .map(|_| service.connect())
        .collect::<Result<_, _>>()?;
    for client in &mut idle {
        client.get(GROUP, "key")?;
    }
    let mut busy: Vec<Http> = (0..8)
        .map(|_| service.connect())
        .collect::<Result<_, _>>()?;
    for (asker, client) in busy.iter_mut().enumerate() {
        client.ask(GROUP, &format!("{}-{asker}", SLOW.0))?;
    }
    let begin = Instant::now();
    service.process.tell("end")?;
    let free = loop {
        match TcpListener::bind(service.address) {
            Ok(_) => break begin.elapsed(),
            Err(error) if begin.elapsed() > THREADS_LEAVE => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_micros(100)),
        }
    };
    for client in &mut busy {
        client.answer()?;
    }
    let finished: bool = service.process.line()?.parse()?;
    let took = begin.elapsed();
    bars.hold(
        "a gentle end: ms until the port is free",
        free.as_secs_f64() * 1e3,
        100.0,
    );
    bars.hold(
        "a gentle end: loads that were cut off",
        f64::from(u8::from(!finished)),
        0.0,
    );
    let beyond = took.saturating_sub(SLOW.1).as_secs_f64() * 1e3;
    bars.hold("a gentle end: ms beyond the longest load", beyond, 250.0);
    Ok(())
}

/// How many descriptors this process may open: now, and if it asks for more.
fn descriptors() -> Option<(usize, usize)> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// Runs this program once more with as many descriptors as it may have.
fn run_with(descriptors: usize) -> Result<ExitCode, Failure> {
    let mut shell = Command::new("sh");
    let script = format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"");
    let program = shell.args(["-c", &script]).arg(std::env::current_exe()?);
    let status = program.args(std::env::args_os().skip(1)).status()?;
    Ok(u8::from(!status.success()).into())
}

fn main() -> Result<ExitCode, Failure> {
    if std::env::args().any(|argument| argument == SERVE) {
        serve()?;
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::from_args();
    let Some((now, most)) = descriptors() else {
        eprintln!("notice: these figures need Linux's /proc");
        return Ok(ExitCode::SUCCESS);
    };
    let wanted = MAX_CONNECTIONS + OTHER_DESCRIPTORS;
    if now < wanted && now < most {
        return run_with(most);
    }
    let (mut connections, time) = match options.quick {
        true => (1_000, Duration::from_millis(500)),
        false => (10_000, Duration::from_secs(3)),
    };
    if connections + OTHER_DESCRIPTORS > now {
        connections = now.saturating_sub(OTHER_DESCRIPTORS).max(1);
        eprintln!("notice: only {now} descriptors here, so {connections} idle connections");
    }
    let mut bars = Bars::default();
    println!();
    if options.wants("idle") {
        idle(connections, &mut bars)?;
    }
    if options.wants("burst") {
        burst(2_000.min(connections), &mut bars)?;
    }
    if options.wants("loads") {
        loads(time, &mut bars)?;
    }
    if options.wants("crowd") {
        crowd(200, time, &mut bars)?;
    }
    if options.wants("drain") {
        drain(&mut bars)?;
    }
    Ok(bars.exit_code(options.check))
}
