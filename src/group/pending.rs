//! `Pending`: a request of a peer whose answer takes a load. It is parked meanwhile, and holds no
//! thread.

use std::fmt;
use std::time::Instant;

use super::answer::{item_of_error, item_of_loading};
use super::request::{LoadTerms, MAX_CLAIM, RequestKey, RequestKeys, patience_of};
use super::waiter_set::{Answered, WaiterSet};
use crate::cluster::state::Cluster;
use crate::error::Error;
use crate::protocol::{Item, Named, Response, Status, Terms};
use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::pool::Blocked;
use crate::runtime::slot::{Closed, Slot};
use crate::runtime::sync::{Arc, Mutex};
use crate::runtime::user_code;
use crate::value::Cacheable;

/// A request whose answer takes a load. See [`Node::begin`](crate::Node::begin).
///
/// Either [`wait`](Pending::wait) for the answer, or have [`notify`](Pending::notify) call back,
/// and call [`give_up`](Pending::give_up) when the [`deadline`](Pending::deadline) comes first. With a
/// callback, no thread is held meanwhile. Dropped, it takes the request back: a load that nobody else
/// waits for and that has not begun does not begin any more.
pub struct Pending {
    request: Arc<dyn Parked>,
    /// Filled when the answer is complete.
    all: Arc<Slot<()>>,
    until: Instant,
    clock: Clock,
    /// What the answer says about itself.
    named: Named,
    /// To be called with the answer; `None` once it is, or if there is none.
    callback: Arc<Mutex<Option<Callback>>>,
}

type Callback = Box<dyn FnOnce(Response) + Send>;

impl Pending {
    /// A request for `keys`, of which some have a waiter in `set`.
    pub(super) fn new<V: Cacheable>(
        set: Arc<WaiterSet<V>>,
        keys: RequestKeys,
        until: Instant,
        load: LoadTerms,
    ) -> Pending {
        Pending {
            all: Arc::clone(&set.all),
            until,
            clock: set.group.cluster.clock.clone(),
            named: Named::default(),
            callback: Arc::default(),
            request: Arc::new(ParkedRequest {
                set,
                keys: Mutex::new(Some(keys)),
                load,
            }),
        }
    }

    /// A request that is answered when a job of the pool has filled `done`.
    pub(super) fn of_job(
        done: Arc<Slot<()>>,
        ring: u64,
        terms: &Terms,
        cluster: &Cluster,
    ) -> Pending {
        Pending {
            all: done,
            until: cluster.clock.now() + patience_of(terms, cluster),
            clock: cluster.clock.clone(),
            named: Named::default(),
            callback: Arc::default(),
            request: Arc::new(ParkedJob { ring }),
        }
    }

    /// The same, with this in its answer.
    pub(crate) fn naming(mut self, named: Named) -> Pending {
        self.named = named;
        self
    }

    /// When the requester is to be answered that the value is still loading.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.until
    }

    /// Blocks until there is an answer, at most until the deadline.
    #[must_use]
    pub fn wait(self) -> Response {
        let blocked = self.request.wait_inside();
        let _ = self.all.wait(&self.clock, Deadline::at(self.until));
        drop(blocked);
        self.request.response().naming(self.named)
    }

    /// Has `callback` called with the answer, at once if there is one already, else on the thread that
    /// completes it, and without any lock held. The callback should be quick: hand the answer to a thread
    /// of your own. It may use the node and its groups; other callers wait until it has returned, so it
    /// should not block. A panic in it is logged and goes no further. Dropping this `Pending` before
    /// takes the callback back. The first callback counts, others are dropped.
    pub fn notify(&self, callback: impl FnOnce(Response) + Send + 'static) {
        let mut callback: Option<Callback> = Some(Box::new(callback));
        {
            let mut held = self.callback.lock();
            if held.is_none() {
                *held = callback.take();
            }
        }
        user_code::dispose(callback);
        let (request, named) = (Arc::clone(&self.request), self.named);
        let held = Arc::clone(&self.callback);
        let answer = move || {
            if let Some(callback) = take(&held) {
                callback(request.response().naming(named));
            }
        };
        // Not while the thread that fills the slot leads flights: the codec and the callback may get the
        // keys of other flights of that thread. The callback has its turn before listeners and drops, and
        // a caller that gives up meanwhile has the answer all the same.
        let later = |answer| move |()| user_code::defer_first(answer);
        if let Some((answer, ())) = self.all.then_later(answer, later) {
            if let Err(panicked) = user_code::call(answer) {
                user_code::report("the callback of a pending answer panicked", &panicked);
            }
        }
    }

    /// The answer to give now that the deadline has come, or `None` if the real answer came first and
    /// the callback is being called with it, or has been.
    #[must_use]
    pub fn give_up(self) -> Option<Response> {
        let is_closed = self.all.close() == Closed::Before;
        let callback = take(&self.callback);
        if is_closed && callback.is_none() {
            return None;
        }
        user_code::dispose(callback);
        Some(self.request.response().naming(self.named))
    }
}

