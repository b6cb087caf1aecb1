//! What the gate asks of a request beside roles: where the data lives, what the policy itself lets happen, and which
//! streams there are.

use std::collections::BTreeSet;

use crate::context::{Role, Scope, TenantContext};
use crate::ids::{SiloId, StreamName};
use crate::policy::{CurrentPolicy, ExportPolicy, StaleMode};
use crate::tenant::TenantRecord;

use super::denial::Denial;
use super::permit::OperationKind;
use super::request::Request;
use super::rules::EXPORTERS;

/// The listener, the token and the registry must agree on where the data lives.
pub(super) fn resident(
    context: &TenantContext,
    record: &TenantRecord,
    listener: &SiloId,
) -> Result<(), Denial> {
    let claimed = context
        .data_silo()
        .is_none_or(|claimed| *claimed == record.silo);
    if *listener == record.silo && claimed {
        Ok(())
    } else {
        Err(Denial::ResidencyConflict)
    }
}

/// A stream that is named is one of the tenant's; the evidence is one to those only who read and may see it.
pub(super) fn streamed(
    operation: OperationKind,
    record: &TenantRecord,
    request: &Request,
    may_see_evidence: bool,
) -> Result<(), Denial> {
    let Some(stream) = &request.stream else {
        return Ok(());
    };
    let evidence =
        operation == OperationKind::Read && may_see_evidence && *stream == StreamName::evidence();
    if evidence || record.streams.contains(stream) {
        Ok(())
    } else {
        Err(Denial::InvalidStream)
    }
}

/// What the policy itself says: that this silo may serve, and what may be done while nobody confirms it.
pub(super) fn admitted(
    operation: OperationKind,
    record: &TenantRecord,
    current: &CurrentPolicy,
    confirmed: bool,
) -> Result<Vec<String>, Denial> {
    let bundle = &current.policy.bundle;
    if !bundle.residency.allowed_silos.contains(&record.silo) {
        return Err(Denial::ResidencyConflict);
    }
    let residency = format!("Residency.{}", record.silo);
    match (confirmed, operation, bundle.stale_mode) {
        (true, _, _) => Ok(vec![residency]),
        (
            false,
            OperationKind::Read
            | OperationKind::PolicyRead
            | OperationKind::QuarantineRead
            | OperationKind::SchemaRead,
            StaleMode::Serve,
        ) => {
            tracing::warn!(tenant = %record.id, "served under a policy that could not be confirmed");
            Ok(vec![residency, "Cached".to_owned()])
        }
        (
            false,
            OperationKind::Read | OperationKind::PolicyRead | OperationKind::QuarantineRead,
            StaleMode::Reject,
        ) => Err(Denial::PolicyVersionStale),
        // What has left comes back no more: no tenant has to put up with that under a policy that may be an old one.
        (false, OperationKind::Export, _) => Err(Denial::PolicyVersionStale),
        // Storage does not answer: whoever wants to change something does well to try again.
        (false, _, _) => Err(Denial::Unavailable),
    }
}

/// Only those export whom the policy names: one of their roles, or the operator of exports in the place of those who have
/// a scope for it and none of the roles.
pub(super) fn exporting(
    operation: OperationKind,
    policy: &ExportPolicy,
    roles: &BTreeSet<Role>,
    scopes: &BTreeSet<Scope>,
) -> Result<(), Denial> {
    if operation != OperationKind::Export {
        return Ok(());
    }
    let has_role = EXPORTERS.iter().any(|role| roles.contains(role));
    let stands_for =
        (!has_role && scopes.contains(&Scope::AuditExport)).then_some(Role::ExportOperator);
    let mut actors = roles.iter().copied().chain(stands_for);
    if actors.any(|role| policy.allowed_actors.contains(&role)) {
        Ok(())
    } else {
        Err(Denial::Forbidden {
            needs: "a role that the tenant's policy lets export",
        })
    }
}
