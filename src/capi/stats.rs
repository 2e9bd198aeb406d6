//! `groupcache_group_stats`, `groupcache_node_stats`: snapshots of the counters.

use super::status::Failure;
use crate::stats::{GroupStats, NodeStats};

/// What happened in a group on this node since it was made.
/// `gets = main_hits + hot_hits + joined + leads`. New fields are added at the end only.
#[repr(C)]
pub struct groupcache_group_stats {
    /// Local gets. A `groupcache_group_try_get` counts only if it finds something.
    pub gets: u64,
    /// Gets that found a value this node owns in its memory, or that there is none.
    pub main_hits: u64,
    /// Gets that found a mirrored value in memory.
    pub hot_hits: u64,
    /// Gets that waited for another thread's load or fetch.
    pub joined: u64,
    /// Gets that had to load or fetch.
    pub leads: u64,
    /// Runs of the loader, for local callers and for peers.
    pub loads: u64,
    /// Runs of the loader that failed or found nothing.
    pub load_errors: u64,
    /// Loads that were refused, because as many were running as may.
    pub overloads: u64,
    /// Values asked for from peers.
    pub fetches: u64,
    /// Fetches that got neither a value nor an answer that there is none.
    pub fetch_errors: u64,
    /// Values asked for from the peers that owned their keys before the ring changed.
    pub peeks: u64,
    /// Those of them that were taken over, and not loaded anew.
    pub inherited: u64,
    /// Requests from peers for a value.
    pub served: u64,
    /// Requests from peers answered from memory.
    pub served_hits: u64,
    /// Keys removed, by local callers and for peers.
    pub removes: u64,
    /// Entries that made room for others.
    pub evictions: u64,
    /// Those of them that were new, and asked for less often than what they would have displaced.
    pub rejections: u64,
    /// Entries that left because their time was over.
    pub expirations: u64,
    /// Those of the hits that found a value past its expiry, which is being renewed.
    pub stale_hits: u64,
    /// Gets that were answered with a value past its expiry because its load failed.
    pub stand_ins: u64,
    /// Those of the hits in main that found that there is no value.
    pub absent_hits: u64,
    /// Those of the entries in main that say that there is no value.
    pub absent_items: u64,
    /// Entries this node owns.
    pub main_items: u64,
    /// Mirrored entries.
    pub hot_items: u64,
    /// The weight of the entries this node owns, in bytes: keys, values and overhead.
    pub main_bytes: u64,
    /// The weight of the mirrored entries, in bytes.
    pub hot_bytes: u64,
    /// Loads and fetches under way.
    pub flights: u64,
}

impl From<GroupStats> for groupcache_group_stats {
    fn from(stats: GroupStats) -> groupcache_group_stats {
        groupcache_group_stats {
            gets: stats.gets,
            main_hits: stats.main_hits,
            hot_hits: stats.hot_hits,
            joined: stats.joined,
            leads: stats.leads,
            loads: stats.loads,
            load_errors: stats.load_errors,
            overloads: stats.overloads,
            fetches: stats.fetches,
            fetch_errors: stats.fetch_errors,
            peeks: stats.peeks,
            inherited: stats.inherited,
            served: stats.served,
            served_hits: stats.served_hits,
            removes: stats.removes,
            evictions: stats.evictions,
            rejections: stats.rejections,
            expirations: stats.expirations,
            stale_hits: stats.stale_hits,
            stand_ins: stats.stand_ins,
            absent_hits: stats.absent_hits,
            absent_items: stats.absent_items,
            main_items: stats.main_items,
            hot_items: stats.hot_items,
            main_bytes: stats.main_bytes,
            hot_bytes: stats.hot_bytes,
            flights: stats.flights,
        }
    }
}

/// What a node knows of itself. New fields are added at the end only.
#[repr(C)]
pub struct groupcache_node_stats {
    /// Peers of the ring, this node included.
    pub peers: u64,
    /// Equal on two nodes exactly if they agree on who owns what.
    pub ring: u64,
    /// Answers of peers whose ring was another one.
    pub ring_mismatches: u64,
    /// Requests of peers that were refused, as they did not prove where they come from.
    pub refused_requests: u64,
    /// Threads of the loader pool.
    pub loader_threads: u64,
    /// Threads of the loader pool that are inside a loader.
    pub loader_threads_busy: u64,
    /// Requests that were meant for another cluster or another peer, and were refused.
    pub misdirected_requests: u64,
}

impl From<NodeStats> for groupcache_node_stats {
    fn from(stats: NodeStats) -> groupcache_node_stats {
        groupcache_node_stats {
            peers: stats.peers.len() as u64,
            ring: stats.ring,
            ring_mismatches: stats.ring_mismatches,
            refused_requests: stats.refused_requests,
            loader_threads: stats.loader_threads,
            loader_threads_busy: stats.loader_threads_busy,
            misdirected_requests: stats.misdirected_requests,
        }
    }
}

/// Fills a struct of a program that may be older or newer, and so know fewer or more fields.
///
/// # Safety
///
/// `out` is `NULL`, or has `size` bytes. `T` and its later forms are all right with zeros.
pub(super) unsafe fn fill<T>(out: *mut T, size: usize, filled: T) -> Result<(), Failure> {
    if out.is_null() {
        return Err(Failure::Null("out"));
    }
    let known = size.min(size_of::<T>());
    let out = out.cast::<u8>();
    // SAFETY: the caller promises `size` bytes, of which these are the first and the rest.
    unsafe {
        std::ptr::copy_nonoverlapping((&raw const filled).cast::<u8>(), out, known);
        out.add(known).write_bytes(0, size - known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_other_versions_get_what_both_know() {
        let stats = || {
            groupcache_node_stats::from(NodeStats {
                ring: 7,
                loader_threads_busy: 9,
                ..NodeStats::default()
            })
        };
        let mut words = [u64::MAX; 9];
        // SAFETY: there are at least so many bytes.
        unsafe { fill(words.as_mut_ptr().cast(), 16, stats()) }.unwrap();
        assert_eq!(
            words,
            [
                0,
                7,
                u64::MAX,
                u64::MAX,
                u64::MAX,
                u64::MAX,
                u64::MAX,
                u64::MAX,
                u64::MAX
            ]
        );
        // SAFETY: as above.
        unsafe { fill(words.as_mut_ptr().cast(), 64, stats()) }.unwrap();
        assert_eq!(words, [0, 7, 0, 0, 0, 9, 0, 0, u64::MAX]);
    }
}
