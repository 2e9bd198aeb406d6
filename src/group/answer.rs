//! What a peer is answered: an item for each key, and the response made of them.

use std::time::Instant;

use super::outcome::{Obtained, Outcome, lost_leader};
use super::request::AnswerForm;
use super::shared::Shared;
use crate::cache::entry::Stored;
use crate::error::Error;
use crate::protocol::account::Charge;
use crate::protocol::dialect::Dialect;
use crate::protocol::hash::hash_of_key;
use crate::protocol::{Answer, BatchWriter, Item, Response, Status};
use crate::runtime::sync::Arc;
use crate::runtime::user_code;
use crate::value::{Cacheable, Value};

impl<V: Cacheable> Shared<V> {
    /// The response of these items. `charge` has paid for the items, and pays for the response where that
    /// is a copy.
    pub(super) fn respond<K: AsRef<str>>(
        &self,
        form: AnswerForm,
        mut items: impl Iterator<Item = (K, Item)>,
        charge: Charge,
    ) -> Response {
        match form {
            AnswerForm::Single(requester) => match items.next() {
                Some((_, item)) if requester == Dialect::Golang => {
                    Response::of(self.ring(), item.for_golang())
                }
                Some((_, item)) => Response::of(self.ring(), item),
                None => Response::text(Status::BadRequest, self.ring(), "there is no key"),
            },
            AnswerForm::Batch(max) => self.respond_to_batch(max, items, charge),
        }
    }

    fn respond_to_batch<K: AsRef<str>>(
        &self,
        max: usize,
        items: impl Iterator<Item = (K, Item)>,
        mut charge: Charge,
    ) -> Response {
        let mut batch = BatchWriter::new(max);
        for (key, mut item) in items {
            if !charge.grow(item.value_len()) {
                if !batch.is_empty() {
                    break;
                }
                item = item_of_error(&Error::Overloaded);
            }
            // The requester asks again for the keys that do not fit.
            if !batch.push(hash_of_key(&self.name, key.as_ref()), item) {
                break;
            }
        }
        Response::batch(self.ring(), batch, charge)
    }

    pub(super) fn respond_to_error(&self, error: &Error) -> Response {
        Response::of(self.ring(), item_of_error(error))
    }

    /// The fingerprint of the ring of this node.
    pub(super) fn ring(&self) -> u64 {
        self.cluster.members().fingerprint()
    }

    /// The item of a key whose flight has ended, or whose loads failed lately.
    pub(super) fn item(&self, key: &str, outcome: Outcome<V>) -> Item {
        match self.or_stand_in(self.cache.hash(key), outcome) {
            // The value has just been loaded: there is no rate yet.
            Ok(obtained) => {
                self.item_of_bytes(key, self.encode_obtained(&obtained), obtained.expires, 0.0)
            }
            Err(error) => item_of_error(&error),
        }
    }

    /// The item of a value in memory.
    pub(super) fn item_of_value(
        &self,
        key: &str,
        value: &Stored<V>,
        expires: Option<Instant>,
        rate: f64,
    ) -> Item {
        self.item_of_bytes(key, self.encode_stored(value), expires, rate)
    }

    fn item_of_bytes(
        &self,
        key: &str,
        bytes: Result<Value, Error>,
        expires: Option<Instant>,
        rate: f64,
    ) -> Item {
        let value = match bytes {
            Ok(bytes) => bytes,
            Err(error) => return item_of_error(&error),
        };
        let now = self.cluster.clock.now();
        Item::Value(Answer {
            value,
            rate: Some(rate),
            remaining: expires.map(|expires| expires.saturating_duration_since(now)),
            key_hash: Some(hash_of_key(&self.name, key)),
        })
    }

    /// The bytes of a value, encoded once for all waiters of the flight that loaded it.
    fn encode_obtained(&self, obtained: &Obtained<V>) -> Result<Value, Error> {
        let Some(encoded) = &obtained.encoded else {
            return self.encode_stored(&obtained.value);
        };
        if let Some(encoded) = encoded.get() {
            return encoded.clone();
        }
        // Not inside the cell, as it runs user code: two threads that come here at once both encode.
        let bytes = self.encode_stored(&obtained.value);
        let _ = encoded.set(bytes.clone());
        bytes
    }

    /// The bytes of a value in memory.
    pub(super) fn encode_stored(&self, value: &Stored<V>) -> Result<Value, Error> {
        value
            .get()
            .map_or_else(|| Err(lost_leader()), |value| self.encode_for_peers(value))
    }

    /// The bytes of a value. Fails if they are too many to travel.
    fn encode_for_peers(&self, value: &V) -> Result<Value, Error> {
        let encoded = user_code::load(|| self.codec.encode(value));
        let failed = |source| Error::Encode {
            source: Arc::from(source),
        };
        let bytes = encoded
            .map_err(|panicked| failed(panicked.0.into()))?
            .map_err(failed)?;
        let max = self.cluster.settings.max_value;
        if bytes.len() > max {
            return Err(Error::ValueTooLarge {
                bytes: bytes.len(),
                max,
            });
        }
        Ok(bytes)
    }
}

/// The item of a key without a value.
pub(super) fn item_of_error(error: &Error) -> Item {
    let status = match error {
        Error::NotFound => Status::NotFound,
        Error::Overloaded | Error::Thread { .. } => Status::Overloaded,
        Error::ValueTooLarge { bytes, .. } => return Item::TooLarge(*bytes),
        _ => Status::LoadFailed,
    };
    // The error of a loader makes its text by user code.
    let text = user_code::call(|| error.to_string());
    Item::Status(status, text.unwrap_or_else(|panicked| panicked.0))
}

/// The item of a key whose load takes longer than the request waits.
pub(super) fn item_of_loading() -> Item {
    let text = "the value is not here yet; ask again";
    Item::Status(Status::Loading, text.to_owned())
}
