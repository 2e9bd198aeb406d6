//! `Error`: what can go wrong, with messages that say what to do next.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::cache::key::MAX_KEY_BYTES;
use crate::runtime::sync::Arc;
use crate::runtime::user_code::Panicked;

/// What can go wrong.
///
/// Cheap to clone, as one failure may reach many waiters, and keeps its source.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no value for this key. An answer, not a failure.
    NotFound,
    /// The loader failed. No value is cached. The next get loads again, unless the loader has failed
    /// repeatedly and the error is still cached
    /// ([`error_ttl`](crate::GroupBuilder::error_ttl)).
    Load {
        /// The loader's own error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The loader panicked, or the weigher, or the clone of the value. Nothing of it is cached.
    Panicked {
        /// The message of the panic.
        message: Arc<str>,
    },
    /// The owner's loader failed, and this group returns its error instead of loading here.
    OwnerLoad {
        /// The owner.
        peer: Arc<str>,
        /// The text of the loader's error.
        message: Arc<str>,
    },
    /// A loader asked for the key it is loading, directly or through other loads.
    Cycle,
    /// The deadline came before the value. A load that had begun goes on, and its value will be cached.
    Deadline,
    /// All loader threads are busy, and none became free in time; or as many loads run as
    /// [`max_loads`](crate::GroupBuilder::max_loads) allows; or too many loads wait.
    Overloaded,
    /// The key is too long to travel to peers.
    KeyTooLong {
        /// Its length in bytes, percent-encoded.
        bytes: usize,
    },
    /// The value is too large to travel between peers.
    ValueTooLarge {
        /// Its length in bytes.
        bytes: usize,
        /// The largest allowed.
        max: usize,
    },
    /// The codec could not encode the value.
    Encode {
        /// The codec's own error.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// A change did not reach all peers. It holds here and on all peers that are not named.
    Unreached {
        /// The peers that were not reached, and why.
        peers: Arc<[Unreached]>,
    },
    /// The peer list does not contain this node.
    SelfMissing {
        /// The id of this node.
        id: Arc<str>,
    },
    /// A peer's address cannot be used.
    InvalidPeer {
        /// The address as given.
        peer: Arc<str>,
        /// What is wrong with it.
        reason: Arc<str>,
    },
    /// A setting cannot be used.
    InvalidSetting {
        /// Its name.
        setting: &'static str,
        /// What is wrong with it.
        reason: Arc<str>,
    },
    /// The node has a group of this name already.
    GroupExists {
        /// The name.
        name: Arc<str>,
    },
    /// The server cannot listen on an address.
    Bind {
        /// The address.
        address: Arc<str>,
        /// The error of the system.
        source: Arc<io::Error>,
    },
    /// A thread could not be started.
    Thread {
        /// The error of the system.
        source: Arc<io::Error>,
    },
    /// A certificate, a private key or the authorities cannot be used.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    Tls {
        /// The path of the file, or which of the three it is.
        what: Arc<str>,
        /// What is wrong with it.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
}

/// A peer that a change did not reach.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unreached {
    /// Its id.
    pub peer: String,
    /// Why it was not reached.
    pub reason: String,
    /// Whether it can never be reached, because it speaks a [`Dialect`](crate::Dialect) without such a
    /// change. Any other peer gets the change as a removal as soon as it answers.
    pub unsupported: bool,
}

impl Error {
    pub(crate) fn setting(setting: &'static str, reason: impl Into<Arc<str>>) -> Error {
        Error::InvalidSetting {
            setting,
            reason: reason.into(),
        }
    }

    pub(crate) fn peer(peer: &str, reason: impl Into<Arc<str>>) -> Error {
        Error::InvalidPeer {
            peer: peer.into(),
            reason: reason.into(),
        }
    }

    /// An error if a setting that must be positive is zero.
    pub(crate) fn check_positive(setting: &'static str, duration: Duration) -> Result<(), Error> {
        if duration.is_zero() {
            return Err(Error::setting(setting, "it is zero; set a longer time"));
        }
        Ok(())
    }
}

