//! Rows against the same records in JSON, and everything that is not a row of records.

use std::sync::Arc;

use arrow::array::{
    DictionaryArray, Float64Array, Int32Array, Int64Array, LargeStringArray, ListArray, MapArray,
    MapBuilder, NullArray, StringArray, StringBuilder, StringViewArray, StructArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray,
};
use arrow::datatypes::{Field, Int8Type};
use serde_json::json;

use super::super::canonical::payload_hash;
use super::super::parse;
use super::*;

fn own() -> TenantId {
    TenantId::parse("acme").unwrap()
}

fn now() -> Timestamp {
    Timestamp::parse_rfc3339("2026-01-03T00:00:00Z").unwrap()
}

fn text(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

/// The required columns of one row, with changes.
fn one(changes: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let created_at =
        TimestampMicrosecondArray::from(vec![1_767_323_045_678_000]).with_timezone("+02:00");
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("idempotency_key", text(&["k-1"])),
        ("created_at", Arc::new(created_at)),
        ("action", text(&["Order.Placed"])),
        ("resource_type", text(&["Order"])),
        ("resource_id", text(&["17"])),
        ("actor_type", text(&["User"])),
        ("actor_id", text(&["ann"])),
        ("trace_id", text(&["4bf9"])),
    ];
    for (name, column) in changes {
        match columns.iter_mut().find(|(known, _)| *known == name) {
            Some((_, replaced)) => *replaced = column,
            None => columns.push((name, column)),
        }
    }
    let columns = columns
        .into_iter()
        .map(|(name, column)| (name, column, true));
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

/// The same in JSON, with changes.
fn same(changes: Value) -> Value {
    let mut record = json!({
        "tenantId": "acme", "idempotencyKey": "k-1", "createdAt": "2026-01-02T05:04:05.678+02:00",
        "action": "Order.Placed", "resource": {"type": "Order", "id": "17"},
        "actor": {"type": "User", "id": "ann"}, "correlation": {"traceId": "4bf9"},
    });
    if let (Some(members), Value::Object(changes)) = (record.as_object_mut(), changes) {
        members.extend(changes);
    }
    record
}

fn rows(batch: &RecordBatch) -> Vec<Row> {
    let tenant = own();
    let reading = Reading {
        tenant: &tenant,
        now: now(),
        record_bytes_max: RECORD_BYTES_MAX,
    };
    let columns = Columns::of(&batch.schema()).unwrap();
    columns.rows(batch, reading).collect()
}

#[track_caller]
fn record_of(batch: &RecordBatch) -> AuditRecord {
    let row = rows(batch).remove(0);
    match row.record {
        Ok(record) => record,
        Err(refusal) => panic!("{refusal:?}"),
    }
}

#[track_caller]
fn faults(batch: &RecordBatch) -> Vec<String> {
    match rows(batch).remove(0).record {
        Err(Refusal::Invalid(faults)) => faults.into_iter().map(|one| one.pointer).collect(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn misfits(batch: &RecordBatch) -> Vec<String> {
    let misfits = Columns::of(&batch.schema()).unwrap_err();
    misfits.into_iter().map(|one| one.pointer).collect()
}

fn labels(entries: &[(&str, Option<&str>)]) -> ArrayRef {
    let mut builder = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for (key, value) in entries {
        builder.keys().append_value(key);
        builder.values().append_option(*value);
    }
    builder.append(true).unwrap();
    let map: MapArray = builder.finish();
    Arc::new(map)
}

/// `{"room": 3, "ratio": 1.5, "note": null, "tags": ["a", "b"]}`, with the null as Arrow has it.
fn details() -> ArrayRef {
    let tags = ListArray::new(
        Arc::new(Field::new_list_field(DataType::Utf8, true)),
        arrow::buffer::OffsetBuffer::from_lengths([2]),
        text(&["a", "b"]),
        None,
    );
    let nothing = StringArray::from(vec![None::<&str>]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("room", Arc::new(Int32Array::from(vec![3]))),
        ("ratio", Arc::new(Float64Array::from(vec![1.5]))),
        ("note", Arc::new(nothing)),
        ("tags", Arc::new(tags)),
    ];
    let fields = columns
        .into_iter()
        .map(|(name, column)| {
            (
                Arc::new(Field::new(name, column.data_type().clone(), true)),
                column,
            )
        })
        .collect::<Vec<_>>();
    Arc::new(StructArray::from(fields))
}

#[test]
fn a_row_and_its_json_are_one_record_with_one_hash() {
    let details = json!({"room": 3, "ratio": 1.5, "tags": ["a", "b"]});
    let cases: Vec<(RecordBatch, Value)> = vec![
        (one(vec![]), json!({})),
        (
            one(vec![("context", self::details())]),
            json!({"context": details.clone()}),
        ),
        (
            one(vec![("context", text(&[&details.to_string()]))]),
            json!({"context": details}),
        ),
        (
            one(vec![(
                "labels",
                labels(&[("env", Some("prod")), ("gone", None)]),
            )]),
            json!({"labels": {"env": "prod"}}),
        ),
        (
            one(vec![("labels", text(&[r#"{"env": "prod"}"#]))]),
            json!({"labels": {"env": "prod"}}),
        ),
        (
            one(vec![
                ("span_id", text(&["s"])),
                ("purpose", text(&["care"])),
                ("schema_version", text(&["1.2"])),
                ("tenant_id", text(&["Acme"])),
            ]),
            json!({"correlation": {"traceId": "4bf9", "spanId": "s"}, "purpose": "care", "schemaVersion": "1.2"}),
        ),
    ];
    for (batch, json) in cases {
        let terms = Terms {
            now: now(),
            header_key: None,
        };
        let sent = same(json.clone());
        let sent = parse(sent.to_string().as_bytes(), &terms).unwrap();
        let row = record_of(&batch);
        assert_eq!(
            payload_hash(&row).unwrap().as_bytes(),
            payload_hash(&sent).unwrap().as_bytes(),
            "{json}"
        );
        assert!(row == sent, "{json}");
    }
}

#[test]
fn text_is_taken_in_every_layout() {
    let dictionary: DictionaryArray<Int8Type> = ["Order.Placed"].into_iter().collect();
    let layouts: Vec<ArrayRef> = vec![
        Arc::new(dictionary),
        Arc::new(LargeStringArray::from(vec!["Order.Placed"])),
        Arc::new(StringViewArray::from(vec!["Order.Placed"])),
    ];
    for layout in layouts {
        assert_eq!(
            record_of(&one(vec![("action", layout)])).action,
            "Order.Placed"
        );
    }
    let nulls: ArrayRef = Arc::new(NullArray::new(1));
    let batch = one(vec![("purpose", Arc::clone(&nulls)), ("context", nulls)]);
    let record = record_of(&batch);
    assert!(record.purpose.is_none() && record.context.is_none());
}

#[test]
fn times_of_every_unit_are_exact_or_refused() {
    let expected = "2026-01-02T03:04:05.000000Z";
    let zoned: Vec<ArrayRef> = vec![
        Arc::new(TimestampSecondArray::from(vec![1_767_323_045]).with_timezone("UTC")),
        Arc::new(TimestampMillisecondArray::from(vec![1_767_323_045_000]).with_timezone("UTC")),
        Arc::new(
            TimestampNanosecondArray::from(vec![1_767_323_045_000_000_000]).with_timezone("UTC"),
        ),
        text(&["2026-01-02T04:04:05+01:00"]),
    ];
    for column in zoned {
        let record = record_of(&one(vec![("created_at", column)]));
        assert_eq!(record.created_at.to_string(), expected);
    }
    let refused: Vec<ArrayRef> = vec![
        Arc::new(
            TimestampNanosecondArray::from(vec![1_767_323_045_000_000_001]).with_timezone("UTC"),
        ),
        Arc::new(TimestampSecondArray::from(vec![i64::MAX]).with_timezone("UTC")),
        Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX]).with_timezone("UTC")),
        Arc::new(TimestampMicrosecondArray::from(vec![-1]).with_timezone("UTC")),
        Arc::new(TimestampSecondArray::from(vec![1_767_323_045 + 2 * 86_400]).with_timezone("UTC")),
        Arc::new(TimestampSecondArray::from(vec![None]).with_timezone("UTC")),
        text(&["0000-01-01T00:00:00Z"]),
        text(&["yesterday"]),
    ];
    for column in refused {
        assert_eq!(faults(&one(vec![("created_at", column)])), ["/created_at"]);
    }
}

#[test]
fn columns_that_do_not_fit_are_all_named() {
    let naive = Arc::new(TimestampMicrosecondArray::from(vec![0]));
    let number = || Arc::new(Int64Array::from(vec![1])) as ArrayRef;
    let batch = one(vec![
        ("created_at", naive),
        ("action", number()),
        ("labels", number()),
        ("record_id", text(&["x"])),
        ("leaf_index", number()),
        ("Action", text(&["x"])),
        ("no/such~column", text(&["x"])),
    ]);
    assert_eq!(
        misfits(&batch),
        [
            "/created_at",
            "/action",
            "/labels",
            "/record_id",
            "/leaf_index",
            "/Action",
            "/no~1such~0column"
        ]
    );
    let missing = RecordBatch::try_from_iter([("action", text(&["x"]))]).unwrap();
    assert_eq!(misfits(&missing).len(), 7);
    let twice = RecordBatch::try_from_iter([("action", text(&["x"])), ("action", text(&["x"]))]);
    assert!(misfits(&twice.unwrap()).contains(&"/action".to_owned()));
    let nothing: ArrayRef = Arc::new(NullArray::new(1));
    assert_eq!(misfits(&one(vec![("action", nothing)])), ["/action"]);
}

#[test]
fn what_is_wrong_with_a_row_is_said_by_column() {
    let batch = one(vec![
        ("action", text(&[&"x".repeat(201)])),
        ("actor_type", text(&["two words"])),
        (
            "resource_id",
            Arc::new(StringArray::from(vec![None::<&str>])),
        ),
        ("context", text(&["[1,"])),
        ("labels", text(&["[]"])),
        ("stream", text(&["no such name"])),
    ]);
    let mut found = faults(&batch);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "/action",
            "/actor_type",
            "/context/1",
            "/labels",
            "/resource_id",
            "/stream"
        ]
    );
    let keyless = one(vec![(
        "idempotency_key",
        Arc::new(StringArray::from(vec![None::<&str>])),
    )]);
    assert!(matches!(
        rows(&keyless).remove(0).record,
        Err(Refusal::KeyRequired)
    ));
    let named = one(vec![("stream", text(&["audit.security"]))]);
    let stream = rows(&named).remove(0).stream.unwrap();
    assert_eq!(stream.as_str(), "audit.security");
}

#[test]
fn numbers_that_json_does_not_hold_are_refused() {
    let context = |column: ArrayRef| {
        let field = Arc::new(Field::new("n", column.data_type().clone(), true));
        one(vec![(
            "context",
            Arc::new(StructArray::from(vec![(field, column)])),
        )])
    };
    for column in [
        Arc::new(Int64Array::from(vec![(1 << 53) + 1])) as ArrayRef,
        Arc::new(Float64Array::from(vec![f64::NAN])),
        Arc::new(Float64Array::from(vec![f64::INFINITY])),
    ] {
        assert_eq!(faults(&context(column)), ["/context/n"]);
    }
    let kept = record_of(&context(Arc::new(Float64Array::from(vec![1e300]))));
    assert_eq!(Value::Object(kept.context.unwrap()), json!({"n": 1e300}));
    let twice = one(vec![(
        "labels",
        labels(&[("a", Some("1")), ("a", Some("2"))]),
    )]);
    assert_eq!(faults(&twice), ["/labels/a"]);
    // As deep in its column as it may be in a record.
    let nested = |depth: usize| format!("{}{}", "{\"a\":".repeat(depth) + "1", "}".repeat(depth));
    assert!(
        rows(&one(vec![("context", text(&[&nested(63)]))]))
            .remove(0)
            .record
            .is_ok()
    );
    assert_eq!(
        faults(&one(vec![("context", text(&[&nested(64)]))])).len(),
        1
    );
}

#[test]
fn a_row_that_means_much_and_says_little_is_too_large() {
    let long = "x".repeat(RECORD_BYTES_MAX);
    let dictionary: DictionaryArray<Int8Type> = [long.as_str()].into_iter().collect();
    let purpose: ArrayRef = Arc::new(dictionary);
    let row = rows(&one(vec![("purpose", purpose)])).remove(0);
    assert!(matches!(row.record, Err(Refusal::TooLarge)));
    let many = NullArray::new(RECORD_BYTES_MAX);
    let list = ListArray::new(
        Arc::new(Field::new_list_field(DataType::Null, true)),
        arrow::buffer::OffsetBuffer::from_lengths([RECORD_BYTES_MAX]),
        Arc::new(many),
        None,
    );
    let field = Arc::new(Field::new("n", list.data_type().clone(), true));
    let context = StructArray::from(vec![(field, Arc::new(list) as ArrayRef)]);
    let row = rows(&one(vec![("context", Arc::new(context))])).remove(0);
    assert!(matches!(row.record, Err(Refusal::TooLarge)));
}
