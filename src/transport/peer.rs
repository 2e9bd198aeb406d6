//! `Peer`: a member of the cluster, and `Transport`: how requests reach it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use crate::error::Error;
use crate::runtime::sync::Arc;

/// A member of the cluster, with its name, its address and its weight.
///
/// It is made of an address, `"http://10.0.0.5:7000"`, which is its name by default. All nodes must use the
/// same name for a peer: the ring takes two names for two peers. In the ring of
/// [`Dialect::Golang`](crate::Dialect::Golang), even two spellings of an address are two names.
///
/// An address that begins with `https://` is reached through TLS, for which the node needs a
/// certificate: see `Tls`, feature `tls`. The address with `https://` is another name than the one with
/// `http://`: to introduce TLS without moving keys, give peers [names](Peer::with_name) first.
///
/// ```
/// use groupcache_sync::Peer;
///
/// let peer = Peer::new("http://10.0.0.5:7000")?.with_name("cache-0").weight(2.0)?;
/// assert_eq!(peer.name(), "cache-0");
/// assert_eq!(peer.address(), "http://10.0.0.5:7000");
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Peer {
    pub(crate) id: String,
    /// The id, or the address exactly as it was given: Go hashes its bytes.
    pub(crate) spelled: String,
    is_secure: bool,
    host: String,
    port: u16,
    pub(crate) weight: f64,
}

impl Peer {
    /// The peer at `address`: `http://` or `https://`, a host name or an IP address (IPv6 in
    /// brackets), and a port, which defaults to 80, and with TLS to 443.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if the address has another form.
    pub fn new(address: &str) -> Result<Peer, Error> {
        let invalid = |reason: &str| Error::peer(address, reason);
        let (is_secure, rest) = split_scheme(address).ok_or_else(|| {
            invalid("it must begin with http:// or https://, as http://10.0.0.5:7000")
        })?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@', '\\']) {
            return Err(invalid("only host:port may follow http:// or https://"));
        }
        let (host, port) =
            split_port(rest).ok_or_else(|| invalid("the port is not a number from 1 to 65535"))?;
        let port = port.unwrap_or(if is_secure { 443 } else { 80 });
        let host = normal_host(host)
            .ok_or_else(|| invalid("the host is neither a name nor an IP address"))?;
        if port == 0 {
            return Err(invalid(
                "port 0 cannot be reached; give the port that the peer listens on",
            ));
        }
        Ok(Peer {
            id: spell(is_secure, &host, port),
            spelled: address.to_owned(),
            is_secure,
            host,
            port,
            weight: 1.0,
        })
    }

    /// Sets the [name](Peer::name), which determines the keys that the peer owns: a peer that comes back at
    /// another address with the same name keeps its keys. Defaults to the address.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Peer {
        self.id = name.into();
        self.spelled.clone_from(&self.id);
        self
    }

    /// The old name of [`with_name`](Peer::with_name).
    #[deprecated(note = "renamed to `with_name`")]
    #[must_use]
    pub fn id(self, id: impl Into<String>) -> Peer {
        self.with_name(id)
    }

    /// Sets its share of the keys relative to other peers, above 0 and at most 100. Defaults to 1.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if the weight is out of this range.
    pub fn weight(mut self, weight: f64) -> Result<Peer, Error> {
        if !(weight > 0.0 && weight <= 100.0) {
            return Err(Error::peer(
                &self.id,
                "its weight must be above 0 and at most 100",
            ));
        }
        self.weight = weight;
        Ok(self)
    }

    /// Its name: the one that it was [given](Peer::with_name), or else its address in normal form. The
    /// protocol calls it the id of the peer.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.id
    }

    /// Its address, in the normal form that this crate uses.
    #[must_use]
    pub fn address(&self) -> String {
        spell(self.is_secure, &self.host, self.port)
    }

    /// Its host name or IP address, IPv6 in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is reached through TLS: its address begins with `https://`.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Its host name or IP address, without the brackets that IPv6 has in addresses.
    pub(crate) fn bare_host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Compares the normal forms of the addresses.
impl PartialEq for Peer {
    fn eq(&self, other: &Peer) -> bool {
        self.id == other.id
            && self.is_secure == other.is_secure
            && self.host == other.host
            && self.port == other.port
            && self.weight == other.weight
    }
}

impl TryFrom<&str> for Peer {
    type Error = Error;

    fn try_from(address: &str) -> Result<Peer, Error> {
        Peer::new(address)
    }
}

impl TryFrom<&String> for Peer {
    type Error = Error;

    fn try_from(address: &String) -> Result<Peer, Error> {
        Peer::new(address)
    }
}

impl TryFrom<String> for Peer {
    type Error = Error;

    fn try_from(address: String) -> Result<Peer, Error> {
        Peer::new(&address)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

fn spell(is_secure: bool, host: &str, port: u16) -> String {
    let scheme = if is_secure { "https" } else { "http" };
    format!("{scheme}://{host}:{port}")
}

/// Whether the scheme means TLS, and the rest of the address.
fn split_scheme(address: &str) -> Option<(bool, &str)> {
    let plain = address.strip_prefix("http://").map(|rest| (false, rest));
    plain.or_else(|| address.strip_prefix("https://").map(|rest| (true, rest)))
}

/// The host in its normal form, and the port if there is one: of the value of a `Host` header.
pub(crate) fn split_host(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = split_port(text)?;
    Some((normal_host(host)?, port))
}

fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    // The colons of an IPv6 address are inside brackets.
    match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            Some((host, Some(digits.then(|| port.parse().ok()).flatten()?)))
        }
        _ => Some((text, None)),
    }
}

