//! The statistics of a group.

use super::absences::Absences;
use super::shared::Shared;
use crate::stats::GroupStats;
use crate::stats::latency::Latencies;
use crate::value::Cacheable;

impl<V: Cacheable> Shared<V> {
    /// The `n` keys with the most requests over about the last minute, with the number of requests.
    pub(super) fn hottest(&self, n: usize) -> Vec<(String, u64)> {
        let hottest = self.cache.hottest(n).into_iter();
        hottest.map(|hot| (hot.key, hot.requests)).collect()
    }

    pub(super) fn latencies(&self) -> Latencies {
        self.timings.snapshot()
    }

    /// The memory of the group beside its entries, in bytes.
    fn overhead_bytes(&self) -> usize {
        let absences = self.absences.as_ref().map_or(0, Absences::heap_bytes);
        // The node keeps the name and a reference in two lists.
        let listed = self.name.len() + size_of::<(String, [usize; 4])>();
        size_of::<Self>()
            + self.name.len()
            + listed
            + self.cache.heap_bytes()
            + absences
            + self.failures.heap_bytes()
            + self.loads.heap_bytes()
            + self.fetches.heap_bytes()
            + self.timings.heap_bytes()
    }

    pub(super) fn stats(&self) -> GroupStats {
        let counts = self.cache.counts();
        let absent = self.absences.as_ref().map(Absences::counts);
        let absent = absent.unwrap_or_default();
        let main_hits = counts.main_hits + absent.main_hits;
        let counters = &self.counters;
        let (joined, leads) = (counters.joined.get(), counters.leads.get());
        GroupStats {
            gets: main_hits + counts.hot_hits + joined + leads,
            main_hits,
            hot_hits: counts.hot_hits,
            joined,
            leads,
            loads: counters.loads.get(),
            loader_runs: counters.loader_runs.get(),
            load_errors: counters.load_errors.get(),
            overloads: self.bulkhead.refused(),
            fetches: counters.fetches.get(),
            fetch_errors: counters.fetch_errors.get(),
            deputy_fetches: counters.deputy_fetches.get(),
            deputy_copies: counters.deputy_copies.get(),
            peeks: counters.peeks.get(),
            inherited: counters.inherited.get(),
            served: counters.served.get(),
            served_hits: counters.served_hits.get(),
            removes: counters.removes.get(),
            evictions: counts.evictions + absent.evictions,
            rejections: counts.rejections + absent.rejections,
            expirations: counts.expirations + absent.expirations,
            stale_hits: counts.stale_hits,
            stand_ins: counts.stand_ins,
            absent_hits: absent.main_hits,
            absent_items: absent.main_items as u64,
            capacity_bytes: self.capacity.bytes() as u64,
            overhead_bytes: self.overhead_bytes() as u64,
            main_items: (counts.main_items + absent.main_items) as u64,
            hot_items: counts.hot_items as u64,
            main_bytes: (counts.main_bytes + absent.main_bytes) as u64,
            hot_bytes: counts.hot_bytes as u64,
            loads_running: self.bulkhead.running() as u64,
            flights: (self.loads.len() + self.fetches.len()) as u64,
        }
    }
}
