//! `Store`: the entries of a shard. Main entries by the [`Policy`], hot entries in the order of use, and an
//! index of all by their expiry. For one thread: no lock, no user code.
//!
//! A key is in main or in hot, never in both. Entries that leave are returned, so that the caller drops
//! them after unlocking.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::cache::entry::{Entry, Expiry, Life, Tick, Tier};
use crate::cache::hot::Rate;
use crate::cache::key::{HandThrough, KeyRef};
use crate::cache::lru::Lru;
use crate::cache::policy::{At, Item, Loser, Policy, Shadows};

/// Why a value left the memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EvictionCause {
    /// It made room for others.
    Size,
    /// It was new, and requested less often than the value that it would have displaced.
    Rejected,
    /// Its time was over.
    Expired,
    /// Another value of the same key replaced it.
    Replaced,
    /// It was removed, alone or with all others.
    Removed,
    /// Its group ended: the group was removed from its node, or the node ended, and no handle was left.
    GroupEnded,
}

#[derive(Debug)]
#[repr(C)] // for the same reason as `Policy`
pub(crate) struct Store<V: 'static> {
    /// Find the best window of main. Made when room first runs out.
    shadows: Option<Box<Shadows>>,
    main: Policy<Entry<V>>,
    hot: Lru<V>,
    /// How long past its expiry an entry of main is kept.
    grace: Tick,
    /// When entries leave for their age, the soonest first.
    expiries: BTreeSet<(Tick, EntryId)>,
    /// The rates of the entries that peers request: most entries of most caches have none.
    rates: HashMap<EntryId, Rate, HandThrough>,
}

/// Identifies an entry of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum EntryId {
    /// By its cell in the policy's table.
    Main(At),
    /// By the hash of its key.
    Hot(u64),
}

/// An entry that has left, and why.
#[derive(Debug)]
pub(crate) struct Gone<V: 'static> {
    pub(crate) entry: Entry<V>,
    pub(crate) tier: Tier,
    pub(crate) cause: EvictionCause,
}

/// The outcome of a look-up.
pub(crate) enum Seen<V: 'static, R> {
    /// There is an entry; what was read of it.
    Kept(R),
    /// The entry had expired, and has left.
    Expired(Gone<V>),
    Nothing,
}

/// Whether a look-up counts as a request for the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Counts,
    Peeks,
}

impl<V> Store<V> {
    pub(crate) fn new(grace: Tick) -> Store<V> {
        Store {
            grace,
            main: Policy::new(Shadows::first_window()),
            shadows: None,
            hot: Lru::new(),
            expiries: BTreeSet::new(),
            rates: HashMap::default(),
        }
    }

    /// The entry of `key` in main, if it has not expired. Counts as a request for the key.
    #[inline]
    pub(crate) fn get_fresh(
        &mut self,
        key: KeyRef<'_>,
        now: impl FnOnce() -> Tick,
    ) -> Option<&mut Entry<V>> {
        let at = self.find_main(key)?;
        if self.is_followed(key) {
            let weight = self.main.item_mut(at)?.weight();
            self.show(key, weight, true);
        }
        self.main
            .hit(at)
            .filter(|entry| entry.expires.life(now, 0) == Life::Fresh)
    }

    /// Reads the entry of `key`. An entry whose life is over is taken out instead.
    pub(crate) fn get<R>(
        &mut self,
        key: KeyRef<'_>,
        counts: Use,
        now: impl FnOnce() -> Tick,
        read: impl FnOnce(Tier, &mut Entry<V>, Life) -> R,
    ) -> Seen<V, R> {
        let Some(at) = self.find_main(key) else {
            return self.get_hot(key, now, read);
        };
        let Some(entry) = self.main.item_mut(at) else {
            return Seen::Nothing;
        };
        let life = entry.expires.life(now, self.grace);
        if life == Life::Over {
            return self.expire(EntryId::Main(at));
        }
        let weight = entry.weight();
        let seen = read(Tier::Main, entry, life);
        if counts == Use::Counts {
            self.main.hit(at);
            if self.is_followed(key) {
                self.show(key, weight, true);
            }
        }
        Seen::Kept(seen)
    }

