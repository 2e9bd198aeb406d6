//! `Flights`: one run per key, shared by all who ask for it meanwhile (singleflight).
//!
//! The first to ask leads and holds a [`Guard`]; the others wait, each with its own deadline. A
//! waiter is a [`Slot`], so it may be a parked thread or a callback.
//!
//! * I3: the guard ends the flight however it goes, by `finish`, by `hand_over` or by being
//!   dropped in a panic. It only ever takes its own flight out of the table, never a successor.
//! * I6: a leader whose time is up hands the flight to the oldest waiter that has time left.
//! * I8: a thread that leads may wait for another flight only if that one does not, through
//!   whatever it waits for itself, wait for this thread ([`Waits`]).
//! * An invalidation is a stale mark: the flight leaves the table, so that nobody joins it any
//!   more; those who wait still get its value; it is not to be stored.
//!
//! A leader whose load waits for a thread of the pool has its guard *queued* in the flight: whoever
//! can lead at once may take it from there, be it the pool or a thread that just joined.

use std::collections::HashMap;
use std::time::Instant;

use crate::deadline::{Clock, Deadline};
use crate::key::{HandThrough, Hashed, Key, KeyRef};
use crate::slot::{Closed, Slot};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Weak};
use crate::waits::{Leading, Led, NOBODY, Waits, this_thread};

const SHARDS: usize = 4;

/// What a flight can carry: every waiter gets a clone, on a thread of its own.
pub(crate) trait Payload: Clone + Send + 'static {}

impl<T: Clone + Send + 'static> Payload for T {}

/// The flights of one kind in one group. Clones share them.
pub(crate) struct Flights<T: Payload> {
    board: Arc<Board<T>>,
}

/// The flights that can be joined, by key.
struct Board<T: Payload> {
    tables: Vec<Mutex<Table<T>>>,
    waits: Arc<Waits>,
}

type Table<T> = HashMap<Key, Arc<Flight<T>>, HandThrough>;

struct Flight<T: Payload> {
    key: Key,
    stale: AtomicBool,
    /// Number of the thread that runs it; 0 while it is queued or between two leaders.
    leader: AtomicU64,
    crew: Mutex<Crew<T>>,
}

struct Crew<T: Payload> {
    queued: Option<Guard<T>>,
    waiters: Vec<Seat<T>>,
    seats_given: u64,
    landed: Option<Landing<T>>,
}

struct Seat<T: Payload> {
    number: u64,
    deadline: Deadline,
    /// Whether it can lead at once, without a thread of the pool.
    can_lead: bool,
    slot: Arc<Slot<Delivery<T>>>,
}

/// What one who comes to a flight finds.
enum Seating<T: Payload> {
    Seat(u64),
    Lead(Guard<T>),
    Landed(Landing<T>),
}

/// How a flight ended.
#[derive(Clone)]
enum Landing<T> {
    Finished(T),
    Abandoned,
    Released,
}

/// What a waiter gets.
pub(crate) enum Delivery<T: Payload> {
    /// The result.
    Finished(T),
    /// The leader was lost to a panic.
    Abandoned,
    /// The leader left without a result and nobody took over: ask anew.
    Released,
    /// The leader left, and this waiter leads from now on.
    Lead(Guard<T>),
}

impl<T: Payload> From<Landing<T>> for Delivery<T> {
    fn from(landing: Landing<T>) -> Delivery<T> {
        match landing {
            Landing::Finished(result) => Delivery::Finished(result),
            Landing::Abandoned => Delivery::Abandoned,
            Landing::Released => Delivery::Released,
        }
    }
}

/// The part of one who asks for a key.
pub(crate) enum Part<T: Payload> {
    Lead(Guard<T>),
    Wait(Waiter<T>),
}

impl<T: Payload> Flights<T> {
    pub(crate) fn new(waits: Arc<Waits>) -> Flights<T> {
        let table = |_| Mutex::new(Table::default());
        Flights {
            board: Arc::new(Board {
                tables: (0..SHARDS).map(table).collect(),
                waits,
            }),
        }
    }

