//! HASH: a keyed hash, equal for equal values of one column.
//!
//! `h<version>:` and the unpadded base64url of the first 16 bytes of
//!
//! ```text
//! HMAC-SHA256(key, "th-hash" ‖ u32le(len(column)) ‖ column ‖ value)
//! ```
//! The key is the tenant's and random: a caller cannot compute the hash of a guess, as they could of a plain SHA-256. The
//! column separates domains: one value in two columns has two hashes, unless policy gives both the same name.

use std::fmt;
use std::hash::{Hash, Hasher};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

const DOMAIN: &[u8] = b"th-hash";
const FINGERPRINT_DOMAIN: &[u8] = b"th-fingerprint";

/// Bytes of an HMAC-SHA256 block: shorter keys are padded with zeros to it.
const BLOCK_BYTES: usize = 64;

/// Bytes kept of a keyed hash.
const SHORT_BYTES: usize = 16;

/// The key of HASH or TOKEN for one column, with its key schedule computed.
#[derive(Clone)]
pub struct HashKey {
    keyed: Hmac<Sha256>,
    scope: Box<[u8]>,
    /// What follows the letter: `1:`.
    version: Box<str>,
    fingerprint: [u8; SHORT_BYTES],
}

impl HashKey {
    /// The key of one column; `version` is that of the key and is shown in every result.
    pub fn new(key: &[u8; 32], column: &str, version: u32) -> Self {
        let mut block = Zeroizing::new([0; BLOCK_BYTES]);
        block[..key.len()].copy_from_slice(key);
        let keyed = Hmac::new((&*block).into());

        // No column name has 4 GiB; if one had, the whole name is hashed all the same.
        let length = u32::try_from(column.len()).unwrap_or(u32::MAX);
        let scope = [length.to_le_bytes().as_slice(), column.as_bytes()].concat();
        let mut made = Self {
            keyed,
            scope: scope.into(),
            version: format!("{version}:").into(),
            fingerprint: [0; SHORT_BYTES],
        };
        made.fingerprint = made.short(FINGERPRINT_DOMAIN, "");
        made
    }

    /// Appends the version and the keyed hash of a value in a domain.
    pub(super) fn write(&self, domain: &[u8], value: &str, out: &mut String) {
        out.push_str(&self.version);
        URL_SAFE_NO_PAD.encode_string(self.short(domain, value), out);
    }

    fn short(&self, domain: &[u8], value: &str) -> [u8; SHORT_BYTES] {
        let mut mac = self.keyed.clone();
        mac.update(domain);
        mac.update(&self.scope);
        mac.update(value.as_bytes());
        let full = mac.finalize().into_bytes();
        let mut short = [0; SHORT_BYTES];
        short.copy_from_slice(&full[..SHORT_BYTES]);
        short
    }
}

/// Appends `h<version>:` and 128 bits of the keyed hash of a value.
pub(super) fn write(key: &HashKey, value: &str, out: &mut String) {
    out.push('h');
    key.write(DOMAIN, value, out);
}

/// Says nothing of the key, not even whether two are equal.
impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HashKey").finish_non_exhaustive()
    }
}

/// By a fingerprint that only the key gives, over key and column.
impl PartialEq for HashKey {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint && self.version == other.version
    }
}

impl Eq for HashKey {}

impl Hash for HashKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
        self.version.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mask;

    const KEY: [u8; 32] = [7; 32];

    /// Computed with Python's `hmac` and `struct`, from the formula above.
    #[test]
    fn vectors() {
        let key = HashKey::new(&KEY, "actor_id", 1);
        let hash = Mask::Hash(key.clone()).apply_str("bob@example.com");
        assert_eq!(hash.as_deref(), Some("h1:zsmhV0OQq0iulUZsVfEhNw"));
        let token = Mask::Token(key).apply_str("bob@example.com");
        assert_eq!(token.as_deref(), Some("t1:Go3QOPAyYdDWUQv6FlCPZg"));
        let empty = Mask::Hash(HashKey::new(&KEY, "", 12)).apply_str("");
        assert_eq!(empty.as_deref(), Some("h12:OtLf0qMyZe081_48eZjlJQ"));
    }

    #[test]
    fn key_column_and_domain_separate() {
        let hash = |key: &[u8; 32], column: &str| {
            Mask::Hash(HashKey::new(key, column, 1)).apply_str("bob@example.com")
        };
        assert_eq!(hash(&KEY, "email"), hash(&KEY, "email"));
        assert_ne!(hash(&KEY, "email"), hash(&[8; 32], "email"));
        assert_ne!(hash(&KEY, "email"), hash(&KEY, "phone"));
        // The length in front of the column: no column and value run together.
        let first = Mask::Hash(HashKey::new(&KEY, "ab", 1)).apply_str("c");
        let second = Mask::Hash(HashKey::new(&KEY, "a", 1)).apply_str("bc");
        assert_ne!(first, second);
    }

    #[test]
    fn equal_keys_are_equal_and_debug_says_nothing() {
        let key = HashKey::new(&KEY, "email", 1);
        assert_eq!(key, HashKey::new(&KEY, "email", 1));
        assert_ne!(key, HashKey::new(&KEY, "email", 2));
        assert_ne!(key, HashKey::new(&KEY, "phone", 1));
        assert_ne!(key, HashKey::new(&[8; 32], "email", 1));
        assert_eq!(format!("{key:?}"), "HashKey { .. }");
    }
}
