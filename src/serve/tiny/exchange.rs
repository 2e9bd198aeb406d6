//! `Exchange`: one request of `tiny_http`, from its body to its answer.

use std::io::{self, Read, Write};

use tiny_http::{Method, StatusCode};

use crate::node::{Begin, Node};
use crate::protocol::{Request, Response, Status};
use crate::runtime::user_code;

/// Up to this many bytes a refused body is read and discarded, so that an error can be answered and the
/// connection used again.
const MAX_DRAINED: usize = 64 << 20;

/// How much memory a body gets before its first byte is read.
const MAX_RESERVED: usize = 64 << 10;

/// Up to this many bytes a value is copied behind its head, to be sent by one write.
const MAX_COPIED: usize = 64 << 10;

const _: () = assert!(MAX_RESERVED <= MAX_DRAINED);

/// Answers one request of a program that runs `tiny_http` itself. Returns the request, untouched,
/// if the node does not [serve](Node::serves) its path, and `None` if it has been answered.
///
/// Blocks while the request is read and answered, and while its value is loaded: for a native peer
/// up to half of *its* fetch timeout, for others up to the load timeout of this node. Run this loop in
/// a few more threads than there are requests for slow values at a time, as two nodes that wait for
/// each other's threads wait until that timeout; [`TinyServer`](crate::TinyServer) holds no thread
/// meanwhile. A client that has left is not reported.
///
/// ```no_run
/// use groupcache_sync::{Node, answer_tiny_http};
///
/// let node = Node::new("http://10.0.0.5:7000")?;
/// let server = tiny_http::Server::http("10.0.0.5:7000").expect("the port is free");
/// for request in server.incoming_requests() {
///     if let Some(request) = answer_tiny_http(&node, request) {
///         let hello = tiny_http::Response::from_string("hello");
///         let _ = request.respond(hello);
///     }
/// }
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
///
/// Everything else is left to the program. `tiny_http` leaves connections unserved when many come at once,
/// delays answers over 1 KiB by 44 ms unless its listener is made with `TCP_NODELAY`, and ends the process
/// if a request is dropped or answered while most of a huge body is unread. This function prevents
/// the last for its own requests; see [`TinyServer`](crate::TinyServer) for the others.
///
/// # With rouille
///
/// `rouille` gives no access to `tiny_http`'s request, and [`Node::answer`] needs no engine at all:
///
/// ```ignore
/// fn answer_rouille(node: &Node, request: &rouille::Request) -> rouille::Response {
///     const MAX_BODY: u64 = 17 << 20; // a little more than the node's max_value
///     let mut body = Vec::new();
///     let data = request.data().map(|data| data.take(MAX_BODY).read_to_end(&mut body));
///     if matches!(data, Some(Err(_))) || body.len() as u64 == MAX_BODY {
///         return rouille::Response::empty_400();
///     }
///     let mut asked = groupcache_sync::Request::new(request.method(), request.raw_url());
///     for (name, value) in request.headers() {
///         asked = asked.header(name, value);
///     }
///     let answer = node.answer(&asked.body(&body));
///     let headers = answer.headers();
///     rouille::Response {
///         status_code: answer.status(),
///         headers: headers.map(|(name, value)| (name.into(), value.to_owned().into())).collect(),
///         data: rouille::ResponseBody::from_data(answer.body().concat()),
///         upgrade: None,
///     }
/// }
/// ```
#[must_use = "a request that is returned is still to be answered"]
pub fn answer_tiny_http(node: &Node, request: tiny_http::Request) -> Option<tiny_http::Request> {
    if !node.serves(request.url()) {
        return Some(request);
    }
    match receive(request, node.max_body()) {
        Received::Complete(exchange, body) => {
            let response = match exchange.begin(node, &body) {
                Begin::Ready(response) => response,
                Begin::Pending(pending) => pending.wait(),
            };
            exchange.send(&response, false);
        }
        Received::Refused(exchange, status, reason) => {
            exchange.send(&node.respond(status, reason), false);
        }
        Received::Disconnected => {}
    }
    None
}

