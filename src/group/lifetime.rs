//! `Lifetimes`: how long the values of a group live.

use std::time::Duration;

use crate::cache::key::KeyRef;

#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetimes {
    /// The life of a value whose loader says none; `None` is until it is evicted.
    pub(super) default: Option<Duration>,
    pub(super) max: Option<Duration>,
    /// The part of a life, from 0 to 1, that is taken off at most, so that values do not expire
    /// together.
    pub(super) jitter: f64,
}

impl Lifetimes {
    /// The life of a value whose loader says `ttl`; `None` is until it is evicted.
    pub(super) fn of(&self, ttl: Option<Duration>, key: KeyRef<'_>) -> Option<Duration> {
        let life = match (ttl.or(self.default), self.max) {
            (Some(life), Some(max)) => life.min(max),
            (life, max) => life.or(max)?,
        };
        if self.jitter == 0.0 {
            return Some(life);
        }
        debug_assert!((0.0..=1.0).contains(&self.jitter));
        let seconds = life.as_secs_f64() * (1.0 - self.jitter * key.fraction());
        // The longest duration of all may become too long by rounding.
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(life))
    }
}
