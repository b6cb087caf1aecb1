//! The columns of the three tables, in one place: order, type, who sees them, what each one means.
//!
//! Visibility: *everyone* sees a column, or only callers *without a row policy* (leaf positions would count hidden rows
//! to the others), or it is *hidden*: in no session's schema at all. Partition columns live in the path of a file and in
//! the Delta log, not in the file. Every column that a mask can reach is nullable from the first file on.
//!
//! Map columns use the names that Parquet and Delta use (`key_value`, `key`, `value`), so no writer renames them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

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

fn map_of(value: DataType) -> DataType {
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
        .find(|column| column.name == name)
}

fn fields_of(columns: &[Column]) -> Vec<Field> {
    columns.iter().map(Column::field).collect()
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Instant,
    Position,
    Bytes,
    TextMap,
    BytesMap,
}

#[derive(Debug)]
struct Column {
    name: &'static str,
    kind: Kind,
    nullable: bool,
    visibility: Visibility,
    maskable: bool,
    about: &'static str,
}

impl Column {
    fn field(&self) -> Field {
        let data_type = match self.kind {
            Kind::Text => DataType::Utf8,
            Kind::Instant => instant(),
            Kind::Position => DataType::Int64,
            Kind::Bytes => DataType::Binary,
            Kind::TextMap => text_map(),
            Kind::BytesMap => map_of(DataType::Binary),
        };
        Field::new(self.name, data_type, self.nullable)
    }
}

/// A column that every row has and no mask may touch.
const fn fixed(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column {
        name,
        kind,
        nullable: false,
        visibility: Visibility::Everyone,
        maskable: false,
        about,
    }
}

/// A column that everyone sees as it is.
const fn shown(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column {
        name,
        kind,
        nullable: true,
        visibility: Visibility::Everyone,
        maskable: false,
        about,
    }
}

/// A column that everyone sees, under their masks.
const fn maskable(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column {
        name,
        kind,
        nullable: true,
        visibility: Visibility::Everyone,
        maskable: true,
        about,
    }
}

/// A column for callers without a row policy.
const fn unrestricted(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column {
        name,
        kind,
        nullable: true,
        visibility: Visibility::WithoutRowPolicy,
        maskable: false,
        about,
    }
}

/// A column of the engine's own.
const fn hidden(name: &'static str, kind: Kind, about: &'static str) -> Column {
    Column {
        name,
        kind,
        nullable: true,
        visibility: Visibility::Hidden,
        maskable: false,
        about,
    }
}

const RECORD_HEAD: &[Column] = &[
    fixed(
        "tenant_id",
        Kind::Text,
        "Tenant the record belongs to, in lower case",
    ),
    fixed(
        "record_id",
        Kind::Text,
        "ULID given by the server, in order of arrival within the tenant",
    ),
    maskable(
        "created_at",
        Kind::Instant,
        "When the act happened, as the sender says (UTC)",
    ),
    fixed(
        "ingested_at",
        Kind::Instant,
        "When the server took the record in (UTC); retention counts from here",
    ),
    shown(
        "stream",
        Kind::Text,
        "Stream of the tenant the record was sent to",
    ),
    hidden("ingest_date", Kind::Text, "Day of ingested_at, YYYY-MM-DD"),
    hidden(
        "retention_class",
        Kind::Text,
        "Retention class that policy gave the record when it was written",
    ),
    maskable(
        "action",
        Kind::Text,
        "What was done, namespaced: Appointment.Booked",
    ),
    maskable("resource_type", Kind::Text, "Kind of thing it was done to"),
    maskable("resource_id", Kind::Text, "Which thing it was done to"),
    maskable(
        "actor_type",
        Kind::Text,
        "User, Service, System, Device, External, Unknown, or the sender's own word",
    ),
    maskable(
        "actor_id",
        Kind::Text,
        "Who did it: user, client or device id",
    ),
    maskable("trace_id", Kind::Text, "W3C trace id of the request"),
    maskable("span_id", Kind::Text, "W3C span id of the request"),
    maskable(
        "purpose",
        Kind::Text,
        "Why it was done, when the sender says so",
    ),
    maskable("labels", Kind::TextMap, "Low-cardinality tags"),
    maskable(
        "context",
        Kind::Text,
        "Free-form details as JSON text (RFC 8785)",
    ),
    maskable(
        "extras",
        Kind::Text,
        "Fields of newer schema versions, kept as JSON text (RFC 8785)",
    ),
    shown(
        "schema_version",
        Kind::Text,
        "Version of the record schema the sender used, major.minor",
    ),
    shown(
        "policy_version",
        Kind::Text,
        "Policy under which the record was written, tenant:<id>@<n>",
    ),
    maskable(
        "idempotency_key",
        Kind::Text,
        "Key under which the sender may repeat the record",
    ),
];

