//! What becomes of a record that was sent in.

use catalog::guard::Denial;
use catalog::ids::{PolicyVersion, RecordId, StreamName};

use crate::record::Violation;

/// The promise for a stored record: it is in the table, once, and stays there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The record's id, made here.
    pub record_id: RecordId,
    /// The policy it was redacted under.
    pub policy_version: PolicyVersion,
    /// The stream it is in.
    pub stream: StreamName,
    /// Its place in the stream's log, from 0.
    pub leaf_index: i64,
    /// Whether it was stored by an earlier call with the same key and payload.
    pub duplicate: bool,
}

/// Why a record was kept aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineReason {
    /// The body names another tenant than the caller's.
    TenantMismatch,
    /// The key was used before with another payload.
    IdempotencyMismatch,
}

impl QuarantineReason {
    /// The problem slug, which is also the word in the quarantine table.
    pub const fn slug(self) -> &'static str {
        match self {
            Self::TenantMismatch => "tenant-mismatch",
            Self::IdempotencyMismatch => "idempotency-mismatch",
        }
    }
}

/// The outcome of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Stored, now or by an earlier call.
    Accepted(Receipt),
    /// It breaks the schema: everything that is wrong with it.
    Invalid(Vec<Violation>),
    /// It is larger than one record may be.
    TooLarge,
    /// It has no idempotency key, neither in the body nor in a header.
    IdempotencyRequired,
    /// A live call used a key again for another payload; a quarantine entry was made.
    IdempotencyConflict {
        /// SHA-256 of the payload just sent, which its sender can compute too.
        submitted: String,
        /// The same payload's hash under the tenant's key.
        submitted_keyed: String,
        /// The stored payload's hash under the tenant's key.
        stored_keyed: String,
        /// The quarantine entry.
        evidence_ref: String,
    },
    /// Kept aside for an operator.
    Quarantined {
        /// Why.
        reason: QuarantineReason,
        /// The quarantine entry.
        evidence_ref: String,
    },
}

/// Why a whole request could not be carried out. What was stored of it is answered as a duplicate next time.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The guard says no, or the evidence of its yes is missing.
    #[error("the request is not allowed")]
    Denied(#[source] Denial),
    /// More than a server takes at once.
    #[error("the request is larger than the server takes")]
    PayloadTooLarge,
    /// The tenant's keys are out of reach.
    #[error("the tenant's keys are not available")]
    KeyUnavailable,
    /// Storage is out of reach or the queue is full: try again with the same keys.
    #[error("the records could not be stored now")]
    Unavailable,
}
