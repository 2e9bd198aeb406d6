//! `Input` and `Output`: the bytes that a connection has read and not yet answered, and those that it
//! has yet to send.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::ops::Range;

use crate::protocol::Response;
use crate::protocol::account::LITTLE;
use crate::protocol::http1::{MAX_HEAD, Refusal, Scan};
use crate::value::Value;

/// The first size of a buffer to read into: most requests are smaller.
const SMALL: usize = 8 << 10;

/// Larger buffers are freed once they are not needed.
const LARGE: usize = 64 << 10;

/// Bodies up to this are copied behind their head. Larger ones are sent from where they are.
const MAX_COPIED: usize = 16 << 10;

/// Answers to pipelined requests are collected up to this, and then sent together.
const MAX_COLLECTED: usize = 32 << 10;

const _: () = assert!(
    MAX_HEAD + SMALL <= LITTLE,
    "a head and a small body never need more than a small charge"
);
const _: () = assert!(
    SMALL <= LARGE / 2 && MAX_COLLECTED + MAX_COPIED <= LARGE,
    "a buffer of the usual size is kept"
);

/// Bytes that were read, in order. The buffer grows with the bytes that have come, never with a length
/// that the client announces.
#[derive(Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    /// The part of `bytes` that was read from the socket and is not consumed.
    unread: Range<usize>,
    /// How far the head of the next request was searched for its end.
    scan: Scan,
    /// The length of that head, once known.
    head: Option<usize>,
}

impl Input {
    pub(crate) fn is_empty(&self) -> bool {
        self.unread.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.unread.len()
    }

    pub(crate) fn unread(&self) -> &[u8] {
        self.bytes.get(self.unread.clone()).unwrap_or_default()
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// The length of the head of the next request, once the head is complete.
    pub(crate) fn head_len(&mut self) -> Result<Option<usize>, Refusal> {
        if self.head.is_none() {
            let unread = self.bytes.get(self.unread.clone()).unwrap_or_default();
            self.head = self.scan.advance(unread)?;
        }
        Ok(self.head)
    }

    /// The size that the buffer gets to read more of a message of `wanted` bytes.
    pub(crate) fn next_capacity(&self, wanted: usize) -> usize {
        if self.unread.len() < self.bytes.len() {
            return self.bytes.len();
        }
        let enough = wanted.max(MAX_HEAD + SMALL);
        (self.bytes.len() * 2).clamp(SMALL, enough)
    }

    /// The free part of the buffer, to read into, after the buffer was enlarged to `capacity`.
    pub(crate) fn free_part(&mut self, capacity: usize) -> &mut [u8] {
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
        if self.unread.end == self.bytes.len() && self.unread.start > 0 {
            self.bytes.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        if capacity > self.bytes.len() {
            self.bytes.resize(capacity, 0);
        }
        self.bytes.get_mut(self.unread.end..).unwrap_or_default()
    }

    /// Notes that `bytes` were read into the free part.
    pub(crate) fn note_read(&mut self, bytes: usize) {
        self.unread.end += bytes;
        debug_assert!(
            self.unread.end <= self.bytes.len(),
            "more was read than there was room for"
        );
    }

    /// Removes a request of `length` bytes. The next request begins behind it.
    pub(crate) fn consume(&mut self, length: usize) {
        self.unread.start = (self.unread.start + length).min(self.unread.end);
        self.scan = Scan::default();
        self.head = None;
        if self.bytes.len() > LARGE && self.unread.len() <= LARGE / 2 {
            self.bytes = self.unread().to_vec();
            self.unread = 0..self.bytes.len();
        }
    }

    /// Frees the unused part of the buffer before a wait, unless there is much to copy.
    pub(crate) fn shrink(&mut self) {
        if self.unread.len() <= SMALL && self.unread.len() < self.bytes.len() {
            self.bytes = self.unread().to_vec();
            self.unread = 0..self.bytes.len();
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Input::default();
    }
}

/// Bytes to send, in order: a buffer, and behind it at most one body that is not copied.
#[derive(Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    /// How many bytes of both are sent.
    sent: usize,
    body: Option<Body>,
    /// How many bytes of the body are charged to nobody else.
    uncharged: usize,
}

/// A body that is sent from where it is.
enum Body {
    Peer(Response),
    Application(Value),
}

impl Body {
    fn parts(&self) -> [&[u8]; 2] {
        match self {
            Body::Peer(response) => response.body(),
            Body::Application(value) => [value, &[]],
        }
    }
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.body.is_none()
    }

    /// Whether it has to be sent before anything is added.
    pub(crate) fn is_full(&self) -> bool {
        self.body.is_some() || self.bytes.len() >= MAX_COLLECTED
    }

    /// The buffer to append a head to.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        debug_assert!(self.body.is_none(), "a body that is not copied is the last");
        &mut self.bytes
    }

