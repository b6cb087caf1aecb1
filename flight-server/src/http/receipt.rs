//! What became of a record, as its sender reads it: a receipt or a problem, the same in a batch and alone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::clock::Timestamp;
use catalog::ids::{PolicyVersion, RecordId, StreamName, TenantId};
use catalog::schema::SchemaVersion;
use engine::ingest::{Outcome, Promise, Receipt};
use http::StatusCode;
use serde::{Serialize, Serializer};

use crate::problem::Problem;

/// Characters of a signature in unpadded base64url; a hash has half as many.
const CHARS_MAX: usize = 86;

/// One record's answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is stored.
    Stored(Box<Stored>),
    /// It is not, or not where it was meant to go.
    Problem(Box<Problem>),
}

/// A receipt as its holder reads it. Batches have a thousand of them: they are written, never built.
#[derive(Debug)]
pub(super) struct Stored {
    receipt: Receipt,
    tenant: TenantId,
}

impl Answer {
    /// The answer to this outcome.
    pub(super) fn of(outcome: Outcome, tenant: &TenantId) -> Self {
        match Problem::of_outcome(outcome) {
            Ok(receipt) => Self::Stored(Box::new(Stored::new(receipt, tenant))),
            Err(problem) => Self::Problem(problem),
        }
    }

    /// The status of this record, in a batch as alone.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Stored(_) => StatusCode::OK,
            Self::Problem(problem) => problem.status(),
        }
    }
}

impl Stored {
    /// The receipt of a record of this tenant.
    pub(super) fn new(receipt: Receipt, tenant: &TenantId) -> Self {
        Self {
            receipt,
            tenant: tenant.clone(),
        }
    }

    /// Which schema the record that was sent is of.
    pub(super) fn schema(&self) -> Option<(&StreamName, SchemaVersion)> {
        Some((&self.receipt.stream, self.receipt.schema_version?))
    }
}

impl Serialize for Stored {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Shown<'r> {
            record_id: RecordId,
            tenant_id: &'r TenantId,
            policy_version: &'r PolicyVersion,
            stream: &'r StreamName,
            segment_id: Option<&'r str>,
            schema_version: Option<SchemaVersion>,
            leaf_index: i64,
            duplicate: bool,
            integrity: Option<Integrity<'r>>,
        }
        let receipt = &self.receipt;
        Shown {
            record_id: receipt.record_id,
            tenant_id: &self.tenant,
            policy_version: &receipt.policy_version,
            stream: &receipt.stream,
            segment_id: receipt.segment_id.as_deref(),
            schema_version: receipt.schema_version,
            leaf_index: receipt.leaf_index,
            duplicate: receipt.duplicate,
            integrity: receipt.promise.as_ref().map(Integrity),
        }
        .serialize(serializer)
    }
}

/// The promise of the group that the record was made durable with ([`engine::seal::promise`]).
struct Integrity<'r>(&'r Promise);

impl Serialize for Integrity<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Shown<'r> {
            first_leaf: u64,
            size: u64,
            root: Bytes<'r>,
            prev: Option<Bytes<'r>>,
            signed_at: Option<Timestamp>,
            key: Option<&'r str>,
            sig: Option<Bytes<'r>>,
            leaf: Option<Bytes<'r>>,
            index: usize,
            path: Vec<Bytes<'r>>,
        }
        let promise = self.0;
        let (root, prev, leaf) = (promise.root(), promise.prev(), promise.leaf());
        let (path, signed) = (promise.path(), promise.signed());
        Shown {
            first_leaf: promise.first(),
            size: promise.size(),
            root: Bytes(&root),
            prev: prev.as_ref().map(|prev| Bytes(prev)),
            signed_at: signed.map(|signed| signed.at),
            key: signed.map(|signed| &*signed.key),
            sig: signed.map(|signed| Bytes(&signed.signature)),
            leaf: leaf.as_ref().map(|leaf| Bytes(leaf)),
            index: promise.index(),
            path: path.iter().map(|hash| Bytes(hash)).collect(),
        }
        .serialize(serializer)
    }
}

/// A hash or a signature in unpadded base64url.
struct Bytes<'r>(&'r [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; CHARS_MAX];
        let written = URL_SAFE_NO_PAD.encode_slice(self.0, &mut text);
        let written = written.map_err(serde::ser::Error::custom)?;
        let text = std::str::from_utf8(&text[..written]);
        serializer.serialize_str(text.map_err(serde::ser::Error::custom)?)
    }
}
