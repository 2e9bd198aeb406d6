//! The command line.

use std::fmt;
use std::str::FromStr;

pub(crate) const HELP: &str = "\
Replays a real web trace against a small cluster of caching nodes before a SQLite database, while
one node stops and comes back, and shows what the cache saved.

Usage: cargo run --release -p cluster -- [FLAGS]

  --nodes N            nodes in the cluster, 1 to 16 [default: 3]
  --threads N          threads that ask, 1 to 1000; thread i asks node i mod nodes [default: 12]
  --seconds N          play for N seconds, repeating or cutting the trace [default: once through]
  --cache-size BYTES   memory for the cache of each node [default: 67108864]
  --engine ENGINE      what serves peers: threads or tiny_http [default: threads]
  --help               this text
";

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Args {
    pub(crate) nodes: usize,
    pub(crate) threads: usize,
    /// `None` plays the trace once.
    pub(crate) seconds: Option<u32>,
    pub(crate) cache_bytes: usize,
    pub(crate) engine: Engine,
}

/// What serves the peers of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// The listener of the crate.
    Threads,
    TinyHttp,
}

pub(crate) enum Command {
    Run(Args),
    Help,
}

impl Args {
    /// What the words after the program's name ask for, or what is wrong with them.
    pub(crate) fn parse(words: impl Iterator<Item = String>) -> Result<Command, String> {
        let mut args = Args {
            nodes: 3,
            threads: 12,
            seconds: None,
            cache_bytes: 64 << 20,
            engine: Engine::Threads,
        };
        let mut words = words;
        while let Some(word) = words.next() {
            let (flag, attached) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let mut value = || {
                let value = attached.clone().or_else(|| words.next());
                value.ok_or_else(|| format!("{flag} needs a value"))
            };
            match flag {
                "--nodes" => args.nodes = number(flag, &value()?, 1, 16)?,
                "--threads" => args.threads = number(flag, &value()?, 1, 1000)?,
                "--seconds" => args.seconds = Some(number(flag, &value()?, 1, 86_400)?),
                "--cache-size" => args.cache_bytes = number(flag, &value()?, 1 << 10, 1 << 40)?,
                "--engine" => args.engine = value()?.parse()?,
                "--help" | "-h" => return Ok(Command::Help),
                _ => return Err(format!("there is no flag {flag}")),
            }
        }
        Ok(Command::Run(args))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Engine::Threads => "threads",
            Engine::TinyHttp => "tiny_http",
        })
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(name: &str) -> Result<Engine, String> {
        match name {
            "threads" => Ok(Engine::Threads),
            "tiny_http" => Ok(Engine::TinyHttp),
            _ => Err(format!("--engine is threads or tiny_http, not {name:?}")),
        }
    }
}

fn number<N>(flag: &str, text: &str, least: N, most: N) -> Result<N, String>
where
    N: FromStr + PartialOrd + fmt::Display,
{
    match text.parse() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(format!(
            "{flag} takes a number from {least} to {most}, not {text:?}"
        )),
    }
}
