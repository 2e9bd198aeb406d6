//! `discovery`: where the list of peers comes from.
//!
//! Imports `node` and what is below it. Here are the trait `Discovery` and `Discoverer`, the thread that asks
//! for the list; `dns` and `file` are two places to ask.

mod dns;
mod file;

pub use dns::Dns;
pub use file::PeerFile;

use std::fmt;
use std::hash::BuildHasher;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::node::{Node, WeakNode};
use crate::runtime::clock::{Clock, Deadline, Sleeper};
use crate::runtime::sync::{Arc, Condvar, Mutex, RandomState, thread};
use crate::runtime::user_code;
use crate::transport::peer::Peer;

/// The shortest time between two reports of errors.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// A source of peer lists.
///
/// A `Vec<Peer>` is one that never changes, a closure that returns a list is one, [`Dns`] and
/// [`PeerFile`] are others.
pub trait Discovery: Send + 'static {
    /// All peers there are, this node included. Called on the thread of the [`Discoverer`], without
    /// a lock; never from two threads at a time. It may block, use the node and its groups, and
    /// panic, which counts as an error.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from knowing: the last list then stays.
    fn peers(&mut self) -> Result<Vec<Peer>, Box<dyn std::error::Error + Send + Sync>>;
}

impl<F> Discovery for F
where
    F: FnMut() -> Result<Vec<Peer>, Box<dyn std::error::Error + Send + Sync>> + Send + 'static,
{
    fn peers(&mut self) -> Result<Vec<Peer>, Box<dyn std::error::Error + Send + Sync>> {
        self()
    }
}

impl Discovery for Vec<Peer> {
    fn peers(&mut self) -> Result<Vec<Peer>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.clone())
    }
}

/// Keeps the peer list of a node as its source says, from a thread of its own, until dropped.
///
/// The source is asked at once, and then again and again. A list that differs from the last one
/// replaces it, as by [`Node::set_peers`]; after an error the last list stays. Both, and how often
/// it was asked, are in [`Node::stats`] and in the log.
///
/// **A node that is not in the list** owns nothing and asks the owners: it may not be ready yet, or
/// is about to be taken out of service. If it should be in the list, the list names it in another
/// way than [`Node::this`]: with [`Dns`], give the node the very IP address under which it is found.
///
/// Does not keep the node alive. Dropping it waits for its thread, but for one whose source is being
/// asked: that one ends when the source answers.
///
/// ```no_run
/// use groupcache_sync::{Discoverer, Dns, Node};
///
/// let node = Node::new("http://10.0.0.5:7000")?;
/// let discoverer = Discoverer::start(&node, Dns::new("cache.default.svc", 7000))?;
/// # drop(discoverer);
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
#[must_use = "dropping it stops the discovery"]
pub struct Discoverer {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Discoverer {
    /// Starts with all settings at their default. Does not wait for the first list.
    ///
    /// # Errors
    ///
    /// [`Error::Thread`] if no thread can be started.
    pub fn start(node: &Node, source: impl Discovery) -> Result<Discoverer, Error> {
        Discoverer::builder(node).start(source)
    }

    /// The settings of a discoverer.
    pub fn builder(node: &Node) -> DiscovererBuilder {
        DiscovererBuilder {
            node: node.downgrade(),
            clock: node.clock().clone(),
            interval: Duration::from_secs(10),
            jitter: 0.1,
            allow_empty: false,
        }
    }
}

impl Drop for Discoverer {
    fn drop(&mut self) {
        let is_asking = self.shared.stop();
        let thread = self.thread.take();
        if let Some(thread) = thread.filter(|thread| {
            // The last handle of a node may fall on it, and with that its owner.
            !is_asking && thread.thread().id() != thread::current().id()
        }) {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Discoverer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discoverer").finish_non_exhaustive()
    }
}

/// The settings of a [`Discoverer`], all with a default. Made by [`Discoverer::builder`].
#[must_use = "it is started by `start`"]
pub struct DiscovererBuilder {
    node: WeakNode,
    clock: Clock,
    interval: Duration,
    jitter: f64,
    allow_empty: bool,
}

impl DiscovererBuilder {
    /// Sets how long to wait after an answer of the source before it is asked again. Defaults to
    /// 10 s.
    pub fn interval(mut self, interval: Duration) -> DiscovererBuilder {
        self.interval = interval;
        self
    }

    /// Sets how much shorter or longer each wait may be, as a part of the interval, from 0 to 1, so
    /// that nodes that start together do not ask together. Defaults to 0.1.
    pub fn jitter(mut self, part: f64) -> DiscovererBuilder {
        self.jitter = part;
        self
    }

    /// Sets whether an empty list is taken as it is: the node is alone then, and loads for itself.
    /// Defaults to `false`: that the source knows of nobody is an error, most likely of its own.
    pub fn allow_empty(mut self, allow: bool) -> DiscovererBuilder {
        self.allow_empty = allow;
        self
    }

