//! The columns of a record's table, as far as a policy needs to know them.

/// The JSON column that holds what a record says beyond its own fields.
pub const CONTEXT: &str = "context";
/// The map column.
pub const LABELS: &str = "labels";

/// What kind of value a column holds; it decides which rules can apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColumnKind {
    /// Text.
    Text,
    /// Text that holds a JSON object.
    Json,
    /// Microseconds UTC.
    Timestamp,
    /// Text to text.
    Map,
    /// Ours alone: a policy cannot speak about it, and its name is free for keys in `context`.
    Other,
}

/// One column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name in SQL.
    pub name: &'static str,
    /// What it holds.
    pub kind: ColumnKind,
    /// Whether a rule may change it before it is stored.
    pub rewritable: bool,
    /// Whether a profile may mask it when it is read.
    pub maskable: bool,
}

/// The column of this name, hidden ones included.
#[must_use]
pub fn find(name: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.name == name)
}

/// All columns of the records table, hidden and partition columns included. A promoted column has none of these names.
pub const COLUMNS: &[Column] = &[
    fixed("tenant_id", ColumnKind::Text),
    fixed("record_id", ColumnKind::Text),
    masked("created_at", ColumnKind::Timestamp),
    fixed("ingested_at", ColumnKind::Timestamp),
    fixed("stream", ColumnKind::Text),
    fixed("ingest_date", ColumnKind::Text),
    fixed("retention_class", ColumnKind::Text),
    masked("action", ColumnKind::Text),
    masked("resource_type", ColumnKind::Text),
    free("resource_id", ColumnKind::Text),
    masked("actor_type", ColumnKind::Text),
    free("actor_id", ColumnKind::Text),
    free("trace_id", ColumnKind::Text),
    free("span_id", ColumnKind::Text),
    free("purpose", ColumnKind::Text),
    free(LABELS, ColumnKind::Map),
    free(CONTEXT, ColumnKind::Json),
    free("extras", ColumnKind::Json),
    fixed("schema_version", ColumnKind::Text),
    fixed("policy_version", ColumnKind::Text),
    free("idempotency_key", ColumnKind::Text),
    fixed("segment_id", ColumnKind::Other),
    fixed("leaf_index", ColumnKind::Other),
    fixed("salt", ColumnKind::Other),
    fixed("field_salts", ColumnKind::Other),
    fixed("commitments", ColumnKind::Other),
    fixed("sealed_fields", ColumnKind::Other),
    fixed("subject_ref", ColumnKind::Other),
    fixed("payload_hash", ColumnKind::Other),
    fixed("key_digest", ColumnKind::Other),
    fixed("leaf_layout", ColumnKind::Other),
];

const fn fixed(name: &'static str, kind: ColumnKind) -> Column {
    Column {
        name,
        kind,
        rewritable: false,
        maskable: false,
    }
}

const fn masked(name: &'static str, kind: ColumnKind) -> Column {
    Column {
        name,
        kind,
        rewritable: false,
        maskable: true,
    }
}

const fn free(name: &'static str, kind: ColumnKind) -> Column {
    Column {
        name,
        kind,
        rewritable: true,
        maskable: true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_what_can_be_rewritten_can_be_masked() {
        let names: BTreeSet<_> = COLUMNS.iter().map(|column| column.name).collect();
        assert_eq!(names.len(), COLUMNS.len());
        assert!(
            COLUMNS
                .iter()
                .all(|column| column.maskable || !column.rewritable)
        );
    }
}
