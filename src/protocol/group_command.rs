//! `GroupCommand`: the body of a `POST` to a group.
//!
//! Written and read by hand, unlike other messages: the sender chooses how many keys there are, so they are
//! read without a copy, and only as many as are allowed.

use prost::encoding::{WireType, decode_varint, encode_key, encode_varint};

use super::field::{Field, KEY_TOO_LONG, NO_MESSAGE, ProtocolError, encode_bytes, read_field};
use super::target::is_too_long;
use super::terms::Stamp;

/// The most keys of a command.
pub(crate) const MAX_KEYS: usize = 1_024;

/// A requester fills a command with keys up to so many bytes; a single key may be longer.
pub(crate) const MAX_COMMAND: usize = 1 << 20;

const CLEAR: u32 = 1;
const REMOVE: u32 = 2;
const GET: u32 = 3;
const HITS: u32 = 4;
const OFFER: u32 = 5;
const PEEK: u32 = 8;
const STAMPS: u32 = 9;

/// The command of a `POST` to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupCommand<'a> {
    /// Answer the values of these keys. The number is the hits of the requester's mirrored copy since
    /// it was fetched.
    Get(Vec<(&'a str, u32)>),
    /// Remove these keys.
    Remove(Vec<&'a str>),
    /// Remove everything.
    Clear,
    /// Take over these keys: the sender has their values, and leaves the cluster or has the receiver for
    /// their deputy.
    Offer(Vec<&'a str>),
    /// Answer the values of these keys that are in main memory, each only if the change with this stamp
    /// has been carried out.
    Peek(Vec<(&'a str, Stamp)>),
}

impl<'a> GroupCommand<'a> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            GroupCommand::Get(keys) => {
                out.reserve(keys.iter().map(|(key, _)| key.len() + 8).sum());
                for (key, _) in keys {
                    encode_bytes(GET, key.as_bytes(), &mut out);
                }
                // Usually no key has a mirrored copy.
                if keys.iter().any(|&(_, hits)| hits > 0) {
                    let mut packed = Vec::with_capacity(keys.len());
                    for &(_, hits) in keys {
                        encode_varint(hits.into(), &mut packed);
                    }
                    encode_bytes(HITS, &packed, &mut out);
                }
            }
            GroupCommand::Remove(keys) => encode_keys(REMOVE, keys, &mut out),
            GroupCommand::Offer(keys) => encode_keys(OFFER, keys, &mut out),
            GroupCommand::Peek(keys) => {
                let mut packed = Vec::with_capacity(16 * keys.len());
                for (key, stamp) in keys {
                    encode_bytes(PEEK, key.as_bytes(), &mut out);
                    packed.extend_from_slice(&stamp.origin.to_le_bytes());
                    packed.extend_from_slice(&stamp.sequence.to_le_bytes());
                }
                encode_bytes(STAMPS, &packed, &mut out);
            }
            GroupCommand::Clear => {
                encode_key(CLEAR, WireType::Varint, &mut out);
                encode_varint(1, &mut out);
            }
        }
        out
    }

    pub(crate) fn decode(body: &'a [u8]) -> Result<GroupCommand<'a>, ProtocolError> {
        let (mut get, mut remove, mut offer) = (Vec::new(), Vec::new(), Vec::new());
        let mut clear = false;
        let mut hits = Vec::new();
        let (mut peek, mut stamps): (Vec<&str>, &[u8]) = (Vec::new(), &[]);
        let mut rest = body;
        while !rest.is_empty() {
            match read_field(&mut rest)? {
                Field::Bytes(GET, key) => get.push((text(key)?, 0)),
                Field::Bytes(REMOVE, key) => remove.push(text(key)?),
                Field::Bytes(OFFER, key) => offer.push(text(key)?),
                Field::Bytes(PEEK, key) => peek.push(text(key)?),
                Field::Bytes(HITS, packed) => read_numbers(packed, &mut hits)?,
                Field::Number(HITS, number) => hits.push(number),
                Field::Bytes(STAMPS, packed) => stamps = packed,
                Field::Number(CLEAR, number) => clear = number != 0,
                _ => {}
            }
            let lists = [get.len(), hits.len(), remove.len(), offer.len(), peek.len()];
            if lists.into_iter().any(|keys| keys > MAX_KEYS) {
                return Err(TOO_MANY);
            }
        }
        for ((_, hits_of_key), number) in get.iter_mut().zip(hits) {
            *hits_of_key = u32::try_from(number).unwrap_or(u32::MAX);
        }
        match (clear, remove, get, offer) {
            (true, ..) => Ok(GroupCommand::Clear),
            (_, keys, ..) if !keys.is_empty() => Ok(GroupCommand::Remove(keys)),
            (.., keys, _) if !keys.is_empty() => Ok(GroupCommand::Get(keys)),
            (.., keys) if !keys.is_empty() => Ok(GroupCommand::Offer(keys)),
            _ if !peek.is_empty() => with_stamps(peek, stamps),
            _ => Err(ProtocolError(
                "the body holds no command that this node knows",
            )),
        }
    }
}

fn with_stamps<'a>(keys: Vec<&'a str>, stamps: &[u8]) -> Result<GroupCommand<'a>, ProtocolError> {
    if stamps.len() != 16 * keys.len() {
        return Err(ProtocolError("the body needs one stamp for each key"));
    }
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .rev()
            .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    };
    let stamps = stamps.chunks_exact(16).map(|stamp| Stamp {
        origin: number(&stamp[..8]),
        sequence: number(&stamp[8..]),
    });
    Ok(GroupCommand::Peek(keys.into_iter().zip(stamps).collect()))
}

