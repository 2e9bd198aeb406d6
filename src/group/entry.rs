//! `Entry` and `Source`: a value as a caller gets it, and where it came from.

use std::fmt;
use std::time::Duration;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Memory, as this process owns the key (or keeps its value for an owner that is unreachable).
    Main,
    /// Memory, as a mirrored copy.
    Hot,
    /// The peer that owns the key.
    Peer,
    /// The loader, in this process.
    Load,
    /// Another thread that was asking for the same key.
    Joined,
    /// Memory, past its expiry: while it is being renewed, or because its load failed
    /// ([`stale_while_revalidate`](crate::GroupBuilder::stale_while_revalidate),
    /// [`stale_if_error`](crate::GroupBuilder::stale_if_error)).
    Stale,
}

impl fmt::Display for Source {
    /// In lower case: `main`, `hot`, `peer`, `load`, `joined`, `stale`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Source::Main => "main",
            Source::Hot => "hot",
            Source::Peer => "peer",
            Source::Load => "load",
            Source::Joined => "joined",
            Source::Stale => "stale",
        })
    }
}

/// A value, where it came from, and how long it lives.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry<V> {
    /// The value.
    pub value: V,
    /// Where it came from.
    pub source: Source,
    /// How long it still lives; `None` if it lives until it is evicted.
    pub remaining: Option<Duration>,
}

/// The old name of [`Entry`].
#[deprecated(note = "renamed to `Entry`")]
pub type Got<V> = Entry<V>;
