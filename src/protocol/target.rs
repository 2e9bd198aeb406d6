//! `Target`: the paths of the protocol.
//!
//! A value has the path `/_groupcache/<group>/<key>`, both percent-encoded; `/_groupcache/<group>` is a
//! group, and `/_groupcache/` the node itself.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::dialect::Dialect;
use super::golang;
use crate::cache::key::{MAX_KEY_BYTES, MAX_NAME_BYTES};

const _: () = assert!(MAX_NAME_BYTES == 255, "as a message says");

/// The prefix of all paths of the protocol.
pub(crate) const BASE: &str = "/_groupcache/";

/// The characters that are percent-encoded. `.` is one of them, so that no proxy sees a dot segment, and so
/// is `+`, which Go takes for a space.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// The length of `text` once percent-encoded.
pub(crate) fn encoded_len(text: &str) -> usize {
    let kept = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
    text.bytes()
        .map(|byte| if kept(byte) { 1 } else { 3 })
        .sum()
}

/// Whether a key is too long to be sent to peers. Its percent-encoded length counts, in a path and in a
/// body.
pub(crate) fn is_too_long(key: &str) -> bool {
    // A short key needs no exact length: encoding makes it three times as long at most.
    key.len() > MAX_KEY_BYTES / 3 && encoded_len(key) > MAX_KEY_BYTES
}

/// The path of a key, or of a group.
pub(crate) fn target(group: &str, key: Option<&str>) -> String {
    let mut target = String::with_capacity(BASE.len() + group.len() + key.map_or(0, str::len) + 8);
    target.push_str(BASE);
    target.extend(utf8_percent_encode(group, ESCAPED));
    if let Some(key) = key {
        target.push('/');
        target.extend(utf8_percent_encode(key, ESCAPED));
    }
    target
}

/// A text as it is written in paths, and in the values of the header's pairs.
pub(crate) fn escaped(text: &str) -> impl std::fmt::Display {
    utf8_percent_encode(text, ESCAPED)
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    Key(Cow<'a, str>, Cow<'a, str>),
    Group(Cow<'a, str>),
    /// The node itself: any answer shows that it is alive.
    Node,
}

/// Why a path is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadTarget {
    /// It is not one of the protocol.
    Elsewhere,
    /// Its key is too long.
    TooLong,
    Malformed(&'static str),
}

/// Whether a path is one of the protocol.
pub(crate) fn is_ours(target: &str) -> bool {
    target.starts_with(BASE)
}

/// Reads a path as a peer of `dialect` writes it. It is split first and then decoded, so that an encoded `/`
/// stays part of its key.
pub(crate) fn parse_target(target: &str, dialect: Dialect) -> Result<Target<'_>, BadTarget> {
    let rest = target.strip_prefix(BASE).ok_or(BadTarget::Elsewhere)?;
    if rest.is_empty() {
        return Ok(Target::Node);
    }
    if rest
        .bytes()
        .any(|byte| matches!(byte, b'?' | b'#') || !matches!(byte, b' '..=b'~'))
    {
        return Err(BadTarget::Malformed(
            "?, #, control characters and non-ASCII characters must be percent-encoded",
        ));
    }
    let (group, key) = match rest.split_once('/') {
        Some((group, key)) => (group, Some(key)),
        None => (rest, None),
    };
    if group.is_empty() {
        return Err(BadTarget::Malformed("the path names no group"));
    }
    let group = unescape(group, dialect)?;
    if group.len() > MAX_NAME_BYTES {
        return Err(BadTarget::Malformed(
            "the name of the group is longer than 255 bytes",
        ));
    }
    let Some(key) = key else {
        return Ok(Target::Group(group));
    };
    // A key that is too long in any case is not decoded: at most three bytes become one.
    if key.len() > 3 * MAX_KEY_BYTES {
        return Err(BadTarget::TooLong);
    }
    let key = unescape(key, dialect)?;
    match is_too_long(&key) {
        true => Err(BadTarget::TooLong),
        false => Ok(Target::Key(group, key)),
    }
}

fn unescape(text: &str, dialect: Dialect) -> Result<Cow<'_, str>, BadTarget> {
    match dialect {
        Dialect::Native => decode(text),
        Dialect::Golang => Ok(Cow::Owned(decode(&golang::with_spaces(text))?.into_owned())),
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, BadTarget> {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let digits = rest.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(BadTarget::Malformed(
                "a % is not followed by two hexadecimal digits",
            ));
        }
        rest = &rest[at + 3..];
    }
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| BadTarget::Malformed("the decoded path is not UTF-8"))
}
