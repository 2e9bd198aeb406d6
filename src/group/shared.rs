//! `Shared`: the state behind the handles of a group.
//!
//! Its methods are in the files of what they do: a get in `get.rs`, a load in `load.rs`, and so on.
//!
//! A group has two flight tables (I5). A request of a peer joins or leads only in `loads`, and is
//! never forwarded. A fetch that failed leads or joins in `loads` while its own flight stays in
//! `fetches`. Waits go from `fetches` to `loads` and never back, so nodes whose rings disagree can
//! neither loop nor deadlock.

use std::time::Duration;

use super::absences::Absences;
use super::bulkhead::Bulkhead;
use super::capacity::Capacity;
use super::counters::Counters;
use super::failures::Failures;
use super::lifetime::Lifetimes;
use super::outcome::Outcome;
use super::reports::Reports;
use super::timing::Timings;
use super::weight::Weigher;
use crate::cache::hot::Mirroring;
use crate::cache::shards::Cache;
use crate::cluster::state::Cluster;
use crate::codec::Codec;
use crate::flight::flights::Flights;
use crate::loader::{BatchLoader, Loader};
use crate::runtime::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize};
use crate::value::Cacheable;

pub(super) struct Shared<V: Cacheable> {
    pub(super) name: Arc<str>,
    pub(super) loader: Box<dyn Loader<V>>,
    pub(super) batch_loader: Option<BatchLoader<V>>,
    pub(super) codec: Box<dyn Codec<V>>,
    pub(super) weigher: Option<Weigher<V>>,
    pub(super) lifetimes: Lifetimes,
    pub(super) mirroring: Mirroring,
    pub(super) hand_on_load_errors: bool,
    pub(super) cache: Cache<V>,
    pub(super) absences: Option<Absences>,
    pub(super) failures: Failures,
    pub(super) bulkhead: Bulkhead,
    pub(super) loads: Flights<Outcome<V>>,
    pub(super) fetches: Flights<Outcome<V>>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) counters: Counters,
    pub(super) timings: Timings,
    pub(super) capacity: Capacity,
    /// A load that takes as long as this is reported.
    pub(super) slow_load: Duration,
    pub(super) reports: Reports,
    /// Whether the sweeper of the node is going to drop expired values.
    pub(super) is_sweep_scheduled: AtomicBool,
    /// The moving average of the bytes of fetched values.
    pub(super) fetched_bytes: AtomicUsize,
    /// Numbers the fetches, to mirror one in ten of those whose owner measures no rate.
    pub(super) fetch_number: AtomicU64,
    /// How often values were offered to deputies.
    pub(super) offer_round: AtomicUsize,
    /// Whether a job of the pool takes values whose deputy this node is.
    pub(super) is_taking_as_deputy: AtomicBool,
}
