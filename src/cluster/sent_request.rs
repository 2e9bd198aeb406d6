//! `SentRequest`: a request that was sent, against which its answer is checked (P3).

use crate::cluster::remote::Remote;
use crate::protocol::{self, ProtocolError, Status};
use crate::transport::peer::{Call, Reply};

pub(super) struct SentRequest {
    is_get: bool,
    hash: u64,
}

impl SentRequest {
    pub(super) fn of(call: &Call) -> SentRequest {
        SentRequest {
            is_get: call.method == "GET",
            hash: protocol::hash_of_request(call.method, &call.target, &call.body),
        }
    }

    /// Checks that an answer belongs to this request, or does no harm if it does not. The answer of an
    /// older node does not name its request; but neither does that of another server at the address of
    /// the peer, so an answer without our header is not accepted.
    pub(super) fn check(
        &self,
        remote: &Remote,
        reply: &Reply,
        status: Status,
    ) -> Result<(), ProtocolError> {
        let named = reply.header.as_deref().map(protocol::request_of);
        if named == Some(Some(self.hash)) {
            remote.set_names_requests();
            return Ok(());
        }
        if named == Some(None) && !remote.names_requests() || self.is_harmless(status) {
            return Ok(());
        }
        Err(ProtocolError("the answer does not belong to the request"))
    }

    /// Whether an answer with this status to another request does no harm.
    fn is_harmless(&self, status: Status) -> bool {
        match status {
            // A value names its key, and without the group the value is loaded here.
            Status::Ok | Status::NoSuchGroup => self.is_get,
            Status::NotFound | Status::LoadFailed => false,
            // A server answers so to a body, before it has read more.
            Status::TooLarge => !self.is_get,
            _ => true,
        }
    }
}
