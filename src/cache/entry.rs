//! `Entry`: a kept value with its key, weight and expiry.

use std::any::Any;
use std::time::{Duration, Instant};

use crate::cache::key::{KeyRef, Text};
use crate::cache::policy::{Item, Marks};
use crate::runtime::sync::Arc;
use crate::runtime::user_code::{self, Panicked};
use crate::value::{Cacheable, Value};

/// The part of a cache that a value belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    /// Values whose key this process owns.
    Main,
    /// Copies of values that other processes own: they are popular, or their owner is unreachable.
    Hot,
}

/// A value as it is kept, and as the waiters of a flight get it. Under a lock, and by a thread that leads
/// a flight, this is cloned and dropped, and never the value itself, whose `clone` and `drop` may be user
/// code (I1).
pub(crate) enum Stored<V: 'static> {
    /// `V` is [`Value`], whose clones share their bytes and whose drop is no user code.
    Bytes(Value),
    Shared(Shared<V>),
}

/// A value of the user's type.
pub(crate) struct Shared<V: 'static>(Option<Arc<V>>);

impl<V: Cacheable> Stored<V> {
    pub(crate) fn new(value: V) -> Stored<V> {
        match cast(value) {
            Ok(bytes) => Stored::Bytes(bytes),
            Err(value) => Stored::Shared(Shared(Some(Arc::new(value)))),
        }
    }

    /// The value. A value of the user's type is cloned, which is user code: not under a lock.
    #[inline]
    pub(crate) fn value(self) -> Result<V, Panicked> {
        match self {
            Stored::Bytes(bytes) => cast(bytes).map_err(|_| gone()),
            Stored::Shared(Shared(ref value)) => match value.as_deref() {
                Some(value) => user_code::call(|| value.clone()),
                None => Err(gone()),
            },
        }
    }

    /// The value itself. Never `None`.
    pub(crate) fn get(&self) -> Option<&V> {
        match self {
            Stored::Bytes(bytes) => (bytes as &dyn Any).downcast_ref(),
            Stored::Shared(Shared(value)) => value.as_deref(),
        }
    }

    /// Whether its drop runs no user code.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Stored::Bytes(_))
    }
}

/// The error of a [`Stored`] without a value, of which there is none.
fn gone() -> Panicked {
    Panicked("the value is gone".to_owned())
}

/// Casts `value` to `B` if that is its type; otherwise gives it back.
#[inline]
fn cast<A: 'static, B: 'static>(value: A) -> Result<B, A> {
    let mut value = Some(value);
    let as_b = (&mut value as &mut dyn Any).downcast_mut::<Option<B>>();
    match (as_b.and_then(Option::take), value) {
        (Some(value), _) => Ok(value),
        (None, Some(value)) => Err(value),
        (None, None) => unreachable!("the value is an A or a B"),
    }
}

impl<V: 'static> Clone for Stored<V> {
    #[inline]
    fn clone(&self) -> Stored<V> {
        match self {
            Stored::Bytes(bytes) => Stored::Bytes(bytes.clone()),
            Stored::Shared(Shared(value)) => Stored::Shared(Shared(value.clone())),
        }
    }
}

impl<V: Cacheable> From<V> for Stored<V> {
    fn from(value: V) -> Stored<V> {
        Stored::new(value)
    }
}

impl<V: 'static> Drop for Shared<V> {
    /// The thread that drops the last handle may lead a flight or hold a lock: the drop of the value is
    /// deferred.
    fn drop(&mut self) {
        if let Some(value) = self.0.take().and_then(Arc::into_inner) {
            user_code::defer_drop(value);
        }
    }
}

/// Shows nothing of the value, which may be secret and may have no `Debug`.
impl<V: 'static> std::fmt::Debug for Stored<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stored")
    }
}

/// A kept value with its key.
#[derive(Debug)]
pub(crate) struct Entry<V: 'static> {
    key: Text,
    pub(crate) value: Stored<V>,
    weight: u32,
    /// Local hits that no rate includes yet: the owner of the key measures the rate.
    pub(crate) hits: u32,
    pub(crate) expires: Expiry,
    marks: Marks,
}

/// The greatest weight of an entry, which stores it in four bytes.
pub(crate) const MAX_WEIGHT: usize = u32::MAX as usize;

/// Up to this number hits are counted one by one; then one in [`SAMPLE`] counts for all.
const EXACT_HITS: u32 = 128;
const SAMPLE: u64 = 32;

const _: () = assert!(SAMPLE <= u32::MAX as u64);

impl<V> Entry<V> {
    /// An entry whose weight is at most [`MAX_WEIGHT`].
    pub(crate) fn new(
        key: KeyRef<'_>,
        value: Stored<V>,
        weight: usize,
        expires: Expiry,
    ) -> Entry<V> {
        debug_assert!(weight <= MAX_WEIGHT, "the budget refuses more");
        Entry {
            key: Text::new(key.text()),
            value,
            weight: weight.min(MAX_WEIGHT) as u32,
            hits: 0,
            expires,
            marks: Marks::new(),
        }
    }