const _: () = assert!(MAX_KEYS == 1_024, "as the message says");

const TOO_MANY: ProtocolError = ProtocolError("the body names too many keys; send at most 1024");

/// The text of a key, which may be as long as in a path.
fn text(bytes: &[u8]) -> Result<&str, ProtocolError> {
    let key = std::str::from_utf8(bytes).map_err(|_| ProtocolError("a key is not UTF-8"))?;
    match is_too_long(key) {
        true => Err(KEY_TOO_LONG),
        false => Ok(key),
    }
}

/// Adds the numbers of a packed field, which may come in several parts, or one by one.
fn read_numbers(mut packed: &[u8], numbers: &mut Vec<u64>) -> Result<(), ProtocolError> {
    while !packed.is_empty() {
        if numbers.len() >= MAX_KEYS {
            return Err(TOO_MANY);
        }
        numbers.push(decode_varint(&mut packed).map_err(|_| NO_MESSAGE)?);
    }
    Ok(())
}

fn encode_keys(tag: u32, keys: &[&str], out: &mut Vec<u8>) {
    for key in keys {
        encode_bytes(tag, key.as_bytes(), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(origin: u64, sequence: u64) -> Stamp {
        Stamp { origin, sequence }
    }

    #[test]
    fn a_command_survives() {
        let long = "k".repeat(16_000);
        for command in [
            GroupCommand::Clear,
            GroupCommand::Remove(vec!["a", "", "\u{1f600}"]),
            GroupCommand::Offer(vec!["a", "b"]),
            GroupCommand::Get(vec![("a", 0), (&long, 0)]),
            GroupCommand::Get(vec![("a", 0), ("b", 7), ("", u32::MAX)]),
            GroupCommand::Peek(vec![("a", stamp(1, u64::MAX)), ("", stamp(u64::MAX, 2))]),
        ] {
            assert_eq!(GroupCommand::decode(&command.encode()), Ok(command));
        }
    }

    #[test]
    fn a_body_without_a_command_is_refused() {
        let too_many = GroupCommand::Remove(vec!["k"; MAX_KEYS + 1]).encode();
        let bodies: [&[u8]; 10] = [
            b"\x32\x01a",            // a key without its stamp
            b"\x42\x01a\x4a\x03abc", // half of one
            b"",
            b"\x0a",                                         // a field without its length
            b"\x1a\x05ab",                                   // longer than the body
            b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // longer than the address space
            b"\x12\x01\xff",                                 // no UTF-8
            b"\xa8\x06\x01",                                 // only unknown fields
            b"\x1a\x01a\x22\x01\x80",                        // a number without its end
            &too_many,
        ];
        for body in bodies {
            assert!(
                GroupCommand::decode(body).is_err(),
                "{}",
                body.escape_ascii()
            );
        }
        let most = GroupCommand::Get(vec![("k", 1); MAX_KEYS]);
        assert_eq!(GroupCommand::decode(&most.encode()), Ok(most));
    }

    #[test]
    fn hits_are_read_however_they_are_written() {
        let keys = b"\x1a\x01a\x1a\x01b\x1a\x01c";
        let hits: [&[u8]; 4] = [
            b"\x22\x02\x07\x08",
            b"\x20\x07\x20\x08",
            b"\x22\x01\x07\x20\x08",
            b"\x20\x07\x22\x00\x22\x03\x08\x00\x09",
        ];
        for hits in hits {
            let expected = GroupCommand::Get(vec![("a", 7), ("b", 8), ("c", 0)]);
            for body in [[keys, hits].concat(), [hits, keys].concat()] {
                let found = GroupCommand::decode(&body);
                assert_eq!(found, Ok(expected.clone()), "{}", hits.escape_ascii());
            }
        }
        let too_many = [&keys[..], &b"\x20\x01".repeat(MAX_KEYS + 1)].concat();
        assert!(GroupCommand::decode(&too_many).is_err());
    }

    #[test]
    fn a_key_is_as_long_as_it_would_be_in_a_path() {
        for key in ["!".repeat(5_333), "k".repeat(16_000)] {
            let longer = key.clone() + "k".repeat(2).as_str();
            for command in [
                GroupCommand::Remove(vec![&longer]),
                GroupCommand::Get(vec![("k", 0), (&longer, 0)]),
                GroupCommand::Offer(vec![&longer]),
                GroupCommand::Peek(vec![(&longer, stamp(1, 1))]),
            ] {
                assert_eq!(GroupCommand::decode(&command.encode()), Err(KEY_TOO_LONG));
            }
            let longest = GroupCommand::Offer(vec![&key]);
            assert_eq!(GroupCommand::decode(&longest.encode()), Ok(longest));
        }
    }

    #[test]
    fn fields_of_newer_nodes_are_ignored() {
        let mut body = GroupCommand::Get(vec![("a", 3)]).encode();
        body.extend_from_slice(b"\xa8\x06\x01\xb2\x06\x02xy\xbd\x06abcd");
        assert_eq!(
            GroupCommand::decode(&body),
            Ok(GroupCommand::Get(vec![("a", 3)]))
        );
    }
}
