//! The process with the servers of all contenders that are written in Rust.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use groupcache_sync::{Node, Peer, Server, TinyServer, Tls, Value};
use groupcache_sync_benches::{Failure, Process};
use tokio::runtime::Runtime;

use crate::contender::value_of;
use crate::ours::{GROUP, peers};
use crate::{ping_pong, tonic};

/// The argument that makes this program the server.
const SERVE: &str = "--serve";

pub(crate) fn is_asked_for() -> bool {
    std::env::args().any(|argument| argument == SERVE)
}

/// Is the server until the other end of its input goes.
pub(crate) fn run() -> Result<(), Failure> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let pings = TcpListener::bind(any)?;
    let pings_at = pings.local_addr()?;
    ping_pong::serve(pings);

    let runtime = Runtime::new()?;
    let tonic = tonic::serve(&runtime)?;

    // The port is not known before it listens, and a peer's place on the ring is its id.
    let node = Node::builder(Peer::new("http://127.0.0.1:2")?.with_name("server"))?.build()?;
    let _group = node
        .group_builder(GROUP, 128 << 20)
        .build(|key| Ok(Value::from(value_of(key)?)))?;
    let server = Server::bind(&node, any)?;
    let tiny = TinyServer::bind(&node, any)?;
    let folder = certificates()?;
    let tls = Server::builder(&node).tls(read(&folder)?).bind(any)?;
    node.set_peers(peers(&format!("http://{}", server.local_addr()))?)?;

    let (server, tiny, tls) = (server.local_addr(), tiny.local_addr(), tls.local_addr());
    println!("ready {server} {tiny} {pings_at} {tonic} {tls} {folder}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Writes a certificate and its key into a folder of their own.
fn certificates() -> Result<String, Failure> {
    let folder = std::env::temp_dir().join(format!("peer-fetch-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    fs::write(folder.join("node.pem"), made.cert.pem())?;
    fs::write(folder.join("node.key"), made.signing_key.serialize_pem())?;
    Ok(folder.to_str().ok_or("a folder is not UTF-8")?.to_owned())
}

/// What is in that folder: both sides have the same, and are required to.
fn read(folder: &str) -> Result<Tls, Failure> {
    let [certificate, key] = ["node.pem", "node.key"].map(|name| Path::new(folder).join(name));
    Ok(Tls::from_files(&certificate, key, &certificate)?.require_client_certificates())
}

/// The server as its starter sees it.
pub(crate) struct ServerProcess {
    process: Process,
    pub(crate) ours: SocketAddr,
    pub(crate) tiny: SocketAddr,
    pub(crate) ping_pong: SocketAddr,
    pub(crate) tonic: SocketAddr,
    pub(crate) tls: SocketAddr,
    pub(crate) certificates: Tls,
}

impl ServerProcess {
    pub(crate) fn start() -> Result<ServerProcess, Failure> {
        let mut process = Process::start_self(&[SERVE])?;
        let line = process.line()?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["ready", ours, tiny, ping_pong, tonic, tls, folder] => Ok(ServerProcess {
                certificates: read(folder).and_then(|tls| {
                    fs::remove_dir_all(folder)?;
                    Ok(tls)
                })?,
                process,
                tls: tls.parse()?,
                ours: ours.parse()?,
                tiny: tiny.parse()?,
                ping_pong: ping_pong.parse()?,
                tonic: tonic.parse()?,
            }),
            _ => Err(format!("the server said {line:?}").into()),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}
