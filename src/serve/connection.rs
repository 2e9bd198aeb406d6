//! `Connection`: the socket of one client, its buffers, what it is charged for, and its deadlines.
//!
//! `requests.rs` adds how requests are served on it.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::buffer::{Input, Output, is_transient};
use super::connection_charge::ConnectionCharge;
use super::connection_limit::Permit;
use super::message::HttpResponse;
use super::settings::Settings;
use super::socket::Socket;
use super::traffic::Traffic;
use super::wait::Wait;
use crate::protocol::Response;
use crate::protocol::account::{LITTLE, Requester};
use crate::protocol::http1::{self, Head, Persistence};
use crate::transport::stream::Stream;

/// No connection waits longer for anything, whatever is set.
const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Boxed, because it is moved between threads and tables all the time.
pub(crate) type BoxedConnection = Box<Connection>;

pub(crate) struct Connection {
    pub(super) socket: Socket,
    pub(super) client: SocketAddr,
    pub(super) permit: Permit,
    pub(super) charge: ConnectionCharge,
    pub(super) input: Input,
    pub(super) output: Output,
    /// The length of the request whose body is incomplete, once its head is parsed.
    pub(super) expected: Option<usize>,
    /// Whether the client was sent `100 Continue` for that request.
    pub(super) has_sent_continue: bool,
    /// How the answer to the request that waits for a load has to be sent.
    pub(super) framing: Framing,
    pub(super) stage: Stage,
    /// The deadline of what it waits for. Kept while it waits for the same thing again and again.
    pub(super) due: Option<(Wait, Option<Instant>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Requests are answered.
    Open,
    /// The output holds the last answer.
    Closing,
    /// The same, while the client may still be sending. If the socket were closed at once, the system
    /// would discard the answer.
    Refusing,
    /// All is sent. The client has sent so many bytes since, which were discarded.
    Ended(usize),
}

/// What a response depends on of its request.
#[derive(Clone, Copy)]
pub(super) struct Framing {
    pub(super) persistence: Persistence,
    pub(super) sends_body: bool,
}

impl Framing {
    pub(super) fn of(head: &Head<'_>) -> Framing {
        Framing {
            persistence: head.persistence,
            sends_body: head.method != "HEAD",
        }
    }

    pub(super) fn closing(self) -> Framing {
        Framing {
            persistence: Persistence::Close,
            ..self
        }
    }
}

/// The socket cannot be used any more.
pub(super) struct Broken;

impl Connection {
    pub(crate) fn new(
        stream: Stream<TcpStream>,
        client: SocketAddr,
        permit: Permit,
        requester: Requester,
    ) -> Connection {
        Connection {
            socket: Socket::new(stream),
            client,
            permit,
            charge: ConnectionCharge::new(requester),
            input: Input::default(),
            output: Output::default(),
            expected: None,
            has_sent_continue: false,
            framing: Framing {
                persistence: Persistence::Close,
                sends_body: true,
            },
            stage: Stage::Open,
            due: None,
        }
    }

    /// What the connection waits for where it has nothing to write.
    pub(crate) fn awaited(&self) -> Wait {
        match self.expected {
            _ if self.socket.stream.is_handshaking() => Wait::Handshake,
            Some(_) => Wait::Body,
            None if self.input.is_empty() && !self.socket.stream.has_part() => Wait::Request,
            None => Wait::Head,
        }
    }

    /// Whether it has no part of a request.
    pub(super) fn is_idle(&self) -> bool {
        self.awaited() == Wait::Request
    }
}

/// Whose it is.
impl Connection {
    pub(crate) fn network(&self) -> IpAddr {
        self.permit.network()
    }

    /// What it is for, once that is known.
    pub(crate) fn traffic(&self) -> Option<Traffic> {
        self.permit.traffic()
    }

    /// Whether a whole request has authenticated the client as a peer, where peers can do that.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.permit.is_authenticated()
    }

    /// Whether at least the head of a request has authenticated the client.
    pub(crate) fn has_authenticated_head(&self) -> bool {
        self.charge.requester.has_proved()
    }

    /// Whether the client has not authenticated itself, where peers can do that.
    pub(crate) fn is_stranger(&self) -> bool {
        self.charge.requester.is_stranger()
    }

    /// Counts the connection as a peer's from now on, if its request has authenticated it.
    pub(super) fn note_authentication(&mut self) {
        if !self.permit.is_authenticated() && self.charge.note_authentication() {
            self.permit.authenticate();
        }
    }
}

