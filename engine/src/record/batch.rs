//! Rows become batches: records and evidence sorted as the table is, newest first, and quarantine likewise.

use std::borrow::{Borrow, Cow};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryBuilder, Int64Array, MapBuilder, MapFieldNames, StringArray,
    StringBuilder, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::Field;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use catalog::clock::Timestamp;
use catalog::evidence::EvidenceEntry;
use catalog::ids::{CorrelationId, PolicyVersion, RecordId, StreamName, TenantId};
use catalog::policy::RetentionClass;

use super::schema::{self, SALT_BYTES};
use super::stored::{Promoted, StoredRecord};
use super::view::RecordView;

/// Makes one batch of records, sorted by `created_at` and `record_id`, both descending.
///
/// The batch has the columns of [`schema::records`] for `promoted`, and any promoted column beyond those that a row fills,
/// so that no value is left behind when the policy moves on between redaction and batch.
///
/// # Errors
/// If Arrow refuses the arrays; no set of rows that was built here makes it.
pub fn records<S: AsRef<str>>(
    rows: &[impl Borrow<StoredRecord>],
    promoted: &[S],
) -> Result<RecordBatch, ArrowError> {
    let views: Vec<_> = rows.iter().map(|row| row.borrow().view()).collect();
    of_views(&views, promoted)
}

