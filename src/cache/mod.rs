//! `cache`: the values that a process keeps of a group, in bytes and not in entries.
//!
//! Imports `runtime` and `value`. In this order: `key` (a key with its hash), `entry` (a value with what
//! has to be known of it), `policy` (which entries stay), `lru` and `hot` (copies of the popular values of
//! other processes), `store` (what one shard keeps, for one thread), `budget`, and `shards`, which is the
//! cache that groups see.

mod budget;
pub(crate) mod entry;
pub(crate) mod hot;
pub(crate) mod key;
mod lru;
mod policy;
pub(crate) mod shards;
pub(crate) mod store;
