//! Calls of user code: loaders, codecs, listeners, callbacks, and `Clone` and `Drop` of values of the
//! user's types. User code may panic, block and call the library again. So it never runs under a lock
//! (I1), and a panic never leaves the call.
//!
//! * [`call`] runs user code, [`load`] a loader; [`dispose`] drops a value of the user's type.
//! * [`defer`] and [`defer_drop`] run user code once nothing [holds](hold) it back, so never while this
//!   thread leads a flight that another thread waits for. If a listener makes further values leave, it is
//!   called for them afterwards, not inside itself. [`defer_first`] is for callbacks that a thread or a
//!   peer waits for: they run before all listeners.

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
/// It is unwind safe because user code borrows nothing of the library. What it leaves broken of its own
/// is up to its author.
pub(crate) fn call<R>(code: impl FnOnce() -> R) -> Result<R, Panicked> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|panic| {
        let message = message(&*panic);
        // The payload of a panic is of the user's type too. One whose drop panics is leaked.
        if let Err(again) = catch_unwind(AssertUnwindSafe(move || drop(panic))) {
            std::mem::forget(again);
        }
        Panicked(message)
    })
}

/// Drops a value of the user's type. A panic in its `Drop` is logged and goes no further.
pub(crate) fn dispose<T>(value: T) {
    if let Err(panicked) = call(move || drop(value)) {
        report("the drop of a value panicked; the cache goes on", &panicked);
    }
}

/// Logs a panic that no caller gets as an error: at most one in ten seconds for each thread.
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

/// The most calls of each kind, and the most values, that a thread defers.
const MAX_DEFERRED: usize = 1 << 16;

/// How many drops run inside one another at most: values that leave because of a `Drop` are dropped
/// inside it, as they would be without a cache.
const MAX_NESTED: usize = 32;

type Call = Box<dyn FnOnce()>;

/// What a thread has deferred.
#[derive(Default)]
struct Queue {
    /// How many holds there are.
    holds: usize,
    /// How many of them began at the present depth.
    holds_here: usize,
    /// 0 outside of deferred code; inside a deferred call one more than where it was deferred.
    depth: usize,
    /// The calls that a thread or a peer waits for, each with its depth.
    urgent: VecDeque<(usize, Call)>,
    /// All other calls, each with its depth. They run after the drops.
    calls: VecDeque<(usize, Call)>,
    drops: Vec<Box<dyn Any>>,
}

/// What a thread runs next.
enum Deferred {
    Call(Call),
    Drop(Box<dyn Any>),
}

thread_local! {
    static QUEUE: RefCell<Queue> = RefCell::new(Queue::default());
    static REPORTS: LogThrottle = LogThrottle::default();
}

/// Uses the queue of this thread. `None` if the thread is ending: its queue is gone.
fn with_queue<R>(work: impl FnOnce(&mut Queue) -> R) -> Option<R> {
    QUEUE.try_with(|queue| work(&mut queue.borrow_mut())).ok()
}

/// The depth of this thread: 0 outside of deferred code, 1 inside it, and one more in what that has
/// deferred.
pub(crate) fn depth() -> usize {
    with_queue(|queue| queue.depth).unwrap_or(0)
}

/// While one lives, what its thread defers waits. When the last one is dropped, it runs.
#[must_use = "what is deferred runs when this is dropped"]
pub(crate) struct Hold {
    depth: usize,
    /// How many values were deferred before.
    drops: usize,
    /// A hold cannot go to another thread.
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

/// Runs `code` as soon as nothing holds back what this thread defers: at once, if there is no hold or too
/// many calls wait. Inside a deferred call, it runs after that call.
pub(crate) fn defer(code: impl FnOnce() + 'static) {
    defer_in(|queue| &mut queue.calls, code);
}

/// As [`defer`], but before all else that is deferred: a thread or a peer waits for it.
pub(crate) fn defer_first(code: impl FnOnce() + 'static) {
    defer_in(|queue| &mut queue.urgent, code);
}

fn defer_in(
    calls: impl FnOnce(&mut Queue) -> &mut VecDeque<(usize, Call)>,
    code: impl FnOnce() + 'static,
) {
    let _hold = hold();
    let mut code = Some(code);
    with_queue(|queue| {
        let depth = queue.depth + 1;
        let calls = calls(queue);
        if calls.len() < MAX_DEFERRED {
            calls.extend(code.take().map(|code| (depth, Box::new(code) as Call)));
        }
    });
    if let Some(code) = code {
        // At the depth that it would have later, so that calls that cause others come to an end.
        let before = with_queue(|queue| {
            queue.depth += 1;
            std::mem::take(&mut queue.holds_here)
        });
        if let Err(panicked) = call(code) {
            report("a deferred call panicked; the cache goes on", &panicked);
        }
        with_queue(|queue| {
            queue.depth = queue.depth.saturating_sub(1);
            queue.holds_here = before.unwrap_or_default();
        });
    }
}

/// Runs what this thread has deferred until now in spite of all holds: for a call that takes long, while
/// it leads no flight. Does nothing inside a deferred call.
pub(crate) fn run_deferred() {
    let take = |queue: &mut Queue| match queue.depth {
        0 => std::mem::take(&mut queue.holds),
        _ => 0,
    };
    let holds = with_queue(take).unwrap_or(0);
    drop(hold());
    with_queue(|queue| queue.holds += holds);
}

/// Drops a value that may be of the user's type as soon as nothing holds back what this thread defers: at
/// once, if there is no hold or too many values wait. Inside deferred code, it is dropped when the call of
/// the library returns that made it leave.
pub(crate) fn defer_drop<T: 'static>(value: T) {
    let _hold = hold();
    let mut value = Some(value);
    with_queue(|queue| {
        if queue.drops.len() < MAX_DEFERRED {
            let value = value.take().map(|value| Box::new(value) as Box<dyn Any>);
            queue.drops.extend(value);
        }
    });
    dispose(value);
}

