//! How a group is built of its settings.

use std::time::Duration;

use super::absences::Absences;
use super::builder::GroupBuilder;
use super::bulkhead::Bulkhead;
use super::capacity::{self, Capacity};
use super::counters::Counters;
use super::failures::Failures;
use super::handle::Group;
use super::lifetime::Lifetimes;
use super::reports::Reports;
use super::shared::Shared;
use super::timing::Timings;
use crate::cache::hot::Mirroring;
use crate::cache::key::MAX_NAME_BYTES;
use crate::cache::shards::Cache;
use crate::error::Error;
use crate::flight::flights::Flights;
use crate::loader::{FromClosure, FromLoadedClosure, LoadError, Loaded, Loader};
use crate::runtime::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize};
use crate::value::Cacheable;

impl<V: Cacheable> GroupBuilder<V> {
    /// Builds the group, with a closure as its loader.
    ///
    /// Any error becomes a [`LoadError`] by `?`; `Err(LoadError::NotFound)` says that there is no
    /// value. See [`Loader`] for what a loader may do.
    ///
    /// # Errors
    ///
    /// [`Error::GroupExists`] if the node has a group of this name, [`Error::InvalidSetting`].
    pub fn build<F>(self, load: F) -> Result<Group<V>, Error>
    where
        F: Fn(&str) -> Result<V, LoadError> + Send + Sync + 'static,
    {
        self.build_with(FromClosure(load))
    }

    /// As [`build`](GroupBuilder::build), with a closure that also says how long a value lives.
    ///
    /// ```
    /// use groupcache_sync::{Group, Loaded, Node, Value};
    /// use std::time::Duration;
    ///
    /// let node = Node::new("http://127.0.0.1:7000")?;
    /// let tokens: Group = node.group_builder("tokens", 1 << 20).build_loaded(|key| {
    ///     Ok(Loaded::new(Value::from(key)).ttl(Duration::from_secs(60)))
    /// })?;
    /// assert_eq!(tokens.get("a")?.as_bytes(), b"a");
    /// # Ok::<(), groupcache_sync::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`build`](GroupBuilder::build).
    pub fn build_loaded<F>(self, load: F) -> Result<Group<V>, Error>
    where
        F: Fn(&str) -> Result<Loaded<V>, LoadError> + Send + Sync + 'static,
    {
        self.build_with(FromLoadedClosure(load))
    }

    /// Builds the group, with a [`Loader`], which also sees the deadline and says how long values live.
    ///
    /// # Errors
    ///
    /// As [`build`](GroupBuilder::build).
    pub fn build_with(self, loader: impl Loader<V>) -> Result<Group<V>, Error> {
        self.check()?;
        let hot_bytes = self.hot_bytes.unwrap_or(self.capacity_bytes / 8);
        let clock = self.cluster.clock.clone();
        let life = self.negative_ttl;
        let deputy_bytes = self.deputy_bytes.unwrap_or(self.capacity_bytes / 32);
        let of = self.capacity_bytes;
        let capacity = Capacity::new(of, hot_bytes, deputy_bytes, !life.is_zero());
        let parts = capacity.parts();
        let cache = Cache::new(parts.values, parts.hot, self.shards, clock.clone())
            .with_grace(self.grace)
            .with_listener(self.listener);
        let failures = Failures::beside(&cache, self.capacity_bytes, self.error_ttl, clock.clone());
        let absences =
            (parts.absences > 0).then(|| Absences::beside(&cache, parts.absences, life, clock));
        let group = Arc::new(Shared {
            name: self.name.into(),
            loader: Box::new(loader),
            batch_loader: self.batch_loader,
            codec: self.codec,
            weigher: self.weigher,
            lifetimes: Lifetimes {
                default: self.ttl,
                max: self.max_ttl,
                jitter: self.jitter,
            },
            mirroring: Mirroring {
                threshold: self.hot_threshold,
                max_life: if hot_bytes == 0 {
                    Duration::ZERO
                } else {
                    self.hot_ttl
                },
            },
            hand_on_load_errors: self.hand_on_load_errors,
            cache,
            absences,
            failures,
            bulkhead: Bulkhead::new(self.max_loads.unwrap_or(usize::MAX)),
            loads: Flights::new(Arc::clone(&self.cluster.wait_graph)),
            fetches: Flights::new(Arc::clone(&self.cluster.wait_graph)),
            cluster: self.cluster,
            counters: Counters::default(),
            timings: Timings::default(),
            capacity,
            slow_load: self.slow_load,
            reports: Reports::default(),
            is_sweep_scheduled: AtomicBool::new(false),
            offer_round: AtomicUsize::new(0),
            is_taking_as_deputy: AtomicBool::new(false),
            fetched_bytes: AtomicUsize::new(0),
            fetch_number: AtomicU64::new(0),
        });
        self.registry.add(&group)?;
        group.cluster.add_values(group.as_values());
        Ok(Group(group))
    }

    fn check(&self) -> Result<(), Error> {
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES {
            let reason = format!(
                "it has {} bytes; give it 1 to {MAX_NAME_BYTES}",
                self.name.len()
            );
            return Err(Error::setting("name", reason));
        }
        capacity::check(self.capacity_bytes)?;
        for (name, bytes) in [
            ("hot_bytes", self.hot_bytes),
            ("deputy_bytes", self.deputy_bytes),
        ] {
            if bytes.is_some_and(|bytes| bytes > self.capacity_bytes) {
                let reason = "it is more than the capacity, of which it is a part";
                return Err(Error::setting(name, reason));
            }
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            let reason = format!("{} is no part of a life; give 0 to 1", self.jitter);
            return Err(Error::setting("ttl_jitter", reason));
        }
        if self.max_loads == Some(0) {
            let reason = "without one nothing is ever loaded; give it 1 or more";
            return Err(Error::setting("max_loads", reason));
        }
        if self.hot_threshold.is_nan() || self.hot_threshold < 0.0 {
            let reason = format!("{} is no rate; give 0 or more", self.hot_threshold);
            return Err(Error::setting("hot_threshold", reason));
        }
        if self
            .shards
            .is_some_and(|shards| shards == 0 || shards > 1 << 16)
        {
            return Err(Error::setting("shards", "give 1 to 65536"));
        }
        Ok(())
    }
}
