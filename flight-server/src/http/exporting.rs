//! Exports over a whole service: asked for, made, fetched, linked to, and of no use to anybody else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use catalog::clock::{Clock, SystemClock, Timestamp};
use catalog::guard::{self, PolicyWrite};
use catalog::ids::SiloId;
use catalog::policy::Bundle;
use engine::query;
use futures::TryStreamExt;
use http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tower::Service as _;

use super::silo;
use super::tests::{Answer, BATCH, RECORDS};
use crate::auth::developer::TokenRequest;
use crate::service::Surroundings;
use crate::world::{World, bearer, record};

const EXPORTS: &str = "/v1/exports";
/// How long anything is waited for before it counts as not coming.
const PATIENCE: Duration = Duration::from_secs(60);

/// The system's clock, a little ahead of itself when told to.
#[derive(Debug, Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        let ahead = Duration::from_secs(self.0.load(Ordering::SeqCst));
        SystemClock.now().plus(ahead)
    }
}

/// A service that makes exports.
struct Maker {
    world: World,
    clock: Arc<Ahead>,
    making: JoinHandle<()>,
}

impl Drop for Maker {
    fn drop(&mut self) {
        self.making.abort();
    }
}

/// Bytes with what was said of them.
struct Fetched {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

impl Fetched {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.map_or("", |value| value.to_str().unwrap())
    }

    #[track_caller]
    fn is_problem(&self, slug: &str, status: u16) -> Value {
        let body = serde_json::from_slice(&self.bytes).unwrap();
        let answer = Answer {
            status: self.status,
            headers: self.headers.clone(),
            body,
        };
        answer.is_problem(slug, status);
        answer.body
    }
}

impl Maker {
    /// With this many records, and at work.
    async fn new(records: usize) -> Self {
        let mut maker = Self::idle(records).await;
        maker.begin();
        maker
    }

    /// The same, at no work yet.
    async fn idle(records: usize) -> Self {
        let settings = "exports.chunk_mib = 1\nexports.beat_ms = 20\nexports.tenant_open_max = 2";
        let clock = Arc::new(Ahead::default());
        let around = Surroundings {
            clock: Arc::clone(&clock) as _,
            ..Surroundings::default()
        };
        let world = World::of(settings, around).await;
        for minute in 0..records {
            let mut record = record(&format!("n-{minute}"));
            record["createdAt"] = format!("2026-01-02T03:{minute:02}:00Z").into();
            let env = ["prod", "test"][minute % 2];
            record["labels"] = json!({ "env": env });
            let stored = world.post(RECORDS, record.to_string(), &[]).await;
            assert_eq!(stored.status, StatusCode::OK, "{}", stored.body);
        }
        let making = tokio::spawn(async {});
        Self {
            world,
            clock,
            making,
        }
    }

    fn begin(&mut self) {
        let exports = Arc::clone(&self.world.service.exports);
        self.making = tokio::spawn(exports.run());
    }

    fn operator(&self) -> String {
        format!(
            "Bearer {}",
            self.world.token("acme", &["Export.Operator"], &[])
        )
    }

    async fn ask(&self, question: &Value) -> Answer {
        self.ask_as(&self.operator(), question).await
    }

    async fn ask_as(&self, token: &str, question: &Value) -> Answer {
        let headers = [("authorization", token)];
        self.world
            .post(EXPORTS, question.to_string(), &headers)
            .await
    }

    async fn look(&self, rest: &str) -> Answer {
        let path = format!("{EXPORTS}{rest}");
        self.world.get(&path, &self.operator()).await
    }

    async fn cancel(&self, id: &str) -> Fetched {
        let headers = [("authorization", self.operator())];
        self.send(Method::DELETE, &format!("{EXPORTS}/{id}"), &headers)
            .await
    }

    /// Asks, waits until it has ended, and gives it.
    async fn made(&self, question: &Value) -> Value {
        let asked = self.ask(question).await;
        assert_eq!(asked.status, StatusCode::ACCEPTED, "{}", asked.body);
        let id = asked.body["exportId"].as_str().unwrap().to_owned();
        self.ended(&id).await
    }