    fn get_hot<R>(
        &mut self,
        key: KeyRef<'_>,
        now: impl FnOnce() -> Tick,
        read: impl FnOnce(Tier, &mut Entry<V>, Life) -> R,
    ) -> Seen<V, R> {
        let Some(entry) = self.hot.get(key) else {
            return Seen::Nothing;
        };
        match entry.expires.life(now, 0) {
            Life::Over => self.expire(EntryId::Hot(key.hash())),
            life => Seen::Kept(read(Tier::Hot, entry, life)),
        }
    }

    #[cold]
    fn expire<R>(&mut self, id: EntryId) -> Seen<V, R> {
        match self.take(id, EvictionCause::Expired) {
            Some(gone) => Seen::Expired(gone),
            None => Seen::Nothing,
        }
    }

    /// Requests per second from the whole cluster for a key that is kept in `tier`. `fresh` requests
    /// came since the last call.
    pub(crate) fn rate(&mut self, key: KeyRef<'_>, tier: Tier, fresh: u32, now: Instant) -> f64 {
        let id = match (tier, self.find_main(key)) {
            (Tier::Main, Some(at)) => EntryId::Main(at),
            _ => EntryId::Hot(key.hash()),
        };
        let rate = self.rates.entry(id).or_insert_with(|| Rate::new(now));
        rate.per_second(fresh, now)
    }

    /// Inserts an entry, for which the caller has made room; gives back those that it replaces: the one of
    /// the key, and a copy of another key with the same hash.
    pub(crate) fn insert(
        &mut self,
        tier: Tier,
        key: KeyRef<'_>,
        entry: Entry<V>,
    ) -> [Option<Gone<V>>; 2] {
        let copy = EntryId::Hot(key.hash());
        match (tier, self.find_main(key)) {
            (Tier::Main, Some(at)) => [self.replace(at, entry), None],
            (Tier::Main, None) => {
                let replaced = self.take(copy, EvictionCause::Replaced);
                self.insert_main(key, entry);
                [replaced, None]
            }
            (Tier::Hot, main) => {
                let main =
                    main.and_then(|at| self.take(EntryId::Main(at), EvictionCause::Replaced));
                let other = self.take(copy, EvictionCause::Replaced);
                self.note_expiry(entry.expires, copy);
                let unexpected = self.hot.insert(key.hash(), entry);
                debug_assert!(unexpected.is_none(), "I4");
                [main, other]
            }
        }
    }

    fn insert_main(&mut self, key: KeyRef<'_>, entry: Entry<V>) {
        let (weight, expires) = (entry.weight(), entry.expires);
        let hash = key.short_hash();
        let door = self.main.door(hash);
        let at = self.main.insert(door, hash, entry);
        self.note_expiry(expires, EntryId::Main(at));
        if self.is_followed(key) {
            self.show(key, weight, false);
        }
    }

    fn replace(&mut self, at: At, entry: Entry<V>) -> Option<Gone<V>> {
        let expires = entry.expires;
        let old = self.main.replace(at, entry)?;
        self.main.hit(at);
        self.forget(old.expires, EntryId::Main(at));
        self.note_expiry(expires, EntryId::Main(at));
        Some(Gone {
            entry: old,
            tier: Tier::Main,
            cause: EvictionCause::Replaced,
        })
    }

    /// Takes out the value of `key`, whichever tier it is in.
    pub(crate) fn remove(&mut self, key: KeyRef<'_>) -> Option<Gone<V>> {
        let id = match self.find_main(key) {
            Some(at) => EntryId::Main(at),
            None => EntryId::Hot(key.hash()),
        };
        if let Some(shadows) = &mut self.shadows {
            shadows.forget(key.short_hash());
        }
        self.take(id, EvictionCause::Removed)
    }

    /// Takes out the value of `key` if it is a copy of one that another node owns.
    pub(crate) fn remove_copy(&mut self, key: KeyRef<'_>) -> Option<Gone<V>> {
        match self.find_main(key) {
            Some(_) => None,
            None => self.take(EntryId::Hot(key.hash()), EvictionCause::Removed),
        }
    }

