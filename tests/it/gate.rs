//! Who is meant, and who asks: nothing goes from one cluster to another, and no page in a browser
//! reaches a node.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use groupcache_sync::{
    Call, CallError, CircuitState, Clock, Dialect, Error, Group, Limits, Link, Network, Node,
    NodeBuilder, Peer, Reply, Request, Server, StatusPage, Transport, Value,
};

use crate::cluster::{address, eventually};

const SECOND: Duration = Duration::from_secs(1);

/// A node that notes what it sends, and loads `<name>/<key>`.
struct Member {
    node: Node,
    group: Group,
    calls: Arc<Mutex<Vec<Call>>>,
}

struct Noting(Network, Arc<Mutex<Vec<Call>>>);

struct NotingLink(Arc<dyn Link>, Arc<Mutex<Vec<Call>>>);

impl Transport for Noting {
    fn link(&self, peer: &Peer, limits: &Limits) -> Result<Arc<dyn Link>, Error> {
        let link = self.0.link(peer, limits)?;
        Ok(Arc::new(NotingLink(link, Arc::clone(&self.1))))
    }
}

impl Link for NotingLink {
    fn call(&self, call: &Call, timeout: Duration) -> Result<Reply, CallError> {
        self.1.lock().unwrap().push(call.clone());
        self.0.call(call, timeout)
    }
}

impl Member {
    fn new(
        network: &Network,
        clock: &Clock,
        this: Peer,
        name: &'static str,
        settings: impl FnOnce(NodeBuilder) -> NodeBuilder,
    ) -> Member {
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let noting = Noting(network.clone(), Arc::clone(&calls));
        let builder = Node::builder(this).unwrap().clock(clock.clone());
        let builder = builder.transport(Arc::new(noting));
        let node = settings(builder).build().unwrap();
        network.attach(&node);
        let group = node.group_builder("g", 1 << 20);
        let group = group
            .build(move |key| Ok(Value::from(format!("{name}/{key}"))))
            .unwrap();
        Member { node, group, calls }
    }

    fn ask(&self, request: Request<'_>) -> (u16, String) {
        let answer = self.node.answer(&request);
        let (_, header) = answer.headers().nth(1).unwrap();
        let status = header.split(";s=").nth(1).unwrap_or_default();
        let status = status.split(';').next().unwrap_or_default();
        (answer.status(), status.to_owned())
    }

    fn circuit(&self) -> CircuitState {
        let peers = self.node.stats().peers.into_iter();
        let mut others = peers.filter(|peer| !peer.is_this_node);
        others.next().unwrap().circuit
    }
}

fn peer(at: usize) -> Peer {
    Peer::new(&address(at)).unwrap()
}

/// A node of one cluster whose list names a peer, at whose address there is one of another cluster.
struct Confusion {
    clock: Clock,
    /// Lists `listed` beside itself.
    ours: Member,
    theirs: Member,
}

impl Confusion {
    fn of_names(names: [Option<&str>; 2]) -> Confusion {
        Confusion::new(peer(1), peer(1), names)
    }

    fn new(listed: Peer, theirs: Peer, names: [Option<&str>; 2]) -> Confusion {
        let (network, clock) = (Network::new(), Clock::manual());
        let named = |name: Option<&str>| {
            let name = name.map(str::to_owned);
            move |node: NodeBuilder| match name {
                Some(name) => node.cluster(name),
                None => node,
            }
        };
        let ours = Member::new(&network, &clock, peer(0), "ours", named(names[0]));
        let theirs = Member::new(&network, &clock, theirs, "theirs", named(names[1]));
        ours.node.set_peers([peer(0), listed]).unwrap();
        Confusion {
            clock,
            ours,
            theirs,
        }
    }

