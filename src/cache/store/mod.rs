//! `Store`: what a shard keeps. Main by the [`Policy`], hot in the order of use, and what of it
//! expires when. One thread, no lock, no user code.
//!
//! A key is in main or in hot, never in both. Whatever leaves is returned, so that the caller drops
//! it after unlocking.

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
    /// It was new, and asked for less often than what it would have displaced.
    Rejected,
    /// Its time was over.
    Expired,
    /// Another value of the same key took its place.
    Replaced,
    /// It was removed, by itself or with all others.
    Removed,
    /// Its group ended: it was removed from its node, or the node ended, and no handle was left.
    GroupEnded,
}

#[derive(Debug)]
#[repr(C)] // as `Policy`
pub(crate) struct Store<V: 'static> {
    /// Find the window of main, once there is no room any more.
    shadows: Option<Box<Shadows>>,
    main: Policy<Entry<V>>,
    hot: Lru<V>,
    /// How long past its expiry an entry of main is still of use.
    grace: Tick,
    /// When entries leave for their age, the soonest first.
    expiries: BTreeSet<(Tick, Name)>,
    /// Of the entries that peers ask for: most entries of most caches never get one.
    rates: HashMap<Name, Rate, HandThrough>,
}

/// Which entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Main(At),
    /// By the hash of its key.
    Hot(u64),
}

/// An entry that left.
#[derive(Debug)]
pub(crate) struct Gone<V: 'static> {
    pub(crate) entry: Entry<V>,
    pub(crate) tier: Tier,
    pub(crate) cause: EvictionCause,
}

/// What a look-up saw.
pub(crate) enum Seen<V: 'static, R> {
    Kept(R),
    /// An entry that had outlived its time, and has left.
    Expired(Gone<V>),
    Nothing,
}

