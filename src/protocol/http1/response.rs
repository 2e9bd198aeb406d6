//! `ResponseHead`: the head of a response, and `Chunks`: a body in chunks.
//!
//! As strict as the parsing of requests: a response whose end is not certain is refused, because the bytes
//! that follow it on the connection would be taken for the response to the next request.

use httparse::{Header as Field, Status};

use super::{
    BareLf, FieldRoom, Lines, MAX_HEAD, Persistence, has_control, may_have_body, parse_length,
};

/// The first byte from a TLS server to a client that does not speak TLS.
const TLS_ALERT: u8 = 0x15;

/// Why a response is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) &'static str);

/// The head of a response.
#[derive(Debug)]
pub(crate) struct ResponseHead<'a> {
    pub(crate) status: u16,
    pub(crate) fields: &'a [Field<'a>],
    pub(crate) body: BodyLength,
    pub(crate) persistence: Persistence,
}

/// Where the body of a response ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// After so many bytes. Nothing may be allocated for them before they come.
    Known(u64),
    /// After the last of its chunks.
    Chunked,
}

impl<'a> ResponseHead<'a> {
    /// The value of a header, if it is there and is UTF-8.
    pub(crate) fn field(&self, name: &str) -> Option<&'a str> {
        let mut fields = self.fields.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    }

    /// Whether it is an interim response, which another one follows.
    pub(crate) fn is_interim(&self) -> bool {
        matches!(self.status, 100..=199)
    }
}

/// How far the search for the end of the head of a response has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct ResponseScan(Lines);

impl ResponseScan {
    /// Continues with all bytes of the response that have come so far. Gives the length of the head once
    /// its end has come.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        if bytes.first() == Some(&TLS_ALERT) {
            return Err(Malformed(
                "the peer speaks TLS: use an address that begins with https://",
            ));
        }
        let bare = |BareLf| Malformed("a line of the answer ends in LF without CR");
        let mut end = None;
        while let Some(line) = self.0.next(bytes).map_err(bare)? {
            if line == LINE_END {
                end = Some(self.0.begin);
                break;
            }
        }
        if end == Some(LINE_END.len()) {
            return Err(Malformed("the answer begins with an empty line"));
        }
        if end.unwrap_or(self.0.seen) > MAX_HEAD {
            return Err(Malformed("the head of the answer is too long"));
        }
        Ok(end)
    }
}

/// Parses the head of a response: `bytes` are the head and nothing else.
pub(crate) fn parse_response<'a>(
    bytes: &'a [u8],
    room: &'a mut FieldRoom<'a>,
) -> Result<ResponseHead<'a>, Malformed> {
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, bytes, room)
        .map_err(|_| Malformed("the answer is not HTTP/1.1"))?;
    let fields: &'a [Field<'a>] = response.headers;
    let (Status::Complete(length), Some(status), Some(minor)) =
        (parsed, response.code, response.version)
    else {
        return Err(Malformed("the head of the answer is incomplete"));
    };
    if length != bytes.len() {
        return Err(Malformed(
            "the head of the answer ends before its last line",
        ));
    }
    if status == 101 {
        return Err(Malformed("the answer switches to another protocol"));
    }
    let found = read_fields(fields)?;
    let body = match (found.chunked, found.length) {
        (true, _) if minor == 0 => return Err(Malformed("HTTP/1.0 has no chunks")),
        // Its length is that of the response to a request without a condition.
        _ if status == 304 => BodyLength::Known(0),
        (false, None | Some(0)) if !may_have_body(status) => BodyLength::Known(0),
        _ if !may_have_body(status) => {
            return Err(Malformed("an answer of this status has no body"));
        }
        (true, Some(_)) => return Err(Malformed("the answer has two lengths")),
        (true, None) => BodyLength::Chunked,
        (false, Some(length)) => BodyLength::Known(length),
        (false, None) => return Err(Malformed("the answer does not say how long it is")),
    };
    let persistence = if minor == 0 || found.close {
        Persistence::Close
    } else {
        Persistence::Implied
    };
    Ok(ResponseHead {
        status,
        fields,
        body,
        persistence,
    })
}

