//! Tests: rows that a row policy hides are in nothing that the caller observes: not as values, numbers, order or batches.
//!
//! Hidden rows of the caller's own tenant lie between the visible ones, as foreign rows do. Two worlds differ in how many
//! there are and in what is in them.

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use catalog::context::Role;

use super::leaks::{in_order, statements};
use super::source::Layout;
use super::testing::{CANARY, Caller, ONE, OTHER, POLICY, World, at, foreign_row, own_row};
use crate::record::batch;
use crate::record::stored::StoredRecord;

/// In every value of a hidden row.
pub(super) const UNSEEN: &str = "unseen";

/// Each of the tests of these is false, or neither true nor false, for one kind of hidden row.
pub(super) const ROWS: &str = r#"
rowPolicies:
  no-hidden: { mandatory: true, where: "action NOT LIKE 'Hidden.%' AND labels['env'] IN ('prod', 'test')" }
  own-unit: { mandatory: true, where: "labels['unit'] = caller.orgUnit AND ticket <> 'T-unseen'" }
"#;

/// How a row comes to be hidden.
const KINDS: usize = 6;

pub(super) fn policy(rows: &str) -> String {
    format!("{POLICY}{rows}")
}

fn of_unit(mut row: StoredRecord, unit: &str) -> StoredRecord {
    let labels = row.labels.get_or_insert_default();
    labels.insert("unit".to_owned(), Some(unit.to_owned()));
    row
}

