//! Pages over a whole service: every record once, as it came in but for masks, and cursors that are of use to one only.

use std::time::Duration;

use catalog::clock::{ManualClock, Timestamp};
use catalog::guard;
use catalog::ids::RecordId;
use engine::query::listing::{Listing, Position};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::cursor;
use super::tests::{Answer, RECORDS};
use crate::auth::developer::TokenRequest;
use crate::problem::Slug;
use crate::world::{World, bearer, record};

const QUERY: &str = "/v1/query";

fn at(minute: usize) -> String {
    format!(
        "2026-01-02T{:02}:{:02}:00.000000Z",
        minute / 60,
        minute % 60
    )
}

/// A record of this minute.
fn numbered(minute: usize) -> Value {
    let mut record = record(&format!("n-{minute}"));
    record["createdAt"] = at(minute).into();
    record["action"] = ["Order.Placed", "Order.Paid"][minute % 2].into();
    record["resource"] = json!({ "type": "Order", "id": format!("o-{}", minute % 5) });
    let env = ["prod", "test"][minute % 2];
    record["labels"] = json!({ "env": env, "it's": "x" });
    record["context"] = json!({ "minute": minute, "nested": { "a": [1, "b", null] } });
    record
}

async fn filled(minutes: impl IntoIterator<Item = usize>) -> World {
    let world = World::new().await;
    for minute in minutes {
        store(&world, &numbered(minute)).await;
    }
    world
}

async fn store(world: &World, record: &Value) {
    let stored = world.post(RECORDS, record.to_string(), &[]).await;
    assert_eq!(stored.status, StatusCode::OK, "{}", stored.body);
}

fn of(world: &World, role: &str) -> String {
    format!("Bearer {}", world.token("acme", &[role], &[]))
}

async fn ask(world: &World, token: &str, question: Value) -> Answer {
    let headers = [("authorization", token)];
    world.post(QUERY, question.to_string(), &headers).await
}

/// The members of this name.
fn told(answer: &Answer, member: &str) -> Vec<String> {
    let records = answer.body["records"].as_array();
    let records = records.unwrap_or_else(|| panic!("{}", answer.body));
    let members = records
        .iter()
        .map(|record| record[member].as_str().unwrap());
    members.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_record_comes_once_while_others_arrive() {
    let world = filled(0..11).await;
    // Two at the same time.
    let mut twin = numbered(5);
    twin["idempotencyKey"] = "twin".into();
    store(&world, &twin).await;
    let token = of(&world, "Audit.Investigator");
    for (sort, newer) in [("-createdAt", 100), ("createdAt", 0)] {
        let mut question = json!({ "sort": sort, "limit": 3, "timeRange": { "to": at(60) } });
        let (mut times, mut ids) = (Vec::new(), Vec::new());
        for page in 0.. {
            let answer = ask(&world, &token, question.clone()).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
            assert_eq!(answer.headers["cache-control"], "no-store");
            times.extend(told(&answer, "createdAt"));
            ids.extend(told(&answer, "recordId"));
            // Behind the page or outside of the question, wherever that is.
            let mut late = numbered(newer + page);
            late["idempotencyKey"] = format!("late-{sort}-{page}").into();
            late["createdAt"] = [at(600 + page), "2026-01-01T00:00:00Z".into()]
                [usize::from(newer == 0)]
            .clone()
            .into();
            store(&world, &late).await;
            let next = &answer.body["nextCursor"];
            if next.is_null() {
                break;
            }
            question["cursor"] = next.clone();
        }
        let mut wanted: Vec<String> = (0..11).chain([5]).map(at).collect();
        wanted.sort();
        if newer == 100 {
            wanted.reverse();
        } else {
            // What came before the first page began with.
            times.retain(|time| time.as_str() >= at(0).as_str());
        }
        assert_eq!(times, wanted, "{sort}");
        let all = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all, "{sort}");
    }
}

