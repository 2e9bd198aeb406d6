//! User code: what the user of the library gave, and the library calls. It may panic, block and
//! call the library again, so it never runs under a lock (I1), and no panic of it goes further than
//! the call.
//!
//! * [`call`] runs it, [`dispose`] drops a value of a the user's type.
//! * [`defer`] and [`defer_drop`] have it run once this thread is done with what it does now, so
//!   never while the thread holds a flight that somebody waits for. A listener that makes further
//!   values leave is told of them in turn, not inside itself. [`defer_first`] is for what somebody
//!   waits for: it comes before all that is only told.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::runtime::log_throttle::LogThrottle;
use crate::runtime::sync::thread_local;

/// The message of a panic.
pub(crate) struct Panicked(pub(crate) String);

impl fmt::Debug for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs user code, and turns a panic into an error.
///
/// What it broke of its own by panicking is its owner's affair; nothing of ours is lent to it.
pub(crate) fn call<R>(foreign: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(foreign)).map_err(|panic| {
        let message = message(&*panic);
        // What a panic carries is foreign too. One that panics again is kept for ever.
        if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
            std::mem::forget(again);
        }
        Panicked(message)
    })
}

/// Drops a value of a the user's type. A panic in its `Drop` is logged and goes no further.
pub(crate) fn dispose<T>(value: T) {
    if let Err(panicked) = call(move || drop(value)) {
        report("the drop of a value panicked; the cache goes on", &panicked);
    }
}

/// Logs a panic that nobody else hears of: at most one in ten seconds for each thread.
pub(crate) fn report(what: &str, panicked: &Panicked) {
    let admit = |reports: &LogThrottle| reports.admit(Instant::now());
    if let Ok(Some(unreported)) = REPORTS.try_with(admit) {
        log::warn!(
            target: "groupcache", error:% = panicked.0, unreported = unreported;
            "{what}"
        );
    }
}

/// The message of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "a panic without a message".to_owned()
    }
}

/// How many calls and how many values a thread defers at most.
const MOST_DEFERRED: usize = 1 << 16;

/// How many drops run inside one another at most: a `Drop` that makes other values leave has them
/// dropped inside itself, as it would without a cache.
const MOST_NESTED: usize = 32;

type Call = Box<dyn FnOnce()>;

/// What a thread has deferred.
#[derive(Default)]
struct Queue {
    /// How many hold it back.
    holds: usize,
    /// How many of them began at the present depth.
    holds_here: usize,
    /// 0 outside of all that is deferred, in a deferred call one more than where it was deferred.
    depth: usize,
    /// The calls that somebody waits for, and how deep they run.
    urgent: VecDeque<(usize, Call)>,
    /// All others, after the drops.
    calls: VecDeque<(usize, Call)>,
    drops: Vec<Box<dyn Any>>,
}

/// What is to be done next.
enum Deferred {
    Call(Call),
    Drop(Box<dyn Any>),
}

thread_local! {
    static QUEUE: RefCell<Queue> = RefCell::new(Queue::default());
    static REPORTS: LogThrottle = LogThrottle::default();
}

/// Uses the queue of this thread. One that is ending has none any more.
fn with_queue<R>(work: impl FnOnce(&mut Queue) -> R) -> Option<R> {
    QUEUE.try_with(|queue| work(&mut queue.borrow_mut())).ok()
}

/// How deep this thread is: 0 unless it runs what was deferred, 1 in what that was, one more in what
/// that deferred in its turn.
pub(crate) fn depth() -> usize {
    with_queue(|queue| queue.depth).unwrap_or(0)
}

/// While one lives, what its thread defers waits. The last one to go sees to it.
#[must_use = "what is deferred runs when this is dropped"]
pub(crate) struct Hold {
    depth: usize,
    /// The values that were deferred before.
    drops: usize,
    /// It belongs to its thread.
    _thread: PhantomData<*const ()>,
}

/// Holds back what this thread defers.
pub(crate) fn hold() -> Hold {
    let before = with_queue(|queue| {
        queue.holds += 1;
        queue.holds_here += 1;
        (queue.depth, queue.drops.len())
    });
    let (depth, drops) = before.unwrap_or_default();
    Hold {
        depth,
        drops,
        _thread: PhantomData,
    }
}

/// Has `user_code` run as soon as nothing holds back what this thread defers: at once, if nothing does
/// or too many wait. Inside a deferred call it runs after that one.
pub(crate) fn defer(foreign: impl FnOnce() + 'static) {
    defer_in(|queue| &mut queue.calls, foreign);
}

/// As [`defer`], before all else that is deferred: somebody waits for it.
pub(crate) fn defer_first(foreign: impl FnOnce() + 'static) {
    defer_in(|queue| &mut queue.urgent, foreign);
}

