//! `Response`: the answer to a peer, with its status, headers and body.

use std::fmt::Write as _;

use super::account::Charge;
use super::answer::Answer;
use super::batch::{BatchWriter, Item};
use super::status::Status;
use super::terms::{HEADER, VERSION};
use crate::runtime::sync::Arc;
use crate::value::Value;

/// What an answer names in its header.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Named {
    /// The hash of the request that it belongs to.
    pub(crate) request: Option<u64>,
    /// The boot id of the process that answers, for a requester that has signed for it.
    pub(crate) boot: Option<u64>,
}

/// The answer to a peer, for an engine to send.
///
/// The body is in two parts, to be sent one after the other: what precedes the value, and the
/// value, which is the cached one and not a copy of it.
#[derive(Clone, Debug)]
pub struct Response {
    status: Status,
    pub(super) header: String,
    /// The content type, unless the status implies it.
    kind: Option<&'static str>,
    /// Further headers.
    more: Vec<(&'static str, &'static str)>,
    head: Vec<u8>,
    value: Option<Value>,
    /// The charge for the body, if the body was made for this answer alone.
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

    /// A document for a browser.
    pub(crate) fn document(
        ring: u64,
        kind: &'static str,
        headers: &[(&'static str, &'static str)],
        body: Value,
    ) -> Response {
        Response {
            kind: Some(kind),
            more: headers.to_vec(),
            value: Some(body),
            ..Response::new(Status::Ok, ring)
        }
    }

    /// The answer to a request whose path takes other methods.
    pub(crate) fn wrong_method(ring: u64, allow: &'static str) -> Response {
        let text = format!("this path takes {allow} only");
        let mut response = Response::text(Status::WrongMethod, ring, &text);
        response.more.push(("Allow", allow));
        response
    }

    /// The answer to a request that does not prove that it comes from a peer.
    #[cfg(feature = "auth")]
    pub(crate) fn unauthorized(reason: &str) -> Response {
        let mut response = Response::refusal(Status::Unauthorized, reason);
        response
            .more
            .push(("WWW-Authenticate", super::terms::AUTH_HEADER));
        response
    }

    /// The answer to a change that was signed for another process than this one.
    #[cfg(feature = "auth")]
    pub(crate) fn stale_boot(boot: u64, reason: &str) -> Response {
        let named = Named {
            boot: Some(boot),
            ..Named::default()
        };
        let mut response = Response::refusal(Status::StaleBoot, reason).naming(named);
        response
            .more
            .push(("WWW-Authenticate", super::terms::AUTH_HEADER));
        response
    }

    /// An answer to a requester that may be a stranger: it does not tell the ring.
    pub(crate) fn refusal(status: Status, reason: &str) -> Response {
        let mut response = Response::text(status, 0, reason);
        response.header = format!("v={VERSION};s={}", status.name());
        response
    }

    /// The answer if the value has `length` bytes, which is more than allowed.
    pub(crate) fn too_large(ring: u64, length: usize) -> Response {
        let mut response = Response::text(Status::TooLarge, ring, "too large to travel");
        // Writing to a `String` cannot fail.
        let _ = write!(response.header, ";n={length}");
        response
    }

    /// Adds what the answer names to its header.
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

    /// The answer to a batch, which holds `charge` for its body until it is dropped.
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

    /// Whether the request should have proved that it comes from a peer, and does not.
    pub(crate) fn is_unauthorized(&self) -> bool {
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

    /// How many bytes of the body are its own and not charged yet.
    pub(crate) fn uncharged_len(&self) -> usize {
        match self.charge {
            Some(_) => 0,
            None => self.head.len(),
        }
    }

    /// The value in the body, which other answers and the cache may share.
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
