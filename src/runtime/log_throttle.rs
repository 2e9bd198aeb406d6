//! `LogThrottle`: what is worth saying, and may happen all the time, is said once in ten seconds.

use std::time::{Duration, Instant};

use crate::runtime::sync::Mutex;

/// How long nothing is said after something was.
const INTERVAL: Duration = Duration::from_secs(10);

/// Keeps reports of one kind apart.
#[derive(Default)]
pub(crate) struct LogThrottle(Mutex<State>);

#[derive(Default)]
struct State {
    said: Option<Instant>,
    kept: u64,
}

impl LogThrottle {
    /// Whether to report what happens now: if so, gives how often it happened since the last report
    /// and was not reported.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let is_quiet = |said: Instant| now.saturating_duration_since(said) < INTERVAL;
        if state.said.is_some_and(is_quiet) {
            state.kept += 1;
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_report_in_ten_seconds_tells_of_those_that_were_not_made() {
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
