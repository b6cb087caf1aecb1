//! The records of one request on their way: which wait for the lane, which are settled, which are kept aside.

use std::collections::BTreeSet;

use catalog::guard::Decision;
use catalog::ids::RecordIds;
use catalog::schema::SchemaVersion;

use crate::record::batch::QuarantineRow;
use crate::record::canonical::PayloadHash;
use crate::record::{StoredRecord, frame};

use super::Mode;
use super::intake::Redacted;
use super::outcome::{Outcome, QuarantineReason, Receipt};
use super::records::{Candidate, Disposition, Portion};
use super::review::State;
use super::rules::Rules;

/// Bytes of records that are handed to the lane together; a larger request is appended in several groups.
const PORTION_BYTES_MAX: usize = 4 << 20;

/// One request.
pub(super) struct Request {
    settled: Vec<(usize, Outcome)>,
    /// What is to be stored, in portions for the lane.
    pub(super) portions: Vec<Portion>,
    /// What each candidate was, in the same order.
    sent: Vec<Sent>,
    foreign: Vec<(usize, Box<StoredRecord>)>,
    /// What is to be kept aside.
    pub(super) aside: Vec<QuarantineRow>,
    /// Why.
    pub(super) reasons: BTreeSet<QuarantineReason>,
}

struct Sent {
    position: usize,
    submitted: PayloadHash,
    schema_version: Option<SchemaVersion>,
}

impl Request {
    /// Has room for so many records.
    pub(super) fn of(records: usize) -> Self {
        Self {
            settled: Vec::with_capacity(records),
            portions: Vec::new(),
            sent: Vec::with_capacity(records),
            foreign: Vec::new(),
            aside: Vec::new(),
            reasons: BTreeSet::new(),
        }
    }

    /// Notes a record that is to be stored.
    pub(super) fn add(&mut self, position: usize, redacted: Redacted, rules: &Rules) {
        let Redacted {
            stored,
            key,
            payload,
            leaf,
            submitted,
            foreign,
            bytes,
        } = redacted;
        if foreign {
            self.foreign.push((position, stored));
            return;
        }
        let schema_version = stored.schema_version.as_deref();
        let schema_version = schema_version.and_then(SchemaVersion::parse);
        let candidate = Candidate {
            stored,
            key,
            payload,
            policy_version: rules.redactor.policy_version().clone(),
            leaf,
        };
        match self.portions.last_mut() {
            Some(portion) if portion.bytes + bytes <= PORTION_BYTES_MAX => {
                portion.bytes += bytes;
                portion.candidates.push(candidate);
            }
            _ => {
                let expected = self.sent.capacity() - self.sent.len();
                let mut candidates = Vec::with_capacity(expected.max(1));
                candidates.push(candidate);
                self.portions.push(Portion { candidates, bytes });
            }
        }
        self.sent.push(Sent {
            position,
            submitted,
            schema_version,
        });
    }

    /// Notes the outcome of a record that is not stored at all.
    pub(super) fn refuse(&mut self, position: usize, outcome: Outcome) {
        self.settled.push((position, outcome));
    }

    /// Turns dispositions into outcomes; mismatches and records of other tenants are also kept aside.
    pub(super) fn settle(
        &mut self,
        ids: &RecordIds,
        decision: &Decision,
        dispositions: Vec<Disposition>,
        mode: Mode,
    ) {
        let sent = std::mem::take(&mut self.sent);
        for (sent, disposition) in sent.into_iter().zip(dispositions) {
            let outcome = match disposition {
                Disposition::Stored(receipt) => Outcome::Accepted(Receipt {
                    schema_version: sent.schema_version,
                    ..receipt
                }),
                Disposition::Mismatch {
                    rejected,
                    stored_keyed,
                } => {
                    let reason = QuarantineReason::IdempotencyMismatch;
                    let submitted_keyed = rejected.payload_hash.clone().unwrap_or_default();
                    let evidence_ref = self.set_aside(ids, decision, &rejected, reason);
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
            self.settled.push((sent.position, outcome));
        }
        for (position, stored) in std::mem::take(&mut self.foreign) {
            let reason = QuarantineReason::TenantMismatch;
            let evidence_ref = self.set_aside(ids, decision, &stored, reason);
            let outcome = Outcome::Quarantined {
                reason,
                evidence_ref,
            };
            self.settled.push((position, outcome));
        }
    }

    fn set_aside(
        &mut self,
        ids: &RecordIds,
        decision: &Decision,
        stored: &StoredRecord,
        reason: QuarantineReason,
    ) -> String {
        let record_id = ids.next(&decision.tenant);
        self.reasons.insert(reason);
        self.aside.push(QuarantineRow {
            tenant_id: decision.tenant.clone(),
            record_id,
            ingested_at: stored.ingested_at,
            stream: stored.stream.clone(),
            retention_class: stored.retention_class.clone(),
            reason: reason.slug().into(),
            idempotency_key: stored.idempotency_key.clone(),
            payload: stored.redacted_json().ok(),
            payload_hash: stored.payload_hash.clone(),
            policy_version: Some(decision.policy.version.clone()),
            correlation_id: decision.correlation.clone(),
            entry_id: record_id,
            state: State::Open.as_str().into(),
            decision_reason: None,
            decided_by: None,
            sealed_record: Some(frame::encode_records(std::slice::from_ref(stored))),
        });
        record_id.to_string()
    }

    /// The outcomes in the order of the records.
    pub(super) fn into_outcomes(mut self) -> Vec<Outcome> {
        self.settled.sort_by_key(|(position, _)| *position);
        self.settled
            .into_iter()
            .map(|(_, outcome)| outcome)
            .collect()
    }
}
