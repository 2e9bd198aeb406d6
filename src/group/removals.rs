//! `Removals`: when keys were last removed, of late. A key that was is not taken over from the one
//! who owned it before: that one may not have been told.
//!
//! Many keys share a slot, so a key may seem to have been removed when another one was: it is then
//! loaded, which is never wrong.

use std::time::{Duration, Instant};

use crate::key::KeyRef;
use crate::sync::{AtomicU64, OnceLock, Ordering};

/// 32 KiB, made when something is removed for the first time. A model has few keys, and each
/// atomic costs it much.
const SLOTS: usize = if cfg!(groupcache_model = "shuttle") {
    8
} else {
    4_096
};

/// For how long before the ring changes nodes may have had different peer lists.
const DISAGREEMENT: Duration = Duration::from_secs(300);

pub(super) struct Removals {
    began: Instant,
    /// How long a removal is remembered, in seconds; 0 remembers none.
    memory: u64,
    /// Whole seconds since `began`, and one more; 0 is never.
    slots: OnceLock<Box<[AtomicU64]>>,
    all: AtomicU64,
}

impl Removals {
    /// Removals that matter for so long after a change of the ring.
    pub(super) fn new(warm_up: Duration, now: Instant) -> Removals {
        let memory = if warm_up.is_zero() {
            Duration::ZERO
        } else {
            warm_up.saturating_add(DISAGREEMENT)
        };
        Removals {
            began: now,
            memory: memory.as_secs(),
            slots: OnceLock::new(),
            all: AtomicU64::new(0),
        }
    }

    /// Notes a removal, before anything is removed.
    pub(super) fn note(&self, key: KeyRef<'_>, now: Instant) {
        if self.memory > 0 {
            let slots = self.slots.get_or_init(|| {
                let slots = (0..SLOTS).map(|_| AtomicU64::new(0));
                slots.collect()
            });
            slots[slot_of(key)].fetch_max(self.second(now), Ordering::AcqRel);
        }
    }

    /// Notes that everything is removed.
    pub(super) fn note_all(&self, now: Instant) {
        self.all.fetch_max(self.second(now), Ordering::AcqRel);
    }

    /// Whether `key` may have been removed of late.
    pub(super) fn is_recent(&self, key: KeyRef<'_>, now: Instant) -> bool {
        let slot = self.slots.get().map(|slots| &slots[slot_of(key)]);
        let last = slot.map_or(0, |slot| slot.load(Ordering::Acquire));
        let last = last.max(self.all.load(Ordering::Acquire));
        last > 0 && self.second(now).saturating_sub(last) <= self.memory
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.began).as_secs() + 1
    }
}

fn slot_of(key: KeyRef<'_>) -> usize {
    key.short_hash() as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyHasher;

    const WARM_UP: Duration = Duration::from_secs(30);

    #[test]
    fn a_removal_is_remembered_for_as_long_as_it_matters() {
        let (keys, now) = (KeyHasher::new(), Instant::now());
        let removals = Removals::new(WARM_UP, now);
        let memory = WARM_UP + DISAGREEMENT;
        removals.note(keys.hash("a"), now + WARM_UP);
        let is_recent = |key, after| removals.is_recent(keys.hash(key), now + WARM_UP + after);
        assert!(is_recent("a", Duration::ZERO) && is_recent("a", memory));
        assert!(!is_recent("a", memory + Duration::from_secs(1)));
        removals.note_all(now + memory);
        assert!(is_recent("b", memory) && !is_recent("b", 2 * memory));
    }

    #[test]
    fn keys_that_were_not_removed_seldom_seem_to_be() {
        let (keys, now) = (KeyHasher::new(), Instant::now());
        let removals = Removals::new(WARM_UP, now);
        (0..40).for_each(|n| removals.note(keys.hash(&format!("removed {n}")), now));
        let others = (0..10_000).map(|n| format!("other {n}"));
        let mistaken = others.filter(|key| removals.is_recent(keys.hash(key), now));
        let mistaken = mistaken.count();
        assert!(
            mistaken < 300,
            "{mistaken} of 10,000, about 100 are expected"
        );
    }

    #[test]
    fn nothing_is_remembered_where_nothing_is_taken_over() {
        let (keys, now) = (KeyHasher::new(), Instant::now());
        let removals = Removals::new(Duration::ZERO, now);
        removals.note(keys.hash("a"), now);
        assert!(removals.slots.get().is_none());
    }
}
