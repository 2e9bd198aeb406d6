//! What happens to flights, one test for each way out. All schedules are explored by `tests/model`.

use std::time::Duration;

use super::flights::{Flights, Join, Joined};
use super::leader::{Guard, WaitOutcome};
use super::queued::Queued;
use super::state::Hold;
use super::wait_graph::WaitGraph;
use super::waiter::Waiter;
use crate::cache::key::KeyHasher;
use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::flow::Flow;
use crate::runtime::slot::Closed;
use crate::runtime::sync::{Arc, AtomicU64, Ordering};

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

    /// A waiter that can take the lead, as of a thread.
    fn wait(&self, key: &str, deadline: Deadline) -> Waiter<Result> {
        match self.join(key, deadline, Join::Lead) {
            Joined::Wait(waiter) => waiter,
            Joined::Lead(_) => panic!("{key} is not led"),
        }
    }

    /// A waiter that never leads.
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

    fn outcome(&self, waiter: &Waiter<Result>) -> WaitOutcome<Result> {
        waiter.wait(&self.clock, Deadline::at(self.clock.now()))
    }

    fn soon(&self) -> Deadline {
        Deadline::after(self.clock.now(), Duration::from_secs(1))
    }
}

/// A hold that counts itself.
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
        fixture.outcome(&waiter),
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
    assert!(matches!(fixture.outcome(&waiter), WaitOutcome::Lost));
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
    let WaitOutcome::Lead(guard) = fixture.outcome(&successor) else {
        panic!("the oldest that can lead and has time left must lead");
    };
    guard.finish(Ok(3));
    for waiter in [late, batch, younger] {
        assert!(matches!(
            fixture.outcome(&waiter),
            WaitOutcome::Finished(Ok(3))
        ));
    }
}

#[test]
fn a_lead_that_its_successor_drops_goes_on() {
    let fixture = Fixture::new();
    let guard = fixture.lead("k");
    let successor = fixture.wait("k", Deadline::NEVER);
    let next = fixture.wait("k", Deadline::NEVER);
    guard.hand_over(fixture.clock.now());
    drop(successor);
    assert!(matches!(fixture.outcome(&next), WaitOutcome::Lead(_)));
}

#[test]
fn where_nobody_can_lead_all_join_anew() {
    let fixture = Fixture::new();
    let guard = fixture.lead("k");
    let batch = fixture.wait_only("k", Deadline::NEVER);
    guard.hand_over(fixture.clock.now());
    assert_eq!(fixture.flights.len(), 0);
    assert!(matches!(fixture.outcome(&batch), WaitOutcome::Again));
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
        fixture.outcome(&waiter),
        WaitOutcome::Finished(Ok(2))
    ));
}

