//! `Gate`: which requests are meant for this node at all, by their heads. Not those that a page in a
//! browser sends, and not those that are meant for another cluster or another peer.

use std::fmt::Write as _;

use crate::cache::key::MAX_NAME_BYTES;
use crate::error::Error;
use crate::protocol::{Request, Response, Status, escaped, is_meant, is_ours};
use crate::runtime::clock::Clock;
use crate::runtime::log_throttle::LogThrottle;
use crate::stats::Counter;
use crate::transport::peer::{Peer, split_host};

pub(crate) struct Gate {
    this: String,
    /// The name of the cluster, if it has one.
    cluster: Option<String>,
    /// The hosts that requests may name, each with its port if that matters; empty: any host.
    hosts: Vec<(String, Option<u16>)>,
    misdirected: Counter,
    misdirected_reports: LogThrottle,
    forbidden_reports: LogThrottle,
}

impl Gate {
    /// The gate of `this` node.
    pub(crate) fn new(
        this: &Peer,
        cluster: Option<String>,
        hosts: &[String],
    ) -> Result<Gate, Error> {
        if let Some(name) = &cluster {
            if !(1..=MAX_NAME_BYTES).contains(&name.len()) {
                let reason = format!("a name has 1 to {MAX_NAME_BYTES} bytes");
                return Err(Error::setting("cluster", reason));
            }
        }
        let parsed = hosts.iter().map(|host| {
            let reason = || format!("{host:?} is no host, and no host:port");
            split_host(host).ok_or_else(|| Error::setting("hosts", reason()))
        });
        let mut hosts = parsed.collect::<Result<Vec<_>, Error>>()?;
        if !hosts.is_empty() {
            // Requests of peers name this host.
            hosts.push((this.host().to_owned(), Some(this.port())));
        }
        Ok(Gate {
            this: this.name().to_owned(),
            cluster,
            hosts,
            misdirected: Counter::default(),
            misdirected_reports: LogThrottle::default(),
            forbidden_reports: LogThrottle::default(),
        })
    }

    /// The end of the header of a request to `peer`: which cluster and peer it is meant for.
    pub(crate) fn addressee(&self, peer: &Peer) -> String {
        let mut pairs = String::new();
        // Writing to a `String` cannot fail.
        if let Some(name) = &self.cluster {
            let _ = write!(pairs, ";g={}", escaped(name));
        }
        let _ = write!(pairs, ";t={}", escaped(peer.name()));
        pairs
    }

    /// How many requests were meant for another cluster or peer.
    pub(crate) fn misdirected(&self) -> u64 {
        self.misdirected.get()
    }

    /// Refuses requests that a page in a browser could have sent, wherever the page comes from. A page of
    /// another origin sends `Origin`, or a `POST` without our header, which it could not send without a
    /// preflight request. A page whose own name resolves to this node sends that name in `Host`. A `GET` of
    /// an image has none of these: browsers mark it as cross-site, where they trust the connection to the
    /// node.
    pub(crate) fn check_sender(
        &self,
        request: &Request<'_>,
        clock: &Clock,
    ) -> Result<(), Response> {
        let changes = ["PUT", "DELETE", "POST"].contains(&request.method);
        let is_for_peers = is_ours(request.target);
        let reason = if request.has_origin || request.is_of_other_site && is_for_peers {
            "it comes from a page in a browser: no page may ask a node"
        } else if changes && is_for_peers && !request.terms.native {
            "it lacks the header X-Groupcache: send it along with PUT, DELETE and POST"
        } else if !self.is_served(request.host) {
            "it is for another host: add it to the hosts of this node if it is one of its names"
        } else {
            return Ok(());
        };
        if let Some(unreported) = self.forbidden_reports.admit(clock.now()) {
            log::warn!(
                target: "groupcache", reason:% = reason, unreported = unreported;
                "a request is forbidden"
            );
        }
        Err(Response::refusal(Status::Forbidden, reason))
    }

    fn is_served(&self, host: Option<&str>) -> bool {
        if self.hosts.is_empty() {
            return true;
        }
        let Some((name, port)) = host.and_then(split_host) else {
            return false;
        };
        let is_that = |(known, at): &(String, Option<u16>)| {
            let default = [80, 443];
            *known == name
                && at.is_none_or(|at| port.map_or(default.contains(&at), |port| port == at))
        };
        self.hosts.iter().any(is_that)
    }

    /// Refuses requests that are meant for another cluster, or for another peer whose address this node
    /// has now.
    pub(crate) fn check_addressee(
        &self,
        request: &Request<'_>,
        clock: &Clock,
    ) -> Result<(), Response> {
        if is_meant(request.header, self.cluster.as_deref(), &self.this) {
            return Ok(());
        }
        self.misdirected.add();
        if let Some(unreported) = self.misdirected_reports.admit(clock.now()) {
            log::warn!(
                target: "groupcache", this:% = self.this,
                cluster:% = self.cluster.as_deref().unwrap_or("(no name)"), unreported = unreported;
                "a request is meant for another cluster or another peer: see which list names this \
                 node's address with another id, or give the nodes of this cluster one name"
            );
        }
        let reason = "the node at this address is not the one that is meant: see that the list has \
                      its id, and that both have one name of the cluster";
        Err(Response::refusal(Status::Misdirected, reason))
    }
}
