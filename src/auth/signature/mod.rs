//! Who may ask: a code over each request, made with a secret that all nodes share (HMAC-SHA-256:
//! RFC 2104, FIPS 180-4).
//!
//! It covers the head of the request: the method, the id of the peer that is asked, the path, the
//! protocol's header, the time, and of the body its length and its SHA-256. So who has no secret is
//! told so as soon as his head is here, and a request can be neither altered nor sent to another peer,
//! nor later. What may change something also shows a number that is taken once (*nonce*), and names
//! the process that it is meant for (*boot id*), as another one knows no nonces of before. It proves
//! requests and not answers, and hides nothing: that takes TLS.

use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};

/// How far the clocks of two peers may be apart where one changes something at the other, with the
/// time that a request takes.
pub(crate) const WINDOW: Duration = Duration::from_secs(300);

/// The same where one only reads. A read that was recorded can be repeated for so long.
pub(crate) const READ_WINDOW: Duration = Duration::from_secs(30);

/// The shortest secret, in bytes: what can be guessed is none.
pub(crate) const SHORTEST_SECRET: usize = 16;

const VERSION: &str = "2";

/// The scheme before, whose code covers the whole body, so that it is known only once that is here.
const OLD_VERSION: &str = "1";

const MAC_BYTES: usize = 32;

/// What a code is made over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'a> {
    pub(crate) method: &'a str,
    /// The id of the peer that is asked.
    pub(crate) peer: &'a str,
    pub(crate) target: &'a str,
    /// The value of the protocol's header; empty if there is none.
    pub(crate) header: &'a str,
    /// The process that is asked; 0 if that does not matter, or is not known.
    pub(crate) boot: u64,
    pub(crate) body: Digest,
}

/// What stands for a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) length: u64,
    /// Its SHA-256.
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
    /// Since the Unix epoch, by the clock of the one who asks.
    pub(crate) time: Duration,
    pub(crate) nonce: u128,
    /// `None` if an older node has signed.
    pub(crate) code: Option<Code>,
    /// The code of the scheme before, for an older node.
    pub(crate) old: Option<[u8; MAC_BYTES]>,
}

/// The code of a head, and what of it stands nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) boot: u64,
    /// The SHA-256 of the body, as the one who asks says.
    pub(crate) body_hash: [u8; MAC_BYTES],
    mac: [u8; MAC_BYTES],
}

/// A secret, ready to sign. Its bytes are not kept.
#[derive(Clone)]
pub(crate) struct Secret(Hmac<Sha256>);

impl Secret {
    /// `None` if it is too short.
    pub(crate) fn new(bytes: &[u8]) -> Option<Secret> {
        if bytes.len() < SHORTEST_SECRET {
            return None;
        }
        Hmac::new_from_slice(bytes).ok().map(Secret)
    }

