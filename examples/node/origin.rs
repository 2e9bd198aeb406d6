//! The origin: an HTTP server that has all values, and is too slow to be asked for each.

use std::cell::Cell;
use std::io::{ErrorKind, Read};
use std::time::Duration;

use groupcache_sync::{Load, LoadError, Loaded, Loader, Value};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::header::{AGE, CACHE_CONTROL, HeaderName, HeaderValue, VARY};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{ConnectionDetails, Connector, DefaultConnector, Transport};
use ureq::{Agent, Body, http};

use crate::room::Room;

/// All but letters, digits, `-`, `_` and `~` are escaped: the dot too, as `.` and `..` are not
/// keys to everyone on the way.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// How long the origin may take for an answer to begin, and then to end: it is slow, and one that
/// asks again only makes it slower.
const PATIENCE: Duration = Duration::from_secs(300);

/// The longest value that is taken from it, in bytes.
const MAX_BODY: u64 = 256 << 20;

/// A body that is no longer is read without waiting for room, in bytes.
const SMALL: u64 = 64 << 10;

/// How many bytes of longer ones may be on their way at once, or one that is longer still.
const ROOM: u64 = 32 << 20;

/// The longest value that is kept, in bytes.
const MAX_KEPT: u64 = 16 << 20;

/// Loads values from the origin.
pub(crate) struct Origin {
    agent: Agent,
    base: String,
    room: Room,
}

/// The URL without a slash at its end, if it is one that keys can follow.
pub(crate) fn check(url: &str) -> Result<String, &'static str> {
    let base = url.strip_suffix('/').unwrap_or(url);
    if !base.starts_with("http://") {
        return Err("it must begin with http://");
    }
    if base.contains(['?', '#']) {
        return Err("keys cannot follow a query or a fragment");
    }
    let uri = base.parse::<http::Uri>().map_err(|_| "it is no URL")?;
    // A port that is none would silently be the default one.
    let port = uri.authority().is_some_and(|authority| {
        let host = authority.host();
        !host.is_empty() && (authority.port_u16().is_some() || authority.as_str().ends_with(host))
    });
    if !port {
        return Err("it must name a host, and a port only if that is a number up to 65535");
    }
    Ok(base.to_owned())
}

impl Origin {
    /// The origin at `base`, which [`check`] approved.
    pub(crate) fn new(base: &str) -> Origin {
        let config = Agent::config_builder()
            .user_agent(concat!("groupcache-sync/", env!("CARGO_PKG_VERSION")))
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Not a timeout for the whole call: for that, ureq would start a thread each time.
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_send_request(Some(Duration::from_secs(30)))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_recv_body(Some(PATIENCE))
            .max_idle_connections(64)
            .max_idle_connections_per_host(64)
            // Many servers close what has been idle for 5 seconds.
            .max_idle_age(Duration::from_secs(4))
            // Holds the longest key, percent-encoded.
            .output_buffer_size(24 << 10)
            .input_buffer_size(64 << 10)
            .build();
        let connector = DefaultConnector::new().chain(NoteNew);
        Origin {
            agent: Agent::with_parts(config, connector, DefaultResolver::default()),
            base: base.to_owned(),
            room: Room::new(ROOM),
        }
    }

    /// Reads a body to its end, whatever it is: else the connection cannot be used again.
    fn read(&self, body: Body) -> Result<Value, ureq::Error> {
        let announced = body.content_length();
        let mut reader = body.into_with_config().limit(MAX_BODY).reader();
        let mut bytes = Vec::new();
        (&mut reader).take(SMALL).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < SMALL {
            return Ok(Value::from(bytes));
        }
        // One that does not say how long it is may be as long as a value that is kept.
        let _part = self.room.take(announced.unwrap_or(MAX_KEPT), None);
        // No more than is needed, and at once: bytes that grow are in memory twice.
        let rest = announced.unwrap_or(0).min(MAX_BODY).saturating_sub(SMALL);
        bytes.reserve_exact(rest as usize);
        reader.read_to_end(&mut bytes)?;
        Ok(Value::from(bytes))
    }

