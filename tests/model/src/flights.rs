//! What may happen to a flight, for loom: each function is one run, to be explored completely.
//!
//! In each run: no flight has two leaders at a time, every waiter returns (loom reports a deadlock),
//! and no flight is left in the table.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crate::cache::key::{KeyHasher, KeyRef};
use crate::flight::flights::{Flights, Join, Joined};
use crate::flight::leader::{Guard, WaitOutcome};
use crate::flight::queued::Queued;
use crate::flight::state::Hold;
use crate::flight::wait_graph::WaitGraph;
use crate::flight::waiter::Waiter;
use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::flow::Flow;
use crate::runtime::sync::{Arc, AtomicU64, Mutex, Ordering, thread};

type Answer = Result<u64, &'static str>;

/// How a get ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    /// This thread led.
    Led(Answer),
    /// Another one did.
    Shared(Answer),
    Lost,
    Again,
    Late,
    Cycle,
}

// What watches is modelled too: loom explores no order of two steps that have nothing in common.
struct World {
    flights: Flights<Answer>,
    hasher: KeyHasher,
    clock: Clock,
    /// The flights that are led now.
    led: Mutex<HashSet<usize>>,
    /// The version of the value where loaders find it.
    source: AtomicU64,
    /// The version in the cache.
    cache: Mutex<Option<u64>>,
    /// How many holds there are.
    held: Arc<AtomicU64>,
}

struct Held(Arc<AtomicU64>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl World {
    fn new() -> Arc<World> {
        Arc::new(World {
            flights: Flights::new(WaitGraph::new()),
            hasher: KeyHasher::new(),
            clock: Clock::manual(),
            led: Mutex::default(),
            source: AtomicU64::new(1),
            cache: Mutex::new(None),
            held: Arc::new(AtomicU64::new(0)),
        })
    }

    fn key<'a>(&self, key: &'a str) -> KeyRef<'a> {
        self.hasher.hash(key)
    }

    fn join(&self, key: &str, deadline: Deadline) -> Joined<Answer> {
        self.flights.join(self.key(key), deadline, Join::Lead)
    }

    /// The guard of a flight that nobody leads yet.
    fn first(self: &Arc<Self>, key: &'static str) -> Guard<Answer> {
        let [guard] = self.firsts([key]);
        guard
    }

    /// The guards of flights that nobody leads yet, as another thread than this one gets them: this
    /// thread may wait for the flights later.
    fn firsts<const N: usize>(self: &Arc<Self>, keys: [&'static str; N]) -> [Guard<Answer>; N] {
        let first = |world: &World, key| match world.join(key, Deadline::NEVER) {
            Joined::Lead(guard) => guard,
            Joined::Wait(_) => unreachable!("{key} is led already"),
        };
        ended(start(self, move |world| keys.map(|key| first(world, key))))
    }

    /// A waiter of a flight that is led, which can take the lead.
    fn successor(&self, key: &str) -> Waiter<Answer> {
        match self.join(key, Deadline::NEVER) {
            Joined::Wait(waiter) => waiter,
            Joined::Lead(_) => unreachable!("{key} is not led"),
        }
    }

    /// As [`successor`](World::successor), with little time.
    fn hurried(&self, key: &str) -> Waiter<Answer> {
        match self.join(key, self.soon()) {
            Joined::Wait(waiter) => waiter,
            Joined::Lead(_) => unreachable!("{key} is not led"),
        }
    }

    /// A waiter that never leads, with the flight if that is new.
    fn queue(&self, key: &str) -> (Waiter<Answer>, Option<Queued<Answer>>) {
        self.flights.queue(self.key(key), Deadline::NEVER)
    }

    fn soon(&self) -> Deadline {
        Deadline::after(self.clock.now(), Duration::from_secs(1))
    }

    /// Runs `load` as the leader of the flight, the only one.
    fn lead<R>(&self, guard: &Guard<Answer>, load: impl FnOnce() -> R) -> R {
        let _watch = Watch::begin(self, guard);
        let _leading = guard.lead();
        load()
    }

    fn finish(&self, guard: Guard<Answer>, answer: Answer) -> Got {
        self.lead(&guard, || ());
        guard.finish(answer);
        Got::Led(answer)
    }

    fn get(&self, key: &str, answer: Answer) -> Got {
        match self.join(key, Deadline::NEVER) {
            Joined::Lead(guard) => self.finish(guard, answer),
            Joined::Wait(waiter) => self.wait(waiter, answer),
        }
    }

    /// Waits, and leads with `answer` if it comes to that.
    fn wait(&self, waiter: Waiter<Answer>, answer: Answer) -> Got {
        self.wait_until(waiter, Deadline::NEVER, answer)
    }

    fn wait_until(&self, waiter: Waiter<Answer>, deadline: Deadline, answer: Answer) -> Got {
        let outcome = waiter.wait(&self.clock, deadline);
        self.receive(outcome, answer)
    }

    fn receive(&self, outcome: WaitOutcome<Answer>, answer: Answer) -> Got {
        match outcome {
            WaitOutcome::Lead(guard) => self.finish(guard, answer),
            WaitOutcome::Finished(answer) => Got::Shared(answer),
            WaitOutcome::Lost => Got::Lost,
            WaitOutcome::Again => Got::Again,
            WaitOutcome::Late => Got::Late,
            WaitOutcome::Cycle => Got::Cycle,
        }
    }

    /// What the pool does with a flight that it has in its queue.
    fn run(&self, queued: &Queued<Answer>, answer: Answer) -> Option<Got> {
        let guard = queued.start(self.clock.now())?;
        Some(self.finish(guard, answer))
    }

    /// A hold of a queue, counted.
    fn hold(&self) -> Hold {
        self.held.fetch_add(1, Ordering::SeqCst);
        Box::new(Held(Arc::clone(&self.held)))
    }

    /// A get with the cache: loads the version of the source and keeps it, unless the flight is
    /// stale.
    fn read(&self) -> u64 {
        let cached = *self.cache.lock();
        if let Some(cached) = cached {
            return cached;
        }
        match self.join("k", Deadline::NEVER) {
            Joined::Lead(guard) => self.load(guard),
            Joined::Wait(waiter) => match waiter.wait(&self.clock, Deadline::NEVER) {
                WaitOutcome::Finished(Ok(version)) => version,
                _ => unreachable!("nothing else happens to this flight"),
            },
        }
    }

    fn load(&self, guard: Guard<Answer>) -> u64 {
        let version = self.lead(&guard, || self.source.load(Ordering::SeqCst));
        {
            let mut cache = self.cache.lock();
            if !guard.stale().load(Ordering::Acquire) {
                *cache = Some(version);
            }
        }
        guard.finish(Ok(version));
        version
    }

    /// Changes the source and removes what is cached; what is read afterwards must be new.
    fn remove(&self) {
        let version = self.change();
        let cached = *self.cache.lock();
        assert!(cached.is_none_or(|cached| cached >= version));
    }

    fn change(&self) -> u64 {
        let version = self.source.fetch_add(1, Ordering::SeqCst) + 1;
        self.flights.mark_stale(self.key("k"));
        *self.cache.lock() = None;
        version
    }

    fn end(&self) {
        assert_eq!(self.flights.len(), 0, "a flight was left behind");
        assert_eq!(
            self.held.load(Ordering::SeqCst),
            0,
            "a hold was left behind"
        );
    }
}

