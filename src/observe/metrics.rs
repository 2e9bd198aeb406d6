//! `Metrics`: what a node counts, for the `metrics` facade.
//!
//! Nothing is woven through the loading process: what is published are the differences between two
//! snapshots of what the node counts in any case.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use metrics::{Label, Unit};

use crate::observe::Counted;
use crate::observe::names::{
    CALL_SECONDS, GET_SECONDS, GROUP_BYTES, GROUP_COUNTERS, GROUP_GAUGES, LOADER_SECONDS,
    NODE_COUNTERS, NODE_GAUGES, Number, PEER_COUNTERS, PEER_GAUGES, RING_SHARE, by_outcome,
};
use crate::runtime::sync::Arc;
use crate::stats::latency::Latency;

/// Publishes what a node counts through the [`metrics`] facade (feature `metrics`), to whatever
/// recorder the process has installed.
///
/// [`publish`](Metrics::publish) is to be called before each scrape, or every few seconds where
/// metrics are pushed; between the calls nothing happens, and gets cost what they cost without it.
/// One `Metrics` for each node, made after the recorder is installed: each publishes all that was
/// counted since the node was built, and then what has been counted since. With several nodes in one
/// process counters add up, and gauges are those of the node that published last.
///
/// Durations are published as the middle of the bucket they were counted in (see [`Latency`]): at
/// most a sixteenth wrong, but in the first and the last bucket. A hit in memory is not timed.
///
/// ```
/// use groupcache_sync::{Group, Metrics, Node, Value};
///
/// // The recorder of an exporter is installed before this.
/// let node = Node::new("http://127.0.0.1:7000")?;
/// let group: Group = node.group_builder("pages", 1 << 20).build(|key| Ok(Value::from(key)))?;
/// let mut metrics = Metrics::new(&node);
/// group.get("a")?;
/// metrics.publish(); // before each scrape
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
///
/// `examples/prometheus.rs` serves them to Prometheus, on the port of the node.
///
/// # Names
///
/// Those of a group have the label `group`, those of a peer the label `peer`, which is its id. The
/// meaning of each is that of the field with its name in [`GroupStats`](crate::GroupStats),
/// [`PeerStats`](crate::PeerStats), [`NodeStats`](crate::NodeStats) or
/// [`Latencies`](crate::Latencies).
///
/// | of a group | kind |
/// |---|---|
/// | `groupcache_gets_total`, `groupcache_main_hits_total`, `groupcache_hot_hits_total`, `groupcache_joined_total`, `groupcache_leads_total` | counters |
/// | `groupcache_loads_total`, `groupcache_load_errors_total`, `groupcache_overloads_total` | counters |
/// | `groupcache_loader_runs_total` | counter |
/// | `groupcache_deputy_fetches_total`, `groupcache_deputy_copies_total` | counters |
/// | `groupcache_fetches_total`, `groupcache_fetch_errors_total`, `groupcache_peeks_total`, `groupcache_inherited_total` | counters |
/// | `groupcache_served_total`, `groupcache_served_hits_total`, `groupcache_removes_total` | counters |
/// | `groupcache_evictions_total`, `groupcache_rejections_total`, `groupcache_expirations_total` | counters |
/// | `groupcache_stale_hits_total`, `groupcache_stand_ins_total`, `groupcache_absent_hits_total` | counters |
/// | `groupcache_main_items`, `groupcache_hot_items`, `groupcache_absent_items` | gauges |
/// | `groupcache_main_bytes`, `groupcache_hot_bytes`, `groupcache_capacity_bytes`, `groupcache_overhead_bytes` | gauges, bytes |
/// | `groupcache_loads_running`, `groupcache_flights` | gauges |
/// | `groupcache_get_seconds`, with the label `outcome`: `peer`, `load`, `joined`, `not_found`, `failed` | histogram |
/// | `groupcache_loader_seconds` | histogram |
///
/// | of a peer | kind |
/// |---|---|
/// | `groupcache_peer_calls_total`, `groupcache_peer_call_errors_total`, `groupcache_peer_abandoned_calls_total`, `groupcache_peer_retries_total`, `groupcache_peer_circuit_openings_total` | counters |
/// | `groupcache_peer_ring_share`: of 1, `groupcache_peer_pending_removals` | gauges |
/// | `groupcache_peer_circuit_open`: 1 while the peer counts as unreachable, else 0 | gauge |
/// | `groupcache_peer_call_seconds`: of the calls that were answered | histogram |
///
/// | of the node | kind |
/// |---|---|
/// | `groupcache_ring_mismatches_total`, `groupcache_refused_requests_total`, `groupcache_misdirected_requests_total`, `groupcache_discovery_polls_total`, `groupcache_discovery_errors_total` | counters |
/// | `groupcache_is_absent`: 1 or 0, `groupcache_peers`, `groupcache_loader_threads`, `groupcache_loader_threads_busy` | gauges |
///
/// The gauges of a group that was removed, and of a peer that is in the list no more, become 0.
pub struct Metrics {
    node: Arc<dyn Counted>,
    published: Readings,
}