    /// Takes out all copies of values that other nodes own.
    pub(crate) fn take_copies(&mut self) -> Vec<Gone<V>> {
        let copies: Vec<u64> = self.hot.entries().map(|(hash, _)| hash).collect();
        let take = |hash| self.take(EntryId::Hot(hash), EvictionCause::Removed);
        copies.into_iter().filter_map(take).collect()
    }

    /// Takes out an entry that expired at `tick` or before, the longest expired first.
    pub(crate) fn pop_expired(&mut self, tick: Tick) -> Option<Gone<V>> {
        let &(expires, id) = self.expiries.first()?;
        if expires > tick {
            return None;
        }
        self.take(id, EvictionCause::Expired)
    }

    /// Takes an entry out of `tier`, to make room for one of `key` with this weight.
    pub(crate) fn evict(&mut self, tier: Tier, key: KeyRef<'_>, weight: usize) -> Option<Gone<V>> {
        match tier {
            Tier::Main => self.evict_main(key.short_hash(), weight),
            Tier::Hot => {
                let (hash, entry) = self.hot.evict()?;
                self.forget(entry.expires, EntryId::Hot(hash));
                Some(Gone {
                    entry,
                    tier: Tier::Hot,
                    cause: EvictionCause::Size,
                })
            }
        }
    }

    fn evict_main(&mut self, hash: u32, weight: usize) -> Option<Gone<V>> {
        let kept = self.main.len();
        if self
            .shadows
            .as_ref()
            .is_none_or(|shadows| !shadows.fit(kept))
        {
            self.shadows = Some(Box::new(Shadows::new(&self.main)));
        }
        let door = self.main.door(hash);
        let (at, entry, loser) = self.main.evict(door, weight)?;
        self.forget(entry.expires, EntryId::Main(at));
        Some(Gone {
            entry,
            tier: Tier::Main,
            cause: match loser {
                Loser::Evicted => EvictionCause::Size,
                Loser::Rejected => EvictionCause::Rejected,
            },
        })
    }

    /// When the first of the entries leaves for its age.
    pub(crate) fn soonest_expiry(&self) -> Option<Tick> {
        self.expiries.first().map(|&(tick, _)| tick)
    }

    pub(crate) fn bytes(&self, tier: Tier) -> usize {
        match tier {
            Tier::Main => self.main.bytes(),
            Tier::Hot => self.hot.bytes(),
        }
    }

    pub(crate) fn len(&self, tier: Tier) -> usize {
        match tier {
            Tier::Main => self.main.len(),
            Tier::Hot => self.hot.len(),
        }
    }

