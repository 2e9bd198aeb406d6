//! `Guard` without the feature `auth`: there is none.

use crate::protocol::{Request, Response};
use crate::transport::peer::{Call, Peer};

pub(crate) enum Guard {}

/// The body of a request, as far as it has arrived.
#[derive(Clone, Copy)]
#[allow(dead_code)] // No guard reads it.
pub(crate) enum Body<'a> {
    Here(&'a [u8]),
    Announced(u64),
}

impl Guard {
    pub(crate) fn sign(&self, _: &mut Call, _: &Peer, _: u64) {
        match *self {}
    }

    pub(crate) fn check(&self, _: &Request<'_>, _: Body<'_>) -> Result<Option<u64>, Response> {
        match *self {}
    }

    pub(crate) fn is_strict(&self) -> bool {
        match *self {}
    }

    pub(crate) fn refused(&self) -> u64 {
        match *self {}
    }
}
