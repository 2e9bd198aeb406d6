//! `Nonces`: the changes of the last minutes, so that none is accepted twice.
//!
//! The number of remembered changes is bounded. Beyond, the oldest change of the signer with the most
//! changes is forgotten, and changes of that signer that were signed before are refused: a signer whose
//! clock is ahead, or that sends very many changes, does not have the changes of others refused.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::auth::refusal::{Refused, WINDOW};
use crate::auth::signature::Signature;
use crate::runtime::sync::RandomState;

/// The most changes that are remembered.
const MAX_CHANGES: usize = 1 << 17;

/// The most signers that are distinguished. All others count as one.
const MAX_SIGNERS: usize = 1_024;

/// The pause between two searches for changes that are too old.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(crate) struct Nonces {
    /// By the half of a nonce that distinguishes processes.
    signers: HashMap<u64, Signer, RandomState>,
    others: Signer,
    count: usize,
    /// Changes that were signed before this time are forgotten. It never goes back, also if the clock
    /// does.
    horizon: Duration,
    /// The latest time of the clock.
    latest: Duration,
    /// When changes that are too old were last searched for.
    swept: Duration,
}

#[derive(Debug, Default)]
struct Signer {
    seen: BTreeSet<(Duration, u128)>,
    /// Changes of this signer that were signed before this time are forgotten.
    horizon: Duration,
    /// Whether there were others when this signer was first distinguished: it may have been one of them.
    was_other: bool,
}

impl Nonces {
    /// Accepts a change, whose code is right and which is in time, once.
    pub(crate) fn take(&mut self, signature: &Signature, now: Duration) -> Result<(), Refused> {
        self.sweep(now);
        self.check(signature)?;
        let seed = seed_of(signature);
        let has_room = self.signers.len() < MAX_SIGNERS || self.signers.contains_key(&seed);
        let was_other = self.others.is_needed(self.horizon);
        let signer = match has_room {
            true => self.signers.entry(seed).or_insert_with(|| Signer {
                was_other,
                ..Signer::default()
            }),
            false => &mut self.others,
        };
        signer.seen.insert((signature.time, signature.nonce));
        self.count += 1;
        if self.count > MAX_CHANGES {
            self.forget_one();
        }
        debug_assert!(self.count <= MAX_CHANGES && self.signers.len() <= MAX_SIGNERS);
        Ok(())
    }

    /// Checks that a change would be accepted, as far as is known before its body has arrived.
    pub(crate) fn check(&self, signature: &Signature) -> Result<(), Refused> {
        if signature.time < self.horizon {
            return Err(Refused::Forgotten);
        }
        match self.signers.get(&seed_of(signature)) {
            Some(signer) if !signer.was_other => signer.check(signature),
            signer => {
                let mut both = signer.into_iter().chain([&self.others]);
                both.try_for_each(|signer| signer.check(signature))
            }
        }
    }

    /// Whether the clock was set back so far that changes of peers whose clocks are right would be
    /// refused as forgotten for long.
    pub(crate) fn is_set_back(&self, now: Duration) -> bool {
        self.latest.saturating_sub(now) > WINDOW / 2
    }

    /// Forgets changes that are too old.
    fn sweep(&mut self, now: Duration) {
        self.latest = self.latest.max(now);
        self.horizon = self.horizon.max(now.saturating_sub(WINDOW));
        if self.latest < self.swept + PAUSE {
            return;
        }
        self.swept = self.latest;
        let horizon = self.horizon;
        self.signers.retain(|_, signer| signer.forget(horizon));
        self.others.forget(horizon);
        let known = self.signers.values().map(|signer| signer.seen.len());
        self.count = known.sum::<usize>() + self.others.seen.len();
    }

