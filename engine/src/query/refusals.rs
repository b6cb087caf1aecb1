//! Tests: what is refused, and in which words.

use catalog::context::Role;

use super::error::Error;
use super::testing::{Caller, ONE};

#[tokio::test]
async fn what_is_masked_cannot_select_rows_but_can_be_sorted_and_grouped() {
    let caller = Caller::new(ONE, Role::Reader);
    for (sql, field) in FILTERED_BY_MASKED {
        let error = caller.rows(sql).await.map(|_| ()).expect_err(sql);
        assert!(
            matches!(&error, Error::UnsupportedFilter { field: named } if named == field),
            "{sql}: {error:?}"
        );
    }
    for sql in [
        "SELECT actor_id, count(*) FROM records GROUP BY actor_id ORDER BY actor_id",
        "SELECT DISTINCT context FROM records",
        "SELECT max(actor_id), min(purpose) FROM records",
        "SELECT actor_id = 'x', actor_id LIKE '%x%' FROM records",
        "SELECT rank() OVER (PARTITION BY actor_id ORDER BY trace_id) FROM records",
        "SELECT CASE WHEN actor_id = 'x' THEN 1 END FROM records",
        "SELECT action FROM records GROUP BY action HAVING count(*) > 1",
        "SELECT array_agg(actor_id ORDER BY purpose) FROM records",
    ] {
        assert!(caller.rows(sql).await.is_ok(), "{sql}");
    }
}

#[tokio::test]
async fn strict_mode_keeps_to_the_short_list() {
    let caller = Caller::strict(ONE, Role::Investigator);
    for sql in [
        "SELECT * FROM records WHERE action = 'Login' AND labels['env'] = 'prod' ORDER BY created_at DESC, record_id DESC",
        "SELECT * FROM records WHERE actor_id = 'x' AND tenant_id = 'acme'",
        "SELECT * FROM records WHERE (created_at, record_id) < ('2026-01-01T00:05:00Z', 'x')",
        "SELECT action, count(*) FROM records GROUP BY action",
    ] {
        let outcome = caller.rows(sql).await;
        assert!(outcome.is_ok(), "{sql}: {outcome:?}");
    }
    for sql in [
        "SELECT * FROM records WHERE record_id = 'x'",
        "SELECT * FROM records WHERE trace_id = 'x'",
        "SELECT * FROM records WHERE context LIKE '%x%'",
        "SELECT * FROM records WHERE (created_at, record_id) < (created_at, trace_id)",
        "SELECT * FROM records WHERE (created_at, trace_id) < ('2026-01-01T00:05:00Z', 'x')",
        "SELECT * FROM records WHERE (record_id, created_at) < ('x', '2026-01-01T00:05:00Z')",
        "WITH t AS (SELECT trace_id AS c FROM records) SELECT 1 FROM t WHERE c = 'x'",
        "SELECT 1 FROM records WHERE action IN (SELECT trace_id FROM records)",
        "SELECT 1 FROM records WHERE (SELECT max(trace_id) FROM records) = 'x'",
        "SELECT trace_id FROM records INTERSECT SELECT 'x'",
        "SELECT 'x' EXCEPT SELECT trace_id FROM records",
        "SELECT 1 FROM records a JOIN records b ON a.trace_id = b.action",
        "SELECT 1 FROM (SELECT action AS c FROM records UNION ALL SELECT trace_id FROM records) t WHERE c = 'x'",
        "SELECT count(*) FILTER (WHERE trace_id = 'x') FROM records",
        "SELECT 1 FROM (SELECT max(trace_id) OVER () AS c FROM records) t WHERE c = 'x'",
    ] {
        let error = caller.rows(sql).await.map(|_| ()).expect_err(sql);
        assert!(
            matches!(error, Error::UnsupportedFilter { .. }),
            "{sql}: {error:?}"
        );
    }
    for sql in [
        "SELECT * FROM records ORDER BY action",
        "SELECT row_number() OVER (ORDER BY action) FROM records",
        "SELECT array_agg(action ORDER BY action) FROM records",
        "WITH t AS (SELECT resource_type AS c FROM records) SELECT c FROM t ORDER BY c",
        "SELECT c FROM (SELECT concat(action, 'x') AS c FROM records) t ORDER BY c LIMIT 1",
        "SELECT action FROM records UNION SELECT resource_type FROM records ORDER BY 1",
        "SELECT max(action) AS m, resource_type FROM records GROUP BY resource_type ORDER BY m",
        "SELECT a.created_at FROM records a JOIN records b USING (action) ORDER BY b.trace_id",
        "SELECT (SELECT max(resource_type) FROM records) AS m FROM records ORDER BY m",
    ] {
        let error = caller.rows(sql).await.map(|_| ()).expect_err(sql);
        assert!(
            matches!(error, Error::UnsupportedSort { .. }),
            "{sql}: {error:?}"
        );
    }
}

