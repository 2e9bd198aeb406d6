//! A node that Prometheus can scrape, on the port that it has for its peers and for its users:
//! `cargo run --example prometheus -- 127.0.0.1:7001`, then `curl 127.0.0.1:7001/some-key` and
//! `curl 127.0.0.1:7001/metrics`. It ends with its standard input.
#![allow(clippy::print_stdout)] // shows where to ask

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use groupcache_sync::{Group, HttpResponse, Metrics, Node, Server, Value};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

/// The bounds of the buckets that the histograms are shown in.
const SECONDS: [f64; 9] = [1e-5, 1e-4, 1e-3, 5e-3, 0.02, 0.1, 0.5, 2.0, 10.0];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addresses: Vec<String> = std::env::args().skip(1).collect();
    let mine = addresses.first().ok_or("give an address, host:port")?;

    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .build_recorder();
    let exporter = recorder.handle();
    metrics::set_global_recorder(recorder)?;

    let node = Node::new(&format!("http://{mine}"))?;
    let group: Group = node.group_builder("pages", 64 << 20).build(|key| {
        std::thread::sleep(Duration::from_millis(2)); // such as a query
        Ok(Value::from(format!("the page {key}\n")))
    })?;
    let metrics = Mutex::new(Metrics::new(&node));
    let _server = Server::builder(&node)
        .fallback(move |request| match request.path() {
            "/metrics" => {
                let mut metrics = metrics.lock().unwrap_or_else(PoisonError::into_inner);
                metrics.publish();
                HttpResponse::text(200, &exporter.render())
            }
            path => match group.get(path.trim_start_matches('/')) {
                Ok(page) => HttpResponse::new(200).body(page),
                Err(error) => HttpResponse::text(500, &error.to_string()),
            },
        })
        .bind(mine)?;
    node.set_peers(addresses.iter().map(|address| format!("http://{address}")))?;

    println!("http://{mine}/metrics");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
