//! Requests through a whole router over a whole service, on a disk of its own.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use serde_json::{Value, json};
use tower::Service as _;

use super::{admin, silo};
use crate::problem::REQUEST_ID;
use crate::world::{World, bearer, record};

pub(super) const RECORDS: &str = "/v1/audit/records";
pub(super) const BATCH: &str = "/v1/audit/records:batch";

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    #[track_caller]
    pub(super) fn is_problem(&self, slug: &str, status: u16) {
        let uri = format!("https://trailhouse.dev/problems/{slug}");
        assert_eq!(self.body["type"], uri.as_str(), "{}", self.body);
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.body["status"], status);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(
            self.body["correlationId"],
            self.headers[REQUEST_ID].to_str().unwrap()
        );
    }
}

impl World {
    pub(super) fn router(&self) -> Router {
        silo(Arc::clone(&self.service), self.silo.clone())
    }

    /// Posts with a writer's token and JSON, unless the headers say otherwise.
    pub(super) async fn post(
        &self,
        path: &str,
        body: impl Into<Body>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let media_type = if path.starts_with(BATCH) {
            "application/x-ndjson"
        } else {
            "application/json"
        };
        let mut request = Request::post(path)
            .header(header::AUTHORIZATION, bearer(&self.writer()))
            .header(header::CONTENT_TYPE, media_type)
            .body(body.into())
            .unwrap();
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request
                .headers_mut()
                .insert(name, HeaderValue::from_str(value).unwrap());
        }
        send(self.router(), request).await
    }

    /// Gets with a token.
    pub(super) async fn get(&self, path: &str, authorization: &str) -> Answer {
        let request = Request::get(path).header(header::AUTHORIZATION, authorization);
        send(self.router(), request.body(Body::empty()).unwrap()).await
    }
}

async fn send(mut router: Router, request: Request<Body>) -> Answer {
    let response = router.call(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, 1 << 20).await.unwrap();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
    }
}

async fn get(router: Router, path: &str) -> Answer {
    send(router, Request::get(path).body(Body::empty()).unwrap()).await
}

pub(super) fn changed(mut record: Value, name: &str, value: Value) -> Value {
    record[name] = value;
    record
}

#[tokio::test]
async fn nobody_gets_past_without_a_good_token() {
    let world = World::new().await;
    for authorization in ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer a.b.c"] {
        let answer = world
            .post(RECORDS, "{}", &[("authorization", authorization)])
            .await;
        answer.is_problem("invalid-token", 401);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    let request = Request::post(RECORDS).body(Body::empty()).unwrap();
    send(world.router(), request)
        .await
        .is_problem("invalid-token", 401);
    let mut twice = Request::post(RECORDS).body(Body::empty()).unwrap();
    for _ in 0..2 {
        twice
            .headers_mut()
            .append(header::AUTHORIZATION, bearer(&world.writer()));
    }
    send(world.router(), twice)
        .await
        .is_problem("invalid-token", 401);
}

#[tokio::test]
async fn what_a_caller_may_not_is_refused_before_the_body_is_read() {
    let world = World::new().await;
    let reader = format!(
        "Bearer {}",
        world.token("acme", &["Audit.Reader"], &["audit.read"])
    );
    let stranger = format!("Bearer {}", world.token("globex", &[], &["audit.write"]));
    let nowhere = |token: &str| {
        let body = Body::from_stream(futures::stream::pending::<Result<&str, std::io::Error>>());
        (body, token.to_owned())
    };
    let (body, token) = nowhere(&reader);
    world
        .post(RECORDS, body, &[("authorization", &token)])
        .await
        .is_problem("forbidden", 403);
    let (body, token) = nowhere(&stranger);
    world
        .post(RECORDS, body, &[("authorization", &token)])
        .await
        .is_problem("unknown-tenant", 403);
    let (body, _) = nowhere("");
    world
        .post(RECORDS, body, &[("x-tenant-id", "globex")])
        .await
        .is_problem("tenant-mismatch", 403);
}

#[tokio::test]
async fn headers_that_cannot_be_are_refused() {
    let world = World::new().await;
    let body = || record("k").to_string();
    type Headers = &'static [(&'static str, &'static str)];
    let cases: &[(Headers, &str, u16)] = &[
        (
            &[("content-type", "text/plain")],
            "unsupported-media-type",
            415,
        ),
        (
            &[("content-encoding", "gzip")],
            "unsupported-media-type",
            415,
        ),
        (
            &[("accept-schema", "audit-record;v=2")],
            "unsupported-schema",
            406,
        ),
        (&[("x-stream", "no such stream")], "invalid-record", 400),
        (&[("x-stream", "audit.unheard")], "invalid-record", 400),
        (
            &[("idempotency-key", "a"), ("x-idempotency-key", "b")],
            "invalid-record",
            400,
        ),
        (&[("content-length", "2001")], "payload-too-large", 413),
    ];
    for (headers, slug, status) in cases {
        world
            .post(RECORDS, body(), headers)
            .await
            .is_problem(slug, *status);
    }
}

