//! The cluster: what each process of a service does to take part, and a balancer before them.
//!
//! `Process::start` is what a program copies; the rest is there because this one plays them all.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use groupcache_sync::{Error, Group, GroupStats, LoadError, Node, Server, TinyServer, Value};
use parking_lot::RwLock;

use crate::AnyError;
use crate::args::{Args, Engine};
use crate::database::Database;
use crate::ledger::Ledger;

/// A process of the service: its node, its one group, and the server that its peers ask.
pub(crate) struct Process {
    node: Node,
    pub(crate) reports: Group,
    server: Listener,
}

/// What every process needs to start.
pub(crate) struct Setting {
    pub(crate) args: Args,
    pub(crate) database: Arc<Database>,
    pub(crate) ledger: Arc<Ledger>,
}

impl Process {
    /// Starts a process that peers reach at `address`; `peers` are all of them, this one included.
    fn start(
        setting: &Setting,
        address: SocketAddr,
        peers: &[SocketAddr],
    ) -> Result<Process, Error> {
        let node = Node::new(&url(&address))?;
        let (database, ledger) = (Arc::clone(&setting.database), Arc::clone(&setting.ledger));
        let load = move |key: &str| {
            let product = key.parse()?;
            ledger.count_load(product);
            let report = database.report(product)?.ok_or(LoadError::NotFound)?;
            Ok(Value::from(report))
        };
        let reports = node
            .group_builder("reports", setting.args.cache_bytes)
            .build(load)?;
        let server = match setting.args.engine {
            Engine::Threads => Listener::Threads(Server::bind(&node, address)?),
            Engine::TinyHttp => Listener::TinyHttp(TinyServer::bind(&node, address)?),
        };
        node.set_peers(peers.iter().map(url))?;
        Ok(Process {
            node,
            reports,
            server,
        })
    }

    /// Answers what is under way, then stops. From here on peers are refused.
    fn stop(self) {
        let patience = Duration::from_secs(2);
        match self.server {
            Listener::Threads(server) => server.shutdown(patience),
            Listener::TinyHttp(server) => server.shutdown(patience),
        };
    }

    fn peer_errors(&self) -> u64 {
        let peers = self.node.stats().peers;
        peers.iter().map(|peer| peer.call_errors).sum()
    }
}

enum Listener {
    Threads(Server),
    TinyHttp(TinyServer),
}

/// All processes, and which of them are up.
pub(crate) struct Fleet {
    setting: Setting,
    addresses: Vec<SocketAddr>,
    processes: Vec<RwLock<Option<Arc<Process>>>>,
    /// Failed calls that processes counted which are gone.
    earlier_peer_errors: AtomicU64,
}

impl Fleet {
    pub(crate) fn start(setting: Setting) -> Result<Fleet, AnyError> {
        let addresses = free_addresses(setting.args.nodes)?;
        let start = |address: &SocketAddr| Process::start(&setting, *address, &addresses);
        let processes: Vec<Process> = addresses.iter().map(start).collect::<Result<_, _>>()?;
        let up = |process| RwLock::new(Some(Arc::new(process)));
        Ok(Fleet {
            processes: processes.into_iter().map(up).collect(),
            setting,
            addresses,
            earlier_peer_errors: AtomicU64::new(0),
        })
    }

    /// The process that client `client` asks, and its number.
    ///
    /// A client belongs to one process, as the threads of a service do. Where that is down, its
    /// balancer sends the request to the next one.
    pub(crate) fn process_for(&self, client: usize) -> Option<(usize, Arc<Process>)> {
        let nodes = self.processes.len();
        (client..client + nodes).find_map(|candidate| {
            let index = candidate % nodes;
            let process = self.processes[index].read().clone()?;
            Some((index, process))
        })
    }

    /// Takes a process away from its clients, then stops it. Its peers are told nothing.
    pub(crate) fn stop(&self, index: usize) {
        let Some(mut process) = self.processes[index].write().take() else {
            return;
        };
        // As a service that shuts down: what its own threads have begun comes to its end first.
        let process = loop {
            match Arc::try_unwrap(process) {
                Ok(process) => break process,
                Err(busy) => process = busy,
            }
            thread::sleep(Duration::from_millis(1));
        };
        let errors = process.peer_errors();
        self.earlier_peer_errors
            .fetch_add(errors, Ordering::Relaxed);
        process.stop();
    }

    /// Starts a process anew where it was: its cache is empty, its address and its keys the same.
    pub(crate) fn restart(&self, index: usize) -> Result<(), Error> {
        let process = Process::start(&self.setting, self.addresses[index], &self.addresses)?;
        *self.processes[index].write() = Some(Arc::new(process));
        Ok(())
    }

    /// Calls between peers that failed so far.
    pub(crate) fn peer_errors(&self) -> u64 {
        let up = self
            .processes
            .iter()
            .filter_map(|process| process.read().clone());
        let errors: u64 = up.map(|process| process.peer_errors()).sum();
        errors + self.earlier_peer_errors.load(Ordering::Relaxed)
    }

    /// What the group of each process holds, of those that are up.
    pub(crate) fn stats(&self) -> Vec<GroupStats> {
        let up = self
            .processes
            .iter()
            .filter_map(|process| process.read().clone());
        up.map(|process| process.reports.stats()).collect()
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

fn url(address: &SocketAddr) -> String {
    format!("http://{address}")
}

/// Addresses that nobody uses: a node must know its own before it serves, and its peers' too.
fn free_addresses(count: usize) -> std::io::Result<Vec<SocketAddr>> {
    let bind = |_| TcpListener::bind("127.0.0.1:0");
    // All at the same time, so that no port comes twice.
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect::<Result<_, _>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}
