//! Tests: ordinary queries give the right answers through the guard.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use catalog::context::Role;
use datafusion::common::ScalarValue;

use super::error::Error;
use super::testing::{Caller, ONE, at, collect};

async fn reader(sql: &str) -> String {
    Caller::new(ONE, Role::Reader).shows(sql).await
}

async fn count(sql: &str) -> i64 {
    let batches = Caller::new(ONE, Role::Reader).rows(sql).await.expect(sql);
    let batch = batches
        .iter()
        .find(|batch| batch.num_rows() > 0)
        .expect("a row");
    batch.column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test]
async fn only_the_tenants_rows_are_counted() {
    for sql in [
        "SELECT count(*) FROM records",
        "SELECT count(*) FROM audit.records",
        "SELECT count(*) FROM \"acme\".audit.records",
        "SELECT count(*) FROM acme.audit.records r",
        "SELECT count(record_id) FROM records",
        "SELECT count(*) FROM records WHERE tenant_id = 'acme'",
        "SELECT count(*) FROM records WHERE tenant_id = 'ACME' OR tenant_id IN ('acme')",
        "SELECT count(*) FROM (SELECT DISTINCT record_id FROM records) x",
        "SELECT count(DISTINCT created_at) FROM records",
        "SELECT sum(1) FROM records",
        "SELECT count(*) FROM records WHERE true",
        "SELECT count(*) FROM records WHERE action LIKE '%'",
        "SELECT count(*) FROM records WHERE created_at >= '2026-01-01T00:00:00Z'",
        "WITH r AS (SELECT * FROM records) SELECT count(*) FROM r",
        "SELECT max(n) FROM (SELECT row_number() OVER () AS n FROM records) x",
    ] {
        let batches = Caller::new(ONE, Role::Reader).rows(sql).await;
        assert!(batches.is_ok(), "{sql}: {batches:?}");
        let text = reader(sql).await;
        assert!(
            text.contains("| 12 ") || text.contains("12 |"),
            "{sql}: {text}"
        );
    }
}

