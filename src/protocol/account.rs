//! `Account`: how much memory those who ask from outside may take, in bytes and all together.
//!
//! Whatever is kept for a request is charged: what was read of it, its keys, the values that wait for
//! the rest of its answer, and the answer until it is read. A charge is an object, and gives back what
//! it took when it is dropped: no way out forgets to.
//!
//! Strangers, who have not proved who they are, get half of it together where others can prove it. The
//! last eighth is for those who need little, so that large bodies do not shut out small requests. The
//! last thirty-second is not for buffers: whose request is here in full has room for what its load
//! needs, though others fill all the rest with requests that do not end.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::runtime::flow::{Flow, network_of};
use crate::runtime::sync::{Arc, AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, wait_until};
use crate::value::Value;

/// What an account holds unless it is set.
pub(crate) const MAX_CHARGED: usize = 256 << 20;

/// Who takes no more than this needs little: a request of half of it, in a buffer that has grown for it.
pub(crate) const LITTLE: usize = 64 << 10;

/// How long one waits at most for copies of others that are beyond the bound.
const WAIT_FOR_COPIES: Duration = Duration::from_millis(500);

pub(crate) struct Account {
    max: usize,
    /// Whether some can prove who they are, and all others are strangers.
    tells_apart: bool,
    charged: AtomicUsize,
    of_strangers: AtomicUsize,
    /// How many hold the value that is at this address in memory.
    holders: Mutex<HashMap<usize, Holders>>,
    /// Whether somebody has an answer that is beyond the bound.
    is_exceeded: AtomicBool,
    /// Whether a copy is beyond it that is being made.
    is_copied: Mutex<bool>,
    copied: Condvar,
}

struct Holders {
    count: usize,
    /// What the value takes, once for all of them.
    _charge: Charge,
}

impl Account {
    pub(crate) fn new(max: usize, tells_apart: bool) -> Arc<Account> {
        Arc::new(Account {
            max,
            tells_apart,
            charged: AtomicUsize::new(0),
            of_strangers: AtomicUsize::new(0),
            holders: Mutex::default(),
            is_exceeded: AtomicBool::new(false),
            is_copied: Mutex::new(false),
            copied: Condvar::new(),
        })
    }

    /// Whether some can prove who they are, and all others are strangers.
    pub(crate) fn tells_apart(&self) -> bool {
        self.tells_apart
    }

    /// Tells whether there is room for `more`, for one who then has `bytes`.
    fn take(&self, more: usize, bytes: usize, kind: Kind, is_stranger: bool) -> bool {
        let limit = |max: usize| max - kind.left_free(max, bytes);
        if is_stranger && !add(&self.of_strangers, more, limit(self.max / 2)) {
            return false;
        }
        let has_room = add(&self.charged, more, limit(self.max));
        if !has_room && is_stranger {
            subtract(&self.of_strangers, more);
        }
        has_room
    }

    fn give_back(&self, bytes: usize, is_stranger: bool) {
        if is_stranger {
            subtract(&self.of_strangers, bytes);
        }
        subtract(&self.charged, bytes);
    }
}

/// What a charge pays for.
#[derive(Clone, Copy)]
enum Kind {
    /// Bytes that were read, or are to be sent.
    Buffer,
    /// What the node keeps for a request that is here in full.
    Request,
}

impl Kind {
    /// How much of `max` one who has `bytes` leaves to others.
    fn left_free(self, max: usize, bytes: usize) -> usize {
        match self {
            _ if bytes > LITTLE => max / 8,
            Kind::Buffer => max / 32,
            Kind::Request => 0,
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let left = (
            self.charged.load(Ordering::SeqCst),
            self.of_strangers.load(Ordering::SeqCst),
        );
        debug_assert_eq!(
            left,
            (0, 0),
            "nobody has anything, and something is charged"
        );
    }
}

/// Adds `more`, if no more than `max` comes of it.
fn add(sum: &AtomicUsize, more: usize, max: usize) -> bool {
    let within = |sum: usize| sum.checked_add(more).filter(|&sum| sum <= max);
    sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within)
        .is_ok()
}

fn subtract(sum: &AtomicUsize, bytes: usize) {
    let less = |sum: usize| Some(sum.saturating_sub(bytes));
    let before = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    debug_assert!(
        before.is_ok_and(|before| before >= bytes),
        "given back twice"
    );
}

/// One who asks from outside, and the account that pays for it.
#[derive(Clone)]
pub(crate) struct Requester {
    account: Arc<Account>,
    network: Option<IpAddr>,
    has_proved: bool,
}

impl Requester {
    pub(crate) fn new(account: &Arc<Account>, address: Option<IpAddr>) -> Requester {
        Requester {
            account: Arc::clone(account),
            network: address.map(network_of),
            has_proved: false,
        }
    }

    /// Notes that it has proved who it is.
    pub(crate) fn prove(&mut self) {
        self.has_proved = true;
    }

    pub(crate) fn has_proved(&self) -> bool {
        self.has_proved
    }

