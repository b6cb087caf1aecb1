//! The clock goes back, while the server runs and over a restart: the log goes forwards all the same.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use catalog::clock::{ManualClock, Timestamp};
use serde_json::{Value, json};
use tests::{Around, Setup, World, record};

const HELD: Setup = Setup {
    node: "one",
    wal: "flush_age_ms = 60000",
    more: "",
};
const QUICK: Setup = Setup {
    wal: "flush_age_ms = 30",
    ..HELD
};
const TRIES_MAX: usize = 600;

/// A record's place and name: leaf index, segment, record id.
type Place = (i64, String, String);

fn at(time: &str) -> Timestamp {
    Timestamp::parse_rfc3339(&format!("2026-11-22T{time}:00Z")).expect("a time")
}

fn place(receipt: &Value) -> Place {
    let text = |field: &str| receipt[field].as_str().expect(field).to_owned();
    let leaf = receipt["leafIndex"].as_i64().expect("a leaf");
    (leaf, text("segmentId"), text("recordId"))
}

async fn send(world: &World, key: &str) -> Value {
    let token = world.token("acme", &[], &["audit.write"]);
    let body = record("acme", key, json!({})).to_string();
    let path = "/v1/audit/records";
    let (status, answer) = world.post("eu", &token, path, body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn stored(world: &World) -> Vec<Place> {
    let sql = "SELECT leaf_index, segment_id, record_id FROM audit.records ORDER BY leaf_index";
    let rows = world.query("acme", "eu", "Audit.Investigator", sql).await;
    let mut places = Vec::new();
    for batch in rows.expect("rows") {
        let leaves = batch.column(0).as_primitive::<Int64Type>();
        let text = |column: usize, row| batch.column(column).as_string::<i32>().value(row);
        for row in 0..batch.num_rows() {
            let (segment, id) = (text(1, row), text(2, row));
            places.push((leaves.value(row), segment.to_owned(), id.to_owned()));
        }
    }
    places
}

/// Waits until the table has so many records.
async fn seen(world: &World, count: usize) -> Vec<Place> {
    for _ in 0..TRIES_MAX {
        let stored = stored(world).await;
        if stored.len() >= count {
            return stored;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    unreachable!("the flush has stopped")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_goes_back_brings_nothing_back_and_loses_nothing() {
    let clock = Arc::new(ManualClock::new(at("10:30")));
    let around = Around {
        clock: Some(Arc::clone(&clock)),
        ..Around::default()
    };
    let folder = tempfile::tempdir().expect("a folder");
    let mut world = World::restart_around(folder, HELD, around.clone()).await;
    world.tenant("acme", "eu").await;
    let mut receipts = Vec::new();
    for (time, restart, hour) in [
        ("10:30", None, 10),
        ("12:10", None, 12),
        ("09:00", None, 12),
        ("08:00", Some(HELD), 12),
        ("07:59", Some(QUICK), 12),
        ("12:05", None, 12),
        ("03:00", Some(QUICK), 12),
        ("13:01", None, 13),
        ("12:59", Some(HELD), 13),
        ("11:00", None, 13),
    ] {
        clock.set(at(time));
        if let Some(setup) = restart {
            let folder = world.crash().await;
            world = World::restart_around(folder, setup, around.clone()).await;
        }
        for n in 0..2 {
            let key = format!("{time}-{n}");
            let receipt = send(&world, &key).await;
            let segment = format!("seg-2026-11-22T{hour:02}");
            assert_eq!(receipt["segmentId"], segment, "{time}");
            receipts.push((key, receipt));
        }
        // What a clock of the past is asked for again has its receipt all the same.
        let (key, before) = &receipts[receipts.len() / 2];
        let again = send(&world, key).await;
        assert_eq!(again["duplicate"], true, "{time}");
        assert_eq!(place(&again), place(before), "{time}");
    }
    let folder = world.crash().await;
    let world = World::restart_around(folder, QUICK, around).await;
    let promised: Vec<Place> = receipts.iter().map(|(_, told)| place(told)).collect();
    for (n, pair) in promised.windows(2).enumerate() {
        assert_eq!(pair[1].0, pair[0].0 + 1, "leaf {n}");
        assert!(pair[0].1 <= pair[1].1, "segments go back after {n}");
        assert!(pair[0].2 < pair[1].2, "record ids go back after {n}");
    }
    assert_eq!(seen(&world, promised.len()).await, promised);
    for (key, told) in &receipts {
        let again = send(&world, key).await;
        assert_eq!(place(&again), place(told), "{key}");
    }
    assert_eq!(stored(&world).await.len(), promised.len());
}
