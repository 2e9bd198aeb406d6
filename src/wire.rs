//! The peer protocol: bytes to messages and back. Pure: no socket, no lock, no clock.
//!
//! A value has the path `/_groupcache/<group>/<key>`, both percent-encoded; `GET` asks for it,
//! `PUT` sets it, `DELETE` removes it, and `POST` on `/_groupcache/<group>` is a command for the
//! whole group. Bodies are protocol buffers whose low fields are those of golang/groupcache, so
//! that a native answer is a valid answer to a Go peer; what is ours has numbers from 100.
//!
//! Both directions carry one header, [`HEADER`]: `name=value` pairs separated by `;`, of which
//! unknown ones are ignored. Its presence tells a native peer.
//!
//! | pair | in | meaning |
//! |---|---|---|
//! | `v` | both | protocol version, 1 |
//! | `h` | request | local hits of the mirrored key since it was last fetched |
//! | `w` | request | milliseconds after which the owner answers `loading`; with 0 at once |
//! | `d` | request | milliseconds until the caller gives up; absent if never |
//! | `p` | request | with 1: only what the node owns in memory, for one who owns it now |
//! | `f` | request | with 1: the asker loads the value itself if its load has not begun after `w` |
//! | `m` | request | the longest body that the asker takes, in bytes; for batches |
//! | `i` | change | who makes it: the random number of the sender's process, hexadecimal |
//! | `q` | change | its number among the changes of that process |
//! | `g` | request | name of the cluster, percent-encoded |
//! | `t` | request | id of the peer that is meant, percent-encoded |
//! | `r` | both | fingerprint of the sender's ring, hexadecimal |
//! | `s` | answer | [`Status`], which is finer than HTTP's |
//! | `n` | answer | length of a value that is too large to be sent |
//! | `k` | answer | [`hash_of_request`] of what is answered, hexadecimal |
//! | `b` | answer | boot id of the one who answers, to one who has signed for it, hexadecimal |
//!
//! What a Go peer spells in another way is in `wire/golang.rs`. `docs/PROTOCOL.md` tells all of it to
//! those who write another implementation.

mod command;
mod errand;
mod golang;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

pub(crate) use command::{BatchWriter, Command, Item, MAX_COMMAND, MAX_KEYS, decode_batch};
use command::{Field, encode_bytes, read_field};
pub(crate) use errand::{Errand, MAX_MARKS, MAX_TOLD, Removal, Whom, decode_marks, encode_marks};

use crate::account::Charge;
use crate::dialect::Dialect;
use crate::key::{MAX_KEY_BYTES, MAX_NAME_BYTES};
use crate::ring::hash_of_parts;
use crate::sync::Arc;
use crate::value::Value;

/// The name of the header that native peers exchange.
pub(crate) const HEADER: &str = "X-Groupcache";

/// The header of a request that proves who asks.
pub(crate) const AUTH_HEADER: &str = "X-Groupcache-Auth";

/// Where all paths of the protocol begin.
pub(crate) const BASE: &str = "/_groupcache/";

const VERSION: u32 = 1;

/// `.` is encoded too, so that no normaliser on the way sees a dot segment; never `+`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// How long `text` is once percent-encoded.
pub(crate) fn encoded_len(text: &str) -> usize {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
    text.bytes()
        .map(|byte| if kept(byte) { 1 } else { 3 })
        .sum()
}

/// Whether a key has too many bytes to travel: once encoded, however it came, in a path or in a body.
pub(crate) fn is_too_long(key: &str) -> bool {
    // Most keys are short in any case.
    key.len() > MAX_KEY_BYTES / 3 && encoded_len(key) > MAX_KEY_BYTES
}

/// The path of a key, or of a group.
pub(crate) fn target(group: &str, key: Option<&str>) -> String {
    let mut target = String::with_capacity(BASE.len() + group.len() + key.map_or(0, str::len) + 8);
    target.push_str(BASE);
    target.extend(utf8_percent_encode(group, ESCAPED));
    if let Some(key) = key {
        target.push('/');
        target.extend(utf8_percent_encode(key, ESCAPED));
    }
    target
}

/// A text as it stands in paths, and in values of the header's pairs.
pub(crate) fn escaped(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, ESCAPED)
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Key(Cow<'a, str>, Cow<'a, str>),
    Group(Cow<'a, str>),
    /// The node itself: an answer shows that it is alive.
    Node,
}

