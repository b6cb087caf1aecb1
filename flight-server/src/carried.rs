//! What clients carry for us from one call to the next: sealed with AES-256-GCM under a key of one purpose, so that it is
//! neither read nor changed on the way, and nothing that was sealed for another purpose opens.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use catalog::clock::{Random, array};
use catalog::keys::SecretKey;

const NONCE_BYTES: usize = 12;

/// Seals these bytes for a purpose, under a key derived from `root`: a random nonce, then the sealed bytes.
pub(crate) fn seal(
    root: &SecretKey,
    purpose: &str,
    random: &dyn Random,
    plain: &[u8],
) -> Option<Vec<u8>> {
    let nonce: [u8; NONCE_BYTES] = array(random);
    let payload = Payload {
        msg: plain,
        aad: purpose.as_bytes(),
    };
    let sealed = cipher(root, purpose).encrypt(&nonce.into(), payload).ok()?;
    Some([nonce.as_slice(), &sealed].concat())
}

/// What was sealed, if it was under this root and for this purpose.
pub(crate) fn open(root: &SecretKey, purpose: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
    let payload = Payload {
        msg: sealed,
        aad: purpose.as_bytes(),
    };
    cipher(root, purpose)
        .decrypt(&(*nonce).into(), payload)
        .ok()
}

fn cipher(root: &SecretKey, purpose: &str) -> Aes256Gcm {
    Aes256Gcm::new(root.derive(purpose).expose().into())
}