    async fn ended(&self, id: &str) -> Value {
        let ended = async {
            loop {
                let job = self.look(&format!("/{id}")).await;
                assert_eq!(job.status, StatusCode::OK, "{}", job.body);
                match job.body["state"].as_str().unwrap() {
                    "queued" | "running" => tokio::time::sleep(Duration::from_millis(10)).await,
                    _ => return job.body,
                }
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.unwrap()
    }

    /// A request with these headers and no others.
    async fn send(&self, method: Method, path: &str, headers: &[(&str, String)]) -> Fetched {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let mut router = self.world.router();
        let answer = router.call(request.body(Body::empty()).unwrap()).await;
        let (parts, body) = answer.unwrap().into_parts();
        Fetched {
            status: parts.status,
            headers: parts.headers,
            bytes: to_bytes(body, 64 << 20).await.unwrap().to_vec(),
        }
    }

    async fn fetch(&self, path: &str, headers: &[(&str, &str)]) -> Fetched {
        let mut all = vec![("authorization", self.operator())];
        all.extend(
            headers
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        self.send(Method::GET, path, &all).await
    }

    async fn link(&self, id: &str, body: Value) -> Answer {
        let path = format!("{EXPORTS}/{id}/links");
        let token = self.operator();
        let headers = [("authorization", token.as_str())];
        self.world.post(&path, body.to_string(), &headers).await
    }

    /// What evidence of this operation is about.
    async fn evidence(&self, operation: &str) -> String {
        let token = self.world.token("acme", &["Audit.Admin"], &[]);
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer(&token))]);
        let service = &self.world.service;
        let context = service.context(&headers).await.unwrap();
        let request = guard::Request::at(self.world.silo.clone());
        let permit = service.gate.authorize::<guard::Read>(&context, request);
        let permit = permit.await.unwrap();
        let sql = format!(
            "SELECT DISTINCT problem, basis FROM audit.evidence WHERE operation = '{operation}'"
        );
        let plan = service.queries.plan(&permit, &sql, None).await.unwrap();
        let further = query::Further {
            sql: sql.into(),
            parameters: Vec::new(),
        };
        let answer = service.queries.answer(permit, plan, further).await.unwrap();
        let parts: Vec<_> = answer.try_collect().await.unwrap();
        let rows = parts.iter().filter_map(|part| match part {
            query::Part::Rows(rows) => Some(format!("{rows:?}")),
            query::Part::Receipt(_) => None,
        });
        rows.collect()
    }
}

fn question() -> Value {
    json!({
        "stream": "audit.default",
        "timeRange": { "from": "2026-01-02T03:00:00Z", "to": "2026-01-02T04:00:00Z" },
        "format": "ndjson",
        "purpose": "case 17",
    })
}

fn with(member: &str, value: Value) -> Value {
    let mut question = question();
    question[member] = value;
    question
}

fn hash(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file of this path: its address, its length and its hash.
fn file<'a>(job: &'a Value, path: &str) -> (&'a str, u64, &'a str) {
    let files = job["files"].as_array().unwrap();
    let file = files.iter().find(|file| file["path"] == path);
    let file = file.unwrap_or_else(|| panic!("no {path} in {job}"));
    let text = |name: &str| file[name].as_str().unwrap();
    (
        text("href"),
        file["bytes"].as_u64().unwrap(),
        text("sha256"),
    )
}

