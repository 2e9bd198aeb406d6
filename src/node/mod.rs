//! `node`: this process in the cluster. Its groups by name, its peers, and the peer endpoint without a
//! socket.
//!
//! Imports everything below but the listeners. Here is `Node`; `builder` makes one, `answer` answers the
//! requests of peers.

mod answer;
mod builder;

pub use answer::Begin;
pub use builder::NodeBuilder;

use std::fmt;
use std::time::Duration;

use crate::auth::guard::Guard;
use crate::cache::key::MAX_KEY_BYTES;
use crate::cluster::members::Owner;
use crate::cluster::state::Cluster;
use crate::error::Error;
use crate::group::{GroupBuilder, Registry};
#[cfg(feature = "metrics")]
use crate::observe::metrics::Metrics;
use crate::observe::status::Page;
use crate::observe::{Counted, prometheus};
use crate::protocol::account::Account;
use crate::protocol::dialect::Dialect;
use crate::protocol::{Response, Status};
use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::sync::{Arc, Weak};
use crate::stats::latency::Latencies;
use crate::stats::{GroupStats, NodeStats};
use crate::transport::peer::Peer;
use crate::transport::tls::Tls;

/// This process in the cluster: it holds groups and knows the peers.
///
/// There are no globals: a process may have several nodes. A clone is another handle to the same
/// node. The node owns its groups until [`remove_group`](Node::remove_group) or until its last
/// handle goes; a server holds the node it serves. When the last handle goes, every thread stops.
///
/// A node does nothing in the background until it must: it starts loader threads for gets with a
/// deadline and for peers, one maintenance thread when a peer is unreachable or lacks a removal, one sweeper
/// thread for values that expire, one thread that offers values to [deputies](crate::GroupBuilder::deputy_bytes)
/// when there are peers, and one that closes connections to peers which were idle for
/// 30 seconds.
///
/// ```no_run
/// use groupcache_sync::{Group, LoadError, Node, Server, Value};
///
/// let node = Node::new("http://10.0.0.5:7000")?;
/// let pages: Group = node.group_builder("pages", 64 << 20).build(|key| {
///     // A key may come from anybody who reaches the port.
///     let number: u64 = key.parse().map_err(|_| LoadError::NotFound)?;
///     Ok(Value::from(format!("page {number}")))
/// })?;
/// let server = Server::bind(&node, "0.0.0.0:7000")?;
/// node.set_peers(["http://10.0.0.5:7000", "http://10.0.0.6:7000"])?;
/// let page = pages.get("42")?;
/// # drop((page, server));
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
#[derive(Clone)]
pub struct Node(Arc<Shared>);

struct Shared {
    cluster: Arc<Cluster>,
    registry: Arc<Registry>,
    tls: Option<Tls>,
    page: Option<Page>,
    /// What pays for those who ask without a server that has an account of its own.
    account: Arc<Account>,
}

/// A handle that does not keep the node alive.
#[derive(Clone)]
pub(crate) struct WeakNode(Weak<Shared>);

impl WeakNode {
    pub(crate) fn upgrade(&self) -> Option<Node> {
        self.0.upgrade().map(Node)
    }
}

impl Node {
    /// The node that peers reach at `address`, such as `http://10.0.0.5:7000`, over HTTP, with all
    /// settings at their default. It is alone until [`set_peers`](Node::set_peers), and peers reach
    /// it once a [`Server`](crate::Server) or a web framework serves it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if the address cannot be used.
    pub fn new(address: &str) -> Result<Node, Error> {
        Node::builder(address)?.build()
    }

    /// The settings of a node that peers reach at `this`: an address or a [`Peer`].
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if the address cannot be used.
    pub fn builder<P: TryInto<Peer>>(this: P) -> Result<NodeBuilder, Error>
    where
        Error: From<P::Error>,
    {
        Ok(NodeBuilder::new(this.try_into()?))
    }

    /// The settings of a new group of this node, which may hold up to `capacity_bytes` of keys,
    /// values and overhead, mirrored ones included.
    pub fn group_builder(&self, name: &str, capacity_bytes: usize) -> GroupBuilder {
        let (cluster, registry) = (&self.0.cluster, &self.0.registry);
        GroupBuilder::new(
            Arc::clone(cluster),
            Arc::clone(registry),
            name,
            capacity_bytes,
        )
    }

    /// Stops serving a group and forgets it; tells whether there was one. Handles to it still serve
    /// their cache and load.
    pub fn remove_group(&self, name: &str) -> bool {
        self.0.registry.remove(name).is_some()
    }

