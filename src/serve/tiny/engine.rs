//! What all threads of a server share, and what the workers do.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use super::exchange::{Exchange, Received, Unread};
use super::listen;
use crate::error::Error;
use crate::group::Pending;
use crate::node::{Begin, Node};
use crate::protocol::{Response, Status};
use crate::runtime::sync::channel::{self, Receiver, Sender};
use crate::runtime::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, wait_until};
use crate::runtime::user_code;

/// How long nothing must come before a draining server stops: what was on its way when it began
/// to drain has come by then.
const QUIET: Duration = Duration::from_millis(50);

/// Clients that keep connections for longer without a request will find them dead.
const KEPT: Duration = Duration::from_secs(60);

/// What all threads of a server share.
pub(super) struct Engine {
    pub(super) node: Node,
    pub(super) server: tiny_http::Server,
    /// A second handle, as `tiny_http` keeps its own to itself. `None` once it is closed.
    listener: Mutex<Option<TcpListener>>,
    events: Sender<Event>,
    under_way: Mutex<UnderWay>,
    /// Notified when nothing is under way any more.
    all_answered: Condvar,
    draining: AtomicBool,
    stopped: AtomicBool,
}

/// A connection, by the address of its client.
pub(super) type Client = Option<SocketAddr>;

struct UnderWay {
    /// Each connection with a request under way, and what it sent since. Its requests are answered
    /// one after the other, because a worker that writes the second answer of a connection waits
    /// for the first, and if all did, the first would never be written.
    connections: HashMap<Client, VecDeque<Unread>>,
    last_arrival: Instant,
}

/// What the dispatcher is told. A place comes last, here and below, to be dropped last: with it may
/// go the requests behind it, whose answers would wait for this one.
pub(super) enum Event {
    /// A request needs a load.
    Park(Exchange, Pending, Place),
    /// The answer to a parked request.
    Loaded(Ticket, Response),
    /// The next request of a connection whose last was answered.
    Next(Unread, Place),
}

/// What a worker is told to do.
pub(super) enum Job {
    Answer(Unread, Place),
    Send(Exchange, Response, Place),
}

/// A parked request: when it is given up, and a number.
pub(super) type Ticket = (Instant, u64);

impl Engine {
    /// Has `tiny_http` serve `listener`. The events are for the dispatcher.
    pub(super) fn new(
        node: Node,
        listener: TcpListener,
    ) -> Result<(Arc<Engine>, Receiver<Event>), Error> {
        let address = listen::address_of(&listener)?.to_string();
        let unusable = |error| listen::failed(&address, error);
        let spare = listener.try_clone().map_err(unusable)?;
        // It panics if it cannot start a thread.
        let server = catch_unwind(|| tiny_http::Server::from_listener(listener, None));
        let server = server.map_err(|_| Error::Thread {
            source: io::Error::other("tiny_http cannot start its own").into(),
        })?;
        let server = server.map_err(|error| unusable(io::Error::other(error)))?;
        let (events, for_dispatcher) = channel::unbounded();
        let engine = Engine {
            node,
            server,
            listener: Mutex::new(Some(spare)),
            events,
            under_way: Mutex::new(UnderWay {
                connections: HashMap::new(),
                last_arrival: Instant::now(),
            }),
            all_answered: Condvar::new(),
            draining: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        };
        Ok((Arc::new(engine), for_dispatcher))
    }

    pub(super) fn is_accepting(&self) -> bool {
        !self.draining.load(Ordering::Acquire)
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Takes no more connections, and asks clients to close theirs.
    pub(super) fn stop_accepting(&self) {
        self.draining.store(true, Ordering::Release);
        let listener = self.listener.lock().take();
        if let Some(listener) = listener {
            listen::close(listener);
        }
        self.server.unblock(); // the dispatcher looks in more often from now on
    }

    /// Whether nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.lock().connections.is_empty()
    }

    /// Whether it takes no more connections, and nothing has come for so long that nobody has any.
    pub(super) fn is_spent(&self) -> bool {
        if self.is_accepting() {
            return false;
        }
        let under_way = self.under_way.lock();
        under_way.connections.is_empty() && under_way.last_arrival.elapsed() >= KEPT
    }

