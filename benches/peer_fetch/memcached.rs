//! Memcached, asked in its text protocol over a connection of each thread.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{io, thread};

use groupcache_sync_benches::{Failure, Process, connect, is_installed};

use crate::contender::{Cell, Contender, Run, run_threads, value_of};

const START_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Memcached {
    process: Process,
    address: SocketAddr,
}

impl Memcached {
    /// Starts one with these keys stored. `None`, and a word about it, if it is not installed.
    pub(crate) fn start<'a>(
        keys: impl IntoIterator<Item = &'a String>,
    ) -> Result<Option<Memcached>, Failure> {
        if !is_installed("memcached") {
            eprintln!("notice: no memcached here (package memcached)");
            return Ok(None);
        }
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let port = free.port().to_string();
        // It refuses to run as root without `-u`, which says nothing to others.
        let arguments = ["-l", "127.0.0.1", "-p", &port, "-U", "0", "-u", "nobody"];
        let process = Process::start(Command::new("memcached").args(arguments))?;
        let memcached = Memcached {
            process,
            address: free,
        };
        memcached.fill(keys)?;
        Ok(Some(memcached))
    }

    fn fill<'a>(&self, keys: impl IntoIterator<Item = &'a String>) -> Result<(), Failure> {
        let mut server = BufReader::new(self.connect_at_last()?);
        let mut reply = String::new();
        for key in keys {
            let value = value_of(key)?;
            let head = format!("set {key} 0 0 {}\r\n", value.len());
            let request = [head.as_bytes(), &value, b"\r\n"].concat();
            server.get_mut().write_all(&request)?;
            reply.clear();
            server.read_line(&mut reply)?;
            if reply != "STORED\r\n" {
                return Err(format!("memcached says {reply:?}").into());
            }
        }
        Ok(())
    }

    /// It needs a moment until it listens.
    fn connect_at_last(&self) -> io::Result<TcpStream> {
        let until = Instant::now() + START_TIMEOUT;
        loop {
            match connect(self.address) {
                Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                outcome => return outcome,
            }
        }
    }
}

impl Contender for Memcached {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn run(&self, cell: &Cell<'_>) -> Result<Run, Failure> {
        run_threads(cell, || {
            let mut server = connect(self.address)?;
            let mut answer = Vec::new();
            Ok(move |key: &str| {
                ask(&mut server, key, cell.bytes, &mut answer)?;
                Ok(cell.bytes)
            })
        })
    }

    fn processes(&self) -> Vec<u32> {
        vec![std::process::id(), self.process.id()]
    }
}

fn ask(
    server: &mut TcpStream,
    key: &str,
    bytes: usize,
    answer: &mut Vec<u8>,
) -> Result<(), Failure> {
    server.write_all(format!("get {key}\r\n").as_bytes())?;
    let head = format!("VALUE {key} 0 {bytes}\r\n");
    answer.resize(head.len() + bytes + "\r\nEND\r\n".len(), 0);
    server.read_exact(answer)?;
    match answer.starts_with(head.as_bytes()) && answer.ends_with(b"\r\nEND\r\n") {
        true => Ok(()),
        false => Err(format!("memcached does not answer {key} with {bytes} bytes").into()),
    }
}
