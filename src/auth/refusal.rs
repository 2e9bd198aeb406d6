//! `Refused`: why a request is refused, and how far its time may be from the time of this node.

use std::fmt;
use std::time::Duration;

/// How far the clocks of two peers may be apart for a change, with the time that the request takes.
pub(crate) const WINDOW: Duration = Duration::from_secs(300);

/// The same for a read. A read that was recorded can be repeated for this time.
pub(crate) const READ_WINDOW: Duration = Duration::from_secs(30);

const _: () = assert!(READ_WINDOW.as_secs() <= WINDOW.as_secs());

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The request is not signed.
    Unsigned,
    /// The code was made with another secret than those of this node, or over another request.
    WrongCode,
    /// The code is one of the legacy scheme, which this node does not accept.
    Legacy,
    /// Signed this long ago by the clock of this node, and how long ago is accepted.
    Late(Duration, Duration),
    /// Signed this far in the future by the clock of this node, and how far is accepted.
    Early(Duration, Duration),
    /// The change was accepted already.
    Repeated,
    /// There are more changes than are remembered, and this one is too old to tell whether it was
    /// accepted already.
    Forgotten,
    /// The change is signed for another process than this one, which has this boot id.
    StaleBoot(u64),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Unsigned => write!(
                f,
                "the request is not signed: give the node that asks the secret of this cluster"
            ),
            Refused::WrongCode => write!(
                f,
                "the signature is wrong: both nodes must have a secret in common, and this one's \
                 id must be the one in the list of the other"
            ),
            Refused::Legacy => write!(
                f,
                "the signature is one of an older version: switch on legacy_signatures on the new \
                 nodes until all are new"
            ),
            Refused::Late(skew, max) => write!(
                f,
                "the clock of the node that asks is {:.1} s behind this one's, more than {}: set \
                 the clocks right",
                skew.as_secs_f64(),
                max.as_secs()
            ),
            Refused::Early(skew, max) => write!(
                f,
                "the clock of the node that asks is {:.1} s ahead of this one's, more than {}: set \
                 the clocks right",
                skew.as_secs_f64(),
                max.as_secs()
            ),
            Refused::Repeated => write!(f, "the change was made already: it is not made twice"),
            Refused::Forgotten => write!(
                f,
                "more changes come in than can be told apart, and this one was signed before many \
                 of them: send it again"
            ),
            Refused::StaleBoot(_) => write!(
                f,
                "the change was signed for another process than this one: sign it for this one, and \
                 send it again"
            ),
        }
    }
}

/// Checks that a change that was signed at `time` arrives in time.
pub(crate) fn check_time(time: Duration, now: Duration) -> Result<(), Refused> {
    check_within(time, now, WINDOW)
}

/// Checks that a request that was signed at `time` is no more than `max` from `now`.
pub(crate) fn check_within(time: Duration, now: Duration, max: Duration) -> Result<(), Refused> {
    let (late, early) = (now.saturating_sub(time), time.saturating_sub(now));
    if late > max {
        return Err(Refused::Late(late, max));
    }
    if early > max {
        return Err(Refused::Early(early, max));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_763_900_000);

    #[test]
    fn a_refusal_names_the_skew() {
        let (ahead, behind) = (NOW + Duration::from_millis(300_500), NOW - WINDOW);
        assert_eq!(check_time(behind, NOW), Ok(()));
        let refused = check_time(ahead, NOW).unwrap_err();
        assert!(refused.to_string().contains("300.5 s ahead"), "{refused}");
        let refused = check_time(NOW, ahead).unwrap_err();
        assert!(refused.to_string().contains("300.5 s behind"), "{refused}");
        assert!(check_within(NOW, NOW + READ_WINDOW, READ_WINDOW).is_ok());
        let refused = check_within(NOW, NOW + 2 * READ_WINDOW, READ_WINDOW).unwrap_err();
        assert!(refused.to_string().contains("more than 30:"), "{refused}");
    }
}
