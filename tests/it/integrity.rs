//! Proofs: what a tenant takes away checks without the server, and nobody else's business is in it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{RecordBatch, StringArray};
use arrow::compute::concat_batches;
use catalog::guard::TenantAdmin;
use catalog::ids::{SiloId, TenantId};
use catalog::keys::{KeyStatement, PublicKeys};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::collect;
use engine::proof::{About, Audit, AuditedFiles, ConsistencyProof, Finding, RecordProof, Unproven};
use engine::seal::{SignedCheckpoint, TileId, Unsigned, promised};
use engine::table::{AppendOutcome, ScanRequest, TableKind};
use serde_json::{Value, json};
use tests::{World, record};

const INVESTIGATOR: &[&str] = &["Audit.Investigator"];
const READER: &[&str] = &["Audit.Reader"];
const LOG: &str = "/v1/audit/integrity/audit.default";

async fn world(count: usize) -> World {
    let world = World::start().await;
    for (tenant, silo) in [("acme", "eu"), ("initech", "eu")] {
        world.tenant(tenant, silo).await;
    }
    add(&world, 0..count).await;
    world
}

async fn add(world: &World, numbers: std::ops::Range<usize>) {
    let records: Vec<_> = numbers
        .map(|n| record("acme", &n.to_string(), json!({})))
        .collect();
    for records in records.chunks(500) {
        world.ingest("acme", "eu", records).await;
    }
}

async fn fetch(world: &World, token: &str, path: &str) -> (u16, Vec<u8>) {
    let request = reqwest::Client::new().get(world.http("eu") + path);
    let response = request.bearer_auth(token).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.bytes().await.unwrap().to_vec())
}

async fn json_of(world: &World, token: &str, path: &str) -> (u16, Value) {
    let (status, body) = fetch(world, token, path).await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn keys(world: &World, tenant: &str) -> PublicKeys {
    let token = world.token(tenant, READER, &[]);
    let (_, set) = fetch(world, &token, "/v1/keys").await;
    PublicKeys::from_json(&set).unwrap()
}

async fn ids(world: &World) -> Vec<String> {
    let sql = "SELECT record_id FROM audit.records ORDER BY leaf_index";
    let batches = world.query("acme", "eu", "Audit.Investigator", sql).await;
    let text = tests::text(&batches.unwrap());
    let is_id = |word: &&str| word.len() == 26 && word.starts_with('0');
    text.split_whitespace()
        .filter(is_id)
        .map(str::to_owned)
        .collect()
}

async fn checkpoint(world: &World, keys: &PublicKeys) -> SignedCheckpoint {
    let token = world.token("acme", INVESTIGATOR, &[]);
    let (status, note) = fetch(world, &token, &format!("{LOG}/checkpoint")).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&note));
    SignedCheckpoint::verify(&note, keys).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_can_be_proven_to_whoever_has_the_tenants_keys() {
    let world = world(700).await;
    let (own, foreign) = (keys(&world, "acme").await, keys(&world, "initech").await);
    let token = world.token("acme", INVESTIGATOR, &[]);
    let ids = ids(&world).await;
    assert_eq!(ids.len(), 700);
    for at in [0, 1, 255, 256, 699] {
        let path = format!("/v1/audit/records/{}/proof", ids[at]);
        let (status, kept) = fetch(&world, &token, &path).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&kept));
        let proof = RecordProof::from_json(&kept).unwrap();
        let proven = proof.verify(&own).unwrap();
        assert_eq!(proven.leaf_index, at as u64);
        assert_eq!(proven.leaf.record_id.to_string(), ids[at]);
        assert_eq!(proven.leaf.withheld(), 0);
        let shows = |name: &str, value: &str| {
            let shown = &proven.shown;
            shown
                .iter()
                .any(|shown| shown.name == name && shown.value == value)
        };
        assert!(
            shows("idempotency_key", &at.to_string()),
            "{:?}",
            proven.shown
        );
        assert_eq!(
            proof.verify(&foreign).unwrap_err(),
            Unproven::Checkpoint(Unsigned::Signature)
        );
        let (status, short) = json_of(
            &world,
            &token,
            &format!("{LOG}/proof/inclusion?record={}", ids[at]),
        )
        .await;
        assert_eq!(status, 200);
        assert_eq!(short["leafIndex"], at);
    }
    // Every member of it counts.
    let (_, mut kept) = json_of(
        &world,
        &token,
        &format!("/v1/audit/records/{}/proof", ids[9]),
    )
    .await;
    kept["leafIndex"] = json!(10);
    let moved = RecordProof::from_json(kept.to_string().as_bytes()).unwrap();
    assert_eq!(moved.verify(&own).unwrap_err(), Unproven::Path);
    world.leave().await;
}

