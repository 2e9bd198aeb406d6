//! An attack on a process of its own, beside another client: what both show, and the bounds of it.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, process, thread};

use crate::gauge::{Gauge, Times, connections_to, processor_time};
use crate::hostile::fake::FakePeer;
use crate::hostile::other::{CLUSTER, Other, SECRET, Seen, connect};
use crate::origin::Origin;
use crate::process::{Process, gives_memory_back, program};
use crate::{Over, alone_if_measured, size};

/// How much more memory a process may take while it lasts, in KiB: `max_buffered`, and 64 MiB.
const MORE_MEMORY: u64 = (256 + 64) << 10;

/// How much more it may have afterwards, in KiB.
const MORE_AFTERWARDS: u64 = 16 << 10;

/// What each thread may have more that is still there, in KiB: without optimisation its stack has been
/// deep.
const OF_THREAD: u64 = if cfg!(debug_assertions) { 64 } else { 0 };

/// How soon nothing is left of an attack whose connections have closed, and how soon the other
/// client is served whatever happens.
const SOON: Duration = Duration::from_secs(20);

/// How soon idle connections to peers are closed, which are kept for half a minute.
const IDLE_TO_PEERS: Duration = Duration::from_secs(40);

/// How long the other client may wait at most, and one of a hundred of its requests, where times
/// are measured: attacker, client and node share the processors.
const LONGEST: Duration = Duration::from_secs(1);
const P99: Duration = Duration::from_millis(100);

/// How often an attack is made under which the other client was late.
const TRIES: usize = 3;

/// What a node keeps for each peer of its list, in KiB: its part of rings, and connections.
const OF_PEER: u64 = 256;

/// Descriptors that a process keeps for its origin, and for whom else it has asked meanwhile.
const MORE_DESCRIPTORS: u64 = 48;

/// What is said where the other client is not served at all.
pub(crate) const NOT_SERVED: &str = "the other client is not served";

/// How long attacks last that go on, where times are measured.
pub(crate) fn measured() -> Option<Duration> {
    size("GROUPCACHE_HOSTILE_SECONDS").map(Duration::from_secs_f64)
}

/// An attack, and what it is made on.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Whether the node and the other client share a secret, which the attacker has not.
    pub(crate) has_secret: bool,
    /// How many more peers the node has, which are alive and have nothing.
    pub(crate) peers: usize,
    pub(crate) origin: fn() -> Origin,
    pub(crate) attack: fn(&mut Attacker<'_>),
}

impl Row {
    /// Makes the attack on a node that [`Server`](groupcache_sync::Server) serves: it must keep all
    /// bounds.
    pub(crate) fn hold(&self) {
        let _turn = alone_if_measured();
        let mut late = Vec::new();
        // Others use the processors too: where the other client was late once, it is tried twice
        // more, and the middle one of the three counts.
        while late.len() < TRIES {
            let shown = self.run(&[], usize::MAX, SOON);
            assert_eq!(shown.failures, Vec::<String>::new(), "{}", self.name);
            late.push(shown.late);
            if late == [None] {
                return;
            }
        }
        let late: Vec<String> = late.into_iter().flatten().collect();
        assert!(late.len() <= TRIES / 2, "{}: {late:?}", self.name);
    }

    /// Makes it on a node with these flags, by so many connections at most, after which nothing is
    /// to be left so soon, and prints what it shows.
    pub(crate) fn run(&self, args: &[&str], most: usize, soon: Duration) -> Shown {
        let secret = self.has_secret.then(SecretFile::new);
        let flags = secret.as_ref().map(|file| ["--secret-file", file.path()]);
        let flags = flags.iter().flatten().copied().chain(args.iter().copied());
        let origin = (self.origin)();
        let node = start(&origin, &flags.collect::<Vec<_>>());
        let alive = (self.peers > 0).then(|| FakePeer::start(|_| Vec::new()));
        if let Some(alive) = &alive {
            let peers = (0..self.peers).map(|number| format!("p{number}={}", alive.url()));
            let list: Vec<String> = peers.chain([node.url.clone()]).collect();
            let list: Vec<&str> = list.iter().map(String::as_str).collect();
            assert_eq!(node.set_peers(&list).status, 200);
        }
        let other = Other::of(&node, self.has_secret.then_some(SECRET));
        let address = node.url.strip_prefix("http://").unwrap().parse().unwrap();
        let trial = Trial {
            origin,
            node,
            other,
            address,
            most: most.min(open_files().saturating_sub(RESERVED)),
            soon,
            peers: self.peers as u64,
        };
        let shown = trial.run(self.attack);
        shown.print(self.name, args);
        shown
    }
}

/// A node whose memory tells what an attack has left: its cache is small.
fn start(origin: &Origin, flags: &[&str]) -> Process {
    let command = Command::new(program());
    let flags = [&["--cache-bytes", "4194304", "--cluster", CLUSTER], flags].concat();
    Process::start_at("127.0.0.1:0", command, "warn", origin, &flags)
}