fn hidden_row(number: i64, copy: usize, world: World) -> StoredRecord {
    let unseen = |what: &str| Some(format!("{UNSEEN}-{what}-{}-{number}-{copy}", world.secret));
    let id = number * 10 + i64::try_from(copy).unwrap() + 100_000;
    let mut row = of_unit(own_row(id, world.secret), "north");
    // Among the visible rows, in time as in the file.
    row.created_at = at(number);
    row.ingested_at = at(number + 1);
    row.resource_type = unseen("type");
    row.resource_id = unseen("resource");
    row.actor_type = unseen("actor");
    row.actor_id = unseen("who");
    row.purpose = unseen("purpose");
    row.context = Some(format!(r#"{{"attempt":"{}"}}"#, unseen("context").unwrap()));
    for promoted in &mut row.promoted {
        promoted.value = unseen("promoted");
    }
    let labels = row.labels.get_or_insert_default();
    match (usize::try_from(number).unwrap() + copy) % KINDS {
        0 => row.action = unseen("action").map(|rest| format!("Hidden.{rest}")),
        1 => row.action = None,
        2 => drop(labels.insert("env".to_owned(), unseen("env"))),
        3 => drop(labels.insert("unit".to_owned(), unseen("unit"))),
        4 => row.labels = None,
        _ => row.promoted[2].value = Some("T-unseen".to_owned()),
    }
    row
}

/// The rows of a world, with this many hidden ones after each visible one.
pub(super) fn records(world: World, count: i64, hidden: usize) -> RecordBatch {
    let mut rows = Vec::new();
    for number in 0..count {
        rows.push(of_unit(own_row(number, world.secret), "north"));
        rows.extend((0..world.foreign).map(|copy| foreign_row(number, copy, world.secret)));
        rows.extend((0..hidden).map(|copy| hidden_row(number, copy, world)));
    }
    batch::records(&rows, &["user_phone", "owner", "ticket"]).unwrap()
}

/// Hidden rows alone, so many of each of these minutes.
pub(super) fn hidden(world: World, minutes: std::ops::Range<i64>, copies: usize) -> RecordBatch {
    let rows =
        minutes.flat_map(|number| (0..copies).map(move |copy| hidden_row(number, copy, world)));
    batch::records(
        &rows.collect::<Vec<_>>(),
        &["user_phone", "owner", "ticket"],
    )
    .unwrap()
}

fn caller(world: World, role: Role, hidden: usize) -> Caller {
    let caller = Caller::under(world, role, &policy(ROWS));
    caller.over(records(world, 12, hidden), Layout::Mixed)
}

fn alone(world: World, hidden: usize, rows: &str) -> Caller {
    let world = World {
        foreign: 0,
        ..world
    };
    let caller = Caller::under(world, Role::Investigator, &policy(rows));
    caller.over(records(world, 12, hidden), Layout::OneTenant)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hidden_rows_are_in_nothing_that_hostile_statements_bring_out() {
    let (one, other) = (caller(ONE, Role::Reader, 1), caller(OTHER, Role::Reader, 3));
    for (sql, is_ordered) in statements() {
        let here = one.observes(sql).await;
        assert!(!here.contains(CANARY), "{sql}\n{here}");
        assert!(!here.contains(UNSEEN), "{sql}\n{here}");
        assert!(!here.contains("Internal"), "{sql}\n{here}");
        if is_ordered {
            let there = other.observes(sql).await;
            assert_eq!(in_order(&here), in_order(&there), "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hidden_rows_are_in_nothing_that_an_unmasked_caller_gets() {
    let (none, many) = (alone(ONE, 0, ROWS), alone(ONE, 4, ROWS));
    for (sql, is_ordered) in statements() {
        let here = many.observes(sql).await;
        assert!(!here.contains(UNSEEN), "{sql}\n{here}");
        if is_ordered {
            let there = none.observes(sql).await;
            assert_eq!(in_order(&here), in_order(&there), "{sql}");
        }
    }
}

#[tokio::test]
async fn positions_and_counts_of_hidden_rows_are_not_there() {
    let restricted = alone(ONE, 3, ROWS);
    for column in ["leaf_index", "segment_id"] {
        let shown = restricted
            .shows(&format!("SELECT {column} FROM records"))
            .await;
        assert!(shown.contains("Invalid"), "{shown}");
    }
    let all = restricted.shows("SELECT * FROM records").await;
    assert!(!all.contains("leaf_index"), "{all}");
    let counted = restricted.shows("SELECT count(*) AS n FROM records").await;
    assert!(counted.contains("| 12 |"), "{counted}");
    for table in ["evidence", "quarantine"] {
        let sql = format!("SELECT count(*) FROM {table}");
        let shown = caller(ONE, Role::AuditAdmin, 1).shows(&sql).await;
        assert!(shown.contains("InvalidQuery"), "{shown}");
    }
    let explained = restricted.shows("EXPLAIN SELECT action FROM records").await;
    assert!(
        explained.contains("RLS.Tenant,RLS.Row.no-hidden,RLS.Row.own-unit,Mask."),
        "{explained}"
    );
    assert!(!explained.contains("Hidden."), "{explained}");
}

#[tokio::test]
async fn the_end_of_a_batch_says_nothing_of_hidden_rows() {
    let mut sizes = Vec::new();
    for hidden in [0, 1, 5] {
        let caller = Caller::under(ONE, Role::Reader, &policy(ROWS));
        let rows = records(World { foreign: 0, ..ONE }, 1500, hidden);
        let caller = caller.over(rows, Layout::OneTenant);
        let batches = caller.rows("SELECT action FROM records").await;
        let rows = batches.expect("rows").into_iter();
        sizes.push(rows.map(|batch| batch.num_rows()).collect::<Vec<_>>());
    }
    assert_eq!(sizes, vec![vec![1024, 476]; 3]);
}

/// Whether an expression is evaluated for a row can hang on the others of its batch: a condition that few rows meet spares
/// the rest of it the others. So what fails tells where batches end, and that must not be among hidden rows.
#[tokio::test]
async fn what_fails_says_nothing_of_hidden_rows() {
    let sql = "SELECT ticket FROM records WHERE created_at + INTERVAL '1' HOUR < '2026-01-01T01:01:00Z' \
               AND 1 / (CASE WHEN ticket = 'T-0' THEN 1 ELSE 0 END) = 1";
    let mut answers = Vec::new();
    for hidden in [0, 3, 4] {
        let world = World { foreign: 0, ..ONE };
        let rows = records(world, 12, hidden);
        let starts = (0..rows.num_rows()).step_by(5);
        let batches = starts.map(|start| rows.slice(start, 5.min(rows.num_rows() - start)));
        let caller = Caller::under(world, Role::Reader, &policy(ROWS));
        let mut caller = caller.reading(vec![batches.collect()], Layout::OneTenant);
        caller.limits.target_partitions = 1;
        answers.push(caller.shows(sql).await);
    }
    assert!(answers[0].contains("T-0"), "{}", answers[0]);
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
}

/// A row policy is a WHERE that the caller does not write.
#[tokio::test]
async fn a_policy_selects_what_the_same_words_select_in_sql() {
    for condition in [
        "action LIKE 'Appointment.%'",
        "action ILIKE 'appointment._ooked'",
        "action NOT LIKE 'Appointment.%'",
        "labels['env'] = 'prod'",
        "labels['env'] <> 'prod'",
        "NOT labels['env'] = 'prod'",
        "labels['nosuch'] IS NULL",
        "labels['nosuch'] = 'a' OR labels['env'] = 'test'",
        "action IN ('Login', 'Hidden.x') OR action IS NULL",
        "action NOT IN ('Login')",
        "created_at >= '2026-01-01T00:03:00Z' AND created_at < '2026-01-01T00:07:00Z'",
        "created_at BETWEEN '2026-01-01T00:03:00Z' AND '2026-01-01T00:07:00Z'",
        "created_at NOT BETWEEN '2026-01-01T00:03:00Z' AND '2026-01-01T00:07:00Z'",
        "ticket = 'T-3' OR NOT (action = 'Login' AND labels['env'] IS NOT NULL)",
        "resource_type > 'B' AND resource_type <= 'User'",
        "labels['owner'] IS NOT NULL",
        "labels['owner'] LIKE '%-3'",
        "(action = 'a' OR action <> 'a') AND labels['unit'] <> 'x'",
    ] {
        let free = alone(ONE, 2, "");
        let asked = format!("SELECT record_id, action FROM records WHERE {condition}");
        let wanted = in_order(&free.shows(&asked).await);
        let condition = condition.replace('\'', "''");
        let rows = format!("rowPolicies: {{ p: {{ mandatory: true, where: '{condition}' }} }}\n");
        let restricted = alone(ONE, 2, &rows);
        let shown = restricted.shows("SELECT record_id, action FROM records");
        assert_eq!(in_order(&shown.await), wanted, "{condition}");
        let read = restricted.read.lock().unwrap().join(",");
        assert!(!read.contains("context"), "{condition}: {read}");
    }
}

#[tokio::test]
async fn an_attribute_that_is_missing_hides_every_row() {
    let rows = "rowPolicies: { p: { mandatory: true, where: \"action <> caller.edition OR action IS NOT NULL\" } }\n";
    let caller = alone(ONE, 2, rows);
    let shown = caller.shows("SELECT count(*) AS n FROM records").await;
    assert!(shown.contains("| 0 |"), "{shown}");
}

/// A column that no row was stored with yet has no value in any.
#[tokio::test]
async fn a_column_that_is_not_stored_yet_is_missing() {
    let fields = POLICY.replace(
        "fields:\n",
        "fields:\n  - { path: context.later, write: KEEP, promote: later }\n",
    );
    for (condition, count) in [
        ("later = 'a'", 0),
        ("later <> 'a'", 0),
        ("later IS NULL", 36),
    ] {
        let rows = format!("rowPolicies: {{ p: {{ mandatory: true, where: \"{condition}\" }} }}\n");
        let caller = Caller::under(ONE, Role::Investigator, &format!("{fields}{rows}"));
        let caller = caller.over(records(ONE, 12, 2), Layout::Mixed);
        let shown = caller.shows("SELECT count(*) AS n FROM records").await;
        assert!(
            shown.contains(&format!("| {count} ")),
            "{condition}: {shown}"
        );
    }
}

#[tokio::test]
async fn columns_keep_their_types_under_masks_and_policies() {
    let reader = caller(ONE, Role::Reader, 1);
    let rows = reader.rows("SELECT * FROM records").await.expect("rows");
    let schema = rows.first().expect("a batch").schema();
    for field in schema.fields() {
        assert!(field.is_nullable(), "{field}");
        let is_map = field.name() == "labels";
        assert_eq!(is_map, matches!(field.data_type(), DataType::Map(..)));
    }
}