    /// Joins the flight of `key`, or starts it. One who `can_lead` at once, on this thread, also
    /// takes over a flight that is only queued.
    pub(crate) fn join(&self, key: KeyRef<'_>, deadline: Deadline, can_lead: bool) -> Part<T> {
        let flight = match self.board.find_or_start(key) {
            Ok(flight) => flight,
            Err(guard) => return Part::Lead(guard),
        };
        self.board.seat(flight, deadline, can_lead)
    }

    /// Marks the flight of `key` stale, if one is under way.
    ///
    /// Under the lock of the table: whoever does not find the flight there, because another one is
    /// taking it out, finds it marked.
    pub(crate) fn mark_stale(&self, key: KeyRef<'_>) {
        let flight = {
            let mut table = self.board.table(key).lock();
            let flight = table.remove(&key as &dyn Hashed);
            flight.inspect(|flight| flight.mark_stale())
        };
        drop(flight); // perhaps the last hold on it: not under a lock (I2)
    }

    /// Marks all flights stale that are under way.
    pub(crate) fn mark_all_stale(&self) {
        for table in &self.board.tables {
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
        let table = self.board.table(key).lock();
        table.contains_key(&key as &dyn Hashed)
    }

    /// What the tables take, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let held = |table: &Mutex<Table<T>>| {
            size_of_val(table) + table.lock().capacity() * size_of::<(Key, usize)>()
        };
        self.board.tables.iter().map(held).sum()
    }

    /// How many flights can be joined now.
    pub(crate) fn len(&self) -> usize {
        self.board
            .tables
            .iter()
            .map(|table| table.lock().len())
            .sum()
    }
}

impl<T: Payload> Board<T> {
    fn table(&self, key: KeyRef<'_>) -> &Mutex<Table<T>> {
        &self.tables[key.shard(SHARDS)]
    }

    /// The flight of `key`, or the guard of a new one.
    fn find_or_start(self: &Arc<Self>, key: KeyRef<'_>) -> Result<Arc<Flight<T>>, Guard<T>> {
        let mut table = self.table(key).lock();
        if let Some(flight) = table.get(&key as &dyn Hashed) {
            return Ok(Arc::clone(flight));
        }
        let flight = Arc::new(Flight::new(key.to_key()));
        table.insert(flight.key.clone(), Arc::clone(&flight));
        Err(Guard {
            board: Arc::clone(self),
            flight,
            ended: false,
        })
    }

    /// A seat in `flight`, or its lead, if it is queued and one `can_lead`.
    fn seat(&self, flight: Arc<Flight<T>>, deadline: Deadline, can_lead: bool) -> Part<T> {
        let slot = Slot::new();
        let number = match flight.take_seat(&slot, deadline, can_lead) {
            Seating::Lead(guard) => return Part::Lead(guard),
            Seating::Seat(number) => number,
            Seating::Landed(landing) => {
                // It landed since it was found in the table: as good as if waited for.
                let _ = slot.fill(landing.into());
                0
            }
        };
        Part::Wait(Waiter {
            waits: Arc::clone(&self.waits),
            flight,
            slot,
            number,
            deadline,
        })
    }

    /// Takes `flight` out of the table, but never its successor (I3).
    fn take_out(&self, flight: &Arc<Flight<T>>) {
        let key = flight.key.as_ref();
        let mut table = self.table(key).lock();
        let found = table.get(&key as &dyn Hashed);
        if found.is_some_and(|found| Arc::ptr_eq(found, flight)) {
            table.remove(&key as &dyn Hashed);
        }
    }
}

impl<T: Payload> Flight<T> {
    fn new(key: Key) -> Flight<T> {
        Flight {
            key,
            stale: AtomicBool::new(false),
            leader: AtomicU64::new(this_thread()),
            crew: Mutex::new(Crew {
                queued: None,
                waiters: Vec::new(),
                seats_given: 0,
                landed: None,
            }),
        }
    }

    /// Whoever removes a value takes the lock of its cache shard after this, and whoever stores it
    /// looks at the mark under that lock: no old value slips in between.
    fn mark_stale(&self) {
        self.stale.store(true, Ordering::Release);
    }

    fn take_queued(&self) -> Option<Guard<T>> {
        self.crew.lock().queued.take()
    }