#[tokio::test]
async fn a_record_gets_one_receipt_however_often_it_is_sent() {
    let world = World::new().await;
    let first = world.post(RECORDS, record("once").to_string(), &[]).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.body);
    assert_eq!(first.body["tenantId"], "acme");
    assert_eq!(first.body["stream"], "audit.default");
    assert_eq!(first.body["policyVersion"], "tenant:acme@1");
    assert_eq!(first.body["duplicate"], false);
    assert_eq!(first.body["leafIndex"], 0);
    let second = world.post(RECORDS, record("once").to_string(), &[]).await;
    assert_eq!(second.body["duplicate"], true);
    assert_eq!(second.body["recordId"], first.body["recordId"]);
    let other = changed(record("once"), "action", json!("Order.Cancelled"));
    let conflict = world.post(RECORDS, other.to_string(), &[]).await;
    conflict.is_problem("idempotency-conflict", 409);
    for member in [
        "submittedHash",
        "submittedKeyedHash",
        "storedKeyedHash",
        "evidenceRef",
    ] {
        assert!(conflict.body[member].is_string(), "{}", conflict.body);
    }
    assert_ne!(
        conflict.body["submittedKeyedHash"],
        conflict.body["storedKeyedHash"]
    );
}

#[tokio::test]
async fn a_record_of_another_tenant_or_shape_is_answered_as_such() {
    let world = World::new().await;
    let foreign = changed(record("foreign"), "tenantId", json!("globex"));
    let answer = world.post(RECORDS, foreign.to_string(), &[]).await;
    answer.is_problem("tenant-mismatch", 202);
    assert!(answer.body["evidenceRef"].is_string());
    assert!(!answer.body.to_string().contains("globex"));
    let bad = changed(record("bad"), "action", json!(7));
    let answer = world.post(RECORDS, bad.to_string(), &[]).await;
    answer.is_problem("invalid-record", 400);
    assert_eq!(answer.body["violations"][0]["pointer"], "/action");
    let mut keyless = record("");
    keyless.as_object_mut().unwrap().remove("idempotencyKey");
    let answer = world.post(RECORDS, keyless.to_string(), &[]).await;
    answer.is_problem("idempotency-required", 400);
    let answer = world
        .post(
            RECORDS,
            keyless.to_string(),
            &[("idempotency-key", "from-header")],
        )
        .await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let answer = world.post(RECORDS, "x".repeat(2001), &[]).await;
    answer.is_problem("payload-too-large", 413);
}

