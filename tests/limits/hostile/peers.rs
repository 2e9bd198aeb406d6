//! What those may do who may ask for work: peers, and everybody where there is no secret.

use std::time::{Duration, Instant};

use crate::gauge::processor_time;
use crate::hostile::messages::{GROUP, MAX_KEYS, answer, field, get_command, request};
use crate::hostile::trial::{Attacker, Row, measured};
use crate::origin::Origin;

const PATIENCE: Duration = Duration::from_secs(10);

/// As long as they like, as far as they are concerned.
const PATIENT: &str = ";w=3600000";

/// A key whose value does not come while the attack lasts.
const HELD: &str = "held";

pub(crate) const WEDGE: Row = Row {
    name: "256 batches of one key 1,024 times",
    has_secret: false,
    peers: 0,
    origin: holding,
    attack: wedge,
};

#[test]
fn batches_of_one_key_that_leave_together_keep_nobody_waiting() {
    WEDGE.hold();
}

fn holding() -> Origin {
    let origin = Origin::start();
    origin.hold(HELD);
    origin
}

/// The largest batch of one key, from somebody who waits so long.
fn same_key(patience: &str) -> Vec<u8> {
    let command = get_command(vec![HELD.to_owned(); MAX_KEYS]);
    request("POST", GROUP, patience, &command)
}

/// Half of them run out of patience together, and then the other half leave together.
fn wedge(attacker: &mut Attacker<'_>) {
    const EACH: usize = 128;
    let ask = |attacker: &mut Attacker<'_>, patience: &str| {
        let batch = same_key(patience);
        let open = (0..EACH).map(|_| attacker.ask(1, &batch));
        open.collect::<Vec<_>>()
    };
    let patient = ask(attacker, PATIENT);
    let impatient = ask(attacker, ";w=1000");
    attacker.trial.origin.wait_until_asked(HELD, 1);
    for mut stream in impatient.into_iter().flatten() {
        let status = answer(&mut stream, PATIENCE);
        // Who is one too many is told so.
        let is_answered = matches!(status, Some(200 | 503));
        attacker.expect(is_answered, format!("a batch is answered {status:?}"));
    }
    attacker.wait_for_turns(20);
    drop(patient);
    attacker.wait_for_turns(50);
    attacker.trial.origin.release(HELD);
}

pub(crate) const GONE: Row = Row {
    name: "66 batches of 1,024 keys",
    has_secret: false,
    peers: 0,
    origin: slow,
    attack: gone,
};

#[test]
fn keys_of_clients_that_have_gone_are_not_loaded() {
    GONE.hold();
}

/// So slow that what is queued at once would take minutes.
fn slow() -> Origin {
    Origin::start_slow(Duration::from_millis(50), |key| key.as_bytes().to_vec())
}

/// A batch of keys that nobody has.
fn new_keys(batch: usize) -> Vec<u8> {
    let keys = (0..MAX_KEYS).map(|number| format!("queued-{batch}-{number}"));
    request("POST", GROUP, PATIENT, &get_command(keys))
}

fn gone(attacker: &mut Attacker<'_>) {
    let open: Vec<_> = (0..66)
        .map(|batch| attacker.ask(1, &new_keys(batch)))
        .collect();
    attacker.soon("loads have begun", |trial| trial.origin.requests() > 50);
    load_new(attacker, "while they wait");
    drop(open);
    let left = Instant::now();
    attacker.soon("flights and queue are empty", |trial| {
        trial.node.count("flights") <= 1
    });
    eprintln!("    empty {:.1?} after they have left", left.elapsed());
    load_new(attacker, "after they have left");
}

/// A key of the other client is loaded before many more of the others.
fn load_new(attacker: &mut Attacker<'_>, when: &str) {
    /// Of the attacker, 16 are loaded at once; each thread may take some more in between.
    const MORE: usize = 200;
    let before = attacker.trial.origin.requests();
    if let Err(failure) = attacker.trial.other.get_new() {
        attacker.fail(format!("a new key {when}: {failure}"));
    }
    let more = attacker.trial.origin.requests() - before;
    attacker.expect(
        more < MORE,
        format!("a new key {when}: {more} others came first"),
    );
}

pub(crate) const CRASH: Row = Row {
    name: "86 connections that hand over",
    has_secret: false,
    peers: 0,
    origin: slow,
    attack: crash,
};

#[test]
fn loads_that_are_handed_over_again_and_again_end_no_process() {
    CRASH.hold();
}

