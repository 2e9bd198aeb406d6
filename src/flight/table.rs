//! `Flights`: one run per key, shared by all who ask for it meanwhile (singleflight).
//!
//! A flight is *queued*, *led* or *outcome*. A queued flight has no leader: it waits for whoever can
//! run it first, a thread of the pool or one that joins and runs loads itself. A led flight is run by
//! the one that holds its [`Guard`]. All others wait, each with its own deadline: a waiter is a
//! [`Slot`], so it may be a parked thread or a callback.
//!
//! * I3: the guard ends the flight on every way out, by `finish`, by `release`, by `hand_over` or by
//!   being dropped in a panic. It only ever takes its own flight out of the table, never a successor.
//! * I6: running out of time belongs to one caller. A waiter whose time is up leaves; the last to
//!   leave a queued flight withdraws it, so that nothing is run that nobody waits for. A leader whose
//!   time is up hands its flight to the oldest waiter that can lead and has time left.
//! * I8: a thread that leads may wait for another flight only if that one does not, through
//!   whatever it waits for itself, wait for this thread ([`Waits`]).
//! * An invalidation is a stale mark: the flight leaves the table, so that nobody joins it any
//!   more; those who wait still get its value; it is not to be stored.
//!
//! A payload is cloned and dropped in here at any place, also under a lock: neither may run code of
//! the user.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use crate::cache::key::{HandThrough, Hashed, Key, KeyRef};
use crate::flight::wait_graph::{Leading, Led, NOBODY, Run, WaitGraph, leads, this_thread};
use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::flow::Flow;
use crate::runtime::slot::{Closed, Slot};
use crate::runtime::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Weak};

/// Flights are made when something is loaded or fetched: a few locks are enough, and a group is to
/// cost little.
const SHARDS: usize = 4;

/// What a flight can carry.
pub(crate) trait Payload: Clone + Send + 'static {}

impl<T: Clone + Send + 'static> Payload for T {}

/// What a place in a queue costs as long as the flight is queued. Dropped, it gives that back.
pub(crate) type Hold = Box<dyn Send + Sync>;

/// The places of a flight, each with the one on whose behalf it was put there.
type Holds = Vec<(Flow, Hold)>;

/// The flights of one kind in one group. Clones share them.
pub(crate) struct Flights<T: Payload> {
    tables: Arc<Tables<T>>,
}

/// The flights that can be joined, by key.
struct Tables<T: Payload> {
    shards: Vec<Mutex<Table<T>>>,
    wait_graph: Arc<WaitGraph>,
}

type Table<T> = HashMap<Key, Arc<Flight<T>>, HandThrough>;

struct Flight<T: Payload> {
    key: Key,
    stale: AtomicBool,
    /// Number of the thread that runs it; 0 while there is none.
    leader: AtomicU64,
    state: Mutex<State<T>>,
}

struct State<T: Payload> {
    phase: Phase<T>,
    /// In the order in which they came.
    waiters: BTreeMap<u64, Waiting<T>>,
    last_number: u64,
    /// Those who were told that it is still queued, and are expected to ask again.
    claim: Option<Claim>,
}

enum Phase<T> {
    /// In the queues of those who have asked for it: whichever comes to it first runs it.
    Queued(Holds),
    Led,
    SharedOutcome(SharedOutcome<T>),
}

/// How a flight ended, and for whom: those whose deadlines are after this one ask anew.
#[derive(Clone)]
struct SharedOutcome<T> {
    outcome: Outcome<T>,
    until: Deadline,
}

impl<T: Clone> SharedOutcome<T> {
    fn of(outcome: Outcome<T>) -> SharedOutcome<T> {
        SharedOutcome {
            outcome,
            until: Deadline::NEVER,
        }
    }

    /// What it is to one with this deadline.
    fn to(&self, deadline: Deadline) -> Outcome<T> {
        match deadline.is_after(self.until) {
            true => Outcome::Again,
            false => self.outcome.clone(),
        }
    }
}

/// How a flight ended.
#[derive(Clone)]
enum Outcome<T> {
    Finished(T),
    /// Without a result: whoever still wants one asks anew.
    Again,
    /// The leader was lost to a panic.
    Lost,
}

struct Waiting<T: Payload> {
    deadline: Deadline,
    /// Whether it takes the lead if the leader hands over.
    can_lead: bool,
    slot: Arc<Slot<WaitOutcome<T>>>,
}

/// That somebody without a waiter still wants the result.
#[derive(Clone, Copy)]
struct Claim {
    /// When it no longer counts.
    until: Instant,
    /// For how long the result is of use.
    deadline: Deadline,
}

/// What one who joins a flight can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// It leads a new flight and one that is queued, and takes over one that is handed to it.
    Lead,
    /// It leads a new flight, and waits for any other.
    Start,
}

/// The part of one who joins a flight.
pub(crate) enum Joined<T: Payload> {
    Lead(Guard<T>),
    Wait(Waiter<T>),
}

/// What a waiter is told.
pub(crate) enum WaitOutcome<T: Payload> {
    /// The result.
    Finished(T),
    /// The leader left, and this waiter leads from now on.
    Lead(Guard<T>),
    /// There is no result: ask anew.
    Again,
    /// The leader was lost to a panic.
    Lost,
    /// Its own deadline came.
    Late,
    /// It would have waited for itself (I8).
    Cycle,
}

