//! `Instance`: one server of `tiny_http` and the threads that answer its requests. `Instances`: the one
//! that accepts new connections, and the ones it has replaced, which still have connections.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use super::dispatcher::Dispatcher;
use super::engine::{Engine, WatchdogEvent, work};
use super::{prober, socket};
use crate::error::Error;
use crate::node::Node;
use crate::runtime::sync::channel::{self, Receiver, RecvTimeoutError, Sender};
use crate::runtime::sync::{Arc, Mutex, thread};

/// How many replaced instances may be left at a time.
const MAX_REPLACED: usize = 4;

/// How long threads that have nothing left to do may take to end.
const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// Dropping it has its threads end as soon as they can, and waits for none.
struct Instance {
    engine: Arc<Engine>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Instance {
    fn start(
        instances: &Instances,
        listener: TcpListener,
        alive: &Sender<Infallible>,
    ) -> Result<Instance, Error> {
        let (engine, events) = Engine::new(instances.node.clone(), listener)?;
        let (jobs, for_workers) = channel::unbounded();
        let (new_connections, for_prober) = channel::bounded(prober::MAX_NEW_CONNECTIONS);
        let mut instance = Instance {
            engine: Arc::clone(&engine),
            threads: Vec::with_capacity(instances.workers + 2),
        };
        // If a thread cannot be started, the drop of `instance` stops the others.
        let watchdog = instances.watchdog.clone();
        let dispatcher =
            Dispatcher::new(Arc::clone(&engine), events, jobs, new_connections, watchdog);
        instance.spawn("groupcache-tiny", alive, move || dispatcher.run())?;
        let address = instances.address;
        let probe = move || prober::run(address, &for_prober, || engine.is_accepting());
        instance.spawn("groupcache-tiny-prober", alive, probe)?;
        for _ in 0..instances.workers {
            let jobs = for_workers.clone();
            instance.spawn("groupcache-tiny-worker", alive, move || work(&jobs))?;
        }
        Ok(instance)
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

impl Drop for Instance {
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

pub(super) struct Instances {
    node: Node,
    address: SocketAddr,
    workers: usize,
    watchdog: Sender<WatchdogEvent>,
    state: Mutex<State>,
    /// Each thread holds a sender: disconnected once all threads have ended.
    ended: Receiver<Infallible>,
}

struct State {
    current: Option<Instance>,
    replaced: Vec<Instance>,
    watchdog: Option<thread::JoinHandle<()>>,
    /// For the threads that are started. `None` once closed.
    alive: Option<Sender<Infallible>>,
}

impl Instances {
    /// Starts the first instance with `listener`. The events are for the watchdog.
    pub(super) fn start(
        node: &Node,
        listener: TcpListener,
        workers: usize,
    ) -> Result<(Arc<Instances>, Receiver<WatchdogEvent>), Error> {
        let (watchdog, for_watchdog) = channel::unbounded();
        let (alive, ended) = channel::bounded(0);
        let instances = Instances {
            node: node.clone(),
            address: socket::address_of(&listener)?,
            workers,
            watchdog,
            state: Mutex::new(State {
                current: None,
                replaced: Vec::new(),
                watchdog: None,
                alive: Some(alive.clone()),
            }),
            ended,
        };
        let first = Instance::start(&instances, listener, &alive)?;
        instances.state.lock().current = Some(first);
        Ok((Arc::new(instances), for_watchdog))
    }

    /// Starts the watchdog's thread, which has to end at [`WatchdogEvent::Stop`].
    pub(super) fn start_watchdog(&self, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let mut state = self.state.lock();
        if let Some(alive) = &state.alive {
            state.watchdog = Some(spawn("groupcache-tiny-watch", alive, run)?);
        }
        Ok(())
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts a new instance at the same address, in place of the one that accepts connections. That one
    /// serves the connections that it has, and asks their clients to close them, until no more requests come.
    /// Returns whether the new one has started.
    pub(super) fn replace(&self) -> bool {
        let Some(alive) = self.retire_current() else {
            return false;
        };
        let started =
            socket::bind(self.address).and_then(|listener| Instance::start(self, listener, &alive));
        let instance = match started {
            Ok(instance) => instance,
            Err(error) => {
                log::debug!(target: "groupcache", error:% = error; "no new server of tiny_http");
                return false;
            }
        };
        let mut state = self.state.lock();
        if state.alive.is_none() {
            drop(state); // before the instance
            return false;
        }
        debug_assert!(
            state.current.is_none(),
            "only the watchdog replaces an instance"
        );
        state.current = Some(instance);
        true
    }

    /// Has the current instance accept no more connections. `None` if it cannot be replaced: all are closed,
    /// or too many replaced ones are left.
    fn retire_current(&self) -> Option<Sender<Infallible>> {
        let removable = self.removable();
        let is_removable = |instance: &Instance| {
            let mut engines = removable.iter();
            engines.any(|engine| Arc::ptr_eq(engine, &instance.engine))
        };
        let mut state = self.state.lock();
        let (removed, left): (Vec<Instance>, _) = state.replaced.drain(..).partition(is_removable);
        state.replaced = left;
        let has_room = state.replaced.len() < MAX_REPLACED;
        let alive = state.alive.clone().filter(|_| has_room);
        let current = state.current.take_if(|_| alive.is_some());
        let engine = current.as_ref().map(|current| Arc::clone(&current.engine));
        state.replaced.extend(current);
        debug_assert!(state.replaced.len() <= MAX_REPLACED);
        drop(state);
        drop(removed);
        if let Some(engine) = engine {
            engine.stop_accepting();
        }
        alive
    }

    /// The replaced instances that have stopped, and an idle one where there is no room for more.
    fn removable(&self) -> Vec<Arc<Engine>> {
        let engine = |instance: &Instance| Arc::clone(&instance.engine);
        let replaced: Vec<_> = self.state.lock().replaced.iter().map(engine).collect();
        let (mut removable, left): (Vec<_>, Vec<_>) =
            replaced.into_iter().partition(|engine| engine.is_stopped());
        if left.len() >= MAX_REPLACED {
            removable.extend(left.into_iter().find(|engine| engine.is_idle()));
        }
        removable
    }

    /// Stops all instances: see [`TinyServer::shutdown`](super::TinyServer::shutdown).
    pub(super) fn close(&self, timeout: Duration) -> bool {
        let deadline = Instant::now().checked_add(timeout);
        let mut state = self.state.lock();
        let Some(alive) = state.alive.take() else {
            return true; // closed before
        };
        let watchdog = state.watchdog.take();
        let mut instances = std::mem::take(&mut state.replaced);
        instances.extend(state.current.take());
        drop(state);
        drop(alive);
        // It fails only if there is no watchdog.
        let _ = self.watchdog.send(WatchdogEvent::Stop);
        for instance in &instances {
            instance.engine.stop_accepting();
        }
        let unanswered = instances
            .iter()
            .filter(|instance| !instance.engine.wait_until_answered(deadline))
            .count();
        let threads = instances
            .iter_mut()
            .flat_map(|instance| instance.threads.drain(..));
        let threads: Vec<_> = threads.chain(watchdog).collect();
        drop(instances);
        self.join(threads) && unanswered == 0
    }

    /// Waits up to [`GRACE_PERIOD`] for the threads to end. Returns whether they have.
    fn join(&self, threads: Vec<thread::JoinHandle<()>>) -> bool {
        // One of these threads may drop the last handle, and cannot wait for itself.
        let me = thread::current().id();
        if threads.iter().any(|thread| thread.thread().id() == me) {
            return true;
        }
        if self.ended.recv_timeout(GRACE_PERIOD) == Err(RecvTimeoutError::Timeout) {
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