    /// Replaces the list of all peers, this node included. Takes effect at once, also under load; a
    /// peer that stays keeps its connections. All nodes should have the same list: where they do
    /// not, values are still right, but may be loaded more than once.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if an address cannot be used, a peer stands in the list twice, or one
    /// is reached through TLS and the node has no certificate, [`Error::SelfMissing`] if the list lacks this node. Nothing has changed then.
    pub fn set_peers<P: TryInto<Peer>>(
        &self,
        peers: impl IntoIterator<Item = P>,
    ) -> Result<(), Error>
    where
        Error: From<P::Error>,
    {
        let peers = peers.into_iter().map(|peer| Ok(peer.try_into()?));
        let peers: Vec<Peer> = peers.collect::<Result<_, Error>>()?;
        let cluster = &self.0.cluster;
        cluster.change_peers(cluster.settings.allow_absent, |_| Ok(peers.clone()))
    }

    /// Adds a peer to the list.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if its address cannot be used, or its id is in the list already with
    /// another address.
    pub fn add_peer<P: TryInto<Peer>>(&self, peer: P) -> Result<(), Error>
    where
        Error: From<P::Error>,
    {
        let peer = peer.try_into()?;
        let cluster = &self.0.cluster;
        cluster.change_peers(cluster.settings.allow_absent, |peers| {
            Ok(peers.iter().chain([&peer]).cloned().collect())
        })
    }

    /// Replaces the list by one that was discovered, which may lack this node, if it is another one.
    pub(crate) fn follow(&self, peers: Vec<Peer>) -> Result<(), Error> {
        let cluster = &self.0.cluster;
        if cluster.members().has_same_peers(&peers) {
            return Ok(());
        }
        cluster.change_peers(true, |_| Ok(peers.clone()))
    }

    /// Counts a question to the source of the list, once what it said has been done.
    pub(crate) fn note_discovery(&self, is_ok: bool) {
        let cluster = &self.0.cluster;
        if !is_ok {
            cluster.discovery_errors.add();
        }
        cluster.discovery_polls.add();
    }

    /// Removes a peer from the list, by its address or as a [`Peer`] by its id; tells whether it
    /// was there.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if the address cannot be used, [`Error::SelfMissing`] if it is this
    /// node.
    pub fn remove_peer<P: TryInto<Peer>>(&self, peer: P) -> Result<bool, Error>
    where
        Error: From<P::Error>,
    {
        let peer = peer.try_into()?;
        let cluster = &self.0.cluster;
        let before = cluster.members().listed().len();
        cluster.change_peers(cluster.settings.allow_absent, |peers| {
            let others = peers.iter().filter(|other| other.name() != peer.name());
            Ok(others.cloned().collect())
        })?;
        Ok(cluster.members().listed().len() < before)
    }

    /// Takes this node off the ring, and hands over what it has: for a process that is about to end.
    /// Blocks until that is done, at most about `timeout`.
    ///
    /// The peers are told, and from then on route to the other owners of its keys. These take over
    /// what this node has in memory, the keys most asked for first (100,000 in each group at most).
    /// Another node takes over to tell what some peers have not been told of removals yet. Then what is
    /// being loaded for peers is waited for. Where more than four nodes leave or come back at once, the
    /// peers route away from the others of them within half a second only, and take nothing over from
    /// those until then. The node stays in their lists, so that it is told of removals as before, answers them, and gets of its own still work; it is not put back
    /// on the ring until another process answers at its address. `GET /_groupcache/` answers 503 from
    /// now on, which may serve as a check of readiness. Afterwards, stop its server.
    ///
    /// Calling it again hands over what is left.
    ///
    /// # Errors
    ///
    /// [`Error::Unreached`] names the peers that could not be told. They will find out when they ask
    /// this node next and it does not answer. It also names those that lack removals which no other
    /// node takes over to tell them: they may serve old values until these expire. Go peers are [`unsupported`](crate::Unreached::unsupported).
    pub fn leave(&self, timeout: Duration) -> Result<(), Error> {
        let cluster = &self.0.cluster;
        let deadline = Deadline::after(cluster.clock.now(), timeout);
        let mut unreached = cluster.leave(deadline);
        // First, as what is lost of it is served as an old value, and of the values only a load.
        for missed in cluster.hand_over_removals(deadline) {
            if unreached.iter().all(|other| other.peer != missed.peer) {
                unreached.push(missed);
            }
        }
        for (_, group) in self.0.registry.all() {
            group.hand_over(deadline);
        }
        cluster.pool.wait_until_idle(&cluster.clock, deadline);
        Error::unless_all_reached(unreached)
    }

    /// This node as its peers know it.
    #[must_use]
    pub fn this(&self) -> &Peer {
        self.0.cluster.this()
    }

