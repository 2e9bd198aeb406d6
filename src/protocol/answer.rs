//! `Answer`: a value in a message.
//!
//! Bodies are protocol buffers. The low field numbers are those of golang/groupcache, so that a native
//! answer is a valid answer to a Go peer; fields of this crate have numbers from 100.

use std::time::Duration;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::field::{Field, NO_MESSAGE, ProtocolError, encode_bytes, read_field};
use super::terms::millis_or_none;
use crate::value::Value;

/// A value as it is sent between peers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) value: Value,
    /// Requests per second for this key in the whole cluster.
    pub(crate) rate: Option<f64>,
    /// The remaining time to live; with `None` the value lives until it is evicted.
    pub(crate) remaining: Option<Duration>,
    /// The hash of group and key: the answer belongs to that request (P3).
    pub(crate) key_hash: Option<u64>,
}

/// The fields of golang's `GetResponse`, and those of this crate.
#[derive(Clone, PartialEq, Message)]
pub(super) struct GetResponse {
    #[prost(bytes = "bytes", optional, tag = "1")]
    pub(super) value: Option<bytes::Bytes>,
    #[prost(double, optional, tag = "2")]
    pub(super) minute_qps: Option<f64>,
    #[prost(uint64, optional, tag = "100")]
    pub(super) remaining_ms: Option<u64>,
    #[prost(fixed64, optional, tag = "101")]
    pub(super) key_hash: Option<u64>,
    /// In a batch, which has no HTTP status for each item: the name of a
    /// [`Status`](super::Status) other than `ok`.
    #[prost(string, optional, tag = "102")]
    pub(super) status: Option<String>,
    /// With status `too-large`: the length of the value.
    #[prost(uint64, optional, tag = "103")]
    pub(super) length: Option<u64>,
    /// Why there is no value, as a text for people.
    #[prost(string, optional, tag = "104")]
    pub(super) text: Option<String>,
}

/// The fields of the body of a `PUT`, which is written and read by hand so that the value is copied once.
mod set {
    pub(super) const GROUP: u32 = 1;
    pub(super) const KEY: u32 = 2;
    pub(super) const VALUE: u32 = 3;
    pub(super) const REMAINING_MS: u32 = 100;
}

impl Answer {
    /// The body in two parts, the second of which is the value itself. Protocol buffers can be cut
    /// like this: the bytes of two messages, one after the other, are the bytes of both merged.
    pub(super) fn encode(self) -> (Vec<u8>, Value) {
        let rest = GetResponse {
            minute_qps: self.rate,
            remaining_ms: self.remaining.map(millis_or_none),
            key_hash: self.key_hash,
            ..GetResponse::default()
        };
        const VALUE: u32 = 1;
        let length = self.value.len() as u64;
        let room = rest.encoded_len() + key_len(VALUE) + encoded_len_varint(length);
        let mut head = Vec::with_capacity(room);
        rest.encode_raw(&mut head);
        encode_key(VALUE, WireType::LengthDelimited, &mut head);
        encode_varint(length, &mut head);
        debug_assert_eq!(head.len(), room);
        (head, self.value)
    }

    pub(crate) fn decode(body: Vec<u8>) -> Result<Answer, ProtocolError> {
        let message = GetResponse::decode(bytes::Bytes::from(body)).map_err(|_| NO_MESSAGE)?;
        Ok(message.into())
    }
}

impl From<GetResponse> for Answer {
    fn from(message: GetResponse) -> Answer {
        Answer {
            value: Value::copy_from(message.value.as_deref().unwrap_or_default()),
            rate: message.minute_qps,
            remaining: message.remaining_ms.map(Duration::from_millis),
            key_hash: message.key_hash,
        }
    }
}

/// The body of a `PUT`.
pub(crate) fn encode_set(group: &str, key: &str, value: &Value, life: Option<Duration>) -> Vec<u8> {
    let mut out = Vec::with_capacity(group.len() + key.len() + value.len() + 32);
    encode_bytes(set::GROUP, group.as_bytes(), &mut out);
    encode_bytes(set::KEY, key.as_bytes(), &mut out);
    encode_bytes(set::VALUE, value, &mut out);
    if let Some(life) = life {
        encode_key(set::REMAINING_MS, WireType::Varint, &mut out);
        encode_varint(millis_or_none(life), &mut out);
    }
    out
}

/// The value in the body of a `PUT` and its remaining time to live. The path names the key; a body
/// that names another one is refused.
pub(crate) fn decode_set(
    group: &str,
    key: &str,
    body: &[u8],
) -> Result<(Value, Option<Duration>), ProtocolError> {
    let (mut named, mut value, mut life) = ((None, None), None, None);
    let mut rest = body;
    while !rest.is_empty() {
        match read_field(&mut rest)? {
            Field::Bytes(set::GROUP, bytes) => named.0 = Some(bytes),
            Field::Bytes(set::KEY, bytes) => named.1 = Some(bytes),
            Field::Bytes(set::VALUE, bytes) => value = Some(bytes),
            Field::Number(set::REMAINING_MS, number) => life = Some(Duration::from_millis(number)),
            _ => {}
        }
    }
    if named != (Some(group.as_bytes()), Some(key.as_bytes())) {
        return Err(ProtocolError("the body and the path name different keys"));
    }
    let value = value.ok_or(ProtocolError("the body contains no value"))?;
    Ok((Value::copy_from(value), life))
}
