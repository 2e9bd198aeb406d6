//! `Departures`: what becomes of entries that have left a shard. The eviction listener hears of each,
//! and each value is dropped; both happen after unlocking, because both may be user code (I1).

use crate::cache::store::{EvictionCause, Gone, Store};
use crate::runtime::sync::Arc;
use crate::runtime::user_code;
use crate::value::Cacheable;

/// The user's callback for values that leave: key, value and cause.
pub(crate) type Listener<V> = Arc<dyn Fn(&str, &V, EvictionCause) + Send + Sync>;

/// How deep calls of the listener cause each other: a listener may make values leave, of which it is
/// called in turn. One that makes another value leave each time would be called without end.
const MAX_DEPTH: usize = 3;

/// Entries that have left and are to be dismissed. Usually there is one, which needs no memory.
pub(super) struct Leaving<V: 'static> {
    first: Option<Gone<V>>,
    more: Vec<Gone<V>>,
}

impl<V> Leaving<V> {
    pub(super) fn new() -> Leaving<V> {
        Leaving {
            first: None,
            more: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, gone: Gone<V>) {
        match self.first {
            None => self.first = Some(gone),
            Some(_) => self.more.push(gone),
        }
    }
}

/// Dismisses entries whose bytes have been given back.
pub(super) struct Departures<V: Cacheable> {
    listener: Option<Listener<V>>,
}

impl<V: Cacheable> Departures<V> {
    pub(super) fn new(listener: Option<Listener<V>>) -> Departures<V> {
        Departures { listener }
    }

    pub(super) fn has_listener(&self) -> bool {
        self.listener.is_some()
    }

    /// Dismisses one entry: the listener is called and the value is dropped, once this thread may
    /// run user code.
    pub(super) fn dismiss(&self, gone: Gone<V>) {
        match &self.listener {
            Some(listener) if user_code::depth() < MAX_DEPTH => {
                let listener = Arc::clone(listener);
                user_code::defer(move || call(&*listener, &gone));
            }
            None if gone.entry.value.is_ours() => drop(gone),
            _ => user_code::defer_drop(gone),
        }
    }

    /// As [`dismiss`](Departures::dismiss), for many: they are one deferred call, however many
    /// they are.
    pub(super) fn dismiss_each(&self, gone: Vec<Gone<V>>) {
        match &self.listener {
            Some(listener) if user_code::depth() < MAX_DEPTH => {
                let listener = Arc::clone(listener);
                user_code::defer(move || gone.into_iter().for_each(|gone| call(&*listener, &gone)));
            }
            _ => gone.into_iter().for_each(|gone| self.dismiss(gone)),
        }
    }

    pub(super) fn dismiss_leaving(&self, leaving: Leaving<V>) {
        match (leaving.first, leaving.more) {
            (Some(gone), more) if more.is_empty() => self.dismiss(gone),
            (first, more) => self.dismiss_each(first.into_iter().chain(more).collect()),
        }
    }

    /// Dismisses all that was in a store.
    pub(super) fn dismiss_all(&self, store: Store<V>, cause: EvictionCause) {
        if self.listener.is_none() {
            drop(store);
            return;
        }
        let gone = store
            .into_entries()
            .map(move |(entry, tier)| Gone { entry, tier, cause });
        self.dismiss_each(gone.collect());
    }
}

fn call<V: Cacheable>(listener: &(dyn Fn(&str, &V, EvictionCause) + Send + Sync), gone: &Gone<V>) {
    if let Some(value) = gone.entry.value.get() {
        let called = user_code::call(|| listener(gone.entry.key(), value, gone.cause));
        if let Err(panicked) = called {
            user_code::report(
                "an eviction listener panicked; the cache goes on",
                &panicked,
            );
        }
    }
}
