//! `Owed`: the removals that a peer has missed, to be delivered again when it is back.
//!
//! What is owed is always a removal, never a value, so that delivering it late or twice only costs
//! a load. It is bounded: where too many keys are owed, or for too long, the whole group is.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::sync::Mutex;

/// How many keys are owed to a peer one by one.
const MAX_KEYS: usize = 10_000;

/// How long keys are owed one by one.
const MAX_AGE: Duration = Duration::from_secs(600);

/// What one peer has missed, by group.
#[derive(Default)]
pub(crate) struct Owed {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    groups: HashMap<String, Missed>,
    /// How much has been taken out and is not known to have arrived.
    under_way: usize,
}

impl State {
    fn len(&self) -> usize {
        let owed: usize = self.groups.values().map(Missed::len).sum();
        owed + self.under_way
    }
}

/// What a peer has missed of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    Keys {
        keys: BTreeSet<String>,
        since: Instant,
    },
    /// So much that everything is to be removed.
    All,
}

impl Owed {
    /// Notes that the peer has missed the removal of `keys`, or of all.
    pub(crate) fn add(&self, group: &str, missed: Missed) {
        let mut state = self.state.lock();
        let before = state.groups.remove(group);
        let sum = match (before, missed) {
            (None, missed) => missed,
            (Some(Missed::All), _) | (_, Missed::All) => Missed::All,
            (
                Some(Missed::Keys { mut keys, since }),
                Missed::Keys {
                    keys: more,
                    since: later,
                },
            ) => {
                keys.extend(more);
                let since = since.min(later);
                Missed::Keys { keys, since }
            }
        };
        state.groups.insert(group.to_owned(), sum.bounded());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many groups and keys are owed, until they have arrived.
    pub(crate) fn len(&self) -> usize {
        self.state.lock().len()
    }

    /// Gives up keys that have been owed for too long, in favour of their whole group.
    pub(crate) fn age(&self, now: Instant) {
        for missed in self.state.lock().groups.values_mut() {
            if missed.is_old(now) {
                *missed = Missed::All;
            }
        }
    }

    /// Takes out all that is owed, to deliver it. What does not arrive is to be added again, and
    /// then the delivery [ended](Owed::end_delivery).
    pub(crate) fn take(&self) -> Vec<(String, Missed)> {
        let groups = {
            let mut state = self.state.lock();
            state.under_way = state.len();
            std::mem::take(&mut state.groups)
        };
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by(|a, b| a.0.cmp(&b.0));
        groups
    }

    pub(crate) fn end_delivery(&self) {
        self.state.lock().under_way = 0;
    }
}

impl Missed {
    pub(crate) fn keys<'a>(keys: impl IntoIterator<Item = &'a str>, since: Instant) -> Missed {
        let keys = keys.into_iter().map(str::to_owned).collect();
        Missed::Keys { keys, since }
    }

    fn len(&self) -> usize {
        match self {
            Missed::Keys { keys, .. } => keys.len(),
            Missed::All => 1,
        }
    }

    fn bounded(self) -> Missed {
        if self.len() > MAX_KEYS {
            Missed::All
        } else {
            self
        }
    }

    fn is_old(&self, now: Instant) -> bool {
        match self {
            Missed::Keys { since, .. } => now.saturating_duration_since(*since) > MAX_AGE,
            Missed::All => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owed_is_given_out_once() {
        let (owed, now) = (Owed::default(), Instant::now());
        owed.add("g", Missed::keys(["a"], now));
        owed.add("g", Missed::keys(["b", "a"], now));
        owed.add("h", Missed::All);
        assert_eq!(owed.len(), 3);
        let expected = [
            ("g".to_owned(), Missed::keys(["a", "b"], now)),
            ("h".to_owned(), Missed::All),
        ];
        assert_eq!(owed.take(), expected);
        assert_eq!(owed.len(), 3, "not before it has arrived");
        owed.end_delivery();
        assert!(owed.is_empty());
    }

    #[test]
    fn too_many_keys_become_the_whole_group() {
        let (owed, now) = (Owed::default(), Instant::now());
        for number in 0..=MAX_KEYS {
            owed.add("g", Missed::keys([number.to_string().as_str()], now));
        }
        assert_eq!(owed.take(), [("g".to_owned(), Missed::All)]);
    }

    #[test]
    fn keys_owed_for_too_long_become_the_whole_group() {
        let (owed, now) = (Owed::default(), Instant::now());
        owed.add("g", Missed::keys(["a"], now));
        owed.age(now + MAX_AGE);
        assert_eq!(owed.len(), 1);
        owed.age(now + MAX_AGE + Duration::from_nanos(1));
        assert_eq!(owed.take(), [("g".to_owned(), Missed::All)]);
    }
}