#[derive(Default)]
struct Found {
    length: Option<u64>,
    chunked: bool,
    close: bool,
}

fn read_fields(fields: &[Field<'_>]) -> Result<Found, Malformed> {
    let mut found = Found::default();
    for field in fields {
        if has_control(field.value) {
            return Err(Malformed("a header of the answer has a control character"));
        }
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        // Lengths tell most names apart, which saves comparing them.
        match field.name.len() {
            10 if is("Connection") => {
                let mut options = field.value.split(|&byte| byte == b',');
                found.close |=
                    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
            }
            14 if is("Content-Length") => {
                let length = parse_length(field.value);
                let length = length
                    .map_err(|_| Malformed("the Content-Length of the answer is not a number"))?;
                if found.length.replace(length).is_some() {
                    return Err(Malformed("the answer has two lengths"));
                }
            }
            17 if is("Transfer-Encoding") => {
                if found.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("the only transfer encoding is chunked"));
                }
                found.chunked = true;
            }
            _ => {}
        }
    }
    Ok(found)
}

/// How far the parsing of a body in chunks has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunks {
    /// The line with the size of a chunk comes next.
    Size,
    /// So many bytes of the chunk are missing.
    Data(u64),
    /// The line end after a chunk comes next.
    DataEnd,
    /// Headers follow the last chunk: so many bytes of them have come.
    Trailer(usize),
    /// The body is complete.
    Done,
}

/// The longest line with the size of a chunk.
const MAX_SIZE_LINE: usize = 256;

impl Chunks {
    /// Appends the part of the body in `bytes` to `body`, which may grow to `max` bytes. Gives how many
    /// bytes are used up. The caller passes the others again, with those that follow.
    pub(crate) fn advance(
        &mut self,
        bytes: &[u8],
        body: &mut Vec<u8>,
        max: usize,
    ) -> Result<usize, Malformed> {
        let mut used = 0;
        while *self != Chunks::Done {
            let rest = bytes.get(used..).unwrap_or_default();
            match self.step(rest, body, max)? {
                0 => break,
                step => used += step,
            }
        }
        debug_assert!(used <= bytes.len() && body.len() <= max);
        Ok(used)
    }

    /// Gives how many bytes it has used; zero if more are needed.
    fn step(&mut self, rest: &[u8], body: &mut Vec<u8>, max: usize) -> Result<usize, Malformed> {
        match *self {
            Chunks::Size => {
                let Some(line) = line_of(rest, MAX_SIZE_LINE)? else {
                    return Ok(0);
                };
                let size = size_of_chunk(line)?;
                if size > max.saturating_sub(body.len()) as u64 {
                    return Err(Malformed("the body of the answer is too large"));
                }
                *self = match size {
                    0 => Chunks::Trailer(0),
                    size => Chunks::Data(size),
                };
                Ok(line.len() + LINE_END.len())
            }
            Chunks::Data(left) => {
                let here = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                body.extend_from_slice(rest.get(..here).unwrap_or_default());
                *self = match left - here as u64 {
                    0 => Chunks::DataEnd,
                    left => Chunks::Data(left),
                };
                Ok(here)
            }
            Chunks::DataEnd => match rest {
                [b'\r', b'\n', ..] => {
                    *self = Chunks::Size;
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(Malformed("a chunk of the answer is longer than its size")),
            },
            Chunks::Trailer(seen) => {
                let Some(line) = line_of(rest, MAX_HEAD.saturating_sub(seen))? else {
                    return Ok(0);
                };
                let length = line.len() + LINE_END.len();
                *self = if line.is_empty() {
                    Chunks::Done
                } else {
                    Chunks::Trailer(seen + length)
                };
                Ok(length)
            }
            Chunks::Done => Ok(0),
        }
    }
}

const LINE_END: &[u8] = b"\r\n";

/// The first line between or after chunks, without its end; `None` until the end has come. As strict as in
/// a head, and no longer than `max`.
fn line_of(bytes: &[u8], max: usize) -> Result<Option<&[u8]>, Malformed> {
    let mut lines = Lines::default();
    let bare = |BareLf| Malformed("a line among the chunks ends in LF without CR");
    let line = lines.next(bytes).map_err(bare)?;
    if line.map_or(bytes.len(), |line| line.len()) > max + LINE_END.len() {
        return Err(Malformed("a line among the chunks is too long"));
    }
    let line = line.and_then(|line| line.strip_suffix(LINE_END));
    match line.filter(|line| has_control(line)) {
        Some(_) => Err(Malformed("a line among the chunks has a control character")),
        None => Ok(line),
    }
}

/// Parses hexadecimal digits only, and skips extensions.
fn size_of_chunk(line: &[u8]) -> Result<u64, Malformed> {
    let no_size = Malformed("a chunk of the answer has no size");
    let digits = match line.iter().position(|&byte| byte == b';') {
        Some(end) => line.get(..end).unwrap_or_default().trim_ascii_end(),
        None => line,
    };
    if digits.is_empty() || digits.len() > 16 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(no_size);
    }
    let text = std::str::from_utf8(digits).map_err(|_| no_size)?;
    u64::from_str_radix(text, 16).map_err(|_| no_size)
}

