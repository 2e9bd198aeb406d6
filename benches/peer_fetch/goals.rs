//! What must be reached.

use std::process::ExitCode;

use groupcache_sync_benches::Bars;

use crate::contender::Cell;
use crate::record::Record;
use crate::{MIDDLE, name_of};

/// Printed when all tables are.
#[derive(Default)]
pub(crate) struct Goals(Vec<Goal>);

struct Goal {
    what: String,
    value: f64,
    bar: f64,
    more_is_better: bool,
}

impl Goals {
    /// Notes the goals of a cell. A rival that took no part sets none.
    pub(crate) fn add(&mut self, cell: &Cell<'_>, rival: &str, ours: &Record, other: &Record) {
        let speed = ours.against(other, |run| run.per_second);
        let p50 = ours.against(other, |run| run.p50);
        let p99 = ours.against(other, |run| run.p99);
        let mut add = |what: &str, value, bar, more_is_better| {
            let cell = name_of(cell.bytes, cell.threads);
            self.0.push(Goal {
                what: format!("{cell}: our {what} / {rival}"),
                value,
                bar,
                more_is_better,
            });
        };
        match ((cell.bytes, cell.threads), rival) {
            ((MIDDLE, 1), "TCP ping-pong") => add("p50", p50, 1.3, false),
            ((MIDDLE, 1), "groupcache (Go)") => add("p50", p50, 1.0, false),
            ((MIDDLE, 32), "groupcache (Go)") => {
                add("gets/s", speed, 3.0, true);
                add("p99", p99, 0.5, false);
            }
            ((MIDDLE, 32), "memcached") => add("gets/s", speed, 1.0, true),
            _ => {}
        }
    }

    /// Notes a goal of its own.
    pub(crate) fn reach(&mut self, what: &str, value: f64, bar: f64) {
        self.0.push(Goal {
            what: what.to_owned(),
            value,
            bar,
            more_is_better: true,
        });
    }

    pub(crate) fn verdict(&self, check: bool) -> ExitCode {
        let mut bars = Bars::default();
        for goal in &self.0 {
            match goal.more_is_better {
                true => bars.reach(&goal.what, goal.value, goal.bar),
                false => bars.hold(&goal.what, goal.value, goal.bar),
            }
        }
        bars.exit_code(check)
    }
}