#[tokio::test]
async fn a_batch_is_answered_line_by_line() {
    let world = World::new().await;
    let lines = [
        record("b1").to_string(),
        changed(record("b2"), "tenantId", json!("globex")).to_string(),
        "x".repeat(2001),
        record("b1").to_string(),
    ];
    let answer = world.post(BATCH, lines.join("\n"), &[]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let results = answer.body["results"].as_array().unwrap();
    let statuses: Vec<_> = results
        .iter()
        .map(|one| one["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [200, 202, 413, 200]);
    assert_eq!(results[3]["duplicate"], true);
    assert_eq!(results[3]["recordId"], results[0]["recordId"]);
    let correlation = answer.headers[REQUEST_ID].to_str().unwrap();
    assert_eq!(results[1]["problem"]["correlationId"], correlation);
    let many = ["{}"; 5].join("\n");
    world
        .post(BATCH, many, &[])
        .await
        .is_problem("payload-too-large", 413);
    world
        .post(BATCH, "\n\n", &[])
        .await
        .is_problem("invalid-record", 400);
    world
        .post(BATCH, "x".repeat(10_001), &[])
        .await
        .is_problem("payload-too-large", 413);
    let json = [("content-type", "application/json")];
    world
        .post(BATCH, "{}", &json)
        .await
        .is_problem("unsupported-media-type", 415);
}

#[tokio::test]
async fn the_request_id_is_the_callers_if_it_can_be_one() {
    let world = World::new().await;
    let answer = world
        .post(
            RECORDS,
            "{}",
            &[("authorization", "x"), ("x-correlation-id", "mine-7")],
        )
        .await;
    answer.is_problem("invalid-token", 401);
    assert_eq!(answer.headers[REQUEST_ID], "mine-7");
    let answer = world
        .post("/nowhere", "{}", &[("x-correlation-id", "not one")])
        .await;
    answer.is_problem("not-found", 404);
    assert_ne!(answer.headers[REQUEST_ID], "not one");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let world = World::new().await;
    get(world.router(), "/").await.is_problem("not-found", 404);
    get(world.router(), RECORDS)
        .await
        .is_problem("not-found", 404);
    get(world.router(), "/metrics")
        .await
        .is_problem("not-found", 404);
    get(world.router(), "/problems/nonsense")
        .await
        .is_problem("not-found", 404);
    get(world.router(), "/problems/..%2Fforbidden")
        .await
        .is_problem("not-found", 404);
}

#[tokio::test]
async fn every_problem_has_its_page() {
    let world = World::new().await;
    for slug in crate::problem::Slug::ALL {
        let answer = get(world.router(), &format!("/problems/{}", slug.as_str())).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(
            answer.headers["content-type"],
            "text/markdown; charset=utf-8"
        );
        assert_eq!(answer.body, slug.document());
    }
}

#[tokio::test]
async fn probes_name_the_development_issuer_and_metrics_count() {
    let world = World::new().await;
    world
        .post(RECORDS, record("counted").to_string(), &[])
        .await;
    let ready = get(admin(Arc::clone(&world.service)), "/readyz").await;
    assert_eq!(ready.status, StatusCode::OK);
    assert_eq!(
        ready.body["developmentIssuer"]["issuer"],
        "trailhouse-developer"
    );
    assert_eq!(ready.body["silos"], json!(["eu"]));
    assert_eq!(get(world.router(), "/healthz").await.status, StatusCode::OK);
    let metrics = get(admin(Arc::clone(&world.service)), "/metrics").await;
    let text = metrics.body.as_str().unwrap();
    assert!(
        text.contains(
            r#"trailhouse_requests_total{transport="http",route="records",tenant="acme""#
        ),
        "{text}"
    );
    let bearer = format!("Bearer {}", world.token("made-up", &[], &["audit.write"]));
    let headers = [("authorization", bearer.as_str())];
    let refused = world.post(RECORDS, record("never").to_string(), &headers);
    assert_eq!(refused.await.status, StatusCode::FORBIDDEN);
    let metrics = get(admin(Arc::clone(&world.service)), "/metrics").await;
    let text = metrics.body.as_str().unwrap();
    assert!(text.contains(r#"tenant="other""#) && !text.contains("made-up"));
    world.service.stop();
    let ready = get(admin(Arc::clone(&world.service)), "/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.body["status"], "stopping");
}

#[tokio::test]
async fn a_job_gets_a_token_for_one_thing_in_one_place_and_for_a_time() {
    const TOKENS: &str = "/v1/job-tokens";
    let world = World::new().await;
    let asked = r#"{"scope":"audit.backfill:run","minutes":30}"#;
    let given = world.post(TOKENS, asked, &[]).await;
    assert_eq!(given.status, StatusCode::CREATED, "{}", given.body);
    assert_eq!(given.headers["cache-control"], "no-store");
    assert_eq!(given.body["tenant"], "acme");
    assert_eq!(given.body["scope"], "audit.backfill:run");
    let token = given.body["token"].as_str().unwrap();
    let job = format!("Bearer {token}");
    let job = [("authorization", job.as_str())];
    let old = changed(record("job-1"), "createdAt", "2019-05-01T00:00:00Z".into());
    let written = world.post(RECORDS, old.to_string(), &job).await;
    assert_eq!(written.status, StatusCode::OK, "{}", written.body);
    // It neither reads nor gives on what it has.
    for path in ["/v1/query/plan", "/v1/audit/schemas:check", TOKENS] {
        let body = r#"{"sql":"SELECT 1"}"#;
        let answer = world.post(path, body, &job).await;
        answer.is_problem("forbidden", 403);
    }
    let mut tampered = job[0].1.to_owned();
    tampered.replace_range(tampered.len() - 4..tampered.len() - 2, "AA");
    let headers = [("authorization", tampered.as_str())];
    world
        .post(RECORDS, record("job-2").to_string(), &headers)
        .await
        .is_problem("invalid-token", 401);
    let elsewhere = catalog::ids::SiloId::parse("us-east").unwrap();
    let router = silo(Arc::clone(&world.service), elsewhere);
    let request = Request::post(RECORDS)
        .header(header::AUTHORIZATION, job[0].1)
        .header(header::CONTENT_TYPE, "application/json")
        .body(record("job-3").to_string().into())
        .unwrap();
    let answer = send(router, request).await;
    assert!(answer.status.is_client_error(), "{}", answer.body);
    let payload = token.split('.').nth(1).unwrap();
    let payload = base64::Engine::decode(&URL_SAFE_NO_PAD, payload).unwrap();
    let claims: Value = serde_json::from_slice(&payload).unwrap();
    let lives = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(lives, 30 * 60);
}

#[tokio::test]
async fn a_token_for_a_job_is_given_for_what_jobs_do_to_those_who_may() {
    let world = World::new().await;
    let reader = format!("Bearer {}", world.token("acme", &["Audit.Reader"], &[]));
    let asked = r#"{"scope":"audit.backfill:run"}"#;
    world
        .post("/v1/job-tokens", asked, &[("authorization", &reader)])
        .await
        .is_problem("forbidden", 403);
    for body in [
        "",
        "[]",
        r#"{"scope":"audit.write"}"#,
        r#"{"scope":"audit.read"}"#,
        r#"{"scope":""}"#,
        r#"{"scope":"audit.backfill:run","minutes":0}"#,
        r#"{"scope":"audit.backfill:run","minutes":721}"#,
        r#"{"scope":"audit.backfill:run","minutes":-1}"#,
        r#"{"scope":"audit.backfill:run","tenant":"globex"}"#,
    ] {
        let answer = world.post("/v1/job-tokens", body, &[]).await;
        answer.is_problem("invalid-query", 400);
    }
}
