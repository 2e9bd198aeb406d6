//! `flight`: one run for each key, however many ask (singleflight).
//!
//! Imports `runtime` and the keys of `cache`. `table` has the loads that are in flight, with those who
//! wait for each; `wait_graph` knows which thread waits for which of them, so that no thread comes to
//! wait for itself (I8).

pub(crate) mod table;
pub(crate) mod wait_graph;
