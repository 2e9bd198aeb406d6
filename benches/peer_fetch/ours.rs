//! Our group, whose keys another process owns.

use groupcache_sync::{Deadline, Group, Node, NodeBuilder, Peer, Source, Tls};
use groupcache_sync_benches::Failure;

use crate::contender::{Cell, Contender, KEYS, Run, all_keys, run_threads};
use crate::{Keys, SIZES};

pub(crate) const GROUP: &str = "peer";

pub(crate) struct Ours {
    name: &'static str,
    node: Node,
    group: Group,
    server: u32,
}

/// Both processes list the same two peers. Nobody ever asks the client, so it has no listener.
pub(crate) fn peers(server: &str) -> Result<[Peer; 2], Failure> {
    Ok([client()?, Peer::new(server)?.with_name("server")])
}

fn client() -> Result<Peer, Failure> {
    Ok(Peer::new("http://127.0.0.1:1")?.with_name("client"))
}

impl Ours {
    /// The hot cache is off, so that every get goes to the server at this address, which is in
    /// process number `server`.
    pub(crate) fn new(name: &'static str, address: &str, server: u32) -> Result<Ours, Failure> {
        Ours::over(Node::builder(client()?)?, name, address, server)
    }

    pub(crate) fn with_tls(
        tls: Tls,
        name: &'static str,
        address: &str,
        server: u32,
    ) -> Result<Ours, Failure> {
        Ours::over(Node::builder(client()?)?.tls(tls), name, address, server)
    }

    fn over(
        builder: NodeBuilder,
        name: &'static str,
        address: &str,
        server: u32,
    ) -> Result<Ours, Failure> {
        let node = builder.build()?;
        node.set_peers(peers(address)?)?;
        let group = node
            .group_builder(GROUP, 64 << 20)
            .hot_bytes(0)
            .build(|_| Err("a key of the server was loaded here".into()))?;
        Ok(Ours {
            name,
            node,
            group,
            server,
        })
    }

    pub(crate) fn group(&self) -> &Group {
        &self.group
    }

    /// Keys that the server owns, of values of this size.
    pub(crate) fn keys_of_server(&self, bytes: usize) -> impl Iterator<Item = String> {
        all_keys(bytes).filter(|key| self.node.owner(key).name() == "server")
    }

    /// Keys that the server owns, each asked for once, so that it is cached there.
    pub(crate) fn fill(&self) -> Result<Keys, Failure> {
        let mut keys = Keys::new();
        for bytes in SIZES {
            keys.insert(bytes, self.keys_of_server(bytes).take(KEYS).collect());
        }
        for key in keys.values().flatten() {
            let got = self.group.get_entry(key, Deadline::NEVER)?;
            assert_eq!(got.source, Source::Peer);
        }
        Ok(keys)
    }
}

impl Contender for Ours {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, cell: &Cell<'_>) -> Result<Run, Failure> {
        run_threads(cell, || Ok(|key: &str| Ok(self.group.get(key)?.len())))
    }

    fn processes(&self) -> Vec<u32> {
        vec![std::process::id(), self.server]
    }
}

impl Drop for Ours {
    /// Had a get been answered here or joined another, it would not belong into the tables.
    fn drop(&mut self) {
        let stats = self.group.stats();
        assert_eq!(
            (stats.fetches, stats.fetch_errors),
            (stats.gets, 0),
            "{stats:?}"
        );
    }
}