#[tokio::test]
async fn an_export_is_asked_for_made_and_fetched() {
    let maker = Maker::new(6).await;
    let mut wanted = with(
        "filters",
        json!({ "labels.env": ["prod"], "action": "Order.Placed" }),
    );
    wanted["format"] = "parquet".into();
    let asked = maker.ask(&wanted).await;
    assert_eq!(asked.status, StatusCode::ACCEPTED, "{}", asked.body);
    assert_eq!(asked.headers["cache-control"], "no-store");
    let id = asked.body["exportId"].as_str().unwrap();
    let place = asked.headers["location"].to_str().unwrap();
    assert_eq!(place, format!("{EXPORTS}/{id}"));
    let job = maker.ended(id).await;
    assert_eq!(job["state"], "finished", "{job}");
    for member in ["stream", "purpose", "format"] {
        assert_eq!(job[member], wanted[member], "{job}");
    }
    assert_eq!(job["timeRange"]["from"], "2026-01-02T03:00:00.000000Z");
    assert_eq!(job["filters"]["labels.env"], json!(["prod"]));
    assert_eq!(job["filters"]["action"], json!(["Order.Placed"]));
    assert_eq!(job["policyVersion"], "tenant:acme@1");
    assert_eq!(job["error"], Value::Null);
    let progress = &job["progress"];
    assert_eq!(
        (
            &progress["records"],
            &progress["recordsTotal"],
            &progress["percent"]
        ),
        (&json!(3), &json!(3), &json!(100)),
    );
    assert_eq!(progress["etaSeconds"], Value::Null);
    for moment in ["createdAt", "startedAt", "endedAt", "expiresAt"] {
        let moment = job[moment].as_str().unwrap();
        assert!(Timestamp::parse_rfc3339(moment).is_ok(), "{job}");
    }
    let files = job["files"].as_array().unwrap();
    for path in [
        "manifest.json",
        "manifest.sig",
        "dictionary.json",
        "README-verify.md",
    ] {
        file(&job, path);
    }
    for one in files {
        let (href, bytes, sha256) = file(&job, one["path"].as_str().unwrap());
        let fetched = maker.fetch(href, &[]).await;
        assert_eq!(fetched.status, StatusCode::OK, "{href}");
        assert_eq!(fetched.bytes.len() as u64, bytes, "{href}");
        assert_eq!(hash(&fetched.bytes), sha256, "{href}");
    }
    let shown = maker.look("").await;
    assert_eq!(shown.body["exports"], json!([job]));
    let report = maker.look(&format!("/{id}/verify")).await;
    assert_eq!(report.body["ok"], true, "{}", report.body);
    assert_eq!(report.body["files"], files.len());
}

#[tokio::test]
async fn the_manifest_comes_with_its_signature() {
    let maker = Maker::new(1).await;
    let job = maker.made(&question()).await;
    let id = job["exportId"].as_str().unwrap();
    let (href, ..) = file(&job, "manifest.sig");
    let signature = maker.fetch(href, &[]).await;
    let (href, ..) = file(&job, "manifest.json");
    let stored = maker.fetch(href, &[]).await;
    let manifest = maker.fetch(&format!("{EXPORTS}/{id}/manifest"), &[]).await;
    assert_eq!(manifest.status, StatusCode::OK);
    assert_eq!(manifest.bytes, stored.bytes);
    assert_eq!(manifest.header("content-type"), "application/json");
    let told = manifest.header("x-trailhouse-signature").as_bytes();
    assert_eq!(told, signature.bytes.trim_ascii_end());
    let manifest: Value = serde_json::from_slice(&manifest.bytes).unwrap();
    assert_eq!(manifest["exportId"], id);
}

#[tokio::test]
async fn the_same_request_is_one_export_while_it_is_under_way() {
    let mut maker = Maker::idle(2).await;
    let wanted = question();
    let (one, other) = tokio::join!(maker.ask(&wanted), maker.ask(&wanted));
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 202], "{} {}", one.body, other.body);
    assert_eq!(one.body["exportId"], other.body["exportId"]);
    let again = maker.ask(&wanted).await;
    assert_eq!(again.status, StatusCode::OK);
    assert_eq!(again.body["exportId"], one.body["exportId"]);
    assert_eq!(again.headers["location"], one.headers["location"]);
    let second = maker.ask(&with("purpose", "case 18".into())).await;
    assert_eq!(second.status, StatusCode::ACCEPTED, "{}", second.body);
    assert_ne!(second.body["exportId"], one.body["exportId"]);
    // Two are under way, and as many may be.
    let third = maker.ask(&with("purpose", "case 19".into())).await;
    third.is_problem("export-concurrency-exceeded", 409);
    maker.begin();
    let id = one.body["exportId"].as_str().unwrap();
    assert_eq!(maker.ended(id).await["state"], "finished");
    // It has ended: the next one is another.
    let next = maker.ask(&wanted).await;
    assert_eq!(next.status, StatusCode::ACCEPTED, "{}", next.body);
    assert_ne!(next.body["exportId"], one.body["exportId"]);
}

