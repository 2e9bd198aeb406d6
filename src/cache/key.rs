//! `Key`: a key together with its hash, which is computed once for each get and then finds the shard,
//! the cache entry and the flight.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, Hasher};

use crate::runtime::sync::{Arc, KeySeed};

/// The longest name of a group, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 255;

/// The longest id of a peer, in bytes: the head of each request contains it.
pub(crate) const MAX_ID_BYTES: usize = 1_024;

/// The longest key, in bytes once percent-encoded, that travels to peers.
pub const MAX_KEY_BYTES: usize = 16_000;

/// An owned key.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    text: Arc<str>,
    hash: u64,
}

/// A borrowed key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRef<'a> {
    text: &'a str,
    hash: u64,
}

/// Hashes keys under a random seed of this process: nobody can prepare keys that collide without
/// measuring single look-ups.
#[derive(Clone, Debug)]
pub(crate) struct KeyHasher(KeySeed);

#[cfg(test)]
impl<'a> KeyRef<'a> {
    /// A key that has this hash, as no key can be made to have under a random seed.
    pub(crate) fn with_hash(text: &'a str, hash: u64) -> KeyRef<'a> {
        KeyRef { text, hash }
    }
}

impl KeyHasher {
    pub(crate) fn new() -> KeyHasher {
        KeyHasher(KeySeed::default())
    }

    #[inline]
    pub(crate) fn hash<'a>(&self, text: &'a str) -> KeyRef<'a> {
        let mut hasher = self.0.build_hasher();
        hasher.write(text.as_bytes());
        let hash = hasher.finish();
        KeyRef { text, hash }
    }
}

impl<'a> KeyRef<'a> {
    #[inline]
    pub(crate) fn text(self) -> &'a str {
        self.text
    }

    #[inline]
    pub(crate) fn hash(self) -> u64 {
        self.hash
    }

    /// The half of the hash that finds the key within its shard.
    #[inline]
    pub(crate) fn short_hash(self) -> u32 {
        self.hash as u32
    }

    pub(crate) fn to_key(self) -> Key {
        Key {
            text: Arc::from(self.text),
            hash: self.hash,
        }
    }

    /// A number from 0 to 1 that differs between keys, and for the same key between nodes.
    pub(crate) fn fraction(self) -> f64 {
        (self.hash >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Which of `shards` (a power of two) the key belongs to. The tables inside a shard use the low
    /// half of the hash, so this takes bits of the high half.
    #[inline]
    pub(crate) fn shard(self, shards: usize) -> usize {
        debug_assert!(shards.is_power_of_two());
        (self.hash >> 32) as usize & (shards - 1)
    }
}

impl Key {
    #[inline]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    #[inline]
    pub(crate) fn as_ref(&self) -> KeyRef<'_> {
        KeyRef {
            text: &self.text,
            hash: self.hash,
        }
    }
}

/// The text of a key in a cache entry. A short one needs no allocation.
#[derive(Debug)]
pub(crate) enum Text {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Box<str>),
}

/// The longest key that needs no allocation: with it a [`Text`] is as large as a `String`.
const SHORT: usize = 22;

const _: () = assert!(SHORT <= u8::MAX as usize, "a length fits into a byte");

impl Text {
    pub(crate) fn new(text: &str) -> Text {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..text.len()) {
            Some(start) => {
                start.copy_from_slice(text.as_bytes());
                Text::Short {
                    len: text.len() as u8,
                    bytes,
                }
            }
            None => Text::Long(Box::from(text)),
        }
    }

    #[inline]
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Text::Short { len, bytes } => &bytes[..usize::from(*len).min(SHORT)],
            Text::Long(text) => text.as_bytes(),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            // The bytes are those of a `str`.
            Text::Short { .. } => std::str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Text::Long(text) => text,
        }
    }
}

/// What tables compare: a borrowed key finds an owned one without being hashed again.
pub(crate) trait Hashed {
    fn key(&self) -> KeyRef<'_>;
}

impl Hashed for Key {
    #[inline]
    fn key(&self) -> KeyRef<'_> {
        self.as_ref()
    }
}

impl Hashed for KeyRef<'_> {
    #[inline]
    fn key(&self) -> KeyRef<'_> {
        *self
    }
}

impl PartialEq for dyn Hashed + '_ {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.key(), other.key());
        a.hash == b.hash && a.text == b.text
    }
}

impl Eq for dyn Hashed + '_ {}

impl Hash for dyn Hashed + '_ {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.key().hash);
    }
}

impl PartialEq for Key {
    #[inline]
    fn eq(&self, other: &Key) -> bool {
        self.hash == other.hash && self.text == other.text
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Ordered by hash, which nearly always differs: for tables, not for people.
impl Ord for Key {
    fn cmp(&self, other: &Key) -> std::cmp::Ordering {
        (self.hash, &*self.text).cmp(&(other.hash, &*other.text))
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl<'a> Borrow<dyn Hashed + 'a> for Key {
    fn borrow(&self) -> &(dyn Hashed + 'a) {
        self
    }
}

/// The hasher of tables of keys: uses the hash that a key contains.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HandThrough(u64);

impl Hasher for HandThrough {
    fn write(&mut self, bytes: &[u8]) {
        // Keys write one `u64`. Other types are hashed too, if badly.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    #[inline]
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

impl BuildHasher for HandThrough {
    type Hasher = HandThrough;

    #[inline]
    fn build_hasher(&self) -> HandThrough {
        HandThrough(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_borrowed_key_finds_an_owned_one() {
        let hasher = KeyHasher::new();
        let mut table: HashMap<Key, u32, HandThrough> = HashMap::default();
        table.insert(hasher.hash("a key").to_key(), 7);
        let wanted = hasher.hash("a key");
        assert_eq!(table.get(&wanted as &dyn Hashed), Some(&7));
        assert_eq!(table.get(&hasher.hash("another") as &dyn Hashed), None);
    }

    #[test]
    fn a_text_equals_what_it_was_made_of() {
        for text in [
            "",
            "a",
            "größe",
            &"x".repeat(SHORT),
            &"x".repeat(SHORT + 1),
            &"ß".repeat(11),
        ] {
            assert_eq!(Text::new(text).as_str(), text);
            assert_eq!(Text::new(text).as_bytes(), text.as_bytes());
        }
        assert_eq!(size_of::<Text>(), 24);
    }

    #[test]
    fn every_shard_is_used() {
        let hasher = KeyHasher::new();
        let mut seen = [false; 16];
        for key in 0..1_000 {
            seen[hasher.hash(&key.to_string()).shard(16)] = true;
        }
        assert_eq!(seen, [true; 16]);
    }
}
