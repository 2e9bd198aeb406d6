//! Commands: what a `POST` asks of a whole group, and the answer to a batch.
//!
//! Written and read by hand, unlike the other messages: the other side chooses how many keys there
//! are, so they are read without a copy, and only as many as are allowed.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{
    WireType, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
};

use super::answer::{Answer, GetResponse};
use super::field::{Field, KEY_TOO_LONG, NO_MESSAGE, ProtocolError, encode_bytes, read_field};
use super::status::Status;
use super::target::is_too_long;
use super::terms::Stamp;

/// The most keys of one command.
pub(crate) const MAX_KEYS: usize = 1_024;

/// How many bytes a command may have for the sake of its keys; one key alone may be longer.
pub(crate) const MAX_COMMAND: usize = 1 << 20;

const CLEAR: u32 = 1;
const REMOVE: u32 = 2;
const GET: u32 = 3;
const HITS: u32 = 4;
const OFFER: u32 = 5;
const PEEK: u32 = 8;
const STAMPS: u32 = 9;

/// What a `POST` asks of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GroupCommand<'a> {
    /// Answer the values of these keys, whose mirrored copies had so many hits since they were
    /// last fetched.
    Get(Vec<(&'a str, u32)>),
    /// Remove these keys.
    Remove(Vec<&'a str>),
    /// Remove everything.
    Clear,
    /// Take over these keys, whose values the sender has, which leaves.
    Offer(Vec<&'a str>),
    /// Answer what is in main memory of these keys, of each if this removal has been carried out.
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
                // Most keys never had a mirrored copy.
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
        return Err(ProtocolError("there is not one stamp for each key"));
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

const TOO_MANY: ProtocolError = ProtocolError("the body names too many keys");

/// A key, as long as it might be in a path.
fn text(bytes: &[u8]) -> Result<&str, ProtocolError> {
    let key = std::str::from_utf8(bytes).map_err(|_| ProtocolError("a key is not UTF-8"))?;
    match is_too_long(key) {
        true => Err(KEY_TOO_LONG),
        false => Ok(key),
    }
}

/// Adds the numbers of a field that is packed: it may come in parts, and number by number.
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

/// What there is to say about one key of a batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Value(Answer),
    /// Why there is no value, and in words.
    Status(Status, String),
    /// The value has so many bytes, which is more than may travel.
    TooLarge(usize),
}

impl Item {
    /// How long its value is.
    pub(crate) fn value_len(&self) -> usize {
        match self {
            Item::Value(answer) => answer.value.len(),
            Item::Status(..) | Item::TooLarge(_) => 0,
        }
    }
}

const ITEM: u32 = 1;

/// The answer to [`GroupCommand::Get`]: an item for each of the first keys, in their order. Those whose
/// items did not fit are to be asked for again.
pub(crate) struct BatchWriter {
    body: Vec<u8>,
    max: usize,
    is_empty: bool,
}

impl BatchWriter {
    /// An answer of up to `max` bytes, unless its first item alone is larger.
    pub(crate) fn new(max: usize) -> BatchWriter {
        BatchWriter {
            body: Vec::new(),
            max,
            is_empty: true,
        }
    }

    /// Adds the item of the next key; tells whether there was room for it.
    pub(crate) fn push(&mut self, key_hash: u64, item: Item) -> bool {
        let of_status = |status: Status| GetResponse {
            key_hash: Some(key_hash),
            status: Some(status.name().to_owned()),
            ..GetResponse::default()
        };
        let (head, value) = match item {
            Item::Value(answer) => {
                let (head, value) = answer.encode();
                (head, Some(value))
            }
            Item::Status(status, text) => {
                let mut message = of_status(status);
                message.text = (!text.is_empty()).then_some(text);
                (message.encode_to_vec(), None)
            }
            Item::TooLarge(length) => {
                let mut message = of_status(Status::TooLarge);
                message.length = Some(length as u64);
                (message.encode_to_vec(), None)
            }
        };
        let value = value.as_deref().unwrap_or_default();
        let length = head.len() + value.len();
        let taken = key_len(ITEM) + encoded_len_varint(length as u64) + length;
        if !self.is_empty && self.body.len() + taken > self.max {
            return false;
        }
        self.is_empty = false;
        encode_key(ITEM, WireType::LengthDelimited, &mut self.body);
        encode_varint(length as u64, &mut self.body);
        self.body.extend_from_slice(&head);
        self.body.extend_from_slice(value);
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.is_empty
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.body.shrink_to_fit();
        self.body
    }
}

/// Reads the answer to a batch: the items of the first of the keys with these hashes.
pub(crate) fn decode_batch(
    body: Vec<u8>,
    mut key_hashes: impl Iterator<Item = u64>,
) -> Result<Vec<Item>, ProtocolError> {
    let body = Bytes::from(body);
    let mut items = Vec::with_capacity(key_hashes.size_hint().0);
    let mut rest = &body[..];
    while !rest.is_empty() {
        let Field::Bytes(ITEM, item) = read_field(&mut rest)? else {
            continue; // of a newer node
        };
        let expected = key_hashes.next();
        let expected = expected.ok_or(ProtocolError("it answers more than it was asked"))?;
        let message = GetResponse::decode(body.slice_ref(item)).map_err(|_| NO_MESSAGE)?;
        if message.key_hash != Some(expected) {
            return Err(ProtocolError("the answer belongs to another key"));
        }
        items.push(Item::from(message));
    }
    Ok(items)
}

impl From<GetResponse> for Item {
    fn from(message: GetResponse) -> Item {
        let Some(name) = &message.status else {
            return Item::Value(message.into());
        };
        match (Status::named(name), message.length) {
            (Some(Status::Ok), _) => Item::Value(message.into()),
            (Some(Status::TooLarge), length) => {
                Item::TooLarge(usize::try_from(length.unwrap_or(0)).unwrap_or(usize::MAX))
            }
            // What a newer node says of its loads, this one can only take for a failure.
            (status, _) => Item::Status(
                status.unwrap_or(Status::LoadFailed),
                message.text.unwrap_or_default(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;
    use std::time::Duration;

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
    fn what_is_no_command_is_refused() {
        let too_many = GroupCommand::Remove(vec!["k"; MAX_KEYS + 1]).encode();
        let bodies: [&[u8]; 10] = [
            b"\x32\x01a",            // a key without its stamp
            b"\x42\x01a\x4a\x03abc", // half of one
            b"",
            b"\x0a",                                         // a field without its length
            b"\x1a\x05ab",                                   // longer than the body
            b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // longer than memory
            b"\x12\x01\xff",                                 // no UTF-8
            b"\xa8\x06\x01",                                 // only what is not known
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

    fn items() -> Vec<Item> {
        vec![
            Item::Value(Answer {
                value: Value::from("the value"),
                rate: Some(2.5),
                remaining: Some(Duration::from_secs(3)),
                key_hash: Some(0),
            }),
            Item::Status(Status::NotFound, String::new()),
            Item::Status(Status::LoadFailed, "no database".to_owned()),
            Item::TooLarge(1 << 40),
            Item::Status(Status::Loading, String::new()),
            Item::Value(Answer {
                value: Value::default(),
                rate: None,
                remaining: None,
                key_hash: Some(5),
            }),
        ]
    }

    fn encode(max: usize) -> (Vec<u8>, usize) {
        let mut writer = BatchWriter::new(max);
        let pushed = items().into_iter().zip(0..);
        let count = pushed.take_while(|(item, hash)| writer.push(*hash, item.clone()));
        let count = count.count();
        (writer.finish(), count)
    }

    #[test]
    fn an_answer_to_a_batch_survives() {
        let (body, count) = encode(1_000);
        assert_eq!(count, items().len());
        assert_eq!(decode_batch(body, 0..6), Ok(items()));
    }

    #[test]
    fn an_answer_ends_where_its_room_does_but_is_never_empty() {
        let (whole, _) = encode(1_000);
        for max in 0..whole.len() {
            let (body, count) = encode(max);
            assert!(count >= 1);
            assert!(body.len() <= max || count == 1);
            assert_eq!(decode_batch(body, 0..6).unwrap(), items()[..count]);
        }
    }

    #[test]
    fn an_answer_to_other_keys_or_to_more_is_nonsense() {
        let (body, _) = encode(1_000);
        assert!(decode_batch(body.clone(), 0..5).is_err());
        assert!(decode_batch(body.clone(), 1..7).is_err());
        for cut in 1..body.len() {
            let mut cut_off = body.clone();
            cut_off.truncate(cut);
            if let Ok(found) = decode_batch(cut_off, 0..6) {
                assert_eq!(found, items()[..found.len()], "cut at {cut}");
            }
        }
    }
}
