//! `Terms`: what the header says that native peers exchange.
//!
//! The header is of `name=value` pairs separated by `;`, of which unknown ones are ignored. Its presence
//! tells a native peer.
//!
//! | pair | in | meaning |
//! |---|---|---|
//! | `v` | both | protocol version, 1 |
//! | `h` | request | local hits of the mirrored key since it was last fetched |
//! | `w` | request | milliseconds after which the owner answers `loading`; with 0 at once |
//! | `d` | request | milliseconds until the caller gives up; absent if never |
//! | `p` | request | with 1: only what the node owns in memory, for one who owns it now |
//! | `f` | request | with 1: the requester loads the value itself if its load has not begun after `w` |
//! | `m` | request | the longest body that the requester takes, in bytes; for batches |
//! | `i` | change | who makes it: the random number of the sender's process, hexadecimal |
//! | `q` | change | its number among the changes of that process |
//! | `g` | request | name of the cluster, percent-encoded |
//! | `t` | request | id of the peer that is meant, percent-encoded |
//! | `r` | both | fingerprint of the sender's ring, hexadecimal |
//! | `s` | answer | [`Status`](super::Status), which is finer than HTTP's |
//! | `n` | answer | length of a value that is too large to be sent |
//! | `k` | answer | [`hash_of_request`](super::hash_of_request) of what is answered, hexadecimal |
//! | `b` | answer | boot id of the one who answers, to one who has signed for it, hexadecimal |

use std::fmt::Write as _;
use std::time::Duration;

use percent_encoding::percent_decode_str;

/// The name of the header that native peers exchange.
pub(crate) const HEADER: &str = "X-Groupcache";

/// The header of a request that proves who asks.
pub(crate) const AUTH_HEADER: &str = "X-Groupcache-Auth";

pub(super) const VERSION: u32 = 1;

/// What a native peer says along with its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whether the requester speaks this dialect at all.
    pub(crate) native: bool,
    pub(crate) hits: u32,
    pub(crate) patience: Option<Duration>,
    pub(crate) remaining: Option<Duration>,
    pub(crate) ring: Option<u64>,
    pub(crate) max_body: Option<usize>,
    /// Whether only what is in main memory is asked for, by one who owns it now.
    pub(crate) peeks: bool,
    /// Whether the requester loads the value itself if its load has not begun when its patience ends.
    pub(crate) falls_back: bool,
    /// Whether only copies are removed of values that others own.
    pub(crate) copies: bool,
    /// Who makes this change, and in which order.
    pub(crate) stamp: Option<Stamp>,
}

/// Who made a change, and in which order: another process has another origin, also at the same
/// address.
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
                // Zero is nobody.
                "i" => origin = u64::from_str_radix(value, 16).ok().filter(|&id| id > 0),
                "q" => sequence = value.parse().ok(),
                "h" => terms.hits = value.parse().unwrap_or(terms.hits),
                "w" => terms.patience = parse_millis(value).or(terms.patience),
                "d" => terms.remaining = parse_millis(value).or(terms.remaining),
                "r" => terms.ring = u64::from_str_radix(value, 16).ok().or(terms.ring),
                "p" => terms.peeks = value == "1",
                "f" => terms.falls_back = value == "1",
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

/// Rounded up, so that a little time is not none.
fn millis(duration: Duration) -> u64 {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}

/// None stays none: a value of zero life is for those who wait, and not to be kept; one without
/// patience waits for no load.
pub(super) fn millis_or_none(duration: Duration) -> u64 {
    if duration.is_zero() {
        0
    } else {
        millis(duration)
    }
}

/// The fingerprint of the ring of whoever answered.
pub(crate) fn ring_of(header: &str) -> Option<u64> {
    Terms::parse(header).ring
}

/// The request that an answer says it belongs to.
pub(crate) fn request_of(header: &str) -> Option<u64> {
    let (_, request) = pairs(header).find(|&(name, _)| name == "k")?;
    u64::from_str_radix(request, 16).ok()
}

/// The boot id of the process that answers.
pub(crate) fn boot_of(header: &str) -> Option<u64> {
    let (_, boot) = pairs(header).find(|&(name, _)| name == "b")?;
    u64::from_str_radix(boot, 16).ok()
}

/// Whether a request with this header is meant for the peer `this` of the cluster of this name. One that
/// names neither a cluster nor a peer may be meant for any, as those of older nodes and plain clients; a
/// node that names a peer and no cluster is one of a cluster without a name.
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
