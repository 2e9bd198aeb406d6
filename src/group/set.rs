//! Setting a value on this node, and preparing it for the node that owns the key.

use std::time::Duration;

use super::outcome::lost_leader;
use super::shared::Shared;
use super::weight::charge;
use crate::cache::entry::{Stored, Tier};
use crate::cluster::journal::{ChangeInfo, RefusedSet};
use crate::cluster::members::Owner;
use crate::cluster::propagation::{MAX_SET_ATTEMPTS, RecordedChange};
use crate::error::Error;
use crate::protocol;
use crate::runtime::sync::Ordering;
use crate::runtime::user_code;
use crate::value::Cacheable;

/// A value that is set, with what user code makes of it for the owner of its key.
pub(super) struct PreparedValue<V: 'static> {
    value: Stored<V>,
    /// Set where this node owns the key.
    weight: Option<usize>,
    /// The body of the request. Set where a peer owns the key.
    body: Option<Vec<u8>>,
}

impl<V: Cacheable> PreparedValue<V> {
    pub(super) fn new(value: V) -> PreparedValue<V> {
        PreparedValue {
            value: Stored::new(value),
            weight: None,
            body: None,
        }
    }

    /// The body of the request to the owner, if it is prepared.
    pub(super) fn body(&self) -> Option<&[u8]> {
        self.body.as_deref()
    }
}

impl<V: Cacheable> Shared<V> {
    /// Prepares a value for `owner`, as far as it is not prepared for it already.
    pub(super) fn prepare(
        &self,
        prepared: &mut PreparedValue<V>,
        key: &str,
        life: Option<Duration>,
        owner: &Owner,
    ) -> Result<(), Error> {
        match owner {
            Owner::This if prepared.weight.is_none() => {
                prepared.weight = Some(self.weight_of(&prepared.value)?);
            }
            Owner::Peer(_) if prepared.body.is_none() => {
                let bytes = self.encode_stored(&prepared.value)?;
                prepared.body = Some(protocol::encode_set(&self.name, key, &bytes, life));
            }
            _ => {}
        }
        Ok(())
    }

    /// Carries out a set of this node, which also owns the key.
    pub(super) fn put_here(
        &self,
        key: &str,
        prepared: &mut PreparedValue<V>,
        life: Option<Duration>,
        mut info: ChangeInfo,
        recorded: &RecordedChange,
    ) {
        for _ in 0..MAX_SET_ATTEMPTS {
            if self.prepare(prepared, key, life, &Owner::This).is_err() {
                break;
            }
            let Some(weight) = prepared.weight else {
                break;
            };
            if self.keep_set(key, prepared.value.clone(), weight, life, info) {
                return;
            }
            match recorded.refused_set(&self.name, key) {
                RefusedSet::Retry(newer) => info.stamp = Some(newer),
                // Another change of this process has overtaken it, perhaps.
                RefusedSet::Superseded | RefusedSet::Unknown => break,
            }
        }
        let has_applied = |stamp| self.cluster.journal.has_applied(&self.name, key, stamp);
        if !info.stamp.is_some_and(has_applied) {
            // An older value may still be in memory, until the later change removes it.
            self.invalidate(key, info);
        }
    }

    /// Carries out a set on this node, which owns the key. `false` if a later change of the same sender
    /// came before: then nothing is done.
    pub(super) fn put(
        &self,
        key: &str,
        value: V,
        life: Option<Duration>,
        info: ChangeInfo,
    ) -> Result<bool, Error> {
        let value = Stored::new(value);
        let weight = self.weight_of(&value)?;
        Ok(self.keep_set(key, value, weight, life, info))
    }

    /// Puts a value that was set into the main cache; `false` as for [`put`](Shared::put).
    fn keep_set(
        &self,
        key: &str,
        value: Stored<V>,
        weight: usize,
        life: Option<Duration>,
        info: ChangeInfo,
    ) -> bool {
        let key = self.cache.hash(key);
        let (journal, now) = (&self.cluster.journal, self.cluster.clock.now());
        let Some(set) = journal.begin_set(&self.name, key.text(), info, now) else {
            return false;
        };
        self.counters.removes.add();
        self.mark_stale(key);
        let life = self.life_in_list(life);
        let expires = life.and_then(|life| now.checked_add(life));
        let weight = charge(key, weight);
        let superseded = set.superseded();
        let is_kept = life != Some(Duration::ZERO)
            && self
                .cache
                .insert(Tier::Main, key, value, weight, expires, superseded);
        if is_kept && expires.is_some() {
            self.schedule_sweep();
        } else if !is_kept && superseded.load(Ordering::Acquire) {
            return false;
        } else if !is_kept {
            self.cache.remove(key);
        }
        self.forget_absence(key);
        self.mark_stale(key);
        set.mark_applied();
        true
    }

    /// The weight of a value. Fails if it is too large.
    fn weight_of(&self, value: &Stored<V>) -> Result<usize, Error> {
        let value = value.get().ok_or_else(lost_leader)?;
        let weight = user_code::load(|| self.weigh(value))?;
        let max = self.cluster.settings.max_value;
        match weight > max {
            true => Err(Error::ValueTooLarge { bytes: weight, max }),
            false => Ok(weight),
        }
    }
}
