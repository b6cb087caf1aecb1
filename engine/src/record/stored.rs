//! A record as it is stored: one row, redacted, before it becomes part of a batch.

use std::collections::BTreeMap;
use std::fmt;

use catalog::clock::Timestamp;
use catalog::ids::{RecordId, StreamName, TenantId};
use catalog::policy::RetentionClass;
use serde_json::{Map, Value};

use super::canonical::{NoCanonicalForm, merge_extras, text};
use super::json;
use super::restore::put_back;
use super::schema::SALT_BYTES;

/// One row of a table of records. The columns are described in [`super::schema`].
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema describes each column once")]
pub struct StoredRecord {
    pub tenant_id: TenantId,
    pub record_id: RecordId,
    pub created_at: Timestamp,
    pub ingested_at: Timestamp,
    pub stream: StreamName,
    pub retention_class: RetentionClass,
    pub action: Option<String>,
    pub resource_type: Option<String>,
    pub resource_id: Option<String>,
    pub actor_type: Option<String>,
    pub actor_id: Option<String>,
    pub trace_id: Option<String>,
    pub span_id: Option<String>,
    pub purpose: Option<String>,
    pub labels: Option<BTreeMap<String, Option<String>>>,
    pub context: Option<String>,
    pub extras: Option<String>,
    pub schema_version: Option<String>,
    pub policy_version: Option<String>,
    pub idempotency_key: Option<String>,
    pub promoted: Vec<Promoted>,
    pub leaf_index: Option<i64>,
    pub segment_id: Option<String>,
    pub salt: [u8; SALT_BYTES],
    pub sealed_fields: BTreeMap<String, String>,
    pub payload_hash: Option<String>,
    pub key_digest: Option<String>,
    pub leaf_layout: String,
}

/// A value in a column of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Promoted {
    /// The column.
    pub column: String,
    /// Where the value stood in the record.
    pub pointer: String,
    /// The value after its write rule; null if that was what stood there, or what the rule left.
    pub value: Option<String>,
}

/// How many columns are text or nothing.
pub(super) const OPTIONAL_TEXTS: usize = 16;

impl StoredRecord {
    /// The columns that are text or nothing, in the order in which a frame has them.
    pub(super) fn optional_texts(&self) -> [&Option<String>; OPTIONAL_TEXTS] {
        [
            &self.action,
            &self.resource_type,
            &self.resource_id,
            &self.actor_type,
            &self.actor_id,
            &self.trace_id,
            &self.span_id,
            &self.purpose,
            &self.context,
            &self.extras,
            &self.schema_version,
            &self.policy_version,
            &self.idempotency_key,
            &self.segment_id,
            &self.payload_hash,
            &self.key_digest,
        ]
    }

    /// All texts that the record has, keys and pointers among them.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        let names = [
            self.tenant_id.as_str(),
            self.stream.as_str(),
            self.retention_class.as_str(),
            self.leaf_layout.as_str(),
        ];
        let columns = self.optional_texts().into_iter().flatten();
        let labels = self.labels.iter().flatten();
        let labels = labels.flat_map(|(key, value)| [Some(key.as_str()), value.as_deref()]);
        let promoted = self.promoted.iter().flat_map(|promoted| {
            let Promoted {
                column,
                pointer,
                value,
            } = promoted;
            [Some(column.as_str()), Some(pointer), value.as_deref()]
        });
        let sealed = self.sealed_fields.iter();
        let sealed = sealed.flat_map(|(pointer, value)| [pointer.as_str(), value]);
        let columns = columns.map(String::as_str);
        let maps = labels.chain(promoted).flatten().chain(sealed);
        names.into_iter().chain(columns).chain(maps)
    }

    /// The redacted record in the shape it was sent in, as RFC 8785 text: what quarantine keeps of a payload.
    ///
    /// # Errors
    /// If a value has no canonical form; none that was stored by [`super::redact`] lacks one.
    pub fn redacted_json(&self) -> Result<String, NoCanonicalForm> {
        let mut form = Map::new();
        let set = |form: &mut Map<String, Value>, key: &str, value: Option<&str>| {
            if let Some(value) = value {
                form.insert(key.to_owned(), value.into());
            }
        };
        set(&mut form, "tenantId", Some(self.tenant_id.as_str()));
        set(&mut form, "idempotencyKey", self.idempotency_key.as_deref());
        set(&mut form, "createdAt", Some(&self.created_at.to_string()));
        set(&mut form, "action", self.action.as_deref());
        set(&mut form, "purpose", self.purpose.as_deref());
        set(&mut form, "schemaVersion", self.schema_version.as_deref());
        for (name, members) in [
            (
                "resource",
                [("type", &self.resource_type), ("id", &self.resource_id)],
            ),
            (
                "actor",
                [("type", &self.actor_type), ("id", &self.actor_id)],
            ),
            (
                "correlation",
                [("traceId", &self.trace_id), ("spanId", &self.span_id)],
            ),
        ] {
            let mut object = Map::new();
            for (key, value) in members {
                set(&mut object, key, value.as_deref());
            }
            form.insert(name.to_owned(), object.into());
        }
        if let Value::Object(mut documents) = self.documents() {
            if let Some(Value::Object(extras)) = documents.remove("extras") {
                merge_extras(&mut form, &extras);
            }
            form.extend(documents);
        }
        text(&Value::Object(form))
    }

    /// `context`, `labels` and `extras` with what was cut out of them back in its place.
    fn documents(&self) -> Value {
        let mut documents = Map::new();
        for (name, document) in [("context", &self.context), ("extras", &self.extras)] {
            let read = document
                .as_ref()
                .and_then(|document| json::parse(document.as_bytes()).ok());
            documents.extend(read.map(|value| (name.to_owned(), value)));
        }
        if let Some(labels) = &self.labels {
            let labels = labels
                .iter()
                .map(|(key, value)| (key.clone(), value.clone().into()));
            documents.insert("labels".to_owned(), Value::Object(labels.collect()));
        }
        let mut documents = Value::Object(documents);
        let sealed = self.sealed_fields.iter().map(|(pointer, value)| {
            let value = json::parse(value.as_bytes()).unwrap_or_default();
            (pointer, value)
        });
        let promoted = self.promoted.iter().map(|promoted| {
            let value = promoted.value.clone().map_or(Value::Null, Value::String);
            (&promoted.pointer, value)
        });
        // In the order of the pointers a container comes before what it contains.
        for (pointer, value) in sealed.chain(promoted).collect::<BTreeMap<_, _>>() {
            put_back(&mut documents, pointer, value);
        }
        documents
    }
}

/// Says which record, and nothing of what it holds.
impl fmt::Debug for StoredRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredRecord")
            .field("record_id", &self.record_id)
            .finish_non_exhaustive()
    }
}

/// Says where, and nothing of the value.
impl fmt::Debug for Promoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Promoted")
            .field("column", &self.column)
            .finish_non_exhaustive()
    }
}
