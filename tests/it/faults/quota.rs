//! Tables that cannot be written: what waits for them is bounded, and who is refused loses nothing.

use std::sync::Arc;

use serde_json::{Value, json};
use tests::fault_store::{Fault, Plan, Step};
use tests::ledger::Ledger;
use tests::{Around, Setup, World, record};

const UNAVAILABLE: &str = "https://trailhouse.dev/problems/unavailable";
const EVIDENCE: &str = "https://trailhouse.dev/problems/evidence-unavailable";
/// Records after which something must have been full.
const RECORDS_MAX: usize = 400;

/// Status, `Retry-After` and body of the answer to one record.
async fn send(
    world: &World,
    tenant: &str,
    silo: &str,
    key: &str,
    fill: usize,
) -> (u16, bool, Value) {
    let token = world.token(tenant, &[], &["audit.write"]);
    let context = json!({ "context": { "fill": "x".repeat(fill) } });
    let request = reqwest::Client::new()
        .post(world.http(silo) + "/v1/audit/records")
        .header("content-type", "application/json")
        .bearer_auth(token)
        .body(record(tenant, key, context).to_string());
    let response = request.send().await.expect("an answer");
    let retry = response.headers().contains_key("retry-after");
    let status = response.status().as_u16();
    (status, retry, response.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_table_is_broken_fills_its_own_share_and_nobody_elses() {
    let setup = Setup {
        node: "one",
        wal: "flush_age_ms = 30\nflush_bytes = 20000\ntenant_bytes_max = 20000",
        more: "",
    };
    let world = World::start_as(setup).await;
    world.tenant("acme", "eu").await;
    world.tenant("globex", "eu").await;
    let (mut acme, mut globex) = (Ledger::of("acme", "eu"), Ledger::of("globex", "eu"));
    acme.send(&world, 1, 0).await;
    acme.check(&world).await;
    let log = world
        .folder()
        .join("eu/tenants/acme/audit/records/_delta_log");
    let entries = std::fs::read_dir(&log).expect("a log").count();
    let broken = log.join(format!("{entries:020}.json"));
    std::fs::write(&broken, "{").expect("written");

    for n in 0..RECORDS_MAX {
        acme.send(&world, 1, 0).await;
        if acme.refused > 0 {
            break;
        }
        if n % 5 == 0 {
            globex.send(&world, 1, 1).await;
        }
    }
    let (status, retry, answer) = send(&world, "acme", "eu", "refused", 10).await;
    assert_eq!((status, retry), (503, true), "{answer}");
    assert_eq!(answer["type"], UNAVAILABLE);
    let detail = answer["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("wait for storage"), "{answer}");
    assert!(acme.acknowledged() > 1, "nothing was taken before");
    globex.send(&world, 4, 4).await;
    globex.check(&world).await;
    assert_eq!(globex.refused, 0, "another tenant was refused");

    // A restart makes no room, and loses nothing.
    let mut world = world.crash_and_restart().await;
    acme.send(&world, 1, 0).await;
    world = world.crash_and_restart().await;
    std::fs::remove_file(&broken).expect("removed");
    acme.settle(&world).await;
    acme.check(&world).await;
    acme.repeat(&world).await;
    globex.repeat(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_refuses_everybody_until_the_tables_can_be_written_again() {
    let setup = Setup {
        node: "one",
        wal: "flush_age_ms = 30\nflush_bytes = 1000000\ntenant_bytes_max = 2000000\n\
              segment_bytes = 1048576\nbytes_max = 2097152",
        more: "",
    };
    let plan = Arc::new(Plan::default());
    let around = Around {
        faults: Some(Arc::clone(&plan)),
        ..Around::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let world = World::restart_around(folder, setup, around).await;
    let mut ledgers = Vec::new();
    for (tenant, silo) in [("acme", "eu"), ("globex", "us")] {
        world.tenant(tenant, silo).await;
        let mut ledger = Ledger::of(tenant, silo);
        ledger.send(&world, 1, 1).await;
        ledger.check(&world).await;
        ledgers.push(ledger);
    }
    world.tenant("large", "eu").await;
    let (status, _, answer) = send(&world, "large", "eu", "first", 10).await;
    assert_eq!(status, 200, "{answer}");
    plan.arm(Step::LogPut, Fault::Lost, u64::MAX);
    for ledger in &mut ledgers {
        ledger.send(&world, 2, 2).await;
        assert_eq!(ledger.refused, 0, "there is room yet");
    }
    let mut taken = Vec::new();
    for n in 0..RECORDS_MAX {
        let (status, retry, answer) = send(&world, "large", "eu", &n.to_string(), 200_000).await;
        if status == 503 {
            assert!(retry, "{answer}");
            let slug = answer["type"].as_str().unwrap_or_default();
            assert!([UNAVAILABLE, EVIDENCE].contains(&slug), "{answer}");
            break;
        }
        assert_eq!(status, 200, "{answer}");
        taken.push(answer["recordId"].clone());
    }
    assert!(taken.len() > 1 && taken.len() < RECORDS_MAX);
    for ledger in &mut ledgers {
        for _ in 0..RECORDS_MAX {
            if ledger.refused > 0 {
                break;
            }
            ledger.send(&world, 4, 4).await;
        }
        assert!(ledger.refused > 0, "the log has no end");
    }

    plan.disarm();
    for ledger in &mut ledgers {
        ledger.settle(&world).await;
        ledger.check(&world).await;
        ledger.repeat(&world).await;
    }
    for (n, id) in taken.iter().enumerate() {
        let (status, _, answer) = send(&world, "large", "eu", &n.to_string(), 200_000).await;
        assert_eq!((status, &answer["recordId"]), (200, id), "{answer}");
    }
    assert_eq!(plan.overwritten(), 0, "an object was changed");
}