impl<T: Payload> From<Outcome<T>> for WaitOutcome<T> {
    fn from(outcome: Outcome<T>) -> WaitOutcome<T> {
        match outcome {
            Outcome::Finished(result) => WaitOutcome::Finished(result),
            Outcome::Again => WaitOutcome::Again,
            Outcome::Lost => WaitOutcome::Lost,
        }
    }
}

/// What one who comes to a flight finds.
enum Entered<T> {
    /// It waits, under this number.
    WaitGraph(u64),
    /// It was queued, and is led by the one who came.
    Leads(Holds),
    SharedOutcome(Outcome<T>),
}

impl<T: Payload> Flights<T> {
    pub(crate) fn new(wait_graph: Arc<WaitGraph>) -> Flights<T> {
        let table = |_| Mutex::new(Table::default());
        Flights {
            tables: Arc::new(Tables {
                shards: (0..SHARDS).map(table).collect(),
                wait_graph,
            }),
        }
    }

    /// Joins the flight of `key`, or starts it. `deadline` tells for how long the result is of use
    /// to the one who asks.
    pub(crate) fn join(&self, key: KeyRef<'_>, deadline: Deadline, how: Join) -> Joined<T> {
        let can_lead = how == Join::Lead;
        loop {
            match self.tables.find_or_start(key, || Flight::led(key)) {
                Err(flight) => return Joined::Lead(self.tables.guard(flight)),
                Ok(flight) => match self.tables.enter(flight, deadline, can_lead) {
                    Some(part) => return part,
                    None => continue,
                },
            }
        }
    }

    /// Waits for the flight of `key`. If there was none it is new, has no leader, and is to be put
    /// into a queue.
    pub(crate) fn queue(
        &self,
        key: KeyRef<'_>,
        deadline: Deadline,
    ) -> (Waiter<T>, Option<Queued<T>>) {
        let slot = Slot::new();
        loop {
            match self
                .tables
                .find_or_start(key, || Flight::queued(key, &slot, deadline))
            {
                Err(flight) => {
                    let queued = self.tables.queued(&flight);
                    return (self.tables.waiter(flight, slot, FIRST), Some(queued));
                }
                Ok(flight) => match self.tables.enter(flight, deadline, false) {
                    Some(Joined::Wait(waiter)) => return (waiter, None),
                    Some(Joined::Lead(_)) | None => continue,
                },
            }
        }
    }

    /// Marks the flight of `key` stale, if one is under way.
    ///
    /// Under the lock of the table: whoever does not find the flight there, because another one is
    /// taking it out, finds it marked.
    pub(crate) fn mark_stale(&self, key: KeyRef<'_>) {
        let flight = {
            let mut table = self.tables.of(key).lock();
            let flight = table.remove(&key as &dyn Hashed);
            flight.inspect(|flight| flight.mark_stale())
        };
        drop(flight); // perhaps the last hold on it: not under a lock (I2)
    }

    /// Marks all flights stale that are under way.
    pub(crate) fn mark_all_stale(&self) {
        for table in &self.tables.shards {
            let flights = {
                let mut table = table.lock();
                table.values().for_each(|flight| flight.mark_stale());
                std::mem::take(&mut *table)
            };
            drop(flights); // perhaps the last holds on them: not under a lock (I2)
        }
    }

    /// Whether there is a flight of `key` that can be joined.
    pub(crate) fn is_under_way(&self, key: KeyRef<'_>) -> bool {
        let table = self.tables.of(key).lock();
        table.contains_key(&key as &dyn Hashed)
    }

    /// What the tables take, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let held = |table: &Mutex<Table<T>>| {
            size_of_val(table) + table.lock().capacity() * size_of::<(Key, usize)>()
        };
        self.tables.shards.iter().map(held).sum()
    }

    /// How many flights can be joined now.
    pub(crate) fn len(&self) -> usize {
        self.tables
            .shards
            .iter()
            .map(|table| table.lock().len())
            .sum()
    }

    /// Withdraws the queued flights that nobody waits for and whose claims have run out. Tells
    /// whether there are claims still.
    pub(crate) fn withdraw_unclaimed(&self, now: Instant) -> bool {
        let mut are_claimed = false;
        for table in &self.tables.shards {
            let flights: Vec<_> = table.lock().values().cloned().collect();
            for flight in flights {
                if let Some(hold) = flight.withdraw_at(now) {
                    self.tables.take_out(&flight);
                    drop(hold);
                }
                are_claimed |= flight.is_claimed();
            }
        }
        are_claimed
    }
}

impl<T: Payload> Tables<T> {
    fn of(&self, key: KeyRef<'_>) -> &Mutex<Table<T>> {
        &self.shards[key.shard(SHARDS)]
    }

    /// The flight of `key`; as an error the one that is started, as there is none.
    fn find_or_start(
        &self,
        key: KeyRef<'_>,
        start: impl FnOnce() -> Flight<T>,
    ) -> Result<Arc<Flight<T>>, Arc<Flight<T>>> {
        let mut table = self.of(key).lock();
        if let Some(flight) = table.get(&key as &dyn Hashed) {
            return Ok(Arc::clone(flight));
        }
        let flight = Arc::new(start());
        table.insert(flight.key.clone(), Arc::clone(&flight));
        Err(flight)
    }

