//! `Remote`: a peer other than this node. The way to it, and what is known of it.

use std::time::{Duration, Instant};

use crate::cluster::batching::{Batcher, Question};
use crate::cluster::circuit::Circuit;
use crate::cluster::journal::{Journal, Lacks};
use crate::error::Unreached;
use crate::protocol::Item;
use crate::protocol::dialect::{Dialect, Spoken};
use crate::runtime::sync::{
    Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, callers_at_once,
};
use crate::stats::latency::Histogram;
use crate::stats::{CircuitState, Counter, PeerStats};
use crate::transport::peer::{Link, Peer};

/// Why a call failed, as its caller must know.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The caller's own time is up. Says nothing about the peer (I6).
    Deadline,
    /// The peer is unreachable: refused, silent, nonsense, or known to be so.
    Unreachable(String),
    /// The peer speaks a dialect that has no such request.
    Unsupported,
    /// The peer is there and does not do it: it would not the next time either.
    Refused,
}

/// A peer other than this node.
pub(crate) struct Remote {
    pub(crate) peer: Peer,
    pub(crate) link: Arc<dyn Link>,
    /// What each request to it ends its header with: whom it is meant for.
    pub(crate) addressed: String,
    /// Those who ask it for values.
    pub(crate) line: Arc<Batcher<Asked, Said>>,
    pub(crate) circuit: Circuit,
    pub(crate) spoken: Spoken,
    /// The removals that it has not been told.
    pub(crate) lacks: Lacks,
    /// The removals that another peer was told of late: it may have fetched an old value from there
    /// after it was told itself.
    pub(crate) echoes: Lacks,
    /// When they are delivered; `None` is at once.
    pub(crate) next_delivery: Mutex<Option<Instant>>,
    pub(crate) calls: Counter,
    pub(crate) errors: Counter,
    /// Calls whose caller had no more time.
    pub(crate) abandoned: Counter,
    /// Of the calls that were answered.
    pub(crate) latency: Histogram,
    knows_batches: AtomicBool,
    /// Whether its answers say which request they belong to.
    names_requests: AtomicBool,
    /// The random number of its process, as it said last; 0 if it has not. Changes are signed for it.
    boot: AtomicU64,
    pub(crate) suspicion: Suspicion,
    /// Whether it has said that it leaves, and not come back since.
    has_left: AtomicBool,
    /// What is known of the removals that it knows of.
    marks: Mutex<Marks>,
}

/// Whether a peer has said what was removed of late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    Unasked,
    Known,
    /// It is too old to know.
    Unknown,
}

/// Whether a peer seems to be silent, and whether that is being found out.
#[derive(Default)]
pub(crate) struct Suspicion {
    /// Calls in a row whose callers had no more time.
    unanswered: AtomicUsize,
    probe: Mutex<Probe>,
}

#[derive(Default)]
struct Probe {
    is_under_way: bool,
    /// No other one begins before that.
    rest: Option<Instant>,
}

impl Suspicion {
    /// A call was not answered in the time of its caller. Tells whether a probe is to begin now: not
    /// for one call alone, one at a time, and not more than one in `pause`.
    pub(crate) fn note_silence(&self, now: Instant, pause: Duration) -> bool {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) == 0 {
            return false;
        }
        let mut probe = self.probe.lock();
        if probe.is_under_way || probe.rest.is_some_and(|rest| now < rest) {
            return false;
        }
        probe.is_under_way = true;
        probe.rest = now.checked_add(pause);
        true
    }

    /// A call was answered.
    pub(crate) fn note_answer(&self) {
        // Seldom changed, so that it stays in the caches of all who look.
        if self.is_silent() {
            self.unanswered.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the last call was not answered.
    pub(crate) fn is_silent(&self) -> bool {
        self.unanswered.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn end_probe(&self) {
        self.probe.lock().is_under_way = false;
    }
}

/// What a peer says of one of many keys.
pub(crate) type Said = Result<Item, Failure>;

/// A key that is asked for, perhaps together with others.
pub(crate) struct Asked {
    pub(crate) group: Arc<str>,
    pub(crate) key: String,
    /// Hits of a mirrored copy that the owner does not know of.
    pub(crate) hits: u32,
}

/// The same, of one who does not wait in line.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) group: &'a str,
    pub(crate) key: &'a str,
    pub(crate) hits: u32,
}

impl Asked {
    pub(crate) fn query(&self) -> Query<'_> {
        Query {
            group: &self.group,
            key: &self.key,
            hits: self.hits,
        }
    }
}

impl Question for Asked {
    fn goes_with(&self, other: &Asked) -> bool {
        self.group == other.group
    }
}