/// A request whose body may be unread, and that is safe to drop: see [`abandon`].
pub(super) struct UnreadRequest(Option<tiny_http::Request>);

impl UnreadRequest {
    pub(super) fn new(request: tiny_http::Request) -> UnreadRequest {
        UnreadRequest(Some(request))
    }

    pub(super) fn receive(mut self, max_body: usize) -> Received {
        match self.0.take() {
            Some(request) => receive(request, max_body),
            None => Received::Disconnected,
        }
    }
}

impl Drop for UnreadRequest {
    fn drop(&mut self) {
        if let Some(request) = self.0.take() {
            if announced_len(&request) > MAX_DRAINED {
                abandon(request);
            }
        }
    }
}

/// A request after its body was read.
pub(super) enum Received {
    Complete(Exchange, Vec<u8>),
    /// The body is discarded, and this is the answer.
    Refused(Exchange, Status, &'static str),
    /// There is no client to answer.
    Disconnected,
}

/// Reads the body of a request, up to `max_body` bytes.
fn receive(mut request: tiny_http::Request, max_body: usize) -> Received {
    let length = announced_len(&request);
    if length > max_body.max(MAX_DRAINED) {
        abandon(request);
        return Received::Disconnected;
    }
    let mut persistence = Persistence::of(&request);
    let framing_error = framing_error(&request, length, persistence);
    if framing_error.is_some() {
        // Where the next request begins is in doubt.
        persistence = persistence.closing();
    }
    let mut body = Vec::new();
    if persistence == Persistence::Upgrade {
        // The body has no end, and this request is the last of its connection.
    } else if framing_error.is_none() && length <= max_body {
        body.reserve(length.min(MAX_RESERVED));
        let read = match length {
            0 => Ok(0),
            _ => request
                .as_reader()
                .take(length as u64)
                .read_to_end(&mut body),
        };
        if read.is_err() || body.len() < length {
            return Received::Disconnected;
        }
    } else {
        let mut rest = request.as_reader().take(MAX_DRAINED as u64);
        // The answer is the same if the body breaks off or is malformed.
        let _ = io::copy(&mut rest, &mut io::sink());
    }
    let exchange = Exchange {
        request,
        persistence,
    };
    match framing_error {
        Some(reason) => Received::Refused(exchange, Status::BadRequest, reason),
        None if length > max_body => Received::Refused(
            exchange,
            Status::TooLarge,
            "the body is larger than allowed",
        ),
        None => Received::Complete(exchange, body),
    }
}

/// The length of the body as `tiny_http` will read it.
fn announced_len(request: &tiny_http::Request) -> usize {
    request.body_length().unwrap_or(0)
}

/// Gives up a request whose body is too long to be read.
///
/// When such a request is dropped or answered, `tiny_http` allocates memory for all of the body that it has
/// not read, and if that fails, the process is ended. The reader can only be taken out by
/// `upgrade`, and must never be dropped: this uses up a thread and two descriptors, for good.
fn abandon(request: tiny_http::Request) {
    log::warn!(
        target: "groupcache", bytes = announced_len(&request);
        "a request announces a body that is too long to be read; its connection is given up"
    );
    let stream = request.upgrade("close", tiny_http::Response::empty(Status::TooLarge.code()));
    std::mem::forget(stream);
}

/// Why a request is refused for the way its body is sent, if it is. `tiny_http` accepts too much: it takes
/// any transfer encoding for chunked, the first of several lengths, and a length that is no number for none.
fn framing_error(
    request: &tiny_http::Request,
    length: usize,
    persistence: Persistence,
) -> Option<&'static str> {
    let named = |name| {
        let headers = request.headers().iter();
        headers.filter(move |header| header.field.equiv(name))
    };
    if named("Transfer-Encoding").next().is_some() {
        return Some("a body must have a Content-Length and no Transfer-Encoding");
    }
    let mut lengths = named("Content-Length");
    if let Some(first) = lengths.next() {
        let text = first.value.as_str();
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        if lengths.next().is_some() || !is_number || request.body_length().is_none() {
            return Some("the Content-Length must be one number");
        }
    }
    if length == 0 {
        return None;
    }
    if persistence == Persistence::Upgrade {
        return Some("a request for an upgrade must not have a body");
    }
    match request.method() {
        Method::Put | Method::Post => None,
        _ => Some("only PUT and POST may have a body"),
    }
}

