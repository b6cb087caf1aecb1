//! What the tests of this crate share: records of every shape.

use std::collections::{BTreeMap, BTreeSet};

use catalog::clock::Timestamp;
use catalog::ids::{CorrelationId, PolicyVersion, RecordId, StreamName, TenantId};
use catalog::policy::RetentionClass;
use proptest::prelude::*;

use super::batch::QuarantineRow;
use super::layout::{self, Entry};
use super::stored::{Promoted, StoredRecord};

/// Columns that a rule can name, in the order of the schema.
const RULED: [&str; 9] = [
    "resource_id",
    "actor_id",
    "trace_id",
    "span_id",
    "purpose",
    "labels",
    "context",
    "extras",
    "idempotency_key",
];

/// A record with nothing but what every record has.
pub(crate) fn bare() -> StoredRecord {
    StoredRecord {
        tenant_id: TenantId::parse("acme").unwrap(),
        record_id: RecordId::parse("01J9ZC5K5Q2Z6S0Z2G1WZQW5Q4").unwrap(),
        created_at: Timestamp::from_micros(1_761_638_112_345_678),
        ingested_at: Timestamp::from_micros(1_761_638_400_000_000),
        stream: StreamName::audit_default(),
        retention_class: RetentionClass::standard(),
        action: None,
        resource_type: None,
        resource_id: None,
        actor_type: None,
        actor_id: None,
        trace_id: None,
        span_id: None,
        purpose: None,
        labels: None,
        context: None,
        extras: None,
        schema_version: None,
        policy_version: None,
        idempotency_key: None,
        promoted: Vec::new(),
        leaf_index: None,
        segment_id: None,
        salt: std::array::from_fn(|at| u8::try_from(at).unwrap()),
        sealed_fields: BTreeMap::new(),
        payload_hash: None,
        key_digest: None,
        leaf_layout: "[]".to_owned(),
    }
}

