//! `ParkedConnections`: the connections that wait and hold no worker.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::time::Instant;

use mio::{Interest, Poll, Registry, Token, Waker};

use super::connection::{BoxedConnection, Connection};
use super::eviction::{Candidates, Rank};
use super::wait::Wait;
use crate::group::Pending;
use crate::runtime::sync::Mutex;

/// The token of the socket that listens. Connections have tokens from [`FIRST_KEY`].
pub(crate) const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const FIRST_KEY: usize = 2;

const _: () = assert!(LISTENER.0 != WAKER.0 && LISTENER.0 < FIRST_KEY && WAKER.0 < FIRST_KEY);

/// Among how many [`Candidates`] one connection is at most: all that are unanswered, those from its
/// network, those for its traffic, and those that are sending.
const MAX_CANDIDATES: usize = 4;

pub(crate) struct ParkedConnections {
    registry: Registry,
    waker: Waker,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    next_key: usize,
    parked: HashMap<usize, Parked>,
    /// The deadlines, in their order.
    timers: BTreeSet<(Instant, usize)>,
    /// The connections that can be evicted: of those of one rank, that with the earliest deadline first.
    evictable: BTreeSet<(Candidates, Rank, Instant, usize)>,
    /// No deadline is earlier than this.
    opened: Instant,
    /// When the listener wakes without being woken. `None`: never.
    wakes: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// No connection may be parked that is idle.
    Draining,
    /// No connection may be parked.
    Closed,
}

struct Parked {
    connection: BoxedConnection,
    wait: Wait,
    due: Option<Instant>,
    /// The load that the connection waits for.
    pending: Option<Pending>,
}

/// What is past its deadline.
#[derive(Default)]
pub(crate) struct Expired {
    /// To be dropped by the caller, without the lock (I1).
    pub(crate) connections: Vec<BoxedConnection>,
    /// Loads that took too long, by the keys of their connections. Those stay parked until there is an
    /// answer: of the worker that gives the load up, or of the load if that was quicker after all.
    pub(crate) loads: Vec<(usize, Pending)>,
}

/// A connection that is no longer parked, and its load, to be dropped by the caller, without the lock (I1).
pub(crate) type Removed = (BoxedConnection, Option<Pending>);

impl ParkedConnections {
    pub(crate) fn new() -> io::Result<(Poll, ParkedConnections)> {
        let poll = Poll::new()?;
        let parked = ParkedConnections {
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKER)?,
            state: Mutex::new(State {
                phase: Phase::Open,
                next_key: FIRST_KEY,
                parked: HashMap::new(),
                timers: BTreeSet::new(),
                evictable: BTreeSet::new(),
                opened: Instant::now(),
                wakes: None,
            }),
        };
        Ok((poll, parked))
    }

    /// Parks a connection, at most until `due`. Returns its key, or the connection if it may not be parked,
    /// or cannot be watched.
    pub(crate) fn insert(
        &self,
        connection: BoxedConnection,
        wait: Wait,
        due: Option<Instant>,
    ) -> Result<usize, BoxedConnection> {
        let mut state = self.state.lock();
        let is_refused = match state.phase {
            Phase::Open => false,
            Phase::Draining => wait.is_idle(),
            Phase::Closed => true,
        };
        if is_refused {
            return Err(connection);
        }
        let key = state.next_key;
        state.next_key = key.checked_add(1).unwrap_or(FIRST_KEY);
        let mut parked = Parked {
            connection,
            wait,
            due: None,
            pending: None,
        };
        // Under the lock: an event that came before the connection is in the table would be lost.
        let interest = match wait {
            Wait::Write => Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        if let Err(error) = parked
            .connection
            .register(&self.registry, Token(key), interest)
        {
            log::warn!(target: "groupcache", error:% = error; "cannot watch a connection");
            return Err(parked.connection);
        }
        let wakes_too_late = state.set_due(&mut parked, key, due);
        state.parked.insert(key, parked);
        drop(state);
        self.wake_if(wakes_too_late);
        Ok(key)
    }

    /// Adds the load that a connection waits for, and its deadline. Returns the load if the connection is no
    /// longer parked.
    pub(crate) fn attach(
        &self,
        key: usize,
        pending: Pending,
        due: Option<Instant>,
    ) -> Option<Pending> {
        let mut state = self.state.lock();
        let Some(mut parked) = state.parked.remove(&key) else {
            return Some(pending);
        };
        debug_assert!(
            parked.wait == Wait::Load && parked.pending.is_none(),
            "a connection waits for one load"
        );
        parked.pending = Some(pending);
        let wakes_too_late = state.set_due(&mut parked, key, due);
        state.parked.insert(key, parked);
        drop(state);
        self.wake_if(wakes_too_late);
        None
    }

    pub(crate) fn take(&self, key: usize) -> Option<Removed> {
        self.state.lock().take(key)
    }

    /// Takes the connections out whose sockets have an event: those that a worker has to serve, and those
    /// whose client has left while they waited for a load.
    pub(crate) fn take_ready(&self, events: &mio::Events) -> (Vec<BoxedConnection>, Vec<Removed>) {
        let (mut ready, mut left) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        for event in events {
            let key = event.token().0;
            let Some(wait) = state.parked.get(&key).map(|parked| parked.wait) else {
                continue; // the listening socket, the waker, or a connection that was taken out since
            };
            if wait == Wait::Load {
                // Further requests are read after the answer. A client that has left wants none.
                if event.is_read_closed() || event.is_error() {
                    left.extend(state.take(key));
                }
            } else {
                ready.extend(state.take(key).map(|(connection, _)| connection));
            }
        }
        (ready, left)
    }

    /// Takes out what is past its deadline.
    pub(crate) fn take_expired(&self, now: Instant) -> Expired {
        let mut expired = Expired::default();
        let mut state = self.state.lock();
        while let Some(key) = state.first_due(now) {
            let Some(mut parked) = state.parked.remove(&key) else {
                debug_assert!(false, "a timer has no connection");
                continue;
            };
            state.clear_due(&mut parked, key);
            match parked.pending.take() {
                Some(pending) => {
                    state.parked.insert(key, parked);
                    expired.loads.push((key, pending));
                }
                None => expired.connections.push(parked.connection),
            }
        }
        expired
    }

    /// Takes the first of the candidates out, if its rank is not above `max`.
    pub(crate) fn evict(&self, candidates: Candidates, max: Rank) -> Option<Removed> {
        let mut state = self.state.lock();
        let first = (candidates, Rank::Stranger, state.opened, 0);
        let (found, rank, _, key) = state.evictable.range(first..).next().copied()?;
        if found != candidates || rank > max {
            return None;
        }
        state.take(key)
    }

    /// The next deadline. The listener, which wakes then, is woken if there is an earlier one.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        state.wakes = state.timers.first().map(|first| first.0);
        state.wakes
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// Takes all idle connections out, and parks no more of them from now on.
    pub(crate) fn drain(&self) -> Vec<Removed> {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
        }
        let all = state.parked.iter();
        let idle = all.filter(|(_, parked)| parked.wait.is_idle());
        let keys: Vec<usize> = idle.map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| state.take(key)).collect()
    }

    /// Takes all connections out, and parks no more of them from now on.
    pub(crate) fn close(&self) -> Vec<Removed> {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        let keys: Vec<usize> = state.parked.keys().copied().collect();
        let removed = keys.into_iter().filter_map(|key| state.take(key)).collect();
        debug_assert!(
            state.parked.is_empty(),
            "a connection is parked and not closed"
        );
        drop(state);
        self.wake();
        removed
    }

    /// No longer watches a connection that was taken out. Until then its events are ignored.
    pub(crate) fn deregister(&self, connection: &mut Connection) {
        connection.deregister(&self.registry);
    }

    fn wake_if(&self, needed: bool) {
        if needed {
            self.wake();
        }
    }

    /// Wakes the listener.
    pub(crate) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!(target: "groupcache", error:% = error; "cannot wake the listener");
        }
    }
}

