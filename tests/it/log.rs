//! Acknowledged means durable in the log: what a kill, a restart, an unwritable table or another folder make of that.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use engine::seal::{Hash, verify_path};
use engine::wal;
use flight_server::service;
use flight_server::volume;
use futures::future::join_all;
use serde_json::{Value, json};
use tests::{Setup, World, record};

/// How long anything may take to be seen.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Answers come from the log, and it gets into the tables soon.
const LOGGED: Setup = Setup {
    node: "one",
    wal: "ack = \"wal\"\nflush_age_ms = 200",
    more: "",
};

/// Answers come from the log, and it gets into no table by itself.
const HELD: Setup = Setup {
    wal: "ack = \"wal\"\nflush_age_ms = 60000",
    ..LOGGED
};

async fn send(world: &World, tenant: &str, key: &str) -> (u16, Value) {
    let token = world.token(tenant, &[], &["audit.write"]);
    let body = record(tenant, key, json!({ "context": { "key": key } })).to_string();
    world.post("eu", &token, "/v1/audit/records", body).await
}

async fn accepted(world: &World, tenant: &str, key: &str) -> Value {
    let (status, answer) = send(world, tenant, key).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Record ids by leaf index, as they are in the table.
async fn stored(world: &World, tenant: &str) -> Vec<(i64, String)> {
    let sql = "SELECT leaf_index, record_id FROM audit.records";
    let rows = world.query(tenant, "eu", "Audit.Investigator", sql).await;
    let mut stored = Vec::new();
    for batch in rows.expect("an answer") {
        let leaves = batch.column(0).as_primitive::<Int64Type>();
        let ids = batch.column(1).as_string::<i32>();
        let pairs = leaves.iter().flatten().zip(ids.iter().flatten());
        stored.extend(pairs.map(|(leaf, id)| (leaf, id.to_owned())));
    }
    stored.sort();
    stored
}

/// Waits until the table has so many records, and gives them.
async fn seen(world: &World, tenant: &str, count: usize) -> Vec<(i64, String)> {
    let end = Instant::now() + WAIT_MAX;
    loop {
        let stored = stored(world, tenant).await;
        if stored.len() >= count {
            return stored;
        }
        assert!(Instant::now() < end, "{} of {count}", stored.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What receipts say, as the table should have it.
fn promised(receipts: &[Value]) -> Vec<(i64, String)> {
    let pair = |receipt: &Value| {
        let id = receipt["recordId"].as_str().expect("an id").to_owned();
        (receipt["leafIndex"].as_i64().expect("a leaf"), id)
    };
    let unique: BTreeSet<_> = receipts.iter().map(pair).collect();
    unique.into_iter().collect()
}

fn hash(value: &Value) -> Hash {
    let bytes = URL_SAFE_NO_PAD.decode(value.as_str().expect("a hash"));
    bytes.expect("base64").try_into().expect("32 bytes")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_request_is_answered_record_by_record_in_its_order() {
    let world = World::start_as(LOGGED).await;
    world.tenant("acme", "eu").await;
    let kind = |n: usize| match n {
        n if n % 7 == 3 => "invalid",
        n if n % 11 == 5 => "duplicate",
        n if n % 13 == 6 => "foreign",
        _ => "new",
    };
    let lines = (0..900).map(|n| {
        let tenant = if kind(n) == "foreign" {
            "other"
        } else {
            "acme"
        };
        let key = if kind(n) == "duplicate" { 0 } else { n };
        let context = json!({ "context": { "key": key } });
        let mut line = record(tenant, &key.to_string(), context);
        if kind(n) == "invalid" {
            line["action"] = json!("");
        }
        line.to_string()
    });
    let body = lines.collect::<Vec<_>>().join("\n");
    let token = world.token("acme", &[], &["audit.write"]);
    let (_, answer) = world
        .post("eu", &token, "/v1/audit/records:batch", body)
        .await;
    let results = answer["results"].as_array().expect("results");
    assert_eq!(results.len(), 900);
    let mut leaves = Vec::new();
    let mut ids = BTreeSet::new();
    for (n, result) in results.iter().enumerate() {
        assert_eq!(result["index"], n);
        let status = match kind(n) {
            "invalid" => 400,
            "foreign" => 202,
            _ => 200,
        };
        assert_eq!(result["status"], status, "{n}: {result}");
        match kind(n) {
            "new" => {
                assert_eq!(result["duplicate"], false);
                leaves.push(result["leafIndex"].as_i64().expect("a leaf"));
                ids.insert(result["recordId"].to_string());
            }
            "duplicate" => assert_eq!(result["recordId"], results[0]["recordId"]),
            _ => {}
        }
    }
    assert!(
        leaves.iter().copied().eq(0..leaves.len() as i64),
        "{leaves:?}"
    );
    assert_eq!(ids.len(), leaves.len());
    let seen = seen(&world, "acme", leaves.len()).await;
    assert_eq!(seen.len(), leaves.len());
    let in_order: Vec<_> = seen.iter().map(|(_, id)| format!("\"{id}\"")).collect();
    assert!(in_order.is_sorted() && in_order.iter().all(|id| ids.contains(id)));
    world.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledged_record_is_seen_soon_and_its_group_promises_it() {
    let world = Arc::new(World::start_as(LOGGED).await);
    world.tenant("acme", "eu").await;
    let sends = (0..20).map(|n| {
        let world = Arc::clone(&world);
        async move { accepted(&world, "acme", &n.to_string()).await }
    });
    let receipts = join_all(sends).await;
    assert_eq!(seen(&world, "acme", 20).await, promised(&receipts));
    let mut roots = BTreeSet::new();
    let mut befores = BTreeSet::new();
    for receipt in &receipts {
        let integrity = &receipt["integrity"];
        let path = integrity["path"].as_array().expect("a path");
        let path: Vec<Hash> = path.iter().map(hash).collect();
        let (index, size) = (&integrity["index"], &integrity["size"]);
        let is_promised = verify_path(
            &hash(&integrity["leaf"]),
            index.as_u64().expect("an index"),
            size.as_u64().expect("a size"),
            &path,
            &hash(&integrity["root"]),
        );
        assert!(is_promised, "{receipt}");
        assert!(integrity["sig"].is_string());
        assert!(
            receipt["segmentId"]
                .as_str()
                .is_some_and(|id| id.starts_with("seg-"))
        );
        roots.insert(hash(&integrity["root"]));
        befores.extend(
            Some(&integrity["prev"])
                .filter(|prev| !prev.is_null())
                .map(hash),
        );
    }
    // Each group names the one before, so that all but the last root are named.
    assert_eq!(befores.len(), roots.len() - 1);
    assert!(befores.is_subset(&roots));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_before_the_flush_loses_and_doubles_nothing() {
    let world = World::start_as(HELD).await;
    world.tenant("acme", "eu").await;
    let mut receipts = Vec::new();
    for n in 0..5 {
        receipts.push(accepted(&world, "acme", &n.to_string()).await);
    }
    assert!(stored(&world, "acme").await.is_empty(), "it is held back");
    let world = World::restart(world.crash().await, HELD).await;
    // A duplicate of what is in the log alone, and what comes after it.
    let again = accepted(&world, "acme", "2").await;
    assert_eq!(again["duplicate"], true);
    for field in ["recordId", "leafIndex", "segmentId", "policyVersion"] {
        assert_eq!(again[field], receipts[2][field], "{field}");
    }
    let next = accepted(&world, "acme", "next").await;
    assert_eq!(next["leafIndex"], 5);
    receipts.push(next);
    // Killed again: the frames of two lives are in the log.
    let world = World::restart(world.crash().await, LOGGED).await;
    assert_eq!(seen(&world, "acme", 6).await, promised(&receipts));
    // And once more, now that the table has them.
    let world = World::restart(world.crash().await, LOGGED).await;
    receipts.push(accepted(&world, "acme", "last").await);
    assert_eq!(seen(&world, "acme", 7).await, promised(&receipts));
    let again = accepted(&world, "acme", "0").await;
    assert_eq!(again["recordId"], receipts[0]["recordId"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_leaves_nothing_in_the_log_alone_evidence_of_denials_included() {
    let world = World::start_as(HELD).await;
    world.tenant("acme", "eu").await;
    let receipt = accepted(&world, "acme", "one").await;
    let refused = "SELECT * FROM globex.audit.records";
    let asked = world.query("acme", "eu", "Audit.Reader", refused).await;
    asked.expect_err("refused");
    let world = World::restart(world.stop().await, HELD).await;
    assert_eq!(stored(&world, "acme").await, promised(&[receipt]));
    let sql = "SELECT problem FROM audit.evidence WHERE decision = 'Deny'";
    let rows = world.query("acme", "eu", "Audit.Admin", sql).await;
    let shown = tests::text(&rows.expect("evidence"));
    assert!(shown.contains("cross-tenant-query"), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_writers_and_their_retries_get_one_place_for_each_record() {
    let world = Arc::new(World::start_as(LOGGED).await);
    world.tenant("acme", "eu").await;
    let writers = (0..10).map(|writer| {
        let world = Arc::clone(&world);
        async move {
            let mut receipts = Vec::new();
            for n in 0..15 {
                // Two writers send each key at about the same time.
                receipts.push(accepted(&world, "acme", &format!("{}-{n}", writer / 2)).await);
            }
            receipts
        }
    });
    let receipts: Vec<Value> = join_all(writers).await.into_iter().flatten().collect();
    let stored = seen(&world, "acme", 75).await;
    assert_eq!(stored, promised(&receipts));
    let leaves: Vec<i64> = stored.iter().map(|(leaf, _)| *leaf).collect();
    assert_eq!(leaves, (0..75).collect::<Vec<_>>());
    let first = receipts.iter().filter(|one| one["duplicate"] == false);
    assert_eq!(first.count(), 75);
}

/// The place of the next entry of a table's log.
fn next_entry(world: &World, tenant: &str) -> PathBuf {
    let root = world.folder().join("eu/tenants").join(tenant);
    let log = root.join("audit/records/_delta_log");
    let entries = std::fs::read_dir(&log).expect("a log").count();
    log.join(format!("{entries:020}.json"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_cannot_be_written_keeps_nobody_else_waiting() {
    let world = World::start_as(LOGGED).await;
    world.tenant("acme", "eu").await;
    world.tenant("globex", "eu").await;
    let mut receipts = vec![accepted(&world, "acme", "first").await];
    seen(&world, "acme", 1).await;
    let broken = next_entry(&world, "acme");
    std::fs::write(&broken, "{").expect("written");
    for n in 0..3 {
        receipts.push(accepted(&world, "acme", &n.to_string()).await);
        let other = accepted(&world, "globex", &n.to_string()).await;
        assert_eq!(other["leafIndex"], n);
    }
    seen(&world, "globex", 3).await;
    let again = accepted(&world, "acme", "1").await;
    assert_eq!(again["recordId"], receipts[2]["recordId"]);
    std::fs::remove_file(&broken).expect("removed");
    assert_eq!(seen(&world, "acme", 4).await, promised(&receipts));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let at = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &at);
        } else {
            std::fs::copy(&path, &at).expect("copied");
        }
    }
}

/// Names and contents of a log's files.
fn contents(log: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(log).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = paths
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), std::fs::read(&path).expect("a file")))
        .collect();
    files.sort();
    files
}

/// A supervisor starts a server again and again; it stays refused, and its log as it is.
async fn refused(folder: &Path, log: &Path) {
    let before = log.exists().then(|| contents(log));
    for _ in 0..4 {
        let started = World::serve(folder.to_owned(), LOGGED).await;
        let error = started.map(drop).expect_err("the folder was taken");
        let named = matches!(error, service::Error::Volume(volume::Error::Node(_)));
        assert!(named, "{error:?}");
        if let Some(before) = &before {
            assert!(*before == contents(log), "a refused start wrote");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_replaced_or_restored_is_never_taken_up() {
    let world = World::start_as(HELD).await;
    world.tenant("acme", "eu").await;
    accepted(&world, "acme", "one").await;
    let folder = world.crash().await;
    let (log, kept) = (folder.path().join("wal-one"), folder.path().join("kept"));
    copy(&log, &kept);
    let world = World::restart(folder, HELD).await;
    accepted(&world, "acme", "two").await;
    let folder = world.crash().await;
    let newest = folder.path().join("newest");
    std::fs::rename(&log, &newest).expect("moved");
    refused(folder.path(), &log).await;
    std::fs::remove_dir_all(&log).expect("removed");
    std::fs::rename(&kept, &log).expect("moved");
    refused(folder.path(), &log).await;
    std::fs::remove_dir_all(&log).expect("removed");
    std::fs::rename(&newest, &log).expect("moved");
    let world = World::restart(folder, LOGGED).await;
    assert_eq!(seen(&world, "acme", 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_drained_log_is_taken_up_under_no_name() {
    let world = World::start_as(LOGGED).await;
    world.tenant("acme", "eu").await;
    accepted(&world, "acme", "one").await;
    let (log, kept) = (
        world.folder().join("wal-one"),
        world.folder().join("wal-two"),
    );
    copy(&log, &kept);
    let world = World::restart(world.crash().await, LOGGED).await;
    accepted(&world, "acme", "two").await;
    assert_eq!(world.service.drain(WAIT_MAX).await, 0);
    let folder = world.crash().await;
    let before = contents(&kept);
    let two = Setup {
        node: "two",
        ..LOGGED
    };
    for _ in 0..2 {
        let started = World::serve(folder.path().to_owned(), two).await;
        let error = started.map(drop).expect_err("the copy was taken");
        let elsewhere = matches!(
            &error,
            service::Error::Volume(volume::Error::Log(wal::Error::Elsewhere { node })) if node == "one"
        );
        assert!(elsewhere, "{error:?}");
        assert!(before == contents(&kept), "a refused start wrote");
    }
    std::fs::rename(&log, folder.path().join("newest")).expect("moved");
    std::fs::rename(&kept, &log).expect("moved");
    refused(folder.path(), &log).await;
    // Another folder may follow one that was drained.
    std::fs::remove_dir_all(&log).expect("removed");
    let world = World::restart(folder, LOGGED).await;
    accepted(&world, "acme", "three").await;
    assert_eq!(seen(&world, "acme", 3).await.len(), 3);
}

/// The worst that an operator can do: what still runs finds out with its next commit, and nothing is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_started_beside_the_running_original_fences_it_off() {
    let original = World::start_as(LOGGED).await;
    original.tenant("acme", "eu").await;
    let mut receipts = vec![accepted(&original, "acme", "one").await];
    seen(&original, "acme", 1).await;
    let log = |name: &str| original.folder().join(format!("wal-{name}"));
    copy(&log("one"), &log("one+copy"));
    let second = original.twin("one+copy").await;
    receipts.push(accepted(&second, "acme", "two").await);
    let end = Instant::now() + WAIT_MAX;
    for n in 0.. {
        let (status, answer) = send(&original, "acme", &format!("late-{n}")).await;
        if status == 503 {
            break;
        }
        assert_eq!(status, 200, "{answer}");
        assert!(Instant::now() < end, "the original goes on taking records");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    receipts.push(accepted(&second, "acme", "three").await);
    // What the two say of themselves they say as one node; a third is asked.
    let reader = original.twin("two").await;
    assert_eq!(seen(&reader, "acme", 3).await, promised(&receipts));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_runs_out_of_time_knows_how_many_tables_lack_something() {
    let world = World::start_as(LOGGED).await;
    let tenants = ["acme", "globex", "initech"];
    for tenant in tenants {
        world.tenant(tenant, "eu").await;
        accepted(&world, tenant, "first").await;
        seen(&world, tenant, 1).await;
    }
    let broken = ["acme", "globex"].map(|tenant| next_entry(&world, tenant));
    for path in &broken {
        std::fs::write(path, "{").expect("written");
    }
    for tenant in tenants {
        accepted(&world, tenant, "second").await;
    }
    let left = world.service.drain(Duration::from_secs(2)).await;
    assert_eq!(left, broken.len());
    let folder = world.crash().await;
    for path in &broken {
        std::fs::remove_file(path).expect("removed");
    }
    let world = World::restart(folder, LOGGED).await;
    for tenant in tenants {
        assert_eq!(seen(&world, tenant, 2).await.len(), 2);
    }
}
