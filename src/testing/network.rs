//! `Network`: a transport in memory, which connects nodes of one process in tests.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use crate::error::Error;
use crate::node::{Begin, Node, NodeBuilder, WeakNode};
use crate::protocol::{AUTH_HEADER, HEADER, Request, Response};
use crate::runtime::clock::Deadline;
use crate::runtime::slot::Slot;
use crate::runtime::sync::{Arc, Mutex};
use crate::transport::peer::{Call, CallError, Limits, Link, Peer, Reply, Transport};

/// A network in memory (feature `test-util`): a whole cluster in one test, without a port.
///
/// ```
/// use groupcache_sync::{Network, Node, Value};
///
/// let network = Network::new();
/// let a = network.node("http://a:1")?;
/// let b = network.node("http://b:1")?;
/// let load = |key: &str| Ok(Value::from(format!("value of {key}")));
/// let on_a = a.group_builder("g", 1 << 20).build(load)?;
/// let on_b = b.group_builder("g", 1 << 20).build(load)?;
/// for node in [&a, &b] {
///     node.set_peers(["http://a:1", "http://b:1"])?;
/// }
/// assert_eq!(on_a.get("k")?, on_b.get("k")?);
/// assert_eq!(on_a.stats().loads + on_b.stats().loads, 1);
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    nodes: HashMap<String, WeakNode>,
    faults: HashMap<String, Fault>,
}

/// How a node of a [`Network`] fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// It refuses connections, as if its process had ended.
    Refuses,
    /// It accepts requests and never answers, as if its process were stopped.
    Hangs,
}

impl Network {
    /// A network without nodes.
    #[must_use]
    pub fn new() -> Network {
        Network::default()
    }

    /// A node at `address` with default settings, attached to this network.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if the address cannot be used.
    pub fn node(&self, address: &str) -> Result<Node, Error> {
        let node = self.builder(address)?.build()?;
        self.attach(&node);
        Ok(node)
    }

    /// The settings of a node at `this` that reaches its peers through this network. Once built, the node
    /// has to be [attached](Network::attach).
    ///
    /// # Errors
    ///
    /// [`Error::InvalidPeer`] if the address cannot be used.
    pub fn builder<P: TryInto<Peer>>(&self, this: P) -> Result<NodeBuilder, Error>
    where
        Error: From<P::Error>,
    {
        Ok(Node::builder(this)?.transport(Arc::new(self.clone())))
    }

    /// Makes `node` reachable at its address.
    pub fn attach(&self, node: &Node) {
        let address = node.this().address();
        self.0.lock().nodes.insert(address, node.downgrade());
    }

    /// Makes the node at `address` fail, or, with `None`, work again.
    pub fn set_fault(&self, address: &str, fault: Option<Fault>) {
        let mut state = self.0.lock();
        match fault {
            Some(fault) => state.faults.insert(address.to_owned(), fault),
            None => state.faults.remove(address),
        };
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

impl Transport for Network {
    fn link(&self, peer: &Peer, _: &Limits) -> Result<Arc<dyn Link>, Error> {
        Ok(Arc::new(MemoryLink {
            network: self.clone(),
            address: peer.address(),
        }))
    }
}

struct MemoryLink {
    network: Network,
    address: String,
}

impl Link for MemoryLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        let refused = || CallError::Unreachable("connection refused".to_owned());
        let (node, fault) = {
            let state = self.network.0.lock();
            let node = state.nodes.get(&self.address).and_then(WeakNode::upgrade);
            (
                node.ok_or_else(refused)?,
                state.faults.get(&self.address).copied(),
            )
        };
        match fault {
            Some(Fault::Refuses) => Err(refused()),
            Some(Fault::Hangs) => {
                let timeout = Deadline::after(node.clock().now(), timeout);
                let _ = Slot::<()>::new().wait(node.clock(), timeout);
                Err(CallError::Timeout)
            }
            None => {
                let host = self.address.split_once("//").map_or("", |(_, host)| host);
                answer(&node, host, call, timeout)
            }
        }
    }
}

fn answer(node: &Node, host: &str, call: &Call, limit: Duration) -> Result<Reply, CallError> {
    let timeout = Deadline::after(node.clock().now(), limit);
    let request = Request::new(call.method, &call.target)
        .header("Host", host)
        .header(HEADER, &call.header)
        .header(AUTH_HEADER, &call.auth);
    let pending = match node.begin(&request.body(&call.body)) {
        Begin::Ready(response) => return Ok(reply(&response)),
        Begin::Pending(pending) => pending,
    };
    let (slot, just_late) = (Slot::new(), Slot::new());
    let fillers = (Arc::clone(&slot), Arc::clone(&just_late));
    pending.notify(move |response| {
        if let Err(response) = fillers.0.fill(response) {
            // The caller has given up, unless it is about to find that it could not.
            let _ = fillers.1.fill(response);
        }
    });
    let until = timeout.earlier(Deadline::at(pending.deadline()));
    let response = slot.wait(node.clock(), until);
    let late = || {
        if until == timeout {
            return None;
        }
        // If it cannot give up, the answer has just come and is being delivered: the caller waits for it
        // once more, though its time may be up.
        let given_up = pending.give_up();
        let delivered_by = || Deadline::after(node.clock().now(), limit);
        given_up.or_else(|| just_late.wait(node.clock(), delivered_by()))
    };
    response
        .or_else(late)
        .as_ref()
        .map(reply)
        .ok_or(CallError::Timeout)
}

fn reply(response: &Response) -> Reply {
    let header = response.headers().find(|&(name, _)| name == HEADER);
    Reply {
        status: response.status(),
        header: header.map(|(_, value)| value.to_owned()),
        body: response.body().concat(),
    }
}
