//! The tables at the end.

use std::fmt::{self, Formatter};
use std::time::Duration;

use groupcache_sync::GroupStats;

use crate::ledger::{Ledger, Phase};
use crate::replay::{LEAVING, Played};
use crate::tally::{Histogram, PhaseTally, SOURCES};

/// How the trace would have gone without a cache: estimated from its beginning, which is measured.
pub(crate) struct Uncached {
    pub(crate) requests: u64,
    pub(crate) latencies: Histogram,
    pub(crate) took: Duration,
}

pub(crate) struct Report<'a> {
    pub(crate) uncached: &'a Uncached,
    pub(crate) played: &'a Played,
    pub(crate) ledger: &'a Ledger,
    /// What each node's group holds at the end.
    pub(crate) nodes: &'a [GroupStats],
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_savings(f)?;
        self.write_keys(f)?;
        self.write_phases(f)?;
        self.write_sources(f)?;
        self.write_latencies(f)?;
        self.write_verdict(f)
    }
}

impl Report<'_> {
    /// Whether every request was answered, and rightly.
    pub(crate) fn is_good(&self) -> bool {
        let total = self.played.tally.total();
        total.failed == 0 && total.wrong == 0
    }

    fn write_savings(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let requests = self.played.tally.total().requests();
        let loads = self.ledger.all_loads();
        let took = self.took(0, self.played.milestones.len() - 1);
        let scale = requests as f64 / self.uncached.requests.max(1) as f64;
        let uncached = self.uncached.took.mul_f64(scale);
        let row = |name: &str, loads: u64, took: Duration| {
            let saved = 1.0 - loads as f64 / requests.max(1) as f64;
            vec![
                name.to_owned(),
                grouped(requests),
                grouped(loads),
                format!("{:.1} %", saved * 100.0),
                seconds(took),
                per_second(requests, took),
            ]
        };
        let without = format!(
            "without the cache (estimated from {})",
            grouped(self.uncached.requests)
        );
        write_table(
            f,
            &[
                "run",
                "requests",
                "loads",
                "loads saved",
                "seconds",
                "per second",
            ],
            &[
                row(&without, requests, uncached),
                row("with the cache", loads, took),
            ],
        )
    }

    fn write_keys(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let again: u64 = Phase::ALL
            .map(|phase| self.ledger.again(phase))
            .iter()
            .sum();
        writeln!(
            f,
            "{} distinct keys: {} loads of new keys, {} again ({} of them while all nodes were up)\n",
            grouped(self.played.distinct),
            grouped(self.ledger.all_loads() - again),
            grouped(again),
            grouped(self.ledger.again(Phase::Before)),
        )
    }

    fn write_phases(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let rows: Vec<Vec<String>> = Phase::ALL
            .into_iter()
            .take(self.played.milestones.len() - 1)
            .map(|phase| self.phase_row(phase))
            .collect();
        let header = [
            "phase",
            "requests",
            "seconds",
            "per second",
            "loads",
            "loaded again",
            "failed",
            "wrong",
            "peer errors",
            "p50",
            "p99",
        ];
        write_table(f, &header, &rows)
    }

    fn phase_row(&self, phase: Phase) -> Vec<String> {
        let index = phase as usize;
        let name = match phase {
            Phase::Before => "all nodes up".to_owned(),
            Phase::Down => format!("node {} down", LEAVING + 1),
            Phase::Back => format!("node {} back", LEAVING + 1),
        };
        let tally = &self.played.tally.phases[index];
        let milestones = &self.played.milestones;
        let peer_errors = milestones[index + 1].peer_errors - milestones[index].peer_errors;
        let took = self.took(index, index + 1);
        vec![
            name,
            grouped(tally.requests()),
            seconds(took),
            per_second(tally.requests(), took),
            grouped(self.ledger.loads(phase)),
            grouped(self.ledger.again(phase)),
            grouped(tally.failed),
            grouped(tally.wrong),
            grouped(peer_errors),
            percentile(&tally.all_latencies(), 50),
            percentile(&tally.all_latencies(), 99),
        ]
    }

    fn write_sources(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut header = vec!["node that was asked"];
        header.extend(SOURCES);
        header.extend(["owned values", "copies", "memory"]);
        let row = |(index, stats): (usize, &GroupStats)| {
            let mut row = vec![format!("node {}", index + 1)];
            row.extend(self.played.tally.nodes[index].map(grouped));
            row.push(grouped(stats.main_items));
            row.push(grouped(stats.hot_items));
            row.push(mebibytes(stats.main_bytes + stats.hot_bytes));
            row
        };
        let rows: Vec<Vec<String>> = self.nodes.iter().enumerate().map(row).collect();
        write_table(f, &header, &rows)
    }

    fn write_latencies(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let total: PhaseTally = self.played.tally.total();
        let row = |name: &str, latencies: &Histogram| {
            let mut row = vec![name.to_owned(), grouped(latencies.count())];
            row.extend([50, 90, 99].map(|percent| percentile(latencies, percent)));
            row
        };
        write_table(
            f,
            &["latency", "requests", "p50", "p90", "p99"],
            &[
                row("hit (main, hot)", &total.latencies_from(&["main", "hot"])),
                row(
                    "peer (and its load, if needed)",
                    &total.latencies_from(&["peer"]),
                ),
                row(
                    "load by the node that was asked",
                    &total.latencies_from(&["load"]),
                ),
                row(
                    "joined (another get's load)",
                    &total.latencies_from(&["joined"]),
                ),
                row("all, with the cache", &total.all_latencies()),
                row("all, without the cache", &self.uncached.latencies),
            ],
        )
    }

    fn write_verdict(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let total = self.played.tally.total();
        if let Some(error) = &self.played.tally.first_error {
            writeln!(f, "the first failure: {error}")?;
        }
        write!(
            f,
            "every answer was compared with the database: {} requests, {} failed, {} wrong",
            grouped(total.requests()),
            grouped(total.failed),
            grouped(total.wrong)
        )
    }

    /// The time from one milestone to another.
    fn took(&self, from: usize, to: usize) -> Duration {
        let milestones = &self.played.milestones;
        milestones[to].time - milestones[from].time
    }
}

/// Columns as wide as they need to be: the first to the left, numbers to the right.
fn write_table(f: &mut Formatter<'_>, header: &[&str], rows: &[Vec<String>]) -> fmt::Result {
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&header).chain(rows).collect();
    let width = |column: usize| all.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..header.len()).filter_map(width).collect();
    for row in &all {
        write!(f, "{:<width$}", row[0], width = widths[0])?;
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            write!(f, "  {cell:>width$}")?;
        }
        writeln!(f)?;
    }
    writeln!(f)
}

/// 1234567 as 1,234,567.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn seconds(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64())
}

fn per_second(requests: u64, took: Duration) -> String {
    grouped((requests as f64 / took.as_secs_f64()) as u64)
}

fn percentile(latencies: &Histogram, percent: u64) -> String {
    match latencies.percentile(percent) {
        None => "-".to_owned(),
        Some(latency) if latency < Duration::from_millis(1) => {
            format!("{:.1} µs", latency.as_secs_f64() * 1e6)
        }
        Some(latency) => format!("{:.1} ms", latency.as_secs_f64() * 1e3),
    }
}
