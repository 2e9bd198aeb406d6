//! `Tls`: the certificate of this node, and the authorities that it trusts.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoServerSessionStorage, ServerConfig, ServerConnection, WebPkiClientVerifier,
};
use rustls::version::TLS13;
use rustls::{RootCertStore, SupportedProtocolVersion};

use crate::error::Error;
use crate::runtime::sync::{Arc, RwLock};
use crate::transport::stream::{Secured, Stream};

/// All peers use this crate. Other clients, such as the probes of load balancers, have TLS 1.3 too.
const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];

/// TLS between nodes: this node's certificate and key, and the authorities whose certificates it
/// trusts. Give it to a node with [`NodeBuilder::tls`](crate::NodeBuilder::tls).
///
/// An address that begins with `https://` is then reached through TLS 1.3: the peer must have a
/// certificate of one of the authorities, for the host of that address, which is a name or an IP
/// address. A [`Server`](crate::Server) of a node with such an address speaks TLS only.
///
/// With your own authority, which signs a certificate for each node and nothing else, and with
/// [`require_client_certificates`](Tls::require_client_certificates), only nodes can use the port. The
/// certificate of a node must then be valid for servers and for clients. Without client certificates,
/// answers are authenticated and nothing can be overheard, but everybody who reaches the port can send
/// requests.
///
/// A clone is another handle to the same certificates. Sessions are not resumed: each connection
/// verifies the certificates again. A connection that is kept open is not closed when a certificate
/// expires.
///
/// ```no_run
/// use groupcache_sync::{Node, Server, Tls};
///
/// let tls = Tls::from_files("node.pem", "node.key", "authority.pem")?.require_client_certificates();
/// let node = Node::builder("https://10.0.0.5:7000")?.tls(tls.clone()).build()?;
/// let server = Server::bind(&node, "0.0.0.0:7000")?;
/// node.set_peers(["https://10.0.0.5:7000", "https://10.0.0.6:7000"])?;
/// // Later, when there are new files:
/// tls.reload()?;
/// # drop(server);
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
    requires_client_certificates: bool,
}

struct Shared {
    files: Option<Files>,
    /// Replaced as a whole.
    configs: RwLock<Configs>,
}

struct Files {
    certificates: PathBuf,
    key: PathBuf,
    authorities: PathBuf,
}

/// The settings of handshakes.
struct Configs {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// As `server`, but accepts only clients with a certificate.
    strict_server: Arc<ServerConfig>,
}

impl Tls {
    /// Reads three PEM files: the certificate of this node, optionally followed by the intermediate
    /// certificates up to its authority; its private key (PKCS #8, PKCS #1 or SEC1); and the
    /// certificates of the authorities.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] if one of them cannot be read or used, or the key belongs to another certificate.
    pub fn from_files(
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
        authorities: impl Into<PathBuf>,
    ) -> Result<Tls, Error> {
        let files = Files {
            certificates: certificates.into(),
            key: key.into(),
            authorities: authorities.into(),
        };
        let configs = files.read()?;
        Ok(Tls::new(Some(files), configs))
    }

    /// As [`from_files`](Tls::from_files), but takes the contents of the files.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] if one of them cannot be used, or the key belongs to another certificate.
    pub fn from_pem(certificates: &[u8], key: &[u8], authorities: &[u8]) -> Result<Tls, Error> {
        Ok(Tls::new(None, given(certificates, key, authorities)?))
    }

    fn new(files: Option<Files>, configs: Configs) -> Tls {
        Tls {
            shared: Arc::new(Shared {
                files,
                configs: RwLock::new(configs),
            }),
            requires_client_certificates: false,
        }
    }

    /// Makes servers with this handle refuse clients without a certificate of the authorities. By
    /// default they do not request one.
    #[must_use]
    pub fn require_client_certificates(self) -> Tls {
        Tls {
            requires_client_certificates: true,
            ..self
        }
    }

    /// Reads the files again, for all handles. New connections use the new certificates; existing
    /// connections do not change.
    ///
    /// # Errors
    ///
    /// [`Error::Tls`] if one of them cannot be read or used, or if the certificates came from memory: see
    /// [`replace`](Tls::replace). Then nothing changes.
    pub fn reload(&self) -> Result<(), Error> {
        let Some(files) = &self.shared.files else {
            let reason = "they came from memory; use `replace`";
            return Err(unusable("the certificates", reason));
        };
        self.swap(files.read()?);
        Ok(())
    }

    /// As [`reload`](Tls::reload), but takes the contents of the files.
    ///
    /// # Errors
    ///
    /// Those of [`from_pem`](Tls::from_pem). Then nothing changes.
    pub fn replace(
        &self,
        certificates: &[u8],
        key: &[u8],
        authorities: &[u8],
    ) -> Result<(), Error> {
        self.swap(given(certificates, key, authorities)?);
        Ok(())
    }

