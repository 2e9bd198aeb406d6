//! `groupcache_status`: how a call ended, in numbers that never change.

use std::fmt;

use crate::error::Error;

/// How a call ended. `GROUPCACHE_STATUS_OK` is 0, and the numbers never change: new ones may be
/// added, so treat one that you do not know as a failure.
#[repr(i32)]
#[allow(dead_code, reason = "the numbers are the same in every build")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum groupcache_status {
    /// It did what it should.
    Ok = 0,
    /// There is no value for this key. An answer, not a failure.
    NotFound = 1,
    /// The loader failed. Nothing is cached: the next get loads again.
    Load = 2,
    /// The loader panicked.
    Panicked = 3,
    /// The loader of the key's owner failed, and this group hands its error on.
    OwnerLoad = 4,
    /// A loader asked for the key it is loading, directly or through other loads.
    Cycle = 5,
    /// The time was over first. A load that had begun goes on, and its value will be cached.
    Deadline = 6,
    /// As many loads are under way as may be.
    Overloaded = 7,
    /// The key is too long to travel to peers.
    KeyTooLong = 8,
    /// The value is too large to travel between peers.
    ValueTooLarge = 9,
    /// The value could not be encoded.
    Encode = 10,
    /// A change did not reach all peers: the text names them. It holds here and on all others.
    Unreached = 11,
    /// The peer list lacks this node.
    SelfMissing = 12,
    /// The address of a peer cannot be used.
    InvalidPeer = 13,
    /// A setting cannot be used.
    InvalidSetting = 14,
    /// The node has a group of this name already.
    GroupExists = 15,
    /// An address cannot be listened on.
    Bind = 16,
    /// A thread could not be started.
    Thread = 17,
    /// A certificate, a key or the authorities cannot be used.
    Tls = 18,
    /// An argument is `NULL` that must not be.
    NullPointer = 100,
    /// A text is not UTF-8.
    InvalidUtf8 = 101,
    /// An argument makes no sense: the text says which.
    InvalidArgument = 102,
    /// The handle belongs to the process that this one was forked from, or that had a node when it
    /// forked. A node does not survive `fork`: fork first, then make one in each process.
    Forked = 103,
    /// The library panicked, which is a bug of it. The call has not done what it should; nothing
    /// else is harmed.
    Panic = 104,
}

/// Why a call failed.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    Cache(Error),
    /// The name of the argument.
    Null(&'static str),
    /// The name of the argument.
    NotUtf8(&'static str),
    Argument(String),
    Forked,
    /// The message of the panic.
    Panic(String),
}

impl Failure {
    pub(super) fn status(&self) -> groupcache_status {
        match self {
            Failure::Cache(error) => status_of(error),
            Failure::Null(_) => groupcache_status::NullPointer,
            Failure::NotUtf8(_) => groupcache_status::InvalidUtf8,
            Failure::Argument(_) => groupcache_status::InvalidArgument,
            Failure::Forked => groupcache_status::Forked,
            Failure::Panic(_) => groupcache_status::Panic,
        }
    }
}

fn status_of(error: &Error) -> groupcache_status {
    match error {
        Error::NotFound => groupcache_status::NotFound,
        Error::Load { .. } => groupcache_status::Load,
        Error::Panicked { .. } => groupcache_status::Panicked,
        Error::OwnerLoad { .. } => groupcache_status::OwnerLoad,
        Error::Cycle => groupcache_status::Cycle,
        Error::Deadline => groupcache_status::Deadline,
        Error::Overloaded => groupcache_status::Overloaded,
        Error::KeyTooLong { .. } => groupcache_status::KeyTooLong,
        Error::ValueTooLarge { .. } => groupcache_status::ValueTooLarge,
        Error::Encode { .. } => groupcache_status::Encode,
        Error::Unreached { .. } => groupcache_status::Unreached,
        Error::SelfMissing { .. } => groupcache_status::SelfMissing,
        Error::InvalidPeer { .. } => groupcache_status::InvalidPeer,
        Error::InvalidSetting { .. } => groupcache_status::InvalidSetting,
        Error::GroupExists { .. } => groupcache_status::GroupExists,
        Error::Bind { .. } => groupcache_status::Bind,
        Error::Thread { .. } => groupcache_status::Thread,
        #[cfg(feature = "tls")]
        Error::Tls { .. } => groupcache_status::Tls,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Cache(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Cache(error) => error.fmt(f),
            Failure::Null(argument) => write!(f, "the argument {argument} is NULL"),
            Failure::NotUtf8(argument) => write!(f, "the argument {argument} is not UTF-8"),
            Failure::Argument(reason) => f.write_str(reason),
            Failure::Forked => f.write_str(
                "the process that this one was forked from had a node, which does not survive that; \
                 fork first, and then make a node in each process that needs one",
            ),
            Failure::Panic(message) => write!(f, "the library panicked, a bug of it: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::sync::Arc;

    /// Programs that were compiled years ago know these numbers.
    #[test]
    fn the_numbers_are_fixed_for_ever() {
        use groupcache_status as S;
        let numbers = [
            (S::Ok, 0),
            (S::NotFound, 1),
            (S::Load, 2),
            (S::Panicked, 3),
            (S::OwnerLoad, 4),
            (S::Cycle, 5),
            (S::Deadline, 6),
            (S::Overloaded, 7),
            (S::KeyTooLong, 8),
            (S::ValueTooLarge, 9),
            (S::Encode, 10),
            (S::Unreached, 11),
            (S::SelfMissing, 12),
            (S::InvalidPeer, 13),
            (S::InvalidSetting, 14),
            (S::GroupExists, 15),
            (S::Bind, 16),
            (S::Thread, 17),
            (S::Tls, 18),
            (S::NullPointer, 100),
            (S::InvalidUtf8, 101),
            (S::InvalidArgument, 102),
            (S::Forked, 103),
            (S::Panic, 104),
        ];
        for (status, number) in numbers {
            assert_eq!(status as i32, number, "{status:?}");
        }
    }

    #[test]
    fn each_error_has_its_number() {
        let source = || Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("x"));
        let io = || Arc::new(std::io::Error::other("x"));
        let x = || Arc::<str>::from("x");
        let errors = [
            (Error::NotFound, 1),
            (Error::Load { source: source() }, 2),
            (Error::Panicked { message: x() }, 3),
            (
                Error::OwnerLoad {
                    peer: x(),
                    message: x(),
                },
                4,
            ),
            (Error::Cycle, 5),
            (Error::Deadline, 6),
            (Error::Overloaded, 7),
            (Error::KeyTooLong { bytes: 1 }, 8),
            (Error::ValueTooLarge { bytes: 1, max: 0 }, 9),
            (Error::Encode { source: source() }, 10),
            (
                Error::Unreached {
                    peers: Arc::new([]),
                },
                11,
            ),
            (Error::SelfMissing { id: x() }, 12),
            (Error::peer("x", "x"), 13),
            (Error::setting("x", "x"), 14),
            (Error::GroupExists { name: x() }, 15),
            (
                Error::Bind {
                    address: x(),
                    source: io(),
                },
                16,
            ),
            (Error::Thread { source: io() }, 17),
            #[cfg(feature = "tls")]
            (
                Error::Tls {
                    what: x(),
                    source: source(),
                },
                18,
            ),
        ];
        for (error, number) in errors {
            assert_eq!(
                Failure::from(error.clone()).status() as i32,
                number,
                "{error}"
            );
        }
    }
}
