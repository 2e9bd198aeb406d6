//! `Batcher`: requests to one peer that are made at the same time become one.
//!
//! As long as there are only a few callers, each sends a request of its own, and waits as long as that
//! takes. Beyond, only a few requests are in flight at a time, and they are for what the peer has in
//! memory, so that they end soon. Callers that arrive meanwhile wait in a queue. As soon as a request
//! ends, all callers in the queue go into the next one: the first of them is its *leader*, the others
//! are its *followers*, which the leader gives their answers. So the higher the load, the larger the
//! *batch*. (Databases do the same with their logs, as group commit.) A leader returns with its answer
//! after one batch: the next caller in the queue leads the next one.
//!
//! What this saves is work of the system: with more threads than processors, most of a small request
//! between two processes is the cost of putting threads to sleep and waking them, at both ends.

use std::collections::VecDeque;

use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::slot::Slot;
use crate::runtime::sync::{Arc, AtomicUsize, Mutex, Ordering};

/// The most callers of a batch.
const MAX_BATCH: usize = 128;

/// A query that may share a request with others.
pub(crate) trait Batchable: Send + 'static {
    /// Whether both may be in one request.
    fn fits_with(&self, other: &Self) -> bool;
}

pub(crate) struct Batcher<Q: Batchable, A: Send + 'static> {
    /// The most callers with requests of their own.
    max_singles: usize,
    /// The most batches in flight.
    max_batches: usize,
    callers: AtomicUsize,
    queue: Mutex<Queue<Q, A>>,
}

struct Queue<Q: Batchable, A: Send + 'static> {
    /// Batches in flight.
    batches: usize,
    waiting: VecDeque<Follower<Q, A>>,
}

/// A caller that waits in the queue, or for the answer of its leader. Dropped without an answer, it
/// sends a request of its own.
pub(crate) struct Follower<Q: Batchable, A: Send + 'static> {
    query: Q,
    slot: Arc<Slot<BatchRole<Q, A>>>,
}

/// What a caller does, or has.
pub(crate) enum BatchRole<Q: Batchable, A: Send + 'static> {
    /// The caller sends a request of its own, and may wait for a load.
    Single,
    /// The caller sends a batch now, for these followers too, for what the peer has in memory.
    Leader(LeaderPermit<Q, A>, Vec<Follower<Q, A>>),
    /// The caller was a follower, and this is its answer.
    Answered(A),
    /// The caller was a follower, and its leader got no answer for it: it sends a request of its own.
    Unanswered,
    /// The time of the caller is up.
    TimedOut,
}

/// A caller, until it has its answer.
pub(crate) struct Caller<'a, Q: Batchable, A: Send + 'static> {
    batcher: &'a Arc<Batcher<Q, A>>,
    is_single: bool,
}

/// The right to have a batch in flight. Dropped, it passes to the callers in the queue.
pub(crate) struct LeaderPermit<Q: Batchable, A: Send + 'static> {
    batcher: Arc<Batcher<Q, A>>,
}

impl<Q: Batchable, A: Send + 'static> Batcher<Q, A> {
    /// A batcher with these limits: callers with requests of their own, and batches in flight.
    pub(crate) fn new((max_singles, max_batches): (usize, usize)) -> Arc<Batcher<Q, A>> {
        Arc::new(Batcher {
            max_singles,
            max_batches,
            callers: AtomicUsize::new(0),
            queue: Mutex::new(Queue {
                batches: 0,
                waiting: VecDeque::new(),
            }),
        })
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Caller<'_, Q, A> {
        let others = self.callers.fetch_add(1, Ordering::Relaxed);
        Caller {
            batcher: self,
            is_single: others < self.max_singles,
        }
    }

    fn permit(self: &Arc<Self>) -> LeaderPermit<Q, A> {
        LeaderPermit {
            batcher: Arc::clone(self),
        }
    }

    fn leave_queue(&self, slot: &Arc<Slot<BatchRole<Q, A>>>) {
        let follower = {
            let mut queue = self.queue.lock();
            let mut waiting = queue.waiting.iter();
            let at = waiting.position(|follower| Arc::ptr_eq(&follower.slot, slot));
            at.and_then(|at| queue.waiting.remove(at))
        };
        drop(follower); // it has a lock of its own (I2)
    }

    /// The next batch for a permit that is free; `None` frees the permit.
    fn next_batch(&self) -> Option<Vec<Follower<Q, A>>> {
        let mut queue = self.queue.lock();
        let batch = queue.take_batch();
        if batch.is_none() {
            debug_assert!(queue.batches > 0, "a permit was never taken");
            queue.batches -= 1;
        }
        batch
    }
}

