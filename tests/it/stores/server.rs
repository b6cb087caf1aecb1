//! A whole server on object storage: one silo on S3, one on a disk, the control documents on the disk.

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use serde_json::json;
use tests::emulators::{Emulator, Kind};
use tests::{Setup, World, record};

use super::cache;

async fn count(world: &World, tenant: &str, silo: &str) -> i64 {
    let sql = "SELECT count(*) FROM audit.records";
    let rows = world.query(tenant, silo, "Audit.Investigator", sql).await;
    let rows = rows.expect("an answer");
    rows[0].column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_serves_from_s3_and_a_disk_and_restarts() {
    let emulator = Emulator::start(Kind::MiniStack, cache());
    let (bucket, settings) = emulator.bucket("acme-audit").await;
    let mut more = format!(
        "[silos.eu]\nroot = '{bucket}/audit/eu'\nflight = '127.0.0.1:0'\nhttp = '127.0.0.1:0'\n[silos.eu.store]\n"
    );
    for (name, value) in &settings {
        more.push_str(&format!("{name} = '{value}'\n"));
    }
    let setup = Setup {
        more: more.leak(),
        ..Setup::default()
    };
    let records = |tenant: &str, keys: std::ops::Range<i64>| -> Vec<_> {
        keys.map(|key| record(tenant, &key.to_string(), json!({})))
            .collect()
    };
    let world = World::start_as(setup).await;
    for (tenant, silo) in [("acme", "eu"), ("globex", "us")] {
        world.tenant(tenant, silo).await;
        world.ingest(tenant, silo, &records(tenant, 0..20)).await;
        assert_eq!(count(&world, tenant, silo).await, 20);
    }
    let world = World::restart(world.stop().await, setup).await;
    for (tenant, silo) in [("acme", "eu"), ("globex", "us")] {
        // Half of them are there already.
        world.ingest(tenant, silo, &records(tenant, 10..30)).await;
        assert_eq!(count(&world, tenant, silo).await, 30);
    }
    assert!(!world.folder().join("eu").exists());
}