    /// Waits until nothing has been under way for a little while, at most until `deadline`; tells
    /// whether nothing is.
    pub(super) fn wait_until_answered(&self, deadline: Option<Instant>) -> bool {
        let mut quiet_from = Instant::now();
        let mut under_way = self.under_way.lock();
        loop {
            let now = Instant::now();
            let is_idle = under_way.connections.is_empty();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return is_idle;
            }
            quiet_from = quiet_from.max(under_way.last_arrival);
            let quiet = quiet_from + QUIET;
            if is_idle && quiet <= now {
                return true;
            }
            let until = match deadline {
                Some(deadline) if !is_idle || deadline < quiet => Some(deadline),
                _ => is_idle.then_some(quiet),
            };
            wait_until(&self.all_answered, &mut under_way, until);
        }
    }

    /// Has all threads end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.server.unblock(); // the dispatcher, which ends the others
    }

    /// Wakes the dispatcher with an event; gives it back if there is no dispatcher any more.
    pub(super) fn tell(&self, event: Event) -> Option<Event> {
        if let Err(refused) = self.events.send(event) {
            return Some(refused.0);
        }
        self.server.unblock();
        None
    }

    pub(super) fn overloaded(&self) -> Response {
        let reason = "too many requests wait here, or the server stops";
        self.node.respond(Status::Overloaded, reason)
    }
}

/// The place of one request in its connection: when it is dropped, the next may be answered.
pub(super) struct Place {
    engine: Arc<Engine>,
    client: Client,
}

impl Place {
    /// Takes the place for `request`, or queues it behind the one that has it.
    pub(super) fn take(
        engine: &Arc<Engine>,
        client: Client,
        request: Unread,
    ) -> Option<(Place, Unread)> {
        let mut under_way = engine.under_way.lock();
        under_way.last_arrival = Instant::now();
        match under_way.connections.entry(client) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back(request);
                None
            }
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                let engine = Arc::clone(engine);
                Some((Place { engine, client }, request))
            }
        }
    }

    fn answer(self, request: Unread) {
        let engine = &self.engine;
        let (exchange, response) = match request.receive(engine.node.max_body()) {
            Received::Gone => return,
            Received::Refused(exchange, status, reason) => {
                (exchange, engine.node.respond(status, reason))
            }
            Received::Whole(exchange, _) if engine.is_stopped() => (exchange, engine.overloaded()),
            Received::Whole(exchange, body) => match exchange.begin(&engine.node, &body) {
                Begin::Ready(response) => (exchange, response),
                Begin::Pending(pending) => return self.park(exchange, pending),
            },
        };
        self.send(exchange, &response);
    }

    fn park(self, exchange: Exchange, pending: Pending) {
        let engine = Arc::clone(&self.engine);
        let refused = engine.tell(Event::Park(exchange, pending, self));
        if let Some(Event::Park(exchange, _, place)) = refused {
            let response = engine.overloaded();
            place.send(exchange, &response);
        }
    }

    fn send(self, exchange: Exchange, response: &Response) {
        exchange.send(response, !self.engine.is_accepting());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let engine = &self.engine;
        let mut left = VecDeque::new();
        let next = {
            let mut under_way = engine.under_way.lock();
            if engine.is_stopped() {
                left = under_way.connections.remove(&self.client).unwrap_or(left);
            }
            let waiting = under_way.connections.get_mut(&self.client);
            let next = waiting.and_then(VecDeque::pop_front);
            if next.is_none() {
                under_way.connections.remove(&self.client);
                if under_way.connections.is_empty() {
                    engine.all_answered.notify_all();
                }
            }
            next
        };
        drop(left); // unanswered: `tiny_http` answers them with a 500, in their order
        if let Some(next) = next {
            let place = Place {
                engine: Arc::clone(engine),
                client: self.client,
            };
            // Without a dispatcher the server has stopped, and this drops all that are left.
            let _ = engine.tell(Event::Next(next, place));
        }
    }
}

/// What a worker does until there are no more jobs.
pub(super) fn work(jobs: &Receiver<Job>) {
    for job in jobs {
        let done = user_code::call(|| match job {
            Job::Answer(request, place) => place.answer(request),
            Job::Send(exchange, response, place) => place.send(exchange, &response),
        });
        if done.is_err() {
            log::error!(target: "groupcache", "a worker of tiny_http panicked");
        }
    }
}
