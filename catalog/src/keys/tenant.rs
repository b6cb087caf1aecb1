//! What keys a tenant has: four in the KMS, and secrets of its own wrapped by one of those.

use serde::{Deserialize, Serialize};

use super::{KeyError, KeyId, KeyPurpose, Kms, SigningKeyId};
use crate::ids::SiloId;

/// The KMS keys of one tenant in one silo, as its registry record holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantKeys {
    /// Wraps the epoch keys of records and quarantine.
    pub data: KeyId,
    /// Wraps the epoch keys of evidence.
    pub evidence: KeyId,
    /// Wraps the tenant's secrets.
    pub control: KeyId,
    /// Signs the tenant's policies, checkpoints and manifests.
    pub signing: SigningKeyId,
}

impl TenantKeys {
    /// Makes a new tenant's keys.
    pub async fn create(kms: &dyn Kms, silo: &SiloId) -> Result<Self, KeyError> {
        Ok(Self {
            data: kms.create(silo).await?,
            evidence: kms.create(silo).await?,
            control: kms.create(silo).await?,
            signing: kms.create_signing(silo).await?,
        })
    }

    pub(crate) fn silos(&self) -> [&SiloId; 4] {
        [
            self.data.silo(),
            self.evidence.silo(),
            self.control.silo(),
            self.signing.silo(),
        ]
    }

    /// The wrapping key for this purpose.
    pub fn wrapping(&self, purpose: KeyPurpose) -> &KeyId {
        match purpose {
            KeyPurpose::Data => &self.data,
            KeyPurpose::Evidence => &self.evidence,
            KeyPurpose::Control => &self.control,
        }
    }
}

/// A random secret a tenant has for one use. None can be had from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TenantSecret {
    /// Keys the HASH mask.
    Hash,
    /// Keys the TOKEN mask.
    Token,
    /// Keys stored payload hashes.
    Payload,
    /// Keys the tokens of the subject directory.
    Directory,
    /// Seals documents of the tenant's own.
    Documents,
    /// Names the tenant's logs.
    Logs,
    /// Seals the jobs of the tenant's exports.
    Exports,
}

impl TenantSecret {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Token => "token",
            Self::Payload => "payload",
            Self::Directory => "directory",
            Self::Documents => "documents",
            Self::Logs => "logs",
            Self::Exports => "exports",
        }
    }
}
