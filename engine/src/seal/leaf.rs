//! What a record is in the tree: one hash over commitments to its values, so that a value can be withheld or erased and the
//! leaf still be checked.
//!
//! Everything is over the **stored** values, those after redaction: a leaf does not prove the value that a mask shows
//! someone. Integers are little endian, `‖` joins bytes, and `lp(x)` is the length of x in bytes as 4 bytes, then x.
//!
//! # Leaf
//! ```text
//! leaf   = SHA-256(0x00 ‖ lp(tenant_id) ‖ lp(stream) ‖ lp(record_id) ‖ n as 4 bytes ‖ c_1 ‖ … ‖ c_n), of n commitments
//! c_i    = SHA-256("th-c1" ‖ salt_i ‖ lp(path) ‖ type ‖ lp(value))
//! salt_i = HMAC-SHA256(the record's salt, "th-salt" ‖ i as 4 bytes)
//! ```
//! `c_1` is the **rest**: its path is empty, its type 5. The others follow in the order of `leaf_layout`
//! ([`crate::record::layout`]), one for each entry. The path of a column is its name, that of a value which was cut out its
//! JSON pointer.
//!
//! | type | value | bytes |
//! |---|---|---|
//! | 0 | null, or nothing | none |
//! | 1 | text, as in a column or a promoted column | UTF-8 |
//! | 2 | JSON, as in `sealed_fields`, `context`, `extras` | UTF-8 |
//! | 3 | an instant | 8: microseconds since 1970, signed |
//! | 4 | labels | their number as 4 bytes; for each in byte order of the keys `lp(key)`, then 0x00 for null or 0x01 ‖ `lp(value)` |
//! | 5 | the rest | entries as below |
//!
//! A value that is not there at all has no entry, null has type 0, and empty text is type 1 of length 0: all three differ.
//!
//! # The rest
//! All columns of this list that have a value and that the layout does not name, in this order, as
//! `number ‖ type ‖ lp(value)`:
//! 1 `tenant_id`, 2 `stream`, 3 `record_id`, 4 `created_at`, 5 `ingested_at`, 6 `retention_class`, 7 `action`,
//! 8 `resource_type`, 9 `resource_id`, 10 `actor_type`, 11 `actor_id`, 12 `trace_id`, 13 `span_id`, 14 `purpose`,
//! 15 `labels`, 16 `context`, 17 `extras`, 18 `schema_version`, 19 `policy_version`, 20 `idempotency_key`.
//! Then, in byte order of the columns, the promoted columns that have a value and are in no layout (those of evidence), as
//! `255 ‖ lp(column) ‖ 1 ‖ lp(value)`. A column that tables get later takes the next number, so that the leaves of older
//! records stay what they are.
//!
//! Not in the leaf: `leaf_index` and `segment_id`, which are places and no part of the record; `ingest_date`, which is
//! `ingested_at`; `leaf_layout` and the salts, which the commitments bind; `sealed_fields` but for the values that the layout
//! names, one by one; the keyed hashes `payload_hash` and `key_digest`, because whoever checks a leaf is given the rest, and
//! they are for nobody; and `subject_ref`, `field_salts` and `commitments`, which are null in every row that has this leaf.
//!
//! # Vectors
//! Salt 00 01 … 0f; tenant `acme`, stream `audit.default`, record `01J9ZC5K5Q2Z6S0Z2G1WZQW5Q4`, created_at
//! 1761638112345678, ingested_at 1761638400000000, retention class `standard`.
//!
//! ```text
//! no other column
//! leaf  32ed811cf3054beb9800c6ea9e7dd842b736f1e300bc91b304ba3722444e3665
//!
//! action "Appointment.Booked", resource_type "Appointment", resource_id "apt_123", actor_type "User",
//! actor_id "h1:bp1x6v-Q1RAiWyQrE_syvQ", trace_id "3e1f", span_id "", labels {env: "prod", gone: null},
//! context {"list":[null],"n":1.5}, extras {"severity":3}, schema_version "1.1",
//! policy_version "tenant:acme@7", idempotency_key "k-1", promoted name "Bo" and phone null,
//! sealed_fields /context/user/email "h1:x" and /labels/owner null (both as JSON),
//! leaf_layout ["actor_id","purpose","labels","/context/user/email","name:/context/user/name",
//!              "phone:/context/user/phone","/labels/owner"]
//! c_1   a189b5ed83398beeda00c77522448a1bdad9e99cccd901161fd151a35bb06bcf
//! c_2   47e9bf6e56693e878156697271d8bbc9f5226964d455028ff1d630390d9004b7
//! c_3   bd55e1be28d65ae95b9f952bdf18dd72da4bcfa5d763f606f90fb45143da7b7c
//! c_4   c80c54a1539878bab283e6b24b83390ee732d42de6b927cc0a80951e7472ca33
//! c_5   5d2bd707312ac19c84518c0ff0e161cbb4216a03fc1ec170431e3229065c7f87
//! c_6   3d07eac2b12085ff090803811bac0804964669ae065df5079d75f8870e7de9aa
//! c_7   028a6e68b28c6b0851626006a9adc2bb9c96cfa50763590f622aac2878b55d06
//! c_8   90d13be794b2628bae116139098915bd8ccf611c4c506a94912fdfe222239fd5
//! leaf  7890620217f5bf497832c9a11624307f8411a88fa00a5b048982c8ac6ee1d59c
//! ```

