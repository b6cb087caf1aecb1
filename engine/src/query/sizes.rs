//! Tests: deep and wide statements become an answer or a refusal, never the end of the process.

use std::sync::Arc;

use catalog::context::Role;

use super::error::Error;
use super::testing::{Caller, ONE};

/// Runs each on workers with the stack that the server's have.
async fn survives(statements: Vec<String>) {
    let caller = Arc::new(Caller::new(ONE, Role::Reader));
    for sql in statements {
        let caller = Arc::clone(&caller);
        let head: String = sql.chars().take(60).collect();
        let outcome = tokio::spawn(async move { caller.rows(&sql).await.map(|_| ()) }).await;
        let outcome = outcome.expect("no panic");
        assert!(
            !matches!(outcome, Err(Error::Internal)),
            "{head}: {outcome:?}"
        );
    }
}

fn list(count: usize, part: &str, by: &str) -> String {
    vec![part; count].join(by)
}

fn numbered(count: usize, part: &str, by: &str) -> String {
    let parts = (0..count).map(|number| part.replace("{}", &number.to_string()));
    parts.collect::<Vec<_>>().join(by)
}

/// Table expressions, each over the one before.
fn chain(step: &str, levels: usize) -> String {
    let steps = (1..levels).map(|level| {
        let step = step.replace("{}", &format!("t{}", level - 1));
        format!(", t{level} AS ({step})")
    });
    format!(
        "WITH t0 AS (SELECT action AS x FROM records){} SELECT count(*) FROM t{}",
        steps.collect::<String>(),
        levels - 1
    )
}

fn selecting(expression: &str) -> String {
    format!("SELECT {expression} FROM records")
}

fn counting(rest: &str) -> String {
    format!("SELECT count(*) FROM records {rest}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_expressions() {
    survives(vec![
        counting(&format!("WHERE {}", numbered(190, "action = '{}'", " OR "))),
        counting(&format!(
            "WHERE {}",
            numbered(190, "action <> '{}'", " AND ")
        )),
        selecting(&format!("leaf_index + {}", list(190, "1", " + "))),
        selecting(&format!("action || {}", list(190, "'x'", " || "))),
        selecting(&list(190, "-1", " - ")),
        selecting(&format!("{}1{}", "abs(".repeat(45), ")".repeat(45))),
        selecting(&format!(
            "{}action{}",
            "CASE WHEN true THEN ".repeat(40),
            " END".repeat(40)
        )),
        selecting(&format!("{}1", "NOT ".repeat(190))),
        selecting(&format!("1 {}", "::BIGINT".repeat(190))),
        selecting(&format!("labels{}", "['x']".repeat(190))),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_plans() {
    let nested = (0..12).fold("records".to_owned(), |nested, level| {
        format!("(SELECT * FROM {nested} x{level})")
    });
    survives(vec![
        list(49, "SELECT action FROM records", " UNION ALL "),
        list(49, "SELECT action FROM records", " UNION "),
        counting(&numbered(
            49,
            "JOIN records j{} ON records.action = j{}.ticket",
            " ",
        )),
        format!("SELECT 1 FROM {nested} x"),
        chain("SELECT x FROM {} WHERE x <> 'x'", 45),
        chain("SELECT x FROM {} WHERE x <> 'x'", 200),
        chain("SELECT DISTINCT x FROM {}", 45),
        chain("SELECT unnest([x]) AS x FROM {}", 45),
        chain("SELECT max(x) OVER (PARTITION BY x) AS x FROM {}", 45),
        chain("SELECT x FROM {} ORDER BY x LIMIT 20", 45),
        chain("SELECT x FROM {} LIMIT 20", 70),
        chain(
            "SELECT x FROM {} WHERE x IN (SELECT action FROM records)",
            24,
        ),
        chain("SELECT x FROM {} UNION ALL SELECT action FROM records", 30),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wide_statements() {
    let columns = "action, actor_id, resource_id, trace_id, purpose, context, user_phone, owner, ticket, record_id, \
                   leaf_index, created_at, resource_type, actor_type, stream";
    survives(vec![
        counting(&format!(
            "WHERE action IN ({})",
            numbered(6_000, "'{}'", ", ")
        )),
        selecting(&numbered(2_000, "action AS a{}", ", ")),
        format!("VALUES {}", list(5_000, "(1, 'x')", ", ")),
        counting(&format!("GROUP BY CUBE ({columns})")),
        counting("GROUP BY CUBE (action, ticket, stream), CUBE (owner, trace_id, purpose)"),
        counting(&format!("GROUP BY ROLLUP ({columns})")),
        counting(&format!(
            "GROUP BY GROUPING SETS ({})",
            list(500, "(action)", ", ")
        )),
        selecting(&numbered(
            300,
            "sum(leaf_index) OVER (PARTITION BY action, {}) AS s{}",
            ", ",
        )),
        selecting(&numbered(
            48,
            "(SELECT max(action) FROM records) AS s{}",
            ", ",
        )),
    ])
    .await;
}
