//! The command line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use groupcache_sync::{Dialect, Error, Peer, StatusPage};

use crate::Failure;
use crate::origin;

/// What the command line asks for.
pub(crate) enum Asked {
    Help,
    Run(Box<Flags>),
}

/// The settings of the process. `None` leaves a setting at the default of the library.
pub(crate) struct Flags {
    pub(crate) listen: String,
    pub(crate) front: String,
    pub(crate) origin: String,
    pub(crate) this: Option<Peer>,
    pub(crate) peers: Option<Vec<Peer>>,
    pub(crate) discover: Option<Source>,
    pub(crate) discover_interval: Option<Duration>,
    pub(crate) group: String,
    pub(crate) cache_bytes: usize,
    pub(crate) hot_bytes: Option<usize>,
    pub(crate) deputy_bytes: Option<usize>,
    pub(crate) hot_ttl: Option<Duration>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) stale: Option<Duration>,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) max_loads: Option<usize>,
    pub(crate) max_waiting: usize,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) fetch_timeout: Option<Duration>,
    pub(crate) loader_threads: Option<usize>,
    pub(crate) max_buffered: Option<usize>,
    pub(crate) warm_up: Option<Duration>,
    pub(crate) leave: Duration,
    pub(crate) secret_file: Option<String>,
    pub(crate) cluster: String,
    pub(crate) status_page: Option<StatusPage>,
    pub(crate) dialect: Dialect,
    pub(crate) engine: Engine,
    pub(crate) tls: Option<TlsFiles>,
}

/// What peers prove to each other who they are with.
pub(crate) struct TlsFiles {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) authorities: String,
    /// Whether clients must have a certificate too.
    pub(crate) client_auth: bool,
}

/// Where the list of peers comes from.
pub(crate) enum Source {
    Dns(String, u16),
    File(String),
}

/// Who serves the peers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// The built-in listener.
    Threads,
    #[cfg(feature = "tiny_http")]
    TinyHttp,
}

/// How long it may take to hand over what a node has that is to stop.
const LEAVE: Duration = Duration::from_secs(5);

/// Requests of clients that may wait at once, each on a thread, started when needed.
const MAX_WAITING: usize = 1_000;

