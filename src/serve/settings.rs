//! `Settings`: the settings of a server, and their defaults.

use std::time::Duration;

use super::message::{HttpRequest, HttpResponse};
use super::wait::Wait;
use crate::error::Error;
use crate::protocol::account::MAX_CHARGED;

/// Answers the requests that are not for the node.
pub(crate) type Fallback = dyn Fn(&HttpRequest<'_>) -> HttpResponse + Send + Sync;

/// More threads than this are a mistake, not a setting.
const MAX_WORKERS: usize = 1 << 14;

/// How long the server waits for the client's end of a connection after its own.
const END_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) workers: usize,
    pub(crate) fallback_workers: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_address: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) body_timeout: Duration,
    pub(crate) write_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    /// In bytes.
    pub(crate) max_fallback_body: usize,
    /// In bytes.
    pub(crate) max_buffered: usize,
    pub(crate) serves_peers: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            workers: 64,
            fallback_workers: 64,
            max_connections: 16_384,
            max_connections_per_address: 1_024,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            max_fallback_body: 1 << 20,
            max_buffered: MAX_CHARGED,
            serves_peers: true,
        }
    }
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (name, count) in [
            ("workers", self.workers),
            ("fallback_workers", self.fallback_workers),
            ("max_connections", self.max_connections),
            (
                "max_connections_per_address",
                self.max_connections_per_address,
            ),
        ] {
            if count == 0 {
                return Err(Error::setting(name, "with none, nothing is ever answered"));
            }
        }
        for (name, count) in [
            ("workers", self.workers),
            ("fallback_workers", self.fallback_workers),
        ] {
            if count > MAX_WORKERS {
                return Err(Error::setting(name, "no system runs so many threads"));
            }
        }
        Error::check_positive("head_timeout", self.head_timeout)?;
        Error::check_positive("body_timeout", self.body_timeout)?;
        Error::check_positive("write_timeout", self.write_timeout)?;
        Error::check_positive("idle_timeout", self.idle_timeout)
    }

    /// How long a connection may wait for this. `None` for a load: the requester sets that deadline.
    pub(crate) fn timeout_of(&self, wait: Wait) -> Option<Duration> {
        Some(match wait {
            Wait::Request => self.idle_timeout,
            Wait::Handshake | Wait::Head => self.head_timeout,
            Wait::Body => self.body_timeout,
            Wait::Write => self.write_timeout,
            Wait::Load => return None,
            Wait::End => END_TIMEOUT,
        })
    }
}