    /// Takes part in a flight that was found; `None` if it is no longer there to be joined.
    fn enter(
        self: &Arc<Self>,
        flight: Arc<Flight<T>>,
        deadline: Deadline,
        can_lead: bool,
    ) -> Option<Joined<T>> {
        let slot = Slot::new();
        let number = match flight.enter(&slot, deadline, can_lead) {
            Entered::WaitGraph(number) => number,
            Entered::Leads(hold) => {
                drop(hold);
                return Some(Joined::Lead(self.guard(flight)));
            }
            Entered::SharedOutcome(Outcome::Again) => {
                // It ended since it was found, and may still stand in the table.
                self.take_out(&flight);
                return None;
            }
            Entered::SharedOutcome(outcome) => {
                // It outcome since it was found in the table: as good as if waited for.
                let _ = slot.fill(outcome.into());
                0
            }
        };
        Some(Joined::Wait(self.waiter(flight, slot, number)))
    }

    fn guard(self: &Arc<Self>, flight: Arc<Flight<T>>) -> Guard<T> {
        Guard {
            tables: Arc::clone(self),
            flight,
            ended: false,
        }
    }

    fn queued(self: &Arc<Self>, flight: &Arc<Flight<T>>) -> Queued<T> {
        Queued {
            tables: Arc::clone(self),
            flight: Arc::downgrade(flight),
            key_bytes: flight.key.as_ref().text().len(),
        }
    }

    fn waiter(
        self: &Arc<Self>,
        flight: Arc<Flight<T>>,
        slot: Arc<Slot<WaitOutcome<T>>>,
        number: u64,
    ) -> Waiter<T> {
        Waiter {
            tables: Arc::clone(self),
            flight,
            slot,
            number,
        }
    }

    /// Takes `flight` out of the table, but never its successor (I3).
    fn take_out(&self, flight: &Arc<Flight<T>>) {
        let key = flight.key.as_ref();
        let mut table = self.of(key).lock();
        let found = table.get(&key as &dyn Hashed);
        if found.is_some_and(|found| Arc::ptr_eq(found, flight)) {
            // The caller has a hold on it: nothing is dropped here but a count.
            table.remove(&key as &dyn Hashed);
        }
    }
}

/// The number of the waiter that a queued flight begins with.
const FIRST: u64 = 1;

impl<T: Payload> Flight<T> {
    /// A flight that this thread leads.
    fn led(key: KeyRef<'_>) -> Flight<T> {
        Flight::new(key, this_thread(), Phase::Led, BTreeMap::new())
    }

    /// A queued flight, of the one who waits in `slot`.
    fn queued(key: KeyRef<'_>, slot: &Arc<Slot<WaitOutcome<T>>>, deadline: Deadline) -> Flight<T> {
        let waiting = Waiting {
            deadline,
            can_lead: false,
            slot: Arc::clone(slot),
        };
        Flight::new(
            key,
            NOBODY,
            Phase::Queued(Holds::new()),
            BTreeMap::from([(FIRST, waiting)]),
        )
    }

    fn new(
        key: KeyRef<'_>,
        leader: u64,
        phase: Phase<T>,
        waiters: BTreeMap<u64, Waiting<T>>,
    ) -> Flight<T> {
        Flight {
            key: key.to_key(),
            stale: AtomicBool::new(false),
            leader: AtomicU64::new(leader),
            state: Mutex::new(State {
                phase,
                waiters,
                last_number: FIRST,
                claim: None,
            }),
        }
    }

    /// Whoever removes a value takes the lock of its cache shard after this, and whoever stores it
    /// looks at the mark under that lock: no old value slips in between.
    fn mark_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }

    fn enter(
        &self,
        slot: &Arc<Slot<WaitOutcome<T>>>,
        deadline: Deadline,
        can_lead: bool,
    ) -> Entered<T> {
        let mut state = self.state.lock();
        if let Phase::SharedOutcome(outcome) = &state.phase {
            return Entered::SharedOutcome(outcome.to(deadline));
        }
        if can_lead {
            if let Some(hold) = state.start() {
                return Entered::Leads(hold);
            }
        }
        state.last_number += 1;
        let number = state.last_number;
        let waiting = Waiting {
            deadline,
            can_lead,
            slot: Arc::clone(slot),
        };
        state.waiters.insert(number, waiting);
        Entered::WaitGraph(number)
    }

    /// Takes a waiter out. The last one withdraws a flight that is queued, unless it leaves a claim:
    /// then this gives what the queue held for it.
    fn leave(&self, number: u64, claim: Option<Claim>) -> Option<Holds> {
        let (left, withdrawn) = {
            let mut state = self.state.lock();
            let left = state.waiters.remove(&number);
            if let Some(claim) = claim.filter(|_| state.is_queued()) {
                state.add_claim(claim);
            }
            (left, state.withdraw_if(|state| state.claim.is_none()))
        };
        drop(left); // it has a lock of its own (I2)
        withdrawn
    }

    /// As [`leave`](Flight::leave), for one who only leaves if that withdraws the flight.
    fn leave_if_alone(&self, number: u64) -> Option<Holds> {
        let (left, withdrawn) = {
            let mut state = self.state.lock();
            let is_alone = state.waiters.len() == 1 && state.claim.is_none();
            if !is_alone || !state.is_queued() {
                return None;
            }
            let left = state.waiters.remove(&number)?;
            (left, state.withdraw_if(|_| true))
        };
        drop(left); // it has a lock of its own (I2)
        withdrawn
    }

    fn withdraw_at(&self, now: Instant) -> Option<Holds> {
        let has_run_out = |state: &State<T>| state.claim.is_none_or(|claim| claim.until <= now);
        self.state.lock().withdraw_if(has_run_out)
    }

    fn is_claimed(&self) -> bool {
        let state = self.state.lock();
        state.is_queued() && state.claim.is_some()
    }

    /// Takes the oldest waiter out that can lead, and has time left if `now` is given. Looks at those
    /// who came after number `last`, which becomes its number.
    fn successor(&self, last: &mut u64, now: Option<Instant>) -> Option<Waiting<T>> {
        let mut state = self.state.lock();
        let has_time = |waiting: &Waiting<T>| now.is_none_or(|now| !waiting.deadline.is_past(now));
        let mut waiters = state.waiters.range(*last + 1..);
        let (&number, _) = waiters.find(|(_, waiting)| waiting.can_lead && has_time(waiting))?;
        *last = number;
        state.waiters.remove(&number)
    }
}

