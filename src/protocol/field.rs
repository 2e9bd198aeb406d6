//! `Field`: protocol buffers field by field, and `ProtocolError`: why a body is refused.
//!
//! Messages with a number of fields that the sender chooses are read by hand: without a copy, and only as
//! many fields as are allowed.

use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};

use super::status::Status;
use crate::cache::key::MAX_KEY_BYTES;

/// Why a body is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProtocolError(pub(crate) &'static str);

pub(super) const NO_MESSAGE: ProtocolError =
    ProtocolError("the body is not a protocol buffers message");
pub(super) const KEY_TOO_LONG: ProtocolError =
    ProtocolError("the key is longer than 16000 bytes when percent-encoded; use a shorter one");

const _: () = assert!(MAX_KEY_BYTES == 16_000, "as the message says");

impl ProtocolError {
    /// The status of the answer.
    pub(crate) fn status(&self) -> Status {
        match *self {
            KEY_TOO_LONG => Status::KeyTooLong,
            _ => Status::BadRequest,
        }
    }
}

pub(super) fn encode_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// A field of a message: its number and what it contains.
pub(super) enum Field<'a> {
    Bytes(u32, &'a [u8]),
    Number(u32, u64),
    /// A field of another wire type, which no message of the protocol has.
    Other,
}

/// Reads the next field and advances `rest` past it.
pub(super) fn read_field<'a>(rest: &mut &'a [u8]) -> Result<Field<'a>, ProtocolError> {
    let (tag, wire_type) = decode_key(rest).map_err(|_| NO_MESSAGE)?;
    match wire_type {
        WireType::LengthDelimited => {
            let length = decode_varint(rest).map_err(|_| NO_MESSAGE)?;
            let length = usize::try_from(length).map_err(|_| NO_MESSAGE)?;
            let (bytes, behind) = rest.split_at_checked(length).ok_or(NO_MESSAGE)?;
            *rest = behind;
            Ok(Field::Bytes(tag, bytes))
        }
        WireType::Varint => {
            let number = decode_varint(rest).map_err(|_| NO_MESSAGE)?;
            Ok(Field::Number(tag, number))
        }
        other => {
            skip_field(other, tag, rest, DecodeContext::default()).map_err(|_| NO_MESSAGE)?;
            Ok(Field::Other)
        }
    }
}
