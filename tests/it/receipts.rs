//! Receipts: an answer can be proven to whoever has the tenant's public keys, and nothing else can be learnt from it.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::writer::FileWriter;
use catalog::guard::{Denial, Permit, Read, Request};
use catalog::ids::SiloId;
use catalog::keys::{PublicKeys, Unproven};
use engine::query::{Error, Further, Part};
use engine::receipt::{AnswerDigest, Faulty, Receipt, SignedReceipt, saved};
use flight_server::auth::developer::TokenRequest;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tests::{World, record, text};

const READER: &[&str] = &["Audit.Reader"];
const CORRELATION: &str = "5d9f0c0e3b9a4c1f8e7d6c5b4a392817";

async fn world() -> World {
    let world = World::start().await;
    for (tenant, silo) in [("acme", "eu"), ("globex", "us"), ("initech", "eu")] {
        world.tenant(tenant, silo).await;
    }
    let records: Vec<_> = (0..20)
        .map(|n| {
            let over = json!({ "labels": { "env": "prod", "n": n.to_string() } });
            record("acme", &n.to_string(), over)
        })
        .collect();
    world.ingest("acme", "eu", &records).await;
    world
}

/// The rows of a statement, and the receipt in the trailers of their stream.
async fn ask(world: &World, token: &str, sql: &str) -> (Vec<RecordBatch>, SignedReceipt) {
    let mut client = world.client("eu", token).await;
    client.set_header("x-correlation-id", CORRELATION);
    let info = client.execute(sql.to_owned(), None).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let mut stream = client.do_get(ticket).await.unwrap();
    let mut batches = Vec::new();
    while let Some(batch) = stream.try_next().await.unwrap() {
        batches.push(batch);
    }
    let empty = RecordBatch::new_empty(Arc::clone(stream.schema().unwrap()));
    batches.push(empty);
    let trailers = stream.trailers().unwrap();
    let told = trailers.get_bin("x-trailhouse-receipt-bin").unwrap();
    let receipt = SignedReceipt::from_json(&told.to_bytes().unwrap()).unwrap();
    let id = trailers.get("x-trailhouse-receipt-id").unwrap();
    assert_eq!(id.to_str().unwrap(), receipt.receipt().id.to_string());
    (batches, receipt)
}

