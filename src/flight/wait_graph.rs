//! `WaitGraph`: which thread waits for which flight, so that no thread waits for itself (I8).

use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::sync::{Arc, Mutex, OneForAll, thread_local};

/// Shows that this thread leads a flight.
pub(crate) struct Leading {
    flight: FlightId,
    _of_this_thread: PhantomData<*const ()>,
}

/// The address of a flight's table, and the hash of its key. A flight and its stale predecessor have
/// the same.
pub(crate) type FlightId = (usize, u64);

impl Leading {
    pub(crate) fn start(flight: FlightId) -> Leading {
        with_led(|led| led.push(flight));
        Leading {
            flight,
            _of_this_thread: PhantomData,
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        with_led(|led| {
            let at = led.iter().rposition(|flight| *flight == self.flight);
            debug_assert!(at.is_some(), "a lead ends that never began");
            if let Some(at) = at {
                led.remove(at);
            }
        });
    }
}

/// Whether this thread leads such a flight, also if it is stale and so in no table any more.
pub(crate) fn leads(flight: FlightId) -> bool {
    with_led(|led| led.contains(&flight)).unwrap_or(false)
}

/// Which leading thread waits for which flight (I8), in all nodes of the process: a thread that leads
/// in one of them may wait for a flight of another.
///
/// Only a thread that leads can be part of a cycle, so only such threads are kept. An edge is
/// checked and added under one lock; a thread that takes a lead over is not waiting at that moment;
/// so the edge that is checked is always the last one of any cycle.
#[derive(Default)]
pub(crate) struct WaitGraph {
    /// The flights that are waited for, by the number of the thread that waits.
    edges: Mutex<HashMap<u64, Arc<dyn HasLeader>>>,
}

/// A flight, as the graph sees it.
pub(crate) trait HasLeader: Send + Sync {
    /// The number of the thread that leads it, or [`NOBODY`].
    fn leader(&self) -> u64;
}

impl WaitGraph {
    pub(crate) fn of_process() -> Arc<WaitGraph> {
        OF_PROCESS.get(WaitGraph::new)
    }

    pub(crate) fn new() -> Arc<WaitGraph> {
        Arc::new(WaitGraph::default())
    }

    /// Notes that this thread waits for `flight`; `None` if it would wait for itself.
    pub(crate) fn enter(self: &Arc<Self>, flight: Arc<dyn HasLeader>) -> Option<Edge> {
        let me = this_thread();
        if with_led(|led| led.is_empty()).unwrap_or(false) {
            // This thread may be about to end a flight that it has led.
            return (flight.leader() != me).then_some(Edge { graph: None });
        }
        let mut edges = self.edges.lock();
        let mut leader = flight.leader();
        while leader != NOBODY {
            if leader == me {
                return None;
            }
            leader = edges.get(&leader).map_or(NOBODY, |next| next.leader());
        }
        let before = edges.insert(me, flight);
        debug_assert!(before.is_none(), "a thread waits for two flights at once");
        Some(Edge {
            graph: Some(Arc::clone(self)),
        })
    }
}

impl Drop for WaitGraph {
    fn drop(&mut self) {
        OF_PROCESS.let_go();
    }
}

/// A noted wait, for as long as it lasts.
pub(crate) struct Edge {
    /// `None` if this thread leads nothing, and so is not in the graph.
    graph: Option<Arc<WaitGraph>>,
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(graph) = &self.graph {
            let flight = graph.edges.lock().remove(&this_thread());
            drop(flight); // perhaps the last reference to a flight, which has locks of its own (I2)
        }
    }
}

/// The number of no thread.
pub(crate) const NOBODY: u64 = 0;

static OF_PROCESS: OneForAll<WaitGraph> = OneForAll::new();

/// The next number of a thread. Nothing waits for it or depends on its order, so no model needs to
/// see it.
static NEXT_THREAD: AtomicU64 = AtomicU64::new(NOBODY + 1);

thread_local! {
    static NUMBER: u64 = NEXT_THREAD.fetch_add(1, Ordering::Relaxed);
    /// The flights that this thread leads.
    static LED: RefCell<Vec<FlightId>> = const { RefCell::new(Vec::new()) };
}

/// Uses the list of the flights that this thread leads. `None` on a thread that is ending, and has no
/// list any more: a destructor of its user may still get values there.
fn with_led<R>(work: impl FnOnce(&mut Vec<FlightId>) -> R) -> Option<R> {
    LED.try_with(|led| work(&mut led.borrow_mut())).ok()
}

/// The number of this thread, never [`NOBODY`].
pub(crate) fn this_thread() -> u64 {
    NUMBER.with(|number| *number)
}
