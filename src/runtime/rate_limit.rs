//! `RateLimit`: how often something may be done that anybody can request.

use std::time::{Duration, Instant};

use crate::runtime::sync::Mutex;

/// The interval in which it is done if it is requested all the time.
const INTERVAL: Duration = Duration::from_millis(500);

/// How many times it may be done in immediate succession after a pause.
const BURST: u32 = 4;

const _: () = assert!(BURST > 0);

/// Limits work that serves all earlier requests at once: requests that come too often are deferred,
/// and then served together. The generic cell rate algorithm (GCRA, ITU-T I.371).
#[derive(Default)]
pub(crate) struct RateLimit(Mutex<State>);

#[derive(Default)]
struct State {
    /// The theoretical arrival time: when the work done so far is within one time for each
    /// [`INTERVAL`].
    theoretical_arrival: Option<Instant>,
    /// When the deferred work is due.
    due: Option<Instant>,
}

impl RateLimit {
    /// Admits the caller to do the work now. An error tells when the work is due.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Instant> {
        let mut state = self.0.lock();
        let from = state.theoretical_arrival.map_or(now, |at| at.max(now));
        let ahead = from.saturating_duration_since(now);
        let tolerance = (BURST - 1) * INTERVAL;
        match now.checked_add(ahead.saturating_sub(tolerance)) {
            Some(due) if due > now => {
                state.due = Some(due);
                Err(due)
            }
            _ => {
                state.theoretical_arrival = from.checked_add(INTERVAL);
                state.due = None;
                Ok(())
            }
        }
    }

    /// When the deferred work is due, if there is any.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.0.lock().due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_requested_all_the_time_is_done_in_a_burst_and_then_once_an_interval() {
        let (rate_limit, start) = (RateLimit::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let done = (0..10_000).filter(|&millis| rate_limit.admit(at(millis)).is_ok());
        let mut expected = vec![0, 1, 2, 3];
        expected.extend((1..20).map(|intervals| 500 * intervals));
        assert_eq!(done.collect::<Vec<u64>>(), expected);
    }

    #[test]
    fn deferred_work_is_due_until_it_is_done() {
        let (rate_limit, now) = (RateLimit::default(), Instant::now());
        for _ in 0..BURST {
            assert_eq!(rate_limit.admit(now), Ok(()));
            assert_eq!(rate_limit.due(), None);
        }
        let due = rate_limit.admit(now).unwrap_err();
        assert_eq!(due, now + INTERVAL);
        assert_eq!(rate_limit.due(), Some(due));
        assert_eq!(rate_limit.admit(due), Ok(()));
        assert_eq!(rate_limit.due(), None);
        assert!((0..BURST).all(|_| rate_limit.admit(due + BURST * INTERVAL).is_ok()));
    }
}
