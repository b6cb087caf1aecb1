//! Why there is no schema to go by, or none was registered.

use crate::documents::DocumentError;
use crate::guard::Denial;
use crate::keys::KeyError;
use crate::tenant;

/// Why there is no schema to go by, or none was registered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was sent cannot be registered, whatever is registered already.
    #[error("the schema is refused")]
    Invalid(Vec<String>),
    /// It does not go with what is registered.
    #[error("the schema change is not compatible")]
    Incompatible(Vec<String>),
    /// The tenant has no such stream, or the stream no such version.
    #[error("no such schema")]
    NotFound,
    /// Others kept registering at the same time.
    #[error("another schema was registered in between")]
    Raced,
    /// The store does not answer, and what was last read is too old.
    #[error("what is registered cannot be confirmed")]
    Stale,
    /// This process does not serve the tenant's silo.
    #[error("the tenant's silo is not served here")]
    WrongSilo,
    /// Keys cannot be had.
    #[error("the secret of the tenant's documents cannot be had")]
    Keys(#[source] KeyError),
    /// Documents cannot be read or written.
    #[error("the schema documents cannot be used")]
    Documents(#[source] DocumentError),
    /// The registry of tenants cannot be used, or does not know the tenant.
    #[error("the tenant cannot be looked up")]
    Tenant(#[source] tenant::Error),
    /// A document that opens and is not what this product wrote.
    #[error("a schema document is malformed")]
    Form(#[source] serde_json::Error),
    /// A text that is not the one that was registered.
    #[error("a schema's text is not the one that was registered")]
    Digest,
}

impl From<&Error> for Denial {
    fn from(error: &Error) -> Self {
        match error {
            Error::Invalid(_) | Error::Incompatible(_) | Error::Raced => Self::PreconditionFailed,
            Error::NotFound => Self::NotFound,
            Error::WrongSilo => Self::ResidencyConflict,
            Error::Keys(_) => Self::KeyUnavailable,
            Error::Tenant(error) => error.into(),
            Error::Stale | Error::Documents(_) | Error::Form(_) | Error::Digest => {
                Self::Unavailable
            }
        }
    }
}
