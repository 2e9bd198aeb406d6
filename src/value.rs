//! `Value`: immutable bytes that are cheap to clone.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use crate::runtime::sync::Arc;

/// Immutable bytes. A clone shares them: it costs one reference count and no copy.
///
/// This is the type of a cached value unless a group has a codec for another one.
///
/// ```
/// use groupcache_sync::Value;
///
/// let value = Value::from("hello");
/// assert_eq!(value.len(), 5);
/// assert_eq!(&value[1..3], b"el");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(Arc<[u8]>);

/// What a group can hold: any type that can be cloned, shared between threads and kept.
///
/// Implemented for every such type. A [`Value`] is kept as it is, any other value in an `Arc`.
///
/// Each get clones the value, on its own thread, so a clone should be cheap: put large data into an
/// `Arc`. A value that left the cache is dropped by the thread that held it last: a caller's, or one of
/// the node's own. The library clones and drops values without holding a lock, and while no other thread
/// waits for this one. Both may block and call any method of any group. If a clone panics, the get that
/// it was for returns [`Error::Panicked`](crate::Error::Panicked); if a drop panics, that is logged.
/// Neither affects any other caller.
pub trait Cacheable: Clone + Send + Sync + 'static {}

impl<V: Clone + Send + Sync + 'static> Cacheable for V {}

impl Value {
    /// The value that holds a copy of `bytes`.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Value {
        Value(Arc::from(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes as text, if they are UTF-8.
    ///
    /// # Errors
    ///
    /// [`Utf8Error`](std::str::Utf8Error) tells where the bytes stop being UTF-8.
    pub fn as_str(&self) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(&self.0)
    }
}

impl Default for Value {
    fn default() -> Value {
        Value::copy_from(&[])
    }
}

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Value {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Value {
        Value(Arc::from(bytes))
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Value {
        Value::copy_from(bytes)
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(bytes: &[u8; N]) -> Value {
        Value::copy_from(bytes)
    }
}

impl From<Arc<[u8]>> for Value {
    fn from(bytes: Arc<[u8]>) -> Value {
        Value(bytes)
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::from(text.into_bytes())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::copy_from(text.as_bytes())
    }
}

/// Shows only the length: values may be secret and long.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_shares_the_bytes() {
        let value = Value::from("some bytes");
        assert_eq!(value.as_ptr(), value.clone().as_ptr());
    }

    #[test]
    fn debug_hides_the_bytes() {
        assert_eq!(format!("{:?}", Value::from("secret")), "Value(6 bytes)");
    }
}
