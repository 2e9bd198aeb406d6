//! `Pool`: a bounded number of threads for loads that must not hold their caller.
//!
//! Jobs that were submitted together form a lane, and the lanes of one who asks take turns, one job at
//! a time: a large batch does not stand before everybody else. Those who ask take turns too, by the
//! keys they have had run: one who asks for much does not stand before the others, however many
//! batches that is. How much may wait for a thread is bounded in keys and in their bytes; each may have
//! as much as is left free for all others (Choudhury and Hahne's "dynamic threshold"), so that there is
//! room for one who comes, unless very many ask for very much: each takes half of what is left. A job leaves its lane as soon as nobody wants it any more
//! ([`Ticket`]).
//!
//! Threads are started when there is work for them. A thread inside a hung loader cannot be
//! stopped: when the pool ends it is left alone, and it ends with its loader.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;

use crate::runtime::clock::{Clock, Deadline, Sleeper};
use crate::runtime::flow::Flow;
use crate::runtime::sync::{Arc, Condvar, Mutex, Weak, thread, thread_local};
use crate::runtime::user_code;

/// How many keys may wait for a thread, and how many bytes they may have. One who is alone may have
/// half of it.
const MAX_QUEUED_KEYS: usize = 32_768;
const MAX_QUEUED_BYTES: usize = 32 << 20;

/// How many threads more there may be while others wait inside their loaders.
const MAX_BLOCKED: usize = 64;

/// Work for a pool. Dropped without being run if nobody wants it any more, or if the pool ends first.
pub(crate) trait Job: Send {
    fn run(self: Box<Self>);
}

/// A job that is to be queued, and the bytes of each of its keys.
pub(crate) struct Work {
    pub(crate) job: Box<dyn Job>,
    pub(crate) key_bytes: Vec<usize>,
}

pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    max_threads: usize,
    state: Mutex<State>,
    work: Condvar,
    /// Notified when there is nothing to do any more.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    lanes: BTreeMap<u64, Lane>,
    /// Those who have jobs, or have had more run than the others.
    requesters: BTreeMap<Flow, Requester>,
    /// The requesters that have a job to run now, in the order of their turns.
    turns: BTreeSet<Turn>,
    /// The requesters that have no job, by when the others will have had as much run.
    resting: BTreeSet<(u64, Flow)>,
    /// How much the one had run whose turn was last.
    reached: u64,
    /// The last number that was given to a lane, a turn or a job.
    last_number: u64,
    queued_jobs: usize,
    queued_keys: usize,
    queued_bytes: usize,
    threads: Vec<thread::JoinHandle<()>>,
    busy: HashSet<thread::ThreadId>,
    idle: usize,
    /// Threads that wait for a load inside a loader.
    blocked: usize,
    closed: bool,
}

/// When an requester has its turn, by how much it has had run: loads that are under way first, as they hold
/// a thread meanwhile, and others wait for them.
type Turn = (bool, u64, Flow);

/// One on whose behalf jobs wait.
#[derive(Default)]
struct Requester {
    /// The lanes that have a job to run now, in the order of their turns.
    turns: BTreeMap<u64, u64>,
    keys: usize,
    bytes: usize,
    /// How many keys it has had run, as if it had never waited longer than the others.
    had: u64,
}

/// Jobs that were submitted together.
struct Lane {
    flow: Flow,
    jobs: BTreeMap<u64, Queued>,
    /// How many of them may run at once, and how many do.
    at_once: usize,
    running: usize,
    turn: Option<u64>,
}

struct Queued {
    job: Box<dyn Job>,
    keys: usize,
    bytes: usize,
}

/// Where a key of a job stands in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    lane: u64,
    job: u64,
    bytes: usize,
}

/// What keeps a key of a job in the queue. When it is dropped, the key no longer counts; when those of
/// all its keys are, the job is dropped. Does nothing once the job runs.
pub(crate) struct Ticket {
    pool: Weak<Shared>,
    place: Place,
}

/// Why a job was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    Full,
    Closed,
    /// There is no thread, and none can be started.
    NoThread(io::Error),
}

