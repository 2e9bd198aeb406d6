//! `shards`: the cache that a group sees. Main and hot values, in shards, under one budget in bytes.
//!
//! A shard is a lock around a [`Store`](crate::cache::store::Store): the store decides what stays, this
//! folder locks. All shards share one budget, so a value of half of it fits however many shards there
//! are. Room is made before a value is kept, so the bytes never exceed the budget, not even for a moment
//! (I4).
//!
//! Values of the user's types are cloned and dropped, and the eviction listener is called, after
//! unlocking and after the bytes of the value are given back (I1). So all of that may call the cache
//! again. A hit touches its shard and nothing else.
//!
//! In this order: `shard` (a locked store with its counters), `departures` (what becomes of entries that
//! leave), `expiry_clock` (the time in ticks), `cache` (all of them together), `eviction` (where room
//! comes from) and `lookup` (how a value is found).

mod cache;
mod departures;
mod eviction;
mod expiry_clock;
mod lookup;
mod shard;

pub use cache::ENTRY_OVERHEAD;
pub(crate) use cache::{Cache, Grace, HotKey};
pub(crate) use departures::Listener;
pub(crate) use lookup::Found;
pub(crate) use shard::Counts;

#[cfg(test)]
mod tests;
