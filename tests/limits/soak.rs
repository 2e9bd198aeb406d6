//! Hours of work: five nodes, clients that ask for popular keys more often, changes, peers that come
//! and go, and one in a hundred of everything that fails. What the processes take must not grow.
//! Where `GROUPCACHE_SECURITY` is set, the nodes share a secret and speak TLS.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::Client;
use crate::gauge::{Gauge, Times, slope};
use crate::origin::Origin;
use crate::process::{Cluster, Process, eventually};
use crate::security::Security;
use crate::{Over, alone_if_measured, size};

const NODES: usize = 5;
const CLIENTS_OF_NODE: usize = 2;
const KEYS: usize = 100_000;

/// How popular the keys are: the one of rank n is asked for 1 / n^0.99 as often as the first.
const SKEW: f64 = 0.99;

/// How many threads the loader pool of a node has at most, unless that is set.
const LOADER_THREADS: u64 = 16;

/// How often a client asks: they are not to take the whole machine for an hour.
const PAUSE: Duration = Duration::from_millis(3);

/// From this length on, in seconds, the figures are asserted too: a shorter run tells what memory
/// does when it begins, not what it does in the end.
const MEASURED: f64 = 1_800.0;

/// How long connections and threads may take to end by themselves: a server keeps one for a minute.
const REST: Duration = Duration::from_secs(75);

/// Ranks, the popular ones more often: xorshift, and the cumulated shares.
struct Zipf<'a> {
    state: u64,
    shares: &'a [f64],
}

fn shares() -> Vec<f64> {
    let mut sum = 0.0;
    let weights = (1..=KEYS).map(|rank| (rank as f64).powf(-SKEW));
    let mut shares: Vec<f64> = weights
        .map(|weight| {
            sum += weight;
            sum
        })
        .collect();
    shares.iter_mut().for_each(|share| *share /= sum);
    shares
}

impl Zipf<'_> {
    /// A number below 1.
    fn fraction(&mut self) -> f64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn next(&mut self) -> usize {
        let dice = self.fraction();
        self.shares
            .partition_point(|share| *share < dice)
            .min(KEYS - 1)
    }
}

/// What all clients saw.
#[derive(Default)]
struct Seen {
    answers: AtomicU64,
    failed: AtomicU64,
    broken_off: AtomicU64,
    /// Of the last interval.
    times: Mutex<Times>,
}