impl Pool {
    pub(crate) fn new(max_threads: usize) -> Pool {
        Pool {
            shared: Arc::new(Shared {
                max_threads,
                state: Mutex::new(State::default()),
                work: Condvar::new(),
                idle: Condvar::new(),
            }),
        }
    }

    /// Has the jobs run on behalf of `origin`, no more than `at_once` of them at a time. Gives the places of the keys of
    /// those that were taken, from the first on; an error if none was. Does not block.
    pub(crate) fn submit(
        &self,
        lane: Vec<Work>,
        at_once: usize,
        flow: Flow,
    ) -> Result<Vec<Place>, Refused> {
        let mut state = self.shared.state.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        let (places, refused) = state.add_lane(lane, at_once, actual(flow));
        let started = self.shared.start_threads(&mut state);
        let threads = state.threads.len();
        self.shared.work.notify_all();
        drop(state);
        drop(refused); // jobs hold flights, which have locks of their own (I2)
        report_no_thread(threads, &started);
        let result = match started {
            Err(error) if threads == 0 => Err(Refused::NoThread(error)),
            _ if places.is_empty() => Err(Refused::Full),
            _ => Ok(()),
        };
        match result {
            Ok(()) => Ok(places),
            Err(refused) => {
                places
                    .into_iter()
                    .for_each(|place| drop(self.ticket(place)));
                Err(refused)
            }
        }
    }

    /// What keeps the key at `place` in the queue.
    pub(crate) fn ticket(&self, place: Place) -> Ticket {
        Ticket {
            pool: Arc::downgrade(&self.shared),
            place,
        }
    }