    /// Whether it has not proved who it is, and others can.
    pub(crate) fn is_stranger(&self) -> bool {
        self.account.tells_apart && !self.has_proved
    }

    /// Whose turn its loads take.
    pub(crate) fn flow(&self) -> Flow {
        match self.is_stranger() {
            true => Flow::Strangers,
            false => Flow::Network(self.network),
        }
    }

    /// A charge of nothing yet, for what the node keeps for a request.
    pub(crate) fn charge(&self) -> Charge {
        self.charge_for(Kind::Request)
    }

    /// The same, for buffers.
    pub(crate) fn charge_for_buffers(&self) -> Charge {
        self.charge_for(Kind::Buffer)
    }

    fn charge_for(&self, kind: Kind) -> Charge {
        Charge {
            account: Arc::clone(&self.account),
            kind,
            is_stranger: self.is_stranger(),
            bytes: 0,
        }
    }

    /// What pays for a copy of a body while it is made; a small one costs nothing, as there are few
    /// workers. Where the bodies themselves have taken all room, one copy after the other is made beyond
    /// the bound: a moment is waited for that. It blocks.
    pub(crate) fn pay_for_copy(&self, bytes: usize) -> Option<Copying> {
        let mut charge = self.charge();
        if bytes <= LITTLE || charge.grow(bytes) {
            return Some(Copying::Paid { _charge: charge });
        }
        let end = Instant::now() + WAIT_FOR_COPIES;
        let mut is_copied = self.account.is_copied.lock();
        while *is_copied {
            if end <= Instant::now() {
                return None;
            }
            wait_until(&self.account.copied, &mut is_copied, Some(end));
        }
        *is_copied = true;
        Some(Copying::Beyond(Arc::clone(&self.account)))
    }

    /// Has a value kept that is to be sent. It takes its memory once, however many are to read it.
    /// `None` if there is no room.
    pub(crate) fn hold(&self, value: &Value) -> Option<Held> {
        let held = || Held {
            account: Arc::clone(&self.account),
            value: value.clone(),
        };
        // Whoever is counted there has the value: no other one can be at its address meanwhile.
        let mut holders = self.account.holders.lock();
        if let Some(holders) = holders.get_mut(&place_of(value)) {
            holders.count += 1;
            return Some(held());
        }
        let mut charge = self.charge();
        if !charge.grow(value.len()) {
            return None;
        }
        let first = Holders {
            count: 1,
            _charge: charge,
        };
        holders.insert(place_of(value), first);
        Some(held())
    }

    /// Lets one at a time take what is beyond the bound: no answer is too large for ever.
    pub(crate) fn exceed(&self) -> Option<Exceeded> {
        let was_exceeded = self.account.is_exceeded.swap(true, Ordering::Relaxed);
        (!was_exceeded).then(|| Exceeded(Arc::clone(&self.account)))
    }
}

fn place_of(value: &Value) -> usize {
    value.as_ptr() as usize
}

/// So many bytes of an account. Dropped, it gives them back.
pub(crate) struct Charge {
    account: Arc<Account>,
    kind: Kind,
    is_stranger: bool,
    bytes: usize,
}

impl Charge {
    /// Takes `bytes` in place of what it has. Tells whether there is room; if not, it has what it had.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        // As on nearly every read: it is not to touch what all share.
        if bytes == self.bytes {
            return true;
        }
        if let Some(more) = bytes.checked_sub(self.bytes) {
            if !self.account.take(more, bytes, self.kind, self.is_stranger) {
                return false;
            }
        } else {
            self.account.give_back(self.bytes - bytes, self.is_stranger);
        }
        self.bytes = bytes;
        true
    }

    /// Takes `more` bytes. Tells whether there is room for them.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        self.resize(self.bytes.saturating_add(more))
    }

    /// Notes that the one who is charged has proved who it is.
    pub(crate) fn prove(&mut self) {
        if std::mem::replace(&mut self.is_stranger, false) {
            subtract(&self.account.of_strangers, self.bytes);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.give_back(self.bytes, self.is_stranger);
    }
}

impl fmt::Debug for Charge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charge({} bytes)", self.bytes)
    }
}

/// A copy that is being made, and what pays for it.
pub(crate) enum Copying {
    Paid { _charge: Charge },
    Beyond(Arc<Account>),
}

impl Drop for Copying {
    fn drop(&mut self) {
        if let Copying::Beyond(account) = self {
            *account.is_copied.lock() = false;
            account.copied.notify_one();
        }
    }
}

/// A value that is kept for one who is to read it.
pub(crate) struct Held {
    account: Arc<Account>,
    value: Value,
}

impl Held {
    pub(crate) fn is_of(&self, value: &Value) -> bool {
        place_of(&self.value) == place_of(value)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self.account.holders.lock();
        let Some(held) = holders.get_mut(&place_of(&self.value)) else {
            return;
        };
        held.count -= 1;
        if held.count == 0 {
            holders.remove(&place_of(&self.value));
        }
    }
}

/// That somebody has what is beyond the bound.
pub(crate) struct Exceeded(Arc<Account>);

