//! `Table`: the flights that can be joined, by key.

use std::collections::HashMap;

use crate::cache::key::{HandThrough, Hashed, Key, KeyRef};
use crate::flight::in_flight::InFlight;
use crate::flight::outcome::Payload;
use crate::flight::wait_graph::WaitGraph;
use crate::runtime::sync::{Arc, Mutex};

/// Flights are made when something is loaded or fetched: a few locks are enough, and a group is to
/// cost little.
const SHARDS: usize = 4;

const _: () = assert!(SHARDS > 0);

/// The flights that can be joined, with results `T`, whose waiters receive a `W`.
pub(super) struct Table<T: Payload, W> {
    shards: Vec<Mutex<Shard<T, W>>>,
    wait_graph: Arc<WaitGraph>,
}

pub(super) type Shard<T, W> = HashMap<Key, Arc<InFlight<T, W>>, HandThrough>;

/// What a key has in the table.
pub(super) enum Entry<F> {
    /// A flight that was there.
    Found(F),
    /// A flight that has just been put there.
    Started(F),
}

impl<T: Payload, W> Table<T, W> {
    pub(super) fn new(wait_graph: Arc<WaitGraph>) -> Table<T, W> {
        let shard = |_| Mutex::new(Shard::default());
        Table {
            shards: (0..SHARDS).map(shard).collect(),
            wait_graph,
        }
    }

    pub(super) fn wait_graph(&self) -> &Arc<WaitGraph> {
        &self.wait_graph
    }

    pub(super) fn shards(&self) -> &[Mutex<Shard<T, W>>] {
        &self.shards
    }

    pub(super) fn shard_of(&self, key: KeyRef<'_>) -> &Mutex<Shard<T, W>> {
        &self.shards[key.shard(SHARDS)]
    }

    /// The flight of `key`; one that is started, if there is none.
    pub(super) fn find_or_start(
        &self,
        key: KeyRef<'_>,
        start: impl FnOnce() -> InFlight<T, W>,
    ) -> Entry<Arc<InFlight<T, W>>> {
        let mut shard = self.shard_of(key).lock();
        if let Some(flight) = shard.get(&key as &dyn Hashed) {
            return Entry::Found(Arc::clone(flight));
        }
        let flight = Arc::new(start());
        shard.insert(flight.key().clone(), Arc::clone(&flight));
        Entry::Started(flight)
    }

    /// Takes `flight` out of the table, but never its successor (I3).
    pub(super) fn take_out(&self, flight: &Arc<InFlight<T, W>>) {
        let key = flight.key().as_ref();
        let mut shard = self.shard_of(key).lock();
        let found = shard.get(&key as &dyn Hashed);
        if found.is_some_and(|found| Arc::ptr_eq(found, flight)) {
            // The caller holds the flight: nothing is dropped here but a count.
            shard.remove(&key as &dyn Hashed);
        }
    }
}
