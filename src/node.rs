//! `Node`: this process in the cluster. Its groups by name, its peers, and the peer endpoint
//! without a socket: `begin` and `answer`.

use std::fmt;
use std::time::Duration;

use crate::auth::gate::Gate;
#[cfg(feature = "auth")]
use crate::auth::guard::Rules;
use crate::auth::guard::{Body, Guard};
#[cfg(feature = "auth")]
use crate::auth::keyring::Keyring;
use crate::cache::key::MAX_KEY_BYTES;
use crate::cluster::change::Reach;
use crate::cluster::hub::{Cluster, Settings, check_peer};
use crate::cluster::members::Owner;
use crate::error::Error;
use crate::group::{Begun, GroupBuilder, Pending, Registry, Serve};
use crate::observe::Counted;
#[cfg(feature = "metrics")]
use crate::observe::metrics::Metrics;
use crate::observe::status::{Page, StatusPage, is_status};
use crate::protocol::account::{Account, MAX_CHARGED, Requester};
use crate::protocol::dialect::Dialect;
use crate::protocol::{
    BadTarget, GroupCommand, MAX_COMMAND, Named, NodeCommand, Removal, Request, Response, Status,
    Target, Terms, Whom, is_ours, parse_target,
};
use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::pool::Pool;
use crate::runtime::sync::{Arc, Weak};
use crate::runtime::user_code;
use crate::stats::latency::Latencies;
use crate::stats::{GroupStats, NodeStats};
use crate::transport::client::Http;
use crate::transport::peer::{Limits, Peer, Transport};
use crate::transport::tls::Tls;

/// Bytes of a message besides its value and its key.
const MESSAGE_OVERHEAD: usize = 1 << 10;

