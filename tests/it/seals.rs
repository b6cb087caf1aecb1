//! Segments are sealed when they are over, whoever is there to do it, and seals hold what they say.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use catalog::clock::{ManualClock, Timestamp};
use catalog::guard::TenantAdmin;
use catalog::ids::{SiloId, TenantId};
use catalog::keys::PublicKeys;
use engine::proof::{About, Finding};
use engine::seal::SegmentSeal;
use serde_json::json;
use tests::{Around, Setup, World, record};

const SETUP: Setup = Setup {
    node: "one",
    wal: "flush_age_ms = 30",
    more: "",
};
const TRIES_MAX: usize = 600;
const INVESTIGATOR: &str = "Audit.Investigator";

fn at(time: &str) -> Timestamp {
    Timestamp::parse_rfc3339(&format!("2026-11-22T{time}:00Z")).expect("a time")
}

async fn send(world: &World, first: usize, count: usize) {
    let records: Vec<_> = (first..first + count)
        .map(|n| record("acme", &n.to_string(), json!({})))
        .collect();
    world.ingest("acme", "eu", &records).await;
}

async fn segments(world: &World, role: &str, stream: &str) -> Vec<RecordBatch> {
    let sql = format!(
        "SELECT segment_id, first_leaf, leaf_count, seal_number, segment_root, prev_root FROM audit.segments \
         WHERE stream = '{stream}' ORDER BY seal_number"
    );
    world.query("acme", "eu", role, &sql).await.expect("rows")
}

/// Waits until so many segments of the default stream are sealed: name, first leaf, count.
async fn sealed(world: &World, count: usize) -> Vec<(String, i64, i64)> {
    let seen = seen(world, count, TRIES_MAX).await;
    seen.expect("nothing is sealed any more")
}