#[tokio::test]
async fn a_record_looks_as_it_came_in() {
    let world = filled(0..4).await;
    let token = of(&world, "Audit.Investigator");
    let answer = ask(&world, &token, json!({ "limit": 1 })).await;
    let shown = &answer.body["records"][0];
    let sent = numbered(3);
    for member in [
        "createdAt",
        "action",
        "resource",
        "actor",
        "labels",
        "context",
    ] {
        assert_eq!(shown[member], sent[member], "{shown}");
    }
    assert_eq!(
        shown["correlation"]["traceId"],
        sent["correlation"]["traceId"]
    );
    assert_eq!(shown["stream"], "audit.default");
    assert!(RecordId::parse(answer.body["receiptId"].as_str().unwrap()).is_ok());
    let receipt = format!(
        "/v1/receipts/{}",
        answer.body["receiptId"].as_str().unwrap()
    );
    let receipt = world.get(&receipt, &token).await;
    assert_eq!(receipt.body["receipt"]["rows"], 1, "{}", receipt.body);
}

#[tokio::test]
async fn records_are_chosen_by_what_is_listed() {
    let world = filled(0..10).await;
    let token = of(&world, "Audit.Investigator");
    for (question, parameters, minutes) in [
        (
            json!({ "filters": { "action": "Order.Paid" } }),
            "action=Order.Paid",
            vec![9, 7, 5, 3, 1],
        ),
        (
            json!({ "filters": { "resource.id": ["o-1", "o-2"], "action": "Order.Paid" } }),
            "resource.id=o-1&action=Order.Paid&resource.id=o-2",
            vec![7, 1],
        ),
        (
            json!({ "filters": { "labels.env": "prod", "labels.it's": "x" } }),
            "labels.env=prod&labels.it%27s=x",
            vec![8, 6, 4, 2, 0],
        ),
        (
            json!({ "timeRange": { "from": at(2), "to": at(4) }, "filters": { "tenantId": "acme" } }),
            "from=2026-01-02T00:02:00Z&to=2026-01-02T00:04:00Z&tenantId=acme",
            vec![3, 2],
        ),
        (
            json!({ "filters": { "actor.id": "ann", "actor.type": "User", "resource.type": "Order" }, "sort": "createdAt", "limit": 2 }),
            "actor.id=ann&actor.type=User&resource.type=Order&sort=createdAt&limit=2",
            vec![0, 1],
        ),
        (
            json!({ "filters": { "labels.none": "x" } }),
            "labels.none=x",
            vec![],
        ),
        (
            json!({ "filters": { "action": "' OR 1=1 --" } }),
            "action='%20OR%201=1%20--",
            vec![],
        ),
        (
            json!({ "stream": "audit.security" }),
            "stream=audit.security",
            vec![],
        ),
    ] {
        let wanted: Vec<String> = minutes.into_iter().map(at).collect();
        let posted = ask(&world, &token, question).await;
        assert_eq!(told(&posted, "createdAt"), wanted, "{parameters}");
        let got = world.get(&format!("{QUERY}?{parameters}"), &token).await;
        assert_eq!(told(&got, "createdAt"), wanted, "{parameters}");
    }
}

