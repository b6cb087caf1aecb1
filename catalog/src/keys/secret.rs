//! A 256-bit secret: wiped when dropped, never printed, never serialised, compared in constant time.
//!
//! Derivation is HKDF-SHA256 (RFC 5869) with an empty salt: `derive(label)` = first 32 bytes of expand(extract("", key),
//! label). Test vector: the key 00 01 .. 1f with label `th-test` gives
//! `ad997be24d44dd711a4fa456424795087a8950f08090dfbb541af0ca88071724`.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::clock::Random;

/// Bytes in a key.
pub const KEY_LEN: usize = 32;

/// A 256-bit key. There is no `Clone`: share it in an `Arc`, so that its last holder wipes it.
pub struct SecretKey(
    // Boxed, so that moving the key moves a pointer and leaves no copy behind on the stack.
    Box<Zeroizing<[u8; KEY_LEN]>>,
);

impl SecretKey {
    /// Takes these bytes as a key; the caller wipes its own copy.
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self(Box::new(Zeroizing::new(bytes)))
    }

    /// Takes these bytes as a key; `None` unless there are 32.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Self::zeroed();
        if bytes.len() != KEY_LEN {
            return None;
        }
        key.0.copy_from_slice(bytes);
        Some(key)
    }

    /// A fresh random key.
    pub fn random(random: &dyn Random) -> Self {
        let mut key = Self::zeroed();
        random.fill(&mut key.0[..]);
        key
    }

    /// The bytes, for the cipher that needs them. Do not copy them into anything that is not wiped.
    pub fn expose(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The key for one purpose: another label gives an independent key, and none of them leads back to this one.
    #[must_use]
    pub fn derive(&self, label: &str) -> Self {
        let mut root = Self::zeroed();
        hmac_into(&[0; KEY_LEN], &[&self.0[..]], &mut root.0);
        let mut key = Self::zeroed();
        hmac_into(root.expose(), &[label.as_bytes(), &[1]], &mut key.0);
        key
    }

    /// HMAC-SHA256 of the concatenated parts under this key. Whoever joins parts of varying length prefixes lengths.
    pub fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut tag = [0; 32];
        hmac_into(self.expose(), parts, &mut tag);
        tag
    }

    fn zeroed() -> Self {
        Self::new([0; KEY_LEN])
    }
}

fn hmac_into(key: &[u8; KEY_LEN], parts: &[&[u8]], output: &mut [u8; 32]) {
    // HMAC pads a short key with zeros to the block of its hash; doing so here makes the constructor infallible.
    let mut block = Zeroizing::new([0; 64]);
    block[..KEY_LEN].copy_from_slice(key);
    let mut mac = Hmac::<Sha256>::new((&*block).into());
    for part in parts {
        mac.update(part);
    }
    output.copy_from_slice(&mac.finalize().into_bytes());
}

impl PartialEq for SecretKey {
    fn eq(&self, other: &Self) -> bool {
        self.0[..].ct_eq(&other.0[..]).into()
    }
}

impl Eq for SecretKey {}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use hkdf::Hkdf;

    use super::*;
    use crate::clock::SeededRandom;

    fn counting() -> SecretKey {
        SecretKey::new(std::array::from_fn(|index| u8::try_from(index).unwrap()))
    }

    #[test]
    fn derivation_is_hkdf_sha256() {
        for label in [
            "",
            "th-test",
            "a label that is rather longer than one block of the hash function, to be sure of it",
        ] {
            let mut expected = [0; 32];
            Hkdf::<Sha256>::new(None, counting().expose())
                .expand(label.as_bytes(), &mut expected)
                .unwrap();
            assert_eq!(counting().derive(label).expose(), &expected);
        }
        assert_ne!(counting().derive("a"), counting().derive("b"));
    }

    #[test]
    fn derivation_has_not_changed() {
        let hex: String = counting()
            .derive("th-test")
            .expose()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            hex,
            "ad997be24d44dd711a4fa456424795087a8950f08090dfbb541af0ca88071724"
        );
    }

    #[test]
    fn mac_is_hmac_sha256() {
        // RFC 4231 test case 2 has a 4-byte key; zero padding makes it the same key at 32 bytes.
        let mut key = [0; 32];
        key[..4].copy_from_slice(b"Jefe");
        let tag = SecretKey::new(key).mac(&[b"what do ya want ", b"for nothing?"]);
        assert_eq!(tag[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        assert_eq!(tag[28..], [0x64, 0xec, 0x38, 0x43]);
    }

    #[test]
    fn a_key_is_not_printed() {
        assert_eq!(format!("{:?}", counting()), "SecretKey(..)");
    }

    #[test]
    fn only_32_bytes_are_a_key() {
        assert!(SecretKey::from_slice(&[0; 31]).is_none());
        assert!(SecretKey::from_slice(&[0; 33]).is_none());
        assert_eq!(SecretKey::from_slice(counting().expose()), Some(counting()));
        let random = SeededRandom::new(1);
        assert_ne!(SecretKey::random(&random), SecretKey::random(&random));
    }
}