/// What is wrong with a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadTarget {
    Elsewhere,
    TooLong,
    Malformed(&'static str),
}

/// Whether a path is one of the protocol.
pub(crate) fn is_ours(target: &str) -> bool {
    target.starts_with(BASE)
}

/// Reads a path as one who speaks `dialect` spells it: split first, then decode, so that an encoded
/// `/` stays part of its key.
pub(crate) fn parse_target(target: &str, dialect: Dialect) -> Result<Target<'_>, BadTarget> {
    let rest = target.strip_prefix(BASE).ok_or(BadTarget::Elsewhere)?;
    if rest.is_empty() {
        return Ok(Target::Node);
    }
    if rest
        .bytes()
        .any(|byte| matches!(byte, b'?' | b'#') || !matches!(byte, b' '..=b'~'))
    {
        return Err(BadTarget::Malformed(
            "?, #, control characters and what is not ASCII must be encoded",
        ));
    }
    let (group, key) = match rest.split_once('/') {
        Some((group, key)) => (group, Some(key)),
        None => (rest, None),
    };
    if group.is_empty() {
        return Err(BadTarget::Malformed("the group has no name"));
    }
    let group = unescape(group, dialect)?;
    if group.len() > MAX_NAME_BYTES {
        return Err(BadTarget::Malformed("the name of the group is too long"));
    }
    let Some(key) = key else {
        return Ok(Target::Group(group));
    };
    // No need to decode what must be too long: three bytes make one.
    if key.len() > 3 * MAX_KEY_BYTES {
        return Err(BadTarget::TooLong);
    }
    let key = unescape(key, dialect)?;
    match is_too_long(&key) {
        true => Err(BadTarget::TooLong),
        false => Ok(Target::Key(group, key)),
    }
}

fn unescape(text: &str, dialect: Dialect) -> Result<Cow<'_, str>, BadTarget> {
    match dialect {
        Dialect::Native => decode(text),
        Dialect::Golang => Ok(Cow::Owned(decode(&golang::with_spaces(text))?.into_owned())),
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, BadTarget> {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let digits = rest.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(BadTarget::Malformed(
                "a % is not followed by two hexadecimal digits",
            ));
        }
        rest = &rest[at + 3..];
    }
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| BadTarget::Malformed("it is not UTF-8 once decoded"))
}

/// What a native peer says along with its request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Whether the asker speaks this dialect at all.
    pub(crate) native: bool,
    pub(crate) hits: u32,
    pub(crate) patience: Option<Duration>,
    pub(crate) remaining: Option<Duration>,
    pub(crate) ring: Option<u64>,
    pub(crate) max_body: Option<usize>,
    /// Whether only what is in main memory is asked for, by one who owns it now.
    pub(crate) peeks: bool,
    /// Whether the asker loads the value itself if its load has not begun when its patience ends.
    pub(crate) falls_back: bool,
    /// Whether only copies are removed of values that others own.
    pub(crate) copies: bool,
    /// Who makes this change, and in which order.
    pub(crate) stamp: Option<Stamp>,
}

/// Who made a change, and in which order: another process has another origin, also at the same
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) origin: u64,
    pub(crate) sequence: u64,
}

impl Terms {
    pub(crate) fn parse(header: &str) -> Terms {
        let mut terms = Terms {
            native: true,
            ..Terms::default()
        };
        let (mut origin, mut sequence) = (None, None);
        for (name, value) in pairs(header) {
            match name {
                // Zero is nobody.
                "i" => origin = u64::from_str_radix(value, 16).ok().filter(|&id| id > 0),
                "q" => sequence = value.parse().ok(),
                "h" => terms.hits = value.parse().unwrap_or(terms.hits),
                "w" => terms.patience = parse_millis(value).or(terms.patience),
                "d" => terms.remaining = parse_millis(value).or(terms.remaining),
                "r" => terms.ring = u64::from_str_radix(value, 16).ok().or(terms.ring),
                "p" => terms.peeks = value == "1",
                "f" => terms.falls_back = value == "1",
                "c" => terms.copies = value == "1",
                "m" => terms.max_body = value.parse().ok().or(terms.max_body),
                _ => {}
            }
        }
        let stamp = origin.zip(sequence);
        terms.stamp = stamp.map(|(origin, sequence)| Stamp { origin, sequence });
        terms
    }

