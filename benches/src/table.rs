//! Tables for people, and the bars to clear.

use std::time::Duration;

/// A table that is printed when it is complete.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns. The first holds names, all others numbers.
    pub fn new<T: Into<String>>(columns: impl IntoIterator<Item = T>) -> Table {
        Table {
            rows: vec![columns.into_iter().map(Into::into).collect()],
        }
    }

    /// Adds a row.
    pub fn row<T: Into<String>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Prints the table, in Markdown that also reads well as it is.
    pub fn print(&self) {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).map(width).collect();
        for (at, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate();
            let line: String = cells
                .map(|(column, (cell, &width))| match column {
                    0 => format!("| {cell:<width$} "),
                    _ => format!("| {cell:>width$} "),
                })
                .collect();
            println!("{line}|");
            if at == 0 {
                let rule = |(column, &width): (usize, &usize)| match column {
                    0 => format!("|{}", "-".repeat(width + 2)),
                    _ => format!("|{}:", "-".repeat(width + 1)),
                };
                let rules: String = widths.iter().enumerate().map(rule).collect();
                println!("{rules}|");
            }
        }
    }
}

/// What must be reached, and whether it was.
#[derive(Debug, Default)]
pub struct Bars {
    missed: usize,
}

impl Bars {
    /// Prints whether `value` stays within `limit`.
    pub fn hold(&mut self, what: &str, value: f64, limit: f64) {
        self.note(value <= limit, what, value, limit);
    }

    /// Prints whether `value` comes up to `limit`.
    pub fn reach(&mut self, what: &str, value: f64, limit: f64) {
        self.note(value >= limit, what, value, limit);
    }

    fn note(&mut self, passed: bool, what: &str, value: f64, limit: f64) {
        if !passed {
            self.missed += 1;
        }
        let word = if passed { "PASS" } else { "FAIL" };
        println!("{word}  {what}: {value:.2} (bar: {limit:.2})");
    }

    /// The exit code: 1 if a bar was missed and the caller cares.
    #[must_use]
    pub fn exit_code(&self, check: bool) -> std::process::ExitCode {
        u8::from(check && self.missed > 0).into()
    }
}

/// A time for a table, in nanoseconds with one digit.
#[must_use]
pub fn nanos(time: f64) -> String {
    if time.is_nan() {
        return "–".to_owned(); // it took no part
    }
    if time >= 10_000.0 {
        return format!(
            "{:.1} us",
            Duration::from_nanos(time as u64).as_secs_f64() * 1e6
        );
    }
    format!("{time:.1} ns")
}

/// A ratio for a table.
#[must_use]
pub fn ratio(value: f64) -> String {
    if value.is_nan() {
        return "–".to_owned();
    }
    format!("{value:.2}x")
}
