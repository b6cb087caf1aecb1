//! Several nodes over one store: one at a time takes a tenant's records, and what it gives up, or is taken from it, goes
//! on elsewhere without a loss and without a double.

use std::path::Path;
use std::time::{Duration, Instant};

use catalog::guard::TenantAdmin;
use catalog::node::NodeError;
use flight_server::{service, volume};
use serde_json::{Value, json};
use tests::ledger::Ledger;
use tests::{Setup, World, record};

/// How long anything may take to be seen.
const WAIT_MAX: Duration = Duration::from_secs(30);

const QUICK: Setup = Setup {
    node: "one",
    wal: "flush_age_ms = 30",
    more: "",
};
/// What is acknowledged stays in the log until there is much of it, or until a stop.
const HELD: Setup = Setup {
    wal: "flush_age_ms = 60000\nflush_bytes = 60000",
    ..QUICK
};

/// Status, `Retry-After` and body of the answer to one record of acme.
async fn send(world: &World, key: &str, fill: usize) -> (u16, Option<String>, Value) {
    let token = world.token("acme", &[], &["audit.write"]);
    let context = json!({ "context": { "fill": "x".repeat(fill) } });
    let request = reqwest::Client::new()
        .post(world.http("eu") + "/v1/audit/records")
        .header("content-type", "application/json")
        .bearer_auth(token)
        .body(record("acme", key, context).to_string());
    let response = request.send().await.expect("an answer");
    let retry = response.headers().get("retry-after").cloned();
    let retry = retry.map(|value| value.to_str().expect("text").to_owned());
    let status = response.status().as_u16();
    (status, retry, response.json().await.expect("JSON"))
}

/// Sends records until one is refused, and checks that the refusal names the other node's existence.
async fn refused(world: &World) {
    let end = Instant::now() + WAIT_MAX;
    for n in 0.. {
        let (status, retry, answer) = send(world, &format!("refused-{n}"), 10_000).await;
        if status == 503 {
            let problem = "https://trailhouse.dev/problems/unavailable";
            assert_eq!(answer["type"], problem, "{answer}");
            assert!(retry.is_some(), "no word of when to come back");
            let detail = answer["detail"].as_str().unwrap_or_default();
            assert!(detail.contains("another node"), "{answer}");
            return;
        }
        assert_eq!(status, 200, "{answer}");
        assert!(Instant::now() < end, "it goes on taking records");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_takes_over_once_the_first_has_let_go() {
    let one = World::start_as(HELD).await;
    one.tenant("acme", "eu").await;
    one.tenant("globex", "eu").await;
    let (mut acme, mut globex) = (Ledger::of("acme", "eu"), Ledger::of("globex", "eu"));
    acme.send(&one, 4, 3).await;
    let two = one.twin("two").await;
    let (status, _, _) = send(&two, "refused-0", 10).await;
    assert_eq!(status, 503);
    refused(&two).await;
    // Another tenant is anybody's, and everybody reads.
    globex.send(&two, 2, 2).await;
    assert_eq!((acme.refused, globex.refused), (0, 0));
    let sql = "SELECT count(*) FROM audit.records";
    let read = two.query("acme", "eu", "Audit.Reader", sql).await;
    read.expect("the second node reads");

    let folder = one.stop().await;
    acme.send(&two, 3, 2).await;
    acme.settle(&two).await;
    let two = {
        two.leave().await;
        let setup = Setup {
            node: "two",
            ..QUICK
        };
        World::restart(folder, setup).await
    };
    acme.check(&two).await;
    globex.check(&two).await;
    acme.repeat(&two).await;
    acme.check(&two).await;
}

async fn abandoned(folder: &Path) {
    let started = World::serve(folder.to_owned(), HELD).await;
    let error = started.expect_err("an abandoned log was taken up");
    let named = matches!(
        error,
        service::Error::Volume(volume::Error::Node(NodeError::Abandoned))
    );
    assert!(named, "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_abandoned_while_it_runs_commits_nothing_any_more() {
    let one = World::start_as(HELD).await;
    one.tenant("acme", "eu").await;
    let mut acme = Ledger::of("acme", "eu");
    acme.send(&one, 3, 3).await;
    let one = World::restart(one.stop().await, HELD).await;
    acme.check(&one).await;
    // In its log alone; the ledger knows nothing of these, and would say so if it met one.
    for n in 0..3 {
        let (status, _, answer) = send(&one, &format!("lost-{n}"), 10).await;
        assert_eq!(status, 200, "{answer}");
    }
    let permit = one.operator::<TenantAdmin>("_system").await;
    let nodes = &one.service.nodes;
    let reason = "it was thought to be gone";
    nodes
        .abandon(&permit, "one", reason)
        .await
        .expect("abandoned");
    let setup = Setup {
        node: "two",
        ..QUICK
    };
    let two = World::serve(one.folder().to_owned(), setup).await;
    let two = two.expect("the second node");
    acme.send(&two, 4, 4).await;
    assert_eq!(acme.refused, 0, "the tenant is free");
    acme.check(&two).await;

    refused(&one).await;
    let (_, ready) = one.ready("eu").await;
    let waiting = &ready["tablesWaiting"]["another node writes for the tenant"];
    assert_eq!(waiting, 1, "{ready}");
    acme.send(&two, 2, 2).await;
    let folder = one.stop().await;
    abandoned(folder.path()).await;
    acme.send(&two, 2, 2).await;
    acme.check(&two).await;
    acme.repeat(&two).await;
    assert_eq!(acme.refused, 0);
    two.leave().await;
}

/// The newest version of the lease of acme, and what it says.
fn lease(world: &World) -> (u64, String) {
    let folder = "eu/tenants/acme/control/leases/records";
    let entries = std::fs::read_dir(world.folder().join(folder)).expect("leases");
    let names = entries.map(|entry| entry.expect("one").file_name());
    // What is being written has no number for a name yet.
    let versions = names.filter_map(|name| name.to_str()?.parse::<u64>().ok());
    let newest = versions.max().expect("a lease");
    let path = world.folder().join(folder).join(format!("{newest:020}"));
    let text = std::fs::read_to_string(path).expect("a document");
    (newest, text)
}

async fn released(world: &World) {
    let end = Instant::now() + WAIT_MAX;
    while !lease(world).1.contains("\"released\"") {
        assert!(Instant::now() < end, "the lease is kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_sends_nothing_for_a_while_is_free_and_the_next_write_takes_it_again() {
    let setup = Setup {
        wal: "flush_age_ms = 30\nidle_ms = 300",
        ..QUICK
    };
    let one = World::start_as(setup).await;
    one.tenant("acme", "eu").await;
    let two = one.twin("two").await;
    let mut acme = Ledger::of("acme", "eu");
    let mut versions = 0;
    for (node, name) in [(&one, "one"), (&one, "one"), (&two, "two"), (&one, "one")] {
        acme.send(node, 2, 2).await;
        acme.settle(node).await;
        released(node).await;
        let (version, newest) = lease(node);
        assert!(newest.contains(&format!("\"{name}\"")), "{newest}");
        assert!(version >= versions + 2, "taken and released: {version}");
        versions = version;
        acme.check(node).await;
    }
    acme.repeat(&one).await;
    acme.check(&one).await;
    two.leave().await;
}
