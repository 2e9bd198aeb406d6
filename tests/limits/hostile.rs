//! One hostile client after the other, while a well-behaved one goes on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::attacks::{ATTACKS, Attack, LARGE, Target, Told};
use crate::gauge::{Gauge, Times};
use crate::origin::Origin;
use crate::process::{PATIENCE, Process, eventually};
use crate::{alone, size};

/// How much more memory the process may take while it is attacked, in KiB.
const MORE_MEMORY: u64 = 16 << 10;

/// How much longer than usual, and than that twice, one of a hundred requests may take. The
/// attacker, the client and the server share the processors: whoever asks may have to wait for a
/// slice of time that another has.
const SLACK: Duration = Duration::from_millis(4);

const SMALL: &str = "/_groupcache/objects/small";

/// How often the client asks.
const PAUSE: Duration = Duration::from_millis(2);

/// One who behaves well: it asks on one connection, and now and then on a new one.
struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Client {
    fn new(address: SocketAddr) -> Client {
        Client {
            address,
            stream: connect(address),
        }
    }

    /// Asks for `target`; gives the length of its value.
    fn get(&mut self, target: &str) -> usize {
        let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let (mut line, mut length) = (String::new(), 0);
        self.stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
        while line != "\r\n" {
            line.clear();
            assert_ne!(self.stream.read_line(&mut line).unwrap(), 0, "cut off");
            if let Some(told) = line.strip_prefix("Content-Length: ") {
                length = told.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        length
    }

    /// Asks for `time`, and watches the process.
    fn measure(&mut self, pid: u32, time: Duration) -> (Times, Gauge) {
        let (mut times, mut most) = (Times::default(), Gauge::of(pid));
        let end = Instant::now() + time;
        for number in 0.. {
            let begun = Instant::now();
            if begun >= end {
                break;
            }
            if number % 50 == 49 {
                self.stream = connect(self.address);
            }
            self.get(SMALL);
            times.add(begun.elapsed());
            if number % 50 == 0 {
                most = most.most(Gauge::of(pid));
            }
            thread::sleep(PAUSE);
        }
        (times, most)
    }
}

fn connect(address: SocketAddr) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

#[test]
fn hostile_clients_harm_nobody_else() {
    let _turn = alone();
    let measured: Option<f64> = size("GROUPCACHE_HOSTILE_SECONDS");
    let time = Duration::from_secs_f64(measured.unwrap_or(0.3));
    let origin = Origin::start();
    origin.answer("large", 200, "", &"x".repeat(4 << 20));
    let node = Process::start_with_log("warn", &origin, &[]);
    let address = node.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut client = Client::new(address);
    for _ in 0..3 {
        assert!(client.get(LARGE) > 4 << 20 && client.get(SMALL) > 0);
    }
    client.measure(node.pid(), time);
    eprintln!(
        "{:31} {:>7} {:>7} {:>7} {:>6} {:>8} {:>6} {:>7}  the attacker was told",
        "attack", "p50 µs", "p99", "during", "ratio", "RSS KiB", "fds", "threads"
    );
    let mut failures = Vec::new();
    for attack in ATTACKS {
        let failed = run(attack, &mut client, node.pid(), time, measured.is_some());
        failures.extend(failed);
    }
    assert_eq!(failures, Vec::<String>::new());
}

/// Runs one attack. Tells what was not as it is to be.
fn run(
    attack: &Attack,
    client: &mut Client,
    pid: u32,
    time: Duration,
    is_measured: bool,
) -> Vec<String> {
    let (mut usual, before) = client.measure(pid, time);
    let target = Target {
        address: client.address,
        over: AtomicBool::new(false),
    };
    let ((mut times, during), told) = thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            let mut told = Told::new();
            (attack.run)(&target, &mut told);
            told
        });
        let seen = client.measure(pid, time);
        target.over.store(true, Ordering::Relaxed);
        (seen, attacker.join().unwrap())
    });
    let (p99, under_attack) = (usual.of_thousand(990), times.of_thousand(990));
    let more = during.rss.saturating_sub(before.rss);
    eprintln!(
        "{:31} {:>7} {:>7} {:>7} {:>6.1} {:>+8} {:>6} {:>7}  {told:?}",
        attack.name,
        usual.of_thousand(500).as_micros(),
        p99.as_micros(),
        under_attack.as_micros(),
        under_attack.as_secs_f64() / p99.as_secs_f64(),
        more,
        during.fds,
        during.threads,
    );
    let mut failures = Vec::new();
    if is_measured && under_attack > 2 * p99 + SLACK {
        failures.push(format!(
            "{}: p99 {under_attack:?}, not {p99:?}",
            attack.name
        ));
    }
    if more > MORE_MEMORY {
        failures.push(format!("{}: {more} KiB more memory", attack.name));
    }
    if attack
        .refusal
        .is_some_and(|refusal| !told.contains_key(refusal))
    {
        failures.push(format!("{}: told {told:?}", attack.name));
    }
    eventually("all its connections are closed", || {
        client.get(SMALL);
        Gauge::of(pid).fds <= before.fds + 2
    });
    failures
}