/// Whether `tiny_http` keeps a connection open after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Persistence {
    KeepAlive,
    /// The client speaks HTTP/1.0: the answer has to say that the connection stays open.
    KeepAliveHttp10,
    Close,
    /// `tiny_http` closes it, and takes the body for one without an end.
    Upgrade,
}

impl Persistence {
    fn of(request: &tiny_http::Request) -> Persistence {
        let mut headers = request.headers().iter();
        let options = headers
            .find(|header| header.field.equiv("Connection"))
            .map(|header| header.value.as_str().to_ascii_lowercase())
            .unwrap_or_default();
        let is_old = *request.http_version() < (1, 1);
        if options.contains("upgrade") {
            Persistence::Upgrade
        } else if options.contains("close") || (is_old && !options.contains("keep-alive")) {
            Persistence::Close
        } else if is_old {
            Persistence::KeepAliveHttp10
        } else {
            Persistence::KeepAlive
        }
    }

    fn closing(self) -> Persistence {
        match self {
            Persistence::Upgrade => self,
            _ => Persistence::Close,
        }
    }
}

/// A request whose body is read, and that is still to be answered.
pub(super) struct Exchange {
    request: tiny_http::Request,
    persistence: Persistence,
}

impl Exchange {
    /// Has the node begin to answer. A panic is answered as a failed load.
    pub(super) fn begin(&self, node: &Node, body: &[u8]) -> Begin {
        let mut request =
            Request::new(self.request.method().as_str(), self.request.url()).body(body);
        for header in self.request.headers() {
            request = request.header(header.field.as_str().as_str(), header.value.as_str());
        }
        user_code::call(|| node.begin(&request)).unwrap_or_else(|_| {
            log::error!(target: "groupcache", "a request of a peer panicked");
            Begin::Ready(node.respond(Status::LoadFailed, "the request panicked"))
        })
    }

    /// Sends the answer. `closing` asks the client to close the connection, which `tiny_http`
    /// cannot do itself. Blocks for as long as the client is slow to read the answer.
    pub(super) fn send(self, response: &Response, closing: bool) {
        if let Err(error) = self.write(response, closing) {
            log::debug!(target: "groupcache", error:% = error; "cannot send an answer");
        }
    }

    /// Does not use `respond`, which sends in pieces of 8 KiB and makes 50 allocations.
    fn write(self, response: &Response, closing: bool) -> io::Result<()> {
        let mut bytes = self.head(response, closing).into_bytes();
        let [start, mut value] = match self.request.method() {
            Method::Head => [&[][..]; 2],
            _ => response.body(),
        };
        if value.len() <= MAX_COPIED {
            bytes.reserve_exact(start.len() + value.len());
            bytes.extend_from_slice(start);
            bytes.extend_from_slice(value);
            value = &[];
        } else {
            bytes.extend_from_slice(start);
        }
        let mut writer = self.request.into_writer();
        writer.write_all(&bytes)?;
        writer.write_all(value)?;
        writer.flush()
    }

    fn head(&self, response: &Response, closing: bool) -> String {
        let is_old = *self.request.http_version() < (1, 1);
        let version = if is_old { "1.0" } else { "1.1" };
        let code = response.status();
        let reason = StatusCode(code).default_reason_phrase();
        let mut head = format!("HTTP/{version} {code} {reason}\r\n");
        // None of these contains text of a client: a line break in it would not be filtered.
        let fixed = [
            ("Content-Length", &*response.body_len().to_string()),
            (
                "Connection",
                match self.persistence {
                    Persistence::KeepAliveHttp10 if !closing => "keep-alive",
                    Persistence::KeepAlive if !closing => "",
                    _ => "close",
                },
            ),
        ];
        for (name, value) in response.headers().chain(fixed) {
            if !value.is_empty() {
                head.extend([name, ": ", value, "\r\n"]);
            }
        }
        head.push_str("\r\n");
        head
    }
}
