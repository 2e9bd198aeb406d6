//! `groupcache_option`: what of a node or a group is not to be as by default.

use std::ffi::c_char;
use std::time::Duration;

use super::argument::c_text;
use super::status::Failure;
use crate::error::Error;
use crate::group::GroupBuilder;
use crate::node::NodeBuilder;
use crate::protocol::dialect::Dialect;

/// What can be set. Settings up to 99 are of nodes, the others of groups. The numbers never
/// change.
#[repr(i32)]
#[allow(dead_code, reason = "the numbers are the same in every build")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum groupcache_setting {
    /// How long a connection to a peer may take to be made. Default 250.
    ConnectTimeoutMs = 1,
    /// How long a peer may be silent: until its answer begins, and then for each 64 KiB. Default 1,000.
    FetchTimeoutMs = 2,
    /// How long a load may take where nobody can say that it is still under way. Default 10,000.
    LoadTimeoutMs = 3,
    /// How long a value lives that was loaded here as its owner was unreachable. Default 2,000.
    FallbackLifeMs = 4,
    /// How many calls to a peer must fail in a row for it to count as unreachable. Default 3.
    CircuitFailures = 5,
    /// How many threads may run loads for gets with a timeout and for peers. Default 16.
    LoaderThreads = 6,
    /// How large a value may be to be cached and to travel, in bytes. Default 16 MiB.
    MaxValue = 7,
    /// 1 if the peer list may lack this node, which then owns nothing. Default 0.
    AllowAbsent = 8,
    /// 1 for the protocol of golang/groupcache, on all peers. Default 0.
    Golang = 9,
    /// Text: the file with the secret that all nodes share. Needs the feature `auth`.
    SecretFile = 10,
    /// 1 if a `GET` takes no signature. Needs the feature `auth`. Default 0.
    UnsignedReads = 11,
    /// Text: the file with the certificates of this node, in PEM; the two below go with it. Needs the
    /// feature `tls`.
    TlsCertificateFile = 12,
    /// Text: the file with their key, in PEM.
    TlsKeyFile = 13,
    /// Text: the file with the authorities that sign the certificates of peers, in PEM.
    TlsAuthorityFile = 14,
    /// 1 if whoever connects must have a certificate too. Default 0.
    TlsClientCertificates = 15,
    /// For how long after a change of the ring values are taken over from their last owners.
    /// Default 30,000.
    WarmUpMs = 16,
    /// Text: the name of the cluster, the same on all nodes, of 1 to 255 bytes. Default: none.
    Cluster = 17,
    /// How long a value lives at most that a deputy has loaded. Default 30,000.
    DeputyLifeMs = 18,
    /// How long a value lives whose loader does not say. Default: until it is evicted.
    TtlMs = 101,
    /// How long any value lives at most. Default: no limit.
    MaxTtlMs = 102,
    /// By how much of its life, in percent, a value may expire earlier, so that values loaded
    /// together do not expire together. Default 0.
    TtlJitterPercent = 103,
    /// How many bytes of the capacity mirrored values may take. Default: an eighth.
    HotBytes = 104,
    /// How long a mirrored copy lives at most. Default 30,000.
    HotTtlMs = 105,
    /// How often a minute the whole cluster must ask for a key for its value to be mirrored.
    /// Default 60.
    HotThresholdPerMinute = 106,
    /// 1 if the error of an owner's loader is returned, 0 if it is loaded here instead. Default 0.
    HandOnLoadErrors = 107,
    /// For how long it is kept that there is no value. Default 0: it is not.
    NegativeTtlMs = 108,
    /// How many loads of the group may run in this process at once. Default: no limit.
    MaxLoads = 109,
    /// For how long past its expiry a value is given out while it is renewed. Default 0.
    StaleWhileRevalidateMs = 110,
    /// For how long past its expiry a value is given out if its load fails. Default 0.
    StaleIfErrorMs = 111,
    /// How many locks the cache is spread over. Default: by its capacity and the processors.
    Shards = 112,
    /// For how long the error of a load that failed again is given to those who ask, without another
    /// load. Default 250.
    ErrorTtlMs = 113,
    /// How many bytes of values this process hands to the deputies of their keys. Default: a
    /// thirty-second of the capacity.
    DeputyBytes = 114,
}

/// A setting, and what it is set to. The last option of a setting counts.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct groupcache_option {
    /// A `groupcache_setting`.
    pub setting: i32,
    /// What it is set to: milliseconds, bytes, a number, or 1 for yes and 0 for no.
    pub number: u64,
    /// What it is set to where the setting says that it is a text, which ends with NUL. Else `NULL`.
    pub text: *const c_char,
}

impl groupcache_option {
    fn is(&self, setting: groupcache_setting) -> bool {
        self.setting == setting as i32
    }

    fn duration(&self) -> Duration {
        Duration::from_millis(self.number)
    }

    fn count(&self) -> usize {
        usize::try_from(self.number).unwrap_or(usize::MAX)
    }

    fn flag(&self) -> Result<bool, Failure> {
        match self.number {
            0 => Ok(false),
            1 => Ok(true),
            number => {
                let setting = self.setting;
                let reason = format!("the setting {setting} is 0 or 1, not {number}");
                Err(Failure::Argument(reason))
            }
        }
    }

    fn text(&self) -> Result<&str, Failure> {
        // SAFETY: the header demands a text that ends with NUL.
        unsafe { c_text(self.text, "text of an option") }
    }

    fn unknown(&self, what: &str) -> Failure {
        let setting = self.setting;
        Failure::Argument(format!("a {what} has no setting of the number {setting}"))
    }
}

