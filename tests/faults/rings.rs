//! Nodes whose peer lists disagree: each takes another one for the owner of a key, in a circle.

use std::thread;
use std::time::{Duration, Instant};

use crate::alone_if_measured;
use crate::client::Client;
use crate::origin::Origin;
use crate::process::Process;
use crate::proxy::Link;
use crate::value_of;

const KEYS: usize = 100;

/// Ten times what a get takes that asks a silent peer and then loads.
const GUARD: Duration = Duration::from_secs(10);

/// A circle of nodes. Each knows itself and the next one only: a key that a node takes for the next one's
/// is, for that one, its own or that of the one behind it.
struct Circle {
    nodes: Vec<Process>,
    /// The way from each to the next.
    links: Vec<Link>,
    origin: Origin,
}

impl Circle {
    fn start(count: usize) -> Circle {
        let origin = Origin::start_slow(Duration::ZERO, value_of);
        let (mut nodes, mut links) = (Vec::<Process>::new(), Vec::<Link>::new());
        for node in 0..count {
            let way = Link::start();
            let this = format!("place-{node}=http://this:1");
            let peers = format!("{this},place-{}={}", (node + 1) % count, way.url());
            let mut args = vec!["--self", &this, "--peers", &peers, "--hot-bytes", "0"];
            args.extend(["--warm-up-ms", "0"]); // no ring is the one before another
            args.extend(["--deputy-bytes", "0"]); // only gets are forwarded
            nodes.push(Process::start_with_log("warn", &origin, &args));
            links.push(way);
        }
        for (node, way) in links.iter().enumerate() {
            way.lead_to(&nodes[(node + 1) % count].url);
        }
        Circle {
            nodes,
            links,
            origin,
        }
    }

    /// Requests from peer to peer.
    fn forwarded(&self) -> u64 {
        let links = self.links.iter();
        links.map(|link| link.seen().others).sum()
    }

    fn sum(&self, counter: &str) -> u64 {
        self.nodes.iter().map(|node| node.count(counter)).sum()
    }
}

fn get(client: &mut Client, key: &str) {
    let begun = Instant::now();
    let (status, value) = client.ask("GET", &format!("/k/{key}"), &[]).unwrap();
    assert_eq!(status, 200, "{key}");
    assert_eq!(value, value_of(key), "a wrong value of {key}");
    assert!(begun.elapsed() < GUARD, "{key}: {:?}", begun.elapsed());
}

fn client(node: &Process) -> Client {
    Client::connect(node.front.strip_prefix("http://").unwrap().parse().unwrap()).unwrap()
}

#[test]
fn a_request_goes_one_hop_however_peer_lists_disagree() {
    let _turn = alone_if_measured();
    for count in [3, 4] {
        let circle = Circle::start(count);
        let mut first = client(&circle.nodes[0]);
        for number in 0..KEYS {
            let key = format!("alone-{number}");
            let before = circle.forwarded();
            get(&mut first, &key);
            assert!(circle.forwarded() - before <= 1, "{key} was handed on");
            assert_eq!(circle.origin.asked(&key), 1, "{key}");
        }
        assert!(circle.forwarded() > 0, "nothing was asked for");
        let before = circle.forwarded();
        thread::scope(|scope| {
            for node in &circle.nodes {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut client = client(node);
                        for number in 0..KEYS {
                            get(&mut client, &format!("together-{number}"));
                        }
                    });
                }
            }
        });
        let loads = (0..KEYS).map(|number| circle.origin.asked(&format!("together-{number}")));
        let most = loads.max().unwrap();
        let forwarded = circle.forwarded() - before;
        let gets = (count * 4 * KEYS) as u64;
        eprintln!(
            "a circle of {count}: {gets} gets, {forwarded} requests to peers, {most} loads of a \
             key at most, {} answered by a fallback",
            circle.sum("fetch_errors")
        );
        assert!(most <= count, "more than one load in a process");
        assert!(forwarded <= gets, "a request was handed on");
        assert_eq!(circle.sum("served"), circle.forwarded());
        assert_eq!(circle.sum("flights"), 0);
    }
}