impl<T: Payload> State<T> {
    fn is_queued(&self) -> bool {
        matches!(self.phase, Phase::Queued(_))
    }

    /// Begins a flight that is queued, and gives what the queue held for it.
    fn start(&mut self) -> Option<Holds> {
        if !self.is_queued() {
            return None;
        }
        match std::mem::replace(&mut self.phase, Phase::Led) {
            Phase::Queued(hold) => Some(hold),
            Phase::Led | Phase::SharedOutcome(_) => None,
        }
    }

    /// Ends a flight that is queued and that nobody waits for, if it may go.
    fn withdraw_if(&mut self, may_go: impl FnOnce(&State<T>) -> bool) -> Option<Holds> {
        if !self.is_queued() || !self.waiters.is_empty() || !may_go(self) {
            return None;
        }
        match std::mem::replace(
            &mut self.phase,
            Phase::SharedOutcome(SharedOutcome::of(Outcome::Again)),
        ) {
            Phase::Queued(hold) => Some(hold),
            Phase::Led | Phase::SharedOutcome(_) => None,
        }
    }

    fn add_claim(&mut self, claim: Claim) {
        self.claim = Some(match self.claim {
            None => claim,
            Some(before) => Claim {
                until: before.until.max(claim.until),
                deadline: before.deadline.later(claim.deadline),
            },
        });
    }

    /// The latest of the deadlines of those who want the result.
    fn latest_deadline(&self) -> Option<Deadline> {
        let waiters = self.waiters.values().map(|waiting| waiting.deadline);
        let claim = self.claim.map(|claim| claim.deadline);
        waiters.chain(claim).reduce(Deadline::later)
    }
}

impl<T: Payload> Led for Flight<T> {
    fn leader(&self) -> u64 {
        self.leader.load(Ordering::SeqCst)
    }
}

/// A flight in a queue, as the queue holds it.
pub(crate) struct Queued<T: Payload> {
    tables: Arc<Tables<T>>,
    /// Weak: a flight that was withdrawn or has outcome is not kept by the queue.
    flight: Weak<Flight<T>>,
    key_bytes: usize,
}

impl<T: Payload> Clone for Queued<T> {
    fn clone(&self) -> Queued<T> {
        Queued {
            tables: Arc::clone(&self.tables),
            flight: Weak::clone(&self.flight),
            key_bytes: self.key_bytes,
        }
    }
}

impl<T: Payload> Queued<T> {
    /// The key, unless nobody wants the flight any more.
    pub(crate) fn key(&self) -> Option<Key> {
        Some(self.flight.upgrade()?.key.clone())
    }

    /// How long the key is.
    pub(crate) fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// Has the flight keep `hold`, of its place among what `origin` has queued, until it is no longer
    /// queued. The one before among these is given up.
    pub(crate) fn hold(&self, flow: Flow, hold: Hold) {
        let Some(flight) = self.flight.upgrade() else {
            return;
        };
        let unused = {
            let mut state = flight.state.lock();
            match &mut state.phase {
                Phase::Queued(holds) => {
                    let of_origin = holds.iter_mut().find(|(other, _)| *other == flow);
                    match of_origin {
                        Some((_, held)) => Some(std::mem::replace(held, hold)),
                        None => {
                            holds.push((flow, hold));
                            None
                        }
                    }
                }
                Phase::Led | Phase::SharedOutcome(_) => Some(hold),
            }
        };
        drop(unused); // it has a lock of its own (I2)
    }

    /// Begins the flight: `None` if somebody else has, or if nobody wants its result any more.
    pub(crate) fn start(&self, now: Instant) -> Option<Guard<T>> {
        let flight = self.flight.upgrade()?;
        if let Some(hold) = flight.withdraw_at(now) {
            self.tables.take_out(&flight);
            drop(hold);
            return None;
        }
        let hold = flight.state.lock().start()?;
        drop(hold); // it has a lock of its own (I2)
        Some(self.tables.guard(flight))
    }
}

/// The leader's hold on a flight. It ends the flight on every way out (I3).
pub(crate) struct Guard<T: Payload> {
    tables: Arc<Tables<T>>,
    flight: Arc<Flight<T>>,
    ended: bool,
}

impl<T: Payload> Guard<T> {
    pub(crate) fn key(&self) -> &Key {
        &self.flight.key
    }

    /// Set once the value of this flight is not to be stored.
    pub(crate) fn stale(&self) -> &AtomicBool {
        &self.flight.stale
    }

