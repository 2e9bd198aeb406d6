//! `Connection`: one client's requests, one after the other, each read, answered and written as far
//! as the socket allows at once.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use super::settings::Settings;
use crate::group::Pending;
use crate::node::Begin;
use crate::protocol::Response;
use crate::protocol::account::{LITTLE, Requester};
use crate::protocol::http1::{self, CONTINUE, Head, Persistence, Refusal};
use crate::serve::buffer::{Input, Output, is_transient};
use crate::serve::lane::Which;
use crate::serve::lobby::{Among, Rank, Wait};
use crate::serve::message::{HttpRequest, HttpResponse};
use crate::serve::places::Place;
use crate::serve::purse::Purse;
use crate::serve::shared::Shared;
use crate::transport::stream::Stream;

/// No connection waits longer for anything, whatever is set.
const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3_600);

/// How long a worker waits for the next request of a connection that has just had an answer.
const LINGER: Duration = Duration::from_millis(2);

/// How long a worker waits for a reader to make room.
const WRITE_AT_ONCE: Duration = Duration::from_millis(5);

/// After so many requests in a row those who wait for a worker have their turn.
const REQUESTS_PER_TURN: usize = 128;

/// How much is read that nobody will answer, so that the client gets to see our last words.
const MAX_DISCARDED: usize = 1 << 20;

/// Boxed, because it is handed from place to place all the time.
pub(crate) type BoxedConnection = Box<Connection>;

pub(crate) struct Connection {
    stream: Stream<TcpStream>,
    peer: SocketAddr,
    place: Place,
    purse: Purse,
    input: Input,
    output: Output,
    /// The length of the request whose rest is awaited, once its head has told.
    expected: Option<usize>,
    was_told_to_continue: bool,
    /// How the answer to the request that is being loaded is to be sent.
    framing: Framing,
    stage: Stage,
    /// The total deadline of what it waits for, kept while it waits for the same again and again.
    due: Option<(Wait, Option<Instant>)>,
    is_registered: bool,
    is_blocking: bool,
    is_tuned: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Requests are answered.
    Open,
    /// What is to be sent is the last.
    Closing,
    /// The same, while the client may still be sending. Closing at once would make the system throw
    /// away what we have said.
    Refusing,
    /// All is said. So many bytes have come since, which nobody reads.
    Ended(usize),
}

/// What a response needs to know of its request.
#[derive(Clone, Copy)]
struct Framing {
    persistence: Persistence,
    sends_body: bool,
}

/// What is to become of a connection.
pub(crate) enum Next {
    Wait(Wait),
    /// Its request is being loaded.
    Park(Pending),
    /// It has a request for this lane.
    Lane(Which),
    Close,
}

/// What became of the next request.
enum Step {
    /// It is not here yet.
    Partial,
    Answered,
    Pending(Pending),
    /// It belongs to the other lane.
    Elsewhere(Which),
    /// Nobody waits for the answer.
    Deserted,
}

enum Answer {
    Peer(Begin),
    /// `None`: it panicked.
    Application(Option<HttpResponse>),
}

/// The socket is of no use any more.
struct Broken;

const TOO_LARGE: Refusal = Refusal {
    status: 413,
    reason: "the body is too large",
};

const OVERLOADED: Refusal = Refusal {
    status: 503,
    reason: "too many requests come in at once",
};

const TOO_MANY: Refusal = Refusal {
    status: 503,
    reason: "too many connections are in use for such requests",
};

/// Notes what a connection is for. Where others have all places for that, one of them that is idle
/// makes room. Tells whether there is a place.
fn settle(place: &mut Place, kind: Which, shared: &Shared) -> bool {
    place.settle(kind) || {
        drop(
            shared
                .lobby
                .evict(Among::UnansweredFor(kind), Rank::BusyKnown),
        );
        place.settle(kind)
    }
}

/// Whether the other side has not closed the connection.
fn is_connected(stream: &TcpStream, is_blocking: bool) -> bool {
    let socket = SockRef::from(stream);
    // One that blocks would wait for more to come.
    let peek = || -> io::Result<usize> {
        socket.set_nonblocking(true)?;
        let seen = stream.peek(&mut [0]);
        socket.set_nonblocking(!is_blocking)?;
        seen
    };
    match peek() {
        Ok(count) => count > 0,
        Err(error) => is_transient(&error),
    }
}

