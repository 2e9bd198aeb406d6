//! `Connection`: sends one request at a time to a peer and receives its answer.

use std::io::{self, ErrorKind, Read, Write};
use std::ops::Range;
use std::time::Instant;

use super::socket::{Patience, Socket};
use crate::protocol::http1::{
    BodyLength, Chunks, Malformed, Persistence, ResponseScan, field_room, parse_response,
    write_request_head,
};
use crate::protocol::{AUTH_HEADER, HEADER};
use crate::transport::peer::{Call, CallError, Reply};
use crate::transport::stream::Stream;

/// The bytes that are read at once until the length of the body is known: most answers are shorter.
const INPUT: usize = 8 << 10;

/// A body up to this length is sent in one piece with its head.
const SENT_AT_ONCE: usize = 16 << 10;

/// Once so many bytes of a body have come, memory for all of it is reserved: a body that grows step by step
/// is in memory twice.
const BELIEVED: usize = 256 << 10;

/// The most memory that is reserved for a body before its first byte has come.
const MAX_RESERVED: usize = 1 << 20;

const _: () = assert!(BELIEVED <= MAX_RESERVED);

/// The most interim responses before an answer.
const MAX_INTERIM: usize = 8;

pub(super) struct Connection {
    stream: Stream<Socket>,
    output: Vec<u8>,
    input: Vec<u8>,
    /// The part of `input` that has come and is not parsed yet.
    unread: Range<usize>,
    /// Whether a byte of the answer has come.
    is_answered: bool,
    /// Whether the next byte will be the first of the next answer.
    is_reusable: bool,
    idle_since: Instant,
}

/// Why there is no answer.
pub(super) enum Failed {
    /// The peer closed the connection before it sent anything: perhaps it has not seen the request.
    Unseen(io::Error),
    /// The peer may have seen the request.
    Seen(CallError),
}

impl From<Malformed> for Failed {
    fn from(malformed: Malformed) -> Failed {
        Failed::Seen(CallError::ProtocolError(malformed.0.to_owned()))
    }
}

impl Connection {
    pub(super) fn new(stream: Stream<Socket>) -> Connection {
        Connection {
            stream,
            output: Vec::new(),
            input: vec![0; INPUT],
            unread: 0..0,
            is_answered: false,
            is_reusable: false,
            idle_since: Instant::now(),
        }
    }

    /// Whether another request can be sent on it, as far as is known without a system call.
    pub(super) fn is_reusable(&self) -> bool {
        self.is_reusable
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since
    }

    pub(super) fn note_idle(&mut self, now: Instant) {
        self.idle_since = now;
    }

    /// Whether the peer has neither closed it nor sent anything. Needs a system call.
    pub(super) fn is_quiet(&self) -> bool {
        self.stream.socket().is_quiet()
    }

    /// Sends `call` and reads the answer, whose body may have `max_body` bytes.
    pub(super) fn exchange(
        &mut self,
        call: &Call,
        host: &str,
        max_body: usize,
        patience: Patience,
    ) -> Result<Reply, Failed> {
        self.is_reusable = false;
        self.is_answered = false;
        self.unread = 0..0;
        self.stream.socket_mut().set_patience(patience);
        let sent = self.send(call, host);
        // A peer that refuses a request before its end may answer before it closes the connection.
        let received = self.receive(max_body);
        match (sent, received) {
            (Err(error), Err(_)) => Err(self.failed(error)),
            (Err(_), Ok(reply)) => {
                self.is_reusable = false;
                Ok(reply)
            }
            (Ok(()), received) => received,
        }
    }

    fn send(&mut self, call: &Call, host: &str) -> io::Result<()> {
        let own = [(HEADER, &*call.header), (AUTH_HEADER, &*call.auth)];
        let own = own.into_iter().filter(|(_, value)| !value.is_empty());
        let headers = [("Host", host)].into_iter().chain(own);
        let (method, target, body) = (call.method, &call.target, &call.body);
        self.output.clear();
        write_request_head(&mut self.output, method, target, headers, body.len());
        if body.len() <= SENT_AT_ONCE {
            self.output.extend_from_slice(body);
            return self.stream.write_all(&self.output);
        }
        self.stream.write_all(&self.output)?;
        self.stream.write_all(body)?;
        self.stream.socket_mut().note_sent(body.len());
        Ok(())
    }

