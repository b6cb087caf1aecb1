//! Batches become rows again: what a table gives back is the record that was stored, whole and equal.
//!
//! Promoted values find their pointers in `leaf_layout`; a promoted column that the layout of a row does not name, as all
//! those of evidence, stood at the top of its record.

use std::borrow::Cow;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, BinaryArray, Int64Array, MapArray, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use catalog::clock::Timestamp;
use catalog::ids::RecordId;

use super::layout::{Entry, Layout};
use super::schema;
use super::stored::StoredRecord;
use super::view::{Doubled, Entries, Names, NoName, PromotedView, RecordView, sort};

/// A row that holds no record as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a row of the table is no record: {what}")]
pub struct Unreadable {
    /// What is wrong, in words that name nothing of the tenant's.
    pub what: &'static str,
}

/// Columns that are null until a value of the record was rewritten away.
const REWRITTEN: [&str; 3] = ["field_salts", "commitments", "subject_ref"];

/// The records of a batch of `records` or `evidence`, in the order of its rows. The columns may stand in any order.
///
/// # Errors
/// If a column is missing or of another type than [`schema::records`] says, a required value is null or malformed, or the
/// record was rewritten since it was stored.
pub fn records_of(batch: &RecordBatch) -> Result<Vec<StoredRecord>, Unreadable> {
    let columns = Columns::of(batch)?;
    let mut names = Names::default();
    (0..batch.num_rows())
        .map(|row| {
            let view = columns.view(row)?;
            view.to_stored(&mut names).map_err(|NoName| malformed())
        })
        .collect()
}

/// The same where they lie: no name is checked, nor anything of the layout beyond that it can be read.
///
/// # Errors
/// As [`records_of`], but for names.
pub(crate) fn views_of(
    batch: &RecordBatch,
) -> Result<impl Iterator<Item = Result<RecordView<'_>, Unreadable>>, Unreadable> {
    let columns = Columns::of(batch)?;
    Ok((0..batch.num_rows()).map(move |row| columns.view(row)))
}

/// The columns of a batch, each looked up once.
struct Columns<'b> {
    tenant_id: Text<'b>,
    record_id: Text<'b>,
    created_at: &'b TimestampMicrosecondArray,
    ingested_at: &'b TimestampMicrosecondArray,
    stream: Text<'b>,
    retention_class: Text<'b>,
    action: Text<'b>,
    resource_type: Text<'b>,
    resource_id: Text<'b>,
    actor_type: Text<'b>,
    actor_id: Text<'b>,
    trace_id: Text<'b>,
    span_id: Text<'b>,
    purpose: Text<'b>,
    labels: Maps<'b>,
    context: Text<'b>,
    extras: Text<'b>,
    schema_version: Text<'b>,
    policy_version: Text<'b>,
    idempotency_key: Text<'b>,
    leaf_index: &'b Int64Array,
    segment_id: Text<'b>,
    salt: &'b BinaryArray,
    sealed_fields: Maps<'b>,
    payload_hash: Text<'b>,
    key_digest: Text<'b>,
    leaf_layout: Text<'b>,
    promoted: Vec<(&'b str, &'b StringArray)>,
}

/// A column of text.
#[derive(Clone, Copy)]
struct Text<'b>(&'b StringArray);

/// A column of maps.
#[derive(Clone, Copy)]
struct Maps<'b> {
    maps: &'b MapArray,
    keys: &'b StringArray,
    values: &'b StringArray,
}

