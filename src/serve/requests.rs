//! How a worker serves a connection: one request after the other, each read, answered and written as far
//! as the socket allows at once.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;

use super::buffer::is_transient;
use super::connection::{Broken, Connection, Framing, Stage};
use super::connection_limit::Permit;
use super::eviction::{Candidates, Rank};
use super::message::{HttpRequest, HttpResponse};
use super::shared::Shared;
use super::traffic::Traffic;
use super::wait::Wait;
use crate::group::Pending;
use crate::node::Begin;
use crate::protocol::Response;
use crate::protocol::account::LITTLE;
use crate::protocol::http1::{self, CONTINUE, Persistence, Refusal};

/// After so many requests in a row a connection is queued again if others wait for a worker.
const REQUESTS_PER_TURN: usize = 128;

/// How many bytes are read and discarded after the last answer, so that the client gets to read it.
const MAX_DISCARDED: usize = 1 << 20;

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

/// What a connection needs after a worker has served it.
pub(crate) enum Next {
    /// To be parked.
    Wait(Wait),
    /// To be parked until this load ends.
    Load(Pending),
    /// To be queued for this worker pool.
    Queue(Traffic),
    Close,
}

/// What became of the next request.
enum Step {
    /// It is not complete.
    Incomplete,
    Answered,
    /// It waits for a load.
    Pending(Pending),
    /// It is for the other worker pool.
    OtherPool(Traffic),
    /// The client has left, and the request must not be carried out.
    Abandoned,
}

enum Answer {
    Node(Begin),
    /// `None`: the fallback panicked.
    Application(Option<HttpResponse>),
}

/// Notes what a connection is for. Where the connections for that traffic are at their limit, one of them
/// that is idle is closed. Returns whether there is room.
fn assign(permit: &mut Permit, traffic: Traffic, shared: &Shared) -> bool {
    permit.assign(traffic) || {
        let candidates = Candidates::UnansweredFor(traffic);
        drop(shared.parked.evict(candidates, Rank::BusyPeer));
        permit.assign(traffic)
    }
}

impl Connection {
    /// Serves requests for as long as there is something to do at once. `pool` is the calling worker's.
    pub(crate) fn run(&mut self, shared: &Shared, pool: Traffic) -> Next {
        match self.serve(shared, pool) {
            Ok(next) => next,
            Err(Broken) => Next::Close,
        }
    }

