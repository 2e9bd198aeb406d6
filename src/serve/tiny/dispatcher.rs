//! `Dispatcher`: the thread that takes requests from `tiny_http`, gives them to workers, and keeps those
//! that wait for loads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::engine::{ConnectionSlot, Engine, Event, Job, Ticket, WatchdogEvent};
use super::exchange::{Exchange, UnreadRequest};
use crate::group::Pending;
use crate::protocol::Response;
use crate::runtime::sync::Arc;
use crate::runtime::sync::channel::{Receiver, Sender};
use crate::runtime::user_code;

/// How many requests may wait for loads at a time. Others are answered "overloaded".
const MAX_PARKED: usize = 4_096;

/// How many connections are remembered as seen. A connection that is forgotten is probed for again.
const MAX_SEEN: usize = 4_096;

/// How long the dispatcher waits at most while requests are parked, as their deadlines may follow a clock
/// that is moved by hand, and while the server drains, to see when it may end.
const TICK: Duration = Duration::from_millis(250);

/// How long it waits at most otherwise.
const MAX_WAIT: Duration = Duration::from_secs(3_600);

const _: () = assert!(TICK.as_millis() < MAX_WAIT.as_millis());

/// Its state belongs to one thread, so it needs no lock.
pub(super) struct Dispatcher {
    engine: Arc<Engine>,
    events: Receiver<Event>,
    /// Dropped with the dispatcher: the workers end when they have done the jobs in it.
    jobs: Sender<Job>,
    /// Dropped with the dispatcher: the prober then ends.
    new_connections: Sender<()>,
    watchdog: Sender<WatchdogEvent>,
    seen: HashSet<SocketAddr>,
    parked: BTreeMap<Ticket, Parked>,
    /// Requests past their deadline whose load has just ended: the [`Event::Loaded`] of each is on its way.
    loaded: HashMap<Ticket, Parked>,
    parked_so_far: u64,
}

struct Parked {
    exchange: Exchange,
    pending: Option<Pending>,
    slot: ConnectionSlot,
}

impl Dispatcher {
    pub(super) fn new(
        engine: Arc<Engine>,
        events: Receiver<Event>,
        jobs: Sender<Job>,
        new_connections: Sender<()>,
        watchdog: Sender<WatchdogEvent>,
    ) -> Dispatcher {
        Dispatcher {
            engine,
            events,
            jobs,
            new_connections,
            watchdog,
            seen: HashSet::new(),
            parked: BTreeMap::new(),
            loaded: HashMap::new(),
            parked_so_far: 0,
        }
    }

    /// Dispatches until the server stops. Workers finish only the jobs that they have by then.
    pub(super) fn run(mut self) {
        // Also if this thread panics; and before `self` is dropped, as slots check whether the server has
        // stopped.
        let _stop_at_end = StopAtEnd(Arc::clone(&self.engine));
        while !self.engine.is_stopped() {
            let received = self.engine.server.recv_timeout(self.timeout());
            // An event holds values of groups, whose drop is user code.
            let handled = user_code::call(|| self.handle(received));
            if handled.is_err() {
                log::error!(target: "groupcache", "an event of tiny_http panicked");
            }
        }
        self.refuse_all();
    }

    fn handle(&mut self, received: io::Result<Option<tiny_http::Request>>) {
        match received {
            Ok(Some(request)) => self.handle_request(request),
            // Woken for an event, or by the timeout.
            Ok(None) => {}
            Err(error) => self.handle_accept_error(&error),
        }
        self.handle_events();
        self.time_out();
        if self.engine.has_idled_out() {
            self.engine.stop();
        }
    }

