//! `LeftPeers`: peers that have left the list not long ago. They still receive removals, as they may
//! come back.

use std::time::Instant;

use crate::cluster::journal::MEMORY;
use crate::cluster::remote::Remote;
use crate::runtime::sync::{Arc, Mutex};

/// The most peers that are kept.
const MAX_LEFT_PEERS: usize = 64;

/// Peers that have left the list, and when, the last to leave last.
#[derive(Default)]
pub(super) struct LeftPeers(Mutex<Vec<LeftPeer>>);

type LeftPeer = (Arc<Remote>, Instant);

/// Peers that are not kept any more. Links are user code (I1): dropped by the caller, without a lock.
#[must_use = "peers are dropped when no lock is held"]
pub(super) struct Dropped {
    _peers: Vec<LeftPeer>,
}

impl LeftPeers {
    /// Adds peers that leave the list, and removes those that are in it again.
    pub(super) fn update(
        &self,
        leaving: Vec<Arc<Remote>>,
        listed: &[Arc<Remote>],
        now: Instant,
    ) -> Dropped {
        let mut left = self.0.lock();
        let (mut kept, mut dropped): (Vec<_>, Vec<_>) = std::mem::take(&mut *left)
            .into_iter()
            .partition(|(remote, since)| !is_among(listed, remote) && is_recent(*since, now));
        kept.extend(leaving.into_iter().map(|remote| (remote, now)));
        dropped.extend(kept.drain(..kept.len().saturating_sub(MAX_LEFT_PEERS)));
        debug_assert!(kept.len() <= MAX_LEFT_PEERS);
        *left = kept;
        Dropped { _peers: dropped }
    }

    /// The peers that left not long ago. Drops the others.
    pub(super) fn recent(&self, now: Instant) -> Vec<Arc<Remote>> {
        let (kept, dropped): (Vec<_>, Vec<_>) = {
            let mut left = self.0.lock();
            let all = std::mem::take(&mut *left).into_iter();
            let (kept, dropped) = all.partition(|&(_, since)| is_recent(since, now));
            *left = kept;
            (left.clone(), dropped)
        };
        drop(dropped); // links are user code (I1)
        kept.into_iter().map(|(remote, _)| remote).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

fn is_recent(since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(since) <= MEMORY
}

pub(super) fn is_among(list: &[Arc<Remote>], remote: &Arc<Remote>) -> bool {
    list.iter().any(|other| Arc::ptr_eq(other, remote))
}