    fn swap(&self, configs: Configs) {
        let old = std::mem::replace(&mut *self.shared.configs.write(), configs);
        drop(old); // without the lock
    }

    /// Whether clients without a certificate can connect.
    pub(crate) fn admits_strangers(&self) -> bool {
        !self.requires_client_certificates
    }

    /// Whether a certificate can be for this host: a DNS name, or an IP address without brackets.
    pub(crate) fn can_prove(host: &str) -> bool {
        ServerName::try_from(host).is_ok()
    }

    /// Does the handshake over `socket`, which blocks; an error if the peer does not prove to be `host`.
    pub(crate) fn connect<S>(&self, host: &str, socket: S) -> io::Result<Stream<S>>
    where
        S: io::Read + io::Write,
    {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = Arc::clone(&self.shared.configs.read().client);
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut secured = Secured::new(session, socket);
        secured.handshake()?;
        Ok(Stream::Tls(Box::new(secured)))
    }

    /// The stream of a client. Its handshake is done while the stream is read and written.
    pub(crate) fn accept<S>(&self, socket: S) -> io::Result<Stream<S>> {
        let config = {
            let configs = self.shared.configs.read();
            Arc::clone(if self.requires_client_certificates {
                &configs.strict_server
            } else {
                &configs.server
            })
        };
        let session = ServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Stream::Tls(Box::new(Secured::new(session, socket))))
    }
}

/// Shows the paths of the certificates, and nothing about the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.shared.files.as_ref();
        f.debug_struct("Tls")
            .field("certificates", &files.map(|files| &files.certificates))
            .field("authorities", &files.map(|files| &files.authorities))
            .field(
                "requires_client_certificates",
                &self.requires_client_certificates,
            )
            .finish_non_exhaustive()
    }
}

impl Files {
    fn read(&self) -> Result<Configs, Error> {
        let files = [&self.certificates, &self.key, &self.authorities];
        let [certificates, key, authorities] = files.map(|path| Pem::read(path));
        Configs::new(&certificates?, &key?, &authorities?)
    }
}

fn given(certificates: &[u8], key: &[u8], authorities: &[u8]) -> Result<Configs, Error> {
    let pem = |what: &str, bytes: &[u8]| Pem {
        what: what.to_owned(),
        bytes: bytes.to_vec(),
    };
    Configs::new(
        &pem("the certificates", certificates),
        &pem("the key", key),
        &pem("the authorities", authorities),
    )
}

/// The contents of a PEM file, and its name in errors.
struct Pem {
    what: String,
    bytes: Vec<u8>,
}

impl Pem {
    fn read(path: &Path) -> Result<Pem, Error> {
        let what = path.display().to_string();
        match fs::read(path) {
            Ok(bytes) => Ok(Pem { what, bytes }),
            Err(error) => Err(unusable(&what, error)),
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let found = found.map_err(|error| unusable(&self.what, error))?;
        if found.is_empty() {
            return Err(unusable(&self.what, "there is no certificate in it"));
        }
        Ok(found)
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        let found = PrivateKeyDer::from_pem_slice(&self.bytes);
        // The message of the parser might show a part of the key.
        found.map_err(|_| unusable(&self.what, "there is no private key in it"))
    }

    fn authorities(&self) -> Result<Arc<RootCertStore>, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            let added = roots.add(certificate);
            added.map_err(|error| unusable(&self.what, error))?;
        }
        Ok(Arc::new(roots))
    }
}

impl Configs {
    fn new(certificates: &Pem, key: &Pem, authorities: &Pem) -> Result<Configs, Error> {
        let (chain, key) = (certificates.certificates()?, key.key()?);
        let roots = authorities.authorities()?;
        let provider = Arc::new(ring::default_provider());
        let own = |error| unusable(&certificates.what, error);

        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(VERSIONS)
            .map_err(own)?
            .with_root_certificates(Arc::clone(&roots));
        let mut client = client
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(own)?;
        client.resumption = Resumption::disabled();

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let verifier = verifier.build();
        let verifier = verifier.map_err(|error| unusable(&authorities.what, error))?;
        let server = |verifier| server(&provider, verifier, &chain, &key).map_err(own);
        Ok(Configs {
            client: Arc::new(client),
            server: Arc::new(server(WebPkiClientVerifier::no_client_auth())?),
            strict_server: Arc::new(server(verifier)?),
        })
    }
}

fn server(
    provider: &Arc<CryptoProvider>,
    clients: Arc<dyn ClientCertVerifier>,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain.to_vec(), key.clone_key())?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn unusable(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Tls {
        what: what.into(),
        source: Arc::from(source.into()),
    }
}
