//! `Signature`: a code over a request, made with a secret that all nodes share (HMAC-SHA-256: RFC 2104,
//! FIPS 180-4).
//!
//! The code covers the head of the request: the method, the id of the receiver, the path, the header of
//! the protocol, the time, and the length and the SHA-256 of the body. So a sender without a secret is
//! refused as soon as its head has arrived, and a request can be neither altered nor sent to another
//! peer, nor sent later. A request that may change something also carries a number that is accepted
//! once (*nonce*), and names the process that it is meant for (*boot id*), as another process does not
//! know the nonces of before. A signature proves requests and not answers, and encrypts nothing: that
//! takes TLS.

use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};

/// The minimum length of a secret in bytes: a secret that can be guessed is none.
pub(crate) const MIN_SECRET_BYTES: usize = 16;

const VERSION: &str = "2";

/// The legacy scheme, whose code covers the whole body, so that it can be checked only once the body has
/// arrived.
const LEGACY_VERSION: &str = "1";

const MAC_BYTES: usize = 32;

/// What a code covers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    /// The id of the receiver.
    pub(crate) peer: &'a str,
    pub(crate) target: &'a str,
    /// The value of the header of the protocol; empty if there is none.
    pub(crate) header: &'a str,
    /// The boot id of the receiver; 0 if that does not matter, or is not known.
    pub(crate) boot: u64,
    pub(crate) body: Digest,
}

/// A body, as a code covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) length: u64,
    /// The SHA-256 of the body.
    pub(crate) hash: [u8; MAC_BYTES],
}

impl Digest {
    pub(crate) fn of(body: &[u8]) -> Digest {
        Digest {
            length: body.len() as u64,
            hash: Sha256::digest(body).into(),
        }
    }
}

/// When and how a request was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// Since the Unix epoch, by the clock of the sender.
    pub(crate) time: Duration,
    pub(crate) nonce: u128,
    /// `None` if an older node has signed with the legacy scheme only.
    pub(crate) code: Option<Code>,
    /// The code of the legacy scheme, for an older node.
    pub(crate) legacy: Option<[u8; MAC_BYTES]>,
}

/// The code of a head, and what it covers that is not in the request itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) boot: u64,
    /// The SHA-256 of the body, as the sender says.
    pub(crate) body_hash: [u8; MAC_BYTES],
    mac: [u8; MAC_BYTES],
}

/// A secret, ready to sign. Its bytes are not kept.
#[derive(Clone)]
pub(crate) struct Secret(Hmac<Sha256>);

impl Secret {
    /// `None` if the secret is too short.
    pub(crate) fn new(bytes: &[u8]) -> Option<Secret> {
        if bytes.len() < MIN_SECRET_BYTES {
            return None;
        }
        Hmac::new_from_slice(bytes).ok().map(Secret)
    }

    /// Signs a request. The time is cut to whole milliseconds.
    pub(crate) fn sign(&self, signed: &Signed<'_>, time: Duration, nonce: u128) -> Signature {
        let time = Duration::from_millis(millis(time));
        let mac = self.code(signed, time, nonce).finalize();
        let code = Code {
            boot: signed.boot,
            body_hash: signed.body.hash,
            mac: mac.into_bytes().into(),
        };
        Signature {
            time,
            nonce,
            code: Some(code),
            legacy: None,
        }
    }

    /// Adds the code of the legacy scheme, for an older node.
    pub(crate) fn sign_legacy(
        &self,
        signed: &Signed<'_>,
        body: &[u8],
        signature: Signature,
    ) -> Signature {
        let mac = self.legacy_code(signed, body, signature.time, signature.nonce);
        Signature {
            legacy: Some(mac.finalize().into_bytes().into()),
            ..signature
        }
    }

    /// Whether the code is right. Takes as long for a wrong code.
    pub(crate) fn verifies(&self, signed: &Signed<'_>, signature: &Signature) -> bool {
        let code = self.code(signed, signature.time, signature.nonce);
        let claimed = signature.code.as_ref();
        claimed.is_some_and(|claimed| code.verify_slice(&claimed.mac).is_ok())
    }

