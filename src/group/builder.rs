//! `GroupBuilder`: the settings of a group.

use std::collections::HashMap;
use std::time::Duration;

use super::registry::Registry;
use super::weight::Weigher;
use crate::cache::shards::{Grace, Listener};
use crate::cache::store::EvictionCause;
use crate::cluster::state::Cluster;
use crate::codec::{Bytes, Codec};
use crate::loader::{BatchLoader, LoadError, Loaded};
use crate::runtime::sync::Arc;
use crate::value::{Cacheable, Value};

/// The settings of a group, each with a default. Made by
/// [`Node::group_builder`](crate::Node::group_builder); [`build`](GroupBuilder::build) makes the group.
///
/// ```
/// use groupcache_sync::{Group, Node, Utf8};
/// use std::time::Duration;
///
/// let node = Node::new("http://127.0.0.1:7000")?;
/// let names: Group<String> = node
///     .group_builder("names", 8 << 20)
///     .codec(Utf8)
///     .ttl(Duration::from_secs(300))
///     .build(|key| Ok(format!("name of {key}")))?;
/// assert_eq!(names.get("7")?, "name of 7");
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
#[must_use = "a group is built by `build` or `build_with`"]
pub struct GroupBuilder<V: Cacheable = Value> {
    pub(super) cluster: Arc<Cluster>,
    pub(super) registry: Arc<Registry>,
    pub(super) name: String,
    pub(super) capacity_bytes: usize,
    pub(super) codec: Box<dyn Codec<V>>,
    pub(super) weigher: Option<Weigher<V>>,
    pub(super) batch_loader: Option<BatchLoader<V>>,
    pub(super) ttl: Option<Duration>,
    pub(super) max_ttl: Option<Duration>,
    pub(super) jitter: f64,
    pub(super) hot_bytes: Option<usize>,
    pub(super) deputy_bytes: Option<usize>,
    pub(super) hot_ttl: Duration,
    pub(super) hot_threshold: f64,
    pub(super) hand_on_load_errors: bool,
    pub(super) negative_ttl: Duration,
    pub(super) error_ttl: Duration,
    pub(super) max_loads: Option<usize>,
    pub(super) slow_load: Duration,
    pub(super) grace: Grace,
    pub(super) listener: Option<Listener<V>>,
    pub(super) shards: Option<usize>,
}

impl<V: Cacheable> std::fmt::Debug for GroupBuilder<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupBuilder")
            .field("name", &self.name)
            .field("capacity_bytes", &self.capacity_bytes)
            .finish_non_exhaustive()
    }
}

impl GroupBuilder<Value> {
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        registry: Arc<Registry>,
        name: &str,
        capacity_bytes: usize,
    ) -> GroupBuilder<Value> {
        GroupBuilder {
            cluster,
            registry,
            name: name.to_owned(),
            capacity_bytes,
            codec: Box::new(Bytes),
            weigher: None,
            batch_loader: None,
            ttl: None,
            max_ttl: None,
            jitter: 0.0,
            hot_bytes: None,
            deputy_bytes: None,
            hot_ttl: Duration::from_secs(30),
            hot_threshold: 1.0,
            hand_on_load_errors: false,
            negative_ttl: Duration::ZERO,
            error_ttl: Duration::from_millis(250),
            max_loads: None,
            slow_load: Duration::from_secs(1),
            grace: Grace::default(),
            listener: None,
            shards: None,
        }
    }

    /// Sets the codec, which turns values into bytes for peers, and with it the type of the values.
    /// Defaults to [`Bytes`], for groups of [`Value`]. It resets the weigher, the listener and the batch
    /// loader, which are of the type of the values: set them after the codec.
    pub fn codec<T: Cacheable>(self, codec: impl Codec<T>) -> GroupBuilder<T> {
        GroupBuilder {
            cluster: self.cluster,
            registry: self.registry,
            name: self.name,
            capacity_bytes: self.capacity_bytes,
            codec: Box::new(codec),
            weigher: None,
            batch_loader: None,
            ttl: self.ttl,
            max_ttl: self.max_ttl,
            jitter: self.jitter,
            hot_bytes: self.hot_bytes,
            deputy_bytes: self.deputy_bytes,
            hot_ttl: self.hot_ttl,
            hot_threshold: self.hot_threshold,
            hand_on_load_errors: self.hand_on_load_errors,
            negative_ttl: self.negative_ttl,
            error_ttl: self.error_ttl,
            max_loads: self.max_loads,
            slow_load: self.slow_load,
            grace: self.grace,
            listener: None,
            shards: self.shards,
        }
    }
}

