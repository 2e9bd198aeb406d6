//! The original groupcache, between two processes of a Go program of ours.

use std::cell::RefCell;
use std::path::Path;
use std::process::Command;

use groupcache_sync_benches::{Failure, Process, build_go};

use crate::contender::{Cell, Contender, KEYS, Run, WARM};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/go/main.go");
const FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

pub(crate) struct Go {
    server: Process,
    client: RefCell<Process>,
}

impl Go {
    /// Builds and starts it. `None` if it cannot be built here.
    pub(crate) fn start() -> Result<Option<Go>, Failure> {
        let Some(program) = build_go(Path::new(SOURCE), Path::new(FOLDER))? else {
            return Ok(None);
        };
        let mut server = Process::start(Command::new(&program).arg("server"))?;
        let line = server.line()?;
        let address = line.strip_prefix("ready ").ok_or("not ready")?;
        let client = Process::start(Command::new(&program).args(["client", address]))?;
        let client = RefCell::new(client);
        Ok(Some(Go { server, client }))
    }
}

impl Contender for Go {
    fn name(&self) -> &'static str {
        "groupcache (Go)"
    }

    fn run(&self, cell: &Cell<'_>) -> Result<Run, Failure> {
        let Cell {
            bytes,
            threads,
            gets,
            ..
        } = cell;
        let mut client = self.client.borrow_mut();
        client.tell(&format!("{bytes} {threads} {gets} {WARM} {KEYS}"))?;
        let line = client.line()?;
        let numbers: Result<Vec<f64>, _> = line.split_whitespace().map(str::parse).collect();
        match numbers?[..] {
            [per_second, p50, p99] => Ok(Run {
                per_second,
                p50,
                p99,
            }),
            _ => Err(format!("the Go program says {line:?}").into()),
        }
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.client.borrow().id(), self.server.id()]
    }
}
