//! `StatusPage`: a page for people, which draws what a node knows of itself and its peers.
//!
//! The page (`status/page.html`) is the same for every node. By a script of its own it asks, every
//! other second, for a report in JSON, and shows names and keys in it as text and nothing else.

mod json;

use std::time::{Duration, Instant};

use json::{array, object, string};

use crate::cluster::state::Cluster;
use crate::group::{Registry, Serve};
use crate::observe::{Counted, prometheus};
use crate::protocol::{Request, Response};
use crate::runtime::sync::Mutex;
use crate::stats::latency::{Latencies, Latency};
use crate::stats::{GroupStats, NodeStats, PeerStats};
use crate::value::Value;

/// Where the page is. No path of the peer protocol, which has a `/` after its first word.
const PATH: &str = "/_groupcache-status";

/// Where the report is.
const REPORT: &str = "/_groupcache-status.json";

/// Where the numbers are, for Prometheus.
const METRICS: &str = "/_groupcache-metrics";

const HTML: &str = include_str!("page.html");

/// How long a report is given out: however many ask, and however often, the node does not make more.
const LIFE: Duration = Duration::from_secs(1);

/// What a browser is told: to take nothing from elsewhere, to tell nobody else, and to keep nothing.
const HEADERS: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
];

/// A page to look at, for [`NodeBuilder::status_page`](crate::NodeBuilder::status_page): members and
/// their shares of the ring, hit ratio and where gets are answered, latencies, circuits.
///
/// It is at `/_groupcache-status` wherever the node serves its peers, and its report, in JSON, at
/// `/_groupcache-status.json`; the fields of that may change with any version. Beside them, at
/// `/_groupcache-metrics`, is what [`Node::prometheus`](crate::Node::prometheus) returns. Nothing can be
/// changed by any of them.
///
/// **Whoever reaches the port can read all three**, also where peers share a secret: no browser signs what
/// it asks for. They show the names of groups and the addresses of peers; keys only if
/// [`hottest_keys`](StatusPage::hottest_keys) says so, values never. Where that is too much, let the
/// port be reached by peers alone, or have clients prove who they are by TLS.
///
/// ```no_run
/// use groupcache_sync::{Node, Server, StatusPage};
///
/// let node = Node::builder("http://127.0.0.1:7000")?
///     .status_page(StatusPage::new())
///     .build()?;
/// let server = Server::bind(&node, "127.0.0.1:7000")?;
/// // http://127.0.0.1:7000/_groupcache-status
/// # drop(server);
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a page is switched on by `NodeBuilder::status_page`"]
pub struct StatusPage {
    hottest_keys: usize,
}

impl StatusPage {
    /// A page that shows no keys.
    pub fn new() -> StatusPage {
        StatusPage::default()
    }

    /// Sets how many of the keys that are asked for most are shown, of each group. To find them the
    /// node looks at all its entries, up to once a second while somebody looks at the page. Defaults
    /// to 0: keys may be secrets.
    pub fn hottest_keys(mut self, keys: usize) -> StatusPage {
        self.hottest_keys = keys;
        self
    }
}

/// Whether this is the path of the page, of its report or of the metrics.
pub(crate) fn is_status(target: &str) -> bool {
    [PATH, REPORT, METRICS].contains(&path_of(target))
}

fn path_of(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}

/// The page of a node.
pub(crate) struct Page {
    settings: StatusPage,
    report: Kept,
    metrics: Kept,
}

/// A text that is made once a second at most.
#[derive(Default)]
struct Kept(Mutex<Option<Made>>);

struct Made {
    at: Instant,
    text: Value,
}

impl Kept {
    fn get(&self, now: Instant, make: impl FnOnce() -> String) -> Value {
        if let Some(last) = &mut *self.0.lock() {
            if now.saturating_duration_since(last.at) < LIFE {
                return last.text.clone();
            }
            last.at = now; // requests that come meanwhile get the old text
        }
        let text = Value::from(make());
        *self.0.lock() = Some(Made {
            at: now,
            text: text.clone(),
        });
        text
    }
}

impl Page {
    pub(crate) fn new(settings: StatusPage) -> Page {
        Page {
            settings,
            report: Kept::default(),
            metrics: Kept::default(),
        }
    }

    /// The answer to a request for the page or its report; `None` if it is for something else.
    pub(crate) fn answer(
        &self,
        request: &Request<'_>,
        cluster: &Cluster,
        registry: &Registry,
        counted: &dyn Counted,
    ) -> Option<Response> {
        if !is_status(request.target) {
            return None;
        }
        let ring = cluster.members().fingerprint();
        if !["GET", "HEAD"].contains(&request.method) {
            return Some(Response::wrong_method(ring, "GET"));
        }
        let now = cluster.clock.now();
        let (kind, body) = match path_of(request.target) {
            REPORT => {
                let text = self.report.get(now, || self.write(cluster, registry));
                ("application/json", text)
            }
            METRICS => {
                let text = self.metrics.get(now, || prometheus::text_of(counted));
                (prometheus::MEDIA_TYPE, text)
            }
            _ => ("text/html; charset=utf-8", Value::from(HTML)),
        };
        Some(Response::document(ring, kind, HEADERS, body))
    }

