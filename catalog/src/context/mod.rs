//! Who asks, for which tenant: a request's identity, made from its verified token and its headers and from nothing else.
//!
//! The tenant comes from the token. A header may confirm it, and stands alone only for principals that the registry
//! binds to that tenant. Invariant: no host name, environment, body or default ever names a tenant.

mod attributes;
mod claims;
mod headers;
mod mandate;
mod role;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use crate::clock::Timestamp;
use crate::guard::Denial;
use crate::ids::{CorrelationId, SiloId, TenantId};
use crate::tenant::Registry;

pub use attributes::{ATTRIBUTE_CHARS_MAX, Attribute, Attributes};
pub use claims::{ClaimProfile, VerifiedClaims};
pub use headers::IngressHeaders;
pub use mandate::Mandate;
pub use role::{Role, Scope};

/// The identity of one request. There is no way to make one but from a verified token, or from the [`Mandate`] of somebody
/// who had one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantContext {
    tenant: TenantId,
    subject: String,
    client: Option<String>,
    roles: BTreeSet<Role>,
    scopes: BTreeSet<Scope>,
    chosen_role: Option<Role>,
    attributes: Attributes,
    correlation: CorrelationId,
    trace_id: Option<String>,
    expires_at: Timestamp,
}

impl TenantContext {
    /// Puts a request's identity together. [`crate::guard::Gate::identify`] does this and records what is refused.
    ///
    /// # Errors
    /// [`Denial::MissingTenant`], [`Denial::InvalidTenantFormat`] and [`Denial::TenantMismatch`] about the tenant,
    /// [`Denial::InvalidToken`] of an issuer that is not believed about the tenant, [`Denial::Forbidden`] for a role, purpose, edition or tenant the token may not have, [`Denial::Unavailable`] when the registry
    /// had to be asked and does not answer.
    pub async fn resolve(
        claims: &VerifiedClaims,
        headers: &IngressHeaders,
        registry: &Registry,
    ) -> Result<Self, Denial> {
        let subject = claims.subject()?;
        let tenant = match (claims.tenant()?, headers.tenant()?) {
            (Some(claimed), Some(named)) if claimed != named => return Err(Denial::TenantMismatch),
            (Some(claimed), _) => claimed,
            (None, Some(named)) => bound(registry, named, claims, &subject).await?,
            (None, None) => return Err(Denial::MissingTenant),
        };
        if !claims.may_name(&tenant) {
            return Err(Denial::InvalidToken);
        }
        let roles = claims.roles();
        let chosen_role = headers.chosen_role(&roles)?;
        Ok(Self {
            tenant,
            subject,
            client: claims.client(),
            roles,
            scopes: claims.scopes(),
            chosen_role,
            attributes: headers.confirm(claims.attributes()?)?,
            correlation: headers.correlation().clone(),
            trace_id: headers.trace_id().map(str::to_owned),
            expires_at: claims.expires_at,
        })
    }

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

    /// What the token says of the caller, for policies to ask about.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// The silo the token is bound to. A header never counts here.
    #[must_use]
    pub fn data_silo(&self) -> Option<&SiloId> {
        self.attributes.data_silo.as_ref()
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

    /// What the caller is now, for something that goes on without them until then, in the silo of the listener that they
    /// asked at.
    #[must_use]
    pub fn mandate(&self, silo: &SiloId, until: Timestamp) -> Mandate {
        Mandate::of(self, silo.clone(), until)
    }
}

/// The tenant that only a header names, if the registry binds the principal to it. Otherwise the header does not count,
/// and the answer is the same whether or not such a tenant exists.
async fn bound(
    registry: &Registry,
    named: TenantId,
    claims: &VerifiedClaims,
    subject: &str,
) -> Result<TenantId, Denial> {
    if named.is_system() {
        return Err(Denial::MissingTenant);
    }
    let record = registry.get(&named).await.map_err(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the registry could not be asked for a binding"
        );
        Denial::Unavailable
    })?;
    let qualified = format!("{} {subject}", claims.issuer);
    let binds = record.is_some_and(|record| {
        record.principals.contains(subject) || record.principals.contains(&qualified)
    });
    if binds {
        Ok(named)
    } else {
        Err(Denial::MissingTenant)
    }
}
