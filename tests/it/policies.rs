//! Policies at work over the wire: rows and masks by role, purpose and attribute, and a Rego module.

use arrow::array::RecordBatch;
use flight_server::auth::developer::TokenRequest;
use futures::TryStreamExt;
use serde_json::json;
use tests::{World, record, run, text};

const FRAUD: &str = include_str!("../data/policies/fraud.yaml");

const BASE: &str = r#"
tenant: acme
residency: { allowedSilos: [eu] }
retention: { streams: { audit.default: { ttlDays: 30 } } }
fields: [{ path: labels.env, promote: env }]
maskingProfiles: { Reader: {}, Investigator: {}, Admin: {} }
"#;

const ROWS: &str = r#"
rowPolicies:
  prod: { roles: [Reader, Investigator], where: "env = 'prod'" }
  own-unit: { roles: [Investigator], where: "labels['unit'] = caller.orgUnit" }
"#;

async fn world() -> World {
    let world = World::start().await;
    world.tenant("acme", "eu").await;
    world
}

fn bundle(version: u64, lines: &str) -> String {
    format!("version: {version}\n{BASE}{lines}")
}

fn token(world: &World, role: &str, purpose: Option<&str>, org_unit: Option<&str>) -> String {
    world.mint(&TokenRequest {
        subject: "ann".to_owned(),
        tenant: Some("acme".to_owned()),
        roles: vec![format!("Audit.{role}")],
        purpose: purpose.map(str::to_owned),
        org_unit: org_unit.map(str::to_owned),
        ..TokenRequest::default()
    })
}

async fn asked(world: &World, token: &str, sql: &str) -> String {
    let mut client = world.client("eu", token).await;
    match run(&mut client, sql).await {
        Ok(rows) => text(&rows),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn investigators_see_addresses_for_fraud_and_for_nothing_else() {
    let world = world().await;
    let yaml = FRAUD.replace("[local]", "[eu]");
    world.policy("acme", &yaml).await;
    let context = json!({ "context": { "email": "ann@acme.example" } });
    world
        .ingest("acme", "eu", &[record("acme", "one", context)])
        .await;
    let sql = "SELECT context FROM audit.records";
    for (role, purpose, is_shown) in [
        ("Investigator", Some("fraud"), true),
        ("Investigator", Some("audit"), false),
        ("Investigator", None, false),
        ("Reader", Some("fraud"), false),
    ] {
        let shown = asked(&world, &token(&world, role, purpose, None), sql).await;
        assert!(shown.contains("email"), "{role} {purpose:?}: {shown}");
        assert_eq!(
            shown.contains("ann@acme.example"),
            is_shown,
            "{role} {purpose:?}: {shown}"
        );
    }
    let admin = token(&world, "Admin", None, None);
    let denied = asked(&world, &admin, sql).await;
    assert!(
        denied.contains("the tenant's policy does not allow this"),
        "{denied}"
    );

    // Without the module the evidence can be looked at.
    world.policy("acme", &bundle(3, "")).await;
    let basis =
        "SELECT masking_profile, basis, problem FROM audit.evidence WHERE operation = 'Read'";
    let shown = asked(&world, &admin, basis).await;
    for wanted in [
        "Rego.Allows,Mask.Investigator,Caller.purpose=fraud",
        "Rego.Allows,Mask.Investigator+no-email,Caller.purpose=audit",
        "Rego.Denies",
        "forbidden",
    ] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_seen_by_role_and_attribute_and_not_counted_otherwise() {
    let world = world().await;
    world.policy("acme", &bundle(2, ROWS)).await;
    let record = |key: &str, env: &str, unit: &str| {
        let labels = json!({ "labels": { "env": env, "unit": unit } });
        record("acme", key, labels)
    };
    let records = [
        record("one", "prod", "north"),
        record("two", "test", "north"),
        record("three", "test", "canary-south"),
    ];
    world.ingest("acme", "eu", &records).await;
    let count = "SELECT count(*) AS n FROM audit.records";
    for (role, org_unit, rows) in [
        ("Reader", Some("north"), 1),
        ("Investigator", Some("north"), 2),
        ("Investigator", None, 1),
        ("Admin", None, 3),
    ] {
        let token = token(&world, role, None, org_unit);
        let shown = asked(&world, &token, count).await;
        assert!(
            shown.contains(&format!("| {rows} |")),
            "{role} {org_unit:?}: {shown}"
        );
        let all = asked(&world, &token, "SELECT * FROM audit.records").await;
        assert_eq!(all.contains("canary-south"), rows == 3, "{all}");
        assert_eq!(all.contains("leaf_index"), rows == 3, "{all}");
    }
    let reader = token(&world, "Reader", None, None);
    let filtered = format!("{count} WHERE env = 'test' OR labels['unit'] LIKE '%south'");
    let shown = asked(&world, &reader, &filtered).await;
    assert!(shown.contains("| 0 |"), "{shown}");
}

/// A ticket grants nothing: it is redeemed under the policy of the day.
#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_planned_anew_under_the_policy_that_has_come_since() {
    let world = world().await;
    world.policy("acme", &bundle(2, "")).await;
    let labels = |env: &str| json!({ "labels": { "env": env } });
    let records = [
        record("acme", "one", labels("prod")),
        record("acme", "two", labels("test")),
    ];
    world.ingest("acme", "eu", &records).await;
    let mut client = world
        .client("eu", &token(&world, "Reader", None, None))
        .await;
    let sql = "SELECT env FROM audit.records ORDER BY env";
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let shown = |rows: Vec<RecordBatch>| text(&rows);
    let rows = client.do_get(ticket.clone()).await.unwrap();
    let before = shown(rows.try_collect().await.unwrap());
    assert!(
        before.contains("prod") && before.contains("test"),
        "{before}"
    );

    world.policy("acme", &bundle(3, ROWS)).await;
    let rows = client.do_get(ticket.clone()).await.unwrap();
    let after = shown(rows.try_collect().await.unwrap());
    assert!(after.contains("prod") && !after.contains("test"), "{after}");

    let rego = "rego: { module: \"package trailhouse\\ndefault allow := false\" }\n";
    world
        .policy("acme", &bundle(4, &format!("{ROWS}{rego}")))
        .await;
    let refused = client
        .do_get(ticket)
        .await
        .err()
        .map(|error| format!("{error:?}"));
    let refused = refused.unwrap_or_default();
    assert!(
        refused.contains("the tenant's policy does not allow this"),
        "{refused}"
    );
}
