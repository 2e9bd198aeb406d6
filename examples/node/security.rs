//! Who may ask, and how peers prove who they are: the secret and the certificates.

use groupcache_sync::{Error, Keyring, NodeBuilder, Tls};

use crate::Failure;
use crate::flags::Flags;

/// What is in the files that the flags name.
pub(crate) struct Security {
    keyring: Option<Keyring>,
    tls: Option<Tls>,
}

impl Security {
    pub(crate) fn read(flags: &Flags) -> Result<Security, Failure> {
        let keyring = flags.secret_file.as_ref().map(Keyring::from_file);
        let keyring = keyring
            .transpose()
            .map_err(|error| Failure::usage(format!("--secret-file: {error}")))?;
        let tls = flags.tls.as_ref().map(|files| {
            let tls = Tls::from_files(&files.certificate, &files.key, &files.authorities)?;
            Ok(if files.client_auth {
                tls.require_client_certificates()
            } else {
                tls
            })
        });
        let tls = tls
            .transpose()
            .map_err(|error: Error| Failure::usage(format!("--tls-cert: {error}")))?;
        Ok(Security { keyring, tls })
    }

    /// How addresses of nodes begin.
    pub(crate) fn scheme(&self) -> &'static str {
        match self.tls {
            Some(_) => "https://",
            None => "http://",
        }
    }

    pub(crate) fn guard(&self, mut builder: NodeBuilder) -> NodeBuilder {
        if let Some(keyring) = &self.keyring {
            builder = builder.keyring(keyring.clone());
        }
        if let Some(tls) = &self.tls {
            builder = builder.tls(tls.clone());
        }
        builder
    }

    /// Reads the files again. What cannot be used stays as it was.
    pub(crate) fn reload(&self) {
        match self.keyring.as_ref().map(Keyring::reload) {
            Some(Ok(())) => log::info!(target: "node", "the secret was read again"),
            Some(Err(error)) => {
                log::error!(target: "node", error:% = error; "the old secret stays")
            }
            None => {}
        }
        match self.tls.as_ref().map(Tls::reload) {
            Some(Ok(())) => log::info!(target: "node", "the certificates were read again"),
            Some(Err(error)) => {
                log::error!(target: "node", error:% = error; "the old certificates stay");
            }
            None => {}
        }
    }
}
