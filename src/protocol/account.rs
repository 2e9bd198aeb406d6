//! `Account`: how much memory all requesters together may take, in bytes (P5).
//!
//! All memory that is kept for a request is charged: the bytes read of it, its keys, the values that wait
//! for the rest of its answer, and the answer until the requester has read it. A [`Charge`] is an object
//! that gives its bytes back when it is dropped, so no path of the code can forget to.
//!
//! *Strangers* are requesters that have not authenticated, at a node where requesters can. Together they get
//! half of the account. The last eighth is for small charges, so that large bodies do not keep small
//! requests out. The last thirty-second is not for buffers: a request that has been read in full gets the
//! memory that its load needs, even if other requesters fill the rest with requests that do not end.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::runtime::flow::{Flow, network_of};
use crate::runtime::sync::{Arc, AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, wait_until};
use crate::value::Value;

/// The bytes of an account by default.
pub(crate) const MAX_CHARGED: usize = 256 << 20;

/// A charge up to this is small: it suffices for a request of half of it, in a buffer that has grown by
/// doubling.
pub(crate) const LITTLE: usize = 64 << 10;

const _: () = assert!(
    LITTLE <= MAX_CHARGED / 8,
    "small charges fit into their reserve"
);

/// How long a requester waits for the copies of others that exceed the limit.
const WAIT_FOR_COPIES: Duration = Duration::from_millis(500);

pub(crate) struct Account {
    max: usize,
    /// Whether requesters can authenticate, so that all others are strangers.
    tells_apart: bool,
    /// The bytes of all charges.
    charged: AtomicUsize,
    /// The bytes of the charges of strangers, which are part of `charged`.
    of_strangers: AtomicUsize,
    /// The answers that hold a value, by its address in memory.
    holders: Mutex<HashMap<usize, Holders>>,
    /// Whether a requester has an answer that exceeds the limit.
    is_exceeded: AtomicBool,
    /// Whether a copy that exceeds the limit is being made.
    is_copied: Mutex<bool>,
    /// Notified when that copy is gone.
    copied: Condvar,
}

/// The answers that hold a value.
struct Holders {
    count: usize,
    /// The charge for the value, once for all of them.
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

    /// Whether requesters can authenticate, so that all others are strangers.
    pub(crate) fn tells_apart(&self) -> bool {
        self.tells_apart
    }

    /// Takes `more` bytes for a charge that then has `bytes`. Tells whether there was room.
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

/// The purpose of a charge.
#[derive(Clone, Copy)]
enum Kind {
    /// Bytes that have been read, or are to be sent.
    Buffer,
    /// What the node keeps for a request that it has read in full.
    Request,
}

impl Kind {
    /// How much of `max` a charge of `bytes` has to leave free.
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
            "all charges are gone, and bytes are still charged"
        );
    }
}

/// Adds `more` unless the sum exceeds `max`; tells whether it did.
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