#[cfg(test)]
mod tests {
    use super::super::field_room;
    use super::*;

    /// Reads a whole head; gives status, length of the body and persistence.
    fn read(head: &str) -> Result<(u16, BodyLength, Persistence), Malformed> {
        let bytes = head.as_bytes();
        let length = ResponseScan::default()
            .advance(bytes)?
            .expect("the head has no end");
        assert_eq!(length, bytes.len());
        let mut room = field_room();
        let head = parse_response(bytes, &mut room)?;
        Ok((head.status, head.body, head.persistence))
    }

    #[test]
    fn a_response_tells_where_it_ends() {
        let head = "HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: 12\r\n\r\n";
        let expected = (200, BodyLength::Known(12), Persistence::Implied);
        assert_eq!(read(head), Ok(expected));
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n";
        let expected = (200, BodyLength::Chunked, Persistence::Implied);
        assert_eq!(read(head), Ok(expected));
        for status in [100, 103, 204, 304] {
            let head = format!("HTTP/1.1 {status} X\r\n\r\n");
            assert_eq!(read(&head).map(|read| read.1), Ok(BodyLength::Known(0)));
        }
    }

    #[test]
    fn a_connection_is_not_used_again_where_that_is_not_certain() {
        let persistence = |head: &str| read(head).unwrap().2;
        let old = "HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(persistence(old), Persistence::Close);
        let closing = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nconnection: x, Close\r\n\r\n";
        assert_eq!(persistence(closing), Persistence::Close);
        let staying = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: x\r\n\r\n";
        assert_eq!(persistence(staying), Persistence::Implied);
    }