use catalog::clock::Timestamp;
use catalog::ids::RecordId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use super::merkle::Hash;
use crate::record::layout::{Entry, Layout, MalformedLayout};
use crate::record::{RecordView, StoredRecord};

const LEAF: [u8; 1] = [0];
const COMMITMENT: &[u8] = b"th-c1";
const SALT: &[u8] = b"th-salt";
/// The columns that can be in the rest, and their order.
pub(super) const COLUMNS: [&str; 20] = [
    "tenant_id",
    "stream",
    "record_id",
    "created_at",
    "ingested_at",
    "retention_class",
    "action",
    "resource_type",
    "resource_id",
    "actor_type",
    "actor_id",
    "trace_id",
    "span_id",
    "purpose",
    "labels",
    "context",
    "extras",
    "schema_version",
    "policy_version",
    "idempotency_key",
];
pub(super) const PROMOTED: u8 = 255;
pub(super) const REST: u8 = 5;
/// What the rest of a usual record takes, in bytes.
const REST_CAPACITY: usize = 1024;

/// Why a row has no leaf: it is not as it was written.
#[derive(Debug, thiserror::Error)]
pub enum Unsealable {
    /// The layout is no layout.
    #[error("a record has no leaf")]
    Layout(#[source] MalformedLayout),
    /// The layout does not name just the values that the record holds, each once and in order.
    #[error("the leaf layout of a record does not fit what the record holds")]
    Unfit,
    /// The salt cannot be used.
    #[error("the salt of a record cannot be used")]
    Salt,
}

/// The hash of a record's leaf.
///
/// # Errors
/// If the layout and the values of the record do not belong together; never for a record that was redacted here.
pub fn leaf_hash(record: &StoredRecord) -> Result<Hash, Unsealable> {
    leaf_hash_of(&record.view())
}

/// The same of a record where it lies.
///
/// # Errors
/// As [`leaf_hash`].
pub(crate) fn leaf_hash_of(record: &RecordView<'_>) -> Result<Hash, Unsealable> {
    let layout = Layout::parse(record.leaf_layout).map_err(Unsealable::Layout)?;
    leaf_hash_under(record, &layout)
}

/// [`leaf_hash_of`] a record whose layout was read already: those of a table are mostly the same.
///
/// # Errors
/// As [`leaf_hash`].
pub(crate) fn leaf_hash_under(
    record: &RecordView<'_>,
    layout: &Layout<'_>,
) -> Result<Hash, Unsealable> {
    let mut id = [0; RecordId::LEN];
    let names = [
        record.tenant_id,
        record.stream,
        record.record_id.encode(&mut id),
    ];
    let mut leaf = begin(names, 1 + layout.entries().len());
    commit(record, layout, |_, committed| {
        leaf.update(committed.hash());
    })?;
    Ok(leaf.finalize().into())
}

/// The beginning of a leaf's preimage: tenant, stream and record, and how many commitments follow.
pub(super) fn begin(names: [&str; 3], commitments: usize) -> Sha256 {
    let mut leaf = Sha256::new_with_prefix(LEAF);
    for part in names {
        leaf.update(length(part.len()));
        leaf.update(part);
    }
    leaf.update(length(commitments));
    leaf
}

/// What is committed together.
pub(super) struct Committed<'c> {
    pub(super) salt: &'c Hash,
    pub(super) path: &'c str,
    pub(super) kind: u8,
    pub(super) value: &'c [u8],
}