    pub(crate) fn to_header(&self) -> String {
        let mut header = format!("v={VERSION}");
        // Writing to a `String` cannot fail.
        if self.hits > 0 {
            let _ = write!(header, ";h={}", self.hits);
        }
        if let Some(patience) = self.patience {
            let _ = write!(header, ";w={}", millis_or_none(patience));
        }
        if let Some(remaining) = self.remaining {
            let _ = write!(header, ";d={}", millis(remaining));
        }
        if let Some(ring) = self.ring {
            let _ = write!(header, ";r={ring:x}");
        }
        if let Some(max_body) = self.max_body {
            let _ = write!(header, ";m={max_body}");
        }
        if self.peeks {
            header.push_str(";p=1");
        }
        if self.falls_back {
            header.push_str(";f=1");
        }
        if self.copies {
            header.push_str(";c=1");
        }
        if let Some(stamp) = self.stamp {
            let _ = write!(header, ";i={:x};q={}", stamp.origin, stamp.sequence);
        }
        header
    }
}

fn pairs(header: &str) -> impl Iterator<Item = (&str, &str)> {
    header
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
}

fn parse_millis(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

/// Rounded up, so that a little time is not none.
fn millis(duration: Duration) -> u64 {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    u64::try_from(millis).unwrap_or(u64::MAX).max(1)
}

/// None stays none: a value of zero life is for those who wait, and not to be kept; one without
/// patience waits for no load.
fn millis_or_none(duration: Duration) -> u64 {
    if duration.is_zero() {
        0
    } else {
        millis(duration)
    }
}

/// How an answer is to be understood; finer than an HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    NotFound,
    NoSuchGroup,
    /// The load is under way and takes longer than the asker's patience: ask again.
    Loading,
    /// No thread was free to load.
    Overloaded,
    /// The node leaves the ring: what it says when asked whether it is there.
    Leaving,
    /// The loader failed.
    LoadFailed,
    /// The value or the body is larger than allowed.
    TooLarge,
    KeyTooLong,
    BadRequest,
    /// A later change of the same sender has been carried out before this one.
    Superseded,
    /// The request does not prove that it comes from a peer.
    Unauthorized,
    /// It does, and was signed for another process than this one: it is to be signed again.
    StaleBoot,
    /// A page in a browser may have sent it, which nobody has allowed.
    Forbidden,
    /// It is meant for another node.
    Misdirected,
    WrongMethod,
    /// Not a path of the protocol.
    Elsewhere,
    /// It comes from a Go peer and is no value: what it means only people can tell.
    Foreign,
}

/// Those that are sent.
const STATUSES: [(Status, u16, &str); 17] = [
    (Status::Ok, 200, "ok"),
    (Status::Loading, 202, "loading"),
    (Status::BadRequest, 400, "bad-request"),
    (Status::Superseded, 400, "superseded"),
    (Status::Unauthorized, 401, "unauthorized"),
    (Status::StaleBoot, 401, "stale-boot"),
    (Status::Forbidden, 403, "forbidden"),
    (Status::NotFound, 404, "not-found"),
    (Status::NoSuchGroup, 404, "no-such-group"),
    (Status::Elsewhere, 404, "no-such-path"),
    (Status::WrongMethod, 405, "wrong-method"),
    (Status::TooLarge, 413, "too-large"),
    (Status::KeyTooLong, 414, "key-too-long"),
    (Status::Misdirected, 421, "misdirected"),
    (Status::LoadFailed, 500, "load-failed"),
    (Status::Overloaded, 503, "overloaded"),
    (Status::Leaving, 503, "leaving"),
];

impl Status {
    /// The HTTP status.
    pub(crate) fn code(self) -> u16 {
        self.row().1
    }

    /// Whether one is not let in: nothing was done of what was asked, nor would it be.
    pub(crate) fn sends_away(self) -> bool {
        matches!(
            self,
            Status::Unauthorized | Status::StaleBoot | Status::Forbidden | Status::Misdirected
        )
    }

