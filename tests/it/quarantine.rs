//! What is kept aside can be looked at by those who may, and is released or discarded once.

use arrow::array::AsArray;
use serde_json::{Value, json};
use tests::{World, files, record, text};

const RECORDS: &str = "/v1/audit/records";
const QUARANTINE: &str = "/v1/audit/quarantine";

async fn world() -> World {
    let world = World::start().await;
    world.tenant("acme", "eu").await;
    world.tenant("globex", "eu").await;
    world
}

/// Sends a record whose body names another tenant; gives the entry.
async fn foreign(world: &World, tenant: &str, key: &str) -> String {
    let token = world.token(tenant, &[], &["audit.write"]);
    let mail = json!({ "context": { "email": "eve@evil.example", "note": "mine" } });
    let body = record("somebody", key, mail).to_string();
    let (status, answer) = world.post("eu", &token, RECORDS, body).await;
    assert_eq!(status, 202, "{answer}");
    entry(&answer)
}

fn entry(answer: &Value) -> String {
    answer["evidenceRef"].as_str().expect("a ref").to_owned()
}

async fn get(world: &World, tenant: &str, role: &str, path: &str) -> (u16, Value) {
    let token = world.token(tenant, &[role], &[]);
    let url = format!("{}{QUARANTINE}{path}", world.http("eu"));
    let request = reqwest::Client::new().get(url).bearer_auth(token);
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

async fn decide(world: &World, tenant: &str, role: &str, act: &str) -> (u16, Value) {
    let token = world.token(tenant, &[role], &[]);
    let path = format!("{QUARANTINE}/{act}");
    let body = json!({ "reason": "looked at by hand" }).to_string();
    world.post("eu", &token, &path, body).await
}

fn ids(page: &Value) -> Vec<String> {
    let entries = page["entries"].as_array().expect("entries");
    let id = |entry: &Value| entry["id"].as_str().expect("an id").to_owned();
    entries.iter().map(id).collect()
}

async fn records(world: &World, tenant: &str) -> usize {
    let sql = "SELECT record_id FROM audit.records";
    let rows = world.query(tenant, "eu", "Audit.Investigator", sql).await;
    rows.expect("rows")
        .iter()
        .map(|batch| batch.num_rows())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_stores_the_redacted_record_once_however_often_it_is_asked_for() {
    let world = world().await;
    let entry = foreign(&world, "acme", "k1").await;
    assert_eq!(records(&world, "acme").await, 0);
    let act = format!("{entry}:release");
    let (status, first) = decide(&world, "acme", "Security.Admin", &act).await;
    assert_eq!(status, 200, "{first}");
    assert_eq!(first["state"], "released");
    assert_eq!(first["record"]["tenantId"], "acme");
    assert_eq!(first["record"]["duplicate"], false);
    let (status, again) = decide(&world, "acme", "Audit.Admin", &act).await;
    assert_eq!(status, 200, "{again}");
    assert_eq!(again["record"]["recordId"], first["record"]["recordId"]);
    assert_eq!(again["record"]["duplicate"], true);
    assert_eq!(records(&world, "acme").await, 1);
    let sql = "SELECT tenant_id, idempotency_key, context FROM audit.records";
    let rows = world.query("acme", "eu", "Audit.Investigator", sql).await;
    let rows = text(&rows.expect("rows"));
    assert!(rows.contains("acme") && rows.contains("mine"), "{rows}");
    assert!(!rows.contains("somebody"), "{rows}");
    let discard = format!("{entry}:discard");
    let (status, problem) = decide(&world, "acme", "Security.Admin", &discard).await;
    assert_eq!(status, 409, "{problem}");
    assert_eq!(
        problem["type"],
        "https://trailhouse.dev/problems/quarantine-decided"
    );
    assert_eq!(problem["state"], "released");
    // The key of the record that was kept aside is as free as it was.
    world
        .ingest("acme", "eu", &[record("acme", "k1", json!({}))])
        .await;
    assert_eq!(records(&world, "acme").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discarded_record_stays_out() {
    let world = world().await;
    world
        .ingest("acme", "eu", &[record("acme", "k1", json!({}))])
        .await;
    let other = record("acme", "k1", json!({ "action": "Order.Cancelled" })).to_string();
    let token = world.token("acme", &[], &["audit.write"]);
    let (status, conflict) = world.post("eu", &token, RECORDS, other).await;
    assert_eq!(status, 409, "{conflict}");
    let entry = entry(&conflict);
    let sql = "SELECT decision, problem FROM audit.evidence \
               WHERE operation = 'Write' AND decision <> 'Allow'";
    let rows = world.query("acme", "eu", "Audit.Admin", sql).await;
    let rows = text(&rows.expect("rows"));
    assert_eq!(rows.matches("Quarantine").count(), 1, "{rows}");
    assert_eq!(rows.matches("idempotency-mismatch").count(), 1, "{rows}");
    for _ in 0..2 {
        let act = format!("{entry}:discard");
        let (status, answer) = decide(&world, "acme", "Security.Admin", &act).await;
        assert_eq!((status, &answer["state"]), (200, &json!("discarded")));
    }
    let act = format!("{entry}:release");
    let (status, _) = decide(&world, "acme", "Security.Admin", &act).await;
    assert_eq!(status, 409);
    assert_eq!(records(&world, "acme").await, 1);
    let path = format!("/{entry}");
    let (_, shown) = get(&world, "acme", "Security.Admin", &path).await;
    assert_eq!(shown["state"], "discarded");
    assert_eq!(shown["reason"], "idempotency-mismatch");
    assert_eq!(shown["decision"]["reason"], "looked at by hand");
    assert_eq!(shown["decision"]["by"], "tester");
    let sql = "SELECT state FROM audit.quarantine ORDER BY state";
    let rows = world.query("acme", "eu", "Security.Admin", sql).await;
    let rows = text(&rows.expect("rows"));
    assert!(
        rows.contains("discarded") && rows.contains("open"),
        "{rows}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_come_in_pages_by_state_and_only_to_those_who_may() {
    let world = world().await;
    let mut entries = Vec::new();
    for key in ["a", "b", "c", "d"] {
        entries.push(foreign(&world, "acme", key).await);
    }
    entries.reverse();
    let (_, page) = get(&world, "acme", "Audit.Admin", "?limit=3").await;
    assert_eq!(ids(&page), entries[..3]);
    let cursor = page["cursor"].as_str().expect("a cursor");
    let (_, page) = get(
        &world,
        "acme",
        "Audit.Admin",
        &format!("?limit=3&cursor={cursor}"),
    )
    .await;
    assert_eq!(ids(&page), entries[3..]);
    assert_eq!(page["cursor"], Value::Null);
    let act = format!("{}:release", entries[1]);
    decide(&world, "acme", "Audit.Admin", &act).await;
    let (_, open) = get(&world, "acme", "Audit.Admin", "?state=open").await;
    assert_eq!(ids(&open).len(), 3);
    let (_, released) = get(&world, "acme", "Audit.Admin", "?state=released").await;
    assert_eq!(ids(&released), entries[1..2]);
    for (role, path) in [
        ("Audit.Reader", ""),
        ("Audit.Investigator", ""),
        ("SRE.Admin", ""),
    ] {
        assert_eq!(get(&world, "acme", role, path).await.0, 403, "{role}");
    }
    let act = format!("{}:release", entries[0]);
    let (status, _) = decide(&world, "acme", "Audit.Investigator", &act).await;
    assert_eq!(status, 403);
    for query in ["?state=x", "?limit=0", "?limit=1001", "?cursor=x", "?x=1"] {
        assert_eq!(
            get(&world, "acme", "Audit.Admin", query).await.0,
            400,
            "{query}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_entry_is_none() {
    let world = world().await;
    let entry = foreign(&world, "acme", "k1").await;
    let path = format!("/{entry}");
    let (status, of_another) = get(&world, "globex", "Security.Admin", &path).await;
    let (_, of_none) = get(&world, "globex", "Security.Admin", "/none").await;
    assert_eq!((status, &of_another["type"]), (404, &of_none["type"]));
    assert_eq!(of_another["detail"], of_none["detail"]);
    for verb in ["release", "discard"] {
        let act = format!("{entry}:{verb}");
        let (status, _) = decide(&world, "globex", "Security.Admin", &act).await;
        assert_eq!(status, 404);
    }
    let (_, page) = get(&world, "globex", "Security.Admin", "").await;
    assert!(ids(&page).is_empty());
    let (_, shown) = get(&world, "acme", "Security.Admin", &path).await;
    assert_eq!(shown["state"], "open");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_needs_a_reason_and_leaves_evidence_without_its_words() {
    let world = world().await;
    let entry = foreign(&world, "acme", "k1").await;
    let token = world.token("acme", &["Security.Admin"], &[]);
    let long = json!({ "reason": "x".repeat(1_001) }).to_string();
    for body in [
        "",
        "{}",
        r#"{"reason": " "}"#,
        r#"{"reason": "x", "y": 1}"#,
        &long,
    ] {
        let path = format!("{QUARANTINE}/{entry}:release");
        let (status, problem) = world.post("eu", &token, &path, body.to_owned()).await;
        assert_eq!(status, 400, "{problem}");
    }
    let (status, _) = decide(&world, "acme", "Security.Admin", &format!("{entry}:burn")).await;
    assert_eq!(status, 404);
    decide(
        &world,
        "acme",
        "Security.Admin",
        &format!("{entry}:release"),
    )
    .await;
    let sql = "SELECT basis FROM audit.evidence WHERE operation = 'Quarantine.Released'";
    let rows = world.query("acme", "eu", "Security.Admin", sql).await;
    let rows = rows.expect("evidence");
    let basis = rows[0].column(0).as_string::<i32>().value(0);
    assert!(basis.contains(&format!("Entry.{entry}")), "{basis}");
    assert!(basis.contains("Reason.sha256:"), "{basis}");
    assert!(!basis.contains("looked at"), "{basis}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_kept_aside_or_refused_lies_about_in_clear() {
    let limits = "[limits.tenants.acme]\nwrite_requests_per_s = 1\nburst = 2\n";
    let world = World::start_with(limits).await;
    world.tenant("acme", "eu").await;
    let entry = foreign(&world, "acme", "k1").await;
    let token = world.token("acme", &[], &["audit.write"]);
    let secret = json!({ "context": { "email": "eve@evil.example" } });
    let mut refused = false;
    for n in 0..100 {
        let body = record("acme", &format!("r{n}"), secret.clone()).to_string();
        let (status, _) = world.post("eu", &token, RECORDS, body).await;
        refused |= status == 429;
        if refused {
            break;
        }
    }
    assert!(refused);
    decide(
        &world,
        "acme",
        "Security.Admin",
        &format!("{entry}:release"),
    )
    .await;
    let folder = world.folder().to_owned();
    let _kept = world.stop().await;
    for file in files(&folder) {
        let bytes = std::fs::read(&file).expect("a file");
        let found = bytes
            .windows(16)
            .any(|window| window == b"eve@evil.example");
        assert!(!found, "{}", file.display());
    }
}
