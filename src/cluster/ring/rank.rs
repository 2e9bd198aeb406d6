//! Which peers come first in a slot: weighted rendezvous hashing (Thaler and Ravishankar, IEEE/ACM
//! Transactions on Networking 1998), in integers, so that all platforms agree.
//!
//! Every peer has a score in every slot, which depends on nothing but its id and the slot. The score
//! stands for a number u between 0 and 1, and the peer whose -log(u) / weight is smallest comes first: it
//! does so with a probability that is proportional to its weight. Who comes and goes changes nothing
//! between two others.

use std::cmp::Ordering;

use super::Member;
use crate::protocol::hash::hash;

/// The weight 1 as an integer.
const UNIT: u64 = 1 << 16;

/// The largest weight that a peer can have.
const MAX_WEIGHT: u64 = 100 * UNIT;

// A logarithm times a weight is a `u64`.
const _: () = assert!(MAX_WEIGHT < u64::MAX / ((u64::BITS as u64) << FRACTION));

/// Odd, and good at mixing: of the finaliser `xmxmx` by Degski.
const MULTIPLIER: u64 = 0xd6e8_feb8_6659_fd93;

/// Bits of a logarithm behind the point.
const FRACTION: u32 = 32;

/// Intervals of [`LOGS`], between which logarithms are linear.
const INTERVALS: usize = 256;

/// `LOGS[i]` is log2(1 + i / 256), rounded down to 32 bits behind the point.
pub(super) static LOGS: [u64; INTERVALS + 1] = logs();

/// The position of nobody.
const NOBODY: u32 = u32::MAX;

/// A peer that contends for slots.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Contender {
    pub(super) id: String,
    /// In multiples of 1 / 65,536, at least one of them.
    pub(super) weight: u64,
    pub(super) seed: u64,
}

/// The positions of those who come first and second in a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Leaders {
    pub(super) owner: u32,
    pub(super) deputy: u32,
}

/// A contender in one slot.
#[derive(Clone, Copy)]
struct Candidate {
    position: u32,
    score: u64,
    /// -log2(score / 2^64); 0 for all if their weights are equal, as it changes nothing then.
    log: u64,
    weight: u64,
}

/// All contenders, laid out so that a slot takes little time.
pub(super) struct Field<'a> {
    /// By position.
    contenders: &'a [Contender],
    groups: Vec<Group>,
}

/// The contenders of one weight, the largest id first. Among them the larger score comes first: there
/// is no need for logarithms.
struct Group {
    seeds: Vec<u64>,
    positions: Vec<u32>,
}

impl Contender {
    pub(super) fn of(member: &Member) -> Contender {
        debug_assert!(member.weight > 0.0 && member.weight <= 100.0);
        let weight = (member.weight * UNIT as f64).round() as u64;
        Contender {
            id: member.id.clone(),
            weight: weight.clamp(1, MAX_WEIGHT),
            seed: hash(member.id.as_bytes()),
        }
    }
}

/// What a slot has in place of a seed.
pub(super) fn value_of(slot: usize) -> u64 {
    mix(slot as u64 + 1)
}

pub(super) fn score(seed: u64, slot_value: u64) -> u64 {
    mix(seed ^ slot_value)
}

fn mix(number: u64) -> u64 {
    let product = number.wrapping_mul(MULTIPLIER);
    (product ^ product >> 32).wrapping_mul(MULTIPLIER)
}

/// -log2(score / 2^64), which never grows with the score. 0 counts as 1.
pub(super) fn log(score: u64) -> u64 {
    let score = score.max(1);
    let zeros = score.leading_zeros();
    let mantissa = score << zeros << 1; // without its leading bit
    let interval = (mantissa >> 56) as usize;
    let rest = mantissa >> 24 & 0xffff_ffff;
    let step = LOGS[interval + 1] - LOGS[interval];
    let fraction = LOGS[interval] + ((step * rest) >> 32);
    (u64::from(zeros + 1) << FRACTION) - fraction
}

/// A digit of a logarithm is 1 if the square of the number is at least 2.
const fn logs() -> [u64; INTERVALS + 1] {
    let mut logs = [0; INTERVALS + 1];
    let mut at = 0;
    while at < INTERVALS {
        let mut number = ((INTERVALS + at) as u128) << 55; // 1 is 2^63
        let mut digits = 0;
        while digits < FRACTION {
            let square = (number * number) >> 63;
            let digit = square >> 64;
            logs[at] = logs[at] << 1 | digit as u64;
            number = square >> digit;
            digits += 1;
        }
        at += 1;
    }
    logs[INTERVALS] = 1 << FRACTION;
    logs
}