fn defer_in(
    calls: impl FnOnce(&mut Queue) -> &mut VecDeque<(usize, Call)>,
    foreign: impl FnOnce() + 'static,
) {
    let _hold = hold();
    let mut foreign = Some(foreign);
    with_queue(|queue| {
        let depth = queue.depth + 1;
        let calls = calls(queue);
        if calls.len() < MOST_DEFERRED {
            calls.extend(
                foreign
                    .take()
                    .map(|foreign| (depth, Box::new(foreign) as Call)),
            );
        }
    });
    if let Some(foreign) = foreign {
        // As deep as it would be in its turn, so that one that causes others comes to an end.
        let before = with_queue(|queue| {
            queue.depth += 1;
            std::mem::take(&mut queue.holds_here)
        });
        if let Err(panicked) = call(foreign) {
            report("a deferred call panicked; the cache goes on", &panicked);
        }
        with_queue(|queue| {
            queue.depth = queue.depth.saturating_sub(1);
            queue.holds_here = before.unwrap_or_default();
        });
    }
}

/// Runs what this thread has deferred until now, though it is held back: for one that goes on for
/// long, at a moment when it leads no flight. Not inside a deferred call.
pub(crate) fn run_deferred() {
    let take = |queue: &mut Queue| match queue.depth {
        0 => std::mem::take(&mut queue.holds),
        _ => 0,
    };
    let holds = with_queue(take).unwrap_or(0);
    drop(hold());
    with_queue(|queue| queue.holds += holds);
}

/// Drops a value that may be foreign as soon as nothing holds back what this thread defers: at once,
/// if nothing does or too many wait. Inside what is deferred it is dropped when the call of the
/// cache returns that made it leave.
pub(crate) fn defer_drop<T: 'static>(value: T) {
    let _hold = hold();
    let mut value = Some(value);
    with_queue(|queue| {
        if queue.drops.len() < MOST_DEFERRED {
            let value = value.take().map(|value| Box::new(value) as Box<dyn Any>);
            queue.drops.extend(value);
        }
    });
    dispose(value);
}

impl Drop for Hold {
    fn drop(&mut self) {
        let here = with_queue(|queue| queue.holds_here).unwrap_or_default();
        // The hold stays until none is left, so that what a call defers runs after it, not inside.
        while let Some(deferred) = self.next(here) {
            match deferred {
                Deferred::Drop(value) => dispose(value),
                Deferred::Call(foreign) => {
                    if let Err(panicked) = call(foreign) {
                        report("a deferred call panicked; the cache goes on", &panicked);
                    }
                }
            }
        }
    }
}

impl Hold {
    /// What is to be done before this goes, `here` being how many holds there are of its depth. Only
    /// the first of them sees to anything: others are inside a call of the cache, which may lead.
    fn next(&self, here: usize) -> Option<Deferred> {
        with_queue(|queue| {
            let is_last = queue.holds == 1;
            let is_nested = here == 1 && (1..MOST_NESTED).contains(&self.depth);
            queue.holds_here = 0;
            if is_last {
                if let Some((depth, foreign)) = queue.urgent.pop_front() {
                    queue.depth = depth;
                    return Some(Deferred::Call(foreign));
                }
            }
            if is_last || (is_nested && queue.drops.len() > self.drops) {
                if let Some(value) = queue.drops.pop() {
                    queue.depth = self.depth + 1;
                    return Some(Deferred::Drop(value));
                }
            }
            if is_last {
                if let Some((depth, foreign)) = queue.calls.pop_front() {
                    queue.depth = depth;
                    return Some(Deferred::Call(foreign));
                }
            }
            queue.holds = queue.holds.saturating_sub(1);
            queue.depth = self.depth;
            queue.holds_here = here.saturating_sub(1);
            None
        })
        .flatten()
    }
}

/// While one lives, what its thread defers is held back by nothing that held it back before.
pub(crate) struct Free {
    held: Option<Queue>,
}

/// Lets what a loader makes this thread defer run while it does: it may take long and make many
/// values leave. What was deferred before waits for its turn: it may ask for what the loader loads.
/// Not inside a deferred call: they do not run inside one another.
pub(crate) fn free() -> Free {
    let take = |queue: &mut Queue| (queue.depth == 0).then(|| std::mem::take(queue));
    Free {
        held: with_queue(take).flatten(),
    }
}

impl Drop for Free {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            // Empty by now, as the last of its own holds has seen to all.
            let during = with_queue(|queue| std::mem::replace(queue, held));
            drop(during);
        }
    }
}

