//! A flood is its sender's problem: the tenant that sends it is told to wait, and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow_flight::sql::{CommandStatementIngest, TableDefinitionOptions, TableExistsOption};
use futures::future::join_all;
use futures::stream;
use serde_json::{Value, json};
use tests::{World, record};

const RECORDS: &str = "/v1/audit/records";
/// The noisy tenant may write three times, and then hardly ever; look three times, too.
const SETTINGS: &str =
    "[limits.tenants.noisy]\nwrite_requests_per_s = 1\nquery_requests_per_s = 1\nburst = 3\n";

async fn post(world: &World, tenant: &str, key: &str) -> reqwest::Response {
    let token = world.token(tenant, &[], &["audit.write"]);
    reqwest::Client::new()
        .post(world.http("eu") + RECORDS)
        .header("content-type", "application/json")
        .bearer_auth(token)
        .body(record(tenant, key, json!({})).to_string())
        .send()
        .await
        .expect("an answer")
}

fn number(response: &reqwest::Response, header: &str) -> u64 {
    let value = response.headers().get(header).map(|value| value.to_str());
    let text = value.expect(header).expect("text");
    text.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_refused_while_everyone_else_is_served() {
    let world = Arc::new(World::start_with(SETTINGS).await);
    world.tenant("noisy", "eu").await;
    world.tenant("quiet", "eu").await;
    let over = Arc::new(AtomicBool::new(false));
    let flood = tokio::spawn({
        let (world, over) = (Arc::clone(&world), Arc::clone(&over));
        async move {
            let (mut served, mut refused) = (0, 0);
            for n in 0.. {
                match post(&world, "noisy", &format!("n{n}"))
                    .await
                    .status()
                    .as_u16()
                {
                    200 => served += 1,
                    429 => refused += 1,
                    other => panic!("{other}"),
                }
                if over.load(Ordering::SeqCst) && refused >= 20 {
                    break;
                }
            }
            (served, refused)
        }
    });
    for n in 0..10 {
        let answer = post(&world, "quiet", &format!("q{n}")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(number(&answer, "ratelimit-limit"), 4_000);
    }
    over.store(true, Ordering::SeqCst);
    let (served, refused) = flood.await.expect("the flood");
    assert!(served >= 3, "{served}");
    world.service.record_refusals(true).await;
    let sql = "SELECT basis FROM audit.evidence WHERE problem = 'rate-limited'";
    let rows = world.query("noisy", "eu", "Security.Admin", sql).await;
    let rows = rows.expect("evidence");
    let basis: Vec<String> = rows
        .iter()
        .flat_map(|batch| batch.column(0).as_string::<i32>().iter().flatten())
        .map(str::to_owned)
        .collect();
    // One entry for all of them, as long as they fit one window.
    let counted: u64 = basis.iter().map(|basis| limited(basis)).sum();
    assert_eq!(counted, refused, "{basis:?}");
    assert!(basis.len() < 5, "{basis:?}");
}

fn limited(basis: &str) -> u64 {
    let count = basis
        .split(',')
        .find_map(|rule| rule.strip_prefix("Limited."));
    count.expect("a count").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_says_how_much_is_left_and_when_to_come_back() {
    let world = World::start_with(SETTINGS).await;
    world.tenant("noisy", "eu").await;
    for left in [2, 1, 0] {
        // The clock runs meanwhile: there may be one more than that.
        let answer = post(&world, "noisy", &format!("k{left}")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(number(&answer, "ratelimit-limit"), 3);
        assert!(number(&answer, "ratelimit-remaining") >= left);
        assert!((1..=3).contains(&number(&answer, "ratelimit-reset")));
    }
    let mut answer = post(&world, "noisy", "more").await;
    while answer.status() == 200 {
        answer = post(&world, "noisy", "more").await;
    }
    assert_eq!(answer.status(), 429);
    assert_eq!(number(&answer, "ratelimit-remaining"), 0);
    assert_eq!(number(&answer, "retry-after"), 1);
    let problem: Value = answer.json().await.expect("a problem");
    assert_eq!(
        problem["type"],
        "https://trailhouse.dev/problems/rate-limited"
    );
    assert_eq!(problem["limited"], "requests");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_over_flight_are_limited_too() {
    let world = World::start_with(SETTINGS).await;
    world.tenant("noisy", "eu").await;
    world.tenant("quiet", "eu").await;
    let role = "Audit.Investigator";
    let queries = (0..8).map(|_| world.query("noisy", "eu", role, "SELECT 1"));
    let answers = join_all(queries).await;
    let refused = answers.into_iter().find_map(Result::err);
    let refused = refused.expect("sixteen calls at once are too many");
    assert!(refused.contains("rate-limited"), "{refused}");
    let answer = world.query("quiet", "eu", role, "SELECT 1").await;
    answer.expect("the other tenant is served");
}

/// One record as a row.
fn row(key: String) -> RecordBatch {
    let at = TimestampMicrosecondArray::from(vec![1_767_323_045_678_000]).with_timezone("UTC");
    let text = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
    let columns = [
        ("idempotency_key", text(&key)),
        ("created_at", Arc::new(at) as ArrayRef),
        ("action", text("Order.Placed")),
        ("resource_type", text("Order")),
        ("resource_id", text("17")),
        ("actor_type", text("User")),
        ("actor_id", text("ann")),
        ("trace_id", text("4bf92f3577b34da6a3ce929d0e0e4736")),
    ];
    RecordBatch::try_from_iter(columns).expect("a row")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_counts_as_a_write_and_as_nothing_else() {
    let world = World::start_with(SETTINGS).await;
    world.tenant("noisy", "eu").await;
    let token = world.token("noisy", &[], &["audit.write"]);
    let mut client = world.client("eu", &token).await;
    let append = CommandStatementIngest {
        table_definition_options: Some(TableDefinitionOptions {
            if_exists: TableExistsOption::Append.into(),
            ..TableDefinitionOptions::default()
        }),
        table: "records".to_owned(),
        ..CommandStatementIngest::default()
    };
    let mut load = async |n: usize| {
        let rows = stream::iter([Ok(row(format!("row-{n}")))]);
        client.execute_ingest(append.clone(), rows).await
    };
    for n in 0..3 {
        assert_eq!(load(n).await.expect("a load"), 1);
    }
    // Two calls, of the three that there are.
    let role = "Audit.Investigator";
    let read = world.query("noisy", "eu", role, "SELECT 1").await;
    read.expect("queries are counted apart");
    let refused = loop {
        if let Err(refused) = load(3).await {
            break format!("{refused:?}");
        }
    };
    assert!(refused.contains("rate-limited"), "{refused}");
}
