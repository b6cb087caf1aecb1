//! The part of ingest that runs side by side: one record, from what was sent to what may be stored.
//!
//! ```text
//! IncomingRecord --read--> AuditRecord --schema, tenant parity--> --redact, leaf hash--> Redacted
//! ```
//! Nothing passes the last arrow in clear.

use std::sync::Arc;

use catalog::clock::{Clock, Random};
use catalog::guard::Decision;
use catalog::ids::{RecordIds, StreamName};
use catalog::schema::Checker;

use crate::record::canonical::{PayloadHash, key_digest, payload_hash};
use crate::record::{Placement, Refusal, StoredRecord};
use crate::seal::{Hash, leaf_hash};

use super::dedupe::KeyDigest;
use super::incoming::IncomingRecord;
use super::outcome::{Error, Outcome};
use super::rules::Rules;
use super::schema;

/// What makes stored records.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) ids: Arc<RecordIds>,
}

/// A record after redaction, and what its sender may be told of its payload.
pub(super) struct Redacted {
    pub(super) stored: Box<StoredRecord>,
    pub(super) key: KeyDigest,
    /// The keyed hash of the payload.
    pub(super) payload: [u8; 32],
    pub(super) leaf: Hash,
    pub(super) submitted: PayloadHash,
    /// The body names another tenant than its sender's.
    pub(super) foreign: bool,
}

impl Intake {
    /// The inner result is the outcome of a record that is not stored at all.
    pub(super) fn take(
        &self,
        decision: &Decision,
        rules: &Rules,
        checker: Option<&Checker>,
        record: IncomingRecord,
    ) -> Result<Result<Redacted, Outcome>, Error> {
        let now = self.clock.now();
        let parsed = match record.read(now) {
            Ok(parsed) => parsed,
            Err(Refusal::TooLarge) => return Ok(Err(Outcome::TooLarge)),
            Err(Refusal::KeyRequired) => return Ok(Err(Outcome::IdempotencyRequired)),
            Err(Refusal::Invalid(violations)) => return Ok(Err(Outcome::Invalid(violations))),
        };
        let violations = schema::violations(checker, &parsed)?;
        if !violations.is_empty() {
            return Ok(Err(Outcome::Invalid(violations)));
        }
        let foreign = parsed.tenant_id != decision.tenant;
        // A record that was parsed has a canonical form; if one ever had none, nothing of it may be stored.
        let submitted = payload_hash(&parsed).map_err(|_| Error::Unavailable)?;
        let placement = Placement {
            tenant_id: decision.tenant.clone(),
            record_id: self.ids.next(&decision.tenant),
            ingested_at: now,
            stream: decision
                .stream
                .clone()
                .unwrap_or_else(StreamName::audit_default),
            payload_hash: submitted.keyed(&rules.payload_key),
            key_digest: key_digest(&parsed.idempotency_key, &rules.payload_key),
        };
        let (key, payload) = (placement.key_digest, placement.payload_hash);
        let stored = rules.redactor.redact(parsed, placement, &*self.random);
        let stored = stored.map(Box::new).map_err(|_| Error::Unavailable)?;
        Ok(Ok(Redacted {
            key,
            payload,
            leaf: leaf_hash(&stored).map_err(|_| Error::Unavailable)?,
            stored,
            submitted,
            foreign,
        }))
    }
}
