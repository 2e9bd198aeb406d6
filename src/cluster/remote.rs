//! `Remote`: a peer other than this node, with its link and what is known of it.

use std::time::Instant;

use crate::cluster::batching::{Batchable, Batcher};
use crate::cluster::circuit::Circuit;
use crate::cluster::journal::{Journal, PendingRemovals};
use crate::cluster::suspicion::Suspicion;
use crate::error::Unreached;
use crate::protocol::Item;
use crate::protocol::dialect::{Dialect, Spoken};
use crate::runtime::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, callers_at_once};
use crate::stats::latency::Histogram;
use crate::stats::{CircuitState, Counter, PeerStats};
use crate::transport::peer::{Link, Peer};

/// Why a call failed, as far as it matters to its caller.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The time of the caller is up. Says nothing about the peer (I6).
    Deadline,
    /// The peer is unreachable: it refused the connection or violated the protocol, or its circuit is open.
    /// With the reason.
    Unreachable(String),
    /// The peer has not answered within the limits of a call. With the reason.
    Silent(String),
    /// The peer speaks a dialect that has no such request.
    Unsupported,
    /// The peer answers and refuses the request: it would refuse it the next time too.
    Refused,
}

/// A peer other than this node.
pub(crate) struct Remote {
    pub(crate) peer: Peer,
    pub(crate) link: Arc<dyn Link>,
    /// The end of the header of each request to this peer: which cluster and peer it is meant for.
    pub(crate) addressee: String,
    /// Callers that ask this peer for values.
    pub(crate) batcher: Arc<Batcher<OwnedQuery, QueryResult>>,
    pub(crate) circuit: Circuit,
    pub(crate) spoken: Spoken,
    /// The removals that this peer has not received.
    pub(crate) pending_removals: PendingRemovals,
    /// The removals that another peer has received late: this peer may have fetched an old value from
    /// there after it had received the removal itself. They concern its copies only.
    pub(crate) pending_copy_removals: PendingRemovals,
    /// When these removals are delivered; `None`: now.
    pub(crate) next_delivery: Mutex<Option<Instant>>,
    pub(crate) calls: Counter,
    pub(crate) errors: Counter,
    /// Calls that were not answered in the time of their callers.
    pub(crate) abandoned: Counter,
    /// The latency of the calls that were answered.
    pub(crate) latency: Histogram,
    knows_batches: AtomicBool,
    /// Whether the answers of this peer name the request that they belong to.
    names_requests: AtomicBool,
    /// The boot id of its process, as the peer has named it last; 0: not known. Changes are signed for
    /// that process.
    boot: AtomicU64,
    pub(crate) suspicion: Suspicion,
    /// Whether the peer has announced that it leaves, and not come back since.
    has_left: AtomicBool,
    tombstone_sync: Mutex<TombstoneSync>,
}

/// Whether this node has the tombstones of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TombstoneSync {
    /// The peer was not asked yet, or has not answered.
    NotDone,
    Done,
    /// The peer cannot give them: its version is too old, say.
    Unsupported,
}

/// The answer of a peer for one of several keys.
pub(crate) type QueryResult = Result<Item, Failure>;

/// A query for a key that can wait in the queue of a [`Batcher`].
pub(crate) struct OwnedQuery {
    pub(crate) group: Arc<str>,
    pub(crate) key: String,
    /// Hits of a mirrored copy that the owner has not heard of.
    pub(crate) hits: u32,
}

/// A query for a key, perhaps one of several.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    pub(crate) group: &'a str,
    pub(crate) key: &'a str,
    pub(crate) hits: u32,
}

impl OwnedQuery {
    pub(crate) fn query(&self) -> Query<'_> {
        Query {
            group: &self.group,
            key: &self.key,
            hits: self.hits,
        }
    }
}

impl Batchable for OwnedQuery {
    fn fits_with(&self, other: &OwnedQuery) -> bool {
        self.group == other.group
    }
}

impl Remote {
    /// The peer behind `link`, whose circuit opens after this number of failures, in a cluster of this
    /// dialect.
    pub(crate) fn new(
        peer: &Peer,
        link: Arc<dyn Link>,
        addressee: String,
        failures: usize,
        dialect: Dialect,
    ) -> Remote {
        Remote {
            peer: peer.clone(),
            link,
            addressee,
            batcher: Batcher::new(callers_at_once()),
            circuit: Circuit::new(failures),
            // A native cluster has no peers of another dialect.
            spoken: Spoken::new(match dialect {
                Dialect::Native => Some(Dialect::Native),
                Dialect::Golang => None,
            }),
            pending_removals: PendingRemovals::default(),
            pending_copy_removals: PendingRemovals::default(),
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
            tombstone_sync: Mutex::new(TombstoneSync::NotDone),
        }
    }