impl Seen {
    /// One request of a client, on a connection that it may break off.
    fn ask(&self, client: &mut Client, zipf: &mut Zipf<'_>) {
        let key = zipf.next().to_string();
        let (target, value) = (format!("/k/{key}"), format!("value of {key}"));
        let dice = (zipf.fraction() * 100.0) as usize;
        let (method, body) = match dice {
            0 => ("DELETE", ""),
            1 => ("PUT", &*value),
            _ => ("GET", ""),
        };
        if dice == 2 {
            client.send("GET", &target, &[]).unwrap();
            *client = Client::connect(client.address).unwrap();
            self.broken_off.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let begun = Instant::now();
        let (status, answer) = client.ask(method, &target, body.as_bytes()).unwrap();
        self.times.lock().add(begun.elapsed());
        self.answers.fetch_add(1, Ordering::Relaxed);
        match (method, status) {
            ("GET", 200) => assert_eq!(answer, value.as_bytes(), "a wrong value"),
            ("GET", 502) => drop(self.failed.fetch_add(1, Ordering::Relaxed)),
            // While a peer is unreachable it is named.
            ("PUT" | "DELETE", 200 | 207) => {}
            _ => panic!(
                "{method} {key}: {status} {}",
                String::from_utf8_lossy(&answer)
            ),
        }
    }

    fn work(&self, address: SocketAddr, mut zipf: Zipf<'_>, over: &AtomicBool) {
        let mut client = Client::connect(address).unwrap();
        while !over.load(Ordering::Relaxed) {
            self.ask(&mut client, &mut zipf);
            thread::sleep(PAUSE);
        }
    }
}

/// Takes one of the nodes out of the lists of the others, or puts it back.
fn churn(nodes: &[Process], turn: usize) {
    let unreachable = (turn % 2 == 0).then_some(turn / 2 % NODES);
    for (number, node) in nodes.iter().enumerate() {
        let others = nodes.iter().enumerate();
        let is_seen = |other: usize| {
            other == number || (Some(number) != unreachable && Some(other) != unreachable)
        };
        let seen = others.filter(|(other, _)| is_seen(*other));
        let urls: Vec<&str> = seen.map(|(_, node)| &*node.url).collect();
        assert_eq!(node.set_peers(&urls).status, 200);
    }
}

fn gauges(nodes: &[Process]) -> Vec<Gauge> {
    nodes.iter().map(|node| Gauge::of(node.pid())).collect()
}

/// Has everybody work for `time`, and samples what the processes take.
fn work(nodes: &[Process], shares: &[f64], time: Duration, seen: &Seen) -> Vec<(f64, Vec<Gauge>)> {
    let over = AtomicBool::new(false);
    let mut samples = Vec::new();
    thread::scope(|scope| {
        let _over = Over(&over);
        for number in 0..NODES * CLIENTS_OF_NODE {
            let node = &nodes[number % NODES];
            let address = node.front.strip_prefix("http://").unwrap().parse().unwrap();
            let state = 0x9E37_79B9_7F4A_7C15 ^ (number as u64 + 1);
            let zipf = Zipf { state, shares };
            let over = &over;
            scope.spawn(move || seen.work(address, zipf, over));
        }
        let (begun, every) = (Instant::now(), (time / 20).min(Duration::from_secs(10)));
        let mut turn = 0;
        while begun.elapsed() < time {
            let next = begun + every * (samples.len() as u32 + 1);
            while Instant::now() < next {
                churn(nodes, turn);
                turn += 1;
                let second = Instant::now() + Duration::from_secs(1);
                thread::sleep(second.min(next).saturating_duration_since(Instant::now()));
            }
            let sample = gauges(nodes);
            samples.push((begun.elapsed().as_secs_f64(), sample));
            let mut times = std::mem::take(&mut *seen.times.lock());
            report(samples.len(), &samples[samples.len() - 1], &mut times);
        }
    });
    churn(nodes, 1); // all are back
    samples
}

fn report(number: usize, (at, gauges): &(f64, Vec<Gauge>), times: &mut Times) {
    if number % 6 != 0 {
        return;
    }
    let all = |field: fn(&Gauge) -> u64| gauges.iter().map(field).collect::<Vec<_>>();
    eprintln!(
        "{at:>6.0} s: RSS {:?} KiB, fds {:?}, threads {:?}, p50 {:?}, p99 {:?}",
        all(|gauge| gauge.rss),
        all(|gauge| gauge.fds),
        all(|gauge| gauge.threads),
        times.of_thousand(500),
        times.of_thousand(990),
    );
}

/// Has a node load a key. Its HTTP client closes connections to the origin that have been idle for too long
/// when it is used next, and not before: at rest, as many are left as the last loads took at once.
fn close_idle_connections_to_origin(node: &Process) {
    let loads = node.count("loads");
    for number in 0.. {
        let reply = node.get(&format!("at rest {}", loads + number));
        assert!(matches!(reply.status, 200 | 502), "{}", reply.status);
        if node.count("loads") > loads {
            return;
        }
    }
}

fn assert_counters_add_up(nodes: &[Process]) {
    for node in nodes {
        eventually("nothing is under way", || node.count("flights") == 0);
        let stats = node.stats();
        let count = |name: &str| stats[name].as_u64().unwrap();
        let found = ["main_hits", "hot_hits", "joined", "leads"].map(count);
        assert_eq!(count("gets"), found.iter().sum::<u64>(), "{stats}");
        assert!(count("evictions") > 0 || count("main_bytes") < 1 << 20);
    }
}

#[test]
fn what_nodes_take_does_not_grow() {
    let _turn = alone_if_measured();
    let seconds: f64 = size("GROUPCACHE_SOAK_SECONDS").unwrap_or(2.0);
    let is_long = seconds >= 120.0;
    let origin = Origin::start();
    origin.fail_one_in(100);
    // So small that values have to leave.
    let security = Security::of_environment();
    let flags: Vec<String> = security.iter().flat_map(Security::flags).collect();
    let flags = flags.iter().map(String::as_str);
    let flags: Vec<&str> = flags.chain(["--cache-bytes", "2097152"]).collect();
    let cluster = Cluster::start(NODES, &origin, &flags);
    let (nodes, shares, seen) = (cluster.nodes(), shares(), Seen::default());
    let rest = || {
        if is_long {
            thread::sleep(REST);
            nodes.iter().for_each(close_idle_connections_to_origin);
            thread::sleep(REST);
        }
        // First the gauges: to ask for a number takes a thread.
        let gauges = gauges(nodes);
        let loaders = |node: &Process| node.count("loader_threads");
        let loaders: Vec<u64> = nodes.iter().map(loaders).collect();
        (gauges, loaders)
    };
    let warm_up = Duration::from_secs_f64(seconds / 10.0).min(Duration::from_secs(60));
    work(nodes, &shares, warm_up, &seen);
    let (before, loaders_before) = rest();
    let samples = work(nodes, &shares, Duration::from_secs_f64(seconds), &seen);
    let (after, loaders_after) = rest();
    assert_counters_add_up(nodes);
    eprintln!(
        "{:?} answers, {:?} of them failed with their origin, {:?} broken off",
        seen.answers, seen.failed, seen.broken_off
    );
    if !is_long {
        return; // it has only begun to take what it needs
    }
    for node in 0..NODES {
        let line: Vec<(f64, f64)> = samples
            .iter()
            .map(|(at, gauges)| (at / 3_600.0, gauges[node].rss as f64 / 1_024.0))
            .collect();
        // The first half is warm-up: threads and buffers are made when they are first needed.
        let grows = slope(&line[line.len() / 2..]);
        let (old, new) = (before[node], after[node]);
        eprintln!(
            "node {node}: {grows:+.2} MiB/h; at rest {} and {} KiB, {} and {} descriptors, {} and {} \
             threads",
            old.rss, new.rss, old.fds, new.fds, old.threads, new.threads
        );
        assert!(new.fds <= old.fds + 2, "{old:?} {new:?}");
        // Loader threads are started when they are needed, up to a bound, and stay.
        let (old_loaders, new_loaders) = (loaders_before[node], loaders_after[node]);
        eprintln!("node {node}: {old_loaders} and {new_loaders} of them loader threads");
        assert!(new_loaders <= LOADER_THREADS, "{new_loaders}");
        let (old_others, new_others) = (old.threads - old_loaders, new.threads - new_loaders);
        assert!(new_others <= old_others + 2, "{old:?} {new:?}");
        assert!(seconds < MEASURED || grows < 1.0, "node {node} grows");
    }
}
