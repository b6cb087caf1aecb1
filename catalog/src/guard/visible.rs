//! What of a tenant's records a caller sees: through which masks, and which rows.
//!
//! Both go by the roles that count. Of several the most restrictive holds: of masks the strictest for each field, of rows
//! those that every role may know of. Whoever has several roles may name the one to act in.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::context::{Attributes, Role};
use crate::policy::rego::Obligations;
use crate::policy::row::Predicate;
use crate::policy::{Bundle, MaskProfile, RowPolicy, RowRule};

use super::denial::Denial;
use super::permit::OperationKind;
use super::rules::{EVIDENCE_READERS, QUARANTINE_READERS, READERS};

/// What one caller sees of their tenant's records.
pub(super) struct Sight {
    pub(super) profile: Arc<MaskProfile>,
    pub(super) rows: Option<Arc<RowRule>>,
    pub(super) may_see_quarantine: bool,
    pub(super) may_see_evidence: bool,
    /// What of it goes into the basis of a decision.
    pub(super) basis: Vec<String>,
}

impl Sight {
    pub(super) fn of(
        bundle: &Bundle,
        operation: OperationKind,
        roles: &BTreeSet<Role>,
        attributes: &Attributes,
        obligations: Option<&Obligations>,
    ) -> Result<Self, Denial> {
        let none = Obligations::default();
        let asked = obligations.unwrap_or(&none);
        let profile = obliged(bundle, profile(bundle, roles, attributes), asked)?;
        let rows = rows(bundle, roles, attributes, asked)?;
        unrestricted(operation, rows.as_ref())?;
        // What is exported is records.
        let is_for_records = operation == OperationKind::Export;
        let sees = |readers: &[Role]| {
            rows.is_none() && !is_for_records && readers.iter().any(|role| roles.contains(role))
        };
        Ok(Self {
            may_see_quarantine: sees(QUARANTINE_READERS),
            may_see_evidence: sees(EVIDENCE_READERS),
            basis: obligations
                .map(|_| "Rego.Allows".to_owned())
                .into_iter()
                .chain(basis(operation, &profile, rows.as_deref(), attributes))
                .collect(),
            profile,
            rows,
        })
    }
}

/// The masks of a caller: of one role, its own; of several, the most restrictive; of none that has any, the strictest.
/// Where the bundle has another profile for the role and the purpose of the token, that is the role's.
fn profile(bundle: &Bundle, roles: &BTreeSet<Role>, attributes: &Attributes) -> Arc<MaskProfile> {
    let purpose = attributes.purpose.as_ref();
    let for_purpose = purpose.and_then(|purpose| bundle.purposes.get(purpose));
    let reading: Vec<&str> = reading(roles)
        .map(|role| {
            let instead = for_purpose.and_then(|profiles| profiles.get(&role));
            instead.map_or(role.profile_name(), String::as_str)
        })
        .collect();
    let profiles: Option<Vec<&MaskProfile>> = reading
        .iter()
        .map(|name| bundle.masking_profiles.get(*name))
        .collect();
    Arc::new(match profiles.as_deref() {
        None | Some([]) => bundle.strictest_profile(),
        Some([one]) => (*one).clone(),
        Some(several) => MaskProfile::merged(reading.join("+"), several.iter().copied()),
    })
}

/// The masks of a caller once the module has been asked: as strict as the profile it names as well, or where the bundle
/// lets it widen, that one instead.
fn obliged(
    bundle: &Bundle,
    profile: Arc<MaskProfile>,
    asked: &Obligations,
) -> Result<Arc<MaskProfile>, Denial> {
    let Some(name) = &asked.masking_profile else {
        return Ok(profile);
    };
    let named = bundle.masking_profiles.get(name);
    let named = named.ok_or(Denial::PolicyFails)?;
    Ok(Arc::new(if may_widen(bundle) {
        named.clone()
    } else {
        let both = [profile.as_ref(), named];
        MaskProfile::merged(format!("{}+{name}", profile.name), both)
    }))
}

fn may_widen(bundle: &Bundle) -> bool {
    bundle.rego.as_ref().is_some_and(|rego| rego.may_widen)
}

