//! Many keys at once, beside as many gets one after the other.

use std::time::Instant;

use groupcache_sync_benches::{Failure, Options, median};

use crate::contender::checked;
use crate::ours::Ours;

pub(crate) const NAME: &str = "100 B, 1 thread: keys/s of get_many with 100 keys / of get";

/// How many times the keys of single gets there must be.
pub(crate) const BAR: f64 = 8.0;

const BYTES: usize = 100;
const KEYS: usize = 100;

/// The median of the ratios of all rounds.
pub(crate) fn measure(ours: &Ours, options: &Options) -> Result<f64, Failure> {
    let keys: Vec<String> = ours.keys_of_server(BYTES).take(KEYS).collect();
    let turns = if options.quick { 4 } else { 40 };
    let one_by_one = || -> Result<(), Failure> {
        keys.iter()
            .try_for_each(|key| checked(ours.group().get(key)?.len(), BYTES))
    };
    let at_once = || -> Result<(), Failure> {
        let values = ours.group().get_many(&keys);
        values
            .into_iter()
            .try_for_each(|value| checked(value?.len(), BYTES))
    };
    let seconds = |work: &dyn Fn() -> Result<(), Failure>| -> Result<f64, Failure> {
        let begin = Instant::now();
        for _ in 0..turns {
            work()?;
        }
        Ok(begin.elapsed().as_secs_f64())
    };
    one_by_one()?; // Has them cached there.
    let mut ratios = Vec::new();
    for _ in 0..options.rounds(15) {
        ratios.push(seconds(&one_by_one)? / seconds(&at_once)?);
    }
    Ok(median(ratios))
}
