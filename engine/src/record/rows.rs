//! Batches become rows again: what a table gives back is the record that was stored, whole and equal.
//!
//! Promoted values find their pointers in `leaf_layout`; a promoted column that the layout of a row does not name, as all
//! those of evidence, stood at the top of its record.

use std::collections::BTreeMap;

use arrow::array::{Array as _, AsArray as _, BinaryArray, MapArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use catalog::clock::Timestamp;
use catalog::ids::{RecordId, StreamName, TenantId};
use catalog::policy::RetentionClass;

use super::layout::{Entry, Layout};
use super::schema;
use super::stored::{Promoted, StoredRecord};

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
    (0..batch.num_rows())
        .map(|row| columns.record(row))
        .collect()
}

struct Columns<'b> {
    batch: &'b RecordBatch,
    promoted: Vec<(&'b str, &'b StringArray)>,
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
        Ok(Self { batch, promoted })
    }

    fn record(&self, row: usize) -> Result<StoredRecord, Unreadable> {
        let owned = |name| Ok(self.text(name, row)?.map(str::to_owned));
        let leaf_layout = self.required("leaf_layout", row)?;
        Ok(StoredRecord {
            tenant_id: TenantId::from_stored(self.required("tenant_id", row)?)
                .map_err(|_| malformed())?,
            record_id: RecordId::parse(self.required("record_id", row)?)
                .map_err(|_| malformed())?,
            created_at: self.instant("created_at", row)?,
            ingested_at: self.instant("ingested_at", row)?,
            stream: StreamName::parse(self.required("stream", row)?).map_err(|_| malformed())?,
            retention_class: RetentionClass::parse(self.required("retention_class", row)?)
                .ok_or_else(malformed)?,
            action: owned("action")?,
            resource_type: owned("resource_type")?,
            resource_id: owned("resource_id")?,
            actor_type: owned("actor_type")?,
            actor_id: owned("actor_id")?,
            trace_id: owned("trace_id")?,
            span_id: owned("span_id")?,
            purpose: owned("purpose")?,
            labels: self.map("labels", row)?,
            context: owned("context")?,
            extras: owned("extras")?,
            schema_version: owned("schema_version")?,
            policy_version: owned("policy_version")?,
            idempotency_key: owned("idempotency_key")?,
            promoted: self.promoted(leaf_layout, row)?,
            leaf_index: self.position("leaf_index", row)?,
            segment_id: owned("segment_id")?,
            salt: self.salt(row)?,
            sealed_fields: self.sealed_fields(row)?,
            payload_hash: owned("payload_hash")?,
            key_digest: owned("key_digest")?,
            leaf_layout: leaf_layout.to_owned(),
        })
    }

    fn text(&self, name: &str, row: usize) -> Result<Option<&'b str>, Unreadable> {
        let texts: &StringArray = column(self.batch, name)?
            .as_string_opt()
            .ok_or_else(other_type)?;
        Ok(texts.is_valid(row).then(|| texts.value(row)))
    }

    fn required(&self, name: &str, row: usize) -> Result<&'b str, Unreadable> {
        self.text(name, row)?.ok_or_else(missing)
    }

    fn instant(&self, name: &str, row: usize) -> Result<Timestamp, Unreadable> {
        let column = column(self.batch, name)?;
        if *column.data_type() != schema::instant() {
            return Err(other_type());
        }
        let micros = column
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(other_type)?;
        if micros.is_null(row) {
            return Err(missing());
        }
        Ok(Timestamp::from_micros(micros.value(row)))
    }

    fn position(&self, name: &str, row: usize) -> Result<Option<i64>, Unreadable> {
        let positions = column(self.batch, name)?
            .as_primitive_opt::<Int64Type>()
            .ok_or_else(other_type)?;
        Ok(positions.is_valid(row).then(|| positions.value(row)))
    }

    fn salt(&self, row: usize) -> Result<[u8; schema::SALT_BYTES], Unreadable> {
        let salts: &BinaryArray = column(self.batch, "salt")?
            .as_binary_opt()
            .ok_or_else(other_type)?;
        if salts.is_null(row) {
            return Err(missing());
        }
        salts.value(row).try_into().map_err(|_| malformed())
    }

    fn map(
        &self,
        name: &str,
        row: usize,
    ) -> Result<Option<BTreeMap<String, Option<String>>>, Unreadable> {
        let column = column(self.batch, name)?;
        if !matches!(column.data_type(), DataType::Map(..)) {
            return Err(other_type());
        }
        let maps: &MapArray = column.as_map_opt().ok_or_else(other_type)?;
        if maps.is_null(row) {
            return Ok(None);
        }
        let entries = maps.value(row);
        let text = |column: usize| -> Result<&StringArray, Unreadable> {
            entries
                .columns()
                .get(column)
                .and_then(|texts| texts.as_string_opt())
                .ok_or_else(other_type)
        };
        let (keys, values) = (text(0)?, text(1)?);
        let entries = keys.iter().zip(values).map(|(key, value)| {
            let key = key.ok_or_else(missing)?;
            Ok((key.to_owned(), value.map(str::to_owned)))
        });
        entries.collect::<Result<_, _>>().map(Some)
    }

    fn sealed_fields(&self, row: usize) -> Result<BTreeMap<String, String>, Unreadable> {
        let sealed = self.map("sealed_fields", row)?.unwrap_or_default();
        sealed
            .into_iter()
            .map(|(pointer, value)| Ok((pointer, value.ok_or_else(missing)?)))
            .collect()
    }

    /// Those that the layout names, in its order, then those that only have a value.
    fn promoted(&self, layout: &str, row: usize) -> Result<Vec<Promoted>, Unreadable> {
        let layout = Layout::parse(layout).map_err(|_| malformed())?;
        let mut found = Vec::new();
        for entry in layout.entries() {
            if let Entry::Promoted { column, pointer } = entry {
                let texts = self.promoted.iter().find(|(name, _)| *name == column);
                let (_, texts) = texts.ok_or_else(missing)?;
                found.push(Promoted {
                    column: column.to_owned(),
                    pointer: pointer.to_owned(),
                    value: texts.is_valid(row).then(|| texts.value(row).to_owned()),
                });
            }
        }
        for (name, texts) in &self.promoted {
            if texts.is_valid(row) && found.iter().all(|named| named.column != *name) {
                found.push(Promoted {
                    column: (*name).to_owned(),
                    pointer: format!("/{name}"),
                    value: Some(texts.value(row).to_owned()),
                });
            }
        }
        Ok(found)
    }
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