    /// Whether the code of the legacy scheme is right.
    pub(crate) fn verifies_legacy(
        &self,
        signed: &Signed<'_>,
        body: &[u8],
        signature: &Signature,
    ) -> bool {
        let code = self.legacy_code(signed, body, signature.time, signature.nonce);
        let claimed = signature.legacy.as_ref();
        claimed.is_some_and(|claimed| code.verify_slice(claimed).is_ok())
    }

    fn code(&self, signed: &Signed<'_>, time: Duration, nonce: u128) -> Hmac<Sha256> {
        let mut code = self.head_code(VERSION, signed, time, nonce);
        add(&mut code, &signed.boot.to_be_bytes());
        add(&mut code, &signed.body.length.to_be_bytes());
        add(&mut code, &signed.body.hash);
        code
    }

    fn legacy_code(
        &self,
        signed: &Signed<'_>,
        body: &[u8],
        time: Duration,
        nonce: u128,
    ) -> Hmac<Sha256> {
        let mut code = self.head_code(LEGACY_VERSION, signed, time, nonce);
        add(&mut code, body);
        code
    }

    /// The beginning of the code, in which both schemes differ by their version only.
    fn head_code(
        &self,
        version: &str,
        signed: &Signed<'_>,
        time: Duration,
        nonce: u128,
    ) -> Hmac<Sha256> {
        let mut code = self.0.clone();
        for part in [
            version,
            signed.method,
            signed.peer,
            signed.target,
            signed.header,
        ] {
            add(&mut code, part.as_bytes());
        }
        add(&mut code, &millis(time).to_be_bytes());
        add(&mut code, &nonce.to_be_bytes());
        code
    }
}

/// Adds a part, after its length: so no part can pass for the end of another one.
fn add(code: &mut Hmac<Sha256>, part: &[u8]) {
    code.update(&(part.len() as u64).to_be_bytes());
    code.update(part);
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.legacy.map_or(VERSION, |_| LEGACY_VERSION);
        let (time, nonce) = (millis(self.time), self.nonce);
        write!(f, "v={version};t={time};n={nonce:032x}")?;
        if let Some(legacy) = &self.legacy {
            write!(f, ";m={}", Hex(legacy))?;
        }
        let Some(code) = &self.code else {
            return Ok(());
        };
        write!(f, ";b={:016x};h={}", code.boot, Hex(&code.body_hash))?;
        // An older node expects its own code in `m`, and ignores pairs that it does not know.
        let name = self.legacy.map_or('m', |_| 'c');
        write!(f, ";{name}={}", Hex(&code.mac))
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Signature {
    /// Parses what `Display` writes. A pair that comes twice is an error: it would not be clear which one
    /// counts.
    pub(crate) fn parse(header: &str) -> Option<Signature> {
        let mut values = [None; 7];
        for pair in header.split(';') {
            let (name, value) = pair.trim().split_once('=')?;
            let index = ["v", "t", "n", "b", "h", "m", "c"]
                .iter()
                .position(|known| *known == name);
            if index.is_some_and(|index| values[index].replace(value).is_some()) {
                return None;
            }
        }
        let [version, time, nonce, boot, hash, mac, new] = values;
        let (legacy, new) = match version? {
            VERSION => (None, Some(mac?)),
            LEGACY_VERSION => (Some(parse_mac(mac?)?), new),
            _ => return None,
        };
        let code = |mac| {
            Some(Code {
                boot: u64::try_from(digits(boot?, 16, 16)?).ok()?,
                body_hash: parse_mac(hash?)?,
                mac: parse_mac(mac)?,
            })
        };
        let time = u64::try_from(digits(time?, 10, 20)?).ok()?;
        Some(Signature {
            time: Duration::from_millis(time),
            nonce: digits(nonce?, 16, 32)?,
            code: match new {
                Some(mac) => Some(code(mac)?),
                None => None,
            },
            legacy,
        })
    }
}

/// A number without sign, of at most `max` digits.
fn digits(text: &str, radix: u32, max: usize) -> Option<u128> {
    let is_plain = text.len() <= max && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_plain.then(|| u128::from_str_radix(text, radix).ok())?
}

fn parse_mac(text: &str) -> Option<[u8; MAC_BYTES]> {
    if text.len() != 2 * MAC_BYTES {
        return None;
    }
    let mut mac = [0; MAC_BYTES];
    for (byte, pair) in mac.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::try_from(digits(pair, 16, 2)?).ok()?;
    }
    Some(mac)
}

#[cfg(test)]
mod tests;
