//! `http1`: parses and writes the heads of HTTP/1 requests and responses (`response` parses those of
//! responses). Pure: no socket, no lock, no clock.
//!
//! Strict on purpose. If two readers of the same bytes could disagree on where a request ends, one of them
//! could be made to see a request that the other never saw (request smuggling). So everything that the
//! standard calls malformed is refused, even where the standard allows leniency. A refused request ends its
//! connection.

mod response;

use std::io::Write as _;
use std::mem::MaybeUninit;

use crate::cache::key::{MAX_KEY_BYTES, MAX_NAME_BYTES};

pub(crate) use httparse::Header as Field;
pub(crate) use response::{BodyLength, Chunks, Malformed, ResponseScan, parse_response};

/// The longest request line: it holds the longest key with the longest name of a group.
pub(crate) const MAX_LINE: usize = 17 << 10;

const _: () = assert!(MAX_KEY_BYTES + 3 * MAX_NAME_BYTES + 64 <= MAX_LINE);

/// The longest headers of a request together, with the empty line that ends them.
const MAX_HEADERS: usize = 16 << 10;

/// The longest head.
pub(crate) const MAX_HEAD: usize = MAX_LINE + MAX_HEADERS;

/// The most headers of a request.
const MAX_FIELDS: usize = 100;

/// Why a request is refused. Its connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) reason: &'static str,
}

fn malformed(reason: &'static str) -> Refusal {
    Refusal {
        status: 400,
        reason,
    }
}

/// Finds the lines of a head as its bytes come. Every byte is read once, however slowly they come.
///
/// Requests and responses share it, so that both sides find the same end of a head.
#[derive(Clone, Debug, Default)]
struct Lines {
    seen: usize,
    /// Where the next line begins.
    begin: usize,
}

/// A line ends in LF without CR: readers differ in whether that ends a line.
struct BareLf;

impl Lines {
    /// The next line of `bytes`, with its end; `None` until the end has come.
    fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, BareLf> {
        let Some(at) = position_of_newline(bytes, self.seen) else {
            self.seen = bytes.len();
            return Ok(None);
        };
        let line = bytes.get(self.begin..=at).unwrap_or_default();
        (self.seen, self.begin) = (at + 1, at + 1);
        if line.ends_with(b"\r\n") {
            Ok(Some(line))
        } else {
            Err(BareLf)
        }
    }
}

/// How far the search for the end of the head of a request has come.
///
/// It refuses bytes that can never become a head as early as possible, so that the connection does not wait
/// for the rest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    lines: Lines,
    /// Where the first line ends, once that is known.
    headers: usize,
}

impl Scan {
    /// Continues with all bytes of the request that have come so far. Gives the length of the head once its
    /// end has come.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        if self.lines.seen == 0 && bytes.first().is_some_and(|byte| !is_token_byte(*byte)) {
            return Err(malformed("a request begins with its method"));
        }
        let bare = |BareLf| malformed("a line ends in LF without CR");
        while let Some(line) = self.lines.next(bytes).map_err(bare)? {
            if self.headers == 0 {
                check_first_line(line)?;
                self.headers = self.lines.begin;
            }
            if line == b"\r\n" {
                return self.check_length().map(|()| Some(self.lines.begin));
            }
        }
        self.check_length().map(|()| None)
    }

    fn check_length(&self) -> Result<(), Refusal> {
        if self.headers == 0 && self.lines.seen > MAX_LINE {
            return Err(LINE_TOO_LONG);
        }
        if self.headers > 0 && self.lines.seen - self.headers > MAX_HEADERS {
            return Err(Refusal {
                status: 431,
                reason: "the headers are too long",
            });
        }
        Ok(())
    }
}

const LINE_TOO_LONG: Refusal = Refusal {
    status: 414,
    reason: "the request line is too long",
};

fn position_of_newline(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.iter()
        .position(|&byte| byte == b'\n')
        .map(|at| from + at)
}

/// Refuses other versions: a client of HTTP/0.9 sends one line and waits, and one of HTTP/2 sends bytes that
/// only look like a head.
fn check_first_line(line: &[u8]) -> Result<(), Refusal> {
    if line.len() > MAX_LINE {
        return Err(LINE_TOO_LONG);
    }
    if line.ends_with(b" HTTP/1.1\r\n") || line.ends_with(b" HTTP/1.0\r\n") {
        return Ok(());
    }
    Err(malformed("the protocol is HTTP/1.1 or HTTP/1.0"))
}

/// The head of a request.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) fields: &'a [Field<'a>],
    /// The value of `Content-Length`. Nothing may be allocated for it before the bytes come.
    pub(crate) body_len: u64,
    pub(crate) expects_continue: bool,
    pub(crate) persistence: Persistence,
}

/// Whether a connection stays open after a response, and whether the response must say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// It stays open: the default of HTTP/1.1.
    Implied,
    /// It stays open, as a client of HTTP/1.0 has requested: the response says so.
    Stated,
    /// It is closed: the response says so.
    Close,
}

/// Space for the headers of one message, uninitialized until it is used.
pub(crate) type FieldRoom<'a> = [MaybeUninit<Field<'a>>; MAX_FIELDS];

pub(crate) fn field_room<'a>() -> FieldRoom<'a> {
    [const { MaybeUninit::uninit() }; MAX_FIELDS]
}

