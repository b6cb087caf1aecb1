//! One query cannot take the server down: others are answered beside it, and what it held comes back.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::sql::client::FlightSqlServiceClient;
use engine::query::Usage;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use serde_json::json;
use tests::{World, record, text};
use tonic::transport::Channel;

const ROLE: &str = "Audit.Investigator";
const RECORDS: usize = 250;
/// Rows of two of the table beside each other, and what is in each.
const PRODUCT: &str = "records a, records b";

/// Memory for eight small queries, four of a tenant at once, and two threads.
const SMALL: &str = "[queries]\nmemory_bytes = 134217728\nquery_memory_bytes = 16777216\n\
     tenant_memory_bytes = 33554432\nat_once = 8\ntenant_at_once = 4\nwait_ms = 100\nthreads = 2\n";

async fn world(settings: &'static str) -> Arc<World> {
    let world = World::start_with(settings).await;
    for tenant in ["hog", "quiet"] {
        world.tenant(tenant, "eu").await;
        let records: Vec<_> = (0..RECORDS)
            .map(|n| {
                let context = json!({ "attempt": n, "text": "canary ".repeat(20) });
                record(tenant, &n.to_string(), json!({ "context": context }))
            })
            .collect();
        world.ingest(tenant, "eu", &records).await;
    }
    Arc::new(world)
}