    /// Forgets the oldest change of the signer with the most changes.
    fn forget_one(&mut self) {
        let signers = self.signers.values_mut().chain([&mut self.others]);
        let largest = signers.max_by_key(|signer| signer.seen.len());
        let oldest = largest.and_then(|signer| {
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
    fn check(&self, signature: &Signature) -> Result<(), Refused> {
        if signature.time < self.horizon {
            return Err(Refused::Forgotten);
        }
        match self.seen.contains(&(signature.time, signature.nonce)) {
            true => Err(Refused::Repeated),
            false => Ok(()),
        }
    }

    /// Forgets changes that were signed before `horizon`. Returns whether the signer is still needed.
    fn forget(&mut self, horizon: Duration) -> bool {
        self.seen = self.seen.split_off(&(horizon, 0));
        self.is_needed(horizon)
    }

    fn is_needed(&self, horizon: Duration) -> bool {
        !self.seen.is_empty() || self.horizon > horizon
    }
}

/// The half of a nonce that distinguishes the process of a signer.
fn seed_of(signature: &Signature) -> u64 {
    (signature.nonce >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::refusal::check_time;

    const NOW: Duration = Duration::from_secs(1_700_000_000);
    const SECOND: Duration = Duration::from_secs(1);

    fn signature(time: Duration, signer: u64, number: usize) -> Signature {
        Signature {
            time,
            nonce: u128::from(signer) << 64 | number as u128,
            code: None,
            legacy: None,
        }
    }

    #[test]
    fn a_change_is_accepted_once_and_forgotten_when_its_time_is_over() {
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
        // Five minutes and a second later another change arrives, and the first is forgotten.
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
    fn a_change_that_cannot_be_remembered_is_refused_rather_than_accepted_twice() {
        let mut nonces = Nonces::default();
        let at = |at: usize| signature(NOW + Duration::from_millis(at as u64), 1, 0);
        for number in 0..MAX_CHANGES + 10 {
            assert_eq!(nonces.take(&at(number), NOW), Ok(()));
        }
        assert_eq!(nonces.len(), MAX_CHANGES);
        assert_eq!(nonces.take(&at(3), NOW), Err(Refused::Forgotten));
        assert_eq!(nonces.take(&at(10), NOW), Err(Refused::Repeated));
    }

    #[test]
    fn a_signer_of_many_changes_whose_clock_is_ahead_has_no_change_of_others_refused() {
        let mut nonces = Nonces::default();
        let known = signature(NOW, 2, 0);
        assert_eq!(nonces.take(&known, NOW), Ok(()));
        for number in 0..MAX_CHANGES + 10 {
            let ahead = NOW + 60 * SECOND + Duration::from_micros(number as u64);
            assert_eq!(nonces.take(&signature(ahead, 1, number), NOW), Ok(()));
        }
        assert_eq!(nonces.take(&signature(NOW, 2, 1), NOW), Ok(()));
        assert_eq!(nonces.take(&known, NOW), Err(Refused::Repeated));
    }

    #[test]
    fn however_many_signers_there_are_those_known_before_are_distinguished() {
        let mut nonces = Nonces::default();
        let known = signature(NOW, 0, 0);
        assert_eq!(nonces.take(&known, NOW), Ok(()));
        for number in 1..MAX_CHANGES + 10 {
            let ahead = NOW + 60 * SECOND + Duration::from_micros(number as u64);
            let change = signature(ahead, number as u64, 0);
            assert_eq!(nonces.take(&change, NOW), Ok(()), "{number}");
        }
        assert_eq!(nonces.take(&signature(NOW, 0, 1), NOW), Ok(()));
        assert_eq!(nonces.take(&known, NOW), Err(Refused::Repeated));
    }

    #[test]
    fn signers_that_are_not_distinguished_make_no_change_twice_either() {
        let mut nonces = Nonces::default();
        for signer in 0..2 * MAX_SIGNERS as u64 {
            let change = signature(NOW, signer, 0);
            assert_eq!(nonces.take(&change, NOW), Ok(()));
            assert_eq!(nonces.take(&change, NOW), Err(Refused::Repeated));
        }
        assert_eq!(nonces.signers.len(), MAX_SIGNERS);
        // Their first change is too old by now, and they are distinguished.
        let later = NOW + WINDOW + SECOND;
        let last = 2 * MAX_SIGNERS as u64 - 1;
        assert_eq!(nonces.take(&signature(later, last, 1), later), Ok(()));
        let repeated = nonces.take(&signature(NOW, last, 0), later);
        assert_eq!(repeated, Err(Refused::Forgotten));
    }
}
