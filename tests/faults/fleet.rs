//! Nodes of which each reaches each other by a link of its own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};

use crate::gauge::Gauge;
use crate::origin::Origin;
use crate::process::Process;
use crate::proxy::{Link, Rule};
use crate::security::Security;
use crate::value_of;

/// How long the origin takes.
pub(crate) const LOAD: Duration = Duration::from_millis(10);

/// The silence of a peer that the nodes accept, by default.
pub(crate) const FETCH_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Fleet {
    // Stopped in this order.
    places: Vec<Place>,
    links: Vec<Vec<Link>>,
    pub(crate) origin: Origin,
    args: Vec<String>,
    _security: Option<Security>,
}

/// A node, and its successor when it is dead.
struct Place {
    process: RwLock<Process>,
    front: Mutex<SocketAddr>,
    /// Odd while its own clients are not to be served.
    turns: AtomicUsize,
}

impl Fleet {
    /// So many nodes that all know each other, and mirror nothing; with a secret and TLS where the
    /// environment asks for it.
    pub(crate) fn start(nodes: usize, args: &[&str]) -> Fleet {
        Fleet::start_with(Security::of_environment(), nodes, args)
    }

    pub(crate) fn start_with(security: Option<Security>, nodes: usize, args: &[&str]) -> Fleet {
        let ends = security.as_ref().map(Security::ends);
        let flags = security.iter().flat_map(Security::flags);
        let origin = Origin::start_slow(LOAD, value_of);
        let link = |_| Link::start_with(ends.clone());
        let links = (0..nodes).map(|_| (0..nodes).map(link).collect());
        let mut fleet = Fleet {
            places: Vec::new(),
            links: links.collect(),
            origin,
            args: args
                .iter()
                .map(|&arg| arg.to_owned())
                .chain(flags)
                .collect(),
            _security: security,
        };
        let everybody: Vec<usize> = (0..nodes).collect();
        for node in 0..nodes {
            let process = fleet.spawn(node, &everybody);
            fleet.places.push(Place {
                front: Mutex::new(address(&process.front)),
                process: RwLock::new(process),
                turns: AtomicUsize::new(0),
            });
        }
        fleet
    }

    fn spawn(&self, node: usize, seen: &[usize]) -> Process {
        let this = self.name(node, node);
        let peers = self.list(node, seen).join(",");
        let mut args = vec!["--self", &this, "--peers", &peers, "--hot-bytes", "0"];
        args.extend(self.args.iter().map(String::as_str));
        let process = Process::start_with_log("warn", &self.origin, &args);
        for links in &self.links {
            links[node].lead_to(&process.url);
        }
        process
    }

    /// What `node` calls `other`.
    fn name(&self, node: usize, other: usize) -> String {
        format!("node-{other}={}", self.links[node][other].url())
    }

    fn list(&self, node: usize, seen: &[usize]) -> Vec<String> {
        seen.iter().map(|&other| self.name(node, other)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn node(&self, node: usize) -> RwLockReadGuard<'_, Process> {
        self.places[node].process.read()
    }

    /// The way on which `from` asks `to`.
    pub(crate) fn link(&self, from: usize, to: usize) -> &Link {
        &self.links[from][to]
    }

    pub(crate) fn front(&self, node: usize) -> SocketAddr {
        *self.places[node].front.lock()
    }

    /// Changes whenever a node goes away or comes back; odd while it is away.
    pub(crate) fn turn(&self, node: usize) -> usize {
        self.places[node].turns.load(Ordering::SeqCst)
    }

    fn next_turn(&self, node: usize) {
        self.places[node].turns.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn kill(&self, node: usize) {
        self.next_turn(node);
        self.places[node].process.write().kill();
    }

    /// Starts another one in the place of a node that is dead.
    pub(crate) fn restart(&self, node: usize) {
        let everybody: Vec<usize> = (0..self.len()).collect();
        let process = self.spawn(node, &everybody);
        *self.places[node].front.lock() = address(&process.front);
        *self.places[node].process.write() = process;
        self.next_turn(node);
    }

    /// Ends a node in good order, and starts another one in its place.
    pub(crate) fn replace(&self, node: usize) {
        self.next_turn(node);
        {
            let mut process = self.places[node].process.write();
            process.signal("TERM");
            assert!(process.wait().success());
        }
        self.restart(node);
    }

    /// Whether all nodes have the same peers on their rings.
    pub(crate) fn agree(&self) -> bool {
        let ring = |node| self.node(node).stats()["ring"].as_str().unwrap().to_owned();
        let rings: Vec<String> = (0..self.len()).map(ring).collect();
        rings.iter().all(|ring| *ring == rings[0])
    }

    /// A counter, summed over all nodes.
    pub(crate) fn sum(&self, counter: &str) -> u64 {
        (0..self.len())
            .map(|node| self.node(node).count(counter))
            .sum()
    }

    /// The bytes that all nodes have exchanged with each other.
    pub(crate) fn bytes(&self) -> u64 {
        let links = self.links.iter().flatten();
        links.map(|link| link.seen().bytes).sum()
    }

    /// Has a node stand still.
    pub(crate) fn stop(&self, node: usize) {
        self.next_turn(node);
        self.node(node).signal("STOP");
    }

    pub(crate) fn go_on(&self, node: usize) {
        self.node(node).signal("CONT");
        self.next_turn(node);
    }

    /// Sets what becomes of all that these ask those.
    pub(crate) fn set_links(&self, from: &[usize], to: &[usize], rule: &Rule) {
        for &from in from {
            for &to in to {
                self.link(from, to).set(rule.clone());
            }
        }
    }

    /// Has `node` see these nodes only.
    pub(crate) fn show(&self, node: usize, seen: &[usize]) {
        let list = self.list(node, seen);
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        let reply = self.node(node).set_peers(&list);
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    /// A counter that `node` keeps of `peer`.
    pub(crate) fn of_peer(&self, node: usize, peer: usize, counter: &str) -> u64 {
        let stats = self.node(node).stats();
        let peers = stats["peers"].as_array().unwrap();
        let name = format!("node-{peer}");
        let found = peers.iter().find(|found| found["id"] == *name).unwrap();
        found[counter].as_u64().unwrap()
    }

    /// How many peers a node has on its ring.
    pub(crate) fn peers_of(&self, node: usize) -> usize {
        let stats = self.node(node).stats();
        stats["peers"].as_array().unwrap().len()
    }

    /// Whether `node` has given `peer` up for now.
    pub(crate) fn is_given_up(&self, node: usize, peer: usize) -> bool {
        let stats = self.node(node).stats();
        let peers = stats["peers"].as_array().unwrap();
        let name = format!("node-{peer}");
        peers
            .iter()
            .any(|found| found["id"] == *name && found["circuit"] == "open")
    }

    /// What the nodes take that are there.
    pub(crate) fn gauges(&self) -> Vec<Gauge> {
        let here = (0..self.len()).filter(|&node| self.turn(node) % 2 == 0);
        here.map(|node| Gauge::of(self.node(node).pid())).collect()
    }
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}