    /// Signs a request, whole milliseconds after the epoch.
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
            old: None,
        }
    }

    /// Adds the code that an older node understands.
    pub(crate) fn sign_for_old(
        &self,
        signed: &Signed<'_>,
        body: &[u8],
        signature: Signature,
    ) -> Signature {
        let mac = self.old_code(signed, body, signature.time, signature.nonce);
        Signature {
            old: Some(mac.finalize().into_bytes().into()),
            ..signature
        }
    }

    /// Whether the code is right. Takes as long for a wrong one.
    pub(crate) fn verifies(&self, signed: &Signed<'_>, signature: &Signature) -> bool {
        let code = self.code(signed, signature.time, signature.nonce);
        let claimed = signature.code.as_ref();
        claimed.is_some_and(|claimed| code.verify_slice(&claimed.mac).is_ok())
    }

    /// Whether the code of an older node is right.
    pub(crate) fn verifies_old(
        &self,
        signed: &Signed<'_>,
        body: &[u8],
        signature: &Signature,
    ) -> bool {
        let code = self.old_code(signed, body, signature.time, signature.nonce);
        let claimed = signature.old.as_ref();
        claimed.is_some_and(|claimed| code.verify_slice(claimed).is_ok())
    }

    fn code(&self, signed: &Signed<'_>, time: Duration, nonce: u128) -> Hmac<Sha256> {
        let mut code = self.of_head(VERSION, signed, time, nonce);
        add(&mut code, &signed.boot.to_be_bytes());
        add(&mut code, &signed.body.length.to_be_bytes());
        add(&mut code, &signed.body.hash);
        code
    }

    fn old_code(
        &self,
        signed: &Signed<'_>,
        body: &[u8],
        time: Duration,
        nonce: u128,
    ) -> Hmac<Sha256> {
        let mut code = self.of_head(OLD_VERSION, signed, time, nonce);
        add(&mut code, body);
        code
    }

    /// What both schemes begin with.
    fn of_head(
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

/// With its length before it no part can pass for the end of another one.
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
        let version = self.old.map_or(VERSION, |_| OLD_VERSION);
        let (time, nonce) = (millis(self.time), self.nonce);
        write!(f, "v={version};t={time};n={nonce:032x}")?;
        if let Some(old) = &self.old {
            write!(f, ";m={}", Hex(old))?;
        }
        let Some(code) = &self.code else {
            return Ok(());
        };
        write!(f, ";b={:016x};h={}", code.boot, Hex(&code.body_hash))?;
        // An older node looks for its own code in `m`, and ignores what it does not know.
        let name = self.old.map_or('m', |_| 'c');
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
    /// Reads what `Display` writes. Of a pair that comes twice nobody knows which one counts, so that
    /// is none.
    pub(crate) fn parse(header: &str) -> Option<Signature> {
        let mut values = [None; 7];
        for pair in header.split(';') {
            let (name, value) = pair.trim().split_once('=')?;
            let place = ["v", "t", "n", "b", "h", "m", "c"]
                .iter()
                .position(|known| *known == name);
            if place.is_some_and(|place| values[place].replace(value).is_some()) {
                return None;
            }
        }
        let [version, time, nonce, boot, hash, mac, new] = values;
        let (old, new) = match version? {
            VERSION => (None, Some(mac?)),
            OLD_VERSION => (Some(parse_mac(mac?)?), new),
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
            old,
        })
    }
}

/// A number without sign, of up to so many digits.
fn digits(text: &str, radix: u32, most: usize) -> Option<u128> {
    let is_plain = text.len() <= most && text.bytes().all(|byte| byte.is_ascii_hexdigit());
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

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is not signed.
    Unsigned,
    /// No secret of this node has made the code, or it was not made over this request.
    WrongCode,
    /// The code is one of the scheme before, and this node takes none.
    Old,
    /// Signed so long ago by this clock, and how long that may be.
    Late(Duration, Duration),
    /// Signed so far in the future by this clock, and how far that may be.
    Early(Duration, Duration),
    /// A change that was here already.
    Repeated,
    /// There are more changes than can be remembered, and this one is too old to tell.
    Forgotten,
    /// Signed for another process than this one, which has this boot id.
    StaleBoot(u64),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Unsigned => write!(
                f,
                "the request is not signed: give the node that asks the secret of this cluster"
            ),
            Refused::WrongCode => write!(
                f,
                "the signature is wrong: both nodes must have a secret in common, and this one's \
                 id must be the one in the list of the other"
            ),
            Refused::Old => write!(
                f,
                "the signature is one of an older version: switch on legacy_signatures on the new \
                 nodes until all are new"
            ),
            Refused::Late(skew, most) => write!(
                f,
                "the clock of the node that asks is {:.1} s behind this one's, more than {}: set \
                 the clocks right",
                skew.as_secs_f64(),
                most.as_secs()
            ),
            Refused::Early(skew, most) => write!(
                f,
                "the clock of the node that asks is {:.1} s ahead of this one's, more than {}: set \
                 the clocks right",
                skew.as_secs_f64(),
                most.as_secs()
            ),
            Refused::Repeated => write!(f, "the change was made already: it is not made twice"),
            Refused::Forgotten => write!(
                f,
                "more changes come in than can be told apart, and this one was signed before many \
                 of them: send it again"
            ),
            Refused::StaleBoot(_) => write!(
                f,
                "the change was signed for another process than this one: sign it for this one, and \
                 send it again"
            ),
        }
    }
}

/// Whether a change signed at `time` comes in time.
pub(crate) fn check_time(time: Duration, now: Duration) -> Result<(), Refused> {
    check_within(time, now, WINDOW)
}

/// Whether a request signed at `time` is no more than `most` from `now`.
pub(crate) fn check_within(time: Duration, now: Duration, most: Duration) -> Result<(), Refused> {
    let (late, early) = (now.saturating_sub(time), time.saturating_sub(now));
    if late > most {
        return Err(Refused::Late(late, most));
    }
    if early > most {
        return Err(Refused::Early(early, most));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
