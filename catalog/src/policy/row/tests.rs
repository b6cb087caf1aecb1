//! Row predicates: what is read, what is refused, and what they come to for one caller.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ids::TenantId;
use crate::policy::column::{self, ColumnKind};
use crate::policy::{Bundle, BundleRefused};

fn kind_of(name: &str) -> Option<ColumnKind> {
    match column::find(name) {
        Some(column) => Some(column.kind),
        None => (name == "env").then_some(ColumnKind::Text),
    }
}

fn caller() -> Attributes {
    Attributes {
        org_unit: Some("o'neil".to_owned()),
        purpose: Some("fraud".to_owned()),
        ..Attributes::default()
    }
}

fn policy(text: &str) -> Result<RowPolicy, Vec<String>> {
    Ok(RowPolicy {
        name: "p".to_owned(),
        roles: BTreeSet::from([Role::Reader]),
        mandatory: false,
        predicate: parse(text, &kind_of)?,
    })
}

#[test]
fn predicates_are_read_as_sql_reads_them() {
    for (text, wanted) in [
        ("env = 'prod'", "env = 'prod'"),
        ("env='it''s'", "env = 'it''s'"),
        ("NOT env != 'prod'", "NOT (env <> 'prod')"),
        ("action LIKE 'Appointment.%'", "action LIKE 'Appointment.%'"),
        ("action not ilike 'a_%'", "NOT (action ILIKE 'a_%')"),
        (
            "labels['unit'] = caller.orgUnit",
            "labels['unit'] = 'o''neil'",
        ),
        ("actor_id <> caller.orgUnit", "NOT (actor_id = 'o''neil')"),
        ("env IN ('b', 'a', 'a')", "env IN ('a', 'b')"),
        ("actor_id IS NOT NULL", "NOT (actor_id IS NULL)"),
        (
            "created_at >= '2026-01-01T00:00:00Z'",
            "created_at >= '2026-01-01T00:00:00.000000Z'",
        ),
        (
            "created_at BETWEEN '2026-01-01T00:00:00+01:00' AND '2026-01-02T00:00:00Z'",
            "(created_at >= '2025-12-31T23:00:00.000000Z') AND (created_at <= '2026-01-02T00:00:00.000000Z')",
        ),
        (
            "env = 'a' OR env = 'b' AND NOT (action = 'c')",
            "(env = 'a') OR ((env = 'b') AND (NOT (action = 'c')))",
        ),
        ("caller.purpose = 'fraud'", "true"),
        (
            "caller.purpose <> 'fraud' or env = 'a'",
            "(NOT (true)) OR (env = 'a')",
        ),
        ("caller.purpose NOT IN ('audit')", "NOT (false)"),
    ] {
        let shown = policy(text).map(|policy| policy.for_caller(&caller()).to_string());
        assert_eq!(shown.as_deref(), Ok(wanted), "{text}");
    }
}

#[test]
fn a_missing_attribute_selects_no_row_wherever_it_stands() {
    for text in [
        "env = caller.edition",
        "env <> caller.edition",
        "env = 'prod' OR NOT env = caller.dataSilo",
        "NOT (caller.edition = 'free')",
        "env = 'prod' OR caller.edition NOT IN ('free', 'basic')",
    ] {
        let bound = policy(text).unwrap().for_caller(&caller());
        assert_eq!(bound, Predicate::nothing(), "{text}");
    }
}

#[test]
fn what_can_fail_or_is_unknown_is_refused() {
    let deep = format!("{}env = 'a'{}", "(".repeat(40), ")".repeat(40));
    let nots = format!("{}env = 'a'", "NOT ".repeat(40));
    let long = format!("env = '{}'", "x".repeat(300));
    let many = vec!["env='a'"; 300].join(" OR ");
    for (text, reason) in [
        ("CAST(env AS VARCHAR) = '1'", "nothing is computed"),
        ("env > 1", "numbers and arithmetic"),
        ("1 / 0 = 1", "numbers and arithmetic"),
        ("length(env) = '1'", "nothing is computed"),
        ("regexp_like(env, 'a')", "nothing is computed"),
        ("env || 'a' = 'b'", "numbers and arithmetic"),
        ("env = action", "`action` stands where a text in quotes"),
        ("env ~ 'a'", "`~` has no place"),
        ("env", "ends where a comparison"),
        ("true", "ends where a comparison"),
        ("", "ends where a column"),
        ("env = 'a' AND", "ends where a column"),
        ("env = 'a' env = 'b'", "`env` stands where AND"),
        ("env = 'a", "does not end"),
        ("env = (SELECT 'a')", "`(` stands where a text"),
        ("EXISTS (SELECT 'a')", "nothing is computed"),
        ("nosuch = 'a'", "no such column"),
        ("salt = 'a'", "no such column"),
        ("leaf_index = 'a'", "no such column"),
        ("labels = 'a'", "name one label"),
        ("context LIKE '%a%'", "promote the place"),
        ("created_at = 'yesterday'", "no RFC 3339 time"),
        ("created_at IN ('2026-01-01T00:00:00Z')", "IN is for texts"),
        ("created_at LIKE '2026%'", "LIKE is for texts"),
        ("created_at = caller.purpose", "only = or <>"),
        ("env < caller.purpose", "only = or <>"),
        ("caller.nosuch = 'a'", "known are edition"),
        ("env = caller.nosuch", "known are edition"),
        ("caller.purpose < 'a'", "only compared with"),
        ("caller.purpose IS NULL", "does not have selects no row"),
        ("caller.purpose LIKE 'a%'", "LIKE is for texts of the row"),
        ("env NOT 'a'", "NOT must be followed"),
        ("env IS 'a'", "IS must be followed"),
        ("env = 'a'; DROP TABLE records", "`;` has no place"),
        (deep.as_str(), "nested more than"),
        (nots.as_str(), "nested more than"),
        (long.as_str(), "more than 256 characters"),
        (many.as_str(), "more than 256 comparisons"),
    ] {
        let reasons = policy(text).expect_err(text);
        assert!(
            reasons.iter().any(|found| found.contains(reason)),
            "{text}: {reasons:?}"
        );
    }
    let reasons = policy("a = 'x' OR b = 'y' AND caller.c = 'z' OR created_at = 'd'").unwrap_err();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
}

