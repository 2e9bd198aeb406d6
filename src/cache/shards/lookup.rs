//! Lookups: how a cache answers local callers, leaders of flights and peers.

use std::time::Instant;

use super::cache::Cache;
use super::shard::{Counts, State};
use crate::cache::entry::{Entry, Life, Stored, Tier, ticks};
use crate::cache::key::KeyRef;
use crate::cache::policy::Item;
use crate::cache::store::{Gone, Seen, Store, Use};
use crate::value::Cacheable;

/// A value found in the cache.
#[derive(Debug)]
pub(crate) struct Found<V: 'static> {
    pub(crate) value: Stored<V>,
    pub(crate) tier: Tier,
    pub(crate) expires: Option<Instant>,
    /// Whether it is past its expiry, and is to be renewed.
    pub(crate) is_stale: bool,
    /// What it is charged for, in bytes.
    pub(crate) weight: usize,
}

/// The main hits and the other counters of a shard.
type Tally<'a> = (&'a mut u64, &'a mut Counts);

impl<V: Cacheable> Cache<V> {
    /// The value of `key` in main, if it is not past its expiry.
    ///
    /// This is the path of most hits: one lock, and nothing is moved but the value. A caller that
    /// finds nothing here continues with [`get`](Cache::get).
    #[inline]
    pub(crate) fn get_main(&self, key: KeyRef<'_>) -> Option<Stored<V>> {
        let shard = self.shards[key.shard(self.shards.len())].get()?;
        let mut state = shard.state.lock();
        let State {
            main_hits, store, ..
        } = &mut *state;
        let entry = store.get_fresh(key, || self.time.now())?;
        *main_hits += 1;
        entry.count_hit(*main_hits);
        Some(entry.value.clone())
    }

    /// Looks `key` up for a local caller. An error tells how many hits a copy had that expired just
    /// now: its owner has not counted them.
    pub(crate) fn get(&self, key: KeyRef<'_>) -> Result<Found<V>, u32> {
        let found = self.look(
            key,
            Use::Counts,
            |(main_hits, counts), tier, entry, life| {
                if !self.serves(life) {
                    return Err(0);
                }
                let hits = match tier {
                    Tier::Main => main_hits,
                    Tier::Hot => &mut counts.hot_hits,
                };
                *hits += 1;
                entry.count_hit(*hits);
                if life != Life::Fresh {
                    counts.stale_hits += 1;
                }
                Ok(self.found(tier, entry, life))
            },
        );
        found.and_then(|found| found)
    }

    /// Whether a value of this age is returned without waiting for a new one.
    fn serves(&self, life: Life) -> bool {
        match life {
            Life::Fresh => true,
            Life::Stale(since) => ticks(since) < self.grace.revalidate,
            Life::Over => false,
        }
    }

    /// Looks `key` up once more for a caller that has just become the leader of its flight. Counts as
    /// no request.
    pub(crate) fn recheck(&self, key: KeyRef<'_>) -> Option<Found<V>> {
        let found = self.look(key, Use::Peeks, |_, tier, entry, life| {
            (life == Life::Fresh).then(|| self.found(tier, entry, life))
        });
        found.ok().flatten()
    }

    /// Whether a local caller would get a value from here. Counts as no request.
    pub(crate) fn contains(&self, key: KeyRef<'_>) -> bool {
        let found = self.look(key, Use::Peeks, |_, _, _, life| self.serves(life));
        found.is_ok_and(|is_served| is_served)
    }

    /// A value past its expiry that may be returned in place of the error of a load.
    pub(crate) fn stand_in(&self, key: KeyRef<'_>) -> Option<Found<V>> {
        let if_error = self.grace.if_error;
        if if_error.is_zero() {
            return None;
        }
        let found = self.look(
            key,
            Use::Peeks,
            |(_, counts), tier, entry, life| match life {
                Life::Stale(since) if ticks(since) < if_error => {
                    counts.stand_ins += 1;
                    Some(self.found(tier, entry, life))
                }
                _ => None,
            },
        );
        found.ok().flatten()
    }

    /// Looks `key` up for a peer whose copy had `hits` since it last asked. Also gives the rate of
    /// requests from the whole cluster, per second.
    pub(crate) fn answer(&self, key: KeyRef<'_>, hits: u32) -> Option<(Found<V>, f64)> {
        let now = self.time.now_instant();
        let read = |_: Tally<'_>, tier, entry: &mut Entry<V>, life| {
            if !self.serves(life) {
                return None;
            }
            let fresh = std::mem::take(&mut entry.hits)
                .saturating_add(hits)
                .saturating_add(1);
            Some((self.found(tier, entry, life), fresh))
        };
        let measure = |store: &mut Store<V>, found: Option<(Found<V>, u32)>| {
            let (found, fresh) = found?;
            let rate = store.rate(key, found.tier, fresh, now);
            Some((found, rate))
        };
        self.look_and(key, Use::Counts, read, measure).ok()?
    }

    /// Reads the entry of `key`. An error tells how many hits a copy had that expired just now: its
    /// owner has not counted them.
    fn look<R>(
        &self,
        key: KeyRef<'_>,
        counts: Use,
        read: impl FnOnce(Tally<'_>, Tier, &mut Entry<V>, Life) -> R,
    ) -> Result<R, u32> {
        self.look_and(key, counts, read, |_, found| found)
    }

    /// As [`look`](Cache::look), followed by `then` while the shard is still locked.
    fn look_and<R, T>(
        &self,
        key: KeyRef<'_>,
        counts: Use,
        read: impl FnOnce(Tally<'_>, Tier, &mut Entry<V>, Life) -> R,
        then: impl FnOnce(&mut Store<V>, R) -> T,
    ) -> Result<T, u32> {
        let shard = self.shards[key.shard(self.shards.len())]
            .get()
            .ok_or(0_u32)?;
        let mut state = shard.state.lock();
        let State {
            main_hits,
            store,
            counts: all,
        } = &mut *state;
        let seen = store.get(
            key,
            counts,
            || self.time.now(),
            |tier, entry, life| read((main_hits, all), tier, entry, life),
        );
        match seen {
            Seen::Kept(found) => Ok(then(store, found)),
            Seen::Nothing => Err(0),
            Seen::Expired(gone) => {
                all.expirations += 1;
                shard.publish(&state.store);
                drop(state);
                Err(self.account_for(gone))
            }
        }
    }

    /// Gives back the bytes of an entry that has expired and left; returns the hits that its owner has
    /// not counted.
    #[cold]
    fn account_for(&self, gone: Gone<V>) -> u32 {
        self.budgets.give_back(gone.tier, gone.entry.weight());
        let unreported = match gone.tier {
            Tier::Main => 0,
            Tier::Hot => gone.entry.hits,
        };
        self.departures.dismiss(gone);
        unreported
    }

    fn found(&self, tier: Tier, entry: &Entry<V>, life: Life) -> Found<V> {
        Found {
            value: entry.value.clone(),
            tier,
            expires: self.time.instant(entry.expires),
            is_stale: life != Life::Fresh,
            weight: entry.weight(),
        }
    }
}
