//! `Histogram`, which counts how long things take, and `Latency`, what it has counted.
//!
//! The buckets are fixed and log-linear, as in HdrHistogram: eight between one power of two and the
//! next, so that a bucket is at most an eighth as wide as what falls into it is long, from about a
//! microsecond to about a minute. To record is two additions to atomics.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::runtime::sync::{OnceLock, Ordering, RelaxedU64};

/// Everything shorter than 2^this nanoseconds falls into the first bucket: 1.024 µs.
const SHORTEST: u32 = 10;

/// Everything as long as 2^this nanoseconds or longer falls into the last bucket: 68.7 s.
const LONGEST: u32 = 36;

/// A power of two has 2^this buckets.
const PRECISION: u32 = 3;

const BUCKETS: usize = ((LONGEST - SHORTEST) << PRECISION) as usize + 2;

/// Buckets that lie in memory together: four powers of two. Most groups need one or two parts.
const PART: usize = 4 << PRECISION;
const PARTS: usize = BUCKETS.div_ceil(PART);

/// Counts durations, without a lock. Takes no memory to speak of until there is one to count.
#[derive(Default)]
pub(crate) struct Histogram(OnceLock<Box<Counts>>);

#[derive(Default)]
struct Counts {
    /// Each made when something first falls into it.
    parts: [OnceLock<Box<Part>>; PARTS],
    nanos: RelaxedU64,
}

type Part = [RelaxedU64; PART];

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket_of(nanos);
        let counts = self.0.get_or_init(Box::default);
        let part = counts.parts[bucket / PART]
            .get_or_init(|| Box::new(std::array::from_fn(|_| RelaxedU64::default())));
        part[bucket % PART].fetch_add(1, Ordering::Relaxed);
        counts.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Latency {
        let Some(counts) = self.0.get() else {
            return Latency {
                counts: vec![0; BUCKETS],
                sum: Duration::ZERO,
            };
        };
        let count = |bucket: usize| {
            let part = counts.parts[bucket / PART].get();
            part.map_or(0, |part| part[bucket % PART].load(Ordering::Relaxed))
        };
        Latency {
            counts: (0..BUCKETS).map(count).collect(),
            sum: Duration::from_nanos(counts.nanos.load(Ordering::Relaxed)),
        }
    }
}

impl Histogram {
    /// The bytes that it holds elsewhere.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.0.get().map_or(0, |counts| {
            let parts = counts.parts.iter().filter(|part| part.get().is_some());
            size_of::<Counts>() + parts.count() * size_of::<Part>()
        })
    }
}

fn bucket_of(nanos: u64) -> usize {
    let power = nanos.checked_ilog2().unwrap_or(0);
    if power < SHORTEST {
        return 0;
    }
    if power >= LONGEST {
        return BUCKETS - 1;
    }
    let within = (nanos >> (power - PRECISION)) as usize & ((1 << PRECISION) - 1);
    (((power - SHORTEST) << PRECISION) as usize + within) + 1
}

/// The shortest duration that is too long for a bucket, in nanoseconds. The last takes all.
fn end_of(bucket: usize) -> u64 {
    if bucket == BUCKETS - 1 {
        return u64::MAX;
    }
    let (power, within) = (bucket >> PRECISION, bucket & ((1 << PRECISION) - 1));
    ((1 << PRECISION) + within as u64) << (power as u32 + SHORTEST - PRECISION)
}

/// How long things took, since the node or the group was built: a snapshot.
///
/// Durations are known to an eighth of themselves, from about 1 µs to about 69 s.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Latency {
    /// Of each bucket; none if nothing was ever counted.
    counts: Vec<u64>,
    sum: Duration,
}

impl Latency {
    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How long they took together.
    #[must_use]
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// How long one took on average; `None` if there was none.
    #[must_use]
    pub fn mean(&self) -> Option<Duration> {
        let mean = self.sum.as_nanos().checked_div(self.count().into())?;
        u64::try_from(mean).ok().map(Duration::from_nanos)
    }

    /// The duration that this part of them, from 0 to 1, did not exceed: 0.99 gives the 99th
    /// percentile. Up to an eighth too long; about 69 s stands for that and longer. `None` if there
    /// was none.
    ///
    /// ```
    /// # use groupcache_sync::{Node, Group, Value};
    /// # let node = Node::new("http://127.0.0.1:7000")?;
    /// # let group: Group = node.group_builder("g", 1 << 20).build(|key| Ok(Value::from(key)))?;
    /// group.get("a")?;
    /// assert!(group.latencies().load.quantile(0.5).is_some());
    /// assert_eq!(group.latencies().peer.quantile(0.5), None);
    /// # Ok::<(), groupcache_sync::Error>(())
    /// ```
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let rank = (part.clamp(0.0, 1.0) * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets()
            .find(|(_, count)| {
                seen += count;
                seen >= rank
            })
            .map(|(range, _)| match range.end {
                Duration::MAX => range.start,
                end => end,
            })
    }

    /// The buckets that are not empty, from the shortest: the durations that fall into each, and how
    /// many did. The last bucket of all, from about 69 s, ends with [`Duration::MAX`].
    pub fn buckets(&self) -> impl Iterator<Item = (Range<Duration>, u64)> {
        let counts = self.counts.iter().enumerate();
        counts
            .filter(|&(_, &count)| count > 0)
            .map(|(bucket, &count)| (range_of(bucket), count))
    }

