//! Who answers which request, and when: the dispatcher and its workers.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::exchange::{Exchange, Received, Unread};
use super::listen;
use crate::error::Error;
use crate::group::Pending;
use crate::node::{Begin, Node};
use crate::sync::channel::{self, Receiver, Sender};
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, wait_until};
use crate::wire::{Response, Status};

/// Requests that may wait for loads at a time. More are told that the node is overloaded.
const MAX_PARKED: usize = 4_096;

/// Connections that are remembered as seen. To forget one costs a few visits.
const MAX_SEEN: usize = 4_096;

/// How long the dispatcher waits while requests are parked: their deadlines may follow a clock that
/// is moved by hand.
const TICK: Duration = Duration::from_millis(250);

/// And while there are none.
const IDLE: Duration = Duration::from_secs(3_600);

/// How long nothing must come before a draining server stops: what was on its way when it began
/// to drain has come by then.
const QUIET: Duration = Duration::from_millis(50);

/// What all threads of a server share.
pub(super) struct Engine {
    node: Node,
    server: tiny_http::Server,
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
type Client = Option<SocketAddr>;

struct UnderWay {
    /// Each connection with a request under way, and what it sent since. Its requests are answered
    /// one after the other, because a worker that writes the second answer of a connection waits
    /// for the first, and if all did, the first would never be written.
    connections: HashMap<Client, VecDeque<Unread>>,
    last_arrival: Instant,
}

/// What the dispatcher is told.
pub(super) enum Event {
    /// A request needs a load.
    Park(Place, Exchange, Pending),
    /// The answer to a parked request.
    Loaded(Ticket, Response),
    /// The next request of a connection whose last was answered.
    Next(Place, Unread),
}

/// What a worker is told to do.
pub(super) enum Job {
    Answer(Place, Unread),
    Send(Place, Exchange, Response),
}

/// A parked request: when it is given up, and a number.
type Ticket = (Instant, u64);

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

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Takes no more connections, and asks clients to close theirs.
    pub(super) fn stop_accepting(&self) {
        self.draining.store(true, Ordering::Release);
        self.close_listener();
    }

    fn close_listener(&self) {
        let listener = self.listener.lock().take();
        if let Some(listener) = listener {
            listen::close(listener);
        }
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
        self.server.unblock();
    }

    /// Wakes the dispatcher with an event; gives it back if there is no dispatcher any more.
    fn tell(&self, event: Event) -> Result<(), Event> {
        self.events.send(event).map_err(|refused| refused.0)?;
        self.server.unblock();
        Ok(())
    }

    fn overloaded(&self) -> Response {
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
    fn take(engine: &Arc<Engine>, client: Client, request: Unread) -> Option<(Place, Unread)> {
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
        if let Err(Event::Park(place, exchange, _)) =
            engine.tell(Event::Park(self, exchange, pending))
        {
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
            let _ = engine.tell(Event::Next(place, next));
        }
    }
}

/// What a worker does until there are no more jobs.
pub(super) fn work(jobs: &Receiver<Job>) {
    for job in jobs {
        let done = catch_unwind(AssertUnwindSafe(|| match job {
            Job::Answer(place, request) => place.answer(request),
            Job::Send(place, exchange, response) => place.send(exchange, &response),
        }));
        if done.is_err() {
            log::error!(target: "groupcache", "a worker of tiny_http panicked");
        }
    }
}

/// The one thread that takes requests from `tiny_http`. What it knows, nobody else does, so it
/// needs no lock.
pub(super) struct Dispatcher {
    engine: Arc<Engine>,
    events: Receiver<Event>,
    /// Dropped with the dispatcher: the workers end when they have done what is in it.
    jobs: Sender<Job>,
    /// Dropped with the dispatcher: the rescue then ends.
    kicks: Sender<()>,
    seen: HashSet<SocketAddr>,
    parked: BTreeMap<Ticket, Parked>,
    /// Their time was up just when their answers came, which are on their way.
    landing: HashMap<Ticket, Parked>,
    parked_so_far: u64,
}

struct Parked {
    place: Place,
    exchange: Exchange,
    pending: Option<Pending>,
}

impl Dispatcher {
    pub(super) fn new(
        engine: Arc<Engine>,
        events: Receiver<Event>,
        jobs: Sender<Job>,
        kicks: Sender<()>,
    ) -> Dispatcher {
        Dispatcher {
            engine,
            events,
            jobs,
            kicks,
            seen: HashSet::new(),
            parked: BTreeMap::new(),
            landing: HashMap::new(),
            parked_so_far: 0,
        }
    }