/// The file of the secret, gone when dropped.
pub(crate) struct SecretFile(PathBuf);

impl SecretFile {
    /// One at a time, as the tests run.
    pub(crate) fn new() -> SecretFile {
        let name = format!("groupcache-limits-{}", process::id());
        let file = SecretFile(std::env::temp_dir().join(name));
        fs::write(&file.0, SECRET).unwrap();
        file
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What takes part.
pub(crate) struct Trial {
    pub(crate) node: Process,
    pub(crate) origin: Origin,
    pub(crate) other: Other,
    pub(crate) address: SocketAddr,
    /// How many connections the attacker may have at once.
    most: usize,
    /// How soon nothing is to be left.
    soon: Duration,
    peers: u64,
}

/// What the test itself needs of descriptors.
const RESERVED: usize = 500;

/// How many descriptors this process may have, which those that it starts may have too.
fn open_files() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|rest| rest.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok())
        .unwrap_or(usize::MAX)
}

/// Who makes the attack. Its connections close when the attack has dropped them.
pub(crate) struct Attacker<'a> {
    pub(crate) trial: &'a Trial,
    turns: &'a AtomicUsize,
    sent: usize,
    opened: usize,
    failures: Vec<String>,
}

/// What an attack has shown.
pub(crate) struct Shown {
    sent: usize,
    opened: usize,
    seen: Seen,
    before: Gauge,
    most: Gauge,
    /// `None` if the process has ended.
    pub(crate) after: Option<Gauge>,
    /// Connections: at most, and afterwards.
    connections: (usize, usize),
    processor: Duration,
    took: Duration,
    pub(crate) failures: Vec<String>,
    /// That the other client had to wait, where times are measured.
    late: Option<String>,
}

impl Trial {
    fn pid(&self) -> u32 {
        self.node.pid()
    }

    fn connections(&self) -> usize {
        connections_to(self.address.port())
    }

    fn run(&self, attack: fn(&mut Attacker<'_>)) -> Shown {
        let (begun, before) = (Instant::now(), Gauge::of(self.pid()));
        let (usual, worked) = (self.connections(), processor_time(self.pid()));
        let (over, turns) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let watch = scope.spawn(|| self.other.watch(&over, &turns));
            let sample = scope.spawn(|| self.sample(&over));
            let is_over = Over(&over);
            let mut attacker = Attacker {
                trial: self,
                turns: &turns,
                sent: 0,
                opened: 0,
                failures: Vec::new(),
            };
            attacker.wait_for_turns(10);
            attack(&mut attacker);
            attacker.see_all_leave(&before, usual);
            attacker.wait_for_turns(10);
            drop(is_over);
            let (seen, (most, connections)) = (watch.join().unwrap(), sample.join().unwrap());
            let mut shown = Shown {
                sent: attacker.sent,
                opened: attacker.opened,
                seen,
                before,
                most,
                after: Gauge::read(self.pid()),
                connections: (connections, self.connections()),
                processor: processor_time(self.pid()).saturating_sub(worked),
                took: begun.elapsed(),
                failures: attacker.failures,
                late: None,
            };
            shown.judge();
            shown
        })
    }

    /// Watches the process until it is over.
    fn sample(&self, over: &AtomicBool) -> (Gauge, usize) {
        let (mut most, mut connections) = (Gauge::of(self.pid()), 0);
        for number in 0.. {
            if over.load(Ordering::Relaxed) {
                break;
            }
            if let Some(gauge) = Gauge::read(self.pid()) {
                most = most.most(gauge);
            }
            // The table of sockets is long while there are many.
            if number % 10 == 0 {
                connections = connections.max(self.connections());
            }
            thread::sleep(Duration::from_millis(10));
        }
        (most, connections)
    }
}

