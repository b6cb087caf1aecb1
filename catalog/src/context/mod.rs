//! Who asks, for which tenant: a request's identity, made from its verified token and its headers and from nothing else.
//!
//! The tenant comes from the token. A header may confirm it, and stands alone only for principals that the registry
//! binds to that tenant. Invariant: no host name, environment, body or default ever names a tenant.

mod claims;
mod headers;
mod role;

use std::collections::BTreeSet;

use crate::clock::Timestamp;
use crate::ids::{CorrelationId, SiloId, TenantId};

pub use claims::{ClaimProfile, VerifiedClaims};
pub use headers::IngressHeaders;
pub use role::{Role, Scope};

/// The identity of one request. There is no way to make one without a verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantContext {
    tenant: TenantId,
    subject: String,
    client: Option<String>,
    roles: BTreeSet<Role>,
    scopes: BTreeSet<Scope>,
    chosen_role: Option<Role>,
    edition: Option<String>,
    data_silo: Option<SiloId>,
    org_unit: Option<String>,
    purpose: Option<String>,
    correlation: CorrelationId,
    trace_id: Option<String>,
    expires_at: Timestamp,
}

impl TenantContext {
    /// The one tenant of this request.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Who asks: a person or a workload.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The application in between.
    #[must_use]
    pub fn client(&self) -> Option<&str> {
        self.client.as_deref()
    }

    /// All roles of the token.
    #[must_use]
    pub fn roles(&self) -> &BTreeSet<Role> {
        &self.roles
    }

    /// All scopes of the token.
    #[must_use]
    pub fn scopes(&self) -> &BTreeSet<Scope> {
        &self.scopes
    }

    /// The one of the roles that the caller wants to act in.
    #[must_use]
    pub fn chosen_role(&self) -> Option<Role> {
        self.chosen_role
    }

    /// The roles that count: the chosen one, or all of them.
    #[must_use]
    pub fn effective_roles(&self) -> BTreeSet<Role> {
        self.chosen_role
            .map_or_else(|| self.roles.clone(), |chosen| BTreeSet::from([chosen]))
    }

    /// The edition, from the token or else from a header.
    #[must_use]
    pub fn edition(&self) -> Option<&str> {
        self.edition.as_deref()
    }

    /// The silo the token is bound to. A header never counts here.
    #[must_use]
    pub fn data_silo(&self) -> Option<&SiloId> {
        self.data_silo.as_ref()
    }

    /// The part of the organisation the caller belongs to.
    #[must_use]
    pub fn org_unit(&self) -> Option<&str> {
        self.org_unit.as_deref()
    }

    /// Why the caller says they ask.
    #[must_use]
    pub fn purpose(&self) -> Option<&str> {
        self.purpose.as_deref()
    }

    /// Ties everything of this request together.
    #[must_use]
    pub fn correlation(&self) -> &CorrelationId {
        &self.correlation
    }

    /// The W3C trace id, where the request has one.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.trace_id.as_deref()
    }

    /// The token's end.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}
