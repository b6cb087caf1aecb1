//! The part of ingest that runs side by side: one record, from what was sent to what may be stored.
//!
//! ```text
//! IncomingRecord --read--> AuditRecord --schema, tenant parity--> --redact, leaf hash--> Redacted
//! ```
//! Nothing passes the last arrow in clear.

use std::sync::Arc;

use catalog::clock::{Clock, Random};
use catalog::guard::Decision;
use catalog::ids::{RecordId, RecordIds, StreamName};
use catalog::schema::Checker;
use tokio::task::JoinSet;

use crate::record::canonical::{PayloadHash, key_digest, payload_hash};
use crate::record::schema::SALT_BYTES;
use crate::record::{Placement, Refusal, StoredRecord};
use crate::seal::{Hash, leaf_hash};

use super::dedupe::KeyDigest;
use super::incoming::IncomingRecord;
use super::outcome::{Error, Outcome};
use super::rules::Rules;
use super::schema;

/// Records that are taken before others get their turn.
const RECORDS_AT_ONCE: usize = 32;
/// Records of one request that one task takes; those of a larger one are taken side by side.
const RECORDS_A_TASK: usize = 256;

/// What makes stored records.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<dyn Random>,
    pub(super) ids: Arc<RecordIds>,
}

/// What the records of a request are taken under.
#[derive(Clone)]
pub(super) struct Pinned {
    pub(super) decision: Arc<Decision>,
    pub(super) rules: Arc<Rules>,
    pub(super) checker: Option<Arc<Checker>>,
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
    /// How large it was when it was sent.
    pub(super) bytes: usize,
}

/// What became of a record: the error is the outcome of one that is not stored at all.
pub(super) type Taken = Result<Redacted, Outcome>;

/// What is made ahead for each record.
type Made = (RecordId, [u8; SALT_BYTES]);

impl Intake {
    /// Takes records, and gives what became of each in their order.
    pub(super) async fn take(
        self: &Arc<Self>,
        pinned: Pinned,
        mut records: Vec<IncomingRecord>,
    ) -> Result<Vec<Taken>, Error> {
        let mut made = self.made(&pinned.decision, records.len());
        if records.len() <= RECORDS_A_TASK {
            return self.take_some(&pinned, made, records).await;
        }
        // Dropped with whoever waits, and then none of them goes on.
        let mut tasks = JoinSet::new();
        let mut parts = 0;
        while !records.is_empty() {
            let rest = records.split_off(records.len().min(RECORDS_A_TASK));
            let records = std::mem::replace(&mut records, rest);
            let rest = made.split_off(records.len());
            let made = std::mem::replace(&mut made, rest);
            let (intake, pinned, part) = (Arc::clone(self), pinned.clone(), parts);
            tasks.spawn(async move { (part, intake.take_some(&pinned, made, records).await) });
            parts += 1;
        }
        let mut taken: Vec<Vec<Taken>> = Vec::new();
        taken.resize_with(parts, Vec::new);
        while let Some(joined) = tasks.join_next().await {
            let (part, some) = joined.map_err(|error| {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "records of a request were not taken");
                Error::Unavailable
            })?;
            taken[part] = some?;
        }
        Ok(taken.into_iter().flatten().collect())
    }

    fn made(&self, decision: &Decision, count: usize) -> Vec<Made> {
        let mut salts = vec![[0; SALT_BYTES]; count];
        self.random.fill(salts.as_flattened_mut());
        let ids = self.ids.next_many(&decision.tenant, count);
        ids.into_iter().zip(salts).collect()
    }

    async fn take_some(
        &self,
        pinned: &Pinned,
        made: Vec<Made>,
        records: Vec<IncomingRecord>,
    ) -> Result<Vec<Taken>, Error> {
        let mut taken = Vec::with_capacity(records.len());
        for (number, (record, made)) in records.into_iter().zip(made).enumerate() {
            if number % RECORDS_AT_ONCE == RECORDS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            taken.push(self.one(pinned, made, record)?);
        }
        Ok(taken)
    }

    fn one(
        &self,
        pinned: &Pinned,
        (record_id, salt): Made,
        record: IncomingRecord,
    ) -> Result<Taken, Error> {
        let Pinned {
            decision,
            rules,
            checker,
        } = pinned;
        let now = self.clock.now();
        let bytes = record.bytes();
        let parsed = match record.read(now) {
            Ok(parsed) => parsed,
            Err(Refusal::TooLarge) => return Ok(Err(Outcome::TooLarge)),
            Err(Refusal::KeyRequired) => return Ok(Err(Outcome::IdempotencyRequired)),
            Err(Refusal::Invalid(violations)) => return Ok(Err(Outcome::Invalid(violations))),
        };
        let violations = schema::violations(checker.as_deref(), &parsed)?;
        if !violations.is_empty() {
            return Ok(Err(Outcome::Invalid(violations)));
        }
        let foreign = parsed.tenant_id != decision.tenant;
        // A record that was parsed has a canonical form; if one ever had none, nothing of it may be stored.
        let submitted = payload_hash(&parsed).map_err(|_| Error::Unavailable)?;
        let placement = Placement {
            tenant_id: decision.tenant.clone(),
            record_id,
            ingested_at: now,
            stream: decision
                .stream
                .clone()
                .unwrap_or_else(StreamName::audit_default),
            payload_hash: submitted.keyed(&rules.payload_key),
            key_digest: key_digest(&parsed.idempotency_key, &rules.payload_key),
            salt,
        };
        let (key, payload) = (placement.key_digest, placement.payload_hash);
        let stored = rules.redactor.redact(parsed, placement);
        let stored = stored.map(Box::new).map_err(|_| Error::Unavailable)?;
        Ok(Ok(Redacted {
            key,
            payload,
            leaf: leaf_hash(&stored).map_err(|_| Error::Unavailable)?,
            stored,
            submitted,
            foreign,
            bytes,
        }))
    }
}