    fn ask(&self, key: &str) -> Result<http::Response<Body>, ureq::Error> {
        let url = format!("{}/{}", self.base, utf8_percent_encode(key, ESCAPED));
        MADE.set(false);
        match self.agent.get(&url).call() {
            // A connection that was kept had been closed meanwhile: the origin knows nothing of
            // this request. On a new connection it may, so that would be a second load.
            Err(error) if broke_off(&error) && !MADE.get() => self.agent.get(&url).call(),
            answer => answer,
        }
    }
}

impl Loader<Value> for Origin {
    /// Takes as long as it takes: a load that outlives its caller is cached all the same.
    fn load(&self, load: &Load<'_>) -> Result<Loaded<Value>, LoadError> {
        let answer = self.ask(load.key())?;
        let status = answer.status().as_u16();
        let life = life(answer.headers());
        let body = self.read(answer.into_body())?;
        match status {
            200 => {
                let loaded = Loaded::new(body);
                Ok(match life {
                    Some(life) => loaded.ttl(life),
                    None => loaded,
                })
            }
            404 => Err(LoadError::NotFound),
            status => Err(format!("the origin answered {status}").into()),
        }
    }
}

/// How long a message says that its value lives, by `Cache-Control`, `Age` and `Vary: *`, as for a cache
/// that many share (RFC 9111); zero is not to be kept at all. `Expires` is not looked at, and what says
/// that a value must not be used past its life (`must-revalidate`) does not undo `--stale-ms`.
fn life(headers: &http::HeaderMap) -> Option<Duration> {
    if values(headers, VARY).contains('*') {
        return Some(Duration::ZERO); // it may be another one for every request
    }
    let life = life_of(&values(headers, CACHE_CONTROL))?;
    // It has lived already in the caches before this one.
    let age = match headers.contains_key(AGE) {
        true => seconds_of(&values(headers, AGE)).unwrap_or(Duration::MAX),
        false => Duration::ZERO,
    };
    Some(life.saturating_sub(age))
}

/// All values of a header as one list.
fn values(headers: &http::HeaderMap, name: HeaderName) -> String {
    list(headers.get_all(name).iter().map(HeaderValue::as_bytes))
}

/// The lines of a header as one list.
pub(crate) fn list<'a>(lines: impl Iterator<Item = &'a [u8]>) -> String {
    let texts = lines.map(String::from_utf8_lossy);
    texts.collect::<Vec<_>>().join(",")
}

/// A whole number of seconds; too many digits mean for ever.
fn seconds_of(text: &str) -> Result<Duration, NoNumber> {
    let digits = text.trim().trim_matches('"');
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(NoNumber);
    }
    let seconds = digits.parse::<u32>().unwrap_or(u32::MAX);
    Ok(Duration::from_secs(seconds.into()))
}

struct NoNumber;

/// The life that the value of `Cache-Control` means: what is said to shared caches goes before what
/// is said to all. Of two that contradict each other the shorter one holds.
pub(crate) fn life_of(header: &str) -> Option<Duration> {
    let (mut shared, mut all) = (None, None);
    for directive in header.split(',') {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        // What is no number is stale at once.
        let life = || seconds_of(value).unwrap_or(Duration::ZERO);
        match &*name.trim().to_ascii_lowercase() {
            "no-store" | "no-cache" | "private" => return Some(Duration::ZERO),
            "s-maxage" => shared = shared.into_iter().chain([life()]).min(),
            "max-age" => all = all.into_iter().chain([life()]).min(),
            _ => {}
        }
    }
    shared.or(all)
}

fn broke_off(error: &ureq::Error) -> bool {
    let kinds = [
        ErrorKind::UnexpectedEof,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        ErrorKind::BrokenPipe,
    ];
    matches!(error, ureq::Error::Io(error) if kinds.contains(&error.kind()))
}

thread_local! {
    /// Whether this thread's call has made a connection, and not used one that was kept.
    static MADE: Cell<bool> = const { Cell::new(false) };
}

/// Follows the connector in the chain, so it is called for each new connection.
#[derive(Debug)]
struct NoteNew;

impl<T: Transport> Connector<T> for NoteNew {
    type Out = T;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        made: Option<T>,
    ) -> Result<Option<T>, ureq::Error> {
        MADE.set(true);
        Ok(made)
    }
}
