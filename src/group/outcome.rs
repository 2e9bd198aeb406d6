//! `Outcome`: how a flight of a group ends, with a value or an error.

use std::time::Instant;

use super::entry::{Entry, Source};
use crate::cache::entry::{Stored, Tier};
use crate::cache::shards::Found;
use crate::error::Error;
use crate::runtime::clock::Deadline;
use crate::runtime::sync::{Arc, OnceLock};
use crate::value::{Cacheable, Value};

/// The result of a flight.
pub(super) type Outcome<V> = Result<Obtained<V>, Error>;

/// A value, with what the group knows of it.
#[derive(Clone, Debug)]
pub(super) struct Obtained<V: Cacheable> {
    pub(super) value: Stored<V>,
    pub(super) source: Source,
    pub(super) expires: Option<Instant>,
    /// The bytes that are held with the value.
    pub(super) weight: usize,
    /// The value as peers get it, encoded once for all waiters of a flight. `None` if it was not
    /// loaded here.
    pub(super) encoded: Option<Arc<OnceLock<Result<Value, Error>>>>,
}

impl<V: Cacheable> From<Found<V>> for Obtained<V> {
    fn from(found: Found<V>) -> Obtained<V> {
        Obtained {
            value: found.value,
            source: match found.tier {
                _ if found.is_stale => Source::Stale,
                Tier::Main => Source::Main,
                Tier::Hot => Source::Hot,
            },
            expires: found.expires,
            weight: found.weight,
            encoded: None,
        }
    }
}

impl<V: Cacheable> Obtained<V> {
    /// When the value expires.
    pub(super) fn deadline(&self) -> Deadline {
        self.expires.map_or(Deadline::NEVER, Deadline::at)
    }

    /// The value as a caller gets it. Fails if it cannot be cloned.
    pub(super) fn into_entry(self, now: Instant) -> Result<Entry<V>, Error> {
        Ok(Entry {
            remaining: self.deadline().remaining(now),
            value: self.value.value()?,
            source: self.source,
        })
    }

    /// The same, for a caller that has waited for the flight of another.
    pub(super) fn joined(self) -> Obtained<V> {
        Obtained {
            source: Source::Joined,
            ..self
        }
    }
}

/// The error of a flight whose leader was lost to a panic.
pub(super) fn lost_leader() -> Error {
    Error::Panicked {
        message: "the thread that led the load was lost to a panic".into(),
    }
}
