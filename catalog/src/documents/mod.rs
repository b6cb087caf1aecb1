//! Versioned documents on object storage: the control plane without a database.
//!
//! `<prefix>/<kind>/<id>/<20-digit version>`, versions 1, 2, 3 …, each created by put-if-absent and never changed or
//! removed: the newest is the document, its number the ETag, the older ones its history. Whoever loses the race for a
//! version reads again. A name that was removed could be written again by a slow writer, so there is no way to remove.
//!
//! The highest version seen is remembered for the life of the process, for every document that was touched: a listing
//! that ends below it, or has a hole, is an error and never an older answer. That is what keeps the deletion of the
//! newest version from lifting a hold or reviving a grant.

mod sealed;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use sha2::{Digest, Sha256};

use crate::ids::{IdError, IdFault};
use crate::store::StoreFault;

pub use sealed::SealedDocuments;

/// The longest kind or id, in characters.
pub const NAME_MAX: usize = 200;
/// The largest document.
pub const DOCUMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
const VERSION_DIGITS: usize = 20;
/// How often a listing is repeated that missed a version which is there after all.
const LISTINGS_MAX: usize = 4;
/// How often a version is put that the store calls taken and does not have.
const PUTS_MAX: u32 = 4;
const PUT_WAIT: Duration = Duration::from_millis(50);