    /// The keys of all entries.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        let main = self.main.items().map(|(_, entry)| entry.key());
        main.chain(self.hot.entries().map(|(_, entry)| entry.key()))
    }

    /// All entries, each with the number of requests over about the last minute.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&Entry<V>, f64)> {
        let main = self
            .main
            .items()
            .map(|(at, entry)| (EntryId::Main(at), entry));
        let hot = self
            .hot
            .entries()
            .map(|(hash, entry)| (EntryId::Hot(hash), entry));
        main.chain(hot).map(|(id, entry)| {
            let past = self.rates.get(&id).map_or(0.0, Rate::requests);
            (entry, past + f64::from(entry.hits))
        })
    }

    /// Takes out all entries.
    pub(crate) fn take_all(&mut self) -> Store<V> {
        std::mem::replace(self, Store::new(self.grace))
    }

    pub(crate) fn into_entries(self) -> impl Iterator<Item = (Entry<V>, Tier)> {
        let main = self.main.into_items().map(|entry| (entry, Tier::Main));
        let hot = self.hot.into_entries().map(|entry| (entry, Tier::Hot));
        main.chain(hot)
    }

    /// Whether main has a value of `key` that has not expired.
    pub(crate) fn is_fresh_in_main(&self, key: KeyRef<'_>, now: impl FnOnce() -> Tick) -> bool {
        let entry = self.find_main(key).and_then(|at| self.main.item(at));
        entry.is_some_and(|entry| entry.expires.life(now, 0) == Life::Fresh)
    }

    #[inline]
    fn find_main(&self, key: KeyRef<'_>) -> Option<At> {
        self.main.find(key.short_hash(), |entry| entry.is(key))
    }

    fn take(&mut self, id: EntryId, cause: EvictionCause) -> Option<Gone<V>> {
        let (entry, tier) = match id {
            EntryId::Main(at) => (self.main.remove(at)?, Tier::Main),
            EntryId::Hot(hash) => (self.hot.remove(hash)?, Tier::Hot),
        };
        self.forget(entry.expires, id);
        Some(Gone { entry, tier, cause })
    }

    /// When an entry with this expiry leaves for its age.
    pub(crate) fn drop_tick(&self, tier: Tier, expires: Expiry) -> Option<Tick> {
        let grace = match tier {
            Tier::Main => self.grace,
            Tier::Hot => 0,
        };
        Some(expires.tick()?.saturating_add(grace))
    }

    fn note_expiry(&mut self, expires: Expiry, id: EntryId) {
        if let Some(tick) = self.drop_tick(id.tier(), expires) {
            let is_new = self.expiries.insert((tick, id));
            debug_assert!(is_new, "an entry expires once");
        }
    }

    /// Removes what is noted of an entry that leaves.
    fn forget(&mut self, expires: Expiry, id: EntryId) {
        if let Some(tick) = self.drop_tick(id.tier(), expires) {
            let was_noted = self.expiries.remove(&(tick, id));
            debug_assert!(was_noted, "an entry expires once");
        }
        if !self.rates.is_empty() {
            self.rates.remove(&id);
        }
    }

    /// Whether the shadows follow the requests for a key.
    #[inline]
    fn is_followed(&self, key: KeyRef<'_>) -> bool {
        let follows = |shadows: &Shadows| shadows.follow(key.short_hash());
        self.shadows.as_deref().is_some_and(follows)
    }

    /// Shows the shadows a request; takes over the window that they choose.
    #[cold]
    fn show(&mut self, key: KeyRef<'_>, weight: usize, hit: bool) {
        if let Some(shadows) = &mut self.shadows {
            if let Some(window) = shadows.request(key.short_hash(), weight, hit) {
                self.main.set_window(window);
            }
        }
    }

    /// How many entries have expired by `tick`.
    #[cfg(test)]
    pub(crate) fn expired(&self, tick: Tick) -> usize {
        let has_expired = |&&(expires, _): &&(Tick, EntryId)| expires <= tick;
        self.expiries.iter().take_while(has_expired).count()
    }

    /// Recomputes every counter and compares.
    #[cfg(test)]
    pub(crate) fn validate(&self) {
        self.main.validate();
        let mut expiring = 0;
        let mut note = |entry: &Entry<V>, id: EntryId| {
            if let Some(tick) = self.drop_tick(id.tier(), entry.expires) {
                expiring += 1;
                assert!(self.expiries.contains(&(tick, id)));
            }
        };
        for (at, entry) in self.main.items() {
            note(entry, EntryId::Main(at));
        }
        let mut hot_bytes = 0;
        for (hash, entry) in self.hot.entries() {
            note(entry, EntryId::Hot(hash));
            hot_bytes += entry.weight();
            let twice = self
                .main
                .items()
                .any(|(_, other)| other.key() == entry.key());
            assert!(!twice, "{} is kept twice", entry.key());
        }
        assert_eq!(self.expiries.len(), expiring);
        assert_eq!(self.hot.bytes(), hot_bytes, "I4");
        for id in self.rates.keys() {
            assert!(match *id {
                EntryId::Main(at) => self.main.item(at).is_some(),
                EntryId::Hot(hash) => self.hot.entries().any(|(other, _)| other == hash),
            });
        }
    }
}

impl EntryId {
    fn tier(self) -> Tier {
        match self {
            EntryId::Main(_) => Tier::Main,
            EntryId::Hot(_) => Tier::Hot,
        }
    }
}

impl std::hash::Hash for EntryId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // The table uses the hash as it is, so its bits have to be spread.
        state.write_u64(match *self {
            EntryId::Main(at) => u64::from(at).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            EntryId::Hot(hash) => hash,
        });
    }
}

#[cfg(test)]
pub(crate) mod tests;
