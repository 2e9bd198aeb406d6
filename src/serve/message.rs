//! Requests and responses of an application that shares the port of the peers.

use std::fmt;
use std::net::SocketAddr;

use crate::protocol::http1::{Field, Head, is_field_name};
use crate::value::Value;

/// A request that is not for the node, as a fallback sees it.
///
/// It borrows the bytes that were read. Its head has been checked: the target begins with `/` and is ASCII
/// without spaces and control characters. Its body is complete.
#[derive(Clone, Copy)]
pub struct HttpRequest<'a> {
    head: &'a Head<'a>,
    body: &'a [u8],
    peer: SocketAddr,
}

impl<'a> HttpRequest<'a> {
    pub(crate) fn new(head: &'a Head<'a>, body: &'a [u8], peer: SocketAddr) -> HttpRequest<'a> {
        HttpRequest { head, body, peer }
    }

    /// The method, usually in capitals: `GET`.
    #[must_use]
    pub fn method(&self) -> &'a str {
        self.head.method
    }

    /// The path and the query, exactly as received: neither decoded nor normalised.
    #[must_use]
    pub fn target(&self) -> &'a str {
        self.head.target
    }

    /// The target up to its first `?`, percent-encoded as received.
    #[must_use]
    pub fn path(&self) -> &'a str {
        let target = self.target();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    /// The part of the target behind its first `?`, percent-encoded as received.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// The value of the first header with this name, whose case does not matter. `None` also if the value
    /// is not UTF-8: see [`headers`](HttpRequest::headers).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&'a str> {
        let (_, value) = self
            .headers()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(value).ok()
    }

    /// All headers, in the order received.
    pub fn headers(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let fields: &'a [Field<'a>] = self.head.fields;
        fields.iter().map(|field| (field.name, field.value))
    }

    /// The body, empty if there is none.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The address of the client.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }
}

/// Headers, queries and bodies may be secret: only the method, the path and the client are shown.
impl fmt::Debug for HttpRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method())
            .field("path", &self.path())
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// The answer of a fallback.
#[derive(Clone)]
#[must_use = "a response is sent by the server that the fallback returns it to"]
pub struct HttpResponse {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Value,
}

impl HttpResponse {
    /// A response with this status, no headers of its own and no body. A status that is not between
    /// 200 and 599 becomes 500.
    pub fn new(status: u16) -> HttpResponse {
        HttpResponse {
            status: if (200..600).contains(&status) {
                status
            } else {
                500
            },
            headers: Vec::new(),
            body: Value::default(),
        }
    }

    /// A response with a text.
    pub fn text(status: u16, text: &str) -> HttpResponse {
        HttpResponse::new(status)
            .header("Content-Type", "text/plain; charset=utf-8")
            .body(text)
    }

    /// Adds a header. Control characters in its value (CR, LF and NUL among them) are left out, and
    /// so is a header whose name is not valid. `Content-Length`, `Connection` and the other headers that
    /// frame a message are set by the server, and ignored here.
    pub fn header(mut self, name: &str, value: &str) -> HttpResponse {
        if is_field_name(name) && !FRAMING.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            let value = value.chars().filter(|c| *c == '\t' || !c.is_control());
            self.headers.push((name.to_owned(), value.collect()));
        }
        self
    }

    /// Sets the body. A [`Value`] is sent as it is, without a copy.
    pub fn body(mut self, body: impl Into<Value>) -> HttpResponse {
        self.body = body.into();
        self
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }
}

/// Headers that say where a message ends and whether its connection stays open.
const FRAMING: [&str; 6] = [
    "Connection",
    "Content-Length",
    "Keep-Alive",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
];

/// The headers and the body may be secret.
impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse")
            .field("status", &self.status)
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_cannot_smuggle_another() {
        let response = HttpResponse::new(200)
            .header("X-Name", "a\r\nSet-Cookie: b\0")
            .header("X Bad", "c")
            .header("X-Bad\r\nX-Other", "c")
            .header("", "c")
            .header("content-LENGTH", "7");
        let expected = [("X-Name".to_owned(), "aSet-Cookie: b".to_owned())];
        assert_eq!(response.headers, expected);
    }

    #[test]
    fn an_invalid_status_becomes_500() {
        for status in [0, 100, 199, 600, u16::MAX] {
            assert_eq!(HttpResponse::new(status).status(), 500);
        }
    }
}
