//! `testing`: support for tests.
//!
//! Imports all other folders. `network` connects nodes of one process in memory; `fuzz` has the properties
//! that the fuzz targets check.

#[cfg(all(feature = "auth", any(test, fuzzing)))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(any(test, feature = "test-util"))]
pub(crate) mod network;
