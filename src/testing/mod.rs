//! `testing`: for tests. `network` connects nodes in memory; `fuzz` has what fuzz targets call.

#[cfg(all(feature = "auth", any(test, fuzzing)))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(any(test, feature = "test-util"))]
pub(crate) mod network;
