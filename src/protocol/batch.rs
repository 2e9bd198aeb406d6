//! `BatchWriter`: the answer to a command that gets many keys, with an [`Item`] for each key.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::answer::{Answer, GetResponse};
use super::field::{Field, NO_MESSAGE, ProtocolError, read_field};
use super::status::Status;

/// The answer for one key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Item {
    Value(Answer),
    /// Why there is no value, with a text for people.
    Status(Status, String),
    /// The value has so many bytes, which is more than the requester takes.
    TooLarge(usize),
}

impl Item {
    /// The length of its value in bytes.
    pub(crate) fn value_len(&self) -> usize {
        match self {
            Item::Value(answer) => answer.value.len(),
            Item::Status(..) | Item::TooLarge(_) => 0,
        }
    }
}

const ITEM: u32 = 1;

/// The answer to [`GroupCommand::Get`](super::GroupCommand::Get): an item for each of the first keys, in
/// their order. The requester has to request the keys again whose items did not fit.
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
            continue; // a field of a newer node
        };
        let expected = key_hashes.next();
        let expected = expected.ok_or(ProtocolError(
            "the answer has more items than the request has keys",
        ))?;
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
            // A status of a newer node, which this node can only take for a failed load.
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
    fn an_answer_is_no_longer_than_allowed_but_never_empty() {
        let (whole, _) = encode(1_000);
        for max in 0..whole.len() {
            let (body, count) = encode(max);
            assert!(count >= 1);
            assert!(body.len() <= max || count == 1);
            assert_eq!(decode_batch(body, 0..6).unwrap(), items()[..count]);
        }
    }

    #[test]
    fn an_answer_to_other_keys_or_to_more_keys_is_refused() {
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