impl Field<'_> {
    pub(super) fn new(contenders: &[Contender]) -> Field<'_> {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        order.sort_unstable_by_key(|&at| (contenders[at].weight, &contenders[at].id));
        let of_one_weight = order.chunk_by(|&a, &b| contenders[a].weight == contenders[b].weight);
        let groups = of_one_weight.map(|order| Group {
            seeds: order.iter().rev().map(|&at| contenders[at].seed).collect(),
            positions: order.iter().rev().map(|&at| at as u32).collect(),
        });
        Field {
            groups: groups.collect(),
            contenders,
        }
    }

    /// Who leads among all.
    pub(super) fn leaders(&self, slot_value: u64) -> Leaders {
        if let [group] = &self.groups[..] {
            return group.leaders(slot_value);
        }
        let mut first_two = [Candidate::NOBODY; 2];
        for group in &self.groups {
            let Leaders { owner, deputy } = group.leaders(slot_value);
            self.admit(&mut first_two, owner, slot_value);
            if deputy != NOBODY {
                self.admit(&mut first_two, deputy, slot_value);
            }
        }
        Leaders::of(first_two)
    }

    /// Who leads once some more take part.
    pub(super) fn leaders_with(&self, leaders: Leaders, more: &[u32], slot_value: u64) -> Leaders {
        let candidate = |position| self.candidate(position, slot_value);
        let mut first_two = [leaders.owner, leaders.deputy].map(candidate);
        for &position in more {
            self.admit(&mut first_two, position, slot_value);
        }
        Leaders::of(first_two)
    }

    /// Who would lead if only these took part.
    pub(super) fn leader_of(
        &self,
        positions: impl Iterator<Item = usize>,
        slot_value: u64,
    ) -> Option<usize> {
        let mut first_two = [Candidate::NOBODY; 2];
        for position in positions {
            self.admit(&mut first_two, position as u32, slot_value);
        }
        let leader = Leaders::of(first_two).owner;
        (leader != NOBODY).then_some(leader as usize)
    }

    fn candidate(&self, position: u32, slot_value: u64) -> Candidate {
        let contender = &self.contenders[position as usize];
        let score = score(contender.seed, slot_value);
        let log = match self.groups.len() {
            1 => 0,
            _ => log(score),
        };
        Candidate {
            position,
            score,
            log,
            weight: contender.weight,
        }
    }

    fn admit(&self, first_two: &mut [Candidate; 2], position: u32, slot_value: u64) {
        let candidate = self.candidate(position, slot_value);
        if self.precedes(candidate, first_two[0]) {
            *first_two = [candidate, first_two[0]];
        } else if self.precedes(candidate, first_two[1]) {
            first_two[1] = candidate;
        }
    }

    /// Whether a candidate comes before another: if it has the smaller quotient of log and weight, then
    /// the larger score, then the smaller id.
    fn precedes(&self, one: Candidate, other: Candidate) -> bool {
        let quotients = (one.log * other.weight).cmp(&(other.log * one.weight));
        let order = quotients.then(other.score.cmp(&one.score));
        let id = |candidate: Candidate| &self.contenders[candidate.position as usize].id;
        order.then_with(|| id(one).cmp(id(other))) == Ordering::Less
    }
}

impl Leaders {
    fn of(first_two: [Candidate; 2]) -> Leaders {
        Leaders {
            owner: first_two[0].position,
            deputy: first_two[1].position,
        }
    }
}

impl Candidate {
    /// Everybody comes before nobody, by the quotient.
    const NOBODY: Candidate = Candidate {
        position: NOBODY,
        score: 0,
        log: 1,
        weight: 0,
    };
}

impl Group {
    /// Who leads in this group; it may have one contender alone, or be the only group.
    fn leaders(&self, slot_value: u64) -> Leaders {
        let mut leaders = Leaders {
            owner: NOBODY,
            deputy: NOBODY,
        };
        let (mut most, mut second_most) = (0, 0);
        for (&seed, &position) in self.seeds.iter().zip(&self.positions) {
            let score = score(seed, slot_value);
            // Most fall short of the second: the processor foresees this branch.
            if score < second_most {
                continue;
            }
            // Of equal scores the later one counts, which has the smaller id. Nobody has score 0 here.
            if score < most {
                second_most = score;
                leaders.deputy = position;
            } else {
                (second_most, most) = (most, score);
                leaders.deputy = leaders.owner;
                leaders.owner = position;
            }
        }
        leaders
    }
}
