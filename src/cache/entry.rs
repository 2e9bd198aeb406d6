//! `Entry`: a value that is kept, with what has to be known of it.

use std::any::Any;
use std::time::{Duration, Instant};

use crate::cache::key::{KeyRef, Text};
use crate::cache::policy::{Item, Marks};
use crate::runtime::sync::Arc;
use crate::runtime::user_code::{self, Panicked};
use crate::value::{Cacheable, Value};

/// Why a value is kept: this process owns it, or it is popular (or its owner is unreachable).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tier {
    Main,
    Hot,
}

/// A value as it is kept, and as it goes to those who wait for it. Under a lock, or while a flight is
/// held, this is cloned and dropped, and never the value itself, whose `clone` and `drop` may be
/// user code (I1).
pub(crate) enum Stored<V: 'static> {
    /// Where `V` is [`Value`], which is ours and shares its bytes already.
    Bytes(Value),
    Shared(Shared<V>),
}

/// A value of a the user's type.
pub(crate) struct Shared<V: 'static>(Option<Arc<V>>);

impl<V: Cacheable> Stored<V> {
    pub(crate) fn new(value: V) -> Stored<V> {
        match cast(value) {
            Ok(bytes) => Stored::Bytes(bytes),
            Err(value) => Stored::Shared(Shared(Some(Arc::new(value)))),
        }
    }

    /// The value, cloned by user code if it is foreign. Not under a lock.
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

    /// The value itself. There is always one.
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

/// Of a value there is none of: no [`Stored`] is made so.
fn gone() -> Panicked {
    Panicked("the value is gone".to_owned())
}

/// `value` as what it is, if that is a `B`.
#[inline]
fn cast<A: 'static, B: 'static>(value: A) -> Result<B, A> {
    let mut value = Some(value);
    let as_b = (&mut value as &mut dyn Any).downcast_mut::<Option<B>>();
    match (as_b.and_then(Option::take), value) {
        (Some(value), _) => Ok(value),
        (None, Some(value)) => Err(value),
        (None, None) => unreachable!("it is either"),
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
    /// The last holder may be one that holds a flight or a lock: the value drops after that.
    fn drop(&mut self) {
        if let Some(value) = self.0.take().and_then(Arc::into_inner) {
            user_code::defer_drop(value);
        }
    }
}

/// Nothing of the value, which may be secret and whose type may not be able to say.
impl<V: 'static> std::fmt::Debug for Stored<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stored")
    }
}

/// A kept value.
#[derive(Debug)]
pub(crate) struct Entry<V: 'static> {
    key: Text,
    pub(crate) value: Stored<V>,
    weight: u32,
    /// Local uses since somebody was last told of them.
    pub(crate) hits: u32,
    pub(crate) expires: Expiry,
    marks: Marks,
}

/// What an entry can weigh at most: it counts in four bytes.
pub(crate) const MAX_WEIGHT: usize = u32::MAX as usize;

/// Up to here hits are counted one by one, then one in so many for all.
const EXACT_HITS: u32 = 128;
const SAMPLE: u64 = 32;

impl<V> Entry<V> {
    /// A value of at most [`MAX_WEIGHT`].
    pub(crate) fn new(
        key: KeyRef<'_>,
        value: Stored<V>,
        weight: usize,
        expires: Expiry,
    ) -> Entry<V> {
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

    /// Counts a local use. Of those that are used often only some, for all: `number` is the number
    /// of the use among all of its shard. So a value that is used all the time is not written to.
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

/// Ticks since the cache was made, of eight microseconds: a number that fits six bytes for seventy
/// years.
pub(crate) type Tick = u64;

const TICK_NANOS: u32 = 8_000;
const TICKS_PER_SECOND: u64 = 125_000;

/// The tick of an instant, rounded down: nothing lives longer than it should.
pub(crate) fn tick(start: Instant, instant: Instant) -> Tick {
    whole_ticks(instant.saturating_duration_since(start))
}

/// The ticks that a time has, rounded down.
pub(crate) fn whole_ticks(time: Duration) -> Tick {
    let ticks = time.as_secs().saturating_mul(TICKS_PER_SECOND);
    ticks.saturating_add(u64::from(time.subsec_nanos() / TICK_NANOS))
}

/// How long so many ticks take.
pub(crate) fn ticks(ticks: Tick) -> Duration {
    let nanos = (ticks % TICKS_PER_SECOND) as u32 * TICK_NANOS;
    Duration::new(ticks / TICKS_PER_SECOND, nanos)
}

/// When an entry expires, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expiry([u16; 3]);

impl Expiry {
    pub(crate) const NEVER: Expiry = Expiry([u16::MAX; 3]);

    /// At a tick. Those that do not fit never come.
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

/// How an entry stands to its expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Fresh,
    /// Past it for so many ticks, but still of use.
    Stale(Tick),
    Over,
}

impl Expiry {
    /// How it stands, if there is a time of `grace` after it. `now` is asked only if it matters.
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
