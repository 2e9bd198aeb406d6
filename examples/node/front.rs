//! What clients may ask: `/k/<key>`, `/get-many`, `/stats`, `/peers`, `/health`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use groupcache_sync::{Deadline, Error, Group, HttpRequest, HttpResponse, Loaded, Node, Value};
use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::flags;
use crate::many::{MAX_LIST, Many};
use crate::origin::{life_of, list};

/// Answers the requests of clients.
pub(crate) struct Front {
    node: Node,
    group: Group,
    many: Many,
    /// Whether a discoverer brings the list of peers.
    discovers: bool,
    /// How many requests may wait at once.
    places: usize,
    waiting: AtomicUsize,
}

/// A place among the requests that may wait.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Front {
    /// One where so many requests may wait at once for values, or for peers. It takes some more
    /// threads than that: so that `/health` and hits are answered whatever the others wait for.
    pub(crate) fn new(node: Node, group: Group, discovers: bool, places: usize) -> Front {
        Front {
            node,
            group,
            many: Many::new(),
            discovers,
            places,
            waiting: AtomicUsize::new(0),
        }
    }

    fn take_place(&self) -> Option<Place<'_>> {
        let place = Place(&self.waiting);
        let others = self.waiting.fetch_add(1, Ordering::AcqRel);
        (others < self.places).then_some(place)
    }

    pub(crate) fn answer(&self, request: &HttpRequest<'_>) -> HttpResponse {
        let begun = Instant::now();
        let answer = self.route(request).unwrap_or_else(|refusal| refusal);
        log::trace!(
            target: "node",
            method = request.method(), target = request.target(), us = begun.elapsed().as_micros();
            "answered"
        );
        answer
    }

    /// The answer; it makes no difference to the client which of the two it is.
    fn route(&self, request: &HttpRequest<'_>) -> Result<HttpResponse, HttpResponse> {
        if is_of_a_page(request) {
            return Err(text(
                403,
                "it comes from a page in a browser: this is a service for programs, no page may ask it",
            ));
        }
        // Whatever all others wait for.
        match (request.method(), request.path()) {
            ("GET", "/health") => return Ok(self.health()),
            ("GET", "/stats") => return Ok(self.stats()),
            _ => {}
        }
        let Some(_place) = self.take_place() else {
            return self.answer_at_once(request);
        };
        if let Some(encoded) = request.target().strip_prefix("/k/") {
            let key = decode(encoded)?;
            return match request.method() {
                "GET" => self.get(&key, deadline(request)?),
                "PUT" => self.put(&key, request),
                "DELETE" => changed(self.group.remove(&key)),
                _ => Err(wrong_method("GET, PUT, DELETE")),
            };
        }
        match (request.method(), request.path()) {
            ("POST", "/get-many") => self.get_many(request),
            ("PUT", "/peers") => self.set_peers(request),
            (_, "/get-many") => Err(wrong_method("POST")),
            (_, "/peers") => Err(wrong_method("PUT")),
            (_, "/stats" | "/health") => Err(wrong_method("GET")),
            _ => Err(text(
                404,
                "no such path; there are /k/<key>, /get-many, /stats, /peers and /health",
            )),
        }
    }

    /// The answer of one that may not wait: what is in memory, and else a refusal.
    fn answer_at_once(&self, request: &HttpRequest<'_>) -> Result<HttpResponse, HttpResponse> {
        let encoded = request.target().strip_prefix("/k/");
        let found = match encoded.filter(|_| request.method() == "GET") {
            Some(encoded) => self.group.try_get(&decode(encoded)?),
            None => None,
        };
        let reason = "too many requests wait already: ask again in a second";
        let busy = || text(503, reason).header("Retry-After", "1");
        let answer = HttpResponse::new(200).header("Content-Type", "application/octet-stream");
        found.map(|value| answer.body(value)).ok_or_else(busy)
    }

    fn get(&self, key: &str, deadline: Deadline) -> Result<HttpResponse, HttpResponse> {
        let got = self.group.get_entry(key, deadline).map_err(refusal)?;
        Ok(HttpResponse::new(200)
            .header("Content-Type", "application/octet-stream")
            .header("X-Cache", &got.source.to_string())
            .body(got.value))
    }

    fn put(&self, key: &str, request: &HttpRequest<'_>) -> Result<HttpResponse, HttpResponse> {
        let mut loaded = Loaded::new(Value::copy_from(request.body()));
        if let Some(life) = life_of(&list(values(request, "Cache-Control"))) {
            loaded = loaded.ttl(life);
        }
        changed(self.group.set(key, loaded))
    }

    /// Many values in one answer. All share one deadline.
    fn get_many(&self, request: &HttpRequest<'_>) -> Result<HttpResponse, HttpResponse> {
        let deadline = deadline(request)?;
        if request.body().len() > MAX_LIST {
            let reason =
                format!("the list of keys has more than {MAX_LIST} bytes: send it in parts");
            return Err(text(413, &reason));
        }
        let keys: BTreeSet<String> = serde_json::from_slice(request.body()).map_err(|error| {
            text(
                400,
                &format!("the body must be a JSON list of keys: {error}"),
            )
        })?;
        Ok(self.many.answer(&self.group, &keys, deadline))
    }

    /// Whether requests are to be sent here.
    fn health(&self) -> HttpResponse {
        let peers = self.node.stats().peers;
        if peers.iter().any(|peer| peer.is_this_node && peer.has_left) {
            return text(503, "leaving");
        }
        text(200, "healthy")
    }

    fn stats(&self) -> HttpResponse {
        let group = self.group.stats();
        let node = self.node.stats();
        let peers = node.peers.iter().map(|peer| {
            json!({
                "id": peer.id,
                "address": peer.address,
                "this": peer.is_this_node,
                "has_left": peer.has_left,
                "ring_share": peer.ring_share,
                "circuit": peer.circuit.to_string(),
                "dialect": peer.dialect.map(|dialect| dialect.to_string()),
                "calls": peer.calls,
                "call_errors": peer.call_errors,
                "abandoned_calls": peer.abandoned_calls,
                "retries": peer.retries,
                "circuit_openings": peer.circuit_openings,
            })
        });
        let stats = json!({
            "gets": group.gets,
            "main_hits": group.main_hits,
            "hot_hits": group.hot_hits,
            "joined": group.joined,
            "leads": group.leads,
            "loads": group.loads,
            "load_errors": group.load_errors,
            "fetches": group.fetches,
            "fetch_errors": group.fetch_errors,
            "peeks": group.peeks,
            "inherited": group.inherited,
            "deputy_copies": group.deputy_copies,
            "served": group.served,
            "served_hits": group.served_hits,
            "removes": group.removes,
            "evictions": group.evictions,
            "rejections": group.rejections,
            "expirations": group.expirations,
            "stale_hits": group.stale_hits,
            "stand_ins": group.stand_ins,
            "absent_hits": group.absent_hits,
            "absent_items": group.absent_items,
            "overloads": group.overloads,
            "main_bytes": group.main_bytes,
            "hot_bytes": group.hot_bytes,
            "main_items": group.main_items,
            "hot_items": group.hot_items,
            "flights": group.flights,
            "peers": peers.collect::<Vec<_>>(),
            "ring": format!("{:016x}", node.ring),
            "ring_mismatches": node.ring_mismatches,
            "refused_requests": node.refused_requests,
            "misdirected_requests": node.misdirected_requests,
            "is_absent": node.is_absent,
            "discovery_polls": node.discovery_polls,
            "discovery_errors": node.discovery_errors,
            "loader_threads": node.loader_threads,
            "loader_threads_busy": node.loader_threads_busy,
        });
        json_answer(200, &stats)
    }

    /// Replaces the peer list by the lines of the body. Whoever may do so can put himself in the
    /// place of any peer.
    fn set_peers(&self, request: &HttpRequest<'_>) -> Result<HttpResponse, HttpResponse> {
        if self.discovers {
            let reason = "this node follows --discover: change the list of peers there";
            return Err(text(409, reason));
        }
        if !is_this_host(request.peer_addr().ip()) {
            let reason = "only this host may change the list of peers: ask from it, by a loopback \
                          address, or start the node with --peers or --discover";
            return Err(text(403, reason));
        }
        let list = std::str::from_utf8(request.body());
        let list = list.map_err(|_| text(400, "the body is not UTF-8"))?;
        let urls = list.lines().map(str::trim).filter(|url| !url.is_empty());
        let peers = urls.map(flags::peer).collect::<Result<Vec<_>, _>>();
        match peers.and_then(|peers| self.node.set_peers(peers)) {
            Ok(()) => Ok(text(200, "the peer list is replaced")),
            Err(Error::SelfMissing { id }) => {
                Err(text(400, &format!("the list must include this node, {id}")))
            }
            Err(error) => Err(text(400, &error.to_string())),
        }
    }
}

