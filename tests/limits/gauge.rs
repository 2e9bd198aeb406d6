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
        Gauge::read(pid).unwrap()
    }

    /// `None` once the process has ended.
    pub(crate) fn read(pid: u32) -> Option<Gauge> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.split_whitespace().next());
            number.map_or(0, |number| number.parse().unwrap())
        };
        // One that has ended and is not reaped has no memory.
        status.contains("VmRSS:").then_some(())?;
        Some(Gauge {
            rss: field("VmRSS:"),
            peak: field("VmHWM:"),
            threads: field("Threads:"),
            fds: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64,
        })
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

/// How long processors have worked for a process; nothing once it has ended.
pub(crate) fn processor_time(pid: u32) -> Duration {
    /// In which units Linux tells it, whatever its own clock does.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the process, in parentheses, may hold anything.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: f64 = ticks.filter_map(|field| field.parse::<f64>().ok()).sum();
    Duration::from_secs_f64(ticks / TICKS_PER_SECOND)
}

/// A TCP socket of this machine.
pub(crate) struct TcpSocket {
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    /// As Linux numbers the states.
    pub(crate) state: u8,
}

/// The other side has closed it, and this side has not.
pub(crate) const CLOSE_WAIT: u8 = 8;

/// All of this machine, by IPv4, also those that the process whose they are has not accepted yet.
pub(crate) fn tcp_sockets() -> Vec<TcpSocket> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let mut port = || u16::from_str_radix(fields.next()?.rsplit(':').next()?, 16).ok();
        Some(TcpSocket {
            local_port: port()?,
            remote_port: port()?,
            state: u8::from_str_radix(fields.next()?, 16).ok()?,
        })
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// How many connections to a port of this machine take something of the process that listens.
pub(crate) fn connections_to(port: u16) -> usize {
    // Those that are closed or being closed on both sides, and the one that listens, are the system's.
    const OTHERS: [u8; 3] = [6, 7, 10];
    let sockets = tcp_sockets();
    let of_port = sockets
        .iter()
        .filter(|socket| socket.local_port == port && !OTHERS.contains(&socket.state));
    of_port.count()
}

/// How long requests took.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, others: &Times) {
        self.0.extend(&others.0);
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