#[tokio::test]
async fn what_is_no_request_is_refused_by_what_is_wrong_with_it() {
    let maker = Maker::idle(0).await;
    let mut nowhere = question();
    nowhere.as_object_mut().unwrap().remove("stream");
    let invalid = [
        json!([]),
        nowhere,
        with("limit", 7.into()),
        with("format", Value::Null),
        with("stream", "no stream".into()),
        with("timeRange", json!({ "from": "yesterday" })),
        with("timeRange", json!({ "since": "2026-01-02T03:00:00Z" })),
        with("filters", json!({ "action": [] })),
        with("filters", json!({ "action": 7 })),
    ];
    for wanted in invalid {
        let answer = maker.ask(&wanted).await;
        answer.is_problem("invalid-query", 400);
    }
    // Nobody chooses for the server, not even what it would choose.
    for (member, value) in [
        ("tenantId", "acme"),
        ("dataSilo", "eu"),
        ("maskProfile", "Reader"),
        ("policyVersion", "tenant:acme@1"),
    ] {
        let answer = maker.ask(&with(member, value.into())).await;
        answer.is_problem("invalid-query", 400);
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains("the server's to choose"), "{detail}");
    }
    let answer = maker.ask(&with("format", "csv".into())).await;
    answer.is_problem("export-unsupported-format", 400);
    let answer = maker
        .ask(&with("filters", json!({ "context.x": "1" })))
        .await;
    answer.is_problem("unsupported-filter", 400);
    assert_eq!(maker.look("").await.body["exports"], json!([]));
}

