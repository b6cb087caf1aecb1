//! Records come in: parse, compare, redact, and then one commit for everyone who waits.
//!
//! ```text
//! bytes  --parse-->  AuditRecord            every violation at once
//!   |  tenant parity       another tenant in the body: quarantine
//!   |  redact              by the policy the permit is pinned to; nothing passes this line in clear
//!   v
//! Candidate  --lane-->  Receipt             known key: duplicate or mismatch; new key: a leaf and a row
//! ```
//! Acknowledged means committed: files and log entry are durable, and so is the evidence of the permit.

mod dedupe;
mod lane;
mod outcome;
mod quarantine;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use catalog::clock::{Clock, Random};
use catalog::guard::{Decision, Permit, Write};
use catalog::ids::{RecordIds, StreamName};
use catalog::keys::{KeyError, KeyRing, SecretKey, TenantSecret};
use moka::sync::Cache;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use crate::record::batch::QuarantineRow;
use crate::record::canonical::{PayloadHash, key_digest, payload_hash};
use crate::record::{Placement, Redactor, Refusal, Secrets, StoredRecord, Terms, parse};
use crate::sequencer::{LaneError, Queue, Queues};
use crate::table::Tables;

use self::dedupe::Index;
use self::lane::{Candidate, Disposition, RecordLane};
use self::quarantine::QuarantineLane;

pub use self::outcome::{Error, Outcome, QuarantineReason, Receipt};

/// Bytes of records that may be on their way at once; more wait.
const IN_FLIGHT_KIB_MAX: usize = 256 << 10;
/// Records that are parsed and redacted before others get their turn.
const RECORDS_AT_ONCE: usize = 32;
/// How long a request waits for room before it is told to come back.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);
/// Policies whose rules are kept ready.
const REDACTORS_MAX: u64 = 1_024;
/// How long they are kept: as long as the keys in them may be used without asking the KMS.
const REDACTOR_LIFETIME: Duration = Duration::from_secs(300);

/// One record as it was sent.
#[derive(Debug, Clone)]
pub struct IncomingRecord {
    /// The JSON text.
    pub json: Bytes,
    /// The idempotency key of the request's headers, where the request is one record.
    pub idempotency_key: Option<String>,
}

/// How a key that was used before for another payload is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A live call: the caller is told of the conflict.
    Single,
    /// One of many: the record is kept aside and the others go through.
    Batch,
}

/// Takes records in.
pub struct Ingest {
    tables: Arc<Tables>,
    keys: Arc<KeyRing>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    ids: Arc<RecordIds>,
    room: Semaphore,
    redactors: Cache<[u8; 32], Arc<Rules>>,
    records: Queues<lane::Work, lane::Reply>,
    quarantine: Queues<quarantine::Work, quarantine::Reply>,
}

/// What turns a record of one policy into a stored one.
struct Rules {
    redactor: Redactor,
    payload_key: Arc<SecretKey>,
}

/// A record after redaction, and what its sender may be told of its payload.
struct Redacted {
    stored: StoredRecord,
    submitted: PayloadHash,
    foreign: bool,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest").finish_non_exhaustive()
    }
}

impl Ingest {
    /// Ingest into these tables.
    pub fn new(
        tables: Arc<Tables>,
        keys: Arc<KeyRing>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        ids: Arc<RecordIds>,
    ) -> Self {
        Self {
            tables,
            keys,
            clock,
            random,
            ids,
            room: Semaphore::new(IN_FLIGHT_KIB_MAX),
            redactors: Cache::builder()
                .max_capacity(REDACTORS_MAX)
                .time_to_live(REDACTOR_LIFETIME)
                .build(),
            records: Queues::default(),
            quarantine: Queues::default(),
        }
    }

    /// Takes the records of one request; the outcomes are in their order.
    ///
    /// # Errors
    /// When nothing can be said of the single records. Some may have been stored all the same: sending the request
    /// again, with the same keys, stores none of them twice.
    pub async fn submit(
        &self,
        permit: &Permit<Write>,
        records: Vec<IncomingRecord>,
        mode: Mode,
    ) -> Result<Vec<Outcome>, Error> {
        let decision = permit.decision();
        let _room = self.reserve(&records).await?;
        let rules = self.rules(decision).await?;
        let mut batch = Batch::default();
        for (position, record) in records.iter().enumerate() {
            if position % RECORDS_AT_ONCE == RECORDS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            match self.redact(decision, &rules, record)? {
                Ok(redacted) => batch.add(position, redacted, &rules),
                Err(refused) => batch.settled.push((position, refused)),
            }
        }
        let dispositions = self
            .store(decision, std::mem::take(&mut batch.candidates))
            .await?;
        self.settle(decision, &mut batch, dispositions, mode);
        self.keep_aside(decision, std::mem::take(&mut batch.aside))
            .await?;
        permit.evidence_durable().await.map_err(Error::Denied)?;
        batch.settled.sort_by_key(|(position, _)| *position);
        Ok(batch
            .settled
            .into_iter()
            .map(|(_, outcome)| outcome)
            .collect())
    }

