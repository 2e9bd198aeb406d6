//! `Keyring`: the secret that the nodes of a cluster share, and the previous or the next one.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::auth::signature::{MIN_SECRET_BYTES, Secret};
use crate::error::Error;
use crate::runtime::sync::{Arc, RwLock};

/// The secret with which the nodes of a cluster sign their requests to each other, and while it is being
/// replaced a second one. Given to a node by [`NodeBuilder::keyring`](crate::NodeBuilder::keyring).
///
/// Requests are signed with the first secret (an HMAC-SHA-256 over method, peer, path, header, time and
/// the digest of the body), and accepted with either. So a secret is replaced without a failed get, in
/// three rounds over all nodes, each finished before the next begins:
///
/// 1. `replace(old, Some(new))`: all nodes accept both secrets.
/// 2. `replace(new, Some(old))`: all nodes sign with the new secret.
/// 3. `replace(new, None)`: no node accepts the old secret.
///
/// The clocks of the nodes may be up to 30 seconds apart. A clone is another handle to the same
/// keyring. `Debug` shows no secret.
///
/// ```
/// use groupcache_sync::{Keyring, Node};
///
/// let keyring = Keyring::new("a long random text, the same on all nodes")?;
/// let node = Node::builder("http://10.0.0.5:7000")?.keyring(keyring.clone()).build()?;
/// keyring.replace("a long random text, the same on all nodes", Some("the next one of them"))?;
/// # drop(node);
/// # Ok::<(), groupcache_sync::Error>(())
/// ```
#[derive(Clone)]
pub struct Keyring(Arc<Shared>);

struct Shared {
    secrets: RwLock<Secrets>,
    /// The file that [`reload`](Keyring::reload) reads.
    file: Option<PathBuf>,
}

#[derive(Clone)]
struct Secrets {
    signing: Secret,
    second: Option<Secret>,
}

impl Keyring {
    /// A keyring with this secret, of 16 bytes or more. The best secrets are random, such as those of
    /// `openssl rand -hex 32`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if the secret is shorter.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Keyring, Error> {
        Ok(Keyring::of(Secrets::new(secret.as_ref(), None)?, None))
    }

    /// The keyring in a file: the secret in its first line and, if there is one, the second secret in
    /// its second line. White space around them is ignored. Only the process should be able to read the
    /// file.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if the file cannot be read or has more lines, or if a secret is too
    /// short.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Keyring, Error> {
        let path = path.as_ref();
        Ok(Keyring::of(Secrets::read(path)?, Some(path.to_owned())))
    }

    fn of(secrets: Secrets, file: Option<PathBuf>) -> Keyring {
        Keyring(Arc::new(Shared {
            secrets: RwLock::new(secrets),
            file,
        }))
    }

    /// Replaces the secrets: requests are signed with `secret` from now on, and accepted with both.
    ///
    /// # Errors
    ///
    /// As [`new`](Keyring::new); the secrets have not changed then.
    pub fn replace<S: AsRef<[u8]>>(&self, secret: S, also: Option<S>) -> Result<(), Error> {
        let also = also.as_ref().map(AsRef::as_ref);
        self.set(Secrets::new(secret.as_ref(), also)?);
        Ok(())
    }

    /// Reads the [file](Keyring::from_file) again. Does nothing if the keyring has no file.
    ///
    /// # Errors
    ///
    /// As [`from_file`](Keyring::from_file); the secrets have not changed then.
    pub fn reload(&self) -> Result<(), Error> {
        if let Some(file) = &self.0.file {
            self.set(Secrets::read(file)?);
        }
        Ok(())
    }

    fn set(&self, secrets: Secrets) {
        *self.0.secrets.write() = secrets;
    }

    pub(crate) fn signing(&self) -> Secret {
        self.0.secrets.read().signing.clone()
    }

    /// Whether `holds` is true for one of the secrets.
    pub(crate) fn any(&self, holds: impl Fn(&Secret) -> bool) -> bool {
        let Secrets { signing, second } = self.0.secrets.read().clone();
        holds(&signing) || second.as_ref().is_some_and(holds)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

impl Secrets {
    fn new(signing: &[u8], second: Option<&[u8]>) -> Result<Secrets, Error> {
        Ok(Secrets {
            signing: secret(signing)?,
            second: second.map(secret).transpose()?,
        })
    }

    fn read(path: &Path) -> Result<Secrets, Error> {
        let refused = |reason: &dyn fmt::Display| {
            Error::setting("keyring", format!("{}: {reason}", path.display()))
        };
        let bytes = std::fs::read(path).map_err(|error| refused(&error))?;
        let mut lines = bytes
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty());
        let (first, second) = (lines.next().unwrap_or_default(), lines.next());
        if lines.next().is_some() {
            return Err(refused(&"it has more than two lines: one for each secret"));
        }
        Secrets::new(first, second)
    }
}

fn secret(bytes: &[u8]) -> Result<Secret, Error> {
    Secret::new(bytes).ok_or_else(|| {
        let reason = format!(
            "a secret has {} bytes; give it {MIN_SECRET_BYTES} or more, such as those of \
             `openssl rand -hex 32`",
            bytes.len()
        );
        Error::setting("keyring", reason)
    })
}
