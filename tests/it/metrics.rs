//! What a recorder of the `metrics` facade gets to see.

use std::time::Duration;

use groupcache_sync::{CircuitState, Clock, Fault, LoadError, Metrics};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::cluster::{Cluster, GROUP, address, value_of};

fn number(text: &str, series: &str) -> f64 {
    let mut lines = text.lines();
    let number = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let number = number.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    number.parse().unwrap()
}

/// Runs `test` with a recorder for this thread alone.
fn recorded(test: impl FnOnce(&PrometheusHandle)) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let exporter = recorder.handle();
    metrics::with_local_recorder(&recorder, || test(&exporter));
}

fn of_group(name: &str) -> String {
    format!("groupcache_{name}{{group=\"{GROUP}\"}}")
}

fn of_peer(name: &str, index: usize) -> String {
    format!("groupcache_peer_{name}{{peer=\"{}\"}}", address(index))
}

#[test]
fn what_is_published_is_what_is_counted() {
    let cluster = Cluster::with(
        2,
        Clock::manual(),
        |node| node,
        |group| group,
        |key| match key.chars().last() {
            Some('0') => Err(LoadError::NotFound),
            Some('1') => Err("no".into()),
            _ => Ok(value_of(key)),
        },
    );
    recorded(|exporter| {
        let mut metrics = Metrics::new(&cluster.nodes[0]);
        for round in 1..4 {
            for at in 0..100 * round {
                let _ = cluster.groups[0].get(&(at % 60).to_string());
            }
            cluster.groups[0].remove("7").unwrap();
            metrics.publish();
            let text = exporter.render();
            let stats = cluster.groups[0].stats();
            assert!(stats.main_hits > 0 && stats.fetches > 0 && stats.load_errors > 0);
            for (name, count) in [
                ("gets_total", stats.gets),
                ("main_hits_total", stats.main_hits),
                ("leads_total", stats.leads),
                ("loads_total", stats.loads),
                ("load_errors_total", stats.load_errors),
                ("fetches_total", stats.fetches),
                ("removes_total", stats.removes),
                ("main_items", stats.main_items),
                ("main_bytes", stats.main_bytes),
                ("capacity_bytes", stats.capacity_bytes),
                ("overhead_bytes", stats.overhead_bytes),
                ("flights", 0),
            ] {
                assert_eq!(number(&text, &of_group(name)), count as f64, "{name}");
            }
            let latencies = cluster.groups[0].latencies();
            for (outcome, latency) in [
                ("peer", latencies.peer),
                ("load", latencies.load),
                ("not_found", latencies.not_found),
                ("failed", latencies.failed),
            ] {
                let labels = format!("{{group=\"{GROUP}\",outcome=\"{outcome}\"}}");
                let series = format!("groupcache_get_seconds_count{labels}");
                assert!(latency.count() > 0, "{outcome}");
                assert_eq!(number(&text, &series), latency.count() as f64, "{outcome}");
            }
            let peer = cluster.nodes[0].stats().peers.into_iter();
            let peer = peer.map(|peer| peer.calls).sum::<u64>() as f64;
            assert_eq!(number(&text, &of_peer("calls_total", 1)), peer);
        }
    });
}

#[test]
fn durations_are_published_to_a_sixteenth() {
    let clock = Clock::manual();
    let slow = clock.clone();
    let cluster = Cluster::with(
        1,
        clock,
        |node| node,
        |group| group,
        move |key| {
            slow.advance(Duration::from_millis(key.parse().unwrap()));
            Ok(value_of(key))
        },
    );
    recorded(|exporter| {
        let mut metrics = Metrics::new(&cluster.nodes[0]);
        let (mut sum, mut count) = (0.0, 0.0);
        for millis in [1, 3, 20, 77, 1_234, 9_999] {
            cluster.groups[0].get(&millis.to_string()).unwrap();
            metrics.publish();
            (sum, count) = (sum + f64::from(millis) / 1e3, count + 1.0);
            let text = exporter.render();
            assert_eq!(number(&text, &of_group("loader_seconds_count")), count);
            let published = number(&text, &of_group("loader_seconds_sum"));
            assert!(
                (published / sum - 1.0).abs() <= 1.0 / 16.0,
                "{published} {sum}"
            );
        }
    });
}

#[test]
fn the_gauges_of_what_is_gone_become_zero() {
    let cluster = Cluster::new(3);
    let node = &cluster.nodes[0];
    recorded(|exporter| {
        let mut metrics = Metrics::new(node);
        cluster.groups[0].get("a").unwrap();
        cluster.network.set_fault(&address(2), Some(Fault::Refuses));
        for at in 0..100 {
            cluster.groups[0].get(&at.to_string()).unwrap();
        }
        metrics.publish();
        let text = exporter.render();
        let unreachable = node.stats().peers.into_iter();
        let unreachable = unreachable
            .filter(|peer| peer.circuit == CircuitState::Open)
            .count();
        assert_eq!(unreachable, 1);
        assert_eq!(number(&text, &of_peer("circuit_open", 2)), 1.0);
        assert_eq!(number(&text, &of_peer("circuit_open", 1)), 0.0);
        assert!(number(&text, &of_peer("ring_share", 2)) > 0.2);
        assert!(number(&text, &of_group("main_items")) > 0.0);
        let errors = number(&text, &of_peer("call_errors_total", 2));
        assert!(errors > 0.0);

        node.remove_peer(address(2).as_str()).unwrap();
        assert!(node.remove_group(GROUP));
        metrics.publish();
        let text = exporter.render();
        assert_eq!(number(&text, &of_peer("circuit_open", 2)), 0.0);
        assert_eq!(number(&text, &of_peer("ring_share", 2)), 0.0);
        assert_eq!(number(&text, &of_group("main_items")), 0.0);
        assert_eq!(number(&text, &of_peer("call_errors_total", 2)), errors);
        assert_eq!(number(&text, "groupcache_peers"), 2.0);
    });
}