#[tokio::test]
async fn masks_are_applied_and_the_rest_is_not_touched() {
    let shown = reader(
        "SELECT actor_id, resource_id, trace_id, action, ticket, user_phone, owner \
         FROM records ORDER BY created_at LIMIT 1",
    )
    .await;
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn values_that_were_cut_out_return_under_their_masks() {
    let shown = reader(
        "SELECT context, labels['team'] AS team, labels['env'] AS env, labels['EMAIL'] AS email, \
         labels['owner'] AS owner, map_keys(labels) AS keys FROM records ORDER BY created_at LIMIT 1",
    )
    .await;
    insta::assert_snapshot!(shown);
    let clear = Caller::new(ONE, Role::Investigator)
        .shows("SELECT context, labels FROM records ORDER BY created_at LIMIT 1")
        .await;
    insta::assert_snapshot!(clear);
}

#[tokio::test]
async fn joins_groups_windows_and_subqueries_work() {
    for (sql, wanted) in COUNTS {
        assert_eq!(count(sql).await, *wanted, "{sql}");
    }
}

#[tokio::test]
async fn ordinary_expressions_work() {
    let shown = reader(
        "SELECT action || '/' || resource_type AS joined, upper(action) AS up, \
         date_trunc('day', created_at) AS day, coalesce(span_id, 'none') AS span, \
         CASE WHEN action = 'Login' THEN 1 ELSE 0 END AS login, \
         lpad(CAST(leaf_index AS VARCHAR), 3, '0') AS padded, [1, 2][1] AS first, \
         regexp_replace(action, '\\..*', '') AS area, concat(action, NULL) AS c, \
         extract(hour FROM created_at) AS hour, tenant_id, now() > created_at AS past \
         FROM records ORDER BY created_at, record_id LIMIT 2",
    )
    .await;
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn json_is_read_as_the_caller_sees_it() {
    let shown = reader(
        "SELECT context, context->'user' AS user, context->'user'->>'phone' AS phone, \
         context->>'secret' AS secret, json_get_int(context, 'n') AS n, context->'none' AS none, \
         action->'x' AS no_json, context #>> ['user', 'phone'] AS path, context->'user'->>'phone' = '[redacted]' AS compared, \
         json_contains(context, 'secret') AS has, json_length(context) AS size \
         FROM records ORDER BY created_at LIMIT 1",
    )
    .await;
    insta::assert_snapshot!(shown);
    let clear = Caller::new(ONE, Role::Investigator)
        .shows(
            "SELECT context->'user'->>'phone' AS phone, count(*) AS n FROM records \
             GROUP BY context->'user'->>'phone' ORDER BY 1 LIMIT 2",
        )
        .await;
    insta::assert_snapshot!(clear);
    let joined = Caller::new(ONE, Role::Investigator)
        .shows("SELECT '{\"a\":\"x\"}'->>'a' || '!' AS joined, '{\"a\":\"b\"}'->'a'->>resource_type AS none FROM records LIMIT 1")
        .await;
    assert!(joined.contains("| x!     |      |"), "{joined}");
    for sql in [
        "SELECT count(*) FROM records WHERE context->>'secret' = 'x'",
        "SELECT count(*) FROM records WHERE json_get_str(context, 'secret') = 'x'",
        "SELECT json_get(context, 'secret') FROM records",
        "SELECT leaf_index->'x' FROM records",
        "SELECT context #>> '{user,phone}' FROM records",
    ] {
        let outcome = Caller::new(ONE, Role::Reader).rows(sql).await;
        assert!(outcome.is_err(), "{sql}: {outcome:?}");
    }
}

#[tokio::test]
async fn metadata_shows_what_the_caller_sees() {
    let reader = Caller::new(ONE, Role::Reader);
    insta::assert_snapshot!("tables_of_a_reader", reader.shows("SHOW TABLES").await);
    insta::assert_snapshot!("describe_records", reader.shows("DESCRIBE records").await);
    let admin = Caller::new(ONE, Role::AuditAdmin);
    insta::assert_snapshot!("tables_of_an_admin", admin.shows("SHOW TABLES").await);
    let columns = "SELECT table_name, count(*) AS n FROM information_schema.columns \
                   GROUP BY table_name ORDER BY table_name";
    insta::assert_snapshot!("columns_of_a_reader", reader.shows(columns).await);
    let comments = "SELECT column_name, comment, class, mask FROM information_schema.columns \
                    WHERE table_name = 'records' ORDER BY ordinal_position";
    insta::assert_snapshot!("comments_for_a_reader", reader.shows(comments).await);
    for (sql, is_known) in [
        ("DESCRIBE evidence", false),
        ("SHOW COLUMNS FROM audit.quarantine", false),
        ("SHOW COLUMNS FROM acme.audit.records", true),
        ("DESCRIBE other.records", false),
        ("SELECT count(*) FROM evidence", false),
        ("SELECT count(*) FROM quarantine", false),
        ("SELECT count(*) FROM information_schema.tables", true),
        ("SELECT count(*) FROM information_schema.schemata", true),
        ("SELECT count(*) FROM information_schema.df_settings", false),
        ("SELECT count(*) FROM information_schema.routines", false),
        ("SELECT count(*) FROM information_schema.views", false),
    ] {
        assert_eq!(reader.rows(sql).await.is_ok(), is_known, "{sql}");
    }
    assert!(admin.rows("SELECT count(*) FROM evidence").await.is_ok());
}

#[tokio::test]
async fn parameters_are_bound_before_verification() {
    let caller = Caller::new(ONE, Role::Reader);
    let text = |value: &str| ScalarValue::Utf8(Some(value.to_owned()));
    let described = caller
        .planning()
        .describe("SELECT action, $2 + 1 AS n FROM records WHERE action = $1 LIMIT $3")
        .await
        .expect("described");
    insta::assert_snapshot!(format!("{}\n{}", described.schema, described.parameters));
    for sql in [
        "SELECT record_id FROM records WHERE action = $1 AND leaf_index < $2",
        "SELECT record_id FROM records WHERE action = ? AND leaf_index < ?",
    ] {
        let parameters = vec![text("Login"), ScalarValue::Int64(Some(6))];
        let rows = caller.rows_with(sql, Some(parameters.into())).await;
        let rows: usize = rows.expect(sql).iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(rows, 2, "{sql}");
    }
    let missing = caller.rows("SELECT 1 FROM records WHERE action = $1").await;
    assert!(
        matches!(missing, Err(Error::InvalidQuery { .. })),
        "{missing:?}"
    );
    let foreign = caller
        .rows_with(
            "SELECT count(*) FROM records WHERE tenant_id = $1",
            Some(vec![text("globex")].into()),
        )
        .await;
    assert!(matches!(foreign, Err(Error::Denied(_))), "{foreign:?}");
    let own = caller
        .rows_with(
            "SELECT count(*) FROM records WHERE tenant_id = $1",
            Some(vec![text("acme")].into()),
        )
        .await;
    assert!(own.is_ok(), "{own:?}");
}

#[tokio::test]
async fn the_described_schema_is_the_answers() {
    let caller = Caller::new(ONE, Role::Reader);
    for sql in [
        "SELECT * FROM records",
        "SELECT count(*), max(created_at), min(actor_id) FROM records",
        "SELECT 1 UNION ALL SELECT 2.5",
        "SELECT action, NULL FROM records WHERE false",
        "SELECT upper(action), substr(action, 1, 2), [action], struct(action, 1) FROM records",
        "SHOW TABLES",
        "DESCRIBE records",
        "EXPLAIN SELECT 1",
        "SELECT labels['env'], labels FROM records",
    ] {
        let described = caller.planning().describe(sql).await.expect(sql);
        let planned = caller.plan(sql).await.expect(sql);
        assert_eq!(described.schema, planned.schema, "{sql}");
        // `collect` compares the batches with the schema.
        collect(caller.verified(planned)).await.expect(sql);
    }
}

#[tokio::test]
async fn explain_names_the_rules_and_no_values() {
    let shown = reader(
        "EXPLAIN SELECT action, count(*) FROM records WHERE resource_type = 'User' GROUP BY action",
    )
    .await;
    insta::assert_snapshot!(shown);
}

#[tokio::test]
async fn a_decision_that_has_expired_starts_and_continues_nothing() {
    let caller = Caller::new(ONE, Role::Reader);
    let planned = caller.plan("SELECT 1").await.expect("planned");
    caller.clock.set(at(2_000_000));
    let error = caller.verified(planned).execute().err().expect("expired");
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
}

/// Queries that count, and what they count.
const COUNTS: &[(&str, i64)] = &[
    (
        "SELECT count(*) FROM records a JOIN records b ON a.record_id = b.record_id",
        12,
    ),
    ("SELECT count(*) FROM records a CROSS JOIN records b", 144),
    ("SELECT count(*) FROM records WHERE action = 'Login'", 4),
    (
        "SELECT count(*) FROM records WHERE labels['env'] = 'prod'",
        6,
    ),
    (
        "SELECT count(*) FROM records WHERE created_at > (SELECT min(created_at) FROM records)",
        11,
    ),
    (
        "SELECT count(*) FROM records r WHERE EXISTS (SELECT 1 FROM records s \
             WHERE s.action = r.action AND s.created_at > r.created_at)",
        9,
    ),
    (
        "SELECT count(*) FROM records WHERE action IN (SELECT action FROM records \
             WHERE resource_type = 'User' AND action <> 'Login')",
        8,
    ),
    (
        "SELECT count(*) FROM (SELECT action FROM records UNION SELECT resource_type FROM records) u",
        5,
    ),
    (
        "SELECT count(*) FROM (SELECT actor_id, count(*) AS n FROM records GROUP BY actor_id) g",
        1,
    ),
    (
        "SELECT count(*) FROM (SELECT purpose FROM records GROUP BY purpose) g",
        2,
    ),
    (
        "SELECT count(*) FROM (SELECT action, row_number() OVER (PARTITION BY action \
             ORDER BY created_at DESC) AS n FROM records) w WHERE n = 1",
        3,
    ),
    (
        "SELECT count(*) FROM records LEFT JOIN (VALUES ('Login')) v(a) ON action = v.a \
             WHERE v.a IS NULL",
        8,
    ),
    (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5) \
             SELECT count(*) FROM n JOIN records ON leaf_index = i",
        5,
    ),
    (
        "SELECT count(*) FROM (SELECT unnest(map_keys(labels)) AS k FROM records) k WHERE true",
        48,
    ),
    (
        "SELECT count(*) FILTER (WHERE resource_type = 'User') FROM records",
        6,
    ),
    (
        "SELECT count(*) FROM records a, LATERAL (SELECT b.action FROM records b \
             WHERE b.record_id = a.record_id) l",
        12,
    ),
    (
        "SELECT count(*) FROM (SELECT action FROM records EXCEPT SELECT 'Login') e",
        2,
    ),
];

#[tokio::test]
async fn text_becomes_a_moment_in_the_zone_of_the_session() {
    let caller = Caller::new(ONE, Role::Reader);
    let text = "concat('2026-01-0', leaf_index + 1, 'T01:02:03')";
    for (function, unit) in [
        ("to_timestamp", "ns"),
        ("to_timestamp_seconds", "s"),
        ("to_timestamp_millis", "ms"),
        ("to_timestamp_micros", "µs"),
        ("to_timestamp_nanos", "ns"),
    ] {
        for moment in [
            format!("{function}({text})"),
            format!("{function}({text}, '%Y-%m-%dT%H:%M:%S')"),
            format!("{function}({text} || '+00:00')"),
            format!("{function}('2026-01-02T01:02:03')"),
            format!("{function}(TIMESTAMP '2026-01-02T01:02:03')"),
        ] {
            let sql = format!(
                "SELECT {moment} AS t, arrow_typeof({moment}) AS u, {moment} < created_at + INTERVAL '9' DAY AS b \
                 FROM records WHERE leaf_index = 1 AND {moment} = '2026-01-02T01:02:03Z'"
            );
            let shown = caller.shows(&sql).await;
            let expected = format!("| 2026-01-02T01:02:03Z | Timestamp({unit}, \"UTC\") | true |");
            assert!(shown.contains(&expected), "{sql}: {shown}");
        }
    }
}

#[tokio::test]
async fn columns_that_nobody_asks_for_are_not_read() {
    for (sql, read) in [
        ("SELECT count(*) FROM records", &["tenant_id"][..]),
        (
            "SELECT action, count(*) FROM records GROUP BY action",
            &["tenant_id", "action"],
        ),
        (
            "SELECT action FROM records WHERE resource_type = 'User'",
            &["tenant_id", "resource_type", "action"],
        ),
        ("SELECT actor_id FROM records", &["tenant_id", "actor_id"]),
        (
            "SELECT context FROM records",
            &[
                "tenant_id",
                "context",
                "sealed_fields",
                "user_phone",
                "ticket",
            ],
        ),
        (
            "SELECT labels['env'] FROM records",
            &["tenant_id", "labels", "sealed_fields", "owner"],
        ),
    ] {
        let caller = Caller::new(ONE, Role::Reader);
        caller.plan(sql).await.expect(sql);
        let mut columns = caller.read.lock().expect("a lock").clone();
        columns.sort_unstable();
        let mut wanted = read.to_vec();
        wanted.sort_unstable();
        assert_eq!(columns, wanted, "{sql}");
    }
}

/// What promotes nothing any more, over rows whose values were promoted when they were written.
const DEMOTED: &str = r#"
tenant: "acme"
version: 2
residency: { allowedSilos: ["local"] }
retention: { streams: { audit.default: { ttlDays: 30, graceDays: 1, class: standard } } }
maskingProfiles:
  Reader: { actor_id: REDACT }
"#;

#[tokio::test]
async fn a_column_that_the_policy_no_longer_describes_is_not_shown() {
    let caller = Caller::under(ONE, Role::Reader, DEMOTED);
    let error = caller.rows("SELECT user_phone FROM records").await;
    assert!(
        matches!(error, Err(Error::InvalidQuery { .. })),
        "{error:?}"
    );
    let shown = caller
        .shows("SELECT * FROM records ORDER BY record_id LIMIT 1")
        .await;
    assert!(!shown.contains("canary-phone"), "{shown}");
    assert!(
        shown.contains("canary-email") || shown.contains("canary-sealed"),
        "{shown}"
    );
}

#[tokio::test]
async fn rows_that_are_masked_step_by_step_stay_together() {
    let caller = Caller::new(ONE, Role::Reader).with_rows(1_500);
    let sql = "SELECT leaf_index, context, labels['env'] AS env FROM records ORDER BY leaf_index";
    let mut seen = 0;
    for batch in caller.rows(sql).await.expect("rows") {
        let numbers = batch.column(0).as_primitive::<Int64Type>();
        let contexts = batch.column(1).as_string::<i32>();
        let envs = batch.column(2).as_string::<i32>();
        for row in 0..batch.num_rows() {
            let number = numbers.value(row);
            assert_eq!(number, seen);
            let ticket = format!("\"ticket\":\"T-{number}\"");
            assert!(
                contexts.value(row).contains(&ticket),
                "{}",
                contexts.value(row)
            );
            assert_eq!(
                envs.value(row),
                if number % 2 == 0 { "prod" } else { "test" }
            );
            seen += 1;
        }
    }
    assert_eq!(seen, 1_500);
}

#[tokio::test]
async fn windows_unnests_and_joins_over_many_rows_fit_into_little_memory() {
    let mut caller = Caller::new(ONE, Role::Reader).with_rows(3_000);
    caller.limits.memory_bytes_max = 4 * 1024 * 1024;
    for (sql, rows) in [
        (
            "SELECT row_number() OVER (ORDER BY leaf_index) AS n FROM records",
            3_000,
        ),
        (
            "SELECT action, unnest(map_keys(labels)) AS k FROM records",
            12_000,
        ),
        (
            "SELECT a.action FROM records a JOIN records b ON a.record_id = b.record_id",
            3_000,
        ),
        (
            "SELECT action FROM records, UNNEST([1, 2, 3]) AS u(n)",
            9_000,
        ),
    ] {
        let batches = caller.rows(sql).await.expect(sql);
        let seen: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(seen, rows, "{sql}");
    }
}
