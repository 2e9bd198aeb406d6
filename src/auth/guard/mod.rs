//! `Guard`: signs requests to peers, and checks requests to this node.

use std::hash::{BuildHasher, Hasher};
use std::time::Duration;

use crate::auth::keyring::Keyring;
use crate::auth::nonces::Nonces;
use crate::auth::refusal::{READ_WINDOW, Refused, check_time, check_within};
use crate::auth::signature::{Digest, Signature, Signed};
use crate::protocol::{Request, Response, changes_nothing};
use crate::runtime::clock::Clock;
use crate::runtime::log_throttle::LogThrottle;
use crate::runtime::sync::{AtomicU64, Mutex, Ordering, RandomState};
use crate::stats::Counter;
use crate::transport::peer::{Call, Peer};

pub(crate) struct Guard {
    keyring: Keyring,
    /// The id of this node, which its peers include in signatures.
    this: String,
    rules: Rules,
    clock: Clock,
    /// The changes that were accepted already.
    nonces: Mutex<Nonces>,
    /// The boot id: a random number of this process, replaced when its clock is set back. Changes are
    /// signed for it, so that no earlier change is accepted again. Changed with `nonces` locked.
    boot: AtomicU64,
    /// The half of a nonce that differs between processes, and the half that counts.
    seed: u64,
    next: AtomicU64,
    refused: Counter,
    /// Limits the log: a sender that is refused may try without end.
    reports: LogThrottle,
}

/// Which requests are accepted besides those with a code of the current scheme.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// Whether a `GET` needs no signature.
    pub(crate) unsigned_reads: bool,
    /// Whether codes of the legacy scheme are sent and accepted.
    pub(crate) legacy: bool,
}

/// The body of a request, as far as it has arrived.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    Here(&'a [u8]),
    /// The body is still to come, and has this length.
    Announced(u64),
}

impl Body<'_> {
    fn len(self) -> u64 {
        match self {
            Body::Here(body) => body.len() as u64,
            Body::Announced(length) => length,
        }
    }
}

impl Guard {
    pub(crate) fn new(keyring: Keyring, this: &Peer, rules: Rules, clock: Clock) -> Guard {
        Guard {
            keyring,
            this: this.name().to_owned(),
            rules,
            clock,
            nonces: Mutex::default(),
            boot: AtomicU64::new(random(this.name())),
            seed: random(this.name()),
            next: AtomicU64::new(0),
            refused: Counter::default(),
            reports: LogThrottle::default(),
        }
    }

    /// Signs a call to `peer`, whose process has the boot id `boot`, 0 if it is not known.
    pub(crate) fn sign(&self, call: &mut Call, peer: &Peer, boot: u64) {
        let signed = Signed {
            method: call.method,
            peer: peer.name(),
            target: &call.target,
            header: &call.header,
            boot,
            body: Digest::of(&call.body),
        };
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let nonce = u128::from(self.seed) << 64 | u128::from(count);
        let signing = self.keyring.signing();
        let mut signature = signing.sign(&signed, self.clock.unix_time(), nonce);
        if self.rules.legacy {
            signature = signing.sign_legacy(&signed, &call.body, signature);
        }
        call.auth = signature.to_string();
    }

    /// Whether all requests need a signature.
    pub(crate) fn is_strict(&self) -> bool {
        !self.rules.unsigned_reads
    }

    /// How many requests were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Checks that the sender of a request has the secret, or that the request needs no signature. If the
    /// sender has the secret, returns the boot id for the answer to name.
    ///
    /// If the body of the request is still to come, only the head is checked: the request is checked again
    /// when all of it has arrived, and only then its nonce is used up. A head that is old may have been
    /// recorded: it does not prove that its sender has the secret.
    pub(crate) fn check(
        &self,
        request: &Request<'_>,
        body: Body<'_>,
    ) -> Result<Option<u64>, Response> {
        let checked = self.check_silently(request, body);
        match &checked {
            // The sender signs the request again and sends it again: no person has to do anything.
            Ok(_) | Err(Refused::StaleBoot(_)) => {}
            Err(refused) => {
                self.refused.add();
                self.report(refused);
            }
        }
        checked.map_err(response_of)
    }

    fn check_silently(
        &self,
        request: &Request<'_>,
        body: Body<'_>,
    ) -> Result<Option<u64>, Refused> {
        if request.auth.is_empty() {
            let is_open = self.rules.unsigned_reads && request.method == "GET";
            return is_open.then_some(None).ok_or(Refused::Unsigned);
        }
        let signature = Signature::parse(request.auth).ok_or(Refused::WrongCode)?;
        if !self.check_code(request, body, &signature)? {
            return Ok(None);
        }
        // A sender that has the secret may learn more.
        let now = self.clock.unix_time();
        if request.method == "GET" {
            check_within(signature.time, now, READ_WINDOW)?;
        } else {
            self.check_change(request, body, &signature, now)?;
        }
        let is_old = check_within(signature.time, now, READ_WINDOW).is_err();
        if is_old && matches!(body, Body::Announced(_)) {
            return Ok(None);
        }
        Ok(Some(self.boot.load(Ordering::Relaxed)))
    }