    /// Notes that this thread leads for as long as the token lives: what it waits for meanwhile is
    /// checked for cycles (I8).
    pub(crate) fn lead(&self) -> Leading {
        self.flight.leader.store(this_thread(), Ordering::SeqCst);
        Leading::start(self.run())
    }

    /// Whether this thread leads another flight of the same key, which was removed meanwhile: what
    /// it does for that one asks for its own key (I8).
    pub(crate) fn is_led_twice(&self) -> bool {
        leads(self.run())
    }

    fn run(&self) -> Run {
        let tables = Arc::as_ptr(&self.tables).addr();
        (tables, self.flight.key.as_ref().hash())
    }

    /// The latest of the deadlines of those who wait; `None` if nobody does.
    pub(crate) fn latest_deadline(&self) -> Option<Deadline> {
        self.flight.state.lock().latest_deadline()
    }

    /// Ends the flight with `result`, for all who wait. What is to be stored is stored (I7).
    pub(crate) fn finish(mut self, result: T) {
        self.land(SharedOutcome::of(Outcome::Finished(result)));
    }

    /// Ends the flight with `result` for those whose deadlines are not after `until`: the others ask
    /// anew.
    pub(crate) fn finish_until(mut self, until: Deadline, result: T) {
        self.land(SharedOutcome {
            outcome: Outcome::Finished(result),
            until,
        });
    }

    /// Ends the flight without a result: those who wait ask anew.
    pub(crate) fn release(mut self) {
        self.land(SharedOutcome::of(Outcome::Again));
    }

    /// Hands the flight to the oldest waiter that can lead and has time left (I6); where there is
    /// none, those who wait ask anew.
    pub(crate) fn hand_over(self, now: Instant) {
        self.pass_on(Some(now));
    }

    fn pass_on(mut self, now: Option<Instant>) {
        self.flight.leader.store(NOBODY, Ordering::SeqCst);
        let mut last = 0;
        while let Some(waiting) = self.flight.successor(&mut last, now) {
            match waiting.slot.fill(WaitOutcome::Lead(self)) {
                // It gave up meanwhile: the next one.
                Err(WaitOutcome::Lead(guard)) => self = guard,
                _ => return,
            }
        }
        self.land(SharedOutcome::of(Outcome::Again));
    }

    fn land(&mut self, outcome: SharedOutcome<T>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.tables.take_out(&self.flight);
        self.flight.leader.store(NOBODY, Ordering::SeqCst);
        let waiters = {
            let mut state = self.flight.state.lock();
            state.phase = Phase::SharedOutcome(outcome.clone());
            std::mem::take(&mut state.waiters)
        };
        // A callback may take its time: the threads come first.
        let (callbacks, threads): (Vec<_>, Vec<_>) = waiters
            .into_values()
            .partition(|waiting| waiting.slot.calls_back());
        for waiting in threads.into_iter().chain(callbacks) {
            // One who gave up meanwhile does not want it.
            let _ = waiting.slot.fill(outcome.to(waiting.deadline).into());
        }
    }
}

impl<T: Payload> Drop for Guard<T> {
    fn drop(&mut self) {
        self.land(SharedOutcome::of(Outcome::Lost));
    }
}

/// One who waits for a flight. Dropped, it leaves the flight.
pub(crate) struct Waiter<T: Payload> {
    tables: Arc<Tables<T>>,
    flight: Arc<Flight<T>>,
    slot: Arc<Slot<WaitOutcome<T>>>,
    number: u64,
}

impl<T: Payload> Waiter<T> {
    /// Blocks until there is something to tell, no longer than `deadline`.
    pub(crate) fn wait(&self, clock: &Clock, deadline: Deadline) -> WaitOutcome<T> {
        let flight = Arc::clone(&self.flight);
        let Some(_edge) = self.tables.wait_graph.enter(flight) else {
            return WaitOutcome::Cycle;
        };
        self.slot.wait(clock, deadline).unwrap_or(WaitOutcome::Late)
    }

    /// Has `callback` called with what this waiter is told, without any lock held, unless the waiter
    /// is dropped before.
    pub(crate) fn then(&self, callback: impl FnOnce(WaitOutcome<T>) + Send + 'static) {
        self.slot.then(callback);
    }

    /// Leads the flight if it has no leader yet.
    pub(crate) fn start(&self) -> Option<Guard<T>> {
        let hold = self.flight.state.lock().start()?;
        drop(hold); // it has a lock of its own (I2)
        Some(self.tables.guard(Arc::clone(&self.flight)))
    }

    /// Whether the flight has no leader yet.
    pub(crate) fn is_queued(&self) -> bool {
        self.flight.state.lock().is_queued()
    }

    /// The flight, if it has no leader yet and no place among what `origin` has queued.
    pub(crate) fn queued_besides(&self, flow: Flow) -> Option<Queued<T>> {
        let has_place = match &self.flight.state.lock().phase {
            Phase::Queued(holds) => holds.iter().any(|(other, _)| *other == flow),
            Phase::Led | Phase::SharedOutcome(_) => true,
        };
        (!has_place).then(|| self.tables.queued(&self.flight))
    }

    /// Leaves the flight if it is queued and nobody else wants it, which withdraws it. Gives this
    /// back otherwise.
    pub(crate) fn leave_if_alone(self) -> Result<(), Waiter<T>> {
        match self.flight.leave_if_alone(self.number) {
            Some(hold) => {
                self.tables.take_out(&self.flight);
                drop(hold);
                Ok(())
            }
            None => Err(self),
        }
    }

