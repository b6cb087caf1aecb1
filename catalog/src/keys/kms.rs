//! The seam to whoever keeps the wrapping keys, and the names of those keys.
//!
//! A wrapping key is named `kms://<silo>/<opaque>/v<N>`, a signing key `kms://<silo>/<opaque>/s<N>`: two types and two
//! spellings, so that neither stands in for the other. The opaque part tells nothing of the tenant, because it lies in
//! the clear in every data file. A version is a key of its own: destroying one leaves the others.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{SecretKey, Unauthentic};
use crate::documents::DocumentError;
use crate::ids::{self, IdError, IdFault, SiloId};

const OPAQUE_MAX: usize = 64;

/// Why a key cannot be had. For whoever asked it is always `key-unavailable`; for the operator it is not.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The key service or its storage does not answer: later it may.
    #[error("the key service does not answer")]
    Unavailable {
        /// What happened.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No such key, here or ever.
    #[error("no such key")]
    Unknown,
    /// The key exists and is switched off.
    #[error("the key is disabled")]
    Disabled,
    /// The key is gone, and what it wrapped with it.
    #[error("the key is destroyed")]
    Destroyed,
    /// The wrapped bytes belong to another tenant, silo or purpose, or were changed.
    #[error("the wrapped key does not open")]
    Unauthentic(#[source] Unauthentic),
    /// Stored key material is not of its format.
    #[error("stored key material is malformed")]
    Malformed,
    /// Others than the owner can read the key file or write to its folder.
    #[error("the key folder is open to other users (it wants mode 0700, its files 0600)")]
    Exposed,
    /// Nobody told the ring which keys this tenant has in this silo.
    #[error("no keys are enrolled for this tenant in this silo")]
    NotEnrolled,
    /// The key id names another silo.
    #[error("the key belongs to another silo")]
    WrongSilo,
    /// This process does not serve the silo.
    #[error("this process does not serve the silo")]
    UnknownSilo,
    /// The tenant's key documents cannot be used.
    #[error("the tenant's key documents cannot be used")]
    Documents(#[source] DocumentError),
}

impl KeyError {
    /// A key service or storage failure.
    pub fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable {
            source: source.into(),
        }
    }

    /// Whether the key service did not answer, as opposed to an answer that is no.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

impl From<Unauthentic> for KeyError {
    fn from(error: Unauthentic) -> Self {
        Self::Unauthentic(error)
    }
}

impl From<DocumentError> for KeyError {
    fn from(error: DocumentError) -> Self {
        Self::Documents(error)
    }
}

/// A keeper of wrapping and signing keys.
///
/// Contract: a key id that was returned is durable and is never used for another key, not even after destruction.
/// `wrap` and `unwrap` with a key that is disabled or destroyed fail. What was wrapped opens only with the same key id
/// and the same associated data. Nothing is cached, so that disabling and destroying act at once; callers that cache
/// do so for minutes. One process or several may use the same keys.
#[async_trait]
pub trait Kms: Send + Sync + fmt::Debug {
    /// Makes a wrapping key in this silo, version 1.
    async fn create(&self, silo: &SiloId) -> Result<KeyId, KeyError>;
    /// Wraps a secret: `nonce (12) | ciphertext | tag (16)`, bound to `aad`.
    async fn wrap(&self, key: &KeyId, aad: &[u8], secret: &SecretKey) -> Result<Vec<u8>, KeyError>;
    /// Opens what [`Kms::wrap`] made.
    async fn unwrap(&self, key: &KeyId, aad: &[u8], wrapped: &[u8]) -> Result<SecretKey, KeyError>;
    /// Makes the next version of a key. The older ones go on unwrapping.
    async fn rotate(&self, key: &KeyId) -> Result<KeyId, KeyError>;
    /// Switches one version off.
    async fn disable(&self, key: &KeyId) -> Result<(), KeyError>;
    /// Destroys one version for good; doing so again is fine.
    async fn destroy(&self, key: &KeyId) -> Result<(), KeyError>;
    /// Whether keys could be used now.
    async fn probe(&self) -> Result<(), KeyError>;
    /// Makes an Ed25519 signing key in this silo.
    async fn create_signing(&self, silo: &SiloId) -> Result<SigningKeyId, KeyError>;
    /// Makes the next version of a signing key. The older ones go on signing, for who still names them.
    async fn rotate_signing(&self, key: &SigningKeyId) -> Result<SigningKeyId, KeyError>;
    /// Signs a message (RFC 8032, pure Ed25519).
    async fn sign(&self, key: &SigningKeyId, message: &[u8]) -> Result<[u8; 64], KeyError>;
    /// The public half of a signing key.
    async fn public_key(&self, key: &SigningKeyId) -> Result<[u8; 32], KeyError>;
}

/// The parts both kinds of names share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Name {
    text: Arc<str>,
    silo: SiloId,
    opaque: Arc<str>,
    version: u64,
}

impl Name {
    fn new(silo: &SiloId, opaque: &str, marker: char, version: u64) -> Self {
        Self {
            text: format!("kms://{silo}/{opaque}/{marker}{version}").into(),
            silo: silo.clone(),
            opaque: opaque.into(),
            version,
        }
    }

    fn parse(kind: &'static str, marker: char, text: &str) -> Result<Self, IdError> {
        let malformed = IdError::new(kind, IdFault::Malformed);
        let mut parts = text.strip_prefix("kms://").ok_or(malformed)?.splitn(3, '/');
        let (Some(silo), Some(opaque), Some(version)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed);
        };
        let silo = SiloId::parse(silo)?;
        let version = version
            .strip_prefix(marker)
            .and_then(ids::parse_version)
            .ok_or(malformed)?;
        let name = Self::new(&silo, opaque, marker, version);
        // The round trip refuses every second spelling, an upper-case silo among them.
        if is_opaque(opaque) && *name.text == *text {
            Ok(name)
        } else {
            Err(malformed)
        }
    }
}

