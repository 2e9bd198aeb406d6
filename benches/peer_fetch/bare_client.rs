//! Our server, asked by the barest client there is: tells its part of the time from our client's.

use std::net::SocketAddr;

use groupcache_sync_benches::{Failure, Http};

use crate::contender::{Cell, Contender, Run, run_threads};
use crate::ours::GROUP;

pub(crate) struct BareClient {
    pub(crate) address: SocketAddr,
    pub(crate) server: u32,
}

impl Contender for BareClient {
    fn name(&self) -> &'static str {
        "bare client, our server"
    }

    fn run(&self, cell: &Cell<'_>) -> Result<Run, Failure> {
        run_threads(cell, || {
            let mut server = Http::connect(self.address, cell.bytes)?;
            Ok(move |key: &str| {
                // The message around the value has a few bytes of its own.
                Ok(server.get(GROUP, key)?.min(cell.bytes))
            })
        })
    }

    fn processes(&self) -> Vec<u32> {
        vec![std::process::id(), self.server]
    }
}