/// Sees to it that a flight has one leader, until dropped.
struct Watch<'a> {
    world: &'a World,
    flight: usize,
}

impl<'a> Watch<'a> {
    fn begin(world: &'a World, guard: &Guard<Answer>) -> Watch<'a> {
        let flight = std::ptr::from_ref(guard.stale()).addr(); // only this flight has it there
        let alone = world.led.lock().insert(flight);
        assert!(alone, "the flight has two leaders");
        Watch { world, flight }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.world.led.lock().remove(&self.flight);
    }
}

/// Runs `work` on a thread of its own.
fn start<R: 'static>(
    world: &Arc<World>,
    work: impl FnOnce(&Arc<World>) -> R + 'static,
) -> thread::JoinHandle<R> {
    let world = Arc::clone(world);
    thread::spawn(move || work(&world))
}

#[allow(clippy::expect_used)] // a panic in a thread of a model ends the model
fn ended<R>(thread: thread::JoinHandle<R>) -> R {
    thread.join().expect("the thread has ended well")
}

/// Two callers and a joiner: whoever shares an answer shares that of a leader.
fn three_gets(answer: fn(u64) -> Answer) {
    let world = World::new();
    let first = start(&world, move |world| world.get("k", answer(1)));
    let second = start(&world, move |world| world.get("k", answer(2)));
    let third = world.get("k", answer(3));
    let got = [ended(first), ended(second), third];
    let mut leaders = 0;
    for one in got {
        match one {
            Got::Led(_) => leaders += 1,
            Got::Shared(answer) => assert!(got.contains(&Got::Led(answer))),
            _ => unreachable!("every get has an answer"),
        }
    }
    assert!(leaders > 0);
    world.end();
}

