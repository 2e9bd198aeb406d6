//! `Sweep`: what drops its expired values when it is swept. The groups of a node do.

use crate::cluster::change::Reach;
use crate::runtime::maintenance::guarded;
use crate::runtime::sync::{Mutex, Weak};

/// Something that keeps values.
pub(crate) trait Sweep: Send + Sync {
    /// Drops expired values; returns whether there are others that will expire.
    fn sweep(&self) -> bool;

    /// Drops all values, or all copies.
    fn clear(&self, reach: Reach);
}

/// All that are swept. It holds none of them, so there is no cycle.
#[derive(Default)]
pub(super) struct Sweeps(Mutex<Vec<Weak<dyn Sweep>>>);

impl Sweeps {
    pub(super) fn add(&self, sweep: Weak<dyn Sweep>) {
        let mut sweeps = self.0.lock();
        sweeps.retain(|sweep| sweep.strong_count() > 0);
        sweeps.push(sweep);
    }

    /// Sweeps all; returns whether there are values that will expire.
    pub(super) fn sweep_all(&self) -> bool {
        let sweeps = self.0.lock().clone();
        let mut more = false;
        for sweep in sweeps.iter().filter_map(Weak::upgrade) {
            // What a sweep that has panicked leaves is not known.
            more |= guarded(|| sweep.sweep()).unwrap_or(true);
        }
        more
    }

    /// Clears all.
    pub(super) fn clear_all(&self, reach: Reach) {
        let sweeps = self.0.lock().clone();
        sweeps
            .iter()
            .filter_map(Weak::upgrade)
            .for_each(|sweep| sweep.clear(reach));
    }
}