    async fn reserve(&self, records: &[IncomingRecord]) -> Result<SemaphorePermit<'_>, Error> {
        let bytes: usize = records.iter().map(|record| record.json.len()).sum();
        let kib = u32::try_from(bytes / 1024 + 1).map_err(|_| Error::PayloadTooLarge)?;
        if kib as usize > IN_FLIGHT_KIB_MAX {
            return Err(Error::PayloadTooLarge);
        }
        let room = tokio::time::timeout(ROOM_WAIT_MAX, self.room.acquire_many(kib)).await;
        room.map_err(|_| Error::Unavailable)?
            .map_err(|_| Error::Unavailable)
    }

    async fn rules(&self, decision: &Decision) -> Result<Arc<Rules>, Error> {
        if let Some(rules) = self.redactors.get(&decision.policy.digest) {
            return Ok(rules);
        }
        let secret = |kind| {
            self.keys
                .tenant_secret(&decision.tenant, &decision.silo, kind)
        };
        let hash = secret(TenantSecret::Hash).await.map_err(key_error)?;
        let token = secret(TenantSecret::Token).await.map_err(key_error)?;
        let secrets = Secrets {
            hash: &hash,
            token: &token,
            version: 1,
        };
        let rules = Arc::new(Rules {
            redactor: Redactor::new(&decision.policy.bundle, &secrets),
            payload_key: secret(TenantSecret::Payload).await.map_err(key_error)?,
        });
        self.redactors
            .insert(decision.policy.digest, Arc::clone(&rules));
        Ok(rules)
    }

    /// The inner result is the outcome of a record that is not stored at all.
    fn redact(
        &self,
        decision: &Decision,
        rules: &Rules,
        record: &IncomingRecord,
    ) -> Result<Result<Redacted, Outcome>, Error> {
        let terms = Terms {
            now: self.clock.now(),
            header_key: record.idempotency_key.as_deref(),
        };
        let parsed = match parse(&record.json, &terms) {
            Ok(parsed) => parsed,
            Err(Refusal::TooLarge) => return Ok(Err(Outcome::TooLarge)),
            Err(Refusal::KeyRequired) => return Ok(Err(Outcome::IdempotencyRequired)),
            Err(Refusal::Invalid(violations)) => return Ok(Err(Outcome::Invalid(violations))),
        };
        let foreign = parsed.tenant_id != decision.tenant;
        // A record that was parsed has a canonical form; if one ever had none, nothing of it may be stored.
        let submitted = payload_hash(&parsed).map_err(|_| Error::Unavailable)?;
        let placement = Placement {
            tenant_id: decision.tenant.clone(),
            record_id: self.ids.next(&decision.tenant),
            ingested_at: terms.now,
            stream: decision
                .stream
                .clone()
                .unwrap_or_else(StreamName::audit_default),
            payload_hash: submitted.keyed(&rules.payload_key),
            key_digest: key_digest(&parsed.idempotency_key, &rules.payload_key),
        };
        let stored = rules.redactor.redact(parsed, placement, &*self.random);
        let stored = stored.map_err(|_| Error::Unavailable)?;
        Ok(Ok(Redacted {
            stored,
            submitted,
            foreign,
        }))
    }

    async fn store(
        &self,
        decision: &Decision,
        work: lane::Work,
    ) -> Result<Vec<Disposition>, Error> {
        if work.is_empty() {
            return Ok(Vec::new());
        }
        let queue = self.records.of(&decision.tenant, || RecordLane {
            tenant: decision.tenant.clone(),
            silo: decision.silo.clone(),
            tables: Arc::clone(&self.tables),
            clock: Arc::clone(&self.clock),
            index: Index::default(),
        });
        answer(&queue, work).await
    }

    /// Turns dispositions into outcomes; mismatches are also kept aside.
    fn settle(
        &self,
        decision: &Decision,
        batch: &mut Batch,
        dispositions: Vec<Disposition>,
        mode: Mode,
    ) {
        let mismatched = std::mem::take(&mut batch.sent)
            .into_iter()
            .zip(dispositions);
        for (sent, disposition) in mismatched {
            let outcome = match disposition {
                Disposition::Stored(receipt) => Outcome::Accepted(receipt),
                Disposition::Mismatch { stored_keyed } => {
                    let reason = QuarantineReason::IdempotencyMismatch;
                    let submitted_keyed = sent.stored.payload_hash.clone().unwrap_or_default();
                    let evidence_ref = self.set_aside(decision, batch, &sent.stored, reason);
                    match mode {
                        Mode::Batch => Outcome::Quarantined {
                            reason,
                            evidence_ref,
                        },
                        Mode::Single => Outcome::IdempotencyConflict {
                            submitted: sent.submitted.to_string(),
                            submitted_keyed,
                            stored_keyed,
                            evidence_ref,
                        },
                    }
                }
            };
            batch.settled.push((sent.position, outcome));
        }
        for (position, stored) in std::mem::take(&mut batch.foreign) {
            let reason = QuarantineReason::TenantMismatch;
            let evidence_ref = self.set_aside(decision, batch, &stored, reason);
            batch.settled.push((
                position,
                Outcome::Quarantined {
                    reason,
                    evidence_ref,
                },
            ));
        }
    }

    fn set_aside(
        &self,
        decision: &Decision,
        batch: &mut Batch,
        stored: &StoredRecord,
        reason: QuarantineReason,
    ) -> String {
        let record_id = self.ids.next(&decision.tenant);
        batch.aside.push(QuarantineRow {
            tenant_id: decision.tenant.clone(),
            record_id,
            ingested_at: stored.ingested_at,
            stream: stored.stream.clone(),
            retention_class: stored.retention_class.clone(),
            reason: reason.slug(),
            idempotency_key: stored.idempotency_key.clone(),
            payload: stored.redacted_json().ok(),
            payload_hash: stored.payload_hash.clone(),
            policy_version: Some(decision.policy.version.clone()),
            correlation_id: decision.correlation.clone(),
        });
        record_id.to_string()
    }

    async fn keep_aside(&self, decision: &Decision, rows: Vec<QuarantineRow>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let queue = self.quarantine.of(&decision.tenant, || QuarantineLane {
            tenant: decision.tenant.clone(),
            silo: decision.silo.clone(),
            tables: Arc::clone(&self.tables),
            clock: Arc::clone(&self.clock),
        });
        answer(&queue, rows).await
    }
}