    /// Notes, for as long as the token lives, that this thread waits for a value. If it is one of the
    /// pool, inside a loader or other user code, another one may take its part: else loads that
    /// wait for loads could hold all threads.
    pub(crate) fn wait_inside(&self) -> Blocked<'_> {
        if !is_loader_thread() {
            return Blocked { pool: None };
        }
        let mut state = self.shared.state.lock();
        let counts = state.busy.contains(&thread::current().id()) && state.blocked < MAX_BLOCKED;
        if counts {
            state.blocked += 1;
            // Where none can be started, the load waits for one of those there are.
            let started = self.shared.start_threads(&mut state);
            let threads = state.threads.len();
            drop(state);
            report_no_thread(threads, &started);
        }
        Blocked {
            pool: counts.then_some(&*self.shared),
        }
    }

    /// Waits until no job runs or waits, no longer than `deadline`. A job does not: it would wait for
    /// itself.
    pub(crate) fn wait_until_idle(&self, clock: &Clock, deadline: Deadline) {
        if is_loader_thread() {
            return;
        }
        let mut state = self.shared.state.lock();
        while !state.is_idle() && !deadline.is_past(clock.now()) {
            clock.wait(&self.shared.idle, &mut state, deadline, || {
                Arc::downgrade(&(Arc::clone(&self.shared) as Arc<dyn Sleeper>))
            });
        }
    }

    /// How many threads there are, and how many of them are inside a job.
    pub(crate) fn threads(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        (state.threads.len(), state.busy.len())
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.lanes.is_empty() && self.busy.is_empty()
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Queues as many of the jobs as there is room for; gives the others back.
    fn add_lane(
        &mut self,
        works: Vec<Work>,
        at_once: usize,
        flow: Flow,
    ) -> (Vec<Place>, Vec<Work>) {
        let number = self.next_number();
        let (mut places, mut jobs) = (Vec::new(), BTreeMap::new());
        let mut works = works.into_iter();
        let mut refused = Vec::new();
        for work in works.by_ref() {
            // Also what has none takes a place.
            let keys = work.key_bytes.len().max(1);
            let bytes = work.key_bytes.iter().sum::<usize>();
            if !self.has_room(flow, keys, bytes) {
                refused.push(work);
                break;
            }
            self.queued_jobs += 1;
            self.count(flow, |keys_before, bytes_before| {
                *keys_before += keys;
                *bytes_before += bytes;
            });
            let job = self.next_number();
            places.extend(work.key_bytes.iter().map(|&bytes| Place {
                lane: number,
                job,
                bytes,
            }));
            let queued = Queued {
                job: work.job,
                keys,
                bytes,
            };
            jobs.insert(job, queued);
        }
        refused.extend(works);
        if !jobs.is_empty() {
            let lane = Lane {
                flow,
                jobs,
                at_once: at_once.max(1),
                running: 0,
                turn: None,
            };
            self.lanes.insert(number, lane);
            self.give_turn(number);
        }
        (places, refused)
    }

    /// Whether there is room, and as much left as this requester has then.
    fn has_room(&self, flow: Flow, keys: usize, bytes: usize) -> bool {
        let free_keys = MAX_QUEUED_KEYS.saturating_sub(self.queued_keys);
        let free_bytes = MAX_QUEUED_BYTES.saturating_sub(self.queued_bytes);
        let own = |requester: &Requester| (requester.keys, requester.bytes);
        let (own_keys, own_bytes) = match flow {
            Flow::Load => (0, 0),
            _ => self.requesters.get(&flow).map_or((0, 0), own),
        };
        own_keys.saturating_add(keys) <= free_keys && own_bytes.saturating_add(bytes) <= free_bytes
    }

    /// Changes what is queued in all, and on behalf of one requester.
    fn count(&mut self, flow: Flow, change: impl Fn(&mut usize, &mut usize)) {
        change(&mut self.queued_keys, &mut self.queued_bytes);
        let reached = self.reached;
        let requester = self.requesters.entry(flow).or_insert_with(|| Requester {
            had: reached,
            ..Requester::default()
        });
        if requester.keys == 0 {
            self.resting.remove(&(requester.had, flow));
            requester.had = requester.had.max(reached);
        }
        change(&mut requester.keys, &mut requester.bytes);
        if requester.keys == 0 {
            self.resting.insert((requester.had, flow));
            self.forget_rested();
        }
    }

    /// Forgets those who have no job, and no more behind them than the others.
    fn forget_rested(&mut self) {
        let has_jobs = self.queued_jobs > 0;
        while let Some(&(had, flow)) = self.resting.first() {
            if had > self.reached && has_jobs {
                break;
            }
            self.resting.remove(&(had, flow));
            self.requesters.remove(&flow);
        }
    }

    /// Gives a lane its next turn among those of its requester, if it has a job that may run and has no
    /// turn yet.
    fn give_turn(&mut self, number: u64) {
        let next = self.next_number();
        let Some(lane) = self.lanes.get_mut(&number) else {
            return;
        };
        if lane.turn.is_some() || lane.jobs.is_empty() || lane.running >= lane.at_once {
            return;
        }
        lane.turn = Some(next);
        let flow = lane.flow;
        if let Some(requester) = self.requesters.get_mut(&flow) {
            requester.turns.insert(next, number);
            self.turns.insert(turn_of(flow, requester));
        }
    }

    /// Takes a turn of a lane back.
    fn take_turn(&mut self, number: u64) {
        let Some(lane) = self.lanes.get_mut(&number) else {
            return;
        };
        let (flow, turn) = (lane.flow, lane.turn.take());
        if let (Some(turn), Some(requester)) = (turn, self.requesters.get_mut(&flow)) {
            requester.turns.remove(&turn);
            if requester.turns.is_empty() {
                self.turns.remove(&turn_of(flow, requester));
            }
        }
    }

    /// Takes the next job out, with the number of its lane.
    fn pop(&mut self) -> Option<(u64, Box<dyn Job>)> {
        let &(_, had, flow) = self.turns.first()?;
        let (_, &number) = self.requesters.get(&flow)?.turns.first_key_value()?;
        self.take_turn(number);
        let lane = self.lanes.get_mut(&number)?;
        let (_, queued) = lane.jobs.pop_first()?;
        lane.running += 1;
        self.queued_jobs -= 1;
        if flow != Flow::Load {
            self.reached = self.reached.max(had);
        }
        self.charge(flow, queued.keys);
        self.count(flow, |keys, bytes| {
            *keys -= queued.keys;
            *bytes -= queued.bytes;
        });
        self.give_turn(number);
        Some((number, queued.job))
    }

    /// Notes how many keys an requester has had run, which puts off its next turn.
    fn charge(&mut self, flow: Flow, keys: usize) {
        let Some(requester) = self.requesters.get_mut(&flow) else {
            return;
        };
        let had_turn = self.turns.remove(&turn_of(flow, requester));
        requester.had = requester.had.saturating_add(keys as u64);
        if had_turn {
            self.turns.insert(turn_of(flow, requester));
        }
    }

    /// Notes that a job of a lane has ended.
    fn end(&mut self, number: u64) {
        if let Some(lane) = self.lanes.get_mut(&number) {
            lane.running -= 1;
        }
        self.give_turn(number);
        self.remove_if_empty(number);
    }

    fn remove_if_empty(&mut self, number: u64) {
        let Some(lane) = self.lanes.get(&number) else {
            return;
        };
        if lane.jobs.is_empty() {
            let is_over = lane.running == 0;
            self.take_turn(number);
            if is_over {
                self.lanes.remove(&number);
            }
        }
    }

    /// Lets a key of a job go; gives the job if that was its last.
    fn forget(&mut self, place: Place) -> Option<Queued> {
        let lane = self.lanes.get_mut(&place.lane)?;
        let queued = lane.jobs.get_mut(&place.job)?;
        queued.keys -= 1;
        queued.bytes -= place.bytes;
        let is_empty = queued.keys == 0;
        let forgotten = is_empty.then(|| lane.jobs.remove(&place.job)).flatten();
        let flow = lane.flow;
        self.queued_jobs -= usize::from(is_empty);
        self.remove_if_empty(place.lane);
        self.count(flow, |keys, bytes| {
            *keys -= 1;
            *bytes -= place.bytes;
        });
        forgotten
    }
}