    #[test]
    fn a_response_whose_end_is_not_certain_is_refused() {
        for fields in [
            "",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 1, 1\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert!(read(&head).is_err(), "{fields}");
        }
        for head in ["SSH-2.0-x\r\n\r\n", "HTTP/2 200 OK\r\n\r\n", "\r\n\r\n"] {
            assert!(read(head).is_err(), "{head}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_is_cut() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        let length = bytes.len() - 3;
        let mut scan = ResponseScan::default();
        for end in 0..length {
            assert_eq!(scan.advance(&bytes[..end]), Ok(None));
        }
        assert_eq!(scan.advance(&bytes[..length]), Ok(Some(length)));
        assert_eq!(ResponseScan::default().advance(bytes), Ok(Some(length)));
        let endless = vec![b'a'; MAX_HEAD + 1];
        assert!(ResponseScan::default().advance(&endless).is_err());
    }

    /// Reads a body in chunks that comes `step` bytes at a time; gives it and what follows it.
    fn unchunk(bytes: &[u8], step: usize, max: usize) -> Result<(Vec<u8>, usize), Malformed> {
        let (mut chunks, mut body, mut used) = (Chunks::Size, Vec::new(), 0);
        let mut end = 0;
        while chunks != Chunks::Done {
            assert!(end < bytes.len(), "it never ends");
            end = (end + step).min(bytes.len());
            used += chunks.advance(&bytes[used..end], &mut body, max)?;
        }
        Ok((body, bytes.len() - used))
    }

    #[test]
    fn chunks_become_one_body_however_they_are_cut() {
        let bytes =
            b"4\r\nWiki\r\n6;name=x\r\npedia \r\nB\r\nin \r\nchunks\r\n0\r\nX: y\r\n\r\nnext";
        for step in 1..=bytes.len() {
            let (body, rest) = unchunk(bytes, step, 100).unwrap();
            assert_eq!(body, b"Wikipedia in \r\nchunks");
            // What came with the end is what follows it.
            assert!(rest == 4 || step > 1, "{step}");
        }
        assert_eq!(unchunk(b"0\r\n\r\n", 1, 0).unwrap().0, b"");
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for bytes in [
            &b"4\r\nWikix\r\n0\r\n\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"ffffffffffffffffff\r\n",
            b"65\r\n",
            b"\r\n\r\n",
            b";x\r\n\r\n",
            b"+1\r\nx\r\n0\r\n\r\n",
            b"1 \r\nx\r\n0\r\n\r\n",
            b"1\nx\r\n0\r\n\r\n",
            b"1;a\nb\r\nx\r\n0\r\n\r\n",
            b"1;a\rb\r\nx\r\n0\r\n\r\n",
            b"1\r\nx\n0\r\n\r\n",
            b"0\r\n\n",
            b"0\r\nX: y\n\r\n",
            b"0\r\nX: y\0\r\n\r\n",
        ] {
            for step in [1, bytes.len()] {
                assert!(
                    unchunk(bytes, step, 100).is_err(),
                    "{}",
                    bytes.escape_ascii()
                );
            }
        }
        let line = format!("1;{}\r\n", "x".repeat(MAX_SIZE_LINE));
        assert!(unchunk(line.as_bytes(), 1, 100).is_err());
        let trailer = format!("0\r\nX: {}", "y".repeat(MAX_HEAD));
        assert!(unchunk(trailer.as_bytes(), 1_000, 100).is_err());
    }

    #[test]
    fn a_line_that_ends_in_lf_alone_is_refused_as_soon_as_it_comes() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\n\nHTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 1\n\nX\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\n\r\n",
            "HTTP/1.1 200 OK\n",
        ] {
            assert!(read(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn responses_are_parsed_as_strictly_as_requests() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\n Content-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\0b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\x7fb\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: a\rb\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ] {
            assert!(read(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn valid_responses_of_other_servers_are_parsed() {
        for (head, body) in [
            // Go.
            (
                "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n\
                 Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 9\r\n\r\n",
                BodyLength::Known(9),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                BodyLength::Chunked,
            ),
            // Without a reason, with a tab and letters beyond ASCII, without a space after the colon.
            (
                "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\n",
                BodyLength::Known(1),
            ),
            (
                "HTTP/1.1 200\r\nContent-Length: 1\r\n\r\n",
                BodyLength::Known(1),
            ),
            (
                "HTTP/1.1 200 OK\r\nX: a\tb \u{e9}\r\nContent-Length:1\r\n\r\n",
                BodyLength::Known(1),
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n",
                BodyLength::Known(1),
            ),
            (
                "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
                BodyLength::Known(0),
            ),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
                BodyLength::Known(0),
            ),
        ] {
            assert_eq!(read(head).map(|read| read.1), Ok(body), "{head:?}");
        }
    }
}
