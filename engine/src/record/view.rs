//! A record as it lies somewhere: in a frame of the write-ahead log, in the columns of a batch, or as a [`StoredRecord`].
//!
//! What is hashed or put into a batch is read in place. A record of its own has some thirty allocations, and those of a
//! flush are held for a second or two.

use std::borrow::Cow;

use catalog::clock::Timestamp;
use catalog::ids::{RecordId, StreamName, TenantId};
use catalog::policy::RetentionClass;

use super::schema::SALT_BYTES;
use super::stored::{Promoted, StoredRecord};

/// One row of a table of records, borrowed. Its names are as they lie there, and were not checked; labels and sealed
/// fields are in the order of their keys.
pub(crate) struct RecordView<'r> {
    pub(crate) tenant_id: &'r str,
    pub(crate) record_id: RecordId,
    pub(crate) created_at: Timestamp,
    pub(crate) ingested_at: Timestamp,
    pub(crate) stream: &'r str,
    pub(crate) retention_class: &'r str,
    pub(crate) action: Option<&'r str>,
    pub(crate) resource_type: Option<&'r str>,
    pub(crate) resource_id: Option<&'r str>,
    pub(crate) actor_type: Option<&'r str>,
    pub(crate) actor_id: Option<&'r str>,
    pub(crate) trace_id: Option<&'r str>,
    pub(crate) span_id: Option<&'r str>,
    pub(crate) purpose: Option<&'r str>,
    pub(crate) labels: Option<Entries<'r, Option<&'r str>>>,
    pub(crate) context: Option<&'r str>,
    pub(crate) extras: Option<&'r str>,
    pub(crate) schema_version: Option<&'r str>,
    pub(crate) policy_version: Option<&'r str>,
    pub(crate) idempotency_key: Option<&'r str>,
    pub(crate) promoted: Vec<PromotedView<'r>>,
    pub(crate) leaf_index: Option<i64>,
    pub(crate) segment_id: Option<&'r str>,
    pub(crate) salt: [u8; SALT_BYTES],
    pub(crate) sealed_fields: Entries<'r, &'r str>,
    pub(crate) payload_hash: Option<&'r str>,
    pub(crate) key_digest: Option<&'r str>,
    pub(crate) leaf_layout: &'r str,
}

/// A value in a column of its own, borrowed.
pub(crate) struct PromotedView<'r> {
    pub(crate) column: &'r str,
    pub(crate) pointer: Cow<'r, str>,
    pub(crate) value: Option<&'r str>,
}

/// What a map has in a row.
pub(super) type Entries<'r, V> = Vec<(&'r str, V)>;

/// A key stands twice in a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doubled;

/// Brings entries into the order of their keys, in which they mostly are.
pub(super) fn sort<V>(entries: &mut [(&str, V)]) -> Result<(), Doubled> {
    let is_before = |one: &(&str, V), next: &(&str, V)| one.0 < next.0;
    if entries.is_sorted_by(is_before) {
        return Ok(());
    }
    entries.sort_by_key(|(key, _)| *key);
    if entries.is_sorted_by(is_before) {
        Ok(())
    } else {
        Err(Doubled)
    }
}

/// A name in a row is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoName;

/// Names that the row before had: they are mostly the same, and need not be checked again.
#[derive(Default)]
pub(super) struct Names {
    tenant: Option<TenantId>,
    stream: Option<StreamName>,
    retention_class: Option<RetentionClass>,
}