impl<V: Cacheable> GroupBuilder<V> {
    /// Sets what a value is charged for, in bytes, without its key and the overhead of an entry
    /// ([`ENTRY_OVERHEAD`](crate::ENTRY_OVERHEAD)). Defaults to what the codec says.
    ///
    /// The weigher runs without any lock held, as part of the load, the fetch or the set, on its
    /// thread. It may do what a [`Loader`](crate::Loader) may; if it panics, the load, the fetch or the set has failed.
    pub fn weigher(mut self, weigher: impl Fn(&V) -> usize + Send + Sync + 'static) -> Self {
        self.weigher = Some(Box::new(weigher));
        self
    }

    /// Sets how long a value lives whose loader does not say. By default it lives until it is evicted.
    ///
    /// With zero the gets that wait for a value have it, and nothing is cached.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Sets how long any value lives at most, whatever its loader says. Defaults to no limit.
    pub fn max_ttl(mut self, max_ttl: Duration) -> Self {
        self.max_ttl = Some(max_ttl);
        self
    }

    /// Sets the part of its life, from 0 to 1, by which a value may expire earlier, so that values
    /// loaded together do not expire together. Defaults to 0.
    pub fn ttl_jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// Sets how many bytes of the capacity mirrored values may take. Zero turns the hot cache off.
    /// Defaults to an eighth; the main cache may use what the hot cache does not.
    pub fn hot_bytes(mut self, bytes: usize) -> Self {
        self.hot_bytes = Some(bytes);
        self
    }

    /// Sets how many bytes of values this process has the deputies of their keys keep, in the
    /// background: those that it owns and that are requested most at the time. While this process
    /// cannot be reached, its deputies answer from them, so its loss costs the origin no load for these
    /// keys. Zero turns it off. Defaults to a thirty-second of the capacity.
    ///
    /// The values are copies in the main caches of the deputies, where they may displace values that
    /// are requested less. They live as long as they do here, ten minutes at most, and are removed and
    /// replaced together with the value here; those that are not among the most requested any more stay
    /// until others displace them. Every ten seconds the keys are offered again, 8 MiB of values at
    /// most at a time, and a deputy takes what it lacks.
    pub fn deputy_bytes(mut self, bytes: usize) -> Self {
        self.deputy_bytes = Some(bytes);
        self
    }

    /// Sets how long a mirrored copy lives at most. Zero turns mirroring off. Defaults to 30 s.
    pub fn hot_ttl(mut self, ttl: Duration) -> Self {
        self.hot_ttl = ttl;
        self
    }

    /// Sets how many requests per second the whole cluster must make for a key, over about a minute,
    /// for its value to be mirrored. Zero mirrors every fetched value. Defaults to 1.
    pub fn hot_threshold(mut self, requests_per_second: f64) -> Self {
        self.hot_threshold = requests_per_second;
        self
    }

    /// Sets what a fetch does when the load at the key's owner failed: load here (`false`), or return
    /// the owner's error ([`Error::OwnerLoad`](crate::Error::OwnerLoad)). Defaults to `false`, as in golang/groupcache.
    pub fn hand_on_load_errors(mut self, hand_on: bool) -> Self {
        self.hand_on_load_errors = hand_on;
        self
    }

