//! `Members`: which peers belong to the cluster at one moment, and which of them owns a key.
//!
//! All peers of the list belong to it and receive changes. On the ring are those that have not
//! announced that they leave. For some time after the ring has changed, the former owner of a key is
//! known: it is asked for the value, from memory only, before the value is loaded anew.

use std::time::{Duration, Instant};

use crate::cluster::journal::RingTag;
use crate::cluster::remote::Remote;
use crate::cluster::ring::{Member, Ring};
use crate::error::Error;
use crate::protocol::dialect::Dialect;
use crate::runtime::sync::Arc;
use crate::transport::peer::Peer;

/// The most former rings that are remembered.
const MAX_FORMER_RINGS: usize = 4;

/// The members at one moment, swapped whole.
pub(crate) struct Members {
    listed: Vec<Listed>,
    owners: Arc<Owners>,
    /// The rings before this one, the newest first.
    former: Vec<FormerRing>,
}

/// A peer of the list. Without a `remote` it is this node.
#[derive(Clone)]
pub(crate) struct Listed {
    pub(crate) peer: Peer,
    pub(crate) remote: Option<Arc<Remote>>,
}

/// A ring and its members.
struct Owners {
    ring: Ring,
    /// In the order of the list the ring was made of. `None`: this node.
    members: Vec<Option<Arc<Remote>>>,
}

/// The owners by a ring that was replaced, which are remembered until that time.
#[derive(Clone)]
struct FormerRing {
    owners: Arc<Owners>,
    until: Instant,
}

/// The owner of a key.
pub(crate) enum Owner {
    This,
    Peer(Arc<Remote>),
}

/// Who loads a key while its owner is unreachable.
pub(crate) enum StandIn {
    /// It is told of changes together with the owner.
    Deputy(Owner),
    /// It is told of changes when all others are, perhaps later than the node that asks. So nobody else may have
    /// what it answers, and it is not kept.
    Other(Owner),
}

impl Owner {
    pub(crate) fn is(&self, remote: &Arc<Remote>) -> bool {
        matches!(self, Owner::Peer(peer) if Arc::ptr_eq(peer, remote))
    }
}