/// Two callers and a joiner of a load that succeeds.
pub fn success() {
    three_gets(Ok);
}

/// Two callers and a joiner of a load that fails: all get its error.
pub fn error() {
    three_gets(|caller| Err(["", "first", "second", "third"][caller as usize]));
}

/// The leader panics while one thread waits and another joins: both return, and the key is free.
pub fn panic() {
    let world = World::new();
    let guard = world.first("k");
    let successor = world.successor("k");
    let leader = start(&world, move |world| {
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let guard = guard;
            world.lead(&guard, || resume_unwind(Box::new(())));
        }));
        assert!(panicked.is_err());
    });
    let waiter = start(&world, |world| world.wait(successor, Ok(1)));
    let joined = world.get("k", Ok(2));
    assert!([Got::Led(Ok(2)), Got::Lost].contains(&joined));
    assert_eq!(ended(waiter), Got::Lost);
    ended(leader);
    assert_eq!(world.get("k", Ok(3)), Got::Led(Ok(3)));
    world.end();
}

/// A waiter's time comes while it begins to wait for a leader that takes longer.
pub fn time_up() {
    let world = World::new();
    let guard = world.first("k");
    let soon = world.soon();
    let (hurried, _) = world.queue("k");
    let hurried = start(&world, move |world| world.wait_until(hurried, soon, Ok(1)));
    let joiner = start(&world, move |world| {
        let (waiter, _) = world.queue("k");
        world.wait_until(waiter, soon, Ok(2))
    });
    world.clock.advance(Duration::from_secs(2));
    assert_eq!(ended(hurried), Got::Late);
    assert_eq!(ended(joiner), Got::Late);
    world.finish(guard, Ok(3));
    world.end();
}

/// The leader's time is up; the oldest waiter gives up as the clock moves; one waiter has time left.
pub fn hand_over() {
    let world = World::new();
    let guard = world.first("k");
    let soon = world.soon();
    let hurried = world.hurried("k");
    let patient = world.successor("k");
    let leader = start(&world, |world| {
        world.lead(&guard, || ());
        guard.hand_over(world.clock.now());
    });
    let hurried = start(&world, move |world| world.wait_until(hurried, soon, Ok(1)));
    let patient = start(&world, |world| world.wait(patient, Ok(2)));
    world.clock.advance(Duration::from_secs(2));
    match (ended(hurried), ended(patient)) {
        (Got::Led(Ok(1)), Got::Shared(Ok(1)))
        | (Got::Late | Got::Shared(Ok(2)), Got::Led(Ok(2))) => (),
        other => unreachable!("{other:?}"),
    }
    ended(leader);
    world.end();
}

/// The leader's time is up while a caller joins and the only waiter gives up.
pub fn hand_over_or_join() {
    let world = World::new();
    let guard = world.first("k");
    let soon = world.soon();
    let hurried = world.hurried("k");
    let leader = start(&world, |world| {
        world.lead(&guard, || ());
        guard.hand_over(world.clock.now());
    });
    let hurried = start(&world, move |world| world.wait_until(hurried, soon, Ok(1)));
    let joiner = start(&world, |world| world.get("k", Ok(2)));
    world.clock.advance(Duration::from_secs(2));
    let (hurried, joined) = (ended(hurried), ended(joiner));
    let possible = match joined {
        Got::Led(Ok(2)) => !matches!(hurried, Got::Lost | Got::Cycle),
        Got::Shared(Ok(1)) => hurried == Got::Led(Ok(1)),
        Got::Again => matches!(hurried, Got::Late | Got::Again),
        _ => false,
    };
    assert!(possible, "{hurried:?} {joined:?}");
    ended(leader);
    world.end();
}

/// The oldest waiter leaves as the lead is handed to it: it goes on to the next.
pub fn hand_over_or_drop() {
    let world = World::new();
    let guard = world.first("k");
    let leaving = world.successor("k");
    let next = world.successor("k");
    let leader = start(&world, |world| guard.hand_over(world.clock.now()));
    let leaving = start(&world, |_| drop(leaving));
    let next = start(&world, |world| world.wait(next, Ok(2)));
    let joined = world.get("k", Ok(3));
    assert!([Got::Led(Ok(3)), Got::Shared(Ok(2))].contains(&joined));
    assert_eq!(ended(next), Got::Led(Ok(2)));
    ended(leader);
    ended(leaving);
    world.end();
}