    fn name(self) -> &'static str {
        self.row().2
    }

    fn named(name: &str) -> Option<Status> {
        let row = STATUSES.iter().find(|row| row.2 == name)?;
        Some(row.0)
    }

    fn row(self) -> (Status, u16, &'static str) {
        let row = STATUSES.iter().find(|row| row.0 == self);
        row.copied().unwrap_or((self, 500, "unknown"))
    }

    /// What an answer says, going by its header if it is native and by its code if not.
    pub(crate) fn of(code: u16, header: Option<&str>) -> Option<Status> {
        let named = header.and_then(|header| {
            let (_, name) = pairs(header).find(|&(name, _)| name == "s")?;
            STATUSES.iter().find(|row| row.2 == name)
        });
        let status = named.or_else(|| STATUSES.iter().find(|row| row.1 == code));
        status.filter(|row| row.1 == code).map(|row| row.0)
    }
}

/// A request of a peer, as an engine hands it to a node.
///
/// Holds no socket and borrows what was read: see [`Node::begin`](crate::Node::begin).
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) terms: Terms,
    /// The protocol's header as it came.
    #[cfg_attr(not(feature = "auth"), allow(dead_code))]
    pub(crate) header: &'a str,
    /// What proves who asks.
    #[cfg_attr(not(feature = "auth"), allow(dead_code))]
    pub(crate) auth: &'a str,
    /// Whether a browser says that a page asks.
    pub(crate) has_origin: bool,
    /// Whether it says that the page is of another place, or shows what is there: an image, say.
    pub(crate) is_of_other_site: bool,
    /// By which name the node is asked.
    pub(crate) host: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request with this method (in capitals) and request target, exactly as it came: neither
    /// decoded nor normalised.
    #[must_use]
    pub fn new(method: &'a str, target: &'a str) -> Request<'a> {
        Request {
            method,
            target,
            terms: Terms::default(),
            header: "",
            auth: "",
            has_origin: false,
            is_of_other_site: false,
            host: None,
            body: &[],
        }
    }

    /// Adds a header. Those the protocol does not know are ignored, so all can be handed over, and all
    /// should: `Origin`, `Sec-Fetch-Site` and `Host` tell requests of browsers from those of peers.
    #[must_use]
    pub fn header(mut self, name: &str, value: &'a str) -> Request<'a> {
        // Lengths tell most names apart, which saves comparing them.
        match name.len() {
            4 if name.eq_ignore_ascii_case("Host") => self.host = Some(value),
            6 if name.eq_ignore_ascii_case("Origin") => self.has_origin = true,
            // An empty one says nothing, and nobody signs it.
            12 if name.eq_ignore_ascii_case(HEADER) && !value.trim().is_empty() => {
                self.terms = Terms::parse(value);
                self.header = value;
            }
            14 if name.eq_ignore_ascii_case("Sec-Fetch-Site") => {
                self.is_of_other_site = ["cross-site", "same-site"].contains(&value.trim());
            }
            17 if name.eq_ignore_ascii_case(AUTH_HEADER) => self.auth = value,
            _ => {}
        }
        self
    }

    /// Sets the body, read to its end.
    #[must_use]
    pub fn body(mut self, body: &'a [u8]) -> Request<'a> {
        self.body = body;
        self
    }

    pub(crate) fn hash(&self) -> u64 {
        hash_of_request(self.method, self.target, self.body)
    }
}

/// What an answer says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Named {
    /// Which request it belongs to.
    pub(crate) request: Option<u64>,
    /// Which process gives it, to one who has signed for it.
    pub(crate) boot: Option<u64>,
}

/// The answer to a peer, for an engine to send.
///
/// The body is in two parts, to be sent one after the other: what precedes the value, and the
/// value, which is the cached one and not a copy of it.
#[derive(Clone, Debug)]
pub struct Response {
    status: Status,
    header: String,
    /// What the body is, if the status does not tell.
    kind: Option<&'static str>,
    /// Further headers.
    more: Vec<(&'static str, &'static str)>,
    head: Vec<u8>,
    value: Option<Value>,
    /// What pays for the body, where it was made for this answer alone.
    charge: Option<Arc<Charge>>,
}

impl Response {
    pub(crate) fn new(status: Status, ring: u64) -> Response {
        Response {
            status,
            header: format!("v={VERSION};s={};r={ring:x}", status.name()),
            kind: None,
            more: Vec::new(),
            head: Vec::new(),
            value: None,
            charge: None,
        }
    }

