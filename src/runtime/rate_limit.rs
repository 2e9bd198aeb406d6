//! `RateLimit`: how often something may be done that anybody can ask for.

use std::time::{Duration, Instant};

use crate::runtime::sync::Mutex;

/// How often it is done where it is asked for without end.
const PAUSE: Duration = Duration::from_millis(500);

/// How many times it may be done at once, after it was not asked for.
const AT_ONCE: u32 = 4;

/// Something that costs work and does at once all that was asked for before: what is asked for too
/// often is put off, and then done once for all.
#[derive(Default)]
pub(crate) struct RateLimit(Mutex<State>);

#[derive(Default)]
struct State {
    /// When all that was done would be made up for, one [`PAUSE`] for each time.
    made_up_for: Option<Instant>,
    /// When that is due which was put off.
    due: Option<Instant>,
}

impl RateLimit {
    /// Whether it is to be done now, by the caller. If not, gives when it is due.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Instant> {
        let mut state = self.0.lock();
        let from = state.made_up_for.map_or(now, |at| at.max(now));
        let debt = from.saturating_duration_since(now);
        let most = (AT_ONCE - 1) * PAUSE;
        match now.checked_add(debt.saturating_sub(most)) {
            Some(due) if due > now => {
                state.due = Some(due);
                Err(due)
            }
            _ => {
                state.made_up_for = from.checked_add(PAUSE);
                state.due = None;
                Ok(())
            }
        }
    }

    /// When that is due which was put off, if anything was.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.0.lock().due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_without_end_is_done_some_times_and_then_once_a_pause() {
        let (rate_limit, start) = (RateLimit::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let done = (0..10_000).filter(|&millis| rate_limit.admit(at(millis)).is_ok());
        let mut expected = vec![0, 1, 2, 3];
        expected.extend((1..20).map(|pauses| 500 * pauses));
        assert_eq!(done.collect::<Vec<u64>>(), expected);
    }

    #[test]
    fn what_was_put_off_is_due_until_it_is_done() {
        let (rate_limit, now) = (RateLimit::default(), Instant::now());
        for _ in 0..AT_ONCE {
            assert_eq!(rate_limit.admit(now), Ok(()));
            assert_eq!(rate_limit.due(), None);
        }
        let due = rate_limit.admit(now).unwrap_err();
        assert_eq!(due, now + PAUSE);
        assert_eq!(rate_limit.due(), Some(due));
        assert_eq!(rate_limit.admit(due), Ok(()));
        assert_eq!(rate_limit.due(), None);
        assert!((0..AT_ONCE).all(|_| rate_limit.admit(due + AT_ONCE * PAUSE).is_ok()));
    }
}
