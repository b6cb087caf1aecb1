//! Sealing: AES-256-GCM in one byte format, and the envelope around file keys.
//!
//! Sealed bytes are `nonce (12) | ciphertext | tag (16)`, the nonce random. The envelope is pyarrow's PKMT1 with double
//! wrapping: the KMS wraps an epoch key (PKMT1's KEK) with [`WrapAad`] as AAD, the epoch key wraps a file's DEK with its
//! own 16-byte id as AAD. [`WrapAad::bytes`] is tenant, silo and purpose, each as a u32 LE length and its bytes.
//! Test vectors: in this file's tests.

use std::fmt;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{KEY_LEN, KeyError, KeyId, SecretKey};
use crate::clock::{self, Random};
use crate::ids::{SiloId, TenantId};

/// Bytes in a nonce.
pub const NONCE_LEN: usize = 12;
/// Bytes in an authentication tag.
pub const TAG_LEN: usize = 16;
/// Bytes in a sealed 32-byte key.
pub const SEALED_KEY_LEN: usize = NONCE_LEN + KEY_LEN + TAG_LEN;

/// Sealed bytes that do not open: another key, other associated data, or changed bytes. Which, nobody can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authenticated decryption failed")]
pub struct Unauthentic;

/// Seals `plaintext` under `key` with a fresh random nonce, bound to `aad`.
///
/// Random nonces allow 2^32 messages a key; a key that seals more often than that needs a counter instead.
pub fn seal(
    key: &SecretKey,
    random: &dyn Random,
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, Unauthentic> {
    let nonce: [u8; NONCE_LEN] = clock::array(random);
    let mut sealed = Vec::with_capacity(NONCE_LEN + plaintext.len() + TAG_LEN);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plaintext);
    let tag = cipher(key)
        .encrypt_inout_detached(&nonce.into(), aad, InOutBuf::from(&mut sealed[NONCE_LEN..]))
        .map_err(|_| Unauthentic)?;
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// Opens what [`seal`] made. The plaintext is wiped when dropped.
pub fn open(key: &SecretKey, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Unauthentic)?;
    let (ciphertext, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(Unauthentic)?;
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    cipher(key)
        .decrypt_inout_detached(
            &(*nonce).into(),
            aad,
            InOutBuf::from(plaintext.as_mut_slice()),
            &(*tag).into(),
        )
        .map_err(|_| Unauthentic)?;
    Ok(plaintext)
}

/// Seals a key under a key.
pub fn seal_key(
    key: &SecretKey,
    random: &dyn Random,
    aad: &[u8],
    inner: &SecretKey,
) -> Result<Vec<u8>, Unauthentic> {
    seal(key, random, aad, inner.expose())
}

/// Opens a sealed key; anything but 32 bytes inside is refused.
pub fn open_key(key: &SecretKey, aad: &[u8], sealed: &[u8]) -> Result<SecretKey, Unauthentic> {
    let plaintext = open(key, aad, sealed)?;
    SecretKey::from_slice(&plaintext).ok_or(Unauthentic)
}

fn cipher(key: &SecretKey) -> Aes256Gcm {
    Aes256Gcm::new(key.expose().into())
}

/// Appends `part` with its length (u32 LE) before it, so that no two lists of parts give the same bytes.
pub fn push_prefixed(bytes: &mut Vec<u8>, part: &[u8]) {
    // No part comes near 4 GiB; saturating keeps the encoding total without a second meaning for any real length.
    let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(part);
}

/// What a wrapping key is for. Each purpose of each tenant and silo has a KMS key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyPurpose {
    /// Records and quarantine: destroying this one is what shredding a tenant's data means.
    Data,
    /// Evidence: survives the shredding of the data it speaks of.
    Evidence,
    /// The tenant's own secrets and documents.
    Control,
}

impl KeyPurpose {
    /// Every purpose.
    pub const ALL: [Self; 3] = [Self::Data, Self::Evidence, Self::Control];

    /// The purpose as it stands in associated data and document names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Evidence => "evidence",
            Self::Control => "control",
        }
    }
}

impl fmt::Display for KeyPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a wrapped key is bound to: unwrapping it for another tenant, silo or purpose fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrapAad<'a> {
    /// Whose key.
    pub tenant: &'a TenantId,
    /// Where.
    pub silo: &'a SiloId,
    /// What for.
    pub purpose: KeyPurpose,
}

impl WrapAad<'_> {
    /// The associated data: tenant, silo, purpose, each length-prefixed (u32 LE).
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        push_prefixed(&mut bytes, self.tenant.as_str().as_bytes());
        push_prefixed(&mut bytes, self.silo.as_str().as_bytes());
        push_prefixed(&mut bytes, self.purpose.as_str().as_bytes());
        bytes
    }

    /// The same with one more part: for secrets that must not stand in for each other under one wrapping key.
    pub(crate) fn labelled(&self, label: &str) -> Vec<u8> {
        let mut bytes = self.bytes();
        push_prefixed(&mut bytes, label.as_bytes());
        bytes
    }
}

/// An epoch key as it lies in files and documents: unreadable without the KMS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct WrappedEpoch {
    /// The KMS key that wraps it (PKMT1 `masterKeyID`).
    pub master_key_id: KeyId,
    /// Its random name (PKMT1 `keyEncryptionKeyID`), which file keys are bound to.
    #[serde(with = "base64_array")]
    pub epoch_id: [u8; 16],
    /// What the KMS made of it (PKMT1 `wrappedKEK`).
    #[serde(with = "base64_bytes")]
    pub wrapped: Vec<u8>,
}