#[tokio::test]
async fn naming_another_tenant_is_refused_whether_or_not_there_is_one() {
    let caller = Caller::new(ONE, Role::Reader);
    for tenant in ["globex", "nobody"] {
        for sql in NAMING_A_TENANT {
            let sql = sql.replace("{}", tenant);
            let error = caller.rows(&sql).await.expect_err(&sql);
            assert!(matches!(error, Error::Denied(_)), "{sql}: {error:?}");
        }
    }
    for sql in [
        "SELECT 1 FROM globex.records",
        "SELECT 1 FROM audit.globex",
        "SELECT 1 FROM globex",
    ] {
        let error = caller.rows(sql).await.map(|_| ()).expect_err(sql);
        assert!(
            matches!(error, Error::InvalidQuery { .. }),
            "{sql}: {error:?}"
        );
    }
}

#[tokio::test]
async fn errors_are_of_a_kind_the_caller_can_act_on() {
    let caller = Caller::new(ONE, Role::Reader);
    for (sql, kind) in [
        ("SELECT nothing FROM records", "InvalidQuery"),
        ("SELECT salt FROM records", "InvalidQuery"),
        (
            "SELECT payload_hash, ingest_date FROM records",
            "InvalidQuery",
        ),
        (
            "SELECT no_such_function(action) FROM records",
            "InvalidQuery",
        ),
        ("SELECT version()", "InvalidQuery"),
        ("SELECT action FROM", "InvalidQuery"),
        ("SELECT 1 / 0", "InvalidQuery"),
        ("SELECT CAST('x' AS INT)", "InvalidQuery"),
        ("SELECT CAST(action AS INT) FROM records", "InvalidQuery"),
        ("SELECT action + 1 FROM records", "InvalidQuery"),
        ("SELECT @@version", "InvalidQuery"),
        ("SELECT repeat('x', 1000000000)", "LimitExceeded"),
        ("SELECT lpad('x', 1000000000, 'y')", "LimitExceeded"),
    ] {
        let error = caller.rows(sql).await.map(|_| ()).expect_err(sql);
        let text = format!("{error:?}");
        assert!(text.starts_with(kind), "{sql}: {text}");
    }
}

#[tokio::test]
async fn a_query_has_so_much_memory_and_no_disk() {
    let mut caller = Caller::new(ONE, Role::Reader);
    caller.limits.memory_bytes_max = 512 * 1024;
    for sql in [
        "SELECT array_agg(a.context) FROM records a, records b, records c, records d",
        "SELECT a.context FROM records a, records b, records c, records d ORDER BY a.context, b.record_id",
        "SELECT a.context, sum(1) OVER () FROM records a, records b, records c, records d",
        "SELECT a.context, sum(a.leaf_index) OVER (ORDER BY a.tenant_id) FROM records a, records b, records c, records d",
        "SELECT a.record_id, s.x FROM records a CROSS JOIN (SELECT string_agg(b.context, '') AS x FROM records b, records c) s",
        "SELECT context, unnest(string_to_array(repeat(concat(left(action, 0), 'x,'), 20000), ',')) FROM records",
        "SELECT to_char(created_at, repeat('%c', 300000)) FROM records",
        "SELECT a.context, b.record_id, c.record_id, count(*) FROM records a, records b, records c, records d GROUP BY 1, 2, 3",
    ] {
        let error = caller.rows(sql).await.map(|_| ()).expect_err(sql);
        assert!(
            matches!(error, Error::LimitExceeded { .. }),
            "{sql}: {error:?}"
        );
    }
}

#[tokio::test]
async fn what_functions_make_counts_together_and_one_by_one() {
    let mut caller = Caller::new(ONE, Role::Reader);
    let columns = |count: usize| {
        let copies = (0..count).map(|n| format!("reverse(repeat(context, {})) AS c{n}", 300 + n));
        format!(
            "SELECT {} FROM records",
            copies.collect::<Vec<_>>().join(", ")
        )
    };
    assert!(caller.rows(&columns(40)).await.is_ok());
    caller.limits.memory_bytes_max = 4 * 1024 * 1024;
    assert!(caller.rows(&columns(4)).await.is_ok());
    let error = caller.rows(&columns(40)).await.map(|_| ());
    let error = error.expect_err("too much together");
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error:?}");
    // What is made of constants is made while the statement is planned, where nothing is charged.
    let error = caller.rows("SELECT repeat('x', 20000)").await.map(|_| ());
    let error = error.expect_err("a large constant");
    assert!(matches!(error, Error::LimitExceeded { .. }), "{error:?}");
}