/// The normal form of a host: lower case, and IP addresses as the standard library writes them.
fn normal_host(host: &str) -> Option<String> {
    if let Some(inner) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        return inner
            .parse::<Ipv6Addr>()
            .ok()
            .map(|address| format!("[{address}]"));
    }
    if let Ok(IpAddr::V4(address)) = host.parse() {
        return Some(address.to_string());
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_name = !host.is_empty() && host.len() <= 253 && host.bytes().all(allowed);
    is_name.then(|| host.to_ascii_lowercase())
}

/// How requests reach peers.
///
/// The default is HTTP ([`Node::new`](crate::Node::new)); with the feature `test-util` there is one
/// in memory. This interface may still change: it does not follow semantic versioning yet.
///
/// It is called without any lock held, by all threads that fetch, change or probe, many at a time.
pub trait Transport: Send + Sync + 'static {
    /// Makes the link to `peer`. Must not block. That a peer is unreachable is an error of a call, not
    /// of this.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if this transport can never reach such a peer.
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error>;
}

/// Sends requests to one peer. Dropped when the peer leaves: it then closes its connections.
pub trait Link: Send + Sync {
    /// Sends `call` and returns the answer. Blocks no longer than `timeout` until the answer begins. The
    /// whole call may take up to [`Call::whole`] as long as it makes progress: at least 64 KiB of the
    /// request or of the answer in each `timeout`. A link that cannot observe progress limits the whole
    /// call to `timeout`. Called on the thread of a get or a change, on a loader thread, or on the node's
    /// maintenance thread, without any lock held.
    ///
    /// # Errors
    ///
    /// [`CallError`], and never later than [`Call::whole`].
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError>;

    /// How many requests were sent a second time, on another connection. Defaults to zero.
    fn retries(&self) -> u64 {
        0
    }
}

/// The limits of all calls to a peer.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The longest time for making a connection.
    pub connect_timeout: Duration,
    /// The longest body of an answer, in bytes.
    pub max_body: usize,
}

/// A request to a peer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// `GET`, `PUT`, `DELETE` or `POST`.
    pub method: &'static str,
    /// The path, percent-encoded.
    pub target: String,
    /// The value of the protocol's header (`X-Groupcache`).
    pub header: String,
    /// The value of the header that authenticates the sender (`X-Groupcache-Auth`); empty for none.
    pub auth: String,
    /// The body; empty for `GET` and `DELETE`.
    pub body: Vec<u8>,
    /// The longest time for the whole call while it makes progress: see [`Link::call`]. A time shorter
    /// than `timeout` counts as `timeout`.
    pub whole: Duration,
}

impl Call {
    pub(crate) fn new(method: &'static str, target: String, header: String) -> Call {
        Call {
            method,
            target,
            header,
            auth: String::new(),
            body: Vec::new(),
            whole: Duration::ZERO,
        }
    }

    pub(crate) fn with_body(self, body: Vec<u8>) -> Call {
        Call { body, ..self }
    }
}

/// The answer of a peer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status code.
    pub status: u16,
    /// The value of the protocol's header (`X-Groupcache`), if the answer has it.
    pub header: Option<String>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The answer has not begun in time, or made no progress.
    Timeout,
    /// The answer made progress, but takes longer than [`Call::whole`].
    Unfinished,
    /// The peer cannot be reached, or has closed the connection.
    Unreachable(String),
    /// The bytes that came are not a valid answer.
    ProtocolError(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CallError::Timeout => f.write_str("no answer in time"),
            CallError::Unfinished => f.write_str("the answer goes on, but takes too long"),
            CallError::Unreachable(reason) | CallError::ProtocolError(reason) => {
                f.write_str(reason)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_normal_form() {
        let spelled = |address: &str| Peer::new(address).map(|peer| peer.address()).ok();
        assert_eq!(
            spelled("http://Cache-0.Local:80/").as_deref(),
            Some("http://cache-0.local:80")
        );
        assert_eq!(spelled("http://cache").as_deref(), Some("http://cache:80"));
        assert_eq!(
            spelled("http://[::0:1]:7000").as_deref(),
            Some("http://[::1]:7000")
        );
        assert_eq!(spelled("http://[::1]").as_deref(), Some("http://[::1]:80"));
        assert_eq!(spelled("https://A/").as_deref(), Some("https://a:443"));
        assert_eq!(spelled("https://a:80").as_deref(), Some("https://a:80"));
    }

    #[test]
    fn a_peer_with_tls_is_another_one_than_without() {
        let [plain, secure] = ["http://a:1", "https://a:1"].map(|a| Peer::new(a).unwrap());
        assert!(secure.is_secure() && !plain.is_secure());
        assert_ne!(plain.name(), secure.name());
        assert_ne!(plain.with_name("x"), secure.with_name("x"));
    }

    #[test]
    fn addresses_that_could_lead_elsewhere_are_refused() {
        for address in [
            "",
            "10.0.0.1:80",
            "ftp://a:1",
            "http://",
            "https://",
            "https:a:1",
            "https://a:1/path",
            "HTTPS://a:1",
            "http://:80",
            "http://a:0",
            "http://a:x",
            "http://a:99999",
            "http://a:1/path",
            "http://user@a:1",
            "http://a:1?x",
            "http://a b:1",
            "http://[::1",
            "http://::1:80",
            "http://a:+1",
            "http://a\r\nb:1",
            "unix:/tmp/x",
        ] {
            let refused = Peer::new(address);
            assert!(
                matches!(refused, Err(Error::InvalidPeer { .. })),
                "{address:?} {refused:?}"
            );
        }
    }

    #[test]
    fn a_weight_out_of_range_is_refused() {
        for weight in [0.0, -1.0, 101.0, f64::NAN, f64::INFINITY] {
            assert!(
                Peer::new("http://a:1").unwrap().weight(weight).is_err(),
                "{weight}"
            );
        }
    }
}