fn bundle(lines: &str) -> Result<Bundle, Vec<String>> {
    let yaml = format!(
        "tenant: acme\nversion: 2\nresidency: {{ allowedSilos: [us] }}\n\
         retention: {{ streams: {{ audit.default: {{ ttlDays: 1 }} }} }}\n\
         maskingProfiles: {{ Reader: {{}}, fraud-desk: {{ email: CLEAR }} }}\n{lines}"
    );
    let tenant = TenantId::parse("acme").unwrap();
    Bundle::parse(yaml.as_bytes(), &tenant).map_err(|BundleRefused { reasons }| reasons)
}

#[test]
fn a_bundle_has_policies_by_role_and_profiles_by_purpose() {
    let bundle = bundle(
        r#"
fields: [{ path: labels.env, promote: env }]
purposes: { fraud: { Audit.Reader: fraud-desk } }
rowPolicies:
  prod: { roles: [Audit.Reader, Investigator], where: "env = 'prod'" }
  no-drafts: { mandatory: true, where: "action NOT LIKE 'Draft.%'" }
"#,
    )
    .unwrap();
    let fraud = &bundle.purposes["fraud"];
    assert_eq!(
        *fraud,
        BTreeMap::from([(Role::Reader, "fraud-desk".to_owned())])
    );
    let prod = &bundle.row_policies["prod"];
    assert_eq!((prod.roles.len(), prod.mandatory), (2, false));
    assert!(bundle.row_policies["no-drafts"].mandatory);
}

#[test]
fn bundles_whose_row_policies_cannot_work_are_refused_with_every_reason() {
    let reasons = bundle(
        r#"
fields:
  - { path: actor_id, write: HASH }
  - { path: labels.owner, write: TOKEN, promote: owner }
redaction: { defaultByField: { email: MASK } }
purposes: { fraud: { Reader: nosuch, Owner: fraud-desk }, audit: { Reader: Owner } }
rowPolicies:
  a: { roles: [Reader], where: "actor_id = 'a' AND CAST(env AS VARCHAR) = 'a'" }
  b: { roles: [Reader], where: "tenant_id = 'acme' OR nosuch = 'a'" }
  C: { roles: [Owner], where: "action = 'a'" }
  d: { where: "action = 'a'" }
  e: { roles: [Reader] }
"#,
    )
    .unwrap_err();
    for reason in [
        "purposes.fraud.Owner: is not a role",
        "purposes.audit.Reader: must be the name of a masking profile",
        "rowPolicies.a.where: CAST(…): nothing is computed",
        "rowPolicies.b.where: tenant_id: there is no such column",
        "rowPolicies.b.where: nosuch: there is no such column",
        "rowPolicies.C: must be a name",
        "rowPolicies.C.roles[0]: must be a role",
        "rowPolicies.e.where: missing",
    ] {
        assert!(
            reasons.iter().any(|found| found.contains(reason)),
            "{reason}: {reasons:#?}"
        );
    }
    let reasons = bundle(
        r#"
fields:
  - { path: actor_id, write: HASH }
  - { path: labels.owner, write: TOKEN, promote: owner }
redaction: { defaultByField: { email: MASK } }
purposes: { fraud: { Reader: nosuch } }
rowPolicies:
  a: { roles: [Reader], where: "actor_id = 'a' OR owner = 'b' OR labels['owner'] = 'c' OR labels['EMAIL'] = 'd'" }
  d: { where: "action = 'a'" }
"#,
    )
    .unwrap_err();
    for reason in [
        "purposes.fraud.Reader: there is no masking profile nosuch",
        "rowPolicies.a: actor_id is rewritten",
        "rowPolicies.a: owner is rewritten",
        "rowPolicies.a: labels['owner'] is rewritten",
        "rowPolicies.a: labels['EMAIL'] is rewritten",
        "rowPolicies.d: is for nobody",
    ] {
        assert!(
            reasons.iter().any(|found| found.contains(reason)),
            "{reason}: {reasons:#?}"
        );
    }
}

proptest! {
    #[test]
    fn reading_never_panics(text in "(env|action|labels|caller\\.|NOT|AND|OR|IN|LIKE|IS|NULL|[a-z'()\\[\\]=<>, ]){0,30}") {
        let _ = policy(&text);
    }
}