/// Waits until queries use what they should.
async fn until(world: &World, what: impl Fn(Usage) -> bool) {
    while !what(world.service.queries.usage()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn idle(usage: Usage) -> bool {
    (usage.queries, usage.memory_bytes, usage.spill_bytes) == (0, 0, 0)
}

async fn client(world: &World, tenant: &str) -> FlightSqlServiceClient<Channel> {
    world.client("eu", &world.token(tenant, &[ROLE], &[])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_hungry_queries_leave_a_small_one_of_another_tenant_alone() {
    let world = world(SMALL).await;
    let hungry = [
        format!(
            "SELECT a.context, b.record_id, b.context, count(*) FROM {PRODUCT} GROUP BY 1, 2, 3"
        ),
        format!("SELECT a.context, b.context, b.record_id FROM {PRODUCT} ORDER BY 1, 3"),
        format!("SELECT array_agg(concat(a.context, b.context)) FROM {PRODUCT}"),
        "SELECT repeat(context, 300), repeat(action, 3000) FROM records".to_owned(),
    ];
    let hogs = (0..64).map(|n| {
        let (world, sql) = (Arc::clone(&world), hungry[n % hungry.len()].clone());
        tokio::spawn(async move { world.query("hog", "eu", ROLE, &sql).await.map(|_| ()) })
    });
    let hogs: Vec<_> = hogs.collect();
    until(&world, |usage| {
        usage.queries >= 4 && usage.memory_bytes > 8 << 20
    })
    .await;
    for _ in 0..10 {
        let small = "SELECT action, count(*) AS n FROM records GROUP BY action ORDER BY n";
        let rows = world.query("quiet", "eu", ROLE, small).await;
        let shown = text(&rows.expect("the other tenant's"));
        assert!(shown.contains(&RECORDS.to_string()), "{shown}");
    }
    let mut kinds = [0; 3];
    for outcome in join_all(hogs).await {
        match outcome.expect("a client") {
            Ok(()) => kinds[0] += 1,
            Err(error) if error.contains("query-limit-exceeded") => kinds[1] += 1,
            Err(error) if error.contains("rate-limited") => kinds[2] += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(kinds.iter().sum::<i32>(), 64);
    assert!(kinds[1] > 0 && kinds[2] > 0, "{kinds:?}");
    until(&world, idle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_for_number_says_when_to_come_back_and_nothing_of_others() {
    let world = world(SMALL).await;
    let endless = format!(
        "SELECT sum(a.leaf_index + e.leaf_index) FROM {PRODUCT}, records c, records d, records e"
    );
    let burning = (0..4).map(|_| {
        let (world, sql) = (Arc::clone(&world), endless.clone());
        // One that is refused tries again, so that there are four some time.
        tokio::spawn(async move { while world.query("hog", "eu", ROLE, &sql).await.is_err() {} })
    });
    let burning: Vec<_> = burning.collect();
    let error = loop {
        if let Err(error) = world.query("hog", "eu", ROLE, "SELECT 1").await {
            break error;
        }
    };
    for part in ["rate-limited", "too many queries of this tenant", "queries"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("quiet"), "{error}");
    world.service.record_refusals(true).await;
    burning.iter().for_each(|task| task.abort());
    until(&world, idle).await;
    let answer = world.query("hog", "eu", ROLE, "SELECT 1").await;
    answer.expect("a slot again");
    let sql =
        "SELECT basis FROM audit.evidence WHERE problem = 'rate-limited' AND decision = 'Deny'";
    let evidence = world.query("hog", "eu", "Security.Admin", sql).await;
    let evidence = text(&evidence.expect("evidence"));
    assert!(evidence.contains("Limited."), "{evidence}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_writes_are_answered_while_queries_burn_the_processor() {
    let world = world(SMALL).await;
    // Each batch keeps a thread for long: nothing in it gives the thread back.
    let burner = format!(
        "SELECT sum(length(regexp_replace(concat(a.context, b.context, c.context), '(c|a|n|.)+y', 'x', 'g'))) \
         FROM {PRODUCT}, records c"
    );
    let burning: Vec<_> = (0..4)
        .map(|_| {
            let (world, sql) = (Arc::clone(&world), burner.clone());
            tokio::spawn(async move { world.query("hog", "eu", ROLE, &sql).await.map(|_| ()) })
        })
        .collect();
    until(&world, |usage| usage.queries == 4).await;
    for n in 0..5 {
        let (status, ready) = world.ready("eu").await;
        assert_eq!(status, 200, "{ready}");
        let token = world.token("quiet", &[], &["audit.write"]);
        let body = record("quiet", &format!("beside-{n}"), json!({})).to_string();
        let (status, answer) = world.post("eu", &token, "/v1/audit/records", body).await;
        assert_eq!(status, 200, "{answer}");
    }
    // They are still at it: nobody waited for them.
    assert_eq!(world.service.queries.usage().queries, 4);
    burning.iter().for_each(|task| task.abort());
    until(&world, idle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_runs_out_of_time_ends() {
    let world = world("[queries]\ntime_s = 1\n").await;
    let endless = format!(
        "SELECT sum(a.leaf_index + e.leaf_index) FROM {PRODUCT}, records c, records d, records e"
    );
    let error = world.query("hog", "eu", ROLE, &endless).await.map(|_| ());
    let error = error.expect_err("it ends");
    assert!(error.contains("deadline-exceeded"), "{error}");
    until(&world, idle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_gives_everything_back() {
    let world = world(SMALL).await;
    let sql = format!("SELECT a.context, b.context, b.record_id FROM {PRODUCT} ORDER BY 1, 3");
    let mut client = client(&world, "hog").await;
    let info = client.execute(sql, None).await.expect("planned");
    let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
    let mut stream = client.do_get(ticket).await.expect("a stream");
    assert!(stream.next().await.expect("a batch").is_ok());
    let usage = world.service.queries.usage();
    assert_eq!(usage.queries, 1);
    assert!(usage.memory_bytes > 0 && usage.spill_bytes > 0, "{usage:?}");
    // Nothing of it lies on the disk in clear, and under no name.
    assert!(tests::files(&world.folder().join("spill")).is_empty());
    drop(stream);
    drop(client);
    until(&world, idle).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_are_not_read_hold_slots_and_little_else() {
    let world = world(SMALL).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut client = client(&world, "hog").await;
        let sql = format!("SELECT a.context, b.context FROM {PRODUCT}");
        let info = client.execute(sql, None).await.expect("planned");
        let ticket = info.endpoint[0].ticket.clone().expect("a ticket");
        let mut stream = client.do_get(ticket).await.expect("a stream");
        assert!(stream.next().await.expect("a batch").is_ok());
        held.push(stream);
    }
    let answer = world.query("quiet", "eu", ROLE, "SELECT 1").await;
    answer.expect("the other tenant's");
    let stream = held.remove(0);
    let rows: Vec<_> = stream.try_collect().await.expect("the rest");
    assert!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>() > 0);
    let answer = world.query("hog", "eu", ROLE, "SELECT 1").await;
    answer.expect("a slot again");
}
