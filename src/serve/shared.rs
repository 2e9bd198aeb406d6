//! `Shared`: what the threads of a server have in common, and where a connection goes next.

use std::time::Instant;

use super::settings::{Fallback, Settings};
use crate::group::Pending;
use crate::node::{Begin, Node};
use crate::protocol::account::{Account, Requester};
use crate::protocol::http1::{Head, Refusal};
use crate::protocol::{Request, Response, Status};
use crate::runtime::sync::{Arc, AtomicBool, Ordering};
use crate::runtime::user_code;
use crate::serve::connection::{BoxedConnection, Connection, Next};
use crate::serve::lane::{Lane, Task, Which};
use crate::serve::lobby::{Among, Lobby, Rank, Wait};
use crate::serve::message::{HttpRequest, HttpResponse};
use crate::serve::places::Places;
use crate::transport::tls::Tls;

/// How many give way for one who needs little: what they have may be less.
const CUT_OFF_AT_ONCE: usize = 16;

pub(crate) struct Shared {
    pub(crate) node: Node,
    pub(crate) fallback: Option<Arc<Fallback>>,
    pub(crate) settings: Settings,
    pub(crate) tls: Option<Tls>,
    pub(crate) peers: Lane,
    pub(crate) application: Lane,
    pub(crate) lobby: Lobby,
    pub(crate) places: Arc<Places>,
    /// What pays for what is kept of all connections.
    pub(crate) account: Arc<Account>,
    /// Every answer is the last one of its connection.
    pub(crate) draining: AtomicBool,
}

impl Shared {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn lane(&self, which: Which) -> &Lane {
        match which {
            Which::Peers => &self.peers,
            Which::Application => &self.application,
        }
    }

    /// Whether a request is for the node, as far as that is served here.
    pub(crate) fn is_for_node(&self, target: &str) -> bool {
        self.settings.serves_peers && self.node.serves(target)
    }

    /// Where a request is answered, by whether it is one of the peer protocol.
    pub(crate) fn lane_of(&self, is_ours: bool) -> Which {
        if is_ours || self.fallback.is_none() {
            Which::Peers
        } else {
            Which::Application
        }
    }

    pub(crate) fn max_body(&self, is_ours: bool) -> usize {
        if is_ours {
            self.node.max_body()
        } else {
            self.settings.max_fallback_body
        }
    }

    /// Whether peers and an application share the port.
    pub(crate) fn is_shared(&self) -> bool {
        self.settings.serves_peers && self.fallback.is_some()
    }

    /// A refusal as peers understand it, where it is for want of room: they are not to take this node
    /// for unreachable.
    pub(crate) fn overloaded(&self, refusal: Refusal) -> Option<Response> {
        let is_overload = refusal.status == Status::Overloaded.code();
        (is_overload && self.settings.serves_peers)
            .then(|| self.node.respond(Status::Overloaded, refusal.reason))
    }