impl State {
    /// Sets a deadline. Returns whether the listener would wake too late for it.
    fn set_due(&mut self, parked: &mut Parked, key: usize, due: Option<Instant>) -> bool {
        self.clear_due(parked, key);
        parked.due = due;
        let Some(due) = due else {
            return false;
        };
        self.timers.insert((due, key));
        for (candidates, rank) in parked.evictable_as() {
            self.evictable.insert((candidates, rank, due, key));
        }
        let is_too_late = self.wakes.is_none_or(|wakes| due < wakes);
        if is_too_late {
            self.wakes = Some(due);
        }
        is_too_late
    }

    fn clear_due(&mut self, parked: &mut Parked, key: usize) {
        let Some(due) = parked.due.take() else {
            return;
        };
        let had_timer = self.timers.remove(&(due, key));
        debug_assert!(had_timer, "a deadline has no timer");
        for (candidates, rank) in parked.evictable_as() {
            let was_evictable = self.evictable.remove(&(candidates, rank, due, key));
            debug_assert!(was_evictable, "the rank changed while parked");
        }
        debug_assert!(
            self.evictable.len() <= MAX_CANDIDATES * self.timers.len(),
            "only connections with a deadline can be evicted"
        );
    }

    fn take(&mut self, key: usize) -> Option<Removed> {
        let mut parked = self.parked.remove(&key)?;
        self.clear_due(&mut parked, key);
        debug_assert!(
            self.timers.len() <= self.parked.len(),
            "a connection has one timer at most"
        );
        Some((parked.connection, parked.pending))
    }

    fn first_due(&self, now: Instant) -> Option<usize> {
        let first = self.timers.first();
        first.filter(|(due, _)| *due <= now).map(|(_, key)| *key)
    }
}

impl Parked {
    /// The candidates that it is among, each with its rank.
    fn evictable_as(&self) -> impl Iterator<Item = (Candidates, Rank)> + use<> {
        let wait = self.wait;
        let rank = match self.connection.is_authenticated() {
            false if self.connection.has_authenticated_head() => Rank::HeadAuthenticated,
            false => Rank::Stranger,
            true if wait.is_idle() => Rank::IdlePeer,
            true => Rank::BusyPeer,
        };
        let traffic = self.connection.traffic();
        let unanswered = [
            Some(Candidates::Unanswered),
            Some(Candidates::UnansweredFrom(self.connection.network())),
            traffic.map(Candidates::UnansweredFor),
        ];
        let unanswered = unanswered.into_iter().flatten();
        let unanswered = unanswered.filter(move |_| wait.is_unanswered());
        let is_sending = matches!(wait, Wait::Head | Wait::Body);
        let sending = is_sending.then_some(Candidates::Sending);
        let reading = (wait == Wait::Write).then_some(Candidates::Reading);
        let all = unanswered.chain(sending).chain(reading);
        all.map(move |candidates| (candidates, rank))
    }
}
