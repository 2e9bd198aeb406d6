//! `Deadline`, the instant until which a caller waits, and `Clock`, the source of the time.

use std::fmt;
use std::time::{Duration, Instant};

use crate::runtime::sync::{Arc, Condvar, Mutex, MutexGuard, Weak, wait_until};

/// The instant after which a caller no longer waits, or never.
///
/// A *timeout* is a duration; it is turned into a deadline once, when the call begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Waits for as long as it takes.
    pub const NEVER: Deadline = Deadline(None);

    /// The deadline at `instant`.
    #[must_use]
    pub fn at(instant: Instant) -> Deadline {
        Deadline(Some(instant))
    }

    /// The deadline `timeout` after `now`. A timeout too long to be represented never ends.
    #[must_use]
    pub fn after(now: Instant, timeout: Duration) -> Deadline {
        Deadline(now.checked_add(timeout))
    }

    /// The instant, or `None` if this deadline never comes.
    #[must_use]
    pub fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Whether this deadline never comes.
    #[must_use]
    pub fn is_never(self) -> bool {
        self.0.is_none()
    }

    /// Whether the deadline has come at `now`.
    #[must_use]
    #[inline]
    pub fn is_past(self, now: Instant) -> bool {
        self.0.is_some_and(|instant| instant <= now)
    }

    /// The time left at `now`: zero once it is past, `None` if it never comes.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.0.map(|instant| instant.saturating_duration_since(now))
    }

    /// Whether this one comes after `other`.
    #[must_use]
    pub fn is_after(self, other: Deadline) -> bool {
        match (self.0, other.0) {
            (Some(a), Some(b)) => a > b,
            (None, Some(_)) => true,
            (_, None) => false,
        }
    }

    /// The later of the two.
    #[must_use]
    pub fn later(self, other: Deadline) -> Deadline {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Deadline(Some(a.max(b))),
            _ => Deadline::NEVER,
        }
    }

    /// The earlier of the two.
    #[must_use]
    pub fn earlier(self, other: Deadline) -> Deadline {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Deadline(Some(a.min(b))),
            (a, b) => Deadline(a.or(b)),
        }
    }
}

/// Where a node reads the time: the system's monotonic clock, or one that a test moves.
///
/// Clones share the same clock.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<ManualClock>>);

impl Clock {
    /// The system's monotonic clock, which a change of the date does not move. The default.
    #[must_use]
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that stands still until [`advance`](Clock::advance) moves it.
    ///
    /// Every expiry and every deadline of a node that was built with it follows this clock.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn manual() -> Clock {
        let now = Instant::now();
        Clock(Some(Arc::new(ManualClock {
            state: Mutex::new(ManualState {
                now,
                began: now,
                sleepers: Vec::new(),
                sleeping: 0,
                moves: 0,
            }),
        })))
    }

    /// Moves a manual clock forward and wakes all threads that wait for it.
    ///
    /// # Panics
    ///
    /// Panics if this is the system clock.
    #[cfg(any(test, feature = "test-util"))]
    #[allow(clippy::expect_used)] // A test that moves the system clock is a mistake in that test.
    pub fn advance(&self, by: Duration) {
        let manual = self
            .0
            .as_ref()
            .expect("only a manual clock can be advanced");
        let sleepers = {
            let mut state = manual.state.lock();
            state.now += by;
            // All are being woken: a test that moves the clock again counts those that sleep again.
            state.sleeping = 0;
            state.moves += 1;
            std::mem::take(&mut state.sleepers)
        };
        for sleeper in sleepers.iter().filter_map(Weak::upgrade) {
            sleeper.wake();
        }
    }

    /// How many threads wait for a manual clock now: a test that moves the clock only once they wait
    /// leaves nothing to chance. The thread of a node that offers values to deputies waits at any time, and
    /// does not count. Zero for the system clock.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn sleepers(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |manual| manual.state.lock().sleeping)
    }

    /// The current instant.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(manual) => manual.state.lock().now,
        }
    }

    /// The time since the Unix epoch: the only use of the date. It jumps when the date is changed. A
    /// manual clock begins in September 2001.
    #[cfg(feature = "auth")]
    pub(crate) fn unix_time(&self) -> Duration {
        const BEGIN: Duration = Duration::from_secs(1_000_000_000);
        match &self.0 {
            None => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                since.unwrap_or_default()
            }
            Some(manual) => {
                let state = manual.state.lock();
                BEGIN + state.now.saturating_duration_since(state.began)
            }
        }
    }

    /// Waits on `condvar` until it is notified or `deadline` comes; may also return early.
    ///
    /// A manual clock keeps `sleeper`, to wake it when the time moves. Its own lock is a leaf: the only
    /// lock that is taken while another is held (I2), and only in tests.
    pub(crate) fn wait<T>(
        &self,
        condvar: &Condvar,
        guard: &mut MutexGuard<'_, T>,
        deadline: Deadline,
        sleeper: impl FnOnce() -> Weak<dyn Sleeper>,
    ) {
        match (&self.0, deadline.instant()) {
            (Some(manual), Some(instant)) => {
                if let Some(enlisted) = manual.enlist(instant, sleeper) {
                    wait_until(condvar, guard, None);
                    manual.wake_up(&enlisted);
                }
            }
            (_, instant) => wait_until(condvar, guard, instant),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            None => "Clock(system)",
            Some(_) => "Clock(manual)",
        })
    }
}

