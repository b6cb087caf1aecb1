//! A bundle as it is stored: the author's exact bytes, and the tenant's signature over them.
//!
//! The document is JSON: `{"format": "trailhouse-policy-1", "key": "kms://…/s1", "signature": "<base64>", "yaml": "…"}`.
//! Signed is, with each part after the first as a u32 LE length and its bytes,
//! `"trailhouse policy bundle 1\0" | tenant | version (decimal) | key id | yaml`: a signature of anything else, of
//! another tenant's bundle or of another version never fits. Ed25519, verified strictly (RFC 8032 with canonical points).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{PolicyVersion, TenantId};
use crate::keys::{KeyError, Kms, SigningKeyId, push_prefixed};

use super::bundle::{Bundle, BundleRefused, PinnedPolicy};

const FORMAT: &str = "trailhouse-policy-1";
const DOMAIN: &[u8] = b"trailhouse policy bundle 1\0";

/// Why stored bytes are no policy. Nothing of them is used.
#[derive(Debug, thiserror::Error)]
pub enum Unverified {
    /// Not a document of this format.
    #[error("not a signed bundle")]
    Form,
    /// Signed with a key that is not the tenant's.
    #[error("signed with another key than the tenant's")]
    ForeignKey,
    /// The signature does not fit.
    #[error("the signature does not fit")]
    Signature,
    /// Properly signed, and not a bundle this version accepts.
    #[error("the signed bundle is refused")]
    Refused(#[source] BundleRefused),
    /// Properly signed, and says it is another version than the one it is stored as.
    #[error("the signed bundle is another version than it is stored as")]
    Version,
}

/// A bundle with its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedBundle {
    format: String,
    key: SigningKeyId,
    signature: String,
    yaml: String,
}

impl SignedBundle {
    /// Signs a bundle. Whoever calls has parsed it.
    pub(super) async fn sign(
        kms: &dyn Kms,
        key: &SigningKeyId,
        version: &PolicyVersion,
        yaml: &str,
    ) -> Result<Self, KeyError> {
        let signature = kms.sign(key, &message(version, key, yaml)).await?;
        Ok(Self {
            format: FORMAT.to_owned(),
            key: key.clone(),
            signature: BASE64.encode(signature),
            yaml: yaml.to_owned(),
        })
    }

    /// Reads the stored form; what comes out is not verified yet.
    ///
    /// # Errors
    /// [`Unverified::Form`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Unverified> {
        let bundle: Self = serde_json::from_slice(bytes).map_err(|_| Unverified::Form)?;
        if bundle.format == FORMAT {
            Ok(bundle)
        } else {
            Err(Unverified::Form)
        }
    }

    /// The stored form.
    pub(super) fn to_bytes(&self) -> Result<Bytes, serde_json::Error> {
        serde_json::to_vec(self).map(Bytes::from)
    }

    /// The key it says it is signed with.
    #[must_use]
    pub fn key(&self) -> &SigningKeyId {
        &self.key
    }

    /// Whether it says it is signed with this key, or with an earlier version of it: a later version of the key takes
    /// nothing from what an earlier one signed. To be asked before the key service is: the id is the document's word.
    #[must_use]
    pub fn is_signed_with(&self, tenants_key: &SigningKeyId) -> bool {
        self.key.silo() == tenants_key.silo()
            && self.key.opaque() == tenants_key.opaque()
            && self.key.version() <= tenants_key.version()
    }

    /// The author's bytes.
    #[must_use]
    pub fn yaml(&self) -> &str {
        &self.yaml
    }

    /// Verifies that the tenant's key signed exactly this as that version, and reads it.
    ///
    /// # Errors
    /// Whatever speaks against it.
    pub fn verify(
        &self,
        tenant: &TenantId,
        version: u64,
        tenants_key: &SigningKeyId,
        public_key: &[u8; 32],
    ) -> Result<PinnedPolicy, Unverified> {
        if !self.is_signed_with(tenants_key) {
            return Err(Unverified::ForeignKey);
        }
        let named = PolicyVersion {
            tenant: tenant.clone(),
            number: version,
        };
        let signature = BASE64
            .decode(&self.signature)
            .map_err(|_| Unverified::Signature)?;
        let signature = Signature::from_slice(&signature).map_err(|_| Unverified::Signature)?;
        let public = VerifyingKey::from_bytes(public_key).map_err(|_| Unverified::Signature)?;
        let message = message(&named, &self.key, &self.yaml);
        public
            .verify_strict(&message, &signature)
            .map_err(|_| Unverified::Signature)?;
        let bundle = Bundle::parse(self.yaml.as_bytes(), tenant).map_err(Unverified::Refused)?;
        if bundle.version != version {
            return Err(Unverified::Version);
        }
        Ok(PinnedPolicy {
            bundle,
            version: named,
            digest: Sha256::digest(&message).into(),
        })
    }
}

fn message(version: &PolicyVersion, key: &SigningKeyId, yaml: &str) -> Vec<u8> {
    let mut message = DOMAIN.to_vec();
    push_prefixed(&mut message, version.tenant.as_str().as_bytes());
    push_prefixed(&mut message, version.number.to_string().as_bytes());
    push_prefixed(&mut message, key.as_str().as_bytes());
    push_prefixed(&mut message, yaml.as_bytes());
    message
}
