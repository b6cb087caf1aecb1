//! Mandates: what a caller was when they asked for something that goes on without them.
//!
//! A token ends after minutes, and what somebody asked for may take hours. Nobody keeps the token: what was read from it
//! is kept instead, with an end of its own, and every step is decided anew by it (`Gate::resume`). So a policy that
//! changes and a tenant that is suspended count at once; what the issuer of the token would say by now does not.
//!
//! A mandate is as good as a token, and nothing in it is signed. Invariant: mandates are read from sealed documents only,
//! which nobody but this product can write.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{self, CorrelationId, SiloId, TenantId};

use super::TenantContext;
use super::attributes::Attributes;
use super::role::{Role, Scope};

/// How long a decision made under a mandate holds, as if it were that of a token: whoever works longer asks again.
const RENEWED_FOR: Duration = Duration::from_secs(15 * 60);

/// What a caller was when they asked for something that goes on without them. Made from their identity, and read back
/// from sealed documents only: whoever could write one could be anybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mandate {
    #[serde(deserialize_with = "ids::stored_tenant")]
    tenant: TenantId,
    silo: SiloId,
    subject: String,
    client: Option<String>,
    roles: BTreeSet<Role>,
    scopes: BTreeSet<Scope>,
    chosen_role: Option<Role>,
    attributes: Attributes,
    correlation: CorrelationId,
    trace_id: Option<String>,
    until: Timestamp,
}

impl Mandate {
    pub(super) fn of(context: &TenantContext, silo: SiloId, until: Timestamp) -> Self {
        Self {
            tenant: context.tenant.clone(),
            silo,
            subject: context.subject.clone(),
            client: context.client.clone(),
            roles: context.roles.clone(),
            scopes: context.scopes.clone(),
            chosen_role: context.chosen_role,
            attributes: context.attributes.clone(),
            correlation: context.correlation.clone(),
            trace_id: context.trace_id.clone(),
            until,
        }
    }

    /// The caller as they were, with a token that ends soon: at the end of the mandate at the latest.
    pub(crate) fn context(&self, now: Timestamp) -> TenantContext {
        TenantContext {
            tenant: self.tenant.clone(),
            subject: self.subject.clone(),
            client: self.client.clone(),
            roles: self.roles.clone(),
            scopes: self.scopes.clone(),
            chosen_role: self.chosen_role,
            attributes: self.attributes.clone(),
            correlation: self.correlation.clone(),
            trace_id: self.trace_id.clone(),
            expires_at: now.plus(RENEWED_FOR).min(self.until),
        }
    }

    /// The one tenant that it is about.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The silo of the listener that was asked, and the only one it holds in.
    #[must_use]
    pub fn silo(&self) -> &SiloId {
        &self.silo
    }

    /// Who asked: a person or a workload.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What their token said of them.
    #[must_use]
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// Ties what is done under it to the request that it was given with.
    #[must_use]
    pub fn correlation(&self) -> &CorrelationId {
        &self.correlation
    }

    /// Its end: nothing starts under it then or later.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        self.until
    }
}
