//! What the benchmarks share: options, sequences of keys, interleaved rounds and tables.
//!
//! Absolute times say more about the machine than about the code. So every round runs all
//! contenders, in rotating order, and what counts is the ratio of two contenders within a round:
//! its median over all rounds.
//!
//! ```text
//! cargo bench -p groupcache-sync-benches --bench local_hit -- [--quick] [--check]
//!     [--rounds N] [--only PART-OF-CELL]… [--with PART-OF-RIVAL]…
//! cargo bench -p groupcache-sync-benches --bench hit_ratio -- [--quick] [--check]
//!     [--traces FOLDER] [--seeds N] [--only PART-OF-CELL]… [--shards] [--plot FILE.svg]
//! cargo bench -p groupcache-sync-benches --bench memory -- [--quick] [--check]
//!     [--only PART-OF-CELL]…
//! cargo bench -p groupcache-sync-benches --bench peer_fetch -- [--quick] [--check]
//!     [--rounds N] [--only PART-OF-CELL]… [--with PART-OF-RIVAL]…
//! cargo bench -p groupcache-sync-benches --bench server -- [--quick] [--check]
//!     [--only PART-OF-CELL]…
//! cargo bench -p groupcache-sync-benches --bench ring -- [--quick] [--check] [--rounds N]
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

mod counting;
mod draw;
mod http;
mod options;
mod plot;
mod process;
mod rounds;
mod table;
mod trace;

pub use counting::{Counting, live};
pub use draw::{Draw, Rng};
pub use http::{Http, connect};
pub use options::Options;
pub use plot::Plot;
pub use process::{Process, build_go, cpu_time, is_installed, thread_time};
pub use rounds::{median, percentile, rotated};
pub use table::{Bars, Table, nanos, ratio};
pub use trace::Trace;

/// The error of a contender that cannot be set up or that failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
