//! `Dialect`: the protocol between peers.

use std::fmt;

use crate::runtime::sync::{AtomicUsize, Ordering};

/// The protocol between peers: paths, statuses and the ring.
///
/// One for the whole cluster, set by [`NodeBuilder::dialect`](crate::NodeBuilder::dialect).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dialect {
    /// This crate's own, with all that it promises.
    #[default]
    Native,
    /// That of [golang/groupcache](https://github.com/golang/groupcache), so that Go processes and
    /// nodes of this crate are one cache: they agree on who owns what and ask each other.
    ///
    /// **Between two nodes of this crate** all is as in the native dialect, but for the ring. They
    /// know each other by a header that Go ignores.
    ///
    /// **The ring** is Go's: CRC-32, 50 points for a peer, all weights 1. A peer's place on it is
    /// its URL exactly as the list spells it, or its [`id`](crate::Peer::id): all processes must
    /// spell it in the same way, so `http://cache` and `http://cache:80` are two places. Where two
    /// points fall together (of 100 peers, hardly ever) the later peer of the list has it: lists
    /// should have the same order. The Go side must use the defaults of `HTTPPoolOptions`, on a
    /// 64-bit machine; plain `http` and a URL without a path.
    ///
    /// **A Go owner** can neither say "not found" nor "still loading". Whatever it answers but a
    /// value has the requester load for itself, as Go does; it may take as long as
    /// [`load_timeout`](crate::NodeBuilder::load_timeout). Its values come without a life: a
    /// mirrored copy has the longest life of such copies. One larger than
    /// [`max_value`](crate::NodeBuilder::max_value) cannot be used, and looks like a failure of the
    /// peer: set that to the largest there is. Keys with empty segments or with `.` or
    /// `..` as one (`/x`, `a//b`, `../a`) do not reach a Go owner behind Go's `ServeMux`, which
    /// redirects them: every requester loads these for itself.
    ///
    /// **A Go requester** waits until the value is loaded, at most the `load_timeout`, and gets errors
    /// as from Go. Its odd spelling of keys (a space as `+`) is understood here; the Go server
    /// takes it for a `+`, so *between two Go peers* a key with a space loads the wrong value.
    ///
    /// **`remove`, `set` and `clear`** do not exist in Go: nothing is sent to a Go peer, and
    /// [`Error::Unreached`](crate::Error::Unreached) names it as
    /// [unsupported](crate::Unreached::unsupported). What it has cached stays there until it is
    /// evicted. One load for each key, and no old value after a removal, are promised for keys that
    /// nodes of this crate own, and to those who ask nodes of this crate.
    Golang,
}

impl Dialect {
    /// What somebody speaks in a cluster of this dialect, who has shown to be native or not.
    pub(crate) fn spoken(self, is_native: bool) -> Dialect {
        if is_native { Dialect::Native } else { self }
    }
}

/// What a peer speaks, as its last answer showed. Without a lock, as every call looks.
#[derive(Debug)]
pub(crate) struct Spoken(AtomicUsize);

impl Spoken {
    pub(crate) fn new(dialect: Option<Dialect>) -> Spoken {
        Spoken(AtomicUsize::new(code(dialect)))
    }

    /// `None` if it is not known.
    pub(crate) fn get(&self) -> Option<Dialect> {
        match self.0.load(Ordering::Relaxed) {
            1 => Some(Dialect::Native),
            2 => Some(Dialect::Golang),
            _ => None,
        }
    }

    /// Tells whether that is news.
    pub(crate) fn set(&self, dialect: Dialect) -> bool {
        let news = self.get() != Some(dialect);
        if news {
            self.0.store(code(Some(dialect)), Ordering::Relaxed);
        }
        news
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
    fn who_does_not_show_to_be_native_speaks_the_dialect_of_the_cluster() {
        for dialect in [Dialect::Native, Dialect::Golang] {
            assert_eq!(dialect.spoken(true), Dialect::Native);
            assert_eq!(dialect.spoken(false), dialect);
        }
    }

    #[test]
    fn what_is_spoken_follows_the_last_answer() {
        let spoken = Spoken::new(None);
        assert_eq!(spoken.get(), None);
        for dialect in [Dialect::Golang, Dialect::Native, Dialect::Golang] {
            assert!(spoken.set(dialect));
            assert!(!spoken.set(dialect), "no news");
            assert_eq!(spoken.get(), Some(dialect));
        }
    }
}