thread_local! {
    /// How many loaders run on this thread, one inside the other.
    static LOADING: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread is inside a loader.
pub(crate) fn inside_a_loader() -> bool {
    LOADING.with(Cell::get) > 0
}

/// Runs user code that loads: marks the thread, and turns a panic into an error.
pub(crate) fn load<R>(load: impl FnOnce() -> R) -> Result<R, Panicked> {
    struct Mark;
    impl Drop for Mark {
        fn drop(&mut self) {
            LOADING.with(|loading| loading.set(loading.get() - 1));
        }
    }
    LOADING.with(|loading| loading.set(loading.get() + 1));
    let _mark = Mark;
    let _free = free();
    call(load)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    struct Grumpy;

    impl Drop for Grumpy {
        fn drop(&mut self) {
            std::panic::panic_any(Grumpier);
        }
    }

    struct Grumpier;

    impl Drop for Grumpier {
        fn drop(&mut self) {
            panic!("even what the panic carries panics");
        }
    }

    #[test]
    fn a_panic_becomes_its_message_and_the_thread_is_no_longer_loading() {
        let panicked = load(|| -> () { panic!("no database") }).unwrap_err();
        assert_eq!(panicked.0, "no database");
        assert!(!inside_a_loader());
        assert!(load(inside_a_loader).unwrap());
    }

    #[test]
    fn a_panic_becomes_its_message() {
        assert_eq!(call(|| panic!("no database")).unwrap_err().0, "no database");
        assert_eq!(call(|| 7).unwrap(), 7);
    }

    #[test]
    fn a_drop_that_panics_twice_reaches_nobody() {
        dispose(Grumpy);
    }

    type Log<T> = Rc<RefCell<Vec<T>>>;

    fn note<T: 'static>(log: &Log<T>, of: impl FnOnce() -> T + 'static) -> Call {
        let log = Rc::clone(log);
        Box::new(move || {
            let note = of();
            log.borrow_mut().push(note);
        })
    }

    #[test]
    fn a_deferred_call_runs_at_once_unless_it_is_held_back() {
        let log: Rc<RefCell<Vec<&str>>> = Rc::default();
        defer(note(&log, || "at once"));
        assert_eq!(*log.borrow(), ["at once"]);
        let outer = hold();
        let inner = hold();
        defer(note(&log, || "held"));
        drop(inner);
        assert_eq!(log.borrow().len(), 1);
        {
            let _free = free();
            defer(note(&log, || "in a loader"));
            assert_eq!(*log.borrow(), ["at once", "in a loader"]);
        }
        run_deferred();
        assert_eq!(*log.borrow(), ["at once", "in a loader", "held"]);
        defer(note(&log, || "held again"));
        assert_eq!(log.borrow().len(), 3);
        drop(outer);
        assert_eq!(
            *log.borrow(),
            ["at once", "in a loader", "held", "held again"]
        );
        assert_eq!(depth(), 0);
    }

    #[test]
    fn what_a_deferred_call_defers_runs_after_it_and_is_one_deeper() {
        let log: Rc<RefCell<Vec<(&str, usize)>>> = Rc::default();
        let outer = Rc::clone(&log);
        defer(move || {
            defer(note(&outer, || ("inner", depth())));
            note(&outer, || ("outer", depth()))();
        });
        assert_eq!(*log.borrow(), [("outer", 1), ("inner", 2)]);
        defer(|| panic!("a deferred call may panic"));
        defer(note(&log, || ("again", depth())));
        assert_eq!(log.borrow()[2], ("again", 1));
    }

    #[test]
    fn a_drop_inside_a_deferred_call_waits_until_the_call_of_the_cache_returns() {
        struct Noted(Log<&'static str>);
        impl Drop for Noted {
            fn drop(&mut self) {
                self.0.borrow_mut().push("dropped");
            }
        }
        let log: Log<&'static str> = Rc::default();
        let inner = Rc::clone(&log);
        defer(move || {
            let call_of_the_cache = hold();
            defer_drop(Noted(Rc::clone(&inner)));
            inner.borrow_mut().push("led until here");
            drop(call_of_the_cache);
            inner.borrow_mut().push("returned");
            defer_drop(Noted(Rc::clone(&inner)));
        });
        let expected = ["led until here", "dropped", "returned", "dropped"];
        assert_eq!(*log.borrow(), expected);
    }

    #[test]
    fn a_drop_that_makes_others_leave_has_them_dropped_inside_and_never_too_deep() {
        struct Chain(Rc<RefCell<Vec<usize>>>, usize);
        impl Drop for Chain {
            fn drop(&mut self) {
                self.0.borrow_mut().push(depth());
                if self.1 > 0 {
                    let _call = hold();
                    defer_drop(Chain(Rc::clone(&self.0), self.1 - 1));
                    assert!(depth() < MOST_NESTED + 2);
                }
            }
        }
        let log: Rc<RefCell<Vec<usize>>> = Rc::default();
        defer_drop(Chain(Rc::clone(&log), 1_000));
        let depths = log.borrow();
        assert_eq!(depths.len(), 1_001);
        assert_eq!(depths[..3], [1, 2, 3]);
        assert!(depths.iter().all(|&depth| depth <= MOST_NESTED));
    }
}