/// This process in the cluster: it holds groups and knows the peers.
///
/// There are no globals: a process may have several nodes. A clone is another handle to the same
/// node. The node owns its groups until [`remove_group`](Node::remove_group) or until its last
/// handle goes; a server holds the node it serves. When the last handle goes, every thread stops.
///
/// A node does nothing in the background until it must: it starts loader threads for gets with a
/// deadline and for peers, one maintenance thread when a peer is unreachable or lacks a removal, one sweeper
/// thread for values that expire, and one thread that closes connections to peers which were idle for
/// 30 seconds.
///
/// ```no_run
/// use groupcache_sync::{Group, Node, Server, Value};
///
/// let node = Node::new("http://10.0.0.5:7000")?;
/// let pages: Group = node.group_builder("pages", 64 << 20).build(|key| {
///     let number: u64 = key.parse()?; // a key may come from anybody who reaches the port
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
        Ok(NodeBuilder {
            this: this.try_into()?,
            connect_timeout: Duration::from_millis(250),
            fetch_timeout: Duration::from_secs(1),
            load_timeout: Duration::from_secs(10),
            fallback_life: Duration::from_secs(2),
            warm_up: Duration::from_secs(30),
            circuit_failures: 3,
            loader_threads: 16,
            max_value: 16 << 20,
            allow_absent: false,
            dialect: Dialect::Native,
            clock: Clock::system(),
            #[cfg(feature = "auth")]
            keyring: None,
            #[cfg(feature = "auth")]
            rules: Rules::default(),
            transport: None,
            tls: None,
            status_page: None,
            cluster: None,
            hosts: Vec::new(),
        })
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
        if cluster.members().are(&peers) {
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
        for missed in cluster.hand_journal_over(deadline) {
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

    /// Whether a request with this target is for the node: one of the peer protocol, or for the
    /// [`StatusPage`], if there is one. All others are the application's.
    #[must_use]
    pub fn serves(&self, target: &str) -> bool {
        is_ours(target) || self.0.page.is_some() && is_status(target)
    }

    /// Begins to answer a request of a peer. Never blocks on a load: where one is needed, that is
    /// left to the loader threads, and the answer is pending.
    ///
    /// For engines that must not hold a thread meanwhile; all others use [`answer`](Node::answer). What
    /// is kept for all requests that wait, and for answers to several keys until they are dropped, is
    /// bounded by 256 MiB: beyond it keys are overloaded, or left to be asked for again.
    #[must_use]
    pub fn begin(&self, request: &Request<'_>) -> Begin {
        self.begin_for(request, &mut Requester::new(&self.0.account, None))
    }

    /// The same for this requester, who pays for what the answer takes, and who is noted to have proved
    /// who it is if the request does.
    pub(crate) fn begin_for(&self, request: &Request<'_>, requester: &mut Requester) -> Begin {
        let _hold = user_code::hold(); // what listens is told once it is known what to answer
        let boot = match self.admit(request, Body::Here(request.body)) {
            Ok(boot) => boot,
            Err(refusal) => return Begin::Ready(refusal),
        };
        if boot.is_some() {
            requester.prove();
        }
        let named = Named {
            // A Go peer would make nothing of it.
            request: request.terms.native.then(|| request.hash()),
            boot,
        };
        match self.begin_admitted(request, requester) {
            Begin::Ready(response) => Begin::Ready(response.naming(named)),
            Begin::Pending(pending) => Begin::Pending(pending.naming(named)),
        }
    }

    /// What a request whose body is still to come, of so many bytes, is refused with already: nothing
    /// is read or kept for one who would be refused in the end. If its head proves who asks, that is
    /// noted.
    pub(crate) fn refuse_head(
        &self,
        request: &Request<'_>,
        body_len: u64,
        requester: &mut Requester,
    ) -> Option<Response> {
        match self.admit(request, Body::Announced(body_len)) {
            Ok(Some(_)) => requester.prove(),
            Ok(None) => {}
            Err(refusal) => return Some(refusal),
        }
        None
    }

    /// Whether a request may be answered at all, which its head tells. Gives the boot id that the
    /// answer is to name, if the request proves that it comes from a peer.
    fn admit(&self, request: &Request<'_>, body: Body<'_>) -> Result<Option<u64>, Response> {
        let Cluster { gate, clock, .. } = &*self.0.cluster;
        if self.serves(request.target) {
            gate.check_sender(request, clock)?;
        }
        // No browser signs what it asks for, and for that it has nothing to send.
        if self.0.page.is_some() && is_status(request.target) {
            let is_bare = matches!(request.method, "GET" | "HEAD") && matches!(body, Body::Here(_));
            let refusal = || self.respond_wrong_method("GET");
            return is_bare.then_some(None).ok_or_else(refusal);
        }
        // First who asks: strangers are told nothing of the cluster.
        let boot = match self.guard() {
            Some(guard) => guard.check(request, body)?,
            None => None,
        };
        // A Go peer cannot say whom it means.
        let is_native = self.dialect().spoken(request.terms.native) == Dialect::Native;
        if is_native && is_ours(request.target) {
            gate.check_addressee(request, clock)?;
        }
        Ok(boot)
    }

    fn begin_admitted(&self, request: &Request<'_>, requester: &mut Requester) -> Begin {
        if let Some(page) = &self.0.page {
            let shown = page.answer(request, &self.0.cluster, &self.0.registry);
            if let Some(response) = shown {
                return Begin::Ready(response);
            }
        }
        let spoken = self.dialect().spoken(request.terms.native);
        match self.find(request, spoken, requester) {
            Err(response) => Begin::Ready(response),
            Ok((group, None)) => match request.method {
                "POST" => group
                    .begin_command(request.body, &request.terms, requester)
                    .into(),
                _ => Begin::Ready(self.respond_wrong_method("POST")),
            },
            // Go runs every method as a GET and answers 200. Who wanted to remove something would
            // take that for done, so here such a request is refused.
            Ok(_) if spoken == Dialect::Golang && request.method != "GET" => {
                Begin::Ready(self.respond_wrong_method("GET"))
            }
            Ok((group, Some(key))) => match request.method {
                "GET" => group.begin_get(&key, &request.terms, requester).into(),
                "PUT" => {
                    Begin::Ready(group.answer_put(&key, request.body, &request.terms, requester))
                }
                "DELETE" => Begin::Ready(group.answer_delete(&key, &request.terms)),
                _ => Begin::Ready(self.respond_wrong_method("GET, PUT, DELETE")),
            },
        }
    }

    /// Answers a request of a peer: blocks until the value is here, or until it is time to say that
    /// it is still loading.
    #[must_use]
    pub fn answer(&self, request: &Request<'_>) -> Response {
        match self.begin(request) {
            Begin::Ready(response) => response,
            Begin::Pending(pending) => pending.wait(),
        }
    }

    /// The group and the key that a request is about, or the answer that there are none.
    fn find<'a>(
        &self,
        request: &Request<'a>,
        spoken: Dialect,
        requester: &Requester,
    ) -> Result<Found<'a>, Response> {
        let (group, key) = match parse_target(request.target, spoken) {
            Ok(Target::Key(group, key)) => (group, Some(key)),
            Ok(Target::Group(_)) if spoken == Dialect::Golang => {
                return Err(self.respond(Status::BadRequest, "bad request"));
            }
            Ok(Target::Group(group)) => (group, None),
            Ok(Target::Node) => return Err(self.answer_node(request, requester)),
            Err(BadTarget::Elsewhere) => {
                return Err(self.respond(Status::Elsewhere, "not a path of the peer protocol"));
            }
            Err(BadTarget::TooLong) => {
                return Err(self.respond(Status::KeyTooLong, "the key is too long"));
            }
            Err(BadTarget::Malformed(reason)) => {
                return Err(self.respond(Status::BadRequest, reason));
            }
        };
        match self.0.registry.find(&group) {
            Some(found) => Ok((found, key)),
            None => {
                if spoken == Dialect::Native && !request.terms.copies {
                    self.note_removed(&group, key.as_deref(), request);
                }
                let text = format!("no such group: {group}");
                Err(self.respond(Status::NoSuchGroup, &text))
            }
        }
    }

    /// Notes what is removed from a group that is not here: it may be made before it takes over what
    /// a former owner has still to remove.
    fn note_removed(&self, group: &str, key: Option<&str>, request: &Request<'_>) {
        let cluster = &self.0.cluster;
        let told = cluster.told(&request.terms);
        let note = |key| {
            let now = cluster.clock.now();
            let _ = cluster.journal.note(group, key, told, now); // there is nothing to carry out
        };
        match (request.method, key) {
            ("PUT" | "DELETE", Some(key)) => note(Some(key)),
            ("POST", None) => match GroupCommand::decode(request.body) {
                Ok(GroupCommand::Remove(keys)) => keys.iter().for_each(|key| note(Some(key))),
                Ok(GroupCommand::Clear) => note(None),
                _ => {}
            },
            _ => {}
        }
    }

    /// What is asked of the node itself: whether it is there, or a node command.
    fn answer_node(&self, request: &Request<'_>, requester: &Requester) -> Response {
        match request.method {
            "POST" => self.read_node_command(request, requester),
            "GET" if self.0.cluster.is_leaving() => {
                self.respond(Status::Leaving, "this node leaves the ring")
            }
            "GET" => self.respond(Status::Ok, "alive"),
            _ => self.respond_wrong_method("GET, POST"),
        }
    }

    fn read_node_command(&self, request: &Request<'_>, requester: &Requester) -> Response {
        // Names and keys are copied out of the body.
        let Some(_copying) = requester.charge_copy(request.body.len()) else {
            return self.respond(Status::Overloaded, "too much is under way: ask again later");
        };
        match NodeCommand::decode(request.body) {
            Ok(command) => self.run(command, &request.terms),
            Err(error) => self.respond(error.status(), error.0),
        }
    }

    fn run(&self, command: NodeCommand, terms: &Terms) -> Response {
        let cluster = &self.0.cluster;
        match command {
            NodeCommand::Departure(id) => cluster.departed(&id),
            NodeCommand::Clear if terms.copies => cluster.clear_all(Reach::Copies),
            NodeCommand::Clear => {
                cluster.journal.note_all(terms.stamp, cluster.clock.now());
                cluster.clear_all(Reach::All);
            }
            NodeCommand::Deliver { to, removals } => {
                if !cluster.take_journal_over(&to, &removals) {
                    return self.respond(Status::BadRequest, "this node knows no such peer");
                }
                if matches!(to, Whom::One(_)) {
                    self.forget_copies(&removals);
                }
                // Asked last: it may have handed over already what it had to tell.
                if cluster.is_leaving() {
                    return self.respond(Status::Leaving, "this node leaves the ring");
                }
            }
            NodeCommand::Marks => {
                let ring = cluster.members().fingerprint();
                return Response::bytes(ring, cluster.marks());
            }
        }
        self.respond(Status::Ok, "noted")
    }

    /// Lets copies go of what another node has not been told to remove: they may come from there.
    fn forget_copies(&self, removals: &[Removal]) {
        for removal in removals {
            match &removal.group {
                None => self.0.cluster.clear_all(Reach::Copies),
                Some(group) => {
                    let found = self.0.registry.find(group);
                    found.inspect(|group| group.forget_copies(removal.key.as_deref()));
                }
            }
        }
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

type Found<'a> = (Arc<dyn Serve>, Option<std::borrow::Cow<'a, str>>);

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