impl PartialEq for Owner {
    fn eq(&self, other: &Owner) -> bool {
        match (self, other) {
            (Owner::This, Owner::This) => true,
            (Owner::Peer(one), Owner::Peer(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// What the next members depend on besides their list.
#[derive(Clone, Copy)]
pub(crate) struct Transition {
    pub(crate) dialect: Dialect,
    /// Whether this node has announced that it leaves.
    pub(crate) is_leaving: bool,
    pub(crate) now: Instant,
    /// How long the former owners are remembered.
    pub(crate) warm_up: Duration,
}

impl Members {
    /// This node alone.
    pub(crate) fn alone(this: Peer, dialect: Dialect) -> Members {
        let listed = [Listed {
            peer: this,
            remote: None,
        }];
        Members {
            owners: Arc::new(Owners::of(dialect, &listed)),
            listed: listed.into(),
            former: Vec::new(),
        }
    }

    /// The next members, with this list.
    pub(crate) fn next(&self, listed: Vec<Listed>, transition: Transition) -> Members {
        let on_ring: Vec<Listed> = listed
            .iter()
            .filter(|listed| listed.is_on_ring(transition.is_leaving))
            .cloned()
            .collect();
        let owners = self.owners.changed(transition.dialect, &on_ring);
        let mut former = self.former_at(transition.now);
        if owners.ring.fingerprint() == self.owners.ring.fingerprint() {
            return Members {
                listed,
                owners: Arc::new(owners), // perhaps with other links
                former,
            };
        }
        let until = transition.now.checked_add(transition.warm_up);
        if let Some(until) = until.filter(|&until| until > transition.now) {
            let owners = self.former_owners(&owners, &on_ring, transition.dialect);
            former.insert(0, FormerRing { owners, until });
            former.truncate(MAX_FORMER_RINGS);
        }
        Members {
            listed,
            owners: Arc::new(owners),
            former,
        }
    }

    /// The owners until now. A node that was alone, as it has just started, owned nothing that others
    /// know of: the former owners of its keys are the peers that were there before it.
    fn former_owners(&self, new: &Owners, on_ring: &[Listed], dialect: Dialect) -> Arc<Owners> {
        if self.owners.members.iter().any(Option::is_some) {
            return Arc::clone(&self.owners);
        }
        let others = on_ring.iter().filter(|listed| listed.remote.is_some());
        Arc::new(new.changed(dialect, &others.cloned().collect::<Vec<_>>()))
    }

    /// The former rings that are still remembered.
    fn former_at(&self, now: Instant) -> Vec<FormerRing> {
        let is_remembered = |former: &&FormerRing| now < former.until;
        self.former.iter().filter(is_remembered).cloned().collect()
    }

    /// Whether one of the former rings was in force a short while ago.
    pub(crate) fn have_just_changed(&self, now: Instant) -> bool {
        self.former.iter().any(|former| now < former.until)
    }

    /// Whether there are former rings, expired or not.
    pub(crate) fn has_former_rings(&self) -> bool {
        !self.former.is_empty()
    }

    /// The same members without the former rings that have expired; `None` if none has.
    pub(crate) fn without_expired_rings(&self, now: Instant) -> Option<Members> {
        let former = self.former_at(now);
        (former.len() < self.former.len()).then(|| Members {
            listed: self.listed.clone(),
            owners: Arc::clone(&self.owners),
            former,
        })
    }

    /// All peers of the list.
    pub(crate) fn listed(&self) -> &[Listed] {
        &self.listed
    }

    /// Whether this node is in the list.
    pub(crate) fn has_this(&self) -> bool {
        self.listed.iter().any(|listed| listed.remote.is_none())
    }

    /// Whether the list has these peers, in whatever order.
    pub(crate) fn has_same_peers(&self, peers: &[Peer]) -> bool {
        let is_listed = |peer: &Peer| self.listed.iter().any(|listed| listed.peer == *peer);
        let is_there = |listed: &Listed| peers.contains(&listed.peer);
        peers.iter().all(is_listed) && self.listed.iter().all(is_there)
    }

    pub(crate) fn peers(&self) -> Vec<Peer> {
        let peers = self.listed.iter().map(|listed| listed.peer.clone());
        peers.collect()
    }

    /// All peers of the list but this node.
    pub(crate) fn remotes(&self) -> Vec<Arc<Remote>> {
        let remotes = self
            .listed
            .iter()
            .filter_map(|listed| listed.remote.clone());
        remotes.collect()
    }

    /// Whether these are the same peers on the same ring, so that a change that was sent to the others
    /// was sent to these.
    pub(crate) fn is_same_as(&self, others: &Members) -> bool {
        let (these, those) = (self.remotes(), others.remotes());
        let is_there = |remote: &Arc<Remote>| those.iter().any(|other| Arc::ptr_eq(other, remote));
        self.fingerprint() == others.fingerprint()
            && these.len() == those.len()
            && these.iter().all(is_there)
    }

    pub(crate) fn owner(&self, key: &str) -> Owner {
        self.owners.owner(key)
    }

    /// The owner of `key`, and its deputy, if there is anybody else on the ring.
    pub(crate) fn owner_and_deputy(&self, key: &str) -> (Owner, Option<Owner>) {
        self.owners
            .owner_and_deputy(key)
            .unwrap_or((Owner::This, None))
    }

    /// Who loads `key` while `owner` is unreachable: its deputy, or whoever owns it by now; and if that is
    /// unreachable too, who would own the key if all those were not there that are. `None` if there is nobody
    /// else on the ring.
    pub(crate) fn instead_of(
        &self,
        owner: &Arc<Remote>,
        key: &str,
        is_reachable: impl Fn(&Remote) -> bool,
    ) -> Option<StandIn> {
        let (current, deputy) = self.owner_and_deputy(key);
        let mut others = [Some(current), deputy].into_iter().flatten();
        let is_there = |node: &Owner| match node {
            Owner::This => true,
            Owner::Peer(peer) => !node.is(owner) && is_reachable(peer),
        };
        match others.find(|other| !other.is(owner))? {
            deputy if is_there(&deputy) => Some(StandIn::Deputy(deputy)),
            _ => Some(StandIn::Other(self.owners.owner_among(key, is_there)?)),
        }
    }

    /// The deputy of a key that this node owns, if it can be asked.
    pub(crate) fn deputy_of_owned(&self, key: &str) -> Option<Arc<Remote>> {
        match self.owner_and_deputy(key) {
            (Owner::This, Some(Owner::Peer(deputy))) => Some(deputy).filter(can_be_asked),
            _ => None,
        }
    }

    /// The owner of a key whose deputy this node is, if it can be asked.
    pub(crate) fn owner_for_deputy(&self, key: &str) -> Option<Arc<Remote>> {
        match self.owner_and_deputy(key) {
            (Owner::Peer(owner), Some(Owner::This)) => Some(owner).filter(can_be_asked),
            _ => None,
        }
    }

    /// The peer that owned a key last before this node, if that is not long ago and the peer can be
    /// asked.
    pub(crate) fn former_owner(&self, key: &str, now: Instant) -> Option<Arc<Remote>> {
        let former = self.former.iter().filter(|former| now < former.until);
        let owners = former.filter_map(|former| former.owners.owner_and_deputy(key));
        // A deputy has what it has loaded while the owner was unreachable.
        let holders = owners.flat_map(|(owner, deputy)| [Some(owner), deputy]);
        let mut remotes = holders.filter_map(|holder| match holder? {
            Owner::Peer(remote) => Some(remote),
            Owner::This => None,
        });
        remotes.find(can_be_asked)
    }

    /// Whether a peer was a member of the ring to which a removal was sent, as far as this node
    /// remembers that ring.
    pub(crate) fn was_on_ring(&self, remote: &Arc<Remote>, tag: RingTag) -> bool {
        let former = self.former.iter().map(|former| &former.owners);
        let mut rings = former.chain([&self.owners]);
        rings.any(|owners| {
            let is_it = |member: &Option<Arc<Remote>>| {
                member
                    .as_ref()
                    .is_some_and(|member| Arc::ptr_eq(member, remote))
            };
            tag.may_be(owners.ring.fingerprint()) && owners.members.iter().any(is_it)
        })
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.owners.ring.fingerprint()
    }

    /// The share of the ring of a member; `None`: of this node.
    pub(crate) fn share(&self, remote: Option<&Arc<Remote>>) -> f64 {
        let is_it = |member: &Option<Arc<Remote>>| match (member, remote) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        let at = self.owners.members.iter().position(is_it);
        at.map_or(0.0, |at| self.owners.ring.share(at))
    }
}

impl Listed {
    fn is_on_ring(&self, is_leaving: bool) -> bool {
        match &self.remote {
            None => !is_leaving,
            Some(remote) => !remote.has_left(),
        }
    }
}

impl Owners {
    fn of(dialect: Dialect, listed: &[Listed]) -> Owners {
        let members = ring_members(dialect, listed);
        Owners {
            ring: match dialect {
                Dialect::Native => Ring::new(&members),
                Dialect::Golang => Ring::golang(&members),
            },
            members: remotes(listed),
        }
    }

    /// The same as new ones of this list, and made faster where few of its peers have changed.
    fn changed(&self, dialect: Dialect, listed: &[Listed]) -> Owners {
        Owners {
            ring: self.ring.changed(&ring_members(dialect, listed)),
            members: remotes(listed),
        }
    }

    fn owner(&self, key: &str) -> Owner {
        if let [None] = self.members[..] {
            return Owner::This; // this node is alone: the ring gives no other answer
        }
        let remote = self
            .ring
            .owner(key.as_bytes())
            .and_then(|at| self.members[at].clone());
        remote.map_or(Owner::This, Owner::Peer)
    }

    /// The owner of `key` if only those were there that `is_there` returns true for.
    fn owner_among(&self, key: &str, is_there: impl Fn(&Owner) -> bool) -> Option<Owner> {
        let at = self
            .ring
            .owner_among(key.as_bytes(), |at| is_there(&self.member(at)))?;
        Some(self.member(at))
    }

    fn member(&self, at: usize) -> Owner {
        self.members[at].clone().map_or(Owner::This, Owner::Peer)
    }

    fn owner_and_deputy(&self, key: &str) -> Option<(Owner, Option<Owner>)> {
        let (owner, deputy) = self.ring.owner_and_deputy(key.as_bytes())?;
        Some((self.member(owner), deputy.map(|deputy| self.member(deputy))))
    }
}

/// Whether a peer can be asked for values that it has in memory.
fn can_be_asked(remote: &Arc<Remote>) -> bool {
    remote.takes_batches() && !remote.circuit.is_open()
}

fn ring_members(dialect: Dialect, listed: &[Listed]) -> Vec<Member> {
    let member = |listed: &Listed| Member {
        id: match dialect {
            Dialect::Native => listed.peer.id.clone(),
            Dialect::Golang => listed.peer.spelled.clone(),
        },
        weight: listed.peer.weight,
    };
    listed.iter().map(member).collect()
}

fn remotes(listed: &[Listed]) -> Vec<Option<Arc<Remote>>> {
    listed.iter().map(|listed| listed.remote.clone()).collect()
}

/// The list without repetitions; the same id at two addresses is an error.
pub(crate) fn deduplicated(peers: Vec<Peer>) -> Result<Vec<Peer>, Error> {
    let mut unique: Vec<Peer> = Vec::with_capacity(peers.len());
    for peer in peers {
        match unique.iter().find(|other| other.id == peer.id) {
            None => unique.push(peer),
            Some(other) if *other == peer => {}
            Some(other) => {
                let reason = format!("it stands in the list twice, also as {}", other.address());
                return Err(Error::peer(&peer.id, reason));
            }
        }
    }
    Ok(unique)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_one_peer_and_contradictions_an_error() {
        let peer = |address: &str| Peer::new(address).unwrap();
        let list = vec![peer("http://a:1"), peer("http://a:1/")];
        assert_eq!(deduplicated(list).unwrap().len(), 1);
        let list = vec![
            peer("http://a:1").with_name("x"),
            peer("http://b:1").with_name("x"),
        ];
        assert!(deduplicated(list).is_err());
    }
}
