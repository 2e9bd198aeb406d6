//! `Codec<V>`: converts the values of a group to bytes for peers and back, and weighs them.

use std::error::Error;

use crate::value::Value;

/// Why a value could not be encoded or decoded.
pub type CodecError = Box<dyn Error + Send + Sync>;

/// Converts values of type `V` to bytes and back.
///
/// A value is cached as it is; it is encoded only for peers. The bytes must not depend on the process:
/// any node of the cluster may have to decode them, also one with an older or a newer version of the
/// program.
///
/// All methods run without any lock of the library held, as part of a load, a fetch or an answer, on the
/// thread that does it: a caller's, a loader thread or one of the server. Other callers wait for that
/// thread, so be quick. The methods may call any method of any group, as a loader may. A panic is an
/// error of the value at hand and goes no further.
///
/// ```
/// use groupcache_sync::{Codec, CodecError, Value};
///
/// struct BigEndian;
///
/// impl Codec<u64> for BigEndian {
///     fn encode(&self, value: &u64) -> Result<Value, CodecError> {
///         Ok(Value::from(&value.to_be_bytes()))
///     }
///     fn decode(&self, bytes: Value) -> Result<u64, CodecError> {
///         Ok(u64::from_be_bytes(bytes.as_bytes().try_into()?))
///     }
///     fn weight(&self, _: &u64) -> usize {
///         8
///     }
/// }
/// ```
pub trait Codec<V>: Send + Sync + 'static {
    /// The bytes of `value`.
    ///
    /// # Errors
    ///
    /// Any reason why the value cannot be encoded: a peer that requests it gets the error, and loads the
    /// value itself.
    fn encode(&self, value: &V) -> Result<Value, CodecError>;

    /// The value of `bytes`.
    ///
    /// # Errors
    ///
    /// Any reason why the bytes cannot be decoded: the value is then loaded here instead.
    fn decode(&self, bytes: Value) -> Result<V, CodecError>;

    /// The charge for the value in the cache, in bytes. The key and the overhead of an entry are added.
    /// Defaults to the length of the encoded value, for which the value is encoded once more.
    fn weight(&self, value: &V) -> usize {
        self.encode(value).map_or(0, |bytes| bytes.len())
    }
}

/// The codec of values that are bytes: it returns them as they are. The default of every group.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes;

impl Codec<Value> for Bytes {
    fn encode(&self, value: &Value) -> Result<Value, CodecError> {
        Ok(value.clone())
    }

    fn decode(&self, bytes: Value) -> Result<Value, CodecError> {
        Ok(bytes)
    }

    fn weight(&self, value: &Value) -> usize {
        value.len()
    }
}

/// The codec of values that are text, as UTF-8.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8;

impl Codec<String> for Utf8 {
    fn encode(&self, value: &String) -> Result<Value, CodecError> {
        Ok(Value::from(value.as_str()))
    }

    fn decode(&self, bytes: Value) -> Result<String, CodecError> {
        Ok(bytes.as_str()?.to_owned())
    }

    fn weight(&self, value: &String) -> usize {
        value.len()
    }
}

/// The codec of serde types as JSON (feature `json`). Tolerates added and reordered fields, so
/// that old and new versions of a program work together.
#[cfg(feature = "json")]
#[cfg_attr(docsrs, doc(cfg(feature = "json")))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

#[cfg(feature = "json")]
impl<V: serde::Serialize + serde::de::DeserializeOwned> Codec<V> for Json {
    fn encode(&self, value: &V) -> Result<Value, CodecError> {
        Ok(Value::from(serde_json::to_vec(value)?))
    }

    fn decode(&self, bytes: Value) -> Result<V, CodecError> {
        Ok(serde_json::from_slice(&bytes)?)
    }
}

/// The codec of serde types as MessagePack with named fields (feature `msgpack`). Tolerates added
/// and reordered fields, so that old and new versions of a program work together.
#[cfg(feature = "msgpack")]
#[cfg_attr(docsrs, doc(cfg(feature = "msgpack")))]
#[derive(Clone, Copy, Debug, Default)]
pub struct MessagePack;

#[cfg(feature = "msgpack")]
impl<V: serde::Serialize + serde::de::DeserializeOwned> Codec<V> for MessagePack {
    fn encode(&self, value: &V) -> Result<Value, CodecError> {
        Ok(Value::from(rmp_serde::to_vec_named(value)?))
    }

    fn decode(&self, bytes: Value) -> Result<V, CodecError> {
        Ok(rmp_serde::from_slice(&bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_encoded_and_decoded_without_a_copy() {
        let value = Value::from("bytes");
        let encoded = Bytes.encode(&value).unwrap();
        assert_eq!(encoded.as_ptr(), value.as_ptr());
        assert_eq!(Bytes.decode(encoded).unwrap(), value);
    }

    #[test]
    fn text_that_is_not_utf8_is_refused() {
        assert!(Utf8.decode(Value::from(&[0xff])).is_err());
        let text = "größe".to_owned();
        assert_eq!(Utf8.decode(Utf8.encode(&text).unwrap()).unwrap(), text);
    }

    #[cfg(any(feature = "json", feature = "msgpack"))]
    mod rolling_deploy {
        use super::super::*;

        #[derive(serde::Serialize, serde::Deserialize)]
        struct Old {
            name: String,
        }

        #[derive(serde::Serialize, serde::Deserialize)]
        struct New {
            #[serde(default)]
            age: u32,
            name: String,
        }

        fn both_ways<C: Codec<Old> + Codec<New>>(codec: &C) {
            let old = Old {
                name: "ada".to_owned(),
            };
            let seen_by_new: New = codec.decode(codec.encode(&old).unwrap()).unwrap();
            assert_eq!((seen_by_new.name.as_str(), seen_by_new.age), ("ada", 0));
            let seen_by_old: Old = codec.decode(codec.encode(&seen_by_new).unwrap()).unwrap();
            assert_eq!(seen_by_old.name, "ada");
        }

        #[test]
        #[cfg(feature = "json")]
        fn json_tolerates_added_fields() {
            both_ways(&Json);
        }

        #[test]
        #[cfg(feature = "msgpack")]
        fn message_pack_tolerates_added_fields() {
            both_ways(&MessagePack);
        }
    }
}