impl Connection {
    pub(crate) fn new(
        stream: Stream<TcpStream>,
        peer: SocketAddr,
        place: Place,
        requester: Requester,
    ) -> Connection {
        Connection {
            purse: Purse::new(requester),
            stream,
            peer,
            place,
            input: Input::default(),
            output: Output::default(),
            expected: None,
            was_told_to_continue: false,
            framing: Framing {
                persistence: Persistence::Close,
                sends_body: true,
            },
            stage: Stage::Open,
            due: None,
            is_registered: false,
            is_blocking: false, // as it was accepted
            is_tuned: false,
        }
    }

    /// Serves requests for as long as there is something to do at once.
    pub(crate) fn run(&mut self, shared: &Shared, lane: Which) -> Next {
        match self.serve(shared, lane) {
            Ok(next) => next,
            Err(Broken) => Next::Close,
        }
    }

    fn serve(&mut self, shared: &Shared, lane: Which) -> Result<Next, Broken> {
        // An answer may have been waited for, or its reader.
        let mut answered = usize::from(self.has_unsent());
        let mut reads = 0;
        loop {
            let is_last = self.stage != Stage::Open;
            if (self.output.is_full() || is_last) && !self.flush()? {
                return Ok(Next::Wait(Wait::Write));
            }
            if is_last {
                return self.end();
            }
            let had_its_turn = answered >= REQUESTS_PER_TURN && !self.input.is_empty();
            if had_its_turn && shared.lane(lane).is_crowded() {
                return self.flushed(Next::Lane(lane));
            }
            match self.step(shared, lane) {
                Ok(Step::Answered) => {
                    answered += 1;
                    self.due = None;
                }
                Ok(Step::Pending(pending)) => {
                    // What was answered before goes out; what the reader leaves, goes out later.
                    self.flush()?;
                    return Ok(Next::Park(pending));
                }
                Ok(Step::Deserted) => {
                    self.flush()?; // what was answered before
                    return Ok(Next::Close);
                }
                Ok(Step::Elsewhere(other)) => return self.flushed(Next::Lane(other)),
                Ok(Step::Partial) => {
                    if !self.flush()? {
                        return Ok(Next::Wait(Wait::Write));
                    }
                    if answered > 0 && self.is_idle() && shared.is_draining() {
                        return Ok(Next::Wait(Wait::Request));
                    }
                    if answered > 0 && self.is_idle() && shared.lane(lane).is_crowded() {
                        // Behind all who wait: by then a busy client has asked again, and the
                        // listener need not be troubled. If not, it is found to wait.
                        shared.lobby.forget(self);
                        self.set_blocking(false)?;
                        return Ok(Next::Lane(Which::Peers));
                    }
                    // One that is served at length must not wake the listener all the time. One
                    // that is given back soon stays watched, which saves two calls.
                    if reads > 0 {
                        shared.lobby.forget(self);
                    }
                    reads += 1;
                    if !self.read(shared, answered > 0)? {
                        return Ok(Next::Wait(self.awaited()));
                    }
                }
                Err(refusal) => self.refuse(refusal, shared),
            }
        }
    }

    /// What comes next, unless the reader has to make room first.
    fn flushed(&mut self, next: Next) -> Result<Next, Broken> {
        Ok(if self.flush()? {
            next
        } else {
            Next::Wait(Wait::Write)
        })
    }

    /// Whether it has no part of a request.
    fn is_idle(&self) -> bool {
        self.awaited() == Wait::Request
    }

    pub(crate) fn awaited(&self) -> Wait {
        match self.expected {
            _ if self.stream.is_handshaking() => Wait::Handshake,
            Some(_) => Wait::Body,
            None if self.input.is_empty() && !self.stream.has_part() => Wait::Request,
            None => Wait::Head,
        }
    }