/// The sender of requests from outside, with the account that its memory is charged to.
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

    /// Notes that it has authenticated.
    pub(crate) fn prove(&mut self) {
        self.has_proved = true;
    }

    /// Whether it has authenticated.
    pub(crate) fn has_proved(&self) -> bool {
        self.has_proved
    }

    /// Whether it has not authenticated, at a node where requesters can.
    pub(crate) fn is_stranger(&self) -> bool {
        self.account.tells_apart && !self.has_proved
    }

    /// The flow that its loads belong to.
    pub(crate) fn flow(&self) -> Flow {
        match self.is_stranger() {
            true => Flow::Strangers,
            false => Flow::Network(self.network),
        }
    }

    /// A charge of zero bytes, for what the node keeps for a request.
    pub(crate) fn charge(&self) -> Charge {
        self.charge_for(Kind::Request)
    }

    /// A charge of zero bytes, for buffers.
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

    /// Charges for a copy of a body while it is made. A small copy is free, because there are few workers.
    /// If the bodies themselves have taken all room, one copy at a time may exceed the limit: this blocks
    /// for up to [`WAIT_FOR_COPIES`] until it may. `None` if it may not.
    pub(crate) fn charge_copy(&self, bytes: usize) -> Option<Copying> {
        let mut charge = self.charge();
        if bytes <= LITTLE || charge.grow(bytes) {
            return Some(Copying::Charged { _charge: charge });
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

    /// Keeps a value that is to be sent. It is charged once, however many answers hold it. `None` if
    /// there is no room.
    pub(crate) fn hold(&self, value: &Value) -> Option<Held> {
        let held = || Held {
            account: Arc::clone(&self.account),
            value: value.clone(),
        };
        // All that are counted there own the value: no other value can be at its address meanwhile.
        let mut holders = self.account.holders.lock();
        if let Some(holders) = holders.get_mut(&address_of(value)) {
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
        holders.insert(address_of(value), first);
        Some(held())
    }

    /// Lets one requester at a time exceed the limit, so that no answer is too large for ever.
    pub(crate) fn exceed(&self) -> Option<Exceeded> {
        let was_exceeded = self.account.is_exceeded.swap(true, Ordering::Relaxed);
        (!was_exceeded).then(|| Exceeded(Arc::clone(&self.account)))
    }
}

fn address_of(value: &Value) -> usize {
    value.as_ptr() as usize
}

/// A number of bytes of an account, which are given back when it is dropped.
pub(crate) struct Charge {
    account: Arc<Account>,
    kind: Kind,
    is_stranger: bool,
    bytes: usize,
}

impl Charge {
    /// Changes the charge to `bytes`. Tells whether there is room; if not, the charge stays as it is.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        // On nearly every read. The counters are not touched, because all threads share them.
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

    /// Adds `more` bytes to the charge. Tells whether there is room for them.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        self.resize(self.bytes.saturating_add(more))
    }

    /// Notes that the requester has authenticated: its bytes are no longer those of a stranger.
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

/// A copy that is being made.
pub(crate) enum Copying {
    Charged {
        _charge: Charge,
    },
    /// It exceeds the limit.
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

/// A value that is kept until a requester has read it.
pub(crate) struct Held {
    account: Arc<Account>,
    value: Value,
}

impl Held {
    /// Whether it is this value, not only an equal one.
    pub(crate) fn is_of(&self, value: &Value) -> bool {
        address_of(&self.value) == address_of(value)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self.account.holders.lock();
        let Some(held) = holders.get_mut(&address_of(&self.value)) else {
            return;
        };
        debug_assert!(held.count > 0);
        held.count -= 1;
        if held.count == 0 {
            holders.remove(&address_of(&self.value));
        }
    }
}

/// The right of one requester to exceed the limit.
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
    fn all_charges_share_one_limit_and_give_back_what_they_took() {
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
    fn a_value_is_charged_once_for_all_answers_that_hold_it() {
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

    /// A value is kept as long as it is counted: otherwise another value could get its address and be
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
        assert_eq!(held.iter().flatten().count(), 10, "each is charged");
        drop(held);
        assert!(
            charge(&requester, 1_000).is_some(),
            "all of it was given back"
        );
    }

    #[test]
    fn strangers_leave_half_to_requesters_that_authenticate() {
        let account = Account::new(100, true);
        let (stranger, mut peer) = (requester(&account), requester(&account));
        peer.prove();
        let mut first = charge(&stranger, 50).unwrap();
        assert!(charge(&stranger, 1).is_none());
        let second = charge(&peer, 50).unwrap();
        assert!(charge(&peer, 1).is_none());
        drop(second);
        // Its bytes count as those of a peer from now on.
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
    fn buffers_leave_room_for_requests() {
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
    fn a_copy_is_charged_or_made_alone() {
        let account = Account::new(1 << 20, false);
        let requester = requester(&account);
        let charged = requester.charge_copy(7 << 17);
        assert!(matches!(charged, Some(Copying::Charged { .. })));
        let alone = requester.charge_copy(1 << 20);
        assert!(matches!(alone, Some(Copying::Beyond(_))));
        assert!(requester.charge_copy(1 << 20).is_none());
        assert!(
            requester.charge_copy(LITTLE).is_some(),
            "small ones are free"
        );
        drop(alone);
        assert!(requester.charge_copy(1 << 20).is_some());
        assert!(
            requester.exceed().is_some(),
            "an answer is independent of that"
        );
    }

    #[test]
    fn one_at_a_time_may_exceed_the_limit() {
        let account = Account::new(1, false);
        let requester = requester(&account);
        let first = requester.exceed();
        assert!(first.is_some() && requester.exceed().is_none());
        drop(first);
        assert!(requester.exceed().is_some());
    }
}
