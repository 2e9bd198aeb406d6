//! Clients that ask one node each, again and again, and what they see.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::client::Client;
use crate::fleet::Fleet;
use crate::value_of;

/// How many clients each node has.
pub(crate) const CLIENTS: usize = 8;

/// Keys that everybody asks for, each as often as any other.
pub(crate) const KEYS: usize = 2_000;

/// Keys that are asked for by Zipf's law, and its exponent.
pub(crate) const ZIPF_KEYS: usize = 10_000;
const EXPONENT: f64 = 0.99;

/// One in so many gets is for a key that nobody has asked for: there is always something to load.
const NEW: u64 = 200;

/// How long a client does something else between two gets: forty in a row would measure who gets
/// the processors.
const PAUSE: Duration = Duration::from_millis(4);

/// The time from one get to the next, where clients ask at fixed times.
const PERIOD: Duration = Duration::from_millis(20);

/// What clients ask for, and when.
#[derive(Clone)]
pub(crate) enum Workload {
    /// All keys alike. The next get comes some time after the answer to the last.
    Closed,
    /// Some keys more than others: the shares of all keys up to each one. Gets come at fixed times, and take as
    /// long as it is from those to their answers.
    Open(Arc<[f64]>),
}

impl Workload {
    pub(crate) fn open() -> Workload {
        let mut sum = 0.0;
        let sums = (1..=ZIPF_KEYS).map(|rank| {
            sum += (rank as f64).powf(-EXPONENT);
            sum
        });
        let sums: Vec<f64> = sums.collect();
        Workload::Open(sums.iter().map(|share| share / sum).collect())
    }

    /// The key that a client asks for next.
    fn key(&self, dice: u64) -> String {
        // In all trials of a process.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        if dice % NEW == 0 {
            return format!("new-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        }
        let dice = dice / NEW;
        match self {
            Workload::Closed => format!("key-{}", dice % KEYS as u64),
            Workload::Open(shares) => {
                let fraction = (dice % (1 << 32)) as f64 / (1_u64 << 32) as f64;
                let at = shares.partition_point(|share| *share < fraction);
                format!("key-{}", at.min(ZIPF_KEYS - 1))
            }
        }
    }
}

/// A get that was answered.
#[derive(Clone, Copy)]
struct Get {
    /// When it ended, and how long it took: one that a fault has caught belongs to the time of the
    /// fault.
    ended: Duration,
    took: Duration,
}

/// How much longer one of a hundred gets may take: whoever asks may have to wait for a slice of
/// time that another has.
const SLICE: Duration = Duration::from_millis(4);

/// What all clients have seen.
pub(crate) struct Watch<'a> {
    fleet: &'a Fleet,
    workload: Workload,
    begun: Instant,
    over: AtomicBool,
    gets: Mutex<Vec<Get>>,
    /// How late a thread comes that does nothing but sleep: others work on this machine too.
    naps: Mutex<Vec<Get>>,
    /// When, and how many requests had come to the origin by then.
    loads: Mutex<Vec<(Duration, usize)>>,
    failed: Mutex<Vec<String>>,
    wrong: Mutex<Vec<String>>,
}

/// What clients saw in some time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    pub(crate) gets: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
    pub(crate) loads: usize,
    /// How late one of a hundred naps ended, and the worst one.
    pub(crate) late: Duration,
    pub(crate) latest: Duration,
}

impl Window {
    /// Loads for each get.
    pub(crate) fn share(&self) -> f64 {
        self.loads as f64 / self.gets.max(1) as f64
    }
}

