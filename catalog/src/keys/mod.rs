//! Keys: who makes them, what they wrap, and how long anyone may hold one.
//!
//! ```text
//! Kms (kms, local)   KEK per tenant x silo x purpose      "kms://eu/5c..1e/v7"
//!   |  wraps, AAD = tenant, silo, purpose (envelope)
//! EpochKey (ring)    one a month or rotation, its wrapped form a document, cached 5 minutes at most
//!   |  wraps, AAD = epoch id (envelope)
//! file DEK           random per file, never stored unwrapped
//!
//! Kms signing key    one a tenant; signs policies, and the keys that processes sign receipts with (attested)
//! ```

mod attested;
mod cache;
#[cfg(test)]
mod contract;
mod envelope;
mod introduced;
mod kms;
mod local;
mod own_key;
mod owner_files;
mod ring;
mod secret;
mod stored;
mod tenant;

pub use attested::{KeyStatement, ProcessKey, PublicKeys, Unproven, signed_by};
pub(crate) use cache::Cache;
pub use envelope::{
    EpochKey, KeyPurpose, NONCE_LEN, SEALED_KEY_LEN, TAG_LEN, Unauthentic, WrapAad, WrappedEpoch,
    open, open_key, push_prefixed, seal, seal_key,
};
pub use introduced::{Introduction, strangers};
pub use kms::{KeyError, KeyId, Kms, SigningKeyId};
pub use local::LocalKms;
pub use own_key::OwnKey;
pub use ring::{KEY_LIFETIME_MAX, KeyRing};
pub use secret::{KEY_LEN, SecretKey};
pub use stored::RootSecret;
pub use tenant::{TenantKeys, TenantSecret};