/// How a look-up counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// As a request for the key.
    Counts,
    /// As nothing.
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

    /// The entry of `key` in main, if it is not past its expiry. Counts as a request for it.
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

    /// Reads the entry of `key`. One whose life is over leaves instead.
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
            return self.expire(Name::Main(at));
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
            Life::Over => self.expire(Name::Hot(key.hash())),
            life => Seen::Kept(read(Tier::Hot, entry, life)),
        }
    }

    #[cold]
    fn expire<R>(&mut self, name: Name) -> Seen<V, R> {
        match self.take(name, EvictionCause::Expired) {
            Some(gone) => Seen::Expired(gone),
            None => Seen::Nothing,
        }
    }

    /// Requests per second from the whole cluster for a key that is kept in `place`.
    pub(crate) fn rate(&mut self, key: KeyRef<'_>, tier: Tier, fresh: u32, now: Instant) -> f64 {
        let name = match (tier, self.find_main(key)) {
            (Tier::Main, Some(at)) => Name::Main(at),
            _ => Name::Hot(key.hash()),
        };
        let rate = self.rates.entry(name).or_insert_with(|| Rate::new(now));
        rate.per_second(fresh, now)
    }

    /// Keeps an entry; gives the one it replaces. There is room for it.
    pub(crate) fn insert(
        &mut self,
        tier: Tier,
        key: KeyRef<'_>,
        entry: Entry<V>,
    ) -> Option<Gone<V>> {
        match (tier, self.find_main(key)) {
            (Tier::Main, Some(at)) => self.replace(at, entry),
            (Tier::Main, None) => {
                let replaced = self.take(Name::Hot(key.hash()), EvictionCause::Replaced);
                self.insert_main(key, entry);
                replaced
            }
            (Tier::Hot, main) => {
                let name = main.map_or(Name::Hot(key.hash()), Name::Main);
                let replaced = self.take(name, EvictionCause::Replaced);
                self.note_expiry(entry.expires, Name::Hot(key.hash()));
                self.hot.insert(key.hash(), entry);
                replaced
            }
        }
    }

    fn insert_main(&mut self, key: KeyRef<'_>, entry: Entry<V>) {
        let (weight, expires) = (entry.weight(), entry.expires);
        let hash = key.short_hash();
        let door = self.main.door(hash);
        let at = self.main.insert(door, hash, entry);
        self.note_expiry(expires, Name::Main(at));
        if self.is_followed(key) {
            self.show(key, weight, false);
        }
    }

    fn replace(&mut self, at: At, entry: Entry<V>) -> Option<Gone<V>> {
        let expires = entry.expires;
        let old = self.main.replace(at, entry)?;
        self.main.hit(at);
        self.forget(old.expires, Name::Main(at));
        self.note_expiry(expires, Name::Main(at));
        Some(Gone {
            entry: old,
            tier: Tier::Main,
            cause: EvictionCause::Replaced,
        })
    }

    /// Takes out the value of `key`, wherever it is.
    pub(crate) fn remove(&mut self, key: KeyRef<'_>) -> Option<Gone<V>> {
        let name = match self.find_main(key) {
            Some(at) => Name::Main(at),
            None => Name::Hot(key.hash()),
        };
        if let Some(shadows) = &mut self.shadows {
            shadows.forget(key.short_hash());
        }
        self.take(name, EvictionCause::Removed)
    }

    /// Takes out the copy of a value of `key` that another node owns, if there is one.
    pub(crate) fn remove_copy(&mut self, key: KeyRef<'_>) -> Option<Gone<V>> {
        match self.find_main(key) {
            Some(_) => None,
            None => self.take(Name::Hot(key.hash()), EvictionCause::Removed),
        }
    }

    /// Takes out all copies of values that other nodes own.
    pub(crate) fn take_copies(&mut self) -> Vec<Gone<V>> {
        let copies: Vec<u64> = self.hot.entries().map(|(hash, _)| hash).collect();
        let take = |hash| self.take(Name::Hot(hash), EvictionCause::Removed);
        copies.into_iter().filter_map(take).collect()
    }

    /// Takes out an entry that expired at `tick` or before, the longest expired first.
    pub(crate) fn pop_expired(&mut self, tick: Tick) -> Option<Gone<V>> {
        let &(expires, name) = self.expiries.first()?;
        if expires > tick {
            return None;
        }
        self.take(name, EvictionCause::Expired)
    }

    /// Takes an entry out of `place`, which makes room for one of `key` and this weight.
    pub(crate) fn evict(&mut self, tier: Tier, key: KeyRef<'_>, weight: usize) -> Option<Gone<V>> {
        match tier {
            Tier::Main => self.evict_main(key.short_hash(), weight),
            Tier::Hot => {
                let (hash, entry) = self.hot.evict()?;
                self.forget(entry.expires, Name::Hot(hash));
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
        self.forget(entry.expires, Name::Main(at));
        Some(Gone {
            entry,
            tier: Tier::Main,
            cause: match loser {
                Loser::Evicted => EvictionCause::Size,
                Loser::Rejected => EvictionCause::Rejected,
            },
        })
    }

    /// When the first of the entries expires.
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

    /// All entries, with the requests for each of them that are remembered.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&Entry<V>, f64)> {
        let main = self.main.items().map(|(at, entry)| (Name::Main(at), entry));
        let hot = self
            .hot
            .entries()
            .map(|(hash, entry)| (Name::Hot(hash), entry));
        main.chain(hot).map(|(name, entry)| {
            let past = self.rates.get(&name).map_or(0.0, Rate::requests);
            (entry, past + f64::from(entry.hits))
        })
    }

    /// Everything, which is then no longer here.
    pub(crate) fn take_all(&mut self) -> Store<V> {
        std::mem::replace(self, Store::new(self.grace))
    }

    pub(crate) fn into_entries(self) -> impl Iterator<Item = (Entry<V>, Tier)> {
        let main = self.main.into_items().map(|entry| (entry, Tier::Main));
        let hot = self.hot.into_entries().map(|entry| (entry, Tier::Hot));
        main.chain(hot)
    }

    #[inline]
    fn find_main(&self, key: KeyRef<'_>) -> Option<At> {
        self.main.find(key.short_hash(), |entry| entry.is(key))
    }

    fn take(&mut self, name: Name, cause: EvictionCause) -> Option<Gone<V>> {
        let (entry, tier) = match name {
            Name::Main(at) => (self.main.remove(at)?, Tier::Main),
            Name::Hot(hash) => (self.hot.remove(hash)?, Tier::Hot),
        };
        self.forget(entry.expires, name);
        Some(Gone { entry, tier, cause })
    }

    /// When an entry leaves for its age.
    pub(crate) fn drop_tick(&self, tier: Tier, expires: Expiry) -> Option<Tick> {
        let grace = match tier {
            Tier::Main => self.grace,
            Tier::Hot => 0,
        };
        Some(expires.tick()?.saturating_add(grace))
    }

    fn note_expiry(&mut self, expires: Expiry, name: Name) {
        if let Some(tick) = self.drop_tick(name.tier(), expires) {
            self.expiries.insert((tick, name));
        }
    }

    fn forget(&mut self, expires: Expiry, name: Name) {
        if let Some(tick) = self.drop_tick(name.tier(), expires) {
            self.expiries.remove(&(tick, name));
        }
        if !self.rates.is_empty() {
            self.rates.remove(&name);
        }
    }

    /// Whether the shadows want to see the requests for a key.
    #[inline]
    fn is_followed(&self, key: KeyRef<'_>) -> bool {
        let follows = |shadows: &Shadows| shadows.follow(key.short_hash());
        self.shadows.as_deref().is_some_and(follows)
    }

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
        let has_expired = |&&(expires, _): &&(Tick, Name)| expires <= tick;
        self.expiries.iter().take_while(has_expired).count()
    }

    /// Recomputes every counter and compares.
    #[cfg(test)]
    pub(crate) fn validate(&self) {
        self.main.validate();
        let mut expiring = 0;
        let mut note = |entry: &Entry<V>, name: Name| {
            if let Some(tick) = self.drop_tick(name.tier(), entry.expires) {
                expiring += 1;
                assert!(self.expiries.contains(&(tick, name)));
            }
        };
        for (at, entry) in self.main.items() {
            note(entry, Name::Main(at));
        }
        let mut hot_bytes = 0;
        for (hash, entry) in self.hot.entries() {
            note(entry, Name::Hot(hash));
            hot_bytes += entry.weight();
            let twice = self
                .main
                .items()
                .any(|(_, other)| other.key() == entry.key());
            assert!(!twice, "{} is kept twice", entry.key());
        }
        assert_eq!(self.expiries.len(), expiring);
        assert_eq!(self.hot.bytes(), hot_bytes, "I4");
        for name in self.rates.keys() {
            assert!(match *name {
                Name::Main(at) => self.main.item(at).is_some(),
                Name::Hot(hash) => self.hot.entries().any(|(other, _)| other == hash),
            });
        }
    }
}

impl Name {
    fn tier(self) -> Tier {
        match self {
            Name::Main(_) => Tier::Main,
            Name::Hot(_) => Tier::Hot,
        }
    }
}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // A table that hands hashes through wants bits everywhere.
        state.write_u64(match *self {
            Name::Main(at) => u64::from(at).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            Name::Hot(hash) => hash,
        });
    }
}

#[cfg(test)]
pub(crate) mod tests;