/// A callback waits, set as the flight ends: it is called once, without a lock, and may join anew.
pub fn callback() {
    let world = World::new();
    let guard = world.first("k");
    let (waiter, _) = world.queue("k");
    let calls = Arc::new(AtomicU64::new(0));
    let leader = start(&world, |world| world.finish(guard, Ok(1)));
    let called = Arc::clone(&calls);
    let caller = start(&world, move |world| {
        let asks = Arc::clone(world);
        waiter.then(move |outcome| {
            called.fetch_add(1, Ordering::SeqCst);
            assert_eq!(asks.receive(outcome, Ok(2)), Got::Shared(Ok(1)));
            assert!(matches!(asks.get("k", Ok(3)), Got::Led(_) | Got::Shared(_)));
        });
        waiter
    });
    let joined = world.get("k", Ok(4));
    assert!(matches!(joined, Got::Led(_) | Got::Shared(_)), "{joined:?}");
    ended(leader);
    drop(ended(caller));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    world.end();
}

/// A leader hands over while a callback waits, which never leads, and a thread gives up that could.
pub fn callback_is_told_to_ask_anew() {
    let world = World::new();
    let guard = world.first("k");
    let (waiter, _) = world.queue("k");
    let successor = world.successor("k");
    let calls = Arc::new(AtomicU64::new(0));
    let leader = start(&world, |world| guard.hand_over(world.clock.now()));
    let leaving = start(&world, |_| drop(successor));
    let called = Arc::clone(&calls);
    let asks = Arc::clone(&world);
    waiter.then(move |outcome| {
        called.fetch_add(1, Ordering::SeqCst);
        assert_eq!(asks.receive(outcome, Ok(1)), Got::Again);
    });
    ended(leader);
    ended(leaving);
    drop(waiter);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    world.end();
}

/// A value is removed as its load ends and another get begins.
pub fn stale() {
    let world = World::new();
    let guard = world.first("k");
    let leader = start(&world, |world| world.load(guard));
    let joiner = start(&world, |world| world.read());
    world.remove();
    assert_eq!(world.read(), 2, "a get after the removal");
    ended(leader);
    ended(joiner);
    assert!((*world.cache.lock()).is_none_or(|cached| cached == 2));
    world.end();
}

/// Two remove a value at once as its load ends: neither returns before it is gone.
pub fn stale_twice() {
    let world = World::new();
    let guard = world.first("k");
    let leader = start(&world, |world| world.load(guard));
    let other = start(&world, |world| world.remove());
    world.remove();
    ended(other);
    ended(leader);
    assert_eq!(*world.cache.lock(), None);
    world.end();
}

/// As before, with a get that starts a flight of its own meanwhile.
pub fn stale_twice_and_a_get() {
    let world = World::new();
    let guard = world.first("k");
    let leader = start(&world, |world| world.load(guard));
    let other = start(&world, |world| world.remove());
    let joiner = start(&world, |world| world.read());
    let version = world.change();
    assert!((*world.cache.lock()).is_none_or(|cached| cached >= version));
    ended(other);
    ended(leader);
    ended(joiner);
    assert!((*world.cache.lock()).is_none_or(|cached| cached == 3));
    world.end();
}

/// A queued load, wanted by the pool and by a caller that can lead, while its first caller waits.
pub fn queued() {
    let world = World::new();
    let (caller, queued) = new_in_queue(&world);
    let pool = start(&world, move |world| world.run(&queued, Ok(1)));
    let caller = start(&world, |world| world.wait(caller, Ok(2)));
    let joined = world.get("k", Ok(3));
    let (pool, caller) = (ended(pool), ended(caller));
    match (pool, joined) {
        (Some(Got::Led(Ok(1))), Got::Shared(Ok(1)) | Got::Led(Ok(3))) => {
            assert_eq!(caller, Got::Shared(Ok(1)));
        }
        (None, Got::Led(Ok(3))) => assert_eq!(caller, Got::Shared(Ok(3))),
        other => unreachable!("{other:?}"),
    }
    world.end();
}