/// Why a document could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Somebody else wrote this version: read the document again and decide anew.
    #[error("this version of the document exists already")]
    VersionTaken,
    /// The version before this one does not exist.
    #[error("the version before this one does not exist")]
    NotNext,
    /// The store does not answer. A put may have happened or not: read the document again.
    #[error("the document store does not answer")]
    Unavailable {
        /// What the store said.
        #[source]
        source: StoreFault,
    },
    /// The history of the document is not as this product left it. Nothing of it may be used.
    #[error("the document's history was tampered with")]
    Tampered(#[source] Tampering),
    /// A kind or id that cannot be a path segment.
    #[error("not a document name")]
    InvalidName(#[source] IdError),
    /// Larger than any document may be.
    #[error("the document is too large")]
    TooLarge,
    /// The document could not be encrypted.
    #[error("the document could not be sealed")]
    Sealing(#[source] crate::keys::Unauthentic),
}

/// What is wrong with a document's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Tampering {
    /// A version is missing between others.
    #[error("a version is missing")]
    Hole,
    /// A version that was seen before is gone.
    #[error("the newest version seen is gone")]
    Regress,
    /// A version that was seen before has other bytes now.
    #[error("a version has changed")]
    Changed,
    /// The seal of a version does not open.
    #[error("the seal does not open")]
    Seal,
}

/// Documents below one prefix of one store.
#[derive(Debug)]
pub struct Documents {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    seen: Mutex<HashMap<Name, Seen>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    kind: String,
    id: String,
}

/// The highest version of a document that was ever seen, with the digest of its bytes if those were seen too.
#[derive(Debug, Clone, Copy)]
struct Seen {
    version: u64,
    digest: Option<[u8; 32]>,
}

/// What a version means that is there already, with the bytes that were to be written.
#[derive(Clone, Copy, PartialEq)]
enum Equal {
    IsOurs,
    IsTaken,
}

impl Documents {
    /// Documents below `prefix`.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self {
            store,
            prefix,
            seen: Mutex::default(),
        }
    }

    /// Writes version `version`, which must be the next one. Durable when it returns, if the store's puts are.
    ///
    /// Of writers that race with different bytes one succeeds. With the same bytes all may: a document that decides who
    /// goes first is written with [`Self::claim`].
    pub async fn put(
        &self,
        kind: &str,
        id: &str,
        version: u64,
        bytes: Bytes,
    ) -> Result<(), DocumentError> {
        self.write(kind, id, version, bytes, Equal::IsOurs).await
    }

    /// The same for a document that decides who goes first: of writers that race one succeeds at most, whatever their
    /// bytes. After [`DocumentError::VersionTaken`] the version may be the caller's own: read the document again.
    pub async fn claim(
        &self,
        kind: &str,
        id: &str,
        version: u64,
        bytes: Bytes,
    ) -> Result<(), DocumentError> {
        self.write(kind, id, version, bytes, Equal::IsTaken).await
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "documents are created here, with put-if-absent, and nowhere else"
    )]
    async fn write(
        &self,
        kind: &str,
        id: &str,
        version: u64,
        bytes: Bytes,
        equal: Equal,
    ) -> Result<(), DocumentError> {
        let name = Name::new(kind, id)?;
        if bytes.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLarge);
        }
        self.check_is_next(&name, version).await?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        let path = self.path(&name, version);
        for attempt in 1..=PUTS_MAX {
            let payload = PutPayload::from_bytes(bytes.clone());
            let put = self
                .store
                .put_opts(&path, payload, PutMode::Create.into())
                .await;
            let fault = match put {
                Ok(_) => return self.saw(&name, version, Some(digest)),
                Err(error) => error,
            };
            // The store's client tries again by itself, and then meets what its first try wrote. What counts is what
            // is there.
            match self.read(&name, version).await {
                Ok(Some(there))
                    if equal == Equal::IsOurs && Sha256::digest(&there).as_slice() == digest =>
                {
                    return Ok(());
                }
                Ok(Some(_)) => return Err(DocumentError::VersionTaken),
                Ok(None) if is_taken(&fault) => tokio::time::sleep(PUT_WAIT * attempt).await,
                Ok(None) | Err(DocumentError::Unavailable { .. }) => {
                    return Err(unavailable(fault));
                }
                Err(error) => return Err(error),
            }
        }
        Err(DocumentError::Unavailable {
            source: StoreFault::contradiction(),
        })
    }

    /// The newest version and its number; `None` if there never was one.
    pub async fn latest(
        &self,
        kind: &str,
        id: &str,
    ) -> Result<Option<(u64, Bytes)>, DocumentError> {
        let name = Name::new(kind, id)?;
        // The versions below the highest seen were checked when that one was seen.
        let from = self.highest_seen(&name).unwrap_or(1);
        let versions = self.list_versions(&name, from).await?;
        let Some(&newest) = versions.last() else {
            return Ok(None);
        };
        match self.read(&name, newest).await? {
            Some(bytes) => Ok(Some((newest, bytes))),
            None => Err(DocumentError::Tampered(Tampering::Regress)),
        }
    }

    /// One version; `None` if it was never written.
    pub async fn get(
        &self,
        kind: &str,
        id: &str,
        version: u64,
    ) -> Result<Option<Bytes>, DocumentError> {
        let name = Name::new(kind, id)?;
        if version == 0 {
            return Ok(None);
        }
        self.read(&name, version).await
    }

    /// The numbers of all versions, 1 to the newest, every one of them looked up.
    pub async fn versions(&self, kind: &str, id: &str) -> Result<Vec<u64>, DocumentError> {
        let name = Name::new(kind, id)?;
        self.list_versions(&name, 1).await
    }

    /// The ids of this kind, sorted. Some stores name an id whose first put failed: its [`Self::latest`] is `None`.
    pub async fn list(&self, kind: &str) -> Result<Vec<String>, DocumentError> {
        check_name(kind)?;
        let expected: Vec<String> = {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.keys()
                .filter(|name| name.kind == kind)
                .map(|name| name.id.clone())
                .collect()
        };
        let folder = self.prefix.clone().join(kind);
        let listed = self
            .store
            .list_with_delimiter(Some(&folder))
            .await
            .map_err(unavailable)?;
        let mut ids: Vec<String> = listed
            .common_prefixes
            .iter()
            .filter_map(Path::filename)
            .filter(|id| check_name(id).is_ok())
            .map(str::to_owned)
            .collect();
        ids.sort_unstable();
        if expected.iter().all(|id| ids.binary_search(id).is_ok()) {
            Ok(ids)
        } else {
            Err(DocumentError::Tampered(Tampering::Regress))
        }
    }

    pub(crate) fn path_text(
        &self,
        kind: &str,
        id: &str,
        version: u64,
    ) -> Result<String, DocumentError> {
        Ok(self.path(&Name::new(kind, id)?, version).to_string())
    }

    async fn check_is_next(&self, name: &Name, version: u64) -> Result<(), DocumentError> {
        let highest = self.highest_seen(name).unwrap_or(0);
        if version == 0 {
            return Err(DocumentError::NotNext);
        }
        if version <= highest {
            // Also when the store has lost it since: putting it again would fork the history.
            return Err(DocumentError::VersionTaken);
        }
        if version - 1 > highest && !self.exists(name, version - 1).await? {
            return Err(DocumentError::NotNext);
        }
        Ok(())
    }

    /// The versions from `from` to the newest. Empty only if the document was never seen.
    async fn list_versions(&self, name: &Name, from: u64) -> Result<Vec<u64>, DocumentError> {
        let seen = self.highest_seen(name).unwrap_or(0);
        for _ in 0..LISTINGS_MAX {
            let versions = self.list_once(name, from).await?;
            let missing = (from..)
                .zip(&versions)
                .find_map(|(expected, &found)| (expected != found).then_some(expected));
            let newest = versions.last().copied().unwrap_or(0);
            let missing = missing.or((newest < seen).then_some(newest.max(from - 1) + 1));
            let Some(missing) = missing else {
                if newest > 0 {
                    self.saw(name, newest, None)?;
                }
                return Ok(versions);
            };
            // A listing of a folder that is being written to may miss a new name; asking for the name does not.
            if !self.exists(name, missing).await? {
                let tampering = if missing > newest {
                    Tampering::Regress
                } else {
                    Tampering::Hole
                };
                return Err(DocumentError::Tampered(tampering));
            }
        }
        Err(DocumentError::Tampered(Tampering::Hole))
    }

    async fn list_once(&self, name: &Name, from: u64) -> Result<Vec<u64>, DocumentError> {
        let folder = self.folder(name);
        let before = self.path(name, from.saturating_sub(1));
        let mut versions: Vec<u64> = self
            .store
            .list_with_offset(Some(&folder), &before)
            .try_filter_map(|object| {
                // Not every store knows of offsets.
                let version = parse_version(&folder, &object.location);
                let version = version.filter(|&version| version >= from);
                futures::future::ready(Ok(version))
            })
            .try_collect()
            .await
            .map_err(unavailable)?;
        versions.sort_unstable();
        Ok(versions)
    }

    async fn read(&self, name: &Name, version: u64) -> Result<Option<Bytes>, DocumentError> {
        let highest = self.highest_seen(name).unwrap_or(0);
        let got = match self.store.get(&self.path(name, version)).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) if version > highest => {
                return Ok(None);
            }
            Err(object_store::Error::NotFound { .. }) => {
                return Err(DocumentError::Tampered(Tampering::Regress));
            }
            Err(error) => return Err(unavailable(error)),
        };
        if got.meta.size > DOCUMENT_BYTES_MAX as u64 {
            return Err(DocumentError::TooLarge);
        }
        let bytes = got.bytes().await.map_err(unavailable)?;
        self.saw(name, version, Some(Sha256::digest(&bytes).into()))?;
        Ok(Some(bytes))
    }

    async fn exists(&self, name: &Name, version: u64) -> Result<bool, DocumentError> {
        match self.store.head(&self.path(name, version)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(unavailable(error)),
        }
    }

    fn highest_seen(&self, name: &Name) -> Option<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(name).map(|seen| seen.version)
    }

    /// Remembers a version; one whose bytes were seen before must have them still.
    fn saw(
        &self,
        name: &Name,
        version: u64,
        digest: Option<[u8; 32]>,
    ) -> Result<(), DocumentError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = seen.get_mut(name) else {
            seen.insert(name.clone(), Seen { version, digest });
            return Ok(());
        };
        if version > before.version {
            *before = Seen { version, digest };
        } else if version == before.version {
            match (before.digest, digest) {
                (Some(old), Some(new)) if old != new => {
                    return Err(DocumentError::Tampered(Tampering::Changed));
                }
                (None, Some(_)) => before.digest = digest,
                _ => {}
            }
        }
        Ok(())
    }

    fn folder(&self, name: &Name) -> Path {
        self.prefix
            .clone()
            .join(name.kind.as_str())
            .join(name.id.as_str())
    }

    fn path(&self, name: &Name, version: u64) -> Path {
        self.folder(name).join(format!("{version:020}"))
    }
}