/// A key for a month of files: random, wrapped once by the KMS, and wrapping each file's DEK here in the process.
#[derive(Debug)]
pub struct EpochKey {
    wrapped: WrappedEpoch,
    key: SecretKey,
}

impl EpochKey {
    pub(crate) fn new(wrapped: WrappedEpoch, key: SecretKey) -> Self {
        Self { wrapped, key }
    }

    /// Its wrapped form, to be stored beside whatever it protects.
    pub fn wrapped(&self) -> &WrappedEpoch {
        &self.wrapped
    }

    /// Wraps a file's DEK (PKMT1 `wrappedDEK`): sealed under this key, AAD = the 16 bytes of the epoch id.
    pub fn wrap_dek(&self, dek: &SecretKey, random: &dyn Random) -> Result<Vec<u8>, KeyError> {
        Ok(seal_key(&self.key, random, &self.wrapped.epoch_id, dek)?)
    }

    /// Opens what [`Self::wrap_dek`] made.
    pub fn unwrap_dek(&self, wrapped: &[u8]) -> Result<SecretKey, KeyError> {
        Ok(open_key(&self.key, &self.wrapped.epoch_id, wrapped)?)
    }

    /// A key for another use inside this epoch (sealed statistics, indexes).
    #[must_use]
    pub fn derive(&self, label: &str) -> SecretKey {
        self.key.derive(&format!("th-epoch/{label}"))
    }
}

pub(crate) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map_err(|_| serde::de::Error::custom("not base64"))
    }
}

mod base64_array {
    use super::{Deserializer, Serializer, base64_bytes};

    pub(super) fn serialize<S: Serializer>(
        bytes: &[u8; 16],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        base64_bytes::serialize(bytes, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 16], D::Error> {
        base64_bytes::deserialize(deserializer)?
            .try_into()
            .map_err(|_| serde::de::Error::custom("not 16 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededRandom;

    fn counting(first: u8) -> SecretKey {
        SecretKey::new(std::array::from_fn(|index| {
            first + u8::try_from(index).unwrap()
        }))
    }

    #[derive(Debug)]
    struct Counting;
    impl Random for Counting {
        fn fill(&self, bytes: &mut [u8]) {
            for (index, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::try_from(index).unwrap();
            }
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn epoch() -> EpochKey {
        let wrapped = WrappedEpoch {
            master_key_id: KeyId::parse("kms://local/0a/v1").unwrap(),
            epoch_id: std::array::from_fn(|index| 0xa0 + u8::try_from(index).unwrap()),
            wrapped: vec![1, 2, 3],
        };
        EpochKey::new(wrapped, counting(0))
    }

    #[test]
    fn a_wrapped_dek_has_the_bytes_of_the_vector() {
        // Key 00..1f, nonce 00..0b, plaintext 20..3f, AAD a0..af; made with another implementation of AES-256-GCM.
        let wrapped = epoch().wrap_dek(&counting(0x20), &Counting).unwrap();
        assert_eq!(
            hex(&wrapped),
            "000102030405060708090a0b6723f438e1c0e43ca568bda09dc45642b3e7b507c44e694b005edfbe21543e8dd1394c66393299bf20c4e7d68c2e6a05"
        );
        assert_eq!(epoch().unwrap_dek(&wrapped).unwrap(), counting(0x20));
    }

    #[test]
    fn wrap_aad_has_the_bytes_of_the_vector() {
        let (tenant, silo) = (
            TenantId::parse("Acme").unwrap(),
            SiloId::parse("eu").unwrap(),
        );
        let aad = |purpose| WrapAad {
            tenant: &tenant,
            silo: &silo,
            purpose,
        };
        let bytes = aad(KeyPurpose::Data).bytes();
        assert_eq!(bytes, b"\x04\0\0\0acme\x02\0\0\0eu\x04\0\0\0data");
        for purpose in KeyPurpose::ALL {
            assert!(aad(purpose).bytes().ends_with(purpose.as_str().as_bytes()));
            assert!(
                aad(purpose)
                    .labelled("x")
                    .starts_with(&aad(purpose).bytes())
            );
        }
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let random = SeededRandom::new(1);
        let sealed = seal(&counting(0), &random, b"aad", b"text").unwrap();
        assert_eq!(&**open(&counting(0), b"aad", &sealed).unwrap(), b"text");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&counting(0), b"aad", &changed), Err(Unauthentic));
        }
        for length in 0..sealed.len() {
            assert!(open(&counting(0), b"aad", &sealed[..length]).is_err());
        }
        assert!(open(&counting(0), b"other", &sealed).is_err());
        assert!(open(&counting(1), b"aad", &sealed).is_err());
        assert!(
            open_key(&counting(0), b"aad", &sealed).is_err(),
            "not 32 bytes"
        );
        assert!(seal(&counting(0), &random, b"", b"").unwrap().len() == NONCE_LEN + TAG_LEN);
    }

    #[test]
    fn the_wrapped_form_survives_json_and_shows_no_key() {
        let json = serde_json::to_string(epoch().wrapped()).unwrap();
        assert_eq!(
            json,
            r#"{"master_key_id":"kms://local/0a/v1","epoch_id":"oKGio6SlpqeoqaqrrK2urw==","wrapped":"AQID"}"#
        );
        let back: WrappedEpoch = serde_json::from_str(&json).unwrap();
        assert_eq!(&back, epoch().wrapped());
        assert!(format!("{:?}", epoch()).contains("SecretKey(..)"));
    }

    #[test]
    fn derived_keys_differ_from_each_other_and_from_the_epoch_key() {
        assert_ne!(epoch().derive("stats"), epoch().derive("index"));
        assert_ne!(epoch().derive("stats"), counting(0).derive("stats"));
    }
}
