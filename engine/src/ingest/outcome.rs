//! What becomes of a record that was sent in.

use std::sync::Arc;

use catalog::clock::Timestamp;
use catalog::guard::Denial;
use catalog::ids::{PolicyVersion, RecordId, StreamName};
use catalog::schema::SchemaVersion;

use crate::record::Violation;
use crate::seal::{Group, Hash};

/// The promise for a stored record: it is durable, once, and its place in the log is this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The record's id, made here.
    pub record_id: RecordId,
    /// The policy it was redacted under.
    pub policy_version: PolicyVersion,
    /// The stream it is in.
    pub stream: StreamName,
    /// The version of its schema that the record says which was just sent.
    pub schema_version: Option<SchemaVersion>,
    /// Its place in the stream's log, from 0.
    pub leaf_index: i64,
    /// The hour's segment of the log that it is in.
    pub segment_id: Option<Arc<str>>,
    /// Whether it was stored by an earlier call with the same key and payload.
    pub duplicate: bool,
    /// What it was appended with. The receipt of a duplicate has none.
    pub promise: Option<Promise>,
}

/// A record's place in the group that it was made durable with: whoever keeps this can later show that the log of the
/// stream has to have the record.
#[derive(Debug, Clone)]
pub struct Promise {
    pub(super) group: Arc<GroupPromise>,
    pub(super) index: usize,
}

/// The records of one stream that were appended together.
#[derive(Debug)]
pub(super) struct GroupPromise {
    pub(super) tree: Group,
    /// The number of its first leaf.
    pub(super) first: u64,
    pub(super) root: Hash,
    pub(super) prev: Option<Hash>,
    pub(super) signed: Option<Signed>,
}

/// The signature of a group's head ([`crate::seal::promise`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// When it was made.
    pub at: Timestamp,
    /// The name of the process key that made it.
    pub key: Arc<str>,
    /// The signature.
    pub signature: [u8; 64],
}

impl Promise {
    /// The root of the group (RFC 6962) over the leaf hashes of its records.
    pub fn root(&self) -> Hash {
        self.group.root
    }

    /// The root of the group before, if there was one.
    pub fn prev(&self) -> Option<Hash> {
        self.group.prev
    }

    /// The number of the group's first leaf in the log of the stream.
    pub fn first(&self) -> u64 {
        self.group.first
    }

    /// The signature of all that; none if there was no key to make it with.
    pub fn signed(&self) -> Option<&Signed> {
        self.group.signed.as_ref()
    }

    /// How many records the group has.
    pub fn size(&self) -> u64 {
        self.group.tree.size()
    }

    /// The record's place among them, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The record's leaf hash.
    pub fn leaf(&self) -> Option<Hash> {
        self.group.tree.leaf(self.index)
    }

    /// The audit path from the leaf to the root.
    pub fn path(&self) -> Vec<Hash> {
        self.group.tree.path(self.index).unwrap_or_default()
    }
}

impl PartialEq for Promise {
    fn eq(&self, other: &Self) -> bool {
        let of = |promise: &Self| {
            (
                promise.first(),
                promise.root(),
                promise.prev(),
                promise.size(),
                promise.index,
            )
        };
        of(self) == of(other)
    }
}

impl Eq for Promise {}

/// Why a record was kept aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// As many records wait for storage as may: try again with the same keys.
    #[error("as many records wait for storage as may; try again with the same keys")]
    Full,
    /// Another node takes the tenant's records: send them there, or wait until it has let go of them.
    #[error("another node takes this tenant's records")]
    Elsewhere,
    /// The tenant's table, or this node's log, is not what was written: an operator has to look at it.
    #[error("the tenant's records wait for an operator; nothing is taken meanwhile")]
    Halted,
    /// Storage is out of reach or the queue is full: try again with the same keys.
    #[error("the records could not be stored now")]
    Unavailable,
}