impl<'b> Columns<'b> {
    fn of(batch: &'b RecordBatch) -> Result<Self, Unreadable> {
        let mut promoted = Vec::new();
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            if !schema::is_reserved(field.name()) {
                let texts = column.as_string_opt().ok_or(Unreadable {
                    what: "a promoted column is no text",
                })?;
                promoted.push((field.name().as_str(), texts));
            }
        }
        for name in REWRITTEN {
            if column(batch, name)?.null_count() != batch.num_rows() {
                return Err(Unreadable {
                    what: "values of it were rewritten",
                });
            }
        }
        let text = |name| Text::of(batch, name);
        Ok(Self {
            tenant_id: text("tenant_id")?,
            record_id: text("record_id")?,
            created_at: instants(batch, "created_at")?,
            ingested_at: instants(batch, "ingested_at")?,
            stream: text("stream")?,
            retention_class: text("retention_class")?,
            action: text("action")?,
            resource_type: text("resource_type")?,
            resource_id: text("resource_id")?,
            actor_type: text("actor_type")?,
            actor_id: text("actor_id")?,
            trace_id: text("trace_id")?,
            span_id: text("span_id")?,
            purpose: text("purpose")?,
            labels: Maps::of(batch, "labels")?,
            context: text("context")?,
            extras: text("extras")?,
            schema_version: text("schema_version")?,
            policy_version: text("policy_version")?,
            idempotency_key: text("idempotency_key")?,
            leaf_index: column(batch, "leaf_index")?
                .as_primitive_opt::<Int64Type>()
                .ok_or_else(other_type)?,
            segment_id: text("segment_id")?,
            salt: column(batch, "salt")?
                .as_binary_opt()
                .ok_or_else(other_type)?,
            sealed_fields: Maps::of(batch, "sealed_fields")?,
            payload_hash: text("payload_hash")?,
            key_digest: text("key_digest")?,
            leaf_layout: text("leaf_layout")?,
            promoted,
        })
    }

    fn view(&self, row: usize) -> Result<RecordView<'b>, Unreadable> {
        let leaf_layout = self.leaf_layout.required(row)?;
        Ok(RecordView {
            tenant_id: self.tenant_id.required(row)?,
            record_id: RecordId::parse(self.record_id.required(row)?).map_err(|_| malformed())?,
            created_at: instant(self.created_at, row)?,
            ingested_at: instant(self.ingested_at, row)?,
            stream: self.stream.required(row)?,
            retention_class: self.retention_class.required(row)?,
            action: self.action.get(row),
            resource_type: self.resource_type.get(row),
            resource_id: self.resource_id.get(row),
            actor_type: self.actor_type.get(row),
            actor_id: self.actor_id.get(row),
            trace_id: self.trace_id.get(row),
            span_id: self.span_id.get(row),
            purpose: self.purpose.get(row),
            labels: self.labels.entries(row, Ok)?,
            context: self.context.get(row),
            extras: self.extras.get(row),
            schema_version: self.schema_version.get(row),
            policy_version: self.policy_version.get(row),
            idempotency_key: self.idempotency_key.get(row),
            promoted: self.promoted(leaf_layout, row)?,
            leaf_index: self
                .leaf_index
                .is_valid(row)
                .then(|| self.leaf_index.value(row)),
            segment_id: self.segment_id.get(row),
            salt: self.salt(row)?,
            sealed_fields: self
                .sealed_fields
                .entries(row, |value| value.ok_or_else(missing))?
                .unwrap_or_default(),
            payload_hash: self.payload_hash.get(row),
            key_digest: self.key_digest.get(row),
            leaf_layout,
        })
    }

    fn salt(&self, row: usize) -> Result<[u8; schema::SALT_BYTES], Unreadable> {
        if self.salt.is_null(row) {
            return Err(missing());
        }
        self.salt.value(row).try_into().map_err(|_| malformed())
    }

    /// Those that the layout names, in its order, then those that only have a value.
    fn promoted(&self, layout: &'b str, row: usize) -> Result<Vec<PromotedView<'b>>, Unreadable> {
        let layout = Layout::parse(layout).map_err(|_| malformed())?;
        let mut found = Vec::new();
        for entry in layout.entries() {
            if let Entry::Promoted { column, pointer } = entry {
                let texts = self.promoted.iter().find(|(name, _)| *name == column);
                let (column, texts) = texts.ok_or_else(missing)?;
                found.push(PromotedView {
                    column,
                    pointer: Cow::Owned(pointer.to_owned()),
                    value: texts.is_valid(row).then(|| texts.value(row)),
                });
            }
        }
        for (name, texts) in &self.promoted {
            if texts.is_valid(row) && found.iter().all(|named| named.column != *name) {
                found.push(PromotedView {
                    column: name,
                    pointer: Cow::Owned(format!("/{name}")),
                    value: Some(texts.value(row)),
                });
            }
        }
        Ok(found)
    }
}

impl<'b> Text<'b> {
    fn of(batch: &'b RecordBatch, name: &str) -> Result<Self, Unreadable> {
        let texts = column(batch, name)?.as_string_opt();
        texts.map(Self).ok_or_else(other_type)
    }

    fn get(self, row: usize) -> Option<&'b str> {
        self.0.is_valid(row).then(|| self.0.value(row))
    }

    fn required(self, row: usize) -> Result<&'b str, Unreadable> {
        self.get(row).ok_or_else(missing)
    }
}