/// A record with something everywhere.
pub(crate) fn full() -> StoredRecord {
    let some = |text: &str| Some(text.to_owned());
    let promoted = |column: &str, value: Option<&str>| Promoted {
        column: column.to_owned(),
        pointer: format!("/context/user/{column}"),
        value: value.map(str::to_owned),
    };
    StoredRecord {
        action: some("Appointment.Booked"),
        resource_type: some("Appointment"),
        resource_id: some("apt_123"),
        actor_type: some("User"),
        actor_id: some("h1:bp1x6v-Q1RAiWyQrE_syvQ"),
        trace_id: some("3e1f"),
        span_id: some(""),
        purpose: None,
        labels: Some(BTreeMap::from([
            ("env".to_owned(), some("prod")),
            ("gone".to_owned(), None),
        ])),
        context: some(r#"{"list":[null],"n":1.5}"#),
        extras: some(r#"{"severity":3}"#),
        schema_version: some("1.1"),
        policy_version: some("tenant:acme@7"),
        idempotency_key: some("k-1"),
        promoted: vec![promoted("name", Some("Bo")), promoted("phone", None)],
        leaf_index: Some(41),
        segment_id: some("seg-2025-10-28T08"),
        sealed_fields: BTreeMap::from([
            ("/context/user/email".to_owned(), "\"h1:x\"".to_owned()),
            ("/labels/owner".to_owned(), "null".to_owned()),
        ]),
        payload_hash: some("hmac-sha256:KEAxom9pwiCtdb87Ojp-6n5bkISw6B-HZ9Ef0xI314I"),
        key_digest: some("x"),
        leaf_layout: concat!(
            r#"["actor_id","purpose","labels","/context/user/email","name:/context/user/name","#,
            r#""phone:/context/user/phone","/labels/owner"]"#
        )
        .to_owned(),
        ..bare()
    }
}

/// Any text, often none, sometimes empty.
fn text() -> impl Strategy<Value = Option<String>> {
    prop::option::of(prop_oneof![4 => ".{0,12}", 1 => Just(String::new())])
}

fn texts<const N: usize>() -> impl Strategy<Value = [Option<String>; N]> {
    prop::collection::vec(text(), N).prop_map(|texts| texts.try_into().unwrap())
}

fn instant() -> impl Strategy<Value = Timestamp> {
    (0..4_000_000_000_000_000_i64).prop_map(Timestamp::from_micros)
}

fn id() -> impl Strategy<Value = RecordId> {
    any::<[u8; 16]>().prop_map(RecordId::from_bytes)
}

type Cut = BTreeMap<String, (Option<String>, Option<String>)>;

/// Pointers, each with the promoted column it is in, if it is in one, and its value.
fn cut() -> impl Strategy<Value = Cut> {
    let column = prop::option::of("[a-z][a-z0-9_]{0,6}[0-9]");
    prop::collection::btree_map("/(context|labels)/.{0,8}", (column, text()), 0..5)
}

/// A record whose layout fits what it holds.
pub(crate) fn stored() -> impl Strategy<Value = StoredRecord> {
    let labels = prop::option::of(prop::collection::btree_map(".{0,6}", text(), 0..4));
    let head = (id(), instant(), instant(), any::<[u8; 16]>());
    let place = (prop::option::of(0..i64::MAX), text());
    let ruled = prop::sample::subsequence(RULED.to_vec(), 0..RULED.len());
    (head, texts::<15>(), labels, cut(), ruled, place).prop_map(
        |((record_id, created_at, ingested_at, salt), texts, labels, cut, ruled, place)| {
            let [action, resource_type, resource_id, actor_type, actor_id, ..] = texts.clone();
            let [.., trace_id, span_id, purpose, context, extras] = texts.clone();
            let [
                _,
                _,
                _,
                _,
                _,
                schema_version,
                policy_version,
                idempotency_key,
                ..,
            ] = texts.clone();
            let [_, _, _, _, _, _, _, _, payload_hash, key_digest, ..] = texts;
            let mut record = StoredRecord {
                record_id,
                created_at,
                ingested_at,
                action,
                resource_type,
                resource_id,
                actor_type,
                actor_id,
                trace_id,
                span_id,
                purpose,
                labels,
                context,
                extras,
                schema_version,
                policy_version,
                idempotency_key,
                leaf_index: place.0,
                segment_id: place.1,
                salt,
                payload_hash,
                key_digest,
                ..bare()
            };
            put(&mut record, cut, &ruled);
            record
        },
    )
}

fn put(record: &mut StoredRecord, cut: Cut, ruled: &[&str]) {
    let mut taken = BTreeSet::new();
    for (pointer, (column, value)) in cut {
        match column.filter(|column| taken.insert(column.clone())) {
            Some(column) => record.promoted.push(Promoted {
                column,
                pointer,
                value,
            }),
            None => {
                record
                    .sealed_fields
                    .insert(pointer, value.unwrap_or_default());
            }
        }
    }
    let promoted = record.promoted.iter().map(|promoted| {
        let pointer = promoted.pointer.as_str();
        let column = promoted.column.as_str();
        (pointer, Entry::Promoted { column, pointer })
    });
    let sealed = record.sealed_fields.keys();
    let sealed = sealed.map(|pointer| (pointer.as_str(), Entry::Sealed(pointer)));
    let places: BTreeMap<_, _> = promoted.chain(sealed).collect();
    let columns = ruled.iter().map(|name| Entry::Column(name));
    record.leaf_layout = layout::write(columns.chain(places.into_values())).unwrap();
}

/// A row of quarantine.
pub(crate) fn aside() -> impl Strategy<Value = QuarantineRow> {
    (
        id(),
        instant(),
        texts::<5>(),
        "[a-z-]{1,20}",
        prop::option::of(1..u64::MAX),
        prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
    )
        .prop_map(
            |(record_id, ingested_at, texts, reason, number, sealed_record)| {
                let [
                    idempotency_key,
                    payload,
                    payload_hash,
                    decision_reason,
                    decided_by,
                ] = texts;
                let tenant_id = TenantId::parse("acme").unwrap();
                QuarantineRow {
                    record_id,
                    ingested_at,
                    stream: StreamName::audit_default(),
                    retention_class: RetentionClass::kept(),
                    reason: reason.into(),
                    idempotency_key,
                    payload,
                    payload_hash,
                    policy_version: number.map(|number| PolicyVersion {
                        tenant: tenant_id.clone(),
                        number,
                    }),
                    correlation_id: CorrelationId::parse("c-1").unwrap(),
                    entry_id: record_id,
                    state: "open".into(),
                    decision_reason,
                    decided_by,
                    sealed_record,
                    tenant_id,
                }
            },
        )
}
