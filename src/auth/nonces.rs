//! `Nonces`: the changes of the last minutes, so that none is made twice.
//!
//! What is remembered is bounded. Where it is too much, the signer who has most of it loses his oldest,
//! and changes of his that were signed before are refused: one whose clock is ahead, or who changes very
//! much, does not have the changes of others refused.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::auth::signature::{Refused, Signature, WINDOW};
use crate::runtime::sync::RandomState;

/// The most changes that are remembered.
const MOST: usize = 1 << 17;

/// The most signers that are told apart. All others are taken for one.
const MOST_SIGNERS: usize = 1_024;

/// How often it is looked for what is too old.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Nonces {
    /// By the half of a nonce that tells processes apart.
    signers: HashMap<u64, Signer, RandomState>,
    others: Signer,
    count: usize,
    /// Of changes signed before this, nothing is known. It never goes back, also if the clock does.
    horizon: Duration,
    /// The latest that the clock has said.
    latest: Duration,
    /// When it was last looked for what is too old.
    cleared: Duration,
}

#[derive(Debug, Default)]
struct Signer {
    seen: BTreeSet<(Duration, u128)>,
    /// Of his changes signed before this, nothing is known.
    horizon: Duration,
    /// Whether there were others when he was first told apart: he may have been one of them.
    was_other: bool,
}

impl Nonces {
    /// Takes a change whose code is right and whose time is not over, once.
    pub(crate) fn take(&mut self, signature: &Signature, now: Duration) -> Result<(), Refused> {
        self.forget(now);
        self.look(signature)?;
        let seed = seed_of(signature);
        let has_room = self.signers.len() < MOST_SIGNERS || self.signers.contains_key(&seed);
        let was_other = self.others.is_of_use(self.horizon);
        let signer = match has_room {
            true => self.signers.entry(seed).or_insert_with(|| Signer {
                was_other,
                ..Signer::default()
            }),
            false => &mut self.others,
        };
        signer.seen.insert((signature.time, signature.nonce));
        self.count += 1;
        if self.count > MOST {
            self.forget_oldest_of_greatest();
        }
        Ok(())
    }

    /// Whether a change would be taken, as far as is known before all of it is here.
    pub(crate) fn look(&self, signature: &Signature) -> Result<(), Refused> {
        if signature.time < self.horizon {
            return Err(Refused::Forgotten);
        }
        match self.signers.get(&seed_of(signature)) {
            Some(signer) if !signer.was_other => signer.look(signature),
            signer => {
                let mut both = signer.into_iter().chain([&self.others]);
                both.try_for_each(|signer| signer.look(signature))
            }
        }
    }

    /// Whether the clock was set back so far that changes of peers whose clocks are right would be
    /// refused as forgotten for long.
    pub(crate) fn is_set_back(&self, now: Duration) -> bool {
        self.latest.saturating_sub(now) > WINDOW / 2
    }

    fn forget(&mut self, now: Duration) {
        self.latest = self.latest.max(now);
        self.horizon = self.horizon.max(now.saturating_sub(WINDOW));
        if self.latest < self.cleared + PAUSE {
            return;
        }
        self.cleared = self.latest;
        let horizon = self.horizon;
        self.signers.retain(|_, signer| signer.forget(horizon));
        self.others.forget(horizon);
        let known = self.signers.values().map(|signer| signer.seen.len());
        self.count = known.sum::<usize>() + self.others.seen.len();
    }

