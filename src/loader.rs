//! `Loader`: the source of values that no cache has.

use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use crate::runtime::clock::Deadline;
use crate::runtime::sync::Arc;
pub(crate) use crate::runtime::user_code::Panicked;

/// A request to a loader.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    key: &'a str,
    deadline: Deadline,
}

impl<'a> Load<'a> {
    pub(crate) fn new(key: &'a str, deadline: Deadline) -> Load<'a> {
        Load { key, deadline }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// The latest deadline of the callers that wait when the load begins. A load that takes longer still
    /// completes, and its value is cached. A loader may use the deadline to give up in time, but need
    /// not. If a load fails after its deadline, it is run again with a later one, if by then other
    /// callers wait that have time left.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }
}

/// What a loader returns: a value and, optionally, its time to live.
#[derive(Clone, Debug)]
pub struct Loaded<V> {
    pub(crate) value: V,
    pub(crate) ttl: Option<Duration>,
}

impl<V> Loaded<V> {
    /// `value` with the default time to live of the group.
    pub fn new(value: V) -> Loaded<V> {
        Loaded { value, ttl: None }
    }

    /// Sets the time to live, which is limited to the group's maximum. Zero gives the value to the
    /// callers that wait for it and does not cache it.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Loaded<V> {
        self.ttl = Some(ttl);
        self
    }
}

impl<V> From<V> for Loaded<V> {
    fn from(value: V) -> Loaded<V> {
        Loaded::new(value)
    }
}

/// Why a loader has no value.
///
/// Any error becomes [`LoadError::Failed`] by `?`; for this reason `LoadError` itself is no
/// [`Error`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no value for this key. An answer, not a failure: the load is not tried elsewhere.
    NotFound,
    /// The value could not be loaded. All callers that wait get the error with its source; no value is
    /// cached.
    Failed(Arc<dyn Error + Send + Sync>),
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for LoadError {
    fn from(error: E) -> LoadError {
        LoadError::Failed(Arc::from(error.into()))
    }
}

/// A source of values.
///
/// Most loaders are closures, given to [`GroupBuilder::build`](crate::GroupBuilder::build). The
/// trait is for loaders that read the deadline or set the time to live of a value
/// ([`GroupBuilder::build_with`](crate::GroupBuilder::build_with)).
///
/// A loader runs on the thread of a get without a deadline, or on one of the node's
/// [`loader_threads`](crate::NodeBuilder::loader_threads), without any lock of the library held. It may
/// block, and call any method of any group. A get inside a loader, of the same group or another one,
/// loads on the same thread if it has no deadline, and on another loader thread if it has one. If a
/// loader gets its own key, directly or through other loads of this process, that get returns
/// [`Error::Cycle`](crate::Error::Cycle). If a loader panics, the callers that wait get
/// [`Error::Panicked`](crate::Error::Panicked), and the thread goes on.
///
/// **A key may come from anybody who reaches the port: treat it as untrusted input.** Parse it, look
/// it up, or bind it to a query as a parameter; never make a path, a query or a command of its text.
///
/// ```
/// use groupcache_sync::{Load, LoadError, Loaded, Loader, Value};
/// use std::collections::HashMap;
/// use std::time::Duration;
///
/// struct Pages(HashMap<String, Value>);
///
/// impl Loader<Value> for Pages {
///     fn load(&self, load: &Load<'_>) -> Result<Loaded<Value>, LoadError> {
///         let page = self.0.get(load.key()).ok_or(LoadError::NotFound)?;
///         Ok(Loaded::new(page.clone()).ttl(Duration::from_secs(60)))
///     }
/// }
/// ```
pub trait Loader<V>: Send + Sync + 'static {
    /// Loads the value of a key. May block.
    ///
    /// # Errors
    ///
    /// [`LoadError::NotFound`] if there is no value, [`LoadError::Failed`] for any other reason.
    fn load(&self, load: &Load<'_>) -> Result<Loaded<V>, LoadError>;
}

/// Loads many values at once; keys without one are absent.
pub(crate) type BatchLoader<V> =
    Box<dyn Fn(&[&str]) -> Result<HashMap<String, Loaded<V>>, LoadError> + Send + Sync>;

/// A closure as a loader.
pub(crate) struct FromClosure<F>(pub(crate) F);

impl<V, F> Loader<V> for FromClosure<F>
where
    F: Fn(&str) -> Result<V, LoadError> + Send + Sync + 'static,
{
    fn load(&self, load: &Load<'_>) -> Result<Loaded<V>, LoadError> {
        (self.0)(load.key()).map(Loaded::new)
    }
}

/// A closure that says how long a value lives, as a loader.
pub(crate) struct FromLoadedClosure<F>(pub(crate) F);

impl<V, F> Loader<V> for FromLoadedClosure<F>
where
    F: Fn(&str) -> Result<Loaded<V>, LoadError> + Send + Sync + 'static,
{
    fn load(&self, load: &Load<'_>) -> Result<Loaded<V>, LoadError> {
        (self.0)(load.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_error_becomes_a_load_error() {
        fn load() -> Result<(), LoadError> {
            "x".parse::<u32>()?;
            Ok(())
        }
        assert!(matches!(load(), Err(LoadError::Failed(_))));
    }
}
