//! Records come in: parse, compare, redact, and then one commit for everyone who waits.
//!
//! ```text
//! incoming --read-->  AuditRecord            every violation at once
//!   |  tenant parity       another tenant in the body: quarantine
//!   |  redact              by the policy the permit is pinned to; nothing passes this line in clear
//!   v
//! Candidate  --lane-->  Receipt             known key: duplicate or mismatch; new key: a leaf and a row
//! ```
//! Acknowledged means committed: files and log entry are durable, and so is the evidence of the permit.

pub mod dedupe;
mod entries;
mod incoming;
mod intake;
mod lane;
mod outcome;
mod quarantine;
mod request;
mod review;
mod room;
mod rules;

use std::fmt;
use std::sync::Arc;

use catalog::clock::{Clock, Random};
use catalog::guard::{Decision, Permit, Write};
use catalog::ids::{PolicyVersion, RecordId, RecordIds};
use catalog::keys::KeyRing;
use tokio::sync::oneshot;

use crate::record::StoredRecord;
use crate::record::batch::QuarantineRow;
use crate::record::canonical::release_digest;
use crate::sequencer::{LaneError, Queue, Queues};
use crate::table::Tables;

use self::dedupe::Dedup;
use self::intake::Intake;
use self::lane::{Candidate, Disposition, RecordLane};
use self::quarantine::QuarantineLane;
use self::request::Request;
use self::room::Room;
use self::rules::RuleBook;

pub use self::incoming::IncomingRecord;
pub use self::outcome::{Error, Outcome, QuarantineReason, Receipt};
pub use self::review::{Decided, Entry, Filter, PAGE_MAX, Page, Review, ReviewError, State};

/// Records that are parsed and redacted before others get their turn.
const RECORDS_AT_ONCE: usize = 32;

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
    intake: Intake,
    rules: RuleBook,
    room: Room,
    index: Dedup,
    records: Queues<lane::Work, lane::Reply>,
    quarantine: Queues<quarantine::Work, quarantine::Reply>,
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
            intake: Intake { clock, random, ids },
            rules: RuleBook::new(keys),
            room: Room::default(),
            index: Dedup::in_memory(),
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
        let bytes = records.iter().map(IncomingRecord::bytes).sum();
        let _room = self.room.reserve(&decision.tenant, bytes).await?;
        let rules = self.rules.of(decision).await?;
        let mut request = Request::default();
        for (position, record) in records.into_iter().enumerate() {
            if position % RECORDS_AT_ONCE == RECORDS_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            match self.intake.take(decision, &rules, record)? {
                Ok(redacted) => request.add(position, redacted, &rules),
                Err(refused) => request.refuse(position, refused),
            }
        }
        let candidates = std::mem::take(&mut request.candidates);
        let dispositions = self.store(decision, candidates).await?;
        request.settle(&self.intake.ids, decision, dispositions, mode);
        let aside = std::mem::take(&mut request.aside);
        self.keep_aside(decision, aside).await?;
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
        stored.key_digest = Some(key.clone());
        stored.ingested_at = self.intake.clock.now();
        let candidate = Candidate {
            stored,
            key,
            policy_version,
        };
        match self.store(decision, vec![candidate]).await?.pop() {
            Some(Disposition::Stored(receipt)) => Ok(receipt),
            Some(Disposition::Mismatch { .. }) | None => Err(Error::Unavailable),
        }
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
            clock: Arc::clone(&self.intake.clock),
            index: self.index.clone(),
        });
        answer(&queue, work).await
    }

    async fn keep_aside(&self, decision: &Decision, rows: Vec<QuarantineRow>) -> Result<(), Error> {
        if rows.is_empty() {
            return Ok(());
        }
        let queue = self.quarantine.of(&decision.tenant, || QuarantineLane {
            tenant: decision.tenant.clone(),
            silo: decision.silo.clone(),
            tables: Arc::clone(&self.tables),
            clock: Arc::clone(&self.intake.clock),
        });
        answer(&queue, rows).await
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
