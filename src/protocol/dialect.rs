//! `Dialect`: the protocol between peers.

use std::fmt;

use crate::runtime::sync::{AtomicUsize, Ordering};

/// The protocol between peers: paths, statuses and the ring.
///
/// All nodes of a cluster must use the same one, set by [`NodeBuilder::dialect`](crate::NodeBuilder::dialect).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// This crate's own protocol, with all its guarantees.
    #[default]
    Native,
    /// The protocol of [golang/groupcache](https://github.com/golang/groupcache), so that Go processes
    /// and nodes of this crate form one cache: they agree on the owners of keys and fetch from each
    /// other.
    ///
    /// **Between two nodes of this crate** everything works as in the native dialect, except for the
    /// ring. They recognize each other by a header that Go ignores.
    ///
    /// **The ring** is Go's: CRC-32, 50 points for each peer, all weights 1. The points of a peer
    /// depend on its URL exactly as the list spells it, or on its [name](crate::Peer::with_name): all processes
    /// must spell it in the same way, as `http://cache` and `http://cache:80` have different points. If
    /// two points coincide (with 100 peers, hardly ever), the later peer of the list has the point: all
    /// lists should have the same order. The Go side must use the defaults of `HTTPPoolOptions`, a
    /// 64-bit machine, plain `http` and a URL without a path.
    ///
    /// **A Go owner** can answer neither "not found" nor "still loading". If it answers anything but a
    /// value, the requester loads the value itself, as Go does. An answer may take as long as
    /// [`load_timeout`](crate::NodeBuilder::load_timeout). Its values have no time to live: a mirrored
    /// copy lives as long as mirrored copies may. A value larger than
    /// [`max_value`](crate::NodeBuilder::max_value) cannot be used, and counts as a failure of the peer:
    /// set `max_value` to the size of the largest value. Keys with an empty segment or with the segment
    /// `.` or `..` (`/x`, `a//b`, `../a`) do not reach a Go owner behind Go's `ServeMux`, which redirects
    /// them: every requester loads these itself.
    ///
    /// **A Go requester** waits until the value is loaded, at most the `load_timeout`, and gets errors
    /// as from Go. This crate understands its encoding of keys (a space as `+`). A Go server takes the
    /// `+` literally, so *between two Go peers* a key with a space loads the wrong value.
    ///
    /// **`remove`, `set` and `clear`** do not exist in Go: nothing is sent to a Go peer, and
    /// [`Error::Unreached`](crate::Error::Unreached) names it as
    /// [unsupported](crate::Unreached::unsupported). The values that it has cached stay there until they
    /// are evicted. One load for each key, and no old value after a removal, are guaranteed for keys
    /// that nodes of this crate own, and to callers of nodes of this crate.
    Golang,
}

impl Dialect {
    /// The dialect of a peer in a cluster of this dialect, given whether the peer is native.
    pub(crate) fn spoken(self, is_native: bool) -> Dialect {
        if is_native { Dialect::Native } else { self }
    }
}

/// The dialect of a peer, by its last answer. Without a lock, because every call reads it.
#[derive(Debug)]
pub(crate) struct Spoken(AtomicUsize);

impl Spoken {
    pub(crate) fn new(dialect: Option<Dialect>) -> Spoken {
        Spoken(AtomicUsize::new(code(dialect)))
    }

    /// The dialect; `None` if it is not known.
    pub(crate) fn get(&self) -> Option<Dialect> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(Dialect::Native),
            2 => Some(Dialect::Golang),
            _ => None,
        }
    }

    /// Sets the dialect; tells whether it has changed.
    pub(crate) fn set(&self, dialect: Dialect) -> bool {
        let is_changed = self.get() != Some(dialect);
        if is_changed {
            self.0.store(code(Some(dialect)), Ordering::Relaxed);
        }
        is_changed
    }
}

fn code(dialect: Option<Dialect>) -> usize {
    match dialect {
        None => 0,
        Some(Dialect::Native) => 1,
        Some(Dialect::Golang) => 2,
    }
}

impl fmt::Display for Dialect {
    /// In lower case: `native`, `golang`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Dialect::Native => "native",
            Dialect::Golang => "golang",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_not_native_speaks_the_dialect_of_the_cluster() {
        for dialect in [Dialect::Native, Dialect::Golang] {
            assert_eq!(dialect.spoken(true), Dialect::Native);
            assert_eq!(dialect.spoken(false), dialect);
        }
    }

    #[test]
    fn the_dialect_of_a_peer_follows_its_last_answer() {
        let spoken = Spoken::new(None);
        assert_eq!(spoken.get(), None);
        for dialect in [Dialect::Golang, Dialect::Native, Dialect::Golang] {
            assert!(spoken.set(dialect));
            assert!(!spoken.set(dialect), "not changed");
            assert_eq!(spoken.get(), Some(dialect));
        }
    }
}
