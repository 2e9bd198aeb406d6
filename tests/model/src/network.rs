//! A network that loses, delays, doubles and cuts, by a seed; and the time it takes.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as Plain};
use std::time::{Duration, Instant};

use groupcache_sync::{
    Call, CallError, Clock, Error, Limits, Link, Network, NodeBuilder, Peer, Reply, Transport,
};
use shuttle::thread;

/// A generator of numbers that a seed determines (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True in `percent` of all cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A duration up to `longest`.
    pub fn up_to(&mut self, longest: Duration) -> Duration {
        Duration::from_millis(self.below(longest.as_millis() as u64 + 1))
    }
}

/// The clock of all nodes, and those who sleep until it has moved.
pub struct Time {
    clock: Clock,
    start: Instant,
    /// Deadlines that somebody keeps: the clock stops at each until that one has come back.
    kept: Plain<Vec<Instant>>,
    moving: AtomicBool,
    stopped: AtomicBool,
    over: AtomicBool,
}

/// Turns that the clock stands still for those whose deadline has come: many more than it takes
/// any of them to come back.
const PATIENCE: usize = 500;

/// How much later than its deadline one may come back. A timeout is handed on as a duration, so
/// that the clock may move between the moment when it is computed and the one it is counted from:
/// nanoseconds for a processor, some steps of this clock for a schedule.
const SLIP: Duration = Duration::from_millis(500);

#[allow(clippy::unwrap_used)] // a poisoned lock means that the run has failed already
impl Time {
    /// A clock that stands still.
    #[must_use]
    pub fn new() -> Arc<Time> {
        let clock = Clock::manual();
        Arc::new(Time {
            start: clock.now(),
            clock,
            kept: Plain::default(),
            moving: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            over: AtomicBool::new(false),
        })
    }

    /// The clock, for a node.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// The time since the start.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.now() - self.start
    }

    /// Sleeps for that long, or until the run is over.
    pub fn sleep(&self, time: Duration) {
        self.sleep_until(self.now() + time);
    }

    // By turns and not by a condition variable: a scope of shuttle wakes its own thread when the
    // others end, whatever that one is waiting for, and changes are told from such a thread.
    fn sleep_until(&self, until: Duration) {
        while self.now() < until && !self.is_over() {
            thread::yield_now();
        }
    }

    /// Has the clock stop after `timeout` until the result is dropped.
    #[must_use]
    pub fn keep(self: &Arc<Time>, timeout: Duration) -> Kept {
        loop {
            let deadline = self.clock.now() + timeout;
            // Nobody else has a turn from here on.
            if !self.moving.load(Ordering::SeqCst) {
                self.kept.lock().unwrap().push(deadline);
                return Kept(Arc::clone(self), deadline);
            }
            thread::yield_now();
        }
    }

    /// Moves the clock on by steps of at most `step` until the run is over.
    ///
    /// # Panics
    ///
    /// Panics if somebody does not come back by a deadline that is kept.
    pub fn run(&self, random: &mut Random, step: Duration) {
        while !self.is_over() {
            for _ in 0..random.below(30) {
                thread::yield_now();
            }
            let mut turns = 0;
            while self
                .next_deadline()
                .is_some_and(|next| next <= self.clock.now())
                && turns < PATIENCE
                && !self.is_over()
            {
                turns += 1;
                thread::yield_now();
            }
            if self.stopped.load(Ordering::SeqCst) {
                continue;
            }
            self.moving.store(true, Ordering::SeqCst);
            let mut step = random.up_to(step) + Duration::from_millis(1);
            let now = self.clock.now();
            if let Some(next) = self.next_deadline() {
                assert!(
                    now <= next + SLIP,
                    "P4: a get is still there past its deadline"
                );
                let left = next.saturating_duration_since(now);
                step = step.min(left.max(Duration::from_millis(20)));
            }
            self.advance(step);
            self.moving.store(false, Ordering::SeqCst);
        }
    }

    fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.kept.lock().unwrap().iter().min().copied()
    }

    /// Stops the clock for good.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Ends the run: nobody sleeps any more.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.advance(Duration::from_millis(1));
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// A deadline that somebody keeps.
#[must_use]
pub struct Kept(Arc<Time>, Instant);

impl Kept {
    /// The deadline.
    #[must_use]
    pub fn instant(&self) -> Instant {
        self.1
    }

    /// Whether the deadline has not passed, by more than a slip.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.0.clock.now() <= self.1 + SLIP
    }
}

#[allow(clippy::unwrap_used)] // a poisoned lock means that the run has failed already
impl Drop for Kept {
    fn drop(&mut self) {
        let mut kept = self.0.kept.lock().unwrap();
        if let Some(at) = kept.iter().position(|other| *other == self.1) {
            kept.swap_remove(at);
        }
    }
}

/// How bad a network is: in percent of all calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct Badness {
    /// The request is lost: silence, or a refusal.
    pub lost: u64,
    /// The request arrives when its caller has given up.
    pub late: u64,
    /// It is carried out, and its answer is lost.
    pub unanswered: u64,
    /// It, or its answer, takes time.
    pub slow: u64,
    /// It arrives twice, if it is one that may be sent again.
    pub doubled: u64,
}

/// Sees each request that is carried out: the address it is for and whether it is a change, of a
/// key if it names one. What it returns is called when the request has been answered.
pub type Watch = Box<dyn Fn(&str, &Call) -> Box<dyn FnOnce()> + Send + Sync>;

/// A bad network.
pub struct BadNetwork {
    inner: Network,
    time: Arc<Time>,
    random: Plain<Random>,
    badness: Plain<Badness>,
    /// Ways that are cut: from, to.
    cut: Plain<HashSet<(String, String)>>,
    watch: Watch,
    /// Deliveries that nobody waits for.
    strays: Plain<Vec<thread::JoinHandle<()>>>,
}

