//! The stable hash of the protocol: nodes agree by it on the owners of keys, and on which answer belongs to
//! which request.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// The keys of SipHash-1-3. They are part of the protocol: all nodes must use them.
const KEYS: (u64, u64) = (0x6772_6f75_7063_6163, 0x6865_2d72_696e_672e);

/// The stable 64-bit hash of this crate: equal on every machine, in every version.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    SipHasher13::new_with_keys(KEYS.0, KEYS.1).hash(bytes)
}

/// The stable hash of `parts`, each preceded by its length.
pub(crate) fn hash_of_parts(parts: &[&[u8]]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(KEYS.0, KEYS.1);
    for part in parts {
        hasher.write(&(part.len() as u64).to_le_bytes());
        hasher.write(part);
    }
    hasher.finish()
}

/// The stable hash of group and key, by which an answer shows which request it belongs to (P3).
pub(crate) fn hash_of_key(group: &str, key: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(KEYS.0, KEYS.1);
    hasher.write(&(group.len() as u64).to_le_bytes());
    hasher.write(group.as_bytes());
    hasher.write(key.as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn group_and_key_cannot_be_confused() {
        assert_ne!(hash_of_key("ab", "c"), hash_of_key("a", "bc"));
        let parts = [
            2, 0, 0, 0, 0, 0, 0, 0, b'a', b'b', 1, 0, 0, 0, 0, 0, 0, 0, b'c',
        ];
        assert_eq!(hash_of_parts(&[b"ab", b"c"]), hash(&parts));
    }
}
