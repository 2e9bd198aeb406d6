//! `Engine`: what the threads of one `tiny_http` server share, what they send each other, and what a worker
//! does.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use super::exchange::{Exchange, Received, UnreadRequest};
use super::socket;
use crate::error::Error;
use crate::group::Pending;
use crate::node::{Begin, Node};
use crate::protocol::{Response, Status};
use crate::runtime::sync::channel::{self, Receiver, Sender};
use crate::runtime::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, wait_until};
use crate::runtime::user_code;

/// How long no request must come before a draining server stops: requests that were on their way when it
/// began to drain have come by then.
const QUIET_PERIOD: Duration = Duration::from_millis(50);

/// After so long without a request a draining server stops. Clients that keep connections open for longer
/// find them dead.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

const _: () = assert!(QUIET_PERIOD.as_millis() < IDLE_TIMEOUT.as_millis());

pub(super) struct Engine {
    pub(super) node: Node,
    pub(super) server: tiny_http::Server,
    /// A second handle, as `tiny_http` does not give access to its own. `None` once closed.
    listener: Mutex<Option<TcpListener>>,
    events: Sender<Event>,
    in_progress: Mutex<InProgress>,
    /// Notified when no request is in progress any more.
    all_answered: Condvar,
    draining: AtomicBool,
    stopped: AtomicBool,
}

/// A connection, by the address of its client.
pub(super) type Client = Option<SocketAddr>;

struct InProgress {
    /// Each connection with a request in progress, and the requests that it has sent since. The requests of a
    /// connection are answered one after the other, because a worker that writes the second answer of a
    /// connection waits for the first: if all workers did, the first would never be written.
    connections: HashMap<Client, VecDeque<UnreadRequest>>,
    last_arrival: Instant,
}

/// What the dispatcher is sent. The slot comes last, here and below, to be dropped last: with it may be
/// dropped the requests behind it, whose answers would wait for this one.
pub(super) enum Event {
    /// A request waits for a load.
    Park(Exchange, Pending, ConnectionSlot),
    /// The answer to a parked request.
    Loaded(Ticket, Response),
    /// The next request of a connection whose previous one is answered.
    Next(UnreadRequest, ConnectionSlot),
}

/// What a worker is sent.
pub(super) enum Job {
    Answer(UnreadRequest, ConnectionSlot),
    Send(Exchange, Response, ConnectionSlot),
}

/// What the watchdog is sent.
pub(super) enum WatchdogEvent {
    /// The server has reported that it accepts no more connections.
    NotAccepting,
    Stop,
}

/// A parked request: its deadline, and a number.
pub(super) type Ticket = (Instant, u64);