#[allow(clippy::unwrap_used)] // a poisoned lock means that the run has failed already
impl BadNetwork {
    /// A network of a seed.
    #[must_use]
    pub fn new(time: &Arc<Time>, seed: u64, watch: Watch) -> Arc<BadNetwork> {
        Arc::new(BadNetwork {
            inner: Network::new(),
            time: Arc::clone(time),
            random: Plain::new(Random::new(seed)),
            badness: Plain::default(),
            cut: Plain::default(),
            watch,
            strays: Plain::default(),
        })
    }

    /// Sets how bad it is from now on.
    pub fn set_badness(&self, badness: Badness) {
        *self.badness.lock().unwrap() = badness;
    }

    /// Cuts the way from one address to another. Answers need the way back.
    pub fn cut(&self, from: &str, to: &str) {
        let way = (from.to_owned(), to.to_owned());
        self.cut.lock().unwrap().insert(way);
    }

    /// Mends all ways.
    pub fn mend(&self) {
        self.cut.lock().unwrap().clear();
    }

    /// The settings of a node at `address` on this network.
    #[must_use]
    pub fn builder(self: &Arc<Self>, address: &str) -> NodeBuilder {
        let side = Side {
            network: Arc::clone(self),
            from: address.to_owned(),
        };
        self.inner
            .builder(address)
            .unwrap()
            .clock(self.time.clock())
            .transport(Arc::new(side))
    }

    /// The network that nodes are to be attached to.
    #[must_use]
    pub fn inner(&self) -> &Network {
        &self.inner
    }

    /// Waits for all that is still under way.
    pub fn drain(&self) {
        loop {
            let strays = std::mem::take(&mut *self.strays.lock().unwrap());
            if strays.is_empty() {
                return;
            }
            strays.into_iter().for_each(|stray| stray.join().unwrap());
        }
    }

    fn is_cut(&self, from: &str, to: &str) -> bool {
        let way = (from.to_owned(), to.to_owned());
        self.cut.lock().unwrap().contains(&way)
    }

    fn random<R>(&self, draw: impl FnOnce(&mut Random) -> R) -> R {
        draw(&mut self.random.lock().unwrap())
    }

    fn fate(&self, method: &str) -> Fate {
        let badness = *self.badness.lock().unwrap();
        self.random(|random| Fate {
            lost: random.percent(badness.lost),
            refused: random.percent(50),
            late: random.percent(badness.late),
            unanswered: random.percent(badness.unanswered),
            doubled: random.percent(badness.doubled) && matches!(method, "GET" | "DELETE"),
            way: delay(random, badness.slow),
            back: delay(random, badness.slow),
            turns: random.below(4),
        })
    }
}

fn delay(random: &mut Random, percent: u64) -> Duration {
    let slow = random.percent(percent);
    let time = random.up_to(Duration::from_millis(700));
    if slow { time } else { Duration::ZERO }
}

/// What becomes of a call.
struct Fate {
    lost: bool,
    refused: bool,
    late: bool,
    unanswered: bool,
    doubled: bool,
    way: Duration,
    back: Duration,
    turns: u64,
}

struct Side {
    network: Arc<BadNetwork>,
    from: String,
}

impl Transport for Side {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(BadLink(Arc::new(Way {
            inner: self.network.inner.link(peer, limits)?,
            network: Arc::clone(&self.network),
            from: self.from.clone(),
            to: peer.address(),
        }))))
    }
}

struct BadLink(Arc<Way>);

struct Way {
    inner: Arc<dyn Link>,
    network: Arc<BadNetwork>,
    from: String,
    to: String,
}

impl Way {
    fn deliver(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let done = (self.network.watch)(&self.to, call);
        let reply = self.inner.call(call, timeout);
        done();
        reply
    }

    /// Delivers `call` after `delay`, whoever waits for it.
    #[allow(clippy::unwrap_used)] // a poisoned lock means that the run has failed already
    fn deliver_later(self: &Arc<Self>, call: &Call, delay: Duration) {
        let (way, call) = (Arc::clone(self), call.clone());
        let stray = thread::spawn(move || {
            way.network.time.sleep(delay);
            // Nobody hears the answer.
            let _ = way.deliver(&call, Duration::from_secs(1));
        });
        self.network.strays.lock().unwrap().push(stray);
    }
}

impl Link for BadLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let way = &self.0;
        let (network, time) = (&way.network, &way.network.time);
        let until = time.now() + timeout;
        let silence = || {
            time.sleep_until(until);
            Err(CallError::Timeout)
        };
        let unreachable = || CallError::Unreachable("connection lost".to_owned());
        let fate = network.fate(call.method);
        for _ in 0..fate.turns {
            thread::yield_now();
        }
        if fate.lost || network.is_cut(&way.from, &way.to) {
            return if fate.refused {
                Err(unreachable())
            } else {
                silence()
            };
        }
        if fate.late {
            way.deliver_later(call, timeout + fate.way);
            return silence();
        }
        if fate.doubled {
            way.deliver_later(call, fate.back + fate.way);
        }
        time.sleep_until((time.now() + fate.way).min(until));
        let left = until.saturating_sub(time.now());
        if left.is_zero() {
            way.deliver_later(call, Duration::ZERO);
            return Err(CallError::Timeout);
        }
        let reply = way.deliver(call, left)?;
        if fate.unanswered || network.is_cut(&way.to, &way.from) {
            return if fate.refused {
                Err(unreachable())
            } else {
                silence()
            };
        }
        time.sleep_until((time.now() + fate.back).min(until));
        if !fate.back.is_zero() && time.now() >= until {
            return Err(CallError::Timeout);
        }
        Ok(reply)
    }
}