/// A queued load whose only caller gives up, wanted by the pool and by a joiner that can lead.
pub fn queued_and_given_up() {
    let world = World::new();
    let (caller, queued) = new_in_queue(&world);
    let pool = start(&world, move |world| world.run(&queued, Ok(1)));
    let joiner = start(&world, |world| world.get("k", Ok(3)));
    drop(caller); // its time is up: it withdraws the load, unless another caller has come
    match (ended(pool), ended(joiner)) {
        (_, Got::Led(Ok(3))) | (Some(_), Got::Shared(Ok(1))) => (),
        other => unreachable!("{other:?}"),
    }
    world.end();
}

/// The only caller of a queued load gives up as another one comes that waits for the pool, and is
/// never left without an answer.
pub fn queued_again() {
    let world = World::new();
    let (caller, queued) = new_in_queue(&world);
    let pool = start(&world, move |world| world.run(&queued, Ok(1)));
    let leaving = start(&world, |_| drop(caller));
    let (waiter, own) = world.queue("k");
    let run = own.and_then(|own| {
        own.hold(Flow::Application, world.hold());
        world.run(&own, Ok(2))
    });
    let got = world.wait(waiter, Ok(3));
    let pool = ended(pool);
    match run {
        Some(_) => assert_eq!(got, Got::Shared(Ok(2))),
        None => assert_eq!((pool, got), (Some(Got::Led(Ok(1))), Got::Shared(Ok(1)))),
    }
    ended(leaving);
    world.end();
}

/// A caller that was answered "still queued" leaves a claim and asks again, while the pool starts the
/// load and the claim ends.
pub fn queued_and_claimed() {
    let world = World::new();
    let (caller, queued) = new_in_queue(&world);
    let until = world.clock.now() + Duration::from_secs(1);
    caller.leave_a_claim(until, Deadline::NEVER);
    let pool = start(&world, move |world| world.run(&queued, Ok(1)));
    let sweeper = start(&world, |world| {
        world.clock.advance(Duration::from_secs(1));
        world.flights.withdraw_unclaimed(world.clock.now());
    });
    let got = world.get("k", Ok(2));
    assert!([Got::Led(Ok(2)), Got::Shared(Ok(1))].contains(&got));
    ended(pool);
    ended(sweeper);
    world.end();
}

/// A load in a queue, and its waiter.
fn new_in_queue(world: &World) -> (Waiter<Answer>, Queued<Answer>) {
    let (caller, queued) = world.queue("k");
    let Some(queued) = queued else {
        unreachable!("it is the first");
    };
    queued.hold(Flow::Application, world.hold());
    (caller, queued)
}

/// Two threads lead and wait for each other: one of them sees the cycle, and both return.
pub fn cycle_of_two() {
    let world = World::new();
    let [a, b] = world.firsts(["a", "b"]);
    let one = start(&world, |world| lead_and_wait(world, a, "b"));
    let other = lead_and_wait(&world, b, "a");
    let got = [ended(one), other];
    assert_eq!(got.iter().filter(|got| **got == Got::Cycle).count(), 1);
    world.end();
}

/// Three threads lead and wait in a ring.
pub fn cycle_of_three() {
    let world = World::new();
    let [a, b, c] = world.firsts(["a", "b", "c"]);
    let one = start(&world, |world| lead_and_wait(world, a, "b"));
    let two = start(&world, |world| lead_and_wait(world, b, "c"));
    let three = lead_and_wait(&world, c, "a");
    let got = [ended(one), ended(two), three];
    assert!(got.contains(&Got::Cycle));
    world.end();
}

/// The cycle comes about by a lead that is handed over.
pub fn cycle_by_hand_over() {
    let world = World::new();
    let [a, b, x] = world.firsts(["a", "b", "x"]);
    let successor = world.successor("b");
    let one = start(&world, |world| lead_and_wait(world, a, "b"));
    let two = start(&world, move |world| {
        let got = world.lead(&x, || match successor.wait(&world.clock, Deadline::NEVER) {
            WaitOutcome::Lead(b) => lead_and_wait(world, b, "a"),
            _ => unreachable!("it is the oldest, and nobody waits for it"),
        });
        x.finish(Ok(9));
        got
    });
    b.hand_over(world.clock.now());
    let got = [ended(one), ended(two)];
    assert_eq!(got.iter().filter(|got| **got == Got::Cycle).count(), 1);
    world.end();
}

/// Leads one flight, and meanwhile asks for `other`.
fn lead_and_wait(world: &World, guard: Guard<Answer>, other: &str) -> Got {
    let got = world.lead(&guard, || world.get(other, Ok(2)));
    guard.finish(Ok(1));
    got
}
