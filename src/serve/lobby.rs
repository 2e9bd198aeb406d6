//! `Lobby`: where connections wait that have nothing to do for a thread.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use mio::{Interest, Poll, Registry, Token, Waker};

use crate::group::Pending;
use crate::runtime::sync::Mutex;
use crate::serve::connection::{BoxedConnection, Connection};
use crate::serve::lane::Which;

/// The token of the socket that listens; connections have those from [`FIRST_KEY`].
pub(crate) const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const FIRST_KEY: usize = 2;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The client's part of the handshake.
    Handshake,
    /// The first byte of a request.
    Request,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// A reader that reads.
    Write,
    /// A load.
    Answer,
    /// The client's end of the connection, after ours.
    End,
}

impl Wait {
    /// Whether nothing is lost if the connection is closed.
    fn is_idle(self) -> bool {
        matches!(self, Wait::Handshake | Wait::Request | Wait::End)
    }

    /// Whether nobody has begun to answer it.
    fn is_unanswered(self) -> bool {
        self.is_idle() || matches!(self, Wait::Head | Wait::Body)
    }
}

/// Those among whom one can be found to give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Among {
    /// Whose requests nobody has begun to answer: all of them, those from a network, and those that
    /// are for peers, or for the application.
    Unanswered,
    UnansweredFrom(IpAddr),
    UnansweredFor(Which),
    /// Who have begun a request that has not ended.
    Senders,
    /// Who have an answer to read.
    Readers,
}

/// Who gives way first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Stranger,
    /// One who has proved who it is by a head, whose body is still to come.
    Announced,
    /// One who has proved who it is, and loses nothing.
    IdleKnown,
    /// Such a one who has begun something. Whoever repeats a request that was recorded looks the same.
    BusyKnown,
}

pub(crate) struct Lobby {
    registry: Registry,
    waker: Waker,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    next_key: usize,
    guests: HashMap<usize, Guest>,
    /// When they are to leave.
    timers: BTreeSet<(Instant, usize)>,
    /// Those who can give way: whose time is up next goes first of those of a rank.
    spare: BTreeSet<(Among, Rank, Instant, usize)>,
    /// Nobody is to leave before this.
    opened: Instant,
    /// When the listener wakes by itself. `None`: not before it is told to.
    wakes: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Nobody may wait for a request any more.
    Draining,
    /// Nobody may wait at all.
    Closed,
}

struct Guest {
    connection: BoxedConnection,
    wait: Wait,
    due: Option<Instant>,
    pending: Option<Pending>,
}

/// Those whose time has come.
#[derive(Default)]
pub(crate) struct Expired {
    /// To be dropped by the caller, without the lock (I1).
    pub(crate) gone: Vec<BoxedConnection>,
    /// Loads that took too long. Their connections stay until somebody has the answer: the one who
    /// gives up, or the load that was quicker after all.
    pub(crate) pending: Vec<(usize, Pending)>,
}

/// A guest who has left, to be dropped by the caller, without the lock (I1).
pub(crate) type Left = (BoxedConnection, Option<Pending>);

impl Lobby {
    pub(crate) fn new() -> io::Result<(Poll, Lobby)> {
        let poll = Poll::new()?;
        let lobby = Lobby {
            registry: poll.registry().try_clone()?,
            waker: Waker::new(poll.registry(), WAKER)?,
            state: Mutex::new(State {
                phase: Phase::Open,
                next_key: FIRST_KEY,
                guests: HashMap::new(),
                timers: BTreeSet::new(),
                spare: BTreeSet::new(),
                opened: Instant::now(),
                wakes: None,
            }),
        };
        Ok((poll, lobby))
    }

    /// Has a connection wait, at most until `due`. Gives it back if it may not, or cannot.
    pub(crate) fn enter(
        &self,
        connection: BoxedConnection,
        wait: Wait,
        due: Option<Instant>,
    ) -> Result<usize, BoxedConnection> {
        let mut state = self.state.lock();
        let refused = match state.phase {
            Phase::Open => false,
            Phase::Draining => wait.is_idle(),
            Phase::Closed => true,
        };
        if refused {
            return Err(connection);
        }
        let key = state.next_key;
        state.next_key = key.checked_add(1).unwrap_or(FIRST_KEY);
        let mut guest = Guest {
            connection,
            wait,
            due: None,
            pending: None,
        };
        // Under the lock: an event that came before the guest is in would be lost.
        let interest = match wait {
            Wait::Write => Interest::WRITABLE,
            _ => Interest::READABLE,
        };
        if let Err(error) = guest
            .connection
            .register(&self.registry, Token(key), interest)
        {
            log::warn!(target: "groupcache", error:% = error; "cannot watch a connection");
            return Err(guest.connection);
        }
        let wakes = state.set_due(&mut guest, key, due);
        state.guests.insert(key, guest);
        drop(state);
        self.wake_if(wakes);
        Ok(key)
    }

    /// Notes what a guest waits for, and until when. Gives it back if the guest has left.
    pub(crate) fn attach(
        &self,
        key: usize,
        pending: Pending,
        due: Option<Instant>,
    ) -> Option<Pending> {
        let mut state = self.state.lock();
        let Some(mut guest) = state.guests.remove(&key) else {
            return Some(pending);
        };
        guest.pending = Some(pending);
        let wakes = state.set_due(&mut guest, key, due);
        state.guests.insert(key, guest);
        drop(state);
        self.wake_if(wakes);
        None
    }

