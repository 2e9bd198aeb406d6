//! The anchor: as many bytes there and back, and nothing else.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use groupcache_sync_benches::{Failure, connect};

use crate::contender::{Cell, Contender, Run, run_threads};

const REQUEST_BYTES: usize = 64;

/// Where in a request the size of the answer is.
const SIZE_AT: usize = REQUEST_BYTES - 8;

pub(crate) struct PingPong {
    pub(crate) address: SocketAddr,
    pub(crate) server: u32,
}

impl Contender for PingPong {
    fn name(&self) -> &'static str {
        "TCP ping-pong"
    }

    fn run(&self, cell: &Cell<'_>) -> Result<Run, Failure> {
        run_threads(cell, || {
            let mut server = connect(self.address)?;
            let mut answer = vec![0; cell.bytes];
            Ok(move |key: &str| {
                ask(&mut server, key, &mut answer)?;
                Ok(answer.len())
            })
        })
    }

    fn processes(&self) -> Vec<u32> {
        vec![std::process::id(), self.server]
    }
}

fn ask(server: &mut TcpStream, key: &str, answer: &mut [u8]) -> io::Result<()> {
    let mut request = [0; REQUEST_BYTES];
    request[..key.len()].copy_from_slice(key.as_bytes());
    request[SIZE_AT..].copy_from_slice(&(answer.len() as u64).to_le_bytes());
    server.write_all(&request)?;
    server.read_exact(answer)
}

/// Serves it until the process ends.
pub(crate) fn serve(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
}

fn answer(mut stream: TcpStream) -> Result<(), Failure> {
    stream.set_nodelay(true)?;
    let (mut request, mut answer) = ([0; REQUEST_BYTES], Vec::new());
    loop {
        stream.read_exact(&mut request)?;
        let size = u64::from_le_bytes(request[SIZE_AT..].try_into()?);
        answer.resize(size as usize, 7);
        stream.write_all(&answer)?;
    }
}
