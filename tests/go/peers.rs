//! The peers of a ring: processes of Go, and nodes of this crate inside the test.

use std::collections::{HashMap, HashSet};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam::channel;
use groupcache_sync::{
    CircuitState, Dialect, Group, LoadError, Node, NodeBuilder, PeerStats, Server, Value,
};
use parking_lot::{Condvar, Mutex};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http;

pub(crate) const GROUP: &str = "things";

/// After how long a test gives up on what must happen at once: it is never waited for in vain
/// unless something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where Debian's packages put the source of Go libraries.
const GOPATH: &str = "/usr/share/gocode";

/// Asks until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never happened: {what}");
        thread::yield_now();
    }
}

/// What every loader makes of a key: `main.go` has the same.
pub(crate) fn value_of(key: &str) -> Value {
    let value = format!("value of {key}").into_bytes();
    let length = key.strip_prefix("large-").and_then(|n| n.parse().ok());
    let Some(length) = length else {
        return Value::from(value);
    };
    let byte = |at: usize| value[at % value.len()] ^ (at >> 8) as u8;
    Value::from((0..length).map(byte).collect::<Vec<u8>>())
}

/// The program in `main.go`, built once, or `None` if there is no Go here and none is required.
pub(crate) fn program() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| match go(["list", "github.com/golang/groupcache"]) {
        Ok(()) => Some(build()),
        Err(reason) if env::var_os("GROUPCACHE_REQUIRE_GO").is_some_and(|set| !set.is_empty()) => {
            panic!("GROUPCACHE_REQUIRE_GO is set, but there is no golang/groupcache: {reason}")
        }
        Err(reason) => {
            eprintln!(
                "NOTICE: nothing is tested against Go here: {reason}. Install Debian's packages \
                 golang-go and golang-github-golang-groupcache-dev."
            );
            None
        }
    });
    program.as_deref()
}

fn build() -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-peer");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/go/main.go");
    let args = [OsStr::new("build"), OsStr::new("-o")];
    let built = go(args
        .into_iter()
        .chain([program.as_os_str(), source.as_os_str()]));
    built.unwrap_or_else(|error| panic!("main.go does not build: {error}"));
    program
}

