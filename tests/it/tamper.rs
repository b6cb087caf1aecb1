//! Files that were swapped, cut, flipped or replaced: a clear problem, nothing leaked, and the server stays up.

use std::path::PathBuf;

use parquet::arrow::ArrowWriter;
use serde_json::json;
use tests::{World, files, record, text};

const SQL: &str = "SELECT * FROM audit.records";

async fn world() -> World {
    let world = World::start().await;
    for tenant in ["acme", "initech"] {
        world.tenant(tenant, "eu").await;
        let records: Vec<_> = (0..50)
            .map(|n| {
                record(
                    tenant,
                    &n.to_string(),
                    json!({ "action": format!("{tenant}.canary.{n}") }),
                )
            })
            .collect();
        world.ingest(tenant, "eu", &records).await;
    }
    world
}

fn data_file(world: &World, tenant: &str) -> PathBuf {
    let folder = world
        .folder()
        .join("eu/tenants")
        .join(tenant)
        .join("audit/records");
    let mut found = files(&folder);
    found.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "parquet")
    });
    found.pop().expect("a data file")
}

/// After the file was changed: the tenant's query fails with a problem that gives nothing away, the other tenant's works.
async fn fails_closed(world: World, what: &str) {
    let folder = world.stop().await;
    // A new process has no footer in its cache.
    let world = World::start_in(folder).await;
    let error = world
        .query("acme", "eu", "Audit.Investigator", SQL)
        .await
        .expect_err(what);
    for secret in ["initech", "canary", ".parquet", "tenants/"] {
        assert!(
            !error.contains(secret),
            "{what}: the error says `{secret}`: {error}"
        );
    }
    let rows = world
        .query("initech", "eu", "Audit.Investigator", SQL)
        .await
        .expect("the server stays up");
    assert_eq!(
        rows.iter()
            .map(arrow::array::RecordBatch::num_rows)
            .sum::<usize>(),
        50,
        "{what}"
    );
    assert!(!text(&rows).contains("acme.canary"), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_another_tenant_does_not_open() {
    let world = world().await;
    let foreign = data_file(&world, "initech");
    std::fs::copy(foreign, data_file(&world, "acme")).expect("swapped");
    fails_closed(world, "swapped").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_file_does_not_open() {
    let world = world().await;
    let path = data_file(&world, "acme");
    let content = std::fs::read(&path).expect("readable");
    std::fs::write(&path, &content[..content.len() / 2]).expect("cut");
    fails_closed(world, "cut").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_noticed() {
    let world = world().await;
    let path = data_file(&world, "acme");
    let mut content = std::fs::read(&path).expect("readable");
    // In the first column, which every row has: bits of columns that nobody asked for are not read.
    content[64] ^= 1;
    std::fs::write(&path, content).expect("flipped");
    fails_closed(world, "flipped").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plaintext_file_in_its_place_is_refused() {
    let world = world().await;
    let schema = engine::record::schema::records::<&str>(&[]);
    let path = data_file(&world, "acme");
    let empty = arrow::array::RecordBatch::new_empty(std::sync::Arc::clone(&schema));
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(&path).expect("a file"), schema, None)
            .expect("a writer");
    writer.write(&empty).expect("written");
    writer.close().expect("closed");
    fails_closed(world, "plaintext").await;
}