#[tokio::test]
async fn what_may_not_be_exported_is_refused_and_is_evidence() {
    let maker = Maker::idle(1).await;
    let mut without = question();
    without.as_object_mut().unwrap().remove("purpose");
    let never = json!({ "from": "2026-01-02T03:00:00Z", "to": "2026-01-02T03:00:00Z" });
    // The actor is masked for whoever exports.
    let masked = json!({ "actor.id": "ann" });
    let foreign = json!({ "tenantId": "globex" });
    for (wanted, slug, status) in [
        (without, "invalid-query", 400),
        (with("purpose", " ".into()), "invalid-query", 400),
        (
            with("purpose", "x".repeat(201).into()),
            "invalid-query",
            400,
        ),
        (with("timeRange", never), "invalid-query", 400),
        (
            with("stream", "audit.unheard".into()),
            "invalid-record",
            400,
        ),
        (
            with("stream", "audit.evidence".into()),
            "invalid-record",
            400,
        ),
        (with("filters", masked), "unsupported-filter", 400),
        (with("filters", foreign), "cross-tenant-query", 403),
    ] {
        maker.ask(&wanted).await.is_problem(slug, status);
    }
    let reader = maker.world.token("acme", &["Audit.Reader"], &[]);
    let refused = maker.ask_as(&format!("Bearer {reader}"), &question()).await;
    refused.is_problem("forbidden", 403);
    assert_eq!(maker.look("").await.body["exports"], json!([]));
    let slugs = [
        "cross-tenant-query",
        "unsupported-filter",
        "invalid-query",
        "forbidden",
    ];
    let told = async {
        // Nobody waits for the evidence of a refusal.
        loop {
            let told = maker.evidence("Export").await;
            if slugs.iter().all(|slug| told.contains(slug)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
}

#[tokio::test]
async fn an_export_is_of_whoever_asked_for_it() {
    let maker = Maker::new(1).await;
    let job = maker.made(&question()).await;
    let id = job["exportId"].as_str().unwrap();
    let request = TokenRequest {
        subject: "another".to_owned(),
        tenant: Some("acme".to_owned()),
        roles: vec!["Export.Operator".to_owned()],
        ..TokenRequest::default()
    };
    let service = &maker.world.service;
    let developer = service.developer.as_ref().unwrap();
    let another = developer.mint(&request, Duration::from_secs(600), service.clock.now());
    maker.world.onboard("globex").await;
    let foreign = maker.world.token("globex", &["Export.Operator"], &[]);
    let all = ["", "/manifest", "/verify", "/files/manifest.json"];
    for token in [another, foreign] {
        let token = vec![("authorization", format!("Bearer {token}"))];
        for rest in all {
            let path = format!("{EXPORTS}/{id}{rest}");
            let answer = maker.send(Method::GET, &path, &token).await;
            answer.is_problem("not-found", 404);
        }
        let path = format!("{EXPORTS}/{id}");
        let answer = maker.send(Method::DELETE, &path, &token).await;
        answer.is_problem("not-found", 404);
        let listed = maker.send(Method::GET, EXPORTS, &token).await;
        let listed: Value = serde_json::from_slice(&listed.bytes).unwrap();
        assert_eq!(listed["exports"], json!([]));
        let (path, headers) = (format!("{path}/links"), [("authorization", &*token[0].1)]);
        let linked = maker
            .world
            .post(&path, r#"{"path":"manifest.json"}"#, &headers);
        linked.await.is_problem("not-found", 404);
    }
    let nobody = maker.send(Method::GET, EXPORTS, &[]).await;
    nobody.is_problem("invalid-token", 401);
    for rest in all {
        let path = format!("{EXPORTS}/{id}{rest}");
        let answer = maker.send(Method::GET, &path, &[]).await;
        answer.is_problem("invalid-token", 401);
    }
    for id in ["exp-01KDVDN0000000000000000001", "x", "exp-", "..%2f"] {
        let answer = maker.look(&format!("/{id}")).await;
        answer.is_problem("not-found", 404);
    }
    // It is the caller's still, and of the same state.
    assert_eq!(maker.look(&format!("/{id}")).await.body, job);
}

#[tokio::test]
async fn another_silo_exports_nothing_of_a_tenant() {
    let maker = Maker::idle(1).await;
    let elsewhere = SiloId::parse("us-east").unwrap();
    for (method, path, body) in [
        (Method::POST, EXPORTS, question().to_string()),
        (Method::GET, EXPORTS, String::new()),
        (
            Method::DELETE,
            "/v1/exports/exp-01KDVDN0000000000000000001",
            String::new(),
        ),
    ] {
        let mut router = silo(Arc::clone(&maker.world.service), elsewhere.clone());
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, maker.operator())
            .header(header::CONTENT_TYPE, "application/json");
        let answer = router.call(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(answer.unwrap().status(), StatusCode::CONFLICT, "{path}");
    }
}

#[tokio::test]
async fn a_file_says_what_it_is_and_leaves_no_fetch_without_evidence() {
    let maker = Maker::new(5).await;
    let job = maker.made(&question()).await;
    let (href, bytes, sha256) = file(&job, "part-00000.ndjson");
    let tag = format!("\"{sha256}\"");
    let whole = maker.fetch(href, &[]).await;
    assert_eq!(whole.status, StatusCode::OK);
    assert_eq!(whole.header("etag"), tag);
    assert_eq!(whole.header("x-trailhouse-sha256"), sha256);
    assert_eq!(whole.header("content-length"), bytes.to_string());
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("cache-control"), "no-store");
    assert_eq!(whole.header("content-type"), "application/x-ndjson");
    assert_eq!(
        whole.header("content-disposition"),
        "attachment; filename=\"part-00000.ndjson\""
    );
    let token = [("authorization", maker.operator())];
    let head = maker.send(Method::HEAD, href, &token).await;
    assert_eq!((head.status, head.bytes.len()), (StatusCode::OK, 0));
    for name in [
        "etag",
        "content-length",
        "content-type",
        "accept-ranges",
        "x-trailhouse-sha256",
    ] {
        assert_eq!(head.header(name), whole.header(name), "{name}");
    }
    let missing = href.replace("part-00000", "part-00001");
    let outside = href.replace("part-00000.ndjson", "..%2f..%2fmanifest.json");
    for path in [missing, outside] {
        let answer = maker.fetch(&path, &[]).await;
        answer.is_problem("not-found", 404);
    }
    let told = maker.evidence("Export.Fetched").await;
    assert!(told.contains("File.part-00000.ndjson"), "{told}");
}

#[tokio::test]
async fn a_file_is_given_out_in_part() {
    let maker = Maker::new(5).await;
    let job = maker.made(&question()).await;
    let (href, bytes, sha256) = file(&job, "part-00000.ndjson");
    let tag = format!("\"{sha256}\"");
    let whole = maker.fetch(href, &[]).await;
    let last = bytes - 1;
    for (range, first, end) in [
        ("bytes=0-0".to_owned(), 0, 0),
        ("bytes=7-41".to_owned(), 7, 41),
        (format!("bytes={last}-"), last, last),
        ("bytes=-9".to_owned(), bytes - 9, last),
        (format!("bytes=3-{}", bytes + 5), 3, last),
    ] {
        let part = maker.fetch(href, &[("range", &range)]).await;
        assert_eq!(part.status, StatusCode::PARTIAL_CONTENT, "{range}");
        let told = format!("bytes {first}-{end}/{bytes}");
        assert_eq!(part.header("content-range"), told);
        assert_eq!(part.header("content-length"), (end - first + 1).to_string());
        let (first, end) = (
            usize::try_from(first).unwrap(),
            usize::try_from(end).unwrap(),
        );
        assert_eq!(part.bytes, whole.bytes[first..=end], "{range}");
    }
    for range in [format!("bytes={bytes}-"), "bytes=-0".to_owned()] {
        let beyond = maker.fetch(href, &[("range", &range)]).await;
        beyond.is_problem("invalid-query", 416);
        assert_eq!(beyond.header("content-range"), format!("bytes */{bytes}"));
    }
    for (headers, status) in [
        (vec![("range", "bytes=0-1, 3-4")], 200),
        (vec![("range", "bytes=1-2"), ("if-range", "\"other\"")], 200),
        (vec![("range", "bytes=1-2"), ("if-range", &tag)], 206),
        (vec![("if-none-match", tag.as_str())], 304),
        (vec![("if-none-match", "\"other\"")], 200),
    ] {
        let answer = maker.fetch(href, &headers).await;
        assert_eq!(answer.status.as_u16(), status, "{headers:?}");
        let length = match status {
            200 => bytes,
            206 => 2,
            _ => 0,
        };
        assert_eq!(answer.bytes.len() as u64, length, "{headers:?}");
        assert_eq!(answer.header("etag"), tag);
    }
}

#[tokio::test]
async fn a_link_opens_one_file_without_a_token_for_a_time() {
    let maker = Maker::new(2).await;
    let job = maker.made(&question()).await;
    let id = job["exportId"].as_str().unwrap();
    let (_, bytes, sha256) = file(&job, "part-00000.ndjson");
    let asked = json!({ "path": "part-00000.ndjson", "minutes": 2 });
    let linked = maker.link(id, asked).await;
    assert_eq!(linked.status, StatusCode::CREATED, "{}", linked.body);
    assert_eq!(linked.headers["cache-control"], "no-store");
    let url = linked.body["url"].as_str().unwrap();
    let open = async |method, url: &str, range: Option<&str>| {
        let range: Vec<_> = range
            .map(|range| ("range", range.to_owned()))
            .into_iter()
            .collect();
        maker.send(method, url, &range).await
    };
    let fetched = open(Method::GET, url, None).await;
    assert_eq!(fetched.status, StatusCode::OK);
    assert_eq!(hash(&fetched.bytes), sha256);
    let head = open(Method::HEAD, url, None).await;
    assert_eq!((head.status, head.bytes.len()), (StatusCode::OK, 0));
    assert_eq!(head.header("content-length"), bytes.to_string());
    let part = open(Method::GET, url, Some("bytes=0-3")).await;
    assert_eq!(
        (part.status.as_u16(), part.bytes),
        (206, fetched.bytes[..4].to_vec())
    );
    let (route, link) = url.rsplit_once('/').unwrap();
    assert_eq!(route, "/v1/links");
    for place in (0..link.len()).step_by(5) {
        let mut changed = link.to_owned().into_bytes();
        changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let answer = open(Method::GET, &format!("{route}/{changed}"), None).await;
        answer.is_problem("not-found", 404);
    }
    let told = maker.evidence("Export.Link").await;
    assert!(told.contains("File.part-00000.ndjson"), "{told}");
    let told = maker.evidence("Export.Linked").await;
    assert!(told.contains("File.part-00000.ndjson"), "{told}");
    maker.clock.0.store(119, Ordering::SeqCst);
    assert_eq!(open(Method::GET, url, None).await.status, StatusCode::OK);
    maker.clock.0.store(121, Ordering::SeqCst);
    open(Method::GET, url, None)
        .await
        .is_problem("not-found", 404);
}

#[tokio::test]
async fn a_link_is_to_one_file_and_not_beyond_its_end() {
    let maker = Maker::new(1).await;
    let job = maker.made(&question()).await;
    let id = job["exportId"].as_str().unwrap();
    let path = "part-00000.ndjson";
    for (asked, slug, status) in [
        (json!({ "path": path, "minutes": 0 }), "invalid-query", 400),
        (
            json!({ "path": path, "minutes": 1441 }),
            "invalid-query",
            400,
        ),
        (
            json!({ "path": path, "tenantId": "acme" }),
            "invalid-query",
            400,
        ),
        (json!({ "minutes": 5 }), "invalid-query", 400),
        (json!({ "path": "nothing" }), "not-found", 404),
    ] {
        maker.link(id, asked).await.is_problem(slug, status);
    }
    let end = async |asked| {
        let linked = maker.link(id, asked).await;
        let end = linked.body["expiresAt"].as_str().unwrap_or_default();
        Timestamp::parse_rfc3339(end).unwrap()
    };
    let usual = end(json!({ "path": path })).await;
    let hour = maker.clock.now().plus(Duration::from_secs(3_600));
    assert!(usual <= hour && usual.plus(Duration::from_secs(60)) > hour);
    // An hour before the files go there is no link for longer.
    maker.clock.0.store(167 * 3_600, Ordering::SeqCst);
    let last = end(json!({ "path": path, "minutes": 1440 })).await;
    assert_eq!(last.to_string(), job["expiresAt"].as_str().unwrap());
}

#[tokio::test]
async fn a_link_stands_on_what_its_maker_may() {
    let maker = Maker::new(1).await;
    let job = maker.made(&question()).await;
    let id = job["exportId"].as_str().unwrap();
    let linked = maker.link(id, json!({ "path": "manifest.json" })).await;
    let url = linked.body["url"].as_str().unwrap();
    assert_eq!(
        maker.send(Method::GET, url, &[]).await.status,
        StatusCode::OK
    );
    let world = &maker.world;
    let token = world.token("acme", &["Security.Admin"], &[]);
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer(&token))]);
    let context = world.service.context(&headers).await.unwrap();
    let tenant = catalog::ids::TenantId::parse("acme").unwrap();
    let usual = Bundle::default_yaml(&tenant, &world.silo);
    let stricter = usual
        .replace("version: 1", "version: 2")
        .replace("actor_id: HASH", "actor_id: REDACT");
    let nobody = usual
        .replace("version: 1", "version: 3")
        .replace("[Export.Operator, Export.Admin]", "[]");
    let file = format!("{EXPORTS}/{id}/files/manifest.json");
    for (policy, slug, status) in [
        (stricter, "policy-version-stale", 409),
        (nobody, "forbidden", 403),
    ] {
        let request = guard::Request::at(world.silo.clone());
        let permit = world
            .service
            .gate
            .authorize::<PolicyWrite>(&context, request);
        let permit = permit.await.unwrap();
        let applied = world.service.policies.apply(&permit, policy.as_bytes());
        applied.await.unwrap();
        maker.fetch(&file, &[]).await.is_problem(slug, status);
        let opened = maker.send(Method::GET, url, &[]).await;
        opened.is_problem("not-found", 404);
    }
}