/// Something that waits for a manual clock, and reads the time again when woken.
pub(crate) trait Sleeper: Send + Sync {
    /// Takes the lock that the sleeper waits with and notifies it, so that no wake-up is lost.
    // Only a manual clock calls this, and only tests have one.
    #[cfg_attr(not(any(test, feature = "test-util")), allow(dead_code))]
    fn wake(&self);

    /// Whether it is one of those that [`Clock::sleepers`] counts.
    fn counts(&self) -> bool {
        true
    }
}

struct ManualClock {
    state: Mutex<ManualState>,
}

struct ManualState {
    now: Instant,
    #[cfg_attr(not(feature = "auth"), allow(dead_code))]
    began: Instant,
    sleepers: Vec<Weak<dyn Sleeper>>,
    sleeping: usize,
    /// How many times the clock was moved.
    moves: u64,
}

/// A sleeper that is registered.
struct Enlisted {
    /// How many times the clock had been moved.
    moves: u64,
    counts: bool,
}

impl ManualClock {
    /// Registers the sleeper, unless `instant` has come already.
    fn enlist(
        &self,
        instant: Instant,
        sleeper: impl FnOnce() -> Weak<dyn Sleeper>,
    ) -> Option<Enlisted> {
        let mut state = self.state.lock();
        if instant <= state.now {
            return None;
        }
        let sleeper = sleeper();
        let counts = sleeper.upgrade().is_some_and(|sleeper| sleeper.counts());
        state.sleepers.push(sleeper);
        state.sleeping += usize::from(counts);
        Some(Enlisted {
            moves: state.moves,
            counts,
        })
    }

    /// Notes that a sleeper is awake. If the clock was moved meanwhile, the sleeper is not counted any
    /// more.
    fn wake_up(&self, enlisted: &Enlisted) {
        let mut state = self.state.lock();
        if state.moves == enlisted.moves {
            state.sleeping -= usize::from(enlisted.counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overflowing_timeout_never_ends() {
        assert!(Deadline::after(Instant::now(), Duration::MAX).is_never());
    }

    #[test]
    fn the_earlier_of_two_deadlines_wins_and_never_loses() {
        let now = Instant::now();
        let soon = Deadline::at(now);
        let late = Deadline::after(now, Duration::from_secs(1));
        assert_eq!(soon.earlier(late), soon);
        assert_eq!(late.earlier(soon), soon);
        assert_eq!(Deadline::NEVER.earlier(late), late);
        assert_eq!(late.earlier(Deadline::NEVER), late);
    }

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let clock = Clock::manual();
        let start = clock.now();
        assert_eq!(clock.now(), start);
        clock.advance(Duration::from_secs(5));
        assert_eq!(clock.now(), start + Duration::from_secs(5));
    }
}