    /// Starts to ask `source`, without waiting for its first answer.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if a setting cannot be used, [`Error::Thread`] if no thread can be
    /// started.
    pub fn start(self, source: impl Discovery) -> Result<Discoverer, Error> {
        Error::check_positive("interval", self.interval)?;
        if !(0.0..=1.0).contains(&self.jitter) {
            let reason = "it is a part of the interval: give it 0 to 1";
            return Err(Error::setting("jitter", reason));
        }
        let shared = Arc::new(Shared::default());
        let mut asking = Asking {
            shared: Arc::clone(&shared),
            settings: self,
            source,
            random: RandomState::default(),
            reported: None,
        };
        let thread = thread::Builder::new()
            .name("groupcache-discovery".to_owned())
            .spawn(move || asking.run())
            .map_err(|source| Error::Thread {
                source: Arc::new(source),
            })?;
        Ok(Discoverer {
            shared,
            thread: Some(thread),
        })
    }
}

impl fmt::Debug for DiscovererBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscovererBuilder")
            .field("interval", &self.interval)
            .field("jitter", &self.jitter)
            .field("allow_empty", &self.allow_empty)
            .finish_non_exhaustive()
    }
}

/// What the thread and its handle share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    stopped: Condvar,
}

#[derive(Default)]
struct State {
    stopped: bool,
    /// Whether the source is being asked, which may take as long as it likes.
    asking: bool,
}

impl Shared {
    /// Tells whether the source is being asked.
    fn stop(&self) -> bool {
        let mut state = self.state.lock();
        state.stopped = true;
        self.stopped.notify_all();
        state.asking
    }

    /// False once stopped.
    fn begin(&self) -> bool {
        let mut state = self.state.lock();
        state.asking = !state.stopped;
        state.asking
    }

    /// False once stopped.
    fn end(&self) -> bool {
        let mut state = self.state.lock();
        state.asking = false;
        !state.stopped
    }

    fn wait(self: &Arc<Self>, clock: &Clock, deadline: Deadline) {
        let mut state = self.state.lock();
        while !state.stopped && !deadline.is_past(clock.now()) {
            clock.wait(&self.stopped, &mut state, deadline, || {
                Arc::downgrade(&(Arc::clone(self) as Arc<dyn Sleeper>))
            });
        }
    }
}

impl Sleeper for Shared {
    fn wake(&self) {
        let _state = self.state.lock();
        self.stopped.notify_all();
    }
}

/// The thread of a discoverer.
struct Asking<D> {
    shared: Arc<Shared>,
    settings: DiscovererBuilder,
    source: D,
    random: RandomState,
    /// When an error was last reported; `None` after a list that could be used.
    reported: Option<Instant>,
}

impl<D: Discovery> Asking<D> {
    fn run(&mut self) {
        for round in 0_u64.. {
            if !self.shared.begin() {
                return;
            }
            let list = self.ask();
            if !self.shared.end() {
                return; // whoever stopped it may have set another list since
            }
            let Some(node) = self.settings.node.upgrade() else {
                return;
            };
            let followed =
                list.and_then(|list| node.follow(list).map_err(|error| error.to_string()));
            match &followed {
                Ok(()) => self.reported = None,
                Err(error) => self.report(error),
            }
            node.note_discovery(followed.is_ok());
            drop(node);
            let DiscovererBuilder {
                clock,
                interval,
                jitter,
                ..
            } = &self.settings;
            let pause = pause(*interval, *jitter, self.random.hash_one(round));
            self.shared.wait(clock, Deadline::after(clock.now(), pause));
        }
    }

    fn ask(&mut self) -> Result<Vec<Peer>, String> {
        // The text of its error is user code too.
        let source = &mut self.source;
        let list = user_code::call(|| source.peers().map_err(|error| error.to_string()));
        let list = list.map_err(|panicked| format!("the source panicked: {}", panicked.0))??;
        if list.is_empty() && !self.settings.allow_empty {
            return Err("the list is empty; if that can be, set `allow_empty`".to_owned());
        }
        Ok(list)
    }

    fn report(&mut self, error: &str) {
        let now = self.settings.clock.now();
        let is_due = |last| now.saturating_duration_since(last) >= REPORT_EVERY;
        if self.reported.is_none_or(is_due) {
            self.reported = Some(now);
            log::warn!(
                target: "groupcache", error = error;
                "the peers cannot be discovered; the last list stays"
            );
        }
    }
}

/// The interval, made shorter or longer by up to a part of it.
fn pause(interval: Duration, jitter: f64, dice: u64) -> Duration {
    let dice = dice as f64 / u64::MAX as f64;
    let seconds = interval.as_secs_f64() * (1.0 + jitter * (2.0 * dice - 1.0));
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_differ_by_no_more_than_the_jitter() {
        let interval = Duration::from_secs(10);
        let seconds = |jitter, dice| pause(interval, jitter, dice).as_secs_f64().round();
        assert_eq!(seconds(0.2, 0), 8.0);
        assert_eq!(seconds(0.2, u64::MAX / 2), 10.0);
        assert_eq!(seconds(0.2, u64::MAX), 12.0);
        assert_eq!(seconds(0.0, 0), 10.0);
        assert_eq!(seconds(1.0, 0), 0.0);
        assert_eq!(pause(Duration::MAX, 0.1, u64::MAX), Duration::MAX);
    }
}