#[tokio::test]
async fn nothing_is_fetched_of_what_has_not_finished_or_was_called_off() {
    let mut maker = Maker::idle(2).await;
    let asked = maker.ask(&question()).await;
    let id = asked.body["exportId"].as_str().unwrap();
    assert_eq!(asked.body["state"], "queued");
    assert_eq!(asked.body["files"], json!([]));
    let rest = [
        "/manifest",
        "/verify",
        "/files/manifest.json",
        "/files/part-00000.ndjson",
    ];
    for rest in rest {
        let answer = maker.look(&format!("/{id}{rest}")).await;
        answer.is_problem("precondition-failed", 412);
        assert_eq!(answer.body["state"], "queued");
    }
    let linked = maker.link(id, json!({ "path": "manifest.json" })).await;
    linked.is_problem("precondition-failed", 412);
    for _ in 0..2 {
        let cancelled = maker.cancel(id).await;
        assert_eq!(cancelled.status, StatusCode::OK);
        let job: Value = serde_json::from_slice(&cancelled.bytes).unwrap();
        assert_eq!(job["state"], "cancelled");
    }
    maker.begin();
    // It is not taken up any more, and the same request is another export.
    let next = maker.made(&question()).await;
    assert_eq!(next["state"], "finished", "{next}");
    assert_ne!(next["exportId"], id);
    let job = maker.look(&format!("/{id}")).await;
    assert_eq!(job.body["state"], "cancelled");
    let answer = maker.look(&format!("/{id}/manifest")).await;
    answer.is_problem("precondition-failed", 412);
    assert_eq!(answer.body["state"], "cancelled");
    // One that has finished is not called off.
    let cancelled = maker.cancel(next["exportId"].as_str().unwrap()).await;
    let job: Value = serde_json::from_slice(&cancelled.bytes).unwrap();
    assert_eq!(job["state"], "finished");
}

