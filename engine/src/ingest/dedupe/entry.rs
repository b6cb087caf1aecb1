//! What the index knows of a record, in its bytes.
//!
//! ```text
//! key    32  digest of the idempotency key (`key_digest` of the row)
//! value  32  keyed hash of the payload (`payload_hash` of the row)
//!        16  record id
//!         8  leaf index, little endian
//!         8  number of the policy version, little endian; its tenant is the place's
//!         1  length of the stream's name, and the name
//!         …  segment id; nothing where the row has none
//! ```
//! About 130 bytes a record. Digest and hash are keyed: the index confirms a guess as little as the table does.

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use catalog::ids::{PolicyVersion, RecordId, StreamName, TenantId};

use crate::ingest::outcome::Receipt;
use crate::record::canonical::{read_digest, read_payload};
use crate::table;

/// What the index needs of a row.
pub(super) const COLUMNS: [&str; 7] = [
    "key_digest",
    "payload_hash",
    "record_id",
    "policy_version",
    "stream",
    "leaf_index",
    "segment_id",
];

/// What a key is found by: all 256 bits of [`crate::record::canonical::key_digest`].
pub(crate) type KeyDigest = [u8; 32];

/// A record that is in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// The keyed hash of its payload.
    pub(crate) payload: [u8; 32],
    /// What its sender was told; out of the index it says that it is a duplicate.
    pub(crate) receipt: Receipt,
}

pub(super) fn encode(known: &Known) -> Vec<u8> {
    let receipt = &known.receipt;
    let stream = receipt.stream.as_str().as_bytes();
    let segment = receipt.segment_id.as_deref().unwrap_or_default();
    let mut value = Vec::with_capacity(65 + stream.len() + segment.len());
    value.extend_from_slice(&known.payload);
    value.extend_from_slice(&receipt.record_id.to_bytes());
    value.extend_from_slice(&receipt.leaf_index.to_le_bytes());
    value.extend_from_slice(&receipt.policy_version.number.to_le_bytes());
    // A stream's name has at most 64 bytes.
    value.push(u8::try_from(stream.len()).unwrap_or(u8::MAX));
    value.extend_from_slice(stream);
    value.extend_from_slice(segment.as_bytes());
    value
}

/// `None`: these bytes were not written by [`encode`].
pub(super) fn decode(tenant: &TenantId, value: &[u8]) -> Option<Known> {
    let (payload, rest) = value.split_first_chunk::<32>()?;
    let (record_id, rest) = rest.split_first_chunk::<16>()?;
    let (leaf_index, rest) = rest.split_first_chunk::<8>()?;
    let (policy, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first()?;
    let (stream, segment) = rest.split_at_checked(usize::from(*length))?;
    let segment = std::str::from_utf8(segment).ok()?;
    Some(Known {
        payload: *payload,
        receipt: Receipt {
            record_id: RecordId::from_bytes(*record_id),
            policy_version: PolicyVersion {
                tenant: tenant.clone(),
                number: u64::from_le_bytes(*policy),
            },
            stream: StreamName::parse(std::str::from_utf8(stream).ok()?).ok()?,
            schema_version: None,
            leaf_index: i64::from_le_bytes(*leaf_index),
            segment_id: (!segment.is_empty()).then(|| segment.into()),
            duplicate: true,
            promise: None,
        },
    })
}

/// The entries of rows as the table has them; a row without a key has none.
pub(super) fn of_rows(
    tenant: &TenantId,
    rows: &RecordBatch,
) -> Result<Vec<(KeyDigest, Known)>, table::Error> {
    let columns = Columns::of(rows).ok_or(MALFORMED)?;
    (0..rows.num_rows())
        .filter(|row| columns.keys.is_valid(*row))
        .map(|row| columns.entry(tenant, row).ok_or(MALFORMED))
        .collect()
}

const MALFORMED: table::Error = table::Error::Tampered {
    what: "a stored record has no receipt",
};

struct Columns<'rows> {
    keys: &'rows StringArray,
    payloads: &'rows StringArray,
    ids: &'rows StringArray,
    policies: &'rows StringArray,
    streams: &'rows StringArray,
    leaves: &'rows arrow::array::Int64Array,
    segments: &'rows StringArray,
}

impl<'rows> Columns<'rows> {
    fn of(rows: &'rows RecordBatch) -> Option<Self> {
        let text = |name: &str| rows.column_by_name(name)?.as_string_opt::<i32>();
        Some(Self {
            keys: text("key_digest")?,
            payloads: text("payload_hash")?,
            ids: text("record_id")?,
            policies: text("policy_version")?,
            streams: text("stream")?,
            leaves: rows
                .column_by_name("leaf_index")?
                .as_primitive_opt::<Int64Type>()?,
            segments: text("segment_id")?,
        })
    }

    fn entry(&self, tenant: &TenantId, row: usize) -> Option<(KeyDigest, Known)> {
        let policy_version = PolicyVersion::parse(self.policies.value(row)).ok()?;
        let whole = self.leaves.is_valid(row) && policy_version.tenant == *tenant;
        whole.then_some(())?;
        let known = Known {
            payload: read_payload(self.payloads.value(row))?,
            receipt: Receipt {
                record_id: RecordId::parse(self.ids.value(row)).ok()?,
                policy_version,
                stream: StreamName::parse(self.streams.value(row)).ok()?,
                schema_version: None,
                leaf_index: self.leaves.value(row),
                segment_id: self
                    .segments
                    .is_valid(row)
                    .then(|| self.segments.value(row).into()),
                duplicate: true,
                promise: None,
            },
        };
        Some((read_digest(self.keys.value(row))?, known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(stream: &str, segment_id: Option<&str>) -> Known {
        Known {
            payload: [7; 32],
            receipt: Receipt {
                record_id: RecordId::from_bytes([9; 16]),
                policy_version: PolicyVersion::parse("tenant:acme@12").unwrap(),
                stream: StreamName::parse(stream).unwrap(),
                schema_version: None,
                leaf_index: 1 << 40,
                segment_id: segment_id.map(Into::into),
                duplicate: true,
                promise: None,
            },
        }
    }

    #[test]
    fn entries_come_back_and_cut_ones_do_not() {
        let acme = TenantId::parse("acme").unwrap();
        for known in [
            known("audit.default", None),
            known(&"s".repeat(64), Some("seg-2026-11-22T10")),
        ] {
            let bytes = encode(&known);
            assert_eq!(decode(&acme, &bytes), Some(known.clone()));
            let fixed = bytes.len() - known.receipt.segment_id.map_or(0, |segment| segment.len());
            for length in 0..fixed {
                assert_eq!(decode(&acme, &bytes[..length]), None, "{length} bytes");
            }
        }
    }
}