const RECORD_TAIL: &[Column] = &[
    unrestricted(
        "leaf_index",
        Kind::Position,
        "Position in the stream's Merkle log",
    ),
    unrestricted(
        "segment_id",
        Kind::Text,
        "Sealed segment the record belongs to",
    ),
    hidden(
        "salt",
        Kind::Bytes,
        "Random salt from which the salts of the leaf are expanded",
    ),
    hidden(
        "field_salts",
        Kind::BytesMap,
        "Salts that survive once a field of the record is rewritten away",
    ),
    hidden(
        "commitments",
        Kind::BytesMap,
        "Commitments that stand for fields rewritten away",
    ),
    hidden(
        "sealed_fields",
        Kind::TextMap,
        "Classed values cut out of the record, JSON text by JSON pointer",
    ),
    hidden(
        "subject_ref",
        Kind::Text,
        "Pseudonym of the subject the record concerns",
    ),
    hidden(
        "payload_hash",
        Kind::Text,
        "Keyed hash of the payload as it was sent",
    ),
    hidden(
        "key_digest",
        Kind::Text,
        "Keyed digest of the idempotency key as it was sent: what duplicates are found by",
    ),
    hidden(
        "leaf_layout",
        Kind::Text,
        "JSON array of the paths committed apart in the leaf",
    ),
];

const EVIDENCE_PROMOTED: &[Column] = &[
    shown(
        "operation",
        Kind::Text,
        "What was asked for: Read, Write, Policy.Updated and so on",
    ),
    shown("decision", Kind::Text, "Allow, Deny or Quarantine"),
    shown(
        "problem",
        Kind::Text,
        "Slug of the problem the caller was answered with",
    ),
    shown("masking_profile", Kind::Text, "Masking profile in force"),
    shown("residency", Kind::Text, "Silo the decision was made for"),
    shown(
        "basis",
        Kind::Text,
        "What the decision rests on, comma separated",
    ),
    shown(
        "plan_digest",
        Kind::Text,
        "SHA-256 of the verified plan, hexadecimal",
    ),
    shown("statement", Kind::Text, "SQL with its literals stripped"),
    shown(
        "correlation_id",
        Kind::Text,
        "Correlation id the caller was given",
    ),
];

const QUARANTINE: &[Column] = &[
    fixed(
        "tenant_id",
        Kind::Text,
        "Tenant the record belongs to, in lower case",
    ),
    fixed("record_id", Kind::Text, "ULID of the quarantine entry"),
    fixed(
        "ingested_at",
        Kind::Instant,
        "When the server put the record aside (UTC)",
    ),
    hidden("ingest_date", Kind::Text, "Day of ingested_at, YYYY-MM-DD"),
    shown(
        "stream",
        Kind::Text,
        "Stream of the tenant the record was sent to",
    ),
    hidden(
        "retention_class",
        Kind::Text,
        "Retention class that policy gave the entry",
    ),
    shown(
        "reason",
        Kind::Text,
        "Slug of the problem that kept the record out",
    ),
    maskable(
        "idempotency_key",
        Kind::Text,
        "Key under which the record was sent",
    ),
    shown(
        "payload",
        Kind::Text,
        "The redacted record as JSON text (RFC 8785)",
    ),
    hidden(
        "payload_hash",
        Kind::Text,
        "Keyed hash of the payload as it was sent",
    ),
    shown(
        "policy_version",
        Kind::Text,
        "Policy under which the entry was written, tenant:<id>@<n>",
    ),
    shown(
        "correlation_id",
        Kind::Text,
        "Correlation id the sender was given",
    ),
    shown(
        "entry_id",
        Kind::Text,
        "Entry that the row is about: itself, or the one that it decides",
    ),
    shown(
        "state",
        Kind::Text,
        "open for an entry; released or discarded for what was decided of it",
    ),
    shown(
        "decision_reason",
        Kind::Text,
        "Why it was decided so, in the words of who did",
    ),
    shown("decided_by", Kind::Text, "Subject who decided"),
    hidden(
        "sealed_record",
        Kind::Bytes,
        "The redacted record itself, as it is stored when the entry is released",
    ),
];

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
        for schema in [records(&["user_name"]), evidence(), quarantine()] {
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