/// Every flag: its name, its value if it takes one, what it is for.
const FLAGS: &[(&str, &str, &str)] = &[
    (
        "--listen",
        "ADDR",
        "where peers reach this node; port 0 picks a free one; required",
    ),
    (
        "--front",
        "ADDR",
        "where clients reach it; port 0 picks a free one; required",
    ),
    (
        "--origin",
        "URL",
        "where values come from: GET URL/<percent-encoded key>; required",
    ),
    (
        "--self",
        "[NAME=]URL",
        "this node's own URL, as in the lists of its peers (default: of --listen)",
    ),
    (
        "--peers",
        "[NAME=]URL,...",
        "all nodes, this one included (default: this one alone)",
    ),
    (
        "--discover",
        "SOURCE",
        "where the list of all nodes is, instead of --peers: dns:NAME:PORT or file:PATH",
    ),
    (
        "--discover-interval-ms",
        "N",
        "how often it is looked at (default: 10000)",
    ),
    (
        "--group",
        "NAME",
        "the name of the cache, the same on all nodes (default: objects)",
    ),
    (
        "--cache-bytes",
        "N",
        "memory for keys and values (default: 67108864)",
    ),
    (
        "--hot-bytes",
        "N",
        "the part of it for mirrored values; 0: none (default: an eighth)",
    ),
    (
        "--deputy-bytes",
        "N",
        "as many of the hottest values deputies have too; 0: none (default: a thirty-second)",
    ),
    (
        "--hot-ttl-ms",
        "N",
        "the longest life of a mirrored value; 0: none (default: 30000)",
    ),
    (
        "--ttl-ms",
        "N",
        "the life of values whose origin names none (default: until evicted)",
    ),
    (
        "--stale-ms",
        "N",
        "how long past its life a value serves while it is renewed or its origin fails (default: 0)",
    ),
    (
        "--negative-ttl-ms",
        "N",
        "how long it is kept that the origin has no value for a key (default: 0)",
    ),
    (
        "--max-loads",
        "N",
        "how many requests to the origin run at once (default: no limit)",
    ),
    (
        "--max-waiting",
        "N",
        "how many requests of clients wait at once; others get what is in memory, or 503 (default: 1000)",
    ),
    (
        "--connect-timeout-ms",
        "N",
        "the longest time to connect to a peer (default: 250)",
    ),
    (
        "--fetch-timeout-ms",
        "N",
        "the longest silence of a peer (default: 1000)",
    ),
    (
        "--loader-threads",
        "N",
        "threads for loads with a deadline or for peers (default: 16)",
    ),
    (
        "--max-buffered",
        "BYTES",
        "memory for requests and answers under way, for each of the two addresses (default: 268435456)",
    ),
    (
        "--warm-up-ms",
        "N",
        "how long former owners of keys are asked for their values; 0: not at all (default: 30000)",
    ),
    (
        "--leave-ms",
        "N",
        "how long values are handed over on SIGTERM; 0: not at all (default: 5000)",
    ),
    (
        "--status-page",
        "",
        "show a page of what goes on to who reaches --listen, at /_groupcache-status",
    ),
    (
        "--status-keys",
        "N",
        "how many of the hottest keys it shows (default: 0)",
    ),
    (
        "--dialect",
        "native|golang",
        "the protocol between peers; golang: to share keys with Go processes (default: native)",
    ),
    (
        "--engine",
        "threads|tiny_http",
        "who serves the peers (default: threads)",
    ),
    (
        "--tls-cert",
        "FILE",
        "this node's certificate, PEM; then all nodes are https:// (default: none)",
    ),
    ("--tls-key", "FILE", "its private key, PEM"),
    (
        "--tls-ca",
        "FILE",
        "the certificates of those who sign the peers' ones, PEM",
    ),
    (
        "--tls-client-auth",
        "",
        "serve only peers that have such a certificate",
    ),
    (
        "--cluster",
        "NAME",
        "the name of the cluster, the same on all nodes: those of others are refused (default: the URL of the origin)",
    ),
    (
        "--secret-file",
        "FILE",
        "the secret that all nodes share, and in a second line one that is taken too (default: none)",
    ),
];

pub(crate) fn help() -> String {
    let mut help = String::from(
        "A caching HTTP service: any number of these processes form one cache.\n\n\
         node --listen ADDR --front ADDR --origin URL [more flags]\n\n",
    );
    for (name, value, text) in FLAGS {
        help.push_str(&format!("  {:34} {text}\n", format!("{name} {value}")));
    }
    help.push_str(
        "\nA node with an ID keeps its keys when it moves to another URL; all others must name it so.\n\
         The front answers GET, PUT and DELETE /k/<percent-encoded key>, POST /get-many,\n\
         GET /stats and GET /health, and from this host PUT /peers, without --discover.\n\
         Pages in browsers are refused. SIGHUP reads the secret and the certificates again.\n\
         RUST_LOG=warn|info|debug|trace sets what is logged on stderr.\n",
    );
    help
}