    /// Sets for how long this process remembers that its loader found no value for a key
    /// ([`LoadError::NotFound`]). Until then gets of the key have [`Error::NotFound`](crate::Error::NotFound) without a load;
    /// [`set`](crate::Group::set), [`remove`](crate::Group::remove) and [`clear`](crate::Group::clear) end it at once. Such
    /// keys take up to a sixteenth of the capacity. Defaults to zero: it is not remembered, and each
    /// get runs the loader again. For a load that failed see [`error_ttl`](GroupBuilder::error_ttl).
    ///
    /// Such a get counts in [`GroupStats::absent_hits`](crate::GroupStats::absent_hits).
    pub fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = ttl;
        self
    }

    /// Sets for how long gets of a key have the error of its last load ([`Error::Load`](crate::Error::Load),
    /// [`Error::Panicked`](crate::Error::Panicked)) without another load: so a source that is down is not asked at the rate of
    /// the gets. This begins with the second failure of a key in a row: after one failure alone the
    /// next get loads again. A load that succeeds, [`set`](crate::Group::set), [`remove`](crate::Group::remove) and
    /// [`clear`](crate::Group::clear) end it at once. Zero turns it off. Defaults to 250 ms. Failures take up
    /// to a sixteenth of the capacity beside it, at most 1 MiB, some 400 bytes for each key: where more
    /// keys fail at once, some are loaded by each get.
    ///
    /// A value past its expiry
    /// ([`stale_while_revalidate`](GroupBuilder::stale_while_revalidate),
    /// [`stale_if_error`](GroupBuilder::stale_if_error)) is returned instead of the error. Whatever is set
    /// here, such a value is not loaded anew after a failure before a pause that doubles from 100 ms to
    /// 10 s.
    pub fn error_ttl(mut self, ttl: Duration) -> Self {
        self.error_ttl = ttl;
        self
    }

    /// Sets how many loads of this group may run in this process at once, so that their source is not
    /// overrun. A load beyond that is refused at once: the gets that wait for it have
    /// [`Error::Overloaded`](crate::Error::Overloaded) (or a value past its expiry, with
    /// [`stale_if_error`](GroupBuilder::stale_if_error)), and a peer that asked for it loads the value
    /// itself, within its own limit. A [batch](GroupBuilder::batch_loader) is one load; a load inside
    /// a loader is part of the outer load. Defaults to no limit.
    ///
    /// This sheds load. To have loads wait for their turn instead, use
    /// [`get_timeout`](crate::Group::get_timeout): its loads wait for one of the node's
    /// [`loader_threads`](crate::NodeBuilder::loader_threads).
    ///
    /// Refusals count in [`GroupStats::overloads`](crate::GroupStats::overloads).
    pub fn max_loads(mut self, loads: usize) -> Self {
        self.max_loads = Some(loads);
        self
    }

    /// Sets how long a load may take before a warning in the log reports it, at most one in ten seconds
    /// for the group; its key is logged at level trace alone. [`Duration::MAX`] reports none. Defaults to 1 s.
    pub fn slow_load(mut self, time: Duration) -> Self {
        self.slow_load = time;
        self
    }

    /// Sets for how long past its expiry the process that owns a value still returns it, while the
    /// node's loader threads renew it, once ("stale while revalidate", RFC 5861). No get waits for a
    /// renewal. Defaults to zero: no get has a value past its expiry.
    ///
    /// Such a get has [`Source::Stale`](crate::Source::Stale) and counts in
    /// [`GroupStats::stale_hits`](crate::GroupStats::stale_hits). A removal holds for such values
    /// as for any other.
    pub fn stale_while_revalidate(mut self, time: Duration) -> Self {
        self.grace.revalidate = time;
        self
    }

    /// Sets for how long past its expiry the process that owns a value returns it if the load fails,
    /// panics or takes longer than the caller waits ("stale if error", RFC 5861).
    /// Defaults to zero: the caller gets the error.
    ///
    /// Such a get has [`Source::Stale`](crate::Source::Stale) and counts in
    /// [`GroupStats::stand_ins`](crate::GroupStats::stand_ins). A loader that says there is no
    /// value has not failed: then the value past its expiry is dropped.
    pub fn stale_if_error(mut self, time: Duration) -> Self {
        self.grace.if_error = time;
        self
    }

    /// Sets a listener that is called for every value that leaves the memory of this process, with its
    /// key, the value and the cause. Defaults to none.
    ///
    /// The listener is called without any lock held, on the thread that made the value leave, once that
    /// thread has answered those who wait for it: the thread of a caller, whose call returns after the
    /// listener, or one of the node's own. So be quick. The listener may block and call any method of
    /// any group. For values that leave because of what it does it is called after it has returned, not
    /// inside it; where that goes on without end, it is not called for the fourth in such a row. A panic
    /// in it is logged, and goes no further. It is not called for values that were too large to be kept:
    /// they never were in memory.
    ///
    /// It is also called for what is in memory when the group ends: when its node ends, or
    /// [`remove_group`](crate::Node::remove_group) takes the group out, and no handle is left.
    ///
    /// ```
    /// use groupcache_sync::{EvictionCause, Group, Node, Value};
    /// use std::sync::mpsc;
    ///
    /// let (sender, gone) = mpsc::channel();
    /// let node = Node::new("http://127.0.0.1:7000")?;
    /// let group: Group = node
    ///     .group_builder("files", 1 << 20)
    ///     .eviction_listener(move |key, _, cause| drop(sender.send((key.to_owned(), cause))))
    ///     .build(|key| Ok(Value::from(key)))?;
    /// group.get("a")?;
    /// group.remove("a")?;
    /// assert_eq!(gone.recv(), Ok(("a".to_owned(), EvictionCause::Removed)));
    /// # Ok::<(), groupcache_sync::Error>(())
    /// ```
    pub fn eviction_listener(
        mut self,
        listener: impl Fn(&str, &V, EvictionCause) + Send + Sync + 'static,
    ) -> Self {
        self.listener = Some(Arc::new(listener));
        self
    }

    /// Sets a loader of many values at once, for [`get_many`](crate::Group::get_many): from up to 1,024 keys, it
    /// returns the values of all that have one. Defaults to none: then the group's [`Loader`](crate::Loader) loads
    /// each value. With a batch loader too, the [`Loader`](crate::Loader) loads single values, also where only one of
    /// many keys is to be loaded. An error fails all the keys. It runs where a [`Loader`](crate::Loader) does, and may
    /// do the same.
    ///
    /// ```
    /// use groupcache_sync::{Group, Node, Value};
    /// use std::collections::HashMap;
    ///
    /// let node = Node::new("http://127.0.0.1:7000")?;
    /// let names: Group = node
    ///     .group_builder("names", 1 << 20)
    ///     .batch_loader(|keys| {
    ///         // SELECT id, name FROM users WHERE id IN (?, ...), each key a parameter
    ///         let rows = keys.iter().filter(|key| !key.is_empty());
    ///         Ok(rows.map(|key| (key.to_string(), Value::from(*key))).collect::<HashMap<_, _>>())
    ///     })
    ///     .build(|key| Ok(Value::from(key)))?;
    /// assert!(names.get_many(&["1", "2"]).iter().all(Result::is_ok));
    /// assert!(names.get_many(&["", "3"])[0].is_err());
    /// # Ok::<(), groupcache_sync::Error>(())
    /// ```
    pub fn batch_loader<L: Into<Loaded<V>>>(
        mut self,
        load: impl Fn(&[&str]) -> Result<HashMap<String, L>, LoadError> + Send + Sync + 'static,
    ) -> Self {
        self.batch_loader = Some(Box::new(move |keys| {
            let found = load(keys)?.into_iter();
            Ok(found.map(|(key, value)| (key, value.into())).collect())
        }));
        self
    }

    /// Sets into how many shards, each with a lock, the cache is divided, rounded up to a power of two.
    /// Each has a part of the entries and its own part of the eviction policy, which works well from
    /// some hundred entries on. Defaults to one for each 512 KiB of capacity, but no more than sixteen
    /// for each processor.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }
}