impl From<Panicked> for Error {
    fn from(panicked: Panicked) -> Error {
        Error::Panicked {
            message: panicked.0.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound => f.write_str("there is no value for this key"),
            Error::Load { source } => write!(f, "the loader failed: {source}"),
            Error::Panicked { message } => write!(f, "the loader panicked: {message}"),
            Error::OwnerLoad { peer, message } => {
                write!(f, "the loader of the owner {peer} failed: {message}")
            }
            Error::Cycle => f.write_str(
                "a loader asked for the key it is loading, directly or through other loads; \
                 break the cycle in the loader",
            ),
            Error::Deadline => f.write_str(
                "the deadline came before the value; a load under way goes on, so try again later",
            ),
            Error::Overloaded => f.write_str(
                "the limit of concurrent loads is reached; try again later, raise loader_threads or \
                 max_loads, or find out why loads take so long",
            ),
            Error::KeyTooLong { bytes } => write!(
                f,
                "the key has {bytes} bytes when percent-encoded, more than {MAX_KEY_BYTES}; \
                 use a shorter one, such as a hash of it"
            ),
            Error::ValueTooLarge { bytes, max } => write!(
                f,
                "the value has {bytes} bytes, more than the {max} that can be sent between peers; \
                 raise max_value or split the value"
            ),
            Error::Encode { source } => write!(f, "the codec cannot encode the value: {source}"),
            Error::Unreached { peers } => {
                f.write_str(
                    "it holds here and on all peers but these, which are told when they answer again, unless they \
                     are unsupported:",
                )?;
                for unreached in peers.iter() {
                    write!(f, " {} ({})", unreached.peer, unreached.reason)?;
                }
                Ok(())
            }
            Error::SelfMissing { id } => write!(
                f,
                "the peer list does not contain this node, {id}; add it in exactly this spelling, or \
                 build the node with allow_absent(true) if it is to own nothing"
            ),
            Error::InvalidPeer { peer, reason } => {
                write!(f, "the peer {peer:?} cannot be used: {reason}")
            }
            Error::InvalidSetting { setting, reason } => {
                write!(f, "the setting {setting} cannot be used: {reason}")
            }
            Error::GroupExists { name } => write!(
                f,
                "the node has a group {name:?} already; use its handle, choose another name, or \
                 remove the group first"
            ),
            Error::Bind { address, source } => write!(
                f,
                "cannot listen on {address}: {source}; choose a free port (0 picks one) or stop \
                 what uses it"
            ),
            Error::Thread { source } => write!(
                f,
                "cannot start a thread: {source}; raise the limit on threads or memory"
            ),
            #[cfg(feature = "tls")]
            Error::Tls { what, source } => write!(f, "{what} cannot be used for TLS: {source}"),
        }
    }
}

impl Error {
    /// `Ok` if this is [`Error::Unreached`], else the error itself.
    ///
    /// For callers of [`remove`](crate::Group::remove), [`set`](crate::Group::set) and their like to whom it
    /// is enough that the change holds here, and that the peers that were not reached are told once they
    /// answer again: until then they may serve old values.
    ///
    /// ```
    /// # use groupcache_sync::{Error, Group, Node, Value};
    /// # let node = Node::new("http://127.0.0.1:7000")?;
    /// # let users: Group = node.group_builder("users", 1 << 20).build(|key| Ok(Value::from(key)))?;
    /// users.remove("42").or_else(Error::accept_unreached)?;
    /// # Ok::<(), groupcache_sync::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The error, if it is another one.
    pub fn accept_unreached(self) -> Result<(), Error> {
        match self {
            Error::Unreached { .. } => Ok(()),
            error => Err(error),
        }
    }

    /// The error that names the peers that were not reached, if there are any.
    pub(crate) fn unless_all_reached(mut unreached: Vec<Unreached>) -> Result<(), Error> {
        unreached.sort_by(|a, b| a.peer.cmp(&b.peer));
        unreached.dedup_by(|a, b| a.peer == b.peer);
        if unreached.is_empty() {
            return Ok(());
        }
        Err(Error::Unreached {
            peers: unreached.into(),
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Load { source } | Error::Encode { source } => Some(&**source),
            #[cfg(feature = "tls")]
            Error::Tls { source, .. } => Some(&**source),
            Error::Bind { source, .. } | Error::Thread { source } => Some(&**source),
            _ => None,
        }
    }
}

/// For [`Peer`](crate::Peer)s, whose conversion to themselves cannot fail.
impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Error {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_small_and_travels_between_threads() {
        fn travels<T: Clone + Send + Sync + 'static>() {}
        travels::<Error>();
        assert!(size_of::<Error>() <= 40, "{}", size_of::<Error>());
    }

    #[test]
    fn the_source_is_kept() {
        let source: Box<dyn std::error::Error + Send + Sync> = "disk on fire".into();
        let error = Error::Load {
            source: Arc::from(source),
        };
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("disk on fire"));
    }
}
