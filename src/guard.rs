//! `Guard`: signs what this node asks of its peers, and checks what they ask of it.

use std::hash::{BuildHasher, Hasher};

use crate::auth::{Nonces, Refused, Signature, Signed, check_time};
use crate::deadline::Clock;
use crate::keyring::Keyring;
use crate::peer::{Call, Peer};
use crate::stats::Counter;
use crate::sync::{AtomicU64, Mutex, Ordering, RandomState};
use crate::throttle::Throttle;
use crate::wire::{Command, Request};

pub(crate) struct Guard {
    keyring: Keyring,
    /// The id of this node, which its peers sign for.
    this: String,
    /// Whether what changes nothing may be asked by anybody.
    unsigned_reads: bool,
    clock: Clock,
    /// The changes that were made already.
    nonces: Mutex<Nonces>,
    /// The half of a nonce that is another one in each process, and the one that counts.
    seed: u64,
    next: AtomicU64,
    refused: Counter,
    /// Who is refused may try as often as he likes.
    reports: Throttle,
}

impl Guard {
    pub(crate) fn new(keyring: Keyring, this: &Peer, unsigned_reads: bool, clock: Clock) -> Guard {
        let mut hasher = RandomState::default().build_hasher();
        hasher.write(this.name().as_bytes());
        Guard {
            keyring,
            this: this.name().to_owned(),
            unsigned_reads,
            clock,
            nonces: Mutex::default(),
            seed: hasher.finish(),
            next: AtomicU64::new(0),
            refused: Counter::default(),
            reports: Throttle::default(),
        }
    }

    /// Signs a call to `peer`.
    pub(crate) fn sign(&self, mut call: Call, peer: &Peer) -> Call {
        let signed = Signed {
            method: call.method,
            peer: peer.name(),
            target: &call.target,
            header: &call.header,
            body: &call.body,
        };
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let nonce = u128::from(self.seed) << 64 | u128::from(count);
        let signing = self.keyring.signing();
        call.auth = signing
            .sign(&signed, self.clock.unix_time(), nonce)
            .to_string();
        call
    }

    /// Whether everything takes a signature.
    pub(crate) fn is_strict(&self) -> bool {
        !self.unsigned_reads
    }

    /// How many requests were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Whether a request comes from one who has the secret, or needs not.
    pub(crate) fn check(&self, request: &Request<'_>) -> Result<(), Refused> {
        let checked = self.check_silently(request);
        if let Err(refused) = &checked {
            self.refused.add();
            self.report(refused);
        }
        checked
    }

    fn check_silently(&self, request: &Request<'_>) -> Result<(), Refused> {
        if request.auth.is_empty() {
            let is_open = self.unsigned_reads && is_read(request);
            return if is_open {
                Ok(())
            } else {
                Err(Refused::Unsigned)
            };
        }
        let signature = Signature::parse(request.auth).ok_or(Refused::WrongCode)?;
        let now = self.clock.unix_time();
        check_time(signature.time, now)?;
        let signed = Signed {
            method: request.method,
            peer: &self.this,
            target: request.target,
            header: request.header,
            body: request.body,
        };
        if !self.keyring.verifies(&signed, &signature) {
            return Err(Refused::WrongCode);
        }
        if is_read(request) {
            return Ok(());
        }
        self.nonces.lock().take(&signature, now)
    }

    fn report(&self, refused: &Refused) {
        if let Some(unreported) = self.reports.admit(self.clock.now()) {
            log::warn!(
                target: "groupcache", reason:% = refused, unreported = unreported;
                "requests are refused"
            );
        }
    }
}

/// Whether a request changes nothing.
fn is_read(request: &Request<'_>) -> bool {
    match request.method {
        "GET" => true,
        "POST" => matches!(Command::decode(request.body), Ok(Command::Get(_))),
        _ => false,
    }
}