/// A load that waits in a full queue is handed from one of its askers to the next, all of whom ask
/// for it many times.
fn crash(attacker: &mut Attacker<'_>) {
    let mut open: Vec<_> = (0..64)
        .map(|batch| attacker.ask(1, &new_keys(batch)))
        .collect();
    let leader = get_command([HELD.to_owned(), "beside".to_owned()]);
    open.push(attacker.ask(1, &request("POST", GROUP, ";w=1500", &leader)));
    open.extend((64..66).map(|batch| attacker.ask(1, &new_keys(batch))));
    let batch = same_key(PATIENT);
    open.extend((0..86).map(|_| attacker.ask(1, &batch)));
    let end = Instant::now() + measured().map_or(2, |_| 4) * Duration::from_secs(1);
    for batch in 66.. {
        if Instant::now() > end || !attacker.is_alive() {
            break;
        }
        open.push(attacker.ask(1, &new_keys(batch))); // keeps the queue full
        std::thread::sleep(Duration::from_millis(50));
    }
    attacker.expect(
        attacker.is_alive(),
        "the process has ended while they waited",
    );
    drop(open);
}

pub(crate) const LARGE: Row = Row {
    name: "32 batches of 32 MiB that wait",
    has_secret: false,
    peers: 0,
    origin: large,
    attack: large_batches,
};

#[test]
fn batches_of_large_values_that_wait_stay_within_the_bound_of_memory() {
    LARGE.hold();
}

/// Where keys that begin with `large` have the largest values that travel.
fn large() -> Origin {
    let origin = Origin::start_slow(Duration::ZERO, |key| {
        let is_large = key.starts_with("large");
        let mut value = vec![b'x'; if is_large { (16 << 20) - 64 } else { 0 }];
        value.extend(key.as_bytes());
        value
    });
    origin.hold(HELD);
    origin
}

fn large_batches(attacker: &mut Attacker<'_>) {
    let mut open = Vec::new();
    for batch in 0..32 {
        let keys = (0..2).map(|number| format!("large-{batch}-{number}"));
        let command = get_command(keys.chain([HELD.to_owned()]));
        let pairs = format!("{PATIENT};m=16778240");
        open.extend(attacker.ask(1, &request("POST", GROUP, &pairs, &command)));
    }
    // Some may be refused: until nothing more is loaded.
    let requests = |attacker: &Attacker<'_>| attacker.trial.origin.requests();
    let mut before = usize::MAX;
    while requests(attacker) != before {
        before = requests(attacker);
        std::thread::sleep(Duration::from_millis(300));
    }
    attacker.wait_for_turns(20);
    drop(open);
    attacker.trial.origin.release(HELD);
}

pub(crate) const ERRANDS: Row = Row {
    name: "12 errands of 8 million removals",
    has_secret: false,
    peers: 0,
    origin: Origin::start,
    attack: errands,
};

#[test]
fn errands_that_are_longer_than_any_take_no_more_than_their_bodies() {
    ERRANDS.hold();
}

/// A removal of nothing takes two bytes, and much more once it is read.
fn errands(attacker: &mut Attacker<'_>) {
    let body = [0x2a, 0].repeat(8 << 20);
    let command = request("POST", "/_groupcache/", "", &body);
    let open: Vec<_> = (0..12).map(|_| attacker.ask(1, &command)).collect();
    for mut stream in open.into_iter().flatten() {
        let status = answer(&mut stream, PATIENCE);
        // The last may find no room.
        let is_refused = matches!(status, Some(400 | 503) | None);
        attacker.expect(is_refused, format!("a command is answered {status:?}"));
    }
}

pub(crate) const PUTS: Row = Row {
    name: "26 values of 16 MiB that are set",
    has_secret: false,
    peers: 0,
    origin: Origin::start,
    attack: puts,
};

#[test]
fn large_values_that_are_set_stay_within_the_bound_of_memory() {
    PUTS.hold();
}

fn puts(attacker: &mut Attacker<'_>) {
    let value = vec![b'v'; (16 << 20) - 64];
    let open: Vec<_> = (0..26)
        .map(|number| {
            let key = format!("set-{number}");
            let names = [field(1, b"objects"), field(2, key.as_bytes())].concat();
            let body = [names, field(3, &value)].concat();
            let put = request("PUT", &format!("{GROUP}/{key}"), "", &body);
            let mut stream = attacker.connect(1)?;
            // All but the end, so that all of them are there at once.
            attacker.send(&mut stream, &put[..put.len() - 1]);
            Some(stream)
        })
        .collect();
    let mut done = 0;
    let mut open: Vec<_> = open.into_iter().flatten().collect();
    for stream in &mut open {
        attacker.send(stream, b"v");
    }
    for stream in &mut open {
        done += usize::from(answer(stream, PATIENCE) == Some(200));
    }
    // As many as have room at once, and no fewer.
    attacker.expect(done >= 10, format!("{done} of 26 values are set"));
}

