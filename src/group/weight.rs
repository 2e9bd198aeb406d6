//! Weights: how many bytes a value has, and what its entry is charged for in the cache.

use crate::cache::key::KeyRef;
use crate::cache::shards::ENTRY_OVERHEAD;

/// Says how many bytes a value has.
pub(super) type Weigher<V> = Box<dyn Fn(&V) -> usize + Send + Sync>;

/// What a value of this weight is charged for in the cache, in bytes (I4).
pub(super) fn charge(key: KeyRef<'_>, weight: usize) -> usize {
    weight
        .saturating_add(key.text().len())
        .saturating_add(ENTRY_OVERHEAD)
}
