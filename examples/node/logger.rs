//! The log: one line on stderr for each record, with its key-values.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use log::kv::{self, Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};

struct Stderr;

/// Logs what `RUST_LOG` says: `off`, `error`, `warn` (the default), `info`, `debug` or `trace`.
pub(crate) fn start() {
    let asked = std::env::var("RUST_LOG").ok();
    let level = asked.as_deref().map(str::parse::<LevelFilter>);
    // A second logger is refused, and then the first one goes on.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(match level {
        Some(Ok(level)) => level,
        _ => LevelFilter::Warn,
    });
    if let (Some(asked), Some(Err(_))) = (&asked, level) {
        log::warn!(target: "node", RUST_LOG = asked.as_str(); "not one of warn, info, debug, trace");
    }
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let mut line = Line(String::new());
        // Writing into a string does not fail, and nobody hears of a stderr that is gone.
        let _ = write!(
            line.0,
            "{:.3} {:5} {}: {}",
            now.unwrap_or_default().as_secs_f64(),
            record.level(),
            record.target(),
            record.args()
        );
        let _ = record.key_values().visit(&mut line);
        line.0.push('\n');
        // In one piece, as several threads and processes may share it.
        let _ = std::io::stderr().write_all(line.0.as_bytes());
    }

    fn flush(&self) {}
}

struct Line(String);

impl<'kvs> VisitSource<'kvs> for Line {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        write!(self.0, " {key}={value}").map_err(kv::Error::from)
    }
}