impl RecordView<'_> {
    /// The record by itself.
    pub(super) fn to_stored(&self, names: &mut Names) -> Result<StoredRecord, NoName> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let labels = self.labels.as_ref().map(|labels| {
            let labels = labels.iter();
            labels
                .map(|(key, value)| ((*key).to_owned(), owned(*value)))
                .collect()
        });
        let sealed = self.sealed_fields.iter();
        Ok(StoredRecord {
            tenant_id: again(
                &mut names.tenant,
                TenantId::as_str,
                self.tenant_id,
                |text| TenantId::from_stored(text).ok(),
            )?,
            record_id: self.record_id,
            created_at: self.created_at,
            ingested_at: self.ingested_at,
            stream: again(&mut names.stream, StreamName::as_str, self.stream, |text| {
                StreamName::parse(text).ok()
            })?,
            retention_class: again(
                &mut names.retention_class,
                RetentionClass::as_str,
                self.retention_class,
                RetentionClass::parse,
            )?,
            action: owned(self.action),
            resource_type: owned(self.resource_type),
            resource_id: owned(self.resource_id),
            actor_type: owned(self.actor_type),
            actor_id: owned(self.actor_id),
            trace_id: owned(self.trace_id),
            span_id: owned(self.span_id),
            purpose: owned(self.purpose),
            labels,
            context: owned(self.context),
            extras: owned(self.extras),
            schema_version: owned(self.schema_version),
            policy_version: owned(self.policy_version),
            idempotency_key: owned(self.idempotency_key),
            promoted: self
                .promoted
                .iter()
                .map(PromotedView::to_promoted)
                .collect(),
            leaf_index: self.leaf_index,
            segment_id: owned(self.segment_id),
            salt: self.salt,
            sealed_fields: sealed
                .map(|(pointer, value)| ((*pointer).to_owned(), (*value).to_owned()))
                .collect(),
            payload_hash: owned(self.payload_hash),
            key_digest: owned(self.key_digest),
            leaf_layout: self.leaf_layout.to_owned(),
        })
    }
}

impl PromotedView<'_> {
    fn to_promoted(&self) -> Promoted {
        Promoted {
            column: self.column.to_owned(),
            pointer: self.pointer.as_ref().to_owned(),
            value: self.value.map(str::to_owned),
        }
    }
}

impl StoredRecord {
    /// The record where it lies.
    pub(crate) fn view(&self) -> RecordView<'_> {
        let labels = self.labels.as_ref().map(|labels| {
            let labels = labels.iter();
            labels
                .map(|(key, value)| (key.as_str(), value.as_deref()))
                .collect()
        });
        let promoted = self.promoted.iter().map(|promoted| PromotedView {
            column: &promoted.column,
            pointer: Cow::Borrowed(&promoted.pointer),
            value: promoted.value.as_deref(),
        });
        let sealed = self.sealed_fields.iter();
        RecordView {
            tenant_id: self.tenant_id.as_str(),
            record_id: self.record_id,
            created_at: self.created_at,
            ingested_at: self.ingested_at,
            stream: self.stream.as_str(),
            retention_class: self.retention_class.as_str(),
            action: self.action.as_deref(),
            resource_type: self.resource_type.as_deref(),
            resource_id: self.resource_id.as_deref(),
            actor_type: self.actor_type.as_deref(),
            actor_id: self.actor_id.as_deref(),
            trace_id: self.trace_id.as_deref(),
            span_id: self.span_id.as_deref(),
            purpose: self.purpose.as_deref(),
            labels,
            context: self.context.as_deref(),
            extras: self.extras.as_deref(),
            schema_version: self.schema_version.as_deref(),
            policy_version: self.policy_version.as_deref(),
            idempotency_key: self.idempotency_key.as_deref(),
            promoted: promoted.collect(),
            leaf_index: self.leaf_index,
            segment_id: self.segment_id.as_deref(),
            salt: self.salt,
            sealed_fields: sealed
                .map(|(pointer, value)| (pointer.as_str(), value.as_str()))
                .collect(),
            payload_hash: self.payload_hash.as_deref(),
            key_digest: self.key_digest.as_deref(),
            leaf_layout: &self.leaf_layout,
        }
    }
}

/// The name that was there before if the text is the same, or the one that the text is.
fn again<T: Clone>(
    before: &mut Option<T>,
    as_str: impl Fn(&T) -> &str,
    text: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, NoName> {
    if let Some(before) = before
        && as_str(before) == text
    {
        return Ok(before.clone());
    }
    let name = spelt(parse(text), as_str, text)?;
    Ok(before.insert(name).clone())
}

/// The name that a text was parsed as, if it is spelt so: one that parsing folds was not written here.
pub(super) fn spelt<T>(
    parsed: Option<T>,
    as_str: impl Fn(&T) -> &str,
    text: &str,
) -> Result<T, NoName> {
    parsed.filter(|name| as_str(name) == text).ok_or(NoName)
}

/// Says which record, and nothing of what it holds.
impl std::fmt::Debug for RecordView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordView")
            .field("record_id", &self.record_id)
            .finish_non_exhaustive()
    }
}

/// Says where, and nothing of the value.
impl std::fmt::Debug for PromotedView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PromotedView")
            .field("column", &self.column)
            .finish_non_exhaustive()
    }
}
