//! Records come in: parse, compare, redact, and then one append for everyone who waits.
//!
//! ```text
//! incoming --read-->  AuditRecord            every violation at once
//!   |  schema              of its stream and version, where there is one
//!   |  tenant parity       another tenant in the body: quarantine
//!   |  redact              by the policy the permit is pinned to; nothing passes this line in clear
//!   |  leaf hash
//!   v
//! Candidate  --lane-->  Receipt             known key: duplicate or mismatch; new key: a leaf and a row
//! ```
//! Acknowledged means durable: the rows are in the write-ahead log (or, where that is asked for, in the table), and so is
//! the evidence of the permit.

pub mod dedupe;
mod entries;
mod incoming;
mod intake;
mod outcome;
mod promising;
mod quarantine;
mod records;
mod request;
mod review;
mod room;
mod round;
mod rows;
mod rules;
mod schema;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use catalog::evidence::{Evidence, EvidenceEntry, Verdict};
use catalog::guard::{Decision, Denial, Permit, Write};
use catalog::ids::{PolicyVersion, RecordId, TenantId};
use catalog::keys::KeyRing;
use catalog::lease::Leases;
use catalog::node::Holder;
use catalog::schema::Schemas;
use futures::future::try_join_all;
use tokio::time::Instant;

use crate::record::StoredRecord;
use crate::record::batch::QuarantineRow;
use crate::record::canonical::{digest_text, read_payload, release_digest};
use crate::seal::leaf_hash;
use crate::sequencer::{LaneError, Lanes, Sequencer};

use self::dedupe::Dedup;
use self::intake::{Intake, Pinned};
use self::quarantine::Quarantine;
use self::records::{Candidate, Disposition, Portion, Records};
use self::request::Request;
use self::room::Room;
use self::rules::RuleBook;

pub use self::incoming::IncomingRecord;
pub use self::outcome::{Error, Outcome, Promise, QuarantineReason, Receipt, Signed};
pub use self::review::{Decided, Entry, Filter, PAGE_MAX, Page, Review, ReviewError, State};

/// How long a request waits for its tenant's lane, and for the lane's answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

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
    intake: Arc<Intake>,
    rules: RuleBook,
    schemas: Arc<Schemas>,
    room: Room,
    records: Lanes<Records>,
    quarantine: Lanes<Quarantine>,
    evidence: Arc<dyn Evidence>,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingest").finish_non_exhaustive()
    }
}

impl Ingest {
    /// Ingest by these lanes. `lease` is where the right to number a tenant's records is asked for, and as whom; without
    /// it no records are taken.
    pub fn new(
        sequencer: &Arc<Sequencer>,
        keys: Arc<KeyRing>,
        schemas: Arc<Schemas>,
        lease: Option<(Arc<Leases>, Holder)>,
        index: Dedup,
        evidence: Arc<dyn Evidence>,
    ) -> Self {
        let (clock, ring) = (Arc::clone(sequencer.clock()), Arc::clone(&keys));
        Self {
            intake: Arc::new(Intake {
                clock: Arc::clone(&clock),
                random: Arc::clone(sequencer.random()),
                ids: Arc::clone(sequencer.ids()),
            }),
            rules: RuleBook::new(keys),
            schemas,
            room: Room::default(),
            records: Lanes::new(Arc::clone(sequencer), move |_| {
                let (clock, ring) = (Arc::clone(&clock), Arc::clone(&ring));
                Records::new(index.clone(), clock, ring, lease.clone())
            }),
            quarantine: Lanes::new(Arc::clone(sequencer), |_| Quarantine),
            evidence,
        }
    }

    /// Puts the records that an earlier process left in the log into the tables of these tenants.
    pub fn recover_records(&self, tenants: impl IntoIterator<Item = TenantId>) {
        self.records.recover(tenants);
    }

    /// The same for what was kept aside.
    pub fn recover_quarantine(&self, tenants: impl IntoIterator<Item = TenantId>) {
        self.quarantine.recover(tenants);
    }