    /// Dispatches until the server stops. A worker may finish only what it was given.
    pub(super) fn run(mut self) {
        // Also if this thread panics; and before `self` goes, as places ask whether it has stopped.
        let _end = StopAtEnd(Arc::clone(&self.engine));
        while !self.engine.is_stopped() {
            let received = self.engine.server.recv_timeout(self.patience());
            // An event holds values of groups, whose drop is foreign code.
            let turn = catch_unwind(AssertUnwindSafe(|| self.turn(received)));
            if turn.is_err() {
                log::error!(target: "groupcache", "an event of tiny_http panicked");
            }
        }
        self.turn_away();
    }

    fn turn(&mut self, received: io::Result<Option<tiny_http::Request>>) {
        match received {
            Ok(Some(request)) => self.arrive(request),
            // Woken for an event, or by the time.
            Ok(None) => {}
            Err(error) => self.lose_listener(&error),
        }
        self.hear();
        self.give_up();
    }

    fn hear(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Park(place, exchange, pending) => self.park(place, exchange, pending),
                Event::Loaded(ticket, response) => self.land(ticket, response),
                Event::Next(place, request) => self.give(Job::Answer(place, request)),
            }
        }
    }

    /// How long to wait for a request.
    fn patience(&self) -> Duration {
        match self.parked.first_key_value() {
            Some((&(until, _), _)) => {
                let now = self.engine.node.clock().now();
                until.saturating_duration_since(now).min(TICK)
            }
            None => IDLE,
        }
    }

    fn arrive(&mut self, request: tiny_http::Request) {
        let client = request.remote_addr().copied();
        if let Some(address) = client {
            self.note(address);
        }
        if let Some((place, request)) = Place::take(&self.engine, client, Unread::new(request)) {
            self.give(Job::Answer(place, request));
        }
    }

    /// Where one connection is new, others may have been left unserved.
    fn note(&mut self, address: SocketAddr) {
        if self.seen.len() >= MAX_SEEN && !self.seen.contains(&address) {
            self.seen.clear();
        }
        if self.seen.insert(address) {
            // One kick that waits already is enough.
            let _ = self.kicks.try_send(());
        }
    }

    fn give(&self, job: Job) {
        // There are workers as long as there is a dispatcher.
        let _ = self.jobs.send(job);
    }

    /// `tiny_http` accepts no more, for whatever reason. Connections that are there are served, and
    /// peers should find a closed port rather than one where nobody answers.
    fn lose_listener(&self, error: &io::Error) {
        if self.engine.is_accepting() {
            log::error!(
                target: "groupcache", error:% = error;
                "tiny_http has stopped to accept connections; only a new server can"
            );
        }
        self.engine.close_listener();
    }

    fn park(&mut self, place: Place, exchange: Exchange, pending: Pending) {
        if self.parked.len() >= MAX_PARKED {
            let response = self.engine.overloaded();
            return self.give(Job::Send(place, exchange, response));
        }
        self.parked_so_far += 1;
        let ticket = (pending.deadline(), self.parked_so_far);
        // Weak, as a hung load must not keep the node.
        let engine = Arc::downgrade(&self.engine);
        pending.notify(move |response| {
            if let Some(engine) = engine.upgrade() {
                // Without a dispatcher it has been answered already.
                let _ = engine.tell(Event::Loaded(ticket, response));
            }
        });
        let pending = Some(pending);
        let parked = Parked {
            place,
            exchange,
            pending,
        };
        self.parked.insert(ticket, parked);
    }

    fn land(&mut self, ticket: Ticket, response: Response) {
        let parked = self.parked.remove(&ticket);
        if let Some(parked) = parked.or_else(|| self.landing.remove(&ticket)) {
            self.give(Job::Send(parked.place, parked.exchange, response));
        }
    }

    /// Answers those whose time is up.
    fn give_up(&mut self) {
        while let Some(entry) = self.parked.first_entry() {
            let ticket = *entry.key();
            if ticket.0 > self.engine.node.clock().now() {
                return;
            }
            let mut parked = entry.remove();
            match parked.pending.take().and_then(Pending::give_up) {
                Some(response) => {
                    self.give(Job::Send(parked.place, parked.exchange, response));
                }
                None => {
                    self.landing.insert(ticket, parked);
                }
            }
        }
    }

    /// Answers all that is here at the end.
    fn turn_away(&mut self) {
        self.hear();
        let parked = std::mem::take(&mut self.parked).into_values();
        let landing = std::mem::take(&mut self.landing).into_values();
        for parked in parked.chain(landing) {
            let response = self.engine.overloaded();
            self.give(Job::Send(parked.place, parked.exchange, response));
        }
        // Wake-ups that were not needed lie between the requests and look like the end.
        for _ in 0..MAX_PARKED {
            if let Ok(Some(request)) = self.engine.server.try_recv() {
                self.arrive(request);
            }
        }
    }
}

/// Whatever ends the dispatcher ends the server.
struct StopAtEnd(Arc<Engine>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
    }
}