impl Attacker<'_> {
    /// How many connections it takes of those that it wants.
    pub(crate) fn room_for(&self, connections: usize) -> usize {
        connections.min(self.trial.most)
    }

    pub(crate) fn fail(&mut self, failure: impl Into<String>) {
        self.failures.push(failure.into());
    }

    pub(crate) fn expect(&mut self, holds: bool, failure: impl Into<String>) {
        if !holds {
            self.fail(failure);
        }
    }

    /// Connects from 127.0.2.`from`. A server may have no room.
    pub(crate) fn connect(&mut self, from: u8) -> Option<TcpStream> {
        let stream = connect([127, 0, 2, from], self.trial.address).ok()?;
        self.opened += 1;
        Some(stream)
    }

    /// Sends as much as the server takes, and tells whether that was all.
    pub(crate) fn send(&mut self, stream: &mut TcpStream, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(count) if count > 0 => {
                    self.sent += count;
                    bytes = &bytes[count..];
                }
                _ => return false,
            }
        }
        true
    }

    /// Sends this on a connection of its own, which stays open.
    pub(crate) fn ask(&mut self, from: u8, bytes: &[u8]) -> Option<TcpStream> {
        let mut stream = self.connect(from)?;
        self.send(&mut stream, bytes);
        Some(stream)
    }

    /// Waits until the other client has been served so many times more.
    pub(crate) fn wait_for_turns(&mut self, turns: usize) {
        let until = self.turns.load(Ordering::Relaxed) + turns;
        let end = Instant::now() + SOON;
        while self.turns.load(Ordering::Relaxed) < until {
            if Instant::now() > end {
                return self.fail(format!("{NOT_SERVED} {turns} times in {SOON:?}"));
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until this holds.
    pub(crate) fn soon(&mut self, what: &str, holds: impl Fn(&Trial) -> bool) {
        self.within(self.trial.soon, what, holds);
    }

    fn within(&mut self, time: Duration, what: &str, holds: impl Fn(&Trial) -> bool) {
        let end = Instant::now() + time;
        while !holds(self.trial) {
            if Instant::now() > end {
                return self.fail(format!("not within {time:?}: {what}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn is_alive(&self) -> bool {
        Gauge::read(self.trial.pid()).is_some()
    }

    /// Waits until the process is as it was before.
    fn see_all_leave(&mut self, before: &Gauge, connections: usize) {
        if !self.is_alive() {
            return self.fail("the process has ended");
        }
        self.soon("no connection is left", |trial| {
            trial.connections() <= connections + 2
        });
        self.soon("nothing is under way", |trial| {
            let stats = trial.node.stats();
            // The other client may be served just now.
            stats["flights"].as_u64() <= Some(1) && stats["loader_threads_busy"].as_u64() <= Some(1)
        });
        let gauge = |trial: &Trial| Gauge::read(trial.pid());
        let most = before.rss + MORE_AFTERWARDS + OF_PEER * self.trial.peers;
        self.soon("its memory is back", |trial| {
            // Else its allocator keeps small pieces of what attackers took.
            !gives_memory_back()
                || gauge(trial).is_none_or(|gauge| {
                    let threads = gauge.threads.saturating_sub(before.threads);
                    gauge.rss <= most + OF_THREAD * threads
                })
        });
        let most = before.fds + MORE_DESCRIPTORS;
        let time = self.trial.soon.max(IDLE_TO_PEERS);
        self.within(time, "its descriptors are closed", |trial| {
            gauge(trial).is_none_or(|gauge| gauge.fds <= most)
        });
    }
}

impl Shown {
    /// Says what was beyond the bounds of every attack.
    fn judge(&mut self) {
        let more = self.most.peak.saturating_sub(self.before.rss);
        if more > MORE_MEMORY {
            let failure = format!("{} MiB more memory while it lasted", more >> 10);
            self.failures.push(failure);
        }
        if let Some(failure) = self.seen.failures.first() {
            let count = self.seen.failures.len();
            let failure = format!("{count} failures of the other client, the first: {failure}");
            self.failures.push(failure);
        }
        let mut times = self.times();
        let (p99, longest) = (times.of_thousand(990), times.of_thousand(1_000));
        if measured().is_some() && (p99 > P99 || longest > LONGEST) {
            let late = format!("the other client waits {longest:?}, one of a hundred {p99:?}");
            self.late = Some(late);
        }
    }

    /// How long the other client waited.
    fn times(&self) -> Times {
        let mut times = Times::default();
        times.extend(&self.seen.gets);
        times.extend(&self.seen.changes);
        times
    }

    fn print(&self, name: &str, args: &[&str]) {
        static HEAD: Once = Once::new();
        HEAD.call_once(|| {
            eprintln!(
                "{:36} {:>8} {:>6} {:>7} {:>7} {:>5} {:>14} {:>15} {:>13} {:>12} {:>6} {:>5}",
                "attack",
                "sent KiB",
                "opened",
                "p99 ms",
                "max",
                "fails",
                "RSS MiB +most",
                "fds",
                "threads",
                "connections",
                "proc s",
                "s",
            );
        });
        let mut all = self.times();
        let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
        let after = self.after;
        let triple = |of: fn(&Gauge) -> u64| {
            let after = after.map_or("-".to_owned(), |after| of(&after).to_string());
            format!("{}/{}/{after}", of(&self.before), of(&self.most))
        };
        eprintln!(
            "{name:36} {:>8} {:>6} {:>7.1} {:>7.1} {:>5} {:>14} {:>15} {:>13} {:>12} {:>6.1} {:>5.1}  {}",
            self.sent >> 10,
            self.opened,
            millis(all.of_thousand(990)),
            millis(all.of_thousand(1_000)),
            self.seen.failures.len(),
            format!(
                "{}+{}/{}",
                self.before.rss >> 10,
                self.most.peak.saturating_sub(self.before.rss) >> 10,
                after.map_or(0, |after| after.rss.saturating_sub(self.before.rss) >> 10),
            ),
            triple(|gauge| gauge.fds),
            triple(|gauge| gauge.threads),
            format!("{}/{}", self.connections.0, self.connections.1),
            self.processor.as_secs_f64(),
            self.took.as_secs_f64(),
            args.join(" "),
        );
        for failure in self.failures.iter().chain(&self.late) {
            eprintln!("    {failure}");
        }
    }
}
