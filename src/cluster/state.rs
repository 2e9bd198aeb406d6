//! `Cluster`: what the groups of a node share. Ring, peers, transport, clock, loader pool.

use std::time::Duration;

use crate::auth::gate::Gate;
use crate::auth::guard::Guard;
use crate::cluster::group_values::AllValues;
use crate::cluster::journal::Journal;
use crate::cluster::left_peers::LeftPeers;
use crate::cluster::members::Members;
use crate::flight::wait_graph::WaitGraph;
use crate::protocol::dialect::Dialect;
use crate::runtime::clock::Clock;
use crate::runtime::fanout::Fanout;
use crate::runtime::log_throttle::LogThrottle;
use crate::runtime::maintenance::Maintenance;
use crate::runtime::pool::Pool;
use crate::runtime::rate_limit::RateLimit;
use crate::runtime::sync::{Arc, AtomicBool, Mutex, Ordering, RwLock};
use crate::stats::Counter;
use crate::transport::peer::{Limits, Peer, Transport};

/// The settings of a node that its groups need.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) fetch_timeout: Duration,
    pub(crate) load_timeout: Duration,
    pub(crate) fallback_life: Duration,
    pub(crate) deputy_life: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) circuit_failures: usize,
    pub(crate) max_value: usize,
    pub(crate) allow_absent: bool,
    pub(crate) dialect: Dialect,
}

/// What the groups of a node share. Holds no group, so there is no cycle.
pub(crate) struct Cluster {
    this: Peer,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) pool: Pool,
    pub(crate) fanout: Fanout,
    pub(crate) wait_graph: Arc<WaitGraph>,
    /// Names the addressee of each request, and checks whether this node is the addressee.
    pub(crate) gate: Gate,
    /// Signs and checks requests, if the peers share a secret.
    pub(crate) guard: Option<Guard>,
    pub(super) transport: Arc<dyn Transport>,
    /// Replaced as a whole.
    pub(super) members: RwLock<Arc<Members>>,
    /// Held while the list is replaced and the pending removals of peers that join and leave are
    /// updated, so that this is done in one order. The only lock under which others are taken; no user
    /// code runs under it.
    pub(super) list_change: Mutex<()>,
    /// Whether this node has announced that it leaves.
    pub(super) is_leaving: AtomicBool,
    /// The removals of the last minutes.
    pub(crate) journal: Journal,
    /// Peers that have left the list and still receive removals.
    pub(super) left_peers: LeftPeers,
    /// Probes peers, and delivers pending removals to them.
    pub(super) maintenance: Maintenance,
    /// Drops expired values. It has a thread of its own, as the listeners that hear of each value are
    /// user code: a slow one must not delay the probes of peers.
    pub(super) sweeper: Maintenance,
    /// Offers values to deputies. It has a thread of its own, as it waits for peers and runs codecs.
    pub(super) offers: Maintenance,
    /// The values of the groups.
    pub(super) values: AllValues,
    /// Limits how often the ring is rebuilt because peers leave and come back, as others say.
    pub(super) ring_rebuilds: RateLimit,
    pub(super) ring_mismatches: Counter,
    pub(crate) discovery_polls: Counter,
    pub(crate) discovery_errors: Counter,
    pub(super) mismatch_reports: LogThrottle,
    pub(super) refusal_reports: LogThrottle,
}

impl Cluster {
    /// A cluster of this node alone.
    pub(crate) fn new(
        this: Peer,
        settings: Settings,
        clock: Clock,
        pool: Pool,
        gate: Gate,
        guard: Option<Guard>,
        transport: Arc<dyn Transport>,
    ) -> Arc<Cluster> {
        let alone = Members::alone(this.clone(), settings.dialect);
        let journal = Journal::new(this.name(), clock.now());
        Arc::new(Cluster {
            this,
            settings,
            clock,
            pool,
            fanout: Fanout::default(),
            wait_graph: WaitGraph::of_process(),
            gate,
            guard,
            transport,
            members: RwLock::new(Arc::new(alone)),
            list_change: Mutex::new(()),
            is_leaving: AtomicBool::new(false),
            journal,
            left_peers: LeftPeers::default(),
            maintenance: Maintenance::new("groupcache-prober"),
            sweeper: Maintenance::new("groupcache-keeper"),
            offers: Maintenance::regular("groupcache-offers"),
            values: AllValues::default(),
            ring_rebuilds: RateLimit::default(),
            ring_mismatches: Counter::default(),
            discovery_polls: Counter::default(),
            discovery_errors: Counter::default(),
            mismatch_reports: LogThrottle::default(),
            refusal_reports: LogThrottle::default(),
        })
    }

    pub(crate) fn this(&self) -> &Peer {
        &self.this
    }

    pub(super) fn is_this(&self, peer: &Peer) -> bool {
        peer.name() == self.this.name()
    }

    pub(crate) fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members.read())
    }

    /// Whether this node has announced that it leaves.
    pub(crate) fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }
}
