//! `Pending`: the answer to a peer that takes a load. It holds no thread.

use std::fmt;
use std::time::Instant;

use super::seats::{Answered, Seats};
use super::serve::{Asked, MAX_CLAIM, Order, item_of_error, patience_of};
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
/// and call [`give_up`](Pending::give_up) when the [`deadline`](Pending::deadline) comes first. No
/// thread is held meanwhile. Dropped, it takes the request back: a load that nobody else waits for
/// and that has not begun does not begin any more.
pub struct Pending {
    served: Arc<dyn Served>,
    all: Arc<Slot<()>>,
    until: Instant,
    clock: Clock,
    /// What the answer names.
    named: Named,
    /// What is to be called with the answer, until it is.
    callback: Arc<Mutex<Option<Callback>>>,
}

type Callback = Box<dyn FnOnce(Response) + Send>;

impl Pending {
    /// For those of the orders that have a seat.
    pub(super) fn new<V: Cacheable>(
        seats: Arc<Seats<V>>,
        asked: Asked,
        until: Instant,
        load: AskedLoad,
    ) -> Pending {
        Pending {
            all: Arc::clone(&seats.all),
            until,
            clock: seats.group.cluster.clock.clone(),
            named: Named::default(),
            callback: Arc::default(),
            served: Arc::new(Party {
                seats,
                asked: Mutex::new(Some(asked)),
                load,
            }),
        }
    }

    /// What is answered when a job of the pool has filled `done`.
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
            served: Arc::new(Done { ring }),
        }
    }

    /// The same, whose answer says this of itself.
    pub(crate) fn naming(mut self, named: Named) -> Pending {
        self.named = named;
        self
    }

    /// When the one who asked is to get an answer that the value is still loading.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.until
    }

    /// Blocks until the answer is here, at most until the deadline.
    #[must_use]
    pub fn wait(self) -> Response {
        let blocked = self.served.wait_inside();
        let _ = self.all.wait(&self.clock, Deadline::at(self.until));
        drop(blocked);
        self.served.response().naming(self.named)
    }

    /// Has `callback` called with the answer, at once if it is here already, on the thread that
    /// brings it and without any lock held. It should be quick: hand the answer to a thread of
    /// your own. It may use the node and its groups; what others wait for comes after it, so it should
    /// not block. A panic in it is logged and goes no further. Dropping this `Pending` before takes
    /// the callback back. The first callback counts, others are dropped.
    pub fn notify(&self, callback: impl FnOnce(Response) + Send + 'static) {
        let mut callback: Option<Callback> = Some(Box::new(callback));
        {
            let mut held = self.callback.lock();
            if held.is_none() {
                *held = callback.take();
            }
        }
        user_code::dispose(callback);
        let (served, named) = (Arc::clone(&self.served), self.named);
        let held = Arc::clone(&self.callback);
        let answer = move || {
            if let Some(callback) = take(&held) {
                callback(served.response().naming(named));
            }
        };
        // Not while the thread that brings it leads flights: the codec and the callback may ask for
        // what others of them bring. It has its turn before listeners and drops, and whoever gives up
        // meanwhile has the answer all the same.
        let later = |answer| move |()| user_code::defer_first(answer);
        if let Some((answer, ())) = self.all.then_later(answer, later) {
            if let Err(panicked) = user_code::call(answer) {
                user_code::report("the callback of a pending answer panicked", &panicked);
            }
        }
    }

    /// The answer to give now that the deadline has come, or `None` if the real one came first and
    /// the callback is being called with it, or has been.
    #[must_use]
    pub fn give_up(self) -> Option<Response> {
        let is_closed = self.all.close() == Closed::Before;
        let callback = take(&self.callback);
        if is_closed && callback.is_none() {
            return None;
        }
        user_code::dispose(callback);
        Some(self.served.response().naming(self.named))
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
        self.served.leave();
    }
}

/// A request that waits, without the type of its values.
trait Served: Send + Sync {
    /// What there is to say by now. Called once.
    fn response(&self) -> Response;
    fn leave(&self);
    /// Notes that this thread waits for it, if that concerns a pool.
    fn wait_inside(&self) -> Option<Blocked<'_>>;
}

/// That something has been done, or will be.
struct Done {
    ring: u64,
}

impl Served for Done {
    fn response(&self) -> Response {
        Response::new(Status::Ok, self.ring)
    }

    fn leave(&self) {}

    fn wait_inside(&self) -> Option<Blocked<'_>> {
        None
    }
}

/// The keys of a request of a peer, and the seats of those that are not in memory.
struct Party<V: Cacheable> {
    seats: Arc<Seats<V>>,
    /// `None` once it is answered.
    asked: Mutex<Option<Asked>>,
    load: AskedLoad,
}

/// What the requester says of its load.
#[derive(Clone, Copy)]
pub(super) struct AskedLoad {
    /// For how long the value is of use to it.
    pub(super) deadline: Deadline,
    /// Whether it loads the value itself if the load has not begun in time.
    pub(super) falls_back: bool,
}

impl<V: Cacheable> Party<V> {
    fn item_of(&self, order: &mut Order) -> Option<Item> {
        order.item.take().or_else(|| {
            let at = order.seat?;
            Some(self.item_of_seat(&order.key, at))
        })
    }

    fn item_of_seat(&self, key: &str, at: usize) -> Item {
        let group = &self.seats.group;
        match self.seats.answer(at) {
            Some(Answered::Outcome(outcome)) => group.item(key, outcome),
            // The requester loads it itself: it would take `loading` at once for nonsense.
            Some(Answered::Again) => item_of_error(&Error::Overloaded),
            Some(Answered::NoRoom) => item_of_loading(),
            // One load all the same: of the requester instead of this node.
            None if self.load.falls_back && self.seats.leave_if_alone(at) => {
                item_of_error(&Error::Overloaded)
            }
            None => {
                // The requester asks again, and is to find the place that the load has in the queue.
                let cluster = &group.cluster;
                let claimed = cluster.settings.fetch_timeout.min(MAX_CLAIM);
                let until = cluster.clock.now() + claimed;
                self.seats.leave_a_claim(at, until, self.load.deadline);
                group.have_swept(); // should it not come back
                item_of_loading()
            }
        }
    }
}

fn item_of_loading() -> Item {
    let text = "the value is not here yet; ask again";
    Item::Status(Status::Loading, text.to_owned())
}

impl<V: Cacheable> Served for Party<V> {
    fn response(&self) -> Response {
        let group = &self.seats.group;
        let asked = self.asked.lock().take();
        let Some(asked) = asked else {
            return Response::text(Status::Overloaded, group.ring(), "it is answered already");
        };
        let items = asked.orders.into_iter().filter_map(|mut order| {
            let item = self.item_of(&mut order)?;
            Some((order.key, item))
        });
        group.respond(asked.form, items, asked.charge)
    }

    fn leave(&self) {
        self.seats.leave();
    }

    fn wait_inside(&self) -> Option<Blocked<'_>> {
        Some(self.seats.group.cluster.pool.wait_inside())
    }
}