#[tokio::test]
async fn what_is_masked_is_shown_masked_and_chosen_by_nobody() {
    let world = filled(0..3).await;
    let token = of(&world, "Audit.Reader");
    let answer = ask(&world, &token, json!({})).await;
    assert_eq!(told(&answer, "createdAt").len(), 3);
    assert!(!answer.body.to_string().contains("ann"), "{}", answer.body);
    let answer = ask(&world, &token, json!({ "filters": { "actor.id": "ann" } })).await;
    answer.is_problem("unsupported-filter", 400);
    assert_eq!(answer.body["field"], "actor_id");
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_says_what_to_do() {
    let world = filled(0..1).await;
    let token = of(&world, "Audit.Investigator");
    for (question, slug, status) in [
        (
            json!({ "filters": { "context.minute": "1" } }),
            "unsupported-filter",
            400,
        ),
        (
            json!({ "filters": { "idempotencyKey": "n-1" } }),
            "unsupported-filter",
            400,
        ),
        (json!({ "sort": "action" }), "unsupported-sort", 400),
        (json!({ "limit": 0 }), "invalid-query", 400),
        (json!({ "limit": 1001 }), "invalid-query", 400),
        (json!({ "limit": "x" }), "invalid-query", 400),
        (json!({ "offset": 7 }), "invalid-query", 400),
        (json!({ "filters": { "action": [] } }), "invalid-query", 400),
        (json!({ "filters": { "action": 7 } }), "invalid-query", 400),
        (
            json!({ "filters": { "action": "x".repeat(4_097) } }),
            "invalid-query",
            400,
        ),
        (
            json!({ "timeRange": { "from": "yesterday" } }),
            "invalid-query",
            400,
        ),
        (json!({ "stream": "no stream" }), "invalid-query", 400),
        (json!({ "cursor": "x" }), "invalid-cursor", 400),
        (
            json!({ "filters": { "tenantId": "globex" } }),
            "cross-tenant-query",
            403,
        ),
        (json!([]), "invalid-query", 400),
    ] {
        ask(&world, &token, question).await.is_problem(slug, status);
    }
    for (parameters, slug) in [
        ("limit=1&limit=2", "invalid-query"),
        ("from=x", "invalid-query"),
        ("sort=recordId", "unsupported-sort"),
        ("nothing=1", "unsupported-filter"),
    ] {
        let answer = world.get(&format!("{QUERY}?{parameters}"), &token).await;
        answer.is_problem(slug, 400);
    }
    let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
    let answer = ask(&world, &token, json!({ "filters": { "action": many } })).await;
    answer.is_problem("invalid-query", 400);
    let writer = format!("Bearer {}", world.writer());
    ask(&world, &writer, json!({}))
        .await
        .is_problem("forbidden", 403);
}

#[tokio::test]
async fn a_cursor_is_of_use_to_one_only() {
    let world = filled(0..3).await;
    world.onboard("globex").await;
    let token = of(&world, "Audit.Investigator");
    let question = json!({ "limit": 1, "filters": { "action": "Order.Placed" } });
    let first = ask(&world, &token, question.clone()).await;
    let cursor = first.body["nextCursor"].as_str().unwrap().to_owned();
    let with = |cursor: &str| {
        let mut question = question.clone();
        question["cursor"] = cursor.into();
        question
    };
    let second = ask(&world, &token, with(&cursor)).await;
    assert_eq!(told(&second, "createdAt"), [at(0)]);

    let request = TokenRequest {
        subject: "another".to_owned(),
        tenant: Some("acme".to_owned()),
        roles: vec!["Audit.Investigator".to_owned()],
        ..TokenRequest::default()
    };
    let (developer, now) = (
        world.service.developer.as_ref().unwrap(),
        world.service.clock.now(),
    );
    let another = developer.mint(&request, Duration::from_secs(600), now);
    let foreign = world.token("globex", &["Audit.Investigator"], &[]);
    for other in [
        format!("Bearer {another}"),
        format!("Bearer {foreign}"),
        of(&world, "Audit.Admin"),
    ] {
        ask(&world, &other, with(&cursor))
            .await
            .is_problem("invalid-cursor", 400);
    }
    let mut elsewhere = with(&cursor);
    elsewhere["filters"]["action"] = "Order.Paid".into();
    ask(&world, &token, elsewhere)
        .await
        .is_problem("invalid-cursor", 400);
    for place in (0..cursor.len()).step_by(7) {
        let mut tampered = cursor.clone().into_bytes();
        tampered[place] = if tampered[place] == b'A' { b'B' } else { b'A' };
        let tampered = String::from_utf8(tampered).unwrap();
        ask(&world, &token, with(&tampered))
            .await
            .is_problem("invalid-cursor", 400);
    }
}

#[tokio::test]
async fn a_cursor_expires() {
    let world = World::new().await;
    let service = &world.service;
    let token = world.token("acme", &["Audit.Reader"], &[]);
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, bearer(&token))]);
    let context = service.context(&headers).await.unwrap();
    let request = guard::Request::at(world.silo.clone());
    let permit = service
        .gate
        .authorize_planning(&context, request)
        .await
        .unwrap();
    let (root, listing) = (service.cursor_key().unwrap(), Listing::default());
    let clock = ManualClock::new(Timestamp::from_micros(1_000_000));
    let end = Position {
        created_at: Timestamp::from_micros(17),
        record_id: RecordId::parse("01KDVDN0000000000000000001").unwrap(),
    };
    let made = cursor::seal(
        (&root, &*service.random, &clock),
        permit.decision(),
        &listing,
        end,
    );
    let made = made.unwrap();
    let open = || cursor::open((&root, &clock), permit.decision(), &listing, &made);
    clock.advance(Duration::from_secs(24 * 60 * 60) - Duration::from_micros(1));
    assert_eq!(open().unwrap(), end);
    clock.advance(Duration::from_micros(1));
    assert_eq!(open().unwrap_err().slug(), Slug::InvalidCursor);
}
