//! Handover: removals that a peer has missed are kept by two nodes, the one that made them and its
//! successor, so that they are not lost with one process. A node that leaves gives its whole journal to
//! other nodes, which deliver the pending removals.

use std::collections::HashSet;
use std::ops::Range;

use crate::cluster::journal::{LoggedRemoval, MEMORY};
use crate::cluster::remote::{Failure, Remote};
use crate::cluster::state::Cluster;
use crate::error::Unreached;
use crate::protocol::dialect::Dialect;
use crate::protocol::{MAX_COMMAND, MAX_REMOVALS, MAX_TOLD, NodeCommand, Removal, Whom};
use crate::runtime::clock::Deadline;
use crate::runtime::sync::Arc;

/// The most removals of one request, and the most bytes of their keys and groups.
const REMOVALS_PER_REQUEST: usize = 1_000;
const BYTES_PER_REQUEST: usize = 1 << 19;

const _: () = assert!(REMOVALS_PER_REQUEST <= MAX_REMOVALS);

/// The most bytes of the ids of peers that have received the removals already.
const MAX_ID_LIST_BYTES: usize = 1 << 16;

const _: () = assert!(BYTES_PER_REQUEST + MAX_ID_LIST_BYTES <= MAX_COMMAND);

impl Cluster {
    /// Gives the journal to other nodes: what is pending for a peer to one that delivers it, and all of
    /// it to one that delivers it to peers that are yet to join. Returns the peers with pending removals
    /// that no other node takes over.
    pub(crate) fn hand_over_removals(self: &Arc<Self>, deadline: Deadline) -> Vec<Unreached> {
        let now = self.clock.now();
        let successors = self.successors();
        let mut remotes = self.removal_recipients();
        remotes.retain(|remote| remote.speaks() != Some(Dialect::Golang)); // they receive none
        let mut unreached = Vec::new();
        for remote in &remotes {
            let is_other = |successor: &&Arc<Remote>| !Arc::ptr_eq(remote, successor);
            let successors = successors.iter().filter(is_other);
            let mut removals = self.journal.removals(&remote.pending_removals);
            removals.extend(self.journal.removals(&remote.pending_copy_removals));
            let to = Whom::One(remote.peer.name().to_owned());
            if !self.hand_to_first(successors, &to, &removals, deadline) {
                let reason = "no node takes over its pending removals".into();
                unreached.push(remote.unreached(&Failure::Unreachable(reason)));
            }
        }
        let to = Whom::AllBut(ids_of(&remotes));
        let removals = self.journal.removals_in(&self.journal.whole_range(now));
        self.hand_to_first(successors.iter(), &to, &removals, deadline);
        unreached
    }

    /// Gives a change that `missed` peers have not received to one of the others, which delivers it to them as
    /// this node does: whoever can first. Where no other node takes it, it is lost if this process ends.
    pub(crate) fn share_missed(
        self: &Arc<Self>,
        change: &Range<u64>,
        missed: &[Unreached],
        deadline: Deadline,
    ) {
        let missed = missed.iter().filter(|missed| !missed.unsupported);
        let missed: Vec<&str> = missed.map(|missed| &*missed.peer).collect();
        if missed.is_empty() {
            return;
        }
        let removals = self.journal.removals_in(change);
        let mut successors = self.successors();
        successors.retain(|remote| !missed.contains(&remote.peer.name()));
        for id in missed {
            let to = Whom::One(id.to_owned());
            self.hand_to_first(successors.iter(), &to, &removals, deadline);
        }
    }

    /// The peers that may take removals over, the next one after this node first: so each node has another
    /// one.
    fn successors(&self) -> Vec<Arc<Remote>> {
        let takes = |remote: &Arc<Remote>| {
            remote.takes_batches() && !remote.circuit.is_open() && !remote.has_left()
        };
        let mut successors = self.members().remotes();
        successors.retain(takes);
        successors.sort_by(|a, b| a.peer.name().cmp(b.peer.name()));
        let this = self.this();
        let (before, after): (Vec<_>, Vec<_>) = successors
            .into_iter()
            .partition(|remote| remote.peer.name() < this.name());
        [after, before].concat()
    }

