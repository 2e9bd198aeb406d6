//! `Fanout`: calls to several peers at the same time, on a bounded number of threads of a node.
//!
//! A call to several peers takes helpers: threads that end with it. All calls of a node share one
//! limit of helpers, so hundreds of callers that wait for peers that hang need no more threads than
//! that. Without a free helper, the caller calls the peers one after the other itself. It does so no
//! longer than its deadline, because each call to a peer takes only the time that is left.

use crate::runtime::sync::{Arc, AtomicUsize, Mutex, Ordering, run_at_once};
use crate::runtime::user_code;

/// The most helpers of a node.
const HELPERS: usize = 64;

/// The most helpers of one call.
const HELPERS_OF_A_CALL: usize = 15;

const _: () = assert!(HELPERS_OF_A_CALL <= HELPERS);

pub(crate) struct Fanout {
    free: Arc<AtomicUsize>,
}

impl Default for Fanout {
    fn default() -> Fanout {
        Fanout {
            free: Arc::new(AtomicUsize::new(HELPERS)),
        }
    }
}

/// The right to one helper. Given back when dropped, also if the helper panics.
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        debug_assert!(before < HELPERS);
    }
}

impl Fanout {
    /// Runs `work` for all `items`, on this thread and on as many helpers as are free. Gives the results
    /// in no order. Blocks until all are done.
    pub(crate) fn each<T: Sync, R: Send>(
        &self,
        items: &[T],
        work: impl Fn(&T) -> R + Sync,
    ) -> Vec<R> {
        let next = AtomicUsize::new(0);
        let take_turns = || {
            let _hold = user_code::hold(); // listeners run once the work is done
            let turns = std::iter::from_fn(|| items.get(next.fetch_add(1, Ordering::Relaxed)));
            turns.map(&work).collect::<Vec<R>>()
        };
        let permits = self.permits(items.len().saturating_sub(1));
        if permits.is_empty() {
            return take_turns();
        }
        let done = Mutex::new(Vec::with_capacity(items.len()));
        run_at_once(permits, || {
            let results = take_turns();
            done.lock().extend(results);
        });
        done.into_inner()
    }

    /// Takes up to `wanted` permits, fewer if there are fewer.
    fn permits(&self, wanted: usize) -> Vec<Permit> {
        let wanted = wanted.min(HELPERS_OF_A_CALL);
        let take = |free: usize| Some(free - wanted.min(free));
        let relaxed = Ordering::Relaxed;
        let before = self.free.fetch_update(relaxed, relaxed, take);
        let taken = before.map_or(0, |free| wanted.min(free));
        (0..taken).map(|_| Permit(Arc::clone(&self.free))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;

    fn free(fanout: &Fanout) -> usize {
        fanout.free.load(Ordering::Relaxed)
    }

    #[test]
    fn all_items_of_a_call_are_worked_on_at_the_same_time() {
        let fanout = Fanout::default();
        let barrier = Barrier::new(HELPERS_OF_A_CALL + 1);
        let items: Vec<usize> = (0..=HELPERS_OF_A_CALL).collect();
        let mut done = fanout.each(&items, |&item| {
            barrier.wait();
            item
        });
        done.sort_unstable();
        assert_eq!(done, items);
        assert_eq!(free(&fanout), HELPERS);
    }

    #[test]
    fn calls_together_take_no_more_helpers_than_a_node_has() {
        let fanout = Fanout::default();
        let calls = 20;
        let threads = std::sync::Mutex::new(HashSet::new());
        // No thread continues before each call, and each helper, has begun its first item.
        let barrier = Barrier::new(calls + HELPERS);
        let items = [(); 40];
        std::thread::scope(|scope| {
            for _ in 0..calls {
                scope.spawn(|| {
                    fanout.each(&items, |()| {
                        if threads.lock().unwrap().insert(std::thread::current().id()) {
                            barrier.wait();
                        }
                    })
                });
            }
        });
        assert_eq!(threads.into_inner().unwrap().len(), calls + HELPERS);
        assert_eq!(free(&fanout), HELPERS);
    }

    #[test]
    fn without_helpers_a_call_does_all_by_itself() {
        let fanout = Fanout::default();
        let _all: Vec<_> = (0..5).map(|_| fanout.permits(HELPERS)).collect();
        assert_eq!(free(&fanout), 0);
        let here = std::thread::current().id();
        let threads = fanout.each(&[(); 5], |()| std::thread::current().id());
        assert_eq!(threads, [here; 5]);
    }

    #[test]
    fn a_panic_takes_no_helper_away() {
        let fanout = Fanout::default();
        for _ in 0..HELPERS {
            let each = || fanout.each(&[(); 3], |()| panic!("no idea"));
            let _: Result<Vec<()>, _> = catch_unwind(AssertUnwindSafe(each));
        }
        assert_eq!(free(&fanout), HELPERS);
    }
}