/// The lines of a header.
fn values<'a>(request: &HttpRequest<'a>, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let headers = request.headers();
    let found = headers.filter(move |(found, _)| found.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value)
}

/// Whether a page in a browser has it sent: `Origin` comes with all that could change something, and
/// `Sec-Fetch-Site` tells of links, images and scripts. Programs send neither.
fn is_of_a_page(request: &HttpRequest<'_>) -> bool {
    let mut sites = values(request, "Sec-Fetch-Site");
    values(request, "Origin").next().is_some()
        || sites.any(|site| [&b"cross-site"[..], b"same-site"].contains(&site))
}

/// Whether it is a loopback address, also as an IPv6 socket shows those of IPv4.
fn is_this_host(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The key that a client means. Decoded as the last step, so that a key may hold any byte.
fn decode(encoded: &str) -> Result<Cow<'_, str>, HttpResponse> {
    let refuse = |reason: &str| Err(text(400, reason));
    if encoded.contains('?') {
        return refuse("a key takes no query; a ? inside a key is written %3F");
    }
    let mut rest = encoded.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte == b'%') {
        rest = &rest[at + 1..];
        if rest.len() < 2 || !rest[..2].iter().all(u8::is_ascii_hexdigit) {
            return refuse("after % in a key, two hexadecimal digits must follow");
        }
    }
    match percent_decode_str(encoded).decode_utf8() {
        Ok(key) => Ok(key),
        Err(_) => refuse("the key is not UTF-8"),
    }
}