/// Its input and output.
impl Connection {
    /// Removes an answered request of `length` bytes from the input.
    pub(super) fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.expected = None;
        self.has_sent_continue = false;
        self.update_charge(); // to no more than before
    }

    /// Adds the answer of a load to the output.
    pub(crate) fn answer(&mut self, response: Response, is_last: bool) {
        self.due = None;
        let framing = self.framing;
        let framing = if is_last { framing.closing() } else { framing };
        self.push_response(response, framing);
    }

    pub(super) fn push_response(&mut self, response: Response, framing: Framing) {
        http1::write_head(
            self.output.buffer(),
            response.status(),
            response.headers(),
            response.body_len(),
            framing.persistence,
        );
        if framing.sends_body {
            self.output.push_response(response);
        }
        self.close_after(framing);
    }

    pub(super) fn push_http_response(&mut self, response: HttpResponse, framing: Framing) {
        let headers = response.headers.iter();
        http1::write_head(
            self.output.buffer(),
            response.status,
            headers.map(|(name, value)| (name.as_str(), value.as_str())),
            response.body.len(),
            framing.persistence,
        );
        if framing.sends_body && http1::may_have_body(response.status) {
            self.output.push_value(response.body);
        }
        self.close_after(framing);
    }

    fn close_after(&mut self, framing: Framing) {
        debug_assert!(self.stage == Stage::Open, "an answer follows the last one");
        if framing.persistence == Persistence::Close {
            self.stage = Stage::Closing;
        }
    }

    /// Ignores whatever the client sends from now on.
    pub(super) fn stop_reading(&mut self) {
        self.stage = Stage::Refusing;
        self.expected = None;
        self.due = None;
        self.input.clear();
        self.update_charge(); // to no more than before
    }

    /// Whether there are bytes that the client has yet to read.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.output.is_empty() || self.socket.stream.wants_write()
    }

    /// Sends the output. Returns whether all of it is sent.
    pub(super) fn flush(&mut self) -> Result<bool, Broken> {
        if !self.has_unsent() {
            return Ok(true);
        }
        let sent = match self.output.write_to(&mut self.socket.stream) {
            Ok(true) => self.socket.stream.flush().map(|()| true),
            sent => sent,
        };
        match sent {
            Ok(true) => {
                self.due.take_if(|(wait, _)| *wait == Wait::Write);
                self.charge.release_value();
                Ok(true)
            }
            Err(error) if !is_transient(&error) => Err(Broken),
            _ => {
                // The rest is sent when the socket has room.
                self.set_blocking(false)?;
                Ok(false)
            }
        }
    }
}

/// Its waits.
impl Connection {
    pub(super) fn set_blocking(&mut self, blocking: bool) -> Result<(), Broken> {
        self.socket.set_blocking(blocking).map_err(|_| Broken)
    }

    /// Until when it may wait for this, counted from when it first had to.
    pub(crate) fn due(&mut self, wait: Wait, settings: &Settings) -> Option<Instant> {
        match self.due {
            Some((waited, due)) if waited == wait => due,
            _ => {
                // Only a load has no deadline here: a connection without one is never evicted.
                let timeout = settings.timeout_of(wait);
                let due = timeout.map(|timeout| Instant::now() + timeout.min(MAX_WAIT));
                self.due = Some((wait, due));
                due
            }
        }
    }

    /// Frees memory before a wait.
    pub(crate) fn prepare_to_wait(&mut self, wait: Wait) {
        if matches!(wait, Wait::Request | Wait::Load) {
            self.due = None;
        }
        self.input.shrink();
        if self.output.is_empty() {
            self.output = Output::default();
        }
    }

    pub(crate) fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        self.socket.register(registry, token, interest)
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) {
        self.socket.deregister(registry);
    }
}

/// The memory that it is charged for.
impl Connection {
    /// How many bytes it keeps, if its input has this capacity. A shared value is not among them.
    pub(super) fn kept_with_input(&self, capacity: usize) -> usize {
        capacity + self.output.capacity() + self.socket.stream.kept()
    }

    /// Whether it keeps so little that others may be evicted for it.
    pub(crate) fn keeps_little(&self) -> bool {
        let value = self.output.shared_value().map_or(0, |value| value.len());
        let kept = self.kept_with_input(self.input.capacity());
        kept.saturating_add(value) <= LITTLE
    }

    /// Charges for what the connection keeps now. Returns whether there is room for that.
    pub(crate) fn update_charge(&mut self) -> bool {
        let kept = self.kept_with_input(self.input.capacity());
        self.charge.charge_all(kept, self.output.shared_value())
    }

    /// Charges for an answer that it has to send. Returns whether there is room for it.
    pub(crate) fn charge_answer(&mut self, response: &Response) -> bool {
        // An answer without a shared value is charged with the output.
        let value = response.shared_value();
        value.is_none_or(|value| self.charge.charge_value(value))
    }

    /// Takes the permission to exceed the bound of the account. Returns whether the connection has it.
    pub(crate) fn exceed(&mut self) -> bool {
        self.charge.exceed()
    }
}