    /// Does everything that goes to peers, and checks that nothing of it arrives.
    fn assert_nothing_crosses(&self) {
        let Confusion { ours, theirs, .. } = self;
        theirs.group.get("set").unwrap();
        theirs.group.get("k 0").unwrap();
        let before = theirs.group.stats();
        let keys: Vec<String> = (0..200).map(|number| format!("k {number}")).collect();
        for key in &keys {
            let expected = Value::from(format!("ours/{key}"));
            assert_eq!(ours.group.get(key).unwrap(), expected);
        }
        for (key, value) in keys.iter().zip(ours.group.get_many(&keys)) {
            assert_eq!(value.unwrap(), Value::from(format!("ours/{key}")));
        }
        let unreached = |changed: Result<(), Error>| match changed {
            Err(Error::Unreached { peers }) => peers.len() == 1,
            _ => false,
        };
        assert!(unreached(ours.group.set("set", Value::from("of ours"))));
        assert!(unreached(ours.group.remove("k 0")));
        assert!(unreached(ours.group.clear()));
        assert!(unreached(ours.node.leave(SECOND)));
        assert_eq!(theirs.group.stats(), before);
        let kept = theirs.group.try_get("set");
        assert_eq!(kept, Some(Value::from("theirs/set")));
        assert!(theirs.node.stats().misdirected_requests >= 3);
        let peers = ours.node.stats().peers;
        assert!(
            peers.iter().any(|peer| peer.pending_removals > 0),
            "it stays pending"
        );
    }
}

#[test]
fn nothing_goes_from_one_cluster_to_another() {
    for names in [
        [Some("production"), Some("staging")],
        [Some("production"), None],
        [None, Some("staging")],
        [Some("a;t=b"), Some("a")],
    ] {
        Confusion::of_names(names).assert_nothing_crosses();
    }
    // Without names, the ids tell.
    let (listed, theirs) = (peer(1).with_name("node-1"), peer(1).with_name("cache-7"));
    Confusion::new(listed, theirs, [None, None]).assert_nothing_crosses();
}

#[test]
fn a_node_of_another_cluster_is_not_taken_for_a_peer_that_is_back() {
    let confusion = Confusion::of_names([Some("production"), Some("staging")]);
    let Confusion { clock, ours, .. } = &confusion;
    for number in 0..100 {
        ours.group.get(&format!("k {number}")).unwrap();
    }
    assert_eq!(ours.circuit(), CircuitState::Open);
    let probes = || {
        let calls = ours.calls.lock().unwrap();
        calls
            .iter()
            .filter(|call| call.target == "/_groupcache/")
            .count()
    };
    eventually("it is probed", || {
        clock.advance(SECOND / 10);
        probes() > 3
    });
    assert_eq!(ours.circuit(), CircuitState::Open);
}

#[test]
fn a_request_says_which_cluster_and_which_peer_it_is_for() {
    let (network, clock) = (Network::new(), Clock::manual());
    let named = |node: NodeBuilder| node.cluster("prod=1;eu");
    let id = |at: usize| peer(at).with_name(format!("cache {at}"));
    let members = [0, 1].map(|at| Member::new(&network, &clock, id(at), "x", named));
    for member in &members {
        member.node.set_peers([0, 1].map(id)).unwrap();
    }
    for number in 0..20 {
        members[0].group.get(&format!("k {number}")).unwrap();
    }
    members[0].group.remove("k 0").unwrap();
    members[0].node.leave(SECOND).unwrap();
    let calls = members[0].calls.lock().unwrap().clone();
    assert!(calls.iter().any(|call| call.target == "/_groupcache/"));
    for call in calls {
        let ends = call.header.ends_with(";g=prod%3D1%3Beu;t=cache%201");
        assert!(ends && call.header.starts_with("v=1"), "{call:?}");
    }
    assert_eq!(members[1].node.stats().misdirected_requests, 0);
    assert_eq!(members[1].group.stats().removes, 1);
}

