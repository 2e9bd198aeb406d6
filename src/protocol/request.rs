//! `Request`: what a peer asks, and what identifies it.

use super::dialect::Dialect;
use super::group_command::GroupCommand;
use super::hash::hash_of_parts;
use super::node_command::NodeCommand;
use super::target::{Target, parse_target};
use super::terms::{AUTH_HEADER, HEADER, Terms};

/// A request of a peer, as an engine hands it to a node.
///
/// Holds no socket and borrows what was read: see [`Node::begin`](crate::Node::begin).
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) terms: Terms,
    /// The protocol's header as it came.
    #[cfg_attr(not(feature = "auth"), allow(dead_code))]
    pub(crate) header: &'a str,
    /// What proves who asks.
    #[cfg_attr(not(feature = "auth"), allow(dead_code))]
    pub(crate) auth: &'a str,
    /// Whether a browser says that a page asks.
    pub(crate) has_origin: bool,
    /// Whether it says that the page is of another place, or shows what is there: an image, say.
    pub(crate) is_of_other_site: bool,
    /// By which name the node is asked.
    pub(crate) host: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request with this method (in capitals) and request target, exactly as it came: neither
    /// decoded nor normalised.
    #[must_use]
    pub fn new(method: &'a str, target: &'a str) -> Request<'a> {
        Request {
            method,
            target,
            terms: Terms::default(),
            header: "",
            auth: "",
            has_origin: false,
            is_of_other_site: false,
            host: None,
            body: &[],
        }
    }

    /// Adds a header. Those the protocol does not know are ignored, so all can be handed over, and all
    /// should: `Origin`, `Sec-Fetch-Site` and `Host` tell requests of browsers from those of peers.
    #[must_use]
    pub fn header(mut self, name: &str, value: &'a str) -> Request<'a> {
        // Lengths tell most names apart, which saves comparing them.
        match name.len() {
            4 if name.eq_ignore_ascii_case("Host") => self.host = Some(value),
            6 if name.eq_ignore_ascii_case("Origin") => self.has_origin = true,
            // An empty one says nothing, and nobody signs it.
            12 if name.eq_ignore_ascii_case(HEADER) && !value.trim().is_empty() => {
                self.terms = Terms::parse(value);
                self.header = value;
            }
            14 if name.eq_ignore_ascii_case("Sec-Fetch-Site") => {
                self.is_of_other_site = ["cross-site", "same-site"].contains(&value.trim());
            }
            17 if name.eq_ignore_ascii_case(AUTH_HEADER) => self.auth = value,
            _ => {}
        }
        self
    }

    /// Sets the body, read to its end.
    #[must_use]
    pub fn body(mut self, body: &'a [u8]) -> Request<'a> {
        self.body = body;
        self
    }

    pub(crate) fn hash(&self) -> u64 {
        hash_of_request(self.method, self.target, self.body)
    }
}

/// What an answer names as its request (P3).
pub(crate) fn hash_of_request(method: &str, target: &str, body: &[u8]) -> u64 {
    hash_of_parts(&[method.as_bytes(), target.as_bytes(), body])
}

/// Whether a `POST` on this path with this body only reads.
#[cfg_attr(not(feature = "auth"), allow(dead_code))]
pub(crate) fn changes_nothing(target: &str, body: &[u8]) -> bool {
    match parse_target(target, Dialect::Native) {
        Ok(Target::Group(_)) => matches!(
            GroupCommand::decode(body),
            Ok(GroupCommand::Get(_) | GroupCommand::Peek(_))
        ),
        Ok(Target::Node) => matches!(NodeCommand::decode(body), Ok(NodeCommand::Marks)),
        _ => false,
    }
}