/// [`records`], of records where they lie.
///
/// # Errors
/// As [`records`].
pub(crate) fn of_views<S: AsRef<str>>(
    rows: &[RecordView<'_>],
    promoted: &[S],
) -> Result<RecordBatch, ArrowError> {
    let mut rows: Vec<&RecordView<'_>> = rows.iter().collect();
    rows.sort_by_key(|row| Reverse((row.created_at, row.record_id)));
    let mut names: Vec<&str> = promoted.iter().map(AsRef::as_ref).collect();
    for value in rows.iter().flat_map(|row| &row.promoted) {
        if !names.contains(&value.column) {
            names.push(value.column);
        }
    }
    let schema = schema::records(&names);
    let columns = schema
        .fields()
        .iter()
        .map(|field| record_column(field, &rows));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(schema, columns)
}

/// What the server adds to a decision to make it a record.
#[derive(Debug, Clone)]
pub struct EvidencePlace {
    /// The id the evidence record gets.
    pub record_id: RecordId,
    /// When it was taken in.
    pub ingested_at: Timestamp,
    /// The partition it goes to.
    pub retention_class: RetentionClass,
    /// Its position in the evidence log.
    pub leaf_index: Option<i64>,
    /// Random bytes.
    pub salt: [u8; SALT_BYTES],
}

/// A decision as a record of the stream `audit.evidence`.
pub fn evidence_record(entry: &EvidenceEntry, place: EvidencePlace) -> StoredRecord {
    let text = |value: &dyn ToString| Some(value.to_string());
    let hexadecimal = |digest: &[u8; 32]| digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let promoted = [
        ("operation", text(&entry.operation)),
        ("decision", text(&entry.decision.as_str())),
        ("problem", entry.slug.map(str::to_owned)),
        ("masking_profile", entry.masking_profile.clone()),
        (
            "residency",
            entry.residency.as_ref().and_then(|silo| text(silo)),
        ),
        (
            "basis",
            Some(entry.basis.join(",")).filter(|basis| !basis.is_empty()),
        ),
        ("plan_digest", entry.plan_digest.as_ref().map(hexadecimal)),
        ("statement", entry.statement.clone()),
        ("correlation_id", text(&entry.correlation)),
    ];
    // A column without a value says the same: rows from the table equal those that went in.
    let promoted = promoted
        .into_iter()
        .filter_map(|(column, value)| Some((column, value?)))
        .map(|(column, value)| Promoted {
            column: column.to_owned(),
            pointer: format!("/{column}"),
            value: Some(value),
        });
    StoredRecord {
        tenant_id: entry.tenant.clone(),
        record_id: place.record_id,
        created_at: entry.ts,
        ingested_at: place.ingested_at,
        stream: StreamName::evidence(),
        retention_class: place.retention_class,
        action: Some(format!("decision.{}", entry.operation)),
        resource_type: entry.exhibit.as_ref().and_then(|shown| text(&shown.kind)),
        resource_id: entry.exhibit.as_ref().map(|shown| shown.id.clone()),
        actor_type: None,
        actor_id: Some(entry.subject.clone()),
        trace_id: None,
        span_id: None,
        purpose: None,
        labels: None,
        context: entry.exhibit.as_ref().map(|shown| shown.document.clone()),
        extras: None,
        schema_version: Some("1.0".to_owned()),
        policy_version: entry
            .policy_version
            .as_ref()
            .and_then(|version| text(version)),
        idempotency_key: None,
        promoted: promoted.collect(),
        leaf_index: place.leaf_index,
        segment_id: None,
        salt: place.salt,
        sealed_fields: BTreeMap::new(),
        payload_hash: None,
        key_digest: None,
        leaf_layout: "[]".to_owned(),
    }
}

/// Makes one batch of evidence, in the schema of [`schema::evidence`].
///
/// # Errors
/// As [`records`].
pub fn evidence(rows: &[StoredRecord]) -> Result<RecordBatch, ArrowError> {
    let names: Vec<&str> = schema::evidence_columns().collect();
    records(rows, &names)
}

/// One row of quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the schema describes each column once")]
pub struct QuarantineRow {
    pub tenant_id: TenantId,
    pub record_id: RecordId,
    pub ingested_at: Timestamp,
    pub stream: StreamName,
    pub retention_class: RetentionClass,
    pub reason: Cow<'static, str>,
    pub idempotency_key: Option<String>,
    pub payload: Option<String>,
    pub payload_hash: Option<String>,
    pub policy_version: Option<PolicyVersion>,
    pub correlation_id: CorrelationId,
    pub entry_id: RecordId,
    pub state: Cow<'static, str>,
    pub decision_reason: Option<String>,
    pub decided_by: Option<String>,
    pub sealed_record: Option<Vec<u8>>,
}

/// Makes one batch of quarantine, sorted by `ingested_at` and `record_id`, both descending.
///
/// # Errors
/// If Arrow refuses the arrays; no set of rows that was built here makes it.
pub fn quarantine(mut rows: Vec<QuarantineRow>) -> Result<RecordBatch, ArrowError> {
    rows.sort_by_key(|row| Reverse((row.ingested_at, row.record_id)));
    let schema = schema::quarantine();
    let columns = schema
        .fields()
        .iter()
        .map(|field| quarantine_column(field, &rows));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(schema, columns)
}

fn record_column(field: &Field, rows: &[&RecordView<'_>]) -> Result<ArrayRef, ArrowError> {
    let array = match field.name().as_str() {
        "tenant_id" => texts(rows, |row| Some(row.tenant_id)),
        "record_id" => owned_texts(rows, |row| Some(row.record_id.to_string())),
        "created_at" => instants(rows, |row| row.created_at),
        "ingested_at" => instants(rows, |row| row.ingested_at),
        "stream" => texts(rows, |row| Some(row.stream)),
        "ingest_date" => owned_texts(rows, |row| Some(row.ingested_at.date())),
        "retention_class" => texts(rows, |row| Some(row.retention_class)),
        "action" => texts(rows, |row| row.action),
        "resource_type" => texts(rows, |row| row.resource_type),
        "resource_id" => texts(rows, |row| row.resource_id),
        "actor_type" => texts(rows, |row| row.actor_type),
        "actor_id" => texts(rows, |row| row.actor_id),
        "trace_id" => texts(rows, |row| row.trace_id),
        "span_id" => texts(rows, |row| row.span_id),
        "purpose" => texts(rows, |row| row.purpose),
        "labels" => labels(rows)?,
        "context" => texts(rows, |row| row.context),
        "extras" => texts(rows, |row| row.extras),
        "schema_version" => texts(rows, |row| row.schema_version),
        "policy_version" => texts(rows, |row| row.policy_version),
        "idempotency_key" => texts(rows, |row| row.idempotency_key),
        "leaf_index" => Arc::new(
            rows.iter()
                .map(|row| row.leaf_index)
                .collect::<Int64Array>(),
        ),
        "segment_id" => texts(rows, |row| row.segment_id),
        "salt" => salts(rows),
        "sealed_fields" => sealed_fields(rows)?,
        "payload_hash" => texts(rows, |row| row.payload_hash),
        "key_digest" => texts(rows, |row| row.key_digest),
        "leaf_layout" => texts(rows, |row| Some(row.leaf_layout)),
        // What no record has when it is first written.
        "field_salts" | "commitments" | "subject_ref" => {
            new_null_array(field.data_type(), rows.len())
        }
        promoted => texts(rows, |row| {
            row.promoted
                .iter()
                .find(|value| value.column == promoted)
                .and_then(|value| value.value)
        }),
    };
    Ok(array)
}

fn quarantine_column(field: &Field, rows: &[QuarantineRow]) -> Result<ArrayRef, ArrowError> {
    let array = match field.name().as_str() {
        "tenant_id" => texts(rows, |row| Some(row.tenant_id.as_str())),
        "record_id" => owned_texts(rows, |row| Some(row.record_id.to_string())),
        "ingested_at" => instants(rows, |row| row.ingested_at),
        "ingest_date" => owned_texts(rows, |row| Some(row.ingested_at.date())),
        "stream" => texts(rows, |row| Some(row.stream.as_str())),
        "retention_class" => texts(rows, |row| Some(row.retention_class.as_str())),
        "reason" => texts(rows, |row| Some(&*row.reason)),
        "idempotency_key" => texts(rows, |row| row.idempotency_key.as_deref()),
        "payload" => texts(rows, |row| row.payload.as_deref()),
        "payload_hash" => texts(rows, |row| row.payload_hash.as_deref()),
        "policy_version" => owned_texts(rows, |row| {
            row.policy_version.as_ref().map(ToString::to_string)
        }),
        "correlation_id" => texts(rows, |row| Some(row.correlation_id.as_str())),
        "entry_id" => owned_texts(rows, |row| Some(row.entry_id.to_string())),
        "state" => texts(rows, |row| Some(row.state.as_ref())),
        "decision_reason" => texts(rows, |row| row.decision_reason.as_deref()),
        "decided_by" => texts(rows, |row| row.decided_by.as_deref()),
        "sealed_record" => Arc::new(
            rows.iter()
                .map(|row| row.sealed_record.as_deref())
                .collect::<BinaryArray>(),
        ),
        _ => {
            return Err(ArrowError::SchemaError(
                "a column of quarantine without values".to_owned(),
            ));
        }
    };
    Ok(array)
}

fn texts<'r, R>(rows: &'r [R], value: impl Fn(&'r R) -> Option<&'r str>) -> ArrayRef {
    let texts = || rows.iter().map(&value);
    let bytes = texts().flatten().map(str::len).sum();
    let mut builder = StringBuilder::with_capacity(rows.len(), bytes);
    texts().for_each(|text| builder.append_option(text));
    Arc::new(builder.finish())
}

fn owned_texts<R>(rows: &[R], value: impl Fn(&R) -> Option<String>) -> ArrayRef {
    Arc::new(rows.iter().map(value).collect::<StringArray>())
}

fn instants<R>(rows: &[R], value: impl Fn(&R) -> Timestamp) -> ArrayRef {
    let micros = rows.iter().map(|row| value(row).as_micros());
    Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
}

fn salts(rows: &[&RecordView<'_>]) -> ArrayRef {
    let mut builder = BinaryBuilder::with_capacity(rows.len(), rows.len() * SALT_BYTES);
    rows.iter().for_each(|row| builder.append_value(row.salt));
    Arc::new(builder.finish())
}

fn labels(rows: &[&RecordView<'_>]) -> Result<ArrayRef, ArrowError> {
    text_maps(
        rows.iter()
            .map(|row| row.labels.as_ref().map(|labels| labels.iter().copied())),
    )
}

/// Rows that nothing was cut out of have null, as they take no room that way.
fn sealed_fields(rows: &[&RecordView<'_>]) -> Result<ArrayRef, ArrowError> {
    text_maps(rows.iter().map(|row| {
        let sealed = Some(&row.sealed_fields).filter(|sealed| !sealed.is_empty())?;
        Some(sealed.iter().map(|(key, value)| (*key, Some(*value))))
    }))
}

fn text_maps<'r, E>(maps: impl Iterator<Item = Option<E>>) -> Result<ArrayRef, ArrowError>
where
    E: Iterator<Item = (&'r str, Option<&'r str>)>,
{
    let names = MapFieldNames {
        entry: "key_value".to_owned(),
        key: "key".to_owned(),
        value: "value".to_owned(),
    };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new());
    for map in maps {
        let is_there = map.is_some();
        for (key, value) in map.into_iter().flatten() {
            builder.keys().append_value(key);
            builder.values().append_option(value);
        }
        builder.append(is_there)?;
    }
    Ok(Arc::new(builder.finish()))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array as _, AsArray as _, MapArray};
    use arrow::datatypes::TimestampMicrosecondType;
    use catalog::evidence::Verdict;
    use catalog::ids::SiloId;

    use super::*;

    const IDS: [&str; 3] = [
        "01J9ZC5K5Q2Z6S0Z2G1WZQW5Q1",
        "01J9ZC5K5Q2Z6S0Z2G1WZQW5Q2",
        "01J9ZC5K5Q2Z6S0Z2G1WZQW5Q3",
    ];

    fn entry(ts: i64) -> EvidenceEntry {
        EvidenceEntry {
            tenant: TenantId::system(),
            operation: "Read",
            decision: Verdict::Deny,
            slug: Some("forbidden"),
            policy_version: Some(PolicyVersion::parse("tenant:acme@7").unwrap()),
            masking_profile: None,
            residency: Some(SiloId::parse("eu").unwrap()),
            basis: vec!["role".to_owned(), "scope".to_owned()],
            subject: "bob".to_owned(),
            statement: Some("SELECT ?".to_owned()),
            plan_digest: Some([0xab; 32]),
            exhibit: None,
            correlation: CorrelationId::parse("c-1").unwrap(),
            ts: Timestamp::from_micros(ts),
        }
    }

    fn row(ts: i64, id: &str) -> StoredRecord {
        let place = EvidencePlace {
            record_id: RecordId::parse(id).unwrap(),
            ingested_at: Timestamp::from_micros(86_400_000_000),
            retention_class: RetentionClass::kept(),
            leaf_index: Some(5),
            salt: [9; SALT_BYTES],
        };
        evidence_record(&entry(ts), place)
    }

    fn column<'b>(batch: &'b RecordBatch, name: &str) -> Vec<Option<&'b str>> {
        batch
            .column_by_name(name)
            .unwrap()
            .as_string::<i32>()
            .iter()
            .collect()
    }

    #[test]
    fn rows_stand_newest_first_and_by_id_where_the_time_is_the_same() {
        let rows = vec![
            row(1, IDS[0]),
            row(2, IDS[0]),
            row(1, IDS[2]),
            row(1, IDS[1]),
        ];
        let batch = evidence(&rows).unwrap();
        let times = batch
            .column_by_name("created_at")
            .unwrap()
            .as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.values(), &[2, 1, 1, 1]);
        assert_eq!(
            column(&batch, "record_id"),
            [IDS[0], IDS[2], IDS[1], IDS[0]].map(Some)
        );
    }

    #[test]
    fn a_decision_is_a_record_of_the_evidence_schema() {
        let batch = evidence(&[row(1, IDS[0])]).unwrap();
        assert_eq!(batch.schema(), schema::evidence());
        for (name, wanted) in [
            ("tenant_id", Some("_system")),
            ("stream", Some("audit.evidence")),
            ("ingest_date", Some("1970-01-02")),
            ("retention_class", Some("kept")),
            ("action", Some("decision.Read")),
            ("actor_id", Some("bob")),
            ("policy_version", Some("tenant:acme@7")),
            ("operation", Some("Read")),
            ("decision", Some("Deny")),
            ("problem", Some("forbidden")),
            ("masking_profile", None),
            ("residency", Some("eu")),
            ("basis", Some("role,scope")),
            ("plan_digest", Some("ab".repeat(32).as_str())),
            ("statement", Some("SELECT ?")),
            ("correlation_id", Some("c-1")),
            ("resource_id", None),
        ] {
            assert_eq!(column(&batch, name), [wanted], "{name}");
        }
        assert!(batch.column_by_name("sealed_fields").unwrap().is_null(0));
        assert_eq!(
            batch
                .column_by_name("salt")
                .unwrap()
                .as_binary::<i32>()
                .value(0),
            [9; 16]
        );
    }

    #[test]
    fn promoted_values_find_their_columns_even_those_nobody_announced() {
        let promoted = |column: &str, value: &str| Promoted {
            column: column.to_owned(),
            pointer: "/context/x".to_owned(),
            value: Some(value.to_owned()),
        };
        let mut first = row(2, IDS[0]);
        first.promoted = vec![promoted("b", "one")];
        let mut second = row(1, IDS[1]);
        second.promoted = vec![promoted("c", "two")];
        let batch = records(&[first, second], &["a", "b"]).unwrap();
        assert_eq!(batch.schema(), schema::records(&["a", "b", "c"]));
        assert_eq!(column(&batch, "a"), [None, None]);
        assert_eq!(column(&batch, "b"), [Some("one"), None]);
        assert_eq!(column(&batch, "c"), [None, Some("two")]);
    }

    #[test]
    fn maps_tell_absent_from_empty_and_null_from_text() {
        let mut rows = vec![row(3, IDS[0]), row(2, IDS[0]), row(1, IDS[0])];
        rows[1].labels = Some(BTreeMap::new());
        rows[2].labels = Some(BTreeMap::from([
            ("a".to_owned(), None),
            ("b".to_owned(), Some("x".to_owned())),
        ]));
        rows[2].sealed_fields = BTreeMap::from([("/context/a".to_owned(), "1".to_owned())]);
        let batch = records::<&str>(&rows, &[]).unwrap();
        let map = |name: &str| -> MapArray { batch.column_by_name(name).unwrap().as_map().clone() };
        let labels = map("labels");
        assert!(labels.is_null(0) && labels.is_valid(1) && labels.is_valid(2));
        assert_eq!(labels.value_length(1), 0);
        let values = labels.value(2);
        let values = values.column(1).as_string::<i32>();
        assert!(values.is_null(0));
        assert_eq!(values.value(1), "x");
        assert_eq!(map("sealed_fields").value_length(2), 1);
    }

    #[test]
    fn an_empty_batch_has_the_schema_too() {
        assert_eq!(
            records::<&str>(&[] as &[StoredRecord], &["a"])
                .unwrap()
                .schema(),
            schema::records(&["a"])
        );
        assert_eq!(
            quarantine(Vec::new()).unwrap().schema(),
            schema::quarantine()
        );
    }

    #[test]
    fn quarantine_rows_have_all_their_columns() {
        let row = |id: &str, at: i64| QuarantineRow {
            tenant_id: TenantId::parse("acme").unwrap(),
            record_id: RecordId::parse(id).unwrap(),
            ingested_at: Timestamp::from_micros(at),
            stream: StreamName::audit_default(),
            retention_class: RetentionClass::kept(),
            reason: "idempotency-mismatch".into(),
            idempotency_key: None,
            payload: Some("{}".to_owned()),
            payload_hash: Some("hmac-sha256:x".to_owned()),
            policy_version: None,
            correlation_id: CorrelationId::parse("c-1").unwrap(),
            entry_id: RecordId::parse(id).unwrap(),
            state: "open".into(),
            decision_reason: None,
            decided_by: None,
            sealed_record: Some(vec![1]),
        };
        let batch = quarantine(vec![row(IDS[0], 1), row(IDS[1], 1), row(IDS[0], 2)]).unwrap();
        assert_eq!(batch.schema(), schema::quarantine());
        assert_eq!(
            column(&batch, "record_id"),
            [IDS[0], IDS[1], IDS[0]].map(Some)
        );
        assert_eq!(column(&batch, "reason"), [Some("idempotency-mismatch"); 3]);
        assert_eq!(column(&batch, "payload"), [Some("{}"); 3]);
        assert_eq!(column(&batch, "correlation_id"), [Some("c-1"); 3]);
        assert_eq!(column(&batch, "idempotency_key"), [None; 3]);
    }
}
