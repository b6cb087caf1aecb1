//! What became of a record, as its sender reads it: a receipt or a problem, the same in a batch and alone.

use catalog::ids::TenantId;
use engine::ingest::{Outcome, Receipt};
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
        "leafIndex": receipt.leaf_index,
        "duplicate": receipt.duplicate,
    })
}
