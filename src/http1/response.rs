//! Reading responses: what a peer's answer says about itself, and a body that comes in chunks.
//!
//! As strict as the reading of requests: an answer whose end is not certain is none, because what
//! follows it on the connection would be taken for the answer to the next request.

use httparse::{Header as Field, Status};

use super::{FieldRoom, MAX_HEAD, Persistence, parse_length};

/// What a server that speaks TLS says first to a client that does not.
const TLS_ALERT: u8 = 0x15;

/// Why bytes are no response.
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
    /// After so many bytes. Nothing may be allocated on its word.
    Known(u64),
    /// After the last of its chunks.
    Chunked,
}

impl<'a> ResponseHead<'a> {
    /// The value of a header, if it is there and text.
    pub(crate) fn field(&self, name: &str) -> Option<&'a str> {
        let mut fields = self.fields.iter();
        let field = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(field.value).ok()
    }

    /// Whether it only announces another one.
    pub(crate) fn is_interim(&self) -> bool {
        matches!(self.status, 100..=199)
    }
}

/// How long the head at the beginning of `bytes` is, if all of it is here. The search begins at
/// `from`, where an earlier one ended.
pub(crate) fn response_head_len(bytes: &[u8], from: usize) -> Result<Option<usize>, Malformed> {
    const END: &[u8] = b"\r\n\r\n";
    if bytes.first() == Some(&TLS_ALERT) {
        return Err(Malformed(
            "the peer speaks TLS: its address begins with https://",
        ));
    }
    let from = from.saturating_sub(END.len() - 1);
    let searched = bytes.get(from..).unwrap_or_default();
    let end = searched.windows(END.len()).position(|four| four == END);
    let length = end.map(|at| from + at + END.len());
    if length.unwrap_or(bytes.len()) > MAX_HEAD {
        return Err(Malformed("the head of the answer is too long"));
    }
    Ok(length)
}

/// Reads the head of a response: `bytes` are the head and nothing else.
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
        // Lines may end in LF alone, for the parser, and not for the search for the end.
        return Err(Malformed("the head of the answer ends before its end"));
    }
    let found = read_fields(fields)?;
    let body = match (found.chunked, found.length) {
        _ if matches!(status, 100..=199 | 204 | 304) => BodyLength::Known(0),
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
                let length = length.map_err(|_| Malformed("its length is not a number"))?;
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

/// How far the reading of a body in chunks has come.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunks {
    /// A line with a size comes next.
    Size,
    /// So many bytes of this chunk are to come.
    Data(u64),
    /// The line that ends a chunk comes next.
    DataEnd,
    /// Headers come after the last chunk: so many bytes of them have come.
    Trailer(usize),
    /// All of it is here.
    Done,
}

/// The longest line with the size of a chunk.
const MAX_SIZE_LINE: usize = 256;

impl Chunks {
    /// Moves what `bytes` hold of the body to `body`, which may grow to `max` bytes. Gives how many
    /// bytes are used up; the others are needed again, with those that follow.
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
        Ok(used)
    }

    /// Gives how many bytes it took; none, if more are needed.
    fn step(&mut self, rest: &[u8], body: &mut Vec<u8>, max: usize) -> Result<usize, Malformed> {
        match *self {
            Chunks::Size => match httparse::parse_chunk_size(rest) {
                // As long at once as it may be in parts.
                Ok(httparse::Status::Complete((length, size))) if length <= MAX_SIZE_LINE + 1 => {
                    if size > max.saturating_sub(body.len()) as u64 {
                        return Err(Malformed("the body of the answer is too large"));
                    }
                    *self = match size {
                        0 => Chunks::Trailer(0),
                        size => Chunks::Data(size),
                    };
                    Ok(length)
                }
                Ok(httparse::Status::Partial) if rest.len() <= MAX_SIZE_LINE => Ok(0),
                _ => Err(Malformed("a chunk of the answer has no size")),
            },
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
                let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
                    return check_trailer(seen + rest.len()).map(|()| 0);
                };
                check_trailer(seen + end)?;
                let is_last = matches!(rest.get(..end), Some(b"" | b"\r"));
                *self = if is_last {
                    Chunks::Done
                } else {
                    Chunks::Trailer(seen + end + 1)
                };
                Ok(end + 1)
            }
            Chunks::Done => Ok(0),
        }
    }
}

fn check_trailer(length: usize) -> Result<(), Malformed> {
    if length > MAX_HEAD {
        return Err(Malformed("what follows the answer is too long"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::field_room;
    use super::*;

    /// Reads a whole head; gives status, length of the body and persistence.
    fn read(head: &str) -> Result<(u16, BodyLength, Persistence), Malformed> {
        let bytes = head.as_bytes();
        let length = response_head_len(bytes, 0)?.expect("the head has no end");
        assert_eq!(length, bytes.len());
        let mut room = field_room();
        let head = parse_response(bytes, &mut room)?;
        Ok((head.status, head.body, head.persistence))
    }

    #[test]
    fn an_answer_says_where_it_ends() {
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
    fn an_answer_whose_end_is_not_certain_is_none() {
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
        let mut from = 0;
        for end in 0..length {
            assert_eq!(response_head_len(&bytes[..end], from), Ok(None));
            from = end;
        }
        assert_eq!(response_head_len(&bytes[..length], from), Ok(Some(length)));
        assert_eq!(response_head_len(bytes, 0), Ok(Some(length)));
        let endless = vec![b'a'; MAX_HEAD + 1];
        assert!(response_head_len(&endless, 0).is_err());
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
    fn chunks_that_lie_are_refused() {
        for bytes in [
            &b"4\r\nWikix\r\n0\r\n\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"ffffffffffffffffff\r\n",
            b"65\r\n",
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
    fn a_head_that_ends_before_its_end_is_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\n\nHTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 1\n\nX\r\n\r\n",
        ] {
            let length = response_head_len(head.as_bytes(), 0).unwrap().unwrap();
            let mut room = field_room();
            let read = parse_response(&head.as_bytes()[..length], &mut room);
            assert!(read.is_err(), "{head:?} {read:?}");
        }
    }
}