    fn write(&self, cluster: &Cluster, registry: &Registry) -> String {
        let this = cluster.this();
        let NodeStats {
            peers,
            ring,
            ring_mismatches,
            is_absent,
            refused_requests,
            misdirected_requests,
            discovery_polls,
            discovery_errors,
            loader_threads,
            loader_threads_busy,
        } = cluster.stats();
        let groups = registry.all().into_iter();
        object([
            ("version", string(env!("CARGO_PKG_VERSION"))),
            ("id", string(this.name())),
            ("address", string(&this.address())),
            ("ring", string(&format!("{ring:x}"))),
            ("ring_mismatches", ring_mismatches.to_string()),
            ("is_absent", is_absent.to_string()),
            ("refused_requests", refused_requests.to_string()),
            ("misdirected_requests", misdirected_requests.to_string()),
            ("discovery_polls", discovery_polls.to_string()),
            ("discovery_errors", discovery_errors.to_string()),
            ("loader_threads", loader_threads.to_string()),
            ("loader_threads_busy", loader_threads_busy.to_string()),
            ("peers", array(peers.iter().map(of_peer))),
            (
                "groups",
                array(groups.map(|(name, group)| self.of_group(&name, &*group))),
            ),
        ])
    }

    fn of_group(&self, name: &str, group: &dyn Serve) -> String {
        let hottest = match self.settings.hottest_keys {
            0 => "null".to_owned(),
            most => {
                let pair = |(key, count): (String, u64)| array([string(&key), count.to_string()]);
                array(group.hottest(most).into_iter().map(pair))
            }
        };
        object([
            ("name", string(name)),
            ("stats", of_stats(&group.stats())),
            ("latencies", of_latencies(&group.latencies())),
            ("hottest", hottest),
        ])
    }
}

fn of_peer(peer: &PeerStats) -> String {
    let dialect = peer.dialect.map(|dialect| string(&dialect.to_string()));
    object([
        ("id", string(&peer.id)),
        ("address", string(&peer.address)),
        ("is_this_node", peer.is_this_node.to_string()),
        ("has_left", peer.has_left.to_string()),
        ("ring_share", format!("{:.6}", peer.ring_share)),
        ("circuit", string(&peer.circuit.to_string())),
        ("dialect", dialect.unwrap_or_else(|| "null".to_owned())),
        ("calls", peer.calls.to_string()),
        ("call_errors", peer.call_errors.to_string()),
        ("abandoned_calls", peer.abandoned_calls.to_string()),
        ("retries", peer.retries.to_string()),
        ("circuit_openings", peer.circuit_openings.to_string()),
        ("pending_removals", peer.pending_removals.to_string()),
        ("latency", of_latency(&peer.latency)),
    ])
}

fn of_stats(stats: &GroupStats) -> String {
    let numbers = [
        ("gets", stats.gets),
        ("main_hits", stats.main_hits),
        ("hot_hits", stats.hot_hits),
        ("joined", stats.joined),
        ("leads", stats.leads),
        ("loads", stats.loads),
        ("loader_runs", stats.loader_runs),
        ("load_errors", stats.load_errors),
        ("overloads", stats.overloads),
        ("fetches", stats.fetches),
        ("fetch_errors", stats.fetch_errors),
        ("deputy_fetches", stats.deputy_fetches),
        ("deputy_copies", stats.deputy_copies),
        ("served", stats.served),
        ("served_hits", stats.served_hits),
        ("evictions", stats.evictions),
        ("expirations", stats.expirations),
        ("stale_hits", stats.stale_hits),
        ("absent_hits", stats.absent_hits),
        ("main_items", stats.main_items),
        ("hot_items", stats.hot_items),
        ("main_bytes", stats.main_bytes),
        ("hot_bytes", stats.hot_bytes),
        ("capacity_bytes", stats.capacity_bytes),
        ("overhead_bytes", stats.overhead_bytes),
        ("loads_running", stats.loads_running),
        ("flights", stats.flights),
    ];
    object(numbers.map(|(name, number)| (name, number.to_string())))
}

fn of_latencies(latencies: &Latencies) -> String {
    object([
        ("peer", of_latency(&latencies.peer)),
        ("load", of_latency(&latencies.load)),
        ("joined", of_latency(&latencies.joined)),
        ("not_found", of_latency(&latencies.not_found)),
        ("failed", of_latency(&latencies.failed)),
        ("loader", of_latency(&latencies.loader)),
    ])
}

/// Of each bucket, where it ends, in seconds, and how many fell into it. The last begins there.
fn of_latency(latency: &Latency) -> String {
    array(latency.buckets().map(|(range, count)| {
        let end = match range.end {
            Duration::MAX => range.start,
            end => end,
        };
        array([end.as_secs_f64().to_string(), count.to_string()])
    }))
}
