//! What the command line asks for.

use std::path::PathBuf;

/// The options of a benchmark.
#[derive(Clone, Debug)]
pub struct Options {
    /// Few rounds: shows that the benchmark works, and little else.
    pub quick: bool,
    /// Exit with 1 if a bar is missed.
    pub check: bool,
    /// Parts of the names of the only cells to run; all if there are none.
    pub only: Vec<String>,
    /// Parts of the names of the only rivals to compare with, besides the anchor; all if there are
    /// none.
    pub with: Vec<String>,
    /// The number of rounds, if it was given.
    pub rounds: Option<usize>,
    /// How often to run what has a random seed, if it was given.
    pub seeds: Option<usize>,
    /// The folder with traces that are too large for the repository.
    pub traces: Option<PathBuf>,
    /// Compare numbers of shards, too.
    pub shards: bool,
    /// Where to draw the result.
    pub plot: Option<PathBuf>,
}

impl Options {
    /// Reads the command line. What is not known stops the program with a word about what is.
    #[must_use]
    pub fn from_args() -> Options {
        let mut options = Options {
            quick: false,
            check: false,
            only: Vec::new(),
            with: Vec::new(),
            rounds: None,
            seeds: None,
            traces: None,
            shards: false,
            plot: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--bench" => {} // cargo says so to every benchmark
                "--quick" => options.quick = true,
                "--check" => options.check = true,
                "--only" => options.only.extend(args.next()),
                "--with" => options.with.extend(args.next()),
                "--rounds" => options.rounds = args.next().and_then(|text| text.parse().ok()),
                "--seeds" => options.seeds = args.next().and_then(|text| text.parse().ok()),
                "--traces" => options.traces = args.next().map(PathBuf::from),
                "--shards" => options.shards = true,
                "--plot" => options.plot = args.next().map(PathBuf::from),
                other => {
                    eprintln!(
                        "{other:?}: give --quick, --check, --rounds N, --only PART-OF-CELL, \
                         --with PART-OF-RIVAL, --seeds N, --traces FOLDER, --shards, --plot FILE"
                    );
                    std::process::exit(2);
                }
            }
        }
        options
    }

    /// The number of rounds: `full`, or few with `--quick`.
    #[must_use]
    pub fn rounds(&self, full: usize) -> usize {
        let rounds = self.rounds.unwrap_or(if self.quick { 3 } else { full });
        rounds.max(1)
    }

    /// How often to run what has a random seed: `full`, or once with `--quick`.
    #[must_use]
    pub fn seeds(&self, full: usize) -> usize {
        let seeds = self.seeds.unwrap_or(if self.quick { 1 } else { full });
        seeds.max(1)
    }

    /// Whether the cell of this name is to run.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        contains_any(name, &self.only)
    }

    /// Whether the rival of this name takes part.
    #[must_use]
    pub fn compares_with(&self, name: &str) -> bool {
        contains_any(name, &self.with)
    }
}

fn contains_any(name: &str, parts: &[String]) -> bool {
    parts.is_empty() || parts.iter().any(|part| name.contains(part.as_str()))
}