    /// Takes nothing any more, and resolves when all of it is in the tables, or at `end`; gives how many tables lack
    /// something.
    pub async fn drain(&self, end: Instant) -> usize {
        let (records, quarantine) =
            tokio::join!(self.records.drain(end), self.quarantine.drain(end));
        records + quarantine
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
        let bytes = records.iter().map(IncomingRecord::bytes).sum();
        let _room = self.room.reserve(&decision.tenant, bytes).await?;
        // Before ids are given out: the lane knows which have been.
        let ready = self.records.ready(&decision.tenant);
        in_time(ready).await?.map_err(lane_error)?;
        let rules = self.rules.of(decision).await?;
        let checker = schema::checker(&self.schemas, decision).await?;
        let pinned = Pinned {
            decision: Arc::clone(decision),
            rules: Arc::clone(&rules),
            checker,
        };
        let mut request = Request::of(records.len());
        let taken = self.intake.take(pinned, records).await?;
        for (position, taken) in taken.into_iter().enumerate() {
            match taken {
                Ok(redacted) => request.add(position, redacted, &rules),
                Err(refused) => request.refuse(position, refused),
            }
        }
        let portions = std::mem::take(&mut request.portions);
        let dispositions = in_time(self.store(&decision.tenant, portions)).await??;
        request.settle(&self.intake.ids, decision, dispositions, mode);
        let aside = std::mem::take(&mut request.aside);
        let reasons = std::mem::take(&mut request.reasons);
        in_time(self.keep_aside(&decision.tenant, aside)).await??;
        in_time(self.witness(decision, reasons)).await??;
        permit.evidence_durable().await.map_err(Error::Denied)?;
        Ok(request.into_outcomes())
    }

    /// Stores a record that was kept aside, as it was redacted then, under a key that is this entry's alone: however often
    /// it is released, it is there once.
    async fn release(
        &self,
        decision: &Decision,
        entry: RecordId,
        mut stored: StoredRecord,
    ) -> Result<Receipt, Error> {
        let rules = self.rules.of(decision).await?;
        let policy_version = stored.policy_version.as_deref().map(PolicyVersion::parse);
        let policy_version = policy_version
            .and_then(Result::ok)
            .ok_or(Error::Unavailable)?;
        let key = release_digest(entry, &rules.payload_key);
        stored.key_digest = Some(digest_text(&key));
        stored.ingested_at = self.intake.clock.now();
        let payload = stored.payload_hash.as_deref();
        let candidate = Candidate {
            key,
            payload: payload.and_then(read_payload).ok_or(Error::Unavailable)?,
            leaf: leaf_hash(&stored).map_err(|_| Error::Unavailable)?,
            stored: Box::new(stored),
            policy_version,
        };
        let portion = Portion {
            bytes: 0,
            candidates: vec![candidate],
        };
        let stored = self.store(&decision.tenant, vec![portion]);
        match in_time(stored).await??.pop() {
            Some(Disposition::Stored(receipt)) => Ok(receipt),
            Some(Disposition::Mismatch { .. }) | None => Err(Error::Unavailable),
        }
    }

    async fn store(
        &self,
        tenant: &TenantId,
        portions: Vec<Portion>,
    ) -> Result<Vec<Disposition>, Error> {
        let mut answers = Vec::with_capacity(portions.len());
        for portion in portions {
            answers.push(self.records.submit(tenant, portion).map_err(lane_error)?);
        }
        let mut dispositions = Vec::new();
        for answer in answers {
            let answer = answer.await.map_err(|_| Error::Unavailable)?;
            dispositions.extend(answer.map_err(lane_error)?);
        }
        Ok(dispositions)
    }

    /// Returns once the rows are durable, and the evidence that says why they are there.
    async fn keep_aside(&self, tenant: &TenantId, rows: Vec<QuarantineRow>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let answer = self.quarantine.submit(tenant, rows).map_err(lane_error)?;
        let answer = answer.await.map_err(|_| Error::Unavailable)?;
        answer.map_err(lane_error)
    }

    /// Returns once there is durable evidence of why records were kept aside.
    async fn witness(
        &self,
        decision: &Decision,
        reasons: BTreeSet<QuarantineReason>,
    ) -> Result<(), Error> {
        let entries = reasons.into_iter().map(|reason| EvidenceEntry {
            decision: Verdict::Quarantine,
            slug: Some(reason.slug()),
            ts: self.intake.clock.now(),
            ..decision.entry(decision.operation.as_str())
        });
        let durable = try_join_all(entries.map(|entry| self.evidence.record(entry))).await;
        durable.map_err(|_| Error::Denied(Denial::EvidenceUnavailable))?;
        Ok(())
    }
}

async fn in_time<T>(step: impl Future<Output = T>) -> Result<T, Error> {
    let done = tokio::time::timeout(ANSWER_WAIT_MAX, step).await;
    done.map_err(|_| Error::Unavailable)
}

fn lane_error(error: LaneError) -> Error {
    match error {
        LaneError::KeyUnavailable => Error::KeyUnavailable,
        LaneError::Full => Error::Full,
        LaneError::Elsewhere => Error::Elsewhere,
        LaneError::Unavailable => Error::Unavailable,
        LaneError::Fault(_) => Error::Halted,
    }
}
