//! `LogThrottle`: a report of what may happen all the time is logged once in ten seconds.

use std::time::{Duration, Instant};

use crate::runtime::sync::Mutex;

/// How long no report is logged after one was.
const INTERVAL: Duration = Duration::from_secs(10);

/// Limits reports of one kind.
#[derive(Default)]
pub(crate) struct LogThrottle(Mutex<State>);

#[derive(Default)]
struct State {
    last_report: Option<Instant>,
    /// How many reports were suppressed since then.
    suppressed: u64,
}

impl LogThrottle {
    /// Whether to log a report now: if so, gives how many were suppressed since the last one.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let is_recent = |report: Instant| now.saturating_duration_since(report) < INTERVAL;
        if state.last_report.is_some_and(is_recent) {
            state.suppressed += 1;
            return None;
        }
        state.last_report = Some(now);
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_in_ten_seconds_counts_those_that_were_suppressed() {
        let throttle = LogThrottle::default();
        let start = Instant::now();
        assert_eq!(throttle.admit(start), Some(0));
        for _ in 0..5 {
            assert_eq!(throttle.admit(start + Duration::from_millis(9_999)), None);
        }
        assert_eq!(throttle.admit(start + INTERVAL), Some(5));
        assert_eq!(throttle.admit(start + INTERVAL), None);
        assert_eq!(throttle.admit(start + 3 * INTERVAL), Some(1));
    }
}