/// What becomes of a request at once.
#[derive(Debug)]
pub enum Begin {
    /// The answer.
    Ready(Response),
    /// The answer takes a load.
    Pending(Pending),
}

impl From<Begun> for Begin {
    fn from(begun: Begun) -> Begin {
        match begun {
            Begun::Ready(response) => Begin::Ready(response),
            Begun::Pending(pending) => Begin::Pending(pending),
        }
    }
}

/// The settings of a node, all with a default. Made by [`Node::builder`].
#[derive(Clone)]
#[must_use = "a node is built by `build`"]
pub struct NodeBuilder {
    this: Peer,
    connect_timeout: Duration,
    fetch_timeout: Duration,
    load_timeout: Duration,
    fallback_life: Duration,
    warm_up: Duration,
    circuit_failures: usize,
    loader_threads: usize,
    max_value: usize,
    allow_absent: bool,
    dialect: Dialect,
    clock: Clock,
    #[cfg(feature = "auth")]
    keyring: Option<Keyring>,
    #[cfg(feature = "auth")]
    rules: Rules,
    /// `None`: HTTP.
    transport: Option<Arc<dyn Transport>>,
    tls: Option<Tls>,
    status_page: Option<StatusPage>,
    cluster: Option<String>,
    hosts: Vec<String>,
}

