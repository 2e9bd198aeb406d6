//! `Terms`: the header that native peers exchange.
//!
//! The header consists of `name=value` pairs separated by `;`. Unknown pairs are ignored. A peer that sends
//! the header is native.
//!
//! | pair | in | meaning |
//! |---|---|---|
//! | `v` | both | protocol version, 1 |
//! | `h` | request | local hits of the mirrored key since it was last fetched |
//! | `w` | request | milliseconds after which the owner answers `loading`; with 0 at once |
//! | `d` | request | milliseconds until the caller's deadline; absent if there is none |
//! | `p` | request | with 1: only values in main memory, for a requester that owns the keys now |
//! | `f` | request | with 1: the requester loads the value itself if its load has not begun after `w` |
//! | `e` | request | with 1: the owner of the keys is unreachable, and the requester asks their deputy |
//! | `m` | request | the longest body that the requester takes, in bytes; for batches |
//! | `c` | change | with 1: only copies of values that other nodes own are removed |
//! | `i` | change | its origin: the random number of the sender's process, hexadecimal |
//! | `q` | change | its number among the changes of that process |
//! | `g` | request | name of the cluster, percent-encoded |
//! | `t` | request | id of the peer that the request is meant for, percent-encoded |
//! | `r` | both | fingerprint of the sender's ring, hexadecimal |
//! | `s` | answer | [`Status`](super::Status), which is finer than HTTP's |
//! | `n` | answer | length of a value that is too large to be sent |
//! | `k` | answer | [`hash_of_request`](super::hash_of_request) of the request, hexadecimal |
//! | `b` | answer | boot id of the answering process, if the requester has signed for it, hexadecimal |

use std::fmt::Write as _;
use std::time::Duration;

use percent_encoding::percent_decode_str;

/// The name of the header that native peers exchange.
pub(crate) const HEADER: &str = "X-Groupcache";

/// The header that proves who sends a request.
pub(crate) const AUTH_HEADER: &str = "X-Groupcache-Auth";

pub(super) const VERSION: u32 = 1;

/// What a native peer tells along with its request. The table above has the pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whether the requester is native: it has sent the header.
    pub(crate) native: bool,
    pub(crate) hits: u32,
    /// After which time the owner answers `loading`.
    pub(crate) patience: Option<Duration>,
    /// The time until the caller's deadline.
    pub(crate) remaining: Option<Duration>,
    pub(crate) ring: Option<u64>,
    pub(crate) max_body: Option<usize>,
    /// Whether only values in main memory are requested, by a node that owns the keys now.
    pub(crate) peeks: bool,
    /// Whether the requester loads the value itself if its load has not begun when `patience` ends.
    pub(crate) falls_back: bool,
    /// Whether the requester asks this node as the deputy of an owner that it does not reach.
    pub(crate) as_deputy: bool,
    /// Whether only copies of values that other nodes own are removed.
    pub(crate) copies: bool,
    /// The stamp of a change.
    pub(crate) stamp: Option<Stamp>,
}

/// The process that made a change, and the number of the change there. Each process has its own origin,
/// also at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) origin: u64,
    pub(crate) sequence: u64,
}

impl Terms {
    pub(crate) fn parse(header: &str) -> Terms {
        let mut terms = Terms {
            native: true,
            ..Terms::default()
        };
        let (mut origin, mut sequence) = (None, None);
        for (name, value) in pairs(header) {
            match name {
                // Zero is no origin.
                "i" => origin = u64::from_str_radix(value, 16).ok().filter(|&id| id > 0),
                "q" => sequence = value.parse().ok(),
                "h" => terms.hits = value.parse().unwrap_or(terms.hits),
                "w" => terms.patience = parse_millis(value).or(terms.patience),
                "d" => terms.remaining = parse_millis(value).or(terms.remaining),
                "r" => terms.ring = u64::from_str_radix(value, 16).ok().or(terms.ring),
                "p" => terms.peeks = value == "1",
                "f" => terms.falls_back = value == "1",
                "e" => terms.as_deputy = value == "1",
                "c" => terms.copies = value == "1",
                "m" => terms.max_body = value.parse().ok().or(terms.max_body),
                _ => {}
            }
        }
        let stamp = origin.zip(sequence);
        terms.stamp = stamp.map(|(origin, sequence)| Stamp { origin, sequence });
        terms
    }

    pub(crate) fn to_header(&self) -> String {
        let mut header = format!("v={VERSION}");
        // Writing to a `String` cannot fail.
        if self.hits > 0 {
            let _ = write!(header, ";h={}", self.hits);
        }
        if let Some(patience) = self.patience {
            let _ = write!(header, ";w={}", millis_or_none(patience));
        }
        if let Some(remaining) = self.remaining {
            let _ = write!(header, ";d={}", millis(remaining));
        }
        if let Some(ring) = self.ring {
            let _ = write!(header, ";r={ring:x}");
        }
        if let Some(max_body) = self.max_body {
            let _ = write!(header, ";m={max_body}");
        }
        if self.peeks {
            header.push_str(";p=1");
        }
        if self.falls_back {
            header.push_str(";f=1");
        }
        if self.as_deputy {
            header.push_str(";e=1");
        }
        if self.copies {
            header.push_str(";c=1");
        }
        if let Some(stamp) = self.stamp {
            let _ = write!(header, ";i={:x};q={}", stamp.origin, stamp.sequence);
        }
        header
    }
}

pub(super) fn pairs(header: &str) -> impl Iterator<Item = (&str, &str)> {
    header
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
}

fn parse_millis(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

/// Rounded up, so that a short time is not zero.
fn millis(duration: Duration) -> u64 {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}

/// As [`millis`], but zero stays zero: a value with no time to live is for the callers that wait and is not
/// kept; a requester without patience waits for no load.
pub(super) fn millis_or_none(duration: Duration) -> u64 {
    if duration.is_zero() {
        0
    } else {
        millis(duration)
    }
}

/// The fingerprint of the ring of the peer that answered.
pub(crate) fn ring_of(header: &str) -> Option<u64> {
    Terms::parse(header).ring
}

/// The hash of the request that an answer names.
pub(crate) fn request_of(header: &str) -> Option<u64> {
    let (_, request) = pairs(header).find(|&(name, _)| name == "k")?;
    u64::from_str_radix(request, 16).ok()
}

/// The boot id of the process that answered.
pub(crate) fn boot_of(header: &str) -> Option<u64> {
    let (_, boot) = pairs(header).find(|&(name, _)| name == "b")?;
    u64::from_str_radix(boot, 16).ok()
}

/// Whether a request with this header is meant for the peer `this` of the cluster of this name. A request
/// that names neither a cluster nor a peer is meant for any node: older nodes and plain clients send such. A
/// node that names a peer but no cluster belongs to a cluster without a name.
pub(crate) fn is_meant(header: &str, cluster: Option<&str>, this: &str) -> bool {
    let is = |value: &str, name: &str| percent_decode_str(value).eq(name.bytes());
    let (mut names_cluster, mut names_peer) = (false, false);
    let fits = pairs(header).all(|(name, value)| match name {
        "g" => {
            names_cluster = true;
            cluster.is_some_and(|cluster| is(value, cluster))
        }
        "t" => {
            names_peer = true;
            is(value, this)
        }
        _ => true,
    });
    fits && (names_cluster || !names_peer || cluster.is_none())
}

/// The length of a value that is too large to be sent.
pub(crate) fn length_of(header: &str) -> Option<usize> {
    let (_, length) = pairs(header).find(|&(name, _)| name == "n")?;
    length.parse().ok()
}
