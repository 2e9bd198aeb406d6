//! `Status`: how an answer is to be understood, and how it is named in the header.

use super::terms::pairs;

/// How an answer is to be understood; finer than an HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    NotFound,
    NoSuchGroup,
    /// The load is under way and takes longer than the requester's patience: ask again.
    Loading,
    /// No thread was free to load.
    Overloaded,
    /// The node leaves the ring: what it says when asked whether it is there.
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
    /// It does, and was signed for another process than this one: it is to be signed again.
    StaleBoot,
    /// A page in a browser may have sent it, which nobody has allowed.
    Forbidden,
    /// It is meant for another node.
    Misdirected,
    WrongMethod,
    /// Not a path of the protocol.
    Elsewhere,
    /// It comes from a Go peer and is no value: what it means only people can tell.
    Foreign,
}

/// Those that are sent.
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

    /// Whether one is not let in: nothing was done of what was asked, nor would it be.
    pub(crate) fn sends_away(self) -> bool {
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

    /// What an answer says, going by its header if it is native and by its code if not.
    pub(crate) fn of(code: u16, header: Option<&str>) -> Option<Status> {
        let named = header.and_then(|header| {
            let (_, name) = pairs(header).find(|&(name, _)| name == "s")?;
            STATUSES.iter().find(|row| row.2 == name)
        });
        let status = named.or_else(|| STATUSES.iter().find(|row| row.1 == code));
        status.filter(|row| row.1 == code).map(|row| row.0)
    }
}
