//! Signs the tokens that this deployment issues itself.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// An Ed25519 key for tokens (RFC 8037) and its name.
pub(super) struct Signer {
    signing: SigningKey,
    key_id: String,
}

impl Signer {
    /// The key of this seed.
    pub(super) fn new(seed: &[u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(seed);
        let digest = Sha256::digest(signing.verifying_key().as_bytes());
        let key_id = URL_SAFE_NO_PAD.encode(&digest[..12]);
        Self { signing, key_id }
    }

    /// The `kid` of its tokens.
    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// What its tokens verify with.
    pub(super) fn public_key(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    /// A token with these claims.
    pub(super) fn sign(&self, claims: &Map<String, Value>) -> String {
        let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": self.key_id});
        let claims = Value::Object(claims.clone());
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self.signing.sign(message.as_bytes()).to_bytes();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}