    /// Takes a guest out.
    pub(crate) fn take(&self, key: usize) -> Option<Left> {
        self.state.lock().take(key)
    }

    /// Takes those out that have something to do for a worker.
    pub(crate) fn take_ready(&self, events: &mio::Events) -> (Vec<BoxedConnection>, Vec<Left>) {
        let (mut ready, mut gone) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        for event in events {
            let key = event.token().0;
            let Some(wait) = state.guests.get(&key).map(|guest| guest.wait) else {
                continue; // woken for itself, or it has left since
            };
            if wait == Wait::Answer {
                // What comes meanwhile is read later; who leaves meanwhile wants no answer.
                if event.is_read_closed() || event.is_error() {
                    gone.extend(state.take(key));
                }
            } else {
                ready.extend(state.take(key).map(|(connection, _)| connection));
            }
        }
        (ready, gone)
    }

    /// Takes those out whose time has come.
    pub(crate) fn take_expired(&self, now: Instant) -> Expired {
        let mut expired = Expired::default();
        let mut state = self.state.lock();
        while let Some(key) = state.first_due(now) {
            let Some(mut guest) = state.guests.remove(&key) else {
                continue;
            };
            state.clear_due(&mut guest, key);
            match guest.pending.take() {
                Some(pending) => {
                    state.guests.insert(key, guest);
                    expired.pending.push((key, pending));
                }
                None => expired.gone.push(guest.connection),
            }
        }
        expired
    }

    /// Takes the first out of these that is of this rank at `most`.
    pub(crate) fn evict(&self, among: Among, most: Rank) -> Option<Left> {
        let mut state = self.state.lock();
        let first = (among, Rank::Stranger, state.opened, 0);
        let (found, rank, _, key) = state.spare.range(first..).next().copied()?;
        if found != among || rank > most {
            return None;
        }
        state.take(key)
    }

    /// When the listener has to wake; it is told if that becomes earlier.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        state.wakes = state.timers.first().map(|first| first.0);
        state.wakes
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    /// From now on nobody waits for a request, or to be let go. Takes those out who do.
    pub(crate) fn drain(&self) -> Vec<Left> {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Draining;
        }
        let guests = state.guests.iter();
        let idle = guests.filter(|(_, guest)| guest.wait.is_idle());
        let keys: Vec<usize> = idle.map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| state.take(key)).collect()
    }

    /// Sends everybody away, and lets nobody in.
    pub(crate) fn close(&self) -> Vec<Left> {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        let keys: Vec<usize> = state.guests.keys().copied().collect();
        let left = keys.into_iter().filter_map(|key| state.take(key)).collect();
        drop(state);
        self.wake();
        left
    }

    /// No longer watches a connection, which has left. Until then its events are ignored.
    pub(crate) fn forget(&self, connection: &mut Connection) {
        connection.deregister(&self.registry);
    }

    fn wake_if(&self, needed: bool) {
        if needed {
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            log::error!(target: "groupcache", error:% = error; "cannot wake the listener");
        }
    }
}

impl State {
    /// Tells whether the listener would wake too late for it.
    fn set_due(&mut self, guest: &mut Guest, key: usize, due: Option<Instant>) -> bool {
        self.clear_due(guest, key);
        guest.due = due;
        let Some(due) = due else {
            return false;
        };
        self.timers.insert((due, key));
        for (among, rank) in guest.gives_way() {
            self.spare.insert((among, rank, due, key));
        }
        let too_late = self.wakes.is_none_or(|wakes| due < wakes);
        if too_late {
            self.wakes = Some(due);
        }
        too_late
    }

    fn clear_due(&mut self, guest: &mut Guest, key: usize) {
        let Some(due) = guest.due.take() else {
            return;
        };
        self.timers.remove(&(due, key));
        for (among, rank) in guest.gives_way() {
            self.spare.remove(&(among, rank, due, key));
        }
    }

    fn take(&mut self, key: usize) -> Option<Left> {
        let mut guest = self.guests.remove(&key)?;
        self.clear_due(&mut guest, key);
        Some((guest.connection, guest.pending))
    }

    fn first_due(&self, now: Instant) -> Option<usize> {
        let first = self.timers.first();
        first.filter(|(due, _)| *due <= now).map(|(_, key)| *key)
    }
}

impl Guest {
    /// Among whom it can give way, and when.
    fn gives_way(&self) -> impl Iterator<Item = (Among, Rank)> + use<> {
        let wait = self.wait;
        let network = self.connection.network();
        let rank = match self.connection.is_known() {
            false if self.connection.has_proved() => Rank::Announced,
            false => Rank::Stranger,
            true if wait.is_idle() => Rank::IdleKnown,
            true => Rank::BusyKnown,
        };
        let unanswered = [
            Some(Among::Unanswered),
            Some(Among::UnansweredFrom(network)),
            self.connection.kind().map(Among::UnansweredFor),
        ];
        let unanswered = unanswered.into_iter().flatten();
        let unanswered = unanswered.filter(move |_| wait.is_unanswered());
        let is_sender = matches!(wait, Wait::Head | Wait::Body);
        let senders = is_sender.then_some(Among::Senders);
        let readers = (wait == Wait::Write).then_some(Among::Readers);
        let all = unanswered.chain(senders).chain(readers);
        all.map(move |among| (among, rank))
    }
}
