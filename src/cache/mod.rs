//! `cache`: the values of a group that a process keeps, limited in bytes and not in entries.
//!
//! Imports `runtime` and `value`. In this order: `key` (a key with its hash), `entry` (a kept value with
//! its weight and its expiry), `policy` (which entries stay), `lru` (copies of the values that other
//! processes own) and `hot` (which of them are worth a copy), `store` (the entries of one shard, for one
//! thread), `budget` (the limits in bytes), and `shards`, the cache that groups see.

mod budget;
pub(crate) mod entry;
pub(crate) mod hot;
pub(crate) mod key;
mod lru;
mod policy;
pub(crate) mod shards;
pub(crate) mod store;