impl NodeBuilder {
    /// Sets how long a connection to a peer may take to be made. The handshake of TLS is no part of
    /// it, but of what [`fetch_timeout`](NodeBuilder::fetch_timeout) bounds. Defaults to 250 ms.
    pub fn connect_timeout(mut self, timeout: Duration) -> NodeBuilder {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long a peer may be silent: until its answer begins, and then for each further 64 KiB
    /// of it, and likewise of a large value that is sent to it, of which each MiB makes the wait for
    /// the answer longer by as much. A large value may so take longer on a slow network, up to the
    /// [`load_timeout`](NodeBuilder::load_timeout) and the caller's deadline, and one that comes a
    /// byte now and then is given up. A peer whose load takes longer says so after half of this time,
    /// and is asked again: a *silent* peer counts as away. Defaults to 1 s.
    pub fn fetch_timeout(mut self, timeout: Duration) -> NodeBuilder {
        self.fetch_timeout = timeout;
        self
    }

    /// Sets how long a load may take where nobody can say that it is still under way: for peers
    /// that do not speak this crate's dialect, whichever side asks, and for a get inside a loader,
    /// which could otherwise wait for ever for loads that wait for it. Also, how long all of an answer
    /// of a peer may take that comes steadily, or a large value that is sent to it. No peer is waited
    /// for longer, whatever it asks for, unless half of the [`fetch_timeout`](NodeBuilder::fetch_timeout)
    /// is longer. Defaults to 10 s.
    pub fn load_timeout(mut self, timeout: Duration) -> NodeBuilder {
        self.load_timeout = timeout;
        self
    }

    /// Sets how long a value lives that was loaded here because its owner was unreachable. Defaults to 2 s.
    pub fn fallback_life(mut self, life: Duration) -> NodeBuilder {
        self.fallback_life = life;
        self
    }

    /// Sets for how long after a change of the ring a key that this node owns now is asked for from
    /// the peer that owned it before (from its memory only, within the
    /// [`connect_timeout`](NodeBuilder::connect_timeout)), before it is loaded here: so a node that
    /// comes or goes costs few loads. A key that was removed or set of late is taken over only from
    /// a peer that has carried out the same change. Zero turns it off. Defaults to 30 s.
    pub fn warm_up(mut self, window: Duration) -> NodeBuilder {
        self.warm_up = window;
        self
    }

    /// Sets how many calls to a peer must fail in a row for it to count as away (its *circuit* opens,
    /// as in Nygard's "circuit breaker"): from then on its keys are loaded here at once, and it is
    /// probed about once a second, by a background thread, until it answers: less often, up to every
    /// fourth second, while it answers probes and fails the next call. Refusal, silence and
    /// nonsense are failures; a caller whose own time is over is not. But where that happens twice in a
    /// row, the peer is probed with the whole [`fetch_timeout`](NodeBuilder::fetch_timeout), and counts
    /// as away if it does not answer that either. Defaults to 3.
    pub fn circuit_failures(mut self, failures: usize) -> NodeBuilder {
        self.circuit_failures = failures;
        self
    }

    /// Sets how many threads may run loads for gets with a deadline and for peers. They are started
    /// when needed. One that waits inside its loader, for a get that is loaded or fetched, does not
    /// count: another thread takes its part meanwhile, up to 64 of them. Defaults to 16.
    ///
    /// Loads wait for a thread in turns: each network that peers ask from, and the application itself,
    /// has as many keys loaded as the others, however many it asks for, and a key that several ask for
    /// is loaded at the first of their turns. (Where requests are signed, all who sign nothing have one
    /// turn together. An engine other than [`Server`](crate::Server) does not tell who asks: there all
    /// peers have one turn.) One alone may have 16,384 keys of 16 MiB in all wait, and several as much as
    /// each of them leaves free. Further loads end with [`Error::Overloaded`], and a peer that asked loads
    /// itself.
    pub fn loader_threads(mut self, threads: usize) -> NodeBuilder {
        self.loader_threads = threads;
        self
    }

    /// Sets how large a value may be to be cached and to travel between peers, in bytes. Defaults
    /// to 16 MiB.
    pub fn max_value(mut self, bytes: usize) -> NodeBuilder {
        self.max_value = bytes;
        self
    }

    /// Sets whether the peer list may lack this node. It then owns nothing and asks the owners. As
    /// nobody tells it of removals, it drops what it has in memory, and again when it is back in the
    /// list. Defaults to `false`.
    pub fn allow_absent(mut self, allow: bool) -> NodeBuilder {
        self.allow_absent = allow;
        self
    }

    /// Sets the protocol between peers, the same on all of them. Defaults to [`Dialect::Native`].
    pub fn dialect(mut self, dialect: Dialect) -> NodeBuilder {
        self.dialect = dialect;
        self
    }

    /// Sets where the time comes from. Defaults to the system's monotonic clock.
    pub fn clock(mut self, clock: Clock) -> NodeBuilder {
        self.clock = clock;
        self
    }

    /// Sets the secret that all nodes of the cluster share: requests to peers are signed with it,
    /// and those of others answered 401, before anything else is done about them. Defaults to none:
    /// whoever reaches the port can read, change and remove what is cached.
    ///
    /// Go peers sign nothing, so they are refused.
    #[cfg(feature = "auth")]
    #[cfg_attr(docsrs, doc(cfg(feature = "auth")))]
    pub fn keyring(mut self, keyring: Keyring) -> NodeBuilder {
        self.keyring = Some(keyring);
        self
    }

    /// Sets whether a `GET` takes no signature, as Go peers and plain clients ask for values, and only
    /// the other methods do. Nodes of this crate ask for many keys at once by a `POST`: those without the
    /// secret are refused once, and then ask for one key at a time. Of use with a [`keyring`](NodeBuilder::keyring) only. Defaults to `false`.
    #[cfg(feature = "auth")]
    #[cfg_attr(docsrs, doc(cfg(feature = "auth")))]
    pub fn unsigned_reads(mut self, allow: bool) -> NodeBuilder {
        self.rules.unsigned_reads = allow;
        self
    }

    /// Sets whether requests are also signed in the scheme before (`v=1`), and its signatures taken: on
    /// all new nodes while there is an old one in the cluster, and off again after that. Meanwhile
    /// a stranger is refused only once his whole body is here, and a change that was recorded before a
    /// restart is taken once more after it, within five minutes. Of use with a
    /// [`keyring`](NodeBuilder::keyring) only. Defaults to `false`.
    #[cfg(feature = "auth")]
    #[cfg_attr(docsrs, doc(cfg(feature = "auth")))]
    pub fn legacy_signatures(mut self, allow: bool) -> NodeBuilder {
        self.rules.legacy = allow;
        self
    }

    /// Sets how requests reach peers. Defaults to HTTP.
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> NodeBuilder {
        self.transport = Some(transport);
        self
    }

    /// Sets the certificates for peers whose addresses begin with `https://`, and, if that of this
    /// node does, for its [`Server`](crate::Server). Defaults to none: such addresses are refused.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls(mut self, tls: Tls) -> NodeBuilder {
        self.tls = Some(tls);
        self
    }