#[test]
fn who_names_nobody_may_mean_any_and_who_names_a_peer_alone_means_a_cluster_without_a_name() {
    let member = |settings: fn(NodeBuilder) -> NodeBuilder| {
        Member::new(&Network::new(), &Clock::manual(), peer(0), "x", settings)
    };
    let ask = |member: &Member, header: &str| {
        member.ask(Request::new("GET", "/_groupcache/g/k").header("X-Groupcache", header))
    };
    let (served, refused) = ((200, "ok".into()), (421, "misdirected".into()));
    let nameless = member(|node| node);
    let this = "t=http%3A%2F%2Fnode%2D0%3A1";
    for header in [
        "v=1",
        "",
        "v=1;t=http://node-0:1",
        this,
        "v=1;t=http%3a%2f%2fnode-0%3A1",
    ] {
        assert_eq!(ask(&nameless, header), served, "{header}");
    }
    let others = [
        "v=1;t=",
        "t=http%3A%2F%2Fnode%2D1%3A1",
        "v=1;g=a",
        "v=1;g=",
        &format!("{this};t=x"),
    ];
    for header in others {
        assert_eq!(ask(&nameless, header), refused, "{header}");
    }
    let named = member(|node| node.cluster("a"));
    for header in ["", "v=1", "v=1;g=a", &format!("v=1;g=%61;{this}")] {
        assert_eq!(ask(&named, header), served, "{header}");
    }
    for header in [this, "v=1;g=b", "v=1;g=", "v=1;g=a;t=b", "v=1;g=a;g=b"] {
        assert_eq!(ask(&named, header), refused, "{header}");
    }
    // A Go peer could not say it.
    let among_go = member(|node| node.cluster("a").dialect(Dialect::Golang));
    let of_go = among_go
        .node
        .answer(&Request::new("GET", "/_groupcache/g/k"));
    assert_eq!(of_go.status(), 200);
    assert_eq!(ask(&among_go, "v=1;g=b"), refused);
}

#[test]
fn a_name_is_bounded_and_so_is_an_id() {
    let builder = || Node::builder("http://a:1").unwrap();
    for name in [String::new(), "x".repeat(256)] {
        let refused = builder().cluster(name).build();
        assert!(matches!(refused, Err(Error::InvalidSetting { .. })));
    }
    assert!(builder().cluster("x".repeat(255)).build().is_ok());
    let with_id = |length| peer(1).with_name("x".repeat(length));
    let node = builder().build().unwrap();
    assert!(node.add_peer(with_id(1_025)).is_err());
    assert!(node.add_peer(with_id(1_024)).is_ok());
    assert!(Node::builder(with_id(1_025)).unwrap().build().is_err());
}

/// What a request of a browser gets.
fn ask_as_page(member: &Member, method: &str, target: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = Request::new(method, target).body(b"\x08\x01\x18\x01");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let forbidden = (403, "forbidden".to_owned());
    let answer = member.ask(request);
    assert_eq!(answer.0 == 403, answer == forbidden);
    answer.0
}

const ALL: [(&str, &str); 5] = [
    ("GET", "/_groupcache/g/k"),
    ("GET", "/_groupcache/"),
    ("POST", "/_groupcache/g"),
    ("DELETE", "/_groupcache/g/k"),
    ("GET", "/_groupcache-status.json"),
];

#[test]
fn a_page_in_a_browser_can_neither_ask_nor_change() {
    let page = |node: NodeBuilder| node.status_page(StatusPage::new());
    let member = Member::new(&Network::new(), &Clock::manual(), peer(0), "x", page);
    member.group.get("k").unwrap();
    // As one of another origin sends them, with and without a question before.
    for (method, target) in ALL {
        for origin in ["http://evil.example", "null", ""] {
            let headers = [("X-Groupcache", "v=1"), ("origin", origin)];
            let status = ask_as_page(&member, method, target, &headers);
            assert_eq!(status, 403, "{method} {target} {origin}");
        }
    }
    // An image, say: it has no origin, and a browser that trusts the way to the node tells it.
    for site in ["cross-site", "same-site"] {
        let status = ask_as_page(&member, "GET", ALL[0].1, &[("Sec-Fetch-Site", site)]);
        assert_eq!(status, 403, "{site}");
    }
    let typed = [("Sec-Fetch-Site", "none")];
    assert_eq!(ask_as_page(&member, "GET", ALL[0].1, &typed), 200);
    for header in [&[][..], &[("X-Groupcache", "")], &[("X-Groupcache", " ")]] {
        for method in ["POST", "PUT", "DELETE"] {
            for target in ["/_groupcache/g", "/_groupcache/", "/_groupcache/g/k"] {
                let status = ask_as_page(&member, method, target, header);
                assert_eq!(status, 403, "{method} {target}");
            }
        }
    }
    assert!(member.group.try_get("k").is_some());
    assert_eq!(member.group.stats().removes, 0);
    // And as a page of the node's own, or a peer, does.
    for (method, target) in ALL {
        let status = ask_as_page(&member, method, target, &[("X-Groupcache", "v=1")]);
        assert_eq!(status, 200, "{method} {target}");
    }
}

