//! `stats`: what nodes, groups and peers have counted.
//!
//! Imports `runtime` and the dialect of `protocol`. Here are the counters and their snapshots; `latency`
//! counts how long things take.

pub(crate) mod latency;

use std::fmt;

use crate::protocol::dialect::Dialect;
use crate::runtime::sync::{AtomicU64, Ordering};
use crate::stats::latency::Latency;

/// What happened in a group on this node since it was built.
///
/// `gets = main_hits + hot_hits + joined + leads`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupStats {
    /// Local gets. A `try_get` counts only if it finds something.
    pub gets: u64,
    /// Gets that found a value this node owns in its memory, or that there is none.
    pub main_hits: u64,
    /// Gets that found a mirrored value in memory.
    pub hot_hits: u64,
    /// Gets that waited for another thread's load or fetch.
    pub joined: u64,
    /// Gets that had to load or fetch.
    pub leads: u64,
    /// Keys that the loader or the batch loader was run for, for local callers and for peers.
    pub loads: u64,
    /// Runs of the loader, and of the batch loader, which loads several keys in one run.
    pub loader_runs: u64,
    /// Loads that failed, panicked or found nothing.
    pub load_errors: u64,
    /// Loads that were refused, because as many were running as may.
    pub overloads: u64,
    /// Values asked for from peers.
    pub fetches: u64,
    /// Fetches that got neither a value nor an answer that there is none.
    pub fetch_errors: u64,
    /// Values asked for from deputies, as the owners of their keys were unreachable.
    pub deputy_fetches: u64,
    /// Values taken over from their owners, as this node is the deputy.
    pub deputy_copies: u64,
    /// Values asked for from the peers that owned their keys before the ring changed.
    pub peeks: u64,
    /// Those of them that were taken over, and not loaded anew.
    pub inherited: u64,
    /// Requests from peers for a value.
    pub served: u64,
    /// Requests from peers answered from memory.
    pub served_hits: u64,
    /// Keys removed, by local callers and for peers.
    pub removes: u64,
    /// Entries that made room for others.
    pub evictions: u64,
    /// Those of them that were new, and asked for less often than what they would have displaced.
    pub rejections: u64,
    /// Entries that left because their time was over.
    pub expirations: u64,
    /// Those of the hits that found a value past its expiry, which is being renewed.
    pub stale_hits: u64,
    /// Gets that were answered with a value past its expiry because its load failed.
    pub stand_ins: u64,
    /// Those of the hits in main that found that there is no value.
    pub absent_hits: u64,
    /// Those of the entries in main that say that there is no value.
    pub absent_items: u64,
    /// What main and hot may weigh together, in bytes.
    pub capacity_bytes: u64,
    /// What the group takes beside its entries and its capacity, in bytes, about.
    pub overhead_bytes: u64,
    /// Entries this node owns.
    pub main_items: u64,
    /// Mirrored entries.
    pub hot_items: u64,
    /// Their weight in bytes: keys, values and overhead.
    pub main_bytes: u64,
    /// The weight of the mirrored entries, in bytes.
    pub hot_bytes: u64,
    /// Runs of the loader under way. That of a batch is one.
    pub loads_running: u64,
    /// Keys for which a load or a fetch is under way.
    pub flights: u64,
}

/// What a node knows of itself and its peers.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct NodeStats {
    /// All peers of the ring, this node included.
    pub peers: Vec<PeerStats>,
    /// Equal on two nodes exactly if they agree on who owns what.
    pub ring: u64,
    /// Answers of peers whose ring was another one.
    pub ring_mismatches: u64,
    /// Whether the list lacks this node: it then owns nothing, and asks the others.
    pub is_absent: bool,
    /// How often a [`Discoverer`](crate::Discoverer) has asked for the list.
    pub discovery_polls: u64,
    /// How often it got none, or one that cannot be used.
    pub discovery_errors: u64,
    /// Requests of peers that were refused, as they did not prove where they come from.
    pub refused_requests: u64,
    /// Requests that were meant for another cluster, or for another peer at this address, and were
    /// refused.
    pub misdirected_requests: u64,
    /// Threads of the loader pool.
    pub loader_threads: u64,
    /// Threads of the loader pool that are inside a loader.
    pub loader_threads_busy: u64,
}

/// What a node knows of a peer.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PeerStats {
    /// Its name on the ring.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// Whether it is this node.
    pub is_this_node: bool,
    /// Whether it has said that it leaves, and has not come back since: it then owns nothing.
    pub has_left: bool,
    /// Its share of the keys, of 1. 0 if it has left.
    pub ring_share: f64,
    /// Whether calls to it go out, or it failed too often.
    pub circuit: CircuitState,
    /// What it speaks: the dialect of the cluster or the native one, as its last answer showed.
    /// `None` if it has not answered yet.
    pub dialect: Option<Dialect>,
    /// Calls made to it.
    pub calls: u64,
    /// Calls that failed: refused, silent, or with a protocol error. Probes of a peer that is
    /// unreachable are not counted.
    pub call_errors: u64,
    /// Calls that were given up because their caller's time was over, which says nothing of the peer.
    pub abandoned_calls: u64,
    /// Requests that were sent again, because the connection that was kept for them turned out dead.
    pub retries: u64,
    /// How often it was found to be unreachable.
    pub circuit_openings: u64,
    /// Removals that it has missed, and that will be delivered when it is back.
    pub pending_removals: u64,
    /// The same as [`pending_removals`](PeerStats::pending_removals).
    #[deprecated(note = "renamed to `pending_removals`")]
    pub owed: u64,
    /// How long calls took that were answered.
    pub latency: Latency,
}

/// Whether calls to a peer go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CircuitState {
    /// Calls go out.
    Closed,
    /// The peer failed too often: it is probed in the background, and meanwhile loads happen here.
    Open,
}

impl fmt::Display for CircuitState {
    /// In lower case: `closed`, `open`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            CircuitState::Closed => "closed",
            CircuitState::Open => "open",
        })
    }
}

/// A counter off the path of a hit.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.add_many(1);
    }

    pub(crate) fn add_many(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
