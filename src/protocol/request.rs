//! `Request`: the request of a peer, and the hash that identifies it.

use super::dialect::Dialect;
use super::group_command::GroupCommand;
use super::hash::hash_of_parts;
use super::node_command::NodeCommand;
use super::target::{Target, parse_target};
use super::terms::{AUTH_HEADER, HEADER, Terms};

/// A request of a peer, as an HTTP engine hands it to a node.
///
/// It holds no socket and borrows what the engine has read: see [`Node::begin`](crate::Node::begin).
#[derive(Clone, Debug)]
pub struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) terms: Terms,
    /// The value of the protocol's header as it came.
    #[cfg_attr(not(feature = "auth"), allow(dead_code))]
    pub(crate) header: &'a str,
    /// The value of the header that proves who sends the request.
    #[cfg_attr(not(feature = "auth"), allow(dead_code))]
    pub(crate) auth: &'a str,
    /// Whether there is an `Origin` header: a page in a browser sends the request.
    pub(crate) has_origin: bool,
    /// Whether a browser tells by `Sec-Fetch-Site` that a page of another origin sends the request, or
    /// embeds its answer: an image, say.
    pub(crate) is_of_other_site: bool,
    /// The value of the `Host` header.
    pub(crate) host: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request with this method (in capitals) and this request target, exactly as it came: neither
    /// decoded nor normalized.
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

    /// Adds a header. Headers that the protocol does not use are ignored, so an engine can add all, and
    /// should: `Origin`, `Sec-Fetch-Site` and `Host` distinguish requests of browsers from those of peers.
    #[must_use]
    pub fn header(mut self, name: &str, value: &'a str) -> Request<'a> {
        // Lengths tell most names apart, which saves comparing them.
        match name.len() {
            4 if name.eq_ignore_ascii_case("Host") => self.host = Some(value),
            6 if name.eq_ignore_ascii_case("Origin") => self.has_origin = true,
            // An empty value tells nothing, and no peer signs it.
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

    /// Sets the body, which the engine has read to its end.
    #[must_use]
    pub fn body(mut self, body: &'a [u8]) -> Request<'a> {
        self.body = body;
        self
    }

    /// The hash by which its answer names it (P3).
    pub(crate) fn hash(&self) -> u64 {
        hash_of_request(self.method, self.target, self.body)
    }
}

/// The hash by which an answer names its request (P3).
pub(crate) fn hash_of_request(method: &str, target: &str, body: &[u8]) -> u64 {
    hash_of_parts(&[method.as_bytes(), target.as_bytes(), body])
}

/// Whether a `POST` with this path and this body is a read.
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