async fn get(world: &World, silo: &str, token: &str, path: &str) -> (u16, Value) {
    let request = reqwest::Client::new().get(world.http(silo) + path);
    let response = request.bearer_auth(token).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn keys(world: &World, tenant: &str, silo: &str) -> PublicKeys {
    let token = world.token(tenant, READER, &[]);
    let (status, set) = get(world, silo, &token, "/v1/keys").await;
    assert_eq!(status, 200, "{set}");
    PublicKeys::from_json(set.to_string().as_bytes()).unwrap()
}

fn compare(receipt: &Receipt, batches: &[RecordBatch]) -> Result<(), Faulty> {
    let mut digest = AnswerDigest::new(&batches[0].schema()).unwrap();
    for batch in batches {
        digest.update(batch).unwrap();
    }
    receipt.matches(digest.finish())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_proven_by_its_receipt() {
    let world = world().await;
    let token = world.token("acme", READER, &[]);
    let own = keys(&world, "acme", "eu").await;
    let foreign = keys(&world, "initech", "eu").await;
    let mut ids = Vec::new();
    for (sql, rows, tables) in [
        ("SELECT * FROM records", 20, vec!["audit.records"]),
        (
            "SELECT count(*) AS n FROM records",
            1,
            vec!["audit.records"],
        ),
        (
            "SELECT labels, created_at FROM records ORDER BY record_id LIMIT 7",
            7,
            vec!["audit.records"],
        ),
        ("SELECT 1 AS one WHERE false", 0, vec![]),
        ("SHOW TABLES", 5, vec![]),
        (
            "EXPLAIN SELECT action FROM records",
            1,
            vec!["audit.records"],
        ),
    ] {
        let (batches, signed) = ask(&world, &token, sql).await;
        let receipt = signed.verify(&own).expect(sql);
        assert_eq!(receipt.rows, rows, "{sql}");
        compare(receipt, &batches).expect(sql);
        let named: Vec<_> = receipt
            .tables
            .iter()
            .map(|table| table.name.as_str())
            .collect();
        assert_eq!(named, tables, "{sql}");
        assert_eq!(
            signed.verify(&foreign),
            Err(Faulty::Unproven(Unproven::Subject))
        );
        assert!(!ids.contains(&receipt.id));
        ids.push(receipt.id);
    }
    let (batches, signed) = ask(&world, &token, "SELECT record_id, labels FROM records").await;
    let receipt = signed.receipt();
    let whole = concat_batches(&batches[0].schema(), &batches).unwrap();
    let less = Faulty::Rows {
        said: 20,
        found: 19,
    };
    assert_eq!(compare(receipt, &[whole.slice(0, 19)]), Err(less));
    let turned = [whole.slice(10, 10), whole.slice(0, 10)];
    assert_eq!(compare(receipt, &turned), Err(Faulty::Values));
    let parts = [whole.slice(0, 3), whole.slice(3, 17)];
    assert_eq!(compare(receipt, &parts), Ok(()));
    // A saved result with one byte changed.
    let path = world.folder().join("result.arrow");
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = FileWriter::try_new(file, &whole.schema()).unwrap();
    writer.write(&whole).unwrap();
    writer.finish().unwrap();
    drop(writer);
    assert_eq!(receipt.matches(saved(&path).unwrap()), Ok(()));
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes
        .windows(4)
        .position(|window| window == b"prod")
        .unwrap();
    bytes[at] = b'P';
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(receipt.matches(saved(&path).unwrap()), Err(Faulty::Values));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_tells_what_its_caller_was_shown_and_no_more() {
    let world = world().await;
    let token = world.token("acme", READER, &[]);
    let sql =
        "SELECT action FROM records WHERE action = 'Order.Placed' AND resource_type <> 'q-literal'";
    let (_, signed) = ask(&world, &token, sql).await;
    let receipt = signed.receipt();
    assert_eq!(receipt.mask_profile, "Reader");
    assert_eq!(receipt.policy_version.to_string(), "tenant:acme@1");
    assert!(receipt.rules.contains(&"Mask.Reader".to_owned()));
    assert!(receipt.tables[0].state.starts_with('v'));
    let told = signed.to_json();
    for word in [
        "Order.Placed",
        "q-literal",
        "resource_type",
        "parquet",
        "tester",
        "globex",
        "initech",
        CORRELATION,
    ] {
        assert!(!told.contains(word), "{word}: {told}");
    }
    // The same answer has the same digest, and nothing else about it can be told apart.
    let (_, again) = ask(&world, &token, sql).await;
    assert_eq!(again.receipt().answer_digest, receipt.answer_digest);
    assert_ne!(again.receipt().plan_digest, receipt.plan_digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_is_given_to_whom_it_concerns() {
    let world = world().await;
    let as_who = |tenant: &str, subject: &str, role: &str| {
        world.mint(&TokenRequest {
            subject: subject.to_owned(),
            tenant: Some(tenant.to_owned()),
            roles: vec![role.to_owned()],
            ..TokenRequest::default()
        })
    };
    let ann = as_who("acme", "ann", "Audit.Reader");
    let (_, signed) = ask(&world, &ann, "SELECT action FROM records").await;
    let expected: Value = serde_json::from_str(&signed.to_json()).unwrap();
    let path = format!("/v1/receipts/{}", signed.receipt().id);
    let may = [
        ann.clone(),
        as_who("acme", "ann", "Audit.Investigator"),
        as_who("acme", "eve", "Audit.Admin"),
        as_who("acme", "eve", "Compliance.Reviewer"),
    ];
    let may_not = [
        as_who("acme", "bob", "Audit.Reader"),
        as_who("initech", "ann", "Audit.Reader"),
        as_who("initech", "eve", "Audit.Admin"),
    ];
    let of_request = format!("/v1/receipts?correlation={CORRELATION}");
    let check = async |world: &World| {
        for token in &may {
            assert_eq!(
                get(world, "eu", token, &path).await,
                (200, expected.clone())
            );
            let (status, found) = get(world, "eu", token, &of_request).await;
            assert_eq!((status, &found["receipts"][0]), (200, &expected), "{found}");
        }
        let mut refusals = Vec::new();
        for token in &may_not {
            let (status, problem) = get(world, "eu", token, &path).await;
            assert_eq!(status, 404);
            refusals.push((problem["type"].clone(), problem["detail"].clone()));
            let (_, found) = get(world, "eu", token, &of_request).await;
            assert_eq!(found, json!({ "receipts": [] }));
        }
        for id in ["01KDVDN0000000000000000001", "nothing", "..", "x%00y"] {
            let (status, problem) = get(world, "eu", &ann, &format!("/v1/receipts/{id}")).await;
            if status == 404 && id != ".." {
                refusals.push((problem["type"].clone(), problem["detail"].clone()));
            }
        }
        assert!(
            refusals.iter().all(|refusal| *refusal == refusals[0]),
            "{refusals:?}"
        );
    };
    check(&world).await;
    for bad in [
        "/v1/receipts",
        "/v1/receipts?correlation=",
        "/v1/receipts?id=1",
    ] {
        assert_eq!(get(&world, "eu", &ann, bad).await.0, 400, "{bad}");
    }
    // A process that did not make it finds it with the evidence.
    let world = World::start_in(world.stop().await).await;
    check(&world).await;
    assert_eq!(
        signed
            .verify(&keys(&world, "acme", "eu").await)
            .map(|found| found.rows),
        Ok(20)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_are_recorded_whole_and_refusals_too() {
    let world = world().await;
    let token = world.token("acme", READER, &[]);
    let (_, signed) = ask(
        &world,
        &token,
        "SELECT action FROM records WHERE action = 'secret'",
    )
    .await;
    for (sql, _) in REFUSED {
        let mut client = world.client("eu", &token).await;
        assert!(
            client.execute((*sql).to_owned(), None).await.is_err(),
            "{sql}"
        );
    }
    let evidence = async |columns: &str, of: &str| {
        let sql = format!(
            "SELECT {columns} FROM audit.evidence WHERE actor_id = 'tester' AND masking_profile = 'Reader' AND {of}"
        );
        text(
            &world
                .query("acme", "eu", "Audit.Admin", &sql)
                .await
                .unwrap(),
        )
    };
    let all = "tenant_id, decision, policy_version, masking_profile, residency, basis, plan_digest, correlation_id, statement";
    let shown = evidence(all, "operation = 'Read' AND decision = 'Allow'").await;
    for word in [
        "acme",
        "tenant:acme@1",
        "Reader",
        "eu",
        "RLS.Tenant",
        CORRELATION,
        &signed.receipt().plan_digest,
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    assert!(!shown.contains("secret"), "{shown}");
    let shown = evidence(
        "action, resource_type, resource_id, basis",
        "operation = 'Query.Answered'",
    )
    .await;
    assert!(shown.contains(&signed.receipt().id.to_string()), "{shown}");
    for (sql, slug) in REFUSED {
        let shown = evidence(
            "problem, statement, basis",
            &format!("problem = '{slug}' AND decision = 'Deny'"),
        )
        .await;
        assert!(shown.contains("RLS.Tenant"), "{sql}: {shown}");
    }
    let counted = evidence("count(*) AS n", "decision = 'Deny'").await;
    assert!(counted.contains(&REFUSED.len().to_string()), "{counted}");
}

/// Statements that planning refuses, and the problem.
const REFUSED: &[(&str, &str)] = &[
    (
        "SELECT actor_id FROM records WHERE actor_id = 'x'",
        "unsupported-filter",
    ),
    ("SELECT * FROM globex.audit.records", "cross-tenant-query"),
    ("SELECT nothing FROM records", "invalid-query"),
    ("DELETE FROM records", "statement-not-allowed"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_can_be_looked_at_before_it_runs() {
    let world = world().await;
    let token = world.token("acme", READER, &[]);
    let plan = async |body: Value| {
        let request = reqwest::Client::new().post(world.http("eu") + "/v1/query/plan");
        let request = request
            .bearer_auth(&token)
            .header("content-type", "application/json");
        let response = request.body(body.to_string()).send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json::<Value>().await.unwrap())
    };
    let sql = "SELECT actor_id, action, count(*) AS n FROM audit.records GROUP BY actor_id, action";
    let (status, told) = plan(json!({ "sql": sql })).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(told["sql"], sql);
    assert_eq!(told["detectedTenants"], json!(["acme"]));
    assert_eq!(told["tables"][0]["name"], "audit.records");
    let masked = told["tables"][0]["maskedColumns"].as_array().unwrap();
    assert!(masked.contains(&json!("actor_id")) && !masked.contains(&json!("action")));
    assert_eq!(told["columns"][2], json!({ "name": "n", "type": "Int64" }));
    assert!(told["plan"].to_string().contains("RLS.Tenant"), "{told}");
    assert!(told["rules"].to_string().contains("Mask.Reader"), "{told}");
    assert_eq!(told["planDigest"].as_str().unwrap().len(), 64);
    let text = told.to_string();
    for word in [
        "ann",
        "Order.Placed",
        "parquet",
        "globex",
        &world.folder().display().to_string(),
    ] {
        assert!(!text.contains(word), "{word}: {text}");
    }
    for (body, expected, slug) in [
        (
            json!({ "sql": "SELECT * FROM globex.audit.records" }),
            403,
            "cross-tenant-query",
        ),
        (
            json!({ "sql": "DELETE FROM records" }),
            400,
            "statement-not-allowed",
        ),
        (json!({ "sql": 1 }), 400, "invalid-query"),
        (
            json!({ "sql": "SELECT 1", "explain": true }),
            400,
            "invalid-query",
        ),
    ] {
        let (status, problem) = plan(body.clone()).await;
        let kind = problem["type"].as_str().unwrap_or_default().to_owned();
        assert!(
            status == expected && kind.ends_with(slug),
            "{body}: {problem}"
        );
    }
}

/// Evidence is not taken any more after the first rows have left: the answer ends in an error, and nowhere is a receipt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_whose_receipt_cannot_be_kept_ends_in_an_error() {
    let world = world().await;
    let service = &world.service;
    let context = world.context(&world.token("acme", READER, &[])).await;
    let silo = SiloId::parse("eu").unwrap();
    let sql = "SELECT record_id FROM records";
    let planning = service.gate.authorize_planning(&context, Request::at(silo));
    let planning: Permit<Read> = planning.await.unwrap();
    let mut kept = Vec::new();
    for is_kept in [true, false] {
        let plan = service.queries.plan(&planning, sql, None).await.unwrap();
        let permit = service.gate.witnessed(&planning, None, plan.plan_digest());
        let further = Further {
            sql: sql.into(),
            parameters: Vec::new(),
        };
        let answer = service.queries.answer(permit, plan, further).await;
        let mut parts = answer.unwrap();
        let first = parts.try_next().await.unwrap().unwrap();
        assert!(matches!(first, Part::Rows(_)), "{first:?}");
        if !is_kept {
            service.drain(Duration::from_secs(60)).await;
        }
        let mut rest: Vec<_> = parts.collect().await;
        let last = rest.pop().unwrap();
        assert!(rest.iter().all(|part| matches!(part, Ok(Part::Rows(_)))));
        match last {
            Ok(Part::Receipt(receipt)) if is_kept => kept.push(receipt),
            Err(Error::Denied(Denial::EvidenceUnavailable)) if !is_kept => {}
            other => panic!("{other:?}"),
        }
        let correlation = &planning.decision().correlation;
        let found = service.receipts.of_request(&planning, correlation).await;
        assert_eq!(found.unwrap(), kept);
    }
}
