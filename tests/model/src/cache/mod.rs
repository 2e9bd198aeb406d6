//! What flights use of the crate's `cache`.

#[path = "../../../../src/cache/key.rs"]
pub(crate) mod key;