    /// Adds the body of the node's answer.
    pub(crate) fn push_response(&mut self, response: Response) {
        debug_assert!(self.body.is_none(), "a body that is not copied is the last");
        if response.body_len() <= MAX_COPIED {
            response
                .body()
                .iter()
                .for_each(|part| self.bytes.extend_from_slice(part));
        } else {
            self.uncharged = response.uncharged_len();
            self.body = Some(Body::Peer(response));
        }
    }

    /// Adds the body of the application's answer.
    pub(crate) fn push_value(&mut self, value: Value) {
        debug_assert!(self.body.is_none(), "a body that is not copied is the last");
        if value.len() <= MAX_COPIED {
            self.bytes.extend_from_slice(&value);
        } else {
            self.body = Some(Body::Application(value));
        }
    }

    /// How many bytes it keeps besides the shared value.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.uncharged
    }

    /// The value that is sent from where it is. Others may hold it too.
    pub(crate) fn shared_value(&self) -> Option<&Value> {
        match self.body.as_ref()? {
            Body::Peer(response) => response.shared_value(),
            Body::Application(value) => Some(value),
        }
    }

    /// The bytes that are not sent yet.
    fn unsent(&self) -> [&[u8]; 3] {
        let [head, value] = self.body.as_ref().map(Body::parts).unwrap_or_default();
        let mut sent = self.sent;
        [&self.bytes, head, value].map(|part| {
            let skipped = sent.min(part.len());
            sent -= skipped;
            part.get(skipped..).unwrap_or_default()
        })
    }

    /// Writes as much as the socket takes at once. Returns whether that was all.
    pub(crate) fn write_to(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        let unsent = self.unsent();
        let result = match unsent {
            [[], [], []] => Ok(0),
            [one, [], []] | [[], one, []] | [[], [], one] => socket.write(one),
            parts => socket.write_vectored(&parts.map(IoSlice::new)),
        };
        let left: usize = unsent.iter().map(|part| part.len()).sum();
        match result {
            Ok(written) if written >= left => {
                self.reset();
                Ok(true)
            }
            Ok(0) => Err(ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.sent += written;
                Ok(false)
            }
            Err(error) if is_transient(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn reset(&mut self) {
        self.sent = 0;
        self.body = None;
        self.uncharged = 0;
        self.bytes.clear();
        self.bytes.shrink_to(LARGE);
    }
}

/// Whether the socket has no data, or no room, at the moment.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &mut Input, bytes: &[u8], wanted: usize) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let capacity = input.next_capacity(wanted);
            let room = input.free_part(capacity);
            assert!(!room.is_empty());
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            input.note_read(count);
            rest = &rest[count..];
        }
    }

    #[test]
    fn what_was_read_comes_out_in_order() {
        let mut input = Input::default();
        let mut expected = Vec::new();
        for round in 0..1_000_usize {
            let bytes: Vec<u8> = (0..round % 97 * 13).map(|n| (n ^ round) as u8).collect();
            read(&mut input, &bytes, 0);
            expected.extend_from_slice(&bytes);
            let count = expected.len() / 2;
            assert_eq!(input.unread(), expected);
            input.consume(count);
            expected.drain(..count);
        }
    }

    #[test]
    fn a_buffer_grows_with_what_has_come_and_shrinks_again() {
        let mut input = Input::default();
        assert!(input.next_capacity(1 << 30) <= SMALL);
        read(&mut input, &vec![1; 1 << 20], 1 << 30);
        assert!(input.capacity() <= 2 << 20);
        input.consume(1 << 20);
        assert!(input.capacity() <= LARGE);
    }

    #[test]
    fn a_buffer_ends_where_the_message_does() {
        let mut input = Input::default();
        let wanted = 100_000;
        read(&mut input, &vec![1; wanted], wanted);
        assert_eq!(input.capacity(), wanted);
    }

    /// Takes a few bytes at a time.
    struct Slow(Vec<u8>, usize);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.1);
            self.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_slow_reader_gets_head_and_value_in_order() {
        for step in [1, 3, 7, 5_000, 1 << 20] {
            let value: Vec<u8> = (0..20_000_u32).map(|n| n as u8).collect();
            let mut output = Output::default();
            output.buffer().extend_from_slice(b"head");
            output.push_value(Value::from(&value[..]));
            let mut slow = Slow(Vec::new(), step);
            while !output.write_to(&mut slow).unwrap() {}
            assert!(output.is_empty());
            assert_eq!(slow.0, [b"head", &value[..]].concat());
        }
    }
}
