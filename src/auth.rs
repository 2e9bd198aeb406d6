//! Who may ask: a code over each request, made with a secret that all nodes share (HMAC-SHA-256:
//! RFC 2104, FIPS 180-4).
//!
//! It covers the method, the id of the peer that is asked, the path, the protocol's header, the body
//! and the time, so a request can be neither altered nor sent to another peer, nor later. What
//! changes something also shows a number that is taken once (*nonce*). It proves requests and not
//! answers, and hides nothing: that takes TLS.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// How far the clocks of two peers may be apart, with the time that a request takes.
pub(crate) const WINDOW: Duration = Duration::from_secs(300);

/// The shortest secret, in bytes: what can be guessed is none.
pub(crate) const SHORTEST_SECRET: usize = 16;

/// How many changes are remembered, so that none is taken twice: some ten megabytes at most.
const MOST_NONCES: usize = 1 << 17;

const VERSION: &str = "1";
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
    pub(crate) body: &'a [u8],
}

/// When and how a request was signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    /// Since the Unix epoch, by the clock of the one who asks.
    pub(crate) time: Duration,
    pub(crate) nonce: u128,
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
        Signature {
            time,
            nonce,
            mac: mac.into_bytes().into(),
        }
    }

    /// Whether the code is right. Takes as long for a wrong one.
    pub(crate) fn verifies(&self, signed: &Signed<'_>, signature: &Signature) -> bool {
        let code = self.code(signed, signature.time, signature.nonce);
        code.verify_slice(&signature.mac).is_ok()
    }

    fn code(&self, signed: &Signed<'_>, time: Duration, nonce: u128) -> Hmac<Sha256> {
        let mut code = self.0.clone();
        let (time, nonce) = (millis(time).to_be_bytes(), nonce.to_be_bytes());
        for part in [
            VERSION.as_bytes(),
            signed.method.as_bytes(),
            signed.peer.as_bytes(),
            signed.target.as_bytes(),
            signed.header.as_bytes(),
            &time,
            &nonce,
            signed.body,
        ] {
            // With its length before it no part can pass for the end of another one.
            code.update(&(part.len() as u64).to_be_bytes());
            code.update(part);
        }
        code
    }
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
        let (time, nonce) = (millis(self.time), self.nonce);
        write!(f, "v={VERSION};t={time};n={nonce:032x};m=")?;
        self.mac.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Signature {
    /// Reads what `Display` writes.
    pub(crate) fn parse(header: &str) -> Option<Signature> {
        let (mut time, mut nonce, mut mac) = (None, None, None);
        for pair in header.split(';') {
            let (name, value) = pair.trim().split_once('=')?;
            match name {
                "v" if value != VERSION => return None,
                "t" => time = digits(value, 10, 20).and_then(|value| u64::try_from(value).ok()),
                "n" => nonce = digits(value, 16, 32),
                "m" => mac = parse_mac(value),
                _ => {}
            }
        }
        Some(Signature {
            time: Duration::from_millis(time?),
            nonce: nonce?,
            mac: mac?,
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
    /// Signed so long ago by this clock.
    Late(Duration),
    /// Signed so far in the future by this clock.
    Early(Duration),
    /// A change that was here already.
    Repeated,
    /// There are more changes than can be remembered, and this one is too old to tell.
    Forgotten,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let window = WINDOW.as_secs();
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
            Refused::Late(skew) => write!(
                f,
                "the clock of the node that asks is {:.1} s behind this one's, more than {window}: \
                 set the clocks right",
                skew.as_secs_f64()
            ),
            Refused::Early(skew) => write!(
                f,
                "the clock of the node that asks is {:.1} s ahead of this one's, more than \
                 {window}: set the clocks right",
                skew.as_secs_f64()
            ),
            Refused::Repeated => write!(f, "the change was made already: it is not made twice"),
            Refused::Forgotten => write!(
                f,
                "more changes come in than can be told apart, and this one was signed before many \
                 of them: send it again"
            ),
        }
    }
}

/// Whether a request signed at `time` comes in time.
pub(crate) fn check_time(time: Duration, now: Duration) -> Result<(), Refused> {
    let (late, early) = (now.saturating_sub(time), time.saturating_sub(now));
    if late > WINDOW {
        return Err(Refused::Late(late));
    }
    if early > WINDOW {
        return Err(Refused::Early(early));
    }
    Ok(())
}

/// The changes of the last minutes, so that none is made twice.
#[derive(Debug, Default)]
pub(crate) struct Nonces {
    seen: BTreeSet<(Duration, u128)>,
    /// Of changes signed before this, nothing is known.
    horizon: Duration,
}

impl Nonces {
    /// Takes a change whose code is right and whose time is not over, once.
    pub(crate) fn take(&mut self, signature: &Signature, now: Duration) -> Result<(), Refused> {
        let over = now.saturating_sub(WINDOW);
        while self.seen.first().is_some_and(|(time, _)| *time < over) {
            self.seen.pop_first();
        }
        if signature.time < self.horizon {
            return Err(Refused::Forgotten);
        }
        if !self.seen.insert((signature.time, signature.nonce)) {
            return Err(Refused::Repeated);
        }
        while self.seen.len() > MOST_NONCES {
            if let Some((time, _)) = self.seen.pop_first() {
                self.horizon = time + Duration::from_millis(1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_763_900_000);

    fn request() -> Signed<'static> {
        Signed {
            method: "PUT",
            peer: "http://a:1",
            target: "/_groupcache/g/k",
            header: "v=1;r=ff",
            body: b"value",
        }
    }

    fn secret() -> Secret {
        Secret::new(b"0123456789abcdef").unwrap()
    }

    #[test]
    fn a_signature_survives_its_way_and_fits_its_request_only() {
        let signature = secret().sign(&request(), NOW, 77);
        let read = Signature::parse(&signature.to_string()).unwrap();
        assert_eq!(read, signature);
        assert!(secret().verifies(&request(), &read));
        let mut others = vec![
            Signed {
                method: "GET",
                ..request()
            },
            Signed {
                peer: "http://b:1",
                ..request()
            },
            Signed {
                target: "/_groupcache/g/l",
                ..request()
            },
            Signed {
                header: "v=1",
                ..request()
            },
            Signed {
                body: b"valuf",
                ..request()
            },
            Signed {
                body: b"",
                ..request()
            },
        ];
        // The same bytes, parted in another way.
        others.push(Signed {
            header: "v=1;r=f",
            body: b"fvalue",
            ..request()
        });
        for other in others {
            assert!(!secret().verifies(&other, &read), "{other:?}");
        }
        let other = Secret::new(b"0123456789abcdeg").unwrap();
        assert!(!other.verifies(&request(), &read));
        for changed in [
            Signature {
                time: NOW + Duration::from_millis(1),
                ..read
            },
            Signature { nonce: 78, ..read },
        ] {
            assert!(!secret().verifies(&request(), &changed));
        }
    }

    #[test]
    fn what_is_no_signature_is_none() {
        let good = secret().sign(&request(), NOW, 77).to_string();
        assert!(Signature::parse(&format!("{good};x=new")).is_some());
        for bad in [
            String::new(),
            "v=1".into(),
            good.replace("v=1", "v=2"),
            good.replace(";t=", ";t=+"),
            good.replace(";t=", ";t=99999999999999999999"),
            good.replace(";n=", ";n=0"),
            good.replace(";m=", ";m=0"),
            good[..good.len() - 1].to_owned(),
            good.replace(";m=", ";m=é"),
            good.replace(';', ","),
        ] {
            assert_eq!(Signature::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_short_secret_is_refused_and_none_is_shown() {
        assert!(Secret::new(b"0123456789abcde").is_none());
        assert_eq!(format!("{:?}", secret()), "Secret(..)");
    }

    #[test]
    fn a_refusal_names_the_skew() {
        let (ahead, behind) = (NOW + Duration::from_millis(300_500), NOW - WINDOW);
        assert_eq!(check_time(behind, NOW), Ok(()));
        let refused = check_time(ahead, NOW).unwrap_err();
        assert!(refused.to_string().contains("300.5 s ahead"), "{refused}");
        let refused = check_time(NOW, ahead).unwrap_err();
        assert!(refused.to_string().contains("300.5 s behind"), "{refused}");
    }

    #[test]
    fn a_change_is_taken_once_and_forgotten_when_its_time_is_over() {
        let mut nonces = Nonces::default();
        let signed = |time, nonce| secret().sign(&request(), time, nonce);
        assert_eq!(nonces.take(&signed(NOW, 1), NOW), Ok(()));
        assert_eq!(nonces.take(&signed(NOW, 1), NOW), Err(Refused::Repeated));
        assert_eq!(nonces.take(&signed(NOW, 2), NOW), Ok(()));
        let later = NOW + WINDOW + Duration::from_secs(1);
        assert_eq!(nonces.take(&signed(later, 3), later), Ok(()));
        assert_eq!(nonces.seen.len(), 1);
    }

    #[test]
    fn what_cannot_be_remembered_is_refused_rather_than_taken_twice() {
        let mut nonces = Nonces::default();
        let signature = |at: usize| Signature {
            time: NOW + Duration::from_millis(at as u64),
            nonce: 0,
            mac: [0; MAC_BYTES],
        };
        for at in 0..MOST_NONCES + 10 {
            assert_eq!(nonces.take(&signature(at), NOW), Ok(()));
        }
        assert_eq!(nonces.seen.len(), MOST_NONCES);
        assert_eq!(nonces.take(&signature(3), NOW), Err(Refused::Forgotten));
        assert_eq!(nonces.take(&signature(10), NOW), Err(Refused::Repeated));
    }
}