impl<'b> Maps<'b> {
    fn of(batch: &'b RecordBatch, name: &str) -> Result<Self, Unreadable> {
        let maps: &MapArray = column(batch, name)?.as_map_opt().ok_or_else(other_type)?;
        let text = |column: &'b ArrayRef| column.as_string_opt().ok_or_else(other_type);
        Ok(Self {
            maps,
            keys: text(maps.keys())?,
            values: text(maps.values())?,
        })
    }

    fn entries<V>(
        self,
        row: usize,
        value: impl Fn(Option<&'b str>) -> Result<V, Unreadable>,
    ) -> Result<Option<Entries<'b, V>>, Unreadable> {
        if self.maps.is_null(row) {
            return Ok(None);
        }
        let offsets = self.maps.value_offsets();
        let at = |row: usize| usize::try_from(offsets[row]).unwrap_or(0);
        let (keys, values) = (Text(self.keys), Text(self.values));
        let entries = (at(row)..at(row + 1))
            .map(|entry| Ok((keys.required(entry)?, value(values.get(entry))?)));
        let mut entries: Entries<'b, V> = entries.collect::<Result<_, _>>()?;
        sort(&mut entries).map_err(|Doubled| malformed())?;
        Ok(Some(entries))
    }
}

fn instants<'b>(
    batch: &'b RecordBatch,
    name: &str,
) -> Result<&'b TimestampMicrosecondArray, Unreadable> {
    let column = column(batch, name)?;
    if *column.data_type() != schema::instant() {
        return Err(other_type());
    }
    column
        .as_primitive_opt::<TimestampMicrosecondType>()
        .ok_or_else(other_type)
}

fn instant(micros: &TimestampMicrosecondArray, row: usize) -> Result<Timestamp, Unreadable> {
    if micros.is_null(row) {
        return Err(missing());
    }
    Ok(Timestamp::from_micros(micros.value(row)))
}

fn column<'b>(
    batch: &'b RecordBatch,
    name: &str,
) -> Result<&'b dyn arrow::array::Array, Unreadable> {
    let column = batch.column_by_name(name).ok_or(Unreadable {
        what: "a column is missing",
    })?;
    Ok(column.as_ref())
}

fn malformed() -> Unreadable {
    Unreadable {
        what: "a value is malformed",
    }
}

fn missing() -> Unreadable {
    Unreadable {
        what: "a required value is missing",
    }
}

fn other_type() -> Unreadable {
    Unreadable {
        what: "a column has another type",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, StringArray};
    use proptest::prelude::*;

    use super::*;
    use crate::record::batch;
    use crate::record::testing;

    fn replaced(name: &str, column: ArrayRef) -> RecordBatch {
        let batch = batch::records::<&str>(&[testing::full()], &[]).unwrap();
        let index = batch.schema().index_of(name).unwrap();
        let mut fields = batch.schema().fields().to_vec();
        fields[index] = Arc::new(arrow::datatypes::Field::new(
            name,
            column.data_type().clone(),
            true,
        ));
        let mut columns = batch.columns().to_vec();
        columns[index] = column;
        RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), columns).unwrap()
    }

    #[test]
    fn a_row_that_is_no_record_is_refused() {
        let text = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text])) };
        let none: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>]));
        let bytes = |bytes: &[u8]| -> ArrayRef { Arc::new(BinaryArray::from(vec![bytes])) };
        for (name, column) in [
            ("record_id", text("x")),
            ("tenant_id", text("A B")),
            ("stream", Arc::clone(&none)),
            ("retention_class", text("")),
            ("created_at", text("1")),
            ("leaf_layout", text("{}")),
            ("leaf_layout", text(r#"["nobody:/context/x"]"#)),
            ("leaf_layout", none),
            ("leaf_index", text("1")),
            ("labels", text("{}")),
            ("salt", bytes(&[1; 15])),
            ("subject_ref", text("s")),
        ] {
            assert!(records_of(&replaced(name, column)).is_err(), "{name}");
        }
        let batch = batch::records::<&str>(&[testing::full()], &[]).unwrap();
        let without: Vec<usize> = (1..batch.num_columns()).collect();
        assert!(records_of(&batch.project(&without).unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn rows_come_back_equal(mut rows in prop::collection::vec(testing::stored(), 0..4)) {
            rows.sort_by_key(|row| std::cmp::Reverse((row.created_at, row.record_id)));
            let batch = batch::records::<&str>(&rows, &["unused"]).unwrap();
            prop_assert!(records_of(&batch).unwrap() == rows);
        }
    }
}
