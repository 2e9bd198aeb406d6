//! What the contenders did, round by round.

use std::time::Duration;

use groupcache_sync_benches::{Failure, cpu_time, median, rotated};

use crate::contender::{Cell, Contender, Run, WARM};

/// What one contender did in all rounds of a cell.
#[derive(Clone, Default)]
pub(crate) struct Record {
    runs: Vec<Run>,
    cpu: Duration,
    gets: usize,
}

impl Record {
    fn add(&mut self, contender: &dyn Contender, cell: &Cell<'_>) -> Result<(), Failure> {
        let processes = contender.processes();
        let used = || processes.iter().map(|&id| cpu_time(id)).sum::<Duration>();
        let before = used();
        let run = contender
            .run(cell)
            .map_err(|error| format!("{}: {error}", contender.name()))?;
        self.cpu += used().saturating_sub(before);
        self.gets += cell.threads * (cell.gets + WARM);
        self.runs.push(run);
        Ok(())
    }

    pub(crate) fn median(&self, of: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(of))
    }

    /// The median of the ratios within a round.
    pub(crate) fn against(&self, other: &Record, of: impl Fn(&Run) -> f64) -> f64 {
        let rounds = self.runs.iter().zip(&other.runs);
        median(rounds.map(|(one, other)| of(one) / of(other)))
    }

    /// Seconds of processors for a million gets, of all rounds together: one is too short for a
    /// clock that ticks a hundred times in a second.
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu.as_secs_f64() / self.gets as f64 * 1e6
    }
}

/// What all contenders did, in their order.
pub(crate) fn measure(
    contenders: &[Box<dyn Contender>],
    cell: &Cell<'_>,
    rounds: usize,
) -> Result<Vec<Record>, Failure> {
    let mut records = vec![Record::default(); contenders.len()];
    for contender in contenders {
        Record::default().add(&**contender, cell)?; // Warms up.
    }
    for round in 0..rounds {
        for at in rotated(contenders.len(), round) {
            records[at].add(&*contenders[at], cell)?;
        }
    }
    Ok(records)
}
