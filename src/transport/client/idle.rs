//! `Idle`: the idle connections to one peer, and `Reaper`: closes those that are idle for too long.
//!
//! A connection that the peer closes stays half open until this side closes it too. That must not wait for
//! the next call, as there may be none.

use std::time::{Duration, Instant};

use super::connection::Connection;
use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::maintenance::Maintenance;
use crate::runtime::sync::{Arc, AtomicBool, Mutex, Ordering, Weak};

/// The most idle connections to one peer: as many as threads that fetch at the same time.
const MAX_CONNECTIONS: usize = 256;

/// The longest time that a connection is kept idle: less than the idle timeout of servers, so that the
/// client closes first.
const MAX_AGE: Duration = Duration::from_secs(30);

/// Closes connections that are idle for too long, on a thread that starts with the first idle connection.
pub(super) struct Reaper {
    clock: Clock,
    maintenance: Maintenance,
    all: Mutex<Vec<Weak<Idle>>>,
    /// Whether a round is scheduled, so that not each call has to schedule one.
    is_scheduled: AtomicBool,
}

pub(super) struct Idle {
    reaper: Arc<Reaper>,
    /// The longest idle first. The last one is used next, so that connections that are not needed become
    /// too old.
    connections: Mutex<Vec<Connection>>,
}

impl Reaper {
    pub(super) fn new(clock: Clock) -> Arc<Reaper> {
        Arc::new(Reaper {
            clock,
            maintenance: Maintenance::new("groupcache-idle"),
            all: Mutex::new(Vec::new()),
            is_scheduled: AtomicBool::new(false),
        })
    }

    /// Adds a peer, whose idle connections are closed in time from now on.
    pub(super) fn add_peer(self: &Arc<Self>) -> Arc<Idle> {
        let idle = Arc::new(Idle {
            reaper: Arc::clone(self),
            connections: Mutex::new(Vec::new()),
        });
        let mut all = self.all.lock();
        all.retain(|idle| idle.strong_count() > 0);
        all.push(Arc::downgrade(&idle));
        drop(all);
        idle
    }

    /// Schedules a round for when a connection that is idle from now on is too old.
    fn schedule_round(self: &Arc<Self>) {
        // Read first: it is seldom written, so that it stays in the caches of all processors.
        if self.is_scheduled.load(Ordering::Acquire)
            || self.is_scheduled.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let reaper = Arc::downgrade(self);
        let due = Deadline::after(self.clock.now(), MAX_AGE);
        self.maintenance.wake(&self.clock, due, || {
            move || reaper.upgrade().map(|reaper| reaper.sweep())
        });
    }

    /// Closes the connections that are too old; gives when the next one will be too old.
    fn sweep(&self) -> Deadline {
        // First of all: a thread that adds a connection after its peer was visited schedules a round itself.
        self.is_scheduled.store(false, Ordering::Release);
        let all = self.all.lock().clone();
        let all = all.iter().filter_map(Weak::upgrade);
        let next = all.filter_map(|idle| idle.close_old(self.clock.now()));
        let Some(next) = next.min() else {
            return Deadline::NEVER;
        };
        self.is_scheduled.store(true, Ordering::Release);
        Deadline::at(next)
    }
}

impl Idle {
    /// Takes the connection that was used last, if it is not too old.
    pub(super) fn take(&self) -> Option<Connection> {
        let now = self.reaper.clock.now();
        let (youngest, _old) = {
            let mut connections = self.connections.lock();
            match connections.pop() {
                Some(youngest) if is_old(&youngest, now) => {
                    // Its round has not come, perhaps because no thread could be started: the next call
                    // schedules another one.
                    self.reaper.is_scheduled.store(false, Ordering::Release);
                    connections.push(youngest);
                    (None, std::mem::take(&mut *connections))
                }
                youngest => (youngest, Vec::new()),
            } // the old ones are closed without the lock
        };
        youngest
    }

    /// Keeps a connection; closes the longest idle one if there are too many.
    pub(super) fn put(&self, mut connection: Connection) {
        connection.note_idle(self.reaper.clock.now());
        let _surplus = {
            let mut connections = self.connections.lock();
            connections.push(connection);
            (connections.len() > MAX_CONNECTIONS).then(|| connections.remove(0))
        }; // closed without the lock
        self.reaper.schedule_round();
    }

    /// Closes the connections that are too old at `now`; gives when the next one will be, if there is one.
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