/// Until when the client waits.
fn deadline(request: &HttpRequest<'_>) -> Result<Deadline, HttpResponse> {
    let Some(timeout) = request.header("X-Timeout-Ms") else {
        return Ok(Deadline::NEVER);
    };
    let Ok(timeout) = timeout.trim().parse() else {
        let reason = "X-Timeout-Ms must be a whole number of milliseconds";
        return Err(text(400, reason));
    };
    Ok(Deadline::after(
        Instant::now(),
        Duration::from_millis(timeout),
    ))
}

/// What to say about a set or a remove.
fn changed(outcome: Result<(), Error>) -> Result<HttpResponse, HttpResponse> {
    match outcome {
        Ok(()) => Ok(text(200, "done on all nodes")),
        Err(Error::Unreached { peers }) => {
            let peers = peers.iter();
            let peers = peers.map(|missed| json!({ "peer": missed.peer, "reason": missed.reason }));
            let answer = json!({ "unreached": peers.collect::<Vec<_>>() });
            Ok(json_answer(207, &answer))
        }
        Err(error) => Err(refusal(error)),
    }
}

/// What to say about a value that there is not.
fn refusal(error: Error) -> HttpResponse {
    let status = match error {
        Error::NotFound => 404,
        Error::ValueTooLarge { .. } => 413,
        Error::KeyTooLong { .. } => 414,
        Error::Load { .. } | Error::Panicked { .. } | Error::OwnerLoad { .. } => 502,
        Error::Overloaded | Error::Thread { .. } => 503,
        Error::Deadline => 504,
        _ => 500,
    };
    text(status, &error.to_string())
}

/// A text with an end of line, as people read it in a terminal.
fn text(status: u16, text: &str) -> HttpResponse {
    HttpResponse::text(status, &format!("{text}\n"))
}

fn wrong_method(allowed: &str) -> HttpResponse {
    text(405, &format!("this path takes {allowed}")).header("Allow", allowed)
}

fn json_answer(status: u16, json: &serde_json::Value) -> HttpResponse {
    HttpResponse::new(status)
        .header("Content-Type", "application/json")
        .body(format!("{json}\n"))
}