    /// Whether the handshake has proved of all who have a request that they are peers.
    pub(crate) fn takes_peers_only(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.admits_strangers())
    }

    pub(crate) fn begin(&self, head: &Head<'_>, body: &[u8], requester: &mut Requester) -> Begin {
        self.node.begin_for(&request_of(head).body(body), requester)
    }

    /// What a request of the peer protocol is refused with whose body is still to come.
    pub(crate) fn refuse_head(
        &self,
        head: &Head<'_>,
        requester: &mut Requester,
    ) -> Option<Response> {
        self.node
            .refuse_head(&request_of(head), head.body_len, requester)
    }

    /// The application's answer, or `None` if there is none because it panicked.
    pub(crate) fn fall_back(&self, request: &HttpRequest<'_>) -> Option<HttpResponse> {
        let fallback = self.fallback.as_ref()?;
        user_code::call(|| fallback(request))
            .inspect_err(|_| log::error!(target: "groupcache", "the fallback of a server panicked"))
            .ok()
    }

    /// What a thread of a lane does.
    pub(crate) fn work(self: &Arc<Self>, which: Which) -> impl FnOnce() + Send + use<> {
        let shared = Arc::clone(self);
        move || {
            let mut has_served = false;
            while let Some(task) = shared.lane(which).next(has_served) {
                has_served = true;
                let served = user_code::call(|| shared.perform(task, which));
                if served.is_err() {
                    log::error!(target: "groupcache", "answering a request panicked");
                }
            }
        }
    }

    /// Has tasks done, or drops them if the server has ended.
    pub(crate) fn push(self: &Arc<Self>, which: Which, tasks: impl IntoIterator<Item = Task>) {
        drop(self.lane(which).push(tasks, || self.work(which)));
    }

    fn perform(self: &Arc<Self>, task: Task, which: Which) {
        match task {
            Task::Serve(connection) => self.serve(connection, which),
            Task::GiveUp(key, pending) => {
                if let Some(response) = pending.give_up() {
                    self.resume(key, response);
                }
            }
            Task::Forget(pending) => drop(pending),
        }
    }

    fn serve(self: &Arc<Self>, mut connection: BoxedConnection, which: Which) {
        match connection.run(self, which) {
            Next::Wait(wait) => self.wait(connection, wait),
            Next::Park(pending) => self.park(connection, pending),
            Next::Lane(other) => self.push(other, [Task::Serve(connection)]),
            Next::Close => {}
        }
    }

    /// Has a connection wait, or cuts it off where there is no room for what it has to send.
    pub(crate) fn wait(&self, mut connection: BoxedConnection, wait: Wait) {
        connection.rest(wait);
        if !self.has_room(&mut connection) {
            return;
        }
        let due = connection.due(wait, &self.settings);
        drop(self.lobby.enter(connection, wait, due));
    }

    /// Whether there is room for what a connection keeps. It is made for what it has to send, and for
    /// one that needs little.
    fn has_room(&self, connection: &mut Connection) -> bool {
        connection.has_room()
            || connection.keeps_little() && self.make_little_room(connection, Connection::has_room)
            || connection.has_unsent() && self.make_room(connection, Connection::has_room)
    }

    /// Makes room for one who needs little: those give way who have begun a request and do not end it,
    /// and where there is TLS, which takes memory for each, those who have begun none. Not a peer for a
    /// stranger, who has a half of his own.
    pub(crate) fn make_little_room(
        &self,
        connection: &mut Connection,
        has_room: impl Fn(&mut Connection) -> bool,
    ) -> bool {
        let most = match connection.is_stranger() {
            true => Rank::Stranger,
            false => Rank::Announced,
        };
        let idle = self.tls.as_ref().map(|_| Among::Unanswered);
        (0..CUT_OFF_AT_ONCE).any(|_| {
            let mut among = [Some(Among::Senders), idle].into_iter().flatten();
            let slowest = among.find_map(|among| self.lobby.evict(among, most));
            slowest.is_some_and(|slowest| {
                drop(slowest);
                has_room(connection)
            })
        })
    }

    /// Where too much waits to be read, the slowest readers are cut off, but no peer for a stranger.
    /// One answer at a time may take what is beyond the bound.
    fn make_room(
        &self,
        connection: &mut Connection,
        has_room: impl Fn(&mut Connection) -> bool,
    ) -> bool {
        while !has_room(connection) {
            let most = match connection.is_known() {
                true => Rank::BusyKnown,
                false => Rank::Announced,
            };
            let Some(slowest) = self.lobby.evict(Among::Readers, most) else {
                return connection.exceed();
            };
            log::debug!(target: "groupcache", "too many answers are not read: one is cut off");
            drop(slowest);
        }
        true
    }

    /// Lets the load and the time race for the connection. Either takes it out of the lobby to
    /// answer; a client that leaves takes it out too, and the load answers nobody.
    fn park(self: &Arc<Self>, mut connection: BoxedConnection, pending: Pending) {
        connection.rest(Wait::Answer);
        if !self.has_room(&mut connection) {
            return;
        }
        // The node may have a clock of its own, but the client waits in real time.
        let now = self.node.clock().now();
        let patience = pending.deadline().saturating_duration_since(now);
        let due = Instant::now().checked_add(patience);
        let Ok(key) = self.lobby.enter(connection, Wait::Answer, None) else {
            return;
        };
        // Weak: the load must not keep the server.
        let shared = Arc::downgrade(self);
        pending.notify(move |response| {
            if let Some(shared) = shared.upgrade() {
                shared.resume(key, response);
            }
        });
        drop(self.lobby.attach(key, pending, due));
    }

    /// Has a parked connection send its answer, if it is still there.
    pub(crate) fn resume(self: &Arc<Self>, key: usize, mut response: Response) {
        let Some((mut connection, pending)) = self.lobby.take(key) else {
            return;
        };
        drop(pending);
        if !self.make_room(&mut connection, |connection| connection.hold(&response)) {
            response = self.node.respond(
                Status::Overloaded,
                "too many answers wait for their readers",
            );
        }
        connection.answer(response, self.is_draining());
        if !self.has_room(&mut connection) {
            return;
        }
        self.push(Which::Peers, [Task::Serve(connection)]);
    }
}

/// A request as the node sees it, without its body.
fn request_of<'a>(head: &Head<'a>) -> Request<'a> {
    let mut request = Request::new(head.method, head.target);
    for field in head.fields {
        // What is no text is the value of no header that a node knows. A browser's is text.
        if let Ok(value) = std::str::from_utf8(field.value) {
            request = request.header(field.name, value);
        }
    }
    request
}
