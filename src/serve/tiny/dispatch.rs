//! The dispatcher: who answers which request, and when.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::engine::{Engine, Event, Job, Place, Ticket};
use super::exchange::{Exchange, Unread};
use super::watch::Alarm;
use crate::group::Pending;
use crate::protocol::Response;
use crate::runtime::sync::Arc;
use crate::runtime::sync::channel::{Receiver, Sender};
use crate::runtime::user_code;

/// Requests that may wait for loads at a time. More are told that the node is overloaded.
const MAX_PARKED: usize = 4_096;

/// Connections that are remembered as seen. To forget one costs a few visits.
const MAX_SEEN: usize = 4_096;

/// How long the dispatcher waits while requests are parked: their deadlines may follow a clock that
/// is moved by hand. So does one that takes no more connections, to see when it may end.
const TICK: Duration = Duration::from_millis(250);

/// And while there are none.
const IDLE: Duration = Duration::from_secs(3_600);

/// The one thread that takes requests from `tiny_http`. What it knows, nobody else does, so it
/// needs no lock.
pub(super) struct Dispatcher {
    engine: Arc<Engine>,
    events: Receiver<Event>,
    /// Dropped with the dispatcher: the workers end when they have done what is in it.
    jobs: Sender<Job>,
    /// Dropped with the dispatcher: the rescue then ends.
    kicks: Sender<()>,
    alarms: Sender<Alarm>,
    seen: HashSet<SocketAddr>,
    parked: BTreeMap<Ticket, Parked>,
    /// Their time was up just when their answers came, which are on their way.
    landing: HashMap<Ticket, Parked>,
    parked_so_far: u64,
}

struct Parked {
    exchange: Exchange,
    pending: Option<Pending>,
    place: Place,
}

impl Dispatcher {
    pub(super) fn new(
        engine: Arc<Engine>,
        events: Receiver<Event>,
        jobs: Sender<Job>,
        kicks: Sender<()>,
        alarms: Sender<Alarm>,
    ) -> Dispatcher {
        Dispatcher {
            engine,
            events,
            jobs,
            kicks,
            alarms,
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
            // An event holds values of groups, whose drop is user code.
            let turn = user_code::call(|| self.turn(received));
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
        if self.engine.is_spent() {
            self.engine.stop();
        }
    }

    fn hear(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Park(exchange, pending, place) => self.park(exchange, pending, place),
                Event::Loaded(ticket, response) => self.land(ticket, response),
                Event::Next(request, place) => self.give(Job::Answer(request, place)),
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
            None if self.engine.is_accepting() => IDLE,
            None => TICK,
        }
    }

    fn arrive(&mut self, request: tiny_http::Request) {
        let client = request.remote_addr().copied();
        if let Some(address) = client {
            self.note(address);
        }
        if let Some((place, request)) = Place::take(&self.engine, client, Unread::new(request)) {
            self.give(Job::Answer(request, place));
        }
    }

    /// Where one connection is new, others may have been left unserved.
    fn note(&mut self, address: SocketAddr) {
        if self.seen.len() >= MAX_SEEN && !self.seen.contains(&address) {
            self.seen.clear();
        }
        if self.seen.insert(address) {
            // If there is no room, enough of them wait already.
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
            log::error!(target: "groupcache", error:% = error; "tiny_http cannot accept");
            self.engine.stop_accepting();
            // Without a watchdog the server stops.
            let _ = self.alarms.send(Alarm::Broken);
        }
    }

    fn park(&mut self, exchange: Exchange, pending: Pending, place: Place) {
        if self.parked.len() >= MAX_PARKED {
            let response = self.engine.overloaded();
            return self.give(Job::Send(exchange, response, place));
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
            exchange,
            pending,
            place,
        };
        self.parked.insert(ticket, parked);
    }

    fn land(&mut self, ticket: Ticket, response: Response) {
        let parked = self.parked.remove(&ticket);
        if let Some(parked) = parked.or_else(|| self.landing.remove(&ticket)) {
            self.give(Job::Send(parked.exchange, response, parked.place));
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
                    self.give(Job::Send(parked.exchange, response, parked.place));
                }
                None => {
                    self.landing.insert(ticket, parked);
                }
            }
        }
    }

    /// Answers all that is here at the end.
    fn turn_away(&mut self) {
        self.turn_away_parked();
        // Wake-ups that were not needed lie between the requests and look like the end.
        for _ in 0..MAX_PARKED {
            if let Ok(Some(request)) = self.engine.server.try_recv() {
                self.arrive(request);
            }
        }
        // Those that a worker was about to park: nobody hears of them any more after this.
        self.turn_away_parked();
    }

    fn turn_away_parked(&mut self) {
        self.hear();
        let parked = std::mem::take(&mut self.parked).into_values();
        let landing = std::mem::take(&mut self.landing).into_values();
        for parked in parked.chain(landing) {
            let response = self.engine.overloaded();
            self.give(Job::Send(parked.exchange, response, parked.place));
        }
    }
}

/// Whatever ends the dispatcher ends the server.
struct StopAtEnd(Arc<Engine>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop();
    }
}
