//! What became of a record, as its sender reads it: a receipt or a problem, the same in a batch and alone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::ids::{PolicyVersion, RecordId, StreamName, TenantId};
use catalog::schema::SchemaVersion;
use engine::ingest::{Outcome, Promise, Receipt};
use http::StatusCode;
use serde::{Serialize, Serializer};

use crate::problem::Problem;

/// Characters of a hash in unpadded base64url.
const HASH_CHARS: usize = 43;

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

/// The promise of the group that the record was made durable with; hashes are unpadded base64url.
struct Integrity<'r>(&'r Promise);

impl Serialize for Integrity<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown {
            root: Hash,
            prev: Option<Hash>,
            sig: (),
            leaf: Option<Hash>,
            index: usize,
            size: u64,
            path: Vec<Hash>,
        }
        let promise = self.0;
        Shown {
            root: Hash(promise.root()),
            prev: promise.prev().map(Hash),
            sig: (),
            leaf: promise.leaf().map(Hash),
            index: promise.index(),
            size: promise.size(),
            path: promise.path().into_iter().map(Hash).collect(),
        }
        .serialize(serializer)
    }
}

struct Hash([u8; 32]);

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; HASH_CHARS];
        let written = URL_SAFE_NO_PAD.encode_slice(self.0, &mut text);
        written.map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(std::str::from_utf8(&text).map_err(serde::ser::Error::custom)?)
    }
}