    /// The peer that owns `key`, as this node sees it.
    #[must_use]
    pub fn owner(&self, key: &str) -> Peer {
        match self.0.cluster.members().owner(key) {
            Owner::This => self.this().clone(),
            Owner::Peer(remote) => remote.peer.clone(),
        }
    }

    /// The peer that loads `key` while its [owner](Node::owner) is unreachable, as this node sees it; `None` if
    /// this node is alone.
    #[must_use]
    pub fn deputy(&self, key: &str) -> Option<Peer> {
        match self.0.cluster.members().owner_and_deputy(key).1? {
            Owner::This => Some(self.this().clone()),
            Owner::Peer(remote) => Some(remote.peer.clone()),
        }
    }

    /// What this node knows of itself and its peers.
    #[must_use]
    pub fn stats(&self) -> NodeStats {
        self.0.stats()
    }

    /// What happened in each group of this node, by name.
    #[must_use]
    pub fn group_stats(&self) -> Vec<(String, GroupStats)> {
        self.0.group_stats()
    }

    /// How long gets took that were not answered from memory, and loads, in each group of this node,
    /// by name.
    #[must_use]
    pub fn group_latencies(&self) -> Vec<(String, Latencies)> {
        self.0.group_latencies()
    }

    /// What this node, its groups and its peers have counted, in the text format of Prometheus (version
    /// 0.0.4, `text/plain; version=0.0.4`): the metrics that
    /// [OPERATIONS.md](https://docs.rs/crate/groupcache-sync/latest/source/docs/OPERATIONS.md) explains.
    ///
    /// For an application that has a `/metrics` of its own; a node with a [`StatusPage`](crate::StatusPage) also serves it at
    /// `/_groupcache-metrics`. It needs no feature and no further crate. Does not block on the network or a
    /// load.
    ///
    /// ```
    /// use groupcache_sync::Node;
    ///
    /// let node = Node::new("http://127.0.0.1:7000")?;
    /// assert!(node.prometheus().contains("groupcache_peers 1"));
    /// # Ok::<(), groupcache_sync::Error>(())
    /// ```
    #[must_use]
    pub fn prometheus(&self) -> String {
        prometheus::text_of(&*self.0)
    }

    /// Whether this node has begun to [`leave`](Node::leave) the ring.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.0.cluster.is_leaving()
    }

    fn guard(&self) -> Option<&Guard> {
        self.0.cluster.guard.as_ref()
    }

    /// Whether requests can prove that they come from a peer.
    pub(crate) fn has_guard(&self) -> bool {
        self.guard().is_some()
    }

    /// Whether every request has to prove that it comes from a peer.
    pub(crate) fn is_guarded(&self) -> bool {
        self.guard().is_some_and(Guard::is_strict)
    }

    fn dialect(&self) -> Dialect {
        self.0.cluster.settings.dialect
    }

    fn respond_wrong_method(&self, allow: &'static str) -> Response {
        Response::wrong_method(self.0.cluster.members().fingerprint(), allow)
    }

    pub(crate) fn respond(&self, status: Status, text: &str) -> Response {
        Response::text(status, self.0.cluster.members().fingerprint(), text)
    }

    /// What it has counted, for those who publish it.
    #[cfg(feature = "metrics")]
    pub(crate) fn counted(&self) -> Arc<dyn Counted> {
        Arc::clone(&self.0) as Arc<dyn Counted>
    }

    pub(crate) fn downgrade(&self) -> WeakNode {
        WeakNode(Arc::downgrade(&self.0))
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.cluster.clock
    }

    /// What a server of this node speaks, if its address says that it is TLS.
    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.0.tls.as_ref()
    }

    /// The longest body of a request that makes sense, in bytes: a `PUT` also names its key.
    pub(crate) fn max_body(&self) -> usize {
        let of_answers = self.0.cluster.settings.limits.max_body;
        of_answers.saturating_add(MAX_KEY_BYTES)
    }
}

impl Counted for Shared {
    fn stats(&self) -> NodeStats {
        self.cluster.stats()
    }

    fn group_stats(&self) -> Vec<(String, GroupStats)> {
        let groups = self.registry.all().into_iter();
        groups.map(|(name, group)| (name, group.stats())).collect()
    }

    fn group_latencies(&self) -> Vec<(String, Latencies)> {
        let groups = self.registry.all().into_iter();
        groups
            .map(|(name, group)| (name, group.latencies()))
            .collect()
    }
}

#[cfg(feature = "metrics")]
impl Metrics {
    /// What publishes the metrics of `node`, and keeps it alive. Describes them to the recorder.
    #[must_use]
    pub fn new(node: &Node) -> Metrics {
        Metrics::of(node.counted())
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("this", self.this())
            .finish_non_exhaustive()
    }
}