impl<Q: Batchable, A: Send + 'static> Caller<'_, Q, A> {
    /// Joins the queue if it must, and waits until this caller leads or has an answer, no longer than
    /// `deadline`.
    pub(crate) fn join(
        &self,
        query: impl FnOnce() -> Q,
        clock: &Clock,
        deadline: Deadline,
    ) -> BatchRole<Q, A> {
        if self.is_single {
            return BatchRole::Single;
        }
        let slot = {
            let mut queue = self.batcher.queue.lock();
            debug_assert!(queue.batches <= self.batcher.max_batches);
            if queue.batches < self.batcher.max_batches {
                queue.batches += 1;
                return BatchRole::Leader(self.batcher.permit(), Vec::new());
            }
            let slot = Slot::new();
            queue.waiting.push_back(Follower {
                query: query(),
                slot: Arc::clone(&slot),
            });
            slot
        };
        let role = slot.wait(clock, deadline);
        role.unwrap_or_else(|| {
            self.batcher.leave_queue(&slot);
            BatchRole::TimedOut
        })
    }
}

impl<Q: Batchable, A: Send + 'static> Drop for Caller<'_, Q, A> {
    fn drop(&mut self) {
        let callers = self.batcher.callers.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(callers > 0, "a caller left twice");
    }
}

impl<Q: Batchable, A: Send + 'static> Queue<Q, A> {
    /// Takes the first callers out of the queue whose queries fit into one request.
    fn take_batch(&mut self) -> Option<Vec<Follower<Q, A>>> {
        let mut batch = vec![self.waiting.pop_front()?];
        while batch.len() < MAX_BATCH {
            match self.waiting.front() {
                Some(next) if next.query.fits_with(&batch[0].query) => {
                    batch.extend(self.waiting.pop_front());
                }
                _ => break,
            }
        }
        Some(batch)
    }
}

impl<Q: Batchable, A: Send + 'static> Drop for LeaderPermit<Q, A> {
    fn drop(&mut self) {
        let Some(mut batch) = self.batcher.next_batch() else {
            return;
        };
        let mut permit = self.batcher.permit();
        while !batch.is_empty() {
            let leader = batch.remove(0);
            match leader.slot.fill(BatchRole::Leader(permit, batch)) {
                // It timed out meanwhile: the next follower leads.
                Err(BatchRole::Leader(back, followers)) => (permit, batch) = (back, followers),
                _ => return,
            }
        }
    }
}

impl<Q: Batchable, A: Send + 'static> Follower<Q, A> {
    pub(crate) fn query(&self) -> &Q {
        &self.query
    }

    pub(crate) fn answer(self, answer: A) {
        // A follower that timed out meanwhile does not want it.
        let _ = self.slot.fill(BatchRole::Answered(answer));
    }
}

