//! `Mirroring`: which fetched values are worth a copy here (the hot cache), and `Rate`: how often a key is
//! requested.
//!
//! The owner of a key measures how often the whole cluster requests it, and sends that rate along with the
//! value, in a field that groupcache's protocol always had (`minute_qps`). When a process fetches a value
//! again of which it had a copy, it tells the owner how many local hits the copy had. So the rate of a
//! mirrored key does not seem to fall.

use std::time::{Duration, Instant};

use crate::runtime::clock::Deadline;

/// The time constant of the rate: a request that is older weighs less than 1/e.
const MEMORY: Duration = Duration::from_secs(60);

/// The shortest time over which a rate is taken, so that one request is not a high rate.
const SHORTEST_SPAN: Duration = Duration::from_secs(10);

const _: () = assert!(SHORTEST_SPAN.as_secs() < MEMORY.as_secs());

/// How often a key is requested: an exponentially decaying average that is exact from the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Requests before `at`, decayed.
    requests: f32,
    /// Seconds that `requests` was collected over, decayed likewise.
    span: f32,
    at: Instant,
}

impl Rate {
    pub(crate) fn new(now: Instant) -> Rate {
        Rate {
            requests: 0.0,
            span: 0.0,
            at: now,
        }
    }

    /// Requests per second over about the last minute. `fresh` of them came since the last call.
    pub(crate) fn per_second(&mut self, fresh: u32, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at);
        let kept = (-elapsed.as_secs_f32() / MEMORY.as_secs_f32()).exp();
        self.requests = self.requests * kept + fresh as f32;
        self.span = self.span * kept + MEMORY.as_secs_f32() * (1.0 - kept);
        self.at = now;
        f64::from(self.requests / self.span.max(SHORTEST_SPAN.as_secs_f32()))
    }

    /// Requests over about the last minute, as of the last call of
    /// [`per_second`](Rate::per_second).
    pub(crate) fn requests(&self) -> f64 {
        f64::from(self.requests)
    }
}

/// Which values a process mirrors, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mirroring {
    /// A value is mirrored from so many requests per second on, counted over the whole cluster.
    pub(crate) threshold: f64,
    /// The longest life of a copy. Zero mirrors nothing.
    pub(crate) max_life: Duration,
}

impl Mirroring {
    /// Until when a fetched value is mirrored; `None` if it is not.
    ///
    /// `rate` is `None` if the peer does not measure it (Go implementations never fill the field):
    /// then one fetch in ten is mirrored, as golang/groupcache does. `dice` is a random number.
    pub(crate) fn life(
        &self,
        rate: Option<f64>,
        expires: Option<Instant>,
        now: Instant,
        dice: u64,
    ) -> Option<Deadline> {
        let popular = match rate {
            Some(rate) => rate >= self.threshold,
            None => dice % 10 == 0,
        };
        if !popular || self.max_life.is_zero() {
            return None;
        }
        let longest = Deadline::after(now, self.max_life);
        Some(expires.map_or(longest, |expires| longest.earlier(Deadline::at(expires))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_stream_is_measured_from_the_start() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        for second in 1..=30 {
            rate.per_second(50, start + Duration::from_secs(second));
        }
        let measured = rate.per_second(0, start + Duration::from_secs(30));
        assert!((measured - 50.0).abs() < 2.0, "{measured}");
    }

    #[test]
    fn one_request_is_not_a_high_rate() {
        let now = Instant::now();
        assert!(Rate::new(now).per_second(1, now) < 0.2);
    }

    #[test]
    fn a_rate_falls_without_requests() {
        let start = Instant::now();
        let mut rate = Rate::new(start);
        let hot = rate.per_second(10_000, start);
        let later = rate.per_second(0, start + Duration::from_secs(300));
        assert!(later < hot / 50.0, "{hot} {later}");
    }

    #[test]
    fn a_copy_outlives_neither_its_maximum_nor_its_value() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mirroring = Mirroring {
            threshold: 1.0,
            max_life: 30 * second,
        };
        let longest = Some(Deadline::at(now + 30 * second));
        assert_eq!(mirroring.life(Some(5.0), None, now, 1), longest);
        let soon = now + second;
        let until_soon = Some(Deadline::at(soon));
        assert_eq!(mirroring.life(Some(5.0), Some(soon), now, 1), until_soon);
        assert_eq!(mirroring.life(Some(0.5), None, now, 1), None);
        assert_eq!(mirroring.life(None, None, now, 20), longest);
        assert_eq!(mirroring.life(None, None, now, 21), None);
        let endless = Mirroring {
            max_life: Duration::MAX,
            ..mirroring
        };
        let never = Some(Deadline::NEVER);
        assert_eq!(endless.life(Some(5.0), None, now, 1), never);
        assert_eq!(endless.life(Some(5.0), Some(soon), now, 1), until_soon);
        let off = Mirroring {
            max_life: Duration::ZERO,
            ..mirroring
        };
        assert_eq!(off.life(Some(5.0), None, now, 1), None);
    }
}
