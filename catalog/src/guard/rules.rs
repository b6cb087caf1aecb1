//! Who may do what, as data. What no row allows is denied.

use std::collections::BTreeSet;

use crate::context::{Role, Scope, TenantContext};

use super::permit::OperationKind;

/// Where a caller acts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Their own tenant.
    Tenant,
    /// The system tenant, as operators do.
    System,
}

/// One row: any of the roles or any of the scopes is enough.
struct Rule {
    operation: OperationKind,
    standing: Standing,
    roles: &'static [Role],
    scopes: &'static [Scope],
    needs: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        operation: OperationKind::Write,
        standing: Standing::Tenant,
        roles: &[Role::AuditAdmin],
        scopes: &[Scope::AuditWrite, Scope::BackfillRun],
        needs: "the scope audit.write or the role Audit.Admin",
    },
    // A job gets less than whoever starts it has, and none of it to give on.
    Rule {
        operation: OperationKind::JobToken,
        standing: Standing::Tenant,
        roles: &[Role::AuditAdmin],
        scopes: &[Scope::AuditWrite],
        needs: "the scope audit.write or the role Audit.Admin",
    },
    Rule {
        operation: OperationKind::Read,
        standing: Standing::Tenant,
        roles: READERS,
        scopes: &[Scope::AuditRead],
        needs: "the scope audit.read or a role that may read",
    },
    // What lies in the system tenant is evidence of denials.
    Rule {
        operation: OperationKind::Read,
        standing: Standing::System,
        roles: &[Role::SecurityAdmin],
        scopes: &[],
        needs: "the role Security.Admin",
    },
    Rule {
        operation: OperationKind::TenantAdmin,
        standing: Standing::System,
        roles: &[Role::SreAdmin, Role::SecurityAdmin],
        scopes: &[],
        needs: "the role SRE.Admin or Security.Admin",
    },
    Rule {
        operation: OperationKind::PolicyRead,
        standing: Standing::Tenant,
        roles: &[Role::SecurityAdmin],
        scopes: &[Scope::PolicyRead, Scope::PolicyWrite],
        needs: "the scope audit.policy.read or the role Security.Admin",
    },
    Rule {
        operation: OperationKind::PolicyRead,
        standing: Standing::System,
        roles: &[Role::SecurityAdmin],
        scopes: &[Scope::PolicyRead, Scope::PolicyWrite],
        needs: "the scope audit.policy.read or the role Security.Admin",
    },
    Rule {
        operation: OperationKind::PolicyWrite,
        standing: Standing::Tenant,
        roles: &[Role::SecurityAdmin],
        scopes: &[Scope::PolicyWrite],
        needs: "the scope audit.policy.write or the role Security.Admin",
    },
    Rule {
        operation: OperationKind::PolicyWrite,
        standing: Standing::System,
        roles: &[Role::SecurityAdmin],
        scopes: &[Scope::PolicyWrite],
        needs: "the scope audit.policy.write or the role Security.Admin",
    },
    Rule {
        operation: OperationKind::QuarantineRead,
        standing: Standing::Tenant,
        roles: QUARANTINE_READERS,
        scopes: &[],
        needs: "the role Audit.Admin or Security.Admin",
    },
    // Whoever releases a record writes it: only a person whose role says so, and no service with a scope to write.
    Rule {
        operation: OperationKind::QuarantineDecide,
        standing: Standing::Tenant,
        roles: &[Role::AuditAdmin, Role::SecurityAdmin],
        scopes: &[],
        needs: "the role Audit.Admin or Security.Admin",
    },
    // Whoever writes records or reads them may know what they look like.
    Rule {
        operation: OperationKind::SchemaRead,
        standing: Standing::Tenant,
        roles: READERS,
        scopes: &[
            Scope::AuditWrite,
            Scope::AuditRead,
            Scope::PolicyRead,
            Scope::PolicyWrite,
        ],
        needs: "the scope audit.write or audit.read, or a role that may read",
    },
    Rule {
        operation: OperationKind::SchemaRead,
        standing: Standing::System,
        roles: &[Role::SecurityAdmin],
        scopes: &[Scope::PolicyRead, Scope::PolicyWrite],
        needs: "the scope audit.policy.read or the role Security.Admin",
    },
    Rule {
        operation: OperationKind::SchemaWrite,
        standing: Standing::Tenant,
        roles: &[Role::SecurityAdmin],
        scopes: &[Scope::PolicyWrite],
        needs: "the scope audit.policy.write or the role Security.Admin",
    },
    Rule {
        operation: OperationKind::SchemaWrite,
        standing: Standing::System,
        roles: &[Role::SecurityAdmin],
        scopes: &[Scope::PolicyWrite],
        needs: "the scope audit.policy.write or the role Security.Admin",
    },
    // Whether they may in the end is the policy's to say (`admitted::exporting`). Nothing leaves in an operator's name.
    Rule {
        operation: OperationKind::Export,
        standing: Standing::Tenant,
        roles: EXPORTERS,
        scopes: &[Scope::AuditExport],
        needs: "the scope audit.export or the role Export.Operator",
    },
];

