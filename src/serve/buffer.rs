//! `Input` and `Output`: what a connection has read and not yet answered, and what it has yet to
//! send.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::ops::Range;

use crate::protocol::Response;
use crate::protocol::http1::{MAX_HEAD, Refusal, Scan};
use crate::value::Value;

/// What is read at once from a connection that has nothing special to say.
pub(crate) const SMALL: usize = 8 << 10;

/// Buffers beyond this are given back once they are not needed.
const LARGE: usize = 64 << 10;

/// Values up to this are copied behind their head; larger ones are sent from where they are.
const COPIED: usize = 16 << 10;

/// Answers to pipelined requests are collected up to this, and sent at once.
const COLLECTED: usize = 32 << 10;

/// Bytes that were read, in order. Grows with what has come, never on the word of the sender.
#[derive(Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    unread: Range<usize>,
    scan: Scan,
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

    /// The length of the head of the next request, once all of it is here.
    pub(crate) fn head_len(&mut self) -> Result<Option<usize>, Refusal> {
        if self.head.is_none() {
            let unread = self.bytes.get(self.unread.clone()).unwrap_or_default();
            self.head = self.scan.advance(unread)?;
        }
        Ok(self.head)
    }

    /// How large the buffer becomes to read more of a message of `wanted` bytes.
    pub(crate) fn next_capacity(&self, wanted: usize) -> usize {
        if self.unread.len() < self.bytes.len() {
            return self.bytes.len();
        }
        let enough = wanted.max(MAX_HEAD + SMALL);
        (self.bytes.len() * 2).clamp(SMALL, enough)
    }

    /// Room to read into, in a buffer of this capacity.
    pub(crate) fn room(&mut self, capacity: usize) -> &mut [u8] {
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

    pub(crate) fn filled(&mut self, bytes: usize) {
        self.unread.end += bytes;
    }

    /// Takes a request of `length` bytes out; the next one begins behind it.
    pub(crate) fn consume(&mut self, length: usize) {
        self.unread.start = (self.unread.start + length).min(self.unread.end);
        self.scan = Scan::default();
        self.head = None;
        if self.bytes.len() > LARGE && self.unread.len() <= LARGE / 2 {
            self.bytes = self.unread().to_vec();
            self.unread = 0..self.bytes.len();
        }
    }

    /// Gives back what is not used before a wait, unless there is much to copy.
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
    sent: usize,
    tail: Option<Tail>,
    /// What the tail takes that nobody else pays for.
    unpaid: usize,
}

enum Tail {
    Peer(Response),
    Application(Value),
}

impl Tail {
    fn parts(&self) -> [&[u8]; 2] {
        match self {
            Tail::Peer(response) => response.body(),
            Tail::Application(value) => [value, &[]],
        }
    }
}

impl Output {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.tail.is_none()
    }

    /// Whether it is to be sent before anything is added.
    pub(crate) fn is_full(&self) -> bool {
        self.tail.is_some() || self.bytes.len() >= COLLECTED
    }

    /// Where a head goes.
    pub(crate) fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Adds the body of a peer's answer.
    pub(crate) fn push_response(&mut self, response: Response) {
        if response.body_len() <= COPIED {
            response
                .body()
                .iter()
                .for_each(|part| self.bytes.extend_from_slice(part));
        } else {
            self.unpaid = response.uncharged_len();
            self.tail = Some(Tail::Peer(response));
        }
    }

    /// Adds the body of the application's answer.
    pub(crate) fn push_value(&mut self, value: Value) {
        if value.len() <= COPIED {
            self.bytes.extend_from_slice(&value);
        } else {
            self.tail = Some(Tail::Application(value));
        }
    }

    /// What it takes besides the value.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity() + self.unpaid
    }

    /// The value that is sent from where it is, which others may have too.
    pub(crate) fn shared_value(&self) -> Option<&Value> {
        match self.tail.as_ref()? {
            Tail::Peer(response) => response.shared_value(),
            Tail::Application(value) => Some(value),
        }
    }

    /// What is yet to be sent.
    fn unsent(&self) -> [&[u8]; 3] {
        let [head, value] = self.tail.as_ref().map(Tail::parts).unwrap_or_default();
        let mut sent = self.sent;
        [&self.bytes, head, value].map(|part| {
            let skipped = sent.min(part.len());
            sent -= skipped;
            part.get(skipped..).unwrap_or_default()
        })
    }

    /// Writes as much as the socket takes at once; tells whether that was all.
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
        self.tail = None;
        self.unpaid = 0;
        self.bytes.clear();
        self.bytes.shrink_to(LARGE);
    }
}

/// Whether the socket only has nothing to give or no room at the moment.
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
            let room = input.room(capacity);
            assert!(!room.is_empty());
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            input.filled(count);
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
            output.bytes().extend_from_slice(b"head");
            output.push_value(Value::from(&value[..]));
            let mut slow = Slow(Vec::new(), step);
            while !output.write_to(&mut slow).unwrap() {}
            assert!(output.is_empty());
            assert_eq!(slow.0, [b"head", &value[..]].concat());
        }
    }
}