impl Committed<'_> {
    /// The commitment.
    pub(super) fn hash(&self) -> Hash {
        Sha256::new()
            .chain_update(COMMITMENT)
            .chain_update(self.salt)
            .chain_update(length(self.path.len()))
            .chain_update(self.path)
            .chain_update([self.kind])
            .chain_update(length(self.value.len()))
            .chain_update(self.value)
            .finalize()
            .into()
    }
}

/// Gives out everything that is committed, in order: the rest, then what the layout names.
pub(super) fn commit(
    record: &RecordView<'_>,
    layout: &Layout<'_>,
    mut give: impl FnMut(Option<Entry<'_>>, &Committed<'_>),
) -> Result<(), Unsealable> {
    let mut id = [0; RecordId::LEN];
    let columns = columns(record, record.record_id.encode(&mut id));
    let salts = Salts::new(&record.salt)?;
    let rest = Committed {
        salt: &salts.of(1),
        path: "",
        kind: REST,
        value: &rest(record, &columns, layout)?,
    };
    give(None, &rest);
    let mut labels = Vec::new();
    for (entry, number) in layout.entries().zip(2_u32..) {
        let (path, value) = held(record, &columns, entry)?;
        let micros;
        let bytes = match value {
            Value::Null => &[],
            Value::Text(text) | Value::Json(text) => text.as_bytes(),
            Value::Instant(at) => {
                micros = at.as_micros().to_le_bytes();
                &micros[..]
            }
            Value::Labels(map) => {
                labels.clear();
                push_labels(&mut labels, map);
                &labels[..]
            }
        };
        let committed = Committed {
            salt: &salts.of(number),
            path,
            kind: value.kind(),
            value: bytes,
        };
        give(Some(entry), &committed);
    }
    Ok(())
}

/// A value as it is committed.
#[derive(Clone, Copy)]
enum Value<'r> {
    Null,
    Text(&'r str),
    Json(&'r str),
    Instant(Timestamp),
    Labels(&'r [(&'r str, Option<&'r str>)]),
}

impl<'r> Value<'r> {
    fn text(text: Option<&'r str>) -> Self {
        text.map_or(Self::Null, Self::Text)
    }

    fn json(text: Option<&'r str>) -> Self {
        text.map_or(Self::Null, Self::Json)
    }

    fn kind(self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Text(_) => 1,
            Self::Json(_) => 2,
            Self::Instant(_) => 3,
            Self::Labels(_) => 4,
        }
    }
}

type Columns<'r> = [(&'static str, Value<'r>); COLUMNS.len()];

/// The columns by their numbers, the first being 1.
fn columns<'r>(record: &'r RecordView<'_>, id: &'r str) -> Columns<'r> {
    let labels = record.labels.as_deref().map_or(Value::Null, Value::Labels);
    let values = [
        Value::Text(record.tenant_id),
        Value::Text(record.stream),
        Value::Text(id),
        Value::Instant(record.created_at),
        Value::Instant(record.ingested_at),
        Value::Text(record.retention_class),
        Value::text(record.action),
        Value::text(record.resource_type),
        Value::text(record.resource_id),
        Value::text(record.actor_type),
        Value::text(record.actor_id),
        Value::text(record.trace_id),
        Value::text(record.span_id),
        Value::text(record.purpose),
        labels,
        Value::json(record.context),
        Value::json(record.extras),
        Value::text(record.schema_version),
        Value::text(record.policy_version),
        Value::text(record.idempotency_key),
    ];
    std::array::from_fn(|at| (COLUMNS[at], values[at]))
}