#[tokio::test]
async fn regular_expressions_are_small_constants() {
    let caller = Caller::new(ONE, Role::Reader);
    for sql in [
        "SELECT regexp_like(action, concat('Log', 'in')), action ~ 'L.*' FROM records",
        "SELECT action FROM records WHERE regexp_count(action, '[a-z]{1,5}') > 1",
        "SELECT regexp_replace(action, 'l', 'x', 'gi'), regexp_like(action, 'l', NULL) FROM records",
        "SELECT action SIMILAR TO 'L%', regexp_replace(action, NULL, 'x') FROM records",
    ] {
        let outcome = caller.rows(sql).await;
        assert!(outcome.is_ok(), "{sql}: {outcome:?}");
    }
    let many = (0..65).map(|n| format!("action ~ 'a{n}'"));
    let many = format!(
        "SELECT {} FROM records",
        many.collect::<Vec<_>>().join(", ")
    );
    for (sql, kind) in [
        (
            "SELECT regexp_like(action, concat(record_id, 'x')) FROM records",
            "StatementNotAllowed",
        ),
        (
            "SELECT a.action ~ b.record_id FROM records a, records b",
            "StatementNotAllowed",
        ),
        (
            "SELECT regexp_replace(action, '((a{50}){50}){50}', '') FROM records",
            "LimitExceeded",
        ),
        (
            "SELECT action SIMILAR TO '((a{50}){50}){50}' FROM records",
            "LimitExceeded",
        ),
        (many.as_str(), "LimitExceeded"),
    ] {
        let error = caller.rows(sql).await.map(|_| ()).expect_err(sql);
        let text = format!("{error:?}");
        assert!(text.starts_with(kind), "{sql}: {text}");
    }
}

