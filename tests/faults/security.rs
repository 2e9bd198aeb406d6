//! A secret and certificates for all nodes of a trial, where the environment asks for them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::certificates::{Authority, Files, Identity};
use crate::proxy::Ends;

/// Gone when dropped; the processes must have ended by then.
pub(crate) struct Security {
    files: Files,
    secret: PathBuf,
    ends: Arc<Ends>,
}

impl Security {
    /// What `GROUPCACHE_SECURITY` asks for, if anything.
    pub(crate) fn of_environment() -> Option<Security> {
        std::env::var_os("GROUPCACHE_SECURITY").map(|_| Security::new())
    }

    pub(crate) fn new() -> Security {
        let authority = Authority::new();
        let files = Files::new("faults");
        files.write(&authority.identity(), &authority);
        let secret = files.paths()[0].with_file_name("secret");
        fs::write(&secret, "a secret of the trials of faults\n").unwrap();
        // The links have certificates of their own: they stand for peers on both sides.
        let ends = Arc::new(ends(&authority, &authority.identity()));
        Security {
            files,
            secret,
            ends,
        }
    }

    /// The flags of a node.
    pub(crate) fn flags(&self) -> Vec<String> {
        let [certificate, key, authorities] = self.files.paths();
        let names = ["--tls-cert", "--tls-key", "--tls-ca", "--secret-file"];
        let paths = [&certificate, &key, &authorities, &self.secret];
        let pairs = names.iter().zip(paths);
        let flags = pairs.flat_map(|(name, path)| [name, path.to_str().unwrap()]);
        let flags = flags.chain(["--tls-client-auth"]);
        flags.map(str::to_owned).collect()
    }

    /// What the links do TLS with.
    pub(crate) fn ends(&self) -> Arc<Ends> {
        Arc::clone(&self.ends)
    }
}

fn ends(authority: &Authority, identity: &Identity) -> Ends {
    let mut roots = RootCertStore::empty();
    let pem = authority.pem();
    let root = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let roots = Arc::new(roots);
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = [&rustls::version::TLS13];
    let client = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let client = client.with_protocol_versions(&versions).unwrap();
    let client = client.with_root_certificates(Arc::clone(&roots));
    let client = client.with_client_auth_cert(chain.clone(), key.clone_key());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
    let server = ServerConfig::builder_with_provider(provider);
    let server = server.with_protocol_versions(&versions).unwrap();
    let server = server.with_client_cert_verifier(verifier.build().unwrap());
    Ends {
        client: Arc::new(client.unwrap()),
        server: Arc::new(server.with_single_cert(chain, key).unwrap()),
    }
}