/// Where an entry of the layout is committed, and the value there.
fn held<'a>(
    record: &'a RecordView<'_>,
    columns: &Columns<'a>,
    entry: Entry<'a>,
) -> Result<(&'a str, Value<'a>), Unsealable> {
    let found = match entry {
        Entry::Column(name) => columns
            .iter()
            .find(|(column, _)| *column == name)
            .map(|(_, value)| (name, *value)),
        // A sender decides how many there are.
        Entry::Sealed(pointer) => record
            .sealed_fields
            .binary_search_by_key(&pointer, |(sealed, _)| sealed)
            .ok()
            .map(|at| (pointer, Value::Json(record.sealed_fields[at].1))),
        Entry::Promoted { column, pointer } => record
            .promoted
            .iter()
            .find(|promoted| promoted.column == column && promoted.pointer == pointer)
            .map(|promoted| (pointer, Value::text(promoted.value))),
    };
    found.ok_or(Unsealable::Unfit)
}

/// The encoding of what the layout does not name, after a check that layout and record belong together.
fn rest(
    record: &RecordView<'_>,
    columns: &Columns<'_>,
    layout: &Layout<'_>,
) -> Result<Vec<u8>, Unsealable> {
    let mut apart = [false; COLUMNS.len()];
    let mut is_past = 0;
    let mut pointer_before = "";
    let (mut sealed, mut promoted) = (0, 0);
    for entry in layout.entries() {
        let pointer = match entry {
            Entry::Column(name) => {
                let at = columns.iter().position(|(column, _)| *column == name);
                let at = at.filter(|at| *at >= is_past && pointer_before.is_empty());
                let at = at.ok_or(Unsealable::Unfit)?;
                is_past = at + 1;
                apart[at] = true;
                continue;
            }
            Entry::Sealed(pointer) => {
                sealed += 1;
                pointer
            }
            Entry::Promoted { pointer, .. } => {
                promoted += 1;
                pointer
            }
        };
        if pointer <= pointer_before {
            return Err(Unsealable::Unfit);
        }
        pointer_before = pointer;
    }
    if sealed != record.sealed_fields.len() {
        return Err(Unsealable::Unfit);
    }
    let mut rest = Vec::with_capacity(REST_CAPACITY);
    for ((_, value), (number, apart)) in columns.iter().zip((1_u8..).zip(apart)) {
        if !apart {
            push_column(&mut rest, number, *value);
        }
    }
    if promoted != record.promoted.len() {
        push_promoted(&mut rest, record, layout);
    }
    Ok(rest)
}

fn push_column(rest: &mut Vec<u8>, number: u8, value: Value<'_>) {
    if matches!(value, Value::Null) {
        return;
    }
    rest.extend([number, value.kind()]);
    match value {
        Value::Null => {}
        Value::Text(text) | Value::Json(text) => push(rest, text),
        Value::Instant(at) => {
            let micros = at.as_micros().to_le_bytes();
            rest.extend(length(micros.len()));
            rest.extend(micros);
        }
        Value::Labels(map) => {
            let mut labels = Vec::new();
            push_labels(&mut labels, map);
            rest.extend(length(labels.len()));
            rest.extend(labels);
        }
    }
}