    /// Under one lock, as [`Guard::queue`]: one who can lead never sits beside a queued guard.
    fn take_seat(
        &self,
        slot: &Arc<Slot<Delivery<T>>>,
        deadline: Deadline,
        can_lead: bool,
    ) -> Seating<T> {
        let mut crew = self.crew.lock();
        if let Some(landing) = &crew.landed {
            return Seating::Landed(landing.clone());
        }
        if can_lead {
            if let Some(guard) = crew.queued.take() {
                return Seating::Lead(guard);
            }
        }
        crew.seats_given += 1;
        let number = crew.seats_given;
        crew.waiters.push(Seat {
            number,
            deadline,
            can_lead,
            slot: Arc::clone(slot),
        });
        Seating::Seat(number)
    }

    fn leave(&self, number: u64) {
        let mut crew = self.crew.lock();
        crew.waiters.retain(|seat| seat.number != number);
    }

    /// Takes the oldest waiter that still has time out of its seat.
    fn successor(&self, now: Instant) -> Option<Seat<T>> {
        let mut crew = self.crew.lock();
        let has_time = |seat: &Seat<T>| !seat.deadline.is_past(now);
        let position = crew.waiters.iter().position(has_time)?;
        Some(crew.waiters.remove(position))
    }
}

impl<T: Payload> Led for Flight<T> {
    fn leader(&self) -> u64 {
        self.leader.load(Ordering::SeqCst)
    }
}

/// The leader's hold on a flight. It ends the flight on every way out (I3).
pub(crate) struct Guard<T: Payload> {
    board: Arc<Board<T>>,
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
        Leading::start()
    }

    /// Ends the flight with `result`, for all who wait. What is to be stored is stored (I7).
    pub(crate) fn finish(mut self, result: T) {
        self.land(Landing::Finished(result));
    }

    /// Hands the flight to the oldest waiter with time left (I6); ends it if there is none.
    pub(crate) fn hand_over(mut self, now: Instant) {
        self.flight.leader.store(NOBODY, Ordering::SeqCst);
        while let Some(seat) = self.flight.successor(now) {
            match seat.slot.fill(Delivery::Lead(self)) {
                Err(Delivery::Lead(guard)) => self = guard,
                _ => return,
            }
        }
        self.land(Landing::Released);
    }

    /// Leaves the guard in the flight for whoever can lead first, and waits for the flight until
    /// `deadline`. A waiter that can lead at once gets the lead now: it may hold the very thread of
    /// the pool that the guard would wait for.
    pub(crate) fn queue(self, deadline: Deadline) -> (Waiter<T>, Queued<T>) {
        let flight = Arc::clone(&self.flight);
        let slot = Slot::new();
        let number = match flight.take_seat(&slot, deadline, false) {
            Seating::Seat(number) => number,
            // It has neither landed nor been queued: the guard of both is this one.
            Seating::Lead(_) | Seating::Landed(_) => 0,
        };
        let waiter = Waiter {
            waits: Arc::clone(&self.board.waits),
            flight: Arc::clone(&flight),
            slot,
            number,
            deadline,
        };
        flight.leader.store(NOBODY, Ordering::SeqCst);
        let mut guard = Some(self);
        while let Some(queueing) = guard.take() {
            let heir = {
                let mut crew = flight.crew.lock();
                match crew.waiters.iter().position(|seat| seat.can_lead) {
                    Some(position) => Some((crew.waiters.remove(position), queueing)),
                    None => {
                        crew.queued = Some(queueing);
                        None
                    }
                }
            };
            if let Some((seat, leading)) = heir {
                // One who gave up meanwhile gives it back.
                if let Err(Delivery::Lead(back)) = seat.slot.fill(Delivery::Lead(leading)) {
                    guard = Some(back);
                }
            }
        }
        let flight = Arc::downgrade(&flight);
        (waiter, Queued { flight })
    }

    fn land(&mut self, landing: Landing<T>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.board.take_out(&self.flight);
        let waiters = {
            let mut crew = self.flight.crew.lock();
            crew.landed = Some(landing.clone());
            std::mem::take(&mut crew.waiters)
        };
        for seat in waiters {
            // One who gave up meanwhile does not want it.
            let _ = seat.slot.fill(landing.clone().into());
        }
    }
}

