//! The columns of the tables, in one place: order, type, who sees them, what each one means.
//!
//! Visibility: *everyone* sees a column, or only callers *without a row policy* (leaf positions would count hidden rows
//! to the others), or it is *hidden*: in no session's schema at all. Partition columns live in the path of a file and in
//! the Delta log, not in the file. Every column that a mask can reach is nullable from the first file on.
//!
//! Map columns use the names that Parquet and Delta use (`key_value`, `key`, `value`), so no writer renames them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use super::table_columns::{
    Column, EVIDENCE_PROMOTED, QUARANTINE, RECORD_HEAD, RECORD_TAIL, SEGMENTS,
};

/// The Delta partition columns of every table, in path order.
pub const PARTITIONS: [&str; 3] = ["stream", "ingest_date", "retention_class"];

/// Bytes of a record's salt.
pub const SALT_BYTES: usize = 16;

/// Who finds a column in their session's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Every caller who may read the table.
    Everyone,
    /// Callers whose policy hides no rows from them.
    WithoutRowPolicy,
    /// Nobody: it serves proofs, masks and partitioning.
    Hidden,
}

/// The schema of `audit.records`; `promoted` columns stand between the record's own and the leaf's.
///
/// A promoted name that is taken by a column of the table adds nothing: the column of the table wins.
pub fn records<S: AsRef<str>>(promoted: &[S]) -> SchemaRef {
    let mut fields = fields_of(RECORD_HEAD);
    for name in promoted {
        let name = name.as_ref();
        if !is_reserved(name) && !fields.iter().any(|field| field.name() == name) {
            fields.push(Field::new(name, DataType::Utf8, true));
        }
    }
    fields.extend(fields_of(RECORD_TAIL));
    Arc::new(Schema::new(fields))
}

/// The schema of `audit.evidence`: that of records, with the parts of a decision as promoted columns.
pub fn evidence() -> SchemaRef {
    let names: Vec<&str> = EVIDENCE_PROMOTED.iter().map(|column| column.name).collect();
    records(&names)
}

/// The names of the columns that evidence has beyond those of a record, in schema order.
pub fn evidence_columns() -> impl Iterator<Item = &'static str> {
    EVIDENCE_PROMOTED.iter().map(|column| column.name)
}

/// The schema of `audit.quarantine`.
pub fn quarantine() -> SchemaRef {
    Arc::new(Schema::new(fields_of(QUARANTINE)))
}

/// The schema of `audit.segments`: the seals of the tenant's logs, which no table holds.
pub fn segments() -> SchemaRef {
    Arc::new(Schema::new(fields_of(SEGMENTS)))
}

/// Whether a column is in no session's schema.
pub fn is_hidden(name: &str) -> bool {
    visibility(name) == Visibility::Hidden
}

/// Who sees a column. Names that are not built in are promoted columns, which everyone sees, masked as policy says.
pub fn visibility(name: &str) -> Visibility {
    built_in(name).map_or(Visibility::Everyone, |column| column.visibility)
}

/// Whether a masking rule may name the column: it is nullable, and nothing in the engine relies on its value.
pub fn is_maskable(name: &str) -> bool {
    built_in(name).is_none_or(|column| column.maskable)
}

/// Whether the name belongs to a column of `records`, so that no promoted column can take it.
pub fn is_reserved(name: &str) -> bool {
    record_columns().any(|column| column.name == name)
}

/// One line on what a column holds: the column comment that clients show. `None` for promoted columns.
pub fn description(name: &str) -> Option<&'static str> {
    built_in(name).map(|column| column.about)
}

/// The data type of map columns with text values.
pub(crate) fn text_map() -> DataType {
    map_of(DataType::Utf8)
}

/// The fields of one entry of a map column.
pub(crate) fn map_entry_fields(value: DataType) -> Fields {
    Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", value, true),
    ])
}

/// The data type of instants.
pub(crate) fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub(super) fn map_of(value: DataType) -> DataType {
    let entries = DataType::Struct(map_entry_fields(value));
    DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
}

fn record_columns() -> impl Iterator<Item = &'static Column> {
    RECORD_HEAD.iter().chain(RECORD_TAIL)
}

fn built_in(name: &str) -> Option<&'static Column> {
    record_columns()
        .chain(EVIDENCE_PROMOTED)
        .chain(QUARANTINE)
        .chain(SEGMENTS)
        .find(|column| column.name == name)
}

fn fields_of(columns: &[Column]) -> Vec<Field> {
    columns.iter().map(Column::field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(schema: &Schema) -> Vec<&str> {
        schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect()
    }

    #[test]
    fn promoted_columns_stand_before_the_leaf_and_never_take_a_name() {
        let schema = records(&["user_name", "salt", "user_name", "tenant_id"]);
        let names = names(&schema);
        assert_eq!(names.iter().filter(|name| **name == "user_name").count(), 1);
        assert_eq!(names.iter().filter(|name| **name == "salt").count(), 1);
        assert_eq!(
            schema.fields().len(),
            RECORD_HEAD.len() + 1 + RECORD_TAIL.len()
        );
        let at = |name| schema.index_of(name).unwrap();
        assert_eq!(at("user_name"), at("idempotency_key") + 1);
        assert_eq!(at("user_name"), at("leaf_index") - 1);
        assert_eq!(schema.field(at("salt")).data_type(), &DataType::Binary);
    }

    #[test]
    fn what_proofs_and_partitions_need_is_in_no_session() {
        for name in [
            "salt",
            "field_salts",
            "commitments",
            "sealed_fields",
            "subject_ref",
            "payload_hash",
            "key_digest",
            "leaf_layout",
        ] {
            assert!(is_hidden(name), "{name}");
            assert!(records::<&str>(&[]).index_of(name).is_ok(), "{name}");
        }
        assert_eq!(visibility("leaf_index"), Visibility::WithoutRowPolicy);
        assert_eq!(visibility("segment_id"), Visibility::WithoutRowPolicy);
        assert_eq!(visibility("user_name"), Visibility::Everyone);
    }

    #[test]
    fn every_maskable_column_is_nullable() {
        for schema in [
            records(&["user_name"]),
            evidence(),
            quarantine(),
            segments(),
        ] {
            for field in schema.fields() {
                assert!(
                    !is_maskable(field.name()) || field.is_nullable(),
                    "{}",
                    field.name()
                );
            }
        }
    }

    #[test]
    fn every_table_has_the_partitions_and_a_line_on_each_column() {
        for schema in [records::<&str>(&[]), evidence(), quarantine()] {
            for name in PARTITIONS {
                assert_eq!(
                    schema.field_with_name(name).unwrap().data_type(),
                    &DataType::Utf8
                );
            }
            for field in schema.fields() {
                assert!(
                    description(field.name()).is_some_and(|line| !line.is_empty()),
                    "{}",
                    field.name()
                );
            }
        }
    }

    #[test]
    fn evidence_is_a_record_with_the_parts_of_a_decision() {
        let schema = evidence();
        for name in evidence_columns() {
            assert_eq!(
                schema.field_with_name(name).unwrap().data_type(),
                &DataType::Utf8,
                "{name}"
            );
        }
        assert_eq!(
            schema.fields().len(),
            RECORD_HEAD.len() + 9 + RECORD_TAIL.len()
        );
    }
}