impl Engine {
    /// Has `tiny_http` serve `listener`. The events are for the dispatcher.
    pub(super) fn new(
        node: Node,
        listener: TcpListener,
    ) -> Result<(Arc<Engine>, Receiver<Event>), Error> {
        let address = socket::address_of(&listener)?.to_string();
        let unusable = |error| socket::failed(&address, error);
        let second_handle = listener.try_clone().map_err(unusable)?;
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
            listener: Mutex::new(Some(second_handle)),
            events,
            in_progress: Mutex::new(InProgress {
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

    /// Accepts no more connections, and asks clients to close theirs.
    pub(super) fn stop_accepting(&self) {
        self.draining.store(true, Ordering::Release);
        let listener = self.listener.lock().take();
        if let Some(listener) = listener {
            socket::close(listener);
        }
        self.server.unblock(); // the dispatcher, which checks more often from now on
    }

    /// Whether no request is in progress.
    pub(super) fn is_idle(&self) -> bool {
        self.in_progress.lock().connections.is_empty()
    }

    /// Whether it accepts no more connections, and has had no request for so long that no client is left.
    pub(super) fn has_idled_out(&self) -> bool {
        if self.is_accepting() {
            return false;
        }
        let in_progress = self.in_progress.lock();
        in_progress.connections.is_empty() && in_progress.last_arrival.elapsed() >= IDLE_TIMEOUT
    }

    /// Blocks until no request has been in progress for [`QUIET_PERIOD`], but not past `deadline`. Returns
    /// whether none is.
    pub(super) fn wait_until_answered(&self, deadline: Option<Instant>) -> bool {
        let mut quiet_from = Instant::now();
        let mut in_progress = self.in_progress.lock();
        loop {
            let now = Instant::now();
            let is_idle = in_progress.connections.is_empty();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return is_idle;
            }
            quiet_from = quiet_from.max(in_progress.last_arrival);
            let quiet = quiet_from + QUIET_PERIOD;
            if is_idle && quiet <= now {
                return true;
            }
            let until = match deadline {
                Some(deadline) if !is_idle || deadline < quiet => Some(deadline),
                _ => is_idle.then_some(quiet),
            };
            wait_until(&self.all_answered, &mut in_progress, until);
        }
    }

    /// Has all threads end.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.server.unblock(); // the dispatcher, which ends the others
    }

    /// Sends the dispatcher an event and wakes it. Returns the event if the dispatcher has ended.
    pub(super) fn send(&self, event: Event) -> Option<Event> {
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

/// The slot of a connection for one request in progress. When it is dropped, the next request of the
/// connection gets a slot.
pub(super) struct ConnectionSlot {
    engine: Arc<Engine>,
    client: Client,
}

impl ConnectionSlot {
    /// Takes the slot for `request`, or queues the request if another one has the slot.
    pub(super) fn take(
        engine: &Arc<Engine>,
        client: Client,
        request: UnreadRequest,
    ) -> Option<(ConnectionSlot, UnreadRequest)> {
        let mut in_progress = engine.in_progress.lock();
        in_progress.last_arrival = Instant::now();
        match in_progress.connections.entry(client) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back(request);
                None
            }
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                let engine = Arc::clone(engine);
                Some((ConnectionSlot { engine, client }, request))
            }
        }
    }

    fn answer(self, request: UnreadRequest) {
        let engine = &self.engine;
        let (exchange, response) = match request.receive(engine.node.max_body()) {
            Received::Disconnected => return,
            Received::Refused(exchange, status, reason) => {
                (exchange, engine.node.respond(status, reason))
            }
            Received::Complete(exchange, _) if engine.is_stopped() => {
                (exchange, engine.overloaded())
            }
            Received::Complete(exchange, body) => match exchange.begin(&engine.node, &body) {
                Begin::Ready(response) => (exchange, response),
                Begin::Pending(pending) => return self.park(exchange, pending),
            },
        };
        self.send(exchange, &response);
    }

    fn park(self, exchange: Exchange, pending: Pending) {
        let engine = Arc::clone(&self.engine);
        let refused = engine.send(Event::Park(exchange, pending, self));
        if let Some(Event::Park(exchange, _, slot)) = refused {
            let response = engine.overloaded();
            slot.send(exchange, &response);
        }
    }

    fn send(self, exchange: Exchange, response: &Response) {
        exchange.send(response, !self.engine.is_accepting());
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let engine = &self.engine;
        let mut unanswered = VecDeque::new();
        let next = {
            let mut in_progress = engine.in_progress.lock();
            debug_assert!(
                in_progress.connections.contains_key(&self.client),
                "a request in progress is counted"
            );
            if engine.is_stopped() {
                let waiting = in_progress.connections.remove(&self.client);
                unanswered = waiting.unwrap_or_default();
            }
            let waiting = in_progress.connections.get_mut(&self.client);
            let next = waiting.and_then(VecDeque::pop_front);
            if next.is_none() {
                in_progress.connections.remove(&self.client);
                if in_progress.connections.is_empty() {
                    engine.all_answered.notify_all();
                }
            }
            next
        };
        drop(unanswered); // `tiny_http` answers them with a 500, in their order
        if let Some(next) = next {
            let slot = ConnectionSlot {
                engine: Arc::clone(engine),
                client: self.client,
            };
            // Without a dispatcher the server has stopped, and this drops all requests that are left.
            let _ = engine.send(Event::Next(next, slot));
        }
    }
}

/// What a worker runs until there are no more jobs.
pub(super) fn work(jobs: &Receiver<Job>) {
    for job in jobs {
        let done = user_code::call(|| match job {
            Job::Answer(request, slot) => slot.answer(request),
            Job::Send(exchange, response, slot) => slot.send(exchange, &response),
        });
        if done.is_err() {
            log::error!(target: "groupcache", "a worker of tiny_http panicked");
        }
    }
}
