//! Invalidation: what a removal does on this node.
//!
//! The flights of a key are marked stale before its value is dropped, so that what is being loaded is
//! not kept any more; and once more after that: a flight that began in between may have found the old
//! value there, and is not to be joined any more.

use super::shared::Shared;
use crate::cache::key::KeyRef;
use crate::cluster::journal::ChangeInfo;
use crate::cluster::members::Owner;
use crate::value::Cacheable;

impl<V: Cacheable> Shared<V> {
    /// Carries out the removal of `key` on this node, and notes that in the journal.
    pub(super) fn invalidate(&self, key: &str, info: ChangeInfo) {
        let key = self.cache.hash(key);
        self.counters.removes.add();
        let (journal, now) = (&self.cluster.journal, self.cluster.clock.now());
        let noted = journal.add_tombstone(&self.name, Some(key.text()), info, now);
        self.drop_key(key);
        journal.mark_applied(noted);
    }

    /// As [`invalidate`](Shared::invalidate), of all keys.
    pub(super) fn invalidate_all(&self, info: ChangeInfo) {
        let journal = &self.cluster.journal;
        let noted = journal.add_tombstone(&self.name, None, info, self.cluster.clock.now());
        self.drop_all();
        journal.mark_applied(noted);
    }

    /// Drops the copy of a value that another node owns, in whichever tier. What is being fetched or taken
    /// over of it is not kept.
    pub(super) fn drop_copy(&self, key: &str) {
        let is_owner = self.cluster.members().owner(key) == Owner::This;
        let key = self.cache.hash(key);
        if !is_owner {
            return self.drop_key(key);
        }
        self.mark_stale(key); // what it takes over as the deputy that it was a moment ago, too
        self.cache.remove_copy(key);
        self.mark_stale(key);
    }

    /// As [`drop_copy`](Shared::drop_copy), of all keys.
    pub(super) fn drop_copies(&self) {
        self.mark_all_stale();
        self.cache.clear_copies();
        let members = self.cluster.members();
        self.cache
            .remove_where(|key| members.owner(key) != Owner::This);
        self.mark_all_stale();
    }

    /// As [`drop_key`](Shared::drop_key), of all keys.
    pub(super) fn drop_all(&self) {
        self.mark_all_stale();
        self.cache.clear();
        if let Some(absences) = &self.absences {
            absences.clear();
        }
        self.failures.clear();
        self.mark_all_stale();
    }

    /// Drops what is kept of a key. What is being loaded or fetched of it is not kept.
    fn drop_key(&self, key: KeyRef<'_>) {
        self.mark_stale(key);
        self.cache.remove(key);
        self.forget_absence(key);
        self.mark_stale(key);
    }

    /// Marks the flights of a key stale.
    pub(super) fn mark_stale(&self, key: KeyRef<'_>) {
        self.loads.mark_stale(key);
        self.fetches.mark_stale(key);
    }

    fn mark_all_stale(&self) {
        self.loads.mark_all_stale();
        self.fetches.mark_all_stale();
    }

    /// Forgets that `key` has no value, and that its loads fail.
    pub(super) fn forget_absence(&self, key: KeyRef<'_>) {
        self.failures.remove(key);
        if let Some(absences) = &self.absences {
            absences.remove(key);
        }
    }
}