/// The rows of a caller. A role sees the rows that any of its policies selects, and all if it has none; several roles
/// see what each of them sees. Whoever reads by a scope alone is under the policies of all roles. What is mandatory
/// holds beside that, and so does what the module asks for; where the bundle lets it widen, that stands in for what the
/// roles have.
fn rows(
    bundle: &Bundle,
    roles: &BTreeSet<Role>,
    attributes: &Attributes,
    asked: &Obligations,
) -> Result<Option<Arc<RowRule>>, Denial> {
    let known = |name: &String| bundle.row_policies.contains_key(name);
    if !asked.row_policies.iter().all(known) {
        return Err(Denial::PolicyFails);
    }
    let mut own: BTreeSet<Role> = reading(roles).collect();
    if own.is_empty() {
        own = Role::ALL.into_iter().collect();
    }
    let is_for = |policy: &RowPolicy| policy.roles.iter().any(|role| own.contains(role));
    let mut names = asked.row_policies.clone();
    let mut all = Vec::new();
    for policy in bundle.row_policies.values() {
        let is_mandatory = policy.mandatory && (policy.roles.is_empty() || is_for(policy));
        if is_mandatory || asked.row_policies.contains(&policy.name) {
            names.insert(policy.name.clone());
            all.push(policy.for_caller(attributes));
        }
    }
    let is_replaced = may_widen(bundle) && !asked.row_policies.is_empty();
    for role in own.iter().filter(|_| !is_replaced) {
        let policies = bundle.row_policies.values();
        let granting: Vec<&RowPolicy> = policies
            .filter(|policy| !policy.mandatory && policy.roles.contains(role))
            .collect();
        if !granting.is_empty() {
            names.extend(granting.iter().map(|policy| policy.name.clone()));
            let any = granting.iter().map(|policy| policy.for_caller(attributes));
            all.push(Predicate::Any(any.collect()));
        }
    }
    let is_restricted = !names.is_empty();
    Ok(is_restricted.then(|| {
        Arc::new(RowRule {
            policies: names,
            predicate: Predicate::All(all),
        })
    }))
}

/// The roles that read, in the order of the table.
fn reading(roles: &BTreeSet<Role>) -> impl Iterator<Item = Role> {
    READERS.iter().copied().filter(|role| roles.contains(role))
}

/// Quarantine holds whatever was refused: no row policy can be trusted to find its fields there.
fn unrestricted(operation: OperationKind, rows: Option<&Arc<RowRule>>) -> Result<(), Denial> {
    match (operation, rows) {
        (OperationKind::QuarantineRead | OperationKind::QuarantineDecide, Some(_)) => {
            Err(Denial::Forbidden {
                needs: "a role that no row policy hides records from",
            })
        }
        _ => Ok(()),
    }
}

