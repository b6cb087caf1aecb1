//! Acknowledged means stored, once: under concurrency, across restarts, and with two processes on the same folder.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use futures::future::join_all;
use serde_json::{Value, json};
use tests::{World, record};

const CLIENTS: usize = 12;
const RECORDS: usize = 15;

async fn send(world: &World, key: &str) -> (u16, Value) {
    let token = world.token("acme", &[], &["audit.write"]);
    let body = record("acme", key, json!({ "context": { "key": key } })).to_string();
    world.post("eu", &token, "/v1/audit/records", body).await
}

/// Record ids and leaf indexes, as a caller without a row policy sees them.
async fn stored(world: &World) -> (BTreeSet<String>, BTreeSet<i64>, usize) {
    let sql = "SELECT record_id, leaf_index FROM audit.records";
    let rows = world
        .query("acme", "eu", "Audit.Investigator", sql)
        .await
        .expect("an answer");
    let (mut ids, mut leaves, mut count) = (BTreeSet::new(), BTreeSet::new(), 0);
    for batch in rows {
        count += batch.num_rows();
        ids.extend(
            batch
                .column(0)
                .as_string::<i32>()
                .iter()
                .flatten()
                .map(str::to_owned),
        );
        leaves.extend(batch.column(1).as_primitive::<Int64Type>().iter().flatten());
    }
    (ids, leaves, count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_clients_get_receipts_of_records_that_are_there_once() {
    let world = Arc::new(World::start().await);
    world.tenant("acme", "eu").await;
    let clients = (0..CLIENTS).map(|client| {
        let world = Arc::clone(&world);
        async move {
            let mut ids = Vec::new();
            for n in 0..RECORDS {
                // Every key is sent by two clients at about the same time.
                let (status, answer) = send(&world, &format!("{}-{n}", client / 2)).await;
                assert_eq!(status, 200, "{answer}");
                ids.push(answer["recordId"].as_str().expect("a record id").to_owned());
            }
            ids
        }
    });
    let receipts: BTreeSet<String> = join_all(clients).await.into_iter().flatten().collect();
    let (ids, leaves, count) = stored(&world).await;
    assert_eq!(count, CLIENTS / 2 * RECORDS);
    assert_eq!(ids, receipts);
    assert_eq!(leaves, (0..).take(count).collect(), "the log has a hole");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_keeps_receipts_and_goes_on_numbering() {
    let world = World::start().await;
    world.tenant("acme", "eu").await;
    let (_, first) = send(&world, "one").await;
    let world = World::start_in(world.stop().await).await;
    let (status, again) = send(&world, "one").await;
    assert_eq!((status, &again["recordId"]), (200, &first["recordId"]));
    assert_eq!(again["duplicate"], true);
    let (_, second) = send(&world, "two").await;
    assert_eq!(second["leafIndex"], 1);
    assert_eq!(stored(&world).await.2, 2);
}

/// A tenant's records are numbered by one node at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_takes_over_what_the_first_has_let_go() {
    let world = World::start().await;
    world.tenant("acme", "eu").await;
    let twin = world.twin("two").await;
    let (status, first) = send(&world, "one").await;
    assert_eq!(status, 200, "{first}");
    let (status, refused) = send(&twin, "two").await;
    assert_eq!(status, 503, "{refused}");
    assert_eq!(
        refused["type"],
        "https://trailhouse.dev/problems/unavailable"
    );
    // A restart of the first does not let go of what it promised, only its end does.
    let folder = world.stop().await;
    let status = loop {
        let (status, answer) = send(&twin, "two").await;
        if status != 503 {
            assert_eq!(answer["leafIndex"], 1, "{answer}");
            break status;
        }
    };
    assert_eq!(status, 200);
    let (_, again) = send(&twin, "one").await;
    assert_eq!(again["recordId"], first["recordId"]);
    assert_eq!(again["duplicate"], true);
    let (ids, leaves, count) = stored(&twin).await;
    assert_eq!((ids.len(), count), (2, 2));
    assert_eq!(leaves, (0..2).collect());
    twin.leave().await;
    drop(folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_decision_leaves_evidence() {
    let world = World::start().await;
    world.tenant("acme", "eu").await;
    send(&world, "one").await;
    world
        .query(
            "acme",
            "eu",
            "Audit.Reader",
            "SELECT action FROM audit.records WHERE action = 'x'",
        )
        .await
        .expect("rows");
    world
        .query(
            "acme",
            "eu",
            "Audit.Reader",
            "SELECT * FROM globex.audit.records",
        )
        .await
        .expect_err("refused");
    let sql = "SELECT operation, decision, problem, statement FROM audit.evidence";
    let expected = [
        "Write",
        "Allow",
        "Read",
        "Deny",
        "cross-tenant-query",
        "SELECT action FROM audit.records",
    ];
    // A denial does not wait for its evidence.
    let ends = Instant::now() + Duration::from_secs(20);
    let shown = loop {
        let rows = world.query("acme", "eu", "Audit.Admin", sql).await;
        let shown = tests::text(&rows.expect("evidence"));
        let missing = expected.iter().find(|expected| !shown.contains(**expected));
        match missing {
            None => break shown,
            Some(missing) => assert!(Instant::now() < ends, "{missing}: {shown}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(
        !shown.contains("'x'"),
        "a literal is in the evidence: {shown}"
    );
}
