//! `Hall`: one server of `tiny_http` and the threads that answer what comes there. `Halls`: the one
//! that takes new connections, and those it replaced, which still have theirs.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::dispatch::Dispatcher;
use super::engine::{Engine, work};
use super::listen;
use super::watch::Alarm;
use crate::error::Error;
use crate::node::Node;
use crate::runtime::sync::channel::{self, Receiver, RecvTimeoutError, Sender};
use crate::runtime::sync::{Arc, Mutex, thread};

/// How many replaced ones may be left at a time.
const MAX_RETIRED: usize = 4;

/// How long threads that have nothing left to do may take to end.
const GRACE: Duration = Duration::from_secs(1);

/// Dropping it has its threads end as soon as they can, and waits for none.
struct Hall {
    engine: Arc<Engine>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Hall {
    fn open(
        halls: &Halls,
        listener: TcpListener,
        alive: &Sender<Infallible>,
    ) -> Result<Hall, Error> {
        let (engine, events) = Engine::new(halls.node.clone(), listener)?;
        let (jobs, for_workers) = channel::unbounded();
        let (kicks, for_rescue) = channel::bounded(listen::MAX_KICKS);
        let mut hall = Hall {
            engine: Arc::clone(&engine),
            threads: Vec::with_capacity(halls.workers + 2),
        };
        // What has started when one cannot be started is stopped by the drop of `hall`.
        let alarms = halls.alarms.clone();
        let dispatcher = Dispatcher::new(Arc::clone(&engine), events, jobs, kicks, alarms);
        hall.spawn("groupcache-tiny", alive, move || dispatcher.run())?;
        let address = halls.address;
        let rescue = move || listen::rescue(address, &for_rescue, || engine.is_accepting());
        hall.spawn("groupcache-tiny-rescue", alive, rescue)?;
        for _ in 0..halls.workers {
            let jobs = for_workers.clone();
            hall.spawn("groupcache-tiny-worker", alive, move || work(&jobs))?;
        }
        Ok(hall)
    }

    fn spawn(
        &mut self,
        name: &str,
        alive: &Sender<Infallible>,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        self.threads.push(spawn(name, alive, run)?);
        Ok(())
    }
}

impl Drop for Hall {
    fn drop(&mut self) {
        self.engine.stop_accepting();
        self.engine.stop();
    }
}

/// Starts a thread that holds `alive` until its end.
fn spawn(
    name: &str,
    alive: &Sender<Infallible>,
    run: impl FnOnce() + Send + 'static,
) -> Result<thread::JoinHandle<()>, Error> {
    let alive = alive.clone();
    let thread = thread::Builder::new().name(name.to_owned());
    let thread = thread.spawn(move || {
        run();
        drop(alive);
    });
    thread.map_err(|error| Error::Thread {
        source: error.into(),
    })
}

pub(super) struct Halls {
    node: Node,
    address: SocketAddr,
    workers: usize,
    alarms: Sender<Alarm>,
    state: Mutex<State>,
    /// Each thread holds a sender: disconnected once all have ended.
    ended: Receiver<Infallible>,
}

struct State {
    current: Option<Hall>,
    retired: Vec<Hall>,
    watchdog: Option<thread::JoinHandle<()>>,
    /// For the threads that are started. `None` once it is closed.
    alive: Option<Sender<Infallible>>,
}

impl Halls {
    /// Opens the first at `listener`. The alarms are for the one who watches.
    pub(super) fn open(
        node: &Node,
        listener: TcpListener,
        workers: usize,
    ) -> Result<(Arc<Halls>, Receiver<Alarm>), Error> {
        let (alarms, for_watchdog) = channel::unbounded();
        let (alive, ended) = channel::bounded(0);
        let halls = Halls {
            node: node.clone(),
            address: listen::address_of(&listener)?,
            workers,
            alarms,
            state: Mutex::new(State {
                current: None,
                retired: Vec::new(),
                watchdog: None,
                alive: Some(alive.clone()),
            }),
            ended,
        };
        let hall = Hall::open(&halls, listener, &alive)?;
        halls.state.lock().current = Some(hall);
        Ok((Arc::new(halls), for_watchdog))
    }

