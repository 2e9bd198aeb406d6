//! The ring of the nodes of this crate: a table of slots. The hash of a key chooses its slot, and each
//! slot has an owner and a deputy (see `rank`).

use std::collections::{HashMap, HashSet};

use super::Member;
use super::positions::Positions;
use super::rank::{Contender, Field, Leaders, value_of};
use crate::protocol::hash::hash;

/// A larger number spreads keys more evenly and takes more of the processor's cache: with this one the
/// fullest of 100 peers has about 8 % more than the mean, that of 1,000 about 31 %. It also tells the
/// fingerprints of this ring from those of others.
pub(super) const SLOTS: usize = if IS_MODEL { 1_024 } else { 163_840 };

/// A model makes clusters by the thousand, and needs no even spread.
const IS_MODEL: bool = cfg!(any(groupcache_model = "loom", groupcache_model = "shuttle"));

/// A table is made anew if more than one in so many peers is new or gone: then that is as fast.
const MOST_CHANGES: usize = 8;

#[derive(Debug, PartialEq)]
pub(crate) struct OwnerTable {
    /// By slot, as are the deputies; both without slots if fewer than two peers are there. They are
    /// apart as most look-ups need the owner alone.
    owners: Positions,
    deputies: Positions,
    pub(super) peers: Vec<Contender>,
    /// How many slots each peer owns.
    owned: Vec<u32>,
    fingerprint: u64,
}

/// What is different in another list. A peer with another weight is gone and new.
pub(super) struct Change {
    /// The new position of each old peer that is not gone.
    kept: Vec<Option<u32>>,
    /// The positions of new peers.
    new: Vec<u32>,
}

impl OwnerTable {
    pub(super) fn new(members: &[Member]) -> OwnerTable {
        OwnerTable::of(members.iter().map(Contender::of).collect())
    }

    fn of(peers: Vec<Contender>) -> OwnerTable {
        let field = Field::new(&peers);
        let mut table = OwnerTable::without_slots(&peers);
        if peers.len() > 1 {
            (0..SLOTS).for_each(|slot| table.push(field.leaders(value_of(slot))));
        }
        table.with_peers(peers)
    }

    /// Equal to a new table of these members.
    pub(super) fn changed(&self, members: &[Member]) -> OwnerTable {
        let peers: Vec<Contender> = members.iter().map(Contender::of).collect();
        let change = Change::between(&self.peers, &peers);
        let is_small = change.size() * MOST_CHANGES <= peers.len();
        if is_small && self.peers.len() > 1 && peers.len() > 1 {
            self.after(&change, peers)
        } else {
            OwnerTable::of(peers)
        }
    }

    /// The table after this change, from at least two peers to at least two. Only the slots of peers
    /// that are gone are ranked anew; in the others, new peers only have to come before two.
    pub(super) fn after(&self, change: &Change, peers: Vec<Contender>) -> OwnerTable {
        let field = Field::new(&peers);
        let mut table = OwnerTable::without_slots(&peers);
        for slot in 0..SLOTS {
            let value = value_of(slot);
            let kept = |positions: &Positions| change.kept[positions.get(slot)? as usize];
            table.push(match (kept(&self.owners), kept(&self.deputies)) {
                (Some(owner), Some(deputy)) => {
                    field.leaders_with(Leaders { owner, deputy }, &change.new, value)
                }
                _ => field.leaders(value),
            });
        }
        table.with_peers(peers)
    }

    fn without_slots(peers: &[Contender]) -> OwnerTable {
        let slots = if peers.len() > 1 { SLOTS } else { 0 };
        OwnerTable {
            owners: Positions::with_capacity(slots, peers.len()),
            deputies: Positions::with_capacity(slots, peers.len()),
            peers: Vec::new(),
            owned: vec![0; peers.len()],
            fingerprint: fingerprint_of(peers),
        }
    }

    fn push(&mut self, leaders: Leaders) {
        self.owners.push(leaders.owner);
        self.deputies.push(leaders.deputy);
        self.owned[leaders.owner as usize] += 1;
    }

    fn with_peers(mut self, peers: Vec<Contender>) -> OwnerTable {
        if let [owned] = &mut self.owned[..] {
            *owned = SLOTS as u32;
        }
        self.peers = peers;
        self
    }

    pub(super) fn owner(&self, key: &[u8]) -> Option<usize> {
        self.owner_of(slot_of(key))
    }

    pub(super) fn owner_and_deputy(&self, key: &[u8]) -> Option<(usize, Option<usize>)> {
        let slot = slot_of(key);
        let deputy = self.deputies.get(slot).map(|deputy| deputy as usize);
        Some((self.owner_of(slot)?, deputy))
    }

    /// The owner that `key` would have if only the peers at these positions were there. Ranks all of them.
    pub(super) fn owner_among(
        &self,
        key: &[u8],
        is_there: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let positions = (0..self.peers.len()).filter(|&position| is_there(position));
        Field::new(&self.peers).leader_of(positions, value_of(slot_of(key)))
    }

    fn owner_of(&self, slot: usize) -> Option<usize> {
        match self.owners.get(slot) {
            Some(owner) => Some(owner as usize),
            None => (!self.peers.is_empty()).then_some(0),
        }
    }

    pub(super) fn share(&self, position: usize) -> f64 {
        f64::from(self.owned[position]) / SLOTS as f64
    }

    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

impl Change {
    pub(super) fn between(old: &[Contender], new: &[Contender]) -> Change {
        let positions: HashMap<&str, u32> = new.iter().map(|peer| &*peer.id).zip(0..).collect();
        let kept = |peer: &Contender| {
            let position = *positions.get(&*peer.id)?;
            (new[position as usize].weight == peer.weight).then_some(position)
        };
        let kept: Vec<Option<u32>> = old.iter().map(kept).collect();
        let stayed: HashSet<u32> = kept.iter().flatten().copied().collect();
        let is_new = |position: &u32| !stayed.contains(position);
        Change {
            new: (0..new.len() as u32).filter(is_new).collect(),
            kept,
        }
    }

    /// How many peers are new, and how many are gone.
    fn size(&self) -> usize {
        self.new.len() + self.kept.iter().filter(|kept| kept.is_none()).count()
    }
}

/// The slot of a key: equal ranges of hashes have equal slots.
pub(super) fn slot_of(key: &[u8]) -> usize {
    ((u128::from(hash(key)) * SLOTS as u128) >> 64) as usize
}

fn fingerprint_of(peers: &[Contender]) -> u64 {
    let mut by_id: Vec<&Contender> = peers.iter().collect();
    by_id.sort_unstable_by(|a, b| a.id.cmp(&b.id));
    let mut bytes = (SLOTS as u64).to_le_bytes().to_vec();
    for peer in by_id {
        bytes.extend_from_slice(&(peer.id.len() as u64).to_le_bytes());
        bytes.extend_from_slice(peer.id.as_bytes());
        bytes.extend_from_slice(&peer.weight.to_le_bytes());
    }
    hash(&bytes)
}
