//! `Wait`: what a connection waits for.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The client's part of the TLS handshake.
    Handshake,
    /// The first byte of a request.
    Request,
    /// The rest of a head.
    Head,
    /// The rest of a body.
    Body,
    /// Room in the socket for the rest of an answer.
    Write,
    /// A load.
    Load,
    /// The client's end of the connection, after the server's.
    End,
}

impl Wait {
    /// Whether nothing is lost if the connection is closed.
    pub(crate) fn is_idle(self) -> bool {
        matches!(self, Wait::Handshake | Wait::Request | Wait::End)
    }

    /// Whether no worker has begun to answer the request.
    pub(crate) fn is_unanswered(self) -> bool {
        self.is_idle() || matches!(self, Wait::Head | Wait::Body)
    }
}