async fn seen(world: &World, count: usize, tries: usize) -> Option<Vec<(String, i64, i64)>> {
    for _ in 0..tries {
        let batches = segments(world, INVESTIGATOR, "audit.default").await;
        let rows = batches.iter().flat_map(|batch| {
            let number = |column: usize| batch.column(column).as_primitive::<Int64Type>();
            let names = batch.column(0).as_string::<i32>().iter();
            let numbers = number(1).values().iter().zip(number(2).values());
            names
                .zip(numbers)
                .map(|(name, (first, count))| (name.unwrap().to_owned(), *first, *count))
        });
        let rows: Vec<_> = rows.collect();
        if rows.len() >= count {
            return Some(rows);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    None
}

fn folder(root: &Path, stream: &str) -> PathBuf {
    root.join("eu/tenants/acme/audit/log")
        .join(stream)
        .join("seal")
}

async fn keys(world: &World) -> (SiloId, PublicKeys) {
    let (tenant, silo) = (
        TenantId::parse("acme").unwrap(),
        SiloId::parse("eu").unwrap(),
    );
    let keys = world.service.keys.public_keys(&tenant, &silo);
    (silo.clone(), keys.await.unwrap())
}

async fn audit(world: &World) -> Vec<Finding> {
    let (silo, keys) = keys(world).await;
    let permit = world.operator::<TenantAdmin>("acme").await;
    let about = About {
        silo: &silo,
        keys: &keys,
        kept: &[],
        files: None,
    };
    let audit = world
        .service
        .logs
        .audit(&permit, about, |_, _| {})
        .await
        .unwrap();
    let log = audit
        .logs
        .iter()
        .find(|log| log.stream.as_str() == "audit.default")
        .unwrap();
    assert_eq!(
        audit.rows,
        audit.logs.iter().map(|log| log.leaves).sum::<u64>()
    );
    assert!(log.sealed > 0);
    audit.findings
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_hour_is_sealed_and_chained_though_nobody_writes_and_the_process_changes() {
    let clock = Arc::new(ManualClock::new(at("10:30")));
    let around = Around {
        clock: Some(Arc::clone(&clock)),
        ..Around::default()
    };
    let folder_of = tempfile::tempdir().expect("a folder");
    let mut world = World::restart_around(folder_of, SETUP, around.clone()).await;
    world.tenant("acme", "eu").await;
    send(&world, 0, 300).await;
    // The hour is over, and nobody writes any more.
    clock.set(at("11:03"));
    let segment = |hour: u8, first, count| (format!("seg-2026-11-22T{hour}"), first, count);
    assert_eq!(sealed(&world, 1).await, [segment(10, 0, 300)]);
    // Another hour is over because the next one has begun.
    send(&world, 300, 7).await;
    clock.set(at("12:00"));
    send(&world, 307, 250).await;
    let two = [segment(10, 0, 300), segment(11, 300, 7)];
    assert_eq!(sealed(&world, 2).await, two);
    // A process that ended before the hour did leaves it to the next one.
    let folder_of = world.stop().await;
    clock.set(at("14:00"));
    world = World::restart_around(folder_of, SETUP, around.clone()).await;
    let three = [&two[..], &[segment(12, 307, 250)]].concat();
    assert_eq!(sealed(&world, 3).await, three);
    send(&world, 557, 1).await;
    clock.set(at("15:30"));
    assert_eq!(sealed(&world, 4).await[3], segment(14, 557, 1));
    // A clock that is wrong for a while names a segment that is over only then, and keeps nothing from being sealed.
    clock.set(at("22:00"));
    send(&world, 558, 1).await;
    let mut five = None;
    for hour in 15..22_u8 {
        clock.set(at(&format!("{hour}:40")));
        send(&world, 544 + usize::from(hour), 1).await;
        five = seen(&world, 5, 60).await;
        if five.is_some() {
            break;
        }
    }
    let five = five.expect("a seal before the hour that was wrong is over");
    assert_eq!((five[4].0.as_str(), five[4].1), ("seg-2026-11-22T22", 558));
    let sql = "SELECT segment_id FROM audit.records GROUP BY segment_id";
    let named = world.query("acme", "eu", INVESTIGATOR, sql).await.unwrap();
    assert_eq!(named.iter().map(RecordBatch::num_rows).sum::<usize>(), 5);
    evidence_is_sealed_for_those_who_may_see_it(&world).await;
    assert_eq!(audit(&world).await, []);
    seals_are_signed_and_chained(&world).await;
    every_change_is_found(&world).await;
    world.leave().await;
}

async fn evidence_is_sealed_for_those_who_may_see_it(world: &World) {
    let rows = segments(world, "Audit.Admin", "audit.evidence").await;
    assert!(rows.iter().map(RecordBatch::num_rows).sum::<usize>() > 2);
    let rows = segments(world, INVESTIGATOR, "audit.evidence").await;
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 0);
}

async fn seals_are_signed_and_chained(world: &World) {
    let (_, keys) = keys(world).await;
    let stored = folder(world.folder(), "audit.default");
    let mut before: Option<SegmentSeal> = None;
    for number in 0..5_u64 {
        let json = std::fs::read(stored.join(format!("{number:020}"))).unwrap();
        let seal = SegmentSeal::from_json(&json).unwrap();
        seal.verify(&keys).unwrap();
        assert_eq!(
            seal.segment.prev,
            before.as_ref().map(|seal| seal.segment.root)
        );
        assert_eq!(
            seal.segment.first,
            before.map_or(0, |seal| seal.segment.end())
        );
        before = Some(seal);
    }
}

/// What becomes of the seals of the default stream, and what is said of it.
async fn every_change_is_found(world: &World) {
    let stored = folder(world.folder(), "audit.default");
    let seal = |number: u64| stored.join(format!("{number:020}"));
    let newest = std::fs::read_dir(&stored).unwrap().count() as u64 - 1;
    for number in 0..=newest {
        let whole = std::fs::read(seal(number)).unwrap();
        for at in (0..whole.len()).step_by(97) {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(seal(number), changed).unwrap();
            let found = audit(world).await;
            assert!(
                found.iter().any(|found| found.object.contains("/seal/")),
                "{number} {at}"
            );
        }
        std::fs::remove_file(seal(number)).unwrap();
        let found = audit(world).await;
        // Of the last one nothing says that it ever was.
        assert_eq!(found.is_empty(), number == newest, "{number}: {found:?}");
        std::fs::write(seal(number), whole).unwrap();
    }
    let (one, two) = (
        std::fs::read(seal(1)).unwrap(),
        std::fs::read(seal(2)).unwrap(),
    );
    std::fs::write(seal(1), &two).unwrap();
    std::fs::write(seal(2), &one).unwrap();
    assert!(audit(world).await.len() >= 2);
    std::fs::write(seal(1), one).unwrap();
    std::fs::write(seal(2), two).unwrap();
    let foreign = folder(world.folder(), "audit.evidence").join(format!("{:020}", 0));
    let own = std::fs::read(seal(0)).unwrap();
    std::fs::copy(foreign, seal(0)).unwrap();
    assert!(!audit(world).await.is_empty());
    std::fs::write(seal(0), own).unwrap();
    assert_eq!(audit(world).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_count_rows_so_a_row_policy_hides_them() {
    let world = World::start().await;
    world.tenant("acme", "eu").await;
    let bundle = format!(
        "{}rowPolicies: {{ own: {{ mandatory: true, where: \"action = 'A.B'\" }} }}\n",
        catalog::policy::Bundle::default_yaml(
            &TenantId::parse("acme").unwrap(),
            &SiloId::parse("eu").unwrap()
        )
    );
    world
        .policy("acme", &bundle.replacen("version: 1", "version: 2", 1))
        .await;
    let refused = world
        .query("acme", "eu", "Audit.Reader", "SELECT * FROM audit.segments")
        .await;
    let refused = refused.expect_err("a refusal").to_string();
    assert!(refused.contains("not found"), "{refused}");
    world.leave().await;
}
