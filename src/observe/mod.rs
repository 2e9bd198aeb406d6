//! `observe`: what a node shows of itself, from the counters in `stats`.
//!
//! Imports `cluster` and `group`, of which the page tells. `names` has the names of the counters,
//! `prometheus` writes them as text, `metrics` publishes them through the facade of that name, and `status`
//! draws a page of them. The node is above: it gives what is [`Counted`].

use crate::stats::latency::Latencies;
use crate::stats::{GroupStats, NodeStats};

#[cfg(feature = "metrics")]
pub(crate) mod metrics;
mod names;
pub(crate) mod prometheus;
pub(crate) mod status;

/// What a node has counted.
pub(crate) trait Counted: Send + Sync {
    fn stats(&self) -> NodeStats;

    /// What each group has counted, by name.
    fn group_stats(&self) -> Vec<(String, GroupStats)>;

    /// The latencies of each group, by name.
    fn group_latencies(&self) -> Vec<(String, Latencies)>;
}