/// Lower-case letters, digits and inner hyphens: safe as a file name, whoever wrote it.
fn is_opaque(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=OPAQUE_MAX).contains(&text.len()) && !text.starts_with('-') && text.bytes().all(allowed)
}

macro_rules! key_name {
    ($name:ident, $kind:literal, $marker:literal) => {
        impl $name {
            pub(crate) fn new(silo: &SiloId, opaque: &str, version: u64) -> Self {
                Self(Name::new(silo, opaque, $marker, version))
            }

            /// Parses the one spelling of the name.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                Name::parse($kind, $marker, text).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0.text
            }

            /// The silo it belongs to.
            pub fn silo(&self) -> &SiloId {
                &self.0.silo
            }

            /// What all versions of the key have in common.
            pub fn opaque(&self) -> &str {
                &self.0.opaque
            }

            /// The version, from 1.
            pub fn version(&self) -> u64 {
                self.0.version
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0.text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0.text)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0.text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    };
}

/// One version of a wrapping key, `kms://<silo>/<opaque>/v<N>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Name);
key_name!(KeyId, "key id", 'v');

impl KeyId {
    /// Whether this is `other` or a later version of it.
    pub fn succeeds(&self, other: &Self) -> bool {
        self.silo() == other.silo()
            && self.opaque() == other.opaque()
            && self.version() >= other.version()
    }
}

/// One version of a signing key, `kms://<silo>/<opaque>/s<N>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SigningKeyId(Name);
key_name!(SigningKeyId, "signing key id", 's');

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn key_ids_have_one_spelling_and_signing_keys_another() {
        let id = KeyId::parse("kms://eu-1/0a1b2c/v7").unwrap();
        assert_eq!(id.silo().as_str(), "eu-1");
        assert_eq!((id.opaque(), id.version()), ("0a1b2c", 7));
        assert_eq!(id.to_string(), "kms://eu-1/0a1b2c/v7");
        assert!(SigningKeyId::parse("kms://eu-1/0a1b2c/v7").is_err());
        assert!(KeyId::parse("kms://eu-1/0a1b2c/s7").is_err());
        for text in [
            "",
            "kms://",
            "kms://eu/a",
            "kms://eu/a/",
            "kms://eu/a/v0",
            "kms://eu/a/v01",
            "kms://eu/a/v1/",
            "kms://EU/a/v1",
            "kms://eu/A/v1",
            "kms://eu/../v1",
            "kms://eu/-a/v1",
            "kms://../a/v1",
            "kms://eu//v1",
            "eu/a/v1",
        ] {
            assert!(KeyId::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_later_version_of_the_same_key_succeeds_it() {
        let id = |text| KeyId::parse(text).unwrap();
        assert!(id("kms://eu/a/v2").succeeds(&id("kms://eu/a/v1")));
        assert!(id("kms://eu/a/v2").succeeds(&id("kms://eu/a/v2")));
        assert!(!id("kms://eu/a/v1").succeeds(&id("kms://eu/a/v2")));
        assert!(!id("kms://eu/b/v2").succeeds(&id("kms://eu/a/v1")));
        assert!(!id("kms://us/a/v2").succeeds(&id("kms://eu/a/v1")));
    }

    proptest! {
        #[test]
        fn what_parses_has_no_way_out_of_its_folder(text in "kms://[a-z./-]{1,8}/[a-zA-Z0-9./-]{0,12}/v[0-9]{1,3}") {
            if let Ok(id) = KeyId::parse(&text) {
                prop_assert_eq!(id.as_str(), text);
                prop_assert!(!id.opaque().contains(['/', '.']));
                prop_assert!(!id.silo().as_str().starts_with('.'));
            }
        }
    }
}