/// Parses a head whose end [`Scan`] has found: `bytes` are the head and nothing else.
pub(crate) fn parse<'a>(bytes: &'a [u8], room: &'a mut FieldRoom<'a>) -> Result<Head<'a>, Refusal> {
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, room) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(malformed("the head does not end where its last line does")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal {
                status: 431,
                reason: "there are too many headers",
            });
        }
        Err(_) => return Err(malformed("the head of the request is malformed")),
    }
    let fields: &'a [Field<'a>] = request.headers;
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(malformed("the request line is incomplete"));
    };
    check_target(target)?;
    read_fields(fields, minor).map(|found| Head {
        method,
        target,
        fields,
        body_len: found.body_len.unwrap_or(0),
        expects_continue: found.expects_continue && minor == 1,
        persistence: found.persistence(minor),
    })
}

/// Accepts only a path with an optional query: not the absolute form of proxies, no asterisk, and no
/// character that must be encoded.
fn check_target(target: &str) -> Result<(), Refusal> {
    if !target.starts_with('/') {
        return Err(malformed("the target must begin with /"));
    }
    if target
        .bytes()
        .any(|byte| !byte.is_ascii_graphic() || byte == b'#')
    {
        return Err(malformed("the target has a character that must be encoded"));
    }
    Ok(())
}

/// What the headers tell about the message itself.
#[derive(Default)]
struct Found {
    body_len: Option<u64>,
    hosts: usize,
    expects_continue: bool,
    close: bool,
    keep_alive: bool,
}

impl Found {
    fn persistence(&self, minor: u8) -> Persistence {
        match minor {
            _ if self.close => Persistence::Close,
            1 => Persistence::Implied,
            _ if self.keep_alive => Persistence::Stated,
            _ => Persistence::Close,
        }
    }
}

fn read_fields(fields: &[Field<'_>], minor: u8) -> Result<Found, Refusal> {
    let mut found = Found::default();
    for field in fields {
        read_field(field, &mut found)?;
    }
    if found.hosts > 1 || (found.hosts == 0 && minor == 1) {
        return Err(malformed("a request has one Host header"));
    }
    Ok(found)
}

fn read_field(field: &Field<'_>, found: &mut Found) -> Result<(), Refusal> {
    let is = |name: &str| field.name.eq_ignore_ascii_case(name);
    if has_control(field.value) {
        return Err(malformed("a header has a control character"));
    }
    // Lengths tell most names apart, which saves comparing them.
    match field.name.len() {
        4 if is("Host") => found.hosts += 1,
        6 if is("Expect") => {
            if !field.value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Refusal {
                    status: 417,
                    reason: "only 100-continue can be expected",
                });
            }
            found.expects_continue = true;
        }
        10 if is("Connection") => {
            for option in field.value.split(|&byte| byte == b',') {
                let option = option.trim_ascii();
                found.close |= option.eq_ignore_ascii_case(b"close");
                found.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
        14 if is("Content-Length") => {
            if found.body_len.is_some() {
                return Err(malformed("there are two Content-Length headers"));
            }
            found.body_len = Some(parse_length(field.value)?);
        }
        17 if is("Transfer-Encoding") => {
            return Err(malformed(
                "a body needs Content-Length, not Transfer-Encoding",
            ));
        }
        _ => {}
    }
    Ok(())
}

fn has_control(text: &[u8]) -> bool {
    text.iter()
        .any(|&byte| byte.is_ascii_control() && byte != b'\t')
}

/// Parses digits only: no sign, no base, no list.
fn parse_length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(malformed("Content-Length is not a number"));
    }
    // A length that does not fit into 64 bits exceeds every limit, as the greatest number does.
    Ok(value.iter().fold(0, |length: u64, digit| {
        length
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    }))
}

/// Whether this is a valid name of a header.
pub(crate) fn is_field_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token_byte)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The only interim response that a server sends.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Whether a response with this status may have a body.
pub(crate) fn may_have_body(status: u16) -> bool {
    !matches!(status, 100..=199 | 204 | 304)
}

/// Appends the head of a request. The headers must be free of control characters.
pub(crate) fn write_request_head<'n, 'v>(
    out: &mut Vec<u8>,
    method: &str,
    target: &str,
    headers: impl Iterator<Item = (&'n str, &'v str)>,
    body_len: usize,
) {
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    write_fields(out, headers);
    if body_len > 0 {
        // Writing to a `Vec` cannot fail.
        let _ = write!(out, "Content-Length: {body_len}\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_fields<'n, 'v>(out: &mut Vec<u8>, headers: impl Iterator<Item = (&'n str, &'v str)>) {
    for (name, value) in headers {
        for part in [name, ": ", value, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}

/// Appends the head of a response. The headers must be free of control characters.
pub(crate) fn write_head<'n, 'v>(
    out: &mut Vec<u8>,
    status: u16,
    headers: impl Iterator<Item = (&'n str, &'v str)>,
    body_len: usize,
    persistence: Persistence,
) {
    // Writing to a `Vec` cannot fail.
    let _ = write!(out, "HTTP/1.1 {status} {}\r\n", reason(status));
    write_fields(out, headers);
    if may_have_body(status) {
        let _ = write!(out, "Content-Length: {body_len}\r\n");
    }
    let connection: &[u8] = match persistence {
        Persistence::Implied => b"\r\n",
        Persistence::Stated => b"Connection: keep-alive\r\n\r\n",
        Persistence::Close => b"Connection: close\r\n\r\n",
    };
    out.extend_from_slice(connection);
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        207 => "Multi-Status",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests;