fn turn_of(flow: Flow, requester: &Requester) -> Turn {
    (flow != Flow::Load, requester.had, flow)
}

/// On whose behalf this thread queues jobs for `origin`: what a load begins is part of it.
pub(crate) fn actual(flow: Flow) -> Flow {
    match is_loader_thread() || user_code::inside_a_loader() {
        true => Flow::Load,
        false => flow,
    }
}

thread_local! {
    /// Whether this thread is one of a pool.
    static IS_OF_A_POOL: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is one of a pool: waiting here takes a thread from the loads.
pub(crate) fn is_loader_thread() -> bool {
    IS_OF_A_POOL.with(Cell::get)
}

impl Sleeper for Shared {
    fn wake(&self) {
        let _state = self.state.lock();
        self.idle.notify_all();
    }
}

impl Shared {
    /// Starts threads for what waits, as far as there may be more.
    fn start_threads(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let most = self.max_threads + state.blocked;
        let mut wanted = state.queued_jobs.saturating_sub(state.idle);
        while wanted > 0 && state.threads.len() < most {
            state.threads.push(self.start_thread()?);
            wanted -= 1;
        }
        Ok(())
    }

    fn start_thread(self: &Arc<Self>) -> io::Result<thread::JoinHandle<()>> {
        let shared = Arc::clone(self);
        thread::Builder::new()
            .name("groupcache-loader".to_owned())
            .spawn(move || shared.work_until_closed())
    }

    fn work_until_closed(&self) {
        let me = thread::current().id();
        IS_OF_A_POOL.with(|is| is.set(true));
        let mut lane = None;
        while let Some((number, job)) = self.next_job(me, lane) {
            lane = Some(number);
            let _hold = user_code::hold(); // what listens is told once the job is done
            // A panic ends the flight it held, by the flight's guard, and not this thread.
            if let Err(panicked) = user_code::call(|| job.run()) {
                log::error!(
                    target: "groupcache", error:% = panicked.0;
                    "a load panicked outside its loader"
                );
            }
        }
    }

    fn next_job(&self, me: thread::ThreadId, ended: Option<u64>) -> Option<(u64, Box<dyn Job>)> {
        let mut state = self.state.lock();
        state.busy.remove(&me);
        if let Some(lane) = ended {
            state.end(lane);
            // The others may have slept while this lane had no turn.
            self.work.notify_all();
        }
        if state.is_idle() {
            self.idle.notify_all();
        }
        loop {
            if state.closed {
                return None;
            }
            if state.threads.len() > self.max_threads + state.blocked {
                // The one that waited inside its loader goes on: this one took its part.
                state.threads.retain(|thread| thread.thread().id() != me);
                return None;
            }
            if let Some((lane, job)) = state.pop() {
                state.busy.insert(me);
                return Some((lane, job));
            }
            state.idle += 1;
            self.work.wait(&mut state);
            state.idle -= 1;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            let forgotten = {
                let mut state = pool.state.lock();
                let forgotten = state.forget(self.place);
                if state.is_idle() {
                    pool.idle.notify_all();
                }
                forgotten
            };
            drop(forgotten); // jobs hold flights, which have locks of their own (I2)
        }
    }
}

/// Says so if no thread could be started. Not under a lock: a logger is user code (I1).
fn report_no_thread(threads: usize, started: &io::Result<()>) {
    if let Err(error) = started {
        log::warn!(
            target: "groupcache", threads = threads, error:% = error;
            "cannot start another loader thread"
        );
    }
}

/// A thread of a pool that waits for a value.
pub(crate) struct Blocked<'a> {
    pool: Option<&'a Shared>,
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool {
            pool.state.lock().blocked -= 1;
            pool.work.notify_all(); // one may be too many now
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let (lanes, idle, busy) = {
            let mut state = self.shared.state.lock();
            state.closed = true;
            self.shared.work.notify_all();
            let threads = std::mem::take(&mut state.threads);
            let is_busy =
                |thread: &thread::JoinHandle<()>| state.busy.contains(&thread.thread().id());
            let (busy, idle): (Vec<_>, Vec<_>) = threads.into_iter().partition(is_busy);
            state.turns.clear();
            (std::mem::take(&mut state.lanes), idle, busy)
        };
        drop(lanes); // jobs hold flights, which have locks of their own (I2)
        for thread in idle {
            // It has nothing left to do and ends at once. A panic of a job ended it before.
            let _ = thread.join();
        }
        // This may be one of our own threads, dropping the last handle: it counts as busy, so it
        // is not joined. The others are inside a loader and end with it.
        let me = thread::current().id();
        let left = busy
            .iter()
            .filter(|thread| thread.thread().id() != me)
            .count();
        if left > 0 {
            log::warn!(target: "groupcache", threads = left; "loader threads left inside their loaders");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sync::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    struct Call<F>(F);

    impl<F: FnOnce() + Send> Job for Call<F> {
        fn run(self: Box<Self>) {
            (self.0)();
        }
    }

    fn work(keys: usize, call: impl FnOnce() + Send + 'static) -> Work {
        Work {
            job: Box::new(Call(call)),
            key_bytes: vec![10; keys],
        }
    }

    fn submit(pool: &Pool, call: impl FnOnce() + Send + 'static) -> Vec<Place> {
        pool.submit(vec![work(1, call)], 1, Flow::Application)
            .unwrap()
    }

    /// Keeps the only thread of a pool busy until the sender goes.
    fn block(pool: &Pool) -> mpsc::Sender<()> {
        let (sender, receiver) = mpsc::channel::<()>();
        let (started, has_started) = mpsc::channel();
        submit(pool, move || {
            started.send(()).unwrap();
            let _ = receiver.recv();
        });
        has_started.recv().unwrap();
        sender
    }

    fn queued(pool: &Pool) -> (usize, usize) {
        let state = pool.shared.state.lock();
        (state.queued_keys, state.queued_bytes)
    }

    #[test]
    fn jobs_run_and_the_threads_end_with_the_pool() {
        let pool = Pool::new(2);
        let (sender, receiver) = mpsc::channel();
        for number in 0..10 {
            let sender = sender.clone();
            submit(&pool, move || sender.send(number).unwrap());
        }
        drop(sender);
        let mut numbers: Vec<i32> = receiver.iter().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
        assert!(pool.threads().0 <= 2);
        drop(pool);
    }

    #[test]
    fn the_last_handle_may_fall_on_a_thread_of_the_pool() {
        let pool = Arc::new(Pool::new(1));
        let (sender, receiver) = mpsc::channel();
        let (go, wait_for_go) = mpsc::channel::<()>();
        let last = Arc::clone(&pool);
        submit(&pool, move || {
            wait_for_go.recv().unwrap();
            drop(last);
            sender.send(()).unwrap();
        });
        drop(pool);
        go.send(()).unwrap();
        receiver.recv().unwrap();
    }

    #[test]
    fn the_queue_is_bounded_in_keys_and_in_bytes() {
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let quarter = MAX_QUEUED_KEYS / 4;
        let lane = vec![work(quarter, || ()), work(quarter, || ()), work(1, || ())];
        let places = pool.submit(lane, 1, Flow::Application).unwrap();
        assert_eq!(places.len(), MAX_QUEUED_KEYS / 2, "the third has no room");
        let refused = pool.submit(vec![work(1, || ())], 1, Flow::Application);
        assert!(matches!(refused, Err(Refused::Full)));
        drop(pool.ticket(places[0]));
        let large = Work {
            job: Box::new(Call(|| ())),
            key_bytes: vec![MAX_QUEUED_BYTES],
        };
        let refused = pool.submit(vec![large], 1, Flow::Application);
        assert!(matches!(refused, Err(Refused::Full)));
        let places = pool.submit(vec![work(1, || ())], 1, Flow::Application);
        assert_eq!(places.unwrap().len(), 1);
        drop(blocked);
    }

    #[test]
    fn a_job_whose_tickets_are_gone_leaves_the_queue() {
        struct Counted(Arc<AtomicUsize>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let dropped = Arc::new(AtomicUsize::new(0));
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let counted = Counted(Arc::clone(&dropped));
        let places = pool
            .submit(vec![work(2, move || drop(counted))], 1, Flow::Application)
            .unwrap();
        assert_eq!(queued(&pool), (2, 20));
        drop(pool.ticket(places[0]));
        assert_eq!(
            (queued(&pool), dropped.load(Ordering::SeqCst)),
            ((1, 10), 0)
        );
        drop(pool.ticket(places[1]));
        assert_eq!((queued(&pool), dropped.load(Ordering::SeqCst)), ((0, 0), 1));
        assert_eq!(pool.shared.state.lock().lanes.len(), 1, "only what runs");
        drop(blocked);
        pool.wait_until_idle(&Clock::system(), Deadline::NEVER);
        let state = pool.shared.state.lock();
        assert!(state.turns.is_empty() && state.requesters.is_empty() && state.resting.is_empty());
    }

    #[test]
    fn lanes_take_turns() {
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let (sender, receiver) = mpsc::channel();
        let lane = |name: &'static str| {
            let work = |_| {
                let sender = sender.clone();
                work(1, move || sender.send(name).unwrap())
            };
            (0..3).map(work).collect::<Vec<_>>()
        };
        pool.submit(lane("large"), 1, Flow::Application).unwrap();
        pool.submit(lane("other"), 1, Flow::Application).unwrap();
        drop((blocked, sender));
        let order: Vec<_> = receiver.iter().collect();
        assert_eq!(
            order,
            ["large", "other", "large", "other", "large", "other"]
        );
    }

    fn peer(number: u8) -> Flow {
        Flow::Network(Some([10, 0, 0, number].into()))
    }

    #[test]
    fn those_who_ask_take_turns_however_much_each_has_queued() {
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let (sender, receiver) = mpsc::channel();
        let job = |name: &'static str| {
            let sender = sender.clone();
            work(1, move || sender.send(name).unwrap())
        };
        for _ in 0..10 {
            let lane = (0..3).map(|_| job("greedy")).collect();
            pool.submit(lane, 1, peer(1)).unwrap();
        }
        let lane = (0..3).map(|_| job("peer")).collect();
        pool.submit(lane, 1, peer(2)).unwrap();
        pool.submit(vec![job("own")], 1, Flow::Application).unwrap();
        drop((blocked, sender));
        let order: Vec<_> = receiver.iter().collect();
        assert_eq!(order.len(), 34);
        let last = |name| order.iter().rposition(|&other| other == name).unwrap();
        assert!(last("own") <= 3, "{order:?}");
        assert!(last("peer") <= 9, "{order:?}");
    }

    #[test]
    fn turns_are_weighed_by_keys() {
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let (sender, receiver) = mpsc::channel();
        let job = |keys, name: &'static str| {
            let sender = sender.clone();
            work(keys, move || sender.send(name).unwrap())
        };
        for _ in 0..3 {
            pool.submit(vec![job(4, "four")], 1, peer(1)).unwrap();
        }
        let lane = (0..9).map(|_| job(1, "one")).collect();
        pool.submit(lane, 1, peer(2)).unwrap();
        drop((blocked, sender));
        let order: Vec<_> = receiver.iter().collect();
        let of_four: Vec<usize> = (0..order.len()).filter(|&at| order[at] == "four").collect();
        assert!(of_four[2] - of_four[0] >= 8, "{order:?}");
    }

    /// One whose queue is empty for a moment has no more turns for that.
    #[test]
    fn one_who_has_had_much_run_waits_also_if_its_queue_was_empty() {
        let mut state = State::default();
        let job = |keys| work(keys, || ());
        state.add_lane(vec![job(100)], 1, peer(1));
        state.add_lane((0..10).map(|_| job(1)).collect(), 10, peer(2));
        let pop = |state: &mut State| {
            let (number, _) = state.pop().unwrap();
            let flow = state.lanes[&number].flow;
            state.end(number);
            flow
        };
        assert_eq!(pop(&mut state), peer(1));
        state.add_lane(vec![job(100)], 1, peer(1));
        let order: Vec<_> = (0..11).map(|_| pop(&mut state)).collect();
        assert_eq!(order[10], peer(1), "{order:?}");
        assert!(state.lanes.is_empty() && state.turns.is_empty());
        assert!(state.requesters.is_empty() && state.resting.is_empty());
    }

    #[test]
    fn a_job_without_keys_has_its_turn_too() {
        let mut state = State::default();
        let (places, refused) = state.add_lane(vec![work(0, || ())], 1, peer(1));
        assert!(places.is_empty() && refused.is_empty());
        let (number, _) = state.pop().unwrap();
        state.end(number);
        assert!(state.is_idle() && state.requesters.is_empty());
    }

    #[test]
    fn however_many_ask_there_is_room_for_one_who_comes() {
        let pool = Pool::new(1);
        let blocked = block(&pool);
        let jobs = |count| (0..count).map(|_| work(1, || ())).collect::<Vec<_>>();
        let mut places = Vec::new();
        for number in 0..9 {
            places.extend(pool.submit(jobs(MAX_QUEUED_KEYS), 1, peer(number)).unwrap());
        }
        let room = pool.submit(jobs(32), 1, peer(9)).unwrap();
        assert_eq!(room.len(), 32);
        // What a load waits for is part of it, and takes all there is.
        let full = queued(&pool).0;
        let mut state = pool.shared.state.lock();
        let (nested, _) = state.add_lane(jobs(MAX_QUEUED_KEYS), 1, Flow::Load);
        assert_eq!(nested.len(), MAX_QUEUED_KEYS - full);
        drop(state);
        drop(blocked);
    }

    #[test]
    fn a_lane_keeps_to_its_limit() {
        let pool = Pool::new(4);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let work = |_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            work(1, move || {
                let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
            })
        };
        pool.submit((0..100).map(work).collect(), 2, Flow::Application)
            .unwrap();
        pool.wait_until_idle(&Clock::system(), Deadline::NEVER);
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_thread_that_waits_inside_its_job_has_another_take_its_part() {
        let pool = Arc::new(Pool::new(1));
        let (sender, receiver) = mpsc::channel();
        let inner = Arc::clone(&pool);
        submit(&pool, move || {
            let (ended, has_ended) = mpsc::channel();
            let waiting = inner.wait_inside();
            submit(&inner, move || ended.send(()).unwrap());
            has_ended.recv().unwrap();
            drop(waiting);
            sender.send(inner.threads().0).unwrap();
        });
        assert!(receiver.recv().unwrap() <= 2);
        pool.wait_until_idle(&Clock::system(), Deadline::NEVER);
        submit(&pool, || ());
        pool.wait_until_idle(&Clock::system(), Deadline::NEVER);
        assert_eq!(pool.shared.state.lock().blocked, 0);
    }
}