/// What a reader sees records through, and what of them a policy could ask about.
fn basis(
    operation: OperationKind,
    profile: &MaskProfile,
    rows: Option<&RowRule>,
    attributes: &Attributes,
) -> Vec<String> {
    if !matches!(
        operation,
        OperationKind::Read | OperationKind::QuarantineRead | OperationKind::Export
    ) {
        return Vec::new();
    }
    // The table keeps a basis as one text, with commas between.
    let kept = |value: &str| value.replace('%', "%25").replace(',', "%2C");
    let masks = [format!("Mask.{}", profile.name)];
    let rows = rows.into_iter().flat_map(|rows| &rows.policies);
    let said = attributes.iter();
    masks
        .into_iter()
        .chain(rows.map(|policy| format!("RLS.Row.{policy}")))
        .chain(said.map(|(attribute, value)| format!("Caller.{attribute}={}", kept(value))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TenantId;
    use crate::policy::{FieldPath, MaskRule};

    const BUNDLE: &str = r#"
tenant: acme
version: 2
residency: { allowedSilos: [us] }
retention: { streams: { audit.default: { ttlDays: 1 } } }
maskingProfiles:
  Reader: { actor_id: HASH }
  Investigator: { actor_id: MASK, email: REDACT }
  fraud-desk: { email: CLEAR }
  least: { actor_id: NULLIFY }
purposes:
  fraud: { Investigator: fraud-desk }
  statistics: { Investigator: least, Reader: least }
rowPolicies:
  prod: { roles: [Reader, Investigator], where: "stream = 'prod'" }
  own: { roles: [Investigator], where: "resource_id = caller.orgUnit" }
  no-drafts: { mandatory: true, roles: [Reader], where: "action <> 'Draft'" }
"#;

    fn bundle(lines: &str) -> Bundle {
        let yaml = format!("{BUNDLE}{lines}");
        Bundle::parse(yaml.as_bytes(), &TenantId::parse("acme").unwrap()).unwrap()
    }

    fn caller(purpose: Option<&str>, org_unit: Option<&str>) -> Attributes {
        Attributes {
            purpose: purpose.map(str::to_owned),
            org_unit: org_unit.map(str::to_owned),
            ..Attributes::default()
        }
    }

    fn sight(bundle: &Bundle, roles: &[Role], attributes: &Attributes) -> Sight {
        let roles = roles.iter().copied().collect();
        Sight::of(bundle, OperationKind::Read, &roles, attributes, None).unwrap()
    }

    #[test]
    fn a_purpose_of_the_token_stands_in_for_the_roles_profile() {
        let bundle = bundle("");
        let rule_for = |profile: &MaskProfile, path: &str| -> MaskRule {
            profile.rule_for(&FieldPath::parse(path).unwrap())
        };
        let (reader, investigator) = (Role::Reader, Role::Investigator);
        // Of several roles the most restrictive for each field, whatever a purpose opens for one of them.
        for (roles, purpose, wanted) in [
            (vec![investigator], None, "Investigator REDACT MASK(2,2)"),
            (vec![investigator], Some("fraud"), "fraud-desk CLEAR CLEAR"),
            (
                vec![investigator],
                Some("Fraud"),
                "Investigator REDACT MASK(2,2)",
            ),
            (
                vec![investigator],
                Some("statistics"),
                "least CLEAR NULLIFY",
            ),
            (vec![reader], Some("fraud"), "Reader CLEAR HASH"),
            (
                vec![investigator, reader],
                Some("fraud"),
                "Reader+fraud-desk CLEAR HASH",
            ),
            (
                vec![Role::AuditAdmin],
                Some("fraud"),
                "strictest REDACT NULLIFY",
            ),
            (vec![], Some("fraud"), "strictest REDACT NULLIFY"),
        ] {
            let profile = sight(&bundle, &roles, &caller(purpose, None)).profile;
            let (email, actor) = (rule_for(&profile, "email"), rule_for(&profile, "actor_id"));
            let found = format!("{} {email} {actor}", profile.name);
            assert_eq!(found, wanted, "{roles:?} {purpose:?}");
        }
    }

    #[test]
    fn a_role_sees_what_any_of_its_policies_selects_and_roles_what_each_of_them_sees() {
        let bundle = bundle("");
        let north = caller(None, Some("north"));
        for (roles, attributes, wanted) in [
            (
                vec![Role::Investigator],
                &north,
                "(((resource_id = 'north') OR (stream = 'prod')))",
            ),
            // Nothing by a policy whose attribute is missing.
            (
                vec![Role::Investigator],
                &caller(None, None),
                "(((false) OR (stream = 'prod')))",
            ),
            (
                vec![Role::Reader],
                &north,
                "(action <> 'Draft') AND (((stream = 'prod')))",
            ),
            (
                vec![Role::Reader, Role::Investigator],
                &north,
                "(action <> 'Draft') AND ((stream = 'prod')) AND ((resource_id = 'north') OR (stream = 'prod'))",
            ),
            // Whoever has no role is under the policies of all.
            (
                vec![],
                &north,
                "(action <> 'Draft') AND ((stream = 'prod')) AND ((resource_id = 'north') OR (stream = 'prod'))",
            ),
        ] {
            let sight = sight(&bundle, &roles, attributes);
            let shown = sight.rows.expect("rows").predicate.to_string();
            let plain = |text: &str| text.replace(['(', ')'], "");
            assert_eq!(plain(&shown), plain(wanted), "{roles:?}");
            assert!(!sight.may_see_evidence && !sight.may_see_quarantine);
        }
        let admin = sight(&bundle, &[Role::AuditAdmin], &north);
        assert!(admin.rows.is_none() && admin.may_see_evidence && admin.may_see_quarantine);
        let both = sight(&bundle, &[Role::AuditAdmin, Role::Reader], &north);
        assert!(both.rows.is_some() && !both.may_see_evidence);
    }

    #[test]
    fn what_is_mandatory_for_everybody_leaves_nobody_out() {
        let bundle = bundle("  all: { mandatory: true, where: \"action <> 'Secret'\" }\n");
        for roles in [vec![], vec![Role::AuditAdmin], vec![Role::Reader]] {
            let sight = sight(&bundle, &roles, &Attributes::default());
            assert!(sight.rows.unwrap().policies.contains("all"), "{roles:?}");
        }
        let quarantine = Sight::of(
            &bundle,
            OperationKind::QuarantineRead,
            &BTreeSet::from([Role::AuditAdmin]),
            &Attributes::default(),
            None,
        );
        assert!(matches!(quarantine, Err(Denial::Forbidden { .. })));
    }

    #[test]
    fn evidence_names_what_was_looked_at_and_by_what_attributes() {
        let attributes = caller(Some("fraud, and 5%"), Some("north"));
        let sight = sight(&bundle(""), &[Role::Investigator], &attributes);
        assert_eq!(
            sight.basis,
            [
                "Mask.Investigator",
                "RLS.Row.own",
                "RLS.Row.prod",
                "Caller.orgUnit=north",
                "Caller.purpose=fraud%2C and 5%25",
            ]
        );
    }
}