    /// Whether the peer can be asked for many keys at once, as far as is known.
    pub(crate) fn takes_batches(&self) -> bool {
        self.speaks() == Some(Dialect::Native) && self.knows_batches.load(Ordering::Relaxed)
    }

    pub(crate) fn set_no_batches(&self) {
        self.knows_batches.store(false, Ordering::Relaxed);
    }

    /// Whether an answer that names no request cannot come from this peer.
    pub(crate) fn names_requests(&self) -> bool {
        self.names_requests.load(Ordering::Relaxed)
    }

    pub(crate) fn set_names_requests(&self) {
        // Written seldom, so that it stays in the caches of all processors that read it.
        if !self.names_requests() {
            self.names_requests.store(true, Ordering::Relaxed);
        }
    }

    /// The boot id of the process that changes are signed for; 0: not known.
    pub(crate) fn boot(&self) -> u64 {
        self.boot.load(Ordering::Relaxed)
    }

    pub(crate) fn set_boot(&self, boot: u64) {
        // Written seldom, so that it stays in the caches of all processors that read it.
        if self.boot() != boot {
            self.boot.store(boot, Ordering::Relaxed);
        }
    }

    /// The first sequence number of the journal that is pending for this peer; `None` if nothing is, or
    /// the peer cannot receive removals at all.
    pub(crate) fn first_pending(&self) -> Option<u64> {
        let pending = [&self.pending_removals, &self.pending_copy_removals];
        let first = pending.into_iter().filter_map(PendingRemovals::first).min();
        first.filter(|_| self.speaks() != Some(Dialect::Golang))
    }

    /// The dialect that the peer speaks, as its last answer showed; `None` if there was none yet.
    pub(crate) fn speaks(&self) -> Option<Dialect> {
        self.spoken.get()
    }

    pub(crate) fn tombstone_sync(&self) -> TombstoneSync {
        *self.tombstone_sync.lock()
    }

    pub(crate) fn set_tombstone_sync(&self, sync: TombstoneSync) {
        *self.tombstone_sync.lock() = sync;
    }

    /// Forgets what may have changed while the peer was unreachable: it answers again.
    pub(crate) fn reset_after_recovery(&self) {
        // It may be another process, of a newer or an older version.
        self.set_tombstone_sync(TombstoneSync::NotDone);
        self.knows_batches.store(true, Ordering::Relaxed);
        self.names_requests.store(false, Ordering::Relaxed);
        log::info!(target: "groupcache", peer:% = self.peer; "the peer is back");
    }

    /// Whether the peer is in the list and not on the ring.
    pub(crate) fn has_left(&self) -> bool {
        self.has_left.load(Ordering::Acquire)
    }

    /// Sets whether the peer has left; returns whether that has changed.
    pub(crate) fn set_left(&self, has_left: bool) -> bool {
        let has_changed = self.has_left.swap(has_left, Ordering::AcqRel) != has_left;
        if has_changed && has_left {
            log::info!(target: "groupcache", peer:% = self.peer; "the peer leaves the ring");
        }
        if has_changed && !has_left {
            log::info!(target: "groupcache", peer:% = self.peer; "the peer comes back to the ring");
        }
        has_changed
    }

    pub(crate) fn unreached(&self, failure: &Failure) -> Unreached {
        Unreached {
            peer: self.peer.name().to_owned(),
            reason: match failure {
                Failure::Deadline => "no time left".to_owned(),
                Failure::Unreachable(reason) | Failure::Silent(reason) => reason.clone(),
                Failure::Refused => "it refuses the change".to_owned(),
                Failure::Unsupported => {
                    "unsupported: golang/groupcache can neither remove nor set".to_owned()
                }
            },
            unsupported: matches!(failure, Failure::Unsupported),
        }
    }

    /// The statistics of this peer, which has this share of the ring.
    #[allow(deprecated, reason = "the field has two names for now")]
    pub(crate) fn stats(&self, ring_share: f64, journal: &Journal) -> PeerStats {
        let pending_removals = match self.speaks() {
            // Delivered if the peer turns out to speak the native dialect.
            Some(Dialect::Golang) => 0,
            _ => {
                let copies = journal.count(&self.pending_copy_removals);
                (journal.count(&self.pending_removals) + copies) as u64
            }
        };
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
            pending_removals,
            owed: pending_removals,
            latency: self.latency.snapshot(),
        }
    }
}
