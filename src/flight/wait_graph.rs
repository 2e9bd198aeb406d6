//! `Waits`: which thread waits for which flight, so that no thread comes to wait for itself (I8).

use std::cell::RefCell;
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::runtime::sync::{Arc, Mutex, OneForAll, thread_local};

/// Shows that this thread leads a flight: one of this key, in these tables.
pub(crate) struct Leading {
    of: Run,
    _of_this_thread: PhantomData<*const ()>,
}

/// The tables of a flight and the hash of its key.
pub(crate) type Run = (usize, u64);

impl Leading {
    pub(crate) fn start(of: Run) -> Leading {
        with_runs(|runs| runs.push(of));
        Leading {
            of,
            _of_this_thread: PhantomData,
        }
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        with_runs(|runs| {
            if let Some(at) = runs.iter().rposition(|run| *run == self.of) {
                runs.remove(at);
            }
        });
    }
}

/// Whether this thread leads a flight of this key: one that is stale is in no table any more.
pub(crate) fn leads(run: Run) -> bool {
    with_runs(|runs| runs.contains(&run)).unwrap_or(false)
}

/// Which leading thread waits for which flight (I8), in all nodes of the process: a thread that leads
/// in one of them may wait for a flight of another.
///
/// Only a thread that leads can be part of a cycle, so only such threads are kept. An edge is
/// checked and added under one lock; a thread that takes a lead over is not waiting at that moment;
/// so the last edge of any cycle is always the one that is checked.
#[derive(Default)]
pub(crate) struct WaitGraph {
    edges: Mutex<HashMap<u64, Arc<dyn Led>>>,
}

/// A flight as the waits-for check sees it.
pub(crate) trait Led: Send + Sync {
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
    pub(crate) fn enter(self: &Arc<Self>, flight: Arc<dyn Led>) -> Option<Edge> {
        let me = this_thread();
        if with_runs(|runs| runs.is_empty()).unwrap_or(false) {
            // It may be about to end a flight that it has led.
            return (flight.leader() != me).then_some(Edge { waits: None });
        }
        let mut edges = self.edges.lock();
        let mut leader = flight.leader();
        while leader != NOBODY {
            if leader == me {
                return None;
            }
            leader = edges.get(&leader).map_or(NOBODY, |next| next.leader());
        }
        edges.insert(me, flight);
        Some(Edge {
            waits: Some(Arc::clone(self)),
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
    waits: Option<Arc<WaitGraph>>,
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(waits) = &self.waits {
            let flight = waits.edges.lock().remove(&this_thread());
            drop(flight); // it may be the last hold on a flight, which has locks of its own (I2)
        }
    }
}

pub(crate) const NOBODY: u64 = 0;

static OF_PROCESS: OneForAll<WaitGraph> = OneForAll::new();

/// Only gives numbers: nothing waits for it or depends on its order, so no model needs to see it.
static THREADS: AtomicU64 = AtomicU64::new(NOBODY + 1);

thread_local! {
    static NUMBER: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
    /// The flights that this thread leads.
    static RUNS: RefCell<Vec<Run>> = const { RefCell::new(Vec::new()) };
}

/// Uses the list of this thread. One that is ending has none any more: it may still ask, in a
/// destructor of its user.
fn with_runs<R>(work: impl FnOnce(&mut Vec<Run>) -> R) -> Option<R> {
    RUNS.try_with(|runs| work(&mut runs.borrow_mut())).ok()
}

pub(crate) fn this_thread() -> u64 {
    NUMBER.with(|number| *number)
}
