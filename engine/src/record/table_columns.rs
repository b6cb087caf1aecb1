//! The columns themselves: name, type, who sees them, what each one means.

use arrow::datatypes::{DataType, Field};

use super::schema::{Visibility, instant, map_of, text_map};

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    Instant,
    Position,
    Bytes,
    TextMap,
    BytesMap,
}

#[derive(Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    kind: Kind,
    nullable: bool,
    pub(super) visibility: Visibility,
    pub(super) maskable: bool,
    pub(super) about: &'static str,
}

impl Column {
    pub(super) fn field(&self) -> Field {
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

pub(super) const RECORD_HEAD: &[Column] = &[
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

pub(super) const RECORD_TAIL: &[Column] = &[
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

pub(super) const EVIDENCE_PROMOTED: &[Column] = &[
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

pub(super) const QUARANTINE: &[Column] = &[
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

pub(super) const SEGMENTS: &[Column] = &[
    fixed(
        "tenant_id",
        Kind::Text,
        "Tenant whose log it is, in lower case",
    ),
    shown("stream", Kind::Text, "Stream whose log it is"),
    maskable(
        "seal_number",
        Kind::Position,
        "How many seals the log has before this one",
    ),
    unrestricted("segment_id", Kind::Text, "Segment that is sealed"),
    maskable(
        "first_leaf",
        Kind::Position,
        "Position of its first record in the stream's Merkle log",
    ),
    maskable("leaf_count", Kind::Position, "How many records it has"),
    maskable(
        "segment_root",
        Kind::Text,
        "Root over its records, unpadded base64url",
    ),
    maskable(
        "prev_root",
        Kind::Text,
        "Root of the segment sealed before, unpadded base64url",
    ),
    maskable(
        "tree_size",
        Kind::Position,
        "How many records the log has up to its end",
    ),
    maskable(
        "tree_root",
        Kind::Text,
        "Root over those, unpadded base64url",
    ),
    maskable("algo", Kind::Text, "How it is hashed and signed"),
    maskable("signed_at", Kind::Instant, "When it was sealed (UTC)"),
    maskable("key_id", Kind::Text, "Key that signed the seal"),
    maskable("signature", Kind::Text, "Signature of the seal, base64"),
    maskable("silo", Kind::Text, "Silo that the log lies in"),
    maskable("origin", Kind::Text, "Name of the log in its checkpoints"),
];
