//! The names of what is published, what they mean, and where the numbers come from.

use crate::stats::latency::{Latencies, Latency};
use crate::stats::{CircuitState, GroupStats, NodeStats, PeerStats};

/// The name of a metric, what it means, and the number.
pub(super) type Number<T> = (&'static str, &'static str, fn(&T) -> u64);

pub(super) const GROUP_COUNTERS: &[Number<GroupStats>] = &[
    ("groupcache_gets_total", "Local gets", |group| group.gets),
    (
        "groupcache_main_hits_total",
        "Gets answered from the main cache",
        |group| group.main_hits,
    ),
    (
        "groupcache_hot_hits_total",
        "Gets answered by a mirrored value",
        |group| group.hot_hits,
    ),
    (
        "groupcache_joined_total",
        "Gets that waited for another's load or fetch",
        |group| group.joined,
    ),
    (
        "groupcache_leads_total",
        "Gets that had to load or fetch",
        |group| group.leads,
    ),
    (
        "groupcache_loads_total",
        "Keys that the loader was run for",
        |group| group.loads,
    ),
    (
        "groupcache_loader_runs_total",
        "Runs of the loader; a batch is one",
        |group| group.loader_runs,
    ),
    (
        "groupcache_load_errors_total",
        "Loads that failed or found nothing",
        |group| group.load_errors,
    ),
    (
        "groupcache_overloads_total",
        "Loads refused as too many were running",
        |group| group.overloads,
    ),
    (
        "groupcache_fetches_total",
        "Values asked for from peers",
        |group| group.fetches,
    ),
    (
        "groupcache_fetch_errors_total",
        "Fetches without an answer",
        |group| group.fetch_errors,
    ),
    (
        "groupcache_deputy_fetches_total",
        "Values asked for from deputies",
        |group| group.deputy_fetches,
    ),
    (
        "groupcache_deputy_copies_total",
        "Values taken over from their owners as the deputy",
        |group| group.deputy_copies,
    ),
    (
        "groupcache_peeks_total",
        "Values asked for from former owners",
        |group| group.peeks,
    ),
    (
        "groupcache_inherited_total",
        "Values that were taken over from former owners",
        |group| group.inherited,
    ),
    (
        "groupcache_served_total",
        "Requests from peers for a value",
        |group| group.served,
    ),
    (
        "groupcache_served_hits_total",
        "Requests from peers answered from memory",
        |group| group.served_hits,
    ),
    ("groupcache_removes_total", "Keys removed", |group| {
        group.removes
    }),
    (
        "groupcache_evictions_total",
        "Entries that made room for others",
        |group| group.evictions,
    ),
    (
        "groupcache_rejections_total",
        "Evicted entries that were new",
        |group| group.rejections,
    ),
    (
        "groupcache_expirations_total",
        "Entries whose time was over",
        |group| group.expirations,
    ),
    (
        "groupcache_stale_hits_total",
        "Hits of values past their expiry",
        |group| group.stale_hits,
    ),
    (
        "groupcache_stand_ins_total",
        "Expired values given out for failed loads",
        |group| group.stand_ins,
    ),
    (
        "groupcache_absent_hits_total",
        "Hits that there is no value",
        |group| group.absent_hits,
    ),
];

pub(super) const GROUP_GAUGES: &[Number<GroupStats>] = &[
    ("groupcache_main_items", "Entries this node owns", |group| {
        group.main_items
    }),
    ("groupcache_hot_items", "Mirrored entries", |group| {
        group.hot_items
    }),
    (
        "groupcache_absent_items",
        "Entries that say that there is no value",
        |group| group.absent_items,
    ),
    (
        "groupcache_loads_running",
        "Runs of the loader under way",
        |group| group.loads_running,
    ),
    (
        "groupcache_flights",
        "Keys being loaded or fetched",
        |group| group.flights,
    ),
];