    fn handle_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Park(exchange, pending, slot) => self.park(exchange, pending, slot),
                Event::Loaded(ticket, response) => self.resume(ticket, response),
                Event::Next(request, slot) => self.queue(Job::Answer(request, slot)),
            }
        }
    }

    /// How long to wait for a request.
    fn timeout(&self) -> Duration {
        match self.parked.first_key_value() {
            Some((&(deadline, _), _)) => {
                let now = self.engine.node.clock().now();
                deadline.saturating_duration_since(now).min(TICK)
            }
            None if self.engine.is_accepting() => MAX_WAIT,
            None => TICK,
        }
    }

    fn handle_request(&mut self, request: tiny_http::Request) {
        let client = request.remote_addr().copied();
        if let Some(address) = client {
            self.note_connection(address);
        }
        let request = UnreadRequest::new(request);
        if let Some((slot, request)) = ConnectionSlot::take(&self.engine, client, request) {
            self.queue(Job::Answer(request, slot));
        }
    }

    /// Wakes the prober for a new connection: others that came with it may be stalled.
    fn note_connection(&mut self, address: SocketAddr) {
        if self.seen.len() >= MAX_SEEN && !self.seen.contains(&address) {
            self.seen.clear();
        }
        if self.seen.insert(address) {
            // If the channel is full, the prober is woken for enough others already.
            let _ = self.new_connections.try_send(());
        }
        debug_assert!(self.seen.len() <= MAX_SEEN);
    }

    fn queue(&self, job: Job) {
        // There are workers as long as there is a dispatcher.
        let _ = self.jobs.send(job);
    }

    /// Stops accepting when `tiny_http` does, for whatever reason. Existing connections are served, and a
    /// peer should find a closed port rather than one where nothing answers.
    fn handle_accept_error(&self, error: &io::Error) {
        if self.engine.is_accepting() {
            log::error!(target: "groupcache", error:% = error; "tiny_http cannot accept");
            self.engine.stop_accepting();
            // It fails only if the watchdog has ended, as the server stops.
            let _ = self.watchdog.send(WatchdogEvent::NotAccepting);
        }
    }

    fn park(&mut self, exchange: Exchange, pending: Pending, slot: ConnectionSlot) {
        if self.parked.len() >= MAX_PARKED {
            let response = self.engine.overloaded();
            return self.queue(Job::Send(exchange, response, slot));
        }
        self.parked_so_far += 1;
        let ticket = (pending.deadline(), self.parked_so_far);
        // Weak, as a load that hangs must not keep the node alive.
        let engine = Arc::downgrade(&self.engine);
        pending.notify(move |response| {
            if let Some(engine) = engine.upgrade() {
                // Without a dispatcher the request has been answered already.
                let _ = engine.send(Event::Loaded(ticket, response));
            }
        });
        let pending = Some(pending);
        let parked = Parked {
            exchange,
            pending,
            slot,
        };
        let former = self.parked.insert(ticket, parked);
        debug_assert!(former.is_none(), "the number of a ticket is used once");
    }

    /// Has a worker send the answer of a parked request.
    fn resume(&mut self, ticket: Ticket, response: Response) {
        let parked = self.parked.remove(&ticket);
        if let Some(parked) = parked.or_else(|| self.loaded.remove(&ticket)) {
            self.queue(Job::Send(parked.exchange, response, parked.slot));
        }
    }

    /// Answers the requests that are past their deadline.
    fn time_out(&mut self) {
        while let Some(entry) = self.parked.first_entry() {
            let ticket = *entry.key();
            if ticket.0 > self.engine.node.clock().now() {
                return;
            }
            let mut parked = entry.remove();
            match parked.pending.take().and_then(Pending::give_up) {
                Some(response) => {
                    self.queue(Job::Send(parked.exchange, response, parked.slot));
                }
                None => {
                    self.loaded.insert(ticket, parked);
                }
            }
        }
    }

    /// Answers all requests that are left at the end.
    fn refuse_all(&mut self) {
        self.refuse_parked();
        // Wake-ups that were not needed lie between the requests and look like the end of the queue.
        for _ in 0..MAX_PARKED {
            if let Ok(Some(request)) = self.engine.server.try_recv() {
                self.handle_request(request);
            }
        }
        // Requests that a worker was about to park: after this their events are not handled.
        self.refuse_parked();
    }

    fn refuse_parked(&mut self) {
        self.handle_events();
        let parked = std::mem::take(&mut self.parked).into_values();
        let loaded = std::mem::take(&mut self.loaded).into_values();
        for parked in parked.chain(loaded) {
            let response = self.engine.overloaded();
            self.queue(Job::Send(parked.exchange, response, parked.slot));
        }
    }
}

/// However the dispatcher ends, the server stops.
struct StopAtEnd(Arc<Engine>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}
