//! What a node has counted, in the text format of Prometheus (version 0.0.4).

use std::fmt::{self, Write};

use super::Counted;
use super::names::{
    CALL_SECONDS, GET_SECONDS, GROUP_BYTES, GROUP_COUNTERS, GROUP_GAUGES, LOADER_SECONDS,
    NODE_COUNTERS, NODE_GAUGES, Number, PEER_COUNTERS, PEER_GAUGES, RING_SHARE, Series, by_outcome,
};
use crate::stats::latency::Latency;

/// The media type of the text.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The names and values of the labels of a series.
type Labels<'a> = Vec<(&'static str, &'a str)>;

/// All that a node has counted. Groups, peers and outcomes are labels.
pub(crate) fn text_of(node: &dyn Counted) -> String {
    let mut text = String::new();
    // To write into a string cannot fail.
    let _ = write_all(&mut text, node);
    text
}

fn write_all(text: &mut String, node: &dyn Counted) -> fmt::Result {
    let groups = node.group_stats();
    let groups: Vec<(Labels<'_>, _)> = groups
        .iter()
        .map(|(name, stats)| (vec![("group", &**name)], stats))
        .collect();
    numbers(text, "counter", GROUP_COUNTERS, &groups)?;
    numbers(text, "gauge", GROUP_GAUGES, &groups)?;
    numbers(text, "gauge", GROUP_BYTES, &groups)?;

    let latencies = node.group_latencies();
    let (mut gets, mut loads) = (Vec::new(), Vec::new());
    for (name, latencies) in &latencies {
        for (outcome, latency) in by_outcome(latencies) {
            gets.push((vec![("group", &**name), ("outcome", outcome)], latency));
        }
        loads.push((vec![("group", &**name)], &latencies.loader));
    }
    durations(text, GET_SECONDS, &gets)?;
    durations(text, LOADER_SECONDS, &loads)?;

    let stats = node.stats();
    let this = [(Labels::new(), &stats)];
    numbers(text, "counter", NODE_COUNTERS, &this)?;
    numbers(text, "gauge", NODE_GAUGES, &this)?;

    let peers = stats.peers.iter();
    let peers: Vec<_> = peers
        .map(|peer| (vec![("peer", &*peer.id)], peer))
        .collect();
    numbers(text, "counter", PEER_COUNTERS, &peers)?;
    numbers(text, "gauge", PEER_GAUGES, &peers)?;
    head(text, RING_SHARE, "gauge")?;
    for (labels, peer) in &peers {
        line(text, RING_SHARE.0, "", labels, peer.ring_share)?;
    }
    let calls: Vec<_> = peers
        .iter()
        .map(|(labels, peer)| (labels.clone(), &peer.latency))
        .collect();
    durations(text, CALL_SECONDS, &calls)
}

fn numbers<T>(
    text: &mut String,
    kind: &str,
    numbers: &[Number<T>],
    of: &[(Labels<'_>, &T)],
) -> fmt::Result {
    for &(name, meaning, number) in numbers {
        head(text, (name, meaning), kind)?;
        for (labels, counted) in of {
            line(text, name, "", labels, number(counted))?;
        }
    }
    Ok(())
}

fn durations(text: &mut String, series: Series, of: &[(Labels<'_>, &Latency)]) -> fmt::Result {
    head(text, series, "histogram")?;
    for (labels, latency) in of {
        for (end, count) in latency.shorter_than() {
            let end = end.as_secs_f64().to_string();
            let labels = [labels.as_slice(), &[("le", &*end)]].concat();
            line(text, series.0, "_bucket", &labels, count)?;
        }
        let labels_of_all = [labels.as_slice(), &[("le", "+Inf")]].concat();
        line(text, series.0, "_bucket", &labels_of_all, latency.count())?;
        line(text, series.0, "_sum", labels, latency.sum().as_secs_f64())?;
        line(text, series.0, "_count", labels, latency.count())?;
    }
    Ok(())
}

fn head(text: &mut String, (name, meaning): Series, kind: &str) -> fmt::Result {
    write!(text, "# HELP {name} {meaning}\n# TYPE {name} {kind}\n")
}

fn line(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: &[(&'static str, &str)],
    value: impl fmt::Display,
) -> fmt::Result {
    write!(text, "{name}{suffix}")?;
    for (position, (label, of)) in labels.iter().enumerate() {
        let before = if position == 0 { '{' } else { ',' };
        write!(text, "{before}{label}=\"")?;
        for letter in of.chars() {
            match letter {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                letter => text.push(letter),
            }
        }
        text.push('"');
    }
    let end = if labels.is_empty() { "" } else { "}" };
    writeln!(text, "{end} {value}")
}

#[cfg(test)]
mod tests {
    use crate::{Group, Node, Value};

    fn text(name: &str) -> String {
        let node = Node::new("http://127.0.0.1:1").unwrap();
        let group: Group = node
            .group_builder(name, 1 << 20)
            .build(|key| Ok(Value::from(key)))
            .unwrap();
        group.get("a").unwrap();
        group.get("a").unwrap();
        node.prometheus()
    }

    #[test]
    fn numbers_and_durations_have_their_labels() {
        let text = text("g");
        let has = |line: &str| assert!(text.lines().any(|other| other == line), "{line}: {text}");
        has("# TYPE groupcache_gets_total counter");
        has("groupcache_gets_total{group=\"g\"} 2");
        has("groupcache_loads_total{group=\"g\"} 1");
        has("groupcache_peers 1");
        has("groupcache_peer_ring_share{peer=\"http://127.0.0.1:1\"} 1");
        has("groupcache_get_seconds_count{group=\"g\",outcome=\"load\"} 1");
        has("groupcache_get_seconds_bucket{group=\"g\",outcome=\"load\",le=\"+Inf\"} 1");
    }

    #[test]
    fn a_name_cannot_break_out_of_its_label() {
        let text = text("a\"}\\ 1\nb");
        let escaped = "{group=\"a\\\"}\\\\ 1\\nb\"} 2";
        assert!(text.contains(escaped), "{text}");
    }

    #[test]
    fn each_series_is_described_once_and_each_value_is_a_number() {
        let text = text("g");
        let mut described: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .collect();
        let count = described.len();
        described.sort_unstable();
        described.dedup();
        assert_eq!(described.len(), count);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (_, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
}
