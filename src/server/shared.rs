//! `Shared`: what the threads of a server have in common, and where a connection goes next.

use std::time::Instant;

use super::connection::{BoxedConnection, Connection, Next};
use super::lane::{Lane, Which};
use super::lobby::{Lobby, Wait};
use super::message::{HttpRequest, HttpResponse};
use super::places::Places;
use super::{Fallback, Settings};
use crate::foreign;
use crate::group::Pending;
use crate::http1::Head;
use crate::node::{Begin, Node};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::tls::Tls;
use crate::wire::{Request, Response};

pub(super) struct Shared {
    pub(super) node: Node,
    pub(super) fallback: Option<Arc<Fallback>>,
    pub(super) settings: Settings,
    pub(super) tls: Option<Tls>,
    pub(super) peers: Lane,
    pub(super) application: Lane,
    pub(super) lobby: Lobby,
    pub(super) places: Arc<Places>,
    /// Every answer is the last one of its connection.
    pub(super) draining: AtomicBool,
}

impl Shared {
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn lane(&self, which: Which) -> &Lane {
        match which {
            Which::Peers => &self.peers,
            Which::Application => &self.application,
        }
    }

    /// Whether a request is for the node, as far as that is served here.
    pub(super) fn is_for_node(&self, target: &str) -> bool {
        self.settings.serves_peers && self.node.serves(target)
    }

    /// Where a request is answered, by whether it is one of the peer protocol.
    pub(super) fn lane_of(&self, is_ours: bool) -> Which {
        if is_ours || self.fallback.is_none() {
            Which::Peers
        } else {
            Which::Application
        }
    }

    pub(super) fn max_body(&self, is_ours: bool) -> usize {
        if is_ours {
            self.node.max_body()
        } else {
            self.settings.max_fallback_body
        }
    }

    pub(super) fn begin(&self, head: &Head<'_>, body: &[u8]) -> Begin {
        self.node.begin(&request_of(head).body(body))
    }

    /// What a request of the peer protocol is refused with whose body is still to come.
    pub(super) fn refuse_head(&self, head: &Head<'_>) -> Option<Response> {
        self.node.refuse_head(&request_of(head), head.body_len)
    }

    /// The application's answer, or `None` if there is none because it panicked.
    pub(super) fn fall_back(&self, request: &HttpRequest<'_>) -> Option<HttpResponse> {
        let fallback = self.fallback.as_ref()?;
        foreign::call(|| fallback(request))
            .inspect_err(|_| log::error!(target: "groupcache", "the fallback of a server panicked"))
            .ok()
    }

    /// What a thread of a lane does.
    pub(super) fn work(self: &Arc<Self>, which: Which) -> impl FnOnce() + Send + use<> {
        let shared = Arc::clone(self);
        move || {
            let mut has_served = false;
            while let Some(connection) = shared.lane(which).next(has_served) {
                has_served = true;
                let served = foreign::call(|| shared.serve(connection, which));
                if served.is_err() {
                    log::error!(target: "groupcache", "answering a request panicked");
                }
            }
        }
    }

    /// Has connections served, or drops them if the server has ended.
    pub(super) fn push(
        self: &Arc<Self>,
        which: Which,
        connections: impl IntoIterator<Item = BoxedConnection>,
    ) {
        drop(self.lane(which).push(connections, || self.work(which)));
    }

    fn serve(self: &Arc<Self>, mut connection: BoxedConnection, which: Which) {
        match connection.run(self, which) {
            Next::Wait(wait) => self.wait(connection, wait),
            Next::Park(pending) => self.park(connection, pending),
            Next::Lane(other) => self.push(other, [connection]),
            Next::Close => {}
        }
    }

    pub(super) fn wait(&self, mut connection: BoxedConnection, wait: Wait) {
        connection.rest(wait);
        if wait == Wait::Write {
            self.make_room_for_answer(&mut connection);
        }
        let due = connection.due(wait, &self.settings);
        drop(self.lobby.enter(connection, wait, due));
    }

    /// Where too much waits to be read, the slowest readers are cut off. One may always wait.
    fn make_room_for_answer(&self, connection: &mut Connection) {
        while !connection.hold_answer() {
            let Some(slowest) = self.lobby.evict_reader() else {
                return;
            };
            log::debug!(target: "groupcache", "too many answers are not read: one is cut off");
            drop(slowest);
        }
    }

    /// Lets the load and the time race for the connection. Either takes it out of the lobby to
    /// answer; a client that leaves takes it out too, and the load answers nobody.
    fn park(self: &Arc<Self>, mut connection: BoxedConnection, pending: Pending) {
        connection.rest(Wait::Answer);
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
    pub(super) fn resume(self: &Arc<Self>, key: usize, response: Response) {
        let Some((mut connection, pending)) = self.lobby.take(key) else {
            return;
        };
        drop(pending);
        connection.answer(response, self.is_draining());
        self.push(Which::Peers, [connection]);
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
