//! Why a request is refused.

/// A refusal. Its text is for the caller: it carries no data value, no path and no other tenant's name. What the wire
/// makes of it (status, code, headers) is the wire's business; the slug is the contract.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Good credentials, and no tenant anywhere.
    #[error("neither the token nor a header that counts names a tenant")]
    MissingTenant,
    /// A tenant id outside the grammar.
    #[error(
        "a tenant id has 1 to 128 characters of A-Z a-z 0-9 . _ - and starts with a letter or digit"
    )]
    InvalidTenantFormat,
    /// Two places name two tenants.
    #[error("the tenant named by the token and the one named elsewhere in the request differ")]
    TenantMismatch,
    /// Not in the registry, or not in a state that allows the operation: the same answer for both.
    #[error("the tenant is unknown, or its state does not allow this operation")]
    UnknownTenant,
    /// The token does not verify, is malformed, or has expired.
    #[error("the credentials are missing, malformed, expired or not trusted")]
    InvalidToken,
    /// The token is longer than one that is looked at.
    #[error("a token has at most {bytes_max} bytes: have its issuer put fewer claims into it")]
    TokenTooLong {
        /// The longest there may be.
        bytes_max: usize,
    },
    /// The caller lacks a role or scope.
    #[error("this needs {needs}")]
    Forbidden {
        /// What would be needed.
        needs: &'static str,
    },
    /// The Rego module of the tenant's policy says no, or nothing.
    #[error("the tenant's policy does not allow this")]
    PolicyDenies,
    /// The Rego module cannot be evaluated, or asks for what the policy does not have.
    #[error("the tenant's policy could not be evaluated")]
    PolicyFails,
    /// A plan names another tenant.
    #[error("a statement may name only the caller's own tenant")]
    CrossTenantQuery,
    /// The silo of the listener, of the token, or of the policy is not the tenant's.
    #[error("the tenant's data does not live in this silo")]
    ResidencyConflict,
    /// The policy could not be confirmed as current, and the bundle or the operation does not allow a cached one.
    #[error("the current policy version could not be confirmed")]
    PolicyVersionStale,
    /// The stored bundle does not verify: it is never used.
    #[error("the stored policy bundle does not verify")]
    PolicySignatureInvalid,
    /// A bundle was refused at load, with every reason.
    #[error("the policy bundle was refused")]
    PolicyInvalid(Vec<String>),
    /// The stream is not one of the tenant's.
    #[error("the stream is not one of the tenant's")]
    InvalidStream,
    /// Nothing of that name in the caller's own tenant.
    #[error("there is nothing of that name")]
    NotFound,
    /// The thing has changed since the caller looked, or is in a state that does not allow the step.
    #[error("the current version or state does not allow this")]
    PreconditionFailed,
    /// The KMS is down, or a key was revoked.
    #[error("a key that this needs cannot be had")]
    KeyUnavailable,
    /// An allowed act whose evidence cannot be recorded.
    #[error("the evidence of this act cannot be recorded")]
    EvidenceUnavailable,
    /// Storage is down.
    #[error("a part that this needs is not available")]
    Unavailable,
}

impl Denial {
    /// The problem's name, fixed for good.
    #[must_use]
    pub const fn slug(&self) -> &'static str {
        match self {
            Self::MissingTenant => "missing-tenant",
            Self::InvalidTenantFormat => "invalid-tenant-format",
            Self::TenantMismatch => "tenant-mismatch",
            Self::UnknownTenant => "unknown-tenant",
            Self::InvalidToken | Self::TokenTooLong { .. } => "invalid-token",
            Self::Forbidden { .. } => "forbidden",
            Self::PolicyDenies | Self::PolicyFails => "forbidden",
            Self::CrossTenantQuery => "cross-tenant-query",
            Self::ResidencyConflict => "residency-conflict",
            Self::PolicyVersionStale => "policy-version-stale",
            Self::PolicySignatureInvalid => "policy-signature-invalid",
            Self::PolicyInvalid(_) => "policy-invalid",
            Self::InvalidStream => "invalid-record",
            Self::NotFound => "not-found",
            Self::PreconditionFailed => "precondition-failed",
            Self::KeyUnavailable => "key-unavailable",
            Self::EvidenceUnavailable => "evidence-unavailable",
            Self::Unavailable => "unavailable",
        }
    }

    /// What to tell the caller, reasons included.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::PolicyInvalid(reasons) if !reasons.is_empty() => {
                format!("{self}: {}", reasons.join("; "))
            }
            other => other.to_string(),
        }
    }
}