#[tokio::test]
async fn a_regular_expression_is_as_large_as_the_library_finds_it() {
    let caller = Caller::new(ONE, Role::Reader);
    // Few states by our count.
    for large in [
        r"count(*) FROM records WHERE action ~ '\pL{1,900}\w{600}'",
        r"action !~* '\pL{900}' FROM records",
        r"'x' ~ concat('\pL{1,900}', '\w{600}')",
        r"regexp_like(action, '\pL{900}', 'i') FROM records",
        r"regexp_replace(action, '\pL{900}', 'x', 'g') FROM records",
        r"regexp_match(action, '\pL{900}') FROM records",
        r"regexp_count(action, '\pL{900}') FROM records",
        r"regexp_instr(action, '\pL{900}') FROM records",
        r"regexp_like(action, concat('\pL{1,900}', '\w{600}')) FROM records",
    ] {
        let error = caller.rows(&format!("SELECT {large}")).await.map(|_| ());
        assert!(
            matches!(error, Err(Error::LimitExceeded { .. })),
            "{large}: {error:?}"
        );
    }
    for wrong in [
        "regexp_like(action, 'x', ':((a{50}){50}){50}') FROM records",
        "action ~ '(' FROM records",
        "action SIMILAR TO '(' FROM records",
    ] {
        let error = caller.rows(&format!("SELECT {wrong}")).await.map(|_| ());
        assert!(
            matches!(error, Err(Error::InvalidQuery { .. })),
            "{wrong}: {error:?}"
        );
    }
    let flags = "SELECT regexp_like(action, 'x', concat(':', record_id)) FROM records";
    let error = caller.rows(flags).await.map(|_| ());
    assert!(
        matches!(error, Err(Error::StatementNotAllowed { .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_recursion_ends_by_itself_or_after_so_many_rounds() {
    let mut caller = Caller::new(ONE, Role::Reader);
    caller.limits.recursion_rounds_max = 100;
    let upto = |rounds: usize| {
        format!(
            "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < {rounds}) \
             SELECT count(*) FROM t"
        )
    };
    // A round that adds nothing is the last one.
    let shown = caller.shows(&upto(100)).await;
    assert!(shown.contains("| 100"), "{shown}");
    for sql in [
        &upto(101),
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION SELECT n + 1 FROM t) SELECT * FROM t",
        "WITH RECURSIVE t AS (SELECT 0 AS n UNION ALL SELECT n FROM t) SELECT n FROM t WHERE n > 0",
        "WITH RECURSIVE t AS (SELECT action AS n FROM records UNION ALL SELECT n FROM t) \
         SELECT n, count(*) FROM t GROUP BY n",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 60), \
         s AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM s WHERE n < 60) \
         SELECT count(*) FROM t, s",
    ] {
        let error = caller.rows(sql).await.map(|_| ()).expect_err(sql);
        assert!(
            matches!(error, Error::LimitExceeded { .. }),
            "{sql}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_product_of_tables_ends_at_the_deadline() {
    let mut caller = Caller::new(ONE, Role::Reader);
    caller.limits.deadline = std::time::Duration::from_millis(500);
    for sql in [
        "SELECT count(*) FROM records a, records b, records c, records d, records e, records f, records g, records h",
        "SELECT count(*) FROM records a JOIN records b ON a.action < b.action || 'z' JOIN records c ON a.action < c.action || 'z' \
         JOIN records d ON a.action < d.action || 'z' JOIN records e ON a.action < e.action || 'z' JOIN records f ON a.action < f.action || 'z' \
         JOIN records g ON a.action < g.action || 'z'",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    ] {
        let started = std::time::Instant::now();
        let error = caller.rows(sql).await.map(|_| ()).expect_err(sql);
        assert!(matches!(error, Error::Deadline), "{sql}: {error:?}");
        assert!(started.elapsed().as_secs() < 10, "{sql}");
    }
}

#[tokio::test]
async fn text_that_doubles_and_types_that_nest_meet_a_bound() {
    let caller = Caller::new(ONE, Role::Reader);
    let chain = |start: &str, step: &str| {
        let mut sql = format!("WITH t0 AS (SELECT {start} AS x FROM records)");
        for level in 1..30 {
            let before = level - 1;
            sql.push_str(&format!(
                ", t{level} AS (SELECT {step} AS x FROM t{before})"
            ));
        }
        format!("{sql} SELECT count(x) FROM t29")
    };
    for (start, step) in [
        ("action", "x || x || x"),
        ("action", "concat(x, x, x)"),
        ("action", "encode(encode(x, 'hex'), 'hex')"),
        (
            "action",
            "array_to_string(regexp_match(x, '(((((.*)))))'), '')",
        ),
        ("action", "replace(x, substr(x, 1, 1), x || x)"),
        ("action", "regexp_replace(x, '.', x, 'g')"),
        ("[action]", "array_concat(x, x, x)"),
        ("[action]", "x || x"),
        ("action", "struct(x, x)"),
        ("action", "{'a': x, 'b': x}"),
        ("action", "[x, x, x]"),
        ("action", "concat_ws(x, x, x)"),
        (
            "[action]",
            "make_array(array_to_string(x, array_to_string(x, 'yy')), action)",
        ),
    ] {
        let error = caller.rows(&chain(start, step)).await.expect_err(step);
        assert!(
            matches!(
                error,
                Error::LimitExceeded { .. } | Error::InvalidQuery { .. }
            ),
            "{step}: {error:?}"
        );
    }
}

/// Queries that select rows by a masked field, and the field that is named.
const FILTERED_BY_MASKED: &[(&str, &str)] = &[
    ("SELECT 1 FROM records WHERE actor_id = 'x'", "actor_id"),
    (
        "SELECT 1 FROM records WHERE 'x' < resource_id",
        "resource_id",
    ),
    (
        "SELECT 1 FROM records WHERE upper(purpose) LIKE 'X%'",
        "purpose",
    ),
    ("SELECT 1 FROM records WHERE context LIKE '%x%'", "context"),
    (
        "SELECT 1 FROM records WHERE labels['team'] = 'x'",
        "labels.team",
    ),
    (
        "SELECT 1 FROM records WHERE labels['email'] = 'x'",
        "labels.email",
    ),
    (
        "SELECT 1 FROM records WHERE labels['Email'] = 'x'",
        "labels.Email",
    ),
    (
        "SELECT 1 FROM records WHERE map_values(labels)[1] = 'x'",
        "labels",
    ),
    ("SELECT 1 FROM records WHERE labels[action] = 'x'", "labels"),
    (
        "SELECT 1 FROM records WHERE user_phone IS NULL",
        "user_phone",
    ),
    (
        "SELECT action FROM records GROUP BY action HAVING max(actor_id) > 'x'",
        "actor_id",
    ),
    (
        "SELECT 1 FROM records a JOIN records b ON a.actor_id = b.actor_id",
        "actor_id",
    ),
    (
        "SELECT 1 FROM records a JOIN records b USING (trace_id)",
        "trace_id",
    ),
    (
        "SELECT count(*) FILTER (WHERE actor_id = 'x') FROM records",
        "actor_id",
    ),
    ("SELECT actor_id IN (SELECT 'x') FROM records", "actor_id"),
    (
        "SELECT 1 WHERE 'x' IN (SELECT actor_id FROM records)",
        "actor_id",
    ),
    (
        "SELECT actor_id FROM records INTERSECT SELECT 'x'",
        "actor_id",
    ),
    (
        "SELECT 1 FROM (SELECT actor_id AS a FROM records) x WHERE a = 'x'",
        "actor_id",
    ),
    (
        "WITH t AS (SELECT concat(actor_id, action) AS c FROM records) SELECT 1 FROM t WHERE c = 'x'",
        "actor_id",
    ),
    (
        "SELECT 1 FROM (SELECT max(actor_id) OVER () AS m FROM records) x WHERE m = 'x'",
        "actor_id",
    ),
    (
        "SELECT 1 FROM (SELECT action a FROM records UNION ALL SELECT actor_id FROM records) x WHERE a = 'x'",
        "actor_id",
    ),
    (
        "SELECT 1 FROM records WHERE action = (SELECT max(actor_id) FROM records)",
        "actor_id",
    ),
    (
        "SELECT 1 FROM records a WHERE EXISTS (SELECT 1 FROM records b WHERE b.action = a.actor_id)",
        "actor_id",
    ),
    (
        "WITH RECURSIVE t(x) AS (SELECT action FROM records UNION ALL SELECT actor_id FROM records, t WHERE x = 'y') SELECT 1 FROM t WHERE x = 'z'",
        "actor_id",
    ),
    (
        "SELECT 1 FROM (SELECT unnest([actor_id]) AS u FROM records) x WHERE u = 'x'",
        "actor_id",
    ),
    (
        "SELECT 1 FROM records QUALIFY max(actor_id) OVER () = 'x'",
        "actor_id",
    ),
    (
        "SELECT 1 FROM records a NATURAL JOIN records b",
        "resource_id",
    ),
];

/// Queries that name a tenant, for `{}`.
const NAMING_A_TENANT: &[&str] = &[
    "SELECT 1 FROM records WHERE tenant_id = '{}'",
    "SELECT 1 FROM records WHERE '{}' = tenant_id",
    "SELECT 1 FROM records WHERE tenant_id <> '{}'",
    "SELECT 1 FROM records WHERE tenant_id IN ('acme', '{}')",
    "SELECT 1 FROM records WHERE tenant_id NOT IN ('{}')",
    "SELECT 1 FROM records WHERE tenant_id LIKE '{}%'",
    "SELECT 1 FROM records WHERE tenant_id ILIKE '{}'",
    "SELECT 1 FROM records WHERE tenant_id ~ '{}'",
    "SELECT 1 FROM records WHERE tenant_id IS NOT DISTINCT FROM '{}'",
    "SELECT 1 FROM records WHERE CAST(tenant_id AS VARCHAR) = '{}'",
    "SELECT tenant_id = '{}' FROM records",
    "SELECT 1 FROM (SELECT tenant_id AS t FROM records) x WHERE t = '{}'",
    "SELECT 1 FROM records GROUP BY tenant_id HAVING tenant_id = '{}'",
    "SELECT 1 FROM records a JOIN records b ON a.tenant_id = '{}'",
    "SELECT count(*) FILTER (WHERE tenant_id = '{}') FROM records",
    "SELECT CASE WHEN tenant_id = '{}' THEN 1 END FROM records",
    "SELECT 1 FROM records ORDER BY tenant_id = '{}'",
    "SELECT 1 FROM records a WHERE EXISTS (SELECT 1 FROM records WHERE a.tenant_id = '{}')",
    "SELECT 1 FROM records WHERE tenant_id = 'acme' OR tenant_id = '{}'",
    "SELECT 1 FROM \"{}\".audit.records",
    "SELECT 1 FROM {}.information_schema.tables",
    "SELECT 1 FROM records WHERE action IN (SELECT action FROM {}.audit.records)",
    "WITH t AS (SELECT * FROM {}.audit.records) SELECT 1",
    "SELECT {}.audit.records.action FROM records",
    "DESCRIBE {}.audit.records",
    "SHOW COLUMNS FROM {}.audit.nothing",
    "EXPLAIN SELECT 1 FROM {}.audit.records",
];