fn push_promoted(rest: &mut Vec<u8>, record: &RecordView<'_>, layout: &Layout<'_>) {
    let mut others: Vec<(&str, &str)> = record
        .promoted
        .iter()
        .filter_map(|promoted| Some((promoted.column, promoted.value?)))
        .filter(|(column, _)| {
            !layout.entries().any(
                |entry| matches!(entry, Entry::Promoted { column: named, .. } if named == *column),
            )
        })
        .collect();
    others.sort_unstable();
    for (column, value) in others {
        rest.push(PROMOTED);
        push(rest, column);
        rest.push(Value::Text(value).kind());
        push(rest, value);
    }
}

fn push_labels(bytes: &mut Vec<u8>, labels: &[(&str, Option<&str>)]) {
    bytes.extend(length(labels.len()));
    for (key, value) in labels {
        push(bytes, key);
        match value {
            None => bytes.push(0),
            Some(value) => {
                bytes.push(1);
                push(bytes, value);
            }
        }
    }
}

fn push(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(length(text.len()));
    bytes.extend(text.as_bytes());
}

/// A length as it stands before a value. Records are far smaller than what it can say.
pub(super) fn length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes()
}

/// The salts of one record; the key schedule is made once.
struct Salts(Hmac<Sha256>);

impl Salts {
    fn new(salt: &[u8]) -> Result<Self, Unsealable> {
        Hmac::new_from_slice(salt)
            .map(Self)
            .map_err(|_| Unsealable::Salt)
    }

