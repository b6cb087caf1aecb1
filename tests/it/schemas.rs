//! Schemas over the wire: records are checked by them, old ones are read as new ones, and senders are told what ends.

use catalog::guard::SchemaWrite;
use catalog::ids::StreamName;
use catalog::schema::SchemaVersion;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use tests::{World, record, text};

const SCHEMAS: &str = "/v1/audit/schemas";
const RECORDS: &str = "/v1/audit/records";

/// Orders before and after: the amount was text, the name was whole, and there was no currency.
fn first() -> Value {
    json!({ "properties": { "context": { "type": "object", "required": ["amount"], "properties": {
        "amount": { "type": "string" }, "name": { "type": "string" } } } } })
}

fn second() -> Value {
    json!({ "properties": { "context": { "type": "object", "required": ["amount", "currency"], "properties": {
        "amount": { "type": "number" }, "currency": { "enum": ["USD", "EUR"] },
        "customer": { "type": "object", "properties": { "first": { "type": "string" }, "last": { "type": "string" } } } } } } })
}

fn upcaster() -> Value {
    json!({ "from": "1.0", "to": "2.0", "steps": [
        { "op": "cast", "path": "/context/amount", "to": "number" },
        { "op": "default", "path": "/context/currency", "value": "USD" },
        { "op": "split", "path": "/context/name", "separator": " ", "to": ["/context/customer/first", "/context/customer/last"] },
    ]})
}

struct Client<'w> {
    world: &'w World,
    token: String,
}