/// Sends records and gives the receipt of each.
async fn receipts(world: &World, numbers: std::ops::Range<usize>) -> Vec<Value> {
    let lines = numbers.map(|n| record("acme", &n.to_string(), json!({})).to_string());
    let lines: Vec<_> = lines.collect();
    let token = world.token("acme", &[], &["audit.write"]);
    let path = "/v1/audit/records:batch";
    let (status, answer) = world.post("eu", &token, path, lines.join("\n")).await;
    assert_eq!(status, 200, "{answer}");
    answer["results"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_holds_for_whoever_was_answered_and_every_member_of_it_counts() {
    let world = world(5).await;
    let (own, foreign) = (keys(&world, "acme").await, keys(&world, "initech").await);
    let token = world.token("acme", INVESTIGATOR, &[]);
    let receipts = receipts(&world, 5..12).await;
    assert_eq!(receipts.len(), 7);
    let name = receipts[0]["integrity"]["key"].as_str().unwrap().to_owned();
    let path = format!("/v1/keys/process/{name}");
    let (status, statement) = json_of(&world, &token, &path).await;
    assert_eq!(status, 200, "{statement}");
    let statement: KeyStatement = serde_json::from_value(statement).unwrap();
    let stranger = world.token("initech", INVESTIGATOR, &[]);
    assert_eq!(fetch(&world, &stranger, &path).await.0, 404);
    for unknown in ["x", "../keys", &"0".repeat(64), &name.to_uppercase()] {
        let path = format!("/v1/keys/process/{unknown}");
        assert_eq!(fetch(&world, &token, &path).await.0, 404, "{unknown}");
    }
    for (receipt, at) in receipts.iter().zip(5..) {
        let promise = promised(receipt.to_string().as_bytes(), &statement, &own).unwrap();
        assert_eq!(
            (promise.leaf_index, promise.stream.as_str()),
            (at, "audit.default")
        );
        let path = format!("/v1/audit/records/{}/proof", promise.record_id);
        let (_, kept) = fetch(&world, &token, &path).await;
        let proof = RecordProof::from_json(&kept).unwrap();
        let proven = proof.verify(&own).unwrap();
        assert_eq!(proven.leaf.hash(), Some(promise.leaf));
        assert_eq!(proven.leaf_index, promise.leaf_index);
    }
    let told = |receipt: &Value, keys| promised(receipt.to_string().as_bytes(), &statement, keys);
    assert!(told(&receipts[3], &foreign).is_err());
    let other = receipts[2]["integrity"]["leaf"].clone();
    for (pointer, value) in [
        ("/tenantId", json!("initech")),
        ("/stream", json!("audit.other")),
        ("/leafIndex", json!(9)),
        ("/integrity/firstLeaf", json!(4)),
        ("/integrity/size", json!(8)),
        ("/integrity/root", other.clone()),
        ("/integrity/prev", Value::Null),
        ("/integrity/prev", other.clone()),
        ("/integrity/signedAt", json!("2020-01-01T00:00:00.000000Z")),
        ("/integrity/signedAt", Value::Null),
        ("/integrity/key", json!("0".repeat(64))),
        ("/integrity/sig", Value::Null),
        ("/integrity/sig", json!("A".repeat(86))),
        ("/integrity/leaf", other),
        ("/integrity/index", json!(4)),
        ("/integrity/path", json!([])),
        ("/integrity", Value::Null),
    ] {
        let mut changed = receipts[3].clone();
        *changed.pointer_mut(pointer).unwrap() = value.clone();
        assert_ne!(changed, receipts[3], "{pointer}");
        assert!(told(&changed, &own).is_err(), "{pointer} {value}");
    }
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_no_log_has_are_found() {
    let world = world(3).await;
    let (tenant, silo) = (
        TenantId::parse("acme").unwrap(),
        SiloId::parse("eu").unwrap(),
    );
    let tables = &world.service.tables;
    let table = tables.table(&tenant, &silo, TableKind::Records).await;
    let (table, own) = (table.unwrap(), keys(&world, "acme").await);
    let request = |columns| ScanRequest {
        projection: (0..columns).collect(),
        predicate: None,
        target_partitions: 1,
    };
    let state = table.state().await.unwrap();
    let plan = table.scan(Arc::clone(&state), request(state.schema.fields().len()));
    let rows = collect(plan.await.unwrap(), Arc::new(TaskContext::default())).await;
    let rows = concat_batches(&state.schema, &rows.unwrap()).unwrap();
    // Whoever has the keys writes a file that every query reads, and counts it nowhere.
    let (at, _) = rows.schema_ref().column_with_name("stream").unwrap();
    let mut columns = rows.columns().to_vec();
    columns[at] = Arc::new(StringArray::from(vec!["audit.unheard"; rows.num_rows()]));
    let forged = RecordBatch::try_new(rows.schema(), columns).unwrap();
    let state = table.state().await.unwrap();
    let written = table.append(&state, vec![forged], Vec::new(), Vec::new());
    let written = written.await.unwrap();
    assert!(matches!(written, AppendOutcome::Committed { .. }));
    let permit = world.operator::<TenantAdmin>("acme").await;
    let about = About {
        silo: &silo,
        keys: &own,
        kept: &[],
        files: None,
    };
    let audit = world.service.logs.audit(&permit, about, |_, _| {}).await;
    let found = audit.unwrap().findings;
    let is_named = |finding: &Finding| finding.object.starts_with("tenants/acme/audit/records/");
    assert!(found.iter().any(is_named), "{found:?}");
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_that_was_interrupted_goes_on_where_it_was() {
    let world = world(5).await;
    add(&world, 5..9).await;
    let (tenant, silo) = (
        TenantId::parse("acme").unwrap(),
        SiloId::parse("eu").unwrap(),
    );
    let own = keys(&world, "acme").await;
    let path = world.folder().join("audit.ndjson");
    let audit = async |resume: bool| {
        let place = (&tenant, &silo);
        let files = resume.then(|| AuditedFiles::open(&path, place, "file:///eu").unwrap());
        let about = About {
            silo: &silo,
            keys: &own,
            kept: &[],
            files: files.as_ref(),
        };
        let permit = world.operator::<TenantAdmin>("acme").await;
        let audit = world.service.logs.audit(&permit, about, |_, _| {}).await;
        audit.unwrap()
    };
    while !audit(false).await.findings.is_empty() {
        // Not everything is published yet.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let first = audit(true).await;
    assert!(first.findings.is_empty(), "{:?}", first.findings);
    assert!(first.files >= 3 && first.resumed == 0);
    // As if it had been interrupted after two of them.
    let kept = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = kept.lines().collect();
    std::fs::write(&path, lines[..3].join("\n") + "\n" + &lines[3][..9]).unwrap();
    let second = audit(true).await;
    assert!(second.findings.is_empty(), "{:?}", second.findings);
    assert_eq!(
        (second.resumed, second.rows),
        (2, first.rows.max(second.rows))
    );
    let root = |audit: &Audit| {
        let mut logs = audit.logs.iter();
        let log = logs.find(|log| log.stream.as_str() == "audit.default");
        log.unwrap().root.clone()
    };
    assert_eq!(root(&second), root(&first));
    // What the store lists as changed is read again; what is gone is missed all the same.
    let data = tests::files(&world.folder().join("eu/tenants/acme/audit/records"));
    let is_data = |path: &&PathBuf| path.extension().is_some_and(|end| end == "parquet");
    let file = data.iter().find(is_data).unwrap();
    let bytes = std::fs::read(file).unwrap();
    let third = audit(true).await;
    assert!(third.findings.is_empty() && third.resumed >= first.files);
    std::fs::write(file, vec![0; bytes.len()]).unwrap();
    assert!(!audit(true).await.findings.is_empty());
    std::fs::remove_file(file).unwrap();
    let found = audit(true).await.findings;
    assert!(
        found
            .iter()
            .any(|found| found.reason.contains("is missing")),
        "{found:?}"
    );
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_only_grows_and_its_tiles_make_what_is_signed() {
    let world = world(300).await;
    let own = keys(&world, "acme").await;
    let token = world.token("acme", INVESTIGATOR, &[]);
    let mut kept = vec![checkpoint(&world, &own).await];
    for more in [300..301, 301..520, 520..1_100] {
        add(&world, more).await;
        kept.push(checkpoint(&world, &own).await);
    }
    let folder = world.stop().await;
    let world = World::start_in(folder).await;
    add(&world, 1_100..1_101).await;
    kept.push(checkpoint(&world, &own).await);
    let sizes: Vec<_> = kept.iter().map(|kept| kept.checkpoint().size).collect();
    assert_eq!(sizes, [300, 301, 520, 1_100, 1_101]);
    for (at, old) in kept.iter().enumerate() {
        for new in &kept[at..] {
            let (from, to) = (old.checkpoint().size, new.checkpoint().size);
            let path = format!("{LOG}/proof/consistency?from={from}&to={to}");
            let (status, proof) = fetch(&world, &token, &path).await;
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&proof));
            let proof = ConsistencyProof::from_json(&proof).unwrap();
            assert!(
                proof.holds(old.checkpoint(), new.checkpoint()),
                "{from} {to}"
            );
            assert!(from == to || !proof.holds(new.checkpoint(), old.checkpoint()));
        }
    }
    for tile in TileId::all(1_101) {
        let (status, bytes) = fetch(&world, &token, &format!("{LOG}/{}", tile.path())).await;
        assert_eq!((status, bytes.len()), (200, tile.width * 32), "{tile:?}");
    }
    for (path, status) in [
        (format!("{LOG}/tile/0/000.p/100"), 200),
        (format!("{LOG}/tile/0/004.p/78"), 404),
        (format!("{LOG}/tile/0/005"), 404),
        (format!("{LOG}/tile/0/0"), 404),
        (format!("{LOG}/proof/consistency?from=1&to=1102"), 400),
        (format!("{LOG}/proof/consistency?to=5"), 400),
        (format!("{LOG}/proof/consistency?from=1&from=2"), 400),
        (
            "/v1/audit/integrity/audit.nothing/checkpoint".to_owned(),
            404,
        ),
        (
            "/v1/audit/records/01J9ZC5K5Q2Z6S0Z2G1WZQW5Q4/proof".to_owned(),
            404,
        ),
        ("/v1/audit/records/none/proof".to_owned(), 404),
    ] {
        assert_eq!(fetch(&world, &token, &path).await.0, status, "{path}");
    }
    let (_, lines) = fetch(&world, &token, &format!("{LOG}/keys")).await;
    let lines = String::from_utf8(lines).unwrap();
    let origin = kept[0].checkpoint().origin.as_str();
    assert!(lines.starts_with(&format!("{origin}+")), "{lines}");
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proofs_tell_nobody_what_queries_would_not() {
    let world = world(5).await;
    let ids = ids(&world).await;
    let own = keys(&world, "acme").await;
    // Another tenant's record is no record.
    let stranger = world.token("initech", INVESTIGATOR, &[]);
    let path = format!("/v1/audit/records/{}/proof", ids[0]);
    assert_eq!(fetch(&world, &stranger, &path).await.0, 404);
    assert_eq!(
        fetch(&world, &stranger, &format!("{LOG}/checkpoint"))
            .await
            .0,
        404
    );
    assert_eq!(fetch(&world, "", &path).await.0, 401);
    // Whoever sees values through masks gets commitments, and the proof still holds.
    let reader = world.token("acme", READER, &[]);
    let (status, kept) = fetch(&world, &reader, &path).await;
    assert_eq!(status, 200);
    let proof = RecordProof::from_json(&kept).unwrap();
    let proven = proof.verify(&own).unwrap();
    assert!(proven.leaf.withheld() > 0);
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    let parts = kept["leaf"]["parts"].as_array().unwrap();
    assert!(parts[0].get("commitment").is_some(), "the rest is withheld");
    // A checkpoint names nobody.
    let note = checkpoint(&world, &own).await.to_text();
    for name in ["acme", "audit", "eu"] {
        assert!(
            !note.lines().any(|line| line.contains(&format!("/{name}"))),
            "{note}"
        );
    }
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_put_back_is_not_opened() {
    let world = world(10).await;
    let log = world
        .folder()
        .join("eu/tenants/acme/audit/records/_delta_log");
    let own = keys(&world, "acme").await;
    let before: Vec<_> = tests::files(&log);
    add(&world, 10..20).await;
    assert_eq!(checkpoint(&world, &own).await.checkpoint().size, 20);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let folder = world.stop().await;
    for path in tests::files(&log) {
        if !before.contains(&path) {
            std::fs::remove_file(path).unwrap();
        }
    }
    let world = World::start_in(folder).await;
    let sql = "SELECT count(*) FROM audit.records";
    let refused = world.query("acme", "eu", "Audit.Investigator", sql).await;
    assert!(refused.is_err());
    let writer = world.token("acme", &[], &["audit.write"]);
    let body = record("acme", "new", json!({})).to_string();
    let (status, _) = world.post("eu", &writer, "/v1/audit/records", body).await;
    assert_eq!(status, 503);
    world.leave().await;
}