    /// Whether the code is right; false if that is not known yet.
    fn check_code(
        &self,
        request: &Request<'_>,
        body: Body<'_>,
        signature: &Signature,
    ) -> Result<bool, Refused> {
        let signed = |boot, hash| Signed {
            method: request.method,
            peer: &self.this,
            target: request.target,
            header: request.header,
            boot,
            body: Digest {
                length: body.len(),
                hash,
            },
        };
        let is_right = match (&signature.code, body) {
            (Some(code), _) => {
                let signed = signed(code.boot, code.body_hash);
                let is_body = |body| Digest::of(body) == signed.body;
                let verifies = self
                    .keyring
                    .any(|secret| secret.verifies(&signed, signature));
                verifies && !matches!(body, Body::Here(body) if !is_body(body))
            }
            (None, _) if !self.rules.legacy => return Err(Refused::Legacy),
            // A legacy code covers the body.
            (None, Body::Announced(_)) => return Ok(false),
            (None, Body::Here(body)) => {
                let signed = signed(0, [0; 32]);
                self.keyring
                    .any(|secret| secret.verifies_legacy(&signed, body, signature))
            }
        };
        is_right.then_some(true).ok_or(Refused::WrongCode)
    }

    /// Checks that a request that may change something is for this process, in time, and new.
    fn check_change(
        &self,
        request: &Request<'_>,
        body: Body<'_>,
        signature: &Signature,
        now: Duration,
    ) -> Result<(), Refused> {
        let changes_nothing =
            matches!(body, Body::Here(body) if changes_nothing(request.target, body));
        match changes_nothing {
            true => check_within(signature.time, now, READ_WINDOW)?,
            false => check_time(signature.time, now)?,
        }
        let mut nonces = self.nonces.lock();
        if nonces.is_set_back(now) {
            // Earlier changes are not known by their time any more: they are signed for the old boot id.
            *nonces = Nonces::default();
            self.boot.store(random(&self.this), Ordering::Relaxed);
        }
        let boot = self.boot.load(Ordering::Relaxed);
        // An older node names no boot id.
        if signature.code.is_some_and(|code| code.boot != boot) {
            return Err(Refused::StaleBoot(boot));
        }
        match body {
            // However many of these there are, their nonces displace none of changes.
            _ if changes_nothing => Ok(()),
            Body::Announced(_) => nonces.check(signature),
            Body::Here(_) => nonces.take(signature, now),
        }
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

/// A number that cannot be guessed, and that no other process has. Never 0.
fn random(salt: &str) -> u64 {
    let mut hasher = RandomState::default().build_hasher();
    hasher.write(salt.as_bytes());
    hasher.finish().max(1)
}

fn response_of(refused: Refused) -> Response {
    let reason = refused.to_string();
    match refused {
        Refused::StaleBoot(boot) => Response::stale_boot(boot, &reason),
        _ => Response::unauthorized(&reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::refusal::WINDOW;

    fn guard(clock: &Clock) -> Guard {
        let keyring = Keyring::new("a secret of many bytes").unwrap();
        let this = Peer::new("http://a:1").unwrap();
        Guard::new(keyring, &this, Rules::default(), clock.clone())
    }

    /// A call to the guard itself.
    fn signed(guard: &Guard, method: &'static str, boot: u64) -> Call {
        let target = "/_groupcache/g/k".to_owned();
        let mut call = Call::new(method, target, "v=1".to_owned());
        guard.sign(&mut call, &Peer::new(&guard.this).unwrap(), boot);
        call
    }

    /// The boot id that the answer names, and whether the call was accepted.
    fn ask(guard: &Guard, call: &Call) -> (Option<u64>, bool) {
        let request = Request::new(call.method, &call.target)
            .header("X-Groupcache", &call.header)
            .header("X-Groupcache-Auth", &call.auth);
        match guard.check(&request, Body::Here(&call.body)) {
            Ok(boot) => (boot, true),
            Err(refusal) => {
                let (_, header) = refusal.headers().nth(1).unwrap();
                (crate::protocol::boot_of(header), false)
            }
        }
    }

    #[test]
    fn a_clock_that_is_set_back_refuses_no_new_change_and_accepts_no_old_one() {
        let clock = Clock::manual();
        let mut guard = guard(&clock);
        let (boot, _) = ask(&guard, &signed(&guard, "GET", 0));
        let boot = boot.unwrap();
        let recorded = signed(&guard, "DELETE", boot);
        assert_eq!(ask(&guard, &recorded), (Some(boot), true));
        clock.advance(2 * WINDOW);
        assert!(ask(&guard, &signed(&guard, "DELETE", boot)).1);
        // Ten minutes back: the changes of then are in time once more.
        guard.clock = Clock::manual();
        let (new, taken) = ask(&guard, &recorded);
        assert!(!taken && new != Some(boot));
        let change = signed(&guard, "DELETE", new.unwrap());
        assert_eq!(ask(&guard, &change), (new, true));
        assert_eq!(ask(&guard, &change), (None, false), "once");
        assert_eq!(ask(&guard, &recorded), (new, false));
        assert_eq!(
            guard.refused(),
            1,
            "a request to be signed again does not count as refused"
        );
    }
}