    /// Leaves the flight, and has it kept in its queue until `until` all the same.
    pub(crate) fn leave_a_claim(self, until: Instant, deadline: Deadline) {
        self.leave(Some(Claim { until, deadline }));
    }

    fn leave(&self, claim: Option<Claim>) {
        if let Some(hold) = self.flight.leave(self.number, claim) {
            self.tables.take_out(&self.flight);
            drop(hold);
        }
    }
}

impl<T: Payload> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.leave(None);
        // A lead that came too late goes on to the next: dropping it here would fail the others.
        if let Closed::Full(WaitOutcome::Lead(guard)) = self.slot.close() {
            guard.pass_on(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::key::KeyHasher;
    use std::time::Duration;

    type Result = std::result::Result<u32, &'static str>;

    struct Fixture {
        flights: Flights<Result>,
        hasher: KeyHasher,
        clock: Clock,
    }

    impl Fixture {
        fn new() -> Fixture {
            Fixture {
                flights: Flights::new(WaitGraph::new()),
                hasher: KeyHasher::new(),
                clock: Clock::manual(),
            }
        }

        fn join(&self, key: &str, deadline: Deadline, how: Join) -> Joined<Result> {
            self.flights.join(self.hasher.hash(key), deadline, how)
        }

        fn lead(&self, key: &str) -> Guard<Result> {
            match self.join(key, Deadline::NEVER, Join::Lead) {
                Joined::Lead(guard) => guard,
                Joined::Wait(_) => panic!("{key} is led already"),
            }
        }

        /// Waits as a thread does that can take the lead.
        fn wait(&self, key: &str, deadline: Deadline) -> Waiter<Result> {
            match self.join(key, deadline, Join::Lead) {
                Joined::Wait(waiter) => waiter,
                Joined::Lead(_) => panic!("{key} is not led"),
            }
        }

        /// Waits as one does that never leads.
        fn wait_only(&self, key: &str, deadline: Deadline) -> Waiter<Result> {
            let (waiter, queued) = self.flights.queue(self.hasher.hash(key), deadline);
            assert!(queued.is_none(), "{key} is not under way");
            waiter
        }

        fn queue(&self, key: &str, deadline: Deadline) -> (Waiter<Result>, Queued<Result>) {
            let (waiter, queued) = self.flights.queue(self.hasher.hash(key), deadline);
            (waiter, queued.expect("it is under way already"))
        }

        fn start(&self, queued: &Queued<Result>) -> Option<Guard<Result>> {
            queued.start(self.clock.now())
        }

        fn told(&self, waiter: &Waiter<Result>) -> WaitOutcome<Result> {
            waiter.wait(&self.clock, Deadline::at(self.clock.now()))
        }

        fn soon(&self) -> Deadline {
            Deadline::after(self.clock.now(), Duration::from_secs(1))
        }
    }

    /// Counts what is held.
    struct Held(Arc<AtomicU64>);

    impl Held {
        fn hold(count: &Arc<AtomicU64>) -> Hold {
            count.fetch_add(1, Ordering::SeqCst);
            Box::new(Held(Arc::clone(count)))
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn the_second_to_ask_gets_the_result_of_the_first() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let waiter = fixture.wait("k", Deadline::NEVER);
        guard.finish(Ok(7));
        assert!(matches!(
            fixture.told(&waiter),
            WaitOutcome::Finished(Ok(7))
        ));
        assert_eq!(fixture.flights.len(), 0);
    }

    #[test]
    fn a_lost_leader_frees_the_key_and_its_waiters() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let waiter = fixture.wait("k", Deadline::NEVER);
        drop(guard);
        assert!(matches!(fixture.told(&waiter), WaitOutcome::Lost));
        fixture.lead("k").finish(Ok(1));
    }

    #[test]
    fn a_leader_out_of_time_hands_over_to_the_oldest_with_time_left() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let late = fixture.wait("k", Deadline::at(fixture.clock.now()));
        let batch = fixture.wait_only("k", Deadline::NEVER);
        let successor = fixture.wait("k", fixture.soon());
        let younger = fixture.wait("k", Deadline::NEVER);
        guard.hand_over(fixture.clock.now());
        let WaitOutcome::Lead(guard) = fixture.told(&successor) else {
            panic!("the oldest that can lead and has time left must lead");
        };
        guard.finish(Ok(3));
        for waiter in [late, batch, younger] {
            assert!(matches!(
                fixture.told(&waiter),
                WaitOutcome::Finished(Ok(3))
            ));
        }
    }

    #[test]
    fn a_lead_that_nobody_picked_up_goes_on() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let successor = fixture.wait("k", Deadline::NEVER);
        let next = fixture.wait("k", Deadline::NEVER);
        guard.hand_over(fixture.clock.now());
        drop(successor);
        assert!(matches!(fixture.told(&next), WaitOutcome::Lead(_)));
    }

    #[test]
    fn where_nobody_can_lead_all_ask_anew() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let batch = fixture.wait_only("k", Deadline::NEVER);
        guard.hand_over(fixture.clock.now());
        assert_eq!(fixture.flights.len(), 0);
        assert!(matches!(fixture.told(&batch), WaitOutcome::Again));
    }

    #[test]
    fn a_stale_flight_is_not_joined_and_does_not_take_out_its_successor() {
        let fixture = Fixture::new();
        let old = fixture.lead("k");
        fixture.flights.mark_stale(fixture.hasher.hash("k"));
        assert!(old.stale().load(Ordering::Acquire));
        let new = fixture.lead("k");
        assert!(!new.stale().load(Ordering::Acquire));
        old.finish(Ok(1));
        assert_eq!(fixture.flights.len(), 1, "the successor is still there");
        let waiter = fixture.wait("k", Deadline::NEVER);
        new.finish(Ok(2));
        assert!(matches!(
            fixture.told(&waiter),
            WaitOutcome::Finished(Ok(2))
        ));
    }

    #[test]
    fn a_queued_flight_is_led_by_whoever_can_first() {
        let fixture = Fixture::new();
        let held = Arc::new(AtomicU64::new(0));
        let (waiter, queued) = fixture.queue("k", Deadline::NEVER);
        queued.hold(Flow::Application, Held::hold(&held));
        assert!(waiter.is_queued());
        let guard = fixture.lead("k");
        assert_eq!(held.load(Ordering::SeqCst), 0, "it is no longer queued");
        assert!(fixture.start(&queued).is_none() && !waiter.is_queued());
        guard.finish(Ok(5));
        assert!(matches!(
            fixture.told(&waiter),
            WaitOutcome::Finished(Ok(5))
        ));
        assert!(fixture.start(&queued).is_none());
    }

    #[test]
    fn the_last_to_leave_withdraws_a_queued_flight_and_gives_back_what_was_held() {
        let fixture = Fixture::new();
        let held = Arc::new(AtomicU64::new(0));
        let (first, queued) = fixture.queue("k", Deadline::NEVER);
        queued.hold(Flow::Application, Held::hold(&held));
        let second = fixture.wait_only("k", Deadline::NEVER);
        drop(first);
        assert_eq!((fixture.flights.len(), held.load(Ordering::SeqCst)), (1, 1));
        drop(second);
        assert_eq!((fixture.flights.len(), held.load(Ordering::SeqCst)), (0, 0));
        assert!(fixture.start(&queued).is_none());
        queued.hold(Flow::Application, Held::hold(&held));
        assert_eq!(held.load(Ordering::SeqCst), 0, "too late to hold anything");
    }

    #[test]
    fn one_who_leaves_if_alone_withdraws_only_what_nobody_else_wants() {
        let fixture = Fixture::new();
        let until = fixture.clock.now() + Duration::from_secs(1);
        let held = Arc::new(AtomicU64::new(0));
        let (first, queued) = fixture.queue("k", Deadline::NEVER);
        queued.hold(Flow::Application, Held::hold(&held));
        let second = fixture.wait_only("k", Deadline::NEVER);
        let first = first.leave_if_alone().err().unwrap();
        first.leave_a_claim(until, Deadline::NEVER);
        let second = second.leave_if_alone().err().unwrap();
        assert!(second.is_queued(), "another one comes back for it");
        drop(second);

        let (alone, queued) = fixture.queue("l", Deadline::NEVER);
        queued.hold(Flow::Application, Held::hold(&held));
        assert!(alone.leave_if_alone().is_ok());
        assert_eq!(held.load(Ordering::SeqCst), 1, "that of the other key");
        assert!(fixture.start(&queued).is_none());

        let (waits, queued) = fixture.queue("m", Deadline::NEVER);
        let guard = fixture.start(&queued).unwrap();
        let waits = waits.leave_if_alone().err().unwrap();
        guard.finish(Ok(3));
        assert!(matches!(fixture.told(&waits), WaitOutcome::Finished(Ok(3))));
    }

    #[test]
    fn a_led_flight_goes_on_when_all_have_left() {
        let fixture = Fixture::new();
        let (waiter, queued) = fixture.queue("k", Deadline::NEVER);
        let guard = fixture.start(&queued).unwrap();
        drop(waiter);
        assert_eq!(fixture.flights.len(), 1);
        let joined = fixture.wait("k", Deadline::NEVER);
        guard.finish(Ok(1));
        assert!(matches!(
            fixture.told(&joined),
            WaitOutcome::Finished(Ok(1))
        ));
    }

    #[test]
    fn a_claim_keeps_a_queued_flight_until_it_runs_out() {
        let fixture = Fixture::new();
        let now = fixture.clock.now();
        let until = now + Duration::from_secs(1);
        let (waiter, queued) = fixture.queue("k", Deadline::NEVER);
        waiter.leave_a_claim(until, fixture.soon());
        assert!(fixture.flights.withdraw_unclaimed(now));
        let again = fixture.wait_only("k", Deadline::at(now));
        assert!(
            again.is_queued(),
            "the one who asks again finds its place kept"
        );
        drop(again);
        assert!(!fixture.flights.withdraw_unclaimed(until));
        assert_eq!(fixture.flights.len(), 0);
        assert!(fixture.start(&queued).is_none());

        let (waiter, queued) = fixture.queue("k", Deadline::NEVER);
        waiter.leave_a_claim(until, fixture.soon());
        assert!(queued.start(until).is_none(), "nobody wants it any more");
        assert_eq!(fixture.flights.len(), 0);
    }

    #[test]
    fn the_deadline_of_a_flight_is_the_latest_of_those_who_wait() {
        let fixture = Fixture::new();
        let soon = fixture.soon();
        let later = Deadline::after(fixture.clock.now(), Duration::from_secs(2));
        let (first, queued) = fixture.queue("k", soon);
        let second = fixture.wait_only("k", later);
        let third = fixture.wait_only("k", Deadline::NEVER);
        drop(third);
        let guard = fixture.start(&queued).unwrap();
        assert_eq!(guard.latest_deadline(), Some(later));
        drop(second);
        assert_eq!(guard.latest_deadline(), Some(soon));
        drop(first);
        assert_eq!(guard.latest_deadline(), None);
    }

    #[test]
    fn a_result_that_came_too_late_is_for_those_alone_it_was_meant_for() {
        let fixture = Fixture::new();
        let soon = fixture.soon();
        let (first, queued) = fixture.queue("k", soon);
        let guard = fixture.start(&queued).unwrap();
        let second = fixture.wait_only("k", Deadline::NEVER);
        guard.finish_until(soon, Err("too late"));
        assert!(matches!(
            fixture.told(&first),
            WaitOutcome::Finished(Err("too late"))
        ));
        assert!(matches!(fixture.told(&second), WaitOutcome::Again));
    }

    #[test]
    fn a_thread_cannot_wait_for_itself() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let _leading = guard.lead();
        let waiter = fixture.wait("k", Deadline::NEVER);
        let told = waiter.wait(&fixture.clock, Deadline::NEVER);
        assert!(matches!(told, WaitOutcome::Cycle));
    }

    #[test]
    fn two_threads_cannot_wait_for_each_other() {
        let fixture = Fixture::new();
        let first = fixture.lead("a");
        let _leading = first.lead();
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let fixture = &fixture;
            scope.spawn(move || {
                let second = fixture.lead("b");
                let _leading = second.lead();
                let waiter = fixture.wait("a", Deadline::NEVER);
                ready.send(()).unwrap();
                match waiter.wait(&fixture.clock, Deadline::NEVER) {
                    WaitOutcome::Finished(result) => second.finish(result),
                    _ => second.finish(Err("a cycle")),
                }
            });
            is_ready.recv().unwrap();
            let waiter = fixture.wait("b", Deadline::NEVER);
            match waiter.wait(&fixture.clock, Deadline::NEVER) {
                WaitOutcome::Cycle => first.finish(Ok(1)),
                WaitOutcome::Finished(Err("a cycle")) => first.finish(Ok(2)),
                _ => panic!("one of the two must see the cycle"),
            }
        });
    }

    #[test]
    fn one_who_gave_up_leaves_nothing_behind() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        for _ in 0..100 {
            drop(fixture.wait("k", Deadline::NEVER));
        }
        assert!(guard.flight.state.lock().waiters.is_empty());
    }

    #[test]
    fn all_flights_at_once_become_stale_and_still_serve_those_who_wait() {
        let fixture = Fixture::new();
        let guards = ["a", "b", "c"].map(|key| fixture.lead(key));
        let waiter = fixture.wait("b", Deadline::NEVER);
        fixture.flights.mark_all_stale();
        assert_eq!(fixture.flights.len(), 0, "nobody joins them any more");
        for guard in guards {
            assert!(guard.stale().load(Ordering::Acquire));
            guard.finish(Ok(6));
        }
        assert!(matches!(
            fixture.told(&waiter),
            WaitOutcome::Finished(Ok(6))
        ));
    }

    #[test]
    fn a_callback_is_told_after_the_threads_unless_its_waiter_is_dropped() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread_waits = fixture.wait_only("k", Deadline::NEVER);
        let call_with = |name: &'static str| {
            let sender = sender.clone();
            let thread = Arc::clone(&thread_waits.slot);
            let waiter = fixture.wait_only("k", Deadline::NEVER);
            waiter.then(move |told| {
                let finished = matches!(told, WaitOutcome::Finished(Ok(8)));
                let thread_knows = matches!(thread.close(), Closed::Full(_));
                sender.send((name, finished && thread_knows)).unwrap();
            });
            waiter
        };
        let kept = call_with("kept");
        drop(call_with("dropped"));
        guard.finish(Ok(8));
        drop(kept);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [("kept", true)]);
    }

    /// One whose deadline came has closed its slot, and not yet left its place.
    fn gives_up(fixture: &Fixture) -> Waiter<Result> {
        let waiter = fixture.wait("k", Deadline::NEVER);
        assert!(matches!(waiter.slot.close(), Closed::Unfilled));
        waiter
    }

    #[test]
    fn a_lead_handed_to_one_who_is_giving_up_goes_to_the_next() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let _gone = gives_up(&fixture);
        let successor = fixture.wait("k", Deadline::NEVER);
        guard.hand_over(fixture.clock.now());
        let WaitOutcome::Lead(guard) = fixture.told(&successor) else {
            panic!("the next must lead");
        };
        guard.finish(Ok(1));
    }

    #[test]
    fn a_lead_passed_on_to_one_who_is_giving_up_goes_to_the_next() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let too_late = fixture.wait("k", Deadline::NEVER);
        let _gone = gives_up(&fixture);
        let successor = fixture.wait("k", Deadline::NEVER);
        guard.hand_over(fixture.clock.now());
        drop(too_late);
        let WaitOutcome::Lead(guard) = fixture.told(&successor) else {
            panic!("the next must lead");
        };
        guard.finish(Ok(1));
    }
}