impl<T: Payload> Drop for Guard<T> {
    fn drop(&mut self) {
        self.land(Landing::Abandoned);
    }
}

/// A guard that waits in its flight for one who can lead. Dropped unused, it ends the flight.
pub(crate) struct Queued<T: Payload> {
    /// Weak: who still has a place in the queue must not keep what the flight brought. As long as the
    /// guard waits it holds the flight.
    flight: Weak<Flight<T>>,
}

impl<T: Payload> Queued<T> {
    /// The guard, unless somebody else has taken it.
    pub(crate) fn take(&self) -> Option<Guard<T>> {
        self.flight.upgrade()?.take_queued()
    }

    /// Whether the guard is still there to be taken.
    pub(crate) fn is_waiting(&self) -> bool {
        let flight = self.flight.upgrade();
        flight.is_some_and(|flight| flight.crew.lock().queued.is_some())
    }
}

impl<T: Payload> Drop for Queued<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// A seat in a flight that somebody else leads. Dropped, it leaves the flight.
pub(crate) struct Waiter<T: Payload> {
    waits: Arc<Waits>,
    flight: Arc<Flight<T>>,
    slot: Arc<Slot<Delivery<T>>>,
    number: u64,
    deadline: Deadline,
}

/// Why a waiter got nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    /// Its own deadline came.
    Deadline,
    /// It would have waited for itself (I8).
    Cycle,
}

impl<T: Payload> Waiter<T> {
    /// Blocks until the flight ends, its leader hands over, or the deadline comes.
    pub(crate) fn wait(self, clock: &Clock) -> Result<Delivery<T>, Missed> {
        let flight = Arc::clone(&self.flight);
        let _edge = self.waits.enter(flight).ok_or(Missed::Cycle)?;
        self.slot.wait(clock, self.deadline).ok_or(Missed::Deadline)
    }

    /// Has `callback` called with what this waiter gets, without any lock held, unless the waiter
    /// is dropped before.
    pub(crate) fn then(&self, callback: impl FnOnce(Delivery<T>) + Send + 'static) {
        self.slot.then(callback);
    }

    /// Leaves the flight.
    pub(crate) fn leave(&mut self) {
        self.flight.leave(self.number);
    }

    /// Whether nobody leads the flight yet: it waits for a thread.
    pub(crate) fn is_queued(&self) -> bool {
        self.flight.crew.lock().queued.is_some()
    }
}

impl<T: Payload> Drop for Waiter<T> {
    fn drop(&mut self) {
        self.flight.leave(self.number);
        // A lead that came too late goes on to the next: dropping it here would fail the others.
        if let Closed::Full(Delivery::Lead(guard)) = self.slot.close() {
            guard.pass_on();
        }
    }
}