#[test]
fn a_queued_flight_is_led_by_the_first_that_can() {
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
        fixture.outcome(&waiter),
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
fn a_waiter_that_leaves_if_alone_withdraws_only_what_nobody_else_wants() {
    let fixture = Fixture::new();
    let until = fixture.clock.now() + Duration::from_secs(1);
    let held = Arc::new(AtomicU64::new(0));
    let (first, queued) = fixture.queue("k", Deadline::NEVER);
    queued.hold(Flow::Application, Held::hold(&held));
    let second = fixture.wait_only("k", Deadline::NEVER);
    let first = first.leave_if_alone().err().unwrap();
    first.leave_a_claim(until, Deadline::NEVER);
    let second = second.leave_if_alone().err().unwrap();
    assert!(second.is_queued(), "another caller comes back for it");
    drop(second);

    let (alone, queued) = fixture.queue("l", Deadline::NEVER);
    queued.hold(Flow::Application, Held::hold(&held));
    assert!(alone.leave_if_alone().is_ok());
    assert_eq!(held.load(Ordering::SeqCst), 1, "that of the other key");
    assert!(fixture.start(&queued).is_none());

    let (waiter, queued) = fixture.queue("m", Deadline::NEVER);
    let guard = fixture.start(&queued).unwrap();
    let waiter = waiter.leave_if_alone().err().unwrap();
    guard.finish(Ok(3));
    assert!(matches!(
        fixture.outcome(&waiter),
        WaitOutcome::Finished(Ok(3))
    ));
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
        fixture.outcome(&joined),
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
        "the caller that asks again finds the flight queued"
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
fn the_deadline_of_a_flight_is_the_latest_of_its_waiters() {
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
fn a_result_that_came_too_late_is_only_for_the_waiters_it_was_meant_for() {
    let fixture = Fixture::new();
    let soon = fixture.soon();
    let (first, queued) = fixture.queue("k", soon);
    let guard = fixture.start(&queued).unwrap();
    let second = fixture.wait_only("k", Deadline::NEVER);
    guard.finish_until(soon, Err("too late"));
    assert!(matches!(
        fixture.outcome(&first),
        WaitOutcome::Finished(Err("too late"))
    ));
    assert!(matches!(fixture.outcome(&second), WaitOutcome::Again));
}

#[test]
fn a_thread_cannot_wait_for_itself() {
    let fixture = Fixture::new();
    let guard = fixture.lead("k");
    let _leading = guard.lead();
    let waiter = fixture.wait("k", Deadline::NEVER);
    let outcome = waiter.wait(&fixture.clock, Deadline::NEVER);
    assert!(matches!(outcome, WaitOutcome::Cycle));
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
fn a_waiter_that_gave_up_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let guard = fixture.lead("k");
    for _ in 0..100 {
        drop(fixture.wait("k", Deadline::NEVER));
    }
    assert_eq!(guard.latest_deadline(), None);
}

#[test]
fn all_flights_at_once_become_stale_and_still_serve_their_waiters() {
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
        fixture.outcome(&waiter),
        WaitOutcome::Finished(Ok(6))
    ));
}

#[test]
fn a_callback_is_called_after_the_threads_unless_its_waiter_is_dropped() {
    let fixture = Fixture::new();
    let guard = fixture.lead("k");
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread_waits = fixture.wait_only("k", Deadline::NEVER);
    let call_with = |name: &'static str| {
        let sender = sender.clone();
        let thread = Arc::clone(&thread_waits.slot);
        let waiter = fixture.wait_only("k", Deadline::NEVER);
        waiter.then(move |outcome| {
            let finished = matches!(outcome, WaitOutcome::Finished(Ok(8)));
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

/// A waiter whose deadline came: it has closed its slot, and has not yet left its flight.
fn gives_up(fixture: &Fixture) -> Waiter<Result> {
    let waiter = fixture.wait("k", Deadline::NEVER);
    assert!(matches!(waiter.slot.close(), Closed::Unfilled));
    waiter
}

#[test]
fn a_lead_handed_to_a_waiter_that_gives_up_goes_to_the_next() {
    let fixture = Fixture::new();
    let guard = fixture.lead("k");
    let _gone = gives_up(&fixture);
    let successor = fixture.wait("k", Deadline::NEVER);
    guard.hand_over(fixture.clock.now());
    let WaitOutcome::Lead(guard) = fixture.outcome(&successor) else {
        panic!("the next must lead");
    };
    guard.finish(Ok(1));
}

#[test]
fn a_lead_passed_on_to_a_waiter_that_gives_up_goes_to_the_next() {
    let fixture = Fixture::new();
    let guard = fixture.lead("k");
    let too_late = fixture.wait("k", Deadline::NEVER);
    let _gone = gives_up(&fixture);
    let successor = fixture.wait("k", Deadline::NEVER);
    guard.hand_over(fixture.clock.now());
    drop(too_late);
    let WaitOutcome::Lead(guard) = fixture.outcome(&successor) else {
        panic!("the next must lead");
    };
    guard.finish(Ok(1));
}
