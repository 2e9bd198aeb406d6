//! What the benchmarks share: options, sequences of keys, interleaved rounds and tables.
//!
//! Absolute times say more about the machine than about the code. So every round runs all
//! contenders, in rotating order, and what counts is the ratio of two contenders within a round:
//! its median over all rounds.
//!
//! ```text
//! cargo bench -p groupcache-sync-benches --bench local_hit -- [--quick] [--check]
//!     [--rounds N] [--only PART-OF-CELL]… [--with PART-OF-RIVAL]…
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark prints its tables, and a broken one had better stop"
)]

mod draw;
mod options;
mod rounds;
mod table;

pub use draw::{Draw, Rng};
pub use options::Options;
pub use rounds::{median, percentile, rotated};
pub use table::{Bars, Table, nanos, ratio};

/// The error of a contender that cannot be set up or that failed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