/// The records of one request on their way.
#[derive(Default)]
struct Batch {
    settled: Vec<(usize, Outcome)>,
    candidates: lane::Work,
    /// What each candidate was, in the same order.
    sent: Vec<Sent>,
    foreign: Vec<(usize, StoredRecord)>,
    aside: Vec<QuarantineRow>,
}

struct Sent {
    position: usize,
    submitted: PayloadHash,
    stored: StoredRecord,
}

impl Batch {
    fn add(&mut self, position: usize, redacted: Redacted, rules: &Rules) {
        let Redacted {
            stored,
            submitted,
            foreign,
        } = redacted;
        if foreign {
            self.foreign.push((position, stored));
            return;
        }
        self.candidates.push(Candidate {
            key: stored.key_digest.clone().unwrap_or_default(),
            policy_version: rules.redactor.policy_version().clone(),
            stored: stored.clone(),
        });
        self.sent.push(Sent {
            position,
            submitted,
            stored,
        });
    }
}

async fn answer<W, T>(queue: &Queue<W, Result<T, LaneError>>, work: W) -> Result<T, Error>
where
    W: Send + 'static,
    T: Send + 'static,
{
    let answer = queue.submit(work).ok_or(Error::Unavailable)?;
    let answer: Result<_, oneshot::error::RecvError> = answer.await;
    answer
        .map_err(|_| Error::Unavailable)?
        .map_err(|error| match error {
            LaneError::KeyUnavailable => Error::KeyUnavailable,
            LaneError::Unavailable => Error::Unavailable,
        })
}

fn key_error(error: KeyError) -> Error {
    tracing::warn!(
        error = &error as &dyn std::error::Error,
        "a tenant's secrets cannot be had"
    );
    Error::KeyUnavailable
}
