//! Traces: the keys that some program asked for, in order.

use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::{Draw, Failure};

/// A sequence of requests.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What the tables call it.
    pub name: String,
    /// The key of each request.
    pub picks: Vec<u32>,
    /// The size of the value of each key; empty if all are alike.
    pub sizes: Vec<u32>,
}

impl Trace {
    /// Reads `NAME.txt.zst` in `folder`: one request a line, as `key` or `key size`.
    ///
    /// # Errors
    ///
    /// Tells which file cannot be read, and why.
    pub fn read(folder: &Path, name: &str) -> Result<Trace, Failure> {
        let path = folder.join(format!("{name}.txt.zst"));
        let read = || -> Result<Trace, Failure> {
            let text = ruzstd::decoding::StreamingDecoder::new(std::fs::File::open(&path)?)?;
            let mut trace = Trace::of(name, Vec::new());
            for line in BufReader::new(text).lines() {
                trace.push(&line?)?;
            }
            Ok(trace)
        };
        read().map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn push(&mut self, line: &str) -> Result<(), Failure> {
        let (key, size) = match line.split_once(' ') {
            Some((key, size)) => (key.parse()?, Some(size.parse()?)),
            None => (line.parse()?, None),
        };
        self.picks.push(key);
        if let Some(size) = size {
            let key = key as usize;
            self.sizes.resize(self.sizes.len().max(key + 1), 0);
            self.sizes[key] = size;
        }
        Ok(())
    }

    fn of(name: &str, picks: Vec<u32>) -> Trace {
        Trace {
            name: name.to_owned(),
            picks,
            sizes: Vec::new(),
        }
    }

    /// All keys one after the other, again and again.
    #[must_use]
    pub fn cycle(name: &str, keys: u32, times: usize) -> Trace {
        Trace::of(name, (0..times).flat_map(|_| 0..keys).collect())
    }

    /// Keys of which few are popular.
    #[must_use]
    pub fn zipf(name: &str, keys: usize, exponent: f64, length: usize) -> Trace {
        Trace::of(name, Draw::Zipf(exponent).picks(keys, length, 1))
    }

    /// With a request for a key that never comes again after each `every` requests.
    #[must_use]
    pub fn with_scan(self, every: usize) -> Trace {
        let mut next = self.picks.iter().max().map_or(0, |last| last + 1);
        let mut picks = Vec::with_capacity(self.picks.len() * 2);
        for (number, pick) in self.picks.iter().enumerate() {
            picks.push(*pick);
            if number % every == every - 1 {
                picks.push(next);
                next += 1;
            }
        }
        Trace { picks, ..self }
    }

    /// This one, then other keys in the order of `between`, then this one again.
    #[must_use]
    pub fn around(&self, name: &str, between: &Trace) -> Trace {
        let first = self.picks.iter().max().map_or(0, |last| last + 1);
        let others = between.picks.iter().map(|pick| pick + first);
        let all = self.picks.iter().copied().chain(others);
        Trace::of(name, all.chain(self.picks.iter().copied()).collect())
    }

    /// The texts of the keys, all of the same length.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let last = self.picks.iter().max().copied().unwrap_or(0);
        let digits = last.to_string().len();
        (0..=last).map(|key| format!("{key:0digits$}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_with_and_without_a_size() {
        let mut trace = Trace::of("two", Vec::new());
        trace.push("7").unwrap();
        trace.push("2 500").unwrap();
        assert_eq!(trace.picks, [7, 2]);
        assert_eq!(trace.sizes, [0, 0, 500]);
        assert!(trace.push("x").is_err());
        assert_eq!(trace.keys()[7], "7");
    }

    #[test]
    fn sequences_are_put_together() {
        let cycle = Trace::cycle("cycle", 2, 2);
        assert_eq!(cycle.picks, [0, 1, 0, 1]);
        let around = cycle.around("around", &Trace::cycle("inner", 1, 1));
        assert_eq!(around.picks, [0, 1, 0, 1, 2, 0, 1, 0, 1]);
        assert_eq!(cycle.with_scan(2).picks, [0, 1, 2, 0, 1, 3]);
    }
}
