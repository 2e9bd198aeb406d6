//! `Idle`: the connections to one peer that nobody uses, and `Janitor`, which closes them in time.
//!
//! A connection that the other side closes meanwhile stays half open until this side closes it too,
//! so that may not wait for the next call: there may be none.

use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::maintenance::Maintenance;
use crate::runtime::sync::{Arc, AtomicBool, Mutex, Ordering, Weak};

/// Connections to one peer that are kept while idle: as many as threads that fetch at once.
const MAX_CONNECTIONS: usize = 256;

/// Less than the idle timeout of the listener, so that the side that asks closes first.
const MAX_AGE: Duration = Duration::from_secs(30);

/// Closes what is idle for too long, on a thread that is started with the first idle connection.
pub(super) struct Janitor {
    clock: Clock,
    maintenance: Maintenance,
    all: Mutex<Vec<Weak<Idle>>>,
    /// Whether a round is due: one that follows is not to be asked for with each call.
    is_awaited: AtomicBool,
}

pub(super) struct Idle {
    janitor: Arc<Janitor>,
    /// The longest idle first. The last one is used next, so that those not needed grow old.
    connections: Mutex<Vec<Connection>>,
}

impl Janitor {
    pub(super) fn new(clock: Clock) -> Arc<Janitor> {
        Arc::new(Janitor {
            clock,
            maintenance: Maintenance::new("groupcache-idle"),
            all: Mutex::new(Vec::new()),
            is_awaited: AtomicBool::new(false),
        })
    }

    /// Room for the connections to one peer.
    pub(super) fn room(self: &Arc<Self>) -> Arc<Idle> {
        let idle = Arc::new(Idle {
            janitor: Arc::clone(self),
            connections: Mutex::new(Vec::new()),
        });
        let mut all = self.all.lock();
        all.retain(|idle| idle.strong_count() > 0);
        all.push(Arc::downgrade(&idle));
        drop(all);
        idle
    }

    /// Has a round come when a connection is too old that is idle from now on.
    fn await_round(self: &Arc<Self>) {
        // Seldom changed, so that it stays in the caches of all who look.
        if self.is_awaited.load(Ordering::Acquire) || self.is_awaited.swap(true, Ordering::AcqRel) {
            return;
        }
        let janitor = Arc::downgrade(self);
        let due = Deadline::after(self.clock.now(), MAX_AGE);
        self.maintenance.wake(&self.clock, due, || {
            move || janitor.upgrade().map(|janitor| janitor.sweep())
        });
    }

    /// Closes what is too old; gives when the next connection will be.
    fn sweep(&self) -> Deadline {
        // First: who adds one after its peer was looked at asks for a round of its own.
        self.is_awaited.store(false, Ordering::Release);
        let all = self.all.lock().clone();
        let all = all.iter().filter_map(Weak::upgrade);
        let next = all.filter_map(|idle| idle.close_old(self.clock.now()));
        let Some(next) = next.min() else {
            return Deadline::NEVER;
        };
        self.is_awaited.store(true, Ordering::Release);
        Deadline::at(next)
    }
}

impl Idle {
    /// The one that was used last, if it is not too old.
    pub(super) fn take(&self) -> Option<Connection> {
        let now = self.janitor.clock.now();
        let (youngest, _old) = {
            let mut connections = self.connections.lock();
            match connections.pop() {
                Some(youngest) if is_old(&youngest, now) => {
                    // Perhaps there was no thread to close it: the next round starts one.
                    self.janitor.is_awaited.store(false, Ordering::Release);
                    connections.push(youngest);
                    (None, std::mem::take(&mut *connections))
                }
                youngest => (youngest, Vec::new()),
            } // old ones are closed without the lock
        };
        youngest
    }

    pub(super) fn put(&self, mut connection: Connection) {
        connection.note_idle(self.janitor.clock.now());
        let _spared = {
            let mut connections = self.connections.lock();
            connections.push(connection);
            (connections.len() > MAX_CONNECTIONS).then(|| connections.remove(0))
        }; // closed without the lock
        self.janitor.await_round();
    }

    /// Closes those that are too old at `now`; gives when the next one will be, if there is one.
    fn close_old(&self, now: Instant) -> Option<Instant> {
        let (_old, next) = {
            let mut connections = self.connections.lock();
            let old = connections.partition_point(|connection| is_old(connection, now));
            let old: Vec<Connection> = connections.drain(..old).collect();
            (old, connections.first().map(Connection::idle_since))
        }; // closed without the lock
        next.and_then(|since| since.checked_add(MAX_AGE))
    }
}

fn is_old(connection: &Connection, now: Instant) -> bool {
    now.saturating_duration_since(connection.idle_since()) >= MAX_AGE
}