    fn of(&self, number: u32) -> Hash {
        self.0
            .clone()
            .chain_update(SALT)
            .chain_update(number.to_le_bytes())
            .finalize()
            .into_bytes()
            .into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::record::{batch, frame, testing, views_of};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn hash(record: &StoredRecord) -> Hash {
        leaf_hash(record).unwrap()
    }

    /// The document above, written out once more without a line of the code above.
    mod again {
        use hmac::{Hmac, KeyInit as _, Mac as _};
        use serde_json::Value;
        use sha2::{Digest as _, Sha256};

        use crate::record::StoredRecord;

        fn n(number: usize) -> Vec<u8> {
            let byte = |at: usize| u8::try_from(number >> (8 * at) & 255).unwrap();
            vec![byte(0), byte(1), byte(2), byte(3)]
        }

        fn lp(bytes: &[u8]) -> Vec<u8> {
            [n(bytes.len()), bytes.to_vec()].concat()
        }

        fn table(r: &StoredRecord) -> Vec<(&'static str, u8, Option<Vec<u8>>)> {
            let t = |text: &Option<String>| text.as_ref().map(|text| text.clone().into_bytes());
            let mut labels = Vec::new();
            for (key, value) in r.labels.iter().flatten() {
                labels.extend(lp(key.as_bytes()));
                labels.extend(match value {
                    None => vec![0],
                    Some(value) => [vec![1], lp(value.as_bytes())].concat(),
                });
            }
            let labels = r.labels.as_ref().map(|map| [n(map.len()), labels].concat());
            let us = |at: catalog::clock::Timestamp| Some(at.as_micros().to_le_bytes().to_vec());
            vec![
                ("tenant_id", 1, Some(r.tenant_id.as_str().into())),
                ("stream", 1, Some(r.stream.as_str().into())),
                ("record_id", 1, Some(r.record_id.to_string().into_bytes())),
                ("created_at", 3, us(r.created_at)),
                ("ingested_at", 3, us(r.ingested_at)),
                (
                    "retention_class",
                    1,
                    Some(r.retention_class.as_str().into()),
                ),
                ("action", 1, t(&r.action)),
                ("resource_type", 1, t(&r.resource_type)),
                ("resource_id", 1, t(&r.resource_id)),
                ("actor_type", 1, t(&r.actor_type)),
                ("actor_id", 1, t(&r.actor_id)),
                ("trace_id", 1, t(&r.trace_id)),
                ("span_id", 1, t(&r.span_id)),
                ("purpose", 1, t(&r.purpose)),
                ("labels", 4, labels),
                ("context", 2, t(&r.context)),
                ("extras", 2, t(&r.extras)),
                ("schema_version", 1, t(&r.schema_version)),
                ("policy_version", 1, t(&r.policy_version)),
                ("idempotency_key", 1, t(&r.idempotency_key)),
            ]
        }

        /// The leaf, and before it every commitment.
        pub(super) fn leaf(r: &StoredRecord) -> (Vec<[u8; 32]>, [u8; 32]) {
            let layout: Vec<String> = serde_json::from_str::<Value>(&r.leaf_layout)
                .unwrap()
                .as_array()
                .unwrap()
                .iter()
                .map(|name| name.as_str().unwrap().to_owned())
                .collect();
            let mut rest = Vec::new();
            for (number, (name, kind, value)) in table(r).into_iter().enumerate() {
                if let Some(value) = value.filter(|_| !layout.iter().any(|other| other == name)) {
                    rest.extend([n(number + 1)[0], kind]);
                    rest.extend(lp(&value));
                }
            }
            let mut free: Vec<_> = r.promoted.iter().collect();
            free.retain(|p| !layout.contains(&format!("{}:{}", p.column, p.pointer)));
            free.sort_by(|a, b| a.column.cmp(&b.column));
            for p in free {
                if let Some(value) = &p.value {
                    rest.push(255);
                    rest.extend(lp(p.column.as_bytes()));
                    rest.push(1);
                    rest.extend(lp(value.as_bytes()));
                }
            }
            let mut all = vec![(String::new(), 5, rest)];
            for name in &layout {
                all.push(if name.starts_with('/') {
                    (name.clone(), 2, r.sealed_fields[name].clone().into_bytes())
                } else if let Some((column, pointer)) = name.split_once(':') {
                    let mut found = r.promoted.iter().filter(|p| p.column == column);
                    match &found.next().unwrap().value {
                        None => (pointer.to_owned(), 0, Vec::new()),
                        Some(value) => (pointer.to_owned(), 1, value.clone().into_bytes()),
                    }
                } else {
                    let (_, kind, value) = table(r).into_iter().find(|c| c.0 == name).unwrap();
                    match value {
                        None => (name.clone(), 0, Vec::new()),
                        Some(value) => (name.clone(), kind, value),
                    }
                });
            }
            let mut commitments = Vec::new();
            for (at, (path, kind, value)) in all.iter().enumerate() {
                let mut mac = Hmac::<Sha256>::new_from_slice(&r.salt).unwrap();
                mac.update(b"th-salt");
                mac.update(&n(at + 1));
                let salt = mac.finalize().into_bytes();
                let mut c = b"th-c1".to_vec();
                c.extend(salt);
                c.extend(lp(path.as_bytes()));
                c.push(*kind);
                c.extend(lp(value));
                commitments.push(<[u8; 32]>::from(Sha256::digest(c)));
            }
            let mut leaf = vec![0];
            leaf.extend(lp(r.tenant_id.as_str().as_bytes()));
            leaf.extend(lp(r.stream.as_str().as_bytes()));
            leaf.extend(lp(r.record_id.to_string().as_bytes()));
            leaf.extend(n(commitments.len()));
            leaf.extend(commitments.concat());
            (commitments, Sha256::digest(leaf).into())
        }
    }

    #[test]
    fn the_vectors_of_the_document() {
        let document = include_str!("leaf.rs")
            .split("#[cfg(test)]")
            .next()
            .unwrap();
        let is_shown = |name: &str, hash: &Hash| {
            let line = format!("//! {name:<5} {}\n", hex(hash));
            assert!(document.contains(&line), "{line}");
        };
        is_shown("leaf", &hash(&testing::bare()));
        is_shown("leaf", &hash(&testing::full()));
        let (commitments, _) = again::leaf(&testing::full());
        assert_eq!(commitments.len(), 8);
        for (commitment, number) in commitments.iter().zip(1..) {
            is_shown(&format!("c_{number}"), commitment);
        }
    }

    #[test]
    fn null_absent_and_empty_differ_and_so_does_every_value() {
        type Change = fn(&mut StoredRecord);
        let changes: &[Change] = &[
            |_| {},
            |r| r.purpose = Some(String::new()),
            |r| r.span_id = None,
            |r| r.labels = None,
            |r| r.labels = Some(BTreeMap::new()),
            |r| r.labels = Some(BTreeMap::from([("env".into(), None)])),
            |r| r.labels = Some(BTreeMap::from([("env".into(), Some(String::new()))])),
            |r| r.promoted[1].value = Some(String::new()),
            |r| r.promoted[1].value = Some("null".into()),
            |r| {
                drop(
                    r.sealed_fields
                        .insert("/labels/owner".into(), String::new()),
                )
            },
            |r| r.leaf_layout = r.leaf_layout.replace(r#","/labels/owner""#, "") + " ",
            |r| r.extras = None,
            |r| r.action = r.resource_type.take(),
            |r| r.retention_class = catalog::policy::RetentionClass::kept(),
            |r| r.salt[0] = 1,
            |r| r.stream = catalog::ids::StreamName::audit_security(),
            |r| r.created_at = Timestamp::from_micros(0),
            |r| r.ingested_at = r.created_at,
        ];
        let mut seen = std::collections::BTreeSet::new();
        for change in changes {
            let mut record = testing::full();
            change(&mut record);
            if record.leaf_layout.ends_with(' ') {
                record.sealed_fields.remove("/labels/owner");
            }
            assert!(seen.insert(hash(&record)));
        }
    }

    #[test]
    fn places_and_keyed_hashes_are_not_part_of_it() {
        let mut moved = testing::full();
        moved.leaf_index = None;
        moved.segment_id = None;
        moved.payload_hash = None;
        moved.key_digest = None;
        assert_eq!(hash(&moved), hash(&testing::full()));
    }

    #[test]
    fn a_layout_that_does_not_fit_gives_no_leaf() {
        let layouts = [
            "[]",
            "{}",
            r#"["nobody","/context/user/email","/labels/owner"]"#,
            r#"["/context/user/email"]"#,
            r#"["/labels/owner","/context/user/email"]"#,
            r#"["/context/user/email","/context/user/email"]"#,
            r#"["/context/user/email","/labels/owner","/labels/x"]"#,
            r#"["/context/user/email","/labels/owner","actor_id"]"#,
            r#"["actor_id","actor_id","/context/user/email","/labels/owner"]"#,
            r#"["purpose","actor_id","/context/user/email","/labels/owner"]"#,
            r#"["/context/user/email","name:/context/user/phone","/labels/owner"]"#,
            r#"["/context/user/email","other:/context/user/name","/labels/owner"]"#,
        ];
        for layout in layouts {
            let mut record = testing::full();
            layout.clone_into(&mut record.leaf_layout);
            assert!(leaf_hash(&record).is_err(), "{layout}");
        }
    }

    proptest! {
        #[test]
        fn two_readings_of_the_document_agree(record in testing::stored()) {
            prop_assert_eq!(hash(&record), again::leaf(&record).1);
        }

        #[test]
        fn a_leaf_is_the_same_wherever_its_record_lies(record in testing::stored()) {
            let frame = frame::encode_records(std::slice::from_ref(&record));
            let mut logged = Vec::new();
            frame::view_records(&frame, &mut logged).unwrap();
            prop_assert_eq!(leaf_hash_of(&logged[0]).unwrap(), hash(&record));
            let stored = batch::of_views::<&str>(&logged, &[]).unwrap();
            let row = views_of(&stored).unwrap().next().unwrap().unwrap();
            prop_assert_eq!(leaf_hash_of(&row).unwrap(), hash(&record));
        }
    }
}