    fn receive(&mut self, max_body: usize) -> Result<Reply, Failed> {
        for _ in 0..=MAX_INTERIM {
            let length = self.read_head()?;
            let (head, rest) = self.input[self.unread.clone()].split_at(length);
            let mut room = field_room();
            let head = parse_response(head, &mut room)?;
            let (status, length_of_body) = (head.status, head.body);
            let header = head.field(HEADER).filter(|value| !value.is_empty());
            let header = header.map(str::to_owned);
            let stays = head.persistence != Persistence::Close;
            let is_interim = head.is_interim();
            self.unread.start = self.unread.end - rest.len();
            if is_interim {
                continue;
            }
            let body = match length_of_body {
                BodyLength::Known(length) => self.read_body(length, max_body)?,
                BodyLength::Chunked => self.read_chunks(max_body)?,
            };
            self.is_reusable = stays && self.unread.is_empty() && self.stream.is_quiet();
            return Ok(Reply {
                status,
                header,
                body,
            });
        }
        Err(Malformed("the peer sends interim responses and no answer").into())
    }

    /// Reads until a whole head has come; gives its length.
    fn read_head(&mut self) -> Result<usize, Failed> {
        let mut scan = ResponseScan::default();
        loop {
            if let Some(length) = scan.advance(&self.input[self.unread.clone()])? {
                return Ok(length);
            }
            self.read_more()?;
        }
    }

    fn read_body(&mut self, length: u64, max: usize) -> Result<Vec<u8>, Failed> {
        if length > max as u64 {
            return Err(Malformed("the body of the answer is too large").into());
        }
        let length = length as usize; // it is no more than `max`
        // The length that a peer announces is no reason to allocate so much.
        let mut body = Vec::with_capacity(length.min(MAX_RESERVED));
        let here = self.unread.len().min(length);
        body.extend_from_slice(&self.input[self.unread.start..self.unread.start + here]);
        self.unread.start += here;
        self.read_on(&mut body, length.min(BELIEVED))?;
        body.reserve_exact(length - body.len());
        self.read_on(&mut body, length)?;
        Ok(body)
    }

    /// Reads more until a body has this length.
    fn read_on(&mut self, body: &mut Vec<u8>, length: usize) -> Result<(), Failed> {
        let missing = length.saturating_sub(body.len()) as u64;
        if missing > 0 {
            let read = (&mut self.stream).take(missing).read_to_end(body);
            read.map_err(|error| self.failed(error))?;
            if body.len() < length {
                return Err(self.failed(ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }

    fn read_chunks(&mut self, max: usize) -> Result<Vec<u8>, Failed> {
        let (mut chunks, mut body) = (Chunks::Size, Vec::new());
        loop {
            let bytes = &self.input[self.unread.clone()];
            self.unread.start += chunks.advance(bytes, &mut body, max)?;
            if chunks == Chunks::Done {
                return Ok(body);
            }
            if body.len() >= BELIEVED {
                body.reserve_exact(max.saturating_sub(body.len()));
            }
            self.read_more()?;
        }
    }

    /// Reads more bytes into the input, behind the unread ones.
    fn read_more(&mut self) -> Result<(), Failed> {
        debug_assert!(self.unread.start <= self.unread.end && self.unread.end <= self.input.len());
        if self.unread.end == self.input.len() {
            self.input.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        if self.unread.end == self.input.len() {
            self.input.resize(2 * self.input.len(), 0);
        }
        let read = self.stream.read(&mut self.input[self.unread.end..]);
        match read {
            Ok(0) => Err(self.failed(ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.unread.end += count;
                if !self.is_answered {
                    self.is_answered = true;
                    self.stream.socket_mut().note_answer();
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: io::Error) -> Failed {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                Failed::Seen(match self.stream.socket().was_silent() {
                    true => CallError::Timeout,
                    false => CallError::Unfinished,
                })
            }
            ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
                if !self.is_answered =>
            {
                Failed::Unseen(error)
            }
            _ => Failed::Seen(CallError::Unreachable(error.to_string())),
        }
    }
}
