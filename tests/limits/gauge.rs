//! What a process takes of the system, and how long its clients wait.

use std::fs;
use std::time::Duration;

/// What a process takes at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gauge {
    /// Memory, in KiB.
    pub(crate) rss: u64,
    /// The most memory since it began, in KiB.
    pub(crate) peak: u64,
    pub(crate) threads: u64,
    pub(crate) fds: u64,
}

impl Gauge {
    /// Of a process that runs.
    pub(crate) fn of(pid: u32) -> Gauge {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            number.map_or(0, |number| number.parse().unwrap())
        };
        Gauge {
            rss: field("VmRSS:"),
            peak: field("VmHWM:"),
            threads: field("Threads:"),
            fds: fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64,
        }
    }

    /// The larger of each.
    pub(crate) fn most(self, other: Gauge) -> Gauge {
        Gauge {
            rss: self.rss.max(other.rss),
            peak: self.peak.max(other.peak),
            threads: self.threads.max(other.threads),
            fds: self.fds.max(other.fds),
        }
    }
}

/// How long requests took.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The time within which so many of a thousand were answered; zero if nobody asked.
    pub(crate) fn of_thousand(&mut self, count: usize) -> Duration {
        self.0.sort_unstable();
        let at = (self.0.len() * count / 1_000).min(self.0.len().saturating_sub(1));
        self.0.get(at).copied().unwrap_or_default()
    }
}

/// How much `y` grows with `x`, by least squares.
pub(crate) fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let both: f64 = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum();
    both / points
        .iter()
        .map(|point| (point.0 - x).powi(2))
        .sum::<f64>()
}