impl Metrics {
    pub(crate) fn of(node: Arc<dyn Counted>) -> Metrics {
        describe();
        Metrics {
            node,
            published: Readings::new(),
        }
    }

    /// Publishes what has happened since the last time. Does not block on the network or a load.
    pub fn publish(&mut self) {
        let now = read(&*self.node);
        let before = std::mem::replace(&mut self.published, now.clone());
        for ((name, labels), reading) in changes(before, now) {
            match reading {
                Reading::Counter(count) => metrics::counter!(name, labels).increment(count),
                Reading::Gauge(value) => metrics::gauge!(name, labels).set(value),
                Reading::Durations(latency) => {
                    let histogram = metrics::histogram!(name, labels);
                    for (range, count) in latency.buckets() {
                        let middle = middle_of(&range).as_secs_f64();
                        histogram.record_many(middle, usize::try_from(count).unwrap_or(usize::MAX));
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A metric's name and labels.
type Series = (&'static str, Vec<Label>);

type Readings = HashMap<Series, Reading>;

#[derive(Clone, Debug)]
enum Reading {
    Counter(u64),
    Gauge(f64),
    Durations(Latency),
}

/// What to publish if what was read `before` is published already.
fn changes(mut before: Readings, now: Readings) -> Vec<(Series, Reading)> {
    let mut changes = Vec::with_capacity(now.len());
    for (series, reading) in now {
        let change = match (reading, before.remove(&series)) {
            // One that is smaller than before is another one, and began anew.
            (Reading::Counter(now), Some(Reading::Counter(then))) => {
                Reading::Counter(now.checked_sub(then).unwrap_or(now))
            }
            (Reading::Durations(now), Some(Reading::Durations(then))) => {
                Reading::Durations(now.since(&then))
            }
            (reading, _) => reading,
        };
        changes.push((series, change));
    }
    for (series, reading) in before {
        if matches!(reading, Reading::Gauge(_)) {
            changes.push((series, Reading::Gauge(0.0)));
        }
    }
    changes
}

fn middle_of(range: &std::ops::Range<Duration>) -> Duration {
    match range.end {
        Duration::MAX => range.start,
        end => (range.start + end) / 2,
    }
}

fn read(node: &dyn Counted) -> Readings {
    let mut readings = Readings::new();
    for (name, stats) in node.group_stats() {
        let labels = vec![Label::new("group", name)];
        add(
            &mut readings,
            GROUP_COUNTERS,
            &stats,
            &labels,
            Reading::Counter,
        );
        add(&mut readings, GROUP_GAUGES, &stats, &labels, gauge);
        add(&mut readings, GROUP_BYTES, &stats, &labels, gauge);
    }
    for (name, latencies) in node.group_latencies() {
        let group = Label::new("group", name);
        for (outcome, latency) in by_outcome(&latencies) {
            let labels = vec![group.clone(), Label::new("outcome", outcome)];
            readings.insert((GET_SECONDS.0, labels), Reading::Durations(latency.clone()));
        }
        let loader = Reading::Durations(latencies.loader);
        readings.insert((LOADER_SECONDS.0, vec![group]), loader);
    }
    let stats = node.stats();
    add(&mut readings, NODE_COUNTERS, &stats, &[], Reading::Counter);
    add(&mut readings, NODE_GAUGES, &stats, &[], gauge);
    for peer in stats.peers {
        let labels = vec![Label::new("peer", peer.id.clone())];
        add(
            &mut readings,
            PEER_COUNTERS,
            &peer,
            &labels,
            Reading::Counter,
        );
        add(&mut readings, PEER_GAUGES, &peer, &labels, gauge);
        let share = Reading::Gauge(peer.ring_share);
        readings.insert((RING_SHARE.0, labels.clone()), share);
        readings.insert((CALL_SECONDS.0, labels), Reading::Durations(peer.latency));
    }
    readings
}

fn add<T>(
    readings: &mut Readings,
    numbers: &[Number<T>],
    of: &T,
    labels: &[Label],
    reading: impl Fn(u64) -> Reading,
) {
    for &(name, _, number) in numbers {
        readings.insert((name, labels.to_vec()), reading(number(of)));
    }
}

fn gauge(number: u64) -> Reading {
    Reading::Gauge(number as f64)
}

/// Tells the recorder what they mean.
fn describe() {
    fn counters<T>(of: &[Number<T>]) {
        for &(name, meaning, _) in of {
            metrics::describe_counter!(name, Unit::Count, meaning);
        }
    }
    fn gauges<T>(of: &[Number<T>], unit: Unit) {
        for &(name, meaning, _) in of {
            metrics::describe_gauge!(name, unit, meaning);
        }
    }
    counters(GROUP_COUNTERS);
    gauges(GROUP_GAUGES, Unit::Count);
    gauges(GROUP_BYTES, Unit::Bytes);
    counters(PEER_COUNTERS);
    gauges(PEER_GAUGES, Unit::Count);
    counters(NODE_COUNTERS);
    gauges(NODE_GAUGES, Unit::Count);
    metrics::describe_gauge!(RING_SHARE.0, Unit::Count, RING_SHARE.1);
    for (name, meaning) in [GET_SECONDS, LOADER_SECONDS, CALL_SECONDS] {
        metrics::describe_histogram!(name, Unit::Seconds, meaning);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &'static str) -> Series {
        (name, Vec::new())
    }

    fn counter_change(before: u64, now: u64) -> u64 {
        let readings = |count| Readings::from([(series("c"), Reading::Counter(count))]);
        match changes(readings(before), readings(now))[..] {
            [(_, Reading::Counter(change))] => change,
            _ => u64::MAX,
        }
    }

    #[test]
    fn counters_are_published_as_differences_and_one_that_began_anew_as_it_is() {
        assert_eq!(counter_change(3, 10), 7);
        assert_eq!(counter_change(10, 3), 3);
    }

    #[test]
    fn a_gauge_that_is_gone_becomes_zero_and_a_counter_stays() {
        let before = Readings::from([
            (series("g"), Reading::Gauge(5.0)),
            (series("c"), Reading::Counter(5)),
        ]);
        let gone = changes(before, Readings::new());
        assert!(
            matches!(gone[..], [(("g", _), Reading::Gauge(0.0))]),
            "{gone:?}"
        );
    }

    #[test]
    fn every_number_of_a_group_is_published() {
        let node = crate::Node::new("http://127.0.0.1:1").unwrap();
        let group: crate::Group = node
            .group_builder("g", 1 << 20)
            .build(|key| Ok(key.into()))
            .unwrap();
        let readings = read(&*node.counted());
        let names: Vec<&str> = readings.keys().map(|(name, _)| *name).collect();
        let text = format!("{:?}", group.stats());
        let fields = text
            .split([',', '{'])
            .filter_map(|field| field.split(": ").next());
        let fields: Vec<&str> = fields.skip(1).map(str::trim).collect();
        assert!(fields.contains(&"gets") && fields.len() > 20, "{fields:?}");
        for field in fields {
            let forms = [
                format!("groupcache_{field}"),
                format!("groupcache_{field}_total"),
            ];
            assert!(forms.iter().any(|form| names.contains(&&**form)), "{field}");
        }
    }

    #[test]
    fn the_documentation_names_every_metric() {
        let node = crate::Node::new("http://127.0.0.1:1").unwrap();
        let _group: crate::Group = node
            .group_builder("g", 1 << 20)
            .build(|key| Ok(key.into()))
            .unwrap();
        let source = include_str!("metrics.rs");
        let documented = |name: &str| {
            let quoted = format!("`{name}`");
            let mut docs = source.lines().filter(|line| line.starts_with("/// |"));
            docs.any(|line| line.contains(&quoted))
        };
        for ((name, _), _) in read(&*node.counted()) {
            assert!(documented(name), "{name}");
        }
    }
}
