//! Certificates for tests, made when they run.
#![allow(clippy::unwrap_used)] // so does a test fail

use std::fs;
use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};

/// Signs certificates.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// The first and the last year in which a certificate is good.
pub(crate) type Years = (i32, i32);

pub(crate) const NOW: Years = (2020, 2099);

impl Authority {
    pub(crate) fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // Another name than all others have.
        let name = KeyPair::generate().unwrap().public_key_pem();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for 127.0.0.1, for servers and clients.
    pub(crate) fn identity(&self) -> Identity {
        self.identity_of("127.0.0.1", NOW)
    }

    pub(crate) fn identity_of(&self, host: &str, (first, last): Years) -> Identity {
        let mut params = CertificateParams::new([host.to_owned()]).unwrap();
        params.not_before = date_time_ymd(first, 1, 1);
        params.not_after = date_time_ymd(last, 12, 31);
        let key = KeyPair::generate().unwrap();
        Identity {
            certificate: params.signed_by(&key, &self.0).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// The three files of a node, in a folder of their own until dropped.
pub(crate) struct Files(PathBuf);

impl Files {
    /// `name` is one that no other test has.
    pub(crate) fn new(name: &str) -> Files {
        let folder = format!("groupcache-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(folder);
        fs::create_dir_all(&folder).unwrap();
        Files(folder)
    }

    /// The certificate, the key and the authority.
    pub(crate) fn paths(&self) -> [PathBuf; 3] {
        ["node.pem", "node.key", "authority.pem"].map(|name| self.0.join(name))
    }

    pub(crate) fn write(&self, identity: &Identity, authority: &Authority) {
        let contents = [&identity.certificate, &identity.key, &authority.pem()];
        for (path, content) in self.paths().iter().zip(contents) {
            fs::write(path, content).unwrap();
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
