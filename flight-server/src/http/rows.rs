//! Rows of records as JSON, in the form that records have when they come in.

use arrow::array::{Array, AsArray, MapArray, RecordBatch, StringArray};
use arrow::datatypes::TimestampMicrosecondType;
use catalog::clock::Timestamp;
use serde_json::{Map, Value, json};

/// Columns that go to a member of their own, or to one of an object: column, object, member.
const MEMBERS: &[(&str, Option<&str>, &str)] = &[
    ("record_id", None, "recordId"),
    ("stream", None, "stream"),
    ("action", None, "action"),
    ("resource_type", Some("resource"), "type"),
    ("resource_id", Some("resource"), "id"),
    ("actor_type", Some("actor"), "type"),
    ("actor_id", Some("actor"), "id"),
    ("trace_id", Some("correlation"), "traceId"),
    ("span_id", Some("correlation"), "spanId"),
    ("purpose", None, "purpose"),
    ("schema_version", None, "schemaVersion"),
    ("policy_version", None, "policyVersion"),
];
const INSTANTS: &[(&str, &str)] = &[("created_at", "createdAt"), ("ingested_at", "ingestedAt")];
/// Columns whose text is JSON, unless a mask has taken its place.
const DOCUMENTS: &[&str] = &["context", "extras"];
const LABELS: &str = "labels";

/// A column has another type than the tables have.
#[derive(Debug)]
pub(super) struct Unexpected;

/// Bytes that the rows take, some of which they may share with others.
pub(super) fn bytes(batch: &RecordBatch) -> usize {
    batch.get_array_memory_size()
}

/// Adds a record for each row; what is null is left out.
pub(super) fn add(
    batch: &RecordBatch,
    records: &mut Vec<Map<String, Value>>,
) -> Result<(), Unexpected> {
    let first = records.len();
    records.extend((0..batch.num_rows()).map(|_| Map::new()));
    let (_, records) = records.split_at_mut(first);
    for (column, object, member) in MEMBERS {
        let column = texts(batch, column)?;
        for (record, value) in records.iter_mut().zip(column) {
            let Some(value) = value else { continue };
            match object {
                None => drop(record.insert((*member).to_owned(), value.into())),
                Some(object) => {
                    let object = record.entry(*object).or_insert_with(|| json!({}));
                    object[*member] = value.into();
                }
            }
        }
    }
    for (column, member) in INSTANTS {
        let column = batch.column_by_name(column).ok_or(Unexpected)?;
        let column = column.as_primitive_opt::<TimestampMicrosecondType>();
        for (record, micros) in records.iter_mut().zip(column.ok_or(Unexpected)?) {
            let Some(micros) = micros else { continue };
            let instant = Timestamp::from_micros(micros).to_string();
            record.insert((*member).to_owned(), instant.into());
        }
    }
    for name in DOCUMENTS {
        for (record, text) in records.iter_mut().zip(texts(batch, name)?) {
            let Some(text) = text else { continue };
            let document = serde_json::from_str(text).unwrap_or_else(|_| text.into());
            record.insert((*name).to_owned(), document);
        }
    }
    add_labels(batch, records)
}

fn add_labels(batch: &RecordBatch, records: &mut [Map<String, Value>]) -> Result<(), Unexpected> {
    let labels = batch.column_by_name(LABELS).ok_or(Unexpected)?;
    let labels: &MapArray = labels.as_map_opt().ok_or(Unexpected)?;
    for (row, record) in records
        .iter_mut()
        .enumerate()
        .filter(|(row, _)| labels.is_valid(*row))
    {
        let entries = labels.value(row);
        let [keys, values] = entries.columns() else {
            return Err(Unexpected);
        };
        let (keys, values) = (text(keys)?, text(values)?);
        let entries = keys.iter().flatten().map(str::to_owned);
        let entries = entries.zip(values.iter().map(Value::from));
        record.insert(LABELS.to_owned(), Value::Object(entries.collect()));
    }
    Ok(())
}

fn texts<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b StringArray, Unexpected> {
    text(batch.column_by_name(name).ok_or(Unexpected)?)
}

fn text(column: &arrow::array::ArrayRef) -> Result<&StringArray, Unexpected> {
    column.as_string_opt::<i32>().ok_or(Unexpected)
}