impl Client<'_> {
    async fn send(
        &self,
        path: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> (u16, HeaderMap, Value) {
        let mut request = reqwest::Client::new()
            .post(self.world.http("eu") + path)
            .bearer_auth(&self.token)
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.body(body.to_string()).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        (status, headers, response.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let request = reqwest::Client::new().get(self.world.http("eu") + path);
        let response = request.bearer_auth(&self.token).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    async fn register(
        &self,
        version: &str,
        schema: Value,
        upcaster: Option<Value>,
    ) -> (u16, Value) {
        let body = json!({ "stream": "audit.default", "version": version, "schema": schema, "upcaster": upcaster });
        let (status, _, answer) = self.send(SCHEMAS, &body, &[]).await;
        (status, answer)
    }
}

async fn world() -> World {
    let world = World::start().await;
    world.tenant("acme", "eu").await;
    world
}

fn client<'w>(world: &'w World, roles: &[&str], scopes: &[&str]) -> Client<'w> {
    let token = world.token("acme", roles, scopes);
    Client { world, token }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_and_new_records_query_as_one() {
    let world = world().await;
    let admin = client(&world, &["Security.Admin"], &[]);
    let writer = client(&world, &[], &["audit.write"]);
    assert_eq!(admin.register("1.0", first(), None).await.0, 200);
    let old = record(
        "acme",
        "old",
        json!({ "context": { "amount": "12.50", "name": "Bo Li" } }),
    );
    assert_eq!(writer.send(RECORDS, &old, &[]).await.0, 200);
    let (status, answer) = admin.register("2.0", second(), Some(upcaster())).await;
    assert_eq!(
        (status, &answer["compatibility"]),
        (200, &json!("breaking")),
        "{answer}"
    );
    let context =
        json!({ "amount": 12.5, "currency": "USD", "customer": { "first": "Bo", "last": "Li" } });
    let new = record(
        "acme",
        "new",
        json!({ "schemaVersion": "2.0", "context": context }),
    );
    assert_eq!(writer.send(RECORDS, &new, &[]).await.0, 200);
    // Old senders go on for as long as 1.0 does.
    let late = record(
        "acme",
        "late",
        json!({ "context": { "amount": "12.50", "name": "Bo Li" } }),
    );
    assert_eq!(writer.send(RECORDS, &late, &[]).await.0, 200);
    let sql = "SELECT DISTINCT context FROM audit.records";
    let rows = world
        .query("acme", "eu", "Audit.Investigator", sql)
        .await
        .unwrap();
    let shown = text(&rows);
    let wanted = r#"{"amount":12.5,"currency":"USD","customer":{"first":"Bo","last":"Li"}}"#;
    assert!(shown.contains(wanted), "{shown}");
    assert_eq!(
        rows.iter().map(|batch| batch.num_rows()).sum::<usize>(),
        1,
        "{shown}"
    );
    let sql = "SELECT schema_version, count(*) AS n FROM audit.records GROUP BY 1 ORDER BY 1";
    let rows = world
        .query("acme", "eu", "Audit.Investigator", sql)
        .await
        .unwrap();
    let shown = text(&rows);
    assert!(
        shown.contains("| 1.0            | 2 |") && shown.contains("| 2.0            | 1 |"),
        "{shown}"
    );
    // A restart knows the same.
    let world = World::start_in(world.stop().await).await;
    let sql = "SELECT context, count(*) AS n FROM audit.records GROUP BY context";
    let rows = world
        .query("acme", "eu", "Audit.Investigator", sql)
        .await
        .unwrap();
    let shown = text(&rows);
    assert!(shown.contains(wanted) && shown.contains("| 3 |"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_does_not_fit_is_refused_with_its_places() {
    let world = world().await;
    let admin = client(&world, &["Security.Admin"], &[]);
    let writer = client(&world, &[], &["audit.write"]);
    let unregistered = record("acme", "two", json!({ "schemaVersion": "2.0" }));
    let (status, _, answer) = writer.send(RECORDS, &unregistered, &[]).await;
    assert_eq!(
        (status, &answer["violations"][0]["pointer"]),
        (400, &json!("/schemaVersion"))
    );
    assert_eq!(admin.register("1.0", first(), None).await.0, 200);
    let bad = record(
        "acme",
        "bad",
        json!({ "context": { "amount": 471_147, "name": ["canary"] } }),
    );
    let (status, _, answer) = writer.send(RECORDS, &bad, &[]).await;
    assert_eq!(status, 400, "{answer}");
    let places: Vec<_> = answer["violations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(places, ["/context/amount", "/context/name"], "{answer}");
    let told = answer.to_string();
    assert!(
        !told.contains("471147") && !told.contains("canary"),
        "{told}"
    );
    for (key, version, status) in [
        ("newer", "1.4", 200),
        ("major", "2.0", 400),
        ("none", "0.9", 400),
    ] {
        let sent = record(
            "acme",
            key,
            json!({ "schemaVersion": version, "severity": 3, "context": { "amount": 1 } }),
        );
        let (found, _, answer) = writer.send(RECORDS, &sent, &[]).await;
        assert_eq!(found, status, "{version}: {answer}");
        if status == 400 {
            assert!(
                answer["violations"][0]["message"]
                    .as_str()
                    .unwrap()
                    .contains("1.0"),
                "{answer}"
            );
        }
    }
    let sql = "SELECT extras FROM audit.records";
    let rows = world
        .query("acme", "eu", "Audit.Investigator", sql)
        .await
        .unwrap();
    assert!(
        text(&rows).contains(r#"{"severity":3}"#),
        "what is newer is kept: {}",
        text(&rows)
    );
    // Another stream has no schemas, and another tenant none of these.
    let (status, _, answer) = writer
        .send(&format!("{RECORDS}?stream=audit.security"), &bad, &[])
        .await;
    assert_eq!(status, 200, "{answer}");
}

/// A release asks no schema: what is put aside has met it, and reads like any old record afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_put_aside_has_met_its_schema() {
    let world = world().await;
    let admin = client(&world, &["Security.Admin"], &[]);
    let writer = client(&world, &[], &["audit.write"]);
    assert_eq!(admin.register("1.0", first(), None).await.0, 200);
    let foreign = |key: &str, context| record("somebody", key, json!({ "context": context }));
    let unfit = foreign("unfit", json!({ "amount": 12 }));
    let (status, _, answer) = writer.send(RECORDS, &unfit, &[]).await;
    assert_eq!(status, 400, "{answer}");
    let fit = foreign("fit", json!({ "amount": "12.50", "name": "Bo Li" }));
    let (status, _, answer) = writer.send(RECORDS, &fit, &[]).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!(
        admin.register("2.0", second(), Some(upcaster())).await.0,
        200
    );
    let entry = answer["evidenceRef"].as_str().unwrap();
    let path = format!("/v1/audit/quarantine/{entry}:release");
    let (status, _, answer) = admin.send(&path, &json!({ "reason": "ours" }), &[]).await;
    assert_eq!(status, 200, "{answer}");
    let sql = "SELECT context FROM audit.records";
    let rows = world.query("acme", "eu", "Audit.Investigator", sql).await;
    let shown = text(&rows.unwrap());
    let wanted = r#"{"amount":12.5,"currency":"USD","customer":{"first":"Bo","last":"Li"}}"#;
    assert!(shown.contains(wanted), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_breaks_readers_and_what_is_no_schema_is_refused() {
    let world = world().await;
    let admin = client(&world, &["Security.Admin"], &[]);
    assert_eq!(admin.register("1.0", first(), None).await.0, 200);
    for (version, upcaster, wanted) in [
        ("1.1", None, "within a major version"),
        ("2.0", None, "needs an upcaster"),
    ] {
        let (status, answer) = admin.register(version, second(), upcaster).await;
        assert_eq!(status, 409, "{answer}");
        assert!(
            answer["type"]
                .as_str()
                .unwrap()
                .ends_with("/schema-incompatible")
        );
        assert!(answer["reasons"].to_string().contains(wanted), "{answer}");
    }
    for schema in [
        json!({ "type": "strnig" }),
        json!({ "$ref": "https://example.com/x" }),
        json!({ "pattern": "(?=a)b" }),
        json!([]),
    ] {
        let (status, answer) = admin.register("1.1", schema, None).await;
        assert_eq!(status, 422, "{answer}");
        assert!(
            answer["type"]
                .as_str()
                .unwrap()
                .ends_with("/schema-invalid")
        );
    }
    let (status, _, answer) = admin
        .send(SCHEMAS, &json!({ "stream": "audit.default" }), &[])
        .await;
    assert_eq!(status, 422, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_look_and_check_and_do_not_register() {
    let world = world().await;
    let admin = client(&world, &["Security.Admin"], &[]);
    let reader = client(&world, &["Audit.Reader"], &[]);
    assert_eq!(admin.register("1.0", first(), None).await.0, 200);
    let body = json!({ "stream": "audit.default", "version": "1.1", "schema": second() });
    let (status, _, answer) = reader.send("/v1/audit/schemas:check", &body, &[]).await;
    assert_eq!(status, 409, "{answer}");
    let mut wider = first();
    wider["properties"]["context"]["properties"]["note"] = json!({ "type": "string" });
    let body = json!({ "stream": "audit.default", "version": "1.1", "schema": wider });
    let (status, _, answer) = reader.send("/v1/audit/schemas:check", &body, &[]).await;
    assert_eq!(
        (status, &answer["compatibility"]),
        (200, &json!("full")),
        "{answer}"
    );
    assert_eq!(reader.register("1.1", wider, None).await.0, 403);
    let (status, listed) = reader.get(SCHEMAS).await;
    assert_eq!(
        (status, &listed["streams"][0]["versions"][0]["version"]),
        (200, &json!("1.0")),
        "{listed}"
    );
    let (status, one) = reader.get("/v1/audit/schemas/audit.default/latest").await;
    assert_eq!((status, &one["schema"]), (200, &first()));
    for path in [
        "/v1/audit/schemas/audit.default/7.0",
        "/v1/audit/schemas/audit.unheard",
        "/v1/audit/schemas/audit.default/x",
    ] {
        assert_eq!(reader.get(path).await.0, 404, "{path}");
    }
    world.tenant("globex", "eu").await;
    let stranger = Client {
        world: &world,
        token: world.token("globex", &["Security.Admin"], &[]),
    };
    assert_eq!(
        stranger.get("/v1/audit/schemas").await.1["streams"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_and_a_stream_agree_on_a_schema_and_ends_are_announced() {
    let world = world().await;
    let admin = client(&world, &["Security.Admin"], &[]);
    let writer = client(&world, &[], &["audit.write"]);
    assert_eq!(admin.register("1.0", first(), None).await.0, 200);
    let sent = |key: &str| record("acme", key, json!({ "context": { "amount": "1" } }));
    for (key, accepted, status) in [
        ("a", "audit-record;v=1", 200),
        ("b", "audit-record;v=2", 406),
        ("c", "audit-record;v=2, audit-record", 200),
    ] {
        let (found, headers, answer) = writer
            .send(RECORDS, &sent(key), &[("accept-schema", accepted)])
            .await;
        assert_eq!(found, status, "{accepted}: {answer}");
        assert!(!headers.contains_key("warning"), "{headers:?}");
    }
    assert_eq!(
        admin.register("2.0", second(), Some(upcaster())).await.0,
        200
    );
    let (status, _, answer) = writer
        .send(
            RECORDS,
            &sent("d"),
            &[("accept-schema", "audit-record;v=2")],
        )
        .await;
    assert_eq!(status, 200, "{answer}");
    let permit = world.operator::<SchemaWrite>("acme").await;
    let stream = StreamName::audit_default();
    let end = world
        .service
        .schemas
        .deprecate(&permit, &stream, SchemaVersion::DEFAULT, 90)
        .await
        .unwrap();
    let (status, headers, _) = writer.send(RECORDS, &sent("e"), &[]).await;
    assert_eq!(status, 200);
    let warning = headers["warning"].to_str().unwrap();
    assert!(
        warning.starts_with("299 trailhouse \"schema 1.0 of audit.default ends on "),
        "{warning}"
    );
    assert!(
        warning.contains(&end.sunset.date()) && warning.contains("use 2.0"),
        "{warning}"
    );
    assert_eq!(
        headers["deprecation"].to_str().unwrap(),
        format!("@{}", end.since.as_micros() / 1_000_000)
    );
    assert!(headers["sunset"].to_str().unwrap().ends_with(" GMT"));
    let new = record(
        "acme",
        "f",
        json!({ "schemaVersion": "2.0", "context": { "amount": 1, "currency": "EUR" } }),
    );
    let (status, headers, _) = writer.send(RECORDS, &new, &[]).await;
    assert!(
        status == 200 && !headers.contains_key("warning"),
        "{headers:?}"
    );
}
