//! Bodies that no sender should send: what is wrong is said at its place, and everything else goes through.

use std::io::{self, Write as _};

use axum::body::Body;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::StatusCode;
use serde_json::{Value, json};

use super::tests::{Answer, BATCH, RECORDS, changed};
use crate::world::{World, record};

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn line(key: &str) -> String {
    record(key).to_string() + "\n"
}

fn statuses(answer: &Answer) -> Vec<u64> {
    let results = answer.body["results"].as_array().unwrap();
    let statuses = results.iter().map(|one| one["status"].as_u64().unwrap());
    statuses.collect()
}

fn summary(accepted: u64, duplicates: u64, quarantined: u64, rejected: u64) -> Value {
    json!({
        "accepted": accepted, "duplicates": duplicates, "quarantined": quarantined, "rejected": rejected,
    })
}

#[tokio::test]
async fn a_broken_line_is_its_own_problem_only() {
    let world = World::new().await;
    let deep = "[".repeat(1_000);
    let good = record("x").to_string();
    let with = |context: &str| good.replacen('{', &format!("{{\"context\":{context},"), 1);
    let broken: Vec<Vec<u8>> = vec![
        b"{\"tenantId\": \"acme".to_vec(),
        [with("{\"a\":\"").as_bytes(), &[0xff, 0xfe]].concat(),
        with("{\"a\":NaN}").into_bytes(),
        with("{\"a\":9007199254740993}").into_bytes(),
        with("{\"a\":1,\"a\":2}").into_bytes(),
        with(&deep).into_bytes(),
        changed(record("x"), "createdAt", json!("0000-01-01T00:00:00Z"))
            .to_string()
            .into_bytes(),
        changed(record("x"), "createdAt", json!("2999-01-01T00:00:00Z"))
            .to_string()
            .into_bytes(),
        b"null".to_vec(),
    ];
    for (n, broken) in broken.into_iter().enumerate() {
        let (before, after) = (line(&format!("{n}-a")), line(&format!("{n}-b")));
        let body = [before.as_bytes(), &broken, b"\n", after.as_bytes()].concat();
        let answer = world.post(BATCH, body, &[]).await;
        assert_eq!(statuses(&answer), [200, 400, 200], "{}", answer.body);
        assert_eq!(answer.body["summary"], summary(2, 0, 0, 1));
        let result = &answer.body["results"][1];
        assert_eq!((&result["index"], &result["line"]), (&json!(1), &json!(2)));
        assert!(result["problem"]["violations"][0]["message"].is_string());
    }
}

#[tokio::test]
async fn a_batch_beyond_a_limit_is_taken_up_to_it() {
    let world = World::new().await;
    let lines: String = (0..5).map(|n| line(&n.to_string())).collect();
    let answer = world.post(BATCH, lines.clone(), &[]).await;
    answer.is_problem("payload-too-large", 413);
    assert_eq!(statuses(&answer), [200; 4]);
    assert_eq!(
        (&answer.body["stoppedAtLine"], &answer.body["linesMax"]),
        (&json!(5), &json!(4))
    );
    assert_eq!(answer.body["summary"], summary(4, 0, 0, 0));
    // What was stored is known when it is sent again.
    let four = lines.lines().take(4).collect::<Vec<_>>().join("\n");
    let answer = world.post(BATCH, four, &[]).await;
    assert_eq!(answer.body["summary"], summary(0, 4, 0, 0));
    // Announced, it is not even read; unannounced, it is read up to the limit.
    let long = line("5") + &"x".repeat(10_000);
    let announced = [("content-length", "10001")];
    let answer = world.post(BATCH, long.clone(), &announced).await;
    answer.is_problem("payload-too-large", 413);
    assert!(answer.body["results"].is_null());
    let answer = world.post(BATCH, in_pieces(long), &[]).await;
    answer.is_problem("payload-too-large", 413);
    assert_eq!(
        (statuses(&answer), &answer.body["stoppedAtLine"]),
        (vec![200], &json!(2))
    );
}

fn in_pieces(text: String) -> Body {
    let pieces: Vec<_> = text
        .as_bytes()
        .chunks(700)
        .map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece)))
        .collect();
    Body::from_stream(futures::stream::iter(pieces))
}

#[tokio::test]
async fn a_connection_that_breaks_stores_whole_lines_and_the_rest_is_sent_again() {
    let world = World::new().await;
    let whole = line("1") + &line("2") + &line("3");
    let (arrived, _) = whole.split_at(whole.len() - 20);
    let pieces = [
        Ok(Bytes::copy_from_slice(arrived.as_bytes())),
        Err(io::Error::other("reset")),
    ];
    let broken = Body::from_stream(futures::stream::iter(pieces));
    let answer = world.post(BATCH, broken, &[]).await;
    answer.is_problem("invalid-record", 400);
    assert_eq!(answer.body["stoppedAtLine"], 3);
    assert_eq!(answer.body["summary"], summary(2, 0, 0, 0));
    let answer = world.post(BATCH, whole, &[]).await;
    assert_eq!(answer.body["summary"], summary(1, 2, 0, 0));
}