/// Reads the command line, without the name of the program.
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Asked, Failure> {
    let Some(mut given) = read(args)? else {
        return Ok(Asked::Help);
    };
    let dialect = match given.one_of("--dialect", &["native", "golang"])? {
        Some("golang") => Dialect::Golang,
        _ => Dialect::Native,
    };
    let engine = match given.one_of("--engine", &["threads", "tiny_http"])? {
        #[cfg(feature = "tiny_http")]
        Some("tiny_http") => Engine::TinyHttp,
        #[cfg(not(feature = "tiny_http"))]
        Some("tiny_http") => {
            return Err(Failure::usage(
                "--engine tiny_http: this program was built without that feature; use threads",
            ));
        }
        _ => Engine::Threads,
    };
    let tls = given.tls()?;
    if tls.is_some() && engine != Engine::Threads {
        return Err(Failure::usage("--engine tiny_http: it cannot do TLS"));
    }
    let max_buffered = given.size("--max-buffered", 1)?;
    if max_buffered.is_some() && engine != Engine::Threads {
        let reason = "--max-buffered: --engine tiny_http has no such bound; use threads";
        return Err(Failure::usage(reason));
    }
    let peers = given.peers("--peers")?;
    let discover = given.source("--discover")?;
    if peers.is_some() && discover.is_some() {
        return Err(Failure::usage("--peers and --discover: give one of them"));
    }
    let origin = given.required("--origin")?;
    let origin = origin::check(&origin)
        .map_err(|reason| Failure::usage(format!("--origin {origin}: {reason}")))?;
    Ok(Asked::Run(Box::new(Flags {
        listen: given.required("--listen")?,
        front: given.required("--front")?,
        // What is cached belongs to an origin: two clusters seldom share one.
        cluster: given.text("--cluster").unwrap_or_else(|| origin.clone()),
        origin,
        this: given.peer("--self")?,
        peers,
        discover,
        discover_interval: given.millis("--discover-interval-ms", 1)?,
        group: given.text("--group").unwrap_or_else(|| "objects".into()),
        cache_bytes: given.size("--cache-bytes", 1)?.unwrap_or(64 << 20),
        hot_bytes: given.size("--hot-bytes", 0)?,
        deputy_bytes: given.size("--deputy-bytes", 0)?,
        hot_ttl: given.millis("--hot-ttl-ms", 0)?,
        ttl: given.millis("--ttl-ms", 0)?,
        stale: given.millis("--stale-ms", 0)?,
        negative_ttl: given.millis("--negative-ttl-ms", 0)?,
        max_loads: given.size("--max-loads", 1)?,
        max_waiting: given.size("--max-waiting", 1)?.unwrap_or(MAX_WAITING),
        connect_timeout: given.millis("--connect-timeout-ms", 1)?,
        fetch_timeout: given.millis("--fetch-timeout-ms", 1)?,
        loader_threads: given.size("--loader-threads", 1)?,
        max_buffered,
        warm_up: given.millis("--warm-up-ms", 0)?,
        leave: given.millis("--leave-ms", 0)?.unwrap_or(LEAVE),
        secret_file: given.text("--secret-file"),
        status_page: given.status_page()?,
        dialect,
        engine,
        tls,
    })))
}

/// The flags as given, by their name.
struct Given(BTreeMap<&'static str, String>);

/// Sorts the words of the command line; `None` if they ask for help.
fn read(args: impl Iterator<Item = OsString>) -> Result<Option<Given>, Failure> {
    let mut given = BTreeMap::new();
    let mut args = args.map(|arg| {
        arg.into_string()
            .map_err(|arg| Failure::usage(format!("{} is not UTF-8", arg.to_string_lossy())))
    });
    while let Some(arg) = args.next().transpose()? {
        if arg == "--help" || arg == "-h" {
            return Ok(None);
        }
        // Both `--flag value` and `--flag=value`.
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (&*arg, None),
        };
        let Some((name, kind, _)) = FLAGS.iter().find(|(known, ..)| *known == name) else {
            let known: Vec<_> = FLAGS.iter().map(|(known, ..)| *known).collect();
            let known = known.join(" ");
            return Err(Failure::usage(format!(
                "{name}: no such flag; there are {known}"
            )));
        };
        let value = match value {
            Some(_) if kind.is_empty() => {
                return Err(Failure::usage(format!("{name}: it takes no value")));
            }
            None if !kind.is_empty() => args.next().transpose()?,
            value => Some(value.unwrap_or_default()),
        };
        let Some(value) = value else {
            return Err(Failure::usage(format!(
                "{name}: a value must follow: {kind}"
            )));
        };
        if given.insert(*name, value).is_some() {
            return Err(Failure::usage(format!("{name}: it is given twice")));
        }
    }
    Ok(Some(Given(given)))
}