    fn serve(&mut self, shared: &Shared, pool: Traffic) -> Result<Next, Broken> {
        // The connection may have waited for an answer, or for its client to read one.
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
            let is_turn_over = answered >= REQUESTS_PER_TURN && !self.input.is_empty();
            if is_turn_over && shared.workers(pool).is_saturated() {
                return self.flush_before(Next::Queue(pool));
            }
            match self.step(shared, pool) {
                Ok(Step::Answered) => {
                    answered += 1;
                    self.due = None;
                }
                Ok(Step::Pending(pending)) => {
                    // Earlier answers are sent now. What the client does not read yet is sent later.
                    self.flush()?;
                    return Ok(Next::Load(pending));
                }
                Ok(Step::Abandoned) => {
                    self.flush()?; // the earlier answers
                    return Ok(Next::Close);
                }
                Ok(Step::OtherPool(other)) => return self.flush_before(Next::Queue(other)),
                Ok(Step::Incomplete) => {
                    if !self.flush()? {
                        return Ok(Next::Wait(Wait::Write));
                    }
                    if answered > 0 && self.is_idle() && shared.is_draining() {
                        return Ok(Next::Wait(Wait::Request));
                    }
                    if answered > 0 && self.is_idle() && shared.workers(pool).is_saturated() {
                        // Queued behind all others: by its turn a busy client has sent the next request,
                        // and the listener need not watch it. Otherwise it is parked then.
                        shared.parked.deregister(self);
                        self.set_blocking(false)?;
                        return Ok(Next::Queue(Traffic::Peers));
                    }
                    // A connection that is served for long must not wake the listener all the time. One
                    // that is parked again soon stays registered, which saves two system calls.
                    if reads > 0 {
                        shared.parked.deregister(self);
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

    /// Sends the output before `next`. Where the client does not read, the connection waits for that
    /// instead.
    fn flush_before(&mut self, next: Next) -> Result<Next, Broken> {
        Ok(if self.flush()? {
            next
        } else {
            Next::Wait(Wait::Write)
        })
    }

    /// Answers the next request if it is complete.
    fn step(&mut self, shared: &Shared, pool: Traffic) -> Result<Step, Refusal> {
        let has_less_than = |length| self.input.len() < length;
        if self.input.is_empty() || self.expected.is_some_and(has_less_than) {
            return Ok(Step::Incomplete);
        }
        let Some(head_len) = self.input.head_len()? else {
            return Ok(Step::Incomplete);
        };
        let (head, rest) = self.input.unread().split_at(head_len);
        let mut fields = http1::field_room();
        let head = http1::parse(head, &mut fields)?;
        let is_for_node = shared.is_for_node(head.target);
        let body_len = usize::try_from(head.body_len).unwrap_or(usize::MAX);
        if body_len > shared.max_body(is_for_node) {
            return Err(TOO_LARGE);
        }
        let framing = match shared.is_draining() {
            true => Framing::of(&head).closing(),
            false => Framing::of(&head),
        };
        let traffic = shared.traffic_of(is_for_node);
        if shared.has_both_kinds() && !assign(&mut self.permit, traffic, shared) {
            return Err(TOO_MANY);
        }
        let requester = &mut self.charge.requester;
        if shared.admits_peers_only() {
            requester.prove();
        }
        let is_answered_by_node = is_for_node || shared.fallback.is_none();
        let Some(body) = rest.get(..body_len) else {
            // The body of a request that will be refused is not read, and gets no memory.
            let refusal = is_answered_by_node.then(|| shared.refuse_head(&head, requester));
            let wants_continue = head.expects_continue && rest.is_empty();
            let length = head_len.saturating_add(body_len);
            return Ok(self.begin_body(refusal.flatten(), framing, wants_continue, length));
        };
        if traffic != pool {
            return Ok(Step::OtherPool(traffic));
        }
        // A client that gives up a PUT removes the value everywhere. A PUT that is carried out after
        // that would leave its value.
        if is_for_node && head.method == "PUT" && !self.socket.is_connected() {
            return Ok(Step::Abandoned);
        }
        let answer = if is_answered_by_node {
            Answer::Node(shared.begin(&head, body, requester))
        } else {
            Answer::Application(shared.fall_back(&HttpRequest::new(&head, body, self.client)))
        };
        self.consume(head_len + body_len);
        // A client that repeats a recorded head can sign no other request, and no body for that head.
        let is_refuted = self.has_authenticated_head()
            && matches!(&answer, Answer::Node(Begin::Ready(response)) if response.is_unauthorized());
        if is_refuted {
            return Ok(self.take_answer(answer, framing.closing()));
        }
        self.note_authentication();
        Ok(self.take_answer(answer, framing))
    }

    /// Refuses a request of `length` bytes whose body is incomplete, or prepares to read the body.
    fn begin_body(
        &mut self,
        refusal: Option<Response>,
        framing: Framing,
        wants_continue: bool,
        length: usize,
    ) -> Step {
        if let Some(response) = refusal {
            self.push_response(response, framing.closing());
            self.stop_reading();
            return Step::Answered;
        }
        if wants_continue && !self.has_sent_continue {
            self.output.buffer().extend_from_slice(CONTINUE);
            self.has_sent_continue = true;
        }
        self.expected = Some(length);
        // Only the charge counts as a peer's yet, not the permit: a head can be recorded and repeated.
        self.charge.note_authentication();
        Step::Incomplete
    }

    fn take_answer(&mut self, answer: Answer, framing: Framing) -> Step {
        match answer {
            Answer::Node(Begin::Ready(response)) => self.push_response(response, framing),
            Answer::Node(Begin::Pending(pending)) => {
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

    /// Answers with the refusal and reads no more: what follows a malformed request cannot be understood.
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
        self.stop_reading();
    }

    /// Reads what the socket has. Returns whether anything changed. `may_wait`: where nothing has come, the
    /// worker waits a moment.
    fn read(&mut self, shared: &Shared, may_wait: bool) -> Result<bool, Broken> {
        // A blocking connection that is idle was queued because there is something to read.
        self.set_blocking(self.is_idle() && (may_wait || self.socket.is_blocking()))?;
        let capacity = self.input.next_capacity(self.expected.unwrap_or(0));
        if !self.charge_input(capacity, shared) {
            self.refuse(OVERLOADED, shared);
            return Ok(true);
        }
        match self.socket.stream.read(self.input.free_part(capacity)) {
            Ok(0) => Err(Broken),
            Ok(count) => {
                self.input.note_read(count);
                Ok(true)
            }
            // Something has come, but no data: TLS has to write first, or to read more.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) if is_transient(&error) => Ok(false),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                self.refuse_tls(&error);
                Ok(true)
            }
            Err(_) => Err(Broken),
        }
    }

    /// Charges for an input buffer of this capacity. Returns whether there is room, which is made by
    /// evictions where the connection keeps little.
    fn charge_input(&mut self, capacity: usize, shared: &Shared) -> bool {
        let kept = self.kept_with_input(capacity);
        let charge = |connection: &mut Connection| connection.charge.charge_buffers(kept);
        charge(self) || kept <= LITTLE && shared.evict_for_little(self, charge)
    }

    /// Ends the connection after TLS has failed. The alert that tells the client why is still to be sent.
    fn refuse_tls(&mut self, error: &io::Error) {
        log::debug!(
            target: "groupcache", peer:% = self.client, error:% = error;
            "a client was refused by TLS"
        );
        self.stage = Stage::Refusing;
    }

    /// Closes the connection, but not before the client if that may still be sending.
    fn end(&mut self) -> Result<Next, Broken> {
        debug_assert!(
            self.stage != Stage::Open,
            "a connection ends after its last answer"
        );
        self.socket.stream.send_close();
        let socket = self.socket.stream.socket_mut();
        let mut discarded = match self.stage {
            Stage::Closing if self.input.is_empty() => return Ok(Next::Close),
            Stage::Ended(discarded) => discarded,
            _ => {
                socket.shutdown(Shutdown::Write).map_err(|_| Broken)?;
                0
            }
        };
        self.input.clear();
        self.set_blocking(false)?;
        let mut bytes = [0; 4_096];
        while discarded < MAX_DISCARDED {
            match self.socket.stream.socket_mut().read(&mut bytes) {
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
}
