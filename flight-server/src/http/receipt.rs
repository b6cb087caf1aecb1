//! What became of a record, as its sender reads it: a receipt or a problem, the same in a batch and alone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::ids::TenantId;
use engine::ingest::{Outcome, Promise, Receipt};
use http::StatusCode;
use serde_json::{Value, json};

use crate::problem::Problem;

/// One record's answer.
#[derive(Debug)]
pub(super) enum Answer {
    /// It is stored.
    Stored(Value),
    /// It is not, or not where it was meant to go.
    Problem(Box<Problem>),
}

impl Answer {
    /// The answer to this outcome.
    pub(super) fn of(outcome: Outcome, tenant: &TenantId) -> Self {
        match Problem::of_outcome(outcome) {
            Ok(receipt) => Self::Stored(json_of(&receipt, tenant)),
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

pub(super) fn json_of(receipt: &Receipt, tenant: &TenantId) -> Value {
    json!({
        "recordId": receipt.record_id,
        "tenantId": tenant,
        "policyVersion": receipt.policy_version,
        "stream": receipt.stream,
        "segmentId": receipt.segment_id.as_deref(),
        "leafIndex": receipt.leaf_index,
        "duplicate": receipt.duplicate,
        "integrity": receipt.promise.as_ref().map(integrity),
    })
}

/// The promise of the group that the record was made durable with; hashes are unpadded base64url.
fn integrity(promise: &Promise) -> Value {
    let text = |hash| URL_SAFE_NO_PAD.encode::<[u8; 32]>(hash);
    let path: Vec<String> = promise.path().into_iter().map(text).collect();
    json!({
        "root": text(promise.root()),
        "prev": promise.prev().map(text),
        "sig": null,
        "leaf": promise.leaf().map(text),
        "index": promise.index(),
        "size": promise.size(),
        "path": path,
    })
}
