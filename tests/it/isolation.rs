//! Two tenants in two silos: neither sees, names or infers the other.

use catalog::tenant::Event;
use serde_json::json;
use tests::{World, record, text};

async fn world() -> World {
    let world = World::start().await;
    for (tenant, silo) in [("acme", "eu"), ("globex", "us")] {
        world.tenant(tenant, silo).await;
        let records: Vec<_> = (0..20)
            .map(|n| {
                record(
                    tenant,
                    &n.to_string(),
                    json!({ "action": format!("{tenant}.secret.{n}") }),
                )
            })
            .collect();
        world.ingest(tenant, silo, &records).await;
    }
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_shows_the_other_tenant() {
    let world = world().await;
    for sql in include_str!("isolation.sql")
        .split(";\n")
        .map(str::trim)
        .filter(|sql| !sql.is_empty())
    {
        for role in ["Audit.Reader", "Audit.Investigator", "Audit.Admin"] {
            let seen = match world.query("acme", "eu", role, sql).await {
                Ok(rows) => text(&rows),
                Err(error) => error,
            };
            assert!(!seen.contains("globex.secret"), "{role}: {sql}: {seen}");
            // What this caller typed stands in its evidence.
            if !sql.contains("globex") && !sql.contains("evidence") {
                assert!(!seen.contains("globex"), "{role}: {sql}: {seen}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_exists_is_refused_like_one_that_does_not() {
    let world = world().await;
    let mut answers = Vec::new();
    for name in ["globex", "nobody"] {
        let sql = format!("SELECT * FROM {name}.audit.records");
        let answer = world
            .query("acme", "eu", "Audit.Reader", &sql)
            .await
            .expect_err("refused");
        answers.push(status(&answer).replace(name, "<name>"));
    }
    assert!(answers[0].contains("cross-tenant-query"), "{answers:?}");
    assert_eq!(answers[0], answers[1]);
}

/// The part of an error that does not change from request to request.
fn status(error: &str) -> String {
    let end = error.find("correlationId").unwrap_or(error.len());
    error[..end].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_does_not_work_in_another_silo() {
    let world = world().await;
    let error = world
        .query("acme", "us", "Audit.Reader", "SELECT 1")
        .await
        .expect_err("refused");
    assert!(error.contains("residency-conflict"), "{error}");
    let token = world.token("acme", &[], &["audit.write"]);
    let body = record("acme", "new", json!({})).to_string();
    let (status, answer) = world.post("us", &token, "/v1/audit/records", body).await;
    assert_eq!(
        (
            status,
            answer["type"]
                .as_str()
                .unwrap_or_default()
                .ends_with("residency-conflict")
        ),
        (409, true)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_tenant_reads_and_does_not_write() {
    let world = world().await;
    world.advance("acme", Event::Suspend).await;
    let write = |tenant: &'static str| {
        let world = &world;
        async move {
            let token = world.token(tenant, &[], &["audit.write"]);
            let body = record(tenant, "late", json!({})).to_string();
            let (status, answer) = world.post("eu", &token, "/v1/audit/records", body).await;
            (status, answer["type"].clone(), answer["detail"].clone())
        }
    };
    let suspended = write("acme").await;
    assert_eq!(suspended.0, 403, "{suspended:?}");
    assert_eq!(
        suspended,
        write("nobody").await,
        "unknown and suspended are told apart"
    );
    let rows = world
        .query(
            "acme",
            "eu",
            "Audit.Reader",
            "SELECT count(*) FROM audit.records",
        )
        .await;
    assert!(text(&rows.expect("reads go on")).contains("20"));
    world.advance("acme", Event::Reinstate).await;
    assert_eq!(write("acme").await.0, 200);
}