/// The options of a node, applied.
pub(super) fn with_node_options(
    mut builder: NodeBuilder,
    options: &[groupcache_option],
) -> Result<NodeBuilder, Failure> {
    use groupcache_setting as Set;
    for option in options {
        builder = match option {
            s if s.is(Set::ConnectTimeoutMs) => builder.connect_timeout(s.duration()),
            s if s.is(Set::FetchTimeoutMs) => builder.fetch_timeout(s.duration()),
            s if s.is(Set::LoadTimeoutMs) => builder.load_timeout(s.duration()),
            s if s.is(Set::FallbackLifeMs) => builder.fallback_life(s.duration()),
            s if s.is(Set::DeputyLifeMs) => builder.deputy_life(s.duration()),
            s if s.is(Set::WarmUpMs) => builder.warm_up(s.duration()),
            s if s.is(Set::CircuitFailures) => builder.circuit_failures(s.count()),
            s if s.is(Set::LoaderThreads) => builder.loader_threads(s.count()),
            s if s.is(Set::MaxValue) => builder.max_value(s.count()),
            s if s.is(Set::AllowAbsent) => builder.allow_absent(s.flag()?),
            s if s.is(Set::Golang) => builder.dialect(match s.flag()? {
                true => Dialect::Golang,
                false => Dialect::Native,
            }),
            s if s.is(Set::Cluster) => builder.cluster(s.text()?),
            s if s.is(Set::SecretFile) => with_secret(builder, s.text()?)?,
            s if s.is(Set::UnsignedReads) => with_unsigned_reads(builder, s.flag()?)?,
            // These go together, below.
            s if is_of_tls(s) => builder,
            s => return Err(s.unknown("node")),
        }
    }
    match options.iter().any(is_of_tls) {
        true => with_tls(builder, options),
        false => Ok(builder),
    }
}

fn is_of_tls(option: &groupcache_option) -> bool {
    (groupcache_setting::TlsCertificateFile as i32
        ..=groupcache_setting::TlsClientCertificates as i32)
        .contains(&option.setting)
}

#[cfg(feature = "auth")]
fn with_secret(builder: NodeBuilder, file: &str) -> Result<NodeBuilder, Failure> {
    Ok(builder.keyring(crate::auth::keyring::Keyring::from_file(file)?))
}

#[cfg(not(feature = "auth"))]
fn with_secret(_builder: NodeBuilder, _file: &str) -> Result<NodeBuilder, Failure> {
    Err(Error::setting(
        "secret_file",
        "the library was built without the feature auth",
    )
    .into())
}

#[cfg(feature = "auth")]
fn with_unsigned_reads(builder: NodeBuilder, allow: bool) -> Result<NodeBuilder, Failure> {
    Ok(builder.unsigned_reads(allow))
}

#[cfg(not(feature = "auth"))]
fn with_unsigned_reads(_builder: NodeBuilder, _allow: bool) -> Result<NodeBuilder, Failure> {
    Err(Error::setting(
        "unsigned_reads",
        "the library was built without the feature auth",
    )
    .into())
}

#[cfg(feature = "tls")]
fn with_tls(builder: NodeBuilder, options: &[groupcache_option]) -> Result<NodeBuilder, Failure> {
    use groupcache_setting as Set;
    let last = |setting| options.iter().rev().find(|option| option.is(setting));
    let file = |setting| match last(setting) {
        Some(option) => option.text(),
        None => {
            let reason = "certificates, key and authorities go together: give all three files";
            Err(Error::setting("tls", reason).into())
        }
    };
    let mut tls = crate::transport::tls::Tls::from_files(
        file(Set::TlsCertificateFile)?,
        file(Set::TlsKeyFile)?,
        file(Set::TlsAuthorityFile)?,
    )?;
    if let Some(option) = last(Set::TlsClientCertificates) {
        if option.flag()? {
            tls = tls.require_client_certificates();
        }
    }
    Ok(builder.tls(tls))
}

#[cfg(not(feature = "tls"))]
fn with_tls(_builder: NodeBuilder, _options: &[groupcache_option]) -> Result<NodeBuilder, Failure> {
    Err(Error::setting("tls", "the library was built without the feature tls").into())
}

/// The options of a group, applied.
pub(super) fn with_group_options(
    mut builder: GroupBuilder,
    options: &[groupcache_option],
) -> Result<GroupBuilder, Failure> {
    use groupcache_setting as Set;
    for option in options {
        builder = match option {
            s if s.is(Set::TtlMs) => builder.ttl(s.duration()),
            s if s.is(Set::MaxTtlMs) => builder.max_ttl(s.duration()),
            s if s.is(Set::TtlJitterPercent) => builder.ttl_jitter(s.number as f64 / 100.0),
            s if s.is(Set::HotBytes) => builder.hot_bytes(s.count()),
            s if s.is(Set::DeputyBytes) => builder.deputy_bytes(s.count()),
            s if s.is(Set::HotTtlMs) => builder.hot_ttl(s.duration()),
            s if s.is(Set::HotThresholdPerMinute) => builder.hot_threshold(s.number as f64 / 60.0),
            s if s.is(Set::HandOnLoadErrors) => builder.hand_on_load_errors(s.flag()?),
            s if s.is(Set::NegativeTtlMs) => builder.negative_ttl(s.duration()),
            s if s.is(Set::MaxLoads) => builder.max_loads(s.count()),
            s if s.is(Set::StaleWhileRevalidateMs) => builder.stale_while_revalidate(s.duration()),
            s if s.is(Set::StaleIfErrorMs) => builder.stale_if_error(s.duration()),
            s if s.is(Set::Shards) => builder.shards(s.count()),
            s if s.is(Set::ErrorTtlMs) => builder.error_ttl(s.duration()),
            s => return Err(s.unknown("group")),
        }
    }
    Ok(builder)
}
