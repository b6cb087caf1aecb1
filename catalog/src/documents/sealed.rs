//! Documents that only the holder of a key can read or forge.
//!
//! Stored bytes are `"thd1" | nonce (12) | ciphertext | tag (16)`, AES-256-GCM. The AAD binds a version to its place and
//! to its past: `"thd1"`, the object's path (kind, id and version in it, all below the store's root) and the SHA-256 of
//! the previous version's stored bytes (32 zero bytes for version 1), each as a u32 LE length and its bytes. So a
//! version cannot be moved to another document, nor follow another history than the one it was written after.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{DocumentError, Documents, Tampering};
use crate::clock::Random;
use crate::keys::{self, SecretKey};

const MAGIC: &[u8; 4] = b"thd1";

/// Sealed documents; the contract is that of [`Documents`].
#[derive(Debug)]
pub struct SealedDocuments {
    documents: Arc<Documents>,
    key: Arc<SecretKey>,
    random: Arc<dyn Random>,
}

impl SealedDocuments {
    /// Documents sealed under `key`.
    pub fn new(
        documents: impl Into<Arc<Documents>>,
        key: Arc<SecretKey>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            documents: documents.into(),
            key,
            random,
        }
    }

    /// Seals and writes version `version`, which must be the next one.
    pub async fn put(
        &self,
        kind: &str,
        id: &str,
        version: u64,
        plaintext: &[u8],
    ) -> Result<(), DocumentError> {
        let previous = if version > 1 {
            let bytes = self.documents.get(kind, id, version - 1).await?;
            Some(bytes.ok_or(DocumentError::NotNext)?)
        } else {
            None
        };
        let aad = self.aad(kind, id, version, previous.as_ref())?;
        let mut stored = MAGIC.to_vec();
        stored.extend(
            keys::seal(&self.key, &*self.random, &aad, plaintext)
                .map_err(DocumentError::Sealing)?,
        );
        let stored = Bytes::from(stored);
        match self.documents.put(kind, id, version, stored.clone()).await {
            Err(DocumentError::VersionTaken) => {
                // The nonce makes these bytes ours alone: found there, our own earlier attempt has won.
                match self.documents.get(kind, id, version).await? {
                    Some(found) if found == stored => Ok(()),
                    _ => Err(DocumentError::VersionTaken),
                }
            }
            outcome => outcome,
        }
    }

    /// The newest version, opened, and its number.
    pub async fn latest(
        &self,
        kind: &str,
        id: &str,
    ) -> Result<Option<(u64, Bytes)>, DocumentError> {
        let Some((version, stored)) = self.documents.latest(kind, id).await? else {
            return Ok(None);
        };
        let plaintext = self.open(kind, id, version, &stored).await?;
        Ok(Some((version, plaintext)))
    }

    /// One version, opened; `None` if it was never written.
    pub async fn get(
        &self,
        kind: &str,
        id: &str,
        version: u64,
    ) -> Result<Option<Bytes>, DocumentError> {
        let Some(stored) = self.documents.get(kind, id, version).await? else {
            return Ok(None);
        };
        self.open(kind, id, version, &stored).await.map(Some)
    }

    /// The numbers of all versions.
    pub async fn versions(&self, kind: &str, id: &str) -> Result<Vec<u64>, DocumentError> {
        self.documents.versions(kind, id).await
    }

    /// The ids of this kind.
    pub async fn list(&self, kind: &str) -> Result<Vec<String>, DocumentError> {
        self.documents.list(kind).await
    }

    async fn open(
        &self,
        kind: &str,
        id: &str,
        version: u64,
        stored: &[u8],
    ) -> Result<Bytes, DocumentError> {
        let previous = if version > 1 {
            let bytes = self.documents.get(kind, id, version - 1).await?;
            Some(bytes.ok_or(DocumentError::Tampered(Tampering::Hole))?)
        } else {
            None
        };
        let aad = self.aad(kind, id, version, previous.as_ref())?;
        let mut plaintext = stored
            .strip_prefix(MAGIC)
            .and_then(|sealed| keys::open(&self.key, &aad, sealed).ok())
            .ok_or(DocumentError::Tampered(Tampering::Seal))?;
        Ok(Bytes::from(std::mem::take(&mut *plaintext)))
    }

    fn aad(
        &self,
        kind: &str,
        id: &str,
        version: u64,
        previous: Option<&Bytes>,
    ) -> Result<Vec<u8>, DocumentError> {
        let path = self.documents.path_text(kind, id, version)?;
        let digest: [u8; 32] = previous.map_or([0; 32], |bytes| Sha256::digest(bytes).into());
        let mut aad = Vec::new();
        for part in [&MAGIC[..], path.as_bytes(), &digest] {
            keys::push_prefixed(&mut aad, part);
        }
        Ok(aad)
    }
}
