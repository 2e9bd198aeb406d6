//! The `prometheus` example, scraped.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use crate::process::example;

/// The example, running. It ends with its input.
struct Exporter {
    child: Child,
    /// Where it is scraped.
    url: String,
}

impl Exporter {
    /// Takes a port that is free; where another process is quicker, another one.
    fn start() -> Exporter {
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = free.local_addr().unwrap().to_string();
            drop(free);
            let mut child = Command::new(example("prometheus"))
                .arg(&address)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut url = String::new();
            let stdout = child.stdout.take().unwrap();
            BufReader::new(stdout).read_line(&mut url).unwrap();
            if url.ends_with('\n') {
                let url = url.trim_end().to_owned();
                return Exporter { child, url };
            }
            child.wait().unwrap();
        }
        panic!("it never started");
    }

    fn ask(&self, path: &str) -> String {
        let url = self.url.replace("/metrics", path);
        let mut answer = ureq::get(url).call().unwrap();
        answer.body_mut().read_to_string().unwrap()
    }

    /// The numbers behind `series` in a scrape.
    fn numbers<const N: usize>(&self, series: [&str; N]) -> [f64; N] {
        let text = self.ask("/metrics");
        series.map(|series| {
            let mut lines = text.lines();
            let number = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            number
                .unwrap_or_else(|| panic!("no {series} in\n{text}"))
                .parse()
                .unwrap()
        })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let ended = self.child.wait().unwrap();
        assert!(ended.success() || std::thread::panicking(), "{ended}");
    }
}

#[test]
fn a_scrape_shows_what_happened_and_the_next_one_what_happened_since() {
    let exporter = Exporter::start();
    let series = [
        "groupcache_gets_total{group=\"pages\"}",
        "groupcache_main_hits_total{group=\"pages\"}",
        "groupcache_loads_total{group=\"pages\"}",
        "groupcache_main_items{group=\"pages\"}",
        "groupcache_get_seconds_count{group=\"pages\",outcome=\"load\"}",
        "groupcache_loader_seconds_bucket{group=\"pages\",le=\"0.001\"}",
        "groupcache_loader_seconds_bucket{group=\"pages\",le=\"+Inf\"}",
        "groupcache_peers",
    ];
    for key in ["a", "a", "a", "b"] {
        assert_eq!(
            exporter.ask(&format!("/{key}")),
            format!("the page {key}\n")
        );
    }
    // Its loader takes 2 ms.
    let first = exporter.numbers(series);
    assert_eq!(first, [4.0, 2.0, 2.0, 2.0, 2.0, 0.0, 2.0, 1.0]);
    assert_eq!(exporter.numbers(series), first);
    for key in ["b", "c"] {
        exporter.ask(&format!("/{key}"));
    }
    let second = exporter.numbers(series);
    assert_eq!(second, [6.0, 3.0, 3.0, 3.0, 3.0, 0.0, 3.0, 1.0]);
    let text = exporter.ask("/metrics");
    for kind in [
        "# TYPE groupcache_gets_total counter",
        "# TYPE groupcache_main_bytes gauge",
        "# TYPE groupcache_get_seconds histogram",
        "# HELP groupcache_gets_total Local gets",
    ] {
        assert!(text.contains(kind), "{kind}\n{text}");
    }
}