pub(super) const GROUP_BYTES: &[Number<GroupStats>] = &[
    (
        "groupcache_main_bytes",
        "Weight of the entries this node owns",
        |group| group.main_bytes,
    ),
    (
        "groupcache_hot_bytes",
        "Weight of the mirrored entries",
        |group| group.hot_bytes,
    ),
    (
        "groupcache_capacity_bytes",
        "What both may weigh together",
        |group| group.capacity_bytes,
    ),
    (
        "groupcache_overhead_bytes",
        "What the group takes beside its entries",
        |group| group.overhead_bytes,
    ),
];

pub(super) const PEER_COUNTERS: &[Number<PeerStats>] = &[
    ("groupcache_peer_calls_total", "Calls to the peer", |peer| {
        peer.calls
    }),
    (
        "groupcache_peer_call_errors_total",
        "Calls that failed",
        |peer| peer.call_errors,
    ),
    (
        "groupcache_peer_abandoned_calls_total",
        "Calls whose caller had no more time",
        |peer| peer.abandoned_calls,
    ),
    (
        "groupcache_peer_retries_total",
        "Requests sent again on another connection",
        |peer| peer.retries,
    ),
    (
        "groupcache_peer_circuit_openings_total",
        "How often the peer was found to be unreachable",
        |peer| peer.circuit_openings,
    ),
];

pub(super) const PEER_GAUGES: &[Number<PeerStats>] = &[
    (
        "groupcache_peer_pending_removals",
        "Removals that the peer has not been told of yet",
        |peer| peer.pending_removals,
    ),
    (
        "groupcache_peer_circuit_open",
        "1 while the peer counts as unreachable",
        |peer| u64::from(peer.circuit == CircuitState::Open),
    ),
];

pub(super) const NODE_COUNTERS: &[Number<NodeStats>] = &[
    (
        "groupcache_ring_mismatches_total",
        "Answers of peers with another ring",
        |node| node.ring_mismatches,
    ),
    (
        "groupcache_refused_requests_total",
        "Requests that did not prove where they came from",
        |node| node.refused_requests,
    ),
    (
        "groupcache_misdirected_requests_total",
        "Requests that were meant for another node",
        |node| node.misdirected_requests,
    ),
    (
        "groupcache_discovery_polls_total",
        "Lists of peers asked for",
        |node| node.discovery_polls,
    ),
    (
        "groupcache_discovery_errors_total",
        "Lists of peers that could not be used",
        |node| node.discovery_errors,
    ),
];

pub(super) const NODE_GAUGES: &[Number<NodeStats>] = &[
    (
        "groupcache_peers",
        "Peers in the list, this node included",
        |node| node.peers.len() as u64,
    ),
    (
        "groupcache_loader_threads",
        "Threads of the loader pool",
        |node| node.loader_threads,
    ),
    (
        "groupcache_loader_threads_busy",
        "Threads that are inside a loader",
        |node| node.loader_threads_busy,
    ),
    (
        "groupcache_is_absent",
        "1 while the list lacks this node, which then owns nothing",
        |node| u64::from(node.is_absent),
    ),
];

/// The name of a metric that is no plain number, and what it means.
pub(super) type Series = (&'static str, &'static str);

pub(super) const RING_SHARE: Series = (
    "groupcache_peer_ring_share",
    "The peer's share of the keys, of 1",
);
pub(super) const GET_SECONDS: Series = (
    "groupcache_get_seconds",
    "Gets that were not answered from memory",
);
pub(super) const LOADER_SECONDS: Series = ("groupcache_loader_seconds", "Runs of the loader");
pub(super) const CALL_SECONDS: Series = (
    "groupcache_peer_call_seconds",
    "Calls to the peer that were answered",
);

/// The latencies of the gets of a group, by what came of them.
pub(super) fn by_outcome(latencies: &Latencies) -> [(&'static str, &Latency); 5] {
    [
        ("peer", &latencies.peer),
        ("load", &latencies.load),
        ("joined", &latencies.joined),
        ("not_found", &latencies.not_found),
        ("failed", &latencies.failed),
    ]
}
