//! The async `groupcache`, which fetches over tonic: a task in place of each thread, all on one
//! runtime.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use groupcache_async::{Groupcache, GroupcachePeer, ValueLoader, moka};
use groupcache_sync_benches::Failure;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tonic::transport::server::TcpIncoming;

use crate::SIZES;
use crate::contender::{Cell, Contender, KEYS, Run, WARM, all_keys, checked, part, value_of};

pub(crate) struct Tonic {
    runtime: Runtime,
    cache: Groupcache<Bytes>,
    /// Those that the server owns.
    keys: HashMap<usize, Vec<String>>,
    server: u32,
}

impl Tonic {
    /// The hot cache is off, so that every get goes to the server at this address, which is in
    /// process number `server`.
    pub(crate) fn new(address: SocketAddr, server: u32) -> Result<Tonic, Failure> {
        let runtime = Runtime::new()?;
        let this = GroupcachePeer::from_socket(SocketAddr::from((Ipv4Addr::LOCALHOST, 1)));
        let off = || moka::future::Cache::new(0);
        let builder = Groupcache::builder(this, Empty).main_cache(off());
        let cache = builder.hot_cache(off()).build();
        let keys = runtime.block_on(async {
            cache.add_peer(address.into()).await?;
            let mut keys = HashMap::new();
            for bytes in SIZES {
                keys.insert(bytes, keys_of_server(&cache, bytes).await?);
            }
            Ok::<_, Failure>(keys)
        })?;
        Ok(Tonic {
            runtime,
            cache,
            keys,
            server,
        })
    }
}

/// Who owns a key can only be told by its value, which is empty when loaded here.
async fn keys_of_server(cache: &Groupcache<Bytes>, bytes: usize) -> Result<Vec<String>, Failure> {
    let mut owned = Vec::with_capacity(KEYS);
    for key in all_keys(bytes) {
        if owned.len() == KEYS {
            break;
        }
        if !cache.get(&key).await?.is_empty() {
            owned.push(key);
        }
    }
    Ok(owned)
}

impl Contender for Tonic {
    fn name(&self) -> &'static str {
        "groupcache (async)"
    }

    fn run(&self, cell: &Cell<'_>) -> Result<Run, Failure> {
        let start = Arc::new(Barrier::new(cell.threads + 1));
        self.runtime.block_on(async {
            let work = |task| {
                let keys = part(&self.keys[&cell.bytes], task, cell.threads).to_vec();
                let (cache, start) = (self.cache.clone(), Arc::clone(&start));
                let (bytes, gets) = (cell.bytes, cell.gets);
                tokio::spawn(async move { task_of(&cache, &keys, bytes, gets, &start).await })
            };
            let running: Vec<_> = (0..cell.threads).map(work).collect();
            start.wait().await;
            let begin = Instant::now();
            let mut times = Vec::with_capacity(cell.threads * cell.gets);
            for task in running {
                times.extend(task.await??);
            }
            Ok(Run::of(begin.elapsed(), &mut times))
        })
    }

    fn processes(&self) -> Vec<u32> {
        vec![std::process::id(), self.server]
    }
}

async fn task_of(
    cache: &Groupcache<Bytes>,
    keys: &[String],
    bytes: usize,
    gets: usize,
    start: &Barrier,
) -> Result<Vec<u64>, Failure> {
    let mut keys = keys.iter().cycle();
    for key in keys.by_ref().take(WARM) {
        checked(cache.get(key).await?.len(), bytes)?;
    }
    start.wait().await;
    let mut times = Vec::with_capacity(gets);
    for key in keys.take(gets) {
        let begin = Instant::now();
        let value = cache.get(key).await?;
        times.push(begin.elapsed().as_nanos() as u64);
        checked(value.len(), bytes)?;
    }
    Ok(times)
}

/// Starts to serve, on the runtime, until the process ends.
pub(crate) fn serve(runtime: &Runtime) -> Result<SocketAddr, Failure> {
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let cache = Groupcache::builder(address.into(), Sized).build();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(cache.grpc_service());
    runtime.spawn(server.serve_with_incoming(incoming));
    Ok(address)
}

type Loading<'a> = Pin<Box<dyn Future<Output = Result<Bytes, Failure>> + Send + 'a>>;

/// The loader of the server.
struct Sized;

impl ValueLoader for Sized {
    type Value = Bytes;

    fn load<'a, 'b, 'c>(&'a self, key: &'b str) -> Loading<'c>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(async move { Ok(value_of(key)?.into()) })
    }
}

/// The loader of the client.
struct Empty;

impl ValueLoader for Empty {
    type Value = Bytes;

    fn load<'a, 'b, 'c>(&'a self, _: &'b str) -> Loading<'c>
    where
        'a: 'c,
        'b: 'c,
    {
        Box::pin(async { Ok(Bytes::new()) })
    }
}