    #[inline]
    pub(crate) fn is(&self, key: KeyRef<'_>) -> bool {
        self.key.as_bytes() == key.text().as_bytes()
    }

    /// Counts a local hit. `number` is the number of the hit among all of its shard: of a value with many
    /// hits only some are counted, for all, so that a value that is used all the time is seldom written.
    #[inline]
    pub(crate) fn count_hit(&mut self, number: u64) {
        if self.hits < EXACT_HITS {
            self.hits += 1;
        } else if number % SAMPLE == 0 {
            self.hits = self.hits.saturating_add(SAMPLE as u32);
        }
    }

    pub(crate) fn key(&self) -> &str {
        self.key.as_str()
    }
}

impl<V> Item for Entry<V> {
    #[inline]
    fn weight(&self) -> usize {
        self.weight as usize
    }

    #[inline]
    fn marks(&self) -> &Marks {
        &self.marks
    }

    #[inline]
    fn marks_mut(&mut self) -> &mut Marks {
        &mut self.marks
    }
}

/// Ticks of eight microseconds since the cache was made: the number fits into six bytes for seventy
/// years.
pub(crate) type Tick = u64;

const TICK_NANOS: u32 = 8_000;
const TICKS_PER_SECOND: u64 = 125_000;

const _: () = assert!(TICK_NANOS as u64 * TICKS_PER_SECOND == 1_000_000_000);

/// The tick of an instant, rounded down: no value lives longer than it should.
pub(crate) fn tick(start: Instant, instant: Instant) -> Tick {
    whole_ticks(instant.saturating_duration_since(start))
}

/// The length of a time in ticks, rounded down.
pub(crate) fn whole_ticks(time: Duration) -> Tick {
    let ticks = time.as_secs().saturating_mul(TICKS_PER_SECOND);
    ticks.saturating_add(u64::from(time.subsec_nanos() / TICK_NANOS))
}

/// The length of so many ticks.
pub(crate) fn ticks(ticks: Tick) -> Duration {
    let nanos = (ticks % TICKS_PER_SECOND) as u32 * TICK_NANOS;
    Duration::new(ticks / TICKS_PER_SECOND, nanos)
}

/// When an entry expires, in six bytes; or that it never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry([u16; 3]);

impl Expiry {
    pub(crate) const NEVER: Expiry = Expiry([u16::MAX; 3]);

    /// At a tick. A tick that does not fit into six bytes never comes.
    pub(crate) fn at(tick: Tick) -> Expiry {
        if tick >> 48 > 0 {
            return Expiry::NEVER;
        }
        Expiry([tick as u16, (tick >> 16) as u16, (tick >> 32) as u16])
    }

    #[inline]
    pub(crate) fn tick(self) -> Option<Tick> {
        let [low, middle, high] = self.0.map(u64::from);
        let tick = low | middle << 16 | high << 32;
        (tick != (1 << 48) - 1).then_some(tick)
    }
}

/// Whether an entry has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Fresh,
    /// It has expired so many ticks ago, and its grace is not over.
    Stale(Tick),
    Over,
}

impl Expiry {
    /// The life of an entry with this expiry and a time of `grace` after it. `now` is called only if the
    /// entry can expire.
    #[inline]
    pub(crate) fn life(self, now: impl FnOnce() -> Tick, grace: Tick) -> Life {
        let Some(expires) = self.tick() else {
            return Life::Fresh;
        };
        match now().checked_sub(expires) {
            None => Life::Fresh,
            Some(since) if since < grace => Life::Stale(since),
            Some(_) => Life::Over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_of_bytes_and_its_links_take_72_bytes() {
        assert_eq!(size_of::<Option<Entry<crate::value::Value>>>(), 56);
        assert_eq!(
            crate::cache::policy::cell_bytes::<Entry<crate::value::Value>>(),
            72
        );
    }

    #[test]
    fn ticks_are_rounded_down_and_long_lives_never_end() {
        let start = Instant::now();
        let seconds = |seconds| Duration::from_secs(seconds);
        assert_eq!(tick(start, start), 0);
        assert_eq!(tick(start, start + Duration::from_micros(15)), 1);
        assert_eq!(ticks(tick(start, start + seconds(5))), seconds(5));
        assert_eq!(tick(start + seconds(1), start), 0, "before the start");
        for at in [0, 1, 65_535, 65_536, (1 << 48) - 2] {
            assert_eq!(Expiry::at(at).tick(), Some(at));
        }
        for never in [(1 << 48) - 1, 1 << 48, u64::MAX] {
            assert_eq!(Expiry::at(never), Expiry::NEVER);
        }
        assert_eq!(Expiry::NEVER.tick(), None);
    }
}