    /// Answers the next request if all of it is here.
    fn step(&mut self, shared: &Shared, lane: Which) -> Result<Step, Refusal> {
        if self.input.is_empty()
            || self
                .expected
                .is_some_and(|length| length > self.input.len())
        {
            return Ok(Step::Partial);
        }
        let Some(head_len) = self.input.head_len()? else {
            return Ok(Step::Partial);
        };
        let (head, rest) = self.input.unread().split_at(head_len);
        let mut room = http1::field_room();
        let head = http1::parse(head, &mut room)?;
        let is_ours = shared.is_for_node(head.target);
        let limit = shared.max_body(is_ours);
        let body_len = usize::try_from(head.body_len).unwrap_or(usize::MAX);
        if body_len > limit {
            return Err(TOO_LARGE);
        }
        let framing = Framing::of(&head, shared);
        let needed = shared.lane_of(is_ours);
        if shared.is_shared() && !settle(&mut self.place, needed, shared) {
            return Err(TOO_MANY);
        }
        if shared.takes_peers_only() {
            self.purse.requester.prove();
        }
        let is_nodes = is_ours || shared.fallback.is_none();
        let Some(body) = rest.get(..body_len) else {
            // Nothing is read, and no memory given, for one who would be refused in the end.
            let requester = &mut self.purse.requester;
            let refusal = is_nodes
                .then(|| shared.refuse_head(&head, requester))
                .flatten();
            if let Some(response) = refusal {
                self.turn_down(response, framing);
                return Ok(Step::Answered);
            }
            let waits = head.expects_continue && rest.is_empty() && !self.was_told_to_continue;
            if waits {
                self.output.bytes().extend_from_slice(CONTINUE);
                self.was_told_to_continue = true;
            }
            self.expected = Some(head_len.saturating_add(body_len));
            // It keeps no place before all is here: a head can be repeated.
            self.purse.note_proof();
            return Ok(Step::Partial);
        };
        if needed != lane {
            return Ok(Step::Elsewhere(needed));
        }
        // One who gave up a PUT has this value removed everywhere: carried out late, it would stay.
        if is_ours && head.method == "PUT" && !is_connected(self.stream.socket(), self.is_blocking)
        {
            return Ok(Step::Deserted);
        }
        let answer = if is_nodes {
            Answer::Peer(shared.begin(&head, body, &mut self.purse.requester))
        } else {
            Answer::Application(shared.fall_back(&HttpRequest::new(&head, body, self.peer)))
        };
        self.consume(head_len + body_len);
        // Whoever has repeated what was recorded can prove no other request, or no body for that head.
        let is_refuted = self.has_proved()
            && matches!(&answer, Answer::Peer(Begin::Ready(response)) if response.is_unauthorized());
        if is_refuted {
            return Ok(self.take_answer(answer, framing.closing()));
        }
        self.note_proof();
        Ok(self.take_answer(answer, framing))
    }

    fn take_answer(&mut self, answer: Answer, framing: Framing) -> Step {
        match answer {
            Answer::Peer(Begin::Ready(response)) => self.push_response(response, framing),
            Answer::Peer(Begin::Pending(pending)) => {
                self.framing = framing;
                return Step::Pending(pending);
            }
            Answer::Application(Some(response)) => self.push_http_response(response, framing),
            Answer::Application(None) => self.push_http_response(
                HttpResponse::text(500, "the application failed\n"),
                framing.closing(),
            ),
        }
        Step::Answered
    }

    fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.expected = None;
        self.was_told_to_continue = false;
        self.has_room(); // for less than it had
    }

    /// Has it count as a peer's once it has proved to be one.
    fn note_proof(&mut self) {
        if !self.place.is_known() && self.purse.note_proof() {
            self.place.prove();
        }
    }

    /// Adds the answer that was waited for.
    pub(crate) fn answer(&mut self, response: Response, is_last: bool) {
        self.due = None;
        let framing = self.framing;
        let framing = if is_last { framing.closing() } else { framing };
        self.push_response(response, framing);
    }

    fn push_response(&mut self, response: Response, framing: Framing) {
        http1::write_head(
            self.output.bytes(),
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

    fn push_http_response(&mut self, response: HttpResponse, framing: Framing) {
        let headers = response.headers.iter();
        http1::write_head(
            self.output.bytes(),
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
        if framing.persistence == Persistence::Close {
            self.stage = Stage::Closing;
        }
    }

    /// Says what is wrong, and no more: what follows a malformed request cannot be understood.
    fn refuse(&mut self, refusal: Refusal, shared: &Shared) {
        let framing = Framing {
            persistence: Persistence::Close,
            sends_body: true,
        };
        match shared.overloaded(refusal) {
            Some(response) => self.push_response(response, framing),
            None => {
                let text = format!("{}\n", refusal.reason);
                self.push_http_response(HttpResponse::text(refusal.status, &text), framing);
            }
        }
        self.read_no_more();
    }

    /// Gives the node's answer to one whose body is still to come, and is not wanted.
    fn turn_down(&mut self, response: Response, framing: Framing) {
        self.push_response(response, framing.closing());
        self.read_no_more();
    }

    fn read_no_more(&mut self) {
        self.stage = Stage::Refusing;
        self.expected = None;
        self.due = None;
        self.input.clear();
        self.has_room(); // for less than it had
    }

    /// Whether there is something that the client has yet to read.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.output.is_empty() || self.stream.wants_write()
    }

    /// Sends what there is; tells whether that was all.
    fn flush(&mut self) -> Result<bool, Broken> {
        if !self.has_unsent() {
            return Ok(true);
        }
        let sent = match self.output.write_to(&mut self.stream) {
            Ok(true) => self.stream.flush().map(|()| true),
            sent => sent,
        };
        match sent {
            Ok(true) => {
                self.due.take_if(|(wait, _)| *wait == Wait::Write);
                self.purse.let_go();
                Ok(true)
            }
            Err(error) if !is_transient(&error) => Err(Broken),
            _ => {
                // From now on only when there is room.
                self.set_blocking(false)?;
                Ok(false)
            }
        }
    }

    /// Reads what is there; tells whether anything was. A worker that `lingers` waits a moment.
    fn read(&mut self, shared: &Shared, lingers: bool) -> Result<bool, Broken> {
        // One that blocks and is idle was called because there is something to read.
        self.set_blocking(self.is_idle() && (lingers || self.is_blocking))?;
        let capacity = self.input.next_capacity(self.expected.unwrap_or(0));
        if !self.can_have(self.kept_besides(capacity), shared) {
            self.refuse(OVERLOADED, shared);
            return Ok(true);
        }
        match self.stream.read(self.input.room(capacity)) {
            Ok(0) => Err(Broken),
            Ok(count) => {
                self.input.filled(count);
                Ok(true)
            }
            // Something has come, but no data: TLS has to say something first, or to hear more.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) if is_transient(&error) => Ok(false),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                self.turn_away(&error);
                Ok(true)
            }
            Err(_) => Err(Broken),
        }
    }

    /// Ends it, as TLS has failed; the client has been told why.
    fn turn_away(&mut self, error: &io::Error) {
        log::debug!(
            target: "groupcache", peer:% = self.peer, error:% = error;
            "a client was turned away by TLS"
        );
        self.stage = Stage::Refusing;
    }

    /// Closes, but not before the other side if that may still be sending.
    fn end(&mut self) -> Result<Next, Broken> {
        self.stream.send_close();
        let socket = self.stream.socket_mut();
        let mut discarded = match self.stage {
            Stage::Open | Stage::Closing if self.input.is_empty() => return Ok(Next::Close),
            Stage::Ended(discarded) => discarded,
            _ => {
                socket.shutdown(Shutdown::Write).map_err(|_| Broken)?;
                0
            }
        };
        self.input.clear();
        self.set_blocking(false)?;
        let mut room = [0; 4_096];
        while discarded < MAX_DISCARDED {
            match self.stream.socket_mut().read(&mut room) {
                Ok(0) => break,
                Ok(count) => discarded += count,
                Err(error) if is_transient(&error) => {
                    self.stage = Stage::Ended(discarded);
                    return Ok(Next::Wait(Wait::End));
                }
                Err(_) => return Err(Broken),
            }
        }
        Ok(Next::Close)
    }

    /// Until when it may wait for this, from the moment it first had to.
    pub(crate) fn due(&mut self, wait: Wait, settings: &Settings) -> Option<Instant> {
        match self.due {
            Some((waited, due)) if waited == wait => due,
            _ => {
                // There is always one: who waits without would never make room for others.
                let due = settings.time_for(wait);
                let due = due.map(|due| Instant::now() + due.min(MAX_WAIT));
                self.due = Some((wait, due));
                due
            }
        }
    }

    /// Gives memory back before a wait.
    pub(crate) fn rest(&mut self, wait: Wait) {
        if matches!(wait, Wait::Request | Wait::Answer) {
            self.due = None;
        }
        self.input.shrink();
        if self.output.is_empty() {
            self.output = Output::default();
        }
    }

    /// What it keeps, in bytes, if its input is as large as this.
    fn kept_besides(&self, input: usize) -> usize {
        input + self.output.capacity() + self.stream.kept()
    }

    /// Accounts for what it is to keep. Tells whether there is room for that, which is made where it is
    /// little.
    fn can_have(&mut self, kept: usize, shared: &Shared) -> bool {
        let pay = |connection: &mut Connection| connection.purse.pay(kept);
        pay(self) || kept <= LITTLE && shared.make_little_room(self, pay)
    }

    /// Whether it keeps little.
    pub(crate) fn keeps_little(&self) -> bool {
        let value = self.output.shared_value().map_or(0, |value| value.len());
        self.kept_besides(self.input.capacity())
            .saturating_add(value)
            <= LITTLE
    }

    /// Whether it has not proved who it is, and others can.
    pub(crate) fn is_stranger(&self) -> bool {
        self.purse.requester.is_stranger()
    }

    /// Whether it has proved who it is, at least by a head.
    pub(crate) fn has_proved(&self) -> bool {
        self.purse.requester.has_proved()
    }

    /// Accounts for what it keeps. Tells whether there is room for that.
    pub(crate) fn has_room(&mut self) -> bool {
        let kept = self.kept_besides(self.input.capacity());
        self.purse.pay_all(kept, self.output.shared_value())
    }

    /// Accounts for an answer that it is to send. Tells whether there is room for it.
    pub(crate) fn hold(&mut self, response: &Response) -> bool {
        // What has no value that others may have pays for itself.
        let value = response.shared_value();
        value.is_none_or(|value| self.purse.hold(value))
    }

    /// Takes what is beyond the bound, if nobody else does.
    pub(crate) fn exceed(&mut self) -> bool {
        self.purse.exceed()
    }

    pub(crate) fn network(&self) -> IpAddr {
        self.place.network()
    }

    /// What it is for, once that has been seen.
    pub(crate) fn kind(&self) -> Option<Which> {
        self.place.kind()
    }

    /// Whether it has proved that it is a peer's, where that can be proved.
    pub(crate) fn is_known(&self) -> bool {
        self.place.is_known()
    }

    pub(crate) fn register(
        &mut self,
        registry: &Registry,
        token: Token,
        interest: Interest,
    ) -> io::Result<()> {
        if self.is_registered {
            return registry.reregister(self.stream.socket_mut(), token, interest);
        }
        registry.register(self.stream.socket_mut(), token, interest)?;
        self.is_registered = true;
        Ok(())
    }

    pub(crate) fn deregister(&mut self, registry: &Registry) {
        if self.is_registered {
            // It can fail only if it was not registered.
            let _ = registry.deregister(self.stream.socket_mut());
            self.is_registered = false;
        }
    }

    /// A blocking socket waits a moment, as long as was set once; another one does not wait at all.
    fn set_blocking(&mut self, blocking: bool) -> Result<(), Broken> {
        if blocking == self.is_blocking {
            return Ok(());
        }
        let socket = SockRef::from(self.stream.socket());
        if blocking && !self.is_tuned {
            socket.set_read_timeout(Some(LINGER)).map_err(|_| Broken)?;
            socket
                .set_write_timeout(Some(WRITE_AT_ONCE))
                .map_err(|_| Broken)?;
            self.is_tuned = true;
        }
        socket.set_nonblocking(!blocking).map_err(|_| Broken)?;
        self.is_blocking = blocking;
        Ok(())
    }
}

impl Framing {
    fn of(head: &Head<'_>, shared: &Shared) -> Framing {
        let framing = Framing {
            persistence: head.persistence,
            sends_body: head.method != "HEAD",
        };
        if shared.is_draining() {
            return framing.closing();
        }
        framing
    }

    fn closing(self) -> Framing {
        Framing {
            persistence: Persistence::Close,
            ..self
        }
    }
}
