//! The list of peers, and its changes.

use std::time::Instant;

use crate::cache::key::MAX_ID_BYTES;
use crate::cluster::change::Reach;
use crate::cluster::left_peers::is_among;
use crate::cluster::members::{Listed, Members, Transition, deduplicated};
use crate::cluster::remote::{Remote, TombstoneSync};
use crate::cluster::state::Cluster;
use crate::error::Error;
use crate::protocol::dialect::Dialect;
use crate::runtime::sync::Arc;
use crate::transport::peer::Peer;

impl Cluster {
    /// Replaces the list by what `change` returns for it. Peers that stay keep their connections.
    pub(crate) fn change_peers(
        self: &Arc<Self>,
        allow_absent: bool,
        change: impl Fn(&[Peer]) -> Result<Vec<Peer>, Error>,
    ) -> Result<(), Error> {
        loop {
            let old = self.members();
            let peers = deduplicated(change(&old.peers())?)?;
            if !allow_absent && !peers.iter().any(|peer| self.is_this(peer)) {
                return Err(Error::SelfMissing {
                    id: self.this().name().into(),
                });
            }
            let dialect = self.settings.dialect;
            peers
                .iter()
                .try_for_each(|peer| check_peer(dialect, peer))?;
            let listed = peers.into_iter().map(|peer| self.listed(&old, peer));
            let transition = Transition {
                dialect,
                is_leaving: self.is_leaving(),
                now: self.clock.now(),
                warm_up: self.settings.warm_up,
            };
            let new = Arc::new(old.next(listed.collect::<Result<_, Error>>()?, transition));
            if self.replace_members(&old, &new) {
                self.log_list_change(&old, &new);
                self.follow_list_change(&old, &new);
                return Ok(());
            }
            // Another thread has changed the list meanwhile: neither change may undo the other.
        }
    }

    /// A peer of the new list: with the same remote as before if its id and its address are the same.
    fn listed(&self, old: &Members, peer: Peer) -> Result<Listed, Error> {
        if self.is_this(&peer) {
            return Ok(Listed { peer, remote: None });
        }
        let is_same = |remote: &Arc<Remote>| {
            remote.peer.name() == peer.name() && remote.peer.address() == peer.address()
        };
        let left = self.left_peers.recent(self.clock.now());
        let remote = match old.remotes().into_iter().chain(left).find(is_same) {
            Some(remote) => remote,
            None => {
                let remote = Remote::new(
                    &peer,
                    self.transport.link(&peer, &self.settings.limits)?,
                    self.gate.addressee(&peer),
                    self.settings.circuit_failures,
                    self.settings.dialect,
                );
                // Before anything is fetched from it, and until it is in the list.
                let range = self.journal.whole_range(self.clock.now());
                remote.pending_removals.add(range.start..u64::MAX);
                Arc::new(remote)
            }
        };
        Ok(Listed {
            peer,
            remote: Some(remote),
        })
    }

    /// Replaces the members, if they are still the old ones, so that peers that join the list, and
    /// peers that leave it, miss no removal. Returns whether the members were replaced.
    fn replace_members(&self, old: &Arc<Members>, new: &Arc<Members>) -> bool {
        let change = self.list_change.lock();
        // Changes in progress, and changes that are recorded from here on, may be sent to the new list
        // only.
        let end = self.journal.finished_end();
        if !self.swap_members(old, new) {
            return false;
        }
        let (before, after) = (old.remotes(), new.remotes());
        for remote in after.iter().filter(|remote| !is_among(&before, remote)) {
            // What was recorded before the peer was in the list is pending for it.
            remote.pending_removals.end_at(self.journal.end());
        }
        let leaving = before
            .into_iter()
            .filter(|remote| !is_among(&after, remote));
        let leaving: Vec<_> = leaving.collect();
        for remote in &leaving {
            remote.pending_removals.add(end..u64::MAX);
        }
        let dropped = self.left_peers.update(leaving, &after, self.clock.now());
        drop(change);
        drop(dropped); // links are user code (I1)
        true
    }

    fn swap_members(&self, old: &Arc<Members>, new: &Arc<Members>) -> bool {
        let mut members = self.members.write();
        let is_unchanged = Arc::ptr_eq(&members, old);
        if is_unchanged {
            *members = Arc::clone(new); // the caller still holds the old: nothing is dropped here
        }
        is_unchanged
    }

    fn log_list_change(&self, old: &Members, new: &Members) {
        match (old.has_this(), new.has_this()) {
            (true, false) => log::warn!(
                target: "groupcache", this:% = self.this();
                "this node is not in the list of peers: it owns nothing and asks the others; \
                 if it should be, the list must name it like this"
            ),
            (false, true) => log::info!(
                target: "groupcache", this:% = self.this();
                "this node is in the list of peers again"
            ),
            _ => {}
        }
        if old.fingerprint() != new.fingerprint() {
            log::info!(
                target: "groupcache",
                peers = new.listed().len(), ring:% = format!("{:x}", new.fingerprint());
                "the ring has changed"
            );
        }
    }

    /// Clears this node if it has joined or left the list itself, and wakes the maintenance for the
    /// pending removals of peers that join the list or leave it.
    fn follow_list_change(self: &Arc<Self>, old: &Members, new: &Members) {
        if old.has_this() != new.has_this() {
            // A node that is in no list receives no removals. So it keeps nothing of what it owned
            // before, and, back in the list, nothing of what it has loaded meanwhile.
            self.clear_all(Reach::All);
            new.remotes()
                .iter()
                .for_each(|remote| remote.set_tombstone_sync(TombstoneSync::NotDone));
        }
        self.wake_offers();
        // Once each of them is in one of the two lists: the maintenance may have run in between.
        self.removal_recipients()
            .iter()
            .for_each(|remote| self.wake_maintenance_for(remote));
    }

    /// The peers that receive removals: those in the list, and those that have left it not long ago.
    pub(super) fn removal_recipients(&self) -> Vec<Arc<Remote>> {
        let mut all = self.members().remotes();
        let mut left = self.left_peers.recent(self.clock.now());
        left.retain(|remote| !is_among(&all, remote)); // it may have come back in between
        all.extend(left);
        all
    }

    /// Drops the former rings that have expired, and the links to peers that are only on those.
    pub(crate) fn forget_expired_rings(&self, now: Instant) {
        let members = self.members();
        if let Some(newer) = members.without_expired_rings(now) {
            // If the list has just changed, the next call does it.
            self.swap_members(&members, &Arc::new(newer));
        }
    }
}

/// Checks whether this can be a peer in a cluster of this dialect.
pub(crate) fn check_peer(dialect: Dialect, peer: &Peer) -> Result<(), Error> {
    if peer.name().len() > MAX_ID_BYTES {
        let reason = format!("its id is longer than {MAX_ID_BYTES} bytes: give it a shorter one");
        return Err(Error::peer(peer.name(), reason));
    }
    if dialect == Dialect::Golang && peer.weight != 1.0 {
        let reason = "the ring of golang/groupcache knows no weights: leave it at 1";
        return Err(Error::peer(peer.name(), reason));
    }
    Ok(())
}