    /// An answer with a text for people.
    pub(crate) fn text(status: Status, ring: u64, text: &str) -> Response {
        let mut response = Response::new(status, ring);
        response.head = format!("{text}\n").into_bytes();
        response
    }

    /// Something for a browser.
    pub(crate) fn document(
        ring: u64,
        kind: &'static str,
        headers: &[(&'static str, &'static str)],
        text: String,
    ) -> Response {
        Response {
            kind: Some(kind),
            more: headers.to_vec(),
            head: text.into_bytes(),
            ..Response::new(Status::Ok, ring)
        }
    }

    /// That this path takes other methods.
    pub(crate) fn wrong_method(ring: u64, allow: &'static str) -> Response {
        let text = format!("this path takes {allow} only");
        let mut response = Response::text(Status::WrongMethod, ring, &text);
        response.more.push(("Allow", allow));
        response
    }

    /// That the request does not prove that it comes from a peer.
    #[cfg(feature = "auth")]
    pub(crate) fn unauthorized(reason: &str) -> Response {
        let mut response = Response::refusal(Status::Unauthorized, reason);
        response.more.push(("WWW-Authenticate", AUTH_HEADER));
        response
    }

    /// That a change was signed for another process than this one.
    #[cfg(feature = "auth")]
    pub(crate) fn stale_boot(boot: u64, reason: &str) -> Response {
        let named = Named {
            boot: Some(boot),
            ..Named::default()
        };
        let mut response = Response::refusal(Status::StaleBoot, reason).naming(named);
        response.more.push(("WWW-Authenticate", AUTH_HEADER));
        response
    }

    /// An answer to one who may be a stranger: it says nothing of the ring.
    pub(crate) fn refusal(status: Status, reason: &str) -> Response {
        let mut response = Response::text(status, 0, reason);
        response.header = format!("v={VERSION};s={}", status.name());
        response
    }

    /// That a value of `length` bytes is larger than allowed.
    pub(crate) fn too_large(ring: u64, length: usize) -> Response {
        let mut response = Response::text(Status::TooLarge, ring, "too large to travel");
        // Writing to a `String` cannot fail.
        let _ = write!(response.header, ";n={length}");
        response
    }

    /// The same, which says this of itself.
    pub(crate) fn naming(mut self, named: Named) -> Response {
        // Writing to a `String` cannot fail.
        if let Some(request) = named.request {
            let _ = write!(self.header, ";k={request:x}");
        }
        if let Some(boot) = named.boot {
            let _ = write!(self.header, ";b={boot:x}");
        }
        self
    }

    /// The answer to a request for one key.
    pub(crate) fn of(ring: u64, item: Item) -> Response {
        match item {
            Item::Value(answer) => Response::value(ring, answer),
            Item::TooLarge(length) => Response::too_large(ring, length),
            Item::Status(status, text) => Response::text(status, ring, &text),
        }
    }

    /// An answer with this body.
    pub(crate) fn bytes(ring: u64, body: Vec<u8>) -> Response {
        let mut response = Response::new(Status::Ok, ring);
        response.head = body;
        response
    }

    /// The answer to a batch, for which `charge` pays until it is dropped.
    pub(crate) fn batch(ring: u64, batch: BatchWriter, mut charge: Charge) -> Response {
        let body = batch.finish();
        charge.resize(body.capacity()); // less than while it was written
        let mut response = Response::bytes(ring, body);
        response.charge = Some(Arc::new(charge));
        response
    }

    pub(crate) fn value(ring: u64, answer: Answer) -> Response {
        let mut response = Response::new(Status::Ok, ring);
        let (head, value) = answer.encode();
        response.head = head;
        response.value = Some(value);
        response
    }