impl Remote {
    /// The peer at the end of `link`, whose circuit opens after so many failures, in a cluster of
    /// this dialect.
    pub(crate) fn new(
        peer: &Peer,
        link: Arc<dyn Link>,
        addressed: String,
        failures: usize,
        dialect: Dialect,
    ) -> Remote {
        Remote {
            peer: peer.clone(),
            link,
            addressed,
            line: Batcher::new(callers_at_once()),
            circuit: Circuit::new(failures),
            // A native cluster has no others.
            spoken: Spoken::new(match dialect {
                Dialect::Native => Some(Dialect::Native),
                Dialect::Golang => None,
            }),
            lacks: Lacks::default(),
            echoes: Lacks::default(),
            next_delivery: Mutex::new(None),
            calls: Counter::default(),
            errors: Counter::default(),
            abandoned: Counter::default(),
            latency: Histogram::default(),
            knows_batches: AtomicBool::new(true),
            names_requests: AtomicBool::new(false),
            boot: AtomicU64::new(0),
            suspicion: Suspicion::default(),
            has_left: AtomicBool::new(false),
            marks: Mutex::new(Marks::Unasked),
        }
    }

    /// Whether it can be asked for many keys at once, as far as is known.
    pub(crate) fn takes_batches(&self) -> bool {
        self.speaks() == Some(Dialect::Native) && self.knows_batches.load(Ordering::Relaxed)
    }

    pub(crate) fn note_no_batches(&self) {
        self.knows_batches.store(false, Ordering::Relaxed);
    }

    /// Whether an answer that names no request cannot be its own.
    pub(crate) fn names_requests(&self) -> bool {
        self.names_requests.load(Ordering::Relaxed)
    }

    pub(crate) fn note_names_requests(&self) {
        // Seldom changed, so that it stays in the caches of all who look.
        if !self.names_requests() {
            self.names_requests.store(true, Ordering::Relaxed);
        }
    }

    /// The process that changes are signed for; 0 if it is not known.
    pub(crate) fn boot(&self) -> u64 {
        self.boot.load(Ordering::Relaxed)
    }

    pub(crate) fn note_boot(&self, boot: u64) {
        // Seldom changed, so that it stays in the caches of all who look.
        if self.boot() != boot {
            self.boot.store(boot, Ordering::Relaxed);
        }
    }

    /// The first place of the journal that it has still to be told of, if it can be told at all.
    pub(crate) fn lacks_from(&self) -> Option<u64> {
        let first = self.lacks.first().into_iter().chain(self.echoes.first());
        first
            .min()
            .filter(|_| self.speaks() != Some(Dialect::Golang))
    }

    /// What it speaks, as its last answer showed; `None` if there was none yet.
    pub(crate) fn speaks(&self) -> Option<Dialect> {
        self.spoken.get()
    }

    /// Whether it has said what was removed of late.
    pub(crate) fn marks(&self) -> Marks {
        *self.marks.lock()
    }

    pub(crate) fn note_marks(&self, marks: Marks) {
        *self.marks.lock() = marks;
    }

    /// Notes that it answers again after it was unreachable.
    pub(crate) fn note_back(&self) {
        // It may be another process, a newer one or an older.
        self.note_marks(Marks::Unasked);
        self.knows_batches.store(true, Ordering::Relaxed);
        self.names_requests.store(false, Ordering::Relaxed);
        log::info!(target: "groupcache", peer:% = self.peer; "the peer is back");
    }

    /// Whether it has a place in the list and none on the ring.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }

    /// Notes whether it has left; tells whether that is news.
    pub(crate) fn note_left(&self, has_left: bool) -> bool {
        let news = self.has_left.swap(has_left, Ordering::AcqRel) != has_left;
        if news && has_left {
            log::info!(target: "groupcache", peer:% = self.peer; "the peer leaves the ring");
        }
        if news && !has_left {
            log::info!(target: "groupcache", peer:% = self.peer; "the peer comes back to the ring");
        }
        news
    }

    pub(crate) fn unreached(&self, failure: &Failure) -> Unreached {
        Unreached {
            peer: self.peer.name().to_owned(),
            reason: match failure {
                Failure::Deadline => "no time left".to_owned(),
                Failure::Unreachable(reason) => reason.clone(),
                Failure::Refused => "it refuses the change".to_owned(),
                Failure::Unsupported => {
                    "unsupported: golang/groupcache can neither remove nor set".to_owned()
                }
            },
            unsupported: matches!(failure, Failure::Unsupported),
        }
    }

    /// What is known of it, with its share of the ring.
    pub(crate) fn stats(&self, ring_share: f64, journal: &Journal) -> PeerStats {
        PeerStats {
            id: self.peer.name().to_owned(),
            address: self.peer.address(),
            is_this_node: false,
            has_left: self.has_left(),
            ring_share,
            circuit: if self.circuit.is_open() {
                CircuitState::Open
            } else {
                CircuitState::Closed
            },
            dialect: self.speaks(),
            calls: self.calls.get(),
            call_errors: self.errors.get(),
            abandoned_calls: self.abandoned.get(),
            retries: self.link.retries(),
            circuit_openings: self.circuit.openings(),
            owed: match self.speaks() {
                Some(Dialect::Golang) => 0, // it is told if it turns out to speak another one
                _ => (journal.count(&self.lacks) + journal.count(&self.echoes)) as u64,
            },
            latency: self.latency.snapshot(),
        }
    }
}