impl<T: Payload> Guard<T> {
    /// Hands over without looking at the time: whose time is up passes it on in turn.
    fn pass_on(mut self) {
        loop {
            let seat = {
                let mut crew = self.flight.crew.lock();
                if crew.waiters.is_empty() {
                    break;
                }
                crew.waiters.remove(0)
            };
            match seat.slot.fill(Delivery::Lead(self)) {
                Err(Delivery::Lead(guard)) => self = guard,
                _ => return,
            }
        }
        self.land(Landing::Released);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyHasher;
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
                flights: Flights::new(Waits::new()),
                hasher: KeyHasher::new(),
                clock: Clock::manual(),
            }
        }

        fn lead(&self, key: &str) -> Guard<Result> {
            match self.join_able(key) {
                Part::Lead(guard) => guard,
                Part::Wait(_) => panic!("{key} is led already"),
            }
        }

        /// Joins as one who can lead at once.
        fn join_able(&self, key: &str) -> Part<Result> {
            self.flights
                .join(self.hasher.hash(key), Deadline::NEVER, true)
        }

        fn wait(&self, key: &str, deadline: Deadline) -> Waiter<Result> {
            match self.flights.join(self.hasher.hash(key), deadline, false) {
                Part::Wait(waiter) => waiter,
                Part::Lead(_) => panic!("{key} is not led"),
            }
        }

        fn soon(&self) -> Deadline {
            Deadline::after(self.clock.now(), Duration::from_secs(1))
        }
    }

    #[test]
    fn the_second_to_ask_gets_the_result_of_the_first() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let waiter = fixture.wait("k", Deadline::NEVER);
        guard.finish(Ok(7));
        let delivery = waiter.wait(&fixture.clock);
        assert!(matches!(delivery, Ok(Delivery::Finished(Ok(7)))));
        assert_eq!(fixture.flights.len(), 0);
    }

    #[test]
    fn a_lost_leader_frees_the_key_and_its_waiters() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let waiter = fixture.wait("k", Deadline::NEVER);
        drop(guard);
        assert!(matches!(
            waiter.wait(&fixture.clock),
            Ok(Delivery::Abandoned)
        ));
        fixture.lead("k").finish(Ok(1));
    }

    #[test]
    fn a_leader_out_of_time_hands_over_to_the_oldest_with_time_left() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let late = fixture.wait("k", Deadline::at(fixture.clock.now()));
        let heir = fixture.wait("k", fixture.soon());
        let younger = fixture.wait("k", Deadline::NEVER);
        guard.hand_over(fixture.clock.now());
        let Ok(Delivery::Lead(guard)) = heir.wait(&fixture.clock) else {
            panic!("the oldest with time left must lead");
        };
        guard.finish(Ok(3));
        let delivery = younger.wait(&fixture.clock);
        assert!(matches!(delivery, Ok(Delivery::Finished(Ok(3)))));
        let delivery = late.wait(&fixture.clock);
        assert!(
            matches!(delivery, Ok(Delivery::Finished(Ok(3)))),
            "it was there to be taken"
        );
    }

    #[test]
    fn a_lead_that_nobody_picked_up_goes_on() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let heir = fixture.wait("k", Deadline::NEVER);
        let next = fixture.wait("k", Deadline::NEVER);
        guard.hand_over(fixture.clock.now());
        drop(heir);
        assert!(matches!(next.wait(&fixture.clock), Ok(Delivery::Lead(_))));
    }

    #[test]
    fn a_leader_without_heirs_releases_the_key() {
        let fixture = Fixture::new();
        fixture.lead("k").hand_over(fixture.clock.now());
        assert_eq!(fixture.flights.len(), 0);
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
            waiter.wait(&fixture.clock),
            Ok(Delivery::Finished(Ok(2)))
        ));
    }

    #[test]
    fn a_queued_flight_is_led_by_whoever_can() {
        let fixture = Fixture::new();
        let (_waiter, queued) = fixture.lead("k").queue(Deadline::NEVER);
        assert!(queued.is_waiting());
        let guard = fixture.lead("k");
        assert!(queued.take().is_none());
        guard.finish(Ok(5));
    }

    #[test]
    fn a_flight_that_is_queued_while_one_waits_who_can_lead_is_led_by_that_one() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let Part::Wait(able) = fixture.join_able("k") else {
            panic!("it is led already");
        };
        let (waiter, queued) = guard.queue(Deadline::NEVER);
        assert!(!queued.is_waiting());
        let Ok(Delivery::Lead(guard)) = able.wait(&fixture.clock) else {
            panic!("it holds the thread that the load would wait for");
        };
        guard.finish(Ok(4));
        let delivery = waiter.wait(&fixture.clock);
        assert!(matches!(delivery, Ok(Delivery::Finished(Ok(4)))));
    }

    #[test]
    fn a_thread_cannot_wait_for_itself() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let _leading = guard.lead();
        let waiter = fixture.wait("k", Deadline::NEVER);
        assert!(matches!(waiter.wait(&fixture.clock), Err(Missed::Cycle)));
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
                let delivery = waiter.wait(&fixture.clock);
                match delivery {
                    Ok(Delivery::Finished(result)) => second.finish(result),
                    _ => second.finish(Err("a cycle")),
                }
            });
            is_ready.recv().unwrap();
            let waiter = fixture.wait("b", Deadline::NEVER);
            match waiter.wait(&fixture.clock) {
                Err(Missed::Cycle) => first.finish(Ok(1)),
                Ok(Delivery::Finished(Err("a cycle"))) => first.finish(Ok(2)),
                _ => panic!("one of the two must see the cycle"),
            }
        });
    }

    #[test]
    fn one_who_gave_up_leaves_no_seat_behind() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        for _ in 0..100 {
            drop(fixture.wait("k", Deadline::NEVER));
        }
        assert!(guard.flight.crew.lock().waiters.is_empty());
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
        let delivery = waiter.wait(&fixture.clock);
        assert!(matches!(delivery, Ok(Delivery::Finished(Ok(6)))));
    }

    #[test]
    fn a_queued_guard_can_be_taken_once_and_ends_its_flight_if_nobody_does() {
        let fixture = Fixture::new();
        let (waiter, queued) = fixture.lead("taken").queue(Deadline::NEVER);
        let guard = queued.take().expect("nobody else has taken it");
        assert!(queued.take().is_none());
        drop(queued);
        guard.finish(Ok(5));
        let delivery = waiter.wait(&fixture.clock);
        assert!(matches!(delivery, Ok(Delivery::Finished(Ok(5)))));

        let (waiter, queued) = fixture.lead("left").queue(Deadline::NEVER);
        drop(queued);
        assert_eq!(fixture.flights.len(), 0);
        // Not waited for: if the flight did not end, that would never end either.
        assert!(matches!(
            waiter.slot.close(),
            Closed::Full(Delivery::Abandoned)
        ));
    }

    #[test]
    fn a_waiter_sees_whether_the_flight_is_queued() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let other = fixture.wait("k", Deadline::NEVER);
        assert!(!other.is_queued());
        let (own, queued) = guard.queue(Deadline::NEVER);
        assert!(other.is_queued() && own.is_queued());
        let guard = queued.take();
        assert!(!other.is_queued() && !own.is_queued());
        drop(guard);
    }

    #[test]
    fn a_callback_gets_what_a_waiting_thread_would_unless_its_waiter_is_dropped() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let (sender, receiver) = std::sync::mpsc::channel();
        let call_with = |name: &'static str| {
            let sender = sender.clone();
            let waiter = fixture.wait("k", Deadline::NEVER);
            waiter.then(move |delivery| {
                let finished = matches!(delivery, Delivery::Finished(Ok(8)));
                sender.send((name, finished)).unwrap();
            });
            waiter
        };
        let kept = call_with("kept");
        drop(call_with("dropped"));
        guard.finish(Ok(8));
        drop(kept);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [("kept", true)]);
    }

    /// One whose deadline came has closed its slot, and not yet left its seat.
    fn gives_up(fixture: &Fixture) -> Waiter<Result> {
        let Part::Wait(waiter) = fixture.join_able("k") else {
            panic!("it is led already");
        };
        assert!(matches!(waiter.slot.close(), Closed::Unfilled));
        waiter
    }

    #[test]
    fn a_lead_handed_to_one_who_is_giving_up_goes_to_the_next() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let _gone = gives_up(&fixture);
        let heir = fixture.wait("k", Deadline::NEVER);
        guard.hand_over(fixture.clock.now());
        let Ok(Delivery::Lead(guard)) = heir.wait(&fixture.clock) else {
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
        let heir = fixture.wait("k", Deadline::NEVER);
        guard.hand_over(fixture.clock.now());
        drop(too_late);
        let Ok(Delivery::Lead(guard)) = heir.wait(&fixture.clock) else {
            panic!("the next must lead");
        };
        guard.finish(Ok(1));
    }

    #[test]
    fn a_flight_whose_only_able_waiter_is_giving_up_is_queued() {
        let fixture = Fixture::new();
        let guard = fixture.lead("k");
        let _gone = gives_up(&fixture);
        let (waiter, queued) = guard.queue(Deadline::NEVER);
        queued.take().expect("it waits for a thread").finish(Ok(2));
        let delivery = waiter.wait(&fixture.clock);
        assert!(matches!(delivery, Ok(Delivery::Finished(Ok(2)))));
    }
}