/// Runs a command of Go, without a network.
fn go(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<(), String> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache");
    let output = Command::new("go")
        .args(args)
        .env("GO111MODULE", "off")
        .env("GOPATH", GOPATH)
        .env("GOFLAGS", "")
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", cache)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run `go`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// A running process of Go. Killed and reaped when dropped.
pub(crate) struct GoPeer {
    child: Child,
    /// Its name as a peer.
    pub(crate) url: String,
    front: String,
    agent: ureq::Agent,
    reader: Option<JoinHandle<()>>,
}

impl GoPeer {
    /// Starts a process on free ports.
    pub(crate) fn start(program: &Path) -> GoPeer {
        GoPeer::start_at(program, "127.0.0.1:0")
    }

    /// Starts a process that peers reach at `listen`, and waits until it serves.
    pub(crate) fn start_at(program: &Path, listen: &str) -> GoPeer {
        let mut child = Command::new(program)
            .args(["-listen", listen, "-group", GROUP])
            .stdin(Stdio::piped()) // it ends when this is closed
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = channel::unbounded();
        let reader = thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let config = ureq::Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .output_buffer_size(128 << 10)
            .build();
        let mut peer = GoPeer {
            child,
            url: String::new(),
            front: String::new(),
            agent: config.new_agent(),
            reader: Some(reader),
        };
        let ready = lines.recv_timeout(PATIENCE);
        let ready = ready.unwrap_or_else(|_| panic!("the Go peer does not get ready"));
        let addresses = ready.strip_prefix("ready front=");
        let (front, listen) = addresses
            .and_then(|rest| rest.split_once(" listen="))
            .unwrap();
        peer.front = format!("http://{front}");
        peer.url = format!("http://{listen}");
        peer
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let url = format!("{}{path}", self.front);
        let request = http::Request::builder().method(method).uri(url);
        let response = match method {
            "GET" => self.agent.run(request.body(()).unwrap()),
            _ => self.agent.run(request.body(body).unwrap()),
        };
        let response = response.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        let status = response.status().as_u16();
        let mut body = Vec::new();
        let mut reader = response.into_body().into_reader();
        reader.read_to_end(&mut body).unwrap();
        (status, body)
    }

    fn ask_about(&self, method: &str, path: &str, key: &[u8]) -> (u16, Vec<u8>) {
        let key = percent_encoding::percent_encode(key, NON_ALPHANUMERIC);
        self.ask(method, &format!("/{path}?key={key}"), b"")
    }

    pub(crate) fn set_peers(&self, urls: &[&str]) {
        let (status, _) = self.ask("PUT", "/peers", urls.join("\n").as_bytes());
        assert_eq!(status, 200);
    }

    /// `Group.Get` of Go; an error is its text.
    pub(crate) fn get(&self, key: impl AsRef<[u8]>) -> Result<Value, String> {
        match self.ask_about("GET", "get", key.as_ref()) {
            (200, body) => Ok(Value::from(body)),
            (_, body) => Err(String::from_utf8(body).unwrap()),
        }
    }

    pub(crate) fn get_many(&self, keys: &[&str]) -> Vec<Value> {
        #[derive(serde::Deserialize)]
        struct Entry {
            #[serde(rename = "Value")]
            value: String,
            #[serde(rename = "Error")]
            error: String,
        }
        use base64::Engine as _;
        let got: Vec<Entry> = self.ask_many("/get-many", keys);
        let value = |got: &Entry| {
            assert_eq!(got.error, "");
            let decoder = base64::engine::general_purpose::STANDARD;
            Value::from(decoder.decode(&got.value).unwrap())
        };
        got.iter().map(value).collect()
    }

    pub(crate) fn owners(&self, keys: &[&str]) -> Vec<String> {
        self.ask_many("/owners", keys)
    }

    fn ask_many<T: serde::de::DeserializeOwned>(&self, path: &str, keys: &[&str]) -> T {
        let (status, body) = self.ask("POST", path, &serde_json::to_vec(keys).unwrap());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    pub(crate) fn loads_of(&self, key: impl AsRef<[u8]>) -> usize {
        number(&self.ask_about("GET", "loads", key.as_ref()).1)
    }

    pub(crate) fn loads(&self) -> usize {
        number(&self.ask("GET", "/loads", b"").1)
    }

    pub(crate) fn hold(&self, key: &str) {
        self.ask_about("POST", "hold", key.as_bytes());
    }

    pub(crate) fn release(&self, key: &str) {
        self.ask_about("POST", "release", key.as_bytes());
    }

    /// One of the counters of Go's `Stats`.
    pub(crate) fn count(&self, counter: &str) -> u64 {
        let (_, body) = self.ask("GET", "/stats", b"");
        let stats: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let count = stats[counter].as_u64();
        count.unwrap_or_else(|| panic!("no counter {counter}: {stats}"))
    }

    /// Sends a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        kill.args(["-s", name, &self.child.id().to_string()]);
        assert!(kill.status().unwrap().success());
    }

    /// Stops it, as a debugger would, and waits until none of its threads runs.
    pub(crate) fn stop(&self) {
        self.signal("STOP");
        let is_stopped = |task: fs::DirEntry| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap();
            // The state follows the name, which is in brackets.
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        let tasks = format!("/proc/{}/task", self.child.id());
        eventually("it stops", || {
            fs::read_dir(&tasks)
                .unwrap()
                .map(Result::unwrap)
                .all(is_stopped)
        });
    }

    /// Ends it without a warning, as a failing machine would. Gives the address to start it again.
    pub(crate) fn kill(mut self) -> String {
        self.end();
        self.url.trim_start_matches("http://").to_owned()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut code = None;
        eventually("it ends", || {
            code = self.child.try_wait().unwrap();
            code.is_some()
        });
        code.and_then(|status| status.code())
    }

    fn end(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for GoPeer {
    fn drop(&mut self) {
        self.end();
    }
}

fn number(body: &[u8]) -> usize {
    std::str::from_utf8(body).unwrap().parse().unwrap()
}

/// A node of this crate on real sockets, with a loader that counts and can be held.
pub(crate) struct RustPeer {
    pub(crate) node: Node,
    pub(crate) group: Group,
    pub(crate) url: String,
    pub(crate) address: SocketAddr,
    source: Arc<Source>,
    server: Option<Server>,
}

#[derive(Default)]
struct Source {
    state: Mutex<SourceState>,
    changed: Condvar,
}

#[derive(Default)]
struct SourceState {
    loads: HashMap<String, usize>,
    held: HashSet<String>,
}

impl Source {
    fn load(&self, key: &str) -> Result<Value, LoadError> {
        let mut state = self.state.lock();
        *state.loads.entry(key.to_owned()).or_default() += 1;
        self.changed
            .wait_while(&mut state, |state| state.held.contains(key));
        match key.starts_with("missing") {
            true => Err(LoadError::NotFound),
            false => Ok(value_of(key)),
        }
    }
}

impl RustPeer {
    /// A node that mirrors nothing and is patient: a busy machine makes no peer look dead.
    pub(crate) fn start() -> RustPeer {
        RustPeer::start_at("127.0.0.1:0", |node| {
            node.connect_timeout(PATIENCE)
                .fetch_timeout(PATIENCE)
                .load_timeout(PATIENCE)
        })
    }

    pub(crate) fn start_at(
        listen: &str,
        settings: impl FnOnce(NodeBuilder) -> NodeBuilder,
    ) -> RustPeer {
        let listener = TcpListener::bind(listen).unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}");
        let builder = Node::builder(&url).unwrap().dialect(Dialect::Golang);
        let node = settings(builder.allow_absent(true)).build().unwrap();
        let source = Arc::new(Source::default());
        let loader = Arc::clone(&source);
        let group = node.group_builder(GROUP, 256 << 20).hot_bytes(0);
        let group = group.build(move |key| loader.load(key)).unwrap();
        let server = Server::from_listener(&node, listener).unwrap();
        RustPeer {
            node,
            group,
            url,
            address,
            source,
            server: Some(server),
        }
    }

    /// Serves no peer any more.
    pub(crate) fn stop_serving(&mut self) {
        drop(self.server.take());
    }

    /// Serves peers again, at the same address.
    pub(crate) fn serve_again(&mut self) {
        self.server = Some(Server::bind(&self.node, self.address).unwrap());
    }

    pub(crate) fn loads_of(&self, key: &str) -> usize {
        let state = self.source.state.lock();
        state.loads.get(key).copied().unwrap_or(0)
    }

    pub(crate) fn loads(&self) -> usize {
        self.source.state.lock().loads.values().sum()
    }

    pub(crate) fn hold(&self, key: &str) {
        self.source.state.lock().held.insert(key.to_owned());
    }

    pub(crate) fn release(&self, key: &str) {
        self.source.state.lock().held.remove(key);
        self.source.changed.notify_all();
    }

    /// What it knows of a peer.
    pub(crate) fn peer(&self, url: &str) -> PeerStats {
        let peers = self.node.stats().peers;
        peers.into_iter().find(|peer| peer.id == url).unwrap()
    }

    pub(crate) fn is_open(&self, url: &str) -> bool {
        self.peer(url).circuit == CircuitState::Open
    }

    /// The first of the keys `<prefix>0`, `<prefix>1`, … that the peer at `url` owns.
    pub(crate) fn key_of(&self, url: &str, prefix: &str) -> String {
        let owned = |key: &String| self.node.owner(key).name() == url;
        (0..).map(|n| format!("{prefix}{n}")).find(owned).unwrap()
    }
}

impl Drop for RustPeer {
    fn drop(&mut self) {
        // A load that a failed test has left must not keep its thread.
        self.source.state.lock().held.clear();
        self.source.changed.notify_all();
    }
}

/// Tells all of them of each other, in this order.
pub(crate) fn join(rust: &[&RustPeer], go: &[&GoPeer]) {
    let urls: Vec<&str> = rust
        .iter()
        .map(|peer| &*peer.url)
        .chain(go.iter().map(|peer| &*peer.url))
        .collect();
    for peer in rust {
        peer.node.set_peers(urls.iter().copied()).unwrap();
    }
    for peer in go {
        peer.set_peers(&urls);
    }
}

/// A request over a socket of its own, byte for byte; the whole answer.
pub(crate) fn raw(address: SocketAddr, head: &str) -> String {
    use std::io::Write;
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// `key` as this crate spells it in a path.
pub(crate) fn path(key: &str) -> String {
    format!(
        "/_groupcache/{GROUP}/{}",
        utf8_percent_encode(key, NON_ALPHANUMERIC)
    )
}
