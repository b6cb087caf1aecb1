//! Sealed frames: the data keys, the cipher, and the chain of digests.
//!
//! A data key is made for one source in one segment (its *home*) and sealed under the tenant's epoch key, whose wrapped
//! form is kept beside it. The ciphertext of a frame is AES-256-GCM under that key, tag last, with
//! - nonce = 4 zero bytes, the frame's position (u64 LE);
//! - AAD = log id (16 bytes), home (u64 LE), position (u64 LE), then tenant, silo, table and purpose, each as a u32 LE
//!   length and its bytes.
//!
//! A frame that is written again, after a failed sync or to free an old segment, keeps ciphertext, key and position
//! (its *origin*): nothing is sealed twice under one nonce. A position that was given up is used again only in another
//! segment, and so under other keys.
//!
//! The chain: `digest(p) = SHA-256(digest(p - 1) | p (u64 LE) | origin (u64 LE) | source | ciphertext)`, `digest(0)` = 32
//! zero bytes. It does not depend on the segment that holds the frame. Test vectors: `vectors`.

use std::sync::Arc;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use catalog::clock::Random;
use catalog::keys::{EpochKey, NONCE_LEN, SecretKey, TAG_LEN, Unauthentic, WrappedEpoch};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::source::Source;

/// A link of the chain.
pub(super) type Digest = [u8; 32];

/// A data key as it lies in a key frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SealedKey {
    pub(super) source: Source,
    /// The first position of the segment it was made for.
    pub(super) home: u64,
    pub(super) epoch: WrappedEpoch,
    pub(super) sealed: Vec<u8>,
}

impl SealedKey {
    /// A fresh data key and its sealed form.
    pub(super) fn make(
        source: &Source,
        home: u64,
        epoch: &EpochKey,
        random: &dyn Random,
    ) -> Option<(SecretKey, Arc<Self>)> {
        let key = SecretKey::random(random);
        let sealed = epoch.wrap_dek(&key, random).ok()?;
        let sealed = Self {
            source: source.clone(),
            home,
            epoch: epoch.wrapped().clone(),
            sealed,
        };
        Some((key, Arc::new(sealed)))
    }
}

/// A frame without the segment that holds it.
#[derive(Clone)]
pub(super) struct SealedFrame {
    pub(super) position: u64,
    pub(super) digest: Digest,
    /// The position it was sealed for, and the digest it had there: its own unless it was carried forward.
    pub(super) origin: u64,
    pub(super) origin_digest: Digest,
    pub(super) key: Arc<SealedKey>,
    pub(super) ciphertext: Vec<u8>,
}

impl SealedFrame {
    /// The same frame at a later position.
    pub(super) fn carried(mut self, chain: &mut Chain) -> Self {
        self.position = chain.position + 1;
        chain.push(&self.key.source, self.origin, &self.ciphertext);
        self.digest = chain.digest;
        self
    }
}

/// Where the chain of digests stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    /// The last position, 0 before the first frame.
    pub(super) position: u64,
    pub(super) digest: Digest,
}

impl Chain {
    pub(super) const START: Self = Self {
        position: 0,
        digest: [0; 32],
    };

    /// Goes on by one frame.
    pub(super) fn push(&mut self, source: &Source, origin: u64, ciphertext: &[u8]) {
        self.position += 1;
        let mut named = Vec::with_capacity(96);
        source.push(&mut named);
        self.digest = Sha256::new()
            .chain_update(self.digest)
            .chain_update(self.position.to_le_bytes())
            .chain_update(origin.to_le_bytes())
            .chain_update(named)
            .chain_update(ciphertext)
            .finalize()
            .into();
    }
}

/// Seals `payload` for `origin`.
pub(super) fn seal(
    log: Uuid,
    key: &SecretKey,
    named: &SealedKey,
    origin: u64,
    payload: &[u8],
) -> Result<Vec<u8>, Unauthentic> {
    let mut bytes = Vec::with_capacity(payload.len() + TAG_LEN);
    bytes.extend_from_slice(payload);
    let tag = Aes256Gcm::new(key.expose().into())
        .encrypt_inout_detached(
            &nonce(origin).into(),
            &associated(log, named, origin),
            InOutBuf::from(bytes.as_mut_slice()),
        )
        .map_err(|_| Unauthentic)?;
    bytes.extend_from_slice(&tag);
    Ok(bytes)
}

/// Opens what [`seal`] made.
pub(super) fn open(
    log: Uuid,
    key: &SecretKey,
    named: &SealedKey,
    origin: u64,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
    let (ciphertext, tag) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Unauthentic)?;
    let mut payload = Zeroizing::new(ciphertext.to_vec());
    Aes256Gcm::new(key.expose().into())
        .decrypt_inout_detached(
            &nonce(origin).into(),
            &associated(log, named, origin),
            InOutBuf::from(payload.as_mut_slice()),
            &(*tag).into(),
        )
        .map_err(|_| Unauthentic)?;
    Ok(payload)
}

fn nonce(origin: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&origin.to_le_bytes());
    nonce
}

fn associated(log: Uuid, named: &SealedKey, origin: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(log.as_bytes());
    bytes.extend_from_slice(&named.home.to_le_bytes());
    bytes.extend_from_slice(&origin.to_le_bytes());
    named.source.push(&mut bytes);
    bytes
}