    /// Names the cluster, the same on all its nodes, in 1 to 255 bytes. Requests say which cluster and
    /// which peer they are meant for, and a node refuses those that are meant for another one (status
    /// 421, counted in [`NodeStats::misdirected_requests`]): where an address of one cluster is given to
    /// a node of another, no value and no change goes from one to the other. Without a name the ids of
    /// the peers must do for that, which are equal where they are addresses.
    ///
    /// Nodes with a name and those without refuse each other. So a cluster gets a name, or another one, by
    /// a restart of all its nodes: while some have it, the two kinds take each other for unreachable. Plain
    /// clients, Go peers and nodes of older versions say nothing of whom they mean, and are answered.
    /// Defaults to none.
    pub fn cluster(mut self, name: impl Into<String>) -> NodeBuilder {
        self.cluster = Some(name.into());
        self
    }

    /// Sets by which hosts this node may be asked, as `Host` headers name them: `cache-0.internal` with
    /// any port, or `cache-0.internal:7000`. Its own address is always among them. Others are answered
    /// 403: so no page in a browser whose name was made to point here can ask for anything. Holds for
    /// peers and the [`StatusPage`]. A web framework must hand the `Host` header to the
    /// [`Request`]. Defaults to none: it is not looked at.
    pub fn hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> NodeBuilder {
        self.hosts = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Switches on a page that shows what this node knows of itself and its peers. Defaults to none.
    ///
    /// Whoever reaches the port can read it: see [`StatusPage`].
    pub fn status_page(mut self, page: StatusPage) -> NodeBuilder {
        self.status_page = Some(page);
        self
    }

    /// Builds the node. It starts no thread yet.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if a setting cannot be used, [`Error::InvalidPeer`] if this node has
    /// a weight and the dialect knows none, or an address with TLS and no certificate.
    pub fn build(self) -> Result<Node, Error> {
        Error::check_positive("connect_timeout", self.connect_timeout)?;
        Error::check_positive("fetch_timeout", self.fetch_timeout)?;
        Error::check_positive("load_timeout", self.load_timeout)?;
        if self.loader_threads == 0 {
            let reason = "without a thread no peer is ever answered; give it 1 or more";
            return Err(Error::setting("loader_threads", reason));
        }
        if self.circuit_failures == 0 {
            let reason = "a peer that never failed would count as away; give it 1 or more";
            return Err(Error::setting("circuit_failures", reason));
        }
        check_peer(self.dialect, &self.this)?;
        let gate = Gate::new(&self.this, self.cluster.clone(), &self.hosts)?;
        let settings = Settings {
            limits: Limits {
                connect_timeout: self.connect_timeout,
                max_body: self
                    .max_value
                    .max(MAX_COMMAND)
                    .saturating_add(MESSAGE_OVERHEAD),
            },
            fetch_timeout: self.fetch_timeout,
            load_timeout: self.load_timeout,
            fallback_life: self.fallback_life,
            warm_up: self.warm_up,
            circuit_failures: self.circuit_failures,
            max_value: self.max_value,
            allow_absent: self.allow_absent,
            dialect: self.dialect,
        };
        let guard = self.guard();
        let transport = match self.transport {
            Some(transport) => transport,
            None => {
                let http = Http::new(self.tls.clone(), self.clock.clone());
                http.tls_for(&self.this)?; // as its peers will need it
                Arc::new(http)
            }
        };
        let account = Account::new(MAX_CHARGED, guard.is_some());
        let pool = Pool::new(self.loader_threads);
        let cluster = Cluster::new(
            self.this, settings, self.clock, pool, gate, guard, transport,
        );
        Ok(Node(Arc::new(Shared {
            cluster,
            registry: Arc::new(Registry::default()),
            tls: self.tls,
            page: self.status_page.map(Page::new),
            account,
        })))
    }
}

impl NodeBuilder {
    #[cfg(feature = "auth")]
    fn guard(&self) -> Option<Guard> {
        let keyring = self.keyring.clone()?;
        let clock = self.clock.clone();
        Some(Guard::new(keyring, &self.this, self.rules, clock))
    }

    #[cfg(not(feature = "auth"))]
    fn guard(&self) -> Option<Guard> {
        None
    }
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder")
            .field("this", &self.this)
            .finish_non_exhaustive()
    }
}