    fn forget_oldest_of_greatest(&mut self) {
        let signers = self.signers.values_mut().chain([&mut self.others]);
        let greatest = signers.max_by_key(|signer| signer.seen.len());
        let oldest = greatest.and_then(|signer| {
            let (time, _) = signer.seen.pop_first()?;
            signer.horizon = signer.horizon.max(time + Duration::from_millis(1));
            Some(())
        });
        self.count -= usize::from(oldest.is_some());
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

impl Signer {
    fn look(&self, signature: &Signature) -> Result<(), Refused> {
        if signature.time < self.horizon {
            return Err(Refused::Forgotten);
        }
        match self.seen.contains(&(signature.time, signature.nonce)) {
            true => Err(Refused::Repeated),
            false => Ok(()),
        }
    }

    /// Forgets what is older. Tells whether there is still something to know of it.
    fn forget(&mut self, horizon: Duration) -> bool {
        self.seen = self.seen.split_off(&(horizon, 0));
        self.is_of_use(horizon)
    }

    fn is_of_use(&self, horizon: Duration) -> bool {
        !self.seen.is_empty() || self.horizon > horizon
    }
}

/// What tells the process of a signer apart.
fn seed_of(signature: &Signature) -> u64 {
    (signature.nonce >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::signature::check_time;

    const NOW: Duration = Duration::from_secs(1_700_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn signature(time: Duration, signer: u64, number: usize) -> Signature {
        Signature {
            time,
            nonce: u128::from(signer) << 64 | number as u128,
            code: None,
            old: None,
        }
    }

    #[test]
    fn a_change_is_taken_once_and_forgotten_when_its_time_is_over() {
        let mut nonces = Nonces::default();
        let first = signature(NOW, 1, 1);
        assert_eq!(nonces.take(&first, NOW), Ok(()));
        assert_eq!(nonces.take(&first, NOW), Err(Refused::Repeated));
        assert_eq!(nonces.take(&signature(NOW, 1, 2), NOW), Ok(()));
        assert_eq!(nonces.take(&signature(NOW, 2, 1), NOW), Ok(()));
        let later = NOW + WINDOW + SECOND;
        assert_eq!(nonces.take(&signature(later, 1, 3), later), Ok(()));
        assert_eq!(nonces.len(), 1);
    }

    #[test]
    fn a_replay_after_the_clock_was_set_back_is_refused() {
        let mut nonces = Nonces::default();
        let recorded = signature(NOW, 1, 1);
        assert_eq!(nonces.take(&recorded, NOW), Ok(()));
        // Five minutes and a second later another change comes, and the first is forgotten.
        let later = NOW + WINDOW + SECOND;
        assert_eq!(nonces.take(&signature(later, 1, 2), later), Ok(()));
        // The clock is set back by two seconds: the recorded one is in time again.
        let back = later - 2 * SECOND;
        assert_eq!(check_time(recorded.time, back), Ok(()));
        assert_eq!(nonces.take(&recorded, back), Err(Refused::Forgotten));
        assert!(!nonces.is_set_back(back), "new changes are in time");
        assert!(nonces.is_set_back(later - WINDOW), "or would be refused");
    }

    #[test]
    fn what_cannot_be_remembered_is_refused_rather_than_taken_twice() {
        let mut nonces = Nonces::default();
        let at = |at: usize| signature(NOW + Duration::from_millis(at as u64), 1, 0);
        for number in 0..MOST + 10 {
            assert_eq!(nonces.take(&at(number), NOW), Ok(()));
        }
        assert_eq!(nonces.len(), MOST);
        assert_eq!(nonces.take(&at(3), NOW), Err(Refused::Forgotten));
        assert_eq!(nonces.take(&at(10), NOW), Err(Refused::Repeated));
    }

    #[test]
    fn one_who_changes_much_with_a_clock_that_is_ahead_has_no_change_of_others_refused() {
        let mut nonces = Nonces::default();
        let known = signature(NOW, 2, 0);
        assert_eq!(nonces.take(&known, NOW), Ok(()));
        for number in 0..MOST + 10 {
            let ahead = NOW + 60 * SECOND + Duration::from_micros(number as u64);
            assert_eq!(nonces.take(&signature(ahead, 1, number), NOW), Ok(()));
        }
        assert_eq!(nonces.take(&signature(NOW, 2, 1), NOW), Ok(()));
        assert_eq!(nonces.take(&known, NOW), Err(Refused::Repeated));
    }

    #[test]
    fn however_many_signers_there_are_those_who_were_known_before_are_told_apart() {
        let mut nonces = Nonces::default();
        let known = signature(NOW, 0, 0);
        assert_eq!(nonces.take(&known, NOW), Ok(()));
        for number in 1..MOST + 10 {
            let ahead = NOW + 60 * SECOND + Duration::from_micros(number as u64);
            let change = signature(ahead, number as u64, 0);
            assert_eq!(nonces.take(&change, NOW), Ok(()), "{number}");
        }
        assert_eq!(nonces.take(&signature(NOW, 0, 1), NOW), Ok(()));
        assert_eq!(nonces.take(&known, NOW), Err(Refused::Repeated));
    }

    #[test]
    fn signers_who_are_not_told_apart_make_no_change_twice_either() {
        let mut nonces = Nonces::default();
        for signer in 0..2 * MOST_SIGNERS as u64 {
            let change = signature(NOW, signer, 0);
            assert_eq!(nonces.take(&change, NOW), Ok(()));
            assert_eq!(nonces.take(&change, NOW), Err(Refused::Repeated));
        }
        assert_eq!(nonces.signers.len(), MOST_SIGNERS);
        // Their first change is too old by now, and they are told apart.
        let later = NOW + WINDOW + SECOND;
        let last = 2 * MOST_SIGNERS as u64 - 1;
        assert_eq!(nonces.take(&signature(later, last, 1), later), Ok(()));
        let repeated = nonces.take(&signature(NOW, last, 0), later);
        assert_eq!(repeated, Err(Refused::Forgotten));
    }
}
