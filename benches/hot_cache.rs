//! What to mirror: by measured popularity, always, or one fetch in ten.
//!
//! Five nodes in one process, on a network in memory and a clock that is moved by hand, so the
//! figures are the same at every run but for the random seeds of the tables: 5,000 requests a
//! second for 20,000 keys at nodes picked at random, for 100 seconds. All three have the same memory
//! in all and at most the same part of it for copies. Counted are the fetches from peers, the bytes
//! of copies (their mean over time), and the gets that needed no load.

#![allow(clippy::print_stdout, reason = "a benchmark prints its tables")]

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, Clock, ENTRY_OVERHEAD, Error, Group, Limits, Link, Network, Node, Peer, Reply,
    Transport, Value,
};
use groupcache_sync_benches::{Bars, Draw, Failure, Options, Rng, Table};

const NODES: usize = 5;
const KEYS: usize = 20_000;
const VALUE: [u8; 256] = [7; 256];

/// Entries that a node has room for.
const ROOM: usize = 6_000;

const REQUESTS_PER_MILLISECOND: usize = 5;
const SECONDS: usize = 100;

/// How a node decides what to mirror.
#[derive(Clone, Copy, Debug)]
enum Mirroring {
    Popular,
    Always,
    OneInTen,
}

/// A network whose answers do not say how popular a key is: then one fetch in ten is mirrored, as
/// golang/groupcache does.
struct WithoutRates(Network);

struct LinkWithoutRates(Arc<dyn Link>);

impl Transport for WithoutRates {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(LinkWithoutRates(self.0.link(peer, limits)?)))
    }
}

impl Link for LinkWithoutRates {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let mut reply = self.0.call(call, timeout)?;
        reply.body = without_rate(&reply.body);
        Ok(reply)
    }
}

/// The message without `double minute_qps`, which this crate writes first.
fn without_rate(body: &[u8]) -> Vec<u8> {
    const RATE: u8 = (2 << 3) | 1;
    const BYTES: usize = 9;
    let rest = match body.first() {
        Some(&RATE) => body.get(BYTES..),
        _ => None,
    };
    rest.unwrap_or(body).to_vec()
}

/// What came of a run.
struct Outcome {
    fetches: u64,
    hot_bytes: f64,
    unloaded: f64,
}

fn run(mirroring: Mirroring, exponent: f64, seconds: usize) -> Result<Outcome, Failure> {
    let clock = Clock::manual();
    let network = Network::new();
    let (mut nodes, mut groups) = (Vec::<Node>::new(), Vec::<Group>::new());
    let address = |node: usize| format!("http://node-{node}:1");
    for number in 0..NODES {
        let mut builder = network.builder(address(number))?.clock(clock.clone());
        if matches!(mirroring, Mirroring::OneInTen) {
            builder = builder.transport(Arc::new(WithoutRates(network.clone())));
        }
        let node = builder.build()?;
        network.attach(&node);
        let weight = 12 + VALUE.len() + ENTRY_OVERHEAD;
        let mut group = node.group_builder("g", ROOM * weight);
        if matches!(mirroring, Mirroring::Always) {
            group = group.hot_threshold(0.0);
        }
        groups.push(group.build(|_| Ok(Value::from(&VALUE)))?);
        nodes.push(node);
    }
    for node in &nodes {
        node.set_peers((0..NODES).map(address))?;
    }
    let requests = seconds * 1_000 * REQUESTS_PER_MILLISECOND;
    let mut rng = Rng::new(7);
    let (mut samples, mut hot_bytes) = (0_u64, 0_u64);
    for (number, pick) in Draw::Zipf(exponent)
        .picks(KEYS, requests, 1)
        .into_iter()
        .enumerate()
    {
        groups[rng.below(NODES)].get(&format!("key-{pick:08}"))?;
        if number % REQUESTS_PER_MILLISECOND == 0 {
            clock.advance(Duration::from_millis(1));
        }
        if number % 5_000 == 0 {
            samples += 1;
            hot_bytes += groups
                .iter()
                .map(|group| group.stats().hot_bytes)
                .sum::<u64>();
        }
    }
    let stats: Vec<_> = groups.iter().map(Group::stats).collect();
    let loads: u64 = stats.iter().map(|stats| stats.loads).sum();
    Ok(Outcome {
        fetches: stats.iter().map(|stats| stats.fetches).sum(),
        hot_bytes: hot_bytes as f64 / samples as f64,
        unloaded: 1.0 - loads as f64 / requests as f64,
    })
}

fn main() -> Result<ExitCode, Failure> {
    let options = Options::from_args();
    let seconds = if options.quick { SECONDS / 4 } else { SECONDS };
    let columns = ["", "fetches", "bytes of copies", "gets without a load"];
    let mut table = Table::new(columns.map(str::to_owned));
    let mut bars = Bars::default();
    for exponent in [0.99, 1.2] {
        let mut outcomes = Vec::new();
        for (name, mirroring) in [
            ("measured", Mirroring::Popular),
            ("always", Mirroring::Always),
            ("one in ten", Mirroring::OneInTen),
        ] {
            let outcome = run(mirroring, exponent, seconds)?;
            table.row([
                format!("Zipf {exponent}, {name}"),
                outcome.fetches.to_string(),
                format!("{:.0}", outcome.hot_bytes),
                format!("{:.2} %", 100.0 * outcome.unloaded),
            ]);
            outcomes.push(outcome);
        }
        let [ours, always, _] = &outcomes[..] else {
            continue;
        };
        let fetches = ours.fetches as f64 / always.fetches as f64;
        let bytes = ours.hot_bytes / always.hot_bytes;
        bars.hold(
            &format!("Zipf {exponent}: fetches / those of always"),
            fetches,
            1.0,
        );
        bars.hold(
            &format!("Zipf {exponent}: bytes / those of always"),
            bytes,
            0.5,
        );
    }
    println!();
    table.print();
    println!();
    Ok(bars.exit_code(options.check))
}
