//! What the clients measure.

use std::time::Duration;

use groupcache_sync::Source;

use crate::ledger::Phase;

/// Where a value came from, in the order of the columns of the tables.
pub(crate) const SOURCES: [&str; 5] = ["main", "hot", "peer", "load", "joined"];

fn column(source: Source) -> usize {
    match source {
        Source::Main => 0,
        Source::Hot => 1,
        Source::Peer => 2,
        Source::Load => 3,
        _ => 4,
    }
}

/// What one client saw, or several together.
#[derive(Clone)]
pub(crate) struct Tally {
    pub(crate) phases: Vec<PhaseTally>,
    /// Answers by the node that was asked, and by source.
    pub(crate) nodes: Vec<[u64; SOURCES.len()]>,
    pub(crate) first_error: Option<String>,
}

#[derive(Clone, Default)]
pub(crate) struct PhaseTally {
    pub(crate) latencies: [Histogram; SOURCES.len()],
    pub(crate) failed: u64,
    pub(crate) wrong: u64,
}

impl Tally {
    pub(crate) fn new(nodes: usize) -> Tally {
        Tally {
            phases: vec![PhaseTally::default(); Phase::ALL.len()],
            nodes: vec![[0; SOURCES.len()]; nodes],
            first_error: None,
        }
    }

    pub(crate) fn answered(&mut self, phase: Phase, node: usize, source: Source, took: Duration) {
        self.phases[phase as usize].latencies[column(source)].record(took);
        self.nodes[node][column(source)] += 1;
    }

    pub(crate) fn wrong(&mut self, phase: Phase) {
        self.phases[phase as usize].wrong += 1;
    }

    pub(crate) fn failed(&mut self, phase: Phase, error: &dyn std::error::Error) {
        self.phases[phase as usize].failed += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    pub(crate) fn merge(mut self, other: &Tally) -> Tally {
        for (phase, others) in self.phases.iter_mut().zip(&other.phases) {
            phase.merge(others);
        }
        for (node, others) in self.nodes.iter_mut().zip(&other.nodes) {
            add(node, others);
        }
        self.first_error = self.first_error.or_else(|| other.first_error.clone());
        self
    }

    /// All phases as one.
    pub(crate) fn total(&self) -> PhaseTally {
        let mut total = PhaseTally::default();
        for phase in &self.phases {
            total.merge(phase);
        }
        total
    }
}

impl PhaseTally {
    fn merge(&mut self, other: &PhaseTally) {
        for (latencies, others) in self.latencies.iter_mut().zip(&other.latencies) {
            latencies.merge(others);
        }
        self.failed += other.failed;
        self.wrong += other.wrong;
    }

    pub(crate) fn requests(&self) -> u64 {
        self.all_latencies().count() + self.failed
    }

    pub(crate) fn all_latencies(&self) -> Histogram {
        self.latencies_from(&SOURCES)
    }

    /// The latencies of the answers from these sources.
    pub(crate) fn latencies_from(&self, sources: &[&str]) -> Histogram {
        let mut all = Histogram::default();
        for (source, latencies) in SOURCES.iter().zip(&self.latencies) {
            if sources.contains(source) {
                all.merge(latencies);
            }
        }
        all
    }
}

/// How often durations occurred, to within 3 %, in bounded memory.
///
/// 32 buckets for each power of two of nanoseconds, as an HdrHistogram has.
#[derive(Clone)]
pub(crate) struct Histogram(Vec<u64>);

const BUCKETS_PER_POWER: u64 = 32;
const FIRST_POWER: u32 = BUCKETS_PER_POWER.ilog2();

impl Default for Histogram {
    fn default() -> Histogram {
        let powers = u64::from(u64::BITS - FIRST_POWER);
        Histogram(vec![0; (powers * BUCKETS_PER_POWER) as usize])
    }
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        let nanos = duration.as_nanos() as u64;
        self.0[bucket(nanos.max(BUCKETS_PER_POWER))] += 1;
    }

    pub(crate) fn merge(&mut self, other: &Histogram) {
        add(&mut self.0, &other.0);
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The duration that `percent` of all stay within; `None` if there are none.
    pub(crate) fn percentile(&self, percent: u64) -> Option<Duration> {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_nanos(start_of(found)))
    }
}

fn bucket(nanos: u64) -> usize {
    let power = nanos.ilog2() - FIRST_POWER;
    let within = (nanos >> power) - BUCKETS_PER_POWER;
    (u64::from(power) * BUCKETS_PER_POWER + within) as usize
}

fn start_of(bucket: usize) -> u64 {
    let (power, within) = (
        bucket as u64 / BUCKETS_PER_POWER,
        bucket as u64 % BUCKETS_PER_POWER,
    );
    (BUCKETS_PER_POWER + within) << power
}

fn add(counts: &mut [u64], others: &[u64]) {
    for (count, other) in counts.iter_mut().zip(others) {
        *count += other;
    }
}