    /// The HTTP status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.code()
    }

    /// Whether it is said to one who has not proved who it is, and should have.
    pub(crate) fn is_distrust(&self) -> bool {
        self.status == Status::Unauthorized
    }

    /// The headers to send, besides those of the engine. `Content-Length` is not among them: it is
    /// [`body_len`](Response::body_len).
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let usual = match self.status {
            Status::Ok => "application/x-protobuf",
            _ => "text/plain; charset=utf-8",
        };
        let kind = self.kind.unwrap_or(usual);
        [("Content-Type", kind), (HEADER, self.header.as_str())]
            .into_iter()
            .chain(self.more.iter().copied())
    }

    /// How much of the body is its own, and paid by nobody yet.
    pub(crate) fn unpaid_len(&self) -> usize {
        match self.charge {
            Some(_) => 0,
            None => self.head.len(),
        }
    }

    /// The value in the body, which others may have too.
    pub(crate) fn shared_value(&self) -> Option<&Value> {
        self.value.as_ref()
    }

    /// The two parts of the body.
    #[must_use]
    pub fn body(&self) -> [&[u8]; 2] {
        [&self.head, self.value.as_deref().unwrap_or_default()]
    }

    /// The length of the body in bytes.
    #[must_use]
    pub fn body_len(&self) -> usize {
        self.body().iter().map(|part| part.len()).sum()
    }
}

/// A value as it travels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) value: Value,
    /// Requests per second for this key in the whole cluster.
    pub(crate) rate: Option<f64>,
    /// The life that is left; `None` lives until evicted.
    pub(crate) remaining: Option<Duration>,
    /// The hash of group and key: the answer belongs to that question (P3).
    pub(crate) key_hash: Option<u64>,
}

/// All of golang's `GetResponse` but the value, and what is ours.
#[derive(Clone, PartialEq, Message)]
struct GetResponse {
    #[prost(bytes = "bytes", optional, tag = "1")]
    value: Option<bytes::Bytes>,
    #[prost(double, optional, tag = "2")]
    minute_qps: Option<f64>,
    #[prost(uint64, optional, tag = "100")]
    remaining_ms: Option<u64>,
    #[prost(fixed64, optional, tag = "101")]
    key_hash: Option<u64>,
    /// In a batch, where there is no HTTP status: the name of a [`Status`] other than `ok`.
    #[prost(string, optional, tag = "102")]
    status: Option<String>,
    /// What [`Status`] needs to be understood: the length of a value that is too large.
    #[prost(uint64, optional, tag = "103")]
    length: Option<u64>,
    /// Why there is no value, in words.
    #[prost(string, optional, tag = "104")]
    text: Option<String>,
}

/// The fields of the body of a `PUT`, which is written and read by hand: a value is copied once.
mod set {
    pub(super) const GROUP: u32 = 1;
    pub(super) const KEY: u32 = 2;
    pub(super) const VALUE: u32 = 3;
    pub(super) const REMAINING_MS: u32 = 100;
}

/// Why bytes are no message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Nonsense(pub(crate) &'static str);

const NO_MESSAGE: Nonsense = Nonsense("the body is no protocol buffer message");
const KEY_TOO_LONG: Nonsense = Nonsense("the key is too long");

impl Nonsense {
    /// What is answered to it.
    pub(crate) fn status(&self) -> Status {
        match *self {
            KEY_TOO_LONG => Status::KeyTooLong,
            _ => Status::BadRequest,
        }
    }
}

impl Answer {
    /// The body in two parts, the second of which is the value itself. Protocol buffers may be cut
    /// like this: the bytes of two messages, one after the other, are the bytes of their union.
    fn encode(self) -> (Vec<u8>, Value) {
        let rest = GetResponse {
            minute_qps: self.rate,
            remaining_ms: self.remaining.map(millis_or_none),
            key_hash: self.key_hash,
            ..GetResponse::default()
        };
        const VALUE: u32 = 1;
        let length = self.value.len() as u64;
        let room = rest.encoded_len() + key_len(VALUE) + encoded_len_varint(length);
        let mut head = Vec::with_capacity(room);
        rest.encode_raw(&mut head);
        encode_key(VALUE, WireType::LengthDelimited, &mut head);
        encode_varint(length, &mut head);
        (head, self.value)
    }

    pub(crate) fn decode(body: Vec<u8>) -> Result<Answer, Nonsense> {
        let message = GetResponse::decode(bytes::Bytes::from(body)).map_err(|_| NO_MESSAGE)?;
        Ok(message.into())
    }
}

impl From<GetResponse> for Answer {
    fn from(message: GetResponse) -> Answer {
        Answer {
            value: Value::copy_from(message.value.as_deref().unwrap_or_default()),
            rate: message.minute_qps,
            remaining: message.remaining_ms.map(Duration::from_millis),
            key_hash: message.key_hash,
        }
    }
}

