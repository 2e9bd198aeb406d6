//! `NodeBuilder`: the settings of a node.

use std::fmt;
use std::time::Duration;

use super::{Node, Shared};
use crate::auth::gate::Gate;
use crate::auth::guard::Guard;
#[cfg(feature = "auth")]
use crate::auth::guard::Rules;
#[cfg(feature = "auth")]
use crate::auth::keyring::Keyring;
use crate::cluster::peer_list::check_peer;
use crate::cluster::state::{Cluster, Settings};
use crate::error::Error;
use crate::group::Registry;
use crate::observe::status::{Page, StatusPage};
use crate::protocol::MAX_COMMAND;
use crate::protocol::account::{Account, MAX_CHARGED};
use crate::protocol::dialect::Dialect;
use crate::runtime::clock::Clock;
use crate::runtime::pool::Pool;
use crate::runtime::sync::Arc;
use crate::transport::client::Http;
use crate::transport::peer::{Limits, Peer, Transport};
use crate::transport::tls::Tls;

/// Bytes of a message besides its value and its key.
const MESSAGE_OVERHEAD: usize = 1 << 10;

/// The settings of a node, all with a default. Made by [`Node::builder`].
#[derive(Clone)]
#[must_use = "a node is built by `build`"]
pub struct NodeBuilder {
    this: Peer,
    connect_timeout: Duration,
    fetch_timeout: Duration,
    load_timeout: Duration,
    fallback_life: Duration,
    deputy_life: Duration,
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
    pub(super) fn new(this: Peer) -> NodeBuilder {
        NodeBuilder {
            this,
            connect_timeout: Duration::from_millis(250),
            fetch_timeout: Duration::from_secs(1),
            load_timeout: Duration::from_secs(10),
            fallback_life: Duration::from_secs(2),
            deputy_life: Duration::from_secs(30),
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
        }
    }

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
    /// and is asked again: a *silent* peer counts as unreachable. Defaults to 1 s.
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

    /// Sets how long a value lives at most that a deputy has loaded. Defaults to 30 s.
    ///
    /// Each key has an owner and a deputy, the peer that would own the key if the owner were not there. While
    /// a process does not reach the owner of a key, it asks the deputy, which loads the key once for all
    /// processes and keeps the value for this time, or for its own if that is shorter.
    pub fn deputy_life(mut self, life: Duration) -> NodeBuilder {
        self.deputy_life = life;
        self
    }

    /// Sets how long a value lives that was loaded here because neither its owner nor its deputy was
    /// reachable. Defaults to 2 s.
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

    /// Sets how many calls to a peer must fail in a row for it to count as unreachable (its *circuit*
    /// opens, as in Nygard's "circuit breaker"): from then on the deputies of its keys are asked at once, and it is
    /// probed about once a second, by a background thread, until it answers: less often, up to every
    /// fourth second, while it answers probes and fails the next call. Refusal, silence and
    /// protocol errors are failures; a caller whose own time is over is not. But where that happens twice in a
    /// row, the peer is probed with the whole [`fetch_timeout`](NodeBuilder::fetch_timeout), and counts
    /// as unreachable if it does not answer that either. Defaults to 3.
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
    /// 421, counted in [`NodeStats::misdirected_requests`](crate::NodeStats::misdirected_requests)): where an address of one cluster is given to
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
    /// [`Request`](crate::Request). Defaults to none: it is not looked at.
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
            let reason = "a peer that never failed would count as unreachable; give it 1 or more";
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
            deputy_life: self.deputy_life,
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
