//! `Status`: what an answer means, and its name in the header.

use super::terms::pairs;

/// What an answer means; finer than an HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    NotFound,
    NoSuchGroup,
    /// The load is under way and takes longer than the requester waits: the requester tries again.
    Loading,
    /// The limit of threads, loads or memory is reached.
    Overloaded,
    /// The node leaves the ring: its answer to a probe.
    Leaving,
    /// The loader failed.
    LoadFailed,
    /// The value or the body is larger than allowed.
    TooLarge,
    KeyTooLong,
    BadRequest,
    /// A later change of the same sender has been carried out before this one.
    Superseded,
    /// The request does not prove that it comes from a peer.
    Unauthorized,
    /// The request is signed for another process than this one: the requester signs it again.
    StaleBoot,
    /// A page in a browser may have sent the request, and no rule allows it.
    Forbidden,
    /// The request is meant for another node.
    Misdirected,
    WrongMethod,
    /// The path is not one of the protocol.
    Elsewhere,
    /// The answer of a Go peer without a value, whose reason only its text tells.
    Foreign,
}

/// The statuses that are sent, with their HTTP codes and their names in the header.
pub(super) const STATUSES: [(Status, u16, &str); 17] = [
    (Status::Ok, 200, "ok"),
    (Status::Loading, 202, "loading"),
    (Status::BadRequest, 400, "bad-request"),
    (Status::Superseded, 400, "superseded"),
    (Status::Unauthorized, 401, "unauthorized"),
    (Status::StaleBoot, 401, "stale-boot"),
    (Status::Forbidden, 403, "forbidden"),
    (Status::NotFound, 404, "not-found"),
    (Status::NoSuchGroup, 404, "no-such-group"),
    (Status::Elsewhere, 404, "no-such-path"),
    (Status::WrongMethod, 405, "wrong-method"),
    (Status::TooLarge, 413, "too-large"),
    (Status::KeyTooLong, 414, "key-too-long"),
    (Status::Misdirected, 421, "misdirected"),
    (Status::LoadFailed, 500, "load-failed"),
    (Status::Overloaded, 503, "overloaded"),
    (Status::Leaving, 503, "leaving"),
];

impl Status {
    /// The HTTP status.
    pub(crate) fn code(self) -> u16 {
        self.row().1
    }

    /// Whether the node refuses the requester: it has carried out no part of the request.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(
            self,
            Status::Unauthorized | Status::StaleBoot | Status::Forbidden | Status::Misdirected
        )
    }

    pub(super) fn name(self) -> &'static str {
        self.row().2
    }

    pub(super) fn named(name: &str) -> Option<Status> {
        let row = STATUSES.iter().find(|row| row.2 == name)?;
        Some(row.0)
    }

    fn row(self) -> (Status, u16, &'static str) {
        let row = STATUSES.iter().find(|row| row.0 == self);
        row.copied().unwrap_or((self, 500, "unknown"))
    }

    /// The status of an answer: by its header if it is native, otherwise by its HTTP code. `None` if they
    /// contradict each other or the code is not one of the protocol.
    pub(crate) fn of(code: u16, header: Option<&str>) -> Option<Status> {
        let named = header.and_then(|header| {
            let (_, name) = pairs(header).find(|&(name, _)| name == "s")?;
            STATUSES.iter().find(|row| row.2 == name)
        });
        let status = named.or_else(|| STATUSES.iter().find(|row| row.1 == code));
        status.filter(|row| row.1 == code).map(|row| row.0)
    }
}