impl Given {
    fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn required(&mut self, name: &str) -> Result<String, Failure> {
        self.text(name)
            .ok_or_else(|| Failure::usage(format!("{name}: it is required")))
    }

    fn tls(&mut self) -> Result<Option<TlsFiles>, Failure> {
        let files = ["--tls-cert", "--tls-key", "--tls-ca"].map(|name| self.text(name));
        let client_auth = self.text("--tls-client-auth").is_some();
        match files {
            [None, None, None] if !client_auth => Ok(None),
            [Some(certificate), Some(key), Some(authorities)] => Ok(Some(TlsFiles {
                certificate,
                key,
                authorities,
                client_auth,
            })),
            _ => Err(Failure::usage(
                "--tls-cert, --tls-key and --tls-ca: one of them needs the others",
            )),
        }
    }

    fn status_page(&mut self) -> Result<Option<StatusPage>, Failure> {
        let is_on = self.text("--status-page").is_some();
        match self.size("--status-keys", 0)? {
            Some(_) if !is_on => Err(Failure::usage("--status-keys: it needs --status-page")),
            keys => Ok(is_on.then(|| StatusPage::new().hottest_keys(keys.unwrap_or(0)))),
        }
    }

    fn one_of(
        &mut self,
        name: &str,
        allowed: &[&'static str],
    ) -> Result<Option<&'static str>, Failure> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        let found = allowed.iter().find(|known| **known == value);
        found.map(|found| Some(*found)).ok_or_else(|| {
            let allowed = allowed.join(" or ");
            Failure::usage(format!("{name} {value}: it must be {allowed}"))
        })
    }

    fn number(&mut self, name: &str, least: u64) -> Result<Option<u64>, Failure> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) if number >= least => Ok(Some(number)),
            _ => Err(Failure::usage(format!(
                "{name} {value}: it must be a whole number, {least} or more"
            ))),
        }
    }

    fn size(&mut self, name: &str, least: u64) -> Result<Option<usize>, Failure> {
        let number = self.number(name, least)?;
        let size = number.map(usize::try_from).transpose();
        size.map_err(|error| Failure::usage(format!("{name}: {error}")))
    }

    fn millis(&mut self, name: &str, least: u64) -> Result<Option<Duration>, Failure> {
        Ok(self.number(name, least)?.map(Duration::from_millis))
    }

    fn peer(&mut self, name: &str) -> Result<Option<Peer>, Failure> {
        let text = self.text(name);
        text.map(|text| check_peer(name, &text)).transpose()
    }

    fn source(&mut self, name: &str) -> Result<Option<Source>, Failure> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        let source = match text.split_once(':') {
            Some(("file", path)) if !path.is_empty() => Some(Source::File(path.to_owned())),
            Some(("dns", name)) => name
                .rsplit_once(':')
                .and_then(|(host, port)| Some(Source::Dns(host.to_owned(), port.parse().ok()?))),
            _ => None,
        };
        let source = source.ok_or_else(|| {
            Failure::usage(format!(
                "{name} {text}: it must be dns:NAME:PORT or file:PATH"
            ))
        });
        source.map(Some)
    }

    fn peers(&mut self, name: &str) -> Result<Option<Vec<Peer>>, Failure> {
        let Some(list) = self.text(name) else {
            return Ok(None);
        };
        let peers = list.split(',').map(|text| check_peer(name, text.trim()));
        peers.collect::<Result<_, _>>().map(Some)
    }
}

fn check_peer(name: &str, text: &str) -> Result<Peer, Failure> {
    peer(text).map_err(|error| Failure::usage(format!("{name}: {error}")))
}

/// The peer that `URL` or `NAME=URL` names.
pub(crate) fn peer(text: &str) -> Result<Peer, Error> {
    match text.split_once('=') {
        Some((id, url)) if !id.is_empty() => Ok(Peer::new(url)?.with_name(id)),
        _ => Peer::new(text),
    }
}