#[test]
fn a_host_that_is_not_among_those_of_a_node_is_refused() {
    let settings = |node: NodeBuilder| {
        let node = node.status_page(StatusPage::new());
        node.hosts(["Cache.internal", "10.0.0.5:7000", "[::1]:7000"])
    };
    let member = Member::new(&Network::new(), &Clock::manual(), peer(0), "x", settings);
    let ask = |host: Option<&str>| {
        let known = [("X-Groupcache", "v=1"), ("Host", host.unwrap_or_default())];
        let headers = &known[..1 + usize::from(host.is_some())];
        let ask = |(method, target)| ask_as_page(&member, method, target, headers);
        let statuses = ALL.map(ask);
        assert_eq!(statuses, [statuses[0]; 5], "{host:?}");
        statuses[0]
    };
    for host in [
        "cache.internal",
        "CACHE.internal:80",
        "cache.internal:7000",
        "10.0.0.5:7000",
        "[::0:1]:7000",
        "node-0:1",
    ] {
        assert_eq!(ask(Some(host)), 200, "{host}");
    }
    for host in [
        "evil.example:7000",
        "cache.internal.evil.example",
        "10.0.0.5",
        "10.0.0.5:7001",
        "node-0",
        "",
        "cache.internal:x",
    ] {
        assert_eq!(ask(Some(host)), 403, "{host}");
    }
    assert_eq!(ask(None), 403, "nobody knows by which name it was asked");
    let refused = Node::builder("http://a:1").unwrap().hosts(["a b"]).build();
    assert!(matches!(refused, Err(Error::InvalidSetting { .. })));
}

#[test]
fn a_node_at_the_usual_port_may_be_asked_without_it() {
    for (own, is_usual) in [
        ("http://10.0.0.5:80", true),
        ("http://10.0.0.5:8080", false),
    ] {
        let node = Node::builder(own).unwrap().hosts(["cache.internal"]);
        let node = node.build().unwrap();
        let request = Request::new("GET", "/_groupcache/").header("Host", "10.0.0.5");
        assert_eq!(node.answer(&request).status() == 200, is_usual, "{own}");
    }
}

#[test]
fn who_is_sent_away_is_told_so_before_his_body_is_here() {
    let node = Node::builder("http://127.0.0.1:1").unwrap();
    let node = node.cluster("production").build().unwrap();
    let server = Server::bind(&node, "127.0.0.1:0").unwrap();
    let line = |headers: &str| {
        let length = "Content-Length: 1000000";
        first_line(
            server.local_addr(),
            &format!("PUT /_groupcache/g/k HTTP/1.1\r\nHost: h\r\n{headers}{length}\r\n\r\n"),
        )
    };
    let ours = "X-Groupcache: v=1;g=production\r\nExpect: 100-continue\r\n";
    assert_eq!(line(ours), "HTTP/1.1 100 Continue\r\n");
    assert_eq!(
        line("X-Groupcache: v=1;g=staging\r\n"),
        "HTTP/1.1 421 Misdirected Request\r\n"
    );
    assert_eq!(line(""), "HTTP/1.1 403 Forbidden\r\n");
    let of_page = format!("Origin: null\r\n{ours}");
    assert_eq!(line(&of_page), "HTTP/1.1 403 Forbidden\r\n");
}

/// Sends this, and gives the first line of what comes back.
fn first_line(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(60 * SECOND)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

/// The headers make their way through both engines.
#[test]
fn both_engines_keep_pages_out() {
    let node = Node::builder("http://127.0.0.1:1").unwrap();
    let node = node.hosts(["cache.internal"]).build().unwrap();
    let server = Server::bind(&node, "127.0.0.1:0").unwrap();
    keeps_pages_out(server.local_addr());
    #[cfg(feature = "tiny_http")]
    {
        let server = groupcache_sync::TinyServer::bind(&node, "127.0.0.1:0").unwrap();
        keeps_pages_out(server.local_addr());
    }
}

fn keeps_pages_out(address: SocketAddr) {
    for (headers, status) in [
        ("Host: cache.internal\r\n", 200),
        ("Host: evil.example\r\n", 403),
        (
            "Host: cache.internal\r\nOrigin: http://evil.example\r\n",
            403,
        ),
    ] {
        let line = first_line(
            address,
            &format!("GET /_groupcache/ HTTP/1.1\r\n{headers}\r\n"),
        );
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{line}");
    }
}