impl Drop for Hold {
    fn drop(&mut self) {
        let here = with_queue(|queue| queue.holds_here).unwrap_or_default();
        // The hold stays until nothing is left, so that what a call defers runs after it, not inside.
        while let Some(deferred) = self.next(here) {
            match deferred {
                Deferred::Drop(value) => dispose(value),
                Deferred::Call(code) => {
                    if let Err(panicked) = call(code) {
                        report("a deferred call panicked; the cache goes on", &panicked);
                    }
                }
            }
        }
    }
}

impl Hold {
    /// What to run before this hold ends; `here` is the number of holds of its depth. Only the first of
    /// them runs anything: the others are inside a call of the library, which may lead a flight.
    fn next(&self, here: usize) -> Option<Deferred> {
        with_queue(|queue| {
            let is_last = queue.holds == 1;
            let is_nested = here == 1 && (1..MAX_NESTED).contains(&self.depth);
            queue.holds_here = 0;
            if is_last {
                if let Some((depth, code)) = queue.urgent.pop_front() {
                    queue.depth = depth;
                    return Some(Deferred::Call(code));
                }
            }
            if is_last || (is_nested && queue.drops.len() > self.drops) {
                if let Some(value) = queue.drops.pop() {
                    queue.depth = self.depth + 1;
                    return Some(Deferred::Drop(value));
                }
            }
            if is_last {
                if let Some((depth, code)) = queue.calls.pop_front() {
                    queue.depth = depth;
                    return Some(Deferred::Call(code));
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

/// While one lives, its thread has another queue, which none of the earlier holds holds back.
struct FreshQueue {
    held: Option<Queue>,
}

/// Gives this thread a fresh queue while a loader runs: what the loader defers runs at once, because the
/// loader may take long and make many values leave. What was deferred before keeps waiting: it may get
/// the key that the loader loads. Does nothing inside a deferred call, as deferred calls do not run
/// inside one another.
fn fresh_queue() -> FreshQueue {
    let take = |queue: &mut Queue| (queue.depth == 0).then(|| std::mem::take(queue));
    FreshQueue {
        held: with_queue(take).flatten(),
    }
}

impl Drop for FreshQueue {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            // The last of its own holds has run all that was in it, unless the logger panicked.
            drop(with_queue(|queue| std::mem::replace(queue, held)));
        }
    }
}

thread_local! {
    /// How many loaders run on this thread, one inside another.
    static LOADING: Cell<usize> = const { Cell::new(0) };
}

/// Whether this thread is inside a loader.
pub(crate) fn inside_a_loader() -> bool {
    LOADING.with(Cell::get) > 0
}

/// Runs user code that is part of a load: marks this thread as [inside a loader](inside_a_loader), and
/// turns a panic into an error.
pub(crate) fn load<R>(load: impl FnOnce() -> R) -> Result<R, Panicked> {
    struct Mark;
    impl Drop for Mark {
        fn drop(&mut self) {
            LOADING.with(|loading| loading.set(loading.get() - 1));
        }
    }
    LOADING.with(|loading| loading.set(loading.get() + 1));
    let _mark = Mark;
    let _queue = fresh_queue();
    call(load)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    struct PanicsOnDrop;

    impl Drop for PanicsOnDrop {
        fn drop(&mut self) {
            std::panic::panic_any(PayloadPanicsOnDrop);
        }
    }

    struct PayloadPanicsOnDrop;

    impl Drop for PayloadPanicsOnDrop {
        fn drop(&mut self) {
            panic!("the payload of the panic panics too");
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
    fn a_drop_that_panics_twice_goes_no_further() {
        dispose(PanicsOnDrop);
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
            let _queue = fresh_queue();
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
    fn a_drop_inside_a_deferred_call_waits_until_the_call_of_the_library_returns() {
        struct Noted(Log<&'static str>);
        impl Drop for Noted {
            fn drop(&mut self) {
                self.0.borrow_mut().push("dropped");
            }
        }
        let log: Log<&'static str> = Rc::default();
        let inner = Rc::clone(&log);
        defer(move || {
            let call_of_the_library = hold();
            defer_drop(Noted(Rc::clone(&inner)));
            inner.borrow_mut().push("led until here");
            drop(call_of_the_library);
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
                    assert!(depth() < MAX_NESTED + 2);
                }
            }
        }
        let log: Rc<RefCell<Vec<usize>>> = Rc::default();
        defer_drop(Chain(Rc::clone(&log), 1_000));
        let depths = log.borrow();
        assert_eq!(depths.len(), 1_001);
        assert_eq!(depths[..3], [1, 2, 3]);
        assert!(depths.iter().all(|&depth| depth <= MAX_NESTED));
    }
}