/// The roles that may read a tenant's records, and so the ones whose masking profiles count.
pub(super) const READERS: &[Role] = &[
    Role::Reader,
    Role::Investigator,
    Role::AuditAdmin,
    Role::ComplianceReviewer,
    Role::SecurityAdmin,
];
/// The roles that are about exports.
pub(super) const EXPORTERS: &[Role] = &[Role::ExportOperator, Role::ExportAdmin];
/// The roles that find the evidence table in their session.
pub(super) const EVIDENCE_READERS: &[Role] = &[
    Role::AuditAdmin,
    Role::ComplianceReviewer,
    Role::SecurityAdmin,
];
/// The roles that find the quarantine table in their session.
pub(super) const QUARANTINE_READERS: &[Role] = &[Role::AuditAdmin, Role::SecurityAdmin];

/// Whether the roles and scopes of a caller are grounds for an operation at all. This is no decision: it is for answers
/// that are no secret, and that differ by what the caller is here for.
#[must_use]
pub fn has_grounds(context: &TenantContext, operation: OperationKind) -> bool {
    let roles = context.effective_roles();
    grounds(operation, Standing::Tenant, &roles, context.scopes()).is_ok()
}

/// What allows the operation: `Role.…` or `Scope.…`; or what would.
pub(super) fn grounds(
    operation: OperationKind,
    standing: Standing,
    roles: &BTreeSet<Role>,
    scopes: &BTreeSet<Scope>,
) -> Result<String, &'static str> {
    let rule = RULES
        .iter()
        .find(|rule| rule.operation == operation && rule.standing == standing);
    let rule = rule.ok_or(match standing {
        Standing::Tenant => "an operator, who acts from the system tenant",
        Standing::System => "a caller of the tenant itself",
    })?;
    let role = rule
        .roles
        .iter()
        .find(|role| roles.contains(role))
        .map(|role| format!("Role.{role}"));
    let scope = || {
        rule.scopes
            .iter()
            .find(|scope| scopes.contains(scope))
            .map(|scope| format!("Scope.{scope}"))
    };
    role.or_else(scope).ok_or(rule.needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_row_stands_twice_and_none_is_open() {
        for (index, rule) in RULES.iter().enumerate() {
            let again = RULES.iter().skip(index + 1);
            assert!(
                !again
                    .clone()
                    .any(|other| (other.operation, other.standing)
                        == (rule.operation, rule.standing))
            );
            assert!(!rule.roles.is_empty());
            assert!(
                grounds(
                    rule.operation,
                    rule.standing,
                    &BTreeSet::new(),
                    &BTreeSet::new()
                )
                .is_err()
            );
        }
    }
}