    /// Every second power of two of nanoseconds, and how many took less than that.
    pub(crate) fn shorter_than(&self) -> impl Iterator<Item = (Duration, u64)> {
        const STEP: usize = 2 << PRECISION;
        let mut counts = self.counts.iter();
        let mut sum = 0;
        (0..=BUCKETS - 2).step_by(STEP).map(move |last| {
            let more = if last == 0 { 1 } else { STEP };
            sum += counts.by_ref().take(more).sum::<u64>();
            (Duration::from_nanos(end_of(last)), sum)
        })
    }

    /// What has been counted since `earlier`, or, if that was more, since the beginning.
    #[cfg(feature = "metrics")]
    pub(crate) fn since(&self, earlier: &Latency) -> Latency {
        let before = earlier.counts.iter().chain(std::iter::repeat(&0));
        let counts = self.counts.iter().zip(before);
        let counts: Option<Vec<u64>> = counts.map(|(now, then)| now.checked_sub(*then)).collect();
        match (counts, self.sum.checked_sub(earlier.sum)) {
            (Some(counts), Some(sum)) => Latency { counts, sum },
            _ => self.clone(),
        }
    }
}

fn range_of(bucket: usize) -> Range<Duration> {
    let start = bucket.checked_sub(1).map_or(0, end_of);
    let end = match end_of(bucket) {
        u64::MAX => Duration::MAX,
        nanos => Duration::from_nanos(nanos),
    };
    Duration::from_nanos(start)..end
}

impl fmt::Debug for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latency")
            .field("count", &self.count())
            .field("mean", &self.mean())
            .field("p50", &self.quantile(0.5))
            .field("p99", &self.quantile(0.99))
            .finish()
    }
}

/// How long gets took that did not find their value in memory, by what came of them, and loads.
///
/// A hit takes about as long as looking at a clock does, and is not timed. A key of
/// [`get_many`](crate::Group::get_many) took as long as the call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latencies {
    /// Gets whose value came from the peer that owns the key.
    pub peer: Latency,
    /// Gets whose value this process's loader gave, in their own load.
    pub load: Latency,
    /// Gets that had their value from a load or a fetch that was under way, or had just ended.
    pub joined: Latency,
    /// Gets of keys without a value.
    pub not_found: Latency,
    /// Gets that ended with another error, or with a value past its expiry instead of it.
    pub failed: Latency,
    /// Runs of the loader, for local callers and for peers. That of a
    /// [batch](crate::GroupBuilder::batch_loader) is one.
    pub loader: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_lies_in_its_bucket_and_an_eighth_is_the_error() {
        let mut nanos = 1;
        while nanos < 1 << (LONGEST + 2) {
            for nanos in [nanos - 1, nanos, nanos + nanos / 3, nanos + nanos / 2] {
                let bucket = bucket_of(nanos);
                let end = end_of(bucket);
                assert!(nanos < end, "{nanos} {end}");
                if bucket > 0 {
                    assert!(nanos >= end_of(bucket - 1), "{nanos}");
                }
                if bucket > 0 && bucket < BUCKETS - 1 {
                    assert!(end - nanos <= nanos / 8 + 1, "{nanos} {end}");
                }
            }
            nanos *= 2;
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let histogram = Histogram::default();
        assert_eq!(histogram.snapshot().quantile(0.5), None);
        assert_eq!(histogram.snapshot().mean(), None);
        for millis in 1..=1000 {
            histogram.record(Duration::from_millis(millis));
        }
        let latency = histogram.snapshot();
        assert_eq!(latency.count(), 1000);
        assert_eq!(latency.sum(), Duration::from_millis(500_500));
        assert_eq!(latency.mean(), Some(Duration::from_micros(500_500)));
        for (part, exact) in [(0.0, 1), (0.5, 500), (0.9, 900), (0.99, 990), (1.0, 1000)] {
            let exact = Duration::from_millis(exact);
            let found = latency.quantile(part).unwrap();
            assert!(
                found >= exact && found <= exact.mul_f64(1.126),
                "{part}: {found:?}"
            );
        }
    }

    #[test]
    fn bounds_are_cumulative_and_end_with_all_but_the_longest() {
        let histogram = Histogram::default();
        for nanos in [100, 2_000, 3_000, 1_000_000, u64::MAX] {
            histogram.record(Duration::from_nanos(nanos));
        }
        let bounds: Vec<(Duration, u64)> = histogram.snapshot().shorter_than().collect();
        assert!(bounds.is_sorted());
        assert_eq!(bounds[0], (Duration::from_nanos(1 << SHORTEST), 1));
        assert_eq!(bounds.last().unwrap().1, 4);
        for (bound, count) in bounds {
            let shorter = [100, 2_000, 3_000, 1_000_000].into_iter();
            let shorter = shorter.filter(|&nanos| Duration::from_nanos(nanos) < bound);
            assert_eq!(shorter.count() as u64, count, "below {bound:?}");
        }
    }

    #[test]
    fn what_is_shorter_or_longer_than_all_is_counted() {
        let histogram = Histogram::default();
        histogram.record(Duration::ZERO);
        histogram.record(Duration::from_secs(1 << 20));
        let latency = histogram.snapshot();
        assert_eq!(latency.count(), 2);
        assert_eq!(latency.quantile(0.5), Some(Duration::from_nanos(1024)));
        assert_eq!(latency.quantile(1.0), Some(Duration::from_nanos(1 << 36)));
    }
}