/// The body of a `PUT`.
pub(crate) fn encode_set(group: &str, key: &str, value: &Value, life: Option<Duration>) -> Vec<u8> {
    let mut out = Vec::with_capacity(group.len() + key.len() + value.len() + 32);
    encode_bytes(set::GROUP, group.as_bytes(), &mut out);
    encode_bytes(set::KEY, key.as_bytes(), &mut out);
    encode_bytes(set::VALUE, value, &mut out);
    if let Some(life) = life {
        encode_key(set::REMAINING_MS, WireType::Varint, &mut out);
        encode_varint(millis_or_none(life), &mut out);
    }
    out
}

/// The value in the body of a `PUT` and the life it has left. The path says what is set; a body
/// that names something else is refused.
pub(crate) fn decode_set(
    group: &str,
    key: &str,
    body: &[u8],
) -> Result<(Value, Option<Duration>), Nonsense> {
    let (mut named, mut value, mut life) = ((None, None), None, None);
    let mut rest = body;
    while !rest.is_empty() {
        match read_field(&mut rest)? {
            Field::Bytes(set::GROUP, bytes) => named.0 = Some(bytes),
            Field::Bytes(set::KEY, bytes) => named.1 = Some(bytes),
            Field::Bytes(set::VALUE, bytes) => value = Some(bytes),
            Field::Number(set::REMAINING_MS, number) => life = Some(Duration::from_millis(number)),
            _ => {}
        }
    }
    if named != (Some(group.as_bytes()), Some(key.as_bytes())) {
        return Err(Nonsense("the body and the path name different keys"));
    }
    let value = value.ok_or(Nonsense("the body has no value"))?;
    Ok((Value::copy_from(value), life))
}

/// The fingerprint of the ring of whoever answered.
pub(crate) fn ring_of(header: &str) -> Option<u64> {
    Terms::parse(header).ring
}

/// What an answer names as its request (P3).
pub(crate) fn hash_of_request(method: &str, target: &str, body: &[u8]) -> u64 {
    hash_of_parts(&[method.as_bytes(), target.as_bytes(), body])
}

/// The request that an answer says it belongs to.
pub(crate) fn request_of(header: &str) -> Option<u64> {
    let (_, request) = pairs(header).find(|&(name, _)| name == "k")?;
    u64::from_str_radix(request, 16).ok()
}

/// The boot id of the process that answers.
pub(crate) fn boot_of(header: &str) -> Option<u64> {
    let (_, boot) = pairs(header).find(|&(name, _)| name == "b")?;
    u64::from_str_radix(boot, 16).ok()
}

/// Whether a request with this header is meant for the peer `this` of the cluster of this name. One that
/// names neither a cluster nor a peer may be meant for any, as those of older nodes and plain clients; a
/// node that names a peer and no cluster is one of a cluster without a name.
pub(crate) fn is_meant(header: &str, cluster: Option<&str>, this: &str) -> bool {
    let is = |value: &str, name: &str| percent_decode_str(value).eq(name.bytes());
    let (mut names_cluster, mut names_peer) = (false, false);
    let fits = pairs(header).all(|(name, value)| match name {
        "g" => {
            names_cluster = true;
            cluster.is_some_and(|cluster| is(value, cluster))
        }
        "t" => {
            names_peer = true;
            is(value, this)
        }
        _ => true,
    });
    fits && (names_cluster || !names_peer || cluster.is_none())
}

/// Whether a `POST` on this path with this body only reads.
#[cfg_attr(not(feature = "auth"), allow(dead_code))]
pub(crate) fn changes_nothing(target: &str, body: &[u8]) -> bool {
    match parse_target(target, Dialect::Native) {
        Ok(Target::Group(_)) => matches!(
            Command::decode(body),
            Ok(Command::Get(_) | Command::Peek(_))
        ),
        Ok(Target::Node) => matches!(Errand::decode(body), Ok(Errand::Marks)),
        _ => false,
    }
}

/// The length of a value that is too large to be sent.
pub(crate) fn length_of(header: &str) -> Option<usize> {
    let (_, length) = pairs(header).find(|&(name, _)| name == "n")?;
    length.parse().ok()
}

#[cfg(test)]
mod tests;