#[tokio::test]
async fn files_have_their_time() {
    let maker = Maker::new(1).await;
    let job = maker.made(&question()).await;
    let id = job["exportId"].as_str().unwrap();
    maker.clock.0.store(168 * 3_600 + 60, Ordering::SeqCst);
    let path = format!("/{id}/files/manifest.json");
    let answer = maker.look(&path).await;
    answer.is_problem("precondition-failed", 412);
    assert_eq!(answer.body["state"], "expired");
    let job = maker.look(&format!("/{id}")).await;
    assert_eq!(job.body["files"], json!([]));
}

#[tokio::test]
async fn a_file_that_was_changed_in_the_store_is_not_given_out() {
    // Long enough that it is read in several pieces: a piece is 2 MiB at the most.
    let mut maker = Maker::idle(0).await;
    let line = |n: usize| {
        let mut record = record(&format!("long-{n}"));
        record["context"] = json!({ "text": format!("{n:06}").repeat(250) });
        record.to_string()
    };
    for first in (0..1_600).step_by(4) {
        let lines: Vec<_> = (first..first + 4).map(line).collect();
        let stored = maker.world.post(BATCH, lines.join("\n"), &[]).await;
        assert_eq!(stored.status, StatusCode::OK, "{}", stored.body);
    }
    maker.begin();
    let job = maker.made(&question()).await;
    let (href, bytes, _) = file(&job, "part-00000.ndjson");
    assert!(bytes > 2 << 20, "{bytes}");
    let root = maker.world.service.config.silos[0].root.path().unwrap();
    let stored = find(root, "part-00000.ndjson").unwrap();
    let whole = std::fs::read(&stored).unwrap();
    let damage = |place: usize| {
        let mut damaged = whole.clone();
        damaged[place] ^= 1;
        std::fs::write(&stored, damaged).unwrap();
    };
    // The first piece is not what it was: that is what is said.
    damage(10);
    let answer = maker.fetch(href, &[]).await;
    answer.is_problem("checksum-mismatch", 409);
    // A later one: what was announced does not come, and the body ends in an error.
    damage(whole.len() - 10);
    let request = Request::get(href).header(header::AUTHORIZATION, maker.operator());
    let request = request.body(Body::empty()).unwrap();
    let answer = maker.world.router().call(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-length"], bytes.to_string());
    let read = to_bytes(answer.into_body(), 64 << 20).await;
    assert!(read.is_err());
    let id = job["exportId"].as_str().unwrap();
    let report = maker.look(&format!("/{id}/verify")).await;
    assert_eq!(report.status, StatusCode::OK);
    assert_eq!(report.body["ok"], false, "{}", report.body);
    assert_eq!(report.body["damaged"], json!(["part-00000.ndjson"]));
    std::fs::write(&stored, &whole).unwrap();
    assert_eq!(maker.fetch(href, &[]).await.bytes.len() as u64, bytes);
}

/// The file of this name, somewhere below a folder.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, name)
        } else {
            path.ends_with(name).then_some(path)
        }
    })
}