impl<'a> Watch<'a> {
    /// Has the clients of all nodes work while `script` runs.
    pub(crate) fn run(fleet: &'a Fleet, script: impl FnOnce(&Watch<'a>)) -> Watch<'a> {
        Watch::run_with(fleet, Workload::Closed, script)
    }

    /// The same with this workload.
    pub(crate) fn run_with(
        fleet: &'a Fleet,
        workload: Workload,
        script: impl FnOnce(&Watch<'a>),
    ) -> Watch<'a> {
        let watch = Watch {
            fleet,
            workload,
            begun: Instant::now(),
            over: AtomicBool::new(false),
            gets: Mutex::default(),
            naps: Mutex::default(),
            loads: Mutex::default(),
            failed: Mutex::default(),
            wrong: Mutex::default(),
        };
        thread::scope(|scope| {
            let watch = &watch;
            for client in 0..CLIENTS * fleet.len() {
                let thread = thread::Builder::new().stack_size(256 << 10);
                let work = move || watch.work(client % fleet.len(), client as u64 + 1);
                thread.spawn_scoped(scope, work).unwrap();
            }
            scope.spawn(|| watch.count_loads());
            scope.spawn(|| watch.nap());
            let _over = Over(watch);
            script(watch);
        });
        watch.gets.lock().sort_unstable_by_key(|get| get.ended);
        watch
    }

    pub(crate) fn now(&self) -> Duration {
        self.at(Instant::now())
    }

    pub(crate) fn at(&self, instant: Instant) -> Duration {
        instant.duration_since(self.begun)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn count_loads(&self) {
        while !self.is_over() {
            let loads = (self.now(), self.fleet.origin.requests());
            self.loads.lock().push(loads);
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn nap(&self) {
        const NAP: Duration = Duration::from_millis(2);
        while !self.is_over() {
            let at = self.now();
            thread::sleep(NAP);
            let ended = self.now();
            let took = ended - at - NAP;
            self.naps.lock().push(Get { ended, took });
        }
    }

    /// One client of `node`.
    fn work(&self, node: usize, seed: u64) {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let (mut client, mut gets) = (None, Vec::new());
        // The clients take turns within the period.
        let mut next = self.now() + PERIOD / 64 * (seed % 64) as u32;
        while !self.is_over() {
            if matches!(self.workload, Workload::Open(_)) {
                thread::sleep(next.saturating_sub(self.now()));
            }
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let turn = self.fleet.turn(node);
            if turn % 2 == 0 {
                let key = self.workload.key(state >> 8);
                let at = match self.workload {
                    Workload::Closed => self.now(),
                    Workload::Open(_) => next,
                };
                let outcome = self.get(&mut client, node, &key);
                let ended = self.now();
                let took = ended - at;
                // Who asks a node that goes away meanwhile cannot complain.
                if self.fleet.turn(node) == turn {
                    match outcome {
                        Ok(()) => gets.push(Get { ended, took }),
                        Err(error) => {
                            let failed = format!("{at:.3?} node {node} {key}: {error}");
                            self.failed.lock().push(failed);
                        }
                    }
                }
            } else {
                client = None;
            }
            match self.workload {
                Workload::Closed => thread::sleep(PAUSE),
                Workload::Open(_) => next += PERIOD,
            }
        }
        self.gets.lock().extend(gets);
    }

    fn get(&self, kept: &mut Option<Client>, node: usize, key: &str) -> Result<(), String> {
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::connect(self.fleet.front(node)).map_err(|error| error.to_string())?,
        };
        let answer = client.ask("GET", &format!("/k/{key}"), &[]);
        let (status, value) = answer.map_err(|error| error.to_string())?;
        *kept = Some(client);
        if status != 200 {
            return Err(format!("{status} {}", String::from_utf8_lossy(&value)));
        }
        if value != value_of(key) {
            self.wrong.lock().push(format!("node {node} {key}"));
        }
        Ok(())
    }

    pub(crate) fn failed(&self) -> usize {
        self.failed.lock().len()
    }

    pub(crate) fn wrong(&self) -> usize {
        self.wrong.lock().len()
    }

    /// Gets that failed or brought a wrong value: some of them.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let (failed, wrong) = (self.failed.lock(), self.wrong.lock());
        failed.iter().chain(&*wrong).take(5).cloned().collect()
    }

    pub(crate) fn gets(&self) -> usize {
        self.gets.lock().len()
    }

    /// What was seen of the gets that ended in this time.
    pub(crate) fn window(&self, time: Range<Duration>) -> Window {
        let took = times(&self.gets.lock(), &time);
        let late = times(&self.naps.lock(), &time);
        Window {
            gets: took.len(),
            p50: part(&took, 50),
            p99: part(&took, 99),
            max: part(&took, 100),
            loads: self.loads_at(time.end) - self.loads_at(time.start),
            late: part(&late, 99),
            latest: part(&late, 100),
        }
    }

    fn loads_at(&self, time: Duration) -> usize {
        let loads = self.loads.lock();
        let at = loads.partition_point(|(at, _)| *at <= time);
        loads
            .get(at.saturating_sub(1))
            .map_or(0, |(_, loads)| *loads)
    }

    /// After how long clients see again what they saw before: the first time from `healed` on from
    /// which a window of this length is like `usual`.
    pub(crate) fn recovery(
        &self,
        usual: &Window,
        healed: Duration,
        length: Duration,
    ) -> Option<Duration> {
        let end = self.loads.lock().last().map_or(healed, |(at, _)| *at);
        let step = length / 10;
        (0..)
            .map(|steps| step * steps)
            .take_while(|later| healed + *later + length <= end)
            .find(|later| {
                let window = self.window(healed + *later..healed + *later + length);
                let longest = usual.p99.mul_f64(1.2) + SLICE + window.late;
                let is_usual = window.p99 <= longest && window.share() <= usual.share() * 1.2;
                is_usual && 2 * window.gets >= usual.gets
            })
    }
}

/// How long those took that ended in this time, the shortest first.
fn times(gets: &[Get], time: &Range<Duration>) -> Vec<Duration> {
    let from = gets.partition_point(|get| get.ended < time.start);
    let to = gets.partition_point(|get| get.ended < time.end);
    let mut took: Vec<Duration> = gets[from..to].iter().map(|get| get.took).collect();
    took.sort_unstable();
    took
}

/// Within which time so many of a hundred ended.
fn part(sorted: &[Duration], of_hundred: usize) -> Duration {
    let at = (sorted.len() * of_hundred / 100).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or_default()
}

/// Ends the clients, also if the script fails.
struct Over<'a, 'b>(&'a Watch<'b>);

impl Drop for Over<'_, '_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}
