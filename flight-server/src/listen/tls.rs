//! TLS as the listeners speak it, with certificates that are read again while the server runs.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::config::Tls as Files;

/// What is spoken above TLS: gRPC wants the first, and most HTTP clients take it.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why TLS cannot be spoken. No text has anything of a key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("`{setting}`: `{path}` cannot be read")]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file that has something else in it.
    #[error("`{setting}`: `{path}` has {wanted} in PEM")]
    Pem {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should have had.
        wanted: &'static str,
    },
    /// Roots that are none.
    #[error("`tls.client_ca`: the certificates cannot be used")]
    Roots(#[source] VerifierBuilderError),
    /// A certificate and a key that do not go together, or cannot be used.
    #[error("`tls.certificate` and `tls.key` cannot be used together")]
    Pair(#[source] rustls::Error),
}

/// TLS with what its files had when they were last read and could be used.
pub(crate) struct Tls {
    files: Files,
    current: RwLock<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    /// Of the bytes of all files.
    digest: [u8; 32],
}

impl Tls {
    /// Reads the files.
    pub(crate) fn open(files: Files) -> Result<Self, Error> {
        warn_if_exposed(&files.key);
        let current = RwLock::new(Pem::read(&files)?.current(&files)?);
        Ok(Self { files, current })
    }

    /// Reads the files again; whether they had something else. Where they cannot be used, what is in use stays in use.
    /// Connections that there are go on as they are. Reads from disk.
    pub(crate) fn reload(&self) -> Result<bool, Error> {
        let pem = Pem::read(&self.files)?;
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if pem.digest() == current.digest {
            return Ok(false);
        }
        drop(current);
        let next = pem.current(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(true)
    }

    /// Agrees on TLS with one client.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&current.config))
    }
}

/// Says nothing of the key.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// The bytes of the files.
struct Pem {
    certificate: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl Pem {
    fn read(files: &Files) -> Result<Self, Error> {
        let read = |setting, path: &PathBuf| {
            std::fs::read(path).map_err(|source| Error::File {
                setting,
                path: path.clone(),
                source,
            })
        };
        Ok(Self {
            certificate: read("tls.certificate", &files.certificate)?,
            key: Zeroizing::new(read("tls.key", &files.key)?),
            client_ca: (files.client_ca.as_ref())
                .map(|path| read("tls.client_ca", path))
                .transpose()?,
        })
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let client_ca = self.client_ca.as_deref().unwrap_or_default();
        for bytes in [&self.certificate, &*self.key, client_ca] {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        }
        digest.finalize().into()
    }

    fn current(&self, files: &Files) -> Result<Current, Error> {
        let unlike = |setting, path: &PathBuf, wanted| Error::Pem {
            setting,
            path: path.clone(),
            wanted,
        };
        let chain = certificates(&self.certificate)
            .ok_or_else(|| unlike("tls.certificate", &files.certificate, "no certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| unlike("tls.key", &files.key, "no private key"))?;
        let builder = ServerConfig::builder();
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                let none = || unlike("tls.client_ca", path, "no certificate");
                let mut roots = RootCertStore::empty();
                for root in certificates(pem).ok_or_else(none)? {
                    roots.add(root).map_err(|_| none())?;
                }
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
                builder.with_client_cert_verifier(verifier.map_err(Error::Roots)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(Error::Pair)?;
        if self.client_ca.is_some() {
            // A session that is taken up again shows no certificate: one that has ended since would be let in.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Current {
            config: Arc::new(config),
            digest: self.digest(),
        })
    }
}

/// Says so if everybody on this machine can read the key. It is not refused: that is how secrets are mounted by default
/// in some places.
fn warn_if_exposed(key: &Path) {
    let mode = std::fs::metadata(key).map(|found| found.permissions().mode());
    if mode.is_ok_and(|mode| mode & 0o007 != 0) {
        tracing::warn!(
            "`tls.key` can be read by every user of this machine: chmod o= takes that away"
        );
    }
}

/// The certificates of a file, at least one.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty())
}