fn unavailable(error: object_store::Error) -> DocumentError {
    DocumentError::Unavailable {
        source: StoreFault::from_store(&error),
    }
}

fn is_taken(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }
    )
}

impl Name {
    fn new(kind: &str, id: &str) -> Result<Self, DocumentError> {
        check_name(kind)?;
        check_name(id)?;
        Ok(Self {
            kind: kind.to_owned(),
            id: id.to_owned(),
        })
    }
}

/// `A-Z a-z 0-9 . _ -`, not beginning with a dot: a path segment that no store escapes or treats apart.
fn check_name(text: &str) -> Result<(), DocumentError> {
    let fault = if text.is_empty() {
        Some(IdFault::Empty)
    } else if text.len() > NAME_MAX {
        Some(IdFault::TooLong { max: NAME_MAX })
    } else {
        text.bytes()
            .enumerate()
            .find(|&(index, byte)| {
                let inner = index > 0 && byte == b'.';
                !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || inner)
            })
            .map(|(index, _)| IdFault::Character {
                position: index + 1,
            })
    };
    fault.map_or(Ok(()), |fault| {
        Err(DocumentError::InvalidName(IdError::new(
            "document name",
            fault,
        )))
    })
}

/// The version that a path in this folder names. Anything else that lies there is not ours and is passed over.
fn parse_version(folder: &Path, path: &Path) -> Option<u64> {
    let mut parts = path.prefix_match(folder)?;
    let (name, None) = (parts.next()?, parts.next()) else {
        return None;
    };
    let digits = name.as_ref();
    let ours = digits.len() == VERSION_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    if ours {
        digits.parse().ok().filter(|&version| version > 0)
    } else {
        None
    }
}
