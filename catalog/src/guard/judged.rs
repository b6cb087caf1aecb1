//! Tests: a policy's Rego module at the gate: what it takes away, what it cannot give, and what its refusals leave.

use serde_json::{Value, json};

use crate::evidence::Verdict;
use crate::guard::{Denial, Permit, PolicyRead, PolicyWrite, QuarantineRead, Read, Request, Write};
use crate::policy::{FieldPath, MaskRule};
use crate::world::{World, silo};

const BUNDLE: &str = r#"
tenant: acme
version: 2
residency: { allowedSilos: [local] }
retention: { streams: { audit.default: { ttlDays: 30 } } }
maskingProfiles:
  Investigator: { email: MASK, phone: HASH }
  Admin: {}
  no-email: { email: REDACT }
rowPolicies:
  prod: { where: "stream = 'audit.default'" }
  own: { roles: [Investigator], where: "resource_id = caller.orgUnit" }
  all: { mandatory: true, roles: [Investigator], where: "action <> 'x'" }
rego:
  mayWiden: WIDEN
  module: |
    package trailhouse
    default allow := false
    RULES
"#;

async fn world(widen: bool, rules: &str) -> World {
    let world = World::new().await;
    world.onboard("acme").await;
    let permit: Permit<PolicyWrite> = world.permit(security(), Request::at(silo())).await.unwrap();
    let yaml = BUNDLE
        .replace("WIDEN", &widen.to_string())
        .replace("RULES", &rules.replace('\n', "\n    "));
    world
        .policies
        .apply(&permit, yaml.as_bytes())
        .await
        .unwrap();
    world.ledger.take();
    world
}

fn security() -> Value {
    json!({ "sub": "sec", "tenant": "acme", "roles": ["Security.Admin"] })
}

fn investigator(purpose: Option<&str>) -> Value {
    json!({
        "sub": "ann", "tenant": "acme", "roles": ["Audit.Investigator"], "purpose": purpose,
        "org_unit": "north",
    })
}

async fn read(world: &World, claims: Value) -> Result<Permit<Read>, Denial> {
    world.permit(claims, Request::at(silo())).await
}

/// The profile and the rows of a read.
async fn seen(world: &World, claims: Value) -> (String, MaskRule, String) {
    let permit = read(world, claims).await.unwrap();
    let decision = permit.decision();
    let email = FieldPath::parse("email").unwrap();
    let rows = decision
        .rows
        .as_ref()
        .map(|rows| rows.predicate.to_string());
    let rows = rows.unwrap_or_default().replace(['(', ')'], "");
    (
        decision.profile.name.clone(),
        decision.profile.rule_for(&email),
        rows,
    )
}

const FRAUD: &str = "allow if input.operation == \"Read\"\n\
                     masking_profile := \"no-email\" if not input.purpose == \"fraud\"\n\
                     row_policies contains \"prod\" if input.purpose == \"audit\"";

#[tokio::test]
async fn a_module_takes_away_and_cannot_give() {
    let world = world(false, FRAUD).await;
    let own = "action <> 'x' AND resource_id = 'north'";
    let mask = MaskRule::Mask {
        show_first: 2,
        show_last: 2,
    };
    let fraud = seen(&world, investigator(Some("fraud"))).await;
    assert_eq!(fraud, ("Investigator".to_owned(), mask, own.to_owned()));
    let none = seen(&world, investigator(None)).await;
    assert_eq!(
        none,
        (
            "Investigator+no-email".to_owned(),
            MaskRule::Redact,
            own.to_owned()
        )
    );
    let audit = seen(&world, investigator(Some("audit"))).await;
    let both = "action <> 'x' AND stream = 'audit.default' AND resource_id = 'north'";
    assert_eq!(audit.2, both);
    // The rules of the product hold whatever the module allows.
    let nobody = json!({ "sub": "eve", "tenant": "acme" });
    assert!(matches!(
        read(&world, nobody).await,
        Err(Denial::Forbidden { .. })
    ));
}

#[tokio::test]
async fn a_bundle_may_let_its_module_widen_and_mandatory_rows_stay() {
    let world = world(true, FRAUD).await;
    let audit = seen(&world, investigator(Some("audit"))).await;
    assert_eq!(
        audit,
        (
            "no-email".to_owned(),
            MaskRule::Redact,
            "action <> 'x' AND stream = 'audit.default'".to_owned()
        )
    );
}

#[tokio::test]
async fn denials_of_a_module_say_so_in_evidence() {
    for (rules, denial, basis) in [
        ("", Denial::PolicyDenies, "Rego.Denies"),
        (
            "allow if input.operation == \"Write\"",
            Denial::PolicyDenies,
            "Rego.Denies",
        ),
        (
            "allow if lower(1) == \"1\"",
            Denial::PolicyFails,
            "Rego.Fails",
        ),
        (
            "allow := true\nmasking_profile := \"nosuch\"",
            Denial::PolicyFails,
            "Rego.Fails",
        ),
        (
            "allow := true\nrow_policies := {\"prod\", \"nosuch\"}",
            Denial::PolicyFails,
            "Rego.Fails",
        ),
    ] {
        let world = world(false, rules).await;
        let found = read(&world, investigator(None)).await.unwrap_err();
        assert_eq!(found, denial, "{rules}");
        let entries = world.ledger.take();
        let [entry] = entries.as_slice() else {
            panic!("one entry, not {entries:?}")
        };
        assert_eq!(
            (entry.decision, entry.slug, entry.basis.as_slice()),
            (
                Verdict::Deny,
                Some("forbidden"),
                [basis.to_owned()].as_slice()
            ),
            "{rules}"
        );
    }
}

#[tokio::test]
async fn what_a_module_allowed_is_in_the_basis_with_what_it_asked_for() {
    let world = world(false, FRAUD).await;
    let permit = read(&world, investigator(Some("audit"))).await.unwrap();
    let basis = permit.decision().basis.join(" ");
    assert!(
        basis.ends_with(
            "Rego.Allows Mask.Investigator+no-email RLS.Row.all RLS.Row.own RLS.Row.prod \
             Caller.orgUnit=north Caller.purpose=audit"
        ),
        "{basis}"
    );
}

#[tokio::test]
async fn a_module_that_allows_nothing_keeps_nobody_from_replacing_it() {
    let world = world(false, "").await;
    let request = || Request::at(silo());
    let look: Result<Permit<PolicyRead>, _> = world.permit(security(), request()).await;
    let replace: Result<Permit<PolicyWrite>, _> = world.permit(security(), request()).await;
    assert!(look.is_ok() && replace.is_ok());
    let writer = json!({ "sub": "svc", "tenant": "acme", "scope": "audit.write" });
    let write: Result<Permit<Write>, _> = world.permit(writer, request()).await;
    assert_eq!(write.unwrap_err(), Denial::PolicyDenies);
    let quarantine: Result<Permit<QuarantineRead>, _> = world.permit(security(), request()).await;
    assert_eq!(quarantine.unwrap_err(), Denial::PolicyDenies);
}

#[tokio::test]
async fn whoever_a_module_puts_under_a_row_policy_sees_no_quarantine() {
    let world = world(false, "allow := true\nrow_policies := \"prod\"").await;
    let quarantine: Result<Permit<QuarantineRead>, _> =
        world.permit(security(), Request::at(silo())).await;
    assert!(matches!(quarantine, Err(Denial::Forbidden { .. })));
    let permit = read(&world, security()).await.unwrap();
    assert!(!permit.decision().may_see_evidence);
}
