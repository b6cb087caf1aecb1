//! A signing key that lies in a folder of its own: that of a witness, which is no tenant's.

use std::fmt;
use std::path::Path;

use ed25519_dalek::{Signer, SigningKey};
use zeroize::Zeroizing;

use super::owner_files::{create_file, make_folder, read_exactly};
use super::{KEY_LEN, KeyError};
use crate::clock::{self, Random};

const FILE: &str = "witness.key";

/// The Ed25519 key of a folder.
pub struct OwnKey(SigningKey);

impl OwnKey {
    /// The key in this folder, which is made, and the key in it, where there is none.
    ///
    /// # Errors
    /// If the folder or the file cannot be used, or others can.
    pub fn open(folder: &Path, random: &dyn Random) -> Result<Self, KeyError> {
        make_folder(folder)?;
        let path = folder.join(FILE);
        let mut secret = Zeroizing::new([0; KEY_LEN]);
        if !read_exactly(&path, &mut *secret)? {
            let fresh = Zeroizing::new(clock::array::<KEY_LEN>(random));
            create_file(&path, &*fresh, random)?;
            // Another process may have been first.
            if !read_exactly(&path, &mut *secret)? {
                return Err(KeyError::Malformed);
            }
        }
        Ok(Self(SigningKey::from_bytes(&secret)))
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for OwnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemRandom;
    use crate::keys::signed_by;

    #[test]
    fn a_folder_keeps_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("witness");
        let key = OwnKey::open(&path, &SystemRandom).unwrap();
        let again = OwnKey::open(&path, &SystemRandom).unwrap();
        assert_eq!(key.public(), again.public());
        assert!(signed_by(&key.public(), b"text", &again.sign(b"text")));
        let other = OwnKey::open(&folder.path().join("other"), &SystemRandom).unwrap();
        assert_ne!(key.public(), other.public());
        assert_eq!(format!("{key:?}"), "OwnKey { .. }");
    }
}