    /// Gives removals to the first successor that takes them; returns whether one did, or there are
    /// none.
    fn hand_to_first<'a>(
        self: &Arc<Self>,
        mut successors: impl Iterator<Item = &'a Arc<Remote>>,
        to: &Whom,
        removals: &[LoggedRemoval],
        deadline: Deadline,
    ) -> bool {
        let takes = |successor| self.hand_to(successor, to, removals, deadline).is_ok();
        removals.is_empty() || successors.any(takes)
    }

    fn hand_to(
        self: &Arc<Self>,
        successor: &Arc<Remote>,
        to: &Whom,
        removals: &[LoggedRemoval],
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let now = self.clock.now();
        let mut rest = removals;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |removal: &&LoggedRemoval| {
                bytes += removal.group.as_deref().map_or(0, str::len)
                    + removal.key.as_deref().map_or(0, str::len);
                bytes <= BYTES_PER_REQUEST
            };
            let count = rest
                .iter()
                .take(REMOVALS_PER_REQUEST)
                .take_while(fits)
                .count()
                .max(1);
            let (sent, later) = rest.split_at(count);
            let removals = sent.iter().map(|removal| Removal {
                group: removal.group.as_deref().map(str::to_owned),
                key: removal.key.as_deref().map(str::to_owned),
                age: now.saturating_duration_since(removal.at),
            });
            let command = NodeCommand::Deliver {
                to: to.clone(),
                removals: removals.collect(),
            };
            self.send_command(successor, command, None, deadline)?;
            rest = later;
        }
        Ok(())
    }

    /// Takes removals over from a node that leaves, to deliver them; returns whether this node can, as
    /// it knows the peer that they are for.
    pub(crate) fn take_over_removals(self: &Arc<Self>, to: &Whom, removals: &[Removal]) -> bool {
        let is_recipient = |remote: &Arc<Remote>| match to {
            Whom::One(id) => remote.peer.name() == id,
            Whom::AllBut(others) => !others.iter().any(|id| remote.peer.name() == id),
        };
        if matches!(to, Whom::One(_)) && !self.removal_recipients().iter().any(is_recipient) {
            return false;
        }
        let now = self.clock.now();
        let mut names: HashSet<Arc<str>> = HashSet::new();
        let mut shared = |name: &str| match names.get(name) {
            Some(name) => Arc::clone(name),
            None => {
                let name: Arc<str> = Arc::from(name);
                names.insert(Arc::clone(&name));
                name
            }
        };
        let logged = removals.iter().map(|removal| {
            let at = now.checked_sub(removal.age.min(MEMORY));
            LoggedRemoval {
                group: removal.group.as_deref().map(&mut shared),
                key: removal.key.as_deref().map(Arc::from),
                at: at.unwrap_or(now),
            }
        });
        let range = self.journal.take_over(logged.collect(), now);
        for remote in self.removal_recipients().into_iter().filter(is_recipient) {
            remote.pending_removals.add(range.clone());
            self.wake_maintenance_for(&remote);
        }
        true
    }
}

/// The ids of peers that need not receive the removals once more, which would only cost loads. Of very
/// many peers, none: all receive them once more.
fn ids_of(remotes: &[Arc<Remote>]) -> Vec<String> {
    let ids = remotes.iter().map(|remote| remote.peer.name().to_owned());
    let ids: Vec<String> = ids.collect();
    let bytes = ids.iter().map(String::len).sum::<usize>();
    match ids.len() > MAX_TOLD || bytes > MAX_ID_LIST_BYTES {
        true => Vec::new(),
        false => ids,
    }
}
