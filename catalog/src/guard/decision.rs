//! What was decided for one request, and by which rules.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;
use crate::context::{Attributes, Role, Scope};
use crate::evidence::{EvidenceEntry, Verdict};
use crate::ids::{CorrelationId, SiloId, StreamName, TenantId};
use crate::policy::{MaskProfile, PinnedPolicy, RowRule};

use super::permit::OperationKind;

/// An allowed request. Everything that acts on it later (masks, predicates, evidence) reads it from here and nowhere
/// else, so that what was decided is what happens. Only the guard makes one that a permit carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// SHA-256 of the RFC 8785 form of everything below.
    pub id: [u8; 32],
    /// The caller's tenant; its data and no other's is in reach.
    pub tenant: TenantId,
    /// The tenant an act of the system tenant is about.
    pub target: Option<TenantId>,
    /// The tenant's silo, equal to the listener's.
    pub silo: SiloId,
    /// What may be done.
    pub operation: OperationKind,
    /// Who asked.
    pub subject: String,
    /// The application the caller used.
    pub client: Option<String>,
    /// The roles that count: the chosen one, or all of the token's.
    pub roles: BTreeSet<Role>,
    /// The token's scopes.
    pub scopes: BTreeSet<Scope>,
    /// The masks this caller's reads go through.
    pub profile: Arc<MaskProfile>,
    /// What rows this caller may know of; all of their tenant's, where there is no rule.
    pub rows: Option<Arc<RowRule>>,
    /// The policy this request is pinned to.
    pub policy: Arc<PinnedPolicy>,
    /// The stream the request named, known to be one of the tenant's.
    pub stream: Option<StreamName>,
    /// What the token says of the caller, as far as policies ask.
    pub attributes: Attributes,
    /// The rules that carried the decision, by name.
    pub basis: Vec<String>,
    /// Ties everything of one request together.
    pub correlation: CorrelationId,
    /// The token's end: nothing starts after it.
    pub expires_at: Timestamp,
    /// When it was decided.
    pub made_at: Timestamp,
    /// Whether the quarantine table is in the caller's session. It is in none under a row policy: what is in it no rule
    /// can be trusted to find.
    pub may_see_quarantine: bool,
    /// Whether the evidence table is in the caller's session. It is in none under a row policy: it counts all rows.
    pub may_see_evidence: bool,
}

impl Decision {
    /// The tenant the act is about: the target where the system tenant named one, the caller's own otherwise.
    #[must_use]
    pub fn about(&self) -> &TenantId {
        self.target.as_ref().unwrap_or(&self.tenant)
    }

    /// What evidence says of an act that this decision allows.
    #[must_use]
    pub fn entry(&self, act: &'static str) -> EvidenceEntry {
        let reads = matches!(
            self.operation,
            OperationKind::Read | OperationKind::QuarantineRead | OperationKind::Export
        );
        EvidenceEntry {
            tenant: self.tenant.clone(),
            operation: act,
            decision: Verdict::Allow,
            slug: None,
            policy_version: Some(self.policy.version.clone()),
            masking_profile: reads.then(|| self.profile.name.clone()),
            residency: Some(self.silo.clone()),
            basis: self.basis.clone(),
            subject: self.subject.clone(),
            statement: None,
            plan_digest: None,
            exhibit: None,
            correlation: self.correlation.clone(),
            ts: self.made_at,
        }
    }
}

/// Gives a decision its id. RFC 8785 makes the form the same wherever and whenever it is computed.
pub(super) fn sealed(decision: Decision) -> Decision {
    let fields: serde_json::Map<_, _> = decision
        .profile
        .fields
        .iter()
        .map(|(path, rule)| (path.to_string(), json!(rule.to_string())))
        .collect();
    let attributes: serde_json::Map<_, _> = decision
        .attributes
        .iter()
        .map(|(attribute, value)| (attribute.to_string(), json!(value)))
        .collect();
    let texts = |words: Vec<&'static str>| json!(words);
    let form = json!({
        "tenant": decision.tenant.as_str(),
        "target": decision.target.as_ref().map(TenantId::as_str),
        "silo": decision.silo.as_str(),
        "operation": decision.operation.as_str(),
        "subject": decision.subject,
        "client": decision.client,
        "roles": texts(decision.roles.iter().map(|role| role.as_str()).collect()),
        "scopes": texts(decision.scopes.iter().map(|scope| scope.as_str()).collect()),
        "profile": { "name": decision.profile.name, "fields": fields },
        "policy": {
            "version": decision.policy.version.to_string(),
            "digest": BASE64.encode(decision.policy.digest),
        },
        "stream": decision.stream.as_ref().map(StreamName::as_str),
        "attributes": attributes,
        "rows": decision.rows.as_deref().map(|rows| json!({
            "policies": rows.policies,
            "where": rows.predicate.to_string(),
        })),
        "basis": decision.basis,
        "correlation": decision.correlation.as_str(),
        "expiresAt": decision.expires_at.to_string(),
        "madeAt": decision.made_at.to_string(),
        "maySeeQuarantine": decision.may_see_quarantine,
        "maySeeEvidence": decision.may_see_evidence,
    });
    // Texts, flags and lists have a canonical form always; the plain one has the same members in one order too.
    let bytes =
        serde_json_canonicalizer::to_vec(&form).unwrap_or_else(|_| form.to_string().into_bytes());
    Decision {
        id: Sha256::digest(&bytes).into(),
        ..decision
    }
}