#[tokio::test]
async fn batches_may_be_compressed_and_bombs_are_bounded() {
    let world = World::new().await;
    let coded = [("content-encoding", "gzip")];
    let lines = line("1") + &line("2");
    let answer = world.post(BATCH, gzip(lines.as_bytes()), &coded).await;
    assert_eq!(
        answer.body["summary"],
        summary(2, 0, 0, 0),
        "{}",
        answer.body
    );
    let bomb = [lines.as_bytes(), &[b' '; 1 << 20]].concat();
    let answer = world.post(BATCH, gzip(&bomb), &coded).await;
    answer.is_problem("payload-too-large", 413);
    assert_eq!(
        (&answer.body["bytesMax"], &answer.body["stoppedAtLine"]),
        (&json!(10_000), &json!(3))
    );
    assert_eq!(answer.body["summary"], summary(0, 2, 0, 0));
    let answer = world.post(BATCH, lines.clone(), &coded).await;
    answer.is_problem("invalid-record", 400);
    let other = [("content-encoding", "zstd")];
    let answer = world.post(BATCH, lines, &other).await;
    answer.is_problem("unsupported-media-type", 415);
}

#[tokio::test]
async fn every_limit_holds_to_the_last_character() {
    let world = World::new().await;
    let cases: &[(&str, &str, usize)] = &[
        ("/idempotencyKey", "k", 256),
        ("/action", "a", 200),
        ("/resource/type", "r", 200),
        ("/actor/type", "T", 32),
        ("/correlation/traceId", "0", 128),
        ("/purpose", "p", 1_024),
    ];
    for (n, (pointer, character, max)) in cases.iter().enumerate() {
        for (length, status) in [(*max, StatusCode::OK), (max + 1, StatusCode::BAD_REQUEST)] {
            let mut sent = record(&n.to_string());
            sent["purpose"] = json!("care");
            *sent.pointer_mut(pointer).unwrap() = json!(character.repeat(length));
            let answer = world.post(RECORDS, sent.to_string(), &[]).await;
            assert_eq!(answer.status, status, "{pointer} {length}: {}", answer.body);
            if length > *max {
                assert_eq!(answer.body["violations"][0]["pointer"], *pointer);
            }
        }
    }
    // An id of the longest name is another tenant's; one longer is nobody's.
    let named = |length: usize| changed(record("t"), "tenantId", json!("t".repeat(length)));
    let answer = world.post(RECORDS, named(128).to_string(), &[]).await;
    answer.is_problem("tenant-mismatch", 202);
    let answer = world.post(RECORDS, named(129).to_string(), &[]).await;
    answer.is_problem("invalid-record", 400);
    let padded = |length: usize| format!("{:<length$}", record("padded").to_string());
    let answer = world.post(RECORDS, padded(2_000), &[]).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let answer = world.post(RECORDS, padded(2_001), &[]).await;
    answer.is_problem("payload-too-large", 413);
}

const EVENTS: &str = "/v1/audit/events";

fn event(id: &str) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "/shop", "type": "com.example.order.placed",
        "time": "2026-01-02T03:04:05Z", "subject": "order/17", "data": {"total": 3},
    })
}

#[tokio::test]
async fn events_are_records_in_each_of_their_three_forms() {
    let world = World::new().await;
    let structured = [(
        "content-type",
        "application/cloudevents+json; charset=utf-8",
    )];
    let first = world
        .post(EVENTS, event("1").to_string(), &structured)
        .await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.body);
    assert_eq!(first.body["duplicate"], false);
    let binary = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "1"),
        ("ce-source", "/shop"),
        ("ce-type", "com.example.order.placed"),
        ("ce-time", "2026-01-02T03:04:05Z"),
        ("ce-subject", "order%2F17"),
    ];
    let again = world.post(EVENTS, "{\"total\": 3}", &binary).await;
    assert_eq!(
        again.body["recordId"], first.body["recordId"],
        "{}",
        again.body
    );
    assert_eq!(again.body["duplicate"], true);
    let batched = [("content-type", "application/cloudevents-batch+json")];
    let late = changed(event("3"), "time", json!("2999-01-01T00:00:00Z"));
    let events = json!([event("1"), event("2"), late, {"id": "4"}]);
    let answer = world.post(EVENTS, events.to_string(), &batched).await;
    assert_eq!(statuses(&answer), [200, 200, 400, 400], "{}", answer.body);
    assert_eq!(answer.body["summary"], summary(1, 1, 0, 2));
    let pointer =
        |index: usize| &answer.body["results"][index]["problem"]["violations"][0]["pointer"];
    assert_eq!(
        (pointer(2), pointer(3)),
        (&json!("/time"), &json!("/specversion"))
    );
}

#[tokio::test]
async fn what_is_no_event_is_answered_with_every_reason() {
    let world = World::new().await;
    let structured = [("content-type", "application/cloudevents+json")];
    let answer = world
        .post(EVENTS, "{\"specversion\": \"0.3\"}", &structured)
        .await;
    answer.is_problem("invalid-record", 400);
    assert_eq!(answer.body["violations"].as_array().unwrap().len(), 5);
    let other = changed(event("1"), "data", json!({"total": 4}));
    assert_eq!(
        world
            .post(EVENTS, event("1").to_string(), &structured)
            .await
            .status,
        200
    );
    let answer = world.post(EVENTS, other.to_string(), &structured).await;
    answer.is_problem("idempotency-conflict", 409);
    for body in ["", "{", "[]", "null"] {
        let answer = world.post(EVENTS, body, &structured).await;
        answer.is_problem("invalid-record", 400);
    }
    let batched = [("content-type", "application/cloudevents-batch+json")];
    for body in ["", "{}", "[", "[]"] {
        let answer = world.post(EVENTS, body, &batched).await;
        answer.is_problem("invalid-record", 400);
    }
    let five = Value::Array((0..5).map(|n| event(&n.to_string())).collect());
    let answer = world.post(EVENTS, five.to_string(), &batched).await;
    answer.is_problem("payload-too-large", 413);
    let answer = world.post(EVENTS, "{}", &[]).await;
    answer.is_problem("unsupported-media-type", 415);
}