impl Drop for Exceeded {
    fn drop(&mut self) {
        self.0.is_exceeded.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requester(account: &Arc<Account>) -> Requester {
        Requester::new(account, None)
    }

    fn charge(requester: &Requester, bytes: usize) -> Option<Charge> {
        let mut charge = requester.charge();
        charge.grow(bytes).then_some(charge)
    }

    #[test]
    fn all_charges_share_one_bound_and_give_back_what_they_took() {
        let account = Account::new(100, false);
        let (mut first, mut second) = (requester(&account).charge(), requester(&account).charge());
        assert!(first.resize(60));
        assert!(!second.resize(60));
        assert!(first.resize(40));
        assert!(second.grow(60) && !second.grow(1));
        drop(second);
        assert!(first.resize(100));
        assert!(!first.grow(usize::MAX));
        assert_eq!(first.bytes, 100);
    }

    #[test]
    fn a_value_counts_once_for_all_who_are_to_read_it() {
        let account = Account::new(100, false);
        let requester = requester(&account);
        let (value, other) = (Value::from(&[0; 60]), Value::from(&[0; 60]));
        let (first, second) = (requester.hold(&value), requester.hold(&value));
        assert!(first.is_some() && second.is_some());
        assert!(requester.hold(&other).is_none());
        drop(first);
        assert!(requester.hold(&other).is_none());
        drop(second);
        assert!(requester.hold(&other).is_some());
    }

    /// A value is kept as long as it is counted: else another one could come to its address, and be
    /// taken for it.
    #[test]
    fn a_value_that_its_reader_has_dropped_is_not_taken_for_another() {
        let account = Account::new(1_000, false);
        let requester = requester(&account);
        let held: Vec<_> = (0..10)
            .map(|_| requester.hold(&Value::from(vec![0; 100])).is_some())
            .collect();
        assert_eq!(held, [true; 10]);
        let held: Vec<_> = (0..20)
            .map(|_| requester.hold(&Value::from(vec![0; 100])))
            .collect();
        assert_eq!(held.iter().flatten().count(), 10, "each takes its own room");
        drop(held);
        assert!(
            charge(&requester, 1_000).is_some(),
            "all of it was given back"
        );
    }

    #[test]
    fn strangers_leave_half_to_those_who_prove_who_they_are() {
        let account = Account::new(100, true);
        let (stranger, mut peer) = (requester(&account), requester(&account));
        peer.prove();
        let mut first = charge(&stranger, 50).unwrap();
        assert!(charge(&stranger, 1).is_none());
        let second = charge(&peer, 50).unwrap();
        assert!(charge(&peer, 1).is_none());
        drop(second);
        // What it has counts as a peer's from now on.
        first.prove();
        assert!(charge(&stranger, 50).is_some());
        assert!(charge(&peer, 51).is_none());
    }

    #[test]
    fn large_bodies_leave_room_for_small_requests() {
        let account = Account::new(1 << 20, false);
        let requester = requester(&account);
        assert!(charge(&requester, 1 << 20).is_none());
        let _large = charge(&requester, 7 << 17).unwrap();
        assert!(charge(&requester, LITTLE + 1).is_none());
        let count = (1 << 17) / LITTLE;
        let small: Vec<_> = (0..count).map(|_| charge(&requester, LITTLE)).collect();
        assert_eq!(small.iter().flatten().count(), count);
        assert!(charge(&requester, 1).is_none());
    }

    #[test]
    fn buffers_leave_room_for_what_a_request_needs() {
        let account = Account::new(1 << 20, false);
        let requester = requester(&account);
        let mut buffers = requester.charge_for_buffers();
        let mut many: Vec<_> = Vec::new();
        while buffers.grow(8 << 10) {
            many.push(std::mem::replace(
                &mut buffers,
                requester.charge_for_buffers(),
            ));
        }
        assert_eq!(many.len(), (1 << 20) * 31 / 32 / (8 << 10));
        let _request = charge(&requester, 1 << 15).unwrap();
        assert!(charge(&requester, 1).is_none());
    }

    #[test]
    fn a_copy_is_paid_for_or_made_by_itself() {
        let account = Account::new(1 << 20, false);
        let requester = requester(&account);
        let paid = requester.pay_for_copy(7 << 17);
        assert!(matches!(paid, Some(Copying::Paid { .. })));
        let alone = requester.pay_for_copy(1 << 20);
        assert!(matches!(alone, Some(Copying::Beyond(_))));
        assert!(requester.pay_for_copy(1 << 20).is_none());
        assert!(
            requester.pay_for_copy(LITTLE).is_some(),
            "small ones are free"
        );
        drop(alone);
        assert!(requester.pay_for_copy(1 << 20).is_some());
        assert!(requester.exceed().is_some(), "an answer is another matter");
    }

    #[test]
    fn one_at_a_time_may_go_beyond_the_bound() {
        let account = Account::new(1, false);
        let requester = requester(&account);
        let first = requester.exceed();
        assert!(first.is_some() && requester.exceed().is_none());
        drop(first);
        assert!(requester.exceed().is_some());
    }
}