impl<Q: Batchable, A: Send + 'static> Drop for Follower<Q, A> {
    fn drop(&mut self) {
        // Unless it leads or has its answer already.
        let _ = self.slot.fill(BatchRole::Unanswered);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    struct Word(&'static str);

    impl Batchable for Word {
        /// By their first letters.
        fn fits_with(&self, other: &Word) -> bool {
            self.0[..1] == other.0[..1]
        }
    }

    type Words = Arc<Batcher<Word, usize>>;

    /// No caller is single, and there is one batch at a time.
    fn words() -> Words {
        Batcher::new((0, 1))
    }

    /// A leader without followers, so that all others are queued.
    fn take_permit(words: &Words) -> LeaderPermit<Word, usize> {
        let role = words
            .enter()
            .join(|| Word("a"), &Clock::system(), Deadline::NEVER);
        match role {
            BatchRole::Leader(permit, followers) if followers.is_empty() => permit,
            _ => panic!("it has to wait"),
        }
    }

    /// Joins on another thread, which sends the role that it gets; returns once it is queued.
    fn enqueue(
        words: &Words,
        word: &'static str,
        deadline: Deadline,
        clock: &Clock,
    ) -> mpsc::Receiver<BatchRole<Word, usize>> {
        let (sender, receiver) = mpsc::channel();
        let (batcher, clock) = (Arc::clone(words), clock.clone());
        let before = words.queue.lock().waiting.len();
        std::thread::spawn(move || {
            let role = batcher.enter().join(|| Word(word), &clock, deadline);
            let _ = sender.send(role);
        });
        while words.queue.lock().waiting.len() == before {
            std::thread::yield_now();
        }
        receiver
    }

    fn wait_for(words: &Words, word: &'static str) -> mpsc::Receiver<BatchRole<Word, usize>> {
        enqueue(words, word, Deadline::NEVER, &Clock::system())
    }

    #[test]
    fn a_few_callers_send_requests_of_their_own() {
        let words: Words = Batcher::new((4, 1));
        let few: Vec<_> = (0..4).map(|_| words.enter()).collect();
        let role = |caller: &Caller<'_, _, _>| {
            caller.join(|| Word("a"), &Clock::system(), Deadline::NEVER)
        };
        assert!(
            few.iter()
                .all(|caller| matches!(role(caller), BatchRole::Single))
        );
        assert!(matches!(role(&words.enter()), BatchRole::Leader(..)));
        drop(few);
        assert!(matches!(role(&words.enter()), BatchRole::Single));
        assert_eq!(words.queue.lock().batches, 0);
    }

    #[test]
    fn queued_callers_become_one_batch_when_a_permit_is_free() {
        let words = words();
        let permit = take_permit(&words);
        let roles = ["c1", "c2", "c3"].map(|word| wait_for(&words, word));
        drop(permit);
        let Ok(BatchRole::Leader(permit, followers)) = roles[0].recv() else {
            panic!("the first in the queue does not lead");
        };
        let asked: Vec<_> = followers
            .iter()
            .map(|follower| follower.query().0)
            .collect();
        assert_eq!(asked, ["c2", "c3"]);
        for (follower, answer) in followers.into_iter().zip(2..) {
            follower.answer(answer);
        }
        assert!(matches!(roles[1].recv(), Ok(BatchRole::Answered(2))));
        assert!(matches!(roles[2].recv(), Ok(BatchRole::Answered(3))));
        drop(permit);
        drop(take_permit(&words));
    }

    #[test]
    fn only_queries_that_fit_together_become_a_batch() {
        let words = words();
        let permit = take_permit(&words);
        let roles = ["c1", "d1", "c2"].map(|word| wait_for(&words, word));
        drop(permit);
        for role in roles {
            let Ok(BatchRole::Leader(_, followers)) = role.recv() else {
                panic!("it does not lead");
            };
            assert!(followers.is_empty());
        }
    }

    #[test]
    fn a_leader_leaves_the_rest_to_the_next_in_the_queue() {
        let words = words();
        let permit = take_permit(&words);
        let roles = ["c1", "d1", "c2"].map(|word| wait_for(&words, word));
        let mut permit = Some(permit);
        for role in roles {
            drop(permit.take());
            let Ok(BatchRole::Leader(next, followers)) = role.recv() else {
                panic!("it does not lead");
            };
            assert!(followers.is_empty(), "it has a query of another kind");
            permit = Some(next);
        }
    }

    #[test]
    fn a_follower_whose_leader_is_lost_sends_a_request_of_its_own() {
        let words = words();
        let permit = take_permit(&words);
        let roles = ["c1", "c2"].map(|word| wait_for(&words, word));
        drop(permit);
        drop(roles[0].recv()); // the leader was lost, and its batch with it
        assert!(matches!(roles[1].recv(), Ok(BatchRole::Unanswered)));
        assert!(words.queue.lock().waiting.is_empty());
        drop(take_permit(&words));
    }

    #[test]
    fn a_caller_that_times_out_leaves_the_queue_and_never_leads() {
        let words = words();
        let permit = take_permit(&words);
        let clock = Clock::manual();
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        let late = enqueue(&words, "c1", deadline, &clock);
        let next = wait_for(&words, "c2");
        clock.advance(Duration::from_secs(2));
        assert!(matches!(late.recv(), Ok(BatchRole::TimedOut)));
        assert_eq!(words.queue.lock().waiting.len(), 1);
        drop(permit);
        let Ok(BatchRole::Leader(_permit, followers)) = next.recv() else {
            panic!("the next one does not lead");
        };
        assert!(followers.is_empty());
    }

    #[test]
    fn a_permit_passes_over_a_caller_that_has_timed_out() {
        let words = words();
        let permit = take_permit(&words);
        let roles = ["c1", "c2"].map(|word| wait_for(&words, word));
        // As if its time were up just now: its slot is closed, but it is still in the queue.
        words.queue.lock().waiting[0].slot.close();
        drop(permit);
        let Ok(BatchRole::Leader(_permit, followers)) = roles[1].recv() else {
            panic!("the next one does not lead");
        };
        assert!(followers.is_empty());
    }
}