/// Takes a callback out, to be called or dropped without the lock (I1).
fn take(held: &Mutex<Option<Callback>>) -> Option<Callback> {
    held.lock().take()
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let _ = self.all.close();
        user_code::dispose(take(&self.callback));
        self.request.leave();
    }
}

/// A parked request, without the type of its values.
trait Parked: Send + Sync {
    /// The answer as far as it is known by now. Called once.
    fn response(&self) -> Response;
    /// Leaves the flights that the request waits for.
    fn leave(&self);
    /// Notes that this thread waits for the request, if it waits for a load: it may be one of the pool.
    fn wait_inside(&self) -> Option<Blocked<'_>>;
}

/// A request that waits for a job of the pool. The answer is the same whether or not the job has run.
struct ParkedJob {
    ring: u64,
}

impl Parked for ParkedJob {
    fn response(&self) -> Response {
        Response::new(Status::Ok, self.ring)
    }

    fn leave(&self) {}

    fn wait_inside(&self) -> Option<Blocked<'_>> {
        None
    }
}

/// A request for keys that waits for their flights.
struct ParkedRequest<V: Cacheable> {
    set: Arc<WaiterSet<V>>,
    /// `None` once the request is answered.
    keys: Mutex<Option<RequestKeys>>,
    load: LoadTerms,
}

impl<V: Cacheable> ParkedRequest<V> {
    fn item_of(&self, key: &mut RequestKey) -> Option<Item> {
        key.item.take().or_else(|| {
            let at = key.waiter?;
            Some(self.item_of_waiter(&key.key, at))
        })
    }

    fn item_of_waiter(&self, key: &str, at: usize) -> Item {
        let group = &self.set.group;
        match self.set.answer(at) {
            Some(Answered::Outcome(outcome)) => group.item(key, outcome),
            // The requester loads the value itself: it takes a `loading` that comes at once for a
            // failure.
            Some(Answered::Again) => item_of_error(&Error::Overloaded),
            Some(Answered::OverBudget) => item_of_loading(),
            // There is one load all the same: by the requester instead of this node.
            None if self.load.falls_back && self.set.leave_if_alone(at) => {
                item_of_error(&Error::Overloaded)
            }
            None => {
                // The requester asks again, and is to find the flight queued where it was.
                let cluster = &group.cluster;
                let claimed = cluster.settings.fetch_timeout.min(MAX_CLAIM);
                let until = cluster.clock.now() + claimed;
                self.set.leave_a_claim(at, until, self.load.deadline);
                group.schedule_sweep(); // to withdraw the flight if it does not ask again
                item_of_loading()
            }
        }
    }
}

impl<V: Cacheable> Parked for ParkedRequest<V> {
    fn response(&self) -> Response {
        let group = &self.set.group;
        let keys = self.keys.lock().take();
        let Some(request) = keys else {
            return Response::text(Status::Overloaded, group.ring(), "it is answered already");
        };
        let items = request.keys.into_iter().filter_map(|mut key| {
            let item = self.item_of(&mut key)?;
            Some((key.key, item))
        });
        group.respond(request.form, items, request.charge)
    }

    fn leave(&self) {
        self.set.leave();
    }

    fn wait_inside(&self) -> Option<Blocked<'_>> {
        Some(self.set.group.cluster.pool.wait_inside())
    }
}
