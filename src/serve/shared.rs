//! `Shared`: what the threads of a server share, what it says about a request, and how it makes room.

use super::connection::Connection;
use super::connection_limit::ConnectionLimit;
use super::eviction::{Candidates, Rank};
use super::message::{HttpRequest, HttpResponse};
use super::parked::ParkedConnections;
use super::settings::{Fallback, Settings};
use super::traffic::Traffic;
use super::worker_pool::WorkerPool;
use crate::node::{Begin, Node};
use crate::protocol::account::{Account, Requester};
use crate::protocol::http1::{Head, Refusal};
use crate::protocol::{Request, Response, Status};
use crate::runtime::sync::{Arc, AtomicBool, Ordering};
use crate::runtime::user_code;
use crate::transport::tls::Tls;

/// How many connections are evicted at most for one that needs little: each may free even less.
const MAX_EVICTED_FOR_LITTLE: usize = 16;

pub(crate) struct Shared {
    pub(crate) node: Node,
    pub(crate) fallback: Option<Arc<Fallback>>,
    pub(crate) settings: Settings,
    pub(crate) tls: Option<Tls>,
    pub(crate) peer_workers: WorkerPool,
    pub(crate) application_workers: WorkerPool,
    pub(crate) parked: ParkedConnections,
    pub(crate) connection_limit: Arc<ConnectionLimit>,
    /// Is charged for the memory of all connections.
    pub(crate) account: Arc<Account>,
    /// Every answer is the last one of its connection.
    pub(crate) draining: AtomicBool,
}

impl Shared {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn workers(&self, traffic: Traffic) -> &WorkerPool {
        match traffic {
            Traffic::Peers => &self.peer_workers,
            Traffic::Application => &self.application_workers,
        }
    }
}

/// What it says about requests, and what it answers them.
impl Shared {
    /// Whether a request is for the node, and the server serves peers.
    pub(crate) fn is_for_node(&self, target: &str) -> bool {
        self.settings.serves_peers && self.node.serves(target)
    }

    /// Which workers answer a request.
    pub(crate) fn traffic_of(&self, is_for_node: bool) -> Traffic {
        if is_for_node || self.fallback.is_none() {
            Traffic::Peers
        } else {
            Traffic::Application
        }
    }

    /// The longest body of a request, in bytes.
    pub(crate) fn max_body(&self, is_for_node: bool) -> usize {
        if is_for_node {
            self.node.max_body()
        } else {
            self.settings.max_fallback_body
        }
    }

    /// Whether peers and an application share the port.
    pub(crate) fn has_both_kinds(&self) -> bool {
        self.settings.serves_peers && self.fallback.is_some()
    }

    /// A refusal for lack of room, in the form that peers understand: they must not take this node for
    /// unreachable. `None` for another refusal, and where peers are not served.
    pub(crate) fn overloaded(&self, refusal: Refusal) -> Option<Response> {
        let is_overload = refusal.status == Status::Overloaded.code();
        (is_overload && self.settings.serves_peers)
            .then(|| self.node.respond(Status::Overloaded, refusal.reason))
    }

    /// Whether every client has authenticated itself as a peer by its handshake.
    pub(crate) fn admits_peers_only(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.admits_strangers())
    }

    pub(crate) fn begin(&self, head: &Head<'_>, body: &[u8], requester: &mut Requester) -> Begin {
        self.node.begin_for(&request_of(head).body(body), requester)
    }

    /// The answer to a request of the peer protocol that is refused before its body has come.
    pub(crate) fn refuse_head(
        &self,
        head: &Head<'_>,
        requester: &mut Requester,
    ) -> Option<Response> {
        self.node
            .refuse_head(&request_of(head), head.body_len, requester)
    }

    /// The application's answer, or `None` if there is no fallback, or it panicked.
    pub(crate) fn fall_back(&self, request: &HttpRequest<'_>) -> Option<HttpResponse> {
        let fallback = self.fallback.as_ref()?;
        user_code::call(|| fallback(request))
            .inspect_err(|_| log::error!(target: "groupcache", "the fallback of a server panicked"))
            .ok()
    }
}

/// How it makes room for what connections keep.
impl Shared {
    /// Charges for what a connection keeps. Returns whether there is room, which is made for a connection
    /// that has bytes to send, and for one that keeps little.
    pub(crate) fn has_room(&self, connection: &mut Connection) -> bool {
        let charge = Connection::update_charge;
        charge(connection)
            || connection.keeps_little() && self.evict_for_little(connection, charge)
            || connection.has_unsent() && self.evict_readers(connection, charge)
    }

    /// Evicts connections for one that needs little, until `charge` finds room: those with a part of a
    /// request, and with TLS, which takes memory for each connection, those with none. A peer is not evicted
    /// for a stranger, as half of the account is left to strangers.
    pub(crate) fn evict_for_little(
        &self,
        connection: &mut Connection,
        charge: impl Fn(&mut Connection) -> bool,
    ) -> bool {
        let max = match connection.is_stranger() {
            true => Rank::Stranger,
            false => Rank::HeadAuthenticated,
        };
        let idle = self.tls.as_ref().map(|_| Candidates::Unanswered);
        (0..MAX_EVICTED_FOR_LITTLE).any(|_| {
            let mut all = [Some(Candidates::Sending), idle].into_iter().flatten();
            let evicted = all.find_map(|candidates| self.parked.evict(candidates, max));
            evicted.is_some_and(|evicted| {
                drop(evicted);
                charge(connection)
            })
        })
    }

    /// Evicts connections whose clients do not read their answers, the earliest deadline first, until
    /// `charge` finds room. A peer is not evicted for a stranger. Where there is nothing to evict, one answer
    /// at a time may exceed the bound.
    pub(crate) fn evict_readers(
        &self,
        connection: &mut Connection,
        charge: impl Fn(&mut Connection) -> bool,
    ) -> bool {
        while !charge(connection) {
            let max = match connection.is_authenticated() {
                true => Rank::BusyPeer,
                false => Rank::HeadAuthenticated,
            };
            let Some(slowest) = self.parked.evict(Candidates::Reading, max) else {
                return connection.exceed();
            };
            log::debug!(target: "groupcache", "too many answers are not read: a connection is closed");
            drop(slowest);
        }
        true
    }
}

/// A request as the node sees it, without its body.
fn request_of<'a>(head: &Head<'a>) -> Request<'a> {
    let mut request = Request::new(head.method, head.target);
    for field in head.fields {
        // The headers that a node knows are text, and so are those of a browser.
        if let Ok(value) = std::str::from_utf8(field.value) {
            request = request.header(field.name, value);
        }
    }
    request
}