    /// Has a thread run `watch` until it is told to end by an alarm.
    pub(super) fn have_watched(&self, watch: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let mut state = self.state.lock();
        if let Some(alive) = &state.alive {
            state.watchdog = Some(spawn("groupcache-tiny-watch", alive, watch)?);
        }
        Ok(())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens a new one at the same address, in place of the one that takes new connections. That one
    /// goes on with those it has, and asks to close them, until none comes any more. Tells whether
    /// it could be done.
    pub(super) fn renew(&self) -> bool {
        let Some(alive) = self.retire() else {
            return false;
        };
        let opened =
            listen::bind(self.address).and_then(|listener| Hall::open(self, listener, &alive));
        let hall = match opened {
            Ok(hall) => hall,
            Err(error) => {
                log::debug!(target: "groupcache", error:% = error; "no new server of tiny_http");
                return false;
            }
        };
        let mut state = self.state.lock();
        if state.alive.is_none() {
            drop(state); // and then the hall
            return false;
        }
        state.current = Some(hall);
        true
    }

    /// Has the current one take no more connections. `None` if there is no room for another.
    fn retire(&self) -> Option<Sender<Infallible>> {
        let over = self.expendable();
        let is_over = |hall: &Hall| over.iter().any(|over| Arc::ptr_eq(over, &hall.engine));
        let mut state = self.state.lock();
        let (gone, left): (Vec<Hall>, _) = state.retired.drain(..).partition(is_over);
        state.retired = left;
        let has_room = state.retired.len() < MAX_RETIRED;
        let alive = state.alive.clone().filter(|_| has_room);
        let current = state.current.take_if(|_| alive.is_some());
        let engine = current.as_ref().map(|hall| Arc::clone(&hall.engine));
        state.retired.extend(current);
        drop(state);
        drop(gone);
        if let Some(engine) = engine {
            engine.stop_accepting();
        }
        alive
    }

    /// The retired that have ended, and one that may where there is no room for more.
    fn expendable(&self) -> Vec<Arc<Engine>> {
        let engine = |hall: &Hall| Arc::clone(&hall.engine);
        let retired: Vec<_> = self.state.lock().retired.iter().map(engine).collect();
        let (mut over, left): (Vec<_>, Vec<_>) =
            retired.into_iter().partition(|engine| engine.is_stopped());
        if left.len() >= MAX_RETIRED {
            over.extend(left.into_iter().find(|engine| engine.is_idle()));
        }
        over
    }

    /// Stops all: see [`TinyServer::shutdown`](super::TinyServer::shutdown).
    pub(super) fn close(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.state.lock();
        let Some(alive) = state.alive.take() else {
            return true; // it has stopped before
        };
        let watchdog = state.watchdog.take();
        let mut halls = std::mem::take(&mut state.retired);
        halls.extend(state.current.take());
        drop(state);
        drop(alive);
        // Without a watchdog there is nobody to tell.
        let _ = self.alarms.send(Alarm::End);
        for hall in &halls {
            hall.engine.stop_accepting();
        }
        let unanswered = halls
            .iter()
            .filter(|hall| !hall.engine.wait_until_answered(deadline))
            .count();
        let threads = halls.iter_mut().flat_map(|hall| hall.threads.drain(..));
        let threads: Vec<_> = threads.chain(watchdog).collect();
        drop(halls);
        self.have_ended(threads) && unanswered == 0
    }

    /// Waits a moment for the threads to end.
    fn have_ended(&self, threads: Vec<thread::JoinHandle<()>>) -> bool {
        // The last handle may fall on one of its own threads, which cannot wait for itself.
        let me = thread::current().id();
        if threads.iter().any(|thread| thread.thread().id() == me) {
            return true;
        }
        if self.ended.recv_timeout(GRACE) == Err(RecvTimeoutError::Timeout) {
            log::warn!(
                target: "groupcache", address:% = self.address;
                "threads of tiny_http left inside their requests"
            );
            return false;
        }
        for thread in threads {
            // It is past its last step. A panic ended it before, and was reported then.
            let _ = thread.join();
        }
        true
    }
}