pub(crate) const LONG_KEYS: Row = Row {
    name: "20 batches of 1,000 keys of 15 KB",
    has_secret: false,
    peers: 0,
    origin: slow,
    attack: long_keys,
};

/// Without optimisation that takes too long for every run.
#[test]
fn batches_of_long_keys_stay_within_the_bound_of_memory() {
    if measured().is_some() {
        LONG_KEYS.hold();
    }
}

fn long_keys(attacker: &mut Attacker<'_>) {
    attacker.trial.other.change_little();
    let keys = |batch: usize| (0..1_000).map(move |key| format!("{batch}-{key}-{:015000}", 0));
    let open: Vec<_> = (0..20)
        .map(|batch| {
            let command = get_command(keys(batch));
            attacker.ask(1, &request("POST", GROUP, PATIENT, &command))
        })
        .collect();
    attacker.soon("loads have begun", |trial| trial.origin.requests() > 20);
    attacker.wait_for_turns(20);
    drop(open);
}

pub(crate) const PATIENCE_OF_AN_HOUR: Row = Row {
    name: "100 who wait for an hour",
    has_secret: false,
    peers: 0,
    origin: holding,
    attack: patient,
};

/// A node cuts what it waits to its `load_timeout`, of 10 s: too long for every run.
#[test]
fn nobody_holds_a_place_for_longer_than_a_load_may_take() {
    if measured().is_some() {
        PATIENCE_OF_AN_HOUR.hold();
    }
}

fn patient(attacker: &mut Attacker<'_>) {
    const LOAD_TIMEOUT: Duration = Duration::from_secs(10);
    let get = request("GET", &format!("{GROUP}/{HELD}"), PATIENT, &[]);
    let open: Vec<_> = (0..100).map(|_| attacker.ask(1, &get)).collect();
    let end = Instant::now() + LOAD_TIMEOUT + Duration::from_secs(2);
    let mut statuses = Vec::new();
    for mut stream in open.into_iter().flatten() {
        let rest = end.saturating_duration_since(Instant::now());
        statuses.push(answer(&mut stream, rest.max(Duration::from_millis(1))));
    }
    let waiting = statuses.iter().filter(|status| status.is_none()).count();
    attacker.expect(
        waiting == 0,
        format!("{waiting} of 100 wait longer than {LOAD_TIMEOUT:?}"),
    );
    attacker.trial.origin.release(HELD);
}

/// Peers that are alive whenever they are asked.
const PEERS: usize = 100;

pub(crate) const DEPARTURES: Row = Row {
    name: "departures of 100 peers, 200/s",
    has_secret: false,
    peers: PEERS,
    origin: Origin::start,
    attack: departures,
};

#[test]
fn departures_that_are_made_up_cost_little_and_have_an_end() {
    DEPARTURES.hold();
}

fn departures(attacker: &mut Attacker<'_>) {
    /// For each message, with all that it causes and with what the other client asks.
    const COST: Duration = Duration::from_millis(5);
    let node = &attacker.trial.node;
    let worked = processor_time(node.pid());
    let (begun, mut told) = (Instant::now(), 0);
    let Some(mut stream) = attacker.connect(1) else {
        return attacker.fail("not connected");
    };
    let time = measured().unwrap_or(Duration::from_secs(1));
    while begun.elapsed() < time.min(Duration::from_secs(5)) {
        let command = field(1, format!("p{}", told % PEERS).as_bytes());
        attacker.send(&mut stream, &request("POST", "/_groupcache/", "", &command));
        if answer(&mut stream, PATIENCE).is_none() {
            attacker.fail(format!("departure {told} is not answered"));
            break;
        }
        told += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    let cost = (processor_time(node.pid()) - worked) / told.max(1) as u32;
    eprintln!("    {told} departures, {cost:.1?} of processor time for each");
    let is_cheap = measured().is_none() || cost <= COST;
    attacker.expect(
        is_cheap,
        format!("a departure costs {cost:.1?} of processor time"),
    );
    drop(stream);
    attacker.soon("all are back", |trial| {
        let stats = trial.node.stats();
        let peers = stats["peers"].as_array().unwrap();
        peers.iter().all(|peer| peer["has_left"] == false)
    });
}
