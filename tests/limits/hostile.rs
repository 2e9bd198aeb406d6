//! One hostile client after the other, while a well-behaved one goes on.
//!
//! Here are those that keep to a rate, all on one process. The modules below have those of a plan,
//! each on a process of its own.

mod askers;
mod fake;
mod messages;
mod other;
mod peers;
mod recorded;
mod second_engine;
mod strangers;
mod trial;

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use crate::attacks::{ATTACKS, Attack, LARGE, Target, Told};
use crate::client::Client;
use crate::gauge::{Gauge, Times};
use crate::origin::Origin;
use crate::process::{Process, eventually};
use crate::{Over, alone_if_measured, size};

/// How much more memory the process may take while it is attacked, in KiB.
const MORE_MEMORY: u64 = 16 << 10;

/// How much longer than usual, and than that twice, one of a hundred requests may take. The
/// attacker, the client and the server share the processors: whoever asks may have to wait for a
/// slice of time that another has.
const SLACK: Duration = Duration::from_millis(4);

/// How often an attack is tried under which the client was late.
const TRIES: usize = 3;

const SMALL: &str = "/_groupcache/objects/small";

/// How often the client asks.
const PAUSE: Duration = Duration::from_millis(2);

/// Asks for a value, and gives its length.
fn get(client: &mut Client, target: &str) -> usize {
    let (status, body) = client.ask("GET", target, &[]).unwrap();
    assert_eq!(status, 200);
    body.len()
}

/// Asks for `time`, now and then on a new connection, and watches the process.
fn measure(client: &mut Client, pid: u32, time: Duration) -> (Times, Gauge) {
    let (mut times, mut most) = (Times::default(), Gauge::of(pid));
    let end = Instant::now() + time;
    for number in 0.. {
        let begun = Instant::now();
        if begun >= end {
            break;
        }
        if number % 50 == 49 {
            *client = Client::connect(client.address).unwrap();
        }
        get(client, SMALL);
        times.add(begun.elapsed());
        if number % 50 == 0 {
            most = most.most(Gauge::of(pid));
        }
        thread::sleep(PAUSE);
    }
    (times, most)
}

#[test]
fn hostile_clients_harm_nobody_else() {
    let _turn = alone_if_measured();
    let measured: Option<f64> = size("GROUPCACHE_HOSTILE_SECONDS");
    let time = Duration::from_secs_f64(measured.unwrap_or(0.3));
    let origin = Origin::start();
    origin.answer("large", 200, "", &"x".repeat(4 << 20));
    let node = Process::start_with_log("warn", &origin, &[]);
    let address = node.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut client = Client::connect(address).unwrap();
    for _ in 0..3 {
        assert!(get(&mut client, LARGE) > 4 << 20 && get(&mut client, SMALL) > 0);
    }
    measure(&mut client, node.pid(), time);
    eprintln!(
        "{:31} {:>7} {:>7} {:>7} {:>6} {:>7} {:>8} {:>6} {:>7}  the attacker was told",
        "attack", "p50 µs", "p99", "during", "ratio", "max", "RSS KiB", "fds", "threads"
    );
    let mut failures = Vec::new();
    for attack in ATTACKS {
        let mut late = Vec::new();
        // Others use the processors too: what was late once is tried twice more, and the middle one
        // of the three counts.
        while late.len() < TRIES {
            let outcome = run(attack, &mut client, node.pid(), time);
            failures.extend(outcome.failures);
            late.push(outcome.late.filter(|_| measured.is_some()));
            if late == [None] {
                break;
            }
        }
        let late: Vec<_> = late.into_iter().flatten().collect();
        if late.len() > TRIES / 2 {
            failures.extend(late);
        }
    }
    assert_eq!(failures, Vec::<String>::new());
}

/// What came of an attack that was not to be.
struct Outcome {
    failures: Vec<String>,
    /// That the other client had to wait.
    late: Option<String>,
}

fn run(attack: &Attack, client: &mut Client, pid: u32, time: Duration) -> Outcome {
    let (mut usual, before) = measure(client, pid, time);
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
        let over = Over(&target.over);
        let seen = measure(client, pid, time);
        drop(over);
        (seen, attacker.join().unwrap())
    });
    let (p99, under_attack) = (usual.of_thousand(990), times.of_thousand(990));
    let more = during.rss.saturating_sub(before.rss);
    eprintln!(
        "{:31} {:>7} {:>7} {:>7} {:>6.1} {:>7} {:>+8} {:>6} {:>7}  {told:?}",
        attack.name,
        usual.of_thousand(500).as_micros(),
        p99.as_micros(),
        under_attack.as_micros(),
        under_attack.as_secs_f64() / p99.as_secs_f64(),
        times.of_thousand(1_000).as_micros(),
        more,
        during.fds,
        during.threads,
    );
    let is_late = under_attack > 2 * p99 + SLACK;
    let late = is_late.then(|| format!("{}: p99 {under_attack:?}, not {p99:?}", attack.name));
    let mut failures = Vec::new();
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
        get(client, SMALL);
        Gauge::of(pid).fds <= before.fds + 2
    });
    Outcome { failures, late }
}
