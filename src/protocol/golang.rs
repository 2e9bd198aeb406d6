//! How the protocol of golang/groupcache differs from the native one.
//!
//! Its client escapes a key as a part of a query, so a space comes as `+`. Its server answers 200
//! with a value, and 400, 404 or 500 with a text. It has no other methods, headers or fields.

use super::{Answer, Item, Status};

/// Replaces the `+` that Go's `url.QueryEscape` writes for a space by its percent-encoding. A `+` of the
/// key itself comes as `%2B`.
pub(super) fn with_spaces(text: &str) -> String {
    text.replace('+', "%20")
}

impl Status {
    /// The status of the answer of a Go peer.
    pub(crate) fn of_golang(code: u16) -> Status {
        match code {
            200 => Status::Ok,
            404 => Status::NoSuchGroup,
            _ => Status::Foreign,
        }
    }
}

impl Item {
    /// The item as a Go peer could answer it.
    pub(crate) fn for_golang(self) -> Item {
        match self {
            // Go has no such fields.
            Item::Value(answer) => Item::Value(Answer {
                remaining: None,
                key_hash: None,
                ..answer
            }),
            // Go has no status for it: 404 means that there is no such group.
            Item::Status(Status::NotFound, text) => Item::Status(Status::LoadFailed, text),
            // A Go requester does not try again.
            Item::Status(Status::Loading, text) => Item::Status(Status::Overloaded, text),
            item => item,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Target, parse_target};
    use super::*;
    use crate::protocol::dialect::Dialect;

    #[test]
    fn the_paths_of_go_are_understood() {
        // As `url.QueryEscape` of Go 1.19 spells them.
        for (key, escaped) in [
            ("", ""),
            (" ", "+"),
            ("a b", "a+b"),
            ("a+b", "a%2Bb"),
            ("+ +", "%2B+%2B"),
            ("/", "%2F"),
            ("//", "%2F%2F"),
            ("a/../b", "a%2F..%2Fb"),
            (".", "."),
            ("..", ".."),
            ("%", "%25"),
            ("%2F", "%252F"),
            ("?", "%3F"),
            ("#", "%23"),
            ("a=b&c", "a%3Db%26c"),
            ("-_.~*", "-_.~%2A"),
            ("\u{1f600}", "%F0%9F%98%80"),
            ("\0\r\n", "%00%0D%0A"),
        ] {
            let path = format!("/_groupcache/a+group/{escaped}");
            let expected = Target::Key("a group".into(), key.into());
            assert_eq!(
                parse_target(&path, Dialect::Golang),
                Ok(expected),
                "{key:?}"
            );
        }
        let native = Target::Key("g".into(), "a+b".into());
        let path = "/_groupcache/g/a+b";
        assert_eq!(parse_target(path, Dialect::Native), Ok(native));
    }

    #[test]
    fn an_answer_without_a_value_is_no_failure_of_the_peer() {
        assert_eq!(Status::of_golang(200), Status::Ok);
        assert_eq!(Status::of_golang(404), Status::NoSuchGroup);
        for code in [202, 204, 301, 400, 500, 503] {
            assert_eq!(Status::of_golang(code), Status::Foreign, "{code}");
        }
    }
}
